//! The status of tunnels as people read it: the verdict first, the facts behind it after.

use greway_control::check::{Place, Severity};
use greway_control::status::{Ago, Answers, Sequence, Status, SteeredDevice, TunnelStatus, Unmatched};

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
        print_tunnel(tunnel, status.daemon.workers);
    }
    if !detailed || !status.unmatched.is_empty() {
        print_unmatched(&status.unmatched);
        print_answers(&status.answers);
    }
    for drop in &status.drops {
        line(&format!("of no tunnel: dropped {} {}: {}", drop.packets, drop.reason, drop.explanation));
    }
    // Packets of no tunnel have lines of their own above; what is no GRE at all is nobody's interest.
    for decline in status.declines.iter().filter(|decline| decline.reason == "version-1-pptp") {
        line(&format!("left to others: {} {}: GRE of PPTP, untouched", decline.packets, decline.reason));
    }
    for SteeredDevice { device, queues, cpus } in
        status.steering.iter().flat_map(|steering| &steering.devices)
    {
        let queues = several(u64::from(*queues), "receive queue");
        line(&format!("steered: {device}, {queues}: by the flow inside over CPUs {cpus}"));
    }
    for note in &status.notes {
        line(&format!("note: {note}"));
    }
}

/// `workers`: threads that carry in userspace.
fn print_tunnel(tunnel: &TunnelStatus, workers: usize) {
    let spec = &tunnel.spec;
    line(&spec.describe());
    let further = spec.further_words();
    if !further.is_empty() {
        fact("options", &further.join(", "));
    }
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
    // One is what everybody expects; and programs run wherever packets are.
    let workers = match (carried.datapath.as_str(), workers) {
        ("userspace", 2..) => format!("userspace by {workers} workers"),
        (datapath, _) => datapath.to_owned(),
    };
    fact(
        "data plane",
        &format!("{workers}, {} device, {} socket: {}", carried.overlay, carried.underlay, carried.why),
    );
    if let Some(neighbour) = &carried.exit {
        let whole = if carried.super_packets { ", super-packets whole" } else { "" };
        fact("sends", &format!("past the IP stack, to {neighbour}{whole}"));
    }
    if carried.early_drop {
        fact("receives", "what the packet socket has taken goes no further up the IP stack");
    }
    if let Some(why) = &carried.not_ebpf {
        fact("not ebpf", why);
    }
    if let Some(shown) = &carried.witnesses {
        fact("rules", shown);
    }
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
    if let Some(Sequence { lost, reordered, duplicates, late, restarts }) = tunnel.sequence {
        let twice = several(duplicates, "duplicate");
        let began = match restarts {
            0 => String::new(),
            restarts => format!("; the peer began again {}", several(restarts, "time")),
        };
        fact("in order", &format!("{lost} lost, {reordered} reordered, {twice}, {late} late{began}"));
    }
    for drop in &tunnel.drops {
        fact(
            "dropped",
            &format!("{} {} ({}): {}", drop.packets, drop.reason, drop.direction, drop.explanation),
        );
    }
    if !tunnel.left_to_userspace.is_empty() {
        let reasons = tunnel.left_to_userspace.iter().map(|left| format!("{} {}", left.packets, left.reason));
        fact(
            "declined",
            &format!("{} (by ebpf, carried by userspace)", reasons.collect::<Vec<_>>().join(", ")),
        );
    }
    for error in &tunnel.icmp_errors {
        let from = format!("{} from {}", times(error.packets, &error.error), error.from);
        fact("icmp", &format!("{from}, last {} ago: {}", Ago(error.last_seconds), error.explanation));
    }
    if tunnel.unreachable_told > 0 {
        let told = several(tunnel.unreachable_told, "time");
        fact("", &format!("senders in the tunnel were told {told} that the far end cannot be reached"));
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

/// What those senders were told.
fn print_answers(answers: &Answers) {
    let Answers { answered, limited, withheld, unsent, silent_because } = answers;
    let counts = [
        (*answered, "answered with port unreachable"),
        (*limited, "not answered again so soon"),
        (*unsent, "answered, and the host did not let it out"),
        (*withheld, "not answered"),
    ];
    let told = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    let told = told.collect::<Vec<_>>().join(", ");
    if told.is_empty() {
        return;
    }
    match silent_because {
        Some(why) => line(&format!("  {told}: {why}")),
        None => line(&format!("  {told}")),
    }
}

fn times(number: u64, what: &str) -> String {
    if number == 1 { what.to_owned() } else { format!("{what} ×{number}") }
}

fn several(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn fact(name: &str, value: &str) {
    line(&format!("  {name:<11} {value}"));
}
