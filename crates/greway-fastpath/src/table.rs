//! All tunnels of a network namespace together: which packet belongs to which is no tunnel's affair alone.
//!
//! The programs know two steps of the kernel's four (RX-12): both addresses, and the remote alone. What they cannot
//! tell from these they leave to userspace, and this is where it is found out. A tunnel that no program carries is
//! in the table all the same, so that its packets are not taken for those of one that matches with less.

use std::collections::{BTreeMap, BTreeSet};

use greway_ebpf_abi::{EgressEntry, IngressEntry, IngressKey, ingress};
use greway_spec::TunnelSpec;

use crate::entry::{Entry, Place, WhyNot};

/// A tunnel of this namespace.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its definition.
    pub spec: &'a TunnelSpec,
    /// Where it is.
    pub place: Place,
    /// Whether the programs may carry it at all (`datapath`).
    pub wanted: bool,
}

/// What stands in the maps, computed before it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// By the index of the peer end.
    pub egress: BTreeMap<u32, EgressEntry>,
    /// By addresses and key.
    pub ingress: BTreeMap<IngressKey, IngressEntry>,
    /// By the index of the device, that of its peer end: tunnels that send without their pair.
    pub direct: BTreeMap<u32, u32>,
    /// By the index of the peer end: what no program carries, and why.
    pub why_not: BTreeMap<u32, WhyNot>,
}

impl Table {
    /// The table of these tunnels.
    pub fn of<'a>(members: impl IntoIterator<Item = Member<'a>>) -> Self {
        let members: Vec<Member<'a>> = members.into_iter().collect();
        // Few are bound to a device, and only these are compared with every other.
        let bound: Vec<&TunnelSpec> =
            members.iter().filter(|member| member.place.dev.is_some()).map(|member| member.spec).collect();
        let mut table = Self::default();
        for Member { spec, place, wanted } in members.iter().copied() {
            let entry = Entry::of(spec, &place);
            if let Err(why) = &entry {
                table.why_not.insert(place.peer, why.clone());
            }
            if let (true, Ok(entry)) = (wanted, &entry) {
                table.egress.insert(place.peer, entry.egress);
                if let (true, Some(device)) = (spec.direct && place.neighbour_known, place.device) {
                    table.direct.insert(device, place.peer);
                }
            }
            let Some(key) = Entry::key_of(spec) else { continue };
            let carried = entry.ok().filter(|_| wanted).map(|entry| entry.ingress);
            let mut entry = carried.unwrap_or_else(|| withheld(&place));
            if bound.iter().any(|other| may_win(other, spec)) {
                entry.flags |= ingress::CONTESTED;
            }
            table
                .ingress
                .entry(key)
                // They differ in `dev`, or the daemon would have refused one.
                .and_modify(|first| first.flags |= ingress::AMBIGUOUS)
                .or_insert(entry);
        }
        table
    }

    /// The peer ends that are in it, each of which has counters.
    pub(crate) fn known(&self) -> BTreeSet<u32> {
        self.egress.keys().copied().chain(self.ingress.values().map(|entry| entry.peer)).collect()
    }
}

/// Whether `other`, with a `dev`, may win packets of `spec` that it matches with less (RX-12).
fn may_win(other: &TunnelSpec, spec: &TunnelSpec) -> bool {
    // Groups match other packets.
    let remote = |spec: &TunnelSpec| spec.remote.filter(|remote| !remote.is_multicast());
    if other.mode != spec.mode || other.remote.is_some_and(|remote| remote.is_multicast()) {
        return false;
    }
    let key = |spec: &TunnelSpec| spec.ikey.filter(|key| *key != 0 || !spec.mode.over_ipv6());
    match (other.local, remote(other)) {
        (Some(_), Some(_)) => false,
        (None, Some(_)) => spec.local.is_some() && other.remote == spec.remote && key(other) == key(spec),
        (Some(_), None) => (spec.local.is_none() || other.local == spec.local) && key(other) == key(spec),
        // Here the value is compared, and not whether there is a key.
        (None, None) => key(other).unwrap_or(0) == key(spec).unwrap_or(0),
    }
}

/// The entry of a tunnel whose packets are userspace's.
fn withheld(place: &Place) -> IngressEntry {
    IngressEntry {
        peer: place.peer,
        flags: ingress::WITHHELD,
        device_mtu: place.device_mtu,
        dev: place.dev.unwrap_or(0),
        via: 0,
        to: place.device_mac,
        from: place.peer_mac,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use greway_spec::{Draft, Mode};

    use super::*;

    fn spec(change: impl Fn(&mut TunnelSpec)) -> TunnelSpec {
        let (local, remote) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        let mut spec = Draft::new("tun0".parse().unwrap(), local, remote).into_spec().unwrap();
        change(&mut spec);
        spec
    }

    fn place(peer: u32, dev: Option<u32>) -> Place {
        Place {
            peer,
            device: Some(peer + 100),
            device_mtu: 1476,
            device_mac: [2; 6],
            peer_mac: [4; 6],
            dev,
            source: Some(Ipv4Addr::new(192, 0, 2, 1).into()),
            neighbour_known: true,
            path_mtu: 1500,
            ..Place::default()
        }
    }

    fn table(list: &[(TunnelSpec, Place, bool)]) -> Table {
        Table::of(list.iter().map(|(spec, place, wanted)| Member { spec, place: *place, wanted: *wanted }))
    }

    #[test]
    fn a_tunnel_that_is_not_carried_keeps_its_packets() {
        let exact = spec(|spec| spec.icsum = true);
        let open = spec(|spec| spec.local = None);
        let both = table(&[(exact.clone(), place(1, None), true), (open.clone(), place(2, None), true)]);
        assert_eq!(both.ingress[&Entry::key_of(&exact).unwrap()].flags, ingress::WITHHELD);
        assert_eq!(both.ingress[&Entry::key_of(&open).unwrap()].flags, 0);
        assert_eq!(both.egress.keys().copied().collect::<Vec<_>>(), [2]);
        assert_eq!(both.why_not.keys().copied().collect::<Vec<_>>(), [1]);

        let unwanted = table(&[(open.clone(), place(2, None), false)]);
        assert_eq!(unwanted.ingress[&Entry::key_of(&open).unwrap()].flags, ingress::WITHHELD);
        assert!(unwanted.egress.is_empty() && unwanted.why_not.is_empty());
    }

    #[test]
    fn direct_is_for_a_device_that_is_here() {
        let direct = spec(|spec| spec.direct = true);
        let with = |spec: &TunnelSpec, device, wanted| {
            let place = Place { device, ..place(1, None) };
            table(&[(spec.clone(), place, wanted)]).direct.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(with(&direct, Some(9), true), [(9, 1)]);
        assert_eq!(with(&direct, None, true), [], "moved away");
        let unknown = Place { neighbour_known: false, ..place(1, None) };
        assert!(table(&[(direct.clone(), unknown, true)]).direct.is_empty());
        assert_eq!(with(&direct, Some(9), false), [], "userspace carries it");
        assert_eq!(with(&spec(|spec| (spec.direct, spec.icsum) = (true, true)), Some(9), true), []);
        assert_eq!(with(&spec(|_| {}), Some(9), true), []);
    }

    #[test]
    fn rx12_what_dev_decides_is_marked() {
        let one = spec(|_| {});
        let twice = table(&[(one.clone(), place(1, Some(5)), true), (one.clone(), place(2, Some(6)), true)]);
        let entry = twice.ingress[&Entry::key_of(&one).unwrap()];
        assert_eq!((entry.peer, entry.flags), (1, ingress::AMBIGUOUS));
        assert_eq!(twice.egress.len(), 2);

        let contested = |other: &TunnelSpec, dev| {
            let both = table(&[(one.clone(), place(1, None), true), (other.clone(), place(3, dev), true)]);
            both.ingress[&Entry::key_of(&one).unwrap()].flags & ingress::CONTESTED != 0
        };
        let any = spec(|spec| spec.remote = None);
        assert!(!contested(&any, None) && contested(&any, Some(5)));
        let here = spec(|spec| spec.local = None);
        assert!(!contested(&here, None) && contested(&here, Some(5)));
        let wild = spec(|spec| (spec.local, spec.remote) = (None, None));
        assert!(contested(&wild, Some(5)));
        // Key 0 is no key for one that matches anything, and for nobody else.
        let zero = |spec: &TunnelSpec| TunnelSpec { ikey: Some(0), ..spec.clone() };
        assert!(contested(&zero(&wild), Some(5)) && !contested(&zero(&here), Some(5)));
        // Another kind, another remote, a group.
        assert!(!contested(&TunnelSpec { mode: Mode::Gretap, ..here.clone() }, Some(5)));
        let elsewhere = Some(Ipv4Addr::new(192, 0, 2, 77).into());
        assert!(!contested(&TunnelSpec { remote: elsewhere, ..here }, Some(5)));
        let group = Some(Ipv4Addr::new(239, 1, 1, 1).into());
        assert!(!contested(&TunnelSpec { remote: group, ..any }, Some(5)));
    }
}
