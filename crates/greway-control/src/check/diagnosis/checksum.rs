//! One end sends GRE checksums and the other does not expect them, or the other way round.

use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    if facts.tunnel().is_none() {
        return Outcome::NotLooked("the tunnel is not carried".to_owned());
    }
    let cases = [
        ("checksum-missing", "peer sends no checksum, this tunnel expects one", "nocsum", "csum"),
        ("checksum-unexpected", "peer sends a checksum, this tunnel expects none", "csum", "nocsum"),
    ];
    let findings = cases.iter().filter_map(|(reason, sentence, here, there)| {
        let (total, now) = facts.drops(reason);
        // What was dropped long ago and is not any more was cured.
        let counts = now > 0 || (total > 0 && !facts.was_heard());
        counts.then(|| {
            Finding::stops("checksum-mismatch", *sentence)
                .seen(format!("{total} packets dropped, {reason}; {now} of them during this check"))
                .cure(facts.change(here))
                .cure_far(facts.change_far(there))
        })
    });
    let mut findings = findings.collect::<Vec<_>>();
    let (total, now) = facts.drops("bad-checksum");
    if now > 0 || (total > 0 && !facts.was_heard()) {
        findings.push(
            Finding::hinders(
                "checksum-wrong",
                "GRE checksums are wrong: something on the way damages packets",
            )
            .seen(format!("{total} packets dropped, bad-checksum; {now} of them during this check"))
            // A driver that promises to fill them in, and does not, is the commonest.
            .cure_far("ethtool -K UNDERLAY-DEVICE-THERE tx-gre-csum-segmentation off"),
        );
    }
    Outcome::of(findings)
}
