//! `greway export`: a tunnel in another dialect.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use greway_control::location::Location;

/// `greway export`
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {}

/// Runs the verb.
pub(crate) fn run(_args: &ExportArgs, _location: &Location) -> anyhow::Result<ExitCode> {
    bail!("greway export is being built")
}
