//! Drops everything that arrives on one device, early: after taps have seen it, before the IP stack has to
//! work on it.

use super::{BaseChainSpec, Change, Expression, Family, Hook, Policy, Rule, TableId};

/// The table as nft writes it:
///
/// ```text
/// table netdev TABLE {
///     chain ingress {
///         type filter hook ingress device "DEVICE" priority PRIORITY; policy drop;
///         counter
///     }
/// }
/// ```
///
/// A table of this name is replaced. Packet sockets for all protocols still see the packets, those bound to
/// one protocol do not. The table outlives the device and has to be deleted. A device that does not exist is
/// refused by older kernels; 6.18 takes it and binds the chain to whatever comes up under that name.
pub fn ingress_drop(table: &str, device: &str, priority: i32, comment: Option<&str>) -> Vec<Change> {
    let table = TableId::new(Family::Netdev, table);
    let chain = BaseChainSpec {
        name: "ingress".to_owned(),
        kind: "filter",
        hook: Hook::Ingress,
        priority,
        policy: Policy::Drop,
        device: Some(device.to_owned()),
    };
    let rule = Rule { expressions: vec![Expression::Counter], comment: None };
    vec![
        Change::ReplaceTable { table: table.clone(), comment: comment.map(str::to_owned) },
        Change::AddBaseChain { table: table.clone(), chain },
        Change::AddRule { table, chain: "ingress".to_owned(), rule },
    ]
}
