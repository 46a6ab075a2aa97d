//! Small packets pass and large ones do not, and nobody says so: the MTU black hole.

use crate::check::shell::word;
use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    let sizes = match &facts.probes.sizes {
        Ok(sizes) => sizes,
        Err(reason) => return Outcome::NotLooked(reason.clone()),
    };
    if sizes.passes >= sizes.mtu {
        return Outcome::Fine;
    }
    let (name, passes) = (&facts.spec.name, sizes.passes);
    let mut finding = Finding::hinders(
        "mtu-black-hole",
        format!("packets of more than {passes} bytes do not pass, and {name} takes {}", sizes.mtu),
    )
    .seen(format!("echoes of {passes} bytes with DF were answered, of {} bytes none of three", sizes.mtu));
    if let Ok(wire) = &facts.probes.wire {
        for error in wire.errors.iter().filter(|error| error.mtu > 0) {
            finding = finding.seen(format!("{} says that it takes {} bytes", error.from, error.mtu));
        }
    }
    Some(finding.cure(format!("ip link set {} mtu {passes}", word(name.as_str())))).into()
}
