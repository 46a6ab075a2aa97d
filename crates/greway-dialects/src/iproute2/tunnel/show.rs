//! Which tunnels `ip tunnel show` means.

use std::net::IpAddr;

use greway_spec::{Draft, FlowLabel, Mode, Ttl, TunnelSpec};

use super::{Errno, get_failed};
use crate::iproute2::abort::Abort;

/// What `ip tunnel show` was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Show {
    /// `ip -6 tunnel`.
    pub over_ipv6: bool,
    /// Only this device.
    pub name: Option<String>,
    /// The device is asked for by its name and has to be there; else the list is searched, and nothing
    /// found is nothing printed. Over IPv6 the list is taken all the same where statistics are wanted.
    pub by_name: bool,
    /// In a list: what has to be as here.
    pub filter: Draft,
}

impl Show {
    /// How the tool reports that the device it asked for is no tunnel.
    pub fn failed(&self, errno: Errno) -> Abort {
        get_failed(self.name.as_deref().unwrap_or_default(), errno)
    }

    /// Whether the tool asks for one device, and not for a list.
    pub fn is_single(&self, statistics: bool) -> bool {
        self.by_name && !(self.over_ipv6 && statistics)
    }

    /// Whether this is the device that was asked for.
    pub fn names(&self, spec: &TunnelSpec) -> bool {
        let mode = if self.over_ipv6 { Mode::Ip6Gre } else { Mode::Gre };
        spec.mode == mode && self.name.as_ref().is_none_or(|name| name == spec.name.as_str())
    }

    /// Whether a tunnel belongs into the list.
    pub fn lists(&self, spec: &TunnelSpec) -> bool {
        self.names(spec) && self.matches_filter(spec)
    }

    fn matches_filter(&self, spec: &TunnelSpec) -> bool {
        let filter = &self.filter;
        let end = |wanted: Option<IpAddr>, present: Option<IpAddr>| {
            wanted.filter(|address| !address.is_unspecified()).is_none_or(|address| present == Some(address))
        };
        let dev = filter.dev.as_ref().and_then(|given| given.value.as_ref());
        end(filter.remote.as_ref().map(|given| given.value), spec.remote)
            && end(filter.local.as_ref().map(|given| given.value), spec.local)
            && dev.is_none_or(|dev| spec.dev.as_ref() == Some(dev))
            && (!self.over_ipv6 || self.matches_ipv6(spec))
    }

    /// The IPv6 list also goes by what only its header has; zero means not asked for.
    fn matches_ipv6(&self, spec: &TunnelSpec) -> bool {
        let filter = &self.filter;
        let hops = |ttl: Ttl| match ttl {
            Ttl::Inherit => 0,
            Ttl::Fixed(hops) => hops,
        };
        let label = |label: FlowLabel| match label {
            FlowLabel::Inherit => 0,
            FlowLabel::Fixed(label) => label,
        };
        let wanted_limit = filter.encaplimit.as_ref().and_then(|given| given.value).unwrap_or(0);
        let wanted_hops = filter.ttl.as_ref().map_or(0, |given| hops(given.value));
        let wanted_class = filter.tos.as_ref().map_or(0, |given| given.value.value);
        let wanted_label = filter.flowlabel.as_ref().map_or(0, |given| label(given.value));
        // Any one of the flags asked for is enough.
        let flags = [
            (
                filter.encaplimit.as_ref().is_some_and(|given| given.value.is_none()),
                spec.encaplimit.is_none(),
            ),
            (filter.tos.as_ref().is_some_and(|given| given.value.inherit), spec.tos.inherit),
            (
                filter.flowlabel.as_ref().is_some_and(|given| given.value == FlowLabel::Inherit),
                spec.flowlabel == FlowLabel::Inherit,
            ),
            (filter.dscp_inherit.as_ref().is_some_and(|given| given.value), spec.dscp_inherit),
            (filter.allow_localremote.as_ref().is_some_and(|given| given.value), spec.allow_localremote),
        ];
        (wanted_limit == 0 || spec.encaplimit == Some(wanted_limit))
            && (wanted_hops == 0 || hops(spec.ttl) == wanted_hops)
            && (wanted_class == 0 || spec.tos.value == wanted_class)
            && (wanted_label == 0 || label(spec.flowlabel) == wanted_label)
            && (flags.iter().all(|(wanted, _)| !wanted) || flags.iter().any(|(wanted, is)| *wanted && *is))
    }
}
