//! `accept.tsv`: packets that were sent to tunnels, one by one (RX-01 to RX-28).

use std::collections::HashMap;
use std::net::IpAddr;

use greway_engine::DropReason;
use greway_testbed::{Capture, CapturedPacket};
use greway_wire::{ethertype, ipv4, ipv6};

use crate::lab::{Counted, Lab};
use crate::masked::{gre_at, gre_of, lines, on_the_wire, set_sequence_number, shown};
use crate::record::{self, Accept};
use crate::report::{Aspect, Report};
use crate::support::SOON;

/// The tunnels: name, mode, words, and the number in the peer's address and in those inside.
const TUNNELS: [(&str, &str, &str, u8); 16] = [
    ("plain", "gre", "", 11),
    ("key", "gre", "key 42", 12),
    ("csum", "gre", "csum", 13),
    ("seq", "gre", "seq", 14),
    ("full", "gre", "key 42 csum seq", 15),
    ("key0", "gre", "key 0", 16),
    ("tplain", "gretap", "", 17),
    ("tkey", "gretap", "key 42", 18),
    ("plain6", "ip6gre", "", 41),
    ("key6", "ip6gre", "key 42 encaplimit none", 42),
    ("csum6", "ip6gre", "csum encaplimit none", 43),
    ("seq6", "ip6gre", "seq encaplimit none", 44),
    ("full6", "ip6gre", "key 42 csum seq encaplimit none", 45),
    ("zero6", "ip6gre", "key 0 encaplimit none", 46),
    ("tplain6", "ip6gretap", "", 47),
    ("tkey6", "ip6gretap", "key 42 encaplimit none", 48),
];

/// The record over IPv4 is a selection, and the state of a sequence carries over. Each tunnel got the same series, so
/// the two numbers that were accepted between the rows there are known from the other tunnel.
const MISSING: [(&str, &str, u32); 2] =
    [("seq", "seq 1003", 1005), ("full", "seq 2147484654", 2_147_483_647)];

/// The order in which the record names counters.
const COUNTERS: [&str; 7] = [
    "rx_errors",
    "rx_dropped",
    "rx_crc_errors",
    "rx_fifo_errors",
    "rx_frame_errors",
    "rx_length_errors",
    "collisions",
];

pub(crate) fn run(way: &'static str, words: &'static str) {
    let lab = Lab::new(words);
    let rows = record::accept();
    let mut devices = HashMap::new();
    for (name, mode, words, number) in TUNNELS {
        let remote: IpAddr = match mode.starts_with("ip6") {
            true => format!("fd09::{number}").parse().unwrap(),
            false => [10, 9, 0, number].into(),
        };
        lab.add(name, mode, remote, words);
        lab.neighbour(remote);
        let [here, beyond] =
            [2, 1].map(|end| [format!("172.31.{number}.{end}"), format!("fd31:{number}::{end}")]);
        let [v4, v6] = here;
        lab.addresses(name, [format!("{v4}/24"), format!("{v6}/64")], beyond);
        // The other end of the pair: a capture of the tunnel device itself would take what nobody else takes, and
        // `rx_dropped` would stand still.
        devices.insert(name, Capture::start(&lab.host, &format!("gw-{name}")).unwrap());
    }
    // Hosts that have no tunnel are answered too.
    for stranger in ["10.9.0.99", "fd09::99"] {
        lab.neighbour(stranger.parse().unwrap());
    }
    let mut report = Report::new("accept", way);
    lab.settled();
    for row in &rows {
        if let Some((.., number)) =
            MISSING.iter().find(|(name, case, _)| (row.key.tunnel, row.key.case) == (name, case))
        {
            let mut between = row.sent[0].clone();
            set_sequence_number(&mut between, *number);
            lab.send(&between);
            lab.settled();
            take(&devices[row.key.tunnel], 1);
        }
        let before = lab.counted(row.key.tunnel);
        row.sent.iter().for_each(|packet| lab.send(packet));
        let answers = lab.settled();
        let after = lab.counted(row.key.tunnel);
        report.row(&row.key, &compared(row, &answers, &before, &after, &devices));
    }
    report.finish();
}

fn compared(
    row: &Accept,
    answers: &[Vec<u8>],
    before: &Counted,
    after: &Counted,
    devices: &HashMap<&str, Capture>,
) -> Vec<(Aspect, String, String)> {
    let delivered = after.devices.iter().zip(&before.devices).flat_map(|((name, after), (_, before))| {
        let frames = take(&devices[name], after.rx_packets - before.rx_packets);
        frames.into_iter().map(move |frame| format!("{name} {}", content(name, &frame)))
    });
    let delivered = lines(delivered);
    let expected = row.verdict.starts_with("accept").then(|| inside(row));
    let counters = counters(row.key.tunnel, before, after);
    let verdict = verdict(&counters, answers);
    let counted = match after.received() - before.received() {
        1 => "one packet".to_owned(),
        other => format!("{other} packets"),
    };
    // PPTP is not ours, and nothing of it is counted.
    let to_be_counted = if row.key.case.starts_with("version 1") { "0 packets" } else { "one packet" };
    vec![
        (Aspect::Verdict, row.verdict.to_owned(), verdict),
        (Aspect::Delivered, lines(expected.into_iter()), delivered),
        (Aspect::Counters, row.counters.to_owned(), counters),
        (Aspect::Counted, to_be_counted.to_owned(), counted),
        (Aspect::Answer, on_the_wire(&row.answers, false), on_the_wire(answers, false)),
    ]
}

/// The tunnel and the payload packet that the kernel delivered: what was sent, with ECN as its answer shows it.
fn inside(row: &Accept) -> String {
    let gre = whole_gre(&row.sent);
    // Some rows have bits that the kernel ignores, and a parser of GRE headers may not.
    let header = 4 + 4 * ((gre[0] & 0xb0).count_ones() as usize);
    let (mut protocol_type, mut inner) = (u16::from_be_bytes([gre[2], gre[3]]), gre[header..].to_vec());
    if protocol_type == ethertype::WCCP && gre[..2] == [0, 0] {
        protocol_type = if row.key.mode == "ip6gre" { ethertype::IPV6 } else { ethertype::IPV4 };
        if inner[0] >> 4 != 4 {
            inner.drain(..4);
        }
    }
    let frames = row.key.mode.ends_with("tap");
    if let Some(tos) = row.delivered_tos {
        let packet = &mut inner[if frames { 14 } else { 0 }..];
        match packet[0] >> 4 {
            6 => ipv6::set_traffic_class(packet, tos),
            _ => ipv4::set_tos(packet, tos),
        }
    }
    let text = if frames { shown(&inner) } else { payload(protocol_type, &inner) };
    format!("{} {text}", row.key.tunnel)
}

/// The GRE packet in an IP packet, or in the IPv6 fragments of one, without what follows the IP packet.
fn whole_gre(packets: &[Vec<u8>]) -> Vec<u8> {
    if let [packet] = packets {
        return packet[gre_at(packet).unwrap()..].to_vec();
    }
    packets.iter().flat_map(|fragment| fragment[48..].to_vec()).collect()
}

/// What a frame on a tunnel device carries, in the same form.
fn content(name: &str, packet: &CapturedPacket) -> String {
    if !TUNNELS.iter().any(|(tunnel, mode, ..)| *tunnel == name && mode.ends_with("tap")) {
        return payload(packet.ethertype(), packet.payload());
    }
    let mut frame = packet.frame.clone();
    if let Some(tag) = packet.vlan {
        frame.splice(12..12, [[0x81, 0x00], tag.to_be_bytes()].concat());
    }
    shown(&frame)
}

fn payload(protocol_type: u16, bytes: &[u8]) -> String {
    format!("{protocol_type:04x} {}", shown(bytes))
}

/// The frames that were handed to a tunnel device since the last call; the kernel has counted them.
fn take(capture: &Capture, count: u64) -> Vec<CapturedPacket> {
    capture.wait_for_count(SOON, "what was delivered", count as usize, |packet| packet.outgoing).unwrap();
    capture.take().into_iter().filter(|packet| packet.outgoing).collect()
}

/// The counters of GRE devices that moved, in the words and the order of the record. Errors are those of greway's drop
/// reasons that have a counter in the kernel; the rest is what the kernel counts on greway's devices.
fn counters(tunnel: &str, before: &Counted, after: &Counted) -> String {
    let mut moved = Vec::new();
    for ((name, now), (_, then)) in after.devices.iter().zip(&before.devices) {
        let mut counters = HashMap::from([("rx_dropped", now.rx_dropped - then.rx_dropped)]);
        for drop in after.drops().iter().filter(|_| *name == tunnel) {
            let earlier = before.drops().iter().find(|earlier| earlier.reason == drop.reason);
            let count = drop.packets - earlier.map_or(0, |earlier| earlier.packets);
            let reason = DropReason::ALL.iter().find(|reason| reason.name() == drop.reason).unwrap();
            if let Some(counter) = reason.kernel_counter() {
                *counters.entry("rx_errors").or_default() += count;
                *counters.entry(counter).or_default() += count;
            }
        }
        let received = [("rx_packets", now.rx_packets - then.rx_packets)];
        let others = COUNTERS.map(|name| (name, counters.remove(name).unwrap_or(0)));
        assert!(counters.is_empty(), "counters that the record does not know: {counters:?}");
        let of_device = received.into_iter().chain(others).filter(|(_, count)| *count > 0);
        moved.extend(of_device.map(|(counter, count)| format!("{name}.{counter}+{count}")));
    }
    if moved.is_empty() { "-".to_owned() } else { moved.join(" ") }
}

/// The verdict as the record draws it from counters and answers.
fn verdict(counters: &str, answers: &[Vec<u8>]) -> String {
    match counters {
        _ if answers.iter().any(|packet| gre_of(packet).is_some()) => "accept+reply",
        _ if counters.contains("rx_packets") && !counters.contains("rx_errors") => "accept",
        "-" => "drop",
        _ => "error",
    }
    .to_owned()
}
