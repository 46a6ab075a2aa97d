//! greway against the Linux kernel's own ip_gre and ip6_gre, in a User Mode Linux guest: one boot carries all tunnels
//! of a test, those of layer 3 and those that carry Ethernet.
//!
//! The guest's end of the wire leaves the GRE checksum of csum tunnels to a device that never fills it in when
//! its transmit offload is on (M6), and verifies ours in any case; so both settings are gone through.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests; rates and times are for people"
)]

#[path = "../support/pair.rs"]
mod pair;
#[path = "../support/mod.rs"]
mod support;

mod knobs;
mod lab;
mod outer;
mod special;

use std::time::Duration;

use greway_testbed::uml::{self, UmlGuest};
use greway_testbed::{
    Capture, CapturedPacket, LinkOptions, PingOptions, inject, offloads, ping, poll_until, privilege, require,
};

use lab::{BOTH, Interop, LONG, MIB, Tunnel, inner};
use outer::has_end;
use support::{BY_PROGRAMS, SOON};

/// Every kind with its options.
const TUNNELS: [Tunnel; 16] = [
    Tunnel::same("k-plain", "gre", ""),
    Tunnel::same("k-key", "gre", "key 42"),
    Tunnel::same("k-csum", "gre", "csum"),
    Tunnel::same("k-seq", "gre", "seq"),
    Tunnel::same("k-all", "gre", "key 42 csum seq"),
    Tunnel::same("t-plain", "gretap", ""),
    Tunnel::same("t-key", "gretap", "key 42"),
    Tunnel::same("t-all", "gretap", "key 42 csum seq"),
    Tunnel::same("k6-plain", "ip6gre", ""),
    Tunnel::same("k6-key", "ip6gre", "key 42"),
    Tunnel::same("k6-csum", "ip6gre", "csum"),
    Tunnel::same("k6-seq", "ip6gre", "seq"),
    Tunnel::same("k6-all", "ip6gre", "key 42 csum seq encaplimit none"),
    Tunnel::same("t6-plain", "ip6gretap", "encaplimit none"),
    Tunnel::same("t6-key", "ip6gretap", "key 42"),
    Tunnel::same("t6-all", "ip6gretap", "key 42 csum seq"),
];

/// The guest's VLAN on top of an Ethernet tunnel.
const VLAN: &str = "ip link add link t-plain name t-plain.5 type vlan id 5
                    ip address add 172.31.255.2/24 dev t-plain.5
                    ip link set t-plain.5 up";

#[test]
fn the_kernels_tunnels_understand_ours_by_packet_socket() {
    require!(privilege::check());
    require!(uml::available());
    understands("packet", "underlay packet datapath userspace");
}

#[test]
fn the_kernels_tunnels_understand_ours_by_raw_socket() {
    require!(privilege::check());
    require!(uml::available());
    understands("raw", "underlay raw datapath userspace");
}

#[test]
fn the_kernels_tunnels_understand_ours_by_programs() {
    require!(privilege::check());
    require!(uml::available());
    understands("ebpf", BY_PROGRAMS);
}

fn understands(what: &str, way: &str) {
    let mut lab = Interop::boot(&format!("interop-{what}"), &TUNNELS, way);
    for (_, Tunnel { name, .. }) in lab.tunnels() {
        lab.ready(name);
        lab.pings(name, &BOTH);
        let [up, down] = lab.bulk(name, MIB);
        println!("{name} by {what}: {up:.0} Mbit/s from the guest, {down:.0} to it");
        lab.no_errors(name);
    }
    answers_in_a_vlan(&mut lab);
    lab.guest.power_off(LONG).unwrap();
}

/// With its device's transmit offload on the guest leaves every checksum to it, the GRE header's too, and nobody ever
/// fills them in (M6); with it off they are there.
#[test]
fn checksums_that_devices_leave_undone_do_no_harm() {
    require!(privilege::check());
    require!(uml::available());
    let mut lab = Interop::boot("interop-offload", &TUNNELS, "underlay packet");
    let switch = lab.guest.run("ethtool -K vec0 tx on").map_err(|error| error.to_string());
    require!(switch);
    for (tx_offload, word) in [(true, "on"), (false, "off")] {
        lab.guest.run(&format!("ethtool -K vec0 tx {word}")).unwrap();
        let options = LinkOptions { tx_offload, ..LinkOptions::default() };
        offloads(&lab.host, "uml0", &options).unwrap();
        offloads(&lab.wire, "wire0", &options).unwrap();
        for underlay in ["packet", "raw"] {
            for name in ["k-plain", "k-csum", "k6-csum"] {
                let near_end = lab.near_end(name);
                let what = format!("{name} by {underlay} socket, transmit offload {word}");
                lab.node.words(&format!("tunnel change {name} underlay {underlay}")).ok();
                let arrives = Capture::start(&lab.host, "uml0").unwrap();
                lab.pings(name, &BOTH);
                lab.bulk(name, MIB / 4);
                lab.no_errors(name);
                let undone = pair::seen(arrives, |packet| {
                    let own = !packet.outgoing && has_end(packet, near_end);
                    let gre = packet.gre().filter(|gre| own && gre[0] & 0x80 != 0);
                    gre.is_some_and(|gre| !greway_wire::checksum::verifies(gre))
                });
                assert_eq!(
                    undone > 0,
                    tx_offload && name.ends_with("csum"),
                    "{what}: {undone} checksums undone"
                );
            }
        }
    }
}

#[test]
fn a_peer_that_checks_sequence_numbers_accepts_us_after_kill_9() {
    require!(privilege::check());
    require!(uml::available());
    let mut lab = Interop::boot("interop-kill", &TUNNELS, "underlay packet");
    for name in ["k-seq", "k-all", "k6-seq"] {
        let far = inner(lab.number(name), 2)[0];
        lab.ready(name);
        // Far enough that a daemon which began at 0 again would be behind for a while.
        let flood = PingOptions { count: 300, size: 8, ..PingOptions::default() };
        assert!(ping(&lab.host, far, &flood).unwrap().complete());
        let before = errors(&mut lab.guest, name);
        assert_eq!(before, 0, "{name}");
        for _ in 0..2 {
            lab.daemon.take().unwrap().kill();
            lab.daemon = Some(lab.node.daemon());
            let one = PingOptions { count: 1, timeout: Duration::from_millis(200), ..PingOptions::default() };
            poll_until(SOON, "the tunnel after kill -9", || {
                ping(&lab.host, far, &one).unwrap().complete().then_some(())
            })
            .unwrap();
            assert!(ping(&lab.host, far, &PingOptions::default()).unwrap().complete());
        }
        // Not one was late: the numbers went on beyond those that were reserved.
        assert_eq!(errors(&mut lab.guest, name), 0, "{name}");
        lab.pings(name, &BOTH);
    }
}

/// The guest's VLAN device on top of t-plain is asked for its address, and answers in its VLAN. (This host's
/// kernel may have no VLAN devices, so the question is written by hand.)
fn answers_in_a_vlan(lab: &mut Interop) {
    lab.guest.run(VLAN).unwrap();
    let own = lab.host.netlink().unwrap().link_by_name("t-plain").unwrap().unwrap().address.unwrap();
    let question = [
        &[0xff; 6][..],
        &own,
        // VLAN 5, ARP, a request for Ethernet and IPv4: who has 172.31.255.2, tell 172.31.255.1.
        &[0x81, 0, 0, 5, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &own,
        &[172, 31, 255, 1, 0, 0, 0, 0, 0, 0, 172, 31, 255, 2],
    ]
    .concat();
    let answers = Capture::start(&lab.host, "t-plain").unwrap();
    inject(&lab.host, "t-plain", &question).unwrap();
    let is_answer = |packet: &CapturedPacket| {
        let arp = packet.payload();
        packet.vlan == Some(5)
            && packet.ethertype() == 0x0806
            && arp.get(7) == Some(&2)
            && arp.get(14..18) == Some(&[172, 31, 255, 2])
            && packet.frame[..6] == own
    };
    answers.wait_for(SOON, "the guest's answer in VLAN 5", is_answer).unwrap();
}

/// What the guest's tunnel refused for its sequence number.
fn errors(guest: &mut UmlGuest, name: &str) -> u64 {
    let text = guest.run(&format!("cat /sys/class/net/{name}/statistics/rx_fifo_errors")).unwrap();
    text.trim().parse().unwrap()
}
