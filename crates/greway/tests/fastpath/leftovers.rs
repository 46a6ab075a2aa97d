//! What is left of the programs: nothing of a tunnel that is gone, and nothing at all after the last one.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use greway_fastpath::{Fastpath, Options, PinPolicy};
use greway_testbed::{PingOptions, privilege, require};
use serde_json::Value;

use crate::hosts::{self, Carrier, add, filters, sh, wait_for_datapath};
use crate::pair::Pair;

/// The data plane's end of left's tunnel.
fn peer(pair: &Pair, name: &str) -> u32 {
    pair.nodes[0].link(name).unwrap().peer_index.unwrap()
}

/// The tunnels that the pinned maps of left know, as the next daemon would read them.
fn known(pair: &Pair, carrier: &Carrier) -> (Vec<u32>, usize) {
    let options = Options { pins: PinPolicy::At(carrier.bpffs().into()), ..Options::default() };
    pair.left
        .run(|| {
            let maps = Fastpath::load_with(&options).unwrap();
            let mut peers = maps.peers().unwrap();
            peers.sort_unstable();
            (peers, maps.ingress_keys().unwrap().len())
        })
        .unwrap()
}

/// How many programs of left are attached at a point.
fn attached(pair: &Pair, point: &str) -> usize {
    let status = hosts::status(pair, 0);
    let rows = status["fast_path"]["attached"].as_array().cloned().unwrap_or_default();
    rows.iter().filter(|row: &&Value| row["point"] == point).count()
}

/// Nothing is on left that was not there before greway: no device, no pin, no filter, no qdisc, no table.
#[track_caller]
fn nothing_left(pair: &Pair, carrier: &Carrier, what: &str) {
    assert_eq!(pair.nodes[0].links(), ["wan0"], "{carrier}: {what}");
    assert_eq!(filters(&pair.left, "wan0"), "", "{carrier}: {what}");
    assert_eq!(pair.nodes[0].nft_tables(), Vec::<String>::new(), "{carrier}: {what}");
    assert_eq!(carrier.pins(&pair.left), Vec::<String>::new(), "{carrier}: {what}");
}

fn after_the_last(carrier: &Carrier) {
    let mut pair = carrier.pair("");
    add(&pair, "tun1", "mode ip6gretap key 1", 17);
    carrier.carries(&pair, "tun1");
    assert_eq!((attached(&pair, "overlay"), attached(&pair, "underlay")), (2, 1));
    pair.nodes[0].words("tunnel del tun0").ok();
    assert_eq!((attached(&pair, "overlay"), attached(&pair, "underlay")), (1, 1));
    pair.nodes[0].words("tunnel del tun1").ok();
    assert!(hosts::status(&pair, 0)["fast_path"].is_null());
    nothing_left(&pair, carrier, "the last tunnel is deleted");

    for by_force in [false, true] {
        pair.nodes[0].words("tunnel add tun0 mode gre local 10.0.0.1 remote 10.0.0.2").ok();
        wait_for_datapath(&pair, 0, "tun0", "ebpf");
        if by_force {
            // It leaves its programs, and it takes a daemon that finds them to stop.
            pair.daemons[0].take().unwrap().kill();
        }
        let mut stop = pair.nodes[0].command(&["daemon", "--stop"]);
        stop.envs(carrier.environment());
        pair.nodes[0].execute(stop).ok();
        if let Some(daemon) = pair.daemons[0].take() {
            assert_eq!(daemon.ended(), Some(0));
        }
        nothing_left(&pair, carrier, if by_force { "daemon --stop after kill -9" } else { "daemon --stop" });
        pair.daemons[0] = Some(pair.nodes[0].daemon_with(&carrier.environment()));
    }
}

#[test]
fn nothing_is_left_after_the_last_tunnel_and_after_a_stop_with_pins() {
    let carrier = Carrier::pinned();
    require!(privilege::check());
    require!(carrier.as_ref());
    after_the_last(&carrier.unwrap());
}

#[test]
fn nothing_is_left_after_the_last_tunnel_and_after_a_stop_without_pins() {
    require!(privilege::check());
    after_the_last(&Carrier::filters());
}

/// A tunnel goes while no daemon runs: with its device, or out of the files of the state. The next one keeps nothing.
#[test]
fn a_restart_with_other_tunnels_keeps_no_pin_and_no_entry_of_the_others() {
    let carrier = Carrier::pinned();
    require!(privilege::check());
    require!(carrier.as_ref());
    let carrier = carrier.unwrap();
    let mut pair = carrier.pair("");
    add(&pair, "tun1", "key 1", 17);
    carrier.carries(&pair, "tun1");
    let mut both = [peer(&pair, "tun0"), peer(&pair, "tun1")];
    both.sort_unstable();
    assert_eq!(known(&pair, &carrier), (both.to_vec(), 2));
    let gone = peer(&pair, "tun1");
    assert!(carrier.pins(&pair.left).contains(&format!("overlay-{gone}")));

    pair.daemons[0].take().unwrap().kill();
    sh(&pair.left, "ip link del tun1");
    pair.daemons[0] = Some(pair.nodes[0].daemon_with(&carrier.environment()));
    carrier.carries_at(&pair, 0, "tun0");
    assert_eq!(known(&pair, &carrier), (vec![peer(&pair, "tun0")], 1));
    let pins = carrier.pins(&pair.left);
    assert!(!pins.contains(&format!("overlay-{gone}")), "{pins:?}");
    assert!(pins.contains(&format!("overlay-{}", peer(&pair, "tun0"))), "{pins:?}");
    pair.answers(&PingOptions::default());
    pair.nodes[0].words("tunnel del tun0").ok();
    nothing_left(&pair, &carrier, "the last tunnel is deleted");
}

/// Without pins a filter of tc is all that stays; one on a device that nobody uses any more goes, too.
#[test]
fn a_restart_with_other_tunnels_takes_filters_away() {
    require!(privilege::check());
    let carrier = Carrier::filters();
    let mut pair = carrier.pair("");
    assert!(filters(&pair.left, "wan0").contains("greway_underlay"));
    pair.daemons[0].take().unwrap().kill();
    assert!(filters(&pair.left, "wan0").contains("greway_underlay"), "it stays");
    sh(&pair.left, "ip link del tun0");
    pair.daemons[0] = Some(pair.nodes[0].daemon_with(&carrier.environment()));
    pair.nodes[0].words("tunnel del tun0");
    nothing_left(&pair, &carrier, "the only tunnel went while no daemon ran");
}

/// The fast path is turned off while no daemon runs: what the last one left carries nothing beside userspace.
#[test]
fn a_restart_without_the_fast_path_takes_the_programs_away() {
    require!(privilege::check());
    let carriers = Carrier::both();
    require!(carriers.as_ref());
    for carrier in carriers.unwrap() {
        let mut pair = carrier.pair("");
        pair.daemons[0].take().unwrap().kill();
        let off = [("GREWAY_FAST_PATH", "off"), ("GREWAY_BPFFS", carrier.bpffs())];
        pair.daemons[0] = Some(pair.nodes[0].daemon_with(&off));
        let why = wait_for_datapath(&pair, 0, "tun0", "userspace");
        assert_eq!(why, "the fast path is off (fast-path in greway.toml, or GREWAY_FAST_PATH)");
        for device in ["wan0", "gw-tun0"] {
            assert_eq!(filters(&pair.left, device), "", "{carrier}");
        }
        assert_eq!(carrier.pins(&pair.left), Vec::<String>::new(), "{carrier}");
        let before = hosts::tunnel(&pair, 0, "tun0")["counters"]["sent_packets"].as_u64().unwrap();
        pair.answers(&PingOptions::default());
        let after = hosts::tunnel(&pair, 0, "tun0")["counters"]["sent_packets"].as_u64().unwrap();
        assert_eq!(after, before + 6, "{carrier}: each once");
        // And on again.
        pair.daemons[0].take().unwrap().terminate();
        pair.daemons[0] = Some(pair.nodes[0].daemon_with(&carrier.environment()));
        carrier.carries_at(&pair, 0, "tun0");
        pair.answers(&PingOptions::default());
    }
}

/// To refuse `datapath ebpf` the programs have to be loaded; where the tunnel is then refused for another reason, or was
/// only asked about, nothing of them is there afterwards.
#[test]
fn a_tunnel_that_is_refused_after_the_programs_were_loaded_leaves_none() {
    let carrier = Carrier::pinned();
    require!(privilege::check());
    require!(carrier.as_ref());
    let carrier = carrier.unwrap();
    let pair = carrier.bare();
    let node = &pair.nodes[0];
    let ends = "mode gre local 10.0.0.1 remote 10.0.0.2 datapath ebpf";
    let toml = "name = \"tun0\"\nmode = \"gre\"\nlocal = \"10.0.0.1\"\nremote = \"10.0.0.2\"\n\
                datapath = \"ebpf\"\n";
    let file = node.file("tun0.toml", toml);
    for times in ["the first time", "at hand already"] {
        node.words(&format!("tunnel add tun0 {ends} dev none0")).refused(&["none0", "no such device"]);
        nothing_left(&pair, &carrier, times);
        node.words(&format!("up --dry-run {file}")).ok().says(&["would create"]);
        nothing_left(&pair, &carrier, times);
        // A device of somebody else has the name.
        sh(
            &pair.left,
            "ip link add gw-tun0 type dummy 2>/dev/null || ip link add gw-tun0 type veth peer other",
        );
        node.words(&format!("tunnel add tun0 {ends}")).refused(&["tun0"]);
        sh(&pair.left, "ip link del gw-tun0");
        nothing_left(&pair, &carrier, times);
        assert!(hosts::status(&pair, 0)["fast_path"].is_null(), "{times}");
    }
    node.words(&format!("tunnel add tun0 {ends}")).ok();
    wait_for_datapath(&pair, 0, "tun0", "ebpf");
    assert!(!carrier.pins(&pair.left).is_empty(), "the next one is pinned as ever");
}
