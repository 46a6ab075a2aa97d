//! The same packets, once by programs and once by userspace: everybody counts the same, and for the same reasons.
//!
//! Every packet here is one that the test sends, and neighbours are told by hand, so that two runs have the same packets.
//! Bulk TCP cannot be had twice: of that, each run has to agree with the statistics of its devices.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use greway_linux::MacAddr;
use greway_testbed::{Host, LinkOptions, PingOptions, build, inject, ping, poll_until, privilege, require};
use greway_wire::ethertype;
use greway_wire::gre::GreHeader;
use greway_wire::ipv4::Ipv4Header;
use greway_wire::ipv6::Ipv6Header;
use serde_json::Value;

use crate::hosts::{self, Carrier, OUTER6, add, sh};
use crate::pair::{self, OUTER, Pair, intact, mac};
use crate::support::{SOON, in_vain};

const UDP: u8 = 17;

/// Name, words, and the second byte of the inner addresses.
const TUNNELS: [Tunnel; 6] = [
    Tunnel { name: "tun0", words: "", key: None, subnet: 16 },
    Tunnel { name: "tun1", words: "key 1 ttl 9 tos inherit", key: Some(1), subnet: 17 },
    Tunnel { name: "tun2", words: "mode gretap key 2", key: Some(2), subnet: 18 },
    Tunnel { name: "tun3", words: "mode ip6gre", key: None, subnet: 19 },
    Tunnel { name: "tun4", words: "mode ip6gretap key 4", key: Some(4), subnet: 20 },
    Tunnel { name: "tun5", words: "key 5 nopmtudisc ttl inherit", key: Some(5), subnet: 21 },
];

struct Tunnel {
    name: &'static str,
    words: &'static str,
    key: Option<u32>,
    subnet: u8,
}

impl Tunnel {
    fn is_ethernet(&self) -> bool {
        self.words.contains("tap")
    }

    fn is_over_ipv6(&self) -> bool {
        self.words.contains("mode ip6")
    }

    fn far(&self) -> IpAddr {
        [172, self.subnet, 0, 2].into()
    }

    /// A GRE packet of this tunnel in its delivery packet, from right to left, for which nothing is set but this.
    fn delivery(&self, tos: u8, gre: GreHeader, payload: &[u8]) -> (u16, Vec<u8>) {
        let gre = build::gre(GreHeader { key: self.key, ..gre }, payload);
        match self.is_over_ipv6() {
            true => {
                let header = build::ipv6_header(OUTER6[1], OUTER6[0], build::GRE);
                (ethertype::IPV6, build::ipv6(Ipv6Header { traffic_class: tos, ..header }, &gre))
            }
            false => {
                let header = build::ipv4_header(OUTER[1], OUTER[0], build::GRE);
                (ethertype::IPV4, build::ipv4(Ipv4Header { tos, ..header }, &gre))
            }
        }
    }

    /// An inner IPv4 packet, as a payload packet of this kind of tunnel, and its protocol type.
    fn payload(&self, pair: &Pair, tos: u8) -> (u16, Vec<u8>) {
        let packet = datagram(Ipv4Addr::new(172, self.subnet, 0, 1), tos);
        match self.is_ethernet() {
            true => (
                ethertype::TEB,
                build::ethernet(
                    mac(&pair.left, self.name),
                    mac(&pair.right, self.name),
                    ethertype::IPV4,
                    &packet,
                ),
            ),
            false => (ethertype::IPV4, packet),
        }
    }
}

/// An IPv4 packet that nobody answers.
fn datagram(destination: Ipv4Addr, tos: u8) -> Vec<u8> {
    let header = build::ipv4_header(Ipv4Addr::new(192, 0, 2, 1), destination, UDP);
    build::ipv4(Ipv4Header { tos, ..header }, &[0; 40])
}

/// Hosts with all tunnels, which say nothing by themselves.
fn hosts_with_tunnels(carrier: &Carrier) -> Pair {
    let pair = carrier.bare();
    for tunnel in &TUNNELS {
        add(&pair, tunnel.name, tunnel.words, tunnel.subnet);
        carrier.carries(&pair, tunnel.name);
        if tunnel.is_ethernet() {
            for (host, other, end) in [(&pair.left, &pair.right, 2), (&pair.right, &pair.left, 1)] {
                let (address, at) = (format!("172.{}.0.{end}", tunnel.subnet), mac(other, tunnel.name));
                sh(host, &format!("ip neighbour replace {address} lladdr {at} dev {}", tunnel.name));
            }
        }
    }
    // And the cable's, which is no tunnel's, but what waits for it may be too much for its queue.
    for end in [OUTER[1].to_string(), OUTER6[1].to_string()] {
        hosts::answers_in_the_end(&pair.left, &end, "the cable");
    }
    pair
}

/// What left sends into a tunnel.
fn send_inside(pair: &Pair, tunnel: &Tunnel, what: &str) {
    for size in [0, 56, 1_000, 1_300] {
        let report =
            ping(&pair.left, tunnel.far(), &PingOptions { size, count: 2, ..PingOptions::default() });
        let report = report.unwrap();
        assert!(report.complete(), "{what}: {size}: {report}");
    }
    // The kernel fragments it before.
    let large = PingOptions { size: 3_000, count: 1, ..PingOptions::default() };
    let report = ping(&pair.left, tunnel.far(), &large).unwrap();
    assert!(report.complete(), "{what}: {report}");

    let send = |destination: MacAddr, kind: u16, packet: &[u8]| {
        let frame = build::ethernet(destination, mac(&pair.left, tunnel.name), kind, packet);
        inject(&pair.left, tunnel.name, &frame).unwrap();
    };
    let far = mac(&pair.right, tunnel.name);
    let group = MacAddr::new([1, 0, 0x5e, 1, 2, 3]);
    let nobody = Ipv4Addr::new(192, 0, 2, 77);
    // ECN, each codepoint and a class beside it.
    for tos in [1, 2, 3, 0xb8 | 3] {
        send(far, ethertype::IPV4, &datagram(nobody, tos));
    }
    send(group, ethertype::IPV4, &datagram(Ipv4Addr::new(239, 1, 2, 3), 0));
    send(MacAddr::new([0xff; 6]), ethertype::IPV4, &datagram(Ipv4Addr::BROADCAST, 0));
    let six = build::ipv6_header("fd00::1".parse().unwrap(), "fd00::9".parse().unwrap(), UDP);
    send(far, ethertype::IPV6, &build::ipv6(six, &[0; 40]));
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &[2; 20]].concat();
    send(far, ethertype::ARP, &arp);
    send(far, ethertype::MPLS, &[0, 0, 1, 64, 1, 2, 3, 4]);
    send(far, 0x88b5, &[7; 60]);
    // Half a header.
    send(far, ethertype::IPV4, &datagram(nobody, 0)[..12]);
    send(far, ethertype::IPV6, &[0x60, 0, 0, 0]);
    // GRE to its own far end, which would go round.
    let to_itself = build::ipv4_header(OUTER[0], OUTER[1], build::GRE);
    send(far, ethertype::IPV4, &build::ipv4(to_itself, &build::gre(GreHeader::default(), &[0; 40])));
}

/// What comes to left from outside, for a tunnel or nearly so.
fn send_outside(pair: &Pair, tunnel: &Tunnel) {
    let send = |(kind, datagram): (u16, Vec<u8>)| {
        let frame = build::ethernet(mac(&pair.left, "wan0"), mac(&pair.right, "wan0"), kind, &datagram);
        inject(&pair.right, "wan0", &frame).unwrap();
    };
    let (protocol_type, _) = tunnel.payload(pair, 0);
    let plain = GreHeader { protocol_type, ..GreHeader::default() };
    let with = |outer: u8, header: GreHeader, inner: u8| {
        send(tunnel.delivery(outer, header, &tunnel.payload(pair, inner).1));
    };
    // Every pair of codepoints, the forbidden one (CE outside, Not-ECT inside) among them.
    for outer in 0..4 {
        for inner in 0..4 {
            with(outer, plain, inner);
        }
    }
    // What the tunnel does not expect, and userspace decides about.
    with(0, GreHeader { checksum: Some(0), ..plain }, 0);
    with(0, GreHeader { checksum: Some(0x1234), ..plain }, 0);
    with(0, GreHeader { sequence_number: Some(9), ..plain }, 0);
    for protocol_type in [0, 0x883e, 0x88be, 0x8100] {
        with(0, GreHeader { protocol_type, ..plain }, 0);
    }
    send(tunnel.delivery(0, plain, &[]));
    send(tunnel.delivery(0, plain, &[0x45, 0, 0]));
    // A flag of RFC 1701, PPTP's version and one that there is not.
    for (at, bits) in [(0, 0x40), (0, 0x08), (1, 0x01), (1, 0x05)] {
        let (kind, mut datagram) = tunnel.delivery(0, plain, &tunnel.payload(pair, 0).1);
        let gre = if tunnel.is_over_ipv6() { 40 } else { 20 };
        datagram[gre + at] |= bits;
        send((kind, datagram));
    }
    // No tunnel has this key.
    let stranger = Tunnel { key: Some(99), ..*tunnel };
    send(stranger.delivery(0, plain, &tunnel.payload(pair, 0).1));
}

/// Larger than the way allows and than the device of the tunnel says, both forms of DF.
fn send_too_much(pair: &Pair, tunnel: &Tunnel) {
    sh(&pair.left, &format!("ip link set {} mtu 1500", tunnel.name));
    // What the kernel learns from the answer would keep the others from being sent.
    for df in [true, true, false] {
        let large = PingOptions { size: 1_472, count: 1, df, ..in_vain() };
        let report = ping(&pair.left, tunnel.far(), &large).unwrap();
        assert!(!df || report.received() == 0, "{}: {report}", tunnel.words);
        sh(&pair.left, "ip route flush cache");
    }
}

/// All that is counted, by who counts it: greway at both ends, and their devices.
type Counted = BTreeMap<String, Value>;

fn counted(pair: &Pair) -> Counted {
    let mut all = Counted::new();
    for (node, host) in [(0, &pair.left), (1, &pair.right)] {
        let status = hosts::status(pair, node);
        let reasons = |rows: &Value| {
            let row = |row: &Value| (row["reason"].as_str().unwrap().to_owned(), row["packets"].clone());
            let rows: BTreeMap<String, Value> = rows.as_array().unwrap().iter().map(row).collect();
            serde_json::to_value(rows).unwrap()
        };
        let of = |what: &str| format!("{} {what}", host.name());
        all.insert(of("drops of no tunnel"), reasons(&status["drops"]));
        all.insert(of("declines"), reasons(&status["declines"]));
        let strangers = status["unmatched"].as_array().unwrap().iter();
        all.insert(
            of("unmatched"),
            strangers.map(|row| row["packets"].as_u64().unwrap()).sum::<u64>().into(),
        );
        for tunnel in &TUNNELS {
            let said = pair::tunnel(&status.to_string(), tunnel.name);
            all.insert(of(&format!("{} counters", tunnel.name)), said["counters"].clone());
            all.insert(of(&format!("{} drops", tunnel.name)), reasons(&said["drops"]));
            all.insert(of(&format!("{} device", tunnel.name)), device(host, tunnel.name));
        }
    }
    all
}

/// The statistics of a device.
fn device(host: &Host, name: &str) -> Value {
    let link = host.netlink().unwrap().link_by_name(name).unwrap().unwrap().statistics;
    serde_json::json!({
        "rx": [link.rx_packets, link.rx_bytes, link.rx_dropped, link.rx_errors],
        "tx": [link.tx_packets, link.tx_bytes, link.tx_dropped, link.tx_errors],
    })
}

/// All traffic on a pair that is carried so. What was counted when everything had been.
fn run(carrier: &Carrier, expected: Option<&Counted>) -> Counted {
    let pair = hosts_with_tunnels(carrier);
    for tunnel in &TUNNELS {
        let what = format!("{carrier} {}", tunnel.words);
        send_inside(&pair, tunnel, &what);
        send_outside(&pair, tunnel);
    }
    for tunnel in &TUNNELS {
        send_too_much(&pair, tunnel);
    }
    let mut last = Counted::new();
    let settled = poll_until(SOON, "the end of it", || {
        let before = std::mem::replace(&mut last, counted(&pair));
        (expected.map_or(last == before, |expected| last == *expected)).then_some(())
    });
    match expected {
        None => settled.unwrap(),
        // Said by whoever compares.
        Some(_) => drop(settled),
    }
    for tunnel in TUNNELS.iter().filter(|_| expected.is_some()) {
        let said = hosts::tunnel(&pair, 0, tunnel.name);
        let (all, left) = (said["counters"]["sent_packets"].as_u64().unwrap(), hosts::left_in_all(&said));
        // Both directions' are in there, most of them such as userspace has to decide about.
        assert!(
            left < all,
            "{}: {left} left to userspace, {all} sent: {}",
            tunnel.words,
            said["left_to_userspace"]
        );
    }
    last
}

#[test]
fn the_same_packets_are_counted_the_same() {
    require!(privilege::check());
    let by_userspace = run(&Carrier::userspace(), None);
    let by_programs = run(&Carrier::filters(), Some(&by_userspace));
    let differ: Vec<String> = by_userspace
        .iter()
        .filter(|(name, value)| by_programs[*name] != **value)
        .map(|(name, value)| format!("{name}\n  userspace {value}\n  programs  {}", by_programs[name]))
        .collect();
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    // What was to be counted was.
    for tunnel in &TUNNELS {
        let drops = &by_userspace[&format!("left {} drops", tunnel.name)];
        assert_eq!(drops["ecn-corrupted"], 1, "{}: {drops}", tunnel.name);
        let sent = by_userspace[&format!("left {} counters", tunnel.name)]["sent_packets"].as_u64().unwrap();
        assert!(sent > 18, "{}: {sent} sent", tunnel.name);
    }
}

/// Super-packets count once when they are sent, at greway as at its device, and every byte of them. So they do when they
/// are received by programs; userspace counts each delivery packet, and hands on as one what belongs together.
#[test]
fn bulk_counts_as_the_device_has_it() {
    require!(privilege::check());
    for carrier in [Carrier::userspace(), Carrier::filters()] {
        for cable in
            [LinkOptions::default(), LinkOptions { gro: true, tx_offload: false, ..LinkOptions::default() }]
        {
            let pair = carrier.bare_on(&cable);
            for tunnel in [&TUNNELS[0], &TUNNELS[2], &TUNNELS[3]] {
                let what = format!("{carrier} {} {cable:?}", tunnel.words);
                add(&pair, tunnel.name, tunnel.words, tunnel.subnet);
                carrier.carries(&pair, tunnel.name);
                intact(&pair.left, &pair.right, tunnel.far(), 1 << 20, &what);
                for node in 0..2 {
                    agree(&pair, node, tunnel, &what);
                }
            }
        }
    }
}

/// What status says of a tunnel is what its device has.
#[track_caller]
fn agree(pair: &Pair, node: usize, tunnel: &Tunnel, what: &str) {
    let host = if node == 0 { &pair.left } else { &pair.right };
    let link_len = if tunnel.is_ethernet() { 0 } else { 14 };
    let by_programs = hosts::tunnel(pair, node, tunnel.name)["datapath"]["datapath"] == "ebpf";
    let mut last = String::new();
    let agree = poll_until(SOON, what, || {
        let device = host.netlink().unwrap().link_by_name(tunnel.name).unwrap().unwrap().statistics;
        let status = hosts::tunnel(pair, node, tunnel.name)["counters"].clone();
        let said = |direction: &str| {
            let packets = status[format!("{direction}_packets")].as_u64().unwrap();
            (packets, status[format!("{direction}_bytes")].as_u64().unwrap() + link_len * packets)
        };
        let (sent, received) = ((device.tx_packets, device.tx_bytes), (device.rx_packets, device.rx_bytes));
        last = format!("status {status}, device sent {sent:?}, received {received:?}");
        let counts_each =
            !by_programs && said("received").0 >= received.0 && said("received").1 >= received.1;
        (said("sent") == sent && (said("received") == received || counts_each)).then_some(())
    });
    assert!(agree.is_ok(), "{what} at {}: {last}", host.name());
    let drops = &hosts::tunnel(pair, node, tunnel.name)["drops"];
    pair::none_dropped(drops, what);
}
