//! TX-06: packets larger than the path, and what their senders are told.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::support::{LOCAL, REMOTE, datagram, ipv6, spec};
use greway_engine::{Fit, Gso, GsoKind, Offload, Tunnel, TunnelCounters, fit, too_big_message};
use greway_spec::TunnelSpec;
use greway_wire::ipv4::{self, Ipv4Header};
use greway_wire::ipv6::Ipv6Header;
use greway_wire::{ethertype, icmp};

fn tunnel(fill: impl FnOnce(&mut TunnelSpec)) -> Tunnel {
    let mut spec = spec(LOCAL, REMOTE);
    fill(&mut spec);
    Tunnel::new(&spec, Arc::new(TunnelCounters::new()))
}

fn udp(length: usize, df: bool) -> Vec<u8> {
    let mut packet = datagram(0, [172, 16, 0, 1].into(), [172, 16, 0, 2].into(), 17, &vec![0; length - 20]);
    if !df {
        packet[6] = 0;
    }
    packet
}

#[test]
fn tx06_what_fits_and_what_does_not() {
    let plain = tunnel(|_| ());
    let of = |tunnel: &Tunnel, packet: &[u8], path| {
        let kind = if packet[0] >> 4 == 6 { ethertype::IPV6 } else { ethertype::IPV4 };
        fit(tunnel, kind, packet, Offload::NONE, path)
    };
    assert_eq!(of(&plain, &udp(1376, true), 1400), Fit::Fits);
    assert_eq!(of(&plain, &udp(1377, true), 1400), Fit::TellSender { mtu: 1376 });
    assert_eq!(of(&plain, &udp(1377, false), 1400), Fit::Fragment { mtu: 1376 });
    // A key takes four bytes more.
    assert_eq!(
        of(&tunnel(|spec| spec.okey = Some(1)), &udp(1376, true), 1400),
        Fit::TellSender { mtu: 1372 }
    );
    // Without DF outside the delivery packet is fragmented, which is the kernel's business.
    let copies = tunnel(|spec| spec.pmtudisc = false);
    assert_eq!(of(&copies, &udp(1400, false), 1400), Fit::Fits);
    assert_eq!(of(&copies, &udp(1400, true), 1400), Fit::TellSender { mtu: 1376 });
    let ignores = tunnel(|spec| (spec.pmtudisc, spec.ignore_df) = (false, true));
    assert_eq!(of(&ignores, &udp(1400, true), 1400), Fit::Fits);
    // IPv6 is told, but never less than 1280.
    let six = ipv6(17, &[0; 1340]);
    assert_eq!(of(&plain, &six, 1400), Fit::TellSender { mtu: 1376 });
    assert_eq!(of(&plain, &six, 1303), Fit::TooBig);
    assert_eq!(fit(&plain, ethertype::MPLS, &[0; 1400], Offload::NONE, 1400), Fit::TooBig);
    assert_eq!(of(&plain, &udp(60, true), 40), Fit::TooBig);
}

#[test]
fn tx06_a_super_packet_counts_by_its_segments() {
    let plain = tunnel(|_| ());
    let packet = udp(9000, true);
    // What it says of its headers is a hint: of a packet that was forwarded the whole of it may have been in one piece.
    for header_len in [0, 28, 9000] {
        let gso = |size| Offload {
            gso: Some(Gso { kind: GsoKind::Udp, size, header_len, ecn: false }),
            partial: None,
        };
        assert_eq!(fit(&plain, ethertype::IPV4, &packet, gso(1348), 1400), Fit::Fits);
        assert_eq!(fit(&plain, ethertype::IPV4, &packet, gso(1349), 1400), Fit::TellSender { mtu: 1376 });
    }
}

#[test]
fn tx06_the_sender_is_told_as_by_a_router() {
    let packet = udp(1400, true);
    let message = too_big_message(ethertype::IPV4, &packet, 1376).unwrap();
    let header = Ipv4Header::parse(&message).unwrap();
    assert_eq!(header.source, Ipv4Addr::new(172, 16, 0, 2));
    assert_eq!(header.destination, Ipv4Addr::new(172, 16, 0, 1));
    assert_eq!((usize::from(header.total_length), message.len()), (576, 576));
    let quote = icmp::Quote::parse(&message[ipv4::MIN_LEN..]).unwrap();
    assert_eq!((quote.kind, quote.code, quote.next_hop_mtu), (3, 4, 1376));
    assert_eq!(quote.packet, &packet[..quote.packet.len()]);

    let packet = ipv6(17, &[7; 1360]);
    let message = too_big_message(ethertype::IPV6, &packet, 1376).unwrap();
    let header = Ipv6Header::parse(&message).unwrap();
    assert_eq!((header.next_header, message.len()), (58, 1280));
    assert_eq!(
        (header.source.to_string(), header.destination.to_string()),
        ("fd31:11::2".into(), "fd31:11::1".into())
    );
    assert_eq!((&message[40..42], &message[44..48]), (&[2, 0][..], &1376_u32.to_be_bytes()[..]));
}

#[test]
fn nobody_is_told_of_errors_later_fragments_and_groups() {
    let told = |packet: &[u8]| too_big_message(ethertype::IPV4, packet, 1000).is_some();
    let from = Ipv4Addr::new(172, 16, 0, 1);
    let to = Ipv4Addr::new(172, 16, 0, 2);
    let echo = [8, 0, 0, 0, 0, 0, 0, 0];
    let error = [3, 1, 0, 0, 0, 0, 0, 0];
    assert!(told(&datagram(0, from, to, 1, &echo)));
    assert!(!told(&datagram(0, from, to, 1, &error)));
    assert!(!told(&datagram(0, from, Ipv4Addr::new(224, 0, 0, 5), 89, &[0; 8])));
    assert!(!told(&datagram(0, Ipv4Addr::UNSPECIFIED, to, 17, &[0; 8])));
    let mut fragment = datagram(0, from, to, 17, &[0; 8]);
    fragment[7] = 9;
    assert!(!told(&fragment));
    assert!(too_big_message(ethertype::IPV6, &ipv6(58, &[1, 0, 0, 0, 0, 0, 0, 0]), 1280).is_none());
    assert!(too_big_message(ethertype::MPLS, &[0; 40], 1280).is_none());
}
