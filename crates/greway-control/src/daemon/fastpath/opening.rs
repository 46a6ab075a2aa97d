//! The way from userspace to the programs, in order: a tunnel that comes to them waits for leave until userspace has
//! none of its packets in its hands, each way for itself.
//!
//! It is the leave of witnessed tunnels ([`greway_fastpath::witness`]), without witnesses: whether a tunnel may be
//! carried was decided before. A verdict of this has no secret, and whoever looks after witnesses leaves such alone. Most
//! tunnels wait no longer than it takes to ask the data plane; one that is so busy that no moment comes is carried after
//! a second all the same. Where leave cannot be had at all, a tunnel is carried at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use greway_datapath::{Datapath, Passages, Through};
use greway_fastpath::witness::{Gate, Leave, Maps, Passage, Verdict};
use greway_fastpath::{Coming, Fastpath, FastpathError, IngressKey, Point, Said, Table};
use greway_spec::DeviceName;

use super::FastPath;
use crate::daemon::host::with_causes;
use crate::daemon::witness::held;

/// A tunnel that the programs may carry and that no witness is needed for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) name: &'a DeviceName,
    /// Index of the peer end of its pair.
    pub(super) peer: u32,
    pub(super) key: Option<IngressKey>,
    /// Index of the device that it leaves by.
    pub(super) hop: Option<u32>,
}

/// The tunnels that wait for leave.
#[derive(Debug, Default)]
pub(super) struct Openings {
    /// Tunnels of an earlier daemon were taken over. What its programs carried is not taken from them for a moment.
    on: bool,
    maps: Option<Arc<Mutex<Maps>>>,
    under_way: BTreeMap<u32, Opening>,
    /// Peer ends whose verdict is of no use any more, since when: a program may have begun with it.
    done: BTreeMap<u32, Instant>,
}

#[derive(Debug)]
struct Opening {
    name: DeviceName,
    key: Option<IngressKey>,
    since: Instant,
    /// The last number given to a leave.
    number: u32,
    verdict: Verdict,
    /// Inbound, outbound: nothing is waited for.
    open: [bool; 2],
}

/// In the order of [`Opening::open`].
const WAYS: [Through; 2] = [Through::Inwards, Through::Outwards];

/// For so long a moment is waited for at which none is overtaken.
const FORCED: Duration = Duration::from_secs(1);
/// How often such a moment is looked for at a time.
const ATTEMPTS: usize = 16;
/// No program runs for so long.
const OUT_OF_SIGHT: Duration = Duration::from_millis(100);
/// Between looks.
const SOON: Duration = Duration::from_millis(20);

impl Opening {
    fn new(candidate: &Candidate<'_>, now: Instant) -> Self {
        let at_once = Leave { number: 1, at_once: 1, at: 0 };
        Self {
            name: candidate.name.clone(),
            key: candidate.key,
            since: now,
            number: 1,
            verdict: Verdict { inbound: at_once, outbound: at_once, ..Verdict::default() },
            open: [true; 2],
        }
    }

    fn close(&mut self, way: usize, now: Instant) {
        *leave_mut(&mut self.verdict, WAYS[way]) = Leave::default();
        self.open[way] = false;
        self.since = now;
    }

    /// Whether the next packet of this way is the programs', or some were before.
    fn holds(&self, peer: u32, way: usize, maps: &Maps) -> Result<bool, FastpathError> {
        if maps.verdict(peer)? != Some(self.verdict) {
            return Ok(false);
        }
        let leave = leave(&self.verdict, WAYS[way]);
        let passage = passage(&maps.gate(peer)?.unwrap_or_default(), WAYS[way]);
        Ok(leave.number != 0 && (passage.opened == leave.number || passage.last_ns == leave.at))
    }

    /// Looks for a moment at which userspace has no packet of this way.
    fn attempt(
        &mut self,
        peer: u32,
        way: usize,
        maps: &Arc<Mutex<Maps>>,
        passages: &Passages,
    ) -> Result<(), FastpathError> {
        let through = WAYS[way];
        self.number += 1;
        let (mut offer, number) = (self.verdict, self.number);
        *leave_mut(&mut offer, through) = Leave::default();
        // Others may have had it until now.
        held(maps).set_verdict(peer, &offer)?;
        self.verdict = offer;
        let outcome = Arc::new(Mutex::new(Ok(offer)));
        let (written, maps) = (Arc::clone(&outcome), Arc::clone(maps));
        let search = move |drain: &mut dyn FnMut()| {
            let mut maps = held(&maps);
            for _ in 0..ATTEMPTS {
                let Ok(Some(before)) = maps.gate(peer) else { return };
                drain();
                let Ok(Some(after)) = maps.gate(peer) else { return };
                let at = passage(&before, through).last_ns;
                if passage(&after, through).last_ns == at {
                    *leave_mut(&mut offer, through) = Leave { number, at_once: 0, at };
                    *held(&written) = maps.set_verdict(peer, &offer).map(|()| offer);
                    return;
                }
            }
        };
        if passages.between_packets(&self.name, through, search).is_err() {
            // Userspace does not carry it, and has nothing in its hands.
            self.open[way] = true;
            return Ok(());
        }
        self.verdict = std::mem::replace(&mut *held(&outcome), Ok(offer))?;
        Ok(())
    }

    /// Whether there is nothing to wait for any more.
    fn look(
        &mut self,
        peer: u32,
        maps: &Arc<Mutex<Maps>>,
        passages: &Passages,
        now: Instant,
    ) -> Result<bool, FastpathError> {
        for way in 0..WAYS.len() {
            if !self.open[way] && !self.holds(peer, way, &held(maps))? {
                self.attempt(peer, way, maps, passages)?;
            }
            self.open[way] = self.open[way] || self.holds(peer, way, &held(maps))?;
        }
        Ok(self.open == [true; 2] || now.duration_since(self.since) >= FORCED)
    }
}

impl Openings {
    /// Other programs were loaded, or these have nothing to carry any more.
    pub(super) fn end(&mut self) {
        let peers = self.under_way.keys().chain(self.done.keys()).copied();
        peers.collect::<Vec<_>>().into_iter().for_each(|peer| self.forget(peer));
        *self = Self { on: self.on, ..Self::default() };
    }

    /// How soon to look again, where something waits.
    pub(super) fn soon(&self) -> Option<Duration> {
        (!self.under_way.is_empty() || !self.done.is_empty()).then_some(SOON)
    }

    fn maps(&mut self, programs: &Fastpath) -> Result<Arc<Mutex<Maps>>, FastpathError> {
        if let Some(maps) = &self.maps {
            return Ok(Arc::clone(maps));
        }
        let mut maps = programs.witness_maps()?;
        // A daemon that was killed has left the others.
        let watched = maps.watched()?;
        for peer in maps.peers()?.into_iter().filter(|peer| !watched.contains(peer)) {
            maps.forget(peer)?;
        }
        Ok(Arc::clone(self.maps.insert(Arc::new(Mutex::new(maps)))))
    }

    /// Gives up a tunnel: what comes of it is not this one's affair any more.
    pub(super) fn drop(&mut self, peer: u32) {
        if self.under_way.remove(&peer).is_some() {
            self.forget(peer);
        }
    }

    fn forget(&mut self, peer: u32) {
        self.done.remove(&peer);
        let Some(maps) = &self.maps else { return };
        let mut maps = held(maps);
        // A watch may have begun meanwhile.
        let watched = |verdict: Verdict| verdict.secret != [0; 16];
        let forgotten = maps.verdict(peer).and_then(|verdict| match verdict.is_some_and(watched) {
            true => Ok(()),
            false => maps.forget(peer),
        });
        if let Err(error) = forgotten {
            tracing::warn!(error = %with_causes(&error), "fast path: a leave stays");
        }
    }
}

impl FastPath {
    /// The tunnels of an earlier daemon are taken over.
    pub(in crate::daemon) fn has_begun(&mut self) {
        self.openings.on = true;
    }

    /// Has those tunnels wait that come to the programs with `table`, which is about to be told. `wanted`: what will be
    /// attached then.
    pub(super) fn hold<'a>(
        &mut self,
        table: &mut Table,
        wanted: &BTreeSet<(u32, Point)>,
        candidates: impl Iterator<Item = Candidate<'a>>,
    ) {
        let Some(programs) = self.programs.as_ref().filter(|_| self.openings.on) else { return };
        let attached = programs.attachments().map(|there| (there.index, there.point));
        let attached = attached.collect::<BTreeSet<_>>();
        let arrives_anew = |hop: u32| {
            let point = (hop, Point::Underlay);
            wanted.contains(&point) && !attached.contains(&point)
        };
        let mut before = std::mem::take(&mut self.openings.under_way);
        let now = Instant::now();
        for candidate in candidates {
            let (peer, key) = (candidate.peer, candidate.key.as_ref());
            let after = table.said(peer, key);
            let said = match &self.told {
                Some(told) => Ok(told.said(peer, key)),
                None => programs.said(peer, key),
            };
            let mut coming = said.unwrap_or(after).coming(&after);
            if coming[0] == Coming::No && after.carries_inbound() && candidate.hop.is_some_and(arrives_anew) {
                coming[0] = Coming::Anew;
            }
            if coming == [Coming::No; 2] {
                continue;
            }
            let waited = before.remove(&peer);
            let had_verdict = waited.is_some();
            let held = self.openings.hold(programs, &candidate, coming, waited, now);
            if let Err(error) = &held {
                tracing::warn!(error = %with_causes(error), "fast path: a packet may be overtaken");
            }
            if let Ok(true) = held {
                table.hold(peer, key, true);
            } else if had_verdict {
                // It waits no longer, and what was written for it is of no use.
                self.openings.done.insert(peer, now);
            }
        }
        // They are withheld again, gone, or witnessed from now on.
        before.into_keys().for_each(|peer| self.openings.forget(peer));
    }

    /// Lets go the tunnels that nothing is in the way of, as soon as everything is attached.
    pub(in crate::daemon) fn open(&mut self, datapath: &Datapath) {
        if self.openings.soon().is_none() {
            return;
        }
        let (now, passages) = (Instant::now(), datapath.passages());
        if let Some(maps) = self.openings.maps.clone() {
            let looked = self.openings.under_way.iter_mut().filter_map(|(peer, opening)| {
                let looked = opening.look(*peer, &maps, &passages, now).unwrap_or_else(|error| {
                    let tunnel = &opening.name;
                    tracing::warn!(%tunnel, error = %with_causes(&error), "fast path: a packet may be overtaken");
                    true
                });
                looked.then_some(*peer)
            });
            looked.collect::<Vec<_>>().into_iter().for_each(|peer| self.let_go(peer, now));
        }
        let done = self.openings.done.iter().filter(|(_, since)| now.duration_since(**since) >= OUT_OF_SIGHT);
        done.map(|(peer, _)| *peer)
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|peer| self.openings.forget(peer));
    }

    fn let_go(&mut self, peer: u32, now: Instant) {
        let Some(opening) = self.openings.under_way.remove(&peer) else { return };
        self.openings.done.insert(peer, now);
        let (Some(told), Some(programs)) = (&mut self.told, &mut self.programs) else { return };
        let key = opening.key.as_ref();
        let said: Said = told.hold(peer, key, false);
        if let Err(error) = programs.say(peer, key, &said) {
            tracing::warn!(tunnel = %opening.name, error = %with_causes(&error), "fast path: told once more");
            self.told = None;
        }
    }

    /// How soon [`Self::open`] is wanted again, where something waits.
    pub(in crate::daemon) fn wait(&self) -> Option<Duration> {
        self.openings.soon()
    }
}

impl Openings {
    /// Whether a tunnel has to wait.
    fn hold(
        &mut self,
        programs: &Fastpath,
        candidate: &Candidate<'_>,
        coming: [Coming; 2],
        before: Option<Opening>,
        now: Instant,
    ) -> Result<bool, FastpathError> {
        let (peer, maps) = (candidate.peer, self.maps(programs)?);
        let mut maps = held(&maps);
        let goes_on = before.is_some();
        let mut opening = before.unwrap_or_else(|| Opening::new(candidate, now));
        (opening.name, opening.key) = (candidate.name.clone(), candidate.key);
        let shown = match coming.contains(&Coming::Held) && !goes_on {
            // What was witnessed until now and open goes on.
            true => maps.verdict(peer)?.zip(maps.gate(peer)?),
            false => None,
        };
        for (way, coming) in coming.into_iter().enumerate() {
            match coming {
                Coming::Anew => opening.close(way, now),
                Coming::Held
                    if goes_on || shown.is_some_and(|(verdict, gate)| is_open(&verdict, &gate, way)) => {}
                Coming::Held => opening.close(way, now),
                Coming::No => opening.open[way] = true,
            }
        }
        if opening.open == [true; 2] {
            return Ok(false);
        }
        if !goes_on {
            // Numbers of leaves begin anew.
            maps.forget(peer)?;
        }
        maps.set_verdict(peer, &opening.verdict)?;
        drop(maps);
        self.done.remove(&peer);
        self.under_way.insert(peer, opening);
        Ok(true)
    }
}

fn is_open(verdict: &Verdict, gate: &Gate, way: usize) -> bool {
    let leave = leave(verdict, WAYS[way]);
    leave.number != 0 && (leave.at_once != 0 || passage(gate, WAYS[way]).opened == leave.number)
}

fn leave(verdict: &Verdict, through: Through) -> Leave {
    match through {
        Through::Inwards => verdict.inbound,
        Through::Outwards => verdict.outbound,
    }
}

fn leave_mut(verdict: &mut Verdict, through: Through) -> &mut Leave {
    match through {
        Through::Inwards => &mut verdict.inbound,
        Through::Outwards => &mut verdict.outbound,
    }
}

fn passage(gate: &Gate, through: Through) -> Passage {
    match through {
        Through::Inwards => gate.inbound,
        Through::Outwards => gate.outbound,
    }
}
