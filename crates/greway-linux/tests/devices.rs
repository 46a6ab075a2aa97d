//! TUN devices and device features.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use common::{Netlink, RIGHT, in_namespace, not_run, receive, with_veth};
use greway_linux::batch::{Control, ReceiveBatch, SendStorage, Target};
use greway_linux::ethtool::{self, BEYOND_VNET_HEADER, Error};
use greway_linux::event::{Events, Interest, Poller};
use greway_linux::packet::{self, PacketSocket, Protocol};
use greway_linux::tun::{Config, Offload, Tun};
use greway_linux::vnet::{self, GsoType, VnetHeader};

#[test]
fn a_tun_carries_packets_both_ways_and_is_adopted_again() {
    let test = "a_tun_carries_packets_both_ways_and_is_adopted_again";
    in_namespace(test, || {
        let config = Config { name: "gretun0", persist: true };
        let tun = match Tun::open(&config) {
            Ok(tun) => tun,
            Err(error) if error.step == "open /dev/net/tun" => return not_run(test, error),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(tun.name(), "gretun0");
        assert_ne!(tun.offload(), Offload::None);
        let busy = Tun::open(&config).unwrap_err();
        assert_eq!((busy.step, busy.source.raw_os_error()), ("TUNSETIFF", Some(16)));
        drop(tun);

        let mut tun = Tun::open(&config).unwrap();
        let mut netlink = Netlink::open();
        netlink.address("gretun0", Ipv4Addr::new(192, 0, 2, 1), 24);
        netlink.up("gretun0");
        let host = UdpSocket::bind("192.0.2.1:4000").unwrap();
        host.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        host.send_to(b"out", "192.0.2.2:4000").unwrap();
        let (mut header, mut data) = ([0; vnet::LEN], [0; 2048]);
        let packet = next_udp(&tun, &mut header, &mut data);
        assert_eq!(packet[28..], *b"out");
        let header = VnetHeader::parse(&header).unwrap();
        assert_eq!((header.gso_type, header.needs_csum), (GsoType::None, true));
        assert_eq!((header.csum_start, header.csum_offset), (20, 6));

        // Sent back with addresses swapped: the sum of the pseudo-header stays what it was.
        let mut answer = packet.to_vec();
        answer[12..16].copy_from_slice(&packet[16..20]);
        answer[16..20].copy_from_slice(&packet[12..16]);
        let (head, tail) = answer.split_at(20);
        tun.send(&header, head, &[tail]).unwrap();
        let mut buffer = [0; 16];
        let (len, from) = host.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from.to_string()), (&b"out"[..], "192.0.2.2:4000".to_owned()));

        tun.set_offload(Offload::None).unwrap();
        host.send_to(b"sum", "192.0.2.2:4000").unwrap();
        let mut raw = [0; vnet::LEN];
        assert_eq!(next_udp(&tun, &mut raw, &mut data)[28..], *b"sum");
        assert!(!VnetHeader::parse(&raw).unwrap().needs_csum);
        let long =
            VnetHeader { gso_type: GsoType::Tcp4, needs_csum: true, csum_start: 9999, ..VnetHeader::NONE };
        assert!(tun.send(&long, &[], &[&answer]).is_err());
        tun.set_persist(false).unwrap();
        drop(tun);
        assert!(matches!(ethtool::features("gretun0"), Err(Error::Kernel { .. })));
        let name = Tun::open(&Config { name: "a-name-too-long-for-linux", persist: false }).unwrap_err();
        assert_eq!(name.source.raw_os_error(), Some(22));
    });
}

/// The next IPv4 UDP packet out of the tunnel; the host also sends IPv6 of its own accord.
fn next_udp<'a>(tun: &Tun, header: &mut [u8; vnet::LEN], data: &'a mut [u8]) -> &'a [u8] {
    let poller = Poller::new().unwrap();
    poller.add(tun, 0, Interest::Readable).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match tun.recv(header, data).unwrap() {
            Some(len) if data[0] == 0x45 && data[9] == 17 => return &data[..len],
            Some(_) => {}
            None => {
                let left = deadline.saturating_duration_since(Instant::now());
                assert!(!left.is_zero(), "nothing came within ten seconds");
                poller.wait(&mut Events::with_capacity(1), Some(left)).unwrap();
            }
        }
    }
}

#[test]
fn features_are_switched_and_read_back() {
    with_veth("features_are_switched_and_read_back", |_left, _right| {
        let active = |name: &str| {
            let features = ethtool::features("left").unwrap();
            features.iter().find(|feature| feature.name == name).unwrap().active
        };
        let names = ["tx-checksum-ip-generic", "tx-tcp-segmentation", "rx-gro"];
        for on in [false, true, false] {
            ethtool::set_features("left", &names.map(|name| (name, on))).unwrap();
            assert_eq!(names.map(active), [on; 3]);
        }
        let unknown = ethtool::set_features("left", &[("rx-gro", true), ("tx-warp", true)]).unwrap_err();
        assert_eq!(unknown.to_string(), "left: this kernel has no device feature \"tx-warp\"");
        assert!(!active("rx-gro"), "nothing changes when one name is wrong");
        // TCP segmentation needs checksums, which are off.
        ethtool::set_features("left", &[("tx-checksum-ip-generic", false)]).unwrap();
        let kept = ethtool::set_features("left", &[("tx-tcp-segmentation", true)]).unwrap_err();
        assert_eq!(kept.to_string(), "left: feature \"tx-tcp-segmentation\" stayed off");
        let gone = ethtool::features("nosuchdev0").unwrap_err();
        assert!(matches!(&gone, Error::Kernel { source, .. } if source.raw_os_error() == Some(19)), "{gone}");
    });
}

#[test]
fn a_veth_offers_nothing_that_a_virtio_net_header_cannot_say() {
    with_veth("a_veth_offers_nothing_that_a_virtio_net_header_cannot_say", |_left, _right| {
        let on = || {
            let features = ethtool::features("left").unwrap().into_iter();
            let beyond = features.filter(|feature| {
                feature.active && BEYOND_VNET_HEADER.iter().any(|prefix| feature.name.starts_with(prefix))
            });
            beyond.map(|feature| feature.name).collect::<Vec<_>>()
        };
        assert!(on().contains(&"tx-gre-segmentation".to_owned()), "{:?}", on());
        assert_eq!(ethtool::disable_matching("left", &BEYOND_VNET_HEADER).unwrap(), Vec::<String>::new());
        assert_eq!(on(), Vec::<String>::new());
        let tcp = ethtool::features("left").unwrap();
        assert!(tcp.iter().any(|feature| feature.name == "tx-tcp-segmentation" && feature.active));
    });
}

/// Both that it is right where it says yes, and that the device has the offload which is taken off where it says no.
#[test]
fn a_kernel_that_describes_trains_of_datagrams_takes_one() {
    with_veth("a_kernel_that_describes_trains_of_datagrams_takes_one", |left, right| {
        let described = packet::describes_datagram_trains().unwrap();
        let features = ethtool::features("left").unwrap();
        let offload = features.iter().find(|feature| feature.name == ethtool::DATAGRAM_TRAINS).unwrap();
        assert!(offload.active && !offload.never_changed);
        let open = |protocol, ifindex| {
            let config = packet::Config { protocol, ifindex, vnet_header: true, ..packet::Config::default() };
            PacketSocket::open(&config).unwrap()
        };
        let (from, to) =
            (open(Protocol::SendOnly, Some(left)), open(Protocol::Ethertype(0x0800), Some(right)));
        // Two datagrams of four bytes, addresses and checksums left at zero: nobody looks at these here.
        let header = VnetHeader {
            needs_csum: true,
            gso_type: GsoType::UdpL4,
            hdr_len: 42,
            gso_size: 4,
            csum_start: 34,
            csum_offset: 6,
            ..VnetHeader::NONE
        };
        let mut frame = vec![0; 42 + 8];
        frame[..6].copy_from_slice(&RIGHT.octets());
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        (frame[17], frame[23], frame[39]) = (36, 17, 16);
        let mut storage = SendStorage::new(1);
        let mut send = storage.start();
        let front = header.to_bytes();
        send.push(&[&front, &frame], Target::Connected, Control::NONE).unwrap();
        let outcome = send.send(&from, |_, _| {});
        assert!(outcome.sent == 1 || !described, "{outcome:?}");
        if outcome.sent == 1 {
            let mut batch = ReceiveBatch::new(1, 100, 0).with_vnet_header();
            assert_eq!(receive(&mut batch, &to), 1);
            let vnet = batch.vnet(0).unwrap();
            assert_eq!((vnet.gso_type, vnet.gso_size, vnet.needs_csum), (GsoType::UdpL4, 4, true));
            assert_eq!(batch.data(0), frame);
        }
    });
}
