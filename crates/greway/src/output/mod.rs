//! What people see: the only place that prints.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is where output is made")]

pub(crate) mod check;
pub(crate) mod inspect;
pub(crate) mod status;

use std::io::Write;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// How long nothing may be said while something is done.
pub(crate) const SILENCE: Duration = Duration::from_secs(1);

/// Something the user should know though nothing is wrong; to stderr, so that output stays clean.
pub(crate) fn note(text: &str) {
    eprintln!("greway: {text}");
}

/// Runs `work`, and says what is waited for when that takes long enough for anybody to wonder.
pub(crate) fn waiting<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (done, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if ended.recv_timeout(SILENCE) == Err(RecvTimeoutError::Timeout) {
                note(&format!("waiting for {what}"));
            }
        });
        let result = work();
        drop(done);
        result
    })
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

/// What kept a personality from its work; the tool's own messages are printed as they are.
pub(crate) fn tool_error(tool: &str, text: &str) {
    eprintln!("{tool}: greway: {text}");
}

/// Text for stderr as it is, such as another tool's own words.
pub(crate) fn raw_error(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Bytes for stdout as they are.
pub(crate) fn raw(bytes: &[u8]) {
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

/// How far something is: one line on stderr that the next one replaces; an empty one takes it away.
pub(crate) fn progress(text: &str) {
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
}
