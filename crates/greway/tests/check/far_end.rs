//! Faults of the far end and of the way there, told from this end.

use greway_testbed::{build, privilege, require};

use super::pair::Pair;
use super::support::{Lab, in_vain, inner, two_hosts};
use super::{check, nft, program_of, type_in};

#[test]
fn a_far_end_that_is_silent() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    lab.tunnel_on_one();
    // Nobody there takes GRE, and its kernel says so.
    let found = check(&lab.one, "");
    found
        .found(&["far-end-no-gre"])
        .says("far-end-no-gre", &["100.0.2.100 answered GRE with ICMP type 3 code 2"]);
    assert_eq!(
        found.cures("far-end-no-gre", "far-end"),
        ["ip tunnel add tun0 mode gre remote 100.0.1.100 local 100.0.2.100", "ip link set tun0 up"]
    );
    // And now says nothing: the last hop that answers is before it.
    nft(
        &lab.two,
        &lab.guide.linux2,
        "table inet wall {
            chain input {
                type filter hook input priority 0
                ip protocol gre drop
            }
        }",
    );
    let found = check(&lab.one, "");
    found.found(&["far-end-silent"]).says(
        "far-end-silent",
        &["it answers a ping from outside", "1: ICMP 100.0.1.1, GRE 100.0.1.1; 2: ICMP 100.0.2.100, GRE *"],
    );
    // Not even there.
    lab.guide.linux2.set_down("wan0").unwrap();
    check(&lab.one, "").found(&["far-end-silent"]).says("far-end-silent", &["neither GRE nor a ping"]);
}

/// The kernel's GRE says so of a tunnel that it has not. Here a rule says it.
#[test]
fn a_far_end_that_has_gre_and_not_this_tunnel() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemons = [lab.one.daemon(), lab.two.daemon()];
    lab.tunnel_on_one();
    let module = "table ip module {
        chain input {
            type filter hook input priority 0
            ip protocol gre reject with icmp type port-unreachable
        }
    }";
    nft(&lab.two, &lab.guide.linux2, module);
    let found = check(&lab.one, "");
    found
        .found(&["far-end-no-tunnel"])
        .is("far-end-no-tunnel", "stops")
        .says("far-end-no-tunnel", &["no tunnel with these ends and no key", "ICMP type 3 code 3"]);
    program_of(&lab.guide.linux2, "nft flush ruleset");
    for command in found.cures("far-end-no-tunnel", "far-end") {
        type_in(&lab.two, &lab.guide.linux2, &command);
    }
    lab.guide.linux2.address("tun0", "172.16.0.2 peer 172.16.0.1/30").unwrap();
    check(&lab.one, "").found(&[]);
}

#[test]
fn a_router_that_has_no_way_to_the_far_end() {
    require!(privilege::check());
    let (lab, _daemons) = Lab::up("");
    program_of(&lab.guide.router, "ip route add unreachable 100.0.2.100");
    let found = check(&lab.one, "");
    found
        .found(&["far-end-unreachable"])
        .is("far-end-unreachable", "stops")
        .says("far-end-unreachable", &["100.0.1.1 says that 100.0.2.100 cannot be reached"]);
    // Nothing is to be typed on either end.
    assert_eq!(found.finding("far-end-unreachable")["cure"], serde_json::json!([]));
}

/// Something on the way damages packets.
#[test]
fn checksums_that_are_wrong() {
    require!(privilege::check());
    let pair = Pair::new("csum");
    // Or it would be heard, and what was is cured.
    pair.nodes[1].words("tunnel del tun0").ok();
    let [here, there] = super::pair::OUTER;
    let [own, peer] = super::pair::INNER;
    let inner = build::ipv4(build::ipv4_header(peer, own, 17), &[0; 16]);
    let header =
        greway_wire::gre::GreHeader { protocol_type: 0x0800, checksum: Some(0), ..Default::default() };
    let mut gre = build::gre(header, &inner);
    *gre.last_mut().unwrap() ^= 0x55;
    let datagram = build::ipv4(build::ipv4_header(there, here, build::GRE), &gre);
    let mac = |host: &greway_testbed::Host| super::pair::mac(host, "wan0");
    let frame = build::ethernet(mac(&pair.left), mac(&pair.right), 0x0800, &datagram);
    for _ in 0..3 {
        greway_testbed::inject(&pair.right, "wan0", &frame).unwrap();
    }
    pair.wait_for_drops(0, "bad-checksum", 3);
    let found = check(&pair.nodes[0], "");
    found
        .found(&["checksum-wrong"])
        .is("checksum-wrong", "hinders")
        .says("checksum-wrong", &["3 packets dropped, bad-checksum; 0 of them during this check"]);
}

#[test]
fn protocol_47_filtered_on_the_way() {
    require!(privilege::check());
    let (lab, _daemons) = Lab::up("key 42");
    // A hop that answers ICMP with no hops left, and to GRE nothing.
    let drop = "table ip cloud {
        chain way {
            type filter hook prerouting priority -300
            ip protocol gre VERDICT
        }
    }";
    nft(&lab.one, &lab.guide.router, &drop.replace("VERDICT", "drop"));
    let found = check(&lab.one, "");
    found.found(&["protocol-47-filtered"]).says(
        "protocol-47-filtered",
        &["the last hop that answers it is nobody", "100.0.1.1 answers ICMP with the same number of hops"],
    );
    // A router that says so.
    program_of(&lab.guide.router, "nft flush ruleset");
    let say = drop.replace("prerouting priority -300", "forward priority 0");
    nft(&lab.one, &lab.guide.router, &say.replace("VERDICT", "reject with icmp type admin-prohibited"));
    let found = check(&lab.one, "");
    found.found(&["protocol-47-filtered"]).says("protocol-47-filtered", &["by 100.0.1.1", "type 3 code 13"]);
    program_of(&lab.guide.router, "nft flush ruleset");
    check(&lab.one, "").found(&[]);
}

#[test]
fn keys_that_differ() {
    require!(privilege::check());
    let pair = Pair::new("key 42");
    let cases = [
        ("key 7", "peer sends key 7, this tunnel expects 42"),
        ("nokey", "peer sends no key, this tunnel expects 42"),
    ];
    for (words, sentence) in cases {
        pair.nodes[1].words(&format!("tunnel change tun0 {words}")).ok();
        // The far end sends; whether it is answered or not.
        greway_testbed::ping(&pair.right, inner(0), &in_vain()).unwrap();
        let found = check(&pair.nodes[0], "");
        found.found(&["key-mismatch"]).says("key-mismatch", &[sentence]);
        assert_eq!(found.cures("key-mismatch", "here"), [format!("greway tunnel change tun0 {words}")]);
        assert_eq!(found.cures("key-mismatch", "far-end"), ["ip tunnel change tun0 key 42"]);
    }
    // Either cure cures.
    pair.nodes[1].words("tunnel change tun0 key 42").ok();
    check(&pair.nodes[0], "").found(&[]);
    pair.nodes[1].words("tunnel change tun0 key 7").ok();
    greway_testbed::ping(&pair.right, inner(0), &in_vain()).unwrap();
    // It was heard a moment ago with the right key, and then with another.
    check(&pair.nodes[0], "").found(&["key-mismatch"]);
    type_in(&pair.nodes[0], &pair.left, "greway tunnel change tun0 key 7");
    check(&pair.nodes[0], "").found(&[]);
}

/// This host has two addresses, and each end means another one.
#[test]
fn packets_to_another_address_of_this_host() {
    require!(privilege::check());
    let pair = Pair::new("");
    pair.left.address("wan0", "10.0.0.5/24").unwrap();
    pair.nodes[1].words("tunnel change tun0 remote 10.0.0.5").ok();
    greway_testbed::ping(&pair.right, inner(0), &in_vain()).unwrap();
    let found = check(&pair.nodes[0], "");
    found
        .found(&["sent-elsewhere"])
        .is("sent-elsewhere", "stops")
        .says("sent-elsewhere", &["peer sends to 10.0.0.5, this tunnel's local is 10.0.0.1"]);
    let far = found.cures("sent-elsewhere", "far-end");
    assert_eq!(far, ["ip tunnel change tun0 remote 10.0.0.1"]);
    type_in(&pair.nodes[0], &pair.left, &found.cures("sent-elsewhere", "here")[0]);
    check(&pair.nodes[0], "").found(&[]);
}

#[test]
fn checksums_and_sequence_numbers_that_differ() {
    require!(privilege::check());
    for (words, id, sentence) in [
        ("csum", "checksum-mismatch", "peer sends no checksum, this tunnel expects one"),
        ("seq", "sequence-mismatch", "peer sends no sequence numbers, this tunnel expects them"),
    ] {
        let pair = Pair::new("");
        pair.nodes[0].words(&format!("tunnel change tun0 {words}")).ok();
        greway_testbed::ping(&pair.right, inner(0), &in_vain()).unwrap();
        let found = check(&pair.nodes[0], "");
        found.found(&[id]).says(id, &[sentence]);
        assert_eq!(found.cures(id, "far-end"), [format!("ip tunnel change tun0 {words}")]);
        if words == "csum" {
            let other = check(&pair.nodes[1], "");
            other.found(&[id]).says(id, &["peer sends a checksum, this tunnel expects none"]);
        }
        type_in(&pair.nodes[0], &pair.left, &found.cures(id, "here")[0]);
        check(&pair.nodes[0], "").found(&[]);
    }
}

#[test]
fn a_peer_that_began_to_number_again() {
    require!(privilege::check());
    let mut pair = Pair::new("seq");
    pair.answers(&greway_testbed::PingOptions::default());
    // It forgets its numbers with its state.
    pair.daemons[1].take().unwrap().kill();
    std::fs::remove_file(pair.nodes[1].state().join("tun0.sequence")).unwrap();
    let _daemon = pair.nodes[1].daemon();
    greway_testbed::ping(&pair.right, inner(0), &in_vain()).unwrap();
    let found = check(&pair.nodes[0], "");
    assert!(found.ids().contains(&"sequence-late"), "{:#}", found.json);
    for command in found.cures("sequence-late", "here") {
        type_in(&pair.nodes[0], &pair.left, &command);
    }
    check(&pair.nodes[0], "").found(&[]);
}

/// The way takes less than the device's MTU, and whoever knows says nothing.
#[test]
fn an_mtu_black_hole() {
    require!(privilege::check());
    let (lab, _daemons) = Lab::up("");
    program_of(&lab.guide.router, "ip link set eth2 mtu 1400");
    nft(
        &lab.one,
        &lab.guide.router,
        "table ip mute {
            chain out {
                type filter hook output priority 0
                icmp type destination-unreachable drop
            }
        }",
    );
    let found = check(&lab.one, "");
    found.found(&["mtu-black-hole"]);
    let cures = found.cures("mtu-black-hole", "here");
    // 1400 less 24 of headers, found in steps of four.
    let mtu: u32 = cures[0].strip_prefix("ip link set tun0 mtu ").unwrap().parse().unwrap();
    assert!((1372..=1376).contains(&mtu), "{cures:?}");
    type_in(&lab.one, &lab.guide.linux1, &cures[0]);
    check(&lab.one, "").found(&[]);
}
