//! Trains of datagrams: those of one flow that arrive together go into the tunnel device as one packet, and one that
//! comes out of it is split. Whoever receives them gets each as it was sent, once and in order.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::IpAddr;

use greway_linux::sockopt::{self, set_receive_buffer};
use greway_testbed::{
    Capture, CapturedPacket, Guide, Host, LinkOptions, PingOptions, guide, link, offloads, privilege, require,
};
use greway_wire::checksum;

use crate::bulk::with_daemons;
use crate::bursts::{all_arrive, burst, datagram, send_train, transport};
use crate::pair::{Pair, inner, inside, udp};
use crate::support::Node;

/// Datagrams of one burst: four batches.
const COUNT: usize = 256;
/// The most that are put together (linux include/linux/udp.h `UDP_MAX_SEGMENTS` before 6.9).
const MOST: usize = 64;

/// The sizes of UDP payload in what came out of a device, or into it.
fn payloads(capture: Capture, outgoing: bool) -> Vec<usize> {
    let payload = |packet: &CapturedPacket| {
        let found = (packet.outgoing == outgoing).then(|| transport(packet.payload()))??;
        Some(found.end - found.payload_at())
    };
    capture.stop().iter().filter_map(payload).collect()
}

fn received(pair: &Pair) -> u64 {
    pair.status(1)["counters"]["received_packets"].as_u64().unwrap()
}

#[test]
fn rx25_datagrams_that_arrive_together_go_in_together_and_count_singly_by_packet_socket() {
    require!(privilege::check());
    go_in_together("underlay packet", &LinkOptions::default());
}

#[test]
fn rx25_datagrams_that_arrive_together_go_in_together_and_count_singly_by_raw_socket() {
    require!(privilege::check());
    go_in_together("underlay raw", &LinkOptions::default());
}

fn go_in_together(underlay: &str, cable: &LinkOptions) {
    let pair = Pair::with(cable, &format!("datapath userspace {underlay}"));
    pair.ipv6();
    pair.answers(&PingOptions::default());
    let daemon = pair.daemons[1].as_ref().unwrap();
    let v6: [IpAddr; 2] = ["fd00::1", "fd00::2"].map(|address| address.parse().unwrap());
    for (words, [from, to]) in [
        ("nokey", [inner(0), inner(1)]),
        ("nokey", v6),
        ("key 42 csum seq", [inner(0), inner(1)]),
        ("key 42 csum seq", v6),
    ] {
        pair.change(words);
        let what = format!("{underlay}, {words}, to {to}");
        let (sender, receiver) = (udp(&pair.left, from), udp(&pair.right, to));
        set_receive_buffer(&receiver, 4 << 20).unwrap();
        let to = receiver.local_addr().unwrap();
        let before = received(&pair);
        let comes_out = Capture::start(&pair.right, "tun0").unwrap();
        let mut sizes = vec![64; COUNT];
        burst(&sender, to, &sizes, daemon, (&pair.right, "wan0"));
        all_arrive(&receiver, &sizes, &what);
        let trains = payloads(comes_out, false);
        assert_eq!(trains.iter().sum::<usize>(), COUNT * 64, "{what}: {trains:?}");
        assert!(trains.len() <= COUNT / 16, "{what}: {trains:?}");
        assert!(trains.iter().all(|train| *train <= MOST * 64), "{what}: {trains:?}");
        assert_eq!(received(&pair) - before, COUNT as u64, "{what}");

        // Of one size but for the last: others begin anew, and full ones are no more than 64 KiB together.
        sizes = vec![200; 20];
        sizes.extend([100, 300, 300, 299, 0, 5, 5, 5]);
        sizes.extend([1_400; 100]);
        let comes_out = Capture::start(&pair.right, "tun0").unwrap();
        burst(&sender, to, &sizes, daemon, (&pair.right, "wan0"));
        all_arrive(&receiver, &sizes, &what);
        let trains = payloads(comes_out, false);
        assert_eq!(trains.iter().sum::<usize>(), sizes.iter().sum::<usize>(), "{what}: {trains:?}");
        assert!(trains.len() < sizes.len() / 4, "{what}: {trains:?}");
    }
    pair.none_dropped(underlay);
}

/// A program that asks for trains gets them.
#[test]
fn a_receiver_with_udp_gro_gets_several_at_once() {
    require!(privilege::check());
    let pair = Pair::new("datapath userspace");
    let (sender, receiver) = (udp(&pair.left, inner(0)), udp(&pair.right, inner(1)));
    set_receive_buffer(&receiver, 4 << 20).unwrap();
    sockopt::set_udp_gro(&receiver, true).unwrap();
    let sizes = [100; COUNT];
    let daemon = pair.daemons[1].as_ref().unwrap();
    burst(&sender, receiver.local_addr().unwrap(), &sizes, daemon, (&pair.right, "wan0"));
    let (mut bytes, mut calls, mut buffer) = (Vec::new(), 0, [0; 65_536]);
    while bytes.len() < COUNT * 100 {
        let length = receiver.recv(&mut buffer).unwrap();
        bytes.extend_from_slice(&buffer[..length]);
        calls += 1;
    }
    let sent = (0..COUNT).flat_map(|number| datagram(number, 100)).collect::<Vec<_>>();
    assert!(bytes == sent, "{} bytes in {calls} calls", bytes.len());
    assert!(calls <= COUNT / 16, "{calls} calls");
}

#[test]
fn a_train_that_a_program_sends_is_split_for_the_cable() {
    require!(privilege::check());
    for underlay in ["packet", "raw"] {
        let pair = Pair::new(&format!("datapath userspace underlay {underlay} csum"));
        pair.ipv6();
        pair.answers(&PingOptions::default());
        for (tx_offload, ends) in
            [(true, [inner(0), inner(1)]), (false, ["fd00::1", "fd00::2"].map(|end| end.parse().unwrap()))]
        {
            pair.offloads(false, tx_offload);
            let (sender, receiver) = (udp(&pair.left, ends[0]), udp(&pair.right, ends[1]));
            set_receive_buffer(&receiver, 4 << 20).unwrap();
            for (size, count) in [(64, MOST), (1_000, 40), (1_300, 50)] {
                let what = format!("{underlay}, transmit offload {tx_offload}, {count} of {size} bytes");
                let comes_out = Capture::start(&pair.left, "tun0").unwrap();
                let cable = Capture::start(&pair.left, "wan0").unwrap();
                send_train(&sender, receiver.local_addr().unwrap(), size, count);
                all_arrive(&receiver, &vec![size; count], &what);
                // Whole out of the device, and singly on the cable, each with its checksums.
                assert_eq!(payloads(comes_out, true), [size * count], "{what}");
                let frames = cable.stop();
                let sent: Vec<_> = frames.iter().filter(|frame| frame.outgoing).filter_map(inside).collect();
                let datagrams: Vec<_> =
                    sent.iter().filter_map(|(_, packet)| Some((packet, transport(packet)?))).collect();
                assert_eq!(datagrams.len(), count, "{what}");
                for (packet, found) in datagrams {
                    assert_eq!(found.end - found.payload_at(), size, "{what}");
                    let mut sum = found.pseudo_header((found.end - found.offset) as u32);
                    sum.add(&packet[found.offset..]);
                    assert!(sum.verifies() && found.end == packet.len(), "{what}: {packet:02x?}");
                    assert!(found.offset != 20 || checksum::verifies(&packet[..20]), "{what}: {packet:02x?}");
                }
                assert!(frames.iter().all(|frame| frame.frame.len() <= 1_514), "{what}");
            }
        }
        pair.none_dropped(underlay);
    }
}

#[test]
fn trains_are_intact_from_lan_to_lan() {
    require!(privilege::check());
    for words in ["datapath userspace underlay packet", "datapath userspace underlay raw key 42 csum"] {
        with_daemons(words, &LinkOptions::default(), &LinkOptions::default(), |guide, daemons| {
            let Guide { lan1, lan2, linux2, .. } = guide;
            let [from, to] = guide::LAN.map(IpAddr::from);
            let (sender, receiver) = (udp(lan1, from), udp(lan2, to));
            set_receive_buffer(&receiver, 4 << 20).unwrap();
            let to = receiver.local_addr().unwrap();
            for tx_offload in [true, false] {
                let options = LinkOptions { tx_offload, ..LinkOptions::default() };
                offloads(linux2, "lan0", &options).unwrap();
                let what = format!("{words}, transmit offload {tx_offload}");
                let forwarded = Capture::start(linux2, "tun0").unwrap();
                let mut sizes = vec![900; 100];
                sizes.extend([30; 100]);
                burst(&sender, to, &sizes, &daemons[1], (linux2, "wan0"));
                all_arrive(&receiver, &sizes, &what);
                let trains = payloads(forwarded, false);
                assert!(trains.len() <= sizes.len() / 8, "{what}: {trains:?}");
                // And one that is a train from the beginning.
                let from_the_begin = udp(lan1, from);
                send_train(&from_the_begin, to, 1_200, 50);
                all_arrive(&receiver, &[1_200; 50], &what);
            }
        });
    }
}

/// Out of one tunnel and into the next: what was put together behind the first is split in front of the second.
#[test]
fn tx06_a_train_goes_on_through_another_tunnel() {
    require!(privilege::check());
    for words in ["datapath userspace", "datapath auto"] {
        let pair = Pair::new("datapath userspace");
        let far = Host::new("far").unwrap();
        link(&pair.right, "wan1", &far, "wan0", &LinkOptions::default()).unwrap();
        pair.right.address("wan1", "10.0.1.1/24").unwrap();
        far.address("wan0", "10.0.1.2/24").unwrap();
        let node = Node::new(&far);
        let _daemon = node.daemon();
        let add =
            |node: &Node, ends: &str| node.words(&format!("tunnel add tun1 mode gre {ends} {words}")).ok();
        add(&pair.nodes[1], "local 10.0.1.1 remote 10.0.1.2");
        add(&node, "local 10.0.1.2 remote 10.0.1.1");
        pair.right.address("tun1", "172.18.0.1 peer 172.18.0.2/30").unwrap();
        far.address("tun1", "172.18.0.2 peer 172.18.0.1/30").unwrap();
        pair.right.forwarding(true).unwrap();
        pair.left.route("172.18.0.0/30", "dev tun0").unwrap();
        far.route("172.16.0.0/30", "dev tun1").unwrap();

        let (sender, receiver) = (udp(&pair.left, inner(0)), udp(&far, [172, 18, 0, 2].into()));
        set_receive_buffer(&receiver, 4 << 20).unwrap();
        let to = receiver.local_addr().unwrap();
        let between = Capture::start(&pair.right, "tun1").unwrap();
        let mut sizes = vec![64; 128];
        sizes.extend([1_200; 90]);
        burst(&sender, to, &sizes, pair.daemons[1].as_ref().unwrap(), (&pair.right, "wan0"));
        all_arrive(&receiver, &sizes, words);
        let trains = payloads(between, true);
        assert!(trains.len() <= sizes.len() / 8, "{words}: {trains:?}");
        assert_eq!(trains.iter().sum::<usize>(), sizes.iter().sum::<usize>(), "{words}");
        pair.none_dropped(words);
    }
}

/// Packets that the kernel merges before they reach the sockets pass as ever.
#[test]
fn datagrams_are_intact_where_the_kernel_merges_too() {
    require!(privilege::check());
    let cable = LinkOptions { gro: true, tx_offload: false, ..LinkOptions::default() };
    let pair = Pair::with(&cable, "datapath userspace");
    let held = pair.hold_for_gro();
    require!(held);
    let (sender, receiver) = (udp(&pair.left, inner(0)), udp(&pair.right, inner(1)));
    set_receive_buffer(&receiver, 4 << 20).unwrap();
    send_train(&sender, receiver.local_addr().unwrap(), 700, 60);
    all_arrive(&receiver, &[700; 60], "GRO on");
    pair.none_dropped("GRO on");
}
