//! A thread that carries packets; who does what where there are several is said in [`crate::crew`].
//!
//! It waits for all its sockets at once and gives each that has something one turn a round, so that a
//! busy tunnel cannot starve another.

mod change;
mod orders;
mod sharing;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::num::NonZero;
use std::os::fd::BorrowedFd;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use greway_engine::{DropReason, Receipt, Reorder, SequenceCounters, TunnelIndex, TunnelTable, frame};
use greway_linux::batch::{ReceiveBatch, SendStorage};
use greway_linux::event::{Events, Interest, Poller, Waker};
use greway_linux::{clock, errno, process, sockopt};
use greway_spec::DeviceName;

use crate::backlog::{Backlog, Waiting};
use crate::close::close;
use crate::command::Command;
use crate::crew::{Helper, Order, Workers};
use crate::groups::Groups;
use crate::handle::DatapathError;
use crate::held::Holders;
use crate::icmp::{Answerer, Family, Icmp};
use crate::local::LocalAddresses;
use crate::lull::{BusyPoll, Lull, Next};
use crate::news::Newsroom;
use crate::port::Port;
use crate::receive::{self, Context, Desk, Strangers};
use crate::reverse_path::ReversePaths;
use crate::send::Sender;
use crate::shared::Shared;
use crate::turn::Turn;
use crate::underlay::{Inlet, Receive, Underlay};
use crate::whole::Whole;
use sharing::Lines;

pub(crate) struct Worker {
    /// Its number; the lead's is 0.
    number: usize,
    /// How many workers there are.
    count: usize,
    ears: Ears,
    wake: Arc<Waker>,
    poller: Arc<Poller>,
    lull: Lull,
    underlay: Underlay,
    ports: Vec<Option<Port>>,
    /// Where each of them is.
    positions: HashMap<DeviceName, usize>,
    /// Where there is none.
    free: BTreeSet<usize>,
    /// What tunnels share that have no sockets of their own on the overlay's side, as long as there are any.
    shared: Option<Shared>,
    /// The same of those without a program.
    whole: Option<Whole>,
    /// How much is taken at once from each of what they share.
    turns: [Turn; SHARING],
    /// Where these are, by the peer ends of their pairs.
    sharing: HashMap<u32, usize>,
    /// Those of them that are for the lead alone ([`Port::is_for_one`]), as the lead knows.
    solos: BTreeSet<usize>,
    /// Those tunnels that hold packets.
    holders: Holders,
    /// What arrived and waits its turn.
    backlog: Backlog<Option<TunnelIndex>, Receipt>,
    /// Packets whose turn it is.
    turn: Vec<Waiting<Receipt>>,
    /// The same of what came out of tunnels that share their socket.
    lines: Lines,
    local_addresses: Arc<LocalAddresses>,
    reverse_paths: Arc<ReversePaths>,
    forwards: bool,
    table: TunnelTable,
    strangers: Strangers,
    buffers: Buffers,
    sender: Sender,
    icmp: Icmp,
    groups: Groups,
}

/// Whom a worker listens to.
pub(crate) enum Ears {
    /// To other threads, and it has helpers, if any.
    Lead { commands: Receiver<Command>, crew: Vec<Helper> },
    /// To the lead.
    Helper(Receiver<Order>),
}

/// Where a worker is put.
pub(crate) struct Post {
    /// Its number; the lead's is 0.
    pub(crate) number: usize,
    /// How many workers there are.
    pub(crate) count: usize,
    /// Readable while there is something to hear.
    pub(crate) wake: Arc<Waker>,
    pub(crate) poller: Arc<Poller>,
    pub(crate) busy_poll: BusyPoll,
}

/// Room for what is received, shared by all sockets: a batch is carried before the next is taken.
struct Buffers {
    /// With virtio-net header: packet sockets on either side.
    framed: ReceiveBatch,
    /// Without: the raw socket.
    bare: ReceiveBatch,
    storage: SendStorage,
}

/// What is needed to decide about packets from one inlet, and what they are received by and with.
struct Parts<'x> {
    desk: Desk<'x>,
    batch: &'x mut ReceiveBatch,
    underlay: &'x mut Underlay,
    storage: &'x mut SendStorage,
    backlog: &'x mut Backlog<Option<TunnelIndex>, Receipt>,
}

/// Packets a batch. Each may be a super-packet of 64 KiB; memory that none touches is not backed.
const BATCH: usize = 64;
/// The largest packet and its link header; the kernel's GRO makes no larger ones for IPv4.
const SLOT: usize = 65_536 + 64;

/// What a packet of whatever size takes of a socket's memory at the least: the kernel's own words for it are larger
/// (linux include/linux/skbuff.h v6.18, `SKB_TRUESIZE`).
const LEAST_TRUESIZE: usize = 512;
/// Packets in a socket that does not say how much waits in it.
const MOST_WAITING: usize = 1 << 18;

/// Batches that are taken out of a socket and put into line before packets have their turn.
const MOST_INTO_LINE: usize = 16;

const WAKE: u64 = 0;
/// The first of [`Inlet::ALL`].
const FIRST_INLET: u64 = 1;
const ICMP: u64 = 8;
const ICMP_V6: u64 = 9;
/// The first of [`Shared::sources`]; behind them is [`Whole`].
const SHARED: u64 = 10;
const WHOLE: u64 = SHARED + Shared::SOURCES;
const SHARING: usize = (WHOLE - SHARED + 1) as usize;
const FIRST_PORT: u64 = 16;
/// Each port has as many tokens, one for each of its sources.
const SOURCES: u64 = 4;

impl Worker {
    pub(crate) fn new(
        post: Post,
        ears: Ears,
        news: &Newsroom,
        answerer: &Arc<Mutex<Answerer>>,
    ) -> Result<Self, DatapathError> {
        let Post { number, count, wake, poller, busy_poll } = post;
        poller.add(wake.as_ref(), WAKE, Interest::Readable).map_err(DatapathError::Start)?;
        // Those who look at the same time leave nobody to be looked for.
        let processors = thread::available_parallelism().map_or(1, NonZero::get) / count;
        Ok(Self {
            number,
            count,
            ears,
            wake,
            poller,
            lull: Lull::new(busy_poll, processors),
            underlay: Underlay::open(number)?,
            ports: Vec::new(),
            positions: HashMap::new(),
            free: BTreeSet::new(),
            shared: None,
            whole: None,
            turns: [Turn::default(); SHARING],
            sharing: HashMap::new(),
            solos: BTreeSet::new(),
            holders: Holders::default(),
            backlog: Backlog::default(),
            turn: Vec::new(),
            lines: Lines::default(),
            local_addresses: Arc::default(),
            reverse_paths: Arc::default(),
            forwards: false,
            table: TunnelTable::default(),
            strangers: Strangers { answerer: Arc::clone(answerer), ..Strangers::default() },
            buffers: Buffers {
                framed: ReceiveBatch::new(BATCH, SLOT, frame::TAG).with_vnet_header(),
                // Room for the header that a raw IPv6 socket gives none of.
                bare: ReceiveBatch::new(BATCH, SLOT, greway_wire::ipv6::LEN),
                storage: SendStorage::new(BATCH),
            },
            sender: Sender::new(),
            icmp: Icmp::new(news.clone()),
            groups: Groups::default(),
        })
    }

    pub(crate) fn run(mut self) {
        // The kernel's own tunnels come before every program; behind a sender that is busy all the time packets would
        // wait for its time slice, which is milliseconds. Without the privilege they do. Not on all processors: what the
        // kernel does later (RCU callbacks, closing sockets) has no priority, and the daemon waits for it.
        if self.number < Workers::Auto.here()
            && let Err(error) = process::run_before_others()
        {
            tracing::debug!(%error, "the data plane has no priority");
        }
        let mut events = Events::with_capacity(256);
        loop {
            if let Err(error) = self.wait(&mut events) {
                tracing::error!(%error, "the data plane cannot wait for packets and ends");
                return;
            }
            let now_ms = clock::monotonic_millis();
            for event in events.iter() {
                match event.token {
                    WAKE => {
                        self.wake.drain();
                        if !self.obey() {
                            self.clear_backlog(now_ms);
                            self.clear_lines(now_ms);
                            self.let_go(now_ms, Reorder::give_up);
                            return self.end();
                        }
                    }
                    ICMP => self.heed(Family::Ipv4, now_ms),
                    ICMP_V6 => self.heed(Family::Ipv6, now_ms),
                    token if (SHARED..=WHOLE).contains(&token) => {
                        self.send_shared((token - SHARED) as usize, now_ms);
                    }
                    token if token < FIRST_PORT => {
                        let inlet = usize::try_from(token - FIRST_INLET).ok();
                        if let Some(inlet) = inlet.and_then(|index| Inlet::ALL.get(index)) {
                            self.receive(*inlet, now_ms);
                        }
                    }
                    token => {
                        let (port, source) = ((token - FIRST_PORT) / SOURCES, (token - FIRST_PORT) % SOURCES);
                        self.send(port, source as usize, now_ms);
                    }
                }
            }
            self.go_on(now_ms);
            self.let_go(now_ms, |reorder, counters| reorder.expire(now_ms, counters));
        }
    }

    /// Closes all sockets, and waits until that is done.
    fn end(self) {
        // The helpers close theirs meanwhile.
        drop(self.ears);
        let closing = close(self.ports.into_iter().flatten().map(|port| port.inside).collect());
        for thread in closing {
            let _ = thread.join();
        }
    }

    /// Waits until there is something to do.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        if !self.backlog.is_empty() || !self.lines.is_empty() {
            self.lull.end();
            return self.poller.wait(events, Some(Duration::ZERO)).map(drop);
        }
        loop {
            // Without an end while nothing is held: an idle worker sleeps.
            let timeout = self.holders.timeout(&self.ports);
            match self.lull.go_on(clock::monotonic_nanos) {
                Next::Look => {
                    if self.poller.wait(events, Some(Duration::ZERO))? > 0 {
                        self.lull.end();
                        return Ok(());
                    }
                    if timeout.is_some_and(|timeout| timeout.is_zero()) {
                        return Ok(());
                    }
                    thread::yield_now();
                }
                Next::Sleep => {
                    let before = clock::monotonic_nanos();
                    self.poller.wait(events, timeout)?;
                    self.lull.slept(clock::monotonic_nanos() - before);
                    self.lull.end();
                    return Ok(());
                }
            }
        }
    }

    /// Carries some of what waits: no more than a batch, so that other sockets have their turn too.
    fn go_on(&mut self, now_ms: u64) {
        let mut carried = 0;
        while carried < BATCH && !self.backlog.is_empty() {
            carried += self.carry_turn(now_ms);
        }
        self.go_on_with_lines(now_ms);
    }

    /// Carries what one tunnel may send in its turn; how many packets these were.
    fn carry_turn(&mut self, now_ms: u64) -> usize {
        let mut turn = std::mem::take(&mut self.turn);
        self.backlog.take(&mut turn);
        let carried = turn.len();
        // Which socket they came by was of interest when they came.
        let mut parts = self.parts(Inlet::ALL[0], now_ms);
        receive::carry_on(&mut turn, &mut parts.desk, parts.storage);
        self.backlog.done(&mut turn);
        self.turn = turn;
        carried
    }

    /// Carries all that waits: what comes next comes behind it.
    fn clear_backlog(&mut self, now_ms: u64) {
        while !self.backlog.is_empty() {
            self.carry_turn(now_ms);
        }
    }

    /// Lets packets go that were held until others come.
    fn let_go(&mut self, now_ms: u64, choose: impl Fn(&mut Reorder, &SequenceCounters)) {
        if self.holders.is_empty() {
            return;
        }
        let storage = &mut self.buffers.storage;
        receive::let_go(
            &mut self.holders,
            &mut self.ports,
            self.forwards,
            now_ms,
            storage,
            &self.local_addresses,
            choose,
        );
    }

    /// Carries one batch of a receiving socket; false when there was nothing. Where more stands in line than is carried
    /// soon, all of it is taken out and put into lines of its own.
    fn receive(&mut self, inlet: Inlet, now_ms: u64) -> bool {
        // A tunnel that is alone makes nobody wait.
        let is_late = !self.backlog.is_empty() || self.positions.len() > 1 && self.underlay.is_behind(inlet);
        if !is_late {
            return self.receive_batch(inlet, now_ms, false) > 0;
        }
        for _ in 0..MOST_INTO_LINE {
            self.receive_batch(inlet, now_ms, true);
            if !self.underlay.has_more(inlet) {
                break;
            }
        }
        true
    }

    /// Takes a batch from a receiving socket and carries it, or puts it into line. How many packets it had; an error is
    /// as good as a packet.
    fn receive_batch(&mut self, inlet: Inlet, now_ms: u64, into_line: bool) -> usize {
        let Parts { mut desk, batch, underlay, storage, backlog } = self.parts(inlet, now_ms);
        // An error waited on the socket (a device went down, say): the next call brings packets.
        let taken = match underlay.receive(inlet, batch) {
            Ok(0) => return 0,
            Ok(taken) => taken,
            Err(error) => {
                tracing::debug!(%error, socket = inlet.word(), "on the underlay");
                if lost_a_packet(&error) {
                    desk.strangers.underlay.record_drop(DropReason::UndescribableOffload);
                }
                return 1;
            }
        };
        if into_line {
            receive::line_up(batch, &mut desk, backlog);
        } else {
            receive::carry(batch, &mut desk, storage);
        }
        taken
    }

    fn parts(&mut self, inlet: Inlet, now_ms: u64) -> Parts<'_> {
        let Buffers { framed, bare, storage } = &mut self.buffers;
        let batch = match inlet.way {
            Receive::Packet => framed,
            Receive::Raw => bare,
        };
        let context = Context {
            inlet,
            local_addresses: &self.local_addresses,
            reverse_paths: &self.reverse_paths,
            table: &self.table,
            forwards: self.forwards,
            both: self.underlay.is_open(inlet.other_way()),
            now_ms,
        };
        let (strangers, ports, holders) = (&mut self.strangers, &mut self.ports[..], &mut self.holders);
        let desk = Desk { strangers, ports, holders, context };
        Parts { desk, batch, underlay: &mut self.underlay, storage, backlog: &mut self.backlog }
    }

    fn heed(&mut self, family: Family, now_ms: u64) {
        let Buffers { bare, storage, .. } = &mut self.buffers;
        self.icmp.receive(family, bare, &mut self.ports, storage, now_ms);
        for (remote, indices) in self.icmp.take_doubts() {
            let indices = indices.into();
            self.tell_all(|| Order::AskAgain { indices: Arc::clone(&indices), remote });
        }
    }

    /// Carries one batch of what comes out of a tunnel device. How many packets it had; an error is as good as one.
    fn send(&mut self, index: u64, source: usize, now_ms: u64) -> usize {
        let slot = usize::try_from(index).ok().and_then(|index| self.ports.get_mut(index));
        let Some(Some(port)) = slot else { return 0 };
        let framed = &mut self.buffers.framed;
        let carried = self.sender.carry(port, source, &mut self.underlay, framed, self.forwards, now_ms);
        match carried {
            Ok(taken) => taken,
            Err(error) => {
                tracing::debug!(tunnel = %port.name, %error, "on the tunnel device");
                if lost_a_packet(&error) {
                    port.tunnel.counters().record_drop(DropReason::UnsplittableOffload);
                }
                1
            }
        }
    }

    /// Carries all that has come out of a tunnel device so far.
    fn send_all(&mut self, index: usize, now_ms: u64) {
        let Some(port) = &self.ports[index] else { return };
        let (own, shares) = (port.inside.sources().count(), port.inside.shares().is_some());
        for source in 0..own {
            self.empty_source(index, source, now_ms);
        }
        for source in Self::shared_sources().filter(|_| shares) {
            self.empty_shared_source(source, now_ms);
        }
    }

    /// Carries all that waits in one of a tunnel's sources; what comes meanwhile has its turn.
    fn empty_source(&mut self, index: usize, source: usize, now_ms: u64) {
        let Some(Some(port)) = self.ports.get(index) else { return };
        let waiting = port.inside.sources().nth(source).map_or(0, most_waiting);
        take(waiting, || self.send(index as u64, source, now_ms));
    }

    /// Carries all that waits in a receiving socket; what comes meanwhile has its turn.
    fn empty(&mut self, inlet: Inlet, now_ms: u64) {
        self.clear_backlog(now_ms);
        let waiting = self.underlay.socket(inlet).map_or(0, most_waiting);
        take(waiting, || self.receive_batch(inlet, now_ms, false));
    }

    /// Counts what was lost because a socket was full. Nobody is told of it when it happens.
    fn count_spilled(&mut self) {
        self.ports.iter_mut().flatten().for_each(Port::count_spilled);
        // Whose these were is not known.
        let shared = self.shared.as_ref().map_or(0, Shared::spilled);
        let whole = self.whole.as_ref().map_or(0, Whole::spilled);
        self.strangers.underlay.record_drops(DropReason::QueueFull, shared + whole);
        Inlet::ALL.into_iter().for_each(|inlet| self.count_spilled_by(inlet));
    }

    fn count_spilled_by(&mut self, inlet: Inlet) {
        let packets = self.underlay.spilled(inlet);
        self.strangers.underlay.record_drops(DropReason::UnderlaySocketOverflow, packets);
    }

    fn position(&self, name: &DeviceName) -> Result<usize, DatapathError> {
        self.positions.get(name).copied().ok_or_else(|| DatapathError::Unknown(name.clone()))
    }
}

/// Packets that wait in a socket by now, at most.
fn most_waiting(socket: BorrowedFd<'_>) -> usize {
    let waiting = |memory: sockopt::Memory| memory.waiting as usize / LEAST_TRUESIZE + BATCH;
    sockopt::memory(socket).map_or(MOST_WAITING, waiting)
}

/// Takes batches until so many packets have been taken, or there are no more. A busy socket is never empty: only its
/// first packets are those that waited.
fn take(packets: usize, mut batch: impl FnMut() -> usize) {
    let mut left = packets;
    while left > 0 {
        match batch() {
            0 => return,
            taken => left = left.saturating_sub(taken),
        }
    }
}

/// There are never more ports than fit 32 bits: names have 15 bytes, memory ends sooner.
fn number(index: usize) -> TunnelIndex {
    TunnelIndex(index as u32)
}

/// Whether an error of a receiving socket stands for a packet: a packet socket gives up one that its
/// virtio-net header cannot describe (linux net/packet/af_packet.c `packet_rcv_vnet`, v6.18).
fn lost_a_packet(error: &io::Error) -> bool {
    error.raw_os_error() == Some(errno::EINVAL)
}
