//! The inner side: a packet socket on the peer end of a veth pair, or a TUN device.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use greway_engine::{Offload, frame};
use greway_linux::batch::{Auxdata, Packet, Target, Vlan};
use greway_linux::flow::{self, Arriving};
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
    /// What the fast path's program declined, which keeps it from the host's own stack as well: what comes behind tc, by
    /// its ethertype ([`SEALED`]). A socket for every ethertype would look at each packet before the program has it, a
    /// tenth of what a small one costs in the tunnel.
    Declined,
}

/// The ethertypes of what a program declines: IPv4, IPv6, ARP, and behind a tag of the program's own
/// everything else and what has a VLAN tag itself.
pub const SEALED: [u16; 4] = [ethertype::QINQ, ethertype::IPV4, ethertype::IPV6, ethertype::ARP];

/// What that tag says beside its ethertype, which no frame on a wire does (IEEE 802.1Q table 9-2; `SEALED_TCI` of the
/// programs).
const SEALED_TCI: u16 = 0x0fff;
/// Of these the ones that have flows which several workers can divide.
pub(crate) const DIVIDED: [u16; 2] = [ethertype::IPV4, ethertype::IPV6];

/// The inner side at work.
#[derive(Debug)]
pub(crate) enum Inside {
    /// Frames on the peer end.
    Link {
        /// For what is brought in, and for what comes out: all of it, or of the first of [`SEALED`].
        socket: Arc<PacketSocket>,
        /// The sockets are those of many tunnels.
        shares: bool,
        /// Nothing comes out of `socket`: what comes out is another worker's.
        only_sends: bool,
        /// For what comes out and was declined ([`Tap::Declined`]), one for each other of [`SEALED`].
        declined: Vec<Arc<PacketSocket>>,
        /// What other workers have for what comes out; the lead knows all.
        others: Vec<Arc<PacketSocket>>,
        peer: u32,
        tap: Tap,
        /// Destination and source of every frame that goes in; `None`: payload packets are frames themselves.
        addresses: Option<[u8; 12]>,
    },
    /// Packets of a TUN device.
    Tun {
        tun: Arc<tun::Tun>,
        /// What comes out of it is another worker's: it gives one packet a read, to whom it may concern.
        only_sends: bool,
    },
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
#[derive(Clone, Copy)]
pub(crate) struct Payload<'a> {
    pub(crate) protocol_type: u16,
    pub(crate) packet: &'a [u8],
    pub(crate) offload: Offload,
    /// Where it goes, in a tunnel without a remote.
    pub(crate) endpoint: Option<IpAddr>,
}

impl Inside {
    /// Opens the sockets of `workers`, the lead's first. `ethernet`: the payload packets are frames. `for_one`: all that
    /// comes out is the lead's. `shared`: what each worker brings in goes there, of a tunnel that has none of its own.
    pub(crate) fn open(
        overlay: Overlay,
        ethernet: bool,
        for_one: bool,
        workers: usize,
        shared: Option<Vec<Arc<PacketSocket>>>,
    ) -> Result<Vec<Self>, OpenError> {
        match overlay {
            Overlay::Veth { peer, device_address, peer_address, tap } => {
                let mut addresses = [0; 12];
                addresses[..6].copy_from_slice(&device_address.octets());
                addresses[6..].copy_from_slice(&peer_address.octets());
                let end = End { peer, tap, addresses: (!ethernet).then_some(addresses) };
                end.open(for_one, workers, shared, true)
            }
            Overlay::Tun(tun) => {
                let tun = Arc::new(tun);
                let inside = |worker| Self::Tun { tun: Arc::clone(&tun), only_sends: worker > 0 };
                Ok((0..workers).map(inside).collect())
            }
        }
    }

    /// Opens the same anew with another tap, or divided in another way, and nothing comes before [`Self::hear`] says so;
    /// `None` for what has neither.
    pub(crate) fn reopened(
        &self,
        tap: Option<Tap>,
        for_one: bool,
        workers: usize,
        shared: Option<Vec<Arc<PacketSocket>>>,
    ) -> Result<Option<Vec<Self>>, OpenError> {
        let Self::Link { peer, tap: before, addresses, .. } = self else { return Ok(None) };
        let end = End { peer: *peer, tap: tap.unwrap_or(*before), addresses: *addresses };
        end.open(for_one, workers, shared, false).map(Some)
    }

    /// What is taken of what comes out; of a TUN device everything.
    pub(crate) fn tap(&self) -> Tap {
        match self {
            Self::Link { tap, .. } => *tap,
            Self::Tun { .. } => Tap::Everything,
        }
    }

    /// The peer end whose packets come out of what many tunnels share.
    pub(crate) fn shares(&self) -> Option<u32> {
        match self {
            Self::Link { peer, shares: true, .. } => Some(*peer),
            _ => None,
        }
    }

    /// Index of the peer end, of a pair.
    pub(crate) fn peer(&self) -> Option<u32> {
        match self {
            Self::Link { peer, .. } => Some(*peer),
            Self::Tun { .. } => None,
        }
    }

    /// Where what is brought in goes.
    pub(crate) fn target(&self) -> Target {
        match self {
            // Bound to no device, or to an ethertype, which is not that of the frames.
            Self::Link { peer, shares, tap, .. } if *shares || *tap == Tap::Declined => {
                Target::Link { ifindex: *peer, mac: MacAddr::ZERO, protocol: 0 }
            }
            _ => Target::Connected,
        }
    }

    /// The socket that packets are brought in by, of a pair.
    fn socket(&self) -> Option<Arc<PacketSocket>> {
        match self {
            Self::Link { socket, .. } => Some(Arc::clone(socket)),
            Self::Tun { .. } => None,
        }
    }

    /// All that it has.
    fn own(&self) -> Vec<Arc<PacketSocket>> {
        match self {
            Self::Link { socket, declined, .. } => {
                std::iter::once(socket).chain(declined).map(Arc::clone).collect()
            }
            Self::Tun { .. } => Vec::new(),
        }
    }

    /// Whatever packets come out of, of this tunnel alone and for this worker.
    pub(crate) fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let (own, declined): (_, &[Arc<PacketSocket>]) = match self {
            Self::Link { shares, only_sends, declined, .. } => (!shares && !only_sends, declined),
            Self::Tun { only_sends, .. } => (!only_sends, &[]),
        };
        own.then(|| self.as_fd()).into_iter().chain(declined.iter().map(|socket| socket.as_fd()))
    }

    /// Has packets come from now on, to all workers, to sockets that [`Self::reopened`] has opened; those in numbers last.
    pub(crate) fn hear(&self) {
        let Self::Link { socket, declined, others, shares: false, only_sends: false, tap, .. } = self else {
            return;
        };
        let filter = match tap {
            Tap::Declined => &filter::accept_all()[..],
            // Kernels before 5.16 show a group what others send.
            Tap::Everything => &filter::not_outgoing()[..],
        };
        let rest = others.iter().chain(declined.iter().rev());
        for socket in std::iter::once(socket).chain(rest) {
            if let Err(error) = socket.set_filter(filter) {
                tracing::warn!(%error, "a socket of a tunnel hears nothing");
            }
        }
    }

    /// Has no more packets come to this worker, or to any; those that wait stay.
    pub(crate) fn deafen(&self, all: bool) {
        // Who only sends does so by a socket of another's.
        let Self::Link { socket, declined, others, shares: false, only_sends: false, .. } = self else {
            return;
        };
        let others = others.iter().filter(|_| all);
        for socket in std::iter::once(socket).chain(declined).chain(others) {
            if let Err(error) = socket.set_filter(&filter::drop_all()) {
                tracing::debug!(%error, "a socket goes on receiving");
            }
        }
    }

    /// Packets that came out of the tunnel device for this worker since the last time this was asked and were lost
    /// because a socket was full.
    pub(crate) fn spilled(&self) -> u64 {
        let Self::Link { socket, declined, shares: false, only_sends, .. } = self else { return 0 };
        let sockets = Some(socket).filter(|_| !only_sends).into_iter().chain(declined);
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
        // A tag was taken off, or stands there unsealed: the packet is of a VLAN on top of the device.
        let tagged = auxdata.is_some_and(|auxdata| auxdata.vlan.is_some())
            || matches!(protocol_type, ethertype::VLAN | ethertype::QINQ);
        let offload = offload::parse(&header?, ETHERNET)?;
        let packet = frame.get_mut(ETHERNET..)?;
        (named && !tagged).then_some(Fresh { protocol_type, packet, offload })
    }

    /// The frame from the peer end of an Ethernet tunnel, the VLAN tag that the kernel took off it in its place
    /// again; the batch has room for one before each packet. `None` for what is described in a way that cannot be
    /// carried out.
    pub(crate) fn frame(received: Packet<'_>) -> Option<Fresh<'_>> {
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
            Self::Tun { tun, .. } => tun.as_fd(),
        }
    }
}

/// The frame without the tag that a program has put on it, where it has ([`SEALED`]).
pub(crate) fn unsealed(mut received: Packet<'_>) -> Packet<'_> {
    let seal = [ethertype::QINQ.to_be_bytes(), SEALED_TCI.to_be_bytes()];
    let tagged = received.meta.auxdata.is_some_and(|auxdata| auxdata.vlan.is_some());
    if tagged || received.data().get(ADDRESSES..ADDRESSES + frame::TAG) != Some(seal.as_flattened()) {
        return received;
    }
    let begin = received.data.start;
    received.slot.copy_within(begin..begin + ADDRESSES, begin + frame::TAG);
    received.data.start += frame::TAG;
    received.vnet = received.vnet.map(|header| VnetHeader {
        csum_start: header.csum_start.saturating_sub(frame::TAG as u16),
        hdr_len: header.hdr_len.saturating_sub(frame::TAG as u16),
        ..header
    });
    received
}

/// Bytes of both addresses of a link header: a tag's place is behind them.
const ADDRESSES: usize = 12;
/// What a worker sends by and hears with, and what else it hears with.
type Hearing = (Arc<PacketSocket>, Vec<Arc<PacketSocket>>);

/// The peer end of a pair.
#[derive(Clone, Copy)]
struct End {
    peer: u32,
    tap: Tap,
    addresses: Option<[u8; 12]>,
}

impl End {
    fn open(
        self,
        for_one: bool,
        workers: usize,
        shared: Option<Vec<Arc<PacketSocket>>>,
        hears: bool,
    ) -> Result<Vec<Inside>, OpenError> {
        if let Some(shared) = shared {
            // Who has which packets is decided for all that share.
            let inside = |socket| self.inside(socket, Vec::new(), true, false);
            return Ok(shared.into_iter().map(inside).collect());
        }
        let mut insides = Vec::with_capacity(workers);
        for (socket, declined) in self.hearing(if for_one { 1 } else { workers }, hears)? {
            insides.push(self.inside(socket, declined, false, false));
        }
        let others = insides.iter().skip(1).flat_map(Inside::own).collect();
        // Whoever hears nothing sends by what the lead has.
        let leads = insides.first().and_then(Inside::socket);
        if let Some(leads) = leads {
            insides.resize_with(workers, || self.inside(Arc::clone(&leads), Vec::new(), false, true));
        }
        if let Some(Inside::Link { others: known, .. }) = insides.first_mut() {
            *known = others;
        }
        Ok(insides)
    }

    /// What each of so many workers has for what comes out: one to send by as well, and more.
    fn hearing(self, workers: usize, hears: bool) -> Result<Vec<Hearing>, OpenError> {
        let nothing = filter::drop_all();
        let deaf = (!hears).then_some(&nothing[..]);
        let config = Config {
            protocol: Protocol::All,
            filter: deaf,
            kind: Kind::Raw,
            ifindex: Some(self.peer),
            vnet_header: true,
            // What we put in ourselves is not to come back.
            ignore_outgoing: true,
            receive_buffer: Some(BUFFER),
            send_buffer: Some(BUFFER),
            ..Config::default()
        };
        if self.tap == Tap::Everything {
            let sockets = open_divided(&config, workers)?;
            return Ok(sockets.into_iter().map(|socket| (socket, Vec::new())).collect());
        }
        let of = |ethertype| Config { protocol: Protocol::Ethertype(ethertype), ..config };
        // The lead sends by another one.
        let send_buffer = Some(BUFFER).filter(|_| workers > 1);
        let [ipv4, ipv6] = DIVIDED.map(|ethertype| Config { send_buffer, ..of(ethertype) });
        let divided = open_divided(&ipv4, workers)?.into_iter().zip(open_divided(&ipv6, workers)?);
        let arp = Arc::new(PacketSocket::open(&Config { send_buffer: None, ..of(ethertype::ARP) })?);
        let mut leads = Some((Arc::new(PacketSocket::open(&of(ethertype::QINQ))?), arp));
        let each = |(ipv4, ipv6)| match leads.take() {
            Some((sealed, arp)) => (sealed, vec![ipv4, ipv6, arp]),
            None => (ipv4, vec![ipv6]),
        };
        Ok(divided.map(each).collect())
    }

    fn inside(
        self,
        socket: Arc<PacketSocket>,
        declined: Vec<Arc<PacketSocket>>,
        shares: bool,
        only_sends: bool,
    ) -> Inside {
        let Self { peer, tap, addresses } = self;
        Inside::Link { socket, shares, only_sends, declined, others: Vec::new(), peer, tap, addresses }
    }
}

/// Sockets of so many workers that divide what arrives by flow, the lead's first.
pub(crate) fn open_divided(config: &Config<'_>, workers: usize) -> Result<Vec<Arc<PacketSocket>>, OpenError> {
    if workers == 1 {
        return Ok(vec![Arc::new(PacketSocket::open(config)?)]);
    }
    let choice = flow::choice(Arriving::Plain, workers as u32);
    Ok(PacketSocket::open_group(config, workers, &choice)?.into_iter().map(Arc::new).collect())
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

        let sealed = *b"ddddddssssss\x88\xa8\x0f\xff\x81\x00\x20\x05\x08\x00E...";
        let mut slot = sealed;
        let further = VnetHeader { csum_start: 42, hdr_len: 62, ..vnet };
        let unsealed =
            unsealed(Packet { slot: &mut slot, data: 0..26, vnet: Some(further), meta: meta(None) });
        assert_eq!(unsealed.vnet, Some(VnetHeader { csum_start: 38, hdr_len: 58, ..vnet }));
        let payload = Inside::frame(unsealed).unwrap();
        assert_eq!(payload.packet, b"ddddddssssss\x81\x00\x20\x05\x08\x00E...");
        assert_eq!(payload.offload.partial, Some(Partial { start: 38, offset: 16 }));

        // A tag in front of it was taken off: it was on the frame when it came.
        let mut slot = sealed;
        let twice = Packet { slot: &mut slot, data: 0..26, vnet: Some(vnet), meta: meta(vlan) };
        assert_eq!(super::unsealed(twice).data, 0..26);

        let mut slot = bytes;
        let short = Packet { slot: &mut slot, data: 4..15, vnet: Some(vnet), meta: meta(vlan) };
        assert!(Inside::frame(short).is_none());
    }
}
