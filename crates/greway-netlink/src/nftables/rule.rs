//! Rules: a rule is a row of expressions, each of which loads, compares or acts. Ours compare one field at a time, in the
//! 16-byte register 1. What is looked for in a set is put together from the same place on, in registers of 4 bytes.

use super::Family;
use super::message::{self, NFGENMSG};
use crate::nla::{Attributes, NlaWriter};

/// NFT_REG_1, the first of the registers of 4 bytes that lie in the same place (NFT_REG32_00), and NFT_REG_VERDICT.
const REGISTER: u32 = 1;
const FIRST_OF_FOUR: u32 = 8;
const VERDICT_REGISTER: u32 = 0;
/// IFNAMSIZ: names are compared with their padding.
const NAME_FIELD: usize = 16;
const NFT_META_IIF: u32 = 4;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_L4PROTO: u32 = 16;
const NFT_META_IIFGROUP: u32 = 21;
const NFT_PAYLOAD_LL_HEADER: u32 = 0;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_NAT_SNAT: u32 = 0;
/// NFTA_LIST_ELEM, NFTA_EXPR_NAME, NFTA_EXPR_DATA, NFTA_DATA_VALUE and NFTA_DATA_VERDICT.
const ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
/// NFTA_COUNTER_BYTES and NFTA_COUNTER_PACKETS.
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;

/// What a rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The packet goes on.
    Accept,
    /// The packet is dropped.
    Drop,
}

/// A step of a rule. Loads and `Mask` leave their result in the register; a comparison that fails ends the
/// rule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expression {
    /// Loads bytes of the network header.
    Network {
        /// First byte.
        offset: u32,
        /// How many, at most 16.
        length: u32,
    },
    /// Loads bytes of the network header as a part of what is looked for in a set.
    Part {
        /// First byte.
        offset: u32,
        /// How many.
        length: u32,
        /// Where in the element, a multiple of 4.
        at: u32,
    },
    /// Loads bytes of the link header beside what is looked for in a set.
    LinkPart {
        /// First byte.
        offset: u32,
        /// How many.
        length: u32,
        /// Where in the element, a multiple of 4.
        at: u32,
    },
    /// Sends a copy to the IPv4 address that the first part is, by the device whose index the second one is in this machine's
    /// order, as a packet of this host's own; for a chain of [`Family::Ip`].
    Duplicate,
    /// Goes on if the set of this name, in the same table, has what the parts are.
    InSet(String),
    /// Loads the index of the incoming link, four bytes in this machine's order.
    IncomingLink,
    /// Loads the name of the outgoing link.
    OutgoingLink,
    /// Loads the group of the incoming link, four bytes in this machine's order.
    IncomingGroup,
    /// Loads the transport protocol's number.
    TransportProtocol,
    /// Keeps the bits of the register that are set here.
    Mask(Vec<u8>),
    /// Goes on if the register holds these bytes.
    Equal(Vec<u8>),
    /// Goes on if it does not.
    NotEqual(Vec<u8>),
    /// Counts.
    Counter,
    /// Decides.
    Verdict(Verdict),
    /// Rewrites the source address; for a `nat` chain of this family.
    SourceNat {
        /// `Ip` or `Ip6`.
        family: Family,
        /// The new source, 4 or 16 bytes.
        to: Vec<u8>,
    },
}

/// A link name as [`Expression::Equal`] wants it.
pub(super) fn link_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(NAME_FIELD, 0);
    bytes
}

impl Expression {
    fn emit(&self, list: &mut NlaWriter) {
        match self {
            Self::Network { offset, length } => payload(list, REGISTER, *offset, *length),
            Self::Part { offset, length, at } => payload(list, FIRST_OF_FOUR + at / 4, *offset, *length),
            Self::LinkPart { offset, length, at } => {
                load(list, NFT_PAYLOAD_LL_HEADER, FIRST_OF_FOUR + at / 4, *offset, *length);
            }
            Self::Duplicate => element(list, "dup", |data| {
                data.put_u32_be(1, FIRST_OF_FOUR).put_u32_be(2, FIRST_OF_FOUR + 1);
            }),
            Self::InSet(set) => element(list, "lookup", |data| {
                data.put_string(1, set).put_u32_be(2, FIRST_OF_FOUR);
            }),
            Self::IncomingLink => meta(list, NFT_META_IIF),
            Self::OutgoingLink => meta(list, NFT_META_OIFNAME),
            Self::IncomingGroup => meta(list, NFT_META_IIFGROUP),
            Self::TransportProtocol => meta(list, NFT_META_L4PROTO),
            Self::Mask(mask) => element(list, "bitwise", |data| {
                data.put_u32_be(1, REGISTER).put_u32_be(2, REGISTER);
                data.put_u32_be(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                data.nest(4, |nest| value(nest, mask));
                data.nest(5, |nest| value(nest, &vec![0; mask.len()]));
            }),
            Self::Equal(bytes) => compare(list, 0, bytes),
            Self::NotEqual(bytes) => compare(list, 1, bytes),
            Self::Counter => element(list, "counter", |_| {}),
            Self::Verdict(verdict) => element(list, "immediate", |data| {
                let code = match verdict {
                    Verdict::Accept => message::ACCEPT,
                    Verdict::Drop => message::DROP,
                };
                data.put_u32_be(1, VERDICT_REGISTER);
                data.nest(2, |nest| {
                    nest.nest(DATA_VERDICT, |verdict| {
                        verdict.put_u32_be(1, code);
                    });
                });
            }),
            Self::SourceNat { family, to } => {
                element(list, "immediate", |data| {
                    data.put_u32_be(1, REGISTER).nest(2, |nest| value(nest, to));
                });
                element(list, "nat", |data| {
                    data.put_u32_be(1, NFT_NAT_SNAT).put_u32_be(2, u32::from(family.wire()));
                    data.put_u32_be(3, REGISTER);
                });
            }
        }
    }
}

fn payload(list: &mut NlaWriter, register: u32, offset: u32, length: u32) {
    load(list, NFT_PAYLOAD_NETWORK_HEADER, register, offset, length);
}

fn load(list: &mut NlaWriter, base: u32, register: u32, offset: u32, length: u32) {
    element(list, "payload", |data| {
        data.put_u32_be(1, register).put_u32_be(2, base);
        data.put_u32_be(3, offset).put_u32_be(4, length);
    });
}

fn meta(list: &mut NlaWriter, key: u32) {
    element(list, "meta", |data| {
        data.put_u32_be(1, REGISTER).put_u32_be(2, key);
    });
}

fn compare(list: &mut NlaWriter, operator: u32, bytes: &[u8]) {
    element(list, "cmp", |data| {
        data.put_u32_be(1, REGISTER).put_u32_be(2, operator).nest(3, |nest| value(nest, bytes));
    });
}

fn value(nest: &mut NlaWriter, bytes: &[u8]) {
    nest.put(DATA_VALUE, bytes);
}

fn element(list: &mut NlaWriter, name: &str, fill: impl FnOnce(&mut NlaWriter)) {
    list.nest(ELEMENT, |expression| {
        expression.put_string(EXPRESSION_NAME, name).nest(EXPRESSION_DATA, fill);
    });
}

/// A rule to add.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// Its steps in order.
    pub expressions: Vec<Expression>,
    /// Shown by `nft list`.
    pub comment: Option<String>,
}

impl Rule {
    pub(super) fn emit(&self, writer: &mut NlaWriter) {
        writer.nest(message::RULE_EXPRESSIONS, |list| {
            for expression in &self.expressions {
                expression.emit(list);
            }
        });
        if let Some(comment) = &self.comment {
            writer.put(message::RULE_USERDATA, &message::comment_data(comment));
        }
    }
}

/// What a rule has counted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleCounter {
    /// The kernel's number of the rule.
    pub handle: u64,
    /// The rule's comment.
    pub comment: Option<String>,
    /// Packets that came as far as the counter.
    pub packets: u64,
    /// Their bytes, from the network header on.
    pub bytes: u64,
}

impl RuleCounter {
    /// `None` for a rule without a counter.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let rule = Attributes::new(payload.get(NFGENMSG..)?);
        let mut expressions = rule.find(message::RULE_EXPRESSIONS)?.nested();
        let counter = expressions.find_map(|element| {
            let expression = element.nested();
            let is_counter = expression.find(EXPRESSION_NAME)?.string() == "counter";
            is_counter.then(|| expression.find(EXPRESSION_DATA))?
        })?;
        let number = |kind| counter.nested().find(kind).and_then(|attribute| attribute.u64_be());
        Some(Self {
            handle: rule.find(message::RULE_HANDLE)?.u64_be()?,
            comment: rule.find(message::RULE_USERDATA).and_then(|data| message::comment(data.value)),
            packets: number(COUNTER_PACKETS)?,
            bytes: number(COUNTER_BYTES)?,
        })
    }
}
