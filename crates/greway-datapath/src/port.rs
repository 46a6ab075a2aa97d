//! One tunnel as the worker holds it.

use std::io;
use std::sync::Arc;

use greway_engine::{Tunnel, TunnelCounters, TunnelState, clamp_mss};
use greway_linux::OpenError;
use greway_spec::{DeviceName, TunnelSpec};

use crate::overlay::{Inside, Overlay};
use crate::path_mtu::PathMtu;
use crate::underlay::Receive;

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

/// Numbers reserved at a time. At 1 Mpps one write to /run every 65 ms.
const RESERVATION: u32 = 65_536;

/// A tunnel at work.
pub(crate) struct Port {
    pub(crate) name: DeviceName,
    pub(crate) spec: TunnelSpec,
    pub(crate) tunnel: Tunnel,
    pub(crate) state: TunnelState,
    pub(crate) inside: Inside,
    pub(crate) receive: Receive,
    pub(crate) bound_to: Option<u32>,
    pub(crate) device_mtu: u32,
    pub(crate) path_mtu: PathMtu,
    sequence: Box<dyn ReserveSequence>,
    reserved: u32,
}

impl Port {
    /// Opens the tunnel device's side.
    pub(crate) fn open(port: PortSpec, counters: Arc<TunnelCounters>) -> Result<Self, OpenError> {
        let mut tunnel = Tunnel::new(&port.spec, counters);
        tunnel.set_segment_limit(port.device_mtu);
        let ethernet = tunnel.carries_ethernet();
        Ok(Self {
            name: port.spec.name.clone(),
            tunnel,
            spec: port.spec,
            state: TunnelState::starting_at(port.first_sequence),
            inside: Inside::open(port.overlay, ethernet)?,
            receive: port.receive,
            bound_to: port.bound_to,
            device_mtu: port.device_mtu,
            path_mtu: PathMtu::unknown(),
            sequence: port.sequence,
            // The first packet reserves.
            reserved: port.first_sequence,
        })
    }

    /// Takes other parameters from the next packet on; counters and sequence numbers go on.
    pub(crate) fn change(&mut self, spec: TunnelSpec, bound_to: Option<u32>) {
        self.tunnel = Tunnel::new(&spec, Arc::clone(self.tunnel.counters()));
        self.tunnel.set_segment_limit(self.device_mtu);
        if !spec.iseq {
            self.state.expected_sequence = 0;
        }
        self.bound_to = bound_to;
        self.path_mtu = PathMtu::unknown();
        self.spec = spec;
    }

    /// Lowers the segment size that a TCP handshake announces, either way, to what fits.
    pub(crate) fn clamp_mss(&self, protocol_type: u16, packet: &mut [u8], unfilled: bool, forwards: bool) {
        let mtu = self.path_mtu.inside(&self.tunnel, self.device_mtu);
        clamp_mss(&self.tunnel, protocol_type, packet, unfilled, mtu, forwards);
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
        let next = TunnelState { next_sequence: self.state.next_sequence.wrapping_add(MARGIN), ..self.state };
        if !self.tunnel.sends_sequence() || !next.needs_reservation(self.reserved) {
            return;
        }
        self.reserved = self.state.next_sequence.wrapping_add(RESERVATION);
        if let Err(error) = self.sequence.reserve(self.reserved) {
            tracing::warn!(tunnel = %self.name, %error, "the sequence number cannot be kept for a restart");
        }
    }
}
