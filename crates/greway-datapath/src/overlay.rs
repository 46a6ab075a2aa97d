//! The inner side: a packet socket on the peer end of a veth pair, or a TUN device.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use greway_engine::{Offload, frame};
use greway_linux::batch::{Auxdata, Packet, Target, Vlan};
use greway_linux::packet::{Config, Kind, PacketSocket, Protocol};
use greway_linux::vnet::{self, VnetHeader};
use greway_linux::{MacAddr, OpenError, filter, tun};
use greway_wire::ethertype;

use crate::offload;

pub(crate) use greway_engine::frame::ETHERNET;

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
        /// What is taken there.
        tap: Tap,
    },
    /// A TUN device that is open.
    Tun(tun::Tun),
}

/// What is taken of the packets that arrive at a peer end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tap {
    /// Everything, before anybody else has seen it; whatever keeps it from the host's own stack comes behind.
    #[default]
    Everything,
    /// What the fast path's program declined, which keeps it from the host's own stack as well. Of the ethertypes that
    /// it may carry ([`CARRIED`]) only what comes behind tc is taken; of all others everything, since it never carries
    /// them, and since the kernel forgets a VLAN tag on the way there (linux net/core/dev.c
    /// `__netif_receive_skb_core`, v6.18).
    Declined,
}

/// The ethertypes of payload packets that a program carries: IPv4, IPv6, ARP.
pub const CARRIED: [u16; 3] = [ethertype::IPV4, ethertype::IPV6, ethertype::ARP];

/// The inner side at work.
#[derive(Debug)]
pub(crate) enum Inside {
    /// Frames on the peer end.
    Link {
        /// For what is brought in, and for what comes out but for that of `declined`.
        socket: Arc<PacketSocket>,
        /// The sockets are those of many tunnels.
        shares: bool,
        /// For what comes out and was declined ([`Tap::Declined`]), one for each ethertype.
        declined: Vec<PacketSocket>,
        peer: u32,
        tap: Tap,
        /// Destination and source of every frame that goes in; `None`: payload packets are frames themselves.
        addresses: Option<[u8; 12]>,
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
    /// As it is to be encapsulated; `endpoint`: where to, in a tunnel without a remote.
    pub(crate) fn done(self, endpoint: Option<IpAddr>) -> Payload<'a> {
        let Self { protocol_type, packet, offload } = self;
        Payload { protocol_type, packet, offload, endpoint }
    }
}

/// A packet that came out of a tunnel device.
pub(crate) struct Payload<'a> {
    pub(crate) protocol_type: u16,
    pub(crate) packet: &'a [u8],
    pub(crate) offload: Offload,
    /// Where it goes, in a tunnel without a remote.
    pub(crate) endpoint: Option<IpAddr>,
}

impl Inside {
    /// Opens the sockets. `ethernet`: the payload packets are frames.
    /// `shared`: what is brought in goes there, of a tunnel that has none of its own.
    pub(crate) fn open(
        overlay: Overlay,
        ethernet: bool,
        shared: Option<Arc<PacketSocket>>,
    ) -> Result<Self, OpenError> {
        match overlay {
            Overlay::Veth { peer, device_address, peer_address, tap } => {
                let mut addresses = [0; 12];
                addresses[..6].copy_from_slice(&device_address.octets());
                addresses[6..].copy_from_slice(&peer_address.octets());
                Self::link(peer, tap, (!ethernet).then_some(addresses), shared, true)
            }
            Overlay::Tun(tun) => Ok(Self::Tun(tun)),
        }
    }

    /// The same with another tap, and nothing comes before [`Self::hear`] says so; `None` where there is nothing to
    /// change.
    pub(crate) fn tapped(
        &self,
        tap: Tap,
        shared: Option<Arc<PacketSocket>>,
    ) -> Result<Option<Self>, OpenError> {
        match self {
            Self::Link { peer, tap: before, addresses, .. } if *before != tap => {
                Self::link(*peer, tap, *addresses, shared, false).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn link(
        peer: u32,
        tap: Tap,
        addresses: Option<[u8; 12]>,
        shared: Option<Arc<PacketSocket>>,
        hears: bool,
    ) -> Result<Self, OpenError> {
        if let Some(socket) = shared {
            return Ok(Self::Link { socket, shares: true, declined: Vec::new(), peer, tap, addresses });
        }
        let (beside, nothing) = (filter::beside(CARRIED), filter::drop_all());
        let filter = (tap == Tap::Declined).then_some(&beside[..]);
        let deaf = (!hears).then_some(&nothing[..]);
        let config = Config {
            protocol: Protocol::All,
            filter: deaf.or(filter),
            kind: Kind::Raw,
            ifindex: Some(peer),
            vnet_header: true,
            // What we put in ourselves is not to come back.
            ignore_outgoing: true,
            receive_buffer: Some(BUFFER),
            send_buffer: Some(BUFFER),
            ..Config::default()
        };
        let declined = match tap {
            Tap::Everything => Vec::new(),
            Tap::Declined => {
                let open = |ethertype| {
                    let protocol = Protocol::Ethertype(ethertype);
                    PacketSocket::open(&Config { protocol, filter: deaf, send_buffer: None, ..config })
                };
                CARRIED.into_iter().map(open).collect::<Result<_, _>>()?
            }
        };
        let socket = Arc::new(PacketSocket::open(&config)?);
        Ok(Self::Link { socket, shares: false, declined, peer, tap, addresses })
    }

    /// The peer end whose packets come out of what many tunnels share.
    pub(crate) fn shares(&self) -> Option<u32> {
        match self {
            Self::Link { peer, shares: true, .. } => Some(*peer),
            _ => None,
        }
    }

    /// What is taken of what comes out.
    pub(crate) fn tap(&self) -> Tap {
        match self {
            Self::Link { tap, .. } => *tap,
            Self::Tun(_) => Tap::Everything,
        }
    }

    /// Index of the peer end, of a pair.
    pub(crate) fn peer(&self) -> Option<u32> {
        match self {
            Self::Link { peer, .. } => Some(*peer),
            Self::Tun(_) => None,
        }
    }

    /// Where what is brought in goes.
    pub(crate) fn target(&self) -> Target {
        match self.shares() {
            Some(ifindex) => Target::Link { ifindex, mac: MacAddr::ZERO, protocol: 0 },
            None => Target::Connected,
        }
    }

    /// Whatever packets come out of, of this tunnel alone.
    pub(crate) fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let own = self.shares().is_none().then(|| self.as_fd());
        let declined: &[PacketSocket] = match self {
            Self::Link { declined, .. } => declined,
            Self::Tun(_) => &[],
        };
        own.into_iter().chain(declined.iter().map(AsFd::as_fd))
    }

    /// Has packets come from now on to sockets that [`Self::tapped`] has opened; those in numbers last.
    pub(crate) fn hear(&self) {
        let Self::Link { socket, declined, shares: false, tap, .. } = self else { return };
        let beside = filter::beside(CARRIED);
        let all = filter::accept_all();
        let first = if *tap == Tap::Declined { &beside[..] } else { &all[..] };
        let declined = declined.iter().rev().map(|socket| (socket, &all[..]));
        for (socket, filter) in std::iter::once((&**socket, first)).chain(declined) {
            if let Err(error) = socket.set_filter(filter) {
                tracing::warn!(%error, "a socket of a tunnel hears nothing");
            }
        }
    }

    /// Has no more packets come; those that wait stay.
    pub(crate) fn deafen(&self) {
        let Self::Link { socket, declined, shares: false, .. } = self else { return };
        for socket in std::iter::once(&**socket).chain(declined) {
            if let Err(error) = socket.set_filter(&filter::drop_all()) {
                tracing::debug!(%error, "a socket goes on receiving");
            }
        }
    }

    /// Packets that came out of the tunnel device since the last time this was asked and were lost because a socket was
    /// full.
    pub(crate) fn spilled(&self) -> u64 {
        let Self::Link { socket, declined, shares: false, .. } = self else { return 0 };
        let sockets = std::iter::once(&**socket).chain(declined);
        // Asking resets it. One that cannot be asked has lost nothing that anybody could know of.
        sockets.map(|socket| socket.statistics().map_or(0, |counted| u64::from(counted.drops))).sum()
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

    /// The frame from the peer end of an Ethernet tunnel, the VLAN tag that the kernel took off it in its place
    /// again; the batch has room for one before each packet. `None` for what is described in a way that cannot be
    /// carried out.
    pub(crate) fn frame(received: Packet<'_>) -> Option<Fresh<'_>> {
        /// Bytes of both addresses: the tag's place is behind them.
        const ADDRESSES: usize = 12;
        let Packet { slot, data, vnet, meta } = received;
        let offload = offload::parse(&vnet?, 0)?;
        let Some(Vlan { tpid, tci }) = meta.auxdata.and_then(|auxdata| auxdata.vlan) else {
            return Some(Fresh { protocol_type: ethertype::TEB, packet: &mut slot[data], offload });
        };
        let begin = data.start.checked_sub(frame::TAG)?;
        if data.len() < ADDRESSES {
            return None;
        }
        slot.copy_within(data.start..data.start + ADDRESSES, begin);
        let tag = begin + ADDRESSES;
        slot[tag..tag + 2].copy_from_slice(&tpid.to_be_bytes());
        slot[tag + 2..tag + 4].copy_from_slice(&tci.to_be_bytes());
        let packet = &mut slot[begin..data.end];
        Some(Fresh { protocol_type: ethertype::TEB, packet, offload: offload.behind(frame::TAG) })
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

    /// What goes in front of a payload packet on its way into a veth pair, and how many bytes of it.
    pub(crate) fn front(
        addresses: Option<&[u8; 12]>,
        protocol_type: u16,
        offload: &Offload,
    ) -> ([u8; FRONT], usize) {
        let mut front = [0; FRONT];
        let link = if addresses.is_some() { ETHERNET } else { 0 };
        front[..vnet::LEN].copy_from_slice(&offload::emit(offload, link).to_bytes());
        if let Some(addresses) = addresses {
            front[vnet::LEN..vnet::LEN + 12].copy_from_slice(addresses);
            front[vnet::LEN + 12..].copy_from_slice(&protocol_type.to_be_bytes());
        }
        (front, vnet::LEN + link)
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

#[cfg(test)]
mod tests {
    use super::*;
    use greway_engine::Partial;
    use greway_linux::batch::{Meta, Source};

    fn meta(vlan: Option<Vlan>) -> Meta {
        let auxdata = Some(Auxdata { csum_not_ready: true, csum_valid: false, vlan, len: 0 });
        Meta {
            source: Source::Unknown,
            packet_info: None,
            hop_limit: None,
            traffic_class: None,
            auxdata,
            truncated: false,
        }
    }

    #[test]
    fn a_tag_that_the_kernel_took_off_is_put_back() {
        let bytes = *b"....ddddddssssss\x08\x00E...";
        let vnet = VnetHeader { needs_csum: true, csum_start: 34, csum_offset: 16, ..VnetHeader::NONE };
        let mut slot = bytes;
        let plain = Packet { slot: &mut slot, data: 4..22, vnet: Some(vnet), meta: meta(None) };
        let payload = Inside::frame(plain).unwrap();
        assert_eq!((payload.protocol_type, &*payload.packet), (0x6558, &bytes[4..22]));
        assert_eq!(payload.offload.partial, Some(Partial { start: 34, offset: 16 }));

        let mut slot = bytes;
        let vlan = Some(Vlan { tpid: 0x8100, tci: 0x2005 });
        let tagged = Packet { slot: &mut slot, data: 4..22, vnet: Some(vnet), meta: meta(vlan) };
        let payload = Inside::frame(tagged).unwrap();
        assert_eq!(payload.packet, b"ddddddssssss\x81\x00\x20\x05\x08\x00E...");
        assert_eq!(payload.offload.partial, Some(Partial { start: 38, offset: 16 }));

        let mut slot = bytes;
        let short = Packet { slot: &mut slot, data: 4..15, vnet: Some(vnet), meta: meta(vlan) };
        assert!(Inside::frame(short).is_none());
    }
}
