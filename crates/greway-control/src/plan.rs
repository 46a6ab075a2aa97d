//! From what should be and what is to what is to be done. Pure: `--dry-run` prints the result.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use greway_engine::nbma;
use greway_spec::{DeviceName, Inner, InnerAddress, InnerNeighbour, InnerRoute, InnerRule, TunnelSpec};

use crate::observe::Observed;
use crate::sysctl::Forwarding;

/// One step. The order in a plan is the order of execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the tunnel into the state directory, so that a restarted daemon knows it.
    Remember(Box<TunnelSpec>),
    /// Make the device, down.
    CreateDevice {
        /// The tunnel it is for.
        spec: Box<TunnelSpec>,
        /// Its MTU in bytes.
        mtu: u32,
    },
    /// Open the sockets and start to carry.
    StartDatapath(Box<TunnelSpec>),
    /// Carry with other parameters from the next packet on.
    UpdateDatapath(Box<TunnelSpec>),
    /// Set the MTU of the device.
    SetMtu {
        /// Which device.
        name: DeviceName,
        /// Bytes.
        mtu: u32,
        /// What it was, for the way back.
        was: u32,
    },
    /// Keep the host's own stack from what comes out of the tunnel, again: somebody removed the table.
    Seal(DeviceName),
    /// Bring the device up.
    SetUp(DeviceName),
    /// Take the device down: its file says so.
    SetDown(DeviceName),
    /// Set the MTU for IPv6 (`net.ipv6.conf.NAME.mtu`).
    SetIpv6Mtu {
        /// Which device.
        name: DeviceName,
        /// Bytes.
        mtu: u32,
        /// What it was, for the way back; `None`: that of a new device.
        was: Option<u32>,
    },
    /// Put an address on the device.
    AddAddress(DeviceName, InnerAddress),
    /// Take an address off that an earlier version of the file put there.
    RemoveAddress(DeviceName, InnerAddress),
    /// Add a route through the device.
    AddRoute(DeviceName, InnerRoute),
    /// Name the endpoint of an inner address.
    AddNeighbour(DeviceName, InnerNeighbour),
    /// Take away the endpoint of an inner address that an earlier version of the file named.
    RemoveNeighbour(DeviceName, InnerNeighbour),
    /// Remove a route that an earlier version of the file added.
    RemoveRoute(DeviceName, InnerRoute),
    /// Add a rule to the routing policy database.
    AddRule(DeviceName, InnerRule),
    /// Remove a rule that belongs to the tunnel.
    RemoveRule(DeviceName, InnerRule),
    /// Turn forwarding on, host-wide, for this tunnel.
    Forward(DeviceName, Forwarding),
    /// Turn forwarding off again that a tunnel had turned on.
    StopForwarding(Forwarding),
    /// Translate what comes from the peer.
    InstallSnat(Snat),
    /// End the translation.
    RemoveSnat(Snat),
    /// Stop carrying and close the sockets.
    StopDatapath(DeviceName),
    /// Delete the device, and with it its addresses and routes.
    DeleteDevice(DeviceName),
    /// Forget the tunnel.
    Forget(Box<TunnelSpec>),
}

/// Source translation for scenario 1: packets from the peer's inner address that leave by any
/// other device than the tunnel get `to` as their source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snat {
    /// The tunnel.
    pub name: DeviceName,
    /// The peer's inner address.
    pub peer: Ipv4Addr,
    /// The new source.
    pub to: Ipv4Addr,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The name belongs to somebody else.
    #[error(
        "{name}: a device of that name exists and is not greway's (kind {kind}): \
         choose another name, or remove it with `ip link del {name}`"
    )]
    NameTaken {
        /// The name.
        name: DeviceName,
        /// The kind of the device that has it.
        kind: String,
    },
    /// The name belongs to a device of ours that no tunnel is known for.
    #[error(
        "{name}: greway made a device of that name and knows no tunnel for it: `greway tunnel del {name}` removes it"
    )]
    Orphan {
        /// The name.
        name: DeviceName,
    },
    /// `snat` without a peer to translate.
    #[error("{name}: snat needs the peer's inner address: set `peer` in [inner]")]
    SnatWithoutPeer {
        /// The tunnel.
        name: DeviceName,
    },
}

/// The MTU that a new device gets when the spec names none: that of the way to the remote (1,500
/// where there is none yet) less what encapsulation adds, at least 68, and over IPv6 1280 (linux
/// net/ipv4/ip_tunnel.c `ip_tunnel_bind_dev`, v6.14; net/ipv6/ip6_gre.c `ip6gre_tnl_link_config_route`,
/// v6.8; rule CF-06).
pub fn default_mtu(spec: &TunnelSpec, path_mtu: Option<u32>) -> u32 {
    let least = if spec.mode.over_ipv6() { 1280 } else { 68 };
    path_mtu.unwrap_or(1500).saturating_sub(spec.overhead()).max(least)
}

/// What leads from `current` (the tunnel as this daemon runs it) and `observed` to `desired`.
/// Empty when nothing is to be done.
///
/// # Errors
/// When the name is somebody else's or the spec cannot be carried out.
pub fn up(
    desired: &TunnelSpec,
    current: Option<&TunnelSpec>,
    observed: &Observed,
) -> Result<Vec<Action>, PlanError> {
    let name = &desired.name;
    let mut plan = Vec::new();
    let device = observed.device.as_ref();
    match device {
        Some(device) if device.ours && current.is_none() => {
            return Err(PlanError::Orphan { name: name.clone() });
        }
        Some(device) if !device.ours => {
            return Err(PlanError::NameTaken { name: name.clone(), kind: device.kind.clone() });
        }
        _ => {}
    }
    if current.is_none_or(|current| current != desired) {
        plan.push(Action::Remember(Box::new(desired.clone())));
    }
    let mtu = desired.mtu.unwrap_or_else(|| default_mtu(desired, observed.path_mtu));
    match (device, current) {
        (Some(device), Some(current)) => {
            if carries_differently(current, desired) {
                plan.push(Action::UpdateDatapath(Box::new(desired.clone())));
            }
            let follows =
                desired.mtu.is_some() || current.mtu.is_some() || current.overhead() != desired.overhead();
            if follows && device.mtu != mtu {
                plan.push(Action::SetMtu { name: name.clone(), mtu, was: device.mtu });
            }
            if observed.sealed == Some(false) {
                plan.push(Action::Seal(name.clone()));
            }
        }
        _ => {
            plan.push(Action::CreateDevice { spec: Box::new(desired.clone()), mtu });
            plan.push(Action::StartDatapath(Box::new(desired.clone())));
        }
    }
    match (desired.inner.link_down, device.is_some_and(|device| device.up)) {
        (false, false) => plan.push(Action::SetUp(name.clone())),
        (true, true) => plan.push(Action::SetDown(name.clone())),
        (false, true) | (true, false) => {}
    }
    plan_ipv6_mtu(desired, current, observed, mtu, &mut plan);
    plan_inside(desired, current, observed, &mut plan);
    plan_neighbours(desired, current, observed, &mut plan);
    plan_rules(desired, current, observed, &mut plan);
    plan_forwarding(desired, observed, &mut plan);
    plan_snat(desired, current, observed, &mut plan)?;
    if !desired.inner.forward {
        // Last, since it cannot be taken back in the name of the tunnel.
        plan.extend(observed.to_stop.iter().map(|family| Action::StopForwarding(*family)));
    }
    Ok(plan)
}

/// What removes a tunnel. `stop_forwarding` names what it had turned on and nobody else needs.
pub fn down(current: &TunnelSpec, stop_forwarding: &[Forwarding]) -> Vec<Action> {
    let mut plan = Vec::new();
    if let Some(snat) = snat_of(current) {
        plan.push(Action::RemoveSnat(snat));
    }
    let rules = current.inner.rules.iter();
    plan.extend(rules.map(|rule| Action::RemoveRule(current.name.clone(), rule.clone())));
    plan.push(Action::StopDatapath(current.name.clone()));
    plan.push(Action::DeleteDevice(current.name.clone()));
    plan.extend(stop_forwarding.iter().map(|family| Action::StopForwarding(*family)));
    plan.push(Action::Forget(Box::new(current.clone())));
    plan
}

/// The translation that a spec asks for; `None` also where the peer is unknown.
pub fn snat_of(spec: &TunnelSpec) -> Option<Snat> {
    let to = spec.inner.snat?;
    let peer = spec.inner.addresses.iter().find_map(crate::peer::of_address)?;
    match peer {
        IpAddr::V4(peer) => Some(Snat { name: spec.name.clone(), peer, to }),
        IpAddr::V6(_) => None,
    }
}

fn carries_differently(current: &TunnelSpec, desired: &TunnelSpec) -> bool {
    let on_the_wire = |spec: &TunnelSpec| TunnelSpec {
        // Who has which address in a tunnel without a remote is known to the data plane too.
        inner: Inner { neighbours: spec.inner.neighbours.clone(), ..Inner::default() },
        origin: Default::default(),
        mtu: None,
        ..spec.clone()
    };
    on_the_wire(current) != on_the_wire(desired)
}

/// Addresses and routes. What is new comes before what is old goes, since the kernel forgets all IPv4
/// routes through a device with its last address (linux net/ipv4/fib_frontend.c `fib_disable_ip`,
/// v6.18). Where the old address has to go first and is the last one, the plan itself takes the
/// routes off and puts them back, so that a roll-back knows of them.
fn plan_inside(
    desired: &TunnelSpec,
    current: Option<&TunnelSpec>,
    observed: &Observed,
    plan: &mut Vec<Action>,
) {
    let name = || desired.name.clone();
    let (present, routes) = match &observed.device {
        Some(device) => (device.addresses.as_slice(), device.routes.as_slice()),
        None => (&[][..], &[][..]),
    };
    let new = desired.inner.addresses.iter().filter(|address| !present.contains(address)).collect::<Vec<_>>();
    let given_up = current
        .iter()
        .flat_map(|current| &current.inner.addresses)
        .filter(|old| !desired.inner.addresses.contains(old) && present.contains(old));
    let (in_the_way, last): (Vec<_>, Vec<_>) =
        given_up.partition(|old| new.iter().any(|new| excludes(old, new)));
    let mut off = current
        .iter()
        .flat_map(|current| &current.inner.routes)
        .filter(|old| !desired.inner.routes.contains(old) && routes.contains(old))
        .collect::<Vec<_>>();
    let mut on = desired.inner.routes.iter().filter(|route| !routes.contains(route)).collect::<Vec<_>>();
    // What is in the way on this device gives way, as with `ip route replace`; on another one it is not ours.
    let place = |route: &InnerRoute| (route.destination, route.metric, route.table);
    let in_the_way_of_new = |there: &&InnerRoute| on.iter().any(|new| place(new) == place(there));
    let replaced = routes.iter().filter(in_the_way_of_new).filter(|there| !off.contains(there));
    off.extend(replaced.collect::<Vec<_>>());
    let ipv4 = |address: &&InnerAddress| address.local.is_ipv4();
    let goes = in_the_way.iter().copied().filter(ipv4).count();
    if goes > 0 && goes == present.iter().filter(ipv4).count() {
        let forgotten = routes.iter().filter(|route| route.destination.address.is_ipv4());
        let again = forgotten.clone().filter(|route| !off.contains(route)).collect::<Vec<_>>();
        off.extend(&again);
        on.extend(again);
    }
    plan.extend(off.into_iter().map(|route| Action::RemoveRoute(name(), *route)));
    plan.extend(in_the_way.into_iter().map(|old| Action::RemoveAddress(name(), *old)));
    plan.extend(new.into_iter().map(|address| Action::AddAddress(name(), *address)));
    plan.extend(last.into_iter().map(|old| Action::RemoveAddress(name(), *old)));
    plan.extend(on.into_iter().map(|route| Action::AddRoute(name(), *route)));
}

/// Whether `new` cannot come while `old` is there, or would go with it: in one IPv4 network the kernel
/// refuses the same address, and another one is secondary to the first
/// (linux net/ipv4/devinet.c `__inet_insert_ifa`); an IPv6 address is on a device once.
fn excludes(old: &InnerAddress, new: &InnerAddress) -> bool {
    let network = |address: &InnerAddress| match address.peer.unwrap_or(address.local) {
        IpAddr::V4(end) => u32::from(end).checked_shr(32 - u32::from(address.prefix_length)).unwrap_or(0),
        IpAddr::V6(_) => 0,
    };
    match (old.local, new.local) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            old.prefix_length == new.prefix_length && network(old) == network(new)
        }
        (IpAddr::V6(old), IpAddr::V6(new)) => old == new,
        _ => false,
    }
}

/// Neighbours with an endpoint, which the kernel forgets with the device going down.
fn plan_neighbours(
    desired: &TunnelSpec,
    current: Option<&TunnelSpec>,
    observed: &Observed,
    plan: &mut Vec<Action>,
) {
    let name = || desired.name.clone();
    let present = observed.device.as_ref().map_or(&[][..], |device| device.neighbours.as_slice());
    let is_there =
        |wanted: &InnerNeighbour| present.contains(&(wanted.address, nbma::link_address(wanted.endpoint)));
    let kept = |old: &InnerNeighbour| desired.inner.neighbours.iter().any(|new| new.address == old.address);
    let old = current.iter().flat_map(|current| &current.inner.neighbours);
    let given_up = old.filter(|old| !kept(old) && is_there(old));
    plan.extend(given_up.map(|old| Action::RemoveNeighbour(name(), *old)));
    let new = desired.inner.neighbours.iter().filter(|wanted| !is_there(wanted));
    plan.extend(new.map(|new| Action::AddNeighbour(name(), *new)));
}

/// The MTU for IPv6, after the device's own, which the kernel copies to it. What an earlier version of the
/// file had asked for becomes the device's again.
fn plan_ipv6_mtu(
    desired: &TunnelSpec,
    current: Option<&TunnelSpec>,
    observed: &Observed,
    mtu: u32,
    plan: &mut Vec<Action>,
) {
    let given_up = current.is_some_and(|current| current.inner.ipv6_mtu.is_some()).then_some(mtu);
    let Some(wanted) = desired.inner.ipv6_mtu.or(given_up) else { return };
    let present = observed.device.as_ref().and_then(|device| device.ipv6_mtu);
    let copied = plan.iter().any(|action| matches!(action, Action::SetMtu { .. }));
    if present != Some(wanted) || copied {
        plan.push(Action::SetIpv6Mtu { name: desired.name.clone(), mtu: wanted, was: present });
    }
}

/// Rules, the routes they lead to being there already.
fn plan_rules(
    desired: &TunnelSpec,
    current: Option<&TunnelSpec>,
    observed: &Observed,
    plan: &mut Vec<Action>,
) {
    let name = || desired.name.clone();
    let present = |rule: &InnerRule| observed.rules.iter().any(|there| rule.is(there));
    let old = current.iter().flat_map(|current| &current.inner.rules);
    let given_up = old.filter(|old| !desired.inner.rules.contains(old) && present(old));
    plan.extend(given_up.map(|rule| Action::RemoveRule(name(), rule.clone())));
    let new = desired.inner.rules.iter().filter(|rule| !present(rule));
    plan.extend(new.map(|rule| Action::AddRule(name(), rule.clone())));
}

fn plan_forwarding(desired: &TunnelSpec, observed: &Observed, plan: &mut Vec<Action>) {
    if !desired.inner.forward {
        return;
    }
    let addresses = &desired.inner.addresses;
    let ipv6 = addresses.iter().any(|address| address.local.is_ipv6());
    if !observed.forwarding_v4 {
        plan.push(Action::Forward(desired.name.clone(), Forwarding::Ipv4));
    }
    if ipv6 && !observed.forwarding_v6 {
        plan.push(Action::Forward(desired.name.clone(), Forwarding::Ipv6));
    }
}

fn plan_snat(
    desired: &TunnelSpec,
    current: Option<&TunnelSpec>,
    observed: &Observed,
    plan: &mut Vec<Action>,
) -> Result<(), PlanError> {
    let wanted = snat_of(desired);
    if desired.inner.snat.is_some() && wanted.is_none() {
        return Err(PlanError::SnatWithoutPeer { name: desired.name.clone() });
    }
    let present = current.and_then(snat_of);
    if wanted != present {
        plan.extend(present.map(Action::RemoveSnat));
        plan.extend(wanted.map(Action::InstallSnat));
    } else if observed.snat_present == Some(false) {
        // Remembered and not there: the table was flushed, or the daemon died before it made it.
        plan.extend(wanted.map(Action::InstallSnat));
    }
    Ok(())
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remember(spec) => write!(f, "remember {}", spec.name),
            Self::CreateDevice { spec, mtu } => write!(f, "create device {}, mtu {mtu}", spec.name),
            Self::StartDatapath(spec) => {
                write!(f, "carry {} to {}", spec.name, spec.far_end())?;
                match spec.okey {
                    Some(key) => write!(f, " with key {key}"),
                    None => Ok(()),
                }
            }
            Self::UpdateDatapath(spec) => write!(f, "carry {} with the changed parameters", spec.name),
            Self::SetMtu { name, mtu, was } => write!(f, "set mtu of {name} from {was} to {mtu}"),
            Self::Seal(name) => write!(f, "seal the data plane's end of {name}"),
            Self::SetUp(name) => write!(f, "set {name} up"),
            Self::AddAddress(name, address) => write!(f, "add address {} to {name}", Words(address)),
            Self::RemoveAddress(name, address) => {
                write!(f, "remove address {} from {name}", Words(address))
            }
            Self::AddRoute(name, route) => write!(f, "add route {} dev {name}", Words(route)),
            Self::RemoveRoute(name, route) => write!(f, "remove route {} dev {name}", Words(route)),
            Self::AddNeighbour(name, neighbour) => write!(f, "add neighbour {neighbour} dev {name}"),
            Self::RemoveNeighbour(name, neighbour) => {
                write!(f, "remove neighbour {neighbour} dev {name}")
            }
            Self::SetDown(name) => write!(f, "set {name} down"),
            Self::SetIpv6Mtu { name, mtu, .. } => write!(f, "set mtu of {name} for IPv6 to {mtu}"),
            Self::AddRule(name, rule) => write!(f, "add {}rule {rule} for {name}", ipv6_word(rule)),
            Self::RemoveRule(name, rule) => write!(f, "remove {}rule {rule} of {name}", ipv6_word(rule)),
            Self::Forward(_, family) => write!(f, "set {} = 1", family.name()),
            Self::StopForwarding(family) => write!(f, "set {} = 0, as it was", family.name()),
            Self::InstallSnat(Snat { name, peer, to }) => {
                write!(f, "translate source {peer} to {to} for what leaves by other devices than {name}")
            }
            Self::RemoveSnat(Snat { peer, to, .. }) => {
                write!(f, "stop translating source {peer} to {to}")
            }
            Self::StopDatapath(name) => write!(f, "stop carrying {name}"),
            Self::DeleteDevice(name) => write!(f, "delete device {name}"),
            Self::Forget(spec) => write!(f, "forget {}", spec.name),
        }
    }
}

fn ipv6_word(rule: &InnerRule) -> &'static str {
    if rule.ipv6 { "IPv6 " } else { "" }
}

/// An address or route as `ip` writes it.
struct Words<'a, T>(&'a T);

impl fmt::Display for Words<'_, InnerAddress> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InnerAddress { local, peer, prefix_length } = self.0;
        match peer {
            Some(peer) => write!(f, "{local} peer {peer}/{prefix_length}"),
            None => write!(f, "{local}/{prefix_length}"),
        }
    }
}

impl fmt::Display for Words<'_, InnerRoute> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InnerRoute { destination, via, metric, table, source } = self.0;
        write!(f, "{}/{}", destination.address, destination.length)?;
        if let Some(via) = via {
            write!(f, " via {via}")?;
        }
        if let Some(metric) = metric {
            write!(f, " metric {metric}")?;
        }
        if let Some(source) = source {
            write!(f, " src {source}")?;
        }
        match table {
            Some(table) => write!(f, " table {table}"),
            None => Ok(()),
        }
    }
}
