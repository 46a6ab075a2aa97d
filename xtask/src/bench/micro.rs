//! Functions alone: criterion runs them (`crates/*/benches`), and this collects what it found.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::about::About;
use super::options::{Options, Part};
use super::svg::{self, Bar, Colour, Panel};
use super::{Outcome, programs};
use crate::shell;

/// Where they are: a package and its bench.
const BENCHES: [[&str; 2]; 2] = [["greway-wire", "wire"], ["greway-engine", "engine"]];

/// One function on one input.
#[derive(Debug, Clone, PartialEq)]
struct Found {
    /// What is done, and on how much: `checksum`, `1500`.
    group: String,
    name: String,
    /// Nanoseconds a call: the median, and the interval in which criterion is 95 % sure of it.
    nanos: [f64; 3],
    /// Bytes a call, where it goes through that many.
    bytes: Option<f64>,
}

/// Runs them all.
pub(super) fn run(about: &About, options: &Options) -> anyhow::Result<Outcome> {
    let start = SystemTime::now();
    // Seconds of warming up and measuring each, and how hard the interval is thought about.
    let [warm_up, time, resamples] =
        if options.quick { ["0.05", "0.1", "1001"] } else { ["0.5", "2", "100000"] };
    for [package, bench] in BENCHES {
        eprintln!("bench: {package}: functions");
        let words = ["bench", "--quiet", "--package", package, "--bench", bench, "--", "--noplot"];
        let mut cargo = shell::cargo(&words);
        cargo.args(["--warm-up-time", warm_up, "--measurement-time", time, "--sample-size", "20"]);
        cargo.args(["--nresamples", resamples]);
        run_showing_names(&mut cargo)?;
    }
    let all = collect(&programs::target_directory()?.join("criterion"), start)?;
    if all.is_empty() {
        bail!("criterion left no figures");
    }
    Ok(Outcome {
        part: Part::Micro,
        text: text(&all),
        markdown: markdown(&all),
        json: ("micro", all.iter().map(Found::json).collect()),
        svg: Some(svg::draw(Part::Micro.title(), &about.line(), &panels(&all))),
    })
}

/// Runs a bench, and says of criterion's progress only what is being measured.
fn run_showing_names(cargo: &mut Command) -> anyhow::Result<()> {
    let mut child = cargo.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let said = child.stderr.take().context("its output is piped")?;
    for line in BufReader::new(said).lines().map_while(Result::ok) {
        match line.strip_prefix("Benchmarking ") {
            Some(name) if name.contains(": ") => {}
            Some(name) => eprintln!("bench: {name}"),
            None => eprintln!("{line}"),
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{cargo:?} ended with {status}");
    }
    Ok(())
}

/// What criterion has written since `start`: a folder a function, with `new/benchmark.json` and `new/estimates.json`.
fn collect(folder: &Path, start: SystemTime) -> anyhow::Result<Vec<Found>> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && !path.ends_with("new") {
                folders.push(path);
            } else if path.ends_with("new") {
                let estimates = path.join("estimates.json");
                let fresh = fs::metadata(&estimates).and_then(|file| file.modified());
                if fresh.is_ok_and(|written| written >= start) {
                    let read = |path: &Path| -> anyhow::Result<Value> {
                        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
                        serde_json::from_str(&text).with_context(|| path.display().to_string())
                    };
                    all.push(found(&read(&path.join("benchmark.json"))?, &read(&estimates)?)?);
                }
            }
        }
    }
    all.sort_by(|one, other| {
        let size = |found: &Found| found.name.parse::<u64>().unwrap_or(0);
        one.group.cmp(&other.group).then(size(one).cmp(&size(other))).then(one.name.cmp(&other.name))
    });
    Ok(all)
}

fn found(benchmark: &Value, estimates: &Value) -> anyhow::Result<Found> {
    let word = |key: &str| benchmark[key].as_str().map(str::to_owned);
    let median = &estimates["median"];
    let number = |value: &Value| value.as_f64().with_context(|| format!("criterion says no time: {median}"));
    let interval = &median["confidence_interval"];
    Ok(Found {
        group: word("group_id").context("criterion names the group")?,
        // `checksum/1500`: a value; `parse/no options`: a function.
        name: [word("function_id"), word("value_str")].into_iter().flatten().collect::<Vec<_>>().join(" "),
        nanos: [
            number(&median["point_estimate"])?,
            number(&interval["lower_bound"])?,
            number(&interval["upper_bound"])?,
        ],
        bytes: benchmark["throughput"]["Bytes"].as_f64(),
    })
}

impl Found {
    fn time(&self) -> String {
        let [median, ..] = self.nanos;
        match median {
            ..100.0 => format!("{median:.1} ns"),
            ..10_000.0 => format!("{median:.0} ns"),
            _ => format!("{:.1} µs", median / 1e3),
        }
    }

    /// By how many bytes it gets in a second.
    fn rate(&self) -> String {
        let [median, ..] = self.nanos;
        self.bytes.map_or_else(String::new, |bytes| format!("{:.1} GB/s", bytes / median))
    }

    fn json(&self) -> Value {
        let [median, least, most] = self.nanos;
        json!({
            "group": self.group, "name": self.name, "nanos": median, "nanos_95": [least, most],
            "bytes": self.bytes,
        })
    }
}

fn text(all: &[Found]) -> String {
    let row = |found: &Found| {
        let Found { group, name, .. } = found;
        format!("{:44}{:>10}{:>12}", format!("{group}, {name}"), found.time(), found.rate())
            .trim_end()
            .to_owned()
    };
    let rows: Vec<String> = all.iter().map(row).collect();
    format!("Single functions, medians\n{}\n", rows.join("\n"))
}

fn markdown(all: &[Found]) -> String {
    let row = |found: &Found| {
        format!("| {} | {} | {} | {} |\n", found.group, found.name, found.time(), found.rate())
    };
    let rows: String = all.iter().map(row).collect();
    format!("| what | of what | a call | by |\n|---|---|---|---|\n{rows}")
}

fn panels(all: &[Found]) -> Vec<Panel> {
    let mut panels: Vec<Panel> = Vec::new();
    for found in all {
        if panels.last().is_none_or(|panel| panel.title != found.group) {
            let (title, note) = (found.group.clone(), "less is better".to_owned());
            panels.push(Panel { title, note, bars: Vec::new() });
        }
        let rate = found.rate();
        let text = if rate.is_empty() { found.time() } else { format!("{}, {rate}", found.time()) };
        let bar = Bar { label: found.name.clone(), value: Some(found.nanos), text, colour: Colour::Ours };
        if let Some(panel) = panels.last_mut() {
            panel.bars.push(bar);
        }
    }
    panels
}

#[cfg(test)]
mod unit {
    use super::*;

    fn one(group: &str, name: &str, nanos: f64, bytes: Option<f64>) -> Found {
        Found { group: group.to_owned(), name: name.to_owned(), nanos: [nanos; 3], bytes }
    }

    #[test]
    fn criterions_files_are_read() {
        let benchmark = json!({
            "group_id": "checksum", "function_id": null, "value_str": "1500", "throughput": { "Bytes": 1500 },
        });
        let estimates = json!({ "median": {
            "point_estimate": 50.0,
            "confidence_interval": { "lower_bound": 49.0, "upper_bound": 52.5, "confidence_level": 0.95 },
        } });
        let read = found(&benchmark, &estimates).unwrap();
        let expected = Found { nanos: [50.0, 49.0, 52.5], ..one("checksum", "1500", 50.0, Some(1500.0)) };
        assert_eq!(read, expected);
        assert_eq!((read.time(), read.rate()), ("50.0 ns".to_owned(), "30.0 GB/s".to_owned()));
        assert!(found(&benchmark, &json!({})).is_err());
    }

    #[test]
    fn what_an_earlier_run_left_is_not_collected() {
        let folder = std::env::temp_dir().join(format!("greway-criterion-{}", std::process::id()));
        let new = folder.join("lookup/10/new");
        fs::create_dir_all(&new).unwrap();
        let write = |name: &str, value: Value| fs::write(new.join(name), value.to_string()).unwrap();
        write("benchmark.json", json!({ "group_id": "lookup", "function_id": null, "value_str": "10" }));
        let interval = json!({ "lower_bound": 1.0, "upper_bound": 1.0 });
        write(
            "estimates.json",
            json!({ "median": { "point_estimate": 1.0, "confidence_interval": interval } }),
        );
        let of = |start| collect(&folder, start).unwrap();
        let fresh = of(SystemTime::UNIX_EPOCH);
        let stale = of(SystemTime::now() + std::time::Duration::from_secs(3600));
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(fresh, [one("lookup", "10", 1.0, None)]);
        assert_eq!(stale, []);
    }

    #[test]
    fn a_group_is_a_panel_and_a_function_a_row() {
        let all = [one("lookup", "10", 20.0, None), one("split", "65535", 12_000.0, Some(65_535.0))];
        let groups: Vec<String> = panels(&all).into_iter().map(|panel| panel.title).collect();
        assert_eq!(groups, ["lookup", "split"]);
        assert!(markdown(&all).ends_with("| split | 65535 | 12.0 µs | 5.5 GB/s |\n"), "{}", markdown(&all));
        assert!(
            text(&all).contains("lookup, 10                                     20.0 ns\n"),
            "{}",
            text(&all)
        );
    }
}
