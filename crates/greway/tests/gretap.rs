//! Ethernet in GRE (`mode gretap`): hosts that find each other by ARP, bridges, tags, and what the wire says.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/pair.rs"]
mod pair;
mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use greway_linux::MacAddr;
use greway_linux::packet::{Config, PacketSocket};
use greway_linux::vnet::{GsoType, VnetHeader};
use greway_netlink::LinkChange;
use greway_testbed::build::{self, ethernet};
use greway_testbed::{
    Capture, CapturedPacket, Host, LinkOptions, PingOptions, PingReport, inject, ping, poll_until, privilege,
    require,
};
use greway_wire::gre::GreHeader;
use greway_wire::icmp;
use greway_wire::transport::Transport;
use pair::{Pair, counted, intact};
use support::{Lab, SOON, in_vain, two_hosts};

const TEB: u16 = 0x6558;
const ARP: u16 = 0x0806;
const MIB: u64 = 1 << 20;
/// Flags of a device (linux include/uapi/linux/if.h).
const IFF_BROADCAST: u32 = 0x2;
const IFF_NOARP: u32 = 0x80;
const IFF_MULTICAST: u32 = 0x1000;

/// Two hosts with a gretap tunnel and addresses of one Ethernet segment on it.
fn pair_with(words: &str) -> Pair {
    let pair = Pair::bare(&LinkOptions::default());
    ends(&pair, "tun0", words);
    pair.left.address("tun0", "172.16.0.1/30").unwrap();
    pair.right.address("tun0", "172.16.0.2/30").unwrap();
    pair
}

fn ends(pair: &Pair, name: &str, words: &str) {
    let [left, right] = pair::OUTER;
    for (node, local, remote) in [(&pair.nodes[0], left, right), (&pair.nodes[1], right, left)] {
        node.words(&format!("tunnel add {name} mode gretap local {local} remote {remote} {words}")).ok();
    }
}

fn address_of(host: &Host, dev: &str) -> MacAddr {
    MacAddr::new(host.netlink().unwrap().link_by_name(dev).unwrap().unwrap().address.unwrap())
}

fn no_drops(pair: &Pair, what: &str) {
    pair.none_dropped(what);
}

/// The payload of a GRE packet with protocol type 0x6558.
fn inside(packet: &CapturedPacket) -> Option<&[u8]> {
    let gre = packet.gre()?;
    let (header, length) = GreHeader::parse(gre).ok()?;
    (header.protocol_type == TEB).then(|| &gre[length..])
}

#[test]
fn two_hosts_find_each_other_by_arp_and_talk() {
    require!(privilege::check());
    for (words, mtu) in [
        ("", 1_462),
        ("key 42", 1_458),
        ("key 42 csum seq", 1_450),
        ("underlay raw csum", 1_458),
        ("tos inherit nopmtudisc", 1_462),
    ] {
        let pair = pair_with(words);
        let wire = Capture::start(&pair.left, "wan0").unwrap();
        let inner_link = Capture::start(&pair.left, "tun0").unwrap();
        let link = pair.nodes[0].link("tun0").unwrap();
        assert_eq!(link.mtu, mtu, "{words}");
        let ethernet = IFF_BROADCAST | IFF_MULTICAST;
        assert_eq!(link.flags & (ethernet | IFF_NOARP), ethernet, "{words}: as any Ethernet device");
        pair.nodes[0].words("tunnel show").ok().says(&["tun0: gretap/ip"]);
        let addresses = [address_of(&pair.left, "tun0"), address_of(&pair.right, "tun0")];
        assert_ne!(addresses[0], addresses[1], "T16");

        pair.answers(&PingOptions::default());
        // More than one packet of the tunnel each, and as large as one can be.
        pair.answers(&PingOptions { size: 5_000, ..PingOptions::default() });
        pair.answers(&PingOptions { size: mtu as usize - 28, df: true, ..PingOptions::default() });
        // What the tunnel device counts and shows is what was on the wire.
        poll_until(SOON, "counters, the tunnel device and the wire to agree", || {
            let counted = counted(&pair.left, "tun0").1 as usize;
            let shown = inner_link.count(|packet| packet.outgoing);
            let carried = wire.count(|packet| packet.outgoing && inside(packet).is_some());
            (counted == shown && shown == carried).then_some(())
        })
        .unwrap();
        let seen = wire.stop();
        let asked = |bytes: &[u8]| bytes[..6] == [0xff; 6] && bytes[6..12] == addresses[0].octets();
        let arp = |bytes: &[u8]| bytes.get(12..14) == Some(&ARP.to_be_bytes());
        assert!(
            seen.iter().filter_map(inside).any(|frame| asked(frame) && arp(frame)),
            "{words}: nobody asked by ARP"
        );
        assert!(seen.iter().all(|packet| packet.gre().is_none() || inside(packet).is_some()), "{words}");
        pair.bulk(4 * MIB, words);
        no_drops(&pair, words);
    }
}

#[test]
fn ipv6_works_inside_with_its_own_discovery() {
    require!(privilege::check());
    let pair = pair_with("");
    pair.ipv6();
    let far: IpAddr = "fd00::2".parse().unwrap();
    poll_until(SOON, "IPv6 through the tunnel", || {
        ping(&pair.left, far, &in_vain()).ok().filter(PingReport::complete)
    })
    .unwrap();
    intact(&pair.left, &pair.right, far, 4 * MIB, "IPv6");
    no_drops(&pair, "IPv6");
}

/// A frame from left's tun0 for right's, and back, as the wire and the far device see it.
fn frame_between(pair: &Pair, tags: &[u8], vlan: Option<u16>) {
    for (from, to) in [(&pair.left, &pair.right), (&pair.right, &pair.left)] {
        let addresses = [address_of(to, "tun0").octets(), address_of(from, "tun0").octets()].concat();
        let frame = [&addresses[..], tags, &[0x88, 0xb5], b"an experiment of ours"].concat();
        let wire = Capture::start(to, "wan0").unwrap();
        let arrives = Capture::start(to, "tun0").unwrap();
        inject(from, "tun0", &frame).unwrap();
        let carried = |packet: &CapturedPacket| inside(packet) == Some(&frame);
        wire.wait_for(SOON, "the frame as it was, tags and all", carried).unwrap();
        let behind = |packet: &CapturedPacket| {
            packet.vlan == vlan && packet.frame.ends_with(b"an experiment of ours") && !packet.outgoing
        };
        arrives.wait_for(SOON, "the frame on the far device", behind).unwrap();
    }
}

#[test]
fn tags_are_carried_as_they_are() {
    require!(privilege::check());
    let pair = pair_with("key 7");
    frame_between(&pair, &[], None);
    frame_between(&pair, &[0x81, 0, 0x20, 5], Some(0x2005));
    frame_between(&pair, &[0x88, 0xa8, 0, 9, 0x81, 0, 0x20, 5], Some(9));
    // An IP packet behind a tag: what is inherited goes by it.
    pair.change("tos inherit ttl inherit");
    let to = address_of(&pair.right, "tun0");
    let from = address_of(&pair.left, "tun0");
    let header = build::ipv4_header([172, 16, 5, 1].into(), [172, 16, 5, 2].into(), 200);
    let packet = build::ipv4(greway_wire::ipv4::Ipv4Header { tos: 0x48, ttl: 33, ..header }, &[1; 40]);
    let tagged = [&[0, 5, 8, 0], &packet[..]].concat();
    let frame = ethernet(to, from, 0x8100, &tagged);
    let wire = Capture::start(&pair.right, "wan0").unwrap();
    inject(&pair.left, "tun0", &frame).unwrap();
    let seen = wire.wait_for(SOON, "the tagged packet", |packet| inside(packet) == Some(&frame)).unwrap();
    let outer = greway_wire::ipv4::Ipv4Header::parse(seen.payload()).unwrap();
    assert_eq!((outer.tos, outer.ttl), (0x48, 33));
    no_drops(&pair, "tags");
}

#[test]
fn m3_m4_trains_of_frames_are_intact_in_all_combinations_of_offloads() {
    require!(privilege::check());
    for words in ["", "datapath userspace underlay packet", "underlay raw", "key 42 csum"] {
        let pair = pair_with(words);
        let fast = pair.is_on_fast_path();
        let held = pair.hold_for_gro();
        require!(held);
        let leaves_whole = fast || !words.contains("raw") && pair.leaves_whole();
        for (gro, tx_offload) in [(false, false), (false, true), (true, false), (true, true)] {
            pair.offloads(gro, tx_offload);
            let what = format!("{words}, gro {gro}, transmit offload {tx_offload}");
            let arrives = Capture::start(&pair.right, "wan0").unwrap();
            let comes_out = Capture::start(&pair.right, "tun0").unwrap();
            pair.bulk(4 * MIB, &what);
            let merged = pair::seen(arrives, |packet| !packet.outgoing && packet.frame.len() > 1_514);
            // It is left to the device to split what is larger than the path, where something else than a socket sends.
            let whole = if leaves_whole { gro || tx_offload } else { gro && !tx_offload };
            assert_eq!(merged > 0, whole, "{what}: {merged} merged packets arrived");
            let merged = pair::seen(comes_out, |packet| !packet.outgoing && packet.frame.len() > 1_476);
            // Userspace merges what comes by itself. A program hands on what came: what GRO has merged, or what the
            // sender's device left whole.
            assert_eq!(merged > 0, gro || tx_offload || !fast, "{what}: {merged} super-frames came out");
            no_drops(&pair, &what);
        }
    }
}

/// Bytes of TCP payload in each segment of the super-frame.
const SEGMENT: usize = 1_000;

/// A frame in VLAN 5 that stands for six TCP segments, its checksum left to the device, with the virtio-net header
/// that says so.
fn tagged_super_frame(to: MacAddr, from: MacAddr) -> Vec<u8> {
    let payload: Vec<u8> = (0..6 * SEGMENT).map(|byte| (byte * 7) as u8).collect();
    let mut tcp = vec![0; 20];
    tcp[..8].copy_from_slice(&[0x13, 0x88, 0, 80, 0, 0, 0, 1]);
    tcp[12..14].copy_from_slice(&[5 << 4, 0x10]);
    tcp.extend(payload);
    let header = build::ipv4_header([172, 16, 5, 1].into(), [172, 16, 5, 2].into(), 6);
    let mut packet = build::ipv4(header, &tcp);
    let transport = Transport::locate(&packet).unwrap();
    let unfilled = transport.pseudo_header(tcp.len() as u32).folded();
    packet[36..38].copy_from_slice(&unfilled.to_be_bytes());
    let vnet = VnetHeader {
        needs_csum: true,
        gso_type: GsoType::Tcp4,
        hdr_len: 18 + 40,
        gso_size: SEGMENT as u16,
        csum_start: 18 + 20,
        csum_offset: 16,
        ..VnetHeader::NONE
    };
    let frame = ethernet(to, from, 0x8100, &[&[0, 5, 8, 0], &packet[..]].concat());
    [&vnet.to_bytes()[..], &frame].concat()
}

#[test]
fn a_super_frame_of_a_vlan_is_split_and_put_together() {
    require!(privilege::check());
    let pair = pair_with("");
    let addresses = [address_of(&pair.right, "tun0"), address_of(&pair.left, "tun0")];
    let frame = tagged_super_frame(addresses[0], addresses[1]);
    let wire = Capture::start(&pair.right, "wan0").unwrap();
    let comes_out = Capture::start(&pair.right, "tun0").unwrap();
    let ifindex = Some(pair.left.index("tun0").unwrap());
    let config = Config { ifindex, vnet_header: true, ..Config::default() };
    let socket = pair.left.run(|| PacketSocket::open(&config)).unwrap().unwrap();
    // All of it is there when right's daemon looks.
    let halted = pair.daemons[1].as_ref().unwrap().halt();
    rustix::net::send(&socket, &frame, rustix::net::SendFlags::empty()).unwrap();
    let segment =
        |packet: &CapturedPacket| inside(packet).is_some_and(|frame| frame[12..16] == [0x81, 0, 0, 5]);
    let segments = wire.wait_for_count(SOON, "six segments in VLAN 5", 6, segment);
    drop(halted);
    let segments = segments.unwrap();
    assert_eq!(segments.len(), 6);
    for (number, packet) in segments.iter().enumerate() {
        let packet = &inside(packet).unwrap()[18..];
        let transport = Transport::locate(packet).unwrap();
        let mut sum = transport.pseudo_header((packet.len() - 20) as u32);
        sum.add(&packet[20..]);
        assert!(sum.verifies() && packet.len() == 40 + SEGMENT, "segment {number}");
        assert_eq!(packet[24..28], (1 + (number * SEGMENT) as u32).to_be_bytes());
    }
    let whole = |packet: &CapturedPacket| {
        !packet.outgoing && packet.vlan == Some(5) && packet.frame.len() == 14 + 40 + 6 * SEGMENT
    };
    let whole = comes_out.wait_for(SOON, "the super-frame in VLAN 5", whole).unwrap();
    assert!(whole.frame[54..] == frame[10 + 18 + 40..], "the payload is another one");
    no_drops(&pair, "a super-frame");
}

#[test]
fn t5_what_the_device_does_not_take_is_counted() {
    require!(privilege::check());
    let pair = pair_with("");
    let addresses = [address_of(&pair.right, "tun0"), address_of(&pair.left, "tun0")];
    let small = LinkChange { mtu: Some(1_000), ..LinkChange::default() };
    pair.right.change("tun0", &small).unwrap();
    let of_size = |bytes: usize| {
        inject(&pair.left, "tun0", &ethernet(addresses[0], addresses[1], 0x88b5, &vec![0; bytes])).unwrap();
    };
    // The daemon hears of the MTU a moment later.
    poll_until(SOON, "the smaller MTU to count", || {
        of_size(1_005);
        (pair.drops(1, "inner-too-big-for-device") > 0).then_some(())
    })
    .unwrap();
    let before = pair.drops(1, "inner-too-big-for-device");
    let arrives = Capture::start(&pair.right, "tun0").unwrap();
    of_size(1_004);
    arrives.wait_for(SOON, "a frame with a tag's room more", |packet| packet.frame.len() == 1_018).unwrap();
    assert_eq!(pair.drops(1, "inner-too-big-for-device"), before);
    // And less than a frame, from a peer that is no Ethernet.
    let [left, right] = pair::OUTER;
    let gre = build::gre(GreHeader { protocol_type: TEB, ..GreHeader::default() }, &[0; 13]);
    let packet = build::ipv4(build::ipv4_header(left, right, build::GRE), &gre);
    let wan = [address_of(&pair.right, "wan0"), address_of(&pair.left, "wan0")];
    inject(&pair.left, "wan0", &ethernet(wan[0], wan[1], 0x0800, &packet)).unwrap();
    pair.wait_for_drops(1, "frame-truncated", 1);
}

#[test]
fn a_gre_and_a_gretap_tunnel_between_the_same_ends_are_two() {
    require!(privilege::check());
    let pair = pair_with("key 5");
    pair.add("tun1", "key 5");
    for (host, address) in [(&pair.left, "172.16.1.1/30"), (&pair.right, "172.16.1.2/30")] {
        host.address("tun1", address).unwrap();
    }
    pair.answers(&PingOptions::default());
    let other: IpAddr = [172, 16, 1, 2].into();
    let report = ping(&pair.left, other, &PingOptions::default()).unwrap();
    assert!(report.complete(), "{report}");
    let again = pair.nodes[0].words(&format!(
        "tunnel add tun2 mode gretap local {} remote {} key 5",
        pair::OUTER[0],
        pair::OUTER[1]
    ));
    again.refused(&["tun2", "tun0"]);
    no_drops(&pair, "two kinds");
}

#[test]
fn a_tun_device_is_refused_and_a_device_keeps_its_addresses() {
    require!(privilege::check());
    let mut pair = pair_with("");
    let before = pair.nodes[0].belongings();
    let [local, remote] = pair::OUTER;
    pair.nodes[0]
        .words(&format!("tunnel add tun9 mode gretap local {local} remote {remote} key 9 overlay tun"))
        .refused(&["tun9", "overlay", "gretap", "veth"]);
    assert_eq!(pair.nodes[0].belongings(), before);
    pair.nodes[0].words("tunnel change tun0 mode gre").refused(&["mode"]);

    let own = address_of(&pair.left, "tun0");
    assert_eq!(own.octets()[0] & 3, 2, "local and unicast");
    pair.answers(&PingOptions::default());
    pair.daemons[0].take().unwrap().kill();
    pair.daemons[0] = Some(pair.nodes[0].daemon());
    assert_eq!(address_of(&pair.left, "tun0"), own);
    pair.answers(&PingOptions::default());
    pair.nodes[0].words("tunnel del tun0").ok();
    assert!(pair.nodes[0].links().iter().all(|name| !name.contains("tun0")));
}

/// The guide's hosts, each LAN bridged into one gretap tunnel: 192.168.7.1 on lan1, .2 on lan2.
fn bridged(words: &str, lan_mtu: u32) -> Lab {
    let lab = two_hosts();
    let [a, b] = greway_testbed::guide::OUTER;
    lab.one.words(&format!("tunnel add tun0 mode gretap local {a} remote {b} {words}")).ok();
    lab.two.words(&format!("tunnel add tun0 mode gretap local {b} remote {a} {words}")).ok();
    let script = "ip link add br0 type bridge && ip link set lan0 master br0 && ip link set tun0 master br0 \
                  && ip link set tun0 up && ip link set br0 up";
    for host in [&lab.guide.linux1, &lab.guide.linux2] {
        let output = host.output(Command::new("sh").args(["-c", script])).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let mtu = LinkChange { mtu: Some(lan_mtu), ..LinkChange::default() };
    for (lan, address) in [(&lab.guide.lan1, "192.168.7.1/24"), (&lab.guide.lan2, "192.168.7.2/24")] {
        lan.change("eth0", &mtu).unwrap();
        lan.address("eth0", address).unwrap();
    }
    poll_until(SOON, "the bridges to forward", || {
        ping(&lab.guide.lan1, far(), &in_vain()).ok().filter(PingReport::complete)
    })
    .unwrap();
    lab
}

fn far() -> IpAddr {
    [192, 168, 7, 2].into()
}

fn near() -> IpAddr {
    [192, 168, 7, 1].into()
}

#[test]
fn lans_behind_bridges_are_one_segment() {
    require!(privilege::check());
    let lab = bridged("", 1_462);
    let guide = &lab.guide;
    let report = ping(&guide.lan2, near(), &PingOptions { size: 4_000, ..PingOptions::default() }).unwrap();
    assert!(report.complete(), "{report}");
    intact(&guide.lan1, &guide.lan2, far(), 8 * MIB, "lan1 to lan2");
    intact(&guide.lan2, &guide.lan1, near(), 8 * MIB, "lan2 to lan1");
    // As a DHCP client calls before it has an address.
    let station = address_of(&guide.lan1, "eth0");
    let nobody = Ipv4Addr::UNSPECIFIED;
    let header = build::ipv4_header(nobody, Ipv4Addr::BROADCAST, build::UDP);
    let discover = build::ipv4(header, &[&[0, 68, 0, 67, 0, 24, 0, 0][..], b"dhcp discover..."].concat());
    let frame = ethernet(MacAddr::new([0xff; 6]), station, 0x0800, &discover);
    let server = Capture::start(&guide.lan2, "eth0").unwrap();
    inject(&guide.lan1, "eth0", &frame).unwrap();
    server.wait_for(SOON, "the broadcast on the far LAN", |packet| packet.frame == frame).unwrap();
    // A spanning tree's frame is no EtherType but a length; a bridge keeps that for itself, the tunnel does not.
    let stp = [&[1, 0x80, 0xc2, 0, 0, 0][..], &station.octets(), &[0, 38, 0x42, 0x42, 3], &[0; 35]].concat();
    let wire = Capture::start(&guide.linux2, "wan0").unwrap();
    inject(&guide.linux1, "tun0", &stp).unwrap();
    wire.wait_for(SOON, "the LLC frame in GRE", |packet| inside(packet) == Some(&stp)).unwrap();
    for node in [&lab.one, &lab.two] {
        let status = node.words("status --json --no-echo").ok().stdout;
        pair::none_dropped(&pair::tunnel(&status, "tun0")["drops"], "tun0");
    }
}

#[test]
fn tx06_a_station_behind_a_bridge_is_told_what_the_path_takes() {
    require!(privilege::check());
    const NARROW: u32 = 1_400;
    let lab = bridged("", 1_462);
    let mtu = LinkChange { mtu: Some(NARROW), ..LinkChange::default() };
    lab.guide.router.change("eth2", &mtu).unwrap();
    lab.guide.linux2.change("wan0", &mtu).unwrap();
    let inside_path = NARROW - 24 - 14;
    let of_size = |bytes: u32, df| {
        let options = PingOptions { count: 1, size: bytes as usize - 28, df, ..in_vain() };
        ping(&lab.guide.lan1, far(), &options).unwrap()
    };
    assert!(of_size(inside_path, true).complete());
    // linux1 itself has to be told by the router first.
    let told = poll_until(SOON, "an answer to what is too large", || {
        let report = of_size(1_462, true);
        assert_eq!(report.received(), 0, "{report}");
        report.errors.iter().find_map(|error| error.mtu)
    });
    assert_eq!(told.unwrap(), inside_path);
    // What may be fragmented is.
    poll_until(SOON, "a large ping without DF", || Some(of_size(1_462, false)).filter(PingReport::complete))
        .unwrap();
    let answers = Capture::start(&lab.guide.lan1, "eth0").unwrap();
    intact(&lab.guide.lan1, &lab.guide.lan2, far(), 4 * MIB, "through the narrow place");
    intact(&lab.guide.lan2, &lab.guide.lan1, near(), 4 * MIB, "and back");
    // The answers are frames between the two stations, as any bridge can learn from.
    let stations = [address_of(&lab.guide.lan1, "eth0"), address_of(&lab.guide.lan2, "eth0")];
    for packet in answers.stop().iter().filter(|packet| !packet.outgoing) {
        let is_icmp = packet.protocol() == Some(build::ICMP);
        if !is_icmp || packet.payload()[20] != icmp::DESTINATION_UNREACHABLE {
            continue;
        }
        assert_eq!(packet.frame[..12], [stations[0].octets(), stations[1].octets()].concat());
    }
    let status = lab.one.words("status --json --no-echo").ok().stdout;
    assert!(pair::drops(&pair::tunnel(&status, "tun0"), "too-big-for-path") > 0, "{status}");
}
