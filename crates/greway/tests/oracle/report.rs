//! What differs, row by row: gathered, held against the table of what may differ, and told all at once.

use std::collections::HashSet;
use std::fmt;

use crate::deviations::{DEVIATIONS, Deviation};
use crate::record::Key;

/// What of a case is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Aspect {
    /// Accepted, refused with a counter, or dropped in silence.
    Verdict,
    /// What came out of the tunnel device.
    Delivered,
    /// Counters of a GRE device.
    Counters,
    /// Each packet is counted by greway, once.
    Counted,
    /// What went back to the wire.
    Answer,
}

/// The comparison of one table in one way.
pub(crate) struct Report {
    table: &'static str,
    way: &'static str,
    rows: usize,
    failures: Vec<String>,
    deviated: HashSet<usize>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} `{}`", self.table, self.tunnel, self.case)?;
        if self.repetition > 1 {
            write!(f, " ({}.)", self.repetition)?;
        }
        write!(f, " [{}]", self.rules)
    }
}

impl Report {
    pub(crate) fn new(table: &'static str, way: &'static str) -> Self {
        Self { table, way, rows: 0, failures: Vec::new(), deviated: HashSet::new() }
    }

    /// Takes a case: each aspect with what the record has and what was seen.
    pub(crate) fn row(&mut self, key: &Key, compared: &[(Aspect, String, String)]) {
        self.rows += 1;
        let listed = DEVIATIONS.iter().position(|listed| self.may_deviate(listed) && (listed.rows)(key));
        self.deviated.extend(listed);
        let listed = listed.map(|index| &DEVIATIONS[index]);
        let instead = listed.map_or(Vec::new(), |listed| (listed.instead)(key));
        for (aspect, expected, seen) in compared {
            let instead = instead.iter().find(|(of, _)| of == aspect).map(|(_, instead)| instead);
            let wrong = match instead {
                None if expected == seen => continue,
                None => "differs",
                Some(_) if expected == seen => "is as the kernel has it, and is listed as a deviation",
                Some(instead) if is_as(seen, instead) => continue,
                Some(_) => "differs in another way than is listed",
            };
            let reason = listed.map_or(String::new(), |listed| format!("\n   listed:    {}", listed.reason));
            self.failures.push(format!(
                "{key}: {aspect:?} {wrong}\n   expected:  {expected}\n   got:       {seen}{reason}"
            ));
        }
    }

    /// Takes what holds for more than a case.
    pub(crate) fn check(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.failures.push(otherwise());
        }
    }

    /// All of it.
    pub(crate) fn finish(mut self) {
        for (index, listed) in DEVIATIONS.iter().enumerate() {
            if self.may_deviate(listed) && !self.deviated.contains(&index) {
                self.failures.push(format!("no row is meant by the deviation: {}", listed.reason));
            }
        }
        let Self { table, way, failures, rows, .. } = &self;
        let count = failures.len();
        assert!(
            failures.is_empty(),
            "{table} by {way}: {count} findings in {rows} cases\n{}",
            failures.join("\n")
        );
    }

    fn may_deviate(&self, listed: &Deviation) -> bool {
        let in_this_way = listed.ways.is_empty() || listed.ways.contains(&self.way);
        listed.table == self.table && in_this_way && (listed.here)()
    }
}

fn is_as(seen: &str, listed: &str) -> bool {
    listed.strip_suffix('…').map_or(seen == listed, |beginning| seen.starts_with(beginning))
}
