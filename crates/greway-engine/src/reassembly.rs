//! IP fragments put together (RFC 791 §3.2, RFC 8200 §4.5), for datagrams that carry GRE.
//!
//! For whoever sees packets before the IP stack has put them together: captures, and packet sockets over IPv6,
//! which the kernel reassembles nothing for (`PACKET_FANOUT_FLAG_DEFRAG` is for IPv4 only). The bounds are fixed:
//! so many datagrams at once, so many bytes in all, so long by the caller's clock. Fragments that overlap are
//! not put together (RFC 5722 §4; Linux does the same for both families): the datagram stays incomplete.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use greway_wire::extension::{self, Chain};
use greway_wire::ipv4::Ipv4Header;
use greway_wire::ipv6::{self, Ipv6Header};
use greway_wire::{checksum, gre};

/// Datagrams that wait at once.
const MOST_DATAGRAMS: usize = 1024;
/// Bytes that wait in all.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// How long a datagram waits, in milliseconds (RFC 8200 §4.5: 60 seconds; Linux: 30 for IPv4).
const PATIENCE_MS: u64 = 60_000;
/// The longest datagram in bytes, its header apart.
const LONGEST: usize = 65_535;
/// Fragments of one datagram whose numbers are kept: more than this many came twice.
const MOST_NUMBERS: usize = LONGEST / 8 + 1;

/// What became of a packet.
#[derive(Debug)]
pub enum Outcome<'p> {
    /// A GRE datagram, whole.
    Whole(Datagram<'p>),
    /// Something that is no GRE.
    NotGre,
    /// A fragment; others are missing.
    Waits,
    /// Its IP header cannot be read.
    Unreadable,
}

/// A whole datagram.
#[derive(Debug)]
pub struct Datagram<'p> {
    /// From its IP header on.
    pub bytes: Cow<'p, [u8]>,
    /// The numbers that its fragments were given with, in the order of arrival; empty for one that was never cut.
    pub fragments: Vec<u64>,
}

/// Which datagram a fragment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
}

#[derive(Debug, Default)]
struct Parts {
    /// Headers of the first fragment, ready for the whole.
    head: Option<Vec<u8>>,
    /// Where each piece belongs, in bytes, in this order.
    pieces: Vec<(usize, Vec<u8>)>,
    /// Where the last piece ends.
    end: Option<usize>,
    numbers: Vec<u64>,
    since_ms: u64,
    /// Of the pieces.
    bytes: usize,
    /// All that is kept.
    kept: usize,
    spoiled: bool,
}

/// A fragment without its headers.
struct Piece<'p> {
    key: Key,
    at: usize,
    more: bool,
    bytes: &'p [u8],
    /// Headers for the whole datagram, where this is its first piece.
    head: Option<Vec<u8>>,
}

/// Datagrams that wait for fragments.
#[derive(Debug)]
pub struct Reassembly {
    most_datagrams: usize,
    most_bytes: usize,
    waiting: HashMap<Key, Parts>,
    /// In the order of their first fragments.
    order: VecDeque<Key>,
    bytes: usize,
    given_up: u64,
}

impl Default for Reassembly {
    fn default() -> Self {
        Self::new()
    }
}

impl Reassembly {
    /// Nothing waits. At most 1024 datagrams and 16 MiB will.
    pub fn new() -> Self {
        Self::bounded(MOST_DATAGRAMS, MOST_BYTES)
    }

    /// The same with other bounds.
    pub fn bounded(most_datagrams: usize, most_bytes: usize) -> Self {
        Self {
            most_datagrams,
            most_bytes,
            waiting: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            given_up: 0,
        }
    }

    /// Datagrams of which not all fragments came, those that still wait among them.
    pub fn incomplete(&self) -> u64 {
        self.given_up + self.waiting.len() as u64
    }

    /// Datagrams that were given up since this was last asked.
    pub fn take_given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up)
    }

    /// Bytes that wait, in pieces, headers and numbers.
    pub fn waiting_bytes(&self) -> usize {
        self.bytes
    }

    /// Takes an IPv4 packet. `number` is the caller's, to tell fragments by; `now_ms` is in milliseconds of his
    /// clock.
    pub fn ipv4<'p>(&mut self, packet: &'p [u8], number: u64, now_ms: u64) -> Outcome<'p> {
        let Ok(header) = Ipv4Header::parse(packet) else { return Outcome::Unreadable };
        if header.protocol != gre::PROTOCOL {
            return Outcome::NotGre;
        }
        if !header.is_fragment() {
            return Outcome::Whole(Datagram { bytes: Cow::Borrowed(packet), fragments: Vec::new() });
        }
        let header_len = header.header_len();
        let total = usize::from(header.total_length);
        // A fragment that is not all there cannot be put together.
        let Some(bytes) = packet.get(header_len..total) else { return Outcome::Unreadable };
        let head = (header.fragment_offset == 0).then(|| {
            let mut head = packet[..header_len].to_vec();
            head[6..8].fill(0);
            head
        });
        let key = Key {
            source: header.source.into(),
            destination: header.destination.into(),
            identification: header.identification.into(),
        };
        let at = usize::from(header.fragment_offset) * 8;
        let piece = Piece { key, at, more: header.more_fragments, bytes, head };
        self.add(piece, number, now_ms, |head, payload| {
            let total = u16::try_from(head.len() + payload).ok()?;
            head[2..4].copy_from_slice(&total.to_be_bytes());
            head[10..12].fill(0);
            let sum = checksum::checksum(head);
            head[10..12].copy_from_slice(&sum.to_be_bytes());
            Some(())
        })
    }

    /// Takes an IPv6 packet, as [`Reassembly::ipv4`] does.
    pub fn ipv6<'p>(&mut self, packet: &'p [u8], number: u64, now_ms: u64) -> Outcome<'p> {
        let Ok(header) = Ipv6Header::parse(packet) else { return Outcome::Unreadable };
        let fragment = match extension::follow(packet) {
            Chain::To { protocol: gre::PROTOCOL, .. } => {
                return Outcome::Whole(Datagram { bytes: Cow::Borrowed(packet), fragments: Vec::new() });
            }
            Chain::To { .. } => return Outcome::NotGre,
            Chain::Cut => return Outcome::Unreadable,
            Chain::Fragment(fragment) => fragment,
        };
        if !may_lead_to_gre(fragment.next_header) {
            return Outcome::NotGre;
        }
        let end = ipv6::LEN + usize::from(header.payload_length);
        let after = fragment.at + 8;
        let Some(bytes) = packet.get(after..end) else { return Outcome::Unreadable };
        let head = (fragment.offset == 0).then(|| {
            let mut head = packet[..fragment.at].to_vec();
            head[fragment.named_at] = fragment.next_header;
            head
        });
        let key = Key {
            source: header.source.into(),
            destination: header.destination.into(),
            identification: fragment.identification,
        };
        let piece = Piece { key, at: fragment.offset, more: fragment.more, bytes, head };
        match self.add(piece, number, now_ms, |head, payload| {
            let length = u16::try_from(head.len() - ipv6::LEN + payload).ok()?;
            head[4..6].copy_from_slice(&length.to_be_bytes());
            Some(())
        }) {
            // Only now is it known what it carries.
            Outcome::Whole(datagram) if !carries_gre(&datagram.bytes) => Outcome::NotGre,
            outcome => outcome,
        }
    }

    fn add<'p>(
        &mut self,
        piece: Piece<'p>,
        number: u64,
        now_ms: u64,
        finish: impl FnOnce(&mut [u8], usize) -> Option<()>,
    ) -> Outcome<'p> {
        self.expire(now_ms);
        let key = piece.key;
        if !self.waiting.contains_key(&key) {
            self.make_room();
            self.order.push_back(key);
        }
        let parts = self.waiting.entry(key).or_insert_with(|| Parts { since_ms: now_ms, ..Parts::default() });
        let before = parts.kept;
        parts.note(number);
        parts.take(piece);
        self.bytes += parts.kept - before;
        let Some((mut head, payload)) = parts.whole() else {
            while self.bytes > self.most_bytes && self.order.len() > 1 {
                self.give_up_oldest();
            }
            return Outcome::Waits;
        };
        let fragments = std::mem::take(&mut parts.numbers);
        // Mostly it began not long ago.
        if let Some(position) = self.order.iter().rposition(|other| *other == key) {
            self.order.remove(position);
        }
        self.forget(&key);
        if finish(&mut head, payload.len()).is_none() {
            // Together they are longer than a datagram can be.
            self.given_up += 1;
            return Outcome::Waits;
        }
        head.extend(payload);
        Outcome::Whole(Datagram { bytes: Cow::Owned(head), fragments })
    }

    fn expire(&mut self, now_ms: u64) {
        while let Some(parts) = self.order.front().and_then(|oldest| self.waiting.get(oldest)) {
            if now_ms.saturating_sub(parts.since_ms) <= PATIENCE_MS {
                return;
            }
            self.give_up_oldest();
        }
    }

    fn make_room(&mut self) {
        while self.waiting.len() >= self.most_datagrams {
            self.give_up_oldest();
        }
    }

    fn give_up_oldest(&mut self) {
        if let Some(oldest) = self.order.pop_front() {
            self.forget(&oldest);
            self.given_up += 1;
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(parts) = self.waiting.remove(key) {
            self.bytes -= parts.kept;
        }
    }
}

impl Parts {
    /// Keeps the number of a fragment. One that is sent again and again must not cost memory without end.
    fn note(&mut self, number: u64) {
        if self.numbers.len() < MOST_NUMBERS {
            self.numbers.push(number);
            self.kept += size_of::<u64>();
        }
    }

    fn take(&mut self, piece: Piece<'_>) {
        let end = piece.at + piece.bytes.len();
        let position = self.pieces.partition_point(|(at, _)| *at < piece.at);
        let before = position.checked_sub(1).and_then(|before| self.pieces.get(before));
        let after = self.pieces.get(position);
        // A fragment that came twice says nothing new (linux net/ipv4/inet_fragment.c, `IPFRAG_DUP`).
        let covers = |(at, bytes): &&(usize, Vec<u8>)| *at <= piece.at && end <= at + bytes.len();
        if !piece.bytes.is_empty()
            && (before.is_some_and(|b| covers(&b)) || after.is_some_and(|a| covers(&a)))
        {
            return;
        }
        let overlaps = before.is_some_and(|(at, bytes)| at + bytes.len() > piece.at)
            || after.is_some_and(|(at, _)| *at < end);
        let last = self.pieces.last().map_or(0, |(at, bytes)| at + bytes.len());
        let beyond = self.end.is_some_and(|last| end > last) || end > LONGEST || (!piece.more && end < last);
        // All but the last are multiples of 8 bytes.
        let ragged = piece.more && !piece.bytes.len().is_multiple_of(8);
        if overlaps || beyond || ragged || piece.bytes.is_empty() {
            self.spoiled = true;
        }
        if self.spoiled {
            return;
        }
        if !piece.more {
            self.end = Some(end);
        }
        if let (None, Some(head)) = (&self.head, piece.head) {
            self.kept += head.len();
            self.head = Some(head);
        }
        self.bytes += piece.bytes.len();
        self.kept += piece.bytes.len() + size_of::<(usize, Vec<u8>)>();
        self.pieces.insert(position, (piece.at, piece.bytes.to_vec()));
    }

    /// Headers and payload, where nothing is missing.
    fn whole(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        let end = self.end.filter(|end| !self.spoiled && self.bytes == *end)?;
        let head = self.head.take()?;
        let mut payload = Vec::with_capacity(end);
        self.pieces.iter().for_each(|(_, bytes)| payload.extend_from_slice(bytes));
        Some((head, payload))
    }
}

/// Whether a datagram whose fragments name this as their first header may carry GRE.
fn may_lead_to_gre(next_header: u8) -> bool {
    use extension::{AUTHENTICATION, DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ROUTING};
    matches!(
        next_header,
        gre::PROTOCOL | AUTHENTICATION | DESTINATION_OPTIONS | FRAGMENT | HOP_BY_HOP | ROUTING
    )
}

fn carries_gre(packet: &[u8]) -> bool {
    matches!(extension::follow(packet), Chain::To { protocol: gre::PROTOCOL, .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A GRE packet of this many bytes over IPv6, behind an encapsulation limit as the kernel sends it.
    fn datagram(bytes: usize) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, 60, 64];
        packet[4..6].copy_from_slice(&(bytes as u16 + 8).to_be_bytes());
        packet.extend([0xfd; 31]);
        packet.push(1);
        packet.extend([47, 0, 4, 1, 4, 1, 1, 0]);
        packet.extend([0, 0, 8, 0].into_iter().chain((0..).map(|n: usize| n as u8)).take(bytes));
        packet
    }

    /// The bytes of the GRE packet from `at` on, as a fragment behind the option.
    fn fragment(whole: &[u8], at: usize, len: usize, more: bool) -> Vec<u8> {
        let mut packet = whole[..48].to_vec();
        packet[4..6].copy_from_slice(&(len as u16 + 16).to_be_bytes());
        packet[40] = 44;
        let word = at as u16 | u16::from(more);
        packet.extend([&[47, 0][..], &word.to_be_bytes(), &[0, 0, 1, 2]].concat());
        packet.extend(&whole[48 + at..48 + at + len]);
        packet
    }

    fn whole(reassembly: &mut Reassembly, packet: &[u8], now_ms: u64) -> Option<Vec<u8>> {
        match reassembly.ipv6(packet, 0, now_ms) {
            Outcome::Whole(datagram) => Some(datagram.bytes.into_owned()),
            Outcome::Waits => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn t14_fragments_come_together_in_any_order_and_twice() {
        let wanted = datagram(3000);
        let pieces = [(0, 1448, true), (1448, 1448, true), (2896, 104, false)];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut reassembly = Reassembly::new();
            for (nth, index) in order.into_iter().enumerate() {
                let (at, len, more) = pieces[index];
                let packet = fragment(&wanted, at, len, more);
                if nth < 2 {
                    assert_eq!(whole(&mut reassembly, &packet, 0), None);
                    assert_eq!(whole(&mut reassembly, &packet, 0), None, "again");
                } else {
                    assert_eq!(whole(&mut reassembly, &packet, 0).as_ref(), Some(&wanted));
                }
            }
            assert_eq!((reassembly.waiting_bytes(), reassembly.take_given_up()), (0, 0));
        }
        // What is in one piece is not touched, with or without a fragment header.
        assert_eq!(whole(&mut Reassembly::new(), &wanted, 0), Some(wanted));
    }

    #[test]
    fn fragments_that_overlap_or_contradict_each_other_never_become_whole() {
        let wanted = datagram(64);
        let cases: [&[(usize, usize, bool)]; 4] = [
            &[(0, 32, true), (24, 40, false)],
            &[(0, 16, true), (48, 16, false), (8, 48, true)],
            // A piece beyond the end, and a hole of the same size.
            &[(0, 8, true), (24, 8, true), (16, 8, false)],
            &[(0, 12, true), (12, 52, false)],
        ];
        for case in cases {
            let mut reassembly = Reassembly::new();
            for (at, len, more) in case {
                assert_eq!(whole(&mut reassembly, &fragment(&wanted, *at, *len, *more), 0), None, "{case:?}");
            }
            assert_eq!(reassembly.incomplete(), 1, "{case:?}");
        }
    }

    #[test]
    fn what_waits_is_bounded_in_number_bytes_and_time() {
        /// The piece, its headers, where it belongs, and its number.
        const KEPT: usize = 1448 + 48 + 32 + 8;
        let mut reassembly = Reassembly::bounded(4, 10_000);
        let piece = |id: u8| {
            let mut packet = fragment(&datagram(3000), 0, 1448, true);
            packet[55] = id;
            packet
        };
        for id in 0..20 {
            assert_eq!(whole(&mut reassembly, &piece(id), 0), None);
            assert!(reassembly.waiting_bytes() <= 4 * KEPT);
        }
        assert_eq!(reassembly.take_given_up(), 16);
        assert_eq!(whole(&mut reassembly, &piece(99), PATIENCE_MS + 1), None);
        assert_eq!((reassembly.take_given_up(), reassembly.waiting_bytes()), (4, KEPT));
        let mut reassembly = Reassembly::bounded(100, 3000);
        for id in 0..20 {
            assert_eq!(whole(&mut reassembly, &piece(id), 0), None);
            assert!(reassembly.waiting_bytes() <= 3000);
        }
    }

    #[test]
    fn a_fragment_that_comes_again_and_again_costs_no_memory() {
        let wanted = datagram(3000);
        let mut reassembly = Reassembly::new();
        for _ in 0..3 * MOST_NUMBERS {
            assert_eq!(whole(&mut reassembly, &fragment(&wanted, 0, 1448, true), 0), None);
        }
        assert!(reassembly.waiting_bytes() <= 1448 + 48 + 32 + 8 * MOST_NUMBERS);
        assert_eq!(whole(&mut reassembly, &fragment(&wanted, 1448, 1448, true), 0), None);
        assert_eq!(whole(&mut reassembly, &fragment(&wanted, 2896, 104, false), 0), Some(wanted));
        assert_eq!((reassembly.waiting_bytes(), reassembly.order.len()), (0, 0));
    }
}
