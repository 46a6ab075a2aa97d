//! How much is taken from a socket before others have their turn.
//!
//! The worker gives each socket that has something one turn a round. What a turn takes is bounded in packets by the
//! batch and in bytes here: a packet may be a super-packet of 64 KiB, and 64 of these keep the worker for several
//! milliseconds, in which a ping through another tunnel waits.

/// Bytes in a turn, about: a quarter of a millisecond at 4 Gbit/s.
const BYTES: usize = 128 << 10;
/// Packets in a turn at least, of whatever size.
const LEAST: usize = 2;

/// Packets in the first turn: a batch.
const FIRST: usize = 64;

/// The turns of one socket. How large its packets are is not known before they are taken, so the last ones tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    packets: usize,
}

impl Default for Turn {
    fn default() -> Self {
        Self { packets: FIRST }
    }
}

impl Turn {
    /// Packets to take at most.
    pub(crate) fn packets(self) -> usize {
        self.packets
    }

    /// Whether one that has taken so many bytes is over.
    pub(crate) fn is_over(bytes: usize) -> bool {
        bytes >= BYTES
    }

    /// `packets` of `bytes` together were taken. The next turn is shorter at once, and longer by and by.
    pub(crate) fn took(&mut self, packets: usize, bytes: usize) {
        if packets == 0 {
            return;
        }
        let fitting = (BYTES / (bytes / packets).max(1)).max(LEAST);
        // No batch has more.
        self.packets = fitting.min(2 * self.packets).min(1_024);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_packets_fill_a_batch_and_large_ones_a_turn() {
        let mut turn = Turn::default();
        for _ in 0..8 {
            turn.took(turn.packets(), 1_400 * turn.packets());
        }
        assert_eq!(turn.packets(), BYTES / 1_400);
        // One batch of super-packets, and no second one.
        turn.took(64, 64 * 65_000);
        assert_eq!(turn.packets(), LEAST);
        turn.took(0, 0);
        assert_eq!(turn.packets(), LEAST);
        // Longer by and by.
        turn.took(2, 2 * 64);
        assert_eq!(turn.packets(), 2 * LEAST);
    }
}
