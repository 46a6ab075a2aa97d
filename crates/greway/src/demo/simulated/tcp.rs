//! A reliable byte transfer in TCP segments: as much of TCP as a bulk transfer over a simulated link needs.
//!
//! Handshake, cumulative acknowledgements, a fixed window, go-back-N when all has gone quiet, smaller segments
//! when a router says "fragmentation needed", and a FIN. No congestion control, no options: the links have no
//! queue that could overflow. The sender hands over super-packets, as a kernel does to a device with segmentation
//! offload.

use std::net::Ipv4Addr;

use greway_testbed::pattern::Pattern;

use super::packet::{ACK, FIN, IPV4_HEADER, PSH, Packet, SYN, Segment, TCP_HEADER};

/// Bytes in flight.
const WINDOW: u32 = 1 << 20;
/// Payload bytes of the largest super-packet; room is left for an outer header.
const TRAIN: usize = 60_000;
/// Rounds without progress before the sender gives up.
const PATIENCE: u32 = 10;
/// Begins shortly before the sequence numbers wrap, so that each transfer crosses that point.
const INITIAL: u32 = u32::MAX - 100_000;

/// Both ends' addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) from: Ipv4Addr,
    pub(super) from_port: u16,
    pub(super) to: Ipv4Addr,
    pub(super) to_port: u16,
}

/// The end that sends the stream.
pub(super) struct Sender {
    ends: Ends,
    pattern: Pattern,
    total: u64,
    /// Stream offsets: everything below `acknowledged` arrived, everything below `next` was sent.
    acknowledged: u64,
    next: u64,
    segment: u16,
    state: State,
    rounds_in_vain: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Open,
    Closed,
    GivenUp,
}

impl Sender {
    /// Will send `total` bytes in segments that fit `mtu`.
    pub(super) fn new(ends: Ends, total: u64, mtu: u16) -> Self {
        Self {
            ends,
            pattern: Pattern::new(1),
            total,
            acknowledged: 0,
            next: 0,
            segment: payload_of(mtu),
            state: State::Connecting,
            rounds_in_vain: 0,
        }
    }

    /// Everything arrived, or nothing gets through any more.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Closed | State::GivenUp)
    }

    /// What may be sent now.
    pub(super) fn poll(&mut self, out: &mut Vec<Packet>) {
        while self.state == State::Open && self.next < self.total && self.in_flight() < WINDOW {
            let room = usize::from(self.segment) * (TRAIN / usize::from(self.segment));
            let left = usize::try_from(self.total - self.next).unwrap_or(usize::MAX);
            let mut data = vec![0; room.min(left)];
            self.pattern.fill(self.next, &mut data);
            let gso_size = (data.len() > usize::from(self.segment)).then_some(self.segment);
            let flags = if data.len() == left { ACK | PSH } else { ACK };
            out.push(self.segment_at(self.next, flags).emit(self.ends.from, self.ends.to, &data, gso_size));
            self.next += data.len() as u64;
        }
        if self.state == State::Open && self.acknowledged == self.total && self.next == self.total {
            // The FIN takes one number of its own.
            out.push(self.segment_at(self.total, FIN | ACK).emit(self.ends.from, self.ends.to, &[], None));
            self.next = self.total + 1;
        }
    }

    /// All has gone quiet: what was not acknowledged is lost and goes out again.
    pub(super) fn quiet(&mut self, out: &mut Vec<Packet>) {
        self.rounds_in_vain += 1;
        if self.is_over() {
            return;
        }
        if self.rounds_in_vain > PATIENCE {
            self.state = State::GivenUp;
        } else if self.state == State::Connecting {
            let mut syn = self.segment_at(0, SYN);
            syn.sequence = INITIAL.wrapping_sub(1);
            syn.acknowledged = 0;
            out.push(syn.emit(self.ends.from, self.ends.to, &[], None));
        } else {
            self.next = self.acknowledged;
            self.poll(out);
        }
    }

    /// Takes in an answer of the far end.
    pub(super) fn receive(&mut self, segment: &Segment, out: &mut Vec<Packet>) {
        if (segment.source, segment.destination) != (self.ends.to_port, self.ends.from_port) {
            return;
        }
        if self.state == State::Connecting && segment.flags & SYN != 0 {
            self.state = State::Open;
        }
        // The distance from what is known to be there, which no window lets grow past 2^31.
        let base = INITIAL.wrapping_add(self.acknowledged as u32);
        let ahead = segment.acknowledged.wrapping_sub(base);
        if ahead > 0 && ahead <= WINDOW + u32::from(u16::MAX) {
            self.acknowledged += u64::from(ahead);
            self.next = self.next.max(self.acknowledged);
            self.rounds_in_vain = 0;
        }
        if self.acknowledged > self.total {
            self.state = State::Closed;
        }
        self.poll(out);
    }

    /// A router says that packets may have `mtu` bytes at most.
    pub(super) fn shrink(&mut self, mtu: u16, out: &mut Vec<Packet>) {
        let fits = payload_of(mtu);
        if fits < self.segment {
            self.segment = fits;
            self.next = self.acknowledged;
            self.poll(out);
        }
    }

    fn in_flight(&self) -> u32 {
        u32::try_from(self.next - self.acknowledged).unwrap_or(u32::MAX)
    }

    fn segment_at(&self, offset: u64, flags: u8) -> Segment {
        Segment {
            source: self.ends.from_port,
            destination: self.ends.to_port,
            sequence: INITIAL.wrapping_add(offset as u32),
            acknowledged: 1,
            flags,
        }
    }
}

/// Payload of a full segment. No link of the demo is narrower than the smallest that IPv4 allows by far.
fn payload_of(mtu: u16) -> u16 {
    let headers = u16::try_from(IPV4_HEADER + TCP_HEADER).expect("40 bytes");
    mtu.saturating_sub(headers).max(28)
}

/// The end that takes the stream in and compares it with what must come.
pub(super) struct Receiver {
    port: u16,
    pattern: Pattern,
    received: u64,
    differs: bool,
    finished: bool,
}

impl Receiver {
    /// Listens on `port`.
    pub(super) fn new(port: u16) -> Self {
        Self { port, pattern: Pattern::new(1), received: 0, differs: false, finished: false }
    }

    /// Bytes that arrived in order.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// The stream ended, and every byte was the right one.
    pub(super) fn is_intact(&self) -> bool {
        self.finished && !self.differs
    }

    /// Takes in a segment; the answer.
    pub(super) fn receive(
        &mut self,
        from: Ipv4Addr,
        at: Ipv4Addr,
        segment: &Segment,
        data: &[u8],
    ) -> Option<Packet> {
        if segment.destination != self.port {
            return None;
        }
        let expected = INITIAL.wrapping_add(self.received as u32).wrapping_add(u32::from(self.finished));
        let mut flags = ACK;
        if segment.flags & SYN != 0 {
            flags |= SYN;
        } else if segment.sequence == expected && !self.finished {
            self.differs |= self.pattern.difference(self.received, data).is_some();
            self.received += data.len() as u64;
            self.finished = segment.flags & FIN != 0;
        }
        let acknowledged = INITIAL.wrapping_add(self.received as u32).wrapping_add(u32::from(self.finished));
        let answer =
            Segment { source: self.port, destination: segment.source, sequence: 0, acknowledged, flags };
        Some(answer.emit(at, from, &[], None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: Ends = Ends {
        from: Ipv4Addr::new(10, 0, 0, 1),
        from_port: 40_000,
        to: Ipv4Addr::new(10, 0, 0, 2),
        to_port: 5001,
    };

    /// Carries packets both ways until the sender is done; `lost(n)` swallows the n-th packet.
    fn carry(sender: &mut Sender, receiver: &mut Receiver, mut lost: impl FnMut(u64) -> bool) {
        let mut number = 0;
        let mut out = Vec::new();
        while !sender.is_over() {
            if out.is_empty() {
                sender.quiet(&mut out);
            }
            for packet in std::mem::take(&mut out) {
                number += 1;
                if lost(number) {
                    continue;
                }
                let (segment, data) = Segment::parse(&packet).unwrap();
                let answer = receiver.receive(packet.source(), packet.destination(), &segment, data);
                number += 1;
                if let Some(answer) = answer.filter(|_| !lost(number)) {
                    sender.receive(&Segment::parse(&answer).unwrap().0, &mut out);
                }
            }
        }
    }

    #[test]
    fn a_stream_arrives_whole_across_the_wrap_of_its_numbers() {
        let total = 3 << 20;
        let (mut sender, mut receiver) = (Sender::new(ENDS, total, 1500), Receiver::new(5001));
        carry(&mut sender, &mut receiver, |_| false);
        assert_eq!((receiver.received(), receiver.is_intact()), (total, true));
    }

    #[test]
    fn losses_are_made_good() {
        let total = 3 << 20;
        let (mut sender, mut receiver) = (Sender::new(ENDS, total, 1500), Receiver::new(5001));
        // No regular pattern: one in step with the window would lose the same packet again and again.
        carry(&mut sender, &mut receiver, |number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61 == 3);
        assert_eq!((receiver.received(), receiver.is_intact()), (total, true));
    }

    #[test]
    fn a_dead_link_ends_the_attempt() {
        let (mut sender, mut receiver) = (Sender::new(ENDS, 1000, 1500), Receiver::new(5001));
        carry(&mut sender, &mut receiver, |_| true);
        assert_eq!((receiver.received(), receiver.is_intact()), (0, false));
    }

    #[test]
    fn segments_shrink_to_the_path() {
        let mut out = Vec::new();
        let (mut sender, mut receiver) = (Sender::new(ENDS, 100_000, 1500), Receiver::new(5001));
        sender.quiet(&mut out);
        let syn = Segment::parse(&out.remove(0)).unwrap().0;
        let answer = receiver.receive(ENDS.from, ENDS.to, &syn, &[]).unwrap();
        sender.receive(&Segment::parse(&answer).unwrap().0, &mut out);
        assert_eq!(out[0].gso_size, Some(1460));
        out.clear();
        sender.shrink(1472, &mut out);
        assert!(out.iter().all(|packet| packet.wire_length() <= 1472), "{:?}", out[0].gso_size);
        carry(&mut sender, &mut receiver, |_| false);
        assert!(receiver.is_intact());
    }
}
