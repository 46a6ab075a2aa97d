//! Where the kernel's own GRE is loaded beside greway it answers each packet of greway's tunnels that none of its own
//! takes with "port unreachable", since it knows nothing of them. Their peers are kept from that by a rule on OUTPUT, in a
//! table of greway's own; what is told to anybody else is let alone. Over IPv6 there is no such rule yet.

use std::collections::BTreeSet;
use std::net::IpAddr;

use greway_netlink::nftables::{BaseChain, Family, Hook, QuietPeer, TableId, port_unreachable};

use super::host::{Host, Live};
use super::kernel_tunnels;

/// Longer than any device's name behind [`super::device::TABLE_PREFIX`]: no tunnel has such a table.
const TABLE: &str = "greway-port-unreachable";
/// See `tables::MARK`.
const COMMENT: &str = "greway: peers of its tunnels are not told that the kernel has none";

/// What is in force.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Quiet {
    peers: BTreeSet<QuietPeer>,
    /// For these it could not be had, and somebody was told.
    refused: BTreeSet<QuietPeer>,
}

/// Whether a chain is this one: it looks at ICMP only, so that it is no firewall that GRE has to pass.
pub(super) fn is_ours(chain: &BaseChain) -> bool {
    chain.table.family == Family::Ip && chain.table.name == TABLE && chain.hook == Hook::Output
}

fn peer(live: &Live) -> Option<QuietPeer> {
    let spec = live.spec();
    let ipv4 = |address: Option<IpAddr>| match address {
        Some(IpAddr::V4(address)) => Some(address),
        _ => None,
    };
    // What is sent to a group is answered to nobody.
    let group = spec.remote.is_some_and(|remote| remote.is_multicast());
    let over_ipv4 = !spec.mode.over_ipv6() && !group;
    over_ipv4.then(|| QuietPeer { local: ipv4(spec.local), remote: ipv4(spec.remote), key: spec.ikey })
}

impl Host {
    /// Puts the rule where tunnels and the kernel's module demand it, and takes it away with the last of either.
    /// `chains` are those that are there, where they were just read.
    pub(super) fn keep_peers_quiet(&mut self, chains: Option<&[BaseChain]>) {
        let Some(nftables) = &self.nftables else { return };
        let wanted = match kernel_tunnels::answers_ipv4() {
            true => self.tunnels.values().filter_map(peer).collect(),
            false => BTreeSet::new(),
        };
        let there = match chains {
            Some(chains) => chains.iter().any(is_ours),
            None => !self.quiet.peers.is_empty(),
        };
        let table = TableId::new(Family::Ip, TABLE);
        let outcome = match (wanted.is_empty(), there && wanted == self.quiet.peers) {
            _ if wanted == self.quiet.refused && !wanted.is_empty() => return,
            (true, _) if !there => Ok(()),
            (true, _) => nftables.delete_table(&table).map(drop),
            (false, true) => return,
            (false, false) => {
                let peers = wanted.iter().copied().collect::<Vec<_>>();
                nftables.apply(&port_unreachable(TABLE, &peers, Some(COMMENT)))
            }
        };
        self.quiet = match outcome {
            Ok(()) => Quiet { peers: wanted, refused: BTreeSet::new() },
            Err(error) => {
                tracing::warn!(%error, "the kernel's own GRE is loaded, and tells peers that it has no tunnel for them");
                Quiet { peers: BTreeSet::new(), refused: wanted }
            }
        };
    }
}
