//! Random tunnels, and random packets for them: each is what its number makes of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use greway_fastpath::{NextHop, Place};
use greway_spec::{Draft, FlowLabel, Mode, MssClamp, Tos, Ttl, TunnelSpec};
use greway_wire::{ecn, encap_limit, ethertype, ipv4::Ipv4Header, ipv6::Ipv6Header};

use crate::LO;

/// SplitMix64: every case is its number.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(crate) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

pub(crate) fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last + 1).into()
}

pub(crate) fn v6(last: u8) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last) + 1).into()
}

/// A tunnel with any of its knobs turned.
pub(crate) fn spec(random: &mut Random) -> TunnelSpec {
    let mut spec =
        Draft::new("tun0".parse().unwrap(), Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2))
            .into_spec()
            .unwrap();
    spec.mode = *random.of(&Mode::ALL);
    let six = spec.mode.over_ipv6();
    let address = |last| if six { v6(last) } else { v4(last) };
    spec.local = (!random.one_in(4)).then(|| address(0));
    spec.remote = Some(address(1));
    let key = *random.of(&[None, None, Some(0), Some(1), Some(0xdead_beef)]);
    spec.ikey = key;
    spec.okey = if random.one_in(4) { Some(random.next() as u32) } else { key };
    spec.icsum = random.one_in(20);
    spec.ocsum = random.one_in(20);
    spec.iseq = random.one_in(20);
    spec.oseq = random.one_in(20);
    spec.ttl = *random.of(&[Ttl::Inherit, Ttl::Fixed(64), Ttl::Fixed(1), Ttl::Fixed(255)]);
    spec.tos = Tos { inherit: random.one_in(2), value: *random.of(&[0, 0, 0x10, 0xb8]) };
    spec.pmtudisc = !random.one_in(3);
    spec.ignore_df = !spec.pmtudisc && random.one_in(2);
    spec.encaplimit = random.of(&[None, Some(4), Some(0), Some(255)]).filter(|_| six);
    spec.flowlabel = *random.of(&[FlowLabel::Fixed(0), FlowLabel::Inherit, FlowLabel::Fixed(0xa_bcde)]);
    spec.dscp_inherit = random.one_in(4);
    spec.fwmark = *random.of(&[0, 0, 77]);
    spec.mss = *random.of(&[MssClamp::Auto, MssClamp::Auto, MssClamp::Off, MssClamp::Fixed(1200)]);
    spec
}

/// The same, but with few addresses and keys, and some left open.
pub(crate) fn close_spec(random: &mut Random) -> TunnelSpec {
    let mut spec = spec(random);
    spec.mode = *random.of(&[Mode::Gre, Mode::Gre, Mode::Gretap, Mode::Ip6Gre, Mode::Ip6Gretap]);
    let six = spec.mode.over_ipv6();
    let address = |last| if six { v6(last) } else { v4(last) };
    spec.local = random.of(&[None, Some(0), Some(0), Some(1)]).map(address);
    spec.remote = random.of(&[None, Some(1), Some(1), Some(1), Some(1), Some(2)]).map(address);
    spec.ikey = *random.of(&[None, None, Some(0), Some(7)]);
    spec.encaplimit = spec.encaplimit.filter(|_| six);
    spec
}

pub(crate) fn spec_clamps(spec: &TunnelSpec) -> bool {
    matches!(spec.mss, MssClamp::Fixed(_))
}

pub(crate) fn place(peer: u32, spec: &TunnelSpec) -> Place {
    let source = if spec.mode.over_ipv6() { v6(0) } else { v4(0) };
    Place {
        peer,
        device_mtu: 1476,
        device_mac: [2, 0, 0, 0, 1, 1],
        peer_mac: [2, 0, 0, 0, 2, 2],
        source: spec.local.or(Some(source)),
        next_hop: Some(NextHop { ifindex: LO, address: v4(9) }),
        neighbour_known: true,
        path_mtu: 1500,
        ..Place::default()
    }
}

/// A frame out of a tunnel device.
pub(crate) struct Payload {
    pub(crate) frame: Vec<u8>,
    pub(crate) ethertype: u16,
    /// What is never to be declined, where it fits.
    pub(crate) common: bool,
}

pub(crate) fn payload(random: &mut Random, spec: &TunnelSpec) -> Payload {
    let length = *random.of(&[0, 1, 26, 46, 64, 400, 1200, 1400, 1420, 1440, 1472, 1480]);
    let (ethertype, packet, mut common) = inner(random, length, spec);
    let mut frame = random.bytes(12);
    // An address of one station, as a neighbour's is.
    frame[0] &= 0xfe;
    if random.one_in(8) {
        // To a group: all the same.
        frame[0] |= 1;
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    if frame.len() == 14 {
        frame.push(0);
        common = false;
    }
    if random.one_in(12) {
        common = false;
        cut(random, &mut frame);
    }
    Payload { frame, ethertype, common }
}

/// A network packet: EtherType, bytes, and whether it is one of a common kind.
pub(crate) fn inner(random: &mut Random, length: usize, spec: &TunnelSpec) -> (u16, Vec<u8>, bool) {
    let tos = *random.of(&[0, 0, 1, 2, 3, 0xb8, 0xbb, 0x2d]);
    let ttl = *random.of(&[64, 64, 255, 1, 1, 0]);
    let rest = random.bytes(length);
    let kind = random.below(10);
    let own = random.one_in(25);
    match kind {
        0..4 => {
            let protocol = *random.of(&[1, 6, 17, 17, 47, 132]);
            let address = |own: bool, address: Option<IpAddr>, other| match address {
                Some(IpAddr::V4(address)) if own => address,
                _ => other,
            };
            let options = if random.one_in(10) { vec![1; 4 * (random.below(10) + 1)] } else { Vec::new() };
            let header = Ipv4Header {
                tos,
                total_length: (20 + options.len() + length) as u16,
                identification: random.next() as u16,
                dont_fragment: random.one_in(2),
                more_fragments: random.one_in(8),
                fragment_offset: if random.one_in(8) { 5 } else { 0 },
                ttl,
                protocol,
                source: address(own, spec.local, Ipv4Addr::new(10, 0, 0, 1)),
                destination: address(own, spec.remote, Ipv4Addr::new(10, 0, 0, 2)),
                options: &options,
            };
            let mut bytes = vec![0; header.header_len()];
            header.emit(&mut bytes).unwrap();
            let common = ttl > 0 && !own;
            (ethertype::IPV4, [bytes, rest].concat(), common)
        }
        4..8 => {
            let next_header = *random.of(&[58, 6, 17, 17, 47, 60, 0, 44]);
            let address = |own: bool, address: Option<IpAddr>, other: &str| match address {
                Some(IpAddr::V6(address)) if own => address,
                _ => other.parse().unwrap(),
            };
            let header = Ipv6Header {
                traffic_class: tos,
                flow_label: *random.of(&[0, 0x12345]),
                payload_length: length as u16,
                next_header,
                hop_limit: ttl,
                source: address(own && random.one_in(2), spec.remote, "fd00::1"),
                destination: address(own, spec.remote, "fd00::2"),
            };
            let mut bytes = vec![0; 40];
            header.emit(&mut bytes).unwrap();
            let mut rest = rest;
            if next_header == 60 && length >= 8 {
                rest[..8].copy_from_slice(&encap_limit::option(58, *random.of(&[0, 1, 9])));
            }
            let common = ttl > 0 && !own && !matches!(next_header, 0 | 44 | 60);
            (ethertype::IPV6, [bytes, rest].concat(), common)
        }
        8 => {
            let arp = spec.mode.is_ethernet() || random.one_in(2);
            let (kind, bytes) =
                if arp { (ethertype::ARP, random.bytes(28)) } else { (ethertype::MPLS, rest) };
            (kind, bytes, arp)
        }
        _ => {
            let kind = *random.of(&[ethertype::VLAN, ethertype::QINQ, 0x88cc, 0x0026]);
            (kind, rest, false)
        }
    }
}

/// A frame from the underlay, mostly for this tunnel, and whether it must be carried.
pub(crate) fn delivery(random: &mut Random, spec: &TunnelSpec) -> (Vec<u8>, bool) {
    let six = spec.mode.over_ipv6();
    let other = |last| if six { v6(last) } else { v4(last) };
    let mut common = true;
    let length = *random.of(&[26, 46, 64, 200, 400, 1200, 1400]);
    let (mut protocol, mut packet, common_inside) = inner(random, length, spec);
    common &= common_inside;
    if spec.mode.is_ethernet() {
        packet = [&random.bytes(12)[..], &protocol.to_be_bytes(), &packet].concat();
        protocol = ethertype::TEB;
    }
    if random.one_in(20) {
        common = false;
        protocol = *random.of(&[0, ethertype::WCCP, ethertype::ERSPAN, ethertype::TEB, ethertype::VLAN, 38]);
    }
    let mut key = spec.ikey;
    if random.one_in(10) {
        common = false;
        key = *random.of(&[None, Some(0), Some(7)]);
    }
    let mut gre = vec![if key.is_some() { 0x20 } else { 0 }, 0];
    gre.extend(protocol.to_be_bytes());
    gre.extend(key.into_iter().flat_map(u32::to_be_bytes));
    let source = spec.remote.unwrap_or_else(|| other(2));
    let destination = spec.local.unwrap_or_else(|| other(0));
    let tos = *random.of(&[0, 0, 1, 2, 3, 0xb8, 0xbb]);
    // What ECN forbids is dropped by both.
    common &= tos & ecn::MASK != ecn::CE;
    let limit = random.of(&[None, Some(4)]).filter(|_| six);
    let option = limit.map_or_else(Vec::new, |limit| encap_limit::option(47, limit).to_vec());
    let mut frame = vec![0; 12];
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([8, 0]);
            let header = Ipv4Header {
                tos,
                total_length: (20 + gre.len() + packet.len()) as u16,
                identification: 0,
                dont_fragment: true,
                more_fragments: false,
                fragment_offset: 0,
                ttl: 9,
                protocol: 47,
                source,
                destination,
                options: &[],
            };
            let mut bytes = [0; 20];
            header.emit(&mut bytes).unwrap();
            frame.extend(bytes);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd]);
            let header = Ipv6Header {
                traffic_class: tos,
                flow_label: 5,
                payload_length: (option.len() + gre.len() + packet.len()) as u16,
                next_header: if option.is_empty() { 47 } else { 60 },
                hop_limit: 9,
                source,
                destination,
            };
            let mut bytes = [0; 40];
            header.emit(&mut bytes).unwrap();
            frame.extend(bytes);
            frame.extend(option);
        }
        mixed => panic!("{mixed:?}"),
    }
    frame.extend(gre);
    frame.extend(packet);
    (frame, common)
}

/// Breaks something.
pub(crate) fn damage(random: &mut Random, frame: &mut Vec<u8>) {
    match random.below(5) {
        // Within the headers mostly.
        0 | 1 => {
            let at = random.below(frame.len().min(90));
            frame[at] ^= 1 << random.below(8);
        }
        2 => {
            let at = 14 + random.below(frame.len().min(90) - 14);
            frame[at] = random.next() as u8;
        }
        3 => cut(random, frame),
        _ => {
            let padding = random.below(20);
            frame.resize(frame.len() + padding, 0);
        }
    }
}

/// Cuts something off at the end. The kernel runs no program on a bare link header, and since 6.18 none on half an
/// IP header.
pub(crate) fn cut(random: &mut Random, frame: &mut Vec<u8>) {
    let least = match u16::from_be_bytes([frame[12], frame[13]]) {
        ethertype::IPV4 => 34,
        ethertype::IPV6 => 54,
        _ => 15,
    };
    frame.truncate(least + random.below((frame.len() + 1).saturating_sub(least).max(1)));
}
