//! What a socket of the underlay received, as the datagram that the engine judges.
//!
//! A packet socket comes before the IP stack: what the stack would not have taken is left out here, and IPv6
//! fragments are put together. A raw socket comes behind it; over IPv6 it gives no header, and one is written
//! of what the kernel told beside the packet.

use std::net::IpAddr;

use greway_engine::reassembly::{Outcome, Reassembly};
use greway_engine::{DropReason, Offload, Receipt, TunnelIndex, TunnelTable, UnderlayCounters};
use greway_linux::batch::{Meta, Packet, PacketKind, Source};
use greway_wire::extension::{self, Chain};
use greway_wire::gre::GreHeader;
use greway_wire::ipv4::{self, Ipv4Header};
use greway_wire::ipv6::{self, Ipv6Header};

use crate::local::LocalAddresses;
use crate::offload;
use crate::overlay::ETHERNET;
use crate::port::Port;
use crate::reverse_path::ReversePaths;
use crate::underlay::{GRE, Inlet, Receive};

/// Datagrams in fragments that are waited for at once, and their bytes: as the kernel (`ip6frag_high_thresh`).
const FRAGMENTED: usize = 1024;
const FRAGMENTED_BYTES: usize = 4 << 20;

/// Fragments that others are missing of.
#[derive(Debug)]
pub(crate) struct Fragmented(Reassembly);

impl Default for Fragmented {
    fn default() -> Self {
        Self(Reassembly::bounded(FRAGMENTED, FRAGMENTED_BYTES))
    }
}

/// What tells our packets from others' before any tunnel is looked for.
pub(crate) struct Gate<'a> {
    pub(crate) inlet: Inlet,
    pub(crate) local_addresses: &'a LocalAddresses,
    pub(crate) reverse_paths: &'a ReversePaths,
    pub(crate) underlay: &'a UnderlayCounters,
    pub(crate) now_ms: u64,
}

impl Gate<'_> {
    /// The datagram in what was received and what is known of it; `None` for what is not for this
    /// host, not whole or not to be judged here.
    pub(crate) fn admit<'a>(
        &self,
        packet: Packet<'a>,
        fragmented: &mut Fragmented,
    ) -> Option<(&'a mut [u8], Receipt)> {
        if packet.meta.truncated {
            return self.refuse(DropReason::OuterTruncated);
        }
        match (self.inlet.way, self.inlet.over_ipv6) {
            (Receive::Packet, _) => self.before_the_stack(packet, fragmented),
            (Receive::Raw, true) => self.with_header(packet).and_then(|arrived| self.not_looped(arrived)),
            (Receive::Raw, false) => {
                // The IP stack found it to be ours, whole and allowed.
                let ifindex = packet.meta.packet_info.map_or(0, |info| info.ifindex);
                self.not_looped((packet.into_data(), Receipt::Raw { ifindex }))
            }
        }
    }

    /// RX-09: what this host itself sent to a group comes back to its members here.
    fn not_looped<'a>(&self, arrived: (&'a mut [u8], Receipt)) -> Option<(&'a mut [u8], Receipt)> {
        match ends(arrived.0, self.inlet.over_ipv6) {
            Some((source, destination))
                if destination.is_multicast() && self.local_addresses.has(source, None) =>
            {
                self.refuse(DropReason::LoopedCopy)
            }
            _ => Some(arrived),
        }
    }

    fn refuse<T>(&self, reason: DropReason) -> Option<T> {
        self.underlay.record_drop(reason);
        None
    }

    fn before_the_stack<'a>(
        &self,
        packet: Packet<'a>,
        fragmented: &mut Fragmented,
    ) -> Option<(&'a mut [u8], Receipt)> {
        let Meta { source: Source::Link(link), auxdata, .. } = packet.meta else { return None };
        // Of a VLAN that has no device here, or for another machine: the stack would not take it either.
        if auxdata.is_some_and(|auxdata| auxdata.vlan.is_some()) {
            return self.refuse(DropReason::VlanTagged);
        }
        if link.kind != PacketKind::Host {
            return None;
        }
        // Devices without Ethernet addresses (ppp, tun) have no link header.
        let skip = if link.mac.is_some() { ETHERNET } else { 0 };
        // What the kernel cannot describe, or describes before the packet, cannot be passed on right.
        let Some(offload) = packet.vnet.and_then(|header| offload::parse(&header, skip)) else {
            return self.refuse(DropReason::UndescribableOffload);
        };
        let Packet { slot, data, .. } = packet;
        let begin = data.start + skip;
        let (source, destination) = ends(slot.get(begin..data.end)?, self.inlet.over_ipv6)?;
        // To be forwarded, not ours, whatever tunnels say: the stack decides so by its addresses.
        if !self.local_addresses.takes(destination, link.ifindex) {
            return None;
        }
        if is_martian(source, link.ifindex) {
            return None;
        }
        if let IpAddr::V4(source) = source
            && !self.reverse_paths.admits(source, link.ifindex)
        {
            return self.refuse(DropReason::ReversePath);
        }
        let facts = |offload| Receipt::Facts { offload, ifindex: link.ifindex };
        let is_fragment =
            self.inlet.over_ipv6 && matches!(extension::follow(&slot[begin..data.end]), Chain::Fragment(_));
        if is_fragment {
            let len = self.put_together(slot, begin..data.end, fragmented)?;
            return Some((slot.get_mut(..len)?, facts(Offload::NONE)));
        }
        Some((slot.get_mut(begin..data.end)?, facts(offload)))
    }

    /// Takes a fragment, and writes the datagram that it completes to the begin of the slot.
    fn put_together(
        &self,
        slot: &mut [u8],
        packet: std::ops::Range<usize>,
        Fragmented(reassembly): &mut Fragmented,
    ) -> Option<usize> {
        let whole = match reassembly.ipv6(&slot[packet], 0, self.now_ms) {
            Outcome::Whole(datagram) => Some(datagram.bytes.into_owned()),
            Outcome::Unreadable => {
                self.underlay.record_drop(DropReason::OuterTruncated);
                None
            }
            Outcome::NotGre | Outcome::Waits => None,
        };
        for _ in 0..reassembly.take_given_up() {
            self.underlay.record_drop(DropReason::OuterFragment);
        }
        let whole = whole?;
        slot.get_mut(..whole.len())?.copy_from_slice(&whole);
        Some(whole.len())
    }

    /// A raw IPv6 socket's packet with a header in front, from what the kernel said of the one it took away.
    fn with_header<'a>(&self, packet: Packet<'a>) -> Option<(&'a mut [u8], Receipt)> {
        let Packet { slot, data, meta, .. } = packet;
        let Source::Ipv6 { address: source, .. } = meta.source else { return None };
        let info = meta.packet_info?;
        let IpAddr::V6(destination) = info.destination else { return None };
        let Ok(payload_length) = u16::try_from(data.len()) else {
            return self.refuse(DropReason::UndescribableOffload);
        };
        let header = Ipv6Header {
            traffic_class: meta.traffic_class.unwrap_or(0),
            flow_label: 0,
            payload_length,
            next_header: GRE,
            hop_limit: meta.hop_limit.unwrap_or(0),
            source,
            destination,
        };
        let begin = data.start.checked_sub(ipv6::LEN)?;
        header.emit(slot.get_mut(begin..data.start)?).ok()?;
        Some((slot.get_mut(begin..data.end)?, Receipt::Raw { ifindex: info.ifindex }))
    }
}

/// Whether the IP stack takes nothing from this source (linux net/ipv4/route.c v6.18, `ip_route_input_slow`;
/// net/ipv6/ip6_input.c, `ip6_rcv_core`).
fn is_martian(source: IpAddr, ifindex: u32) -> bool {
    /// The loopback device has this index in every namespace.
    const LOOPBACK: u32 = 1;
    match source {
        IpAddr::V4(source) if source.is_multicast() || source.is_broadcast() => true,
        IpAddr::V4(source) if source.octets()[0] == 0 => true,
        IpAddr::V6(source) if source.is_multicast() => true,
        source => source.is_loopback() && ifindex != LOOPBACK,
    }
}

/// Source and destination of a packet, where it is one.
fn ends(datagram: &[u8], over_ipv6: bool) -> Option<(IpAddr, IpAddr)> {
    if over_ipv6 {
        let (source, destination) = ipv6::addresses(datagram)?;
        return Some((source.into(), destination.into()));
    }
    let fixed = datagram.first_chunk::<{ ipv4::MIN_LEN }>()?;
    let address = |at: usize| IpAddr::from([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    Some((address(12), address(16)))
}

/// Whose a packet is.
pub(crate) struct Owner {
    /// The tunnel; of a malformed packet the one that would be blamed.
    pub(crate) tunnel: Option<TunnelIndex>,
    /// Which way it receives. What belongs to none is the packet socket's.
    pub(crate) way: Receive,
}

impl Owner {
    /// Looks it up.
    pub(crate) fn of(datagram: &[u8], receipt: Receipt, table: &TunnelTable, ports: &[Option<Port>]) -> Self {
        let (Receipt::Facts { ifindex, .. } | Receipt::Raw { ifindex, .. }) = receipt;
        let tunnel = parsed(datagram).and_then(|(source, destination, gre)| match gre {
            Some(gre) => table.lookup(gre.protocol_type, source, destination, gre.key, ifindex),
            None => table.only_tunnel_of(source),
        });
        let port = tunnel.and_then(|index| ports.get(index.0 as usize)).and_then(Option::as_ref);
        Self { tunnel, way: port.map_or(Receive::Packet, |port| port.receive) }
    }
}

/// What is behind the delivery header of a datagram, without the padding of its link.
pub(crate) fn behind_delivery_header(datagram: &[u8]) -> &[u8] {
    let range = match Ipv4Header::parse(datagram) {
        Ok(outer) => outer.header_len()..usize::from(outer.total_length),
        Err(_) => match (extension::follow(datagram), Ipv6Header::parse(datagram)) {
            (Chain::To { at, .. }, Ok(outer)) => at..ipv6::LEN + usize::from(outer.payload_length),
            _ => 0..datagram.len(),
        },
    };
    datagram.get(range).unwrap_or(datagram)
}

fn parsed(datagram: &[u8]) -> Option<(IpAddr, IpAddr, Option<GreHeader>)> {
    let header = |parsed: Result<(GreHeader, usize), _>| parsed.ok().map(|(header, _)| header);
    if let Ok(outer) = Ipv4Header::parse(datagram) {
        let gre = datagram.get(outer.header_len()..).map(GreHeader::parse).and_then(header);
        return Some((outer.source.into(), outer.destination.into(), gre));
    }
    let (source, destination) = ipv6::addresses(datagram)?;
    let gre = match extension::follow(datagram) {
        Chain::To { at, .. } => datagram.get(at..).map(GreHeader::parse_over_ipv6).and_then(header),
        _ => None,
    };
    Some((source.into(), destination.into(), gre))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_stack_takes_nothing_from_is_no_source_here() {
        let martian = |text: &str, ifindex| is_martian(text.parse().unwrap(), ifindex);
        for source in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.5", "255.255.255.255", "::1", "ff02::1"] {
            assert!(martian(source, 2), "{source}");
        }
        for source in ["10.0.0.1", "240.0.0.1", "2001:db8::1", "fe80::1"] {
            assert!(!martian(source, 2), "{source}");
        }
        assert!(!martian("127.0.0.1", 1) && !martian("::1", 1));
    }
}
