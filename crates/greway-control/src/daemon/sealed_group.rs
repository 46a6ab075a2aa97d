//! The seal that many tunnels have together.
//!
//! A tunnel without a program has a table of its own that keeps what comes out of it from the host's stack
//! (`tables.rs`), which is the tightest there is. The kernel goes through all such tables with every device that comes (linux
//! net/netfilter/nft_chain_filter.c `nf_tables_netdev_event`, v6.18) and through all devices for every such table: of
//! ten thousand tunnels that is more than a minute. So the data plane's ends of those that come late are of one
//! group of devices, and one rule drops what arrives on it, before the IP stack's other hooks. Protocols other than IPv4
//! and IPv6 have no such hook, and nobody on a host who takes them from a device that he does not know.

use greway_netlink::LinkChange;
use greway_netlink::nftables::{BaseChain, Family, Hook, TableId, group_drop};

use super::host::{Host, with_causes};

/// Longer than any device's name behind [`super::device::TABLE_PREFIX`]: no tunnel has such a table.
const TABLE: &str = "greway-what-leaves-many-tunnels";
/// See `tables::MARK`.
const COMMENT: &str = "greway: what comes out of its tunnels is for the data plane only";
/// The group; "gwse" in ASCII, and none that is used to delete devices at once.
pub(super) const GROUP: u32 = 0x6777_7365;

/// Tunnels that have a seal of their own.
const OWN: usize = 128;

/// Whether a chain is this one: it looks at ends of pairs only, so that it is no firewall that GRE has to pass.
pub(crate) fn is_ours(chain: &BaseChain) -> bool {
    chain.table.family == Family::Inet && chain.table.name == TABLE && chain.hook == Hook::Prerouting
}

impl Host {
    /// Has an end of a pair sealed with the others. `group`: of which it is. Says whether it is; most have their own.
    pub(super) fn seal_with_others(&mut self, peer: u32, group: u32) -> bool {
        let many = || self.tunnels.values().filter(|live| live.sealed).nth(OWN - 1).is_some();
        if group != GROUP && !self.group_sealed && !many() || !self.has_group_seal() {
            return false;
        }
        if group == GROUP {
            return true;
        }
        let change = LinkChange { group: Some(GROUP), ..LinkChange::default() };
        let changed = self.netlink.change_link(peer, &change);
        if let Err(error) = &changed {
            tracing::warn!(peer, %error, "not sealed with the others");
        }
        changed.is_ok()
    }

    /// Takes an end of a pair out of the group: it is sealed otherwise.
    pub(super) fn unseal_from_others(&self, peer: u32) {
        let change = LinkChange { group: Some(0), ..LinkChange::default() };
        if let Err(error) = self.netlink.change_link(peer, &change) {
            tracing::debug!(peer, %error, "it stays sealed twice");
        }
    }

    /// Puts the rule there, where it is not.
    fn has_group_seal(&mut self) -> bool {
        if self.group_sealed {
            return true;
        }
        let Some(nftables) = &self.nftables else { return false };
        let sealed = nftables.apply(&group_drop(TABLE, GROUP, Some(COMMENT)));
        if let Err(error) = &sealed {
            tracing::warn!(error = %with_causes(error), "tunnels cannot be sealed together");
        }
        self.group_sealed = sealed.is_ok();
        self.group_sealed
    }

    /// Takes it away with the last tunnel that needs it. `there`: whether it is, where that was just read; one that
    /// somebody removed is put back.
    pub(super) fn keep_group_seal(&mut self, there: Option<bool>) {
        let needed = self.tunnels.values().any(|live| live.sealed_with_others);
        let there = there.unwrap_or(self.group_sealed);
        match (needed, there) {
            (true, true) | (false, false) => {}
            (true, false) => {
                self.group_sealed = false;
                match self.has_group_seal() {
                    true => tracing::warn!("the seal of many tunnels was removed by somebody and put back"),
                    false => self.rules.unheeded = true,
                }
            }
            (false, true) => {
                let Some(nftables) = &self.nftables else { return };
                match nftables.delete_table(&TableId::new(Family::Inet, TABLE)) {
                    Ok(_) => self.group_sealed = false,
                    Err(error) => tracing::warn!(%error, "the seal of many tunnels stays behind"),
                }
            }
        }
    }
}
