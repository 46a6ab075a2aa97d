//! What comes out of tunnels that share their sockets. Of tunnels without a program that is one socket
//! ([`crate::whole`]), and where more stands in it than is carried soon, each tunnel's packets wait in a line of their own
//! ([`crate::backlog`]).

use std::os::fd::{AsFd, BorrowedFd};

use greway_engine::{DropReason, frame};
use greway_linux::batch::{Meta, Packet};
use greway_linux::sockopt;
use greway_linux::vnet::VnetHeader;

use super::{BATCH, MOST_INTO_LINE, SHARED, WHOLE, Worker, lost_a_packet, most_waiting, take};
use crate::backlog::{Backlog, Waiting};
use crate::overlay::Tap;
use crate::shared::{self, Shared};
use crate::underlay::LATE;

/// What was said of a packet that waits: it lies behind the room for a tag.
type Said = (Option<VnetHeader>, Meta);

/// What waits, by the peer ends that it came out of.
#[derive(Debug, Default)]
pub(super) struct Lines {
    backlog: Backlog<u32, Said>,
    /// Packets whose turn it is.
    turn: Vec<Waiting<Said>>,
    /// The socket had more than was last taken.
    more: bool,
}

impl Lines {
    pub(super) fn is_empty(&self) -> bool {
        self.backlog.is_empty()
    }
}

impl Worker {
    /// One of the sockets that tunnels share, and what is taken of what comes out by it.
    fn shared_source(&self, source: usize) -> Option<(BorrowedFd<'_>, Tap)> {
        match source as u64 + SHARED {
            WHOLE => self.whole.as_ref().map(|whole| (whole.as_fd(), Tap::Everything)),
            _ => self.shared.as_ref()?.sources().nth(source).map(|socket| (socket, Tap::Declined)),
        }
    }

    /// Carries one batch of what came out of tunnels that share their sockets; or puts what waits into lines, where too much
    /// does.
    pub(super) fn send_shared(&mut self, source: usize, now_ms: u64) {
        let whole = source as u64 + SHARED == WHOLE;
        if !whole || self.lines.is_empty() && !self.whole_is_behind() {
            self.send_shared_batch(source, now_ms, false);
            return;
        }
        for _ in 0..MOST_INTO_LINE {
            if self.send_shared_batch(source, now_ms, true) == 0 || !self.lines.more {
                break;
            }
        }
    }

    /// Whether so much stands in line at the socket that what comes now would wait for milliseconds.
    fn whole_is_behind(&self) -> bool {
        let waiting = || self.whole.as_ref().and_then(|whole| sockopt::memory(whole.as_fd()).ok());
        self.lines.more && waiting().is_some_and(|memory| memory.waiting > LATE)
    }

    /// Takes a batch, and carries it or puts it into lines. How many packets it had; an error is as good as one.
    fn send_shared_batch(&mut self, source: usize, now_ms: u64, into_line: bool) -> usize {
        let shared = self.shared.as_ref().and_then(|shared| shared.sources().nth(source));
        let (socket, tap) = match source as u64 + SHARED {
            WHOLE => (self.whole.as_ref().map(AsFd::as_fd), Tap::Everything),
            _ => (shared, Tap::Declined),
        };
        let Some(socket) = socket else { return 0 };
        let framed = &mut self.buffers.framed;
        let turn = &mut self.turns[source];
        let taken = match framed.recv_up_to(socket, turn.packets()) {
            Ok(0) => return 0,
            Ok(taken) => taken,
            Err(error) => {
                tracing::debug!(%error, "on tunnel devices");
                if lost_a_packet(&error) {
                    self.strangers.underlay.record_drop(DropReason::UnsplittableOffload);
                }
                return 1;
            }
        };
        if tap == Tap::Everything {
            self.lines.more = taken >= turn.packets().min(framed.slots());
        }
        turn.took(taken, framed.bytes());
        for (peer, packets) in shared::by_device(framed) {
            // Others' packets come by too: of tunnels with sockets of their own, of devices that look at everything.
            let port = self.sharing.get(&peer).and_then(|index| self.ports.get_mut(*index)?.as_mut());
            // One that goes from one socket to the other is seen by both.
            let Some(port) = port.filter(|port| port.inside.tap() == tap) else { continue };
            if into_line {
                for packet in packets {
                    let Packet { slot, data, vnet, meta } = packet;
                    let with_room = &slot[data.start - frame::TAG..data.end];
                    if !self.lines.backlog.push(peer, with_room, (vnet, meta)) {
                        port.tunnel.counters().record_drop(DropReason::QueueFull);
                    }
                }
            } else {
                self.sender.carry_these(port, packets.into_iter(), &mut self.underlay, self.forwards, now_ms);
            }
        }
        taken
    }

    /// Carries some of what waits in lines: no more than a batch, so that other sockets have their turn too.
    pub(super) fn go_on_with_lines(&mut self, now_ms: u64) {
        let mut carried = 0;
        while carried < BATCH && !self.lines.is_empty() {
            carried += self.carry_line(now_ms);
        }
    }

    /// Carries all that waits in lines: what comes next comes behind it.
    pub(super) fn clear_lines(&mut self, now_ms: u64) {
        while !self.lines.is_empty() {
            self.carry_line(now_ms);
        }
    }

    /// Carries what one tunnel may send in its turn; how many packets these were.
    fn carry_line(&mut self, now_ms: u64) -> usize {
        let Self { lines: Lines { backlog, turn, .. }, sharing, ports, sender, underlay, .. } = self;
        let peer = backlog.take(turn);
        let carried = turn.len();
        let port = peer.and_then(|peer| ports.get_mut(*sharing.get(&peer)?)?.as_mut());
        // What a tunnel left that is gone goes with it.
        if let Some(port) = port {
            let waiting = turn.iter_mut().map(|Waiting { datagram, receipt: (vnet, meta) }| {
                let data = frame::TAG..datagram.len();
                Packet { slot: datagram, data, vnet: *vnet, meta: *meta }
            });
            sender.carry_these(port, waiting, underlay, self.forwards, now_ms);
        }
        backlog.done(turn);
        carried
    }

    /// Carries all that waits in one of the sockets that tunnels share; what comes meanwhile has its turn.
    pub(super) fn empty_shared_source(&mut self, source: usize, now_ms: u64) {
        if source as u64 + SHARED == WHOLE {
            self.clear_lines(now_ms);
        }
        let waiting = self.shared_source(source).map_or(0, |(socket, _)| most_waiting(socket));
        take(waiting, || self.send_shared_batch(source, now_ms, false));
    }

    /// How many such sockets there are.
    pub(super) fn shared_sources() -> std::ops::RangeInclusive<usize> {
        0..=Shared::SOURCES as usize
    }
}
