//! Rules of the routing policy database (`ip rule`): listed, added, deleted.

use std::fmt;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::rule::{
    RuleAction as WireAction, RuleAttribute, RuleFlags, RuleHeader, RuleMessage,
};

use crate::error::{NetlinkError, Subject};
use crate::prefix::{IpPrefix, width};
use crate::route::Family;
use crate::rtnetlink::Netlink;

/// What becomes of a packet that a rule matches (FR_ACT_).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuleAction {
    /// Its route is looked up in this table.
    Table(u32),
    /// Dropped silently.
    Blackhole,
    /// Answered with network unreachable.
    Unreachable,
    /// Answered with administratively prohibited.
    Prohibit,
}

/// A rule. Selectors beyond these are not read: a rule that has some is not listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Whose packets it is about.
    pub family: Family,
    /// Order, lowest first; `None` lets the kernel put it before all others but the first.
    pub priority: Option<u32>,
    /// It holds for the packets that the selectors do not match.
    pub not: bool,
    /// Source addresses.
    pub from: Option<IpPrefix>,
    /// Destination addresses.
    pub to: Option<IpPrefix>,
    /// TOS or traffic class; 0: any.
    pub tos: u8,
    /// Mark and mask.
    pub fwmark: Option<(u32, u32)>,
    /// Name of the device that the packet came in by.
    pub iif: Option<String>,
    /// Name of the device that the packet's socket is bound to.
    pub oif: Option<String>,
    /// What becomes of the packet.
    pub action: RuleAction,
    /// Routes with a prefix of this length or less do not count.
    pub suppress_prefix_length: Option<u32>,
}

impl Rule {
    /// A rule for all packets of a family.
    pub fn all(family: Family, action: RuleAction) -> Self {
        Self {
            family,
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

    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        let length = |prefix: &Option<IpPrefix>| prefix.map_or(0, |prefix| prefix.length);
        let action = match self.action {
            RuleAction::Table(_) => WireAction::ToTable,
            RuleAction::Blackhole => WireAction::Blackhole,
            RuleAction::Unreachable => WireAction::Unreachable,
            RuleAction::Prohibit => WireAction::Prohibit,
        };
        message.header = RuleHeader {
            family: self.family.wire(),
            dst_len: length(&self.to),
            src_len: length(&self.from),
            tos: self.tos,
            // The header's field is one byte; FRA_TABLE carries the number.
            table: 0,
            action,
            flags: if self.not { RuleFlags::Invert } else { RuleFlags::empty() },
        };
        let table = match self.action {
            RuleAction::Table(number) => Some(number),
            _ => None,
        };
        let attributes = [
            self.priority.map(RuleAttribute::Priority),
            self.from.filter(|from| from.length > 0).map(|from| RuleAttribute::Source(from.address)),
            self.to.filter(|to| to.length > 0).map(|to| RuleAttribute::Destination(to.address)),
            self.fwmark.map(|(mark, _)| RuleAttribute::FwMark(mark)),
            self.fwmark.map(|(_, mask)| RuleAttribute::FwMask(mask)),
            self.iif.clone().map(RuleAttribute::Iifname),
            self.oif.clone().map(RuleAttribute::Oifname),
            table.map(RuleAttribute::Table),
            self.suppress_prefix_length.map(RuleAttribute::SuppressPrefixLen),
        ];
        message.attributes.extend(attributes.into_iter().flatten());
        message
    }

    /// `None`: a rule of a kind that is not read.
    fn from_message(message: RuleMessage) -> Option<Self> {
        let header = message.header;
        let family = match header.family {
            AddressFamily::Inet => Family::Ipv4,
            AddressFamily::Inet6 => Family::Ipv6,
            _ => return None,
        };
        let action = match header.action {
            WireAction::ToTable => RuleAction::Table(header.table.into()),
            WireAction::Blackhole => RuleAction::Blackhole,
            WireAction::Unreachable => RuleAction::Unreachable,
            WireAction::Prohibit => RuleAction::Prohibit,
            _ => return None,
        };
        // The kernel names the priority unless it is 0.
        let mut rule = Self { priority: Some(0), tos: header.tos, ..Self::all(family, action) };
        rule.not = header.flags.contains(RuleFlags::Invert);
        let (mut mark, mut mask) = (None, None);
        for attribute in message.attributes {
            match attribute {
                RuleAttribute::Priority(priority) => rule.priority = Some(priority),
                RuleAttribute::Source(address) => {
                    rule.from = Some(IpPrefix { address, length: header.src_len });
                }
                RuleAttribute::Destination(address) => {
                    rule.to = Some(IpPrefix { address, length: header.dst_len });
                }
                RuleAttribute::FwMark(value) => mark = Some(value),
                RuleAttribute::FwMask(value) => mask = Some(value),
                RuleAttribute::Iifname(name) => rule.iif = Some(name),
                RuleAttribute::Oifname(name) => rule.oif = Some(name),
                RuleAttribute::Table(number) => {
                    if let RuleAction::Table(table) = &mut rule.action {
                        *table = number;
                    }
                }
                // u32::MAX is the kernel's word for none.
                RuleAttribute::SuppressPrefixLen(length) if length != u32::MAX => {
                    rule.suppress_prefix_length = Some(length);
                }
                RuleAttribute::SuppressPrefixLen(_) | RuleAttribute::Protocol(_) => {}
                RuleAttribute::SuppressIfGroup(u32::MAX) => {}
                RuleAttribute::Goto(_)
                | RuleAttribute::Realm(_)
                | RuleAttribute::TunId(_)
                | RuleAttribute::SuppressIfGroup(_)
                | RuleAttribute::L3MDev(true)
                | RuleAttribute::UidRange(_)
                | RuleAttribute::IpProtocol(_)
                | RuleAttribute::SourcePortRange(_)
                | RuleAttribute::DestinationPortRange(_) => return None,
                _ => {}
            }
        }
        // A mask without a mark is a mark of 0.
        rule.fwmark = match (mark, mask) {
            (None, None) => None,
            (mark, mask) => Some((mark.unwrap_or(0), mask.unwrap_or(u32::MAX))),
        };
        Some(rule)
    }
}

/// `from 10.10.1.0/24 lookup 100`, as `ip rule show` prints it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(priority) = self.priority {
            write!(f, "{priority}: ")?;
        }
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
            write!(f, " tos {:#04x}", self.tos)?;
        }
        if let Some((mark, mask)) = self.fwmark {
            write!(f, " fwmark {mark:#x}/{mask:#x}")?;
        }
        for (word, name) in [("iif", &self.iif), ("oif", &self.oif)] {
            if let Some(name) = name {
                write!(f, " {word} {name}")?;
            }
        }
        match self.action {
            RuleAction::Table(number) => write!(f, " lookup {number}"),
            RuleAction::Blackhole => f.write_str(" blackhole"),
            RuleAction::Unreachable => f.write_str(" unreachable"),
            RuleAction::Prohibit => f.write_str(" prohibit"),
        }
    }
}

impl Netlink {
    /// The rules of a family in their order, but those with selectors that [`Rule`] does not have.
    ///
    /// # Errors
    /// Those of a dump.
    pub fn rules(&self, family: Family) -> Result<Vec<Rule>, NetlinkError> {
        let object = format_args!("{family} rules");
        let subject = Subject::new("list", &object);
        let mut request = RuleMessage::default();
        request.header.family = family.wire();
        let found = self.dump(subject, libc::RTM_GETRULE, &request, libc::RTM_NEWRULE, RuleMessage::parse);
        match found {
            // A kernel without policy routing has none.
            Err(error) if error.is_unsupported() => Ok(Vec::new()),
            outcome => Ok(outcome?.into_iter().filter_map(Rule::from_message).collect()),
        }
    }

    /// Adds a rule.
    ///
    /// # Errors
    /// `is_exists` when there is one that differs in nothing, its priority included.
    pub fn add_rule(&self, rule: &Rule) -> Result<(), NetlinkError> {
        self.put_rule("add rule", rule, libc::RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Deletes the first rule that is as this one says.
    ///
    /// # Errors
    /// `is_not_found` when there is none.
    pub fn delete_rule(&self, rule: &Rule) -> Result<(), NetlinkError> {
        self.put_rule("delete rule", rule, libc::RTM_DELRULE, 0)
    }

    fn put_rule(
        &self,
        operation: &'static str,
        rule: &Rule,
        kind: u16,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        let subject = Subject::new(operation, rule);
        for IpPrefix { address, length } in rule.from.iter().chain(&rule.to) {
            if Family::of(*address) != rule.family {
                return Err(subject.invalid(format_args!("{address} is no {} address", rule.family)));
            }
            if *length > width(*address) {
                return Err(subject.invalid(format_args!("a prefix has at most {} bits", width(*address))));
            }
        }
        self.change(subject, kind, flags, &rule.message())
    }
}
