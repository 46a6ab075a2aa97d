//! The fast path in the daemon's hands: which tunnels the programs in the kernel carry, and why not the others.
//!
//! All that the programs know they are told here, from the tunnels, the host's routes, devices, addresses and rules; and
//! told again when one of these changes. Nothing is decided about a packet. A host that lets no program be loaded is
//! none that carries no tunnel: userspace carries them, and `status` says why.

mod follow;
mod opening;
mod why_not;

pub(super) use why_not::is_for_programs;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use greway_fastpath::{
    Attachment, Fastpath, FastpathError, IngressKey, PinPolicy, Pinning, Point, Table, TunnelCounters, WhyNot,
};

use self::opening::Openings;
use super::host::with_causes;
use super::witness::Witnesses;
use crate::location::Location;

/// What the daemon's options say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FastPathOptions {
    /// Whether programs may be loaded at all.
    pub on: bool,
    /// The bpffs for pins, where it is not the usual one.
    pub bpffs: Option<PathBuf>,
}

impl Default for FastPathOptions {
    fn default() -> Self {
        Self { on: true, bpffs: None }
    }
}

impl FastPathOptions {
    fn pins(&self) -> PinPolicy {
        self.bpffs.clone().map_or(PinPolicy::Auto, PinPolicy::At)
    }
}

/// The programs, and what they were told.
#[derive(Debug, Default)]
pub(super) struct FastPath {
    options: FastPathOptions,
    programs: Option<Fastpath>,
    /// Why they cannot be had.
    refused: Option<String>,
    /// A device in another namespace may be handed packets past the pair, and counts them.
    hands_over: bool,
    /// No tunnel has a program: nothing of them is anywhere but in this process.
    rests: bool,
    /// What the maps say. `None`: that is to be found out, as in those of an earlier daemon.
    told: Option<Table>,
    local: Option<BTreeSet<IpAddr>>,
    why_not: BTreeMap<u32, WhyNot>,
    /// What an earlier daemon left attached is not taken over yet.
    adopts: bool,
    /// What an earlier daemon left was looked for, where none of it is wanted.
    swept: bool,
    /// What could not be attached, by device and point, and why.
    unattached: BTreeMap<(u32, Point), String>,
    /// The ends of pairs that got no program when they were made, and why.
    without: BTreeMap<u32, String>,
    beaten: Option<Instant>,
    /// Tunnels are taken over one by one, and nothing is told before all are known: what an earlier daemon has told
    /// the programs would be taken back.
    pub(super) waits: bool,
    /// What looks after tunnels whose packets need witnesses.
    pub(super) witnesses: Witnesses,
    /// Tunnels that come to the programs, and what of them is still in userspace.
    openings: Openings,
}

/// A sign of life is given this often; the programs do without for five seconds.
const BEAT: Duration = Duration::from_secs(1);

/// No more packets than this are asked back at once (T18).
const MOST_ASKED: u32 = 16;

impl FastPath {
    pub(super) fn new(options: &FastPathOptions) -> Self {
        let refused = (!options.on)
            .then(|| "the fast path is off (fast-path in greway.toml, or GREWAY_FAST_PATH)".to_owned());
        Self { options: options.clone(), refused, ..Self::default() }
    }

    /// Has the programs, where they can be had.
    fn load(&mut self) -> Option<&mut Fastpath> {
        if let Some(programs) = self.programs.as_mut().filter(|_| self.rests)
            && let Err(error) = programs.wake()
        {
            tracing::warn!(error = %with_causes(&error), "fast path: loaded once more");
            self.programs = None;
        }
        self.rests = false;
        if self.programs.is_none() && self.refused.is_none() {
            let options = greway_fastpath::Options { pins: self.options.pins(), ..Default::default() };
            match Fastpath::load_with(&options) {
                Ok(programs) => {
                    match programs.pinning() {
                        Pinning::Lasting(folder) => {
                            tracing::info!(folder = %folder.display(), "fast path: loaded")
                        }
                        Pinning::Process(why) => tracing::info!(why, "fast path: loaded, without pins"),
                    }
                    (self.told, self.local, self.adopts) = (None, None, true);
                    self.openings.end();
                    self.tidy();
                    self.hands_over = greway_fastpath::counts_what_is_handed_over();
                    self.programs = Some(programs);
                }
                Err(error) => {
                    tracing::info!(error = %with_causes(&error), "no fast path: userspace carries everything");
                    self.refused = Some(with_causes(&error));
                    self.sweep();
                }
            }
        }
        self.programs.as_mut()
    }

    /// Removes what daemons of deleted network namespaces have left pinned, for want of anybody else.
    fn tidy(&self) {
        match greway_fastpath::remove_deserted(&self.options.pins(), Location::is_held_in) {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => {
                tracing::info!(?removed, "fast path: pins of deleted network namespaces are removed")
            }
            Err(errors) => {
                for error in errors {
                    tracing::warn!(error = %with_causes(&error), "fast path: pins of a deleted namespace stay");
                }
            }
        }
    }

    /// Makes the maps say what `table` says.
    fn tell(&mut self, mut table: Table, local: BTreeSet<IpAddr>) {
        let Some(programs) = &mut self.programs else { return };
        self.why_not = std::mem::take(&mut table.why_not);
        let mut failures = Vec::new();
        if self.local.as_ref() != Some(&local) {
            match programs.set_local_addresses(local.iter().copied()) {
                Ok(()) => self.local = Some(local),
                Err(error) => failures.push(error),
            }
        }
        let told = match &self.told {
            Some(told) if *told == table => Ok(()),
            Some(told) => programs.apply_changes(told, &table),
            None => programs.apply(&table),
        };
        self.told = match told {
            Ok(()) => Some(table),
            Err(errors) => {
                failures.extend(errors);
                None
            }
        };
        for error in failures {
            tracing::warn!(error = %with_causes(&error), "fast path: the programs cannot be told");
        }
    }

    /// Takes over what an earlier daemon left attached, now that the maps say what they are to say.
    fn adopt(&mut self) {
        let Some(programs) = self.programs.as_mut().filter(|_| self.adopts) else { return };
        let adopted = programs.adopt();
        if !adopted.attachments.is_empty() {
            tracing::info!(programs = adopted.attachments.len(), "fast path: taken over");
        }
        for error in adopted.errors {
            tracing::warn!(error = %with_causes(&error), "fast path: an earlier daemon's program stays");
        }
    }

    /// Everything is attached: what another version of greway left has nothing to carry any more.
    fn end_of_adoption(&mut self) {
        let Some(programs) = self.programs.as_mut().filter(|_| self.adopts) else { return };
        self.adopts = false;
        for error in programs.remove_other_layouts().err().into_iter().flatten() {
            tracing::warn!(error = %with_causes(&error), "fast path: another version's programs stay");
        }
    }

    /// Attaches what is wanted and nothing else. `name`: of a device that is there.
    fn attach(&mut self, wanted: &BTreeSet<(u32, Point)>, name: impl Fn(u32) -> Option<String>) {
        let Some(programs) = &mut self.programs else { return };
        let attached = programs.attachments().cloned().collect::<Vec<Attachment>>();
        for old in attached.iter().filter(|old| !wanted.contains(&(old.index, old.point))) {
            if let Err(error) = programs.detach(old) {
                tracing::warn!(error = %with_causes(&error), "fast path: a program stays where it was");
            }
        }
        let there = attached.iter().map(|old| (old.index, old.point)).collect::<BTreeSet<_>>();
        let mut unattached = BTreeMap::new();
        for (index, point) in wanted.difference(&there) {
            // A device that went away meanwhile is told of by the kernel.
            let Some(name) = name(*index) else { continue };
            if let Err(error) = programs.attach(&name, *point) {
                let why = with_causes(&error);
                if self.unattached.get(&(*index, *point)) != Some(&why) {
                    tracing::warn!(error = why, "fast path: userspace carries");
                }
                unattached.insert((*index, *point), why);
            }
        }
        self.unattached = unattached;
    }

    /// Leaves everything to userspace and takes all away; the programs stay at hand for the next tunnel.
    fn remove(&mut self) {
        (self.told, self.local) = (None, None);
        self.openings.end();
        self.why_not.clear();
        self.unattached.clear();
        let removed = match &mut self.programs {
            Some(_) if self.rests => return,
            Some(programs) => programs.rest(),
            None => return self.sweep(),
        };
        self.rests = true;
        self.swept = true;
        for error in removed.err().into_iter().flatten() {
            tracing::warn!(error = %with_causes(&error), "fast path: something of it stays behind");
        }
    }

    /// Takes away what an earlier daemon has left where this one has no use for it: its programs would go on carrying
    /// beside userspace. Looked for once.
    fn sweep(&mut self) {
        if std::mem::replace(&mut self.swept, true) {
            return;
        }
        for error in greway_fastpath::remove_all(&self.options.pins()).err().into_iter().flatten() {
            match error {
                // A host that tells nobody of its filters lets nobody make one.
                FastpathError::Filters { .. } => tracing::debug!(error = %with_causes(&error), "fast path"),
                _ => {
                    tracing::warn!(error = %with_causes(&error), "fast path: an earlier daemon's program stays")
                }
            }
        }
    }

    /// Before tunnels are taken over: programs that are not wanted carry none of them any more.
    pub(super) fn begin(&mut self) {
        if self.refused.is_some() {
            self.sweep();
        }
    }

    /// Puts the program at the end of a pair, which leaves all to userspace until it is told of a tunnel. Says whether
    /// it is there; what an earlier daemon put there is.
    fn attach_to(&mut self, device: &str, peer: u32) -> bool {
        self.without.remove(&peer);
        let Some(programs) = self.load() else { return false };
        if programs.is_attached(device, Point::Overlay) {
            return true;
        }
        let attached = programs.attach(device, Point::Overlay);
        if let Err(error) = &attached {
            let why = with_causes(error);
            tracing::warn!(error = why, "fast path: userspace carries");
            self.without.insert(peer, why);
        }
        attached.is_ok()
    }

    /// Why no program is at the end of a pair.
    pub(super) fn why_without(&self, peer: Option<u32>) -> String {
        let why = peer.and_then(|peer| self.without.get(&peer)).or(self.refused.as_ref());
        why.cloned().unwrap_or_else(|| "no program is at the end of its pair".to_owned())
    }

    /// Takes tunnels out at once, known by the peer ends of their pairs: what is known of them is right no more.
    pub(super) fn forget(&mut self, peers: impl IntoIterator<Item = u32>) {
        let peers = peers.into_iter().collect::<BTreeSet<_>>();
        self.without.retain(|peer, _| !peers.contains(peer));
        let Some(programs) = &mut self.programs else { return };
        let mut keys = HashMap::<u32, Vec<IngressKey>>::new();
        peers.iter().for_each(|peer| self.openings.drop(*peer));
        if let Some(told) = &mut self.told {
            for (key, entry) in told.ingress.iter().filter(|(_, entry)| peers.contains(&entry.peer)) {
                keys.entry(entry.peer).or_default().push(*key);
            }
            told.egress.retain(|peer, _| !peers.contains(peer));
            told.ingress.retain(|_, entry| !peers.contains(&entry.peer));
        }
        let told = self.told.is_some();
        for peer in peers {
            let removed = match told {
                true => programs.remove_known(peer, keys.get(&peer).map_or(&[][..], Vec::as_slice)),
                false => programs.remove(peer),
            };
            if let Err(error) = removed {
                tracing::warn!(error = %with_causes(&error), "fast path: a tunnel cannot be taken out");
            }
        }
    }

    /// What the programs counted for the tunnel of this peer end.
    pub(super) fn counters(&self, peer: Option<u32>) -> Option<TunnelCounters> {
        self.programs.as_ref()?.tunnel_counters(peer?).ok().flatten()
    }

    /// Whether programs are loaded, and whether they stay when the daemon is gone.
    pub(super) fn pinning(&self) -> Option<&Pinning> {
        self.programs.as_ref().filter(|_| !self.rests).map(Fastpath::pinning)
    }

    pub(super) fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.programs.iter().flat_map(Fastpath::attachments)
    }

    /// Whether the programs could not be told everything, and are to be told again.
    pub(super) fn is_behind(&self) -> bool {
        self.programs.is_some() && !self.rests && self.told.is_none() && !self.waits
    }

    /// A sign of life, when it is time for one, and whether it was.
    pub(super) fn beat(&mut self) -> bool {
        let Some(programs) = &mut self.programs else { return false };
        if self.beaten.is_some_and(|beaten| beaten.elapsed() < BEAT) {
            return false;
        }
        self.beaten = Some(Instant::now());
        if let Err(error) = programs.beat() {
            tracing::warn!(error = %with_causes(&error), "fast path: no sign of life can be given");
        }
        true
    }

    /// The next packets that a tunnel sends are for userspace.
    fn ask_for(&mut self, peer: u32, packets: u32) {
        let Some(programs) = &mut self.programs else { return };
        if let Err(error) = programs.decline_next(peer, packets.min(MOST_ASKED)) {
            tracing::warn!(error = %with_causes(&error), "fast path: packets cannot be asked back");
        }
    }
}
