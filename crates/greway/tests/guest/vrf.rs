//! The underlay, the tunnel device or both in a VRF; two underlays with the same addresses, told apart by `dev`.
//!
//! A packet that came in by a slave of a VRF is seen by the stack as the VRF's, and by a packet socket as the slave's:
//! each must be delivered once, whichever of the two `dev` names.

use greway_testbed::{LinkOptions, link, poll_until, require};

use crate::lab::{Lab, V4, answers, debian_ping, inside, sh};
use crate::pair;
use crate::support::SOON;

/// wan0 in vrf-ul, and each end's outer address there.
fn underlay_in_a_vrf(mode: &str) -> Lab {
    let lab = Lab::for_mode(mode);
    let prefix = if lab.ends == V4 { 24 } else { 64 };
    // A device that is given to a VRF loses its IPv6 addresses.
    sh(
        &lab.ours,
        &format!(
            "ip link add vrf-ul type vrf table 10
             sysctl -q -w net.ipv6.conf.vrf-ul.disable_ipv6=0
             ip link set vrf-ul up
             ip link set wan0 master vrf-ul
             ip address replace {}/{prefix} dev wan0",
            lab.ends[0]
        ),
    );
    lab
}

#[test]
#[ignore = "a step in the guest"]
fn dev_is_a_slave_of_the_underlays_vrf() {
    require!(inside());
    carries_over("gre", "wan0");
    carries_over("ip6gre", "wan0");
}

#[test]
#[ignore = "a step in the guest"]
fn dev_is_the_underlays_vrf() {
    require!(inside());
    carries_over("gre", "vrf-ul");
    carries_over("ip6gre", "vrf-ul");
}

fn carries_over(mode: &str, dev: &str) {
    let lab = underlay_in_a_vrf(mode);
    lab.tunnel(mode, "");
    let mtu: u64 = if mode == "gre" { 1476 } else { 1448 };
    // The way is there by `dev` only: the main table knows none.
    crate::lab::silent(&lab.ours, "172.16.0.2");
    for underlay in ["packet", "raw"] {
        lab.node.words(&format!("tunnel change tun0 dev {dev} underlay {underlay}")).ok();
        let what = format!("{mode}, dev {dev}, {underlay} socket");
        lab.counts(&what, 10, || debian_ping(&lab.ours, "-c 10 172.16.0.2"));
        // As large as the path takes, whose MTU is known by way of the VRF.
        let full = format!("-c 5 -M do -s {} 172.16.0.2", mtu - 28);
        lab.counts(&format!("{what}, full size"), 5, || debian_ping(&lab.ours, &full));
    }
    assert_eq!(lab.status("tun0")["device"]["mtu"], mtu);
}

#[test]
#[ignore = "a step in the guest"]
fn the_mtu_follows_an_underlay_in_a_vrf() {
    require!(inside());
    let lab = underlay_in_a_vrf("gre");
    lab.ours("tun0", "gre", "dev wan0", "172.16.0.1/30");
    for mtu in [1400, 2000] {
        sh(&lab.ours, &format!("ip link set wan0 mtu {mtu}"));
        poll_until(SOON, "the MTU of tun0", || (lab.node.mtu("tun0") == mtu - 24).then_some(())).unwrap();
    }
}

#[test]
#[ignore = "a step in the guest"]
fn the_tunnel_device_is_in_a_vrf() {
    require!(inside());
    let lab = Lab::new();
    lab.tunnel("gre", "");
    answers(&lab.ours, "172.16.0.2");
    sh(
        &lab.ours,
        "ip link add vrf-ol type vrf table 20; ip link set vrf-ol up; ip link set tun0 master vrf-ol",
    );
    for underlay in ["packet", "raw"] {
        lab.node.words(&format!("tunnel change tun0 underlay {underlay}")).ok();
        lab.counts("the device in a VRF", 10, || debian_ping(&lab.ours, "-c 10 -I vrf-ol 172.16.0.2"));
    }
    // What comes in is the VRF's, and nobody's outside of it.
    debian_ping(&lab.kernel, "-c 3 172.16.0.1");
    crate::lab::silent(&lab.ours, "172.16.0.2");
    sh(&lab.ours, "ip link set tun0 nomaster");
    lab.counts("out of the VRF again", 3, || answers(&lab.ours, "172.16.0.2"));
}

#[test]
#[ignore = "a step in the guest"]
fn underlay_and_tunnel_device_in_two_vrfs() {
    require!(inside());
    let lab = underlay_in_a_vrf("gre");
    lab.ours("tun0", "gre", "dev vrf-ul key 5", "172.16.0.1/30");
    lab.kernels("tun0", "gre", "key 5", "172.16.0.2/30");
    sh(
        &lab.ours,
        "ip link add vrf-ol type vrf table 20; ip link set vrf-ol up; ip link set tun0 master vrf-ol",
    );
    for (dev, underlay) in [("vrf-ul", "packet"), ("wan0", "packet"), ("wan0", "raw"), ("vrf-ul", "raw")] {
        lab.node.words(&format!("tunnel change tun0 dev {dev} underlay {underlay}")).ok();
        let what = format!("dev {dev}, {underlay} socket");
        lab.counts(&what, 10, || debian_ping(&lab.ours, "-c 10 -I vrf-ol 172.16.0.2"));
        lab.counts(&what, 10, || debian_ping(&lab.kernel, "-c 10 172.16.0.1"));
    }
}

/// The filter is the VRF's, and so is the way back: the main table knows none.
#[test]
#[ignore = "a step in the guest"]
fn the_reverse_path_is_looked_for_in_the_vrf() {
    require!(inside());
    let lab = underlay_in_a_vrf("gre");
    lab.ours("tun0", "gre", "dev wan0 underlay packet", "172.16.0.1/30");
    lab.kernels("tun0", "gre", "", "172.16.0.2/30");
    for filter in ["1", "2"] {
        for dev in ["all", "wan0", "vrf-ul"] {
            lab.ours.sysctl(&format!("ipv4/conf/{dev}/rp_filter"), filter).unwrap();
        }
        // An event, upon which the daemon looks.
        sh(
            &lab.ours,
            "ip route add 192.0.2.0/24 dev wan0 vrf vrf-ul; ip route del 192.0.2.0/24 dev wan0 vrf vrf-ul",
        );
        debian_ping(&lab.kernel, "-c 5 172.16.0.1");
        // With another way back, or none, the packets are not believed.
        sh(&lab.ours, "ip route add unreachable 10.0.0.2/32 vrf vrf-ul");
        let dropped = || pair::drops(&lab.node.status(), "reverse-path");
        let before = dropped();
        poll_until(SOON, "drops by the reverse path", || {
            sh(&lab.kernel, "ping -n -q -c 1 -W 0.1 172.16.0.1 || true");
            (dropped() > before).then_some(())
        })
        .unwrap();
        sh(&lab.ours, "ip route del unreachable 10.0.0.2/32 vrf vrf-ul");
        crate::lab::comes_to_answer(&lab.kernel, "172.16.0.1");
    }
}

/// Two customers with the same addresses, each in a VRF with a cable of its own, and two tunnels that differ in `dev`
/// alone.
#[test]
#[ignore = "a step in the guest"]
fn two_vrfs_with_the_same_addresses_are_told_apart_by_dev() {
    require!(inside());
    for (case, devs) in [("slaves", ["wan1", "wan2"]), ("VRFs", ["vrf-1", "vrf-2"])] {
        let lab = Lab::cable();
        let others = ["one", "two"].map(crate::lab::quiet);
        for (number, other) in (1..).zip(&others) {
            let wan = format!("wan{number}");
            link(&lab.ours, &wan, other, "wan0", &LinkOptions::default()).unwrap();
            sh(
                &lab.ours,
                &format!(
                    "ip link add vrf-{number} type vrf table 1{number}
                     ip link set vrf-{number} up
                     ip link set {wan} master vrf-{number}
                     ip address add 10.0.0.1/24 dev {wan}"
                ),
            );
            sh(
                other,
                &format!(
                    "ip address add 10.0.0.2/24 dev wan0
                     ip link add tun0 type gre local 10.0.0.2 remote 10.0.0.1
                     ip address add 172.16.{number}.2/30 dev tun0
                     ip link set tun0 up"
                ),
            );
            let dev = devs[number - 1];
            lab.ours(&format!("tun{number}"), "gre", &format!("dev {dev}"), &format!("172.16.{number}.1/30"));
        }
        for underlay in ["packet", "raw"] {
            for number in [1, 2] {
                lab.node.words(&format!("tunnel change tun{number} underlay {underlay}")).ok();
            }
            for (number, other) in (1..).zip(&others) {
                let before = pair::counted(&lab.ours, &format!("tun{}", 3 - number));
                let answered = crate::lab::attempt(
                    &lab.ours,
                    &format!("ping -n -q -i 0.05 -W 1 -c 5 172.16.{number}.2"),
                );
                assert!(answered.0, "{case}, {underlay} socket: tun{number}: {}", answered.1);
                answers(other, &format!("172.16.{number}.1"));
                let after = pair::counted(&lab.ours, &format!("tun{}", 3 - number));
                assert_eq!(before, after, "{case}, {underlay} socket: nothing of tun{number} is the other's");
            }
        }
    }
}

#[test]
#[ignore = "a step in the guest"]
fn the_underlay_is_a_vlan_device() {
    require!(inside());
    let lab = Lab::cable();
    for (host, address) in [(&lab.ours, "10.0.0.1/24"), (&lab.kernel, "10.0.0.2/24")] {
        sh(
            host,
            &format!(
                "ip link add link wan0 name wan0.5 type vlan id 5
                 ip address add {address} dev wan0.5
                 ip link set wan0.5 up"
            ),
        );
    }
    lab.tunnel("gre", "");
    let wire = greway_testbed::Capture::start(&lab.kernel, "wan0").unwrap();
    for words in ["underlay packet", "underlay raw", "dev wan0.5", "underlay packet"] {
        lab.node.words(&format!("tunnel change tun0 {words}")).ok();
        lab.counts(&format!("a VLAN below, {words}"), 10, || debian_ping(&lab.ours, "-c 10 172.16.0.2"));
        lab.counts("full size", 5, || debian_ping(&lab.ours, "-c 5 -M do -s 1448 172.16.0.2"));
    }
    let packets = wire.stop();
    let gre = packets.iter().filter(|packet| crate::lab::is_gre(packet)).collect::<Vec<_>>();
    assert!(
        gre.len() >= 120 && gre.iter().all(|packet| packet.vlan == Some(5)),
        "{}: all in the VLAN",
        gre.len()
    );
}
