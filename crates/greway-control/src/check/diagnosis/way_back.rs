//! The far end has no route back to the networks here: it answers to this host's inner address and to no other.

use crate::check::shell::word;
use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    let asked = match &facts.probes.ways_back {
        Ok(asked) => asked,
        Err(reason) => return Outcome::NotLooked(reason.clone()),
    };
    let name = &facts.spec.name;
    let peer = facts.probes.echo.as_ref().ok().and_then(|echo| echo.peer);
    let Some(peer) = peer else { return Outcome::NotLooked("no inner peer address is known".to_owned()) };
    let silent = asked.iter().filter(|back| !back.answers).map(|back| {
        let network = back.own.connected();
        Finding::hinders(
            "no-way-back",
            format!("the far end has no way back to {network}: hosts there get no answers through {name}"),
        )
        .seen(format!("{peer} answers to this host's inner address and not to {}", back.own.local))
        .cure_far(format!("ip route replace {network} dev {}", word(name.as_str())))
    });
    Outcome::of(silent.collect())
}
