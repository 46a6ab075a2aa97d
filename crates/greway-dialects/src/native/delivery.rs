//! What a file says of the delivery header.

use greway_spec::{Draft, FlowLabel, Tos, Ttl};
use toml::de::DeValue;

use super::reader::{Reader, Table};
use crate::diagnostic::Diagnostic;

/// Reads them.
pub(super) fn read(reader: &Reader<'_>, table: &Table<'_>, draft: &mut Draft) -> Result<(), Diagnostic> {
    draft.ttl = table.read("ttl", |entry| {
        let right = "1 to 255, or \"inherit\", is right";
        let ttl = match entry.value() {
            DeValue::Integer(_) => u8::try_from(reader.integer(&entry)?).ok().map(Ttl::from),
            DeValue::String(text) if text == "inherit" => Some(Ttl::Inherit),
            _ => None,
        };
        match ttl {
            Some(ttl) => Ok(reader.given(&entry, ttl)),
            None => Err(reader.bad(&entry, reader.source(&entry), right)),
        }
    })?;
    draft.tos = table.read("tos", |entry| {
        let right = "0 to 255, a name such as \"CS6\", \"inherit\", or \"inherit/CS6\" is right";
        let tos = match entry.value() {
            DeValue::Integer(_) => u8::try_from(reader.integer(&entry)?)
                .ok()
                .map(|value| Tos { inherit: value & 1 == 1, value: value & !1 }),
            DeValue::String(text) => Tos::parse(text),
            _ => None,
        };
        match tos {
            Some(tos) => Ok(reader.given(&entry, tos)),
            None => Err(reader.bad(&entry, reader.source(&entry), right)),
        }
    })?;
    draft.pmtudisc = table.read("pmtudisc", |entry| reader.boolean(&entry))?;
    draft.ignore_df = table.read("ignore_df", |entry| reader.boolean(&entry))?;
    draft.mtu = table.read("mtu", |entry| {
        let mtu = match entry.value() {
            DeValue::Integer(_) => u32::try_from(reader.integer(&entry)?).ok().map(Some),
            DeValue::String(text) if text == "auto" => Some(None),
            _ => None,
        };
        match mtu {
            Some(mtu) => Ok(reader.given(&entry, mtu)),
            None => {
                Err(reader.bad(&entry, reader.source(&entry), "a number of bytes, or \"auto\", is right"))
            }
        }
    })?;
    draft.fwmark = table.read("fwmark", |entry| {
        let right = "0 to 4294967295 is right";
        match u32::try_from(reader.integer(&entry)?) {
            Ok(mark) => Ok(reader.given(&entry, mark)),
            Err(_) => Err(reader.bad(&entry, reader.source(&entry), right)),
        }
    })?;
    ipv6(reader, table, draft)
}

/// What only an IPv6 delivery header has.
fn ipv6(reader: &Reader<'_>, table: &Table<'_>, draft: &mut Draft) -> Result<(), Diagnostic> {
    draft.encaplimit = table.read("encaplimit", |entry| {
        let limit = match entry.value() {
            DeValue::Integer(_) => u8::try_from(reader.integer(&entry)?).ok().map(Some),
            DeValue::String(text) if text == "none" => Some(None),
            _ => None,
        };
        match limit {
            Some(limit) => Ok(reader.given(&entry, limit)),
            None => Err(reader.bad(&entry, reader.source(&entry), "0 to 255, or \"none\", is right")),
        }
    })?;
    draft.flowlabel = table.read("flowlabel", |entry| {
        let label = match entry.value() {
            DeValue::Integer(_) => u32::try_from(reader.integer(&entry)?).ok().map(FlowLabel::Fixed),
            DeValue::String(text) if text == "inherit" => Some(FlowLabel::Inherit),
            _ => None,
        };
        match label {
            Some(label) => Ok(reader.given(&entry, label)),
            None => Err(reader.bad(&entry, reader.source(&entry), "0 to 0xfffff, or \"inherit\", is right")),
        }
    })?;
    draft.dscp_inherit = table.read("dscp", |entry| {
        let text = reader.string(&entry)?;
        match text.value.as_str() {
            "inherit" => Ok(reader.given(&entry, true)),
            other => Err(reader.bad(&entry, other, "\"inherit\" is right, or no dscp at all")),
        }
    })?;
    draft.allow_localremote = table.read("allow_localremote", |entry| reader.boolean(&entry))?;
    Ok(())
}
