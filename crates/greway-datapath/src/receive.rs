//! From the underlay towards tunnel devices: one batch in, one batch out for each run of packets of
//! the same tunnel ([`crate::into_device`]).

use std::sync::{Arc, Mutex, PoisonError};

use greway_engine::{
    DeclineReason, Delivery, DropReason, Ingress, Receipt, Reorder, SequenceCounters, Tunnel, TunnelIndex,
    TunnelSlots, TunnelState, TunnelTable, UnderlayCounters, Unmatched, Verdict, decapsulate,
};
use greway_linux::batch::{Packet, ReceiveBatch, SendStorage};

use crate::arrived::{self, Fragmented, Gate, Owner};
use crate::backlog::{Backlog, Waiting};
use crate::handover::Handover;
use crate::held::{Holders, Shelf};
use crate::icmp::Answerer;
use crate::into_device::Outgoing;
use crate::local::LocalAddresses;
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
    /// One of all workers.
    pub(crate) answerer: Arc<Mutex<Answerer>>,
    pub(crate) handover: Handover,
    pub(crate) recogniser: Option<Recogniser>,
}

impl Strangers {
    /// Tells the sender of a packet that no tunnel takes it, where it may be told.
    fn answer(&self, datagram: &[u8], receipt: Receipt, context: &Context<'_>) {
        let (Receipt::Facts { ifindex, .. } | Receipt::Raw { ifindex }) = receipt;
        let is_ours = |address| context.local_addresses.takes(address, ifindex);
        let vrf = context.reverse_paths.vrfs.get(&ifindex).copied();
        let mut answerer = self.answerer.lock().unwrap_or_else(PoisonError::into_inner);
        answerer.unmatched(datagram, ifindex, vrf, is_ours, context.now_ms);
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
pub(crate) fn line_up(
    batch: &mut ReceiveBatch,
    desk: &mut Desk<'_>,
    backlog: &mut Backlog<Option<TunnelIndex>, Receipt>,
) {
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
pub(crate) fn carry_on(turn: &mut [Waiting<Receipt>], desk: &mut Desk<'_>, storage: &mut SendStorage) {
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
        if let Some(recognises) = &strangers.recogniser
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
pub(crate) fn clamp(ports: &[Option<Port>], delivery: &Delivery, inner: &mut [u8], forwards: bool) {
    let port = ports.get(delivery.tunnel.0 as usize).and_then(Option::as_ref);
    if let (Some(port), None) = (port, delivery.offload.gso) {
        let unfilled = delivery.offload.partial.is_some();
        port.clamp_mss(delivery.protocol_type, inner, unfilled, None, forwards);
    }
}
