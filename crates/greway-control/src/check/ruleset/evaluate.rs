//! What becomes of one packet.

use greway_netlink::nftables::{Comparison, Decision, Hook, Load, NftElement, NftRule, NftSet, Step};

use super::{Base, Chain, Place, Ruleset};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A packet to ask about.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// IP protocol, behind all extension headers.
    pub protocol: u8,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// Device it came in by.
    pub input: InDevice<'a>,
    /// Device it leaves by.
    pub output: InDevice<'a>,
    /// What conntrack calls it.
    pub state: State,
}

/// A device that a packet passes.
#[derive(Clone, Copy, Debug)]
pub enum InDevice<'a> {
    /// There is none at this hook.
    None,
    /// Not known.
    Unknown,
    /// This one, by name and index.
    Known(&'a str, u32),
}

/// What conntrack calls a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The first of its flow.
    New,
    /// One of a flow that was answered.
    Established,
    /// One that belongs to none.
    Invalid,
}

impl State {
    /// The kernel's bit (NF_CT_STATE_BIT, linux include/uapi/linux/netfilter/nf_conntrack_common.h).
    fn bit(self) -> u32 {
        match self {
            Self::Invalid => 1,
            Self::Established => 2,
            Self::New => 8,
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It passes all chains of the hooks.
    Accepted,
    /// It is dropped there.
    Dropped(Place),
    /// It may be dropped there: a condition on the way is not known here.
    Unknown(Place),
}

impl Ruleset {
    /// What becomes of a packet at these hooks, one after the other.
    pub fn fate(&self, hooks: &[Hook], packet: &Packet<'_>) -> Fate {
        for hook in hooks {
            let mut chains = self.chains_at(*hook, false, packet);
            chains.sort_by_key(|chain| chain.base.map(|base| base.priority));
            for chain in chains {
                let Some(base) = chain.base else { continue };
                match Walk::new(self, packet, &chain.name).base(chain, base) {
                    Fate::Accepted => {}
                    other => return other,
                }
            }
        }
        Fate::Accepted
    }

    fn chains_at(&self, hook: Hook, translating: bool, packet: &Packet<'_>) -> Vec<&Chain> {
        let ipv6 = packet.source.is_ipv6();
        self.chains.iter().filter(|chain| chain.sees(hook, translating, ipv6)).collect()
    }

    /// Whether the source of a packet is translated as it leaves; `None` where that is not known.
    pub fn translates_source(&self, packet: &Packet<'_>) -> Option<bool> {
        let mut chains = self.chains_at(Hook::Postrouting, true, packet);
        chains.sort_by_key(|chain| chain.base.map(|base| base.priority));
        let mut known = true;
        for chain in chains {
            let mut walk = Walk::new(self, packet, &chain.name);
            walk.chain(chain, true, 0);
            match walk.decided {
                Some(Decided::Accepted { translated: true }) if walk.may_accept.is_none() => {
                    return Some(true);
                }
                _ => {
                    known &= !walk.may_translate
                        && !matches!(walk.decided, Some(Decided::Accepted { translated: true }))
                }
            }
        }
        known.then_some(false)
    }
}

/// Jumps may be this deep (NFT_JUMP_STACK_SIZE).
const DEEPEST: usize = 16;
/// Rules that are gone through for a packet. A walk that cannot tell which way a packet goes goes all of them,
/// and with chains that jump to chains that is without end.
const MOST_RULES: u32 = 100_000;
/// Bytes of all registers (NFT_REG32_NUM).
const REGISTERS: usize = 80;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Decided {
    Accepted { translated: bool },
    Dropped(Place),
}

struct Walk<'r> {
    ruleset: &'r Ruleset,
    packet: &'r Packet<'r>,
    base: &'r str,
    decided: Option<Decided>,
    may_accept: Option<()>,
    may_translate: bool,
    may_drop: Option<Place>,
    left: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    Yes,
    No,
    Maybe,
}

impl<'r> Walk<'r> {
    fn new(ruleset: &'r Ruleset, packet: &'r Packet<'r>, base: &'r str) -> Self {
        Self {
            ruleset,
            packet,
            base,
            decided: None,
            may_accept: None,
            may_translate: false,
            may_drop: None,
            left: MOST_RULES,
        }
    }

    fn base(mut self, chain: &'r Chain, base: Base) -> Fate {
        self.chain(chain, true, 0);
        let policy = || Place {
            legacy: chain.legacy,
            table: chain.table.clone(),
            chain: chain.name.clone(),
            base: chain.name.clone(),
            rule: None,
        };
        let decided = self.decided.unwrap_or_else(|| match base.drops {
            true => Decided::Dropped(policy()),
            false => Decided::Accepted { translated: false },
        });
        match (decided, self.may_accept, self.may_drop) {
            (Decided::Accepted { .. }, _, None) => Fate::Accepted,
            (Decided::Accepted { .. }, _, Some(place)) => Fate::Unknown(place),
            (Decided::Dropped(place), None, _) => Fate::Dropped(place),
            (Decided::Dropped(place), Some(()), _) => Fate::Unknown(place),
        }
    }

    /// Goes through a chain; true when the packet's fate is decided in it for certain. `sure` is false where
    /// it is not known whether the packet comes here.
    fn chain(&mut self, chain: &'r Chain, mut sure: bool, depth: usize) -> bool {
        if depth > DEEPEST {
            return false;
        }
        for (number, rule) in chain.rules.iter().enumerate() {
            let Some(left) = self.left.checked_sub(1) else {
                // Whatever the rest says is not known.
                self.may_accept = Some(());
                self.may_translate = true;
                let place = self.place(chain, number, rule);
                self.may_drop.get_or_insert(place);
                return false;
            };
            self.left = left;
            let (truth, decision) = self.rule(chain, rule);
            let (Some(decision), Truth::Yes | Truth::Maybe) = (decision, truth) else { continue };
            let certain = sure && truth == Truth::Yes;
            match decision {
                Decision::Accept | Decision::Translate { .. } => {
                    let translated = matches!(decision, Decision::Translate { source: true });
                    if certain {
                        self.decided = Some(Decided::Accepted { translated });
                        return true;
                    }
                    self.may_accept = Some(());
                    self.may_translate |= translated;
                }
                Decision::Drop | Decision::Reject => {
                    let place = self.place(chain, number, rule);
                    if certain {
                        self.decided = Some(Decided::Dropped(place));
                        return true;
                    }
                    self.may_drop.get_or_insert(place);
                }
                Decision::Queue => {
                    // Whoever listens decides.
                    self.may_accept = Some(());
                    let place = self.place(chain, number, rule);
                    self.may_drop.get_or_insert(place);
                    if certain {
                        self.decided = Some(Decided::Accepted { translated: false });
                        return true;
                    }
                }
                Decision::Jump(name) | Decision::Goto(name) if self.find(chain, &name).is_none() => {}
                Decision::Jump(name) => {
                    let target = self.find(chain, &name);
                    if target.is_some_and(|target| self.chain(target, certain, depth + 1)) {
                        return true;
                    }
                }
                Decision::Goto(name) => {
                    let target = self.find(chain, &name);
                    if target.is_some_and(|target| self.chain(target, certain, depth + 1)) {
                        return true;
                    }
                    if certain {
                        return false;
                    }
                    sure = false;
                }
                Decision::Return if certain => return false,
                // What follows is reached or not.
                Decision::Return => sure = false,
                Decision::Continue => {}
            }
        }
        false
    }

    fn find(&self, from: &Chain, name: &str) -> Option<&'r Chain> {
        let same =
            |chain: &&Chain| chain.legacy == from.legacy && chain.table == from.table && chain.name == name;
        self.ruleset.chains.iter().find(same)
    }

    fn place(&self, chain: &Chain, number: usize, rule: &NftRule) -> Place {
        Place {
            legacy: chain.legacy,
            table: chain.table.clone(),
            chain: chain.name.clone(),
            base: self.base.to_owned(),
            rule: Some((number + 1, rule.handle)),
        }
    }

    /// Whether a rule is for the packet, and what it decides.
    fn rule(&self, chain: &Chain, rule: &NftRule) -> (Truth, Option<Decision>) {
        let mut registers = Registers::default();
        let mut truth = Truth::Yes;
        for step in &rule.steps {
            let (holds, decision) = self.step(chain, step, &mut registers);
            match holds {
                Truth::Yes => {}
                Truth::No => return (Truth::No, None),
                Truth::Maybe => truth = Truth::Maybe,
            }
            if decision.is_some() {
                return (truth, decision);
            }
        }
        (truth, None)
    }

    fn step(&self, chain: &Chain, step: &Step, registers: &mut Registers) -> (Truth, Option<Decision>) {
        let holds = match step {
            Step::Load { what, register, length } => match self.load(*what, *length) {
                Loaded::Bytes(bytes) => {
                    registers.put(*register, &bytes);
                    Truth::Yes
                }
                // An expression that cannot load ends its rule (NFT_BREAK).
                Loaded::Absent => Truth::No,
            },
            Step::Immediate { register, bytes } => {
                registers.put(*register, &known(bytes));
                Truth::Yes
            }
            Step::Mask { from, to, mask, xor } => {
                let value = registers.get(*from, mask.len());
                let masked = value.iter().zip(mask.iter().zip(xor)).map(|(byte, (mask, xor))| match byte {
                    Some(byte) => Some((byte & mask) ^ xor),
                    // What is masked away need not be known.
                    None if *mask == 0 => Some(*xor),
                    None => None,
                });
                registers.put(*to, &masked.collect::<Vec<_>>());
                Truth::Yes
            }
            Step::Compare { register, comparison, bytes } => {
                compare(&registers.get(*register, bytes.len()), *comparison, bytes)
            }
            Step::Range { register, outside, from, to } => {
                let value = registers.get(*register, from.len());
                match whole(&value) {
                    None => Truth::Maybe,
                    Some(value) => {
                        let within = (from.as_slice()..=to.as_slice()).contains(&value.as_slice());
                        truth(within != *outside)
                    }
                }
            }
            Step::Lookup { set, register, inverted, to, decides } => {
                let found = self.ruleset.sets.iter().find(|s| s.table == chain.table && s.name == *set);
                let Some(set) = found else { return (Truth::Maybe, None) };
                let value = registers.get(*register, set.key_length as usize);
                let Some(value) = whole(&value) else { return self.maybe_lookup(set, *decides) };
                if let Some(to) = to {
                    registers.put(*to, &[None; 16]);
                }
                match (look_up(set, &value), decides) {
                    (Some(element), true) => return (Truth::Yes, element.verdict.clone()),
                    (element, _) => truth(element.is_some() != *inverted),
                }
            }
            Step::Decide(decision) => return (Truth::Yes, Some(decision.clone())),
            Step::Match { name, revision, info } => self.xt_match(name, *revision, info),
            Step::Target { name, .. } => return xt_target(name),
            Step::Aside => Truth::Yes,
            // A limit, a quota, a hash: it may hold.
            Step::Unread(_) => Truth::Maybe,
        };
        (holds, None)
    }

    /// A map of which it is not known where it leads: to a drop as the worst.
    fn maybe_lookup(&self, set: &NftSet, decides: bool) -> (Truth, Option<Decision>) {
        let worst =
            |element: &&NftElement| matches!(element.verdict, Some(Decision::Drop | Decision::Reject));
        let worst = set.elements.iter().find(worst).or_else(|| set.elements.first());
        (Truth::Maybe, worst.filter(|_| decides).and_then(|element| element.verdict.clone()))
    }

    fn load(&self, what: Load, length: u32) -> Loaded {
        let packet = self.packet;
        let device = |device: InDevice<'_>| match device {
            InDevice::None => Loaded::Absent,
            InDevice::Unknown => Loaded::unknown(16),
            InDevice::Known(name, _) => {
                let mut bytes = name.as_bytes().to_vec();
                bytes.resize(16, 0);
                Loaded::known(&bytes)
            }
        };
        let index = |device: InDevice<'_>| match device {
            InDevice::None => Loaded::Absent,
            InDevice::Unknown => Loaded::unknown(4),
            InDevice::Known(_, index) => Loaded::known(&index.to_ne_bytes()),
        };
        match what {
            Load::Network { offset } => {
                let header = self.header();
                let at = |position: u32| header.get(position as usize).copied().flatten();
                let length = length.min(REGISTERS as u32);
                Loaded::Bytes((offset..offset.saturating_add(length)).map(at).collect())
            }
            // NFT_META_PROTOCOL, IIF, OIF, IIFNAME, OIFNAME, NFPROTO, L4PROTO, PKTTYPE.
            Load::Meta(1) if packet.source.is_ipv6() => Loaded::known(&0x86dd_u16.to_be_bytes()),
            Load::Meta(1) => Loaded::known(&0x0800_u16.to_be_bytes()),
            Load::Meta(4) => index(packet.input),
            Load::Meta(5) => index(packet.output),
            Load::Meta(6) => device(packet.input),
            Load::Meta(7) => device(packet.output),
            // NFPROTO_IPV6, NFPROTO_IPV4.
            Load::Meta(15) => Loaded::known(&[if packet.source.is_ipv6() { 10 } else { 2 }]),
            Load::Meta(16) => Loaded::known(&[packet.protocol]),
            // PACKET_HOST.
            Load::Meta(19) => Loaded::known(&[0]),
            // NFT_CT_STATE.
            Load::Connection(0) => Loaded::known(&packet.state.bit().to_ne_bytes()),
            Load::Transport { .. } | Load::Meta(_) | Load::Connection(_) | Load::Other => {
                Loaded::unknown((length.max(16) as usize).min(REGISTERS))
            }
        }
    }

    /// What is known of the packet's IP header.
    fn header(&self) -> Vec<Option<u8>> {
        match (self.packet.source, self.packet.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.ipv4_header(source, destination),
            (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6_header(source, destination),
            // There is no such packet.
            _ => Vec::new(),
        }
    }

    fn ipv4_header(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<Option<u8>> {
        let mut header = vec![None; 12];
        header[0] = Some(0x45);
        // No fragment; DF may be set.
        header[7] = Some(0);
        header[9] = Some(self.packet.protocol);
        header.extend([source.octets(), destination.octets()].concat().into_iter().map(Some));
        header
    }

    fn xt_match(&self, name: &str, revision: u32, info: &[u8]) -> Truth {
        let state = self.packet.state.bit();
        let half = |at: usize| info.get(at..at + 2).map(|b| u16::from_ne_bytes([b[0], b[1]]));
        match (name, revision) {
            ("comment", _) => Truth::Yes,
            // struct xt_state_info: the mask.
            ("state", _) => match info.first_chunk() {
                Some(mask) => truth(u32::from_ne_bytes(*mask) & state != 0),
                None => Truth::Maybe,
            },
            // struct xt_conntrack_mtinfo3: match_flags 146, invert_flags 148, state_mask 150; XT_CONNTRACK_STATE
            // is 1.
            ("conntrack", 2 | 3) => match (half(146), half(148), half(150)) {
                (Some(1), Some(inverted), Some(mask)) => {
                    truth((u32::from(mask) & state != 0) != (inverted & 1 != 0))
                }
                _ => Truth::Maybe,
            },
            // Of another protocol than these.
            ("tcp", _) => truth_of_protocol(self.packet.protocol, 6),
            ("udp", _) => truth_of_protocol(self.packet.protocol, 17),
            ("icmp", _) => truth_of_protocol(self.packet.protocol, 1),
            _ => Truth::Maybe,
        }
    }
}

/// Whether GRE follows at once or behind an encapsulation limit is the sender's choice, so the next header is not
/// known. Traffic class and flow label are neither.
fn ipv6_header(source: Ipv6Addr, destination: Ipv6Addr) -> Vec<Option<u8>> {
    let mut header = vec![None; 8];
    header.extend([source.octets(), destination.octets()].concat().into_iter().map(Some));
    header
}

fn truth_of_protocol(protocol: u8, wanted: u8) -> Truth {
    if protocol == wanted { Truth::Maybe } else { Truth::No }
}

/// A target by its name: most of them decide nothing.
fn xt_target(name: &str) -> (Truth, Option<Decision>) {
    match name {
        "REJECT" => (Truth::Yes, Some(Decision::Reject)),
        "MASQUERADE" | "SNAT" => (Truth::Yes, Some(Decision::Translate { source: true })),
        "DNAT" | "REDIRECT" => (Truth::Yes, Some(Decision::Translate { source: false })),
        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" | "CHECKSUM" | "CT" | "SET" | "CLASSIFY"
        | "TRACE" | "DSCP" | "TOS" | "TTL" | "RATEEST" | "AUDIT" | "NOTRACK" | "TEE" | "LED" => {
            (Truth::Yes, None)
        }
        _ => (Truth::Maybe, Some(Decision::Drop)),
    }
}

enum Loaded {
    Bytes(Vec<Option<u8>>),
    Absent,
}

impl Loaded {
    fn known(bytes: &[u8]) -> Self {
        Self::Bytes(known(bytes))
    }

    fn unknown(length: usize) -> Self {
        Self::Bytes(vec![None; length])
    }
}

fn known(bytes: &[u8]) -> Vec<Option<u8>> {
    bytes.iter().copied().map(Some).collect()
}

fn truth(holds: bool) -> Truth {
    if holds { Truth::Yes } else { Truth::No }
}

fn whole(value: &[Option<u8>]) -> Option<Vec<u8>> {
    value.iter().copied().collect()
}

fn compare(value: &[Option<u8>], comparison: Comparison, with: &[u8]) -> Truth {
    // One byte that is known to differ decides about equality.
    let differs = value.iter().zip(with).any(|(have, want)| have.is_some_and(|have| have != *want));
    match (whole(value), comparison) {
        (_, Comparison::Equal) if differs => Truth::No,
        (_, Comparison::NotEqual) if differs => Truth::Yes,
        (None, _) => Truth::Maybe,
        (Some(value), comparison) => truth(match comparison {
            Comparison::Equal => value == with,
            Comparison::NotEqual => value != with,
            Comparison::Less => value.as_slice() < with,
            Comparison::LessOrEqual => value.as_slice() <= with,
            Comparison::Greater => value.as_slice() > with,
            Comparison::GreaterOrEqual => value.as_slice() >= with,
        }),
    }
}

fn look_up<'s>(set: &'s NftSet, value: &[u8]) -> Option<&'s NftElement> {
    let catchall = set.elements.iter().find(|element| element.is_catchall);
    let plain = set.elements.iter().filter(|element| !element.is_catchall);
    if !set.is_interval {
        return plain.clone().find(|element| element.key == value).or(catchall);
    }
    // With both bounds in one element (concatenations), word by word.
    let within = |element: &&NftElement| {
        let Some(end) = &element.key_end else { return false };
        let words = element.key.chunks(4).zip(end.chunks(4)).zip(value.chunks(4));
        element.key.len() == value.len() && words.into_iter().all(|((from, to), at)| from <= at && at <= to)
    };
    if let Some(element) = plain.clone().find(within) {
        return Some(element);
    }
    // Else the last bound at or before the value tells: a beginning is inside, an end is not.
    let before = plain.filter(|element| element.key_end.is_none() && element.key.as_slice() <= value);
    let last = before.max_by(|a, b| a.key.cmp(&b.key).then(b.ends_interval.cmp(&a.ends_interval)));
    last.filter(|element| !element.ends_interval).or(catchall)
}

#[derive(Debug)]
struct Registers([Option<u8>; REGISTERS]);

impl Default for Registers {
    fn default() -> Self {
        Self([None; REGISTERS])
    }
}

impl Registers {
    fn put(&mut self, register: u32, bytes: &[Option<u8>]) {
        let at = (register as usize).saturating_mul(4);
        for (offset, byte) in bytes.iter().enumerate() {
            if let Some(slot) = self.0.get_mut(at.saturating_add(offset)) {
                *slot = *byte;
            }
        }
    }

    fn get(&self, register: u32, length: usize) -> Vec<Option<u8>> {
        let at = (register as usize).saturating_mul(4);
        // No value is longer than all registers, whatever a set says of its keys.
        (0..length.min(REGISTERS))
            .map(|offset| self.0.get(at.saturating_add(offset)).copied().flatten())
            .collect()
    }
}
