//! The programs go by what they are told, and are told what changes on the host: routes, devices, addresses, sizes.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use greway_netlink::LinkChange;
use greway_testbed::{
    Capture, LinkOptions, PingOptions, PingReport, link, ping, poll_until, privilege, require,
};
use serde_json::Value;

use crate::hosts::{self, Carrier, answers_in_the_end, left, left_in_all, sh, tunnel, wait_for_datapath};
use crate::pair::{Pair, inner, mac};
use crate::support::{SOON, in_vain};

/// The devices at which left's programs receive.
fn underlays(pair: &Pair) -> Vec<String> {
    let status = hosts::status(pair, 0);
    let rows = status["fast_path"]["attached"].as_array().unwrap().iter();
    let at = rows.filter(|row| row["point"] == "underlay");
    at.map(|row| row["device"].as_str().unwrap().to_owned()).collect()
}

/// Left and right with two cables and a tunnel to an address of right that either leads to.
fn two_cables(carrier: &Carrier) -> Pair {
    let pair = carrier.bare();
    link(&pair.left, "wan1", &pair.right, "wan1", &LinkOptions::default()).unwrap();
    pair.left.address("wan1", "10.1.0.1/24").unwrap();
    pair.right.address("wan1", "10.1.0.2/24").unwrap();
    for (host, end) in [(&pair.left, 1), (&pair.right, 2)] {
        sh(host, &format!("ip link set lo up && ip address add 10.9.0.{end}/32 dev lo"));
    }
    sh(&pair.left, "ip route add 10.9.0.2 via 10.0.0.2");
    sh(&pair.right, "ip route add 10.9.0.1 via 10.0.0.1");
    for (node, here, there) in [(0, 1, 2), (1, 2, 1)] {
        let words = format!("tunnel add tun0 mode gre local 10.9.0.{here} remote 10.9.0.{there}");
        pair.nodes[node].words(&words).ok();
    }
    pair.left.address("tun0", "172.16.0.1/30").unwrap();
    pair.right.address("tun0", "172.16.0.2/30").unwrap();
    carrier.carries(&pair, "tun0");
    pair.answers(&PingOptions::default());
    pair
}

/// What a change did: all goes on, by this device, and by the programs alone.
#[track_caller]
fn goes_by(pair: &Pair, device: &str, what: &str) {
    let reached = poll_until(SOON, what, || (underlays(pair) == [device]).then_some(()));
    assert!(reached.is_ok(), "{what}: programs at {:?}", underlays(pair));
    answers_in_the_end(&pair.left, "172.16.0.2", what);
    let before = [left_in_all(&tunnel(pair, 0, "tun0")), left_in_all(&tunnel(pair, 1, "tun0"))];
    let cable = Capture::start(&pair.left, device).unwrap();
    pair.answers(&PingOptions::default());
    let packets = cable.stop();
    for outgoing in [true, false] {
        let seen = packets.iter().filter(|packet| packet.outgoing == outgoing && packet.gre().is_some());
        assert_eq!(seen.count(), 6, "{what}: on {device}, outgoing {outgoing}");
    }
    let after = [left_in_all(&tunnel(pair, 0, "tun0")), left_in_all(&tunnel(pair, 1, "tun0"))];
    assert_eq!(after, before, "{what}: userspace was asked");
}

#[test]
fn routes_devices_and_gateways() {
    require!(privilege::check());
    let carrier = Carrier::filters();
    let pair = two_cables(&carrier);
    goes_by(&pair, "wan0", "to begin with");
    let both = |script: &str| [&pair.left, &pair.right].map(|host| sh(host, script));
    sh(&pair.left, "ip route replace 10.9.0.2 via 10.1.0.2");
    sh(&pair.right, "ip route replace 10.9.0.1 via 10.1.0.1");
    goes_by(&pair, "wan1", "the other cable");
    assert_eq!(hosts::filters(&pair.left, "wan0"), "", "nothing is left where nobody comes in any more");

    // Another gateway on the same device: another station that has it.
    sh(&pair.right, "ip address add 10.1.0.3/24 dev wan1");
    sh(&pair.left, "ip route replace 10.9.0.2 via 10.1.0.3");
    goes_by(&pair, "wan1", "another gateway");
    let asked = sh(&pair.left, "ip neighbour show to 10.1.0.3 dev wan1");
    assert!(asked.contains(&mac(&pair.right, "wan1").to_string()), "{asked}");

    // The device goes down and comes back, without its routes.
    pair.left.set_down("wan1").unwrap();
    let why = wait_for_datapath(&pair, 0, "tun0", "userspace");
    assert!(why.contains("there is no route to 10.9.0.2"), "{why}");
    pair.left.set_up("wan1").unwrap();
    sh(&pair.left, "ip route replace 10.9.0.2 via 10.1.0.2");
    goes_by(&pair, "wan1", "the device is up again");

    // A rule that says otherwise, and its end.
    both("ip route add table 7 default dev wan0");
    sh(&pair.left, "ip route replace table 7 default via 10.0.0.2 && ip rule add to 10.9.0.2 table 7");
    sh(&pair.right, "ip route replace table 7 default via 10.0.0.1 && ip rule add to 10.9.0.1 table 7");
    goes_by(&pair, "wan0", "by a rule");
    both("ip rule del table 7");
    goes_by(&pair, "wan1", "the rule is gone");
}

#[test]
fn the_tunnels_own_device_goes_down_and_up() {
    require!(privilege::check());
    let carrier = Carrier::filters();
    let pair = carrier.pair("");
    pair.left.set_down("tun0").unwrap();
    let why = wait_for_datapath(&pair, 0, "tun0", "userspace");
    assert_eq!(why, "its device is down");
    pair.left.set_up("tun0").unwrap();
    carrier.carries_at(&pair, 0, "tun0");
    answers_in_the_end(&pair.left, "172.16.0.2", "up again");
    // Another address of the device: packets go to it that the far end's kernel takes for its own.
    sh(&pair.left, "ip link set tun0 address 02:00:00:00:99:01");
    answers_in_the_end(&pair.left, "172.16.0.2", "another MAC address");
    pair.answers(&PingOptions::default());
}

#[test]
fn an_address_that_is_no_more_this_hosts_is_withheld() {
    require!(privilege::check());
    let carrier = Carrier::filters();
    let pair = carrier.pair("");
    sh(&pair.left, "ip address add 10.0.0.7/24 dev wan0 && ip address del 10.0.0.1/24 dev wan0");
    let why = wait_for_datapath(&pair, 0, "tun0", "userspace");
    assert!(why.contains("local 10.0.0.1 is no address of this host"), "{why}");
    assert_eq!(pair.ping(&in_vain()).received(), 0);
    sh(&pair.left, "ip address add 10.0.0.1/24 dev wan0");
    carrier.carries_at(&pair, 0, "tun0");
    answers_in_the_end(&pair.left, "172.16.0.2", "the address is back");
}

/// A ping of one packet of this many bytes, its headers included, that may not be fragmented.
fn of_size(pair: &Pair, bytes: usize) -> PingReport {
    let options = PingOptions { count: 1, size: bytes - 28, df: true, ..in_vain() };
    ping(&pair.left, inner(1), &options).unwrap()
}

/// What the sender is told in the end of what is too large, and that it is not delivered.
#[track_caller]
fn told(pair: &Pair, bytes: usize) -> (u32, Value) {
    let mtu = poll_until(SOON, "an answer to what is too large", || {
        let report = of_size(pair, bytes);
        assert_eq!(report.received(), 0, "{report}");
        report.errors.iter().find_map(|error| error.mtu)
    });
    (mtu.unwrap(), pair.status(0))
}

/// The cable gets narrower, and wide again: by programs and by userspace the same is said.
#[test]
fn tx06_the_underlays_mtu_changes() {
    require!(privilege::check());
    for carrier in [Carrier::filters(), Carrier::userspace()] {
        let pair = carrier.pair("");
        assert!(of_size(&pair, 1_476).complete(), "{carrier}");
        let mtu = |mtu: u32| {
            for (host, node) in [(&pair.left, &pair.nodes[0]), (&pair.right, &pair.nodes[1])] {
                host.change("wan0", &LinkChange { mtu: Some(mtu), ..LinkChange::default() }).unwrap();
                poll_until(SOON, "the tunnel's own MTU to follow", || {
                    (node.mtu("tun0") == mtu - 24).then_some(())
                })
                .unwrap();
            }
            // Larger than the way by hand, or its sender were told before the tunnel sees it.
            pair.left.change("tun0", &LinkChange { mtu: Some(1_476), ..LinkChange::default() }).unwrap();
        };
        mtu(1_400);
        let (told, status) = told(&pair, 1_476);
        assert_eq!(told, 1_376, "{carrier}");
        assert!(crate::pair::drops(&status, "too-big-for-path") > 0, "{carrier}: {}", status["drops"]);
        if carrier.to_string() != "userspace" {
            assert!(left(&status, "too-big") > 0, "{}", status["left_to_userspace"]);
        }
        assert!(of_size(&pair, 1_376).complete(), "{carrier}");
        mtu(1_500);
        sh(&pair.left, "ip route flush cache");
        let wide = poll_until(SOON, "the wide way", || of_size(&pair, 1_476).complete().then_some(()));
        assert!(wide.is_ok(), "{carrier}: {}", pair.status(0));
    }
}

/// A router on the way says that a delivery packet was too large, and that the far end cannot be reached: the program has
/// sent the packet, and userspace tells its sender.
#[test]
fn er02_er04_t18_what_routers_say_reaches_the_inner_sender() {
    require!(privilege::check());
    for carrier in [Carrier::filters(), Carrier::userspace()] {
        let lab = crate::support::two_hosts();
        let _daemons =
            [lab.one.daemon_with(&carrier.environment()), lab.two.daemon_with(&carrier.environment())];
        lab.tunnel("");
        assert!(lab.ping().complete(), "{carrier}");
        let narrow = LinkChange { mtu: Some(1_400), ..LinkChange::default() };
        lab.guide.router.change("eth2", &narrow).unwrap();
        lab.guide.linux2.change("wan0", &narrow).unwrap();
        let large = PingOptions { count: 1, size: 1_476 - 28, df: true, ..in_vain() };
        let mtu = poll_until(SOON, "an answer to what is too large", || {
            let report = ping(&lab.guide.linux1, crate::support::inner(1), &large).unwrap();
            assert_eq!(report.received(), 0, "{carrier}: {report}");
            report.errors.iter().find_map(|error| error.mtu)
        });
        assert_eq!(mtu.unwrap(), 1_376, "{carrier}");
        let status = crate::pair::tunnel(&lab.one.words("status --json --no-echo").ok().stdout, "tun0");
        assert!(crate::pair::drops(&status, "too-big-for-path") > 0, "{carrier}: {}", status["drops"]);

        // Now the way ends at the router.
        sh(&lab.guide.router, "ip route add unreachable 100.0.2.100/32");
        let report = poll_until(SOON, "an error inside", || {
            let report = ping(&lab.guide.linux1, crate::support::inner(1), &in_vain()).unwrap();
            (!report.errors.is_empty()).then_some(report)
        });
        let error = report.unwrap().errors[0];
        assert_eq!((error.icmp_type, error.code), (3, 1), "{carrier}: {error}");
        let status = crate::pair::tunnel(&lab.one.words("status --json --no-echo").ok().stdout, "tun0");
        assert!(status["unreachable_told"].as_u64().unwrap() > 0, "{carrier}: {status}");
        if carrier.to_string() != "userspace" {
            assert_eq!(status["datapath"]["datapath"], "ebpf", "{status}");
            assert!(left(&status, "asked") > 0, "the program gave one back: {}", status["left_to_userspace"]);
        }
        sh(&lab.guide.router, "ip route del unreachable 100.0.2.100/32");
        answers_in_the_end(&lab.guide.linux1, "172.16.0.2", "the way is back");
    }
}
