//! A profile: what of it greway looks at, and the changes that greway makes to it.
//!
//! Adoption changes `connection.type`, takes the `[ip-tunnel]` setting out and keeps each property of it as an
//! item `greway.…` of `[user]`, so that the profile itself holds all that its restoration needs. Nothing
//! else is touched. A profile with a property that could not be kept so is not adopted.

use std::collections::BTreeMap;

use zbus::wire::{OwnedVariant, Variant};

use crate::tunnel::{Properties, PropertyError};

/// The item of `[user]` that names the type a profile had before it was adopted.
pub const ADOPTED_FROM: &str = "greway.adopted-from";

/// The item of `[user]` that holds a profile's own policy.
pub const POLICY: &str = "greway.policy";

/// Set where the profile had an `[802-3-ethernet]` setting before, which stays then.
const HAD_ETHERNET: &str = "greway.had-ethernet";

/// What items of `[user]` that are ours begin with.
const PREFIX: &str = "greway.";

const ETHERNET: &str = "802-3-ethernet";

/// The settings of a profile by name, each a list of properties by name.
pub(crate) type Settings = BTreeMap<String, BTreeMap<String, OwnedVariant>>;

/// How NetworkManager brings an adopted profile's device up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `type generic` with a device handler, from 1.46 on: it asks us to make the device.
    Handler,
    /// `type veth`: it makes the pair itself, and greway takes the pair over.
    Pair,
}

impl Way {
    /// The type of such a profile.
    pub fn word(self) -> &'static str {
        match self {
            Self::Handler => "generic",
            Self::Pair => "veth",
        }
    }
}

/// What a profile's tunnel is held in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// In NetworkManager's own `[ip-tunnel]`: only a kernel with GRE brings it up.
    IpTunnel,
    /// In `[user]`; the device is made so.
    Adopted(Way),
}

/// A profile of NetworkManager.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Where it is on the bus.
    pub path: String,
    pub(crate) settings: Settings,
}

impl Profile {
    /// Its name.
    pub fn id(&self) -> &str {
        self.text("connection", "id").unwrap_or_default()
    }

    /// What it is known by.
    pub fn uuid(&self) -> &str {
        self.text("connection", "uuid").unwrap_or_default()
    }

    /// Its type.
    pub fn kind(&self) -> &str {
        self.text("connection", "type").unwrap_or_default()
    }

    /// The device it is for.
    pub fn interface(&self) -> Option<&str> {
        self.text("connection", "interface-name").filter(|name| !name.is_empty())
    }

    /// Whether NetworkManager brings it up by itself.
    pub fn autoconnect(&self) -> bool {
        self.value("connection", "autoconnect").and_then(|value| bool::try_from(value).ok()).unwrap_or(true)
    }

    /// What holds its tunnel; `None` for a profile that is none of ours to look at.
    pub fn held(&self) -> Option<Held> {
        let is_ours = self.user().contains_key("greway.remote");
        match self.kind() {
            "ip-tunnel" => Some(Held::IpTunnel),
            "generic" if self.text("generic", "device-handler") == Some("greway") => {
                Some(Held::Adopted(Way::Handler))
            }
            "veth" if is_ours => Some(Held::Adopted(Way::Pair)),
            _ => None,
        }
    }

    /// Whether its tunnel is of a GRE kind; others are not greway's business.
    pub fn is_gre(&self) -> bool {
        match self.held() {
            Some(Held::Adopted(_)) => true,
            Some(Held::IpTunnel) => {
                let number = self.value("ip-tunnel", "mode").and_then(|value| u32::try_from(value).ok());
                number.is_some_and(|number| crate::tunnel::gre_mode(number).is_some())
            }
            None => false,
        }
    }

    /// Whether it was an ip-tunnel profile once.
    pub fn was_adopted(&self) -> bool {
        self.user().contains_key(ADOPTED_FROM)
    }

    /// The items of `[user]`.
    pub fn user(&self) -> BTreeMap<String, String> {
        let data = self.value("user", "data").and_then(|value| value.try_clone().ok());
        data.and_then(|data| BTreeMap::try_from(data).ok()).unwrap_or_default()
    }

    /// The properties of its tunnel.
    ///
    /// # Errors
    /// [`PropertyError::Unknown`] for a property of `[ip-tunnel]` that could not be kept as text.
    pub fn properties(&self) -> Result<Properties, PropertyError> {
        if self.held() != Some(Held::IpTunnel) {
            let ours = self.user().into_iter().filter_map(|(name, value)| {
                let name = name.strip_prefix(PREFIX)?.to_owned();
                (!is_bookkeeping(&name)).then_some((name, value))
            });
            return Ok(ours.collect());
        }
        let setting = self.settings.get("ip-tunnel").into_iter().flatten();
        let texts = setting.map(|(name, value)| match (type_of(name), value_text(value)) {
            (Some(_), Some(text)) => Ok((name.clone(), text)),
            _ => Err(PropertyError::Unknown { name: name.clone() }),
        });
        texts.collect()
    }

    /// The addresses of `[ipv4]` as `172.16.0.1/30`, for a device that NetworkManager does not configure.
    pub fn addresses(&self, setting: &str) -> Vec<(String, u32)> {
        let read = |item: &BTreeMap<String, OwnedVariant>| {
            let address = <&str>::try_from(&**item.get("address")?).ok()?.to_owned();
            Some((address, u32::try_from(&**item.get("prefix")?).ok()?))
        };
        self.list(setting, "address-data").iter().filter_map(read).collect()
    }

    /// The routes of a setting: destination, prefix length, next hop, metric.
    pub fn routes(&self, setting: &str) -> Vec<(String, u32, Option<String>, Option<u32>)> {
        let read = |item: &BTreeMap<String, OwnedVariant>| {
            let text = |name: &str| Some(<&str>::try_from(&**item.get(name)?).ok()?.to_owned());
            let number = |name: &str| u32::try_from(&**item.get(name)?).ok();
            Some((text("dest")?, number("prefix")?, text("next-hop"), number("metric")))
        };
        self.list(setting, "route-data").iter().filter_map(read).collect()
    }

    /// Makes it a profile that NetworkManager can bring up; `peer` is the name of the data plane's end.
    ///
    /// # Errors
    /// As [`Profile::properties`]; the profile is as it was then.
    pub fn adopt(&mut self, way: Way, peer: &str) -> Result<(), PropertyError> {
        let mut user = self.user();
        for (name, value) in self.properties()? {
            user.insert(format!("{PREFIX}{name}"), value);
        }
        user.insert(ADOPTED_FROM.to_owned(), self.kind().to_owned());
        if self.settings.contains_key(ETHERNET) {
            user.insert(HAD_ETHERNET.to_owned(), "yes".to_owned());
        }
        self.settings.remove("ip-tunnel");
        self.set("connection", "type", way.word().into());
        match way {
            Way::Handler => self.set("generic", "device-handler", "greway".into()),
            Way::Pair => self.set("veth", "peer", peer.into()),
        }
        self.set_user(user);
        Ok(())
    }

    /// Makes it again what it was before [`Profile::adopt`].
    ///
    /// # Errors
    /// An item `greway.…` that is no property of an ip-tunnel profile, or has no value that it could have; the
    /// profile is as it was then.
    pub fn restore(&mut self) -> Result<(), PropertyError> {
        let mut setting = BTreeMap::new();
        for (name, value) in self.properties()? {
            let variant = variant_of(&name, &value)?;
            setting.insert(name, variant);
        }
        let mut user = self.user();
        let had_ethernet = user.contains_key(HAD_ETHERNET);
        user.retain(|name, _| !name.starts_with(PREFIX) || name == POLICY);
        self.settings.remove("generic");
        self.settings.remove("veth");
        if !had_ethernet {
            // NetworkManager adds an empty one to every veth profile.
            self.settings.remove(ETHERNET);
        }
        self.settings.insert("ip-tunnel".to_owned(), setting);
        self.set("connection", "type", "ip-tunnel".into());
        self.set_user(user);
        Ok(())
    }

    /// Puts an item into `[user]`, or takes it out.
    pub fn set_item(&mut self, name: &str, value: Option<&str>) {
        let mut user = self.user();
        match value {
            Some(value) => user.insert(name.to_owned(), value.to_owned()),
            None => user.remove(name),
        };
        self.set_user(user);
    }

    /// A profile of a device that greway makes, as `greway nm add` writes it. NetworkManager gives it its uuid.
    pub fn native(id: &str, interface: &str, properties: &Properties, way: Way, peer: &str) -> Self {
        let mut profile = Self { path: String::new(), settings: Settings::new() };
        profile.set("connection", "id", id.into());
        profile.set("connection", "interface-name", interface.into());
        profile.set("connection", "type", way.word().into());
        match way {
            Way::Handler => profile.set("generic", "device-handler", "greway".into()),
            Way::Pair => profile.set("veth", "peer", peer.into()),
        }
        let items = properties.iter().map(|(name, value)| (format!("{PREFIX}{name}"), value.clone()));
        profile.set_user(items.collect());
        profile
    }

    /// Gives it addresses of its own, `172.16.0.1/30` each; none: the method is `disabled`.
    pub fn set_addresses(&mut self, setting: &str, addresses: &[(String, u32)]) {
        let method = if addresses.is_empty() { "disabled" } else { "manual" };
        self.set(setting, "method", method.into());
        if !addresses.is_empty() {
            let item = |(address, prefix): &(String, u32)| {
                BTreeMap::from([
                    ("address".to_owned(), Variant::from(address.clone())),
                    ("prefix".to_owned(), Variant::from(*prefix)),
                ])
            };
            let list = addresses.iter().map(item).collect::<Vec<_>>();
            self.set(setting, "address-data", list.into());
        }
    }

    /// The names of its settings and properties and their values, for comparison and messages.
    pub fn described(&self) -> Vec<String> {
        let lines = self.settings.iter().flat_map(|(setting, properties)| {
            properties.iter().map(move |(name, value)| format!("{setting}.{name}={value:?}"))
        });
        lines.collect()
    }

    fn value(&self, setting: &str, name: &str) -> Option<&Variant<'static>> {
        self.settings.get(setting)?.get(name).map(|value| &**value)
    }

    fn text(&self, setting: &str, name: &str) -> Option<&str> {
        self.value(setting, name).and_then(|value| <&str>::try_from(value).ok())
    }

    fn list(&self, setting: &str, name: &str) -> Vec<BTreeMap<String, OwnedVariant>> {
        let value = self.value(setting, name).and_then(|value| value.try_clone().ok());
        value.and_then(|value| Vec::try_from(value).ok()).unwrap_or_default()
    }

    fn set(&mut self, setting: &str, name: &str, value: Variant<'_>) {
        // Only a file descriptor could fail to be copied, and a profile has none.
        if let Ok(value) = value.try_into_owned() {
            self.settings.entry(setting.to_owned()).or_default().insert(name.to_owned(), value);
        }
    }

    fn set_user(&mut self, user: BTreeMap<String, String>) {
        if user.is_empty() {
            self.settings.remove("user");
        } else {
            self.set("user", "data", user.into());
        }
    }
}

/// Items that are no properties of the tunnel, without their prefix.
fn is_bookkeeping(name: &str) -> bool {
    [ADOPTED_FROM, POLICY, HAD_ETHERNET].iter().any(|ours| ours.strip_prefix(PREFIX) == Some(name))
}

/// What type a property of `[ip-tunnel]` has on the bus.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number,
    Flag,
}

fn type_of(name: &str) -> Option<Kind> {
    Some(match name {
        "parent" | "local" | "remote" | "input-key" | "output-key" => Kind::Text,
        "mode" | "ttl" | "tos" | "encapsulation-limit" | "flow-label" | "fwmark" | "mtu" | "flags" => {
            Kind::Number
        }
        "path-mtu-discovery" => Kind::Flag,
        _ => return None,
    })
}

fn value_text(value: &Variant<'_>) -> Option<String> {
    match value {
        Variant::Str(text) => Some(text.to_string()),
        Variant::U32(number) => Some(number.to_string()),
        Variant::Bool(flag) => Some(if *flag { "yes" } else { "no" }.to_owned()),
        _ => None,
    }
}

fn variant_of(name: &str, value: &str) -> Result<OwnedVariant, PropertyError> {
    let wrong = |wanted| PropertyError::Value { name: name.to_owned(), value: value.to_owned(), wanted };
    let variant = match type_of(name) {
        Some(Kind::Text) => Variant::from(value),
        Some(Kind::Number) => Variant::from(value.parse::<u32>().ok().ok_or_else(|| wrong("a number"))?),
        Some(Kind::Flag) => match value {
            "yes" => Variant::from(true),
            "no" => Variant::from(false),
            _ => return Err(wrong("yes or no")),
        },
        None => return Err(PropertyError::Unknown { name: name.to_owned() }),
    };
    variant.try_into_owned().ok().ok_or_else(|| wrong("text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What nmcli makes of the guide's command.
    fn guide() -> Profile {
        let mut profile = Profile { path: "/1".to_owned(), settings: Settings::new() };
        for (name, value) in
            [("id", "tun0"), ("uuid", "u-1"), ("type", "ip-tunnel"), ("interface-name", "tun0")]
        {
            profile.set("connection", name, value.into());
        }
        for (name, value) in [("local", "100.0.1.100"), ("remote", "100.0.2.100"), ("input-key", "42")] {
            profile.set("ip-tunnel", name, value.into());
        }
        profile.set("ip-tunnel", "mode", 2u32.into());
        profile.set("ip-tunnel", "path-mtu-discovery", false.into());
        profile.set_addresses("ipv4", &[("172.16.0.1".to_owned(), 30)]);
        profile
    }

    #[test]
    fn g123_an_adopted_profile_keeps_its_uuid_name_and_addresses() {
        for way in [Way::Handler, Way::Pair] {
            let mut profile = guide();
            assert_eq!((profile.held(), profile.is_gre()), (Some(Held::IpTunnel), true));
            profile.adopt(way, "gw-tun0").unwrap();
            assert_eq!((profile.kind(), profile.uuid(), profile.id()), (way.word(), "u-1", "tun0"));
            assert_eq!(profile.held(), Some(Held::Adopted(way)));
            assert_eq!(profile.addresses("ipv4"), [("172.16.0.1".to_owned(), 30)]);
            assert!(profile.was_adopted() && !profile.settings.contains_key("ip-tunnel"));
        }
    }

    #[test]
    fn restoring_gives_the_very_same_profile() {
        for way in [Way::Handler, Way::Pair] {
            let mut profile = guide();
            profile.set_item("other.item", Some("kept"));
            let before = profile.clone();
            profile.adopt(way, "gw-tun0").unwrap();
            if way == Way::Pair {
                // As NetworkManager does.
                profile.settings.insert(ETHERNET.to_owned(), BTreeMap::new());
            }
            profile.restore().unwrap();
            assert_eq!(profile, before);
        }
    }

    #[test]
    fn an_ethernet_setting_that_was_there_stays() {
        let mut profile = guide();
        profile.set(ETHERNET, "mtu", 1400u32.into());
        let before = profile.clone();
        profile.adopt(Way::Pair, "gw-tun0").unwrap();
        profile.restore().unwrap();
        assert_eq!(profile, before);
    }

    #[test]
    fn properties_are_the_same_before_and_after() {
        let mut profile = guide();
        let before = profile.properties().unwrap();
        assert_eq!(before["mode"], "2");
        assert_eq!(before["path-mtu-discovery"], "no");
        profile.adopt(Way::Handler, "").unwrap();
        assert_eq!(profile.properties().unwrap(), before);
    }

    #[test]
    fn a_property_that_could_not_be_kept_is_no_adoption() {
        let mut profile = guide();
        profile.set("ip-tunnel", "novelty", 1u32.into());
        let before = profile.clone();
        let error = profile.adopt(Way::Handler, "").unwrap_err();
        assert_eq!(error, PropertyError::Unknown { name: "novelty".to_owned() });
        assert_eq!(profile, before);
    }

    #[test]
    fn a_tunnel_that_nmcli_could_not_say_cannot_become_an_ip_tunnel_profile() {
        let mut profile = guide();
        profile.adopt(Way::Handler, "").unwrap();
        profile.set_item("greway.ocsum", Some("yes"));
        let before = profile.clone();
        assert_eq!(profile.restore().unwrap_err(), PropertyError::Unknown { name: "ocsum".to_owned() });
        assert_eq!(profile, before);
    }

    #[test]
    fn a_policy_survives_the_way_back_and_other_kinds_are_not_ours() {
        let mut profile = guide();
        profile.set_item(POLICY, Some("off"));
        assert_eq!(profile.properties().unwrap().len(), 5);
        profile.adopt(Way::Pair, "gw-tun0").unwrap();
        profile.restore().unwrap();
        assert_eq!(profile.user()[POLICY], "off");
        profile.set("ip-tunnel", "mode", 1u32.into());
        assert!(!profile.is_gre());
        profile.set("connection", "type", "veth".into());
        assert_eq!(profile.held(), None, "somebody's own pair");
    }
}
