//! Rules of the policy database, added, listed and deleted in a namespace of their own.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test may panic, and says when it was not run"
)]

mod namespace;

use greway_netlink::{Family, IpPrefix, Rule, RuleAction};
use namespace::in_namespace;

fn rule(family: Family, table: u32) -> Rule {
    Rule::all(family, RuleAction::Table(table))
}

fn prefix(text: &str) -> Option<IpPrefix> {
    let (address, length) = text.split_once('/')?;
    IpPrefix::new(address.parse().ok()?, length.parse().ok()?)
}

#[test]
fn a_new_namespace_has_the_kernels_rules() {
    in_namespace("a_new_namespace_has_the_kernels_rules", |netlink| {
        let shown =
            |family| netlink.rules(family).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
        // As `ip rule show` has them.
        let [local, main, default] =
            ["0: from all lookup 255", "32766: from all lookup 254", "32767: from all lookup 253"];
        assert_eq!(shown(Family::Ipv4), [local, main, default]);
        assert_eq!(shown(Family::Ipv6), [local, main]);
    });
}

#[test]
fn every_selector_comes_back_as_it_was_given() {
    in_namespace("every_selector_comes_back_as_it_was_given", |netlink| {
        let mut given = Vec::new();
        for (family, from, to) in
            [(Family::Ipv4, "10.10.1.0/24", "10.0.0.0/8"), (Family::Ipv6, "fd00:1::/64", "fd00::/8")]
        {
            let base = Rule { priority: Some(100), ..rule(family, 70_000) };
            given.extend([
                Rule { from: prefix(from), ..base.clone() },
                Rule { priority: Some(101), to: prefix(to), not: true, ..base.clone() },
                Rule { priority: Some(102), tos: 0x10, fwmark: Some((1, 0xff)), ..base.clone() },
                Rule { priority: Some(103), fwmark: Some((7, u32::MAX)), ..base.clone() },
                Rule {
                    priority: Some(104),
                    iif: Some("tun0".into()),
                    oif: Some("lo".into()),
                    ..base.clone()
                },
                Rule { priority: Some(105), suppress_prefix_length: Some(0), ..base.clone() },
                Rule { priority: Some(106), action: RuleAction::Blackhole, ..base.clone() },
                Rule { priority: Some(107), action: RuleAction::Prohibit, ..base.clone() },
                Rule { priority: Some(108), action: RuleAction::Unreachable, ..base },
            ]);
        }
        for rule in &given {
            netlink.add_rule(rule).unwrap();
            assert!(netlink.add_rule(rule).unwrap_err().is_exists(), "{rule}");
        }
        for family in [Family::Ipv4, Family::Ipv6] {
            let found = netlink.rules(family).unwrap();
            let added = found.into_iter().filter(|rule| (100..200).contains(&rule.priority.unwrap()));
            let wanted = given.iter().filter(|rule| rule.family == family).cloned();
            assert_eq!(added.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
        }
        for rule in &given {
            netlink.delete_rule(rule).unwrap();
            assert!(netlink.delete_rule(rule).unwrap_err().is_not_found(), "{rule}");
        }
        assert_eq!(netlink.rules(Family::Ipv4).unwrap().len(), 3);
        assert_eq!(netlink.rules(Family::Ipv6).unwrap().len(), 2);
    });
}

#[test]
fn without_a_priority_it_comes_before_the_main_table() {
    in_namespace("without_a_priority_it_comes_before_the_main_table", |netlink| {
        let rule = Rule { from: prefix("10.10.1.0/24"), ..rule(Family::Ipv4, 100) };
        netlink.add_rule(&rule).unwrap();
        let found = netlink.rules(Family::Ipv4).unwrap();
        assert_eq!(found[1].to_string(), "32765: from 10.10.1.0/24 lookup 100");
        // Deleted by what it selects, whatever its priority became.
        netlink.delete_rule(&rule).unwrap();
        assert_eq!(netlink.rules(Family::Ipv4).unwrap().len(), 3);
        let wrong = Rule { from: prefix("fd00::/8"), ..rule };
        assert!(netlink.add_rule(&wrong).unwrap_err().to_string().contains("no IPv4 address"));
    });
}
