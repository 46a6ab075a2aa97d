//! `net/forwarding/gre_multipath{,_nh}.sh`: the host's routing spreads flows over two tunnels as it would over any two
//! devices, 1:1, 2:1 and 11:45, by routes with several next hops and by next hop objects.

use std::net::UdpSocket;
use std::process::Command;

use greway_testbed::{Host, poll_until, privilege, require};

use crate::pair::Pair;
use crate::support::SOON;

/// Behind the far end, reached by both tunnels.
const FAR: &str = "198.51.100.1";
/// The source, of neither tunnel: newer kernels prefer the next hop that has it.
const NEAR: &str = "198.51.100.2";
/// Flows of one packet each, by source port: so many that chance stays far inside the tolerance.
const FLOWS: u16 = 3_000;
/// As in the original (`multipath_eval`): the measured ratio may be off by so much of the wanted one.
const TOLERANCE: f64 = 0.15;

fn ip(host: &Host, words: &str) {
    let output = host.output(Command::new("ip").args(words.split_whitespace())).unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

fn two_tunnels() -> Pair {
    let pair = Pair::bare(&greway_testbed::LinkOptions::default());
    for (number, key) in [(1, 111), (2, 222)] {
        pair.add(&format!("g1{number}"), &format!("key {key}"));
        pair.left.address(&format!("g1{number}"), &format!("172.16.{number}.1/30")).unwrap();
        pair.right.address(&format!("g1{number}"), &format!("172.16.{number}.2/30")).unwrap();
    }
    pair.right.address("lo", &format!("{FAR}/32")).unwrap();
    pair.left.address("lo", &format!("{NEAR}/32")).unwrap();
    // By the ports too, not by the addresses alone.
    pair.left.sysctl("ipv4/fib_multipath_hash_policy", "1").unwrap();
    pair
}

/// Packets that left has sent by each tunnel.
fn sent(pair: &Pair) -> [u64; 2] {
    let status = pair.nodes[0].words("status --json --no-echo").ok().stdout;
    ["g11", "g12"]
        .map(|name| crate::pair::tunnel(&status, name)["counters"]["sent_packets"].as_u64().unwrap())
}

/// Sends one packet a flow; gives how many went by each tunnel.
fn spread(pair: &Pair) -> [u64; 2] {
    let before = sent(pair);
    pair.left
        .run(|| {
            for port in 20_000..20_000 + FLOWS {
                let socket = UdpSocket::bind((NEAR, port)).unwrap();
                socket.send_to(b"one packet", (FAR, 9)).unwrap();
            }
        })
        .unwrap();
    let grown = || {
        let now = sent(pair);
        [now[0] - before[0], now[1] - before[1]]
    };
    poll_until(SOON, "all packets", || (grown().iter().sum::<u64>() >= u64::from(FLOWS)).then_some(()))
        .unwrap();
    let by = grown();
    assert_eq!(by.iter().sum::<u64>(), u64::from(FLOWS), "each packet once");
    by
}

fn in_ratio(what: &str, pair: &Pair, weights: [u32; 2]) {
    let by = spread(pair);
    let [wanted, measured] =
        [f64::from(weights[0]) / f64::from(weights[1]), by[0] as f64 / by[1].max(1) as f64];
    println!("{what} {}:{}: {} and {} packets", weights[0], weights[1], by[0], by[1]);
    assert!(
        (measured / wanted - 1.0).abs() < TOLERANCE,
        "{what}: {measured:.3} where {wanted:.3} was wanted"
    );
}

const WEIGHTS: [[u32; 2]; 3] = [[1, 1], [2, 1], [11, 45]];

#[test]
fn gre_multipath() {
    require!(privilege::check());
    let pair = two_tunnels();
    for weights in WEIGHTS {
        let hops = format!("nexthop dev g11 weight {} nexthop dev g12 weight {}", weights[0], weights[1]);
        ip(&pair.left, &format!("route replace {FAR}/32 {hops}"));
        in_ratio("ECMP", &pair, weights);
    }
}

#[test]
fn gre_multipath_nh() {
    require!(privilege::check());
    let pair = two_tunnels();
    ip(&pair.left, "nexthop add id 101 dev g11");
    ip(&pair.left, "nexthop add id 102 dev g12");
    for weights in WEIGHTS {
        ip(&pair.left, &format!("nexthop replace id 103 group 101,{}/102,{}", weights[0], weights[1]));
        ip(&pair.left, &format!("route replace {FAR}/32 nhid 103"));
        in_ratio("next hop objects", &pair, weights);
    }
    // A tunnel that is down is no next hop any more: all goes by the other.
    ip(&pair.left, "link set g11 down");
    ip(&pair.left, &format!("route replace {FAR}/32 nhid 103"));
    assert_eq!(spread(&pair)[0], 0);
}
