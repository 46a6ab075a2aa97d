//! The outer side: what receives GRE from the network and what sends it.
//!
//! Two ways to receive, and tunnels of both kinds may exist side by side:
//!
//! - packet socket: sees what GRO merged together with the facts about it, but comes before the
//!   host's INPUT and PREROUTING rules and its IPsec policies;
//! - raw socket: behind all of them, and blind to the facts.
//!
//! Sending is the same for both: a raw socket, which also keeps the kernel from answering GRE with
//! "protocol unreachable". There is only one, since each is given a copy of every GRE packet that arrives.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use greway_linux::batch::{Control, ReceiveBatch, Target};
use greway_linux::packet::{Config, Fanout, Kind, PacketSocket, Protocol};
use greway_linux::raw::{MtuDiscovery, RawSocket};
use greway_linux::{OpenError, filter};

use greway_engine::Outer;

/// How a tunnel receives from the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Receive {
    /// By packet socket.
    Packet,
    /// By raw socket.
    Raw,
}

impl Receive {
    /// The word of `underlay`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::Raw => "raw",
        }
    }
}

/// IP protocol number of GRE (RFC 2784 §3).
pub(crate) const GRE: u8 = 47;

/// The sockets on the underlay, those for receiving opened when a tunnel needs them.
#[derive(Debug)]
pub(crate) struct Underlay {
    packet: Option<PacketSocket>,
    raw: Option<RawSocket>,
    sender: RawSocket,
    /// What the sender does now.
    dont_fragment: bool,
}

impl Underlay {
    pub(crate) fn open() -> Result<Self, OpenError> {
        let sender = RawSocket::open_ipv4_muted(GRE)?;
        let set = |result: io::Result<()>, step| result.map_err(|source| OpenError { step, source });
        set(sender.set_mtu_discovery(MtuDiscovery::Do), "IP_MTU_DISCOVER")?;
        // Nothing is received here; errors are read from what a send returns.
        set(sender.set_error_queue(false), "IP_RECVERR")?;
        set(sender.set_buffers(4 << 10, SEND_BUFFER), "SO_SNDBUF")?;
        Ok(Self { packet: None, raw: None, sender, dont_fragment: true })
    }

    /// Opens what `way` needs; true when it was not open before.
    pub(crate) fn need(&mut self, way: Receive) -> Result<bool, OpenError> {
        match way {
            Receive::Packet if self.packet.is_none() => self.packet = Some(open_packet()?),
            Receive::Raw if self.raw.is_none() => self.raw = Some(open_raw()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Closes what no tunnel needs.
    pub(crate) fn release(&mut self, way: Receive) {
        match way {
            Receive::Packet => self.packet = None,
            Receive::Raw => self.raw = None,
        }
    }

    /// The socket of a way, where it is open.
    pub(crate) fn socket(&self, way: Receive) -> Option<BorrowedFd<'_>> {
        match way {
            Receive::Packet => self.packet.as_ref().map(AsFd::as_fd),
            Receive::Raw => self.raw.as_ref().map(AsFd::as_fd),
        }
    }

    /// Whether a way is open.
    pub(crate) fn is_open(&self, way: Receive) -> bool {
        self.socket(way).is_some()
    }

    /// Takes what arrived, up to a full batch.
    pub(crate) fn receive(&self, way: Receive, batch: &mut ReceiveBatch) -> io::Result<usize> {
        match self.socket(way) {
            Some(socket) => batch.recv(socket),
            None => Ok(0),
        }
    }

    /// The socket that sends, set to send with or without DF: no control message can say so.
    pub(crate) fn sender(&mut self, dont_fragment: bool) -> BorrowedFd<'_> {
        if self.dont_fragment != dont_fragment {
            let discovery = if dont_fragment { MtuDiscovery::Do } else { MtuDiscovery::Dont };
            match self.sender.set_mtu_discovery(discovery) {
                Ok(()) => self.dont_fragment = dont_fragment,
                Err(error) => tracing::warn!(%error, "DF cannot be changed"),
            }
        }
        self.sender.as_fd()
    }
}

/// How the kernel is told the outer header. `bound_to`: the device to leave by, which is also the one that a
/// link-local destination is of.
pub(crate) fn address(outer: &Outer, bound_to: Option<u32>) -> (Target, Control) {
    let control = Control {
        ttl: Some(outer.ttl),
        tos: Some(outer.tos),
        source: outer.source.filter(|source| !source.is_unspecified()),
        ifindex: bound_to,
        flow_label: Some(outer.flow_label).filter(|label| *label != 0),
        encapsulation_limit: outer.encap_limit,
    };
    let target = match outer.destination {
        IpAddr::V4(address) => Target::Ipv4(address),
        IpAddr::V6(address) => Target::Ipv6 { address, scope_id: bound_to.unwrap_or(0) },
    };
    (target, control)
}

fn open_packet() -> Result<PacketSocket, OpenError> {
    let program = filter::ip_protocol(GRE);
    PacketSocket::open(&Config {
        // One ethertype: behind tc ingress, so that only what a fast path declines comes here.
        protocol: Protocol::Ethertype(0x0800),
        kind: Kind::Raw,
        vnet_header: true,
        ignore_outgoing: true,
        receive_buffer: Some(RECEIVE_BUFFER),
        // For reassembly only: a group of one.
        fanout: Some(Fanout { group: None, defrag: true }),
        filter: Some(&program),
        ..Config::default()
    })
}

fn open_raw() -> Result<RawSocket, OpenError> {
    let socket = RawSocket::open_ipv4(GRE)?;
    let set = |result: io::Result<()>, step| result.map_err(|source| OpenError { step, source });
    set(socket.set_error_queue(false), "IP_RECVERR")?;
    // A full buffer makes the kernel answer "protocol unreachable": 8 MiB at the least.
    set(socket.set_buffers(RECEIVE_BUFFER, 4 << 10), "SO_RCVBUF")?;
    Ok(socket)
}

const RECEIVE_BUFFER: usize = 16 << 20;
const SEND_BUFFER: usize = 8 << 20;
