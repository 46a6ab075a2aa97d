//! Tunnels over IPv6, and those without one far end: no alarm where all is well, and the faults that IPv4 has, found
//! in IPv6's words.

use std::net::Ipv6Addr;

use greway_testbed::{Host, LinkOptions, PingOptions, build, ping, privilege, require};

use super::pair::Pair;
use super::support::{in_vain, inner};
use super::{check, nft, program_of, type_in};

const OUTER: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0x47, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0x47, 0, 0, 0, 0, 0, 2)];

/// Two hosts on an IPv6 cable, with daemons and without a tunnel.
fn bare() -> Pair {
    let pair = Pair::bare(&LinkOptions::default());
    for (host, address) in [(&pair.left, OUTER[0]), (&pair.right, OUTER[1])] {
        host.sysctl("ipv6/conf/wan0/disable_ipv6", "0").unwrap();
        host.address("wan0", &format!("{address}/64")).unwrap();
    }
    pair
}

fn add(pair: &Pair, end: usize, words: &str) {
    let (local, remote) = (OUTER[end], OUTER[1 - end]);
    pair.nodes[end].words(&format!("tunnel add tun0 local {local} remote {remote} {words}")).ok();
    let (host, own, peer) = [(&pair.left, 1, 2), (&pair.right, 2, 1)][end];
    host.address("tun0", &format!("172.16.0.{own} peer 172.16.0.{peer}/30")).unwrap();
}

/// tun0 on both, with IPv4 inside.
fn six(words: &str) -> Pair {
    let pair = bare();
    add(&pair, 0, words);
    add(&pair, 1, words);
    pair
}

#[test]
fn over_ipv6_with_and_without_options() {
    require!(privilege::check());
    let pair = six("mode ip6gre");
    for words in ["", "key 42 csum seq", "nokey nocsum noseq encaplimit none hoplimit inherit"] {
        if !words.is_empty() {
            pair.change(words);
        }
        for node in &pair.nodes {
            check(node, "tun0").healthy(&["forward-rules", "way-back"]);
        }
    }
}

#[test]
fn a_firewall_of_ipv6_that_accepts_gre_and_one_that_does_not() {
    require!(privilege::check());
    let pair = six("mode ip6gre");
    let rules = "
        table ip6 filter {
            set peers { type ipv6_addr; flags interval; elements = { fd00:47::/126 } }
            chain input {
                type filter hook input priority 0; policy drop;
                icmpv6 type != 200 accept
                ip6 saddr @peers meta l4proto gre accept
            }
            chain output {
                type filter hook output priority 0; policy drop;
                meta l4proto { gre, icmpv6 } accept
            }
        }
        table inet other {
            chain input {
                type filter hook input priority 0
                ip protocol gre drop
                meta nfproto ipv4 meta l4proto gre drop
            }
        }
        table ip another {
            chain input {
                type filter hook input priority 0
                meta l4proto gre drop
            }
        }";
    nft(&pair.nodes[0], &pair.left, rules);
    pair.wait_for_underlay(0, "raw");
    check(&pair.nodes[0], "").healthy(&["forward-rules", "way-back"]);

    program_of(&pair.left, "nft flush chain ip6 filter input");
    program_of(&pair.left, "nft add rule ip6 filter input meta l4proto icmpv6 accept");
    let found = check(&pair.nodes[0], "");
    found.found(&["input-drops-gre"]).says(
        "input-drops-gre",
        &["does not let GRE of fd00:47::2 in", "table ip6 filter, chain input: policy drop"],
    );
    let cures = found.cures("input-drops-gre", "here");
    assert_eq!(cures, ["nft insert rule ip6 filter input ip6 saddr fd00:47::2 meta l4proto gre accept"]);
    type_in(&pair.nodes[0], &pair.left, &cures[0]);
    check(&pair.nodes[0], "").found(&[]);

    program_of(&pair.left, "nft insert rule ip6 filter output ip6 daddr fd00:47::2 meta l4proto gre drop");
    let found = check(&pair.nodes[0], "");
    found.found(&["output-drops-gre"]).says("output-drops-gre", &["GRE to fd00:47::2 out"]);
    let cures = found.cures("output-drops-gre", "here");
    assert_eq!(cures, ["nft insert rule ip6 filter output ip6 daddr fd00:47::2 meta l4proto gre accept"]);
    type_in(&pair.nodes[0], &pair.left, &cures[0]);
    check(&pair.nodes[0], "").found(&[]);
}

#[test]
fn a_far_end_over_ipv6_that_is_silent_and_the_words_for_it() {
    require!(privilege::check());
    let mut pair = bare();
    add(&pair, 0, "mode ip6gre key 7");
    // No greway there holds protocol 47 open, and the kernel says that it does not know it.
    pair.daemons[1].take();
    let found = check(&pair.nodes[0], "");
    found
        .found(&["far-end-no-gre"])
        .says("far-end-no-gre", &["fd00:47::2 answered GRE with ICMPv6 type 4 code 1"]);
    let cures = found.cures("far-end-no-gre", "far-end");
    let add = "ip -6 tunnel add tun0 mode ip6gre remote fd00:47::1 local fd00:47::2 key 7";
    assert_eq!(cures, [add, "ip link set tun0 up"]);
    // And now says nothing.
    let wall = "table ip6 wall {
        chain input {
            type filter hook input priority 0
            meta l4proto gre drop
        }
    }";
    nft(&pair.nodes[1], &pair.right, wall);
    let found = check(&pair.nodes[0], "");
    found
        .found(&["far-end-silent"])
        .says("far-end-silent", &["it answers a ping from outside", "hops: 1: ICMPv6 fd00:47::2"]);
    let last = found.cures("far-end-silent", "far-end").pop().unwrap();
    assert_eq!(last, "ip6tables -I INPUT -p gre -s fd00:47::1 -j ACCEPT");
    // Or that it may not be.
    program_of(&pair.right, "nft flush chain ip6 wall input");
    program_of(
        &pair.right,
        "nft add rule ip6 wall input meta l4proto gre reject with icmpv6 type admin-prohibited",
    );
    check(&pair.nodes[0], "")
        .found(&["protocol-47-filtered"])
        .says("protocol-47-filtered", &["ICMPv6 type 1 code 1"]);
    // The cure, as it is printed.
    program_of(&pair.right, "nft flush ruleset");
    pair.daemons[1] = Some(pair.nodes[1].daemon());
    for command in &cures {
        type_in(&pair.nodes[1], &pair.right, command);
    }
    pair.right.address("tun0", "172.16.0.2 peer 172.16.0.1/30").unwrap();
    check(&pair.nodes[0], "").found(&[]);
}

#[test]
fn keys_over_ipv6_that_differ() {
    require!(privilege::check());
    let pair = six("mode ip6gre key 42");
    pair.nodes[1].words("tunnel change tun0 key 7").ok();
    ping(&pair.right, inner(0), &in_vain()).unwrap();
    let found = check(&pair.nodes[0], "");
    found.found(&["key-mismatch"]).says("key-mismatch", &["peer sends key 7, this tunnel expects 42"]);
    let far = found.cures("key-mismatch", "far-end");
    assert_eq!(far, ["ip -6 tunnel change tun0 key 42"]);
    type_in(&pair.nodes[1], &pair.right, &far[0]);
    check(&pair.nodes[0], "").found(&[]);
}

#[test]
fn addresses_of_ipv6_that_are_not_where_they_should_be() {
    require!(privilege::check());
    let pair = six("mode ip6gre");
    let node = &pair.nodes[0];
    node.words("tunnel change tun0 local fd00:47::2 remote fd00:47::1").ok();
    let found = check(node, "");
    found.found(&["ends-swapped"]).says("ends-swapped", &["fd00:47::1 is on wan0"]);
    type_in(node, &pair.left, &found.cures("ends-swapped", "here")[0]);
    check(node, "").found(&[]);

    node.words("tunnel change tun0 local fd00:47::99").ok();
    let found = check(node, "");
    found.found(&["local-not-here"]).says("local-not-here", &["the way to fd00:47::2 begins at fd00:47::1"]);
    type_in(node, &pair.left, &found.cures("local-not-here", "here")[0]);
    check(node, "").found(&[]);

    pair.left.sysctl("ipv6/conf/tun0/disable_ipv6", "0").unwrap();
    program_of(&pair.left, "ip -6 route add fd00:47::2/128 dev tun0");
    check(node, "").found(&["route-through-tunnel"]);
    program_of(&pair.left, "ip -6 route del fd00:47::2/128 dev tun0");
    program_of(&pair.left, "ip -6 route add prohibit fd00:47::2/128");
    let found = check(node, "");
    found.found(&["no-route"]).says("no-route", &["a prohibiting route"]);
    type_in(node, &pair.left, &found.cures("no-route", "here")[0]);
    check(node, "").found(&[]);

    // 40 of IPv6, 8 of the encapsulation limit, 4 of GRE.
    program_of(&pair.left, "ip link set tun0 mtu 1460");
    let found = check(node, "");
    assert!(found.ids().contains(&"mtu-larger-than-path"), "{:#}", found.json);
    found.says("mtu-larger-than-path", &["only 1448 fit", "headers are 52"]);
}

/// What is looked at of a tunnel to many is looked at, and of the rest it is said that it is not.
#[track_caller]
fn not_of_one_far_end(found: &super::Check) {
    let looks = found.json["tunnels"][0]["looks"].as_array().unwrap();
    let look = |id: &str| looks.iter().find(|look| look["id"] == id).unwrap();
    for id in ["far-end", "input-rules", "output-rules", "key"] {
        assert_eq!(look(id)["state"], "not-looked", "{:#}", found.json);
        let reason = look(id)["reason"].as_str().unwrap();
        assert!(reason.contains("no one far end"), "{reason}");
    }
    assert_eq!(look("local")["state"], "ok", "{:#}", found.json);
}

#[test]
fn without_a_remote_and_with_a_group_what_was_not_looked_at_is_said() {
    require!(privilege::check());
    for words in [
        "mode gre local 10.0.0.1 remote any key 5",
        "mode ip6gre local fd00:47::1 remote any key 5",
        "mode gre local 10.0.0.1 remote 239.1.1.1 dev wan0 key 5",
        "mode ip6gre local fd00:47::1 remote ff05::47 dev wan0 key 5",
    ] {
        let pair = bare();
        let node = &pair.nodes[0];
        node.words(&format!("tunnel add tun0 {words}")).ok();
        pair.left.address("tun0", "172.16.0.1/24").unwrap();
        ping(&pair.left, inner(1), &PingOptions { count: 1, ..in_vain() }).unwrap();
        let found = check(node, "");
        found.found(&[]);
        not_of_one_far_end(&found);
        let status = node.words("status").ok();
        assert!(status.stdout.contains("may send into it"), "{words}: {status}");
        assert!(!status.stdout.contains("the far end is not up"), "{words}: {status}");
        let local = if words.contains("ip6gre") { "fd00:47::99" } else { "10.0.0.99" };
        node.words(&format!("tunnel change tun0 local {local}")).ok();
        check(node, "").found(&["local-not-here"]).says("local-not-here", &[local]);
    }
}

/// Somebody sends into a tunnel that anybody may send into, with another key: the status says so.
#[test]
fn another_key_to_a_tunnel_without_a_remote() {
    require!(privilege::check());
    let pair = bare();
    let node = &pair.nodes[0];
    node.words("tunnel add tun0 mode ip6gre local fd00:47::1 remote any key 5").ok();
    let mac = |host: &Host| super::pair::mac(host, "wan0");
    let header = greway_wire::gre::GreHeader { protocol_type: 0x0800, key: Some(6), ..Default::default() };
    let inside = build::ipv4(build::ipv4_header(super::pair::INNER[1], super::pair::INNER[0], 17), &[0; 16]);
    let datagram =
        build::ipv6(build::ipv6_header(OUTER[1], OUTER[0], build::GRE), &build::gre(header, &inside));
    let frame = build::ethernet(mac(&pair.left), mac(&pair.right), 0x86dd, &datagram);
    greway_testbed::inject(&pair.right, "wan0", &frame).unwrap();
    greway_testbed::poll_until(super::support::SOON, "the status that says so", || {
        let status = node.words("status tun0").ok();
        status.stdout.contains("fd00:47::2 sends packets with key 6, this tunnel takes key 5").then_some(())
    })
    .unwrap();
}
