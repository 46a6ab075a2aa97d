//! What on this host will stop or bend traffic, with the command that cures it. Only what is
//! certain from here; `status` reads, it changes nothing. What it says of the host's rules is what the
//! daemon last saw: base chains are looked at when the kernel tells of a change, and each 500 ms.

use std::net::IpAddr;

use greway_netlink::{Link, RouteKind};
use greway_spec::SeqMode;

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
    notes.extend(host.doubt.clone());
    notes.extend(host.steering.troubles.iter().cloned());
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
    if spec.seq_mode != SeqMode::Linux && !spec.iseq {
        notes.push(format!(
            "seq-mode {} waits for iseq: received packets need no sequence numbers here, and stay in the order \
             they come in (greway tunnel change {} iseq)",
            spec.seq_mode, spec.name
        ));
    }
    let here = |address| host.local_addresses.has(address, live.bound_to);
    if let Some(local) = spec.local
        && !here(local)
    {
        notes.push(match local {
            IpAddr::V4(_) => format!(
                "local {local} is not an address of this host: nothing can be sent or received \
                 (behind a cloud's 1:1 NAT, use the private address)"
            ),
            IpAddr::V6(_) => format!(
                "local {local} is not an address of this host, or still being checked for duplicates: nothing \
                 can be sent or received"
            ),
        });
    }
    if let Some(remote) = spec.remote.filter(|remote| !remote.is_multicast()) {
        of_the_way(host, live, remote, &mut notes);
    } else {
        let who = spec.remote.map_or_else(|| "remote any".to_owned(), |group| format!("remote {group}"));
        notes.push(format!(
            "{who}: any host that reaches this one may send into it, unless the firewall says no"
        ));
    }
    notes.extend(host.note_on_direct(live));
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

/// What is wrong with the way to a remote.
fn of_the_way(host: &Host, live: &Live, remote: IpAddr, notes: &mut Vec<String>) {
    let spec = live.spec();
    if host.local_addresses.has(remote, live.bound_to) && !spec.allow_localremote {
        notes.push(format!("remote {remote} is this host's own address: are local and remote swapped?"));
    }
    let mark = crate::observe::mark(spec);
    let options = greway_netlink::RouteOptions { mark, oif: live.bound_to, ..Default::default() };
    match host.netlink.route_to(remote, &options) {
        Ok(route) if route.ifindex == live.index => notes.push(format!(
            "the route to {remote} leads into the tunnel itself: add a route to it by the underlay"
        )),
        Ok(route) if matches!(route.kind, RouteKind::Unicast | RouteKind::Local) => {}
        Ok(_) => notes.push(format!("no route to remote {remote}: add one by the underlay")),
        Err(error) => notes.push(format!("no route to remote {remote}: {error}")),
    }
}
