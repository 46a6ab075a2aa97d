//! Packets made by hand, to be sent where no program would send them: odd flags, wrong checksums, cut-off
//! headers. The builders fill in what must be right (lengths, IPv4 header checksum) and let the caller spoil
//! the rest in the bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use greway_linux::MacAddr;
use greway_wire::checksum::{checksum, pseudo_header_v4};
use greway_wire::gre::{CHECKSUM_OFFSET, GreHeader};
use greway_wire::icmp::Echo;
use greway_wire::ipv4::Ipv4Header;
use greway_wire::ipv6::Ipv6Header;

/// Protocol number of GRE.
pub const GRE: u8 = 47;
/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// An Ethernet frame around `payload`, not padded.
pub fn ethernet(destination: MacAddr, source: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&destination.octets()[..], &source.octets(), &ethertype.to_be_bytes(), payload].concat()
}

/// An IPv4 header with usual values: TTL 64, DF, no options. Lengths are set by [`ipv4`].
pub fn ipv4_header(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) -> Ipv4Header<'static> {
    Ipv4Header {
        tos: 0,
        total_length: 0,
        identification: 1,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol,
        source,
        destination,
        options: &[],
    }
}

/// An IPv4 packet; total length and header checksum are filled in.
pub fn ipv4(header: Ipv4Header<'_>, payload: &[u8]) -> Vec<u8> {
    let length = header.header_len();
    let header = Ipv4Header { total_length: (length + payload.len()) as u16, ..header };
    packet(length, payload, |buffer| header.emit(buffer).is_ok())
}

/// An IPv6 header with usual values: hop limit 64, no flow label. The length is set by [`ipv6`].
pub fn ipv6_header(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8) -> Ipv6Header {
    Ipv6Header {
        traffic_class: 0,
        flow_label: 0,
        payload_length: 0,
        next_header,
        hop_limit: 64,
        source,
        destination,
    }
}

/// An IPv6 packet; the payload length is filled in.
pub fn ipv6(header: Ipv6Header, payload: &[u8]) -> Vec<u8> {
    let header = Ipv6Header { payload_length: payload.len() as u16, ..header };
    packet(greway_wire::ipv6::LEN, payload, |buffer| header.emit(buffer).is_ok())
}

/// GRE header and payload. With `checksum: Some(0)` the right checksum is filled in; another value is kept, so
/// that a test can send a wrong one.
pub fn gre(header: GreHeader, payload: &[u8]) -> Vec<u8> {
    let mut bytes = packet(header.header_len(), payload, |buffer| header.emit(buffer).is_ok());
    if header.checksum == Some(0) {
        let field = checksum(&bytes);
        bytes[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].copy_from_slice(&field.to_be_bytes());
    }
    bytes
}

/// An ICMP echo request message.
pub fn echo_request(identifier: u16, sequence_number: u16, data: &[u8]) -> Vec<u8> {
    let echo = Echo { is_reply: false, identifier, sequence_number };
    let mut bytes = vec![0; greway_wire::icmp::HEADER_LEN + data.len()];
    let written = echo.emit(data, &mut bytes).is_ok();
    debug_assert!(written, "the buffer was made to measure");
    bytes
}

/// A UDP datagram over IPv4, checksum filled in.
pub fn udp(
    (source, source_port): (Ipv4Addr, u16),
    (destination, destination_port): (Ipv4Addr, u16),
    data: &[u8],
) -> Vec<u8> {
    let length = (8 + data.len()) as u16;
    let mut bytes =
        [source_port.to_be_bytes(), destination_port.to_be_bytes(), length.to_be_bytes(), [0; 2]].concat();
    bytes.extend(data);
    let mut sum = pseudo_header_v4(source, destination, UDP, length.into());
    sum.add(&bytes);
    // A checksum of zero is sent as all ones (RFC 768).
    let field = if sum.value() == 0 { 0xffff } else { sum.value() };
    bytes[6..8].copy_from_slice(&field.to_be_bytes());
    bytes
}

fn packet(header: usize, payload: &[u8], emit: impl FnOnce(&mut [u8]) -> bool) -> Vec<u8> {
    let mut bytes = vec![0; header];
    let written = emit(&mut bytes);
    debug_assert!(written, "the buffer was made to measure");
    bytes.extend(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use greway_wire::checksum::verifies;

    const A: Ipv4Addr = Ipv4Addr::new(100, 0, 1, 100);
    const B: Ipv4Addr = Ipv4Addr::new(100, 0, 2, 100);

    #[test]
    fn an_ipv4_packet_has_its_length_and_checksum() {
        let packet = ipv4(ipv4_header(A, B, GRE), &[1, 2, 3]);
        assert_eq!(packet.len(), 23);
        assert_eq!(packet[2..4], [0, 23]);
        assert!(verifies(&packet[..20]));
    }

    #[test]
    fn a_gre_checksum_is_filled_in_or_kept() {
        let header = GreHeader { protocol_type: 0x0800, checksum: Some(0), ..GreHeader::default() };
        assert!(verifies(&gre(header, b"odd")));
        let wrong = gre(GreHeader { checksum: Some(0x1234), ..header }, b"odd");
        assert_eq!(wrong[4..6], [0x12, 0x34]);
        assert!(!verifies(&wrong));
    }

    #[test]
    fn echo_and_udp_verify() {
        assert!(verifies(&echo_request(1, 2, b"abc")));
        let datagram = udp((A, 1), (B, 2), b"abc");
        let mut sum = pseudo_header_v4(A, B, UDP, datagram.len() as u32);
        sum.add(&datagram);
        assert!(sum.verifies());
    }
}
