//! What a packet socket has taken of a tunnel goes no further up the IP stack: there it would be walked through all of it
//! once more, to the raw socket that keeps the kernel from answering, and be dropped.
//!
//! It is done where there is nothing on that way that it is to meet: no rules but greway's own, and no GRE of the kernel's. The
//! table goes with the daemon, however it ends. A tunnel's packets are let through again before it receives by
//! another socket, and it is entered when it does not any more.

use std::collections::BTreeSet;
use std::net::IpAddr;

use greway_netlink::nftables::{BaseChain, Family, Hook, TableId, Taken, early_drop};
use greway_spec::{DeviceName, Mode};
use greway_wire::ethertype;

use super::host::{Host, Live};
use super::kernel_tunnels;

/// Longer than any device's name behind [`super::device::TABLE_PREFIX`]: no tunnel has such a table.
const TABLE: &str = "greway-taken-by-packet-socket";
const COMMENT: &str = "greway: its daemon has these packets already; gone with it";
/// A transaction of more would not fit into the socket's buffer.
const AT_ONCE: usize = 1000;

/// What is in force.
#[derive(Debug, Default)]
pub(super) struct EarlyDrop {
    /// The tables there are.
    tables: Vec<Family>,
    taken: BTreeSet<Taken>,
    /// What this kernel cannot do is asked for once.
    refused: bool,
    /// The kernel has a GRE of its own, when that was last looked at.
    beside_kernel: bool,
}

/// Whether a chain is this one: what it drops has been taken, so that it is no firewall that GRE has to pass.
pub(crate) fn is_ours(chain: &BaseChain) -> bool {
    chain.table.name == TABLE && chain.hook == Hook::Prerouting
}

impl EarlyDrop {
    /// Whether it holds for packets of this tunnel.
    pub(super) fn holds_for(&self, live: &Live) -> bool {
        let mut packets = packets(live).peekable();
        packets.peek().is_some() && packets.all(|taken| self.taken.contains(&taken))
    }
}

/// What comes in for a tunnel, as far as it can be told by its ends and its key.
fn packets(live: &Live) -> impl Iterator<Item = Taken> {
    let spec = live.spec();
    let protocols = match spec.mode {
        Mode::Gre | Mode::Ip6Gre => [ethertype::IPV4, ethertype::IPV6].as_slice(),
        Mode::Gretap | Mode::Ip6Gretap => [ethertype::TEB].as_slice(),
    };
    let ends = spec.remote.zip(spec.local).filter(|(remote, _)| is_one(*remote));
    let key = spec.ikey;
    protocols.iter().filter_map(move |protocol| {
        ends.map(|(source, destination)| Taken { source, destination, protocol: *protocol, key })
    })
}

fn is_one(address: IpAddr) -> bool {
    !address.is_multicast() && !address.is_unspecified()
}

impl Host {
    /// Brings the tables to what the tunnels receive by.
    pub(super) fn keep_early_drop(&mut self) {
        self.early_drop.beside_kernel = kernel_tunnels::module_loaded();
        let mut wanted = BTreeSet::new();
        if !self.early_drop.beside_kernel && !self.early_drop.refused {
            for live in self.tunnels.values().filter(|live| live.decision.early_drop) {
                // To an address that is not this host's it would be forwarded.
                let here = |taken: &Taken| self.local_addresses.has(taken.destination, live.bound_to);
                wanted.extend(packets(live).filter(here));
            }
        }
        let gone = self.early_drop.taken.difference(&wanted).copied().collect::<Vec<_>>();
        self.let_through(&gone);
        let come = wanted.difference(&self.early_drop.taken).copied().collect::<Vec<_>>();
        self.take_early(&come);
    }

    /// The same when only the kernel's modules may have changed.
    pub(super) fn keep_early_drop_beside_kernel(&mut self) {
        if self.early_drop.beside_kernel != kernel_tunnels::module_loaded() {
            self.keep_early_drop();
        }
    }

    /// Lets the packets of tunnels go up again that are to be heard there, or not to be heard at all.
    pub(super) fn let_through_of<'a>(&mut self, names: impl IntoIterator<Item = &'a DeviceName>) {
        if self.early_drop.taken.is_empty() {
            return;
        }
        let of_them = names.into_iter().filter_map(|name| self.tunnels.get(name)).flat_map(packets);
        let taken = of_them.filter(|taken| self.early_drop.taken.contains(taken)).collect::<Vec<_>>();
        self.let_through(&taken);
    }

    fn let_through(&mut self, taken: &[Taken]) {
        let Some(nftables) = self.nftables.as_ref().filter(|_| !taken.is_empty()) else { return };
        for some in taken.chunks(AT_ONCE) {
            if let Err(error) = nftables.apply(&Taken::remove(TABLE, some)) {
                // The socket that owns it is the only one that can change it; without the tables nothing is dropped.
                tracing::error!(%error, "packets may be dropped that nobody has taken: drops none early any more");
                self.drop_none_early();
                return;
            }
            some.iter().for_each(|taken| {
                self.early_drop.taken.remove(taken);
            });
        }
    }

    fn drop_none_early(&mut self) {
        let Some(nftables) = &self.nftables else { return };
        for family in std::mem::take(&mut self.early_drop.tables) {
            let table = TableId::new(family, TABLE);
            if let Err(error) = nftables.delete_table(&table) {
                tracing::error!(%error, "it stays until the daemon ends");
            }
        }
        self.early_drop = EarlyDrop { refused: true, ..EarlyDrop::default() };
    }

    fn take_early(&mut self, taken: &[Taken]) {
        for some in taken.chunks(AT_ONCE) {
            let mut changes = Vec::new();
            let mut tables = Vec::new();
            for family in [Family::Ip, Family::Ip6] {
                let needed = some.iter().any(|taken| taken.family() == family);
                if needed && !self.early_drop.tables.contains(&family) {
                    changes.extend(early_drop(TABLE, family, Some(COMMENT)));
                    tables.push(family);
                }
            }
            changes.extend(Taken::add(TABLE, some));
            let Some(nftables) = &self.nftables else { return };
            if let Err(error) = nftables.apply(&changes) {
                tracing::info!(
                    %error,
                    "what packet sockets have taken goes up the IP stack once more, for nothing (before Linux 5.12 it cannot \
                     be dropped safely)"
                );
                self.early_drop.refused = true;
                return;
            }
            self.early_drop.tables.extend(tables);
            self.early_drop.taken.extend(some);
        }
    }
}
