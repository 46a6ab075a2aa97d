//! rp_filter on the underlay: GRE of the remote comes in by another device than the one that leads to it.

use crate::check::shell;
use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    if facts.spec.mode.over_ipv6() {
        // There is no rp_filter of IPv6.
        return Outcome::Fine;
    }
    let wire = match &facts.probes.wire {
        Ok(wire) => wire,
        Err(reason) => return Outcome::NotLooked(reason.clone()),
    };
    let Some((_, remote)) = facts.ends() else {
        return Outcome::NotLooked(super::ONE_FAR_END.to_owned());
    };
    let leads = facts.host.free_way.as_ref().map(|way| way.ifindex);
    let wrong = wire.packets.iter().find_map(|packet| {
        let device = facts.host.device_by_index(packet.ifindex)?;
        let strict = facts.host.reverse_path.get(&device.name) == Some(&1);
        (strict && leads != Some(packet.ifindex)).then_some((device, packet.count))
    });
    wrong
        .map(|(device, count)| {
            let name = &device.name;
            let by = leads.and_then(|index| facts.host.device_by_index(index));
            let by = by.map_or_else(|| "nowhere".to_owned(), |by| by.name.clone());
            Finding::stops(
                "rp-filter-underlay",
                format!("GRE of {remote} comes in by {name}, the way to it leads by {by}, and rp_filter forbids that"),
            )
            .seen(format!("{count} packets came in by {name} during this check; rp_filter there is 1"))
            .cure(shell::reverse_path_of(name, 2))
        })
        .into()
}
