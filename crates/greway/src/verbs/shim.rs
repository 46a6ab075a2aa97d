//! `greway shim`: the names of other tools that reach greway.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use greway_control::location::Location;

/// `greway shim`
#[derive(Debug, Args)]
pub(crate) struct ShimArgs {}

/// Runs the verb.
pub(crate) fn run(_args: &ShimArgs, _location: &Location) -> anyhow::Result<ExitCode> {
    bail!("greway shim is being built")
}
