//! `direct`: the daemon puts the program at the tunnel device itself, says what that breaks, and takes it away.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/pair.rs"]
mod pair;
mod support;
#[path = "../../greway-fastpath/tests/support/tun_cable.rs"]
mod tun_cable;

/// What the cable asks of whoever uses it.
mod tunnel {
    pub(crate) fn end_addresses(host: &greway_testbed::Host, end: u8) {
        host.address("eth0", &format!("192.0.2.{end}/24")).unwrap();
    }
}

use greway_testbed::{PingOptions, poll_until, privilege, require};
use pair::{Pair, counted};
use serde_json::Value;
use support::{Node, SOON};
use tun_cable::hosts_on_tuns;

/// The devices that the direct program is on.
fn directs(status: &Value) -> Vec<String> {
    let attached = status["fast_path"]["attached"].as_array().cloned().unwrap_or_default();
    let directs = attached.iter().filter(|program| program["point"] == "direct");
    directs.map(|program| program["device"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn direct_is_on_while_it_is_asked_for() {
    require!(privilege::check());
    let pair = Pair::new("direct");
    if !pair.is_on_fast_path() {
        // Without programs it is a word without effect.
        pair.answers(&PingOptions::default());
        return;
    }
    let there = || directs(&pair.nodes[0].status());
    poll_until(SOON, "the program is at tun0", || (there() == ["tun0"]).then_some(())).unwrap();
    let sent = || counted(&pair.left, "tun0").1;
    // The first packet finds the neighbour; a second later the program knows that it is known.
    let past_the_device = || {
        let before = sent();
        pair.answers(&PingOptions::default());
        (sent() == before).then_some(())
    };
    poll_until(SOON, "packets leave past the pair", past_the_device).unwrap();
    let notes = pair.status(0)["notes"].to_string();
    assert!(notes.contains("direct: tcpdump on tun0 does not show what it sends"), "{notes}");

    pair.change("nodirect");
    poll_until(SOON, "the program is gone", || there().is_empty().then_some(())).unwrap();
    let before = sent();
    pair.answers(&PingOptions::default());
    assert!(sent() > before);
    let notes = pair.status(0)["notes"].to_string();
    assert!(!notes.contains("direct"), "{notes}");
}

/// ppp, tun, WireGuard: the daemon has the programs at a device without a link header as at any other, and with `direct`
/// it knows that there is no neighbour to wait for.
#[test]
fn a_device_without_a_link_header_is_an_underlay_like_every_other() {
    require!(privilege::check());
    for words in ["", "direct"] {
        let Some(([left, right], cable)) = hosts_on_tuns(false) else { panic!("no /dev/net/tun") };
        let nodes = [Node::new(&left), Node::new(&right)];
        let daemons = [Some(nodes[0].daemon()), Some(nodes[1].daemon())];
        let pair = Pair { daemons, nodes, middle: None, left, right };
        for (node, ends) in
            pair.nodes.iter().zip(["local 192.0.2.1 remote 192.0.2.2", "local 192.0.2.2 remote 192.0.2.1"])
        {
            node.words(&format!("tunnel add tun0 mode gre {ends} {words}")).ok();
        }
        pair.left.address("tun0", "172.16.0.1 peer 172.16.0.2/30").unwrap();
        pair.right.address("tun0", "172.16.0.2 peer 172.16.0.1/30").unwrap();
        let plane = pair.nodes[0].plane();
        (0..2).for_each(|node| pair.carried_by(node, plane));
        pair.answers(&PingOptions::default());
        pair.bulk(2_000_000, words);
        if plane == "ebpf" {
            let left_over = pair.status(0)["left_to_userspace"].clone();
            assert_eq!(left_over.as_array().map(Vec::len), Some(0), "{left_over}");
        }
        drop(pair);
        drop(cable);
    }
}

#[test]
fn direct_is_refused_where_no_program_carries() {
    require!(privilege::check());
    let pair = Pair::bare(&greway_testbed::LinkOptions::default());
    for (words, why) in [
        ("csum", "direct cannot be honoured: csum is on"),
        ("datapath userspace", "datapath userspace keeps the tunnel from them"),
    ] {
        let words = format!("tunnel add tun1 local 10.0.0.1 remote 10.0.0.2 direct {words}");
        pair.nodes[0].words(&words).refused(&[why]);
    }
}
