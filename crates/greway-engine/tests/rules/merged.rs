//! Merged packets and unfilled checksums on the way in, from a packet socket that knows and from a raw
//! socket that does not.

use crate::support::{Host, LOCAL, REMOTE, datagram, fill, gre, ipv4, ipv6, leave_unfilled, spec, tcp, udp};
use greway_engine::{Delivery, DropReason, Gso, GsoKind, Offload, Partial, Receipt, Verdict};
use greway_spec::TunnelSpec;
use greway_wire::gre::GreHeader;

const RAW: Receipt = Receipt::Raw { ifindex: 2 };
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;

fn with_checksum() -> Host {
    Host::new(&[TunnelSpec { icsum: true, ..spec(LOCAL, REMOTE) }])
}

fn header(protocol_type: u16, checksum: bool) -> GreHeader {
    GreHeader { protocol_type, checksum: checksum.then_some(0), ..GreHeader::default() }
}

fn delivered(host: &mut Host, bytes: &mut [u8], receipt: Receipt) -> Delivery {
    match host.receive(bytes, receipt) {
        Verdict::Deliver(delivery) => delivery,
        refused => panic!("{refused:?}"),
    }
}

/// A packet of 12 merged segments, as GRO leaves it.
fn merged(v6: bool) -> Vec<u8> {
    let segment = tcp(ACK | CWR, 1, &[0x5a; 12_000]);
    let mut packet = if v6 { ipv6(6, &segment) } else { ipv4(6, &segment) };
    leave_unfilled(&mut packet);
    packet
}

#[test]
fn m4_facts_of_a_merged_packet_become_those_of_its_payload() {
    let mut host = Host::new(&[spec(LOCAL, REMOTE)]);
    let mut bytes = datagram(0, REMOTE, LOCAL, 47, &gre(header(0x0800, false), &merged(false)));
    let gso = Gso { kind: GsoKind::Tcp4, size: 1000, header_len: 90, ecn: true };
    let partial = Partial { start: 20 + 4 + 20, offset: 16 };
    let offload = Offload { partial: Some(partial), gso: Some(gso) };
    let delivery = delivered(&mut host, &mut bytes, Receipt::Facts { offload, ifindex: 2 });
    assert_eq!(delivery.inner, 24..bytes.len());
    let expected = Offload {
        partial: Some(Partial { start: 20, offset: 16 }),
        gso: Some(Gso { header_len: 52, ..gso }),
    };
    assert_eq!(delivery.offload, expected);
}

#[test]
fn m4_the_gre_checksum_of_a_merged_packet_was_checked_before() {
    let mut host = with_checksum();
    let mut bytes = datagram(0, REMOTE, LOCAL, 47, &gre(header(0x0800, true), &merged(false)));
    bytes[24] ^= 0xff;
    let gso = Some(Gso { kind: GsoKind::Tcp4, size: 1000, header_len: 0, ecn: false });
    let receipt = Receipt::Facts { offload: Offload { partial: None, gso }, ifindex: 2 };
    let delivery = delivered(&mut host, &mut bytes, receipt);
    // Nobody said that the inner checksum is unfilled, but it is.
    assert_eq!(delivery.offload.partial, Some(Partial { start: 20, offset: 16 }));
    delivered(&mut host, &mut bytes, RAW);
    // Nothing merged, nothing unfilled: the same field is an error.
    let nothing = Receipt::Facts { offload: Offload::NONE, ifindex: 2 };
    let refused = host.receive(&mut bytes, nothing);
    assert!(matches!(refused, Verdict::Drop { tunnel: Some(_), reason: DropReason::BadChecksum }));
}

#[test]
fn m3_a_raw_socket_recognises_a_merged_packet() {
    for (v6, kind, header_len) in [(false, GsoKind::Tcp4, 52_u16), (true, GsoKind::Tcp6, 72)] {
        let mut host = Host::new(&[spec(LOCAL, REMOTE)]);
        let ethertype = if v6 { 0x86dd } else { 0x0800 };
        let mut bytes = datagram(0, REMOTE, LOCAL, 47, &gre(header(ethertype, false), &merged(v6)));
        let delivery = delivered(&mut host, &mut bytes, RAW);
        let expected = Offload {
            partial: Some(Partial { start: header_len - 32, offset: 16 }),
            gso: Some(Gso { kind, size: 1476 - header_len, header_len, ecn: true }),
        };
        assert_eq!(delivery.offload, expected);
    }
}

#[test]
fn m3_a_raw_socket_takes_no_whole_packet_for_a_merged_one() {
    let mut host = Host::new(&[spec(LOCAL, REMOTE)]);
    for transport in [tcp(ACK, 1, &[1; 2000]), udp(&[2; 2000])] {
        let protocol = if transport.len() == 2032 { 6 } else { 17 };
        let mut packet = ipv4(protocol, &transport);
        fill(&mut packet);
        let mut bytes = datagram(0, REMOTE, LOCAL, 47, &gre(header(0x0800, false), &packet));
        assert!(delivered(&mut host, &mut bytes, RAW).offload.is_none());
    }
    // UDP without a checksum has none to fill in.
    let mut bytes = datagram(0, REMOTE, LOCAL, 47, &gre(header(0x0800, false), &ipv4(17, &udp(&[3; 2000]))));
    assert!(delivered(&mut host, &mut bytes, RAW).offload.is_none());
}

#[test]
fn m3_a_merged_packet_whose_sum_happens_to_be_right_is_merged_all_the_same() {
    let mut packet = merged(false);
    for word in 0..=u16::MAX {
        packet[100..102].copy_from_slice(&word.to_be_bytes());
        if crate::support::transport_is_intact(&packet) {
            let mut host = Host::new(&[spec(LOCAL, REMOTE)]);
            let mut bytes = datagram(0, REMOTE, LOCAL, 47, &gre(header(0x0800, false), &packet));
            let Offload { partial, gso } = delivered(&mut host, &mut bytes, RAW).offload;
            assert_eq!(partial, Some(Partial { start: 20, offset: 16 }));
            assert_eq!(gso.map(|gso| (gso.kind, gso.size)), Some((GsoKind::Tcp4, 1476 - 52)));
            return;
        }
    }
    panic!("some word makes the sum right");
}

#[test]
fn m3_a_checksum_that_happens_to_look_unfilled_is_verified() {
    // Choose the payload so that the complete checksum equals the pseudo header sum.
    let mut packet = ipv4(17, &udp(&[0; 4]));
    let found = leave_unfilled(&mut packet);
    let at = found.checksum_at();
    let field = u16::from_be_bytes([packet[at], packet[at + 1]]);
    for word in 0..=u16::MAX {
        packet[28..30].copy_from_slice(&word.to_be_bytes());
        if crate::support::transport_is_intact(&packet) {
            let mut host = Host::new(&[spec(LOCAL, REMOTE)]);
            let mut bytes = datagram(0, REMOTE, LOCAL, 47, &gre(header(0x0800, false), &packet));
            assert!(delivered(&mut host, &mut bytes, RAW).offload.is_none());
            assert_eq!(field.to_be_bytes(), packet[at..at + 2]);
            return;
        }
    }
    panic!("one of 65,536 payloads has this checksum");
}

#[test]
fn m6_an_unfilled_gre_checksum_is_accepted_only_where_it_is_known() {
    let inner = {
        let mut packet = ipv4(6, &tcp(ACK, 1, b"hello"));
        fill(&mut packet);
        packet
    };
    let unfilled = |value: u8| {
        let mut bytes = datagram(0, REMOTE, LOCAL, 47, &gre(header(0x0800, true), &inner));
        bytes[24..26].fill(value);
        bytes
    };
    let facts = |partial| Receipt::Facts { offload: Offload { partial, gso: None }, ifindex: 2 };
    let mut host = with_checksum();
    let own = facts(Some(Partial { start: 20, offset: 4 }));
    for value in [0, 0x77] {
        assert!(delivered(&mut host, &mut unfilled(value), own).offload.is_none());
    }
    assert!(delivered(&mut host, &mut unfilled(0), RAW).offload.is_none());
    for (value, receipt) in
        [(0x77, RAW), (0, facts(None)), (0, facts(Some(Partial { start: 44, offset: 16 })))]
    {
        let verdict = host.receive(&mut unfilled(value), receipt);
        assert!(matches!(verdict, Verdict::Drop { reason: DropReason::BadChecksum, .. }), "{receipt:?}");
    }
}

#[test]
fn m6_a_gre_checksum_over_an_unfilled_payload_is_still_verified() {
    // A sender on the same host: the GRE checksum is that of the packet with its inner checksum filled.
    let mut filled = ipv4(6, &tcp(ACK, 1, b"odd"));
    fill(&mut filled);
    let mut bytes = datagram(0, REMOTE, LOCAL, 47, &gre(header(0x0800, true), &filled));
    leave_unfilled(&mut bytes[28..]);
    let partial = Some(Partial { start: 28 + 20, offset: 16 });
    let receipt = Receipt::Facts { offload: Offload { partial, gso: None }, ifindex: 2 };
    let mut host = with_checksum();
    let delivery = delivered(&mut host, &mut bytes, receipt);
    assert_eq!(delivery.offload.partial, Some(Partial { start: 20, offset: 16 }));
    assert_eq!(delivered(&mut host, &mut bytes, RAW).offload, delivery.offload);
    bytes[30] ^= 1;
    let verdict = host.receive(&mut bytes, receipt);
    assert!(matches!(verdict, Verdict::Drop { reason: DropReason::BadChecksum, .. }));
}
