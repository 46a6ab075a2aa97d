//! What arrived and waits, apart for each tunnel, when more comes than is carried.
//!
//! One socket of the underlay receives for all tunnels, and one of the overlay for many. While the worker keeps up, packets go from it right to where they
//! belong, and nothing here is used. When they begin to stand in line, the line is one for all: whoever sends the most
//! makes everybody else wait, and a packet that finds the socket full is lost whosever it is. So then the socket is
//! emptied at once, which costs a fraction of what carrying costs, and the packets wait here: each tunnel has a line of
//! its own, of a bounded length, and all lines have their turn one after the other (deficit round robin, after
//! M. Shreedhar, G. Varghese, 1995). What finds its own line full is dropped, and counted for its tunnel.
//!
//! It refuses to reorder: a tunnel's packets leave in the order in which they came.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Bytes in one line at most: some milliseconds of a bulk.
const LINE_BYTES: usize = 2 << 20;
/// Packets in one line at most, of whatever size: as many milliseconds of small ones.
const LINE_PACKETS: usize = 2_048;
/// Bytes in all lines together.
const ALL_BYTES: usize = 32 << 20;
/// Bytes that a line may send when it has its turn; a packet counts for [`OVERHEAD`] bytes more than it has.
const QUANTUM: usize = 32 << 10;
/// What a packet costs beside its bytes.
const OVERHEAD: usize = 512;
/// Buffers that are kept to be used again.
const SPARE: usize = 2_048;

/// A datagram that waits, and what is known of it.
#[derive(Debug)]
pub(crate) struct Waiting<R> {
    pub(crate) datagram: Vec<u8>,
    pub(crate) receipt: R,
}

/// The packets of one tunnel in order, or those of none. `K` tells whose they are.
#[derive(Debug)]
struct Line<R> {
    packets: VecDeque<Waiting<R>>,
    bytes: usize,
    /// Bytes it may still send in this turn.
    credit: usize,
}

/// All lines.
#[derive(Debug)]
pub(crate) struct Backlog<K, R> {
    lines: HashMap<K, Line<R>>,
    /// Those with packets in them, in the order of their turns.
    turns: VecDeque<K>,
    /// Bytes in all of them.
    bytes: usize,
    /// Memory of packets that are gone.
    spare: Vec<Vec<u8>>,
}

impl<R> Default for Line<R> {
    fn default() -> Self {
        Self { packets: VecDeque::new(), bytes: 0, credit: 0 }
    }
}

impl<K, R> Default for Backlog<K, R> {
    fn default() -> Self {
        Self { lines: HashMap::new(), turns: VecDeque::new(), bytes: 0, spare: Vec::new() }
    }
}

impl<K: Copy + Eq + Hash, R> Backlog<K, R> {
    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Puts a packet at the end of its line; false when the line is full.
    pub(crate) fn push(&mut self, tunnel: K, datagram: &[u8], receipt: R) -> bool {
        let line = self.lines.entry(tunnel).or_default();
        let is_new = line.packets.is_empty();
        // A line may be as long as there is room left: the last of many finds some.
        let room = LINE_BYTES.min(ALL_BYTES - self.bytes);
        if line.packets.len() >= LINE_PACKETS || line.bytes + datagram.len() > room {
            // One that was never in line has no turn; a line of nothing is no line.
            if is_new {
                self.lines.remove(&tunnel);
            }
            return false;
        }
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.extend_from_slice(datagram);
        line.bytes += datagram.len();
        self.bytes += datagram.len();
        line.packets.push_back(Waiting { datagram: copy, receipt });
        if is_new {
            self.turns.push_back(tunnel);
        }
        true
    }

    /// Takes what the next line may send in its turn, and says whose it is.
    pub(crate) fn take(&mut self, turn: &mut Vec<Waiting<R>>) -> Option<K> {
        let tunnel = self.turns.pop_front()?;
        let line = self.lines.get_mut(&tunnel)?;
        line.credit += QUANTUM;
        while let Some(next) = line.packets.front() {
            let cost = next.datagram.len() + OVERHEAD;
            if cost > line.credit {
                break;
            }
            line.credit -= cost;
            line.bytes -= next.datagram.len();
            self.bytes -= next.datagram.len();
            turn.extend(line.packets.pop_front());
        }
        if line.packets.is_empty() {
            // Credit is not saved up for later.
            self.lines.remove(&tunnel);
        } else {
            self.turns.push_back(tunnel);
        }
        Some(tunnel)
    }

    /// Gives memory back.
    pub(crate) fn done(&mut self, turn: &mut Vec<Waiting<R>>) {
        /// A super-packet's memory is not worth keeping for a small one.
        const SMALL: usize = 4_096;
        for mut waiting in turn.drain(..) {
            if self.spare.len() < SPARE && waiting.datagram.capacity() <= SMALL {
                waiting.datagram.clear();
                self.spare.push(waiting.datagram);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use greway_engine::{Receipt, TunnelIndex};
    use proptest::prelude::*;

    use super::*;

    const RECEIPT: Receipt = Receipt::Raw { ifindex: 2 };
    const A: Option<TunnelIndex> = Some(TunnelIndex(1));
    const B: Option<TunnelIndex> = Some(TunnelIndex(2));

    type Queue = Backlog<Option<TunnelIndex>, Receipt>;

    /// A datagram of a tunnel with a number.
    fn packet(tunnel: Option<TunnelIndex>, number: u32, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len.max(8)];
        bytes[..4].copy_from_slice(&tunnel.map_or(0, |tunnel| tunnel.0).to_be_bytes());
        bytes[4..8].copy_from_slice(&number.to_be_bytes());
        bytes
    }

    fn push(backlog: &mut Queue, tunnel: Option<TunnelIndex>, number: u32, len: usize) -> bool {
        backlog.push(tunnel, &packet(tunnel, number, len), RECEIPT)
    }

    /// Tunnel and number of all that leave in one turn.
    fn turn(backlog: &mut Queue) -> Vec<(u32, u32)> {
        let mut turn = Vec::new();
        backlog.take(&mut turn);
        let word = |bytes: &[u8]| u32::from_be_bytes(*bytes.first_chunk().unwrap());
        let left = turn.iter().map(|packet| (word(&packet.datagram), word(&packet.datagram[4..]))).collect();
        backlog.done(&mut turn);
        left
    }

    #[test]
    fn a_ping_waits_for_one_turn_of_a_flood_and_no_more() {
        let mut backlog = Queue::default();
        let fitted = (0..10_000).filter(|number| push(&mut backlog, A, *number, 92)).count();
        assert_eq!(fitted, LINE_PACKETS, "the flood's own line is full");
        assert!(push(&mut backlog, B, 0, 112), "and the other's is not");
        let first = turn(&mut backlog);
        assert!(
            first.iter().all(|(tunnel, _)| *tunnel == 1) && first.len() <= QUANTUM / OVERHEAD,
            "{first:?}"
        );
        assert_eq!(turn(&mut backlog), [(2, 0)]);
        assert_eq!(
            turn(&mut backlog)[0],
            (1, first.len() as u32),
            "and where the flood was interrupted it goes on"
        );
    }

    #[test]
    fn two_bulks_of_different_sizes_share_alike() {
        let mut backlog = Queue::default();
        let (mut large, mut small) = (0, 0);
        for number in 0..400 {
            push(&mut backlog, A, number, 1_500);
        }
        for number in 0..1_600 {
            push(&mut backlog, B, number, 100);
        }
        for _ in 0..20 {
            for (tunnel, _) in turn(&mut backlog) {
                if tunnel == 1 { large += 1_500 + OVERHEAD } else { small += 100 + OVERHEAD }
            }
        }
        assert!(large.abs_diff(small) <= QUANTUM, "{large} {small}");
    }

    #[test]
    fn a_packet_larger_than_a_turn_has_its_turn_later() {
        let mut backlog = Queue::default();
        assert!(push(&mut backlog, A, 0, 65_000) && push(&mut backlog, B, 0, 100));
        assert_eq!(turn(&mut backlog), []);
        assert_eq!(turn(&mut backlog), [(2, 0)]);
        assert_eq!(turn(&mut backlog), [(1, 0)]);
        assert!(backlog.is_empty() && backlog.lines.is_empty());
    }

    #[test]
    fn many_lines_together_are_bounded() {
        let mut backlog = Queue::default();
        for number in 0..100 {
            for tunnel in 0..1_000 {
                push(&mut backlog, Some(TunnelIndex(tunnel)), number, 1_500);
            }
        }
        let held: usize = backlog.lines.values().map(|line| line.bytes).sum();
        assert!(held == backlog.bytes && held <= ALL_BYTES, "{held}");
        assert!(push(&mut backlog, Some(TunnelIndex(5_000)), 0, 112), "and one that comes late finds room");
        while !backlog.is_empty() {
            turn(&mut backlog);
        }
        assert_eq!(backlog.bytes, 0);
    }

    proptest! {
        #[test]
        fn what_is_taken_in_leaves_once_and_in_order(
            steps in prop::collection::vec((0_u32..4, 8_usize..3_000, any::<bool>()), 0..400),
        ) {
            let mut backlog = Queue::default();
            let mut next = [0_u32; 4];
            let mut left = [0_u32; 4];
            let check = |turn: Vec<(u32, u32)>, left: &mut [u32; 4]| {
                for (tunnel, number) in turn {
                    assert_eq!(number, left[tunnel as usize]);
                    left[tunnel as usize] += 1;
                }
            };
            for (tunnel, len, take) in steps {
                let index = (tunnel > 0).then_some(TunnelIndex(tunnel));
                if push(&mut backlog, index, next[tunnel as usize], len) {
                    next[tunnel as usize] += 1;
                }
                if take {
                    check(turn(&mut backlog), &mut left);
                }
            }
            while !backlog.is_empty() {
                check(turn(&mut backlog), &mut left);
            }
            prop_assert_eq!(next, left);
            prop_assert!(backlog.lines.is_empty());
        }
    }
}
