//! Which tunnels keep packets back until those before them have come, and where such packets lie on their way out.
//!
//! What waits, how long and in which order is decided in `greway-engine` (`reorder.rs`). Here is what a worker needs
//! beside it: the time of the next look, without asking every tunnel, and memory that outlasts a batch.

use std::cell::{Cell, OnceCell};
use std::time::Duration;

use greway_engine::TunnelIndex;
use greway_linux::clock;

use crate::port::Port;

/// The tunnels that hold packets; mostly none.
#[derive(Default)]
pub(crate) struct Holders(Vec<TunnelIndex>);

impl Holders {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Remembers a tunnel that holds packets.
    pub(crate) fn note(&mut self, index: TunnelIndex) {
        if !self.0.contains(&index) {
            self.0.push(index);
        }
    }

    /// Asks each for whether it still holds packets, and forgets those that do not.
    pub(crate) fn retain(&mut self, mut holds: impl FnMut(TunnelIndex) -> bool) {
        self.0.retain(|index| holds(*index));
    }

    /// How long nothing has to be done if nothing comes; `None`: for ever.
    pub(crate) fn timeout(&self, ports: &[Option<Port>]) -> Option<Duration> {
        let deadline = |index: &TunnelIndex| {
            let port = ports.get(index.0 as usize).and_then(Option::as_ref)?;
            port.state.reorder.deadline_ms()
        };
        let first = self.0.iter().filter_map(deadline).min()?;
        Some(Duration::from_millis(first.saturating_sub(clock::monotonic_millis())))
    }
}

/// Packets that were held, while a batch that refers to them is put together. It grows by allocation, and only when
/// there are any.
#[derive(Default)]
pub(crate) struct Shelf {
    first: OnceCell<Box<Board>>,
}

/// Some places, and more behind them: what lies here does not move.
struct Board {
    places: [OnceCell<Box<[u8]>>; Self::PLACES],
    used: Cell<usize>,
    next: OnceCell<Box<Self>>,
}

impl Board {
    const PLACES: usize = 64;

    fn empty() -> Box<Self> {
        Box::new(Self {
            places: [const { OnceCell::new() }; Self::PLACES],
            used: Cell::new(0),
            next: OnceCell::new(),
        })
    }
}

impl Shelf {
    /// Puts a packet down.
    pub(crate) fn put(&self, bytes: Box<[u8]>) -> &[u8] {
        let mut board = self.first.get_or_init(Board::empty);
        while board.used.get() == Board::PLACES {
            board = board.next.get_or_init(Board::empty);
        }
        let place = &board.places[board.used.get()];
        board.used.set(board.used.get() + 1);
        place.get_or_init(|| bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_on_a_shelf_stays_where_it_is() {
        let shelf = Shelf::default();
        let put = (0..200_u8).map(|mark| shelf.put(vec![mark; 3].into())).collect::<Vec<_>>();
        for (mark, bytes) in (0..200_u8).zip(put) {
            assert_eq!(bytes, [mark; 3]);
        }
    }

    #[test]
    fn a_tunnel_is_noted_once_and_forgotten_when_it_holds_nothing() {
        let mut holders = Holders::default();
        holders.note(TunnelIndex(3));
        holders.note(TunnelIndex(5));
        holders.note(TunnelIndex(3));
        assert_eq!(holders.0, [TunnelIndex(3), TunnelIndex(5)]);
        assert_eq!(holders.timeout(&[]), None, "both are gone");
        holders.retain(|index| index == TunnelIndex(5));
        assert_eq!(holders.0, [TunnelIndex(5)]);
        holders.retain(|_| false);
        assert!(holders.is_empty());
    }
}
