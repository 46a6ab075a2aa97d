//! Traffic in quantity: super-packets out of the tunnel device, merged packets from the underlay, both at once, and the
//! same through gateways. What arrives must be what was sent.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests; rates and times are for people"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use greway_testbed::{
    Capture, CapturedPacket, Guide, LinkOptions, PingOptions, guide, offloads, ping, privilege, require,
};
use greway_wire::checksum::pseudo_header_v4;
use greway_wire::ipv4::Ipv4Header;

use crate::pair::{Pair, inner, inside, intact, seen, udp};
use crate::support::{Daemon, Lab, Node};

const MIB: u64 = 1 << 20;

#[test]
fn tcp_is_intact_in_all_combinations_of_offloads_by_packet_socket() {
    require!(privilege::check());
    every_combination("packet");
}

#[test]
fn tcp_is_intact_in_all_combinations_of_offloads_by_raw_socket() {
    require!(privilege::check());
    every_combination("raw");
}

fn every_combination(underlay: &str) {
    // A program in the kernel merges nothing.
    let pair = Pair::new(&format!("datapath userspace underlay {underlay}"));
    let held = pair.hold_for_gro();
    require!(held);
    let leaves_whole = underlay == "packet" && pair.leaves_whole();
    for (gro, tx_offload) in [(false, false), (false, true), (true, false), (true, true)] {
        pair.offloads(gro, tx_offload);
        let what = format!("{underlay}, gro {gro}, transmit offload {tx_offload}");
        let arrives = Capture::start(&pair.right, "wan0").unwrap();
        let comes_out = Capture::start(&pair.right, "tun0").unwrap();
        pair.bulk(8 * MIB, &what);
        // Larger than the cable takes: the kernel merged it on receive, or it left so. A veth spares what came from a device
        // with transmit offload (linux 6.18 drivers/net/veth.c).
        let merged = seen(arrives, |packet| !packet.outgoing && packet.frame.len() > 1514);
        let expected = (gro && !tx_offload) || (leaves_whole && tx_offload);
        assert_eq!(merged > 0, expected, "{what}: {merged} merged packets arrived");
        // And what the kernel did not merge we do.
        let merged = seen(comes_out, |packet| !packet.outgoing && packet.frame.len() > 1476 + 14);
        assert!(merged > 0, "{what}: no super-packet came out of the tunnel");
        pair.none_dropped(&what);
    }
}

#[test]
fn tcp_is_intact_with_every_option_of_the_header() {
    require!(privilege::check());
    for underlay in ["packet", "raw"] {
        let pair =
            Pair::with(&LinkOptions { gro: true, ..LinkOptions::default() }, &format!("underlay {underlay}"));
        for words in ["key 42", "nokey csum", "nocsum seq", "key 42 csum seq"] {
            pair.change(words);
            pair.bulk(2 * MIB, &format!("{underlay}, {words}"));
            pair.none_dropped(&format!("{underlay}, {words}"));
        }
    }
}

#[test]
fn tcp_over_ipv6_is_intact() {
    require!(privilege::check());
    for underlay in ["packet", "raw"] {
        let pair =
            Pair::with(&LinkOptions { gro: true, ..LinkOptions::default() }, &format!("underlay {underlay}"));
        pair.ipv6();
        for (from, to, address) in
            [(&pair.left, &pair.right, "fd00::2"), (&pair.right, &pair.left, "fd00::1")]
        {
            intact(from, to, address.parse().unwrap(), 4 * MIB, underlay);
        }
    }
}

#[test]
fn what_is_sent_fits_the_cable_and_has_its_checksums() {
    require!(privilege::check());
    // By raw socket nothing leaves that the kernel still is to cut.
    let pair = Pair::new("csum underlay raw");
    for tx_offload in [false, true] {
        pair.offloads(false, tx_offload);
        let inside_of = Capture::start(&pair.left, "tun0").unwrap();
        let cable = Capture::start(&pair.left, "wan0").unwrap();
        pair.bulk(MIB, "capture");
        let supers = seen(inside_of, |packet| packet.outgoing && packet.frame.len() > 1500);
        assert!(supers > 0, "the tunnel device gave no super-packet, so nothing was split");
        assert_eq!(cable.lost(), 0);
        let frames = cable.stop();
        let sent: Vec<_> = frames.iter().filter(|p| p.outgoing && p.gre().is_some()).collect();
        assert!(sent.len() > 700, "{} packets", sent.len());
        for packet in sent {
            assert!(packet.frame.len() <= 1514, "{} bytes on the cable", packet.frame.len());
            verify(packet);
        }
    }
}

/// Both checksums that greway writes: the GRE header's and the payload's.
fn verify(packet: &CapturedPacket) {
    let gre = packet.gre().unwrap();
    assert!(greway_wire::checksum::verifies(gre), "GRE checksum of {packet:?}");
    let (protocol_type, inner) = inside(packet).unwrap();
    assert_eq!(protocol_type, 0x0800);
    let header = Ipv4Header::parse(inner).unwrap();
    assert_eq!(usize::from(header.total_length), inner.len(), "{packet:?}");
    let (network, tcp) = inner.split_at(header.header_len());
    assert!(greway_wire::checksum::verifies(network), "inner IPv4 checksum of {packet:?}");
    assert_eq!(header.protocol, 6);
    let mut sum = pseudo_header_v4(header.source, header.destination, 6, tcp.len() as u32);
    sum.add(tcp);
    assert!(sum.verifies(), "TCP checksum of {packet:?}");
}

/// Scenario 2 of the guide: LAN to LAN, both ends forwarding, the tunnel by routes.
fn lan_to_lan(words: &str, outer: &LinkOptions, lan: &LinkOptions, run: impl FnOnce(&Guide)) {
    with_daemons(words, outer, lan, |guide, _| run(guide));
}

/// The same, and the daemons of both ends.
pub(crate) fn with_daemons(
    words: &str,
    outer: &LinkOptions,
    lan: &LinkOptions,
    run: impl FnOnce(&Guide, &[Daemon; 2]),
) {
    let guide = Guide::build_with(outer, lan).unwrap();
    let lab = Lab { one: Node::new(&guide.linux1), two: Node::new(&guide.linux2), guide };
    let daemons = [lab.one.daemon(), lab.two.daemon()];
    lab.tunnel(words);
    let Guide { linux1, linux2, .. } = &lab.guide;
    linux1.forwarding(true).unwrap();
    linux2.forwarding(true).unwrap();
    linux1.route("10.10.2.0/24", "dev tun0").unwrap();
    linux2.route("10.10.1.0/24", "dev tun0").unwrap();
    lab.guide.default_routes().unwrap();
    run(&lab.guide, &daemons);
}

#[test]
fn tcp_is_intact_from_lan_to_lan_in_all_combinations_of_offloads() {
    require!(privilege::check());
    lan_to_lan("", &LinkOptions::default(), &LinkOptions::default(), |guide| {
        let large = PingOptions { size: 3000, ..PingOptions::default() };
        let report = ping(&guide.lan1, guide::LAN[1].into(), &large).unwrap();
        assert!(report.complete(), "{report}");
        for (gro, tx_offload) in [(false, false), (false, true), (true, false), (true, true)] {
            let options = LinkOptions { gro, tx_offload, ..LinkOptions::default() };
            let Guide { lan1, lan2, linux1, linux2, router } = guide;
            for (host, dev) in [
                (linux1, "wan0"),
                (linux1, "lan0"),
                (linux2, "wan0"),
                (linux2, "lan0"),
                (lan1, "eth0"),
                (lan2, "eth0"),
                (router, "eth1"),
                (router, "eth2"),
            ] {
                offloads(host, dev, &options).unwrap();
            }
            let what = format!("gro {gro}, transmit offload {tx_offload}");
            intact(lan1, lan2, guide::LAN[1].into(), 4 * MIB, &what);
            intact(lan2, lan1, guide::LAN[0].into(), 4 * MIB, &what);
            // One end on the gateway itself, the other behind the other gateway.
            intact(lan1, linux2, guide::INNER[1].into(), MIB, &what);
        }
    });
}

#[test]
fn tcp_is_intact_from_lan_to_lan_by_raw_socket_with_all_options() {
    require!(privilege::check());
    let gro = LinkOptions { gro: true, ..LinkOptions::default() };
    lan_to_lan("key 42 csum seq underlay raw", &gro, &gro, |guide| {
        intact(&guide.lan1, &guide.lan2, guide::LAN[1].into(), 4 * MIB, "forth");
        intact(&guide.lan2, &guide.lan1, guide::LAN[0].into(), 4 * MIB, "back");
    });
}

#[test]
fn udp_of_every_size_arrives_once_and_whole() {
    require!(privilege::check());
    let pair = Pair::with(&LinkOptions { gro: true, ..LinkOptions::default() }, "");
    for underlay in ["packet", "raw"] {
        pair.change(&format!("underlay {underlay}"));
        let receiver = udp(&pair.right, inner(1));
        let sender = udp(&pair.left, inner(0));
        let to = receiver.local_addr().unwrap();
        let mut buffer = vec![0; 65_536];
        for size in [0, 1, 2, 7, 64, 1447, 1448, 1449, 2000, 9000, 40_000, 65_000] {
            let data: Vec<u8> = (0..size).map(|index| (index * 7 + size) as u8).collect();
            sender.send_to(&data, to).unwrap();
            let (length, from) = receiver.recv_from(&mut buffer).unwrap();
            assert_eq!((length, from), (size, sender.local_addr().unwrap()), "{underlay}");
            assert!(buffer[..length] == data, "{underlay}: {size} bytes arrived damaged");
        }
        receiver.set_nonblocking(true).unwrap();
        assert!(receiver.recv_from(&mut buffer).is_err(), "{underlay}: one arrived twice");
    }
}

/// A look at the speed, for people: the tunnel beside the bare cable. Nothing is asserted of it.
#[test]
fn the_speed_is_printed() {
    require!(privilege::check());
    let pair = Pair::with(&LinkOptions { gro: true, ..LinkOptions::default() }, "");
    let mbits = |address: SocketAddr| {
        let report = intact(&pair.left, &pair.right, address.ip(), 96 * MIB, "speed");
        report.bits_per_second() / 1e6
    };
    let outer = SocketAddr::from((crate::pair::OUTER[1], 0));
    let tunnel = SocketAddr::new(inner(1), 0);
    let (bare, by_packet) = (mbits(outer), mbits(tunnel));
    let datagrams = |from, to: SocketAddr| udp_rate(&pair, from, to);
    let (bare_pps, tunnel_pps) =
        (datagrams(crate::pair::OUTER[0].into(), outer), datagrams(inner(0), tunnel));
    pair.change("underlay raw");
    let by_raw = mbits(tunnel);
    let flood = PingOptions { count: 500, ..PingOptions::default() };
    let trip = pair.ping(&flood).mean().unwrap();
    println!(
        "speed: TCP {by_packet:.0} Mbit/s by packet socket, {by_raw:.0} by raw socket, {bare:.0} without a tunnel; \
         UDP {tunnel_pps:.0} packets/s, {bare_pps:.0} without; echo {} µs",
        trip.as_micros()
    );
}

/// Datagrams of 64 bytes that arrive in a second.
fn udp_rate(pair: &Pair, from: std::net::IpAddr, to: SocketAddr) -> f64 {
    let receiver = udp(&pair.right, to.ip());
    let sender = udp(&pair.left, from);
    let to = receiver.local_addr().unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let begin = Instant::now();
    let (count, elapsed) = std::thread::scope(|scope| {
        let counter = scope.spawn(|| {
            let mut buffer = [0; 128];
            let (mut count, mut last) = (0_u64, begin);
            while receiver.recv_from(&mut buffer).is_ok() {
                count += 1;
                last = Instant::now();
            }
            (count, last - begin)
        });
        while begin.elapsed() < Duration::from_secs(1) {
            // A full queue is part of what is measured.
            let _ = sender.send_to(&[0x55; 64], to);
        }
        counter.join().unwrap()
    });
    count as f64 / elapsed.as_secs_f64().max(1e-9)
}
