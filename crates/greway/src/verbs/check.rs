//! `greway check`: what stops traffic, and the command that cures it. Nothing is changed, nothing started.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;
use greway_control::check::{self, Checked, Deadline, Finding, Options, Told};
use greway_control::location::Location;
use greway_spec::{DeviceName, TunnelSpec};

use crate::output;
use crate::sources::{self, Definition};

/// `greway check`
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// One tunnel only; also one that is not up, by its file
    pub(crate) name: Option<DeviceName>,
    /// A host behind the far end that should answer
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) to: Option<IpAddr>,
    /// Look only; send no packet
    #[arg(long, conflicts_with = "to")]
    pub(crate) no_probes: bool,
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// What takes longer than this says what it is doing.
const SILENT: Duration = Duration::from_secs(1);

/// Runs the verb: exit code 1 when something was found that is more than a remark.
pub(crate) fn run(args: &CheckArgs, location: &Location) -> anyhow::Result<ExitCode> {
    let probe = !args.no_probes;
    // Who may not send asks the daemon to.
    let ask_daemon = probe && check::may_probe().is_err();
    let deadline = Deadline::beginning(Instant::now());
    let told = check::ask(location, ask_daemon, deadline)?;
    let Wanted { specs, refused } = wanted(args.name.as_ref(), &told, location)?;
    let options = Options { probe, destination: args.to };
    let mut checked = with_progress(&specs, || check::run(&specs, &told, location, &options, deadline))?;
    checked.extend(refused);
    let found = checked.iter().any(Checked::is_bad);
    if args.json {
        output::line(&serde_json::to_string_pretty(&output::check::Document { tunnels: &checked, found })?);
    } else {
        output::check::print(&checked);
    }
    Ok(if found { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What is to be checked.
struct Wanted {
    specs: Vec<TunnelSpec>,
    /// Files that define no tunnel, and why not.
    refused: Vec<Checked>,
}

fn wanted(name: Option<&DeviceName>, told: &Told, location: &Location) -> anyhow::Result<Wanted> {
    let mut specs = told.tunnels().cloned().collect::<Vec<_>>();
    let known = specs.iter().map(|spec| spec.name.clone()).collect::<BTreeSet<_>>();
    let left = check::left_behind(location).into_iter().filter(|spec| !known.contains(&spec.name));
    specs.extend(left);
    let mut refused = Vec::new();
    match name {
        Some(name) => {
            specs.retain(|spec| spec.name == *name);
            if specs.is_empty() {
                let definition = sources::find(name.as_str())
                    .map_err(|why| anyhow!("there is no tunnel {name} here, and {why}"))?;
                take(&definition, &mut specs, &mut refused);
            }
        }
        // What merely lies there is no fault; where nothing is up it is what was meant.
        None if specs.is_empty() => {
            for definition in sources::all() {
                take(&definition, &mut specs, &mut refused);
            }
        }
        None => {}
    }
    Ok(Wanted { specs, refused })
}

fn take(definition: &Definition, specs: &mut Vec<TunnelSpec>, refused: &mut Vec<Checked>) {
    match &definition.result {
        Ok(file) => specs.push(file.spec.clone()),
        Err(why) => {
            let path = definition.path.display().to_string();
            let finding = Finding::stops("definition-refused", format!("{path} cannot be honoured"));
            refused.push(Checked {
                name: definition.name.clone(),
                origin: path,
                carried: false,
                findings: vec![finding.seen(why.to_string())],
                looks: Vec::new(),
            });
        }
    }
}

/// Runs `work` and says what takes so long, on a terminal only.
fn with_progress<T: Send, E: Send + std::error::Error + Sync + 'static>(
    specs: &[TunnelSpec],
    work: impl FnOnce() -> Result<T, E> + Send,
) -> anyhow::Result<T> {
    if !std::io::stderr().is_terminal() {
        return work().context("cannot check");
    }
    let outcome = thread::scope(|scope| {
        let (done, ended) = mpsc::channel();
        let worker = scope.spawn(move || {
            let outcome = work();
            // Whoever listened is told by the end of this thread too.
            let _ = done.send(());
            outcome
        });
        if ended.recv_timeout(SILENT).is_err() {
            let ends = specs.iter().map(TunnelSpec::far_end).collect::<Vec<_>>();
            output::progress(&format!("looking at the way to {} …", ends.join(", ")));
            let _ = ended.recv();
            output::progress("");
        }
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    outcome.context("cannot check")
}
