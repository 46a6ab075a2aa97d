//! The socket that many tunnels without a program have together.
//!
//! Each tunnel without a program has a packet socket of its own: its bulk pushes no other's packets out of their queue.
//! But the kernel goes through all packet sockets of a network namespace for each of a dozen things that happen to a
//! device that comes (linux net/packet/af_packet.c `packet_notifier`, v6.18): of ten thousand tunnels that is a minute.
//! So those that come late share one that is bound to no device and sees everything before anybody else does; a filter
//! keeps out of it what did not come out of a tunnel, most of it by its first comparison. What this socket loses
//! is counted for the host. Of several workers the lead alone reads it.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use greway_linux::packet::{Config, Kind, PacketSocket, Protocol};
use greway_linux::{OpenError, filter};

/// Tunnels that have their own sockets, with so many workers.
pub(crate) fn own(workers: usize) -> usize {
    (512 / workers).max(64)
}

/// Bytes of socket buffer, as one tunnel of its own has: whoever fills it makes all others wait for what is in it.
const BUFFER: usize = 4 << 20;

/// The socket.
#[derive(Debug)]
pub(crate) struct Whole {
    socket: Arc<PacketSocket>,
    /// The peer ends of those who share it.
    members: BTreeSet<u32>,
    devices: Devices,
}

impl Whole {
    pub(crate) fn open() -> Result<Self, OpenError> {
        let nothing = filter::drop_all();
        let socket = PacketSocket::open(&Config {
            protocol: Protocol::All,
            filter: Some(&nothing),
            kind: Kind::Raw,
            vnet_header: true,
            ignore_outgoing: true,
            receive_buffer: Some(BUFFER),
            send_buffer: Some(BUFFER),
            ..Config::default()
        })?;
        Ok(Self { socket: Arc::new(socket), members: BTreeSet::new(), devices: Devices::default() })
    }

    /// For what is brought into the device of a tunnel.
    pub(crate) fn sender(&self) -> Arc<PacketSocket> {
        Arc::clone(&self.socket)
    }

    /// Takes what arrives at this peer end, too.
    pub(crate) fn let_in(&mut self, peer: u32) {
        self.members.insert(peer);
        if !self.devices.add(peer) {
            return;
        }
        let program = filter::not_for_host_within(&self.devices.ranges, self.devices.parity());
        if let Err(error) = self.socket.set_filter(&program) {
            tracing::error!(%error, peer, "what comes out of a tunnel is not taken");
        }
    }

    /// No longer. Says whether anybody is left; the filter is wider than it has to be, which costs little.
    pub(crate) fn let_out(&mut self, peer: u32) -> bool {
        self.members.remove(&peer);
        !self.members.is_empty()
    }

    /// Packets that were lost since the last time this was asked because the socket was full.
    pub(crate) fn spilled(&self) -> u64 {
        self.socket.statistics().map_or(0, |counted| u64::from(counted.drops))
    }
}

impl AsFd for Whole {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Indexes of devices, as few ranges that may hold others as well: those of pairs that were made one after the other
/// are every second one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Devices {
    /// In order, none touching another.
    ranges: Vec<(u32, u32)>,
    /// Some are even, some are odd.
    parities: [bool; 2],
}

impl Devices {
    /// What is so near to a range is made one with it, and so much beyond is expected: a filter for each device would
    /// be made ten thousand times.
    const NEAR: u32 = 256;
    const AHEAD: u32 = 256;

    /// Says whether it was not among them yet.
    fn add(&mut self, index: u32) -> bool {
        let known = std::mem::replace(&mut self.parities[index as usize & 1], true);
        let at = self.ranges.partition_point(|(_, last)| *last < index);
        if self.ranges.get(at).is_some_and(|(first, _)| *first <= index) {
            return !known;
        }
        self.ranges.insert(at, (index, index.saturating_add(Self::AHEAD)));
        let mut joined: Vec<(u32, u32)> = Vec::with_capacity(self.ranges.len());
        for range in self.ranges.drain(..) {
            match joined.last_mut() {
                Some(before) if range.0 <= before.1.saturating_add(Self::NEAR) => {
                    before.1 = before.1.max(range.1)
                }
                _ => joined.push(range),
            }
        }
        // The nearest two become one.
        while joined.len() > filter::MOST_RANGES {
            let gap = |at: &usize| joined[at + 1].0 - joined[*at].1;
            let Some(at) = (0..joined.len() - 1).min_by_key(gap) else { break };
            joined[at].1 = joined[at + 1].1;
            joined.remove(at + 1);
        }
        self.ranges = joined;
        true
    }

    /// What the lowest bit of all of them is.
    fn parity(&self) -> Option<u32> {
        match self.parities {
            [true, false] => Some(0),
            [false, true] => Some(1),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_one_after_the_other_is_one_range() {
        let mut devices = Devices::default();
        let changes = (7..4007).step_by(2).filter(|index| devices.add(*index)).count();
        assert_eq!(devices.ranges.len(), 1);
        assert!(devices.ranges[0].0 == 7 && devices.ranges[0].1 >= 4005, "{devices:?}");
        assert!(changes < 20, "{changes} filters for 2000 devices");
        assert_eq!(devices.parity(), Some(1));
        assert!(devices.add(10), "an even one needs another filter");
        assert_eq!(devices.parity(), None);
        assert!(!devices.add(10) && !devices.add(9));
    }

    #[test]
    fn what_is_far_apart_is_never_more_ranges_than_there_is_room_for() {
        let mut devices = Devices::default();
        for number in (0..500).rev() {
            devices.add(1 + number * 2000);
        }
        assert!(devices.ranges.len() <= filter::MOST_RANGES, "{}", devices.ranges.len());
        let within = |index| devices.ranges.iter().any(|(first, last)| (*first..=*last).contains(&index));
        assert!((0..500).all(|number| within(1 + number * 2000)));
        assert!(devices.ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "{devices:?}");
        assert!(devices.add(u32::MAX - 1), "no index is too large");
    }
}
