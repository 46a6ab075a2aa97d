//! Routes through a device, as the spec writes them.

use std::collections::{BTreeSet, HashMap};

use greway_netlink::{Family, Netlink, NetlinkError, Route, RouteFilter, protocol, table};
use greway_spec::{InnerRoute, Prefix};

/// The routes through `index` that somebody added, of any table; the kernel's own connected routes come
/// and go with addresses and are left out.
///
/// # Errors
/// When the kernel does not answer.
pub(crate) fn through(netlink: &Netlink, index: u32) -> Result<Vec<InnerRoute>, NetlinkError> {
    Ok(added(netlink, Some(index), |_| true)?.iter().map(inner).collect())
}

/// The same of all devices that `wanted` holds for, by their indexes.
///
/// # Errors
/// When the kernel does not answer.
pub(crate) fn through_all(
    netlink: &Netlink,
    wanted: impl Fn(u32) -> bool,
) -> Result<HashMap<u32, Vec<InnerRoute>>, NetlinkError> {
    let devices = |route: &Route| {
        let hops = route.next_hops.iter().map(|hop| hop.ifindex).collect::<BTreeSet<_>>();
        route.ifindex.into_iter().chain(hops)
    };
    let mut by_device = HashMap::<u32, Vec<InnerRoute>>::new();
    for route in added(netlink, None, |route| devices(route).any(&wanted))? {
        devices(&route).for_each(|index| by_device.entry(index).or_default().push(inner(&route)));
    }
    Ok(by_device)
}

fn added(
    netlink: &Netlink,
    ifindex: Option<u32>,
    wanted: impl Fn(&Route) -> bool,
) -> Result<Vec<Route>, NetlinkError> {
    let filter = RouteFilter { table: None, ifindex, protocol: None };
    let wanted = |route: &Route| route.protocol != protocol::KERNEL && wanted(route);
    let mut found = netlink.routes_where(Family::Ipv4, &filter, wanted)?;
    found.extend(netlink.routes_where(Family::Ipv6, &filter, wanted)?);
    Ok(found)
}

fn inner(route: &Route) -> InnerRoute {
    InnerRoute {
        destination: Prefix { address: route.destination.address, length: route.destination.length },
        via: route.via,
        // IPv6 routes that name no metric get 1024 from the kernel.
        metric: route.metric.filter(|metric| !(route.destination.address.is_ipv6() && *metric == 1024)),
        table: Some(route.table).filter(|number| *number != table::MAIN),
        source: route.source,
    }
}
