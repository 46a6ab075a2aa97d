//! Raw sockets: pings over the loopback device, outer header fields, and the error queue.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::net::Ipv4Addr;
use std::time::Duration;

use common::{Netlink, in_namespace, receive, with_veth};
use greway_linux::batch::{Control, Outcome, PacketInfo, ReceiveBatch, SendStorage, Source, Target};
use greway_linux::event::{Events, Interest, Poller};
use greway_linux::raw::{MtuDiscovery, Origin, RawSocket};
use greway_linux::{filter, sockopt};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// A protocol number for experiments (RFC 3692).
const EXPERIMENT: u8 = 253;

fn send(socket: &RawSocket, to: Ipv4Addr, payload: &[u8], control: Control) -> (Outcome, Vec<Option<i32>>) {
    let mut storage = SendStorage::new(1);
    let mut batch = storage.start();
    batch.push(&[payload], Target::Ipv4(to), control).unwrap();
    let mut refused = Vec::new();
    let outcome = batch.send(socket, |_, error| refused.push(error.raw_os_error()));
    (outcome, refused)
}

/// Waits until an error waits on the socket.
fn wait_for_error(socket: &RawSocket) {
    let poller = Poller::new().unwrap();
    poller.add(socket, 1, Interest::ErrorsOnly).unwrap();
    let mut events = Events::with_capacity(1);
    assert_eq!(poller.wait(&mut events, Some(Duration::from_secs(10))).unwrap(), 1);
    assert!(events.iter().all(|event| event.error && event.token == 1));
}

#[test]
fn a_ping_is_answered_and_carries_the_fields_asked_for() {
    in_namespace("a_ping_is_answered_and_carries_the_fields_asked_for", || {
        let socket = RawSocket::open_ipv4(1).unwrap();
        socket.set_buffers(1 << 20, 1 << 20).unwrap();
        let request = [8, 0, 0xf7, 0xfd, 0, 1, 0, 1];
        let source = Ipv4Addr::new(127, 0, 0, 5);
        let control = Control {
            ttl: Some(17),
            tos: Some(0xb9),
            source: Some(source.into()),
            ifindex: Some(1),
            ..Control::NONE
        };
        assert_eq!(send(&socket, SECOND, &request, control).0.sent, 1);
        // The socket takes every ICMP packet of the host: the request as well as the reply.
        let mut batch = ReceiveBatch::new(4, 2048, 16);
        let mut seen = Vec::new();
        while seen.len() < 2 {
            for index in 0..receive(&mut batch, &socket) {
                let data = batch.data(index);
                assert_eq!((data[0], data[9], data.len()), (0x45, 1, 28));
                let meta = batch.meta(index);
                assert!(meta.auxdata.is_none() && !meta.truncated);
                seen.push((data[20], data[8], data[1], meta.source, meta.packet_info.unwrap()));
            }
        }
        let info =
            |local: Ipv4Addr| PacketInfo { ifindex: 1, local: local.into(), destination: local.into() };
        assert_eq!(seen[0], (8, 17, 0xb9, Source::Ipv4(source), info(SECOND)));
        let (kind, _, _, from, to) = seen[1];
        assert_eq!((kind, from, to), (0, Source::Ipv4(SECOND), info(source)));
    });
}

#[test]
fn an_icmp_error_is_read_with_its_quote_and_costs_no_packet() {
    in_namespace("an_icmp_error_is_read_with_its_quote_and_costs_no_packet", || {
        // Bound, so that what goes to the other address finds no socket and is answered.
        let socket = RawSocket::open_ipv4(EXPERIMENT).unwrap();
        socket.bind(LOOPBACK).unwrap();
        let payload = *b"0123456789abcdef";
        assert_eq!(send(&socket, SECOND, &payload, Control::NONE).0.sent, 1);
        wait_for_error(&socket);
        // Sending leaves the error on the socket and goes; receiving reports it once, before the packet.
        let (outcome, refused) = send(&socket, LOOPBACK, &payload, Control::NONE);
        assert_eq!((outcome.sent, refused), (1, vec![]));
        let mut batch = ReceiveBatch::new(4, 2048, 0);
        assert_eq!(batch.recv(&socket).unwrap_err().raw_os_error(), Some(92));
        assert!(batch.is_empty());
        assert_eq!(receive(&mut batch, &socket), 1);
        assert_eq!(batch.data(0)[20..], payload);

        let mut quote = [0; 64];
        let error = socket.error_queue(&mut quote).unwrap().unwrap();
        assert_eq!((error.origin, error.icmp_type, error.code), (Origin::Icmp, 3, 2));
        assert_eq!(
            (error.offender, error.destination, error.mtu),
            (Some(SECOND.into()), Some(SECOND.into()), None)
        );
        assert_eq!(error.errno, 92, "ENOPROTOOPT");
        assert_eq!(quote[..error.quoted], payload);
        assert_eq!(socket.error_queue(&mut quote).unwrap(), None);
    });
}

#[test]
fn a_muted_socket_keeps_the_kernel_from_answering() {
    in_namespace("a_muted_socket_keeps_the_kernel_from_answering", || {
        let muted = RawSocket::open_ipv4_muted(EXPERIMENT).unwrap();
        let socket = RawSocket::open_ipv4(EXPERIMENT).unwrap();
        socket.bind(LOOPBACK).unwrap();
        for _ in 0..3 {
            assert_eq!(send(&socket, SECOND, &[1; 64], Control::NONE).0.sent, 1);
        }
        // Loopback delivers within the call, so an answer would be there by now.
        assert_eq!(socket.error_queue(&mut []).unwrap(), None);
        let mut batch = ReceiveBatch::new(4, 2048, 0);
        assert_eq!(batch.recv(&muted).unwrap(), 0);
        muted.set_filter(&filter::accept_all()).unwrap();
        send(&socket, SECOND, &[2; 64], Control::NONE);
        assert_eq!(receive(&mut batch, &muted), 1);
        drop(muted);
        send(&socket, SECOND, &[3; 64], Control::NONE);
        wait_for_error(&socket);
    });
}

#[test]
fn a_packet_over_the_mtu_is_refused_with_the_mtu() {
    with_veth("a_packet_over_the_mtu_is_refused_with_the_mtu", |_left, _right| {
        Netlink::open().address("left", Ipv4Addr::new(192, 0, 2, 1), 24);
        let far = Ipv4Addr::new(192, 0, 2, 9);
        let socket = RawSocket::open_ipv4(47).unwrap();
        socket.bind_to_device("left").unwrap();
        for discovery in [MtuDiscovery::Do, MtuDiscovery::Probe] {
            socket.set_mtu_discovery(discovery).unwrap();
            let (outcome, refused) = send(&socket, far, &[0; 2000], Control::NONE);
            assert_eq!((outcome.failed, refused), (1, vec![Some(90)]), "{discovery:?}: EMSGSIZE");
            let error = socket.error_queue(&mut [0; 8]).unwrap().unwrap();
            assert_eq!(
                (error.origin, error.mtu, error.destination),
                (Origin::Local, Some(1500), Some(far.into()))
            );
            assert_eq!(socket.error_queue(&mut []).unwrap(), None);
        }
        for discovery in [MtuDiscovery::Dont, MtuDiscovery::Want] {
            socket.set_mtu_discovery(discovery).unwrap();
            assert_eq!(send(&socket, far, &[0; 2000], Control::NONE).0.sent, 1, "{discovery:?}");
        }
        socket.set_error_queue(false).unwrap();
    });
}

#[test]
fn options_are_set_or_refused_with_their_errno() {
    in_namespace("options_are_set_or_refused_with_their_errno", || {
        let socket = RawSocket::open_ipv4(47).unwrap();
        socket.set_mark(0x1234).unwrap();
        let given = sockopt::set_receive_buffer(&socket, 8 << 20).unwrap();
        assert!(given >= 8 << 20, "{given}");
        assert!(sockopt::set_send_buffer(&socket, 1 << 20).unwrap() >= 1 << 20);
        assert_eq!(socket.bind_to_device("nosuchdev0").unwrap_err().raw_os_error(), Some(19));
        assert_eq!(socket.bind_to_device(&"x".repeat(16)).unwrap_err().raw_os_error(), Some(22));
        socket.bind_to_device("lo").unwrap();
        socket.bind_to_device("").unwrap();
        socket.set_filter(&filter::drop_all()).unwrap();
        sockopt::detach_filter(&socket).unwrap();
        assert_eq!(sockopt::detach_filter(&socket).unwrap_err().raw_os_error(), Some(2));
        assert!(sockopt::take_error(&socket).unwrap().is_none());
        let missing = socket.bind(Ipv4Addr::new(192, 0, 2, 77)).unwrap_err();
        assert_eq!(missing.kind(), std::io::ErrorKind::AddrNotAvailable);
    });
}
