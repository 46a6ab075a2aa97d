//! GRE under an IPsec policy (ESP in transport mode, keys by hand) with the kernel at both ends of it: nothing of ours
//! is ever on the wire in the clear while a policy wants it encrypted, whatever sends it (T4, M7).

use greway_testbed::{Capture, CapturedPacket, Host, PingOptions, ping, poll_until, require};

use crate::lab::{Lab, address, answers, attempt, comes_to_answer, debian_ping, inside, is_esp, is_gre, sh};
use crate::pair;
use crate::support::SOON;

/// The keys for both directions; without a policy nothing is sent by them.
fn keys(host: &Host, ends: [&str; 2]) {
    for (number, [from, to]) in [(1, ends), (2, [ends[1], ends[0]])] {
        sh(
            host,
            &format!(
                "ip xfrm state add src {from} dst {to} proto esp spi 0x10{number} mode transport \
                 auth 'hmac(sha256)' 0x{0:064x} enc 'cbc(aes)' 0x{0:032x}",
                0x1234_5670 + number
            ),
        );
    }
}

/// What is sent as GRE from the first end to the second has to be encrypted.
fn out(verb: &str, host: &Host, [from, to]: [&str; 2]) {
    let template = if verb == "add" {
        format!("tmpl src {from} dst {to} proto esp mode transport")
    } else {
        String::new()
    };
    sh(host, &format!("ip xfrm policy {verb} src {from} dst {to} proto gre dir out {template}"));
}

/// What comes as GRE from the second end to the first has to have been encrypted.
fn back(verb: &str, host: &Host, [here, there]: [&str; 2]) {
    let template = if verb == "add" {
        format!("tmpl src {there} dst {here} proto esp mode transport")
    } else {
        String::new()
    };
    sh(host, &format!("ip xfrm policy {verb} src {there} dst {here} proto gre dir in {template}"));
}

fn policies(verb: &str, lab: &Lab) {
    for (host, ends) in [(&lab.ours, lab.ends), (&lab.kernel, [lab.ends[1], lab.ends[0]])] {
        out(verb, host, ends);
        back(verb, host, ends);
    }
}

fn lab(mode: &str) -> Lab {
    let lab = Lab::for_mode(mode);
    keys(&lab.ours, lab.ends);
    keys(&lab.kernel, lab.ends);
    lab
}

#[test]
#[ignore = "a step in the guest"]
fn nothing_is_in_the_clear_under_a_policy() {
    require!(inside());
    for (mode, words, underlay) in
        [("gre", "", "auto"), ("gre", "key 9 csum seq", "packet"), ("gretap", "key 7 nopmtudisc", "auto")]
    {
        in_esp(mode, words, underlay);
    }
}

#[test]
#[ignore = "a step in the guest"]
fn nothing_is_in_the_clear_under_a_policy_over_ipv6() {
    require!(inside());
    for (mode, words, underlay) in [("ip6gre", "", "auto"), ("ip6gretap", "key 7 encaplimit none", "packet")]
    {
        in_esp(mode, words, underlay);
    }
}

fn in_esp(mode: &str, words: &str, underlay: &str) {
    let lab = lab(mode);
    policies("add", &lab);
    let wire = Capture::start(&lab.ours, "wan0").unwrap();
    lab.ours("tun0", mode, &format!("{words} underlay {underlay}"), "172.16.0.1/30");
    lab.kernels("tun0", mode, words, "172.16.0.2/30");
    if mode.starts_with("ip6") {
        // Linux 6.1's own ip6gre tells a path MTU under ESP that it then does not take (its tx_errors).
        sh(&lab.kernel, "ip link set tun0 mtu 1360");
    }
    // By the raw socket whatever was asked for: the packet socket would pass IPsec by.
    lab.wait_for_underlay("tun0", "raw");
    answers(&lab.ours, "172.16.0.2");
    answers(&lab.kernel, "172.16.0.1");
    // In fragments, as one that does not fit, and in bulk.
    // Over IPv6 the sender is told first what fits (T6-04), also where it lets others fragment.
    attempt(&lab.ours, "ping -n -q -c 2 -i 0.2 -W 1 -s 4000 172.16.0.2");
    debian_ping(&lab.ours, "-c 3 -s 4000 172.16.0.2");
    attempt(&lab.ours, "ping -n -q -c 2 -W 1 -M do -s 1448 172.16.0.2");
    pair::intact(&lab.ours, &lab.kernel, address("172.16.0.2"), 150_000, "to the kernel");
    pair::intact(&lab.kernel, &lab.ours, address("172.16.0.1"), 150_000, "from the kernel");
    let packets = wire.stop();
    let clear = packets.iter().filter(|packet| is_gre(packet)).collect::<Vec<_>>();
    assert!(clear.is_empty(), "{mode} {words}: {} packets in the clear: {:?}", clear.len(), clear.first());
    let encrypted = packets.iter().filter(|packet| is_esp(packet)).count();
    assert!(encrypted > 100, "{mode} {words}: {encrypted}");
}

#[test]
#[ignore = "a step in the guest"]
fn a_policy_holds_from_the_moment_it_is_there() {
    require!(inside());
    let lab = lab("gre");
    lab.tunnel("gre", "");
    lab.wait_for_underlay("tun0", "packet");
    answers(&lab.ours, "172.16.0.2");

    // Ours first, though the peer does not understand it yet. The kernel tells of a policy, and programs that have been
    // told of it send nothing in the clear from then on.
    let wire = Capture::start(&lab.ours, "wan0").unwrap();
    out("add", &lab.ours, lab.ends);
    let leaves_protected = |packet: &CapturedPacket| packet.outgoing && is_esp(packet);
    poll_until(SOON, "ESP from us", || {
        let alone = ping(&lab.ours, address("172.16.0.2"), &crate::support::in_vain()).unwrap();
        assert!(alone.sent > 0, "{alone}");
        (wire.count(leaves_protected) > 2).then_some(())
    })
    .unwrap();
    let packets = wire.stop();
    let protected = packets.iter().skip_while(|packet| !leaves_protected(packet)).collect::<Vec<_>>();
    assert!(protected.len() > 2 && !protected.iter().any(|packet| packet.outgoing && is_gre(packet)));

    back("add", &lab.ours, lab.ends);
    lab.wait_for_underlay("tun0", "raw");
    // The peer still sends in the clear: what a policy wants encrypted is not taken then.
    let before = lab.counters("tun0").0;
    sh(&lab.kernel, "ping -n -q -c 3 -i 0.1 -W 1 172.16.0.1 || true");
    assert_eq!(lab.counters("tun0").0, before, "GRE in the clear under a policy that demands ESP");

    let peer = [lab.ends[1], lab.ends[0]];
    out("add", &lab.kernel, peer);
    back("add", &lab.kernel, peer);
    let wire = Capture::start(&lab.ours, "wan0").unwrap();
    comes_to_answer(&lab.ours, "172.16.0.2");
    lab.counts("both under the policy", 10, || debian_ping(&lab.ours, "-c 10 172.16.0.2"));
    assert_eq!(pair::seen(wire, is_gre), 0);

    // And it goes again, with the tunnel in use.
    policies("delete", &lab);
    lab.wait_for_underlay("tun0", "packet");
    let wire = Capture::start(&lab.ours, "wan0").unwrap();
    lab.counts("the policy is gone", 10, || debian_ping(&lab.ours, "-c 10 172.16.0.2"));
    let packets = wire.stop();
    assert!(packets.iter().any(is_gre) && !packets.iter().any(is_esp));
}

/// T4: a raw socket that writes the IP header itself would pass such a policy by.
#[test]
#[ignore = "a step in the guest"]
fn a_policy_that_blocks_is_not_passed_by() {
    require!(inside());
    blocks("gre", &["pmtudisc", "nopmtudisc"]);
}

#[test]
#[ignore = "a step in the guest"]
fn a_policy_that_blocks_is_not_passed_by_over_ipv6() {
    require!(inside());
    blocks("ip6gre", &["encaplimit 4", "encaplimit none"]);
}

fn blocks(mode: &str, changes: &[&str]) {
    let lab = Lab::for_mode(mode);
    let ends = lab.ends;
    lab.tunnel(mode, "");
    answers(&lab.ours, "172.16.0.2");
    for words in changes {
        lab.node.words(&format!("tunnel change tun0 {words}")).ok();
        answers(&lab.ours, "172.16.0.2");
        sh(
            &lab.ours,
            &format!("ip xfrm policy add src {} dst {} proto gre dir out action block", ends[0], ends[1]),
        );
        let wire = Capture::start(&lab.ours, "wan0").unwrap();
        let refused = |lab: &Lab| pair::drops(&lab.status("tun0"), "firewall-refused");
        let before = refused(&lab);
        for size in [56, 1400, 4000] {
            let options = PingOptions { size, ..crate::support::in_vain() };
            assert_eq!(ping(&lab.ours, address("172.16.0.2"), &options).unwrap().received(), 0);
        }
        poll_until(SOON, "drops with a name", || (refused(&lab) >= before + 6).then_some(())).unwrap();
        assert_eq!(pair::seen(wire, |packet| packet.outgoing && is_gre(packet)), 0, "{words}");
        sh(&lab.ours, &format!("ip xfrm policy delete src {} dst {} proto gre dir out", ends[0], ends[1]));
        comes_to_answer(&lab.ours, "172.16.0.2");
    }
}
