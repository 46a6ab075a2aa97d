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

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use greway_wire::ipv4::{self, Ipv4Header};
use greway_wire::ipv6::{self, Ipv6Header};
use greway_wire::{encap_limit, extension, gre};

use crate::offload::Offload;

/// The delivery header of all segments of a train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Source address; `None`: the route decides. Of the destination's family.
    pub source: Option<IpAddr>,
    /// Destination address.
    pub destination: IpAddr,
    /// Time to live or hop limit, 1 to 255.
    pub ttl: u8,
    /// TOS or traffic class: DSCP and ECN.
    pub tos: u8,
    /// DF; without meaning over IPv6.
    pub dont_fragment: bool,
    /// Flow label of 20 bits over IPv6; 0: the host's own choice (RFC 6438).
    pub flow_label: u32,
    /// Tunnel encapsulation limit over IPv6 (RFC 2473 §4.1.1); `None`: no option.
    pub encap_limit: Option<u8>,
}

impl Outer {
    /// Bytes of the longest delivery header: IPv6 with the encapsulation limit option.
    pub const MAX_LEN: usize = ipv6::LEN + encap_limit::OPTION_LEN;

    /// Writes the header for links that take whole datagrams, and returns its bytes. `payload_len`: GRE header and
    /// payload in bytes, which a train keeps within a datagram. An unknown source is written as zeros: the
    /// caller sets [`Outer::source`] before, from the route.
    pub fn emit(&self, payload_len: usize, identification: u16, buffer: &mut [u8; Self::MAX_LEN]) -> usize {
        match (self.destination, self.source) {
            (IpAddr::V4(destination), source) => {
                let source = match source {
                    Some(IpAddr::V4(source)) => source,
                    _ => Ipv4Addr::UNSPECIFIED,
                };
                self.emit_ipv4(source, destination, payload_len, identification, buffer)
            }
            (IpAddr::V6(destination), source) => {
                let source = match source {
                    Some(IpAddr::V6(source)) => source,
                    _ => Ipv6Addr::UNSPECIFIED,
                };
                self.emit_ipv6(source, destination, payload_len, buffer)
            }
        }
    }

    /// Bytes that [`Outer::emit`] writes.
    pub fn header_len(&self) -> usize {
        match (self.destination, self.encap_limit) {
            (IpAddr::V4(_), _) => ipv4::MIN_LEN,
            (IpAddr::V6(_), None) => ipv6::LEN,
            (IpAddr::V6(_), Some(_)) => Self::MAX_LEN,
        }
    }

    fn emit_ipv4(
        &self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        payload_len: usize,
        identification: u16,
        buffer: &mut [u8],
    ) -> usize {
        let header = Ipv4Header {
            tos: self.tos,
            total_length: u16::try_from(ipv4::MIN_LEN + payload_len).unwrap_or(u16::MAX),
            identification,
            dont_fragment: self.dont_fragment,
            more_fragments: false,
            fragment_offset: 0,
            ttl: self.ttl,
            protocol: gre::PROTOCOL,
            source,
            destination,
            options: &[],
        };
        // The buffer is longer than a header without options, so this cannot fail.
        header.emit(buffer).unwrap_or(0)
    }

    fn emit_ipv6(
        &self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        payload_len: usize,
        buffer: &mut [u8; Self::MAX_LEN],
    ) -> usize {
        let option = self.encap_limit.map(|limit| encap_limit::option(gre::PROTOCOL, limit));
        let option_len = option.map_or(0, |option| option.len());
        let header = Ipv6Header {
            traffic_class: self.tos,
            flow_label: self.flow_label,
            payload_length: u16::try_from(option_len + payload_len).unwrap_or(u16::MAX),
            next_header: if option.is_some() { extension::DESTINATION_OPTIONS } else { gre::PROTOCOL },
            hop_limit: self.ttl,
            source,
            destination,
        };
        let written = header.emit(buffer).unwrap_or(0);
        if let Some(option) = option {
            buffer[written..written + option_len].copy_from_slice(&option);
        }
        written + option_len
    }
}

/// A train; see the module.
#[derive(Clone, Debug)]
pub struct Train {
    outer: Outer,
    headers: Vec<u8>,
    segments: Vec<Record>,
    keeps_whole: bool,
}

#[derive(Clone, Debug)]
struct Record {
    header: Range<usize>,
    payload: Range<usize>,
    whole: Option<Whole>,
}

/// What is to be said of a super-packet that goes whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    /// What is left to be done, from the GRE header on.
    pub offload: Offload,
    /// Where the IP header inside begins, in bytes from the GRE header.
    pub network: u16,
    /// Bytes of the longest of the segments that it stands for, from the GRE header on.
    pub longest: usize,
}

/// One packet of a train: the payload of one outer datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// GRE header and whatever of the payload packet had to be rewritten.
    pub header: &'a [u8],
    /// What follows it, in the payload packet that was encapsulated.
    pub payload: Range<usize>,
    /// It stands for several, where the caller has asked for that.
    pub whole: Option<Whole>,
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
        let outer = Outer {
            source: None,
            destination: Ipv4Addr::UNSPECIFIED.into(),
            ttl: 0,
            tos: 0,
            dont_fragment: false,
            flow_label: 0,
            encap_limit: None,
        };
        let (headers, segments) = (Vec::with_capacity(64 * 128), Vec::with_capacity(64));
        Self { outer, headers, segments, keeps_whole: false }
    }

    /// Has super-packets stay whole in it from now on as far as they can ([`Segment::whole`]), for whoever can have them cut
    /// later; or all of them split.
    ///
    /// What is cut as the kernel cuts it gives the same packets. A GRE checksum is then repeated like all of the header:
    /// that of every segment of full length is the same, since what changes from one to the next is made up for by the
    /// checksums inside. A last one that is shorter goes by itself. Packets with sequence numbers are split in any case.
    pub fn keep_whole(&mut self, whole: bool) {
        self.keeps_whole = whole;
    }

    pub(crate) fn keeps_whole(&self) -> bool {
        self.keeps_whole
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
            whole: record.whole,
        })
    }

    /// Whether a super-packet is in it that goes whole.
    pub fn has_whole(&self) -> bool {
        self.segments.iter().any(|record| record.whole.is_some())
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
        self.segments.push(Record { header: start..start + header_len, payload, whole: None });
        &mut self.headers[start..]
    }

    /// Says that the last segment stands for several, with this payload.
    pub(crate) fn is_whole(&mut self, whole: Whole, payload: Range<usize>) {
        if let Some(last) = self.segments.last_mut() {
            (last.whole, last.payload) = (Some(whole), payload);
        }
    }
}
