//! A more specific route, or an address elsewhere, takes packets for the inner peer away from the tunnel.

use std::net::IpAddr;

use crate::check::facts::Device;
use crate::check::shell::word;
use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    let Some(device) = facts.device().filter(|device| device.up) else {
        return Outcome::NotLooked("the tunnel has no device that is up".to_owned());
    };
    let name = &facts.spec.name;
    let mut findings = Vec::new();
    for peer in &facts.host.peers {
        // That is told by a finding of its own.
        if Some(peer.address) == facts.spec.remote {
            continue;
        }
        let leads = peer.way.as_ref().map(|way| way.ifindex);
        if leads == Some(device.index) {
            continue;
        }
        let own = facts.host.owner(peer.address);
        let other = leads.and_then(|index| facts.host.device_by_index(index));
        let prefix = if peer.address.is_ipv4() { 32 } else { 128 };
        findings.push(match (own, other) {
            (Some(own), _) => Finding::stops(
                "peer-is-here",
                format!("the inner peer {} is an address of this host", peer.address),
            )
            .seen(format!("{} is on {}", peer.address, own.name))
            .cure(format!("ip addr del {} dev {}", its_own(own, peer.address), word(&own.name))),
            (None, Some(other)) => Finding::stops(
                "peer-not-through-tunnel",
                format!("packets for the inner peer {} go to {}, not into {name}", peer.address, other.name),
            )
            .seen(format!("the route to {} leads to {}", peer.address, other.name))
            .cure(format!(
                "ip route replace {}/{prefix} dev {}",
                peer.address,
                word(name.as_str())
            )),
            (None, None) => Finding::stops(
                "peer-not-through-tunnel",
                format!("there is no route to the inner peer {}", peer.address),
            )
            .seen("no route")
            .cure(format!(
                "ip route replace {}/{prefix} dev {}",
                peer.address,
                word(name.as_str())
            )),
        });
    }
    Outcome::of(findings)
}

/// The address as the kernel has it: it is deleted by its prefix and peer only (linux net/ipv4/devinet.c
/// `inet_rtm_deladdr`).
fn its_own(device: &Device, address: IpAddr) -> String {
    let own = device.addresses.iter().find(|own| own.local == address);
    own.map_or_else(|| address.to_string(), ToString::to_string)
}
