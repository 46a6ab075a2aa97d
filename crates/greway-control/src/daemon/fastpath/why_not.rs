//! Why the programs carry a tunnel, or not: what is refused, what is withheld for now, and what `status` says.

use std::net::IpAddr;

use greway_fastpath::witness::Standing;
use greway_fastpath::{Entry, Place, Point};
use greway_spec::{DatapathChoice, TunnelSpec, UnderlayChoice};

use super::follow::may_be_carried;
use crate::daemon::host::{Host, Live};

impl Host {
    /// Refuses `datapath ebpf` where no program can do what it asks for.
    pub(in crate::daemon) fn refuse_fast_path(&mut self, spec: &TunnelSpec) -> Result<(), String> {
        let refused = |why: &str| {
            Err(format!("{}: datapath ebpf cannot be honoured: {why}; use auto or userspace", spec.name))
        };
        if spec.datapath != DatapathChoice::Ebpf {
            return match Entry::of(spec, &Place::default()) {
                Err(why) if spec.direct => {
                    Err(format!("{}: direct cannot be honoured: {why}; use nodirect", spec.name))
                }
                _ => Ok(()),
            };
        }
        if spec.underlay == UnderlayChoice::Raw {
            return refused("underlay raw is asked for as well, which is a socket of userspace");
        }
        if let Err(why) = Entry::of(spec, &Place::default()) {
            return refused(&why.to_string());
        }
        self.fast.load();
        match &self.fast.refused {
            Some(why) => refused(why),
            None => Ok(()),
        }
    }

    /// What `direct` breaks, where it is in force, or why it is not.
    pub(in crate::daemon) fn note_on_direct(&self, live: &Live) -> Option<String> {
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

    /// Why all packets of a tunnel are userspace's for now.
    pub(super) fn withheld(&self, live: &Live) -> Option<String> {
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
    pub(in crate::daemon) fn witnesses(&self, live: &Live) -> Option<String> {
        let why = live.decision.witnessed.as_ref()?;
        let standing = self.fast.witnesses.standing(live.peer?)?;
        closed(&standing).is_none().then(|| format!("{}; {why}", standing[0]))
    }

    /// Why no program carries a tunnel; `None` where one does, in both directions.
    pub(in crate::daemon) fn not_on_fast_path(&self, live: &Live) -> Option<String> {
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
        if let Err(why) = Entry::of(live.spec(), &Place::default()) {
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

/// Whether programs that are `attached` to a tunnel's pair carry it unless something is in the way for now.
pub(in crate::daemon) fn is_for_programs(spec: &TunnelSpec, attached: bool) -> bool {
    attached && may_be_carried(spec) && Entry::of(spec, &Place::default()).is_ok()
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
