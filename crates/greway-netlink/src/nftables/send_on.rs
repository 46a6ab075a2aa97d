//! Sends on what arrives at a device of ours: to where its IPv4 header says, by the device whose index the last four bytes
//! of its link-layer source are, in this machine's order.

use super::{BaseChainSpec, Change, Expression, Family, Rule, TableId, Verdict};

/// The table as nft writes it:
///
/// ```text
/// table ip TABLE {
///     flags owner
///     chain prerouting {
///         type filter hook prerouting priority -450; policy accept;
///         iif != DEVICE accept
///         dup to ip daddr device @ll,64,32
///         drop
///     }
/// }
/// ```
///
/// The copy is a packet of this host's own, with a TTL of one less and DF: it is routed to its destination, passes
/// OUTPUT and POSTROUTING, and is in no connection (linux net/ipv4/netfilter/nf_dup_ipv4.c, v6.18). `device`: index of the device
/// where packets arrive. The table goes with the socket that applies this (`flags owner`, Linux 5.12).
pub fn send_on(table: &str, device: u32, comment: Option<&str>) -> Vec<Change> {
    let table = TableId::new(Family::Ip, table);
    let chain = BaseChainSpec::first_in_prerouting();
    let name = chain.name.clone();
    let rule = |expressions| Change::AddRule {
        table: table.clone(),
        chain: name.clone(),
        rule: Rule { expressions, comment: None },
    };
    vec![
        Change::AddOwnedTable { table: table.clone(), comment: comment.map(str::to_owned) },
        Change::AddBaseChain { table: table.clone(), chain },
        rule(vec![
            Expression::IncomingLink,
            Expression::NotEqual(device.to_ne_bytes().into()),
            Expression::Verdict(Verdict::Accept),
        ]),
        rule(vec![
            Expression::Part { offset: 16, length: 4, at: 0 },
            Expression::LinkPart { offset: 8, length: 4, at: 4 },
            Expression::Duplicate,
        ]),
        rule(vec![Expression::Verdict(Verdict::Drop)]),
    ]
}
