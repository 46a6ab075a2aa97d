//! From the underlay into tunnel devices: one batch in, one batch out for each run of packets of
//! the same tunnel. Payloads stay where they were received; only headers are written in front.

use std::collections::HashSet;
use std::io;
use std::net::Ipv4Addr;

use greway_engine::{
    Delivery, DropReason, Ingress, Receipt, Tunnel, TunnelIndex, TunnelSlots, TunnelState, TunnelCounters, TunnelTable,
    UnderlayCounters, Unmatched, Verdict, decapsulate,
};
use greway_linux::batch::{Control, Meta, Packet, PacketKind, ReceiveBatch, SendBatch, SendStorage, Source, Target};
use greway_linux::tun::Tun;
use greway_wire::gre::GreHeader;
use greway_wire::ipv4::Ipv4Header;

use crate::offload;
use crate::overlay::{ETHERNET, Inside};
use crate::port::Port;
use crate::underlay::Receive;

/// What the receiving side keeps from batch to batch.
#[derive(Default)]
pub(crate) struct Side {
    /// The tunnels that receive this way.
    pub(crate) table: TunnelTable,
    pub(crate) unmatched: Unmatched,
    pub(crate) underlay: UnderlayCounters,
}

/// The ports by the engine's index; the gaps are tunnels that were removed.
pub(crate) struct Ports<'a>(pub(crate) &'a mut [Option<Port>]);

impl TunnelSlots for Ports<'_> {
    fn slot(&mut self, index: TunnelIndex) -> Option<(&Tunnel, &mut TunnelState)> {
        let port = self.0.get_mut(index.0 as usize)?.as_mut()?;
        Some((&port.tunnel, &mut port.state))
    }
}

/// What decides about a batch beside the packets.
pub(crate) struct Context<'a> {
    pub(crate) way: Receive,
    pub(crate) local_addresses: &'a HashSet<Ipv4Addr>,
    /// The tunnels that receive the other way: their packets come here too and are not ours.
    pub(crate) other: &'a TunnelTable,
    /// The largest payload packet of any tunnel here in bytes.
    pub(crate) segment_limit: u16,
    pub(crate) now_ms: u64,
}

/// Carries a received batch.
pub(crate) fn carry(
    batch: &mut ReceiveBatch,
    side: &mut Side,
    ports: &mut [Option<Port>],
    context: &Context<'_>,
    storage: &mut SendStorage,
) {
    let mut out = storage.start();
    let mut going_to = None;
    for packet in batch.packets() {
        let Some((datagram, receipt)) = datagram(packet, context, &side.underlay) else { continue };
        if belongs_elsewhere(datagram, context.other) {
            continue;
        }
        let mut ingress = Ingress {
            table: &side.table,
            tunnels: &mut Ports(ports),
            underlay: &side.underlay,
            unmatched: &mut side.unmatched,
        };
        let Verdict::Deliver(delivery) = decapsulate(&mut ingress, datagram, receipt, context.now_ms) else {
            continue;
        };
        if going_to.is_some_and(|tunnel| tunnel != delivery.tunnel) || out.is_full() {
            flush(&mut out, going_to, ports);
        }
        going_to = Some(delivery.tunnel);
        let Some(port) = ports.get(delivery.tunnel.0 as usize).and_then(Option::as_ref) else { continue };
        deliver(port, &delivery, &datagram[delivery.inner.clone()], &mut out);
    }
    flush(&mut out, going_to, ports);
}

/// The IPv4 datagram in what was received and what is known of it; `None` for what is not for this
/// host, not whole or not to be judged here.
fn datagram<'a>(
    packet: Packet<'a>,
    context: &Context<'_>,
    underlay: &UnderlayCounters,
) -> Option<(&'a mut [u8], Receipt)> {
    let Meta { source, packet_info, auxdata, truncated } = packet.meta;
    if truncated {
        underlay.record_drop(DropReason::OuterTruncated);
        return None;
    }
    if context.way == Receive::Raw {
        // The IP stack found it to be ours, whole and allowed.
        let ifindex = packet_info.map_or(0, |info| info.ifindex);
        return Some((packet.into_data(), Receipt::Raw { ifindex, segment_limit: context.segment_limit }));
    }
    let Source::Link(link) = source else { return None };
    // For another machine's address, or of a VLAN: the stack would not take it from here either.
    if link.kind != PacketKind::Host {
        return None;
    }
    if auxdata.is_some_and(|auxdata| auxdata.vlan.is_some()) {
        underlay.record_drop(DropReason::VlanTagged);
        return None;
    }
    // Devices without Ethernet addresses (ppp, tun) have no link header.
    let skip = if link.mac.is_some() { ETHERNET } else { 0 };
    // What the kernel cannot describe, or describes before the packet, cannot be passed on right.
    let Some(offload) = packet.vnet.and_then(|header| offload::parse(&header, skip)) else {
        underlay.record_drop(DropReason::OuterTruncated);
        return None;
    };
    let datagram = packet.into_data().get_mut(skip..)?;
    let destination = datagram.get(16..20)?.first_chunk::<4>()?;
    // To be forwarded, not ours, whatever tunnels say: the stack decides so by its addresses.
    if !context.local_addresses.contains(&Ipv4Addr::from(*destination)) {
        return None;
    }
    Some((datagram, Receipt::Facts { offload, ifindex: link.ifindex }))
}

/// Whether the other side's tunnels have this packet. Where all tunnels receive the same way that
/// table is empty, and this costs nothing.
fn belongs_elsewhere(datagram: &[u8], other: &TunnelTable) -> bool {
    if other.is_empty() {
        return false;
    }
    let Ok(outer) = Ipv4Header::parse(datagram) else { return false };
    let Some(Ok((gre, _))) = datagram.get(outer.header_len()..).map(GreHeader::parse) else { return false };
    other.lookup(outer.source, outer.destination, gre.key, 0).is_some()
}

fn deliver<'a>(port: &Port, delivery: &Delivery, inner: &'a [u8], out: &mut SendBatch<'_, 'a>) {
    let counters = port.tunnel.counters();
    // A veth end drops what is larger than this, and tells nobody (linux net/core/dev.c
    // `__is_skb_forwardable`); the kernel's own GRE would take it.
    const VLAN: usize = 4;
    if delivery.offload.gso.is_none() && inner.len() > port.device_mtu as usize + VLAN {
        counters.record_drop(DropReason::InnerTooBigForDevice);
        return;
    }
    let addresses = match &port.inside {
        Inside::Link { addresses, .. } => addresses,
        Inside::Tun(tun) => return deliver_tun(tun, delivery, inner, counters),
    };
    let front = Inside::front(addresses, delivery.protocol_type, &delivery.offload);
    let pushed = out.push_with_prefix(&front, &[inner], Target::Connected, Control::NONE);
    debug_assert!(pushed.is_ok(), "the batch was flushed when it was full");
}

fn deliver_tun(tun: &Tun, delivery: &Delivery, inner: &[u8], counters: &TunnelCounters) {
    let header = offload::emit(&delivery.offload, 0);
    // A TUN device knows packets by their version only.
    if !matches!(delivery.protocol_type, 0x0800 | 0x86dd) {
        counters.record_drop(DropReason::DeviceRefused);
    } else if let Err(error) = tun.send(&header, &[inner]) {
        counters.record_drop(reason(&error));
    }
}

/// Sends what is waiting into the tunnel device of `tunnel`.
fn flush(out: &mut SendBatch<'_, '_>, tunnel: Option<TunnelIndex>, ports: &[Option<Port>]) {
    let port = tunnel.and_then(|index| ports.get(index.0 as usize)).and_then(Option::as_ref);
    if let (Some(port), false) = (port, out.is_empty()) {
        let counters = port.tunnel.counters();
        if let Inside::Link { socket, .. } = &port.inside {
            let outcome = out.send(socket, |_, error| counters.record_drop(reason(&error)));
            for _ in 0..outcome.pending {
                counters.record_drop(DropReason::DeviceQueueFull);
            }
        }
    }
    out.clear();
}

fn reason(error: &io::Error) -> DropReason {
    match error.kind() {
        io::ErrorKind::NetworkDown | io::ErrorKind::NotFound => DropReason::DeviceDown,
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => DropReason::DeviceQueueFull,
        _ => match error.raw_os_error() {
            // ENXIO, ENODEV: the device is gone; EIO: a TUN device that is down; ENOBUFS.
            Some(6 | 19 | 5) => DropReason::DeviceDown,
            Some(105) => DropReason::DeviceQueueFull,
            _ => DropReason::DeviceRefused,
        },
    }
}
