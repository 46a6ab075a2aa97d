//! Which tunnels the programs are told of: looked at again when a tunnel, a route, a device, an address or a rule changes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use greway_datapath::{Filter, News, Tap};
use greway_fastpath::{Entry, Member, Place, Point, Table};
use greway_spec::{DatapathChoice, DeviceName, TunnelSpec, UnderlayChoice};

use super::opening::Candidate;
use crate::daemon::device;
use crate::daemon::host::{Host, Live, with_causes};
use crate::daemon::place::{self, Devices};
use crate::daemon::witness::Subject;

impl Host {
    /// Has a program at the end of a pair, where one may carry the tunnel some time.
    pub(in crate::daemon) fn attach_to_pair(&mut self, spec: &TunnelSpec, peer: Option<u32>) -> bool {
        may_be_carried(spec)
            && spec.remote.is_some_and(|remote| !remote.is_multicast())
            && peer.is_some_and(|peer| self.fast.attach_to(&device::peer_name(&spec.name), peer))
    }

    /// The same for a tunnel that was made without, and is now to be carried by one where it can be.
    pub(in crate::daemon) fn attach_later(&mut self, spec: &TunnelSpec) {
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
        let Some(live) = self.tunnels.get_mut(&spec.name) else { return };
        (live.attached, live.sealed) = (true, false);
        if std::mem::take(&mut live.sealed_with_others)
            && let Some(peer) = live.peer
        {
            self.unseal_from_others(peer);
            self.keep_group_seal(None);
        }
    }

    /// Looks where all tunnels are, and tells the programs and userspace what is new.
    pub(in crate::daemon) fn look_at_places(&mut self) {
        if self.fast.waits {
            return;
        }
        self.look_at_exits();
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
    pub(in crate::daemon) fn look_at_place(&mut self, name: &DeviceName) {
        if self.fast.waits {
            return;
        }
        self.look_at_exits_of(&BTreeSet::from([name.clone()]));
        if let Some(live) = self.tunnels.get_mut(name).filter(|live| live.is_candidate()) {
            live.way = place::way(&mut Devices::new(&self.netlink), &live.stored.spec, live.bound_to);
            live.ends = live.peer.and_then(|peer| place::ends(&self.netlink, live.index, peer));
        }
        self.follow_fast_path();
    }

    /// The same after several came or changed.
    pub(in crate::daemon) fn look_at_places_of(&mut self, names: &BTreeSet<DeviceName>) {
        if self.fast.waits {
            return;
        }
        self.look_at_exits_of(names);
        let mut devices = Devices::new(&self.netlink);
        for name in names {
            if let Some(live) = self.tunnels.get_mut(name).filter(|live| live.is_candidate()) {
                live.way = place::way(&mut devices, &live.stored.spec, live.bound_to);
                live.ends = live.peer.and_then(|peer| place::ends(&self.netlink, live.index, peer));
            }
        }
        self.follow_fast_path();
    }

    /// The same after its device was changed from here, and nothing else. The kernel tells of that as well, later.
    pub(in crate::daemon) fn look_at_ends(&mut self, name: &DeviceName) {
        if self.put_off(name) || self.fast.waits {
            return;
        }
        if let Some(live) = self.tunnels.get_mut(name).filter(|live| live.is_candidate()) {
            live.ends = live.peer.and_then(|peer| place::ends(&self.netlink, live.index, peer));
        }
        self.follow_fast_path();
    }

    /// Looks whether the neighbours of tunnels with `direct` are still known, which the programs cannot see.
    pub(in crate::daemon) fn look_at_neighbours(&mut self) {
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

    /// What the data plane heard concerns what the programs send (T18).
    pub(in crate::daemon) fn heed_news(&mut self) {
        let mut concerned = BTreeSet::new();
        for news in self.datapath.take_news() {
            match news {
                News::Unreachable { name, packets } => {
                    if let Some(peer) = self.tunnels.get(&name).and_then(|live| live.peer) {
                        self.fast.ask_for(peer, packets);
                    }
                }
                News::PathMtu { remote } => {
                    let to_it = self.tunnels.values().filter(|live| live.spec().remote == Some(remote));
                    concerned.extend(to_it.map(|live| live.spec().name.clone()));
                }
            }
        }
        // The kernel may learn it after us. What is too large until then is told of once more.
        if !concerned.is_empty() {
            self.look_at_places_of(&concerned);
        }
    }

    /// Lets tunnels go to the programs that waited for it. Says how soon it is to be looked at again, where some wait.
    pub(in crate::daemon) fn open_fast_path(&mut self) -> Option<Duration> {
        self.fast.open(&self.datapath);
        self.fast.wait()
    }

    /// Takes everything of the programs away where no tunnel has one. Says whether that is so.
    pub(in crate::daemon) fn rest_fast_path(&mut self) -> bool {
        let rests = !self.tunnels.values().any(|live| live.attached);
        if rests {
            self.fast.witnesses.end(&self.datapath);
            self.fast.remove();
        }
        rests
    }

    /// Tells the programs what is new of tunnels, rules and addresses; where the tunnels are was looked at before.
    pub(in crate::daemon) fn follow_fast_path(&mut self) {
        if self.fast.waits {
            return;
        }
        if self.rest_fast_path() {
            return;
        }
        let places =
            self.tunnels.values().filter_map(|live| Some((live, self.place(live)?))).collect::<Vec<_>>();
        let members = places.iter().map(|(live, place)| Member {
            spec: live.spec(),
            place: *place,
            wanted: live.is_candidate(),
        });
        let mut table = Table::of(members);
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
        let candidates = places.iter().filter(|(_, place)| !place.witnessed).map(|(live, place)| Candidate {
            name: &live.spec().name,
            peer: place.peer,
            key: Entry::key_of(live.spec()),
            hop: place.next_hop.map(|hop| hop.ifindex),
        });
        self.fast.hold(&mut table, &wanted, candidates);
        let local = self.local_addresses.anywhere().collect();
        self.fast.tell(table, local);
        self.fast.adopt();
        let netlink = &self.netlink;
        self.fast.attach(&wanted, |index| Some(netlink.link_by_index(index).ok()??.name));
        self.fast.end_of_adoption();
        if let Some(programs) = &self.fast.programs {
            self.fast.witnesses.follow(subjects, programs, &self.datapath);
        }
        self.fast.open(&self.datapath);
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
}

impl Live {
    /// Whether a program may carry it.
    fn is_candidate(&self) -> bool {
        may_be_carried(self.spec()) && self.attached
    }
}

pub(super) fn may_be_carried(spec: &TunnelSpec) -> bool {
    spec.datapath != DatapathChoice::Userspace && spec.underlay != UnderlayChoice::Raw
}
