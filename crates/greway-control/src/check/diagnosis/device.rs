//! The tunnel device: there, up and with a carrier.

use crate::check::shell::word;
use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    let Some(tunnel) = facts.tunnel() else {
        return Outcome::NotLooked("the tunnel is not carried".to_owned());
    };
    if tunnel.moved {
        return Outcome::NotLooked("the device is in another network namespace".to_owned());
    }
    let name = &facts.spec.name;
    let Some(device) = facts.device() else {
        // A tunnel whose device is deleted is deleted; the daemon has not heard of it yet.
        return Outcome::NotLooked("the device has just gone".to_owned());
    };
    let up = format!("ip link set {} up", word(name.as_str()));
    if !device.up {
        let asked = facts.spec.inner.link_down;
        let seen = if asked { "the tunnel's file asks for it" } else { "state DOWN" };
        return Some(Finding::stops("device-down", format!("{name} is down")).seen(seen).cure(up)).into();
    }
    let peer = format!("gw-{name}");
    let other = facts.host.device(&peer);
    let silent = !device.running && other.is_some_and(|other| !other.up);
    silent
        .then(|| {
            Finding::stops("no-carrier", format!("{name} has no carrier: its other end {peer} is down"))
                .seen(format!("{peer} is DOWN, so {name} is LOWERLAYERDOWN"))
                .cure(format!("ip link set {} up", word(&peer)))
        })
        .into()
}
