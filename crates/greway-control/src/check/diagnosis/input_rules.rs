//! The host's firewall keeps the far end's GRE from the tunnel: by what its rules say, or by what was seen, GRE
//! on the wire that never reaches the tunnel.

use std::net::IpAddr;

use greway_netlink::nftables::Hook;
use greway_spec::{FirewallPolicy, UnderlayChoice};

use super::firewall::{self, Wanted};
use crate::check::facts::WirePacket;
use crate::check::ruleset::{Fate, InDevice, Packet, Place, State};
use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    let Some((_, remote)) = facts.ends() else {
        return Outcome::NotLooked(super::ONE_FAR_END.to_owned());
    };
    // Who passes by the firewall is not hindered by it.
    let by_packet_socket = facts.tunnel().is_some_and(|tunnel| {
        let asked =
            tunnel.spec.firewall == FirewallPolicy::Bypass || tunnel.spec.underlay == UnderlayChoice::Packet;
        asked && tunnel.datapath.underlay == "packet"
    });
    if by_packet_socket {
        return Outcome::Fine;
    }
    let arrived = arrived(facts);
    let lost =
        arrived.is_some_and(|packet| packet.count > 0) && facts.tunnel().is_some() && took_nothing(facts);
    let way = facts.host.free_way.as_ref();
    let Some(destination) = facts.source() else {
        return Outcome::NotLooked("there is no way to the remote".to_owned());
    };
    let index = arrived.map(|packet| packet.ifindex).or_else(|| way.map(|way| way.ifindex));
    let device = index.and_then(|index| facts.host.device_by_index(index));
    let on_wire = |finding: Finding| match (lost, arrived) {
        (true, Some(packet)) => finding.seen(format!(
            "{} GRE packets of {remote} arrived during this check and none reached the tunnel",
            packet.count
        )),
        _ => finding,
    };
    let ruleset = match facts.host.ruleset_for(remote) {
        Ok(ruleset) => ruleset,
        Err(reason) if lost => return Some(on_wire(base(remote)).seen(reason)).into(),
        Err(reason) => return Outcome::NotLooked(reason),
    };
    let packet = |state| Packet {
        protocol: 47,
        source: remote,
        destination,
        input: device.map_or(InDevice::Unknown, |device| InDevice::Known(&device.name, device.index)),
        output: InDevice::None,
        state,
    };
    let fate = |state| ruleset.fate(&[Hook::Prerouting, Hook::Input], &packet(state));
    let cured = |finding: Finding, place: &Place| {
        let commands = firewall::cure(ruleset, place, Wanted::In(&remote.to_string()));
        commands.into_iter().fold(finding.seen(place.to_string()), Finding::cure)
    };
    match (fate(State::New), fate(State::Established)) {
        (Fate::Dropped(place), Fate::Dropped(_)) => Some(cured(on_wire(base(remote)), &place)).into(),
        // Answers to what this end sent come in; the far end cannot begin.
        (Fate::Dropped(place), Fate::Accepted) if !lost => Some(cured(
            Finding::note(
                "input-takes-answers-only",
                format!(
                    "this host's firewall lets GRE of {remote} in only as an answer: the far end is not heard \
                     when this end has been silent for some minutes"
                ),
            ),
            &place,
        ))
        .into(),
        (Fate::Dropped(place) | Fate::Unknown(place), _) if lost => Some(cured(on_wire(base(remote)), &place)).into(),
        (Fate::Dropped(place) | Fate::Unknown(place), _) if facts.was_heard() => {
            // It gets in, so the condition is not for it.
            let _known_to_pass = place;
            Outcome::Fine
        }
        (Fate::Dropped(place), _) => Some(cured(base(remote), &place)).into(),
        (Fate::Unknown(place), _) => Outcome::NotLooked(format!("{place} has a condition that is not known here")),
        (Fate::Accepted, _) if lost => {
            // What conntrack takes for invalid is dropped by a rule of its own.
            match fate(State::Invalid) {
                Fate::Dropped(place) | Fate::Unknown(place) => Some(cured(
                    on_wire(Finding::stops(
                        "conntrack-invalid",
                        format!("GRE of {remote} is dropped here as what conntrack calls INVALID"),
                    )),
                    &place,
                ))
                .into(),
                Fate::Accepted => Some(on_wire(base(remote)).cure("nft list ruleset")).into(),
            }
        }
        (Fate::Accepted, _) => Outcome::Fine,
    }
}

fn base(remote: IpAddr) -> Finding {
    Finding::stops("input-drops-gre", format!("this host's firewall does not let GRE of {remote} in"))
}

/// GRE on the wire that is for this tunnel.
fn arrived(facts: &Facts) -> Option<&WirePacket> {
    let wire = facts.probes.wire.as_ref().ok()?;
    let ours = |packet: &&WirePacket| {
        packet.key == facts.spec.ikey && facts.spec.local.is_none_or(|local| local == packet.destination)
    };
    wire.packets.iter().filter(ours).max_by_key(|packet| packet.count)
}

/// Whether nothing of what arrived came as far as the tunnel: neither delivered, nor dropped by it, nor by the
/// reverse path filter, which is another finding.
fn took_nothing(facts: &Facts) -> bool {
    let drops = |tunnel: Option<&crate::status::TunnelStatus>| {
        let drops = tunnel.map(|tunnel| tunnel.drops.as_slice()).unwrap_or_default();
        drops.iter().filter(|drop| drop.direction == "receive").map(|drop| drop.packets).sum::<u64>()
    };
    let dropped = drops(facts.tunnel()).saturating_sub(drops(facts.tunnel_before()));
    let reverse = matches!(super::underlay_reverse_path::find(facts), Outcome::Found(_));
    facts.received_meanwhile() == 0 && dropped == 0 && !reverse
}

#[cfg(test)]
mod tests {
    use greway_netlink::nftables::{Comparison, Decision, Family, Load, NftRule, Step, TableId};

    use super::*;
    use crate::check::diagnosis::tests::{facts, ids};
    use crate::check::facts::Wire;
    use crate::check::ruleset::{Base, Chain, Ruleset};

    /// `ct state invalid drop` on INPUT.
    fn drops_invalid() -> Ruleset {
        let table = TableId::new(Family::Inet, "filter");
        let steps = vec![
            Step::Load { what: Load::Connection(0), register: 0, length: 0 },
            Step::Mask { from: 0, to: 0, mask: 1_u32.to_ne_bytes().to_vec(), xor: vec![0; 4] },
            Step::Compare { register: 0, comparison: Comparison::NotEqual, bytes: vec![0; 4] },
            Step::Decide(Decision::Drop),
        ];
        let (name, chain) = ("input".to_owned(), "input".to_owned());
        let rules = vec![NftRule { table: table.clone(), chain, handle: 4, comment: None, steps }];
        let base = Some(Base { hook: Hook::Input, priority: 0, drops: false, translates: false });
        Ruleset { chains: vec![Chain { legacy: false, table, name, base, rules }], sets: Vec::new() }
    }

    #[test]
    fn what_is_lost_where_invalid_is_dropped_was_invalid() {
        let mut facts = facts();
        facts.host.ruleset = Ok(drops_invalid().into());
        // That there is such a rule is no fault: every firewall has it.
        assert_eq!(ids(find(&facts)), [""; 0]);
        let packet = WirePacket {
            source: [10, 0, 0, 2].into(),
            destination: [10, 0, 0, 1].into(),
            ifindex: 2,
            key: None,
            checksum: false,
            sequence: false,
            inner_source: None,
            count: 3,
        };
        facts.probes.wire = Ok(Wire { packets: vec![packet.clone()], errors: Vec::new() });
        let found = find(&facts);
        let Outcome::Found(findings) = &found else { panic!("{found:?}") };
        assert!(findings[0].evidence.iter().any(|seen| seen.contains("chain input: rule 1 (handle 4)")));
        assert_eq!(ids(found), ["conntrack-invalid"]);
        // Of another tunnel it says nothing about this one.
        facts.probes.wire =
            Ok(Wire { packets: vec![WirePacket { key: Some(7), ..packet }], errors: Vec::new() });
        assert_eq!(ids(find(&facts)), [""; 0]);
    }
}
