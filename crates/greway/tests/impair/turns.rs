//! Tunnels have turns: what fills the queues of one makes another wait for a bounded number of packets, and costs it none.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use greway_testbed::{Capture, CapturedPacket, LinkOptions, poll_until, privilege, require};
use greway_wire::gre::GreHeader;

use crate::accounts::halted;
use crate::bytes::all_drops;
use crate::pair::{Pair, counted, inner, tunnel, udp};
use crate::support::SOON;

/// Two tunnels between the same ends: tun0 with key 1, which is flooded, and tun1 with key 2.
fn two_tunnels(way: &str) -> Pair {
    let pair = Pair::bare(&LinkOptions::default());
    for (number, name) in ["tun0", "tun1"].into_iter().enumerate() {
        pair.add(name, &format!("key {} {way}", number + 1));
        pair.left.address(name, &format!("{}/30", address(number, 0))).unwrap();
        pair.right.address(name, &format!("{}/30", address(number, 1))).unwrap();
    }
    pair.answers(&greway_testbed::PingOptions::default());
    pair
}

/// The address of an end in a tunnel.
fn address(tunnel: usize, end: usize) -> IpAddr {
    match inner(end) {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) + ((tunnel as u32) << 16)).into(),
        v6 @ IpAddr::V6(_) => v6,
    }
}

/// A sender in each tunnel. What it sends is for the discard port: it is counted before that.
fn senders(pair: &Pair) -> [UdpSocket; 2] {
    [0, 1].map(|tunnel| {
        let sender = udp(&pair.left, address(tunnel, 0));
        sender.connect(SocketAddr::new(address(tunnel, 1), 9)).unwrap();
        sender
    })
}

fn send(sender: &UdpSocket, count: usize, bytes: usize) {
    let data = vec![0x5a; bytes];
    for _ in 0..count {
        // What comes back of earlier ones, "port unreachable", is an error of the next and sends nothing.
        while sender.send(&data).is_err() {}
    }
}

/// The key of a GRE packet with a datagram of `bytes` in it.
fn key(packet: &CapturedPacket, bytes: usize) -> Option<u32> {
    let (header, length) = GreHeader::parse(packet.gre()?).ok()?;
    (packet.outgoing && packet.gre()?.len() == length + 28 + bytes).then_some(header.key).flatten()
}

#[test]
fn a_tunnel_sends_between_the_turns_of_a_flooded_one() {
    require!(privilege::check());
    const FLOOD: usize = 1_500;
    const SIZE: usize = 1_400;
    let pair = two_tunnels("datapath userspace");
    let [flood, other] = senders(&pair);
    let cable = Capture::start(&pair.left, "wan0").unwrap();
    halted(&pair, 0, || {
        send(&flood, FLOOD, SIZE);
        send(&other, 1, SIZE);
    });
    let gre = |packet: &CapturedPacket| key(packet, SIZE).is_some();
    let sent = cable.wait_for_count(SOON, "all that was sent", FLOOD + 1, gre).unwrap();
    let before = sent.iter().position(|packet| key(packet, SIZE) == Some(2)).unwrap();
    // A few turns, which are a batch each at most: the flood was there first, and may have been looked at before.
    assert!(before <= 256, "{before} packets of the other tunnel went first");
}

#[test]
fn a_tunnel_receives_all_while_another_one_is_flooded() {
    require!(privilege::check());
    const FLOOD: usize = 20_000;
    const OTHERS: usize = 50;
    for underlay in ["packet", "raw"] {
        let pair = two_tunnels(&format!("datapath userspace underlay {underlay}"));
        let [flood, other] = senders(&pair);
        let status = |name: &str| {
            let text = pair.nodes[1].words("status --json --no-echo").ok().stdout;
            tunnel(&text, name)
        };
        let received = |name: &str| status(name)["counters"]["received_packets"].as_u64().unwrap() as usize;
        let before = ["tun0", "tun1"].map(received);
        let on_cable = || counted(&pair.left, "wan0").1 as usize;
        let begin = on_cable();
        halted(&pair, 1, || {
            for burst in 0..OTHERS {
                send(&flood, FLOOD / OTHERS, 16);
                send(&other, 1, 16);
                // No more at once than left's own sockets hold.
                let carried = || (on_cable() - begin + 4_000 > burst * FLOOD / OTHERS).then_some(());
                poll_until(SOON, "what left sends", carried).unwrap();
            }
            let sent = || {
                let text = pair.nodes[0].words("status --json --no-echo").ok().stdout;
                let count = |name| tunnel(&text, name)["counters"]["sent_packets"].as_u64().unwrap() as usize;
                (count("tun0") >= FLOOD && count("tun1") >= OTHERS).then_some(())
            };
            poll_until(SOON, "all that was sent", sent).unwrap();
        });
        let all = || (received("tun1") - before[1] == OTHERS).then_some(());
        poll_until(SOON, "the packets of the tunnel that is not flooded", all).unwrap();
        let accounted = || {
            let flooded = status("tun0");
            let delivered = flooded["counters"]["received_packets"].as_u64().unwrap() as usize - before[0];
            let dropped = all_drops(&flooded) as usize;
            (delivered + dropped == FLOOD).then_some((delivered, dropped))
        };
        let (delivered, dropped) = poll_until(SOON, "an account of the flood", accounted).unwrap();
        // A line of its own is all it has, and what of it was carried while the rest came in.
        assert!(delivered >= 2_048 && dropped > FLOOD / 2, "{underlay}: {delivered} and {dropped}");
        assert_eq!(status("tun0")["drops"][0]["reason"], "receive-queue-full", "{underlay}");
        assert_eq!(status("tun1")["drops"].to_string(), "[]", "{underlay}");
    }
}
