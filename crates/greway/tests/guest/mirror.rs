//! The kernel's selftest `forwarding/mirror_gre_changes.sh`: tc mirrors what comes in on a port into a gretap tunnel, whose
//! attributes, device and way change meanwhile. What is mirrored from the next packet on is counted on the wire.

use greway_testbed::{Capture, CapturedPacket, Host, LinkOptions, link, poll_until, require};

use crate::lab::{Lab, V6, attempt, inside, quiet, sh};
use crate::support::SOON;

/// Echo requests that are mirrored in one go.
const COUNT: usize = 5;

struct Mirror {
    lab: Lab,
    h1: Host,
}

fn mirror(mode: &str) -> Mirror {
    let lab = Lab::for_mode(mode);
    let h1 = quiet("h1");
    link(&h1, "eth0", &lab.ours, "port0", &LinkOptions::default()).unwrap();
    h1.address("eth0", "192.0.2.1/28").unwrap();
    lab.ours.address("port0", "192.0.2.2/28").unwrap();
    let words =
        if mode == "gretap" { "ttl 50 tos inherit" } else { "hoplimit 50 tclass inherit encaplimit none" };
    let ends = format!("local {} remote {}", lab.ends[0], lab.ends[1]);
    lab.node.words(&format!("tunnel add gt4 mode {mode} {ends} {words}")).ok();
    sh(
        &lab.ours,
        "ip link set gt4 up
         tc qdisc add dev port0 clsact
         tc filter add dev port0 ingress protocol ip matchall action mirred egress mirror dev gt4",
    );
    Mirror { lab, h1 }
}

/// An echo request in an Ethernet frame in GRE.
fn is_mirrored(packet: &CapturedPacket) -> bool {
    packet.gre().is_some_and(|gre| gre.get(2..4) == Some(&[0x65, 0x58]) && gre.get(4 + 14 + 20) == Some(&8))
}

impl Mirror {
    /// Sends echo requests by the port; gives the TTLs of the packets that came to the other end of the cable, all of
    /// which have to be to `remote`.
    #[track_caller]
    fn sends(&self, remote: &[u8]) -> Vec<u8> {
        let wire = Capture::start(&self.lab.kernel, "wan0").unwrap();
        // Every request is answered by the port's own address, so that the last mirror is older than the last answer.
        sh(&self.h1, &format!("ping -n -q -i 0.05 -W 2 -c {COUNT} 192.0.2.2"));
        self.settle();
        let packets = wire.stop();
        let mirrored =
            packets.iter().filter(|packet| !packet.outgoing && is_mirrored(packet)).collect::<Vec<_>>();
        let (to, ttl) = if remote.len() == 4 { (16..20, 8) } else { (24..40, 7) };
        assert!(mirrored.iter().all(|packet| packet.payload()[to.clone()] == *remote), "{mirrored:?}");
        mirrored.iter().map(|packet| packet.payload()[ttl]).collect()
    }

    /// What was handed to the tunnel has been sent or dropped when a status is answered twice with the same numbers.
    fn settle(&self) {
        let numbers = || {
            let status = self.lab.status("gt4");
            (status["counters"].clone(), status["drops"].clone())
        };
        let mut last = numbers();
        poll_until(SOON, "a tunnel at rest", || {
            let now = numbers();
            let same = now == last;
            last = now;
            same.then_some(())
        })
        .unwrap();
    }
}

const FAR: &[u8] = &[10, 0, 0, 2];

#[test]
#[ignore = "a step in the guest"]
fn mirror_gre_changes() {
    require!(inside());
    let mirror = mirror("gretap");
    let lab = &mirror.lab;
    let all = |ttl: u8| vec![ttl; COUNT];
    let change = |words: &str| lab.node.words(&format!("tunnel change gt4 {words}")).ok();

    // TTL.
    assert_eq!(mirror.sends(FAR), all(50));
    change("ttl 100");
    assert_eq!(mirror.sends(FAR), all(100));
    change("ttl 50");
    assert_eq!(mirror.sends(FAR), all(50));

    // The tunnel device down and up.
    sh(&lab.ours, "ip link set gt4 down");
    assert!(mirror.sends(FAR).is_empty());
    sh(&lab.ours, "ip link set gt4 up");
    poll_until(SOON, "gt4 to run", || lab.node.link("gt4").unwrap().operational().then_some(())).unwrap();
    assert_eq!(mirror.sends(FAR), all(50));

    // The egress device down and up.
    sh(&lab.ours, "ip link set wan0 down");
    assert!(mirror.sends(FAR).is_empty());
    let drops = lab.status("gt4")["drops"].to_string();
    assert!(drops.contains("no-route"), "{drops}");
    sh(&lab.ours, "ip link set wan0 up");
    crate::lab::comes_to_answer(&lab.ours, "10.0.0.2");
    assert_eq!(mirror.sends(FAR), all(50));

    // Another remote address, and back.
    sh(&lab.kernel, "ip address add 10.0.0.3/24 dev wan0");
    change("remote 10.0.0.3");
    assert_eq!(mirror.sends(&[10, 0, 0, 3]), all(50));
    change("remote 10.0.0.2");
    assert_eq!(mirror.sends(FAR), all(50));

    // The route to the remote deleted, and back.
    sh(&lab.ours, "ip route del 10.0.0.0/24 dev wan0");
    assert!(mirror.sends(FAR).is_empty());
    sh(&lab.ours, "ip route add 10.0.0.0/24 dev wan0 src 10.0.0.1");
    assert_eq!(mirror.sends(FAR), all(50));

    // The tunnel deleted under the mirror: nobody crashes, and the port goes on.
    lab.node.words("tunnel del gt4").ok();
    assert!(attempt(&mirror.h1, "ping -n -q -c 2 -i 0.1 -W 1 192.0.2.2").0);
}

/// The first packet of a fresh tunnel is a mirrored one, in which nobody made room.
#[test]
#[ignore = "a step in the guest"]
fn ip6_gre_headroom() {
    require!(inside());
    let far: std::net::Ipv6Addr = V6[1].parse().unwrap();
    assert_eq!(mirror("ip6gretap").sends(&far.octets()), [50; COUNT]);
    assert_eq!(mirror("gretap").sends(FAR), [50; COUNT]);
}
