//! Several workers.
//!
//! One thread can carry everything there is, and that one is the lead. It alone hears of tunnels that come and go, opens
//! every socket, hears ICMP, and carries what has an order over all flows. Each of the others, its helpers, carries a
//! share of the flows on both sides, on sockets, buffers, tables and counters of its own: no packet takes a lock that
//! another worker may hold, but for one that matches no tunnel, whose sender may be told.
//!
//! ```text
//!                    ┌─ flow a ─► lead      ─ flow a ─┐
//!  gw-tun0, a group ─┼─ flow b ─► helper 1  ─ flow b ─┼─► raw sockets, one each
//!                    └─ flow c ─► helper 2  ─ flow c ─┘
//!
//!                    ┌─ flow a ─► lead      ─ flow a ─┐
//!  underlay, a group ┼─ flow b ─► helper 1  ─ flow b ─┼─► gw-tun0, a socket each
//!                    └─ seq ────► lead ───────────────┘
//! ```
//!
//! The kernel divides ([`greway_linux::flow`]): the same function of the inner addresses and ports on both sides, for
//! packet sockets as for raw ones, so that a flow is one worker's, in its order, also while its tunnel goes from one
//! kind of socket to the other. Who does what:
//!
//! | state | whose |
//! |---|---|
//! | sequence numbers sent, endpoints asked for over IPv6 | the lead's: all that comes out of such a tunnel is ([`Port::is_for_one`]) |
//! | sequence numbers received, packets that are put in order | the lead's: GRE with a number is |
//! | fragments over IPv6, GRE that is odd in any way | the lead's |
//! | path MTU | each asks the kernel for itself; what ICMP says of it the lead passes on |
//! | errors that senders are still to be told of | one count of all ([`crate::port::Troubles`]) |
//! | senders that match no tunnel | each remembers its own; they are told by one ([`crate::icmp::Answerer`]), with one rate limit |
//! | groups, news, ICMP errors | the lead's |
//! | counters of tunnels and of the underlay, what waits in line | each its own; `status` has the sum |
//!
//! Helpers are told in the order in which things happen, and tell nothing; whoever asked waits until the last is done
//! ([`Settled`]). The lead opens a socket for each of them and registers it where they wait, so that all that can fail
//! has failed before they hear of it.

use std::net::IpAddr;
use std::num::NonZero;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

use greway_engine::{TunnelIndex, UnderlaySnapshot, UnmatchedEntry};
use greway_linux::event::{Poller, Waker};
use greway_spec::TunnelSpec;

use crate::command::Answer;
use crate::exit::{Exit, Injection};
use crate::local::LocalAddresses;
use crate::overlay::Inside;
use crate::port::Port;
use crate::reverse_path::ReversePaths;
use crate::shared::Shared;
use crate::underlay::{Inlet, Part, Receive};
use crate::witness::{Recogniser, Through};

/// How many threads carry packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Workers {
    /// As many as there is room for beside those who send and receive: one on up to two processors, else half of them,
    /// eight at the most.
    #[default]
    Auto,
    /// So many, [`Workers::MOST`] at the most.
    Fixed(NonZero<u8>),
}

impl Workers {
    /// Most there can be.
    pub const MOST: u8 = 64;

    /// So many; `None` for none at all and for more than [`Workers::MOST`].
    #[must_use]
    pub fn fixed(count: u8) -> Option<Self> {
        NonZero::new(count).filter(|count| count.get() <= Self::MOST).map(Self::Fixed)
    }

    /// How many that is on a machine with so many processors.
    #[must_use]
    pub fn count(self, processors: usize) -> usize {
        match self {
            Self::Auto => (processors / 2).clamp(1, 8),
            Self::Fixed(count) => usize::from(count.get().min(Self::MOST)),
        }
    }

    /// How many that is here: on the processors that this process may run on.
    #[must_use]
    pub fn here(self) -> usize {
        self.count(thread::available_parallelism().map_or(1, NonZero::get))
    }
}

/// A helper as the lead knows it.
#[derive(Debug)]
pub(crate) struct Helper {
    orders: Sender<Order>,
    wake: Arc<Waker>,
    /// What it waits with.
    pub(crate) poller: Arc<Poller>,
}

/// What the lead tells a helper. Tunnels have the same numbers everywhere.
pub(crate) enum Order {
    /// It has a receiving socket, which is waited for already.
    Inlet {
        inlet: Inlet,
        part: Part,
    },
    /// Sockets that no tunnel needs are to be closed.
    CloseUnused,
    /// What tunnels share that have no sockets of their own.
    Shared(Shared),
    EndSharing,
    Join {
        index: usize,
        port: Box<Port>,
        settled: Arc<Settled>,
    },
    Change {
        index: usize,
        spec: Arc<TunnelSpec>,
        bound_to: Option<u32>,
        settled: Arc<Settled>,
    },
    Leave {
        indices: Arc<[usize]>,
        settled: Arc<Settled>,
    },
    /// What a tunnel is brought is remembered from now on: the socket that it goes to is about to be opened.
    Handover {
        index: usize,
        way: Receive,
        settled: Arc<Settled>,
    },
    /// It receives a tunnel the other way, by a socket that it has, or by this one.
    Receive {
        index: usize,
        way: Receive,
        was_open: bool,
        part: Option<(Inlet, Part)>,
        settled: Arc<Settled>,
    },
    /// A tunnel has other sockets on its device. What came by the old ones is carried first.
    Inside {
        index: usize,
        inside: Box<Inside>,
        settled: Arc<Settled>,
    },
    Mtu {
        index: usize,
        mtu: u32,
    },
    Exit {
        index: usize,
        exit: Option<Exit>,
    },
    Inject(Option<Arc<Injection>>),
    LocalAddresses(Arc<LocalAddresses>),
    ReversePaths(Arc<ReversePaths>),
    Forwards(bool),
    Recognise(Option<Recogniser>),
    /// What is known of the paths of these tunnels to `remote` is not good any longer.
    AskAgain {
        indices: Arc<[TunnelIndex]>,
        remote: IpAddr,
    },
    Strangers(Arc<Gather<Seen>>),
    /// All that waits of a tunnel, one way, is to be carried.
    Drain {
        index: usize,
        through: Through,
        settled: Arc<Settled>,
    },
    /// All that waits in what tunnels share is to be carried, and then nothing until nobody holds `until` any more.
    Halt {
        settled: Arc<Settled>,
        until: Receiver<()>,
    },
}

/// What a worker knows of packets that belong to no tunnel.
pub(crate) type Seen = (Vec<UnmatchedEntry>, UnderlaySnapshot);

impl Helper {
    pub(crate) fn new() -> io::Result<(Self, Receiver<Order>, Arc<Waker>)> {
        let (orders, received) = mpsc::channel();
        let (wake, poller) = (Arc::new(Waker::new()?), Arc::new(Poller::new()?));
        let helper = Self { orders, wake: Arc::clone(&wake), poller };
        Ok((helper, received, wake))
    }

    /// One that has ended carries nothing any more, and the data plane is not alive then ([`crate::Datapath::is_alive`]).
    pub(crate) fn tell(&self, order: Order) {
        let _ = self.orders.send(order);
        self.wake.wake();
    }
}

/// It is to end when nobody can tell it anything any more.
impl Drop for Helper {
    fn drop(&mut self) {
        let (nowhere, _) = mpsc::channel();
        drop(std::mem::replace(&mut self.orders, nowhere));
        self.wake.wake();
    }
}

/// Whoever asked is answered when the last worker has let go of this.
#[derive(Debug)]
pub(crate) struct Settled(SyncSender<Result<(), crate::DatapathError>>);

impl Settled {
    pub(crate) fn new(done: Answer<()>) -> Arc<Self> {
        Arc::new(Self(done))
    }

    /// Tells at once that it came to nothing.
    pub(crate) fn fail(&self, error: crate::DatapathError) {
        let _ = self.0.try_send(Err(error));
    }

    /// One to wait for.
    pub(crate) fn awaited() -> (Arc<Self>, Receiver<Result<(), crate::DatapathError>>) {
        let (done, answer) = mpsc::sync_channel(1);
        (Self::new(done), answer)
    }
}

impl Drop for Settled {
    fn drop(&mut self) {
        // Nobody waits any more, or was told otherwise.
        let _ = self.0.try_send(Ok(()));
    }
}

/// What workers are asked, each adding its part; whoever asked gets all when the last has let go of this.
pub(crate) struct Gather<T> {
    parts: Mutex<Vec<T>>,
    done: SyncSender<Vec<T>>,
}

impl<T> Gather<T> {
    pub(crate) fn new(done: SyncSender<Vec<T>>) -> Arc<Self> {
        Arc::new(Self { parts: Mutex::default(), done })
    }

    pub(crate) fn add(&self, part: T) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).push(part);
    }
}

impl<T> Drop for Gather<T> {
    fn drop(&mut self) {
        let parts = std::mem::take(self.parts.get_mut().unwrap_or_else(PoisonError::into_inner));
        let _ = self.done.try_send(parts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_processors_are_left_to_others() {
        let auto = [1, 2, 3, 4, 8, 16, 64].map(|processors| Workers::Auto.count(processors));
        assert_eq!(auto, [1, 1, 1, 2, 4, 8, 8]);
        let fixed = |count| Workers::Fixed(NonZero::new(count).unwrap()).count(2);
        assert_eq!([1, 4, 64, 200].map(fixed), [1, 4, 64, 64]);
    }

    #[test]
    fn whoever_asked_hears_when_the_last_is_done_and_no_sooner() {
        let (settled, answer) = Settled::awaited();
        let second = Arc::clone(&settled);
        drop(settled);
        assert!(answer.try_recv().is_err());
        drop(second);
        assert!(matches!(answer.try_recv(), Ok(Ok(()))));

        let (done, answer) = mpsc::sync_channel(1);
        let gather = Gather::new(done);
        gather.add(1);
        let second = Arc::clone(&gather);
        drop(gather);
        assert!(answer.try_recv().is_err());
        second.add(2);
        drop(second);
        assert_eq!(answer.try_recv(), Ok(vec![1, 2]));
    }

    #[test]
    fn a_helper_whose_lead_is_gone_is_woken_and_told_of_it() {
        let (helper, orders, wake) = Helper::new().unwrap();
        helper.tell(Order::Forwards(true));
        drop(helper);
        assert!(wake.drain());
        assert!(matches!(orders.try_recv(), Ok(Order::Forwards(true))));
        assert!(matches!(orders.try_recv(), Err(mpsc::TryRecvError::Disconnected)));
    }
}
