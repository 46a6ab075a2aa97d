//! What happened, in numbers, for each tunnel and for what matched no tunnel.
//!
//! One worker writes a direction of a tunnel and anyone may read it: every counter is a relaxed atomic
//! that is loaded and stored, not added to, which costs a packet no locked instruction. Two writers of
//! the same direction would lose counts, so each worker has counters of its own, and whoever reads adds them up
//! ([`CounterSnapshot::add`]).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::verdict::{DeclineReason, DropReason};

/// Counters of one tunnel. Bytes are of payload packets (RX-25), a super-packet counts once.
#[derive(Debug, Default)]
pub struct TunnelCounters {
    rx: Flow,
    tx: Flow,
    sequence: SequenceCounters,
    drops: Drops,
}

/// What the sequence numbers of received packets tell, where packets are put in order (`seq-mode rfc2890`).
#[derive(Debug, Default)]
pub struct SequenceCounters {
    lost: AtomicU64,
    reordered: AtomicU64,
    restarts: AtomicU64,
}

impl SequenceCounters {
    /// `numbers` did not come in time.
    pub fn record_lost(&self, numbers: u32) {
        self.lost.store(self.lost.load(Relaxed) + u64::from(numbers), Relaxed);
    }

    /// A packet came after a later one, and was put into its place.
    pub fn record_reordered(&self) {
        increment(&self.reordered);
    }

    /// The peer began to count anew.
    pub fn record_restart(&self) {
        increment(&self.restarts);
    }
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Flow {
    packets: AtomicU64,
    bytes: AtomicU64,
    last_ms: AtomicU64,
}

#[derive(Debug)]
#[repr(align(64))]
struct Drops([AtomicU64; DropReason::COUNT]);

impl Default for Drops {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; DropReason::COUNT])
    }
}

/// The counters of a tunnel at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CounterSnapshot {
    /// Payload packets delivered.
    pub rx_packets: u64,
    /// Bytes of payload packets delivered.
    pub rx_bytes: u64,
    /// Payload packets sent.
    pub tx_packets: u64,
    /// Bytes of payload packets sent.
    pub tx_bytes: u64,
    /// When the last packet was delivered, in milliseconds of the worker's clock; 0: never.
    pub last_rx_ms: u64,
    /// When the last packet was sent, in milliseconds of the worker's clock; 0: never.
    pub last_tx_ms: u64,
    /// Packets that did not come, or not in time, by their sequence numbers. What came later is among the drops
    /// too. 0 unless packets are put in order, as the next two.
    pub lost: u64,
    /// Packets that came after a later one, and were put into their place.
    pub reordered: u64,
    /// Times that the peer began to count anew.
    pub restarts: u64,
    /// Packets dropped, for each reason that occurred, in the order of [`DropReason::ALL`].
    pub drops: Vec<(DropReason, u64)>,
}

impl CounterSnapshot {
    /// Packets dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.iter().find(|(r, _)| *r == reason).map_or(0, |(_, count)| *count)
    }

    /// Adds what another worker has counted of the same tunnel.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.rx_packets, other.rx_packets),
            (&mut self.rx_bytes, other.rx_bytes),
            (&mut self.tx_packets, other.tx_packets),
            (&mut self.tx_bytes, other.tx_bytes),
            (&mut self.lost, other.lost),
            (&mut self.reordered, other.reordered),
            (&mut self.restarts, other.restarts),
        ] {
            *sum += more;
        }
        self.last_rx_ms = self.last_rx_ms.max(other.last_rx_ms);
        self.last_tx_ms = self.last_tx_ms.max(other.last_tx_ms);
        self.drops = added(&self.drops, &other.drops);
    }
}

/// Counts by reason, in the order of [`DropReason::ALL`].
fn added(one: &[(DropReason, u64)], other: &[(DropReason, u64)]) -> Vec<(DropReason, u64)> {
    let of = |counts: &[(DropReason, u64)], reason| {
        counts.iter().find(|(known, _)| *known == reason).map_or(0, |(_, count)| *count)
    };
    let sum = |reason: &DropReason| (*reason, of(one, *reason) + of(other, *reason));
    DropReason::ALL.iter().map(sum).filter(|(_, count)| *count > 0).collect()
}

impl TunnelCounters {
    /// Counters at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// A payload packet of `bytes` was delivered at `now_ms`. Called by [`crate::decapsulate`].
    pub fn record_received(&self, bytes: usize, now_ms: u64) {
        self.rx.record(bytes, now_ms);
    }

    /// A payload packet of `bytes` was accepted by the underlay at `now_ms` (TX-09). Called by the
    /// datapath after the send, once for a super-packet.
    pub fn record_sent(&self, bytes: usize, now_ms: u64) {
        self.tx.record(bytes, now_ms);
    }

    /// A packet was dropped. The engine calls it for what it drops itself; the datapath for its own.
    pub fn record_drop(&self, reason: DropReason) {
        increment(&self.drops.0[reason.index()]);
    }

    /// `packets` were dropped that nobody looked at, so that only their number is known.
    pub fn record_drops(&self, reason: DropReason, packets: u64) {
        add(&self.drops.0[reason.index()], packets);
    }

    /// `packets` payload packets of `bytes` together that were counted as received did not get into the tunnel
    /// device: they are among the dropped and not among the received.
    pub fn record_undelivered(&self, reason: DropReason, packets: u64, bytes: u64) {
        self.rx.take_back(packets, bytes);
        self.record_drops(reason, packets);
    }

    /// The counters of the order of received packets.
    pub fn sequence(&self) -> &SequenceCounters {
        &self.sequence
    }

    /// Payload packets delivered so far.
    pub fn rx_packets(&self) -> u64 {
        self.rx.packets.load(Relaxed)
    }

    /// Payload packets sent so far.
    pub fn tx_packets(&self) -> u64 {
        self.tx.packets.load(Relaxed)
    }

    /// All values; the fields are read one after the other.
    pub fn snapshot(&self) -> CounterSnapshot {
        CounterSnapshot {
            rx_packets: self.rx.packets.load(Relaxed),
            rx_bytes: self.rx.bytes.load(Relaxed),
            tx_packets: self.tx.packets.load(Relaxed),
            tx_bytes: self.tx.bytes.load(Relaxed),
            last_rx_ms: self.rx.last_ms.load(Relaxed),
            last_tx_ms: self.tx.last_ms.load(Relaxed),
            lost: self.sequence.lost.load(Relaxed),
            reordered: self.sequence.reordered.load(Relaxed),
            restarts: self.sequence.restarts.load(Relaxed),
            drops: self.drops.snapshot(),
        }
    }
}

impl Flow {
    fn record(&self, bytes: usize, now_ms: u64) {
        increment(&self.packets);
        self.bytes.store(self.bytes.load(Relaxed) + bytes as u64, Relaxed);
        // 0 means never.
        self.last_ms.store(now_ms.max(1), Relaxed);
    }

    fn take_back(&self, packets: u64, bytes: u64) {
        for (counter, less) in [(&self.packets, packets), (&self.bytes, bytes)] {
            counter.store(counter.load(Relaxed).saturating_sub(less), Relaxed);
        }
    }
}

impl Drops {
    fn snapshot(&self) -> Vec<(DropReason, u64)> {
        let counts = self.0.iter().map(|count| count.load(Relaxed));
        DropReason::ALL.iter().copied().zip(counts).filter(|(_, count)| *count > 0).collect()
    }
}

/// What a worker's underlay socket received that belongs to no tunnel.
#[derive(Debug, Default)]
pub struct UnderlayCounters {
    drops: Drops,
    declines: [AtomicU64; DeclineReason::COUNT],
}

/// The counters of an underlay socket at one moment; reasons that did not occur are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnderlaySnapshot {
    /// Malformed packets of no tunnel.
    pub drops: Vec<(DropReason, u64)>,
    /// Packets left to others, by [`DeclineReason::name`].
    pub declines: Vec<(&'static str, u64)>,
}

impl UnderlaySnapshot {
    /// Adds what another worker has counted.
    pub fn add(&mut self, other: &Self) {
        self.drops = added(&self.drops, &other.drops);
        let of = |counts: &[(&'static str, u64)], name| {
            counts.iter().find(|(known, _)| *known == name).map_or(0, |(_, count)| *count)
        };
        let sum = |name| (name, of(&self.declines, name) + of(&other.declines, name));
        self.declines = DeclineReason::NAMES.into_iter().map(sum).filter(|(_, count)| *count > 0).collect();
    }
}

impl UnderlayCounters {
    /// Counters at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// A packet of no tunnel was dropped.
    pub fn record_drop(&self, reason: DropReason) {
        increment(&self.drops.0[reason.index()]);
    }

    /// `packets` were dropped that nobody looked at.
    pub fn record_drops(&self, reason: DropReason, packets: u64) {
        add(&self.drops.0[reason.index()], packets);
    }

    /// A packet was left to others.
    pub fn record_decline(&self, reason: DeclineReason) {
        increment(&self.declines[reason.index()]);
    }

    /// All values that are not zero.
    pub fn snapshot(&self) -> UnderlaySnapshot {
        let counts = self.declines.iter().map(|count| count.load(Relaxed));
        let declines = DeclineReason::NAMES.into_iter().zip(counts).filter(|(_, count)| *count > 0);
        UnderlaySnapshot { drops: self.drops.snapshot(), declines: declines.collect() }
    }
}

fn increment(counter: &AtomicU64) {
    add(counter, 1);
}

fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Relaxed) + more, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_says_what_was_recorded() {
        let counters = TunnelCounters::new();
        assert_eq!(counters.snapshot(), CounterSnapshot::default());
        counters.record_received(100, 0);
        counters.record_received(20, 7);
        counters.record_sent(50, 9);
        counters.record_drop(DropReason::SequenceLate);
        counters.record_drop(DropReason::SequenceLate);
        let now = counters.snapshot();
        assert_eq!((now.rx_packets, now.rx_bytes, now.last_rx_ms), (2, 120, 7));
        assert_eq!((now.tx_packets, now.tx_bytes, now.last_tx_ms), (1, 50, 9));
        assert_eq!(now.drops, [(DropReason::SequenceLate, 2)]);
        assert_eq!(now.dropped(DropReason::BadChecksum), 0);
    }

    #[test]
    fn what_two_workers_counted_is_added_up() {
        let workers = [TunnelCounters::new(), TunnelCounters::new()];
        workers[0].record_received(100, 3);
        workers[1].record_received(50, 9);
        workers[1].record_sent(10, 4);
        workers[0].record_drop(DropReason::SequenceLate);
        for counters in &workers {
            counters.record_drop(DropReason::BadChecksum);
        }
        let mut sum = workers[0].snapshot();
        sum.add(&workers[1].snapshot());
        assert_eq!((sum.rx_packets, sum.rx_bytes, sum.last_rx_ms), (2, 150, 9));
        assert_eq!((sum.tx_packets, sum.last_tx_ms), (1, 4));
        assert_eq!((sum.dropped(DropReason::BadChecksum), sum.dropped(DropReason::SequenceLate)), (2, 1));
        let position =
            |reason: &DropReason| DropReason::ALL.iter().position(|known| known == reason).unwrap();
        assert!(sum.drops.is_sorted_by_key(|(reason, _)| position(reason)));

        let underlay = [UnderlayCounters::new(), UnderlayCounters::new()];
        underlay.iter().for_each(|counters| counters.record_decline(DeclineReason::NotGre));
        underlay[1].record_drop(DropReason::VlanTagged);
        let mut sum = underlay[0].snapshot();
        sum.add(&underlay[1].snapshot());
        assert_eq!(sum.declines, [(underlay[0].snapshot().declines[0].0, 2)]);
        assert_eq!(sum.drops, [(DropReason::VlanTagged, 1)]);
    }

    #[test]
    fn what_did_not_get_into_the_device_was_not_received() {
        let counters = TunnelCounters::new();
        (0..5).for_each(|_| counters.record_received(100, 3));
        counters.record_undelivered(DropReason::DeviceQueueFull, 3, 300);
        let now = counters.snapshot();
        assert_eq!((now.rx_packets, now.rx_bytes, now.last_rx_ms), (2, 200, 3));
        assert_eq!(now.drops, [(DropReason::DeviceQueueFull, 3)]);
    }

    #[test]
    fn the_first_millisecond_is_not_never() {
        let counters = TunnelCounters::new();
        counters.record_sent(1, 0);
        assert_eq!(counters.snapshot().last_tx_ms, 1);
    }
}
