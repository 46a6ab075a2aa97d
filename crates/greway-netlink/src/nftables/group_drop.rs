//! Drops everything that arrives on the devices of one group, in front of the IP stack's own hooks.

use super::{BaseChainSpec, Change, Expression, Family, Hook, Policy, Rule, TableId, Verdict};

/// In front of all that others have there: defragmentation is at -400, tracing and the raw tables at -300.
const PRIORITY: i32 = -450;

/// The table as nft writes it:
///
/// ```text
/// table inet TABLE {
///     chain prerouting {
///         type filter hook prerouting priority -450; policy accept;
///         iifgroup GROUP counter drop
///     }
/// }
/// ```
///
/// A table of this name is replaced. Of devices by the thousand each would have a chain of its own to be looked at by
/// the kernel with every other that comes; this costs each packet of the host one comparison. IPv4 and IPv6 only:
/// there is no such hook for anything else.
pub fn group_drop(table: &str, group: u32, comment: Option<&str>) -> Vec<Change> {
    let table = TableId::new(Family::Inet, table);
    let chain = BaseChainSpec {
        name: "prerouting".to_owned(),
        kind: "filter",
        hook: Hook::Prerouting,
        priority: PRIORITY,
        policy: Policy::Accept,
        device: None,
    };
    let expressions = vec![
        Expression::IncomingGroup,
        Expression::Equal(group.to_ne_bytes().to_vec()),
        Expression::Counter,
        Expression::Verdict(Verdict::Drop),
    ];
    vec![
        Change::ReplaceTable { table: table.clone(), comment: comment.map(str::to_owned) },
        Change::AddBaseChain { table: table.clone(), chain },
        Change::AddRule { table, chain: "prerouting".to_owned(), rule: Rule { expressions, comment: None } },
    ]
}
