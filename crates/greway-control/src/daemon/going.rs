//! Several tunnels that go as one.
//!
//! What takes the kernel a grace period, a device or a table that goes, is asked for all at once; and what it does for a
//! device that goes with addresses, which is a look at all routes of the host, is not left to it. A tunnel that cannot
//! go leaves the others to go as they should.

use std::collections::{BTreeMap, HashMap, HashSet};

use greway_netlink::{AddressEntry, LinkChange};
use greway_spec::DeviceName;

use super::act::wire_route;
use super::host::{Host, Live, with_causes};
use super::underlay::Remains;
use crate::api::Outcome;
use crate::apply::System;
use crate::plan::{self, Action};

impl Host {
    /// Takes tunnels down, each as [`Host::delete`] does. `more`: others follow, or these come again.
    pub(super) fn delete_these(&mut self, names: &[DeviceName], more: bool) -> Vec<Outcome> {
        let outcomes = self.together(|host| {
            host.together.iter_mut().for_each(|together| together.more = more);
            host.remove_these(names)
        });
        if self.tunnels.is_empty() && !self.ending && !more {
            self.look_at_steering();
            self.keep_injection();
        }
        outcomes
    }

    fn remove_these(&mut self, names: &[DeviceName]) -> Vec<Outcome> {
        let mut going = Vec::new();
        let mut seen = HashSet::new();
        for name in names.iter().filter(|name| seen.insert(*name)) {
            let Some(live) = self.tunnels.get(name) else { continue };
            // What it turned on is settled when the others are gone that go with it.
            going.push((name.clone(), plan::down(live.spec(), &[]), Vec::new()));
        }
        // All that is before the device.
        for (_, plan, failures) in &mut going {
            let before =
                plan.iter().filter(|action| matches!(action, Action::RemoveSnat(_) | Action::RemoveRule(..)));
            for action in before {
                failures.extend(self.execute(action).err().map(|error| format!("cannot {action}: {error}")));
            }
        }
        let carried = going.iter().map(|(name, ..)| name.clone()).collect::<Vec<_>>();
        self.let_through_of(&carried);
        let unsealed = self.unseal_these(&carried);
        let peers = carried.iter().filter_map(|name| self.tunnels.get(name)?.peer);
        self.fast.forget(peers.collect::<Vec<_>>());
        if let Err(error) = self.datapath.remove_these(&carried) {
            tracing::warn!(error = %with_causes(&error), "while tunnels are removed");
        }
        self.delete_devices(&carried);
        for (name, _, failures) in &mut going {
            failures.extend(unsealed.get(name).map(|error| format!("cannot stop carrying {name}: {error}")));
            // Mostly it is gone with the others.
            let delete = Action::DeleteDevice(name.clone());
            let deleted = self.execute(&delete);
            let stays = deleted.is_err();
            failures.extend(deleted.err().map(|error| format!("cannot {delete}: {error}")));
            let Some(live) = self.tunnels.get(name) else { continue };
            for family in self.to_stop(live) {
                let stop = Action::StopForwarding(family);
                failures.extend(self.execute(&stop).err().map(|error| format!("cannot {stop}: {error}")));
            }
            let Some(live) = self.tunnels.get(name).filter(|_| !stays) else { continue };
            let forget = Action::Forget(Box::new(live.spec().clone()));
            failures.extend(self.execute(&forget).err().map(|error| format!("cannot {forget}: {error}")));
        }
        let mut done = HashMap::new();
        for (name, plan, failures) in going {
            let outcome = if failures.is_empty() {
                Outcome::done(plan.iter().map(ToString::to_string).collect(), Vec::new())
            } else {
                let failures = failures.join("; ");
                // Its device is there, and it is not carried any more.
                if self.tunnels.remove(&name).is_some() {
                    self.remains.insert(name.clone(), Remains::because(failures.clone()));
                }
                Outcome::Failed(format!("{name}: {failures}"))
            };
            done.insert(name, outcome);
        }
        // What is no tunnel may be what is left of one; and who is named twice is gone the second time.
        let of_name =
            |name: &DeviceName| done.remove(name).unwrap_or_else(|| self.delete(name, false).into());
        names.iter().map(of_name).collect()
    }

    /// Takes the devices of carried tunnels away in one step, as far as that can be had: one by one each takes the
    /// kernel some 18 ms.
    fn delete_devices(&mut self, names: &[DeviceName]) {
        /// Fewer are not worth it.
        const FEW: usize = 3;
        if names.len() < FEW {
            return;
        }
        let Some(group) = self.free_group() else { return };
        // As `device::delete_known`: a device that was moved or exchanged is not taken for ours.
        let is_there = |live: &&Live| {
            let link = self.netlink.link_by_index(live.index).ok().flatten();
            link.is_some_and(|link| {
                live.peer.is_some() && link.peer_index == live.peer && link.link_netns_id.is_none()
            })
        };
        let going = names.iter().filter_map(|name| self.tunnels.get(name)).filter(is_there);
        let going = going.map(|live| (live.index, live)).collect::<BTreeMap<_, _>>();
        self.strip(&going);
        let change = LinkChange { group: Some(group), ..LinkChange::default() };
        let changed = going.keys().filter(|index| self.netlink.change_link(**index, &change).is_ok()).count();
        // Whatever is still there is deleted by itself, and told of then.
        if changed > 0
            && let Err(error) = self.netlink.delete_group(group)
        {
            tracing::debug!(%error, "devices are deleted one by one");
        }
    }

    /// Takes the addresses and routes of IPv4 from devices that go. Those that a device goes with make the kernel look
    /// through all its routes (linux net/ipv4/fib_frontend.c `fib_disable_ip`, v6.18): with ten thousand tunnels 2 ms
    /// each. What stays here goes with the device all the same.
    fn strip(&self, going: &BTreeMap<u32, &Live>) {
        for (index, live) in going {
            let routes = live.spec().inner.routes.iter().filter(|route| route.destination.address.is_ipv4());
            for route in routes {
                let _ = self.netlink.delete_route(&wire_route(route, *index));
            }
        }
        let on_them =
            |entry: &AddressEntry| going.contains_key(&entry.index) && entry.address.local.is_ipv4();
        for entry in self.netlink.addresses(None).unwrap_or_default().into_iter().filter(on_them) {
            let _ = self.netlink.delete_address(entry.index, entry.address);
        }
    }

    /// A group of devices that has none in it. Those of many that go one after the other go by the same: each is gone a
    /// moment later with all that is in it.
    fn free_group(&mut self) -> Option<u32> {
        if let Some(group) = self.coming.free_group() {
            return Some(group);
        }
        let links = self.netlink.links().ok()?;
        let taken = links.iter().map(|link| link.group).collect::<HashSet<_>>();
        let free = (0x6772_0000..0x6772_ffff).find(|group| !taken.contains(group))?;
        self.coming.note_free_group(free);
        Some(free)
    }
}
