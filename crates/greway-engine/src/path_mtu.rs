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

use greway_wire::transport::Transport;
use greway_wire::{ethertype, ipv4};

use crate::notice::Notice;
use crate::offload::Offload;
use crate::tunnel::Tunnel;

/// The smallest MTU of an IPv6 link in bytes (RFC 8200 §5): no tunnel may ask for less.
const LEAST_IPV6: usize = 1280;
/// The smallest MTU of IPv4 in bytes (RFC 791 §3.2).
const LEAST_IPV4: usize = 68;

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
        // What the offload says of the headers is the length of the first piece of memory that the kernel had it in,
        // which of a forwarded packet may be all of it (linux include/linux/virtio_net.h `virtio_net_hdr_from_skb`).
        Some(gso) => {
            let headers = match Transport::locate(&packet[link.len..]) {
                Some(found) => link.len + found.payload_at(),
                None => usize::from(gso.header_len),
            };
            headers + usize::from(gso.size)
        }
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
/// one (protocol type 0x6558): see [`Notice::message`].
pub fn too_big_message(protocol_type: u16, packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    Notice::TooBig { mtu }.message(protocol_type, packet)
}
