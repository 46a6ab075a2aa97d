//! A tunnel as one of our files.

use std::fmt::{self, Write};

use greway_spec::draft::DEFAULT_ENCAPLIMIT;
use greway_spec::{
    FlowLabel, InnerAddress, InnerNeighbour, InnerRoute, InnerRule, MssClamp, Ttl, TunnelSpec,
};
use toml::Value;

/// The file that describes this tunnel. Defaults are left out. Reading it gives the same tunnel; its
/// origin is not in it.
pub fn render(spec: &TunnelSpec) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _infallible = write_spec(&mut out, spec);
    out
}

fn write_spec(out: &mut String, spec: &TunnelSpec) -> fmt::Result {
    let string = |text: &str| Value::String(text.to_owned());
    writeln!(out, "name = {}", string(spec.name.as_str()))?;
    writeln!(out, "mode = \"{}\"", spec.mode)?;
    if let Some(local) = spec.local {
        writeln!(out, "local = \"{local}\"")?;
    }
    writeln!(out, "remote = \"{}\"", spec.far_end())?;
    write_keys(out, spec)?;
    write_flags(out, ["csum", "icsum", "ocsum"], [spec.icsum, spec.ocsum])?;
    write_flags(out, ["seq", "iseq", "oseq"], [spec.iseq, spec.oseq])?;
    write_choice(out, "seq_mode", spec.seq_mode)?;
    match spec.ttl {
        Ttl::Fixed(hops) => writeln!(out, "ttl = {hops}")?,
        Ttl::Inherit if spec.mode.over_ipv6() => writeln!(out, "ttl = \"inherit\"")?,
        Ttl::Inherit => {}
    }
    if spec.tos.bits() != 0 {
        writeln!(out, "tos = \"{}\"", spec.tos)?;
    }
    if !spec.pmtudisc {
        writeln!(out, "pmtudisc = false")?;
    }
    if spec.ignore_df {
        writeln!(out, "ignore_df = true")?;
    }
    write_ipv6(out, spec)?;
    if spec.fwmark != 0 {
        writeln!(out, "fwmark = {:#x}", spec.fwmark)?;
    }
    if let Some(dev) = &spec.dev {
        writeln!(out, "dev = {}", string(dev.as_str()))?;
    }
    if let Some(mtu) = spec.mtu {
        writeln!(out, "mtu = {mtu}")?;
    }
    write_choice(out, "datapath", spec.datapath)?;
    write_choice(out, "underlay", spec.underlay)?;
    write_choice(out, "overlay", spec.overlay)?;
    write_choice(out, "firewall", spec.firewall)?;
    if spec.direct {
        writeln!(out, "direct = true")?;
    }
    match spec.mss {
        MssClamp::Auto => {}
        MssClamp::Off => writeln!(out, "mss = \"off\"")?,
        MssClamp::Fixed(bytes) => writeln!(out, "mss = {bytes}")?,
    }
    write_inner(out, spec)
}

/// What only the IPv6 delivery header has.
fn write_ipv6(out: &mut String, spec: &TunnelSpec) -> fmt::Result {
    if !spec.mode.over_ipv6() {
        return Ok(());
    }
    match spec.encaplimit {
        Some(DEFAULT_ENCAPLIMIT) => {}
        Some(limit) => writeln!(out, "encaplimit = {limit}")?,
        None => writeln!(out, "encaplimit = \"none\"")?,
    }
    match spec.flowlabel {
        FlowLabel::Fixed(0) => {}
        FlowLabel::Fixed(label) => writeln!(out, "flowlabel = {label:#x}")?,
        FlowLabel::Inherit => writeln!(out, "flowlabel = \"inherit\"")?,
    }
    if spec.dscp_inherit {
        writeln!(out, "dscp = \"inherit\"")?;
    }
    if spec.allow_localremote {
        writeln!(out, "allow_localremote = true")?;
    }
    Ok(())
}

fn write_keys(out: &mut String, spec: &TunnelSpec) -> fmt::Result {
    match (spec.ikey, spec.okey) {
        (Some(ikey), Some(okey)) if ikey == okey => writeln!(out, "key = {ikey}"),
        (ikey, okey) => {
            for (word, key) in [("ikey", ikey), ("okey", okey)] {
                if let Some(key) = key {
                    writeln!(out, "{word} = {key}")?;
                }
            }
            Ok(())
        }
    }
}

fn write_flags(out: &mut String, [both, input, output]: [&str; 3], set: [bool; 2]) -> fmt::Result {
    match set {
        [true, true] => writeln!(out, "{both} = true"),
        [true, false] => writeln!(out, "{input} = true"),
        [false, true] => writeln!(out, "{output} = true"),
        [false, false] => Ok(()),
    }
}

fn write_choice<T: Default + PartialEq + fmt::Display>(
    out: &mut String,
    word: &str,
    choice: T,
) -> fmt::Result {
    if choice == T::default() { Ok(()) } else { writeln!(out, "{word} = \"{choice}\"") }
}

fn write_inner(out: &mut String, spec: &TunnelSpec) -> fmt::Result {
    let inner = &spec.inner;
    if *inner == Default::default() {
        return Ok(());
    }
    writeln!(out, "\n[inner]")?;
    match inner.addresses.as_slice() {
        [] => {}
        [InnerAddress { local, peer: Some(peer), prefix_length }] => {
            writeln!(out, "address = \"{local}\"\npeer = \"{peer}/{prefix_length}\"")?;
        }
        [only] => writeln!(out, "address = \"{only}\"")?,
        several => write_array(out, "addresses", several.iter().map(address))?,
    }
    if !inner.routes.is_empty() {
        write_array(out, "routes", inner.routes.iter().map(route))?;
    }
    if !inner.rules.is_empty() {
        let words = |rule: &InnerRule| format!("\"{}{rule}\"", if rule.ipv6 { "-6 " } else { "" });
        write_array(out, "rules", inner.rules.iter().map(words))?;
    }
    if !inner.neighbours.is_empty() {
        let words = |neighbour: &InnerNeighbour| {
            format!("{{ address = \"{}\", endpoint = \"{}\" }}", neighbour.address, neighbour.endpoint)
        };
        write_array(out, "neighbours", inner.neighbours.iter().map(words))?;
    }
    if inner.link_down {
        writeln!(out, "link = \"down\"")?;
    }
    if let Some(mtu) = inner.ipv6_mtu {
        writeln!(out, "ipv6_mtu = {mtu}")?;
    }
    if inner.forward {
        writeln!(out, "forward = true")?;
    }
    match inner.snat {
        Some(snat) => writeln!(out, "snat = \"{snat}\""),
        None => Ok(()),
    }
}

fn write_array(out: &mut String, word: &str, items: impl Iterator<Item = String>) -> fmt::Result {
    writeln!(out, "{word} = [")?;
    for item in items {
        writeln!(out, "    {item},")?;
    }
    writeln!(out, "]")
}

fn address(address: &InnerAddress) -> String {
    match address.peer {
        Some(peer) => {
            format!("{{ address = \"{}\", peer = \"{peer}/{}\" }}", address.local, address.prefix_length)
        }
        None => format!("\"{address}\""),
    }
}

fn route(route: &InnerRoute) -> String {
    if *route == InnerRoute::to(route.destination) {
        return format!("\"{}\"", route.destination);
    }
    let via = route.via.map_or_else(String::new, |via| format!(", via = \"{via}\""));
    let metric = route.metric.map_or_else(String::new, |metric| format!(", metric = {metric}"));
    let source = route.source.map_or_else(String::new, |source| format!(", src = \"{source}\""));
    let table = route.table.map_or_else(String::new, |table| format!(", table = {table}"));
    format!("{{ to = \"{}\"{via}{metric}{source}{table} }}", route.destination)
}
