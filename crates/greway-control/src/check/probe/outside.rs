//! The one probe that goes beside the tunnel device, because the data plane would not send it: GRE with fewer
//! hops than the way has, made here and sent to the configured remote and nowhere else, and ICMP to compare
//! with.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use greway_linux::batch::{Control, SendStorage, Target};
use greway_linux::echo::{EchoSocket, Options};
use greway_linux::raw::{MtuDiscovery, RawSocket};
use greway_spec::TunnelSpec;
use greway_wire::gre::{self, GreHeader};
use greway_wire::icmp;
use greway_wire::ipv4::Ipv4Header;

use super::inside::{identifier, replied};
use super::listen::{Heard, Listener, echo_message};
use crate::check::facts::{Hop, Seen, Trace};

/// Hops that are looked at.
const MOST_HOPS: u8 = 20;
const ROUND: Duration = Duration::from_millis(500);
const TIME_EXCEEDED: u8 = 11;

/// GRE to the remote as the tunnel would send it.
pub(super) struct Sender {
    socket: RawSocket,
    storage: SendStorage,
    remote: Ipv4Addr,
    source: Option<Ipv4Addr>,
    header: GreHeader,
}

impl Sender {
    pub(super) fn open(spec: &TunnelSpec, local: Option<Ipv4Addr>, remote: Ipv4Addr) -> Result<Self, String> {
        let text = |error: io::Error| format!("GRE cannot be sent: {error}");
        let socket = RawSocket::open_ipv4_muted(gre::PROTOCOL)
            .map_err(|error| format!("GRE cannot be sent: {error}"))?;
        // What comes back is heard elsewhere.
        socket.set_error_queue(false).map_err(text)?;
        // The data plane knows by it that an error is about none of its own packets (engine::errors::is_about).
        socket.set_mtu_discovery(MtuDiscovery::Dont).map_err(text)?;
        if spec.fwmark != 0 {
            socket.set_mark(spec.fwmark).map_err(text)?;
        }
        if let Some(dev) = &spec.dev {
            socket.bind_to_device(dev.as_str()).map_err(text)?;
        }
        let header = GreHeader {
            protocol_type: 0x0800,
            checksum: spec.ocsum.then_some(0),
            key: spec.okey,
            // A number taken here would be missed in the data plane's row. A packet without one takes none: a far
            // end that wants numbers drops it, and expects what it expected before (RFC 2890 §2.2; linux
            // net/ipv4/ip_tunnel.c `ip_tunnel_rcv`).
            sequence_number: None,
        };
        Ok(Self { socket, storage: SendStorage::new(1), remote, source: local, header })
    }

    /// Sends a payload packet; the error is the kernel's.
    pub(super) fn send(&mut self, ttl: Option<u8>, inner: &[u8]) -> io::Result<()> {
        let mut packet = vec![0; gre::MAX_LEN + inner.len()];
        let Ok(length) = self.header.emit(&mut packet) else { return Ok(()) };
        packet[length..length + inner.len()].copy_from_slice(inner);
        packet.truncate(length + inner.len());
        if self.header.checksum.is_some() {
            let sum = greway_wire::checksum::checksum(&packet);
            packet[gre::CHECKSUM_OFFSET..gre::CHECKSUM_OFFSET + 2].copy_from_slice(&sum.to_be_bytes());
        }
        let control = Control { ttl, source: self.source.map(IpAddr::V4), ..Control::NONE };
        let mut batch = self.storage.start();
        if batch.push(&[&packet], Target::Ipv4(self.remote), control).is_err() {
            return Ok(());
        }
        let mut refused = None;
        batch.send(&self.socket, |_, error| refused = Some(error));
        refused.map_or(Ok(()), Err)
    }
}

/// An IPv4 packet with an echo request in it.
pub(super) fn packet(from: Ipv4Addr, to: Ipv4Addr, ttl: u8, id: u16, sequence: u16, size: usize) -> Vec<u8> {
    let message = echo_message(to.into(), id, sequence, size);
    let header = Ipv4Header {
        tos: 0,
        total_length: u16::try_from(20 + message.len()).unwrap_or(u16::MAX),
        identification: id,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: 0,
        ttl,
        protocol: icmp::PROTOCOL,
        source: from,
        destination: to,
        options: &[],
    };
    let mut bytes = vec![0; 20 + message.len()];
    if header.emit(&mut bytes).is_ok() {
        bytes[20..].copy_from_slice(&message);
    }
    bytes
}

/// An answer that nobody asked for: whom it reaches passes over it.
fn unasked(local: Option<Ipv4Addr>, remote: Ipv4Addr, id: u16, size: usize) -> Vec<u8> {
    let mut bytes = packet(local.unwrap_or(Ipv4Addr::UNSPECIFIED), remote, 64, id, 0, size);
    let echo = icmp::Echo { is_reply: true, identifier: id, sequence_number: 0 };
    // As long as what is there.
    let _written = echo.emit(&vec![0x67; size], &mut bytes[20..]);
    bytes
}

/// Who answers at each hop on the way to the remote, to ICMP and over IPv4 to GRE. Over IPv6 no GRE asks: without a
/// DF bit the data plane could not tell an error about it from one about a packet of its own.
pub(super) fn trace(spec: &TunnelSpec, to: IpAddr, listener: &mut Listener) -> Seen<Trace> {
    let expired = if to.is_ipv6() { icmp::V6_TIME_EXCEEDED } else { TIME_EXCEEDED };
    let id = identifier();
    for ttl in 1..=MOST_HOPS {
        let options = Options {
            device: spec.dev.as_ref().map(|dev| dev.as_str()),
            source: spec.local,
            ttl: Some(ttl),
            dont_fragment: false,
        };
        let socket = EchoSocket::open(to, &options).map_err(|error| error.to_string())?;
        // Refused is as good as lost.
        let _refused = socket.send(to, &echo_message(to, id, u16::from(ttl), 8));
    }
    // Until every hop before the remote has answered, or the time is over.
    let icmp_hop = |heard: &[Heard], ttl: u8| {
        heard.iter().find_map(|heard| match heard {
            Heard::Refused { from, kind, identifier, sequence, .. }
                if *identifier == id && *sequence == u16::from(ttl) && *kind == expired =>
            {
                Some(*from)
            }
            Heard::Reply { from, identifier, sequence }
                if *identifier == id && *sequence == u16::from(ttl) =>
            {
                Some(*from)
            }
            _ => None,
        })
    };
    let reached = |heard: &[Heard]| (1..=MOST_HOPS).find(|ttl| icmp_hop(heard, *ttl) == Some(to));
    let whole = |heard: &[Heard]| {
        reached(heard).is_some_and(|end| (1..=end).all(|ttl| icmp_hop(heard, ttl).is_some()))
    };
    listener.collect(ROUND, whole);
    let remote_answers = replied(&listener.heard, to, id);
    let last_known = (1..=MOST_HOPS).rev().find(|ttl| icmp_hop(&listener.heard, *ttl).is_some()).unwrap_or(0);
    let length = reached(&listener.heard).unwrap_or_else(|| (last_known + 1).min(MOST_HOPS));

    let Some((local, remote)) = spec.ipv4_ends() else {
        let hop = |ttl| Hop { icmp: icmp_hop(&listener.heard, ttl), gre: None };
        return Ok(Trace { remote_answers, hops: (1..=length).map(hop).collect(), refused: false });
    };
    let mut refused = false;
    let mut sender = Sender::open(spec, local, remote)?;
    // What comes back is told apart by the length of the datagram that it quotes.
    let size = |ttl: u8| 2 * usize::from(ttl);
    let datagram = |ttl: u8| (20 + sender_overhead(spec) + 28 + size(ttl)) as u16;
    let gre_hop = |heard: &[Heard], ttl: u8| {
        heard.iter().find_map(|heard| match heard {
            Heard::RefusedGre { from, length, .. } if *length == datagram(ttl) => Some(*from),
            _ => None,
        })
    };
    for round in 0..2 {
        for ttl in 1..=length {
            let known = gre_hop(&listener.heard, ttl).is_some();
            if known || (round > 0 && icmp_hop(&listener.heard, ttl).is_none()) {
                continue;
            }
            match sender.send(Some(ttl), &unasked(local, remote, id, size(ttl))) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => refused = true,
                // Refused for another reason is as good as lost.
                _ => {}
            }
        }
        // The remote itself says nothing when all is well.
        let wanted = length.saturating_sub(1);
        listener.collect(ROUND * 4 / 5, |heard| (1..=wanted).all(|ttl| gre_hop(heard, ttl).is_some()));
        if (1..=wanted).all(|ttl| gre_hop(&listener.heard, ttl).is_some()) {
            break;
        }
    }
    let hop = |ttl| Hop {
        icmp: icmp_hop(&listener.heard, ttl),
        gre: gre_hop(&listener.heard, ttl).map(IpAddr::V4),
    };
    Ok(Trace { remote_answers, hops: (1..=length).map(hop).collect(), refused })
}

/// Bytes of the GRE header that the probes carry.
fn sender_overhead(spec: &TunnelSpec) -> usize {
    4 + if spec.ocsum { 4 } else { 0 } + if spec.okey.is_some() { 4 } else { 0 }
}
