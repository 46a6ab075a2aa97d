//! Ethernet in GRE: which tunnel gets a frame; super-packets, fragments and ICMP messages behind a link header with and
//! without VLAN tags.
//!
//! Recorded packets are in `accept_oracle.rs` and `encap_oracle.rs`.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::support::{
    Host, LOCAL, PLAIN, REMOTE, datagram, datagrams, fill, gre, ipv4, ipv6, leave_unfilled, spec, tcp,
    transport_is_intact, udp,
};
use greway_engine::{
    DeclineReason, Delivery, DropReason, Fit, Fragments, Gso, GsoKind, Link, Offload, Partial, Receipt,
    Train, Tunnel, TunnelCounters, TunnelState, Verdict, clamp_mss, encapsulate, fit, too_big_message,
};
use greway_spec::{Mode, MssClamp, TunnelSpec};
use greway_wire::gre::GreHeader;
use greway_wire::transport::Transport;
use greway_wire::{checksum, ecn, ethertype, icmp};
use proptest::prelude::*;

const ACK: u8 = 0x10;
/// Addresses, and the link headers that tests go through.
const STATIONS: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
const TAGS: [&[u8]; 3] = [&[], &[0x81, 0, 0x20, 5], &[0x88, 0xa8, 0, 9, 0x81, 0, 0x20, 5]];

pub(crate) fn gretap(local: Ipv4Addr, remote: Ipv4Addr) -> TunnelSpec {
    TunnelSpec { mode: Mode::Gretap, ..spec(local, remote) }
}

fn tunnel(fill: impl FnOnce(&mut TunnelSpec)) -> Tunnel {
    let mut spec = gretap(LOCAL, REMOTE);
    fill(&mut spec);
    Tunnel::new(&spec, Arc::new(TunnelCounters::new()))
}

fn frame(tags: &[u8], packet: &[u8]) -> Vec<u8> {
    let ethertype: &[u8] = if packet[0] >> 4 == 6 { &[0x86, 0xdd] } else { &[8, 0] };
    [&STATIONS[..], tags, ethertype, packet].concat()
}

fn teb() -> GreHeader {
    GreHeader { protocol_type: ethertype::TEB, ..GreHeader::default() }
}

fn delivered(host: &mut Host, bytes: &mut [u8], receipt: Receipt) -> Delivery {
    match host.receive(bytes, receipt) {
        Verdict::Deliver(delivery) => delivery,
        refused => panic!("{refused:?}"),
    }
}

#[test]
fn rx10_a_gre_and_a_gretap_tunnel_between_the_same_ends() {
    let mut host = Host::new(&[spec(LOCAL, REMOTE), gretap(LOCAL, REMOTE)]);
    let packet = ipv4(17, &udp(b"abc"));
    let mut receive = |protocol_type, payload: &[u8]| {
        let header = GreHeader { protocol_type, ..GreHeader::default() };
        let mut bytes = datagram(0, REMOTE, LOCAL, 47, &gre(header, payload));
        let delivery = delivered(&mut host, &mut bytes, PLAIN);
        assert_eq!(&bytes[delivery.inner], payload);
        (delivery.tunnel.0, delivery.protocol_type)
    };
    assert_eq!(receive(0x0800, &packet), (0, 0x0800));
    assert_eq!(receive(0x6558, &frame(&[], &packet)), (1, 0x6558));
    // ARP is the layer 3 tunnel's where it is not in a frame.
    assert_eq!(receive(0x0806, &[0; 28]), (0, 0x0806));
    // A gretap tunnel alone takes frames alone.
    let mut host = Host::new(&[gretap(LOCAL, REMOTE)]);
    let header = GreHeader { protocol_type: 0x0800, ..GreHeader::default() };
    let mut bytes = datagram(0, REMOTE, LOCAL, 47, &gre(header, &packet));
    assert!(matches!(host.receive(&mut bytes, PLAIN), Verdict::Decline(DeclineReason::NoTunnel { .. })));
}

#[test]
fn rx24_ecn_is_combined_behind_every_link_header() {
    let mut host = Host::new(&[gretap(LOCAL, REMOTE)]);
    for tags in TAGS {
        for (tos, packet) in [(1, ipv4(17, &udp(b"abc"))), (2, ipv6(17, &udp(b"abc")))] {
            let mut packet = packet;
            match packet[0] >> 4 {
                4 => greway_wire::ipv4::set_tos(&mut packet, tos),
                _ => greway_wire::ipv6::set_traffic_class(&mut packet, tos),
            }
            let sent = frame(tags, &packet);
            // Congestion on the way.
            let mut bytes = datagram(0x03, REMOTE, LOCAL, 47, &gre(teb(), &sent));
            let delivery = delivered(&mut host, &mut bytes, PLAIN);
            let arrived = &bytes[delivery.inner];
            let link = Link::of_frame(arrived).unwrap();
            assert_eq!(arrived[..link.len], sent[..link.len]);
            let inner = &arrived[link.len..];
            let class = if inner[0] >> 4 == 4 { inner[1] } else { inner[0] << 4 | inner[1] >> 4 };
            assert_eq!(class & ecn::MASK, 3, "{tags:?}");
            assert!(inner[0] >> 4 == 6 || checksum::verifies(&inner[..20]));
        }
        let blank = frame(tags, &ipv4(17, &udp(b"abc")));
        let mut bytes = datagram(0x03, REMOTE, LOCAL, 47, &gre(teb(), &blank));
        let corrupted =
            Verdict::Drop { tunnel: Some(greway_engine::TunnelIndex(0)), reason: DropReason::EcnCorrupted };
        assert_eq!(host.receive(&mut bytes, PLAIN), corrupted);
    }
}

#[test]
fn what_is_no_ip_goes_through_as_it_is() {
    let tap = tunnel(|spec| spec.tos.inherit = true);
    let arp = [&STATIONS[..], &[8, 6], &[0x45; 28]].concat();
    let llc = [&[1, 0x80, 0xc2, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 38][..], &[0x42; 38]].concat();
    let bare = [&STATIONS[..], &[0x88, 0xb5]].concat();
    let mut host = Host::new(&[gretap(LOCAL, REMOTE)]);
    for sent in [arp, llc, bare] {
        let mut train = Train::new();
        let mut state = TunnelState::default();
        encapsulate(&tap, &mut state, ethertype::TEB, &sent, Offload::NONE, None, &mut train).unwrap();
        let outer = train.outer();
        assert_eq!((outer.ttl, outer.tos, outer.dont_fragment), (64, 0, true));
        let mut bytes = datagram(3, REMOTE, LOCAL, 47, &datagrams(&train, &sent)[0][20..]);
        let delivery = delivered(&mut host, &mut bytes, PLAIN);
        assert_eq!(bytes[delivery.inner], sent);
    }
    let mut train = Train::new();
    let short = encapsulate(
        &tap,
        &mut TunnelState::default(),
        ethertype::TEB,
        &STATIONS,
        Offload::NONE,
        None,
        &mut train,
    );
    assert_eq!(short, Err(DropReason::NoPayload));
}

#[test]
fn tx06_a_frame_counts_without_its_link_header() {
    let tap = tunnel(|_| ());
    let packet = |length: usize, df: bool| {
        let mut packet = ipv4(17, &vec![0; length - 20]);
        if !df {
            packet[6] = 0;
        }
        packet
    };
    for tags in TAGS {
        let of = |packet: &[u8]| fit(&tap, ethertype::TEB, &frame(tags, packet), Offload::NONE, 1400);
        let room = 1400 - 24 - 14 - tags.len();
        let mtu = room as u16;
        assert_eq!(of(&packet(room, true)), Fit::Fits);
        assert_eq!(of(&packet(room + 1, true)), Fit::TellSender { mtu });
        assert_eq!(of(&packet(room + 1, false)), Fit::Fragment { mtu });
        // What the offload says of the headers may be all that the kernel had in one piece.
        let gso = |size| {
            let header_len = (14 + tags.len() + 9000) as u16;
            Offload { gso: Some(Gso { kind: GsoKind::Tcp4, size, header_len, ecn: false }), partial: None }
        };
        let segments = tcp(0x10, 1, &[0; 9000]);
        let headers = 20 + (segments.len() - 9000) as u16;
        let whole = frame(tags, &ipv4(6, &segments));
        assert_eq!(fit(&tap, ethertype::TEB, &whole, gso(mtu - headers), 1400), Fit::Fits);
        let told = fit(&tap, ethertype::TEB, &whole, gso(mtu - headers + 1), 1400);
        assert_eq!(told, Fit::TellSender { mtu });
    }
    let arp = [&STATIONS[..], &[8, 6], &[0; 1400]].concat();
    assert_eq!(fit(&tap, ethertype::TEB, &arp, Offload::NONE, 1400), Fit::TooBig);
}

#[test]
fn a_handshake_in_a_frame_announces_what_fits() {
    let tap = tunnel(|spec| spec.mss = MssClamp::Auto);
    for tags in TAGS {
        let mut syn = tcp(0x02, 1, &[]);
        syn[20..24].copy_from_slice(&[2, 4, 0x05, 0xb4]);
        let mut packet = ipv4(6, &syn);
        fill(&mut packet);
        let sent = frame(tags, &packet);
        let mut clamped = sent.clone();
        assert!(!clamp_mss(&tap, ethertype::TEB, &mut clamped, false, 1362, false) && clamped == sent);
        assert!(clamp_mss(&tap, ethertype::TEB, &mut clamped, false, 1362, true));
        let link = 14 + tags.len();
        assert_eq!(clamped[link + 40..link + 44], [2, 4, 0x05, 0x2a], "1322");
        assert!(transport_is_intact(&clamped[link..]));
        assert_eq!(clamped[..link + 20], sent[..link + 20]);
    }
}

#[test]
fn tx06_the_station_is_told_in_a_frame() {
    for tags in TAGS {
        for packet in [ipv4(17, &[0; 1400]), ipv6(17, &[0; 1400])] {
            let sent = frame(tags, &packet);
            let message = too_big_message(ethertype::TEB, &sent, 1300).unwrap();
            let link = Link::of_frame(&message).unwrap();
            assert_eq!((&message[..6], &message[6..12]), (&STATIONS[6..], &STATIONS[..6]));
            assert_eq!(message[12..link.len], sent[12..link.len], "tags and type stay");
            let alone = too_big_message(link.ethertype, &packet, 1300).unwrap();
            assert_eq!(message[link.len..], alone);
        }
    }
    let message = too_big_message(ethertype::TEB, &frame(&[], &ipv4(17, &[0; 1400])), 1300).unwrap();
    let quote = icmp::Quote::parse(&message[14 + 20..]).unwrap();
    assert_eq!((quote.kind, quote.code, quote.next_hop_mtu), (3, 4, 1300));
    // Not to many, nor about what was sent to many, nor about what is no IP.
    let mut many = frame(&[], &ipv4(17, &[0; 1400]));
    many[..6].fill(0xff);
    assert_eq!(too_big_message(ethertype::TEB, &many, 1300), None);
    let arp = [&STATIONS[..], &[8, 6], &[0x45; 1400]].concat();
    assert_eq!(too_big_message(ethertype::TEB, &arp, 1300), None);
    assert_eq!(too_big_message(ethertype::TEB, &STATIONS, 1300), None);
}

#[test]
fn tx06_fragments_keep_the_link_header() {
    let mut packet = ipv4(17, &udp(&[7; 3000]));
    packet[6] = 0;
    packet[10..12].fill(0);
    let field = checksum::checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&field.to_be_bytes());
    let transport = leave_unfilled(&mut packet);
    let partial = Partial { start: transport.offset as u16, offset: 6 };
    for tags in TAGS {
        let whole = frame(tags, &packet);
        let (link, packet) = whole.split_at(14 + tags.len());
        let mut fragments = Fragments::new();
        assert!(fragments.cut_behind(link, packet, Some(partial), 1300));
        let mut joined = Vec::new();
        for fragment in fragments.iter() {
            let (header, fragment) = fragment.split_at(link.len());
            assert_eq!(header, link);
            assert!(fragment.len() <= 1300 && checksum::verifies(&fragment[..20]));
            joined.extend_from_slice(&fragment[20..]);
        }
        let mut intact = packet.to_vec();
        fill(&mut intact);
        assert_eq!(joined, intact[20..]);
    }
}

#[test]
fn m4_facts_and_guesses_about_merged_frames_count_from_the_frame() {
    let segment = tcp(ACK, 1, &[0x5a; 12_000]);
    for (packet, kind) in [(ipv4(6, &segment), GsoKind::Tcp4), (ipv6(6, &segment), GsoKind::Tcp6)] {
        for tags in TAGS {
            let mut packet = packet.clone();
            let transport = leave_unfilled(&mut packet);
            let link = 14 + tags.len();
            let whole = frame(tags, &packet);
            let partial = Partial { start: (link + transport.offset) as u16, offset: 16 };
            let header_len = (link + transport.payload_at()) as u16;
            let mut host = Host::new(&[gretap(LOCAL, REMOTE)]);
            let bytes = datagram(0, REMOTE, LOCAL, 47, &gre(teb(), &whole));

            let outer = Partial { start: 24 + partial.start, ..partial };
            let gso = Gso { kind, size: 1000, header_len: 0, ecn: false };
            for partial_fact in [Some(outer), None] {
                let offload = Offload { partial: partial_fact, gso: Some(gso) };
                let receipt = Receipt::Facts { offload, ifindex: 2 };
                let delivery = delivered(&mut host, &mut bytes.clone(), receipt);
                let expected = Offload { partial: Some(partial), gso: Some(Gso { header_len, ..gso }) };
                assert_eq!(delivery.offload, expected, "{tags:?}");
            }
            let delivery = delivered(&mut host, &mut bytes.clone(), Receipt::Raw { ifindex: 2 });
            let guessed = delivery.offload.gso.unwrap();
            assert_eq!(delivery.offload.partial, Some(partial));
            assert_eq!((guessed.kind, guessed.header_len), (kind, header_len));
            // Over Ethernet: 1462 bytes of packet, whatever the tags.
            assert_eq!(usize::from(guessed.size), 1462 - transport.payload_at());
        }
    }
}

proptest! {
    #[test]
    fn super_frames_make_the_same_stream_again(
        v6: bool,
        is_udp: bool,
        payload in proptest::collection::vec(any::<u8>(), 1..9000),
        size in 500_u16..1400,
        tags in 0_usize..3,
        filled: bool,
    ) {
        let kind = match (is_udp, v6) {
            (true, _) => GsoKind::Udp,
            (false, false) => GsoKind::Tcp4,
            (false, true) => GsoKind::Tcp6,
        };
        let transport = if is_udp { udp(&payload) } else { tcp(ACK, 7, &payload) };
        let protocol = if is_udp { 17 } else { 6 };
        let mut packet = if v6 { ipv6(protocol, &transport) } else { ipv4(protocol, &transport) };
        let at = if filled { fill(&mut packet) } else { leave_unfilled(&mut packet) };
        let link = 14 + TAGS[tags].len();
        let whole = frame(TAGS[tags], &packet);
        let partial = Partial {
            start: (link + at.offset) as u16,
            offset: at.protocol.checksum_offset() as u16,
        };
        let gso = Gso { kind, size, header_len: 0, ecn: false };
        for gso in [Some(gso), None] {
            let offload = Offload { partial: (!filled).then_some(partial), gso };
            let full = |spec: TunnelSpec| TunnelSpec {
                okey: Some(42), ikey: Some(42), icsum: true, ocsum: true, iseq: true, oseq: true, ..spec
            };
            let sender = Tunnel::new(&full(gretap(REMOTE, LOCAL)), Arc::new(TunnelCounters::new()));
            let mut receiver = Host::new(&[full(gretap(LOCAL, REMOTE))]);
            let mut train = Train::new();
            let mut state = TunnelState::default();
            encapsulate(&sender, &mut state, ethertype::TEB, &whole, offload, None, &mut train).unwrap();
            let mut stream = Vec::new();
            for mut bytes in datagrams(&train, &whole) {
                let delivery = delivered(&mut receiver, &mut bytes, PLAIN);
                prop_assert!(delivery.offload.is_none());
                let arrived = &bytes[delivery.inner];
                prop_assert_eq!(&arrived[..link], &whole[..link]);
                let packet = &arrived[link..];
                prop_assert!(transport_is_intact(packet));
                stream.extend_from_slice(&packet[Transport::locate(packet).unwrap().payload_at()..]);
            }
            prop_assert_eq!(&stream, &payload);
        }
    }
}
