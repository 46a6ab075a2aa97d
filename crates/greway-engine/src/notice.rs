//! What a sender is told about its payload packet by ICMP: that it is too big, that the tunnel's far end cannot
//! be reached, or what a router on the way said of the packet that carried it.
//!
//! The message seems to come from where the packet was going to: it comes out of the tunnel device, and a host takes
//! no packet from one of its own addresses there. Nobody is told about an ICMP error, a later fragment, or a packet
//! without one host at either end (RFC 1122 §3.2.2, RFC 4443 §2.4e).

use std::net::{Ipv4Addr, Ipv6Addr};

use greway_wire::ethertype;
use greway_wire::extension::{self, Chain};
use greway_wire::icmp::{self, Quote, QuoteV6};
use greway_wire::ipv4::{self, Ipv4Header};
use greway_wire::ipv6::{self, Ipv6Header};

use crate::frame::Link;

/// TTL and hop limit of a message.
const TTL: u8 = 64;
/// Type of service of a message over IPv4: internetwork control, as the kernel's own.
const TOS: u8 = 0xc0;

/// What there is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The packet is larger than the path takes.
    TooBig {
        /// Bytes that the tunnel takes.
        mtu: u16,
    },
    /// The far end was said to be unreachable: host unreachable, or ICMPv6 address unreachable (ER-04; linux
    /// net/ipv4/route.c `ipv4_link_failure`, net/ipv6/route.c `ip6_link_failure`, v6.18).
    Unreachable,
}

impl Notice {
    /// The ICMP packet that tells the sender of `packet`, from its IP header on, or the frame with it where
    /// `packet` is one (protocol type 0x6558), back to the station it came from. `None`: nobody may be told.
    pub fn message(self, protocol_type: u16, packet: &[u8]) -> Option<Vec<u8>> {
        match protocol_type {
            ethertype::IPV4 => self.over_ipv4(packet),
            ethertype::IPV6 => self.over_ipv6(packet),
            ethertype::TEB => self.in_frame(packet),
            _ => None,
        }
    }

    /// It seems to come from the station that the frame was for, as its packet does: bridges on the way know by
    /// then where that is, or learn the right thing. Tags stay.
    fn in_frame(self, frame: &[u8]) -> Option<Vec<u8>> {
        /// Bytes of a hardware address.
        const ADDRESS: usize = 6;
        let link = Link::of_frame(frame)?;
        let (header, packet) = frame.split_at(link.len);
        let (to, from) = (&header[..ADDRESS], &header[ADDRESS..2 * ADDRESS]);
        // No error is told of what went to many (RFC 1122 §3.2.2), or came from nobody.
        if to[0] & 1 != 0 || from[0] & 1 != 0 {
            return None;
        }
        let message = match link.ethertype {
            ethertype::IPV4 => self.over_ipv4(packet)?,
            ethertype::IPV6 => self.over_ipv6(packet)?,
            _ => return None,
        };
        Some([from, to, &header[2 * ADDRESS..], &message].concat())
    }

    fn over_ipv4(self, packet: &[u8]) -> Option<Vec<u8>> {
        let header = Ipv4Header::parse(packet).ok()?;
        let (from, to) = (header.destination, header.source);
        let kind = packet.get(header.header_len()).copied();
        let error = header.protocol == icmp::PROTOCOL && kind.is_some_and(icmp::is_error);
        if header.fragment_offset != 0 || error || !is_host(from) || !is_host(to) {
            return None;
        }
        let (code, next_hop_mtu) = match self {
            Self::TooBig { mtu } => (icmp::FRAGMENTATION_NEEDED, mtu),
            Self::Unreachable => (icmp::HOST_UNREACHABLE, 0),
        };
        let room = icmp::LONGEST - ipv4::MIN_LEN - icmp::HEADER_LEN;
        let quoted = &packet[..packet.len().min(room)];
        let length = ipv4::MIN_LEN + icmp::HEADER_LEN + quoted.len();
        let mut bytes = vec![0; length];
        let outer = Ipv4Header {
            tos: TOS,
            total_length: length as u16,
            identification: 0,
            dont_fragment: false,
            more_fragments: false,
            fragment_offset: 0,
            ttl: TTL,
            protocol: icmp::PROTOCOL,
            source: from,
            destination: to,
            options: &[],
        };
        outer.emit(&mut bytes).ok()?;
        let quote = Quote { kind: icmp::DESTINATION_UNREACHABLE, code, next_hop_mtu, packet: quoted };
        quote.emit(&mut bytes[ipv4::MIN_LEN..]).ok()?;
        Some(bytes)
    }

    fn over_ipv6(self, packet: &[u8]) -> Option<Vec<u8>> {
        let (kind, code, word) = match self {
            Self::TooBig { mtu } => (icmp::V6_PACKET_TOO_BIG, 0, u32::from(mtu)),
            Self::Unreachable => (icmp::V6_DESTINATION_UNREACHABLE, icmp::V6_ADDRESS_UNREACHABLE, 0),
        };
        message_v6(kind, code, word, packet, packet)
    }
}

/// An ICMPv6 packet to the sender of `packet`, with `quoted` in it. A multicast destination is told of as too big
/// (RFC 4443 §2.4e.3), but cannot be who tells, so that it is not.
pub(crate) fn message_v6(kind: u8, code: u8, word: u32, packet: &[u8], quoted: &[u8]) -> Option<Vec<u8>> {
    let header = Ipv6Header::parse(packet).ok()?;
    let (from, to) = (header.destination, header.source);
    if is_error_v6(packet) || !is_host_v6(from) || !is_host_v6(to) {
        return None;
    }
    let room = icmp::LONGEST_V6 - ipv6::LEN - icmp::HEADER_LEN;
    let quoted = &quoted[..quoted.len().min(room)];
    let length = icmp::HEADER_LEN + quoted.len();
    let mut bytes = vec![0; ipv6::LEN + length];
    let outer = Ipv6Header {
        traffic_class: 0,
        flow_label: 0,
        payload_length: length as u16,
        next_header: icmp::PROTOCOL_V6,
        hop_limit: TTL,
        source: from,
        destination: to,
    };
    outer.emit(&mut bytes).ok()?;
    QuoteV6 { kind, code, word, packet: quoted }.emit(from, to, &mut bytes[ipv6::LEN..]).ok()?;
    Some(bytes)
}

/// Whether the address is that of one host.
pub(crate) fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_multicast() || address.is_broadcast())
}

/// Whether the address is that of one host.
pub(crate) fn is_host_v6(address: Ipv6Addr) -> bool {
    !(address.is_unspecified() || address.is_multicast())
}

/// Whether an IPv6 packet is an ICMPv6 error, or a fragment that may be a piece of one.
fn is_error_v6(packet: &[u8]) -> bool {
    match extension::follow(packet) {
        Chain::To { protocol: icmp::PROTOCOL_V6, at, .. } => {
            packet.get(at).is_none_or(|kind| icmp::is_error_v6(*kind))
        }
        Chain::To { .. } => false,
        Chain::Fragment(fragment) => fragment.offset != 0 || fragment.next_header == icmp::PROTOCOL_V6,
        Chain::Cut => true,
    }
}
