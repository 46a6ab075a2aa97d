//! A stream of numbered datagrams, to see whether each one arrives, once and in its place.
//!
//! No more than a few hundred are on their way at a time, so that a machine that has other things to do loses none: what
//! does not come, somebody has dropped.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::cell::RefCell;
use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use greway_testbed::{Host, poll_until};
use rustix::net::sockopt;

use crate::support::SOON;

/// So many may be on their way.
const WINDOW: u64 = 256;
/// So many leave at once.
const BURST: u64 = 4;
/// The receiver has room for all of them, whatever the kernel takes each for.
const BUFFER: usize = 4 << 20;
/// One burst after the other: 80,000 a second where the machine can.
const PAUSE: Duration = Duration::from_micros(50);
/// What has not come by then does not come.
const GIVEN_UP: Duration = Duration::from_millis(700);

/// A running stream.
pub(crate) struct Stream {
    shared: Arc<Shared>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<Report>,
    /// What was going on up to which number.
    phases: RefCell<Vec<(String, u64)>>,
}

#[derive(Default)]
struct Shared {
    ends: AtomicBool,
    /// Nothing more is sent.
    done: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Behind one with a higher number.
    pub(crate) reordered: u64,
    pub(crate) duplicates: u64,
    seen: Vec<bool>,
    phases: Vec<(String, u64)>,
}

impl Report {
    pub(crate) fn lost(&self) -> u64 {
        self.sent - (self.received - self.duplicates)
    }

    /// All of them, once and in order.
    pub(crate) fn flawless(&self) -> bool {
        self.sent > 0 && (self.lost(), self.reordered, self.duplicates) == (0, 0, 0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, reordered, duplicates, .. } = self;
        write!(f, "{sent} sent, {} lost, {reordered} reordered, {duplicates} twice", self.lost())?;
        let missing: Vec<u64> = (0..).zip(&self.seen).filter(|(_, seen)| !**seen).map(|(at, _)| at).collect();
        let mut begin = 0;
        for (phase, end) in &self.phases {
            let lost: Vec<&u64> = missing.iter().filter(|number| (begin..*end).contains(number)).collect();
            if let (Some(first), Some(last)) = (lost.first(), lost.last()) {
                write!(f, "\n{phase} ({begin} to {end}): {} lost from {first} to {last}", lost.len())?;
            }
            begin = *end;
        }
        Ok(())
    }
}

impl Stream {
    /// Sends from a host to an address of another.
    pub(crate) fn start(from: &Host, to: &Host, address: IpAddr) -> Self {
        let receiver = to.run(|| UdpSocket::bind(SocketAddr::new(address, 0))).unwrap().unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        sockopt::set_socket_recv_buffer_size_force(&receiver, BUFFER).unwrap();
        let port = receiver.local_addr().unwrap().port();
        let any = SocketAddr::new([0; 4].into(), 0);
        let sender = from.run(|| UdpSocket::bind(any)).unwrap().unwrap();
        sender.connect(SocketAddr::new(address, port)).unwrap();
        let shared = Arc::new(Shared::default());
        let (of_sender, of_receiver) = (Arc::clone(&shared), Arc::clone(&shared));
        Self {
            shared,
            sender: thread::spawn(move || send(&sender, &of_sender)),
            receiver: thread::spawn(move || receive(&receiver, &of_receiver)),
            phases: RefCell::default(),
        }
    }

    /// Waits until so many more have arrived.
    #[track_caller]
    pub(crate) fn more(&self, packets: u64, what: &str) {
        let wanted = self.shared.received.load(Ordering::Relaxed) + packets;
        let came =
            poll_until(SOON, what, || (self.shared.received.load(Ordering::Relaxed) >= wanted).then_some(()));
        assert!(came.is_ok(), "{what}: the stream has stopped: {} of {wanted}", self.received());
        self.phases.borrow_mut().push((what.to_owned(), self.shared.sent.load(Ordering::Relaxed)));
    }

    pub(crate) fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// Ends it, and waits for what is on its way.
    pub(crate) fn stop(self) -> Report {
        self.shared.ends.store(true, Ordering::Relaxed);
        self.sender.join().unwrap();
        Report { phases: self.phases.into_inner(), ..self.receiver.join().unwrap() }
    }
}

fn send(socket: &UdpSocket, shared: &Shared) {
    let mut next = Instant::now();
    let mut number = 0_u64;
    // What is known not to come takes no room in the window.
    let mut written_off = 0;
    let mut progress = (0, Instant::now());
    while !shared.ends.load(Ordering::Relaxed) {
        let received = shared.received.load(Ordering::Relaxed);
        if received != progress.0 {
            progress = (received, Instant::now());
        }
        let on_the_way = number.saturating_sub(received + written_off);
        if on_the_way >= WINDOW && progress.1.elapsed() > GIVEN_UP {
            written_off += on_the_way;
        } else if on_the_way < WINDOW && Instant::now() >= next {
            for _ in 0..BURST {
                let mut payload = [0; 64];
                payload[..8].copy_from_slice(&number.to_be_bytes());
                // A refusal is a loss like any other: the number is missing at the other end.
                let _ = socket.send(&payload);
                number += 1;
            }
            shared.sent.store(number, Ordering::Relaxed);
            next = Instant::now() + PAUSE;
        }
        thread::yield_now();
    }
    shared.done.store(true, Ordering::Release);
}

fn receive(socket: &UdpSocket, shared: &Shared) -> Report {
    let mut report = Report::default();
    let mut buffer = [0; 128];
    let mut highest = None;
    let mut last = Instant::now();
    loop {
        if let Ok(length) = socket.recv(&mut buffer) {
            let number = buffer[..length].first_chunk().map(|bytes| u64::from_be_bytes(*bytes)).unwrap();
            let at = usize::try_from(number).unwrap();
            report.seen.resize(report.seen.len().max(at + 1), false);
            report.received += 1;
            match std::mem::replace(&mut report.seen[at], true) {
                true => report.duplicates += 1,
                false => report.reordered += u64::from(highest.is_some_and(|highest| number < highest)),
            }
            highest = highest.max(Some(number));
            last = Instant::now();
            shared.received.store(report.received, Ordering::Relaxed);
        }
        let done = shared.done.load(Ordering::Acquire);
        let sent = shared.sent.load(Ordering::Relaxed);
        if done && (report.received - report.duplicates >= sent || last.elapsed() > GIVEN_UP) {
            report.sent = sent;
            report.seen.resize(usize::try_from(sent).unwrap(), false);
            return report;
        }
    }
}
