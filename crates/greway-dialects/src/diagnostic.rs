//! What is wrong with a file, and where.

use std::fmt;

use greway_spec::{Span, SpecError};

/// An error in a file. Prints as `file:line:column: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file's name as the user gave it.
    pub file: String,
    /// Line, from 1; 0: the file as a whole.
    pub line: u32,
    /// Column in characters, from 1; 0: the line as a whole.
    pub column: u32,
    /// What is wrong: object, value, what would be right.
    pub message: String,
    /// What to do, where that is worth a line of its own.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error about a place in a file.
    pub fn at(file: &str, line: u32, column: u32, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, column, message: message.into(), help: None }
    }

    /// The same with a line of advice.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// What [`greway_spec::Draft::into_spec`] said about a draft that came from `file`.
    pub fn from_spec_error(error: &SpecError, file: &str) -> Self {
        match &error.span {
            Some(Span::File { file, line, column }) => Self::at(file, *line, *column, error.to_string()),
            Some(Span::Argument { .. }) | None => Self::at(file, 0, 0, error.to_string()),
        }
    }

    /// The message, the line of `text` it is about with a caret under the place, and the advice.
    /// `text` is the whole file. Ends with a newline.
    pub fn render(&self, text: &str) -> String {
        let mut out = format!("{self}\n");
        let line = (self.line as usize).checked_sub(1).and_then(|index| text.lines().nth(index));
        if let (Some(line), true) = (line, self.column > 0) {
            let number = self.line.to_string();
            let column = self.column as usize - 1;
            // Of a long line what is around the place.
            let first = column.saturating_sub(LONGEST_EXCERPT / 2);
            let shown = line.chars().skip(first).take(LONGEST_EXCERPT).map(visible).collect::<String>();
            let (left, right) = (first > 0, line.chars().nth(first + LONGEST_EXCERPT).is_some());
            let line = format!("{}{shown}{}", if left { "…" } else { "" }, if right { "…" } else { "" });
            // Tabs stay tabs, so that the caret stands under its character.
            let before = line.chars().take(column - first + usize::from(left));
            let indent: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            out += &format!("{number} | {line}\n{:width$} | {indent}^\n", "", width = number.len());
        }
        if let Some(help) = &self.help {
            out += &format!("help: {help}\n");
        }
        out
    }
}

/// The longest part of a line that is shown, in characters.
const LONGEST_EXCERPT: usize = 160;

/// A character of a file as a terminal may have it: one that would steer it, or that nobody would see, as another.
fn visible(c: char) -> char {
    match c {
        '\t' => c,
        '\u{feff}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' => char::REPLACEMENT_CHARACTER,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

/// A message, which may quote a file, as a terminal may have it.
pub(crate) fn printable(message: &str) -> String {
    message.chars().map(|c| if c == '\n' { c } else { visible(c) }).collect()
}

/// What is said of a text that begins with a byte order mark (U+FEFF), which its readers do not know.
pub(crate) fn refuse_mark(text: &str, file: &str) -> Result<(), Diagnostic> {
    if !text.starts_with('\u{feff}') {
        return Ok(());
    }
    let message = "a byte order mark, which cannot be seen, stands before the first word; take it out";
    let command = format!("sed -i '1s/^\\xEF\\xBB\\xBF//' {}", crate::shell::word(file));
    Err(Diagnostic::at(file, 1, 1, message).help(command))
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_place(f, &self.file, self.line, self.column)?;
        write!(f, ": {}", printable(&self.message))
    }
}

impl std::error::Error for Diagnostic {}

/// Something the user should know although it works. Prints as `file:line: warning: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The file's name as the user gave it.
    pub file: String,
    /// Line, from 1; 0: the file as a whole.
    pub line: u32,
    /// Column in characters, from 1; 0: the line as a whole.
    pub column: u32,
    /// What it is.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_place(f, &self.file, self.line, self.column)?;
        write!(f, ": warning: {}", printable(&self.message))
    }
}

fn write_place(f: &mut fmt::Formatter<'_>, file: &str, line: u32, column: u32) -> fmt::Result {
    match (line, column) {
        (0, _) => f.write_str(file),
        (line, 0) => write!(f, "{file}:{line}"),
        (line, column) => write!(f, "{file}:{line}:{column}"),
    }
}

/// Line and column, both from 1 and the column in characters, of a byte offset into `text`.
pub(crate) fn place(text: &str, offset: usize) -> (u32, u32) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before[start..].chars().count() + 1;
    (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters() {
        assert_eq!(place("a\nbc", 0), (1, 1));
        assert_eq!(place("a\nbc", 3), (2, 2));
        assert_eq!(place("ä = 1", "ä".len()), (1, 2));
        assert_eq!(place("a\n", 99), (2, 1));
    }

    #[test]
    fn rendered_with_a_caret() {
        let text = "name = \"tun0\"\n\tremot = 1\n";
        let diagnostic = Diagnostic::at("t.toml", 2, 2, "unknown key \"remot\"").help("is \"remote\" meant?");
        assert_eq!(diagnostic.to_string(), "t.toml:2:2: unknown key \"remot\"");
        assert_eq!(
            diagnostic.render(text),
            "t.toml:2:2: unknown key \"remot\"\n2 | \tremot = 1\n  | \t^\nhelp: is \"remote\" meant?\n"
        );
        assert_eq!(Diagnostic::at("t.toml", 0, 0, "empty").render(text), "t.toml: empty\n");
    }

    #[test]
    fn what_a_terminal_would_take_for_an_order_is_not_shown() {
        let text = "TTL=\u{1b}]0;x\u{7}\n";
        let shown = Diagnostic::at("f", 1, 5, "TTL \"\u{1b}]0;x\u{7}\" is wrong").render(text);
        assert_eq!(
            shown,
            "f:1:5: TTL \"\u{fffd}]0;x\u{fffd}\" is wrong\n1 | TTL=\u{fffd}]0;x\u{fffd}\n  |     ^\n"
        );
    }

    #[test]
    fn of_a_long_line_the_place_is_shown() {
        let text = format!("{}!{}", "a".repeat(1000), "b".repeat(1000));
        let shown = Diagnostic::at("f", 1, 1001, "no").render(&text);
        let lines = shown.lines().collect::<Vec<_>>();
        let caret = lines[2].chars().position(|c| c == '^').unwrap();
        assert_eq!(lines[1].chars().nth(caret), Some('!'), "{shown}");
        assert!(
            lines[1].chars().count() < 170 && lines[1].ends_with('…') && lines[1].contains("…a"),
            "{shown}"
        );
        let first = Diagnostic::at("f", 1, 1, "no").render(&text);
        assert!(first.contains("1 | aaa") && first.contains("| ^"), "{first}");
    }

    #[test]
    fn a_byte_order_mark_is_named() {
        let wrong = refuse_mark("\u{feff}TYPE=GRE\n", "it's").unwrap_err();
        assert_eq!((wrong.line, wrong.column), (1, 1));
        assert_eq!(wrong.help.as_deref(), Some("sed -i '1s/^\\xEF\\xBB\\xBF//' 'it'\\''s'"));
        assert!(refuse_mark("TYPE=GRE\n", "f").is_ok());
    }
}
