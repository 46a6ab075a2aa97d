//! The host's packet filter as something that a packet can be asked of: nf_tables and legacy iptables in one
//! model, and what becomes of one packet in it.
//!
//! It refuses to guess: a rule with a condition that is not known here makes the answer
//! [`Fate::Unknown`], not one of the two.

mod evaluate;
mod legacy;

use std::fmt;

use greway_netlink::nftables::{Family, Hook, NftRule, NftRuleset, NftSet, Policy, TableId};

pub use evaluate::{Fate, InDevice, Packet, State};
pub use legacy::parse as parse_legacy;

/// All that decides about packets.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    /// The chains.
    pub chains: Vec<Chain>,
    /// Sets that rules look into.
    pub sets: Vec<NftSet>,
}

/// A chain with its rules.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Of legacy iptables, not of nf_tables.
    pub legacy: bool,
    /// Its table.
    pub table: TableId,
    /// Its name.
    pub name: String,
    /// Where it sits; `None` for one that others jump to.
    pub base: Option<Base>,
    /// Its rules.
    pub rules: Vec<NftRule>,
}

/// Where a chain sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// The hook.
    pub hook: Hook,
    /// Its place among the chains of the hook, lower first.
    pub priority: i32,
    /// It drops what no rule decides about.
    pub drops: bool,
    /// It translates addresses.
    pub translates: bool,
}

/// What dropped a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Of legacy iptables.
    pub legacy: bool,
    /// The table.
    pub table: TableId,
    /// The chain that the rule is in.
    pub chain: String,
    /// The base chain that leads there.
    pub base: String,
    /// The rule, from 1 on, and the kernel's handle of it; `None`: the policy.
    pub rule: Option<(usize, u64)>,
}

/// `table ip filter, chain FORWARD: policy drop`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backend = if self.legacy { "iptables-legacy " } else { "" };
        write!(f, "{backend}table {}, chain {}: ", self.table, self.chain)?;
        match self.rule {
            None => f.write_str("policy drop"),
            Some((number, _)) if self.legacy => write!(f, "rule {number}"),
            Some((number, handle)) => write!(f, "rule {number} (handle {handle})"),
        }
    }
}

impl Ruleset {
    /// Of what nf_tables holds.
    pub fn of_nft(read: NftRuleset) -> Self {
        let NftRuleset { chains, rules, sets } = read;
        let chains = chains.into_iter().map(|chain| {
            let base = chain.base.map(|base| Base {
                hook: base.hook,
                priority: base.priority,
                drops: base.policy == Policy::Drop,
                translates: base.kind == "nat",
            });
            let own = |rule: &&NftRule| rule.table == chain.table && rule.chain == chain.name;
            let rules = rules.iter().filter(own).cloned().collect();
            Chain { legacy: false, table: chain.table, name: chain.name, base, rules }
        });
        Self { chains: chains.collect(), sets }
    }

    /// Whether some chain sees IPv4 packets at a hook.
    pub fn has(&self, hook: Hook) -> bool {
        self.chains.iter().any(|chain| chain.sees(hook, false, false))
    }

    /// Whether there is a chain of this name in this table.
    pub fn has_chain(&self, place: &Place, name: &str) -> bool {
        let in_table = |chain: &Chain| chain.legacy == place.legacy && chain.table == place.table;
        self.chains.iter().any(|chain| in_table(chain) && chain.name == name)
    }
}

impl Chain {
    fn sees(&self, hook: Hook, translating: bool, ipv6: bool) -> bool {
        let own = if ipv6 { Family::Ip6 } else { Family::Ip };
        (self.table.family == own || self.table.family == Family::Inet)
            && self.base.is_some_and(|base| base.hook == hook && base.translates == translating)
    }
}
