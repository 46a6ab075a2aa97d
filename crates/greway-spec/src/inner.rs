//! What a draft says about the inside of a tunnel, checked.

use std::fmt;
use std::net::IpAddr;

use crate::draft::{Check, Draft, DraftAddress, DraftRoute};
use crate::error::{Problem, SpecError};
use crate::given::Given;
use crate::spec::{Inner, InnerAddress, InnerNeighbour, InnerRoute, Mode, Prefix};

/// The routing table that is meant where none is named, and the kernel's own (linux
/// include/uapi/linux/rtnetlink.h `RT_TABLE_MAIN`, `RT_TABLE_LOCAL`).
const MAIN_TABLE: u32 = 254;
const LOCAL_TABLE: u32 = 255;

pub(crate) fn check(
    draft: &Draft,
    mode: Mode,
    remote: Option<IpAddr>,
    check: &Check,
) -> Result<Inner, SpecError> {
    let mut inner = Inner { forward: draft.forward.as_ref().is_some_and(|on| on.value), ..Inner::default() };
    for given in draft.addresses.iter().flatten() {
        let address = checked_address(given, remote, check)?;
        if inner.addresses.iter().any(|other| other.local == address.local && other.peer == address.peer) {
            return Err(check.error("inner address", address, &given.span, Problem::Twice));
        }
        inner.addresses.push(address);
    }
    for given in draft.routes.iter().flatten() {
        let route = checked_route(given, &inner, check)?;
        let same = |other: &InnerRoute| {
            (other.destination, other.metric, other.table) == (route.destination, route.metric, route.table)
        };
        if inner.routes.iter().any(same) {
            return Err(check.error("inner route", route, &given.span, Problem::Twice));
        }
        inner.routes.push(route);
    }
    for given in draft.rules.iter().flatten() {
        let rule = given.value.clone();
        if let Some(problem) = rule.problem() {
            return Err(check.error("inner rule", rule, &given.span, problem));
        }
        if inner.rules.contains(&rule) {
            return Err(check.error("inner rule", rule, &given.span, Problem::Twice));
        }
        inner.rules.push(rule);
    }
    for given in draft.neighbours.iter().flatten() {
        let neighbour = checked_neighbour(given, mode, remote, check)?;
        if inner.neighbours.iter().any(|other| other.address == neighbour.address) {
            return Err(check.error("inner neighbour", neighbour.address, &given.span, Problem::Twice));
        }
        inner.neighbours.push(neighbour);
    }
    inner.link_down = draft.link_down.as_ref().is_some_and(|down| down.value);
    if let (true, Some(route)) = (inner.link_down, draft.routes.iter().flatten().next()) {
        return Err(check.error("inner route", inner.routes[0], &route.span, Problem::RouteNeedsUp));
    }
    if let Some(mtu) = &draft.ipv6_mtu {
        // RFC 8200 §5; the kernel's limit is 65535 too.
        let (least, most) = (1280, 65_535);
        if !(least..=most).contains(&mtu.value) {
            return Err(check.error(
                "inner ipv6_mtu",
                mtu.value,
                &mtu.span,
                Problem::MtuRange { least, most },
            ));
        }
        inner.ipv6_mtu = Some(mtu.value);
    }
    if let Some(snat) = &draft.snat {
        let IpAddr::V4(address) = snat.value else {
            let problem = Problem::Family { wanted: "an IPv4 address" };
            return Err(check.error("inner snat", snat.value, &snat.span, problem));
        };
        if !unicast(snat.value) {
            return Err(check.error("inner snat", address, &snat.span, Problem::NotUnicast));
        }
        let peer = |address: &InnerAddress| address.peer.is_some_and(|peer| peer.is_ipv4());
        if !inner.addresses.iter().any(peer) {
            return Err(check.error("inner snat", address, &snat.span, Problem::SnatNeedsPeer));
        }
        inner.snat = Some(address);
    }
    Ok(inner)
}

fn checked_address(
    given: &Given<DraftAddress>,
    remote: Option<IpAddr>,
    check: &Check,
) -> Result<InnerAddress, SpecError> {
    let DraftAddress { local, peer, prefix_length } = given.value;
    let most = bits(local);
    if prefix_length > most {
        let text = format!("{}/{prefix_length}", peer.unwrap_or(local));
        return Err(check.error("inner address", text, &given.span, Problem::PrefixLength { most }));
    }
    if !unicast(local) {
        return Err(check.error("inner address", local, &given.span, Problem::NotUnicast));
    }
    if let Some(peer) = peer {
        let problem = match peer {
            peer if peer.is_ipv4() != local.is_ipv4() => Some(Problem::Family {
                wanted: if local.is_ipv4() { "an IPv4 address" } else { "an IPv6 address" },
            }),
            peer if !unicast(peer) => Some(Problem::NotUnicast),
            peer if peer == local => Some(Problem::SameInnerEnds),
            peer if Some(peer) == remote => Some(Problem::InnerPeerIsRemote),
            _ => None,
        };
        if let Some(problem) = problem {
            return Err(check.error("inner peer", peer, &given.span, problem));
        }
    }
    Ok(InnerAddress { local, peer, prefix_length })
}

fn checked_neighbour(
    given: &Given<InnerNeighbour>,
    mode: Mode,
    remote: Option<IpAddr>,
    check: &Check,
) -> Result<InnerNeighbour, SpecError> {
    let InnerNeighbour { address, endpoint } = given.value;
    let refuse = |field, value: IpAddr, problem| Err(check.error(field, value, &given.span, problem));
    if remote.is_some() || mode.is_ethernet() {
        return refuse("inner neighbour", address, Problem::NeighboursNeedAnyRemote);
    }
    if !unicast(address) {
        return refuse("inner neighbour", address, Problem::NotUnicast);
    }
    if endpoint.is_ipv6() != mode.over_ipv6() {
        let wanted = if mode.over_ipv6() { "an IPv6 address" } else { "an IPv4 address" };
        return refuse("inner neighbour endpoint", endpoint, Problem::Family { wanted });
    }
    if !unicast(endpoint) {
        return refuse("inner neighbour endpoint", endpoint, Problem::NotUnicast);
    }
    Ok(given.value)
}

fn checked_route(given: &Given<DraftRoute>, inner: &Inner, check: &Check) -> Result<InnerRoute, SpecError> {
    let DraftRoute { address, length, via, metric, table, source } = given.value;
    let text = || format!("{address}/{length}");
    let most = bits(address);
    if length > most {
        return Err(check.error("inner route", text(), &given.span, Problem::PrefixLength { most }));
    }
    let destination = Prefix::containing(address, length);
    if destination.address != address {
        let problem = Problem::HostBits { right: destination };
        return Err(check.error("inner route", text(), &given.span, problem));
    }
    if let Some(via) = via {
        let wanted = if address.is_ipv4() { "an IPv4 address" } else { "an IPv6 address" };
        let problem = if via.is_ipv4() != address.is_ipv4() {
            Some(Problem::Family { wanted })
        } else if !unicast(via) {
            Some(Problem::NotUnicast)
        } else if inner.addresses.iter().any(|own| own.local == via) {
            Some(Problem::ViaOurselves(via))
        } else {
            None
        };
        if let Some(problem) = problem {
            return Err(check.error("inner route via", via, &given.span, problem));
        }
    }
    if let Some(source) = source {
        let wanted = if address.is_ipv4() { "an IPv4 address" } else { "an IPv6 address" };
        let problem = if source.is_ipv4() != address.is_ipv4() {
            Some(Problem::Family { wanted })
        } else {
            (!unicast(source)).then_some(Problem::NotUnicast)
        };
        if let Some(problem) = problem {
            return Err(check.error("inner route src", source, &given.span, problem));
        }
    }
    if let Some(number @ (0 | LOCAL_TABLE)) = table {
        return Err(check.error("inner route table", number, &given.span, Problem::RouteTable));
    }
    // Said or not said, main is main.
    let table = table.filter(|table| *table != MAIN_TABLE);
    Ok(InnerRoute { destination, via, metric, table, source })
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !broadcast
}

impl Prefix {
    /// The prefix of `length` bits that `address` lies in. A length beyond the address is its full
    /// length.
    pub fn containing(address: IpAddr, length: u8) -> Self {
        let length = length.min(bits(address));
        let kept = u32::from(length);
        let address = match address {
            IpAddr::V4(v4) => {
                IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(32 - kept).unwrap_or(0)).into())
            }
            IpAddr::V6(v6) => {
                IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(128 - kept).unwrap_or(0)).into())
            }
        };
        Self { address, length }
    }

    /// Whether `address` lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && Self::containing(address, self.length) == *self
    }
}

/// `10.10.2.0/24`.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl InnerAddress {
    /// The connected route that the kernel makes of it.
    pub fn connected(&self) -> Prefix {
        Prefix::containing(self.peer.unwrap_or(self.local), self.prefix_length)
    }
}

/// `172.16.0.1 peer 172.16.0.2/30`, or `172.16.0.1/30`, as `ip addr show` prints it.
impl fmt::Display for InnerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            Some(peer) => write!(f, "{} peer {peer}/{}", self.local, self.prefix_length),
            None => write!(f, "{}/{}", self.local, self.prefix_length),
        }
    }
}

/// `10.0.0.2 lladdr 203.0.113.5`, as `ip neigh` has it.
impl fmt::Display for InnerNeighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lladdr {}", self.address, self.endpoint)
    }
}

/// `10.10.2.0/24 via 172.16.0.2 metric 50`, as `ip route` has it.
impl fmt::Display for InnerRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if let Some(metric) = self.metric {
            write!(f, " metric {metric}")?;
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if let Some(table) = self.table {
            write!(f, " table {table}")?;
        }
        Ok(())
    }
}

impl From<InnerAddress> for DraftAddress {
    fn from(address: InnerAddress) -> Self {
        let InnerAddress { local, peer, prefix_length } = address;
        Self { local, peer, prefix_length }
    }
}

impl From<InnerRoute> for DraftRoute {
    fn from(route: InnerRoute) -> Self {
        let InnerRoute { destination: Prefix { address, length }, via, metric, table, source } = route;
        Self { address, length, via, metric, table, source }
    }
}
