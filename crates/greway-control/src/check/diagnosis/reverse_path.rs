//! rp_filter on the tunnel device: packets whose source is not routed into the tunnel are dropped as they come
//! out of it. Strict is the default of some distributions and harms nobody whose routes are the same both
//! ways; so only what it drops is told.

use crate::check::shell;
use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    let name = facts.spec.name.as_str();
    let Some(device) = facts.device() else {
        return Outcome::NotLooked("the tunnel has no device here".to_owned());
    };
    let strict = facts.host.reverse_path.get(name) == Some(&1);
    if !strict {
        return Outcome::Fine;
    }
    let finding = |source: &str| {
        Finding::stops(
            "rp-filter",
            format!("rp_filter is strict on {name} and drops what comes out of it from {source}"),
        )
        .seen(format!("net.ipv4.conf.{{all,{name}}}.rp_filter: 1 is the larger"))
        .cure(shell::reverse_path_of(name, 2))
    };
    // The larger of both counts, so 2 for the device is enough.
    let elsewhere = facts.host.peers.iter().find(|peer| {
        peer.address.is_ipv4()
            && peer.way.is_none_or(|way| way.ifindex != device.index)
            && facts.host.owner(peer.address).is_none()
            && Some(peer.address) != facts.spec.remote
    });
    if let Some(peer) = elsewhere {
        return Some(
            finding(&peer.address.to_string())
                .seen(format!("the route to {} does not lead to {name}", peer.address)),
        )
        .into();
    }
    // Which device dropped is not counted; that packets came out of the tunnel meanwhile is.
    let dropped = match &facts.probes.reverse_path_drops {
        Ok(dropped) => *dropped,
        Err(reason) => return Outcome::NotLooked(format!("what it drops was not looked at: {reason}")),
    };
    let answered = facts.probes.echo.as_ref().is_ok_and(|echo| echo.answered > 0);
    if dropped > 0 && facts.received_meanwhile() > 0 && !answered {
        let seen = format!("{dropped} packets dropped by rp_filter during this check (IPReversePathFilter)");
        return Some(finding("a source that is not routed into it").seen(seen)).into();
    }
    Outcome::Fine
}
