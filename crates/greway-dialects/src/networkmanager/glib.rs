//! GLib's key file syntax (GLib 2.74 gkeyfile.c): groups, keys and values with their places.
//!
//! `#` begins a comment only at the start of a line. Blanks round the `=` are left out, blanks at the end of a
//! value are kept. `\s \n \t \r \\` are the escapes; any other is an error, as it is to GLib's string reader.

use crate::diagnostic::Diagnostic;

/// `[name]` and what stands below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) line: u32,
    pub(super) entries: Vec<Entry>,
}

/// `key=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    /// With its escapes read.
    pub(super) value: String,
    pub(super) line: u32,
    pub(super) key_column: u32,
    /// Of the value.
    pub(super) column: u32,
}

/// Reads a key file. A group that is there twice is there twice; a key said twice in one group counts as said
/// last.
pub(super) fn read(text: &str, file: &str) -> Result<Vec<Group>, Diagnostic> {
    let mut groups = Vec::<Group>::new();
    for (index, raw) in text.lines().enumerate() {
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let line = raw.trim_start();
        let indent = raw.chars().count() - line.chars().count();
        let at = |column: usize, message: String| {
            Diagnostic::at(file, number, u32::try_from(indent + column + 1).unwrap_or(u32::MAX), message)
        };
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            let name = rest.trim_end().strip_suffix(']');
            let Some(name) = name.filter(|name| !name.is_empty() && !name.contains(['[', ']'])) else {
                return Err(at(0, format!("\"{}\" is no group; [NAME] is right", line.trim_end())));
            };
            groups.push(Group { name: name.to_owned(), line: number, entries: Vec::new() });
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            let message = format!("\"{}\" is no key with a value, no group and no comment", line.trim_end());
            return Err(at(0, message));
        };
        let Some(group) = groups.last_mut() else {
            return Err(at(0, "a key before the first group; [connection] belongs above it".to_owned()));
        };
        let blanks = value.chars().count() - value.trim_start().chars().count();
        let column = key.chars().count() + 1 + blanks;
        let key = key.trim_end();
        if key.is_empty() {
            return Err(at(0, "a value without a key".to_owned()));
        }
        let value = unescape(value.trim_start()).map_err(|escape| {
            at(column, format!("\"{escape}\" is no escape; \\s \\n \\t \\r and \\\\ are right"))
        })?;
        let column = |column: usize| u32::try_from(indent + column + 1).unwrap_or(u32::MAX);
        let start = raw.chars().count() - line.chars().count();
        let key_column = u32::try_from(start + 1).unwrap_or(u32::MAX);
        let value_column = column(line.chars().take_while(|c| *c != '=').count() + 1 + blanks);
        group.entries.retain(|entry| entry.key != key);
        group.entries.push(Entry {
            key: key.to_owned(),
            value,
            line: number,
            key_column,
            column: value_column,
        });
    }
    Ok(groups)
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        out.push(match rest.next() {
            Some('s') => ' ',
            Some('n') => '\n',
            Some('t') => '\t',
            Some('r') => '\r',
            Some('\\') => '\\',
            // In front of a list's separator; the lists read here have none inside.
            Some(';') => ';',
            Some(other) => return Err(format!("\\{other}")),
            None => return Err("\\".to_owned()),
        });
    }
    Ok(out)
}

/// Writes a value so that [`read`] gives it back: blanks at its start, and what would end the line, escaped.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::new();
    let mut leading = true;
    for c in text.chars() {
        match c {
            ' ' if leading => out += "\\s",
            '\t' if leading => out += "\\t",
            '\n' => out += "\\n",
            '\r' => out += "\\r",
            '\\' => out += "\\\\",
            c => out.push(c),
        }
        leading &= matches!(c, ' ' | '\t');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_comments_blanks_and_escapes() {
        let text = "# head\n\n[a]\n  key = v \n# x=1\nother=\\s\\sb\\\\\nkey=last\n[b]\n";
        let groups = read(text, "f").unwrap();
        let [a, b] = groups.as_slice() else { panic!("{groups:?}") };
        assert_eq!((a.name.as_str(), a.line, b.name.as_str()), ("a", 3, "b"));
        let shown = a.entries.iter().map(|e| (e.key.as_str(), e.value.as_str(), e.line, e.column));
        assert_eq!(shown.collect::<Vec<_>>(), [("other", "  b\\", 6, 7), ("key", "last", 7, 5)]);
        let first = read("[a]\n  key = v \n", "f").unwrap();
        let entry = &first[0].entries[0];
        assert_eq!((entry.value.as_str(), entry.key_column, entry.column), ("v ", 3, 9));
    }

    #[test]
    fn what_is_no_key_file_is_refused_with_its_place() {
        for (text, place, word) in [
            ("key=1\n", "f:1:1", "before the first group"),
            ("[a\n", "f:1:1", "no group"),
            ("[]\n", "f:1:1", "no group"),
            ("[a]\nkey\n", "f:2:1", "no key with a value"),
            ("[a]\n=1\n", "f:2:1", "without a key"),
            ("[a]\nk=a\\qb\n", "f:2:3", "\\q"),
            ("[a]\nk=a\\\n", "f:2:3", "no escape"),
        ] {
            let error = read(text, "f").unwrap_err().to_string();
            assert!(error.starts_with(place) && error.contains(word), "{text:?}: {error}");
        }
    }

    #[test]
    fn escaped_and_read_again() {
        for text in ["", "a", "  a b ", "\ta\tb", "a\nb\rc", "back\\slash", "ä;,="] {
            let read = read(&format!("[a]\nk={}\n", escape(text)), "f").unwrap();
            assert_eq!(read[0].entries[0].value, text, "{text:?}");
        }
    }
}
