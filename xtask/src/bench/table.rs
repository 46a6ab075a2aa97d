//! The figures for people: lines for a terminal, a table for docs/bench.

use super::floors;
use super::peers::Peer;
use super::results::{Cell, Place, Results, Spread};

/// A cell in words: measure, peer, median, beside each of those whom it is compared with, floors.
type Row = Vec<String>;

/// Lines for a terminal.
pub(super) fn text(all: &[Results]) -> String {
    let mut text = String::new();
    for results in all {
        let mut rows = vec![heads(results)];
        rows.extend(results.cells.iter().map(|cell| row(results, cell)));
        let widths: Vec<usize> = (0..rows[0].len() - 1)
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        text += &format!("{}{}\n", if text.is_empty() { "" } else { "\n" }, heading(results));
        let mut last = String::new();
        for mut row in rows {
            // A measure is named once.
            let named = std::mem::replace(&mut last, row[0].clone()) == last;
            if named {
                row[0].clear();
            }
            let padded = row.iter().zip(widths.iter().copied().chain([0]));
            let line: Vec<String> = padded.map(|(cell, width)| format!("{cell:width$}")).collect();
            text += line.join("  ").trim_end();
            text.push('\n');
        }
        reasons(results).iter().for_each(|reason| text += &format!("{reason}\n"));
    }
    text
}

/// Tables for a page.
pub(super) fn markdown(all: &[Results]) -> String {
    let mut text = String::new();
    for results in all {
        text += &format!("{}## {}\n\n", if text.is_empty() { "" } else { "\n" }, heading(results));
        let head = heads(results);
        text += &format!("| {} |\n{}|\n", head.join(" | "), "|---".repeat(head.len()));
        for cell in &results.cells {
            text += &format!("| {} |\n", row(results, cell).join(" | "));
        }
        let reasons = reasons(results);
        if !reasons.is_empty() {
            text += &format!("\n- {}\n", reasons.join("\n- "));
        }
    }
    text
}

/// Why figures are missing: a line a peer and reason, with the measures that it is about, unless it is all of them.
fn reasons(results: &Results) -> Vec<String> {
    let mut reasons: Vec<(Peer, &str, Vec<&str>)> = Vec::new();
    for cell in &results.cells {
        let Some(why) = cell.why_not() else { continue };
        match reasons.iter_mut().find(|(peer, known, _)| (*peer, *known) == (cell.peer, why)) {
            Some((_, _, measures)) => measures.push(cell.measure.title()),
            None => reasons.push((cell.peer, why, vec![cell.measure.title()])),
        }
    }
    let line = |(peer, why, measures): (Peer, &str, Vec<&str>)| {
        let all = results.cells.iter().filter(|cell| cell.peer == peer).count() == measures.len();
        let what = if all { String::new() } else { format!(", {}", measures.join(", ")) };
        format!("none of {}{what}: {}", peer.title(), why.replace('\n', " "))
    };
    reasons.into_iter().map(line).collect()
}

fn heading(results: &Results) -> String {
    let rounds = results.cells.iter().map(|cell| cell.rounds.len()).max().unwrap_or(0);
    let where_ = match results.place {
        Place::Native => "On this machine",
        Place::Guest => "In a guest, counted in instructions (1 ns each)",
    };
    match rounds {
        0 | 1 => format!("{where_}: one round"),
        _ => format!("{where_}: medians of {rounds} rounds, in brackets the range"),
    }
}

fn heads(results: &Results) -> Row {
    let beside = results.beside.iter().map(|peer| format!("beside {}", peer.title()));
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Row>();
    words(&["measure", "peer", "median"]).into_iter().chain(beside).chain(words(&["floor"])).collect()
}

fn row(results: &Results, cell: &Cell) -> Row {
    let Cell { measure, peer, .. } = cell;
    let (measure, peer) = (*measure, *peer);
    let median = match (cell.spread(), &cell.why_not) {
        (Some(spread), None) => measure.write(spread.median),
        (Some(_), Some(_)) => format!("failed after {} rounds", cell.rounds.len()),
        (None, _) => "none".to_owned(),
    };
    let comparison = |spread: Spread| {
        let write = |value| measure.write_comparison(value);
        let range = format!(" ({}–{})", write(spread.least), write(spread.most));
        format!("{}{}", write(spread.median), if spread.least < spread.most { &range } else { "" })
    };
    let beside = |with: &Peer| {
        // What a link has over a tunnel is said where the tunnel is, and so is what Open vSwitch has over another.
        let rank = |peer: Peer| results.beside.iter().position(|with| *with == peer);
        let earlier = rank(peer).is_none_or(|own| rank(*with).is_some_and(|other| other < own));
        let wanted = cell.why_not.is_none() && earlier && (peer != Peer::BareAgain || *with == Peer::Bare);
        let compared = results.compare(measure, peer, *with).filter(|_| wanted);
        compared.map_or_else(String::new, comparison)
    };
    let verdicts: Vec<String> =
        floors::of(results, measure, peer).iter().map(floors::Verdict::words).collect();
    let floor = if peer == Peer::BareAgain { "the noise".to_owned() } else { verdicts.join("; ") };
    let start = [measure.title().to_owned(), peer.title().to_owned(), median];
    start.into_iter().chain(results.beside.iter().map(beside)).chain([floor]).collect()
}

#[cfg(test)]
mod unit {
    use super::super::measures::Measure;
    use super::*;

    fn results() -> Results {
        let peers = [Peer::Bare, Peer::BareAgain, Peer::Vxlan, Peer::Ebpf];
        let mut results = Results::new(Place::Native, &[Measure::Tcp], &peers, &[Peer::Bare, Peer::Vxlan]);
        for (bare, ebpf) in [(10e9, 9e9), (10e9, 9.4e9), (10e9, 9.2e9)] {
            results.add(Measure::Tcp, Peer::Bare, Ok(bare));
            results.add(Measure::Tcp, Peer::BareAgain, Ok(bare));
            results.add(Measure::Tcp, Peer::Ebpf, Ok(ebpf));
        }
        results.skip(Peer::Vxlan, "not on this machine: no module");
        results
    }

    #[test]
    fn a_terminal_gets_columns() {
        let expected = "\
On this machine: medians of 3 rounds, in brackets the range
measure          peer             median        beside bare veth  beside kernel VXLAN  floor
TCP, one stream  bare veth        10.00 Gbit/s
                 bare veth again  10.00 Gbit/s  1.00                                   the noise
                 kernel VXLAN     none
                 greway ebpf      9.20 Gbit/s   0.92 (0.90–0.94)                       ≥ 0.88 of bare veth: passed by 5 %; ≥ 0.97 of kernel VXLAN: no figure
none of kernel VXLAN: not on this machine: no module
";
        assert_eq!(text(&[results()]), expected);
    }

    #[test]
    fn a_page_has_a_row_a_cell() {
        let page = markdown(&[results()]);
        assert!(
            page.contains("| TCP, one stream | greway ebpf | 9.20 Gbit/s | 0.92 (0.90–0.94) |  | ≥ 0.88"),
            "{page}"
        );
        assert_eq!(page.lines().filter(|line| line.starts_with("| TCP")).count(), 4);
        assert!(page.ends_with("\n\n- none of kernel VXLAN: not on this machine: no module\n"), "{page}");
    }

    #[test]
    fn a_reason_is_told_once_with_what_it_is_about() {
        let measures = [Measure::Tcp, Measure::TcpBack, Measure::Udp64];
        let mut results = Results::new(Place::Native, &measures, &[Peer::Ebpf], &[]);
        for measure in [Measure::Tcp, Measure::TcpBack] {
            results.add(measure, Peer::Ebpf, Err(anyhow::anyhow!("cut")));
        }
        results.add(Measure::Udp64, Peer::Ebpf, Ok(1.0));
        assert_eq!(reasons(&results), ["none of greway ebpf, TCP, one stream, TCP, one stream back: cut"]);
    }
}
