//! Super-packets that leave whole: handed to the kernel in GRE, and cut by it where the last device on the way wants it so.
//! Whoever receives gets what greway would have sent by itself.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use greway_linux::ethtool;
use greway_linux::injector::CUTS_TUNNELS;
use greway_linux::sockopt::set_receive_buffer;
use greway_netlink::nftables::{Family, Nftables, TableId};
use greway_testbed::{
    Capture, CapturedPacket, LinkOptions, PingOptions, poll_until, privilege, require, tcp::transfer,
};
use greway_wire::checksum;
use greway_wire::ethertype;
use greway_wire::ipv4::Ipv4Header;
use greway_wire::transport::{Protocol, Transport};

use crate::bursts::{all_arrive, datagram, send_train};
use crate::pair::{INNER, Pair, inner, inside, intact, mac, udp};
use crate::support::{INJECTOR, SEND_ON, SOON};

/// Why there are none.
const BEFORE_6_17: &str = "this kernel takes no super-packets in GRE (before Linux 6.17)";
const MIB: u64 = 1 << 20;
const V6: [&str; 2] = ["fd00::1", "fd00::2"];

/// Whether super-packets leave left whole, as `status` has it.
fn is_whole(pair: &Pair) -> bool {
    pair.status(0)["datapath"]["super_packets"] == true
}

#[track_caller]
fn wait_until_whole(pair: &Pair, whole: bool) {
    let settled =
        poll_until(SOON, "another way for super-packets", || (is_whole(pair) == whole).then_some(()));
    settled.unwrap_or_else(|error| panic!("{error}: {}", pair.status(0)["datapath"]));
}

/// A pair whose left super-packets leave whole; `None` before Linux 6.17.
fn pair(words: &str) -> Option<Pair> {
    let pair = Pair::new(&format!("datapath userspace {words}"));
    pair.ipv6();
    pair.answers(&PingOptions::default());
    wait_for_exit(&pair);
    assert!(!has_device(&pair), "nothing was sent yet that would be worth it");
    pair.leaves_whole().then_some(pair)
}

fn wait_for_exit(pair: &Pair) {
    poll_until(SOON, "a short way", || pair.status(0)["datapath"]["exit"].is_string().then_some(())).unwrap();
}

fn has_device(pair: &Pair) -> bool {
    pair.left.netlink().unwrap().link_by_name(INJECTOR).unwrap().is_some()
}

macro_rules! pair_or_skip {
    ($words:expr) => {{
        require!(privilege::check());
        let pair = pair($words).ok_or(BEFORE_6_17);
        require!(pair.as_ref());
        pair.unwrap()
    }};
}

/// Leaves the cutting of packets in tunnels to the kernel, and their checksums, at left's end of the cable; or to the device.
fn cut_by_the_kernel(pair: &Pair) {
    pair.offloads(false, false);
    let off = CUTS_TUNNELS.map(|feature| (feature, false));
    pair.left.run(|| ethtool::set_features("wan0", &off)).unwrap().unwrap();
    let sender = udp(&pair.left, inner(0));
    let is_heard_of = || {
        let asked = asked_to_cut(pair);
        send_train(&sender, (INNER[1], 9).into(), 100, 2);
        poll_until(Duration::from_millis(50), "a train", || (asked_to_cut(pair) > asked).then_some(())).ok()
    };
    poll_until(SOON, "trains of datagrams that leave whole", is_heard_of).unwrap();
}

/// The delivery packets that left's cable saw go.
fn sent(capture: Capture) -> Vec<CapturedPacket> {
    assert_eq!(capture.lost(), 0);
    capture.stop().into_iter().filter(|packet| packet.outgoing && packet.gre().is_some()).collect()
}

fn longer(packets: &[CapturedPacket]) -> usize {
    packets.iter().filter(|packet| packet.frame.len() > 1_514).count()
}

#[test]
fn over_a_veth_those_of_tcp_go_whole_and_arrive_intact() {
    let pair = pair_or_skip!("");
    for words in ["", "key 42", "nokey csum", "key 42 csum", "ttl 255", "nokey nocsum ttl 64"] {
        pair.change(words);
        wait_until_whole(&pair, true);
        for ends in [[inner(0), inner(1)], V6.map(|end| end.parse().unwrap())] {
            let what = format!("{words}, to {}", ends[1]);
            let cable = Capture::start(&pair.left, "wan0").unwrap();
            intact(&pair.left, &pair.right, ends[1], 2 * MIB, &what);
            let packets = sent(cable);
            // The kernel takes one from the TTL, and there is none more than 255.
            assert_eq!(
                longer(&packets) > 20,
                words != "ttl 255",
                "{what}: {} of {}",
                longer(&packets),
                packets.len()
            );
        }
        pair.none_dropped(words);
    }
}

#[test]
fn out_of_a_tun_device_too() {
    let pair = pair_or_skip!("overlay tun");
    assert_eq!(pair.status(0)["datapath"]["overlay"], "tun");
    let cable = Capture::start(&pair.left, "wan0").unwrap();
    pair.bulk(4 * MIB, "tun");
    assert!(longer(&sent(cable)) > 20);
    pair.none_dropped("tun");
}

#[test]
fn in_ethernet_too() {
    require!(privilege::check());
    let pair = Pair::bare(&LinkOptions::default());
    for (node, [local, remote]) in pair.nodes.iter().zip([["10.0.0.1", "10.0.0.2"], ["10.0.0.2", "10.0.0.1"]])
    {
        let words = format!("tunnel add tap0 mode gretap local {local} remote {remote} datapath userspace");
        node.words(&words).ok();
    }
    for (host, address) in [(&pair.left, "192.168.9.1/24"), (&pair.right, "192.168.9.2/24")] {
        host.address("tap0", address).unwrap();
    }
    let there = IpAddr::from([192, 168, 9, 2]);
    let log = || pair.daemons[0].as_ref().unwrap().log();
    let settled = || {
        intact(&pair.left, &pair.right, there, 200_000, "enough");
        let refused = log().contains("cannot be handed any").then_some(Err(BEFORE_6_17));
        refused.or_else(|| has_device(&pair).then_some(Ok(())))
    };
    require!(poll_until(SOON, "the device, or why there is none", settled).unwrap());
    let cable = poll_until(SOON, "whole super-packets", || {
        let cable = Capture::start(&pair.left, "wan0").unwrap();
        intact(&pair.left, &pair.right, there, 2 * MIB, "gretap");
        let packets = sent(cable);
        (longer(&packets) > 20).then_some(packets)
    })
    .unwrap();
    assert!(cable.iter().all(|packet| inside(packet).is_some_and(|(kind, _)| kind == ethertype::TEB)));
}

/// What the kernel cuts fits the cable, and has every checksum and length as it must.
#[test]
fn what_the_kernel_cuts_is_as_we_would_send_it() {
    let pair = pair_or_skip!("");
    cut_by_the_kernel(&pair);
    for words in ["", "key 42", "nokey csum", "key 42 csum"] {
        pair.change(words);
        wait_until_whole(&pair, true);
        for (ends, other) in [
            ([inner(0), inner(1)], INNER.map(IpAddr::from)),
            (V6.map(|end| end.parse().unwrap()), V6.map(|end| end.parse().unwrap())),
        ] {
            let what = format!("{words}, to {}", ends[1]);
            let asked = asked_to_cut(&pair);
            let cable = Capture::start(&pair.left, "wan0").unwrap();
            intact(&pair.left, &pair.right, ends[1], MIB, &what);
            assert!(asked_to_cut(&pair) > asked, "{what}: nothing was handed to the kernel");
            let packets = sent(cable);
            assert!(packets.len() > 700, "{what}: {}", packets.len());
            packets.iter().for_each(|packet| verify(packet, &what));

            // Trains of datagrams as well: a device that has them cut is handed each one by itself.
            let (sender, receiver) = (udp(&pair.left, other[0]), udp(&pair.right, other[1]));
            trains(&pair, &sender, &receiver, &what);
        }
        pair.none_dropped(words);
    }
}

/// Datagrams that come out of the tunnel device together leave together where the kernel cuts, and singly over a veth that hands
/// on what it is given.
#[test]
fn datagrams_that_are_there_together_leave_together_and_arrive_singly() {
    const COUNT: usize = 192;
    let pair = pair_or_skip!("");
    let sizes = [&[64; COUNT][..], &[200, 100, 300, 300, 299, 5, 5, 1_300, 1_300, 1_300]].concat();
    let counted = |node: usize, what: &str| pair.status(node)["counters"][what].as_u64().unwrap();
    for cut in [false, true] {
        pair.change("nokey nocsum nooseq");
        if cut {
            cut_by_the_kernel(&pair);
        }
        for words in ["", "key 42", "nokey csum", "nocsum oseq"] {
            pair.change(words);
            wait_until_whole(&pair, true);
            for ends in [[inner(0), inner(1)], V6.map(|end| end.parse().unwrap())] {
                let what = format!("{words}, cut {cut}, to {}", ends[1]);
                let (sender, receiver) = (udp(&pair.left, ends[0]), udp(&pair.right, ends[1]));
                set_receive_buffer(&receiver, 4 << 20).unwrap();
                let before = [counted(0, "sent_packets"), counted(1, "received_packets")];
                let asked = asked_to_cut(&pair);
                let cable = Capture::start(&pair.left, "wan0").unwrap();
                let halted = pair.daemons[0].as_ref().unwrap().halt();
                for (number, size) in sizes.iter().enumerate() {
                    sender.send_to(&datagram(number, *size), receiver.local_addr().unwrap()).unwrap();
                }
                drop(halted);
                all_arrive(&receiver, &sizes, &what);
                let packets = sent(cable);
                assert_eq!(packets.iter().filter(|packet| is_udp(packet)).count(), sizes.len(), "{what}");
                let handed = asked_to_cut(&pair) - asked;
                let expected = if cut && words != "nocsum oseq" { 4..40 } else { 0..1 };
                assert!(expected.contains(&handed), "{what}: {handed}");
                if cut {
                    packets.iter().for_each(|packet| verify(packet, words));
                }
                let after = [counted(0, "sent_packets"), counted(1, "received_packets")];
                let several = |before: u64, after: u64| (after - before) as usize >= sizes.len();
                assert!(
                    several(before[0], after[0]) && several(before[1], after[1]),
                    "{what}: {before:?} {after:?}"
                );
            }
        }
    }
    pair.none_dropped("bursts");
}

/// Packets that left was handed by its device.
fn asked_to_cut(pair: &Pair) -> u64 {
    pair.left.netlink().unwrap().link_by_name(INJECTOR).unwrap().unwrap().statistics.rx_packets
}

fn trains(pair: &Pair, sender: &UdpSocket, receiver: &UdpSocket, what: &str) {
    set_receive_buffer(receiver, 4 << 20).unwrap();
    for (size, count) in [(64, 60), (1_300, 50)] {
        let asked = asked_to_cut(pair);
        let cable = Capture::start(&pair.left, "wan0").unwrap();
        send_train(sender, receiver.local_addr().unwrap(), size, count);
        all_arrive(receiver, &vec![size; count], what);
        let packets = sent(cable);
        let datagrams = packets.iter().filter(|packet| is_udp(packet));
        assert_eq!(datagrams.count(), count, "{what}, {size}");
        packets.iter().for_each(|packet| verify(packet, what));
        assert!(asked_to_cut(pair) > asked, "{what}: nothing was handed to the kernel");
    }
}

fn is_udp(packet: &CapturedPacket) -> bool {
    let (_, inner) = inside(packet).unwrap();
    Transport::locate(inner).is_some_and(|found| found.protocol == Protocol::Udp)
}

#[track_caller]
fn verify(packet: &CapturedPacket, what: &str) {
    assert!(packet.frame.len() <= 1_514, "{what}: {} bytes on the cable", packet.frame.len());
    let outer = Ipv4Header::parse(packet.payload()).unwrap();
    assert_eq!((outer.ttl, outer.dont_fragment), (64, true), "{what}: {packet:?}");
    assert_eq!(usize::from(outer.total_length), packet.payload().len(), "{what}: {packet:?}");
    assert!(checksum::verifies(&packet.payload()[..20]), "{what}: outer checksum of {packet:?}");
    let gre = packet.gre().unwrap();
    let (header, _) = greway_wire::gre::GreHeader::parse(gre).unwrap();
    let expected = what.split([' ', ',']).any(|word| word == "csum");
    assert_eq!(header.checksum.is_some(), expected, "{what}");
    assert!(header.checksum.is_none() || checksum::verifies(gre), "{what}: GRE checksum of {packet:?}");
    let (kind, inner) = inside(packet).unwrap();
    if kind == ethertype::IPV4 {
        let network = Ipv4Header::parse(inner).unwrap();
        assert_eq!(usize::from(network.total_length), inner.len(), "{what}: {packet:?}");
        assert!(checksum::verifies(&inner[..20]), "{what}: inner checksum of {packet:?}");
    }
    let Some(found) = Transport::locate(inner) else { return };
    let covered = &inner[found.offset..found.end];
    let mut sum = found.pseudo_header(covered.len() as u32);
    sum.add(covered);
    assert!(sum.verifies(), "{what}: transport checksum of {packet:?}");
}

/// A raw socket is told nothing of what it receives, and finds out.
#[test]
fn a_far_end_that_receives_by_raw_socket_gets_the_same_bytes() {
    let pair = pair_or_skip!("");
    for words in ["", "csum"] {
        pair.nodes
            .iter()
            .for_each(|node| drop(node.words(&format!("tunnel change tun0 nocsum {words}")).ok()));
        pair.nodes[1].words("tunnel change tun0 underlay raw").ok();
        assert_eq!(pair.status(1)["datapath"]["underlay"], "raw");
        wait_until_whole(&pair, true);
        let cable = Capture::start(&pair.left, "wan0").unwrap();
        intact(&pair.left, &pair.right, inner(1), 4 * MIB, words);
        assert!(longer(&sent(cable)) > 20, "{words}");
        // Datagrams are something else: it would not know where one ends.
        let (sender, receiver) = (udp(&pair.left, inner(0)), udp(&pair.right, inner(1)));
        set_receive_buffer(&receiver, 4 << 20).unwrap();
        send_train(&sender, receiver.local_addr().unwrap(), 100, 60);
        all_arrive(&receiver, &[100; 60], words);
        pair.none_dropped(words);
    }
}

/// Programs at the far end take them as well.
#[test]
fn a_far_end_that_programs_carry_gets_the_same_bytes() {
    let pair = pair_or_skip!("");
    // Not where the whole suite is run without.
    if pair.nodes[1].plane() == "userspace" {
        return;
    }
    for words in ["nokey", "key 42"] {
        pair.change(words);
        pair.nodes[1].words("tunnel change tun0 datapath auto").ok();
        pair.carried_by(1, "ebpf");
        wait_until_whole(&pair, true);
        let cable = Capture::start(&pair.left, "wan0").unwrap();
        for there in [inner(1), V6[1].parse().unwrap()] {
            intact(&pair.left, &pair.right, there, 4 * MIB, words);
        }
        assert!(longer(&sent(cable)) > 40, "{words}");
        pair.none_dropped(words);
    }
}

/// The kernel would send them by the main table, and everything else goes by another.
#[test]
fn a_rule_by_source_has_them_split() {
    let pair = pair_or_skip!("");
    let ip = |words: &str| {
        let output = pair.left.output(Command::new("ip").args(words.split(' '))).unwrap();
        assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    };
    ip(&format!("neighbour replace 10.0.0.77 lladdr {} dev wan0", mac(&pair.right, "wan0")));
    ip("route add 10.0.0.2 via 10.0.0.77 dev wan0 table 100");
    ip("rule add from 10.0.0.1 lookup 100");
    wait_until_whole(&pair, false);
    wait_for_exit(&pair);
    let cable = Capture::start(&pair.left, "wan0").unwrap();
    intact(&pair.left, &pair.right, inner(1), MIB, "by another table");
    assert_eq!(longer(&sent(cable)), 0);
    ip("rule delete from 10.0.0.1 lookup 100");
    wait_until_whole(&pair, true);
    pair.none_dropped("rules");
}

#[test]
fn who_takes_the_device_away_or_sets_it_down_finds_it_in_order_again() {
    let pair = pair_or_skip!("");
    for words in [["link", "set", INJECTOR, "down"], ["link", "delete", "dev", INJECTOR]] {
        let output = pair.left.output(Command::new("ip").args(words)).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // None is lost meanwhile: they are split.
        intact(&pair.left, &pair.right, inner(1), MIB, words[2]);
        poll_until(SOON, "the device", || {
            let link = pair.left.netlink().unwrap().link_by_name(INJECTOR).unwrap();
            link.filter(|link| link.up).map(drop)
        })
        .unwrap();
        poll_until(SOON, "whole super-packets", || {
            let cable = Capture::start(&pair.left, "wan0").unwrap();
            intact(&pair.left, &pair.right, inner(1), MIB, words[2]);
            (longer(&sent(cable)) > 5).then_some(())
        })
        .unwrap();
    }
    pair.none_dropped("down and deleted");
}

#[test]
fn the_device_and_its_table_go_with_the_last_tunnel_and_with_the_daemon() {
    let mut pair = pair_or_skip!("");
    let table = TableId::new(Family::Ip, SEND_ON);
    let tables = |pair: &Pair| {
        let nftables = pair.left.run(Nftables::open).unwrap().unwrap();
        nftables.tables().unwrap().iter().any(|there| there.id == table)
    };
    assert!(tables(&pair));
    pair.change("underlay raw");
    let gone = |pair: &Pair| (!has_device(pair) && !tables(pair)).then_some(());
    poll_until(SOON, "nothing left of it", || gone(&pair)).unwrap();
    pair.change("underlay auto");
    assert!(pair.leaves_whole());
    pair.nodes[0].words("tunnel del tun0").ok();
    poll_until(SOON, "nothing left of it", || gone(&pair)).unwrap();

    pair.nodes[0].words("tunnel add tun0 mode gre local 10.0.0.1 remote 10.0.0.2 datapath userspace").ok();
    pair.left.address("tun0", &format!("{} peer {}/30", INNER[0], INNER[1])).unwrap();
    assert!(pair.leaves_whole() && has_device(&pair));
    pair.daemons[0].take().unwrap().kill();
    poll_until(SOON, "nothing left of it", || gone(&pair)).unwrap();
}

#[test]
fn greway_toml_switches_it_off() {
    let mut pair = pair_or_skip!("");
    let file = pair.nodes[0].file("greway.toml", "[daemon]\nsuper-packets = false\n");
    pair.daemons[0].take();
    pair.daemons[0] = Some(pair.nodes[0].daemon_with(&[("GREWAY_CONFIG", file.as_str())]));
    pair.answers(&PingOptions::default());
    wait_for_exit(&pair);
    intact(&pair.left, &pair.right, inner(1), MIB, "enough");
    // The rules are looked at meanwhile, and with them what it is worth.
    pair.change("ttl 63");
    pair.change("ttl 64");
    assert!(!is_whole(&pair) && !has_device(&pair));
    let cable = Capture::start(&pair.left, "wan0").unwrap();
    let report = transfer(&pair.left, &pair.right, SocketAddr::new(inner(1), 0), MIB, SOON).unwrap();
    assert!(report.intact());
    assert_eq!(longer(&sent(cable)), 0);
}
