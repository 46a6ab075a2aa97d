//! The host's reverse path filter, for packets that do not pass it.
//!
//! Packet sockets see packets before the kernel's routing has looked at their source
//! (linux net/ipv4/fib_frontend.c `fib_validate_source`, v6.18), so a spoofed outer source would be
//! believed where the kernel's own GRE never sees it. The rule is the kernel's, the facts come from
//! whoever follows the host's routes and settings.

use std::collections::HashMap;
use std::net::Ipv4Addr;

/// How strict a device is about where packets come from (RFC 3704 §2.2, §2.4; `rp_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The way back leads by the same device (1).
    Strict,
    /// There is a way back at all (2).
    Loose,
}

/// Which devices filter, and by which the ways to the peers lead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReversePaths {
    /// By interface index; a device that does not filter is not here.
    pub filters: HashMap<u32, Filter>,
    /// By remote address; `None`: no way there.
    pub ways: HashMap<Ipv4Addr, Option<u32>>,
}

impl ReversePaths {
    /// Whether a packet from `source` may come in by interface `ifindex`. A source that is no peer
    /// is nobody's packet anyway.
    pub(crate) fn admits(&self, source: Ipv4Addr, ifindex: u32) -> bool {
        let Some(filter) = self.filters.get(&ifindex) else { return true };
        match (filter, self.ways.get(&source)) {
            (_, None) => true,
            (Filter::Strict, Some(way)) => *way == Some(ifindex),
            (Filter::Loose, Some(way)) => way.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Ipv4Addr = Ipv4Addr::new(100, 0, 2, 100);
    const NOWHERE: Ipv4Addr = Ipv4Addr::new(100, 0, 3, 100);

    #[test]
    fn strict_wants_the_same_device_and_loose_any_way() {
        let filters = HashMap::from([(2, Filter::Strict), (3, Filter::Strict), (4, Filter::Loose)]);
        let paths = ReversePaths { filters, ways: HashMap::from([(PEER, Some(2)), (NOWHERE, None)]) };
        let admitted = |source| [2, 3, 4, 5].map(|ifindex| paths.admits(source, ifindex));
        assert_eq!(admitted(PEER), [true, false, true, true]);
        assert_eq!(admitted(NOWHERE), [false, false, false, true]);
        assert_eq!(admitted(Ipv4Addr::LOCALHOST), [true; 4], "no peer");
    }
}
