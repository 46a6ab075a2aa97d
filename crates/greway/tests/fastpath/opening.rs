//! A tunnel that goes from the programs to userspace and back while a stream runs: what userspace has in its hands is
//! overtaken by nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use greway_testbed::{poll_until, privilege, require};

use crate::hosts::{self, Carrier};
use crate::pair::{Pair, inner};
use crate::stream::{Report, Stream};
use crate::support::SOON;

/// What has to get through between two changes.
const SOME: u64 = 2_000;
/// There and back so often, at each end.
const TIMES: usize = 4;

/// Changes tun0 of a node and waits until it is carried so.
fn change(pair: &Pair, stream: &Stream, node: usize, words: &str, plane: &str) {
    pair.nodes[node].words(&format!("tunnel change tun0 {words}")).ok();
    hosts::wait_for_datapath(pair, node, "tun0", plane);
    stream.more(SOME, &format!("{words} at {node}"));
}

/// Nobody waits for leave any more, so that the programs carry each packet.
fn wait_until_open(pair: &Pair, node: usize) {
    let mut before = hosts::left(&hosts::tunnel(pair, node, "tun0"), "closed");
    let quiet = poll_until(SOON, "the end of the opening", || {
        let now = hosts::left(&hosts::tunnel(pair, node, "tun0"), "closed");
        (std::mem::replace(&mut before, now) == now).then_some(())
    });
    assert!(quiet.is_ok(), "{node} still waits: {}", hosts::tunnel(pair, node, "tun0"));
}

/// To userspace and back at both ends, under a stream.
fn to_and_fro(carrier: &Carrier) -> Report {
    let pair = carrier.pair("");
    let stream = Stream::start(&pair.left, &pair.right, inner(1));
    stream.more(SOME, "to begin with");
    for _ in 0..TIMES {
        for node in [1, 0] {
            change(&pair, &stream, node, "datapath userspace", "userspace");
            change(&pair, &stream, node, "datapath auto", "ebpf");
            wait_until_open(&pair, node);
        }
    }
    stream.stop()
}

#[test]
fn from_userspace_to_the_programs_none_is_overtaken() {
    let carrier = Carrier::pinned();
    require!(privilege::check());
    require!(carrier.as_ref());
    let report = to_and_fro(&carrier.unwrap());
    assert!(report.flawless(), "{report}");
}

/// The kernel stops a device's queue for a moment while a qdisc comes to it or goes, and what is being sent is lost.
#[test]
fn with_filters_of_tc_none_is_overtaken_either() {
    require!(privilege::check());
    let report = to_and_fro(&Carrier::filters());
    assert_eq!((report.reordered, report.duplicates), (0, 0), "{report}");
}
