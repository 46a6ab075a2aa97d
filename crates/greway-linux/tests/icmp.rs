//! ICMP sockets that hear some types about some protocol and can answer.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::net::{Ipv4Addr, Ipv6Addr};

use common::{Netlink, in_namespace, receive, wait_for_address6};
use greway_linux::batch::{Control, ReceiveBatch, SendStorage, Source, Target};
use greway_linux::filter;
use greway_linux::raw::RawSocket;

/// Protocol numbers for experiments (RFC 3692).
const EXPERIMENT: u8 = 253;
const OTHER: u8 = 254;
const OURS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x47, 0, 0, 0, 0, 0, 1);
const PAYLOAD: [u8; 8] = *b"payload.";

fn send(socket: &RawSocket, to: Target, message: &[u8]) {
    let mut storage = SendStorage::new(1);
    let mut batch = storage.start();
    batch.push(&[message], to, Control::NONE).unwrap();
    let outcome = batch.send(socket, |_, error| panic!("{error}"));
    assert_eq!(outcome.sent, 1);
}

#[test]
fn er_01_icmp_is_heard_by_type_and_by_what_it_quotes() {
    in_namespace("er_01_icmp_is_heard_by_type_and_by_what_it_quotes", || {
        let about = filter::icmp_about(EXPERIMENT);
        let unreachable = RawSocket::open_icmp(&[3], Some(&about)).unwrap();
        let exceeded = RawSocket::open_icmp(&[11], Some(&about)).unwrap();
        let all = RawSocket::open_icmp(&[3, 8, 0], None).unwrap();
        let silent = RawSocket::open_icmp(&[], None).unwrap();
        let to = Target::Ipv4(Ipv4Addr::LOCALHOST);
        // No socket for either protocol: the kernel answers "protocol unreachable".
        for protocol in [OTHER, EXPERIMENT] {
            let socket = RawSocket::open_ipv4_muted(protocol).unwrap();
            socket.bind(Ipv4Addr::new(127, 0, 0, 9)).unwrap();
            send(&socket, to, &PAYLOAD);
        }
        send(&silent, to, &[8, 0, 0xf7, 0xfd, 0, 1, 0, 1]);

        let mut batch = ReceiveBatch::new(8, 2048, 0);
        assert_eq!(receive(&mut batch, &unreachable), 1);
        let message = batch.data(0).to_vec();
        assert_eq!((message[20], message[21], message[28 + 9]), (3, 2, EXPERIMENT));
        assert_eq!(message[28 + 20..], PAYLOAD);
        assert_eq!(batch.meta(0).source, Source::Ipv4(Ipv4Addr::LOCALHOST));
        // Loopback delivers within the call: what is not there by now never comes.
        assert_eq!((batch.recv(&exceeded).unwrap(), batch.recv(&silent).unwrap()), (0, 0));
        receive(&mut batch, &all);
        let types: Vec<u8> = batch.packets().map(|packet| packet.data()[20]).collect();
        assert_eq!(types, [3, 3, 8, 0]);

        let error = RawSocket::open_icmp(&[3, 32], None).unwrap_err();
        assert_eq!((error.step, error.source.raw_os_error()), ("ICMP_FILTER", Some(libc::EINVAL)));
    });
}

#[test]
fn er_06_icmpv6_is_heard_by_type_and_by_what_it_quotes() {
    in_namespace("er_06_icmpv6_is_heard_by_type_and_by_what_it_quotes", || {
        let about = filter::icmpv6_about(EXPERIMENT);
        let (unreachable, parameter_problem) = (1, 4);
        let problem = RawSocket::open_icmpv6(&[parameter_problem, 200], Some(&about)).unwrap();
        let port = RawSocket::open_icmpv6(&[unreachable], Some(&about)).unwrap();
        let silent = RawSocket::open_icmpv6(&[], None).unwrap();
        let to = Target::Ipv6 { address: Ipv6Addr::LOCALHOST, scope_id: 0 };
        Netlink::open().address6("lo", OURS, 128);
        wait_for_address6(Ipv6Addr::LOCALHOST, 1);
        // Sockets of another address, so that the kernel answers "unrecognized next header".
        for protocol in [OTHER, EXPERIMENT] {
            let socket = RawSocket::open_ipv6_muted(protocol).unwrap();
            socket.bind(OURS).unwrap();
            send(&socket, to, &PAYLOAD);
        }
        let mut batch = ReceiveBatch::new(8, 2048, 0);
        assert_eq!(receive(&mut batch, &problem), 1);
        let message = batch.data(0);
        assert_eq!((message[0], message[1], message[8 + 6]), (parameter_problem, 1, EXPERIMENT));
        assert_eq!(message[8 + 40..], PAYLOAD);
        let info = batch.meta(0).packet_info.unwrap();
        assert_eq!((info.ifindex, info.destination), (1, OURS.into()));
        // Our own answer, with the checksum left to the kernel: port unreachable quoting the protocol.
        let mut answer = vec![unreachable, 4, 0, 0, 0, 0, 0, 0, 0x60, 0, 0, 0, 0, 8, EXPERIMENT, 64];
        answer.extend_from_slice(&Ipv6Addr::LOCALHOST.octets());
        answer.extend_from_slice(&Ipv6Addr::LOCALHOST.octets());
        answer.extend_from_slice(&PAYLOAD);
        send(&silent, to, &answer);
        assert_eq!(receive(&mut batch, &port), 1);
        assert_eq!((batch.data(0)[..2].to_vec(), &batch.data(0)[4..]), (vec![unreachable, 4], &answer[4..]));
        assert_ne!(batch.data(0)[2..4], [0, 0], "the kernel filled in the checksum");
        assert_eq!((batch.recv(&problem).unwrap(), batch.recv(&silent).unwrap()), (0, 0));
    });
}
