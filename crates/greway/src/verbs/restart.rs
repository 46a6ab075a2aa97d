//! `greway restart`: down and up again, as the file says now; several in portions ([`super::together`]).
//!
//! Nothing is taken down for a file that is wrong, or that is not where the tunnel came from. When the tunnel
//! cannot be brought up again, it comes back as it was.

use std::collections::HashMap;
use std::process::ExitCode;

use clap::Args;
use greway_control::api::Request;
use greway_control::api::client::Client;
use greway_control::location::Location;
use greway_spec::TunnelSpec;

use super::batch::{Batch, Outcome, State};
use super::down::Running;
use super::together::Together;
use super::up::{Asked, Target, ask, bring_up, nothing_in, refused, targets};
use crate::output;
use crate::sources::Definition;

/// `greway restart`
#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    /// Files, directories of files, or NAMEs, as with `greway up`
    #[arg(value_name = "NAME|FILE|DIR", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) sources: Vec<String>,
    /// All tunnels of this host but those that are not to start at boot
    #[arg(long)]
    pub(crate) all: bool,
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs the verb.
pub(crate) fn run(args: &RestartArgs, location: &Location) -> anyhow::Result<ExitCode> {
    let targets = targets(&args.sources, args.all);
    if targets.is_empty() && !args.json {
        output::line(&nothing_in(&args.sources));
    }
    let mut batch = Batch::new(targets.len(), args.json, false);
    let running = Running::find(location)?;
    let tunnels = running.tunnels.iter().map(|spec| (spec.name.to_string(), Box::new(spec.clone())));
    let mut present = tunnels.collect::<HashMap<_, _>>();
    let mut client = running.client();
    let mut together = Together::default();
    for target in targets {
        match target {
            Target::Unknown(name, why) => together.settled(Outcome::of(name, None, State::Failed(why.0))),
            Target::Defined(definition, asked) => {
                // Who is named twice is restarted twice.
                if together.holds(&definition.name) {
                    together.carry_out(true, &mut batch, &mut client, location);
                }
                let before = present.get(&definition.name);
                match refused(&definition, asked).or_else(|| of_another_file(&definition, before?)) {
                    Some(state) => {
                        together.settled(Outcome::of(&definition.name, Some(&definition.path), state));
                    }
                    None => {
                        let before = before.cloned();
                        if let Ok(file) = &definition.result {
                            present.insert(definition.name.clone(), Box::new(file.spec.clone()));
                        }
                        together.push(definition, before);
                    }
                }
            }
        }
        if together.is_full() {
            together.carry_out(true, &mut batch, &mut client, location);
        }
    }
    together.carry_out(false, &mut batch, &mut client, location);
    Ok(batch.finish())
}

/// Why a tunnel is not to be restarted by this file.
fn of_another_file(definition: &Definition, present: &TunnelSpec) -> Option<State> {
    let file = definition.result.as_ref().ok()?;
    (present.origin != file.spec.origin).then(|| {
        State::Failed(format!(
            "tunnel {0} is defined by {1}, not by {2}; take it down first (`greway down {0}`)",
            present.name, present.origin, file.spec.origin
        ))
    })
}

/// Restarts one tunnel by itself.
pub(super) fn restart(
    definition: &Definition,
    present: &TunnelSpec,
    client: &mut Option<Client>,
    location: &Location,
) -> Outcome {
    let mut actions = Vec::new();
    if let Some(client) = client {
        let request = Request::Delete { name: present.name.clone(), dry_run: false };
        match ask(client, location, &request) {
            Ok((removed, _)) => actions = removed,
            Err(error) => {
                let why = State::Failed(crate::sentence(&error));
                return Outcome::of(&definition.name, Some(&definition.path), why);
            }
        }
    }
    let mut outcome = bring_up(definition, Asked::ByName, false, client, location);
    if let (State::Failed(why), Some(client)) = (&outcome.state, client) {
        let again = Request::Up { spec: Box::new(present.clone()), dry_run: false };
        outcome.state = State::Failed(back_or_not(why, ask(client, location, &again).map(drop)));
    } else {
        outcome.actions.splice(0..0, actions);
    }
    outcome
}

/// Why a tunnel is not as its file says, and whether it is up again as it was before that was tried.
pub(super) fn back_or_not(why: &str, again: anyhow::Result<()>) -> String {
    match again {
        Ok(()) => format!("{why}; it is up again as it was before"),
        Err(error) => format!("{why}; and it could not be brought back: {}", crate::sentence(&error)),
    }
}
