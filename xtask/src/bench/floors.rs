//! What is to be reached at least. Information: a bench fails for no number.

use super::measures::Measure;
use super::peers::Peer;
use super::results::{Place, Results};

/// A comparison and its bound.
struct Floor {
    place: Place,
    measure: Measure,
    peer: Peer,
    /// `None`: the figure itself.
    with: Option<Peer>,
    bound: Bound,
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

const FLOORS: &[Floor] = &[
    native(Peer::Ebpf, Measure::Tcp, Some(Peer::Bare), Bound::AtLeast(0.88)),
    native(Peer::Ebpf, Measure::Tcp, Some(Peer::Vxlan), Bound::AtLeast(0.97)),
    native(Peer::Ebpf, Measure::Udp64, Some(Peer::Bare), Bound::AtLeast(0.75)),
    native(Peer::Ebpf, Measure::Udp64, Some(Peer::Vxlan), Bound::AtLeast(1.05)),
    native(Peer::Ebpf, Measure::RoundTrip, Some(Peer::Bare), Bound::AtMost(3000.0)),
    native(Peer::Ebpf, Measure::Restart, None, Bound::AtMost(0.0)),
    native(Peer::Userspace, Measure::Tcp, Some(Peer::Bare), Bound::AtLeast(0.33)),
    native(Peer::Userspace, Measure::Tcp, Some(Peer::Ovs), Bound::AtLeast(5.0)),
    native(Peer::Userspace, Measure::Udp64, Some(Peer::Bare), Bound::AtLeast(0.38)),
    native(Peer::Userspace, Measure::Udp64, Some(Peer::Ovs), Bound::AtLeast(3.0)),
    native(Peer::Userspace, Measure::RoundTrip, Some(Peer::Bare), Bound::AtMost(25_000.0)),
    native(Peer::UserspaceCsum, Measure::Tcp, Some(Peer::Bare), Bound::AtLeast(0.25)),
    guest(Measure::Tcp, 1.12),
    guest(Measure::Udp64, 1.12),
    guest(Measure::TcpNoGso, 1.4),
];

const fn native(peer: Peer, measure: Measure, with: Option<Peer>, bound: Bound) -> Floor {
    Floor { place: Place::Native, measure, peer, with, bound }
}

const fn guest(measure: Measure, bound: f64) -> Floor {
    let (place, with, bound) = (Place::Guest, Some(Peer::IpGre), Bound::AtLeast(bound));
    Floor { place, measure, peer: Peer::Ebpf, with, bound }
}

/// A floor, and whether a run reached it.
pub(super) struct Verdict {
    pub(super) text: String,
    /// What was measured, in the measure's unit or as a ratio; `None`: there is no figure.
    pub(super) measured: Option<f64>,
    pub(super) passed: Option<bool>,
    /// By how much, in words, with a space before them.
    margin: String,
}

/// The floors of a cell.
pub(super) fn of(results: &Results, measure: Measure, peer: Peer) -> Vec<Verdict> {
    let here = |floor: &&Floor| (floor.place, floor.measure, floor.peer) == (results.place, measure, peer);
    // A run that has not asked the other one says nothing of it.
    let asked = |floor: &&Floor| floor.with.is_none_or(|with| results.cell(measure, with).is_some());
    FLOORS.iter().filter(here).filter(asked).map(|floor| floor.verdict(results)).collect()
}

impl Floor {
    fn verdict(&self, results: &Results) -> Verdict {
        let measured = match self.with {
            Some(with) => results.compare(self.measure, self.peer, with).map(|spread| spread.median),
            // Of what must never happen, the worst round.
            None => results.cell(self.measure, self.peer).and_then(|cell| cell.spread()).map(|s| s.most),
        };
        let (sign, bound) = match self.bound {
            Bound::AtLeast(bound) => ('≥', bound),
            Bound::AtMost(bound) => ('≤', bound),
        };
        let text = match self.with {
            Some(with) => format!("{sign} {} of {}", self.measure.write_comparison(bound), with.title()),
            None => format!("{sign} {} in every round", self.measure.write(bound)),
        };
        let passed = measured.map(|value| match self.bound {
            Bound::AtLeast(bound) => value >= bound,
            Bound::AtMost(bound) => value <= bound,
        });
        let margin = measured.map_or_else(String::new, |value| self.margin(value, bound));
        Verdict { text: text.replace("s of", "s on"), measured, passed, margin }
    }
}

impl Floor {
    /// By how much a bound is passed or missed: a share of it, or what is between the two where it may be zero.
    fn margin(&self, value: f64, bound: f64) -> String {
        match self.bound {
            _ if value == bound => String::new(),
            Bound::AtLeast(_) => format!(" by {:.0} %", (value / bound - 1.0).abs() * 100.0),
            Bound::AtMost(_) => {
                let between = self.measure.write_comparison((value - bound).abs());
                format!(" by {}", between.trim_start_matches('+'))
            }
        }
    }
}

impl Verdict {
    /// In words.
    pub(super) fn words(&self) -> String {
        let Self { text, margin, .. } = self;
        match self.passed {
            Some(true) => format!("{text}: passed{margin}"),
            Some(false) => format!("{text}: MISSED{margin}"),
            None => format!("{text}: no figure"),
        }
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn floors_are_judged_by_the_median_and_losses_by_the_worst_round() {
        let peers = [Peer::Bare, Peer::Vxlan, Peer::Ebpf];
        let mut results = Results::new(Place::Native, &[Measure::Tcp, Measure::Restart], &peers, &[]);
        for (bare, ebpf, lost) in [(10.0, 9.0, 0.0), (10.0, 8.9, 0.0), (10.0, 2.0, 7.0)] {
            results.add(Measure::Tcp, Peer::Bare, Ok(bare));
            results.add(Measure::Tcp, Peer::Ebpf, Ok(ebpf));
            results.add(Measure::Restart, Peer::Ebpf, Ok(lost));
        }
        let words =
            |measure| of(&results, measure, Peer::Ebpf).iter().map(Verdict::words).collect::<Vec<_>>();
        let tcp = ["≥ 0.88 of bare veth: passed by 1 %", "≥ 0.97 of kernel VXLAN: no figure"];
        assert_eq!(words(Measure::Tcp), tcp);
        assert_eq!(words(Measure::Restart), ["≤ 0 in every round: MISSED by 7"]);
        assert!(of(&results, Measure::Tcp, Peer::Bare).is_empty());
    }
}
