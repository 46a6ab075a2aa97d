//! Adopting a profile, and giving it back.

use anyhow::{Context, bail};
use greway_control::api::{Reply, Request};
use greway_control::location::Location;
use greway_control::{daemon, start};
use greway_nm::{Bus, Held, NmError, POLICY, Profile, Way};
use greway_spec::{Mode, Origin, TunnelSpec};

use super::policy::Policy;
use super::tunnel;
use crate::personality::ip::kernel;

/// Whether this kernel brings such a profile up by itself.
pub(crate) fn kernel_can(mode: Mode) -> bool {
    kernel::can(mode)
}

/// Makes a profile one that NetworkManager brings up with greway.
///
/// # Errors
/// The profile is as it was then.
pub(crate) fn adopt(bus: &Bus, mut profile: Profile, way: Way) -> anyhow::Result<()> {
    let name = tunnel::name(&profile)?;
    let told = || format!("profile {}", profile.id());
    let context = told();
    profile.adopt(way, &daemon::peer_name(&name)).with_context(|| context)?;
    bus.update(&profile)?;
    Ok(())
}

/// Makes an adopted profile what it was before, and takes it down: this kernel would not bring it up.
///
/// # Errors
/// One that was not adopted, or that nmcli's words cannot say any more; it is as it was then.
pub(crate) fn restore(bus: &Bus, mut profile: Profile, policy: Option<Policy>) -> anyhow::Result<()> {
    if !matches!(profile.held(), Some(Held::Adopted(_))) || !profile.was_adopted() {
        bail!("profile {} was not adopted: there is nothing to give back", profile.id());
    }
    let context = format!("profile {} cannot be an ip-tunnel profile any more", profile.id());
    profile.restore().with_context(|| context)?;
    if let Some(policy) = policy {
        profile.set_item(POLICY, Some(policy.word()));
    }
    let active = bus.active()?.into_iter().find(|active| active.uuid == profile.uuid());
    bus.update(&profile)?;
    if let Some(active) = active {
        // One that went down in the meantime is what we want.
        let _ = bus.deactivate(&active);
    }
    Ok(())
}

/// The profile with this name, uuid or device.
///
/// # Errors
/// None, or several.
pub(crate) fn find(bus: &Bus, name: &str) -> anyhow::Result<Profile> {
    let profiles = bus.profiles()?;
    let by =
        |is: &dyn Fn(&Profile) -> bool| profiles.iter().filter(|profile| is(profile)).collect::<Vec<_>>();
    let mut found = by(&|profile| profile.uuid() == name || profile.id() == name);
    if found.is_empty() {
        found = by(&|profile| profile.interface() == Some(name) && profile.is_gre());
    }
    match found.as_slice() {
        [profile] => Ok((*profile).clone()),
        [] => bail!("NetworkManager has no profile {name}"),
        several => {
            let uuids = several.iter().map(|profile| profile.uuid()).collect::<Vec<_>>();
            bail!("{name} is the name of several profiles; give the uuid of one: {}", uuids.join(", "))
        }
    }
}

/// Gives all adopted profiles back, and removes what else of greway's NetworkManager has. A line for each; with
/// `dry_run` only told. No NetworkManager, no profiles.
///
/// # Errors
/// Those that could not be given back, all named.
pub(crate) fn unadopt_all(dry_run: bool) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut failures = Vec::new();
    if !dry_run {
        super::unmanaged::withdraw().context("cannot remove NetworkManager's list of greway's tunnels")?;
    }
    let bus = match Bus::connect() {
        Ok(bus) => bus,
        Err(NmError::NoBus(_)) => return stored(),
        Err(error) => return Err(error.into()),
    };
    let profiles = match bus.profiles() {
        Ok(profiles) => profiles,
        Err(NmError::NotRunning) => return stored(),
        Err(error) => return Err(error.into()),
    };
    for profile in profiles {
        if !matches!(profile.held(), Some(Held::Adopted(_))) {
            continue;
        }
        let id = profile.id().to_owned();
        if !profile.was_adopted() {
            failures
                .push(format!("profile {id} was made for greway; `nmcli connection delete {id}` deletes it"));
            continue;
        }
        let restored = if dry_run { Ok(()) } else { restore(&bus, profile, None) };
        match restored {
            Ok(()) => lines.push(format!("give the profile {id} back to NetworkManager")),
            Err(error) => failures.push(crate::sentence(&error)),
        }
    }
    if !failures.is_empty() {
        bail!("{}", failures.join("; "));
    }
    Ok(lines)
}

/// Without NetworkManager there is nobody to change a profile; one that was adopted is not forgotten silently.
fn stored() -> anyhow::Result<Vec<String>> {
    let folder = std::path::Path::new("/etc/NetworkManager/system-connections");
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let adopted = files.filter(|file| {
        std::fs::read_to_string(file).is_ok_and(|text| text.contains(greway_nm::ADOPTED_FROM))
    });
    let adopted = adopted.map(|file| file.display().to_string()).collect::<Vec<_>>();
    if adopted.is_empty() {
        return Ok(Vec::new());
    }
    bail!(
        "NetworkManager is not running, and profiles that greway adopted are stored: start it and try again ({})",
        adopted.join(", ")
    )
}

/// The tunnels of this network namespace's daemon; none where none runs.
///
/// # Errors
/// A daemon that does not answer.
pub(crate) fn tunnels(location: &Location) -> anyhow::Result<Vec<TunnelSpec>> {
    let Some(mut client) = start::find(location)? else { return Ok(Vec::new()) };
    match start::ask(&mut client, location, &Request::List)? {
        Reply::Tunnels(tunnels) => Ok(tunnels),
        _ => Err(client.unexpected().into()),
    }
}

/// Whether a tunnel comes from a profile.
pub(crate) fn uuid(spec: &TunnelSpec) -> Option<&str> {
    match &spec.origin {
        Origin::Profile(uuid) => Some(uuid),
        Origin::Command | Origin::File(_) => None,
    }
}
