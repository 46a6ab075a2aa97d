//! GRE packets that matched no tunnel, remembered for whoever asks why nothing arrives.
//!
//! Most tunnels that do not work fail here: another key at the far end, an address translated on the
//! way. The table is small and fixed, so that a flood costs no memory: when it is full the entry that
//! has been silent longest makes room.

use std::net::IpAddr;

/// One kind of packet that matched nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnmatchedEntry {
    /// Source of the datagrams.
    pub source: IpAddr,
    /// Their destination.
    pub destination: IpAddr,
    /// Their key; `None`: no key at all.
    pub key: Option<u32>,
    /// EtherType of their payload.
    pub protocol_type: u16,
    /// How many since the entry was made.
    pub count: u64,
    /// When the last one came, in milliseconds of the worker's clock.
    pub last_seen_ms: u64,
}

/// The table. One worker records; readers get a copy of [`Unmatched::entries`].
#[derive(Clone, Debug, Default)]
pub struct Unmatched {
    entries: Vec<UnmatchedEntry>,
    evicted: u64,
}

impl Unmatched {
    /// Entries at most.
    pub const CAPACITY: usize = 64;

    /// An empty table; it allocates its memory at once.
    pub fn new() -> Self {
        Self { entries: Vec::with_capacity(Self::CAPACITY), evicted: 0 }
    }

    /// Counts a packet.
    pub fn record(
        &mut self,
        source: IpAddr,
        destination: IpAddr,
        key: Option<u32>,
        protocol_type: u16,
        now_ms: u64,
    ) {
        let wanted = (source, destination, key, protocol_type);
        let of = |e: &UnmatchedEntry| (e.source, e.destination, e.key, e.protocol_type);
        if let Some(entry) = self.entries.iter_mut().find(|entry| of(entry) == wanted) {
            entry.count += 1;
            entry.last_seen_ms = now_ms;
            return;
        }
        let entry =
            UnmatchedEntry { source, destination, key, protocol_type, count: 1, last_seen_ms: now_ms };
        if self.entries.len() < Self::CAPACITY {
            self.entries.push(entry);
        } else if let Some(oldest) = self.entries.iter_mut().min_by_key(|entry| entry.last_seen_ms) {
            *oldest = entry;
            self.evicted += 1;
        }
    }

    /// Adds what another worker remembers; of too many the ones that have been silent longest are left out.
    pub fn add(&mut self, others: &[UnmatchedEntry]) {
        for other in others {
            let of = |e: &UnmatchedEntry| (e.source, e.destination, e.key, e.protocol_type);
            match self.entries.iter_mut().find(|entry| of(entry) == of(other)) {
                Some(entry) => {
                    entry.count += other.count;
                    entry.last_seen_ms = entry.last_seen_ms.max(other.last_seen_ms);
                }
                None => self.entries.push(*other),
            }
        }
        self.entries.sort_by_key(|entry| std::cmp::Reverse(entry.last_seen_ms));
        self.evicted += self.entries.len().saturating_sub(Self::CAPACITY) as u64;
        self.entries.truncate(Self::CAPACITY);
    }

    /// The entries, in no order that means anything.
    pub fn entries(&self) -> &[UnmatchedEntry] {
        &self.entries
    }

    /// How many entries had to make room.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.evicted = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    #[test]
    fn what_two_workers_remember_is_one_table() {
        let [mut one, mut other] = [Unmatched::new(), Unmatched::new()];
        let far = |host: u8| IpAddr::V4(Ipv4Addr::new(192, 0, 2, host));
        one.record(far(1), HERE, None, 0x0800, 5);
        one.record(far(1), HERE, Some(6), 0x0800, 5);
        other.record(far(1), HERE, None, 0x0800, 9);
        (1..Unmatched::CAPACITY as u8).for_each(|host| other.record(far(host), HERE, Some(7), 0x0800, 6));
        assert_eq!((other.entries().len(), other.evicted()), (Unmatched::CAPACITY, 0));
        one.add(other.entries());
        assert_eq!((one.entries().len(), one.evicted()), (Unmatched::CAPACITY, 1));
        assert_eq!((one.entries()[0].count, one.entries()[0].last_seen_ms), (2, 9));
        assert!(one.entries().iter().all(|entry| entry.key != Some(6)), "silent longest");
    }

    #[test]
    fn equal_packets_share_an_entry_and_another_key_has_its_own() {
        let mut table = Unmatched::new();
        for (key, now) in [(None, 1), (None, 2), (Some(0), 3)] {
            table.record(HERE, HERE, key, 0x0800, now);
        }
        let seen: Vec<_> = table.entries().iter().map(|e| (e.key, e.count, e.last_seen_ms)).collect();
        assert_eq!(seen, [(None, 2, 2), (Some(0), 1, 3)]);
    }

    #[test]
    fn a_flood_evicts_what_was_silent_longest() {
        let mut table = Unmatched::new();
        let flood = Unmatched::CAPACITY as u32 + 10;
        for number in 0..flood {
            table.record(Ipv4Addr::from(number).into(), HERE, None, 0x0800, u64::from(number));
        }
        assert_eq!(table.entries().len(), Unmatched::CAPACITY);
        assert_eq!(table.evicted(), 10);
        assert!(table.entries().iter().all(|entry| entry.last_seen_ms >= 10));
    }
}
