//! Listening while probes run: packet sockets in front of the firewall, so that a packet is seen whether or
//! not the host lets it in.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use greway_linux::batch::{ReceiveBatch, Source};
use greway_linux::event::{Events, Interest, Poller};
use greway_linux::filter;
use greway_linux::packet::{Config, Kind, PacketSocket, Protocol};
use greway_wire::extension::{self, Chain};
use greway_wire::gre::{self, GreHeader};
use greway_wire::icmp::{self, Echo, Quote, QuoteV6};
use greway_wire::ipv4::Ipv4Header;
use greway_wire::ipv6::{self, Ipv6Header};

use crate::check::deadline::{Deadline, NO_TIME};
use crate::check::facts::{OuterError, Seen, WirePacket};

/// The largest packet: the checksum of an echo's answer covers all of it.
const SLOT: usize = 65_536;
const BATCH: usize = 32;
const MOST_KINDS: usize = 256;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TIME_EXCEEDED: u8 = 11;

/// An answer inside the tunnel, or to an echo outside of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The reply to an echo.
    Reply {
        /// Who answers.
        from: IpAddr,
        /// Identifier of the echo.
        identifier: u16,
        /// Number of the echo.
        sequence: u16,
    },
    /// An ICMP error about an echo.
    Refused {
        /// Who says so.
        from: IpAddr,
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
        /// Identifier of the echo.
        identifier: u16,
        /// Number of the echo.
        sequence: u16,
    },
    /// An ICMP error about a GRE packet to the remote; `length` is that of the datagram quoted.
    RefusedGre {
        /// Who says so.
        from: Ipv4Addr,
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
        /// Bytes of the whole datagram.
        length: u16,
    },
    /// A GRE packet of the remote that carries an echo reply.
    Carried {
        /// Source inside.
        from: Ipv4Addr,
        /// Identifier of the echo.
        identifier: u16,
    },
}

/// The sockets, and what they heard.
pub(super) struct Listener {
    remote: IpAddr,
    poller: Poller,
    sockets: Vec<PacketSocket>,
    batch: ReceiveBatch,
    /// GRE of the remote, by kind.
    pub(super) wire: Vec<WirePacket>,
    /// ICMP errors about our GRE other than those that a trace asks for.
    pub(super) errors: Vec<OuterError>,
    /// Everything else that was heard, for whoever asked.
    pub(super) heard: Vec<Heard>,
    seen: BTreeMap<Vec<u8>, usize>,
    deadline: Deadline,
    /// A wait ended by the deadline and not by its own time.
    cut: bool,
}

impl Listener {
    /// Listens for GRE of `remote` and ICMP everywhere, and for ICMPv6 on the tunnel device, or everywhere where the
    /// remote is reached over IPv6.
    pub(super) fn open(tunnel: u32, remote: IpAddr, deadline: Deadline) -> io::Result<Self> {
        let poller = Poller::new()?;
        let (gre_v4, gre_v6) = (filter::ip_protocol(gre::PROTOCOL), filter::ipv6_protocol(gre::PROTOCOL));
        let (icmp, icmp_v6) = (filter::ip_protocol(icmp::PROTOCOL), filter::ipv6_protocol(icmp::PROTOCOL_V6));
        // Before tc and the netdev hooks: what arrived, whatever becomes of it.
        let everywhere = Config {
            protocol: Protocol::All,
            kind: Kind::Dgram,
            ignore_outgoing: true,
            receive_buffer: Some(1 << 20),
            ..Config::default()
        };
        let icmp = Config { filter: Some(&icmp), ..everywhere };
        let inside_v6 = Config { protocol: Protocol::Ethertype(IPV6), ifindex: Some(tunnel), ..everywhere };
        let configs = match remote {
            IpAddr::V4(_) => [Config { filter: Some(&gre_v4), ..everywhere }, icmp, inside_v6],
            IpAddr::V6(_) => [
                Config { filter: Some(&gre_v6), ..everywhere },
                icmp,
                Config { filter: Some(&icmp_v6), ..everywhere },
            ],
        };
        let mut sockets = Vec::new();
        for config in &configs {
            let socket = PacketSocket::open(config).map_err(io::Error::other)?;
            poller.add(&socket, sockets.len() as u64, Interest::Readable)?;
            sockets.push(socket);
        }
        Ok(Self {
            remote,
            poller,
            sockets,
            batch: ReceiveBatch::new(BATCH, SLOT, 0),
            wire: Vec::new(),
            errors: Vec::new(),
            heard: Vec::new(),
            seen: BTreeMap::new(),
            deadline,
            cut: false,
        })
    }

    /// Makes a probe while there is time. One that was cut short by the deadline has seen nothing: what is not
    /// answered in half the time is not silent.
    pub(super) fn in_time<T>(&mut self, probe: impl FnOnce(&mut Self) -> Seen<T>) -> Seen<T> {
        if self.deadline.is_over() {
            return Err(NO_TIME.to_owned());
        }
        self.cut = false;
        let seen = probe(self);
        if self.cut { Err(NO_TIME.to_owned()) } else { seen }
    }

    /// Takes in what arrives until `enough` of it was heard or the time is over.
    pub(super) fn collect(&mut self, within: Duration, enough: impl Fn(&[Heard]) -> bool) {
        let begin = Instant::now();
        let allowed = within.min(self.deadline.left());
        let mut events = Events::with_capacity(self.sockets.len());
        loop {
            self.drain();
            if enough(&self.heard) {
                return;
            }
            let left = allowed.saturating_sub(begin.elapsed());
            if left.is_zero() {
                self.cut |= allowed < within;
                return;
            }
            // A wait that fails is a wait that is over.
            if self.poller.wait(&mut events, Some(left)).is_err() {
                return;
            }
        }
    }

    fn drain(&mut self) {
        for index in 0..self.sockets.len() {
            // On a busy host there is always more; what is heard within a moment is enough.
            for _ in 0..64 {
                match self.batch.recv(&self.sockets[index]) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => {
                        for packet in 0..count {
                            let ifindex = match self.batch.meta(packet).source {
                                Source::Link(link) => link.ifindex,
                                _ => 0,
                            };
                            let bytes = self.batch.data(packet).to_vec();
                            self.take(&bytes, ifindex);
                        }
                    }
                }
            }
        }
    }

    fn take(&mut self, packet: &[u8], ifindex: u32) {
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => {
                let Ok(header) = Ipv4Header::parse(packet) else { return };
                // Short frames are padded.
                let end = packet.len().min(usize::from(header.total_length));
                let Some(payload) = packet.get(header.header_len()..end) else { return };
                match header.protocol {
                    gre::PROTOCOL if self.remote == header.source => {
                        self.take_gre([header.source.into(), header.destination.into()], payload, ifindex);
                    }
                    icmp::PROTOCOL => self.take_icmp(header.source.into(), payload),
                    _ => {}
                }
            }
            Some(6) => self.take_v6(packet, ifindex),
            _ => {}
        }
    }

    fn take_gre(&mut self, [source, destination]: [IpAddr; 2], payload: &[u8], ifindex: u32) {
        let Ok((header, length)) = GreHeader::parse(payload) else { return };
        let inner = payload.get(length..).unwrap_or_default();
        let inside = (header.protocol_type == IPV4).then(|| Ipv4Header::parse(inner).ok()).flatten();
        let inside_v6 = || Ipv6Header::parse(inner).ok().map(|inside| inside.source.into());
        let inside_v6 = (header.protocol_type == IPV6).then(inside_v6).flatten();
        let packet = WirePacket {
            source,
            destination,
            ifindex,
            key: header.key,
            checksum: header.checksum.is_some(),
            sequence: header.sequence_number.is_some(),
            inner_source: inside.map(|inside| inside.source.into()).or(inside_v6),
            count: 1,
        };
        let kind = format!("{packet:?}").into_bytes();
        match self.seen.get(&kind) {
            Some(index) => self.wire[*index].count += 1,
            // A busy tunnel has as many kinds as hosts behind it.
            None if self.wire.len() >= MOST_KINDS => {}
            None => {
                self.seen.insert(kind, self.wire.len());
                self.wire.push(packet);
            }
        }
        let Some(inside) = inside.filter(|inside| inside.protocol == icmp::PROTOCOL) else { return };
        let message = inner.get(inside.header_len()..).unwrap_or_default();
        if let Some((echo, _)) = Echo::parse(message).filter(|(echo, _)| echo.is_reply) {
            self.heard.push(Heard::Carried { from: inside.source, identifier: echo.identifier });
        }
    }

    fn take_icmp(&mut self, from: IpAddr, message: &[u8]) {
        if let Some((echo, _)) = Echo::parse(message) {
            if echo.is_reply {
                let (identifier, sequence) = (echo.identifier, echo.sequence_number);
                self.heard.push(Heard::Reply { from, identifier, sequence });
            }
            return;
        }
        let Some(quote) = Quote::parse(message) else { return };
        // What is quoted may end behind the first eight bytes of its payload.
        let packet = quote.packet;
        let field = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
        let header = usize::from(packet.first().copied().unwrap_or(0) & 0x0f) * 4;
        let (Some(protocol), Some(length)) = (packet.get(9).copied(), field(2)) else { return };
        let to = packet.get(16..20).and_then(|bytes| bytes.first_chunk::<4>()).copied();
        match (protocol, from) {
            (gre::PROTOCOL, IpAddr::V4(from)) if to.is_some_and(|to| self.remote == IpAddr::from(to)) => {
                let (kind, code) = (quote.kind, quote.code);
                self.heard.push(Heard::RefusedGre { from, kind, code, length });
                let error = OuterError { from: from.into(), kind, code, mtu: quote.next_hop_mtu.into() };
                if kind != TIME_EXCEEDED && !self.errors.contains(&error) {
                    self.errors.push(error);
                }
            }
            (icmp::PROTOCOL, from) => {
                if let (Some(identifier), Some(sequence)) = (field(header + 4), field(header + 6)) {
                    let (kind, code) = (quote.kind, quote.code);
                    self.heard.push(Heard::Refused { from, kind, code, identifier, sequence });
                }
            }
            _ => {}
        }
    }

    fn take_v6(&mut self, packet: &[u8], ifindex: u32) {
        let Ok(header) = Ipv6Header::parse(packet) else { return };
        // Short frames are padded.
        let end = packet.len().min(ipv6::LEN + usize::from(header.payload_length));
        let Chain::To { protocol, at, .. } = extension::follow(packet) else { return };
        let Some(payload) = packet.get(at..end) else { return };
        let source = IpAddr::V6(header.source);
        match protocol {
            gre::PROTOCOL if source == self.remote => {
                self.take_gre([source, header.destination.into()], payload, ifindex);
            }
            icmp::PROTOCOL_V6 => self.take_icmp_v6(source, payload),
            _ => {}
        }
    }

    fn take_icmp_v6(&mut self, from: IpAddr, message: &[u8]) {
        // Length and checksum are the stack's to verify: a merged or padded packet is not ours to judge.
        if let (Some(129), Some(&[a, b, c, d])) = (message.first(), message.get(4..8)) {
            let (identifier, sequence) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            self.heard.push(Heard::Reply { from, identifier, sequence });
            return;
        }
        let Some(QuoteV6 { kind, code, word, packet }) = QuoteV6::parse(message) else { return };
        let (Ok(quoted), Chain::To { protocol, at, .. }) =
            (Ipv6Header::parse(packet), extension::follow(packet))
        else {
            return;
        };
        match (protocol, packet.get(at..at + 8)) {
            (gre::PROTOCOL, _) if self.remote == quoted.destination => {
                let mtu = if kind == icmp::V6_PACKET_TOO_BIG { word } else { 0 };
                let error = OuterError { from, kind, code, mtu };
                if kind != icmp::V6_TIME_EXCEEDED && !self.errors.contains(&error) {
                    self.errors.push(error);
                }
            }
            (icmp::PROTOCOL_V6, Some(&[128, _, _, _, a, b, c, d])) => {
                let (identifier, sequence) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                self.heard.push(Heard::Refused { from, kind, code, identifier, sequence });
            }
            _ => {}
        }
    }
}

/// An echo request with `size` bytes of data.
pub(super) fn echo_message(to: IpAddr, identifier: u16, sequence_number: u16, size: usize) -> Vec<u8> {
    let echo = Echo { is_reply: false, identifier, sequence_number };
    let data = vec![0x67; size];
    let mut buffer = vec![0; icmp::HEADER_LEN + size];
    // The buffer is as long as it has to be; the kernel fills in the checksum of ICMPv6.
    let _written = match to {
        IpAddr::V4(_) => echo.emit(&data, &mut buffer),
        IpAddr::V6(to) => echo.emit_v6(Ipv6Addr::UNSPECIFIED, to, &data, &mut buffer),
    };
    buffer
}
