//! The packets of the simulated hosts: IPv4 with ICMP or TCP, built and read byte by byte.
//!
//! Just what the tiny hosts say to each other, in the form in which it would be on a wire, because the
//! engine under show reads and writes real headers. No IP options, no fragments.

use std::net::Ipv4Addr;

use greway_wire::checksum::{self, Checksum};

/// IP protocol numbers (IANA).
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const GRE: u8 = 47;

/// ICMP types (RFC 792).
pub(super) const ECHO_REPLY: u8 = 0;
pub(super) const UNREACHABLE: u8 = 3;
pub(super) const ECHO_REQUEST: u8 = 8;

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;

/// Bytes of an IPv4 header without options, and of a TCP header without options.
pub(super) const IPV4_HEADER: usize = 20;
pub(super) const TCP_HEADER: usize = 20;

/// A packet on its way between two simulated hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// From the IPv4 header on.
    pub(super) bytes: Vec<u8>,
    /// For a super-packet: the TCP payload bytes of each segment that it stands for, as a device with segmentation
    /// offload would be told. Its TCP checksum field then holds the pseudo-header's sum only.
    pub(super) gso_size: Option<u16>,
}

impl Packet {
    /// An ordinary packet with a finished IPv4 header, a TTL of 64 and DF.
    pub(super) fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Self {
        let length = u16::try_from(IPV4_HEADER + payload.len()).expect("the hosts keep packets below 64 KiB");
        let mut bytes = Vec::with_capacity(usize::from(length));
        bytes.extend([0x45, 0]);
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        bytes.extend(source.octets());
        bytes.extend(destination.octets());
        bytes.extend(payload);
        let mut packet = Self { bytes, gso_size: None };
        packet.refresh_header_checksum();
        packet
    }

    pub(super) fn source(&self) -> Ipv4Addr {
        self.address(12)
    }

    pub(super) fn destination(&self) -> Ipv4Addr {
        self.address(16)
    }

    pub(super) fn protocol(&self) -> u8 {
        self.bytes[9]
    }

    /// The bytes after the IPv4 header.
    pub(super) fn payload(&self) -> &[u8] {
        &self.bytes[IPV4_HEADER..]
    }

    /// Bytes of the largest IPv4 packet that this one becomes on a wire.
    pub(super) fn wire_length(&self) -> usize {
        match self.gso_size {
            Some(size) => (IPV4_HEADER + TCP_HEADER + usize::from(size)).min(self.bytes.len()),
            None => self.bytes.len(),
        }
    }

    /// Whether this can be read without further checks: version 4, no options, the length that it says.
    pub(super) fn is_sound(&self) -> bool {
        self.bytes.len() >= IPV4_HEADER
            && self.bytes[0] == 0x45
            && usize::from(u16::from_be_bytes([self.bytes[2], self.bytes[3]])) == self.bytes.len()
            && checksum::verifies(&self.bytes[..IPV4_HEADER])
    }

    /// One hop less; `false`: the last one was used up.
    pub(super) fn age(&mut self) -> bool {
        self.bytes[8] = self.bytes[8].saturating_sub(1);
        self.refresh_header_checksum();
        self.bytes[8] > 0
    }

    pub(super) fn replace_source(&mut self, address: Ipv4Addr) {
        self.replace_address(12, address);
    }

    pub(super) fn replace_destination(&mut self, address: Ipv4Addr) {
        self.replace_address(16, address);
    }

    fn address(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::new(self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3])
    }

    fn replace_address(&mut self, at: usize, address: Ipv4Addr) {
        let old = self.address(at).octets();
        let new = address.octets();
        self.bytes[at..at + 4].copy_from_slice(&new);
        self.refresh_header_checksum();
        if self.protocol() == TCP && self.payload().len() >= TCP_HEADER {
            // TCP's checksum covers the addresses. A super-packet's field is the sum itself, not yet complemented.
            let field = IPV4_HEADER + 16;
            let flip = if self.gso_size.is_some() { u16::MAX } else { 0 };
            let mut sum = u16::from_be_bytes([self.bytes[field], self.bytes[field + 1]]) ^ flip;
            for half in [0, 2] {
                let word = |octets: [u8; 4]| u16::from_be_bytes([octets[half], octets[half + 1]]);
                sum = checksum::update(sum, word(old), word(new));
            }
            self.bytes[field..field + 2].copy_from_slice(&(sum ^ flip).to_be_bytes());
        }
    }

    fn refresh_header_checksum(&mut self) {
        self.bytes[10..12].fill(0);
        let sum = checksum::checksum(&self.bytes[..IPV4_HEADER]);
        self.bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// An ICMP message; `rest` is the second word of its header.
pub(super) fn icmp(kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend(rest);
    bytes.extend(data);
    let sum = checksum::checksum(&bytes);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// The fields of a TCP segment that the hosts use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) source: u16,
    pub(super) destination: u16,
    pub(super) sequence: u32,
    pub(super) acknowledged: u32,
    pub(super) flags: u8,
}

impl Segment {
    /// The packet that carries `data`; with a `gso_size` a super-packet.
    pub(super) fn emit(&self, from: Ipv4Addr, to: Ipv4Addr, data: &[u8], gso_size: Option<u16>) -> Packet {
        let mut bytes = Vec::with_capacity(TCP_HEADER + data.len());
        bytes.extend(self.source.to_be_bytes());
        bytes.extend(self.destination.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledged.to_be_bytes());
        bytes.extend([0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.extend(data);
        let pseudo = pseudo_header(from, to, bytes.len());
        let sum = if gso_size.is_some() { pseudo.folded() } else { complete(pseudo, &bytes).value() };
        bytes[16..18].copy_from_slice(&sum.to_be_bytes());
        Packet { gso_size, ..Packet::new(from, to, TCP, &bytes) }
    }

    /// The segment in a packet and its data; `None` when it is too short or its checksum is wrong.
    pub(super) fn parse(packet: &Packet) -> Option<(Self, &[u8])> {
        let bytes = packet.payload();
        if packet.protocol() != TCP || bytes.len() < TCP_HEADER {
            return None;
        }
        let pseudo = pseudo_header(packet.source(), packet.destination(), bytes.len());
        if packet.gso_size.is_none() && !complete(pseudo, bytes).verifies() {
            return None;
        }
        let header = usize::from(bytes[12] >> 4) * 4;
        let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let segment = Self {
            source: half(0),
            destination: half(2),
            sequence: word(4),
            acknowledged: word(8),
            flags: bytes[13],
        };
        Some((segment, bytes.get(header..)?))
    }
}

fn complete(mut sum: Checksum, bytes: &[u8]) -> Checksum {
    sum.add(bytes);
    sum
}

/// The sum of TCP's pseudo-header (RFC 9293 §3.1).
fn pseudo_header(from: Ipv4Addr, to: Ipv4Addr, length: usize) -> Checksum {
    let length = u32::try_from(length).expect("a packet is shorter than 64 KiB");
    checksum::pseudo_header_v4(from, to, TCP, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const C: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

    const SEGMENT: Segment =
        Segment { source: 4000, destination: 5000, sequence: u32::MAX, acknowledged: 7, flags: ACK | PSH };

    #[test]
    fn a_segment_comes_back_as_it_went() {
        let packet = SEGMENT.emit(A, B, b"payload", None);
        assert!(packet.is_sound());
        assert_eq!(Segment::parse(&packet), Some((SEGMENT, b"payload".as_slice())));
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let mut packet = SEGMENT.emit(A, B, b"payload", None);
        *packet.bytes.last_mut().unwrap() ^= 1;
        assert_eq!(Segment::parse(&packet), None);
        packet.bytes[15] ^= 1;
        assert!(!packet.is_sound());
    }

    #[test]
    fn translated_addresses_keep_the_checksums_right() {
        let mut packet = SEGMENT.emit(A, B, b"odd", None);
        packet.replace_source(C);
        packet.replace_destination(A);
        assert!(packet.is_sound() && packet.source() == C);
        assert_eq!(Segment::parse(&packet), Some((SEGMENT, b"odd".as_slice())));
        // A super-packet's field is the pseudo-header's sum: the same as if emitted with the new addresses.
        let mut super_packet = SEGMENT.emit(A, B, &[7; 4000], Some(1000));
        super_packet.replace_source(C);
        assert_eq!(super_packet, SEGMENT.emit(C, B, &[7; 4000], Some(1000)));
    }

    #[test]
    fn the_last_hop_is_told() {
        let mut packet = Packet::new(A, B, ICMP, &icmp(ECHO_REQUEST, 0, [0, 1, 0, 1], b"abc"));
        for _ in 0..63 {
            assert!(packet.age() && packet.is_sound());
        }
        assert!(!packet.age());
    }
}
