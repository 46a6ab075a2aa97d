//! Which settings and properties a profile of type ip-tunnel can have, and what becomes of each here.
//!
//! The table is what `nmcli` 1.42.4 allows for the type, in its own order (that order is also the one in
//! which `nmcli connection show` lists them). A property that is not honoured here is in it too, so that it
//! can be named when it is refused.

/// What a property's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any text.
    Text,
    /// 0 to `most`.
    Number { most: i64 },
    /// -1 (unset) to 4294967295.
    Metric,
    /// Yes or no.
    Flag,
    /// `ip-tunnel.mode`.
    Mode,
    /// `ip-tunnel.flags`.
    Flags,
    /// One of these words.
    Method(&'static [&'static str]),
    /// A list of addresses with prefix lengths.
    Addresses,
    /// A list of routes.
    Routes,
    /// One address.
    Gateway,
    /// Known by name only; the value is kept as it was written.
    Opaque,
    /// The program's own, not to be set.
    ReadOnly,
}

/// What becomes of a property that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It shapes the tunnel.
    Honoured,
    /// It changes nothing for a tunnel here.
    Inert,
    /// It would change something, and cannot be done.
    Refused,
}

/// One property of one setting.
#[derive(Debug, PartialEq, Eq)]
pub struct Property {
    /// The setting: `connection`, `ip-tunnel`, `ipv4`, `ipv6` …
    pub setting: &'static str,
    /// The property: `remote`.
    pub name: &'static str,
    pub(super) kind: Kind,
    pub(super) becomes: Use,
    /// What `nmcli connection show` prints when it is not set.
    pub(super) default: &'static str,
}

impl Property {
    /// `ip-tunnel.remote`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.setting, self.name)
    }

    /// Whether addresses in it are IPv6.
    pub(super) fn is_ipv6(&self) -> bool {
        self.setting == "ipv6"
    }
}

const fn row(
    setting: &'static str,
    name: &'static str,
    kind: Kind,
    becomes: Use,
    default: &'static str,
) -> Property {
    Property { setting, name, kind, becomes, default }
}

use Kind::{Addresses, Flag, Flags, Gateway, Method, Metric, Mode, Number, Opaque, ReadOnly, Routes, Text};
use Use::{Honoured, Inert, Refused};

const U32: Kind = Number { most: 4_294_967_295 };
const V4_METHODS: &[&str] = &["auto", "link-local", "manual", "shared", "disabled"];
const V6_METHODS: &[&str] = &["ignore", "auto", "dhcp", "link-local", "manual", "shared", "disabled"];

/// All of them, setting by setting.
pub(super) static TABLE: &[Property] = &[
    row("connection", "id", Text, Honoured, "--"),
    row("connection", "uuid", Text, Honoured, "--"),
    row("connection", "stable-id", Opaque, Inert, "--"),
    row("connection", "type", ReadOnly, Honoured, "ip-tunnel"),
    row("connection", "interface-name", Text, Honoured, "--"),
    row("connection", "autoconnect", Flag, Honoured, "yes"),
    row("connection", "autoconnect-priority", Opaque, Inert, "0"),
    row("connection", "autoconnect-retries", Opaque, Inert, "-1 (default)"),
    row("connection", "multi-connect", Opaque, Inert, "0 (default)"),
    row("connection", "auth-retries", Opaque, Inert, "-1"),
    row("connection", "timestamp", Opaque, Inert, "0"),
    row("connection", "read-only", Opaque, Inert, "no"),
    row("connection", "permissions", Opaque, Inert, "--"),
    row("connection", "zone", Opaque, Refused, "--"),
    row("connection", "master", Opaque, Refused, "--"),
    row("connection", "slave-type", Opaque, Refused, "--"),
    row("connection", "autoconnect-slaves", Opaque, Inert, "-1 (default)"),
    row("connection", "secondaries", Opaque, Refused, "--"),
    row("connection", "gateway-ping-timeout", Opaque, Inert, "0"),
    row("connection", "metered", Opaque, Inert, "unknown"),
    row("connection", "lldp", Opaque, Inert, "default"),
    row("connection", "mdns", Opaque, Refused, "-1 (default)"),
    row("connection", "llmnr", Opaque, Refused, "-1 (default)"),
    row("connection", "dns-over-tls", Opaque, Refused, "-1 (default)"),
    row("connection", "mptcp-flags", Opaque, Refused, "0x0 (default)"),
    row("connection", "mud-url", Opaque, Inert, ""),
    row("connection", "wait-device-timeout", Opaque, Inert, "-1"),
    row("connection", "wait-activation-delay", Opaque, Inert, "-1"),
    row("802-3-ethernet", "port", Opaque, Refused, "--"),
    row("802-3-ethernet", "speed", Opaque, Refused, "0"),
    row("802-3-ethernet", "duplex", Opaque, Refused, "--"),
    row("802-3-ethernet", "auto-negotiate", Opaque, Refused, "no"),
    row("802-3-ethernet", "mac-address", Opaque, Refused, "--"),
    row("802-3-ethernet", "cloned-mac-address", Opaque, Refused, "--"),
    row("802-3-ethernet", "generate-mac-address-mask", Opaque, Refused, "--"),
    row("802-3-ethernet", "mac-address-blacklist", Opaque, Refused, "--"),
    row("802-3-ethernet", "mtu", Opaque, Refused, "auto"),
    row("802-3-ethernet", "s390-subchannels", Opaque, Refused, "--"),
    row("802-3-ethernet", "s390-nettype", Opaque, Refused, "--"),
    row("802-3-ethernet", "s390-options", Opaque, Refused, "--"),
    row("802-3-ethernet", "wake-on-lan", Opaque, Refused, "default"),
    row("802-3-ethernet", "wake-on-lan-password", Opaque, Refused, "--"),
    row("802-3-ethernet", "accept-all-mac-addresses", Opaque, Refused, "-1 (default)"),
    row("match", "interface-name", Opaque, Refused, "--"),
    row("match", "kernel-command-line", Opaque, Refused, "--"),
    row("match", "driver", Opaque, Refused, "--"),
    row("match", "path", Opaque, Refused, "--"),
    row("ipv4", "method", Method(V4_METHODS), Honoured, "auto"),
    row("ipv4", "dns", Opaque, Refused, "--"),
    row("ipv4", "dns-search", Opaque, Refused, "--"),
    row("ipv4", "dns-options", Opaque, Refused, "--"),
    row("ipv4", "dns-priority", Opaque, Inert, "0"),
    row("ipv4", "addresses", Addresses, Honoured, "--"),
    row("ipv4", "gateway", Gateway, Honoured, "--"),
    row("ipv4", "routes", Routes, Honoured, "--"),
    row("ipv4", "route-metric", Metric, Honoured, "-1"),
    row("ipv4", "route-table", Opaque, Refused, "0 (unspec)"),
    row("ipv4", "routing-rules", Opaque, Refused, "--"),
    row("ipv4", "replace-local-rule", Opaque, Refused, "-1 (default)"),
    row("ipv4", "ignore-auto-routes", Flag, Inert, "no"),
    row("ipv4", "ignore-auto-dns", Flag, Inert, "no"),
    row("ipv4", "dhcp-client-id", Opaque, Inert, "--"),
    row("ipv4", "dhcp-iaid", Opaque, Inert, "--"),
    row("ipv4", "dhcp-timeout", Opaque, Inert, "0 (default)"),
    row("ipv4", "dhcp-send-hostname", Flag, Inert, "yes"),
    row("ipv4", "dhcp-hostname", Opaque, Inert, "--"),
    row("ipv4", "dhcp-fqdn", Opaque, Inert, "--"),
    row("ipv4", "dhcp-hostname-flags", Opaque, Inert, "0x0 (none)"),
    row("ipv4", "never-default", Flag, Honoured, "no"),
    row("ipv4", "may-fail", Flag, Inert, "yes"),
    row("ipv4", "required-timeout", Opaque, Inert, "-1 (default)"),
    row("ipv4", "dad-timeout", Opaque, Inert, "-1 (default)"),
    row("ipv4", "dhcp-vendor-class-identifier", Opaque, Inert, "--"),
    row("ipv4", "link-local", Opaque, Refused, "0 (default)"),
    row("ipv4", "dhcp-reject-servers", Opaque, Inert, "--"),
    row("ipv4", "auto-route-ext-gw", Opaque, Inert, "-1 (default)"),
    row("ipv6", "method", Method(V6_METHODS), Honoured, "auto"),
    row("ipv6", "dns", Opaque, Refused, "--"),
    row("ipv6", "dns-search", Opaque, Refused, "--"),
    row("ipv6", "dns-options", Opaque, Refused, "--"),
    row("ipv6", "dns-priority", Opaque, Inert, "0"),
    row("ipv6", "addresses", Addresses, Honoured, "--"),
    row("ipv6", "gateway", Gateway, Honoured, "--"),
    row("ipv6", "routes", Routes, Honoured, "--"),
    row("ipv6", "route-metric", Metric, Honoured, "-1"),
    row("ipv6", "route-table", Opaque, Refused, "0 (unspec)"),
    row("ipv6", "routing-rules", Opaque, Refused, "--"),
    row("ipv6", "replace-local-rule", Opaque, Refused, "-1 (default)"),
    row("ipv6", "ignore-auto-routes", Flag, Inert, "no"),
    row("ipv6", "ignore-auto-dns", Flag, Inert, "no"),
    row("ipv6", "never-default", Flag, Honoured, "no"),
    row("ipv6", "may-fail", Flag, Inert, "yes"),
    row("ipv6", "required-timeout", Opaque, Inert, "-1 (default)"),
    row("ipv6", "ip6-privacy", Opaque, Inert, "-1 (unknown)"),
    row("ipv6", "addr-gen-mode", Opaque, Inert, "default"),
    row("ipv6", "ra-timeout", Opaque, Inert, "0 (default)"),
    row("ipv6", "mtu", U32, Honoured, "auto"),
    row("ipv6", "dhcp-duid", Opaque, Inert, "--"),
    row("ipv6", "dhcp-iaid", Opaque, Inert, "--"),
    row("ipv6", "dhcp-timeout", Opaque, Inert, "0 (default)"),
    row("ipv6", "dhcp-send-hostname", Flag, Inert, "yes"),
    row("ipv6", "dhcp-hostname", Opaque, Inert, "--"),
    row("ipv6", "dhcp-hostname-flags", Opaque, Inert, "0x0 (none)"),
    row("ipv6", "auto-route-ext-gw", Opaque, Inert, "-1 (default)"),
    row("ipv6", "token", Opaque, Refused, "--"),
    row("hostname", "priority", Opaque, Inert, "0"),
    row("hostname", "from-dhcp", Opaque, Inert, "-1 (default)"),
    row("hostname", "from-dns-lookup", Opaque, Inert, "-1 (default)"),
    row("hostname", "only-from-default", Opaque, Inert, "-1 (default)"),
    row("ip-tunnel", "mode", Mode, Honoured, "0"),
    row("ip-tunnel", "parent", Text, Honoured, "--"),
    row("ip-tunnel", "local", Text, Honoured, "--"),
    row("ip-tunnel", "remote", Text, Honoured, "--"),
    row("ip-tunnel", "ttl", Number { most: 255 }, Honoured, "0"),
    row("ip-tunnel", "tos", Number { most: 255 }, Honoured, "0"),
    row("ip-tunnel", "path-mtu-discovery", Flag, Honoured, "yes"),
    row("ip-tunnel", "input-key", Text, Honoured, "--"),
    row("ip-tunnel", "output-key", Text, Honoured, "--"),
    row("ip-tunnel", "encapsulation-limit", Number { most: 255 }, Honoured, "0"),
    row("ip-tunnel", "flow-label", Number { most: 1_048_575 }, Honoured, "0"),
    row("ip-tunnel", "fwmark", U32, Honoured, "0x0"),
    row("ip-tunnel", "mtu", U32, Honoured, "0"),
    row("ip-tunnel", "flags", Flags, Honoured, "0x0 (none)"),
    row("tc", "qdiscs", Opaque, Refused, "--"),
    row("tc", "tfilters", Opaque, Refused, "--"),
    row("proxy", "method", Opaque, Inert, "none"),
    row("proxy", "browser-only", Flag, Inert, "no"),
    row("proxy", "pac-url", Opaque, Inert, "--"),
    row("proxy", "pac-script", Opaque, Inert, "--"),
];

/// The settings that a profile of type ip-tunnel may have, in the order of nmcli's error text, with the
/// other name of the one that has two.
const SETTINGS: [(&str, Option<&str>); 10] = [
    ("connection", None),
    ("ip-tunnel", None),
    ("802-3-ethernet", Some("ethernet")),
    ("ethtool", None),
    ("match", None),
    ("ipv4", None),
    ("ipv6", None),
    ("hostname", None),
    ("tc", None),
    ("proxy", None),
];

/// The property of that exact name.
pub(super) fn named(setting: &str, name: &str) -> Option<&'static Property> {
    TABLE.iter().find(|property| property.setting == setting && property.name == name)
}

/// `'x' not among […]` or `'x' is ambiguous: …` (libnmc-base nm-client-utils.c `nmc_string_is_valid`, 1.42).
pub(super) fn choose<'w>(word: &str, words: &[(&'w str, Option<&'w str>)]) -> Result<&'w str, String> {
    let lower = word.to_ascii_lowercase();
    let is = |name: &str| name.eq_ignore_ascii_case(word);
    let starts = |name: &str| !word.is_empty() && name.to_ascii_lowercase().starts_with(&lower);
    if let Some((name, _)) = words.iter().find(|(name, alias)| is(name) || alias.is_some_and(is)) {
        return Ok(name);
    }
    let near = words.iter().filter(|(name, alias)| starts(name) || alias.is_some_and(starts));
    let near = near.map(|(name, _)| *name).collect::<Vec<_>>();
    match near.as_slice() {
        [only] => Ok(only),
        [] => {
            let listed = words.iter().map(|(name, alias)| match alias {
                Some(alias) => format!("{name} ({alias})"),
                None => (*name).to_owned(),
            });
            Err(format!("'{word}' not among [{}]", listed.collect::<Vec<_>>().join(", ")))
        }
        several => Err(format!("'{word}' is ambiguous: {}", several.join(", "))),
    }
}

/// Finds `SETTING.PROPERTY` where both halves may be abbreviated. `typed`: the type ip-tunnel was named
/// already, which allows its settings. The error is nmcli's text after `Error: `.
pub(super) fn find(setting: &str, name: &str, typed: bool) -> Result<&'static Property, String> {
    let allowed = SETTINGS
        .into_iter()
        .filter(|(name, _)| typed || !matches!(*name, "ip-tunnel" | "802-3-ethernet" | "ethtool"))
        .collect::<Vec<_>>();
    let setting = choose(setting, &allowed)
        .map_err(|error| format!("invalid or not allowed setting '{setting}': {error}."))?;
    let words =
        TABLE.iter().filter(|property| property.setting == setting).map(|property| (property.name, None));
    let words = words.collect::<Vec<_>>();
    let found = choose(name, &words).map_err(|error| format!("invalid property '{name}': {error}."))?;
    // A name out of the table is in the table.
    named(setting, found).ok_or_else(|| format!("invalid property '{name}'."))
}
