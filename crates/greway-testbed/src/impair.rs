//! A bad path: a host between two cables that passes every frame on, and loses, repeats, delays and damages some of the
//! GRE packets among them, in a way that is chosen by a seed and counted.
//!
//! ```text
//!   left   wan0 ───────── west   middle   east ───────── wan0   right
//!                              Impairment
//! ```
//!
//! Small kernels have no netem, and netem tells nobody which packets it has damaged. This does: what leaves it can be
//! recorded, so that a test knows byte for byte what must come out at the far end.
//!
//! It sees packets as they would be on a wire, so the cables have their transmit offload off, whatever else is asked:
//! a packet socket has no word for a merged GRE packet.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use greway_linux::batch::{Control, PacketKind, ReceiveBatch, SendStorage, Source, Target};
use greway_linux::event::{Events, Interest, Poller, Waker};
use greway_linux::packet::{Config, PacketSocket, Protocol};
use greway_wire::extension::{self, Chain};
use greway_wire::gre::GreHeader;
use greway_wire::{ethertype, ipv4, ipv6};

use crate::{Error, Host, LinkOptions, build, link};

/// The devices of the host in the middle.
pub const DEVICES: [&str; 2] = ["west", "east"];
/// Frames taken with one system call.
const BATCH: usize = 32;
const LONGEST: usize = 65_536 + 64;
const BUFFER: usize = 32 << 20;
const LINK: usize = 14;
const WAKER: u64 = 2;
/// A packet that is delayed waits for so many others at most, or for silence.
const LATEST: u64 = 8;
/// How long silence is.
const SILENCE: Duration = Duration::from_millis(2);

/// Which part of a packet is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The GRE header.
    Gre,
    /// The first headers behind it: Ethernet where it is one, IP, and eight bytes of what it carries.
    Inner,
    /// What is behind these.
    Payload,
}

/// What is done to GRE packets, each in so many of a thousand, and how chance falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Impairment {
    /// Chance: the same seed and the same packets in the same order give the same damage.
    pub seed: u64,
    /// Are lost.
    pub drop: u16,
    /// Come twice, one right after the other.
    pub duplicate: u16,
    /// Come behind up to eight later ones.
    pub delay: u16,
    /// Have one bit flipped.
    pub flip: u16,
    /// Where.
    pub part: Part,
}

impl Impairment {
    /// Nothing is done.
    pub const NONE: Self = Self { seed: 1, drop: 0, duplicate: 0, delay: 0, flip: 0, part: Part::Payload };
}

/// What was done in one direction, in GRE packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Came in.
    pub seen: u64,
    /// Went out, whether the kernel took them or not.
    pub passed: u64,
    /// Were lost on purpose.
    pub dropped: u64,
    /// Were repeated.
    pub duplicated: u64,
    /// Were put behind later ones.
    pub delayed: u64,
    /// Have a bit flipped; those that were dropped then or repeated count once.
    pub flipped: u64,
    /// Are waiting for later ones.
    pub waiting: u64,
    /// Of those that went out: lost because a queue of the kernel's was full.
    pub refused: u64,
    /// Lost before they were seen, since the forwarder was too slow.
    pub overlooked: u64,
}

/// The host in the middle. It forwards until it is dropped.
#[derive(Debug)]
pub struct Middle {
    shared: Arc<Mutex<State>>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
    // Behind the thread: its sockets are in there.
    _host: Host,
}

#[derive(Debug)]
struct State {
    impairment: Impairment,
    chance: [Chance; 2],
    counts: [Counts; 2],
    delayed: [Vec<Delayed>; 2],
    /// What left, where it is kept.
    record: Option<[Vec<Vec<u8>>; 2]>,
    failed: Option<String>,
}

#[derive(Debug)]
struct Delayed {
    frame: Vec<u8>,
    /// Goes out behind the packet with this number.
    behind: u64,
}

impl Middle {
    /// Lays a cable from `left` to a new host and one from there to `right`, and passes on everything, damaging nothing
    /// yet.
    ///
    /// # Errors
    /// As [`link`], and [`Error::System`] when a packet socket is refused.
    pub fn lay(left: (&Host, &str), right: (&Host, &str), options: &LinkOptions) -> Result<Self, Error> {
        let host = Host::new("middle")?;
        let options = LinkOptions { tx_offload: false, ..options.clone() };
        for scope in ["all", "default"] {
            host.sysctl(&format!("ipv6/conf/{scope}/disable_ipv6"), "1")?;
        }
        // What the far ends may do is not for the ends in the middle: they merge nothing.
        let unmerged = LinkOptions { gro: false, ..options };
        for ((end, dev), own) in [left, right].into_iter().zip(DEVICES) {
            link(end, dev, &host, own, &options)?;
            crate::offloads(&host, own, &unmerged)?;
        }
        let shared = Arc::new(Mutex::new(State {
            impairment: Impairment::NONE,
            chance: [Chance::new(1, 0), Chance::new(1, 1)],
            counts: [Counts::default(); 2],
            delayed: [Vec::new(), Vec::new()],
            record: None,
            failed: None,
        }));
        let system = |action: &'static str| Error::system("middle", action);
        let waker = Waker::new().map_err(system("make a waker"))?;
        let stop = waker.try_clone().map_err(system("make a waker"))?;
        let poller = Poller::new().map_err(system("make a poller"))?;
        poller.add(&stop, WAKER, Interest::Readable).map_err(system("watch the waker"))?;
        let open = |own: &str| {
            let config = Config {
                protocol: Protocol::All,
                ifindex: Some(host.index(own)?),
                ignore_outgoing: true,
                receive_buffer: Some(BUFFER),
                send_buffer: Some(BUFFER),
                ..Config::default()
            };
            let opened = host.run(|| PacketSocket::open(&config))?;
            opened.map_err(|error| Error::system(own, "open a packet socket")(std::io::Error::other(error)))
        };
        let sockets = [open(DEVICES[0])?, open(DEVICES[1])?];
        for (token, socket) in (0..).zip(&sockets) {
            poller.add(socket, token, Interest::Readable).map_err(system("watch a socket"))?;
        }
        let forwarder = Forwarder { sockets, poller, stop, shared: Arc::clone(&shared) };
        let thread = thread::Builder::new().name("middle".to_owned()).spawn(move || forwarder.run());
        let thread = thread.map_err(system("start a thread"))?;
        Ok(Self { shared, waker, thread: Some(thread), _host: host })
    }

    /// Does this to GRE packets from now on, in both directions; counts and record begin anew.
    pub fn impair(&self, impairment: Impairment) {
        let mut state = self.lock();
        state.impairment = impairment;
        state.chance = [0, 1].map(|way| Chance::new(impairment.seed, way));
        let waiting = [0, 1].map(|way: usize| state.delayed[way].len() as u64);
        state.counts = waiting.map(|waiting| Counts { waiting, ..Counts::default() });
        if let Some(record) = &mut state.record {
            *record = Default::default();
        }
    }

    /// What was done to the packets from left to right, and to those from right to left.
    ///
    /// # Panics
    /// When the forwarder has failed: nothing that a test finds out then means anything.
    pub fn counts(&self) -> [Counts; 2] {
        let state = self.lock();
        assert!(state.failed.is_none(), "the forwarder has failed: {:?}", state.failed);
        state.counts
    }

    /// Keeps all GRE packets that leave from now on, as frames.
    pub fn record(&self) {
        self.lock().record = Some(Default::default());
    }

    /// What was kept, from left to right and from right to left, in the order in which it left, and keeps no more.
    pub fn recorded(&self) -> [Vec<Vec<u8>>; 2] {
        self.lock().record.take().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Middle {
    fn drop(&mut self) {
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread that passes frames on.
struct Forwarder {
    /// West and east.
    sockets: [PacketSocket; 2],
    poller: Poller,
    stop: Waker,
    shared: Arc<Mutex<State>>,
}

impl Forwarder {
    fn run(self) {
        let mut events = Events::with_capacity(3);
        let mut batch = ReceiveBatch::new(BATCH, LONGEST, 0);
        let mut storage = SendStorage::new(1);
        loop {
            let waits = self.lock().delayed.iter().any(|delayed| !delayed.is_empty());
            if let Err(error) = self.poller.wait(&mut events, waits.then_some(SILENCE)) {
                self.lock().failed = Some(error.to_string());
                return;
            }
            if self.stop.drain() {
                return;
            }
            let mut silent = true;
            for way in 0..2 {
                silent &= !self.forward(way, &mut batch, &mut storage);
            }
            if silent {
                (0..2).for_each(|way| self.let_go(&mut self.lock(), way, u64::MAX, &mut storage));
            }
        }
    }

    /// Passes on a batch that came in at `way`; false when there was none.
    fn forward(&self, way: usize, batch: &mut ReceiveBatch, storage: &mut SendStorage) -> bool {
        // "Device is down" waits on the socket once.
        let Ok(count) = batch.recv(&self.sockets[way]) else { return true };
        let mut state = self.lock();
        match self.sockets[way].statistics() {
            Ok(statistics) => state.counts[way].overlooked += u64::from(statistics.drops),
            Err(error) => state.failed = Some(error.to_string()),
        }
        for index in 0..count {
            let kind = match batch.meta(index).source {
                Source::Link(link) => link.kind,
                _ => PacketKind::Outgoing,
            };
            if kind == PacketKind::Outgoing {
                continue;
            }
            let frame = batch.data_mut(index);
            match Sections::of(frame) {
                Some(sections) => self.pass(&mut state, way, frame, &sections, storage),
                None => drop(self.send(way, frame, storage)),
            }
        }
        count > 0
    }

    fn pass(
        &self,
        state: &mut State,
        way: usize,
        frame: &mut [u8],
        sections: &Sections,
        storage: &mut SendStorage,
    ) {
        let Impairment { drop, duplicate, delay, flip, part, .. } = state.impairment;
        state.counts[way].seen += 1;
        let number = state.counts[way].seen;
        // All dice are cast for every packet, so that one setting does not change the luck of another.
        let chance = &mut state.chance[way];
        let [drop, duplicate, delay, flip] =
            [drop, duplicate, delay, flip].map(|share| chance.happens(share));
        let (bit, later) = (chance.next(), 1 + chance.next() % LATEST);
        if drop {
            state.counts[way].dropped += 1;
        } else {
            if flip && sections.flip(frame, part, bit) {
                state.counts[way].flipped += 1;
            }
            if delay {
                state.counts[way].delayed += 1;
                state.counts[way].waiting += 1;
                state.delayed[way].push(Delayed { frame: frame.to_vec(), behind: number + later });
            } else {
                self.leave(state, way, frame, storage);
            }
            if duplicate {
                state.counts[way].duplicated += 1;
                self.leave(state, way, frame, storage);
            }
        }
        self.let_go(state, way, number, storage);
    }

    /// Lets those go that were to come behind packet `number` or before.
    fn let_go(&self, state: &mut State, way: usize, number: u64, storage: &mut SendStorage) {
        let (due, left) =
            std::mem::take(&mut state.delayed[way]).into_iter().partition(|delayed| delayed.behind <= number);
        state.delayed[way] = left;
        let due: Vec<Delayed> = due;
        for Delayed { frame, .. } in due {
            state.counts[way].waiting -= 1;
            self.leave(state, way, &frame, storage);
        }
    }

    fn leave(&self, state: &mut State, way: usize, frame: &[u8], storage: &mut SendStorage) {
        state.counts[way].passed += 1;
        if !self.send(way, frame, storage) {
            state.counts[way].refused += 1;
        } else if let Some(record) = &mut state.record {
            record[way].push(frame.to_vec());
        }
    }

    /// Sends a frame out on the other side; false when the kernel did not take it.
    fn send(&self, way: usize, frame: &[u8], storage: &mut SendStorage) -> bool {
        let mut out = storage.start();
        let pushed = out.push(&[frame], Target::Connected, Control::NONE);
        debug_assert!(pushed.is_ok(), "the batch was empty");
        let outcome = out.send(&self.sockets[1 - way], |_, _| {});
        outcome.sent == 1
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the parts of a GRE packet are in its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sections {
    gre: usize,
    inner: usize,
    payload: usize,
    end: usize,
}

impl Sections {
    /// `None` for what carries no GRE.
    fn of(frame: &[u8]) -> Option<Self> {
        let network = frame.get(LINK..)?;
        let (at, end) = match u16::from_be_bytes([frame[12], frame[13]]) {
            ethertype::IPV4 => {
                let header = ipv4::Ipv4Header::parse(network).ok()?;
                if header.protocol != build::GRE || header.fragment_offset != 0 {
                    return None;
                }
                (header.header_len(), usize::from(header.total_length))
            }
            ethertype::IPV6 => match extension::follow(network) {
                Chain::To { protocol: build::GRE, at, .. } => {
                    let header = ipv6::Ipv6Header::parse(network).ok()?;
                    (at, ipv6::LEN + usize::from(header.payload_length))
                }
                _ => return None,
            },
            _ => return None,
        };
        let end = end.min(network.len());
        let (header, length) = GreHeader::parse_over_ipv6(network.get(at..end)?).ok()?;
        let inner = at + length;
        let (link, kind) = match header.protocol_type {
            ethertype::TEB => (LINK, network.get(inner + 12..inner + 14).map(|kind| [kind[0], kind[1]])),
            kind => (0, Some(kind.to_be_bytes())),
        };
        /// Of the transport header: ports, length, checksum.
        const FIRST: usize = 8;
        let headers = link
            + match kind.map(u16::from_be_bytes) {
                Some(ethertype::IPV4) => ipv4::MIN_LEN + FIRST,
                Some(ethertype::IPV6) => ipv6::LEN + FIRST,
                _ => FIRST,
            };
        let payload = (inner + headers).min(end);
        Some(Self { gre: LINK + at, inner: LINK + inner, payload: LINK + payload, end: LINK + end })
    }

    /// Flips a bit of this part; false when the packet has none.
    fn flip(&self, frame: &mut [u8], part: Part, chance: u64) -> bool {
        let range = match part {
            Part::Gre => self.gre..self.inner,
            Part::Inner => self.inner..self.payload,
            Part::Payload => self.payload..self.end,
        };
        if range.is_empty() {
            return false;
        }
        let bit = chance % (8 * range.len() as u64);
        frame[range.start + (bit / 8) as usize] ^= 1 << (bit % 8);
        true
    }
}

/// Chance of one direction (splitmix64).
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn new(seed: u64, way: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(way))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn happens(&mut self, in_a_thousand: u16) -> bool {
        self.next() % 1000 < u64::from(in_a_thousand)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use greway_linux::MacAddr;
    use std::net::Ipv4Addr;

    const ENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];

    fn frame(protocol_type: u16, inner: &[u8]) -> Vec<u8> {
        let header = GreHeader { protocol_type, key: Some(7), ..GreHeader::default() };
        let datagram =
            build::ipv4(build::ipv4_header(ENDS[0], ENDS[1], build::GRE), &build::gre(header, inner));
        let mac = MacAddr::new([2, 0, 0, 0, 0, 1]);
        // Padded, as a short frame on a wire.
        [build::ethernet(mac, mac, 0x0800, &datagram), vec![0; 4]].concat()
    }

    #[test]
    fn each_part_is_where_it_is() {
        let packet = build::ipv4(build::ipv4_header(ENDS[0], ENDS[1], build::UDP), &[9; 30]);
        let expected = Sections { gre: 34, inner: 42, payload: 70, end: 92 };
        assert_eq!(Sections::of(&frame(0x0800, &packet)), Some(expected));
        let mac = MacAddr::new([2, 0, 0, 0, 0, 1]);
        let ethernet = build::ethernet(mac, mac, 0x0800, &packet);
        let expected = Sections { gre: 34, inner: 42, payload: 84, end: 106 };
        assert_eq!(Sections::of(&frame(0x6558, &ethernet)), Some(expected));
        assert_eq!(Sections::of(&frame(0x0800, &[])).map(|sections| sections.payload), Some(42));
        assert_eq!(Sections::of(&build::ethernet(mac, mac, 0x0800, &packet)), None);
        assert_eq!(Sections::of(&[0; 10]), None);
    }

    #[test]
    fn one_bit_of_the_part_is_flipped() {
        let packet = build::ipv4(build::ipv4_header(ENDS[0], ENDS[1], build::UDP), &[9; 30]);
        let whole = frame(0x0800, &packet);
        let sections = Sections::of(&whole).unwrap();
        let mut chance = Chance::new(3, 0);
        for (part, range) in [(Part::Gre, 34..42), (Part::Inner, 42..70), (Part::Payload, 70..92)] {
            for _ in 0..200 {
                let mut damaged = whole.clone();
                assert!(sections.flip(&mut damaged, part, chance.next()));
                let bits = |at: &usize| (whole[*at] ^ damaged[*at]).count_ones();
                assert_eq!(range.clone().map(|at| bits(&at)).sum::<u32>(), 1, "{part:?}");
                assert_eq!((0..whole.len()).map(|at| bits(&at)).sum::<u32>(), 1, "{part:?}");
            }
        }
        let empty = frame(0x0800, &[]);
        assert!(!Sections::of(&empty).unwrap().flip(&mut empty.clone(), Part::Payload, 5));
    }

    #[test]
    fn chance_is_as_often_as_asked_for_and_the_same_again() {
        let [mut one, mut other] = [Chance::new(5, 0), Chance::new(5, 0)];
        let happened = (0..100_000).filter(|_| one.happens(20)).count();
        assert!((1_800..2_200).contains(&happened), "{happened}");
        assert_eq!((0..100_000).filter(|_| other.happens(20)).count(), happened);
        assert!(!one.happens(0));
    }
}
