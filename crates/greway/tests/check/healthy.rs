//! Set-ups that work give no alarm.

use std::time::Duration;

use greway_testbed::{PingOptions, ping, poll_until, privilege, require};

use super::pair::Pair;
use super::support::{Lab, SOON, inner};
use super::{check, nft, program_of};

#[test]
fn plain_keyed_numbered_and_summed_tunnels() {
    require!(privilege::check());
    let pair = Pair::new("");
    for (words, not_looked) in [
        ("", &["forward-rules"][..]),
        ("key 42", &["forward-rules"]),
        ("csum", &["forward-rules"]),
        ("seq", &["forward-rules"]),
        ("nokey nocsum noseq ttl 64", &["forward-rules"]),
    ] {
        if !words.is_empty() {
            pair.change(words);
        }
        for node in &pair.nodes {
            check(node, "tun0").healthy(&[not_looked, &["way-back"]].concat());
        }
    }
}

#[test]
fn an_overlay_of_tun_and_ipv6_inside() {
    require!(privilege::check());
    require!(tun());
    let pair = Pair::bare(&greway_testbed::LinkOptions::default());
    pair.add("tun0", "overlay tun");
    for (host, node, address) in
        [(&pair.left, &pair.nodes[0], "fd00::1/126"), (&pair.right, &pair.nodes[1], "fd00::2/126")]
    {
        host.sysctl("ipv6/conf/tun0/disable_ipv6", "0").unwrap();
        host.address("tun0", address).unwrap();
        assert!(node.status()["tunnels"][0]["datapath"]["overlay"] == "tun");
    }
    let found = check(&pair.nodes[0], "tun0");
    found.healthy(&["forward-rules", "far-forwarding", "way-back", "twin"]);
    // It was not merely not asked.
    let looks = found.json["tunnels"][0]["looks"].as_array().unwrap();
    let sizes = looks.iter().find(|look| look["id"] == "black-hole").unwrap();
    assert_eq!(sizes["state"], "ok", "{:#}", found.json);
}

fn tun() -> Result<(), String> {
    match std::path::Path::new("/dev/net/tun").exists() {
        true => Ok(()),
        false => Err("no /dev/net/tun".to_owned()),
    }
}

#[test]
fn a_tunnel_without_inner_addresses_that_was_never_used() {
    require!(privilege::check());
    let pair = Pair::bare(&greway_testbed::LinkOptions::default());
    pair.add("tun0", "");
    let unknown = ["forward-rules", "far-forwarding", "way-back", "twin", "black-hole"];
    check(&pair.nodes[0], "").healthy(&unknown);
}

/// The raw path, behind a firewall that accepts protocol 47 and nothing else that is new.
#[test]
fn a_firewall_that_accepts_gre() {
    require!(privilege::check());
    let pair = Pair::new("key 42");
    let rules = "
        table inet filter {
            set peers { type ipv4_addr; flags interval; elements = { 10.0.0.0/30, 192.0.2.1 } }
            chain input {
                type filter hook input priority 0; policy drop;
                ct state vmap { established : accept, related : accept, invalid : drop }
                iif lo accept
                ip saddr @peers meta l4proto gre accept
                iifname \"tun*\" icmp type echo-request accept
            }
            chain forward { type filter hook forward priority 0; policy drop; }
            chain output { type filter hook output priority 0; policy drop; jump allowed; }
            chain allowed { meta l4proto { gre, icmp } accept; limit rate 5/second accept; }
        }";
    for (node, host) in [(&pair.nodes[0], &pair.left), (&pair.nodes[1], &pair.right)] {
        nft(node, host, rules);
    }
    pair.wait_for_underlay(0, "raw");
    pair.wait_for_underlay(1, "raw");
    for node in &pair.nodes {
        check(node, "").healthy(&["forward-rules", "way-back"]);
    }
}

/// The far end's firewall drops pings, inside and outside, and GRE works.
#[test]
fn a_far_end_that_drops_pings_but_sends_is_not_silent() {
    require!(privilege::check());
    let pair = Pair::new("");
    nft(
        &pair.nodes[1],
        &pair.right,
        "table inet quiet {
            chain input {
                type filter hook input priority 0
                icmp type echo-request drop
            }
        }",
    );
    pair.wait_for_underlay(1, "raw");
    // Something came: it pinged us a moment ago.
    let report = ping(&pair.right, inner(0), &PingOptions::default()).unwrap();
    assert!(report.complete(), "{report}");
    check(&pair.nodes[0], "tun0").found(&[]).says("far-end-quiet", &["the last packet came"]);
}

/// Scenario 1 of the guide: linux1 uses the network behind linux2, which translates. Real iptables.
#[test]
fn scenario_1_with_translation() {
    require!(privilege::check());
    let (lab, _daemons) = Lab::up("");
    lab.guide.linux1.route("10.10.2.0/24", "dev tun0").unwrap();
    lab.guide.linux2.forwarding(true).unwrap();
    program_of(
        &lab.guide.linux2,
        "iptables -t nat -A POSTROUTING -s 172.16.0.1 -d 10.10.2.0/24 -j SNAT --to-source 10.10.2.1",
    );
    let lan = greway_testbed::guide::LAN[1].into();
    poll_until(SOON, "the network behind linux2", || {
        let once = PingOptions { count: 1, timeout: Duration::from_millis(300), ..PingOptions::default() };
        ping(&lab.guide.linux1, lan, &once).unwrap().complete().then_some(())
    })
    .unwrap();
    // That linux1 does not forward is a remark there: it has a network of its own.
    let one = check(&lab.one, &format!("tun0 --to {lan}"));
    one.found(&[]).says("no-forwarding", &["10.10.1.0/24 on lan0"]);
    check(&lab.two, "").healthy(&["way-back"]);
}

/// Scenario 2: both networks reach each other.
#[test]
fn scenario_2_between_networks() {
    require!(privilege::check());
    let (lab, _daemons) = Lab::up("key 42");
    lab.guide.default_routes().unwrap();
    lab.guide.linux1.route("10.10.2.0/24", "dev tun0").unwrap();
    lab.guide.linux2.route("10.10.1.0/24", "dev tun0").unwrap();
    for host in [&lab.guide.linux1, &lab.guide.linux2] {
        host.forwarding(true).unwrap();
        // As RHEL has it: strict, and harmless where routes are the same both ways.
        host.sysctl("ipv4/conf/all/rp_filter", "1").unwrap();
    }
    let lan = greway_testbed::guide::LAN;
    assert!(ping(&lab.guide.lan1, lan[1].into(), &PingOptions::default()).unwrap().complete());
    check(&lab.one, "tun0 --to 10.10.2.100").healthy(&[]);
    check(&lab.two, "tun0 --to 10.10.1.100").healthy(&[]);
}

/// Two tunnels to one remote, told apart by their keys: packets of the one are no fault of the other.
#[test]
fn two_tunnels_to_one_remote() {
    require!(privilege::check());
    let pair = Pair::new("key 1");
    pair.add("tun1", "key 2");
    pair.left.address("tun1", "172.16.1.1 peer 172.16.1.2/30").unwrap();
    pair.right.address("tun1", "172.16.1.2 peer 172.16.1.1/30").unwrap();
    check(&pair.nodes[0], "").healthy(&["forward-rules", "way-back"]);
}
