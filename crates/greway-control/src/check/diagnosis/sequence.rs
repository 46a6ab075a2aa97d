//! Sequence numbers: expected and not sent, or behind those that came before.

use greway_engine::reorder::MAX_WAIT_MS;
use greway_spec::SeqMode;

use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    if facts.tunnel().is_none() {
        return Outcome::NotLooked("the tunnel is not carried".to_owned());
    }
    let counts = |reason: &str| {
        let (total, now) = facts.drops(reason);
        (now > 0 || (total > 0 && !facts.was_heard())).then_some((total, now))
    };
    let mut findings = Vec::new();
    if let Some((total, now)) = counts("sequence-missing") {
        findings.push(
            Finding::stops("sequence-mismatch", "peer sends no sequence numbers, this tunnel expects them")
                .seen(format!("{total} packets dropped, sequence-missing; {now} of them during this check"))
                .cure(facts.change("noseq"))
                .cure_far(facts.change_far("seq")),
        );
    }
    if let Some((total, now)) = counts("sequence-late") {
        let seen = format!("{total} packets dropped, sequence-late; {now} of them during this check");
        if facts.spec.seq_mode == SeqMode::Rfc2890 {
            let sentence = format!("packets come later than they are waited for, which is {MAX_WAIT_MS} ms");
            let finding = Finding::hinders("sequence-late", sentence).seen(seen);
            return Outcome::of([findings, vec![finding.cure(facts.change("noiseq"))]].concat());
        }
        let finding = Finding::hinders(
            "sequence-late",
            "peer's sequence numbers are behind those that came before: it began again, or packets overtake each other",
        )
        .seen(seen)
        // The number that is expected is forgotten with the setting.
        .cure(facts.change("noiseq"))
        .cure(facts.change("iseq"));
        findings.push(finding);
    }
    Outcome::of(findings)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::facts;
    use super::*;
    use crate::check::facts::Daemon;
    use crate::status::{Drop, Status};

    #[test]
    fn late_packets_are_the_peers_beginning_or_the_ways_delay_by_the_mode() {
        for (mode, sentence, cures) in [
            (SeqMode::Linux, "it began again", 2),
            (SeqMode::Rfc2890, "later than they are waited for, which is 20 ms", 1),
        ] {
            let mut facts = facts();
            facts.spec.seq_mode = mode;
            let Daemon::Answers { after, .. } = &facts.daemon else { panic!("a daemon answers") };
            let mut tunnel = after.tunnels[0].clone();
            tunnel.drops = vec![Drop {
                reason: "sequence-late".to_owned(),
                direction: "receive".to_owned(),
                packets: 7,
                explanation: String::new(),
            }];
            let after = Arc::new(Status { tunnels: vec![tunnel], ..Status::default() });
            facts.daemon = Daemon::Answers { before: after.clone(), after };
            let Outcome::Found(findings) = find(&facts) else { panic!("{mode}: nothing found") };
            assert!(findings[0].sentence.contains(sentence), "{}", findings[0].sentence);
            assert_eq!((findings.len(), findings[0].cure.len()), (1, cures), "{mode}");
        }
    }
}
