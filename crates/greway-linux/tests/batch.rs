//! Batches over a veth pair, and over a unix socket pair where no device is needed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{EXPERIMENT, LEFT, Netlink, RIGHT, receive, with_veth};
use greway_linux::batch::{
    Control, Full, LinkSource, MAX_SLICES, PREFIX_BYTES, PacketKind, ReceiveBatch, SendStorage, Source,
    Target,
};
use greway_linux::packet::{Config, PacketSocket, Protocol};
use greway_linux::vnet::{GsoType, VnetHeader};
use std::os::unix::net::UnixDatagram;

fn sender(ifindex: u32, vnet_header: bool) -> PacketSocket {
    PacketSocket::open(&Config { ifindex: Some(ifindex), vnet_header, ..Config::default() }).unwrap()
}

fn receiver(ifindex: u32, ethertype: u16, vnet_header: bool) -> PacketSocket {
    let protocol = Protocol::Ethertype(ethertype);
    PacketSocket::open(&Config { protocol, ifindex: Some(ifindex), vnet_header, ..Config::default() })
        .unwrap()
}

fn ethernet(ethertype: u16) -> [u8; 14] {
    let mut header = [0; 14];
    header[0..6].copy_from_slice(&RIGHT.octets());
    header[6..12].copy_from_slice(&LEFT.octets());
    header[12..14].copy_from_slice(&ethertype.to_be_bytes());
    header
}

fn link(ifindex: u32) -> Target {
    Target::Link { ifindex, mac: RIGHT, protocol: EXPERIMENT }
}

#[test]
fn a_batch_crosses_a_veth_in_order_with_headroom_and_source() {
    with_veth("a_batch_crosses_a_veth_in_order_with_headroom_and_source", |left, right| {
        let (from, to) = (sender(left, false), receiver(right, EXPERIMENT, false));
        let mut storage = SendStorage::new(64);
        let mut batch = ReceiveBatch::new(64, 2048, 32);
        // The same memory is used again and again, with more and with fewer packets.
        for count in [64usize, 1, 40, 64] {
            let payloads: Vec<[u8; 100]> = (0..count).map(|index| [index as u8; 100]).collect();
            let mut send = storage.start();
            for payload in &payloads {
                let (head, tail) = payload.split_at(30);
                send.push_with_prefix(&ethernet(EXPERIMENT), &[head, tail], link(left), Control::NONE)
                    .unwrap();
            }
            assert_eq!(send.is_full(), count == 64);
            let outcome = send.send(&from, |index, error| panic!("packet {index}: {error}"));
            assert_eq!((outcome.sent, outcome.failed, outcome.pending), (count, 0, 0));
            assert!(send.is_empty());

            let mut seen = 0;
            while seen < count {
                let received = receive(&mut batch, &to);
                assert_eq!(batch.len(), received);
                for index in 0..received {
                    assert_eq!(batch.data(index)[..14], ethernet(EXPERIMENT));
                    assert_eq!(batch.data(index)[14..], [seen as u8; 100]);
                    let meta = batch.meta(index);
                    let source = LinkSource {
                        ifindex: right,
                        kind: PacketKind::Host,
                        protocol: EXPERIMENT,
                        mac: Some(LEFT),
                    };
                    assert_eq!(meta.source, Source::Link(source));
                    let auxdata = meta.auxdata.unwrap();
                    assert_eq!((auxdata.len, auxdata.vlan, auxdata.csum_not_ready), (114, None, false));
                    assert!(!meta.truncated && meta.packet_info.is_none() && batch.vnet(index).is_none());
                    seen += 1;
                }
                // A header in front of one packet leaves its neighbours alone.
                let (slot, data) = batch.slot_mut(0);
                assert_eq!((slot.len(), data), (32 + 2048, 32..32 + 114));
                slot.fill(0xdd);
                for (index, packet) in batch.packets().enumerate() {
                    let (first, free) = if index == 0 { (0xdd, 0xdd) } else { (RIGHT.octets()[0], 0) };
                    assert_eq!((packet.data()[0], packet.slot[0], packet.slot[31]), (first, free, free));
                    packet.slot[..32].fill(0);
                }
            }
            assert_eq!(seen, count);
        }
        assert_eq!(batch.recv(&to).unwrap(), 0);
        assert!(batch.is_empty());
    });
}

#[test]
fn a_batch_goes_on_behind_packets_that_are_refused() {
    with_veth("a_batch_goes_on_behind_packets_that_are_refused", |left, right| {
        let (from, to) = (sender(left, false), receiver(right, EXPERIMENT, false));
        let large = vec![0; 3000];
        let mut storage = SendStorage::new(16);
        let mut send = storage.start();
        let header = ethernet(EXPERIMENT);
        for (index, target) in [left, left, left, 999_999, left, left].into_iter().enumerate() {
            let payload: &[u8] = if matches!(index, 1 | 5) { &large } else { &large[..50] };
            send.push_with_prefix(&header, &[payload], link(target), Control::NONE).unwrap();
        }
        let mut refused = Vec::new();
        let outcome = send.send(&from, |index, error| refused.push((index, error.raw_os_error())));
        assert_eq!((outcome.sent, outcome.failed, outcome.pending), (3, 3, 0));
        let (emsgsize, enxio) = (Some(90), Some(6));
        assert_eq!(refused, [(1, emsgsize), (3, enxio), (5, emsgsize)]);
        let mut batch = ReceiveBatch::new(8, 2048, 0);
        let mut seen = 0;
        while seen < 3 {
            seen += receive(&mut batch, &to);
        }
        assert_eq!(seen, 3);
    });
}

#[test]
fn an_error_that_waits_on_the_socket_costs_no_packet() {
    with_veth("an_error_that_waits_on_the_socket_costs_no_packet", |left, right| {
        let (from, to) = (receiver(left, EXPERIMENT, false), receiver(right, EXPERIMENT, false));
        let mut netlink = Netlink::open();
        netlink.down("left");
        netlink.up("left");
        netlink.wait_until_running("left");
        let mut storage = SendStorage::new(2);
        let mut send = storage.start();
        for _ in 0..2 {
            let header = ethernet(EXPERIMENT);
            send.push_with_prefix(&header, &[&[1; 50]], link(left), Control::NONE).unwrap();
        }
        let outcome = send.send(&from, |index, error| panic!("packet {index}: {error}"));
        assert_eq!((outcome.sent, outcome.failed), (2, 0));
        let mut batch = ReceiveBatch::new(2, 100, 0);
        let mut seen = 0;
        while seen < 2 {
            seen += receive(&mut batch, &to);
        }

        netlink.down("left");
        assert_eq!(batch.recv(&from).unwrap_err().raw_os_error(), Some(100), "ENETDOWN");
        assert_eq!(batch.recv(&from).unwrap(), 0);
        let mut send = storage.start();
        let header = ethernet(EXPERIMENT);
        send.push(&[&header], link(left), Control::NONE).unwrap();
        let mut refused = Vec::new();
        send.send(&from, |index, error| refused.push((index, error.raw_os_error())));
        assert_eq!(refused, [(0, Some(100))], "the device is down indeed");
    });
}

#[test]
fn a_super_packet_keeps_its_virtio_net_header() {
    with_veth("a_super_packet_keeps_its_virtio_net_header", |left, right| {
        let (from, to) = (sender(left, true), receiver(right, 0x0800, true));
        let plain = receiver(right, 0x0800, false);
        let payload = vec![0x5a; 5000];
        let packet = tcp_headers(payload.len());
        let header = VnetHeader {
            needs_csum: true,
            gso_type: GsoType::Tcp4,
            hdr_len: 54,
            gso_size: 1000,
            csum_start: 34,
            csum_offset: 16,
            ..VnetHeader::NONE
        };
        let mut storage = SendStorage::new(4);
        let mut send = storage.start();
        let prefix = [&header.to_bytes()[..], &ethernet(0x0800), &packet].concat();
        send.push_with_prefix(&prefix, &[&payload], Target::Connected, Control::NONE).unwrap();
        // Less than its header promises: refused, and the next one goes.
        send.push(&[&prefix[..20]], Target::Connected, Control::NONE).unwrap();
        send.push_with_prefix(&prefix, &[&payload], Target::Connected, Control::NONE).unwrap();
        let mut refused = Vec::new();
        let outcome = send.send(&from, |index, error| refused.push((index, error.raw_os_error())));
        assert_eq!((outcome.sent, outcome.failed), (2, 1));
        assert_eq!(refused, [(1, Some(22))]);

        let mut batch = ReceiveBatch::new(4, 65_600, 64).with_vnet_header();
        let mut seen = 0;
        while seen < 2 {
            for index in 0..receive(&mut batch, &to) {
                let vnet = batch.vnet(index).unwrap();
                assert_eq!((vnet.gso_type, vnet.gso_size), (GsoType::Tcp4, 1000));
                assert_eq!((vnet.needs_csum, vnet.csum_start, vnet.csum_offset), (true, 34, 16));
                assert_eq!(batch.data(index)[..14], ethernet(0x0800));
                assert_eq!(batch.data(index)[14 + 40..], payload);
                assert!(batch.meta(index).auxdata.unwrap().csum_not_ready);
                seen += 1;
            }
            let packets: Vec<_> = batch.packets().collect();
            assert!(packets.iter().all(|packet| packet.vnet.unwrap().gso_size == 1000));
            assert!(packets.iter().all(|packet| packet.data == (64..64 + 54 + 5000)));
        }
        // Without the header the same packet is only a very long one.
        let mut batch = ReceiveBatch::new(1, 100, 0);
        assert_eq!(receive(&mut batch, &plain), 1);
        assert_eq!(batch.data(0).len(), 100);
        let meta = batch.meta(0);
        assert!(meta.truncated);
        assert_eq!(meta.auxdata.unwrap().len, 5054);
    });
}

#[test]
fn a_full_receiver_leaves_the_rest_pending_and_in_order() {
    let (from, to) = UnixDatagram::pair().unwrap();
    let numbers: Vec<[u8; 2]> = (0..1000u16).map(u16::to_be_bytes).collect();
    let mut storage = SendStorage::new(1000);
    let mut send = storage.start();
    for number in &numbers {
        send.push(&[&number[..1], &number[1..]], Target::Connected, Control::NONE).unwrap();
    }
    assert_eq!(send.push(&[], Target::Connected, Control::NONE), Err(Full));
    let mut batch = ReceiveBatch::new(7, 64, 3);
    let (mut sent, mut seen, mut rounds) = (0, Vec::new(), 0);
    while seen.len() < numbers.len() {
        let outcome = send.send(&from, |index, error| panic!("packet {index}: {error}"));
        sent += outcome.sent;
        assert_eq!(outcome.pending, numbers.len() - sent);
        assert_eq!(send.len(), outcome.pending);
        rounds += 1;
        while batch.recv(&to).unwrap() > 0 {
            assert_eq!(batch.meta(0).source, Source::Unknown);
            seen.extend(batch.packets().map(|packet| <[u8; 2]>::try_from(packet.data()).unwrap()));
        }
    }
    assert!(rounds > 1, "the queue of a unix socket holds fewer than 1000 datagrams");
    assert_eq!(seen, numbers);
    assert!(send.is_empty() && !send.is_full());
}

#[test]
fn storage_moves_between_threads_and_batches_are_reused() {
    let (from, to) = UnixDatagram::pair().unwrap();
    let mut storage = SendStorage::new(2);
    let mut batch = ReceiveBatch::new(2, 16, 0);
    batch.recv(&to).unwrap();
    for round in 0..3u8 {
        (storage, batch) = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let payload = [round; 4];
                let mut send = storage.start();
                send.push(&[&payload], Target::Connected, Control::NONE).unwrap();
                assert_eq!(send.send(&from, |_, error| panic!("{error}")).sent, 1);
                // Forgotten, not sent by the next round.
                send.push(&[&[9; 4]], Target::Connected, Control::NONE).unwrap();
                assert_eq!(batch.recv(&to).unwrap(), 1);
                assert_eq!(batch.data(0), payload);
                (storage, batch)
            });
            thread.join().unwrap()
        });
    }
}

#[test]
fn a_packet_of_too_many_parts_is_a_mistake_of_the_caller() {
    let mut storage = SendStorage::new(1);
    let slices = [&[0u8][..]; MAX_SLICES + 1];
    for (prefix, slices) in [(&[0; PREFIX_BYTES + 1][..], &slices[..1]), (&[0; PREFIX_BYTES], &slices)] {
        let push = std::panic::AssertUnwindSafe(|| {
            let _full = storage.start().push_with_prefix(prefix, slices, Target::Connected, Control::NONE);
        });
        assert!(std::panic::catch_unwind(push).is_err());
    }
}

/// IPv4 and TCP headers for `payload` bytes, with the checksum that the virtio-net header leaves open:
/// the pseudo-header's sum.
fn tcp_headers(payload: usize) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&(40 + payload as u16).to_be_bytes());
    bytes[8] = 64;
    bytes[9] = 6;
    bytes[12..16].copy_from_slice(&[192, 0, 2, 1]);
    bytes[16..20].copy_from_slice(&[192, 0, 2, 2]);
    let sum = checksum(&bytes[..20], 0);
    bytes[10..12].copy_from_slice(&(!sum).to_be_bytes());
    bytes[20..24].copy_from_slice(&[0x10, 0, 0x20, 0]);
    bytes[32] = 0x50;
    bytes[33] = 0x10;
    let length = 20 + payload as u16;
    let pseudo = checksum(&bytes[12..20], 6 + u32::from(length));
    bytes[36..38].copy_from_slice(&pseudo.to_be_bytes());
    bytes
}

fn checksum(bytes: &[u8], start: u32) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum = start + words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
