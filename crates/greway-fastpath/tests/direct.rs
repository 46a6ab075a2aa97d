//! `direct`: what is sent leaves at the tunnel device itself. Faster, at a price that is told here too.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

#[path = "support/carries.rs"]
mod carries;
mod support;
#[path = "support/tunnel.rs"]
mod tunnel;

use carries::{carries_everything, every_mode, of_mode, state};
use greway_fastpath::{Decline, HookChoice, Point};
use greway_spec::{Mode, TunnelSpec};
use greway_testbed::{Host, LinkOptions, PingOptions, ping, privilege};
use support::{bpffs::Bpffs, not_run, options};
use tunnel::{Tunnel, hosts, inner4, outer4, outer6};

/// Two hosts that know each other's hardware addresses, as userspace has to see to it.
fn lab(name: &str) -> Option<[Host; 2]> {
    let Some(hosts) = privilege::check().ok().and_then(|()| hosts(&LinkOptions::default())) else {
        not_run(name, "no network namespaces");
        return None;
    };
    for (from, to) in [(0, 2), (1, 1)] {
        for to in [outer4(to), outer6(to)] {
            let report = ping(&hosts[from], to, &PingOptions::default()).unwrap();
            assert!(report.received() > 0, "{report}");
        }
    }
    Some(hosts)
}

fn alive(mut tunnel: Tunnel) -> Tunnel {
    tunnel.left.fastpath.beat().unwrap();
    tunnel.right.fastpath.beat().unwrap();
    tunnel
}

fn direct(mode: Mode, key: Option<u32>) -> impl Fn(&mut TunnelSpec) {
    move |spec| {
        of_mode(mode, key)(spec);
        spec.direct = true;
    }
}

/// All but ARP, which goes through the pair.
#[test]
fn every_mode_sends_without_its_pair() {
    let name = "every_mode_sends_without_its_pair";
    for (mode, key) in every_mode() {
        let Some(hosts) = lab(name) else { return };
        let mut tunnel = alive(Tunnel::new(hosts, direct(mode, key)));
        let mean = carries_everything(&mut tunnel);
        assert!(mean > 1500, "{mode:?}: {mean} bytes a packet, no more than the cable takes");
        for end in [&tunnel.left, &tunnel.right] {
            let (past, through) = (end.counters_of(Point::Direct), end.counters_of(Point::Overlay));
            assert_eq!(end.counters().tx_packets, past.carried + through.carried, "{}", state(&tunnel));
            assert!(past.carried > 20, "{mode:?}: {}", state(&tunnel));
            let arp = past.declined_for(Decline::NotIp);
            // Beside ARP what was sent before the program was there: solicitations.
            assert!((arp..arp + 8).contains(&through.seen), "{mode:?}: {}", state(&tunnel));
            assert_eq!(arp > 0, mode.is_ethernet(), "{mode:?}: {}", state(&tunnel));
        }
    }
}

/// Packets received and sent, as `ip -s link` has them.
fn device_counters(host: &Host, device: &str) -> [u64; 2] {
    let table = host.run(|| std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap().unwrap();
    let line = table.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':')).unwrap();
    let numbers: Vec<u64> = line.split_whitespace().map(|number| number.parse().unwrap()).collect();
    [numbers[1], numbers[9]]
}

/// Promise 7: what it breaks is what its documentation says. Received packets are counted all the same.
#[test]
fn what_is_sent_is_not_counted_at_the_device() {
    let name = "what_is_sent_is_not_counted_at_the_device";
    for (with, expected) in [(false, [3, 3]), (true, [3, 0])] {
        let Some(hosts) = lab(name) else { return };
        let tunnel = alive(Tunnel::new(hosts, |spec| {
            of_mode(Mode::Gre, None)(spec);
            spec.direct = with;
        }));
        let before = device_counters(&tunnel.left.host, "tun0");
        let report = ping(&tunnel.left.host, inner4(2), &PingOptions { count: 3, ..PingOptions::default() });
        let report = report.unwrap();
        assert!(report.complete(), "{report}\n{}", state(&tunnel));
        let after = device_counters(&tunnel.left.host, "tun0");
        assert_eq!([after[0] - before[0], after[1] - before[1]], expected, "direct {with}");
    }
}

/// T18: what userspace asks for comes by the pair, so many packets and no more.
#[test]
fn t18_the_next_packets_are_declined_once() {
    let name = "t18_the_next_packets_are_declined_once";
    let Some(hosts) = lab(name) else { return };
    let mut tunnel = alive(Tunnel::new(hosts, direct(Mode::Gre, None)));
    let peer = tunnel.left.place.peer;
    assert!(tunnel.left.fastpath.decline_next(peer, 2).unwrap());
    let report = ping(&tunnel.left.host, inner4(2), &PingOptions { count: 5, ..PingOptions::default() });
    let report = report.unwrap();
    assert_eq!(report.lost, [1, 2], "{report}");
    assert_eq!(tunnel.left.counters().declined_for(Decline::Asked), 2, "{}", state(&tunnel));
}

/// As at the other points: it outlives its process, is adopted, and goes.
#[test]
fn it_outlives_its_daemon_and_is_removed() {
    let name = "it_outlives_its_daemon_and_is_removed";
    for hook in [HookChoice::Tcx, HookChoice::Clsact] {
        let Some(hosts) = lab(name) else { return };
        let Some(bpffs) = Bpffs::new(name) else { return };
        let pinned = bpffs.options(hook);
        let Tunnel { left, right } = Tunnel::with([&pinned, &options()], hosts, direct(Mode::Gre, None));
        drop(left.fastpath);
        // Without a sign of life it goes through the pair.
        let report = ping(&left.host, inner4(2), &PingOptions::default()).unwrap();
        assert!(report.complete(), "{hook:?}: {report}");

        let mut next = left.host.run(|| greway_fastpath::Fastpath::load_with(&pinned)).unwrap().unwrap();
        let mut table = greway_fastpath::Table::of([greway_fastpath::Member {
            spec: &left.spec,
            place: left.place,
            wanted: true,
        }]);
        next.apply(&table).unwrap();
        assert_eq!(next.counters(Point::Direct).unwrap().declined_for(Decline::Unresolved), 3, "{hook:?}");
        next.beat().unwrap();
        let adopted = left.host.run(|| next.adopt()).unwrap();
        assert!(adopted.errors.is_empty(), "{hook:?}: {adopted:?}");
        let points: Vec<Point> = adopted.attachments.iter().map(|attachment| attachment.point).collect();
        assert!(points.contains(&Point::Direct) && points.len() == 3, "{hook:?}: {adopted:?}");
        let report = ping(&left.host, inner4(2), &PingOptions::default()).unwrap();
        assert!(report.complete(), "{hook:?}: {report}");
        assert_eq!(next.counters(Point::Direct).unwrap().carried, 3, "{hook:?}");

        // Turned off, it goes through the pair again, attached or not.
        table.direct.clear();
        next.apply(&table).unwrap();
        let report = ping(&left.host, inner4(2), &PingOptions::default()).unwrap();
        assert!(report.complete(), "{hook:?}: {report}");
        assert_eq!(next.counters(Point::Direct).unwrap().carried, 3, "{hook:?}");

        left.host.run(|| next.remove_all()).unwrap().unwrap();
        assert!(!bpffs.has_pins(), "{hook:?}");
        let lists = left
            .host
            .output(std::process::Command::new("tc").args(["filter", "show", "dev", "tun0", "egress"]));
        if let Ok(lists) = lists {
            assert_eq!(String::from_utf8_lossy(&lists.stdout), "", "{hook:?}");
        }
        drop(right);
    }
}
