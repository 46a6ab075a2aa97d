//! A FORWARD chain that drops what is to be handed on between the tunnel and a network here: the policy that
//! Docker sets, for one.

use std::net::{IpAddr, Ipv4Addr};

use greway_netlink::nftables::Hook;
use greway_spec::InnerAddress;

use super::firewall::{self, Wanted};
use crate::check::facts::Device;
use crate::check::ruleset::{Fate, InDevice, Packet, State};
use crate::check::{Facts, Finding, Outcome};

/// Devices that are looked at.
const MOST: usize = 8;

pub(super) fn find(facts: &Facts) -> Outcome {
    let host = &facts.host;
    if !host.forwards_v4 {
        return Outcome::NotLooked("this host does not forward".to_owned());
    }
    let Some(tunnel) = facts.device() else {
        return Outcome::NotLooked("the tunnel has no device here".to_owned());
    };
    let ruleset = match &host.ruleset {
        Ok(ruleset) => ruleset,
        Err(reason) => return Outcome::NotLooked(reason.clone()),
    };
    let Some(peer) = host.peers.iter().find_map(|peer| v4(peer.address)) else {
        return Outcome::NotLooked("no inner peer address is known".to_owned());
    };
    let far = host.routes.iter().find_map(|route| {
        let prefix = route.destination;
        let address = InnerAddress { local: prefix.address, peer: None, prefix_length: prefix.length };
        sample(&address)
    });
    let served = |own: &InnerAddress, device: &Device| {
        // With no network behind the far end the peer alone is served, and only where it is handed on at all.
        far.is_some()
            || facts.spec.inner.forward
            || facts.spec.inner.snat.is_some()
            || sample(own).is_some_and(|to| {
                let packet = packet(peer, to, InDevice::None, known(device), State::New);
                ruleset.translates_source(&packet) == Some(true)
            })
    };
    let mut unknown = None;
    let mut findings: Vec<Finding> = Vec::new();
    for (device, own) in behind(facts) {
        let Some(here) = sample(own).filter(|_| served(own, device)) else { continue };
        let there = far.unwrap_or(peer);
        // Where only the peer is served, what goes back to it is answers.
        let back = if far.is_some() { State::New } else { State::Established };
        let ways = [
            (packet(there, here, known(tunnel), known(device), State::New), &tunnel.name, &device.name),
            (packet(here, there, known(device), known(tunnel), back), &device.name, &tunnel.name),
        ];
        for (packet, from, to) in ways {
            let place = match ruleset.fate(&[Hook::Prerouting, Hook::Forward, Hook::Postrouting], &packet) {
                Fate::Accepted => continue,
                Fate::Unknown(place) => {
                    unknown.get_or_insert(place);
                    continue;
                }
                Fate::Dropped(place) => place,
            };
            let seen = format!("from {from} to {to}: {place}");
            // One rule that drops both ways, or to several networks, is one finding.
            let base = place.base.clone();
            if let Some(known) = findings.iter_mut().find(|finding| finding.sentence.contains(&base)) {
                known.evidence.push(seen);
                continue;
            }
            let finding = Finding::hinders(
                "forward-drops",
                format!(
                    "this host's firewall does not let pass what is forwarded through {}: chain {base} of table {}",
                    facts.spec.name, place.table
                ),
            );
            let commands = firewall::cure(ruleset, &place, Wanted::Through(&tunnel.name));
            findings.push(commands.into_iter().fold(finding.seen(seen), Finding::cure));
        }
    }
    match (findings.is_empty(), unknown) {
        (true, Some(place)) => Outcome::NotLooked(format!("{place} has a condition that is not known here")),
        _ => Outcome::of(findings),
    }
}

/// The networks behind this host: those of devices that are neither the tunnel nor the way to the remote.
pub(super) fn behind(facts: &Facts) -> Vec<(&Device, &InnerAddress)> {
    let underlay = facts.host.free_way.as_ref().map(|way| way.ifindex);
    let tunnels = facts.status().map(|status| status.tunnels.as_slice()).unwrap_or_default();
    let is_tunnel = |device: &Device| {
        device.name == facts.spec.name.as_str()
            || tunnels.iter().any(|tunnel| tunnel.spec.name.as_str() == device.name)
    };
    let devices = facts.host.devices.iter().filter(|device| {
        device.up && !device.loopback && Some(device.index) != underlay && !is_tunnel(device)
    });
    let own = devices.flat_map(|device| device.addresses.iter().map(move |own| (device, own)));
    own.filter(|(_, own)| own.local.is_ipv4() && own.prefix_length < 31).take(MOST).collect()
}

/// A host in the network of an address that is not the address itself.
pub(super) fn sample(own: &InnerAddress) -> Option<Ipv4Addr> {
    let IpAddr::V4(local) = own.local else { return None };
    let network = v4(own.connected().address)?;
    let first = Ipv4Addr::from(network.to_bits() | 2);
    Some(if own.prefix_length > 30 || first == local { Ipv4Addr::from(network.to_bits() | 1) } else { first })
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn known(device: &Device) -> InDevice<'_> {
    InDevice::Known(&device.name, device.index)
}

/// A ping that is handed on.
fn packet<'a>(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    input: InDevice<'a>,
    output: InDevice<'a>,
    state: State,
) -> Packet<'a> {
    Packet { protocol: 1, source: source.into(), destination: destination.into(), input, output, state }
}
