//! Whether one tunnel is open, each way for itself. Times are milliseconds of any clock that only goes forward.
//!
//! ```text
//!            it was shown that packets pass          none was overtaken
//!   Closed ───────────────────────────────► Opening ───────────────────► Open
//!      ▲                                       │                           │
//!      └───────────────────────────────────────┴──── witnesses are lost ◄──┘
//! ```
//!
//! Inbound it is shown by the packets themselves while it is closed (as many arrive at the socket as the program left to
//! it), and by witnesses while it is open. Outbound it is always witnesses.

use std::fmt;

use super::{Gate, Leave, Verdict, words_of};

/// Between two witnesses of a tunnel that is open and has traffic.
const INTERVAL_MS: u64 = 250;
/// How long a witness may be on its way: it may have to wait for a neighbour or for a program that judges it.
const GRACE_MS: u64 = 40;
/// So many lost in a row close.
const MISSES: u32 = 3;
/// A program that made no witness for so long although it carried packets cannot make any.
const UNMADE_MS: u64 = 500;
/// For so long packets have to arrive before it opens, at least and after it was closed again and again.
const PROOF_MS: u64 = 200;
const LONGEST_PROOF_MS: u64 = 5_000;
/// Open for longer than this it was worth it.
const LASTING_MS: u64 = 10_000;
/// So many witnesses have to leave as they should before it opens outbound.
const GOOD: u32 = 2;
/// Between looks at what is about to change, and at a tunnel where nothing happens.
const SOON_MS: u64 = 30;
const LATER_MS: u64 = 1_000;
/// So long it is tried to open without overtaking; then it opens all the same.
const FORCED_MS: u64 = 1_000;

/// No packet is declined then: a leave that nothing makes use of until it is at once.
const NEVER: u64 = u64::MAX;

/// One of the two ways through a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the underlay.
    Inbound,
    /// To the underlay.
    Outbound,
}

/// What is known of a tunnel when it is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What the programs saw. To be read before `arrived`.
    pub gate: Gate,
    /// Packets that the programs carried: in and out.
    pub carried: (u64, u64),
    /// Packets of the tunnel that have arrived at userspace's socket.
    pub arrived: u64,
    /// The socket was empty after `gate` was read, so nothing is still in it.
    pub drained: bool,
}

/// What is to be done after a look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// The verdict is another one: write it.
    pub write: bool,
    /// Empty the socket and look again, with `drained`.
    pub drain: bool,
    /// Find a moment at which no packet is on its way through userspace, see [`Watch::offer`].
    pub open: [Option<Direction>; 2],
    /// Send the witness of this number, and tell [`Watch::sent`].
    pub send: Option<u32>,
}

/// What became of a witness that was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel took it; how far it came the gate says.
    Sent,
    /// It was refused: EPERM.
    Refused,
    /// It could not be sent for another reason, which says nothing about rules but leaves nothing shown.
    Failed,
}

/// How things stand, one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Packets are carried.
    Open,
    /// They are userspace's, for the reason in the sentence.
    Closed(String),
}

/// One tunnel.
#[derive(Clone, Debug)]
pub struct Watch {
    verdict: Verdict,
    /// The last number given, to a witness or a leave.
    number: u32,
    inbound: Side,
    outbound: Side,
    /// The witness that the program is to make.
    asked: Option<Asked>,
    /// The last one that arrived.
    heard: u32,
    /// When packets began to arrive as they should, and the counts of then.
    proof: Proof,
    proof_ms: u64,
    /// A witness that was sent and has not been seen leaving.
    sent: Option<(u32, u64)>,
    good: u32,
    /// Packets outbound, carried or not, when the last witness was sent.
    tx: u64,
    /// Witnesses are wanted now, traffic or not.
    hurried: bool,
    next_ms: u64,
}

#[derive(Clone, Debug)]
struct Side {
    state: State,
    misses: u32,
    why: Why,
    next_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Opening { since_ms: u64 },
    Open { since_ms: u64 },
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    at_ms: u64,
    /// When it was seen that it was made.
    made_ms: Option<u64>,
    /// Packets carried inbound by then.
    rx: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Proof {
    since_ms: u64,
    declined: u64,
    arrived: u64,
    /// Set once there are counts.
    begun: bool,
}

/// Why a side is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Unproven,
    Lost,
    Losing,
    Unmade,
    Refused,
    Unsent,
    Differs(u32),
}

impl Watch {
    /// A tunnel of which nothing is known: closed both ways.
    pub fn new(secret: [u8; 16], now_ms: u64) -> Self {
        Self::adopt(Verdict { secret, ..Verdict::default() }, &Gate::default(), now_ms)
    }

    /// A tunnel that an earlier process has judged: what was open stays open until something is amiss.
    pub fn adopt(before: Verdict, gate: &Gate, now_ms: u64) -> Self {
        let side = |leave: Leave| Side {
            state: match (leave.number, leave.at_once) {
                (0, _) => State::Closed,
                (_, 0) => State::Opening { since_ms: now_ms },
                _ => State::Open { since_ms: now_ms },
            },
            misses: 0,
            why: Why::Unproven,
            next_ms: now_ms,
        };
        let numbers = [before.inbound.number, before.outbound.number, before.ask, gate.made, gate.left];
        Self {
            verdict: Verdict { ask: 0, ..before },
            number: numbers.into_iter().max().unwrap_or(0),
            inbound: side(before.inbound),
            outbound: side(before.outbound),
            asked: None,
            heard: 0,
            proof: Proof::default(),
            proof_ms: PROOF_MS,
            sent: None,
            good: 0,
            tx: 0,
            hurried: false,
            next_ms: now_ms,
        }
    }

    /// What the programs are to go by now.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// When to look again; sooner does no harm.
    pub fn next_ms(&self) -> u64 {
        self.next_ms
    }

    /// Rules have changed: witnesses are wanted now.
    pub fn hurry(&mut self, now_ms: u64) {
        self.hurried = true;
        self.inbound.next_ms = now_ms;
        self.outbound.next_ms = now_ms;
        self.next_ms = now_ms;
    }

    /// A witness that came in has arrived.
    pub fn heard(&mut self, number: u32) {
        self.heard = number;
    }

    /// How things stand.
    pub fn standing(&self, direction: Direction) -> Standing {
        let (side, leave) = match direction {
            Direction::Inbound => (&self.inbound, &self.verdict.inbound),
            Direction::Outbound => (&self.outbound, &self.verdict.outbound),
        };
        match side.state {
            State::Open { .. } => Standing::Open,
            // The next packet opens it.
            State::Opening { .. } if leave.at != NEVER => Standing::Open,
            State::Closed | State::Opening { .. } => Standing::Closed(side.why.words(direction)),
        }
    }

    /// Looks at a tunnel and says what is to be done. The caller does it and, for what says so, tells.
    pub fn look(&mut self, facts: &Facts, now_ms: u64) -> Wishes {
        let mut wishes = Wishes::default();
        self.next_ms = now_ms + INTERVAL_MS;
        self.look_inbound(facts, now_ms, &mut wishes);
        if !wishes.drain {
            self.look_outbound(facts, now_ms, &mut wishes);
        }
        wishes
    }

    fn soon(&mut self, at_ms: u64) {
        self.next_ms = self.next_ms.min(at_ms);
    }

    fn look_inbound(&mut self, facts: &Facts, now_ms: u64, wishes: &mut Wishes) {
        let passage = facts.gate.inbound;
        match self.inbound.state {
            State::Closed => match self.proven(facts, now_ms) {
                Proven::Idle => {}
                Proven::Perhaps => wishes.drain = true,
                Proven::No => self.soon(now_ms + SOON_MS),
                Proven::Yes { since_ms } => {
                    self.soon(now_ms + SOON_MS);
                    if now_ms - since_ms >= self.proof_ms {
                        wishes.open[0] = Some(Direction::Inbound);
                    }
                }
            },
            State::Opening { since_ms } => {
                self.soon(now_ms + SOON_MS);
                if passage.opened == self.verdict.inbound.number {
                    self.opened_inbound(facts, now_ms, wishes);
                } else if passage.last_ns != self.verdict.inbound.at {
                    // Some came in between.
                    match self.proven(facts, now_ms) {
                        Proven::Perhaps => wishes.drain = true,
                        Proven::No => self.close(Direction::Inbound, Why::Losing, now_ms, wishes),
                        _ if now_ms - since_ms >= FORCED_MS => self.opened_inbound(facts, now_ms, wishes),
                        _ => wishes.open[0] = Some(Direction::Inbound),
                    }
                }
            }
            State::Open { .. } => self.look_open_inbound(facts, now_ms, wishes),
        }
    }

    fn opened_inbound(&mut self, facts: &Facts, now_ms: u64, wishes: &mut Wishes) {
        self.verdict.inbound.at_once = 1;
        self.inbound.state = State::Open { since_ms: now_ms };
        self.inbound.misses = 0;
        self.asked = None;
        self.ask(facts, now_ms);
        wishes.write = true;
    }

    /// Wants a witness of the next packet that comes in.
    fn ask(&mut self, facts: &Facts, now_ms: u64) {
        self.number = next(self.number);
        self.verdict.ask = self.number;
        self.asked = Some(Asked { at_ms: now_ms, made_ms: None, rx: facts.carried.0 });
        self.soon(now_ms + SOON_MS);
    }

    fn look_open_inbound(&mut self, facts: &Facts, now_ms: u64, wishes: &mut Wishes) {
        if self.asked.is_none() {
            if now_ms >= self.inbound.next_ms {
                self.ask(facts, now_ms);
                wishes.write = true;
            }
            let next_ms = self.inbound.next_ms;
            return self.soon(next_ms.max(now_ms + 1));
        }
        if self.heard == self.number_asked() {
            self.asked = None;
            self.inbound.misses = 0;
            self.inbound.next_ms = now_ms + INTERVAL_MS;
            wishes.write |= std::mem::take(&mut self.verdict.ask) != 0;
            return;
        }
        let made = facts.gate.made == self.number_asked();
        let Some(asked) = &mut self.asked else { return };
        let lost = match (made, asked.made_ms) {
            (true, Some(made_ms)) if now_ms - made_ms >= GRACE_MS => Some(Why::Lost),
            (true, Some(_)) => None,
            (true, None) => {
                asked.made_ms = Some(now_ms);
                None
            }
            (false, _) if facts.carried.0 == asked.rx => {
                // Nothing has come in: nothing to make one of.
                asked.at_ms = now_ms;
                return;
            }
            (false, _) => (now_ms - asked.at_ms >= UNMADE_MS).then_some(Why::Unmade),
        };
        let Some(why) = lost else { return self.soon(now_ms + SOON_MS) };
        if !facts.drained {
            // It may lie in the socket.
            wishes.drain = true;
            return;
        }
        self.inbound.misses += 1;
        if self.inbound.misses >= MISSES {
            return self.close(Direction::Inbound, why, now_ms, wishes);
        }
        self.ask(facts, now_ms);
        wishes.write = true;
    }

    /// The number of the witness that was asked for; it is kept in the verdict until it was heard.
    fn number_asked(&self) -> u32 {
        self.verdict.ask
    }

    fn proven(&mut self, facts: &Facts, now_ms: u64) -> Proven {
        let declined_now = facts.gate.inbound.declined;
        let begin = Proof { since_ms: now_ms, declined: declined_now, arrived: facts.arrived, begun: true };
        if !self.proof.begun {
            self.proof = begin;
            return Proven::Idle;
        }
        let declined = declined_now.saturating_sub(self.proof.declined);
        let arrived = facts.arrived.saturating_sub(self.proof.arrived);
        match (declined, arrived) {
            (0, _) => Proven::Idle,
            _ if arrived >= declined => Proven::Yes { since_ms: self.proof.since_ms },
            _ if !facts.drained => Proven::Perhaps,
            _ => {
                self.proof = begin;
                if self.inbound.why == Why::Unproven {
                    self.inbound.why = Why::Losing;
                }
                Proven::No
            }
        }
    }

    fn look_outbound(&mut self, facts: &Facts, now_ms: u64, wishes: &mut Wishes) {
        if let Some((number, at_ms)) = self.sent {
            if facts.gate.left == number {
                self.judge(&facts.gate, now_ms, wishes);
            } else if now_ms - at_ms >= GRACE_MS {
                self.missed(Why::Lost, now_ms, wishes);
            } else {
                return self.soon(at_ms + GRACE_MS);
            }
        }
        let passage = facts.gate.outbound;
        match self.outbound.state {
            State::Closed if self.good >= GOOD => {
                wishes.open[1] = Some(Direction::Outbound);
                self.soon(now_ms + SOON_MS);
            }
            State::Opening { since_ms } => {
                let overtaken = passage.last_ns != self.verdict.outbound.at;
                if passage.opened == self.verdict.outbound.number
                    || (overtaken && now_ms - since_ms >= FORCED_MS)
                {
                    self.verdict.outbound.at_once = 1;
                    self.outbound.state = State::Open { since_ms: now_ms };
                    wishes.write = true;
                } else if overtaken {
                    wishes.open[1] = Some(Direction::Outbound);
                }
                self.soon(now_ms + SOON_MS);
            }
            _ => {}
        }
        let tx = facts.carried.1.wrapping_add(passage.declined);
        let silent = self.outbound.state != State::Closed
            && tx == self.tx
            && self.outbound.misses == 0
            && !self.hurried;
        if now_ms >= self.outbound.next_ms && !silent {
            self.number = next(self.number);
            self.sent = Some((self.number, now_ms));
            self.tx = tx;
            self.hurried = false;
            wishes.send = Some(self.number);
            self.soon(now_ms + SOON_MS);
        } else if !silent {
            let next_ms = self.outbound.next_ms;
            self.soon(next_ms);
        }
    }

    /// Tells what became of the witness that was to be sent; `gate` as it is now. What it returns is to be done too.
    pub fn sent(&mut self, outcome: Outcome, gate: &Gate, now_ms: u64) -> Wishes {
        let mut wishes = Wishes::default();
        let Some((number, _)) = self.sent else { return wishes };
        match outcome {
            Outcome::Sent if gate.left == number => self.judge(gate, now_ms, &mut wishes),
            Outcome::Sent => {}
            Outcome::Refused => self.missed(Why::Refused, now_ms, &mut wishes),
            Outcome::Failed => self.missed(Why::Unsent, now_ms, &mut wishes),
        }
        wishes
    }

    /// A witness was about to leave.
    fn judge(&mut self, gate: &Gate, now_ms: u64, wishes: &mut Wishes) {
        self.sent = None;
        if gate.differs != 0 {
            // That is no accident.
            self.outbound.misses = MISSES;
            return self.missed(Why::Differs(gate.differs), now_ms, wishes);
        }
        self.outbound.misses = 0;
        self.good = self.good.saturating_add(1);
        let wait = if self.good < GOOD { SOON_MS } else { INTERVAL_MS };
        self.outbound.next_ms = now_ms + wait;
        self.soon(now_ms + wait.min(SOON_MS));
    }

    fn missed(&mut self, why: Why, now_ms: u64, wishes: &mut Wishes) {
        self.sent = None;
        self.good = 0;
        self.outbound.misses = self.outbound.misses.saturating_add(1);
        let wait = match self.outbound.misses {
            0..=MISSES => SOON_MS,
            _ => LATER_MS,
        };
        self.outbound.next_ms = now_ms + wait;
        self.soon(now_ms + wait);
        if self.outbound.misses >= MISSES {
            self.close(Direction::Outbound, why, now_ms, wishes);
        }
    }

    fn close(&mut self, direction: Direction, why: Why, now_ms: u64, wishes: &mut Wishes) {
        let (side, leave) = match direction {
            Direction::Inbound => (&mut self.inbound, &mut self.verdict.inbound),
            Direction::Outbound => (&mut self.outbound, &mut self.verdict.outbound),
        };
        wishes.write |= leave.number != 0;
        *leave = Leave::default();
        if let (Direction::Inbound, State::Open { since_ms }) = (direction, side.state) {
            self.proof_ms = match now_ms - since_ms >= LASTING_MS {
                true => PROOF_MS,
                false => (self.proof_ms * 2).min(LONGEST_PROOF_MS),
            };
        }
        side.state = State::Closed;
        side.why = why;
        if direction == Direction::Inbound {
            side.misses = 0;
            self.asked = None;
            self.verdict.ask = 0;
            self.proof = Proof::default();
        }
        self.soon(now_ms + SOON_MS);
    }

    /// A verdict that would open: the caller reads when the last packet was declined, empties the way through userspace,
    /// reads again, and if it is the same puts it into `at` of this direction, writes the verdict at once, and tells
    /// [`Self::offered`].
    pub fn offer(&mut self, direction: Direction) -> Verdict {
        self.number = next(self.number);
        let leave = Leave { number: self.number, at_once: 0, at: 0 };
        match direction {
            Direction::Inbound => Verdict { inbound: leave, ..self.verdict },
            Direction::Outbound => Verdict { outbound: leave, ..self.verdict },
        }
    }

    /// The offer was written.
    pub fn offered(&mut self, direction: Direction, verdict: Verdict, now_ms: u64) {
        self.verdict = verdict;
        self.tried(direction, now_ms);
    }

    /// No such moment was found. After a second it opens all the same.
    pub fn tried(&mut self, direction: Direction, now_ms: u64) {
        let (side, leave) = match direction {
            Direction::Inbound => (&mut self.inbound, &mut self.verdict.inbound),
            Direction::Outbound => (&mut self.outbound, &mut self.verdict.outbound),
        };
        if leave.number == 0 {
            *leave = Leave { number: self.number, at_once: 0, at: NEVER };
        }
        if side.state == State::Closed {
            side.state = State::Opening { since_ms: now_ms };
        }
        self.soon(now_ms + SOON_MS);
    }
}

/// Whether packets that were declined have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proven {
    /// There were none.
    Idle,
    /// Not all of them; some may lie in the socket.
    Perhaps,
    No,
    Yes {
        since_ms: u64,
    },
}

/// Numbers go round, and 0 is none.
fn next(number: u32) -> u32 {
    number.checked_add(1).unwrap_or(1)
}

impl Why {
    fn words(self, direction: Direction) -> String {
        let way = match direction {
            Direction::Inbound => "PREROUTING and INPUT",
            Direction::Outbound => "OUTPUT and POSTROUTING",
        };
        match (self, direction) {
            (Self::Unproven, Direction::Inbound) => {
                "no packet has come in yet that shows that the host's rules let it pass".to_owned()
            }
            (Self::Unproven, Direction::Outbound) => "the host's rules are being tried".to_owned(),
            (Self::Lost, _) => format!("{MISSES} witness packets did not come through {way}"),
            (Self::Losing, _) => format!("packets do not come through {way}"),
            (Self::Unmade, _) => "no witness packets can be made of what comes in".to_owned(),
            (Self::Refused, _) => format!("{way} refused {MISSES} witness packets"),
            (Self::Unsent, _) => "witness packets cannot be sent".to_owned(),
            (Self::Differs(differs), _) => {
                format!("the host's rules change what leaves: {}", words_of(differs))
            }
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("witness packets pass the host's rules"),
            Self::Closed(why) => f.write_str(why),
        }
    }
}
#[cfg(test)]
mod tests;
