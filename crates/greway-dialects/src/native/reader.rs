//! TOML values with their places, and errors about them.

use std::fmt::Display;
use std::ops::Range;
use std::sync::Arc;

use greway_spec::{DeviceName, Given, Span};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostic, Warning, place};
use crate::nearest::nearest;

/// What all readers of one file share.
pub(super) struct Reader<'f> {
    pub(super) text: &'f str,
    pub(super) file: Arc<str>,
    /// Named in errors once it is known.
    pub(super) tunnel: Option<DeviceName>,
    pub(super) warnings: Vec<Warning>,
}

/// A table of the file.
pub(super) struct Table<'t> {
    pub(super) entries: &'t DeTable<'t>,
    /// What stands before its keys in messages: `` or `inner.`.
    pub(super) path: &'static str,
}

/// A value with its key, or an item of an array with the array's key.
#[derive(Clone)]
pub(super) struct Entry<'t> {
    pub(super) path: &'static str,
    pub(super) name: &'static str,
    pub(super) spanned: &'t Spanned<DeValue<'t>>,
}

impl<'t> Entry<'t> {
    pub(super) fn value(&self) -> &'t DeValue<'t> {
        self.spanned.get_ref()
    }

    /// The items of an array.
    pub(super) fn items(&self) -> Option<impl Iterator<Item = Self> + use<'t>> {
        let (path, name) = (self.path, self.name);
        let items = self.value().as_array()?;
        Some(items.iter().map(move |spanned| Self { path, name, spanned }))
    }
}

impl<'t> Table<'t> {
    pub(super) fn entry(&self, name: &'static str) -> Option<Entry<'t>> {
        self.entries.get(name).map(|spanned| Entry { path: self.path, name, spanned })
    }

    pub(super) fn read<T>(
        &self,
        name: &'static str,
        read: impl FnOnce(Entry<'t>) -> Result<T, Diagnostic>,
    ) -> Result<Option<T>, Diagnostic> {
        self.entry(name).map(read).transpose()
    }

    /// Refuses the first key of the file that is not among `known`.
    pub(super) fn only(&self, reader: &Reader<'_>, known: &[&'static str]) -> Result<(), Diagnostic> {
        /// Tables and keys of greway.toml, which look at home in a tunnel's file.
        const OF_THE_HOST: [&str; 7] =
            ["daemon", "shim", "tools", "port_unreachable", "fast_path", "steer", "busy_poll"];
        let unknown = self.entries.keys().filter(|key| !known.contains(&key.get_ref().as_ref()));
        let Some(key) = unknown.min_by_key(|key| key.span().start) else { return Ok(()) };
        let word = key.get_ref();
        let message = format!("unknown key \"{}{word}\"", self.path);
        let diagnostic = reader.error_at(key.span(), message);
        let word = word.replace('-', "_");
        Err(match nearest(&word, known) {
            _ if self.path.is_empty() && OF_THE_HOST.contains(&word.as_str()) => diagnostic
                .help("it is about the host and not about one tunnel; its place is /etc/greway/greway.toml"),
            Some(near) => diagnostic.help(format!("is \"{near}\" meant?")),
            None => diagnostic.help(format!("the keys here are {}", known.join(", "))),
        })
    }
}

impl Reader<'_> {
    pub(super) fn given<T>(&self, entry: &Entry<'_>, value: T) -> Given<T> {
        let (line, column) = place(self.text, entry.spanned.span().start);
        Given::at(value, Span::File { file: Arc::clone(&self.file), line, column })
    }

    pub(super) fn string(&self, entry: &Entry<'_>) -> Result<Given<String>, Diagnostic> {
        match entry.value().as_str() {
            Some(text) => Ok(self.given(entry, text.to_owned())),
            None => Err(self.wrong_type(entry, "a string")),
        }
    }

    pub(super) fn boolean(&self, entry: &Entry<'_>) -> Result<Given<bool>, Diagnostic> {
        match entry.value().as_bool() {
            Some(on) => Ok(self.given(entry, on)),
            None => Err(self.wrong_type(entry, "true or false")),
        }
    }

    pub(super) fn integer(&self, entry: &Entry<'_>) -> Result<i64, Diagnostic> {
        let Some(integer) = entry.value().as_integer() else {
            return Err(self.wrong_type(entry, "a number"));
        };
        i64::from_str_radix(integer.as_str(), integer.radix())
            .map_err(|_overflow| self.bad(entry, self.source(entry), "a smaller number is right"))
    }

    /// The value as it stands in the file.
    pub(super) fn source(&self, entry: &Entry<'_>) -> String {
        let source = self.text.get(entry.spanned.span()).unwrap_or_default();
        source.trim_matches(|quote| quote == '"' || quote == '\'').to_owned()
    }

    pub(super) fn wrong_type(&self, entry: &Entry<'_>, right: &str) -> Diagnostic {
        self.bad(entry, self.source(entry), &format!("{right} is right"))
    }

    /// `KEY "VALUE" is wrong: what would be right`.
    pub(super) fn bad(&self, entry: &Entry<'_>, value: impl Display, right: &str) -> Diagnostic {
        self.error(entry, format!("{}{} \"{value}\" is wrong: {right}", entry.path, entry.name))
    }

    pub(super) fn error(&self, entry: &Entry<'_>, message: impl Display) -> Diagnostic {
        self.error_at(entry.spanned.span(), message)
    }

    fn error_at(&self, span: Range<usize>, message: impl Display) -> Diagnostic {
        let (line, column) = place(self.text, span.start);
        let object = self.tunnel.as_ref().map_or_else(String::new, |name| format!("tunnel {name}: "));
        Diagnostic::at(&self.file, line, column, format!("{object}{message}"))
    }

    pub(super) fn warning(&self, entry: &Entry<'_>, message: impl Display) -> Warning {
        let Diagnostic { file, line, column, message, .. } = self.error(entry, message);
        Warning { file, line, column, message }
    }
}
