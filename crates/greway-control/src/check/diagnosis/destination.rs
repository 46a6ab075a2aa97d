//! A host behind the far end that the user named: what it lacks when it does not answer.

use crate::check::facts::OnwardAnswer;
use crate::check::shell::word;
use crate::check::{Facts, Finding, Outcome, Place};

pub(super) fn find(facts: &Facts) -> Outcome {
    let destination = match &facts.probes.destination {
        Some(Ok(destination)) => destination,
        Some(Err(reason)) => return Outcome::NotLooked(reason.clone()),
        None => return Outcome::NotLooked("no host was named (--to ADDRESS)".to_owned()),
    };
    let (name, address) = (&facts.spec.name, destination.address);
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    if !destination.through {
        return Some(
            Finding::hinders("not-through-tunnel", format!("packets for {address} do not go into {name}"))
                .seen(format!("the route to {address} does not lead to {name}"))
                .cure(format!("ip route replace {address}/{prefix} dev {}", word(name.as_str()))),
        )
        .into();
    }
    // A far end that is silent, or does not forward, is told by findings of their own.
    let answered = facts.probes.echo.as_ref().is_ok_and(|echo| echo.answered > 0);
    let stopped = facts.probes.far_forwarding.as_ref().is_ok_and(|asked| {
        let forwards = asked.iter().any(|onward| onward.answer == Some(OnwardAnswer::Forwards));
        !asked.is_empty() && !forwards
    });
    if destination.answers || !answered || stopped {
        return Outcome::Fine;
    }
    let source = destination.source.map_or_else(|| "this host".to_owned(), |source| source.to_string());
    Some(
        Finding::hinders(
            "destination-silent",
            format!("{address} does not answer through {name}, and the far end does: {address} is down, drops pings, or knows no way back to {source}"),
        )
        .seen(format!("two pings from {source} to {address} were not answered"))
        .cure_far(format!("iptables -t nat -A POSTROUTING -s {source} -d {address} -j MASQUERADE"))
        .cure_at(Place::Behind, format!("ip route add {source} via ADDRESS-OF-THE-FAR-END-THERE")),
    )
    .into()
}
