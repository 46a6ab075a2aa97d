//! Our own files: TOML, one file a tunnel, in iproute2's words.
//!
//! ```toml
//! remote = "100.0.2.100"
//! local = "100.0.1.100"
//! key = 42
//!
//! [inner]
//! address = "172.16.0.1"
//! peer = "172.16.0.2/30"
//! routes = ["10.10.2.0/24"]
//! ```
//!
//! An unknown key is an error, never ignored, and so is a key said twice in two ways (`key` beside
//! `ikey`). Addresses are read strictly: `010.0.0.1` is refused, not guessed at.

mod delivery;
mod inner;
mod reader;
mod render;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use greway_spec::{
    DatapathChoice, DeviceName, Draft, FirewallPolicy, Given, Mode, MssClamp, Origin, OverlayChoice, SeqMode,
    UnderlayChoice,
};
use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostic, place};
use crate::key::file_key;
use crate::parsed::Parsed;
use reader::{Entry, Reader, Table};

pub use render::render;

const KEYS: [&str; 34] = [
    "name",
    "mode",
    "local",
    "remote",
    "key",
    "ikey",
    "okey",
    "csum",
    "icsum",
    "ocsum",
    "seq",
    "iseq",
    "oseq",
    "seq_mode",
    "ttl",
    "tos",
    "pmtudisc",
    "ignore_df",
    "dev",
    "mtu",
    "datapath",
    "underlay",
    "overlay",
    "firewall",
    "direct",
    "mss",
    "onboot",
    "strict_keys",
    "inner",
    "fwmark",
    "encaplimit",
    "flowlabel",
    "dscp",
    "allow_localremote",
];

/// Reads one of our files. The tunnel's name is that of the file where the text has none.
///
/// # Errors
/// The first thing that is wrong, with line, column and what would be right.
pub fn parse(text: &str, file_name: &str) -> Result<Parsed, Diagnostic> {
    let document = DeTable::parse(text).map_err(|error| {
        let (line, column) = place(text, error.span().map_or(0, |span| span.start));
        let message = error.message().trim_end().replace('\n', "; ");
        // That it is there twice says little by itself.
        let twice = error.span().filter(|_| message == "duplicate key").and_then(|span| text.get(span));
        let message = match twice {
            Some(key) => format!("the key {key} is there twice: once is right"),
            None => message,
        };
        Diagnostic::at(file_name, line, column, message)
    })?;
    let mut reader = Reader { text, file: Arc::from(file_name), tunnel: None, warnings: Vec::new() };
    let table = Table { entries: document.get_ref(), path: "" };
    let name = name(&mut reader, &table)?;
    table.only(&reader, &KEYS)?;
    let mut draft =
        Draft { name: Some(name), origin: Origin::File(file_name.to_owned()), ..Draft::default() };
    ends(&reader, &table, &mut draft)?;
    keys(&mut reader, &table, &mut draft)?;
    [draft.icsum, draft.ocsum] =
        both_ways(&reader, &table, ["csum", "icsum", "ocsum"], |entry| reader.boolean(entry))?;
    [draft.iseq, draft.oseq] =
        both_ways(&reader, &table, ["seq", "iseq", "oseq"], |entry| reader.boolean(entry))?;
    draft.seq_mode = choice(&reader, &table, "seq_mode", SeqMode::WORDS, SeqMode::parse)?;
    delivery::read(&reader, &table, &mut draft)?;
    choices(&reader, &table, &mut draft)?;
    let onboot = table.read("onboot", |entry| reader.boolean(&entry))?.is_none_or(|on| on.value);
    if let Some(entry) = table.entry("inner") {
        inner::read(&mut reader, &entry, &mut draft)?;
    }
    let mut warnings = reader.warnings;
    warnings.sort_by_key(|warning| (warning.line, warning.column));
    Ok(Parsed { draft, warnings, onboot, file: file_name.to_owned() })
}

/// The name that a text gives its tunnel, told without reading it in earnest.
pub fn survey_name(text: &str) -> Option<String> {
    let document = DeTable::parse(text).ok()?;
    let named = document.get_ref().iter().find(|(key, _)| key.get_ref().as_ref() == "name");
    named.and_then(|(_, value)| value.get_ref().as_str()).map(str::to_owned)
}

fn name(reader: &mut Reader<'_>, table: &Table<'_>) -> Result<Given<DeviceName>, Diagnostic> {
    let right = "1 to 15 bytes without '/', ':', '%' or blanks are right";
    let name = match table.entry("name") {
        Some(entry) => {
            let text = reader.string(&entry)?;
            match text.value.parse::<DeviceName>() {
                Ok(name) => reader.given(&entry, name),
                Err(_) => return Err(reader.bad(&entry, &text.value, right)),
            }
        }
        None => {
            let stem = Path::new(reader.file.as_ref()).file_stem().unwrap_or_default().to_string_lossy();
            let Ok(name) = stem.parse::<DeviceName>() else {
                let message = format!(
                    "the file's name \"{stem}\" is no device name, and there is no key name: {right}"
                );
                return Err(Diagnostic::at(&reader.file, 0, 0, message));
            };
            name.into()
        }
    };
    reader.tunnel = Some(name.value.clone());
    Ok(name)
}

fn ends(reader: &Reader<'_>, table: &Table<'_>, draft: &mut Draft) -> Result<(), Diagnostic> {
    draft.mode = table.read("mode", |entry| {
        let text = reader.string(&entry)?;
        let mode = match text.value.as_str() {
            "gre/ip" => Some(Mode::Gre),
            "gre/ipv6" => Some(Mode::Ip6Gre),
            word => Mode::parse(word),
        };
        match mode {
            Some(mode) => Ok(reader.given(&entry, mode)),
            None => Err(reader.bad(&entry, &text.value, &format!("{} is right", modes()))),
        }
    })?;
    let over_ipv6 = draft.mode.as_ref().is_some_and(|mode| mode.value.over_ipv6());
    let (any, example): (IpAddr, _) = if over_ipv6 {
        (Ipv6Addr::UNSPECIFIED.into(), "an IPv6 address such as \"2001:db8::2\" is right")
    } else {
        (Ipv4Addr::UNSPECIFIED.into(), "an IPv4 address such as \"100.0.2.100\" is right")
    };
    let address = |entry: Entry<'_>| {
        let text = reader.string(&entry)?;
        if text.value == "any" {
            return Ok(reader.given(&entry, any));
        }
        match text.value.parse::<IpAddr>() {
            Ok(address) => Ok(reader.given(&entry, address)),
            Err(_) => Err(reader.bad(&entry, &text.value, example)),
        }
    };
    draft.local = table.read("local", address)?;
    draft.remote = table.read("remote", address)?;
    draft.dev = table.read("dev", |entry| {
        let text = reader.string(&entry)?;
        match text.value.parse::<DeviceName>() {
            Ok(dev) => Ok(reader.given(&entry, Some(dev))),
            Err(_) => Err(reader.bad(&entry, &text.value, "the name of a network device is right")),
        }
    })?;
    Ok(())
}

fn modes() -> String {
    Mode::ALL.map(Mode::word).join(" or ")
}

fn keys(reader: &mut Reader<'_>, table: &Table<'_>, draft: &mut Draft) -> Result<(), Diagnostic> {
    let strict = table.read("strict_keys", |entry| reader.boolean(&entry))?.is_some_and(|on| on.value);
    let mut derived = Vec::new();
    let read = |entry: &Entry<'_>| {
        let right = "0 to 4294967295 is right, or a string";
        if let DeValue::Integer(_) = entry.value() {
            return match reader.integer(entry)?.try_into() {
                Ok(number) => Ok(reader.given(entry, Some(number))),
                Err(_) => Err(reader.bad(entry, reader.source(entry), right)),
            };
        }
        let Some(text) = entry.value().as_str() else {
            return Err(reader.wrong_type(entry, "a number or a string"));
        };
        let key = file_key(entry.name, text, strict).map_err(|message| reader.error(entry, message))?;
        derived.extend(key.warning.map(|warning| reader.warning(entry, warning)));
        Ok(reader.given(entry, Some(key.number)))
    };
    [draft.ikey, draft.okey] = both_ways(reader, table, ["key", "ikey", "okey"], read)?;
    reader.warnings.extend(derived);
    Ok(())
}

/// A setting with one key for both directions and one for each.
fn both_ways<'t, T: Clone>(
    reader: &Reader<'_>,
    table: &Table<'t>,
    [both, input, output]: [&'static str; 3],
    mut read: impl FnMut(&Entry<'t>) -> Result<Given<T>, Diagnostic>,
) -> Result<[Option<Given<T>>; 2], Diagnostic> {
    let Some(entry) = table.entry(both) else {
        let mut one = |name| table.read(name, |entry| read(&entry));
        return Ok([one(input)?, one(output)?]);
    };
    if let Some(one_way) = table.entry(input).or_else(|| table.entry(output)) {
        let message =
            format!("{} beside {both}, which says both directions; leave one of them out", one_way.name);
        return Err(reader.error(&one_way, message));
    }
    let value = read(&entry)?;
    Ok([Some(value.clone()), Some(value)])
}

fn choices(reader: &Reader<'_>, table: &Table<'_>, draft: &mut Draft) -> Result<(), Diagnostic> {
    draft.datapath = choice(reader, table, "datapath", DatapathChoice::WORDS, DatapathChoice::parse)?;
    draft.underlay = choice(reader, table, "underlay", UnderlayChoice::WORDS, UnderlayChoice::parse)?;
    draft.overlay = choice(reader, table, "overlay", OverlayChoice::WORDS, OverlayChoice::parse)?;
    draft.firewall = choice(reader, table, "firewall", FirewallPolicy::WORDS, FirewallPolicy::parse)?;
    draft.direct = table.read("direct", |entry| reader.boolean(&entry))?;
    draft.mss = table.read("mss", |entry| {
        let mss = match entry.value() {
            DeValue::Integer(_) => {
                u16::try_from(reader.integer(&entry)?).ok().filter(|bytes| *bytes > 0).map(MssClamp::Fixed)
            }
            DeValue::String(text) => MssClamp::parse(text).filter(|mss| !matches!(mss, MssClamp::Fixed(_))),
            _ => None,
        };
        match mss {
            Some(mss) => Ok(reader.given(&entry, mss)),
            None => {
                Err(reader.bad(&entry, reader.source(&entry), "1 to 65535, \"auto\" or \"off\" is right"))
            }
        }
    })?;
    Ok(())
}

fn choice<T>(
    reader: &Reader<'_>,
    table: &Table<'_>,
    name: &'static str,
    words: &[&str],
    parse: fn(&str) -> Option<T>,
) -> Result<Option<Given<T>>, Diagnostic> {
    table.read(name, |entry| {
        let text = reader.string(&entry)?;
        match parse(&text.value) {
            Some(choice) => Ok(reader.given(&entry, choice)),
            None => Err(reader.bad(&entry, &text.value, &format!("{} is right", words.join(" or ")))),
        }
    })
}
