//! A stream of numbered datagrams at an even pace, while something happens to the path: which of them never
//! arrived, and for how long none did.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use greway_linux::batch::{Control, ReceiveBatch, SendStorage, Target};
use rustix::event::PollFlags;

use super::udp::{BATCH, receiver, sender};
use super::{PATIENCE, Way, both, dead, ready};
use crate::Error;

/// Of the receiver: it may lose none while it is not scheduled. 64 MiB are a quarter of a second at 100,000 a second.
const RECEIVE_BUFFER: usize = 64 << 20;
/// Between two looks at the clock.
const TICK: Duration = Duration::from_micros(50);
/// With nothing for so long after the last one was sent, no more will come.
const SILENCE: Duration = Duration::from_millis(300);
/// Bytes of payload.
const SIZE: usize = 64;

/// What became of a paced stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Paced {
    /// Datagrams that the kernel took from the sender.
    pub sent: u64,
    /// Datagrams that arrived, each counted once.
    pub received: u64,
    /// Second and later arrivals of one.
    pub duplicates: u64,
    /// Arrivals behind one that was sent later.
    pub late: u64,
    /// The longest time without an arrival, from the first to the last.
    pub longest_gap: Duration,
}

impl Paced {
    /// Datagrams that never arrived.
    pub fn lost(&self) -> u64 {
        self.sent - self.received.min(self.sent)
    }
}

/// Sends `rate` datagrams a second for `time`. `first` is called once, when the first one has arrived.
///
/// # Errors
/// [`Error::System`] when a socket fails, [`Error::TimedOut`] when nothing arrives for five seconds.
pub fn paced(way: &Way<'_>, rate: u32, time: Duration, first: impl FnOnce() + Send) -> Result<Paced, Error> {
    let socket = receiver(way, RECEIVE_BUFFER)?;
    let address = socket.local_addr().map_err(Error::system("receiver", "read its address"))?;
    let (sent, mut seen) = both(way, || send(address, rate, time), || receive(way, &socket, time, first))?;
    seen.sent = sent;
    Ok(seen)
}

fn send(address: SocketAddr, rate: u32, time: Duration) -> Result<u64, Error> {
    let failed = |action| Error::system("sender", action);
    let socket = sender(address).map_err(failed("open a UDP socket"))?;
    let mut storage = SendStorage::new(BATCH);
    let padding = [0; SIZE - size_of::<u64>()];
    let begin = Instant::now();
    // One that is refused was not sent: an ICMP error about an earlier one is told in its place.
    let (mut next, mut refused) = (0_u64, 0);
    loop {
        let elapsed = begin.elapsed();
        if elapsed >= time {
            return Ok(next - refused);
        }
        let due = (elapsed.as_secs_f64() * f64::from(rate)) as u64;
        while next < due {
            let mut batch = storage.start();
            while next < due {
                let number = next.to_be_bytes();
                if batch.push_with_prefix(&number, &[&padding], Target::Connected, Control::NONE).is_err() {
                    break;
                }
                next += 1;
            }
            while batch.send(&socket, |_, _| refused += 1).pending > 0 {
                ready(&socket, PollFlags::OUT, PATIENCE).map_err(failed("send"))?;
            }
        }
        thread::sleep(TICK);
    }
}

fn receive(
    way: &Way<'_>,
    socket: &std::net::UdpSocket,
    time: Duration,
    first: impl FnOnce(),
) -> Result<Paced, Error> {
    let failed = |action| Error::system("receiver", action);
    let mut batch = ReceiveBatch::new(BATCH, SIZE, 0);
    let mut seen = Seen::default();
    let mut report = Paced::default();
    let mut first = Some(first);
    let (begin, mut last) = (Instant::now(), Instant::now());
    loop {
        if batch.recv(socket).map_err(failed("receive"))? == 0 {
            let over = begin.elapsed() > time + SILENCE && last.elapsed() > SILENCE;
            if first.is_some() && begin.elapsed() > PATIENCE {
                return Err(dead(way, "the first datagram"));
            }
            if over && first.is_none() {
                return Ok(report);
            }
            ready(socket, PollFlags::IN, SILENCE).map_err(failed("wait"))?;
            continue;
        }
        let now = Instant::now();
        match first.take() {
            Some(first) => first(),
            None => report.longest_gap = report.longest_gap.max(now - last),
        }
        last = now;
        for index in 0..batch.len() {
            let Some(number) = batch.data(index).first_chunk() else { continue };
            seen.arrived(u64::from_be_bytes(*number), &mut report);
        }
    }
}

/// Which numbers have arrived: a bit for each.
#[derive(Debug, Default)]
struct Seen {
    words: Vec<u64>,
    next: u64,
}

impl Seen {
    fn arrived(&mut self, number: u64, report: &mut Paced) {
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        // What did not come from us: an hour of numbers is more than any test has.
        if word > 1 << 24 {
            return;
        }
        if word >= self.words.len() {
            self.words.resize(word + 1024, 0);
        }
        if self.words[word] & bit != 0 {
            report.duplicates += 1;
            return;
        }
        self.words[word] |= bit;
        report.received += 1;
        report.late += u64::from(number < self.next);
        self.next = self.next.max(number + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_counted_once_and_late_ones_are_told() {
        let (mut seen, mut report) = (Seen::default(), Paced { sent: 70_000, ..Paced::default() });
        for number in [0, 1, 3, 2, 2, 65, 64, 69_999] {
            seen.arrived(number, &mut report);
        }
        assert_eq!((report.received, report.duplicates, report.late), (7, 1, 2));
        assert_eq!(report.lost(), 69_993);
    }
}
