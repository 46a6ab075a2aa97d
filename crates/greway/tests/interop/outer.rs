//! The delivery header of a tunnel packet as a test compares it: what the tunnel's words decide, and nothing that
//! counts up, is random or is a sum.

use std::net::IpAddr;

use greway_testbed::CapturedPacket;
use greway_wire::gre::GreHeader;

const TEB: u16 = 0x6558;
const DESTINATION_OPTIONS: u8 = 60;
const MORE_FRAGMENTS: u8 = 0x20;
const DONT_FRAGMENT: u8 = 0x40;

/// The delivery header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outer {
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// TOS or traffic class.
    pub(crate) tos: u8,
    /// DF of IPv4.
    pub(crate) df: bool,
    /// Flow label of IPv6.
    pub(crate) label: u32,
    /// The tunnel encapsulation limit option of IPv6 (RFC 2473 §4.1.1).
    pub(crate) limit: Option<u8>,
    /// The flags of the GRE header and its protocol type.
    pub(crate) gre: (u16, u16),
}

impl Outer {
    /// Of a packet that carries GRE; behind it, the payload packet (without an Ethernet header).
    pub(crate) fn parse(packet: &CapturedPacket) -> Option<(Self, &[u8])> {
        let (ip, gre) = (packet.payload(), packet.gre()?);
        let (header, length) = GreHeader::parse(gre).unwrap();
        let inside = &gre[length + if header.protocol_type == TEB { 14 } else { 0 }..];
        let gre = (u16::from_be_bytes([gre[0], gre[1]]), header.protocol_type);
        let outer = if packet.ethertype() == 0x0800 {
            Self { ttl: ip[8], tos: ip[1], df: ip[6] & DONT_FRAGMENT != 0, label: 0, limit: None, gre }
        } else {
            let word = u32::from_be_bytes([ip[0], ip[1], ip[2], ip[3]]);
            let tos = (word >> 20) as u8;
            // Destination options of 8 bytes: next header, length, then option 4 with its one byte, then padding.
            let limit = (ip[6] == DESTINATION_OPTIONS).then(|| {
                assert_eq!((&ip[40..44], &ip[45..48]), (&[47, 0, 4, 1][..], &[1, 1, 0][..]), "{packet:?}");
                ip[44]
            });
            Self { ttl: ip[7], tos, df: false, label: word & 0xf_ffff, limit, gre }
        };
        Some((outer, inside))
    }
}

/// Whether a packet has this address at one of its ends.
pub(crate) fn has_end(packet: &CapturedPacket, address: IpAddr) -> bool {
    let ip = packet.payload();
    let ends = match (packet.ethertype(), address) {
        (0x0800, IpAddr::V4(address)) => [ip[12..16] == address.octets(), ip[16..20] == address.octets()],
        (0x86dd, IpAddr::V6(address)) => [ip[8..24] == address.octets(), ip[24..40] == address.octets()],
        _ => [false, false],
    };
    ends.contains(&true)
}

/// Whether a packet is a fragment of IPv4, the first or a later one.
pub(crate) fn is_fragment(packet: &CapturedPacket) -> bool {
    let ip = packet.payload();
    packet.ethertype() == 0x0800 && (ip[6] & (MORE_FRAGMENTS | 0x1f) != 0 || ip[7] != 0)
}

/// Whether a payload packet is an echo request of this address's family with this TTL or hop limit.
pub(crate) fn is_request(inside: &[u8], address: IpAddr, ttl: u8) -> bool {
    match (inside[0] >> 4, address.is_ipv6()) {
        (4, false) => (inside[8], inside[9], inside[usize::from(inside[0] & 15) * 4]) == (ttl, 1, 8),
        (6, true) => (inside[7], inside[6], inside[40]) == (ttl, 58, 128),
        _ => false,
    }
}

/// The TOS or traffic class of a payload packet that is an echo reply.
pub(crate) fn answer_tos(inside: &[u8]) -> Option<u8> {
    let (answer, tos) = match inside[0] >> 4 {
        4 => (inside[9] == 1 && inside[usize::from(inside[0] & 15) * 4] == 0, inside[1]),
        6 => (inside[6] == 58 && inside[40] == 129, inside[0] << 4 | inside[1] >> 4),
        _ => return None,
    };
    answer.then_some(tos)
}

/// The flow label of a payload packet; 0 of IPv4.
pub(crate) fn label_of(inside: &[u8]) -> u32 {
    let word = u32::from_be_bytes([inside[0], inside[1], inside[2], inside[3]]);
    if inside[0] >> 4 == 6 { word & 0xf_ffff } else { 0 }
}
