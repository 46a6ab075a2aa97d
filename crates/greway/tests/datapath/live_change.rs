//! A tunnel is changed while it carries a stream: each change holds from the next packet on, and none is lost,
//! repeated or overtaken.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use greway_testbed::{LinkOptions, poll_until, privilege, require};

use crate::pair::{INNER, Pair, inner, udp};
use crate::support::SOON;

/// Packets on their way at most: fewer than any queue holds, so that one that is missing was lost by a change.
const WINDOW: u32 = 32;
/// Who waits looks so often whether all is over.
const LOOKS_UP: Duration = Duration::from_millis(50);
/// Packets that must come through between two changes.
const BETWEEN: u32 = 200;

/// What both ends of the stream know.
#[derive(Default)]
struct Stream {
    /// Numbers that arrived, in order and without a gap.
    arrived: AtomicU32,
    /// Nothing more is sent.
    stop: AtomicBool,
    /// Nothing more is waited for.
    over: AtomicBool,
    /// What came out of order.
    wrong: OnceLock<String>,
    /// Waits for what arrived.
    sender: OnceLock<Thread>,
}

impl Stream {
    /// Sends numbers, no more than [`WINDOW`] ahead of what arrived; says how many.
    fn send(&self, socket: &UdpSocket, to: SocketAddr) -> u32 {
        let mut next = 0_u32;
        self.sender.set(thread::current()).unwrap();
        while !self.stop.load(Ordering::Acquire) {
            if next - self.arrived.load(Ordering::Acquire) < WINDOW {
                socket.send_to(&next.to_be_bytes(), to).unwrap();
                next += 1;
            } else {
                thread::park_timeout(LOOKS_UP);
            }
        }
        next
    }

    /// Takes numbers; the first that is not the next one ends it.
    fn receive(&self, socket: &UdpSocket) -> Result<(), String> {
        let mut buffer = [0; 4];
        loop {
            if socket.recv(&mut buffer).is_err() {
                // The stream has ended, or a packet is lost for good, and the sender waits for it.
                match self.over.load(Ordering::Acquire) {
                    true => return Ok(()),
                    false => continue,
                }
            }
            let (number, next) = (u32::from_be_bytes(buffer), self.arrived.load(Ordering::Acquire));
            if number != next {
                let wrong = format!("number {number} came where {next} was due");
                return Err(self.wrong.get_or_init(|| wrong).clone());
            }
            self.arrived.store(next + 1, Ordering::Release);
            self.sender.get().into_iter().for_each(Thread::unpark);
        }
    }

    /// Waits until so many more have come through.
    fn flows(&self, pair: &Pair, what: &str) {
        let begin = self.arrived.load(Ordering::Acquire);
        let came = || self.arrived.load(Ordering::Acquire) - begin;
        poll_until(SOON, what, || (came() >= BETWEEN).then_some(())).unwrap_or_else(|error| {
            let (came, wrong, ends) = (came(), self.wrong.get(), [pair.status(0), pair.status(1)]);
            panic!("after {what}: {error}; {came} came, {wrong:?}: {} {}", ends[0], ends[1])
        });
    }
}

/// Ends the stream however the test ends: its threads would wait for ever.
struct Ending<'a>(&'a Stream);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Release);
        self.0.over.store(true, Ordering::Release);
    }
}

/// All of them.
struct Streams<'a>(&'a Pair, &'a [Stream]);

impl Streams<'_> {
    /// Waits until so many more of each have come through.
    fn flow(&self, what: &str) {
        self.1.iter().for_each(|stream| stream.flows(self.0, what));
    }
}

/// So many, each a flow of its own, that run while `work` is done; they must arrive whole and in order.
fn streaming(pair: &Pair, count: usize, work: impl FnOnce(&Streams<'_>)) {
    let ends = (0..count).map(|_| (udp(&pair.left, inner(0)), udp(&pair.right, inner(1))));
    let ends = ends.collect::<Vec<_>>();
    let streams = ends.iter().map(|_| Stream::default()).collect::<Vec<_>>();
    thread::scope(|scope| {
        let ending = streams.iter().map(Ending).collect::<Vec<_>>();
        let threads = ends.iter().zip(&streams).map(|((from, to), stream)| {
            let destination = to.local_addr().unwrap();
            assert_eq!(destination.ip(), INNER[1]);
            to.set_read_timeout(Some(LOOKS_UP)).unwrap();
            (scope.spawn(move || stream.send(from, destination)), scope.spawn(|| stream.receive(to)))
        });
        let (senders, receivers): (Vec<_>, Vec<_>) = threads.unzip();
        let all = Streams(pair, &streams);
        all.flow("the start");
        work(&all);
        streams.iter().for_each(|stream| stream.stop.store(true, Ordering::Release));
        let sent = senders.into_iter().map(|sender| sender.join().unwrap()).collect::<Vec<_>>();
        let came = poll_until(SOON, "the last packets", || {
            let arrived = streams.iter().map(|stream| stream.arrived.load(Ordering::Acquire));
            arrived.eq(sent.iter().copied()).then_some(())
        });
        drop(ending);
        receivers.into_iter().for_each(|receiver| assert_eq!(receiver.join().unwrap(), Ok(())));
        came.unwrap();
    });
}

/// Each worker hands over the flows that are its own.
#[test]
fn several_workers_lose_repeat_and_reorder_nothing_when_a_tunnel_goes_from_socket_to_socket() {
    require!(privilege::check());
    let four = [("GREWAY_WORKERS", "4"), ("GREWAY_FAST_PATH", "off")];
    let pair = Pair::bare_with(&LinkOptions::default(), &four);
    pair.lay_tun0("");
    // A kernel that only now hears of a neighbour sends what waited for it behind what comes then.
    pair.answers(&greway_testbed::PingOptions::default());
    let changes = ["underlay raw", "underlay packet", "underlay raw", "underlay auto"];
    streaming(&pair, 3, |streams| {
        for (words, node) in changes.into_iter().flat_map(|words| [(words, 1), (words, 0)]) {
            pair.nodes[node].words(&format!("tunnel change tun0 {words}")).ok();
            streams.flow(&format!("{words} at {node}"));
        }
    });
}

#[test]
fn changes_take_effect_without_losing_repeating_or_reordering_a_packet() {
    require!(privilege::check());
    let pair = Pair::new("");
    pair.answers(&greway_testbed::PingOptions::default());
    streaming(&pair, 1, |streams| {
        // Each end alone: what both must agree on (key, csum, seq) has no moment at which both change.
        let changes = [
            (0, "ttl 33"),
            (0, "tos 0x10"),
            (0, "ttl inherit tos inherit"),
            (0, "nopmtudisc"),
            (0, "ignore-df"),
            (0, "pmtudisc noignore-df"),
            (0, "dev wan0"),
            (0, "nodev"),
            (0, "mtu 1400"),
            (0, "mss 1200"),
            (1, "ttl 9"),
            (1, "dev wan0"),
            (1, "mtu 1300"),
            (1, "nodev"),
            // From a program to userspace, and back as soon as that has none of its packets any more.
            (1, "underlay raw"),
            (1, "underlay packet"),
            (1, "underlay auto"),
            (1, "datapath userspace"),
            (1, "underlay raw"),
            (1, "underlay auto"),
            (1, "datapath auto"),
        ];
        for (node, words) in changes {
            pair.nodes[node].words(&format!("tunnel change tun0 {words}")).ok();
            streams.flow(words);
        }
        // Not a change at all, and a refused one.
        pair.nodes[0].words("tunnel change tun0 mtu 1400").ok();
        pair.nodes[0].words("tunnel change tun0 ttl 300").refused(&["ttl", "300"]);
        streams.flow("a refused change");
    });
}
