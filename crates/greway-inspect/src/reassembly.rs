//! IP fragments put together (RFC 791 §3.2, RFC 8200 §4.5), for datagrams that carry GRE.
//!
//! The bounds are fixed: so many datagrams at once, so many bytes in all, so long by the capture's own
//! clock. Fragments that overlap are not put together (RFC 5722 §4; Linux does the same for both
//! families): the datagram stays incomplete.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use greway_wire::extension::{self, Chain};
use greway_wire::ipv4::{self, Ipv4Header};
use greway_wire::ipv6::{self, Ipv6Header};
use greway_wire::{checksum, gre};

use crate::capture::Timestamp;

/// Datagrams that wait at once.
const MOST_DATAGRAMS: usize = 1024;
/// Bytes that wait in all.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// How long a datagram waits, in milliseconds (RFC 8200 §4.5: 60 seconds; Linux: 30 for IPv4).
const PATIENCE_MS: u64 = 60_000;
/// The longest datagram in bytes, its header apart.
const LONGEST: usize = 65_535;

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
    /// The frames its fragments came in, in the order of arrival; empty for one that was never cut.
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
    /// Where each piece belongs, in bytes.
    pieces: Vec<(usize, Vec<u8>)>,
    /// Where the last piece ends.
    end: Option<usize>,
    frames: Vec<u64>,
    since_ms: u64,
    bytes: usize,
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
#[derive(Debug, Default)]
pub struct Reassembly {
    waiting: HashMap<Key, Parts>,
    /// In the order of their first fragments.
    order: VecDeque<Key>,
    bytes: usize,
    given_up: u64,
}

impl Reassembly {
    /// Nothing waits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Datagrams of which not all fragments came, those that still wait among them.
    pub fn incomplete(&self) -> u64 {
        self.given_up + self.waiting.len() as u64
    }

    /// Bytes that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.bytes
    }

    /// Takes an IPv4 packet.
    pub fn ipv4<'p>(&mut self, packet: &'p [u8], frame: u64, time: Option<Timestamp>) -> Outcome<'p> {
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
        self.add(piece, frame, time, |head, payload| {
            let total = head.len() + payload;
            head[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            head[10..12].fill(0);
            let sum = checksum::checksum(head);
            head[10..12].copy_from_slice(&sum.to_be_bytes());
        })
    }

    /// Takes an IPv6 packet.
    pub fn ipv6<'p>(&mut self, packet: &'p [u8], frame: u64, time: Option<Timestamp>) -> Outcome<'p> {
        let Ok(header) = Ipv6Header::parse(packet) else { return Outcome::Unreadable };
        let fragment = match extension::follow(packet) {
            Chain::To { protocol: gre::PROTOCOL, .. } => {
                return Outcome::Whole(Datagram { bytes: Cow::Borrowed(packet), fragments: Vec::new() });
            }
            Chain::To { .. } => return Outcome::NotGre,
            Chain::Cut => return Outcome::Unreadable,
            Chain::Fragment(fragment) => fragment,
        };
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
        match self.add(piece, frame, time, |head, payload| {
            let length = head.len() - ipv6::LEN + payload;
            head[4..6].copy_from_slice(&(length as u16).to_be_bytes());
        }) {
            // Only now is it known what it carries.
            Outcome::Whole(datagram) if !carries_gre(&datagram.bytes) => Outcome::NotGre,
            outcome => outcome,
        }
    }

    fn add<'p>(
        &mut self,
        piece: Piece<'p>,
        frame: u64,
        time: Option<Timestamp>,
        finish: impl FnOnce(&mut [u8], usize),
    ) -> Outcome<'p> {
        let now_ms = time.map_or(0, Timestamp::milliseconds);
        self.expire(now_ms);
        let key = piece.key;
        if !self.waiting.contains_key(&key) {
            self.make_room();
            self.order.push_back(key);
        }
        let parts = self.waiting.entry(key).or_insert_with(|| Parts { since_ms: now_ms, ..Parts::default() });
        parts.frames.push(frame);
        let before = parts.bytes;
        parts.take(piece);
        self.bytes += parts.bytes - before;
        let Some((mut head, payload)) = parts.whole() else {
            while self.bytes > MOST_BYTES && self.order.len() > 1 {
                self.give_up_oldest();
            }
            return Outcome::Waits;
        };
        finish(&mut head, payload.len());
        let fragments = std::mem::take(&mut parts.frames);
        self.forget(&key);
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
        while self.waiting.len() >= MOST_DATAGRAMS {
            self.give_up_oldest();
        }
    }

    fn give_up_oldest(&mut self) {
        if let Some(oldest) = self.order.front().copied() {
            self.forget(&oldest);
            self.given_up += 1;
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(parts) = self.waiting.remove(key) {
            self.bytes -= parts.bytes;
        }
        self.order.retain(|other| other != key);
    }
}

impl Parts {
    fn take(&mut self, piece: Piece<'_>) {
        let end = piece.at + piece.bytes.len();
        let overlaps = self.pieces.iter().any(|(at, bytes)| piece.at < at + bytes.len() && *at < end);
        let beyond = self.end.is_some_and(|last| end > last) || end > LONGEST;
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
        self.head = self.head.take().or(piece.head);
        self.bytes += piece.bytes.len();
        self.pieces.push((piece.at, piece.bytes.to_vec()));
    }

    /// Headers and payload, where nothing is missing.
    fn whole(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        let end = self.end.filter(|end| !self.spoiled && self.bytes == *end)?;
        let head = self.head.take()?;
        if head.len() - ipv4::MIN_LEN.min(head.len()) + end > LONGEST {
            self.spoiled = true;
            return None;
        }
        self.pieces.sort_by_key(|(at, _)| *at);
        let payload = self.pieces.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        Some((head, payload))
    }
}

fn carries_gre(packet: &[u8]) -> bool {
    matches!(extension::follow(packet), Chain::To { protocol: gre::PROTOCOL, .. })
}
