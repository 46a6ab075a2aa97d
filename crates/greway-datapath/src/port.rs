//! One tunnel as the worker holds it.

use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use greway_engine::{
    CounterSnapshot, DropReason, Endpoints, GsoKind, Heard, LinkErrors, Train, Tunnel, TunnelCounters,
    TunnelState, clamp_mss,
};
use greway_linux::packet::PacketSocket;
use greway_linux::{MacAddr, OpenError};
use greway_spec::{DeviceName, TunnelSpec};

use crate::exit::{Leave, ShortWay};
use crate::icmp::TunnelIcmp;
use crate::into_device::Trains;
use crate::local::LocalAddresses;
use crate::overlay::{Inside, Overlay};
use crate::path_mtu::{Paths, Way};
use crate::turn::Turn;
use crate::underlay::{Inlet, Receive};

/// Everything that is needed to carry a tunnel.
pub struct PortSpec {
    /// The tunnel.
    pub spec: TunnelSpec,
    /// Its device.
    pub overlay: Overlay,
    /// How it receives.
    pub receive: Receive,
    /// Index of the device that sent packets are bound to (`dev`).
    pub bound_to: Option<u32>,
    /// MTU of the tunnel device in bytes: what is larger on receive may not fit.
    pub device_mtu: u32,
    /// The first sequence number to send.
    pub first_sequence: u32,
    /// Told how far numbers are going to be used, before they are.
    pub sequence: Box<dyn ReserveSequence>,
    /// The neighbours that the device has already, with their hardware addresses: a tunnel without a remote knows its
    /// endpoints from them.
    pub neighbours: Vec<(IpAddr, MacAddr)>,
}

/// Where a tunnel's sequence number is kept across the death of the process: a peer that checks
/// numbers would drop everything of a daemon that starts at 0 again.
pub trait ReserveSequence: Send {
    /// Makes sure that a later start begins at `up_to` or beyond.
    ///
    /// # Errors
    /// The system's; the tunnel goes on all the same.
    fn reserve(&mut self, up_to: u32) -> io::Result<()>;
}

/// What a tunnel's counters are read through: each worker has its own.
#[derive(Clone, Debug)]
pub struct Traffic(Arc<[Arc<TunnelCounters>]>);

impl Traffic {
    pub(crate) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Arc::default()).collect())
    }

    /// What all workers have counted.
    #[must_use]
    pub fn snapshot(&self) -> CounterSnapshot {
        let mut sum = CounterSnapshot::default();
        self.0.iter().for_each(|counters| sum.add(&counters.snapshot()));
        sum
    }

    /// Packets that userspace has sent, of all workers.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.0.iter().map(|counters| counters.tx_packets()).sum()
    }

    /// Whether it is the same tunnel's, carried without a break.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// ICMP errors that senders are still to be told of (ER-04), by whichever worker has their next packet.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    /// There are some: else nobody asks further.
    some: AtomicBool,
    errors: Mutex<LinkErrors>,
    /// How often a sender was told that the far end cannot be reached.
    told: AtomicU64,
}

impl Troubles {
    /// One more was received; how many there are now.
    pub(crate) fn record(&self, now_ms: u64) -> u32 {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.record(now_ms);
        self.some.store(true, Relaxed);
        errors.pending()
    }

    /// A packet is sent: true when its sender is to be told.
    pub(crate) fn take(&self, now_ms: u64) -> bool {
        if !self.some.load(Relaxed) {
            return false;
        }
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let tell = errors.take(now_ms);
        self.some.store(errors.pending() > 0, Relaxed);
        if tell {
            self.told.fetch_add(1, Relaxed);
        }
        tell
    }
}

/// Numbers reserved at a time. At 1 Mpps one write to /run every 65 ms.
const RESERVATION: u32 = 65_536;

/// A tunnel at work.
pub(crate) struct Port {
    pub(crate) name: DeviceName,
    pub(crate) spec: Arc<TunnelSpec>,
    pub(crate) tunnel: Tunnel,
    pub(crate) state: TunnelState,
    pub(crate) inside: Inside,
    pub(crate) receive: Receive,
    pub(crate) bound_to: Option<u32>,
    pub(crate) device_mtu: u32,
    pub(crate) paths: Paths,
    /// The endpoints of a tunnel without a remote.
    pub(crate) endpoints: Option<Endpoints>,
    /// By which packets leave past the IP stack, where some may.
    pub(crate) short_way: Option<ShortWay>,
    /// It was said that the kernel allows no flow label.
    pub(crate) unlabelled: bool,
    /// Why nothing may be sent, if nothing may.
    pub(crate) barred: Option<DropReason>,
    /// ICMP errors that senders are still to be told of.
    pub(crate) errors: Arc<Troubles>,
    /// What was said about its packets; the lead hears it.
    pub(crate) heard: Heard,
    /// How much is taken from its device at once.
    pub(crate) turn: Turn,
    /// Packets came out of its device since what was lost there was last counted.
    pub(crate) stirred: bool,
    /// Whether its device takes datagrams that were put together.
    pub(crate) trains: Cell<Trains>,
    /// The lead's, who alone sends any.
    sequence: Option<Box<dyn ReserveSequence>>,
    reserved: u32,
}

impl Port {
    /// Opens the tunnel device's side, of as many workers as there are counters. The lead's comes first.
    pub(crate) fn open(
        port: PortSpec,
        traffic: &Traffic,
        shared: Option<Vec<Arc<PacketSocket>>>,
    ) -> Result<Vec<Self>, OpenError> {
        let PortSpec { overlay, receive, bound_to, device_mtu, first_sequence, neighbours, .. } = port;
        let (spec, errors) = (Arc::new(port.spec), Arc::<Troubles>::default());
        let (ethernet, for_one) = (spec.mode.is_ethernet(), is_for_one(&spec));
        let insides = Inside::open(overlay, ethernet, for_one, traffic.0.len(), shared)?;
        let mut sequence = Some(port.sequence);
        let each = |(inside, counters): (Inside, &Arc<TunnelCounters>)| {
            let mut tunnel = Tunnel::new(&spec, Arc::clone(counters));
            tunnel.set_segment_limit(device_mtu);
            let mut endpoints = endpoints(&tunnel, &spec, None);
            for (address, link) in &neighbours {
                endpoints.iter_mut().for_each(|known| known.learn_neighbour(*address, link.octets()));
            }
            Self {
                name: spec.name.clone(),
                tunnel,
                spec: Arc::clone(&spec),
                state: TunnelState::starting_at(first_sequence),
                inside,
                receive,
                bound_to,
                device_mtu,
                paths: Paths::unknown(),
                endpoints,
                short_way: None,
                unlabelled: false,
                barred: None,
                errors: Arc::clone(&errors),
                heard: Heard::default(),
                turn: Turn::default(),
                stirred: false,
                trains: Cell::default(),
                sequence: sequence.take(),
                // The first packet reserves.
                reserved: first_sequence,
            }
        };
        Ok(insides.into_iter().zip(&*traffic.0).map(each).collect())
    }

    /// Whether all that comes out of its device is one worker's: what is sent is numbered over all flows, or questions
    /// say where packets go.
    pub(crate) fn is_for_one(&self) -> bool {
        is_for_one(&self.spec)
    }

    /// Looks at the ends of a tunnel over IPv6 again: nothing is sent unless `local` is settled here, nor to ourselves
    /// (T6-01; linux net/ipv6/ip6_tunnel.c `ip6_tnl_xmit_ctl`, v6.18).
    pub(crate) fn look_at_ends(&mut self, addresses: &LocalAddresses) {
        let here = |address| addresses.has(address, self.bound_to);
        self.barred = match (self.tunnel.over_ipv6(), self.tunnel.local(), self.tunnel.remote()) {
            (true, Some(local), _) if !here(local) => Some(DropReason::LocalNotHere),
            (true, _, Some(remote)) if here(remote) && !self.spec.allow_localremote => {
                Some(DropReason::RemoteIsHere)
            }
            _ => None,
        };
    }

    /// Counts what was lost because the sockets at the tunnel device were full. A socket that nothing was read from has
    /// something to be read if it was full, and is asked then.
    pub(crate) fn count_spilled(&mut self) {
        if std::mem::take(&mut self.stirred) {
            self.tunnel.counters().record_drops(DropReason::QueueFull, self.inside.spilled());
        }
    }

    /// The socket that it receives by.
    pub(crate) fn inlet(&self) -> Inlet {
        Inlet { over_ipv6: self.tunnel.over_ipv6(), way: self.receive }
    }

    /// Takes other parameters from the next packet on; counters and sequence numbers go on.
    pub(crate) fn change(&mut self, spec: Arc<TunnelSpec>, bound_to: Option<u32>) {
        let tunnel = Tunnel::new(&spec, Arc::clone(self.tunnel.counters()));
        let before = std::mem::replace(&mut self.tunnel, tunnel);
        self.tunnel.set_segment_limit(self.device_mtu);
        self.state.change(&before, &self.tunnel);
        self.bound_to = bound_to;
        self.short_way = None;
        self.paths = Paths::unknown();
        self.endpoints = endpoints(&self.tunnel, &spec, self.endpoints.take());
        self.spec = spec;
    }

    /// What was said about its packets.
    pub(crate) fn icmp(&self) -> TunnelIcmp {
        TunnelIcmp { heard: self.heard.entries().to_vec(), told: self.errors.told.load(Relaxed) }
    }

    /// Lowers the segment size that a TCP handshake announces, either way, to what fits.
    /// `endpoint`: where the packet goes, in a tunnel without a remote.
    pub(crate) fn clamp_mss(
        &self,
        protocol_type: u16,
        packet: &mut [u8],
        unfilled: bool,
        endpoint: Option<IpAddr>,
        forwards: bool,
    ) {
        let mtu = self.paths.inside(endpoint, &self.tunnel, self.device_mtu);
        clamp_mss(&self.tunnel, protocol_type, packet, unfilled, mtu, forwards);
    }

    /// How a packet to `endpoint` leaves; to the tunnel's remote, where it has one.
    pub(crate) fn way(&self, endpoint: Option<IpAddr>) -> Way {
        Way { endpoint, bound_to: self.bound_to, mark: self.spec.fwmark }
    }

    /// Whether a super-packet of this kind may leave whole. What is marked is the raw and the packet socket's.
    pub(crate) fn takes_whole(&self, kind: GsoKind) -> bool {
        self.spec.fwmark == 0 && self.short_way.as_ref().is_some_and(|way| way.takes_whole(kind))
    }

    /// How a train leaves.
    pub(crate) fn leave(&mut self, train: &Train, now_ms: u64) -> Leave {
        match &mut self.short_way {
            Some(way) => way.leave(train, now_ms),
            None => Leave::ByStack { dont_fragment: train.outer().dont_fragment },
        }
    }

    /// Takes another MTU of the tunnel device in bytes.
    pub(crate) fn set_mtu(&mut self, bytes: u32) {
        self.device_mtu = bytes;
        self.tunnel.set_segment_limit(bytes);
    }

    /// Makes sure that the numbers of a packet of up to 64 KiB, split, are reserved.
    pub(crate) fn reserve_sequence(&mut self) {
        /// More segments than any super-packet has.
        const MARGIN: u32 = 4_096;
        let next = TunnelState::starting_at(self.state.next_sequence.wrapping_add(MARGIN));
        if !self.tunnel.sends_sequence() || !next.needs_reservation(self.reserved) {
            return;
        }
        self.reserved = self.state.next_sequence.wrapping_add(RESERVATION);
        if let Some(Err(error)) = self.sequence.as_mut().map(|kept| kept.reserve(self.reserved)) {
            tracing::warn!(tunnel = %self.name, %error, "the sequence number cannot be kept for a restart");
        }
    }
}

/// See [`Port::is_for_one`]. Over IPv4 a hardware address says itself which endpoint it stands for.
pub(crate) fn is_for_one(spec: &TunnelSpec) -> bool {
    spec.oseq || spec.mode.over_ipv6() && spec.remote.is_none() && !spec.mode.is_ethernet()
}

/// The endpoints of a tunnel without a remote; those that were known stay so.
fn endpoints(tunnel: &Tunnel, spec: &TunnelSpec, known: Option<Endpoints>) -> Option<Endpoints> {
    let neighbours = &spec.inner.neighbours;
    let mut endpoints = known.unwrap_or_else(|| Endpoints::new(tunnel.over_ipv6(), neighbours));
    for neighbour in neighbours {
        endpoints.learn(neighbour.endpoint);
    }
    tunnel.chooses_endpoint().then_some(endpoints)
}
