//! A `local` that is not this host's: the public address of a cloud's 1:1 NAT, for one.

use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    let Some(local) = facts.spec.local else { return Outcome::Fine };
    let remote = facts.spec.remote;
    // Swapped ends are another finding, with another cure.
    if facts.host.owner(local).is_some() || remote.is_some_and(|remote| facts.host.owner(remote).is_some()) {
        return Outcome::Fine;
    }
    let finding = Finding::stops("local-not-here", format!("local {local} is not an address of this host"))
        .seen(format!("no device has {local}"));
    let way = facts.host.free_way.as_ref();
    let candidate = way.and_then(|way| way.source).filter(|candidate| *candidate != local);
    let finding = match (candidate, remote) {
        (Some(candidate), Some(remote)) => {
            let device = facts.host.owner(candidate).map_or_else(String::new, |d| format!(" on {}", d.name));
            let nat = ": behind a 1:1 NAT, as clouds have it, that private address is `local`, and the far end keeps \
                       the public one as its remote";
            // Which clouds do with IPv4 only.
            let nat = if remote.is_ipv4() { nat } else { "" };
            finding
                .seen(format!("the way to {remote} begins at {candidate}{device}{nat}"))
                .cure(facts.change(&format!("local {candidate}")))
        }
        _ => finding.cure(format!("ip addr add {local} dev DEVICE")),
    };
    Some(finding).into()
}
