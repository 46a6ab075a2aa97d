//! The multicast groups that tunnels have as their far end: joined as long as one of them is there.
//!
//! As the kernel's own tunnel does when it is opened (linux net/ipv4/ip_gre.c v6.18, `ipgre_open`): on the device that
//! the tunnel is bound to, else on the one that has its local address.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use greway_linux::multicast::Membership;

use crate::local::LocalAddresses;
use crate::port::Port;

/// Group, local address and device.
type Place = (IpAddr, Option<IpAddr>, Option<u32>);

/// The memberships. A group that could not be joined is tried again with the next change of tunnels or addresses.
#[derive(Debug, Default)]
pub(crate) struct Groups(HashMap<Place, Option<Membership>>);

impl Groups {
    /// The same after a tunnel was added or changed; nothing is to be done where none has a group.
    pub(crate) fn follow_one(&mut self, ports: &[Option<Port>], index: usize, here: &LocalAddresses) {
        let has_group = |port: &Port| port.tunnel.group().is_some();
        if !self.0.is_empty() || ports.get(index).and_then(Option::as_ref).is_some_and(has_group) {
            self.follow(ports, here);
        }
    }

    /// The same after a tunnel is gone.
    pub(crate) fn follow_rest(&mut self, ports: &[Option<Port>], here: &LocalAddresses) {
        if !self.0.is_empty() {
            self.follow(ports, here);
        }
    }

    /// Joins what the tunnels need and leaves what none needs.
    pub(crate) fn follow(&mut self, ports: &[Option<Port>], here: &LocalAddresses) {
        let place = |port: &Port| Some((port.tunnel.group()?, port.tunnel.local(), port.bound_to));
        let wanted = ports.iter().flatten().filter_map(place).collect::<BTreeSet<_>>();
        self.0.retain(|place, _| wanted.contains(place));
        for place in wanted {
            let (group, local, ifindex) = place;
            let membership = self.0.entry(place).or_default();
            // An address that moved is on another device: joined there.
            if local.is_some_and(|local| !here.has(local, ifindex)) {
                *membership = None;
                continue;
            }
            if membership.is_none() {
                match Membership::join(group, local, ifindex) {
                    Ok(joined) => *membership = Some(joined),
                    Err(error) => tracing::warn!(%group, %error, "the group cannot be joined"),
                }
            }
        }
    }
}
