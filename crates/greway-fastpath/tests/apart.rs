//! A pair whose ends are in two network namespaces: the tunnel device is handed its packets past the pair, where it
//! counts them all the same.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

#[path = "support/carries.rs"]
mod carries;
mod support;
#[path = "support/tunnel.rs"]
mod tunnel;

use std::{net::SocketAddr, os::fd::AsFd as _};

use carries::{BULK, every_mode, of_mode, state};
use greway_fastpath::{Member, Place, Table, counts_what_is_handed_over};
use greway_netlink::{LinkChange, NetnsRef};
use greway_testbed::{Capture, Host, LinkOptions, PingOptions, ping, poll_until, privilege, tcp::transfer};
use support::not_run;
use tunnel::{PATIENCE, Tunnel, hosts, inner4, inner6};

/// Packets received and sent, as `ip -s link` has them.
fn counted(host: &Host, device: &str) -> [u64; 2] {
    let link = host.netlink().unwrap().link_by_name(device).unwrap().unwrap();
    [link.statistics.rx_packets, link.statistics.tx_packets]
}

#[test]
fn a_device_in_another_namespace_is_handed_its_packets() {
    let name = "a_device_in_another_namespace_is_handed_its_packets";
    if !counts_what_is_handed_over() {
        return not_run(name, "this kernel does not count what is handed over");
    }
    for (mode, key) in every_mode() {
        let hosts = privilege::check().ok().and_then(|()| hosts(&LinkOptions::default()));
        let (Some(hosts), Ok(inside)) = (hosts, Host::new("inside")) else {
            return not_run(name, "no network namespaces");
        };
        let mut tunnel = Tunnel::new(hosts, of_mode(mode, key));
        let right = &mut tunnel.right;
        let netns = Some(NetnsRef::Fd(inside.as_fd()));
        right.host.change("tun0", &LinkChange { netns, ..LinkChange::default() }).unwrap();
        inside.set_up("tun0").unwrap();
        inside.address("tun0", "172.16.0.2/24").unwrap();
        inside.address("tun0", "fd00::2/64").unwrap();
        right.place = Place { device: None, hand_over: true, ..right.place };
        let member = Member { spec: &right.spec, place: right.place, wanted: true };
        right.fastpath.apply(&Table::of([member])).unwrap();
        tunnel.left.fastpath.beat().unwrap();
        tunnel.right.fastpath.beat().unwrap();

        let capture = Capture::start(&inside, "tun0").unwrap();
        for to in [inner4(2), inner6(2)] {
            let report = ping(&tunnel.left.host, to, &PingOptions::default()).unwrap();
            assert!(report.complete(), "{mode:?} {to}: {report}\n{}", state(&tunnel));
            for (from, at) in [(&tunnel.left.host, &inside), (&inside, &tunnel.left.host)] {
                let to = if std::ptr::eq(at, &inside) {
                    to
                } else if to.is_ipv6() {
                    inner6(1)
                } else {
                    inner4(1)
                };
                let report = transfer(from, at, SocketAddr::new(to, 0), BULK, PATIENCE)
                    .unwrap_or_else(|error| panic!("{mode:?} {to}: {error}\n{}", state(&tunnel)));
                assert!(report.intact(), "{mode:?} {to}: {report:?}");
            }
        }
        // Promise 7: counted and seen, each one. The kernel's own probes of neighbours go on: all at one moment.
        let carried = || tunnel.right.counters().rx_packets;
        let at_one_moment = || {
            let before = carried();
            let [received, _] = counted(&inside, "tun0");
            let [_, through_the_pair] = counted(&tunnel.right.host, "gw-tun0");
            (before == carried()).then_some((before, received, through_the_pair))
        };
        let (carried, received, through_the_pair) =
            poll_until(PATIENCE, "counters at rest", at_one_moment).unwrap();
        assert_eq!(received, carried, "{mode:?}: {}", state(&tunnel));
        capture
            .wait_for_count(PATIENCE, "every packet received", carried as usize, |packet| !packet.outgoing)
            .unwrap();
        match mode.is_ethernet() {
            // A frame may be for somebody else, which the pair finds out.
            true => assert_eq!(through_the_pair, carried, "{mode:?}"),
            false => assert_eq!(through_the_pair, 0, "{mode:?}: past the pair"),
        }
    }
}
