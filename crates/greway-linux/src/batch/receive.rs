//! Receiving a batch into buffers with headroom.
//!
//! ```text
//!   slot i:  |<- headroom ->|<---------------- slot_bytes ---------------->|
//!            +--------------+--------------------------------+-------------+
//!            | free to write|  packet (data)                 |  unused     |
//!            +--------------+--------------------------------+-------------+
//!   the virtio-net header, if the socket has one, lies elsewhere
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::os::fd::AsFd;

use crate::abi::{self, AddressSlot, ControlSlot, IoVec, MessageHeader, MultiMessage, Pinned};
use crate::mac::MacAddr;
use crate::vnet::{self, VnetHeader};

/// Buffers for a batch of packets, and what the kernel said of each.
pub struct ReceiveBatch {
    buffers: Pinned<u8>,
    vnets: Pinned<[u8; vnet::LEN]>,
    names: Pinned<AddressSlot>,
    controls: Pinned<ControlSlot>,
    iovs: Pinned<[IoVec; 2]>,
    messages: Pinned<MultiMessage>,
    headroom: usize,
    stride: usize,
    vnet_header: bool,
    filled: usize,
    stale: usize,
}

// SAFETY: the raw pointers in `iovs` and `messages` lead only into the other fields, which move along
// (the memory itself stays where it is) and are shared with nobody.
unsafe impl Send for ReceiveBatch {}

/// Where a packet came from, as far as the socket says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From a packet socket.
    Link(LinkSource),
    /// From a raw IPv4 socket: the outer source address.
    Ipv4(Ipv4Addr),
    /// From a raw IPv6 socket: the outer source address.
    Ipv6 {
        /// The address.
        address: Ipv6Addr,
        /// The device that a link-local address is of, else 0.
        scope_id: u32,
    },
    /// Nothing that is known here.
    Unknown,
}

/// What a packet socket says of a packet (`struct sockaddr_ll`, packet(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkSource {
    /// The device it came in on.
    pub ifindex: u32,
    /// Whom the link-layer header names.
    pub kind: PacketKind,
    /// The ethertype, in host byte order.
    pub protocol: u16,
    /// The link-layer source, where the device has Ethernet addresses.
    pub mac: Option<MacAddr>,
}

/// Whom a packet is for (`sll_pkttype`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketKind {
    /// This host.
    Host,
    /// All.
    Broadcast,
    /// A group.
    Multicast,
    /// Somebody else; seen because the device is promiscuous.
    OtherHost,
    /// Sent by this host.
    Outgoing,
    /// A number that packet(7) does not list.
    Other(u8),
}

/// Which device and addresses a raw socket's packet came through (`IP_PKTINFO`, ip(7); `IPV6_PKTINFO`,
/// ipv6(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketInfo {
    /// The device it came in on.
    pub ifindex: u32,
    /// The local address to answer from. Of IPv6 only the destination is known: it is that.
    pub local: IpAddr,
    /// The destination in its header.
    pub destination: IpAddr,
}

/// What the device or the stack knew of a packet (`PACKET_AUXDATA`, packet(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auxdata {
    /// The transport checksum is not filled in: it must not be verified.
    pub csum_not_ready: bool,
    /// Somebody verified the transport checksum already.
    pub csum_valid: bool,
    /// The VLAN tag that was taken off the frame.
    pub vlan: Option<Vlan>,
    /// Length of the packet before it was cut to the buffer, in bytes.
    pub len: u32,
}

/// A VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// Its ethertype: 0x8100, or 0x88a8 for a service tag.
    pub tpid: u16,
    /// Priority, drop eligibility and VLAN number.
    pub tci: u16,
}

/// Everything the kernel said of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Where it came from.
    pub source: Source,
    /// Through which device and address; raw sockets only.
    pub packet_info: Option<PacketInfo>,
    /// The hop limit in the header that the kernel took away; raw IPv6 sockets only.
    pub hop_limit: Option<u8>,
    /// The traffic class in that header; raw IPv6 sockets only.
    pub traffic_class: Option<u8>,
    /// What the device knew; packet sockets only.
    pub auxdata: Option<Auxdata>,
    /// The packet was longer than the slot and its end is lost.
    pub truncated: bool,
}

/// One received packet, apart from its neighbours.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The whole slot, headroom first.
    pub slot: &'a mut [u8],
    /// Where in the slot the packet lies.
    pub data: Range<usize>,
    /// The virtio-net header; `None` when the batch has none or it is not understood.
    pub vnet: Option<VnetHeader>,
    /// What the kernel said.
    pub meta: Meta,
}

impl<'a> Packet<'a> {
    /// The packet's bytes.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.slot[self.data.clone()]
    }

    /// The packet's bytes, for as long as the batch is borrowed.
    #[must_use]
    pub fn into_data(self) -> &'a mut [u8] {
        &mut self.slot[self.data]
    }
}

impl ReceiveBatch {
    /// A batch of `slots` packets (1 to 1024) of up to `slot_bytes`, with `headroom` bytes free in
    /// front of each. Memory that no packet touches is never backed by the kernel.
    ///
    /// # Panics
    ///
    /// When `slots` is not in 1..=1024 or `slot_bytes` is 0.
    #[must_use]
    pub fn new(slots: usize, slot_bytes: usize, headroom: usize) -> Self {
        assert!((1..=MAX_SLOTS).contains(&slots), "a batch of {slots} packets");
        assert!(slot_bytes > 0, "slots of no bytes");
        let stride = headroom + slot_bytes;
        let mut batch = Self {
            buffers: Pinned::new(0, slots * stride),
            vnets: Pinned::new([0; vnet::LEN], slots),
            names: Pinned::new(AddressSlot::EMPTY, slots),
            controls: Pinned::new(ControlSlot::EMPTY, slots),
            iovs: Pinned::new([IoVec::EMPTY; 2], slots),
            messages: Pinned::new(MultiMessage::EMPTY, slots),
            headroom,
            stride,
            vnet_header: false,
            filled: 0,
            stale: slots,
        };
        for slot in 0..slots {
            let data = batch.buffers.address(slot * stride).wrapping_add(headroom);
            let vnet = batch.vnets.address(slot).cast();
            batch.iovs.as_mut_slice()[slot] =
                [IoVec { base: vnet, len: vnet::LEN }, IoVec { base: data, len: slot_bytes }];
        }
        batch
    }

    /// The same batch for a socket with virtio-net headers: they are kept apart from the packets.
    #[must_use]
    pub fn with_vnet_header(mut self) -> Self {
        self.vnet_header = true;
        self.stale = self.slots();
        self
    }

    /// How many packets fit.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.messages.as_slice().len()
    }

    /// How many packets the last [`ReceiveBatch::recv`] brought.
    #[must_use]
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Bytes of all packets that the last [`ReceiveBatch::recv`] brought.
    #[must_use]
    pub fn bytes(&self) -> usize {
        (0..self.filled).map(|index| self.range(index).len()).sum()
    }

    /// Whether the last [`ReceiveBatch::recv`] brought nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Takes what is there, up to a full batch, without waiting; 0 when nothing is. What was in the
    /// batch before is gone.
    ///
    /// # Errors
    ///
    /// An error that waited on the socket, told once: `ENETDOWN` when the device went down, `EINVAL` when
    /// a packet was lost because a virtio-net header cannot describe it, and the errno of an ICMP
    /// message on a raw socket, which is in its error queue too. The socket is usable afterwards and
    /// no packet was lost to the report: call again.
    pub fn recv(&mut self, socket: impl AsFd) -> io::Result<usize> {
        self.recv_up_to(socket, self.slots())
    }

    /// As [`ReceiveBatch::recv`], and takes no more than `most` packets.
    ///
    /// # Errors
    ///
    /// As [`ReceiveBatch::recv`].
    pub fn recv_up_to(&mut self, socket: impl AsFd, most: usize) -> io::Result<usize> {
        let socket = socket.as_fd();
        self.filled = 0;
        self.reset();
        let most = most.min(self.slots());
        let received = loop {
            let messages = &mut self.messages.as_mut_slice()[..most];
            // SAFETY: `reset` has pointed every header at this batch's own memory with its length,
            // and `&mut self` keeps everybody else from it.
            match unsafe { abi::receive_many(socket, messages, 0) } {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        match received {
            Ok(count) => {
                // A message behind the last one may have been begun and given up.
                self.stale = (count + 1).min(self.slots());
                self.filled = count;
                Ok(count)
            }
            Err(error) => {
                self.stale = 1;
                if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) }
            }
        }
    }

    /// Packet `index`.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`ReceiveBatch::len`]; so do all that take an index.
    #[must_use]
    pub fn data(&self, index: usize) -> &[u8] {
        let range = self.range(index);
        let start = index * self.stride;
        &self.buffers.as_slice()[start + range.start..start + range.end]
    }

    /// Packet `index`, to be changed in place.
    #[must_use]
    pub fn data_mut(&mut self, index: usize) -> &mut [u8] {
        let (slot, data) = self.slot_mut(index);
        &mut slot[data]
    }

    /// The whole slot of packet `index`, headroom first, and where in it the packet lies.
    #[must_use]
    pub fn slot_mut(&mut self, index: usize) -> (&mut [u8], Range<usize>) {
        let range = self.range(index);
        let start = index * self.stride;
        let end = start + self.stride;
        (&mut self.buffers.as_mut_slice()[start..end], range)
    }

    /// The virtio-net header of packet `index`; `None` when the batch has none or its segmentation
    /// type is not known here, and then the packet must be dropped.
    #[must_use]
    pub fn vnet(&self, index: usize) -> Option<VnetHeader> {
        assert!(index < self.filled, "packet {index} of {}", self.filled);
        if self.vnet_header { VnetHeader::parse(&self.vnets.as_slice()[index]).ok() } else { None }
    }

    /// What the kernel said of packet `index`.
    #[must_use]
    pub fn meta(&self, index: usize) -> Meta {
        assert!(index < self.filled, "packet {index} of {}", self.filled);
        parse_meta(
            &self.messages.as_slice()[index].header,
            &self.names.as_slice()[index],
            &self.controls.as_slice()[index],
        )
    }

    /// All packets, each with its own slot, so that one can be changed while others are being sent.
    pub fn packets(&mut self) -> Packets<'_> {
        Packets {
            slots: self.buffers.as_mut_slice().chunks_exact_mut(self.stride).take(self.filled),
            messages: self.messages.as_slice().iter(),
            names: self.names.as_slice().iter(),
            controls: self.controls.as_slice().iter(),
            vnets: self.vnets.as_slice().iter(),
            headroom: self.headroom,
            vnet_header: self.vnet_header,
        }
    }

    fn range(&self, index: usize) -> Range<usize> {
        assert!(index < self.filled, "packet {index} of {}", self.filled);
        data_range(&self.messages.as_slice()[index], self.headroom, self.stride, self.vnet_header)
    }

    /// Makes the headers that the last call wrote to whole again: the kernel puts the lengths it
    /// used where it found the lengths it could use.
    fn reset(&mut self) {
        let first = usize::from(!self.vnet_header);
        for index in 0..self.stale {
            let message = MultiMessage {
                header: MessageHeader {
                    name: self.names.address(index),
                    name_len: AddressSlot::LEN,
                    iov: self.iovs.address(index).cast::<IoVec>().wrapping_add(first),
                    iov_len: 2 - first,
                    control: self.controls.address(index),
                    control_len: ControlSlot::LEN,
                    flags: 0,
                },
                len: 0,
            };
            self.messages.as_mut_slice()[index] = message;
        }
        self.stale = 0;
    }
}

impl std::fmt::Debug for ReceiveBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceiveBatch").field("slots", &self.slots()).field("filled", &self.filled).finish()
    }
}

/// The packets of a batch, see [`ReceiveBatch::packets`].
pub struct Packets<'a> {
    slots: std::iter::Take<std::slice::ChunksExactMut<'a, u8>>,
    messages: std::slice::Iter<'a, MultiMessage>,
    names: std::slice::Iter<'a, AddressSlot>,
    controls: std::slice::Iter<'a, ControlSlot>,
    vnets: std::slice::Iter<'a, [u8; vnet::LEN]>,
    headroom: usize,
    vnet_header: bool,
}

impl std::fmt::Debug for Packets<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packets").field("left", &self.slots.len()).finish()
    }
}

impl<'a> Iterator for Packets<'a> {
    type Item = Packet<'a>;

    fn next(&mut self) -> Option<Packet<'a>> {
        let slot = self.slots.next()?;
        let message = self.messages.next()?;
        let meta = parse_meta(&message.header, self.names.next()?, self.controls.next()?);
        let vnet = self.vnets.next()?;
        let vnet = if self.vnet_header { VnetHeader::parse(vnet).ok() } else { None };
        let data = data_range(message, self.headroom, slot.len(), self.vnet_header);
        Some(Packet { slot, data, vnet, meta })
    }
}

fn data_range(message: &MultiMessage, headroom: usize, stride: usize, vnet_header: bool) -> Range<usize> {
    let vnet = if vnet_header { vnet::LEN } else { 0 };
    let len = (message.len as usize).saturating_sub(vnet);
    headroom..(headroom + len).min(stride)
}

fn parse_meta(header: &MessageHeader, name: &AddressSlot, control: &ControlSlot) -> Meta {
    let mut meta = Meta {
        source: parse_source(header.name_len, name),
        packet_info: None,
        hop_limit: None,
        traffic_class: None,
        auxdata: None,
        truncated: header.flags & libc::MSG_TRUNC as u32 != 0,
    };
    for (level, kind, data) in abi::control_messages(&control.0[..header.control_len.min(ControlSlot::LEN)]) {
        match (level, kind) {
            (abi::SOL_PACKET, abi::PACKET_AUXDATA) => meta.auxdata = Some(parse_auxdata(data)),
            (abi::SOL_IP, abi::IP_PKTINFO) => meta.packet_info = Some(parse_packet_info(data)),
            (abi::SOL_IPV6, abi::IPV6_PKTINFO) => meta.packet_info = Some(parse_packet_info6(data)),
            (abi::SOL_IPV6, abi::IPV6_HOPLIMIT) => meta.hop_limit = Some(abi::word(data, 0) as u8),
            (abi::SOL_IPV6, abi::IPV6_TCLASS) => meta.traffic_class = Some(abi::word(data, 0) as u8),
            _ => {}
        }
    }
    meta
}

fn parse_source(len: u32, name: &AddressSlot) -> Source {
    if len >= AddressSlot::INET_LEN && name.family() == libc::AF_INET {
        return Source::Ipv4(name.inet());
    }
    if len >= AddressSlot::INET6_LEN && name.family() == libc::AF_INET6 {
        return Source::Ipv6 { address: name.inet6(), scope_id: name.scope_id() };
    }
    if len < 12 || name.family() != libc::AF_PACKET {
        return Source::Unknown;
    }
    let bytes = &name.0;
    let kind = match bytes[10] {
        0 => PacketKind::Host,
        1 => PacketKind::Broadcast,
        2 => PacketKind::Multicast,
        3 => PacketKind::OtherHost,
        4 => PacketKind::Outgoing,
        other => PacketKind::Other(other),
    };
    let mac = [bytes[12], bytes[13], bytes[14], bytes[15], bytes[16], bytes[17]];
    Source::Link(LinkSource {
        ifindex: abi::word(bytes, 4),
        kind,
        protocol: u16::from_be_bytes([bytes[2], bytes[3]]),
        mac: (bytes[11] == 6).then(|| MacAddr::new(mac)),
    })
}

/// Reads `struct tpacket_auxdata`: status, length, captured length, three offsets, tag.
fn parse_auxdata(data: &[u8]) -> Auxdata {
    let status = abi::word(data, 0);
    let tpid = if status & VLAN_TPID_VALID != 0 { abi::half(data, 18) } else { ETHERTYPE_VLAN };
    Auxdata {
        csum_not_ready: status & CSUM_NOT_READY != 0,
        csum_valid: status & CSUM_VALID != 0,
        vlan: (status & VLAN_VALID != 0).then(|| Vlan { tpid, tci: abi::half(data, 16) }),
        len: abi::word(data, 4),
    }
}

/// Reads `struct in_pktinfo`: ifindex, local address, destination.
fn parse_packet_info(data: &[u8]) -> PacketInfo {
    let address = |offset| Ipv4Addr::from(abi::word(data, offset).to_ne_bytes()).into();
    PacketInfo { ifindex: abi::word(data, 0), local: address(4), destination: address(8) }
}

/// Reads `struct in6_pktinfo`: destination, ifindex.
fn parse_packet_info6(data: &[u8]) -> PacketInfo {
    let destination = abi::address6(data, 0).into();
    PacketInfo { ifindex: abi::word(data, 16), local: destination, destination }
}

/// `UIO_MAXIOV`: recvmmsg(2) takes no more messages than that.
const MAX_SLOTS: usize = 1024;
const ETHERTYPE_VLAN: u16 = 0x8100;
// TP_STATUS_* of linux include/uapi/linux/if_packet.h
const CSUM_NOT_READY: u32 = 1 << 3;
const VLAN_VALID: u32 = 1 << 4;
const VLAN_TPID_VALID: u32 = 1 << 6;
const CSUM_VALID: u32 = 1 << 7;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auxdata_and_packet_info_are_read_where_the_kernel_puts_them() {
        let mut data = [0; 20];
        data[0..4].copy_from_slice(&(CSUM_NOT_READY | VLAN_VALID | VLAN_TPID_VALID).to_ne_bytes());
        data[4..8].copy_from_slice(&1514u32.to_ne_bytes());
        data[16..18].copy_from_slice(&0x2005u16.to_ne_bytes());
        data[18..20].copy_from_slice(&0x88a8u16.to_ne_bytes());
        let expected = Auxdata {
            csum_not_ready: true,
            csum_valid: false,
            vlan: Some(Vlan { tpid: 0x88a8, tci: 0x2005 }),
            len: 1514,
        };
        assert_eq!(parse_auxdata(&data), expected);
        assert_eq!(parse_auxdata(&data[..3]).vlan, None);

        let mut data = [0; 12];
        data[0..4].copy_from_slice(&3u32.to_ne_bytes());
        data[4..12].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 255]);
        let info = parse_packet_info(&data);
        assert_eq!((info.ifindex, info.local), (3, Ipv4Addr::new(192, 0, 2, 1).into()));
        assert_eq!(info.destination, Ipv4Addr::new(192, 0, 2, 255));

        let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        let mut data = [0; 20];
        data[..16].copy_from_slice(&address.octets());
        data[16..].copy_from_slice(&9u32.to_ne_bytes());
        let info = parse_packet_info6(&data);
        assert_eq!((info.ifindex, info.destination), (9, IpAddr::from(address)));
    }
}
