//! `encap.tsv`: payload packets that were to be forwarded into tunnels, one by one (TX-01 to TX-12, T6-01 to T6-05).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::lab::Lab;
use crate::masked::{on_the_wire, sequence_number};
use crate::record::{self, Encap};
use crate::report::{Aspect, Report};

/// The number of each tunnel, which is in its addresses.
const NUMBERS: [(&str, u16); 26] = [
    ("plain", 11),
    ("key", 12),
    ("csum", 13),
    ("seq", 14),
    ("full", 15),
    ("iokey", 16),
    ("ttl64", 17),
    ("ttl5", 18),
    ("tosinh", 19),
    ("tosb8", 20),
    ("nopmtu", 21),
    ("igndf", 22),
    ("tap", 23),
    ("tapfull", 24),
    ("taptos", 25),
    ("tapnopm", 26),
    ("tapigndf", 27),
    ("p6", 41),
    ("p6n", 42),
    ("k6", 43),
    ("f6", 44),
    ("tc6", 45),
    ("fl6", 46),
    ("hl6", 47),
    ("tap6", 48),
    ("tapf6", 49),
];

pub(crate) fn run(way: &'static str, words: &'static str) {
    let lab = Lab::new(words);
    lab.host.forwarding(true).unwrap();
    // Where the payload packets come from.
    for source in ["10.9.0.1", "fd09::1"] {
        lab.neighbour(source.parse().unwrap());
    }
    let cases = record::encap();
    let mut made = BTreeMap::new();
    for case in &cases {
        made.entry(case.key.tunnel).or_insert_with(|| add(&lab, case));
    }
    let mut report = Report::new("encap", way);
    let mut numbers = HashMap::new();
    lab.settled();
    for case in &cases {
        lab.send(&case.inner);
        let packets = lab.settled();
        let label_is_fixed = case.words.contains("flowlabel inherit") && label(&case.inner) != 0;
        let [expected, seen] = [&case.packets, &packets].map(|packets| on_the_wire(packets, label_is_fixed));
        report.row(&case.key, &[(Aspect::Answer, expected, seen)]);
        for packet in packets {
            if let Some(number) = sequence_number(&packet) {
                let last = numbers.insert(case.key.tunnel, number);
                let goes_on = last.is_none_or(|last| number > last);
                report.check(goes_on, || format!("{}: {number} follows {last:?} [TX-08]", case.key));
            }
        }
    }
    for name in made.keys() {
        let counted = lab.counted(name);
        report.check(counted.drops().is_empty(), || format!("encap {name}: dropped: {:?}", counted.drops()));
    }
    report.finish();
}

/// Makes the tunnel of a case, with its addresses and routes.
fn add(lab: &Lab, case: &Encap) {
    let name = case.key.tunnel;
    let number = NUMBERS.iter().find(|(known, _)| *known == name).unwrap().1;
    let (remote, prefix): (IpAddr, _) = match case.key.mode.starts_with("ip6") {
        true => (format!("fd09:1::{number}").parse().unwrap(), 128),
        false => (format!("10.9.1.{number}").parse().unwrap(), 32),
    };
    lab.host.route(&format!("{remote}/{prefix}"), "dev wan0").unwrap();
    lab.neighbour(remote);
    lab.add(name, case.key.mode, remote, case.words);
    let here = [format!("172.30.{number}.2/24"), format!("fd30:{number}::2/64")];
    lab.addresses(name, here, [format!("172.30.{number}.5"), format!("fd30:{number}::5")]);
}

/// The flow label of an IPv6 packet; of any other, 0.
fn label(packet: &[u8]) -> u32 {
    if packet[0] >> 4 == 6 { u32::from_be_bytes([0, packet[1] & 0x0f, packet[2], packet[3]]) } else { 0 }
}
