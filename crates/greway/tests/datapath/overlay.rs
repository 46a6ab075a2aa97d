//! The tunnel device when it is a TUN, for hosts that have no veth.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs::File;

use greway_linux::sockopt::set_receive_buffer;
use greway_testbed::{LinkOptions, PingOptions, privilege, require};

use crate::bursts::{all_arrive, burst, send_train};
use crate::pair::{Pair, counted, inner, udp};

fn tun() -> Result<(), String> {
    let opened = File::options().read(true).write(true).open("/dev/net/tun");
    opened.map(drop).map_err(|error| format!("/dev/net/tun cannot be opened: {error}"))
}

#[test]
fn a_tun_device_carries_pings_and_tcp() {
    require!(privilege::check());
    require!(tun());
    for underlay in ["packet", "raw"] {
        let pair = Pair::with(
            &LinkOptions { gro: true, ..LinkOptions::default() },
            &format!("overlay tun underlay {underlay}"),
        );
        assert_eq!(pair.status(0)["datapath"]["overlay"], "tun");
        let before = counted(&pair.left, "tun0");
        pair.answers(&PingOptions { count: 10, ..PingOptions::default() });
        let after = counted(&pair.left, "tun0");
        assert_eq!((after.0 - before.0, after.1 - before.1), (20, 20));
        pair.answers(&PingOptions { size: 3000, ..PingOptions::default() });
        pair.bulk(8 << 20, underlay);
        pair.change("key 42 csum seq");
        pair.bulk(2 << 20, underlay);
        pair.none_dropped(underlay);
    }
}

#[test]
fn datagrams_that_arrive_together_go_into_a_tun_device_together() {
    const COUNT: usize = 256;
    require!(privilege::check());
    require!(tun());
    for underlay in ["packet", "raw"] {
        let pair = Pair::new(&format!("overlay tun underlay {underlay}"));
        pair.answers(&PingOptions::default());
        let (sender, receiver) = (udp(&pair.left, inner(0)), udp(&pair.right, inner(1)));
        set_receive_buffer(&receiver, 4 << 20).unwrap();
        let to = receiver.local_addr().unwrap();
        let counts = || {
            (counted(&pair.right, "tun0").0, pair.status(1)["counters"]["received_packets"].as_u64().unwrap())
        };
        let before = counts();
        let daemon = pair.daemons[1].as_ref().unwrap();
        burst(&sender, to, &[100; COUNT], daemon, (&pair.right, "wan0"));
        all_arrive(&receiver, &[100; COUNT], underlay);
        let after = counts();
        assert_eq!(after.1 - before.1, COUNT as u64, "{underlay}");
        assert!(after.0 - before.0 <= COUNT as u64 / 16, "{underlay}: {before:?} {after:?}");
        // And what a program sends together comes out together.
        send_train(&sender, to, 1_000, 40);
        all_arrive(&receiver, &[1_000; 40], underlay);
        pair.none_dropped(underlay);
    }
}

#[test]
fn a_tun_device_gives_way_when_it_is_deleted() {
    require!(privilege::check());
    require!(tun());
    let pair = Pair::new("overlay tun");
    pair.answers(&PingOptions::default());
    pair.nodes[0].words("tunnel del tun0").ok();
    assert!(pair.nodes[0].link("tun0").is_none());
    assert_eq!(pair.nodes[0].state_files(), Vec::<String>::new());
}

#[test]
fn both_kinds_of_device_understand_each_other() {
    require!(privilege::check());
    require!(tun());
    let pair = Pair::bare(&LinkOptions { gro: true, ..LinkOptions::default() });
    pair.nodes[0].words("tunnel add tun0 mode gre local 10.0.0.1 remote 10.0.0.2 overlay tun").ok();
    pair.nodes[1].words("tunnel add tun0 mode gre local 10.0.0.2 remote 10.0.0.1 overlay veth").ok();
    pair.left.address("tun0", "172.16.0.1 peer 172.16.0.2/30").unwrap();
    pair.right.address("tun0", "172.16.0.2 peer 172.16.0.1/30").unwrap();
    pair.answers(&PingOptions::default());
    pair.bulk(4 << 20, "TUN against veth");
}
