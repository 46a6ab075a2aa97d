//! `greway down`: a tunnel and all that belongs to it goes.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::Args;
use greway_control::api::client::Client;
use greway_control::api::{Reply, Request};
use greway_control::location::Location;
use greway_control::store::Store;
use greway_control::{plan, start};
use greway_spec::{DeviceName, Origin, TunnelSpec};

use super::batch::{Batch, Outcome, State};
use super::up::Source;
use crate::output;
use crate::sources::{self, Definition};

/// `greway down`
#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    /// The tunnels, or the files or directories of files that they came from
    #[arg(value_name = "NAME|FILE|DIR", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) sources: Vec<String>,
    /// All tunnels here that came from a file
    #[arg(long)]
    pub(crate) all: bool,
    /// Print what would be done and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs the verb. A tunnel that is down already is no error.
pub(crate) fn run(args: &DownArgs, location: &Location) -> anyhow::Result<ExitCode> {
    let mut running = if args.dry_run { Running::seen(location)? } else { Running::find(location)? };
    let names = if args.all { from_files(&running) } else { named(&args.sources, &running) };
    if names.is_empty() && !args.json {
        output::line("no tunnel is up that came from a file");
    }
    let mut batch = Batch::new(names.len(), args.json, args.dry_run);
    let last = names.len().saturating_sub(1) / AT_ONCE;
    for (portion, some) in names.chunks(AT_ONCE).enumerate() {
        for (name, _) in some {
            batch.begin(name);
        }
        let more = portion < last;
        let outcomes = running.take_these_down(some, more, args.dry_run, location);
        for (outcome, (_, path)) in outcomes.into_iter().zip(some) {
            batch.end(Outcome { path: path.clone(), ..outcome });
        }
    }
    Ok(batch.finish())
}

/// Tunnels taken down at once; between two such requests whoever waits is told how far it is.
const AT_ONCE: usize = 512;

type Named = (String, Option<std::path::PathBuf>);

fn named(sources: &[String], running: &Running) -> Vec<Named> {
    let name_in = |path: &Path| (Definition::of(path).name, Some(path.to_owned()));
    let by_name = |name: &str| match sources::find(name) {
        // The file of a name may give its device another one.
        Ok(found) if !running.has(name) => (found.name, Some(found.path)),
        _ => (name.to_owned(), None),
    };
    let of_word = |source: &String| match Source::of(source) {
        Source::File(path) => vec![name_in(path)],
        Source::Directory(path) => {
            let all = sources::all_of(path).into_iter().rev();
            all.map(|definition| (definition.name, Some(definition.path))).collect()
        }
        Source::Name(name) => vec![by_name(name)],
    };
    sources.iter().flat_map(of_word).collect()
}

/// Those that came from files, in the reverse of the order in which they are brought up.
fn from_files(running: &Running) -> Vec<Named> {
    let mut names = Vec::new();
    for spec in &running.tunnels {
        match &spec.origin {
            Origin::File(path) => names.push((spec.name.to_string(), Some(path.into()))),
            origin => output::note(&format!(
                "{0} stays: it came from no file but from {origin}; `greway down {0}` takes it down",
                spec.name
            )),
        }
    }
    sources::by_boot_order(&mut names, |(name, _)| name.clone());
    names.reverse();
    names
}

/// Whether an earlier daemon has left a tunnel of this name.
fn left_over(name: &DeviceName, location: &Location) -> bool {
    location.state.join(format!("{name}.json")).exists()
}

/// What is up here.
pub(crate) struct Running {
    client: Option<Client>,
    by_name: HashSet<String>,
    pub(crate) tunnels: Vec<TunnelSpec>,
    /// The daemon was promised more that go, and looks at what concerns all others with the last of them.
    promised: bool,
}

impl Running {
    fn of(client: Option<Client>, tunnels: Vec<TunnelSpec>) -> Self {
        let by_name = tunnels.iter().map(|spec| spec.name.to_string()).collect();
        Self { client, by_name, tunnels, promised: false }
    }

    /// Asks the daemon; where none runs, one is started for what an earlier one left.
    pub(crate) fn find(location: &Location) -> anyhow::Result<Self> {
        let left_over = || Store::new(&location.state).load().is_ok_and(|left| !left.tunnels.is_empty());
        let mut client = match start::find(location)? {
            Some(client) => client,
            None if left_over() => super::connect(location)?,
            None => return Ok(Self::of(None, Vec::new())),
        };
        match super::ask(&mut client, location, &Request::List)? {
            Reply::Tunnels(tunnels) => Ok(Self::of(Some(client), tunnels)),
            _ => Err(client.unexpected()).context("a list was asked for"),
        }
    }

    /// As [`Running::find`], and starts no daemon: what a killed one left is read from its store.
    fn seen(location: &Location) -> anyhow::Result<Self> {
        if start::find(location)?.is_some() {
            return Self::find(location);
        }
        let left = Store::new(&location.state).load().unwrap_or_default();
        Ok(Self::of(None, left.tunnels.into_values().map(|stored| stored.spec).collect()))
    }

    /// Whether a tunnel of this name is up.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.by_name.contains(name)
    }

    /// Takes several down, or says what that would take. `more` are taken down next.
    fn take_these_down(
        &mut self,
        names: &[Named],
        more: bool,
        dry_run: bool,
        location: &Location,
    ) -> Vec<Outcome> {
        let parsed = names.iter().map(|(name, _)| name.parse::<DeviceName>()).collect::<Vec<_>>();
        let is_up = |name: &DeviceName| self.has(name.as_str()) || left_over(name, location);
        let mut seen = HashSet::new();
        let up = parsed.iter().flatten().filter(|name| seen.insert(*name) && is_up(name));
        let up = up.cloned().collect::<Vec<_>>();
        let together = match &mut self.client {
            Some(client) if (up.len() > 1 || self.promised) && !dry_run => {
                let names = up.iter().map(DeviceName::as_str).collect::<Vec<_>>();
                let request = Request::DeleteAll { names: up.clone(), more };
                super::several(client, location, &request, &names)
            }
            _ => Ok(None),
        };
        self.promised |= more && matches!(together, Ok(Some(_)));
        let mut answers: HashMap<_, _> = match together {
            Ok(None) => HashMap::new(),
            Ok(Some(outcomes)) => {
                let answers = outcomes.into_iter().map(|outcome| super::up::answered(Some(outcome)));
                up.into_iter().zip(answers).collect()
            }
            Err(error) => {
                let why = crate::sentence(&error);
                up.into_iter().map(|name| (name, Err(anyhow!("{why}")))).collect()
            }
        };
        let mut outcome_of =
            |parsed: Result<DeviceName, greway_spec::name::InvalidName>, name: &String| match parsed {
                Ok(parsed) => match answers.remove(&parsed) {
                    Some(answer) => self.told(&parsed, answer),
                    None => self.take_down(&parsed, dry_run, location),
                },
                Err(error) => Outcome::of(name, None, State::Failed(error.to_string())),
            };
        parsed.into_iter().zip(names).map(|(parsed, (name, _))| outcome_of(parsed, name)).collect()
    }

    /// What became of one. Who is named twice is not up the second time.
    fn told(&mut self, name: &DeviceName, answer: anyhow::Result<super::up::Answer>) -> Outcome {
        let outcome = |state| Outcome::of(name.as_str(), None, state);
        match answer {
            Ok((actions, warnings)) => {
                self.by_name.remove(name.as_str());
                Outcome { actions, warnings, ..outcome(State::Done) }
            }
            Err(error) => outcome(State::Failed(crate::sentence(&error))),
        }
    }

    /// Takes one down, or says what that would take.
    pub(crate) fn take_down(&mut self, name: &DeviceName, dry_run: bool, location: &Location) -> Outcome {
        let outcome = |state| Outcome::of(name.as_str(), None, state);
        if dry_run
            && self.client.is_none()
            && let Some(spec) = self.tunnels.iter().find(|spec| spec.name == *name)
        {
            let actions = plan::down(spec, &[]).iter().map(ToString::to_string).collect();
            return Outcome { actions, ..outcome(State::Done) };
        }
        let up = self.has(name.as_str()) || left_over(name, location);
        let Some(client) = self.client.as_mut().filter(|_| up) else {
            return outcome(State::Unchanged(format!("{name} is not up")));
        };
        let request = Request::Delete { name: name.clone(), dry_run };
        let answer = super::up::ask(client, location, &request);
        self.told(name, answer)
    }

    /// The daemon, where one runs.
    pub(crate) fn client(self) -> Option<Client> {
        self.client
    }
}
