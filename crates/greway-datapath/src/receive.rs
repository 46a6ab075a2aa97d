//! From the underlay into tunnel devices: one batch in, one batch out for each run of packets of
//! the same tunnel. Payloads stay where they were received; only headers are written in front. TCP
//! segments that belong together are handed on as one super-packet.

use std::collections::HashSet;
use std::io;
use std::net::Ipv4Addr;

use greway_engine::{
    Delivery, DropReason, Ingress, Link, Offload, Receipt, Run, Tunnel, TunnelIndex, TunnelSlots,
    TunnelState, TunnelTable, UnderlayCounters, Unmatched, Verdict, coalesce, decapsulate, frame,
};
use greway_linux::batch::{
    Control, Meta, Packet, PacketKind, ReceiveBatch, SendBatch, SendStorage, Source, Target,
};
use greway_linux::errno;
use greway_linux::tun::Tun;
use greway_wire::ethertype;
use greway_wire::gre::GreHeader;
use greway_wire::ipv4::Ipv4Header;

use crate::offload;
use crate::overlay::{ETHERNET, FRONT, Inside};
use crate::port::Port;
use crate::reverse_path::ReversePaths;
use crate::underlay::Receive;

/// What is remembered of packets that belong to no tunnel.
#[derive(Default)]
pub(crate) struct Strangers {
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
    pub(crate) reverse_paths: &'a ReversePaths,
    /// All tunnels.
    pub(crate) table: &'a TunnelTable,
    /// The packets of this socket come by the other one too: each takes those of its own tunnels.
    pub(crate) both: bool,
    /// This host forwards.
    pub(crate) forwards: bool,
    pub(crate) now_ms: u64,
}

/// Carries a received batch.
pub(crate) fn carry(
    batch: &mut ReceiveBatch,
    strangers: &mut Strangers,
    ports: &mut [Option<Port>],
    context: &Context<'_>,
    storage: &mut SendStorage,
) {
    let mut out = Outgoing { batch: storage.start(), going_to: None, run: None };
    for packet in batch.packets() {
        let Some((datagram, receipt)) = datagram(packet, context, &strangers.underlay) else { continue };
        if context.both && owner(datagram, receipt, context.table, ports) != context.way {
            continue;
        }
        let mut ingress = Ingress {
            table: context.table,
            tunnels: &mut Ports(ports),
            underlay: &strangers.underlay,
            unmatched: &mut strangers.unmatched,
        };
        let Verdict::Deliver(delivery) = decapsulate(&mut ingress, datagram, receipt, context.now_ms) else {
            continue;
        };
        out.turn_to(delivery.tunnel, ports);
        let Some(port) = ports.get(delivery.tunnel.0 as usize).and_then(Option::as_ref) else { continue };
        if delivery.offload.gso.is_none() {
            let unfilled = delivery.offload.partial.is_some();
            let inner = &mut datagram[delivery.inner.clone()];
            port.clamp_mss(delivery.protocol_type, inner, unfilled, context.forwards);
        }
        out.deliver(port, &delivery, &datagram[delivery.inner.clone()]);
    }
    out.flush(ports);
}

/// The IPv4 datagram in what was received and what is known of it; `None` for what is not for this
/// host, not whole or not to be judged here.
fn datagram<'a>(
    packet: Packet<'a>,
    context: &Context<'_>,
    underlay: &UnderlayCounters,
) -> Option<(&'a mut [u8], Receipt)> {
    let Meta { source, packet_info, auxdata, truncated, .. } = packet.meta;
    if truncated {
        underlay.record_drop(DropReason::OuterTruncated);
        return None;
    }
    if context.way == Receive::Raw {
        // The IP stack found it to be ours, whole and allowed.
        let ifindex = packet_info.map_or(0, |info| info.ifindex);
        return Some((packet.into_data(), Receipt::Raw { ifindex }));
    }
    let Source::Link(link) = source else { return None };
    // Of a VLAN that has no device here, or for another machine: the stack would not take it either.
    if auxdata.is_some_and(|auxdata| auxdata.vlan.is_some()) {
        underlay.record_drop(DropReason::VlanTagged);
        return None;
    }
    if link.kind != PacketKind::Host {
        return None;
    }
    // Devices without Ethernet addresses (ppp, tun) have no link header.
    let skip = if link.mac.is_some() { ETHERNET } else { 0 };
    // What the kernel cannot describe, or describes before the packet, cannot be passed on right.
    let Some(offload) = packet.vnet.and_then(|header| offload::parse(&header, skip)) else {
        underlay.record_drop(DropReason::UndescribableOffload);
        return None;
    };
    let datagram = packet.into_data().get_mut(skip..)?;
    let destination = datagram.get(16..20)?.first_chunk::<4>()?;
    // To be forwarded, not ours, whatever tunnels say: the stack decides so by its addresses.
    if !context.local_addresses.contains(&Ipv4Addr::from(*destination)) {
        return None;
    }
    let source = datagram.get(12..16)?.first_chunk::<4>()?;
    if !context.reverse_paths.admits(Ipv4Addr::from(*source), link.ifindex) {
        underlay.record_drop(DropReason::ReversePath);
        return None;
    }
    Some((datagram, Receipt::Facts { offload, ifindex: link.ifindex }))
}

/// Which way the tunnel receives that this packet is for. Of a malformed one it is the tunnel that would be
/// blamed, and what belongs to none is the packet socket's.
fn owner(datagram: &[u8], receipt: Receipt, table: &TunnelTable, ports: &[Option<Port>]) -> Receive {
    let (Receipt::Facts { ifindex, .. } | Receipt::Raw { ifindex, .. }) = receipt;
    let Ok(outer) = Ipv4Header::parse(datagram) else { return Receive::Packet };
    let tunnel = match datagram.get(outer.header_len()..).map(GreHeader::parse) {
        Some(Ok((gre, _))) => {
            table.lookup(gre.protocol_type, outer.source, outer.destination, gre.key, ifindex)
        }
        _ => table.only_tunnel_of(outer.source),
    };
    let port = tunnel.and_then(|index| ports.get(index.0 as usize)).and_then(Option::as_ref);
    port.map_or(Receive::Packet, |port| port.receive)
}

/// What is on its way into one tunnel device: packets in the batch, and behind them a run of TCP segments that
/// the next packet may continue.
struct Outgoing<'s, 'a> {
    batch: SendBatch<'s, 'a>,
    going_to: Option<TunnelIndex>,
    run: Option<Waiting<'a>>,
}

/// A run, and what goes before its packet.
struct Waiting<'a> {
    protocol_type: u16,
    /// The link header of an Ethernet tunnel's frames, else nothing.
    link: &'a [u8],
    run: Run<'a>,
}

/// A payload packet's link header and what of it may be part of a run: of a frame without IP nothing may.
fn apart<'a>(tunnel: &Tunnel, delivery: &Delivery, inner: &'a [u8]) -> Option<(&'a [u8], &'a [u8], Offload)> {
    let Link { ethertype, len } = tunnel.link(delivery.protocol_type, inner)?;
    if len > 0 && !matches!(ethertype, ethertype::IPV4 | ethertype::IPV6) {
        return None;
    }
    let (link, packet) = inner.split_at(len);
    Some((link, packet, delivery.offload.without(len)?))
}

impl<'a> Outgoing<'_, 'a> {
    /// Makes room for a packet to this tunnel; what waits for another one is sent.
    fn turn_to(&mut self, tunnel: TunnelIndex, ports: &[Option<Port>]) {
        // One place for the packet and one for the run before it.
        let full = self.batch.len() + 2 > self.batch.capacity();
        if full || self.going_to.is_some_and(|before| before != tunnel) {
            self.flush(ports);
        }
        self.going_to = Some(tunnel);
    }

    fn deliver(&mut self, port: &Port, delivery: &Delivery, inner: &'a [u8]) {
        // A veth end drops what is larger than this, and tells nobody (linux net/core/dev.c
        // `__is_skb_forwardable`); the kernel's own GRE would take it.
        let link = if port.tunnel.carries_ethernet() { ETHERNET } else { 0 };
        let largest = link + port.device_mtu as usize + frame::TAG;
        if delivery.offload.gso.is_none() && inner.len() > largest {
            port.tunnel.counters().record_drop(DropReason::InnerTooBigForDevice);
            return;
        }
        let protocol_type = delivery.protocol_type;
        let apart = apart(&port.tunnel, delivery, inner);
        if let Some((link, packet, offload)) = apart
            && let Some(waiting) = &mut self.run
            && waiting.protocol_type == protocol_type
            && waiting.link == link
            && waiting.run.append(packet, offload)
        {
            return;
        }
        self.end_run(port);
        let begun = apart.and_then(|(link, packet, offload)| Some((link, Run::begin(packet, offload)?)));
        match begun {
            Some((link, run)) => self.run = Some(Waiting { protocol_type, link, run }),
            None => self.push(port, protocol_type, &delivery.offload, &[], &[inner]),
        }
    }

    fn end_run(&mut self, port: &Port) {
        let Some(Waiting { protocol_type, link, run }) = self.run.take() else { return };
        if run.count() == 1 {
            let offload = run.offload().behind(link.len());
            return self.push(port, protocol_type, &offload, link, &[run.first()]);
        }
        let mut headers = [0; coalesce::MAX_HEADERS];
        let (length, offload) = run.emit(&mut headers);
        let mut both = [0; frame::MAX_LINK + coalesce::MAX_HEADERS];
        both[..link.len()].copy_from_slice(link);
        both[link.len()..link.len() + length].copy_from_slice(&headers[..length]);
        let both = &both[..link.len() + length];
        self.push(port, protocol_type, &offload.behind(link.len()), both, run.payloads());
    }

    /// Puts a packet, made of a copy of `headers` and of `slices`, into the batch or right into a TUN device.
    fn push(
        &mut self,
        port: &Port,
        protocol_type: u16,
        offload: &Offload,
        headers: &[u8],
        slices: &[&'a [u8]],
    ) {
        let addresses = match &port.inside {
            Inside::Link { addresses, .. } => addresses.as_ref(),
            Inside::Tun(tun) => return write(tun, port, protocol_type, offload, headers, slices),
        };
        let (own, length) = Inside::front(addresses, protocol_type, offload);
        let mut front = [0; FRONT + frame::MAX_LINK + coalesce::MAX_HEADERS];
        front[..length].copy_from_slice(&own[..length]);
        front[length..length + headers.len()].copy_from_slice(headers);
        let front = &front[..length + headers.len()];
        let pushed = self.batch.push_with_prefix(front, slices, Target::Connected, Control::NONE);
        debug_assert!(pushed.is_ok(), "there was room for the packet");
    }

    /// Sends what is waiting.
    fn flush(&mut self, ports: &[Option<Port>]) {
        let port = self.going_to.and_then(|index| ports.get(index.0 as usize)).and_then(Option::as_ref);
        let Some(port) = port else { return self.batch.clear() };
        self.end_run(port);
        if self.batch.is_empty() {
            return;
        }
        let counters = port.tunnel.counters();
        if let Inside::Link { socket, .. } = &port.inside {
            let outcome = self.batch.send(socket, |_, error| counters.record_drop(reason(&error)));
            for _ in 0..outcome.pending {
                counters.record_drop(DropReason::DeviceQueueFull);
            }
        }
        self.batch.clear();
    }
}

/// Writes a packet into a TUN device, which takes one a call.
fn write(tun: &Tun, port: &Port, protocol_type: u16, offload: &Offload, headers: &[u8], slices: &[&[u8]]) {
    let counters = port.tunnel.counters();
    // A TUN device knows packets by their version only.
    if !matches!(protocol_type, ethertype::IPV4 | ethertype::IPV6) {
        counters.record_drop(DropReason::DeviceRefused);
    } else if let Err(error) = tun.send(&offload::emit(offload, 0), headers, slices) {
        counters.record_drop(reason(&error));
    }
}

fn reason(error: &io::Error) -> DropReason {
    match error.raw_os_error().unwrap_or(0) {
        errno::ENETDOWN | errno::ENXIO | errno::ENODEV | errno::EIO => DropReason::DeviceDown,
        errno::EAGAIN | errno::ENOMEM | errno::ENOBUFS => DropReason::DeviceQueueFull,
        _ => DropReason::DeviceRefused,
    }
}
