//! `greway demo`: the guide's network, its two scenarios, and what goes over the wire meanwhile.
//!
//! Somebody who has never seen GRE should understand in a minute what it does, and somebody who has just built
//! greway should know in ten seconds that it works on this machine. So the demo explains as it goes, checks
//! whatever it shows, and its exit code is the answer. It refuses to touch the machine's own network: the hosts are
//! network namespaces of its own, or simulated ones where the kernel grants none.
//!
//! ```text
//!   mod.rs       which world is possible here, the frame around the scenarios
//!   script.rs    the scenarios, against trait World (world.rs)
//!   kernel.rs    World in network namespaces, each tunnel host with a daemon of its own (lab.rs)
//!   simulated/   World in this process, through the same engine
//!   render.rs    the page; anatomy.rs: captured packets as text
//! ```

mod anatomy;
mod files;
mod kernel;
mod lab;
mod render;
mod script;
mod simulated;
mod world;

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use greway_linux::netns;
use greway_linux::process::{self, Capability};
use greway_testbed::privilege;

use kernel::Kernel;
use render::{Page, Style};
use script::Programme;
use simulated::Simulated;
use world::{Leftover, World};

/// Show both scenarios of the guide in a network of the demo's own, and check them
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// Show one of the guide's two scenarios only
    #[arg(long, value_name = "1|2", value_parser = clap::value_parser!(u8).range(1..=2))]
    scenario: Option<u8>,

    /// Fail where the kernel grants no network namespaces, instead of simulating the links
    #[arg(long, value_name = "WORLD")]
    require: Option<Require>,

    /// Leave the hosts and the last tunnel in place and say how to enter them
    #[arg(long)]
    keep: bool,

    /// Print nothing but the list of checks, as JSON
    #[arg(long, conflicts_with = "keep")]
    json: bool,

    /// No colours, also on a terminal
    #[arg(long)]
    no_color: bool,

    /// What a helper process of the demo does
    #[arg(long, hide = true)]
    stage: Option<Stage>,

    /// The lab's folder: a warden clears it away, a holder is known by it
    #[arg(long, hide = true, requires = "stage")]
    folder: Option<PathBuf>,

    /// Simulate, whatever the kernel would grant
    #[arg(long, hide = true, conflicts_with_all = ["require", "keep"])]
    simulate: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Require {
    /// Real network namespaces
    Kernel,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Warden,
    Hold,
}

/// Runs the demo. Success: every check held.
///
/// # Errors
/// What kept the demo from being shown at all, for example that nothing can be written to standard output.
pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode> {
    match args.stage {
        Some(Stage::Warden) => {
            lab::warden(args.folder.as_deref().context("a warden needs --folder")?);
            return Ok(ExitCode::SUCCESS);
        }
        Some(Stage::Hold) => lab::hold(),
        None => {}
    }
    // Before a namespace is entered: this file goes on showing the network of the machine.
    let links = Links::open();
    let root = process::effective_uid() == 0;
    let ground =
        if args.simulate { Ground::Simulated("it was asked for".to_owned()) } else { Ground::explore() };
    if let (Ground::Simulated(missing), Some(Require::Kernel)) = (&ground, args.require) {
        anyhow::bail!("the demo needs network namespaces (--require kernel): {missing}");
    }
    let mut stdout = io::stdout().lock();
    let mut nowhere = io::sink();
    let out: &mut dyn Write = if args.json { &mut nowhere } else { &mut stdout };
    let mut page = Page::new(out, Style::of_stdout(args.no_color));
    show(args, &ground, root, links, &mut page);
    let held = page.all_held();
    let checks = args.json.then(|| json(&page, &ground));
    if let Err(error) = page.finish() {
        // Whoever read the output has gone; there is nobody left to tell.
        return if error.kind() == io::ErrorKind::BrokenPipe {
            Ok(ExitCode::FAILURE)
        } else {
            Err(error.into())
        };
    }
    if let Some(checks) = checks {
        writeln!(stdout, "{checks:#}")?;
    }
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the hosts can be made of here.
enum Ground {
    /// Network namespaces, by privilege.
    Privileged,
    /// Network namespaces inside a user namespace, which this process is in now.
    UserNamespace,
    /// Nothing: why.
    Simulated(String),
}

impl Ground {
    /// Finds out by trying. May put the process, which must have one thread, into a user namespace.
    fn explore() -> Self {
        let may = |capability| process::has_capability(capability).unwrap_or(false);
        let privileged = may(Capability::SysAdmin) && may(Capability::NetAdmin) && may(Capability::NetRaw);
        let user_namespace = if privileged { None } else { Some(netns::unshare_user_and_net()) };
        match (privilege::check(), user_namespace) {
            (Ok(()), None) => Self::Privileged,
            (Ok(()), Some(Ok(()))) => Self::UserNamespace,
            // Half-way into a user namespace this process has rights, but those it starts do not.
            (Ok(()), Some(Err(refusal))) => {
                Self::Simulated(format!("no capabilities, and a user namespace cannot be set up ({refusal})"))
            }
            (Err(missing), Some(Err(refusal))) => {
                Self::Simulated(format!("{missing}; asking for a user namespace failed too ({refusal})"))
            }
            (Err(missing), _) => Self::Simulated(missing.to_string()),
        }
    }
}

/// Bytes of the bulk transfer: enough for a rate, and soon over.
const TRANSFER: u64 = if cfg!(debug_assertions) { 16 << 20 } else { 64 << 20 };

fn show(args: &DemoArgs, ground: &Ground, root: bool, links: Option<Links>, page: &mut Page<'_>) {
    let started = Instant::now();
    introduce(ground, page);
    let programme = Programme { scenario: args.scenario, transfer: TRANSFER, keep: args.keep };
    if let Ground::Simulated(_) = ground {
        played(script::play(&mut Simulated::new(), page, programme), page);
        page.verdict(started.elapsed());
        if !root && !args.simulate {
            let program = std::env::args_os().next().map_or_else(|| "greway".into(), PathBuf::from);
            page.gap();
            page.text(
                "With root's rights the same is shown with real network devices and a daemon on each host:",
            );
            page.line(&format!("  sudo {} demo", program.display()));
        }
        return;
    }
    let mut world = match Kernel::new(args.keep) {
        Ok(world) => world,
        Err(error) => {
            played(Err(error), page);
            return page.verdict(started.elapsed());
        }
    };
    played(script::play(&mut world, page, programme), page);
    if args.keep {
        page.verdict(started.elapsed());
        return keep(world, matches!(ground, Ground::UserNamespace), page);
    }
    page.heading("Afterwards");
    page.text("Everything is taken down again, and the demo looks for what might be left:");
    clean(&mut world, links, page);
    page.verdict(started.elapsed());
}

const TITLE: &str = "greway demo: two networks joined by a GRE tunnel";

fn introduce(ground: &Ground, page: &mut Page<'_>) {
    match ground {
        Ground::Simulated(missing) => {
            page.line(&format!("SIMULATED: {missing}"));
            page.gap();
            page.title(TITLE);
            page.text(
                "The hosts and links below are simulated inside this process. The tunnel is not: greway's own \
                 readers take the files, and its own engine makes and opens every GRE packet.",
            );
        }
        Ground::Privileged | Ground::UserNamespace => {
            page.title(TITLE);
            let rootless = match ground {
                Ground::UserNamespace => " No root's rights are used: everything is in a user namespace.",
                _ => "",
            };
            page.text(&format!(
                "Each host below is a network namespace: a network stack of its own, as separate as another machine. \
                 linux1 and linux2 each run a greway daemon. This machine's own network is not touched.{rootless}"
            ));
        }
    }
    page.text(
        "Hosts, addresses and both scenarios are those of the guide to GRE on Linux that greway follows.",
    );
    page.gap();
    page.art(&render::TOPOLOGY);
    page.gap();
    page.text(
        "What a GRE tunnel does: linux1 takes a whole packet that is meant for the far side and puts two headers in \
         front of it, an IP header addressed to linux2 (100.0.2.100) and a short GRE header. The network between \
         sees an ordinary packet from linux1 to linux2. linux2 takes both headers off and has the original packet \
         again. On each host the tunnel looks like a network device, tun0. GRE does not encrypt.",
    );
    page.gap();
    page.text(
        "Lines such as “linux1# ip route add …” say what an administrator would type there. The commands of greway \
         are run as they stand; the others are done by the demo itself, which needs no tool for them. A line with \
         a mark is a check of what was just seen.",
    );
}

/// An error ends the showing, and is a check that did not hold.
fn played(outcome: Result<()>, page: &mut Page<'_>) {
    if let Err(error) = outcome {
        page.gap();
        page.check(false, "one of the steps", "could not be taken", "");
        page.text(&format!("    {error:#}"));
    }
}

fn clean(world: &mut dyn World, links: Option<Links>, page: &mut Page<'_>) {
    let leftovers = world.remove().unwrap_or_else(|error| {
        vec![Leftover { what: "everything removed".to_owned(), gone: false, detail: format!("{error:#}") }]
    });
    for Leftover { what, gone, detail } in leftovers {
        page.check(gone, &what, if gone { "yes" } else { "no" }, &detail);
    }
    if let Some(mut links) = links {
        let added = links.added();
        let detail = added.as_ref().map_or_else(ToString::to_string, |added| added.join(", "));
        let same = added.is_ok_and(|added| added.is_empty());
        page.check(same, "no new device on this machine", if same { "yes" } else { "no" }, &detail);
    }
}

fn keep(world: Kernel, user_namespace: bool, page: &mut Page<'_>) {
    let kept = world.keep();
    page.heading("The lab stays (--keep)");
    page.text("Enter a host with:");
    for (host, pid) in &kept.processes {
        let user = if user_namespace { "--user --preserve-credentials " } else { "" };
        page.line(&format!("  {host:<7} nsenter {user}--net --target {pid}"));
    }
    page.text("There, ask greway with, for example:");
    for (host, socket) in &kept.sockets {
        let program = lab::program().unwrap_or_else(|_| "greway".into());
        page.line(&format!("  {host:<7} {} --socket {} status", program.display(), socket.display()));
    }
    page.text("Remove it all with:");
    let pids: Vec<String> = kept.processes.iter().map(|(_, pid)| pid.to_string()).collect();
    page.line(&format!("  kill {}; rm -r {}", pids.join(" "), kept.folder.display()));
}

fn json(page: &Page<'_>, ground: &Ground) -> serde_json::Value {
    let (world, missing) = match ground {
        Ground::Simulated(missing) => ("simulated", Some(missing)),
        Ground::Privileged => ("kernel", None),
        Ground::UserNamespace => ("kernel-in-user-namespace", None),
    };
    let checks: Vec<_> = page
        .checks()
        .iter()
        .map(|check| serde_json::json!({ "what": check.what, "result": check.result, "held": check.held }))
        .collect();
    serde_json::json!({ "world": world, "missing": missing, "held": page.all_held(), "checks": checks })
}

/// The names of the machine's own network devices, seen through a file that was opened in its namespace.
struct Links {
    file: File,
    before: Vec<String>,
}

impl Links {
    fn open() -> Option<Self> {
        // Without /proc there is nothing to compare, and nothing that the demo could have changed.
        let mut file = File::open("/proc/self/net/dev").ok()?;
        let before = names(&mut file).ok()?;
        Some(Self { file, before })
    }

    /// Devices that were not there before.
    fn added(&mut self) -> io::Result<Vec<String>> {
        let now = names(&mut self.file)?;
        Ok(now.into_iter().filter(|name| !self.before.contains(name)).collect())
    }
}

/// Each line of a device is `name: numbers`; two lines of titles have no colon.
fn names(file: &mut File) -> io::Result<Vec<String>> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_loopback_device() {
        let mut links = Links::open().unwrap();
        assert!(links.before.iter().any(|name| name == "lo"), "{:?}", links.before);
        assert!(!links.added().unwrap().iter().any(|name| name == "lo"));
    }

    #[test]
    fn a_failed_showing_is_a_failed_check() {
        let mut out = Vec::new();
        let mut page = Page::new(&mut out, Style { colour: false, unicode: false });
        played(Err(anyhow::anyhow!("no router").context("building")), &mut page);
        assert!(!page.all_held());
        assert!(String::from_utf8(out).unwrap().contains("building: no router"));
    }
}
