//! A datagram taken apart, as deep as it is nested.
//!
//! Everything that can be read is told, also of a packet that no tunnel would take; what cannot be read
//! is a `problem` in words. Nothing here decides about a packet.

use greway_wire::extension::{self, Chain};
use greway_wire::gre::{self, GreError, GreHeader};
use greway_wire::ipv4::Ipv4Header;
use greway_wire::ipv6::{self, Ipv6Header};
use greway_wire::{checksum, encap_limit, ethertype};

use crate::link;
use crate::record::{ChecksumState, Ethernet, Gre, GreChecksum, Outer, Packet, Record};

/// How deep packets inside packets are followed.
pub const DEEPEST: usize = 8;

/// Takes a datagram apart. `cut`: the capture does not hold all of it.
pub fn datagram(bytes: &[u8], cut: bool) -> Record {
    Record { packet: ip(bytes, cut, 0), ..Record::default() }
}

/// What the outermost GRE header of a datagram holds: EtherType and bytes.
pub fn payload(datagram: &[u8]) -> Option<(u16, Vec<u8>)> {
    let at = gre_at(datagram)?;
    let end = length_of(datagram)?.min(datagram.len());
    let bytes = datagram.get(at..end)?;
    let (header, length) = GreHeader::parse(bytes).ok()?;
    Some((header.protocol_type, bytes[length..].to_vec()))
}

/// Where the GRE header of a datagram begins.
pub(crate) fn gre_at(datagram: &[u8]) -> Option<usize> {
    if let Ok(header) = Ipv4Header::parse(datagram) {
        return (header.protocol == gre::PROTOCOL && header.fragment_offset == 0)
            .then(|| header.header_len());
    }
    match extension::follow(datagram) {
        Chain::To { protocol: gre::PROTOCOL, at, .. } => Some(at),
        _ => None,
    }
}

/// Bytes of an IP packet as its header says.
fn length_of(packet: &[u8]) -> Option<usize> {
    if let Ok(header) = Ipv4Header::parse(packet) {
        return Some(header.total_length.into());
    }
    Ipv6Header::parse(packet).ok().map(|header| ipv6::LEN + usize::from(header.payload_length))
}

fn ip(bytes: &[u8], cut: bool, depth: usize) -> Packet {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => ipv4(bytes, cut, depth),
        Some(6) => ipv6(bytes, cut, depth),
        Some(version) => problem(format!("IP version {version}")),
        None => problem("no byte of a packet".to_owned()),
    }
}

fn problem(what: String) -> Packet {
    Packet { problem: Some(what), ..Packet::default() }
}

fn ipv4(bytes: &[u8], cut: bool, depth: usize) -> Packet {
    let header = match Ipv4Header::parse(bytes) {
        Ok(header) => header,
        Err(error) => return problem(error.to_string()),
    };
    let outer = Outer {
        family: "ipv4",
        src: header.source.into(),
        dst: header.destination.into(),
        ttl: header.ttl,
        tos: header.tos,
        df: Some(header.dont_fragment),
        id: Some(header.identification),
        len: header.total_length.into(),
        protocol: Some(header.protocol),
        flowlabel: None,
        encaplimit: None,
    };
    let mut packet = Packet { outer: Some(outer), ..Packet::default() };
    if header.is_fragment() && header.fragment_offset > 0 {
        packet.problem = Some(format!("a fragment from byte {}", header.fragment_offset * 8));
    } else if header.protocol == gre::PROTOCOL {
        let total = usize::from(header.total_length);
        let fragment = header.more_fragments;
        carried(&mut packet, bytes, header.header_len(), total, cut || fragment, depth);
    }
    packet
}

fn ipv6(bytes: &[u8], cut: bool, depth: usize) -> Packet {
    let header = match Ipv6Header::parse(bytes) {
        Ok(header) => header,
        Err(error) => return problem(error.to_string()),
    };
    let chain = extension::follow(bytes);
    let total = ipv6::LEN + usize::from(header.payload_length);
    let outer = Outer {
        family: "ipv6",
        src: header.source.into(),
        dst: header.destination.into(),
        ttl: header.hop_limit,
        tos: header.traffic_class,
        df: None,
        id: None,
        len: total as u32,
        protocol: match chain {
            Chain::To { protocol, .. } => Some(protocol),
            Chain::Fragment(_) | Chain::Cut => None,
        },
        flowlabel: Some(header.flow_label),
        encaplimit: encap_limit::find(bytes).map(|found| found.limit),
    };
    let mut packet = Packet { outer: Some(outer), ..Packet::default() };
    match chain {
        Chain::To { protocol: gre::PROTOCOL, at, .. } => carried(&mut packet, bytes, at, total, cut, depth),
        Chain::To { .. } => {}
        Chain::Fragment(fragment) => {
            packet.problem = Some(format!("a fragment from byte {}", fragment.offset));
        }
        Chain::Cut => packet.problem = Some("the extension headers do not end".to_owned()),
    }
    packet
}

/// The GRE packet from `at`, up to `total` as the IP header says.
fn carried(packet: &mut Packet, bytes: &[u8], at: usize, total: usize, cut: bool, depth: usize) {
    if depth == DEEPEST {
        packet.problem = Some(format!("packets inside packets, deeper than {DEEPEST}"));
        return;
    }
    let there = bytes.get(at..total.min(bytes.len())).unwrap_or_default();
    let short = total > bytes.len();
    if short && !cut {
        packet.problem = Some(format!("the header says {total} bytes, there are {}", bytes.len()));
    }
    let (header, problem) = gre_header(there, cut || short);
    packet.problem = packet.problem.take().or(problem);
    if let Some(gre) = &header
        && let (Some(protocol), Some(length)) = (gre.protocol, gre.header_len)
    {
        packet.inner = inside(protocol, &there[length..], cut || short, depth + 1).map(Box::new);
    }
    packet.gre = header;
}

/// The header, as far as it can be read, and what is wrong with it.
fn gre_header(bytes: &[u8], cut: bool) -> (Option<Gre>, Option<String>) {
    let word = |at: usize| bytes.get(at..at + 2).map(|word| u16::from_be_bytes([word[0], word[1]]));
    let Some(flags) = word(0) else {
        return (None, Some(GreError::TooShort { length: bytes.len() }.to_string()));
    };
    let absent = GreChecksum { value: None, state: Some(ChecksumState::Absent) };
    let unread = GreChecksum { value: None, state: None };
    let mut gre = Gre {
        flags,
        version: (flags & 0x0007) as u8,
        protocol: word(2),
        key: None,
        sequence: None,
        checksum: if flags & gre::CHECKSUM_PRESENT == 0 { absent } else { unread },
        header_len: None,
    };
    match GreHeader::parse(bytes) {
        Ok((header, length)) => {
            gre.key = header.key;
            gre.sequence = header.sequence_number;
            gre.header_len = Some(length);
            if let Some(value) = header.checksum {
                let state = match value {
                    _ if cut => None,
                    _ if checksum::verifies(bytes) => Some(ChecksumState::Good),
                    0 => Some(ChecksumState::Unfilled),
                    _ => Some(ChecksumState::Bad),
                };
                gre.checksum = GreChecksum { value: Some(value), state };
            }
            (Some(gre), None)
        }
        Err(error) => (Some(gre), Some(error.to_string())),
    }
}

/// A payload packet; `None` where there is nothing to say about it.
fn inside(protocol: u16, bytes: &[u8], cut: bool, depth: usize) -> Option<Packet> {
    match protocol {
        ethertype::IPV4 | ethertype::IPV6 if bytes.is_empty() => Some(problem("an empty payload".to_owned())),
        ethertype::IPV4 => Some(ipv4(bytes, cut, depth)),
        ethertype::IPV6 => Some(ipv6(bytes, cut, depth)),
        ethertype::TEB => Some(frame(bytes, cut, depth)),
        _ => None,
    }
}

fn frame(bytes: &[u8], cut: bool, depth: usize) -> Packet {
    let Some(layer) = link::ethernet(bytes) else {
        return problem(format!("{} bytes are no Ethernet frame", bytes.len()));
    };
    let mut packet = match layer.ethertype {
        ethertype::IPV4 | ethertype::IPV6 => ip(layer.bytes, cut, depth),
        _ => Packet::default(),
    };
    packet.ethernet = Some(Ethernet {
        src: mac(&bytes[6..12]),
        dst: mac(&bytes[..6]),
        ethertype: layer.ethertype,
        vlans: layer.vlans,
    });
    packet
}

fn mac(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}
