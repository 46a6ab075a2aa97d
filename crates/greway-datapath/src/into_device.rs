//! Into tunnel devices: what arrived for one goes in with one system call a batch, and what belongs together as one
//! super-packet. Payloads stay where they were received; only headers are written in front.
//!
//! Nothing waits here for what may come: only packets of one batch are put together.

use std::io;

use greway_engine::{
    Candidate, Delivery, DropReason, Link, Offload, Run, Tunnel, TunnelCounters, TunnelIndex, coalesce,
    frame, release,
};
use greway_linux::batch::{Control, SendBatch, SendStorage};
use greway_linux::{MacAddr, errno, vnet};
use greway_wire::{ethertype, ipv6};

use crate::held::Shelf;
use crate::local::LocalAddresses;
use crate::offload;
use crate::overlay::{ETHERNET, FRONT, Inside};
use crate::port::Port;
use crate::receive::clamp;

/// What is on its way into one tunnel device: packets at the door, and behind them a run of segments or datagrams that
/// the next packet may continue.
pub(crate) struct Outgoing<'s, 'a> {
    door: Door<'s, 'a>,
    going_to: Option<TunnelIndex>,
    run: Run<'a>,
    before: Before<'a>,
}

/// What goes before each packet of a run.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Before<'a> {
    protocol_type: u16,
    /// The link header of an Ethernet tunnel's frames, else nothing.
    link: &'a [u8],
}

/// Whether a tunnel device takes several datagrams as one packet, which the virtio-net header can say from Linux 6.2 on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Trains {
    /// Nobody has tried.
    #[default]
    Untried,
    /// It took what was said to be a train.
    Taken,
    /// It knows no such thing.
    Refused,
}

/// What a payload packet that may be part of a run is, and what goes before it: of a frame without IP nothing may.
fn apart<'a>(tunnel: &Tunnel, delivery: &Delivery, inner: &'a [u8]) -> Option<(Before<'a>, Candidate<'a>)> {
    let Link { ethertype, len } = tunnel.link(delivery.protocol_type, inner)?;
    if len > 0 && !matches!(ethertype, ethertype::IPV4 | ethertype::IPV6) {
        return None;
    }
    let (link, packet) = inner.split_at(len);
    let candidate = Candidate::of(packet, delivery.offload.without(len)?)?;
    Some((Before { protocol_type: delivery.protocol_type, link }, candidate))
}

impl<'s, 'a> Outgoing<'s, 'a> {
    pub(crate) fn new(storage: &'s mut SendStorage, here: &'s LocalAddresses) -> Self {
        let door = Door { batch: storage.start(), loads: [Load::default(); LOADS], here };
        Self { door, going_to: None, run: Run::new(), before: Before::default() }
    }

    /// Makes room for a packet to this tunnel; what waits for another one is sent.
    fn turn_to(&mut self, tunnel: TunnelIndex, ports: &[Option<Port>]) {
        if self.door.is_full() || self.going_to.is_some_and(|before| before != tunnel) {
            self.flush(ports);
        }
        self.going_to = Some(tunnel);
    }

    pub(crate) fn bring(&mut self, ports: &[Option<Port>], delivery: &Delivery, inner: &'a [u8]) {
        self.turn_to(delivery.tunnel, ports);
        if let Some(port) = ports.get(delivery.tunnel.0 as usize).and_then(Option::as_ref) {
            self.deliver(port, delivery, inner);
        }
    }

    /// Brings what a tunnel has held and holds no longer; true when it holds more.
    pub(crate) fn release(
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
        let apart = apart(&port.tunnel, delivery, inner);
        if let Some((before, candidate)) = &apart
            && *before == self.before
            && self.run.append(candidate)
        {
            return;
        }
        self.end_run(port);
        if let Some((before, candidate)) = apart
            && self.led_by(port, before, candidate)
        {
            return;
        }
        let load = Load { packets: 1, bytes: inner.len() as u32 };
        self.door.put(port, delivery.protocol_type, &delivery.offload, &[], &[inner], load);
    }

    /// Begins a run with a packet, or sees to it otherwise; false when it is to go in for itself.
    fn led_by(&mut self, port: &Port, before: Before<'a>, candidate: Candidate<'a>) -> bool {
        match port.trains.get() {
            Trains::Refused if candidate.is_datagram() => return false,
            Trains::Untried if candidate.is_datagram() => {
                return candidate.verifies() && self.try_out(port, before, candidate);
            }
            _ => {}
        }
        self.before = before;
        self.run.begin(candidate)
    }

    /// Sends one datagram that is said to be a train, so that nothing is lost of one if the device knows none: the
    /// kernel looks at what kind it is before it sees that there is nothing to be split (linux include/linux/virtio_net.h
    /// `virtio_net_hdr_to_skb`, v6.18). False when it was refused for that and is still to go in.
    fn try_out(&mut self, port: &Port, before: Before<'a>, candidate: Candidate<'a>) -> bool {
        // What came before goes before.
        self.door.send(port);
        self.before = before;
        self.run.begin(candidate);
        let load = self.load();
        let tried = self.put_train(port, load).and_then(|()| self.door.send_one(port));
        self.run.clear();
        match tried {
            Ok(()) => port.trains.set(Trains::Taken),
            Err(error) if error.raw_os_error() == Some(errno::EINVAL) => {
                tracing::debug!(tunnel = %port.name, "this kernel takes no datagrams put together");
                port.trains.set(Trains::Refused);
                return false;
            }
            Err(error) => load.lost(port.tunnel.counters(), reason(&error)),
        }
        true
    }

    fn end_run(&mut self, port: &Port) {
        let Some((first, offload)) = self.run.first() else { return };
        let load = self.load();
        if self.run.count() == 1 {
            let Before { protocol_type, link } = self.before;
            self.door.put(port, protocol_type, &offload.behind(link.len()), link, &[first], load);
        } else if let Err(error) = self.put_train(port, load) {
            load.lost(port.tunnel.counters(), reason(&error));
        }
        self.run.clear();
    }

    /// Puts the run to the door as one packet.
    fn put_train(&mut self, port: &Port, load: Load) -> io::Result<()> {
        let Before { protocol_type, link } = self.before;
        let mut headers = [0; coalesce::MAX_HEADERS];
        let (length, offload) = self.run.emit(&mut headers);
        let mut both = [0; frame::MAX_LINK + coalesce::MAX_HEADERS];
        both[..link.len()].copy_from_slice(link);
        both[link.len()..link.len() + length].copy_from_slice(&headers[..length]);
        let both = &both[..link.len() + length];
        self.door.try_put(port, protocol_type, &offload.behind(link.len()), both, self.run.payloads(), load)
    }

    /// What the run was counted as.
    fn load(&self) -> Load {
        let (count, link) = (self.run.count(), self.before.link.len());
        Load { packets: count as u32, bytes: (link * count + self.run.bytes()) as u32 }
    }

    /// Sends what is waiting.
    pub(crate) fn flush(&mut self, ports: &[Option<Port>]) {
        let port = self.going_to.and_then(|index| ports.get(index.0 as usize)).and_then(Option::as_ref);
        let Some(port) = port else {
            self.run.clear();
            return self.door.batch.clear();
        };
        self.end_run(port);
        self.door.send(port);
    }
}

/// Packets that are about to go into a tunnel device.
struct Door<'s, 'a> {
    batch: SendBatch<'s, 'a>,
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

impl<'a> Door<'_, 'a> {
    /// Whether there may be no place for a packet and for the run before it.
    fn is_full(&self) -> bool {
        self.batch.len() + 2 > self.batch.capacity().min(LOADS)
    }

    /// [`Self::try_put`]; what is refused at once is counted.
    fn put(
        &mut self,
        port: &Port,
        protocol_type: u16,
        offload: &Offload,
        headers: &[u8],
        slices: &[&'a [u8]],
        load: Load,
    ) {
        if let Err(error) = self.try_put(port, protocol_type, offload, headers, slices, load) {
            load.lost(port.tunnel.counters(), reason(&error));
        }
    }

    /// Puts a packet, made of a copy of `headers` and of `slices`, into the batch or right into a TUN device.
    fn try_put(
        &mut self,
        port: &Port,
        protocol_type: u16,
        offload: &Offload,
        headers: &[u8],
        slices: &[&'a [u8]],
        load: Load,
    ) -> io::Result<()> {
        let addresses = match &port.inside {
            Inside::Link { addresses, .. } => addresses.as_ref(),
            // A TUN device takes one a call, and knows packets by their version only.
            Inside::Tun { tun, .. } if matches!(protocol_type, ethertype::IPV4 | ethertype::IPV6) => {
                return tun.send(&offload::emit(offload, 0), headers, slices);
            }
            Inside::Tun { .. } => return Err(io::ErrorKind::Unsupported.into()),
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
        Ok(())
    }

    /// Sends what is in the batch.
    fn send(&mut self, port: &Port) {
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

    /// Sends the one packet that is in the batch, if there is one: a TUN device has it already.
    fn send_one(&mut self, port: &Port) -> io::Result<()> {
        let mut result = Ok(());
        if let Inside::Link { socket, .. } = &port.inside {
            let outcome = self.batch.send(socket, |_, error| result = Err(error));
            if outcome.pending > 0 {
                result = Err(io::ErrorKind::WouldBlock.into());
            }
        }
        self.batch.clear();
        result
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

fn reason(error: &io::Error) -> DropReason {
    match error.raw_os_error().unwrap_or(0) {
        errno::ENETDOWN | errno::ENXIO | errno::ENODEV | errno::EIO => DropReason::DeviceDown,
        errno::EAGAIN | errno::ENOMEM | errno::ENOBUFS => DropReason::DeviceQueueFull,
        _ if error.kind() == io::ErrorKind::WouldBlock => DropReason::DeviceQueueFull,
        _ => DropReason::DeviceRefused,
    }
}
