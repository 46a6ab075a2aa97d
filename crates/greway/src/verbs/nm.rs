//! `greway nm`: NetworkManager's profiles.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use greway_control::location::Location;

/// `greway nm`
#[derive(Debug, Args)]
pub(crate) struct NmArgs {}

/// Runs the verb.
pub(crate) fn run(_args: &NmArgs, _location: &Location) -> anyhow::Result<ExitCode> {
    bail!("greway nm is being built")
}
