//! Several tunnels changed as one: ten thousand of them are no more work, each, than one.
//!
//! A tunnel that comes, changes or goes makes the daemon look at what concerns all of them: reverse paths, what the
//! programs in the kernel are told, whose peers are to be kept quiet. Within [`Host::together`] that is put off, and done
//! once at the end; where more tunnels are promised, with the last of those. How many go is in [`super::going`].
//!
//! What makes a single tunnel whole is never put off: it is stored, has its device and its sockets and can be taken
//! back before the next one is begun. A failing tunnel leaves the others as they are.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use greway_linux::process;
use greway_netlink::KernelTunnel;
use greway_spec::{DeviceName, Mode, TunnelSpec};

use super::between::Between;
use super::device::{self, Device};
use super::host::{Host, Live};
use super::kernel_tunnels;
use crate::api::{Outcome, Reply};
use crate::observe::{Beside, Inside, Tables};

/// What a tunnel is told apart by, but for its `dev`.
type Identity = (Option<IpAddr>, Option<IpAddr>, Option<u32>, Mode);

fn identity(spec: &TunnelSpec) -> Identity {
    (spec.remote, spec.local, spec.ikey, spec.mode)
}

/// With so many tunnels at once the lists of what is there took memory that nobody needs any more.
const MANY: usize = 64;

/// How long others may take to follow that were promised.
const SOON: Duration = Duration::from_secs(3);

/// What is put off until the last of many tunnels that come in several requests is there: looks that concern all of
/// them, and the wait for carriers, of which the kernel tells once a second (linux net/core/link_watch.c).
#[derive(Debug, Default)]
pub(super) struct Coming {
    places: BTreeSet<DeviceName>,
    /// Devices that were set up, each with its tunnel.
    set_up: Vec<(DeviceName, u32)>,
    /// Others are waited for no longer.
    until: Option<Instant>,
    /// What was asked of the kernel.
    seen: Option<Seen>,
    /// The device that was made a moment ago, which nobody has to ask for.
    pub(super) made: Option<(DeviceName, Device)>,
}

impl Coming {
    /// A group of devices that has none in it.
    pub(super) fn free_group(&self) -> Option<u32> {
        self.seen.as_ref()?.free_group
    }

    pub(super) fn note_free_group(&mut self, group: u32) {
        if let Some(seen) = &mut self.seen {
            seen.free_group = Some(group);
        }
    }
}

/// What is asked of the kernel once for many tunnels. It is as it was a moment ago; what was done since to a tunnel
/// makes that one be looked at by itself.
#[derive(Debug)]
struct Seen {
    since: Instant,
    /// Tunnels that are not as they were seen.
    changed: HashSet<DeviceName>,
    /// Who has which ends.
    by_identity: Option<HashMap<Identity, Vec<DeviceName>>>,
    /// The tables that greway made.
    tables: Option<HashSet<String>>,
    kernel_tunnels: Option<Arc<[KernelTunnel]>>,
    /// What seals and translates, where that can be read.
    chains: Option<Option<Arc<Tables>>>,
    /// Tunnels that were looked at one by one.
    alone: usize,
    /// What is on their devices.
    inside: Option<Arc<Inside>>,
    /// A group of devices that nobody has.
    free_group: Option<u32>,
}

/// What was seen so long ago is looked at again.
const FRESH: Duration = Duration::from_secs(1);
/// So many tunnels are looked at one by one before all are.
const ALONE: usize = 8;

impl Seen {
    fn now() -> Self {
        Self {
            since: Instant::now(),
            changed: HashSet::new(),
            by_identity: None,
            tables: None,
            kernel_tunnels: None,
            chains: None,
            alone: 0,
            inside: None,
            free_group: None,
        }
    }

    fn is_fresh(&self) -> bool {
        self.since.elapsed() < FRESH
    }
}

/// What was put off, and what is asked of the kernel once.
#[derive(Debug, Default)]
pub(super) struct Together {
    /// Where these are is to be looked at.
    places: BTreeSet<DeviceName>,
    /// What was set up is waited for later.
    pub(super) more: bool,
    /// The addresses of this host were read.
    addresses: bool,
}

impl Host {
    /// Does `work` on several tunnels, and then once what each of them would have asked for.
    pub(super) fn together<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        if self.together.is_some() {
            return work(self);
        }
        self.together = Some(Together::default());
        let seen = self.coming.seen.take().filter(Seen::is_fresh);
        self.coming.seen = Some(seen.unwrap_or_else(Seen::now));
        let waited = std::mem::replace(&mut self.fast.waits, true);
        let outcome = work(self);
        self.fast.waits = waited;
        let mut done = self.together.take().unwrap_or_default();
        self.coming.places.append(&mut done.places);
        self.coming.until = done.more.then(|| Instant::now() + SOON);
        if !done.more {
            self.all_have_come();
        }
        outcome
    }

    fn all_have_come(&mut self) {
        let Coming { places, set_up, .. } = std::mem::take(&mut self.coming);
        self.keep_peers_quiet(None);
        self.keep_group_seal(None);
        self.look_at_reverse_paths();
        self.look_at_forwarding();
        self.wait_for_these(set_up);
        self.look_at_places_of(&places);
        if places.len() >= MANY {
            process::give_memory_back();
        }
    }

    /// Whether more tunnels follow at once, and what the kernel tells of those that came is looked at with them. Who had
    /// promised some and went away keeps nobody waiting.
    pub(super) fn more_follow(&mut self) -> bool {
        match self.coming.until {
            None => false,
            Some(until) if Instant::now() < until => true,
            Some(_) => {
                self.all_have_come();
                false
            }
        }
    }

    /// Brings tunnels to what their specs say, each as [`Host::up`] does.
    pub(super) fn up_all(&mut self, specs: Vec<Result<TunnelSpec, String>>, more: bool) -> Reply {
        let outcomes = self.together(|host| {
            host.together.iter_mut().for_each(|together| together.more = more);
            let up = |spec: Result<TunnelSpec, String>| {
                if host.heart.is_due() {
                    host.heart.beat();
                }
                Outcome::from(spec.and_then(|spec| host.up(spec, false)))
            };
            specs.into_iter().map(up).collect()
        });
        Reply::Several(outcomes)
    }

    /// Whether a look that concerns all tunnels is put off; `name` is that of the tunnel that asks for it.
    pub(super) fn put_off(&mut self, name: &DeviceName) -> bool {
        let Some(together) = &mut self.together else { return false };
        together.places.insert(name.clone());
        true
    }

    /// Waits until a device passes packets that was just set up, at once or with the others.
    pub(super) fn wait_until_running(&mut self, name: &DeviceName, index: u32) {
        if self.together.is_some() {
            return self.coming.set_up.push((name.clone(), index));
        }
        self.wait_for(name, index, Instant::now() + device::PATIENCE);
    }

    fn wait_for(&mut self, name: &DeviceName, index: u32, deadline: Instant) {
        device::wait_until_running(&self.netlink, index, deadline);
        // Until then the ends drop what is sent, and no queue is to blame.
        if let Some(live) = self.tunnels.get_mut(name) {
            live.lost_before = Between::now(&self.netlink, index, live.peer);
        }
    }

    /// The same for several devices, which have one deadline: those that have no carrier have none for the same reason.
    fn wait_for_these(&mut self, mut set_up: Vec<(DeviceName, u32)>) {
        /// The kernel tells of carriers once a second.
        const STEP: Duration = Duration::from_millis(50);
        let deadline = Instant::now() + device::PATIENCE;
        // To list all devices is less than to ask for many.
        while set_up.len() > MANY {
            let Ok(links) = self.netlink.links() else { break };
            let links = links.into_iter().map(|link| (link.index, link)).collect::<HashMap<_, _>>();
            set_up.retain(|(name, index)| {
                let link = links.get(index);
                let other = link.filter(|link| link.link_netns_id.is_none()).and_then(|link| link.peer_index);
                let ends = [link, other.and_then(|other| links.get(&other))];
                let runs = !ends.into_iter().flatten().any(device::is_to_run);
                if let Some(live) = self.tunnels.get_mut(name).filter(|_| runs) {
                    live.lost_before = Between::of(link, live.peer.and_then(|peer| links.get(&peer)));
                }
                !runs
            });
            if Instant::now() >= deadline {
                break;
            }
            if set_up.len() > MANY {
                std::thread::sleep(STEP);
            }
        }
        for (name, index) in set_up {
            self.wait_for(&name, index, deadline);
        }
    }

    /// Reads the addresses of this host again, of several tunnels once.
    pub(super) fn look_at_addresses_once(&mut self) {
        if self.together.as_mut().is_none_or(|together| !std::mem::replace(&mut together.addresses, true)) {
            self.look_at_addresses();
        }
    }

    /// A tunnel has other ends now.
    pub(super) fn note_identity(&mut self, spec: &TunnelSpec) {
        if let Some(known) = self.coming.seen.as_mut().and_then(|seen| seen.by_identity.as_mut()) {
            known.entry(identity(spec)).or_default().push(spec.name.clone());
        }
    }

    /// Why a tunnel cannot be beside those that are there.
    pub(super) fn conflict(&mut self, spec: &TunnelSpec) -> Option<String> {
        let conflict = |other: &TunnelSpec| {
            (other.name != spec.name)
                .then(|| spec.conflicts(other))
                .flatten()
                .map(|conflict| conflict.to_string())
        };
        let Some(seen) = self.coming.seen.as_mut().filter(|_| self.together.is_some()) else {
            return self.tunnels.values().find_map(|live| conflict(live.spec()));
        };
        let known = seen.by_identity.get_or_insert_with(|| {
            let mut known = HashMap::<Identity, Vec<DeviceName>>::new();
            for live in self.tunnels.values() {
                known.entry(identity(live.spec())).or_default().push(live.spec().name.clone());
            }
            known
        });
        let candidates = known.get(&identity(spec)).into_iter().flatten();
        candidates.filter_map(|name| self.tunnels.get(name)).find_map(|live| conflict(live.spec()))
    }

    /// Refuses a tunnel whose packets a tunnel of the kernel's takes. These are asked for once.
    pub(super) fn refuse_kernel_tunnel(&mut self, spec: &TunnelSpec) -> Result<(), String> {
        let current = self.tunnels.get(&spec.name).map(Live::spec);
        // Who cannot list devices cannot make one either, and is told so then.
        let read = || self.netlink.kernel_tunnels().unwrap_or_default();
        let tunnels = || match self.coming.seen.as_mut().filter(|_| self.together.is_some()) {
            Some(seen) => Arc::clone(seen.kernel_tunnels.get_or_insert_with(|| read().into())),
            None => read().into(),
        };
        kernel_tunnels::refuse(tunnels, spec, current)
    }

    /// What is known of the host when one of several tunnels is looked at. `None`: it asks for itself.
    pub(super) fn seen(&mut self, name: &DeviceName) -> Option<Beside> {
        let seen = self.coming.seen.as_mut().filter(|_| self.together.is_some())?;
        if seen.changed.contains(name) {
            return None;
        }
        let nftables = self.nftables.as_ref();
        let read = || Some(Arc::new(Tables::of(&nftables?.base_chains().ok()?)));
        let tables = seen.chains.get_or_insert_with(read).clone();
        if self.tunnels.contains_key(name) {
            seen.alone += 1;
            if seen.inside.is_none() && seen.alone > ALONE {
                let devices = self.tunnels.values().map(|live| live.index).collect();
                // Where it fails, each is told why.
                seen.inside = Inside::read(&self.netlink, devices).ok().map(Arc::new);
            }
        }
        Some(Beside { tables, inside: seen.inside.clone() })
    }

    /// Whether a tunnel that is taken over with many others has its seal.
    pub(super) fn has_own_seal(&mut self, name: &DeviceName) -> bool {
        self.seen(name).and_then(|seen| seen.tables).is_some_and(|tables| tables.seal(name))
    }

    /// A tunnel comes, changes or goes.
    pub(super) fn no_longer_as_seen(&mut self, name: &DeviceName) {
        if let Some(seen) = &mut self.coming.seen {
            seen.changed.insert(name.clone());
        }
    }

    /// Whether there are tables that greway made for a tunnel of this name.
    pub(super) fn has_tables(&mut self, name: &DeviceName) -> bool {
        let seen = self.coming.seen.as_mut().filter(|_| self.together.is_some());
        let Some(seen) = seen.filter(|seen| !seen.changed.contains(name)) else {
            return !self.marked_tables(name).is_empty();
        };
        let nftables = self.nftables.as_ref();
        let read = || super::tables::all_of_ours(nftables);
        seen.tables.get_or_insert_with(read).contains(&device::table(name))
    }
}

impl From<Result<Reply, String>> for Outcome {
    fn from(result: Result<Reply, String>) -> Self {
        match result {
            Ok(Reply::Done { actions, warnings }) => Self::done(actions, warnings),
            Ok(_) => Self::done(Vec::new(), Vec::new()),
            Err(why) => Self::Failed(why),
        }
    }
}
