//! Asking the kernel which way a packet would take (`ip route get`), policy rules, VRF and learned path
//! MTU included. The answer is the kernel's; nothing is worked out here.

use std::net::IpAddr;

use netlink_packet_core::Parseable;
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage};

use crate::error::{NetlinkError, Subject};
use crate::prefix::width;
use crate::route::{Family, RouteKind, ip, ip_of_via, mtu};
use crate::rtnetlink::Netlink;

/// What else decides about the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteOptions {
    /// Source address of the packet.
    pub source: Option<IpAddr>,
    /// Firewall mark.
    pub mark: Option<u32>,
    /// The link it must leave by, or a VRF.
    pub oif: Option<u32>,
}

/// The way a packet takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResolvedRoute {
    /// What becomes of it.
    pub kind: RouteKind,
    /// The link it leaves by; 0 where there is none.
    pub ifindex: u32,
    /// The gateway, or `None` when the destination is on the link.
    pub via: Option<IpAddr>,
    /// The source address the kernel would choose.
    pub source: Option<IpAddr>,
    /// Path MTU in bytes, learned or set on the route; `None` means that of the link.
    pub mtu: Option<u32>,
    /// The path MTU was learned from a router, and the kernel will forget it again.
    pub mtu_learned: bool,
    /// The route wraps packets into something else on their way (`encap`, a lightweight tunnel).
    pub wraps: bool,
    /// The table the route is from.
    pub table: u32,
}

impl ResolvedRoute {
    fn dead_end(kind: RouteKind) -> Self {
        Self {
            kind,
            ifindex: 0,
            via: None,
            source: None,
            mtu: None,
            mtu_learned: false,
            wraps: false,
            table: 0,
        }
    }

    fn from_message(message: &RouteMessage) -> Self {
        let mut route = Self::dead_end(RouteKind::from_wire(message.header.kind));
        route.table = u32::from(message.header.table);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => route.ifindex = *index,
                RouteAttribute::Gateway(address) => route.via = ip(address),
                RouteAttribute::Via(via) => route.via = ip_of_via(via),
                RouteAttribute::PrefSource(address) => route.source = ip(address),
                RouteAttribute::Metrics(metrics) => route.mtu = mtu(metrics),
                RouteAttribute::CacheInfo(cache) => route.mtu_learned = cache.expires != 0,
                RouteAttribute::EncapType(_) => route.wraps = true,
                RouteAttribute::Table(table) => route.table = *table,
                _ => {}
            }
        }
        route
    }
}

impl Netlink {
    /// The way a packet of this host to `destination` takes. A dead end is an answer, not an error: kind
    /// `Prohibit`, `Blackhole`, or `Unreachable`, which is also said when no route matches and when an IPv4
    /// `source` is no address of this host.
    ///
    /// # Errors
    /// Anything else the kernel refuses; `is_not_found` when there is no such link as `oif`.
    pub fn route_to(
        &self,
        destination: IpAddr,
        options: &RouteOptions,
    ) -> Result<ResolvedRoute, NetlinkError> {
        let object = format_args!("route to {destination}");
        let subject = Subject::new("look up", &object);
        if options.source.is_some_and(|source| source.is_ipv4() != destination.is_ipv4()) {
            return Err(subject.invalid("source and destination are of different families"));
        }
        let error = match self.resolve(subject, destination, options) {
            Ok(route) => return Ok(route),
            Err(error) => error,
        };
        match error.errno() {
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => {
                Ok(ResolvedRoute::dead_end(RouteKind::Unreachable))
            }
            Some(libc::EACCES) => Ok(ResolvedRoute::dead_end(RouteKind::Prohibit)),
            // A request that the kernel finds malformed is refused with its words, a blackhole without.
            Some(libc::EINVAL) if error.kernel_message().is_none() => {
                Ok(ResolvedRoute::dead_end(self.blackhole_or_source(subject, destination, options)))
            }
            _ => Err(error),
        }
    }

    /// EINVAL is a blackhole's answer (fib_props, net/ipv4/fib_semantics.c), and on some kernels that to a
    /// source which is not ours. Without a source only the first is left.
    fn blackhole_or_source(
        &self,
        subject: Subject<'_>,
        destination: IpAddr,
        options: &RouteOptions,
    ) -> RouteKind {
        let anonymous = RouteOptions { source: None, ..*options };
        match self.resolve(subject, destination, &anonymous) {
            Err(error) if error.errno() == Some(libc::EINVAL) => RouteKind::Blackhole,
            _ => RouteKind::Unreachable,
        }
    }

    fn resolve(
        &self,
        subject: Subject<'_>,
        destination: IpAddr,
        options: &RouteOptions,
    ) -> Result<ResolvedRoute, NetlinkError> {
        let mut request = RouteMessage::default();
        request.header.address_family = Family::of(destination).wire();
        request.header.destination_prefix_length = width(destination);
        if destination.is_ipv4() {
            // Without it IPv4 does not say which table; IPv6 always does, and refuses the flag.
            request.header.flags = RouteFlags::LookupTable;
        }
        request.attributes.push(RouteAttribute::Destination(destination.into()));
        if let Some(source) = options.source {
            request.header.source_prefix_length = width(source);
            request.attributes.push(RouteAttribute::Source(source.into()));
        }
        request.attributes.extend(options.mark.map(RouteAttribute::Mark));
        request.attributes.extend(options.oif.map(RouteAttribute::Oif));
        let parse = |bytes: &[u8]| RouteMessage::parse(bytes);
        let answer = self.one(subject, libc::RTM_GETROUTE, &request, libc::RTM_NEWROUTE, parse)?;
        let message = answer.ok_or_else(|| subject.malformed("no route in the answer"))?;
        Ok(ResolvedRoute::from_message(&message))
    }
}
