//! What `ip tunnel show` prints, as text and as JSON.

use std::net::IpAddr;

use greway_spec::dsfield::dsfield_name;
use greway_spec::{Ttl, TunnelSpec};
use serde::Serialize;

/// The lines of `ip tunnel show` for one tunnel: the description and a line for each checksum and
/// sequence flag. Ends with a newline.
pub fn show(spec: &TunnelSpec) -> String {
    let mut text = spec.describe();
    for (set, line) in [
        (spec.iseq, "Drop packets out of sequence."),
        (spec.icsum, "Checksum in received packet is required."),
        (spec.oseq, "Sequence packets on output."),
        (spec.ocsum, "Checksum output packets."),
    ] {
        if set {
            text += "\n  ";
            text += line;
        }
    }
    text.push('\n');
    text
}

/// The JSON of `ip -j tunnel show`: one array, and a newline before its closing bracket, as there.
pub fn show_json<'s>(specs: impl IntoIterator<Item = &'s TunnelSpec>) -> String {
    let objects: Vec<String> = specs.into_iter().map(object).collect();
    if objects.is_empty() { "[ ]\n".to_owned() } else { format!("[{}\n]\n", objects.join(",")) }
}

#[derive(Serialize)]
struct Object<'s> {
    ifname: &'s str,
    mode: String,
    remote: String,
    local: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev: Option<&'s str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tos: Option<String>,
    /// Printed as null where it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    nopmtudisc: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ikey: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    okey: Option<u32>,
    flags: Vec<&'static str>,
}

fn object(spec: &TunnelSpec) -> String {
    let one_key = spec.ikey.is_some() && spec.ikey == spec.okey;
    let flags = [
        (spec.iseq, "rx_drop_ooseq"),
        (spec.icsum, "rx_csum"),
        (spec.oseq, "tx_seq"),
        (spec.ocsum, "tx_csum"),
    ];
    let end = |end: Option<IpAddr>| end.map_or_else(|| "0.0.0.0".to_owned(), |end| end.to_string());
    let object = Object {
        ifname: spec.name.as_str(),
        mode: format!("{}/ip", spec.mode),
        remote: end(spec.remote),
        local: end(spec.local),
        dev: spec.dev.as_ref().map(|dev| dev.as_str()),
        ttl: match spec.ttl {
            Ttl::Inherit => None,
            Ttl::Fixed(hops) => Some(hops),
        },
        // A bare `inherit` is absent; `inherit/c0` is "0xc1".
        tos: (spec.tos.value != 0).then(|| dsfield_name(spec.tos.bits())),
        nopmtudisc: (!spec.pmtudisc).then_some(()),
        key: spec.ikey.filter(|_| one_key),
        ikey: spec.ikey.filter(|_| !one_key),
        okey: spec.okey.filter(|_| !one_key),
        flags: flags.into_iter().filter_map(|(set, word)| set.then_some(word)).collect(),
    };
    // Strings, numbers and null only: there is nothing that could fail.
    serde_json::to_string(&object).unwrap_or_default()
}
