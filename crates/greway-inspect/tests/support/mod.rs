//! Packets and captures for tests.

#![allow(dead_code, reason = "each test file uses a part")]

use std::io::Cursor;

use greway_inspect::{Found, Inspection};
use greway_spec::TunnelSpec;
use greway_wire::checksum;
use greway_wire::gre::GreHeader;
use greway_wire::ipv4::Ipv4Header;
use greway_wire::ipv6::Ipv6Header;

pub(crate) const ETHERNET: u32 = 1;
pub(crate) const RAW: u32 = 101;
const SECONDS: u32 = 1_700_000_000;
const MICROSECONDS: u32 = 123;

/// All GRE packets of a capture.
pub(crate) fn all(capture: &[u8]) -> Vec<Found> {
    read(Inspection::new(Cursor::new(capture.to_vec()), None).unwrap())
}

/// The same, judged.
pub(crate) fn all_for(capture: &[u8], spec: &TunnelSpec) -> Vec<Found> {
    read(Inspection::new(Cursor::new(capture.to_vec()), Some(spec)).unwrap())
}

fn read(mut inspection: Inspection) -> Vec<Found> {
    let mut found = Vec::new();
    while let Some(packet) = inspection.next_packet().unwrap() {
        found.push(packet);
    }
    found
}

pub(crate) fn udp(payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    [&1000_u16.to_be_bytes()[..], &2000_u16.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

pub(crate) fn ipv4(protocol: u8, source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let header = Ipv4Header {
        tos: 0,
        total_length: (20 + payload.len()) as u16,
        identification: 0x1234,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol,
        source: source.into(),
        destination: destination.into(),
        options: &[],
    };
    let mut packet = vec![0; 20];
    header.emit(&mut packet).unwrap();
    packet.extend(payload);
    packet
}

pub(crate) fn fill_ipv4_checksum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = checksum::checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

pub(crate) fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: 0,
        payload_length: payload.len() as u16,
        next_header,
        hop_limit: 64,
        source: "2001:db8::1".parse().unwrap(),
        destination: "2001:db8::2".parse().unwrap(),
    };
    let mut packet = vec![0; 40];
    header.emit(&mut packet).unwrap();
    packet.extend(payload);
    packet
}

/// C, K and S with their values; that of C is computed.
pub(crate) fn gre(flags: &[(char, u32)], protocol_type: u16, payload: &[u8]) -> Vec<u8> {
    let value = |wanted| flags.iter().find(|(flag, _)| *flag == wanted).map(|(_, value)| *value);
    let header = GreHeader {
        protocol_type,
        checksum: value('C').map(|_| 0),
        key: value('K'),
        sequence_number: value('S'),
    };
    let mut packet = vec![0; header.header_len()];
    header.emit(&mut packet).unwrap();
    packet.extend(payload);
    if header.checksum.is_some() {
        let sum = checksum::checksum(&packet);
        packet[4..6].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

pub(crate) fn ethernet(packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [0x08, 0x00] };
    [&[2; 12][..], &ethertype, packet].concat()
}

pub(crate) fn cooked(packet: &[u8]) -> Vec<u8> {
    [&[0; 14][..], &[0x08, 0x00], packet].concat()
}

/// An IPv4 packet in pieces of `size` bytes of payload.
pub(crate) fn fragments_of(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(20);
    let last = payload.len().div_ceil(size) - 1;
    let piece = |(index, bytes): (usize, &[u8])| {
        let mut fragment = [header, bytes].concat();
        let more = if index == last { 0 } else { 0x2000 };
        let word = more | (index * size / 8) as u16;
        fragment[2..4].copy_from_slice(&((20 + bytes.len()) as u16).to_be_bytes());
        fragment[6..8].copy_from_slice(&word.to_be_bytes());
        fill_ipv4_checksum(&mut fragment);
        fragment
    };
    payload.chunks(size).enumerate().map(piece).collect()
}

/// An IPv6 packet in pieces of `size` bytes of payload.
pub(crate) fn ipv6_fragments_of(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(40);
    let last = payload.len().div_ceil(size) - 1;
    let piece = |(index, bytes): (usize, &[u8])| {
        let word = (index * size) as u16 | u16::from(index != last);
        let extension = [&[header[6], 0][..], &word.to_be_bytes(), &[0, 0, 0, 9]].concat();
        let mut fragment = [header, &extension, bytes].concat();
        fragment[4..6].copy_from_slice(&((8 + bytes.len()) as u16).to_be_bytes());
        fragment[6] = 44;
        fragment
    };
    payload.chunks(size).enumerate().map(piece).collect()
}

/// How the header of a pcap file is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endian {
    Little,
    Big,
    Nanoseconds,
}

pub(crate) fn pcap(endian: Endian, link: u32, frames: &[Vec<u8>]) -> Vec<u8> {
    let word = |value: u32| match endian {
        Endian::Big => value.to_be_bytes(),
        _ => value.to_le_bytes(),
    };
    let half = |value: u16| match endian {
        Endian::Big => value.to_be_bytes(),
        _ => value.to_le_bytes(),
    };
    let (magic, fraction) = match endian {
        Endian::Nanoseconds => (0xa1b2_3c4d, MICROSECONDS * 1000),
        _ => (0xa1b2_c3d4, MICROSECONDS),
    };
    let mut file =
        [&word(magic)[..], &half(2), &half(4), &word(0), &word(0), &word(262_144), &word(link)].concat();
    for frame in frames {
        let length = word(frame.len() as u32);
        for field in [&word(SECONDS)[..], &word(fraction), &length, &length, frame] {
            file.extend(field);
        }
    }
    file
}

/// One frame of which only the first bytes were captured.
pub(crate) fn pcap_cut(frame: &[u8], captured: usize) -> Vec<u8> {
    let mut file = pcap(Endian::Little, ETHERNET, &[frame[..captured].to_vec()]);
    file[36..40].copy_from_slice(&(frame.len() as u32).to_le_bytes());
    file
}

pub(crate) fn pcapng(link: u32, frames: &[Vec<u8>]) -> Vec<u8> {
    let block = |kind: u32, body: &[u8]| {
        let padding = body.len().next_multiple_of(4) - body.len();
        let length = ((12 + body.len() + padding) as u32).to_le_bytes();
        [&kind.to_le_bytes()[..], &length, body, &[0; 3][..padding], &length].concat()
    };
    let section = [&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat();
    let interface = [&link.to_le_bytes()[..], &[0; 4]].concat();
    let mut file = [block(0x0a0d_0d0a, &section), block(1, &interface)].concat();
    let units = u64::from(SECONDS) * 1_000_000 + u64::from(MICROSECONDS);
    for frame in frames {
        let length = frame.len() as u32;
        let fields = [0, (units >> 32) as u32, units as u32, length, length];
        let fields: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
        file.extend(block(6, &[&fields[..], frame].concat()));
    }
    file
}
