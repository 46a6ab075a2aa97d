//! The packets that one payload packet becomes, ready to be sent.
//!
//! A train is an arena that is filled again and again: after it has grown to the largest super-packet
//! nothing is allocated. Payload is never copied: a segment is a header in the arena and a range of the
//! payload packet, which is one `iovec` each.
//!
//! ```text
//!   arena    |GRE·IP·TCP|GRE·IP·TCP|GRE·IP·TCP|
//!                 │           │          │
//!   packet   IP·TCP|───────────|──────────|──────|
//! ```

use std::net::Ipv4Addr;
use std::ops::Range;

use greway_wire::gre;
use greway_wire::ipv4::{self, Ipv4Header};

/// The delivery header of all segments of a train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Source address; `None`: the route decides.
    pub source: Option<Ipv4Addr>,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Time to live, 1 to 255.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// DF.
    pub dont_fragment: bool,
}

impl Outer {
    /// Writes the header for links that take whole datagrams. `payload_len`: GRE header and payload in
    /// bytes, which a train keeps within a datagram. An unknown source is written as 0.0.0.0: the
    /// caller sets [`Outer::source`] before, from the route.
    pub fn emit(&self, payload_len: usize, identification: u16, buffer: &mut [u8; ipv4::MIN_LEN]) {
        let header = Ipv4Header {
            tos: self.tos,
            total_length: u16::try_from(ipv4::MIN_LEN + payload_len).unwrap_or(u16::MAX),
            identification,
            dont_fragment: self.dont_fragment,
            more_fragments: false,
            fragment_offset: 0,
            ttl: self.ttl,
            protocol: gre::PROTOCOL,
            source: self.source.unwrap_or(Ipv4Addr::UNSPECIFIED),
            destination: self.destination,
            options: &[],
        };
        // The buffer is as long as a header without options, so this cannot fail.
        let written = header.emit(buffer);
        debug_assert_eq!(written, Ok(ipv4::MIN_LEN));
    }
}

/// A train; see the module.
#[derive(Clone, Debug)]
pub struct Train {
    outer: Outer,
    headers: Vec<u8>,
    segments: Vec<Record>,
}

#[derive(Clone, Debug)]
struct Record {
    header: Range<usize>,
    payload: Range<usize>,
}

/// One packet of a train: the payload of one outer datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// GRE header and whatever of the payload packet had to be rewritten.
    pub header: &'a [u8],
    /// What follows it, in the payload packet that was encapsulated.
    pub payload: Range<usize>,
}

impl Segment<'_> {
    /// Bytes of the outer datagram's payload.
    pub fn total_len(&self) -> usize {
        self.header.len() + self.payload.len()
    }
}

impl Default for Train {
    fn default() -> Self {
        Self::new()
    }
}

impl Train {
    /// An empty train with room for a usual super-packet.
    pub fn new() -> Self {
        let nowhere = Ipv4Addr::UNSPECIFIED;
        let outer = Outer { source: None, destination: nowhere, ttl: 0, tos: 0, dont_fragment: false };
        Self { outer, headers: Vec::with_capacity(64 * 128), segments: Vec::with_capacity(64) }
    }

    /// The delivery header, the same for all segments.
    pub fn outer(&self) -> Outer {
        self.outer
    }

    /// The segments in the order in which they are to be sent.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = Segment<'_>> {
        self.segments.iter().map(|record| Segment {
            header: &self.headers[record.header.clone()],
            payload: record.payload.clone(),
        })
    }

    /// How many segments.
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Empties it and sets the delivery header.
    pub(crate) fn begin(&mut self, outer: Outer) {
        self.clear();
        self.outer = outer;
    }

    /// Empties it.
    pub(crate) fn clear(&mut self) {
        self.headers.clear();
        self.segments.clear();
    }

    /// Adds a segment; returns its header to be written.
    pub(crate) fn push(&mut self, header_len: usize, payload: Range<usize>) -> &mut [u8] {
        let start = self.headers.len();
        self.headers.resize(start + header_len, 0);
        self.segments.push(Record { header: start..start + header_len, payload });
        &mut self.headers[start..]
    }
}
