//! Where our programs stand: behind ETH_P_ALL packet sockets, before protocol-bound ones and the IP stack. What they
//! decline reaches everybody on the underlay. At the peer end of a pair it is for userspace alone: the sockets behind
//! see what they are bound for, everything else behind a tag of the program's, and the host's own stack gets none of it.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

mod support;

use std::{cell::Cell, collections::BTreeSet};

use greway_fastpath::{Decline, Fastpath, Hook, HookChoice, Options, Point, SEALED_TCI};
use greway_linux::packet::Protocol;
use support::*;

const PACKETS: u32 = 20;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_ARP: u16 = 0x0806;
/// IEEE 802: for local experiments.
const ETH_P_TEST: u16 = 0x88b5;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;

/// include/uapi/linux/pkt_cls.h `TC_ACT_SHOT`, and bpf.h `TCX_DROP`.
const SHOT: i32 = 2;

#[test]
fn a_declined_packet_of_the_underlay_reaches_everybody() {
    in_namespace("a_declined_packet_of_the_underlay_reaches_everybody", |wire| {
        for (point, hook) in ways_at(Point::Underlay) {
            let protocol = protocol_at(point);
            let (mut fastpath, attachment) = attached(&Options { hook, ..options() }, point);
            let mut before_tc = wire.tap(Protocol::All);
            let mut behind_tc = wire.tap(Protocol::Ethertype(ETH_P_IP));
            let mut ip_stack = wire.ip_stack(protocol);

            wire.send(protocol, 0..PACKETS);

            let all = (0..PACKETS).collect();
            let way = format!("{point:?} {hook:?}");
            assert_eq!(before_tc.until(PACKETS - 1), all, "{way}");
            assert_eq!(behind_tc.until(PACKETS - 1), all, "{way}");
            assert_eq!(ip_stack.until(PACKETS - 1), all, "{way}");
            all_declined(&fastpath, point, &way);
            assert_eq!(fastpath.counters(point).unwrap().gre, u64::from(PACKETS), "{way}");
            fastpath.detach(&attachment).unwrap();
        }
    });
}

/// IPv4, IPv6 and ARP: the sockets behind tc have them, the host's stack has not, though they are addressed to it.
#[test]
fn what_the_overlay_declines_is_for_the_sockets_behind_it_alone() {
    let name = "what_the_overlay_declines_is_for_the_sockets_behind_it_alone";
    in_namespace(name, |wire| {
        let kinds = kinds(wire, name);
        for (point, hook) in ways_at(Point::Overlay) {
            for kind in &kinds {
                let way = format!("{:#06x} {hook:?}", kind.ethertype);
                let (mut fastpath, attachment) = attached(&Options { hook, ..options() }, point);
                let mut before_tc = wire.tap(Protocol::All);
                let mut behind_tc = wire.tap(Protocol::Ethertype(kind.ethertype));
                let mut stack = (kind.stack)(wire);
                let first = kind.next();

                (first..first + PACKETS).for_each(|number| wire.send_frame(&(kind.frame)(number)));

                let last = first + PACKETS - 1;
                let all = (first..=last).collect();
                assert_eq!(before_tc.until(last), all, "{way}");
                assert_eq!(behind_tc.until(last), all, "{way}");
                all_declined(&fastpath, point, &way);
                fastpath.detach(&attachment).unwrap();
                // One more, now that nobody seals: it would come behind any that were let through.
                wire.send_frame(&(kind.frame)(last + 1));
                assert_eq!(stack.until(last + 1), [last + 1].into(), "{way}: the host's own stack");
            }
        }
    });
}

/// The same without the one call that seals: the host takes them all, so the test above can fail.
#[test]
fn without_the_seal_the_host_would_take_them_too() {
    let name = "without_the_seal_the_host_would_take_them_too";
    in_namespace(name, |wire| {
        for kind in kinds(wire, name) {
            let way = format!("{:#06x}", kind.ethertype);
            let (fastpath, _attachment) = attached(&options_without_seal(), Point::Overlay);
            let mut stack = (kind.stack)(wire);
            let first = kind.next();
            (first..first + PACKETS).for_each(|number| wire.send_frame(&(kind.frame)(number)));
            let last = first + PACKETS - 1;
            assert_eq!(stack.until(last), (first..=last).collect(), "{way}");
            all_declined(&fastpath, Point::Overlay, &way);
        }
    });
}

/// Every other ethertype and what has a VLAN tag: whole, behind a tag of the program's own, to the socket for that, and
/// to nobody else behind tc.
#[test]
fn what_has_no_socket_of_its_own_the_overlay_puts_behind_a_tag() {
    in_namespace("what_has_no_socket_of_its_own_the_overlay_puts_behind_a_tag", |wire| {
        fn tagged(ethertype: u16, number: u32) -> Vec<u8> {
            let mut frame = frame(IPPROTO_TEST, number);
            frame.splice(12..12, [&ethertype.to_be_bytes()[..], &[0, 7]].concat());
            frame
        }
        type Frame = fn(u32) -> Vec<u8>;
        // Behind the tag is IPv4, and the kernel takes the tag off: it is a socket for IPv4 that would see them.
        let kinds: [(&str, u16, Frame); 5] = [
            ("another", ETH_P_TEST, |number| ethernet(ETH_P_TEST, &marked(number))),
            // And no LLC header behind it, for which the kernel's number is 1 (ETH_P_802_3).
            ("a length", 1, |number| ethernet(8, &[&[0xff; 2], &marked(number)[..]].concat())),
            ("tagged", ETH_P_IP, |number| tagged(ETH_P_8021Q, number)),
            ("tagged by a provider", ETH_P_IP, |number| tagged(ETH_P_8021AD, number)),
            ("tagged twice", ETH_P_8021Q, |number| {
                let mut frame = tagged(ETH_P_8021Q, number);
                frame.splice(12..12, [0x81, 0, 0, 9]);
                frame
            }),
        ];
        for (point, hook) in ways_at(Point::Overlay) {
            for (kind, ethertype, frame) in kinds {
                let way = format!("{kind} {hook:?}");
                let (mut fastpath, attachment) = attached(&Options { hook, ..options() }, point);
                let mut before_tc = wire.tap(Protocol::All);
                let mut sealed = wire.tap(Protocol::Ethertype(ETH_P_8021AD));
                let mut others = wire.tap(Protocol::Ethertype(ethertype));

                (0..PACKETS).for_each(|number| wire.send_frame(&frame(number)));

                let all: BTreeSet<u32> = (0..PACKETS).collect();
                assert_eq!(before_tc.until(PACKETS - 1), all, "{way}");
                assert_eq!(sealed.until(PACKETS - 1), all, "{way}");
                for (number, mut came) in (0..).zip(sealed.frames) {
                    let seal: Vec<u8> = came.splice(12..16, []).collect();
                    assert_eq!(seal, [0x88, 0xa8, (SEALED_TCI >> 8) as u8, SEALED_TCI as u8], "{way}");
                    assert_eq!(came, frame(number), "{way}");
                }
                all_declined(&fastpath, point, &way);
                fastpath.detach(&attachment).unwrap();
                wire.send_frame(&frame(PACKETS));
                assert_eq!(others.until(PACKETS), [PACKETS].into(), "{way}");
            }
        }
    });
}

/// A kind of packet that userspace taps behind the overlay's program.
struct Kind {
    ethertype: u16,
    frame: fn(u32) -> Vec<u8>,
    stack: fn(&Wire) -> Stack<'_>,
    /// The number of the next packet.
    first: Cell<u32>,
}

impl Kind {
    fn next(&self) -> u32 {
        self.first.replace(self.first.get() + PACKETS + 1)
    }
}

/// What shows that the host's own stack has taken a packet.
enum Stack<'a> {
    Socket(Tap),
    /// It knows the neighbour who asked; those that it knew before do not count.
    Neighbours(&'a Wire, BTreeSet<u8>),
}

impl Stack<'_> {
    fn until(&mut self, number: u32) -> BTreeSet<u32> {
        match self {
            Self::Socket(tap) => tap.until(number),
            Self::Neighbours(wire, before) => {
                until("the host knows its neighbour", || {
                    wire.neighbours().contains(&u8::try_from(number).unwrap())
                });
                wire.neighbours().difference(before).map(|last| u32::from(*last)).collect()
            }
        }
    }
}

fn kinds(wire: &Wire, name: &str) -> Vec<Kind> {
    let mut kinds = vec![
        Kind {
            ethertype: ETH_P_IP,
            frame: |number| frame(IPPROTO_TEST, number),
            stack: |wire| Stack::Socket(wire.ip_stack(IPPROTO_TEST)),
            first: Cell::new(0),
        },
        Kind {
            ethertype: ETH_P_ARP,
            frame: |number| arp(u8::try_from(number).unwrap()),
            stack: |wire| Stack::Neighbours(wire, wire.neighbours()),
            // The last byte of an address that nobody has.
            first: Cell::new(100),
        },
    ];
    if wire.with_ipv6() {
        kinds.push(Kind {
            ethertype: ETH_P_IPV6,
            frame: |number| frame6(IPPROTO_TEST, number),
            stack: |wire| Stack::Socket(wire.ip6_stack(IPPROTO_TEST)),
            first: Cell::new(0),
        });
    } else {
        not_run(&format!("{name} of IPv6"), "this kernel has no IPv6");
    }
    kinds
}

fn all_declined(fastpath: &Fastpath, point: Point, way: &str) {
    let counters = sound(fastpath.counters(point).unwrap());
    assert_eq!(counters.seen, u64::from(PACKETS), "{way}");
    assert_eq!(counters.declined_for(Decline::NoTunnel), u64::from(PACKETS), "{way}");
}

/// The proof of the order: the same program, but dropping, takes the packets from all behind it and from
/// nobody before it.
#[test]
fn what_tc_takes_only_eth_p_all_sees() {
    in_namespace("what_tc_takes_only_eth_p_all_sees", |wire| {
        for (point, hook) in every_way() {
            let protocol = protocol_at(point);
            let (mut fastpath, attachment) = attached(&Options { hook, ..options_with_verdict(SHOT) }, point);
            let mut before_tc = wire.tap(Protocol::All);
            let mut behind_tc = wire.tap(Protocol::Ethertype(ETH_P_IP));
            let mut ip_stack = wire.ip_stack(protocol);

            wire.send(protocol, 0..PACKETS);
            let way = format!("{point:?} {hook:?}");
            assert_eq!(before_tc.until(PACKETS - 1).len(), PACKETS as usize, "{way}");
            until("the program has seen all", || seen(&fastpath, point) == u64::from(PACKETS));
            fastpath.detach(&attachment).unwrap();
            // One more, now that nobody drops: it would come behind any that were let through.
            wire.send(protocol, PACKETS..PACKETS + 1);

            let only_the_last = [PACKETS].into();
            assert_eq!(behind_tc.until(PACKETS), only_the_last, "{way}");
            assert_eq!(ip_stack.until(PACKETS), only_the_last, "{way}");
            assert_eq!(seen(&fastpath, point), u64::from(PACKETS), "{way}: detached, so it counts no more");
        }
    });
}

/// One attach point by every way that this kernel has.
fn ways_at(point: Point) -> impl Iterator<Item = (Point, HookChoice)> {
    every_way().into_iter().filter(move |(at, _)| *at == point)
}

/// Both attach points, each by every way that this kernel has.
fn every_way() -> Vec<(Point, HookChoice)> {
    let mut ways = Vec::new();
    for hook in [HookChoice::Tcx, HookChoice::Clsact] {
        let attached =
            Fastpath::load_with(&Options { hook, ..options() }).unwrap().attach(FAR, Point::Overlay);
        match attached {
            Ok(attachment) => {
                let used = if hook == HookChoice::Tcx { Hook::Tcx } else { Hook::Clsact };
                assert_eq!(attachment.hook, used);
                ways.extend(Point::AT_INGRESS.map(|point| (point, hook)));
            }
            Err(error) => not_run(&format!("order by {hook:?}"), &error.to_string()),
        }
    }
    assert!(!ways.is_empty(), "neither tcx nor clsact");
    ways
}
