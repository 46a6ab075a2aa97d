//! Every word of `ip link … type gre` and its kin that shows on the wire, given to both ends: greway and the kernel
//! have to write the same delivery header for the same packet, the one that the words say, and to take each other's.

use greway_testbed::uml;
use greway_testbed::{Capture, PingOptions, ping, privilege, require};

use crate::lab::{Interop, LONG, MIB, Tunnel, inner, quick};
use crate::outer::{Outer, answer_tos, has_end, is_fragment, is_request, label_of};
use crate::special;
use crate::support::SOON;

const C: u16 = 0x8000;
const K: u16 = 0x2000;
const S: u16 = 0x1000;

/// What decides the outer TTL.
#[derive(Debug, Clone, Copy)]
enum Ttl {
    /// The payload packet's.
    Copied,
    Fixed(u8),
}

/// What decides the outer TOS.
#[derive(Debug, Clone, Copy)]
enum Tos {
    /// This, and the ECN bits by RFC 6040's table as Linux has it: CE inside is ECT(0) outside.
    Fixed(u8),
    /// The payload packet's, and the ECN bits by the same table.
    Copied,
    /// This whole byte: the kernel's GRE over IPv6 does not look at ECN.
    Byte(u8),
    /// The payload packet's whole byte.
    CopiedByte,
}

/// What decides DF.
#[derive(Debug, Clone, Copy)]
enum Df {
    Always,
    /// The payload packet's; an IPv6 packet has none.
    Copied,
    Never,
}

/// What decides the flow label.
#[derive(Debug, Clone, Copy)]
enum Label {
    /// Some label that is not 0.
    Some,
    Fixed(u32),
    /// The payload packet's, if it is an IPv6 packet.
    Copied,
}

/// A tunnel, and the delivery header that both ends have to write.
#[derive(Debug, Clone, Copy)]
struct Knob {
    tunnel: Tunnel,
    ttl: Ttl,
    tos: Tos,
    df: Df,
    label: Label,
    limit: Option<u8>,
    /// GRE flags of what greway sends, and of what the kernel sends.
    flags: [u16; 2],
}

/// What IPv4 tunnels do by default.
const fn over_ipv4(tunnel: Tunnel) -> Knob {
    Knob {
        tunnel,
        ttl: Ttl::Copied,
        tos: Tos::Fixed(0),
        df: Df::Always,
        label: Label::Fixed(0),
        limit: None,
        flags: [0, 0],
    }
}

const IPV4: [Knob; 14] = [
    Knob { ttl: Ttl::Fixed(7), ..over_ipv4(Tunnel::same("w-ttl", "gre", "ttl 7")) },
    over_ipv4(Tunnel::same("w-inherit", "gre", "ttl inherit")),
    Knob { tos: Tos::Fixed(0x48), ..over_ipv4(Tunnel::same("w-tos", "gre", "tos 0x48")) },
    Knob { tos: Tos::Copied, ..over_ipv4(Tunnel::same("w-tosinherit", "gre", "tos inherit")) },
    Knob { df: Df::Copied, ..over_ipv4(Tunnel::same("w-nopmtudisc", "gre", "nopmtudisc")) },
    Knob { df: Df::Never, ..over_ipv4(Tunnel::same("w-ignoredf", "gre", "nopmtudisc ignore-df")) },
    Knob { flags: [K, K], ..over_ipv4(Tunnel::pair("w-keys", "gre", "ikey 7 okey 8", "ikey 8 okey 7")) },
    Knob { flags: [0, K], ..over_ipv4(Tunnel::pair("w-ikey", "gre", "ikey 7", "okey 7")) },
    Knob { flags: [0, C], ..over_ipv4(Tunnel::pair("w-icsum", "gre", "icsum", "ocsum")) },
    Knob { flags: [C, 0], ..over_ipv4(Tunnel::pair("w-ocsum", "gre", "ocsum", "icsum")) },
    Knob { flags: [0, S], ..over_ipv4(Tunnel::pair("w-iseq", "gre", "iseq", "oseq")) },
    Knob { flags: [S, 0], ..over_ipv4(Tunnel::pair("w-oseq", "gre", "oseq", "iseq")) },
    Knob { flags: [K, K], ..over_ipv4(Tunnel::same("w-dev", "gre", "dev DEV key 5")) },
    Knob {
        ttl: Ttl::Fixed(9),
        tos: Tos::Copied,
        flags: [K, K],
        ..over_ipv4(Tunnel::same("w-tap", "gretap", "key 0 ttl 9 tos inherit"))
    },
];

/// What IPv6 tunnels do by default.
const fn over_ipv6(tunnel: Tunnel) -> Knob {
    Knob {
        tunnel,
        ttl: Ttl::Fixed(64),
        tos: Tos::Byte(0),
        df: Df::Never,
        label: Label::Some,
        limit: Some(4),
        flags: [0, 0],
    }
}

const IPV6: [Knob; 14] = [
    over_ipv6(Tunnel::same("x-plain", "ip6gre", "")),
    Knob { limit: None, ..over_ipv6(Tunnel::same("x-none", "ip6gre", "encaplimit none")) },
    Knob { limit: Some(9), ..over_ipv6(Tunnel::same("x-limit", "ip6gre", "encaplimit 9")) },
    Knob { ttl: Ttl::Fixed(7), ..over_ipv6(Tunnel::same("x-hop", "ip6gre", "hoplimit 7")) },
    Knob { ttl: Ttl::Copied, ..over_ipv6(Tunnel::same("x-inherit", "ip6gre", "hoplimit inherit")) },
    Knob { tos: Tos::Byte(0x48), ..over_ipv6(Tunnel::same("x-class", "ip6gre", "tclass 0x48")) },
    Knob { tos: Tos::CopiedByte, ..over_ipv6(Tunnel::same("x-classinh", "ip6gre", "tclass inherit")) },
    Knob {
        label: Label::Fixed(0x12345),
        ..over_ipv6(Tunnel::same("x-label", "ip6gre", "flowlabel 0x12345"))
    },
    Knob { label: Label::Copied, ..over_ipv6(Tunnel::same("x-labelinh", "ip6gre", "flowlabel inherit")) },
    Knob {
        flags: [K | C, K | S],
        ..over_ipv6(Tunnel::pair("x-ways", "ip6gre", "ikey 7 okey 8 ocsum iseq", "ikey 8 okey 7 icsum oseq"))
    },
    Knob { flags: [K, K], ..over_ipv6(Tunnel::same("x-dev", "ip6gre", "dev DEV key 5 allow-localremote")) },
    over_ipv6(Tunnel::same("x-tap", "ip6gretap", "")),
    Knob {
        ttl: Ttl::Fixed(9),
        tos: Tos::CopiedByte,
        limit: None,
        flags: [K, K],
        ..over_ipv6(Tunnel::same(
            "x-tapwords",
            "ip6gretap",
            "key 0 hoplimit 9 tclass inherit encaplimit none",
        ))
    },
    Knob {
        tos: Tos::Byte(0x48),
        flags: [K | C | S, K | C | S],
        ..over_ipv6(Tunnel::same("x-dscp", "ip6gre", "key 42 csum seq tclass 0x48 dscp inherit"))
    },
];

/// A packet that is sent through every tunnel from both ends.
struct Probe {
    ttl: u8,
    tos: u8,
    df: bool,
}

/// All four ECN words, with and without DF.
const PROBES: [Probe; 4] = [
    Probe { ttl: 33, tos: 0x28, df: false },
    Probe { ttl: 34, tos: 0xb9, df: true },
    Probe { ttl: 35, tos: 0x02, df: false },
    Probe { ttl: 36, tos: 0x8b, df: true },
];

impl Knob {
    /// The header for a probe, by the end that sends it (greway 0, the kernel 1). `seen` is the one that was sent,
    /// for its label where that is the sender's choice.
    fn expected(&self, probe: &Probe, end: usize, seen: &Outer, inside: &[u8]) -> Outer {
        let inner_ipv6 = inside[0] >> 4 == 6;
        let ecn = if probe.tos & 3 == 3 { 2 } else { probe.tos & 3 };
        let chosen = || {
            assert_ne!(seen.label, 0, "{self:?}: no flow label");
            seen.label
        };
        Outer {
            ttl: match self.ttl {
                Ttl::Copied => probe.ttl,
                Ttl::Fixed(ttl) => ttl,
            },
            tos: match self.tos {
                Tos::Fixed(tos) => tos & 0xfc | ecn,
                Tos::Copied => probe.tos & 0xfc | ecn,
                Tos::Byte(tos) => tos,
                Tos::CopiedByte => probe.tos,
            },
            df: match self.df {
                Df::Always => true,
                Df::Copied => probe.df && !inner_ipv6,
                Df::Never => false,
            },
            label: match self.label {
                Label::Fixed(label) => label,
                Label::Copied if inner_ipv6 => label_of(inside),
                Label::Some | Label::Copied => chosen(),
            },
            limit: self.limit,
            gre: (
                self.flags[end],
                match (self.tunnel.is_ethernet(), inner_ipv6) {
                    (true, _) => 0x6558,
                    (false, false) => 0x0800,
                    (false, true) => 0x86dd,
                },
            ),
        }
    }

    /// Sends each probe from both ends and compares the headers.
    fn shows(&self, lab: &mut Interop) {
        let Tunnel { name, .. } = self.tunnel;
        let number = lab.number(name);
        let near_end = lab.near_end(name);
        let wire = Capture::start(&lab.host, "uml0").unwrap();
        let mut script = String::new();
        for probe in &PROBES {
            let Probe { ttl, tos, df } = *probe;
            for (near, far) in inner(number, 1).into_iter().zip(inner(number, 2)) {
                let options = PingOptions { count: 1, ttl: Some(ttl), tos, df, ..PingOptions::default() };
                let report = ping(&lab.host, far, &options).unwrap();
                assert!(report.complete(), "{name}, to {far}: {report}: {}", lab.status(name));
                let discovery = if df { "do" } else { "dont" };
                script += &format!("ping -n -c 1 -W 5 -t {ttl} -Q {tos} -M {discovery} {near}\n");
            }
        }
        lab.guest.run(&script).unwrap();
        for probe in &PROBES {
            for (near, (end, outgoing)) in
                inner(number, 1).into_iter().flat_map(|near| [(near, (0, true)), (near, (1, false))])
            {
                let sender = if outgoing { "greway" } else { "the kernel" };
                let what = format!("{name}: from {sender} with TTL {}, as to {near}", probe.ttl);
                let packet = wire
                    .wait_for(SOON, &what, |packet| {
                        packet.outgoing == outgoing
                            && has_end(packet, near_end)
                            && Outer::parse(packet)
                                .is_some_and(|(_, inside)| is_request(inside, near, probe.ttl))
                    })
                    .unwrap();
                let (outer, inside) = Outer::parse(&packet).unwrap();
                assert_eq!(outer, self.expected(probe, end, &outer, inside), "{what}");
            }
        }
    }
}

#[test]
fn greway_and_the_kernel_write_the_same_header_for_the_same_words() {
    require!(privilege::check());
    require!(uml::available());
    let knobs = [&IPV4[..], &IPV6].concat();
    let tunnels: Vec<Tunnel> = knobs.iter().map(|knob| knob.tunnel).collect();
    let mut lab = Interop::boot("interop-knobs", &tunnels, "");
    for knob in &knobs {
        let Tunnel { name, .. } = knob.tunnel;
        lab.ready(name);
        knob.shows(&mut lab);
        lab.pings(name, &[3_000]);
        lab.bulk(name, MIB / 4);
        lab.no_errors(name);
    }
    larger_packets_than_the_path_in_fragments(&mut lab);
    dscp_of_the_delivery_header_inside(&mut lab);
    special::by_firewall_mark(&mut lab);
    special::by_neighbour_and_next_hop(&mut lab);
    special::by_neighbour_over_ipv6(&mut lab);
    special::to_a_group(&mut lab);
    lab.guest.power_off(LONG).unwrap();
}

/// With `nopmtudisc` and a device that takes packets larger than the path does, each end cuts the delivery packet and
/// the other puts it together.
fn larger_packets_than_the_path_in_fragments(lab: &mut Interop) {
    let name = "w-nopmtudisc";
    let number = lab.number(name);
    let set = |mtu: u32| format!("ip link set {name} mtu {mtu}");
    let change = greway_netlink::LinkChange { mtu: Some(1_600), ..Default::default() };
    lab.host.change(name, &change).unwrap();
    lab.guest.run(&set(1_600)).unwrap();
    let options = PingOptions { size: 1_540, count: 1, ..PingOptions::default() };
    let near_end = lab.near_end(name);
    for (near, far) in inner(number, 1).into_iter().zip(inner(number, 2)) {
        let wire = Capture::start(&lab.host, "uml0").unwrap();
        let report = ping(&lab.host, far, &options).unwrap();
        assert!(report.complete(), "{far}: {report}: {}", lab.status(name));
        let report = lab.guest.ping(near, &quick(&options)).unwrap();
        assert_eq!(report.received, 1, "{near}: {}", report.text);
        for outgoing in [true, false] {
            let what = format!("{near}: fragments, outgoing: {outgoing}");
            let cut = wire.wait_for_count(SOON, &what, 4, |packet| {
                packet.outgoing == outgoing && has_end(packet, near_end) && is_fragment(packet)
            });
            // A request and an answer, in two each.
            assert_eq!(cut.unwrap().len(), 4, "{what}");
        }
    }
    lab.no_errors(name);
}

/// With `dscp inherit` what arrives has the DSCP of the delivery header, and so have the answers to it, at both ends.
fn dscp_of_the_delivery_header_inside(lab: &mut Interop) {
    let name = "x-dscp";
    let number = lab.number(name);
    let near_end = lab.near_end(name);
    let options = PingOptions { count: 1, tos: 0x28, ..PingOptions::default() };
    for (near, far) in inner(number, 1).into_iter().zip(inner(number, 2)) {
        let wire = Capture::start(&lab.host, "uml0").unwrap();
        let report = ping(&lab.host, far, &options).unwrap();
        assert!(report.complete(), "{far}: {report}");
        let report = lab.guest.ping(near, &quick(&options)).unwrap();
        assert_eq!(report.received, 1, "{near}: {}", report.text);
        for outgoing in [true, false] {
            let what = format!("{near}: an answer, outgoing: {outgoing}");
            let answer = wire
                .wait_for(SOON, &what, |packet| {
                    packet.outgoing == outgoing
                        && has_end(packet, near_end)
                        && Outer::parse(packet).is_some_and(|(_, inside)| answer_tos(inside).is_some())
                })
                .unwrap();
            let (_, inside) = Outer::parse(&answer).unwrap();
            assert_eq!(answer_tos(inside), Some(0x48), "{what}");
        }
    }
}
