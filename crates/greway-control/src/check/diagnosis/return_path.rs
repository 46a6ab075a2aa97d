//! Scenario 1 of the guide from the far side: hosts behind this one do not know the way back to the peer's inner
//! address, so its packets are to be translated, or those hosts told.

use std::collections::BTreeMap;
use std::net::IpAddr;

use greway_netlink::Connection;

use crate::check::ruleset::{InDevice, Packet, State};
use crate::check::{Facts, Finding, Outcome, Place};

pub(super) fn find(facts: &Facts) -> Outcome {
    let (spec, host) = (&facts.spec, &facts.host);
    let mut findings = Vec::new();
    let connections = match &host.connections {
        Ok(connections) => connections,
        Err(reason) => return Outcome::NotLooked(reason.clone()),
    };
    let peers = host.peers.iter().map(|peer| peer.address).collect::<Vec<_>>();
    // Of each host behind this one: was anything of the peer's ever answered by it?
    let mut hosts: BTreeMap<IpAddr, (IpAddr, bool, u32)> = BTreeMap::new();
    for connection in connections.iter() {
        let onward = peers.contains(&connection.source) && host.owner(connection.destination).is_none();
        if onward && !connection.translated {
            let (_, answered, count) =
                hosts.entry(connection.destination).or_insert((connection.source, false, 0));
            *answered |= connection.answered;
            *count += 1;
        }
    }
    // What is translated by now, and what was tracked before it was, are no fault any more.
    let translated = |peer: IpAddr, destination: IpAddr| {
        let same = |c: &&Connection| c.source == peer && c.destination == destination && c.translated;
        connections.iter().any(|connection| same(&connection)) || is_translated(facts, peer, destination)
    };
    for (destination, (peer, answered, count)) in hosts {
        if answered || translated(peer, destination) {
            continue;
        }
        let near = host.devices.iter().find_map(|device| {
            let own = device.addresses.iter().find(|own| own.connected().contains(destination))?;
            (device.name != spec.name.as_str()).then_some(own)
        });
        let finding = Finding::hinders(
            "no-return-path",
            format!("packets of {peer} go on to {destination}, and nothing comes back: that host knows no way to {peer}"),
        )
        .seen(format!("{count} tracked connections from {peer} to {destination}, none answered, none translated"));
        let finding = match near {
            Some(own) => finding
                .cure(format!(
                    "iptables -t nat -A POSTROUTING -s {peer} -d {} -j SNAT --to-source {}",
                    own.connected(),
                    own.local
                ))
                .cure_at(Place::Behind, format!("ip route add {peer} via {}", own.local)),
            None => finding
                .cure(format!("iptables -t nat -A POSTROUTING -s {peer} -d {destination} -j MASQUERADE")),
        };
        findings.push(finding);
    }
    Outcome::of(findings)
}

/// Whether a rule of now translates what goes from the peer to a host behind this one.
fn is_translated(facts: &Facts, peer: IpAddr, destination: IpAddr) -> bool {
    let (Ok(ruleset), IpAddr::V4(_), IpAddr::V4(_)) = (&facts.host.ruleset, peer, destination) else {
        return false;
    };
    let leads = |device: &&crate::check::facts::Device| {
        device.addresses.iter().any(|own| own.connected().contains(destination))
    };
    let output = facts
        .host
        .devices
        .iter()
        .find(leads)
        .map_or(InDevice::Unknown, |device| InDevice::Known(&device.name, device.index));
    let packet =
        Packet { protocol: 1, source: peer, destination, input: InDevice::None, output, state: State::New };
    ruleset.translates_source(&packet) == Some(true)
}
