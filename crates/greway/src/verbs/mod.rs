//! The verbs, one a file.

pub(crate) mod batch;
pub(crate) mod boot;
pub(crate) mod check;
pub(crate) mod daemon;
pub(crate) mod down;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod new;
pub(crate) mod nm;
pub(crate) mod purge;
pub(crate) mod restart;
pub(crate) mod shim;
pub(crate) mod status;
mod together;
pub(crate) mod tunnel;
pub(crate) mod up;

use anyhow::Context;
use greway_control::api::client::Client;
use greway_control::api::{Outcome, Reply, Request};
use greway_control::location::Location;
use greway_control::start::{self, StartError, Started};

use crate::output;

/// Connects to the daemon, starting one where none runs, and says so.
fn connect(location: &Location) -> anyhow::Result<Client> {
    let (client, started) = output::waiting(&daemon_at(location), || start::connect(location))?;
    match started {
        Started::Ran => return Ok(client),
        Started::Unit(unit) => {
            output::note(&format!("started the daemon as {unit}; its log: journalctl -u {unit}"));
        }
        Started::Background { pid, log } => output::note(&format!(
            "started a daemon in the background (pid {pid}, log {}); `greway daemon --stop` ends it",
            log.display()
        )),
    }
    if let Some(doubt) = daemon::doubt() {
        output::note(&format!("warning: {doubt}"));
    }
    Ok(client)
}

fn daemon_at(location: &Location) -> String {
    format!("the greway daemon at {}", location.socket.display())
}

/// As [`start::ask`]; a daemon that takes its time is told of.
fn ask(client: &mut Client, location: &Location, request: &Request) -> Result<Reply, StartError> {
    output::waiting(&daemon_at(location), || start::ask(client, location, request))
}

/// Asks for a change of several tunnels. `None`: the daemon is of an earlier version, which takes one at a time.
fn several(
    client: &mut Client,
    location: &Location,
    request: &Request,
    names: &[&str],
) -> anyhow::Result<Option<Vec<Outcome>>> {
    let what = match names {
        [first, .., last] => format!("{} tunnels, {first} to {last}", names.len()),
        _ => daemon_at(location),
    };
    match output::waiting(&what, || start::ask(client, location, request)) {
        Ok(Reply::Several(outcomes)) => Ok(Some(outcomes)),
        Ok(_) => Err(client.unexpected()).context("several tunnels were asked for"),
        Err(error) if error.to_string().contains("no request that greway knows") => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Asks for a change and shows what the daemon warns of. Returns what was done.
fn change(client: &mut Client, location: &Location, request: &Request) -> anyhow::Result<Vec<String>> {
    match ask(client, location, request)? {
        Reply::Done { actions, warnings } => {
            for warning in warnings {
                output::warning(&warning);
            }
            Ok(actions)
        }
        _ => Err(client.unexpected()).context("a change was asked for"),
    }
}
