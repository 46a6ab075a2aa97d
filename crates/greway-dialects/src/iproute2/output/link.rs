//! What `ip -d link show` prints of a kernel tunnel: the line of its kind, its addresses and flags.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use greway_spec::{FlowLabel, Mode, Ttl, TunnelSpec};
use serde_json::Value;

use crate::iproute2::json::Json;

/// The line of the kind, from the kind on, without the indent and with the blank at its end:
/// `gre remote 100.0.2.100 local 100.0.1.100 ttl inherit `. The tool goes on in the same line.
pub fn link_kind_line(spec: &TunnelSpec) -> String {
    let end = |end: Option<IpAddr>| end.map_or_else(|| "any".to_owned(), |end| end.to_string());
    let mut line = format!("{} remote {} local {} ", spec.mode, end(spec.remote), end(spec.local));
    if let Some(dev) = &spec.dev {
        line += &format!("dev {dev} ");
    }
    if spec.mode.over_ipv6() {
        write_header6(&mut line, spec);
    } else {
        write_header4(&mut line, spec);
    }
    for (word, key) in [("ikey", spec.ikey), ("okey", spec.okey)] {
        if let Some(key) = key {
            line += &format!("{word} {} ", Ipv4Addr::from(key));
        }
    }
    for (word, set) in flags(spec) {
        if set {
            line += &format!("{word} ");
        }
    }
    if spec.allow_localremote {
        line += "allow-localremote ";
    }
    if spec.fwmark != 0 {
        line += &format!("fwmark {:#x} ", spec.fwmark);
    }
    line
}

fn write_header4(line: &mut String, spec: &TunnelSpec) {
    *line += &format!("ttl {} ", spec.ttl);
    match spec.tos.bits() {
        0 => {}
        1 => *line += "tos inherit ",
        bits => *line += &format!("tos {bits:#x} "),
    }
    if !spec.pmtudisc {
        *line += "nopmtudisc ";
    }
    if spec.ignore_df {
        *line += "ignore-df ";
    }
}

fn write_header6(line: &mut String, spec: &TunnelSpec) {
    *line += &format!("hoplimit {} ", spec.ttl);
    match spec.encaplimit {
        None => *line += "encaplimit none ",
        Some(limit) => *line += &format!("encaplimit {limit} "),
    }
    match spec.tos.inherit {
        true => *line += "tclass inherit ",
        false => *line += &format!("tclass {:#04x} ", spec.tos.value),
    }
    match spec.flowlabel {
        FlowLabel::Inherit => *line += "flowlabel inherit ",
        FlowLabel::Fixed(label) => *line += &format!("flowlabel {label:#07x} "),
    }
    if spec.dscp_inherit {
        *line += "dscp inherit ";
    }
}

fn flags(spec: &TunnelSpec) -> [(&'static str, bool); 4] {
    [("iseq", spec.iseq), ("oseq", spec.oseq), ("icsum", spec.icsum), ("ocsum", spec.ocsum)]
}

/// Kind of link and addresses: `link/gre 100.0.1.100 peer 100.0.2.100`, `brd` in place of `peer` where the
/// tunnel has no one peer. `None` for the Ethernet kinds, which have MAC addresses like any other.
pub fn link_address_line(spec: &TunnelSpec) -> Option<String> {
    let (local, remote) = ends(spec)?;
    let word = if is_point_to_point(spec) { "peer" } else { "brd" };
    Some(format!("link/{} {local} {word} {remote}", link_type(spec.mode)?))
}

/// The flags that a kernel tunnel of this kind has where a device of ours may have others.
pub fn link_flags(spec: &TunnelSpec) -> &'static [&'static str] {
    match spec.mode {
        Mode::Gretap | Mode::Ip6Gretap => &["BROADCAST", "MULTICAST"],
        Mode::Gre if spec.remote.is_some_and(|remote| remote.is_multicast()) => &["BROADCAST", "POINTOPOINT"],
        Mode::Gre | Mode::Ip6Gre if is_point_to_point(spec) => &["POINTOPOINT", "NOARP"],
        Mode::Gre | Mode::Ip6Gre => &["NOARP"],
    }
}

/// The value of `linkinfo` in `ip -d -j link show`, with `info_kind` and `info_data`.
pub fn linkinfo_json(spec: &TunnelSpec) -> Value {
    let mut json = Json::new(false);
    linkinfo(&mut json, spec);
    // What the writer wrote is JSON: names are quoted, values are numbers, words or quoted.
    serde_json::from_str(&json.out).unwrap_or_default()
}

/// Writes the same, in the tool's order.
pub(super) fn linkinfo(json: &mut Json, spec: &TunnelSpec) {
    json.open_object();
    json.string_field("info_kind", spec.mode.word());
    json.name("info_data");
    json.open_object();
    let end = |end: Option<IpAddr>| end.map_or_else(|| "any".to_owned(), |end| end.to_string());
    json.string_field("remote", &end(spec.remote));
    json.string_field("local", &end(spec.local));
    if let Some(dev) = &spec.dev {
        json.string_field("link", dev.as_str());
    }
    let hops = match spec.ttl {
        Ttl::Inherit => 0,
        Ttl::Fixed(hops) => hops,
    };
    json.plain_field("ttl", hops);
    if spec.mode.over_ipv6() {
        info_data6(json, spec);
    } else {
        if spec.tos.bits() != 0 {
            json.string_field("tos", &format!("{:#x}", spec.tos.bits()));
        }
        json.plain_field("pmtudisc", spec.pmtudisc);
        if spec.ignore_df {
            json.plain_field("ignore_df", true);
        }
    }
    for (name, key) in [("ikey", spec.ikey), ("okey", spec.okey)] {
        if let Some(key) = key {
            json.string_field(name, &Ipv4Addr::from(key).to_string());
        }
    }
    for (name, set) in flags(spec) {
        if set {
            json.plain_field(name, true);
        }
    }
    if spec.allow_localremote {
        json.plain_field("ip6_tnl_f_allow_local_remote", true);
    }
    if spec.fwmark != 0 {
        json.string_field("fwmark", &format!("{:#x}", spec.fwmark));
    }
    json.close_object();
    json.close_object();
}

fn info_data6(json: &mut Json, spec: &TunnelSpec) {
    match spec.encaplimit {
        None => json.plain_field("ip6_tnl_f_ign_encap_limit", true),
        Some(limit) => json.plain_field("encap_limit", limit),
    }
    match spec.tos.inherit {
        true => json.plain_field("ip6_tnl_f_use_orig_tclass", true),
        false => json.string_field("tclass", &format!("{:#04x}", spec.tos.value)),
    }
    match spec.flowlabel {
        FlowLabel::Inherit => json.plain_field("ip6_tnl_f_use_orig_flowlabel", true),
        FlowLabel::Fixed(label) => json.string_field("flowlabel", &format!("{label:#07x}")),
    }
    if spec.dscp_inherit {
        json.plain_field("ip6_tnl_f_rcv_dscp_copy", true);
    }
}

/// The word after `link/`, for kinds that are no Ethernet.
pub(super) fn link_type(mode: Mode) -> Option<&'static str> {
    match mode {
        Mode::Gre => Some("gre"),
        Mode::Ip6Gre => Some("gre6"),
        Mode::Gretap | Mode::Ip6Gretap => None,
    }
}

/// Local and remote as the link's address and broadcast address.
pub(super) fn ends(spec: &TunnelSpec) -> Option<(IpAddr, IpAddr)> {
    let any: IpAddr = match spec.mode {
        Mode::Gre => Ipv4Addr::UNSPECIFIED.into(),
        Mode::Ip6Gre => Ipv6Addr::UNSPECIFIED.into(),
        Mode::Gretap | Mode::Ip6Gretap => return None,
    };
    Some((spec.local.unwrap_or(any), spec.remote.unwrap_or(any)))
}

/// With a peer; over IPv6 only where both ends are said (linux net/ipv4/ip_tunnel.c `ip_tunnel_bind_dev`,
/// net/ipv6/ip6_gre.c `ip6gre_tnl_link_config_common`, v6.18).
pub(super) fn is_point_to_point(spec: &TunnelSpec) -> bool {
    spec.remote.is_some() && (!spec.mode.over_ipv6() || spec.local.is_some())
}
