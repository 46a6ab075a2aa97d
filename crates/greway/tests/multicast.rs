//! Tunnels to a multicast group: a network of any number of hosts, without one of them in its middle.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/lan.rs"]
mod lan;
mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use greway_linux::raw::RawSocket;
use greway_testbed::build;
use greway_testbed::tcp::transfer;
use greway_testbed::{Capture, CapturedPacket, PingOptions, poll_until, privilege, require};
use greway_wire::gre::GreHeader;
use greway_wire::ipv4::Ipv4Header;
use lan::{Lan, inner, outer, outer6};
use support::{SOON, sh};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 1);
const GRE: u8 = 47;

fn every_pair() -> impl Iterator<Item = (usize, usize)> {
    (0..3).flat_map(|from| (0..3).map(move |to| (from, to))).filter(|(from, to)| from != to)
}

fn groups(lan: &Lan, host: usize) -> String {
    sh(&lan.hosts[host], "ip maddr show dev wan0")
}

#[test]
fn rx20_tx12_hosts_of_a_group_are_one_network() {
    require!(privilege::check());
    let lan = Lan::new();
    lan.tunnel(&format!("remote {GROUP} key 9 ttl 5"));
    // Who forwards must not send on what each of them got.
    lan.hosts[2].forwarding(true).unwrap();
    let wire = Capture::start(&lan.hosts[0], "wan0").unwrap();
    for (from, to) in every_pair() {
        lan.answers(from, inner(to), &PingOptions { count: 2, ..PingOptions::default() });
    }
    let carried =
        wire.wait_for(SOON, "a packet to the group", |packet| packet.outgoing && packet.gre().is_some());
    let carried = carried.unwrap();
    let header = Ipv4Header::parse(carried.payload()).unwrap();
    assert_eq!((header.source, header.destination, header.ttl), (outer(0), GROUP, 5));
    assert_eq!(carried.frame[..3], [1, 0, 0x5e]);
    // Connections, which the kernel's own tunnel to a group has none of.
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        let to_it = SocketAddr::new(inner(to).into(), 0);
        let within = Duration::from_secs(20);
        let report = transfer(&lan.hosts[from], &lan.hosts[to], to_it, 1 << 20, within).unwrap();
        assert!(report.intact(), "{report:?}");
    }
    // A group and a broadcast inside reach all others.
    sh(&lan.hosts[0], "ip route add 224.0.0.0/4 dev tun0");
    let socket = lan.hosts[0].run(|| UdpSocket::bind((inner(0), 0)).unwrap()).unwrap();
    socket.set_broadcast(true).unwrap();
    for to in [Ipv4Addr::new(224, 1, 1, 1), Ipv4Addr::new(172, 16, 0, 255)] {
        let arrives = [1, 2].map(|host: usize| Capture::start(&lan.hosts[host], "tun0").unwrap());
        socket.send_to(b"to all of you", (to, 4_000)).unwrap();
        for capture in arrives {
            let all = |packet: &CapturedPacket| packet.frame.ends_with(b"to all of you");
            let arrived = capture.wait_for(SOON, "the packet to all", all).unwrap();
            assert_eq!(arrived.frame[..6], [0xff; 6], "RX-20");
        }
    }
    for host in 0..3 {
        let status = lan.status(host);
        assert_eq!(status["drops"].to_string(), "[]", "host {host}");
        assert_eq!(status["datapath"]["underlay"], "raw");
        assert!(status["notes"].to_string().contains("any host that reaches this one may send into it"));
    }
}

#[test]
fn rx09_what_this_host_sent_to_the_group_does_not_come_in() {
    require!(privilege::check());
    let lan = Lan::new();
    lan.tunnel(&format!("remote {GROUP}"));
    let comes_out = Capture::start(&lan.hosts[0], "tun0").unwrap();
    // Another program here, whose socket has its packets come back.
    let header = GreHeader { protocol_type: 0x0800, checksum: None, key: None, sequence_number: None };
    let udp = build::udp((inner(1), 5), (inner(0), 6), b"looped");
    let packet = build::gre(header, &build::ipv4(build::ipv4_header(inner(1), inner(0), 17), &udp));
    let socket = lan.hosts[0].run(|| RawSocket::open_ipv4_muted(GRE).unwrap()).unwrap();
    socket.bind(outer(0)).unwrap();
    socket.connect(GROUP).unwrap();
    rustix::net::send(&socket, &packet, rustix::net::SendFlags::empty()).unwrap();
    let looped = |lan: &Lan| {
        let text = lan.nodes[0].words("status --json --no-echo").ok().stdout;
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        status.to_string().contains("looped-copy")
    };
    poll_until(SOON, "the looped copy in the status", || looped(&lan).then_some(())).unwrap();
    assert_eq!(comes_out.count(|packet| packet.frame.ends_with(b"looped")), 0);
    lan.answers(1, inner(0), &PingOptions::default());
}

#[test]
fn the_group_is_joined_while_the_tunnel_is_there() {
    require!(privilege::check());
    let mut lan = Lan::new();
    assert!(!groups(&lan, 0).contains("239.1.1.1"));
    lan.tunnel(&format!("remote {GROUP} dev wan0"));
    let joined = |lan: &Lan, wanted: bool| {
        poll_until(SOON, "the membership", || (groups(lan, 0).contains("239.1.1.1") == wanted).then_some(()))
            .unwrap();
    };
    joined(&lan, true);
    // Another group, in place.
    for node in &lan.nodes {
        node.words("tunnel change tun0 remote 239.1.1.2").ok();
    }
    joined(&lan, false);
    assert!(groups(&lan, 0).contains("239.1.1.2"));
    lan.answers(0, inner(2), &PingOptions::default());
    for node in &lan.nodes {
        node.words("tunnel change tun0 remote 239.1.1.1").ok();
    }
    joined(&lan, true);
    // The next daemon joins again; an address that was away for a while is waited for.
    lan.daemons[0].take().unwrap().kill();
    joined(&lan, false);
    lan.daemons[0] = Some(lan.nodes[0].daemon());
    joined(&lan, true);
    sh(&lan.hosts[0], "ip addr del 10.0.0.1/24 dev wan0");
    joined(&lan, false);
    sh(&lan.hosts[0], "ip addr add 10.0.0.1/24 dev wan0");
    joined(&lan, true);
    lan.answers(0, inner(1), &PingOptions::default());
    lan.nodes[0].words("tunnel del tun0").ok();
    joined(&lan, false);
    // CF-02, and no source to send from.
    lan.nodes[1].words("tunnel change tun0 remote 10.0.0.1").refused(&["tun0", "a group", "delete it first"]);
    lan.nodes[0].words("tunnel add tun1 mode gre remote 239.1.1.1").refused(&["239.1.1.1", "local"]);
}

#[test]
fn frames_to_a_group_reach_every_segment() {
    require!(privilege::check());
    let lan = Lan::new();
    for (number, node) in lan.nodes.iter().enumerate() {
        node.words(&format!("tunnel add tun0 mode gretap local {} remote {GROUP} key 3", outer(number))).ok();
        lan.hosts[number].address("tun0", &format!("{}/24", inner(number))).unwrap();
    }
    for (from, to) in every_pair() {
        lan.answers(from, inner(to), &PingOptions { count: 2, ..PingOptions::default() });
    }
}

#[test]
fn over_ipv6_a_group_is_a_network_too() {
    require!(privilege::check());
    let lan = Lan::new();
    for (number, node) in lan.nodes.iter().enumerate() {
        node.words(&format!("tunnel add tun0 mode ip6gre local {} remote ff15::47 dev wan0", outer6(number)))
            .ok();
        lan.hosts[number].address("tun0", &format!("{}/24", inner(number))).unwrap();
        lan.hosts[number].sysctl("ipv6/conf/tun0/disable_ipv6", "0").unwrap();
        sh(&lan.hosts[number], &format!("ip addr add fd50::{}/64 dev tun0 nodad", number + 1));
    }
    for (from, to) in every_pair() {
        lan.answers(from, inner(to), &PingOptions { count: 2, ..PingOptions::default() });
        let six = IpAddr::from([0xfd50, 0, 0, 0, 0, 0, 0, to as u16 + 1]);
        lan.answers(from, six, &PingOptions { count: 2, ..PingOptions::default() });
    }
}
