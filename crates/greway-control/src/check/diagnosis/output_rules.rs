//! The host's firewall keeps GRE from leaving. The kernel says so itself, to whoever sends.

use std::net::IpAddr;

use greway_netlink::nftables::Hook;

use super::firewall::{self, Wanted};
use crate::check::ruleset::{Fate, InDevice, Packet, State};
use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    let Some((_, remote)) = facts.ends() else {
        return Outcome::NotLooked(super::ONE_FAR_END.to_owned());
    };
    // What a policy of IPsec refuses, the kernel refuses with the same word.
    if facts.host.ipsec.as_ref().is_ok_and(|ipsec| !ipsec.policies.is_empty())
        && matches!(super::ipsec::find(facts), Outcome::Found(_))
    {
        return Outcome::Fine;
    }
    let refused = facts.probes.trace.as_ref().is_ok_and(|trace| trace.refused);
    let (total, now) = facts.drops("firewall-refused");
    let measured = refused || now > 0 || (total > 0 && !facts.was_heard());
    let ruleset = match facts.host.ruleset_for(remote) {
        Ok(ruleset) => ruleset,
        Err(reason) if measured => {
            return Some(base(remote).seen(evidence(total, now)).seen(reason)).into();
        }
        Err(reason) => return Outcome::NotLooked(reason),
    };
    let way = facts.host.free_way.as_ref();
    let out = way.and_then(|way| facts.host.device_by_index(way.ifindex));
    let (Some(out), Some(source)) = (out, facts.source()) else {
        return Outcome::NotLooked("there is no way to the remote".to_owned());
    };
    let packet = |state| Packet {
        protocol: 47,
        source,
        destination: remote,
        input: InDevice::None,
        output: InDevice::Known(&out.name, out.index),
        state,
    };
    let fate = |state| ruleset.fate(&[Hook::Output, Hook::Postrouting], &packet(state));
    let place = match (fate(State::New), measured) {
        (Fate::Dropped(place), _) => place,
        (Fate::Unknown(place), true) => place,
        (Fate::Unknown(place), false) => {
            // Something with a condition of its own: what is sent gets out, so it is not for us.
            let sends = facts.tunnel().is_some_and(|tunnel| tunnel.counters.sent_packets > 0);
            return match sends {
                true => Outcome::Fine,
                false => Outcome::NotLooked(format!("{place} has a condition that is not known here")),
            };
        }
        (Fate::Accepted, true) => {
            return Some(base(remote).seen(evidence(total, now)).cure("nft list ruleset")).into();
        }
        (Fate::Accepted, false) => return Outcome::Fine,
    };
    let mut finding = base(remote).seen(place.to_string());
    if measured {
        finding = finding.seen(evidence(total, now));
    }
    for command in firewall::cure(ruleset, &place, Wanted::Out(&remote.to_string())) {
        finding = finding.cure(command);
    }
    Some(finding).into()
}

fn base(remote: IpAddr) -> Finding {
    Finding::stops("output-drops-gre", format!("this host's firewall does not let GRE to {remote} out"))
}

fn evidence(total: u64, now: u64) -> String {
    format!(
        "the kernel refused to send GRE: {total} packets dropped, firewall-refused, {now} during this check"
    )
}
