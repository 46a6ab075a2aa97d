//! Captures built by hand, and what is said of the packets in them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use greway_inspect::capture::CaptureError;
use greway_inspect::record::ChecksumState;
use greway_inspect::{CaptureWriter, Inspection};
use greway_spec::{Draft, Mode, TunnelSpec};
use support::{
    ETHERNET, Endian, RAW, all, all_for, cooked, ethernet, fragments_of, gre, ipv4, ipv6, ipv6_fragments_of,
    pcap, pcapng, udp,
};

fn tunnel(fill: impl FnOnce(&mut Draft)) -> TunnelSpec {
    let mut draft = Draft::new("tun0".parse().unwrap(), [100, 0, 2, 100].into(), [100, 0, 1, 100].into());
    fill(&mut draft);
    draft.into_spec().unwrap()
}

/// From 100.0.1.100 to 100.0.2.100, IPv4 inside.
fn packet(flags: &[(char, u32)]) -> Vec<u8> {
    let inner = ipv4(17, [172, 16, 0, 1], [172, 16, 0, 2], &udp(b"hello"));
    ipv4(47, [100, 0, 1, 100], [100, 0, 2, 100], &gre(flags, 0x0800, &inner))
}

#[test]
fn every_field_of_a_packet_is_told() {
    let found = all(&pcap(Endian::Little, ETHERNET, &[ethernet(&packet(&[('C', 0), ('K', 42), ('S', 7)]))]));
    let json = serde_json::to_value(&found[0].record).unwrap();
    let wanted = serde_json::json!({
        "frame": 1,
        "time": "1700000000.000123000",
        "outer": {
            "family": "ipv4", "src": "100.0.1.100", "dst": "100.0.2.100", "ttl": 64, "tos": 0, "df": true,
            "id": 0x1234, "len": 20 + 16 + 20 + 8 + 5, "protocol": 47,
        },
        "gre": {
            "flags": 0xb000, "version": 0, "protocol": 0x0800, "key": 42, "sequence": 7,
            "checksum": { "value": json["gre"]["checksum"]["value"], "state": "good" }, "header_len": 16,
        },
        "inner": {
            "outer": {
                "family": "ipv4", "src": "172.16.0.1", "dst": "172.16.0.2", "ttl": 64, "tos": 0, "df": true,
                "id": 0x1234, "len": 33, "protocol": 17,
            },
            "gre": null, "inner": null,
        },
        "verdict": null,
        "reason": null,
    });
    assert_eq!(json, wanted);
    assert_ne!(json["gre"]["checksum"]["value"], 0);
}

#[test]
fn a_checksum_is_absent_good_bad_or_unfilled() {
    let good = packet(&[('C', 0)]);
    let mut bad = good.clone();
    bad[24] ^= 0xff;
    let mut unfilled = good.clone();
    unfilled[24..26].fill(0);
    let frames = [packet(&[]), good, bad, unfilled].map(|packet| ethernet(&packet));
    let found = all(&pcap(Endian::Little, ETHERNET, &frames));
    let states: Vec<_> = found.iter().map(|f| f.record.packet.gre.as_ref().unwrap().checksum.state).collect();
    use ChecksumState::{Absent, Bad, Good, Unfilled};
    assert_eq!(states, [Some(Absent), Some(Good), Some(Bad), Some(Unfilled)]);
}

#[test]
fn every_kind_of_capture_tells_the_same() {
    let plain = packet(&[('K', 42)]);
    let wanted = all(&pcap(Endian::Little, ETHERNET, &[ethernet(&plain)]));
    let tagged = {
        let mut frame = ethernet(&plain);
        frame.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
        frame
    };
    let captures = [
        ("big endian", pcap(Endian::Big, ETHERNET, &[ethernet(&plain)])),
        ("nanoseconds", pcap(Endian::Nanoseconds, ETHERNET, &[ethernet(&plain)])),
        ("raw", pcap(Endian::Little, RAW, std::slice::from_ref(&plain))),
        ("cooked", pcap(Endian::Little, 113, &[cooked(&plain)])),
        ("vlan", pcap(Endian::Little, ETHERNET, &[tagged])),
        ("pcapng", pcapng(ETHERNET, &[ethernet(&plain)])),
    ];
    for (what, capture) in captures {
        let found = all(&capture);
        assert_eq!(found.len(), 1, "{what}");
        assert_eq!(found[0].record.packet, wanted[0].record.packet, "{what}");
        assert_eq!(found[0].record.time, wanted[0].record.time, "{what}");
        assert_eq!(found[0].record.vlans, if what == "vlan" { vec![7] } else { vec![] }, "{what}");
    }
}

#[test]
fn packets_inside_packets_are_followed_eight_deep() {
    let mut nested = ipv4(17, [172, 16, 0, 1], [172, 16, 0, 2], &udp(b"x"));
    for _ in 0..10 {
        nested = ipv4(47, [100, 0, 1, 100], [100, 0, 2, 100], &gre(&[], 0x0800, &nested));
    }
    let found = all(&pcap(Endian::Little, RAW, &[nested]));
    let mut packet = &found[0].record.packet;
    let mut depth = 0;
    while let Some(inner) = &packet.inner {
        packet = inner;
        depth += 1;
    }
    assert_eq!(depth, 8);
    assert_eq!(packet.problem.as_deref(), Some("packets inside packets, deeper than 8"));
}

#[test]
fn ethernet_and_ipv6_inside_and_outside() {
    let arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[0x08, 0x06], &[0; 28]].concat();
    let outer = ipv6(47, &gre(&[('K', 1)], 0x6558, &arp));
    let found = all(&pcap(Endian::Little, RAW, &[outer]));
    let json = serde_json::to_value(&found[0].record).unwrap();
    assert_eq!(json["outer"]["family"], "ipv6");
    assert_eq!(
        (&json["outer"]["df"], &json["outer"]["id"]),
        (&serde_json::Value::Null, &serde_json::Value::Null)
    );
    assert_eq!(json["inner"]["ethernet"]["src"], "02:00:00:00:00:01");
    assert_eq!(json["inner"]["ethernet"]["type"], 0x0806);
    assert_eq!(json["inner"]["outer"], serde_json::Value::Null);
    // The encapsulation limit of ip6gre: destination options with one option and padding.
    let limited = {
        let mut packet = ipv6(60, &[&[47, 0, 4, 1, 4, 1, 1, 0][..], &gre(&[], 0x0800, &[0x45; 20])].concat());
        packet[6] = 60;
        packet
    };
    let found = all(&pcap(Endian::Little, RAW, &[limited]));
    let outer = found[0].record.packet.outer.as_ref().unwrap();
    assert_eq!((outer.encaplimit, outer.protocol), (Some(4), Some(47)));
}

#[test]
fn fragments_are_put_together_in_any_order() {
    let inner = ipv4(17, [172, 16, 0, 1], [172, 16, 0, 2], &udp(&[7; 3000]));
    let whole = ipv4(47, [100, 0, 1, 100], [100, 0, 2, 100], &gre(&[('C', 0), ('K', 42)], 0x0800, &inner));
    let mut pieces = fragments_of(&whole, 1480);
    assert_eq!(pieces.len(), 3);
    pieces.rotate_left(1);
    let frames: Vec<_> = pieces.iter().map(|piece| ethernet(piece)).collect();
    let found = all(&pcap(Endian::Little, ETHERNET, &frames));
    assert_eq!(found.len(), 1);
    let record = &found[0].record;
    assert_eq!((record.frame, record.fragments.as_slice()), (3, &[1, 2, 3][..]));
    // The sum runs over all of them.
    assert_eq!(record.packet.gre.as_ref().unwrap().checksum.state, Some(ChecksumState::Good));
    assert_eq!(found[0].payloads, [(0x0800, inner.clone())]);

    let whole = ipv6(47, &gre(&[('C', 0)], 0x0800, &inner));
    let frames = ipv6_fragments_of(&whole, 1440);
    let found = all(&pcap(Endian::Little, RAW, &frames));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].record.packet.outer.as_ref().unwrap().protocol, Some(47));
    assert_eq!(found[0].payloads, [(0x0800, inner)]);
}

#[test]
fn fragments_that_overlap_or_never_end_are_counted() {
    let whole = packet(&[('K', 1)]);
    let pieces = fragments_of(&whole, 24);
    // One that came twice says nothing new.
    let mut twice = pieces.clone();
    twice.insert(1, pieces[0].clone());
    assert_eq!(all(&pcap(Endian::Little, RAW, &twice)).len(), 1);
    let mut overlapping = pieces;
    overlapping.insert(1, fragments_of(&whole, 16)[1].clone());
    let capture = pcap(Endian::Little, RAW, &overlapping);
    let mut inspection = Inspection::new(std::io::Cursor::new(capture), None).unwrap();
    assert!(inspection.next_packet().unwrap().is_none());
    let summary = inspection.summary();
    assert_eq!((summary.frames, summary.gre, summary.incomplete), (overlapping.len() as u64, 0, 1));
}

#[test]
fn verdicts_are_the_engines_and_sequence_goes_on() {
    let spec = tunnel(|draft| {
        (draft.ikey, draft.okey) = (Some(Some(42).into()), Some(Some(42).into()));
        draft.iseq = Some(true.into());
    });
    let other_key = packet(&[('K', 7), ('S', 1)]);
    let mut elsewhere = packet(&[('K', 42), ('S', 1)]);
    elsewhere[19] = 9;
    support::fill_ipv4_checksum(&mut elsewhere);
    let mut wrong_sum = packet(&[('K', 42), ('S', 3)]);
    wrong_sum[11] ^= 1;
    let frames = [
        packet(&[('K', 42), ('S', 5)]),
        packet(&[('K', 42), ('S', 4)]),
        packet(&[('K', 42), ('S', 6)]),
        packet(&[('K', 42)]),
        other_key,
        elsewhere,
        wrong_sum,
        packet(&[('C', 0), ('K', 42), ('S', 9)]),
    ];
    let found = all_for(&pcap(Endian::Little, RAW, &frames), &spec);
    let verdicts: Vec<_> = found.iter().map(|f| (f.record.verdict.unwrap(), f.record.reason)).collect();
    assert_eq!(
        verdicts,
        [
            ("deliver", None),
            ("drop", Some("sequence-late")),
            ("deliver", None),
            ("drop", Some("sequence-missing")),
            ("decline", Some("no-tunnel")),
            ("decline", Some("no-tunnel")),
            ("drop", Some("outer-checksum")),
            ("drop", Some("checksum-unexpected")),
        ]
    );
    assert!(!found[0].payloads.is_empty() && found[1].payloads.is_empty());
    assert!(found.iter().filter(|f| f.record.reason.is_some()).all(|f| f.record.explanation.is_some()));
}

#[test]
fn a_tunnel_that_puts_packets_in_order_delivers_them_in_theirs() {
    let spec = tunnel(|draft| {
        draft.iseq = Some(true.into());
        draft.seq_mode = Some(greway_spec::SeqMode::Rfc2890.into());
    });
    let frames = [0, 2, 1, 1, 9, 5].map(|number| packet(&[('S', number)]));
    let capture = pcap(Endian::Little, RAW, &frames);
    let mut inspection = Inspection::new(std::io::Cursor::new(capture), Some(&spec)).unwrap();
    let found: Vec<_> = std::iter::from_fn(|| inspection.next_packet().unwrap()).collect();
    let told: Vec<_> = found.iter().map(|found| (found.record.reason, found.payloads.len())).collect();
    let twice = Some("sequence-duplicate");
    assert_eq!(told, [(None, 1), (None, 0), (None, 2), (twice, 0), (None, 0), (None, 0)]);
    assert_eq!(inspection.rest().len(), 2, "at the end what waits is not waited for");
}

#[test]
fn a_checksum_left_to_the_device_is_no_reason_to_drop() {
    let spec = tunnel(|draft| draft.icsum = Some(true.into()));
    let mut unfilled = packet(&[('C', 0)]);
    unfilled[24..26].fill(0);
    let mut bad = packet(&[('C', 0)]);
    bad[24] ^= 0x55;
    let found = all_for(&pcap(Endian::Little, RAW, &[unfilled, bad]), &spec);
    assert_eq!(found[0].record.verdict, Some("deliver"));
    assert_eq!((found[1].record.verdict, found[1].record.reason), (Some("drop"), Some("bad-checksum")));
}

#[test]
fn what_is_taken_out_is_a_capture_again() {
    let inner = ipv4(17, [172, 16, 0, 1], [172, 16, 0, 2], &udp(b"hello"));
    let frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[0x08, 0x00], &inner].concat();
    let bridged = ipv4(47, [100, 0, 1, 100], [100, 0, 2, 100], &gre(&[], 0x6558, &frame));
    // Two tunnels deep, so that what comes out has GRE in it once more.
    let nested = ipv4(47, [1, 1, 1, 1], [2, 2, 2, 2], &gre(&[], 0x0800, &packet(&[('K', 3)])));
    let found = all(&pcap(Endian::Little, RAW, &[bridged, nested]));
    let mut writer = CaptureWriter::new(Vec::new()).unwrap();
    for found in &found {
        let (protocol_type, bytes) = found.payloads.first().unwrap();
        writer.write(found.time, *protocol_type, bytes).unwrap();
    }
    assert_eq!(writer.written(), 2);
    let capture = writer.finish().unwrap();
    let mut again = Inspection::new(std::io::Cursor::new(capture), None).unwrap();
    let only = again.next_packet().unwrap().unwrap();
    assert_eq!(only.record.packet.gre.as_ref().unwrap().key, Some(3));
    assert_eq!(only.record.time, found[1].record.time);
    assert!(again.next_packet().unwrap().is_none());
    let summary = again.summary();
    assert_eq!((summary.frames, summary.gre, summary.other, summary.unread), (2, 1, 1, 0));
}

#[test]
fn a_cut_capture_ends_with_the_number_of_the_last_whole_frame() {
    let frames = [packet(&[]), packet(&[('K', 1)])].map(|packet| ethernet(&packet));
    for capture in [pcap(Endian::Little, ETHERNET, &frames), pcapng(ETHERNET, &frames)] {
        let cut = capture[..capture.len() - 5].to_vec();
        let mut inspection = Inspection::new(std::io::Cursor::new(cut), None).unwrap();
        assert!(inspection.next_packet().unwrap().is_some());
        let error = inspection.next_packet().unwrap_err();
        assert!(matches!(error, CaptureError::Cut { after: 1 }), "{error}");
        assert_eq!(error.to_string(), "the capture is cut: it ends in the middle of what follows frame 1");
    }
    let not = Inspection::new(std::io::Cursor::new(b"#!/bin/sh\necho this is a script\n".to_vec()), None);
    assert!(matches!(not.err(), Some(CaptureError::NotACapture)));
}

#[test]
fn a_packet_cut_by_the_snap_length_is_told_as_far_as_it_goes() {
    let whole = ethernet(&packet(&[('C', 0), ('K', 42)]));
    let capture = support::pcap_cut(&whole, 14 + 20 + 12 + 8);
    let found = all(&capture);
    let gre = found[0].record.packet.gre.as_ref().unwrap();
    assert_eq!((gre.key, gre.checksum.state), (Some(42), None));
    let inner = found[0].record.packet.inner.as_ref().unwrap();
    assert_eq!(inner.problem.as_deref(), Some("8 bytes are no IPv4 header"));
}

#[test]
fn an_ethernet_tunnel_takes_frames_and_the_others_leave_them() {
    let inner = ipv4(17, [172, 16, 0, 1], [172, 16, 0, 2], &udp(b"hello"));
    let frame = ethernet(&inner);
    let bridged = ipv4(47, [100, 0, 1, 100], [100, 0, 2, 100], &gre(&[('K', 5)], 0x6558, &frame));
    let plain = ipv4(47, [100, 0, 1, 100], [100, 0, 2, 100], &gre(&[('K', 5)], 0x0800, &inner));
    let capture = pcap(Endian::Little, RAW, &[bridged, plain]);
    let gretap = tunnel(|draft| {
        draft.mode = Some(Mode::Gretap.into());
        draft.ikey = Some(Some(5).into());
    });
    let found = all_for(&capture, &gretap);
    assert_eq!(found[0].record.verdict, Some("deliver"));
    assert_eq!(found[0].payloads, [(0x6558, frame)]);
    assert_eq!((found[1].record.verdict, found[1].record.reason), (Some("decline"), Some("no-tunnel")));
}

fn six(fill: impl FnOnce(&mut Draft)) -> TunnelSpec {
    tunnel(|draft| {
        draft.mode = Some(Mode::Ip6Gre.into());
        draft.local = Some("2001:db8::2".parse::<IpAddr>().unwrap().into());
        draft.remote = Some("2001:db8::1".parse::<IpAddr>().unwrap().into());
        fill(draft);
    })
}

/// What a tunnel says to each packet, and how many it delivers.
#[track_caller]
fn verdicts(packets: &[Vec<u8>], spec: &TunnelSpec) -> (Vec<&'static str>, usize) {
    let found = all_for(&pcap(Endian::Little, RAW, packets), spec);
    let said = |found: &greway_inspect::Found| match (found.record.verdict, found.record.reason) {
        (Some("deliver"), None) => "deliver",
        (Some("deliver") | None, _) | (_, None) => panic!("{:?}", found.record),
        (Some(_), Some(reason)) => reason,
    };
    (found.iter().map(said).collect(), found.iter().map(|found| found.payloads.len()).sum())
}

#[test]
fn tunnels_over_ipv6_take_theirs_in_one_piece_or_in_fragments() {
    let inner = ipv4(17, [172, 16, 0, 1], [172, 16, 0, 2], &udp(&[7; 3000]));
    let frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0][..], &inner].concat();
    let limited = |payload: &[u8]| ipv6(60, &[&[47, 0, 4, 1, 4, 1, 1, 0][..], payload].concat());
    let whole = ipv6(47, &gre(&[('C', 0)], 0x0800, &inner));
    let summed = six(|draft| (draft.icsum, draft.ocsum) = (Some(true.into()), Some(true.into())));
    let mut bad = whole.clone();
    *bad.last_mut().unwrap() ^= 1;
    assert_eq!(verdicts(&[whole.clone(), bad], &summed), (vec!["deliver", "bad-checksum"], 1));
    let pieces = ipv6_fragments_of(&whole, 1440);
    assert!(pieces.len() > 2);
    assert_eq!(verdicts(&pieces, &summed), (vec!["deliver"], 1));
    assert_eq!(verdicts(&pieces[1..], &summed), (vec![], 0));

    let packets = [
        limited(&gre(&[], 0x0800, &inner)),
        limited(&gre(&[('K', 7)], 0x0800, &inner)),
        limited(&gre(&[('K', 7)], 0x6558, &frame)),
    ];
    let keyed = |mode: Mode| {
        six(move |draft| {
            draft.mode = Some(mode.into());
            (draft.ikey, draft.okey) = (Some(Some(7).into()), Some(Some(7).into()));
        })
    };
    assert_eq!(verdicts(&packets, &six(|_| {})).0, ["deliver", "no-tunnel", "no-tunnel"]);
    assert_eq!(verdicts(&packets, &keyed(Mode::Ip6Gretap)), (vec!["no-tunnel", "no-tunnel", "deliver"], 1));
    let found = all_for(&pcap(Endian::Little, RAW, &packets[2..]), &keyed(Mode::Ip6Gretap));
    assert_eq!(found[0].payloads, [(0x6558, frame)]);
    assert_eq!(found[0].record.packet.outer.as_ref().unwrap().encaplimit, Some(4));
}

#[test]
fn without_a_remote_everybody_is_taken_and_with_a_group_the_group_s() {
    let inner = ipv4(17, [172, 16, 0, 1], [172, 16, 0, 2], &udp(b"x"));
    let carried = gre(&[('K', 5)], 0x0800, &inner);
    let to = |destination: &str| {
        let mut packet = ipv6(47, &carried);
        packet[24..40].copy_from_slice(&destination.parse::<Ipv6Addr>().unwrap().octets());
        packet
    };
    let packets = [
        to("2001:db8::2"),
        to("2001:db8::3"),
        to("ff05::47"),
        to("ff05::48"),
        ipv4(47, [100, 0, 1, 100], [100, 0, 2, 100], &carried),
        ipv4(47, [100, 0, 1, 77], [100, 0, 2, 100], &carried),
        ipv4(47, [100, 0, 1, 100], [239, 1, 1, 1], &carried),
    ];
    let keyed = |draft: &mut Draft, remote: Option<IpAddr>| {
        // The unspecified address is `any`.
        draft.remote = Some(remote.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).into());
        (draft.ikey, draft.okey) = (Some(Some(5).into()), Some(Some(5).into()));
    };
    let (no, group) = ("no-tunnel", "multicast");
    let any6 = six(|draft| keyed(draft, None));
    assert_eq!(verdicts(&packets, &any6), (vec!["deliver", no, group, group, no, no, group], 1));
    let group6 = six(|draft| keyed(draft, "ff05::47".parse().ok()));
    assert_eq!(verdicts(&packets, &group6), (vec![no, no, "deliver", group, no, no, group], 1));
    let any4 = tunnel(|draft| keyed(draft, None));
    assert_eq!(verdicts(&packets, &any4), (vec![no, no, group, group, "deliver", "deliver", group], 2));
    let group4 = tunnel(|draft| keyed(draft, "239.1.1.1".parse().ok()));
    assert_eq!(verdicts(&packets, &group4), (vec![no, no, group, group, no, no, "deliver"], 1));
}
