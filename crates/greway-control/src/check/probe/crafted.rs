//! Packets that the host's IP stack would not make: with no hops left, or in the peer's name. They go out of the
//! tunnel device like any other, so that the data plane numbers and keys them.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use greway_linux::batch::{Control, SendStorage, Target};
use greway_linux::mac::MacAddr;
use greway_linux::packet::{Config, Kind, PacketSocket};
use greway_spec::{Prefix, Ttl, TunnelSpec};

use super::inside::{identifier, replied};
use super::listen::{Heard, Listener};
use super::outside::{Sender, packet};
use crate::check::facts::{Device, HostFacts, InnerPeer, Onward, OnwardAnswer, Seen};

const ROUND: Duration = Duration::from_millis(500);
/// Routes that are looked at.
const MOST_ROUTES: usize = 4;
const TIME_EXCEEDED: u8 = 11;
const UNREACHABLE: u8 = 3;
const IPV4: u16 = 0x0800;

/// Frames out of the tunnel device.
struct Overlay {
    socket: PacketSocket,
    storage: SendStorage,
    target: Target,
}

impl Overlay {
    fn open(device: &Device) -> Seen<Self> {
        let config = Config { kind: Kind::Dgram, ifindex: Some(device.index), ..Config::default() };
        let socket = PacketSocket::open(&config).map_err(|error| error.to_string())?;
        // As the kernel addresses what leaves by a device without ARP (linux net/ipv4/arp.c `arp_constructor`).
        let mac = device.mac.map_or(MacAddr::ZERO, MacAddr::new);
        let target = Target::Link { ifindex: device.index, mac, protocol: IPV4 };
        Ok(Self { socket, storage: SendStorage::new(1), target })
    }

    fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        let mut batch = self.storage.start();
        if batch.push(&[packet], self.target, Control::NONE).is_err() {
            return Ok(());
        }
        let mut refused = None;
        batch.send(&self.socket, |_, error| refused = Some(error));
        refused.map_or(Ok(()), Err)
    }
}

/// Whatever brings a packet without hops to the far end.
enum Crafted {
    Overlay(Overlay),
    Beside(Sender),
}

impl Crafted {
    fn open(spec: &TunnelSpec, host: &HostFacts, device: &Device) -> Seen<Self> {
        // A tunnel that takes its hops from what is inside would give the outer packet none either.
        let on_link = host.way.as_ref().is_ok_and(|way| way.as_ref().is_some_and(|way| way.via.is_none()));
        match (spec.ttl != Ttl::Inherit || on_link, spec.oseq, spec.ipv4_ends()) {
            (true, ..) => Ok(Self::Overlay(Overlay::open(device)?)),
            (false, false, Some((local, remote))) => Ok(Self::Beside(Sender::open(spec, local, remote)?)),
            (false, false, None) => {
                Err("this tunnel is over IPv6 and takes its hops from what is inside (hoplimit \
                                         inherit): a packet with no hops left would not reach the far end"
                    .to_owned())
            }
            (false, true, _) => {
                Err("this tunnel numbers its packets and takes their hops from what is inside \
                                  (ttl inherit): a packet with no hops left would not reach the far end"
                    .to_owned())
            }
        }
    }

    fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        match self {
            Self::Overlay(overlay) => overlay.send(packet),
            Self::Beside(sender) => sender.send(None, packet),
        }
    }
}

/// Asks the far end, in the peer's name, whether it has our own inner address: only then does it answer, and only
/// then is the question not a packet from itself, which every host drops.
pub(super) fn twin(device: &Device, peer: &InnerPeer, listener: &mut Listener) -> Seen<bool> {
    let (IpAddr::V4(own), IpAddr::V4(address)) = (peer.own.local, peer.address) else {
        return Err("only asked over IPv4".to_owned());
    };
    let mut overlay = Overlay::open(device)?;
    let id = identifier();
    let has = |heard: &[Heard]| {
        let carried = |heard: &Heard| matches!(heard, Heard::Carried { from, identifier } if *from == own && *identifier == id);
        // IPsec hides it on the wire; it comes out of the tunnel all the same.
        heard.iter().any(carried) || replied(heard, own.into(), id)
    };
    for sequence in 0..2 {
        let question = packet(address, own, 64, id, sequence, 8);
        overlay
            .send(&question)
            .map_err(|error| format!("a packet cannot be sent into the tunnel: {error}"))?;
        listener.collect(ROUND / 2, has);
    }
    Ok(has(&listener.heard))
}

/// Asks whether the far end hands on what is for the networks behind it: with no hop left it has to say so.
pub(super) fn onward(
    spec: &TunnelSpec,
    host: &HostFacts,
    device: &Device,
    peer: &InnerPeer,
    listener: &mut Listener,
) -> Seen<Vec<Onward>> {
    let IpAddr::V4(own) = peer.own.local else { return Err("only asked over IPv4".to_owned()) };
    let mut questions = host
        .routes
        .iter()
        .filter_map(|route| question_of(route.destination))
        .take(MOST_ROUTES)
        .collect::<Vec<_>>();
    questions.retain(|(_, address)| IpAddr::V4(*address) != peer.address && *address != own);
    if questions.is_empty() {
        return Ok(Vec::new());
    }
    let mut sender = Crafted::open(spec, host, device)?;
    let id = identifier();
    let answer = |heard: &[Heard], number: usize| {
        heard.iter().find_map(|heard| match heard {
            Heard::Refused { kind, identifier, sequence, .. }
                if *identifier == id && usize::from(*sequence) == number =>
            {
                match *kind {
                    TIME_EXCEEDED => Some(OnwardAnswer::Forwards),
                    UNREACHABLE => Some(OnwardAnswer::NoRoute),
                    _ => None,
                }
            }
            Heard::Reply { identifier, sequence, .. }
                if *identifier == id && usize::from(*sequence) == number =>
            {
                Some(OnwardAnswer::Own)
            }
            _ => None,
        })
    };
    for _ in 0..2 {
        for (number, (_, address)) in questions.iter().enumerate() {
            if answer(&listener.heard, number).is_none() {
                let question = packet(own, *address, 1, id, number as u16, 8);
                sender
                    .send(&question)
                    .map_err(|error| format!("a packet cannot be sent into the tunnel: {error}"))?;
            }
        }
        listener.collect(ROUND, |heard| (0..questions.len()).all(|number| answer(heard, number).is_some()));
    }
    let asked = questions.iter().enumerate().map(|(number, (route, address))| Onward {
        route: *route,
        asked: (*address).into(),
        answer: answer(&listener.heard, number),
    });
    Ok(asked.collect())
}

/// An address in the network of a route that is hardly the far gateway's own; none for a default route, where
/// the question would go to a stranger.
fn question_of(destination: Prefix) -> Option<(Prefix, Ipv4Addr)> {
    let IpAddr::V4(network) = destination.address else { return None };
    let address = match destination.length {
        0..8 => return None,
        32 => network,
        31 => Ipv4Addr::from(network.to_bits() | 1),
        length => {
            let half = 1_u32 << (31 - u32::from(length));
            Ipv4Addr::from(network.to_bits() | half | u32::from(length < 30))
        }
    };
    Some((destination, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_stays_within_the_network() {
        for (address, length, wanted) in [
            ("10.10.2.0", 24, Some("10.10.2.129")),
            ("10.0.0.0", 8, Some("10.128.0.1")),
            ("10.0.0.4", 30, Some("10.0.0.6")),
            ("10.0.0.4", 31, Some("10.0.0.5")),
            ("10.0.0.4", 32, Some("10.0.0.4")),
            ("0.0.0.0", 0, None),
        ] {
            let destination = Prefix { address: address.parse().unwrap(), length };
            let asked = question_of(destination).map(|(_, asked)| asked.to_string());
            assert_eq!(asked.as_deref(), wanted, "{destination}");
        }
    }
}
