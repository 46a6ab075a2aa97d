//! The status of tunnels as people read it: the verdict first, the facts behind it after.

use greway_control::check::{Place, Severity};
use greway_control::status::{Ago, Status, TunnelStatus, Unmatched};

use super::line;

/// Prints a status; `detailed` when one tunnel was asked for.
pub(crate) fn print(status: &Status, detailed: bool) {
    if status.tunnels.is_empty() {
        line("no tunnels");
    }
    for tunnel in &status.tunnels {
        line(&tunnel.verdict);
    }
    for tunnel in &status.tunnels {
        line("");
        print_tunnel(tunnel);
    }
    if !detailed || !status.unmatched.is_empty() {
        print_unmatched(&status.unmatched);
    }
    for drop in &status.drops {
        line(&format!("of no tunnel: dropped {} {}: {}", drop.packets, drop.reason, drop.explanation));
    }
    for note in &status.notes {
        line(&format!("note: {note}"));
    }
}

fn print_tunnel(tunnel: &TunnelStatus) {
    let spec = &tunnel.spec;
    line(&spec.describe());
    fact("origin", &spec.origin.to_string());
    match &tunnel.device {
        Some(device) => {
            let state = if device.up { "up" } else { "down" };
            fact("device", &format!("{state}, mtu {}, index {}", device.mtu, device.index));
            if !device.addresses.is_empty() {
                fact("addresses", &device.addresses.join(", "));
            }
        }
        None if tunnel.moved => fact("device", "in another network namespace"),
        None => fact("device", "gone"),
    }
    let carried = &tunnel.datapath;
    fact(
        "data plane",
        &format!(
            "{}, {} device, {} socket: {}",
            carried.datapath, carried.overlay, carried.underlay, carried.why
        ),
    );
    let counters = &tunnel.counters;
    let last = |seconds: Option<f64>| match seconds {
        Some(seconds) => format!("last {} ago", Ago(seconds)),
        None => "never".to_owned(),
    };
    fact(
        "sent",
        &format!(
            "{}, {}, {}",
            several(counters.sent_packets, "packet"),
            several(counters.sent_bytes, "byte"),
            last(tunnel.last_sent_seconds)
        ),
    );
    fact(
        "received",
        &format!(
            "{}, {}, {}",
            several(counters.received_packets, "packet"),
            several(counters.received_bytes, "byte"),
            last(tunnel.last_received_seconds)
        ),
    );
    for drop in &tunnel.drops {
        fact(
            "dropped",
            &format!("{} {} ({}): {}", drop.packets, drop.reason, drop.direction, drop.explanation),
        );
    }
    for note in &tunnel.notes {
        fact("note", note);
    }
    print_findings(tunnel);
}

/// What a check found, in a line each: what stops or hinders, remarks and all the rest by `greway check`.
fn print_findings(tunnel: &TunnelStatus) {
    let bad = tunnel.findings.iter().filter(|finding| finding.severity > Severity::Note).collect::<Vec<_>>();
    for finding in &bad {
        let cure = finding.cure.iter().find(|cure| cure.place == Place::Here);
        let cure = cure.map_or_else(String::new, |cure| format!(" (cure: {})", cure.command));
        fact("check", &format!("{}: {}{cure}", finding.severity.word(), finding.sentence));
    }
    if !bad.is_empty() {
        fact("", &format!("what was seen, and more of it: greway check {}", tunnel.spec.name));
    }
}

fn print_unmatched(unmatched: &[Unmatched]) {
    if unmatched.is_empty() {
        return;
    }
    line("");
    line("GRE packets that matched no tunnel:");
    for packet in unmatched {
        let key = packet.key.map_or_else(|| "no key".to_owned(), |key| format!("key {key}"));
        line(&format!(
            "  {} from {} to {}, {key}, protocol 0x{:04x}, last {} ago",
            packet.packets,
            packet.source,
            packet.destination,
            packet.protocol_type,
            Ago(packet.last_seen_seconds)
        ));
    }
}

fn several(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn fact(name: &str, value: &str) {
    line(&format!("  {name:<11} {value}"));
}
