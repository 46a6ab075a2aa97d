//! NetworkManager's keyfile: `system-connections/NAME.nmconnection`.
//!
//! ```text
//! [connection]
//! id=tun0
//! uuid=d3e46929-43bb-4d32-9acc-f8460d0e955a
//! type=ip-tunnel
//! interface-name=tun0
//!
//! [ip-tunnel]
//! local=100.0.1.100
//! mode=2
//! remote=100.0.2.100
//!
//! [ipv4]
//! address1=172.16.0.1/30
//! method=manual
//! ```
//!
//! NetworkManager passes over what it cannot read with a line in its log. Here a key that is unknown, or whose
//! value is not one of its own, is refused with its place: a profile that is honoured in part is a surprise.

use std::net::IpAddr;
use std::sync::Arc;

use greway_spec::{Given, Span, TunnelSpec};

use super::glib::{self, Entry, Group};
use super::profile::{self, Profile};
use super::property::{self, Kind, Property, TABLE};
use super::value::{Route, Value, address};
use super::{Identity, Unsayable};
use crate::diagnostic::{Diagnostic, refuse_mark};
use crate::nearest::nearest;
use crate::parsed::Parsed;

/// Reads the profile of a GRE tunnel from a keyfile and makes a draft of it.
///
/// # Errors
/// The first thing that is wrong or cannot be honoured, with its place.
pub fn parse(text: &str, file_name: &str) -> Result<Parsed, Diagnostic> {
    refuse_mark(text, file_name)?;
    let profile = read(text, file_name)?;
    let (draft, warnings) = profile.draft(file_name, super::Dhcp::Refused)?;
    Ok(Parsed { draft, warnings, onboot: profile.autoconnect(), file: file_name.to_owned() })
}

/// The keyfile of a tunnel.
///
/// # Errors
/// The first field that NetworkManager has no property for.
pub fn render(spec: &TunnelSpec, identity: &Identity) -> Result<String, Unsayable> {
    Ok(emit(&Profile::of(spec, identity)?))
}

/// Reads any profile of type ip-tunnel, as NetworkManager would take it.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn read(text: &str, file_name: &str) -> Result<Profile, Diagnostic> {
    let groups = glib::read(text, file_name)?;
    let reader = Reader { file: Arc::from(file_name) };
    reader.kind(&groups)?;
    let mut profile = Profile::default();
    for group in &groups {
        reader.group(group, &mut profile)?;
    }
    match profile.verify() {
        Ok(()) => Ok(profile),
        Err((message, Some(Span::File { line, column, .. }))) => {
            Err(Diagnostic::at(file_name, line, column, message))
        }
        Err((message, _)) => Err(Diagnostic::at(file_name, 0, 0, message)),
    }
}

struct Reader {
    file: Arc<str>,
}

impl Reader {
    fn kind(&self, groups: &[Group]) -> Result<(), Diagnostic> {
        let connection = groups.iter().find(|group| group.name == "connection");
        let kind = connection.and_then(|group| group.entries.iter().rfind(|entry| entry.key == "type"));
        let Some(kind) = kind else {
            let message = "connection.type is missing; type=ip-tunnel is right for a tunnel";
            return Err(Diagnostic::at(&self.file, 0, 0, message));
        };
        if kind.value == "ip-tunnel" {
            return Ok(());
        }
        let message =
            format!("connection.type \"{}\" is no GRE tunnel; type=ip-tunnel is right for one", kind.value);
        Err(self.error(kind, message))
    }

    fn group(&self, group: &Group, profile: &mut Profile) -> Result<(), Diagnostic> {
        let setting = match group.name.as_str() {
            // Notes of others; they mean nothing to a tunnel.
            "user" | ".nmmeta" => return Ok(()),
            "ethernet" => "802-3-ethernet",
            known if TABLE.iter().any(|row| row.setting == known) => known,
            unknown => {
                let Some(entry) = group.entries.first() else { return Ok(()) };
                let message =
                    format!("[{unknown}] is nothing that a GRE tunnel here can honour; leave it out");
                return Err(Diagnostic::at(&self.file, group.line, 1, message)
                    .help(format!("its first entry is {}", entry.key)));
            }
        };
        let mut lists = Lists::default();
        for entry in &group.entries {
            if matches!(setting, "ipv4" | "ipv6") && self.numbered(setting, entry, &mut lists, profile)? {
                continue;
            }
            let Some(property) = property::named(setting, &entry.key) else {
                return Err(self.unknown(setting, entry));
            };
            let value = self.value(property, entry)?;
            profile.set(property, value, Some(self.span(entry)));
        }
        lists.into_profile(setting, profile).map_err(|(entry, message)| self.error(&entry, message))
    }

    /// `address1`, `route2`, `route2_options`; not one of these: false.
    fn numbered(
        &self,
        setting: &str,
        entry: &Entry,
        lists: &mut Lists,
        profile: &mut Profile,
    ) -> Result<bool, Diagnostic> {
        let (base, options) = match entry.key.strip_suffix("_options") {
            Some(base) => (base, true),
            None => (entry.key.as_str(), false),
        };
        let stem = base.trim_end_matches(|c: char| c.is_ascii_digit());
        let index = base[stem.len()..].parse::<u32>().unwrap_or(0);
        let ipv6 = setting == "ipv6";
        match (stem, options) {
            ("address" | "addresses", false) => {
                let right = "ADDRESS/LENGTH[,GATEWAY] is right";
                let (address, length, rest) = self.prefixed(setting, entry, ipv6, right)?;
                let [gateway] = rest.as_slice() else {
                    return if rest.is_empty() {
                        lists.addresses.push((index, format!("{address}/{length}"), self.span(entry)));
                        Ok(true)
                    } else {
                        Err(self.bad(setting, entry, right))
                    };
                };
                let gateway = address_of(gateway, ipv6).ok_or_else(|| self.bad(setting, entry, right))?;
                lists.addresses.push((index, format!("{address}/{length}"), self.span(entry)));
                if let Some(property) =
                    property::named(setting, "gateway").filter(|_| !gateway.is_unspecified())
                {
                    profile.set(property, Value::Text(gateway.to_string()), Some(self.span(entry)));
                }
                Ok(true)
            }
            ("route" | "routes", false) => {
                let right = "DESTINATION/LENGTH[,NEXT-HOP[,METRIC]] is right";
                let (destination, length, rest) = self.prefixed(setting, entry, ipv6, right)?;
                let bad = || self.bad(setting, entry, right);
                let via = rest.first().map(|via| address_of(via, ipv6).ok_or_else(bad)).transpose()?;
                let metric =
                    rest.get(1).map(|metric| metric.parse().map_err(|_invalid| bad())).transpose()?;
                if rest.len() > 2 {
                    return Err(bad());
                }
                let via = via.filter(|via| !via.is_unspecified());
                let route = Route { destination, length, via, metric, options: Vec::new() };
                lists.routes.push((index, route, self.span(entry)));
                Ok(true)
            }
            ("route" | "routes", true) => {
                lists.options.push((index, entry.clone()));
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// `ADDRESS[/LENGTH]` and what follows it with `,` or `;` between.
    fn prefixed<'e>(
        &self,
        setting: &str,
        entry: &'e Entry,
        ipv6: bool,
        right: &str,
    ) -> Result<(IpAddr, u8, Vec<&'e str>), Diagnostic> {
        let mut parts = entry.value.split([',', ';']).map(str::trim).collect::<Vec<_>>();
        if parts.last() == Some(&"") {
            parts.pop();
        }
        let most = if ipv6 { 128 } else { 32 };
        let bad = || self.bad(setting, entry, right);
        let (first, rest) = parts.split_first().ok_or_else(bad)?;
        let (text, length) = match first.split_once('/') {
            Some((text, length)) => (text, length.parse().ok().filter(|bits| *bits <= most).ok_or_else(bad)?),
            None => (*first, most),
        };
        let address = address(text, ipv6).ok_or_else(bad)?;
        Ok((address, length, rest.to_vec()))
    }

    fn value(&self, property: &'static Property, entry: &Entry) -> Result<Value, Diagnostic> {
        let bad = |right: &str| self.bad(property.setting, entry, right);
        match property.kind {
            Kind::Text | Kind::Opaque | Kind::ReadOnly => Ok(Value::Text(entry.value.clone())),
            Kind::Number { most } => {
                decimal(&entry.value, 0, most).ok_or_else(|| bad(&format!("0 to {most} is right")))
            }
            Kind::Metric => decimal(&entry.value, -1, 4_294_967_295)
                .ok_or_else(|| bad("0 to 4294967295, or -1 for the default, is right")),
            Kind::Flags => decimal(&entry.value, 0, 4_294_967_295).ok_or_else(|| bad("a number is right")),
            Kind::Mode => decimal(&entry.value, 1, 11).ok_or_else(|| {
                bad("the mode's number is right: 2 is gre, 8 ip6gre, 10 gretap, 11 ip6gretap")
            }),
            Kind::Flag => match entry.value.trim_end() {
                "true" | "1" => Ok(Value::Flag(true)),
                "false" | "0" => Ok(Value::Flag(false)),
                _ => Err(bad("true or false is right")),
            },
            Kind::Method(words) => match words.contains(&entry.value.as_str()) {
                true => Ok(Value::Text(entry.value.clone())),
                false => Err(bad(&format!("one of {} is right", words.join(", ")))),
            },
            Kind::Gateway => match address(&entry.value, property.is_ipv6()) {
                Some(gateway) => Ok(Value::Text(gateway.to_string())),
                None => Err(bad("an address is right")),
            },
            Kind::Addresses => Err(bad("address1=, address2= … are right")),
            Kind::Routes => Err(bad("route1=, route2= … are right")),
        }
    }

    fn unknown(&self, setting: &str, entry: &Entry) -> Diagnostic {
        let known = TABLE.iter().filter(|row| row.setting == setting).map(|row| row.name).collect::<Vec<_>>();
        let meant = nearest(&entry.key, &known)
            .map_or_else(String::new, |near| format!("; is {setting}.{near} meant?"));
        let (line, column) = (entry.line, entry.key_column);
        Diagnostic::at(&self.file, line, column, format!("unknown property {setting}.{}{meant}", entry.key))
    }

    fn bad(&self, setting: &str, entry: &Entry, right: &str) -> Diagnostic {
        self.error(entry, format!("{setting}.{} \"{}\" is wrong: {right}", entry.key, entry.value))
    }

    fn error(&self, entry: &Entry, message: impl Into<String>) -> Diagnostic {
        Diagnostic::at(&self.file, entry.line, entry.column, message)
    }

    fn span(&self, entry: &Entry) -> Span {
        Span::File { file: Arc::clone(&self.file), line: entry.line, column: entry.column }
    }
}

fn address_of(text: &str, ipv6: bool) -> Option<IpAddr> {
    address(text, ipv6)
}

fn decimal(text: &str, least: i64, most: i64) -> Option<Value> {
    let number = text.trim().parse::<i64>().ok().filter(|number| (least..=most).contains(number));
    number.map(Value::Number)
}

/// Entries with a number in their key, which says their order.
#[derive(Default)]
struct Lists {
    addresses: Vec<(u32, String, Span)>,
    routes: Vec<(u32, Route, Span)>,
    options: Vec<(u32, Entry)>,
}

impl Lists {
    fn into_profile(mut self, setting: &str, profile: &mut Profile) -> Result<(), (Entry, String)> {
        for (index, entry) in self.options {
            let Some((_, route, _)) = self.routes.iter_mut().find(|(other, ..)| *other == index) else {
                let message = format!("{setting}.{} is about a route that is not there", entry.key);
                return Err((entry, message));
            };
            route
                .options
                .extend(entry.value.split(',').map(str::trim).filter(|o| !o.is_empty()).map(str::to_owned));
        }
        self.addresses.sort_by_key(|(index, ..)| *index);
        self.routes.sort_by_key(|(index, ..)| *index);
        let span = self.addresses.first().map(|(.., span)| span.clone());
        let addresses = self.addresses.into_iter().map(|(_, address, _)| address).collect();
        let route_span = self.routes.first().map(|(.., span)| span.clone());
        let routes = self.routes.into_iter().map(|(_, route, _)| route).collect();
        for (name, value, span) in
            [("addresses", Value::Addresses(addresses), span), ("routes", Value::Routes(routes), route_span)]
        {
            // A later group of the same name adds to the first.
            if let Some(property) = property::named(setting, name) {
                let Given { value: mut present, span: before } = profile.value(setting, name);
                present.append(value);
                profile.set(property, present, before.or(span));
            }
        }
        Ok(())
    }
}

/// The profile as NetworkManager writes it (libnm-core nm-keyfile.c, 1.42): settings in its order, `id`,
/// `uuid` and `type` first, everything else by name, defaults left out.
pub fn emit(profile: &Profile) -> String {
    let mut out = String::new();
    let groups =
        ["connection", "802-3-ethernet", "ip-tunnel", "match", "ipv4", "ipv6", "hostname", "tc", "proxy"];
    for setting in groups {
        let mut lines = lines_of(profile, setting);
        let always = matches!(setting, "connection" | "ip-tunnel" | "ipv4" | "ipv6" | "proxy");
        if lines.is_empty() && !always {
            continue;
        }
        let rank = |key: &str| ["id", "uuid", "type"].iter().position(|first| *first == key).unwrap_or(3);
        lines.sort_by(|(a, _), (b, _)| {
            let ranks = if setting == "connection" { (rank(a), rank(b)) } else { (0, 0) };
            ranks.0.cmp(&ranks.1).then_with(|| a.cmp(b))
        });
        if !out.is_empty() {
            out.push('\n');
        }
        out += &format!("[{}]\n", if setting == "802-3-ethernet" { "ethernet" } else { setting });
        for (key, value) in lines {
            out += &format!("{key}={}\n", glib::escape(&value));
        }
    }
    out
}

fn lines_of(profile: &Profile, setting: &str) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    let mut line = |key: &str, value: String| lines.push((key.to_owned(), value));
    match setting {
        "connection" => line("type", "ip-tunnel".to_owned()),
        "ip-tunnel" => line("mode", profile.number("ip-tunnel", "mode").value.to_string()),
        "ipv4" | "ipv6" => {
            if let Value::Text(method) = profile.value(setting, "method").value {
                line("method", method);
            }
            if setting == "ipv6" && profile.text("ipv6", "addr-gen-mode").is_none() {
                line("addr-gen-mode", "default".to_owned());
            }
        }
        _ => {}
    }
    let gateway = profile.text(setting, "gateway").map(|gateway| gateway.value);
    for (property, given) in profile.properties().filter(|(property, _)| property.setting == setting) {
        match (&given.value, property.name) {
            (_, "mode" | "method" | "gateway" | "type") => {}
            (Value::Text(text), _) => line(property.name, text.clone()),
            (Value::Number(number), _) => line(property.name, number.to_string()),
            (Value::Flag(on), _) => line(property.name, on.to_string()),
            (Value::Addresses(list), _) => {
                for (index, address) in list.iter().enumerate() {
                    // The gateway is written with the first address.
                    let gateway = gateway.iter().filter(|_| index == 0).map(|gateway| format!(",{gateway}"));
                    line(
                        &format!("address{}", index + 1),
                        format!("{address}{}", gateway.collect::<String>()),
                    );
                }
            }
            (Value::Routes(routes), _) => {
                for (index, route) in routes.iter().enumerate() {
                    let unspecified = if property.is_ipv6() { "::" } else { "0.0.0.0" };
                    let mut text = format!("{}/{}", route.destination, route.length);
                    match (route.via, route.metric) {
                        (Some(via), Some(metric)) => text += &format!(",{via},{metric}"),
                        (Some(via), None) => text += &format!(",{via}"),
                        (None, Some(metric)) => text += &format!(",{unspecified},{metric}"),
                        (None, None) => {}
                    }
                    line(&format!("route{}", index + 1), text);
                    if !route.options.is_empty() {
                        line(&format!("route{}_options", index + 1), route.options.join(","));
                    }
                }
            }
        }
    }
    lines
}

/// Whether a text may be a profile's uuid.
pub fn is_uuid(text: &str) -> bool {
    profile::is_uuid(text)
}
