//! What on this host will stop or bend traffic, with the command that cures it. Only what is
//! certain from here; `status` reads, it changes nothing. What it says of the host's rules is what the
//! daemon last saw: base chains are looked at when the kernel tells of a change, and each 500 ms.

use greway_netlink::{Link, RouteKind};

use super::host::{Host, Live};
use crate::sysctl::{self, Forwarding};

/// What concerns every tunnel.
pub(super) fn of_host(host: &Host) -> Vec<String> {
    let mut notes = host
        .remains
        .iter()
        .map(|(name, remains)| {
            format!(
                "tunnel {name} is not carried: {}; `greway tunnel del {name}` removes what is left of it",
                remains.why
            )
        })
        .collect::<Vec<_>>();
    if !host.tunnels.is_empty() && !sysctl::forwarding(Forwarding::Ipv4) {
        notes.push(
            "this host does not forward: hosts behind it cannot use a tunnel, and hosts behind the far end \
             reach this host only (sysctl -w net.ipv4.ip_forward=1, or forward = true in the tunnel's file)"
                .to_owned(),
        );
    }
    notes
}

/// What concerns one.
pub(super) fn of_tunnel(host: &Host, live: &Live, link: Option<&Link>) -> Vec<String> {
    let spec = live.spec();
    let mut notes = live.trouble.iter().cloned().collect::<Vec<_>>();
    let Some((local, remote)) = spec.ipv4_ends() else { return notes };
    if let Some(local) = local
        && !host.local_addresses.contains(&local)
    {
        notes.push(format!(
            "local {local} is not an address of this host: nothing can be sent or received \
             (behind a cloud's 1:1 NAT, use the private address)"
        ));
    }
    if host.local_addresses.contains(&remote) {
        notes.push(format!("remote {remote} is this host's own address: are local and remote swapped?"));
    }
    match host.netlink.route_to(remote.into(), &greway_netlink::RouteOptions::default()) {
        Ok(route) if route.ifindex == live.index => notes.push(format!(
            "the route to {remote} leads into the tunnel itself: add a route to it by the underlay"
        )),
        Ok(route) if matches!(route.kind, RouteKind::Unicast | RouteKind::Local) => {}
        Ok(_) => notes.push(format!("no route to remote {remote}: add one by the underlay")),
        Err(error) => notes.push(format!("no route to remote {remote}: {error}")),
    }
    if sysctl::reverse_path_filter(spec.name.as_str()) == 1 {
        notes.push(format!(
            "strict reverse path filter: packets whose source is not routed back into {0} are dropped \
             (sysctl -w net.ipv4.conf.{0}.rp_filter=2)",
            spec.name
        ));
    }
    if link.is_some_and(|link| link.mtu > 65_535 - spec.overhead()) {
        notes
            .push(format!("mtu {} leaves no room for the tunnel's headers", link.map_or(0, |link| link.mtu)));
    }
    notes
}
