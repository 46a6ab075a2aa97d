//! Our small tables, read back and tried on packets.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test may panic, and says when it was not run"
)]

mod namespace;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::Duration;

use greway_netlink::nftables::{
    BaseChain, Change, Family, Hook, Nftables, Policy, RuleCounter, Snat, TableId, accept_only, ingress_drop,
    snat,
};
use greway_netlink::{Address, IpPrefix, Link, LinkChange, Netlink, NetnsRef, VethEnd, VethSpec};
use namespace::{eventually, in_namespace, tunnel_pair};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn in_filtered_namespace(test: &str, body: impl FnOnce(&Netlink, &Nftables) + Send) {
    in_namespace(test, |netlink| match Nftables::open() {
        Err(error) => eprintln!("not run: {test}: {error}"),
        Ok(nftables) => body(netlink, &nftables),
    });
}

fn masquerade(except: &str) -> Vec<Change> {
    let changes = snat(&Snat {
        table: "greway-tun0".to_owned(),
        comment: Some("greway".to_owned()),
        from: IpPrefix::new(ip("10.10.1.0"), 24).unwrap(),
        except_oif: except.to_owned(),
        to: ip("10.0.0.1"),
    });
    changes.unwrap()
}

fn only(chains: &[BaseChain]) -> &BaseChain {
    assert_eq!(chains.len(), 1, "{chains:?}");
    &chains[0]
}

#[test]
fn a_snat_table_is_listed_replaced_and_removed() {
    in_filtered_namespace("a_snat_table_is_listed_replaced_and_removed", |_, nftables| {
        let table = TableId::new(Family::Ip, "greway-tun0");
        assert_eq!((nftables.base_chains().unwrap(), nftables.tables().unwrap()), (vec![], vec![]));
        // Twice: the second time it takes the place of the first.
        for _ in 0..2 {
            nftables.apply(&masquerade("tun0")).unwrap();
            let chains = nftables.base_chains().unwrap();
            let chain = only(&chains);
            assert_eq!(
                (&chain.table, chain.name.as_str(), chain.kind.as_str()),
                (&table, "postrouting", "nat")
            );
            assert_eq!((chain.hook, chain.priority, chain.policy), (Hook::Postrouting, 100, Policy::Accept));
            assert_eq!((chain.rules, chain.devices.as_slice()), (1, &[][..]));
        }
        let tables = nftables.tables().unwrap();
        assert_eq!(tables.len(), 1);
        assert_eq!((&tables[0].id, tables[0].comment.as_deref()), (&table, Some("greway")));
        let counters = nftables.rule_counters(&table, "postrouting").unwrap();
        assert_eq!(counters.len(), 1);
        assert_eq!((counters[0].comment.as_deref(), counters[0].packets), (Some("greway"), 0));

        assert!(nftables.table_exists(&table).unwrap());
        assert!(!nftables.table_exists(&TableId::new(Family::Ip6, "greway-tun0")).unwrap());
        assert!(nftables.delete_table(&table).unwrap());
        assert!(!nftables.delete_table(&table).unwrap());
        assert!(!nftables.table_exists(&table).unwrap());
        assert_eq!(nftables.rule_counters(&table, "postrouting").unwrap(), []);
        assert_eq!((nftables.base_chains().unwrap(), nftables.tables().unwrap()), (vec![], vec![]));
    });
}

#[test]
fn ipv6_has_its_own_family() {
    in_filtered_namespace("ipv6_has_its_own_family", |_, nftables| {
        let changes = snat(&Snat {
            table: "six".to_owned(),
            comment: None,
            from: IpPrefix::new(ip("2001:db8:1::"), 61).unwrap(),
            except_oif: "tun0".to_owned(),
            to: ip("2001:db8::1"),
        });
        nftables.apply(&changes.unwrap()).unwrap();
        let chains = nftables.base_chains().unwrap();
        assert_eq!((only(&chains).table.family, only(&chains).rules), (Family::Ip6, 1));
        assert_eq!(nftables.tables().unwrap()[0].comment, None);
    });
}

#[test]
fn a_transaction_is_taken_or_left_as_a_whole() {
    in_filtered_namespace("a_transaction_is_taken_or_left_as_a_whole", |_, nftables| {
        let table = TableId::new(Family::Inet, "test");
        let mut changes = accept_only("test", &[Hook::Input], &[]);
        // inet has no egress hook.
        changes.extend(accept_only("other", &[Hook::Egress], &[]));
        let error = nftables.apply(&changes).unwrap_err();
        assert!(error.to_string().starts_with("cannot add chain inet other egress: "), "{error}");
        assert!(!nftables.table_exists(&table).unwrap());

        nftables.apply(&[]).unwrap();
        let add = Change::AddTable { table: table.clone(), comment: None };
        nftables.apply(std::slice::from_ref(&add)).unwrap();
        let error = nftables.apply(&[add]).unwrap_err();
        assert!(
            error.is_exists() && error.to_string().starts_with("cannot add table inet test: "),
            "{error}"
        );
        assert!(nftables.delete_table(&table).unwrap());
        assert_eq!(nftables.tables().unwrap(), []);
    });
}

/// Addresses on both ends and fixed neighbours, all in one namespace: packets to 10.0.0.2 arrive at peer0.
fn sender(netlink: &Netlink) -> UdpSocket {
    let pair = tunnel_pair(netlink);
    netlink.add_address(pair.index, Address::new(ip("10.0.0.1"), 24)).unwrap();
    let socket = UdpSocket::bind("10.0.0.1:0").unwrap();
    socket.connect("10.0.0.2:9").unwrap();
    socket
}

#[test]
fn what_arrives_on_the_device_is_dropped_and_counted() {
    in_filtered_namespace("what_arrives_on_the_device_is_dropped_and_counted", |netlink, nftables| {
        let socket = sender(netlink);
        nftables.apply(&ingress_drop("greway-drop", "peer0", -500, Some("greway"))).unwrap();
        let table = TableId::new(Family::Netdev, "greway-drop");
        let chains = nftables.base_chains().unwrap();
        let chain = only(&chains);
        assert_eq!((&chain.table, chain.hook, chain.policy), (&table, Hook::Ingress, Policy::Drop));
        assert_eq!((chain.priority, chain.devices.as_slice()), (-500, &["peer0".to_owned()][..]));

        for _ in 0..20 {
            socket.send(&[0; 72]).unwrap();
        }
        let counted = || nftables.rule_counters(&table, "ingress").unwrap();
        let counters = eventually(counted, |counters| counters[0].packets >= 20);
        assert_eq!((counters.len(), counters[0].packets, counters[0].bytes), (1, 20, 2000));
        let tun0 = netlink.link_by_name("tun0").unwrap().unwrap();
        assert_eq!(tun0.statistics.tx_packets, 20);
        let peer0 = netlink.link_by_name("peer0").unwrap().unwrap();
        assert_eq!((peer0.statistics.rx_packets, peer0.statistics.rx_bytes), (20, 20 * 114));

        netlink.delete_link(tun0.index).unwrap();
        assert!(nftables.table_exists(&table).unwrap(), "the table outlives the device");
        assert!(nftables.delete_table(&table).unwrap());
        assert_eq!((nftables.base_chains().unwrap(), nftables.tables().unwrap()), (vec![], vec![]));
    });
}

#[test]
fn only_the_accepted_protocol_leaves() {
    in_filtered_namespace("only_the_accepted_protocol_leaves", |netlink, nftables| {
        let socket = sender(netlink);
        let table = TableId::new(Family::Inet, "host");
        let output = || nftables.rule_counters(&table, "output").unwrap();
        let packets =
            |counters: Vec<RuleCounter>| counters.iter().map(|rule| rule.packets).collect::<Vec<_>>();

        nftables.apply(&accept_only("host", &[Hook::Input, Hook::Output], &[47])).unwrap();
        assert_eq!(nftables.base_chains().unwrap().len(), 2);
        assert!(nftables.base_chains().unwrap().iter().all(|chain| chain.policy == Policy::Drop));
        assert_eq!(socket.send(&[0; 8]).unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert_eq!(packets(output()), [1, 0]);

        nftables.apply(&accept_only("host", &[Hook::Input, Hook::Output], &[47, 17])).unwrap();
        assert_eq!(socket.send(&[0; 8]).unwrap(), 8);
        assert_eq!(packets(output()), [1, 0, 1]);
        let comments: Vec<_> = output().into_iter().filter_map(|rule| rule.comment).collect();
        assert_eq!(comments, ["all", "protocol 47", "protocol 17"]);
        assert!(nftables.delete_table(&table).unwrap());
    });
}

/// A receiver in a namespace of its own at 10.0.0.2, which also knows 10.10.1.0/24 to be on its link.
struct Receiver {
    socket: UdpSocket,
}

impl Receiver {
    fn behind(netlink: &Netlink, near: &str) -> Self {
        let (ready, wait) = mpsc::channel();
        let (go_on, resume) = mpsc::channel::<()>();
        let far = std::thread::spawn(move || {
            greway_linux::netns::unshare_net().unwrap();
            ready.send(std::fs::File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
            resume.recv().unwrap();
            let netlink = Netlink::open().unwrap();
            let index = netlink.link_by_name("far").unwrap().unwrap().index;
            netlink.change_link(index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
            netlink.add_address(index, Address::new(ip("10.0.0.2"), 24)).unwrap();
            netlink.add_address(index, Address::new(ip("10.10.1.2"), 24)).unwrap();
            let socket = UdpSocket::bind("10.0.0.2:4700").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            socket
        });
        let netns = wait.recv().unwrap();
        let end = VethEnd::new(near);
        let peer_netns = Some(NetnsRef::Fd(netns.as_fd()));
        let pair = netlink.create_veth(&VethSpec { end, peer: VethEnd::new("far"), peer_netns }).unwrap();
        go_on.send(()).unwrap();
        let socket = far.join().unwrap();
        netlink.change_link(pair.index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
        netlink.add_address(pair.index, Address::new(ip("10.0.0.1"), 24)).unwrap();
        netlink.add_address(pair.index, Address::new(ip("10.10.1.100"), 24)).unwrap();
        eventually(|| netlink.link_by_index(pair.index).unwrap().unwrap(), Link::operational);
        Self { socket }
    }

    /// Sends one datagram from 10.10.1.100 and returns the source it arrives with.
    fn source_seen(&self) -> IpAddr {
        let sender = UdpSocket::bind("10.10.1.100:0").unwrap();
        sender.send_to(b"hello", SocketAddr::new(ip("10.0.0.2"), 4700)).unwrap();
        let (length, from) = self.socket.recv_from(&mut [0; 16]).unwrap();
        assert_eq!(length, 5);
        from.ip()
    }
}

#[test]
fn the_source_is_rewritten_except_into_the_tunnel() {
    in_filtered_namespace("the_source_is_rewritten_except_into_the_tunnel", |netlink, nftables| {
        let receiver = Receiver::behind(netlink, "lan0");
        let table = TableId::new(Family::Ip, "greway-tun0");
        assert_eq!(receiver.source_seen(), ip("10.10.1.100"));
        nftables.apply(&masquerade("lan0")).unwrap();
        assert_eq!(receiver.source_seen(), ip("10.10.1.100"));
        nftables.apply(&masquerade("tun0")).unwrap();
        assert_eq!(receiver.source_seen(), ip("10.0.0.1"));
        assert_eq!(nftables.rule_counters(&table, "postrouting").unwrap()[0].packets, 1);
        assert!(nftables.delete_table(&table).unwrap());
        assert_eq!(receiver.source_seen(), ip("10.10.1.100"));
    });
}
