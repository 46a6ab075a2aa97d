//! `nmcli`: GRE profiles where there is no NetworkManager.

use std::process::ExitCode;

/// Runs in its place.
pub(super) fn run() -> ExitCode {
    ExitCode::FAILURE
}
