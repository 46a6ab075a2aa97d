//! The rules of others, read: chains, rules and sets as plain data, for whoever wants to know what becomes
//! of a packet. It decodes what decides about packets and keeps the name of everything else; it judges
//! nothing.
//!
//! Registers are numbered in units of four bytes: the kernel's `NFT_REG_1` is 0, `NFT_REG32_00` too.
//!
//! Attributes: include/uapi/linux/netfilter/nf_tables.h and nf_tables_compat.h, Linux 6.18.

use super::message::{self, NFGENMSG, header, kind};
use super::{BaseChain, Family, Nftables, TableId};
use crate::error::{NetlinkError, Subject};
use crate::nla::{Attribute, Attributes, NlaWriter};

/// Everything that is in nf_tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NftRuleset {
    /// Chains of all tables, base chains and others.
    pub chains: Vec<NftChain>,
    /// Rules of all chains, in their order within a chain.
    pub rules: Vec<NftRule>,
    /// Sets and maps that rules look into.
    pub sets: Vec<NftSet>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftChain {
    /// The table it is in.
    pub table: TableId,
    /// Its name within the table.
    pub name: String,
    /// Where it sits; `None` for a chain that only sees what others send it.
    pub base: Option<BaseChain>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftRule {
    /// The table it is in.
    pub table: TableId,
    /// The chain it is in.
    pub chain: String,
    /// The kernel's number of it.
    pub handle: u64,
    /// Its comment.
    pub comment: Option<String>,
    /// What it does, in order.
    pub steps: Vec<Step>,
}

/// A set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftSet {
    /// The table it is in.
    pub table: TableId,
    /// Its name within the table.
    pub name: String,
    /// Bytes of a key.
    pub key_length: u32,
    /// Elements are the bounds of intervals.
    pub is_interval: bool,
    /// What is in it.
    pub elements: Vec<NftElement>,
}

/// An element of a set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NftElement {
    /// Its key, or the first key of its interval.
    pub key: Vec<u8>,
    /// The last key of its interval, that one included, where the element says it itself.
    pub key_end: Option<Vec<u8>>,
    /// It ends the interval that the element before it began, itself not included.
    pub ends_interval: bool,
    /// It stands for every key that no other element has.
    pub is_catchall: bool,
    /// What a map says of it.
    pub verdict: Option<Decision>,
}

/// What becomes of the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It goes on to the next base chain.
    Accept,
    /// It is dropped.
    Drop,
    /// It is dropped, and the sender is told.
    Reject,
    /// It goes on in that chain and comes back.
    Jump(String),
    /// It goes on in that chain and does not come back.
    Goto(String),
    /// It goes back to the chain it came from.
    Return,
    /// It goes to the next rule.
    Continue,
    /// Its addresses are translated, and it goes on to the next base chain.
    Translate {
        /// Its source, not its destination.
        source: bool,
    },
    /// A program decides.
    Queue,
}

/// What a load step puts into registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Bytes of the network header.
    Network {
        /// First byte.
        offset: u32,
    },
    /// Bytes of the transport header.
    Transport {
        /// First byte.
        offset: u32,
    },
    /// Something about the packet, by the kernel's number (`NFT_META_`).
    Meta(u32),
    /// Something about its connection, by the kernel's number (`NFT_CT_`).
    Connection(u32),
    /// Something that is not read here.
    Other,
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Less, by byte order.
    Less,
    /// Less or equal.
    LessOrEqual,
    /// Greater.
    Greater,
    /// Greater or equal.
    GreaterOrEqual,
}

/// One expression of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Loads.
    Load {
        /// What.
        what: Load,
        /// Where to.
        register: u32,
        /// Bytes; 0 where what is loaded has its own length.
        length: u32,
    },
    /// Loads bytes.
    Immediate {
        /// Where to.
        register: u32,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Masks: `(register & mask) ^ xor`.
    Mask {
        /// From where.
        from: u32,
        /// Where to.
        to: u32,
        /// The mask.
        mask: Vec<u8>,
        /// What is turned round.
        xor: Vec<u8>,
    },
    /// Goes on if the comparison holds.
    Compare {
        /// What is compared.
        register: u32,
        /// How.
        comparison: Comparison,
        /// With what.
        bytes: Vec<u8>,
    },
    /// Goes on if the value lies within, or without.
    Range {
        /// What is compared.
        register: u32,
        /// Whether it must lie without.
        outside: bool,
        /// First value within.
        from: Vec<u8>,
        /// Last value within.
        to: Vec<u8>,
    },
    /// Goes on if a set has the value; a map decides.
    Lookup {
        /// The set's name.
        set: String,
        /// The value's first register.
        register: u32,
        /// Whether the set must not have it.
        inverted: bool,
        /// Where a map puts its value; 16 words on is the verdict.
        to: Option<u32>,
        /// The set is a map of verdicts.
        decides: bool,
    },
    /// Decides.
    Decide(Decision),
    /// A match of iptables.
    Match {
        /// Its name.
        name: String,
        /// Its revision.
        revision: u32,
        /// What it is told.
        info: Vec<u8>,
    },
    /// A target of iptables.
    Target {
        /// Its name.
        name: String,
        /// Its revision.
        revision: u32,
        /// What it is told.
        info: Vec<u8>,
    },
    /// Changes nothing of what becomes of the packet.
    Aside,
    /// Something that is not read here, by its name.
    Unread(String),
}

impl Nftables {
    /// Everything that is in nf_tables, of all families and owners.
    ///
    /// # Errors
    /// Those of a dump.
    pub fn ruleset(&self) -> Result<NftRuleset, NetlinkError> {
        let all = header(Family::Other(0));
        let subject = Subject::new("list", &"nf_tables chains");
        let chains = self.socket.dump(subject, kind::GET_CHAIN, &all)?;
        let subject = Subject::new("list", &"nf_tables rules");
        let rules = self.socket.dump(subject, kind::GET_RULE, &all)?;
        let subject = Subject::new("list", &"nf_tables sets");
        let sets = self.socket.dump(subject, kind::GET_SET, &all)?;
        let chains = chains.iter().filter(|reply| reply.kind == kind::NEW_CHAIN);
        let rules = rules.iter().filter(|reply| reply.kind == kind::NEW_RULE);
        let sets = sets.iter().filter(|reply| reply.kind == kind::NEW_SET);
        let mut ruleset = NftRuleset {
            chains: chains.filter_map(|reply| parse_chain(&reply.payload)).collect(),
            rules: rules.filter_map(|reply| parse_rule(&reply.payload)).collect(),
            sets: sets.filter_map(|reply| parse_set(&reply.payload)).collect(),
        };
        for set in &mut ruleset.sets {
            set.elements = self.elements(&set.table, &set.name)?;
        }
        Ok(ruleset)
    }

    fn elements(&self, table: &TableId, set: &str) -> Result<Vec<NftElement>, NetlinkError> {
        let object = format_args!("elements of {table} {set}");
        let subject = Subject::new("list", &object);
        let mut request = NlaWriter::after(&header(table.family));
        request.put_string(LIST_TABLE, &table.name).put_string(LIST_SET, set);
        let replies = match self.socket.dump(subject, kind::GET_ELEMENTS, &request.into_bytes()) {
            // Gone since it was listed.
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            outcome => outcome?,
        };
        let mut elements = Vec::new();
        for reply in replies.iter().filter(|reply| reply.kind == kind::NEW_ELEMENTS) {
            let Some(bytes) = reply.payload.get(NFGENMSG..) else { continue };
            let Some(list) = Attributes::new(bytes).find(LIST_ELEMENTS) else { continue };
            elements.extend(list.nested().map(|element| parse_element(&element)));
        }
        Ok(elements)
    }
}

/// NFTA_SET_ELEM_LIST_.
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
/// NFTA_DATA_.
const VALUE: u16 = 1;
const VERDICT: u16 = 2;

fn table_of(payload: &[u8], attribute: u16) -> Option<(TableId, Attributes<'_>)> {
    let family = Family::from_wire(*payload.first()?);
    let attributes = Attributes::new(payload.get(NFGENMSG..)?);
    let name = attributes.find(attribute)?.string();
    Some((TableId { family, name }, attributes))
}

fn parse_chain(payload: &[u8]) -> Option<NftChain> {
    let (table, attributes) = table_of(payload, message::CHAIN_TABLE)?;
    let name = attributes.find(message::CHAIN_NAME)?.string();
    Some(NftChain { table, name, base: BaseChain::parse(payload) })
}

fn parse_rule(payload: &[u8]) -> Option<NftRule> {
    let (table, attributes) = table_of(payload, message::RULE_TABLE)?;
    let steps =
        attributes.find(message::RULE_EXPRESSIONS).map(|list| list.nested().map(parse_step).collect());
    Some(NftRule {
        table,
        chain: attributes.find(message::RULE_CHAIN)?.string(),
        handle: attributes.find(message::RULE_HANDLE)?.u64_be()?,
        comment: attributes.find(message::RULE_USERDATA).and_then(|data| message::comment(data.value)),
        steps: steps.unwrap_or_default(),
    })
}

/// NFTA_SET_TABLE 1, NAME 2, FLAGS 3, KEY_LEN 5; NFT_SET_INTERVAL 4.
fn parse_set(payload: &[u8]) -> Option<NftSet> {
    let (table, attributes) = table_of(payload, 1)?;
    let number = |kind| attributes.find(kind).and_then(|attribute| attribute.u32_be()).unwrap_or(0);
    Some(NftSet {
        table,
        name: attributes.find(2)?.string(),
        key_length: number(5),
        is_interval: number(3) & 4 != 0,
        elements: Vec::new(),
    })
}

/// NFTA_SET_ELEM_KEY 1, DATA 2, FLAGS 3, KEY_END 10; NFT_SET_ELEM_INTERVAL_END 1, CATCHALL 2.
fn parse_element(element: &Attribute<'_>) -> NftElement {
    let attributes = element.nested();
    let flags = attributes.find(3).and_then(|flags| flags.u32_be()).unwrap_or(0);
    NftElement {
        key: attributes.find(1).map(|key| value(&key)).unwrap_or_default(),
        key_end: attributes.find(10).map(|key| value(&key)),
        ends_interval: flags & 1 != 0,
        is_catchall: flags & 2 != 0,
        verdict: attributes.find(2).and_then(|data| verdict(&data)),
    }
}

fn value(data: &Attribute<'_>) -> Vec<u8> {
    data.nested().find(VALUE).map(|value| value.value.to_vec()).unwrap_or_default()
}

/// NFTA_VERDICT_CODE 1, CHAIN 2. Codes: include/uapi/linux/netfilter.h and nf_tables.h.
fn verdict(data: &Attribute<'_>) -> Option<Decision> {
    let verdict = data.nested().find(VERDICT)?.nested();
    let chain = || verdict.find(2).map(|chain| chain.string()).unwrap_or_default();
    Some(match verdict.find(1)?.u32_be()?.cast_signed() {
        0 => Decision::Drop,
        1 => Decision::Accept,
        3 => Decision::Queue,
        -1 => Decision::Continue,
        -3 => Decision::Jump(chain()),
        -4 => Decision::Goto(chain()),
        -5 => Decision::Return,
        _ => return None,
    })
}

/// The register in units of four bytes: NFT_REG_1 to NFT_REG_4 have sixteen, NFT_REG32_00 (8) on four.
fn register(number: u32) -> u32 {
    match number {
        1..=4 => (number - 1) * 4,
        8.. => number - 8,
        // NFT_REG_VERDICT.
        _ => VERDICT_REGISTER,
    }
}

const VERDICT_REGISTER: u32 = u32::MAX;

fn parse_step(element: Attribute<'_>) -> Step {
    // NFTA_EXPR_NAME and NFTA_EXPR_DATA.
    let expression = element.nested();
    let name = expression.find(1).map(|name| name.string()).unwrap_or_default();
    let empty = Attributes::new(&[]);
    let data = expression.find(2).map_or(empty, |data| data.nested());
    decode(&name, &data).unwrap_or(Step::Unread(name))
}

/// `None` for what is not read.
fn decode(name: &str, data: &Attributes<'_>) -> Option<Step> {
    let number = |kind| data.find(kind).and_then(|attribute| attribute.u32_be());
    let at = |kind| number(kind).map(register);
    let bytes = |kind| data.find(kind).map(|attribute| value(&attribute));
    let load = |what, register: Option<u32>, length| {
        // What is set and not loaded does not decide.
        Some(register.map_or(Step::Aside, |register| Step::Load { what, register, length }))
    };
    match name {
        "payload" => {
            let offset = number(3)?;
            let what = match number(2)? {
                1 => Load::Network { offset },
                2 => Load::Transport { offset },
                _ => Load::Other,
            };
            load(what, at(1), number(4)?)
        }
        "meta" => load(Load::Meta(number(2)?), at(1), 0),
        "ct" => load(Load::Connection(number(2)?), at(1), 0),
        "fib" | "rt" | "socket" | "osf" | "hash" | "numgen" | "xfrm" | "tunnel" | "exthdr" => {
            load(Load::Other, at(1), 0)
        }
        "byteorder" => load(Load::Other, at(2), number(4)?),
        "immediate" => {
            let data = data.find(2)?;
            match verdict(&data) {
                Some(decision) => Some(Step::Decide(decision)),
                None => Some(Step::Immediate { register: at(1)?, bytes: value(&data) }),
            }
        }
        // Shifts and the like are another operation than 0.
        "bitwise" if number(6).unwrap_or(0) != 0 => load(Load::Other, at(2), number(3)?),
        "bitwise" => Some(Step::Mask { from: at(1)?, to: at(2)?, mask: bytes(4)?, xor: bytes(5)? }),
        "cmp" => {
            let comparison = match number(2)? {
                0 => Comparison::Equal,
                1 => Comparison::NotEqual,
                2 => Comparison::Less,
                3 => Comparison::LessOrEqual,
                4 => Comparison::Greater,
                5 => Comparison::GreaterOrEqual,
                _ => return None,
            };
            Some(Step::Compare { register: at(1)?, comparison, bytes: bytes(3)? })
        }
        "range" => {
            Some(Step::Range { register: at(1)?, outside: number(2)? == 1, from: bytes(3)?, to: bytes(4)? })
        }
        "lookup" => {
            let to = at(3);
            Some(Step::Lookup {
                set: data.find(1)?.string(),
                register: at(2)?,
                inverted: number(5).unwrap_or(0) & 1 != 0,
                decides: to == Some(VERDICT_REGISTER),
                to: to.filter(|to| *to != VERDICT_REGISTER),
            })
        }
        "reject" => Some(Step::Decide(Decision::Reject)),
        "masq" => Some(Step::Decide(Decision::Translate { source: true })),
        "redir" => Some(Step::Decide(Decision::Translate { source: false })),
        // NFTA_NAT_TYPE: NFT_NAT_SNAT is 0.
        "nat" => Some(Step::Decide(Decision::Translate { source: number(1)? == 0 })),
        "queue" => Some(Step::Decide(Decision::Queue)),
        kind_of_xt @ ("match" | "target") => {
            let (name, revision) = (data.find(1)?.string(), number(2)?);
            let info = data.find(3).map(|info| info.value.to_vec()).unwrap_or_default();
            Some(match kind_of_xt {
                "match" => Step::Match { name, revision, info },
                _ => Step::Target { name, revision, info },
            })
        }
        "counter" | "log" | "notrack" | "dynset" | "objref" | "flow_offload" | "quota_set" | "dup"
        | "last" => Some(Step::Aside),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The names of expressions that are decoded, and one that is not.
    const NAMES: &[&str] = &[
        "payload",
        "meta",
        "ct",
        "byteorder",
        "immediate",
        "bitwise",
        "cmp",
        "range",
        "lookup",
        "nat",
        "queue",
        "match",
        "target",
        "of-tomorrow",
    ];

    /// Attributes with any numbers, texts and lengths in them, as a kernel of tomorrow may send them.
    fn attribute() -> impl Strategy<Value = (u16, Vec<u8>)> {
        let number = any::<u32>().prop_map(|number| number.to_be_bytes().to_vec());
        let small = (0..16_u32).prop_map(|number| number.to_be_bytes().to_vec());
        let nested = (0..3_u16, prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(kind, bytes)| {
            let mut inner = NlaWriter::after(&[]);
            inner.put(kind, &bytes);
            inner.into_bytes()
        });
        let noise = prop::collection::vec(any::<u8>(), 0..24);
        (0..8_u16, prop_oneof![number, small, nested, noise])
    }

    fn expression() -> impl Strategy<Value = Vec<u8>> {
        let attributes = prop::collection::vec(attribute(), 0..8);
        (prop::sample::select(NAMES), attributes).prop_map(|(name, attributes)| {
            let mut bytes = NlaWriter::after(&[]);
            bytes.put_string(1, name).nest(2, |data| {
                for (kind, value) in &attributes {
                    data.put(*kind, value);
                }
            });
            bytes.into_bytes()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn any_expression_is_read_or_named(expressions in prop::collection::vec(expression(), 0..5)) {
            let mut payload = NlaWriter::after(&header(Family::Inet));
            payload
                .put_string(message::RULE_TABLE, "filter")
                .put_string(message::RULE_CHAIN, "input")
                .put(message::RULE_HANDLE, &7_u64.to_be_bytes())
                .nest(message::RULE_EXPRESSIONS, |list| {
                    for expression in &expressions {
                        list.put(1, expression);
                    }
                });
            let rule = parse_rule(&payload.into_bytes()).unwrap();
            prop_assert_eq!(rule.handle, 7);
            prop_assert_eq!(rule.steps.len(), expressions.len());
        }

        #[test]
        fn noise_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            // Whatever comes of it: a chain, a rule or a set of noise has a table of its own at most.
            let named = parse_chain(&bytes).map(|chain| chain.table.family);
            prop_assert!(named.is_none_or(|family| Some(&family.wire()) == bytes.first()));
            let _rule = parse_rule(&bytes);
            let _set = parse_set(&bytes);
        }
    }
}
