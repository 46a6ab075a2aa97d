//! What people see: the only place that prints.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is where output is made")]

pub(crate) mod status;

use std::io::Write;

/// Something the user should know though nothing is wrong; to stderr, so that output stays clean.
pub(crate) fn note(text: &str) {
    eprintln!("greway: {text}");
}

/// Something that works, but perhaps not as meant.
pub(crate) fn warning(text: &str) {
    eprintln!("greway: warning: {text}");
}

/// What went wrong.
pub(crate) fn error(text: &str) {
    eprintln!("greway: {text}");
}

/// One line of the answer. A reader that went away (`| head`) is no error.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
