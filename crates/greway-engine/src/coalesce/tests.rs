use super::*;
use crate::segment::Split;
use crate::unfilled::unfilled;
use greway_wire::transport::UDP_LEN;
use proptest::prelude::*;

const TCP_CHECKSUM: usize = 16;

/// A super-packet of TCP of `payload` bytes with these flags on its last segment.
fn tcp(v6: bool, payload: usize, flags: u8) -> Vec<u8> {
    let mut tcp = vec![0; 32 + payload];
    tcp[..4].copy_from_slice(&[0x13, 0x88, 0x00, 0x50]);
    tcp[4..8].copy_from_slice(&0xffff_f000_u32.to_be_bytes());
    tcp[12] = 8 << 4;
    tcp[TCP_FLAGS] = TCP_ACK | flags;
    tcp.iter_mut().skip(32).enumerate().for_each(|(index, byte)| *byte = (index * 31) as u8);
    behind_ip(v6, 6, tcp)
}

/// One of UDP.
fn udp(v6: bool, payload: usize) -> Vec<u8> {
    let mut udp = vec![0; UDP_LEN + payload];
    udp[..4].copy_from_slice(&[0x9c, 0x40, 0x13, 0x89]);
    let length = udp.len() as u16;
    udp[4..6].copy_from_slice(&length.to_be_bytes());
    udp.iter_mut().skip(UDP_LEN).enumerate().for_each(|(index, byte)| *byte = (index * 29) as u8);
    behind_ip(v6, 17, udp)
}

/// With the sum over the pseudo header in its checksum field.
fn behind_ip(v6: bool, protocol: u8, segment: Vec<u8>) -> Vec<u8> {
    let mut packet = if v6 {
        let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
        header.extend([0xfd; 32]);
        header
    } else {
        let mut header = vec![0x45, 0, 0, 0, 0xff, 0xfe, 0, 0, 64, protocol, 0, 0];
        header.extend([172, 16, 0, 1, 172, 16, 0, 2]);
        header
    };
    let length = segment.len();
    packet.extend(segment);
    if v6 {
        ipv6::set_payload_length(&mut packet, length as u16);
    } else {
        packet[2..4].copy_from_slice(&((20 + length) as u16).to_be_bytes());
        sum_header(&mut packet);
    }
    let transport = Transport::locate(&packet).unwrap();
    let pseudo = transport.pseudo_header(length as u32).folded();
    let at = transport.checksum_at();
    packet[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    packet
}

/// Writes the checksum of an IPv4 header.
fn sum_header(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let field = checksum::checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&field.to_be_bytes());
}

/// Writes the checksum of a segment or datagram.
fn sum_segment(packet: &mut [u8]) {
    let transport = Transport::locate(packet).unwrap();
    let at = transport.checksum_at();
    packet[at..at + 2].fill(0);
    let covered = &packet[transport.offset..];
    let mut sum = transport.pseudo_header(covered.len() as u32);
    sum.add(covered);
    packet[at..at + 2].copy_from_slice(&crate::segment::never_zero(sum).to_be_bytes());
}

/// The packets that it stands for.
fn segments(packet: &[u8], size: u16) -> Vec<Vec<u8>> {
    let transport = Transport::locate(packet).unwrap();
    let header_len = transport.payload_at() as u16;
    let gso = Gso { kind: kind_of(&transport), size, header_len, ecn: false };
    let split = Split::of(packet, gso, false).unwrap();
    let segment = |number| {
        let payload = &packet[split.payload(number)];
        let mut headers = packet[..split.header_len()].to_vec();
        split.rewrite(&mut headers, number, checksum::sum(payload));
        [&headers, payload].concat()
    };
    (0..split.count()).map(segment).collect()
}

/// Datagrams of these sizes of payload, one flow, each complete.
fn datagrams(v6: bool, sizes: &[usize]) -> Vec<Vec<u8>> {
    let datagram = |(number, size): (usize, &usize)| {
        let mut packet = udp(v6, *size);
        if !v6 {
            packet[4..6].copy_from_slice(&0xfff0_u16.wrapping_add(number as u16).to_be_bytes());
            sum_header(&mut packet);
        }
        sum_segment(&mut packet);
        packet
    };
    sizes.iter().enumerate().map(datagram).collect()
}

fn begun(packet: &[u8], offload: Offload) -> Option<Run<'_>> {
    let mut run = Run::new();
    let begins = Candidate::of(packet, offload).is_some_and(|candidate| run.begin(candidate));
    assert_eq!(run.count(), usize::from(begins));
    begins.then_some(run)
}

fn append<'a>(run: &mut Run<'a>, packet: &'a [u8], offload: Offload) -> bool {
    Candidate::of(packet, offload).is_some_and(|candidate| run.append(&candidate))
}

/// How the packets are put together: what is handed on is what came, or a super-packet of several.
fn put_together(packets: &[Vec<u8>]) -> Vec<(Vec<u8>, Offload, usize)> {
    let (mut run, mut all) = (Run::new(), Vec::new());
    let end = |run: &mut Run<'_>, all: &mut Vec<_>| {
        match (run.count(), run.first()) {
            (0, _) | (_, None) => {}
            (1, Some((packet, offload))) => all.push((packet.to_vec(), offload, 1)),
            (count, _) => {
                let (packet, offload) = emitted(run);
                all.push((packet, offload, count));
            }
        }
        run.clear();
    };
    for packet in packets {
        let candidate = Candidate::of(packet, Offload::NONE);
        if candidate.is_some_and(|candidate| run.append(&candidate)) {
            continue;
        }
        end(&mut run, &mut all);
        if !candidate.is_some_and(|candidate| run.begin(candidate)) {
            all.push((packet.clone(), Offload::NONE, 1));
        }
    }
    end(&mut run, &mut all);
    all
}

/// How many packets each of those that are handed on stands for.
fn counts(packets: &[Vec<u8>]) -> Vec<usize> {
    put_together(packets).into_iter().map(|(_, _, count)| count).collect()
}

fn emitted(run: &Run<'_>) -> (Vec<u8>, Offload) {
    let mut buffer = [0; MAX_HEADERS];
    let (length, offload) = run.emit(&mut buffer);
    ([&buffer[..length], &run.payloads().concat()].concat(), offload)
}

proptest! {
    #[test]
    fn what_was_split_is_whole_again(
        v6: bool,
        payload in 2_usize..40_000,
        size in 1000_u16..1448,
        flags in prop_oneof![Just(0), Just(TCP_PSH), Just(TCP_FIN | TCP_PSH), Just(TCP_ECE)],
    ) {
        let packet = tcp(v6, payload, flags);
        let segments = segments(&packet, size);
        prop_assume!(segments.len() > 1);
        let mut run = begun(&segments[0], Offload::NONE).unwrap();
        for segment in &segments[1..] {
            prop_assert!(append(&mut run, segment, Offload::NONE));
        }
        let (whole, offload) = emitted(&run);
        prop_assert_eq!(whole, packet);
        prop_assert_eq!(offload.gso.unwrap().size, size);
        prop_assert!(unfilled(&emitted(&run).0).is_some());
    }

    #[test]
    fn a_train_of_datagrams_that_was_split_is_whole_again(
        v6: bool,
        size in 1_u16..1448,
        count in 2_usize..=Run::SEGMENTS,
        last in 1_u16..1448,
    ) {
        let payload = usize::from(size) * (count - 1) + usize::from(last.min(size));
        prop_assume!(payload <= 65_000);
        let packet = udp(v6, payload);
        let datagrams = segments(&packet, size);
        prop_assert_eq!(datagrams.len(), count);
        let mut run = begun(&datagrams[0], Offload::NONE).unwrap();
        for datagram in &datagrams[1..] {
            prop_assert!(append(&mut run, datagram, Offload::NONE));
        }
        prop_assert_eq!(run.bytes(), datagrams.iter().map(Vec::len).sum::<usize>());
        let (whole, offload) = emitted(&run);
        prop_assert_eq!(&whole, &packet);
        prop_assert_eq!(offload.gso.unwrap().size, size);
        prop_assert_eq!(unfilled(&whole).map(|(_, partial)| partial), offload.partial);
    }

    /// Whatever comes in whatever order, some of it damaged: split again it is what came, byte for byte and in order.
    #[test]
    fn what_is_put_together_and_split_is_what_came(
        v6: bool,
        packets in proptest::collection::vec(
            (
                prop_oneof![4 => Just(64_usize), 1 => Just(63), 1 => Just(65), 1 => Just(0), 1 => 1..1500_usize],
                prop_oneof![8 => Just(None), 1 => (0_usize..92, 0_u8..8).prop_map(Some)],
                prop_oneof![8 => Just(0_u8), 1 => 1..3_u8],
            ),
            0..150,
        ),
    ) {
        let sizes: Vec<usize> = packets.iter().map(|packet| packet.0).collect();
        let mut came = datagrams(v6, &sizes);
        for (packet, (_, damage, flow)) in came.iter_mut().zip(&packets) {
            let at = if v6 { 40 } else { 20 };
            packet[at + 1] = packet[at + 1].wrapping_add(*flow);
            sum_segment(packet);
            if let Some((at, bit)) = damage
                && let Some(byte) = packet.get_mut(*at)
            {
                *byte ^= 1 << bit;
            }
        }
        let mut goes = Vec::new();
        for (packet, offload, count) in put_together(&came) {
            match offload.gso {
                Some(gso) => {
                    let again = segments(&packet, gso.size);
                    prop_assert!(again.len() == count && (2..=Run::SEGMENTS).contains(&count));
                    goes.extend(again);
                }
                None => goes.push(packet),
            }
        }
        prop_assert_eq!(goes, came);
    }

    #[test]
    fn a_packet_that_was_changed_anywhere_does_not_join(at in 0_usize..1052, bit in 0_u8..8) {
        let packet = tcp(false, 4000, 0);
        let segments = segments(&packet, 1000);
        let mut changed = segments[1].clone();
        changed[at] ^= 1 << bit;
        let mut run = begun(&segments[0], Offload::NONE).unwrap();
        prop_assert!(!append(&mut run, &changed, Offload::NONE));
        prop_assert!(append(&mut run, &segments[1], Offload::NONE));
    }

    #[test]
    fn a_datagram_that_was_changed_anywhere_does_not_join(v6: bool, at in 0_usize..1028, bit in 0_u8..8) {
        let datagrams = datagrams(v6, &[1000, 1000]);
        let mut changed = datagrams[1].clone();
        changed[at] ^= 1 << bit;
        let mut run = begun(&datagrams[0], Offload::NONE).unwrap();
        prop_assert!(!append(&mut run, &changed, Offload::NONE));
        prop_assert!(append(&mut run, &datagrams[1], Offload::NONE));
    }
}

#[test]
fn a_first_packet_with_a_bad_checksum_stays_alone() {
    let packet = tcp(false, 4000, 0);
    for mut segments in [segments(&packet, 1000), datagrams(false, &[1000, 1000]), datagrams(true, &[9, 9])] {
        let last = segments[0].len() - 1;
        segments[0][last] ^= 1;
        let mut run = begun(&segments[0], Offload::NONE).unwrap();
        assert!(!append(&mut run, &segments[1], Offload::NONE));
        assert_eq!((run.count(), run.first()), (1, Some((&segments[0][..], Offload::NONE))));
    }
}

#[test]
fn a_short_segment_ends_a_run() {
    let packet = tcp(false, 2500, 0);
    let segments = segments(&packet, 1000);
    let mut run = begun(&segments[0], Offload::NONE).unwrap();
    assert!(append(&mut run, &segments[1], Offload::NONE) && append(&mut run, &segments[2], Offload::NONE));
    let mut next = tcp(false, 1000, 0);
    next[24..28].copy_from_slice(&0xffff_f000_u32.wrapping_add(2500).to_be_bytes());
    let partial = Some(Partial { start: 20, offset: TCP_CHECKSUM as u16 });
    assert!(!append(&mut run, &next, Offload { partial, gso: None }));
}

#[test]
fn what_is_no_bulk_begins_no_run() {
    for flags in [0x02, TCP_FIN, TCP_PSH, 0x04, 0x20, 0x80] {
        assert!(begun(&tcp(false, 100, flags), Offload::NONE).is_none(), "{flags:02x}");
    }
    assert!(begun(&tcp(false, 0, 0), Offload::NONE).is_none(), "no payload");
    assert!(begun(&[0x45; 19], Offload::NONE).is_none());
    assert!(begun(&[], Offload::NONE).is_none());
}

#[test]
fn datagrams_of_one_size_are_one_train_and_a_shorter_one_ends_it() {
    for v6 in [false, true] {
        assert_eq!(counts(&datagrams(v6, &[64, 64, 64, 10, 64, 64])), [4, 2]);
        // A longer one begins anew, also behind one alone.
        assert_eq!(counts(&datagrams(v6, &[64, 64, 65, 65, 64])), [2, 3]);
        assert_eq!(counts(&datagrams(v6, &[1, 2, 3])), [1, 1, 1]);
    }
}

#[test]
fn a_train_has_no_more_than_64_datagrams_and_64_kib() {
    for v6 in [false, true] {
        assert_eq!(counts(&datagrams(v6, &[1; 150])), [64, 64, 22]);
        let headers = if v6 { 48 } else { 28 };
        // To the byte: 65,535 with the headers fit, one more does not.
        let most = 65_535 - headers;
        let mut full = vec![1300; 50];
        full.push(most - 1300 * 50);
        assert_eq!(counts(&datagrams(v6, &full)), [51]);
        *full.last_mut().unwrap() += 1;
        assert_eq!(counts(&datagrams(v6, &full)), [50, 1]);
    }
}

/// What is done to a packet, and its name.
type Change = (&'static str, fn(&mut Vec<u8>));

/// Each of these makes the second of three datagrams one that does not belong to the others.
#[test]
fn whatever_else_changes_ends_a_train_of_ipv4() {
    let changes: [Change; 8] = [
        ("nothing", |_| {}),
        ("source", |packet| packet[15] = 9),
        ("destination", |packet| packet[19] = 9),
        ("ports", |packet| packet[23] ^= 1),
        ("TOS", |packet| packet[1] = 0x10),
        ("ECN", |packet| packet[1] = 0x03),
        ("TTL", |packet| packet[8] = 63),
        ("DF", |packet| packet[6] = 0x40),
    ];
    for (what, change) in changes {
        let mut packets = datagrams(false, &[64; 3]);
        change(&mut packets[1]);
        sum_header(&mut packets[1]);
        sum_segment(&mut packets[1]);
        let expected: &[usize] = if what == "nothing" { &[3] } else { &[1, 1, 1] };
        assert_eq!(counts(&packets), expected, "{what}");
    }
}

#[test]
fn whatever_else_changes_ends_a_train_of_ipv6() {
    let changes: [Change; 7] = [
        ("nothing", |_| {}),
        ("source", |packet| packet[23] = 9),
        ("destination", |packet| packet[39] = 9),
        ("ports", |packet| packet[40] ^= 1),
        ("traffic class", |packet| packet[1] = 0x10),
        ("flow label", |packet| packet[3] = 7),
        ("hop limit", |packet| packet[7] = 63),
    ];
    for (what, change) in changes {
        let mut packets = datagrams(true, &[64; 3]);
        change(&mut packets[1]);
        sum_segment(&mut packets[1]);
        let expected: &[usize] = if what == "nothing" { &[3] } else { &[1, 1, 1] };
        assert_eq!(counts(&packets), expected, "{what}");
    }
}

#[test]
fn identifications_count_on_unless_df_is_set() {
    let with = |df: bool, identifications: [u16; 3]| {
        let mut packets = datagrams(false, &[64; 3]);
        for (packet, identification) in packets.iter_mut().zip(identifications) {
            packet[4..6].copy_from_slice(&identification.to_be_bytes());
            packet[6] = if df { 0x40 } else { 0 };
            sum_header(packet);
        }
        counts(&packets)
    };
    assert_eq!(with(false, [0xffff, 0, 1]), [3]);
    assert_eq!(with(false, [7, 8, 10]), [2, 1]);
    assert_eq!(with(false, [0, 0, 0]), [1, 1, 1]);
    // What Linux sends from a socket that is not connected, and from one that is.
    assert_eq!(with(true, [0, 0, 0]), [3]);
    assert_eq!(with(true, [7, 8, 9]), [3]);
}

#[test]
fn a_datagram_that_is_damaged_or_odd_stands_for_itself() {
    let changes: [Change; 9] = [
        ("payload", |packet| packet[50] ^= 1),
        ("UDP checksum", |packet| packet[27] ^= 1),
        ("IPv4 header checksum", |packet| packet[11] ^= 1),
        ("no UDP checksum", |packet| packet[26..28].fill(0)),
        ("UDP length too short", |packet| {
            packet[25] -= 1;
            sum_segment(packet);
        }),
        ("UDP length too long", |packet| {
            packet[25] += 1;
            sum_segment(packet);
        }),
        ("padding", |packet| packet.push(0)),
        ("a fragment", |packet| {
            packet[6] = 0x20;
            sum_header(packet);
        }),
        ("options", |packet| {
            packet[0] = 0x46;
            packet[3] += 4;
            packet.splice(20..20, [1, 1, 1, 1]);
            packet[10..12].fill(0);
            let field = checksum::checksum(&packet[..24]);
            packet[10..12].copy_from_slice(&field.to_be_bytes());
        }),
    ];
    for (what, change) in changes {
        for damaged in 0..3 {
            let mut packets = datagrams(false, &[64; 3]);
            change(&mut packets[damaged]);
            let together = put_together(&packets);
            let alone = together.iter().find(|(packet, ..)| *packet == packets[damaged]);
            assert!(matches!(alone, Some((_, Offload::NONE, 1))), "{what}, {damaged}: {together:?}");
            assert_eq!(together.iter().map(|(_, _, count)| count).sum::<usize>(), 3, "{what}, {damaged}");
        }
    }
}

#[test]
fn a_datagram_with_an_unfilled_checksum_joins_and_one_with_another_offload_does_not() {
    let whole = udp(false, 64);
    let mut next = whole.clone();
    next[4..6].copy_from_slice(&0xffff_u16.to_be_bytes());
    sum_header(&mut next);
    let with = |start, offset| Offload { partial: Some(Partial { start, offset }), gso: None };
    let mut run = begun(&whole, with(20, 6)).unwrap();
    assert!(append(&mut run, &next, with(20, 6)));
    let mut run = begun(&whole, with(20, 6)).unwrap();
    assert!(!append(&mut run, &next, Offload::NONE), "the sum over the pseudo header is no checksum");
    assert!(begun(&whole, with(20, 16)).is_none());
    assert!(begun(&whole, with(28, 6)).is_none());
    let gso = Some(Gso { kind: crate::offload::GsoKind::Udp, size: 32, header_len: 28, ecn: false });
    assert!(begun(&whole, Offload { gso, ..with(20, 6) }).is_none());
}

#[test]
fn tcp_and_udp_are_no_run_together() {
    let mut packets = segments(&tcp(false, 4000, 0), 1000);
    packets.truncate(2);
    packets.extend(datagrams(false, &[1000, 1000]));
    assert_eq!(counts(&packets), [2, 2]);
    packets.swap(1, 2);
    assert_eq!(counts(&packets), [1, 1, 1, 1]);
}

#[test]
fn a_run_of_none_is_none() {
    let run = Run::default();
    assert_eq!((run.count(), run.bytes(), run.first(), run.payloads().len()), (0, 0, None, 0));
    assert_eq!(run.emit(&mut [0; MAX_HEADERS]), (0, Offload::NONE));
}
