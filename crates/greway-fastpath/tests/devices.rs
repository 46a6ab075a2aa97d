//! Underlays of other kinds than a cable with Ethernet on it.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

#[path = "support/carries.rs"]
mod carries;
#[path = "support/on_top.rs"]
mod on_top;
mod support;
#[path = "support/tun_cable.rs"]
mod tun_cable;
#[path = "support/tunnel.rs"]
mod tunnel;

use carries::{carries_everything, every_mode, of_mode, state};
use greway_fastpath::{Decline, Point};
use greway_spec::Mode;
use greway_testbed::privilege;
use on_top::on_top;
use support::{ipv4_packet, not_run, until};
use tun_cable::{TunCable, hosts_on_tuns};
use tunnel::Tunnel;

fn on_tuns(name: &str, merging: bool) -> Option<([greway_testbed::Host; 2], TunCable)> {
    let hosts = privilege::check().ok().and_then(|()| hosts_on_tuns(merging));
    if hosts.is_none() {
        not_run(name, "no network namespaces, or no /dev/net/tun");
    }
    hosts
}

/// ppp, tun, wireguard: there is no link header in front of the delivery header.
#[test]
fn devices_without_a_link_header_carry_every_mode() {
    let name = "devices_without_a_link_header_carry_every_mode";
    for (mode, key) in every_mode() {
        let Some((hosts, _cable)) = on_tuns(name, false) else { return };
        let mut tunnel = Tunnel::new(hosts, of_mode(mode, key));
        carries_everything(&mut tunnel);
        for end in [&tunnel.left, &tunnel.right] {
            let counters = end.fastpath.counters(Point::Underlay).unwrap();
            assert_eq!(counters.gre, counters.carried, "{mode:?}: {}", state(&tunnel));
        }
    }
}

/// WireGuard merges what it has decrypted: super-packets stay whole, of whatever size.
#[test]
fn devices_without_a_link_header_keep_super_packets_whole() {
    let name = "devices_without_a_link_header_keep_super_packets_whole";
    for (mode, key) in every_mode() {
        let Some((hosts, _cable)) = on_tuns(name, true) else { return };
        let mean = carries_everything(&mut Tunnel::new(hosts, of_mode(mode, key)));
        let mtu = 1500;
        assert!(mean > mtu, "{mode:?} key {key:?}: {mean} bytes a packet, no more than the device takes");
    }
}

/// T3: what is not a whole datagram is left to the IP stack, as on a cable.
#[test]
fn t3_without_a_link_header_truncated_packets_are_declined_too() {
    let name = "t3_without_a_link_header_truncated_packets_are_declined_too";
    let Some((hosts, cable)) = on_tuns(name, false) else { return };
    let tunnel = Tunnel::new(hosts, of_mode(Mode::Gre, None));
    let inner = ipv4_packet(17, [10, 0, 0, 1], [10, 0, 0, 2], &[0; 40]);
    let gre = [&[0, 0, 8, 0][..], &inner].concat();
    let whole = ipv4_packet(47, [192, 0, 2, 2], [192, 0, 2, 1], &gre);
    let declined = |reason| tunnel.left.counters_of(Point::Underlay).declined_for(reason);
    for cut in [1, 13, 14, 15] {
        let before = declined(Decline::Truncated);
        cable.hand_to_left(&whole[..whole.len() - cut]);
        until("it is declined", || declined(Decline::Truncated) == before + 1);
    }
    cable.hand_to_left(&[&whole[..], &[0; 20]].concat());
    until("padding is declined", || declined(Decline::Padded) == 1);
    let before = tunnel.left.counters().rx_packets;
    cable.hand_to_left(&whole);
    until("the whole one is carried", || tunnel.left.counters().rx_packets == before + 1);
}

/// A bridge and a device on top of another: what they hand on has come by a second device, and the programs are on
/// the one that has the addresses.
#[test]
fn bridges_and_macvlans_carry() {
    let name = "bridges_and_macvlans_carry";
    let modes = [(Mode::Gre, None), (Mode::Ip6Gretap, None)];
    let kinds = [
        ["link add eth0 type bridge", "link set port0 master eth0"],
        ["link add link port0 name eth0 type macvlan mode private", "link set eth0 mtu 1500"],
    ];
    for (kind, (mode, key)) in kinds.iter().flat_map(|kind| modes.map(|mode| (kind, mode))) {
        let Some(hosts) = on_top(kind) else { return not_run(name, "no network namespaces, or no ip") };
        carries_everything(&mut Tunnel::new(hosts, of_mode(mode, key)));
    }
}
