//! The host's reverse path filter, for packets that do not pass it.
//!
//! Packet sockets see packets before the kernel's routing has looked at their source
//! (linux net/ipv4/fib_frontend.c `fib_validate_source`, v6.18), so a spoofed outer source would be
//! believed where the kernel's own GRE never sees it. The rule is the kernel's, the facts come from
//! whoever follows the host's routes and settings.
//!
//! In a VRF the filter is the VRF's own, and the way back is looked for among its routes; it may lead by any of its
//! devices (linux net/ipv4/fib_semantics.c `fib_info_nh_uses_dev`, v6.1).

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

/// Which devices filter, by which the ways to the peers lead, and what belongs to a VRF.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReversePaths {
    /// By interface index; a device that does not filter is not here.
    pub filters: HashMap<u32, Filter>,
    /// By VRF (0: none) and remote address; `None`: no way there.
    pub ways: HashMap<(u32, Ipv4Addr), Option<u32>>,
    /// The VRF that a device belongs to, both by interface index.
    pub vrfs: HashMap<u32, u32>,
}

impl ReversePaths {
    /// Whether a packet from `source` may come in by interface `ifindex`. A source that is no peer
    /// is nobody's packet anyway.
    pub(crate) fn admits(&self, source: Ipv4Addr, ifindex: u32) -> bool {
        let vrf = self.vrfs.get(&ifindex).copied();
        // The device as routing knows it.
        let device = |ifindex: u32| self.vrfs.get(&ifindex).copied().unwrap_or(ifindex);
        let Some(filter) = self.filters.get(&device(ifindex)) else { return true };
        match (filter, self.ways.get(&(vrf.unwrap_or(0), source))) {
            (_, None) => true,
            (Filter::Strict, Some(way)) => way.map(device) == Some(device(ifindex)),
            (Filter::Loose, Some(way)) => way.is_some(),
        }
    }

    /// The devices that a tunnel bound to `dev` takes its packets from: those of a VRF are the VRF's.
    pub(crate) fn devices_of(&self, dev: u32) -> impl Iterator<Item = u32> {
        let slaves = self.vrfs.iter().filter(move |(_, vrf)| **vrf == dev);
        std::iter::once(dev).chain(slaves.map(|(slave, _)| *slave))
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
        let ways = HashMap::from([((0, PEER), Some(2)), ((0, NOWHERE), None)]);
        let paths = ReversePaths { filters, ways, vrfs: HashMap::new() };
        let admitted = |source| [2, 3, 4, 5].map(|ifindex| paths.admits(source, ifindex));
        assert_eq!(admitted(PEER), [true, false, true, true]);
        assert_eq!(admitted(NOWHERE), [false, false, false, true]);
        assert_eq!(admitted(Ipv4Addr::LOCALHOST), [true; 4], "no peer");
    }

    #[test]
    fn a_vrf_filters_for_its_devices_by_its_own_routes() {
        // 2 and 3 are in VRF 9, 4 is in VRF 8, 5 in none.
        let vrfs = HashMap::from([(2, 9), (3, 9), (4, 8)]);
        let filters = HashMap::from([(9, Filter::Strict), (8, Filter::Loose), (5, Filter::Strict)]);
        let ways = HashMap::from([((9, PEER), Some(2)), ((8, PEER), None), ((0, PEER), Some(2))]);
        let paths = ReversePaths { filters, ways, vrfs };
        // Any device of the VRF will do; another VRF has no way; outside the way leads into the VRF.
        assert_eq!([2, 3, 4, 5].map(|ifindex| paths.admits(PEER, ifindex)), [true, true, false, false]);
        let mut devices = paths.devices_of(9).collect::<Vec<_>>();
        devices.sort_unstable();
        assert_eq!(devices, [2, 3, 9]);
        assert_eq!(paths.devices_of(5).collect::<Vec<_>>(), [5]);
    }
}
