//! What a measurement cost in processor time: of the whole machine, since half of a tunnel's work is done by the kernel
//! in nobody's name, and of named processes.

use std::fs;
use std::time::{Duration, Instant};

/// Processor time over a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Of all processors: the time in which they were not idle, and were here.
    pub machine: Duration,
    /// Of the named processes, with what the kernel did while they ran.
    pub processes: Duration,
}

/// The state of the clocks at one moment.
#[derive(Debug)]
pub(super) struct Clocks {
    at: Instant,
    /// Of all processors, idle or gone (stolen by another machine).
    away: Duration,
    processes: Duration,
}

impl Clocks {
    /// Now; a process that is gone counts for nothing.
    pub(super) fn now(processes: &[u32]) -> Self {
        let tick = tick();
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let of = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        Self {
            at: Instant::now(),
            away: tick * away(&stat),
            processes: processes.iter().map(|pid| tick * ran(&of(pid))).sum(),
        }
    }

    /// What was spent between `earlier` and this moment, on as many processors as there are.
    pub(super) fn since(&self, earlier: &Self) -> Spent {
        let processors = fs::read_to_string("/proc/stat").map_or(1, |stat| processors(&stat));
        let whole = (self.at - earlier.at) * processors;
        Spent {
            machine: whole.saturating_sub(self.away.saturating_sub(earlier.away)),
            processes: self.processes.saturating_sub(earlier.processes),
        }
    }
}

fn tick() -> Duration {
    Duration::from_secs(1) / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100).max(1)
}

/// Ticks that all processors of /proc/stat were idle, waiting for a disk, or stolen. Those are exact where the busy
/// ones are sampled by the timer interrupt, which a short packet misses.
fn away(stat: &str) -> u32 {
    // cpu user nice system idle iowait irq softirq steal
    let line = stat.lines().find(|line| line.starts_with("cpu ")).unwrap_or_default();
    let fields: Vec<u32> = line.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
    [3, 4, 7].iter().filter_map(|index| fields.get(*index)).sum()
}

fn processors(stat: &str) -> u32 {
    let of_one = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
    stat.lines().filter(of_one).count().max(1) as u32
}

/// Ticks that a process of /proc/PID/stat ran, in its own code and in the kernel's.
fn ran(stat: &str) -> u32 {
    // The name may have spaces and brackets of its own: what follows the last one is fields from the third on.
    let Some((_, fields)) = stat.rsplit_once(") ") else { return 0 };
    fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_waiting_and_stolen_ticks_are_away_and_processors_are_counted() {
        let stat = "cpu  10 1 20 300 40 5 6 70 0 0\ncpu0 5 0 10 150 20 2 3 35 0 0\ncpu1 5 1 10 150 20 3 3 35 0 0\nintr 1\n";
        assert_eq!((away(stat), processors(stat)), (410, 2));
        assert_eq!((away(""), processors("")), (0, 1));
    }

    #[test]
    fn a_process_is_read_past_its_name() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 25 17 0 0 20 0";
        assert_eq!(ran(stat), 42);
        assert_eq!(ran("gone"), 0);
    }

    #[test]
    fn our_own_work_is_seen() {
        let start = Clocks::now(&[std::process::id()]);
        let mut sum = 0_u64;
        // Until two ticks have passed in our name.
        let spent = crate::poll_until(Duration::from_secs(20), "our own work", || {
            (0..2_000_000_u64).for_each(|number| sum = std::hint::black_box(sum ^ number));
            let spent = Clocks::now(&[std::process::id()]).since(&start);
            (spent.processes >= tick() * 2).then_some(spent)
        })
        .unwrap();
        assert!(spent.machine > Duration::ZERO, "{spent:?}");
    }
}
