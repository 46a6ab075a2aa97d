//! Which tunnel a received packet belongs to, in the kernel's order of precedence.
//!
//! Four steps (RX-12; linux net/ipv4/ip_tunnel.c v6.18, `ip_tunnel_lookup`): both addresses and key;
//! remote and key; local and key; key alone. Within a step a tunnel bound to the device the packet came
//! in by wins at once; without one the candidate of the earliest step is kept, since `dev` is a
//! preference and not a condition. Two tunnels that differ only in `dev`: the one given first.
//!
//! Ethernet tunnels are looked up apart from the others (RX-10; net/ipv4/ip_gre.c, `ipgre_rcv`): one of each kind
//! may have the same ends and key. A frame that finds no Ethernet tunnel goes to a layer 3 tunnel, as the packet of
//! an unknown protocol that it is there.
//!
//! Tunnels over IPv6 are looked up apart from those over IPv4, by the same steps; only their keys are compared by value
//! alone, so that key 0 is no key (net/ipv6/ip6_gre.c v6.18, `ip6gre_tunnel_lookup`). A tunnel to a multicast group
//! takes what anybody sends to the group.
//!
//! What it costs a packet is one hash lookup for each step that any tunnel needs. A tunnel comes and goes without the
//! others being looked at, so that ten thousand can be added one by one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::net::IpAddr;

use greway_spec::TunnelSpec;
use greway_wire::ethertype;

/// Which of the caller's tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelIndex(pub u32);

/// What a tunnel asks of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Whether the delivery header is IPv6; the addresses are of that family.
    pub over_ipv6: bool,
    /// Destination the packet must have; `None`: any.
    pub local: Option<IpAddr>,
    /// Source the packet must have, or the group it must be sent to; `None`: any.
    pub remote: Option<IpAddr>,
    /// Key the packet must have; `None`: it must have none (RX-13).
    pub ikey: Option<u32>,
    /// Whether it takes Ethernet frames (protocol type 0x6558) and nothing else.
    pub ethernet: bool,
}

impl Endpoint {
    /// The endpoint of a tunnel.
    pub fn of(spec: &TunnelSpec) -> Self {
        Self {
            over_ipv6: spec.mode.over_ipv6(),
            local: spec.local,
            remote: spec.remote,
            ikey: spec.ikey,
            ethernet: spec.mode.is_ethernet(),
        }
    }
}

/// The tunnels of one underlay, ready for lookup.
#[derive(Clone, Debug, Default)]
pub struct TunnelTable {
    ipv4: Kinds,
    ipv6: Kinds,
    /// The tunnels of a remote, each once: for packets whose key cannot be read, and what concerns all of them.
    by_remote: Map<IpAddr, Vec<TunnelIndex>>,
    /// Those without a remote.
    unnamed: Vec<TunnelIndex>,
}

/// The tunnels over one family.
#[derive(Clone, Debug, Default)]
struct Kinds {
    layer3: Steps,
    ethernet: Steps,
}

/// The tunnels of one kind.
#[derive(Clone, Debug, Default)]
struct Steps {
    exact: Step<(u128, u128, Option<u32>)>,
    remote: Step<(u128, Option<u32>)>,
    local: Step<(u128, Option<u32>)>,
    wildcard: Step<u32>,
}

/// Tunnels that one step finds under one key: mostly a single one.
type Step<K> = Map<K, Entries>;
/// By index, with their `dev`.
type Entries = Vec<(Option<u32>, TunnelIndex)>;
type Map<K, V> = HashMap<K, V, BuildHasherDefault<AddressHasher>>;

impl TunnelTable {
    /// A table of tunnels with the interface index of their `dev`, where they have one.
    pub fn new<'a>(tunnels: impl Iterator<Item = (TunnelIndex, &'a TunnelSpec, Option<u32>)>) -> Self {
        Self::from_endpoints(tunnels.map(|(index, spec, dev)| (index, Endpoint::of(spec), dev)))
    }

    /// A table of endpoints, which may be wildcards.
    pub fn from_endpoints(endpoints: impl Iterator<Item = (TunnelIndex, Endpoint, Option<u32>)>) -> Self {
        let mut table = Self::default();
        for (index, endpoint, dev) in endpoints {
            table.insert(index, &endpoint, dev);
        }
        table
    }

    /// Adds a tunnel. One that is bound to a VRF is added once for each of its devices.
    pub fn insert(&mut self, index: TunnelIndex, endpoint: &Endpoint, dev: Option<u32>) {
        self.edit(endpoint, |entries| {
            let position = entries.partition_point(|(_, known)| *known <= index);
            entries.insert(position, (dev, index));
        });
        let known = match endpoint.remote {
            Some(remote) => self.by_remote.entry(remote).or_default(),
            None => &mut self.unnamed,
        };
        if let Err(position) = known.binary_search(&index) {
            known.insert(position, index);
        }
    }

    /// Takes a tunnel out, all that was added of it with this endpoint.
    pub fn remove(&mut self, index: TunnelIndex, endpoint: &Endpoint) {
        self.edit(endpoint, |entries| entries.retain(|(_, known)| *known != index));
        match endpoint.remote {
            Some(remote) => edit(&mut self.by_remote, remote, |known| known.retain(|known| *known != index)),
            None => self.unnamed.retain(|known| *known != index),
        }
    }

    /// Changes what stands where a packet for this endpoint finds it.
    fn edit(&mut self, endpoint: &Endpoint, change: impl FnOnce(&mut Entries)) {
        let Endpoint { over_ipv6, local, remote, ikey, ethernet } = *endpoint;
        let kinds = if over_ipv6 { &mut self.ipv6 } else { &mut self.ipv4 };
        let steps = if ethernet { &mut kinds.ethernet } else { &mut kinds.layer3 };
        let key = if over_ipv6 { ikey.filter(|key| *key != 0) } else { ikey };
        match (local.map(bits), remote) {
            (_, Some(group)) if group.is_multicast() => edit(&mut steps.local, (bits(group), key), change),
            (Some(local), Some(remote)) => edit(&mut steps.exact, (local, bits(remote), key), change),
            (None, Some(remote)) => edit(&mut steps.remote, (bits(remote), key), change),
            (Some(local), None) => edit(&mut steps.local, (local, key), change),
            (None, None) => edit(&mut steps.wildcard, key.unwrap_or(0), change),
        }
    }

    /// The tunnel for a packet from `remote` to `local` that came in by interface `ingress`. Where a remote has
    /// tunnels of both kinds, the protocol type tells them apart.
    pub fn lookup(
        &self,
        protocol_type: u16,
        remote: impl Into<IpAddr>,
        local: impl Into<IpAddr>,
        key: Option<u32>,
        ingress: u32,
    ) -> Option<TunnelIndex> {
        let (remote, local) = (remote.into(), local.into());
        let (kinds, key) = match remote {
            IpAddr::V4(_) => (&self.ipv4, key),
            IpAddr::V6(_) => (&self.ipv6, key.filter(|key| *key != 0)),
        };
        let (remote, local) = (bits(remote), bits(local));
        let ethernet = match protocol_type {
            ethertype::TEB => kinds.ethernet.lookup(remote, local, key, ingress),
            _ => None,
        };
        ethernet.or_else(|| kinds.layer3.lookup(remote, local, key, ingress))
    }

    /// The tunnel that a packet from `remote` must have been meant for because there is only one:
    /// whom to count a packet for whose header cannot be read.
    pub fn only_tunnel_of(&self, remote: impl Into<IpAddr>) -> Option<TunnelIndex> {
        match self.by_remote.get(&remote.into()).map(Vec::as_slice) {
            Some([only]) => Some(*only),
            _ => None,
        }
    }

    /// The tunnels that may send to `remote`: its own, and those that have none and choose.
    pub fn tunnels_to(&self, remote: IpAddr) -> impl Iterator<Item = TunnelIndex> {
        let named = self.by_remote.get(&remote).map_or(&[][..], Vec::as_slice);
        named.iter().chain(&self.unnamed).copied()
    }

    /// Whether there is no tunnel at all.
    pub fn is_empty(&self) -> bool {
        !self.has_any(false) && !self.has_any(true)
    }

    /// Whether there is a tunnel over this family.
    pub fn has_any(&self, over_ipv6: bool) -> bool {
        let kinds = if over_ipv6 { &self.ipv6 } else { &self.ipv4 };
        !kinds.layer3.is_empty() || !kinds.ethernet.is_empty()
    }
}

impl Steps {
    fn lookup(&self, remote: u128, local: u128, key: Option<u32>, ingress: u32) -> Option<TunnelIndex> {
        let steps = [
            find(&self.exact, &(local, remote, key)),
            find(&self.remote, &(remote, key)),
            find(&self.local, &(local, key)),
            // Here the kernel compares the value and not whether there is a key.
            find(&self.wildcard, &key.unwrap_or(0)),
        ];
        let mut candidate = None;
        for entries in steps.into_iter().flatten() {
            let bound = entries.iter().find(|(dev, _)| *dev == Some(ingress));
            if let Some((_, index)) = bound {
                return Some(*index);
            }
            candidate = candidate.or_else(|| entries.first().map(|(_, index)| *index));
        }
        candidate
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.remote.is_empty() && self.local.is_empty() && self.wildcard.is_empty()
    }
}

/// Changes the list under a key; there are no empty lists.
fn edit<K: Eq + Hash, T>(map: &mut Map<K, Vec<T>>, key: K, change: impl FnOnce(&mut Vec<T>)) {
    match map.entry(key) {
        Entry::Occupied(mut list) => {
            change(list.get_mut());
            if list.get().is_empty() {
                list.remove();
            }
        }
        Entry::Vacant(place) => {
            let mut list = Vec::new();
            change(&mut list);
            if !list.is_empty() {
                place.insert(list);
            }
        }
    }
}

/// Looks up without hashing where no tunnel needs the step.
fn find<'a, K: Eq + Hash>(step: &'a Step<K>, key: &K) -> Option<&'a [(Option<u32>, TunnelIndex)]> {
    if step.is_empty() { None } else { step.get(key).map(Vec::as_slice) }
}

/// An address as a number; the two families have tables of their own.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Multiply and fold: a few instructions instead of SipHash. Keys of the table come from the
/// administrator, so nobody can fill one bucket from the network.
#[derive(Default)]
struct AddressHasher(u64);

impl AddressHasher {
    fn mix(&mut self, word: u64) {
        let wide = u128::from(self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        self.0 = (wide as u64) ^ ((wide >> 64) as u64);
    }
}

impl Hasher for AddressHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.mix(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.mix(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    fn write_u128(&mut self, word: u128) {
        self.mix(word as u64 ^ (word >> 64) as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.mix(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The rule, read off the text: four passes over a list.
    fn naive(
        list: &[(Endpoint, Option<u32>)],
        remote: IpAddr,
        local: IpAddr,
        key: Option<u32>,
        ingress: u32,
    ) -> Option<TunnelIndex> {
        let steps: [&dyn Fn(&Endpoint) -> bool; 4] = [
            &|e| e.local == Some(local) && e.remote == Some(remote) && e.ikey == key,
            &|e| e.local.is_none() && e.remote == Some(remote) && e.ikey == key,
            &|e| e.local == Some(local) && e.remote.is_none() && e.ikey == key,
            &|e| e.local.is_none() && e.remote.is_none() && e.ikey.unwrap_or(0) == key.unwrap_or(0),
        ];
        let mut candidate = None;
        for step in steps {
            for (position, (endpoint, dev)) in (0..).zip(list) {
                if !step(endpoint) {
                    continue;
                }
                if *dev == Some(ingress) {
                    return Some(TunnelIndex(position));
                }
                if candidate.is_none() {
                    candidate = Some(TunnelIndex(position));
                }
            }
        }
        candidate
    }

    fn table(list: &[(Endpoint, Option<u32>)]) -> TunnelTable {
        TunnelTable::from_endpoints((0..).zip(list).map(|(i, (e, dev))| (TunnelIndex(i), *e, *dev)))
    }

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn endpoint(local: Option<u8>, remote: Option<u8>, ikey: Option<u32>) -> Endpoint {
        let (local, remote) = (local.map(address), remote.map(address));
        Endpoint { over_ipv6: false, local, remote, ikey, ethernet: false }
    }

    /// A table that tunnels came to and left is the one of those that stayed.
    #[test]
    fn tunnels_come_and_go_one_by_one() {
        let all: Vec<_> = (0..96_u8)
            .map(|n| {
                let some = |bit: u8, value: u8| (n & bit != 0).then_some(value);
                let mut endpoint =
                    endpoint(some(1, 1 + n % 3), some(2, 4 + n % 5), some(4, n % 7).map(u32::from));
                endpoint.ethernet = n & 8 != 0;
                (endpoint, some(16, n % 2).map(u32::from))
            })
            .collect();
        let indexed = || (0..).map(TunnelIndex).zip(&all);
        let stays = |index: TunnelIndex| !index.0.is_multiple_of(3);
        let mut changed = TunnelTable::default();
        for (index, (endpoint, dev)) in indexed().collect::<Vec<_>>().into_iter().rev() {
            changed.insert(index, endpoint, *dev);
        }
        for (index, (endpoint, _)) in indexed().filter(|(index, _)| !stays(*index)) {
            changed.remove(index, endpoint);
        }
        let built = TunnelTable::from_endpoints(
            indexed()
                .filter(|(index, _)| stays(*index))
                .map(|(index, (endpoint, dev))| (index, *endpoint, *dev)),
        );
        for (remote, local, key, ingress) in
            (0..10 * 5 * 8 * 2_u32).map(|n| (n % 10, n / 10 % 5, n / 50 % 8, n / 400))
        {
            let (remote, local) = (address(remote as u8), address(local as u8));
            for protocol in [ethertype::IPV4, ethertype::TEB] {
                let found =
                    |table: &TunnelTable| table.lookup(protocol, remote, local, key.checked_sub(1), ingress);
                assert_eq!(found(&changed), found(&built));
            }
            assert_eq!(changed.only_tunnel_of(remote), built.only_tunnel_of(remote));
            assert!(changed.tunnels_to(remote).eq(built.tunnels_to(remote)));
        }
        for (index, (endpoint, _)) in indexed() {
            changed.remove(index, endpoint);
        }
        assert!(changed.is_empty() && changed.by_remote.is_empty() && changed.unnamed.is_empty());
    }

    #[test]
    fn rx12_more_said_wins_over_less_said() {
        let list = [
            (endpoint(None, None, None), None),
            (endpoint(Some(1), None, None), None),
            (endpoint(None, Some(2), None), None),
            (endpoint(Some(1), Some(2), None), None),
        ];
        let found = |n: usize| table(&list[..n]).lookup(ethertype::IPV4, address(2), address(1), None, 9);
        assert_eq!([1, 2, 3, 4].map(|n| found(n).unwrap().0), [0, 1, 2, 3]);
    }

    #[test]
    fn rx12_the_ingress_device_wins_over_an_earlier_step() {
        let list = [(endpoint(Some(1), Some(2), None), Some(3)), (endpoint(None, Some(2), None), Some(9))];
        let table = table(&list);
        assert_eq!(table.lookup(ethertype::IPV4, address(2), address(1), None, 9), Some(TunnelIndex(1)));
        assert_eq!(table.lookup(ethertype::IPV4, address(2), address(1), None, 3), Some(TunnelIndex(0)));
        assert_eq!(table.lookup(ethertype::IPV4, address(2), address(1), None, 7), Some(TunnelIndex(0)));
    }

    #[test]
    fn rx13_no_key_and_key_zero_are_different_except_for_wildcards() {
        let strict = table(&[(endpoint(Some(1), Some(2), None), None)]);
        assert_eq!(strict.lookup(ethertype::IPV4, address(2), address(1), Some(0), 9), None);
        let lax = table(&[(endpoint(None, None, None), None)]);
        assert_eq!(lax.lookup(ethertype::IPV4, address(2), address(1), Some(0), 9), Some(TunnelIndex(0)));
        assert_eq!(lax.lookup(ethertype::IPV4, address(2), address(1), Some(1), 9), None);
    }

    #[test]
    fn a_remote_with_two_tunnels_has_no_only_one() {
        let list = [
            (endpoint(Some(1), Some(2), None), None),
            (endpoint(Some(1), Some(2), Some(5)), None),
            (endpoint(Some(1), Some(3), None), None),
        ];
        let table = table(&list);
        assert_eq!(table.only_tunnel_of(address(2)), None);
        assert_eq!(table.only_tunnel_of(address(3)), Some(TunnelIndex(2)));
        assert_eq!(table.only_tunnel_of(address(4)), None);
    }

    #[test]
    fn rx10_frames_and_packets_have_tunnels_of_their_own() {
        let packets = (endpoint(Some(1), Some(2), Some(5)), None);
        let frames = (Endpoint { ethernet: true, ..packets.0 }, None);
        let find = |list: &[_], protocol_type| {
            let found = table(list).lookup(protocol_type, address(2), address(1), Some(5), 9);
            found.map(|index| index.0)
        };
        let both = [packets, frames];
        assert_eq!(find(&both, ethertype::IPV4), Some(0));
        assert_eq!(find(&both, ethertype::TEB), Some(1));
        assert_eq!(find(&both[1..], ethertype::IPV4), None);
        assert_eq!(find(&both[1..], ethertype::ARP), None);
        // As the kernel: with no Ethernet tunnel a frame is one more protocol.
        assert_eq!(find(&both[..1], ethertype::TEB), Some(0));
    }

    #[test]
    fn rx12_a_group_takes_what_anybody_sends_to_it() {
        let group: IpAddr = [239, 1, 1, 1].into();
        let list = [(Endpoint { remote: Some(group), ..endpoint(Some(1), None, Some(7)) }, None)];
        let table = table(&list);
        let find = |to: IpAddr| table.lookup(ethertype::IPV4, address(9), to, Some(7), 3);
        assert_eq!(find(group), Some(TunnelIndex(0)));
        assert_eq!(find(address(1)), None);
    }

    #[test]
    fn rx13_over_ipv6_key_zero_is_no_key_and_ipv4_has_a_table_of_its_own() {
        let here: IpAddr = "fd00::1".parse().unwrap();
        let there: IpAddr = "fd00::2".parse().unwrap();
        let six = Endpoint {
            over_ipv6: true,
            local: Some(here),
            remote: Some(there),
            ikey: Some(0),
            ethernet: false,
        };
        let table = table(&[(six, None), (endpoint(None, None, None), None)]);
        let find = |key| table.lookup(ethertype::IPV6, there, here, key, 3);
        assert_eq!(find(None), Some(TunnelIndex(0)));
        assert_eq!(find(Some(0)), Some(TunnelIndex(0)));
        assert_eq!(find(Some(1)), None);
        assert_eq!(table.lookup(ethertype::IPV6, address(2), address(1), None, 3), Some(TunnelIndex(1)));
        assert_eq!(table.only_tunnel_of(there), Some(TunnelIndex(0)));
    }

    fn any_endpoint() -> impl Strategy<Value = (Endpoint, Option<u32>)> {
        let address = || proptest::option::of(0_u8..3);
        (address(), address(), proptest::option::of(0_u32..3), proptest::option::of(1_u32..4))
            .prop_map(|(local, remote, ikey, dev)| (endpoint(local, remote, ikey), dev))
    }

    proptest! {
        #[test]
        fn rx12_rx13_the_table_is_the_naive_scan(
            list in proptest::collection::vec(any_endpoint(), 0..24),
            packets in proptest::collection::vec(
                (0_u8..4, 0_u8..4, proptest::option::of(0_u32..4), 0_u32..5), 1..30),
        ) {
            let table = table(&list);
            for (remote, local, key, ingress) in packets {
                let (remote, local) = (address(remote), address(local));
                prop_assert_eq!(
                    table.lookup(ethertype::IPV4, remote, local, key, ingress),
                    naive(&list, remote, local, key, ingress)
                );
            }
        }
    }
}
