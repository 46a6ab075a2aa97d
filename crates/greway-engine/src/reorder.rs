//! Packets put in order by their sequence numbers (RFC 2890 §2.2), for tunnels with `seq-mode rfc2890`.
//!
//! Linux drops what comes late ([`crate::sequence`]), which turns reordering into loss, and after a peer has
//! started again it drops everything until the peer's numbers have passed the old ones. Here a packet that comes
//! early waits for those before it, in a buffer that is small in packets, bytes and time; and a peer that starts
//! again is followed after a few packets. The buffer copies what waits, since received packets lie in memory that
//! is used again; while packets come in order it is empty and allocates nothing.
//!
//! ```text
//!        0 .. expected-1          expected        expected+1 ..
//!   ───────────────────────────┬────────────┬────────────────────────────
//!    duplicate, late, or a     │   deliver  │  wait, ordered, until what is
//!    peer that began again     │            │  missing comes or is given up
//! ```
//!
//! What is missing is given up when a packet has waited for [`MAX_WAIT_MS`], or when more wait than there is room
//! for. A packet without a number is in sequence by definition (§2.2). It keeps no clock and delivers nothing: the
//! caller says when it is, and takes what is ready after each packet and at [`Reorder::deadline_ms`].

use std::collections::VecDeque;

use crate::counters::SequenceCounters;
use crate::offload::Offload;
use crate::verdict::DropReason;

/// Packets that wait at most (MAX_PERFLOW_BUFFER of RFC 2890 §2.2).
pub const MAX_PACKETS: usize = 64;
/// Bytes of payload that wait at most.
pub const MAX_BYTES: usize = 256 * 1024;
/// Milliseconds that a packet waits at most (OUTOFORDER_TIMER of RFC 2890 §2.2).
pub const MAX_WAIT_MS: u64 = 20;
/// Late packets in a row, each with a higher number, that stand for a peer that began again.
pub const RESTART_PACKETS: u8 = 4;
/// A step ahead by more than this is a peer that began again elsewhere, as greway itself does, and no loss.
pub const LARGEST_LOSS: u32 = 16_384;

/// Numbers behind the expected one whose arrival is remembered.
const HISTORY: u32 = u128::BITS;
/// How far numbers of the same new beginning may be apart. A first number below this counts from 0.
const NEAR: i32 = 64;

/// The order of one tunnel's received packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reorder {
    /// The number after the last one released; `None` before the first packet.
    expected: Option<u32>,
    /// Nothing was released yet: what is missing may have been sent before this end was there.
    fresh: bool,
    /// Bit n is set where number `expected - 1 - n` came.
    came: u128,
    /// In order. The first `ready` may go out, the others wait.
    held: VecDeque<Held>,
    ready: usize,
    waiting_bytes: usize,
    beginning: Beginning,
    /// When a packet last fitted.
    fitted_ms: u64,
}

/// A payload packet.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    /// EtherType.
    pub protocol_type: u16,
    /// What is left to be done to it.
    pub offload: Offload,
    /// The packet.
    pub bytes: &'a [u8],
}

/// A payload packet that has waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// EtherType.
    pub protocol_type: u16,
    /// What is left to be done to it.
    pub offload: Offload,
    /// The packet.
    pub bytes: Box<[u8]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    number: u32,
    since_ms: u64,
    /// `None`: dropped for another reason, and its number is not missing all the same.
    packet: Option<Released>,
}

impl Held {
    fn len(&self) -> usize {
        self.packet.as_ref().map_or(0, |packet| packet.bytes.len())
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It is the next: deliver it now, and then what is ready.
    Next,
    /// It was copied and comes out of [`Reorder::pop`] in its turn, which may be now.
    Held,
}

/// Late packets that look like a peer that began again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Beginning {
    last: u32,
    count: u8,
}

impl Beginning {
    /// Another late packet; true when it is enough of them.
    fn is_another(&mut self, number: u32) -> bool {
        match number.wrapping_sub(self.last).cast_signed() {
            1..=NEAR if self.count > 0 => self.count += 1,
            // The new numbers come out of order too, or twice.
            step if self.count > 0 && (-NEAR..=0).contains(&step) => return false,
            _ => self.count = 1,
        }
        self.last = number;
        self.count >= RESTART_PACKETS
    }
}

impl Reorder {
    /// Goes on where Linux's check was: with its expectation, where 0 is none.
    pub fn following(expected_sequence: u32) -> Self {
        Self { expected: (expected_sequence != 0).then_some(expected_sequence), ..Self::default() }
    }

    /// The number of the next packet; `None` before the first.
    pub fn expected(&self) -> Option<u32> {
        self.expected
    }

    /// Packets that wait, without those that are ready.
    pub fn waiting(&self) -> usize {
        self.held.len() - self.ready
    }

    /// Bytes of payload that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// When something that is missing has to be given up, on the caller's clock in milliseconds; `None` while
    /// nothing waits.
    pub fn deadline_ms(&self) -> Option<u64> {
        let since = self.held.iter().skip(self.ready).map(|held| held.since_ms).min();
        since.map(|since| since + MAX_WAIT_MS)
    }

    /// A packet with this number came. `payload` is `None` where it is dropped for another reason; its number
    /// counts all the same.
    ///
    /// # Errors
    /// The reason to drop it for its number.
    pub fn arrive(
        &mut self,
        number: u32,
        payload: Option<Payload<'_>>,
        now_ms: u64,
        counters: &SequenceCounters,
    ) -> Result<Order, DropReason> {
        let expected = match self.expected {
            Some(expected) => expected,
            None => self.begin(number),
        };
        let ahead = number.wrapping_sub(expected).cast_signed();
        if ahead < 0 {
            self.late(number, ahead.unsigned_abs(), now_ms)?;
            self.follow(number, counters);
        }
        self.fitted_ms = now_ms;
        self.beginning.count = 0;
        let waits = self.held.range(self.ready..);
        if self.expected == Some(number) {
            if waits.len() > 0 {
                counters.record_reordered();
            }
            if self.ready == 0 {
                self.pass(number, counters);
                self.make_ready(0, counters);
                return Ok(Order::Next);
            }
        } else if waits.clone().any(|held| held.number == number) {
            return Err(DropReason::SequenceDuplicate);
        } else if self.held.back().is_some_and(|last| is_before(number, last.number)) {
            counters.record_reordered();
        }
        self.hold(number, payload, now_ms);
        self.make_ready(0, counters);
        while self.waiting() > MAX_PACKETS || self.waiting_bytes > MAX_BYTES {
            self.make_ready(1, counters);
        }
        Ok(Order::Held)
    }

    /// Gives up what is missing before packets that have waited long enough.
    pub fn expire(&mut self, now_ms: u64, counters: &SequenceCounters) {
        let overdue = |held: &Held| now_ms.saturating_sub(held.since_ms) >= MAX_WAIT_MS;
        let last = self.held.iter().skip(self.ready).rposition(overdue);
        self.make_ready(last.map_or(0, |last| last + 1), counters);
    }

    /// Gives up all that is missing: nothing waits any more.
    pub fn give_up(&mut self, counters: &SequenceCounters) {
        self.make_ready(self.waiting(), counters);
    }

    /// The next packet that is ready.
    pub fn pop(&mut self) -> Option<Released> {
        while self.ready > 0 {
            self.ready -= 1;
            if let Some(Held { packet: Some(packet), .. }) = self.held.pop_front() {
                return Some(packet);
            }
        }
        None
    }

    /// The first packet. RFC 2890 §2.2 begins at 0; a peer that sends already is joined where it is.
    fn begin(&mut self, number: u32) -> u32 {
        let expected = if number < NEAR.unsigned_abs() { 0 } else { number };
        (self.expected, self.fresh) = (Some(expected), true);
        expected
    }

    /// A number that is `behind` the expected one; passes where the peer has begun again.
    fn late(&mut self, number: u32, behind: u32, now_ms: u64) -> Result<(), DropReason> {
        let bit = if behind <= HISTORY { 1 << (behind - 1) } else { 0 };
        let duplicate = self.came & bit != 0;
        self.came |= bit;
        // A network that repeats packets does so at once; a peer that begins again takes a while.
        let repeated = duplicate && now_ms.saturating_sub(self.fitted_ms) < MAX_WAIT_MS;
        if !repeated && self.beginning.is_another(number) {
            return Ok(());
        }
        Err(if duplicate { DropReason::SequenceDuplicate } else { DropReason::SequenceLate })
    }

    /// The peer began again, and goes on from here.
    fn follow(&mut self, number: u32, counters: &SequenceCounters) {
        self.give_up(counters);
        counters.record_restart();
        (self.expected, self.came) = (Some(number), 0);
    }

    /// Makes the first `count` that wait ready, and those that follow them without a gap.
    fn make_ready(&mut self, count: usize, counters: &SequenceCounters) {
        let up_to = self.ready + count;
        while let Some((number, length)) = self.held.get(self.ready).map(|held| (held.number, held.len())) {
            if self.ready >= up_to && self.expected != Some(number) {
                break;
            }
            self.ready += 1;
            self.waiting_bytes -= length;
            self.pass(number, counters);
        }
    }

    /// A number is released, and what is missing before it given up.
    fn pass(&mut self, number: u32, counters: &SequenceCounters) {
        let missing = number.wrapping_sub(self.expected.unwrap_or(number));
        match missing {
            0 => {}
            _ if missing > LARGEST_LOSS => counters.record_restart(),
            _ if self.fresh => {}
            _ => counters.record_lost(missing),
        }
        self.fresh = false;
        self.came = self.came.checked_shl(missing.saturating_add(1)).unwrap_or(0) | 1;
        self.expected = Some(number.wrapping_add(1));
    }

    /// Puts a packet into its place among those that wait.
    fn hold(&mut self, number: u32, payload: Option<Payload<'_>>, now_ms: u64) {
        let packet = payload.map(|Payload { protocol_type, offload, bytes }| Released {
            protocol_type,
            offload,
            bytes: bytes.into(),
        });
        let held = Held { number, since_ms: now_ms, packet };
        self.waiting_bytes += held.len();
        let waits = self.held.range(self.ready..);
        let behind_it = waits.rev().take_while(|held| is_before(number, held.number)).count();
        self.held.insert(self.held.len() - behind_it, held);
    }
}

/// By signed distance, as numbers wrap.
fn is_before(number: u32, other: u32) -> bool {
    number.wrapping_sub(other).cast_signed() < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    // All else is in tests/rules/reorder.rs, from outside.
    #[test]
    fn rfc2890_in_order_nothing_is_allocated() {
        let counters = SequenceCounters::default();
        let mut order = Reorder::default();
        let payload = Payload { protocol_type: 0x0800, offload: Offload::NONE, bytes: &[0; 100] };
        for number in 0..1000 {
            assert_eq!(order.arrive(number, Some(payload), 0, &counters), Ok(Order::Next));
            assert_eq!(order.pop(), None);
        }
        assert_eq!(order.held.capacity(), 0);
    }
}
