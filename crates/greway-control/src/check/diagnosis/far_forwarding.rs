//! The far end does not hand on what is for the networks behind it: found by a packet with no hops left, to which
//! a host that forwards has to answer.

use crate::check::facts::OnwardAnswer;
use crate::check::shell::word;
use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    let asked = match &facts.probes.far_forwarding {
        Ok(asked) => asked,
        Err(reason) => return Outcome::NotLooked(reason.clone()),
    };
    // One answer of any kind, and an answer to another route says as much.
    let forwards = asked.iter().any(|onward| onward.answer == Some(OnwardAnswer::Forwards));
    let findings = asked.iter().filter_map(|onward| {
        let route = onward.route;
        let name = &facts.spec.name;
        match onward.answer {
            Some(OnwardAnswer::Forwards | OnwardAnswer::Own) => None,
            Some(OnwardAnswer::NoRoute) => Some(
                Finding::hinders("far-end-no-route", format!("the far end has no way to {route}"))
                    .seen(format!("it answered a packet for {} with ICMP unreachable", onward.asked))
                    .cure_far(format!("ip route add {route} dev DEVICE-OF-THAT-NETWORK"))
                    .cure(format!("ip route del {route} dev {}", word(name.as_str()))),
            ),
            // It hands on for another network, and may have a firewall for this one.
            None if forwards => None,
            None => Some(
                Finding::hinders(
                    "far-end-does-not-forward",
                    format!("the far end does not hand on packets for {route}: ip_forward is off there, or its firewall drops them"),
                )
                .seen(format!("it answers to its inner address, and not to two packets for {} with no hops left, as a host that forwards must", onward.asked))
                .cure_far("sysctl -w net.ipv4.ip_forward=1"),
            ),
        }
    });
    Outcome::of(findings.collect())
}
