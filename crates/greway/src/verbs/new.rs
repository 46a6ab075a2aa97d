//! `greway new`: a tunnel from its two ends.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use greway_control::location::Location;

/// `greway new`
#[derive(Debug, Args)]
pub(crate) struct NewArgs {}

/// Runs the verb.
pub(crate) fn run(_args: &NewArgs, _location: &Location) -> anyhow::Result<ExitCode> {
    bail!("greway new is being built")
}
