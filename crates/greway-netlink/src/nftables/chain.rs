//! Base chains as the kernel lists them.

use std::fmt;

use super::message::{self, NFGENMSG};
use super::{Family, TableId};
use crate::nla::Attributes;

/// The place in a packet's way where a base chain sits. The kernel's numbers depend on the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hook {
    /// As it arrives, before the routing decision.
    Prerouting,
    /// For this host.
    Input,
    /// Passing through.
    Forward,
    /// Made by this host.
    Output,
    /// As it leaves, after the routing decision.
    Postrouting,
    /// On a device, before the stack.
    Ingress,
    /// On a device, after the stack.
    Egress,
    /// Anything else, as the kernel's number.
    Other(u32),
}

impl Hook {
    pub(crate) fn from_wire(family: Family, number: u32) -> Self {
        match (family, number) {
            (Family::Netdev, 0) => Self::Ingress,
            (Family::Netdev, 1) => Self::Egress,
            (Family::Arp, 0) => Self::Input,
            (Family::Arp, 1) => Self::Output,
            (Family::Arp, 2) => Self::Forward,
            (Family::Inet | Family::Ip | Family::Ip6 | Family::Bridge, 0) => Self::Prerouting,
            (Family::Inet | Family::Ip | Family::Ip6 | Family::Bridge, 1) => Self::Input,
            (Family::Inet | Family::Ip | Family::Ip6 | Family::Bridge, 2) => Self::Forward,
            (Family::Inet | Family::Ip | Family::Ip6 | Family::Bridge, 3) => Self::Output,
            (Family::Inet | Family::Ip | Family::Ip6 | Family::Bridge, 4) => Self::Postrouting,
            (Family::Inet, 5) => Self::Ingress,
            (_, other) => Self::Other(other),
        }
    }

    /// The kernel's number, or `None` where the family has no such hook.
    pub(crate) fn wire(self, family: Family) -> Option<u32> {
        if let Self::Other(number) = self {
            return Some(number);
        }
        (0..=5).find(|number| Self::from_wire(family, *number) == self)
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
            Self::Other(number) => return write!(f, "hook {number}"),
        })
    }
}

/// What becomes of a packet that no rule of a base chain decides about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// It goes on.
    Accept,
    /// It is dropped.
    Drop,
}

/// A chain that sees packets by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BaseChain {
    /// The table it is in.
    pub table: TableId,
    /// Its name within the table.
    pub name: String,
    /// Where it sits.
    pub hook: Hook,
    /// Its place among the chains of a hook, lower first.
    pub priority: i32,
    /// What becomes of undecided packets.
    pub policy: Policy,
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// The devices it is bound to, for ingress and egress.
    pub devices: Vec<String>,
    /// How many rules it has.
    pub rules: u32,
}

impl BaseChain {
    /// `None` for a chain without a hook, which only sees what others send it.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let family = Family::from_wire(*payload.first()?);
        let attributes = Attributes::new(payload.get(NFGENMSG..)?);
        let text = |kind| attributes.find(kind).map(|attribute| attribute.string());
        let number = |kind| attributes.find(kind).and_then(|attribute| attribute.u32_be());
        let hook = attributes.find(message::CHAIN_HOOK)?.nested();
        let mut devices: Vec<String> =
            hook.find(message::HOOK_DEVICE).map(|device| device.string()).into_iter().collect();
        if let Some(list) = hook.find(message::HOOK_DEVICES) {
            devices.extend(list.nested().map(|device| device.string()));
            devices.dedup();
        }
        Some(Self {
            table: TableId { family, name: text(message::CHAIN_TABLE)? },
            name: text(message::CHAIN_NAME)?,
            hook: Hook::from_wire(family, hook.find(message::HOOK_NUMBER)?.u32_be()?),
            priority: hook.find(message::HOOK_PRIORITY)?.u32_be()?.cast_signed(),
            policy: if number(message::CHAIN_POLICY) == Some(message::DROP) {
                Policy::Drop
            } else {
                Policy::Accept
            },
            kind: text(message::CHAIN_TYPE).unwrap_or_default(),
            devices,
            // A base chain cannot be jumped to, so its users are its rules.
            rules: number(message::CHAIN_USE).unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hook_of_a_family_has_its_number_back() {
        let families = [Family::Inet, Family::Ip, Family::Ip6, Family::Arp, Family::Bridge, Family::Netdev];
        for family in families {
            for number in 0..8 {
                let hook = Hook::from_wire(family, number);
                assert_eq!(hook.wire(family), Some(number), "{family} {hook}");
            }
        }
        assert_eq!(Hook::Ingress.wire(Family::Ip), None);
        assert_eq!(Hook::Prerouting.wire(Family::Netdev), None);
    }
}
