//! Packet sockets: filters, groups, counters, and refusals that say what was refused.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{EXPERIMENT, LEFT, RIGHT, in_namespace, receive, with_veth};
use greway_linux::batch::{Control, PacketKind, ReceiveBatch, SendStorage, Source, Target};
use greway_linux::packet::{Config, Fanout, Kind, PacketSocket, Protocol};
use greway_linux::{filter, flow};

/// Sends whole frames with `LEFT` and `RIGHT` as addresses out of a device.
fn send(ifindex: u32, frames: &[(u16, Vec<u8>)]) {
    let socket = PacketSocket::open(&Config { ifindex: Some(ifindex), ..Config::default() }).unwrap();
    let mut storage = SendStorage::new(frames.len());
    let mut batch = storage.start();
    for (ethertype, payload) in frames {
        let header = [&RIGHT.octets()[..], &LEFT.octets(), &ethertype.to_be_bytes()].concat();
        let target = Target::Link { ifindex, mac: RIGHT, protocol: *ethertype };
        batch.push_with_prefix(&header, &[payload], target, Control::NONE).unwrap();
    }
    let outcome = batch.send(&socket, |index, error| panic!("frame {index}: {error}"));
    assert_eq!(outcome.sent, frames.len());
}

/// An IPv4 packet: `fragment` is the field with the flags and the offset in units of 8 bytes.
fn ipv4(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
    packet[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    let words = packet.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

#[test]
fn filters_hold_from_the_first_packet() {
    with_veth("filters_hold_from_the_first_packet", |left, right| {
        let open = |filter, kind| {
            let protocol = Protocol::All;
            let config = Config { protocol, kind, ifindex: Some(right), filter, ..Config::default() };
            PacketSocket::open(&config).unwrap()
        };
        let (drop_all, accept_all, gre) = (filter::drop_all(), filter::accept_all(), filter::ip_protocol(47));
        let muted = open(Some(&drop_all), Kind::Raw);
        let whole = open(Some(&accept_all), Kind::Raw);
        let raw = open(Some(&gre), Kind::Raw);
        let cooked = open(Some(&gre), Kind::Dgram);
        send(
            left,
            &[
                (0x0800, ipv4(17, 0, &[1; 40])),
                (EXPERIMENT, ipv4(47, 0, &[2; 40])),
                (0x0800, ipv4(47, 0, &[3; 40])),
                (EXPERIMENT, vec![4; 60]),
            ],
        );
        let mut batch = ReceiveBatch::new(8, 2048, 0);
        for (socket, start) in [(&raw, 14), (&cooked, 0)] {
            assert_eq!(receive(&mut batch, socket), 1);
            assert_eq!(batch.data(0)[start..], ipv4(47, 0, &[3; 40]));
            assert_eq!(batch.recv(socket).unwrap(), 0);
        }
        // The last frame is here once the socket without a filter has it.
        let mut came = false;
        while !came {
            receive(&mut batch, &whole);
            came = batch.packets().any(|packet| packet.data()[14..] == [4; 60]);
        }
        assert_eq!(batch.recv(&muted).unwrap(), 0);
        assert_eq!(muted.statistics().unwrap().packets, 0);
        muted.set_filter(&filter::accept_all()).unwrap();
        send(left, &[(EXPERIMENT, vec![5; 60])]);
        came = false;
        while !came {
            receive(&mut batch, &muted);
            came = batch.packets().any(|packet| packet.data()[14..] == [5; 60]);
        }
    });
}

#[test]
fn a_group_with_defrag_gives_whole_ipv4_packets() {
    with_veth("a_group_with_defrag_gives_whole_ipv4_packets", |left, right| {
        let fanout = Some(Fanout { group: Some(7), defrag: true });
        let gre = filter::ip_protocol(47);
        let config = Config {
            protocol: Protocol::Ethertype(0x0800),
            ifindex: Some(right),
            vnet_header: true,
            fanout,
            filter: Some(&gre),
            ..Config::default()
        };
        let socket = PacketSocket::open(&config).unwrap();
        let payload: Vec<u8> = (0..1600u32).map(|index| index as u8).collect();
        let more_fragments = 0x2000;
        send(
            left,
            &[(0x0800, ipv4(47, 100, &payload[800..])), (0x0800, ipv4(47, more_fragments, &payload[..800]))],
        );
        let mut batch = ReceiveBatch::new(4, 65_600, 0).with_vnet_header();
        assert_eq!(receive(&mut batch, &socket), 1);
        assert_eq!(batch.data(0).len(), 14 + 20 + 1600);
        assert_eq!(batch.data(0)[34..], payload);
        assert_eq!(batch.recv(&socket).unwrap(), 0);

        let cooked = PacketSocket::open(&Config { ifindex: None, fanout, ..config }).unwrap_err();
        assert_eq!(cooked.step, "PACKET_FANOUT");
        // Groups of their own do not get into each other's way.
        let alone = Some(Fanout { group: None, defrag: true });
        let _first = PacketSocket::open(&Config { ifindex: None, fanout: alone, ..config }).unwrap();
        let _other = PacketSocket::open(&Config { fanout: alone, ..config }).unwrap();
        let second = PacketSocket::open(&config).unwrap();
        assert_eq!(batch.recv(&second).unwrap(), 0);
    });
}

#[test]
fn a_full_buffer_is_counted() {
    with_veth("a_full_buffer_is_counted", |left, right| {
        let config = Config {
            protocol: Protocol::Ethertype(EXPERIMENT),
            ifindex: Some(right),
            receive_buffer: Some(4096),
            ..Config::default()
        };
        let socket = PacketSocket::open(&config).unwrap();
        let frames = vec![(EXPERIMENT, vec![0; 1000]); 50];
        send(left, &frames);
        let mut batch = ReceiveBatch::new(64, 2048, 0);
        let received = receive(&mut batch, &socket);
        let statistics = socket.statistics().unwrap();
        assert_eq!(statistics.packets, 50);
        assert_eq!(statistics.drops as usize, 50 - received);
        assert!(statistics.drops > 0);
        assert_eq!(socket.statistics().unwrap().packets, 0);
    });
}

#[test]
fn own_packets_are_seen_only_when_asked_for() {
    with_veth("own_packets_are_seen_only_when_asked_for", |left, right| {
        let open = |ifindex, ignore_outgoing| {
            let protocol = Protocol::All;
            PacketSocket::open(&Config { protocol, ifindex, ignore_outgoing, ..Config::default() }).unwrap()
        };
        let (curious, modest) = (open(Some(left), false), open(None, true));
        let mark = |batch: &ReceiveBatch| {
            let mut kinds = Vec::new();
            for index in 0..batch.len() {
                if let (Source::Link(link), [2, ..]) = (batch.meta(index).source, &batch.data(index)[14..]) {
                    kinds.push((link.ifindex, link.kind));
                }
            }
            kinds
        };
        let mut batch = ReceiveBatch::new(16, 2048, 0);
        send(left, &[(EXPERIMENT, vec![2; 60])]);
        let mut seen = [Vec::new(), Vec::new()];
        for (seen, socket) in seen.iter_mut().zip([&curious, &modest]) {
            while seen.is_empty() {
                receive(&mut batch, socket);
                seen.extend(mark(&batch));
            }
        }
        assert_eq!(seen, [vec![(left, PacketKind::Outgoing)], vec![(right, PacketKind::Host)]]);
    });
}

#[test]
fn a_refusal_names_the_step() {
    in_namespace("a_refusal_names_the_step", || {
        let refused = |config: Config<'_>| {
            let error = PacketSocket::open(&config).unwrap_err();
            (error.step, error.source.raw_os_error())
        };
        let (einval, enodev) = (Some(22), Some(19));
        let cooked = Config { kind: Kind::Dgram, vnet_header: true, ..Config::default() };
        assert_eq!(refused(cooked), ("PACKET_VNET_HDR", einval));
        let gone = Config { ifindex: Some(999_999), ..Config::default() };
        assert_eq!(refused(gone), ("bind(sockaddr_ll)", enodev));
        assert_eq!(refused(Config { filter: Some(&[]), ..Config::default() }), ("SO_ATTACH_FILTER", einval));
        let bypass = Config { qdisc_bypass: true, send_buffer: Some(1 << 20), ..Config::default() };
        PacketSocket::open(&bypass).unwrap().set_qdisc_bypass(false).unwrap();
    });
}

/// GRE of a UDP flow: `port` is its source port. `sequence`: with a sequence number.
fn gre(port: u16, sequence: bool) -> Vec<u8> {
    let mut udp = port.to_be_bytes().to_vec();
    udp.extend([0x13, 0x89, 0, 40, 0, 0]);
    udp.resize(40, 7);
    let inner = ipv4(17, 0, &udp);
    let header: &[u8] = if sequence { &[0x10, 0, 8, 0, 0, 0, 0, 1] } else { &[0, 0, 8, 0] };
    [header, &inner].concat()
}

#[test]
fn a_group_divides_gre_by_the_flow_inside() {
    with_veth("a_group_divides_gre_by_the_flow_inside", |left, right| {
        let only_gre = filter::ip_protocol(47);
        let config = Config {
            protocol: Protocol::Ethertype(0x0800),
            ifindex: Some(right),
            fanout: Some(Fanout { group: None, defrag: true }),
            filter: Some(&only_gre),
            ..Config::default()
        };
        let choice = flow::choice(flow::Arriving::GreOverIpv4, 3);
        let members = PacketSocket::open_group(&config, 3, &choice).unwrap();
        let ports = 1_000..1_040;
        for port in ports.clone() {
            send(left, &[(0x0800, ipv4(47, 0, &gre(port, false)))]);
            // Of the same flow, in two pieces that are out of order.
            let whole = gre(port, false);
            send(left, &[(0x0800, ipv4(47, 5, &whole[40..])), (0x0800, ipv4(47, 0x2000, &whole[..40]))]);
            send(left, &[(0x0800, ipv4(47, 0, &gre(port, true))), (0x0800, ipv4(17, 0, &[0; 30]))]);
        }
        let mut batch = ReceiveBatch::new(256, 2048, 0);
        let mut homes = std::collections::BTreeMap::<u16, Vec<usize>>::new();
        let (mut numbered, mut busy) = (0, 0);
        for (index, member) in members.iter().enumerate() {
            receive(&mut batch, member);
            let mut here = 0;
            for packet in batch.packets() {
                let gre = &packet.data()[34..];
                if gre[0] != 0 {
                    assert_eq!(index, 0, "what is numbered is the first one's");
                    numbered += 1;
                } else {
                    homes.entry(u16::from_be_bytes([gre[24], gre[25]])).or_default().push(index);
                    here += 1;
                }
            }
            busy += usize::from(here > 0);
        }
        assert_eq!((homes.len(), numbered, busy), (ports.len(), ports.len(), 3));
        assert!(homes.values().all(|home| home.len() == 2 && home[0] == home[1]), "{homes:?}");
    });
}

#[test]
fn a_group_of_one_device_divides_plain_packets_and_leaves_out_our_own() {
    with_veth("a_group_of_one_device_divides_plain_packets_and_leaves_out_our_own", |left, right| {
        let config = Config {
            protocol: Protocol::All,
            ifindex: Some(right),
            ignore_outgoing: true,
            ..Config::default()
        };
        let choice = flow::choice(flow::Arriving::Plain, 2);
        let members = PacketSocket::open_group(&config, 2, &choice).unwrap();
        let udp = |port: u16| ipv4(17, 0, &[&port.to_be_bytes()[..], &[1; 30]].concat());
        // By a socket of nobody's: what this end sends is not what arrives at it.
        send(right, &(0..20).map(|port| (0x0800, udp(port))).collect::<Vec<_>>());
        send(left, &(100..140).map(|port| (0x0800, udp(port))).collect::<Vec<_>>());
        send(left, &[(EXPERIMENT, vec![9; 60])]);
        let mut batch = ReceiveBatch::new(64, 2048, 0);
        let (mut seen, mut odd) = (Vec::new(), Vec::new());
        for (index, member) in members.iter().enumerate() {
            receive(&mut batch, member);
            for packet in batch.packets() {
                match packet.data()[14..] {
                    [0x45, ..] => seen.push(u16::from_be_bytes([packet.data()[34], packet.data()[35]])),
                    ref other => odd.push((index, other[0])),
                }
            }
        }
        seen.sort_unstable();
        odd.retain(|(_, first)| *first == 9);
        assert_eq!((seen, odd), ((100..140).collect(), vec![(0, 9)]));
    });
}

#[test]
fn raw_sockets_share_what_arrives_and_a_sender_that_is_bound_to_nowhere_gets_nothing() {
    with_veth("raw_sockets_share_what_arrives", |left, _| {
        use greway_linux::raw::RawSocket;
        let open = |share| {
            let socket = RawSocket::open_ipv4_share(47, &flow::raw_share(false, share, 3)).unwrap();
            socket.set_buffers(1 << 20, 1 << 12).unwrap();
            socket
        };
        let shares = [0, 1, 2].map(open);
        let sender = RawSocket::open_ipv4_muted(47).unwrap();
        sender.hear_nothing().unwrap();
        let mut storage = SendStorage::new(1);
        // To ourselves: a raw socket is behind the IP stack.
        let _ = left;
        for port in 1_000..1_030 {
            let packet = gre(port, port % 3 == 0);
            let mut out = storage.start();
            let to = Target::Ipv4(std::net::Ipv4Addr::LOCALHOST);
            out.push(&[&packet], to, Control::NONE).unwrap();
            out.send(&sender, |_, error| panic!("{error}"));
        }
        let mut batch = ReceiveBatch::new(64, 2048, 0);
        let taken = shares.each_ref().map(|socket| {
            receive(&mut batch, socket);
            batch.packets().map(|packet| u32::from(packet.data()[12] == 127)).sum::<u32>()
        });
        assert_eq!(
            taken.iter().sum::<u32>(),
            30,
            "{taken:?}: each once, from the address that the route has"
        );
        assert!(taken.iter().all(|taken| *taken > 0) && taken[0] >= 10, "{taken:?}");
    });
}
