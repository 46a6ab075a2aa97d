//! A peer whose inner address is its outer one: what is sent into the tunnel goes into the tunnel again.

use crate::check::shell::word;
use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    let Some(remote) = facts.spec.remote else {
        return Outcome::NotLooked("the tunnel has no remote".to_owned());
    };
    let name = &facts.spec.name;
    let Some(peer) = facts.host.peers.iter().find(|peer| peer.address == remote) else {
        return Outcome::Fine;
    };
    Some(
        Finding::stops(
            "inner-is-outer",
            format!(
                "the peer's inner address is its outer one, {remote}: its GRE would go into the tunnel again"
            ),
        )
        .seen(format!("{} is on {name}", peer.own))
        .cure(format!("ip addr del {} dev {}", peer.own, word(name.as_str())))
        .cure(format!(
            "ip addr add {} peer INNER-ADDRESS-OF-THE-FAR-END/30 dev {}",
            peer.own.local,
            word(name.as_str())
        )),
    )
    .into()
}
