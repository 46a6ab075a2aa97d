//! A tunnel as the files of the network-scripts.
//!
//! What those files cannot say is an error that names the field; nothing is left out in silence. What only
//! greway reads (`CSUM`, `TOS`, …) is written: reading it again gives the same tunnel, and greway says
//! of each that the scripts ignore it.

use std::fmt::Write;

use greway_spec::draft::DEFAULT_ENCAPLIMIT;
use greway_spec::{
    DatapathChoice, DeviceName, FirewallPolicy, FlowLabel, InnerAddress, InnerRoute, Mode, MssClamp,
    OverlayChoice, SeqMode, Ttl, TunnelSpec, UnderlayChoice,
};

use crate::shell;

/// The texts of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// `ifcfg-NAME`.
    pub ifcfg: String,
    /// `route-NAME`, where there are IPv4 routes.
    pub route: Option<String>,
    /// `route6-NAME`, where there are IPv6 routes.
    pub route6: Option<String>,
    /// `rule-NAME`, where there are IPv4 rules.
    pub rule: Option<String>,
    /// `rule6-NAME`, where there are IPv6 rules.
    pub rule6: Option<String>,
}

/// A field of a tunnel that the files have no word for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tunnel {tunnel}: {field} \"{value}\" cannot be said in an ifcfg file{}", .right.map_or_else(String::new, |right| format!("; {right}")))]
pub struct Unsayable {
    /// The tunnel.
    pub tunnel: DeviceName,
    /// The field, in iproute2's words.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What would be right, where something near would.
    pub right: Option<&'static str>,
}

/// The files that describe this tunnel; reading them gives the same tunnel.
///
/// # Errors
/// The first field that they cannot say.
pub fn render(spec: &TunnelSpec) -> Result<Rendered, Unsayable> {
    let refuse =
        |field, value: String, right| Err(Unsayable { tunnel: spec.name.clone(), field, value, right });
    let mut out = String::new();
    let mut set = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _infallible = writeln!(out, "{name}={}", shell::word(value));
    };
    set("DEVICE", spec.name.as_str());
    set("ONBOOT", "yes");
    match spec.mode {
        Mode::Gre => set("TYPE", "GRE"),
        Mode::Ip6Gre => set("TYPE", "GRE6"),
        mode => return refuse("mode", mode.to_string(), Some("gre and ip6gre can")),
    }
    if let Some((field, value)) = without_words(spec) {
        return refuse(field, value, None);
    }
    if let Some(remote) = spec.remote {
        set("PEER_OUTER_IPADDR", &remote.to_string());
    }
    let (first, more) = addresses(spec);
    if let Some(InnerAddress { peer: Some(peer), prefix_length, .. }) = first {
        set("PEER_INNER_IPADDR", &format!("{peer}/{prefix_length}"));
    }
    if let Some(local) = spec.local {
        set("MY_OUTER_IPADDR", &local.to_string());
    }
    match first {
        Some(InnerAddress { local, peer: Some(_), .. }) => set("MY_INNER_IPADDR", &local.to_string()),
        Some(alone) => set("MY_INNER_IPADDR", &alone.to_string()),
        None => {}
    }
    match (spec.ikey, spec.okey) {
        (Some(ikey), Some(okey)) if ikey == okey => set("KEY", &ikey.to_string()),
        (ikey, okey) => {
            for (name, key) in [("IKEY", ikey), ("OKEY", okey)] {
                if let Some(key) = key {
                    set(name, &key.to_string());
                }
            }
        }
    }
    match spec.ttl {
        Ttl::Fixed(hops) => set("TTL", &hops.to_string()),
        Ttl::Inherit if spec.mode.over_ipv6() => set("TTL", "inherit"),
        Ttl::Inherit => {}
    }
    if let Some(mtu) = spec.mtu {
        set("MTU", &mtu.to_string());
    }
    if spec.inner.link_down {
        set("LINKSTATUS", "down");
    }
    for (field, name, one, other) in
        [("csum", "CSUM", spec.icsum, spec.ocsum), ("seq", "SEQ", spec.iseq, spec.oseq)]
    {
        match (one, other) {
            (true, true) => set(name, "yes"),
            (false, false) => {}
            (one, _) => {
                let value = if one { "received packets only" } else { "sent packets only" };
                return refuse(field, value.to_owned(), Some("both directions or none can"));
            }
        }
    }
    if spec.tos.bits() != 0 {
        set("TOS", &spec.tos.to_string());
    }
    if !spec.pmtudisc {
        set("PMTUDISC", "no");
    }
    if let Some(dev) = &spec.dev {
        set("PHYSDEV", dev.as_str());
    }
    if let Some(other) = more.iter().find(|address| address.local.is_ipv4() || address.peer.is_some()) {
        let right = "one address, with a peer or not, and any number of IPv6 ones without a peer can";
        return refuse("inner address", other.to_string(), Some(right));
    }
    let texts = more.iter().map(ToString::to_string).collect::<Vec<_>>();
    if let Some((first, rest)) = texts.split_first() {
        set("IPV6ADDR", first);
        if !rest.is_empty() {
            set("IPV6ADDR_SECONDARIES", &rest.join(" "));
        }
    }
    if let Some(mtu) = spec.inner.ipv6_mtu {
        set("IPV6_MTU", &mtu.to_string());
    }
    set("BOOTPROTO", "none");
    let routes = |ipv6| {
        let of_family =
            spec.inner.routes.iter().filter(move |route| route.destination.address.is_ipv6() == ipv6);
        lines(of_family.map(|route| line(route, &spec.name)))
    };
    let rules =
        |ipv6| lines(spec.inner.rules.iter().filter(move |rule| rule.ipv6 == ipv6).map(ToString::to_string));
    Ok(Rendered {
        route: routes(false),
        route6: routes(true),
        rule: rules(false),
        rule6: rules(true),
        ifcfg: out,
    })
}

/// The first thing of a tunnel that no variable is for.
fn without_words(spec: &TunnelSpec) -> Option<(&'static str, String)> {
    let over_ipv6 = spec.mode.over_ipv6();
    let fields = [
        (spec.ignore_df, "ignore-df", "on".to_owned()),
        (spec.fwmark != 0, "fwmark", format!("{:#x}", spec.fwmark)),
        (
            over_ipv6 && spec.encaplimit != Some(DEFAULT_ENCAPLIMIT),
            "encaplimit",
            spec.encaplimit.map_or_else(|| "none".to_owned(), |limit| limit.to_string()),
        ),
        (spec.flowlabel != FlowLabel::default(), "flowlabel", spec.flowlabel.to_string()),
        (spec.dscp_inherit, "dscp", "inherit".to_owned()),
        (spec.allow_localremote, "allow-localremote", "on".to_owned()),
        (spec.datapath != DatapathChoice::Auto, "datapath", spec.datapath.to_string()),
        (spec.underlay != UnderlayChoice::Auto, "underlay", spec.underlay.to_string()),
        (spec.overlay != OverlayChoice::Auto, "overlay", spec.overlay.to_string()),
        (spec.firewall != FirewallPolicy::Honour, "firewall", spec.firewall.to_string()),
        (spec.direct, "direct", "on".to_owned()),
        (spec.mss != MssClamp::Auto, "mss", spec.mss.to_string()),
        (spec.seq_mode != SeqMode::Linux, "seq-mode", spec.seq_mode.to_string()),
        (spec.inner.forward, "inner forward", "on".to_owned()),
        (
            !spec.inner.neighbours.is_empty(),
            "inner neighbour",
            spec.inner.neighbours.first().map_or_else(String::new, ToString::to_string),
        ),
        (
            spec.inner.snat.is_some(),
            "inner snat",
            spec.inner.snat.map_or_else(String::new, |snat| snat.to_string()),
        ),
    ];
    let mut set = fields.into_iter().filter(|(is_set, _, _)| *is_set);
    set.next().map(|(_, field, value)| (field, value))
}

/// The address for MY_INNER_IPADDR and those for IPV6ADDR. A lone IPv6 address without a peer could be
/// either.
fn addresses(spec: &TunnelSpec) -> (Option<InnerAddress>, &[InnerAddress]) {
    match spec.inner.addresses.split_first() {
        Some((first, more)) if first.local.is_ipv4() || first.peer.is_some() => (Some(*first), more),
        _ => (None, &spec.inner.addresses),
    }
}

fn line(route: &InnerRoute, device: &DeviceName) -> String {
    let mut line = route.destination.to_string();
    if let Some(via) = route.via {
        line += &format!(" via {via}");
    }
    line += &format!(" dev {device}");
    if let Some(metric) = route.metric {
        line += &format!(" metric {metric}");
    }
    if let Some(source) = route.source {
        line += &format!(" src {source}");
    }
    if let Some(table) = route.table {
        line += &format!(" table {table}");
    }
    line
}

fn lines(lines: impl Iterator<Item = String>) -> Option<String> {
    let text = lines.map(|line| line + "\n").collect::<String>();
    Some(text).filter(|text| !text.is_empty())
}
