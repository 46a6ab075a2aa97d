//! RX-15: what is answered with "port unreachable", by recorded answers of the kernel (`oracle/icmp.tsv`).

use std::net::{IpAddr, Ipv4Addr};

use crate::support::{Host, LOCAL, PLAIN, REMOTE, datagram, hex, spec};
use greway_engine::{Answer, DeclineReason, RateLimit, Verdict};
use greway_wire::icmp::QuoteV6;
use greway_wire::ipv4::Ipv4Header;
use greway_wire::ipv6::Ipv6Header;

const GRE: [u8; 12] = [0, 0, 8, 0, 0x45, 0, 0, 20, 0, 0, 0, 0];

#[test]
fn rx15_the_answer_is_the_kernels() {
    let mut rows = 0;
    for line in include_str!("../oracle/icmp.tsv").lines().skip(1) {
        let [verdict, case, title, _, sent, recorded] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("six columns: {line}");
        };
        if verdict != "answer" {
            continue;
        }
        rows += 1;
        let (mut sent, recorded) = (hex(sent), hex(recorded));
        // Some host with a tunnel that is not meant.
        let mut host = Host::new(&[spec(Ipv4Addr::new(10, 1, 1, 1), REMOTE)]);
        let verdict = host.receive(&mut sent, PLAIN);
        let no_tunnel = matches!(verdict, Verdict::Decline(DeclineReason::NoTunnel { .. }));
        assert!(no_tunnel, "{case}: {title}: {verdict:?}");
        let answer = Answer::port_unreachable(&sent).unwrap();
        let (source, destination, tos, message): (IpAddr, IpAddr, _, _) = match recorded[0] >> 4 {
            4 => {
                let header = Ipv4Header::parse(&recorded).unwrap();
                (header.source.into(), header.destination.into(), header.tos, &recorded[20..])
            }
            _ => {
                let header = Ipv6Header::parse(&recorded).unwrap();
                (header.source.into(), header.destination.into(), header.traffic_class, &recorded[40..])
            }
        };
        let wanted = Answer { source, destination, tos, message: message.to_vec() };
        // Behind the kernel's IPv6 quote stands padding of the frame that was quoted: none here.
        assert_eq!(answer, wanted, "{case}: {title}");
    }
    assert_eq!(rows, 8, "rows of the recording");
}

#[test]
fn rx15_who_is_never_answered() {
    let of = |source: [u8; 4], destination: [u8; 4]| {
        Answer::recipient(&datagram(0, source.into(), destination.into(), 47, &GRE))
    };
    assert_eq!(of([10, 9, 0, 11], [10, 9, 0, 2]), Some(REMOTE.into()));
    for (source, destination) in [
        ([10, 9, 0, 11], [239, 1, 1, 1]),
        ([10, 9, 0, 11], [255, 255, 255, 255]),
        ([0, 0, 0, 0], [10, 9, 0, 2]),
        ([224, 0, 0, 1], [10, 9, 0, 2]),
        ([255, 255, 255, 255], [10, 9, 0, 2]),
    ] {
        assert_eq!(of(source, destination), None, "{source:?} > {destination:?}");
    }
    // A piece that is not the first.
    let mut later = datagram(0, REMOTE, LOCAL, 47, &GRE);
    later[7] = 1;
    assert_eq!(Answer::recipient(&later), None);
    assert_eq!(Answer::recipient(&[]), None);
    let six = |source: &str, destination: &str| {
        let header = Ipv6Header {
            traffic_class: 0xb9,
            flow_label: 0,
            payload_length: GRE.len() as u16,
            next_header: 47,
            hop_limit: 64,
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        };
        let mut bytes = vec![0; 40];
        header.emit(&mut bytes).unwrap();
        bytes.extend(GRE);
        Answer::port_unreachable(&bytes)
    };
    assert_eq!(six("fd00::1", "fd00::2").map(|answer| answer.tos), Some(0));
    for (source, destination) in [("fd00::1", "ff02::1"), ("::", "fd00::2"), ("ff02::1", "fd00::2")] {
        assert_eq!(six(source, destination), None);
    }
}

#[test]
fn rx15_a_long_packet_is_quoted_as_far_as_one_may() {
    let long = datagram(0xff, REMOTE, LOCAL, 47, &[&GRE[..], &[7; 3000]].concat());
    let answer = Answer::port_unreachable(&long).unwrap();
    assert_eq!((answer.message.len(), answer.tos), (576 - 20, 0xde));
    assert_eq!(answer.message[8..], long[..548]);
    // Bytes behind the datagram (a short frame is padded) are no part of it.
    let padded = [&datagram(0, REMOTE, LOCAL, 47, &GRE)[..], &[0; 14]].concat();
    assert_eq!(Answer::port_unreachable(&padded).unwrap().message.len(), 8 + 32);

    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: 0,
        payload_length: 3000,
        next_header: 47,
        hop_limit: 64,
        source: "fd00::1".parse().unwrap(),
        destination: "fd00::2".parse().unwrap(),
    };
    let mut long = vec![0; 40];
    header.emit(&mut long).unwrap();
    long.extend([7; 3000]);
    let message = Answer::port_unreachable(&long).unwrap().message;
    assert_eq!(message.len(), 1280 - 40);
    assert_eq!(QuoteV6::parse(&message).unwrap().packet, &long[..1232]);
}

#[test]
fn rx15_six_at_once_and_one_a_second_to_each_host() {
    // N06 of the recording: twelve packets back to back, six answers.
    let mut limit = RateLimit::new();
    let peer = IpAddr::from(REMOTE);
    assert_eq!((0..12).filter(|_| limit.allow(peer, 5)).count(), 6);
    assert!(!limit.allow(peer, 1_004));
    assert!(limit.allow(peer, 1_005) && !limit.allow(peer, 1_005));
    assert!(limit.allow(LOCAL.into(), 5), "another host");
    assert_eq!((0..12).filter(|_| limit.allow(peer, 60_000)).count(), 6, "no more is saved up");
}

#[test]
fn rx15_the_hosts_own_limit_holds() {
    let mut limit = RateLimit::new();
    let [v4, v6] = [IpAddr::from(REMOTE), "fd00::1".parse().unwrap()];
    limit.set_interval(false, 0);
    // No host is limited; all together still are.
    assert_eq!((0..200).filter(|_| limit.allow(v4, 5)).count(), 50);
    assert_eq!((0..12).filter(|_| limit.allow(v6, 1_000)).count(), 6, "the other family's is its own");
    limit.set_interval(true, 1_500);
    let told = (1_001..7_001).filter(|now| limit.allow(v6, *now));
    assert_eq!(told.count(), 4, "one in a second and a half, however often it is tried");
}

#[test]
fn rx15_fifty_at_once_to_all_and_a_thousand_a_second() {
    let mut limit = RateLimit::new();
    let host = |number: u32| IpAddr::from(Ipv4Addr::from(0x0b00_0000 + number));
    assert_eq!((0..200).filter(|number| limit.allow(host(*number), 5)).count(), 50);
    assert_eq!((200..210).filter(|number| limit.allow(host(*number), 15)).count(), 10);
    // What a token was not there for is not remembered, so that the hosts are 60 by now.
    let mut now = 20;
    let answered = (1_000..1_900).filter(|number| {
        now += 1;
        limit.allow(host(*number), now)
    });
    assert_eq!(
        answered.count(),
        RateLimit::HOSTS - 60,
        "more hosts than are told apart wait for one to be free"
    );
    assert!(limit.allow(host(5_000), now + 1_000), "whose buckets are full again are forgotten");
}
