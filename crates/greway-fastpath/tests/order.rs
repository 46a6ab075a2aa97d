//! Where our programs stand: behind ETH_P_ALL packet sockets, before protocol-bound ones and the IP stack.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

mod support;

use greway_fastpath::{Decline, Hook, HookChoice, Options, Point};
use greway_linux::packet::Protocol;
use support::*;

const PACKETS: u32 = 20;
const ETH_P_IP: u16 = 0x0800;

/// include/uapi/linux/pkt_cls.h `TC_ACT_SHOT`, and bpf.h `TCX_DROP`.
const SHOT: i32 = 2;

#[test]
fn a_declined_packet_reaches_everybody() {
    in_namespace("a_declined_packet_reaches_everybody", |wire| {
        for (point, hook) in every_way() {
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
            let counters = sound(fastpath.counters(point).unwrap());
            assert_eq!(counters.seen, u64::from(PACKETS), "{way}");
            assert_eq!(counters.declined_for(Decline::NoTunnel), u64::from(PACKETS), "{way}");
            let gre = if point == Point::Underlay { PACKETS } else { 0 };
            assert_eq!(counters.gre, u64::from(gre), "{way}");
            fastpath.detach(&attachment).unwrap();
        }
    });
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

/// Both attach points, each by every way that this kernel has.
fn every_way() -> Vec<(Point, HookChoice)> {
    let mut ways = Vec::new();
    for hook in [HookChoice::Tcx, HookChoice::Clsact] {
        let attached = greway_fastpath::Fastpath::load_with(&Options { hook, ..options() })
            .unwrap()
            .attach(FAR, Point::Overlay);
        match attached {
            Ok(attachment) => {
                let used = if hook == HookChoice::Tcx { Hook::Tcx } else { Hook::Clsact };
                assert_eq!(attachment.hook, used);
                ways.extend(Point::ALL.map(|point| (point, hook)));
            }
            Err(error) => not_run(&format!("order by {hook:?}"), &error.to_string()),
        }
    }
    assert!(!ways.is_empty(), "neither tcx nor clsact");
    ways
}
