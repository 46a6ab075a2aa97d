//! The `ip` commands that would build a tunnel: for people, and for a host without greway.
//!
//! `ip tunnel` where it can say the tunnel, else `ip link`. What neither has a word for is refused with
//! the field. Reading the commands back gives the same tunnel: [`super::parse_commands`].

use greway_spec::draft::DEFAULT_ENCAPLIMIT;
use greway_spec::{
    DatapathChoice, DeviceName, FirewallPolicy, FlowLabel, MssClamp, OverlayChoice, SeqMode, Ttl, TunnelSpec,
    UnderlayChoice,
};

use super::tunnel::needs_name_word;
use crate::shell;

/// A field that `ip` has no word for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tunnel {tunnel}: {field} \"{value}\" cannot be said in ip commands{}", hint(.right))]
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

fn hint(right: &Option<&'static str>) -> String {
    right.map_or_else(String::new, |right| format!("; {right}"))
}

/// The commands, one a line, in the order in which they have to run. Words that a shell would take apart
/// are quoted.
///
/// # Errors
/// The first field that cannot be said.
pub fn commands(spec: &TunnelSpec) -> Result<Vec<String>, Unsayable> {
    sayable(spec)?;
    let name = shell::word(spec.name.as_str());
    let mut lines = vec![if by_tunnel(spec) { tunnel_add(spec) } else { link_add(spec) }];
    let mut set = format!("ip link set dev {name}");
    if let Some(mtu) = spec.mtu {
        set += &format!(" mtu {mtu}");
    }
    set += if spec.inner.link_down { " down" } else { " up" };
    lines.push(set);
    lines.extend(spec.inner.addresses.iter().map(|address| format!("ip addr add {address} dev {name}")));
    lines.extend(spec.inner.routes.iter().map(|route| format!("ip route add {route} dev {name}")));
    let neighbours = spec.inner.neighbours.iter();
    lines.extend(neighbours.map(|neighbour| format!("ip neigh add {neighbour} dev {name}")));
    for rule in &spec.inner.rules {
        let family = if rule.ipv6 { "ip -6" } else { "ip" };
        lines.push(format!("{family} rule add {rule}"));
    }
    Ok(lines)
}

/// What has no word in any `ip` command.
fn sayable(spec: &TunnelSpec) -> Result<(), Unsayable> {
    let refuse =
        |field, value: String, right| Err(Unsayable { tunnel: spec.name.clone(), field, value, right });
    let only_here = Some("it is greway's own; leave it at its default");
    if spec.datapath != DatapathChoice::Auto {
        return refuse("datapath", spec.datapath.to_string(), only_here);
    }
    if spec.underlay != UnderlayChoice::Auto {
        return refuse("underlay", spec.underlay.to_string(), only_here);
    }
    if spec.overlay != OverlayChoice::Auto {
        return refuse("overlay", spec.overlay.to_string(), only_here);
    }
    if spec.firewall != FirewallPolicy::Honour {
        return refuse("firewall", spec.firewall.to_string(), only_here);
    }
    if spec.direct {
        return refuse("direct", "on".to_owned(), only_here);
    }
    if spec.mss != MssClamp::Auto {
        return refuse("mss", spec.mss.to_string(), only_here);
    }
    if spec.seq_mode != SeqMode::Linux {
        return refuse("seq-mode", spec.seq_mode.to_string(), only_here);
    }
    if spec.inner.forward {
        return refuse("inner forward", "on".to_owned(), Some("sysctl -w net.ipv4.ip_forward=1 turns it on"));
    }
    if let Some(address) = spec.inner.snat {
        return refuse("inner snat", address.to_string(), Some("iptables or nft translates addresses"));
    }
    if let Some(mtu) = spec.inner.ipv6_mtu {
        return refuse("inner ipv6_mtu", mtu.to_string(), Some("sysctl net.ipv6.conf.NAME.mtu sets it"));
    }
    if let Some(neighbour) = spec.inner.neighbours.first().filter(|_| spec.mode.over_ipv6()) {
        let right = Some("ip has no IPv6 link-layer addresses");
        return refuse("inner neighbour", neighbour.to_string(), right);
    }
    if spec.mode.over_ipv6() && spec.tos.inherit && spec.tos.value != 0 {
        return refuse("tos", spec.tos.to_string(), Some("over IPv6 inherit stands alone"));
    }
    if !spec.mode.over_ipv6() && spec.remote.is_some_and(|remote| remote.is_multicast()) {
        // ip makes the group the key where there is none.
        for (field, key) in [("ikey", spec.ikey), ("okey", spec.okey)] {
            if key.unwrap_or(0) == 0 {
                let value = key.map_or_else(|| "none".to_owned(), |key| key.to_string());
                return refuse(field, value, Some("with a multicast remote ip makes the group the key"));
            }
        }
    }
    Ok(())
}

/// Whether `ip tunnel` has all the words.
fn by_tunnel(spec: &TunnelSpec) -> bool {
    // `ip tunnel` refuses nopmtudisc beside a fixed ttl; `ip link` and the kernel do not (iproute2 6.x
    // ip/iptunnel.c `parse_args`, ip/link_gre.c).
    let ttl_said = spec.ttl == Ttl::Inherit || spec.pmtudisc;
    !spec.mode.is_ethernet() && !spec.ignore_df && spec.fwmark == 0 && ttl_said
}

fn tunnel_add(spec: &TunnelSpec) -> String {
    let over_ipv6 = spec.mode.over_ipv6();
    let mut line = String::from(if over_ipv6 { "ip -6 tunnel add" } else { "ip tunnel add" });
    if needs_name_word(spec.name.as_str(), over_ipv6) {
        line += " name";
    }
    line += &format!(" {} mode {}", shell::word(spec.name.as_str()), spec.mode);
    ends(&mut line, spec);
    gre_header(&mut line, spec);
    match spec.ttl {
        Ttl::Fixed(64) if over_ipv6 => {}
        Ttl::Fixed(hops) => line += &format!(" ttl {hops}"),
        Ttl::Inherit if over_ipv6 => line += " ttl 0",
        Ttl::Inherit => {}
    }
    if over_ipv6 {
        ipv6_header(&mut line, spec);
    } else if spec.tos.bits() != 0 {
        line += &format!(" tos {}", spec.tos);
    }
    if !spec.pmtudisc {
        line += " nopmtudisc";
    }
    line
}

fn link_add(spec: &TunnelSpec) -> String {
    let over_ipv6 = spec.mode.over_ipv6();
    let mut line = format!("ip link add name {} type {}", shell::word(spec.name.as_str()), spec.mode);
    ends(&mut line, spec);
    gre_header(&mut line, spec);
    match spec.ttl {
        Ttl::Fixed(64) if over_ipv6 => {}
        Ttl::Inherit if !over_ipv6 => {}
        ttl => line += &format!(" ttl {ttl}"),
    }
    if over_ipv6 {
        ipv6_header(&mut line, spec);
    } else {
        match spec.tos.bits() {
            0 => {}
            1 => line += " tos inherit",
            // ip link has no inherit/VALUE; bit 0 says the same to the kernel.
            bits => line += &format!(" tos {bits:#04x}"),
        }
    }
    if !spec.pmtudisc {
        line += " nopmtudisc";
    }
    if spec.ignore_df {
        line += " ignore-df";
    }
    if spec.fwmark != 0 {
        line += &format!(" fwmark {:#x}", spec.fwmark);
    }
    line
}

fn ends(line: &mut String, spec: &TunnelSpec) {
    if let Some(remote) = spec.remote {
        *line += &format!(" remote {remote}");
    }
    if let Some(local) = spec.local {
        *line += &format!(" local {local}");
    }
    if let Some(dev) = &spec.dev {
        *line += &format!(" dev {}", shell::word(dev.as_str()));
    }
}

fn gre_header(line: &mut String, spec: &TunnelSpec) {
    match (spec.ikey, spec.okey) {
        (Some(ikey), Some(okey)) if ikey == okey => *line += &format!(" key {ikey}"),
        (ikey, okey) => {
            for (word, key) in [("ikey", ikey), ("okey", okey)] {
                if let Some(key) = key {
                    *line += &format!(" {word} {key}");
                }
            }
        }
    }
    for (both, incoming, outgoing) in [("csum", spec.icsum, spec.ocsum), ("seq", spec.iseq, spec.oseq)] {
        match (incoming, outgoing) {
            (true, true) => *line += &format!(" {both}"),
            (true, false) => *line += &format!(" i{both}"),
            (false, true) => *line += &format!(" o{both}"),
            (false, false) => {}
        }
    }
}

/// What only the IPv6 header has; the words are the same in both commands.
fn ipv6_header(line: &mut String, spec: &TunnelSpec) {
    match spec.tos.inherit {
        true => *line += " tclass inherit",
        false if spec.tos.value != 0 => *line += &format!(" tclass {:#04x}", spec.tos.value),
        false => {}
    }
    match spec.encaplimit {
        Some(DEFAULT_ENCAPLIMIT) => {}
        Some(limit) => *line += &format!(" encaplimit {limit}"),
        None => *line += " encaplimit none",
    }
    match spec.flowlabel {
        FlowLabel::Fixed(0) => {}
        FlowLabel::Fixed(label) => *line += &format!(" flowlabel {label:#07x}"),
        FlowLabel::Inherit => *line += " flowlabel inherit",
    }
    if spec.dscp_inherit {
        *line += " dscp inherit";
    }
    if spec.allow_localremote {
        *line += " allow-localremote";
    }
}
