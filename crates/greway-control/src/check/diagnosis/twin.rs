//! Both ends have the same inner address: the guide's second block, pasted as it is.

use crate::check::shell::word;
use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    let Some(peer) = facts.host.peers.first() else {
        return Outcome::NotLooked("no inner peer address is known".to_owned());
    };
    let name = &facts.spec.name;
    let finding = |evidence: String| {
        let own = &peer.own;
        let prefix = own.prefix_length;
        let right = match own.peer {
            Some(theirs) => format!("{theirs} peer {}/{prefix}", own.local),
            None => format!("{}/{prefix}", peer.address),
        };
        Finding::stops(
            "same-inner-address",
            format!("the far end has this host's inner address {} too", own.local),
        )
        .seen(evidence)
        .cure_far(format!("ip addr del {own} dev {}", word(name.as_str())))
        .cure_far(format!("ip addr add {right} dev {}", word(name.as_str())))
    };
    if let Ok(true) = facts.probes.twin {
        let evidence = format!("asked by {}, the far end answered as {}", peer.address, peer.own.local);
        return Some(finding(evidence)).into();
    }
    // Whatever comes out of the tunnel with our own source address was sent by another that has it.
    if let Ok(wire) = &facts.probes.wire {
        let own = |packet: &&super::super::facts::WirePacket| packet.inner_source == Some(peer.own.local);
        if let Some(packet) = wire.packets.iter().find(own) {
            let evidence = format!("{} packets from {} came out of the tunnel", packet.count, peer.own.local);
            return Some(finding(evidence)).into();
        }
    }
    match &facts.probes.twin {
        Ok(_) => Outcome::Fine,
        // Nobody asked, because the right one answered.
        Err(_) if facts.probes.echo.as_ref().is_ok_and(|echo| echo.answered > 0) => Outcome::Fine,
        Err(reason) => Outcome::NotLooked(reason.clone()),
    }
}
