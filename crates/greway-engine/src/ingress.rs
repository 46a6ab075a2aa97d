//! From a datagram to the payload packet it carries.
//!
//! The order of the checks is the kernel's (linux net/ipv4/gre_demux.c, ip_gre.c and ip_tunnel.c,
//! v6.18), so that a packet that fails two of them is counted for the same one. Before them come the
//! guards that a packet socket needs because it sees packets earlier than the IP stack does: length and
//! checksum of the outer header. Reassembly is the socket's; a fragment is dropped.
//!
//! Over IPv6 there is no demultiplexer before the tunnels (net/ipv6/ip6_gre.c, `gre_rcv`): four bytes are enough, and
//! the reserved flags that it would refuse are ignored.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use greway_wire::checksum::{self, Checksum};
use greway_wire::extension::{self, Chain};
use greway_wire::gre::{self, GreError, GreHeader};
use greway_wire::ipv4::{self, Ipv4Error, Ipv4Header};
use greway_wire::ipv6::{self, Ipv6Header};
use greway_wire::transport::Transport;
use greway_wire::{ecn, ethertype};

use crate::counters::UnderlayCounters;
use crate::frame::Link;
use crate::nbma;
use crate::offload::{Gso, Offload, Partial};
use crate::reorder::{Order, Payload, Released};
use crate::sequence;
use crate::table::{TunnelIndex, TunnelTable};
use crate::tunnel::{Tunnel, TunnelState};
use crate::unfilled;
use crate::unmatched::Unmatched;
use crate::verdict::{DeclineReason, Delivery, DropReason, Verdict};

/// Fewer bytes of GRE than this are dropped with IPv4 outside (RX-01; `gre_rcv` pulls 12).
const MIN_GRE: usize = 12;

/// What a socket knows about a datagram it received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// A packet socket with virtio-net header: everything; offsets relative to the datagram.
    Facts {
        /// What is undone in the datagram.
        offload: Offload,
        /// Index of the interface it came in by.
        ifindex: u32,
    },
    /// A raw IP socket: nothing, but the IP stack has checked the outer header. Over IPv6, where such a socket gives
    /// none, the caller writes one.
    Raw {
        /// Index of the interface it came in by.
        ifindex: u32,
    },
}

/// Where the tunnels of a table live.
pub trait TunnelSlots {
    /// The tunnel and its state; `None` where it is gone.
    fn slot(&mut self, index: TunnelIndex) -> Option<(&Tunnel, &mut TunnelState)>;
}

/// By position.
impl TunnelSlots for [(Arc<Tunnel>, TunnelState)] {
    fn slot(&mut self, index: TunnelIndex) -> Option<(&Tunnel, &mut TunnelState)> {
        let (tunnel, state) = self.get_mut(index.0 as usize)?;
        Some((tunnel, state))
    }
}

/// By position.
impl TunnelSlots for Vec<(Arc<Tunnel>, TunnelState)> {
    fn slot(&mut self, index: TunnelIndex) -> Option<(&Tunnel, &mut TunnelState)> {
        self.as_mut_slice().slot(index)
    }
}

impl<S: BuildHasher> TunnelSlots for HashMap<TunnelIndex, (Arc<Tunnel>, TunnelState), S> {
    fn slot(&mut self, index: TunnelIndex) -> Option<(&Tunnel, &mut TunnelState)> {
        let (tunnel, state) = self.get_mut(&index)?;
        Some((tunnel, state))
    }
}

/// What a worker needs to receive: all of it is borrowed for one batch.
#[derive(Debug)]
pub struct Ingress<'a, T: ?Sized> {
    /// Who gets which packet.
    pub table: &'a TunnelTable,
    /// The tunnels that the table names.
    pub tunnels: &'a mut T,
    /// Counts what belongs to no tunnel.
    pub underlay: &'a UnderlayCounters,
    /// Remembers what matched no tunnel.
    pub unmatched: &'a mut Unmatched,
}

/// Decides about one datagram, its outer IP header first, and counts it. Link padding after the
/// datagram is ignored. ECN is combined into the payload packet in place; nothing else is written.
pub fn decapsulate<T: TunnelSlots + ?Sized>(
    ingress: &mut Ingress<'_, T>,
    datagram: &mut [u8],
    receipt: Receipt,
    now_ms: u64,
) -> Verdict {
    let refusal = match receive(ingress, datagram, receipt, now_ms) {
        Ok(verdict) => return verdict,
        Err(refusal) => refusal,
    };
    match refusal {
        Refusal::Decline(reason) => {
            ingress.underlay.record_decline(reason);
            if let DeclineReason::NoTunnel { source, destination, key, protocol_type } = reason {
                ingress.unmatched.record(source, destination, key, protocol_type, now_ms);
            }
            Verdict::Decline(reason)
        }
        Refusal::Drop(tunnel, reason) => {
            match tunnel.and_then(|index| ingress.tunnels.slot(index)) {
                Some((tunnel, _)) => tunnel.counters().record_drop(reason),
                None => ingress.underlay.record_drop(reason),
            }
            Verdict::Drop { tunnel, reason }
        }
    }
}

enum Refusal {
    Decline(DeclineReason),
    Drop(Option<TunnelIndex>, DropReason),
}

fn receive<T: TunnelSlots + ?Sized>(
    ingress: &mut Ingress<'_, T>,
    datagram: &mut [u8],
    receipt: Receipt,
    now_ms: u64,
) -> Result<Verdict, Refusal> {
    let arrival = Arrival::parse(ingress.table, datagram, receipt)?;
    let index = arrival.select(ingress.table)?;
    let gone = || Refusal::Decline(arrival.no_tunnel());
    let (tunnel, state) = ingress.tunnels.slot(index).ok_or_else(gone)?;
    let inner = arrival.inner.clone();
    let offload = arrival.offload_of_inner(datagram, receipt, tunnel);
    let order = accept(tunnel, state, &arrival, &mut datagram[inner.clone()], offload, now_ms)
        .map_err(|reason| Refusal::Drop(Some(index), reason))?;
    if order == Order::Held {
        return Ok(Verdict::Hold { tunnel: index });
    }
    tunnel.counters().record_received(inner.len(), now_ms);
    Ok(Verdict::Deliver(Delivery { tunnel: index, protocol_type: arrival.protocol_type, inner, offload }))
}

/// The next packet that a tunnel has held and that is to be delivered now, and counts it. To be called after each
/// [`Verdict::Hold`] and each [`Verdict::Deliver`] of a tunnel that puts packets in order, until there is none.
pub fn release(tunnel: &Tunnel, state: &mut TunnelState, now_ms: u64) -> Option<Released> {
    let released = state.reorder.pop()?;
    tunnel.counters().record_received(released.bytes.len(), now_ms);
    Some(released)
}

/// A datagram whose outer header and GRE header are read and right.
struct Arrival {
    source: IpAddr,
    destination: IpAddr,
    /// TOS or traffic class.
    tos: u8,
    ifindex: u32,
    header: GreHeader,
    /// EtherType of the payload packet, WCCP translated.
    protocol_type: u16,
    inner: Range<usize>,
}

impl Arrival {
    fn parse(table: &TunnelTable, datagram: &[u8], receipt: Receipt) -> Result<Self, Refusal> {
        let delivery = match datagram.first().map(|first| first >> 4) {
            Some(4) => Delivered::over_ipv4(table, datagram, receipt)?,
            Some(6) => Delivered::over_ipv6(table, datagram)?,
            Some(_) => return Err(Refusal::Decline(DeclineReason::NotIp)),
            None => return Err(Refusal::Drop(None, DropReason::OuterTruncated)),
        };
        let Delivered { source, destination, tos, gre: Range { start: gre_at, end: total } } = delivery;
        let (Receipt::Raw { ifindex } | Receipt::Facts { ifindex, .. }) = receipt;
        // From here on the source is what the packet says; its only tunnel gets the blame.
        let drop = |reason| Refusal::Drop(table.only_tunnel_of(source), reason);
        let gre = &datagram[gre_at..total];
        let (header, header_len) = match source {
            IpAddr::V4(_) if gre.len() < MIN_GRE => return Err(drop(DropReason::TooShort)),
            IpAddr::V4(_) => GreHeader::parse(gre),
            IpAddr::V6(_) => GreHeader::parse_over_ipv6(gre),
        }
        .map_err(|error| match error {
            GreError::VersionOne => Refusal::Decline(DeclineReason::Version1Pptp),
            GreError::TooShort { .. } => drop(DropReason::TooShort),
            GreError::UnknownVersion { .. } => drop(DropReason::UnknownVersion),
            GreError::ReservedFlags { .. } => drop(DropReason::ReservedFlags),
            GreError::RoutingPresent => drop(DropReason::RoutingPresent),
            GreError::Truncated { .. } => drop(DropReason::TruncatedHeader),
        })?;
        let (protocol_type, redirect) = translate_wccp(&header, gre, source.is_ipv6());
        let arrival = Self {
            source,
            destination,
            tos,
            ifindex,
            header,
            protocol_type,
            inner: gre_at + header_len + redirect..total,
        };
        if arrival.inner.start > total {
            return Err(drop(DropReason::TruncatedHeader));
        }
        if header.checksum.is_some() && !checksum_holds(&datagram[..total], gre_at, &arrival.inner, receipt) {
            let meant = arrival.lookup(table).or_else(|| table.only_tunnel_of(source));
            return Err(Refusal::Drop(meant, DropReason::BadChecksum));
        }
        Ok(arrival)
    }

    fn lookup(&self, table: &TunnelTable) -> Option<TunnelIndex> {
        table.lookup(self.protocol_type, self.source, self.destination, self.header.key, self.ifindex)
    }

    /// RX-10, RX-12: the tunnel, which is never one that carries ERSPAN.
    fn select(&self, table: &TunnelTable) -> Result<TunnelIndex, Refusal> {
        let found = match self.protocol_type {
            ethertype::ERSPAN | ethertype::ERSPAN2 => None,
            _ => self.lookup(table),
        };
        found.ok_or_else(|| match self.destination.is_multicast() {
            true => Refusal::Decline(DeclineReason::Multicast),
            false => Refusal::Decline(self.no_tunnel()),
        })
    }

    fn no_tunnel(&self) -> DeclineReason {
        DeclineReason::NoTunnel {
            source: self.source,
            destination: self.destination,
            key: self.header.key,
            protocol_type: self.header.protocol_type,
        }
    }

    /// What is undone in the payload packet, with offsets relative to it.
    fn offload_of_inner(&self, datagram: &[u8], receipt: Receipt, tunnel: &Tunnel) -> Offload {
        let inner = &datagram[self.inner.clone()];
        // A frame that is too short to be one is dropped later.
        let Some(link) = tunnel.link(self.protocol_type, inner) else { return Offload::NONE };
        match receipt {
            Receipt::Raw { .. } if matches!(link.ethertype, ethertype::IPV4 | ethertype::IPV6) => {
                unfilled::detect(&inner[link.len..], tunnel.segment_limit()).behind(link.len)
            }
            Receipt::Raw { .. } => Offload::NONE,
            Receipt::Facts { offload, .. } => self.rebased(offload, inner, link.len),
        }
    }

    fn rebased(&self, offload: Offload, inner: &[u8], link: usize) -> Offload {
        // An unfilled checksum before the payload packet was the GRE header's own.
        let partial = offload.partial.and_then(|Partial { start, offset }| {
            let start = usize::from(start).checked_sub(self.inner.start)?;
            let fits = start + usize::from(offset) + 2 <= inner.len();
            fits.then_some(Partial { start: start as u16, offset })
        });
        let Some(gso) = offload.gso.filter(|gso| gso.size > 0) else { return Offload { partial, gso: None } };
        let packet = &inner[link..];
        let header_len = match Transport::locate(packet) {
            Some(transport) => link + transport.payload_at(),
            None => usize::from(gso.header_len).saturating_sub(self.inner.start),
        };
        let of_the_bytes = || {
            let partial = unfilled::unfilled(packet).map(|(_, partial)| partial);
            Offload { partial, gso: None }.behind(link).partial
        };
        Offload {
            partial: partial.or_else(of_the_bytes),
            gso: Some(Gso { header_len: header_len as u16, ..gso }),
        }
    }
}

/// The delivery header, taken off.
struct Delivered {
    source: IpAddr,
    destination: IpAddr,
    /// TOS or traffic class.
    tos: u8,
    /// Where the GRE packet is.
    gre: Range<usize>,
}

impl Delivered {
    fn over_ipv4(table: &TunnelTable, datagram: &[u8], receipt: Receipt) -> Result<Self, Refusal> {
        let outer = Ipv4Header::parse(datagram).map_err(|error| match error {
            Ipv4Error::Version { .. } => Refusal::Decline(DeclineReason::NotIp),
            Ipv4Error::TooShort { .. } | Ipv4Error::HeaderLength { .. } => {
                Refusal::Drop(None, DropReason::OuterTruncated)
            }
        })?;
        if outer.protocol != gre::PROTOCOL {
            return Err(Refusal::Decline(DeclineReason::NotGre));
        }
        let start = outer.header_len();
        // Behind a raw socket the IP stack verified it, and may have written into an option since.
        if matches!(receipt, Receipt::Facts { .. }) && !checksum::verifies(&datagram[..start]) {
            return Err(Refusal::Drop(None, DropReason::OuterChecksum));
        }
        let drop = |reason| Refusal::Drop(table.only_tunnel_of(outer.source), reason);
        let end = usize::from(outer.total_length);
        if start > end || end > datagram.len() {
            return Err(drop(DropReason::OuterTruncated));
        }
        if outer.is_fragment() {
            return Err(drop(DropReason::OuterFragment));
        }
        Ok(Self {
            source: outer.source.into(),
            destination: outer.destination.into(),
            tos: outer.tos,
            gre: start..end,
        })
    }

    fn over_ipv6(table: &TunnelTable, datagram: &[u8]) -> Result<Self, Refusal> {
        let truncated = |_| Refusal::Drop(None, DropReason::OuterTruncated);
        let outer = Ipv6Header::parse(datagram).map_err(truncated)?;
        let drop = |reason| Refusal::Drop(table.only_tunnel_of(outer.source), reason);
        let end = ipv6::LEN + usize::from(outer.payload_length);
        let whole = datagram.get(..end);
        // What is cut off or in pieces is still somebody's.
        let start = match extension::follow(whole.unwrap_or(datagram)) {
            Chain::To { protocol: gre::PROTOCOL, at, plain: true } => at,
            Chain::To { .. } => return Err(Refusal::Decline(DeclineReason::NotGre)),
            Chain::Fragment(fragment) if fragment.next_header == gre::PROTOCOL => {
                return Err(drop(DropReason::OuterFragment));
            }
            Chain::Fragment(_) => return Err(Refusal::Decline(DeclineReason::NotGre)),
            Chain::Cut => return Err(drop(DropReason::OuterTruncated)),
        };
        if whole.is_none() || start > end {
            return Err(drop(DropReason::OuterTruncated));
        }
        Ok(Self {
            source: outer.source.into(),
            destination: outer.destination.into(),
            tos: outer.traffic_class,
            gre: start..end,
        })
    }
}

/// RX-07: with no flag set at all, WCCP is what the delivery header is, behind a redirect header of 4 bytes in
/// version 2. Returns the EtherType of the payload and the bytes to skip.
fn translate_wccp(header: &GreHeader, gre: &[u8], over_ipv6: bool) -> (u16, usize) {
    if gre[..2] != [0, 0] || header.protocol_type != ethertype::WCCP {
        return (header.protocol_type, 0);
    }
    let is_ipv4 = gre.get(gre::BASE_LEN).is_some_and(|first| first >> 4 == 4);
    let protocol_type = if over_ipv6 { ethertype::IPV6 } else { ethertype::IPV4 };
    (protocol_type, if is_ipv4 { 0 } else { 4 })
}

/// RX-05, as far as it can be told: a sender on the same host leaves the field to a device that never
/// comes, and of a merged packet the field is that of its first part, which was checked before merging.
fn checksum_holds(datagram: &[u8], gre_at: usize, inner: &Range<usize>, receipt: Receipt) -> bool {
    let gre = &datagram[gre_at..];
    match receipt {
        Receipt::Facts { offload: Offload { gso: Some(_), .. }, .. } => true,
        Receipt::Facts { offload: Offload { partial: Some(partial), .. }, .. } => {
            let start = usize::from(partial.start);
            let own = start == gre_at && usize::from(partial.offset) == gre::CHECKSUM_OFFSET;
            own || holds_once_filled(datagram, gre_at, start, start + usize::from(partial.offset))
        }
        Receipt::Facts { .. } => checksum::verifies(gre),
        Receipt::Raw { .. } => {
            let unfilled_itself = gre[gre::CHECKSUM_OFFSET..gre::CHECKSUM_OFFSET + 2] == [0, 0];
            unfilled_itself
                || checksum::verifies(gre)
                || unfilled::unfilled(network(gre, &datagram[inner.clone()])).is_some()
        }
    }
}

/// The network packet in what a GRE packet carries; nothing where that is no frame though it should be one.
fn network<'a>(gre: &[u8], inner: &'a [u8]) -> &'a [u8] {
    if gre[2..4] != ethertype::TEB.to_be_bytes() {
        return inner;
    }
    Link::of_frame(inner).map_or(&[], |link| &inner[link.len..])
}

/// Verifies over a payload whose own checksum at `field`, covering from `start`, is still to be filled
/// in: what it covers will then sum up to the complement of what stands in the field now (linux
/// include/linux/skbuff.h, `lco_csum`).
fn holds_once_filled(datagram: &[u8], gre_at: usize, start: usize, field: usize) -> bool {
    let (Some(before), Some(pending)) = (datagram.get(gre_at..start), datagram.get(field..field + 2)) else {
        return checksum::verifies(&datagram[gre_at..]);
    };
    let mut sum = Checksum::new();
    sum.add(before);
    sum.add_u16(!u16::from_be_bytes([pending[0], pending[1]]));
    sum.verifies()
}

/// The checks of a tunnel, RX-21 to RX-24, in this order; that there is an Ethernet header comes before them all
/// (linux net/ipv4/ip_tunnel_core.c v6.18, `__iptunnel_pull_header`).
fn accept(
    tunnel: &Tunnel,
    state: &mut TunnelState,
    arrival: &Arrival,
    inner: &mut [u8],
    offload: Offload,
    now_ms: u64,
) -> Result<Order, DropReason> {
    let link = tunnel.link(arrival.protocol_type, inner).ok_or(DropReason::FrameTruncated)?;
    match (tunnel.icsum, arrival.header.checksum) {
        (true, None) => return Err(DropReason::ChecksumMissing),
        (false, Some(_)) => return Err(DropReason::ChecksumUnexpected),
        _ => {}
    }
    let number = arrival.header.sequence_number;
    match number {
        Some(number) if tunnel.puts_in_order() => {
            // What is held goes out as it is now. A packet that is dropped for what is in it came all the same.
            let admitted = admit(tunnel, link, arrival.tos, inner);
            let bytes = &*inner;
            let payload =
                admitted.is_ok().then_some(Payload { protocol_type: arrival.protocol_type, offload, bytes });
            let order = state.reorder.arrive(number, payload, now_ms, tunnel.counters().sequence())?;
            admitted.map(|()| order)
        }
        // RFC 2890 §2.2: a packet without a number is in sequence.
        None if tunnel.puts_in_order() => admit(tunnel, link, arrival.tos, inner).map(|()| Order::Next),
        _ => {
            if tunnel.iseq {
                sequence::accept(&mut state.expected_sequence, number)?;
            }
            admit(tunnel, link, arrival.tos, inner).map(|()| Order::Next)
        }
    }
}

/// RX-23 and RX-24: what is in a packet whose outside is right. ECN is combined into it.
fn admit(tunnel: &Tunnel, link: Link, tos: u8, inner: &mut [u8]) -> Result<(), DropReason> {
    let inner = &mut inner[link.len..];
    if tunnel.chooses_endpoint() && nbma::is_neighbour_talk(link.ethertype, inner) {
        return Err(DropReason::NeighbourTalk);
    }
    if tunnel.inherits_dscp() {
        copy_dscp(link.ethertype, tos, inner);
    }
    match link.ethertype {
        ethertype::IPV4 if inner.len() < ipv4::MIN_LEN => Err(DropReason::InnerTruncated),
        ethertype::IPV6 if inner.len() < ipv6::LEN => Err(DropReason::InnerTruncated),
        ethertype::IPV4 => match ecn::decapsulate(tos, inner[1]) {
            ecn::Decapsulation::Corrupted => Err(DropReason::EcnCorrupted),
            ecn::Decapsulation::Rewrite(own) => {
                ipv4::set_tos(inner, own);
                Ok(())
            }
            ecn::Decapsulation::Keep | ecn::Decapsulation::Suspicious => Ok(()),
        },
        ethertype::IPV6 => {
            let class = ipv6::traffic_class(inner).unwrap_or(0);
            match ecn::decapsulate(tos, class) {
                ecn::Decapsulation::Corrupted => Err(DropReason::EcnCorrupted),
                ecn::Decapsulation::Rewrite(class) => {
                    ipv6::set_traffic_class(inner, class);
                    Ok(())
                }
                ecn::Decapsulation::Keep | ecn::Decapsulation::Suspicious => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// `dscp inherit`: the delivery header's DSCP becomes the payload packet's (linux net/ipv6/ip6_tunnel.c v6.18,
/// `ip6ip6_dscp_ecn_decapsulate`).
fn copy_dscp(ethertype: u16, outer: u8, inner: &mut [u8]) {
    let with = |own: u8| (outer & !ecn::MASK) | (own & ecn::MASK);
    match ethertype {
        ethertype::IPV4 if inner.len() >= ipv4::MIN_LEN => ipv4::set_tos(inner, with(inner[1])),
        ethertype::IPV6 => {
            let own = ipv6::traffic_class(inner).unwrap_or(0);
            ipv6::set_traffic_class(inner, with(own));
        }
        _ => {}
    }
}
