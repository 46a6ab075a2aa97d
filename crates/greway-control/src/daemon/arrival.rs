//! The devices that the delivery packets of tunnels come in by, as far as that can be told: where the kernel would
//! send to their remotes. A packet may come another way than it would be answered by.

use std::collections::{BTreeMap, BTreeSet};

use greway_netlink::{Link, Netlink, ResolvedRoute, RouteKind, RouteOptions};
use greway_spec::DeviceName;

use super::host::Live;

/// Where packets of tunnels come in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Arrival {
    /// Indexes of the devices whose receive queues they go through, and that may be steered.
    pub(super) devices: BTreeSet<u32>,
    /// What is in the way; sentences.
    pub(super) troubles: Vec<String>,
}

/// Asks for the way to each remote.
pub(super) fn read(netlink: &Netlink, links: &[Link], tunnels: &BTreeMap<DeviceName, Live>) -> Arrival {
    let ours =
        tunnels.values().flat_map(|live| [Some(live.index), live.peer]).flatten().collect::<BTreeSet<_>>();
    let devices = links.iter().filter(|link| !link.loopback()).map(Device::new).collect::<Vec<_>>();
    let mut arrival = Arrival::default();
    let mut ordered = BTreeMap::new();
    for (name, live) in tunnels {
        let Some(device) = of_tunnel(netlink, live) else {
            if live.has_no_remote() {
                arrival.troubles.push(format!(
                    "{name} has neither a remote nor `dev` nor a local address that is here: which device it receives \
                     by is not known, and that is not steered on its behalf"
                ));
            }
            continue;
        };
        for index in below(&devices, device) {
            let index = match index {
                Ok(index) => index,
                Err(index) => {
                    arrival.troubles.extend(links.iter().find(|link| link.index == index).map(|link| {
                        format!(
                            "{} is not steered: the device below it is in another network namespace",
                            link.name
                        )
                    }));
                    continue;
                }
            };
            // A tunnel through a tunnel: what came in below was spread by the innermost flow already.
            if ours.contains(&index) {
                continue;
            }
            arrival.devices.insert(index);
            if live.spec().iseq {
                ordered.entry(index).or_insert(name);
            }
        }
    }
    for (index, tunnel) in ordered {
        arrival.devices.remove(&index);
        if let Some(link) = links.iter().find(|link| link.index == index) {
            arrival.troubles.push(format!(
                "{} is not steered: {tunnel} receives by it and wants sequence numbers (iseq), which count over all \
                 flows; steering keeps the order of each flow only",
                link.name
            ));
        }
    }
    arrival.troubles.dedup();
    arrival
}

/// Index of the device that the way to the far end leads by; where there is not one far end, of `dev` or the device
/// with the local address.
fn of_tunnel(netlink: &Netlink, live: &Live) -> Option<u32> {
    let spec = live.spec();
    let Some(remote) = spec.remote.filter(|remote| !remote.is_multicast()) else {
        let with_local = || {
            let entries = netlink.addresses(None).ok()?;
            entries.iter().find(|entry| Some(entry.address.local) == spec.local).map(|entry| entry.index)
        };
        return live.bound_to.or_else(with_local);
    };
    let mark = crate::observe::mark(spec);
    let route = |source| netlink.route_to(remote, &RouteOptions { source, mark, oif: live.bound_to }).ok();
    // From an address that is not here (yet) there is no way at all.
    let leads = |route: &ResolvedRoute| route.kind == RouteKind::Unicast;
    let found = route(spec.local).filter(leads).or_else(|| route(None).filter(leads));
    found.map(|route| route.ifindex)
}

/// What is known of a device here.
#[derive(Clone, Copy, Debug)]
struct Device<'l> {
    index: u32,
    kind: Option<&'l str>,
    /// The device below, and whether that is in another network namespace.
    lower: Option<u32>,
    elsewhere: bool,
    master: Option<u32>,
}

impl<'l> Device<'l> {
    fn new(link: &'l Link) -> Self {
        Self {
            index: link.index,
            kind: link.kind.as_deref(),
            lower: link.peer_index,
            elsewhere: link.link_netns_id.is_some(),
            master: link.master,
        }
    }
}

/// The devices whose receive queues the packets of a device go through; an error is the index of one whose own are out
/// of reach. A VLAN, a bond or a VRF has no queue that counts: packets become its own behind the queue of a device below
/// (net/core/dev.c, `another_round`). A bridge has: what is for the host itself is received once more
/// (net/bridge/br_input.c, `br_netif_receive_skb`).
fn below(devices: &[Device<'_>], index: u32) -> Vec<Result<u32, u32>> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut next = vec![index];
    while let Some(index) = next.pop() {
        let Some(device) = devices.iter().find(|device| device.index == index) else { continue };
        if !seen.insert(index) {
            continue;
        }
        match device.kind {
            Some("vlan" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap") if device.elsewhere => {
                found.push(Err(index))
            }
            Some("vlan" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap") => next.extend(device.lower),
            Some("bond" | "team" | "vrf") => {
                next.extend(
                    devices.iter().filter(|other| other.master == Some(index)).map(|other| other.index),
                );
            }
            _ => found.push(Ok(index)),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_those_of_the_devices_at_the_bottom() {
        let device = |index, kind| Device { index, kind, lower: None, elsewhere: false, master: None };
        let devices = [
            Device { master: Some(4), ..device(2, None) },
            Device { master: Some(4), ..device(3, None) },
            Device { master: Some(6), ..device(4, Some("bond")) },
            Device { lower: Some(4), ..device(5, Some("vlan")) },
            device(6, Some("vrf")),
            Device { lower: Some(2), elsewhere: true, ..device(7, Some("macvlan")) },
            Device { master: Some(9), ..device(8, Some("veth")) },
            device(9, Some("bridge")),
            // Nothing sane, and no reason to go round for ever.
            Device { lower: Some(11), ..device(10, Some("vlan")) },
            Device { lower: Some(10), ..device(11, Some("vlan")) },
        ];
        let below = |index| {
            let mut found = below(&devices, index);
            found.sort_unstable();
            found
        };
        assert_eq!(below(2), [Ok(2)]);
        for stacked in [4, 5, 6] {
            assert_eq!(below(stacked), [Ok(2), Ok(3)], "{stacked}");
        }
        assert_eq!(below(7), [Err(7)]);
        assert_eq!(below(9), [Ok(9)], "what is for the host passes the queue of the bridge");
        assert_eq!((below(10), below(99)), (vec![], vec![]));
    }
}
