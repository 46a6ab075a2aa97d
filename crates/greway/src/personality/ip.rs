//! `ip`: GRE commands here, all else by the real one.

use std::process::ExitCode;

/// Runs in its place.
pub(super) fn run() -> ExitCode {
    ExitCode::FAILURE
}
