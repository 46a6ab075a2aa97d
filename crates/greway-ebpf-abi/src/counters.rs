//! What the programs count, each CPU for itself.
//!
//! ```text
//! Counters (one attach point)
//!  0        8        16       24       32             + 8 × Decline::COUNT
//!  +--------+--------+--------+--------+------ ... ------+
//!  |  seen  |  gre   |carried |dropped |    declined     |
//!  +--------+--------+--------+--------+------ ... ------+
//!
//! TunnelCounters (one tunnel, both directions)
//!  0          8         16         24        32         40         48
//!  +----------+---------+----------+---------+----------+----------+-- ... --+--- ... ---+
//!  |rx_packets|rx_bytes |tx_packets|tx_bytes |last_rx_ns|last_tx_ns| dropped | declined  |
//!  +----------+---------+----------+---------+----------+----------+-- ... --+--- ... ---+
//!
//! Slot (one of a few tunnels, whose carried packets are counted here and not there)
//!  0                                                               48         52        56
//!  +----------+---------+----------+---------+----------+----------+----------+---------+
//!  |rx_packets|rx_bytes |tx_packets|tx_bytes |last_rx_ns|last_tx_ns|   peer   |    0    |
//!  +----------+---------+----------+---------+----------+----------+----------+---------+
//! ```

use crate::{Decline, Dropped};

/// One CPU's counters of one point, in packets since the map was made. `seen` is the sum of `carried`, `dropped`
/// and all of `declined`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Packets the program looked at. A super-packet counts once.
    pub seen: u64,
    /// At the underlay, those of them whose IP protocol is 47.
    pub gre: u64,
    /// Packets the program encapsulated or decapsulated and sent on.
    pub carried: u64,
    /// Packets the program dropped.
    pub dropped: u64,
    /// Packets left to those behind, by reason.
    pub declined: [u64; Decline::COUNT],
}

/// One CPU's counters of one tunnel. Bytes are of payload packets (RX-25), a super-packet counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TunnelCounters {
    /// Payload packets delivered to the tunnel device.
    pub rx_packets: u64,
    /// Bytes of payload packets delivered.
    pub rx_bytes: u64,
    /// Payload packets sent.
    pub tx_packets: u64,
    /// Bytes of payload packets sent.
    pub tx_bytes: u64,
    /// When the last packet was delivered, in nanoseconds of CLOCK_MONOTONIC; 0: never.
    pub last_rx_ns: u64,
    /// When the last packet was sent, in nanoseconds of CLOCK_MONOTONIC; 0: never.
    pub last_tx_ns: u64,
    /// Packets dropped, by [`Dropped`].
    pub dropped: [u64; Dropped::COUNT],
    /// Packets known to be this tunnel's that were left to userspace, by [`Decline`].
    pub declined: [u64; Decline::COUNT],
}

/// What was carried of one tunnel by one CPU: how [`TunnelCounters`] begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Traffic {
    /// See [`TunnelCounters::rx_packets`], and so on.
    pub rx_packets: u64,
    /// See there.
    pub rx_bytes: u64,
    /// See there.
    pub tx_packets: u64,
    /// See there.
    pub tx_bytes: u64,
    /// See there.
    pub last_rx_ns: u64,
    /// See there.
    pub last_tx_ns: u64,
}

/// A place where the carried packets of one tunnel are counted instead, which is found without a lookup in a hash map.
/// Userspace gives it to a tunnel that finds it free; what stands in [`TunnelCounters`] is to be added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Slot {
    /// What was carried.
    pub traffic: Traffic,
    /// Index of the peer end of the tunnel whose it is; 0: nobody's.
    pub peer: u32,
    /// Zero.
    pub reserved: u32,
}

impl Slot {
    /// How many there are.
    pub const COUNT: u32 = 256;

    /// The only one that a tunnel can have. Both ends of a pair get their index one after the other.
    pub const fn of(peer: u32) -> u32 {
        peer / 2 % Self::COUNT
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self { seen: 0, gre: 0, carried: 0, dropped: 0, declined: [0; Decline::COUNT] }
    }
}

impl Default for TunnelCounters {
    fn default() -> Self {
        Self {
            rx_packets: 0,
            rx_bytes: 0,
            tx_packets: 0,
            tx_bytes: 0,
            last_rx_ns: 0,
            last_tx_ns: 0,
            dropped: [0; Dropped::COUNT],
            declined: [0; Decline::COUNT],
        }
    }
}

impl Counters {
    /// Packets declined for `reason`.
    pub fn declined_for(&self, reason: Decline) -> u64 {
        self.declined[reason as usize]
    }

    /// Adds another CPU's counters to these. Wraps, as the kernel's do.
    pub fn add(&mut self, other: &Self) {
        self.seen = self.seen.wrapping_add(other.seen);
        self.gre = self.gre.wrapping_add(other.gre);
        self.carried = self.carried.wrapping_add(other.carried);
        self.dropped = self.dropped.wrapping_add(other.dropped);
        add_each(&mut self.declined, &other.declined);
    }
}

impl TunnelCounters {
    /// Packets declined for `reason`.
    pub fn declined_for(&self, reason: Decline) -> u64 {
        self.declined[reason as usize]
    }

    /// Packets dropped for `reason`.
    pub fn dropped_for(&self, reason: Dropped) -> u64 {
        self.dropped[reason as usize]
    }

    /// Adds another CPU's counters to these; of the times the later one counts. Wraps, as the kernel's do.
    pub fn add(&mut self, other: &Self) {
        self.rx_packets = self.rx_packets.wrapping_add(other.rx_packets);
        self.rx_bytes = self.rx_bytes.wrapping_add(other.rx_bytes);
        self.tx_packets = self.tx_packets.wrapping_add(other.tx_packets);
        self.tx_bytes = self.tx_bytes.wrapping_add(other.tx_bytes);
        self.last_rx_ns = self.last_rx_ns.max(other.last_rx_ns);
        self.last_tx_ns = self.last_tx_ns.max(other.last_tx_ns);
        add_each(&mut self.dropped, &other.dropped);
        add_each(&mut self.declined, &other.declined);
    }

    /// Adds what was carried; of the times the later one counts.
    pub fn add_traffic(&mut self, other: &Traffic) {
        let Traffic { rx_packets, rx_bytes, tx_packets, tx_bytes, last_rx_ns, last_tx_ns } = *other;
        self.add(&Self {
            rx_packets,
            rx_bytes,
            tx_packets,
            tx_bytes,
            last_rx_ns,
            last_tx_ns,
            ..Self::default()
        });
    }
}

fn add_each(sums: &mut [u64], others: &[u64]) {
    for (sum, more) in sums.iter_mut().zip(others) {
        *sum = sum.wrapping_add(*more);
    }
}

const _: () = assert!(size_of::<Counters>() == 32 + 8 * Decline::COUNT);
const _: () = assert!(core::mem::offset_of!(Counters, declined) == 32);
const _: () = assert!(size_of::<TunnelCounters>() == 48 + 8 * (Dropped::COUNT + Decline::COUNT));
const _: () = assert!(core::mem::offset_of!(TunnelCounters, dropped) == 48);
const _: () = assert!(size_of::<Traffic>() == 48 && size_of::<Slot>() == 56);
const _: () = assert!(core::mem::offset_of!(TunnelCounters, last_tx_ns) == 40);
const _: () = assert!(core::mem::offset_of!(Traffic, last_tx_ns) == 40);
const _: () = assert!(align_of::<Counters>() == 8 && align_of::<TunnelCounters>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_cpus_add_up() {
        let mut sum = TunnelCounters { rx_packets: 3, last_rx_ns: 9, ..TunnelCounters::default() };
        let mut other = TunnelCounters { rx_packets: 4, last_rx_ns: 5, ..TunnelCounters::default() };
        other.declined[Decline::TooBig as usize] = 2;
        other.dropped[Dropped::EcnCorrupted as usize] = 1;
        sum.add(&other);
        sum.add(&other);
        assert_eq!((sum.rx_packets, sum.last_rx_ns), (11, 9));
        assert_eq!((sum.declined_for(Decline::TooBig), sum.dropped_for(Dropped::EcnCorrupted)), (4, 2));

        sum.add_traffic(&Traffic { rx_packets: 2, last_rx_ns: 7, last_tx_ns: 3, ..Traffic::default() });
        assert_eq!((sum.rx_packets, sum.last_rx_ns, sum.last_tx_ns), (13, 9, 3));

        let mut point = Counters { seen: u64::MAX, ..Counters::default() };
        point.add(&Counters { seen: 2, carried: 2, ..Counters::default() });
        assert_eq!((point.seen, point.carried), (1, 2));
    }
}
