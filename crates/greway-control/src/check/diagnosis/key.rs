//! GRE of the far end that is no packet of this tunnel: with another key, or to another address.

use std::net::IpAddr;

use crate::check::{Facts, Finding, Outcome};

/// How old a packet may be that tells of a fault now, in seconds.
const FRESH: f64 = 120.0;

/// What the far end sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    destination: IpAddr,
    key: Option<u32>,
}

pub(super) fn find(facts: &Facts) -> Outcome {
    let Some(tunnel) = facts.tunnel() else {
        return Outcome::NotLooked("the tunnel is not carried".to_owned());
    };
    let Some((local, remote)) = facts.ends() else {
        return Outcome::NotLooked(super::ONE_FAR_END.to_owned());
    };
    // A far end that is heard by this tunnel may have others to this host, which are not configured here.
    if facts.is_alive() {
        return Outcome::Fine;
    }
    let (spec, name) = (&facts.spec, &facts.spec.name);
    // Packets of other tunnels of this host to the same remote are no fault of this one.
    let status = facts.status();
    let others = status.map(|status| status.tunnels.as_slice()).unwrap_or_default();
    let of_another = |key: Option<u32>| {
        let same = |other: &&crate::status::TunnelStatus| {
            other.spec.name != *name && other.spec.remote == spec.remote && other.spec.ikey == key
        };
        others.iter().any(|other| same(&other))
    };
    let mut sent = Vec::new();
    let fresher =
        |seconds: f64| seconds < FRESH && tunnel.last_received_seconds.is_none_or(|last| seconds < last);
    for packet in facts.strangers().filter(|packet| fresher(packet.last_seen_seconds)) {
        if let Ok(destination) = packet.destination.parse() {
            sent.push((Sent { destination, key: packet.key }, packet.packets));
        }
    }
    if let Ok(wire) = &facts.probes.wire {
        for packet in &wire.packets {
            let seen = Sent { destination: packet.destination, key: packet.key };
            if !sent.iter().any(|(known, _)| *known == seen) {
                sent.push((seen, u64::from(packet.count)));
            }
        }
    }
    let ours = |sent: &Sent| sent.key == spec.ikey && local.is_none_or(|local| sent.destination == local);
    if sent.iter().any(|(sent, _)| ours(sent)) {
        return Outcome::Fine;
    }
    let word = |key: Option<u32>| key.map_or_else(|| "no key".to_owned(), |key| format!("key {key}"));
    let number = |key: Option<u32>| key.map_or_else(|| "none".to_owned(), |key| key.to_string());
    let change = |key: Option<u32>| key.map_or_else(|| "nokey".to_owned(), |key| format!("key {key}"));
    let wrong_key = sent.iter().find(|(sent, _)| sent.key != spec.ikey && !of_another(sent.key));
    if let Some((sent, packets)) = wrong_key {
        return Some(
            Finding::stops(
                "key-mismatch",
                format!("peer sends {}, this tunnel expects {}", word(sent.key), number(spec.ikey)),
            )
            .seen(format!("{packets} packets of {remote} with {} matched no tunnel", word(sent.key)))
            .cure(facts.change(&change(sent.key)))
            .cure_far(facts.change_far(&change(spec.ikey))),
        )
        .into();
    }
    let elsewhere = sent.iter().find(|(sent, _)| sent.key == spec.ikey);
    elsewhere
        .map(|(sent, packets)| {
            let local = spec.local.map_or_else(|| "any".to_owned(), |local| local.to_string());
            Finding::stops(
                "sent-elsewhere",
                format!("peer sends to {}, this tunnel's local is {local}", sent.destination),
            )
            .seen(format!("{packets} packets of {remote} to {} matched no tunnel", sent.destination))
            .cure(facts.change(&format!("local {}", sent.destination)))
            .cure_far(facts.change_far(&format!("remote {local}")))
        })
        .into()
}
