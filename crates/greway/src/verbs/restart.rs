//! `greway restart`: down and up again.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use greway_control::location::Location;

/// `greway restart`
#[derive(Debug, Args)]
pub(crate) struct RestartArgs {}

/// Runs the verb.
pub(crate) fn run(_args: &RestartArgs, _location: &Location) -> anyhow::Result<ExitCode> {
    bail!("greway restart is being built")
}
