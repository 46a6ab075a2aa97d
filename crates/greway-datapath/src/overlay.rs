//! The inner side: a packet socket on the peer end of a veth pair, or a TUN device.

use std::os::fd::{AsFd, BorrowedFd};

use greway_engine::Offload;
use greway_linux::batch::Auxdata;
use greway_linux::packet::{Config, Kind, PacketSocket, Protocol};
use greway_linux::vnet::{self, VnetHeader};
use greway_linux::{MacAddr, OpenError, tun};

use crate::offload;

/// Length of an Ethernet header without tags.
pub(crate) const ETHERNET: usize = 14;

/// What the daemon knows of a tunnel's device.
#[derive(Debug)]
pub enum Overlay {
    /// One end of a veth pair; the data plane works on the other.
    Veth {
        /// Index of the peer end.
        peer: u32,
        /// Hardware address of the tunnel device.
        device_address: MacAddr,
        /// Hardware address of the peer end.
        peer_address: MacAddr,
    },
    /// A TUN device that is open.
    Tun(tun::Tun),
}

/// The inner side at work.
#[derive(Debug)]
pub(crate) enum Inside {
    /// Frames on the peer end.
    Link {
        socket: PacketSocket,
        /// Destination and source of every frame that goes in.
        addresses: [u8; 12],
    },
    /// Packets of a TUN device.
    Tun(tun::Tun),
}

/// A packet as it came out of a tunnel device; the last chance to rewrite it.
pub(crate) struct Fresh<'a> {
    pub(crate) protocol_type: u16,
    pub(crate) packet: &'a mut [u8],
    pub(crate) offload: Offload,
}

impl<'a> Fresh<'a> {
    /// As it is to be encapsulated.
    pub(crate) fn done(self) -> Payload<'a> {
        let Self { protocol_type, packet, offload } = self;
        Payload { protocol_type, packet, offload }
    }
}

/// A packet that came out of a tunnel device.
pub(crate) struct Payload<'a> {
    pub(crate) protocol_type: u16,
    pub(crate) packet: &'a [u8],
    pub(crate) offload: Offload,
}

impl Inside {
    /// Opens the sockets.
    pub(crate) fn open(overlay: Overlay) -> Result<Self, OpenError> {
        match overlay {
            Overlay::Veth { peer, device_address, peer_address } => {
                let config = Config {
                    // Before tc ingress, where the fast path will decline to us later, and before
                    // whatever keeps these packets from the host's own stack.
                    protocol: Protocol::All,
                    kind: Kind::Raw,
                    ifindex: Some(peer),
                    vnet_header: true,
                    // What we put in ourselves is not to come back.
                    ignore_outgoing: true,
                    receive_buffer: Some(BUFFER),
                    send_buffer: Some(BUFFER),
                    ..Config::default()
                };
                let mut addresses = [0; 12];
                addresses[..6].copy_from_slice(&device_address.octets());
                addresses[6..].copy_from_slice(&peer_address.octets());
                Ok(Self::Link { socket: PacketSocket::open(&config)?, addresses })
            }
            Overlay::Tun(tun) => Ok(Self::Tun(tun)),
        }
    }

    /// The payload packet in a frame from the peer end; `None` for what is no payload of a layer-3
    /// tunnel or is described in a way that cannot be carried out.
    pub(crate) fn payload<'a>(
        frame: &'a mut [u8],
        header: Option<VnetHeader>,
        auxdata: Option<Auxdata>,
    ) -> Option<Fresh<'a>> {
        let protocol_type = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
        // A length and not an EtherType: an LLC frame, for which GRE has no name (RFC 2784 §2.4).
        let named = protocol_type >= 0x0600;
        // A tag was taken off: the packet is of a VLAN on top of the device.
        let tagged = auxdata.is_some_and(|auxdata| auxdata.vlan.is_some());
        let offload = offload::parse(&header?, ETHERNET)?;
        let packet = frame.get_mut(ETHERNET..)?;
        (named && !tagged).then_some(Fresh { protocol_type, packet, offload })
    }

    /// The payload packet that a TUN device gave: its type is its version.
    pub(crate) fn tun_payload<'a>(packet: &'a mut [u8], header: &[u8; vnet::LEN]) -> Option<Fresh<'a>> {
        let protocol_type = match packet.first()? >> 4 {
            4 => 0x0800,
            6 => 0x86dd,
            _ => return None,
        };
        let offload = offload::parse(&VnetHeader::parse(header).ok()?, 0)?;
        Some(Fresh { protocol_type, packet, offload })
    }

    /// What goes in front of a payload packet on its way into a veth pair.
    pub(crate) fn front(addresses: &[u8; 12], protocol_type: u16, offload: &Offload) -> [u8; FRONT] {
        let mut front = [0; FRONT];
        front[..vnet::LEN].copy_from_slice(&offload::emit(offload, ETHERNET).to_bytes());
        front[vnet::LEN..vnet::LEN + 12].copy_from_slice(addresses);
        front[vnet::LEN + 12..].copy_from_slice(&protocol_type.to_be_bytes());
        front
    }
}

impl AsFd for Inside {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Link { socket, .. } => socket.as_fd(),
            Self::Tun(tun) => tun.as_fd(),
        }
    }
}

/// Virtio-net header and link header.
pub(crate) const FRONT: usize = vnet::LEN + ETHERNET;

/// Bytes of socket buffer: some 60 super-packets, so that a worker that is busy elsewhere for a
/// millisecond loses nothing.
const BUFFER: usize = 4 << 20;
