//! A property's value: kept in one form, read as `nmcli` reads it.

use std::net::IpAddr;

use super::property::{Kind, Property};

/// A value in its one form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Text, and what is not looked into.
    Text(String),
    /// A number; also a mode and flags.
    Number(i64),
    /// Yes or no.
    Flag(bool),
    /// Addresses as `172.16.0.1/30`.
    Addresses(Vec<String>),
    /// Routes.
    Routes(Vec<Route>),
}

/// A route of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) destination: IpAddr,
    pub(super) length: u8,
    pub(super) via: Option<IpAddr>,
    pub(super) metric: Option<u32>,
    /// `table=5` and the like, sorted.
    pub(super) options: Vec<String>,
}

/// The modes of `ip-tunnel.mode` by number; those of GRE are 2, 8, 10 and 11.
pub(super) const MODES: [&str; 11] =
    ["ipip", "gre", "sit", "isatap", "vti", "ip6ip6", "ipip6", "ip6gre", "vti6", "gretap", "ip6gretap"];

/// The flags of `ip-tunnel.flags`, from bit 0 on.
pub(super) const FLAGS: [&str; 6] = [
    "ip6-ign-encap-limit",
    "ip6-use-orig-tclass",
    "ip6-use-orig-flowlabel",
    "ip6-mip6-dev",
    "ip6-rcv-dscp-copy",
    "ip6-use-orig-fwmark",
];

/// The word for a mode's number.
pub(super) fn mode_word(number: i64) -> Option<&'static str> {
    let index = usize::try_from(number).ok()?.checked_sub(1)?;
    MODES.get(index).copied()
}

/// The words for flags, `none` where there are none.
pub(super) fn flag_words(flags: i64) -> String {
    let words = FLAGS.iter().enumerate().filter(|(bit, _)| flags & (1 << bit) != 0).map(|(_, word)| *word);
    let words = words.collect::<Vec<_>>();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

impl Value {
    /// What an unset property is.
    pub(super) fn unset(property: &Property) -> Self {
        match property.kind {
            Kind::Number { .. } | Kind::Mode | Kind::Flags => Self::Number(0),
            Kind::Metric => Self::Number(-1),
            Kind::Flag => Self::Flag(property.default == "yes"),
            Kind::Addresses => Self::Addresses(Vec::new()),
            Kind::Routes => Self::Routes(Vec::new()),
            Kind::Method(_) => Self::Text("auto".to_owned()),
            Kind::Text | Kind::Gateway | Kind::Opaque | Kind::ReadOnly => Self::Text(String::new()),
        }
    }

    /// Reads a value as it stands on nmcli's command line. The error is nmcli's text, without a full stop.
    pub(super) fn parse(property: &Property, text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(match property.kind {
                // Unlike every other property this one has no default to go back to.
                Kind::Method(_) => Self::Text(String::new()),
                _ => Self::unset(property),
            });
        }
        match property.kind {
            Kind::Text | Kind::Opaque | Kind::ReadOnly => Ok(Self::Text(text.to_owned())),
            Kind::Number { .. } if text == "auto" && property.default == "auto" => Ok(Self::Number(0)),
            Kind::Number { most } => number(text, 0, most).map(Self::Number),
            Kind::Metric => number(text, -1, 4_294_967_295).map(Self::Number),
            Kind::Flag => flag(text).map(Self::Flag),
            Kind::Mode => mode(text).map(Self::Number),
            Kind::Flags => flags(text).map(Self::Number),
            Kind::Method(words) => {
                let words = words.iter().map(|word| (*word, None)).collect::<Vec<_>>();
                super::property::choose(text, &words).map(|word| Self::Text(word.to_owned()))
            }
            Kind::Gateway => match address(text, property.is_ipv6()) {
                Some(gateway) => Ok(Self::Text(gateway.to_string())),
                None => Err(format!("invalid gateway address '{text}'")),
            },
            Kind::Addresses => {
                let read = |item: &str| prefix(item, property.is_ipv6(), "invalid IP address: ");
                let mut list = Vec::new();
                for item in items(text) {
                    let (address, length) = read(item)?;
                    let address = format!("{address}/{length}");
                    if !list.contains(&address) {
                        list.push(address);
                    }
                }
                Ok(Self::Addresses(list))
            }
            Kind::Routes => {
                let routes = items(text).map(|item| Route::parse(item, property.is_ipv6()));
                routes.collect::<Result<_, _>>().map(Self::Routes)
            }
        }
    }

    /// `nmcli connection show NAME`; `pretty` unless terse.
    pub(super) fn show(&self, property: &Property, pretty: bool) -> String {
        let default = || {
            let short = property.default.split(" (").next().unwrap_or_default();
            if pretty {
                property.default.to_owned()
            } else if short == "--" {
                String::new()
            } else {
                short.to_owned()
            }
        };
        if *self == Self::unset(property) && !matches!(property.kind, Kind::Method(_)) {
            return default();
        }
        match self {
            Self::Text(text) => text.clone(),
            Self::Flag(on) => if *on { "yes" } else { "no" }.to_owned(),
            Self::Number(number) => match property.kind {
                Kind::Mode => mode_word(*number).map_or_else(|| number.to_string(), str::to_owned),
                Kind::Flags if pretty => format!("{number:#x} ({})", flag_words(*number)),
                Kind::Flags => format!("{number:#x}"),
                _ if property.name == "fwmark" => format!("{number:#x}"),
                _ => number.to_string(),
            },
            Self::Addresses(list) => list.join(", "),
            Self::Routes(routes) if pretty => {
                routes.iter().map(Route::show_pretty).collect::<Vec<_>>().join("; ")
            }
            Self::Routes(routes) => routes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        }
    }

    /// Puts `other` behind what is there already (`+SETTING.PROPERTY`), where there can be several.
    pub(super) fn append(&mut self, other: Self) {
        match (self, other) {
            (Self::Addresses(list), Self::Addresses(more)) => {
                for address in more {
                    if !list.contains(&address) {
                        list.push(address);
                    }
                }
            }
            (Self::Routes(list), Self::Routes(more)) => {
                for route in more {
                    if !list.contains(&route) {
                        list.push(route);
                    }
                }
            }
            (value, other) => *value = other,
        }
    }

    /// Takes `text`, an item or the index of one, out (`-SETTING.PROPERTY`); where there can be one only, it
    /// goes. The error is nmcli's text.
    pub(super) fn remove(&mut self, property: &Property, text: &str) -> Result<(), String> {
        let index = text.trim().parse::<usize>().ok();
        match self {
            Self::Addresses(list) => match index {
                Some(index) if index < list.len() => drop(list.remove(index)),
                Some(_) => {}
                None => {
                    if let Self::Addresses(gone) = Self::parse(property, text)? {
                        list.retain(|address| !gone.contains(address));
                    }
                }
            },
            Self::Routes(list) => match index {
                Some(index) if index < list.len() => drop(list.remove(index)),
                Some(_) => {}
                None => {
                    if let Self::Routes(gone) = Self::parse(property, text)? {
                        list.retain(|route| !gone.contains(route));
                    }
                }
            },
            value => *value = Self::unset(property),
        }
        Ok(())
    }
}

/// Items of a list, with commas between.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn number(text: &str, least: i64, most: i64) -> Result<i64, String> {
    let trimmed = text.trim();
    let digits = trimmed.trim_start_matches(['-', '+']);
    if digits.is_empty() || trimmed.len() - digits.len() > 1 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("'{text}' is not a valid number"));
    }
    match trimmed.parse::<i64>() {
        Ok(value) if (least..=most).contains(&value) => Ok(value),
        _ => Err(format!("'{text}' is out of range [{least}, {most}]")),
    }
}

/// `yes`, `no` and beginnings of them.
pub(super) fn flag(text: &str) -> Result<bool, String> {
    let lower = text.to_ascii_lowercase();
    let begins = |words: [&str; 3]| words.iter().any(|word| word.starts_with(&lower));
    match lower.as_str() {
        "1" => Ok(true),
        "0" => Ok(false),
        "o" => Err("'o' is ambiguous (on, off)".replace("'o'", &format!("'{text}'"))),
        _ if begins(["true", "yes", "on"]) => Ok(true),
        _ if begins(["false", "no", "off"]) => Ok(false),
        _ => Err(format!("'{text}' is not valid; use [true, yes, on] or [false, no, off]")),
    }
}

/// A mode's word in full, or its number. A number that is no mode passes here and is found out when the
/// profile is verified, as in nmcli.
fn mode(text: &str) -> Result<i64, String> {
    if let Some(index) = MODES.iter().position(|word| *word == text) {
        return Ok(i64::try_from(index).unwrap_or_default() + 1);
    }
    text.parse::<u32>()
        .map(i64::from)
        .map_err(|_invalid| format!("invalid option '{text}', use one of [{}]", MODES.join(",")))
}

fn flags(text: &str) -> Result<i64, String> {
    let mut flags = 0;
    for word in text.split([',', ' ']).filter(|word| !word.is_empty()) {
        let hexadecimal = word.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let number = hexadecimal.or_else(|| word.parse::<u32>().ok());
        flags |= match (number, FLAGS.iter().position(|flag| *flag == word)) {
            (Some(number), _) => i64::from(number),
            (None, Some(bit)) => 1 << bit,
            (None, None) if word == "none" => 0,
            (None, None) => {
                let known = FLAGS.join(",");
                return Err(format!("invalid option '{word}', use a combination of [none,{known}]"));
            }
        };
    }
    Ok(flags)
}

/// An address of one family, strictly.
pub(super) fn address(text: &str, ipv6: bool) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().filter(|address| address.is_ipv6() == ipv6)
}

/// `ADDRESS[/LENGTH]`; `what` begins the error about the address.
fn prefix(text: &str, ipv6: bool, what: &str) -> Result<(IpAddr, u8), String> {
    let most = if ipv6 { 128 } else { 32 };
    let (text, length) = match text.split_once('/') {
        Some((text, length)) => match length.parse::<u8>() {
            Ok(bits) if bits <= most => (text, bits),
            _ => return Err(format!("invalid prefix '{length}'; <0-{most}> allowed")),
        },
        None => (text, most),
    };
    let family = if ipv6 { 6 } else { 4 };
    let address = address(text, ipv6).ok_or_else(|| format!("{what}Invalid IPv{family} address '{text}'"))?;
    Ok((address, length))
}

const ROUTE_SYNTAX: &str =
    "The valid syntax is: 'ip[/prefix] [next-hop] [metric] [attribute=val]... [,ip[/prefix] ...]'";

/// Attributes that a route may have; none of them is honoured.
const ROUTE_OPTIONS: [&str; 18] = [
    "advmss",
    "cwnd",
    "from",
    "initcwnd",
    "initrwnd",
    "lock-cwnd",
    "lock-initcwnd",
    "lock-initrwnd",
    "lock-mtu",
    "lock-window",
    "mtu",
    "onlink",
    "quickack",
    "rto_min",
    "scope",
    "src",
    "table",
    "tos",
];

impl Route {
    /// `DESTINATION[/LENGTH] [NEXT-HOP] [METRIC] [ATTRIBUTE=VALUE]…`.
    fn parse(text: &str, ipv6: bool) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let (destination, length) = prefix(words.next().unwrap_or_default(), ipv6, "invalid route: ")
            .map_err(|error| {
                if error.starts_with("invalid route") { format!("{error}. {ROUTE_SYNTAX}") } else { error }
            })?;
        let mut route = Self { destination, length, via: None, metric: None, options: Vec::new() };
        for word in words {
            if let Some((name, _)) = word.split_once('=') {
                if !ROUTE_OPTIONS.contains(&name) && !matches!(name, "type" | "weight" | "window") {
                    return Err(format!("invalid option '{word}': unknown attribute '{name}'"));
                }
                route.options.push(word.to_owned());
                continue;
            }
            match (address(word, ipv6), word.parse::<u32>()) {
                (Some(via), _) if route.via.is_none() && route.metric.is_none() => route.via = Some(via),
                (None, Ok(metric)) if route.metric.is_none() => route.metric = Some(metric),
                _ => return Err(ROUTE_SYNTAX.to_owned()),
            }
        }
        route.via = route.via.filter(|via| !via.is_unspecified());
        route.options.sort();
        Ok(route)
    }

    fn show_pretty(&self) -> String {
        let via = self.via.map_or_else(String::new, |via| format!(", nh = {via}"));
        let metric = self.metric.map_or_else(String::new, |metric| format!(", mt = {metric}"));
        let options = self.options.iter().map(|option| format!(", {}", option.replacen('=', " = ", 1)));
        format!("{{ ip = {}/{}{via}{metric}{} }}", self.destination, self.length, options.collect::<String>())
    }
}

/// As nmcli takes it: `10.10.3.0/24 172.16.0.2 100`.
impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.destination, self.length)?;
        if let Some(via) = self.via {
            write!(f, " {via}")?;
        }
        if let Some(metric) = self.metric {
            write!(f, " {metric}")?;
        }
        for option in &self.options {
            write!(f, " {option}")?;
        }
        Ok(())
    }
}
