//! The part "scale": one tunnel, a hundred, and ten thousand, in both data planes; what [`super::scale`] finds of each, as
//! tables, figures and a picture.

use anyhow::bail;
use serde_json::{Map, Value, json};

use super::about::About;
use super::daemon::Folder;
use super::options::{Options, Part};
use super::peers::Peer;
use super::scale::{self, Scale, Sizes};
use super::svg::{self, Bar, Colour, Panel};
use super::{Outcome, programs};
use crate::shell;

/// How many tunnels; the floors are for the last.
const COUNTS: [usize; 3] = [1, 100, 10_000];
const QUICK_COUNTS: [usize; 1] = [100];
const PLANES: [Peer; 2] = [Peer::Userspace, Peer::Ebpf];

/// A run of [`super::scale`], or why there is none.
struct Ran {
    plane: Peer,
    tunnels: usize,
    found: Result<Scale, String>,
}

/// One line of the tables.
struct Row {
    title: &'static str,
    key: &'static str,
    unit: Unit,
    /// Of so many tunnels; `None`: not measured.
    value: fn(&Scale, f64) -> Option<f64>,
    /// Of ten thousand.
    floor: Option<Floor>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Seconds,
    Bytes,
    Count,
    Share,
    Ratio,
}

#[derive(Debug, Clone, Copy)]
enum Floor {
    AtLeast(f64),
    AtMost(f64),
}

const ROWS: &[Row] = &[
    row("added (`greway up DIR`)", "added", Unit::Seconds, |s, _| Some(s.added)).at_most(20.0),
    row("the same again, nothing to do", "again", Unit::Seconds, |s, _| Some(s.again)),
    row("`greway status --json`", "status", Unit::Seconds, |s, _| Some(s.status)),
    row("`greway tunnel show`", "list", Unit::Seconds, |s, _| Some(s.list)),
    row("resident memory of the daemon", "resident", Unit::Bytes, |s, _| Some(s.resident as f64))
        .at_most(150e6),
    row("… a tunnel", "resident-each", Unit::Bytes, |s, tunnels| {
        each(s.resident.saturating_sub(s.resident_before), tunnels, 100.0)
    }),
    row("memory of the kernel, a tunnel", "kernel-each", Unit::Bytes, |s, tunnels| {
        each(s.kernel, tunnels, 1000.0)
    }),
    row("… of it in slabs", "slab-each", Unit::Bytes, |s, tunnels| each(s.slab, tunnels, 1000.0)),
    row("descriptors of the daemon", "descriptors", Unit::Count, |s, _| Some(s.descriptors as f64)),
    row("processor time of an idle daemon", "idle", Unit::Share, |s, _| Some(s.idle)),
    row("ended by SIGTERM", "ended", Unit::Seconds, |s, _| Some(s.ended)),
    row("restarted", "restarted", Unit::Seconds, |s, _| Some(s.restarted)),
    row("back after `kill -9`", "killed", Unit::Seconds, |s, _| Some(s.killed)),
    row("removed (`greway down DIR`)", "removed", Unit::Seconds, |s, _| Some(s.removed)),
    row("rate through one, beside alone", "rate-ratio", Unit::Ratio, |s, _| s.rate_ratio().map(|s| s.median))
        .at_least(0.95),
];

/// A share of what `total` is more than before; of fewer than `from` tunnels it says nothing about one.
fn each(total: u64, tunnels: f64, from: f64) -> Option<f64> {
    (tunnels >= from).then_some(total as f64 / tunnels)
}

const fn row(
    title: &'static str,
    key: &'static str,
    unit: Unit,
    value: fn(&Scale, f64) -> Option<f64>,
) -> Row {
    Row { title, key, unit, value, floor: None }
}

impl Row {
    const fn at_least(self, bound: f64) -> Self {
        Self { floor: Some(Floor::AtLeast(bound)), ..self }
    }

    const fn at_most(self, bound: f64) -> Self {
        Self { floor: Some(Floor::AtMost(bound)), ..self }
    }

    fn of(&self, ran: &Ran) -> Option<f64> {
        ran.found.as_ref().ok().and_then(|scale| (self.value)(scale, ran.tunnels as f64))
    }

    /// Whether its floor is reached, where it has one and this is the run that it is for.
    fn passed(&self, ran: &Ran) -> Option<bool> {
        let value = self.of(ran).filter(|_| Some(&ran.tunnels) == COUNTS.last())?;
        self.floor.map(|floor| match floor {
            Floor::AtLeast(bound) => value >= bound,
            Floor::AtMost(bound) => value <= bound,
        })
    }

    fn verdict(&self, ran: &Ran) -> Option<String> {
        let (bound, sign) = match self.floor? {
            Floor::AtLeast(bound) => (bound, '≥'),
            Floor::AtMost(bound) => (bound, '≤'),
        };
        let bound_text = self.unit.write(bound);
        Some(match (self.passed(ran), self.of(ran)) {
            (Some(passed), Some(value)) => {
                let by = (value / bound - 1.0).abs() * 100.0;
                format!("{sign} {bound_text}: {} by {by:.0} %", if passed { "passed" } else { "MISSED" })
            }
            _ => format!("{sign} {bound_text}: no figure"),
        })
    }
}

impl Unit {
    fn write(self, value: f64) -> String {
        match self {
            Self::Seconds if value < 0.1 => format!("{:.1} ms", value * 1e3),
            Self::Seconds => format!("{value:.2} s"),
            Self::Bytes if value < 1e6 => format!("{:.1} kB", value / 1e3),
            Self::Bytes => format!("{:.1} MB", value / 1e6),
            Self::Count => format!("{value:.0}"),
            Self::Share => format!("{:.1} %", value * 100.0),
            Self::Ratio => format!("{value:.2}"),
        }
    }

    /// For programs.
    fn name(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Bytes => "byte",
            Self::Count => "",
            Self::Share | Self::Ratio => "1",
        }
    }
}

/// Measures them all.
pub(super) fn run(about: &About, options: &Options) -> anyhow::Result<Outcome> {
    if !shell::is_root() {
        bail!("network namespaces with tunnels, and BPF programs, take root: run it with sudo");
    }
    let programs = programs::build()?;
    let folder = Folder::new(&programs)?;
    let (counts, milliseconds) = if options.quick { (&QUICK_COUNTS[..], 150) } else { (&COUNTS[..], 600) };
    let mut all = Vec::new();
    for plane in PLANES {
        for tunnels in counts.iter().copied() {
            let Some(datapath) = plane.datapath() else { continue };
            let sizes = Sizes { tunnels, datapath, rounds: options.rounds(Part::Scale), milliseconds };
            let mut say = |what: &str| eprintln!("bench: {}, {}: {what}", plane.title(), tunnels_of(tunnels));
            let found = scale::run(&programs, &folder, &sizes, &mut say).map_err(|why| format!("{why:#}"));
            if let Err(why) = &found {
                say(why);
            }
            all.push(Ran { plane, tunnels, found });
        }
    }
    Ok(Outcome {
        part: Part::Scale,
        text: text(&all),
        markdown: markdown(&all),
        json: ("scale", all.iter().map(json_of).collect()),
        svg: Some(svg::draw(Part::Scale.title(), &about.line(), &panels(&all))),
    })
}

/// A hundred tunnels, once, for `cargo xtask test`.
pub(super) fn smoke() -> anyhow::Result<()> {
    let programs = programs::build()?;
    let folder = Folder::new(&programs)?;
    let sizes = Sizes { tunnels: 100, datapath: "userspace", rounds: 1, milliseconds: 100 };
    let found = scale::run(&programs, &folder, &sizes, &mut |what| eprintln!("bench: scale: {what}"))?;
    println!("{}", text(&[Ran { plane: Peer::Userspace, tunnels: sizes.tunnels, found: Ok(found) }]));
    Ok(())
}

fn tunnels_of(count: usize) -> String {
    if count == 1 { "1 tunnel".to_owned() } else { format!("{count} tunnels") }
}

/// The runs of one plane, as a table with heads: a column a count, and the floors.
fn table(all: &[Ran], plane: Peer) -> Vec<Vec<String>> {
    let runs: Vec<&Ran> = all.iter().filter(|ran| ran.plane == plane).collect();
    let heads = [plane.title().to_owned()].into_iter();
    let heads = heads.chain(runs.iter().map(|ran| tunnels_of(ran.tunnels))).chain(["floor".to_owned()]);
    let mut rows = vec![heads.collect()];
    for row in ROWS {
        let figure = |ran: &&Ran| match (row.of(ran), &ran.found) {
            (Some(value), _) => row.unit.write(value),
            (None, Ok(_)) => "–".to_owned(),
            (None, Err(_)) => "none".to_owned(),
        };
        let most = runs.iter().find(|ran| Some(&ran.tunnels) == COUNTS.last());
        let floor = most.and_then(|ran| row.verdict(ran)).unwrap_or_default();
        let cells = [row.title.to_owned()].into_iter().chain(runs.iter().map(figure)).chain([floor]);
        rows.push(cells.collect());
    }
    rows
}

fn planes(all: &[Ran]) -> impl Iterator<Item = Peer> {
    PLANES.into_iter().filter(|plane| all.iter().any(|ran| ran.plane == *plane))
}

/// Why runs have no figures.
fn reasons(all: &[Ran]) -> impl Iterator<Item = String> {
    all.iter().filter_map(|ran| {
        let why = ran.found.as_ref().err()?;
        Some(format!(
            "none of {}, {}: {}",
            ran.plane.title(),
            tunnels_of(ran.tunnels),
            why.replace('\n', " ")
        ))
    })
}

fn text(all: &[Ran]) -> String {
    let mut text = "Many tunnels in one daemon\n".to_owned();
    for plane in planes(all) {
        text.push('\n');
        for row in table(all, plane) {
            let [title, figures @ .., floor] = row.as_slice() else { continue };
            text += &format!("{:34}", title.replace('`', ""));
            for figure in figures {
                text += &format!("{figure:>16}");
            }
            text += format!("  {floor}").trim_end();
            text.push('\n');
        }
    }
    for reason in reasons(all) {
        text += &format!("{reason}\n");
    }
    text
}

fn markdown(all: &[Ran]) -> String {
    let mut text = String::new();
    for plane in planes(all) {
        let rows = table(all, plane);
        for (number, row) in rows.iter().enumerate() {
            text += &format!("| {} |\n", row.join(" | "));
            if number == 0 {
                text += &format!("{}|\n", "|---".repeat(row.len()));
            }
        }
        text.push('\n');
    }
    for reason in reasons(all) {
        text += &format!("- {reason}\n");
    }
    text.trim_end().to_owned() + "\n"
}

fn json_of(ran: &Ran) -> Value {
    let figure = |row: &Row| {
        (
            row.key.to_owned(),
            json!({ "value": row.of(ran), "unit": row.unit.name(), "passed": row.passed(ran) }),
        )
    };
    json!({
        "datapath": ran.plane.key(),
        "tunnels": ran.tunnels,
        "figures": ROWS.iter().map(figure).collect::<Map<_, _>>(),
        // Packets a second among them and alone, round by round.
        "rates": ran.found.as_ref().map(|scale| scale.rates.clone()).unwrap_or_default(),
        "why_not": ran.found.as_ref().err(),
    })
}

/// What is drawn of the rows.
const DRAWN: [&str; 6] = ["added", "restarted", "removed", "resident", "kernel-each", "rate-ratio"];

fn panels(all: &[Ran]) -> Vec<Panel> {
    let panel = |row: &Row| {
        let bar = |ran: &Ran| {
            let value = row.of(ran);
            let spread = match (&ran.found, row.unit) {
                (Ok(scale), Unit::Ratio) => scale.rate_ratio().map(|s| [s.median, s.least, s.most]),
                _ => value.map(|value| [value; 3]),
            };
            let plane = if ran.plane == Peer::Ebpf { "ebpf" } else { "userspace" };
            Bar {
                label: format!("{plane}, {}", tunnels_of(ran.tunnels)),
                value: spread,
                text: value.map_or_else(|| "–".to_owned(), |value| row.unit.write(value)),
                colour: Colour::Ours,
            }
        };
        let note = if row.unit == Unit::Ratio { "more is better" } else { "less is better" };
        Panel {
            title: row.title.replace('`', ""),
            note: note.to_owned(),
            bars: all.iter().map(bar).collect(),
        }
    };
    ROWS.iter().filter(|row| DRAWN.contains(&row.key)).map(panel).collect()
}

#[cfg(test)]
mod unit {
    use super::*;

    fn ran(tunnels: usize, added: f64) -> Ran {
        let found = Scale {
            added,
            resident: 90_000_000,
            resident_before: 10_000_000,
            rates: vec![[90e3, 100e3], [99e3, 100e3], [98e3, 100e3]],
            ..Scale::default()
        };
        Ran { plane: Peer::Userspace, tunnels, found: Ok(found) }
    }

    fn line<'a>(text: &'a str, start: &str) -> &'a str {
        text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start}: {text}"))
    }

    #[test]
    fn floors_are_for_the_most_tunnels_and_say_by_how_much() {
        let all = [ran(1, 0.01), ran(10_000, 25.0)];
        let text = text(&all);
        assert!(
            line(&text, "added").ends_with("10.0 ms         25.00 s  ≤ 20.00 s: MISSED by 25 %"),
            "{text}"
        );
        assert!(line(&text, "resident").ends_with("≤ 150.0 MB: passed by 40 %"), "{text}");
        assert!(line(&text, "… a tunnel").ends_with("–          8.0 kB"), "{text}");
        assert!(line(&text, "rate through").ends_with("0.98  ≥ 0.95: passed by 3 %"), "{text}");
        let few = table(&[ran(1, 30.0)], Peer::Userspace);
        assert_eq!(few[1].last().map(String::as_str), Some(""), "no floor for one tunnel");
    }

    #[test]
    fn what_failed_has_its_reason_on_the_page_and_in_the_figures() {
        let all = [Ran { found: Err("no\nroom".to_owned()), ..ran(10_000, 0.0) }];
        assert!(
            markdown(&all).ends_with("- none of greway userspace, 10000 tunnels: no room\n"),
            "{}",
            markdown(&all)
        );
        assert!(markdown(&all).contains("| none | ≤ 20.00 s: no figure |"), "{}", markdown(&all));
        let value = json_of(&all[0]);
        assert_eq!(value["why_not"], "no\nroom");
        assert_eq!(value["figures"]["added"]["value"], Value::Null);
        assert_eq!(json_of(&ran(10_000, 2.0))["figures"]["added"]["passed"], true);
        assert_eq!(json_of(&ran(100, 2.0))["figures"]["added"]["passed"], Value::Null);
    }

    #[test]
    fn what_is_drawn_is_a_row() {
        let all = [ran(1, 1.0)];
        assert_eq!(panels(&all).len(), DRAWN.len());
        let ratio = panels(&all).pop().map(|panel| panel.bars[0].value);
        assert_eq!(ratio, Some(Some([0.98, 0.9, 0.99])));
    }
}
