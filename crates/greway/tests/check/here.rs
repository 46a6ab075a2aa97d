//! Faults of this host that have nothing to do with firewalls.

use std::net::Ipv4Addr;

use greway_testbed::{
    Guide, Host, LinkOptions, PingOptions, build, link, ping, poll_until, privilege, require,
};

use super::pair::Pair;
use super::support::{Lab, Node, SOON, two_hosts};
use super::{check, program_of, type_in};

#[test]
fn local_and_remote_swapped_as_the_guide_s_block_pasted_on_linux2() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemons = (lab.one.daemon(), lab.two.daemon());
    // Its words for both hosts.
    let words = "tunnel add tun0 mode gre remote 100.0.2.100 local 100.0.1.100";
    lab.one.words(words).ok();
    lab.two.words(words).ok();
    lab.guide.linux1.address("tun0", "172.16.0.1 peer 172.16.0.2/30").unwrap();
    lab.guide.linux2.address("tun0", "172.16.0.1 peer 172.16.0.2/30").unwrap();
    let found = check(&lab.two, "tun0");
    found.found(&["ends-swapped"]).says("ends-swapped", &["100.0.2.100 is on wan0"]);
    let cures = found.cures("ends-swapped", "here");
    assert_eq!(cures, ["greway tunnel change tun0 local 100.0.2.100 remote 100.0.1.100"]);
    type_in(&lab.two, &lab.guide.linux2, &cures[0]);

    // And now both have one inner address, which linux1 finds by asking for it.
    let found = check(&lab.one, "tun0");
    found.found(&["same-inner-address"]);
    let cures = found.cures("same-inner-address", "far-end");
    assert_eq!(
        cures,
        [
            "ip addr del 172.16.0.1 peer 172.16.0.2/30 dev tun0",
            "ip addr add 172.16.0.2 peer 172.16.0.1/30 dev tun0"
        ]
    );
    for command in &cures {
        type_in(&lab.two, &lab.guide.linux2, command);
    }
    assert!(lab.ping().complete());
    check(&lab.two, "tun0").found(&[]);
}

#[test]
fn both_ends_this_host() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    lab.guide.linux1.address("lan0", "100.0.2.100/32").unwrap();
    lab.tunnel_on_one();
    let found = check(&lab.one, "");
    assert!(found.ids().contains(&"both-ends-here"), "{:#}", found.json);
    found.says("both-ends-here", &["100.0.2.100 is on lan0", "100.0.1.100 is on wan0"]);
}

/// A cloud's 1:1 NAT: the host does not have its public address.
#[test]
fn a_local_that_is_not_here_and_the_address_to_use() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    lab.one.words("tunnel add tun0 mode gre remote 100.0.2.100 local 203.0.113.5").ok();
    lab.guide.linux1.address("tun0", "172.16.0.1 peer 172.16.0.2/30").unwrap();
    let found = check(&lab.one, "");
    found.found(&["local-not-here"]).says("local-not-here", &["100.0.1.100 on wan0", "1:1 NAT"]);
    let cures = found.cures("local-not-here", "here");
    assert_eq!(cures, ["greway tunnel change tun0 local 100.0.1.100"]);
    type_in(&lab.one, &lab.guide.linux1, &cures[0]);
    assert!(!check(&lab.one, "").ids().contains(&"local-not-here"));
}

#[test]
fn an_inner_peer_that_is_the_remote() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    lab.one.words("tunnel add tun0 mode gre remote 100.0.2.100 local 100.0.1.100").ok();
    lab.guide.linux1.address("tun0", "172.16.0.1 peer 100.0.2.100/32").unwrap();
    let found = check(&lab.one, "tun0");
    // One is the cause of the other.
    assert!(found.ids().contains(&"inner-is-outer"), "{:#}", found.json);
    let cures = found.cures("inner-is-outer", "here");
    assert_eq!(cures[0], "ip addr del 172.16.0.1 peer 100.0.2.100/32 dev tun0");
    type_in(&lab.one, &lab.guide.linux1, &cures[0]);
    assert!(!check(&lab.one, "tun0").ids().contains(&"inner-is-outer"));
}

#[test]
fn no_route_to_the_remote_and_one_through_the_tunnel() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    lab.tunnel_on_one();
    let host = &lab.guide.linux1;
    host.route("100.0.2.100/32", "dev tun0").unwrap();
    let found = check(&lab.one, "");
    found.found(&["route-through-tunnel"]);
    host.delete_route("100.0.2.100/32", "dev tun0").unwrap();

    host.delete_route("default", "via 100.0.1.1").unwrap();
    check(&lab.one, "").found(&["no-route"]).says("no-route", &["100.0.2.100"]);
    program_of(host, "ip route add blackhole 100.0.2.100/32");
    let found = check(&lab.one, "");
    found.found(&["no-route"]).says("no-route", &["blackhole"]);
    type_in(&lab.one, host, &found.cures("no-route", "here")[0]);
    host.route("default", "via 100.0.1.1").unwrap();
    assert!(!check(&lab.one, "").ids().contains(&"no-route"));
}

#[test]
fn an_underlay_that_is_down() {
    require!(privilege::check());
    let pair = Pair::new("");
    let (node, host) = (&pair.nodes[0], &pair.left);
    for words in ["", "dev wan0"] {
        if !words.is_empty() {
            node.words(&format!("tunnel change tun0 {words}")).ok();
        }
        host.set_down("wan0").unwrap();
        let found = check(node, "");
        found.found(&["underlay-down"]).is("underlay-down", "stops").says("underlay-down", &["wan0 is DOWN"]);
        let cures = found.cures("underlay-down", "here");
        assert_eq!(cures, ["ip link set wan0 up"]);
        type_in(node, host, &cures[0]);
        poll_until(SOON, "the cable", || pair.ping(&super::support::in_vain()).complete().then_some(()))
            .unwrap();
        check(node, "").found(&[]);
    }
}

/// The peer's address on another device of this host, with a prefix of its own.
#[test]
fn an_inner_peer_that_is_this_host() {
    require!(privilege::check());
    let pair = Pair::new("");
    pair.left.address("wan0", "172.16.0.2/24").unwrap();
    let found = check(&pair.nodes[0], "");
    found
        .found(&["peer-is-here"])
        .is("peer-is-here", "stops")
        .says("peer-is-here", &["172.16.0.2 is on wan0"]);
    let cures = found.cures("peer-is-here", "here");
    assert_eq!(cures, ["ip addr del 172.16.0.2/24 dev wan0"]);
    type_in(&pair.nodes[0], &pair.left, &cures[0]);
    check(&pair.nodes[0], "").found(&[]);
}

#[test]
fn a_device_that_is_down_or_whose_other_end_is() {
    require!(privilege::check());
    let pair = Pair::new("");
    let (node, host) = (&pair.nodes[0], &pair.left);
    for (dev, id) in [("tun0", "device-down"), ("gw-tun0", "no-carrier")] {
        host.set_down(dev).unwrap();
        let found = check(node, "");
        assert!(found.ids().contains(&id), "{:#}", found.json);
        for command in found.cures(id, "here") {
            type_in(node, host, &command);
        }
        poll_until(SOON, "the carrier", || pair.ping(&super::support::in_vain()).complete().then_some(()))
            .unwrap();
        check(node, "").found(&[]);
    }
}

const FILE: &str = r#"
name = "tun0"
local = "100.0.1.100"
remote = "100.0.2.100"
[inner]
address = "172.16.0.1"
peer = "172.16.0.2/30"
routes = ["10.10.2.0/24"]
"#;

#[test]
fn addresses_and_routes_of_the_file_that_somebody_took_away() {
    require!(privilege::check());
    let (lab, _daemons) = Lab::up("");
    lab.one.words("tunnel del tun0").ok();
    let path = lab.one.file("tun0.toml", FILE);
    lab.one.greway(&["up", &path]).ok();
    let host = &lab.guide.linux1;
    program_of(host, "ip addr del 172.16.0.1 peer 172.16.0.2/30 dev tun0");
    host.delete_route("10.10.2.0/24", "dev tun0").unwrap_or_default();
    let found = check(&lab.one, "");
    found.found(&["address-missing", "route-missing"]);
    for id in ["address-missing", "route-missing"] {
        for command in found.cures(id, "here") {
            type_in(&lab.one, host, &command);
        }
    }
    assert!(lab.ping().complete());
    let ids = check(&lab.one, "").ids().join(" ");
    assert!(!ids.contains("missing"), "{ids}");
}

#[test]
fn an_inner_peer_that_another_device_takes() {
    require!(privilege::check());
    let pair = Pair::new("");
    pair.left.route("172.16.0.2/32", "dev wan0").unwrap();
    let found = check(&pair.nodes[0], "");
    found.found(&["peer-not-through-tunnel"]).says("peer-not-through-tunnel", &["wan0"]);
    type_in(&pair.nodes[0], &pair.left, &found.cures("peer-not-through-tunnel", "here")[0]);
    check(&pair.nodes[0], "").found(&[]);
}

#[test]
fn strict_reverse_paths_that_drop_what_comes_out_of_the_tunnel() {
    require!(privilege::check());
    let pair = Pair::new("");
    // The peer is reached by the underlay, and sends by the tunnel.
    pair.left.sysctl("ipv4/conf/tun0/rp_filter", "1").unwrap();
    pair.left.route("172.16.0.2/32", "dev wan0").unwrap();
    let found = check(&pair.nodes[0], "");
    found.found(&["peer-not-through-tunnel", "rp-filter"]);
    assert_eq!(found.cures("rp-filter", "here"), ["sysctl -w net.ipv4.conf.tun0.rp_filter=2"]);
}

/// GRE that comes in by another device than the one that leads to the remote.
#[test]
fn strict_reverse_paths_of_the_underlay() {
    require!(privilege::check());
    let pair = Pair::new("");
    let side = LinkOptions::default();
    link(&pair.left, "side0", &pair.right, "side0", &side).unwrap();
    pair.left.address("side0", "10.0.9.1/24").unwrap();
    pair.right.address("side0", "10.0.9.2/24").unwrap();
    // A question of ARP from the wrong source is not answered by a device that is strict.
    assert!(
        ping(&pair.right, Ipv4Addr::new(10, 0, 9, 1).into(), &PingOptions::default()).unwrap().complete()
    );
    // Right sends to left by the side; left sends by the straight way.
    pair.right.route("10.0.0.1/32", "via 10.0.9.1").unwrap();
    pair.left.sysctl("ipv4/conf/side0/rp_filter", "1").unwrap();
    poll_until(SOON, "the refusal", || (pair.ping(&super::support::in_vain()).received() == 0).then_some(()))
        .unwrap();
    if pair.status(0)["datapath"]["underlay"] == "packet" {
        assert!(
            super::pair::drops(&pair.nodes[0].status(), "reverse-path") > 0,
            "{}",
            pair.status(0)["drops"]
        );
    }
    let found = check(&pair.nodes[0], "");
    found.found(&["rp-filter-underlay"]).says("rp-filter-underlay", &["side0", "wan0"]);
    let cures = found.cures("rp-filter-underlay", "here");
    assert_eq!(cures, ["sysctl -w net.ipv4.conf.side0.rp_filter=2"]);
    pair.left.sysctl("ipv4/conf/side0/rp_filter", "2").unwrap();
    poll_until(SOON, "the tunnel", || pair.ping(&super::support::in_vain()).complete().then_some(()))
        .unwrap();
    check(&pair.nodes[0], "").found(&[]);
}

#[test]
fn a_device_mtu_larger_than_the_path() {
    require!(privilege::check());
    let pair = Pair::new("");
    program_of(&pair.left, "ip link set tun0 mtu 1500");
    let found = check(&pair.nodes[0], "");
    // What the path does not take, the probes find as well.
    assert!(found.ids().contains(&"mtu-larger-than-path"), "{:#}", found.json);
    assert_eq!(found.cures("mtu-larger-than-path", "here"), ["ip link set tun0 mtu 1476"]);
    type_in(&pair.nodes[0], &pair.left, "ip link set tun0 mtu 1476");
    check(&pair.nodes[0], "").found(&[]);
}

#[test]
fn without_a_daemon_and_with_one_that_died_or_hangs() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    node.words("check").ok().says(&["nothing to check"]);
    node.words("check tun9").refused(&["there is no tunnel tun9", "no file describes tun9"]);
    assert!(!node.socket().exists(), "none is started by a check");

    let daemon = node.daemon();
    let path = node.file("tun0.toml", FILE);
    node.greway(&["up", &path]).ok();
    // It is stopped, as by a debugger, and does not answer.
    program_of(&guide.linux1, &format!("kill -STOP {}", daemon.pid()));
    let found = check(&node, "");
    program_of(&guide.linux1, &format!("kill -CONT {}", daemon.pid()));
    found.found(&["daemon-silent"]);

    daemon.kill();
    let found = check(&node, "");
    found.found(&["daemon-dead"]);
    assert_eq!(found.cures("daemon-dead", "here"), [format!("greway up {path}")]);
}

/// GRE of the far end with our own inner address inside: seen on the wire, whoever answers.
#[test]
fn packets_from_our_own_inner_address_come_out_of_the_tunnel() {
    require!(privilege::check());
    let pair = Pair::new("");
    // Or the check would be over before one of them came.
    pair.nodes[1].words("tunnel del tun0").ok();
    let [here, there] = super::pair::OUTER;
    let own = super::pair::INNER[0];
    let inner = build::ipv4(build::ipv4_header(own, Ipv4Addr::new(172, 16, 0, 9), 17), &[0; 16]);
    let header = greway_wire::gre::GreHeader { protocol_type: 0x0800, ..Default::default() };
    let datagram = build::ipv4(build::ipv4_header(there, here, build::GRE), &build::gre(header, &inner));
    let mac = |host: &Host| super::pair::mac(host, "wan0");
    let frame = build::ethernet(mac(&pair.left), mac(&pair.right), 0x0800, &datagram);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let found = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                greway_testbed::inject(&pair.right, "wan0", &frame).unwrap();
                std::thread::yield_now();
            }
        });
        let found = check(&pair.nodes[0], "");
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        found
    });
    assert!(found.ids().contains(&"same-inner-address"), "{:#}", found.json);
}

#[test]
fn a_device_in_another_namespace_is_a_remark() {
    require!(privilege::check());
    let pair = Pair::new("");
    let elsewhere = Host::new("elsewhere").unwrap();
    program_of(&pair.left, &format!("ip link set tun0 netns {}", elsewhere.path().display()));
    poll_until(SOON, "the move", || pair.nodes[0].status()["tunnels"][0]["moved"].as_bool().filter(|m| *m))
        .unwrap();
    let found = check(&pair.nodes[0], "");
    found.found(&[]).says("device-moved", &["another network namespace"]);
}
