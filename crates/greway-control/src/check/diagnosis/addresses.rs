//! What a tunnel's file asks for inside, compared with what is there: people and programs take addresses away.

use greway_spec::InnerAddress;

use crate::check::shell::word;
use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    let Some(device) = facts.device().filter(|device| device.up && facts.tunnel().is_some()) else {
        return Outcome::NotLooked("the tunnel has no device that is up".to_owned());
    };
    let name = &facts.spec.name;
    let mut findings = Vec::new();
    let there = |wanted: &&InnerAddress| device.addresses.iter().any(|own| own.local == wanted.local);
    for address in facts.spec.inner.addresses.iter().filter(|wanted| !there(wanted)) {
        findings.push(
            Finding::stops("address-missing", format!("{name} has no address {}", address.local))
                .seen(format!("asked for by {}, not on the device", facts.spec.origin))
                .cure(format!("ip addr replace {} dev {}", written(address), word(name.as_str()))),
        );
    }
    let through = |wanted: &&greway_spec::InnerRoute| {
        facts.host.routes.iter().any(|route| route.destination == wanted.destination)
    };
    // Routes of other tables are not in the list that this is compared with.
    let main = facts.spec.inner.routes.iter().filter(|route| route.table.is_none());
    for route in main.filter(|wanted| !through(wanted)) {
        findings.push(
            Finding::hinders(
                "route-missing",
                format!("packets for {} do not go into {name}: the route is not there", route.destination),
            )
            .seen(format!("asked for by {}, not in the main table", facts.spec.origin))
            .cure(format!("ip route replace {route} dev {}", word(name.as_str()))),
        );
    }
    Outcome::of(findings)
}

/// As `ip addr add` takes it.
pub(super) fn written(address: &InnerAddress) -> String {
    address.to_string()
}
