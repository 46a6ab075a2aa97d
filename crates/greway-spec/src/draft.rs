//! What somebody asked for, before the defaults.
//!
//! Every surface fills in a [`Draft`]; [`Draft::into_spec`] adds iproute2's defaults and refuses what
//! cannot work, so that a [`TunnelSpec`] needs no further check. It looks at the tunnel alone: whether
//! a name is in use or a device exists is for those to say who can see the system.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::{Problem, SpecError};
use crate::given::{Given, Span};
use crate::inner;
use crate::name::DeviceName;
use crate::policy::{DatapathChoice, FirewallPolicy, MssClamp, OverlayChoice, SeqMode, UnderlayChoice};
use crate::rule::InnerRule;
use crate::spec::{FlowLabel, Inner, InnerNeighbour, Mode, Origin, Tos, Ttl, TunnelSpec};

/// The smallest MTU of an IPv4 link in bytes (RFC 791 §3.2).
pub const LEAST_MTU: u32 = 68;
/// Encapsulation limit over IPv6 unless one is given (linux include/uapi/linux/ip6_tunnel.h
/// `IPV6_DEFAULT_TNL_ENCAP_LIMIT`, v6.18).
pub const DEFAULT_ENCAPLIMIT: u8 = 4;
/// The largest IPv4 packet in bytes.
const LARGEST_PACKET: u32 = 65_535;

/// A tunnel as somebody described it; every field is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    /// Name of the tunnel device; required.
    pub name: Option<Given<DeviceName>>,
    /// Default: gre.
    pub mode: Option<Given<Mode>>,
    /// Default: any. The unspecified address means any as well.
    pub local: Option<Given<IpAddr>>,
    /// The peer's outer address; required. The unspecified address means any.
    pub remote: Option<Given<IpAddr>>,
    /// Key of received packets; `None` inside takes it away. Default: none.
    pub ikey: Option<Given<Option<u32>>>,
    /// Key of sent packets; `None` inside takes it away. Default: none.
    pub okey: Option<Given<Option<u32>>>,
    /// Default: off.
    pub icsum: Option<Given<bool>>,
    /// Default: off.
    pub ocsum: Option<Given<bool>>,
    /// Default: off.
    pub iseq: Option<Given<bool>>,
    /// Default: off.
    pub oseq: Option<Given<bool>>,
    /// Default: linux.
    pub seq_mode: Option<Given<SeqMode>>,
    /// Default: inherit, and 64 over IPv6.
    pub ttl: Option<Given<Ttl>>,
    /// Default: 0.
    pub tos: Option<Given<Tos>>,
    /// Default: on.
    pub pmtudisc: Option<Given<bool>>,
    /// Default: off.
    pub ignore_df: Option<Given<bool>>,
    /// Encapsulation limit; `None` inside takes it away. Default: 4 over IPv6.
    pub encaplimit: Option<Given<Option<u8>>>,
    /// Default: 0.
    pub flowlabel: Option<Given<FlowLabel>>,
    /// Default: off.
    pub dscp_inherit: Option<Given<bool>>,
    /// Default: off.
    pub allow_localremote: Option<Given<bool>>,
    /// Default: 0.
    pub fwmark: Option<Given<u32>>,
    /// Underlay device; `None` inside takes it away. Default: none.
    pub dev: Option<Given<Option<DeviceName>>>,
    /// MTU in bytes; `None` inside means from the route. Default: from the route.
    pub mtu: Option<Given<Option<u32>>>,
    /// Default: auto.
    pub datapath: Option<Given<DatapathChoice>>,
    /// Default: auto.
    pub underlay: Option<Given<UnderlayChoice>>,
    /// Default: auto.
    pub overlay: Option<Given<OverlayChoice>>,
    /// Default: honour.
    pub firewall: Option<Given<FirewallPolicy>>,
    /// Default: off.
    pub direct: Option<Given<bool>>,
    /// Default: auto.
    pub mss: Option<Given<MssClamp>>,
    /// Addresses of the tunnel device. Default: none.
    pub addresses: Option<Vec<Given<DraftAddress>>>,
    /// Routes through the tunnel. Default: none.
    pub routes: Option<Vec<Given<DraftRoute>>>,
    /// Rules of the policy database. Default: none.
    pub rules: Option<Vec<Given<InnerRule>>>,
    /// Endpoints of inner addresses, for a tunnel without a remote. Default: none.
    pub neighbours: Option<Vec<Given<InnerNeighbour>>>,
    /// Whether the device is left down. Default: off.
    pub link_down: Option<Given<bool>>,
    /// MTU for IPv6 in bytes. Default: the device's.
    pub ipv6_mtu: Option<Given<u32>>,
    /// Default: off.
    pub forward: Option<Given<bool>>,
    /// Default: none.
    pub snat: Option<Given<IpAddr>>,
    /// Who defined it.
    pub origin: Origin,
}

/// An address inside the tunnel, not yet checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DraftAddress {
    /// Our own address.
    pub local: IpAddr,
    /// The peer's, where there is one.
    pub peer: Option<IpAddr>,
    /// Prefix length of the peer, or of `local` where there is no peer.
    pub prefix_length: u8,
}

/// A route through the tunnel, not yet checked: host bits may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DraftRoute {
    /// Destination.
    pub address: IpAddr,
    /// Prefix length of the destination.
    pub length: u8,
    /// Next hop, where one is named.
    pub via: Option<IpAddr>,
    /// Route metric.
    pub metric: Option<u32>,
    /// Number of the routing table. Default: main.
    pub table: Option<u32>,
    /// Source address.
    pub source: Option<IpAddr>,
}

impl DraftRoute {
    /// A route over the tunnel's link, in table main.
    pub fn to(address: IpAddr, length: u8) -> Self {
        Self { address, length, via: None, metric: None, table: None, source: None }
    }
}

impl Draft {
    /// A draft with the three fields that have no useful default.
    pub fn new(name: DeviceName, local: Ipv4Addr, remote: Ipv4Addr) -> Self {
        Self {
            name: Some(name.into()),
            local: Some(IpAddr::V4(local).into()),
            remote: Some(IpAddr::V4(remote).into()),
            ..Self::default()
        }
    }

    /// The tunnel that is meant, with iproute2's defaults: mode gre, ttl inherit, pmtudisc.
    ///
    /// # Errors
    /// The first field that is missing or cannot be as it is.
    pub fn into_spec(self) -> Result<TunnelSpec, SpecError> {
        let check = Check { tunnel: self.name.as_ref().map(|name| name.value.clone()) };
        let name = self.name.clone().ok_or_else(|| check.missing("name", "every tunnel needs one"))?;
        check.name(&name)?;
        let mode = value(&self.mode);
        self.fields_of_mode(mode, &check)?;
        let (local, remote) = self.ends(mode, &check)?;
        let inner = inner::check(&self, mode, remote, &check)?;
        let spec = TunnelSpec {
            name: name.value,
            mode,
            local,
            remote,
            ikey: value(&self.ikey),
            okey: value(&self.okey),
            icsum: value(&self.icsum),
            ocsum: value(&self.ocsum),
            iseq: value(&self.iseq),
            oseq: value(&self.oseq),
            seq_mode: value(&self.seq_mode),
            ttl: self.ttl.as_ref().map_or_else(|| default_ttl(mode), |given| given.value),
            tos: value(&self.tos),
            pmtudisc: self.pmtudisc.as_ref().is_none_or(|given| given.value),
            ignore_df: value(&self.ignore_df),
            encaplimit: self
                .encaplimit
                .as_ref()
                .map_or_else(|| default_encaplimit(mode), |given| given.value),
            flowlabel: value(&self.flowlabel),
            dscp_inherit: value(&self.dscp_inherit),
            allow_localremote: value(&self.allow_localremote),
            fwmark: value(&self.fwmark),
            dev: value(&self.dev),
            mtu: value(&self.mtu),
            datapath: value(&self.datapath),
            underlay: value(&self.underlay),
            overlay: value(&self.overlay),
            firewall: value(&self.firewall),
            direct: value(&self.direct),
            mss: value(&self.mss),
            inner,
            origin: self.origin.clone(),
        };
        self.outer_header(&spec, &check)?;
        self.direct(&spec, &check)?;
        self.devices(&spec, &check)?;
        Ok(spec)
    }

    /// The tunnel that is meant, if this version carries such a one.
    ///
    /// # Errors
    /// As [`Draft::into_spec`] and [`TunnelSpec::carried`], with the place of the field.
    pub fn into_carried_spec(self) -> Result<TunnelSpec, SpecError> {
        let places = [
            ("mode", span(&self.mode)),
            ("overlay", span(&self.overlay)),
            ("remote", span(&self.remote)),
            ("underlay", span(&self.underlay)),
            ("firewall", span(&self.firewall)),
        ];
        let spec = self.into_spec()?;
        match spec.carried() {
            Ok(()) => Ok(spec),
            Err(mut error) => {
                let place = places.into_iter().find(|(field, _)| *field == error.field);
                error.span = place.and_then(|(_, span)| span);
                Err(error)
            }
        }
    }

    /// This draft on top of an existing tunnel, for `tunnel change`: what it does not name stays.
    ///
    /// # Errors
    /// As [`Draft::into_spec`]; and another mode or name needs a new tunnel.
    pub fn overlay_on(self, present: &TunnelSpec) -> Result<TunnelSpec, SpecError> {
        let check = Check { tunnel: Some(present.name.clone()) };
        if let Some(name) = self.name.as_ref().filter(|name| name.value != present.name) {
            let problem = Problem::NotChangeable { from: present.name.to_string() };
            return Err(check.error("name", &name.value, &name.span, problem));
        }
        if let Some(mode) = self.mode.as_ref().filter(|mode| mode.value != present.mode) {
            let problem = Problem::NotChangeable { from: present.mode.to_string() };
            return Err(check.error("mode", mode.value, &mode.span, problem));
        }
        let below = Self::from(present);
        let merged = Self {
            name: below.name,
            mode: below.mode,
            local: self.local.or(below.local),
            remote: self.remote.or(below.remote),
            ikey: self.ikey.or(below.ikey),
            okey: self.okey.or(below.okey),
            icsum: self.icsum.or(below.icsum),
            ocsum: self.ocsum.or(below.ocsum),
            iseq: self.iseq.or(below.iseq),
            oseq: self.oseq.or(below.oseq),
            seq_mode: self.seq_mode.or(below.seq_mode),
            ttl: self.ttl.or(below.ttl),
            tos: self.tos.or(below.tos),
            pmtudisc: self.pmtudisc.or(below.pmtudisc),
            ignore_df: self.ignore_df.or(below.ignore_df),
            encaplimit: self.encaplimit.or(below.encaplimit),
            flowlabel: self.flowlabel.or(below.flowlabel),
            dscp_inherit: self.dscp_inherit.or(below.dscp_inherit),
            allow_localremote: self.allow_localremote.or(below.allow_localremote),
            fwmark: self.fwmark.or(below.fwmark),
            dev: self.dev.or(below.dev),
            mtu: self.mtu.or(below.mtu),
            datapath: self.datapath.or(below.datapath),
            underlay: self.underlay.or(below.underlay),
            overlay: self.overlay.or(below.overlay),
            firewall: self.firewall.or(below.firewall),
            direct: self.direct.or(below.direct),
            mss: self.mss.or(below.mss),
            addresses: self.addresses.or(below.addresses),
            routes: self.routes.or(below.routes),
            rules: self.rules.or(below.rules),
            neighbours: self.neighbours.or(below.neighbours),
            link_down: self.link_down.or(below.link_down),
            ipv6_mtu: self.ipv6_mtu.or(below.ipv6_mtu),
            forward: self.forward.or(below.forward),
            snat: self.snat.or(below.snat),
            origin: below.origin,
        };
        merged.into_spec()
    }

    /// What the delivery header of this mode has no place for is refused.
    fn fields_of_mode(&self, mode: Mode, check: &Check) -> Result<(), SpecError> {
        let refuse = |field, value: String, span: &Option<Span>, wanted| {
            Err(check.error(field, value, span, Problem::NotOfMode { mode, wanted }))
        };
        if mode.over_ipv6() {
            let wanted = "modes gre and gretap have it: over IPv6 no router fragments";
            if let Some(given) = self.pmtudisc.as_ref().filter(|given| !given.value) {
                return refuse("pmtudisc", "off".to_owned(), &given.span, wanted);
            }
            if let Some(given) = self.ignore_df.as_ref().filter(|given| given.value) {
                return refuse("ignore-df", "on".to_owned(), &given.span, wanted);
            }
            if let Some(label) = &self.flowlabel
                && let FlowLabel::Fixed(value @ 0x10_0000..) = label.value
            {
                return Err(check.error("flowlabel", value, &label.span, Problem::FlowLabelRange));
            }
            return Ok(());
        }
        let wanted = "modes ip6gre and ip6gretap have it";
        if let Some(given) = &self.encaplimit
            && let Some(limit) = given.value
        {
            return refuse("encaplimit", limit.to_string(), &given.span, wanted);
        }
        if let Some(given) = self.flowlabel.as_ref().filter(|given| given.value != FlowLabel::default()) {
            return refuse("flowlabel", given.value.to_string(), &given.span, wanted);
        }
        if let Some(given) = self.dscp_inherit.as_ref().filter(|given| given.value) {
            return refuse("dscp", "inherit".to_owned(), &given.span, wanted);
        }
        if let Some(given) = self.allow_localremote.as_ref().filter(|given| given.value) {
            return refuse("allow-localremote", "on".to_owned(), &given.span, wanted);
        }
        Ok(())
    }

    fn ends(&self, mode: Mode, check: &Check) -> Result<(Option<IpAddr>, Option<IpAddr>), SpecError> {
        let wanted = if mode.over_ipv6() { "an IPv6 address" } else { "an IPv4 address" };
        let of_family = |field, given: &Given<IpAddr>| {
            // "any" is of either family.
            if given.value.is_unspecified() {
                return Ok(None);
            }
            if given.value.is_ipv6() != mode.over_ipv6() {
                return Err(check.error(field, given.value, &given.span, Problem::Family { wanted }));
            }
            if is_broadcast(given.value) {
                return Err(check.error(field, given.value, &given.span, Problem::NotUnicast));
            }
            Ok(Some(given.value))
        };
        let given = self
            .remote
            .as_ref()
            .ok_or_else(|| check.missing("remote", "give the outer address of the far end, or any"))?;
        let remote = of_family("remote", given)?;
        let local = self.local.as_ref().map(|given| of_family("local", given)).transpose()?.flatten();
        if let (Some(near), Some(given)) = (local.filter(|near| near.is_multicast()), &self.local) {
            return Err(check.error("local", near, &given.span, Problem::NotUnicast));
        }
        match (local, remote) {
            (None, Some(group)) if group.is_multicast() => {
                Err(check.error("remote", group, &given.span, Problem::MulticastNeedsLocal))
            }
            (Some(near), Some(far)) if near == far => {
                Err(check.error("remote", far, &given.span, Problem::SameEnds))
            }
            ends => Ok(ends),
        }
    }

    fn outer_header(&self, spec: &TunnelSpec, check: &Check) -> Result<(), SpecError> {
        if spec.ignore_df && spec.pmtudisc {
            let problem = Problem::IgnoreDfNeedsNopmtudisc;
            return Err(check.error_of("ignore-df", None, &span(&self.ignore_df), problem));
        }
        let Some(mtu) = spec.mtu else { return Ok(()) };
        let (least, most) = (LEAST_MTU, LARGEST_PACKET - spec.overhead());
        if !(least..=most).contains(&mtu) {
            return Err(check.error("mtu", mtu, &span(&self.mtu), Problem::MtuRange { least, most }));
        }
        let ipv6 = spec.inner.addresses.iter().any(|address| address.local.is_ipv6());
        if ipv6 && mtu < 1280 {
            return Err(check.error("mtu", mtu, &span(&self.mtu), Problem::MtuBelowIpv6));
        }
        Ok(())
    }

    /// `direct` is for what the programs in the kernel carry.
    fn direct(&self, spec: &TunnelSpec, check: &Check) -> Result<(), SpecError> {
        let beside = [
            (spec.datapath == DatapathChoice::Userspace, "datapath userspace"),
            (spec.underlay == UnderlayChoice::Raw, "underlay raw"),
            (spec.overlay == OverlayChoice::Tun, "overlay tun"),
        ];
        match beside.into_iter().find(|(set, _)| *set && spec.direct) {
            Some((_, beside)) => {
                let problem = Problem::DirectNeedsPrograms { beside };
                Err(check.error("direct", "on", &span(&self.direct), problem))
            }
            None => Ok(()),
        }
    }

    fn devices(&self, spec: &TunnelSpec, check: &Check) -> Result<(), SpecError> {
        match &spec.dev {
            Some(dev) if *dev == spec.name => {
                Err(check.error("dev", dev, &span(&self.dev), Problem::OwnDevice))
            }
            _ => Ok(()),
        }
    }
}

/// Every field named, so that nothing falls back to a default.
impl From<&TunnelSpec> for Draft {
    fn from(spec: &TunnelSpec) -> Self {
        let Inner { addresses, routes, rules, neighbours, link_down, ipv6_mtu, forward, snat } = &spec.inner;
        Self {
            name: Some(spec.name.clone().into()),
            mode: Some(spec.mode.into()),
            local: Some(spec.local.unwrap_or_else(|| unspecified(spec.mode)).into()),
            remote: Some(spec.remote.unwrap_or_else(|| unspecified(spec.mode)).into()),
            ikey: Some(spec.ikey.into()),
            okey: Some(spec.okey.into()),
            icsum: Some(spec.icsum.into()),
            ocsum: Some(spec.ocsum.into()),
            iseq: Some(spec.iseq.into()),
            oseq: Some(spec.oseq.into()),
            seq_mode: Some(spec.seq_mode.into()),
            ttl: Some(spec.ttl.into()),
            tos: Some(spec.tos.into()),
            pmtudisc: Some(spec.pmtudisc.into()),
            ignore_df: Some(spec.ignore_df.into()),
            encaplimit: Some(spec.encaplimit.into()),
            flowlabel: Some(spec.flowlabel.into()),
            dscp_inherit: Some(spec.dscp_inherit.into()),
            allow_localremote: Some(spec.allow_localremote.into()),
            fwmark: Some(spec.fwmark.into()),
            dev: Some(spec.dev.clone().into()),
            mtu: Some(spec.mtu.into()),
            datapath: Some(spec.datapath.into()),
            underlay: Some(spec.underlay.into()),
            overlay: Some(spec.overlay.into()),
            firewall: Some(spec.firewall.into()),
            direct: Some(spec.direct.into()),
            mss: Some(spec.mss.into()),
            addresses: Some(addresses.iter().map(|&address| DraftAddress::from(address).into()).collect()),
            routes: Some(routes.iter().map(|&route| DraftRoute::from(route).into()).collect()),
            rules: Some(rules.iter().map(|rule| rule.clone().into()).collect()),
            neighbours: Some(neighbours.iter().map(|&neighbour| neighbour.into()).collect()),
            link_down: Some((*link_down).into()),
            ipv6_mtu: ipv6_mtu.map(Given::from),
            forward: Some((*forward).into()),
            snat: snat.map(|address| IpAddr::V4(address).into()),
            origin: spec.origin.clone(),
        }
    }
}

/// Makes the errors of one tunnel.
pub(crate) struct Check {
    tunnel: Option<DeviceName>,
}

impl Check {
    pub(crate) fn error(
        &self,
        field: &'static str,
        value: impl ToString,
        span: &Option<Span>,
        problem: Problem,
    ) -> SpecError {
        self.error_of(field, Some(value.to_string().into()), span, problem)
    }

    fn error_of(
        &self,
        field: &'static str,
        value: Option<Box<str>>,
        span: &Option<Span>,
        problem: Problem,
    ) -> SpecError {
        SpecError { tunnel: self.tunnel.clone(), field, value, span: span.clone(), problem }
    }

    fn missing(&self, field: &'static str, advice: &'static str) -> SpecError {
        self.error_of(field, None, &None, Problem::Missing(advice))
    }

    fn name(&self, name: &Given<DeviceName>) -> Result<(), SpecError> {
        let reason = match name.value.as_str() {
            "gre0" | "gretap0" | "erspan0" => "the kernel's GRE module takes it when it is loaded",
            "lo" => "it is the loopback device",
            "all" | "default" => "net.ipv4.conf has another use for it",
            _ => return Ok(()),
        };
        Err(self.error("name", &name.value, &name.span, Problem::ReservedName(reason)))
    }
}

fn is_broadcast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.is_broadcast())
}

/// The address that means any.
fn unspecified(mode: Mode) -> IpAddr {
    if mode.over_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// iproute2's default: 64 over IPv6 (ip/ip6tunnel.c, 6.1).
fn default_ttl(mode: Mode) -> Ttl {
    if mode.over_ipv6() { Ttl::Fixed(64) } else { Ttl::Inherit }
}

fn default_encaplimit(mode: Mode) -> Option<u8> {
    mode.over_ipv6().then_some(DEFAULT_ENCAPLIMIT)
}

fn value<T: Clone + Default>(field: &Option<Given<T>>) -> T {
    field.as_ref().map_or_else(T::default, |given| given.value.clone())
}

fn span<T>(field: &Option<Given<T>>) -> Option<Span> {
    field.as_ref().and_then(|given| given.span.clone())
}
