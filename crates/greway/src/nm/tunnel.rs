//! The tunnel that a profile asks for.

use anyhow::{Context, anyhow};
use greway_nm::{Profile, Properties};
use greway_spec::{DeviceName, DraftAddress, DraftRoute, Origin, TunnelSpec};

/// The name of a profile's device.
///
/// # Errors
/// A profile without one, which NetworkManager allows for a profile that is for every device.
pub(crate) fn name(profile: &Profile) -> anyhow::Result<DeviceName> {
    let name = profile.interface();
    let name = name.with_context(|| format!("profile {} names no interface", profile.id()))?;
    name.parse().map_err(|error| anyhow!("profile {}: {error}", profile.id()))
}

/// The tunnel of a profile whose addresses are NetworkManager's to set.
///
/// # Errors
/// What is wrong with the profile, or not carried by this version.
pub(crate) fn of(profile: &Profile) -> anyhow::Result<TunnelSpec> {
    let name = name(profile)?;
    let properties = profile.properties().with_context(|| format!("profile {}", profile.id()))?;
    let told = || format!("profile {}", profile.id());
    of_properties(&name, &properties, profile.uuid()).with_context(told)
}

/// As [`of`], for what a device handler was given.
///
/// # Errors
/// What is wrong with the properties.
pub(crate) fn of_properties(
    name: &DeviceName,
    properties: &Properties,
    uuid: &str,
) -> anyhow::Result<TunnelSpec> {
    let mut draft = greway_nm::draft(name, properties)?;
    draft.origin = Origin::Profile(uuid.to_owned());
    Ok(draft.into_carried_spec()?)
}

/// The tunnel of a profile that stays NetworkManager's in name only: with its addresses and routes.
///
/// # Errors
/// As [`of`], and addresses that are none.
pub(crate) fn whole(profile: &Profile) -> anyhow::Result<TunnelSpec> {
    let name = name(profile)?;
    let told = || format!("profile {}", profile.id());
    let mut draft = greway_nm::draft(&name, &profile.properties().with_context(told)?).with_context(told)?;
    draft.origin = Origin::Profile(profile.uuid().to_owned());
    let mut addresses = Vec::new();
    let mut routes = Vec::new();
    for setting in ["ipv4", "ipv6"] {
        for (address, length) in profile.addresses(setting) {
            let local =
                address.parse().with_context(|| format!("profile {}: address {address}", profile.id()))?;
            let prefix_length = u8::try_from(length).unwrap_or(u8::MAX);
            addresses.push(DraftAddress { local, peer: None, prefix_length }.into());
        }
        for (destination, length, via, metric) in profile.routes(setting) {
            let wrong = |text: &str| format!("profile {}: route {text}", profile.id());
            let address = destination.parse().with_context(|| wrong(&destination))?;
            let via = via.map(|via| via.parse().with_context(|| wrong(&via))).transpose()?;
            let length = u8::try_from(length).unwrap_or(u8::MAX);
            routes.push(DraftRoute { via, metric, ..DraftRoute::to(address, length) }.into());
        }
    }
    draft.addresses = Some(addresses);
    draft.routes = Some(routes);
    draft.into_carried_spec().map_err(|error| anyhow!("profile {}: {error}", profile.id()))
}
