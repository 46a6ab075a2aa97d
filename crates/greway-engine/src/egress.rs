//! From a payload packet to the datagrams that carry it.
//!
//! Everything the delivery header inherits is decided here, in the kernel's order (linux
//! net/ipv4/ip_tunnel.c v6.18, `ip_tunnel_xmit`; net/ipv6/ip6_gre.c and ip6_tunnel.c, `ip6_tnl_xmit`). Not decided here: the path MTU and the route, which
//! take the kernel's answers to a send.

use std::net::IpAddr;

use greway_spec::FlowLabel;
use greway_wire::checksum::{self, Checksum};
use greway_wire::extension::{self, Chain};
use greway_wire::ipv4::{self, Ipv4Header};
use greway_wire::{crc32c, ecn, encap_limit, ethertype, gre, ipv6};

use crate::frame::Link;
use crate::offload::{Gso, Offload, Partial};
use crate::segment::{Split, never_zero};
use crate::train::{Outer, Train, Whole};
use crate::tunnel::{Tunnel, TunnelState};
use crate::verdict::DropReason;

/// TTL of the delivery header for payloads that have none and `ttl inherit`.
const DEFAULT_TTL: u8 = 64;
/// Bytes of the largest datagram; over IPv6 without its fixed header.
const MAX_DATAGRAM: usize = 65_535;

/// Encapsulates `packet` into `train`, which is emptied first. It has no link header, unless the tunnel carries
/// Ethernet: then it is the whole frame.
///
/// `endpoint`: where to, for a tunnel without a remote; a tunnel that has one does not look at it.
///
/// Drops are counted here; packets are counted by the caller once they are sent
/// ([`crate::TunnelCounters::record_sent`], TX-09). Sequence numbers are spent in any case.
///
/// # Errors
/// Why the packet cannot be sent; the train is empty then.
pub fn encapsulate(
    tunnel: &Tunnel,
    state: &mut TunnelState,
    protocol_type: u16,
    packet: &[u8],
    offload: Offload,
    endpoint: Option<IpAddr>,
    train: &mut Train,
) -> Result<(), DropReason> {
    let link = tunnel.link(protocol_type, packet).ok_or(DropReason::NoPayload);
    let filled = link.and_then(|link| {
        let outer = outer_for(tunnel, link, packet, endpoint)?;
        train.begin(outer);
        let overhead = tunnel.gre_len() + outer.header_len();
        Departure { tunnel, state, protocol_type, packet, link: link.len, overhead, train }.fill(offload)
    });
    if let Err(reason) = filled {
        train.clear();
        tunnel.counters().record_drop(reason);
    }
    filled
}

/// The delivery header for a packet: RX-23's sanity the other way round, TX-03, TX-05, TX-07.
fn outer_for(
    tunnel: &Tunnel,
    link: Link,
    payload: &[u8],
    endpoint: Option<IpAddr>,
) -> Result<Outer, DropReason> {
    let packet = &payload[link.len..];
    let inherited = Inherited::from(link, packet)?;
    let destination = tunnel.remote.or(endpoint).ok_or(DropReason::NoEndpoint)?;
    if encloses_own_packet(tunnel, destination, link.ethertype, packet) {
        return Err(DropReason::Recursion);
    }
    let tos = match inherited.tos {
        Some(tos) if tunnel.tos.inherit => tos,
        _ => tunnel.tos.value,
    };
    let ttl = match tunnel.ttl {
        0 => inherited.ttl.unwrap_or(DEFAULT_TTL),
        fixed => fixed,
    };
    if ttl == 0 {
        return Err(DropReason::TtlExhausted);
    }
    let outer = Outer {
        source: tunnel.local,
        destination,
        ttl,
        tos: ecn::encapsulate(tos, inherited.tos.unwrap_or(0)),
        dont_fragment: tunnel.sets_df(inherited.dont_fragment),
        flow_label: 0,
        encap_limit: None,
    };
    match destination {
        IpAddr::V4(_) => Ok(outer),
        // The traffic class goes as it is: no ECN unless all of it is inherited.
        IpAddr::V6(_) => over_ipv6(tunnel, link.ethertype, packet, Outer { tos, ..outer }),
    }
}

/// What only a delivery header of IPv6 has: T6-02, T6-03, T6-05.
fn over_ipv6(tunnel: &Tunnel, ethertype: u16, packet: &[u8], outer: Outer) -> Result<Outer, DropReason> {
    let inner_ipv6 = ethertype == ethertype::IPV6;
    if inner_ipv6
        && ipv6::addresses(packet).is_some_and(|(source, _)| IpAddr::V6(source) == outer.destination)
    {
        return Err(DropReason::InnerSourceIsRemote);
    }
    let encap_limit = match encap_limit::find(packet).filter(|_| inner_ipv6) {
        Some(found) => Some(found.limit.checked_sub(1).ok_or(DropReason::EncapsulationLimit)?),
        None => tunnel.encaplimit,
    };
    let flow_label = match tunnel.flow_label {
        FlowLabel::Fixed(label) => label,
        FlowLabel::Inherit if inner_ipv6 => ipv6::flow_label(packet).unwrap_or(0),
        FlowLabel::Inherit => 0,
    };
    Ok(Outer { flow_label, encap_limit, ..outer })
}

/// What a delivery header may take over from the payload packet.
struct Inherited {
    tos: Option<u8>,
    ttl: Option<u8>,
    dont_fragment: bool,
}

impl Inherited {
    /// Goes by the EtherType alone, as the kernel does: a wrong version field changes nothing.
    fn from(link: Link, packet: &[u8]) -> Result<Self, DropReason> {
        let fixed = match link.ethertype {
            ethertype::IPV4 => ipv4::MIN_LEN,
            ethertype::IPV6 => ipv6::LEN,
            // A frame may be its header alone.
            _ if link.len > 0 => 0,
            _ => 1,
        };
        if packet.len() < fixed {
            return Err(DropReason::NoPayload);
        }
        Ok(match link.ethertype {
            ethertype::IPV4 => {
                Self { tos: Some(packet[1]), ttl: Some(packet[8]), dont_fragment: packet[6] & 0x40 != 0 }
            }
            ethertype::IPV6 => {
                Self { tos: ipv6::traffic_class(packet), ttl: Some(packet[7]), dont_fragment: false }
            }
            _ => Self { tos: None, ttl: None, dont_fragment: false },
        })
    }
}

/// How many tunnels a packet may be in already, and be looked for our own delivery header (linux
/// net/ipv4/ip_tunnel.c v6.18 and its successors: a packet that is encapsulated more often than this is dropped).
const MOST_NESTED: usize = 5;

/// Whether the packet left this tunnel already: the route to the remote leads into the tunnel, or into another one
/// that leads back here. With a `local` the addresses tell; without one the key must agree too, since another host's
/// packets may pass.
fn encloses_own_packet(tunnel: &Tunnel, remote: IpAddr, ethertype: u16, packet: &[u8]) -> bool {
    let (mut ethertype, mut packet) = (ethertype, packet);
    for _ in 0..MOST_NESTED {
        let Some((source, destination, gre_at)) = gre_in(ethertype, packet) else { return false };
        let gre = gre::GreHeader::parse(&packet[gre_at..]).ok();
        let ours = match tunnel.local {
            Some(local) => source == local,
            None => gre.as_ref().is_some_and(|(header, _)| header.key == tunnel.okey),
        };
        if ours && destination == remote {
            return true;
        }
        let Some((header, length)) = gre else { return false };
        packet = &packet[gre_at + length..];
        ethertype = header.protocol_type;
        if ethertype == ethertype::TEB {
            let Some(link) = Link::of_frame(packet) else { return false };
            (ethertype, packet) = (link.ethertype, &packet[link.len..]);
        }
    }
    false
}

/// Addresses of a packet that is GRE itself, and where its GRE header is.
fn gre_in(protocol_type: u16, packet: &[u8]) -> Option<(IpAddr, IpAddr, usize)> {
    match protocol_type {
        ethertype::IPV4 if packet.get(9) == Some(&gre::PROTOCOL) => {
            let header = Ipv4Header::parse(packet).ok()?;
            let gre_at = header.header_len();
            (gre_at <= packet.len()).then_some((header.source.into(), header.destination.into(), gre_at))
        }
        // Most packets are told by one byte.
        ethertype::IPV6
            if matches!(packet.get(6), Some(&(gre::PROTOCOL | extension::DESTINATION_OPTIONS))) =>
        {
            let (source, destination) = ipv6::addresses(packet)?;
            match extension::follow(packet) {
                Chain::To { protocol: gre::PROTOCOL, at, .. } if at <= packet.len() => {
                    Some((source.into(), destination.into(), at))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether an unfilled checksum is SCTP's: no other protocol has its checksum at this offset.
fn is_sctp(packet: &[u8], partial: Partial) -> bool {
    usize::from(partial.offset) == crc32c::FIELD_OFFSET
        && match packet.first().map(|first| first >> 4) {
            Some(4) => packet.get(9) == Some(&crc32c::SCTP),
            Some(6) => true,
            _ => false,
        }
}

/// A packet being encapsulated.
struct Departure<'a> {
    tunnel: &'a Tunnel,
    state: &'a mut TunnelState,
    protocol_type: u16,
    packet: &'a [u8],
    /// Bytes of link header at its begin.
    link: usize,
    /// Bytes of all headers before it.
    overhead: usize,
    train: &'a mut Train,
}

impl Departure<'_> {
    fn fill(mut self, offload: Offload) -> Result<(), DropReason> {
        match offload {
            Offload { gso: Some(gso), partial } => {
                let split = Split::of(&self.packet[self.link..], gso, partial.is_none())?;
                let together = match partial {
                    Some(_) if self.train.keeps_whole() && !self.tunnel.oseq => self.together(&split),
                    _ => 0,
                };
                match together {
                    0 => self.many(&split, 0),
                    _ => {
                        self.whole(&split, gso, together)?;
                        self.many(&split, together)
                    }
                }
            }
            Offload { partial: Some(partial), .. } => self.completed(partial),
            Offload::NONE => self.plain(),
        }
    }

    /// The packet as it is.
    fn plain(&mut self) -> Result<(), DropReason> {
        let packet = self.packet;
        let mut segment = self.segment(0, 0..packet.len())?;
        segment.finish(|| checksum::sum(packet));
        Ok(())
    }

    /// The packet with its transport checksum completed: what comes before the field and the field move
    /// to the header, the rest is summed once for both checksums.
    fn completed(&mut self, partial: Partial) -> Result<(), DropReason> {
        let packet = self.packet;
        let start = usize::from(partial.start);
        let field = start + usize::from(partial.offset);
        let after = field + 2;
        if after > packet.len() {
            return Err(DropReason::UnsplittableOffload);
        }
        if is_sctp(&packet[self.link..], partial) {
            return self.completed_sctp(start);
        }
        let tail = checksum::sum(&packet[after..]);
        let mut sum = Checksum::new();
        sum.add(&packet[start..after]);
        sum.add_piece(tail, packet.len() - after);
        let mut segment = self.segment(after, after..packet.len())?;
        let inner = segment.inner();
        inner.copy_from_slice(&packet[..after]);
        inner[field..].copy_from_slice(&never_zero(sum).to_be_bytes());
        segment.finish(|| tail);
        Ok(())
    }

    /// The same for SCTP, whose checksum is a CRC of four bytes that nothing marks as such.
    fn completed_sctp(&mut self, start: usize) -> Result<(), DropReason> {
        let packet = self.packet;
        let field = start + crc32c::FIELD_OFFSET;
        let after = field + crc32c::FIELD_LEN;
        let value = crc32c::sctp_checksum(&packet[start..]).ok_or(DropReason::UnsplittableOffload)?;
        let mut segment = self.segment(after, after..packet.len())?;
        let inner = segment.inner();
        inner.copy_from_slice(&packet[..after]);
        inner[field..].copy_from_slice(&value);
        segment.finish(|| checksum::sum(&packet[after..]));
        Ok(())
    }

    /// How many of the segments can go as one; 0: that is nothing gained.
    fn together(&self, split: &Split) -> usize {
        let together = if self.tunnel.ocsum { split.full() } else { split.count() };
        let bytes = self.overhead + self.link + split.header_len() + split.payload_of(together).len();
        if together > 1 && bytes <= MAX_DATAGRAM { together } else { 0 }
    }

    /// The first so many segments of a super-packet as one.
    fn whole(&mut self, split: &Split, gso: Gso, together: usize) -> Result<(), DropReason> {
        let (packet, link) = (self.packet, self.link);
        let header_len = link + split.header_len();
        let behind = |payload: std::ops::Range<usize>| link + payload.start..link + payload.end;
        let first = behind(split.payload(0));
        let all = behind(split.payload_of(together));
        let gre_len = self.tunnel.gre_len();
        let mut segment = self.segment(header_len, first.clone())?;
        // The checksum is that of the first.
        let first_sum = if segment.checksum { checksum::sum(&packet[first.clone()]) } else { 0 };
        segment.inner().copy_from_slice(&packet[..header_len]);
        if segment.checksum {
            split.rewrite(&mut segment.inner()[link..], 0, first_sum);
            segment.finish(|| first_sum);
            segment.inner().copy_from_slice(&packet[..header_len]);
        }
        let partial = split.rewrite_whole(&mut segment.inner()[link..], together);
        // A datagram has no more than 64 KiB.
        let gso = Gso { header_len: split.header_len() as u16, ..gso };
        let offload = Offload { partial: Some(partial), gso: Some(gso) }.behind(gre_len + link);
        let whole =
            Whole { offload, network: (gre_len + link) as u16, longest: gre_len + header_len + first.len() };
        self.train.is_whole(whole, all);
        Ok(())
    }

    /// A super-packet as the packets it stands for, from one of them on.
    fn many(&mut self, split: &Split, from: usize) -> Result<(), DropReason> {
        let (packet, link) = (self.packet, self.link);
        let header_len = link + split.header_len();
        for number in from..split.count() {
            let payload = split.payload(number);
            let payload = link + payload.start..link + payload.end;
            let payload_sum = checksum::sum(&packet[payload.clone()]);
            let mut segment = self.segment(header_len, payload)?;
            let inner = segment.inner();
            inner.copy_from_slice(&packet[..header_len]);
            split.rewrite(&mut inner[link..], number, payload_sum);
            segment.finish(|| payload_sum);
        }
        Ok(())
    }

    /// Opens a segment: its GRE header is there, `rewritten` bytes after it are the caller's.
    fn segment(
        &mut self,
        rewritten: usize,
        payload: std::ops::Range<usize>,
    ) -> Result<OpenSegment<'_>, DropReason> {
        let payload_len = payload.len();
        if self.overhead + rewritten + payload_len > MAX_DATAGRAM {
            return Err(DropReason::TooBigForPath);
        }
        let sequence = if self.tunnel.oseq { self.state.take_sequence() } else { 0 };
        let (gre, gre_len) = self.tunnel.gre_header(self.protocol_type, sequence);
        let header = self.train.push(gre_len + rewritten, payload);
        header[..gre_len].copy_from_slice(&gre[..gre_len]);
        Ok(OpenSegment { header, gre_len, payload_len, checksum: self.tunnel.ocsum })
    }
}

/// A segment whose checksum is still to be written.
struct OpenSegment<'a> {
    header: &'a mut [u8],
    gre_len: usize,
    payload_len: usize,
    checksum: bool,
}

impl OpenSegment<'_> {
    /// The bytes of the payload packet that are rewritten.
    fn inner(&mut self) -> &mut [u8] {
        &mut self.header[self.gre_len..]
    }

    /// Writes the GRE checksum where the tunnel sends one (RFC 2784 §2.3: over GRE header and payload).
    fn finish(&mut self, payload_sum: impl FnOnce() -> u16) {
        if self.checksum {
            let mut sum = Checksum::new();
            sum.add(self.header);
            sum.add_piece(payload_sum(), self.payload_len);
            let at = gre::CHECKSUM_OFFSET;
            self.header[at..at + 2].copy_from_slice(&sum.value().to_be_bytes());
        }
    }
}
