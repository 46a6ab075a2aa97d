//! A daemon that is killed, restarted or ended: a stream goes on over all of it, each packet once and in its place.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use greway_testbed::{privilege, require};

use crate::hosts::{self, Carrier};
use crate::pair::inner;
use crate::stream::Stream;

/// What has to get through before it is believed that the tunnel carries on.
const SOME: u64 = 3_000;

/// kill -9 of the sender's daemon and of the receiver's, a while without it, the next one; and the same by SIGTERM.
fn no_packet_is_lost(carrier: &Carrier, words: &str) {
    let mut pair = carrier.pair(words);
    let stream = Stream::start(&pair.left, &pair.right, inner(1));
    stream.more(SOME, "to begin with");
    for (node, end) in [(0, "sender"), (1, "receiver")] {
        for by_force in [true, false] {
            let way = if by_force { "killed" } else { "terminated" };
            let daemon = pair.daemons[node].take().unwrap();
            if by_force {
                daemon.kill()
            } else {
                daemon.terminate()
            }
            stream.more(SOME, &format!("{carrier}: the {end}'s daemon {way}"));
            pair.daemons[node] = Some(pair.nodes[node].daemon_with(&carrier.environment()));
            stream.more(1, &format!("{carrier}: the {end}'s next daemon starts, the last was {way}"));
            carrier.carries_at(&pair, node, "tun0");
            stream.more(SOME, &format!("{carrier}: the {end}'s next daemon, the last was {way}"));
        }
    }
    let report = stream.stop();
    assert!(report.flawless(), "{carrier}: {report}");
    let sent = &hosts::tunnel(&pair, 0, "tun0")["counters"]["sent_packets"];
    if carrier.keeps_counters() {
        assert!(sent.as_u64().unwrap() > report.sent, "{carrier}: counted on: {sent}, {report}");
    }
}

#[test]
fn no_packet_is_lost_over_kill_and_restart_with_pins() {
    let carrier = Carrier::pinned();
    require!(privilege::check());
    require!(carrier.as_ref());
    no_packet_is_lost(&carrier.unwrap(), "");
}

#[test]
fn no_packet_is_lost_over_kill_and_restart_without_pins() {
    require!(privilege::check());
    no_packet_is_lost(&Carrier::filters(), "");
}

#[test]
fn no_frame_is_lost_over_kill_and_restart_in_ip6gretap() {
    let carrier = Carrier::pinned();
    require!(privilege::check());
    require!(carrier.as_ref());
    no_packet_is_lost(&carrier.unwrap(), "mode ip6gretap key 7");
}

/// The same test of userspace finds losses, so it can fail.
#[test]
fn userspace_does_lose_packets_while_its_daemon_is_gone() {
    require!(privilege::check());
    let carrier = Carrier::userspace();
    let mut pair = carrier.pair("");
    let stream = Stream::start(&pair.left, &pair.right, inner(1));
    stream.more(SOME, "to begin with");
    pair.daemons[0].take().unwrap().kill();
    pair.daemons[0] = Some(pair.nodes[0].daemon_with(&carrier.environment()));
    stream.more(SOME, "with the next daemon");
    let report = stream.stop();
    assert!(report.lost() > 0, "{report}");
}
