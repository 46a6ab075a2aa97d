//! `direct`: the daemon puts the program at the tunnel device itself, says what that breaks, and takes it away.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/pair.rs"]
mod pair;
mod support;

use greway_testbed::{PingOptions, poll_until, privilege, require};
use pair::{Pair, counted};
use serde_json::Value;
use support::SOON;

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
