//! The way to the remote: there must be one, and not through the tunnel itself.

use std::net::IpAddr;

use greway_netlink::RouteKind;

use crate::check::facts::Device;
use crate::check::shell::word;
use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    let Some(remote) = facts.spec.remote else {
        return Outcome::NotLooked("the tunnel has no remote".to_owned());
    };
    // Of a remote that is this host another finding tells.
    if facts.host.owner(remote).is_some() {
        return Outcome::Fine;
    }
    let way = match &facts.host.way {
        Ok(Some(way)) => Ok(way),
        Ok(None) => return Outcome::Fine,
        Err(reason) => Err(reason),
    };
    // With a device that is down its routes are gone, and asked for by name it is an error of the kernel's.
    let leads = way.is_ok_and(|way| passes(way.kind, remote));
    if let Some(out) = underlay(facts).filter(|out| !leads && !out.up) {
        return Some(
            Finding::stops(
                "underlay-down",
                format!("the way to {remote} leads by {}, which is down", out.name),
            )
            .seen(format!("{} is DOWN, and its routes are gone with it", out.name))
            .cure(format!("ip link set {} up", word(&out.name))),
        )
        .into();
    }
    let way = match way {
        Ok(way) => way,
        Err(reason) => return Outcome::NotLooked(reason.clone()),
    };
    let name = &facts.spec.name;
    let prefix = if remote.is_ipv4() { 32 } else { 128 };
    let gateway = default_gateway(facts);
    let cure = format!("ip route replace {remote}/{prefix} via {gateway}");
    let tunnel = facts.device().map(|device| device.index);
    if way.kind == RouteKind::Unicast && Some(way.ifindex) == tunnel {
        return Some(
            Finding::stops(
                "route-through-tunnel",
                format!("the route to {remote} leads into {name} itself: its GRE would go round"),
            )
            .seen(format!("the route to {remote} leads to {name}"))
            .cure(cure),
        )
        .into();
    }
    let (what, cure) = match way.kind {
        kind if passes(kind, remote) => return Outcome::Fine,
        RouteKind::Blackhole => ("a blackhole route", format!("ip route del blackhole {remote}/{prefix}")),
        RouteKind::Prohibit => ("a prohibiting route", format!("ip route del prohibit {remote}/{prefix}")),
        _ => ("no route", cure),
    };
    Some(
        Finding::stops("no-route", format!("there is no way to remote {remote}"))
            .seen(format!("{what} for {remote}{}", from(facts)))
            .cure(cure),
    )
    .into()
}

/// Whether GRE goes out by a route of this kind.
fn passes(kind: RouteKind, remote: IpAddr) -> bool {
    match kind {
        RouteKind::Unicast | RouteKind::Local => true,
        RouteKind::Multicast => remote.is_multicast(),
        _ => false,
    }
}

/// The device that the tunnel is to leave by: its `dev`, or the one that has its `local`.
fn underlay(facts: &Facts) -> Option<&Device> {
    match (&facts.spec.dev, facts.spec.local) {
        (Some(dev), _) => facts.host.device(dev.as_str()),
        (None, Some(local)) => facts.host.owner(local),
        (None, None) => None,
    }
}

fn from(facts: &Facts) -> String {
    let dev = facts.spec.dev.as_ref().map_or_else(String::new, |dev| format!(" by {dev}"));
    let mark =
        if facts.spec.fwmark == 0 { String::new() } else { format!(" with mark {:#x}", facts.spec.fwmark) };
    format!("{dev}{mark}")
}

/// The gateway that a route to the remote would take, or the word for it.
fn default_gateway(facts: &Facts) -> String {
    let way = facts.host.free_way.as_ref();
    let via = way.filter(|way| way.kind == RouteKind::Unicast).and_then(|way| way.via);
    via.map_or_else(|| "GATEWAY".to_owned(), |via| via.to_string())
}
