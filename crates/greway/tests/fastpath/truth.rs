//! The operator's tools tell the truth: each packet is in a capture of tun0 and in one of the underlay once, in both
//! directions, `ip -s link` counts it, and so does a rule of nftables. With programs and without.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use greway_testbed::{
    Capture, CapturedPacket, Host, LinkOptions, PingOptions, link, ping, privilege, require,
};

use crate::hosts::{Carrier, add, left_in_all, sh, tunnel};
use crate::pair::{Pair, counted};
use crate::support::SOON;

const TEN: u16 = 10;

fn ten() -> PingOptions {
    PingOptions { count: TEN, ..PingOptions::default() }
}

fn carriers() -> Vec<Carrier> {
    vec![Carrier::filters(), Carrier::userspace()]
}

fn is_echo(packet: &CapturedPacket) -> bool {
    packet.ethertype() == 0x0800 && packet.payload()[9] == 1
}

fn captured(packets: &[CapturedPacket], outgoing: bool, wanted: impl Fn(&CapturedPacket) -> bool) -> u16 {
    let matching = packets.iter().filter(|packet| packet.outgoing == outgoing && wanted(packet));
    matching.count().try_into().unwrap()
}

#[test]
fn captures_and_statistics_have_each_packet_once() {
    require!(privilege::check());
    for carrier in carriers() {
        let pair = carrier.bare();
        let modes = ["", "mode gretap key 1", "mode ip6gre key 2", "mode ip6gretap"];
        for (mode, (name, subnet)) in
            modes.iter().zip([("tun0", 16), ("tun1", 17), ("tun2", 18), ("tun3", 19)])
        {
            let what = format!("{carrier} {mode}");
            add(&pair, name, mode, subnet);
            carrier.carries(&pair, name);
            let far = [172, subnet, 0, 2].into();
            // Neighbours are known afterwards.
            assert!(ping(&pair.left, far, &PingOptions::default()).unwrap().complete(), "{what}");
            let left_before = left_in_all(&tunnel(&pair, 0, name));
            let before = [counted(&pair.left, name), counted(&pair.right, name)];
            let inside = Capture::start(&pair.left, name).unwrap();
            let cable = Capture::start(&pair.left, "wan0").unwrap();
            let far_inside = Capture::start(&pair.right, name).unwrap();

            let report = ping(&pair.left, far, &ten()).unwrap();

            assert!(report.complete(), "{what}: {report}");
            inside
                .wait_for_count(SOON, "replies", TEN.into(), |packet| !packet.outgoing && is_echo(packet))
                .unwrap();
            for packets in [inside.stop(), far_inside.stop()] {
                for outgoing in [true, false] {
                    assert_eq!(captured(&packets, outgoing, is_echo), TEN, "{what}, outgoing {outgoing}");
                }
            }
            let packets = cable.stop();
            for outgoing in [true, false] {
                let seen = captured(&packets, outgoing, |packet| packet.gre().is_some());
                assert_eq!(seen, TEN, "{what}: on the cable, outgoing {outgoing}");
            }
            for (host, (received, sent)) in [(&pair.left, before[0]), (&pair.right, before[1])] {
                let now = counted(host, name);
                assert_eq!(
                    now,
                    (received + u64::from(TEN), sent + u64::from(TEN)),
                    "{what} at {}",
                    host.name()
                );
            }
            assert_eq!(left_in_all(&tunnel(&pair, 0, name)), left_before, "{what}: by the programs alone");
        }
    }
}

/// A chain on tun0 itself, both ways, and rules for what is forwarded into it and out of it.
const RULES: &str = r#"
    nft -f - <<'RULES'
    table netdev watch {
        counter into { }
        counter out { }
        chain into { type filter hook ingress device "tun0" priority 0; ip protocol icmp counter name into; }
        chain out { type filter hook egress device "tun0" priority 0; ip protocol icmp counter name out; }
    }
    table ip watch {
        counter from { }
        counter to { }
        chain forward {
            type filter hook forward priority 0;
            iifname "tun0" ip protocol icmp counter name from
            oifname "tun0" ip protocol icmp counter name to
        }
    }
RULES"#;

/// The packets that a named counter has.
fn counter(host: &Host, name: &str) -> u64 {
    let text = sh(host, &format!("nft list counter {name}"));
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "packets").unwrap();
    words[at + 1].parse().unwrap()
}

/// A host behind left, whose packets left forwards.
fn behind_left(pair: &Pair) -> Host {
    let lan = Host::new("lan").unwrap();
    link(&lan, "eth0", &pair.left, "lan0", &LinkOptions::default()).unwrap();
    lan.address("eth0", "192.168.1.2/24").unwrap();
    pair.left.address("lan0", "192.168.1.1/24").unwrap();
    pair.left.forwarding(true).unwrap();
    sh(&lan, "ip route add default via 192.168.1.1");
    sh(&pair.right, "ip route add 192.168.1.0/24 via 172.16.0.1");
    lan
}

#[test]
fn rules_of_nftables_on_the_tunnel_count_each_packet() {
    require!(privilege::check());
    for carrier in carriers() {
        let pair = carrier.pair("");
        let lan = behind_left(&pair);
        assert!(ping(&lan, [172, 16, 0, 2].into(), &PingOptions::default()).unwrap().complete());
        sh(&pair.left, RULES);
        carrier.carries(&pair, "tun0");
        let report = ping(&lan, [172, 16, 0, 2].into(), &ten()).unwrap();
        assert!(report.complete(), "{carrier}: {report}");
        for name in ["netdev watch into", "netdev watch out", "ip watch from", "ip watch to"] {
            assert_eq!(counter(&pair.left, name), u64::from(TEN), "{carrier}: {name}");
        }
        // And they do more than count.
        sh(&pair.left, "nft add rule netdev watch out ip protocol icmp drop");
        assert_eq!(ping(&lan, [172, 16, 0, 2].into(), &crate::support::in_vain()).unwrap().received(), 0);
        sh(&pair.left, "nft delete table netdev watch && nft add rule ip watch forward drop");
        assert_eq!(ping(&lan, [172, 16, 0, 2].into(), &crate::support::in_vain()).unwrap().received(), 0);
    }
}
