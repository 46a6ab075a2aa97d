//! The kernel's selftest `l2_tos_ttl_inherit.sh`: the outer header of a gretap tunnel, with TOS and TTL inherited or
//! fixed, around IPv4, IPv6 and ARP, with a VLAN tag between and without.

use greway_testbed::{Capture, CapturedPacket, require};

use crate::lab::{Lab, attempt, debian_ping, inside, sh};
use crate::support::SOON;

const TOS: u8 = 0xb8;
const TTL: u8 = 77;
const FIXED: (u8, u8) = (0x48, 201);

/// The ethertype inside the frame inside a gretap packet, and whether it is tagged.
fn inner(packet: &CapturedPacket) -> Option<(u16, bool)> {
    let frame = packet.gre()?.get(4..)?;
    let word = |at: usize| Some(u16::from_be_bytes(*frame.get(at..at + 2)?.first_chunk()?));
    match word(12)? {
        0x8100 => Some((word(16)?, true)),
        other => Some((other, false)),
    }
}

/// TOS and TTL, or traffic class and hop limit, of an outer header.
fn outer(packet: &CapturedPacket) -> (u8, u8) {
    let payload = packet.payload();
    match packet.ethertype() {
        0x0800 => (payload[1], payload[8]),
        _ => (payload[0] << 4 | payload[1] >> 4, payload[7]),
    }
}

#[test]
#[ignore = "a step in the guest"]
fn l2_tos_ttl_inherit_over_ipv4() {
    require!(inside());
    let lab = Lab::new();
    lab.node.words("tunnel add tep0 mode gretap local 10.0.0.1 remote 10.0.0.2").ok();
    sh(&lab.kernel, "ip link add tep0 type gretap local 10.0.0.2 remote 10.0.0.1; ip link set tep0 up");
    cases(&lab, ["tos inherit ttl inherit", "tos 0x48 ttl 201"]);
}

#[test]
#[ignore = "a step in the guest"]
fn l2_tos_ttl_inherit_over_ipv6() {
    require!(inside());
    let lab = Lab::over_ipv6();
    // Without the option header GRE is right behind the outer header, where it is looked for.
    let ends = ["local 2001:db8::1 remote 2001:db8::2", "local 2001:db8::2 remote 2001:db8::1"];
    lab.node.words(&format!("tunnel add tep0 mode ip6gretap {} encaplimit none", ends[0])).ok();
    sh(
        &lab.kernel,
        &format!("ip link add tep0 type ip6gretap {} encaplimit none; ip link set tep0 up", ends[1]),
    );
    cases(&lab, ["tclass inherit hoplimit inherit", "tclass 0x48 hoplimit 201"]);
}

fn cases(lab: &Lab, words: [&str; 2]) {
    for (host, last) in [(&lab.ours, 1), (&lab.kernel, 2)] {
        sh(
            host,
            &format!(
                "sysctl -q -w net.ipv6.conf.tep0.disable_ipv6=0
                 ip address add 198.18.0.{last}/24 dev tep0
                 ip address add fdd1:ced0:5d88:3fce::{last}/64 nodad dev tep0
                 ip link set tep0 up
                 ip link add link tep0 name vlan99 type vlan id 99
                 sysctl -q -w net.ipv6.conf.vlan99.disable_ipv6=0
                 ip address add 198.19.0.{last}/24 dev vlan99
                 ip address add fdd1:ced0:5d88:3fcf::{last}/64 nodad dev vlan99
                 ip link set vlan99 up"
            ),
        );
    }
    for (words, inherits) in [(words[0], true), (words[1], false)] {
        lab.node.words(&format!("tunnel change tep0 {words}")).ok();
        for tagged in [false, true] {
            let (v4, v6) = if tagged {
                ("198.19.0.2", "fdd1:ced0:5d88:3fcf::2")
            } else {
                ("198.18.0.2", "fdd1:ced0:5d88:3fce::2")
            };
            for ethertype in [0x0800, 0x86dd, 0x0806] {
                let what = format!("{words}, inner {ethertype:#06x}, VLAN {tagged}");
                let wire = Capture::start(&lab.kernel, "wan0").unwrap();
                match ethertype {
                    0x0800 => debian_ping(&lab.ours, &format!("-c 4 -Q {TOS} -t {TTL} {v4}")),
                    0x86dd => debian_ping(&lab.ours, &format!("-6 -c 4 -Q {TOS} -t {TTL} {v6}")),
                    // A neighbour that is not known is asked for.
                    _ => {
                        sh(&lab.ours, "ip neigh flush all");
                        attempt(&lab.ours, &format!("ping -n -q -c 1 -W 1 {v4}"));
                    }
                }
                let is_it =
                    |packet: &CapturedPacket| !packet.outgoing && inner(packet) == Some((ethertype, tagged));
                wire.wait_for(SOON, &what, is_it).unwrap();
                let packets = wire.stop();
                let seen = packets.iter().filter(|packet| is_it(packet));
                // Neighbour discovery is IPv6 too, with marks of its own.
                let pings = seen
                    .filter(|packet| ethertype != 0x86dd || is_echo(packet))
                    .map(outer)
                    .collect::<Vec<_>>();
                let expected = match (inherits, ethertype) {
                    (false, _) => FIXED,
                    (true, 0x0806) => (0, 64),
                    (true, _) => (TOS, TTL),
                };
                assert!(
                    !pings.is_empty() && pings.iter().all(|marks| *marks == expected),
                    "{what}: {pings:x?}"
                );
            }
        }
    }
}

/// An ICMPv6 echo request in a frame.
fn is_echo(packet: &CapturedPacket) -> bool {
    let Some(gre) = packet.gre() else { return false };
    let Some((0x86dd, tagged)) = inner(packet) else { return false };
    gre.get(4 + 14 + if tagged { 4 } else { 0 } + 40) == Some(&128)
}
