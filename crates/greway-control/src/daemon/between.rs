//! What the kernel lost between a tunnel device and the data plane.
//!
//! Between the ends of a pair lies a queue of the kernel's (`net.core.netdev_max_backlog`). What is lost there nobody
//! else sees: it came out of the tunnel device, or a program had sent it in, and the end that it came from counts it as
//! dropped (linux drivers/net/veth.c v6.18, `veth_xmit`). A TUN device has the queue that the data plane reads from, and
//! counts what it had no room for in the same way.

use greway_netlink::{Link, Netlink};

/// What both ends had dropped at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Between {
    /// On the way out of the tunnel device.
    pub(super) out: u64,
    /// On the way into it.
    pub(super) into: u64,
}

impl Between {
    /// Asks for both ends.
    pub(super) fn now(netlink: &Netlink, index: u32, peer: Option<u32>) -> Self {
        let link = netlink.link_by_index(index).ok().flatten();
        let peer = peer.and_then(|peer| netlink.link_by_index(peer).ok().flatten());
        Self::of(link.as_ref(), peer.as_ref())
    }

    /// The same with both at hand. What is out of sight has dropped nothing.
    pub(super) fn of(link: Option<&Link>, peer: Option<&Link>) -> Self {
        let dropped = |link: &Link| link.statistics.tx_dropped;
        Self { out: link.map_or(0, dropped), into: peer.map_or(0, dropped) }
    }

    /// What was dropped after `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self { out: self.out.saturating_sub(earlier.out), into: self.into.saturating_sub(earlier.into) }
    }
}
