//! Where a tunnel is: the way its delivery packets take, and the two ends of its pair. The programs in the kernel are
//! told this, since they can ask nobody; userspace leaves both to the kernel.

use std::collections::HashMap;
use std::net::IpAddr;

use greway_fastpath::NextHop;
use greway_netlink::{Link, MacAddress, NeighbourState, Netlink, RouteKind, RouteOptions};
use greway_spec::TunnelSpec;

use super::moved;
use crate::observe;

/// The way to a remote, as the kernel's routing has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Way {
    /// Where delivery packets go first.
    pub(super) next_hop: Option<NextHop>,
    /// The source address that the kernel chooses.
    pub(super) source: Option<IpAddr>,
    /// The largest delivery packet in bytes.
    pub(super) path_mtu: u32,
    /// The neighbour there has answered, or there is none to ask; looked at for tunnels with `direct` alone.
    pub(super) neighbour_known: bool,
    /// Why there is no next hop that a program could send to; a sentence.
    pub(super) none_because: Option<String>,
}

/// The two ends of a tunnel's pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) device: MacAddress,
    pub(super) peer: MacAddress,
    /// The tunnel device is in this namespace.
    pub(super) here: bool,
    /// MTU of the tunnel device in bytes.
    pub(super) mtu: u32,
    /// Both are up.
    pub(super) up: bool,
}

/// The devices that ways lead by, each asked for once: many tunnels go by few.
#[derive(Debug)]
pub(super) struct Devices<'a> {
    netlink: &'a Netlink,
    known: HashMap<u32, Option<Link>>,
}

impl<'a> Devices<'a> {
    pub(super) fn new(netlink: &'a Netlink) -> Self {
        Self { netlink, known: HashMap::new() }
    }

    fn link(&mut self, index: u32) -> Option<Link> {
        let ask = || self.netlink.link_by_index(index).ok().flatten();
        self.known.entry(index).or_insert_with(ask).clone()
    }

    fn is_in_a_vrf(&mut self, link: &Link) -> bool {
        let is_vrf = |link: &Link| link.kind.as_deref() == Some("vrf");
        is_vrf(link) || link.master.and_then(|master| self.link(master)).as_ref().is_some_and(is_vrf)
    }
}

/// The way of a tunnel whose `dev` has the index `bound_to`.
pub(super) fn way(devices: &mut Devices<'_>, spec: &TunnelSpec, bound_to: Option<u32>) -> Way {
    let none = |why: String| Way { none_because: Some(why), ..Way::default() };
    let Some(remote) = spec.remote else { return none("it has no remote".to_owned()) };
    let options = RouteOptions { source: spec.local, mark: observe::mark(spec), oif: bound_to };
    let route = match devices.netlink.route_to(remote, &options) {
        Ok(route) if route.kind == RouteKind::Unicast => route,
        Ok(route) if route.kind == RouteKind::Local => return none(format!("{remote} is this host itself")),
        Ok(_) => return none(format!("there is no route to {remote}")),
        Err(error) => return none(format!("there is no route to {remote}: {error}")),
    };
    let Some(link) = devices.link(route.ifindex) else {
        return none(format!("the device of the route to {remote} is gone"));
    };
    let unusable = if observe::is_ours(devices.netlink, &link) {
        Some(format!("the route to {remote} leads into the tunnel {}", link.name))
    } else if devices.is_in_a_vrf(&link) {
        Some(format!("{} belongs to a VRF", link.name))
    } else if route.wraps {
        Some(format!("the route to {remote} wraps packets into something else (encap)"))
    } else if link.loopback() {
        Some(format!("{} is the loopback device", link.name))
    } else {
        None
    };
    let next_hop = NextHop { ifindex: route.ifindex, address: route.via.unwrap_or(remote) };
    Way {
        neighbour_known: spec.direct && is_known(devices.netlink, next_hop),
        next_hop: unusable.is_none().then_some(next_hop),
        source: spec.local.or(route.source),
        path_mtu: route.mtu.unwrap_or(link.mtu).min(LARGEST),
        none_because: unusable,
    }
}

/// Whether the kernel sends to the neighbour without asking for it first, as on devices without hardware addresses.
pub(super) fn is_known(netlink: &Netlink, NextHop { ifindex, address }: NextHop) -> bool {
    let unknown = |state| matches!(state, NeighbourState::Incomplete | NeighbourState::Failed);
    let link = netlink.link_by_index(ifindex).ok().flatten();
    if link.is_some_and(|link| link.address.is_none()) {
        return true;
    }
    let neighbours = netlink.neighbours(ifindex).unwrap_or_default();
    let found = neighbours.iter().find(|neighbour| neighbour.address == address);
    found.is_some_and(|neighbour| neighbour.link_address.is_some() && !unknown(neighbour.state))
}

/// The ends of the pair whose data plane's end has the index `peer`, wherever the other one is; `None` where it is
/// out of sight.
pub(super) fn ends(netlink: &Netlink, index: u32, peer: u32) -> Option<Ends> {
    let peer = netlink.link_by_index(peer).ok()??;
    let device = match peer.link_netns_id {
        None => netlink.link_by_index(index).ok()??,
        Some(_) => moved::elsewhere(netlink, &peer).ok()??,
    };
    let here = peer.link_netns_id.is_none();
    Some(Ends {
        device: device.address?,
        peer: peer.address?,
        here,
        mtu: device.mtu,
        up: device.up && peer.up,
    })
}

/// No datagram is larger.
const LARGEST: u32 = 65_535;
