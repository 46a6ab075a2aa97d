//! Putting TCP segments and UDP datagrams that arrived one after the other back into one super-packet.
//!
//! What GRO does where the underlay's device has it. Where it has not, every segment would cost the host a walk
//! through its stack and every second one of TCP an acknowledgement through the tunnel; put together, a
//! bulk costs a tenth. The rules are the kernel's (linux net/ipv4/tcp_offload.c `tcp_gro_receive`, udp_offload.c
//! `udp_gro_receive_segment`, af_inet.c `inet_gro_receive`, v6.18), and so is the promise: what comes out, split again,
//! is what came in.
//!
//! | a run goes on while nothing changes but | TCP | UDP |
//! |---|---|---|
//! | the checksums, which are verified before they are given up | yes | yes; one that is not there (0) cannot be, and no such datagram joins |
//! | the identification, which counts on where DF does not make it mean nothing (RFC 6864 §4.1) | yes | yes |
//! | the sequence number, which counts on | yes | |
//! | it ends with the first that is shorter, and before one that is longer | yes | yes |
//! | it ends with PSH and FIN | yes | |
//!
//! Nothing waits here: a run is made of what is there. Fragments, IP options, IPv6 extension headers and packets with
//! padding stand for themselves.

use greway_wire::checksum::{self, Checksum};
use greway_wire::ipv4;
use greway_wire::ipv6;
use greway_wire::transport::{Addresses, Protocol, Transport};

use crate::offload::{Gso, Offload, Partial};
use crate::unfilled::kind_of;

const TCP_FLAGS: usize = 13;
const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_ACK: u8 = 0x10;
const TCP_ECE: u8 = 0x40;
/// Bytes of the largest packet that a run may become.
const MAX_PACKET: usize = 65_535;

/// Bytes that the headers of a super-packet need at most: IPv6 and TCP with all its options.
pub const MAX_HEADERS: usize = ipv6::LEN + 60;

/// Segments of one connection or datagrams of one flow, in order and without a gap; or none. Nothing is copied: it
/// borrows the packets.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// What it began with.
    first: Option<Candidate<'a>>,
    payloads: [&'a [u8]; Run::SEGMENTS],
    count: usize,
    payload_len: usize,
    closed: bool,
    /// FIN and PSH of the last segment.
    last_flags: u8,
}

/// A packet that may be part of a run.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    packet: &'a [u8],
    offload: Offload,
    transport: Transport,
    /// The checksum is known to be right, or is not there yet to be verified.
    trusted: bool,
}

impl<'a> Candidate<'a> {
    /// Looks at a packet without link header; `None` where it is to stand for itself. No checksum but that of the IP
    /// header is looked at: it costs the most, and most packets need not pay it.
    pub fn of(packet: &'a [u8], offload: Offload) -> Option<Self> {
        let transport = Transport::locate(packet)?;
        let plain = match transport.addresses {
            Addresses::V4(..) => ipv4::MIN_LEN,
            Addresses::V6(..) => ipv6::LEN,
        };
        if transport.offset != plain || transport.payload_at() >= packet.len() {
            return None;
        }
        let expected = partial_of(&transport);
        let trusted = match offload {
            Offload { gso: Some(_), .. } => return None,
            Offload { partial: Some(partial), .. } if partial == expected => true,
            Offload { partial: Some(_), .. } => return None,
            Offload { partial: None, .. } => false,
        };
        // Neither padding nor a part that is missing.
        let length = match transport.addresses {
            Addresses::V4(..) => usize::from(be16(packet, 2)),
            Addresses::V6(..) => plain + usize::from(be16(packet, 4)),
        };
        let whole = match transport.protocol {
            Protocol::Tcp => true,
            // Without a checksum nothing tells whether it is whole, and its segments would get one.
            Protocol::Udp => {
                let udp = &packet[transport.offset..];
                usize::from(be16(udp, 4)) == udp.len() && be16(udp, Protocol::Udp.checksum_offset()) != 0
            }
        };
        // The stack verifies the IP header of what is delivered only, so those of the others are verified here.
        let sound = match transport.addresses {
            Addresses::V4(..) => checksum::verifies(&packet[..plain]),
            Addresses::V6(..) => true,
        };
        (length == packet.len() && whole && sound).then_some(Self { packet, offload, transport, trusted })
    }

    /// Whether it is one of UDP, which not every kernel takes several of as one packet.
    pub fn is_datagram(&self) -> bool {
        self.transport.protocol == Protocol::Udp
    }

    fn payload(&self) -> &'a [u8] {
        &self.packet[self.transport.payload_at()..]
    }

    /// Flags of a TCP segment.
    fn tcp_flags(&self) -> Option<u8> {
        (self.transport.protocol == Protocol::Tcp).then(|| self.packet[self.transport.offset + TCP_FLAGS])
    }

    /// Whether something may follow it. A segment with anything else set stands for itself; PSH and FIN end a run.
    fn leads(&self) -> bool {
        self.tcp_flags().is_none_or(|flags| flags & !TCP_ECE == TCP_ACK)
    }

    /// Whether its checksum is right, or is not there yet to be wrong.
    pub fn verifies(&self) -> bool {
        self.trusted || {
            let covered = &self.packet[self.transport.offset..self.transport.end];
            let mut sum: Checksum = self.transport.pseudo_header(covered.len() as u32);
            sum.add(covered);
            sum.verifies()
        }
    }
}

impl Default for Run<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Run<'a> {
    /// Segments in a run at most. Of UDP the kernel takes no more in one packet (linux include/linux/udp.h
    /// `UDP_MAX_SEGMENTS`: 64 before 6.9), and its own GRO makes no more (udp_offload.c `UDP_GRO_CNT_MAX`); of full-size
    /// segments of TCP fewer are 64 KiB.
    pub const SEGMENTS: usize = 64;

    /// A run of none.
    pub fn new() -> Self {
        Self {
            first: None,
            payloads: [&[]; Self::SEGMENTS],
            count: 0,
            payload_len: 0,
            closed: false,
            last_flags: 0,
        }
    }

    /// Becomes a run of one; false when nothing may follow this packet: then it is a run of none.
    pub fn begin(&mut self, candidate: Candidate<'a>) -> bool {
        self.clear();
        if !candidate.leads() {
            return false;
        }
        let payload = candidate.payload();
        self.payloads[0] = payload;
        self.first = Some(candidate);
        (self.count, self.payload_len) = (1, payload.len());
        true
    }

    /// Adds the next packet; false when it does not continue the run, which is as it was then.
    pub fn append(&mut self, next: &Candidate<'a>) -> bool {
        let Some(first) = &mut self.first else { return false };
        if self.closed || self.count == Self::SEGMENTS {
            return false;
        }
        let (size, payload) = (self.payloads[0].len(), next.payload());
        let fits = payload.len() <= size
            && first.transport.payload_at() + self.payload_len + payload.len() <= MAX_PACKET;
        if !fits || !first.is_continued_by(next, self.count, self.payload_len) {
            return false;
        }
        // The sums come last: they cost the most.
        if !first.verifies() {
            self.closed = true;
            return false;
        }
        first.trusted = true;
        if !next.verifies() {
            return false;
        }
        self.payloads[self.count] = payload;
        self.count += 1;
        self.payload_len += payload.len();
        self.last_flags = next.tcp_flags().unwrap_or(0) & (TCP_FIN | TCP_PSH);
        self.closed = payload.len() < size || self.last_flags != 0;
        true
    }

    /// Becomes a run of none.
    pub fn clear(&mut self) {
        self.first = None;
        (self.count, self.payload_len) = (0, 0);
        (self.closed, self.last_flags) = (false, 0);
    }

    /// How many segments it has.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of all segments, headers included.
    pub fn bytes(&self) -> usize {
        let header_len = self.first.map_or(0, |first| first.transport.payload_at());
        self.count * header_len + self.payload_len
    }

    /// The first packet as it came, and what is left to be done to it: what to deliver when nothing followed it.
    pub fn first(&self) -> Option<(&'a [u8], Offload)> {
        self.first.map(|first| (first.packet, first.offload))
    }

    /// The payloads in order, to be sent behind the headers.
    pub fn payloads(&self) -> &[&'a [u8]] {
        &self.payloads[..self.count]
    }

    /// Writes the headers of the super-packet; returns their length and what is left to be done to it. A run of none
    /// has no headers.
    pub fn emit(&self, buffer: &mut [u8; MAX_HEADERS]) -> (usize, Offload) {
        let Some(Candidate { packet, transport, .. }) = self.first else { return (0, Offload::NONE) };
        let offset = transport.offset;
        let header_len = transport.payload_at();
        let (network, behind) = buffer[..header_len].split_at_mut(offset);
        network.copy_from_slice(&packet[..offset]);
        behind.copy_from_slice(&packet[offset..header_len]);
        // `append` keeps the whole within 16 bits.
        let transport_len = transport.header_len + self.payload_len;
        match transport.addresses {
            Addresses::V4(..) => ipv4::set_total_length(network, (offset + transport_len) as u16),
            Addresses::V6(..) => ipv6::set_payload_length(network, transport_len as u16),
        }
        match transport.protocol {
            Protocol::Tcp => behind[TCP_FLAGS] |= self.last_flags,
            Protocol::Udp => behind[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes()),
        }
        let pseudo = transport.pseudo_header(transport_len as u32).folded();
        let at = transport.protocol.checksum_offset();
        behind[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        let gso = Gso {
            kind: kind_of(&transport),
            size: self.payloads[0].len() as u16,
            header_len: header_len as u16,
            ecn: false,
        };
        (header_len, Offload { partial: Some(partial_of(&transport)), gso: Some(gso) })
    }
}

impl Candidate<'_> {
    /// Whether `next` is what comes after this one and `count - 1` more with `payload_len` bytes in all.
    fn is_continued_by(&self, next: &Candidate<'_>, count: usize, payload_len: usize) -> bool {
        let Transport { addresses, offset, header_len, protocol, .. } = self.transport;
        if (next.transport.protocol, next.transport.header_len) != (protocol, header_len)
            || next.transport.addresses != addresses
        {
            return false;
        }
        let same_network = match addresses {
            Addresses::V4(..) => same_ipv4(self.packet, next.packet, count),
            // Version, traffic class and flow label; hop limit.
            Addresses::V6(..) => next.packet[..4] == self.packet[..4] && next.packet[7] == self.packet[7],
        };
        let behind = offset..offset + header_len;
        let (ours, next) = (&self.packet[behind.clone()], &next.packet[behind]);
        same_network
            && match protocol {
                Protocol::Tcp => same_tcp(ours, next, payload_len),
                // The ports.
                Protocol::Udp => ours[..4] == next[..4],
            }
    }
}

/// TOS, flags (DF; it is no fragment) and TTL are the same. The identification counts on, unless DF makes it mean
/// nothing (RFC 6864 §4.1).
fn same_ipv4(ours: &[u8], next: &[u8], count: usize) -> bool {
    const DONT_FRAGMENT: u8 = 0x40;
    next[1] == ours[1]
        && next[6] == ours[6]
        && next[8] == ours[8]
        && (ours[6] & DONT_FRAGMENT != 0 || be16(next, 4) == be16(ours, 4).wrapping_add(count as u16))
}

fn same_tcp(ours: &[u8], next: &[u8], payload_len: usize) -> bool {
    let sequence = |tcp: &[u8]| u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    // Ports; acknowledgement; data offset; window; urgent pointer and options.
    let unchanged = [0..4, 8..13, 14..16, 18..ours.len()];
    sequence(next) == sequence(ours).wrapping_add(payload_len as u32)
        && next[TCP_FLAGS] & !(TCP_FIN | TCP_PSH) == ours[TCP_FLAGS]
        && unchanged.into_iter().all(|field| ours[field.clone()] == next[field])
}

fn partial_of(transport: &Transport) -> Partial {
    Partial { start: transport.offset as u16, offset: transport.protocol.checksum_offset() as u16 }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests;
