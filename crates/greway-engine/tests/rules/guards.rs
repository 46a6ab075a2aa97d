//! The rest of the rules: guards of the outer header, attribution of drops, what egress inherits, and
//! noise.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::support::{Host, LOCAL, PLAIN, REMOTE, datagram, gre, spec, udp};
use greway_engine::{
    DeclineReason, Direction, DropReason, Gso, GsoKind, Offload, Partial, Receipt, Train, Tunnel,
    TunnelCounters, TunnelIndex, TunnelState, Verdict, encapsulate, release,
};
use greway_spec::{SeqMode, Tos, Ttl, TunnelSpec};
use greway_wire::gre::GreHeader;
use greway_wire::ipv4;
use proptest::prelude::*;

fn header() -> GreHeader {
    GreHeader { protocol_type: 0x0800, ..GreHeader::default() }
}

fn good() -> Vec<u8> {
    datagram(0, REMOTE, LOCAL, 47, &gre(header(), &crate::support::ipv4(17, &udp(b"abc"))))
}

fn host() -> Host {
    Host::new(&[spec(LOCAL, REMOTE)])
}

fn mine(reason: DropReason) -> Verdict {
    Verdict::Drop { tunnel: Some(TunnelIndex(0)), reason }
}

fn nobodys(reason: DropReason) -> Verdict {
    Verdict::Drop { tunnel: None, reason }
}

#[test]
fn t3_link_padding_is_cut_off() {
    let mut bytes = good();
    let whole = bytes.len();
    bytes.extend([0xee; 9]);
    let Verdict::Deliver(delivery) = host().receive(&mut bytes, PLAIN) else { panic!("not delivered") };
    assert_eq!(delivery.inner, 24..whole);
}

#[test]
fn t3_a_datagram_that_is_not_all_there_is_dropped() {
    let whole = good();
    for length in 0..whole.len() {
        let blamed = if length < 20 { nobodys } else { mine };
        let verdict = host().receive(&mut whole[..length].to_vec(), PLAIN);
        assert_eq!(verdict, blamed(DropReason::OuterTruncated), "{length} bytes");
    }
    let mut shorter_than_its_header = good();
    ipv4::set_total_length(&mut shorter_than_its_header, 19);
    assert_eq!(host().receive(&mut shorter_than_its_header, PLAIN), mine(DropReason::OuterTruncated));
}

#[test]
fn t3_the_outer_checksum_is_verified_where_the_ip_stack_did_not() {
    let mut bytes = good();
    bytes[8] ^= 1;
    assert_eq!(host().receive(&mut bytes, PLAIN), nobodys(DropReason::OuterChecksum));
    let raw = Receipt::Raw { ifindex: 2 };
    assert!(matches!(host().receive(&mut bytes, raw), Verdict::Deliver(_)));
}

#[test]
fn rx01_fragments_are_not_looked_into() {
    let mut bytes = good();
    bytes[6] = 0x20;
    bytes[10..12].fill(0);
    let field = greway_wire::checksum::checksum(&bytes[..20]);
    bytes[10..12].copy_from_slice(&field.to_be_bytes());
    assert_eq!(host().receive(&mut bytes, PLAIN), mine(DropReason::OuterFragment));
}

#[test]
fn what_is_not_ours_is_declined() {
    let declined = |mut bytes: Vec<u8>| match host().receive(&mut bytes, PLAIN) {
        Verdict::Decline(reason) => reason,
        other => panic!("{other:?}"),
    };
    let payload = gre(header(), &crate::support::ipv4(17, &udp(b"abc")));
    assert_eq!(declined(vec![0x50; 60]), DeclineReason::NotIp);
    assert_eq!(declined(crate::support::ipv6(17, &payload)), DeclineReason::NotGre);
    assert_eq!(declined(datagram(0, REMOTE, LOCAL, 4, &payload)), DeclineReason::NotGre);
    let group = Ipv4Addr::new(224, 0, 0, 5);
    assert_eq!(declined(datagram(0, REMOTE, group, 47, &payload)), DeclineReason::Multicast);
    let pptp = [&[0x30, 0x81, 0x88, 0x0b], &payload[..]].concat();
    assert_eq!(declined(datagram(0, REMOTE, LOCAL, 47, &pptp)), DeclineReason::Version1Pptp);
}

#[test]
fn rx15_what_matches_no_tunnel_is_remembered() {
    let mut host = host();
    let keyed = GreHeader { key: Some(42), ..header() };
    for _ in 0..3 {
        let mut bytes = datagram(0, REMOTE, LOCAL, 47, &gre(keyed, &crate::support::ipv4(17, &udp(b"abc"))));
        let verdict = host.receive(&mut bytes, PLAIN);
        let expected = DeclineReason::NoTunnel {
            source: REMOTE.into(),
            destination: LOCAL.into(),
            key: Some(42),
            protocol_type: 0x0800,
        };
        assert_eq!(verdict, Verdict::Decline(expected));
    }
    let seen: Vec<_> = host.unmatched.entries().iter().map(|e| (e.source, e.key, e.count)).collect();
    assert_eq!(seen, [(REMOTE.into(), Some(42), 3)]);
    assert_eq!(host.underlay.snapshot().declines, [("no-tunnel", 3)]);
}

#[test]
fn rx21_to_rx24_come_in_the_order_of_the_kernel() {
    // Wrong in every way at once; each repair uncovers the next reason.
    let strict = TunnelSpec { icsum: true, iseq: true, ..spec(LOCAL, REMOTE) };
    let mut host = Host::new(&[strict]);
    host.tunnels[0].1.expected_sequence = 10;
    let short = [0x45, 0, 0, 8, 0, 0, 0, 0];
    let mut inner = crate::support::ipv4(17, &udp(b"abc"));
    ipv4::set_tos(&mut inner, 0);
    let cases = [
        (GreHeader { ..header() }, &short[..], DropReason::ChecksumMissing),
        (GreHeader { checksum: Some(0), ..header() }, &short, DropReason::SequenceMissing),
        (
            GreHeader { checksum: Some(0), sequence_number: Some(9), ..header() },
            &short,
            DropReason::SequenceLate,
        ),
        (
            GreHeader { checksum: Some(0), sequence_number: Some(10), ..header() },
            &short,
            DropReason::InnerTruncated,
        ),
        (
            GreHeader { checksum: Some(0), sequence_number: Some(11), ..header() },
            &inner,
            DropReason::EcnCorrupted,
        ),
    ];
    for (header, payload, reason) in cases {
        let mut bytes = datagram(0x03, REMOTE, LOCAL, 47, &gre(header, payload));
        assert_eq!(host.receive(&mut bytes, PLAIN), mine(reason));
    }
    assert_eq!(host.tunnels[0].1.expected_sequence, 12);
}

#[test]
fn rx25_bytes_are_those_of_the_payload_packet() {
    let mut host = host();
    let mut bytes = good();
    host.receive(&mut bytes, PLAIN);
    let now = host.tunnels[0].0.counters().snapshot();
    assert_eq!((now.rx_packets, now.rx_bytes, now.last_rx_ms), (1, bytes.len() as u64 - 24, 1));
    assert!(now.drops.is_empty());
}

fn sent(spec: &TunnelSpec, protocol_type: u16, packet: &[u8]) -> Result<greway_engine::Outer, DropReason> {
    let tunnel = Tunnel::new(spec, Arc::new(TunnelCounters::new()));
    let mut train = Train::new();
    encapsulate(
        &tunnel,
        &mut TunnelState::default(),
        protocol_type,
        packet,
        Offload::NONE,
        None,
        &mut train,
    )?;
    Ok(train.outer())
}

#[test]
fn tx03_tx07_payloads_without_an_ip_header_get_defaults() {
    let tos = Tos { inherit: true, value: 0x48 };
    let spec = TunnelSpec { tos, ..spec(LOCAL, REMOTE) };
    let outer = sent(&spec, 0x8847, &[0xff; 30]).unwrap();
    assert_eq!((outer.ttl, outer.tos, outer.dont_fragment), (64, 0x48, true));
    assert_eq!((outer.source, outer.destination), (Some(LOCAL.into()), REMOTE.into()));
}

#[test]
fn tx07_a_ttl_of_zero_is_not_sent() {
    let mut packet = crate::support::ipv4(17, &udp(b"abc"));
    packet[8] = 0;
    assert_eq!(sent(&spec(LOCAL, REMOTE), 0x0800, &packet), Err(DropReason::TtlExhausted));
    let fixed = TunnelSpec { ttl: Ttl::Fixed(9), ..spec(LOCAL, REMOTE) };
    assert_eq!(sent(&fixed, 0x0800, &packet).map(|outer| outer.ttl), Ok(9));
}

#[test]
fn a_packet_shorter_than_its_header_is_no_payload() {
    let spec = spec(LOCAL, REMOTE);
    for (protocol_type, length) in [(0x0800, 19), (0x86dd, 39), (0x8847, 0)] {
        assert_eq!(sent(&spec, protocol_type, &vec![0x45; length]), Err(DropReason::NoPayload));
    }
}

#[test]
fn a_datagram_over_65535_bytes_is_too_big() {
    let spec = spec(LOCAL, REMOTE);
    assert_eq!(sent(&spec, 0x8847, &vec![0; 65_535 - 24]).map(|o| o.ttl), Ok(64));
    assert_eq!(sent(&spec, 0x8847, &vec![0; 65_535 - 23]), Err(DropReason::TooBigForPath));
}

#[test]
fn tx04_the_tunnels_own_packets_do_not_enter_it_again() {
    let tunnel = spec(LOCAL, REMOTE);
    let own = datagram(0, LOCAL, REMOTE, 47, &gre(header(), &crate::support::ipv4(17, &udp(b"abc"))));
    assert_eq!(sent(&tunnel, 0x0800, &own), Err(DropReason::Recursion));
    // Another host's GRE to the same place, and what comes back, pass.
    let others = datagram(0, Ipv4Addr::new(10, 10, 1, 7), REMOTE, 47, &gre(header(), &[0; 20]));
    assert!(sent(&tunnel, 0x0800, &others).is_ok());
    assert!(sent(&tunnel, 0x0800, &datagram(0, REMOTE, LOCAL, 47, &gre(header(), &[0; 20]))).is_ok());
    // Without a local address the key has to agree as well.
    let anywhere = TunnelSpec { local: None, okey: Some(5), ..tunnel };
    assert!(sent(&anywhere, 0x0800, &own).is_ok());
    let keyed = GreHeader { key: Some(5), ..header() };
    let own = datagram(0, LOCAL, REMOTE, 47, &gre(keyed, &[0; 20]));
    assert_eq!(sent(&anywhere, 0x0800, &own), Err(DropReason::Recursion));
}

#[test]
fn tx04_two_tunnels_that_lead_into_each_other_are_found_out() {
    let tunnel = spec(LOCAL, REMOTE);
    let elsewhere = |last: u8| Ipv4Addr::new(192, 0, 2, last);
    let own = || datagram(0, LOCAL, REMOTE, 47, &gre(header(), &[0; 20]));
    // In so many other tunnels, the first of them inside an Ethernet frame.
    let nested = |depth: u8| {
        (0..depth).fold(own(), |packet, number| {
            let payload = match number {
                0 => [&[0; 12][..], &[8, 0], &packet].concat(),
                _ => packet,
            };
            let protocol_type = if number == 0 { 0x6558 } else { 0x0800 };
            let gre = gre(GreHeader { protocol_type, key: Some(9), ..header() }, &payload);
            datagram(0, LOCAL, elsewhere(number), 47, &gre)
        })
    };
    for depth in 0..=4 {
        assert_eq!(sent(&tunnel, 0x0800, &nested(depth)), Err(DropReason::Recursion), "in {depth} others");
    }
    assert!(sent(&tunnel, 0x0800, &nested(5)).is_ok(), "the look ends somewhere");
    // Cut anywhere it is at least no panic, and without our own header no recursion.
    let whole = nested(3);
    for length in 20..whole.len() {
        let _ = sent(&tunnel, 0x0800, &whole[..length]);
    }
    let others =
        datagram(0, LOCAL, elsewhere(1), 47, &gre(header(), &datagram(0, REMOTE, LOCAL, 47, &own()[20..])));
    assert!(sent(&tunnel, 0x0800, &others).is_ok());
}

#[test]
fn drops_of_the_two_directions_do_not_mix() {
    let transmit = DropReason::ALL.iter().filter(|reason| reason.direction() == Direction::Transmit);
    assert_eq!(transmit.count(), 16);
}

/// Bytes that get far: a right outer header before noise, or noise in a right packet.
fn any_datagram() -> impl Strategy<Value = Vec<u8>> {
    let noise = proptest::collection::vec(any::<u8>(), 0..120);
    let behind_outer = noise.clone().prop_map(|noise| datagram(noise.len() as u8, REMOTE, LOCAL, 47, &noise));
    let in_good = (proptest::collection::vec((20_usize..60, any::<u8>()), 0..4)).prop_map(|changes| {
        let mut bytes = good();
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes
    });
    prop_oneof![noise, behind_outer, in_good]
}

fn any_receipt() -> impl Strategy<Value = Receipt> {
    let kind = prop_oneof![Just(GsoKind::Tcp4), Just(GsoKind::Tcp6), Just(GsoKind::Udp)];
    let gso = (kind, any::<u16>(), any::<u16>()).prop_map(|(kind, size, header_len)| Gso {
        kind,
        size,
        header_len,
        ecn: false,
    });
    let partial = (any::<u16>(), any::<u16>()).prop_map(|(start, offset)| Partial { start, offset });
    let near = (0_u16..100, 0_u16..20).prop_map(|(start, offset)| Partial { start, offset });
    let facts = (proptest::option::of(prop_oneof![partial, near]), proptest::option::of(gso))
        .prop_map(|(partial, gso)| Receipt::Facts { offload: Offload { partial, gso }, ifindex: 2 });
    prop_oneof![facts, Just(Receipt::Raw { ifindex: 2 })]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn noise_ends_in_one_verdict_and_moves_one_counter(
        mut bytes in any_datagram(),
        receipt in any_receipt(),
        icsum: bool,
        iseq: bool,
        in_order: bool,
    ) {
        let seq_mode = if in_order { SeqMode::Rfc2890 } else { SeqMode::Linux };
        let mut host = Host::new(&[TunnelSpec { icsum, iseq, seq_mode, ..spec(LOCAL, REMOTE) }]);
        let verdict = host.receive(&mut bytes, receipt);
        if let Verdict::Hold { .. } = verdict {
            prop_assert!(iseq && in_order);
            prop_assert_eq!(host.counted(), 0);
            let (tunnel, state) = &mut host.tunnels[0];
            state.reorder.give_up(tunnel.counters().sequence());
            let released = release(tunnel, state, 1).unwrap();
            prop_assert_eq!(tunnel.counters().snapshot().rx_bytes, released.bytes.len() as u64);
        }
        prop_assert_eq!(host.counted(), 1);
        let now = host.tunnels[0].0.counters().snapshot();
        match verdict {
            Verdict::Deliver(delivery) => {
                prop_assert_eq!((now.rx_packets, now.rx_bytes), (1, delivery.inner.len() as u64));
                prop_assert!(delivery.inner.end <= bytes.len());
                if let Some(partial) = delivery.offload.partial {
                    let end = usize::from(partial.start) + usize::from(partial.offset) + 2;
                    prop_assert!(end <= delivery.inner.len());
                }
            }
            Verdict::Hold { .. } => prop_assert_eq!(now.rx_packets, 1),
            Verdict::Drop { tunnel: Some(_), reason } => {
                prop_assert_eq!(reason.direction(), Direction::Receive);
                prop_assert_eq!(now.drops, vec![(reason, 1)]);
            }
            Verdict::Drop { tunnel: None, reason } => {
                prop_assert_eq!(host.underlay.snapshot().drops, vec![(reason, 1)]);
            }
            Verdict::Decline(reason) => {
                prop_assert_eq!(host.underlay.snapshot().declines, vec![(reason.name(), 1)]);
            }
        }
    }
}
