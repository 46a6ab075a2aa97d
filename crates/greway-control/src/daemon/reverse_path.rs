//! What the host's reverse path filter demands, for the packet socket, which it does not see.

use std::collections::HashSet;

use super::host::Live;
use crate::sysctl;
use greway_datapath::{Filter, ReversePaths};
use greway_netlink::{Netlink, NetlinkError, RouteKind, RouteOptions};

/// Reads which devices filter, and where the ways to the remotes lead. Where no device filters,
/// nothing else is asked.
pub(super) fn read<'l>(
    netlink: &Netlink,
    tunnels: impl Iterator<Item = &'l Live> + Clone,
) -> Result<ReversePaths, NetlinkError> {
    let mut paths = ReversePaths::default();
    // What comes out of a tunnel device is no packet of the underlay.
    let peer_ends = tunnels.clone().filter_map(|live| live.peer).collect::<HashSet<_>>();
    for link in netlink.links()?.into_iter().filter(|link| !peer_ends.contains(&link.index)) {
        let filter = match sysctl::reverse_path_filter(&link.name) {
            1 => Filter::Strict,
            2 => Filter::Loose,
            _ => continue,
        };
        paths.filters.insert(link.index, filter);
    }
    if paths.filters.is_empty() {
        return Ok(paths);
    }
    for (_, remote) in tunnels.filter_map(|live| live.spec().ipv4_ends()) {
        let route = netlink.route_to(remote.into(), &RouteOptions::default());
        let leads = route.ok().filter(|route| matches!(route.kind, RouteKind::Unicast | RouteKind::Local));
        paths.ways.insert(remote, leads.map(|route| route.ifindex));
    }
    Ok(paths)
}
