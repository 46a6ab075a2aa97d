//! `greway nm`: NetworkManager's profiles.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use greway_control::daemon;
use greway_control::location::Location;
use greway_dialects::iproute2::{self, Verb};
use greway_nm::{Bus, Held, POLICY, Profile};
use greway_spec::TunnelSpec;
use serde_json::json;

use crate::nm::policy::Policy;
use crate::nm::{adopt, tunnel, watch};
use crate::output;

pub(crate) use crate::nm::adopt::unadopt_all;

/// `greway nm`
#[derive(Debug, Args)]
pub(crate) struct NmArgs {
    #[command(subcommand)]
    action: Action,
}

/// What can be done with profiles.
#[derive(Debug, Subcommand)]
enum Action {
    /// Adopt profiles as they come and have their tunnels follow; what greway-nm.service runs
    Watch,
    /// Say what NetworkManager's tunnel profiles are, and what became of them
    Status {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Make an adopted profile what it was before; it is left alone from then on
    Unadopt {
        /// Its name, uuid or device
        profile: String,
    },
    /// Say or set what becomes of ip-tunnel profiles: of all, or of one
    Policy {
        /// From now on
        #[arg(value_enum)]
        policy: Option<Policy>,
        /// For this profile only: its name, uuid or device
        profile: Option<String>,
    },
    /// Store a profile of a GRE tunnel: greway nm add tun0 mode gre remote 100.0.2.100 address 172.16.0.1/30
    Add {
        /// NAME and the words of `ip tunnel`, and `address ADDRESS/LENGTH` as often as there are some
        #[arg(required = true, num_args = 1.., trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Change the tunnel of a profile that greway carries: greway nm change tun0 key 42
    Change {
        /// NAME and the words of `ip tunnel`; what is not named stays as it is
        #[arg(required = true, num_args = 1.., trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// Runs the verb.
pub(crate) fn run(args: &NmArgs, location: &Location) -> anyhow::Result<ExitCode> {
    match &args.action {
        Action::Watch => {
            crate::start_log();
            return watch::run(location);
        }
        Action::Status { json } => status(*json, location)?,
        Action::Unadopt { profile } => {
            let bus = Bus::connect()?;
            let profile = adopt::find(&bus, profile)?;
            let id = profile.id().to_owned();
            adopt::restore(&bus, profile, Some(Policy::Off))?;
            output::line(&format!(
                "the profile {id} is what it was before; `greway nm policy adopt {id}` adopts it again"
            ));
        }
        Action::Policy { policy: None, .. } => output::line(Policy::of_host()?.word()),
        Action::Policy { policy: Some(policy), profile: None } => {
            policy.write()?;
            output::note("a watcher that runs goes by it from the next profile on");
        }
        Action::Policy { policy: Some(policy), profile: Some(profile) } => {
            let bus = Bus::connect()?;
            let profile = adopt::find(&bus, profile)?;
            of_one(&bus, profile, *policy)?;
        }
        Action::Add { words } => add(words)?,
        Action::Change { words } => change(words)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A profile's own policy. One that was adopted is given back for any other.
fn of_one(bus: &Bus, mut profile: Profile, policy: Policy) -> anyhow::Result<()> {
    match profile.held() {
        Some(Held::Adopted(_)) if policy != Policy::Adopt => adopt::restore(bus, profile, Some(policy)),
        Some(_) => {
            profile.set_item(POLICY, Some(policy.word()));
            Ok(bus.update(&profile)?)
        }
        None => bail!("profile {} is of type {} and no tunnel", profile.id(), profile.kind()),
    }
}

fn add(words: &[String]) -> anyhow::Result<()> {
    let (words, addresses) = split(words)?;
    let spec = iproute2::parse_tunnel_words(&words, Verb::Add)?.into_carried_spec()?;
    let bus = Bus::connect()?;
    let way = crate::nm::way(bus.version()?);
    let name = spec.name.to_string();
    let mut profile =
        Profile::native(&name, &name, &greway_nm::emit(&spec)?, way, &daemon::peer_name(&spec.name));
    for (setting, ipv4) in [("ipv4", true), ("ipv6", false)] {
        let own = addresses.iter().filter(|(address, _)| address.contains('.') == ipv4).cloned();
        profile.set_addresses(setting, &own.collect::<Vec<_>>());
    }
    bus.add(&profile)?;
    output::line(&format!("stored the profile {name}, type {}", way.word()));
    Ok(())
}

/// Addresses, each with its prefix length.
type Addresses = Vec<(String, u32)>;

/// The addresses among the words, which are not the tunnel's but the profile's.
fn split(words: &[String]) -> anyhow::Result<(Vec<String>, Addresses)> {
    let mut others = Vec::new();
    let mut addresses = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word != "address" {
            others.push(word.clone());
            continue;
        }
        let text = words.next().context("address is followed by ADDRESS/LENGTH")?;
        let wrong = || format!("address {text}: ADDRESS/LENGTH is right, as in 172.16.0.1/30");
        let (address, length) = text.split_once('/').with_context(wrong)?;
        let parsed = address.parse::<std::net::IpAddr>().with_context(wrong)?;
        let length = length.parse::<u32>().with_context(wrong)?;
        if length > if parsed.is_ipv4() { 32 } else { 128 } {
            bail!(wrong());
        }
        addresses.push((parsed.to_string(), length));
    }
    Ok((others, addresses))
}

fn change(words: &[String]) -> anyhow::Result<()> {
    let draft = iproute2::parse_tunnel_words(words, Verb::Change)?;
    let name = draft.name.as_ref().map(|name| name.value.clone()).context("change what? name a tunnel")?;
    let bus = Bus::connect()?;
    let mut profile = adopt::find(&bus, name.as_str())?;
    if !matches!(profile.held(), Some(Held::Adopted(_))) {
        bail!("profile {} is not greway's: `nmcli connection modify` changes it", profile.id());
    }
    let present = tunnel::of(&profile)?;
    let spec = draft.overlay_on(&TunnelSpec { name, ..present.clone() })?;
    spec.carried()?;
    for old in greway_nm::emit(&present)?.keys() {
        profile.set_item(&format!("greway.{old}"), None);
    }
    for (property, value) in greway_nm::emit(&spec)? {
        profile.set_item(&format!("greway.{property}"), Some(&value));
    }
    Ok(bus.update(&profile)?)
}

fn status(as_json: bool, location: &Location) -> anyhow::Result<()> {
    let bus = Bus::connect()?;
    let version = bus.version()?;
    let host = Policy::of_host()?;
    let active = bus.active()?;
    let tunnels = adopt::tunnels(location)?;
    let profiles = bus.profiles()?.into_iter().filter(|profile| profile.held().is_some());
    let rows = profiles.map(|profile| Row::of(&profile, host, &active, &tunnels)).collect::<Vec<_>>();
    if as_json {
        let profiles = rows.iter().map(|row| {
            json!({
                "profile": row.id, "uuid": row.uuid, "device": row.device, "type": row.kind,
                "state": row.state, "active": row.active, "carried": row.carried,
            })
        });
        let all = json!({
            "networkmanager": version.to_string(), "policy": host.word(), "way": crate::nm::way(version).word(),
            "profiles": profiles.collect::<Vec<_>>(),
        });
        output::line(&all.to_string());
        return Ok(());
    }
    output::line(&format!(
        "NetworkManager {version}, policy {host}, profiles become type {}",
        crate::nm::way(version).word()
    ));
    for row in rows {
        let up = match (row.active, row.carried) {
            (true, true) => "up",
            (true, false) => "up, not carried",
            (false, true) => "down, carried",
            (false, false) => "down",
        };
        output::line(&format!("{}  {}  {}  {up}", row.id, row.device.as_deref().unwrap_or("-"), row.state));
    }
    Ok(())
}

/// A profile as `greway nm status` tells it.
struct Row {
    id: String,
    uuid: String,
    device: Option<String>,
    kind: String,
    state: String,
    active: bool,
    carried: bool,
}

impl Row {
    fn of(profile: &Profile, host: Policy, active: &[greway_nm::Active], tunnels: &[TunnelSpec]) -> Self {
        let state = match profile.held() {
            Some(Held::Adopted(way)) if profile.was_adopted() => format!("adopted, type {}", way.word()),
            Some(Held::Adopted(way)) => format!("greway's, type {}", way.word()),
            Some(Held::IpTunnel) | None => left(profile, host),
        };
        Self {
            id: profile.id().to_owned(),
            uuid: profile.uuid().to_owned(),
            device: profile.interface().map(str::to_owned),
            kind: profile.kind().to_owned(),
            state,
            active: active.iter().any(|active| active.activated && active.uuid == profile.uuid()),
            carried: tunnels.iter().any(|spec| adopt::uuid(spec) == Some(profile.uuid())),
        }
    }
}

/// Why a profile of type ip-tunnel is still one.
fn left(profile: &Profile, host: Policy) -> String {
    if !profile.is_gre() {
        return "left alone: no GRE tunnel".to_owned();
    }
    match (Policy::of(profile, host), tunnel::of(profile)) {
        (Err(error), _) | (Ok(_), Err(error)) => format!("left alone: {}", crate::sentence(&error)),
        (Ok(Policy::Off), _) => "left alone: policy off".to_owned(),
        (Ok(_), Ok(spec)) if adopt::kernel_can(spec.mode) => "left alone: this kernel can".to_owned(),
        (Ok(Policy::Shadow), _) => "shadowed".to_owned(),
        (Ok(Policy::Adopt), _) => "to be adopted by greway nm watch".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_the_profiles_and_the_rest_is_the_tunnels() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (others, addresses) =
            split(&words("tun0 address 172.16.0.1/30 mode gre address fd00::1/64")).unwrap();
        assert_eq!(others, words("tun0 mode gre"));
        assert_eq!(addresses, [("172.16.0.1".to_owned(), 30), ("fd00::1".to_owned(), 64)]);
        for wrong in ["address", "address 172.16.0.1", "address 172.16.0.1/33", "address x/3"] {
            assert!(split(&words(wrong)).is_err(), "{wrong}");
        }
    }
}
