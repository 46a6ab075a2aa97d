//! What goes in comes out, once, and everybody counts the same: captures, `ip -s link` and greway itself.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use greway_linux::MacAddr;
use greway_testbed::{Capture, CapturedPacket, PingOptions, build, inject, ping, privilege, require};

use crate::pair::{self, OUTER, Pair, counted, inside, mac};
use crate::support::SOON;

fn ten() -> PingOptions {
    PingOptions { count: 10, ..PingOptions::default() }
}

/// An echo of a payload protocol, outgoing or not, by its ICMP type.
fn is_icmp(packet: &CapturedPacket, outgoing: bool, icmp_type: u8) -> bool {
    packet.outgoing == outgoing && packet.ethertype() == 0x0800 && packet.payload()[9] == 1 && {
        packet.payload()[20] == icmp_type
    }
}

#[test]
fn ten_of_ten_each_way_in_every_capture_and_every_counter() {
    require!(privilege::check());
    for underlay in ["packet", "raw"] {
        let pair = Pair::new(&format!("underlay {underlay}"));
        // ARP on the cable is done with, and is not GRE anyway.
        pair.answers(&PingOptions { count: 1, ..PingOptions::default() });
        let before = [counted(&pair.left, "tun0"), counted(&pair.right, "tun0")];
        let tunnel = Capture::start(&pair.left, "tun0").unwrap();
        let cable = Capture::start(&pair.left, "wan0").unwrap();

        let report = pair.ping(&ten());
        assert!(report.complete() && report.sent == 10, "{report}");
        tunnel.wait_for_count(SOON, "replies", 10, |packet| is_icmp(packet, false, 0)).unwrap();

        let frames = tunnel.stop();
        for (outgoing, icmp_type) in [(true, 8), (false, 0)] {
            let seen = frames.iter().filter(|packet| is_icmp(packet, outgoing, icmp_type)).count();
            assert_eq!(seen, 10, "{underlay}: ICMP type {icmp_type} on tun0");
        }
        assert_eq!(frames.len(), 20, "{underlay}: nothing else on tun0: {frames:?}");
        let frames = cable.stop();
        for outgoing in [true, false] {
            let seen = |packet: &&CapturedPacket| packet.outgoing == outgoing && packet.gre().is_some();
            assert_eq!(frames.iter().filter(seen).count(), 10, "{underlay}: GRE on the cable");
        }
        for (host, (received, sent)) in [(&pair.left, before[0]), (&pair.right, before[1])] {
            assert_eq!(counted(host, "tun0"), (received + 10, sent + 10), "{underlay}: {host:?}");
        }
        for node in 0..2 {
            let counters = &pair.status(node)["counters"];
            // The first exchange of both ends and the ten.
            assert_eq!(counters["sent_packets"], 12, "{underlay}: {counters}");
            assert_eq!(counters["received_packets"], 12, "{underlay}: {counters}");
        }
    }
}

#[test]
fn every_kind_of_payload_goes_both_ways() {
    require!(privilege::check());
    let pair = Pair::new("");
    pair.ipv6();
    for (from, to, target) in [(&pair.left, &pair.right, "fd00::2"), (&pair.right, &pair.left, "fd00::1")] {
        let arrives = Capture::start(to, "wan0").unwrap();
        let report = ping(from, target.parse().unwrap(), &ten()).unwrap();
        assert!(report.complete(), "{target}: {report}");
        let of_type = |packet: &CapturedPacket| {
            !packet.outgoing && inside(packet).is_some_and(|(protocol_type, _)| protocol_type == 0x86dd)
        };
        arrives.wait_for_count(SOON, "IPv6 in GRE", 10, of_type).unwrap();
    }
    // MPLS, and something nobody has heard of: the type goes on the wire as it is and comes out again.
    for ethertype in [0x8847_u16, 0x88b5] {
        let arrives = Capture::start(&pair.right, "wan0").unwrap();
        let comes_out = Capture::start(&pair.right, "tun0").unwrap();
        let payload = format!("a payload of type {ethertype:04x}");
        let frame = build::ethernet(
            MacAddr::new([2, 0, 0, 0, 0, 1]),
            mac(&pair.left, "tun0"),
            ethertype,
            payload.as_bytes(),
        );
        inject(&pair.left, "tun0", &frame).unwrap();
        let packet = arrives
            .wait_for(SOON, "the payload in GRE", |packet| {
                inside(packet).is_some_and(|(_, inner)| inner == payload.as_bytes())
            })
            .unwrap();
        assert_eq!(inside(&packet).unwrap().0, ethertype, "{packet:?}");
        let packet = comes_out
            .wait_for(SOON, "the payload", |packet| {
                !packet.outgoing && packet.payload().starts_with(payload.as_bytes())
            })
            .unwrap();
        assert_eq!(packet.ethertype(), ethertype);
        assert_eq!(packet.payload(), payload.as_bytes());
    }
}

#[test]
fn a_ping_of_3000_bytes_passes_in_every_form_of_the_header() {
    require!(privilege::check());
    let pair = Pair::new("");
    let large = PingOptions { size: 3000, ..PingOptions::default() };
    for words in
        ["key 42", "nokey csum", "nocsum seq", "key 42 csum seq", "underlay raw", "nokey nocsum noseq"]
    {
        pair.change(words);
        pair.answers(&PingOptions::default());
        pair.answers(&large);
    }
}

#[test]
fn tunnels_between_the_same_ends_are_told_apart_by_their_keys() {
    require!(privilege::check());
    let pair = Pair::bare(&greway_testbed::LinkOptions::default());
    for (name, key, subnet) in [("tun0", 1, 16), ("tun1", 2, 17), ("tun2", 0, 18)] {
        pair.add(name, &format!("key {key}"));
        pair.left.address(name, &format!("172.{subnet}.0.1 peer 172.{subnet}.0.2/30")).unwrap();
        pair.right.address(name, &format!("172.{subnet}.0.2 peer 172.{subnet}.0.1/30")).unwrap();
    }
    for (subnet, count) in [(16, 3_u16), (17, 5), (18, 7)] {
        let target = format!("172.{subnet}.0.2").parse().unwrap();
        let report = ping(&pair.left, target, &PingOptions { count, ..PingOptions::default() }).unwrap();
        assert!(report.complete(), "{target}: {report}");
    }
    let status = pair.nodes[1].status();
    for (name, count) in [("tun0", 3), ("tun1", 5), ("tun2", 7)] {
        let tunnel = pair::tunnel(&status.to_string(), name);
        // Each has one more by the echo that `status` sends, one way or the other.
        let received = tunnel["counters"]["received_packets"].as_u64().unwrap();
        assert!((count..=count + 1).contains(&received), "{name}: {}", tunnel["counters"]);
    }
}

#[test]
fn a_tunnel_that_says_nothing_of_its_remote_is_refused() {
    require!(privilege::check());
    let pair = Pair::bare(&greway_testbed::LinkOptions::default());
    let before = pair.nodes[0].belongings();
    // Accepting from anybody is asked for in so many words: `remote any`.
    pair.nodes[0].words("tunnel add tun0 mode gre local 10.0.0.1").refused(&["tun0", "remote"]);
    assert_eq!(pair.nodes[0].belongings(), before);
}

#[test]
fn what_matches_no_tunnel_is_listed_and_its_sender_told() {
    require!(privilege::check());
    let pair = Pair::new("key 7");
    pair.answers(&PingOptions::default());
    pair.nodes[1].words("tunnel change tun0 key 8").ok();
    let cable = Capture::start(&pair.right, "wan0").unwrap();
    let report = pair.ping(&crate::support::in_vain());
    assert_eq!(report.received(), 0, "{report}");
    let status = pair.nodes[1].words("status --json --no-echo").ok().stdout;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let stranger = &status["unmatched"][0];
    assert_eq!(stranger["source"], OUTER[0].to_string(), "{status}");
    assert_eq!(stranger["key"], 7);
    assert_eq!(stranger["packets"], 2);
    assert_eq!(status["answers"]["answered"], 2, "{status}");
    // The far end's status says why nothing comes back.
    let said = &pair.status(0)["icmp_errors"][0];
    assert_eq!((&said["error"], &said["packets"]), (&"port unreachable".into(), &2.into()), "{said}");
    pair.nodes[1].words("tunnel change tun0 key 7").ok();
    assert!(pair.ping(&PingOptions::default()).complete());
    let codes = cable.stop().iter().filter_map(pair::unreachable).collect::<Vec<_>>();
    assert_eq!(codes, [3, 3], "and never that the protocol is unknown");
}

#[test]
fn tunnels_of_both_kinds_of_socket_live_side_by_side() {
    require!(privilege::check());
    let pair = Pair::new("key 1 underlay packet");
    pair.add("tun1", "key 2 underlay raw");
    pair.left.address("tun1", "172.17.0.1 peer 172.17.0.2/30").unwrap();
    pair.right.address("tun1", "172.17.0.2 peer 172.17.0.1/30").unwrap();
    pair.answers(&PingOptions::default());
    let report = ping(&pair.left, [172, 17, 0, 2].into(), &PingOptions::default()).unwrap();
    assert!(report.complete(), "{report}");
    pair.bulk(1 << 20, "by packet socket");
    pair::intact(&pair.left, &pair.right, [172, 17, 0, 2].into(), 1 << 20, "by raw socket");
    // A stranger and a packet that is no GRE of version 0 to 1 are seen by both sockets and counted once.
    let strange = |key: u32, version: u8| {
        let header = greway_wire::gre::GreHeader { key: Some(key), ..Default::default() };
        let mut gre = build::gre(header, &[0x45; 40]);
        gre[1] |= version;
        let datagram = build::ipv4(build::ipv4_header(OUTER[0], OUTER[1], build::GRE), &gre);
        let frame = build::ethernet(mac(&pair.right, "wan0"), mac(&pair.left, "wan0"), 0x0800, &datagram);
        inject(&pair.left, "wan0", &frame).unwrap();
    };
    strange(3, 0);
    strange(1, 5);
    // What came before these has been dealt with by either socket when both tunnels answer.
    pair.answers(&PingOptions { count: 1, ..PingOptions::default() });
    let report = ping(&pair.left, [172, 17, 0, 2].into(), &PingOptions::default()).unwrap();
    assert!(report.complete(), "{report}");
    let status = pair.nodes[1].words("status --json --no-echo").ok().stdout;
    let whole: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(whole["unmatched"][0]["key"], 3, "{status}");
    assert_eq!(whole["unmatched"][0]["packets"], 1, "{status}");
    let blamed = ["tun0", "tun1"].map(|name| pair::drops(&pair::tunnel(&status, name), "unknown-version"));
    let of_none = pair::drops(&whole, "unknown-version");
    assert_eq!(blamed.iter().sum::<u64>() + of_none, 1, "{status}");
}
