//! A tunnel goes from one receiving socket to the other without losing a packet or bringing one twice.
//!
//! For a moment both sockets are open and each has a copy of what arrives. The old one is emptied first, and what it
//! brought is remembered by a hash; what the new one then has of the same is left out, once each. Afterwards the old one
//! is closed: whatever it had still got, the new one has too.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use greway_engine::TunnelIndex;

use crate::underlay::Receive;

/// How long the new socket may lag behind the old one, in milliseconds: what is in its queue by then has been read.
const LAG_MS: u64 = 1_000;
/// Packets that are remembered at most: far more than both sockets' buffers hold of any size that comes in numbers.
const MOST: usize = 65_536;

/// A tunnel that is changing its socket; mostly none is.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    state: Option<Underway>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Underway {
    tunnel: TunnelIndex,
    to: Receive,
    /// How often the old socket brought it.
    brought: HashMap<u64, u32>,
    until_ms: u64,
}

impl Handover {
    /// From now on this tunnel's packets are remembered.
    pub(crate) fn begin(&mut self, tunnel: TunnelIndex, to: Receive, now_ms: u64) {
        self.state = Some(Underway { tunnel, to, brought: HashMap::new(), until_ms: now_ms + LAG_MS });
    }

    /// Whether packets have to be compared.
    pub(crate) fn is_underway(&self) -> bool {
        self.state.is_some()
    }

    /// Whether a packet is a copy of one that the old socket brought. `gre`: its bytes behind the delivery header, which
    /// both sockets see alike; asked for only while a tunnel is changing.
    pub(crate) fn repeats<'a>(
        &mut self,
        way: Receive,
        tunnel: Option<TunnelIndex>,
        gre: impl FnOnce() -> &'a [u8],
        now_ms: u64,
    ) -> bool {
        let Some(state) = &mut self.state else { return false };
        if now_ms >= state.until_ms {
            self.state = None;
            return false;
        }
        if tunnel != Some(state.tunnel) {
            return false;
        }
        let hash = self.hasher.hash_one(gre());
        if way != state.to {
            if state.brought.len() < MOST {
                *state.brought.entry(hash).or_default() += 1;
            }
            return false;
        }
        match state.brought.get_mut(&hash) {
            Some(times) if *times > 0 => {
                *times -= 1;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUNNEL: TunnelIndex = TunnelIndex(3);

    #[test]
    fn what_the_old_socket_brought_is_left_out_once() {
        let mut handover = Handover::default();
        assert!(!handover.repeats(Receive::Raw, Some(TUNNEL), || b"before", 5));
        handover.begin(TUNNEL, Receive::Raw, 10);
        let mut sees = |way, bytes: &[u8], now_ms| handover.repeats(way, Some(TUNNEL), || bytes, now_ms);
        assert!(!sees(Receive::Packet, b"one", 10));
        assert!(!sees(Receive::Packet, b"one", 10));
        assert_eq!(
            [b"one", b"one", b"one", b"two"].map(|bytes| sees(Receive::Raw, bytes, 11)),
            [true, true, false, false]
        );
    }

    #[test]
    fn other_tunnels_and_later_times_are_none_of_its_business() {
        let mut handover = Handover::default();
        handover.begin(TUNNEL, Receive::Raw, 10);
        assert!(!handover.repeats(Receive::Packet, Some(TUNNEL), || b"one", 10));
        assert!(!handover.repeats(Receive::Raw, Some(TunnelIndex(4)), || b"one", 10));
        assert!(!handover.repeats(Receive::Raw, None, || b"one", 10));
        assert!(!handover.repeats(Receive::Raw, Some(TUNNEL), || b"one", 10 + LAG_MS));
    }
}
