//! The real tool's `ip link show` and `ip addr show`, with our devices as what they stand for.
//!
//! To the kernel a tunnel of ours is one end of a veth pair (or a TUN), and the real tool says so. Only
//! what tells the two apart is replaced: `@NONE`, flags, kind and addresses of the link, and with `-d` the
//! line of the kind. State, MTU, queues, counters and addresses are the kernel's own. What cannot be
//! understood is left as it is.

use std::ops::Range;

use greway_spec::TunnelSpec;

use super::link::{
    ends, is_point_to_point, link_address_line, link_flags, link_kind_line, link_type, linkinfo,
};
use super::members::{Member, elements, members};
use crate::iproute2::json::Json;

/// Rewrites the text output; one line a device with `-o`, where backslashes are the line breaks.
pub fn splice_link_text(real: &str, specs: &[&TunnelSpec]) -> String {
    let mut spec = None;
    let mut out = String::with_capacity(real.len());
    for line in real.split_inclusive('\n') {
        for (index, part) in line.split('\\').enumerate() {
            if index > 0 {
                out.push('\\');
            }
            if index == 0 && part.starts_with(|c: char| c.is_ascii_digit()) {
                spec = name_of(part).and_then(|name| find(specs, name));
                out += &spec.and_then(|spec| header(part, spec)).unwrap_or_else(|| part.to_owned());
                continue;
            }
            out += &spec.and_then(|spec| detail(part, spec)).unwrap_or_else(|| part.to_owned());
        }
    }
    out
}

fn find<'s>(specs: &[&'s TunnelSpec], name: &str) -> Option<&'s TunnelSpec> {
    specs.iter().find(|spec| spec.name.as_str() == name).copied()
}

/// Of `3: tun0@gw-tun0: <…`.
fn name_of(header: &str) -> Option<&str> {
    let after = header.split_once(": ")?.1;
    let whole = after.split_once(": <")?.0;
    Some(whole.split_once('@').map_or(whole, |(name, _)| name))
}

fn header(line: &str, spec: &TunnelSpec) -> Option<String> {
    let (index, after) = line.split_once(": ")?;
    let (_, after) = after.split_once(": <")?;
    let (flags, rest) = after.split_once('>')?;
    let flags = with_flags(flags.split(','), spec).join(",");
    Some(format!("{index}: {}@NONE: <{flags}>{rest}", spec.name))
}

/// The flags with those that depend on the kind of device replaced; an Ethernet device is one either way.
fn with_flags<'f>(present: impl Iterator<Item = &'f str>, spec: &TunnelSpec) -> Vec<String> {
    if spec.mode.is_ethernet() {
        return present.map(str::to_owned).collect();
    }
    let of_device = ["BROADCAST", "POINTOPOINT", "MULTICAST", "NOARP"];
    let first = ["NO-CARRIER", "LOOPBACK"];
    let mut flags: Vec<String> =
        present.filter(|flag| !of_device.contains(flag)).map(str::to_owned).collect();
    let place = flags.iter().take_while(|flag| first.contains(&flag.as_str())).count();
    flags.splice(place..place, link_flags(spec).iter().map(|flag| (*flag).to_owned()));
    flags
}

/// The line of the link's address, or of its kind.
fn detail(line: &str, spec: &TunnelSpec) -> Option<String> {
    let rest = line.strip_prefix("    ")?;
    if rest.starts_with("link/") {
        let rest = without_namespace(rest);
        let Some(address) = link_address_line(spec) else { return Some(format!("    {rest}")) };
        let after = after_addresses(&rest).trim_start_matches(' ');
        let blank = if matches!(after, "" | "\n") { "" } else { " " };
        return Some(format!("    {address}{blank}{after}"));
    }
    let kind = rest.split(' ').next()?;
    if !matches!(kind, "veth" | "tun") {
        return None;
    }
    let goes_on = ["addrgenmode ", "numtxqueues "];
    let start = goes_on.into_iter().filter_map(|word| rest.find(word)).min()?;
    Some(format!("    {}{}", link_kind_line(spec), &rest[start..]))
}

/// What stands behind `link/KIND ADDRESS brd ADDRESS`.
fn after_addresses(line: &str) -> &str {
    let ends = [' ', '\n'];
    let mut rest = line.find(ends).map_or("", |end| &line[end..]);
    loop {
        let next = rest.trim_start_matches(' ');
        let word = next.split(ends).next().unwrap_or_default();
        if !word.contains(':') && !matches!(word, "brd" | "peer" | "permaddr") {
            return rest;
        }
        rest = &next[word.len()..];
    }
}

/// Without the word about the namespace of a veth's other end.
fn without_namespace(text: &str) -> String {
    for word in [" link-netnsid ", " link-netns "] {
        if let Some((before, after)) = text.split_once(word) {
            let end = after.find([' ', '\n']).unwrap_or(after.len());
            return format!("{before}{}", &after[end..]);
        }
    }
    text.to_owned()
}

/// Rewrites the JSON output (`-j`, also with `-p`). `None`: it is no list of objects.
pub fn splice_link_json(real: &str, specs: &[&TunnelSpec]) -> Option<String> {
    let pretty = real.starts_with("[ ") && real.contains('\n');
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    for element in elements(real)? {
        let members = members(real, &element)?;
        let text = |name: &str| members.iter().find(|member| member.name == name);
        let name = text("ifname").map(|member| real[member.value.clone()].trim_matches('"'));
        let spec = name.and_then(|name| find(specs, name));
        // Brief output has no link type, and is left alone.
        if let (Some(spec), Some(_)) = (spec, text("link_type")) {
            edit(&mut edits, real, &members, spec, pretty);
        }
    }
    edits.sort_by_key(|(range, _)| range.start);
    let mut out = real.to_owned();
    for (range, text) in edits.into_iter().rev() {
        out.replace_range(range, &text);
    }
    Some(out)
}

fn edit(
    edits: &mut Vec<(Range<usize>, String)>,
    real: &str,
    members: &[Member<'_>],
    spec: &TunnelSpec,
    pretty: bool,
) {
    let no_ethernet = link_type(spec.mode).zip(ends(spec));
    let mut json = Json::within(pretty, 2, false);
    for (index, member) in members.iter().enumerate() {
        let value = member.value.clone();
        match (member.name, no_ethernet) {
            ("link" | "link_index", _) => {
                edits.push((member.start..value.end, named("link", "null", pretty)))
            }
            ("link_netnsid", _) => {
                // With the comma before it; there is always a member before.
                let before = index.checked_sub(1).and_then(|before| members.get(before));
                edits
                    .push((before.map_or(member.start, |before| before.value.end)..value.end, String::new()));
            }
            ("flags", _) => {
                let words = real[value.clone()].trim_matches(['[', ']', ' ']);
                let words =
                    words.split(',').map(|word| word.trim_matches('"')).filter(|word| !word.is_empty());
                json.open_list();
                with_flags(words, spec).iter().for_each(|flag| json.string(flag));
                json.close_list();
                edits.push((value, take(&mut json, pretty)));
            }
            ("link_type", Some((kind, _))) => edits.push((value, format!("\"{kind}\""))),
            ("address", Some((_, (local, _)))) => {
                edits.push((value.clone(), format!("\"{local}\"")));
                if is_point_to_point(spec) {
                    let member = format!(",{}{}", line(pretty), named("link_pointtopoint", "true", pretty));
                    edits.push((value.end..value.end, member));
                }
            }
            ("broadcast", Some((_, (_, remote)))) => edits.push((value, format!("\"{remote}\""))),
            ("linkinfo", _) => {
                linkinfo(&mut json, spec);
                edits.push((value, take(&mut json, pretty)));
            }
            _ => {}
        }
    }
}

fn take(json: &mut Json, pretty: bool) -> String {
    std::mem::replace(json, Json::within(pretty, 2, false)).out
}

fn named(name: &str, value: &str, pretty: bool) -> String {
    format!("\"{name}\":{}{value}", if pretty { " " } else { "" })
}

fn line(pretty: bool) -> &'static str {
    if pretty { "\n        " } else { "" }
}
