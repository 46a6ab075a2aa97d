//! `greway check`: what would stop a tunnel's traffic, and the command that cures it.
//!
//! Three steps, each of its own kind. [`observe`] reads the host and the daemon; [`probe`] sends a few
//! packets the tunnel's way and listens; what both found are plain [`Facts`]. The diagnoses, one a file in
//! [`diagnosis`], are pure functions from facts to findings.
//!
//! It refuses to change anything: no rule, no address, no module is touched, and what a probe sends is no
//! more than a ping and a traceroute would. It refuses to guess as well: a finding rests on a fact that is
//! in its evidence, and what could not be looked at is said so and is no finding.

mod deadline;
pub mod diagnosis;
pub mod facts;
pub mod observe;
pub mod probe;
pub mod ruleset;
mod run;
mod shell;

use serde::{Deserialize, Serialize};

pub use deadline::Deadline;
pub use facts::Facts;
pub use run::{CheckError, Options, Told, ask, brief, left_behind, may_probe, run};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing is wrong by it alone.
    Note,
    /// Some traffic does not pass, or not well.
    Hinders,
    /// Nothing passes.
    Stops,
}

impl Severity {
    /// The word of the JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Hinders => "hinders",
            Self::Stops => "stops",
        }
    }
}

/// One thing that stops or bends traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable name of what was found, in kebab case; it never changes its meaning.
    pub id: String,
    /// How much it matters.
    pub severity: Severity,
    /// What is wrong, for people.
    pub sentence: String,
    /// What was seen that says so.
    pub evidence: Vec<String>,
    /// What cures it: commands, each to be typed on this host unless `where` says otherwise.
    pub cure: Vec<Cure>,
}

/// A command that cures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cure {
    /// Where it is to be typed.
    #[serde(rename = "where")]
    pub place: Place,
    /// The command, or for a file the line in it.
    pub command: String,
}

/// Which host a cure is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// This one.
    Here,
    /// The tunnel's other end.
    FarEnd,
    /// A host behind the other end.
    Behind,
}

impl Finding {
    /// A finding that stops everything.
    pub fn stops(id: &str, sentence: impl Into<String>) -> Self {
        Self::new(id, Severity::Stops, sentence)
    }

    /// A finding that hinders some traffic.
    pub fn hinders(id: &str, sentence: impl Into<String>) -> Self {
        Self::new(id, Severity::Hinders, sentence)
    }

    /// A remark.
    pub fn note(id: &str, sentence: impl Into<String>) -> Self {
        Self::new(id, Severity::Note, sentence)
    }

    fn new(id: &str, severity: Severity, sentence: impl Into<String>) -> Self {
        let (id, sentence) = (id.to_owned(), sentence.into());
        Self { id, severity, sentence, evidence: Vec::new(), cure: Vec::new() }
    }

    /// Adds what was seen.
    #[must_use]
    pub fn seen(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    /// Adds a command for this host.
    #[must_use]
    pub fn cure(self, command: impl Into<String>) -> Self {
        self.cure_at(Place::Here, command)
    }

    /// Adds a command for the far end.
    #[must_use]
    pub fn cure_far(self, command: impl Into<String>) -> Self {
        self.cure_at(Place::FarEnd, command)
    }

    /// Adds a command for a place.
    #[must_use]
    pub fn cure_at(mut self, place: Place, command: impl Into<String>) -> Self {
        self.cure.push(Cure { place, command: command.into() });
        self
    }
}

/// What came of one diagnosis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Looked at, and nothing found.
    Fine,
    /// Found.
    Found(Vec<Finding>),
    /// Not looked at, and why not.
    NotLooked(String),
}

impl Outcome {
    /// Nothing, or what was found.
    pub fn of(findings: Vec<Finding>) -> Self {
        if findings.is_empty() { Self::Fine } else { Self::Found(findings) }
    }
}

impl From<Option<Finding>> for Outcome {
    fn from(finding: Option<Finding>) -> Self {
        Self::of(finding.into_iter().collect())
    }
}

/// Whether one diagnosis was made. The state of the JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// The diagnosis, in kebab case.
    pub id: String,
    /// What it looks at, for people.
    pub looks_at: String,
    /// `ok`, `found` or `not-looked`.
    pub state: LookState,
    /// Why it was not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What came of one diagnosis, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LookState {
    /// Nothing found.
    Ok,
    /// Something found.
    Found,
    /// Not looked at.
    NotLooked,
}

/// What a check of one tunnel found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// The tunnel.
    pub name: String,
    /// Where it is defined.
    pub origin: String,
    /// Whether the daemon carries it.
    pub carried: bool,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
    /// Every diagnosis, in the order of a packet's way.
    pub looks: Vec<Look>,
}

impl Checked {
    /// Whether something was found that is more than a remark.
    pub fn is_bad(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity > Severity::Note)
    }
}

/// Makes all diagnoses.
pub fn diagnose(facts: &Facts) -> Checked {
    let mut findings = Vec::new();
    let mut looks = Vec::new();
    for diagnosis in diagnosis::ALL {
        let (state, reason) = match (diagnosis.find)(facts) {
            Outcome::Fine => (LookState::Ok, None),
            Outcome::NotLooked(reason) => (LookState::NotLooked, Some(reason)),
            Outcome::Found(found) => {
                let named = |finding: &Finding| diagnosis.findings.contains(&finding.id.as_str());
                debug_assert!(found.iter().all(named), "{} does not name all of {found:?}", diagnosis.id);
                findings.extend(found);
                (LookState::Found, None)
            }
        };
        let (id, looks_at) = (diagnosis.id.to_owned(), diagnosis.looks_at.to_owned());
        looks.push(Look { id, looks_at, state, reason });
    }
    // Stable: within a severity the order of a packet's way stays.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Checked {
        name: facts.spec.name.to_string(),
        origin: facts.spec.origin.to_string(),
        carried: facts.tunnel().is_some(),
        findings,
        looks,
    }
}
