//! `greway status` and `greway` alone.

use std::process::ExitCode;

use anyhow::Context;
use greway_control::api::{Reply, Request};
use greway_control::check;
use greway_control::location::Location;
use greway_control::start;
use greway_control::status::Status;

use crate::cli::StatusArgs;
use crate::output;

/// Runs the verb. Without a daemon there are no tunnels, which is an answer and no error.
pub(crate) fn run(args: &StatusArgs, location: &Location) -> anyhow::Result<ExitCode> {
    let status = match start::find(location)? {
        Some(mut client) => {
            let request = Request::Status { name: args.name.clone(), probe: !args.no_echo };
            match start::ask(&mut client, location, &request)? {
                Reply::Status(mut status) => {
                    look(&mut status, location);
                    Some(*status)
                }
                _ => return Err(client.unexpected()).context("the status was asked for"),
            }
        }
        None => None,
    };
    if let (None, Some(name)) = (&status, &args.name)
        && !location.state.join(format!("{name}.json")).exists()
    {
        return Err(super::tunnel::no_such(name));
    }
    if args.json {
        let status = status.unwrap_or_default();
        output::line(&serde_json::to_string_pretty(&status)?);
        return Ok(ExitCode::SUCCESS);
    }
    match status {
        Some(status) => output::status::print(&status, args.name.is_some()),
        None => no_daemon(location),
    }
    Ok(ExitCode::SUCCESS)
}

/// Adds what a check finds in what is there anyway. A status is told whether or not that can be looked at; of many
/// tunnels it is looked at for those that are asked for by name.
fn look(status: &mut Status, location: &Location) {
    /// What a check looks at is the whole host's, for each of them.
    const MOST: usize = 256;
    if status.tunnels.len() > MOST {
        let note = "of so many tunnels it is not looked for what stops them: greway status NAME does, and greway check";
        return status.notes.push(note.to_owned());
    }
    let Ok(checked) = check::brief(status, location) else { return };
    for (tunnel, checked) in status.tunnels.iter_mut().zip(checked) {
        tunnel.findings = checked.findings;
    }
}

fn no_daemon(location: &Location) {
    if location.is_held() {
        return output::line(&format!(
            "no tunnels at {}: the greway daemon of this network namespace has another socket (--socket, GREWAY_SOCKET)",
            location.socket.display()
        ));
    }
    output::line("no tunnels: no greway daemon runs in this network namespace");
    let left = location.state.read_dir().map_or(0, |entries| {
        let json = |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|kind| kind == "json");
        entries.filter_map(Result::ok).filter(json).count()
    });
    if left > 0 {
        output::line(&format!(
            "{left} tunnel(s) of a daemon that died are waiting: any verb that changes something starts it again"
        ));
    } else {
        output::line(
            "make one: greway tunnel add tun0 mode gre remote PEER local THIS-HOST, or greway up FILE",
        );
    }
}
