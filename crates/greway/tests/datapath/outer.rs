//! The outer header on the wire, and the way it takes.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use greway_testbed::{Capture, LinkOptions, PingOptions, link, poll_until, privilege, require};
use greway_wire::ipv4::Ipv4Header;

use crate::pair::{OUTER, Pair, counted, inside, seen};
use crate::support::{SOON, in_vain};

/// The outer header of the first GRE packet that left sends for a ping with these options.
fn outer_of(pair: &Pair, options: &PingOptions) -> (u8, u8, bool) {
    let cable = Capture::start(&pair.right, "wan0").unwrap();
    let report = pair.ping(&PingOptions { count: 1, ..options.clone() });
    assert!(report.complete(), "{report}");
    let packet = cable.wait_for(SOON, "GRE", |packet| !packet.outgoing && inside(packet).is_some()).unwrap();
    let header = Ipv4Header::parse(packet.payload()).unwrap();
    (header.ttl, header.tos, header.dont_fragment)
}

#[test]
fn ttl_tos_and_df_are_what_was_asked_for() {
    require!(privilege::check());
    let pair = Pair::new("ttl 33 tos 0x10");
    let plain = PingOptions { ttl: Some(9), tos: 0x48, ..PingOptions::default() };
    assert_eq!(outer_of(&pair, &plain), (33, 0x10, true));

    // The ECN bits are the payload's in any case (RFC 6040).
    let ect = PingOptions { tos: 0x4a, ..plain };
    assert_eq!(outer_of(&pair, &ect), (33, 0x12, true));

    pair.change("ttl inherit tos inherit");
    assert_eq!(outer_of(&pair, &plain), (9, 0x48, true));

    pair.change("nopmtudisc");
    let df = PingOptions { df: true, ..plain };
    assert_eq!(outer_of(&pair, &plain), (9, 0x48, false));
    assert_eq!(outer_of(&pair, &df), (9, 0x48, true));

    pair.change("ignore-df");
    assert_eq!(outer_of(&pair, &df), (9, 0x48, false));
}

#[test]
fn a_device_that_was_named_is_the_way_out() {
    require!(privilege::check());
    let pair = Pair::bare(&LinkOptions::default());
    link(&pair.left, "wan1", &pair.right, "wan1", &LinkOptions::default()).unwrap();
    pair.left.address("wan1", "10.0.1.1/24").unwrap();
    pair.right.address("wan1", "10.0.1.2/24").unwrap();
    // Without `dev`: the connected route, by wan0.
    pair.add("tun0", "");
    pair.left.address("tun0", "172.16.0.1 peer 172.16.0.2/30").unwrap();
    pair.right.address("tun0", "172.16.0.2 peer 172.16.0.1/30").unwrap();
    let sent_by = || {
        let cables = ["wan0", "wan1"].map(|dev| Capture::start(&pair.left, dev).unwrap());
        let report = pair.ping(&PingOptions::default());
        assert!(report.complete(), "{report}");
        cables.map(|cable| seen(cable, |packet| packet.outgoing && packet.gre().is_some()))
    };
    assert_eq!(sent_by(), [3, 0]);
    // A device that is named counts as on the link of the remote when no route by it is known.
    pair.nodes[0].words("tunnel change tun0 dev wan1").ok();
    assert_eq!(sent_by(), [0, 3]);
}

#[test]
fn tx04_two_tunnels_that_lead_into_each_other_do_not_nest_for_ever() {
    require!(privilege::check());
    let pair = Pair::bare(&LinkOptions::default());
    let node = &pair.nodes[0];
    node.words("tunnel add tun0 mode gre local 10.0.0.1 remote 10.8.0.1").ok();
    node.words("tunnel add tun1 mode gre local 10.0.0.1 remote 10.8.0.2 key 5").ok();
    pair.left.address("tun0", "172.16.0.1 peer 172.16.0.2/30").unwrap();
    pair.left.address("tun1", "172.17.0.1 peer 172.17.0.2/30").unwrap();
    pair.left.route("10.8.0.1/32", "dev tun1").unwrap();
    pair.left.route("10.8.0.2/32", "dev tun0").unwrap();
    let before = [counted(&pair.left, "tun0").1, counted(&pair.left, "tun1").1];
    assert_eq!(pair.ping(&in_vain()).received(), 0);
    // Into tun0, from there into tun1, and again into tun0, which knows it.
    pair.wait_for_drops(0, "recursion", 2);
    let after = [counted(&pair.left, "tun0").1, counted(&pair.left, "tun1").1];
    assert_eq!([after[0] - before[0], after[1] - before[1]], [4, 2]);
}

#[test]
fn a_route_into_the_tunnel_itself_is_a_counted_drop_and_no_loop() {
    require!(privilege::check());
    let pair = Pair::new("");
    pair.answers(&PingOptions::default());
    pair.left.route(&format!("{}/32", OUTER[1]), "dev tun0").unwrap();
    pair.carried_by(0, "userspace");
    let before = counted(&pair.left, "tun0").1;
    let report = pair.ping(&in_vain());
    assert_eq!(report.received(), 0, "{report}");
    // Each echo and its own GRE packet, no more: nothing goes round.
    pair.wait_for_drops(0, "recursion", 2);
    assert_eq!(counted(&pair.left, "tun0").1, before + 4);
    pair.nodes[0].words("status tun0 --no-echo").ok().says(&["recursion", "leads into the tunnel itself"]);
    pair.left.delete_route(&format!("{}/32", OUTER[1]), "dev tun0").unwrap();
    poll_until(SOON, "the tunnel without the route", || pair.ping(&in_vain()).complete().then_some(()))
        .unwrap();
}

#[test]
fn an_idle_tunnel_costs_no_processor_time() {
    require!(privilege::check());
    let pair = Pair::new("");
    pair.answers(&PingOptions::default());
    let pid = pair.daemons[0].as_ref().unwrap().pid();
    // The data plane's thread: how often it was given the processor, which for one that sleeps does not rise.
    let switches = || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let datapath = tasks
            .map(|task| task.unwrap().path())
            .find(|task| std::fs::read_to_string(task.join("comm")).unwrap().trim() == "datapath");
        let status = std::fs::read_to_string(datapath.unwrap().join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    // Two looks, half a second apart, that see the same; a busy thread never shows that.
    let mut last = (switches(), std::time::Instant::now());
    poll_until(SOON, "an idle data plane", || {
        let now = switches();
        if now != last.0 {
            last = (now, std::time::Instant::now());
        }
        (last.1.elapsed() > Duration::from_millis(500)).then_some(())
    })
    .unwrap();
}

#[test]
fn no_route_to_the_remote_is_a_counted_drop_and_heals() {
    require!(privilege::check());
    let pair = Pair::new("");
    pair.answers(&PingOptions::default());
    pair.left.set_down("wan0").unwrap();
    pair.carried_by(0, "userspace");
    assert_eq!(pair.ping(&in_vain()).received(), 0);
    pair.wait_for_drops(0, "no-route", 2);
    pair.left.set_up("wan0").unwrap();
    poll_until(SOON, "the tunnel with its cable", || pair.ping(&in_vain()).complete().then_some(())).unwrap();
}
