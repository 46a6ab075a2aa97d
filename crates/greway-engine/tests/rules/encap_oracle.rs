//! What a Linux 6.1 kernel made of forwarded packets, and what the engine makes of the same.
//!
//! `oracle/encap.tsv`: tunnel, mode, words of its configuration, case, result, the payload packet as it reached the
//! kernel, the packet that came of it. A result `gre` is a delivery packet; the payload packet in it is what the
//! tunnel was given: its TTL is one less, and what was longer than the device's MTU was cut, a row a fragment. Other
//! results are ICMP messages to the sender, with the MTU that it was told. Masked: the outer identification and the
//! outer header checksum, which follows from it, and flow labels that the kernel chose.

use std::net::IpAddr;
use std::sync::Arc;

use crate::support::{LOCAL, datagrams, hex, rows};
use greway_engine::{Fit, Offload, Train, Tunnel, TunnelCounters, TunnelState, encapsulate, fit};
use greway_spec::{Draft, FlowLabel, Mode, Tos, Ttl, TunnelSpec};
use greway_wire::gre::{self, GreHeader};
use greway_wire::{checksum, ethertype, extension, ipv4, ipv6};

/// The kernel's own address in IPv6.
const LOCAL_V6: &str = "fd09::2";
/// What the kernel's wire took.
const PATH_MTU: u32 = 1500;

/// The tunnel of a row, by the few words of `ip link` that the recordings use.
pub(crate) fn configured(mode: &str, words: &str, remote: IpAddr) -> TunnelSpec {
    let mode = *Mode::ALL.iter().find(|known| known.word() == mode).unwrap();
    let local = if mode.over_ipv6() { LOCAL_V6.parse().unwrap() } else { IpAddr::V4(LOCAL) };
    let name: greway_spec::DeviceName = "tun0".parse().unwrap();
    let mut draft = Draft {
        name: Some(name.into()),
        mode: Some(mode.into()),
        local: Some(local.into()),
        remote: Some(remote.into()),
        ..Draft::default()
    };
    let number = |text: &str| match text.strip_prefix("0.0.0.") {
        Some(last) => last.parse().unwrap(),
        None => text.parse().unwrap(),
    };
    let mut words = words.split_whitespace().filter(|word| *word != "-");
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap();
        match word {
            "key" => {
                let key = Some(number(value()));
                (draft.ikey, draft.okey) = (Some(key.into()), Some(key.into()));
            }
            "ikey" => draft.ikey = Some(Some(number(value())).into()),
            "okey" => draft.okey = Some(Some(number(value())).into()),
            "csum" => (draft.icsum, draft.ocsum) = (Some(true.into()), Some(true.into())),
            "seq" => (draft.iseq, draft.oseq) = (Some(true.into()), Some(true.into())),
            "ttl" | "hoplimit" => draft.ttl = Some(Ttl::Fixed(number(value()) as u8).into()),
            "tos" | "tclass" => {
                let tos = match value() {
                    "inherit" => Tos { inherit: true, value: 0 },
                    hex => Tos { inherit: false, value: u8::from_str_radix(&hex[2..], 16).unwrap() },
                };
                draft.tos = Some(tos.into());
            }
            "nopmtudisc" => draft.pmtudisc = Some(false.into()),
            "ignore-df" => draft.ignore_df = Some(true.into()),
            "encaplimit" => draft.encaplimit = Some(value().parse().ok().into()),
            "flowlabel" => {
                assert_eq!(value(), "inherit");
                draft.flowlabel = Some(FlowLabel::Inherit.into());
            }
            other => panic!("a word of the recording that is not known: {other}"),
        }
    }
    draft.into_spec().unwrap()
}

/// A delivery packet apart: where its GRE header begins, and the address it goes to.
fn delivery(packet: &[u8]) -> (usize, IpAddr) {
    match ipv4::addresses(packet) {
        Some((_, destination)) if packet[0] >> 4 == 4 => (ipv4::MIN_LEN, destination.into()),
        _ => {
            let chain = extension::follow(packet);
            let extension::Chain::To { protocol: gre::PROTOCOL, at, .. } = chain else { panic!("{chain:?}") };
            (at, ipv6::addresses(packet).unwrap().1.into())
        }
    }
}

fn masked(mut packet: Vec<u8>, label_is_fixed: bool) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        assert!(checksum::verifies(&packet[..ipv4::MIN_LEN]));
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    } else if !label_is_fixed {
        packet[1] &= 0xf0;
        packet[2..4].fill(0);
    }
    packet
}

#[test]
fn tx03_to_tx08_and_t6_03_to_t6_05_as_the_kernel() {
    let mut train = Train::new();
    let [mut sent_packets, mut told, mut forwarded] = [0; 3];
    for row in rows(include_str!("../oracle/encap.tsv")) {
        let [mode, words, result] = ["mode", "words", "result"].map(|column| row[column]);
        let context = format!("{} ({mode} {words}): {}", row["tunnel"], row["case"]);
        let [given, recorded] = ["inner", "packet"].map(|column| hex(row[column]));
        let [kind, mtu] = [result.split(' ').nth(1), result.split(' ').nth(2)];
        // Time exceeded, or no route: the host forwards, and the tunnel is not asked.
        if matches!(kind, Some("11/0" | "3/0")) {
            forwarded += 1;
            continue;
        }
        if let Some(mtu) = mtu {
            let anywhere = if mode.starts_with("ip6") { "fd09:1::1" } else { "10.9.1.1" };
            let spec = configured(mode, words, anywhere.parse().unwrap());
            let tunnel = Tunnel::new(&spec, Arc::new(TunnelCounters::new()));
            let (protocol_type, packet) = of_mode(mode, &given);
            let df = given[0] >> 4 == 4 && given[6] & 0x40 != 0;
            // Where the delivery packet may be fragmented only the device's MTU is in the way, and the host tells.
            let expected = match tunnel.sets_df(df) {
                true => Fit::TellSender { mtu: mtu.parse().unwrap() },
                false => Fit::Fits,
            };
            told += usize::from(tunnel.sets_df(df));
            forwarded += usize::from(!tunnel.sets_df(df));
            assert_eq!(fit(&tunnel, protocol_type, &packet, Offload::NONE, PATH_MTU), expected, "{context}");
            continue;
        }
        let (gre_at, remote) = delivery(&recorded);
        let (gre, gre_len) = GreHeader::parse(&recorded[gre_at..]).unwrap();
        let inner = &recorded[gre_at + gre_len..];
        let tunnel = Tunnel::new(&configured(mode, words, remote), Arc::new(TunnelCounters::new()));
        // What the host cut to the device's MTU is cut so that it fits.
        let fits = fit(&tunnel, gre.protocol_type, inner, Offload::NONE, PATH_MTU);
        assert_eq!(fits, Fit::Fits, "{context}");
        let mut state = TunnelState::starting_at(gre.sequence_number.unwrap_or(0));
        let outcome =
            encapsulate(&tunnel, &mut state, gre.protocol_type, inner, Offload::NONE, None, &mut train);
        assert_eq!(outcome, Ok(()), "{context}");
        let sent = datagrams(&train, inner);
        assert_eq!(sent.len(), 1);
        let inherits = words.contains("flowlabel inherit") && given[0] >> 4 == 6;
        let label_is_fixed = inherits && ipv6::flow_label(&given) != Some(0);
        let [ours, theirs] = [sent[0].clone(), recorded].map(|packet| masked(packet, label_is_fixed));
        assert_eq!(ours, theirs, "{context}");
        sent_packets += 1;
    }
    assert_eq!([sent_packets, told, forwarded], [384, 50, 35], "rows of the recording");
}

/// A payload packet as a tunnel of the mode gets it.
fn of_mode(mode: &str, packet: &[u8]) -> (u16, Vec<u8>) {
    let protocol_type = if packet[0] >> 4 == 6 { ethertype::IPV6 } else { ethertype::IPV4 };
    if !mode.ends_with("tap") {
        return (protocol_type, packet.to_vec());
    }
    let stations = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    (ethertype::TEB, [&stations[..], &protocol_type.to_be_bytes(), packet].concat())
}
