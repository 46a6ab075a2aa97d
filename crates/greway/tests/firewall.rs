//! The host's firewall and its IPsec policies hold for GRE as they would for the kernel's own: nothing is carried past
//! a rule, and what a rule lets through is carried at once.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests; rates and times are for people"
)]

#[path = "support/pair.rs"]
mod pair;
mod support;

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use greway_linux::MacAddr;
use greway_netlink::nftables::{Family, Hook, Nftables, TableId, accept_only};
use greway_testbed::{
    Capture, CapturedPacket, Host, LinkOptions, PingOptions, build, inject, link, poll_until, privilege,
    require,
};
use greway_wire::gre::GreHeader;

use pair::{OUTER, Pair, drops, seen};
use support::{SOON, in_vain};

const ICMP: u8 = 1;
const UDP: u8 = 17;
const GRE: u8 = 47;

/// A firewall that lets nothing but these protocols pass these hooks.
fn only(host: &Host, hooks: &[Hook], protocols: &[u8]) {
    let nftables = host.run(Nftables::open).unwrap().unwrap();
    nftables.apply(&accept_only("strict", hooks, protocols)).unwrap();
}

/// Takes it away.
fn lift(host: &Host) {
    let nftables = host.run(Nftables::open).unwrap().unwrap();
    assert!(nftables.delete_table(&TableId::new(Family::Inet, "strict")).unwrap());
}

fn one() -> PingOptions {
    PingOptions { count: 1, timeout: Duration::from_millis(100), ..PingOptions::default() }
}

/// Waits until the tunnel carries again and prints how long that took.
fn carries_again(pair: &Pair, since: Instant, what: &str) {
    poll_until(Duration::from_secs(2), what, || pair.ping(&one()).complete().then_some(())).unwrap();
    println!("{what}: carries again after {:.0} ms", since.elapsed().as_secs_f64() * 1e3);
}

/// A hook of left at which nothing but ICMP passes stops the tunnel; `accept` for protocol 47 brings it back, and
/// so does the end of the rules.
fn a_rule_holds(hook: Hook, receives: bool) {
    let pair = Pair::new("");
    pair.answers(&PingOptions::default());
    pair.wait_for_underlay(0, "packet");

    only(&pair.left, &[hook], &[ICMP]);
    let why = pair.wait_for_underlay(0, "raw");
    assert!(why.contains("inet strict") && why.contains(&hook.to_string()), "{why}");
    let comes_out = Capture::start(&pair.left, "tun0").unwrap();
    let leaves = Capture::start(&pair.left, "wan0").unwrap();
    let before = pair.status(0);
    assert_eq!(pair.ping(&in_vain()).received(), 0, "carried past {hook}");
    if receives {
        assert_eq!(comes_out.count(|packet| !packet.outgoing), 0, "nothing comes out of the tunnel");
        assert_eq!(
            leaves.count(|packet| !packet.outgoing && packet.gre().is_some()),
            2,
            "the replies did arrive"
        );
        assert_eq!(pair.status(0)["counters"]["received_packets"], before["counters"]["received_packets"]);
    } else {
        let left = seen(leaves, |packet| packet.outgoing && packet.gre().is_some());
        assert_eq!(left, 0, "nothing leaves");
    }

    let begin = Instant::now();
    only(&pair.left, &[hook], &[ICMP, GRE]);
    carries_again(&pair, begin, &format!("{hook}: accept for protocol 47"));
    assert_eq!(pair.status(0)["datapath"]["underlay"], "raw", "rules still hold");
    pair.answers(&PingOptions::default());
    // TCP has to pass the same rule on its way out of the tunnel.
    only(&pair.left, &[hook], &[ICMP, GRE, 6]);
    pair.bulk(1 << 20, "behind the rules");

    lift(&pair.left);
    pair.wait_for_underlay(0, "packet");
    pair.answers(&PingOptions::default());
}

#[test]
fn input_rules_hold() {
    require!(privilege::check());
    a_rule_holds(Hook::Input, true);
}

#[test]
fn prerouting_rules_hold() {
    require!(privilege::check());
    a_rule_holds(Hook::Prerouting, true);
}

#[test]
fn output_rules_hold() {
    require!(privilege::check());
    a_rule_holds(Hook::Output, false);
}

#[test]
fn postrouting_rules_hold() {
    require!(privilege::check());
    a_rule_holds(Hook::Postrouting, false);
}

#[test]
fn what_output_rules_refuse_is_counted() {
    require!(privilege::check());
    let pair = Pair::new("");
    only(&pair.left, &[Hook::Output], &[ICMP]);
    pair.carried_by(0, "userspace");
    assert_eq!(pair.ping(&in_vain()).received(), 0);
    pair.wait_for_drops(0, "firewall-refused", 2);
    assert_eq!(pair.status(0)["counters"]["sent_packets"], 0, "what was refused was not sent");
    pair.nodes[0]
        .words("status tun0 --no-echo")
        .ok()
        .says(&["firewall-refused", "firewall or an IPsec policy"]);
}

#[test]
fn rules_that_were_there_before_the_tunnel_hold_from_its_first_packet() {
    require!(privilege::check());
    let pair = Pair::bare(&LinkOptions::default());
    only(&pair.left, &[Hook::Input], &[ICMP]);
    pair.add("tun0", "");
    pair.left.address("tun0", "172.16.0.1 peer 172.16.0.2/30").unwrap();
    pair.right.address("tun0", "172.16.0.2 peer 172.16.0.1/30").unwrap();
    assert_eq!(pair.ping(&in_vain()).received(), 0);
    assert_eq!(pair.status(0)["counters"]["received_packets"], 0);
    assert_eq!(pair.status(0)["datapath"]["underlay"], "raw");
}

#[test]
fn a_bypass_that_was_asked_for_is_taken_and_said() {
    require!(privilege::check());
    for words in ["firewall bypass", "underlay packet"] {
        let pair = Pair::new(words);
        only(&pair.left, &[Hook::Input], &[ICMP]);
        pair.answers(&PingOptions::default());
        let carried = &pair.status(0)["datapath"];
        assert_eq!(carried["underlay"], "packet");
        assert!(carried["why"].as_str().unwrap().contains("asked for"), "{carried}");
    }
}

#[test]
fn rules_of_other_families_and_hooks_do_not_slow_a_tunnel() {
    require!(privilege::check());
    let pair = Pair::new("");
    only(&pair.left, &[Hook::Forward], &[]);
    pair.answers(&PingOptions::default());
    pair.wait_for_underlay(0, "packet");
}

#[test]
fn our_own_address_translation_is_no_reason_for_the_slow_way() {
    require!(privilege::check());
    let pair = Pair::bare(&LinkOptions::default());
    let file = pair.nodes[0].file(
        "tun0.toml",
        r#"
        name = "tun0"
        local = "10.0.0.1"
        remote = "10.0.0.2"
        [inner]
        address = "172.16.0.1"
        peer = "172.16.0.2/30"
        forward = true
        snat = "10.0.0.1"
        "#,
    );
    pair.nodes[0].greway(&["up", &file]).ok();
    let tables = pair.nodes[0].nft_tables();
    assert!(tables.contains(&"ip greway-tun0".to_owned()), "{tables:?}");
    pair.wait_for_underlay(0, "packet");
}

#[test]
fn a_legacy_iptables_table_is_a_reason_for_the_slow_way() {
    require!(privilege::check());
    let pair = Pair::new("");
    let made = program(&pair.left, "iptables-legacy -A INPUT -p 47 -j DROP");
    require!(made);
    pair.wait_for_underlay(0, "raw");
    assert_eq!(pair.ping(&in_vain()).received(), 0);
}

#[test]
fn nothing_leaves_in_plaintext_past_an_ipsec_policy() {
    require!(privilege::check());
    let pair = Pair::new("");
    pair.answers(&PingOptions::default());
    let [here, there] = OUTER;
    let policy = format!("ip xfrm policy add src {here}/32 dst {there}/32 proto gre dir out action block");
    let made = program(&pair.left, &policy);
    require!(made);
    let why = pair.wait_for_underlay(0, "raw");
    assert!(why.contains("IPsec policy") && why.contains("10.0.0.2"), "{why}");
    for words in ["", "underlay raw", "underlay packet", "firewall bypass underlay auto", "nopmtudisc"] {
        let cable = Capture::start(&pair.left, "wan0").unwrap();
        if !words.is_empty() {
            pair.nodes[0].words(&format!("tunnel change tun0 {words}")).ok();
        }
        assert_eq!(pair.ping(&in_vain()).received(), 0, "{words}");
        let left = seen(cable, |packet| packet.outgoing && packet.gre().is_some());
        assert_eq!(left, 0, "{words}: went round the policy");
    }
    assert!(drops(&pair.status(0), "firewall-refused") >= 10, "{}", pair.status(0)["drops"]);
    program(&pair.left, "ip xfrm policy flush").unwrap();
    let begin = Instant::now();
    carries_again(&pair, begin, "without the policy");
}

#[test]
fn a_policy_for_what_arrives_is_honoured_too() {
    require!(privilege::check());
    let pair = Pair::new("");
    let [here, there] = OUTER;
    let policy = format!("ip xfrm policy add src {there}/32 dst {here}/32 proto gre dir in action block");
    let made = program(&pair.left, &policy);
    require!(made);
    pair.wait_for_underlay(0, "raw");
    assert_eq!(pair.ping(&in_vain()).received(), 0);
    assert_eq!(pair.status(0)["counters"]["received_packets"], 0);
    program(&pair.left, "ip xfrm policy flush").unwrap();
    pair.wait_for_underlay(0, "packet");
    poll_until(SOON, "the tunnel", || pair.ping(&one()).complete().then_some(())).unwrap();
}

/// Runs a program of the system inside a host; why not, where it is not there or fails.
fn program(host: &Host, line: &str) -> Result<(), String> {
    let mut words = line.split_whitespace();
    let output =
        host.output(Command::new(words.next().unwrap()).args(words)).map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// The kernel's own GRE is behind the reverse path filter; the packet socket is not, and keeps its rule itself.
#[test]
fn a_spoofed_source_by_the_wrong_device_is_refused_where_rp_filter_is_strict() {
    require!(privilege::check());
    let pair = Pair::new("underlay packet");
    pair.answers(&PingOptions::default());
    let stranger = Host::new("stranger").unwrap();
    link(&pair.left, "side0", &stranger, "eth0", &LinkOptions::default()).unwrap();
    pair.left.address("side0", "192.0.2.1/24").unwrap();
    stranger.address("eth0", "192.0.2.2/24").unwrap();
    let mac = |host: &Host, dev: &str| {
        let link = host.netlink().unwrap().link_by_name(dev).unwrap().unwrap();
        MacAddr::new(link.address.unwrap())
    };
    let [here, there] = OUTER;
    let inner = build::ipv4_header(Ipv4Addr::new(172, 16, 0, 2), Ipv4Addr::new(172, 16, 0, 1), UDP);
    let payload = build::ipv4(inner, &[0; 16]);
    let gre = build::gre(GreHeader { protocol_type: 0x0800, ..GreHeader::default() }, &payload);
    let datagram = build::ipv4(build::ipv4_header(there, here, GRE), &gre);
    let frame = build::ethernet(mac(&pair.left, "side0"), mac(&stranger, "eth0"), 0x0800, &datagram);
    let comes_out = Capture::start(&pair.left, "tun0").unwrap();
    let spoofed = |packet: &CapturedPacket| packet.protocol() == Some(UDP);

    inject(&stranger, "eth0", &frame).unwrap();
    comes_out.wait_for(SOON, "the spoofed packet, which nothing forbids yet", spoofed).unwrap();

    pair.left.sysctl("ipv4/conf/side0/rp_filter", "1").unwrap();
    // Of no tunnel: it is refused before one is looked for.
    let refused = || drops(&pair.nodes[0].status(), "reverse-path");
    poll_until(SOON, "the refusal", || {
        inject(&stranger, "eth0", &frame).unwrap();
        (refused() > 0).then_some(())
    })
    .unwrap();
    comes_out.clear();
    for _ in 0..5 {
        inject(&stranger, "eth0", &frame).unwrap();
    }
    poll_until(SOON, "five more refusals", || (refused() >= 6).then_some(())).unwrap();
    assert_eq!(comes_out.count(spoofed), 0);
    pair.answers(&PingOptions::default());
}
