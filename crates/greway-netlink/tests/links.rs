//! Links in a network namespace of their own: made, read back, changed, moved, deleted.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test may panic, and says when it was not run"
)]

mod namespace;

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use greway_netlink::{Link, LinkChange, Netlink, NetlinkError, NetnsRef, VethEnd, VethSpec};
use namespace::{eventually, in_namespace, quiet_end, tunnel_pair};

fn names(netlink: &Netlink) -> Vec<String> {
    netlink.links().unwrap().into_iter().map(|link| link.name).collect()
}

fn by_index(netlink: &Netlink, index: u32) -> Link {
    netlink.link_by_index(index).unwrap().expect("the link is there")
}

#[test]
fn a_pair_is_as_it_was_asked_for() {
    in_namespace("a_pair_is_as_it_was_asked_for", |netlink| {
        let before = names(netlink);
        let end = VethEnd {
            mtu: Some(1476),
            group: Some(47),
            txqlen: Some(7),
            alias: Some("gre 100.0.1.100".to_owned()),
            ..quiet_end("tun0", 1)
        };
        let peer = VethEnd { mtu: Some(65535), address: Some([2, 0, 0, 0, 0, 2]), ..VethEnd::new("peer0") };
        let pair = netlink.create_veth(&VethSpec { end, peer, peer_netns: None }).unwrap();

        let tun0 = netlink.link_by_name("tun0").unwrap().unwrap();
        assert_eq!((tun0.index, tun0.peer_index), (pair.index, Some(pair.peer_index)));
        assert_eq!(tun0.kind.as_deref(), Some("veth"));
        assert_eq!((tun0.mtu, tun0.group, tun0.txqlen), (1476, 47, 7));
        assert_eq!(tun0.address, Some([2, 0, 0, 0, 0, 1]));
        assert_eq!(tun0.alias.as_deref(), Some("gre 100.0.1.100"));
        assert!(!tun0.arp() && !tun0.multicast() && !tun0.up && !tun0.running && !tun0.loopback());
        assert_eq!((tun0.link_netns_id, tun0.master), (None, None));
        assert_eq!((tun0.tx_queues, tun0.rx_queues), (1, 1));

        let peer0 = by_index(netlink, pair.peer_index);
        assert_eq!((peer0.name.as_str(), peer0.peer_index), ("peer0", Some(pair.index)));
        assert_eq!((peer0.mtu, peer0.alias.as_deref()), (65535, None));
        assert!(peer0.arp() && peer0.multicast());
        assert_eq!((peer0.tx_queues, peer0.rx_queues), (1, 1));

        for index in [pair.index, pair.peer_index] {
            netlink.change_link(index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
        }
        assert!(by_index(netlink, pair.index).up && by_index(netlink, pair.index).running);
        // The peer was left its link-local address, which shows that tun0 was kept from having one.
        let addresses = |index| netlink.addresses(Some(index)).unwrap();
        if std::path::Path::new("/proc/sys/net/ipv6").exists() {
            eventually(|| addresses(pair.peer_index), |found| found.len() == 1);
        }
        assert_eq!(addresses(pair.index), []);

        netlink.delete_link(pair.index).unwrap();
        assert_eq!(names(netlink), before);
        assert!(netlink.delete_link(pair.index).unwrap_err().is_not_found());
    });
}

#[test]
fn a_name_in_use_is_refused_and_nothing_is_left() {
    in_namespace("a_name_in_use_is_refused_and_nothing_is_left", |netlink| {
        tunnel_pair(netlink);
        let before = names(netlink);
        for (end, peer) in [("tun0", "other"), ("other", "tun0"), ("lo", "other")] {
            let spec = VethSpec { end: VethEnd::new(end), peer: VethEnd::new(peer), peer_netns: None };
            let error = netlink.create_veth(&spec).unwrap_err();
            assert!(error.is_exists(), "{error}");
            assert!(error.to_string().starts_with(&format!("cannot create veth pair {end} and {peer}: ")));
        }
        assert_eq!(names(netlink), before);
    });
}

#[test]
fn a_pair_that_cannot_be_finished_is_deleted() {
    in_namespace("a_pair_that_cannot_be_finished_is_deleted", |netlink| {
        let before = names(netlink);
        // IFALIASZ is 256; the kernel refuses this only after both ends are there.
        let peer = VethEnd { alias: Some("x".repeat(300)), ..VethEnd::new("peer0") };
        let spec = VethSpec { end: VethEnd::new("tun0"), peer, peer_netns: None };
        let error = netlink.create_veth(&spec).unwrap_err();
        assert!(matches!(error, NetlinkError::Refused { operation: "change", .. }), "{error:?}");
        assert_eq!(names(netlink), before);
    });
}

#[test]
fn links_are_found_by_name_and_index_or_not_at_all() {
    in_namespace("links_are_found_by_name_and_index_or_not_at_all", |netlink| {
        let lo = netlink.link_by_name("lo").unwrap().unwrap();
        assert!(lo.loopback() && lo.kind.is_none());
        assert_eq!(netlink.link_by_index(lo.index).unwrap().unwrap().name, "lo");
        for absent in ["", "nosuch", "a-name-longer-than-fifteen", "l\0o"] {
            assert_eq!(netlink.link_by_name(absent).unwrap(), None, "{absent:?}");
        }
        assert_eq!(netlink.link_by_index(0).unwrap(), None);
        assert_eq!(netlink.link_by_index(123_456).unwrap(), None);
    });
}

#[test]
fn a_link_is_changed_in_place() {
    in_namespace("a_link_is_changed_in_place", |netlink| {
        let pair = tunnel_pair(netlink);
        let down = LinkChange { up: Some(false), ..LinkChange::default() };
        netlink.change_link(pair.index, &down).unwrap();
        let change = LinkChange {
            name: Some("gre1"),
            mtu: Some(1400),
            address: Some([2, 0, 0, 0, 0, 9]),
            alias: Some("renamed"),
            group: Some(5),
            arp: Some(true),
            multicast: Some(true),
            txqlen: Some(3),
            up: Some(true),
            ..LinkChange::default()
        };
        netlink.change_link(pair.index, &change).unwrap();
        let link = by_index(netlink, pair.index);
        assert_eq!((link.name.as_str(), link.mtu, link.group, link.txqlen), ("gre1", 1400, 5, 3));
        assert_eq!(link.address, Some([2, 0, 0, 0, 0, 9]));
        assert_eq!(link.alias.as_deref(), Some("renamed"));
        assert!(link.arp() && link.multicast() && link.up);

        netlink.change_link(pair.index, &LinkChange::default()).unwrap();
        assert_eq!(by_index(netlink, pair.index), link);
        let long = LinkChange { name: Some("sixteen-letters-"), ..LinkChange::default() };
        assert!(matches!(netlink.change_link(pair.index, &long), Err(NetlinkError::Invalid { .. })));
        let unset = LinkChange { alias: Some(""), ..LinkChange::default() };
        netlink.change_link(pair.index, &unset).unwrap();
        assert_eq!(by_index(netlink, pair.index).alias, None);
    });
}

#[test]
fn a_group_is_deleted_at_once_and_only_it() {
    in_namespace("a_group_is_deleted_at_once_and_only_it", |netlink| {
        let before = names(netlink);
        for number in 0..20_u8 {
            let end = VethEnd { group: Some(470), ..quiet_end(&format!("g{number}"), number) };
            let peer = quiet_end(&format!("p{number}"), 100 + number);
            netlink.create_veth(&VethSpec { end, peer, peer_netns: None }).unwrap();
        }
        tunnel_pair(netlink);
        assert_eq!(netlink.links().unwrap().len(), before.len() + 42);
        netlink.delete_group(470).unwrap();
        assert_eq!(netlink.links().unwrap().len(), before.len() + 2);
        assert!(netlink.delete_group(470).unwrap_err().is_not_found());
        assert!(matches!(netlink.delete_group(0), Err(NetlinkError::Invalid { .. })));
        assert_eq!(netlink.links().unwrap().len(), before.len() + 2);
    });
}

/// Runs `body` here with a connection into, and a descriptor of, a second namespace.
fn with_other(body: impl FnOnce(&Netlink, &File)) {
    let (send, receive) = mpsc::channel();
    let other = std::thread::spawn(move || {
        greway_linux::netns::unshare_net().unwrap();
        send.send((Netlink::open().unwrap(), File::open("/proc/thread-self/ns/net").unwrap())).unwrap();
    });
    let (netlink, file) = receive.recv().unwrap();
    other.join().unwrap();
    body(&netlink, &file);
}

#[test]
fn a_peer_is_made_in_another_namespace() {
    in_namespace("a_peer_is_made_in_another_namespace", |netlink| {
        with_other(|other, file| {
            let netns = Some(NetnsRef::Fd(file.as_fd()));
            let peer = VethEnd { addr_gen_mode_none: false, mtu: Some(9000), ..quiet_end("peer0", 2) };
            let spec = VethSpec { end: quiet_end("tun0", 1), peer, peer_netns: netns };
            let pair = netlink.create_veth(&spec).unwrap();
            assert_eq!(netlink.link_by_name("peer0").unwrap(), None);
            let tun0 = by_index(netlink, pair.index);
            assert!(tun0.link_netns_id.is_some());
            let peer0 = other.link_by_name("peer0").unwrap().unwrap();
            assert_eq!((peer0.index, peer0.mtu, peer0.arp()), (pair.peer_index, 9000, false));

            let again =
                VethSpec { peer: VethEnd { alias: Some("a".to_owned()), ..VethEnd::new("b") }, ..spec };
            assert!(matches!(netlink.create_veth(&again), Err(NetlinkError::Invalid { .. })));

            netlink.delete_link(pair.index).unwrap();
            assert_eq!(other.link_by_name("peer0").unwrap(), None);
        });
    });
}

#[test]
fn a_link_is_moved_renamed_and_set_up_in_one_step() {
    in_namespace("a_link_is_moved_renamed_and_set_up_in_one_step", |netlink| {
        with_other(|other, file| {
            let pair = tunnel_pair(netlink);
            let change = LinkChange {
                netns: Some(NetnsRef::Fd(file.as_fd())),
                name: Some("moved"),
                up: Some(true),
                ..LinkChange::default()
            };
            netlink.change_link(pair.peer_index, &change).unwrap();
            assert_eq!(netlink.link_by_name("peer0").unwrap(), None);
            assert!(other.link_by_name("moved").unwrap().unwrap().up);
        });
    });
}

#[test]
fn a_list_is_whole_although_links_come_and_go() {
    in_namespace("a_list_is_whole_although_links_come_and_go", |netlink| {
        tunnel_pair(netlink);
        let second = Netlink::open().unwrap();
        let done = AtomicBool::new(false);
        let done = &done;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..40 {
                    for number in 0..5_u8 {
                        let end = VethEnd { group: Some(9), ..quiet_end(&format!("e{number}"), number) };
                        let peer =
                            VethEnd { group: Some(9), ..quiet_end(&format!("f{number}"), 50 + number) };
                        second.create_veth(&VethSpec { end, peer, peer_netns: None }).unwrap();
                    }
                    second.delete_group(9).unwrap();
                }
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Acquire) {
                let mut found = names(netlink);
                for fixed in ["lo", "peer0", "tun0"] {
                    assert_eq!(found.iter().filter(|name| *name == fixed).count(), 1, "{fixed} in {found:?}");
                }
                let all = found.len();
                found.sort_unstable();
                found.dedup();
                assert_eq!(found.len(), all, "{found:?}");
            }
        });
    });
}
