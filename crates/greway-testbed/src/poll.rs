//! Waiting for a condition with a deadline: what tests use instead of sleeping for a guessed time.

use std::thread;
use std::time::{Duration, Instant};

use crate::Error;

/// How long to pause between two looks at the condition.
const PAUSE: Duration = Duration::from_millis(5);

/// A moment by which something must have happened.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    started: Instant,
    allowed: Duration,
}

impl Deadline {
    /// A deadline `allowed` from now.
    pub fn within(allowed: Duration) -> Self {
        Self { started: Instant::now(), allowed }
    }

    /// The time left; zero once it has passed.
    pub fn remaining(&self) -> Duration {
        self.allowed.saturating_sub(self.started.elapsed())
    }

    /// Whether it has passed.
    pub fn passed(&self) -> bool {
        self.remaining().is_zero()
    }

    /// How much time was allowed from the start.
    pub fn allowed(&self) -> Duration {
        self.allowed
    }

    /// The error that says `what` did not happen in time.
    pub fn missed(&self, what: impl Into<String>) -> Error {
        Error::TimedOut { what: what.into(), waited: self.allowed, detail: String::new() }
    }
}

/// Looks at `condition` until it gives a value, at least once and at most for `within`.
///
/// # Errors
/// [`Error::TimedOut`] with `what` when the time has passed.
pub fn poll_until<T>(
    within: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T, Error> {
    let deadline = Deadline::within(within);
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if deadline.passed() {
            return Err(deadline.missed(what));
        }
        thread::sleep(PAUSE.min(deadline.remaining()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_looked_at_even_with_no_time_at_all() {
        assert_eq!(poll_until(Duration::ZERO, "seven", || Some(7)).unwrap(), 7);
    }

    #[test]
    fn a_missed_deadline_says_what_was_waited_for() {
        let error = poll_until(Duration::from_millis(1), "carrier on tun0", || None::<()>).unwrap_err();
        assert!(error.to_string().starts_with("carrier on tun0 did not happen within"), "{error}");
    }

    #[test]
    fn the_condition_is_tried_again() {
        let mut looks = 0;
        let seen = poll_until(Duration::from_secs(10), "third look", || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(seen.unwrap(), 3);
    }
}
