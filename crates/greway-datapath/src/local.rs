//! The addresses of this host, for packets that reach us before the IP stack has looked at them.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};

/// Which addresses are this host's. One that is not settled yet (tentative, RFC 4862 §5.4) is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalAddresses {
    anywhere: HashSet<IpAddr>,
    link_local: HashSet<(Ipv6Addr, u32)>,
}

impl LocalAddresses {
    /// Adds one of the interface `ifindex`.
    pub fn insert(&mut self, address: IpAddr, ifindex: u32) {
        match address {
            IpAddr::V6(address) if address.is_unicast_link_local() => {
                self.link_local.insert((address, ifindex));
            }
            address => {
                self.anywhere.insert(address);
            }
        }
    }

    /// Those that are this host's on whatever link: all but the link-local ones.
    pub fn anywhere(&self) -> impl Iterator<Item = IpAddr> {
        self.anywhere.iter().copied()
    }

    /// Whether packets to this address that come in by interface `ifindex` are for this host.
    pub fn takes(&self, address: IpAddr, ifindex: u32) -> bool {
        match address {
            // The same link-local address may be somebody else's on another link.
            IpAddr::V6(link_local) if link_local.is_unicast_link_local() => {
                self.link_local.contains(&(link_local, ifindex))
            }
            address => self.anywhere.contains(&address),
        }
    }

    /// Whether it is an address of this host; a link-local one of the interface `dev`, where that is known.
    pub fn has(&self, address: IpAddr, dev: Option<u32>) -> bool {
        match (address, dev) {
            (IpAddr::V6(link_local), None) if link_local.is_unicast_link_local() => {
                self.link_local.iter().any(|(here, _)| *here == link_local)
            }
            (address, dev) => self.takes(address, dev.unwrap_or(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_is_of_its_link() {
        let mut local = LocalAddresses::default();
        let addresses = ["192.0.2.1", "2001:db8::1", "fe80::1"].map(|text| text.parse::<IpAddr>().unwrap());
        addresses.into_iter().for_each(|address| local.insert(address, 3));
        assert_eq!(addresses.map(|address| local.takes(address, 3)), [true; 3]);
        assert_eq!(addresses.map(|address| local.takes(address, 4)), [true, true, false]);
        assert_eq!(addresses.map(|address| local.has(address, None)), [true; 3]);
        assert_eq!(addresses.map(|address| local.has(address, Some(4))), [true, true, false]);
        assert!(!local.has("fe80::2".parse().unwrap(), None));
    }
}
