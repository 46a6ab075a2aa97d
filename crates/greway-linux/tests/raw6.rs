//! Raw IPv6 sockets: what is asked of the outer header is on the wire, what was in it is told, and filters.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(unsafe_code, reason = "a flow label that somebody keeps to himself takes a setsockopt of its own")]

mod common;

use std::net::Ipv6Addr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

use common::{LEFT, Netlink, RIGHT, in_namespace, receive, wait_for_address6, with_veth};
use greway_linux::batch::{Control, Outcome, PacketInfo, ReceiveBatch, SendStorage, Source, Target};
use greway_linux::event::{Events, Interest, Poller};
use greway_linux::filter;
use greway_linux::packet::{Config, PacketSocket, Protocol};
use greway_linux::raw::{MtuDiscovery, Origin, RawSocket};

const GRE: u8 = 47;
/// A protocol number for experiments (RFC 3692).
const EXPERIMENT: u8 = 253;
const IPV6: u16 = 0x86dd;
/// Plain GRE and ten bytes.
const PACKET: [u8; 14] = [0, 0, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];

fn ours(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x47, 0, 0, 0, 0, 0, host)
}

fn link_local(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, host)
}

fn to(address: Ipv6Addr) -> Target {
    Target::Ipv6 { address, scope_id: 0 }
}

fn send(socket: &RawSocket, to: Target, payload: &[u8], control: Control) -> (Outcome, Vec<Option<i32>>) {
    let mut storage = SendStorage::new(1);
    let mut batch = storage.start();
    batch.push(&[payload], to, control).unwrap();
    let mut refused = Vec::new();
    let outcome = batch.send(socket, |_, error| refused.push(error.raw_os_error()));
    (outcome, refused)
}

/// A veth pair whose left end is fd00:47::1 and ::2 and fe80::1; ::9 and fe80::9 are behind its right end.
fn with_peer(test: &str, work: impl FnOnce(u32, &PacketSocket) + Send) {
    with_veth(test, |left, right| {
        let mut netlink = Netlink::open();
        for address in [ours(1), ours(2), link_local(1)] {
            netlink.address6("left", address, 64);
        }
        for address in [ours(9), link_local(9)] {
            netlink.neighbour6("left", address, RIGHT);
        }
        let gre = filter::ipv6_protocol(GRE);
        let config = Config {
            protocol: Protocol::Ethertype(IPV6),
            ifindex: Some(right),
            filter: Some(&gre),
            ..Config::default()
        };
        work(left, &PacketSocket::open(&config).unwrap());
    });
}

/// The IPv6 packets that arrived at the right end.
fn captured(socket: &PacketSocket, count: usize) -> Vec<Vec<u8>> {
    let mut batch = ReceiveBatch::new(8, 4096, 0);
    let mut packets = Vec::new();
    while packets.len() < count {
        receive(&mut batch, socket);
        packets.extend(batch.packets().map(|packet| packet.data()[14..].to_vec()));
    }
    assert_eq!(packets.len(), count);
    packets
}

fn label(packet: &[u8]) -> u32 {
    u32::from_be_bytes([0, packet[1] & 15, packet[2], packet[3]])
}

#[test]
fn t6_03_t6_05_the_outer_header_is_what_was_asked_for() {
    with_peer("t6_03_t6_05_the_outer_header_is_what_was_asked_for", |left, wire| {
        let socket = RawSocket::open_ipv6_muted(GRE).unwrap();
        let control = Control {
            ttl: Some(17),
            tos: Some(0xb9),
            source: Some(ours(2).into()),
            ifindex: Some(left),
            flow_label: Some(0x1_2345),
            encapsulation_limit: Some(4),
        };
        assert_eq!(send(&socket, to(ours(9)), &PACKET, control).0.sent, 1);
        let mut expected = vec![0x6b, 0x91, 0x23, 0x45, 0, 8 + 14, 60, 17];
        expected.extend_from_slice(&ours(2).octets());
        expected.extend_from_slice(&ours(9).octets());
        // As the kernel's ip6gre sends it: next header, length, option 4 of one byte, PadN.
        expected.extend_from_slice(&[GRE, 0, 4, 1, 4, 1, 1, 0]);
        expected.extend_from_slice(&PACKET);
        assert_eq!(captured(wire, 1), [expected]);

        // Limit 0 and hop limit 255 are values like others.
        let control = Control { encapsulation_limit: Some(0), ttl: Some(255), ..Control::NONE };
        assert_eq!(send(&socket, to(ours(9)), &PACKET, control).0.sent, 1);
        let packet = captured(wire, 1).remove(0);
        assert_eq!((packet[6], packet[7], &packet[40..48]), (60, 255, &[GRE, 0, 4, 1, 0, 1, 1, 0][..]));
    });
}

#[test]
fn t6_05_without_a_label_the_kernel_makes_one_for_the_flow() {
    with_peer("t6_05_without_a_label_the_kernel_makes_one_for_the_flow", |_, wire| {
        let socket = RawSocket::open_ipv6_muted(GRE).unwrap();
        for _ in 0..2 {
            assert_eq!(send(&socket, to(ours(9)), &PACKET, Control::NONE).0.sent, 1);
        }
        let packets = captured(wire, 2);
        assert_eq!(packets[0], packets[1]);
        let packet = &packets[0];
        assert_eq!((packet[0], packet[1] >> 4, packet[6], packet[7]), (0x60, 0, GRE, 64));
        assert_eq!(packet[40..], PACKET);
        assert_ne!(label(packet), 0);
    });
}

#[test]
fn t6_05_a_label_that_is_not_allowed_is_left_out_and_counted() {
    with_peer("t6_05_a_label_that_is_not_allowed_is_left_out_and_counted", |_, wire| {
        let socket = RawSocket::open_ipv6_muted(GRE).unwrap();
        let control = Control { flow_label: Some(0x777), ..Control::NONE };
        let (outcome, refused) = send(&socket, to(ours(9)), &PACKET, control);
        assert_eq!((outcome.sent, outcome.unlabelled, refused), (1, 0, vec![]));
        assert_eq!(label(&captured(wire, 1)[0]), 0x777);

        let stranger = RawSocket::open_ipv6_muted(EXPERIMENT).unwrap();
        keep_label(&stranger, 0x999);
        let mut storage = SendStorage::new(8);
        let mut batch = storage.start();
        for _ in 0..3 {
            batch.push(&[&PACKET], to(ours(9)), control).unwrap();
        }
        // Refused for its source, with or without a label.
        let foreign = Control { source: Some(ours(0x77).into()), ..control };
        batch.push(&[&PACKET], to(ours(9)), foreign).unwrap();
        batch.push(&[&PACKET], to(ours(9)), Control::NONE).unwrap();
        let mut refused = Vec::new();
        let outcome = batch.send(&socket, |index, error| refused.push((index, error.raw_os_error())));
        assert_eq!((outcome.sent, outcome.failed, outcome.unlabelled), (4, 1, 3));
        assert_eq!(refused, [(3, Some(libc::EINVAL))]);
        assert!(captured(wire, 4).iter().all(|packet| ![0, 0x777].contains(&label(packet))));
    });
}

/// Takes a flow label that nobody else may use (`IPV6_FLOWLABEL_MGR`, linux include/uapi/linux/in6.h).
fn keep_label(socket: &RawSocket, label: u32) {
    let (get, create_exclusive, exclusive) = (0, 3u16, 1);
    let mut request = [0u8; 32];
    request[..16].copy_from_slice(&ours(9).octets());
    request[16..20].copy_from_slice(&label.to_be_bytes());
    request[20..22].copy_from_slice(&[get, exclusive]);
    request[22..24].copy_from_slice(&create_exclusive.to_ne_bytes());
    // SAFETY: setsockopt(2) reads as many bytes as are given; `struct in6_flowlabel_req` has 32.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_FLOWLABEL_MGR,
            request.as_ptr().cast(),
            32,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn what_was_in_the_header_is_told_beside_the_packet() {
    in_namespace("what_was_in_the_header_is_told_beside_the_packet", || {
        Netlink::open().address6("lo", ours(1), 128);
        wait_for_address6(Ipv6Addr::LOCALHOST, 1);
        let socket = RawSocket::open_ipv6(GRE).unwrap();
        socket.set_buffers(1 << 20, 1 << 20).unwrap();
        let control = Control {
            ttl: Some(33),
            tos: Some(0x2e),
            source: Some(Ipv6Addr::LOCALHOST.into()),
            encapsulation_limit: Some(4),
            ..Control::NONE
        };
        assert_eq!(send(&socket, to(ours(1)), &PACKET, control).0.sent, 1);
        let mut batch = ReceiveBatch::new(4, 2048, 40);
        assert_eq!(receive(&mut batch, &socket), 1);
        // The option header is gone too; there is room for a header in front.
        let (slot, data) = batch.slot_mut(0);
        assert_eq!((data.start, &slot[data]), (40, &PACKET[..]));
        let meta = batch.meta(0);
        assert_eq!(meta.source, Source::Ipv6 { address: Ipv6Addr::LOCALHOST, scope_id: 0 });
        let info = PacketInfo { ifindex: 1, local: ours(1).into(), destination: ours(1).into() };
        assert_eq!(
            (meta.packet_info, meta.hop_limit, meta.traffic_class),
            (Some(info), Some(33), Some(0x2e))
        );
        assert!(meta.auxdata.is_none() && !meta.truncated);
    });
}

#[test]
fn an_icmpv6_error_is_read_with_its_quote_and_a_muted_socket_prevents_it() {
    in_namespace("an_icmpv6_error_is_read_with_its_quote_and_a_muted_socket_prevents_it", || {
        let mut netlink = Netlink::open();
        netlink.address6("lo", ours(1), 128);
        netlink.address6("lo", ours(2), 128);
        // Bound, so that what goes to the other address finds no socket and is answered.
        let socket = RawSocket::open_ipv6(EXPERIMENT).unwrap();
        socket.bind(ours(1)).unwrap();
        let muted = RawSocket::open_ipv6_muted(EXPERIMENT).unwrap();
        assert_eq!(send(&socket, to(ours(2)), &PACKET, Control::NONE).0.sent, 1);
        // Loopback delivers within the call, so an answer would be there by now.
        assert_eq!(socket.error_queue(&mut []).unwrap(), None);
        assert_eq!(ReceiveBatch::new(1, 2048, 0).recv(&muted).unwrap(), 0);
        drop(muted);
        assert_eq!(send(&socket, to(ours(2)), &PACKET, Control::NONE).0.sent, 1);
        let poller = Poller::new().unwrap();
        poller.add(&socket, 1, Interest::ErrorsOnly).unwrap();
        assert_eq!(poller.wait(&mut Events::with_capacity(1), Some(Duration::from_secs(10))).unwrap(), 1);
        let mut quote = [0; 64];
        let error = socket.error_queue(&mut quote).unwrap().unwrap();
        let parameter_problem = (Origin::Icmp6, 4, 1);
        assert_eq!((error.origin, error.icmp_type, error.code), parameter_problem);
        assert_eq!((error.offender, error.destination), (Some(ours(2).into()), Some(ours(2).into())));
        assert_eq!((error.errno, error.mtu), (libc::EPROTO, None));
        assert_eq!(quote[..error.quoted], PACKET);
        assert_eq!(socket.error_queue(&mut quote).unwrap(), None);
    });
}

#[test]
fn t6_04_a_packet_over_the_path_mtu_is_refused_with_it_or_cut() {
    with_peer("t6_04_a_packet_over_the_path_mtu_is_refused_with_it_or_cut", |_, wire| {
        let socket = RawSocket::open_ipv6_muted(GRE).unwrap();
        let (fits, large) = ([0; 1460], [0; 1461]);
        for discovery in [MtuDiscovery::Do, MtuDiscovery::Probe] {
            socket.set_mtu_discovery(discovery).unwrap();
            let (outcome, refused) = send(&socket, to(ours(9)), &large, Control::NONE);
            assert_eq!((outcome.failed, refused), (1, vec![Some(libc::EMSGSIZE)]), "{discovery:?}");
            let error = socket.error_queue(&mut [0; 8]).unwrap().unwrap();
            let destination = Some(ours(9).into());
            assert_eq!(
                (error.origin, error.mtu, error.destination),
                (Origin::Local, Some(1500), destination)
            );
            assert_eq!(send(&socket, to(ours(9)), &fits, Control::NONE).0.sent, 1);
            assert_eq!(captured(wire, 1)[0].len(), 1500);
        }
        for discovery in [MtuDiscovery::Dont, MtuDiscovery::Want] {
            socket.set_mtu_discovery(discovery).unwrap();
            let control = Control { encapsulation_limit: Some(4), ..Control::NONE };
            let (outcome, refused) = send(&socket, to(ours(9)), &large, control);
            assert_eq!((outcome.sent, refused), (1, vec![]), "{discovery:?}");
            let pieces = captured(wire, 2);
            // The kernel puts the fragment header behind the options (`ip6_find_1stfragopt`).
            let headers = |piece: &Vec<u8>| (piece[6], piece[40], piece[48]);
            assert!(pieces.iter().all(|piece| headers(piece) == (60, 44, GRE)), "{discovery:?}");
        }
        socket.set_error_queue(false).unwrap();
        assert_eq!(socket.path_mtu().unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
        socket.connect(ours(9)).unwrap();
        assert_eq!(socket.path_mtu().unwrap(), 1500);
        let missing = RawSocket::open_ipv6_muted(GRE).unwrap().bind(ours(0x77)).unwrap_err();
        assert_eq!(missing.kind(), std::io::ErrorKind::AddrNotAvailable);
    });
}

#[test]
fn a_link_local_address_takes_a_device() {
    with_peer("a_link_local_address_takes_a_device", |left, wire| {
        let socket = RawSocket::open_ipv6_muted(GRE).unwrap();
        let alone = Target::Ipv6 { address: link_local(9), scope_id: 0 };
        let scoped = Target::Ipv6 { address: link_local(9), scope_id: left };
        let bound = Control { ifindex: Some(left), source: Some(link_local(1).into()), ..Control::NONE };
        for (target, control) in [(scoped, Control::NONE), (alone, bound), (scoped, bound)] {
            let (outcome, refused) = send(&socket, target, &PACKET, control);
            assert_eq!((outcome.sent, refused), (1, vec![]), "{target:?}");
            assert_eq!(captured(wire, 1)[0][8..24], link_local(1).octets());
        }
        let asking = RawSocket::open_ipv6_muted(GRE).unwrap();
        assert_eq!(asking.connect(link_local(9)).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        asking.bind_to_ifindex(left).unwrap();
        asking.bind(link_local(1)).unwrap();
        asking.connect(link_local(9)).unwrap();
        assert_eq!(asking.path_mtu().unwrap(), 1500);
    });
}

#[test]
fn the_filter_takes_what_is_or_may_be_the_protocol() {
    with_peer("the_filter_takes_what_is_or_may_be_the_protocol", |left, wire| {
        let chains: [(&[u8], bool); 12] = [
            (&[47], true),
            (&[6], false),
            (&[58], false),
            (&[60, 47], true),
            (&[60, 6], false),
            (&[44, 47], true),
            (&[44, 60], true),
            (&[44, 17], false),
            (&[0, 60, 47], true),
            (&[43, 47], true),
            (&[60, 60, 6], true),
            (&[51, 47], false),
        ];
        let sender = PacketSocket::open(&Config { ifindex: Some(left), ..Config::default() }).unwrap();
        let mut storage = SendStorage::new(chains.len() + 1);
        let mut batch = storage.start();
        // The last one ends the wait: it passes for certain.
        for (index, (chain, _)) in chains.iter().chain([&(&[47u8][..], true)]).enumerate() {
            let mut frame = [&RIGHT.octets()[..], &LEFT.octets(), &IPV6.to_be_bytes()].concat();
            frame.extend_from_slice(&[0x60, 0, 0, index as u8, 0, 8 * chain.len() as u8, chain[0], 64]);
            frame.extend_from_slice(&ours(1).octets());
            frame.extend_from_slice(&ours(9).octets());
            for next in &chain[1..] {
                frame.extend_from_slice(&[*next, 0, 0, 0, 0, 0, 0, 0]);
            }
            frame.extend_from_slice(&[0; 8]);
            let target = Target::Link { ifindex: left, mac: RIGHT, protocol: IPV6 };
            batch.push_with_prefix(&frame, &[], target, Control::NONE).unwrap();
        }
        let outcome = batch.send(&sender, |index, error| panic!("frame {index}: {error}"));
        assert_eq!(outcome.sent, chains.len() + 1);
        let wanted: Vec<u32> = (0..).zip(chains).filter(|(_, (_, passes))| *passes).map(|(n, _)| n).collect();
        let seen: Vec<u32> = captured(wire, wanted.len() + 1).iter().map(|packet| label(packet)).collect();
        assert_eq!(seen[..wanted.len()], wanted);
    });
}
