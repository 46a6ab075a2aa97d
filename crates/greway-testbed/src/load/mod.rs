//! Traffic that is measured: as much TCP or UDP as a path takes, round trips back to back, and a paced stream whose every
//! packet is missed when it does not arrive.
//!
//! Our own programs and not iperf3: both ends are in one process and share its clock, so that the receiver's rate
//! is taken over a window that begins after the start and ends before the sender does, what is still in a queue is not
//! counted as carried, and nothing has to be installed, not even in a guest. `greway-load` runs them.
//!
//! What arrives is counted, never what was sent. The contents are looked at only where that is the measure
//! ([`paced`]): whether bytes arrive whole is for [`crate::tcp`].

mod cpu;
mod loaded;
mod paced;
mod round_trip;
mod tcp;
mod udp;

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use greway_linux::netns::NetNamespace;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use cpu::Spent;
pub use loaded::loaded;
pub use paced::{Paced, paced};
pub use round_trip::{RoundTrips, round_trips};
pub use tcp::{TcpRate, tcp};
pub use udp::{Sending, UdpRate, udp};

use crate::Error;

/// How long a receiver waits for anything at all before the path is called dead.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where traffic goes: from one network namespace to an address of another.
#[derive(Debug)]
pub struct Way<'a> {
    /// The sender's namespace.
    pub from: &'a NetNamespace,
    /// The receiver's.
    pub to: &'a NetNamespace,
    /// An address of the receiver. Which one decides by what the packets go.
    pub address: IpAddr,
}

/// When to count.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// From the first arrival to the begin: a connection finds its rate.
    pub warm_up: Duration,
    /// For how long.
    pub length: Duration,
}

/// What arrived in a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Units: bytes of TCP payload, or datagrams.
    pub count: u64,
    /// The window as it turned out.
    pub elapsed: Duration,
}

impl Rate {
    /// Units a second.
    pub fn per_second(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Counts what arrives from the first arrival on, but for the warm-up, until the window is over.
struct Counter {
    window: Window,
    began: Option<Instant>,
    rate: Option<(Instant, u64)>,
}

impl Counter {
    fn new(window: Window) -> Self {
        Self { window, began: None, rate: None }
    }

    /// `count` units have arrived by `now`; the rate, when the window is over.
    fn arrived(&mut self, count: u64, now: Instant) -> Option<Rate> {
        let began = *self.began.get_or_insert(now);
        let Some((start, counted)) = &mut self.rate else {
            if now - began >= self.window.warm_up {
                self.rate = Some((now, 0));
            }
            return None;
        };
        *counted += count;
        let elapsed = now - *start;
        (elapsed >= self.window.length).then_some(Rate { count: *counted, elapsed })
    }
}

/// Runs the two ends at once, each on a thread inside its namespace; the receiver decides when it is over.
fn both<S: Send, R: Send>(
    way: &Way<'_>,
    send: impl FnOnce() -> Result<S, Error> + Send,
    receive: impl FnOnce() -> Result<R, Error> + Send,
) -> Result<(S, R), Error> {
    thread::scope(|scope| {
        let receiver = scope.spawn(|| inside(way.to, "receiver", receive));
        let sent = inside(way.from, "sender", send);
        let received = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // A receiver that failed is why the sender failed, more often than not.
        let received = received?;
        Ok((sent?, received))
    })
}

fn inside<T: Send>(
    namespace: &NetNamespace,
    name: &str,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    namespace.run_in(work).map_err(Error::system(name, "enter its namespace"))?
}

/// Waits until a socket can be read or written; `false` when the time has passed.
fn ready(socket: impl AsFd, what: PollFlags, within: Duration) -> io::Result<bool> {
    let timeout = Timespec { tv_sec: within.as_secs() as i64, tv_nsec: within.subsec_nanos().into() };
    match poll(&mut [PollFd::new(&socket, what)], Some(&timeout)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn dead(way: &Way<'_>, what: &str) -> Error {
    Error::TimedOut { what: format!("{what} at {}", way.address), waited: PATIENCE, detail: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_begins_after_the_warm_up_and_counts_what_comes_then() {
        let ms = Duration::from_millis;
        let mut counter = Counter::new(Window { warm_up: ms(10), length: ms(100) });
        let start = Instant::now();
        assert_eq!(counter.arrived(1000, start), None);
        assert_eq!(counter.arrived(1000, start + ms(9)), None);
        assert_eq!(counter.arrived(1000, start + ms(12)), None, "the window begins here");
        assert_eq!(counter.arrived(5, start + ms(60)), None);
        let rate = counter.arrived(6, start + ms(122)).unwrap();
        assert_eq!(rate, Rate { count: 11, elapsed: ms(110) });
        assert_eq!(rate.per_second(), 100.0);
    }
}
