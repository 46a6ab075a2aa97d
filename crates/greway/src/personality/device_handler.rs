//! NetworkManager's device handler: `/usr/lib/NetworkManager/dispatcher.d/device/greway IFNAME device-add`.
//!
//! From 1.46 on NetworkManager asks such a program to make the device of a profile `type generic` that names it,
//! and to tell the device's index. It answers on stdout, with `IFINDEX=n` or `ERROR=text` and another exit code
//! than 0; NetworkManager shows no more of it than that it failed, so the text goes to stderr, and so to the
//! journal, as well (NetworkManager-dispatcher(8), "device-add").
//!
//! It asks the daemon and does nothing itself. Where the tunnel comes from: the profile's items `greway.…`, which
//! are in the environment; else greway's own file for a device of that name. It may be asked for a device that
//! is there already, and answers as if it had made it. `device-delete` leaves the device to
//! NetworkManager, which deletes it next; the daemon hears of that from the kernel. On a re-activation the
//! device stays, and so must what carries it.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, bail};
use greway_control::api::{Reply, Request};
use greway_control::location::Location;
use greway_control::start;
use greway_netlink::Netlink;
use greway_nm::{Properties, decode_environment};
use greway_spec::{DeviceName, TunnelSpec};

use crate::nm::tunnel;
use crate::{output, sources};

/// The bookkeeping among the items, which is no property of a tunnel.
const OTHER: [&str; 3] = ["adopted-from", "policy", "had-ethernet"];

/// Runs in its place.
pub(super) fn run() -> ExitCode {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [name, "device-add"] => add(name),
        [_, "device-delete"] => return ExitCode::SUCCESS,
        _ => {
            Err(anyhow::anyhow!("called as `greway IFNAME device-add` or `greway IFNAME device-delete` only"))
        }
    };
    match outcome {
        Ok(index) => {
            output::line(&format!("IFINDEX={index}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            let text = crate::sentence(&error).replace('\n', " ");
            output::error(&text);
            output::line(&format!("ERROR={text}"));
            ExitCode::FAILURE
        }
    }
}

fn add(name: &str) -> anyhow::Result<u32> {
    let name = name.parse::<DeviceName>()?;
    let uuid = std::env::var("CONNECTION_UUID").unwrap_or_default();
    let spec = spec(&name, &properties(std::env::vars_os()), &uuid)?;
    let location = Location::find(None).context("cannot tell this network namespace")?;
    let (mut client, _) = start::connect(&location)?;
    let request = Request::Up { spec: Box::new(spec), dry_run: false };
    match start::ask(&mut client, &location, &request)? {
        Reply::Done { warnings, .. } => warnings.iter().for_each(|warning| output::warning(warning)),
        _ => return Err(client.unexpected().into()),
    }
    let link = Netlink::open()?.link_by_name(name.as_str())?;
    Ok(link.with_context(|| format!("{name} is gone again"))?.index)
}

/// The items `greway.…` of the profile.
fn properties(environment: impl Iterator<Item = (OsString, OsString)>) -> Properties {
    let read = |(variable, value): (OsString, OsString)| {
        let item = decode_environment(variable.to_str()?)?;
        let name = item.strip_prefix("greway.").filter(|name| !OTHER.contains(name))?;
        Some((name.to_owned(), value.into_string().ok()?))
    };
    environment.filter_map(read).collect()
}

fn spec(name: &DeviceName, properties: &Properties, uuid: &str) -> anyhow::Result<TunnelSpec> {
    if !properties.is_empty() {
        return tunnel::of_properties(name, properties, uuid);
    }
    let definition = sources::find(name.as_str())
        .with_context(|| format!("the profile has no items greway.… that describe {name}, and"))?;
    let file = definition.result?;
    if file.spec.name != *name {
        bail!("{} describes {} and not {name}", definition.path.display(), file.spec.name);
    }
    Ok(file.spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_items_of_a_profile_come_out_of_the_environment() {
        let environment = [
            ("CONNECTION_USER_GREWAY__REMOTE", "100.0.2.100"),
            ("CONNECTION_USER_GREWAY__MODE", "2"),
            ("CONNECTION_USER_GREWAY__PATH_055MTU_055DISCOVERY", "no"),
            ("CONNECTION_USER_GREWAY__ADOPTED_055FROM", "ip-tunnel"),
            ("CONNECTION_USER_OTHER__REMOTE", "1.2.3.4"),
            ("CONNECTION_UUID", "u-1"),
        ];
        let environment = environment.map(|(name, value)| (name.into(), value.into()));
        let properties = properties(environment.into_iter());
        let names = properties.keys().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(names, ["mode", "path-mtu-discovery", "remote"]);
        let spec = spec(&"tun0".parse().unwrap(), &properties, "u-1").unwrap();
        assert_eq!(spec.origin, greway_spec::Origin::Profile("u-1".to_owned()));
        assert!(!spec.pmtudisc);
    }
}
