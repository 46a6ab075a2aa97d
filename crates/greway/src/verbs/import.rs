//! `greway import`: a tunnel of another dialect as greway's TOML.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use greway_control::location::Location;

/// `greway import`
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {}

/// Runs the verb.
pub(crate) fn run(_args: &ImportArgs, _location: &Location) -> anyhow::Result<ExitCode> {
    bail!("greway import is being built")
}
