//! The host as the daemon changes it: the tunnels it runs, and what is asked of it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use greway_datapath::{Datapath, Exit, LocalAddresses, PortSpec, ReversePaths, Traffic};
use greway_fastpath::NextHop;
use greway_linux::MacAddr;
use greway_netlink::Netlink;
use greway_netlink::nftables::Nftables;
use greway_spec::{Change, DatapathChoice, DeviceName, TunnelSpec};

use super::Options;
use super::between::Between;
use super::counted::Counted;
use super::device::{self, DeviceError};
use super::early_drop::EarlyDrop;
use super::exits::Exits;
use super::fastpath::{self, FastPath};
use super::firewall::{Decision, Rules};
use super::injection::Injecting;
use super::place::{Ends, Way};
use super::quiet::Quiet;
use super::reverse_path;
use super::steering::Steering;
use super::together::{Coming, Together};
use super::underlay::Remains;
use crate::api::{Outcome, Reply};
use crate::apply;
use crate::observe::Observed;
use crate::plan::{self, Action};
use crate::sd_notify::Heart;
use crate::store::{Store, Stored};
use crate::sysctl::{self, Forwarding};

/// Everything the daemon holds.
pub(super) struct Host {
    pub(super) netlink: Netlink,
    pub(super) nftables: Option<Nftables>,
    pub(super) datapath: Datapath,
    pub(super) store: Store,
    pub(super) tunnels: BTreeMap<DeviceName, Live>,
    /// Tunnels of an earlier daemon that could not be taken over, by name, and why.
    pub(super) remains: BTreeMap<DeviceName, Remains>,
    pub(super) rules: Rules,
    pub(super) local_addresses: LocalAddresses,
    pub(super) reverse_paths: ReversePaths,
    pub(super) forwards: bool,
    pub(super) started: Instant,
    /// The daemon was told to end: nothing is changed any more, or it would be left half made.
    pub(super) ending: bool,
    /// Beats while many tunnels are removed at once: that is work too.
    pub(super) heart: Heart,
    pub(super) counted: Counted,
    /// Peers that are not to hear from the kernel's own GRE.
    pub(super) quiet: Quiet,
    /// Who leaves past the IP stack, of many.
    pub(super) exits: Exits,
    /// What super-packets are handed to the kernel by.
    pub(super) injecting: Injecting,
    /// What goes no further up the IP stack.
    pub(super) early_drop: EarlyDrop,
    /// What carries packets beside the data plane.
    pub(super) fast: FastPath,
    /// What is put off while several tunnels are changed as one.
    pub(super) together: Option<Together>,
    /// What is put off further, since others follow.
    pub(super) coming: Coming,
    /// The rule is there that seals many together.
    pub(super) group_sealed: bool,
    /// Which devices below spread what they receive over CPUs.
    pub(super) steering: Steering,
    /// Why the daemon's options are not those that somebody wrote.
    pub(super) doubt: Option<String>,
}

/// A tunnel that is carried.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) stored: Stored,
    /// Index of the tunnel device.
    pub(super) index: u32,
    /// Index of the data plane's end.
    pub(super) peer: Option<u32>,
    /// The MTU in bytes of the tunnel device that the data plane was told.
    pub(super) mtu: u32,
    pub(super) traffic: Traffic,
    pub(super) decision: Decision,
    /// Index of the device that it is bound to (`dev`).
    pub(super) bound_to: Option<u32>,
    /// The data plane's end was sealed, and is to stay so.
    pub(super) sealed: bool,
    /// It is sealed by the rule that many have together.
    pub(super) sealed_with_others: bool,
    /// A program is at the data plane's end, and what it declines is what the data plane takes there.
    pub(super) attached: bool,
    /// What of it somebody took away and cannot be put back.
    pub(super) trouble: Option<String>,
    /// The MTU in bytes that the way to the remote leaves, when it was last looked at.
    pub(super) mtu_by_path: Option<u32>,
    /// Where its delivery packets go.
    pub(super) way: Way,
    /// The next hop of the short way that its packets may leave by, where userspace carries them.
    pub(super) exit_by: Option<NextHop>,
    /// That way as the data plane was told of it; it needs the neighbour's address.
    pub(super) exit: Option<Exit>,
    /// The ends of its pair, where it has one in sight.
    pub(super) ends: Option<Ends>,
    /// What the kernel had lost between them before this daemon carried the tunnel, or before they could carry at all.
    pub(super) lost_before: Between,
}

impl Live {
    pub(super) fn spec(&self) -> &TunnelSpec {
        &self.stored.spec
    }

    pub(super) fn has_no_remote(&self) -> bool {
        self.spec().remote.is_none()
    }
}

/// Tunnels removed at once; between two such batches there is a sign of life.
const AT_ONCE: usize = 512;

impl Host {
    /// Opens what every tunnel needs. The error is a sentence.
    pub(super) fn new(state: &Path, options: &Options) -> Result<Self, String> {
        let netlink = Netlink::open().map_err(|error| error.to_string())?;
        let datapath =
            Datapath::start(options.busy_poll, options.workers).map_err(|error| with_causes(&error))?;
        let mut host = Self {
            netlink,
            nftables: None,
            datapath,
            store: Store::new(state),
            tunnels: BTreeMap::new(),
            remains: BTreeMap::new(),
            rules: Rules::default(),
            local_addresses: LocalAddresses::default(),
            reverse_paths: ReversePaths::default(),
            forwards: false,
            started: Instant::now(),
            ending: false,
            heart: Heart::default(),
            counted: Counted::default(),
            quiet: Quiet::default(),
            exits: Exits::default(),
            injecting: Injecting::new(options.super_packets),
            early_drop: EarlyDrop::default(),
            fast: FastPath::new(&options.fast_path),
            together: None,
            coming: Coming::default(),
            group_sealed: false,
            steering: Steering::new(state),
            doubt: None,
        };
        host.look_at_addresses();
        host.open_nftables();
        host.look_at_rules();
        Ok(host)
    }

    /// The specs of all tunnels.
    pub(super) fn specs(&self) -> Vec<TunnelSpec> {
        self.tunnels.values().map(|live| live.spec().clone()).collect()
    }

    /// `tunnel add`
    pub(super) fn add(&mut self, spec: TunnelSpec) -> Result<Reply, String> {
        if self.tunnels.contains_key(&spec.name) {
            return Err(format!(
                "tunnel {0} exists already: change it with `greway tunnel change {0} …`, or choose another name",
                spec.name
            ));
        }
        self.become_(spec)
    }

    /// `tunnel change`
    pub(super) fn change(&mut self, spec: TunnelSpec) -> Result<Reply, String> {
        if !self.tunnels.contains_key(&spec.name) {
            return Err(no_such(&spec.name));
        }
        self.become_(spec)
    }

    /// `up`
    pub(super) fn up(&mut self, spec: TunnelSpec, dry_run: bool) -> Result<Reply, String> {
        if let Some(live) = self.tunnels.get(&spec.name) {
            let (old, new) = (&live.spec().origin, &spec.origin);
            if old != new {
                return Err(format!(
                    "tunnel {} is defined by {old} already, and now by {new}: take the first down before",
                    spec.name
                ));
            }
        }
        if dry_run {
            let plan = self.refuse_fast_path(&spec).and_then(|()| self.plan(&spec));
            self.rest_fast_path();
            let warnings = self.doubts(&spec);
            return Ok(done(&plan?, warnings));
        }
        self.become_(spec)
    }

    /// `tunnel del`, `down`
    pub(super) fn delete(&mut self, name: &DeviceName, dry_run: bool) -> Result<Reply, String> {
        let Some(live) = self.tunnels.get(name) else {
            return if self.leaves_remains(name) { self.sweep(name, dry_run) } else { Err(no_such(name)) };
        };
        let plan = plan::down(live.spec(), &self.to_stop(live));
        if dry_run {
            return Ok(done(&plan, Vec::new()));
        }
        let failures = apply::tear_down(&plan, self);
        if !failures.is_empty() {
            let failures = failures.join("; ");
            // Its device is there, and it is not carried any more.
            if self.tunnels.remove(name).is_some() {
                self.remains.insert(name.clone(), Remains::because(failures.clone()));
            }
            return Err(format!("{name}: {failures}"));
        }
        // The devices of the others are looked at when the kernel tells that this one's is gone.
        if self.tunnels.is_empty() && !self.ending {
            self.look_at_steering();
            self.keep_injection();
        }
        Ok(done(&plan, Vec::new()))
    }

    /// `daemon --stop`. When something stays, so does the daemon.
    pub(super) fn delete_all(&mut self) -> Result<Reply, String> {
        self.ending = true;
        let mut actions = Vec::new();
        let mut failures = Vec::new();
        let names = self.tunnels.keys().chain(self.remains.keys()).cloned().collect::<Vec<_>>();
        let last = names.len().saturating_sub(1) / AT_ONCE;
        for (portion, some) in names.chunks(AT_ONCE).enumerate() {
            for outcome in self.delete_these(some, portion < last) {
                match outcome {
                    Outcome::Done { actions: more, .. } => actions.extend(more),
                    Outcome::Failed(error) => failures.push(error),
                }
            }
            if self.heart.is_due() {
                self.heart.beat();
            }
        }
        if !failures.is_empty() {
            self.ending = false;
            return Err(failures.join("; "));
        }
        Ok(Reply::Done { actions, warnings: self.stop_steering() })
    }

    /// Ends without touching a tunnel.
    pub(super) fn leave(&mut self) -> Reply {
        self.ending = true;
        Reply::Done {
            actions: vec!["leave the tunnels for the next daemon".to_owned()],
            warnings: Vec::new(),
        }
    }

    /// Reads this host's addresses again and tells the data plane.
    pub(super) fn look_at_addresses(&mut self) {
        match self.netlink.addresses(None) {
            Ok(entries) => {
                let mut known = LocalAddresses::default();
                // The kernel neither sends from nor gives up an address before it is known to be nobody else's.
                for entry in entries.into_iter().filter(|entry| !entry.tentative()) {
                    known.insert(entry.address.local, entry.index);
                }
                let before = std::mem::replace(&mut self.local_addresses, known);
                self.datapath.set_local_addresses(self.local_addresses.clone());
                if before != self.local_addresses {
                    self.keep_early_drop();
                }
            }
            Err(error) => tracing::warn!(%error, "the addresses of this host cannot be read"),
        }
    }

    /// Reads the reverse path filters again, and where the ways to the peers lead.
    pub(super) fn look_at_reverse_paths(&mut self) {
        match reverse_path::read(&self.netlink, self.tunnels.values()) {
            // Told only when it is news: the data plane of an idle tunnel is to sleep.
            Ok(paths) if paths != self.reverse_paths => {
                self.datapath.set_reverse_paths(paths.clone());
                self.reverse_paths = paths;
                self.follow_fast_path();
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the reverse path filters cannot be read"),
        }
    }

    /// What the daemon does, in a few words.
    pub(super) fn at_a_glance(&self) -> String {
        match self.tunnels.len() {
            0 => "answers; no tunnel".to_owned(),
            1 => "carries 1 tunnel".to_owned(),
            count => format!("carries {count} tunnels"),
        }
    }

    /// Whether this host forwards: then tunnels carry what others send, too.
    pub(super) fn look_at_forwarding(&mut self) {
        let forwards = [Forwarding::Ipv4, Forwarding::Ipv6].into_iter().any(sysctl::forwarding);
        if forwards != self.forwards {
            self.datapath.set_forwards(forwards);
            self.forwards = forwards;
            self.follow_fast_path();
        }
    }

    /// A device went away: a tunnel whose device was deleted is deleted. One that was moved to
    /// another namespace lives on as long as the data plane's end is here.
    pub(super) fn device_removed(&mut self, index: u32, tunnel: Option<&DeviceName>) {
        let Some(live) = tunnel.and_then(|name| self.tunnels.get(name)) else { return };
        if live.peer != Some(index) && self.has_peer_end(live) {
            tracing::info!(tunnel = %live.spec().name, "its device moved to another namespace");
            return;
        }
        let name = live.spec().name.clone();
        tracing::info!(tunnel = %name, "its device was deleted: removed");
        if let Err(error) = self.delete(&name, false) {
            tracing::warn!(tunnel = %name, error, "not all of it could be removed");
        }
    }

    /// Whether each tunnel is known to lead by a device of the underlay.
    pub(super) fn all_ways_are_known(&self) -> bool {
        self.tunnels.values().all(|live| live.way.next_hop.is_some())
    }

    /// The tunnels that devices, or their other ends, belong to, of those whose index is `wanted`.
    pub(super) fn by_device(&self, wanted: impl Fn(u32) -> bool) -> HashMap<u32, DeviceName> {
        let ends = |live: &Live| [Some(live.index), live.peer].into_iter().flatten();
        let all = self.tunnels.iter().flat_map(|(name, live)| ends(live).map(move |end| (end, name)));
        all.filter(|(end, _)| wanted(*end)).map(|(end, name)| (end, name.clone())).collect()
    }

    /// Whether the data plane's end of a pair is here, and so the tunnel device is somewhere.
    pub(super) fn has_peer_end(&self, live: &Live) -> bool {
        live.peer.is_some_and(|peer| self.netlink.link_by_index(peer).is_ok_and(|link| link.is_some()))
    }

    /// Looks for devices that went away unseen.
    pub(super) fn devices_gone(&mut self) {
        let tunnels = self.tunnels.iter().map(|(name, live)| (name.clone(), live.index)).collect::<Vec<_>>();
        for (name, index) in tunnels {
            if self.netlink.link_by_index(index).is_ok_and(|link| link.is_none()) {
                self.device_removed(index, Some(&name));
            }
        }
    }

    /// A device changed: its MTU decides what fits into it, and its name is the tunnel's.
    pub(super) fn device_changed(
        &mut self,
        index: u32,
        tunnel: Option<&DeviceName>,
        name: &str,
        mtu: Option<u32>,
    ) {
        let live = tunnel.and_then(|name| self.tunnels.get_mut(name));
        let Some(live) = live.filter(|live| live.index == index) else { return };
        // Of ten thousand that come each is told of several times.
        if name == live.spec().name.as_str() && mtu == Some(live.mtu) {
            return;
        }
        let Ok(Some(link)) = self.netlink.link_by_index(index) else { return };
        live.mtu = link.mtu;
        self.datapath.set_mtu(&live.stored.spec.name, link.mtu);
        if link.name != live.spec().name.as_str() {
            self.follow_names();
        }
    }

    /// Makes a tunnel what `spec` says, or leaves everything as it was.
    fn become_(&mut self, spec: TunnelSpec) -> Result<Reply, String> {
        let outcome = self.try_to_become(spec);
        if outcome.is_err() {
            // They may have been loaded to see whether they can be.
            self.rest_fast_path();
        }
        outcome
    }

    fn try_to_become(&mut self, spec: TunnelSpec) -> Result<Reply, String> {
        self.refuse_fast_path(&spec)?;
        let plan = self.plan(&spec)?;
        let current = self.tunnels.get(&spec.name).map(|live| live.spec().clone());
        let warnings = self.doubts(&spec);
        if !plan.is_empty() {
            self.no_longer_as_seen(&spec.name);
        }
        apply::set_up(&plan, current.as_ref(), self).map_err(|error| format!("{}: {error}", spec.name))?;
        // A new one has just been given it.
        if current.is_some() {
            self.look_at_mtu(&spec.name);
        }
        if !spec.inner.forward {
            self.hand_over_forwarding(&spec.name);
        }
        Ok(done(&plan, warnings))
    }

    /// Refuses what cannot be on this host, whatever is made for it.
    pub(super) fn refuse(&mut self, spec: &TunnelSpec) -> Result<(), String> {
        if let Some(conflict) = self.conflict(spec) {
            return Err(conflict);
        }
        self.refuse_kernel_tunnel(spec)?;
        if let Some(dev) = &spec.dev
            && self.netlink.link_by_name(dev.as_str()).map_err(|error| error.to_string())?.is_none()
        {
            return Err(format!("{}: dev {dev}: there is no such device on this host", spec.name));
        }
        Ok(())
    }

    /// What makes a tunnel what `spec` says; refused is what cannot be.
    fn plan(&mut self, spec: &TunnelSpec) -> Result<Vec<Action>, String> {
        self.refuse(spec)?;
        let leaves_remains = !self.tunnels.contains_key(&spec.name) && self.leaves_remains(&spec.name);
        let beside = self.seen(&spec.name);
        let live = self.tunnels.get(&spec.name);
        if let Some(live) = live
            && let Change::Recreate(reason) = Change::between(live.spec(), spec)
        {
            return Err(format!(
                "tunnel {0} cannot become that in place, because {reason}: delete it first (`greway tunnel del {0}`)",
                spec.name
            ));
        }
        if leaves_remains {
            let why = self.remains.get(&spec.name);
            let why = why.map_or("greway made it and knows no tunnel for it", |remains| &remains.why);
            return Err(format!(
                "the name {0} is taken by what is left of a tunnel ({why}): `greway tunnel del {0}` removes it",
                spec.name
            ));
        }
        let current = live.map(Live::spec);
        let observed = match &beside {
            Some(beside) => Observed::read_beside(&self.netlink, spec, current, beside),
            None => Observed::read(&self.netlink, spec, current),
        };
        let mut observed = observed.map_err(|error| error.to_string())?;
        if let Some(live) = live {
            observed.to_stop = self.to_stop(live);
            // A device that is carried is ours, whatever its alias says by now.
            if let Some(device) = observed.device.as_mut().filter(|device| device.index == live.index) {
                device.ours = true;
            }
            if observed.device.is_none() {
                observed.device = self.observed_elsewhere(live.spec());
                let away = observed.device.is_some();
                let plan = plan::up(spec, Some(live.spec()), &observed).map_err(|error| error.to_string())?;
                return if away { super::moved::refuse_reaching(&plan).map(|()| plan) } else { Ok(plan) };
            }
            // What this kernel refused to seal is carried without.
            observed.sealed = observed.sealed.filter(|_| live.sealed);
        }
        plan::up(spec, live.map(Live::spec), &observed).map_err(|error| error.to_string())
    }

    /// What works as asked, but hardly as meant.
    fn doubts(&self, spec: &TunnelSpec) -> Vec<String> {
        let name = &spec.name;
        let dev = self.bound_to(spec).ok().flatten();
        let here = |address: IpAddr| self.local_addresses.has(address, dev);
        let mut doubts = Vec::new();
        match spec.remote {
            None => doubts.push(format!(
                "{name}: it has no remote, so any host may send into it: name the peer with remote, or let the \
                 firewall say who may (IP protocol 47, GRE)"
            )),
            Some(group) if group.is_multicast() => doubts.push(format!(
                "{name}: remote {group} is a group, so any host that reaches it may send into it: let the firewall \
                 say who may (IP protocol 47, GRE)"
            )),
            Some(_) => {}
        }
        let (local, Some(remote)) = (spec.local, spec.remote) else { return doubts };
        match (here(remote), local.map(here)) {
            (true, Some(true)) if spec.allow_localremote => {}
            (true, Some(false)) => doubts.push(format!(
                "{name}: remote {remote} is this host's own address and local is not: are they swapped?"
            )),
            (true, _) => doubts.push(format!("{name}: remote {remote} is this host's own address")),
            (false, Some(false)) => doubts.push(format!(
                "{name}: local {} is not an address of this host yet: nothing can be sent or received until it is",
                local.unwrap_or(remote)
            )),
            _ => {}
        }
        doubts
    }

    /// Opens a device's sockets and starts to carry.
    pub(super) fn carry(&mut self, stored: Stored, index: Option<u32>) -> Result<(), DeviceError> {
        let spec = stored.spec.clone();
        let just_made = self.coming.made.take().filter(|(name, _)| index.is_none() && *name == spec.name);
        let mut device = match just_made {
            Some((_, device)) => device,
            None => device::open(&self.netlink, &spec.name, index)?,
        };
        // A program at the end of the pair keeps what comes out of it from the host's own stack as well.
        let attached = self.attach_to_pair(&spec, device.peer);
        if attached {
            device.take_declined();
        } else if spec.datapath == DatapathChoice::Ebpf && index.is_none() {
            // One that is there already goes on as it can.
            let why = self.fast.why_without(device.peer);
            return Err(DeviceError::NoProgram { name: spec.name, why });
        }
        let decision = self.rules.decide(&spec, fastpath::is_for_programs(&spec, attached));
        let bound_to = self.bound_to(&spec)?;
        // Word of an address that was added just before may still be on its way, and packets may not.
        if spec.local.is_some_and(|local| !self.local_addresses.has(local, bound_to)) {
            self.look_at_addresses_once();
        }
        let port = PortSpec {
            overlay: device.overlay,
            receive: decision.receive,
            bound_to,
            device_mtu: device.mtu,
            first_sequence: self.first_sequence(&spec),
            sequence: Box::new(self.store.sequence_file(&spec.name)),
            neighbours: self.neighbours(&spec, device.index),
            spec: spec.clone(),
        };
        let traffic = self.datapath.add(port).map_err(DeviceError::Datapath)?;
        let (index, peer) = (device.index, device.peer);
        // After all that can fail, so that nothing is left of it then; a new device is not up yet.
        let to_seal = peer.filter(|_| !attached);
        // Those of an earlier daemon are as they were.
        let has_own = to_seal.is_some() && self.has_own_seal(&spec.name);
        let sealed_with_others =
            !has_own && to_seal.is_some_and(|peer| self.seal_with_others(peer, device.peer_group));
        let sealed = to_seal.is_some() && !sealed_with_others && (has_own || self.seal(&spec.name));
        if attached
            && self.rules.may_be_sealed(&spec.name)
            && let Err(error) = self.unseal(&spec.name)
        {
            tracing::warn!(tunnel = %spec.name, %error, "the seal that an earlier daemon needed stays");
        }
        let mtu_by_path = self.mtu_by_path(&spec);
        let (way, ends) = (Way::default(), None);
        let live = Live {
            stored,
            index,
            peer,
            mtu: device.mtu,
            traffic,
            decision,
            bound_to,
            sealed,
            sealed_with_others,
            attached,
            trouble: None,
            mtu_by_path,
            way,
            exit_by: None,
            exit: None,
            ends,
            lost_before: device.lost,
        };
        self.tunnels.insert(spec.name.clone(), live);
        self.note_identity(&spec);
        if self.put_off(&spec.name) {
            return Ok(());
        }
        self.keep_peers_quiet(None);
        self.look_at_reverse_paths();
        self.look_at_forwarding();
        self.look_at_place(&spec.name);
        Ok(())
    }

    /// What the neighbour table has on the device of a tunnel without a remote. What cannot be read is asked for anew.
    fn neighbours(&self, spec: &TunnelSpec, index: u32) -> Vec<(IpAddr, MacAddr)> {
        if spec.remote.is_some() {
            return Vec::new();
        }
        let known = self.netlink.neighbours(index).unwrap_or_default().into_iter();
        known.filter_map(|known| Some((known.address, MacAddr::new(known.link_address?)))).collect()
    }

    /// Its own number where it has one, else that of the last tunnel between its ends, which is its own from now on.
    fn first_sequence(&self, spec: &TunnelSpec) -> u32 {
        let own = self.store.sequence(&spec.name);
        let last = self.counted.next(spec);
        if own != 0 || last == 0 {
            return own;
        }
        if let Err(error) = self.store.save_sequence(&spec.name, last) {
            tracing::warn!(tunnel = %spec.name, %error, "its sequence numbers are not kept until it sends");
        }
        last
    }

    pub(super) fn bound_to(&self, spec: &TunnelSpec) -> Result<Option<u32>, DeviceError> {
        match &spec.dev {
            // Without its device it would send by another way than it was told to.
            Some(dev) => match self.netlink.link_by_name(dev.as_str())? {
                Some(link) => Ok(Some(link.index)),
                None => Err(DeviceError::NoUnderlay(dev.clone())),
            },
            None => Ok(None),
        }
    }
}

/// An error and what caused it, in one sentence.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(&format!(": {inner_text}"));
        }
        cause = inner.source();
    }
    text
}

pub(super) fn done(plan: &[Action], warnings: Vec<String>) -> Reply {
    Reply::Done { actions: plan.iter().map(ToString::to_string).collect(), warnings }
}

fn no_such(name: &DeviceName) -> String {
    format!("there is no tunnel {name} here; `greway tunnel show` lists those there are")
}
