//! The host's firewall, by nf_tables, iptables and legacy iptables: what drops is named, and the cure cures.

use greway_testbed::{Host, privilege, require};

use super::pair::Pair;
use super::support::Node;
use super::{check, nft, program_of, type_in};

/// The finding must be there with this place in its evidence, and be gone when its cures are typed.
#[track_caller]
fn cured(node: &Node, host: &Host, id: &str, place: &str) -> Vec<String> {
    let found = check(node, "");
    found.found(&[id]).says(id, &[place]);
    let cures = found.cures(id, "here");
    assert!(!cures.is_empty());
    for command in &cures {
        type_in(node, host, command);
    }
    check(node, "").found(&[]);
    cures
}

#[test]
fn nft_chains_that_drop() {
    require!(privilege::check());
    let pair = Pair::new("");
    let (node, host) = (&pair.nodes[0], &pair.left);
    for (hook, id) in
        [("input", "input-drops-gre"), ("prerouting", "input-drops-gre"), ("output", "output-drops-gre")]
    {
        // By its policy, with nothing but ICMP let through.
        let text = format!(
            "table inet strict {{
                chain base {{
                    type filter hook {hook} priority 0; policy drop;
                    meta l4proto icmp accept
                }}
            }}"
        );
        nft(node, host, &text);
        pair.wait_for_underlay(0, "raw");
        let cures = cured(node, host, id, "table inet strict, chain base: policy drop");
        assert!(cures[0].starts_with("nft insert rule inet strict base ip "), "{cures:?}");
        program_of(host, "nft flush ruleset");
        pair.wait_for_underlay(0, "packet");
    }
    // By a rule in a chain that another jumps to by a map.
    nft(
        node,
        host,
        "table ip mine {
            set banned { type ipv4_addr; flags interval; elements = { 10.0.0.2-10.0.0.9 }; }
            chain other { ip saddr @banned counter drop; }
            chain input {
                type filter hook input priority 10
                meta l4proto vmap { gre : jump other, tcp : accept }
            }
        }",
    );
    pair.wait_for_underlay(0, "raw");
    cured(node, host, "input-drops-gre", "table ip mine, chain other: rule 1");
}

#[test]
fn iptables_of_both_kinds_that_drop() {
    require!(privilege::check());
    let pair = Pair::new("");
    let (node, host) = (&pair.nodes[0], &pair.left);
    for (program, place) in
        [("iptables", "table ip filter"), ("iptables-legacy", "iptables-legacy table ip filter")]
    {
        program_of(host, &format!("{program} -N guard"));
        program_of(host, &format!("{program} -A INPUT -j guard"));
        program_of(host, &format!("{program} -A guard -p tcp --dport 22 -j ACCEPT"));
        program_of(
            host,
            &format!("{program} -A guard -p gre -s 10.0.0.0/24 -m comment --comment no -j DROP"),
        );
        pair.wait_for_underlay(0, "raw");
        let cures = cured(node, host, "input-drops-gre", &format!("{place}, chain guard: rule 2"));
        assert_eq!(cures, [format!("{program} -I INPUT -p gre -s 10.0.0.2 -j ACCEPT")]);
        program_of(host, &format!("{program} -F"));
        program_of(host, &format!("{program} -P OUTPUT DROP"));
        program_of(host, &format!("{program} -A OUTPUT -p icmp -j ACCEPT"));
        cured(node, host, "output-drops-gre", &format!("{place}, chain OUTPUT: policy drop"));
        program_of(host, &format!("{program} -P OUTPUT ACCEPT"));
        program_of(host, &format!("{program} -F"));
    }
}

/// A condition that no reading of the rules decides: what arrives and does not come in does.
#[test]
fn what_arrives_and_is_lost_is_found_whatever_the_rule_says() {
    require!(privilege::check());
    let pair = Pair::new("");
    let (node, host) = (&pair.nodes[0], &pair.left);
    nft(
        node,
        host,
        "table inet odd {
            chain input {
                type filter hook input priority 0
                meta l4proto gre meta cpu < 4096 drop
            }
        }",
    );
    pair.wait_for_underlay(0, "raw");
    let found = check(node, "");
    found.found(&["input-drops-gre"]).says(
        "input-drops-gre",
        &["table inet odd, chain input: rule 1", "arrived during this check and none reached the tunnel"],
    );
    // With a bypass it is passed by, which is healthy.
    node.words("tunnel change tun0 firewall bypass").ok();
    pair.wait_for_underlay(0, "packet");
    check(node, "").found(&[]);
}

/// A rule that asks for a state before connection tracking has given one: everything is INVALID there, which no
/// reading of the rules as they are meant tells.
#[test]
fn what_conntrack_calls_invalid() {
    require!(privilege::check());
    let pair = Pair::new("");
    let (node, host) = (&pair.nodes[0], &pair.left);
    let rules = "table ip early {
        chain raw {
            type filter hook prerouting priority raw
            meta l4proto gre ct state invalid drop
        }
    }";
    nft(node, host, rules);
    pair.wait_for_underlay(0, "raw");
    check(node, "").is("conntrack-invalid", "stops");
    cured(node, host, "conntrack-invalid", "table ip early, chain raw: rule 1");
    // Where states are given it is every firewall's rule, and harmless.
    program_of(host, "nft flush ruleset");
    nft(node, host, &rules.replace("priority raw", "priority 0"));
    check(node, "").found(&[]);
}

/// Lets in what this end began only: a remark, for it works while both ends send.
#[test]
fn a_firewall_that_takes_answers_only() {
    require!(privilege::check());
    let pair = Pair::new("");
    nft(
        &pair.nodes[0],
        &pair.left,
        "table inet filter {
            chain input {
                type filter hook input priority 0; policy drop;
                ct state established,related accept
                iifname tun0 accept
            }
        }",
    );
    pair.wait_for_underlay(0, "raw");
    let found = check(&pair.nodes[0], "");
    found.found(&[]).says("input-takes-answers-only", &["table inet filter, chain input: policy drop"]);
}

#[test]
fn ipsec_that_blocks_and_that_has_no_association() {
    require!(privilege::check());
    let pair = Pair::new("");
    let (node, host) = (&pair.nodes[0], &pair.left);
    let way = "src 10.0.0.1/32 dst 10.0.0.2/32 proto gre dir out";
    program_of(host, &format!("ip xfrm policy add {way} action block"));
    pair.wait_for_underlay(0, "raw");
    let found = check(node, "");
    found.found(&["ipsec-blocks"]);
    for command in found.cures("ipsec-blocks", "here") {
        type_in(node, host, &command);
    }
    pair.wait_for_underlay(0, "packet");
    check(node, "").found(&[]);
    program_of(host, &format!("ip xfrm policy add {way} tmpl proto esp mode transport"));
    pair.wait_for_underlay(0, "raw");
    check(node, "").found(&["ipsec-no-state"]).says("ipsec-no-state", &["none to 10.0.0.2"]);
}
