//! `greway check`: what stops traffic, and the command that cures it.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use greway_control::location::Location;

/// `greway check`
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {}

/// Runs the verb.
pub(crate) fn run(_args: &CheckArgs, _location: &Location) -> anyhow::Result<ExitCode> {
    bail!("greway check is being built")
}
