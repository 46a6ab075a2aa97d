//! ICMP errors about delivery packets: whose tunnel they concern, and what follows (ER-01 to ER-06; linux
//! net/ipv4/ip_gre.c `gre_err`, net/ipv6/ip6_gre.c `ip6gre_err`, v6.18).
//!
//! ```text
//!  IP header │ ICMP type, code, word │ IP header of our packet │ GRE header │ payload packet, mostly cut off
//!                                      quoted from here on ──►
//! ```
//!
//! Anybody can make such a message up who knows the tunnel's ends. So none stops a packet: an error makes the next
//! senders hear of it ([`LinkErrors`]), is passed on, or lets the path MTU be asked for again, which the kernel
//! keeps. All are remembered for whoever asks ([`crate::heard`]), also those that the kernel ignores.

use std::net::{IpAddr, Ipv6Addr};

use greway_spec::TunnelSpec;
use greway_wire::extension::{self, Chain};
use greway_wire::gre::{self, GreHeader};
use greway_wire::icmp::{self, Quote, QuoteV6};
use greway_wire::ipv4::Ipv4Header;
use greway_wire::{ethertype, ipv6};

use crate::heard::Complaint;
use crate::notice;
use crate::table::{Endpoint, TunnelIndex, TunnelTable};
use crate::tunnel::Tunnel;

/// How long errors count, in milliseconds from the last one (linux include/net/ip_tunnels.h, `IPTUNNEL_ERR_TIMEO`).
pub const WINDOW_MS: u64 = 30_000;
/// Bytes of a quoted packet behind its IP header without which the kernel looks no further (net/ipv4/icmp.c,
/// `icmp_socket_deliver`; net/ipv6/icmp.c, `icmpv6_notify`).
const LEAST_QUOTED: usize = 8;
/// Bytes of an inner IPv6 packet, beside its header, without which nothing is passed on (net/ipv6/icmp.c,
/// `ip6_err_gen_icmpv6_unreach`).
const LEAST_INNER: usize = 8;
/// The shortest quote that may have extensions behind it, in bytes (RFC 4884 §4).
const LEAST_EXTENDED: usize = 128;

/// Errors that the next senders are still to be told of (ER-03, ER-04).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkErrors {
    count: u32,
    last_ms: u64,
}

impl LinkErrors {
    /// One more was received.
    pub fn record(&mut self, now_ms: u64) {
        let goes_on = now_ms < self.last_ms.saturating_add(WINDOW_MS);
        self.count = if goes_on { self.count.saturating_add(1) } else { 1 };
        self.last_ms = now_ms;
    }

    /// A packet is sent: true when its sender is to be told that the far end cannot be reached. The packet is
    /// sent all the same.
    pub fn take(&mut self, now_ms: u64) -> bool {
        if self.count == 0 {
            return false;
        }
        if now_ms >= self.last_ms.saturating_add(WINDOW_MS) {
            self.count = 0;
            return false;
        }
        self.count -= 1;
        true
    }

    /// How many are left to be told of at most.
    pub fn pending(&self) -> u32 {
        self.count
    }
}

/// An ICMP error about a delivery packet, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorMessage<'a> {
    /// Who sent the error.
    pub from: IpAddr,
    /// What it says.
    pub complaint: Complaint,
    /// Source of the delivery packet: this end.
    pub local: IpAddr,
    /// Its destination.
    pub remote: IpAddr,
    /// Whether it says that it may not be fragmented; over IPv6 none may.
    pub dont_fragment: bool,
    /// Its GRE header; the checksum is not verified, since the payload is not all there.
    pub header: GreHeader,
    /// The delivery packet as far as it was quoted, and padding and extensions behind it, where there are any.
    quoted: &'a [u8],
    /// Where the payload packet begins in it.
    payload_at: usize,
    /// Bytes of `quoted` before the extensions, where the message says so (RFC 4884).
    quoted_length: usize,
}

impl<'a> ErrorMessage<'a> {
    /// Reads an ICMP packet from its IPv4 header on, as a raw socket gives it. `None`: it is no error about GRE,
    /// damaged, or does not quote enough.
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let header = Ipv4Header::parse(packet).ok()?;
        if header.protocol != icmp::PROTOCOL || header.is_fragment() {
            return None;
        }
        let message = packet.get(header.header_len()..usize::from(header.total_length))?;
        let quote = Quote::parse(message)?;
        let quoted = quote.packet;
        let outer = Ipv4Header::parse(quoted).ok()?;
        if outer.protocol != gre::PROTOCOL || outer.fragment_offset != 0 {
            return None;
        }
        let gre = quoted.get(outer.header_len()..).filter(|gre| gre.len() >= LEAST_QUOTED)?;
        let (gre, length) = GreHeader::parse(gre).ok()?;
        Some(Self {
            from: header.source.into(),
            complaint: Complaint::ipv4(quote.kind, quote.code),
            local: outer.source.into(),
            remote: outer.destination.into(),
            dont_fragment: outer.dont_fragment,
            header: gre,
            quoted,
            payload_at: outer.header_len() + length,
            quoted_length: icmp::quoted_length(message),
        })
    }

    /// Reads an ICMPv6 message, which came from `from`; its checksum was verified by the kernel. `None` as in
    /// [`ErrorMessage::parse`].
    pub fn parse_v6(from: Ipv6Addr, message: &'a [u8]) -> Option<Self> {
        let quote = QuoteV6::parse(message)?;
        let quoted = quote.packet;
        let (local, remote) = ipv6::addresses(quoted)?;
        let Chain::To { protocol: gre::PROTOCOL, at, .. } = extension::follow(quoted) else { return None };
        let gre = quoted.get(at..).filter(|gre| gre.len() >= LEAST_QUOTED)?;
        let (gre, length) = GreHeader::parse_over_ipv6(gre).ok()?;
        Some(Self {
            from: from.into(),
            complaint: Complaint::ipv6(quote.kind, quote.code),
            local: local.into(),
            remote: remote.into(),
            dont_fragment: true,
            header: gre,
            quoted,
            payload_at: at + length,
            quoted_length: 0,
        })
    }
}

/// What follows from an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// Nothing: the kernel ignores it, too.
    None,
    /// The path to the remote takes less than was thought: ask the kernel, which was told the same (ER-02).
    PathMtu,
    /// The next sender is to be told: [`LinkErrors::record`].
    Count,
    /// This ICMPv6 packet goes into the tunnel device, to the sender of the payload packet (ER-05).
    Relay {
        /// The packet, from its IPv6 header on.
        packet: Vec<u8>,
    },
}

/// What tells the packets that a tunnel *sends*: their ends, and the key they carry. Where a tunnel has two
/// keys the kernel compares with the one that it receives, and finds another tunnel or none.
pub fn outgoing(spec: &TunnelSpec) -> Endpoint {
    Endpoint { ikey: spec.okey, ..Endpoint::of(spec) }
}

/// The tunnel that an error concerns. The table is one of what tunnels send ([`outgoing`]); the error came in by
/// interface `ingress` (ER-01).
pub fn concerned(sent: &TunnelTable, error: &ErrorMessage<'_>, ingress: u32) -> Option<TunnelIndex> {
    let ErrorMessage { local, remote, header, .. } = error;
    match header.protocol_type {
        // No tunnel here sends them.
        ethertype::ERSPAN | ethertype::ERSPAN2 => None,
        protocol_type => sent.lookup(protocol_type, *remote, *local, header.key, ingress),
    }
}

/// Whether the packet that an error is about can be one that `tunnel` sent. A trace with GRE packets of few hops, such
/// as `greway check` makes, brings errors that say nothing about the tunnel: it sends them without DF.
pub fn is_about(tunnel: &Tunnel, error: &ErrorMessage<'_>) -> bool {
    let expired = !error.complaint.over_ipv6 && error.complaint.kind == icmp::TIME_EXCEEDED;
    !expired || error.dont_fragment || !tunnel.sets_df(false)
}

/// What follows from an error about a packet of `tunnel`.
pub fn judge(tunnel: &Tunnel, error: &ErrorMessage<'_>) -> Consequence {
    let Complaint { over_ipv6, kind, code } = error.complaint;
    match (over_ipv6, kind, code) {
        (false, icmp::DESTINATION_UNREACHABLE, icmp::FRAGMENTATION_NEEDED)
        | (true, icmp::V6_PACKET_TOO_BIG, _) => Consequence::PathMtu,
        (true, icmp::V6_DESTINATION_UNREACHABLE, code) if code != icmp::V6_PORT_UNREACHABLE => {
            Consequence::Count
        }
        (true, icmp::V6_TIME_EXCEEDED, 0) => Consequence::Count,
        (false, icmp::DESTINATION_UNREACHABLE, icmp::SOURCE_ROUTE_FAILED | icmp::PORT_UNREACHABLE) => {
            Consequence::None
        }
        // Codes that the kernel does not know are no errors to it (net/ipv4/icmp.c, `icmp_unreach`).
        (false, icmp::DESTINATION_UNREACHABLE, 0..=15) | (false, icmp::TIME_EXCEEDED, 0) => {
            judge_ipv4(tunnel, error)
        }
        _ => Consequence::None,
    }
}

fn judge_ipv4(tunnel: &Tunnel, error: &ErrorMessage<'_>) -> Consequence {
    let expired = error.complaint.kind == icmp::TIME_EXCEEDED;
    if error.header.protocol_type == ethertype::IPV6
        && error.quoted.len() >= error.payload_at + ipv6::LEN + LEAST_INNER
    {
        // Once there is enough to pass it on, it is not counted, even where nobody may be told.
        return relay(error, expired).map_or(Consequence::None, |packet| Consequence::Relay { packet });
    }
    // Packets to many, or to whom they say: an error about one says nothing about the next (ER-06).
    let Some(remote) = tunnel.remote() else { return Consequence::None };
    if remote.is_multicast() || (expired && tunnel.ttl == 0) {
        return Consequence::None;
    }
    Consequence::Count
}

/// The ICMPv6 error for the sender of the payload packet. Extensions behind the quote stay, with padding between so
/// that they are found where they are said to be (RFC 4884 §5.1; `ip6_err_gen_icmpv6_unreach`, which reads the
/// length in messages of time exceeded only).
fn relay(error: &ErrorMessage<'_>, expired: bool) -> Option<Vec<u8>> {
    let ErrorMessage { quoted, payload_at, quoted_length, .. } = *error;
    let (kind, code) = match expired {
        true => (icmp::V6_TIME_EXCEEDED, 0),
        false => (icmp::V6_DESTINATION_UNREACHABLE, icmp::V6_ADDRESS_UNREACHABLE),
    };
    let inner = &quoted[payload_at..];
    let extended = expired
        && quoted_length >= LEAST_EXTENDED
        && quoted_length.is_multiple_of(8)
        && quoted_length <= quoted.len();
    if !extended {
        return notice::message_v6(kind, code, 0, inner, inner);
    }
    let mut padded = quoted[payload_at..quoted_length].to_vec();
    padded.resize(quoted_length, 0);
    padded.extend_from_slice(&quoted[quoted_length..]);
    // In 8 bytes, in the first byte of the word.
    let word = (quoted_length as u32 / 8) << 24;
    notice::message_v6(kind, code, word, inner, &padded)
}
