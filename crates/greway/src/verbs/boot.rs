//! `greway boot`: start tunnels at boot, or no longer.
//!
//! A file that merely lies on a host starts nothing: its ONBOOT says what it may do once starting at boot was
//! enabled, which is a choice of its own and made here. With systemd that is a unit; where there is none we
//! say what to put where and change nothing.

use std::process::{Command, ExitCode, Output};

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use greway_control::location::Location;
use serde_json::json;

use crate::output;
use crate::sources::{self, Definition, Roots};

/// The unit that runs `greway up --all`.
const ALL: &str = "greway-boot.service";

/// `greway boot`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BootArgs {
    #[command(subcommand)]
    pub(crate) action: BootAction,
}

/// What can be done about it.
#[derive(Debug, Subcommand)]
pub(crate) enum BootAction {
    /// Start all tunnels at boot but those with ONBOOT=no; with NAMEs these alone, whatever their ONBOOT
    Enable {
        /// Single tunnels
        names: Vec<String>,
    },
    /// Start none at boot any more; with NAMEs these
    Disable {
        /// Single tunnels
        names: Vec<String>,
    },
    /// Say which tunnels start at boot and which do not, and why
    Status {
        /// For programs
        #[arg(long)]
        json: bool,
    },
}

const EXAMPLES: &str = "\
Examples:
  greway boot enable                                all tunnels but those with ONBOOT=no
  greway boot enable tun0                           this one, whatever its ONBOOT
  greway boot status";

/// Runs the verb.
pub(crate) fn run(args: &BootArgs, _location: &Location) -> anyhow::Result<ExitCode> {
    let roots = Roots::of_this_system();
    match &args.action {
        BootAction::Enable { names } => switch(&roots, "enable", names),
        BootAction::Disable { names } => switch(&roots, "disable", names),
        BootAction::Status { json } => status(&roots, *json),
    }
}

fn switch(roots: &Roots, verb: &str, names: &[String]) -> anyhow::Result<ExitCode> {
    let Some(systemd) = Systemd::find(roots) else { bail!("{}", without_systemd()) };
    let units = match names {
        [] => vec![ALL.to_owned()],
        names => names.iter().map(|name| unit_of(name, verb)).collect::<anyhow::Result<_>>()?,
    };
    for unit in &units {
        let output = systemd.run(&[verb, unit])?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            let hint = if words.contains("not exist") {
                "; the unit comes with greway's package, and in the archive lies in its directory systemd"
            } else {
                ""
            };
            bail!("systemctl {verb} {unit}: {}{hint}", words.trim());
        }
        output::line(&format!("{unit} is {verb}d"));
    }
    status(roots, false)
}

/// The unit of one tunnel. What is enabled must be there to be started.
fn unit_of(name: &str, verb: &str) -> anyhow::Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
    if name.is_empty() || !name.chars().all(plain) {
        bail!("\"{name}\" is no name that a unit can have: letters, digits and . _ : - are right");
    }
    let definition = match (verb, sources::find(name)) {
        ("enable", found) => found.map_err(|why| anyhow!(why))?,
        // What is disabled need not be there any more.
        (_, Ok(definition)) => definition,
        (_, Err(_)) => return Ok(single(name)),
    };
    if verb == "enable" {
        let file = definition.result.map_err(|why| anyhow!(why))?;
        file.carried.map_err(|why| anyhow!(why))?;
    }
    // A file may be found by another name than that of its tunnel; the unit has the tunnel's.
    Ok(single(&definition.name))
}

fn single(name: &str) -> String {
    format!("greway@{name}.service")
}

fn status(roots: &Roots, json: bool) -> anyhow::Result<ExitCode> {
    let systemd = Systemd::find(roots);
    let definitions = sources::all();
    let singles = definitions.iter().map(|definition| single(&definition.name));
    let units = std::iter::once(ALL.to_owned()).chain(singles).collect::<Vec<_>>();
    let enabled =
        systemd.as_ref().map_or_else(|| vec![false; units.len()], |systemd| systemd.enabled(&units));
    let all = enabled.first().copied().unwrap_or(false);
    let lines = definitions
        .into_iter()
        .zip(enabled.into_iter().skip(1))
        .map(|(definition, single)| (fate(&definition, all, single), definition))
        .collect::<Vec<_>>();
    if json {
        let tunnels = lines.iter().map(|((starts, why), definition)| {
            json!({
                "name": definition.name,
                "file": definition.path.display().to_string(),
                "starts": starts,
                "why": why,
            })
        });
        let tunnels = tunnels.collect::<Vec<_>>();
        let text = json!({ "systemd": systemd.is_some(), "enabled": all, "tunnels": tunnels });
        output::line(&text.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    output::line(match (&systemd, all) {
        (None, _) => "starting at boot: not by systemd, which does not run here",
        (Some(_), true) => "starting at boot: enabled",
        (Some(_), false) => "starting at boot: not enabled (`greway boot enable` does that)",
    });
    if systemd.is_none() {
        output::line(&without_systemd());
    }
    if lines.is_empty() {
        let (own, scripts) = (roots.tunnels(), roots.scripts());
        output::line(&format!("no tunnel is defined in {} or {}", own.display(), scripts.display()));
    }
    for ((starts, why), definition) in lines {
        let fate = if starts { "starts" } else { "does not start" };
        output::line(&format!("{}: {fate}: {why}", definition.name));
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a tunnel starts at boot, and why or why not.
fn fate(definition: &Definition, all: bool, single: bool) -> (bool, String) {
    let path = definition.path.display();
    let file = match &definition.result {
        Err(why) => return (false, why.0.clone()),
        Ok(file) => file,
    };
    if let Err(why) = &file.carried {
        return (false, why.0.clone());
    }
    match (single, all, definition.onboot) {
        (true, _, _) => (true, format!("{path}, by {}", self::single(&definition.name))),
        (false, true, true) => (true, format!("{path}, by {ALL}")),
        (false, true, false) => (false, format!("{path} says that it is not to (ONBOOT)")),
        (false, false, true) => (false, format!("{path} would, and starting at boot is not enabled")),
        (false, false, false) => {
            (false, format!("{path} says that it is not to (ONBOOT), and starting at boot is not enabled"))
        }
    }
}

fn without_systemd() -> String {
    let program =
        std::env::current_exe().map_or_else(|_| "greway".to_owned(), |path| path.display().to_string());
    format!(
        "this system is not run by systemd: put the line \"{program} up --all\" where its own boot scripts look, \
         after the network's addresses are set (OpenRC: /etc/local.d/greway.start, executable; sysvinit: \
         /etc/rc.local; runit: /etc/runit/2 or a service)"
    )
}

/// systemctl, where systemd runs this system or the one below another root.
struct Systemd<'r> {
    roots: &'r Roots,
}

impl<'r> Systemd<'r> {
    fn find(roots: &'r Roots) -> Option<Self> {
        // sd_booted(3); in an image that is not booted its presence has to do.
        let signs: &[&str] = if roots.is_the_system() {
            &["/run/systemd/system"]
        } else {
            &["/run/systemd/system", "/usr/lib/systemd/systemd", "/lib/systemd/systemd"]
        };
        signs.iter().any(|sign| roots.path(sign).exists()).then_some(Self { roots })
    }

    fn run(&self, words: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new("systemctl");
        if !self.roots.is_the_system() {
            command.arg("--root").arg(self.roots.path("/"));
        }
        let output = command.args(words).output();
        output.with_context(|| format!("cannot run systemctl {}", words.join(" ")))
    }

    /// Whether each of these units starts at boot.
    fn enabled(&self, units: &[String]) -> Vec<bool> {
        let words = std::iter::once("is-enabled").chain(units.iter().map(String::as_str)).collect::<Vec<_>>();
        let answer = self.run(&words).map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let states = answer.as_deref().unwrap_or_default().lines().map(is_enabled).collect::<Vec<_>>();
        if states.len() == units.len() {
            return states;
        }
        // Older ones stop at the first unit that they do not know.
        let alone =
            |unit: &String| self.run(&["is-enabled", unit]).is_ok_and(|output| output.status.success());
        units.iter().map(alone).collect()
    }
}

/// The states that systemctl(1) returns 0 for.
fn is_enabled(state: &str) -> bool {
    matches!(state, "enabled" | "enabled-runtime" | "static" | "alias" | "indirect" | "generated")
}
