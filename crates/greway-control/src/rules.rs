//! Rules of the routing policy database, as the spec writes them.

use greway_netlink::{Family, IpPrefix, Netlink, NetlinkError, Rule, RuleAction};
use greway_spec::{DeviceName, InnerRule, Prefix};

/// All rules of both families that a tunnel could have.
///
/// # Errors
/// When the kernel does not answer.
pub(crate) fn all(netlink: &Netlink) -> Result<Vec<InnerRule>, NetlinkError> {
    let mut found = netlink.rules(Family::Ipv4)?;
    found.extend(netlink.rules(Family::Ipv6)?);
    Ok(found.into_iter().filter_map(from_wire).collect())
}

/// A rule as the kernel is told it.
pub(crate) fn to_wire(rule: &InnerRule) -> Rule {
    let prefix = |prefix: Prefix| IpPrefix { address: prefix.address, length: prefix.length };
    let name = |name: &DeviceName| name.as_str().to_owned();
    Rule {
        family: if rule.ipv6 { Family::Ipv6 } else { Family::Ipv4 },
        priority: rule.priority,
        not: rule.not,
        from: rule.from.map(prefix),
        to: rule.to.map(prefix),
        tos: rule.tos,
        fwmark: rule.fwmark,
        iif: rule.iif.as_ref().map(name),
        oif: rule.oif.as_ref().map(name),
        action: match rule.action {
            greway_spec::RuleAction::Table(number) => RuleAction::Table(number),
            greway_spec::RuleAction::Blackhole => RuleAction::Blackhole,
            greway_spec::RuleAction::Unreachable => RuleAction::Unreachable,
            greway_spec::RuleAction::Prohibit => RuleAction::Prohibit,
        },
        suppress_prefix_length: rule.suppress_prefix_length,
    }
}

/// `None`: a device name in it is none.
fn from_wire(rule: Rule) -> Option<InnerRule> {
    let prefix = |prefix: IpPrefix| Prefix { address: prefix.address, length: prefix.length };
    let name = |name: Option<String>| name.map(|name| name.parse::<DeviceName>()).transpose().ok();
    Some(InnerRule {
        ipv6: rule.family == Family::Ipv6,
        priority: rule.priority,
        not: rule.not,
        from: rule.from.map(prefix),
        to: rule.to.map(prefix),
        tos: rule.tos,
        fwmark: rule.fwmark,
        iif: name(rule.iif)?,
        oif: name(rule.oif)?,
        action: match rule.action {
            RuleAction::Table(number) => greway_spec::RuleAction::Table(number),
            RuleAction::Blackhole => greway_spec::RuleAction::Blackhole,
            RuleAction::Unreachable => greway_spec::RuleAction::Unreachable,
            RuleAction::Prohibit => greway_spec::RuleAction::Prohibit,
        },
        suppress_prefix_length: rule.suppress_prefix_length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let from = Some(Prefix { address: [10, 0, 0, 0].into(), length: 8 });
        let mut rule = InnerRule { from, ..InnerRule::all(false, greway_spec::RuleAction::Table(100)) };
        rule.iif = Some("tun0".parse().unwrap());
        rule.fwmark = Some((1, 0xff));
        rule.priority = Some(7);
        assert_eq!(from_wire(to_wire(&rule)), Some(rule));
    }
}
