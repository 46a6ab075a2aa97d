//! A connection profile of type ip-tunnel, as NetworkManager has it.
//!
//! More can be in it than a tunnel here can honour: what becomes of that is decided where a profile is made
//! into a draft ([`Profile::draft`]), not where it is read.

use std::collections::BTreeMap;

use greway_spec::{Given, Span};

use super::property::{self, Kind, Property, TABLE};
use super::value::{Value, address, flag_words, mode_word};

/// A profile: the properties that are set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// By position in the table, so in its order.
    values: BTreeMap<usize, Given<Value>>,
}

fn position(property: &Property) -> usize {
    TABLE.iter().position(|row| row == property).unwrap_or(TABLE.len())
}

impl Profile {
    pub(super) fn set(&mut self, property: &'static Property, value: Value, span: Option<Span>) {
        let keep = matches!(property.kind, Kind::Method(_)) || value != Value::unset(property);
        let position = position(property);
        if keep {
            self.values.insert(position, Given { value, span });
        } else {
            self.values.remove(&position);
        }
    }

    /// The value of a property, or what an unset one is.
    pub(super) fn value(&self, setting: &str, name: &str) -> Given<Value> {
        let Some(property) = property::named(setting, name) else { return Value::Text(String::new()).into() };
        let unset = || Value::unset(property).into();
        self.values.get(&position(property)).cloned().unwrap_or_else(unset)
    }

    /// All that is set, in the table's order.
    pub(super) fn properties(&self) -> impl Iterator<Item = (&'static Property, &Given<Value>)> {
        self.values.iter().filter_map(|(position, value)| Some((TABLE.get(*position)?, value)))
    }

    pub(super) fn text(&self, setting: &str, name: &str) -> Option<Given<String>> {
        let Given { value, span } = self.value(setting, name);
        match value {
            Value::Text(text) if !text.is_empty() => Some(Given { value: text, span }),
            _ => None,
        }
    }

    pub(super) fn number(&self, setting: &str, name: &str) -> Given<i64> {
        let Given { value, span } = self.value(setting, name);
        Given { value: if let Value::Number(number) = value { number } else { 0 }, span }
    }

    pub(super) fn flag(&self, setting: &str, name: &str) -> Given<bool> {
        let Given { value, span } = self.value(setting, name);
        Given { value: value == Value::Flag(true), span }
    }

    /// `connection.id`.
    pub fn id(&self) -> String {
        self.text("connection", "id").map_or_else(String::new, |id| id.value)
    }

    /// `connection.uuid`.
    pub fn uuid(&self) -> Option<String> {
        self.text("connection", "uuid").map(|uuid| uuid.value)
    }

    /// `connection.interface-name`.
    pub fn interface_name(&self) -> Option<String> {
        self.text("connection", "interface-name").map(|name| name.value)
    }

    /// `connection.autoconnect`; yes unless it says no.
    pub fn autoconnect(&self) -> bool {
        self.flag("connection", "autoconnect").value
    }

    /// The word of `ip-tunnel.mode`, where it is one.
    pub fn mode(&self) -> Option<&'static str> {
        mode_word(self.number("ip-tunnel", "mode").value)
    }

    /// Whether it is one of the four modes of GRE.
    pub fn is_gre(&self) -> bool {
        matches!(self.mode(), Some("gre" | "gretap" | "ip6gre" | "ip6gretap"))
    }

    /// Sets a property by its exact names to a value as nmcli takes it.
    ///
    /// # Errors
    /// nmcli's text, without `Error: `.
    pub fn assign(&mut self, setting: &str, name: &str, text: &str) -> Result<(), String> {
        let property = property::find(setting, name, true)?;
        self.put(property, text, &format!("{setting}.{name}"))
    }

    /// Sets a property; `shown` is what the user called it.
    pub(super) fn put(&mut self, property: &'static Property, text: &str, shown: &str) -> Result<(), String> {
        let value =
            Value::parse(property, text).map_err(|error| format!("failed to modify {shown}: {error}."))?;
        let sets = value != Value::unset(property);
        self.set(property, value, None);
        // A gateway is a default route, so these two take each other away (nmcli 1.42: the last one holds).
        let other = match property.name {
            "gateway" => "never-default",
            "never-default" => "gateway",
            _ => return Ok(()),
        };
        if let Some(other) = property::named(property.setting, other).filter(|_| sets) {
            self.set(other, Value::unset(other), None);
        }
        Ok(())
    }

    /// `+SETTING.PROPERTY`.
    pub(super) fn append(
        &mut self,
        property: &'static Property,
        text: &str,
        shown: &str,
    ) -> Result<(), String> {
        let more =
            Value::parse(property, text).map_err(|error| format!("failed to modify {shown}: {error}."))?;
        let Given { mut value, .. } = self.value(property.setting, property.name);
        value.append(more);
        self.set(property, value, None);
        Ok(())
    }

    /// `-SETTING.PROPERTY`.
    pub(super) fn take(
        &mut self,
        property: &'static Property,
        text: &str,
        shown: &str,
    ) -> Result<(), String> {
        let Given { mut value, .. } = self.value(property.setting, property.name);
        value
            .remove(property, text)
            .map_err(|error| format!("failed to remove a value from {shown}: {error}."))?;
        self.set(property, value, None);
        Ok(())
    }

    /// What NetworkManager itself would refuse to store (libnm 1.42, `nm_connection_verify`): its words, and
    /// where the value was written.
    pub(super) fn verify(&self) -> Result<(), (String, Option<Span>)> {
        self.verify_connection()?;
        self.verify_tunnel()?;
        self.verify_ip("ipv4")?;
        self.verify_ip("ipv6")
    }

    /// As `verify`, its words only: `ip-tunnel.remote: 'foo' is not a valid IPv4 address`.
    ///
    /// # Errors
    /// These words.
    pub fn verified(&self) -> Result<(), String> {
        self.verify().map_err(|(error, _)| error)
    }

    fn verify_connection(&self) -> Result<(), (String, Option<Span>)> {
        if let Some(uuid) = self.text("connection", "uuid")
            && !is_uuid(&uuid.value)
        {
            return Err((format!("connection.uuid: '{}' is not a valid UUID", uuid.value), uuid.span));
        }
        if let Some(name) = self.text("connection", "interface-name")
            && let Some(error) = interface_name_error(&name.value)
        {
            return Err((format!("connection.interface-name: '{}': {error}", name.value), name.span));
        }
        Ok(())
    }

    fn verify_tunnel(&self) -> Result<(), (String, Option<Span>)> {
        let mode = self.number("ip-tunnel", "mode");
        let Some(word) = mode_word(mode.value) else {
            return Err((format!("ip-tunnel.mode: '{}' is not a valid tunnel mode", mode.value), mode.span));
        };
        let ipv6 = matches!(word, "ip6ip6" | "ipip6" | "ip6gre" | "vti6" | "ip6gretap");
        let family = if ipv6 { 6 } else { 4 };
        for name in ["local", "remote"] {
            match self.text("ip-tunnel", name) {
                Some(end) if address(&end.value, ipv6).is_none() => {
                    let error =
                        format!("ip-tunnel.{name}: '{}' is not a valid IPv{family} address", end.value);
                    return Err((error, end.span));
                }
                None if name == "remote" => {
                    return Err(("ip-tunnel.remote: property is missing".to_owned(), None));
                }
                _ => {}
            }
        }
        for name in ["input-key", "output-key"] {
            let Some(key) = self.text("ip-tunnel", name) else { continue };
            if !matches!(word, "gre" | "gretap" | "ip6gre" | "ip6gretap" | "vti" | "vti6") {
                let error = "tunnel keys can only be specified for GRE and VTI tunnels";
                return Err((error.to_owned(), key.span));
            }
            if parse_key(&key.value).is_none() {
                return Err((
                    format!("ip-tunnel.{name}: '{}' is not a valid tunnel key", key.value),
                    key.span,
                ));
            }
        }
        let ttl = self.number("ip-tunnel", "ttl");
        if ttl.value != 0 && !self.flag("ip-tunnel", "path-mtu-discovery").value {
            let error = "ip-tunnel.ttl: a fixed TTL is allowed only when path MTU discovery is enabled";
            return Err((error.to_owned(), ttl.span));
        }
        if let Some(parent) = self.text("ip-tunnel", "parent")
            && interface_name_error(&parent.value).is_some()
            && !is_uuid(&parent.value)
        {
            let error =
                format!("ip-tunnel.parent: '{}' is neither an UUID nor an interface name", parent.value);
            return Err((error, parent.span));
        }
        let flags = self.number("ip-tunnel", "flags");
        // Since 1.48 the flags are for ip6gre and ip6gretap as well.
        if flags.value != 0 && !ipv6 {
            let words = flag_words(flags.value);
            return Err((
                format!("ip-tunnel.flags: some flags are invalid for the select mode: {words}"),
                flags.span,
            ));
        }
        let fwmark = self.number("ip-tunnel", "fwmark");
        if fwmark.value != 0 && !matches!(word, "vti" | "vti6") {
            return Err(("ip-tunnel.fwmark: can be set only on VTI tunnels".to_owned(), fwmark.span));
        }
        Ok(())
    }

    fn verify_ip(&self, setting: &str) -> Result<(), (String, Option<Span>)> {
        let method = self.value(setting, "method");
        let Value::Text(word) = &method.value else { return Ok(()) };
        if word.is_empty() {
            return Err((format!("{setting}.method: property is missing"), method.span));
        }
        let addresses = self.value(setting, "addresses");
        let none = addresses.value == Value::Addresses(Vec::new());
        let gateway = self.text(setting, "gateway");
        let refused = matches!(word.as_str(), "disabled" | "link-local") && setting == "ipv4"
            || matches!(word.as_str(), "disabled" | "link-local" | "ignore") && setting == "ipv6";
        if word == "manual" && none {
            let error = format!("{setting}.addresses: this property cannot be empty for 'method=manual'");
            return Err((error, method.span));
        }
        if refused && !none {
            let error = format!("{setting}.addresses: this property is not allowed for 'method={word}'");
            return Err((error, addresses.span));
        }
        match gateway {
            Some(gateway) if none => {
                let error =
                    format!("{setting}.gateway: gateway cannot be set if there are no addresses configured");
                Err((error, gateway.span))
            }
            _ => Ok(()),
        }
    }
}

/// A key as NetworkManager has it: decimal digits only.
pub(super) fn parse_key(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// 8-4-4-4-12 hexadecimal digits.
pub(super) fn is_uuid(text: &str) -> bool {
    let groups = text.split('-').collect::<Vec<_>>();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// What NetworkManager has against a name (libnm-core `nm_utils_ifname_valid`, 1.42).
fn interface_name_error(name: &str) -> Option<String> {
    let error = if name.len() > 15 {
        "interface name is longer than 15 characters".to_owned()
    } else if matches!(name, "." | "..") {
        "interface name is reserved".to_owned()
    } else if name.chars().any(|c| matches!(c, '/' | ':') || c.is_ascii_whitespace()) {
        "interface name contains an invalid character".to_owned()
    } else if name.contains('%') {
        "'%%' is not allowed in interface names".to_owned()
    } else if matches!(name, "all" | "default" | "bonding_masters") {
        format!("'{name}' is not allowed as interface name")
    } else {
        return None;
    };
    Some(error)
}
