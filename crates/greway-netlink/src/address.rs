//! Addresses of links, in the form `ip addr add LOCAL peer PEER/LENGTH` sends them: the prefix is the
//! peer's, and the kernel derives the connected route from it (172.16.0.1 peer 172.16.0.2/30 gives a route
//! to 172.16.0.0/30).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};

use crate::error::{NetlinkError, Subject};
use crate::link::Index;
use crate::prefix::width;
use crate::rtnetlink::Netlink;

/// An address to add, or as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    /// Our own address.
    pub local: IpAddr,
    /// The far end's, on a point-to-point link.
    pub peer: Option<IpAddr>,
    /// Length of the prefix that is reached over the link: that of `peer` if there is one.
    pub prefix_length: u8,
}

impl Address {
    /// `LOCAL/LENGTH`.
    pub fn new(local: IpAddr, prefix_length: u8) -> Self {
        Self { local, peer: None, prefix_length }
    }

    /// `LOCAL peer PEER/LENGTH`.
    pub fn with_peer(local: IpAddr, peer: IpAddr, prefix_length: u8) -> Self {
        Self { local, peer: Some(peer), prefix_length }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            Some(peer) => write!(f, "{} peer {peer}/{}", self.local, self.prefix_length),
            None => write!(f, "{}/{}", self.local, self.prefix_length),
        }
    }
}

/// An address found on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddressEntry {
    /// The link it is on.
    pub index: u32,
    /// The address itself.
    pub address: Address,
    /// IPv4 broadcast address, if one was set.
    pub broadcast: Option<Ipv4Addr>,
    /// IPv4 label; mostly the link's name.
    pub label: Option<String>,
    /// RT_SCOPE_ value: 0 global, 253 link, 254 host.
    pub scope: u8,
    /// IFA_F_ flags.
    pub flags: u32,
}

impl AddressEntry {
    /// Whether IPv6 duplicate address detection is still under way.
    pub fn tentative(&self) -> bool {
        self.flags & AddressFlags::Tentative.bits() != 0
    }

    fn from_message(message: AddressMessage) -> Option<Self> {
        let (mut near, mut far) = (None, None);
        let mut entry = Self {
            index: message.header.index,
            address: Address::new(Ipv4Addr::UNSPECIFIED.into(), message.header.prefix_len),
            broadcast: None,
            label: None,
            scope: message.header.scope.into(),
            flags: u32::from(message.header.flags.bits()),
        };
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Local(address) => near = Some(address),
                AddressAttribute::Address(address) => far = Some(address),
                AddressAttribute::Broadcast(address) => entry.broadcast = Some(address),
                AddressAttribute::Label(label) => entry.label = Some(label),
                AddressAttribute::Flags(flags) => entry.flags = flags.bits(),
                _ => {}
            }
        }
        // IPv6 sends IFA_LOCAL only beside a peer; IPv4 always sends both, equal if there is no peer.
        entry.address.local = near.or(far)?;
        entry.address.peer = far.filter(|far| *far != entry.address.local);
        Some(entry)
    }
}

impl Netlink {
    /// The addresses of one link, or of all.
    ///
    /// # Errors
    /// Those of a dump; `is_not_found` when there is no such link.
    pub fn addresses(&self, index: Option<u32>) -> Result<Vec<AddressEntry>, NetlinkError> {
        let subject = Subject::new("list", &"addresses");
        let mut request = AddressMessage::default();
        request.header.index = index.unwrap_or(0);
        let found =
            self.dump(subject, libc::RTM_GETADDR, &request, libc::RTM_NEWADDR, AddressMessage::parse)?;
        let entries = found.into_iter().filter_map(AddressEntry::from_message);
        // Kernels without strict checking (before 4.20) ignore the index.
        Ok(entries.filter(|entry| index.is_none_or(|index| entry.index == index)).collect())
    }

    /// Adds an address as `ip addr add` does: no broadcast address, scope host for 127.0.0.0/8 and global
    /// otherwise. It may be added while the link is down; its route appears when the link comes up.
    ///
    /// # Errors
    /// `is_exists` when the link has it.
    pub fn add_address(&self, index: u32, address: Address) -> Result<(), NetlinkError> {
        self.put_address("add address", index, address, libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Adds an address or confirms that it is there.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn replace_address(&self, index: u32, address: Address) -> Result<(), NetlinkError> {
        self.put_address("set address", index, address, libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes an address; local, peer and length must all match.
    ///
    /// # Errors
    /// `is_not_found` when the link does not have it.
    pub fn delete_address(&self, index: u32, address: Address) -> Result<(), NetlinkError> {
        self.put_address("delete address", index, address, libc::RTM_DELADDR, 0)
    }

    fn put_address(
        &self,
        operation: &'static str,
        index: u32,
        address: Address,
        kind: u16,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        let object = format!("{address} on {}", Index(index));
        let subject = Subject::new(operation, &object);
        if address.peer.is_some_and(|peer| peer.is_ipv4() != address.local.is_ipv4()) {
            return Err(subject.invalid("local and peer address are of different families"));
        }
        if address.prefix_length > width(address.local) {
            return Err(subject.invalid(format_args!("a prefix has at most {} bits", width(address.local))));
        }
        self.change(subject, kind, flags, &message(index, address))
    }
}

fn message(index: u32, address: Address) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if address.local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = address.prefix_length;
    message.header.flags = AddressHeaderFlags::empty();
    message.header.index = index;
    message.header.scope = match address.local {
        IpAddr::V4(local) if local.is_loopback() => AddressScope::Host,
        _ => AddressScope::Universe,
    };
    message.attributes.push(AddressAttribute::Local(address.local));
    message.attributes.push(AddressAttribute::Address(address.peer.unwrap_or(address.local)));
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;

    /// What `ip addr add 172.16.0.1 peer 172.16.0.2/30 dev …` (iproute2 6.1) sends after the header.
    #[test]
    fn the_peer_form_is_iproute2s() {
        let address = Address::with_peer([172, 16, 0, 1].into(), [172, 16, 0, 2].into(), 30);
        let request = message(7, address);
        let mut bytes = vec![0; request.buffer_len()];
        request.emit(&mut bytes);
        let (eight, local, far) = (8_u16.to_ne_bytes(), 2_u16.to_ne_bytes(), 1_u16.to_ne_bytes());
        let expected = [
            &[2, 30, 0, 0][..],
            &7_u32.to_ne_bytes(),
            &eight,
            &local,
            &[172, 16, 0, 1],
            &eight,
            &far,
            &[172, 16, 0, 2],
        ];
        assert_eq!(bytes, expected.concat());
        assert_eq!(address.to_string(), "172.16.0.1 peer 172.16.0.2/30");
    }
}
