//! A value together with the place where somebody wrote it.

use std::fmt;
use std::sync::Arc;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span {
    /// On a command line.
    Argument {
        /// Index among the words, from 0.
        position: usize,
    },
    /// In a file.
    File {
        /// The file's name as the user gave it.
        file: Arc<str>,
        /// Line, from 1.
        line: u32,
        /// Column in characters, from 1.
        column: u32,
    },
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument { position } => write!(f, "word {}", position + 1),
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
        }
    }
}

/// A value somebody gave, and where, as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub span: Option<Span>,
}

impl<T> Given<T> {
    /// A value with its place.
    pub fn at(value: T, span: Span) -> Self {
        Self { value, span: Some(span) }
    }
}

impl<T> From<T> for Given<T> {
    fn from(value: T) -> Self {
        Self { value, span: None }
    }
}
