//! Rules and policies of the host on the way of the delivery packets: no program carries past one that lets no GRE through,
//! and userspace takes the way on which it holds.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use greway_testbed::{Capture, PingOptions, poll_until, privilege, require};

use crate::hosts::{Carrier, left, sh, tunnel, wait_for_datapath};
use crate::pair::Pair;
use crate::support::{SOON, in_vain};

/// Rules under which the programs are closed: what makes them, what takes them away, and what the reason names.
struct Rules {
    make: &'static str,
    lift: &'static str,
    why: &'static str,
}

/// A rule that lets no GRE through, at left: nothing gets past it, either way, and the reason is said.
fn holds(rules: &Rules) {
    let carrier = Carrier::filters();
    let pair = carrier.pair("");
    sh(&pair.left, rules.make);
    let why = wait_for_datapath(&pair, 0, "tun0", "userspace");
    assert!(why.contains(rules.why), "{why}");
    assert_eq!(pair.ping(&in_vain()).received(), 0, "past {}", rules.why);
    assert!(left_by_rule(&pair) > 0, "the program leaves it: {}", tunnel(&pair, 0, "tun0"));
    sh(&pair.left, rules.lift);
    carrier.carries_at(&pair, 0, "tun0");
    answers_again(&pair);
    let counted = left_by_rule(&pair);
    pair.answers(&PingOptions::default());
    assert_eq!(left_by_rule(&pair), counted, "carried again");
}

/// What left's programs left to userspace since rules may be on the way, and witnesses did not pass.
fn left_by_rule(pair: &Pair) -> u64 {
    let tunnel = tunnel(pair, 0, "tun0");
    ["withheld", "closed"].iter().map(|reason| left(&tunnel, reason)).sum()
}

fn answers_again(pair: &Pair) {
    let again = poll_until(SOON, "an answer", || pair.ping(&in_vain()).complete().then_some(()));
    assert!(again.is_ok(), "without the rules: {}", pair.status(0));
}

#[test]
fn a_rule_that_drops_gre_holds_whatever_hook_it_is_at() {
    require!(privilege::check());
    for hook in ["prerouting", "input", "output", "postrouting"] {
        let make = format!(
            "nft add table ip guard && \
             nft 'add chain ip guard gate {{ type filter hook {hook} priority 0; }}; \
             add rule ip guard gate ip protocol gre drop'"
        );
        let rules = Rules {
            make: make.leak(),
            lift: "nft delete table ip guard",
            why: "nftables chain ip guard gate",
        };
        holds(&rules);
    }
}

/// Behind tc and before all sockets: the delivery packets of a program would never come by there.
#[test]
fn a_chain_at_the_ingress_of_the_underlay_holds() {
    require!(privilege::check());
    let make = "nft 'add table netdev guard; \
                add chain netdev guard gate { type filter hook ingress device \"wan0\" priority 0; }; \
                add rule netdev guard gate ip protocol gre drop'";
    let rules = Rules { make, lift: "nft delete table netdev guard", why: "netdev guard" };
    holds(&rules);
}

/// Never plaintext past a policy: with one that blocks nothing leaves, at no time after it is there.
#[test]
fn an_ipsec_policy_holds() {
    require!(privilege::check());
    let make = "ip xfrm policy add src 10.0.0.1 dst 10.0.0.2 proto gre dir out action block";
    let lift = "ip xfrm policy delete src 10.0.0.1 dst 10.0.0.2 proto gre dir out";
    let carrier = Carrier::filters();
    let pair = carrier.pair("");
    let tried = pair.left.output(std::process::Command::new("/bin/sh").args(["-c", make])).unwrap();
    require!(match tried.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&tried.stderr).trim().to_owned()),
    });
    let why = wait_for_datapath(&pair, 0, "tun0", "userspace");
    assert!(why.contains("an IPsec policy covers the way to 10.0.0.2"), "{why}");
    let cable = Capture::start(&pair.left, "wan0").unwrap();
    assert_eq!(pair.ping(&in_vain()).received(), 0);
    assert_eq!(cable.count(|packet| packet.outgoing && packet.gre().is_some()), 0, "plaintext past a policy");
    sh(&pair.left, lift);
    carrier.carries_at(&pair, 0, "tun0");
    answers_again(&pair);
    // One of another flow concerns nobody here.
    sh(&pair.left, "ip xfrm policy add src 10.0.0.1 dst 10.0.0.7 proto gre dir out action block");
    pair.answers(&PingOptions::default());
    carrier.carries_at(&pair, 0, "tun0");
    assert_eq!(tunnel(&pair, 0, "tun0")["datapath"]["datapath"], "ebpf");
}
