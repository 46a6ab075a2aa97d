//! Splitting a super-packet into the packets it stands for.
//!
//! What a network device does in hardware (TSO, USO), done here because no device between the tunnel
//! and the underlay understands GRE from a virtio-net header. The rules are the kernel's (linux
//! net/ipv4/af_inet.c `inet_gso_segment`, tcp_offload.c `tcp_gso_segment`, udp_offload.c
//! `__udp_gso_segment`, v6.18):
//!
//! | field | segment i of n |
//! |---|---|
//! | IPv4 identification | the packet's + i |
//! | IPv4 total length, IPv6 payload length, UDP length | of the segment |
//! | TCP sequence number | the packet's + i · size |
//! | TCP FIN, PSH | on the last only |
//! | TCP CWR | on the first only |
//! | checksums | of the segment, in full |

use std::ops::Range;

use greway_wire::checksum::{self, Checksum};
use greway_wire::ipv4::{self, Ipv4Header};
use greway_wire::transport::{Addresses, Protocol, Transport};

use crate::offload::{Gso, Partial};
use crate::unfilled;
use crate::verdict::DropReason;

const TCP_FLAGS: usize = 13;
const TCP_FIN_PSH: u8 = 0x09;
const TCP_CWR: u8 = 0x80;

/// How a super-packet is split.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    transport: Transport,
    size: usize,
    /// UDP without a checksum stays without one.
    without_checksum: bool,
}

impl Split {
    /// Looks whether the packet is what `gso` says. `filled`: its checksum was not left undone.
    ///
    /// # Errors
    /// [`DropReason::UnsplittableOffload`] where it is not.
    pub(crate) fn of(packet: &[u8], gso: Gso, filled: bool) -> Result<Self, DropReason> {
        let refused = DropReason::UnsplittableOffload;
        let transport = Transport::locate(packet).ok_or(refused)?;
        if unfilled::kind_of(&transport) != gso.kind || gso.size == 0 {
            return Err(refused);
        }
        let at = transport.checksum_at();
        let without_checksum = transport.protocol == Protocol::Udp && filled && packet[at..at + 2] == [0, 0];
        Ok(Self { transport, size: usize::from(gso.size), without_checksum })
    }

    /// Bytes of headers that each segment repeats.
    pub(crate) fn header_len(&self) -> usize {
        self.transport.payload_at()
    }

    /// How many segments there will be, at least one.
    pub(crate) fn count(&self) -> usize {
        let payload = self.transport.end - self.header_len();
        payload.div_ceil(self.size).max(1)
    }

    /// The payload of segment `number` in the super-packet.
    pub(crate) fn payload(&self, number: usize) -> Range<usize> {
        let start = self.header_len() + number * self.size;
        start..(start + self.size).min(self.transport.end)
    }

    /// How many have as much payload as one can have.
    pub(crate) fn full(&self) -> usize {
        (self.transport.end - self.header_len()) / self.size
    }

    /// The payload of the first so many segments.
    pub(crate) fn payload_of(&self, count: usize) -> Range<usize> {
        let start = self.header_len();
        start..(start + count * self.size).min(self.transport.end)
    }

    /// Turns `headers`, a copy of the super-packet's, into those of a super-packet of its first so many segments, with
    /// its checksum left undone.
    pub(crate) fn rewrite_whole(&self, headers: &mut [u8], count: usize) -> Partial {
        let (network, transport) = headers.split_at_mut(self.transport.offset);
        let length = transport.len() + self.payload_of(count).len();
        self.rewrite_lengths(network, transport, length, 0);
        if count < self.count() && self.transport.protocol == Protocol::Tcp {
            transport[TCP_FLAGS] &= !TCP_FIN_PSH;
        }
        let offset = self.transport.protocol.checksum_offset();
        let undone = self.transport.pseudo_header(length as u32).folded();
        transport[offset..offset + 2].copy_from_slice(&undone.to_be_bytes());
        // Within a packet of 64 KiB.
        Partial { start: self.transport.offset as u16, offset: offset as u16 }
    }

    /// Turns `headers`, a copy of the super-packet's, into those of segment `number`, whose payload
    /// sums up to `payload_sum`.
    pub(crate) fn rewrite(&self, headers: &mut [u8], number: usize, payload_sum: u16) {
        let payload_len = self.payload(number).len();
        let offset = self.transport.offset;
        let (network, transport) = headers.split_at_mut(offset);
        // Header and payload come from one packet of at most 64 KiB.
        let length = transport.len() + payload_len;
        self.rewrite_lengths(network, transport, length, number);
        if self.transport.protocol == Protocol::Tcp {
            self.rewrite_tcp(transport, number);
        }
        let at = self.transport.protocol.checksum_offset();
        transport[at..at + 2].fill(0);
        if !self.without_checksum {
            let mut sum = self.transport.pseudo_header(length as u32);
            sum.add(transport);
            sum.add_piece(payload_sum, payload_len);
            transport[at..at + 2].copy_from_slice(&never_zero(sum).to_be_bytes());
        }
    }

    /// Writes what says how long a packet is with `length` bytes from its transport header on, and its number.
    fn rewrite_lengths(&self, network: &mut [u8], transport: &mut [u8], length: usize, number: usize) {
        match self.transport.addresses {
            Addresses::V4(..) => rewrite_ipv4(network, length, number),
            Addresses::V6(..) => {
                let after_fixed = network.len() - greway_wire::ipv6::LEN;
                greway_wire::ipv6::set_payload_length(network, (after_fixed + length) as u16);
            }
        }
        if self.transport.protocol == Protocol::Udp {
            transport[4..6].copy_from_slice(&(length as u16).to_be_bytes());
        }
    }

    fn rewrite_tcp(&self, tcp: &mut [u8], number: usize) {
        let first = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let sequence = first.wrapping_add((number * self.size) as u32);
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        if number + 1 < self.count() {
            tcp[TCP_FLAGS] &= !TCP_FIN_PSH;
        }
        if number > 0 {
            tcp[TCP_FLAGS] &= !TCP_CWR;
        }
    }
}

fn rewrite_ipv4(header: &mut [u8], payload_len: usize, number: usize) {
    let identification = Ipv4Header::parse(header).map_or(0, |h| h.identification);
    let total_length = (header.len() + payload_len) as u16;
    header[2..4].copy_from_slice(&total_length.to_be_bytes());
    header[4..6].copy_from_slice(&identification.wrapping_add(number as u16).to_be_bytes());
    header[10..12].fill(0);
    let field = checksum::checksum(header);
    header[10..12].copy_from_slice(&field.to_be_bytes());
    debug_assert!(header.len() >= ipv4::MIN_LEN, "located behind a whole header");
}

/// A transport checksum: 0 is sent as its other representation, since 0 means none in UDP (RFC 768).
pub(crate) fn never_zero(sum: Checksum) -> u16 {
    match sum.value() {
        0 => 0xffff,
        value => value,
    }
}
