//! A host of the simulation: ports, a routing table, ICMP echo, one TCP transfer, source translation, and one
//! end of a tunnel whose packets greway's engine makes and takes apart.
//!
//! It imitates as much of Linux as the guide's scenarios touch, and no more. What is under show is the engine;
//! this is only what stands around it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::packet::{
    ECHO_REPLY, ECHO_REQUEST, GRE, ICMP, IPV4_HEADER, Packet, Segment, TCP, UNREACHABLE, icmp,
};
use super::tcp::{Receiver, Sender};
use super::tunnel::Tunnel;

/// Where a packet comes in or goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    /// A port by its number.
    Port(usize),
    /// tun0.
    Tunnel,
}

/// One device that a link is plugged into.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port {
    pub(super) address: Ipv4Addr,
    pub(super) length: u8,
}

/// Bytes of the largest packet on every link.
pub(super) const LINK_MTU: u16 = 1500;

/// A line of a routing table. A link has two ends only, so that a next hop needs no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) network: Ipv4Addr,
    pub(super) length: u8,
    pub(super) device: Device,
}

impl Route {
    fn matches(&self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
        (address.to_bits() ^ self.network.to_bits()) & mask == 0
    }
}

/// What a host hands to the network, and what crossed its tunnel device meanwhile.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Packets by port.
    pub(super) sent: Vec<(usize, Packet)>,
    /// Packets that tun0 sent or received.
    pub(super) tunnelled: Vec<Packet>,
}

/// A flow that is being translated, as its answers see it: protocol, who answers, the two identifiers.
type Flow = (u8, Ipv4Addr, u16, u16);

/// A host.
#[derive(Default)]
pub(super) struct Host {
    pub(super) ports: Vec<Port>,
    pub(super) routes: Vec<Route>,
    pub(super) forward: bool,
    pub(super) tunnel: Option<Tunnel>,
    /// Translated flows, with the address that was replaced.
    translated: BTreeMap<Flow, Ipv4Addr>,
    /// Identifiers of the echo replies that came.
    pub(super) echoed: Vec<u16>,
    pub(super) sender: Option<Sender>,
    pub(super) receiver: Option<Receiver>,
}

impl Host {
    /// A packet comes in.
    pub(super) fn receive(&mut self, from: Device, mut packet: Packet, out: &mut Outbox) {
        if !packet.is_sound() {
            return;
        }
        self.translate_back(&mut packet);
        if self.owns(packet.destination()) {
            self.deliver(packet, out);
        } else if self.forward && packet.age() {
            self.forward(from, packet, out);
        }
    }

    /// The host itself sends a packet.
    pub(super) fn send(&mut self, packet: Packet, out: &mut Outbox) {
        match self.route(packet.destination()) {
            Some(Device::Port(port)) => out.sent.push((port, packet)),
            Some(Device::Tunnel) => self.enter_tunnel(packet, out),
            None => {}
        }
    }

    /// The address that the host would send from; `None`: no way to that destination.
    pub(super) fn source_towards(&self, destination: Ipv4Addr) -> Option<Ipv4Addr> {
        match self.route(destination)? {
            Device::Port(port) => self.ports.get(port).map(|port| port.address),
            Device::Tunnel => self.tunnel.as_ref()?.address(),
        }
    }

    /// Bytes of the largest packet that leaves towards that destination in one piece.
    pub(super) fn mtu_towards(&self, destination: Ipv4Addr) -> u16 {
        match (self.route(destination), &self.tunnel) {
            (Some(Device::Tunnel), Some(tunnel)) => tunnel.mtu(),
            _ => LINK_MTU,
        }
    }

    /// An echo request from this host, if it knows a way.
    pub(super) fn ask(&mut self, destination: Ipv4Addr, identifier: u16, out: &mut Outbox) {
        let Some(source) = self.source_towards(destination) else { return };
        let [high, low] = identifier.to_be_bytes();
        let data: Vec<u8> = (0..56).collect();
        let request = icmp(ECHO_REQUEST, 0, [high, low, 0, 1], &data);
        self.send(Packet::new(source, destination, ICMP, &request), out);
    }

    fn owns(&self, address: Ipv4Addr) -> bool {
        let inner = self.tunnel.as_ref().and_then(Tunnel::address);
        inner == Some(address) || self.ports.iter().any(|port| port.address == address)
    }

    /// The longest prefix wins; among equals the first.
    fn route(&self, destination: Ipv4Addr) -> Option<Device> {
        let ports = self.ports.iter().enumerate().map(|(number, port)| Route {
            network: port.address,
            length: port.length,
            device: Device::Port(number),
        });
        let inner = self.tunnel.as_ref().and_then(Tunnel::connected);
        let all = ports.chain(inner).chain(self.routes.iter().copied());
        let usable = all.filter(|route| route.device != Device::Tunnel || self.tunnel.is_some());
        let matching = usable.filter(|route| route.matches(destination));
        let best = matching.reduce(|best, route| if route.length > best.length { route } else { best });
        best.map(|route| route.device)
    }

    fn deliver(&mut self, packet: Packet, out: &mut Outbox) {
        match packet.protocol() {
            ICMP => self.deliver_icmp(&packet, out),
            TCP => self.deliver_tcp(&packet, out),
            GRE => {
                let Some(inner) = self.tunnel.as_mut().and_then(|tunnel| tunnel.decapsulate(packet)) else {
                    return;
                };
                out.tunnelled.push(inner.clone());
                self.receive(Device::Tunnel, inner, out);
            }
            _ => {}
        }
    }

    fn deliver_icmp(&mut self, packet: &Packet, out: &mut Outbox) {
        let &[kind, code, _, _, a, b, c, d, ref data @ ..] = packet.payload() else { return };
        match kind {
            ECHO_REQUEST => {
                let reply = icmp(ECHO_REPLY, 0, [a, b, c, d], data);
                self.send(Packet::new(packet.destination(), packet.source(), ICMP, &reply), out);
            }
            ECHO_REPLY => self.echoed.push(u16::from_be_bytes([a, b])),
            UNREACHABLE if code == FRAGMENTATION_NEEDED => {
                let mut more = Vec::new();
                if let Some(sender) = &mut self.sender {
                    sender.shrink(u16::from_be_bytes([c, d]), &mut more);
                }
                more.into_iter().for_each(|packet| self.send(packet, out));
            }
            _ => {}
        }
    }

    fn deliver_tcp(&mut self, packet: &Packet, out: &mut Outbox) {
        let Some((segment, data)) = Segment::parse(packet) else { return };
        let mut answers = Vec::new();
        if let Some(receiver) = &mut self.receiver {
            answers.extend(receiver.receive(packet.source(), packet.destination(), &segment, data));
        }
        if let Some(sender) = &mut self.sender {
            sender.receive(&segment, &mut answers);
        }
        answers.into_iter().for_each(|answer| self.send(answer, out));
    }

    fn forward(&mut self, from: Device, mut packet: Packet, out: &mut Outbox) {
        match self.route(packet.destination()) {
            Some(Device::Port(port)) => {
                self.translate(&mut packet);
                out.sent.push((port, packet));
            }
            Some(Device::Tunnel) => {
                let mtu = self.mtu_towards(packet.destination());
                if packet.wire_length() > usize::from(mtu) {
                    self.refuse(from, &packet, mtu, out);
                } else {
                    self.enter_tunnel(packet, out);
                }
            }
            None => {}
        }
    }

    /// Fragmentation needed (RFC 792, RFC 1191 §4): the header and eight bytes of what did not fit.
    fn refuse(&mut self, from: Device, packet: &Packet, mtu: u16, out: &mut Outbox) {
        let own = match from {
            Device::Port(port) => self.ports.get(port).map(|port| port.address),
            Device::Tunnel => self.tunnel.as_ref().and_then(Tunnel::address),
        };
        let Some(own) = own else { return };
        let [high, low] = mtu.to_be_bytes();
        let quote = &packet.bytes[..packet.bytes.len().min(IPV4_HEADER + 8)];
        let message = icmp(UNREACHABLE, FRAGMENTATION_NEEDED, [0, 0, high, low], quote);
        self.send(Packet::new(own, packet.source(), ICMP, &message), out);
    }

    fn enter_tunnel(&mut self, packet: Packet, out: &mut Outbox) {
        let Some(tunnel) = &mut self.tunnel else { return };
        let mut outer = Vec::new();
        tunnel.encapsulate(&packet, &mut outer);
        out.tunnelled.push(packet);
        // Delivery packets take the host's ordinary way, but never back into the tunnel.
        for packet in outer {
            if let Some(Device::Port(port)) = self.route(packet.destination()) {
                out.sent.push((port, packet));
            }
        }
    }

    /// Source translation of what came from the tunnel's far end and leaves by a port. The identifiers stay as they
    /// are: there is one client only, so no two flows can collide.
    fn translate(&mut self, packet: &mut Packet) {
        let Some((client, address)) = self.tunnel.as_ref().and_then(Tunnel::translation) else { return };
        if packet.source() != client {
            return;
        }
        let Some((mine, theirs)) = identifiers(packet) else { return };
        self.translated.insert((packet.protocol(), packet.destination(), theirs, mine), client);
        packet.replace_source(address);
    }

    fn translate_back(&self, packet: &mut Packet) {
        let Some((theirs, mine)) = identifiers(packet) else { return };
        let flow = (packet.protocol(), packet.source(), theirs, mine);
        if let Some(client) = self.translated.get(&flow).filter(|_| self.owns(packet.destination())) {
            packet.replace_destination(*client);
        }
    }
}

/// ICMP code: fragmentation needed and DF set.
const FRAGMENTATION_NEEDED: u8 = 4;

/// What tells a sender's flows apart: the ports, or twice the identifier of an echo.
fn identifiers(packet: &Packet) -> Option<(u16, u16)> {
    match (packet.protocol(), packet.payload()) {
        (TCP, &[a, b, c, d, ..]) => Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))),
        (ICMP, &[ECHO_REQUEST | ECHO_REPLY, _, _, _, a, b, ..]) => {
            let identifier = u16::from_be_bytes([a, b]);
            Some((identifier, identifier))
        }
        _ => None,
    }
}
