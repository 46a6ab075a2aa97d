//! The watch over one tunnel, on a host whose rules and packets a test makes.

use super::*;

/// A host whose rules and packets a test makes, and the watch over its tunnel.
struct Lab {
    watch: Watch,
    facts: Facts,
    now_ms: u64,
    /// What rules do with what comes in, and with what leaves.
    drops: [bool; 2],
    differs: u32,
}

impl Lab {
    fn new() -> Self {
        let watch = Watch::new([1; 16], 0);
        Self { watch, facts: Facts::default(), now_ms: 0, drops: [false; 2], differs: 0 }
    }

    fn open(&self) -> [bool; 2] {
        [Direction::Inbound, Direction::Outbound].map(|way| self.watch.standing(way) == Standing::Open)
    }

    fn why(&self, way: Direction) -> String {
        self.watch.standing(way).to_string()
    }

    /// One packet each way, as the programs and userspace take it.
    fn packets(&mut self) {
        let verdict = *self.watch.verdict();
        let pass = |leave: &Leave, passage: &mut super::super::Passage, now: u64| {
            let opens = leave.number != 0
                && (leave.at_once != 0 || passage.opened == leave.number || passage.last_ns == leave.at);
            if opens {
                passage.opened = leave.number;
            } else {
                passage.declined += 1;
                passage.last_ns = now;
            }
            opens
        };
        if pass(&verdict.inbound, &mut self.facts.gate.inbound, self.now_ms + 1) {
            self.facts.carried.0 += 1;
            if verdict.ask != 0 && self.facts.gate.made != verdict.ask {
                self.facts.gate.made = verdict.ask;
                if !self.drops[0] {
                    self.watch.heard(verdict.ask);
                }
            }
        } else if !self.drops[0] {
            self.facts.arrived += 1;
        }
        self.facts.carried.1 +=
            u64::from(pass(&verdict.outbound, &mut self.facts.gate.outbound, self.now_ms + 1));
    }

    fn look(&mut self) {
        let mut wishes = self.watch.look(&self.facts, self.now_ms);
        if wishes.drain {
            let drained = Facts { drained: true, ..self.facts };
            wishes = self.watch.look(&drained, self.now_ms);
            assert!(!wishes.drain, "it was done");
        }
        for way in wishes.open.into_iter().flatten() {
            let mut offer = self.watch.offer(way);
            match way {
                Direction::Inbound => offer.inbound.at = self.facts.gate.inbound.last_ns,
                Direction::Outbound => offer.outbound.at = self.facts.gate.outbound.last_ns,
            }
            self.watch.offered(way, offer, self.now_ms);
        }
        if let Some(number) = wishes.send {
            if !self.drops[1] {
                (self.facts.gate.left, self.facts.gate.differs) = (number, self.differs);
            }
            let outcome = if self.drops[1] { Outcome::Refused } else { Outcome::Sent };
            self.watch.sent(outcome, &self.facts.gate, self.now_ms);
        }
    }

    /// So many milliseconds with a packet each way every 10; gives when `until` held.
    fn run(&mut self, ms: u64, until: impl Fn(&Self) -> bool) -> Option<u64> {
        let begin = self.now_ms;
        while self.now_ms < begin + ms {
            if until(self) {
                return Some(self.now_ms - begin);
            }
            self.now_ms += 10;
            self.packets();
            if self.now_ms >= self.watch.next_ms() {
                self.look();
            }
        }
        None
    }
}

#[test]
fn it_opens_when_packets_and_witnesses_pass_and_stays_so() {
    let mut lab = Lab::new();
    assert_eq!(lab.open(), [false; 2]);
    assert!(lab.run(1_000, |lab| lab.open() == [true; 2]).is_some(), "{:?}", lab.watch);
    assert_eq!(lab.run(10_000, |lab| lab.open() != [true; 2]), None, "{:?}", lab.watch);
    assert!(lab.facts.gate.made > 40 && lab.facts.gate.left > 40, "four a second: {:?}", lab.facts);
}

#[test]
fn it_closes_within_a_second_and_opens_again() {
    for (way, direction) in [(0, Direction::Inbound), (1, Direction::Outbound)] {
        let mut lab = Lab::new();
        lab.run(1_000, |lab| lab.open() == [true; 2]).unwrap();
        lab.run(777, |_| false);
        lab.drops[way] = true;
        let closed = lab.run(1_000, |lab| !lab.open()[way]);
        assert!(closed.is_some(), "{direction:?}: {:?}", lab.watch);
        assert!(lab.why(direction).contains("3 witness packets"), "{}", lab.why(direction));
        assert!(lab.open()[1 - way], "the other way is open");
        assert_eq!(lab.run(5_000, |lab| lab.open()[way]), None, "{direction:?}: {:?}", lab.watch);
        lab.drops[way] = false;
        assert!(lab.run(3_000, |lab| lab.open()[way]).is_some(), "{direction:?}: {:?}", lab.watch);
    }
}

#[test]
fn what_leaves_otherwise_closes_at_once() {
    let mut lab = Lab::new();
    lab.run(1_000, |lab| lab.open() == [true; 2]).unwrap();
    lab.differs = super::super::differs::SOURCE;
    assert!(lab.run(300, |lab| !lab.open()[1]).is_some(), "{:?}", lab.watch);
    assert!(lab.why(Direction::Outbound).ends_with("source address"), "{}", lab.why(Direction::Outbound));
}

#[test]
fn an_idle_tunnel_is_asked_when_rules_change() {
    let mut lab = Lab::new();
    lab.run(1_000, |lab| lab.open() == [true; 2]).unwrap();
    let idle = |lab: &mut Lab, ms: u64| {
        for _ in 0..ms / 10 {
            lab.now_ms += 10;
            if lab.now_ms >= lab.watch.next_ms() {
                lab.look();
            }
        }
    };
    idle(&mut lab, 1_000);
    let before = lab.facts.gate.left;
    idle(&mut lab, 10_000);
    assert_eq!(lab.facts.gate.left, before, "nothing is sent for nothing");
    lab.drops[1] = true;
    lab.watch.hurry(lab.now_ms);
    idle(&mut lab, 500);
    assert_eq!(lab.open(), [true, false]);
}

#[test]
fn the_next_process_goes_on_from_the_last_verdict() {
    let mut lab = Lab::new();
    lab.run(1_000, |lab| lab.open() == [true; 2]).unwrap();
    lab.run(2_000, |_| false);
    let verdict = *lab.watch.verdict();
    lab.watch = Watch::adopt(verdict, &lab.facts.gate, lab.now_ms);
    assert_eq!(lab.open(), [true; 2]);
    assert_eq!(lab.run(3_000, |lab| lab.open() != [true; 2]), None, "{:?}", lab.watch);
    lab.drops[0] = true;
    lab.run(1_000, |lab| !lab.open()[0]).unwrap();
    lab.watch = Watch::adopt(*lab.watch.verdict(), &lab.facts.gate, lab.now_ms);
    assert_eq!(lab.open(), [false, true]);
}
