//! When a check has to be over. People wait for it, and `greway check` promises an answer within five seconds
//! whatever the host, the daemon and the network do: what is not over by then was not looked at.
//!
//! Time is an argument where it is decided; only [`Deadline::left`] asks the clock.

use std::time::{Duration, Instant};

/// Why a probe was not made, or not to its end.
pub(super) const NO_TIME: &str = "no time left";

/// Probes are over by then; the rest is for reading the host and the daemon once more.
const PROBES: Duration = Duration::from_millis(4000);
/// The daemon is waited for until then.
const DAEMON: Duration = Duration::from_millis(4700);

/// The end of a check, counted from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    begin: Instant,
    end: Instant,
}

impl Deadline {
    /// Of a check that begins at this moment.
    pub fn beginning(begin: Instant) -> Self {
        Self { begin, end: begin + PROBES }
    }

    /// The same for what is asked of the daemon.
    #[must_use]
    pub(super) fn of_daemon(self) -> Self {
        Self { end: self.begin + DAEMON, ..self }
    }

    /// What is left at a moment.
    pub(super) fn left_at(self, now: Instant) -> Duration {
        self.end.saturating_duration_since(now)
    }

    /// What is left now.
    pub(super) fn left(self) -> Duration {
        self.left_at(Instant::now())
    }

    /// Whether nothing is.
    pub(super) fn is_over(self) -> bool {
        self.left().is_zero()
    }
}

/// A deadline that was over before it began, for tests.
#[cfg(test)]
pub(super) fn over() -> Deadline {
    let now = Instant::now();
    Deadline { begin: now, end: now }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_over_within_five_seconds() {
        let begin = Instant::now();
        let deadline = Deadline::beginning(begin);
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        assert_eq!(deadline.left_at(begin), PROBES);
        assert_eq!(deadline.left_at(at(3999)), Duration::from_millis(1));
        assert_eq!(deadline.left_at(at(4000)), Duration::ZERO);
        assert_eq!(deadline.left_at(at(90_000)), Duration::ZERO);
        // The daemon is asked last, and is not waited for beyond the promise.
        let daemon = deadline.of_daemon();
        assert!(daemon.left_at(at(4000)) > Duration::ZERO);
        assert_eq!(daemon.left_at(at(5000)), Duration::ZERO);
        assert!(over().is_over() && !deadline.is_over());
    }
}
