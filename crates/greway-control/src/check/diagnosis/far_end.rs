//! The far end: silent, or out of reach for GRE. Told only of a tunnel that sends, to which nothing comes back,
//! and whose silence nothing on this host explains.

use std::net::IpAddr;

use super::{
    checksum, device, ends, input_rules, ipsec, key, local, output_rules, route, sequence,
    underlay_reverse_path,
};
use crate::check::facts::{self, Hop, OuterError, Trace};
use crate::check::shell::word;
use crate::check::{Facts, Finding, Outcome};

const UNREACHABLE: u8 = 3;
/// The same of ICMPv6, and its parameter problem, whose code 1 is "unrecognized next header" (RFC 4443 §3).
const V6_UNREACHABLE: u8 = 1;
const V6_PARAMETER_PROBLEM: u8 = 4;
/// No command on either end cures what is between them.
const ASK: &str =
    "whoever runs that hop, or the cloud's security group there, has to let IP protocol 47 pass";

pub(super) fn find(facts: &Facts) -> Outcome {
    let Some((_, remote)) = facts.ends() else {
        return Outcome::NotLooked(super::ONE_FAR_END.to_owned());
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
            .seen(silence(sent)),
        )
        .into();
    }
    let silence = silence(sent);
    let trace = match trace {
        Ok(trace) => trace,
        Err(reason) => {
            // Whether it is on the way or at the end was not looked at; that nothing comes is known.
            let finding = Finding::stops("far-end-silent", format!("the far end {remote} is silent"));
            let finding = finding.seen(silence).seen(format!("the way there was not looked at: {reason}"));
            return Some(mirrored.into_iter().fold(finding, Finding::cure_far)).into();
        }
    };
    let way = way(trace, remote);
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
    let program = if remote.is_ipv6() { "ip6tables" } else { "iptables" };
    Some(finding.cure_far(format!("{program} -I INPUT -p gre -s {} -j ACCEPT", shown(facts.source())))).into()
}

fn shown(own: Option<IpAddr>) -> String {
    own.map_or_else(|| "THIS-HOST".to_owned(), |own| own.to_string())
}

/// The commands that make the tunnel at the far end, ends swapped.
fn mirrored(facts: &Facts, remote: IpAddr) -> Vec<String> {
    let spec = &facts.spec;
    let name = word(spec.name.as_str());
    let own = shown(facts.source());
    let words = facts::words([spec.okey, spec.ikey], [spec.ocsum, spec.icsum], [spec.oseq, spec.iseq]);
    let mode = spec.mode.word();
    let add = match (spec.mode.is_ethernet(), spec.mode.over_ipv6()) {
        (true, _) => format!("ip link add {name} type {mode}"),
        (false, true) => format!("ip -6 tunnel add {name} mode {mode}"),
        (false, false) => format!("ip tunnel add {name} mode {mode}"),
    };
    vec![format!("{add} remote {own} local {remote}{words}"), format!("ip link set {name} up")]
}

/// What an ICMP error about our GRE says.
fn told(facts: &Facts, error: &OuterError, remote: IpAddr) -> Option<Finding> {
    let OuterError { from, kind, code, .. } = *error;
    let key = facts.spec.okey.map_or_else(|| "no key".to_owned(), |key| format!("key {key}"));
    let filtered = |how: &str| {
        let sentence = format!("GRE (protocol 47) is {how} on the way to {remote}, by {from}");
        Finding::stops("protocol-47-filtered", sentence)
    };
    let finding = match Said::of(remote, kind, code)? {
        Said::NoProtocol if from == remote => Finding::stops(
            "far-end-no-gre",
            format!("the far end {remote} takes no GRE: no tunnel is up there"),
        ),
        Said::NoPort if from == remote => Finding::stops(
            "far-end-no-tunnel",
            format!("the far end {remote} has GRE, and no tunnel with these ends and {key}"),
        ),
        Said::NoWay => {
            Finding::stops("far-end-unreachable", format!("{from} says that {remote} cannot be reached"))
        }
        Said::Forbidden => filtered("filtered"),
        // By a firewall's REJECT on the way.
        Said::NoProtocol | Said::NoPort => filtered("refused"),
    };
    let icmp = if remote.is_ipv6() { "ICMPv6" } else { "ICMP" };
    let finding = finding.seen(format!("{from} answered GRE with {icmp} type {kind} code {code}"));
    Some(if finding.id == "protocol-47-filtered" { finding.seen(ASK) } else { finding })
}

/// What an ICMP error comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// The protocol is not known there.
    NoProtocol,
    /// What the kernel's GRE says where it has no such tunnel.
    NoPort,
    /// There is no way, or nobody.
    NoWay,
    /// It is not allowed.
    Forbidden,
}

impl Said {
    /// By the types and codes of RFC 792 and 1812, or of RFC 4443.
    fn of(remote: IpAddr, kind: u8, code: u8) -> Option<Self> {
        Some(match (remote.is_ipv6(), kind, code) {
            (false, UNREACHABLE, 2) | (true, V6_PARAMETER_PROBLEM, 1) => Self::NoProtocol,
            (false, UNREACHABLE, 3) | (true, V6_UNREACHABLE, 4) => Self::NoPort,
            (false, UNREACHABLE, 0 | 1 | 5..=8 | 11 | 12) | (true, V6_UNREACHABLE, 0 | 2 | 3) => Self::NoWay,
            (false, UNREACHABLE, 9 | 10 | 13) | (true, V6_UNREACHABLE, 1 | 5 | 6) => Self::Forbidden,
            _ => return None,
        })
    }
}

/// The last hop that answers GRE, and the first behind it that answers ICMP only. The remote itself does not
/// count: a tunnel's end says nothing to GRE. Over IPv6 no GRE asks.
fn filtered(trace: &Trace, remote: IpAddr) -> Option<(Option<IpAddr>, IpAddr)> {
    if remote.is_ipv6() {
        return None;
    }
    let between = trace.hops.iter().take_while(|hop| hop.icmp != Some(remote)).collect::<Vec<_>>();
    let last = between.iter().rposition(|hop| hop.gre.is_some());
    let behind = between.get(last.map_or(0, |last| last + 1)..)?;
    let beyond = behind.iter().find_map(|hop| hop.icmp)?;
    Some((last.and_then(|last| between[last].gre), beyond))
}

/// The way, hop by hop.
fn way(trace: &Trace, remote: IpAddr) -> String {
    let address =
        |address: Option<IpAddr>| address.map_or_else(|| "*".to_owned(), |address| address.to_string());
    let hop = |(number, hop): (usize, &Hop)| match remote {
        IpAddr::V4(_) => format!("{number}: ICMP {}, GRE {}", address(hop.icmp), address(hop.gre)),
        IpAddr::V6(_) => format!("{number}: ICMPv6 {}", address(hop.icmp)),
    };
    let hops = (1..).zip(&trace.hops).map(hop).collect::<Vec<_>>();
    format!("hops: {}", hops.join("; "))
}

/// That packets go and none come.
fn silence(sent: u64) -> String {
    let packets = if sent == 1 { "packet" } else { "packets" };
    format!("{sent} {packets} sent, none received in the last minute")
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::Ipv4Addr;

    const REMOTE: IpAddr = IpAddr::V4(Ipv4Addr::new(100, 0, 2, 100));

    fn hop(last: u8) -> IpAddr {
        Ipv4Addr::new(100, 0, 2, last).into()
    }

    fn trace(hops: &[(Option<u8>, Option<u8>)]) -> Trace {
        let address = |last: Option<u8>| last.map(hop);
        let hops = hops.iter().map(|(icmp, gre)| Hop { icmp: address(*icmp), gre: address(*gre) });
        Trace { remote_answers: true, hops: hops.collect(), refused: false }
    }

    #[test]
    fn a_hop_that_answers_icmp_alone_is_where_gre_ends() {
        let found = filtered(&trace(&[(Some(1), Some(1)), (Some(2), None), (Some(100), None)]), REMOTE);
        assert_eq!(found, Some((Some(hop(1)), hop(2))));
        let first = filtered(&trace(&[(Some(1), None), (Some(100), None)]), REMOTE);
        assert_eq!(first, Some((None, hop(1))));
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
