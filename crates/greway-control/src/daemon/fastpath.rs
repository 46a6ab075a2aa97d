//! The fast path in the daemon's hands: which tunnels the programs in the kernel carry, and why not the others.
//!
//! All that the programs know they are told here, from the tunnels, the host's routes, devices, addresses and rules; and
//! told again when one of these changes. Nothing is decided about a packet. A host that lets no program be loaded is
//! none that carries no tunnel: userspace carries them, and `status` says why.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use greway_datapath::{Filter, News, Tap};
use greway_fastpath::witness::Standing;
use greway_fastpath::{
    Attachment, Entry, Fastpath, FastpathError, Member, PinPolicy, Pinning, Place, Point, Table,
    TunnelCounters, WhyNot,
};
use greway_spec::{DatapathChoice, DeviceName, TunnelSpec, UnderlayChoice};

use super::device;
use super::host::{Host, Live, with_causes};
use super::place::{self, Devices};
use super::witness::{Subject, Witnesses};
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
}

/// A sign of life is given this often; the programs do without for five seconds.
const BEAT: Duration = Duration::from_secs(1);

/// No more packets than this are asked back at once (T18).
const MOST_ASKED: u32 = 16;

impl FastPath {
    pub(super) fn new(options: &FastPathOptions) -> Self {
        let refused = (!options.on).then(|| "the fast path is off (daemon.fast-path)".to_owned());
        Self { options: options.clone(), refused, ..Self::default() }
    }

    /// Has the programs, where they can be had.
    fn load(&mut self) -> Option<&mut Fastpath> {
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

    /// Leaves everything to userspace and takes all away.
    fn remove(&mut self) {
        (self.told, self.local) = (None, None);
        self.why_not.clear();
        self.unattached.clear();
        let removed = match self.programs.take() {
            Some(programs) => programs.remove_all(),
            None => return self.sweep(),
        };
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

    /// Takes one tunnel out at once: what is known of it is right no more.
    pub(super) fn forget(&mut self, peer: Option<u32>) {
        peer.map(|peer| self.without.remove(&peer));
        let (Some(peer), Some(programs)) = (peer, &mut self.programs) else { return };
        if let Some(told) = &mut self.told {
            told.egress.remove(&peer);
            told.ingress.retain(|_, entry| entry.peer != peer);
        }
        if let Err(error) = programs.remove(peer) {
            tracing::warn!(error = %with_causes(&error), "fast path: a tunnel cannot be taken out");
        }
    }

    /// What the programs counted for the tunnel of this peer end.
    pub(super) fn counters(&self, peer: Option<u32>) -> Option<TunnelCounters> {
        self.programs.as_ref()?.tunnel_counters(peer?).ok().flatten()
    }

    /// Whether programs are loaded, and whether they stay when the daemon is gone.
    pub(super) fn pinning(&self) -> Option<&Pinning> {
        self.programs.as_ref().map(Fastpath::pinning)
    }

    pub(super) fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.programs.iter().flat_map(Fastpath::attachments)
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

impl Host {
    /// Refuses `datapath ebpf` where no program can do what it asks for.
    pub(super) fn refuse_fast_path(&mut self, spec: &TunnelSpec) -> Result<(), String> {
        let refused = |why: &str| {
            Err(format!("{}: datapath ebpf cannot be honoured: {why}; use auto or userspace", spec.name))
        };
        if spec.datapath != DatapathChoice::Ebpf {
            return match Entry::of(spec, &NOWHERE) {
                Err(why) if spec.direct => {
                    Err(format!("{}: direct cannot be honoured: {why}; use nodirect", spec.name))
                }
                _ => Ok(()),
            };
        }
        if spec.underlay == UnderlayChoice::Raw {
            return refused("underlay raw is asked for as well, which is a socket of userspace");
        }
        if let Err(why) = Entry::of(spec, &NOWHERE) {
            return refused(&why.to_string());
        }
        self.fast.load();
        match &self.fast.refused {
            Some(why) => refused(why),
            None => Ok(()),
        }
    }

    /// Has a program at the end of a pair, where one may carry the tunnel some time.
    pub(super) fn attach_to_pair(&mut self, spec: &TunnelSpec, peer: Option<u32>) -> bool {
        may_be_carried(spec)
            && spec.remote.is_some_and(|remote| !remote.is_multicast())
            && peer.is_some_and(|peer| self.fast.attach_to(&device::peer_name(&spec.name), peer))
    }

    /// The same for a tunnel that was made without, and is now to be carried by one where it can be.
    pub(super) fn attach_later(&mut self, spec: &TunnelSpec) {
        let peer = self.tunnels.get(&spec.name).filter(|live| !live.attached).and_then(|live| live.peer);
        if peer.is_none() || !self.attach_to_pair(spec, peer) {
            return;
        }
        // Before the tap is behind it, or nothing would come so far.
        let unsealed = self.unseal(&spec.name).map_err(|error| error.to_string());
        let tapped = unsealed
            .and_then(|()| self.datapath.tap(&spec.name, Tap::Declined).map_err(|error| with_causes(&error)));
        if let Err(error) = tapped {
            // The program leaves everything to userspace, which goes on as before.
            tracing::warn!(tunnel = %spec.name, error, "fast path: userspace carries");
            return;
        }
        if let Some(live) = self.tunnels.get_mut(&spec.name) {
            (live.attached, live.sealed) = (true, false);
        }
    }

    /// Looks where all tunnels are, and tells the programs what is new.
    pub(super) fn look_at_places(&mut self) {
        if self.fast.waits {
            return;
        }
        let mut devices = Devices::new(&self.netlink);
        let ways = self.tunnels.iter().filter(|(_, live)| live.is_candidate());
        let ways = ways.map(|(name, live)| {
            let way = place::way(&mut devices, live.spec(), live.bound_to);
            let ends = live.peer.and_then(|peer| place::ends(&self.netlink, live.index, peer));
            (name.clone(), way, ends)
        });
        for (name, way, ends) in ways.collect::<Vec<_>>() {
            if let Some(live) = self.tunnels.get_mut(&name) {
                (live.way, live.ends) = (way, ends);
            }
        }
        self.follow_fast_path();
    }

    /// The same after one tunnel came or changed.
    pub(super) fn look_at_place(&mut self, name: &DeviceName) {
        if self.fast.waits {
            return;
        }
        if let Some(live) = self.tunnels.get_mut(name).filter(|live| live.is_candidate()) {
            live.way = place::way(&mut Devices::new(&self.netlink), &live.stored.spec, live.bound_to);
            live.ends = live.peer.and_then(|peer| place::ends(&self.netlink, live.index, peer));
        }
        self.follow_fast_path();
    }

    /// The same after its device was changed from here, and nothing else. The kernel tells of that as well, later.
    pub(super) fn look_at_ends(&mut self, name: &DeviceName) {
        if self.fast.waits {
            return;
        }
        if let Some(live) = self.tunnels.get_mut(name).filter(|live| live.is_candidate()) {
            live.ends = live.peer.and_then(|peer| place::ends(&self.netlink, live.index, peer));
        }
        self.follow_fast_path();
    }

    /// Looks whether the neighbours of tunnels with `direct` are still known, which the programs cannot see.
    pub(super) fn look_at_neighbours(&mut self) {
        let mut changed = false;
        for live in self.tunnels.values_mut().filter(|live| live.stored.spec.direct && live.is_candidate()) {
            let known = live.way.next_hop.is_some_and(|hop| place::is_known(&self.netlink, hop));
            changed |= known != live.way.neighbour_known;
            live.way.neighbour_known = known;
        }
        if changed {
            self.follow_fast_path();
        }
    }

    /// What `direct` breaks, where it is in force, or why it is not.
    pub(super) fn note_on_direct(&self, live: &Live) -> Option<String> {
        let name = &live.spec().name;
        if !live.spec().direct || self.not_on_fast_path(live).is_some() {
            return None;
        }
        Some(match live.ends.is_some_and(|ends| ends.here) {
            true => format!(
                "direct: tcpdump on {name} does not show what it sends, `ip -s link` does not count it, and a qdisc \
                 on it does not hold for it (greway tunnel change {name} nodirect)"
            ),
            false => {
                format!("direct waits: {name} is in another network namespace, and sends through its pair")
            }
        })
    }

    /// What the data plane heard concerns what the programs send (T18).
    pub(super) fn heed_news(&mut self) {
        for news in self.datapath.take_news() {
            match news {
                News::Unreachable { name, packets } => {
                    if let Some(peer) = self.tunnels.get(&name).and_then(|live| live.peer) {
                        self.fast.ask_for(peer, packets);
                    }
                }
                News::PathMtu { remote } => {
                    let concerned = self.tunnels.values().filter(|live| live.spec().remote == Some(remote));
                    let names = concerned.map(|live| live.spec().name.clone()).collect::<Vec<_>>();
                    // The kernel may learn it after us. What is too large until then is told of once more.
                    names.iter().for_each(|name| self.look_at_place(name));
                }
            }
        }
    }

    /// Tells the programs what is new of tunnels, rules and addresses; where the tunnels are was looked at before.
    pub(super) fn follow_fast_path(&mut self) {
        if self.fast.waits {
            return;
        }
        if !self.tunnels.values().any(|live| live.attached) {
            self.fast.witnesses.end(&self.datapath);
            self.fast.remove();
            return;
        }
        let places =
            self.tunnels.values().filter_map(|live| Some((live, self.place(live)?))).collect::<Vec<_>>();
        let members = places.iter().map(|(live, place)| Member {
            spec: live.spec(),
            place: *place,
            wanted: live.is_candidate(),
        });
        let table = Table::of(members);
        let attached = self.tunnels.values().filter(|live| live.attached);
        let mut wanted =
            attached.filter_map(|live| Some((live.peer?, Point::Overlay))).collect::<BTreeSet<_>>();
        let carried = places.iter().filter(|(_, place)| table.egress.contains_key(&place.peer));
        let underlays =
            carried.filter_map(|(_, place)| place.next_hop.map(|hop| (hop.ifindex, Point::Underlay)));
        wanted.extend(underlays);
        // It stays there while the neighbour is unknown for a moment; what it does is up to the table.
        let direct = places
            .iter()
            .filter(|(live, place)| live.spec().direct && table.egress.contains_key(&place.peer));
        wanted.extend(direct.filter_map(|(_, place)| Some((place.device?, Point::Direct))));
        let witnessed =
            places.iter().filter(|(_, place)| place.witnessed && table.egress.contains_key(&place.peer));
        let hops = witnessed
            .clone()
            .filter_map(|(_, place)| place.next_hop.map(|hop| (hop.ifindex, Point::Witness)));
        wanted.extend(hops);
        let subjects = witnessed.map(|(live, place)| Subject {
            spec: live.spec().clone(),
            peer: place.peer,
            device_mac: place.device_mac,
            source: place.source,
            bound_to: live.bound_to,
            receive: live.decision.receive,
            traffic: live.traffic.clone(),
        });
        let subjects = subjects.collect::<Vec<_>>();
        let local = self.local_addresses.anywhere().collect();
        self.fast.tell(table, local);
        self.fast.adopt();
        let netlink = &self.netlink;
        self.fast.attach(&wanted, |index| Some(netlink.link_by_index(index).ok()??.name));
        self.fast.end_of_adoption();
        if let Some(programs) = &self.fast.programs {
            self.fast.witnesses.follow(subjects, programs, &self.datapath);
        }
    }

    /// Where a tunnel is, for the programs; `None` where it has no pair.
    fn place(&self, live: &Live) -> Option<Place> {
        let peer = live.peer?;
        let remote = live.spec().remote;
        let ends = live.ends;
        Some(Place {
            peer,
            device: ends.filter(|ends| ends.here).map(|_| live.index),
            hand_over: self.fast.hands_over && ends.is_some_and(|ends| !ends.here),
            device_mtu: ends.map_or(0, |ends| ends.mtu),
            device_mac: ends.map_or([0; 6], |ends| ends.device),
            peer_mac: ends.map_or([0; 6], |ends| ends.peer),
            dev: live.bound_to,
            via: remote.and_then(|remote| self.only_way_in(remote)),
            source: live.way.source,
            next_hop: live.way.next_hop,
            neighbour_known: live.way.neighbour_known,
            path_mtu: live.way.path_mtu,
            forwards: self.forwards,
            withheld: self.withheld(live).is_some(),
            witnessed: live.decision.witnessed.is_some(),
        })
    }

    /// The device that packets of a peer have to come in by, where some device asks for that (`rp_filter`); one that
    /// there is not where no way leads back.
    fn only_way_in(&self, remote: IpAddr) -> Option<u32> {
        /// No device has it.
        const NONE: u32 = u32::MAX;
        let IpAddr::V4(remote) = remote else { return None };
        let paths = &self.reverse_paths;
        let strict = paths.filters.values().any(|filter| *filter == Filter::Strict);
        match paths.ways.get(&(0, remote)) {
            Some(None) => Some(NONE),
            Some(Some(way)) if strict => Some(*way),
            _ => None,
        }
    }

    /// Why all packets of a tunnel are userspace's for now.
    fn withheld(&self, live: &Live) -> Option<String> {
        let spec = live.spec();
        if let Some(why) = &live.decision.withheld {
            return Some(why.clone());
        }
        let link_local =
            |address: &IpAddr| matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
        if let Some(address) = [spec.local, spec.remote].into_iter().flatten().find(link_local) {
            return Some(format!("{address} is an address of one link, which no program tells from others"));
        }
        if let Some(local) = spec.local.filter(|local| !self.local_addresses.has(*local, live.bound_to)) {
            return Some(format!("local {local} is no address of this host"));
        }
        if let Some(way_in_vrf) = live.bound_to.filter(|dev| self.is_in_a_vrf(*dev)) {
            let name = self.netlink.link_by_index(way_in_vrf).ok().flatten().map(|link| link.name);
            return Some(format!("dev {} belongs to a VRF", name.unwrap_or_default()));
        }
        match live.ends {
            None => Some("its device is out of sight".to_owned()),
            Some(ends) if !ends.up => Some("its device is down".to_owned()),
            Some(_) => None,
        }
    }

    fn is_in_a_vrf(&self, dev: u32) -> bool {
        self.reverse_paths.vrfs.contains_key(&dev) || self.reverse_paths.vrfs.values().any(|vrf| *vrf == dev)
    }

    /// What witness packets show of the host's rules, for a tunnel that is carried past them.
    pub(super) fn witnesses(&self, live: &Live) -> Option<String> {
        let why = live.decision.witnessed.as_ref()?;
        let standing = self.fast.witnesses.standing(live.peer?)?;
        closed(&standing).is_none().then(|| format!("{}; {why}", standing[0]))
    }

    /// Why no program carries a tunnel; `None` where one does, in both directions.
    pub(super) fn not_on_fast_path(&self, live: &Live) -> Option<String> {
        if live.spec().datapath == DatapathChoice::Userspace {
            return Some("datapath userspace is asked for".to_owned());
        }
        let Some(peer) = live.peer else {
            return Some("its device is a TUN, and there is no pair to attach to".to_owned());
        };
        if live.spec().underlay == UnderlayChoice::Raw {
            return Some("underlay raw is asked for, which is a socket of userspace".to_owned());
        }
        if let Some(why) = &self.fast.refused {
            return Some(why.clone());
        }
        if let Some(why) = self.fast.why_not.get(&peer) {
            return Some(why.to_string());
        }
        if let Err(why) = Entry::of(live.spec(), &NOWHERE) {
            return Some(why.to_string());
        }
        if !live.attached {
            return Some(self.fast.why_without(Some(peer)));
        }
        if let Some(why) = self.withheld(live) {
            return Some(why);
        }
        let Some(hop) = live.way.next_hop else { return live.way.none_because.clone() };
        if let Some(why) = self.fast.unattached.get(&(hop.ifindex, Point::Underlay)) {
            return Some(why.clone());
        }
        if let Some(why) = &live.decision.witnessed {
            if let Some(refused) = self.fast.unattached.get(&(hop.ifindex, Point::Witness)) {
                return Some(format!("{why}; witness packets cannot be taken away again: {refused}"));
            }
            let standing = self.fast.witnesses.standing(peer);
            let closed =
                standing.map(|ways| closed(&ways)).unwrap_or_else(|| Some("not tried yet".to_owned()));
            if let Some(closed) = closed {
                return Some(format!("{why}; {closed}"));
            }
        }
        let told = self.fast.told.as_ref().is_some_and(|told| told.egress.contains_key(&peer));
        (!told).then(|| "the programs could not be told of it: see the daemon's log".to_owned())
    }
}

/// What keeps a witnessed tunnel off the fast path, either way.
fn closed(ways: &[Standing; 2]) -> Option<String> {
    let closed = ["closed inbound", "closed outbound"].into_iter().zip(ways);
    let closed = closed.filter_map(|(way, standing)| match standing {
        Standing::Open => None,
        Standing::Closed(why) => Some(format!("{way}: {why}")),
    });
    let closed = closed.collect::<Vec<_>>().join("; ");
    (!closed.is_empty()).then_some(closed)
}

impl Live {
    /// Whether a program may carry it.
    fn is_candidate(&self) -> bool {
        may_be_carried(self.spec()) && self.attached
    }
}

fn may_be_carried(spec: &TunnelSpec) -> bool {
    spec.datapath != DatapathChoice::Userspace && spec.underlay != UnderlayChoice::Raw
}

/// A place for the question whether a program could carry a tunnel anywhere.
const NOWHERE: Place = Place {
    peer: 0,
    device: None,
    hand_over: false,
    device_mtu: 0,
    device_mac: [0; 6],
    peer_mac: [0; 6],
    dev: None,
    via: None,
    source: None,
    next_hop: None,
    neighbour_known: false,
    path_mtu: 0,
    forwards: false,
    withheld: false,
    witnessed: false,
};
