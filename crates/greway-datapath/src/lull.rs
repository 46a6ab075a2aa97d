//! How long a worker looks for packets before it sleeps.
//!
//! To wake a thread whose processor has gone to sleep takes tens of microseconds, in a virtual machine more, and a
//! packet and its answer meet a worker four times. So a worker that is about to sleep looks on for a while, when
//! looking on would have caught what woke it of late, as the kernel does for virtual machines
//! (linux virt/kvm/kvm_main.c v6.18, `kvm_vcpu_halt`). It gives way to others who want its processor, and one whose packets
//! come far apart does not look at all: an idle tunnel costs nothing.

/// How long a worker that waits for packets looks for them before it sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BusyPoll {
    /// As long as it has been worth it of late, 50 µs at the most.
    #[default]
    Adaptive,
    /// Not at all.
    Off,
    /// Always so many microseconds.
    Fixed(u32),
}

/// The longest look of an adaptive worker, in nanoseconds.
const LONGEST: u64 = 50_000;
/// Its first.
const FIRST: u64 = 10_000;
/// A sleep this short, in nanoseconds, would not have been one: waking took the most of it.
const NAP: u64 = 2 * LONGEST;

/// The time between packets.
#[derive(Debug)]
pub(crate) struct Lull {
    mode: BusyPoll,
    /// How long to look now, in nanoseconds.
    look: u64,
    /// Since when nothing has come, in nanoseconds.
    since: Option<u64>,
}

/// What to do while nothing comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Look,
    Sleep,
}

impl Lull {
    /// On a machine with a single processor looking only keeps it from whoever would send.
    pub(crate) fn new(mode: BusyPoll, processors: usize) -> Self {
        let mode = if processors > 1 { mode } else { BusyPoll::Off };
        let look = match mode {
            BusyPoll::Fixed(micros) => u64::from(micros) * 1_000,
            BusyPoll::Adaptive | BusyPoll::Off => 0,
        };
        Self { mode, look, since: None }
    }

    /// There were packets, or something else to do.
    pub(crate) fn end(&mut self) {
        self.since = None;
    }

    /// Nothing is there. `now` is a clock in nanoseconds.
    pub(crate) fn go_on(&mut self, now: impl FnOnce() -> u64) -> Next {
        if self.look == 0 {
            return Next::Sleep;
        }
        let now = now();
        let since = *self.since.get_or_insert(now);
        if now.saturating_sub(since) < self.look { Next::Look } else { Next::Sleep }
    }

    /// A sleep is over that took so long, in nanoseconds.
    pub(crate) fn slept(&mut self, nanos: u64) {
        if self.mode != BusyPoll::Adaptive {
            return;
        }
        self.look = if nanos <= NAP { (self.look * 2).clamp(FIRST, LONGEST) } else { self.look / 2 };
        if self.look < FIRST {
            self.look = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_that_come_close_together_are_looked_for() {
        let mut lull = Lull::new(BusyPoll::Adaptive, 2);
        assert_eq!(lull.go_on(|| 0), Next::Sleep);
        lull.slept(60_000);
        assert_eq!(lull.go_on(|| 1_000_000), Next::Look);
        assert_eq!(lull.go_on(|| 1_000_000 + FIRST - 1), Next::Look);
        assert_eq!(lull.go_on(|| 1_000_000 + FIRST), Next::Sleep);
        (0..5).for_each(|_| lull.slept(60_000));
        lull.end();
        assert_eq!(lull.go_on(|| 2_000_000), Next::Look);
        assert_eq!(lull.go_on(|| 2_000_000 + LONGEST), Next::Sleep);
    }

    #[test]
    fn packets_that_come_far_apart_are_slept_for() {
        let mut lull = Lull::new(BusyPoll::Adaptive, 2);
        (0..5).for_each(|_| lull.slept(60_000));
        (0..3).for_each(|_| lull.slept(1_000_000));
        assert_eq!(lull.go_on(|| 0), Next::Sleep);
    }

    #[test]
    fn a_single_processor_is_left_to_others_and_a_fixed_time_is_kept() {
        let mut alone = Lull::new(BusyPoll::Fixed(20), 1);
        assert_eq!(alone.go_on(|| 0), Next::Sleep);
        let mut fixed = Lull::new(BusyPoll::Fixed(20), 2);
        fixed.slept(1_000_000_000);
        assert_eq!(fixed.go_on(|| 5), Next::Look);
        assert_eq!(fixed.go_on(|| 20_005), Next::Sleep);
    }
}
