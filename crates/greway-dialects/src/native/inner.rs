//! The table `[inner]`: addresses, routes and forwarding inside the tunnel.

use std::net::{IpAddr, Ipv4Addr};

use greway_spec::{Draft, DraftAddress, DraftRoute, Given, InnerNeighbour, InnerRule};

use super::reader::{Entry, Reader, Table};
use crate::diagnostic::Diagnostic;
use crate::ifcfg::Tables;
use crate::ifcfg::rule_words;

const KEYS: [&str; 10] =
    ["address", "peer", "addresses", "routes", "rules", "neighbours", "link", "ipv6_mtu", "forward", "snat"];

pub(super) fn read(reader: &mut Reader<'_>, entry: &Entry<'_>, draft: &mut Draft) -> Result<(), Diagnostic> {
    let Some(entries) = entry.value().as_table() else {
        return Err(reader.wrong_type(entry, "a table: [inner]"));
    };
    let table = Table { entries, path: "inner." };
    table.only(reader, &KEYS)?;
    draft.addresses = addresses(reader, &table)?;
    draft.routes = table.read("routes", |entry| {
        let Some(items) = entry.items() else { return Err(reader.wrong_type(&entry, "an array of routes")) };
        items.map(|item| route(reader, &item)).collect()
    })?;
    draft.rules = table.read("rules", |entry| {
        let Some(items) = entry.items() else { return Err(reader.wrong_type(&entry, "an array of rules")) };
        items.map(|item| rule(reader, &item)).collect()
    })?;
    draft.neighbours = table.read("neighbours", |entry| {
        let Some(items) = entry.items() else {
            return Err(reader.wrong_type(&entry, "an array of tables: [[inner.neighbours]]"));
        };
        items.map(|item| neighbour(reader, &item)).collect()
    })?;
    draft.link_down = table.read("link", |entry| {
        let text = reader.string(&entry)?.value;
        match text.as_str() {
            "up" => Ok(reader.given(&entry, false)),
            "down" => Ok(reader.given(&entry, true)),
            _ => Err(reader.bad(&entry, text, "\"up\" or \"down\" is right")),
        }
    })?;
    draft.ipv6_mtu = table.read("ipv6_mtu", |entry| {
        let number = reader.integer(&entry)?;
        match u32::try_from(number) {
            Ok(mtu) => Ok(reader.given(&entry, mtu)),
            Err(_) => Err(reader.bad(&entry, number, "a number of bytes is right")),
        }
    })?;
    draft.forward = table.read("forward", |entry| reader.boolean(&entry))?;
    draft.snat = table.read("snat", |entry| {
        let text = reader.string(&entry)?.value;
        match text.parse::<IpAddr>() {
            Ok(address) => Ok(reader.given(&entry, address)),
            Err(_) => Err(reader.bad(&entry, text, "an IPv4 address such as \"10.10.2.1\" is right")),
        }
    })?;
    Ok(())
}

fn addresses(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
) -> Result<Option<Vec<Given<DraftAddress>>>, Diagnostic> {
    if let Some(entry) = table.entry("address") {
        if let Some(several) = table.entry("addresses") {
            let message = "inner.addresses beside inner.address; put them all into inner.addresses";
            return Err(reader.error(&several, message));
        }
        return Ok(Some(vec![address(reader, &entry, table.entry("peer"))?]));
    }
    if let Some(peer) = table.entry("peer") {
        return Err(reader.error(&peer, "inner.peer without inner.address; give our own inner address too"));
    }
    let Some(entry) = table.entry("addresses") else { return Ok(None) };
    let Some(items) = entry.items() else { return Err(reader.wrong_type(&entry, "an array of addresses")) };
    let mut addresses = Vec::new();
    for item in items {
        addresses.push(match item.value().as_table() {
            None => address(reader, &item, None)?,
            Some(entries) => {
                let table = Table { entries, path: "inner.addresses." };
                table.only(reader, &["address", "peer"])?;
                let Some(local) = table.entry("address") else {
                    return Err(reader.error(&item, "inner.addresses: an entry without address"));
                };
                address(reader, &local, table.entry("peer"))?
            }
        });
    }
    Ok(Some(addresses))
}

/// As `ip addr add LOCAL [peer PEER]`: with a peer the prefix length is the peer's, and no prefix
/// length is the address's full length.
fn address(
    reader: &mut Reader<'_>,
    entry: &Entry<'_>,
    peer: Option<Entry<'_>>,
) -> Result<Given<DraftAddress>, Diagnostic> {
    let right = "an address such as \"172.16.0.1\" or \"172.16.0.2/30\" is right";
    let (local, local_length) = prefix(reader, entry, right)?;
    let Some(peer_entry) = peer else {
        let prefix_length = local_length.unwrap_or_else(|| full_length(local));
        return Ok(reader.given(entry, DraftAddress { local, peer: None, prefix_length }));
    };
    let (peer, peer_length) = prefix(reader, &peer_entry, right)?;
    let prefix_length = peer_length.unwrap_or_else(|| full_length(peer));
    if let Some(unused) = local_length.filter(|length| *length != prefix_length) {
        let message = format!(
            "the /{unused} of our own address is not used, as with \"ip addr add\": the peer's prefix length \
             counts, here /{prefix_length}; give it with the peer"
        );
        let warning = reader.warning(&peer_entry, message);
        reader.warnings.push(warning);
    }
    Ok(reader.given(&peer_entry, DraftAddress { local, peer: Some(peer), prefix_length }))
}

fn route(reader: &Reader<'_>, item: &Entry<'_>) -> Result<Given<DraftRoute>, Diagnostic> {
    let Some(entries) = item.value().as_table() else {
        let (address, length) = destination(reader, item)?;
        return Ok(reader.given(item, DraftRoute::to(address, length)));
    };
    let table = Table { entries, path: "inner.routes." };
    table.only(reader, &["to", "via", "metric", "src", "table"])?;
    let Some(to) = table.entry("to") else {
        return Err(reader.error(item, "inner.routes: a route without to, its destination"));
    };
    let (address, length) = destination(reader, &to)?;
    let address_of = |entry: Entry<'_>| {
        let text = reader.string(&entry)?.value;
        text.parse::<IpAddr>().map_err(|_invalid| reader.bad(&entry, text, "an address is right"))
    };
    let number = |entry: Entry<'_>| {
        let number = reader.integer(&entry)?;
        u32::try_from(number).map_err(|_range| reader.bad(&entry, number, "0 to 4294967295 is right"))
    };
    let (via, source) = (table.read("via", address_of)?, table.read("src", address_of)?);
    let (metric, routing_table) = (table.read("metric", number)?, table.read("table", number)?);
    Ok(reader.given(&to, DraftRoute { address, length, via, metric, table: routing_table, source }))
}

/// A rule in the words of `ip rule add`; `-6` before them says that it is for IPv6 where no address does.
fn rule(reader: &Reader<'_>, item: &Entry<'_>) -> Result<Given<InnerRule>, Diagnostic> {
    let text = reader.string(item)?.value;
    let (family, words) = match text.strip_prefix("-6 ") {
        Some(words) => (Some(true), words),
        None => (None, text.as_str()),
    };
    match rule_words::parse(words, family, &Tables::default()) {
        Ok(rule) => Ok(reader.given(item, rule)),
        Err(wrong) => Err(reader.error(item, format!("inner.rules \"{text}\" is wrong: {}", wrong.message))),
    }
}

/// Who has an address inside, in a tunnel without a remote.
fn neighbour(reader: &Reader<'_>, item: &Entry<'_>) -> Result<Given<InnerNeighbour>, Diagnostic> {
    let Some(entries) = item.value().as_table() else {
        return Err(reader.wrong_type(item, "a table with address and endpoint"));
    };
    let table = Table { entries, path: "inner.neighbours." };
    table.only(reader, &["address", "endpoint"])?;
    let address = |key: &'static str| {
        let Some(entry) = table.entry(key) else {
            let message = format!("inner.neighbours: an entry without {key}; it has address and endpoint");
            return Err(reader.error(item, message));
        };
        let text = reader.string(&entry)?.value;
        let parsed = text.parse::<IpAddr>();
        parsed.map_err(|_invalid| reader.bad(&entry, text, "an address is right"))
    };
    let (address, endpoint) = (address("address")?, address("endpoint")?);
    Ok(reader.given(item, InnerNeighbour { address, endpoint }))
}

fn destination(reader: &Reader<'_>, entry: &Entry<'_>) -> Result<(IpAddr, u8), Diagnostic> {
    if entry.value().as_str() == Some("default") {
        return Ok((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));
    }
    let right = "a destination such as \"10.10.2.0/24\", or \"default\", is right";
    let (address, length) = prefix(reader, entry, right)?;
    Ok((address, length.unwrap_or_else(|| full_length(address))))
}

fn prefix(reader: &Reader<'_>, entry: &Entry<'_>, right: &str) -> Result<(IpAddr, Option<u8>), Diagnostic> {
    let text = reader.string(entry)?.value;
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse::<u8>())),
        None => (text.as_str(), None),
    };
    match (address.parse::<IpAddr>(), length.transpose()) {
        (Ok(address), Ok(length)) => Ok((address, length)),
        _ => Err(reader.bad(entry, &text, right)),
    }
}

fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
