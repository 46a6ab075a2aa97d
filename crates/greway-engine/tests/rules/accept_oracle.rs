//! What a Linux 6.1 kernel did with crafted packets, one at a time, and what the engine does.
//!
//! `oracle/accept.tsv`: tunnel, mode, case, verdict, counters that moved, kind of answer, TOS of the payload packet
//! that answered (which is that of the request after decapsulation), the packet that was sent, and the one that came
//! back.

use crate::encap_oracle::configured;
use crate::support::{Host, PLAIN, Row, hex, rows};
use greway_engine::{DeclineReason, Verdict};
use greway_spec::TunnelSpec;
use greway_wire::ipv4::Ipv4Header;

/// The kernel's tunnels: name, mode, words, the end of the peer's address.
const TUNNELS: [(&str, &str, &str, &str); 16] = [
    ("plain", "gre", "", "11"),
    ("key", "gre", "key 42", "12"),
    ("csum", "gre", "csum", "13"),
    ("seq", "gre", "seq", "14"),
    ("full", "gre", "key 42 csum seq", "15"),
    ("key0", "gre", "key 0", "16"),
    ("tplain", "gretap", "", "17"),
    ("tkey", "gretap", "key 42", "18"),
    ("plain6", "ip6gre", "", "41"),
    ("key6", "ip6gre", "key 42", "42"),
    ("csum6", "ip6gre", "csum", "43"),
    ("seq6", "ip6gre", "seq", "44"),
    ("full6", "ip6gre", "key 42 csum seq", "45"),
    ("zero6", "ip6gre", "key 0", "46"),
    ("tplain6", "ip6gretap", "", "47"),
    ("tkey6", "ip6gretap", "key 42", "48"),
];

fn kernel_tunnels() -> Vec<TunnelSpec> {
    let tunnel = |(_, mode, words, end): (&str, &str, &str, &str)| {
        let network = if mode.starts_with("ip6") { "fd09::" } else { "10.9.0." };
        configured(mode, words, format!("{network}{end}").parse().unwrap())
    };
    TUNNELS.into_iter().map(tunnel).collect()
}

/// Of the older part the recording is a selection, and the state of a sequence carries over. Each tunnel got the same
/// series, so the two numbers that were sent between the rows there are known from the other tunnel.
const MISSING: [(&str, &str, u32); 2] =
    [("seq", "seq 1003", 1005), ("full", "seq 2147484654", 2_147_483_647)];

/// ERSPAN is for nobody here; the kernel takes its first type, which has no header of its own, for a payload packet
/// of an ip6gre tunnel.
const ERSPAN: (&str, &str) = ("plain6", "proto 88be ERSPAN + echo");

#[test]
fn rx01_to_rx25_as_the_kernel() {
    let mut host = Host::new(&kernel_tunnels());
    let [mut count, mut of_sockets] = [0; 2];
    let mut differing = Vec::new();
    for row in rows(include_str!("../oracle/accept.tsv")) {
        let [name, case] = ["tunnel", "case"].map(|column| row[column]);
        // Fragments are put together before they come here.
        if row["sent"].contains(' ') {
            of_sockets += 1;
            continue;
        }
        let mut bytes = hex(row["sent"]);
        let index = TUNNELS.iter().position(|(known, ..)| *known == name).unwrap();
        if let Some((.., number)) = MISSING.iter().find(|row| (row.0, row.1) == (name, case)) {
            host.tunnels[index].1.expected_sequence = number + 1;
        }
        let verdict_of_engine = host.receive(&mut bytes, PLAIN);
        count += 1;
        if let Err(why) = as_recorded(&row, index, verdict_of_engine, &bytes) {
            differing.push(format!("{name}: {case}: {why}"));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    assert_eq!([count, of_sockets], [134 + 17 + 222 + 26 - 1, 1], "rows of the recording");
    assert_eq!(host.counted(), count);
}

fn as_recorded(row: &Row, index: usize, of_engine: Verdict, bytes: &[u8]) -> Result<(), String> {
    let [name, case, verdict, counters, answer, reply_tos] =
        ["tunnel", "case", "verdict", "counters", "answer", "reply_tos"].map(|column| row[column]);
    let seen = format!("recorded {verdict} {counters} {answer} {reply_tos}, here {of_engine:?}");
    let as_it_is = match of_engine {
        Verdict::Decline(DeclineReason::NoTunnel { .. }) => {
            answer == "port-unreachable" || (name, case) == ERSPAN
        }
        _ if (name, case) == ERSPAN => false,
        Verdict::Decline(reason) => (verdict, answer, reason) == ("drop", "-", DeclineReason::Version1Pptp),
        Verdict::Drop { tunnel, reason } => match reason.kernel_counter() {
            None => (verdict, answer) == ("drop", "-"),
            Some(counter) => {
                let of_this = tunnel.map(|tunnel| tunnel.0 as usize) == Some(index);
                of_this && counters == format!("{name}.rx_errors+1 {name}.{counter}+1")
            }
        },
        Verdict::Deliver(delivery) => {
            let frames = TUNNELS[index].1.ends_with("tap");
            let inner = &bytes[delivery.inner][if frames { 14 } else { 0 }..];
            verdict.starts_with("accept")
                && delivery.tunnel.0 as usize == index
                && (delivery.protocol_type == 0x6558 || !frames)
                && (reply_tos == "-" || tos_of(inner)? == reply_tos)
        }
        Verdict::Hold { .. } => false,
    };
    if as_it_is { Ok(()) } else { Err(seen) }
}

/// TOS or traffic class of a payload packet, whose header checksum must hold.
fn tos_of(inner: &[u8]) -> Result<String, String> {
    if inner[0] >> 4 == 6 {
        return Ok(format!("{:02x}", inner[0] << 4 | inner[1] >> 4));
    }
    let header = Ipv4Header::parse(inner).map_err(|error| error.to_string())?;
    match greway_wire::checksum::verifies(&inner[..header.header_len()]) {
        true => Ok(format!("{:02x}", header.tos)),
        false => Err("the header checksum of what was delivered is wrong".to_owned()),
    }
}
