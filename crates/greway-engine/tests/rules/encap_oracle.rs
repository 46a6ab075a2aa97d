//! What a Linux 6.1 kernel made of forwarded packets, and what the engine makes of the same.
//!
//! `oracle/encap.tsv`: tunnel, words of its configuration, case, the datagram that came out. The payload
//! packet in it is what the tunnel was given (after the forwarding decrement of its TTL). Masked: the
//! outer identification and the outer header checksum, which follows from it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::support::{LOCAL, datagrams, hex, spec};
use greway_engine::{Offload, Train, Tunnel, TunnelCounters, TunnelState, encapsulate};
use greway_spec::{Tos, Ttl, TunnelSpec};
use greway_wire::gre::GreHeader;
use greway_wire::ipv4::Ipv4Header;

/// Reads the few words of `ip link` that the recording uses.
pub(crate) fn configured(words: &str, remote: Ipv4Addr) -> TunnelSpec {
    let mut spec = spec(LOCAL, remote);
    let number = |text: &str| match text.strip_prefix("0.0.0.") {
        Some(last) => last.parse().unwrap(),
        None => text.parse().unwrap(),
    };
    let mut words = words.split(' ').filter(|word| *word != "-");
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap();
        match word {
            "key" => {
                spec.okey = Some(number(value()));
                spec.ikey = spec.okey;
            }
            "ikey" => spec.ikey = Some(number(value())),
            "okey" => spec.okey = Some(number(value())),
            "csum" => spec.ocsum = true,
            "seq" => spec.oseq = true,
            "ttl" => spec.ttl = Ttl::Fixed(number(value()) as u8),
            "tos" => {
                spec.tos = match value() {
                    "inherit" => Tos { inherit: true, value: 0 },
                    hex => Tos { inherit: false, value: u8::from_str_radix(&hex[2..], 16).unwrap() },
                }
            }
            "nopmtudisc" => spec.pmtudisc = false,
            "ignore-df" => spec.ignore_df = true,
            other => panic!("a word of the recording that is not known: {other}"),
        }
    }
    spec
}

pub(crate) fn masked(mut datagram: Vec<u8>) -> Vec<u8> {
    datagram[4..6].fill(0);
    datagram[10..12].fill(0);
    datagram
}

#[test]
fn tx03_tx05_tx07_tx08_as_the_kernel() {
    let mut train = Train::new();
    let mut rows = 0;
    for line in include_str!("../oracle/encap.tsv").lines().skip(1) {
        let [_, words, case, bytes] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("four columns: {line}");
        };
        let recorded = hex(bytes);
        let outer = Ipv4Header::parse(&recorded).unwrap();
        let (gre, gre_len) = GreHeader::parse(&recorded[20..]).unwrap();
        let inner = &recorded[20 + gre_len..];
        let tunnel = Tunnel::new(&configured(words, outer.destination), Arc::new(TunnelCounters::new()));
        let mut state = TunnelState::starting_at(gre.sequence_number.unwrap_or(0));
        let outcome =
            encapsulate(&tunnel, &mut state, gre.protocol_type, inner, Offload::NONE, None, &mut train);
        assert_eq!(outcome, Ok(()), "{words}: {case}");
        let sent = datagrams(&train, inner);
        assert_eq!(sent.len(), 1);
        assert!(greway_wire::checksum::verifies(&sent[0][..20]));
        assert_eq!(masked(sent[0].clone()), masked(recorded), "{words}: {case}");
        rows += 1;
    }
    assert_eq!(rows, 192, "rows of the recording");
}
