//! `greway restart`: down and up again, as the file says now.
//!
//! Nothing is taken down for a file that is wrong, or that is not where the tunnel came from. When the tunnel
//! cannot be brought up again, it comes back as it was.

use std::process::ExitCode;

use clap::Args;
use greway_control::api::Request;
use greway_control::api::client::Client;
use greway_control::location::Location;
use greway_spec::TunnelSpec;

use super::batch::{Batch, Outcome, State};
use super::down::Running;
use super::up::{Asked, Target, ask, bring_up, targets};
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
    let mut batch = Batch::new(targets.len(), args.json, false);
    let running = Running::find(location)?;
    let tunnels = running.tunnels.clone();
    let mut client = running.client();
    for target in targets {
        let outcome = match target {
            Target::Unknown(name, why) => Outcome::of(name, None, State::Failed(why.0)),
            Target::Defined(definition, asked) => {
                batch.begin(&definition.name);
                let present = tunnels.iter().find(|spec| spec.name.as_str() == definition.name);
                restart(&definition, asked, present, &mut client, location)
            }
        };
        batch.end(outcome);
    }
    Ok(batch.finish())
}

fn restart(
    definition: &Definition,
    asked: Asked,
    present: Option<&TunnelSpec>,
    client: &mut Option<Client>,
    location: &Location,
) -> Outcome {
    let failed = |why: String| Outcome::of(&definition.name, Some(&definition.path), State::Failed(why));
    let (Some(present), Ok(file)) = (present, &definition.result) else {
        return bring_up(definition, asked, false, client, location);
    };
    if file.carried.is_err() || asked == Asked::AsOneOfAll && !definition.onboot {
        return bring_up(definition, asked, false, client, location);
    }
    if present.origin != file.spec.origin {
        return failed(format!(
            "tunnel {0} is defined by {1}, not by {2}; take it down first (`greway down {0}`)",
            present.name, present.origin, file.spec.origin
        ));
    }
    let mut actions = Vec::new();
    if let Some(client) = client {
        let request = Request::Delete { name: present.name.clone(), dry_run: false };
        match ask(client, location, &request) {
            Ok((removed, _)) => actions = removed,
            Err(error) => return failed(crate::sentence(&error)),
        }
    }
    let mut outcome = bring_up(definition, asked, false, client, location);
    if let (State::Failed(why), Some(client)) = (&outcome.state, client) {
        let again = Request::Up { spec: Box::new(present.clone()), dry_run: false };
        let state = match ask(client, location, &again) {
            Ok(_) => format!("{why}; it is up again as it was before"),
            Err(error) => {
                format!("{why}; and it could not be brought back: {}", crate::sentence(&error))
            }
        };
        outcome.state = State::Failed(state);
    } else {
        outcome.actions.splice(0..0, actions);
    }
    outcome
}
