//! From the underlay into tunnel devices: one batch in, one batch out for each run of packets of
//! the same tunnel. Payloads stay where they were received; only headers are written in front. TCP
//! segments that belong together are handed on as one super-packet.

use std::io;

use greway_engine::{
    DeclineReason, Delivery, DropReason, Ingress, Link, Offload, Receipt, Reorder, Run, SequenceCounters,
    Tunnel, TunnelCounters, TunnelIndex, TunnelSlots, TunnelState, TunnelTable, UnderlayCounters, Unmatched,
    Verdict, coalesce, decapsulate, frame, release,
};
use greway_linux::batch::{Control, Packet, ReceiveBatch, SendBatch, SendStorage};
use greway_linux::errno;
use greway_linux::tun::Tun;
use greway_linux::{MacAddr, vnet};
use greway_wire::{ethertype, ipv6};

use crate::arrived::{self, Fragmented, Gate, Owner};
use crate::backlog::{Backlog, Waiting};
use crate::handover::Handover;
use crate::held::{Holders, Shelf};
use crate::icmp::Answerer;
use crate::local::LocalAddresses;
use crate::offload;
use crate::overlay::{ETHERNET, FRONT, Inside};
use crate::port::Port;
use crate::reverse_path::ReversePaths;
use crate::underlay::Inlet;
use crate::witness::Recogniser;

/// What is remembered of packets that belong to no tunnel.
#[derive(Default)]
pub(crate) struct Strangers {
    pub(crate) unmatched: Unmatched,
    pub(crate) underlay: UnderlayCounters,
    pub(crate) fragmented: Fragmented,
    pub(crate) answerer: Answerer,
    pub(crate) handover: Handover,
    pub(crate) recogniser: Option<Recogniser>,
}

impl Strangers {
    /// Tells the sender of a packet that no tunnel takes it, where it may be told.
    fn answer(&mut self, datagram: &[u8], receipt: Receipt, context: &Context<'_>) {
        let (Receipt::Facts { ifindex, .. } | Receipt::Raw { ifindex }) = receipt;
        let is_ours = |address| context.local_addresses.takes(address, ifindex);
        let vrf = context.reverse_paths.vrfs.get(&ifindex).copied();
        self.answerer.unmatched(datagram, ifindex, vrf, is_ours, context.now_ms);
    }
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
    pub(crate) inlet: Inlet,
    pub(crate) local_addresses: &'a LocalAddresses,
    pub(crate) reverse_paths: &'a ReversePaths,
    /// All tunnels.
    pub(crate) table: &'a TunnelTable,
    /// The packets of this socket come by the other one too: each takes those of its own tunnels.
    pub(crate) both: bool,
    /// This host forwards.
    pub(crate) forwards: bool,
    pub(crate) now_ms: u64,
}

/// Who decides about a packet, and what it is decided with.
pub(crate) struct Desk<'x> {
    pub(crate) strangers: &'x mut Strangers,
    pub(crate) ports: &'x mut [Option<Port>],
    pub(crate) holders: &'x mut Holders,
    pub(crate) context: Context<'x>,
}

/// Carries a received batch.
pub(crate) fn carry(batch: &mut ReceiveBatch, desk: &mut Desk<'_>, storage: &mut SendStorage) {
    let shelf = Shelf::default();
    let mut out = Outgoing::new(storage, desk.context.local_addresses);
    for packet in batch.packets() {
        if let Some((datagram, receipt)) = desk.admit(packet) {
            desk.decide(datagram, receipt, &mut out, &shelf);
        }
    }
    out.flush(desk.ports);
}

/// Puts a received batch into line, each packet into its tunnel's.
pub(crate) fn line_up(batch: &mut ReceiveBatch, desk: &mut Desk<'_>, backlog: &mut Backlog) {
    for packet in batch.packets() {
        let Some((datagram, receipt)) = desk.admit(packet) else { continue };
        let Owner { tunnel, .. } = Owner::of(datagram, receipt, desk.context.table, desk.ports);
        if backlog.push(tunnel, datagram, receipt) {
            continue;
        }
        let port = tunnel.and_then(|index| desk.ports.get(index.0 as usize)).and_then(Option::as_ref);
        match port {
            Some(port) => port.tunnel.counters().record_drop(DropReason::ReceiveQueueFull),
            None => desk.strangers.underlay.record_drop(DropReason::ReceiveQueueFull),
        }
    }
}

/// Carries packets that have waited.
pub(crate) fn carry_on(turn: &mut [Waiting], desk: &mut Desk<'_>, storage: &mut SendStorage) {
    let shelf = Shelf::default();
    let mut out = Outgoing::new(storage, desk.context.local_addresses);
    for Waiting { datagram, receipt } in turn {
        desk.decide(datagram, *receipt, &mut out, &shelf);
    }
    out.flush(desk.ports);
}

impl Desk<'_> {
    /// The datagram in what was received, where it is to be decided about here.
    fn admit<'a>(&mut self, packet: Packet<'a>) -> Option<(&'a mut [u8], Receipt)> {
        let Self { strangers, ports, context, .. } = self;
        let gate = Gate {
            inlet: context.inlet,
            local_addresses: context.local_addresses,
            reverse_paths: context.reverse_paths,
            underlay: &strangers.underlay,
            now_ms: context.now_ms,
        };
        let (datagram, receipt) = gate.admit(packet, &mut strangers.fragmented)?;
        if let Some(recognises) = &mut strangers.recogniser
            && recognises(arrived::behind_delivery_header(datagram), context.inlet.way)
        {
            return None;
        }
        if context.both || strangers.handover.is_underway() {
            let Owner { tunnel, way } = Owner::of(datagram, receipt, context.table, ports);
            let gre = || arrived::behind_delivery_header(datagram);
            if way != context.inlet.way
                || strangers.handover.repeats(context.inlet.way, tunnel, gre, context.now_ms)
            {
                return None;
            }
        }
        Some((datagram, receipt))
    }

    /// Takes it apart and brings it on its way.
    fn decide<'a>(
        &mut self,
        datagram: &'a mut [u8],
        receipt: Receipt,
        out: &mut Outgoing<'_, 'a>,
        shelf: &'a Shelf,
    ) {
        let Self { strangers, ports, holders, context } = self;
        let mut ingress = Ingress {
            table: context.table,
            tunnels: &mut Ports(ports),
            underlay: &strangers.underlay,
            unmatched: &mut strangers.unmatched,
        };
        let verdict = decapsulate(&mut ingress, datagram, receipt, context.now_ms);
        match &verdict {
            Verdict::Deliver(delivery) => {
                let inner = &mut datagram[delivery.inner.clone()];
                clamp(ports, delivery, inner, context.forwards);
                out.bring(ports, delivery, inner);
            }
            Verdict::Decline(DeclineReason::NoTunnel { .. }) => strangers.answer(datagram, receipt, context),
            _ => {}
        }
        // Whatever became of it, others may have waited for its number.
        if let Verdict::Deliver(Delivery { tunnel, .. })
        | Verdict::Hold { tunnel }
        | Verdict::Drop { tunnel: Some(tunnel), .. } = verdict
            && out.release(tunnel, ports, shelf, context.forwards, context.now_ms)
        {
            holders.note(tunnel);
        }
    }
}

/// Lets held packets go: which of them, `choose` says to each tunnel that holds some. Those that hold none any more
/// are forgotten.
pub(crate) fn let_go(
    holders: &mut Holders,
    ports: &mut [Option<Port>],
    forwards: bool,
    now_ms: u64,
    storage: &mut SendStorage,
    here: &LocalAddresses,
    choose: impl Fn(&mut Reorder, &SequenceCounters),
) {
    let shelf = Shelf::default();
    let mut out = Outgoing::new(storage, here);
    holders.retain(|index| {
        if let Some(port) = ports.get_mut(index.0 as usize).and_then(Option::as_mut) {
            choose(&mut port.state.reorder, port.tunnel.counters().sequence());
        }
        out.release(index, ports, &shelf, forwards, now_ms)
    });
    out.flush(ports);
}

/// What a TCP handshake that comes through a tunnel announces is lowered to what fits.
fn clamp(ports: &[Option<Port>], delivery: &Delivery, inner: &mut [u8], forwards: bool) {
    let port = ports.get(delivery.tunnel.0 as usize).and_then(Option::as_ref);
    if let (Some(port), None) = (port, delivery.offload.gso) {
        let unfilled = delivery.offload.partial.is_some();
        port.clamp_mss(delivery.protocol_type, inner, unfilled, None, forwards);
    }
}

/// What is on its way into one tunnel device: packets in the batch, and behind them a run of TCP segments that
/// the next packet may continue.
struct Outgoing<'s, 'a> {
    batch: SendBatch<'s, 'a>,
    going_to: Option<TunnelIndex>,
    run: Option<Begun<'a>>,
    /// What each packet in the batch consists of.
    loads: [Load; LOADS],
    /// The addresses of this host.
    here: &'s LocalAddresses,
}

/// Packets in one batch at most.
const LOADS: usize = 64;

/// What was put together to one packet, as it was counted on arrival.
#[derive(Clone, Copy, Default)]
struct Load {
    packets: u32,
    bytes: u32,
}

/// A run, and what goes before its packet.
struct Begun<'a> {
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

impl<'s, 'a> Outgoing<'s, 'a> {
    fn new(storage: &'s mut SendStorage, here: &'s LocalAddresses) -> Self {
        Self { batch: storage.start(), going_to: None, run: None, loads: [Load::default(); LOADS], here }
    }

    /// Makes room for a packet to this tunnel; what waits for another one is sent.
    fn turn_to(&mut self, tunnel: TunnelIndex, ports: &[Option<Port>]) {
        // One place for the packet and one for the run before it.
        let full = self.batch.len() + 2 > self.batch.capacity().min(LOADS);
        if full || self.going_to.is_some_and(|before| before != tunnel) {
            self.flush(ports);
        }
        self.going_to = Some(tunnel);
    }

    fn bring(&mut self, ports: &[Option<Port>], delivery: &Delivery, inner: &'a [u8]) {
        self.turn_to(delivery.tunnel, ports);
        if let Some(port) = ports.get(delivery.tunnel.0 as usize).and_then(Option::as_ref) {
            self.deliver(port, delivery, inner);
        }
    }

    /// Brings what a tunnel has held and holds no longer; true when it holds more.
    fn release(
        &mut self,
        tunnel: TunnelIndex,
        ports: &mut [Option<Port>],
        shelf: &'a Shelf,
        forwards: bool,
        now_ms: u64,
    ) -> bool {
        loop {
            let Some(port) = ports.get_mut(tunnel.0 as usize).and_then(Option::as_mut) else { return false };
            let Some(mut released) = release(&port.tunnel, &mut port.state, now_ms) else {
                return port.state.reorder.waiting() > 0;
            };
            let inner = 0..released.bytes.len();
            let (protocol_type, offload) = (released.protocol_type, released.offload);
            let delivery = Delivery { tunnel, protocol_type, inner, offload };
            clamp(ports, &delivery, &mut released.bytes, forwards);
            self.bring(ports, &delivery, shelf.put(released.bytes));
        }
    }

    fn deliver(&mut self, port: &Port, delivery: &Delivery, inner: &'a [u8]) {
        // A veth end drops what is larger than this, and tells nobody (linux net/core/dev.c
        // `__is_skb_forwardable`); the kernel's own GRE would take it.
        let link = if port.tunnel.carries_ethernet() { ETHERNET } else { 0 };
        let largest = link + port.device_mtu as usize + frame::TAG;
        if delivery.offload.gso.is_none() && inner.len() > largest {
            let bytes = inner.len() as u64;
            port.tunnel.counters().record_undelivered(DropReason::InnerTooBigForDevice, 1, bytes);
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
            Some((link, run)) => self.run = Some(Begun { protocol_type, link, run }),
            None => {
                let load = Load { packets: 1, bytes: inner.len() as u32 };
                self.push(port, protocol_type, &delivery.offload, &[], &[inner], load);
            }
        }
    }

    fn end_run(&mut self, port: &Port) {
        let Some(Begun { protocol_type, link, run }) = self.run.take() else { return };
        let load =
            Load { packets: run.count() as u32, bytes: (link.len() * run.count() + run.bytes()) as u32 };
        if run.count() == 1 {
            let offload = run.offload().behind(link.len());
            return self.push(port, protocol_type, &offload, link, &[run.first()], load);
        }
        let mut headers = [0; coalesce::MAX_HEADERS];
        let (length, offload) = run.emit(&mut headers);
        let mut both = [0; frame::MAX_LINK + coalesce::MAX_HEADERS];
        both[..link.len()].copy_from_slice(link);
        both[link.len()..link.len() + length].copy_from_slice(&headers[..length]);
        let both = &both[..link.len() + length];
        self.push(port, protocol_type, &offload.behind(link.len()), both, run.payloads(), load);
    }

    /// Puts a packet, made of a copy of `headers` and of `slices`, into the batch or right into a TUN device.
    fn push(
        &mut self,
        port: &Port,
        protocol_type: u16,
        offload: &Offload,
        headers: &[u8],
        slices: &[&'a [u8]],
        load: Load,
    ) {
        let addresses = match &port.inside {
            Inside::Link { addresses, .. } => addresses.as_ref(),
            Inside::Tun(tun) => return write(tun, port, protocol_type, offload, headers, slices, load),
        };
        let (mut own, length) = Inside::front(addresses, protocol_type, offload);
        // RX-20: nobody is to forward what each of a group's members got.
        if port.tunnel.group().is_some()
            && addresses.is_some()
            && !is_for(self.here, protocol_type, if headers.is_empty() { slices[0] } else { headers })
        {
            own[vnet::LEN..vnet::LEN + MacAddr::BROADCAST.octets().len()]
                .copy_from_slice(&MacAddr::BROADCAST.octets());
        }
        let mut front = [0; FRONT + frame::MAX_LINK + coalesce::MAX_HEADERS];
        front[..length].copy_from_slice(&own[..length]);
        front[length..length + headers.len()].copy_from_slice(headers);
        let front = &front[..length + headers.len()];
        self.loads[self.batch.len()] = load;
        let pushed = self.batch.push_with_prefix(front, slices, port.inside.target(), Control::NONE);
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
            let loads = &self.loads[..self.batch.len()];
            let outcome = self.batch.send(socket, |index, error| loads[index].lost(counters, reason(&error)));
            for load in &loads[loads.len() - outcome.pending..] {
                load.lost(counters, DropReason::DeviceQueueFull);
            }
        }
        self.batch.clear();
    }
}

impl Load {
    fn lost(self, counters: &TunnelCounters, reason: DropReason) {
        counters.record_undelivered(reason, u64::from(self.packets), u64::from(self.bytes));
    }
}

/// Whether a packet is for this host alone, by its destination.
fn is_for(here: &LocalAddresses, ethertype: u16, packet: &[u8]) -> bool {
    let destination = match ethertype {
        ethertype::IPV4 => {
            packet.get(16..20).and_then(|bytes| bytes.first_chunk::<4>()).map(|v4| (*v4).into())
        }
        ethertype::IPV6 => ipv6::addresses(packet).map(|(_, destination)| destination.into()),
        _ => None,
    };
    destination.is_some_and(|destination| here.has(destination, None))
}

/// Writes a packet into a TUN device, which takes one a call.
fn write(
    tun: &Tun,
    port: &Port,
    protocol_type: u16,
    offload: &Offload,
    headers: &[u8],
    slices: &[&[u8]],
    load: Load,
) {
    let counters = port.tunnel.counters();
    // A TUN device knows packets by their version only.
    if !matches!(protocol_type, ethertype::IPV4 | ethertype::IPV6) {
        load.lost(counters, DropReason::DeviceRefused);
    } else if let Err(error) = tun.send(&offload::emit(offload, 0), headers, slices) {
        load.lost(counters, reason(&error));
    }
}

fn reason(error: &io::Error) -> DropReason {
    match error.raw_os_error().unwrap_or(0) {
        errno::ENETDOWN | errno::ENXIO | errno::ENODEV | errno::EIO => DropReason::DeviceDown,
        errno::EAGAIN | errno::ENOMEM | errno::ENOBUFS => DropReason::DeviceQueueFull,
        _ => DropReason::DeviceRefused,
    }
}
