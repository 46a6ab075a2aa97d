//! What userspace writes into the maps, and what it finds there later.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

mod support;

use std::net::Ipv4Addr;

use greway_fastpath::{Entry, Fastpath, Member, NextHop, Place, Table};
use greway_spec::{Draft, TunnelSpec};
use support::*;

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
