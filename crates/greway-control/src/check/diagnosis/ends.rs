//! Local and remote swapped, or both this host's: what comes of the guide's block for the other host, pasted
//! here as it is.

use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    let Some(remote) = facts.spec.remote else {
        return Outcome::NotLooked("the tunnel has no remote".to_owned());
    };
    let Some(owner) = facts.host.owner(remote) else { return Outcome::Fine };
    let evidence = format!("{remote} is on {}", owner.name);
    let local = facts.spec.local;
    match local.map(|local| (local, facts.host.owner(local))) {
        Some((local, None)) => Some(
            Finding::stops(
                "ends-swapped",
                format!("local and remote are swapped: remote {remote} is this host, local {local} is not"),
            )
            .seen(evidence)
            .cure(facts.change(&format!("local {remote} remote {local}"))),
        )
        .into(),
        Some((local, Some(device))) => Some(
            Finding::stops(
                "both-ends-here",
                format!("both ends are this host: remote {remote} and local {local}"),
            )
            .seen(evidence)
            .seen(format!("{local} is on {}", device.name))
            .cure(facts.change("remote ADDRESS-OF-THE-FAR-END")),
        )
        .into(),
        None => Some(
            Finding::stops("both-ends-here", format!("remote {remote} is this host itself"))
                .seen(evidence)
                .cure(facts.change("remote ADDRESS-OF-THE-FAR-END")),
        )
        .into(),
    }
}
