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
    let lately = refused || now > 0;
    let measured = lately || (total > 0 && !facts.was_heard());
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
        // What was refused once counts for ever; rules that are gone refuse nothing.
        (Fate::Accepted, true) if lately => {
            return Some(base(remote).seen(evidence(total, now)).cure("nft list ruleset")).into();
        }
        (Fate::Accepted, _) => return Outcome::Fine,
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use greway_netlink::{Netlink, RouteOptions};

    use super::*;
    use crate::check::diagnosis::tests::{facts, ids};
    use crate::check::facts::{Daemon, Device, Trace};
    use crate::status::Drop;

    #[test]
    fn what_was_refused_before_the_rules_went_is_no_finding() {
        let mut facts = facts();
        // Any way that there is will do.
        let way = Netlink::open().unwrap().route_to([127, 0, 0, 1].into(), &RouteOptions::default()).unwrap();
        facts.host.free_way = Some(way);
        facts.host.devices =
            Arc::new(vec![Device { index: way.ifindex, name: "eth0".to_owned(), ..Device::default() }]);
        let Daemon::Answers { after, .. } = &facts.daemon else { panic!("it answers") };
        let mut status = (**after).clone();
        status.tunnels[0].drops.push(Drop {
            reason: "firewall-refused".to_owned(),
            direction: "transmit".to_owned(),
            packets: 9,
            explanation: String::new(),
        });
        let status = Arc::new(status);
        facts.daemon = Daemon::Answers { before: Arc::clone(&status), after: status };
        // No rule is there any more, and none of the nine was refused during this look.
        assert_eq!(ids(find(&facts)), [""; 0]);
        facts.probes.trace = Ok(Trace { refused: true, ..Trace::default() });
        assert_eq!(ids(find(&facts)), ["output-drops-gre"]);
    }
}
