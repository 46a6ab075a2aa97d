//! Several tunnels, one after the other: a failing one is told and the rest goes on.
//!
//! For people each tunnel is told as it is done; `--json` gives all of them at the end.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value, json};

use crate::output;

/// What became of one tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It is as it was asked for; the actions say what that took, or would take.
    Done,
    /// It was so already; the text says how.
    Unchanged(String),
    /// It was not to be touched; the text says why.
    Skipped(String),
    /// It is not as it was asked for; the text says why.
    Failed(String),
}

/// One tunnel.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Its name.
    pub(crate) name: String,
    /// The file that it comes from.
    pub(crate) path: Option<PathBuf>,
    /// What became of it.
    pub(crate) state: State,
    /// What was done, or with `--dry-run` would be.
    pub(crate) actions: Vec<String>,
    /// What its author should know.
    pub(crate) warnings: Vec<String>,
}

impl Outcome {
    /// A tunnel that nothing was done to.
    pub(crate) fn of(name: impl Into<String>, path: Option<&Path>, state: State) -> Self {
        let path = path.map(Path::to_owned);
        Self { name: name.into(), path, state, actions: Vec::new(), warnings: Vec::new() }
    }
}

/// What is told of a batch.
pub(crate) struct Batch {
    json: bool,
    dry_run: bool,
    total: usize,
    begun: usize,
    told: Instant,
    outcomes: Vec<Outcome>,
}

impl Batch {
    /// A batch of so many tunnels.
    pub(crate) fn new(total: usize, json: bool, dry_run: bool) -> Self {
        Self { json, dry_run, total, begun: 0, told: Instant::now(), outcomes: Vec::new() }
    }

    /// Says which tunnel is next, when that takes long enough for anybody to wonder.
    pub(crate) fn begin(&mut self, name: &str) {
        if let Some(text) = self.progress(name, Instant::now()) {
            output::note(&text);
        }
    }

    fn progress(&mut self, name: &str, now: Instant) -> Option<String> {
        self.begun += 1;
        if self.total < 2 || now.duration_since(self.told) <= output::SILENCE {
            return None;
        }
        self.told = now;
        Some(format!("{name}: {} of {}", self.begun, self.total))
    }

    /// Tells what became of a tunnel.
    pub(crate) fn end(&mut self, outcome: Outcome) {
        if !self.json {
            self.tell(&outcome);
        }
        self.outcomes.push(outcome);
    }

    fn tell(&self, outcome: &Outcome) {
        for warning in &outcome.warnings {
            output::note(warning);
        }
        match &outcome.state {
            State::Done => {
                let would = if self.dry_run { "would " } else { "" };
                for action in &outcome.actions {
                    output::line(&format!("{would}{action}"));
                }
            }
            State::Unchanged(text) => output::line(text),
            State::Skipped(why) => output::line(&format!("{} is left as it is: {why}", outcome.name)),
            State::Failed(why) => {
                // Where only one was asked for, or the text has the place, the file need not be said again.
                let place = outcome.path.as_ref().map(|path| path.display().to_string());
                match place.filter(|place| self.total > 1 && !why.contains(place.as_str())) {
                    Some(place) => output::error(&format!("{place}: {why}")),
                    None => output::error(why),
                }
            }
        }
    }

    /// Tells what is to be told at the end. The exit code is a failure when one tunnel's was.
    pub(crate) fn finish(self) -> ExitCode {
        if self.json {
            let tunnels = self.outcomes.iter().map(object).collect::<Vec<_>>();
            output::line(&json!({ "dry_run": self.dry_run, "tunnels": tunnels }).to_string());
        }
        let failed = self.outcomes.iter().filter(|outcome| matches!(outcome.state, State::Failed(_))).count();
        if failed > 0 && self.total > 1 && !self.json {
            output::error(&format!("{failed} of {} tunnels failed", self.total));
        }
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn object(outcome: &Outcome) -> Value {
    let (state, reason) = match &outcome.state {
        State::Done => ("done", None),
        State::Unchanged(text) => ("unchanged", Some(text)),
        State::Skipped(why) => ("skipped", Some(why)),
        State::Failed(why) => ("failed", Some(why)),
    };
    json!({
        "name": outcome.name,
        "file": outcome.path.as_ref().map(|path| path.display().to_string()),
        "state": state,
        "reason": reason,
        "actions": outcome.actions,
        "warnings": outcome.warnings,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_failure_makes_the_exit_code() {
        let failed = State::Failed("no".to_owned());
        for (states, code) in [
            (vec![State::Done, State::Unchanged("up".to_owned())], ExitCode::SUCCESS),
            (vec![State::Done, failed, State::Done], ExitCode::FAILURE),
            (vec![State::Skipped("ONBOOT".to_owned())], ExitCode::SUCCESS),
            (vec![], ExitCode::SUCCESS),
        ] {
            let mut batch = Batch::new(states.len(), true, false);
            for state in states {
                batch.end(Outcome::of("tun0", None, state));
            }
            assert_eq!(format!("{:?}", batch.finish()), format!("{code:?}"));
        }
    }

    #[test]
    fn a_batch_that_takes_its_time_says_where_it_is() {
        let mut batch = Batch::new(4, true, false);
        let start = batch.told;
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(batch.progress("tun0", after(10)), None);
        assert_eq!(batch.progress("tun1", after(1001)).as_deref(), Some("tun1: 2 of 4"));
        assert_eq!(batch.progress("tun2", after(2000)), None, "told a second ago");
        assert_eq!(batch.progress("tun3", after(2100)).as_deref(), Some("tun3: 4 of 4"));
        let mut single = Batch::new(1, true, false);
        let later = single.told + Duration::from_secs(9);
        assert_eq!(single.progress("tun0", later), None, "the answer comes next");
    }

    #[test]
    fn as_an_object() {
        let outcome = Outcome::of("tun0", Some(Path::new("/x")), State::Failed("no".to_owned()));
        let value = object(&outcome);
        assert_eq!((&value["name"], &value["file"]), (&json!("tun0"), &json!("/x")));
        assert_eq!((&value["state"], &value["reason"]), (&json!("failed"), &json!("no")));
    }
}
