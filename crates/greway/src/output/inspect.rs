//! Packets of a capture, a line each, as people read them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use greway_inspect::Summary;
use greway_inspect::record::{ChecksumState, Gre, Outer, Packet, Record};
use greway_wire::ethertype;

use super::line;

/// What was said, counted.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    packets: u64,
    verdicts: BTreeMap<Judged, (u64, Option<String>)>,
}

/// A verdict and its reason.
type Judged = (&'static str, Option<&'static str>);

impl Tally {
    /// Counts a packet.
    pub(crate) fn count(&mut self, record: &Record) {
        self.packets += 1;
        if let Some(verdict) = record.verdict {
            let (count, explanation) = self.verdicts.entry((verdict, record.reason)).or_default();
            *count += 1;
            if explanation.is_none() {
                explanation.clone_from(&record.explanation);
            }
        }
    }

    /// Packets counted.
    pub(crate) fn packets(&self) -> u64 {
        self.packets
    }
}

/// One line of JSON.
///
/// # Errors
/// Where nobody reads any more.
pub(crate) fn json(record: &Record) -> io::Result<()> {
    let text = serde_json::to_string(record).map_err(io::Error::other)?;
    writeln!(io::stdout(), "{text}")
}

/// One packet: number, time, the delivery header, the GRE header, what is inside, the verdict.
///
/// # Errors
/// Where nobody reads any more.
pub(crate) fn packet(record: &Record) -> io::Result<()> {
    let mut text = format!("{:>6}", record.frame);
    if let Some(time) = &record.time {
        let _infallible = write!(text, " {}", time.get(..time.len() - 3).unwrap_or(time));
    }
    for vlan in &record.vlans {
        let _infallible = write!(text, " vlan {vlan}");
    }
    if !record.fragments.is_empty() {
        let _infallible = write!(text, " ({} fragments)", record.fragments.len());
    }
    layers(&mut text, &record.packet);
    if let Some(verdict) = record.verdict {
        let _infallible = write!(text, " → {verdict}");
        if let Some(reason) = record.reason {
            let _infallible = write!(text, " ({reason})");
        }
    }
    writeln!(io::stdout(), "{text}")
}

fn layers(text: &mut String, packet: &Packet) {
    if let Some(ethernet) = &packet.ethernet {
        let what = ethertype::name(ethernet.ethertype).unwrap_or("other");
        let _infallible = write!(text, " | Ethernet {} > {} {what}", ethernet.src, ethernet.dst);
    }
    if let Some(outer) = &packet.outer {
        header(text, outer);
    }
    if let Some(gre) = &packet.gre {
        gre_header(text, gre);
    }
    if let Some(problem) = &packet.problem {
        let _infallible = write!(text, " | !! {problem}");
    }
    if let Some(inner) = &packet.inner {
        layers(text, inner);
    }
}

fn header(text: &mut String, outer: &Outer) {
    let _infallible = write!(text, " | {} > {} ttl {}", outer.src, outer.dst, outer.ttl);
    if outer.tos != 0 {
        let _infallible = write!(text, " tos {:#04x}", outer.tos);
    }
    if outer.df == Some(true) {
        text.push_str(" DF");
    }
    if let Some(label) = outer.flowlabel.filter(|label| *label != 0) {
        let _infallible = write!(text, " flowlabel {label:#07x}");
    }
    if let Some(limit) = outer.encaplimit {
        let _infallible = write!(text, " encaplimit {limit}");
    }
    let _infallible = write!(text, " len {}", outer.len);
    match outer.protocol {
        Some(47) | None => {}
        Some(1) => text.push_str(" ICMP"),
        Some(58) => text.push_str(" ICMPv6"),
        Some(6) => text.push_str(" TCP"),
        Some(17) => text.push_str(" UDP"),
        Some(other) => {
            let _infallible = write!(text, " protocol {other}");
        }
    }
}

fn gre_header(text: &mut String, gre: &Gre) {
    text.push_str(" | GRE");
    if gre.version != 0 {
        let _infallible = write!(text, " version {}", gre.version);
    }
    if let Some(key) = gre.key {
        let _infallible = write!(text, " key {key}");
    }
    if let Some(sequence) = gre.sequence {
        let _infallible = write!(text, " seq {sequence}");
    }
    match (gre.checksum.value, gre.checksum.state) {
        (_, Some(ChecksumState::Absent)) => {}
        (_, Some(state)) => {
            let _infallible = write!(text, " csum {}", state.word());
        }
        (_, None) => text.push_str(" csum not all there"),
    }
    if let Some(protocol) = gre.protocol {
        match ethertype::name(protocol) {
            Some(name) => {
                let _infallible = write!(text, " {name}");
            }
            None => {
                let _infallible = write!(text, " protocol type {protocol:#06x}");
            }
        }
    }
}

/// What it came to.
pub(crate) fn summary(summary: &Summary, tally: &Tally) {
    let Summary { frames, gre, other, unread, incomplete } = *summary;
    line(&format!("{frames} frames: {gre} GRE, {other} other, {unread} not read"));
    if incomplete > 0 {
        line(&format!("{incomplete} GRE datagrams lack fragments"));
    }
    for ((verdict, reason), (count, explanation)) in &tally.verdicts {
        let reason = reason.map_or_else(String::new, |reason| format!(" {reason}"));
        let explanation = explanation.as_ref().map_or_else(String::new, |text| format!(": {text}"));
        line(&format!("{count} {verdict}{reason}{explanation}"));
    }
}
