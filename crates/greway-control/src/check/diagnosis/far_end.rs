//! The far end: silent, or out of reach for GRE. Told only of a tunnel that sends, to which nothing comes back,
//! and whose silence nothing on this host explains.

use std::net::Ipv4Addr;

use super::{
    checksum, device, ends, input_rules, ipsec, key, local, output_rules, route, sequence,
    underlay_reverse_path,
};
use crate::check::facts::{self, Hop, OuterError, Trace};
use crate::check::shell::word;
use crate::check::{Facts, Finding, Outcome};

const UNREACHABLE: u8 = 3;
/// No command on either end cures what is between them.
const ASK: &str =
    "whoever runs that hop, or the cloud's security group there, has to let IP protocol 47 pass";

pub(super) fn find(facts: &Facts) -> Outcome {
    let Some((_, remote)) = facts.ends() else {
        return Outcome::NotLooked("only looked at for tunnels over IPv4 with one remote".to_owned());
    };
    if facts.tunnel().is_none() {
        return Outcome::NotLooked("the tunnel is not carried".to_owned());
    }
    if !facts.is_silent() {
        return Outcome::Fine;
    }
    // Whatever keeps this end from sending or hearing is not the far end's.
    let here = [
        device::find,
        ends::find,
        local::find,
        route::find,
        ipsec::find,
        output_rules::find,
        input_rules::find,
        underlay_reverse_path::find,
        key::find,
        checksum::find,
        sequence::find,
    ];
    let explained = here.iter().any(|find| match find(facts) {
        Outcome::Found(found) => found.iter().any(|finding| finding.severity > crate::check::Severity::Note),
        _ => false,
    });
    let heard = facts.probes.wire.as_ref().is_ok_and(|wire| !wire.packets.is_empty());
    if explained || heard {
        return Outcome::Fine;
    }
    let mirrored = mirrored(facts, remote);
    let errors = facts.probes.wire.as_ref().map(|wire| wire.errors.as_slice()).unwrap_or_default();
    if let Some(finding) = errors.iter().find_map(|error| told(facts, error, remote)) {
        // What is between the ends is not cured at the far one.
        let there = matches!(finding.id.as_str(), "far-end-no-gre" | "far-end-no-tunnel");
        let commands = if there { mirrored } else { Vec::new() };
        return Some(commands.into_iter().fold(finding, Finding::cure_far)).into();
    }
    let trace = facts.probes.trace.as_ref();
    let ends_on_the_way = trace.ok().and_then(|trace| filtered(trace, remote));
    if ends_on_the_way.is_none() && facts.was_heard() {
        // No more than that it does not answer to a ping is known.
        let last = facts.tunnel().and_then(|tunnel| tunnel.last_received_seconds).unwrap_or(0.0);
        return Some(
            Finding::note(
                "far-end-quiet",
                format!("the far end {remote} does not answer inside the tunnel now: it drops pings, or has just gone"),
            )
            .seen(format!("the last packet came {} ago", crate::status::Ago(last))),
        )
        .into();
    }
    let sent = facts.tunnel().map_or(0, |tunnel| tunnel.counters.sent_packets);
    if ends_on_the_way.is_none() && !facts.was_asked() {
        // A tunnel that nobody uses looks the same as one that nobody answers.
        return Some(
            Finding::note(
                "far-end-quiet",
                format!("the far end {remote} has sent nothing for a minute, and was not asked for anything"),
            )
            .seen(format!("{sent} packets sent, none received in the last minute")),
        )
        .into();
    }
    let silence = format!("{sent} packets sent, none received in the last minute");
    let trace = match trace {
        Ok(trace) => trace,
        Err(reason) => {
            // Whether it is on the way or at the end was not looked at; that nothing comes is known.
            let finding = Finding::stops("far-end-silent", format!("the far end {remote} is silent"));
            let finding = finding.seen(silence).seen(format!("the way there was not looked at: {reason}"));
            return Some(mirrored.into_iter().fold(finding, Finding::cure_far)).into();
        }
    };
    let way = way(trace);
    if let Some((last, beyond)) = ends_on_the_way {
        let last = last
            .map_or_else(|| "nobody on the way, not even the first hop".to_owned(), |last| last.to_string());
        return Some(
            Finding::stops(
                "protocol-47-filtered",
                format!("GRE (protocol 47) is filtered on the way to {remote}; the last hop that answers it is {last}"),
            )
            .seen(format!("{beyond} answers ICMP with the same number of hops, and not GRE"))
            .seen(way)
            .seen(ASK),
        )
        .into();
    }
    let sentence = if trace.remote_answers {
        format!("the far end {remote} is silent: it answers a ping from outside, and no GRE comes back")
    } else {
        format!("the far end {remote} is silent: neither GRE nor a ping from outside is answered")
    };
    let finding = Finding::stops("far-end-silent", sentence).seen(silence).seen(way);
    let finding = mirrored.into_iter().fold(finding, Finding::cure_far);
    Some(finding.cure_far(format!("iptables -I INPUT -p gre -s {} -j ACCEPT", shown(facts.source_v4()))))
        .into()
}

fn shown(own: Option<Ipv4Addr>) -> String {
    own.map_or_else(|| "THIS-HOST".to_owned(), |own| own.to_string())
}

/// The commands that make the tunnel at the far end, ends swapped.
fn mirrored(facts: &Facts, remote: Ipv4Addr) -> Vec<String> {
    let spec = &facts.spec;
    let name = word(spec.name.as_str());
    let own = shown(facts.source_v4());
    let words = facts::words([spec.okey, spec.ikey], [spec.ocsum, spec.icsum], [spec.oseq, spec.iseq]);
    vec![
        format!("ip tunnel add {name} mode {} remote {own} local {remote}{words}", spec.mode.word()),
        format!("ip link set {name} up"),
    ]
}

/// What an ICMP error about our GRE says.
fn told(facts: &Facts, error: &OuterError, remote: Ipv4Addr) -> Option<Finding> {
    let OuterError { from, kind, code, .. } = *error;
    if kind != UNREACHABLE {
        return None;
    }
    let key = facts.spec.okey.map_or_else(|| "no key".to_owned(), |key| format!("key {key}"));
    let finding = match code {
        2 if from == remote => Finding::stops(
            "far-end-no-gre",
            format!("the far end {remote} takes no GRE: no tunnel is up there"),
        ),
        3 if from == remote => Finding::stops(
            "far-end-no-tunnel",
            format!("the far end {remote} has GRE, and no tunnel with these ends and {key}"),
        ),
        0 | 1 | 5..=8 | 11 | 12 => {
            Finding::stops("far-end-unreachable", format!("{from} says that {remote} cannot be reached"))
        }
        9 | 10 | 13 => Finding::stops(
            "protocol-47-filtered",
            format!("GRE (protocol 47) is filtered on the way to {remote}, by {from}"),
        ),
        // Said by a firewall's REJECT on the way.
        2 | 3 => Finding::stops(
            "protocol-47-filtered",
            format!("GRE (protocol 47) is refused on the way to {remote}, by {from}"),
        ),
        _ => return None,
    };
    let finding = finding.seen(format!("{from} answered GRE with ICMP type {kind} code {code}"));
    Some(if finding.id == "protocol-47-filtered" { finding.seen(ASK) } else { finding })
}

/// The last hop that answers GRE, and the first behind it that answers ICMP only. The remote itself does not
/// count: a tunnel's end says nothing to GRE.
fn filtered(trace: &Trace, remote: Ipv4Addr) -> Option<(Option<Ipv4Addr>, Ipv4Addr)> {
    let between = trace.hops.iter().take_while(|hop| hop.icmp != Some(remote)).collect::<Vec<_>>();
    let last = between.iter().rposition(|hop| hop.gre.is_some());
    let behind = between.get(last.map_or(0, |last| last + 1)..)?;
    let beyond = behind.iter().find_map(|hop| hop.icmp)?;
    Some((last.and_then(|last| between[last].gre), beyond))
}

/// The way, hop by hop.
fn way(trace: &Trace) -> String {
    let address =
        |address: Option<Ipv4Addr>| address.map_or_else(|| "*".to_owned(), |address| address.to_string());
    let hop = |(number, hop): (usize, &Hop)| {
        format!("{number}: ICMP {}, GRE {}", address(hop.icmp), address(hop.gre))
    };
    let hops = (1..).zip(&trace.hops).map(hop).collect::<Vec<_>>();
    format!("hops: {}", hops.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REMOTE: Ipv4Addr = Ipv4Addr::new(100, 0, 2, 100);

    fn trace(hops: &[(Option<u8>, Option<u8>)]) -> Trace {
        let address = |last: Option<u8>| last.map(|last| Ipv4Addr::new(100, 0, 2, last));
        let hops = hops.iter().map(|(icmp, gre)| Hop { icmp: address(*icmp), gre: address(*gre) });
        Trace { remote_answers: true, hops: hops.collect(), refused: false }
    }

    #[test]
    fn a_hop_that_answers_icmp_alone_is_where_gre_ends() {
        let found = filtered(&trace(&[(Some(1), Some(1)), (Some(2), None), (Some(100), None)]), REMOTE);
        assert_eq!(found, Some((Some(Ipv4Addr::new(100, 0, 2, 1)), Ipv4Addr::new(100, 0, 2, 2))));
        let first = filtered(&trace(&[(Some(1), None), (Some(100), None)]), REMOTE);
        assert_eq!(first, Some((None, Ipv4Addr::new(100, 0, 2, 1))));
    }

    #[test]
    fn a_hop_that_answers_nothing_and_the_remote_itself_prove_nothing() {
        assert_eq!(filtered(&trace(&[(Some(1), Some(1)), (Some(100), None)]), REMOTE), None);
        assert_eq!(filtered(&trace(&[(None, None), (Some(2), Some(2)), (Some(100), None)]), REMOTE), None);
        assert_eq!(filtered(&trace(&[(Some(1), Some(1)), (None, None), (Some(100), None)]), REMOTE), None);
        // A router that did not answer once, and GRE behind it that did.
        assert_eq!(filtered(&trace(&[(Some(1), None), (Some(2), Some(2)), (Some(100), None)]), REMOTE), None);
        assert_eq!(filtered(&trace(&[(Some(100), None)]), REMOTE), None);
    }
}
