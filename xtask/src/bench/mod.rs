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
mod chart;
mod daemon;
mod floors;
mod guest;
mod json;
mod many;
mod measures;
mod micro;
mod native;
mod options;
mod peers;
mod programs;
mod results;
mod rig;
mod scale;
mod svg;
mod table;

use std::time::Instant;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::shell;
use about::About;
use options::{Options, Part};
use results::Results;

/// Rounds in a guest, where rounds differ little.
const GUEST_ROUNDS: usize = 3;

/// What a part of the bench gave, for everybody who wants to see it.
struct Outcome {
    part: Part,
    /// For a terminal.
    text: String,
    /// For docs/bench: what stands below the head of the page.
    markdown: String,
    /// For programs: a field of the file.
    json: (&'static str, Value),
    /// A picture.
    svg: Option<String>,
}

/// Runs `bench WORDS`.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let options = Options::parse(arguments)?;
    if let Some(path) = &options.json {
        json::try_to_write(path)?;
    }
    let start = Instant::now();
    let about = About::now();
    let mut parts = Vec::new();
    for part in &options.parts {
        let outcome = match part {
            Part::Userspace | Part::FastPath => compared(*part, &about, &measure(*part, &options)?),
            Part::Scale => many::run(&about, &options)?,
            Part::Micro => micro::run(&about, &options)?,
        };
        // What the next part takes may be long, and nothing is lost when it fails.
        println!("\n{}\n\n{}", about.line(), outcome.text);
        if options.record {
            record(&about, &outcome)?;
        }
        parts.push(outcome.json);
        if let Some(path) = &options.json {
            json::write(path, &about, parts.iter().cloned())?;
        }
    }
    println!("{:.0} s in all", start.elapsed().as_secs_f64());
    Ok(())
}

/// What peers gave, as a part.
fn compared(part: Part, about: &About, all: &[Results]) -> Outcome {
    let native = all.iter().find(|results| results.place == results::Place::Native);
    Outcome {
        part,
        text: table::text(all),
        markdown: table::markdown(all),
        json: ("cells", json::cells(all)),
        svg: native.map(|results| chart::of(results, part.title(), &about.line())),
    }
}

/// Writes a part's page, figures and picture into docs/bench.
fn record(about: &About, outcome: &Outcome) -> anyhow::Result<()> {
    let Outcome { part, markdown, json, svg, .. } = outcome;
    let (directory, name, title) = (shell::root().join("docs/bench"), part.name(), part.title());
    let write = |end: &str, text: &str| {
        let path = directory.join(format!("{name}.{end}"));
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let picture = if svg.is_some() { format!("![{title}]({name}.svg)\n\n") } else { String::new() };
    let page = format!(
        "# {title}\n\nMade by `cargo xtask bench {name} --record`; [how to read it](README.md).\n\n{}.\n\n{picture}\
         {markdown}",
        about.line()
    );
    write("md", &page)?;
    json::write(&directory.join(format!("{name}.json")), about, [json.clone()])?;
    if let Some(svg) = svg {
        write("svg", svg)?;
    }
    println!(
        "recorded in docs/bench: {name}.md, {name}.json{}",
        if svg.is_some() { ", and the picture" } else { "" }
    );
    Ok(())
}

/// One quick round on this machine, for `cargo xtask test`: what has no number, and why. A kernel without VXLAN is
/// told apart, since that is no fault of the bench.
pub(crate) fn smoke() -> anyhow::Result<Vec<(String, String)>> {
    let options = Options::parse(&["userspace".to_owned(), "--quick".to_owned()])?;
    let all = measure(Part::Userspace, &options)?;
    println!("{}", table::text(&all));
    many::smoke()?;
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

fn measure(part: Part, options: &Options) -> anyhow::Result<Vec<Results>> {
    if !shell::is_root() {
        bail!("network namespaces with tunnels, and BPF programs, take root: run it with sudo");
    }
    let programs = programs::build()?;
    let rounds = options.rounds(part);
    let mut all = Vec::new();
    if options.native {
        all.push(native::run(&programs, &options.plan(part), rounds, options.quick)?);
    }
    if options.guest {
        match guest::run(&programs, GUEST_ROUNDS.min(rounds)) {
            Ok(results) => all.push(results),
            // The native figures are worth showing.
            Err(why) => eprintln!("bench: no figures from a guest: {why:#}"),
        }
    }
    Ok(all)
}
