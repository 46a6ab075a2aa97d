//! Whole tunnels that nobody but the programs carries: there is no engine here to fall back on.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

#[path = "support/carries.rs"]
mod carries;
mod support;
#[path = "support/tunnel.rs"]
mod tunnel;

use std::{io::Write as _, net::SocketAddr, thread, time::Duration};

use carries::{carries_everything, every_mode, of_mode, state};
use greway_fastpath::{Decline, Fastpath, HookChoice, Point};
use greway_linux::packet::{Config, Kind, PacketSocket, Protocol};
use greway_spec::Mode;
use greway_testbed::{Host, LinkOptions, PingOptions, ping, tcp::transfer};
use greway_wire::ethertype;
use support::{bpffs::Bpffs, not_run, options};
use tunnel::{PATIENCE, Tunnel, hosts, inner4, outer4};

fn lab(name: &str, options: &LinkOptions) -> Option<[Host; 2]> {
    let hosts = greway_testbed::privilege::check().ok().and_then(|()| hosts(options));
    if hosts.is_none() {
        not_run(name, "no network namespaces");
    }
    hosts
}

/// Ping and bulk TCP of both inner families, forth and back, over every mode. Everything is carried, and what TCP
/// sends as super-packets arrives as such.
#[test]
fn every_mode_carries_everything_and_keeps_super_packets_whole() {
    let name = "every_mode_carries_everything_and_keeps_super_packets_whole";
    for (mode, key) in every_mode() {
        let Some(hosts) = lab(name, &LinkOptions::default()) else { return };
        let mean = carries_everything(&mut Tunnel::new(hosts, of_mode(mode, key)));
        let mtu = 1500;
        assert!(mean > mtu, "{mode:?} key {key:?}: {mean} bytes a packet, no more than the cable takes");
    }
}

/// A cable that takes no packet larger than its MTU: the kernel splits what the programs send, which it can only
/// when they told it rightly where everything is, and merges it again on arrival.
#[test]
fn the_kernel_splits_and_merges_what_the_programs_send() {
    let name = "the_kernel_splits_and_merges_what_the_programs_send";
    let options = LinkOptions { tx_offload: false, gro: true, ..LinkOptions::default() };
    for (mode, key) in every_mode() {
        let Some(hosts) = lab(name, &options) else { return };
        carries_everything(&mut Tunnel::new(hosts, of_mode(mode, key)));
    }
}

/// Nobody has given a sign of life: the kernel finds the next hop by itself (T2).
#[test]
fn t2_without_a_daemon_the_kernel_routes() {
    let name = "t2_without_a_daemon_the_kernel_routes";
    let Some(hosts) = lab(name, &LinkOptions::default()) else { return };
    let mut tunnel = Tunnel::new(hosts, of_mode(Mode::Gre, None));
    // What userspace said last is wrong by now.
    let mut entry = tunnel.left.fastpath.egress(tunnel.left.place.peer).unwrap().unwrap();
    entry.next_hop[3] = 99;
    tunnel.left.fastpath.set_egress(tunnel.left.place.peer, &entry).unwrap();
    assert_eq!(tunnel.left.fastpath.state().unwrap().heartbeat_ns, 0);
    let report = ping(&tunnel.left.host, inner4(2), &PingOptions::default()).unwrap();
    assert!(report.complete(), "{report}\n{}", state(&tunnel));
    // With one it is believed: nobody answers there.
    tunnel.left.fastpath.beat().unwrap();
    let options = PingOptions { count: 1, ..PingOptions::default() };
    let report = ping(&tunnel.left.host, inner4(2), &options).unwrap();
    assert_eq!(report.received(), 0, "{report}");
}

/// T18: what userspace wants to see it sees, so many packets and no more.
#[test]
fn t18_the_next_packets_are_declined() {
    let name = "t18_the_next_packets_are_declined";
    let Some(hosts) = lab(name, &LinkOptions::default()) else { return };
    let mut tunnel = Tunnel::new(hosts, of_mode(Mode::Gre, None));
    let peer = tunnel.left.place.peer;
    assert!(tunnel.left.fastpath.decline_next(peer, 2).unwrap());
    assert!(!tunnel.left.fastpath.decline_next(peer + 1000, 2).unwrap());
    let options = PingOptions { count: 5, ..PingOptions::default() };
    let report = ping(&tunnel.left.host, inner4(2), &options).unwrap();
    assert_eq!(report.lost, [1, 2], "{report}");
    assert_eq!(tunnel.left.counters().declined_for(Decline::Asked), 2);
}

/// T13: with Ethernet inside, neighbours are asked for by ARP, which is no IP. Both ends forget and ask again.
#[test]
fn t13_arp_crosses_a_tunnel_of_frames() {
    let name = "t13_arp_crosses_a_tunnel_of_frames";
    for mode in [Mode::Gretap, Mode::Ip6Gretap] {
        let Some(hosts) = lab(name, &LinkOptions::default()) else { return };
        let tunnel = Tunnel::new(hosts, of_mode(mode, None));
        for round in 0..3 {
            let report = ping(&tunnel.left.host, inner4(2), &PingOptions::default()).unwrap();
            assert!(report.complete(), "{mode:?} {round}: {report}\n{}", state(&tunnel));
            forget_neighbours(&tunnel.left.host);
            forget_neighbours(&tunnel.right.host);
        }
        let carried = tunnel.left.fastpath.counters(Point::Underlay).unwrap().carried;
        assert!(carried >= 12, "{mode:?}: three rounds of ARP and three pings: {}", state(&tunnel));
    }
}

/// T12: what has just come out of a tunnel may not be encapsulated once more on most kernels. A program at the tunnel
/// device itself stands for the next tunnel's: it declines by name, and leaves the packets to the sockets behind it.
#[test]
fn t12_what_comes_out_of_a_tunnel_is_declined_by_name() {
    let name = "t12_what_comes_out_of_a_tunnel_is_declined_by_name";
    let Some(hosts) = lab(name, &LinkOptions::default()) else { return };
    let mut tunnel = Tunnel::new(hosts, of_mode(Mode::Gre, None));
    let right = &mut tunnel.right;
    let device = right.host.index("tun0").unwrap();
    let entry = right.fastpath.egress(right.place.peer).unwrap().unwrap();
    right.fastpath.set_egress(device, &entry).unwrap();
    right.host.run(|| right.fastpath.attach("tun0", Point::Overlay)).unwrap().unwrap();
    let behind_tc = Config {
        protocol: Protocol::Ethertype(ethertype::IPV4),
        kind: Kind::Dgram,
        ifindex: Some(device),
        ignore_outgoing: true,
        ..Config::default()
    };
    let behind_tc = right.host.run(|| PacketSocket::open(&behind_tc)).unwrap().unwrap();
    let report = ping(&tunnel.left.host, inner4(2), &PingOptions::default()).unwrap();
    let counters = tunnel.right.fastpath.tunnel_counters(device).unwrap().unwrap();
    let tapped = u64::from(behind_tc.statistics().unwrap().packets);
    match counters.declined_for(Decline::AlreadyEncapsulated) {
        0 => assert!(counters.tx_packets >= 3 && tapped == 0, "this kernel lets it: {report} {counters:?}"),
        declined => {
            assert!(declined >= 3, "{report} {counters:?}");
            assert_eq!(tapped, declined, "each is left to userspace: {report}\n{}", state(&tunnel));
            assert_eq!(report.received(), 0, "and to nobody else: {report}");
        }
    }
}

/// The left end's process is gone: packets go on, also when neighbours have to be asked for anew (T13). The next one
/// finds the tunnel and its counters, and takes over without a lost packet.
#[test]
fn a_tunnel_outlives_its_daemon() {
    let name = "a_tunnel_outlives_its_daemon";
    for mode in [Mode::Gre, Mode::Gretap, Mode::Ip6Gretap] {
        let Some(hosts) = lab(name, &LinkOptions::default()) else { return };
        let Some(bpffs) = Bpffs::new(name) else { return };
        let pinned = bpffs.options(HookChoice::Auto);
        let Tunnel { left, right } = Tunnel::with([&pinned, &options()], hosts, of_mode(mode, None));
        let pings = |count: u16| {
            let report =
                ping(&left.host, inner4(2), &PingOptions { count, ..PingOptions::default() }).unwrap();
            assert!(report.complete(), "{mode:?}: {report}");
        };
        pings(3);
        let before = left.counters();
        drop(left.fastpath);
        pings(3);
        forget_neighbours(&left.host);
        forget_neighbours(&right.host);
        pings(3);

        let mut next = left.host.run(|| Fastpath::load_with(&pinned)).unwrap().unwrap();
        assert_eq!(next.peers().unwrap(), [left.place.peer], "{mode:?}");
        let counted = next.tunnel_counters(left.place.peer).unwrap().unwrap();
        assert!(counted.tx_packets >= before.tx_packets + 6, "{mode:?}: {before:?} {counted:?}");
        let steady =
            PingOptions { count: 50, interval: Some(Duration::from_millis(2)), ..PingOptions::default() };
        let (adopted, report) = thread::scope(|scope| {
            let pings = scope.spawn(|| ping(&left.host, inner4(2), &steady));
            let adopted = left.host.run(|| next.adopt()).unwrap();
            (adopted, pings.join().unwrap().unwrap())
        });
        assert!(adopted.errors.is_empty() && adopted.attachments.len() == 2, "{mode:?}: {adopted:?}");
        assert!(report.complete(), "{mode:?}: {report}");
        left.host.run(|| next.remove_all()).unwrap().unwrap();
        assert!(!bpffs.has_pins(), "{mode:?}");
    }
}

fn forget_neighbours(host: &Host) {
    let netlink = host.netlink().unwrap();
    let index = host.index("tun0").unwrap();
    for neighbour in netlink.neighbours(index).unwrap() {
        // Some cannot be: of groups, for one.
        let _ = netlink.delete_neighbour(index, neighbour.address);
    }
}

/// How fast, beside the bare cable: for people, never asserted.
#[test]
fn throughput_beside_the_bare_cable() {
    const BYTES: u64 = 20_000_000;
    let name = "throughput_beside_the_bare_cable";
    let Some(hosts) = lab(name, &LinkOptions::default()) else { return };
    let mut tunnel = Tunnel::new(hosts, of_mode(Mode::Gre, None));
    let rate = |tunnel: &Tunnel, to| {
        let to = SocketAddr::new(to, 0);
        let report = transfer(&tunnel.left.host, &tunnel.right.host, to, BYTES, PATIENCE).unwrap();
        assert!(report.intact(), "{report:?}");
        report.bits_per_second() / 1e9
    };
    let mut lines = Vec::new();
    for _round in 0..3 {
        tunnel.left.fastpath.beat().unwrap();
        tunnel.right.fastpath.beat().unwrap();
        let (bare, carried) = (rate(&tunnel, outer4(2)), rate(&tunnel, inner4(2)));
        lines.push(format!("{carried:.2} of {bare:.2} Gbit/s: {:.2}", carried / bare));
    }
    writeln!(std::io::stderr(), "fast path beside the bare cable: {}", lines.join(", ")).unwrap();
}
