//! What the host's reverse path filter demands, for the packet socket, which it does not see.

use greway_datapath::{Filter, ReversePaths};
use greway_netlink::{Netlink, NetlinkError, RouteKind, RouteOptions};
use greway_spec::TunnelSpec;

use crate::sysctl;

/// Reads which devices filter, and where the ways to the remotes lead. Where no device filters,
/// nothing else is asked.
pub(super) fn read<'s>(
    netlink: &Netlink,
    specs: impl Iterator<Item = &'s TunnelSpec>,
) -> Result<ReversePaths, NetlinkError> {
    let mut paths = ReversePaths::default();
    for link in netlink.links()? {
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
    for spec in specs {
        let route = netlink.route_to(spec.remote.into(), &RouteOptions::default());
        let leads = route.ok().filter(|route| matches!(route.kind, RouteKind::Unicast | RouteKind::Local));
        paths.ways.insert(spec.remote, leads.map(|route| route.ifindex));
    }
    Ok(paths)
}
