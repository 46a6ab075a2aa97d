//! ip_forward: off by default, and the guide never turns it on.

use greway_netlink::nftables::Hook;

use super::forward_rules::{behind, sample};
use crate::check::ruleset::{InDevice, Packet, State};
use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    let mut findings = Vec::new();
    let (spec, host) = (&facts.spec, &facts.host);
    let v6 = spec.inner.forward && spec.inner.addresses.iter().any(|address| address.local.is_ipv6());
    if v6 && !host.forwards_v6 {
        findings.push(
            Finding::hinders(
                "no-forwarding",
                "this host does not forward IPv6, and the tunnel's file asks for it",
            )
            .seen("net.ipv6.conf.all.forwarding = 0")
            .cure("sysctl -w net.ipv6.conf.all.forwarding=1"),
        );
    }
    if host.forwards_v4 {
        return Outcome::of(findings);
    }
    let cure = "sysctl -w net.ipv4.ip_forward=1";
    let off = "net.ipv4.ip_forward = 0";
    let wanted = if spec.inner.forward {
        Some("the tunnel's file asks for it (forward = true)".to_owned())
    } else if let Some(snat) = spec.inner.snat {
        Some(format!("packets of the peer are to be translated to {snat} and handed on"))
    } else if let Some(device) = translated(facts) {
        Some(format!("a rule translates packets of the peer that leave by {device}"))
    } else {
        // Dropped for want of forwarding while something came out of the tunnel.
        let dropped = facts.probes.not_forwarded.as_ref().copied().unwrap_or(0);
        (dropped > 0 && facts.received_meanwhile() > 0)
            .then(|| format!("{dropped} packets for others were dropped during this check (InAddrErrors)"))
    };
    if let Some(why) = wanted {
        findings.push(
            Finding::hinders(
                "no-forwarding",
                "this host does not forward: nothing of the tunnel goes on from here",
            )
            .seen(off)
            .seen(why)
            .cure(cure),
        );
        return Outcome::of(findings);
    }
    let behind = behind(facts);
    if !host.routes.is_empty() && !behind.is_empty() {
        let networks = behind.iter().map(|(device, own)| format!("{} on {}", own.connected(), device.name));
        findings.push(
            Finding::note(
                "no-forwarding",
                "this host does not forward: it uses the tunnel itself, and hosts behind it cannot",
            )
            .seen(off)
            .seen(format!("behind it: {}", networks.collect::<Vec<_>>().join(", ")))
            .cure(cure),
        );
    }
    Outcome::of(findings)
}

/// The device by which packets of the peer leave translated.
fn translated(facts: &Facts) -> Option<String> {
    let ruleset = facts.host.ruleset.as_ref().ok()?;
    if !ruleset.chains.iter().any(|chain| {
        chain.base.is_some_and(|base| base.hook == Hook::Postrouting && base.translates)
            && !chain.rules.is_empty()
    }) {
        return None;
    }
    let peer = facts.host.peers.iter().find_map(|peer| match peer.address {
        std::net::IpAddr::V4(address) => Some(address),
        std::net::IpAddr::V6(_) => None,
    })?;
    behind(facts).into_iter().find_map(|(device, own)| {
        let packet = Packet {
            protocol: 1,
            source: peer.into(),
            destination: sample(own)?.into(),
            input: InDevice::None,
            output: InDevice::Known(&device.name, device.index),
            state: State::New,
        };
        (ruleset.translates_source(&packet) == Some(true)).then(|| device.name.clone())
    })
}
