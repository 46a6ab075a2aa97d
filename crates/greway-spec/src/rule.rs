//! Rules of the routing policy database (`ip rule`) that belong to a tunnel.
//!
//! The network-scripts have them in `rule-NAME` files: which packets look into which routing table. A
//! rule is added with its tunnel and removed with it. What `ip rule` can say beyond these fields is
//! refused where it is read, never left out.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::name::DeviceName;
use crate::spec::Prefix;

/// A rule, as in `ip rule add from 10.10.1.0/24 table 100`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InnerRule {
    /// Of IPv6 packets; else of IPv4 ones.
    pub ipv6: bool,
    /// The rules' order, lowest first; `None`: before all others that are there, as the kernel chooses.
    #[serde(default)]
    pub priority: Option<u32>,
    /// It holds for the packets that the selectors do not match.
    #[serde(default)]
    pub not: bool,
    /// Source addresses; `None`: all.
    #[serde(default)]
    pub from: Option<Prefix>,
    /// Destination addresses; `None`: all.
    #[serde(default)]
    pub to: Option<Prefix>,
    /// TOS or traffic class; 0: any.
    #[serde(default)]
    pub tos: u8,
    /// Mark and the bits of it that count.
    #[serde(default)]
    pub fwmark: Option<(u32, u32)>,
    /// Device that the packet came in by.
    #[serde(default)]
    pub iif: Option<DeviceName>,
    /// Device that the packet's socket is bound to.
    #[serde(default)]
    pub oif: Option<DeviceName>,
    /// What becomes of the packet.
    pub action: RuleAction,
    /// Routes with a prefix of this length or less do not count; only with a table.
    #[serde(default)]
    pub suppress_prefix_length: Option<u32>,
}

/// What becomes of a packet that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// Its way is looked up in this table.
    Table(u32),
    /// Dropped silently.
    Blackhole,
    /// Answered with network unreachable.
    Unreachable,
    /// Answered with administratively prohibited.
    Prohibit,
}

impl InnerRule {
    /// A rule for all packets of a family, to be narrowed.
    pub fn all(ipv6: bool, action: RuleAction) -> Self {
        Self {
            ipv6,
            priority: None,
            not: false,
            from: None,
            to: None,
            tos: 0,
            fwmark: None,
            iif: None,
            oif: None,
            action,
            suppress_prefix_length: None,
        }
    }

    /// What is wrong with it.
    pub(crate) fn problem(&self) -> Option<Problem> {
        let other_family = |prefix: &Prefix| prefix.address.is_ipv6() != self.ipv6;
        if self.from.iter().chain(&self.to).any(other_family) {
            let wanted = if self.ipv6 { "an IPv6 prefix" } else { "an IPv4 prefix" };
            return Some(Problem::Family { wanted });
        }
        if self.action == RuleAction::Table(0) {
            return Some(Problem::Rule("table 0 is none; a number from 1 is right"));
        }
        if self.suppress_prefix_length.is_some() && !matches!(self.action, RuleAction::Table(_)) {
            return Some(Problem::Rule("suppress_prefixlength needs a table to look into"));
        }
        if self.fwmark.is_some_and(|(mark, mask)| mark & !mask != 0) {
            return Some(Problem::Rule("the mark has bits beyond its mask, so that no packet has it"));
        }
        None
    }

    /// Whether `other` is this rule; the order counts only where this one names it.
    pub fn is(&self, other: &Self) -> bool {
        let priority = self.priority.or(other.priority);
        Self { priority, ..self.clone() } == *other
    }
}

/// The words of `ip rule add`.
impl fmt::Display for InnerRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.not {
            f.write_str("not ")?;
        }
        match self.from {
            Some(from) => write!(f, "from {from}")?,
            None => f.write_str("from all")?,
        }
        if let Some(to) = self.to {
            write!(f, " to {to}")?;
        }
        if self.tos != 0 {
            write!(f, " tos 0x{:02x}", self.tos)?;
        }
        match self.fwmark {
            Some((mark, u32::MAX)) => write!(f, " fwmark {mark:#x}")?,
            Some((mark, mask)) => write!(f, " fwmark {mark:#x}/{mask:#x}")?,
            None => {}
        }
        if let Some(iif) = &self.iif {
            write!(f, " iif {iif}")?;
        }
        if let Some(oif) = &self.oif {
            write!(f, " oif {oif}")?;
        }
        if let Some(priority) = self.priority {
            write!(f, " priority {priority}")?;
        }
        match self.action {
            RuleAction::Table(number) => write!(f, " table {number}")?,
            RuleAction::Blackhole => f.write_str(" blackhole")?,
            RuleAction::Unreachable => f.write_str(" unreachable")?,
            RuleAction::Prohibit => f.write_str(" prohibit")?,
        }
        match self.suppress_prefix_length {
            Some(length) => write!(f, " suppress_prefixlength {length}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_contradicts_itself() {
        let from = Some(Prefix { address: [10, 0, 0, 0].into(), length: 8 });
        let good = InnerRule { from, ..InnerRule::all(false, RuleAction::Table(100)) };
        assert_eq!(good.problem(), None);
        assert_eq!(good.to_string(), "from 10.0.0.0/8 table 100");
        for (bad, part) in [
            (InnerRule { ipv6: true, ..good.clone() }, "an IPv6 prefix is right"),
            (InnerRule { action: RuleAction::Table(0), ..good.clone() }, "table 0"),
            (InnerRule { fwmark: Some((0x100, 0xff)), ..good.clone() }, "beyond its mask"),
            (
                InnerRule { action: RuleAction::Prohibit, suppress_prefix_length: Some(0), ..good },
                "needs a table",
            ),
        ] {
            let problem = bad.problem().expect(part).to_string();
            assert!(problem.contains(part), "{problem}");
        }
    }

    #[test]
    fn the_order_counts_where_it_is_named() {
        let any = InnerRule::all(false, RuleAction::Table(100));
        let seventh = InnerRule { priority: Some(7), ..any.clone() };
        assert!(any.is(&seventh) && !seventh.is(&any));
        assert!(!any.is(&InnerRule { not: true, ..seventh }));
    }
}
