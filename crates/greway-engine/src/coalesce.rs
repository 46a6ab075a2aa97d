//! Putting TCP segments that arrived one after the other back into one super-packet.
//!
//! What GRO does where the underlay's device has it. Where it has not, every segment would cost the host a walk
//! through its stack and every second one an acknowledgement through the tunnel; put together, a
//! bulk costs a tenth. The rules are the kernel's (linux net/ipv4/tcp_offload.c `tcp_gro_receive`,
//! af_inet.c `inet_gro_receive`, v6.18), and so is the promise: what comes out, split again, is what came in.
//!
//! A run goes on while nothing but the sequence number, the identification and the checksum changes.
//! A short segment, PSH and FIN end it. Checksums are verified before they are given up.

use greway_wire::checksum::{self, Checksum};
use greway_wire::ipv4::{self, Ipv4Header};
use greway_wire::ipv6;
use greway_wire::transport::{Addresses, Protocol, Transport};

use crate::offload::{Gso, Offload, Partial};
use crate::unfilled::kind_of;

const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: usize = 16;
const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_ACK: u8 = 0x10;
const TCP_ECE: u8 = 0x40;
/// Bytes of the largest packet that a run may become.
const MAX_PACKET: usize = 65_535;

/// Bytes that the headers of a super-packet need at most: IPv6 and TCP with all its options.
pub const MAX_HEADERS: usize = ipv6::LEN + 60;

/// Segments of one connection, in order and without a gap. Nothing is copied: it borrows the packets.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    first: &'a [u8],
    offload: Offload,
    transport: Transport,
    /// The first checksum is known to be right, or is not there to be verified.
    trusted: bool,
    payloads: [&'a [u8]; Run::SEGMENTS],
    count: usize,
    payload_len: usize,
    closed: bool,
    /// FIN and PSH of the last segment.
    last_flags: u8,
}

/// A packet that may be part of a run.
struct Candidate {
    transport: Transport,
    trusted: bool,
}

impl Candidate {
    fn of(packet: &[u8], offload: Offload) -> Option<Self> {
        let transport = Transport::locate(packet)?;
        let plain = match transport.addresses {
            Addresses::V4(..) => ipv4::MIN_LEN,
            Addresses::V6(..) => ipv6::LEN,
        };
        let expected = Partial { start: transport.offset as u16, offset: TCP_CHECKSUM as u16 };
        let trusted = match offload {
            Offload { gso: Some(_), .. } => return None,
            Offload { partial: Some(partial), .. } if partial == expected => true,
            Offload { partial: Some(_), .. } => return None,
            Offload { partial: None, .. } => false,
        };
        // The stack verifies the IP header of what is delivered only, so those of the others are verified here.
        let length = match transport.addresses {
            Addresses::V4(..) if !checksum::verifies(&packet[..plain]) => return None,
            Addresses::V4(..) => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
            Addresses::V6(..) => plain + usize::from(u16::from_be_bytes([packet[4], packet[5]])),
        };
        let usable = transport.protocol == Protocol::Tcp
            && transport.offset == plain
            && length == packet.len()
            && transport.payload_at() < packet.len();
        usable.then_some(Self { transport, trusted })
    }
}

impl<'a> Run<'a> {
    /// Segments in a run at most: what 64 KiB are of full-size ones, and a few more.
    pub const SEGMENTS: usize = 48;

    /// A run of one; `None` when nothing may follow this packet.
    pub fn begin(packet: &'a [u8], offload: Offload) -> Option<Self> {
        let Candidate { transport, trusted } = Candidate::of(packet, offload)?;
        // With anything else set it stands for itself; PSH and FIN end a run.
        if packet[transport.offset + TCP_FLAGS] & !TCP_ECE != TCP_ACK {
            return None;
        }
        let payload = &packet[transport.payload_at()..];
        let mut payloads = [&[][..]; Self::SEGMENTS];
        payloads[0] = payload;
        Some(Self {
            first: packet,
            offload,
            transport,
            trusted,
            payloads,
            count: 1,
            payload_len: payload.len(),
            closed: false,
            last_flags: 0,
        })
    }

    /// Adds the next packet; false when it does not continue the run, which is as it was then.
    pub fn append(&mut self, packet: &'a [u8], offload: Offload) -> bool {
        if self.closed || self.count == Self::SEGMENTS {
            return false;
        }
        let Some(candidate) = Candidate::of(packet, offload) else { return false };
        let size = self.size();
        let payload = &packet[candidate.transport.payload_at()..];
        let fits =
            payload.len() <= size && self.first.len() - size + self.payload_len + payload.len() <= MAX_PACKET;
        if !fits || !self.continues(packet, &candidate.transport) {
            return false;
        }
        // The sums come last: they cost the most.
        if !(self.trusted || verifies(self.first, &self.transport)) {
            self.closed = true;
            return false;
        }
        self.trusted = true;
        if !(candidate.trusted || verifies(packet, &candidate.transport)) {
            return false;
        }
        self.payloads[self.count] = payload;
        self.count += 1;
        self.payload_len += payload.len();
        self.last_flags = packet[self.transport.offset + TCP_FLAGS] & (TCP_FIN | TCP_PSH);
        self.closed = payload.len() < size || self.last_flags != 0;
        true
    }

    /// How many segments it has.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of all segments, headers included.
    pub fn bytes(&self) -> usize {
        self.count * self.transport.payload_at() + self.payload_len
    }

    /// The first packet as it came: what to deliver when nothing followed it.
    pub fn first(&self) -> &'a [u8] {
        self.first
    }

    /// What is left to be done to the first packet.
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// The payloads in order, to be sent behind the headers.
    pub fn payloads(&self) -> &[&'a [u8]] {
        &self.payloads[..self.count]
    }

    /// Writes the headers of the super-packet; returns their length and what is left to be done to it.
    pub fn emit(&self, buffer: &mut [u8; MAX_HEADERS]) -> (usize, Offload) {
        let offset = self.transport.offset;
        let header_len = self.transport.payload_at();
        let headers = &mut buffer[..header_len];
        headers.copy_from_slice(&self.first[..header_len]);
        let transport_len = self.transport.header_len + self.payload_len;
        match self.transport.addresses {
            // `append` keeps the whole within 16 bits.
            Addresses::V4(..) => ipv4::set_total_length(headers, (offset + transport_len) as u16),
            Addresses::V6(..) => ipv6::set_payload_length(headers, transport_len as u16),
        }
        headers[offset + TCP_FLAGS] |= self.last_flags;
        let pseudo = self.transport.pseudo_header(transport_len as u32).folded();
        headers[offset + TCP_CHECKSUM..offset + TCP_CHECKSUM + 2].copy_from_slice(&pseudo.to_be_bytes());
        let partial = Some(Partial { start: offset as u16, offset: TCP_CHECKSUM as u16 });
        let gso = Gso {
            kind: kind_of(&self.transport),
            size: self.size() as u16,
            header_len: header_len as u16,
            ecn: false,
        };
        (header_len, Offload { partial, gso: Some(gso) })
    }

    /// Payload bytes of every segment but the last.
    fn size(&self) -> usize {
        self.payloads[0].len()
    }

    fn continues(&self, packet: &[u8], transport: &Transport) -> bool {
        let Transport { addresses, offset, header_len, .. } = self.transport;
        if transport.addresses != addresses || transport.header_len != header_len {
            return false;
        }
        let same_network = match addresses {
            Addresses::V4(..) => self.same_ipv4(packet),
            // Version, traffic class and flow label; hop limit.
            Addresses::V6(..) => packet[..4] == self.first[..4] && packet[7] == self.first[7],
        };
        let (ours, next) = (&self.first[offset..offset + header_len], &packet[offset..offset + header_len]);
        let sequence = |tcp: &[u8]| u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        // Ports; acknowledgement; data offset; window; urgent pointer and options.
        let unchanged = [0..4, 8..13, 14..16, 18..header_len];
        same_network
            && sequence(next) == sequence(ours).wrapping_add(self.payload_len as u32)
            && next[TCP_FLAGS] & !(TCP_FIN | TCP_PSH) == ours[TCP_FLAGS]
            && unchanged.into_iter().all(|field| ours[field.clone()] == next[field])
    }

    /// Version, TOS, DF and TTL are the same. The identification counts on, unless DF makes it mean
    /// nothing (RFC 6864 §4.1).
    fn same_ipv4(&self, packet: &[u8]) -> bool {
        let (Ok(ours), Ok(next)) = (Ipv4Header::parse(self.first), Ipv4Header::parse(packet)) else {
            return false;
        };
        next.tos == ours.tos
            && next.ttl == ours.ttl
            && next.dont_fragment == ours.dont_fragment
            && (ours.dont_fragment
                || next.identification == ours.identification.wrapping_add(self.count as u16))
    }
}

fn verifies(packet: &[u8], transport: &Transport) -> bool {
    let covered = &packet[transport.offset..transport.end];
    let mut sum: Checksum = transport.pseudo_header(covered.len() as u32);
    sum.add(covered);
    sum.verifies()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::Split;
    use crate::unfilled::unfilled;
    use proptest::prelude::*;

    /// A super-packet of `payload` bytes with these flags on its last segment.
    fn whole(v6: bool, payload: usize, flags: u8) -> Vec<u8> {
        let mut tcp = vec![0; 32 + payload];
        tcp[..4].copy_from_slice(&[0x13, 0x88, 0x00, 0x50]);
        tcp[4..8].copy_from_slice(&0xffff_f000_u32.to_be_bytes());
        tcp[12] = 8 << 4;
        tcp[TCP_FLAGS] = TCP_ACK | flags;
        tcp.iter_mut().skip(32).enumerate().for_each(|(index, byte)| *byte = (index * 31) as u8);
        let mut packet = if v6 {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, 6, 64];
            header.extend([0xfd; 32]);
            header
        } else {
            let mut header = vec![0x45, 0, 0, 0, 0xff, 0xfe, 0, 0, 64, 6, 0, 0];
            header.extend([172, 16, 0, 1, 172, 16, 0, 2]);
            header
        };
        let length = tcp.len();
        packet.extend(tcp);
        if v6 {
            ipv6::set_payload_length(&mut packet, length as u16);
        } else {
            packet[2..4].copy_from_slice(&((20 + length) as u16).to_be_bytes());
            let field = checksum::checksum(&packet[..20]);
            packet[10..12].copy_from_slice(&field.to_be_bytes());
        }
        let transport = Transport::locate(&packet).unwrap();
        let pseudo = transport.pseudo_header(length as u32).folded();
        let at = transport.checksum_at();
        packet[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        packet
    }

    /// The packets that it stands for.
    fn segments(packet: &[u8], size: u16) -> Vec<Vec<u8>> {
        let transport = Transport::locate(packet).unwrap();
        let header_len = transport.payload_at() as u16;
        let gso = Gso { kind: kind_of(&transport), size, header_len, ecn: false };
        let split = Split::of(packet, gso, false).unwrap();
        let segment = |number| {
            let payload = &packet[split.payload(number)];
            let mut headers = packet[..split.header_len()].to_vec();
            split.rewrite(&mut headers, number, checksum::sum(payload));
            [&headers, payload].concat()
        };
        (0..split.count()).map(segment).collect()
    }

    fn emitted(run: &Run<'_>) -> (Vec<u8>, Offload) {
        let mut buffer = [0; MAX_HEADERS];
        let (length, offload) = run.emit(&mut buffer);
        ([&buffer[..length], &run.payloads().concat()].concat(), offload)
    }

    proptest! {
        #[test]
        fn what_was_split_is_whole_again(
            v6: bool,
            payload in 2_usize..40_000,
            size in 1000_u16..1448,
            flags in prop_oneof![Just(0), Just(TCP_PSH), Just(TCP_FIN | TCP_PSH), Just(TCP_ECE)],
        ) {
            let packet = whole(v6, payload, flags);
            let segments = segments(&packet, size);
            prop_assume!(segments.len() > 1);
            let mut run = Run::begin(&segments[0], Offload::NONE).unwrap();
            for segment in &segments[1..] {
                prop_assert!(run.append(segment, Offload::NONE));
            }
            let (whole, offload) = emitted(&run);
            prop_assert_eq!(whole, packet);
            prop_assert_eq!(offload.gso.unwrap().size, size);
            prop_assert!(unfilled(&emitted(&run).0).is_some());
        }

        #[test]
        fn a_packet_that_was_changed_anywhere_does_not_join(at in 0_usize..1052, bit in 0_u8..8) {
            let packet = whole(false, 4000, 0);
            let segments = segments(&packet, 1000);
            let mut changed = segments[1].clone();
            changed[at] ^= 1 << bit;
            let mut run = Run::begin(&segments[0], Offload::NONE).unwrap();
            prop_assert!(!run.append(&changed, Offload::NONE));
            prop_assert!(run.append(&segments[1], Offload::NONE));
        }
    }

    #[test]
    fn a_first_packet_with_a_bad_checksum_stays_alone() {
        let packet = whole(false, 4000, 0);
        let mut segments = segments(&packet, 1000);
        segments[0][60] ^= 1;
        let mut run = Run::begin(&segments[0], Offload::NONE).unwrap();
        assert!(!run.append(&segments[1], Offload::NONE));
        assert_eq!((run.count(), run.first()), (1, &segments[0][..]));
    }

    #[test]
    fn a_short_segment_ends_a_run() {
        let packet = whole(false, 2500, 0);
        let segments = segments(&packet, 1000);
        let mut run = Run::begin(&segments[0], Offload::NONE).unwrap();
        assert!(run.append(&segments[1], Offload::NONE) && run.append(&segments[2], Offload::NONE));
        let mut next = whole(false, 1000, 0);
        next[24..28].copy_from_slice(&0xffff_f000_u32.wrapping_add(2500).to_be_bytes());
        assert!(!run.append(&next, Offload { partial: Some(Partial { start: 20, offset: 16 }), gso: None }));
    }

    #[test]
    fn what_is_no_bulk_begins_no_run() {
        for flags in [0x02, TCP_FIN, TCP_PSH, 0x04, 0x20, 0x80] {
            assert!(Run::begin(&whole(false, 100, flags), Offload::NONE).is_none(), "{flags:02x}");
        }
        assert!(Run::begin(&whole(false, 0, 0), Offload::NONE).is_none(), "no payload");
        assert!(Run::begin(&[0x45; 19], Offload::NONE).is_none());
        assert!(Run::begin(&[], Offload::NONE).is_none());
    }
}
