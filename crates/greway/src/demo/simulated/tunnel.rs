//! One end of a tunnel on a simulated host: what the daemon's data plane is to the engine, in small.
//!
//! Every decision about a packet is the engine's. Here its results are put together: delivery header, GRE header and
//! payload into one datagram, and a payload packet cut out of one.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use greway_control::status::{
    self, Carried, Counters, Device as DeviceStatus, Facts, Peer, State, TunnelStatus,
};
use greway_engine::{
    Gso, GsoKind, Ingress, Offload, Outer, Partial, Receipt, Train, TunnelCounters, TunnelIndex, TunnelState,
    TunnelTable, UnderlayCounters, Unmatched, Verdict, decapsulate, encapsulate,
};
use greway_spec::{InnerAddress, TunnelSpec};
use greway_wire::ethertype;

use crate::demo::world::Status;

use super::host::{Device, LINK_MTU, Route};
use super::packet::{IPV4_HEADER, Packet, TCP_HEADER};

/// tun0.
pub(super) struct Tunnel {
    spec: TunnelSpec,
    table: TunnelTable,
    /// The one tunnel of the table, at index 0.
    slots: Vec<(Arc<greway_engine::Tunnel>, TunnelState)>,
    underlay: UnderlayCounters,
    unmatched: Unmatched,
    train: Train,
    identification: u16,
    started: Instant,
}

/// The underlay device's number; there is one only.
const IFINDEX: u32 = 1;

impl Tunnel {
    /// A tunnel that has carried nothing yet.
    pub(super) fn new(spec: TunnelSpec) -> Self {
        let mut tunnel = Self {
            spec: spec.clone(),
            table: TunnelTable::default(),
            slots: Vec::new(),
            underlay: UnderlayCounters::new(),
            unmatched: Unmatched::new(),
            train: Train::new(),
            identification: 0,
            started: Instant::now(),
        };
        tunnel.change(spec);
        tunnel
    }

    /// Another configuration; what was counted stays.
    pub(super) fn change(&mut self, spec: TunnelSpec) {
        let (counters, state) = match self.slots.pop() {
            Some((tunnel, state)) => (Arc::clone(tunnel.counters()), state),
            None => (Arc::new(TunnelCounters::new()), TunnelState::default()),
        };
        self.table = TunnelTable::new([(TunnelIndex(0), &spec, None)].into_iter());
        self.slots.push((Arc::new(greway_engine::Tunnel::new(&spec, counters)), state));
        self.spec = spec;
    }

    /// Its own inner address.
    pub(super) fn address(&self) -> Option<Ipv4Addr> {
        ipv4(self.inner()?.local)
    }

    /// The far end's inner address.
    pub(super) fn peer(&self) -> Option<Ipv4Addr> {
        ipv4(self.inner()?.peer?)
    }

    /// The route that the inner address brings with it.
    pub(super) fn connected(&self) -> Option<Route> {
        Some(Route { network: self.peer()?, length: self.inner()?.prefix_length, device: Device::Tunnel })
    }

    /// Whose source address is translated, and to what.
    pub(super) fn translation(&self) -> Option<(Ipv4Addr, Ipv4Addr)> {
        Some((self.peer()?, self.spec.inner.snat?))
    }

    /// Bytes of the largest payload packet that becomes one packet on a link.
    pub(super) fn mtu(&self) -> u16 {
        let overhead = u16::try_from(self.spec.overhead()).expect("three headers are a few dozen bytes");
        LINK_MTU - overhead
    }

    /// The datagrams that carry a packet.
    pub(super) fn encapsulate(&mut self, packet: &Packet, out: &mut Vec<Packet>) {
        let now = self.now();
        let Some((tunnel, state)) = self.slots.first_mut() else { return };
        let offload = offload_of(packet);
        let done = encapsulate(tunnel, state, ethertype::IPV4, &packet.bytes, offload, None, &mut self.train);
        if done.is_err() {
            // Counted by the engine, and shown by the status.
            return;
        }
        for segment in self.train.segments() {
            self.identification = self.identification.wrapping_add(1);
            let mut outer = [0; Outer::MAX_LEN];
            let length = self.train.outer().emit(segment.total_len(), self.identification, &mut outer);
            let mut bytes = Vec::with_capacity(length + segment.total_len());
            bytes.extend(&outer[..length]);
            bytes.extend(segment.header);
            bytes.extend(&packet.bytes[segment.payload]);
            out.push(Packet { bytes, gso_size: None });
        }
        tunnel.counters().record_sent(packet.bytes.len(), now);
    }

    /// The packet that a datagram carries, if it is for this tunnel.
    pub(super) fn decapsulate(&mut self, datagram: Packet) -> Option<Packet> {
        let now = self.now();
        let mut ingress = Ingress {
            table: &self.table,
            tunnels: &mut self.slots,
            underlay: &self.underlay,
            unmatched: &mut self.unmatched,
        };
        let mut bytes = datagram.bytes;
        let receipt = Receipt::Facts { offload: Offload::NONE, ifindex: IFINDEX };
        match decapsulate(&mut ingress, &mut bytes, receipt, now) {
            Verdict::Deliver(delivery) if delivery.protocol_type == ethertype::IPV4 => {
                bytes.truncate(delivery.inner.end);
                bytes.drain(..delivery.inner.start);
                Some(Packet { bytes, gso_size: None })
            }
            _ => None,
        }
    }

    /// What `greway status` would say; `echo` is what came of an echo to the peer.
    pub(super) fn status(&self, echo: Option<Duration>) -> Result<Status> {
        let (tunnel, _) = self.slots.first().context("there is no tun0")?;
        let counted = tunnel.counters().snapshot();
        let since = |then: u64| (then > 0).then(|| self.now().saturating_sub(then) as f64 / 1e3);
        let drops = counted.drops.iter().map(|(reason, packets)| status::Drop {
            reason: reason.name().to_owned(),
            direction: format!("{:?}", reason.direction()).to_lowercase(),
            packets: *packets,
            explanation: reason.explain().to_owned(),
        });
        let mut report = TunnelStatus {
            spec: self.spec.clone(),
            verdict: String::new(),
            state: State::Idle,
            moved: false,
            device: Some(DeviceStatus {
                index: 1,
                up: true,
                mtu: u32::from(self.mtu()),
                addresses: Vec::new(),
            }),
            datapath: Carried {
                datapath: "userspace".to_owned(),
                not_ebpf: None,
                witnesses: None,
                overlay: "simulated".to_owned(),
                underlay: "simulated".to_owned(),
                why: "no network namespace".to_owned(),
                exit: None,
                super_packets: false,
                early_drop: false,
            },
            counters: Counters {
                received_packets: counted.rx_packets,
                received_bytes: counted.rx_bytes,
                sent_packets: counted.tx_packets,
                sent_bytes: counted.tx_bytes,
            },
            last_received_seconds: since(counted.last_rx_ms),
            last_sent_seconds: since(counted.last_tx_ms),
            sequence: None,
            drops: drops.collect(),
            left_to_userspace: Vec::new(),
            icmp_errors: Vec::new(),
            unreachable_told: 0,
            peer: self.peer().map(|peer| Peer {
                address: peer.to_string(),
                answers: Some(echo.is_some()),
                round_trip_ms: echo.map(|time| time.as_secs_f64() * 1e3),
            }),
            notes: Vec::new(),
            findings: Vec::new(),
        };
        let unmatched: Vec<_> = self.unmatched().collect();
        (report.state, report.verdict) = Facts { tunnel: &report, unmatched: &unmatched }.verdict();
        let Counters { received_packets, received_bytes, sent_packets, sent_bytes } = report.counters;
        let mut lines = vec![
            report.verdict,
            String::new(),
            self.spec.describe(),
            format!("  sent        {sent_packets} packets, {sent_bytes} bytes"),
            format!("  received    {received_packets} packets, {received_bytes} bytes"),
        ];
        lines.extend(report.drops.iter().map(|drop| {
            format!(
                "  dropped     {} {} ({}): {}",
                drop.packets, drop.reason, drop.direction, drop.explanation
            )
        }));
        lines.extend(unmatched.iter().map(|packet| {
            let key = packet.key.map_or_else(|| "no key".to_owned(), |key| format!("key {key}"));
            format!("  no match    {} from {} with {key}", packet.packets, packet.source)
        }));
        Ok(Status { lines, up: report.state == State::Up })
    }

    fn unmatched(&self) -> impl Iterator<Item = status::Unmatched> {
        self.unmatched.entries().iter().map(|entry| status::Unmatched {
            source: entry.source.to_string(),
            destination: entry.destination.to_string(),
            key: entry.key,
            protocol_type: entry.protocol_type,
            packets: entry.count,
            last_seen_seconds: self.now().saturating_sub(entry.last_seen_ms) as f64 / 1e3,
        })
    }

    fn inner(&self) -> Option<&InnerAddress> {
        self.spec.inner.addresses.first()
    }

    /// Milliseconds of this tunnel's own clock.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// What a device with offloads would have been told about the packet.
fn offload_of(packet: &Packet) -> Offload {
    let Some(size) = packet.gso_size else { return Offload::NONE };
    // The simulated hosts write headers without options.
    let partial = Partial { start: IPV4_HEADER as u16, offset: 16 };
    let header_len = (IPV4_HEADER + TCP_HEADER) as u16;
    Offload { partial: Some(partial), gso: Some(Gso { kind: GsoKind::Tcp4, size, header_len, ecn: false }) }
}
