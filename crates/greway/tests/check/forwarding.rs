//! What is handed on: by this host, by the far end, and back.

use std::time::Duration;

use greway_testbed::{PingOptions, guide, ping, privilege, require};

use super::support::Lab;
use super::{check, program_of, type_in};

fn once() -> PingOptions {
    PingOptions { count: 1, timeout: Duration::from_millis(300), ..PingOptions::default() }
}

/// The guide's scenario 2 with one thing missing after the other.
#[test]
fn scenario_2_without_forwarding_and_without_the_way_back() {
    require!(privilege::check());
    let (lab, _daemons) = Lab::up("");
    let (one, two) = (&lab.guide.linux1, &lab.guide.linux2);
    lab.guide.default_routes().unwrap();
    one.route("10.10.2.0/24", "dev tun0").unwrap();
    one.forwarding(true).unwrap();
    // linux2 neither forwards nor knows the way back.
    let found = check(&lab.one, "tun0");
    found
        .found(&["far-end-does-not-forward", "no-way-back"])
        .says("no-way-back", &["10.10.1.0/24", "not to 10.10.1.1"]);
    for id in ["far-end-does-not-forward", "no-way-back"] {
        for command in found.cures(id, "far-end") {
            type_in(&lab.two, two, &command);
        }
    }
    assert!(ping(&lab.guide.lan1, guide::LAN[1].into(), &once()).unwrap().complete());
    check(&lab.one, "tun0").found(&[]);

    // It forwards, and not to that network.
    one.route("192.168.77.0/24", "dev tun0").unwrap();
    two.route("100.0.1.0/24", "via 100.0.2.1").unwrap();
    two.delete_route("default", "via 100.0.2.1").unwrap();
    let found = check(&lab.one, "tun0");
    found.found(&["far-end-no-route"]).says("far-end-no-route", &["192.168.77.0/24"]);
}

#[test]
fn a_file_that_asks_for_forwarding_that_somebody_turned_off() {
    require!(privilege::check());
    let (lab, _daemons) = Lab::up("");
    lab.two.words("tunnel del tun0").ok();
    let path = lab.two.file(
        "tun0.toml",
        r#"
        name = "tun0"
        local = "100.0.2.100"
        remote = "100.0.1.100"
        [inner]
        address = "172.16.0.2"
        peer = "172.16.0.1/30"
        forward = true
        snat = "10.10.2.1"
        "#,
    );
    lab.two.greway(&["up", &path]).ok();
    check(&lab.two, "").found(&[]);
    lab.guide.linux2.forwarding(false).unwrap();
    let found = check(&lab.two, "");
    found.found(&["no-forwarding"]).says("no-forwarding", &["net.ipv4.ip_forward = 0", "forward = true"]);
    type_in(&lab.two, &lab.guide.linux2, &found.cures("no-forwarding", "here")[0]);
    check(&lab.two, "").found(&[]);
}

/// A rule of real iptables translates what the peer sends, as in scenario 1, and nothing is forwarded.
#[test]
fn scenario_1_without_forwarding() {
    require!(privilege::check());
    let (lab, _daemons) = Lab::up("");
    for program in ["iptables", "iptables-legacy"] {
        let rule = "POSTROUTING -s 172.16.0.1 -d 10.10.2.0/24 -j SNAT --to-source 10.10.2.1";
        program_of(&lab.guide.linux2, &format!("{program} -t nat -A {rule}"));
        let found = check(&lab.two, "");
        found
            .found(&["no-forwarding"])
            .says("no-forwarding", &["a rule translates packets of the peer that leave by lan0"]);
        program_of(&lab.guide.linux2, &format!("{program} -t nat -D {rule}"));
        check(&lab.two, "").found(&[]);
    }
}

/// A host with Docker: policy DROP on FORWARD, and a chain for the rules of others.
#[test]
fn a_forward_policy_as_docker_sets_it() {
    require!(privilege::check());
    let (lab, _daemons) = Lab::up("");
    let (one, two) = (&lab.guide.linux1, &lab.guide.linux2);
    lab.guide.default_routes().unwrap();
    one.route("10.10.2.0/24", "dev tun0").unwrap();
    two.route("10.10.1.0/24", "dev tun0").unwrap();
    one.forwarding(true).unwrap();
    two.forwarding(true).unwrap();
    for (program, docker) in [("iptables", true), ("iptables-legacy", false)] {
        let rules = ["-P FORWARD DROP", "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"];
        let chain = ["-N DOCKER-USER", "-I FORWARD -j DOCKER-USER", "-A DOCKER-USER -j RETURN"];
        for words in rules.iter().chain(if docker { &chain[..] } else { &[] }) {
            program_of(one, &format!("{program} {words}"));
        }
        assert_eq!(ping(&lab.guide.lan1, guide::LAN[1].into(), &once()).unwrap().received(), 0);
        let found = check(&lab.one, "");
        found
            .found(&["forward-drops"])
            .says("forward-drops", &["chain FORWARD of table ip filter", "policy drop"]);
        let cures = found.cures("forward-drops", "here");
        let chain = if docker { "DOCKER-USER" } else { "FORWARD" };
        assert_eq!(cures, ["-i", "-o"].map(|way| format!("{program} -I {chain} {way} tun0 -j ACCEPT")));
        for command in &cures {
            type_in(&lab.one, one, command);
        }
        assert!(ping(&lab.guide.lan1, guide::LAN[1].into(), &once()).unwrap().complete());
        check(&lab.one, "").found(&[]);
        for words in ["-F", "-P FORWARD ACCEPT"] {
            program_of(one, &format!("{program} {words}"));
        }
    }
}

/// Scenario 1 without translation: hosts behind linux2 do not know 172.16.0.1.
#[test]
fn hosts_behind_that_know_no_way_back() {
    require!(privilege::check());
    let (lab, _daemons) = Lab::up("");
    let (one, two) = (&lab.guide.linux1, &lab.guide.linux2);
    one.route("10.10.2.0/24", "dev tun0").unwrap();
    two.forwarding(true).unwrap();
    // Something that tracks connections, as a host with a firewall has.
    super::nft(
        &lab.two,
        two,
        "table inet track {
            chain forward {
                type filter hook forward priority 0
                ct state established accept
            }
        }",
    );
    assert_eq!(ping(one, guide::LAN[1].into(), &once()).unwrap().received(), 0);
    let found = check(&lab.two, "");
    found.found(&["no-return-path"]).says("no-return-path", &["172.16.0.1", "10.10.2.100", "none answered"]);
    let behind = found.cures("no-return-path", "behind");
    assert_eq!(behind, ["ip route add 172.16.0.1 via 10.10.2.1"]);
    // From the other end the same is seen by who names the host.
    let named = check(&lab.one, "tun0 --to 10.10.2.100");
    named.found(&["destination-silent"]).says("destination-silent", &["knows no way back to 172.16.0.1"]);
    let cures = found.cures("no-return-path", "here");
    assert_eq!(
        cures,
        ["iptables -t nat -A POSTROUTING -s 172.16.0.1 -d 10.10.2.0/24 -j SNAT --to-source 10.10.2.1"]
    );
    type_in(&lab.two, two, &cures[0]);
    assert!(ping(one, guide::LAN[1].into(), &once()).unwrap().complete());
    check(&lab.two, "").found(&[]);
    check(&lab.one, "tun0 --to 10.10.2.100").found(&[]);
    // A host that no route leads to through the tunnel.
    check(&lab.one, "tun0 --to 10.99.0.1").found(&["not-through-tunnel"]);
}
