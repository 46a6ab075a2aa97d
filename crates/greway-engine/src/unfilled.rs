//! Unfilled checksums and merged packets, read off the bytes.
//!
//! A raw IP socket tells nothing about a packet, but what it hands out may be many packets that the
//! kernel merged on receive, or one whose checksum a sender on the same host left to a device. Both show
//! in the same way: the TCP or UDP checksum field holds the folded sum over the pseudo header and
//! nothing more. Delivered as it is, such a packet would fail its checksum at the receiver, and bulk TCP
//! would be lost without a trace.
//!
//! A complete checksum has that value in one of 65,536 packets; those are told apart by verifying. A packet that is longer
//! than any that can have come in one piece was merged in any case.

use greway_wire::transport::{Addresses, Protocol, Transport};

use crate::offload::{Gso, GsoKind, Offload, Partial};

/// Where the CWR flag is in a TCP header.
const TCP_FLAGS: usize = 13;
const TCP_CWR: u8 = 0x80;

/// What was left undone in `packet`, an IPv4 or IPv6 packet. `segment_limit`: the largest packet in
/// bytes that can have come in one piece; a longer one with an unfilled checksum was merged.
pub fn detect(packet: &[u8], segment_limit: u16) -> Offload {
    let Some((transport, partial)) = looks_unfilled(packet) else { return Offload::NONE };
    let limit = usize::from(segment_limit);
    let header_len = transport.payload_at();
    let merged = transport.end > limit && limit > header_len;
    if !merged && is_complete(packet, &transport) {
        return Offload::NONE;
    }
    let gso = merged.then(|| Gso {
        kind: kind_of(&transport),
        size: (limit - header_len) as u16,
        header_len: header_len as u16,
        ecn: window_reduced(packet, &transport),
    });
    Offload { partial: Some(partial), gso }
}

/// The unfilled checksum of a TCP or UDP packet, if it has one.
pub fn unfilled(packet: &[u8]) -> Option<(Transport, Partial)> {
    looks_unfilled(packet).filter(|(transport, _)| !is_complete(packet, transport))
}

/// Whether the checksum of a packet is right as it stands.
fn is_complete(packet: &[u8], transport: &Transport) -> bool {
    let covered = &packet[transport.offset..transport.end];
    let mut sum = transport.pseudo_header(covered.len() as u32);
    sum.add(covered);
    sum.verifies()
}

/// The checksum that holds no more than the sum over the pseudo header.
fn looks_unfilled(packet: &[u8]) -> Option<(Transport, Partial)> {
    let transport = Transport::locate(packet)?;
    let at = transport.checksum_at();
    let field = u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]);
    let covered = packet.get(transport.offset..transport.end)?;
    if field != transport.pseudo_header(covered.len() as u32).folded() {
        return None;
    }
    let start = u16::try_from(transport.offset).ok()?;
    Some((transport, Partial { start, offset: transport.protocol.checksum_offset() as u16 }))
}

/// What a super-packet with this transport header is split into.
pub(crate) fn kind_of(transport: &Transport) -> GsoKind {
    match (transport.protocol, transport.addresses) {
        (Protocol::Tcp, Addresses::V4(..)) => GsoKind::Tcp4,
        (Protocol::Tcp, Addresses::V6(..)) => GsoKind::Tcp6,
        (Protocol::Udp, _) => GsoKind::Udp,
    }
}

fn window_reduced(packet: &[u8], transport: &Transport) -> bool {
    let flags = packet.get(transport.offset + TCP_FLAGS).copied().unwrap_or(0);
    transport.protocol == Protocol::Tcp && flags & TCP_CWR != 0
}
