//! What is there now: read from the kernel, never changed here.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use greway_netlink::nftables::{BaseChain, Family, Hook, Nftables, Policy};
use greway_netlink::{
    Address, AddressEntry, Link, Neighbour, NeighbourState, Netlink, NetlinkError, ResolvedRoute, RouteKind,
    RouteOptions,
};
use greway_spec::{DeviceName, InnerAddress, InnerRoute, InnerRule, TunnelSpec};

use crate::daemon::{device, sealed_group};
use crate::sysctl::{self, Forwarding};

/// The part of the host that a plan for one tunnel depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The device of the tunnel's name.
    pub device: Option<ObservedDevice>,
    /// MTU of the way to the remote in bytes, where there is one.
    pub path_mtu: Option<u32>,
    /// Whether IPv4 is forwarded.
    pub forwarding_v4: bool,
    /// Whether IPv6 is forwarded.
    pub forwarding_v6: bool,
    /// Whether the tunnel's translation table is there with its rule; `None` where tables cannot be read.
    pub snat_present: Option<bool>,
    /// Whether the data plane's end of the device is sealed off from this host's own stack; `None` where
    /// that cannot be told or there is no such end.
    pub sealed: Option<bool>,
    /// The rules of the routing policy database that a tunnel could have.
    pub rules: Vec<InnerRule>,
    /// Forwarding that this tunnel turned on and no other asks for. Known to the daemon alone.
    pub to_stop: Vec<Forwarding>,
}

/// A device that has the tunnel's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedDevice {
    /// Interface index.
    pub index: u32,
    /// Whether it carries our mark.
    pub ours: bool,
    /// The kernel's name for its kind, for messages.
    pub kind: String,
    /// Administratively up.
    pub up: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// MTU for IPv6 in bytes; `None` where the device has no IPv6.
    pub ipv6_mtu: Option<u32>,
    /// Addresses on it.
    pub addresses: Vec<InnerAddress>,
    /// Routes through it, those of the kernel's own making left out.
    pub routes: Vec<InnerRoute>,
    /// Neighbours on it that somebody set, with their hardware addresses.
    pub neighbours: Vec<(IpAddr, [u8; 6])>,
}

/// The mark in the alias of a device that is ours; what follows it is for people.
pub const OWNER_MARK: &str = "greway ";

/// Whether a device is one that greway made: it carries our mark, or the other end of its pair does, which
/// nobody has a reason to touch, while the alias of a device is its operator's to change.
pub(crate) fn is_ours(netlink: &Netlink, link: &Link) -> bool {
    let marked = |link: &Link| link.alias.as_deref().is_some_and(|alias| alias.starts_with(OWNER_MARK));
    let other_end = || {
        // An index in another namespace says nothing in this one.
        let peer = link.peer_index.filter(|_| link.link_netns_id.is_none())?;
        netlink.link_by_index(peer).ok()?
    };
    marked(link)
        || (link.kind.as_deref() == Some("veth")
            && other_end().is_some_and(|peer| peer.name.starts_with(device::PEER_PREFIX) && marked(&peer)))
}

/// The tables of tunnels among the chains that are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    seals: HashSet<String>,
    translations: HashSet<String>,
    /// The seal that many have together.
    group: bool,
}

impl Tables {
    /// Those in a list of all chains.
    pub(crate) fn of(chains: &[BaseChain]) -> Self {
        let names = |wanted: fn(&BaseChain) -> bool| {
            let found = chains.iter().filter(|chain| wanted(chain));
            found.map(|chain| chain.table.name.clone()).collect()
        };
        Self {
            seals: names(is_seal),
            translations: names(|chain| is_translation(chain, &chain.table.name) && chain.rules > 0),
            group: chains.iter().any(|chain| sealed_group::is_ours(chain) && chain.rules > 0),
        }
    }

    /// Whether the seal is among them that many tunnels have together.
    pub(crate) fn seal_of_many(&self) -> bool {
        self.group
    }

    /// Whether a tunnel's seal is among them.
    pub(crate) fn seal(&self, name: &DeviceName) -> bool {
        self.seals.contains(&device::table(name))
    }

    /// Whether a tunnel's translation is among them, with a rule in it.
    pub(crate) fn translate(&self, name: &DeviceName) -> bool {
        self.translations.contains(&device::table(name))
    }
}

/// Whether a chain is like the seal of a tunnel.
fn is_seal(chain: &BaseChain) -> bool {
    chain.table.family == Family::Netdev && chain.hook == Hook::Ingress && chain.policy == Policy::Drop
}

/// Whether a chain is that of the translation table of this name: the one place for rules on payload
/// packets that greway has on the hooks of IPv4.
pub(crate) fn is_translation(chain: &BaseChain, table: &str) -> bool {
    chain.table.family == Family::Ip
        && chain.table.name == table
        && chain.hook == Hook::Postrouting
        && chain.kind == "nat"
}

impl Observed {
    /// Reads what a plan needs that leads from `current` to `spec`. What neither asks for is not looked at: with ten
    /// thousand tunnels all chains, and all rules, are long lists.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn read(
        netlink: &Netlink,
        spec: &TunnelSpec,
        current: Option<&TunnelSpec>,
    ) -> Result<Self, NetlinkError> {
        // Reading them takes privileges that a dry run need not have.
        let tables = match current.is_some() || spec.inner.snat.is_some() {
            true => Nftables::open().and_then(|nftables| nftables.base_chains()).ok(),
            false => None,
        };
        let beside =
            Beside { tables: tables.as_deref().map(|chains| Tables::of(chains).into()), inside: None };
        Self::read_beside(netlink, spec, current, &beside)
    }

    /// The same where some of it is known.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) fn read_beside(
        netlink: &Netlink,
        spec: &TunnelSpec,
        current: Option<&TunnelSpec>,
        Beside { tables, inside }: &Beside,
    ) -> Result<Self, NetlinkError> {
        let path_mtu = path_mtu(netlink, spec)?;
        let device = device(netlink, &spec.name, inside.as_deref())?;
        let tables = tables.as_deref();
        let both = || std::iter::once(spec).chain(current);
        let rules = match both().any(|spec| !spec.inner.rules.is_empty()) {
            true => crate::rules::all(netlink)?,
            false => Vec::new(),
        };
        let veth = device.as_ref().is_some_and(|device| device.kind == "veth");
        Ok(Self {
            device,
            path_mtu,
            snat_present: tables.map(|tables| tables.translate(&spec.name)),
            sealed: tables.filter(|_| veth).map(|tables| tables.seal(&spec.name)),
            forwarding_v4: sysctl::forwarding(Forwarding::Ipv4),
            forwarding_v6: sysctl::forwarding(Forwarding::Ipv6),
            rules,
            to_stop: Vec::new(),
        })
    }
}

/// What is known already of the host when a tunnel is looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beside {
    /// The tables that are there; `None`: they cannot be read, or do not matter.
    pub(crate) tables: Option<Arc<Tables>>,
    /// What is on the devices; `None`: each is asked for by itself.
    pub(crate) inside: Option<Arc<Inside>>,
}

/// What is on the devices of many tunnels, asked for once: each list that the kernel gives of one device makes it look
/// at those of all.
#[derive(Debug)]
pub(crate) struct Inside {
    devices: HashSet<u32>,
    addresses: HashMap<u32, Vec<InnerAddress>>,
    routes: HashMap<u32, Vec<InnerRoute>>,
    neighbours: HashMap<u32, Vec<(IpAddr, [u8; 6])>>,
}

impl Inside {
    /// Asks for what is on these devices.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub(crate) fn read(netlink: &Netlink, devices: HashSet<u32>) -> Result<Self, NetlinkError> {
        let mut addresses = HashMap::<_, Vec<_>>::new();
        for entry in netlink.addresses(None)?.into_iter().filter(|entry| devices.contains(&entry.index)) {
            addresses.entry(entry.index).or_default().push(inner_address(&entry));
        }
        let routes = crate::routes::through_all(netlink, |index| devices.contains(&index))?;
        let mut neighbours = HashMap::<_, Vec<_>>::new();
        let wanted = |neighbour: &Neighbour| devices.contains(&neighbour.index);
        for neighbour in netlink.all_neighbours(wanted)? {
            neighbours.entry(neighbour.index).or_default().extend(set_neighbour(&neighbour));
        }
        Ok(Self { devices, addresses, routes, neighbours })
    }

    /// Reads the same of one device.
    fn of_one(netlink: &Netlink, index: u32) -> Result<Self, NetlinkError> {
        let addresses = netlink.addresses(Some(index))?.iter().map(inner_address).collect();
        let neighbours = netlink.neighbours(index)?.iter().filter_map(set_neighbour).collect();
        Ok(Self {
            devices: HashSet::from([index]),
            addresses: HashMap::from([(index, addresses)]),
            routes: HashMap::from([(index, crate::routes::through(netlink, index)?)]),
            neighbours: HashMap::from([(index, neighbours)]),
        })
    }
}

fn inner_address(entry: &AddressEntry) -> InnerAddress {
    let Address { local, peer, prefix_length } = entry.address;
    InnerAddress { local, peer, prefix_length }
}

/// A neighbour that somebody set.
fn set_neighbour(neighbour: &Neighbour) -> Option<(IpAddr, [u8; 6])> {
    let link = neighbour.link_address.filter(|_| neighbour.state == NeighbourState::Permanent)?;
    Some((neighbour.address, link))
}

fn device(
    netlink: &Netlink,
    name: &DeviceName,
    inside: Option<&Inside>,
) -> Result<Option<ObservedDevice>, NetlinkError> {
    let Some(link) = netlink.link_by_name(name.as_str())? else { return Ok(None) };
    let alone;
    let inside = match inside.filter(|inside| inside.devices.contains(&link.index)) {
        Some(inside) => inside,
        None => {
            alone = Inside::of_one(netlink, link.index)?;
            &alone
        }
    };
    let index = link.index;
    let (addresses, routes, neighbours) = (
        inside.addresses.get(&index).cloned().unwrap_or_default(),
        inside.routes.get(&index).cloned().unwrap_or_default(),
        inside.neighbours.get(&index).cloned().unwrap_or_default(),
    );
    Ok(Some(ObservedDevice {
        index: link.index,
        ours: is_ours(netlink, &link),
        kind: link.kind.unwrap_or_else(|| "hardware".to_owned()),
        up: link.up,
        mtu: link.mtu,
        ipv6_mtu: sysctl::ipv6_mtu(name),
        addresses,
        routes,
        neighbours,
    }))
}

/// The mark that routes of delivery packets are looked up with (`fwmark`).
pub(crate) fn mark(spec: &TunnelSpec) -> Option<u32> {
    Some(spec.fwmark).filter(|mark| *mark != 0)
}

/// MTU of the route to the remote, of its device where the route names none, of `dev` where there
/// is no route (linux net/ipv4/ip_tunnel.c `ip_tunnel_bind_dev`, v6.14).
/// What a router taught the kernel passes, and the data plane follows it; a device's MTU does not.
pub(crate) fn path_mtu(netlink: &Netlink, spec: &TunnelSpec) -> Result<Option<u32>, NetlinkError> {
    let bound = match &spec.dev {
        Some(dev) => netlink.link_by_name(dev.as_str())?,
        None => None,
    };
    let options =
        RouteOptions { source: spec.local, mark: mark(spec), oif: bound.as_ref().map(|link| link.index) };
    let resolve = |options: &RouteOptions| {
        let route = spec.remote.and_then(|remote| netlink.route_to(remote, options).ok());
        route.filter(|route| matches!(route.kind, RouteKind::Unicast | RouteKind::Multicast))
    };
    // With `local` not on this host the kernel knows no way; it is the same without.
    let route = resolve(&options).or_else(|| resolve(&RouteOptions { source: None, ..options }));
    let leads_by = match &route {
        Some(route) => netlink.link_by_index(route.ifindex)?,
        None => None,
    };
    // A way that leads into the tunnel itself is none, and its MTU is our own.
    let itself = leads_by.as_ref().is_some_and(|link| link.name == spec.name.as_str());
    let way = match route.filter(|_| !itself) {
        Some(ResolvedRoute { mtu: Some(mtu), mtu_learned: false, .. }) => return Ok(Some(mtu)),
        Some(_) => leads_by,
        None => bound,
    };
    // A route to ourselves goes by the loopback device, whose 65,536 says nothing about a tunnel.
    Ok(way.map(|link| link.mtu).filter(|mtu| *mtu <= 65_535))
}
