//! What the host's reverse path filter demands, for the packet socket, which it does not see.

use std::collections::{BTreeSet, HashSet};

use super::host::Live;
use greway_datapath::{Filter, ReversePaths};
use greway_netlink::{Link, Netlink, NetlinkError, RouteKind, RouteOptions};

/// Reads which devices filter and which are in a VRF, and where the ways to the remotes lead. Where no device
/// filters, no way is asked for.
pub(super) fn read<'l>(
    netlink: &Netlink,
    tunnels: impl Iterator<Item = &'l Live> + Clone,
) -> Result<ReversePaths, NetlinkError> {
    let mut paths = ReversePaths::default();
    // What comes out of a tunnel device is no packet of the underlay.
    let peer_ends = tunnels.clone().filter_map(|live| live.peer).collect::<HashSet<_>>();
    let links = netlink.links()?;
    let known = netlink.reverse_path_filters()?;
    let is_vrf = |link: &&Link| link.kind.as_deref() == Some("vrf");
    let vrfs = links.iter().filter(is_vrf).map(|link| link.index).collect::<HashSet<_>>();
    for link in links.into_iter().filter(|link| !peer_ends.contains(&link.index)) {
        if let Some(vrf) = link.master.filter(|master| vrfs.contains(master)) {
            paths.vrfs.insert(link.index, vrf);
        }
        let filter = match known.on(link.index).unwrap_or(0) {
            1 => Filter::Strict,
            2 => Filter::Loose,
            _ => continue,
        };
        paths.filters.insert(link.index, filter);
    }
    if paths.filters.is_empty() {
        return Ok(paths);
    }
    // Each VRF has routes of its own; 0 stands for none.
    let filtering = vrfs.into_iter().filter(|vrf| paths.filters.contains_key(vrf));
    let places = std::iter::once(0).chain(filtering).collect::<Vec<_>>();
    let remotes = tunnels.filter_map(|live| live.spec().ipv4_ends()).map(|(_, remote)| remote);
    for remote in remotes.collect::<BTreeSet<_>>() {
        for place in &places {
            let oif = Some(*place).filter(|vrf| *vrf != 0);
            let route = netlink.route_to(remote.into(), &RouteOptions { oif, ..RouteOptions::default() });
            let leads =
                route.ok().filter(|route| matches!(route.kind, RouteKind::Unicast | RouteKind::Local));
            paths.ways.insert((*place, remote), leads.map(|route| route.ifindex));
        }
    }
    Ok(paths)
}
