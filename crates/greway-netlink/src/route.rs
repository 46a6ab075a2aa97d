//! Routes: listed, added, replaced, deleted. Left-out properties get iproute2's defaults: table main,
//! protocol boot, and for IPv4 scope link when there is no next hop.

use std::fmt;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType, RouteVia,
};

use crate::error::{NetlinkError, Subject};
use crate::prefix::{IpPrefix, width};
use crate::rtnetlink::Netlink;

/// Routing tables by their well-known numbers (RT_TABLE_).
pub mod table {
    /// Where `ip route` looks unless told otherwise.
    pub const MAIN: u32 = 254;
    /// The kernel's own table of local and broadcast addresses.
    pub const LOCAL: u32 = 255;
}

/// Who made a route (RTPROT_).
pub mod protocol {
    /// The kernel, with an address.
    pub const KERNEL: u8 = 2;
    /// Nobody said; what `ip route add` writes.
    pub const BOOT: u8 = 3;
    /// An administrator.
    pub const STATIC: u8 = 4;
}

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IP version 4.
    Ipv4,
    /// IP version 6.
    Ipv6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    pub(crate) fn wire(self) -> AddressFamily {
        match self {
            Self::Ipv4 => AddressFamily::Inet,
            Self::Ipv6 => AddressFamily::Inet6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// What becomes of a packet that a route matches (RTN_).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RouteKind {
    /// Sent on.
    Unicast,
    /// Delivered here.
    Local,
    /// Delivered here and sent as broadcast.
    Broadcast,
    /// Delivered here, one of several such hosts.
    Anycast,
    /// Multicast.
    Multicast,
    /// Dropped silently.
    Blackhole,
    /// Answered with host unreachable.
    Unreachable,
    /// Answered with administratively prohibited.
    Prohibit,
    /// Looked up in the next table.
    Throw,
    /// Anything else, as the kernel's number.
    Other(u8),
}

impl RouteKind {
    pub(crate) fn from_wire(kind: RouteType) -> Self {
        match kind {
            RouteType::Unicast => Self::Unicast,
            RouteType::Local => Self::Local,
            RouteType::Broadcast => Self::Broadcast,
            RouteType::Anycast => Self::Anycast,
            RouteType::Multicast => Self::Multicast,
            RouteType::BlackHole => Self::Blackhole,
            RouteType::Unreachable => Self::Unreachable,
            RouteType::Prohibit => Self::Prohibit,
            RouteType::Throw => Self::Throw,
            other => Self::Other(other.into()),
        }
    }

    fn wire(self) -> RouteType {
        match self {
            Self::Unicast => RouteType::Unicast,
            Self::Local => RouteType::Local,
            Self::Broadcast => RouteType::Broadcast,
            Self::Anycast => RouteType::Anycast,
            Self::Multicast => RouteType::Multicast,
            Self::Blackhole => RouteType::BlackHole,
            Self::Unreachable => RouteType::Unreachable,
            Self::Prohibit => RouteType::Prohibit,
            Self::Throw => RouteType::Throw,
            Self::Other(number) => RouteType::from(number),
        }
    }
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unicast => "unicast",
            Self::Local => "local",
            Self::Broadcast => "broadcast",
            Self::Anycast => "anycast",
            Self::Multicast => "multicast",
            Self::Blackhole => "blackhole",
            Self::Unreachable => "unreachable",
            Self::Prohibit => "prohibit",
            Self::Throw => "throw",
            Self::Other(number) => return write!(f, "type {number}"),
        })
    }
}

/// One of several next hops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// The gateway, or `None` when destinations are on the link.
    pub via: Option<IpAddr>,
    /// The link.
    pub ifindex: u32,
    /// Share of the traffic, 1 to 256.
    pub weight: u16,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Which destinations it covers.
    pub destination: IpPrefix,
    /// What becomes of a matching packet.
    pub kind: RouteKind,
    /// The gateway; may be IPv6 for an IPv4 route.
    pub via: Option<IpAddr>,
    /// The link.
    pub ifindex: Option<u32>,
    /// Preference, lower wins. IPv6 routes without one get 1024 from the kernel.
    pub metric: Option<u32>,
    /// Source address for packets of this host.
    pub source: Option<IpAddr>,
    /// Table number, see [`table`].
    pub table: u32,
    /// RT_SCOPE_ value, 0 global, 253 link, 254 host; `None` lets `add_route` choose as iproute2 does.
    pub scope: Option<u8>,
    /// Who made it, see [`protocol`].
    pub protocol: u8,
    /// Path MTU in bytes set on the route.
    pub mtu: Option<u32>,
    /// The gateway is taken to be on the link although no prefix says so.
    pub onlink: bool,
    /// Filled, instead of `via` and `ifindex`, for a route with several next hops. Such routes are read
    /// only: adding one is refused.
    pub next_hops: Vec<NextHop>,
}

impl Route {
    /// A unicast route with iproute2's defaults; give it a link or a gateway.
    pub fn to(destination: IpPrefix) -> Self {
        Self {
            destination,
            kind: RouteKind::Unicast,
            via: None,
            ifindex: None,
            metric: None,
            source: None,
            table: table::MAIN,
            scope: None,
            protocol: protocol::BOOT,
            mtu: None,
            onlink: false,
            next_hops: Vec::new(),
        }
    }

    /// A route to `destination` over a link, without a gateway.
    pub fn on_link(destination: IpPrefix, ifindex: u32) -> Self {
        Self { ifindex: Some(ifindex), ..Self::to(destination) }
    }

    /// A route to `destination` by a gateway; the kernel finds the link.
    pub fn through(destination: IpPrefix, via: IpAddr) -> Self {
        Self { via: Some(via), ..Self::to(destination) }
    }

    fn from_message(message: RouteMessage) -> Option<Self> {
        let header = message.header;
        let (unspecified, family) = match header.address_family {
            AddressFamily::Inet => (IpPrefix::IPV4_DEFAULT, Family::Ipv4),
            AddressFamily::Inet6 => (IpPrefix::IPV6_DEFAULT, Family::Ipv6),
            _ => return None,
        };
        let mut route = Self::to(unspecified);
        route.kind = RouteKind::from_wire(header.kind);
        route.table = u32::from(header.table);
        route.scope = (family == Family::Ipv4).then(|| header.scope.into());
        route.protocol = header.protocol.into();
        route.onlink = header.flags.contains(RouteFlags::Onlink);
        for attribute in message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => route.destination.address = ip(&address)?,
                RouteAttribute::Gateway(address) => route.via = ip(&address),
                RouteAttribute::Via(via) => route.via = ip_of_via(&via),
                RouteAttribute::Oif(index) => route.ifindex = Some(index),
                RouteAttribute::Priority(metric) => route.metric = Some(metric),
                RouteAttribute::PrefSource(address) => route.source = ip(&address),
                RouteAttribute::Table(table) => route.table = table,
                RouteAttribute::Metrics(metrics) => route.mtu = mtu(&metrics),
                RouteAttribute::MultiPath(hops) => {
                    route.next_hops = hops
                        .iter()
                        .map(|hop| NextHop {
                            via: hop.attributes.iter().find_map(gateway),
                            ifindex: hop.interface_index,
                            weight: u16::from(hop.hops) + 1,
                        })
                        .collect();
                }
                _ => {}
            }
        }
        route.destination.length = header.destination_prefix_length;
        Some(route)
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let family = Family::of(self.destination.address);
        let header = &mut message.header;
        header.address_family = family.wire();
        header.destination_prefix_length = self.destination.length;
        // The header's field is one byte; RTA_TABLE carries the number either way.
        header.table = u8::try_from(self.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        header.protocol = RouteProtocol::from(self.protocol);
        header.kind = self.kind.wire();
        header.scope = self.scope.map_or_else(|| self.default_scope(), RouteScope::from);
        if self.onlink {
            header.flags |= RouteFlags::Onlink;
        }
        let same_family = |via: &IpAddr| Family::of(*via) == family;
        message.attributes.push(RouteAttribute::Table(self.table));
        if self.destination.length > 0 {
            message.attributes.push(RouteAttribute::Destination(self.destination.address.into()));
        }
        message.attributes.extend(
            [
                self.via.map(|via| match via {
                    via if same_family(&via) => RouteAttribute::Gateway(via.into()),
                    IpAddr::V4(via) => RouteAttribute::Via(RouteVia::Inet(via)),
                    IpAddr::V6(via) => RouteAttribute::Via(RouteVia::Inet6(via)),
                }),
                self.ifindex.map(RouteAttribute::Oif),
                self.source.map(|source| RouteAttribute::PrefSource(source.into())),
                self.metric.map(RouteAttribute::Priority),
                self.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])),
            ]
            .into_iter()
            .flatten(),
        );
        message
    }

    /// iproute2's choice (ip/iproute.c, iproute_modify).
    fn default_scope(&self) -> RouteScope {
        match self.kind {
            RouteKind::Local => RouteScope::Host,
            RouteKind::Broadcast | RouteKind::Multicast | RouteKind::Anycast => RouteScope::Link,
            RouteKind::Unicast if self.via.is_none() => RouteScope::Link,
            _ => RouteScope::Universe,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind != RouteKind::Unicast {
            write!(f, "{} ", self.kind)?;
        }
        write!(f, "{}", self.destination)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if let Some(ifindex) = self.ifindex {
            write!(f, " on interface {ifindex}")?;
        }
        if let Some(metric) = self.metric {
            write!(f, " metric {metric}")?;
        }
        if self.table != table::MAIN {
            write!(f, " table {}", self.table)?;
        }
        Ok(())
    }
}

/// Which routes to list; `None` means any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteFilter {
    /// Table number, see [`table`].
    pub table: Option<u32>,
    /// The link.
    pub ifindex: Option<u32>,
    /// Who made it, see [`protocol`].
    pub protocol: Option<u8>,
}

impl RouteFilter {
    fn matches(&self, route: &Route) -> bool {
        let on = |index: u32| {
            route.ifindex == Some(index) || route.next_hops.iter().any(|hop| hop.ifindex == index)
        };
        self.table.is_none_or(|table| route.table == table)
            && self.ifindex.is_none_or(on)
            && self.protocol.is_none_or(|protocol| route.protocol == protocol)
    }
}

impl Netlink {
    /// The routes of a family that pass the filter. IPv6 routes that the kernel keeps as a cache are not
    /// among them.
    ///
    /// # Errors
    /// Those of a dump.
    pub fn routes(&self, family: Family, filter: &RouteFilter) -> Result<Vec<Route>, NetlinkError> {
        self.routes_where(family, filter, |_| true)
    }

    /// The same, of those that `wanted` holds for: of a table with a million routes the others are not kept.
    ///
    /// # Errors
    /// Those of a dump.
    pub fn routes_where(
        &self,
        family: Family,
        filter: &RouteFilter,
        wanted: impl Fn(&Route) -> bool,
    ) -> Result<Vec<Route>, NetlinkError> {
        let object = format_args!("{family} routes");
        let subject = Subject::new("list", &object);
        let mut request = RouteMessage::default();
        request.header.address_family = family.wire();
        request.attributes.extend(filter.table.map(RouteAttribute::Table));
        request.attributes.extend(filter.ifindex.map(RouteAttribute::Oif));
        let dump = self.dump_some(subject, libc::RTM_GETROUTE, &request, libc::RTM_NEWROUTE, |bytes| {
            let message = RouteMessage::parse(bytes)?;
            let kept = !message.header.flags.contains(RouteFlags::Cloned);
            let route = kept.then(|| Route::from_message(message)).flatten();
            Ok(route.filter(|route| filter.matches(route) && wanted(route)))
        });
        match dump {
            // No route was ever put into that table, or there is no such link.
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            outcome => outcome,
        }
    }

    /// Adds a route.
    ///
    /// # Errors
    /// `is_exists` when there is one to this destination with the same metric.
    pub fn add_route(&self, route: &Route) -> Result<(), NetlinkError> {
        self.put_route("add route", route, libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Adds a route, in place of one to the same destination with the same metric if there is one.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn replace_route(&self, route: &Route) -> Result<(), NetlinkError> {
        self.put_route("replace route", route, libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Deletes a route. Destination, table, kind, protocol and scope must match, and whatever else is
    /// given, so a route of somebody else stays.
    ///
    /// # Errors
    /// `is_not_found` when there is none.
    pub fn delete_route(&self, route: &Route) -> Result<(), NetlinkError> {
        self.put_route("delete route", route, libc::RTM_DELROUTE, 0)
    }

    fn put_route(
        &self,
        operation: &'static str,
        route: &Route,
        kind: u16,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        let subject = Subject::new(operation, route);
        let IpPrefix { address, length } = route.destination;
        if length > width(address) {
            return Err(subject.invalid(format_args!("a prefix has at most {} bits", width(address))));
        }
        if route.source.is_some_and(|source| source.is_ipv4() != address.is_ipv4()) {
            return Err(subject.invalid("source and destination are of different families"));
        }
        if !route.next_hops.is_empty() {
            return Err(subject.invalid("routes with several next hops can only be read"));
        }
        self.change(subject, kind, flags, &route.message())
    }
}

pub(crate) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

pub(crate) fn ip_of_via(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(address) => Some((*address).into()),
        RouteVia::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

pub(crate) fn mtu(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(via) => ip_of_via(via),
        _ => None,
    }
}
