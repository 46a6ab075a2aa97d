//! `greway up`: tunnels as their files say, from whatever is there now.

use std::collections::HashSet;
use std::path::Path;
use std::process::ExitCode;

use anyhow::anyhow;
use clap::Args;
use greway_control::api::client::Client;
use greway_control::api::{self, Reply, Request};
use greway_control::location::Location;
use greway_control::observe::Observed;
use greway_control::store::Store;
use greway_control::{plan, start};
use greway_netlink::Netlink;
use greway_spec::TunnelSpec;

use super::batch::{Batch, Outcome, State};
use super::together::Together;
use crate::output;
use crate::sources::{self, Definition, File, Refusal, Roots};

/// `greway up`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct UpArgs {
    /// Files, directories of files, or NAMEs to look for in /etc/greway/tunnels.d and
    /// /etc/sysconfig/network-scripts
    #[arg(value_name = "NAME|FILE|DIR", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) sources: Vec<String>,
    /// All tunnels of this host but those that are not to start at boot
    #[arg(long)]
    pub(crate) all: bool,
    /// Print what would be done and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// A tunnel that was asked for.
pub(crate) enum Target {
    /// What its file says, and whether the tunnel or the file was named; else its ONBOOT counts.
    Defined(Box<Definition>, Asked),
    /// A name that no file describes, or several do.
    Unknown(String, Refusal),
}

/// How a tunnel was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It, or its file, was named.
    ByName,
    /// As one of all.
    AsOneOfAll,
}

const EXAMPLES: &str = "\
Examples:
  greway up tun0                                    as its file says, wherever that lies
  greway up ./ifcfg-tun0 --dry-run
  greway up ./tunnels/                              its files, but those that are not to start at boot
  greway up --all                                   what starts at boot, now";

/// Runs the verb.
pub(crate) fn run(args: &UpArgs, location: &Location) -> anyhow::Result<ExitCode> {
    let targets = targets(&args.sources, args.all);
    if targets.is_empty() && !args.json {
        output::line(&nothing_in(&args.sources));
    }
    let mut batch = Batch::new(targets.len(), args.json, args.dry_run);
    let mut client = None;
    let mut together = Together::default();
    for target in targets {
        match target {
            Target::Unknown(name, why) => together.settled(Outcome::of(name, None, State::Failed(why.0))),
            Target::Defined(definition, asked) if args.dry_run => {
                batch.begin(&definition.name);
                together.settled(bring_up(&definition, asked, true, &mut client, location));
            }
            Target::Defined(definition, asked) => match refused(&definition, asked) {
                Some(state) => {
                    together.settled(Outcome::of(&definition.name, Some(&definition.path), state));
                }
                None => {
                    // Who is named twice is looked at again by the next request.
                    if together.holds(&definition.name) {
                        together.carry_out(true, &mut batch, &mut client, location);
                    }
                    together.push(definition, None);
                }
            },
        }
        if together.is_full() {
            together.carry_out(true, &mut batch, &mut client, location);
        }
    }
    together.carry_out(false, &mut batch, &mut client, location);
    Ok(batch.finish())
}

/// What the words of a command line name, in the order in which it is to be brought up. A directory and
/// `--all` stand for what may start at boot; who names a tunnel or its file means it.
pub(crate) fn targets(sources: &[String], all: bool) -> Vec<Target> {
    if all {
        return may_start(sources::all());
    }
    let mut targets = Vec::new();
    for source in sources {
        match Source::of(source) {
            Source::Directory(path) => targets.extend(may_start(sources::all_of(path))),
            Source::File(path) => {
                targets.push(Target::Defined(Box::new(Definition::of(path)), Asked::ByName))
            }
            Source::Name(name) => targets.push(match sources::find(name) {
                Ok(definition) => Target::Defined(Box::new(definition), Asked::ByName),
                Err(why) => Target::Unknown(name.to_owned(), why),
            }),
        }
    }
    targets
}

/// That there is no tunnel where one was looked for.
pub(super) fn nothing_in(sources: &[String]) -> String {
    let roots = Roots::of_this_system();
    match sources {
        [] => {
            let (own, scripts) = (roots.tunnels(), roots.scripts());
            format!("no tunnel is defined in {} or {}", own.display(), scripts.display())
        }
        some => format!("no tunnel is defined in {}", some.join(" or ")),
    }
}

/// Of a tunnel that several files define, all of which are refused, one is told.
fn may_start(mut definitions: Vec<Definition>) -> Vec<Target> {
    let mut refused = HashSet::new();
    definitions.retain(|definition| match &definition.result {
        Ok(_) => true,
        Err(why) => refused.insert((definition.name.clone(), why.0.clone())),
    });
    let target = |definition| Target::Defined(Box::new(definition), Asked::AsOneOfAll);
    definitions.into_iter().map(target).collect()
}

/// What the user named.
pub(crate) enum Source<'s> {
    /// A path.
    File(&'s Path),
    /// A directory of files.
    Directory(&'s Path),
    /// A name that is to be found.
    Name(&'s str),
}

impl<'s> Source<'s> {
    /// What has a slash, a dot or exists is a file; the rest is a name.
    pub(crate) fn of(text: &'s str) -> Self {
        let path = Path::new(text);
        if path.is_dir() && (text.contains('/') || matches!(text, "." | "..")) {
            Self::Directory(path)
        } else if text.contains('/')
            || text.ends_with(".toml")
            || text.starts_with("ifcfg-")
            || path.is_file()
        {
            Self::File(path)
        } else {
            Self::Name(text)
        }
    }
}

/// Brings one tunnel up, or says what that would take.
pub(crate) fn bring_up(
    definition: &Definition,
    asked: Asked,
    dry_run: bool,
    client: &mut Option<Client>,
    location: &Location,
) -> Outcome {
    let outcome = |state| Outcome::of(&definition.name, Some(&definition.path), state);
    if let Some(state) = refused(definition, asked) {
        return outcome(state);
    }
    let file = match &definition.result {
        Ok(file) => file,
        Err(why) => return outcome(State::Failed(why.0.clone())),
    };
    let done = if dry_run { would(file, location) } else { up(file, client, location) };
    told(definition, file, done)
}

/// Why a tunnel is not to be brought up, or cannot be, as its file is.
pub(super) fn refused(definition: &Definition, asked: Asked) -> Option<State> {
    let file = match &definition.result {
        Ok(file) => file,
        Err(why) => return Some(State::Failed(why.0.clone())),
    };
    if asked == Asked::AsOneOfAll && !definition.onboot {
        let word = match file.dialect {
            greway_dialects::Dialect::Ifcfg => "ONBOOT=no",
            greway_dialects::Dialect::Native => "onboot = false",
        };
        return Some(State::Skipped(format!("{word} in {}", definition.path.display())));
    }
    file.carried.as_ref().err().map(|why| State::Failed(why.0.clone()))
}

/// What became of a tunnel, in words.
pub(super) fn told(definition: &Definition, file: &File, done: anyhow::Result<Answer>) -> Outcome {
    let outcome = |state| Outcome::of(&definition.name, Some(&definition.path), state);
    let mut outcome = match done {
        Err(error) => outcome(State::Failed(crate::sentence(&error))),
        Ok((actions, _)) if actions.is_empty() => {
            let path = definition.path.display();
            outcome(State::Unchanged(format!("{} is up as {path} says; nothing to do", file.spec.name)))
        }
        Ok((actions, warnings)) => Outcome { actions, warnings, ..outcome(State::Done) },
    };
    outcome.warnings.splice(0..0, file.warnings.iter().cloned());
    outcome
}

/// What the daemon said of one of several tunnels.
pub(crate) fn answered(outcome: Option<api::Outcome>) -> anyhow::Result<Answer> {
    match outcome {
        Some(api::Outcome::Done { actions, warnings }) => Ok((actions, with_word(&warnings))),
        Some(api::Outcome::Failed(why)) => Err(anyhow!(why)),
        None => Err(anyhow!("the daemon said nothing of it")),
    }
}

fn with_word(warnings: &[String]) -> Vec<String> {
    warnings.iter().map(|warning| format!("warning: {warning}")).collect()
}

/// Actions, and what the daemon warns of.
pub(crate) type Answer = (Vec<String>, Vec<String>);

fn up(file: &File, client: &mut Option<Client>, location: &Location) -> anyhow::Result<Answer> {
    let client = match client {
        Some(client) => client,
        None => client.insert(super::connect(location)?),
    };
    ask(client, location, &Request::Up { spec: Box::new(file.spec.clone()), dry_run: false })
}

/// The plan. Needs neither privileges nor a daemon, and starts none.
fn would(file: &File, location: &Location) -> anyhow::Result<Answer> {
    match start::find(location)? {
        Some(mut client) => {
            ask(&mut client, location, &Request::Up { spec: Box::new(file.spec.clone()), dry_run: true })
        }
        None => Ok((plan_without_daemon(&file.spec, location)?, Vec::new())),
    }
}

/// What a daemon would do that is started now and takes over what an earlier one left.
fn plan_without_daemon(spec: &TunnelSpec, location: &Location) -> anyhow::Result<Vec<String>> {
    let left = Store::new(&location.state).load().map(|mut left| left.tunnels.remove(&spec.name));
    let current = left.ok().flatten().map(|stored| stored.spec);
    let observed = Observed::read(&Netlink::open()?, spec, current.as_ref())?;
    let actions = plan::up(spec, current.as_ref(), &observed)?;
    Ok(actions.iter().map(ToString::to_string).collect())
}

/// Asks for a change. What the daemon warns of is told with the tunnel.
pub(crate) fn ask(client: &mut Client, location: &Location, request: &Request) -> anyhow::Result<Answer> {
    match super::ask(client, location, request)? {
        Reply::Done { actions, warnings } => Ok((actions, with_word(&warnings))),
        _ => Err(anyhow!("{}", client.unexpected())),
    }
}
