//! What userspace writes into the maps, and what it finds there later.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

mod support;

use std::{net::Ipv4Addr, os::fd::AsFd as _};

use greway_fastpath::{Entry, Fastpath, Member, NextHop, Place, Point, Slot, Table};
use greway_linux::bpf;
use greway_spec::{Draft, TunnelSpec};
use support::*;

/// `TC_ACT_REDIRECT`.
const REDIRECT: u32 = 7;
/// Bytes of `struct __sk_buff`.
const SK_BUFF: usize = 192;

fn spec(remote: u8) -> TunnelSpec {
    let (local, remote) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, remote));
    Draft::new("tun0".parse().unwrap(), local, remote).into_spec().unwrap()
}

fn place(peer: u32) -> Place {
    Place {
        peer,
        device_mtu: 1476,
        device_mac: [2; 6],
        peer_mac: [4; 6],
        next_hop: Some(NextHop { ifindex: 1, address: Ipv4Addr::new(192, 0, 2, 254).into() }),
        neighbour_known: true,
        path_mtu: 1500,
        ..Place::default()
    }
}

fn table(tunnels: &[(&TunnelSpec, Place)]) -> Table {
    Table::of(tunnels.iter().map(|(spec, place)| Member { spec, place: *place, wanted: true }))
}

#[test]
fn the_maps_say_what_the_table_says() {
    in_namespace("the_maps_say_what_the_table_says", |_wire| {
        let mut fastpath = Fastpath::load_with(&options()).unwrap();
        let (first, second) = (spec(2), spec(3));
        let both = table(&[(&first, place(11)), (&second, place(12))]);
        fastpath.apply(&both).unwrap();
        let sorted = |mut peers: Vec<u32>| {
            peers.sort_unstable();
            peers
        };
        assert_eq!(sorted(fastpath.peers().unwrap()), [11, 12]);
        for (key, entry) in &both.ingress {
            assert_eq!(fastpath.ingress(key).unwrap(), Some(*entry));
        }
        assert_eq!(fastpath.tunnel_counters(12).unwrap(), Some(Default::default()));

        // One goes, the other moves.
        let moved = Place { path_mtu: 1400, ..place(11) };
        fastpath.apply(&table(&[(&first, moved)])).unwrap();
        assert_eq!(fastpath.peers().unwrap(), [11]);
        assert_eq!(fastpath.egress(11).unwrap().unwrap().path_mtu, 1400);
        assert_eq!(fastpath.ingress_keys().unwrap(), [Entry::key_of(&first).unwrap()]);
        assert_eq!(fastpath.tunnel_counters(12).unwrap(), None);

        fastpath.remove(11).unwrap();
        fastpath.remove(11).unwrap();
        assert_eq!(fastpath.peers().unwrap(), []);
        assert_eq!(fastpath.ingress_keys().unwrap(), []);
        assert_eq!((fastpath.egress(11).unwrap(), fastpath.tunnel_counters(11).unwrap()), (None, None));
    });
}

/// There are fewer slots than tunnels: whoever comes second is counted by the hash map.
#[test]
fn tunnels_of_one_slot_are_counted_each_for_itself() {
    in_namespace("tunnels_of_one_slot_are_counted_each_for_itself", |_wire| {
        let mut fastpath = Fastpath::load_with(&options()).unwrap();
        let program = fastpath.program_fd(Point::Underlay).unwrap();
        let (first, second, third) = (spec(2), spec(3), spec(4));
        let peers = [11, 11 + 2 * Slot::COUNT, 11 + 4 * Slot::COUNT];
        assert!(peers.iter().all(|peer| Slot::of(*peer) == Slot::of(11)));
        let receive = |remote| {
            let inner = ipv4_packet(17, [10, 0, 0, 1], [10, 0, 0, 2], &[0; 8]);
            let gre = [&[0, 0, 8, 0], &inner[..]].concat();
            let mut frame = ethernet(0x0800, &ipv4_packet(47, [192, 0, 2, remote], [192, 0, 2, 1], &gre));
            // To the loopback device's own address, where a test run takes place.
            frame[..6].fill(0);
            let ran = bpf::test_run(program.as_fd(), &frame, &mut [0; SK_BUFF]).unwrap();
            assert_eq!(ran.verdict, REDIRECT);
        };
        let received = |fastpath: &Fastpath| {
            peers.map(|peer| {
                let counters = fastpath.tunnel_counters(peer).unwrap()?;
                assert_eq!((counters.rx_bytes, counters.tx_packets), (28 * counters.rx_packets, 0));
                assert_eq!(counters.last_rx_ns > 0, counters.rx_packets > 0);
                let (carried, _) = fastpath.witness_maps().unwrap().carried(peer).unwrap();
                assert_eq!(carried, counters.rx_packets);
                Some(counters.rx_packets)
            })
        };

        let two = [(&first, place(peers[0])), (&second, place(peers[1]))];
        fastpath.apply(&table(&two[..1])).unwrap();
        fastpath.apply(&table(&two)).unwrap();
        [2, 3, 2, 3, 2].into_iter().for_each(receive);
        assert_eq!(received(&fastpath), [Some(3), Some(2), None]);

        // The slot is free, and who comes now does not begin where the first has ended.
        fastpath.apply(&table(&two[1..])).unwrap();
        receive(3);
        assert_eq!(received(&fastpath), [None, Some(3), None]);
        fastpath.apply(&table(&[two[1], (&third, place(peers[2]))])).unwrap();
        [4, 3].into_iter().for_each(receive);
        assert_eq!(received(&fastpath), [None, Some(4), Some(1)]);
        // And as it was, had by another.
        fastpath.apply(&table(&[(&third, place(peers[2]))])).unwrap();
        receive(4);
        assert_eq!(received(&fastpath), [None, None, Some(2)]);
    });
}

/// T18: saying the same once more does not call off what was asked for.
#[test]
fn t18_an_unchanged_tunnel_goes_on_declining() {
    in_namespace("t18_an_unchanged_tunnel_goes_on_declining", |_wire| {
        let mut fastpath = Fastpath::load_with(&options()).unwrap();
        let spec = spec(2);
        let table = table(&[(&spec, place(11))]);
        fastpath.apply(&table).unwrap();
        assert!(fastpath.decline_next(11, 5).unwrap());
        fastpath.apply(&table).unwrap();
        assert_eq!(fastpath.egress(11).unwrap().unwrap().decline_next, 5);
    });
}

#[test]
fn a_heartbeat_is_the_clocks_time() {
    in_namespace("a_heartbeat_is_the_clocks_time", |_wire| {
        let mut fastpath = Fastpath::load_with(&options()).unwrap();
        let beat = |fastpath: &Fastpath| fastpath.state().unwrap().heartbeat_ns;
        assert_eq!(beat(&fastpath), 0);
        fastpath.beat().unwrap();
        let first = beat(&fastpath);
        fastpath.beat().unwrap();
        assert!(first > 0 && beat(&fastpath) >= first);
    });
}

#[test]
fn the_addresses_of_this_host_are_replaced() {
    in_namespace("the_addresses_of_this_host_are_replaced", |_wire| {
        let mut fastpath = Fastpath::load_with(&options()).unwrap();
        let list = ["192.0.2.1", "2001:db8::1"].map(|address| address.parse().unwrap());
        fastpath.set_local_addresses(list).unwrap();
        fastpath.set_local_addresses(list).unwrap();
        assert_eq!(fastpath.local_addresses().unwrap(), list);
        fastpath.set_local_addresses([list[1]]).unwrap();
        assert_eq!(fastpath.local_addresses().unwrap(), [list[1]]);
    });
}
