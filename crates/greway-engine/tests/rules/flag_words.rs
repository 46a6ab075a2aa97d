//! Every flags word with every length of a short datagram, against the rules as they are written.

use crate::support::{Host, LOCAL, PLAIN, REMOTE, datagram, slow_sum, spec};
use greway_engine::{Delivery, Verdict};

use Outcome::{Delivered, Refused};

const KEY: u32 = 0x4500_0102;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Refused(&'static str),
    /// `start`: offset of the payload packet in the GRE packet.
    Delivered {
        tunnel: u32,
        kind: u16,
        start: usize,
    },
}

/// RX-01 to RX-08 for a host with an unkeyed tunnel and one with [`KEY`], both with `icsum` as the
/// packet has it. Written from the rules, byte by byte, with nothing of the engine.
fn stated(gre: &[u8]) -> Outcome {
    // RX-01
    if gre.len() < 12 {
        return Refused("too-short");
    }
    let (first, second) = (gre[0], gre[1]);
    let protocol = u16::from(gre[2]) << 8 | u16::from(gre[3]);
    // RX-02
    match second & 0x7f {
        0 => {}
        1 => return Refused("version-1-pptp"),
        _ if second & 0x06 != 0 => return Refused("unknown-version"),
        _ => return Refused("reserved-flags"),
    }
    // RX-03
    if first & 0x40 != 0 {
        return Refused("routing-present");
    }
    // RX-04
    let (c, k, s) = (first & 0x80 != 0, first & 0x20 != 0, first & 0x10 != 0);
    let header = 4 + 4 * (usize::from(c) + usize::from(k) + usize::from(s));
    if gre.len() < header {
        return Refused("truncated-header");
    }
    // RX-05
    if c && slow_sum(gre) != 0xffff {
        return Refused("bad-checksum");
    }
    // RX-06, RX-13
    let key_at = if c { 8 } else { 4 };
    if k && gre[key_at..key_at + 4] != KEY.to_be_bytes() {
        return Refused("no-tunnel");
    }
    // RX-07
    let (mut kind, mut start) = (protocol, header);
    if first == 0 && second == 0 && protocol == 0x883e {
        kind = 0x0800;
        start += if gre[4] & 0xf0 == 0x40 { 0 } else { 4 };
    }
    // RX-08, RX-10: those are for other kinds of tunnel
    if kind == 0x88be || kind == 0x22eb {
        return Refused("no-tunnel");
    }
    // RX-23
    let least = match kind {
        0x0800 => 20,
        0x86dd => 40,
        _ => 0,
    };
    if gre.len() - start < least {
        return Refused("inner-truncated");
    }
    Delivered { tunnel: u32::from(k), kind, start }
}

fn decided(host: &mut Host, bytes: &mut [u8]) -> Outcome {
    match host.receive(bytes, PLAIN) {
        Verdict::Deliver(Delivery { tunnel, protocol_type, inner, offload }) => {
            assert!(offload.is_none());
            assert_eq!(inner.end, bytes.len());
            Delivered { tunnel: tunnel.0, kind: protocol_type, start: inner.start - 20 }
        }
        Verdict::Hold { .. } => panic!("no tunnel here puts packets in order"),
        Verdict::Decline(reason) => Refused(reason.name()),
        Verdict::Drop { reason, .. } => Refused(reason.name()),
    }
}

#[test]
fn rx01_to_rx08_every_flag_word() {
    let host = |icsum: bool| {
        let unkeyed = greway_spec::TunnelSpec { icsum, ..spec(LOCAL, REMOTE) };
        let keyed = greway_spec::TunnelSpec { ikey: Some(KEY), ..unkeyed.clone() };
        Host::new(&[unkeyed, keyed])
    };
    let (mut without, mut with) = (host(false), host(true));
    let mut outcomes = std::collections::BTreeMap::<Outcome, u64>::new();
    // Only the length differs between the outer headers.
    let outer: Vec<_> = (0..=40).map(|length| datagram(0, REMOTE, LOCAL, 47, &vec![0; length])).collect();
    let mut check = |flags: u16, length: usize, protocol: u16, fill: bool| {
        let mut gre: Vec<u8> = flags.to_be_bytes().into_iter().chain(protocol.to_be_bytes()).collect();
        gre.resize(length.max(4), 0);
        // Wherever the header ends, what follows looks like the key or the beginning of IPv4.
        for word in gre[4..].chunks_exact_mut(4) {
            word.copy_from_slice(&KEY.to_be_bytes());
        }
        gre.truncate(length);
        let has_checksum = flags & 0x8000 != 0;
        if has_checksum && length >= 8 && fill {
            gre[4..8].fill(0);
            let value = !slow_sum(&gre);
            gre[4..6].copy_from_slice(&value.to_be_bytes());
        }
        let host = if has_checksum { &mut with } else { &mut without };
        let mut bytes = outer[length].clone();
        bytes[20..].copy_from_slice(&gre);
        let (expected, found) = (stated(&gre), decided(host, &mut bytes));
        assert_eq!(found, expected, "flags 0x{flags:04x}, {length} bytes, protocol 0x{protocol:04x}");
        *outcomes.entry(expected).or_default() += 1;
    };
    for flags in 0..=u16::MAX {
        for length in 0..=40 {
            check(flags, length, 0x0800, true);
        }
        for protocol in [0x883e, 0x88be, 0x22eb, 0x6558, 0x86dd] {
            check(flags, 28, protocol, true);
        }
        check(flags, 40, 0x0800, false);
    }
    for outcome in [
        "too-short",
        "version-1-pptp",
        "unknown-version",
        "reserved-flags",
        "routing-present",
        "truncated-header",
        "bad-checksum",
        "no-tunnel",
        "inner-truncated",
    ] {
        assert!(outcomes.contains_key(&Refused(outcome)), "no word leads to {outcome}");
    }
    let delivered = |wanted: u16| {
        outcomes.keys().filter(move |found| matches!(found, Delivered { kind, .. } if *kind == wanted))
    };
    // C, K and S in all combinations; the payload begins after 4 to 16 bytes, behind either tunnel.
    assert_eq!(delivered(0x0800).count(), 6);
    assert_eq!(delivered(0x6558).count(), 6);
}

#[test]
fn rx07_wccp_version_2_skips_its_redirect_header() {
    let mut host = Host::new(&[spec(LOCAL, REMOTE)]);
    let inner = crate::support::ipv4(17, &crate::support::udp(b"x"));
    for redirect in [&[][..], &[0, 1, 2, 3]] {
        let gre = [&[0, 0, 0x88, 0x3e], redirect, &inner].concat();
        let mut bytes = datagram(0, REMOTE, LOCAL, 47, &gre);
        let Verdict::Deliver(delivery) = host.receive(&mut bytes, PLAIN) else { panic!("not delivered") };
        assert_eq!(delivery.protocol_type, 0x0800);
        assert_eq!(bytes[delivery.inner], inner);
    }
}
