//! A daemon that never comes back: the tunnels go on, neighbours are asked for and routes are followed all the same.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use greway_testbed::{PingOptions, ping, poll_until, privilege, require};

use crate::hosts::{Carrier, add, sh};
use crate::pair::{Pair, inner, intact};
use crate::support::in_vain;

/// The programs believe for five seconds what the daemon said last.
const PATIENCE: Duration = Duration::from_secs(15);

fn never_back(carrier: &Carrier) {
    let mut pair = carrier.bare();
    let tunnels = [("tun0", "", 16), ("tun1", "mode gretap key 1", 17), ("tun2", "mode ip6gretap key 2", 18)];
    for (name, words, subnet) in tunnels {
        add(&pair, name, words, subnet);
        carrier.carries(&pair, name);
    }
    behind_a_gateway(&pair);
    carrier.carries(&pair, "tun3");
    let all = [16, 17, 18, 19];
    answer(&pair, carrier, &all, "with daemons");
    for daemon in &mut pair.daemons {
        daemon.take().unwrap().kill();
    }
    answer(&pair, carrier, &all, "both daemons killed");
    forget_neighbours(&pair);
    answer(&pair, carrier, &all, "no neighbour is known any more (T13)");

    // The gateway that the daemon knew is gone. Its successor is found once the daemon is not believed any more.
    sh(&pair.right, "ip address del 10.0.0.11/24 dev wan0 && ip address add 10.0.0.12/24 dev wan0");
    sh(&pair.left, "ip route replace 10.9.0.2 via 10.0.0.12 table 100");
    forget_neighbours(&pair);
    answer(&pair, carrier, &[16, 17, 18], "beside the one whose gateway went away");
    let found = poll_until(PATIENCE, "the other gateway", || {
        ping(&pair.left, [172, 19, 0, 2].into(), &in_vain()).unwrap().complete().then_some(())
    });
    assert!(found.is_ok(), "{carrier}: without a sign of life the kernel routes, by the mark (T2)");
    forget_neighbours(&pair);
    answer(&pair, carrier, &all, "no sign of life, and no neighbour is known");
    intact(&pair.left, &pair.right, inner(1), 4 << 20, "bulk without a sign of life");
}

/// tun3 to an address of right that left reaches by a gateway, and by its mark alone.
fn behind_a_gateway(pair: &Pair) {
    sh(
        &pair.right,
        "ip link set lo up && ip address add 10.9.0.2/32 dev lo && ip address add 10.0.0.11/24 dev wan0",
    );
    sh(&pair.left, "ip rule add fwmark 5 table 100 && ip route add 10.9.0.2 via 10.0.0.11 table 100");
    let add =
        |node: usize, words: &str| pair.nodes[node].words(&format!("tunnel add tun3 mode gre {words}")).ok();
    add(0, "local 10.0.0.1 remote 10.9.0.2 fwmark 5");
    add(1, "local 10.9.0.2 remote 10.0.0.1");
    pair.left.address("tun3", "172.19.0.1/30").unwrap();
    pair.right.address("tun3", "172.19.0.2/30").unwrap();
}

/// Pings each tunnel from both ends.
#[track_caller]
fn answer(pair: &Pair, carrier: &Carrier, subnets: &[u8], what: &str) {
    for subnet in subnets {
        for (from, end) in [(&pair.left, 2), (&pair.right, 1)] {
            let to = [172, *subnet, 0, end].into();
            let report = ping(from, to, &PingOptions::default()).unwrap();
            assert!(report.complete(), "{carrier}: {what}: {} to {to}: {report}", from.name());
        }
    }
}

/// As if everything had expired, on the cable and inside the tunnels.
fn forget_neighbours(pair: &Pair) {
    for host in [&pair.left, &pair.right] {
        sh(host, "ip -4 neighbour flush all; ip -6 neighbour flush all");
    }
}

#[test]
fn t13_t2_without_a_daemon_for_good_with_pins() {
    let carrier = Carrier::pinned();
    require!(privilege::check());
    require!(carrier.as_ref());
    never_back(&carrier.unwrap());
}

#[test]
fn t13_t2_without_a_daemon_for_good_without_pins() {
    require!(privilege::check());
    never_back(&Carrier::filters());
}
