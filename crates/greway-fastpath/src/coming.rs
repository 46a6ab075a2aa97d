//! Which packets of a tunnel come from userspace to the programs when the maps say something new of it.
//!
//! What userspace still has in its hands then would be overtaken. So such a tunnel may be made to wait for leave, each
//! way for itself, as one that is witnessed ([`crate::witness`]): the programs carry from the first packet that
//! overtakes none. When that is, and what is done meanwhile, is for whoever writes the maps.

use greway_ebpf_abi::{EgressEntry, IngressEntry, IngressKey, egress, ingress};

use crate::{Fastpath, FastpathError, Table};

/// What the maps say of one tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Of its packets that come in.
    pub ingress: Option<IngressEntry>,
    /// Of its packets that go out.
    pub egress: Option<EgressEntry>,
}

/// What becomes of the packets of one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coming {
    /// They are not the programs', or were before.
    No,
    /// They were userspace's until now.
    Anew,
    /// They waited for leave until now; whether it was given the gate tells.
    Held,
}

impl Said {
    /// What becomes of the packets, inbound and outbound, when `after` takes the place of this. Of a tunnel that is
    /// witnessed then, nothing does here: its watch gives leave.
    pub fn coming(&self, after: &Self) -> [Coming; 2] {
        [self.inbound(after), self.outbound(after)]
    }

    /// Whether the programs carry packets that come in, as far as that depends on the tunnel.
    pub fn carries_inbound(&self) -> bool {
        const ELSEWHERE: u32 = ingress::WITHHELD | ingress::AMBIGUOUS | ingress::CONTESTED;
        self.ingress.is_some_and(|entry| entry.flags & ELSEWHERE == 0)
    }

    fn carries_outbound(&self) -> bool {
        self.egress.is_some_and(|entry| entry.flags & egress::WITHHELD == 0 && entry.next_hop_ifindex != 0)
    }

    fn inbound(&self, after: &Self) -> Coming {
        let Some(new) = after.ingress.filter(|_| after.carries_inbound()) else { return Coming::No };
        if new.flags & ingress::WITNESSED != 0 {
            return Coming::No;
        }
        match self.ingress.filter(|_| self.carries_inbound()) {
            None => Coming::Anew,
            // Another tunnel's, or from a device by which they were not taken.
            Some(old) if old.peer != new.peer || (old.via != 0 && old.via != new.via) => Coming::Anew,
            Some(old) if old.flags & ingress::WITNESSED != 0 => Coming::Held,
            Some(_) => Coming::No,
        }
    }

    fn outbound(&self, after: &Self) -> Coming {
        let Some(new) = after.egress.filter(|_| after.carries_outbound()) else { return Coming::No };
        if new.flags & egress::WITNESSED != 0 {
            return Coming::No;
        }
        match self.egress.filter(|_| self.carries_outbound()) {
            None => Coming::Anew,
            Some(old) if old.flags & egress::WITNESSED != 0 => Coming::Held,
            Some(_) => Coming::No,
        }
    }
}

impl Table {
    /// What it says of the tunnel of the peer end `peer`, whose packets have `key`.
    pub fn said(&self, peer: u32, key: Option<&IngressKey>) -> Said {
        let ingress = key.and_then(|key| self.ingress.get(key)).filter(|entry| entry.peer == peer);
        Said { ingress: ingress.copied(), egress: self.egress.get(&peer).copied() }
    }

    /// Has the packets of a tunnel wait for leave, or no longer; says what it says of it then.
    pub fn hold(&mut self, peer: u32, key: Option<&IngressKey>, hold: bool) -> Said {
        let set = |flags: &mut u32, flag: u32| match hold {
            true => *flags |= flag,
            false => *flags &= !flag,
        };
        if let Some(entry) = self.egress.get_mut(&peer) {
            set(&mut entry.flags, egress::WITNESSED);
        }
        let entry = key.and_then(|key| self.ingress.get_mut(key)).filter(|entry| entry.peer == peer);
        if let Some(entry) = entry {
            set(&mut entry.flags, ingress::WITNESSED);
        }
        self.said(peer, key)
    }
}

impl Fastpath {
    /// What the maps say of the tunnel of the peer end `peer`, whose packets have `key`.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn said(&self, peer: u32, key: Option<&IngressKey>) -> Result<Said, FastpathError> {
        let ingress = match key {
            Some(key) => self.ingress(key)?.filter(|entry| entry.peer == peer),
            None => None,
        };
        Ok(Said { ingress, egress: self.egress(peer)? })
    }

    /// Has the maps say so of one tunnel; what is not said is left as it is.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn say(&mut self, peer: u32, key: Option<&IngressKey>, said: &Said) -> Result<(), FastpathError> {
        if let (Some(key), Some(entry)) = (key, &said.ingress) {
            self.set_ingress(key, entry)?;
        }
        match &said.egress {
            Some(entry) => self.set_egress(peer, entry),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use greway_spec::{Draft, TunnelSpec};

    use super::*;
    use crate::{Entry, Member, NextHop, Place};

    const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    fn spec() -> TunnelSpec {
        Draft::new("tun0".parse().unwrap(), Ipv4Addr::new(192, 0, 2, 1), REMOTE).into_spec().unwrap()
    }

    fn said(change: impl Fn(&mut Place)) -> Said {
        let mut place = Place {
            peer: 7,
            device: Some(6),
            device_mtu: 1476,
            device_mac: [2; 6],
            peer_mac: [4; 6],
            source: Some(Ipv4Addr::new(192, 0, 2, 1).into()),
            next_hop: Some(NextHop { ifindex: 3, address: IpAddr::V4(REMOTE) }),
            neighbour_known: true,
            path_mtu: 1500,
            ..Place::default()
        };
        change(&mut place);
        let spec = spec();
        let table = Table::of([Member { spec: &spec, place, wanted: true }]);
        table.said(place.peer, Entry::key_of(&spec).as_ref())
    }

    #[test]
    fn what_was_userspaces_comes_anew_each_way_for_itself() {
        let carried = said(|_| {});
        let both = [Coming::Anew; 2];
        assert_eq!(Said::default().coming(&carried), both, "it was not there");
        assert_eq!(said(|place| place.withheld = true).coming(&carried), both);
        let unresolved = said(|place| place.next_hop = None);
        assert_eq!(unresolved.coming(&carried), [Coming::No, Coming::Anew]);
        let elsewhere = said(|place| place.via = Some(9));
        assert_eq!(elsewhere.coming(&carried), [Coming::Anew, Coming::No]);
        assert_eq!(said(|place| place.peer = 8).coming(&carried)[0], Coming::Anew, "another tunnel's");
        for flag in [ingress::AMBIGUOUS, ingress::CONTESTED] {
            let mut doubtful = carried;
            doubtful.ingress.as_mut().unwrap().flags |= flag;
            assert_eq!(doubtful.coming(&carried), [Coming::Anew, Coming::No]);
        }
    }

    #[test]
    fn what_the_programs_had_or_do_not_get_does_not_come() {
        let carried = said(|_| {});
        let none = [Coming::No; 2];
        assert_eq!(carried.coming(&carried), none);
        assert_eq!(carried.coming(&said(|place| place.path_mtu = 1400)), none);
        assert_eq!(carried.coming(&said(|place| place.via = Some(9))), none, "fewer are taken");
        for after in [said(|place| place.withheld = true), Said::default()] {
            assert_eq!(carried.coming(&after), none);
            assert_eq!(Said::default().coming(&after), none);
        }
        // Its watch lets it go.
        let witnessed = said(|place| place.witnessed = true);
        assert_eq!(Said::default().coming(&witnessed), none);
        assert_eq!(witnessed.coming(&carried), [Coming::Held; 2]);
    }

    #[test]
    fn a_tunnel_waits_until_it_does_no_longer() {
        let (spec, carried) = (spec(), said(|_| {}));
        let key = Entry::key_of(&spec).unwrap();
        let mut table = Table::default();
        table.ingress.extend(carried.ingress.map(|entry| (key, entry)));
        table.egress.extend(carried.egress.map(|entry| (7, entry)));
        let held = table.hold(7, Some(&key), true);
        assert_eq!((held, table.said(7, Some(&key))), (said(|place| place.witnessed = true), held));
        assert_eq!(held.coming(&carried), [Coming::Held; 2]);
        assert_eq!(table.hold(7, Some(&key), false), carried);
        // Another tunnel has the key.
        assert_eq!(table.hold(8, Some(&key), true), Said::default());
        assert_eq!(table.said(7, Some(&key)), carried);
    }
}
