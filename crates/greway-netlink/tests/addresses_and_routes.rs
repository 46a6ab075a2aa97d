//! Addresses and routes on a pair, compared with what `ip` shows for the same words (G60 to G74).

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test may panic, and says when it was not run"
)]

mod namespace;

use std::net::IpAddr;

use greway_netlink::{
    Address, Family, IpPrefix, LinkChange, NeighbourState, Netlink, Route, RouteFilter, RouteKind,
    RouteOptions, protocol, table,
};
use namespace::{eventually, in_namespace, tunnel_pair};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> IpPrefix {
    let (address, length) = text.split_once('/').unwrap();
    IpPrefix::new(ip(address), length.parse().unwrap()).unwrap()
}

fn routes(netlink: &Netlink, table: u32, ifindex: u32) -> Vec<Route> {
    let filter = RouteFilter { table: Some(table), ifindex: Some(ifindex), protocol: None };
    netlink.routes(Family::Ipv4, &filter).unwrap()
}

#[test]
fn peer_addresses_give_the_routes_that_ip_shows() {
    in_namespace("peer_addresses_give_the_routes_that_ip_shows", |netlink| {
        let tun0 = tunnel_pair(netlink).index;
        let local = ip("172.16.0.1");
        let cases = [
            (
                "G60",
                Address::with_peer(local, ip("172.16.0.2"), 30),
                "172.16.0.1 peer 172.16.0.2/30",
                "172.16.0.0/30",
            ),
            (
                "G62",
                Address::with_peer(local, ip("172.16.0.2"), 32),
                "172.16.0.1 peer 172.16.0.2/32",
                "172.16.0.2/32",
            ),
            (
                "G64",
                Address::with_peer(local, ip("172.16.0.6"), 32),
                "172.16.0.1 peer 172.16.0.6/32",
                "172.16.0.6/32",
            ),
            ("G65", Address::new(local, 30), "172.16.0.1/30", "172.16.0.0/30"),
        ];
        for (golden, address, shown, connected) in cases {
            netlink.add_address(tun0, address).unwrap();
            let found = netlink.addresses(Some(tun0)).unwrap();
            assert_eq!(found.len(), 1, "{golden}");
            assert_eq!(
                (found[0].address, found[0].address.to_string().as_str()),
                (address, shown),
                "{golden}"
            );
            assert_eq!((found[0].broadcast, found[0].scope), (None, 0), "{golden}");
            assert_eq!(found[0].label.as_deref(), Some("tun0"), "{golden}");

            // G04: 172.16.0.0/30 dev tun0 proto kernel scope link src 172.16.0.1
            let main = routes(netlink, table::MAIN, tun0);
            assert_eq!(main.len(), 1, "{golden}");
            let route = Route {
                protocol: protocol::KERNEL,
                scope: Some(253),
                source: Some(local),
                ..Route::on_link(prefix(connected), tun0)
            };
            assert_eq!(main[0], route, "{golden}");

            // G68
            let error = netlink.add_address(tun0, address).unwrap_err();
            assert!(error.is_exists(), "{golden}: {error}");
            netlink.replace_address(tun0, address).unwrap();
            netlink.delete_address(tun0, address).unwrap();
            assert_eq!(netlink.addresses(Some(tun0)).unwrap(), [], "{golden}");
            assert_eq!(routes(netlink, table::MAIN, tun0), [], "{golden}");
            assert!(netlink.delete_address(tun0, address).unwrap_err().is_not_found(), "{golden}");
        }
    });
}

#[test]
fn the_local_table_has_the_address_and_the_broadcast_of_the_prefix() {
    in_namespace("the_local_table_has_the_address_and_the_broadcast_of_the_prefix", |netlink| {
        let tun0 = tunnel_pair(netlink).index;
        let address = Address::with_peer(ip("172.16.0.1"), ip("172.16.0.2"), 30);
        netlink.add_address(tun0, address).unwrap();
        let mut found: Vec<_> = routes(netlink, table::LOCAL, tun0)
            .into_iter()
            .map(|route| (route.destination.to_string(), route.kind))
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        // G74
        assert_eq!(
            found,
            [("172.16.0.1".to_owned(), RouteKind::Local), ("172.16.0.3".to_owned(), RouteKind::Broadcast)]
        );
    });
}

#[test]
fn an_address_on_a_link_that_is_down_gets_its_route_later() {
    in_namespace("an_address_on_a_link_that_is_down_gets_its_route_later", |netlink| {
        let tun0 = tunnel_pair(netlink).index;
        netlink.change_link(tun0, &LinkChange { up: Some(false), ..LinkChange::default() }).unwrap();
        netlink.add_address(tun0, Address::new(ip("172.16.0.1"), 30)).unwrap();
        assert_eq!(routes(netlink, table::MAIN, tun0), []);
        netlink.change_link(tun0, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
        eventually(|| routes(netlink, table::MAIN, tun0).len(), |count| *count == 1);
    });
}

#[test]
fn ipv6_addresses_have_both_forms_too() {
    in_namespace("ipv6_addresses_have_both_forms_too", |netlink| {
        let tun0 = tunnel_pair(netlink).index;
        for address in [
            Address::new(ip("2001:db8::1"), 64),
            Address::with_peer(ip("2001:db8:1::1"), ip("2001:db8:1::2"), 128),
        ] {
            match netlink.add_address(tun0, address) {
                Err(error) if error.is_unsupported() || error.is_permission() => {
                    eprintln!("not run: ipv6_addresses_have_both_forms_too: {error}");
                    return;
                }
                outcome => outcome.unwrap(),
            }
            let found = netlink.addresses(Some(tun0)).unwrap();
            assert_eq!(found.iter().map(|entry| entry.address).collect::<Vec<_>>(), [address]);
            netlink.delete_address(tun0, address).unwrap();
        }
        let route = Route { metric: Some(7), ..Route::on_link(prefix("2001:db8:9::/48"), tun0) };
        netlink.add_route(&route).unwrap();
        let filter = RouteFilter { ifindex: Some(tun0), protocol: Some(protocol::BOOT), table: None };
        assert_eq!(netlink.routes(Family::Ipv6, &filter).unwrap(), std::slice::from_ref(&route));
        let resolved = netlink.route_to(ip("2001:db8:9::5"), &RouteOptions::default()).unwrap();
        assert_eq!((resolved.kind, resolved.ifindex), (RouteKind::Unicast, tun0));
        let nowhere = netlink.route_to(ip("2001:db8:ffff::5"), &RouteOptions::default()).unwrap();
        assert_eq!(nowhere.kind, RouteKind::Unreachable);
        netlink.delete_route(&route).unwrap();

        for (destination, kind) in [
            ("2001:db8:a::/48", RouteKind::Blackhole),
            ("2001:db8:b::/48", RouteKind::Unreachable),
            ("2001:db8:c::/48", RouteKind::Prohibit),
        ] {
            let destination = prefix(destination);
            netlink.add_route(&Route { kind, ..Route::to(destination) }).unwrap();
            let resolved = netlink.route_to(destination.address, &RouteOptions::default()).unwrap();
            assert_eq!(resolved.kind, kind, "{destination}");
        }
    });
}

#[test]
fn mixed_families_and_long_prefixes_are_not_sent() {
    in_namespace("mixed_families_and_long_prefixes_are_not_sent", |netlink| {
        let tun0 = tunnel_pair(netlink).index;
        let mixed = Address::with_peer(ip("10.0.0.1"), ip("::1"), 32);
        let long = Address::new(ip("10.0.0.1"), 33);
        for address in [mixed, long] {
            let error = netlink.add_address(tun0, address).unwrap_err();
            assert_eq!(error.errno(), None, "{error}");
        }
        let route = Route { source: Some(ip("::1")), ..Route::on_link(prefix("10.0.0.0/8"), tun0) };
        assert_eq!(netlink.add_route(&route).unwrap_err().errno(), None);
        let options = RouteOptions { source: Some(ip("::1")), ..RouteOptions::default() };
        assert_eq!(netlink.route_to(ip("10.0.0.1"), &options).unwrap_err().errno(), None);
    });
}

#[test]
fn routes_are_added_replaced_looked_up_and_deleted() {
    in_namespace("routes_are_added_replaced_looked_up_and_deleted", |netlink| {
        let pair = tunnel_pair(netlink);
        netlink.add_address(pair.index, Address::new(ip("172.16.0.1"), 30)).unwrap();
        let route = Route::on_link(prefix("10.10.2.0/24"), pair.index);
        netlink.add_route(&route).unwrap();
        let error = netlink.add_route(&route).unwrap_err();
        assert!(error.is_exists(), "{error}");

        let look = |destination: &str| netlink.route_to(ip(destination), &RouteOptions::default()).unwrap();
        // G71
        let found = look("10.10.2.100");
        assert_eq!((found.kind, found.ifindex, found.via), (RouteKind::Unicast, pair.index, None));
        assert_eq!((found.source, found.mtu, found.table), (Some(ip("172.16.0.1")), None, table::MAIN));
        assert_eq!(look("172.16.0.1").kind, RouteKind::Local);
        assert_eq!(look("172.16.0.3").kind, RouteKind::Broadcast);

        let through = Route {
            mtu: Some(1400),
            protocol: protocol::STATIC,
            source: Some(ip("172.16.0.1")),
            ..Route::through(prefix("10.10.2.0/24"), ip("172.16.0.2"))
        };
        netlink.replace_route(&through).unwrap();
        let found = look("10.10.2.100");
        assert_eq!((found.via, found.mtu), (Some(ip("172.16.0.2")), Some(1400)));
        let filter = RouteFilter { protocol: Some(protocol::STATIC), ..RouteFilter::default() };
        let expected = Route { ifindex: Some(pair.index), scope: Some(0), ..through.clone() };
        assert_eq!(netlink.routes(Family::Ipv4, &filter).unwrap(), [expected]);

        // Ours was replaced: deleting what it was finds nothing and leaves the other alone.
        assert!(netlink.delete_route(&route).unwrap_err().is_not_found());
        netlink.delete_route(&through).unwrap();
        assert_eq!(look("10.10.2.100").kind, RouteKind::Unreachable);
    });
}

#[test]
fn metric_table_and_default_routes_read_back() {
    in_namespace("metric_table_and_default_routes_read_back", |netlink| {
        let tun0 = tunnel_pair(netlink).index;
        let marked = Route { table: 4711, metric: Some(50), ..Route::on_link(IpPrefix::IPV4_DEFAULT, tun0) };
        let read = |table| {
            netlink.routes(Family::Ipv4, &RouteFilter { table: Some(table), ..RouteFilter::default() })
        };
        assert_eq!(read(4711).unwrap(), []);
        netlink.add_route(&marked).unwrap();
        assert_eq!(read(4711).unwrap(), [Route { scope: Some(253), ..marked.clone() }]);
        netlink.add_route(&Route { metric: Some(60), ..marked.clone() }).unwrap();
        assert_eq!(read(4711).unwrap().len(), 2);
        netlink.delete_route(&marked).unwrap();
        assert_eq!(read(4711).unwrap().len(), 1);
    });
}

#[test]
fn dead_ends_are_answers() {
    in_namespace("dead_ends_are_answers", |netlink| {
        let tun0 = tunnel_pair(netlink).index;
        netlink.add_address(tun0, Address::new(ip("172.16.0.1"), 30)).unwrap();
        for (destination, kind) in [
            ("10.1.0.0/16", RouteKind::Blackhole),
            ("10.2.0.0/16", RouteKind::Unreachable),
            ("10.3.0.0/16", RouteKind::Prohibit),
        ] {
            let destination = prefix(destination);
            let route = Route { kind, ..Route::to(destination) };
            netlink.add_route(&route).unwrap();
            let resolved = netlink.route_to(destination.address, &RouteOptions::default()).unwrap();
            assert_eq!((resolved.kind, resolved.ifindex), (kind, 0), "{route}");
        }
        let resolved = netlink.route_to(ip("192.0.2.1"), &RouteOptions::default()).unwrap();
        assert_eq!(resolved.kind, RouteKind::Unreachable);
        // Neither can a packet leave with a source that is not ours.
        let options = RouteOptions { source: Some(ip("192.0.2.9")), ..RouteOptions::default() };
        let resolved = netlink.route_to(ip("172.16.0.2"), &options).unwrap();
        assert_eq!(resolved.kind, RouteKind::Unreachable);
        let options = RouteOptions { oif: Some(123_456), ..RouteOptions::default() };
        assert!(netlink.route_to(ip("172.16.0.2"), &options).unwrap_err().is_not_found());
    });
}

#[test]
fn a_refusal_carries_the_kernels_words() {
    in_namespace("a_refusal_carries_the_kernels_words", |netlink| {
        let tun0 = tunnel_pair(netlink).index;
        netlink.change_link(tun0, &LinkChange { up: Some(false), ..LinkChange::default() }).unwrap();
        let error = netlink.add_route(&Route::on_link(prefix("10.0.0.0/8"), tun0)).unwrap_err();
        assert_eq!(error.kernel_message(), Some("Device for nexthop is not up"));
        let expected = format!(
            "cannot add route 10.0.0.0/8 on interface {tun0}: Device for nexthop is not up: \
             Network is down (os error 100)"
        );
        assert_eq!(error.to_string(), expected);
        let error = netlink.add_route(&Route::through(prefix("10.0.0.0/8"), ip("192.0.2.1"))).unwrap_err();
        assert_eq!(error.kernel_message(), Some("Nexthop has invalid gateway"));
    });
}

#[test]
fn static_neighbours() {
    in_namespace("static_neighbours", |netlink| {
        let tun0 = tunnel_pair(netlink).index;
        netlink.change_link(tun0, &LinkChange { arp: Some(true), ..LinkChange::default() }).unwrap();
        let mac = [2, 0, 100, 0, 2, 100];
        netlink.set_neighbour(tun0, ip("172.16.0.2"), mac).unwrap();
        let found = netlink.neighbours(tun0).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].address, found[0].link_address), (ip("172.16.0.2"), Some(mac)));
        assert_eq!((found[0].state, found[0].index), (NeighbourState::Permanent, tun0));
        netlink.delete_neighbour(tun0, ip("172.16.0.2")).unwrap();
        eventually(|| netlink.neighbours(tun0).unwrap(), Vec::is_empty);
        assert!(netlink.delete_neighbour(tun0, ip("172.16.0.9")).unwrap_err().is_not_found());
    });
}
