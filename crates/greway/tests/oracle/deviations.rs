//! What greway does otherwise than the kernel, and means to. Each entry is a row of COMPAT.md, and fails where nothing
//! deviates any more.

use std::fs;

use crate::record::Key;
use crate::report::Aspect;

/// Something that differs on purpose.
pub(crate) struct Deviation {
    /// Which table.
    pub(crate) table: &'static str,
    /// In which ways of carrying; none: in all.
    pub(crate) ways: &'static [&'static str],
    /// Which rows.
    pub(crate) rows: fn(&Key) -> bool,
    /// On which hosts.
    pub(crate) here: fn() -> bool,
    /// What of them, and what is seen in place of what the record has. A text that ends with `…` is a beginning.
    pub(crate) instead: fn(&Key) -> Vec<(Aspect, String)>,
    /// Why.
    pub(crate) reason: &'static str,
    /// How the row of COMPAT.md begins that says so.
    pub(crate) compat: &'static str,
}

pub(crate) const DEVIATIONS: &[Deviation] = &[
    Deviation {
        table: "accept",
        ways: &["raw_socket"],
        rows: |key| key.case == "checksum field zero, C set",
        here: || true,
        instead: |key| {
            vec![
                (Aspect::Verdict, "accept+reply".to_owned()),
                (Aspect::Delivered, format!("{} 0800 4500002a0001…", key.tunnel)),
                (Aspect::Counters, format!("{}.rx_packets+1", key.tunnel)),
                (Aspect::Answer, if key.mode == "gre" { "4500004600004000402f…" } else { "60…" }.to_owned()),
            ]
        },
        reason: "a raw socket does not tell a checksum that a device was to fill in from a wrong one",
        compat: "on a raw socket a GRE checksum field of 0 is taken for one that the sender left to a device",
    },
    Deviation {
        table: "accept",
        ways: &[],
        rows: |key| {
            ["proto 0000 + echo", "proto 8100 + echo", "keepalive: proto 0 no payload"].contains(&key.case)
        },
        here: host_has_llc,
        instead: |key| vec![(Aspect::Counters, format!("{}.rx_packets+1", key.tunnel))],
        reason: "what has a length in the place of an ethertype, behind a VLAN tag too, is taken by the host's LLC; the \
                 kernel of the record had none",
        compat: "a payload packet with a protocol type below 0x0600 is for the host's LLC, where it has one",
    },
    Deviation {
        table: "accept",
        ways: &[],
        rows: |key| (key.tunnel, key.case) == ("plain6", "proto 88be ERSPAN + echo"),
        here: || true,
        instead: |_| {
            let nothing = || "nothing".to_owned();
            vec![
                (Aspect::Verdict, "drop".to_owned()),
                (Aspect::Delivered, nothing()),
                (Aspect::Counters, "-".to_owned()),
                (Aspect::Answer, "60000000005e3a40fd09…".to_owned()),
            ]
        },
        reason: "ERSPAN is for nobody here, and its sender is told",
        compat: "ERSPAN of type I (0x88be behind a GRE header of 4 bytes) is of no tunnel",
    },
    Deviation {
        table: "accept",
        ways: &[],
        rows: |key| key.mode == "ip6gretap" && key.case == "TEB wrong dst mac",
        here: || true,
        instead: |_| vec![(Aspect::Verdict, "accept".to_owned()), (Aspect::Answer, "nothing".to_owned())],
        reason: "a frame for another station is not for this host",
        compat: "a frame for another station that comes by ip6gretap is not for the host",
    },
];

/// Whether a handler of IEEE 802.2 frames is registered.
fn host_has_llc() -> bool {
    let handlers = fs::read_to_string("/proc/net/ptype").unwrap();
    handlers.lines().any(|line| line.split_whitespace().next() == Some("0004"))
}

/// COMPAT.md has a row for each.
#[test]
fn each_deviation_is_a_row_of_compat() {
    let compat = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../COMPAT.md"));
    let missing: Vec<&str> = DEVIATIONS.iter().map(|listed| listed.compat).collect();
    let missing = missing.into_iter().filter(|row| !compat.contains(&format!("\n| {row}")));
    assert_eq!(missing.collect::<Vec<_>>(), [""; 0], "rows that COMPAT.md does not have");
}
