//! `fwmark`: the routes of delivery packets are looked up with a mark, so that a rule steers a tunnel (TX-03, TX-10).

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/pair.rs"]
mod pair;
mod support;

use std::net::UdpSocket;

use greway_linux::sockopt;
use greway_testbed::{
    Capture, CapturedPacket, LinkOptions, PingOptions, link, ping, poll_until, privilege, require,
};
use pair::Pair;
use support::{SOON, sh};

/// A pair with a second cable, alt0, whose MTU is smaller; the ends of the tunnel are on neither, and lead over wan0
/// unless a rule for mark 5 says otherwise.
fn two_ways() -> Pair {
    let pair = Pair::bare(&LinkOptions::default());
    link(&pair.left, "alt0", &pair.right, "alt0", &LinkOptions::default()).unwrap();
    for (host, here, there) in [(&pair.left, 1, 2), (&pair.right, 2, 1)] {
        sh(
            host,
            &format!(
                "ip link set alt0 mtu 1400 && ip addr add 10.0.1.{here}/24 dev alt0 && \
                 ip addr add 10.9.0.{here}/32 dev lo && ip route add 10.9.0.{there}/32 via 10.0.0.{there} && \
                 ip route add 10.9.0.{there}/32 via 10.0.1.{there} table 100 && \
                 ip rule add fwmark 5 table 100 priority 100"
            ),
        );
    }
    for (node, here, there) in [(&pair.nodes[0], 1, 2), (&pair.nodes[1], 2, 1)] {
        let ends = format!("local 10.9.0.{here} remote 10.9.0.{there}");
        node.words(&format!("tunnel add tun0 mode gre {ends} fwmark 5")).ok();
    }
    pair.left.address("tun0", "172.16.0.1 peer 172.16.0.2/30").unwrap();
    pair.right.address("tun0", "172.16.0.2 peer 172.16.0.1/30").unwrap();
    pair
}

fn leaves_by(pair: &Pair, dev: &str, other: &str) {
    let captures = [dev, other].map(|dev| Capture::start(&pair.left, dev).unwrap());
    pair.answers(&PingOptions::default());
    let ours = |packet: &CapturedPacket| packet.outgoing && packet.gre().is_some();
    captures[0].wait_for(SOON, dev, ours).unwrap();
    assert_eq!(captures[1].count(ours), 0, "by {other}");
}

#[test]
fn tx03_a_rule_for_the_mark_steers_the_tunnel() {
    require!(privilege::check());
    let pair = two_ways();
    assert_eq!(pair.nodes[0].mtu("tun0"), 1_376, "that of the marked way");
    leaves_by(&pair, "alt0", "wan0");
    // TX-10: the mark of what is inside says nothing.
    let socket = pair.left.run(|| UdpSocket::bind("172.16.0.1:0").unwrap()).unwrap();
    pair.change("fwmark 0");
    sockopt::set_mark(&socket, 5).unwrap();
    let captures = ["wan0", "alt0"].map(|dev| Capture::start(&pair.left, dev).unwrap());
    // The rule is for every packet with the mark, inner ones too; without an address there it falls through.
    socket.send_to(b"marked", "172.16.0.2:4000").unwrap();
    let ours = |packet: &CapturedPacket| packet.gre().is_some() && packet.frame.ends_with(b"marked");
    captures[0].wait_for(SOON, "the packet by the unmarked way", ours).unwrap();
    assert_eq!(captures[1].count(ours), 0);
    leaves_by(&pair, "wan0", "alt0");
    poll_until(SOON, "the MTU of the other way", || (pair.nodes[0].mtu("tun0") == 1_476).then_some(()))
        .unwrap();
    pair.change("fwmark 5");
    leaves_by(&pair, "alt0", "wan0");
}

#[test]
fn tx06_the_path_mtu_is_that_of_the_marked_way() {
    require!(privilege::check());
    let pair = two_ways();
    pair.change("mtu 1476");
    let whole = PingOptions { size: 1_400, df: true, count: 2, ..PingOptions::default() };
    let report = ping(&pair.left, pair::inner(1), &whole).unwrap();
    assert_eq!(report.received(), 0, "{report}");
    assert!(report.errors.iter().any(|error| error.mtu == Some(1_376)), "{report}");
    pair.change("fwmark 0");
    pair.answers(&whole);
}

#[test]
fn a_mark_with_another_tunnel_beside_it() {
    require!(privilege::check());
    let pair = two_ways();
    for (node, here, there) in [(&pair.nodes[0], 1, 2), (&pair.nodes[1], 2, 1)] {
        let ends = format!("local 10.9.0.{here} remote 10.9.0.{there}");
        node.words(&format!("tunnel add tun1 mode gre {ends} key 1")).ok();
    }
    pair.left.address("tun1", "172.16.1.1/30").unwrap();
    pair.right.address("tun1", "172.16.1.2/30").unwrap();
    let captures = ["alt0", "wan0"].map(|dev| Capture::start(&pair.left, dev).unwrap());
    for _ in 0..3 {
        pair.answers(&PingOptions { count: 1, ..PingOptions::default() });
        let report = ping(&pair.left, "172.16.1.2".parse().unwrap(), &PingOptions::default()).unwrap();
        assert!(report.complete(), "{report}");
    }
    let keyed =
        |packet: &CapturedPacket| packet.outgoing && packet.gre().is_some_and(|gre| gre[0] & 0x20 != 0);
    let plain =
        |packet: &CapturedPacket| packet.outgoing && packet.gre().is_some_and(|gre| gre[0] & 0x20 == 0);
    captures[1].wait_for(SOON, "the unmarked tunnel by wan0", keyed).unwrap();
    captures[0].wait_for(SOON, "the marked tunnel by alt0", plain).unwrap();
    assert_eq!((captures[0].count(keyed), captures[1].count(plain)), (0, 0));
}
