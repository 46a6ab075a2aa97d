//! `greway tunnel add|change|del|show` and what happens to a tunnel by other hands, on real devices.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::net::SocketAddr;

use greway_netlink::LinkChange;
use greway_testbed::tcp::TcpPair;
use greway_testbed::{Guide, PingOptions, ping, poll_until, privilege, require};
use support::{Node, SOON, inner, two_hosts};

const ADD: &str = "tunnel add tun0 mode gre local 100.0.1.100 remote 100.0.2.100";

#[test]
fn cf06_add_leaves_the_device_up_with_room_for_its_headers() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let _daemon = node.daemon();
    for (words, mtu) in [
        ("", 1476),
        ("key 42", 1472),
        ("csum", 1472),
        ("seq", 1472),
        ("key 42 csum", 1468),
        ("key 42 csum seq", 1464),
        ("ikey 42 icsum iseq", 1476),
        ("mtu 1400 key 42", 1400),
    ] {
        let added = node.words(&format!("{ADD} {words}")).ok();
        assert_eq!((added.stdout.as_str(), added.stderr.as_str()), ("", ""), "add is silent, as with ip");
        let link = node.link("tun0").unwrap();
        assert_eq!((link.up, link.running, link.mtu), (true, true, mtu), "{words}");
        node.words("tunnel del tun0").ok();
        assert_eq!(node.link("tun0"), None);
    }
}

#[test]
fn a_live_tunnel_is_changed_and_its_connection_goes_on() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemons = (lab.one.daemon(), lab.two.daemon());
    lab.tunnel("");
    let to = SocketAddr::new(inner(1), 0);
    let mut connection = TcpPair::connect(&lab.guide.linux1, &lab.guide.linux2, to, SOON).unwrap();
    connection.exchange(100_000, SOON).unwrap();
    let mut sent = 0;
    for (words, mtu) in [
        ("key 42", 1472),
        ("key 42 csum", 1468),
        ("ttl 64", 1468),
        ("seq", 1464),
        ("nokey nocsum noseq", 1476),
        ("tos inherit", 1476),
    ] {
        for node in [&lab.one, &lab.two] {
            node.words(&format!("tunnel change tun0 {words}")).ok();
            assert_eq!(node.mtu("tun0"), mtu, "{words}");
        }
        connection.exchange(100_000, SOON).unwrap_or_else(|error| panic!("{words}: {error}"));
        let now = counter(&lab.one, "sent_packets");
        assert!(now > sent, "{words}: the counters went from {sent} to {now}");
        sent = now;
    }
}

#[test]
fn a_change_of_one_end_only_shows_as_a_key_that_does_not_fit() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemons = (lab.one.daemon(), lab.two.daemon());
    lab.tunnel("key 1");
    assert!(lab.ping().complete());
    lab.one.words("tunnel change tun0 key 2").ok();
    assert_eq!(ping(&lab.guide.linux1, inner(1), &support::in_vain()).unwrap().received(), 0);
    lab.two.words("tunnel change tun0 key 2").ok();
    let report = lab.ping();
    assert!(report.complete(), "{report}");
}

#[test]
fn what_change_does_not_name_stays() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let _daemon = node.daemon();
    node.words(&format!("{ADD} ikey 7 okey 8 ttl 33 tos 0x10 dev wan0")).ok();
    let before = node.words("tunnel show tun0").ok().stdout;
    node.words("tunnel change tun0 csum").ok();
    let after = node.words("tunnel show tun0").ok().stdout;
    for words in ["ttl 33", "ikey 7", "okey 8", "tos 0x10", "dev wan0"] {
        assert!(before.contains(words) && after.contains(words), "{words}: {before}{after}");
    }
    assert!(!before.contains("hecksum") && after.contains("hecksum"), "{before}{after}");
    // The outcome survives the daemon: it is what is written down.
    assert_eq!(node.state_files(), ["tun0.json"]);
}

#[test]
fn del_leaves_nothing() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let _daemon = node.daemon();
    let before = node.belongings();
    for words in ["del", "delete", "del name"] {
        node.words(&format!("{ADD} seq")).ok();
        assert_ne!(node.belongings(), before);
        node.words(&format!("tunnel {words} tun0")).ok();
        assert_eq!(node.belongings(), before, "{words}");
    }
    node.words("tunnel del tun0").refused(&["there is no tunnel tun0 here"]);
}

#[test]
fn show_speaks_as_ip_tunnel_does() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let _daemon = node.daemon();
    assert_eq!(node.words("tunnel show").ok().stdout, "");
    node.words(ADD).ok();
    node.words("tunnel add tun1 mode gre local 100.0.1.100 remote 100.0.2.100 key 42 ttl 64 seq").ok();
    let shown = node.words("tunnel show").ok().stdout;
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[0], "tun0: gre/ip remote 100.0.2.100 local 100.0.1.100 ttl inherit");
    assert_eq!(lines[1], "tun1: gre/ip remote 100.0.2.100 local 100.0.1.100 ttl 64 key 42");
    // As with `ip tunnel show`, what is about sequence numbers has lines of its own.
    assert!(lines[2..].iter().all(|line| line.starts_with(' ')) && lines.len() > 2, "{shown}");
    assert_eq!(node.words("tunnel show tun0").ok().stdout.lines().count(), 1);

    let json = node.words("tunnel show --json").ok().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let entry = &json[0];
    assert_eq!((entry["ifname"].as_str(), entry["mode"].as_str()), (Some("tun0"), Some("gre/ip")), "{json}");
    assert_eq!(entry["remote"].as_str(), Some("100.0.2.100"), "{json}");
    assert_eq!(json.as_array().map(Vec::len), Some(2));
}

#[test]
fn two_tunnels_between_the_same_hosts_are_told_apart_by_key() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemons = (lab.one.daemon(), lab.two.daemon());
    lab.tunnel("key 1");
    lab.one.words("tunnel add tun1 mode gre local 100.0.1.100 remote 100.0.2.100 key 2").ok();
    lab.two.words("tunnel add tun1 mode gre local 100.0.2.100 remote 100.0.1.100 key 2").ok();
    lab.guide.linux1.address("tun1", "172.16.1.1 peer 172.16.1.2/30").unwrap();
    lab.guide.linux2.address("tun1", "172.16.1.2 peer 172.16.1.1/30").unwrap();
    assert!(lab.ping().complete());
    let report = ping(&lab.guide.linux1, "172.16.1.2".parse().unwrap(), &PingOptions::default()).unwrap();
    assert!(report.complete(), "{report}");
    // One goes, the other stays.
    lab.one.words("tunnel del tun0").ok();
    let report = ping(&lab.guide.linux1, "172.16.1.2".parse().unwrap(), &PingOptions::default()).unwrap();
    assert!(report.complete(), "{report}");
}

#[test]
fn a_device_that_an_operator_deletes_takes_its_tunnel_with_it() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemons = (lab.one.daemon(), lab.two.daemon());
    let before = lab.one.belongings();
    lab.tunnel("");
    assert!(lab.ping().complete());
    let index = lab.guide.linux1.index("tun0").unwrap();
    lab.guide.linux1.netlink().unwrap().delete_link(index).unwrap();
    poll_until(SOON, "the tunnel to be forgotten", || (lab.one.belongings() == before).then_some(()))
        .unwrap();
    assert_eq!(lab.one.words("tunnel show").ok().stdout, "");
    // The name is free again.
    lab.one.words(ADD).ok();
    lab.guide.linux1.address("tun0", "172.16.0.1 peer 172.16.0.2/30").unwrap();
    assert!(lab.ping().complete());
}

#[test]
fn a_device_set_down_and_up_by_an_operator_carries_again() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemons = (lab.one.daemon(), lab.two.daemon());
    lab.tunnel("");
    lab.guide.linux1.set_down("tun0").unwrap();
    lab.one.words("status --no-echo").ok().says(&["tun0 down", "ip link set tun0 up"]);
    lab.guide.linux1.set_up("tun0").unwrap();
    let answered = poll_until(SOON, "an answer", || {
        let report = ping(&lab.guide.linux1, inner(1), &support::in_vain()).unwrap();
        report.complete().then_some(())
    });
    answered.unwrap();
}

#[test]
fn an_mtu_set_by_an_operator_is_followed_and_kept() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemons = (lab.one.daemon(), lab.two.daemon());
    lab.tunnel("nopmtudisc");
    // Beyond the outer MTU: what is that large is sent in fragments.
    for host in [&lab.guide.linux1, &lab.guide.linux2] {
        host.change("tun0", &LinkChange { mtu: Some(3000), ..LinkChange::default() }).unwrap();
    }
    let large = PingOptions { size: 2900, ..PingOptions::default() };
    let answered = poll_until(SOON, "an answer to 2,900 bytes", || {
        ping(&lab.guide.linux1, inner(1), &large).unwrap().complete().then_some(())
    });
    if let Err(error) = answered {
        panic!("{error}: {}", lab.one.words("status").stdout);
    }
    assert_eq!(lab.one.status()["tunnels"][0]["device"]["mtu"], 3000);
    // A change of something else leaves it alone; a change of the header's length sets it right.
    lab.one.words("tunnel change tun0 tos inherit").ok();
    assert_eq!(lab.one.mtu("tun0"), 3000);
    lab.one.words("tunnel change tun0 key 9").ok();
    assert_eq!(lab.one.mtu("tun0"), 1472);
}

/// A counter of the node's first tunnel.
fn counter(node: &Node, name: &str) -> u64 {
    node.status()["tunnels"][0]["counters"][name].as_u64().unwrap()
}

#[test]
fn a_renamed_device_keeps_its_tunnel_under_the_new_name() {
    require!(privilege::check());
    let lab = two_hosts();
    let daemon = lab.one.daemon();
    let _other = lab.two.daemon();
    let host = &lab.guide.linux1;
    let before = lab.one.belongings();
    let file = lab.one.file(
        "tun0.toml",
        "local = \"100.0.1.100\"\nremote = \"100.0.2.100\"\nseq = true\n[inner]\naddress = \"172.16.0.1\"\n\
         peer = \"172.16.0.2/30\"\nsnat = \"10.10.1.1\"\n",
    );
    lab.one.greway(&["up", &file]).ok();
    lab.two.words("tunnel add tun0 mode gre local 100.0.2.100 remote 100.0.1.100 seq").ok();
    lab.guide.linux2.address("tun0", "172.16.0.2 peer 172.16.0.1/30").unwrap();
    assert!(lab.ping().complete());
    let mut connection =
        TcpPair::connect(&lab.guide.linux1, &lab.guide.linux2, SocketAddr::new(inner(1), 0), SOON).unwrap();
    connection.exchange(50_000, SOON).unwrap();

    host.change("tun0", &LinkChange { name: Some("office"), ..LinkChange::default() }).unwrap();
    poll_until(SOON, "the tunnel to follow", || {
        lab.one
            .words("tunnel show")
            .ok()
            .stdout
            .starts_with("office: gre/ip remote 100.0.2.100")
            .then_some(())
    })
    .unwrap();
    // linux2 checks sequence numbers: they went on.
    assert!(lab.ping().complete(), "{}", lab.two.words("status").stdout);
    connection.exchange(50_000, SOON).unwrap();
    let (links, tables, files) = lab.one.belongings();
    assert!(links.contains(&"office".to_owned()) && links.contains(&"gw-office".to_owned()), "{links:?}");
    assert_eq!(files, ["office.json", "office.sequence"]);
    assert!(!tables.is_empty() && tables.iter().all(|table| table.contains("greway-office")), "{tables:?}");
    lab.one.words("tunnel change office ttl 64").ok();
    lab.one.words("status office").ok().says(&["office up"]);

    // The next daemon knows it by that name; with its removal all is gone.
    daemon.kill();
    let _daemon = lab.one.daemon();
    assert!(lab.ping().complete());
    lab.one.words("tunnel del office").ok();
    assert_eq!(lab.one.belongings(), before);
}

#[test]
fn two_devices_that_exchange_their_names() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let daemon = node.daemon();
    node.words(&format!("{ADD} key 1")).ok();
    node.words(&format!("{ADD} key 2").replace("tun0", "tun1")).ok();
    for (from, to) in [("tun0", "spare"), ("tun1", "tun0"), ("spare", "tun1")] {
        guide.linux1.change(from, &LinkChange { name: Some(to), ..LinkChange::default() }).unwrap();
    }
    let exchanged = |node: &Node| {
        let shown = node.words("tunnel show").ok().stdout;
        let lines: Vec<&str> = shown.lines().collect();
        lines.len() == 2
            && lines[0].starts_with("tun0:")
            && lines[0].ends_with("key 2")
            && lines[1].starts_with("tun1:")
            && lines[1].ends_with("key 1")
    };
    poll_until(SOON, "both to follow", || exchanged(&node).then_some(())).unwrap();
    assert_eq!(node.state_files(), ["tun0.json", "tun1.json"]);
    daemon.kill();
    let _daemon = node.daemon();
    assert!(exchanged(&node), "{}", node.words("tunnel show").stdout);
}

#[test]
fn a_device_that_was_moved_to_another_namespace_is_carried_on() {
    require!(privilege::check());
    let lab = two_hosts();
    let before = lab.one.belongings();
    let daemon = lab.one.daemon();
    let _other = lab.two.daemon();
    lab.tunnel("");
    let inside = greway_testbed::Host::new("inside").unwrap();
    let netns = greway_netlink::NetnsRef::Fd(std::os::fd::AsFd::as_fd(&inside));
    lab.guide.linux1.change("tun0", &LinkChange { netns: Some(netns), ..LinkChange::default() }).unwrap();
    // The kernel sets a device down that it moves, and takes its addresses.
    inside.address("tun0", "172.16.0.1 peer 172.16.0.2/30").unwrap();
    inside.set_up("tun0").unwrap();
    let carries = || {
        poll_until(SOON, "an answer from inside", || {
            ping(&inside, inner(1), &support::in_vain()).unwrap().complete().then_some(())
        })
        .unwrap();
        lab.one.words("status").ok().says(&["tun0 up", "in another network namespace"]);
    };
    carries();

    // A new daemon takes it over where it is.
    daemon.kill();
    let _daemon = lab.one.daemon();
    carries();
    lab.one.words("tunnel del tun0").ok();
    assert_eq!(lab.one.belongings(), before);
    assert!(inside.index("tun0").is_err());
}
