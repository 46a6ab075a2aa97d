//! `ip tunnel show` and `ip -6 tunnel show`.

use std::net::{Ipv4Addr, Ipv6Addr};

use greway_spec::dsfield::dsfield_name;
use greway_spec::{FlowLabel, Mode, SeqMode, Ttl, TunnelSpec};

use super::{Options, Shown, Statistics};
use crate::iproute2::abort::{Abort, Errno};
use crate::iproute2::json::Json;
use crate::iproute2::tunnel::Show;

/// Everything the command prints on stdout. `real` is what the real tool printed for the same command,
/// where it was run: its tunnels come first.
///
/// # Errors
/// A single device was asked for that is none of `tunnels`.
pub fn tunnel_show(
    show: &Show,
    tunnels: &[Shown<'_>],
    options: &Options,
    real: &str,
) -> Result<String, Abort> {
    if show.is_single(options.statistics) {
        let found = tunnels.iter().find(|shown| show.names(shown.spec));
        let found = found.ok_or_else(|| show.failed(Errno::NoSuchDevice))?;
        // Neither -j nor -s is looked at here, and over IPv6 the line does not end.
        let end = if show.over_ipv6 { "" } else { "\n" };
        return Ok(text_of(found.spec, options) + end);
    }
    let listed: Vec<&Shown<'_>> = tunnels.iter().filter(|shown| show.lists(shown.spec)).collect();
    if options.json {
        return Ok(merged_list(real, &listed, options));
    }
    let ours = listed.iter().map(|shown| text_of(shown.spec, options) + &counters(shown, options) + "\n");
    Ok(real.to_owned() + &ours.collect::<String>())
}

/// The description of one tunnel with its lines for sequence numbers and checksums, without a line end.
pub(in crate::iproute2) fn text_of(spec: &TunnelSpec, options: &Options) -> String {
    let mut text = if spec.mode.over_ipv6() { line6(spec) } else { line4(spec, options.numeric) };
    text += &keys(spec);
    for (set, line) in [
        (spec.iseq, "Drop packets out of sequence."),
        (spec.icsum, "Checksum in received packet is required."),
        (spec.oseq, "Sequence packets on output."),
        (spec.ocsum, "Checksum output packets."),
    ] {
        if set {
            text += &format!("{}  {line}", options.line_break());
        }
    }
    text
}

fn line4(spec: &TunnelSpec, numeric: bool) -> String {
    let end = |end: Option<std::net::IpAddr>| end.map_or_else(|| "any".to_owned(), |end| end.to_string());
    let what = what(spec.mode);
    let mut line = format!("{}: {what} remote {} local {}", spec.name, end(spec.remote), end(spec.local));
    if let Some(dev) = &spec.dev {
        line += &format!(" dev {dev}");
    }
    line += &format!(" ttl {}", spec.ttl);
    match (spec.tos.inherit, spec.tos.value) {
        (false, 0) => {}
        (true, 0) => line += " tos inherit",
        (true, value) => line += &format!(" tos inherit/{}", dsfield(value, numeric)),
        (false, value) => line += &format!(" tos {}", dsfield(value, numeric)),
    }
    if !spec.pmtudisc {
        line += " nopmtudisc";
    }
    line
}

fn line6(spec: &TunnelSpec) -> String {
    let any = std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let end = |end: Option<std::net::IpAddr>| end.unwrap_or(any);
    let what = what(spec.mode);
    let mut line = format!("{}: {what} remote {} local {}", spec.name, end(spec.remote), end(spec.local));
    if let Some(dev) = &spec.dev {
        line += &format!(" dev {dev}");
    }
    match spec.encaplimit {
        None => line += " encaplimit none",
        Some(limit) => line += &format!(" encaplimit {limit}"),
    }
    line += &format!(" hoplimit {}", spec.ttl);
    line += &match spec.tos.inherit {
        true => " tclass inherit".to_owned(),
        false => format!(" tclass {:#04x}", spec.tos.value),
    };
    line += &match spec.flowlabel {
        FlowLabel::Inherit => " flowlabel inherit".to_owned(),
        FlowLabel::Fixed(label) => format!(" flowlabel {label:#07x}"),
    };
    line += &format!(" (flowinfo {:#010x})", flowinfo(spec));
    if spec.dscp_inherit {
        line += " dscp inherit";
    }
    if spec.allow_localremote {
        line += " allow-localremote";
    }
    line
}

/// `gre/ip`: what in what. The Ethernet kinds have no word in `ip tunnel`, which does not list them; ours
/// is by the same pattern.
fn what(mode: Mode) -> &'static str {
    match mode {
        Mode::Gre => "gre/ip",
        Mode::Ip6Gre => "gre/ipv6",
        Mode::Gretap => "gretap/ip",
        Mode::Ip6Gretap => "gretap/ipv6",
    }
}

fn dsfield(value: u8, numeric: bool) -> String {
    if numeric { format!("{value:#04x}") } else { dsfield_name(value) }
}

/// Traffic class and flow label as they stand in the IPv6 header (RFC 8200 §3).
fn flowinfo(spec: &TunnelSpec) -> u32 {
    let label = match spec.flowlabel {
        FlowLabel::Inherit => 0,
        FlowLabel::Fixed(label) => label & 0xf_ffff,
    };
    u32::from(spec.tos.value) << 20 | label
}

fn keys(spec: &TunnelSpec) -> String {
    match (spec.ikey, spec.okey) {
        (Some(ikey), Some(okey)) if ikey == okey => format!(" key {ikey}"),
        (ikey, okey) => {
            let ikey = ikey.map_or_else(String::new, |key| format!(" ikey {key}"));
            ikey + &okey.map_or_else(String::new, |key| format!(" okey {key}"))
        }
    }
}

fn counters(shown: &Shown<'_>, options: &Options) -> String {
    if !options.statistics {
        return String::new();
    }
    let Statistics {
        rx_packets,
        rx_bytes,
        rx_errors,
        rx_frame_errors,
        rx_fifo_errors,
        multicast,
        tx_packets,
        tx_bytes,
        tx_errors,
        collisions,
        tx_carrier_errors,
        tx_dropped,
    } = shown.statistics;
    [
        String::new(),
        "RX: Packets    Bytes        Errors CsumErrs OutOfSeq Mcasts".to_owned(),
        format!(
            "    {rx_packets:<10} {rx_bytes:<12} {rx_errors:<6} {rx_frame_errors:<8} {rx_fifo_errors:<8} \
             {multicast:<8}"
        ),
        "TX: Packets    Bytes        Errors DeadLoop NoRoute  NoBufs".to_owned(),
        format!(
            "    {tx_packets:<10} {tx_bytes:<12} {tx_errors:<6} {collisions:<8} {tx_carrier_errors:<8} \
             {tx_dropped:<6}"
        ),
    ]
    .join(options.line_break())
}

/// The list with ours after what the real tool listed.
fn merged_list(real: &str, ours: &[&Shown<'_>], options: &Options) -> String {
    let trimmed = real.trim_end();
    let inside = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or_default();
    if ours.is_empty() && !trimmed.is_empty() {
        return real.to_owned();
    }
    if inside.trim().is_empty() {
        return list(Json::new(options.pretty), "", ours, options, Words::Tool);
    }
    let before = trimmed.strip_suffix(']').unwrap_or_default();
    let before = if options.pretty { before.strip_suffix(' ').unwrap_or(before) } else { before };
    list(Json::within(options.pretty, 1, true), before, ours, options, Words::Tool)
}

/// Whose words are printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Words {
    /// The tool's alone.
    Tool,
    /// Ours as well.
    Ours,
}

fn list(mut json: Json, before: &str, ours: &[&Shown<'_>], options: &Options, words: Words) -> String {
    json.out.push_str(before);
    if before.is_empty() {
        json.open_list();
    }
    for shown in ours {
        object(&mut json, shown.spec, options.numeric, words);
        // The counters are printed in between as text, which is no JSON any more: so does the tool.
        json.out += &counters(shown, options);
        json.out.push('\n');
    }
    json.close_list();
    json.out.push('\n');
    json.out
}

/// A list of tunnels in JSON, as `ip -j tunnel show` has it, and with our own words.
pub(in crate::iproute2) fn json_list<'s>(specs: impl IntoIterator<Item = &'s TunnelSpec>) -> String {
    let shown: Vec<_> =
        specs.into_iter().map(|spec| Shown { spec, statistics: Statistics::default() }).collect();
    let shown = shown.iter().collect::<Vec<_>>();
    list(Json::new(false), "", &shown, &Options::default(), Words::Ours)
}

fn object(json: &mut Json, spec: &TunnelSpec, numeric: bool, words: Words) {
    json.open_object();
    json.string_field("ifname", spec.name.as_str());
    json.string_field("mode", what(spec.mode));
    if spec.mode.over_ipv6() {
        members6(json, spec)
    } else {
        members4(json, spec, numeric)
    }
    match (spec.ikey, spec.okey) {
        (Some(ikey), Some(okey)) if ikey == okey => json.plain_field("key", ikey),
        (ikey, okey) => {
            for (name, key) in [("ikey", ikey), ("okey", okey)] {
                if let Some(key) = key {
                    json.plain_field(name, key);
                }
            }
        }
    }
    json.name("flags");
    json.open_list();
    for (set, word) in [
        (spec.iseq, "rx_drop_ooseq"),
        (spec.icsum, "rx_csum"),
        (spec.oseq, "tx_seq"),
        (spec.ocsum, "tx_csum"),
    ] {
        if set {
            json.string(word);
        }
    }
    json.close_list();
    if words == Words::Ours && spec.seq_mode != SeqMode::Linux {
        json.string_field("seq_mode", spec.seq_mode.word());
    }
    json.close_object();
}

fn members4(json: &mut Json, spec: &TunnelSpec, numeric: bool) {
    let any = Ipv4Addr::UNSPECIFIED.into();
    json.string_field("remote", &spec.remote.unwrap_or(any).to_string());
    json.string_field("local", &spec.local.unwrap_or(any).to_string());
    if let Some(dev) = &spec.dev {
        json.string_field("dev", dev.as_str());
    }
    if let Ttl::Fixed(hops) = spec.ttl {
        json.plain_field("ttl", hops);
    }
    // A bare `inherit` is absent; `inherit/c0` is "0xc1".
    if spec.tos.value != 0 {
        json.string_field("tos", &dsfield(spec.tos.bits(), numeric));
    }
    if !spec.pmtudisc {
        json.plain_field("nopmtudisc", "null");
    }
}

fn members6(json: &mut Json, spec: &TunnelSpec) {
    let any = Ipv6Addr::UNSPECIFIED.into();
    json.string_field("remote", &spec.remote.unwrap_or(any).to_string());
    json.string_field("local", &spec.local.unwrap_or(any).to_string());
    if let Some(dev) = &spec.dev {
        json.string_field("link", dev.as_str());
    }
    match spec.encaplimit {
        None => json.plain_field("ip6_tnl_f_ign_encap_limit", "null"),
        Some(limit) => json.plain_field("encap_limit", limit),
    }
    if let Ttl::Fixed(hops) = spec.ttl {
        json.plain_field("hoplimit", hops);
    }
    match spec.tos.inherit {
        true => json.plain_field("ip6_tnl_f_use_orig_tclass", "null"),
        false => json.string_field("tclass", &format!("{:#04x}", spec.tos.value)),
    }
    match spec.flowlabel {
        FlowLabel::Inherit => json.plain_field("ip6_tnl_f_use_orig_flowlabel", "null"),
        FlowLabel::Fixed(label) => json.string_field("flowlabel", &format!("{label:#07x}")),
    }
    json.string_field("flowinfo", &format!("{:#010x}", flowinfo(spec)));
    for (set, name) in [
        (spec.dscp_inherit, "ip6_tnl_f_rcv_dscp_copy"),
        (spec.allow_localremote, "ip6_tnl_f_allow_local_remote"),
    ] {
        if set {
            json.plain_field(name, "null");
        }
    }
}
