//! A packet that is larger than the path takes: who is told, and what is cut (TX-06; linux
//! net/ipv4/ip_tunnel.c `tnl_update_pmtu`, v6.18).
//!
//! What the path takes is the caller's to know: the kernel keeps it, by route and by the ICMP messages that
//! routers send. Here is only what follows from it. The sender of the payload packet is told as by a router
//! at the tunnel's entrance, so that its own path MTU discovery works through the tunnel (RFC 1191, RFC 8201);
//! a packet that may be fragmented is fragmented before it is encapsulated, so that the far end reassembles
//! nothing. Over IPv6 the kernel tells the sender even of a packet that might be fragmented, and never asks for less
//! than 1280 bytes of IPv6 or 68 of IPv4 (T6-04; net/ipv6/ip6_tunnel.c `ip6_tnl_xmit`): what the path does not take
//! then is fragmented outside.

use greway_wire::ipv4::{self, Ipv4Header};
use greway_wire::ipv6::{self, Ipv6Header};
use greway_wire::{ethertype, icmp};

use crate::frame::Link;
use crate::offload::Offload;
use crate::tunnel::Tunnel;

/// The smallest MTU of an IPv6 link in bytes (RFC 8200 §5): no tunnel may ask for less.
const LEAST_IPV6: usize = 1280;
/// The smallest MTU of IPv4 in bytes (RFC 791 §3.2).
const LEAST_IPV4: usize = 68;
/// Bytes of an ICMP error with its quote at most (RFC 1812 §4.3.2.3).
const LONGEST_ICMP: usize = 576;
/// The same for ICMPv6 (RFC 4443 §2.4).
const LONGEST_ICMP_V6: usize = 1280;
/// TTL of the message.
const TTL: u8 = 64;

/// What is to be done with a packet, given the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It fits, or the delivery packet may be fragmented.
    Fits,
    /// Tell the sender to send at most this many bytes, and drop the packet.
    TellSender {
        /// The tunnel's MTU in bytes for this path.
        mtu: u16,
    },
    /// Cut the payload packet into fragments of at most this many bytes.
    Fragment {
        /// The tunnel's MTU in bytes for this path.
        mtu: u16,
    },
    /// Nothing helps.
    TooBig,
}

/// Whether a packet fits a path of `path_mtu` bytes.
pub fn fit(tunnel: &Tunnel, protocol_type: u16, packet: &[u8], offload: Offload, path_mtu: u32) -> Fit {
    // Whoever sent it counts without the link header.
    let Some(link) = tunnel.link(protocol_type, packet) else { return Fit::Fits };
    let limit = (path_mtu as usize).saturating_sub(tunnel.overhead() + link.len);
    let size = match offload.gso {
        Some(gso) => usize::from(gso.header_len) + usize::from(gso.size),
        None => packet.len(),
    };
    if size.saturating_sub(link.len) <= limit {
        return Fit::Fits;
    }
    let (protocol_type, packet) = (link.ethertype, &packet[link.len..]);
    if tunnel.over_ipv6() {
        let least = if protocol_type == ethertype::IPV6 { LEAST_IPV6 } else { LEAST_IPV4 };
        let mtu = u16::try_from(limit.max(least)).unwrap_or(u16::MAX);
        return match protocol_type {
            _ if size.saturating_sub(link.len) <= usize::from(mtu) => Fit::Fits,
            ethertype::IPV4 | ethertype::IPV6 => Fit::TellSender { mtu },
            _ => Fit::TooBig,
        };
    }
    let inner_df = protocol_type == ethertype::IPV4 && packet.get(6).is_some_and(|byte| byte & 0x40 != 0);
    if !tunnel.sets_df(inner_df) {
        return Fit::Fits;
    }
    let mtu = u16::try_from(limit).unwrap_or(u16::MAX);
    match protocol_type {
        // A super-packet is TCP's, or of a sender that segments itself: it is told.
        ethertype::IPV4 if limit >= ipv4::MIN_LEN + 8 => match inner_df || offload.gso.is_some() {
            true => Fit::TellSender { mtu },
            false => Fit::Fragment { mtu },
        },
        ethertype::IPV6 if limit >= LEAST_IPV6 => Fit::TellSender { mtu },
        _ => Fit::TooBig,
    }
}

/// The ICMP packet that tells the sender of `packet`, from its IP header on, or the frame with it where `packet` is
/// one (protocol type 0x6558), back to the station it came from. `None`: nobody may be told
/// (RFC 1122 §3.2.2, RFC 4443 §2.4e): the packet is an ICMP error itself, a later fragment, or has no host as
/// its sender or its destination.
///
/// It comes from the packet's destination, whose side of the tunnel speaks: the host takes no packet from one
/// of its own addresses.
pub fn too_big_message(protocol_type: u16, packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    match protocol_type {
        ethertype::IPV4 => ipv4_message(packet, mtu),
        ethertype::IPV6 => ipv6_message(packet, mtu),
        ethertype::TEB => frame_message(packet, mtu),
        _ => None,
    }
}

/// It seems to come from the station that the frame was for, as its packet does: bridges on the way know by then
/// where that is, or learn the right thing. Tags stay.
fn frame_message(frame: &[u8], mtu: u16) -> Option<Vec<u8>> {
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
        ethertype::IPV4 => ipv4_message(packet, mtu)?,
        ethertype::IPV6 => ipv6_message(packet, mtu)?,
        _ => return None,
    };
    Some([from, to, &header[2 * ADDRESS..], &message].concat())
}

fn ipv4_message(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let header = Ipv4Header::parse(packet).ok()?;
    let (from, to) = (header.destination, header.source);
    let host = |address: std::net::Ipv4Addr| {
        !(address.is_unspecified() || address.is_multicast() || address.is_broadcast())
    };
    let kind = packet.get(header.header_len()).copied();
    let error = header.protocol == icmp::PROTOCOL && kind.is_some_and(icmp::is_error);
    if header.fragment_offset != 0 || error || !host(from) || !host(to) {
        return None;
    }
    let room = LONGEST_ICMP - ipv4::MIN_LEN - icmp::HEADER_LEN;
    let quoted = &packet[..packet.len().min(room)];
    let message = ipv4::MIN_LEN + icmp::HEADER_LEN + quoted.len();
    let mut bytes = vec![0; message];
    let outer = Ipv4Header {
        // Internetwork control, as the kernel's own.
        tos: 0xc0,
        total_length: message as u16,
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
    let quote = icmp::Quote {
        kind: icmp::DESTINATION_UNREACHABLE,
        code: icmp::FRAGMENTATION_NEEDED,
        next_hop_mtu: mtu,
        packet: quoted,
    };
    quote.emit(&mut bytes[ipv4::MIN_LEN..]).ok()?;
    Some(bytes)
}

fn ipv6_message(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let header = Ipv6Header::parse(packet).ok()?;
    let (from, to) = (header.destination, header.source);
    let kind = packet.get(ipv6::LEN).copied();
    let error = header.next_header == icmp::PROTOCOL_V6 && kind.is_some_and(icmp::is_error_v6);
    // A multicast destination is told all the same (RFC 4443 §2.4e.3), but cannot be who tells.
    if error || to.is_unspecified() || to.is_multicast() || from.is_multicast() {
        return None;
    }
    let room = LONGEST_ICMP_V6 - ipv6::LEN - icmp::HEADER_LEN;
    let quoted = &packet[..packet.len().min(room)];
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
    icmp::emit_packet_too_big(from, to, mtu.into(), quoted, &mut bytes[ipv6::LEN..]).ok()?;
    Some(bytes)
}
