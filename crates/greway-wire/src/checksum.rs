//! The internet checksum (RFC 1071), whole, in pieces and incrementally (RFC 1624).
//!
//! Every header here needs it and the payload of a tunnel with `csum` is summed once per packet, so
//! the sum runs over 64 bytes at a time in native byte order, which one's complement arithmetic
//! allows (RFC 1071 §2, part B), and is swapped once at the end.

use core::net::{Ipv4Addr, Ipv6Addr};

/// A running one's complement sum. Pieces may have any length; the parity of what came before is
/// remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum {
    /// Sum in network order, folded to 16 bits after each piece.
    sum: u32,
    /// An odd number of bytes has been added.
    odd: bool,
}

impl Checksum {
    /// An empty sum.
    pub const fn new() -> Self {
        Self { sum: 0, odd: false }
    }

    /// Adds the next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.add_piece(sum(bytes), bytes.len());
    }

    /// Adds the next bytes by their [`sum`], taken elsewhere, and their number.
    pub fn add_piece(&mut self, piece: u16, length: usize) {
        self.add_u16(if self.odd { piece.swap_bytes() } else { piece });
        self.odd ^= length % 2 == 1;
    }

    /// Adds a field of 16 bits that stands at an even offset; says nothing about parity.
    pub fn add_u16(&mut self, value: u16) {
        self.sum = u32::from(fold(self.sum + u32::from(value)));
    }

    /// Adds a field of 32 bits that stands at an even offset.
    pub fn add_u32(&mut self, value: u32) {
        self.add_u16((value >> 16) as u16);
        self.add_u16((value & 0xffff) as u16);
    }

    /// The sum, not complemented: what stands in a checksum field that is left to be completed.
    pub fn folded(self) -> u16 {
        fold(self.sum)
    }

    /// The value for the checksum field.
    pub fn value(self) -> u16 {
        !self.folded()
    }

    /// Whether data that includes its checksum field is intact.
    pub fn verifies(self) -> bool {
        self.folded() == 0xffff
    }
}

/// The checksum field for `bytes`, whose own checksum field must be zero.
pub fn checksum(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// Whether `bytes`, their checksum field included, are intact.
pub fn verifies(bytes: &[u8]) -> bool {
    sum(bytes) == 0xffff
}

/// One's complement sum of `bytes` in network order, folded, not complemented. An odd last byte
/// counts as the high half of a word (RFC 1071 §1).
pub fn sum(bytes: &[u8]) -> u16 {
    const LANES: usize = 16;
    // 32-bit words into 64-bit lanes: no carry can be lost below 16 GiB.
    let mut lanes = [0_u64; LANES];
    let blocks = bytes.chunks_exact(LANES * 4);
    let rest = blocks.remainder();
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut total: u64 = 0;
    for lane in lanes {
        total += (lane & 0xffff_ffff) + (lane >> 32);
    }
    let (words, tail) = rest.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    if !tail.is_empty() {
        let mut word = [0; 4];
        word[..tail.len()].copy_from_slice(tail);
        total += u64::from(u32::from_ne_bytes(word));
    }
    let mut folded = (total & 0xffff_ffff) + (total >> 32);
    folded = (folded & 0xffff) + ((folded >> 16) & 0xffff) + (folded >> 32);
    u16::from_be(fold(folded as u32))
}

/// A checksum field after one of the words it covers went from `old` to `new` (RFC 1624 §3,
/// equation 3: `HC' = ~(~HC + ~m + m')`).
pub fn update(field: u16, old: u16, new: u16) -> u16 {
    !fold(u32::from(!field) + u32::from(!old) + u32::from(new))
}

/// The sum over the IPv4 pseudo header of TCP and UDP (RFC 9293 §3.1). `length`: bytes of transport
/// header and payload.
pub fn pseudo_header_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: u32) -> Checksum {
    let mut sum = Checksum::new();
    sum.add(&source.octets());
    sum.add(&destination.octets());
    sum.add_u32(length);
    sum.add_u16(u16::from(protocol));
    sum
}

/// The sum over the IPv6 pseudo header (RFC 8200 §8.1). `length`: bytes from the upper-layer header.
pub fn pseudo_header_v6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, length: u32) -> Checksum {
    let mut sum = Checksum::new();
    sum.add(&source.octets());
    sum.add(&destination.octets());
    sum.add_u32(length);
    sum.add_u16(u16::from(protocol));
    sum
}

fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, word by word.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum: u64 = 0;
        for pair in bytes.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn all_ones_of_the_largest_datagram_lose_no_carry() {
        let bytes = std::vec![0xff; 65_535];
        assert_eq!(sum(&bytes), slow(&bytes));
    }

    proptest! {
        #[test]
        fn the_fast_sum_is_the_slow_sum(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(sum(&bytes), slow(&bytes));
        }

        #[test]
        fn pieces_sum_up_to_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            cuts in proptest::collection::vec(0_usize..200, 0..4),
        ) {
            let mut cuts: std::vec::Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut running = Checksum::new();
            let mut from = 0;
            for cut in cuts {
                running.add(&bytes[from..cut]);
                from = cut;
            }
            running.add(&bytes[from..]);
            prop_assert_eq!(running.folded(), slow(&bytes));
        }

        #[test]
        fn an_update_keeps_intact_what_was_intact(
            mut bytes in proptest::collection::vec(any::<u8>(), 4..64),
            at in 1_usize..30,
            new: u16,
        ) {
            prop_assume!(bytes.len() % 2 == 0 && at * 2 + 2 <= bytes.len());
            bytes[0] = 0;
            bytes[1] = 0;
            let field = checksum(&bytes);
            let old = u16::from_be_bytes([bytes[at * 2], bytes[at * 2 + 1]]);
            bytes[at * 2..at * 2 + 2].copy_from_slice(&new.to_be_bytes());
            bytes[0..2].copy_from_slice(&update(field, old, new).to_be_bytes());
            // A sum over nothing but zeros has no one's complement representation but zero.
            prop_assert!(verifies(&bytes) || bytes.iter().skip(2).all(|b| *b == 0));
        }
    }
}
