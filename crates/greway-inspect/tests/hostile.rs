//! Captures that lie: every byte may be wrong, every length a lie, and the answer is a record, a reason, or
//! the end; never a panic, and never more memory than the bounds.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::io::{Cursor, Read};

use greway_inspect::Inspection;
use proptest::prelude::*;
use support::{ETHERNET, Endian, RAW, ethernet, fragments_of, gre, ipv4, ipv6, pcap, pcapng, udp};

fn drain(capture: Vec<u8>) -> u64 {
    let Ok(mut inspection) = Inspection::new(Cursor::new(capture), None) else { return 0 };
    while let Ok(Some(found)) = inspection.next_packet() {
        serde_json::to_string(&found.record).unwrap();
    }
    inspection.summary().frames
}

fn sample() -> Vec<Vec<u8>> {
    let inner = ipv4(17, [172, 16, 0, 1], [172, 16, 0, 2], &udp(&[5; 100]));
    let keyed = gre(&[('C', 0), ('K', 42), ('S', 1)], 0x0800, &inner);
    let whole = ipv4(47, [100, 0, 1, 100], [100, 0, 2, 100], &keyed);
    let mut frames = vec![ethernet(&whole), ethernet(&ipv6(47, &keyed))];
    frames.extend(fragments_of(&whole, 64).iter().map(|piece| ethernet(piece)));
    frames
}

#[test]
fn a_capture_cut_at_any_byte_ends() {
    for capture in [pcap(Endian::Little, ETHERNET, &sample()), pcapng(ETHERNET, &sample())] {
        for length in 0..capture.len() {
            assert!(drain(capture[..length].to_vec()) <= sample().len() as u64);
        }
    }
}

/// Frames without end: the first fragment of ever another datagram.
struct Flood {
    left: u32,
    pending: Cursor<Vec<u8>>,
}

impl Read for Flood {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.pending.read(buffer)?;
        if read > 0 || self.left == 0 {
            return Ok(read);
        }
        self.left -= 1;
        let mut piece =
            fragments_of(&ipv4(47, [1, 1, 1, 1], [2, 2, 2, 2], &[7; 40_000]), 32_000).swap_remove(0);
        piece[4..6].copy_from_slice(&(self.left as u16).to_be_bytes());
        piece[12..16].copy_from_slice(&self.left.to_be_bytes());
        support::fill_ipv4_checksum(&mut piece);
        // The frame without the file's header.
        self.pending = Cursor::new(pcap(Endian::Little, RAW, &[piece])[24..].to_vec());
        self.pending.read(buffer)
    }
}

#[test]
fn fragments_without_end_are_given_up_oldest_first() {
    let header = Cursor::new(pcap(Endian::Little, RAW, &[]));
    let flood = Flood { left: 4_000, pending: header };
    let mut inspection = Inspection::new(flood, None).unwrap();
    assert!(inspection.next_packet().unwrap().is_none());
    let summary = inspection.summary();
    assert_eq!((summary.frames, summary.incomplete), (4_000, 4_000));
    // 128 MB went through; what waits is bounded.
    assert!(inspection.waiting_bytes() <= 16 * 1024 * 1024, "{}", inspection.waiting_bytes());
}

proptest! {
    #[test]
    fn noise_is_no_capture(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        drain(bytes);
    }

    #[test]
    fn a_capture_with_wrong_bytes_ends(
        ng in any::<bool>(),
        wrong in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut capture = if ng { pcapng(ETHERNET, &sample()) } else { pcap(Endian::Little, ETHERNET, &sample()) };
        for (at, byte) in wrong {
            let at = at.index(capture.len());
            capture[at] = byte;
        }
        drain(capture);
    }

    #[test]
    fn a_frame_of_noise_is_a_record_or_nothing(
        link in prop::sample::select(vec![0_u32, 1, 12, 101, 108, 113, 228, 229, 276]),
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 1..6),
    ) {
        let count = frames.len() as u64;
        prop_assert_eq!(drain(pcap(Endian::Little, link, &frames)), count);
    }

    #[test]
    fn gre_with_wrong_bytes_is_a_record(
        six in any::<bool>(),
        wrong in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let inner = ipv4(47, [1, 1, 1, 1], [2, 2, 2, 2], &gre(&[('S', 1)], 0x6558, &ethernet(&ipv6(17, &udp(b"x")))));
        let keyed = gre(&[('C', 0), ('K', 42)], 0x0800, &inner);
        let mut packet = if six { ipv6(47, &keyed) } else { ipv4(47, [3, 3, 3, 3], [4, 4, 4, 4], &keyed) };
        for (at, byte) in wrong {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        packet.truncate(cut.index(packet.len()) + 1);
        prop_assert_eq!(drain(pcap(Endian::Little, RAW, &[packet])), 1);
    }
}
