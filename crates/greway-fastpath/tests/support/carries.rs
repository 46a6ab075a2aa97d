//! Whether a tunnel carries what a tunnel should, and what to say when it does not.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::net::SocketAddr;

use greway_fastpath::{Decline, Dropped, Point};
use greway_spec::{Mode, Ttl, TunnelSpec};
use greway_testbed::{PingOptions, ping, tcp::transfer};

use crate::tunnel::{PATIENCE, Tunnel, inner4, inner6};

/// Bytes of a bulk transfer.
pub(crate) const BULK: u64 = 4_000_000;

pub(crate) fn every_mode() -> [(Mode, Option<u32>); 6] {
    [
        (Mode::Gre, None),
        (Mode::Gre, Some(42)),
        (Mode::Gretap, Some(42)),
        (Mode::Ip6Gre, None),
        (Mode::Ip6Gre, Some(42)),
        (Mode::Ip6Gretap, None),
    ]
}

pub(crate) fn of_mode(mode: Mode, key: Option<u32>) -> impl Fn(&mut TunnelSpec) {
    move |spec| {
        spec.mode = mode;
        spec.ikey = key;
        spec.okey = key;
        spec.ttl = Ttl::Fixed(64);
        // Its default; not every mode has one (T11).
        spec.encaplimit = mode.over_ipv6().then_some(4);
    }
}

/// Ping and bulk TCP of both inner families, forth and back; nothing may be declined or dropped. Returns the mean
/// bytes of the packets that arrived in a bulk transfer.
pub(crate) fn carries_everything(tunnel: &mut Tunnel) -> u64 {
    tunnel.left.fastpath.beat().unwrap();
    tunnel.right.fastpath.beat().unwrap();
    let context = format!("{:?} key {:?}", tunnel.left.spec.mode, tunnel.left.spec.ikey);
    for to in [inner4(2), inner6(2)] {
        // As large as the device takes.
        let largest = tunnel.left.place.device_mtu as usize - if to.is_ipv6() { 48 } else { 28 };
        for size in [0, 56, largest] {
            let options = PingOptions { size, df: true, ..PingOptions::default() };
            let report = ping(&tunnel.left.host, to, &options).unwrap();
            assert!(report.complete(), "{context} {to} {size}: {report}\n{}", state(tunnel));
        }
    }
    let before = [tunnel.left.counters(), tunnel.right.counters()];
    for to in [inner4(2), inner6(2)] {
        let report = transfer(&tunnel.left.host, &tunnel.right.host, SocketAddr::new(to, 0), BULK, PATIENCE);
        let report = report.unwrap_or_else(|error| panic!("{context} {to}: {error}\n{}", state(tunnel)));
        assert!(report.intact(), "{context} {to}: {report:?}");
    }
    let left = |tunnel: &Tunnel| {
        let now = tunnel.left.counters();
        let sent = (now.tx_packets - before[0].tx_packets, now.tx_bytes - before[0].tx_bytes);
        (sent, now.rx_bytes - before[0].rx_bytes)
    };
    let right = |tunnel: &Tunnel| {
        let now = tunnel.right.counters();
        let received = (now.rx_packets - before[1].rx_packets, now.rx_bytes - before[1].rx_bytes);
        (received, now.tx_bytes - before[1].tx_bytes)
    };
    let ((_, sent), answered) = left(tunnel);
    let ((packets, received), answer) = right(tunnel);
    assert!(sent > 2 * BULK && received > 2 * BULK, "{context}: {}", state(tunnel));
    // Packets were split and merged on the way, but for the first cable; bytes of headers come and go with that.
    assert!(answer > 0 && answered > 0, "{context}: {}", state(tunnel));
    for end in [&tunnel.left, &tunnel.right] {
        assert_eq!(end.counters().declined, [0; Decline::COUNT], "{context}: {}", state(tunnel));
        assert_eq!(end.counters().dropped, [0; Dropped::COUNT], "{context}: {}", state(tunnel));
    }
    received / packets.max(1)
}

pub(crate) fn state(tunnel: &Tunnel) -> String {
    let mut text = String::new();
    for (name, end) in [("left", &tunnel.left), ("right", &tunnel.right)] {
        text += &format!("{name}: {:?}\n", end.counters());
        for point in Point::ALL {
            let counters = end.fastpath.counters(point).unwrap();
            let declined = Decline::ALL.into_iter().filter(|reason| counters.declined_for(*reason) > 0);
            let declined: Vec<_> =
                declined.map(|reason| (reason.name(), counters.declined_for(reason))).collect();
            text += &format!(
                "  {}: {} seen, {} carried, {declined:?}\n",
                point.name(),
                counters.seen,
                counters.carried
            );
        }
        text += &format!("  {:?}\n  {:?}\n", end.spec.mode, end.place);
    }
    text
}
