//! `greway purge`: all that greway ever put on this host goes; what the package's removal does, by hand.
//!
//! Everything is tried and what failed is told at the end. Nothing is recognised by a name that anybody could have
//! chosen: devices and tables by their marks, shims and adoptions by what was written down when they were made,
//! units by where their links lead. Configuration stays unless `--config` says otherwise: it is the administrator's
//! work, and no tunnel starts from it by itself.

mod host;
mod namespaces;

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use greway_control::location::Location;
use greway_linux::process;

use super::{nm, shim};
use crate::output;

/// `greway purge`
#[derive(Debug, Args)]
#[command(after_help = "\
/etc/greway stays unless --config is given. What is not greway's is not touched: other tunnels, other
tables, links that somebody else made by a name of ours.")]
pub(crate) struct PurgeArgs {
    /// Print what would be done and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Remove the configuration too: /etc/greway
    #[arg(long, conflicts_with = "keep_config")]
    pub(crate) config: bool,
    /// Keep the configuration, as without this
    #[arg(long)]
    pub(crate) keep_config: bool,
}

/// What was done, and what could not be.
#[derive(Debug)]
struct Record {
    dry_run: bool,
    done: usize,
    failures: Vec<String>,
}

impl Record {
    /// Something that is done, or would be: `remove tunnel tun0`.
    fn line(&mut self, what: &str) {
        self.done += 1;
        output::line(&if self.dry_run { format!("would {what}") } else { what.to_owned() });
    }

    fn lines(&mut self, what: impl IntoIterator<Item = String>) {
        what.into_iter().for_each(|what| self.line(&what));
    }

    /// The lines of a step, or why it failed.
    fn step(&mut self, what: &str, outcome: anyhow::Result<Vec<String>>) {
        match outcome {
            Ok(lines) => self.lines(lines),
            Err(error) => self.fail(format!("{what}: {}", crate::sentence(&error))),
        }
    }

    fn fail(&mut self, why: String) {
        self.failures.push(why);
    }

    /// Does something that may fail, unless it is only to be told; told is what is done.
    fn act(&mut self, what: &str, act: impl FnOnce() -> anyhow::Result<()>) {
        match if self.dry_run { Ok(()) } else { act() } {
            Ok(()) => self.line(what),
            Err(error) => self.fail(format!("{what}: {}", crate::sentence(&error))),
        }
    }
}

/// Runs the verb. A host where nothing is left is no error.
pub(crate) fn run(args: &PurgeArgs, location: &Location) -> anyhow::Result<ExitCode> {
    if process::effective_uid() != 0 {
        bail!("removing what greway put on this host needs root: run the command with sudo");
    }
    let mut record = Record { dry_run: args.dry_run, done: 0, failures: Vec::new() };
    // Who would make again what goes next: the watcher, and what starts tunnels.
    host::stop_units(&mut record, host::Part::Clients);
    record.step("NetworkManager's profiles", nm::unadopt_all(args.dry_run));
    record.step("the shims", shim::remove_all(args.dry_run));
    namespaces::purge(&mut record, location);
    host::stop_units(&mut record, host::Part::Daemon);
    host::disable_units(&mut record);
    host::remove_folders(&mut record, args.config);
    match (record.done, record.failures.is_empty()) {
        (0, true) => output::line("nothing of greway's is on this host"),
        (_, true) if !args.config && host::has_configuration() => {
            output::note("/etc/greway stays; `greway purge --config` removes it too");
        }
        _ => {}
    }
    for failure in &record.failures {
        output::error(failure);
    }
    Ok(if record.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
