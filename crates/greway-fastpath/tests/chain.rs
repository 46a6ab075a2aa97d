//! A decline ends nothing: whoever stands behind our program still sees every packet (`TC_ACT_UNSPEC`, -1). At the
//! peer end of a pair, which is greway's own, that holds for what userspace taps behind the program.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

mod support;

use greway_fastpath::{Decline, Fastpath, HookChoice, Options, Point};
use greway_linux::packet::Protocol;
use support::*;

const PACKETS: u32 = 20;
/// And the one after them.
const ALL: u64 = PACKETS as u64 + 1;
const TC_ACT_OK: i32 = 0;
const ETH_P_IP: u16 = 0x0800;
/// IEEE 802: for local experiments.
const ETH_P_TEST: u16 = 0x88b5;

/// Ours first, a counting program behind it: by tcx both, by clsact both, and across.
const CHAINS: [(HookChoice, HookChoice); 3] = [
    (HookChoice::Tcx, HookChoice::Tcx),
    (HookChoice::Tcx, HookChoice::Clsact),
    (HookChoice::Clsact, HookChoice::Clsact),
];

#[test]
fn those_behind_us_see_every_packet() {
    in_namespace("those_behind_us_see_every_packet", |wire| {
        for point in Point::AT_INGRESS {
            for chain in CHAINS {
                // The second is an EtherType of nobody's.
                for ethertype in [ETH_P_IP, ETH_P_TEST] {
                    let counted = counted_behind(wire, &options(), point, chain, ethertype);
                    assert_eq!(counted, Some(ALL), "{point:?} {chain:?} {ethertype:#06x}");
                }
            }
        }
    });
}

/// The same program with TC_ACT_OK hides every packet, so the test above can fail.
#[test]
fn tc_act_ok_would_hide_them() {
    in_namespace("tc_act_ok_would_hide_them", |wire| {
        let hiding = options_with_verdict(TC_ACT_OK);
        for point in Point::AT_INGRESS {
            for chain in CHAINS {
                let counted = counted_behind(wire, &hiding, point, chain, ETH_P_IP);
                assert_eq!(counted, Some(0), "{point:?} {chain:?}");
            }
        }
    });
}

/// How many of `PACKETS` of an EtherType, and one of IPv4 after them, a second set of programs counts that is attached
/// after `first`.
fn counted_behind(
    wire: &Wire,
    first: &Options,
    point: Point,
    (first_hook, second_hook): (HookChoice, HookChoice),
    ethertype: u16,
) -> Option<u64> {
    let (first, _attachment) = attached(&Options { hook: first_hook, ..first.clone() }, point);
    // Behind ours at the other point's name: two filters of one name would not be told apart on removal.
    let behind = Point::AT_INGRESS.into_iter().find(|other| *other != point)?;
    let mut second =
        Fastpath::load_with(&Options { hook: second_hook, clsact_priority: 60_001, ..options() }).unwrap();
    second.attach(FAR, behind).unwrap();
    let mut behind_tc = wire.tap(Protocol::Ethertype(ETH_P_IP));

    match ethertype {
        ETH_P_IP => {
            wire.send(protocol_at(point), 0..PACKETS);
            assert_eq!(
                behind_tc.until(PACKETS - 1).len(),
                PACKETS as usize,
                "declined or accepted, all go on"
            );
        }
        _ => (0..PACKETS).for_each(|_| wire.send_frame(&ethernet(ethertype, &[0; 46]))),
    }
    until("the first has seen all", || seen(&first, point) == u64::from(PACKETS));
    // When this one is behind both, so are all before it.
    wire.send(protocol_at(point), PACKETS..PACKETS + 1);
    behind_tc.until(PACKETS);
    Some(seen(&second, behind))
}

#[test]
fn each_reason_is_counted_by_its_name() {
    in_namespace("each_reason_is_counted_by_its_name", |wire| {
        let (fastpath, _attachment) = attached(&options(), Point::Underlay);
        let gre = |flags: [u8; 2], fragment: u16| {
            let payload = [&flags[..], &[0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
            ethernet(0x0800, &[ipv4(IPPROTO_GRE, payload.len(), fragment), payload].concat())
        };
        let mut to_another = gre([0, 0], 0);
        to_another[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        let mut with_options = ipv4(IPPROTO_GRE, 8, 0);
        with_options[0] = 0x46;
        with_options.extend([1, 1, 1, 0, 0, 0, 0x08, 0]);
        let mut tagged = gre([0, 0], 0);
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        let ipv6 = |protocol: u8, payload: &[u8]| {
            let mut header = vec![0x60, 0, 0, 0, 0, payload.len() as u8, protocol, 64];
            header.resize(40, 0);
            ethernet(0x86dd, &[header, payload.to_vec()].concat())
        };
        let inner = ipv4(IPPROTO_TEST, 0, 0x4000);
        let with_ttl = |mut frame: Vec<u8>, ttl: u8| {
            frame[22] = ttl;
            frame
        };
        let padded = [gre([0, 0], 0x4000), vec![0; 4]].concat();
        let to_a_group = {
            let mut header = ipv4(IPPROTO_GRE, 4 + inner.len(), 0);
            header[16..20].copy_from_slice(&[224, 0, 0, 9]);
            header[10..12].fill(0);
            let sum = header_checksum(&header);
            header[10..12].copy_from_slice(&sum);
            ethernet(0x0800, &[header, vec![0, 0, 8, 0], inner].concat())
        };
        let typed = |flags: [u8; 2], ethertype: u16| {
            let payload = [&flags[..], &ethertype.to_be_bytes(), &[0; 12]].concat();
            ethernet(0x0800, &[ipv4(IPPROTO_GRE, payload.len(), 0), payload].concat())
        };
        let cases: [(Decline, bool, Vec<u8>); 22] = [
            (Decline::NoTunnel, true, gre([0, 0], 0)),
            (Decline::NoTunnel, true, gre([0x20, 0], 0x4000)),
            (Decline::NoTunnel, true, ipv6(IPPROTO_GRE, &[0, 0, 0x86, 0xdd])),
            (Decline::NotIp, false, ethernet(0x88b5, &[0; 46])),
            (Decline::NotGre, false, ethernet(0x0800, &ipv4(IPPROTO_TEST, 0, 0))),
            (Decline::NotGre, false, ipv6(IPPROTO_TEST, &[])),
            (Decline::Truncated, false, ethernet(0x0800, &ipv4(IPPROTO_GRE, 0, 0)[..12])),
            (Decline::Truncated, true, ethernet(0x0800, &[ipv4(IPPROTO_GRE, 3, 0), vec![0; 3]].concat())),
            (Decline::Truncated, true, ethernet(0x0800, &[ipv4(IPPROTO_GRE, 90, 0), vec![0; 60]].concat())),
            (Decline::VlanTagged, false, tagged),
            (Decline::OtherHost, true, to_another),
            (Decline::IpOptions, true, ethernet(0x0800, &with_options)),
            (Decline::Fragment, true, gre([0, 0], 0x2000)),
            (Decline::GreVersion, true, gre([0x20, 0x01], 0)),
            (Decline::GreRouting, true, gre([0x40, 0], 0)),
            (Decline::GreCheckedField, true, gre([0x80, 0], 0)),
            (Decline::GreFlags, true, gre([0x08, 0], 0)),
            (Decline::OuterChecksum, true, with_ttl(gre([0, 0], 0), 63)),
            (Decline::Padded, true, padded),
            (Decline::Multicast, true, to_a_group),
            (Decline::Keepalive, true, typed([0, 0], 0)),
            (Decline::PayloadType, true, typed([0, 0], 0x883e)),
        ];
        for (reason, is_gre, frame) in cases {
            let before = fastpath.counters(Point::Underlay).unwrap();
            wire.send_frame(&frame);
            until(reason.name(), || seen(&fastpath, Point::Underlay) > before.seen);
            let mut expected = before;
            expected.seen += 1;
            expected.gre += u64::from(is_gre);
            expected.declined[reason as usize] += 1;
            assert_eq!(fastpath.counters(Point::Underlay).unwrap(), expected, "{}", reason.name());
        }
        assert_eq!(seen(&fastpath, Point::Overlay), 0, "the other point's counters are its own");
    });
}

/// At the peer end of no tunnel everything is somebody else's.
#[test]
fn packets_of_no_tunnel_are_counted_on_the_overlay() {
    in_namespace("packets_of_no_tunnel_are_counted_on_the_overlay", |wire| {
        let (fastpath, _attachment) = attached(&options(), Point::Overlay);
        let mut tap = wire.tap(Protocol::All);
        wire.send(IPPROTO_TEST, 0..3);
        wire.send_frame(&ethernet(0x88b5, &[0; 46]));
        wire.send(IPPROTO_GRE, 3..5);
        assert_eq!(tap.until(4).len(), 5);
        until("the last one is counted", || seen(&fastpath, Point::Overlay) == 6);
        let counters = fastpath.counters(Point::Overlay).unwrap();
        assert_eq!((counters.gre, counters.carried), (0, 0));
        assert_eq!(counters.declined_for(Decline::NoTunnel), 6);
    });
}
