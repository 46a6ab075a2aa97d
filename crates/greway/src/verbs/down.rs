//! `greway down`: a tunnel and all that belongs to it goes.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use greway_control::api::{Reply, Request};
use greway_control::location::Location;
use greway_control::start;
use greway_spec::DeviceName;

use super::up::Source;
use crate::output;

/// `greway down`
#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    /// The tunnel, or the file that it came from
    pub(crate) source: String,
    /// Print what would be done and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Runs the verb. A tunnel that is down already is no error.
pub(crate) fn run(args: &DownArgs, location: &Location) -> anyhow::Result<ExitCode> {
    let name = name_of(&args.source)?;
    let left_over = location.state.join(format!("{name}.json")).exists();
    let mut client = match start::find(location)? {
        Some(client) => client,
        None if left_over => super::connect(location)?,
        None => {
            output::line(&format!("{name} is not up"));
            return Ok(ExitCode::SUCCESS);
        }
    };
    let Reply::Tunnels(tunnels) = start::ask(&mut client, location, &Request::List)? else {
        return Err(client.unexpected()).context("a list was asked for");
    };
    if !tunnels.iter().any(|spec| spec.name == name) && !left_over {
        output::line(&format!("{name} is not up"));
        return Ok(ExitCode::SUCCESS);
    }
    let would = if args.dry_run { "would " } else { "" };
    for action in super::change(&mut client, location, &Request::Delete { name, dry_run: args.dry_run })? {
        output::line(&format!("{would}{action}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// A name as it is, or the name in a file.
fn name_of(source: &str) -> anyhow::Result<DeviceName> {
    match Source::of(source) {
        Source::File(path) => Ok(super::up::read(&path)?.spec.name),
        Source::Name(name) => Ok(name.parse::<DeviceName>()?),
    }
}
