//! From tunnel devices to the underlay: packets become trains of segments whose headers are
//! written once and whose payloads are sent from where they were received.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use greway_engine::{
    DropReason, Fit, Fragments, GsoKind, Notice, Offload, Talk, Train, TunnelCounters, encapsulate, fit,
    too_big_message,
};
use greway_linux::batch::{Control, Packet, ReceiveBatch, SendBatch, SendStorage};
use greway_linux::{errno, vnet};

use crate::exit::{Exit, Leave, ShortWay};
use crate::gather::Gathering;
use crate::overlay::{Fresh, Inside, Payload, unsealed};
use crate::port::Port;
use crate::turn::Turn;
use crate::underlay::{self, Underlay};

/// What the sending side keeps from batch to batch.
pub(crate) struct Sender {
    train: Train,
    storage: SendStorage,
    /// The packets in the batch: which messages are theirs, and how many bytes they had.
    packets: Vec<Waiting>,
    /// A packet that was larger than its path, in pieces.
    fragments: Fragments,
    /// For what goes beside the batch: fragments, and answers to senders.
    beside: SendStorage,
    /// The last error that has no drop reason of its own, so that the log has it once.
    odd_error: Option<i32>,
    /// A packet of a TUN device; empty until there is one.
    buffer: Vec<u8>,
    /// A super-packet made of packets; empty until there is one.
    gathered: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Waiting {
    messages: usize,
    bytes: usize,
    /// Where it goes.
    endpoint: Option<IpAddr>,
}

/// Messages in one batch; the largest super-packet gives some fifty.
const MESSAGES: usize = 256;
/// A super-packet with an absurdly small segment size: more than this is not sent in one batch.
const MOST_SEGMENTS: usize = MESSAGES;
/// Packets taken from a TUN device before others have their turn.
const TUN_TURN: usize = 64;
/// The largest packet of a TUN device in bytes.
const LARGEST: usize = 65_536;

impl Sender {
    pub(crate) fn new() -> Self {
        Self {
            train: Train::new(),
            storage: SendStorage::new(MESSAGES),
            packets: Vec::with_capacity(MESSAGES),
            fragments: Fragments::new(),
            beside: SendStorage::new(MESSAGES),
            odd_error: None,
            buffer: Vec::new(),
            gathered: Vec::new(),
        }
    }

    /// Carries one batch out of a tunnel device, from that of its sources ([`Inside::sources`]), and says how many packets
    /// there were; of a TUN device that is not known.
    pub(crate) fn carry(
        &mut self,
        port: &mut Port,
        source: usize,
        underlay: &mut Underlay,
        batch: &mut ReceiveBatch,
        forwards: bool,
        now_ms: u64,
    ) -> io::Result<usize> {
        if matches!(port.inside, Inside::Tun { .. }) {
            return self.carry_tun(port, underlay, forwards, now_ms).map(|()| 0);
        }
        let Some(source) = port.inside.sources().nth(source) else { return Ok(0) };
        let taken = batch.recv_up_to(source, port.turn.packets())?;
        port.turn.took(taken, batch.bytes());
        port.stirred |= taken > 0;
        self.carry_these(port, batch.packets(), underlay, forwards, now_ms);
        Ok(taken)
    }

    /// Carries what came out of a tunnel device that is one end of a pair.
    pub(crate) fn carry_these<'b>(
        &mut self,
        port: &mut Port,
        received: impl Iterator<Item = Packet<'b>>,
        underlay: &mut Underlay,
        forwards: bool,
        now_ms: u64,
    ) {
        let Inside::Link { addresses, .. } = &port.inside else { return };
        let ethernet = addresses.is_none();
        let Self { train, storage, packets, fragments, beside, odd_error, gathered: buffer, .. } = self;
        let mut leaving = Leaving::new(storage, train, packets, odd_error, now_ms);
        let gathers =
            underlay.injection.is_some() && port.takes_whole(GsoKind::Udp) && port.endpoints.is_none();
        let mut gathered = gathers.then(Gathering::default);
        for received in received {
            if received.meta.truncated {
                // Larger than any super-packet that can be described, and its end is not here.
                port.tunnel.counters().record_drop(DropReason::UnsplittableOffload);
                continue;
            }
            let received = unsealed(received);
            let mut endpoint = None;
            let fresh = if ethernet {
                Inside::frame(received)
            } else {
                let (header, auxdata) = (received.vnet, received.meta.auxdata);
                let frame = received.into_data();
                if let Some(endpoints) = &mut port.endpoints {
                    match endpoints.talk(frame) {
                        Talk::None => {}
                        Talk::Answered(answer) => {
                            bring(port, answer.frame(), beside);
                            continue;
                        }
                        Talk::Unanswered => continue,
                    }
                    endpoint = frame.first_chunk().and_then(|address| endpoints.of(*address));
                }
                Inside::payload(frame, header, auxdata)
            };
            let Some(fresh) = fresh else {
                port.tunnel.counters().record_drop(DropReason::UnsplittableOffload);
                continue;
            };
            let payload = clamped(port, fresh, endpoint, forwards);
            match fit_path(port, &payload, beside, now_ms) {
                Fit::Fits => {}
                Fit::Fragment { mtu } => {
                    // What came before goes before.
                    leaving.send_gathered(port, underlay, &mut gathered, buffer);
                    leaving.flush(port, underlay);
                    leaving.pieces(fragments, beside).send(port, underlay, &payload, mtu, now_ms);
                    continue;
                }
                too_big => {
                    refuse(port, &payload, too_big, beside);
                    continue;
                }
            }
            if gathered.as_mut().is_some_and(|gathered| gathered.append(&port.tunnel, &payload)) {
                continue;
            }
            leaving.send_gathered(port, underlay, &mut gathered, buffer);
            if !gathered.as_mut().is_some_and(|gathered| gathered.begin(&port.tunnel, &payload)) {
                leaving.send(port, underlay, &payload);
            }
        }
        leaving.send_gathered(port, underlay, &mut gathered, buffer);
        leaving.flush(port, underlay);
    }

    /// The same for a TUN device, which gives one packet a read.
    fn carry_tun(
        &mut self,
        port: &mut Port,
        underlay: &mut Underlay,
        forwards: bool,
        now_ms: u64,
    ) -> io::Result<()> {
        let Self { train, storage, packets, fragments, beside, odd_error, buffer, .. } = self;
        buffer.resize(LARGEST, 0);
        let mut taken = 0;
        for _ in 0..TUN_TURN {
            let mut header = [0; vnet::LEN];
            let Inside::Tun { tun, .. } = &port.inside else { return Ok(()) };
            let Some(length) = tun.recv(&mut header, buffer)? else { return Ok(()) };
            taken += length;
            let Some(fresh) = Inside::tun_payload(&mut buffer[..length], &header) else {
                port.tunnel.counters().record_drop(DropReason::UnsplittableOffload);
                continue;
            };
            let payload = clamped(port, fresh, None, forwards);
            let mut leaving = Leaving::new(storage, train, packets, odd_error, now_ms);
            match fit_path(port, &payload, beside, now_ms) {
                Fit::Fits => {}
                Fit::Fragment { mtu } => {
                    leaving.pieces(fragments, beside).send(port, underlay, &payload, mtu, now_ms);
                    continue;
                }
                too_big => {
                    refuse(port, &payload, too_big, beside);
                    continue;
                }
            }
            leaving.send(port, underlay, &payload);
            leaving.flush(port, underlay);
            if Turn::is_over(taken) {
                break;
            }
        }
        Ok(())
    }
}

/// A packet whose TCP handshake, if it is one, announces no more than fits.
fn clamped<'a>(port: &Port, fresh: Fresh<'a>, endpoint: Option<IpAddr>, forwards: bool) -> Payload<'a> {
    if fresh.offload.gso.is_none() {
        let unfilled = fresh.offload.partial.is_some();
        port.clamp_mss(fresh.protocol_type, fresh.packet, unfilled, endpoint, forwards);
    }
    fresh.done(endpoint)
}

/// Whether a packet fits the path as the kernel knows it. The sender of one that does is told when the far end was
/// said to be unreachable (ER-04); it is sent all the same.
fn fit_path(port: &mut Port, payload: &Payload<'_>, storage: &mut SendStorage, now_ms: u64) -> Fit {
    let Payload { protocol_type, packet, offload, endpoint } = payload;
    let way = port.way(*endpoint);
    let path_mtu = port.paths.to(*endpoint).for_packet(packet.len(), &port.tunnel, way, now_ms);
    let fit = fit(&port.tunnel, *protocol_type, packet, *offload, path_mtu);
    if matches!(fit, Fit::Fits | Fit::Fragment { .. })
        && port.errors.take(now_ms)
        && let Some(message) = Notice::Unreachable.message(*protocol_type, packet)
    {
        tell(port, *protocol_type, &message, storage);
    }
    fit
}

/// Counts a packet that is too large, and tells its sender where it may be told.
fn refuse(port: &Port, payload: &Payload<'_>, why: Fit, storage: &mut SendStorage) {
    port.tunnel.counters().record_drop(DropReason::TooBigForPath);
    let Fit::TellSender { mtu } = why else { return };
    let Payload { protocol_type, packet, .. } = payload;
    let Some(message) = too_big_message(*protocol_type, packet, mtu) else { return };
    tell(port, *protocol_type, &message, storage);
}

/// Brings a packet, or in an Ethernet tunnel a frame, into the tunnel device, for a sender on its side.
pub(crate) fn tell(port: &Port, protocol_type: u16, message: &[u8], storage: &mut SendStorage) {
    // A sender that is not told tries again, and is told then.
    let lost = match &port.inside {
        Inside::Link { socket, addresses, .. } => {
            let (front, length) = Inside::front(addresses.as_ref(), protocol_type, &Offload::NONE);
            let mut out = storage.start();
            let pushed =
                out.push_with_prefix(&front[..length], &[message], port.inside.target(), Control::NONE);
            debug_assert!(pushed.is_ok(), "the batch was empty");
            let mut lost = None;
            out.send(socket, |_, error| lost = Some(error));
            lost
        }
        Inside::Tun { tun, .. } => tun.send(&crate::offload::emit(&Offload::NONE, 0), &[], &[message]).err(),
    };
    if let Some(error) = lost {
        tracing::debug!(tunnel = %port.name, %error, "a sender could not be told by ICMP");
    }
}

/// Brings a whole frame into the tunnel device.
fn bring(port: &Port, frame: &[u8], storage: &mut SendStorage) {
    let Inside::Link { socket, .. } = &port.inside else { return };
    let header = crate::offload::emit(&Offload::NONE, 0).to_bytes();
    let mut out = storage.start();
    let pushed = out.push_with_prefix(&header, &[frame], port.inside.target(), Control::NONE);
    debug_assert!(pushed.is_ok(), "the batch was empty");
    // Who asked asks again.
    out.send(
        socket,
        |_, error| tracing::debug!(tunnel = %port.name, %error, "a neighbour was not answered for"),
    );
}

/// What it takes to send a packet in pieces.
struct Pieces<'a> {
    train: &'a mut Train,
    fragments: &'a mut Fragments,
    storage: &'a mut SendStorage,
    packets: &'a mut Vec<Waiting>,
    odd_error: &'a mut Option<i32>,
}

impl Pieces<'_> {
    fn send(
        &mut self,
        port: &mut Port,
        underlay: &mut Underlay,
        payload: &Payload<'_>,
        mtu: u16,
        now_ms: u64,
    ) {
        let Self { train, fragments, storage, packets, odd_error } = self;
        let link = port.tunnel.link(payload.protocol_type, payload.packet).map_or(0, |link| link.len);
        let (link, packet) = payload.packet.split_at(link);
        let cut = payload
            .offload
            .without(link.len())
            .is_some_and(|offload| fragments.cut_behind(link, packet, offload.partial, mtu));
        if !cut {
            port.tunnel.counters().record_drop(DropReason::TooBigForPath);
            return;
        }
        let mut out = storage.start();
        packets.clear();
        let mut leave = Leave::ByStack { dont_fragment: true };
        for packet in fragments.iter() {
            let piece = Payload { packet, offload: Offload::NONE, ..*payload };
            if !fill(port, &piece, train) {
                continue;
            }
            leave = Leave::ByStack { dont_fragment: train.outer().dont_fragment };
            if out.len() + train.len() > MESSAGES {
                flush(&mut out, packets, port, underlay, leave, now_ms, odd_error);
            }
            push(&mut out, packets, train, packet, port.bound_to, leave);
        }
        flush(&mut out, packets, port, underlay, leave, now_ms, odd_error);
    }
}

/// What is on its way out of one tunnel: segments that leave with one call.
struct Leaving<'s, 'b> {
    out: SendBatch<'s, 'b>,
    packets: &'s mut Vec<Waiting>,
    train: &'s mut Train,
    odd_error: &'s mut Option<i32>,
    /// Segments with and without DF take different sockets, and so do those that pass by the stack; a change sends what is
    /// waiting.
    leave: Leave,
    now_ms: u64,
}

/// What became of a packet that was to leave whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    Sent,
    Dropped,
    /// It is no super-packet, or may not leave so.
    ToSplit,
}

impl<'s, 'b> Leaving<'s, 'b> {
    fn new(
        storage: &'s mut SendStorage,
        train: &'s mut Train,
        packets: &'s mut Vec<Waiting>,
        odd_error: &'s mut Option<i32>,
        now_ms: u64,
    ) -> Self {
        packets.clear();
        let leave = Leave::ByStack { dont_fragment: true };
        Self { out: storage.start(), packets, train, odd_error, leave, now_ms }
    }

    /// Sends a packet, or has it wait for others that leave with it.
    fn send(&mut self, port: &mut Port, underlay: &mut Underlay, payload: &Payload<'b>) {
        match self.whole(port, underlay, payload) {
            Whole::Sent => return port.tunnel.counters().record_sent(payload.packet.len(), self.now_ms),
            Whole::Dropped => return,
            Whole::ToSplit => {}
        }
        if !fill(port, payload, self.train) {
            return;
        }
        let leave = port.leave(self.train, self.now_ms);
        if leave != self.leave || self.out.len() + self.train.len() > MESSAGES {
            self.flush(port, underlay);
            self.leave = leave;
        }
        push(&mut self.out, self.packets, self.train, payload.packet, port.bound_to, leave);
    }

    /// Sends what was gathered: as one where it may leave so.
    fn send_gathered(
        &mut self,
        port: &mut Port,
        underlay: &mut Underlay,
        gathered: &mut Option<Gathering<'b>>,
        buffer: &mut Vec<u8>,
    ) {
        let Some(gathered) = gathered else { return };
        let whole = gathered.as_one(buffer).map(|one| self.whole(port, underlay, &one));
        let counters = port.tunnel.counters();
        let left = match whole {
            Some(Whole::Sent) => {
                let members = gathered.members().iter();
                members.for_each(|member| counters.record_sent(member.packet.len(), self.now_ms));
                &[][..]
            }
            // One is counted; what is wrong with it is so with all.
            Some(Whole::Dropped) => &gathered.members()[1..],
            Some(Whole::ToSplit) | None => gathered.members(),
        };
        left.iter().for_each(|member| self.send(port, underlay, member));
        gathered.clear();
    }

    /// Sends a super-packet as one, where it may leave so, behind what came before.
    fn whole(&mut self, port: &mut Port, underlay: &mut Underlay, payload: &Payload<'_>) -> Whole {
        let may = payload.offload.gso.is_some_and(|gso| port.takes_whole(gso.kind));
        if !may || underlay.injection.is_none() {
            return Whole::ToSplit;
        }
        self.train.keep_whole(true);
        let filled = fill(port, payload, self.train);
        self.train.keep_whole(false);
        if !filled {
            return Whole::Dropped;
        }
        let Some(exit) = port.short_way.as_ref().and_then(|way| way.whole(self.train)) else {
            return Whole::ToSplit;
        };
        // What came before goes before.
        self.flush(port, underlay);
        if inject(port, underlay, &exit, self.train, payload) { Whole::Sent } else { Whole::ToSplit }
    }

    fn flush(&mut self, port: &mut Port, underlay: &mut Underlay) {
        flush(&mut self.out, self.packets, port, underlay, self.leave, self.now_ms, self.odd_error);
    }

    /// What it takes to send a packet in pieces, when nothing waits.
    fn pieces<'x>(&'x mut self, fragments: &'x mut Fragments, storage: &'x mut SendStorage) -> Pieces<'x> {
        Pieces { train: self.train, fragments, storage, packets: self.packets, odd_error: self.odd_error }
    }
}

/// Has the kernel send a train that may leave whole. False: it is to be split.
fn inject(
    port: &mut Port,
    underlay: &mut Underlay,
    exit: &Exit,
    train: &Train,
    payload: &Payload<'_>,
) -> bool {
    let Some(injection) = underlay.injection.as_ref().map(Arc::clone) else { return false };
    let mut sent = false;
    for segment in train.segments() {
        match injection.send(exit, &train.outer(), segment, payload.packet) {
            Ok(()) => sent = true,
            Err(error) if sent => {
                // The packet has left but for its end.
                port.tunnel.counters().record_drop(DropReason::HostQueueFull);
                tracing::debug!(tunnel = %port.name, %error, "the end of a super-packet is lost");
            }
            Err(error) if error.raw_os_error() == Some(errno::EINVAL) => {
                tracing::warn!(tunnel = %port.name, %error, "the kernel takes no super-packets of it: they are split");
                port.short_way.iter_mut().for_each(ShortWay::split_all);
                return false;
            }
            Err(error) => {
                tracing::debug!(%error, "no super-packets can be handed to the kernel: they are split");
                // Until there is another.
                underlay.injection = None;
                return false;
            }
        }
    }
    true
}

/// Encapsulates a packet into the train; false when it was dropped.
fn fill(port: &mut Port, payload: &Payload<'_>, train: &mut Train) -> bool {
    if let Some(reason) = port.barred {
        port.tunnel.counters().record_drop(reason);
        return false;
    }
    port.reserve_sequence();
    let Payload { protocol_type, packet, offload, endpoint } = payload;
    // The engine counts what it drops.
    let done = encapsulate(&port.tunnel, &mut port.state, *protocol_type, packet, *offload, *endpoint, train);
    if done.is_err() {
        return false;
    }
    if train.len() > MOST_SEGMENTS {
        port.tunnel.counters().record_drop(DropReason::UnsplittableOffload);
        return false;
    }
    true
}

fn push<'a>(
    out: &mut SendBatch<'_, 'a>,
    packets: &mut Vec<Waiting>,
    train: &Train,
    packet: &'a [u8],
    bound_to: Option<u32>,
    leave: Leave,
) {
    let outer = train.outer();
    let (target, control) = match leave {
        Leave::ByStack { .. } => underlay::address(&outer, bound_to),
        Leave::By(exit) => (exit.target(), Control::NONE),
    };
    for segment in train.segments() {
        let total = segment.total_len();
        let payload = &packet[segment.payload];
        let pushed = match leave {
            Leave::ByStack { .. } => out.push_with_prefix(segment.header, &[payload], target, control),
            Leave::By(exit) => {
                let header = exit.header(&outer, total);
                out.push_with_prefixes([&header, segment.header], &[payload], target, control)
            }
        };
        debug_assert!(pushed.is_ok(), "there was room for the whole train");
    }
    let endpoint = Some(outer.destination);
    packets.push(Waiting { messages: train.len(), bytes: packet.len(), endpoint });
}

/// Sends what is waiting and counts each packet: sent when any of its segments was, dropped for
/// each of them that was not.
fn flush(
    out: &mut SendBatch<'_, '_>,
    packets: &mut Vec<Waiting>,
    port: &mut Port,
    underlay: &mut Underlay,
    leave: Leave,
    now_ms: u64,
    odd_error: &mut Option<i32>,
) {
    if out.is_empty() {
        return;
    }
    let counters = port.tunnel.counters();
    let total = out.len();
    let mut tally = Tally { packets: packets.as_slice(), position: 0, begin: 0, lost: 0, counters, now_ms };
    let mut too_big = None;
    let mark = port.spec.fwmark;
    let socket = match leave {
        Leave::ByStack { dont_fragment } => underlay.sender(port.tunnel.over_ipv6(), dont_fragment, mark),
        Leave::By(_) => underlay.past_the_stack(mark),
    };
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => {
            note_odd(&error, port, odd_error);
            (0..packets.len()).for_each(|_| counters.record_drop(DropReason::SendFailed));
            // Without the short way the next ones leave by the other.
            port.short_way = None;
            out.clear();
            return packets.clear();
        }
    };
    let outcome = out.send(socket, |index, error| {
        let reason = reason(&error, port, odd_error);
        counters.record_drop(reason);
        tally.lost(index);
        if reason == DropReason::TooBigForPath {
            too_big = tally.packets.get(tally.position).copied();
        }
    });
    for index in total - outcome.pending..total {
        counters.record_drop(DropReason::HostQueueFull);
        tally.lost(index);
    }
    tally.finish();
    out.clear();
    packets.clear();
    if outcome.unlabelled > 0 && !port.unlabelled {
        port.unlabelled = true;
        tracing::warn!(
            tunnel = %port.name,
            "sends without its flow label: a program on this host has flow labels to itself, and the kernel \
             allows no others that were not leased"
        );
    }
    if let Some(packet) = too_big {
        // The next one of this size is refused here, and its sender told.
        let endpoint = packet.endpoint.filter(|_| port.endpoints.is_some());
        let way = port.way(endpoint);
        port.paths.to(endpoint).ask(&port.tunnel, way, now_ms);
    }
}

/// Walks over packets and their lost messages side by side, both in order.
struct Tally<'a> {
    packets: &'a [Waiting],
    position: usize,
    begin: usize,
    lost: usize,
    counters: &'a TunnelCounters,
    now_ms: u64,
}

impl Tally<'_> {
    fn lost(&mut self, message: usize) {
        while let Some(packet) = self.packets.get(self.position)
            && message >= self.begin + packet.messages
        {
            self.close(*packet);
        }
        self.lost += 1;
    }

    fn close(&mut self, packet: Waiting) {
        if self.lost < packet.messages {
            self.counters.record_sent(packet.bytes, self.now_ms);
        }
        self.begin += packet.messages;
        self.position += 1;
        self.lost = 0;
    }

    fn finish(&mut self) {
        while let Some(packet) = self.packets.get(self.position) {
            self.close(*packet);
        }
    }
}

fn reason(error: &io::Error, port: &Port, odd_error: &mut Option<i32>) -> DropReason {
    let code = error.raw_os_error().unwrap_or(0);
    match code {
        // An OUTPUT rule, or a policy that blocks.
        errno::EPERM | errno::EACCES => DropReason::FirewallRefused,
        errno::EMSGSIZE => DropReason::TooBigForPath,
        errno::ENETDOWN | errno::ENETUNREACH | errno::EHOSTUNREACH | errno::ENODEV | errno::ENXIO => {
            DropReason::NoRoute
        }
        errno::EAGAIN | errno::ENOMEM | errno::ENOBUFS => DropReason::HostQueueFull,
        _ => {
            note_odd(error, port, odd_error);
            DropReason::SendFailed
        }
    }
}

/// Tells the log of an error once.
fn note_odd(error: &io::Error, port: &Port, odd_error: &mut Option<i32>) {
    let code = error.raw_os_error().unwrap_or(0);
    if *odd_error != Some(code) {
        *odd_error = Some(code);
        tracing::warn!(tunnel = %port.name, %error, "a packet could not be sent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(messages: &[usize], lost: &[usize]) -> u64 {
        let packets =
            messages.iter().map(|messages| Waiting { messages: *messages, bytes: 100, endpoint: None });
        let packets = packets.collect::<Vec<_>>();
        let counters = TunnelCounters::new();
        let mut tally =
            Tally { packets: &packets, position: 0, begin: 0, lost: 0, counters: &counters, now_ms: 1 };
        lost.iter().for_each(|message| tally.lost(*message));
        tally.finish();
        counters.tx_packets()
    }

    #[test]
    fn a_packet_is_sent_when_any_of_its_segments_is() {
        assert_eq!(tally(&[1, 3, 1], &[]), 3);
        assert_eq!(tally(&[1, 3, 1], &[0]), 2);
        assert_eq!(tally(&[1, 3, 1], &[1, 3]), 3);
        assert_eq!(tally(&[1, 3, 1], &[1, 2, 3]), 2);
        assert_eq!(tally(&[1, 3, 1], &[0, 1, 2, 3, 4]), 0);
    }
}
