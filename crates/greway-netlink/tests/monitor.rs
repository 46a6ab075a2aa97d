//! What a monitor tells of changes that are made beside it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test may panic, and says when it was not run"
)]

mod namespace;

use greway_netlink::nftables::{Hook, Nftables, accept_only};
use greway_netlink::{Address, Event, IpPrefix, Monitor, Route, Sources};
use namespace::{eventually, in_namespace, tunnel_pair};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

fn readable(monitor: &Monitor) -> bool {
    let mut descriptors = [PollFd::new(monitor, PollFlags::IN)];
    poll(&mut descriptors, Some(&Timespec::default())).unwrap() == 1
}

/// Drains until all these events have come; the kernel tells of a carrier a moment after the change behind it.
fn expect(monitor: &Monitor, wanted: &[Event]) {
    let mut seen = Vec::new();
    let ask = || {
        seen.extend(monitor.drain().unwrap());
        (wanted.iter().all(|event| seen.contains(event)), seen.clone())
    };
    eventually(ask, |(found, _)| *found);
}

#[test]
fn links_addresses_and_routes_are_told() {
    in_namespace("links_addresses_and_routes_are_told", |netlink| {
        let monitor = Monitor::open(Sources::default()).unwrap();
        assert_eq!(monitor.sources(), Sources::default());
        assert!(!readable(&monitor));
        assert_eq!(monitor.drain().unwrap(), []);

        let pair = tunnel_pair(netlink);
        assert!(readable(&monitor));
        let (index, name) = (pair.index, "tun0".to_owned());
        let made =
            Event::LinkChanged { index, name: name.clone(), mtu: Some(1500), up: false, running: false };
        let carrying =
            Event::LinkChanged { index, name: name.clone(), mtu: Some(1500), up: true, running: true };
        expect(&monitor, &[made, carrying]);

        let local = "172.16.0.1".parse().unwrap();
        let address = Address::with_peer(local, "172.16.0.2".parse().unwrap(), 30);
        netlink.add_address(index, address).unwrap();
        expect(&monitor, &[Event::Address { index, address: local, added: true }, Event::Route]);

        let destination = IpPrefix::new("10.0.0.0".parse().unwrap(), 8).unwrap();
        netlink.add_route(&Route::on_link(destination, index)).unwrap();
        expect(&monitor, &[Event::Route]);

        netlink.delete_address(index, address).unwrap();
        expect(&monitor, &[Event::Address { index, address: local, added: false }]);
        netlink.delete_link(index).unwrap();
        expect(&monitor, &[Event::LinkRemoved { index, name }]);
        eventually(|| monitor.drain().unwrap(), Vec::is_empty);
        assert!(!readable(&monitor));
    });
}

#[test]
fn firewall_changes_are_told() {
    in_namespace("firewall_changes_are_told", |_| {
        let nftables = match Nftables::open() {
            Err(error) => return eprintln!("not run: firewall_changes_are_told: {error}"),
            Ok(nftables) => nftables,
        };
        let monitor = Monitor::open(Sources { firewall: true, xfrm: true, neighbours: false }).unwrap();
        assert!(monitor.sources().firewall);
        nftables.apply(&accept_only("test", &[Hook::Input], &[47])).unwrap();
        assert!(readable(&monitor));
        assert_eq!(monitor.drain().unwrap(), [Event::Firewall]);
    });
}

#[test]
fn lost_notifications_are_an_overrun() {
    in_namespace("lost_notifications_are_an_overrun", |netlink| {
        let monitor = Monitor::open(Sources::default()).unwrap();
        let index = tunnel_pair(netlink).index;
        // Far more than one receive buffer of 2 MiB holds.
        for number in 0..12_000_u32 {
            let destination = IpPrefix::host(std::net::Ipv4Addr::from(0x0a00_0000 + number).into());
            netlink.add_route(&Route::on_link(destination, index)).unwrap();
        }
        assert!(readable(&monitor));
        let events = monitor.drain().unwrap();
        assert!(events.contains(&Event::Overrun), "{events:?}");
        // It works on afterwards.
        netlink.delete_link(index).unwrap();
        expect(&monitor, &[Event::LinkRemoved { index, name: "tun0".to_owned() }]);
    });
}
