//! The monotonic clock as plain numbers: per-packet code takes time as an argument, and a `u64`
//! costs less to pass, store and compare than an `Instant`.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds of `CLOCK_MONOTONIC`; not counted while the machine sleeps.
#[must_use]
pub fn monotonic_millis() -> u64 {
    monotonic_nanos() / 1_000_000
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[must_use]
pub fn monotonic_nanos() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

/// Milliseconds since boot, sleep included (`CLOCK_BOOTTIME`): for what must outlive this process
/// but not a reboot.
#[must_use]
pub fn boot_millis() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    (now.tv_sec as u64).wrapping_mul(1000).wrapping_add(now.tv_nsec as u64 / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_do_not_go_back_and_agree_on_the_unit() {
        let (first, millis, last) = (monotonic_nanos(), monotonic_millis(), monotonic_nanos());
        assert!(first <= last);
        assert!((first / 1_000_000..=last / 1_000_000).contains(&millis));
        assert!(boot_millis() >= millis);
    }
}
