//! `cargo xtask bench`: greway beside the bare link, the kernel's tunnels and Open vSwitch, on this machine, as ratios.
//!
//! Absolute figures say more about a machine than about a program. So every peer has a pair of network namespaces of
//! its own, all stand side by side for the whole run, each round asks each of them in turn, and what is compared is
//! what one round gave. A bare link beside the bare link shows how much of a difference is noise. Floors are
//! printed and never enforced: a busy machine is no bug. What cannot be measured has a reason in its place, and a data
//! plane that is not the one that was asked for is never measured in its name.
//!
//! [docs/bench](../../../docs/bench/README.md) says how to read the table.

mod about;
mod daemon;
mod floors;
mod guest;
mod json;
mod measures;
mod native;
mod peers;
mod programs;
mod results;
mod rig;
mod table;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail};

use crate::shell;
use results::Results;

/// How a bench is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    what: What,
    /// How often each peer is asked for each measure.
    rounds: usize,
    /// As short as can be: to see that it works.
    quick: bool,
    native: bool,
    guest: bool,
    json: Option<PathBuf>,
    /// Into docs/bench.
    record: bool,
}

/// A part of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// Both data planes beside all peers.
    Userspace,
    /// The fast path, here and in a guest whose kernel has GRE.
    FastPath,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Userspace => "userspace",
            Self::FastPath => "fastpath",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Userspace => "Both data planes, measured",
            Self::FastPath => "The fast path, measured",
        }
    }

    fn plan(self) -> &'static native::Plan {
        match self {
            Self::Userspace => &native::ALL,
            Self::FastPath => &native::FAST_PATH,
        }
    }

    fn rounds(self) -> usize {
        match self {
            Self::Userspace => 5,
            Self::FastPath => 9,
        }
    }
}

/// Rounds in a guest, where rounds differ little.
const GUEST_ROUNDS: usize = 3;

/// Runs `bench WHAT`.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let options = Options::parse(arguments)?;
    let start = Instant::now();
    let all = measure(&options)?;
    let about = about::About::now();
    println!("\n{}", table::text(&about, &all));
    println!("{:.0} s in all", start.elapsed().as_secs_f64());
    if let Some(path) = &options.json {
        json::write(path, &about, &all)?;
    }
    if options.record {
        let (directory, name) = (shell::root().join("docs/bench"), options.what.name());
        json::write(&directory.join(format!("{name}.json")), &about, &all)?;
        let path = directory.join(format!("{name}.md"));
        let page = table::markdown(options.what.title(), name, &about, &all);
        std::fs::write(&path, page).with_context(|| path.display().to_string())?;
        println!("recorded in docs/bench: {name}.md, {name}.json");
    }
    Ok(())
}

/// One quick round on this machine, for `cargo xtask test`: what has no number, and why. A kernel without VXLAN is
/// told apart, since that is no fault of the bench.
pub(crate) fn smoke() -> anyhow::Result<Vec<(String, String)>> {
    let options = Options::parse(&["userspace".to_owned(), "--quick".to_owned()])?;
    let all = measure(&options)?;
    println!("{}", table::text(&about::About::now(), &all));
    let mut not_run = Vec::new();
    let mut wrong = Vec::new();
    for (cell, why) in all.iter().flat_map(Results::missing) {
        let here = (cell, why);
        if here.1.starts_with(peers::NOT_HERE) { not_run.push(here) } else { wrong.push(here) }
    }
    if !wrong.is_empty() {
        let rows = wrong.iter().map(|(cell, why)| format!("{cell}: {why}")).collect::<Vec<_>>();
        bail!("no number for\n  {}", rows.join("\n  "));
    }
    Ok(not_run)
}

fn measure(options: &Options) -> anyhow::Result<Vec<Results>> {
    if !shell::is_root() {
        bail!("network namespaces with tunnels, and BPF programs, take root: run it with sudo");
    }
    let programs = programs::build()?;
    let mut all = Vec::new();
    if options.native {
        all.push(native::run(&programs, options.what.plan(), options.rounds, options.quick)?);
    }
    if options.guest {
        match guest::run(&programs, GUEST_ROUNDS.min(options.rounds)) {
            Ok(results) => all.push(results),
            // The native figures are worth showing.
            Err(why) => eprintln!("bench: no figures from a guest: {why:#}"),
        }
    }
    Ok(all)
}

impl Options {
    fn parse(arguments: &[String]) -> anyhow::Result<Self> {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let [what, rest @ ..] = words.as_slice() else { bail!("say which: userspace or fastpath") };
        let what = match *what {
            "userspace" => What::Userspace,
            "fastpath" => What::FastPath,
            _ => bail!("there is no bench \"{what}\": use userspace or fastpath"),
        };
        let guest = what == What::FastPath;
        let mut options = Self {
            what,
            rounds: what.rounds(),
            quick: false,
            native: true,
            guest,
            json: None,
            record: false,
        };
        let mut rest = rest.iter().copied();
        let mut rounds = None;
        while let Some(word) = rest.next() {
            match word {
                "--rounds" => {
                    let number = rest.next().and_then(|text| text.parse().ok()).filter(|n| *n > 0);
                    rounds = Some(number.context("--rounds needs a number from 1")?);
                }
                "--quick" => options.quick = true,
                "--record" => options.record = true,
                "--json" => options.json = Some(rest.next().context("--json needs a file")?.into()),
                "--only" if what == What::FastPath => match rest.next() {
                    Some("native") => options.guest = false,
                    Some("guest") => options.native = false,
                    _ => bail!("--only takes native or guest"),
                },
                _ => bail!(
                    "\"{word}\" is unknown: use --rounds N, --quick, --json FILE, --record, and for fastpath \
                     --only native|guest"
                ),
            }
        }
        if options.quick {
            options.rounds = 1;
            options.guest &= !options.native;
        }
        options.rounds = rounds.unwrap_or(options.rounds);
        Ok(options)
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    fn parse(words: &str) -> anyhow::Result<Options> {
        Options::parse(&words.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn a_bench_is_named_and_options_that_are_unknown_are_refused() {
        assert_eq!(parse("fastpath").unwrap().rounds, 9);
        for wrong in ["", "slowpath", "fastpath --rounds 0", "fastpath --only here", "fastpath --fast"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn quick_is_one_native_round_unless_told_otherwise() {
        let quick = parse("fastpath --quick").unwrap();
        assert!(quick.native && !quick.guest && quick.rounds == 1);
        assert_eq!(parse("fastpath --quick --rounds 2").unwrap().rounds, 2);
        let guest = parse("fastpath --only guest --quick").unwrap();
        assert!(guest.guest && !guest.native);
    }
}
