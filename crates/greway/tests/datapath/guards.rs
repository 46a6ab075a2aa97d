//! What must not get in, and what greway must not make its host say. Frames are put on the cable by hand: the far end is
//! a host without a daemon where the test needs it silent.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::Ipv4Addr;

use greway_linux::MacAddr;
use greway_testbed::{
    Capture, CapturedPacket, LinkOptions, PingOptions, build, inject, ping, poll_until, privilege, require,
};
use greway_wire::gre::GreHeader;

use crate::pair::{INNER, OUTER, Pair, drops, inner, is_unreachable, mac, seen, udp, unreachable};
use crate::support::SOON;

/// A payload packet that is known again by `mark`.
fn marked(mark: u16, data: usize) -> Vec<u8> {
    let echo = build::echo_request(0x4711, mark, &vec![0x5a; data]);
    build::ipv4(build::ipv4_header(INNER[1], INNER[0], build::ICMP), &echo)
}

/// It in GRE and IPv4 from right to left.
fn carried(payload: &[u8], key: Option<u32>) -> Vec<u8> {
    let header = GreHeader { protocol_type: 0x0800, key, ..GreHeader::default() };
    build::ipv4(build::ipv4_header(OUTER[1], OUTER[0], build::GRE), &build::gre(header, payload))
}

/// A frame on the cable from right to left.
fn frame(pair: &Pair, datagram: &[u8]) -> Vec<u8> {
    build::ethernet(mac(&pair.left, "wan0"), mac(&pair.right, "wan0"), 0x0800, datagram)
}

/// Injects at right and waits for a good one behind it: whether the payload came out of left's tun0.
fn comes_out(pair: &Pair, frame: &[u8], payload: &[u8], barrier: u16) -> bool {
    let capture = Capture::start(&pair.left, "tun0").unwrap();
    inject(&pair.right, "wan0", frame).unwrap();
    let last = marked(barrier, 8);
    inject(&pair.right, "wan0", &self::frame(pair, &carried(&last, None))).unwrap();
    capture.wait_for(SOON, "the packet behind it", |packet| packet.payload() == last).unwrap();
    seen(capture, |packet| !packet.outgoing && packet.payload() == payload) > 0
}

#[test]
fn frames_that_the_stack_would_not_take_are_not_taken() {
    require!(privilege::check());
    let pair = Pair::new("underlay packet");
    let payload = marked(1, 64);
    let datagram = carried(&payload, None);
    let whole = frame(&pair, &datagram);
    assert!(comes_out(&pair, &whole, &payload, 100), "the good one does come out");

    // What follows the datagram in the frame is no part of it.
    let padded = frame(&pair, &[&datagram[..], &[0xee; 40]].concat());
    assert!(comes_out(&pair, &padded, &payload, 101), "padding is cut off");

    let mut elsewhere = whole.clone();
    elsewhere[..6].copy_from_slice(&[2, 0xde, 0xad, 0, 0, 1]);
    assert!(!comes_out(&pair, &elsewhere, &payload, 102), "for another machine");

    let mut damaged = datagram.clone();
    damaged[10] ^= 0x40;
    assert!(!comes_out(&pair, &frame(&pair, &damaged), &payload, 103), "with a bad outer checksum");

    let short = &datagram[..datagram.len() - 9];
    assert!(!comes_out(&pair, &frame(&pair, short), &payload, 104), "cut off");

    let mut tagged = whole;
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
    assert!(!comes_out(&pair, &tagged, &payload, 105), "of a VLAN");

    let mut strange = datagram.clone();
    strange[16..20].copy_from_slice(&[10, 0, 0, 77]);
    strange[10..12].fill(0);
    let sum = greway_wire::checksum::checksum(&strange[..20]);
    strange[10..12].copy_from_slice(&sum.to_be_bytes());
    assert!(!comes_out(&pair, &frame(&pair, &strange), &payload, 106), "to an address that is not ours");

    pair.wait_for_drops(0, "outer-truncated", 1);
    let status = pair.nodes[0].words("status --json --no-echo").ok().stdout;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(drops(&status, "outer-checksum"), 1, "{status}");
    // The kernel has marked the frames of a VLAN as another machine's by then (linux 6.18 net/core/dev.c), and
    // those belong to nobody here.
    pair.nodes[0].words("status --no-echo").ok().says(&["of no tunnel", "outer-checksum"]);
}

#[test]
fn malformed_gre_is_counted_by_reason() {
    require!(privilege::check());
    for underlay in ["packet", "raw"] {
        let pair = Pair::new(&format!("underlay {underlay}"));
        let payload = marked(1, 64);
        let spoiled = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut gre = carried(&payload, None)[20..].to_vec();
            change(&mut gre);
            frame(&pair, &build::ipv4(build::ipv4_header(OUTER[1], OUTER[0], build::GRE), &gre))
        };
        type Spoil = dyn Fn(&mut Vec<u8>);
        let cases: [(&str, &Spoil); 6] = [
            ("unknown-version", &|gre| gre[1] |= 2),
            ("routing-present", &|gre| gre[0] |= 0x40),
            ("reserved-flags", &|gre| gre[1] |= 0x08),
            ("bad-checksum", &|gre| {
                gre[0] |= 0x80;
                gre.splice(4..4, [0x12, 0x34, 0, 0]);
            }),
            ("inner-truncated", &|gre| gre.truncate(4 + 15)),
            ("too-short", &|gre| gre.truncate(7)),
        ];
        for (barrier, (reason, change)) in (200..).zip(cases) {
            assert!(!comes_out(&pair, &spoiled(change), &payload, barrier), "{underlay}: {reason}");
            pair.wait_for_drops(0, reason, 1);
        }
    }
}

#[test]
fn a_packet_too_large_for_the_device_is_counted_and_one_that_fits_is_not() {
    require!(privilege::check());
    for underlay in ["packet", "raw"] {
        let pair = Pair::new(&format!("mtu 1000 underlay {underlay}"));
        let sized = |mark, size: usize| marked(mark, size - 28);
        // A veth end takes four bytes more than its MTU.
        for (size, fits) in [(1000, true), (1004, true), (1005, false), (1400, false)] {
            let payload = sized(size as u16, size);
            let out = comes_out(&pair, &frame(&pair, &carried(&payload, None)), &payload, 300 + size as u16);
            assert_eq!(out, fits, "{underlay}: {size} bytes");
        }
        pair.wait_for_drops(0, "inner-too-big-for-device", 2);
    }
}

#[test]
fn outer_fragments_are_put_together() {
    require!(privilege::check());
    for underlay in ["packet", "raw"] {
        let pair = Pair::new(&format!("nopmtudisc ignore-df ttl inherit mtu 4000 underlay {underlay}"));
        let cable = Capture::start(&pair.right, "wan0").unwrap();
        pair.answers(&PingOptions { size: 3000, ..PingOptions::default() });
        let fragments = seen(cable, |packet| {
            let payload = packet.payload();
            packet.protocol() == Some(build::GRE) && payload[6] & 0x3f != 0
        });
        assert!(fragments >= 12, "{underlay}: {fragments} fragments");
        pair.bulk(1 << 20, underlay);
    }
}

#[test]
fn nobody_is_told_that_the_protocol_is_unreachable_while_greway_runs() {
    require!(privilege::check());
    let mut pair = Pair::new("");
    let stranger = frame(&pair, &carried(&marked(1, 64), Some(99)));
    for underlay in ["packet", "raw"] {
        let cable = Capture::start(&pair.right, "wan0").unwrap();
        pair.nodes[0].words(&format!("tunnel change tun0 underlay {underlay}")).ok();
        inject(&pair.right, "wan0", &stranger).unwrap();
        // The kernel's answers come in order: what it says to the echo is behind what it said before.
        assert!(ping(&pair.right, OUTER[0].into(), &PingOptions::default()).unwrap().complete());
        assert_eq!(seen(cable, is_protocol_unreachable), 0, "{underlay}");
    }
    let cable = Capture::start(&pair.right, "wan0").unwrap();
    // The other way round: without us it does answer.
    pair.daemons[0].take().unwrap().kill();
    inject(&pair.right, "wan0", &stranger).unwrap();
    cable.wait_for(SOON, "protocol unreachable", is_protocol_unreachable).unwrap();
}

fn is_protocol_unreachable(packet: &CapturedPacket) -> bool {
    unreachable(packet) == Some(greway_wire::icmp::PROTOCOL_UNREACHABLE)
}

#[test]
fn a_flood_on_a_daemon_that_stands_still_is_not_answered() {
    require!(privilege::check());
    for underlay in ["packet", "raw"] {
        let pair = Pair::new(&format!("underlay {underlay}"));
        pair.answers(&PingOptions::default());
        let cable = Capture::start(&pair.right, "wan0").unwrap();
        let halted = pair.daemons[0].as_ref().unwrap().halt();
        let sender = udp(&pair.right, inner(1));
        let sent = poll_until(SOON, "a full buffer", || {
            for _ in 0..1000 {
                let _ = sender.send_to(&[0x33; 1400], (INNER[0], 9));
            }
            (overflown(&pair, underlay) > 0).then_some(())
        });
        assert!(ping(&pair.right, OUTER[0].into(), &PingOptions::default()).unwrap().complete());
        let answers = seen(cable, is_unreachable);
        drop(halted);
        sent.unwrap();
        assert_eq!(answers, 0, "{underlay}");
        poll_until(SOON, "life after the flood", || {
            pair.ping(&PingOptions::default()).complete().then_some(())
        })
        .unwrap();
    }
}

/// Packets that left's receiving socket had no room for.
fn overflown(pair: &Pair, underlay: &str) -> u64 {
    if underlay == "raw" {
        let table = pair.left.run(|| std::fs::read_to_string("/proc/thread-self/net/raw")).unwrap().unwrap();
        let drops =
            table.lines().skip(1).filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok());
        return drops.sum();
    }
    // A packet socket's drops are told to its owner only; 32 MiB of them are more than its buffer.
    let received = crate::pair::counted(&pair.left, "wan0").0;
    if received > 30_000 { 1 } else { 0 }
}

#[test]
fn the_host_does_not_take_what_it_sends_into_the_tunnel() {
    require!(privilege::check());
    for plane in ["auto", "userspace"] {
        the_host_does_not_take_what_it_sends(plane);
    }
}

fn the_host_does_not_take_what_it_sends(plane: &str) {
    let mut pair = Pair::new(&format!("datapath {plane}"));
    pair.left.sysctl("ipv4/icmp_echo_ignore_broadcasts", "0").unwrap();
    let stranger = Ipv4Addr::new(10, 77, 0, 5);
    pair.left.route("10.77.0.0/24", "via 10.0.0.2").unwrap();
    let hand_in = |pair: &Pair, mark: u16, destination: Ipv4Addr| {
        let echo = build::echo_request(0x4712, mark, b"to all");
        let packet = build::ipv4(build::ipv4_header(stranger, destination, build::ICMP), &echo);
        let all = MacAddr::new([0xff; 6]);
        inject(&pair.left, "tun0", &build::ethernet(all, mac(&pair.left, "tun0"), 0x0800, &packet)).unwrap();
        packet
    };
    let send = |pair: &Pair, mark: u16, destination: Ipv4Addr| {
        let comes_out = Capture::start(&pair.right, "tun0").unwrap();
        let packet = hand_in(pair, mark, destination);
        comes_out.wait_for(SOON, "the packet at the far end", |out| out.payload() == packet).unwrap();
    };
    let before = echoes(&pair);
    for (mark, destination) in [(1, Ipv4Addr::new(224, 0, 0, 1)), (2, Ipv4Addr::BROADCAST), (3, OUTER[0])] {
        send(&pair, mark, destination);
        assert_eq!(echoes(&pair), before, "{destination}: taken by the host that sent it");
    }
    if pair.status(0)["datapath"]["datapath"] == "ebpf" {
        // There the program is the seal.
        return;
    }
    // Without the seal it would be; a daemon would put it back.
    pair.daemons[0].take().unwrap().kill();
    let netdev =
        greway_netlink::nftables::TableId::new(greway_netlink::nftables::Family::Netdev, "greway-tun0");
    let nftables = pair.left.run(greway_netlink::nftables::Nftables::open).unwrap().unwrap();
    assert!(nftables.delete_table(&netdev).unwrap(), "the seal is there");
    hand_in(&pair, 4, Ipv4Addr::new(224, 0, 0, 1));
    poll_until(SOON, "the echo without the seal", || (echoes(&pair) > before).then_some(())).unwrap();
}

/// ICMP echo requests that left's own stack has taken in.
fn echoes(pair: &Pair) -> u64 {
    let table = pair.left.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).unwrap().unwrap();
    let mut rows = table.lines().filter(|line| line.starts_with("Icmp:"));
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let column = names.split_whitespace().position(|name| name == "InEchos").unwrap();
    values.split_whitespace().nth(column).unwrap().parse().unwrap()
}

#[test]
fn frames_of_the_peer_end_have_addresses_of_their_own() {
    require!(privilege::check());
    let pair = Pair::with(&LinkOptions::default(), "");
    let addresses = [
        mac(&pair.left, "tun0"),
        mac(&pair.left, "gw-tun0"),
        mac(&pair.right, "tun0"),
        mac(&pair.right, "gw-tun0"),
    ];
    for (position, address) in addresses.iter().enumerate() {
        assert!(!addresses[..position].contains(address), "{addresses:?}");
        assert_eq!(address.octets()[0] & 3, 2, "local and unicast: {address:?}");
    }
}
