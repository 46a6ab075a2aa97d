//! `greway purge`: all that greway ever put on this host goes.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use greway_control::location::Location;

/// `greway purge`
#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {}

/// Runs the verb.
pub(crate) fn run(_args: &PurgeArgs, _location: &Location) -> anyhow::Result<ExitCode> {
    bail!("greway purge is being built")
}
