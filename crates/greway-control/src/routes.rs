//! Routes through a device, as the spec writes them.

use greway_netlink::{Family, Netlink, NetlinkError, RouteFilter, protocol, table};
use greway_spec::{InnerRoute, Prefix};

/// The routes through `index` that somebody added, of any table; the kernel's own connected routes come
/// and go with addresses and are left out.
///
/// # Errors
/// When the kernel does not answer.
pub(crate) fn through(netlink: &Netlink, index: u32) -> Result<Vec<InnerRoute>, NetlinkError> {
    let mut found = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let filter = RouteFilter { table: None, ifindex: Some(index), protocol: None };
        found.extend(netlink.routes(family, &filter)?);
    }
    let added = found.iter().filter(|route| route.protocol != protocol::KERNEL);
    Ok(added
        .map(|route| InnerRoute {
            destination: Prefix { address: route.destination.address, length: route.destination.length },
            via: route.via,
            // IPv6 routes that name no metric get 1024 from the kernel.
            metric: route.metric.filter(|metric| !(route.destination.address.is_ipv6() && *metric == 1024)),
            table: Some(route.table).filter(|number| *number != table::MAIN),
            source: route.source,
        })
        .collect())
}
