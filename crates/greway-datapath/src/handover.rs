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

/// Tunnels that are changing their sockets, or did so a moment ago; mostly none.
///
/// One that changes back while its new socket has still got copies keeps what it knows of them: each change is
/// remembered by itself.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    underway: HashMap<(TunnelIndex, Receive), Underway>,
    /// When the last of them is over.
    until_ms: u64,
    hasher: RandomState,
}

#[derive(Debug)]
struct Underway {
    /// How often the old socket brought it.
    brought: HashMap<u64, u32>,
    /// What the old socket brings from now on is another change's.
    is_undone: bool,
    until_ms: u64,
}

impl Handover {
    /// From now on what brings this tunnel's packets is remembered, until some time after [`Self::is_done`].
    pub(crate) fn begin(&mut self, tunnel: TunnelIndex, to: Receive, now_ms: u64) {
        self.underway.retain(|_, state| now_ms < state.until_ms);
        if let Some(undone) = self.underway.get_mut(&(tunnel, to.other())) {
            undone.is_undone = true;
        }
        let until_ms = self.lasts(now_ms);
        let state = Underway { brought: HashMap::new(), is_undone: false, until_ms };
        self.underway.insert((tunnel, to), state);
    }

    /// The old socket has brought its last, however long that took.
    pub(crate) fn is_done(&mut self, tunnel: TunnelIndex, to: Receive, now_ms: u64) {
        let until_ms = self.lasts(now_ms);
        if let Some(state) = self.underway.get_mut(&(tunnel, to)) {
            state.until_ms = until_ms;
        }
    }

    fn lasts(&mut self, now_ms: u64) -> u64 {
        self.until_ms = now_ms + LAG_MS;
        self.until_ms
    }

    /// Whether packets have to be compared.
    pub(crate) fn is_underway(&self) -> bool {
        !self.underway.is_empty()
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
        if now_ms >= self.until_ms {
            self.underway.clear();
        }
        let Some(tunnel) = tunnel.filter(|_| self.is_underway()) else { return false };
        let hash = self.hasher.hash_one(gre());
        let known = self.underway.get_mut(&(tunnel, way)).filter(|state| now_ms < state.until_ms);
        if let Some(times) = known.and_then(|state| state.brought.get_mut(&hash))
            && *times > 0
        {
            *times -= 1;
            return true;
        }
        let leaving = self.underway.get_mut(&(tunnel, way.other())).filter(|state| !state.is_undone);
        if let Some(state) = leaving
            && now_ms < state.until_ms
            && state.brought.len() < MOST
        {
            *state.brought.entry(hash).or_default() += 1;
        }
        false
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
    fn a_change_back_remembers_what_the_change_before_it_brought() {
        let mut handover = Handover::default();
        handover.begin(TUNNEL, Receive::Raw, 10);
        let sees = |handover: &mut Handover, way| handover.repeats(way, Some(TUNNEL), || b"one", 11);
        assert!(!sees(&mut handover, Receive::Packet));
        handover.is_done(TUNNEL, Receive::Raw, 11);
        // The raw socket has its copy still when it is given up.
        handover.begin(TUNNEL, Receive::Packet, 11);
        assert!(sees(&mut handover, Receive::Raw));
        // The next of the same bytes is another packet, and is known on both ways.
        assert!(!sees(&mut handover, Receive::Raw));
        handover.is_done(TUNNEL, Receive::Packet, 11);
        assert_eq!([(); 2].map(|()| sees(&mut handover, Receive::Packet)), [true, false]);
        // And it was no packet of the change before.
        assert!(!sees(&mut handover, Receive::Raw));
    }

    #[test]
    fn a_change_is_remembered_from_its_end_on() {
        let mut handover = Handover::default();
        handover.begin(TUNNEL, Receive::Raw, 10);
        assert!(!handover.repeats(Receive::Packet, Some(TUNNEL), || b"one", 10));
        handover.is_done(TUNNEL, Receive::Raw, 10 + LAG_MS / 2);
        assert!(handover.repeats(Receive::Raw, Some(TUNNEL), || b"one", 9 + LAG_MS * 3 / 2));
        assert!(handover.is_underway());
        assert!(!handover.repeats(Receive::Raw, Some(TUNNEL), || b"two", 10 + LAG_MS * 3 / 2));
        assert!(!handover.is_underway());
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
