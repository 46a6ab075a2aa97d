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
                batch.push(add_table(table, comment.as_deref(), NLM_F_EXCL));
            }
            // To add first makes sure that there is one to delete.
            Self::ReplaceTable { table, comment } => {
                batch.push(add_table(table, None, 0));
                batch.push(delete_table(table));
                batch.push(add_table(table, comment.as_deref(), NLM_F_EXCL));
            }
            Self::DeleteTable(table) => batch.push(delete_table(table)),
            Self::AddBaseChain { table, chain } => batch.push(add_chain(table, chain)),
            Self::AddRule { table, chain, rule } => batch.push(add_rule(table, chain, rule)),
        }
    }
}

fn add_table(table: &TableId, comment: Option<&str>, flags: u16) -> BatchEntry {
    let mut writer = NlaWriter::after(&header(table.family));
    writer.put_string(message::TABLE_NAME, &table.name);
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

fn entry(kind: u16, flags: u16, writer: NlaWriter, operation: &'static str, object: String) -> BatchEntry {
    BatchEntry { kind, flags, payload: writer.into_bytes(), operation, object }
}
