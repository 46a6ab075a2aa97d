//! The byte stream that transfers carry: deterministic, so that the receiver checks every byte against
//! what must come and needs no copy from the sender; without period, so that a lost, doubled or swapped
//! segment is seen.
//!
//! The stream is a row of 64 KiB blocks of pseudo-random bytes; each begins with its own number. Checking
//! is a memory comparison, so that it does not decide the rate that a transfer measures.

/// Bytes in a block.
pub const BLOCK: usize = 64 * 1024;

/// A deterministic stream of bytes.
#[derive(Debug, Clone)]
pub struct Pattern {
    block: Vec<u8>,
}

impl Pattern {
    /// The stream of `seed`; other seeds give other streams.
    pub fn new(seed: u64) -> Self {
        let mut state = seed;
        let block = (0..BLOCK / 8).flat_map(|_| splitmix(&mut state).to_le_bytes()).collect();
        Self { block }
    }

    /// The bytes of the block with this number.
    pub fn block(&mut self, number: u64) -> &[u8] {
        self.block[..8].copy_from_slice(&number.to_be_bytes());
        &self.block
    }

    /// Fills `bytes` with the stream from `offset` on.
    pub fn fill(&mut self, offset: u64, bytes: &mut [u8]) {
        self.walk(offset, bytes.len(), |range, expected| bytes[range].copy_from_slice(expected));
    }

    /// Where `bytes`, which should be the stream from `offset` on, first differ from it: an offset into the
    /// stream.
    pub fn difference(&mut self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let mut found = None;
        self.walk(offset, bytes.len(), |range, expected| {
            let seen = &bytes[range.clone()];
            if found.is_none() && seen != expected {
                let within = seen.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(0);
                found = Some(offset + (range.start + within) as u64);
            }
        });
        found
    }

    fn walk(&mut self, offset: u64, length: usize, mut visit: impl FnMut(std::ops::Range<usize>, &[u8])) {
        let mut done = 0;
        while done < length {
            let at = offset + done as u64;
            let start = (at % BLOCK as u64) as usize;
            let take = (BLOCK - start).min(length - done);
            visit(done..done + take, &self.block(at / BLOCK as u64)[start..start + take]);
            done += take;
        }
    }
}

/// FNV-1a over 64-bit little-endian words (the last one filled up with zeros): a checksum that both ends of a
/// transfer report. It guards against accidents, not against people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// Takes in `bytes`. Only the last call may bring a length that is not a multiple of eight.
    pub fn update(&mut self, bytes: &[u8]) {
        for word in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            self.0 = (self.0 ^ u64::from_le_bytes(padded)).wrapping_mul(0x100_0000_01b3);
        }
    }

    /// The value so far.
    pub fn value(self) -> u64 {
        self.0
    }
}

/// The next number of the splitmix64 generator (Steele, Lea, Flood 2014).
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_are_one_stream() {
        let mut pattern = Pattern::new(1);
        let mut whole = vec![0; 3 * BLOCK + 17];
        pattern.fill(0, &mut whole);
        for (offset, length) in [(0, 1), (5, 100), (BLOCK - 3, 7), (BLOCK + 1, BLOCK + 9), (3 * BLOCK, 17)] {
            let mut piece = vec![0; length];
            pattern.fill(offset as u64, &mut piece);
            assert_eq!(piece, whole[offset..offset + length], "{length} bytes from {offset}");
        }
    }

    #[test]
    fn the_first_wrong_byte_is_found() {
        let mut pattern = Pattern::new(2);
        let mut bytes = vec![0; 2 * BLOCK];
        pattern.fill(40, &mut bytes);
        assert_eq!(pattern.difference(40, &bytes), None);
        bytes[BLOCK + 5] ^= 1;
        bytes[BLOCK + 900] ^= 1;
        assert_eq!(pattern.difference(40, &bytes), Some(40 + BLOCK as u64 + 5));
    }

    #[test]
    fn swapped_and_doubled_blocks_are_found() {
        let mut pattern = Pattern::new(3);
        let mut bytes = vec![0; 2 * BLOCK];
        pattern.fill(0, &mut bytes);
        assert_eq!(pattern.difference(0, &bytes[BLOCK..]), Some(7));
        assert_ne!(bytes[..BLOCK], bytes[BLOCK..]);
    }

    #[test]
    fn the_digest_sees_order_and_length() {
        let digest = |bytes: &[u8]| {
            let mut digest = Digest::default();
            digest.update(bytes);
            digest.value()
        };
        assert_eq!(digest(b""), 0xcbf2_9ce4_8422_2325);
        assert_ne!(digest(b"abcdefgh12345678"), digest(b"12345678abcdefgh"));
        assert_ne!(digest(b"abcdefgh"), digest(b"abcdefg"));
    }
}
