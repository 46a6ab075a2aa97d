//! A tunnel whose device was moved to another network namespace (`ip link set tun0 netns X`): carried from here, where its
//! underlay is, as the kernel's own tunnels are. What concerns the device itself is done there and by whoever moved
//! it, not from here.

use std::net::IpAddr;

use greway_engine::nbma;
use greway_netlink::{Link, Netlink, NetlinkError};
use greway_spec::{DeviceName, InnerNeighbour, TunnelSpec};

use super::device::{self, Device};
use super::host::Host;
use crate::observe::ObservedDevice;
use crate::plan::Action;

/// The device of the pair whose other end, the data plane's, is here.
pub(super) fn elsewhere(netlink: &Netlink, peer: &Link) -> Result<Option<Link>, NetlinkError> {
    match (peer.peer_index, peer.link_netns_id) {
        (Some(index), Some(namespace)) => netlink.link_in(namespace, index),
        _ => Ok(None),
    }
}

/// The device of a tunnel that an earlier daemon carried, as the data plane needs it. `None` where the kernel does not
/// show it: in a namespace that is not ours to look into.
pub(super) fn open(netlink: &Netlink, name: &DeviceName) -> Result<Option<Device>, NetlinkError> {
    let Some(peer) = device::ours(netlink, &device::peer_name(name))? else { return Ok(None) };
    let Some(link) = elsewhere(netlink, &peer)? else { return Ok(None) };
    Ok(Device::of_pair(&link, &peer))
}

impl Host {
    /// The device of a carried tunnel that is in another namespace, as a plan sees it: what the tunnel says of its inside
    /// is left to who has the device. `None`: it is here, or gone.
    pub(super) fn observed_elsewhere(&self, current: &TunnelSpec) -> Option<ObservedDevice> {
        let live = self.tunnels.get(&current.name)?;
        let peer = self.netlink.link_by_index(live.peer?).ok()??;
        let link = elsewhere(&self.netlink, &peer).ok()??;
        Some(ObservedDevice {
            index: link.index,
            ours: true,
            kind: "veth".to_owned(),
            up: !current.inner.link_down,
            mtu: link.mtu,
            ipv6_mtu: None,
            addresses: current.inner.addresses.clone(),
            routes: current.inner.routes.clone(),
            neighbours: current.inner.neighbours.iter().map(as_in_the_table).collect(),
        })
    }
}

fn as_in_the_table(neighbour: &InnerNeighbour) -> (IpAddr, [u8; 6]) {
    (neighbour.address, nbma::link_address(neighbour.endpoint))
}

/// Refuses a plan that would touch the device.
///
/// # Errors
/// A sentence.
pub(super) fn refuse_reaching(plan: &[Action]) -> Result<(), String> {
    let reaching = plan.iter().find_map(|action| match action {
        Action::SetMtu { name, .. }
        | Action::SetUp(name)
        | Action::SetDown(name)
        | Action::SetIpv6Mtu { name, .. }
        | Action::AddAddress(name, _)
        | Action::RemoveAddress(name, _)
        | Action::AddNeighbour(name, _)
        | Action::RemoveNeighbour(name, _)
        | Action::AddRoute(name, _)
        | Action::RemoveRoute(name, _) => Some((name, action)),
        _ => None,
    });
    match reaching {
        Some((name, action)) => Err(format!(
            "{name}: its device is in another network namespace, and greway does not reach into that: {action} there \
             yourself (`ip -n NAMESPACE …`), or move the device back first"
        )),
        None => Ok(()),
    }
}
