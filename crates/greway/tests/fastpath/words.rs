//! `datapath auto|ebpf|userspace`: what is asked for is had or refused, and `status` says why a tunnel has no program.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use greway_testbed::{PingOptions, privilege, require};

use crate::hosts::{Carrier, add, tunnel, wait_for_datapath};

const ENDS: &str = "local 10.0.0.1 remote 10.0.0.2";

/// What no program carries, and the word that says so.
const NOT_CARRIED: [(&str, &str); 8] = [
    ("local 10.0.0.1 remote 10.0.0.2 csum", "checksum"),
    ("local 10.0.0.1 remote 10.0.0.2 icsum", "checksum"),
    ("local 10.0.0.1 remote 10.0.0.2 seq", "sequence"),
    ("local 10.0.0.1 remote 10.0.0.2 oseq", "sequence"),
    ("local 10.0.0.1 remote any key 9", "remote"),
    ("local 10.0.0.1 remote 239.1.1.1 dev wan0", "group"),
    ("local 10.0.0.1 remote 10.0.0.2 overlay tun", "there is no pair to attach to"),
    ("local 10.0.0.1 remote 10.0.0.2 underlay raw", "raw"),
];

#[test]
fn datapath_ebpf_is_refused_with_the_reason_and_changes_nothing() {
    require!(privilege::check());
    let pair = Carrier::filters().bare();
    let node = &pair.nodes[0];
    let before = node.belongings();
    for (words, why) in NOT_CARRIED {
        node.words(&format!("tunnel add tun0 mode gre {words} datapath ebpf")).refused(&[
            "tun0",
            "datapath ebpf cannot be honoured",
            why,
            "auto or userspace",
        ]);
        assert_eq!(node.belongings(), before, "{words}");
    }
    node.words(&format!("tunnel add tun0 mode gre {ENDS} datapath ebpf")).ok();
    wait_for_datapath(&pair, 0, "tun0", "ebpf");
    for (words, why) in [("csum", "checksum"), ("seq", "sequence"), ("underlay raw", "raw")] {
        let before = tunnel(&pair, 0, "tun0")["spec"].clone();
        node.words(&format!("tunnel change tun0 {words}")).refused(&[
            "tun0",
            "datapath ebpf cannot be honoured",
            why,
        ]);
        assert_eq!(tunnel(&pair, 0, "tun0")["spec"], before, "{words}");
    }
    wait_for_datapath(&pair, 0, "tun0", "ebpf");
}

#[test]
fn datapath_auto_takes_userspace_and_says_why() {
    require!(privilege::check());
    let pair = Carrier::filters().bare();
    let node = &pair.nodes[0];
    for (words, why) in NOT_CARRIED {
        node.words(&format!("tunnel add tun0 mode gre {words}")).ok();
        let says = wait_for_datapath(&pair, 0, "tun0", "userspace");
        assert!(says.contains(why), "{words}: {says}");
        node.words("tunnel del tun0").ok();
    }
    node.words(&format!("tunnel add tun0 mode gre {ENDS} datapath userspace")).ok();
    assert_eq!(wait_for_datapath(&pair, 0, "tun0", "userspace"), "datapath userspace is asked for");
}

/// A change takes the program off and puts it on again.
#[test]
fn a_change_goes_from_one_to_the_other_and_back() {
    require!(privilege::check());
    let carrier = Carrier::filters();
    let pair = carrier.pair("");
    for words in ["csum", "seq", "datapath userspace", "underlay raw"] {
        pair.change(words);
        for node in 0..2 {
            wait_for_datapath(&pair, node, "tun0", "userspace");
        }
        pair.answers(&PingOptions::default());
        pair.change(match words {
            "csum" => "nocsum",
            "seq" => "noseq",
            "underlay raw" => "underlay auto",
            _ => "datapath auto",
        });
        carrier.carries(&pair, "tun0");
        pair.answers(&PingOptions::default());
    }
}

#[test]
fn a_daemon_without_the_fast_path_refuses_it_by_name() {
    require!(privilege::check());
    let pair = Carrier::userspace().bare();
    pair.nodes[0].words(&format!("tunnel add tun0 mode gre {ENDS} datapath ebpf")).refused(&[
        "tun0",
        "datapath ebpf cannot be honoured",
        "fast-path in greway.toml",
        "auto or userspace",
    ]);
    add(&pair, "tun0", "", 16);
    let says = wait_for_datapath(&pair, 0, "tun0", "userspace");
    assert_eq!(says, "the fast path is off (fast-path in greway.toml, or GREWAY_FAST_PATH)");
    pair.answers(&PingOptions::default());
}
