//! Super-packets and unfilled checksums on the way out: whatever the tunnel, the segments make the same
//! stream again and every checksum in them verifies.

use std::sync::Arc;

use crate::support::{
    Host, LOCAL, PLAIN, REMOTE, datagrams, fill, ipv4, ipv6, leave_unfilled, slow_sum, spec, tcp,
    transport_is_intact, udp,
};
use greway_engine::{
    DropReason, Gso, GsoKind, Offload, Partial, Segment, Train, Tunnel, TunnelCounters, TunnelState, Verdict,
    Whole, encapsulate,
};
use greway_spec::TunnelSpec;
use greway_wire::checksum;
use greway_wire::ipv4::Ipv4Header;
use greway_wire::transport::Transport;
use proptest::prelude::*;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;

/// Sends a packet through a tunnel with key, checksum and sequence numbers and receives it at the other
/// end, which checks all of them.
fn through_a_full_tunnel(packet: &[u8], protocol_type: u16, offload: Offload) -> Vec<Vec<u8>> {
    let full = |spec: TunnelSpec| TunnelSpec {
        ikey: Some(42),
        okey: Some(42),
        icsum: true,
        ocsum: true,
        iseq: true,
        oseq: true,
        ..spec
    };
    let sender = Tunnel::new(&full(spec(REMOTE, LOCAL)), Arc::new(TunnelCounters::new()));
    let mut receiver = Host::new(&[full(spec(LOCAL, REMOTE))]);
    let mut train = Train::new();
    let mut state = TunnelState::starting_at(u32::MAX - 1);
    encapsulate(&sender, &mut state, protocol_type, packet, offload, None, &mut train).unwrap();
    assert_eq!(state.next_sequence, (u32::MAX - 1).wrapping_add(train.len() as u32));
    let receive = |mut datagram: Vec<u8>| match receiver.receive(&mut datagram, PLAIN) {
        Verdict::Deliver(delivery) => {
            assert!(delivery.offload.is_none());
            datagram[delivery.inner].to_vec()
        }
        refused => panic!("{refused:?}"),
    };
    datagrams(&train, packet).into_iter().map(receive).collect()
}

fn super_packet(kind: GsoKind, v6: bool, payload: &[u8], flags: u8) -> (Vec<u8>, u16) {
    let transport = if kind == GsoKind::Udp { udp(payload) } else { tcp(flags, 0xffff_ff00, payload) };
    let protocol = if kind == GsoKind::Udp { 17 } else { 6 };
    let (mut packet, ethertype) = if v6 {
        // Behind a destination options header.
        let after = [&[protocol, 0, 1, 4, 0, 0, 0, 0], &transport[..]].concat();
        (ipv6(60, &after), 0x86dd)
    } else {
        (ipv4(protocol, &transport), 0x0800)
    };
    leave_unfilled(&mut packet);
    (packet, ethertype)
}

fn offload_of(packet: &[u8], kind: GsoKind, size: u16) -> Offload {
    let found = Transport::locate(packet).unwrap();
    Offload {
        partial: Some(Partial {
            start: found.offset as u16,
            offset: found.protocol.checksum_offset() as u16,
        }),
        // The kernel's hint is sometimes the length of the linear part: it must not matter.
        gso: Some(Gso { kind, size, header_len: 3, ecn: false }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn tx08_tcp_segments_make_the_same_stream(
        payload in proptest::collection::vec(any::<u8>(), 0..6000),
        size in 1_u16..1500,
        v6: bool,
    ) {
        prop_assume!(payload.len() / usize::from(size) < 600);
        let kind = if v6 { GsoKind::Tcp6 } else { GsoKind::Tcp4 };
        let (packet, ethertype) = super_packet(kind, v6, &payload, ACK | PSH | FIN | CWR);
        let segments = through_a_full_tunnel(&packet, ethertype, offload_of(&packet, kind, size));
        prop_assert_eq!(segments.len(), payload.len().div_ceil(usize::from(size)).max(1));
        let mut stream: Vec<u8> = Vec::new();
        for (number, segment) in segments.iter().enumerate() {
            prop_assert!(transport_is_intact(segment));
            let found = Transport::locate(segment).unwrap();
            prop_assert_eq!(found.end, segment.len());
            let tcp = &segment[found.offset..];
            let sequence = u32::from_be_bytes(tcp[4..8].try_into().unwrap());
            prop_assert_eq!(sequence, 0xffff_ff00_u32.wrapping_add(stream.len() as u32));
            let last = number + 1 == segments.len();
            let flags = ACK | if last { PSH | FIN } else { 0 } | if number == 0 { CWR } else { 0 };
            prop_assert_eq!(tcp[13], flags);
            prop_assert_eq!(&tcp[20..32], &packet[Transport::locate(&packet).unwrap().offset..][20..32]);
            if !v6 {
                let header = Ipv4Header::parse(segment).unwrap();
                prop_assert_eq!(header.identification, 0xfffe_u16.wrapping_add(number as u16));
                prop_assert!(checksum::verifies(&segment[..20]));
            }
            let data = &segment[found.payload_at()..];
            prop_assert!(last || data.len() == usize::from(size));
            stream.extend(data);
        }
        prop_assert_eq!(stream, payload);
    }

    #[test]
    fn tx08_udp_segments_are_datagrams_of_the_size(
        payload in proptest::collection::vec(any::<u8>(), 1..6000),
        size in 8_u16..1500,
        v6: bool,
    ) {
        let (packet, ethertype) = super_packet(GsoKind::Udp, v6, &payload, 0);
        let segments =
            through_a_full_tunnel(&packet, ethertype, offload_of(&packet, GsoKind::Udp, size));
        let mut stream: Vec<u8> = Vec::new();
        for segment in &segments {
            prop_assert!(transport_is_intact(segment));
            let found = Transport::locate(segment).unwrap();
            let udp = &segment[found.offset..];
            prop_assert_eq!(usize::from(u16::from_be_bytes([udp[4], udp[5]])), udp.len());
            stream.extend(&udp[8..]);
        }
        prop_assert_eq!(stream, payload);
    }

    #[test]
    fn what_stayed_whole_is_cut_into_the_same_segments(
        payload in proptest::collection::vec(any::<u8>(), 1..9000),
        size in 100_u16..1500,
        v6: bool,
        is_udp: bool,
        tag in 0_usize..3,
        csum: bool,
        key: Option<u32>,
    ) {
        let kind = match (is_udp, v6) {
            (true, _) => GsoKind::Udp,
            (false, true) => GsoKind::Tcp6,
            (false, false) => GsoKind::Tcp4,
        };
        let (packet, ethertype) = super_packet(kind, v6, &payload, ACK | PSH | FIN | CWR);
        // A frame, a frame with a tag, or the packet itself.
        let link = [14, 18, 0][tag];
        let front = [&[2; 12][..], &[0x81, 0, 0, 7][..link.max(14) - 14], &ethertype.to_be_bytes()].concat();
        let sent = [&front[..link], &packet].concat();
        let spec = TunnelSpec { okey: key, ocsum: csum, ..if link > 0 { crate::gretap::gretap(LOCAL, REMOTE) } else { spec(LOCAL, REMOTE) } };
        let protocol_type = if link > 0 { 0x6558 } else { ethertype };
        let offload = offload_of(&packet, kind, size).behind(link);
        let tunnel = Tunnel::new(&spec, Arc::new(TunnelCounters::new()));
        let (mut split, mut whole) = (Train::new(), Train::new());
        whole.keep_whole(true);
        let mut state = TunnelState::default();
        encapsulate(&tunnel, &mut state, protocol_type, &sent, offload, None, &mut split).unwrap();
        encapsulate(&tunnel, &mut state, protocol_type, &sent, offload, None, &mut whole).unwrap();
        prop_assert!(!split.has_whole());
        let bytes = |header: &[u8], payload| [header, &sent[payload]].concat();
        let expected: Vec<_> = split.segments().map(|segment| bytes(segment.header, segment.payload)).collect();
        let mut cut = Vec::new();
        for segment in whole.segments() {
            let packet = bytes(segment.header, segment.payload);
            let Some(Whole { offload, network, longest }) = segment.whole else {
                cut.push(packet);
                continue;
            };
            let before = cut.len();
            let (front, inner) = packet.split_at(usize::from(network));
            let plain = Tunnel::new(&crate::support::spec(LOCAL, REMOTE), Arc::new(TunnelCounters::new()));
            let mut train = Train::new();
            let within = offload.without(front.len()).unwrap();
            encapsulate(&plain, &mut state, ethertype, inner, within, None, &mut train).unwrap();
            let of_one = |one: Segment<'_>| [front, &one.header[4..], &inner[one.payload]].concat();
            cut.extend(train.segments().map(of_one));
            prop_assert_eq!(cut[before..].iter().map(Vec::len).max(), Some(longest));
            prop_assert!(cut.len() - before > 1);
        }
        prop_assert_eq!(cut, expected);
        let gains = payload.len() / usize::from(size) > if csum { 1 } else { 0 }
            && payload.len() > usize::from(size);
        prop_assert_eq!(whole.has_whole(), gains);
        let numbered = Tunnel::new(&TunnelSpec { oseq: true, ..spec }, Arc::new(TunnelCounters::new()));
        encapsulate(&numbered, &mut state, protocol_type, &sent, offload, None, &mut whole).unwrap();
        prop_assert!(!whole.has_whole());
    }

    #[test]
    fn an_unfilled_checksum_is_completed_and_nothing_else_changes(
        payload in proptest::collection::vec(any::<u8>(), 0..2000),
        v6: bool,
        is_udp: bool,
    ) {
        let kind = if is_udp { GsoKind::Udp } else { GsoKind::Tcp4 };
        let (packet, ethertype) = super_packet(kind, v6, &payload, ACK);
        let offload = Offload { gso: None, ..offload_of(&packet, kind, 1) };
        let mut filled = packet.clone();
        fill(&mut filled);
        prop_assert_eq!(through_a_full_tunnel(&packet, ethertype, offload), vec![filled]);
    }

    #[test]
    fn any_payload_comes_out_as_it_went_in(
        packet in proptest::collection::vec(any::<u8>(), 1..200),
        protocol_type: u16,
    ) {
        prop_assume!(![0x0800, 0x86dd, 0x88be, 0x22eb].contains(&protocol_type));
        prop_assert_eq!(through_a_full_tunnel(&packet, protocol_type, Offload::NONE), vec![packet]);
    }

    #[test]
    fn contradictory_offloads_are_refused_and_never_panic(
        mut packet in proptest::collection::vec(any::<u8>(), 0..200),
        first in prop_oneof![Just(0x45_u8), Just(0x60), any::<u8>()],
        protocol in prop_oneof![Just(6_u8), Just(17), any::<u8>()],
        partial in proptest::option::of((0_u16..300, 0_u16..40)),
        gso in proptest::option::of((0_usize..3, any::<u16>())),
        ethertype in prop_oneof![Just(0x0800_u16), Just(0x86dd), any::<u16>()],
    ) {
        if packet.len() > 9 {
            packet[0] = first;
            packet[if first == 0x60 { 6 } else { 9 }] = protocol;
        }
        let kinds = [GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp];
        let offload = Offload {
            partial: partial.map(|(start, offset)| Partial { start, offset }),
            gso: gso.map(|(kind, size)| Gso { kind: kinds[kind], size, header_len: 0, ecn: false }),
        };
        let counters = Arc::new(TunnelCounters::new());
        let tunnel = Tunnel::new(&spec(LOCAL, REMOTE), counters.clone());
        let mut train = Train::new();
        let outcome =
            encapsulate(&tunnel, &mut TunnelState::default(), ethertype, &packet, offload, None, &mut train);
        let drops = counters.snapshot().drops;
        match outcome {
            Ok(()) => prop_assert!(!train.is_empty() && drops.is_empty()),
            Err(reason) => {
                prop_assert!(train.is_empty());
                prop_assert_eq!(drops, vec![(reason, 1)]);
            }
        }
    }
}

#[test]
fn an_unfilled_checksum_of_sctp_is_a_crc() {
    let mut sctp = vec![0x9c, 0x40, 0x01, 0xbb, 1, 2, 3, 4, 0xde, 0xad, 0xbe, 0xef];
    sctp.extend([3; 33]);
    for (mut packet, ethertype, start) in [(ipv4(132, &sctp), 0x0800, 20_u16), (ipv6(132, &sctp), 0x86dd, 40)]
    {
        let offload = Offload { partial: Some(Partial { start, offset: 8 }), gso: None };
        let sent = through_a_full_tunnel(&packet, ethertype, offload);
        let at = usize::from(start);
        packet[at + 8..at + 12].fill(0);
        let crc = greway_wire::crc32c::crc32c([&packet[at..]]);
        packet[at + 8..at + 12].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(sent, [packet]);
    }
}

#[test]
fn udp_without_a_checksum_stays_without_one() {
    let packet = ipv4(17, &udp(&[7; 100]));
    let gso = Some(Gso { kind: GsoKind::Udp, size: 60, header_len: 28, ecn: false });
    let segments = through_a_full_tunnel(&packet, 0x0800, Offload { partial: None, gso });
    let fields: Vec<_> = segments.iter().map(|s| (s.len(), s[26], s[27])).collect();
    assert_eq!(fields, [(88, 0, 0), (68, 0, 0)]);
}

#[test]
fn a_super_packet_that_is_something_else_is_unsplittable() {
    let tunnel = Tunnel::new(&spec(LOCAL, REMOTE), Arc::new(TunnelCounters::new()));
    let mut train = Train::new();
    let mut try_as = |packet: &[u8], kind, size| {
        let gso = Some(Gso { kind, size, header_len: 0, ecn: false });
        let offload = Offload { partial: None, gso };
        encapsulate(&tunnel, &mut TunnelState::default(), 0x0800, packet, offload, None, &mut train)
    };
    let packet = ipv4(6, &tcp(ACK, 1, &[0; 3000]));
    let refused = Err(DropReason::UnsplittableOffload);
    assert_eq!(try_as(&packet, GsoKind::Tcp6, 1000), refused);
    assert_eq!(try_as(&packet, GsoKind::Udp, 1000), refused);
    assert_eq!(try_as(&packet, GsoKind::Tcp4, 0), refused);
    assert_eq!(try_as(&packet[..40], GsoKind::Tcp4, 1000), refused);
    assert_eq!(try_as(&packet, GsoKind::Tcp4, 1000), Ok(()));
}

#[test]
fn the_largest_super_packet_is_split_without_losing_a_byte() {
    let payload: Vec<u8> = (0..65_535 - 52_u32).map(|n| n as u8).collect();
    let (packet, _) = super_packet(GsoKind::Tcp4, false, &payload, ACK);
    let segments = through_a_full_tunnel(&packet, 0x0800, offload_of(&packet, GsoKind::Tcp4, 1398));
    let stream: Vec<u8> = segments.iter().flat_map(|s| s[52..].to_vec()).collect();
    assert_eq!(stream, payload);
    assert_eq!(slow_sum(&stream), checksum::sum(&payload));
}
