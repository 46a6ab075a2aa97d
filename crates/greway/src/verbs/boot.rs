//! `greway boot`: start tunnels at boot, or no longer.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use greway_control::location::Location;

/// `greway boot`
#[derive(Debug, Args)]
pub(crate) struct BootArgs {}

/// Runs the verb.
pub(crate) fn run(_args: &BootArgs, _location: &Location) -> anyhow::Result<ExitCode> {
    bail!("greway boot is being built")
}
