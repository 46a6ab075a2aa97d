//! More than is carried: every packet that goes into a tunnel comes out at the far end, or was dropped for a reason that
//! somebody has counted. Exactly.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::UdpSocket;
use std::process::Command;

use greway_linux::sockopt;
use greway_testbed::impair::{Counts, Impairment, Part};
use greway_testbed::{Host, LinkOptions, poll_until, privilege, require};
use serde_json::Value;

use crate::bytes::{all_drops, path, path_with};
use crate::pair::{Pair, inner, tunnel, udp};
use crate::support::{BY_PROGRAMS, SOON};

/// What everybody on the way has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Accounts {
    /// Left: sent, and dropped on the way out.
    sent: u64,
    unsent: u64,
    /// Right: delivered, and dropped on the way in, by the tunnel or before one could be told.
    delivered: u64,
    undelivered: u64,
    /// What `ip -s link` counts on right's tun0: packets and bytes.
    on_device: (u64, u64),
}

/// Bytes of payload of each datagram here, and of all headers before it in a tunnel device's packet: Ethernet, IPv4, UDP.
const PAYLOAD: u64 = 8;
const HEADERS: u64 = 14 + 20 + 8;

/// How many datagrams are in so many packets of so many bytes: several of them may have become one.
fn datagrams(packets: u64, bytes: u64) -> u64 {
    let payload = bytes - packets * HEADERS;
    assert_eq!(payload % PAYLOAD, 0, "{packets} packets of {bytes} bytes");
    payload / PAYLOAD
}

fn accounts(pair: &Pair) -> Accounts {
    let [left, right] = [0, 1].map(|node: usize| {
        let text = pair.nodes[node].words("status --json --no-echo").ok().stdout;
        let whole: Value = text.parse().unwrap();
        (tunnel(&text, "tun0"), all_drops(&whole))
    });
    let count = |status: &Value, what: &str| status["counters"][what].as_u64().unwrap();
    Accounts {
        sent: count(&left.0, "sent_packets"),
        unsent: all_drops(&left.0),
        delivered: count(&right.0, "received_packets"),
        undelivered: all_drops(&right.0) + right.1,
        on_device: on_device(pair),
    }
}

fn on_device(pair: &Pair) -> (u64, u64) {
    let link = pair.right.netlink().unwrap().link_by_name("tun0").unwrap().unwrap();
    (link.statistics.rx_packets, link.statistics.rx_bytes)
}

/// How often a node dropped for a reason, in tun0 or of no tunnel.
fn dropped(pair: &Pair, node: usize, reason: &str) -> u64 {
    let text = pair.nodes[node].words("status --json --no-echo").ok().stdout;
    let whole: Value = text.parse().unwrap();
    crate::pair::drops(&whole, reason) + crate::pair::drops(&tunnel(&text, "tun0"), reason)
}

/// Halts a node's daemon while `work` is done: its sockets fill up.
pub(crate) fn halted(pair: &Pair, node: usize, work: impl FnOnce()) {
    let _halted = pair.daemons[node].as_ref().unwrap().halt();
    work();
}

fn tc(host: &Host, words: &str) {
    let output = host.output(Command::new("tc").args(words.split_whitespace())).unwrap();
    assert!(output.status.success(), "tc {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A sender that counts and a receiver that loses nothing without knowing.
struct Flood<'a> {
    pair: &'a Pair,
    before: Accounts,
    /// Of as many flows; the first alone fills a queue.
    senders: Vec<UdpSocket>,
    receiver: UdpSocket,
    sent: u64,
    received: u64,
}

impl<'a> Flood<'a> {
    fn new(pair: &'a Pair, impairment: Impairment) -> Self {
        let receiver = udp(&pair.right, inner(1));
        let sender = |_| {
            let sender = udp(&pair.left, inner(0));
            sender.connect(receiver.local_addr().unwrap()).unwrap();
            sender
        };
        let senders = (0..16).map(sender).collect();
        receiver.set_nonblocking(true).unwrap();
        pair.middle().impair(impairment);
        Self { pair, before: accounts(pair), senders, receiver, sent: 0, received: 0 }
    }

    /// One flow, and so one worker's.
    fn send(&mut self, count: u64) {
        self.send_by(1, count);
    }

    /// All flows, and so all workers'.
    fn send_all_ways(&mut self, count: u64) {
        self.send_by(self.senders.len(), count);
    }

    fn send_by(&mut self, flows: usize, count: u64) {
        for sender in (0..count as usize).map(|number| number % flows) {
            self.senders[sender].send(&self.sent.to_be_bytes()).unwrap();
            self.sent += 1;
        }
    }

    /// Waits until everything that was sent so far is accounted for, to the packet, on every part of the way.
    #[track_caller]
    fn account(&mut self, what: &str) {
        let mut buffer = [0; 64];
        let mut last = None;
        let settled = poll_until(SOON, what, || {
            while self.receiver.recv(&mut buffer).is_ok() {
                self.received += 1;
            }
            let (now, before) = (accounts(self.pair), self.before);
            let [Counts { seen, passed, dropped, duplicated, waiting, refused, overlooked, .. }, _] =
                self.pair.middle().counts();
            let lost_by_program = u64::from(sockopt::memory(&self.receiver).unwrap().lost);
            let delivered = now.delivered - before.delivered;
            let packets = now.on_device.0 - before.on_device.0;
            let on_device = datagrams(packets, now.on_device.1 - before.on_device.1);
            let way = [
                ("into left's tun0", self.sent, now.sent - before.sent + now.unsent - before.unsent),
                ("onto the path", now.sent - before.sent, seen + overlooked),
                ("through the path", seen + duplicated, passed + dropped + waiting),
                ("out of right's tun0", passed - refused, delivered + now.undelivered - before.undelivered),
                ("as `ip -s link` has it", delivered, on_device),
                ("to the program", delivered, self.received + lost_by_program),
            ];
            last = Some(way);
            way.iter().all(|(_, one, other)| one == other).then_some(())
        });
        assert!(settled.is_ok(), "{what}: {last:?}\n{}\n{}", self.pair.status(0), self.pair.status(1));
    }
}

/// Loses and repeats some: these are counted by who does it.
const SOME: Impairment =
    Impairment { seed: 7, drop: 20, duplicate: 20, delay: 20, flip: 0, part: Part::Payload };

#[test]
fn every_packet_is_accounted_for_under_overload() {
    require!(privilege::check());
    for (way, kind, workers) in [
        ("datapath userspace underlay packet", "gre", "4"),
        ("datapath userspace underlay raw", "gre", "1"),
        ("datapath userspace", "gretap", "1"),
        ("datapath userspace", "ip6gre", "4"),
    ] {
        let pair = path_with(way, kind, &LinkOptions::default(), &[("GREWAY_WORKERS", workers)]);
        let mut flood = Flood::new(&pair, SOME);
        let what = |of: &str| format!("{of}: {kind} {way}");

        flood.send_all_ways(3_000);
        flood.account(&what("what is carried"));

        // The socket at left's device fills up.
        halted(&pair, 0, || flood.send(16_000));
        flood.account(&what("queue-full"));
        assert!(dropped(&pair, 0, "queue-full") > 100, "{}", pair.status(0));

        // The queue of the device that leads to the far end does.
        tc(&pair.left, "qdisc add dev wan0 root tbf rate 8mbit burst 3kb limit 6000");
        flood.send_all_ways(1_000);
        flood.account(&what("host-queue-full"));
        assert!(dropped(&pair, 0, "host-queue-full") > 100, "{}", pair.status(0));
        tc(&pair.left, "qdisc del dev wan0 root");

        // And the socket on right's underlay, which holds more.
        halted(&pair, 1, || {
            for _ in 0..30 {
                flood.send(2_000);
                // No more at once than left carries.
                let carried = || {
                    let now = pair.middle().counts()[0];
                    (now.seen + now.overlooked + 12_000 > flood.sent).then_some(())
                };
                poll_until(SOON, "what left sends", carried).unwrap();
            }
        });
        flood.account(&what("underlay-socket-overflow"));
        assert!(dropped(&pair, 1, "underlay-socket-overflow") > 100, "{}", pair.status(1));
    }
}

#[test]
fn every_packet_that_programs_carry_is_accounted_for() {
    require!(privilege::check());
    for kind in ["gre", "gretap", "ip6gre"] {
        let pair = path(BY_PROGRAMS, kind, &LinkOptions::default());
        let mut flood = Flood::new(&pair, SOME);
        flood.send(20_000);
        flood.account(kind);
    }
}
