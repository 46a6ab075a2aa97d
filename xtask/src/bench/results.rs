//! The figures of a run, by measure and peer, and how they compare.

use super::measures::Measure;
use super::peers::Peer;

/// Where a part of the bench ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// On this machine.
    Native,
    /// In a guest that counts instructions.
    Guest,
}

/// One measure of one peer.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) measure: Measure,
    pub(super) peer: Peer,
    /// What each round gave, in the measure's unit.
    pub(super) rounds: Vec<f64>,
    /// Why there is no figure, or none of the later rounds.
    pub(super) why_not: Option<String>,
}

/// All figures of one place.
#[derive(Debug)]
pub(super) struct Results {
    pub(super) place: Place,
    pub(super) cells: Vec<Cell>,
    /// Whom the others are compared with.
    pub(super) beside: Vec<Peer>,
}

/// A median and its range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Results {
    /// Empty cells for these measures and peers.
    pub(super) fn new(place: Place, measures: &[Measure], peers: &[Peer], beside: &[Peer]) -> Self {
        let cell = |measure: Measure, peer| Cell { measure, peer, rounds: Vec::new(), why_not: None };
        let cells = measures.iter().flat_map(|measure| {
            let peers = peers.iter().filter(|peer| measure.is_of(**peer));
            peers.map(|peer| cell(*measure, *peer))
        });
        Self { place, cells: cells.collect(), beside: beside.to_vec() }
    }

    /// Writes down what a round gave, or why it gave nothing. After a failure a cell gets no more figures: its rounds
    /// would no longer be those of the others.
    pub(super) fn add(&mut self, measure: Measure, peer: Peer, outcome: anyhow::Result<f64>) {
        let cell = self.cells.iter_mut().find(|cell| cell.measure == measure && cell.peer == peer);
        match (cell, outcome) {
            (Some(Cell { why_not: None, rounds, .. }), Ok(value)) => rounds.push(value),
            (Some(Cell { why_not: why_not @ None, .. }), Err(error)) => *why_not = Some(format!("{error:#}")),
            _ => {}
        }
    }

    /// Says for all of a peer's cells why they will have no figure.
    pub(super) fn skip(&mut self, peer: Peer, why: &str) {
        for cell in self.cells.iter_mut().filter(|cell| cell.peer == peer) {
            cell.why_not = Some(why.to_owned());
        }
    }

    pub(super) fn cell(&self, measure: Measure, peer: Peer) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.measure == measure && cell.peer == peer)
    }

    /// A peer's figure over another's, or their difference where the measure is compared so, round by round.
    pub(super) fn compare(&self, measure: Measure, peer: Peer, with: Peer) -> Option<Spread> {
        let (one, other) = (self.cell(measure, peer)?, self.cell(measure, with)?);
        let pairs = one.rounds.iter().zip(&other.rounds);
        Spread::of(pairs.map(|(one, other)| measure.compare(*one, *other)))
    }

    /// The cells without any figure, or with fewer than they should have, and why.
    pub(super) fn missing(&self) -> Vec<(String, String)> {
        let row = |cell: &Cell| {
            let why = cell.why_not()?.to_owned();
            Some((format!("bench: {}, {}", cell.measure.title(), cell.peer.title()), why))
        };
        self.cells.iter().filter_map(row).collect()
    }
}

impl Cell {
    /// Why there is no figure, or none of the later rounds; `None`: all is there.
    pub(super) fn why_not(&self) -> Option<&str> {
        let never = self.rounds.is_empty().then_some("it was never asked");
        self.why_not.as_deref().or(never)
    }

    /// Median and range over the rounds.
    pub(super) fn spread(&self) -> Option<Spread> {
        Spread::of(self.rounds.iter().copied())
    }
}

impl Spread {
    /// `None` of nothing.
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, least, most })
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        let of = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(of(&[4.0, 1.0]), Some(Spread { median: 2.5, least: 1.0, most: 4.0 }));
    }

    #[test]
    fn rounds_are_compared_one_by_one_and_not_their_medians() {
        let peers = [Peer::Bare, Peer::Ebpf];
        let mut results = Results::new(Place::Native, &[Measure::Tcp, Measure::RoundTrip], &peers, &[]);
        for (bare, ebpf) in [(10.0, 9.0), (20.0, 16.0), (30.0, 15.0)] {
            results.add(Measure::Tcp, Peer::Bare, Ok(bare));
            results.add(Measure::Tcp, Peer::Ebpf, Ok(ebpf));
            results.add(Measure::RoundTrip, Peer::Bare, Ok(bare));
            results.add(Measure::RoundTrip, Peer::Ebpf, Ok(ebpf));
        }
        let ratio = results.compare(Measure::Tcp, Peer::Ebpf, Peer::Bare).unwrap();
        assert_eq!(ratio, Spread { median: 0.8, least: 0.5, most: 0.9 });
        let difference = results.compare(Measure::RoundTrip, Peer::Ebpf, Peer::Bare).unwrap();
        assert_eq!(difference.median, -4.0);
        assert_eq!(results.compare(Measure::Udp64, Peer::Ebpf, Peer::Bare), None);
        assert!(results.missing().is_empty());
    }

    #[test]
    fn a_cell_that_failed_once_is_missing_and_keeps_its_first_reason() {
        let mut results =
            Results::new(Place::Native, &[Measure::Tcp], &[Peer::Bare, Peer::Vxlan], &[Peer::Bare]);
        results.add(Measure::Tcp, Peer::Bare, Ok(1.0));
        results.add(Measure::Tcp, Peer::Bare, Err(anyhow::anyhow!("first")));
        results.add(Measure::Tcp, Peer::Bare, Err(anyhow::anyhow!("second")));
        results.add(Measure::Tcp, Peer::Bare, Ok(1.0));
        results.skip(Peer::Vxlan, "no module");
        assert_eq!(results.cell(Measure::Tcp, Peer::Bare).unwrap().rounds, [1.0]);
        let why: Vec<String> = results.missing().into_iter().map(|(_, why)| why).collect();
        assert_eq!(why, ["first", "no module"]);
    }
}
