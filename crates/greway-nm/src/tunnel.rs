//! A tunnel as the properties of NetworkManager's ip-tunnel setting, by name and as text: `remote` is
//! `100.0.2.100`, `mode` is `2`. In this form it stands in the `[user]` items `greway.…` of a profile that greway
//! adopted, and in the environment of a device handler.
//!
//! What the setting has no word for – checksums, sequence numbers, `ignore-df` – has greway's own, so that a
//! profile made by `greway nm add` can be any tunnel.

use std::collections::BTreeMap;
use std::net::IpAddr;

use greway_spec::{DeviceName, Draft, FirewallPolicy, Mode, Tos, Ttl, TunnelSpec, UnderlayChoice};

/// Properties of a tunnel by name.
pub type Properties = BTreeMap<String, String>;

/// A property that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    /// There is no such property, or none that this version knows.
    #[error("{name}: no property of an ip-tunnel profile that greway knows")]
    Unknown {
        /// Which.
        name: String,
    },
    /// The value is not one.
    #[error("{name} is \"{value}\"; {wanted} is right")]
    Value {
        /// Of which property.
        name: String,
        /// What it is.
        value: String,
        /// What it could be.
        wanted: &'static str,
    },
    /// The tunnel is of a kind that is no GRE.
    #[error("mode {number} ({word}) is no GRE tunnel")]
    NotGre {
        /// Its number.
        number: u32,
        /// Its word.
        word: &'static str,
    },
    /// The parent is named by its profile.
    #[error("parent {0} is the uuid of a profile; greway needs the name of a device")]
    ParentByUuid(String),
}

/// The modes of NetworkManager's ip-tunnel setting (libnm-core-public/nm-setting-ip-tunnel.h), from 1 on.
const MODES: [&str; 11] =
    ["ipip", "gre", "sit", "isatap", "vti", "ip6ip6", "ipip6", "ip6gre", "vti6", "gretap", "ip6gretap"];

/// The kinds among them that are GRE.
const GRE: [(u32, Mode); 4] = [(2, Mode::Gre), (8, Mode::Ip6Gre), (10, Mode::Gretap), (11, Mode::Ip6Gretap)];

/// The GRE kind of a mode's number.
pub(crate) fn gre_mode(number: u32) -> Option<Mode> {
    GRE.iter().find(|(known, _)| *known == number).map(|(_, mode)| *mode)
}

/// Reads a tunnel from its properties. What is not there has NetworkManager's default.
///
/// # Errors
/// The first property that is unknown or wrong, by name; a mode that is no GRE.
pub fn draft(name: &DeviceName, properties: &Properties) -> Result<Draft, PropertyError> {
    let mut draft = Draft { name: Some(name.clone().into()), ..Draft::default() };
    for (property, value) in properties {
        read(&mut draft, property, value)?;
    }
    if draft.mode.as_ref().is_some_and(|mode| mode.value.over_ipv6()) {
        // NetworkManager's default is none, where iproute2's is 4.
        draft.encaplimit.get_or_insert_with(|| None.into());
    } else {
        // NetworkManager keeps these on an IPv4 tunnel, where they mean nothing.
        draft.encaplimit = None;
        draft.flowlabel = None;
    }
    Ok(draft)
}

fn read(draft: &mut Draft, name: &str, value: &str) -> Result<(), PropertyError> {
    let wrong = |wanted| PropertyError::Value { name: name.to_owned(), value: value.to_owned(), wanted };
    let number = |most: u32, wanted| match value.parse::<u32>() {
        Ok(number) if number <= most => Ok(number),
        _ => Err(wrong(wanted)),
    };
    let flag = || match value {
        "yes" | "true" | "1" => Ok(true),
        "no" | "false" | "0" => Ok(false),
        _ => Err(wrong("yes or no")),
    };
    let address = || value.parse::<IpAddr>().ok().ok_or_else(|| wrong("an address"));
    let key = || match value.parse::<u32>() {
        Ok(key) => Ok(Some(key)),
        Err(_) if value.is_empty() => Ok(None),
        Err(_) => Err(wrong("a decimal number up to 4294967295")),
    };
    match name {
        "mode" => draft.mode = Some(mode(value, wrong)?.into()),
        "remote" => draft.remote = Some(address()?.into()),
        "local" if value.is_empty() => {}
        "local" => draft.local = Some(address()?.into()),
        "parent" if value.is_empty() => {}
        "parent" => match value.parse::<DeviceName>() {
            Ok(device) => draft.dev = Some(Some(device).into()),
            Err(_) if is_uuid(value) => return Err(PropertyError::ParentByUuid(value.to_owned())),
            Err(_) => return Err(wrong("the name of a device")),
        },
        "ttl" => {
            // 0 to 255: no more fits the field.
            let hops = u8::try_from(number(255, "0 (inherit) to 255")?).unwrap_or_default();
            draft.ttl = Some(Ttl::from(hops).into());
        }
        "tos" => {
            // As in the kernel, bit 0 is `inherit` (linux net/ipv4/ip_tunnel.c).
            let tos = u8::try_from(number(255, "0 to 255")?).unwrap_or_default();
            draft.tos = Some(Tos { inherit: tos & 1 != 0, value: tos & !1 }.into());
        }
        "path-mtu-discovery" => draft.pmtudisc = Some(flag()?.into()),
        "input-key" => draft.ikey = Some(key()?.into()),
        "output-key" => draft.okey = Some(key()?.into()),
        "mtu" => {
            let mtu = number(u32::MAX, "a number of bytes, 0 for that of the route")?;
            draft.mtu = Some(Some(mtu).filter(|mtu| *mtu != 0).into());
        }
        "encapsulation-limit" => {
            let limit = number(255, "0 to 255")?;
            draft.encaplimit = Some(u8::try_from(limit).ok().filter(|limit| *limit != 0).into());
        }
        "flow-label" => {
            let label = number(0xf_ffff, "0 to 1048575")?;
            draft.flowlabel = Some(greway_spec::FlowLabel::Fixed(label).into());
        }
        "fwmark" => draft.fwmark = Some(number(u32::MAX, "0 to 4294967295")?.into()),
        "flags" => match number(63, "0 to 63")? {
            0 => {}
            _ => return Err(wrong("0, since this version honours none of them,")),
        },
        "icsum" => draft.icsum = Some(flag()?.into()),
        "ocsum" => draft.ocsum = Some(flag()?.into()),
        "iseq" => draft.iseq = Some(flag()?.into()),
        "oseq" => draft.oseq = Some(flag()?.into()),
        "ignore-df" => draft.ignore_df = Some(flag()?.into()),
        "underlay" => {
            let choice = UnderlayChoice::parse(value).ok_or_else(|| wrong("auto, packet or raw"))?;
            draft.underlay = Some(choice.into());
        }
        "firewall" => {
            let policy = FirewallPolicy::parse(value).ok_or_else(|| wrong("honour or bypass"))?;
            draft.firewall = Some(policy.into());
        }
        _ => return Err(PropertyError::Unknown { name: name.to_owned() }),
    }
    Ok(())
}

fn mode(value: &str, wrong: impl Fn(&'static str) -> PropertyError) -> Result<Mode, PropertyError> {
    let wanted = "2 (gre), 8 (ip6gre), 10 (gretap) or 11 (ip6gretap)";
    let word = |number: u32| MODES.get(usize::try_from(number).ok()?.checked_sub(1)?).copied();
    let number = match value.parse::<u32>() {
        Ok(number) => Some(number),
        Err(_) => (1..).zip(MODES).find(|(_, word)| *word == value).map(|(number, _)| number),
    };
    let number = number.ok_or_else(|| wrong(wanted))?;
    match (gre_mode(number), word(number)) {
        (Some(mode), _) => Ok(mode),
        (None, Some(word)) => Err(PropertyError::NotGre { number, word }),
        (None, None) => Err(wrong(wanted)),
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// The properties of a tunnel, those with NetworkManager's default left out.
///
/// # Errors
/// [`PropertyError::Value`] for a mode that NetworkManager has no number for.
pub fn emit(spec: &TunnelSpec) -> Result<Properties, PropertyError> {
    let number = GRE.iter().find(|(_, mode)| *mode == spec.mode).map(|(number, _)| *number);
    let number = number.ok_or_else(|| PropertyError::Value {
        name: "mode".to_owned(),
        value: spec.mode.to_string(),
        wanted: "gre, ip6gre, gretap or ip6gretap",
    })?;
    let mut properties = Properties::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            properties.insert(name.to_owned(), value);
        }
    };
    let yes = |flag: bool| flag.then(|| "yes".to_owned());
    let other = |value: u32| Some(value).filter(|value| *value != 0).map(|value| value.to_string());
    put("mode", Some(number.to_string()));
    put("remote", spec.remote.map(|remote| remote.to_string()));
    put("local", spec.local.map(|local| local.to_string()));
    put("parent", spec.dev.as_ref().map(ToString::to_string));
    put(
        "ttl",
        match spec.ttl {
            Ttl::Inherit => None,
            Ttl::Fixed(hops) => Some(hops.to_string()),
        },
    );
    put("tos", other(u32::from(spec.tos.value | u8::from(spec.tos.inherit))));
    put("path-mtu-discovery", (!spec.pmtudisc).then(|| "no".to_owned()));
    put("input-key", spec.ikey.map(|key| key.to_string()));
    put("output-key", spec.okey.map(|key| key.to_string()));
    put("mtu", spec.mtu.map(|mtu| mtu.to_string()));
    put("fwmark", other(spec.fwmark));
    for (name, flag) in [
        ("icsum", spec.icsum),
        ("ocsum", spec.ocsum),
        ("iseq", spec.iseq),
        ("oseq", spec.oseq),
        ("ignore-df", spec.ignore_df),
    ] {
        put(name, yes(flag));
    }
    put("underlay", (spec.underlay != UnderlayChoice::Auto).then(|| spec.underlay.to_string()));
    put("firewall", (spec.firewall != FirewallPolicy::Honour).then(|| spec.firewall.to_string()));
    Ok(properties)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(items: &[(&str, &str)]) -> Properties {
        items.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn name() -> DeviceName {
        "tun0".parse().unwrap()
    }

    fn spec(items: &[(&str, &str)]) -> TunnelSpec {
        let mut all = properties(&[("mode", "2"), ("remote", "100.0.2.100"), ("local", "100.0.1.100")]);
        all.extend(properties(items));
        draft(&name(), &all).unwrap().into_spec().unwrap()
    }

    #[test]
    fn the_guides_profile() {
        let spec = spec(&[]);
        assert_eq!(spec.mode, Mode::Gre);
        assert_eq!(spec.remote, Some("100.0.2.100".parse().unwrap()));
        assert!(spec.pmtudisc && spec.ttl == Ttl::Inherit && spec.ikey.is_none());
    }

    #[test]
    fn every_property_has_its_meaning() {
        let spec = spec(&[
            ("ttl", "64"),
            ("tos", "17"),
            ("input-key", "42"),
            ("output-key", "43"),
            ("parent", "eth0"),
            ("mtu", "1400"),
            ("flow-label", "5"),
            ("encapsulation-limit", "0"),
        ]);
        assert_eq!(
            (spec.ttl, spec.ikey, spec.okey, spec.mtu),
            (Ttl::Fixed(64), Some(42), Some(43), Some(1400))
        );
        assert_eq!(spec.tos, Tos { inherit: true, value: 16 });
        assert_eq!(spec.dev, Some("eth0".parse().unwrap()));
    }

    #[test]
    fn properties_come_back_as_they_went() {
        let spec = spec(&[
            ("ttl", "64"),
            ("tos", "16"),
            ("input-key", "0"),
            ("ocsum", "yes"),
            ("oseq", "yes"),
            ("underlay", "raw"),
            ("firewall", "bypass"),
        ]);
        let again = draft(&name(), &emit(&spec).unwrap()).unwrap().into_spec().unwrap();
        assert_eq!(again, spec);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |property: &str, value: &str| {
            draft(&name(), &properties(&[(property, value)])).unwrap_err().to_string()
        };
        assert_eq!(wrong("mode", "1"), "mode 1 (ipip) is no GRE tunnel");
        assert_eq!(
            wrong("mode", "99"),
            "mode is \"99\"; 2 (gre), 8 (ip6gre), 10 (gretap) or 11 (ip6gretap) is right"
        );
        assert_eq!(wrong("ttl", "300"), "ttl is \"300\"; 0 (inherit) to 255 is right");
        assert_eq!(wrong("remote", "host"), "remote is \"host\"; an address is right");
        assert_eq!(wrong("colour", "red"), "colour: no property of an ip-tunnel profile that greway knows");
        let uuid = "59ea84ef-846f-4e3a-ab55-621b7a2e31c2";
        assert!(wrong("parent", uuid).contains("is the uuid of a profile"));
    }
}
