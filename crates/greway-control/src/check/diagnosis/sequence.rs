//! Sequence numbers: expected and not sent, or behind those that came before.

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
        let finding = Finding::hinders(
            "sequence-late",
            "peer's sequence numbers are behind those that came before: it began again, or packets overtake each other",
        )
        .seen(format!("{total} packets dropped, sequence-late; {now} of them during this check"))
        // The number that is expected is forgotten with the setting.
        .cure(facts.change("noiseq"))
        .cure(facts.change("iseq"));
        findings.push(finding);
    }
    Outcome::of(findings)
}
