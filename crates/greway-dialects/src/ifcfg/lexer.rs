//! The safe subset of the shell: assignments of plain text, one a line.
//!
//! ```text
//! [blanks] [export blanks] NAME=VALUE [blanks] [;] [blanks] [# comment]
//! ```
//!
//! A value is a run of unquoted text with backslashes, `'…'`, `"…"` and `$'…'`. Refused: anything the
//! shell would expand or run, quotes and continuations over a line's end, and a second command.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Warning};

/// A variable of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) value: String,
    /// The file it is set in.
    pub(super) file: Arc<str>,
    /// Of the value's first character; both from 1, or 0 where they are not known.
    pub(super) line: u32,
    pub(super) column: u32,
}

/// The variables of a file by name.
pub(super) type Variables = BTreeMap<String, Variable>;

/// Reads a file of assignments; the last of several to one name holds, with a warning.
pub(super) fn read(text: &str, file: &str, warnings: &mut Vec<Warning>) -> Result<Variables, Diagnostic> {
    let mut variables = Variables::new();
    let file: Arc<str> = Arc::from(file);
    for (number, line) in (1..).zip(text.split('\n')) {
        let (column, assignment) = assignment(line);
        let assignment = assignment.map_err(|message| {
            Diagnostic::at(&file, number, column, message)
                .help("only plain NAME=VALUE lines are read; nothing is expanded or run")
        })?;
        let Some((name, value, column)) = assignment else { continue };
        let variable = Variable { value, file: Arc::clone(&file), line: number, column };
        if let Some(first) = variables.insert(name.clone(), variable) {
            let message = format!("{name} is set in line {} too; this line holds", first.line);
            warnings.push(Warning { file: file.to_string(), line: number, column: 0, message });
        }
    }
    Ok(variables)
}

/// Name and value of each line that is a plain assignment; all other lines are passed over. For telling
/// what a file is about before it is read in earnest.
pub(super) fn plain(text: &str) -> impl Iterator<Item = (String, String)> {
    text.split('\n').filter_map(|line| {
        let (name, value, _) = assignment(line.trim_end_matches('\r')).1.ok().flatten()?;
        Some((name, value))
    })
}

/// A text with the lines left out that assign, in whatever way, to a variable that nobody here reads.
/// Line numbers stay.
pub(super) fn only(text: &str, wanted: impl Fn(&str) -> bool) -> String {
    let keep = |line: &str| {
        let mut cursor = Cursor { rest: line, column: 1 };
        cursor.blanks();
        match cursor.name() {
            Ok(name) => !cursor.rest.starts_with('=') || wanted(&name),
            Err(_) => true,
        }
    };
    text.split('\n').map(|line| if keep(line) { line } else { "" }).collect::<Vec<_>>().join("\n")
}

/// Where reading a line ended, and what it assigns: name, value and the value's column.
#[expect(clippy::type_complexity, reason = "private to this file")]
fn assignment(line: &str) -> (u32, Result<Option<(String, String, u32)>, String>) {
    let mut cursor = Cursor { rest: line, column: 1 };
    let assignment = cursor.assignment();
    (cursor.column, assignment)
}

struct Cursor<'l> {
    rest: &'l str,
    column: u32,
}

impl Cursor<'_> {
    /// Name, value and the value's column; `None` for a line without an assignment.
    fn assignment(&mut self) -> Result<Option<(String, String, u32)>, String> {
        self.blanks();
        if self.rest.is_empty() || self.rest.starts_with('#') {
            return Ok(None);
        }
        if self.rest == "\r" {
            return Err(DOS.to_owned());
        }
        let mut name = self.name()?;
        if name == "export" && self.rest.starts_with(BLANK) {
            self.blanks();
            name = self.name()?;
        }
        if !self.eat('=') {
            return Err(format!("{name} is not followed by \"=\": NAME=VALUE without blanks is right"));
        }
        let column = self.column;
        let value = self.value()?;
        self.end(&name)?;
        Ok(Some((name, value, column)))
    }

    fn name(&mut self) -> Result<String, String> {
        let word = |c: char| c == '_' || c.is_ascii_alphanumeric();
        let length = self.rest.find(|c| !word(c)).unwrap_or(self.rest.len());
        let name = self.rest[..length].to_owned();
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err("no assignment: NAME=VALUE is right".to_owned());
        }
        self.advance(length);
        Ok(name)
    }

    fn value(&mut self) -> Result<String, String> {
        // Bytes, because $'\xc3\xa4' makes one character of two escapes.
        let mut value = Vec::new();
        if self.rest.starts_with('~') {
            return Err("\"~\" would be expanded by the shell; quote it".to_owned());
        }
        while let Some(c) = self.rest.chars().next() {
            match c {
                ' ' | '\t' | ';' => break,
                '\r' => return Err(DOS.to_owned()),
                '\'' => {
                    self.advance(1);
                    value.extend_from_slice(self.until_quote()?.as_bytes());
                }
                '"' => {
                    self.advance(1);
                    self.double_quoted(&mut value)?;
                }
                '$' if self.rest.starts_with("$'") => {
                    self.advance(2);
                    self.c_quoted(&mut value)?;
                }
                '$' | '`' => return Err(format!("\"{c}\" would be expanded by the shell; put it into '…'")),
                '|' | '&' | '(' | ')' | '<' | '>' => {
                    return Err(format!("\"{c}\" has a meaning to the shell; put it into quotes"));
                }
                '\\' => {
                    self.advance(1);
                    let Some(escaped) = self.take() else {
                        return Err("a line that goes on in the next is not read; join them".to_owned());
                    };
                    push(&mut value, escaped);
                }
                _ => {
                    self.advance(c.len_utf8());
                    push(&mut value, c);
                }
            }
        }
        String::from_utf8(value).map_err(|_invalid| "the value is no UTF-8 text".to_owned())
    }

    fn until_quote(&mut self) -> Result<String, String> {
        let Some(end) = self.rest.find('\'') else { return Err(unterminated("'")) };
        let inside = self.rest[..end].to_owned();
        self.advance(end + 1);
        Ok(inside)
    }

    fn double_quoted(&mut self, value: &mut Vec<u8>) -> Result<(), String> {
        loop {
            match self.rest.chars().next() {
                None => return Err(unterminated("\"")),
                Some('"') => {
                    self.advance(1);
                    return Ok(());
                }
                Some(c @ ('$' | '`')) => {
                    return Err(format!("\"{c}\" would be expanded by the shell; put it into '…'"));
                }
                Some('\\') => {
                    self.advance(1);
                    match self.take() {
                        None => return Err(unterminated("\"")),
                        Some(c @ ('$' | '`' | '"' | '\\')) => push(value, c),
                        Some(c) => {
                            value.push(b'\\');
                            push(value, c);
                        }
                    }
                }
                Some(c) => {
                    self.advance(c.len_utf8());
                    push(value, c);
                }
            }
        }
    }

    fn c_quoted(&mut self, value: &mut Vec<u8>) -> Result<(), String> {
        loop {
            match self.take() {
                None => return Err(unterminated("'")),
                Some('\'') => return Ok(()),
                Some('\\') => self.c_escape(value)?,
                Some(c) => push(value, c),
            }
        }
    }

    fn c_escape(&mut self, value: &mut Vec<u8>) -> Result<(), String> {
        let Some(c) = self.rest.chars().next() else { return Err(unterminated("'")) };
        let code = match c {
            'a' => 0x07,
            'b' => 0x08,
            'e' | 'E' => 0x1b,
            'f' => 0x0c,
            'n' => 0x0a,
            'r' => 0x0d,
            't' => 0x09,
            'v' => 0x0b,
            '\\' | '\'' | '"' | '?' => c as u32,
            '0'..='7' => {
                let byte = self.digits(8, 3) & 0xff;
                return not_nul(byte).map(|byte| value.push(byte as u8));
            }
            'x' => {
                self.advance(1);
                return not_nul(self.digits(16, 2)).map(|byte| value.push(byte as u8));
            }
            'u' | 'U' => {
                self.advance(1);
                let code = self.digits(16, if c == 'u' { 4 } else { 8 });
                let c = char::from_u32(not_nul(code)?).ok_or("an escape names no character")?;
                push(value, c);
                return Ok(());
            }
            _ => return Err(format!("\"\\{c}\" is no escape that is read here")),
        };
        self.advance(1);
        value.push(code as u8);
        Ok(())
    }

    /// The number of at most `most` digits that comes next; 0 where none does.
    fn digits(&mut self, base: u32, most: usize) -> u32 {
        let length = self.rest.chars().take(most).take_while(|c| c.is_digit(base)).count();
        let number = u32::from_str_radix(&self.rest[..length], base).unwrap_or(0);
        self.advance(length);
        number
    }

    /// What may follow a value: blanks, one semicolon, a comment.
    fn end(&mut self, name: &str) -> Result<(), String> {
        let mut separated = self.rest.starts_with(BLANK);
        self.blanks();
        if self.eat(';') {
            separated = true;
            self.blanks();
        }
        if self.rest.is_empty() || separated && self.rest.starts_with('#') {
            return Ok(());
        }
        if self.rest == "\r" {
            return Err(DOS.to_owned());
        }
        Err(format!("something follows the value of {name}; quote a value with blanks"))
    }

    fn blanks(&mut self) {
        let length = self.rest.find(|c| !BLANK.contains(&c)).unwrap_or(self.rest.len());
        self.advance(length);
    }

    fn eat(&mut self, wanted: char) -> bool {
        let there = self.rest.starts_with(wanted);
        if there {
            self.advance(wanted.len_utf8());
        }
        there
    }

    fn take(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.advance(c.len_utf8());
        Some(c)
    }

    fn advance(&mut self, bytes: usize) {
        let (passed, rest) = self.rest.split_at(bytes);
        self.column += passed.chars().count() as u32;
        self.rest = rest;
    }
}

const BLANK: [char; 2] = [' ', '\t'];
const DOS: &str = "a carriage return: the file has DOS line ends; convert them to Unix ones";

fn push(value: &mut Vec<u8>, c: char) {
    value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn unterminated(quote: &str) -> String {
    format!("the quote {quote} is not closed in this line")
}

fn not_nul(code: u32) -> Result<u32, String> {
    if code == 0 {
        Err("an escape for the NUL character, which no value can hold".to_owned())
    } else {
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<String, String> {
        let mut warnings = Vec::new();
        match read(text, "f", &mut warnings) {
            Ok(variables) => Ok(variables["KEY"].value.clone()),
            Err(diagnostic) => Err(diagnostic.to_string()),
        }
    }

    #[test]
    fn what_bash_would_assign() {
        for (text, expected) in [
            ("KEY=42", "42"),
            ("KEY=\"42\" # c", "42"),
            ("KEY='42'", "42"),
            ("KEY=42;", "42"),
            ("KEY=42 ; # c", "42"),
            ("KEY=42;# c", "42"),
            ("  export\tKEY=42  ", "42"),
            ("KEY=", ""),
            ("KEY= # c", ""),
            ("KEY=4#2", "4#2"),
            ("KEY=a\\ b\\\"", "a b\""),
            ("KEY='a\\n$b'", "a\\n$b"),
            ("KEY=\"a\\$b\\`\\\"\\\\\\n\"", "a$b`\"\\\\n"),
            ("KEY=$'a\\tb\\x41\\101\\u00e4\\xc3\\xa4\\''", "a\tbAAää'"),
            ("KEY=a'b'\"c\"d", "abcd"),
            ("KEY=ä", "ä"),
            ("# KEY=1\n\nKEY=2\n", "2"),
            ("KEY=1\nKEY=2", "2"),
        ] {
            assert_eq!(value(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_only_bash_may_read() {
        for (text, place) in [
            ("KEY=$HOME", "f:1:5"),
            ("\nKEY=\"a$b\"", "f:2:7"),
            ("KEY=`id`", "f:1:5"),
            ("KEY=\"`id`\"", "f:1:6"),
            ("KEY=$\"x\"", "f:1:5"),
            ("KEY=a&b", "f:1:6"),
            ("KEY=(a b)", "f:1:5"),
            ("KEY=a|b", "f:1:6"),
            ("KEY=a>b", "f:1:6"),
            ("KEY=~/x", "f:1:5"),
            ("KEY=a\\", "f:1:7"),
            ("KEY='a", "f:1:6"),
            ("KEY=\"a", "f:1:7"),
            ("KEY=$'a", "f:1:8"),
            ("KEY=$'\\0'", "f:1:9"),
            ("KEY=$'\\xff'", "f:1:12"),
            ("KEY=1 rm", "f:1:7"),
            ("KEY=1; A=2", "f:1:8"),
            ("KEY=1;;", "f:1:7"),
            ("KEY = 1", "f:1:4"),
            ("KEY+=1", "f:1:4"),
            ("export KEY", "f:1:11"),
            ("if true; then", "f:1:3"),
            (". /etc/x", "f:1:1"),
            ("9KEY=1", "f:1:1"),
            ("KEY=1\r", "f:1:6"),
            ("KEY=1 \r", "f:1:7"),
            ("\r\nKEY=1", "f:1:1"),
        ] {
            let message = value(text).expect_err(text);
            assert!(message.starts_with(&format!("{place}: ")), "{text:?}: {message}");
        }
    }

    #[test]
    fn the_second_assignment_is_mentioned() {
        let mut warnings = Vec::new();
        read("A=1\nA=2\n", "f", &mut warnings).unwrap();
        assert_eq!(warnings.len(), 1);
        assert_eq!(warnings[0].to_string(), "f:2: warning: A is set in line 1 too; this line holds");
    }
}
