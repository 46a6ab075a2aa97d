//! `greway up`: a tunnel as a file says, from whatever is there now.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use greway_control::api::Request;
use greway_control::location::Location;
use greway_control::observe::Observed;
use greway_control::store::Store;
use greway_control::{plan, start};
use greway_dialects::{Diagnostic, Dialect, ifcfg};
use greway_netlink::Netlink;
use greway_spec::{Draft, Origin, TunnelSpec};

use crate::output;

/// `greway up`
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// A file, or a NAME to look for in /etc/greway/tunnels.d and /etc/sysconfig/network-scripts
    pub(crate) source: String,
    /// Print what would be done and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Where a NAME is looked for, in this order.
const PLACES: &[(&str, &str, &str)] =
    &[("/etc/greway/tunnels.d", "", ".toml"), ("/etc/sysconfig/network-scripts", "ifcfg-", "")];

/// A file that was read.
pub(crate) struct File {
    /// The tunnel in it.
    pub(crate) spec: TunnelSpec,
    /// What the reader should know.
    pub(crate) warnings: Vec<String>,
}

/// What the user named.
pub(crate) enum Source {
    /// A path.
    File(PathBuf),
    /// A name that is to be found.
    Name(String),
}

impl Source {
    /// What has a slash, a dot or exists is a file; the rest is a name.
    pub(crate) fn of(text: &str) -> Self {
        let path = Path::new(text);
        if text.contains('/') || text.ends_with(".toml") || text.starts_with("ifcfg-") || path.is_file() {
            Self::File(path.to_owned())
        } else {
            Self::Name(text.to_owned())
        }
    }
}

/// Runs the verb.
pub(crate) fn run(args: &UpArgs, location: &Location) -> anyhow::Result<ExitCode> {
    let path = find(&args.source)?;
    let file = read(&path)?;
    for warning in &file.warnings {
        output::note(warning);
    }
    if args.dry_run {
        return dry_run(file.spec, location);
    }
    let name = file.spec.name.clone();
    let mut client = super::connect(location)?;
    let actions =
        super::change(&mut client, location, &Request::Up { spec: Box::new(file.spec), dry_run: false })?;
    if actions.is_empty() {
        output::line(&format!("{name} is up as {} says; nothing to do", path.display()));
    }
    for action in actions {
        output::line(&action);
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the plan. Needs neither privileges nor a daemon, and starts none.
fn dry_run(spec: TunnelSpec, location: &Location) -> anyhow::Result<ExitCode> {
    let name = spec.name.clone();
    let actions = match start::find(location)? {
        Some(mut client) => {
            super::change(&mut client, location, &Request::Up { spec: Box::new(spec), dry_run: true })?
        }
        None => plan_without_daemon(&spec, location)?,
    };
    if actions.is_empty() {
        output::line(&format!("{name} is up already; nothing to do"));
    }
    for action in actions {
        output::line(&format!("would {action}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// What a daemon would do that is started now and takes over what an earlier one left.
fn plan_without_daemon(spec: &TunnelSpec, location: &Location) -> anyhow::Result<Vec<String>> {
    let left = Store::new(&location.state).load().map(|mut left| left.tunnels.remove(&spec.name));
    let current = left.ok().flatten().map(|stored| stored.spec);
    let observed = Observed::read(&Netlink::open()?, spec)?;
    let actions = plan::up(spec, current.as_ref(), &observed)?;
    Ok(actions.iter().map(ToString::to_string).collect())
}

fn find(source: &str) -> anyhow::Result<PathBuf> {
    let name = match Source::of(source) {
        Source::File(path) => return Ok(path),
        Source::Name(name) => name,
    };
    let candidates = PLACES
        .iter()
        .map(|(directory, before, after)| Path::new(directory).join(format!("{before}{name}{after}")));
    let found = candidates.filter(|path| path.is_file()).collect::<Vec<_>>();
    match found.as_slice() {
        [path] => Ok(path.clone()),
        [] => {
            let looked =
                PLACES.iter().map(|(directory, before, after)| format!("{directory}/{before}{name}{after}"));
            bail!("no file describes {name}: looked for {}", looked.collect::<Vec<_>>().join(" and "))
        }
        several => {
            let names = several.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
            bail!("{name} is described twice, by {}: name the file that is meant", names.join(" and by "))
        }
    }
}

/// Reads a file of any dialect, with the route-NAME file beside an ifcfg file.
pub(crate) fn read(path: &Path) -> anyhow::Result<File> {
    let shown = path.display().to_string();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    let mut parsed = greway_dialects::parse(&text, &shown).map_err(|wrong| explain(&wrong, &text))?;
    let mut warnings = parsed.warnings.iter().map(ToString::to_string).collect::<Vec<_>>();
    let absolute = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    parsed.draft.origin = Origin::File(absolute.display().to_string());
    if greway_dialects::detect(&shown, &text) == Dialect::Ifcfg {
        read_routes(path, &mut parsed.draft, &mut warnings)?;
    }
    let spec = parsed.into_spec().map_err(|wrong| explain(&wrong, &text))?;
    Ok(File { spec, warnings })
}

/// `route-DEVICE` and `route6-DEVICE` beside an ifcfg file.
fn read_routes(ifcfg: &Path, draft: &mut Draft, warnings: &mut Vec<String>) -> anyhow::Result<()> {
    let Some(name) = draft.name.as_ref().map(|name| name.value.clone()) else { return Ok(()) };
    for kind in ["route", "route6"] {
        let path = ifcfg.with_file_name(format!("{kind}-{name}"));
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let read = ifcfg::parse_routes(&text, &name, &path.display().to_string());
        let read = read.map_err(|wrong| explain(&wrong, &text))?;
        warnings.extend(read.warnings.iter().map(ToString::to_string));
        draft.routes.get_or_insert_default().extend(read.routes);
    }
    Ok(())
}

fn explain(diagnostic: &Diagnostic, text: &str) -> anyhow::Error {
    anyhow!(diagnostic.render(text).trim_end().to_owned())
}
