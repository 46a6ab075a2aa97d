//! Witness packets in the daemon's hands: a thread that looks after the tunnels which the programs may carry only while
//! the host's rules let witnesses pass. What follows from what it sees `greway_fastpath::witness` decides.
//!
//! It has maps, sockets and an end of the data plane of its own and never waits for the host's lock, so that a rule that
//! appears is felt while the daemon is busy. Without it, and without the daemon, the last verdict holds.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use greway_datapath::{Datapath, Passages, Receive, Recogniser, Through, Traffic};
use greway_fastpath::witness::{
    Direction, Facts, Maps, Outcome, Standing, Testimony, Verdict, Watch, Wishes,
};
use greway_fastpath::{Fastpath, FastpathError};
use greway_linux::batch::{Control, SendStorage, Target};
use greway_linux::raw::{MtuDiscovery, RawSocket};
use greway_linux::{clock, errno};
use greway_spec::{FlowLabel, Ttl, TunnelSpec};

use super::host::with_causes;

/// A tunnel that is witnessed.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) spec: TunnelSpec,
    /// Index of the peer end of its pair.
    pub(super) peer: u32,
    /// MAC address of its device.
    pub(super) device_mac: [u8; 6],
    /// Outer source address.
    pub(super) source: Option<IpAddr>,
    /// Index of its `dev`.
    pub(super) bound_to: Option<u32>,
    /// How userspace receives it.
    pub(super) receive: Receive,
    /// What userspace carries of it.
    pub(super) traffic: Traffic,
}

impl PartialEq for Subject {
    fn eq(&self, other: &Self) -> bool {
        let plain = |one: &Self| (one.peer, one.device_mac, one.source, one.bound_to, one.receive);
        plain(self) == plain(other) && self.spec == other.spec && self.traffic.is(&other.traffic)
    }
}

/// How things stand: inbound and outbound, by peer end.
type Standings = Arc<Mutex<BTreeMap<u32, [Standing; 2]>>>;

/// The thread, while there is something for it to do.
#[derive(Debug, Default)]
pub(super) struct Witnesses {
    running: Option<Running>,
    standings: Standings,
    told: Vec<Subject>,
}

#[derive(Debug)]
struct Running {
    tell: Sender<Word>,
    thread: JoinHandle<()>,
}

/// What the thread is told.
enum Word {
    Subjects(Vec<Subject>),
    /// Rules have changed.
    Hurry,
    /// A witness arrived, by this socket.
    Heard(Testimony, Receive),
    End,
}

impl Witnesses {
    /// Looks after these tunnels and no others.
    pub(super) fn follow(&mut self, subjects: Vec<Subject>, programs: &Fastpath, datapath: &Datapath) {
        if subjects.is_empty() && self.running.is_none() {
            // An earlier daemon's verdicts are about nothing any more.
            if self.told.is_empty()
                && let Ok(mut maps) = programs.witness_maps()
            {
                for peer in maps.watched().unwrap_or_default() {
                    let _ = maps.forget(peer);
                }
            }
            return;
        }
        if subjects.is_empty() {
            return self.end(datapath);
        }
        if subjects == self.told {
            return;
        }
        if self.running.as_ref().is_none_or(|running| running.thread.is_finished()) {
            match self.start(programs, datapath) {
                Ok(running) => self.running = Some(running),
                Err(why) => {
                    // Nothing is shown then, and so nothing carried past rules.
                    tracing::warn!(why, "fast path: no witnesses can be had, userspace carries");
                    return;
                }
            }
        }
        self.told.clone_from(&subjects);
        self.say(Word::Subjects(subjects));
    }

    /// Rules may have changed: witnesses are wanted now.
    pub(super) fn hurry(&self) {
        self.say(Word::Hurry);
    }

    /// How a tunnel stands, inbound and outbound; `None` where nothing looks after it yet.
    pub(super) fn standing(&self, peer: u32) -> Option<[Standing; 2]> {
        held(&self.standings).get(&peer).cloned()
    }

    /// Stops looking after any.
    pub(super) fn end(&mut self, datapath: &Datapath) {
        datapath.recognise(None);
        self.told.clear();
        if let Some(running) = self.running.take() {
            let _ = running.tell.send(Word::Subjects(Vec::new()));
            let _ = running.tell.send(Word::End);
            let _ = running.thread.join();
        }
        held(&self.standings).clear();
    }

    fn say(&self, word: Word) {
        if let Some(running) = &self.running {
            let _ = running.tell.send(word);
        }
    }

    fn start(&self, programs: &Fastpath, datapath: &Datapath) -> Result<Running, String> {
        let maps = programs.witness_maps().map_err(|error| with_causes(&error))?;
        let (tell, words) = mpsc::channel();
        let secret = secret(&maps).map_err(|error| error.to_string())?;
        let attendant = Attendant {
            maps: Arc::new(Mutex::new(maps)),
            secret,
            passages: datapath.passages(),
            words,
            watched: BTreeMap::new(),
            standings: Arc::clone(&self.standings),
            sockets: Sockets::default(),
            ended: false,
        };
        let thread = thread::Builder::new().name("witness".into()).spawn(move || attendant.run());
        let thread = thread.map_err(|error| error.to_string())?;
        datapath.recognise(Some(recogniser(secret, tell.clone())));
        Ok(Running { tell, thread })
    }
}

/// What shows a witness to the data plane.
fn recogniser(secret: [u8; 16], tell: Sender<Word>) -> Recogniser {
    Arc::new(move |gre, way| match Testimony::parse(gre, &secret) {
        Some(testimony) => {
            let _ = tell.send(Word::Heard(testimony, way));
            true
        }
        None => false,
    })
}

/// The secret that an earlier daemon chose, so that its witnesses are known, or another one.
fn secret(maps: &Maps) -> io::Result<[u8; 16]> {
    for peer in maps.peers().unwrap_or_default() {
        if let Ok(Some(Verdict { secret, .. })) = maps.verdict(peer)
            && secret != [0; 16]
        {
            return Ok(secret);
        }
    }
    let mut secret = [0; 16];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut secret)?;
    Ok(secret)
}

pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread's own.
struct Attendant {
    maps: Arc<Mutex<Maps>>,
    secret: [u8; 16],
    passages: Passages,
    words: Receiver<Word>,
    watched: BTreeMap<u32, Watched>,
    standings: Standings,
    sockets: Sockets,
    ended: bool,
}

struct Watched {
    subject: Subject,
    watch: Watch,
    /// A failure was told of.
    failed: bool,
}

/// How often a moment is looked for at which a tunnel can be opened, at a time.
const ATTEMPTS: usize = 16;
/// Nothing to look at.
const IDLE: Duration = Duration::from_secs(60);

impl Attendant {
    fn run(mut self) {
        while !self.ended {
            let now_ms = clock::monotonic_millis();
            let next = self.watched.values().map(|watched| watched.watch.next_ms()).min();
            let timeout = next.map_or(IDLE, |next| Duration::from_millis(next.saturating_sub(now_ms)));
            match self.words.recv_timeout(timeout) {
                Ok(word) => {
                    self.heed(word);
                    self.heed_all();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now_ms = clock::monotonic_millis();
            let due = self.watched.iter().filter(|(_, watched)| watched.watch.next_ms() <= now_ms);
            for peer in due.map(|(peer, _)| *peer).collect::<Vec<_>>() {
                let looked = self.look(peer, now_ms);
                if let Some(watched) = self.watched.get_mut(&peer) {
                    match looked {
                        Ok(()) => watched.failed = false,
                        Err(error) if !watched.failed => {
                            watched.failed = true;
                            let tunnel = &watched.subject.spec.name;
                            tracing::warn!(%tunnel, error = %with_causes(&error), "fast path: witnesses");
                        }
                        Err(_) => {}
                    }
                }
            }
        }
    }

    fn heed_all(&mut self) {
        while let Ok(word) = self.words.try_recv() {
            self.heed(word);
        }
    }

    fn heed(&mut self, word: Word) {
        let now_ms = clock::monotonic_millis();
        match word {
            Word::Subjects(subjects) => self.watch_over(subjects, now_ms),
            Word::Hurry => self.watched.values_mut().for_each(|watched| watched.watch.hurry(now_ms)),
            Word::Heard(testimony, way) => {
                // The packet socket has it from before the rules, also where they drop it.
                if let Some(watched) = self.watched.get_mut(&testimony.peer)
                    && watched.subject.receive == way
                {
                    watched.watch.heard(testimony.number);
                }
            }
            Word::End => self.ended = true,
        }
    }

    fn watch_over(&mut self, subjects: Vec<Subject>, now_ms: u64) {
        let mut maps = held(&self.maps);
        let there = subjects.iter().map(|subject| subject.peer).collect::<HashSet<_>>();
        let gone = |peer: &u32| !there.contains(peer);
        for peer in maps.watched().unwrap_or_default().iter().filter(|peer| gone(peer)) {
            if let Err(error) = maps.forget(*peer) {
                tracing::warn!(error = %with_causes(&error), "fast path: a verdict stays");
            }
        }
        self.watched.retain(|peer, _| !gone(peer));
        held(&self.standings).retain(|peer, _| !gone(peer));
        for subject in subjects {
            match self.watched.get_mut(&subject.peer) {
                Some(watched) => {
                    watched.subject = subject;
                    watched.watch.hurry(now_ms);
                }
                None => {
                    let before = maps.verdict(subject.peer).ok().flatten();
                    let gate = maps.gate(subject.peer).ok().flatten().unwrap_or_default();
                    let watch = match before.filter(|before| before.secret == self.secret) {
                        Some(before) => Watch::adopt(before, &gate, now_ms),
                        None => Watch::new(self.secret, now_ms),
                    };
                    if let Err(error) = maps.set_verdict(subject.peer, watch.verdict()) {
                        tracing::warn!(error = %with_causes(&error), "fast path: no verdict can be written");
                        continue;
                    }
                    self.watched.insert(subject.peer, Watched { subject, watch, failed: false });
                }
            }
        }
    }

    fn look(&mut self, peer: u32, now_ms: u64) -> Result<(), FastpathError> {
        let (gate, carried) = {
            let maps = held(&self.maps);
            (maps.gate(peer)?.unwrap_or_default(), maps.carried(peer)?)
        };
        let Some(watched) = self.watched.get_mut(&peer) else { return Ok(()) };
        let arrived = watched.subject.traffic.snapshot().rx_packets;
        let mut facts = Facts { gate, carried, arrived, drained: false };
        let mut wishes = watched.watch.look(&facts, now_ms);
        if wishes.drain {
            let name = watched.subject.spec.name.clone();
            let drained = self.passages.between_packets(&name, Through::Inwards, |drain| drain());
            // A tunnel that is just being removed, or a data plane that is gone: nothing is to be judged.
            if drained.is_err() {
                return Ok(());
            }
            self.heed_all();
            let Some(watched) = self.watched.get_mut(&peer) else { return Ok(()) };
            facts.arrived = watched.subject.traffic.snapshot().rx_packets;
            facts.drained = true;
            let more = watched.watch.look(&facts, now_ms);
            wishes = Wishes { write: wishes.write || more.write, ..more };
        }
        self.fulfil(peer, &wishes, now_ms)
    }

    fn fulfil(&mut self, peer: u32, wishes: &Wishes, now_ms: u64) -> Result<(), FastpathError> {
        if wishes.write {
            self.write(peer)?;
        }
        for direction in wishes.open.into_iter().flatten() {
            self.open(peer, direction, now_ms);
        }
        if let Some(number) = wishes.send {
            let Some(watched) = self.watched.get_mut(&peer) else { return Ok(()) };
            let outcome = self.sockets.send(&watched.subject, number, &self.secret);
            let gate = held(&self.maps).gate(peer)?.unwrap_or_default();
            if watched.watch.sent(outcome, &gate, now_ms).write {
                self.write(peer)?;
            }
        }
        self.note(peer);
        Ok(())
    }

    fn write(&self, peer: u32) -> Result<(), FastpathError> {
        match self.watched.get(&peer) {
            Some(watched) => held(&self.maps).set_verdict(peer, watched.watch.verdict()),
            None => Ok(()),
        }
    }

    /// Finds a moment at which no packet is in userspace's hands, and opens.
    fn open(&mut self, peer: u32, direction: Direction, now_ms: u64) {
        let Some(watched) = self.watched.get_mut(&peer) else { return };
        let offer = watched.watch.offer(direction);
        let written = Arc::new(Mutex::new(None));
        let (result, maps) = (Arc::clone(&written), Arc::clone(&self.maps));
        let through = match direction {
            Direction::Inbound => Through::Inwards,
            Direction::Outbound => Through::Outwards,
        };
        let attempt = move |drain: &mut dyn FnMut()| {
            let mut maps = held(&maps);
            for _ in 0..ATTEMPTS {
                let Some(before) = last_declined(&maps, peer, direction) else { return };
                drain();
                if last_declined(&maps, peer, direction) != Some(before) {
                    continue;
                }
                let mut verdict = offer;
                match direction {
                    Direction::Inbound => verdict.inbound.at = before,
                    Direction::Outbound => verdict.outbound.at = before,
                }
                if maps.set_verdict(peer, &verdict).is_ok() {
                    *held(&result) = Some(verdict);
                }
                return;
            }
        };
        let ran = self.passages.between_packets(&watched.subject.spec.name, through, attempt);
        match (ran, *held(&written)) {
            (Ok(()), Some(verdict)) => watched.watch.offered(direction, verdict, now_ms),
            (Ok(()), None) => watched.watch.tried(direction, now_ms),
            (Err(_), _) => {}
        }
    }

    /// What is known is there for `status`, and what is new is told to the log.
    fn note(&self, peer: u32) {
        let Some(watched) = self.watched.get(&peer) else { return };
        let now = [Direction::Inbound, Direction::Outbound].map(|way| watched.watch.standing(way));
        let mut standings = held(&self.standings);
        let before = standings.get(&peer);
        for (index, way) in ["inbound", "outbound"].into_iter().enumerate() {
            if before.is_none_or(|before| before[index] != now[index]) {
                let (tunnel, standing) = (&watched.subject.spec.name, &now[index]);
                match standing {
                    Standing::Open => tracing::info!(%tunnel, way, "fast path: open, {standing}"),
                    Standing::Closed(_) => tracing::info!(%tunnel, way, "fast path: closed, {standing}"),
                }
            }
        }
        standings.insert(peer, now);
    }
}

fn last_declined(maps: &Maps, peer: u32, direction: Direction) -> Option<u64> {
    let gate = maps.gate(peer).ok().flatten()?;
    Some(match direction {
        Direction::Inbound => gate.inbound.last_ns,
        Direction::Outbound => gate.outbound.last_ns,
    })
}

/// What witnesses are sent by, opened when one is. As the data plane's, they take the kernel's whole way.
#[derive(Default)]
struct Sockets {
    ipv4: Option<RawSocket>,
    ipv6: Option<RawSocket>,
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockets").finish_non_exhaustive()
    }
}

impl Sockets {
    fn send(&mut self, subject: &Subject, number: u32, secret: &[u8; 16]) -> Outcome {
        match self.try_send(subject, number, secret) {
            Ok(()) => Outcome::Sent,
            Err(error) => match error.raw_os_error() {
                // What ends at tc is told over IPv6 as a full queue.
                Some(errno::ENOBUFS) => Outcome::Sent,
                Some(errno::EPERM | errno::EACCES) => Outcome::Refused,
                _ => {
                    tracing::debug!(tunnel = %subject.spec.name, %error, "a witness could not be sent");
                    Outcome::Failed
                }
            },
        }
    }

    fn try_send(&mut self, subject: &Subject, number: u32, secret: &[u8; 16]) -> io::Result<()> {
        let spec = &subject.spec;
        let over_ipv6 = spec.mode.over_ipv6();
        let remote = spec.remote.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let socket = self.of(over_ipv6)?;
        if !over_ipv6 {
            let discovery = if spec.pmtudisc { MtuDiscovery::Do } else { MtuDiscovery::Dont };
            socket.set_mtu_discovery(discovery)?;
        }
        socket.set_mark(spec.fwmark)?;
        let ethernet = spec.mode.is_ethernet();
        let testimony = Testimony { peer: subject.peer, number };
        let payload = testimony.payload(secret, ethernet.then_some(subject.device_mac));
        let mut gre = vec![if spec.okey.is_some() { 0x20 } else { 0 }, 0];
        gre.extend(if ethernet { [0x65, 0x58] } else { [0x08, 0x00] });
        gre.extend(spec.okey.into_iter().flat_map(u32::to_be_bytes));
        let target = match remote {
            IpAddr::V4(address) => Target::Ipv4(address),
            IpAddr::V6(address) => Target::Ipv6 { address, scope_id: subject.bound_to.unwrap_or(0) },
        };
        let control = Control {
            ttl: Some(match spec.ttl {
                Ttl::Inherit => DEFAULT_TTL,
                Ttl::Fixed(ttl) => ttl,
            }),
            tos: Some(spec.tos.value),
            source: spec.local.or(subject.source),
            ifindex: subject.bound_to,
            flow_label: match spec.flowlabel {
                FlowLabel::Fixed(label) if over_ipv6 => Some(label).filter(|label| *label != 0),
                _ => None,
            },
            encapsulation_limit: spec.encaplimit.filter(|_| over_ipv6),
        };
        let mut storage = SendStorage::new(1);
        let mut batch = storage.start();
        batch
            .push_with_prefix(&gre, &[&payload], target, control)
            .map_err(|full| io::Error::other(full.to_string()))?;
        let mut failed = None;
        let outcome = batch.send(socket, |_, error| failed = Some(error));
        match failed {
            Some(error) => Err(error),
            None if outcome.pending > 0 => Err(io::ErrorKind::WouldBlock.into()),
            None => Ok(()),
        }
    }

    fn of(&mut self, over_ipv6: bool) -> io::Result<&RawSocket> {
        let place = if over_ipv6 { &mut self.ipv6 } else { &mut self.ipv4 };
        if place.is_none() {
            let opened =
                if over_ipv6 { RawSocket::open_ipv6_muted(GRE) } else { RawSocket::open_ipv4_muted(GRE) };
            let socket = opened.map_err(|error| error.source)?;
            // What came of it is read from what a send returns.
            socket.set_error_queue(false)?;
            *place = Some(socket);
        }
        place.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// IP protocol number of GRE.
const GRE: u8 = 47;
/// TTL of payloads that have none, as the programs'.
const DEFAULT_TTL: u8 = 64;
