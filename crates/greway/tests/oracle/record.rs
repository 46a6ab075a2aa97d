//! The record: what the kernel was given and what it did, a row a case, as the engine's tests have it.

use std::collections::HashMap;

/// The modes, and how many rows of either table they have.
const MODES: [(&str, usize, usize); 4] =
    [("gre", 134, 227), ("gretap", 17, 76), ("ip6gre", 222, 134), ("ip6gretap", 26, 32)];

const ACCEPT: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../greway-engine/tests/oracle/accept.tsv"));
const ENCAP: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../greway-engine/tests/oracle/encap.tsv"));

/// Which case it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// `accept` or `encap`.
    pub(crate) table: &'static str,
    pub(crate) tunnel: &'static str,
    pub(crate) mode: &'static str,
    pub(crate) case: &'static str,
    /// Which of the rows of the same name.
    pub(crate) repetition: usize,
    /// What the kernel did, in a word or two.
    pub(crate) result: &'static str,
    /// The rules that it is about.
    pub(crate) rules: &'static str,
}

/// A packet that was sent to a tunnel.
#[derive(Debug)]
pub(crate) struct Accept {
    pub(crate) key: Key,
    pub(crate) verdict: &'static str,
    pub(crate) counters: &'static str,
    /// TOS of the payload packet as it was delivered, where that can be told from the answer.
    pub(crate) delivered_tos: Option<u8>,
    /// More than one: the fragments of one.
    pub(crate) sent: Vec<Vec<u8>>,
    pub(crate) answers: Vec<Vec<u8>>,
}

/// A payload packet that was to be forwarded into a tunnel, and the packets that came of it.
#[derive(Debug)]
pub(crate) struct Encap {
    pub(crate) key: Key,
    pub(crate) words: &'static str,
    pub(crate) inner: Vec<u8>,
    pub(crate) packets: Vec<Vec<u8>>,
}

/// The packets that the kernel received, in the order in which it did.
pub(crate) fn accept() -> Vec<Accept> {
    let mut seen = HashMap::new();
    let row = |row: HashMap<&'static str, &'static str>| {
        let (case, result, verdict, counters) = (row["case"], row["answer"], row["verdict"], row["counters"]);
        let rules = rules_of_receiving(case, counters, result);
        let repetition = count(&mut seen, row["tunnel"], case);
        let (tunnel, mode) = (row["tunnel"], row["mode"]);
        Accept {
            key: Key { table: "accept", tunnel, mode, case, repetition, result, rules },
            verdict,
            counters,
            delivered_tos: u8::from_str_radix(row["reply_tos"], 16).ok(),
            sent: packets(row["sent"]),
            answers: packets(row["answers"]),
        }
    };
    let rows: Vec<Accept> = rows(ACCEPT).map(row).collect();
    for (mode, expected, _) in MODES {
        assert_eq!(rows.iter().filter(|row| row.key.mode == mode).count(), expected, "rows of {mode}");
    }
    rows
}

/// The packets that the kernel forwarded, in the order in which it did. Rows of one packet (its fragments) are one.
pub(crate) fn encap() -> Vec<Encap> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut cases: Vec<Encap> = Vec::new();
    for row in rows(ENCAP) {
        let (tunnel, mode, case, result) = (row["tunnel"], row["mode"], row["case"], row["result"]);
        *counts.entry(mode).or_default() += 1;
        let packet = hex(row["packet"]);
        match cases.last_mut() {
            Some(last) if (last.key.tunnel, last.key.case) == (tunnel, case) => last.packets.push(packet),
            _ => {
                let rules = rules_of_sending(tunnel, case, result);
                cases.push(Encap {
                    key: Key { table: "encap", tunnel, mode, case, repetition: 1, result, rules },
                    words: if row["words"] == "-" { "" } else { row["words"] },
                    inner: hex(row["inner"]),
                    packets: vec![packet],
                });
            }
        }
    }
    for (mode, _, expected) in MODES {
        assert_eq!(counts[mode], expected, "rows of {mode}");
    }
    cases
}

/// The lines of a table by the names of its columns.
fn rows(table: &'static str) -> impl Iterator<Item = HashMap<&'static str, &'static str>> {
    let mut lines = table.lines();
    let names: Vec<&str> = lines.next().unwrap().split('\t').collect();
    lines.map(move |line| names.iter().copied().zip(line.split('\t')).collect())
}

fn count(
    seen: &mut HashMap<(&'static str, &'static str), usize>,
    tunnel: &'static str,
    case: &'static str,
) -> usize {
    let count = seen.entry((tunnel, case)).or_default();
    *count += 1;
    *count
}

fn rules_of_receiving(case: &str, counters: &str, answer: &str) -> &'static str {
    /// By the beginning of the case.
    const BY_CASE: [(&str, &str); 24] = [
        ("bad checksum", "RX-05"),
        ("checksum field", "RX-05"),
        ("reserved1", "RX-05"),
        ("good csum", "RX-05"),
        ("reserved flags", "RX-02 RX-03"),
        ("strict source", "RX-03"),
        ("routing bit", "RX-03"),
        ("version", "RX-02"),
        ("proto 883e", "RX-07"),
        ("WCCP", "RX-07"),
        ("proto 6558", "RX-10"),
        ("Cisco keepalive", "RX-28"),
        ("truncated", "RX-01 RX-04"),
        ("inner IPv4 truncated", "RX-01 RX-23"),
        ("inner IPv6 truncated", "RX-23"),
        ("outer", "RX-01"),
        ("ECN", "RX-24"),
        ("DSCP", "RX-24"),
        ("seq", "RX-22"),
        ("TEB short", "RX-23"),
        ("TEB ECN", "RX-24"),
        ("odd length", "RX-05"),
        ("NVGRE", "RX-13"),
        ("inner", "RX-26"),
    ];
    if answer == "port-unreachable" {
        return "RX-13 RX-15";
    }
    let by_case = BY_CASE.iter().find(|(beginning, _)| case.starts_with(beginning));
    match counters {
        _ if by_case.is_some() => by_case.unwrap().1,
        _ if counters.contains("rx_crc_errors") => "RX-21",
        _ if counters.contains("rx_fifo_errors") => "RX-22",
        _ if counters.contains("rx_length_errors") => "RX-23",
        _ if case.starts_with("C=") => "RX-06 RX-13",
        _ => "RX-25 RX-26",
    }
}

fn rules_of_sending(tunnel: &str, case: &str, result: &str) -> &'static str {
    let v6 = tunnel.contains('6');
    match case {
        _ if result.starts_with("icmp 3/4") || result.starts_with("icmp6 2/0") || case.contains("noDF") => {
            if v6 {
                "T6-04"
            } else {
                "TX-06"
            }
        }
        "v4 ttl 1" | "v6 hlim 1" => "of the host's stack",
        "v4 ttl 2" | "v6 hlim 2" => "TX-07",
        _ if tunnel == "hl6" || tunnel == "p6" => "T6-03",
        _ if tunnel == "fl6" => "T6-05",
        _ if tunnel == "nopmtu"
            || tunnel == "igndf"
            || tunnel.ends_with("nopm")
            || tunnel.ends_with("igndf") =>
        {
            "TX-05"
        }
        _ if case.contains("tos") || case.contains("EC") || case.contains("CE") || case.contains("tc") => {
            "TX-03"
        }
        _ => "TX-08",
    }
}

fn packets(text: &str) -> Vec<Vec<u8>> {
    if text == "-" { Vec::new() } else { text.split(' ').map(hex).collect() }
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len() / 2).map(|i| digit(2 * i)).collect()
}
