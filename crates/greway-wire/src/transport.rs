//! Where the TCP or UDP header of a payload packet begins and ends.
//!
//! A tunnel has to know for super-packets (to write each segment's headers) and for checksums that a
//! sender left to a device. Only packets that carry the whole transport header and are no fragments
//! are located; everything else is carried as it is and never looked into.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::checksum::{Checksum, pseudo_header_v4, pseudo_header_v6};
use crate::ipv4::Ipv4Header;
use crate::ipv6::{self, Ipv6Header};
use crate::{be16, ipv4};

/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Bytes of a TCP header without options.
pub const TCP_MIN_LEN: usize = 20;
/// Bytes of a UDP header.
pub const UDP_LEN: usize = 8;

/// More extension headers than anything sends on purpose: the walk ends there.
const MAX_EXTENSIONS: usize = 8;

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }

    /// Offset of the checksum field in the transport header.
    pub fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

/// The two addresses of a pseudo header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// Source and destination of IPv4.
    V4(Ipv4Addr, Ipv4Addr),
    /// Source and destination of IPv6.
    V6(Ipv6Addr, Ipv6Addr),
}

/// A transport header in a packet; offsets from the start of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Which protocol.
    pub protocol: Protocol,
    /// The addresses that its checksum covers.
    pub addresses: Addresses,
    /// Where the header begins.
    pub offset: usize,
    /// Bytes of the header.
    pub header_len: usize,
    /// Where the packet ends by the IP header's length field, never past the slice.
    pub end: usize,
}

impl Transport {
    /// Finds the transport header of an IPv4 or IPv6 packet. `None`: other protocols, fragments,
    /// headers that are not all there, IPv6 with a source route still to go.
    pub fn locate(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::locate_v4(packet),
            6 => Self::locate_v6(packet),
            _ => None,
        }
    }

    /// Offset of the checksum field.
    pub fn checksum_at(&self) -> usize {
        self.offset + self.protocol.checksum_offset()
    }

    /// Offset of the transport payload.
    pub fn payload_at(&self) -> usize {
        self.offset + self.header_len
    }

    /// The sum over the pseudo header; `length`: bytes of transport header and payload.
    pub fn pseudo_header(&self, length: u32) -> Checksum {
        let protocol = self.protocol.number();
        match self.addresses {
            Addresses::V4(source, destination) => pseudo_header_v4(source, destination, protocol, length),
            Addresses::V6(source, destination) => pseudo_header_v6(source, destination, protocol, length),
        }
    }

    fn locate_v4(packet: &[u8]) -> Option<Self> {
        let header = Ipv4Header::parse(packet).ok()?;
        if header.is_fragment() {
            return None;
        }
        let end = usize::from(header.total_length).min(packet.len());
        let addresses = Addresses::V4(header.source, header.destination);
        Self::bounds(packet, header.protocol, addresses, header.header_len(), end)
    }

    fn locate_v6(packet: &[u8]) -> Option<Self> {
        let header = Ipv6Header::parse(packet).ok()?;
        let end = (ipv6::LEN + usize::from(header.payload_length)).min(packet.len());
        let addresses = Addresses::V6(header.source, header.destination);
        let (mut next, mut at) = (header.next_header, ipv6::LEN);
        for _ in 0..MAX_EXTENSIONS {
            let [following, length] = *packet.get(at..)?.first_chunk::<2>()?;
            match next {
                TCP | UDP => return Self::bounds(packet, next, addresses, at, end),
                // Hop-by-hop and destination options (RFC 8200 §4.3, §4.6).
                0 | 60 => at += 8 + usize::from(length) * 8,
                // A routing header with segments left hides the final destination (§8.1).
                43 if packet.get(at + 3) == Some(&0) => at += 8 + usize::from(length) * 8,
                // A fragment header of a packet that is whole (RFC 6946).
                44 if be16(packet, at + 2)? & 0xfff9 == 0 => at += 8,
                _ => return None,
            }
            next = following;
        }
        None
    }

    fn bounds(packet: &[u8], protocol: u8, addresses: Addresses, offset: usize, end: usize) -> Option<Self> {
        let (protocol, header_len) = match protocol {
            TCP => (Protocol::Tcp, usize::from(packet.get(offset + 12)? >> 4) * 4),
            UDP => (Protocol::Udp, UDP_LEN),
            _ => return None,
        };
        let enough = protocol == Protocol::Udp || header_len >= TCP_MIN_LEN;
        let found = Self { protocol, addresses, offset, header_len, end };
        (enough && found.payload_at() <= end && offset >= ipv4::MIN_LEN).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn v4(protocol: u8, transport: &[u8]) -> Vec<u8> {
        let header = Ipv4Header {
            tos: 0,
            total_length: (20 + transport.len()) as u16,
            identification: 1,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 64,
            protocol,
            source: Ipv4Addr::new(172, 16, 0, 1),
            destination: Ipv4Addr::new(172, 16, 0, 2),
            options: &[],
        };
        let mut packet = std::vec![0; 20];
        header.emit(&mut packet).unwrap();
        packet.extend(transport);
        packet
    }

    fn v6(next_header: u8, after: &[u8]) -> Vec<u8> {
        let header = Ipv6Header {
            traffic_class: 0,
            flow_label: 0,
            payload_length: after.len() as u16,
            next_header,
            hop_limit: 64,
            source: Ipv6Addr::LOCALHOST,
            destination: Ipv6Addr::LOCALHOST,
        };
        let mut packet = std::vec![0; 40];
        header.emit(&mut packet).unwrap();
        packet.extend(after);
        packet
    }

    #[test]
    fn tcp_with_options_behind_ipv4() {
        let mut tcp = [0; 40];
        tcp[12] = 0x80;
        let found = Transport::locate(&v4(TCP, &tcp)).unwrap();
        assert_eq!((found.offset, found.payload_at(), found.checksum_at(), found.end), (20, 52, 36, 60));
    }

    #[test]
    fn udp_behind_two_extension_headers() {
        let mut after = std::vec![60, 0, 1, 4, 0, 0, 0, 0];
        after.extend([UDP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        after.extend([0; 9]);
        let found = Transport::locate(&v6(0, &after)).unwrap();
        assert_eq!(
            (found.protocol, found.offset, found.payload_at(), found.end),
            (Protocol::Udp, 64, 72, 73)
        );
    }

    #[test]
    fn fragments_and_source_routes_are_not_looked_into() {
        let mut fragment = v4(UDP, &[0; 8]);
        fragment[6] = 0x20;
        assert_eq!(Transport::locate(&fragment), None);
        let routed = [UDP, 0, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Transport::locate(&v6(43, &routed)), None);
        let later = [UDP, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Transport::locate(&v6(44, &later)), None);
    }

    #[test]
    fn padding_after_the_ip_packet_is_no_payload() {
        let mut packet = v4(UDP, &[0; 12]);
        packet.extend([0xee; 6]);
        assert_eq!(Transport::locate(&packet).unwrap().end, 32);
    }

    proptest! {
        #[test]
        fn what_is_found_lies_inside_the_packet(
            mut packet in proptest::collection::vec(any::<u8>(), 0..120),
            version in prop_oneof![Just(0x45_u8), Just(0x60)],
            protocol in prop_oneof![Just(TCP), Just(UDP), Just(0), Just(60), Just(44)],
        ) {
            if let Some(first) = packet.first_mut() {
                *first = version;
            }
            let at = if version == 0x45 { 9 } else { 6 };
            if let Some(field) = packet.get_mut(at) {
                *field = protocol;
            }
            if let Some(found) = Transport::locate(&packet) {
                prop_assert!(found.payload_at() <= found.end && found.end <= packet.len());
                prop_assert!(found.checksum_at() + 2 <= packet.len());
            }
        }
    }
}
