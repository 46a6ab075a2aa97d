//! The guide's second method, word for word: its blocks of `ip` commands for both hosts, run by a shell, and its
//! two scenarios on top.
//!
//! Only the second host's addresses are put right: the guide has the first one's there.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use greway_testbed::guide::{GATEWAY, LAN};
use greway_testbed::tcp::transfer;
use greway_testbed::{Guide, Host, PingOptions, ping, privilege, require};

use crate::support::{Daemon, in_vain, inner};
use crate::{Shimmed, real};

const LINUX1: &str = "\
ip tunnel add tun0 mode gre remote 100.0.2.100 local 100.0.1.100
ip addr add 172.16.0.1/30 peer 172.16.0.2/30 dev tun0
ip route add 10.10.2.0/24 dev tun0
";

const LINUX2: &str = "\
ip tunnel add tun0 mode gre remote 100.0.1.100 local 100.0.2.100
ip addr add 172.16.0.2/30 peer 172.16.0.1/30 dev tun0
ip route add 10.10.1.0/24 dev tun0
";

/// As the guide has it.
const LINUX2_AS_WRITTEN: &str = "ip tunnel add tun0 mode gre remote 100.0.2.100 local 100.0.1.100";

/// In the order in which it goes: a daemon has its namespace's lock until its end.
struct Lab {
    daemons: [Daemon; 2],
    one: Shimmed,
    two: Shimmed,
    guide: Guide,
}

fn lab() -> Lab {
    let guide = Guide::build().unwrap();
    let (one, two) = (Shimmed::new(&guide.linux1), Shimmed::new(&guide.linux2));
    let daemons = [one.node.daemon(), two.node.daemon()];
    Lab { daemons, one, two, guide }
}

impl Lab {
    fn blocks(&self) {
        for (host, block) in [(&self.one, LINUX1), (&self.two, LINUX2)] {
            let done = host.sh(&format!("set -e\n{block}")).ok();
            assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("", ""), "{}", done.shown);
        }
    }
}

fn carries(from: &Host, to: &Host, address: impl Into<IpAddr>) {
    let address = address.into();
    let pinged = ping(from, address, &PingOptions::default()).unwrap();
    assert!(pinged.complete(), "{} to {}: {pinged}", from.name(), to.name());
    let sent = transfer(from, to, SocketAddr::new(address, 0), 1 << 20, Duration::from_secs(14)).unwrap();
    assert!(sent.intact(), "{} to {}: {sent:?}", from.name(), to.name());
}

#[test]
fn g05_to_g10_the_guides_blocks_run_as_written() {
    require!(privilege::check());
    let lab = lab();
    lab.blocks();
    let node = &lab.one.node;
    let shows = |script: &str| real(node, script).ok().stdout;
    assert_eq!(
        lab.one.ip("tunnel show").ok().stdout,
        "tun0: gre/ip remote 100.0.2.100 local 100.0.1.100 ttl inherit\n"
    );
    assert!(node.link("tun0").unwrap().up, "left up, or the third line would fail (G07)");
    assert_eq!(node.mtu("tun0"), 1476);
    assert!(shows("ip -4 addr show tun0").contains("inet 172.16.0.1 peer 172.16.0.2/30 scope global tun0\n"));
    let routes = shows("ip route show dev tun0");
    assert!(routes.contains("10.10.2.0/24 scope link"), "{routes}");
    assert!(routes.contains("172.16.0.0/30 proto kernel scope link src 172.16.0.1"), "G04: {routes}");
    // G71, G74
    assert!(shows("ip route get 10.10.2.100").starts_with("10.10.2.100 dev tun0 src 172.16.0.1 "));
    let local = shows("ip route show table local dev tun0");
    assert!(local.contains("local 172.16.0.1 ") && local.contains("broadcast 172.16.0.3 "), "{local}");
    carries(&lab.guide.linux1, &lab.guide.linux2, inner(1));
    carries(&lab.guide.linux2, &lab.guide.linux1, inner(0));
}

#[test]
fn g08_the_second_block_as_written_is_taken_and_told_of() {
    require!(privilege::check());
    let lab = lab();
    let done = lab.two.sh(LINUX2_AS_WRITTEN).ok();
    assert_eq!(done.stdout, "");
    for words in ["warning: tun0: remote 100.0.2.100 is this host's own address", "are they swapped?"] {
        assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
    }
    lab.two.ip("tunnel del tun0").ok();
    assert!(lab.two.node.link("tun0").is_none());
}

/// Scenario 1: linux1 reaches hosts of linux2's LAN, which know no way back but to linux2.
#[test]
fn scenario_1_with_the_guides_iptables_rule() {
    require!(privilege::check());
    let lab = lab();
    lab.blocks();
    lab.guide.linux2.forwarding(true).unwrap();
    assert!(!ping(&lab.guide.linux1, LAN[1].into(), &in_vain()).unwrap().complete(), "no SNAT, no way back");
    // G11: the guide's rule has a slip in it.
    let slip = real(
        &lab.two.node,
        "iptables -t nat -A POSTROUTING -s 1772.16.0.1 -d 10.10.2.0/24 -j SNAT --to-source 10.10.2.1",
    );
    assert_eq!(slip.code, Some(2));
    assert!(slip.stderr.contains("host/network `1772.16.0.1' not found"), "{slip}");
    real(
        &lab.two.node,
        "iptables -t nat -A POSTROUTING -s 172.16.0.1 -d 10.10.2.0/24 -j SNAT --to-source 10.10.2.1",
    )
    .ok();
    let rules = real(&lab.two.node, "iptables -t nat -S POSTROUTING").ok().stdout;
    let g12 = "-A POSTROUTING -s 172.16.0.1/32 -d 10.10.2.0/24 -j SNAT --to-source 10.10.2.1\n";
    assert!(rules.contains(g12), "G12: {rules}");
    carries(&lab.guide.linux1, &lab.guide.lan2, LAN[1]);
    assert_eq!(GATEWAY[1].to_string(), "10.10.2.1", "the address in the rule is linux2's own");
}

/// Scenario 2: the hosts of both LANs reach each other.
#[test]
fn scenario_2_between_the_lans() {
    require!(privilege::check());
    let lab = lab();
    lab.blocks();
    lab.guide.default_routes().unwrap();
    lab.guide.linux1.forwarding(true).unwrap();
    lab.guide.linux2.forwarding(true).unwrap();
    carries(&lab.guide.lan1, &lab.guide.lan2, LAN[1]);
    carries(&lab.guide.lan2, &lab.guide.lan1, LAN[0]);
}

/// G60–G70 on our device; G72 is where it differs from a TUN: with no process alive it stays as it is.
#[test]
fn g60_to_g74_addresses_and_routes_on_the_device() {
    require!(privilege::check());
    let lab = lab();
    lab.one.ip("tunnel add tun0 mode gre remote 100.0.2.100 local 100.0.1.100").ok();
    let ip = |words: &str| lab.one.ip(words);
    for (id, words, address, route) in [
        ("G60", "172.16.0.1 dev tun0 peer 172.16.0.2/30", "172.16.0.1 peer 172.16.0.2/30", "172.16.0.0/30 "),
        ("G62", "172.16.0.1 peer 172.16.0.2 dev tun0", "172.16.0.1 peer 172.16.0.2/32", "172.16.0.2 "),
        (
            "G64",
            "172.16.0.1/255.255.255.252 peer 172.16.0.6 dev tun0",
            "172.16.0.1 peer 172.16.0.6/32",
            "172.16.0.6 ",
        ),
        ("G65", "172.16.0.1/30 dev tun0", "172.16.0.1/30 ", "172.16.0.0/30 "),
        ("G67", "10.0.0.1 remote 10.0.0.2/32 dev tun0", "10.0.0.1 peer 10.0.0.2/32", "10.0.0.2 "),
    ] {
        ip(&format!("addr add {words}")).ok();
        let shown = ip("-4 addr show tun0").ok().stdout;
        assert!(shown.contains(&format!("inet {address}")), "{id}: {shown}");
        let routes = ip("route show dev tun0").ok().stdout;
        assert!(routes.contains(&format!("{route}proto kernel scope link src ")), "{id}: {routes}");
        let again = ip(&format!("addr add {words}"));
        assert_eq!(
            (again.code, again.stderr.as_str()),
            (Some(2), "Error: ipv4: Address already assigned.\n"),
            "G68"
        );
        ip("addr flush dev tun0").ok();
    }
    for (id, words, stderr, code) in [
        ("G69", "172.16.0.1/30 dev nosuch", "Cannot find device \"nosuch\"\n", 1),
        ("G69", "172.16.0.1/30", "Not enough information: \"dev\" argument is required.\n", 255),
        (
            "G70",
            "172.16.0.1/33 dev tun0",
            "Error: any valid prefix is expected rather than \"172.16.0.1/33\".\n",
            1,
        ),
        ("G70", "172.16.0.1 peer foo dev tun0", "Error: inet prefix is expected rather than \"foo\".\n", 1),
    ] {
        let refused = ip(&format!("addr add {words}"));
        assert_eq!(refused.stderr, stderr, "{id}");
        // The version decides between 1 and 255 in the second.
        let straight = real(&lab.one.node, &format!("ip addr add {words}"));
        assert_eq!(refused.code, straight.code, "{id} {code}");
    }
    // G07's other half: on a device that is down.
    ip("link set tun0 down").ok();
    let down = ip("route add 10.10.2.0/24 dev tun0");
    assert_eq!((down.code, down.stderr.as_str()), (Some(2), "Error: Device for nexthop is not up.\n"));
    ip("link set tun0 up").ok();
    ip("addr add 172.16.0.1 dev tun0 peer 172.16.0.2/30").ok();
    ip("route add 10.10.2.0/24 dev tun0").ok();
    let before = (ip("route show dev tun0").ok().stdout, ip("link show tun0").ok().stdout);
    let Lab { one, daemons: [daemon, _other], .. } = lab;
    daemon.kill();
    let after = (one.ip("route show dev tun0").ok().stdout, one.ip("link show tun0").ok().stdout);
    assert_eq!(before, after, "G72");
    assert!(!after.0.contains("linkdown") && after.1.contains("state UP"), "{after:?}");
}
