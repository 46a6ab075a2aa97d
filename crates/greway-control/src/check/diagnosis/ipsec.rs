//! IPsec: a policy that covers the tunnel's outer packets and blocks them, or wants an association that is not
//! there.

use std::net::IpAddr;

use greway_netlink::xfrm::{Action, Direction, XfrmPolicy};

use crate::check::facts::Ipsec;
use crate::check::{Facts, Finding, Outcome};

const GRE: u8 = 47;

pub(super) fn find(facts: &Facts) -> Outcome {
    let ipsec = match &facts.host.ipsec {
        Ok(ipsec) => ipsec,
        Err(reason) => return Outcome::NotLooked(reason.clone()),
    };
    let Some(remote) = facts.spec.remote else {
        return Outcome::NotLooked("the tunnel has no remote".to_owned());
    };
    let Some(local) = facts.source() else {
        return Outcome::NotLooked("there is no way to the remote".to_owned());
    };
    let covered = ipsec.policies.iter().filter(|policy| match policy.direction {
        Direction::Out => policy.covers(local, remote, GRE),
        Direction::In => policy.covers(remote, local, GRE),
        _ => false,
    });
    let of = |policy: &XfrmPolicy| format!("src {} dst {}", policy.source, policy.destination);
    let findings = covered.filter_map(|policy| {
        let way = if policy.direction == Direction::Out { "out" } else { "in" };
        if policy.action == Action::Block {
            return Some(
                Finding::stops("ipsec-blocks", format!("an IPsec policy blocks GRE on its way {way}"))
                    .seen(format!("ip xfrm policy: {} dir {way} action block", of(policy)))
                    .cure(format!("ip xfrm policy delete {} {}dir {way}", of(policy), protocol(policy))),
            );
        }
        let missing = missing(policy, ipsec, local, remote)?;
        Some(
            Finding::stops(
                "ipsec-no-state",
                format!(
                    "an IPsec policy wants GRE {way} encrypted, and there is no security association for it"
                ),
            )
            .seen(format!("ip xfrm policy: {} dir {way}", of(policy)))
            .seen(format!("ip xfrm state: none to {missing}"))
            .cure("swanctl --initiate --child NAME")
            .cure("ipsec up NAME"),
        )
    });
    Outcome::of(findings.collect())
}

fn protocol(policy: &XfrmPolicy) -> String {
    if policy.protocol == 0 { String::new() } else { format!("proto {} ", policy.protocol) }
}

/// The other end of the first association that a policy wants and that is not there.
fn missing(policy: &XfrmPolicy, ipsec: &Ipsec, local: IpAddr, remote: IpAddr) -> Option<IpAddr> {
    let end = if policy.direction == Direction::Out { remote } else { local };
    policy.templates.iter().find_map(|template| {
        let wanted = template.destination.unwrap_or(end);
        let has = ipsec.states.iter().any(|s| s.destination == wanted && s.protocol == template.protocol);
        (!has).then_some(wanted)
    })
}
