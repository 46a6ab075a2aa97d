//! The changes a transaction is made of.

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};

use super::message::{self, header, kind};
use super::{CHANGE_FLAGS, Hook, Policy, Rule, TableId};
use crate::nla::NlaWriter;
use crate::socket::BatchEntry;

/// A base chain to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChainSpec {
    /// Its name within the table.
    pub name: String,
    /// `filter`, `nat` or `route`.
    pub kind: &'static str,
    /// Where it sits; must exist in the table's family, or the kernel refuses the chain.
    pub hook: Hook,
    /// Its place among the chains of the hook, lower first.
    pub priority: i32,
    /// What becomes of undecided packets.
    pub policy: Policy,
    /// The device, for ingress and egress.
    pub device: Option<String>,
}

impl BaseChainSpec {
    /// In front of all that others have there: defragmentation is at -400, tracing and the raw tables at -300.
    const FIRST: i32 = -450;

    /// A chain that sees packets of this host's devices before everything else that looks at them by their protocol.
    pub(super) fn first_in_prerouting() -> Self {
        Self {
            name: "prerouting".to_owned(),
            kind: "filter",
            hook: Hook::Prerouting,
            priority: Self::FIRST,
            policy: Policy::Accept,
            device: None,
        }
    }
}

/// A set of keys to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetSpec {
    /// Its name within the table.
    pub name: String,
    /// What nft shows the keys as, in nft's own numbers.
    pub key_type: u32,
    /// Bytes of a key.
    pub key_length: u32,
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Adds a table; refused if there is one.
    AddTable {
        /// The table.
        table: TableId,
        /// The mark by which we know it again.
        comment: Option<String>,
    },
    /// Adds a table that goes with the socket that adds it, and that nobody else may change; refused if there is one, and
    /// by kernels before 5.12.
    AddOwnedTable {
        /// The table.
        table: TableId,
        /// The mark by which we know it again.
        comment: Option<String>,
    },
    /// Adds an empty table, after deleting the one of that name if there is one.
    ReplaceTable {
        /// The table.
        table: TableId,
        /// The mark by which we know it again.
        comment: Option<String>,
    },
    /// Deletes a table with all that is in it; refused if there is none.
    DeleteTable(TableId),
    /// Adds a base chain; refused if there is one.
    AddBaseChain {
        /// The table it goes into.
        table: TableId,
        /// The chain.
        chain: BaseChainSpec,
    },
    /// Adds an empty set; refused if there is one.
    AddSet {
        /// The table it goes into.
        table: TableId,
        /// The set.
        set: SetSpec,
    },
    /// Adds elements to a set; refused if one of them is in it.
    AddElements {
        /// The table of the set.
        table: TableId,
        /// The set's name.
        set: String,
        /// Their keys.
        elements: Vec<Vec<u8>>,
    },
    /// Takes elements out of a set; refused if one of them is not in it.
    DeleteElements {
        /// The table of the set.
        table: TableId,
        /// The set's name.
        set: String,
        /// Their keys.
        elements: Vec<Vec<u8>>,
    },
    /// Adds a rule at the end of a chain.
    AddRule {
        /// The table of the chain.
        table: TableId,
        /// The chain's name.
        chain: String,
        /// The rule.
        rule: Rule,
    },
}

impl Change {
    pub(super) fn emit(&self, batch: &mut Vec<BatchEntry>) {
        match self {
            Self::AddTable { table, comment } => {
                batch.push(add_table(table, comment.as_deref(), 0, NLM_F_EXCL));
            }
            Self::AddOwnedTable { table, comment } => {
                batch.push(add_table(table, comment.as_deref(), message::OWNED, NLM_F_EXCL));
            }
            // To add first makes sure that there is one to delete.
            Self::ReplaceTable { table, comment } => {
                batch.push(add_table(table, None, 0, 0));
                batch.push(delete_table(table));
                batch.push(add_table(table, comment.as_deref(), 0, NLM_F_EXCL));
            }
            Self::DeleteTable(table) => batch.push(delete_table(table)),
            Self::AddBaseChain { table, chain } => batch.push(add_chain(table, chain)),
            Self::AddSet { table, set } => batch.push(add_set(table, set)),
            Self::AddElements { table, set, elements } => {
                batch.push(change_elements(
                    (kind::NEW_ELEMENTS, NLM_F_CREATE | NLM_F_EXCL),
                    table,
                    set,
                    elements,
                ));
            }
            Self::DeleteElements { table, set, elements } => {
                batch.push(change_elements((kind::DELETE_ELEMENTS, 0), table, set, elements));
            }
            Self::AddRule { table, chain, rule } => batch.push(add_rule(table, chain, rule)),
        }
    }
}

fn add_table(table: &TableId, comment: Option<&str>, kind_of_it: u32, flags: u16) -> BatchEntry {
    let mut writer = NlaWriter::after(&header(table.family));
    writer.put_string(message::TABLE_NAME, &table.name);
    if kind_of_it != 0 {
        writer.put_u32_be(message::TABLE_FLAGS, kind_of_it);
    }
    if let Some(comment) = comment {
        writer.put(message::TABLE_USERDATA, &message::comment_data(comment));
    }
    let flags = CHANGE_FLAGS | NLM_F_CREATE | flags;
    entry(kind::NEW_TABLE, flags, writer, "add", format!("table {table}"))
}

fn delete_table(table: &TableId) -> BatchEntry {
    let mut writer = NlaWriter::after(&header(table.family));
    writer.put_string(message::TABLE_NAME, &table.name);
    entry(kind::DELETE_TABLE, CHANGE_FLAGS, writer, "delete", format!("table {table}"))
}

fn add_chain(table: &TableId, chain: &BaseChainSpec) -> BatchEntry {
    let mut writer = NlaWriter::after(&header(table.family));
    let policy = match chain.policy {
        Policy::Accept => message::ACCEPT,
        Policy::Drop => message::DROP,
    };
    // A number that no family has: the kernel's refusal names the chain.
    let hook = chain.hook.wire(table.family).unwrap_or(u32::MAX);
    writer.put_string(message::CHAIN_TABLE, &table.name).put_string(message::CHAIN_NAME, &chain.name);
    writer.nest(message::CHAIN_HOOK, |nest| {
        nest.put_u32_be(message::HOOK_NUMBER, hook);
        nest.put_u32_be(message::HOOK_PRIORITY, chain.priority.cast_unsigned());
        if let Some(device) = &chain.device {
            nest.put_string(message::HOOK_DEVICE, device);
        }
    });
    writer.put_u32_be(message::CHAIN_POLICY, policy).put_string(message::CHAIN_TYPE, chain.kind);
    let flags = CHANGE_FLAGS | NLM_F_CREATE | NLM_F_EXCL;
    let device = chain.device.as_ref().map(|device| format!(" on {device}")).unwrap_or_default();
    entry(kind::NEW_CHAIN, flags, writer, "add", format!("chain {table} {}{device}", chain.name))
}

fn add_rule(table: &TableId, chain: &str, rule: &Rule) -> BatchEntry {
    let mut writer = NlaWriter::after(&header(table.family));
    writer.put_string(message::RULE_TABLE, &table.name).put_string(message::RULE_CHAIN, chain);
    rule.emit(&mut writer);
    let flags = CHANGE_FLAGS | NLM_F_CREATE | NLM_F_APPEND;
    entry(kind::NEW_RULE, flags, writer, "add", format!("rule of chain {table} {chain}"))
}

fn add_set(table: &TableId, set: &SetSpec) -> BatchEntry {
    let mut writer = NlaWriter::after(&header(table.family));
    writer.put_string(message::SET_TABLE, &table.name).put_string(message::SET_NAME, &set.name);
    writer
        .put_u32_be(message::SET_KEY_TYPE, set.key_type)
        .put_u32_be(message::SET_KEY_LENGTH, set.key_length);
    // Within the transaction sets are known by such a number; ours are known by name.
    writer.put_u32_be(message::SET_ID, 1);
    let flags = CHANGE_FLAGS | NLM_F_CREATE | NLM_F_EXCL;
    entry(kind::NEW_SET, flags, writer, "add", format!("set {table} {}", set.name))
}

fn change_elements(
    (kind, flags): (u16, u16),
    table: &TableId,
    set: &str,
    elements: &[Vec<u8>],
) -> BatchEntry {
    /// NFTA_LIST_ELEM and NFTA_DATA_VALUE.
    const ELEMENT: u16 = 1;
    const VALUE: u16 = 1;
    let mut writer = NlaWriter::after(&header(table.family));
    writer.put_string(message::ELEMENTS_TABLE, &table.name).put_string(message::ELEMENTS_SET, set);
    writer.nest(message::ELEMENTS, |list| {
        for key in elements {
            list.nest(ELEMENT, |element| {
                element.nest(message::ELEMENT_KEY, |data| {
                    data.put(VALUE, key);
                });
            });
        }
    });
    entry(kind, CHANGE_FLAGS | flags, writer, "change", format!("elements of set {table} {set}"))
}

fn entry(kind: u16, flags: u16, writer: NlaWriter, operation: &'static str, object: String) -> BatchEntry {
    BatchEntry { kind, flags, payload: writer.into_bytes(), operation, object }
}
