//! A host firewall in miniature, to test against: drops what no rule accepts.

use super::{BaseChainSpec, Change, Expression, Family, Hook, Policy, Rule, TableId, Verdict};

/// The table as nft writes it, with one chain for each of `hooks` and one rule in it for each of
/// `protocols`, preceded by a counter of all packets:
///
/// ```text
/// table inet TABLE {
///     chain input {
///         type filter hook input priority 0; policy drop;
///         counter
///         meta l4proto 47 counter accept
///     }
/// }
/// ```
///
/// A table of this name is replaced. Chains are named after their hooks.
pub fn accept_only(table: &str, hooks: &[Hook], protocols: &[u8]) -> Vec<Change> {
    let table = TableId::new(Family::Inet, table);
    let mut changes = vec![Change::ReplaceTable { table: table.clone(), comment: None }];
    for hook in hooks {
        let chain = BaseChainSpec {
            name: hook.to_string(),
            kind: "filter",
            hook: *hook,
            priority: 0,
            policy: Policy::Drop,
            device: None,
        };
        changes.push(Change::AddBaseChain { table: table.clone(), chain });
        let all = Rule { expressions: vec![Expression::Counter], comment: Some("all".to_owned()) };
        let accepting = protocols.iter().map(|protocol| Rule {
            expressions: vec![
                Expression::TransportProtocol,
                Expression::Equal(vec![*protocol]),
                Expression::Counter,
                Expression::Verdict(Verdict::Accept),
            ],
            comment: Some(format!("protocol {protocol}")),
        });
        changes.extend([all].into_iter().chain(accepting).map(|rule| Change::AddRule {
            table: table.clone(),
            chain: hook.to_string(),
            rule,
        }));
    }
    changes
}
