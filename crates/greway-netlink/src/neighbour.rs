//! The neighbour table: which link-layer address answers for an IP address.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState as WireState,
};

use crate::error::{NetlinkError, Subject};
use crate::link::{Index, MacAddress};
use crate::rtnetlink::Netlink;

/// How well an entry is known (NUD_).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NeighbourState {
    /// Being asked for.
    Incomplete,
    /// Confirmed lately.
    Reachable,
    /// Usable, not confirmed lately.
    Stale,
    /// About to be confirmed.
    Delay,
    /// Being confirmed.
    Probe,
    /// Did not answer.
    Failed,
    /// Needs no answer on this link.
    NoArp,
    /// Set by hand, never expires.
    Permanent,
    /// Anything else, as the kernel's number.
    Other(u16),
}

impl NeighbourState {
    fn from_wire(state: WireState) -> Self {
        match state {
            WireState::Incomplete => Self::Incomplete,
            WireState::Reachable => Self::Reachable,
            WireState::Stale => Self::Stale,
            WireState::Delay => Self::Delay,
            WireState::Probe => Self::Probe,
            WireState::Failed => Self::Failed,
            WireState::Noarp => Self::NoArp,
            WireState::Permanent => Self::Permanent,
            other => Self::Other(other.into()),
        }
    }
}

/// An entry of the neighbour table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Neighbour {
    /// The link it is reached over.
    pub index: u32,
    /// Its IP address.
    pub address: IpAddr,
    /// Its Ethernet address, once known.
    pub link_address: Option<MacAddress>,
    /// How well it is known.
    pub state: NeighbourState,
}

impl Neighbour {
    fn from_message(message: NeighbourMessage) -> Option<Self> {
        let (mut address, mut link_address) = (None, None);
        for attribute in message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(ip.into()),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(ip.into()),
                NeighbourAttribute::LinkLayerAddress(bytes) => link_address = bytes.try_into().ok(),
                _ => {}
            }
        }
        let state = NeighbourState::from_wire(message.header.state);
        Some(Self { index: message.header.ifindex, address: address?, link_address, state })
    }
}

impl Netlink {
    /// The IPv4 and IPv6 neighbours on a link.
    ///
    /// # Errors
    /// Those of a dump.
    pub fn neighbours(&self, index: u32) -> Result<Vec<Neighbour>, NetlinkError> {
        self.neighbours_where(Some(index), |neighbour| neighbour.index == index)
    }

    /// Those of all links that `wanted` holds for.
    ///
    /// # Errors
    /// Those of a dump.
    pub fn all_neighbours(
        &self,
        wanted: impl Fn(&Neighbour) -> bool,
    ) -> Result<Vec<Neighbour>, NetlinkError> {
        self.neighbours_where(None, wanted)
    }

    fn neighbours_where(
        &self,
        index: Option<u32>,
        wanted: impl Fn(&Neighbour) -> bool,
    ) -> Result<Vec<Neighbour>, NetlinkError> {
        let object = match index {
            Some(index) => format!("neighbours on {}", Index(index)),
            None => "neighbours".to_owned(),
        };
        let subject = Subject::new("list", &object);
        let mut request = NeighbourMessage::default();
        request.attributes.extend(index.map(NeighbourAttribute::IfIndex));
        self.dump_some(subject, libc::RTM_GETNEIGH, &request, libc::RTM_NEWNEIGH, |bytes| {
            Ok(Neighbour::from_message(NeighbourMessage::parse(bytes)?).filter(&wanted))
        })
    }

    /// Sets a permanent neighbour, whether or not there is an entry.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn set_neighbour(
        &self,
        index: u32,
        address: IpAddr,
        link_address: MacAddress,
    ) -> Result<(), NetlinkError> {
        let object = format!("neighbour {address} on {}", Index(index));
        let mut request = message(index, address);
        request.header.state = WireState::Permanent;
        request.attributes.push(NeighbourAttribute::LinkLayerAddress(link_address.to_vec()));
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.change(Subject::new("set", &object), libc::RTM_NEWNEIGH, flags, &request)
    }

    /// Removes a neighbour entry.
    ///
    /// # Errors
    /// `is_not_found` when there is none.
    pub fn delete_neighbour(&self, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let object = format!("neighbour {address} on {}", Index(index));
        let request = message(index, address);
        self.change(Subject::new("delete", &object), libc::RTM_DELNEIGH, 0, &request)
    }
}

fn message(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    let (family, destination) = match address {
        IpAddr::V4(ip) => (AddressFamily::Inet, NeighbourAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, NeighbourAddress::Inet6(ip)),
    };
    message.header.family = family;
    message.attributes.push(NeighbourAttribute::Destination(destination));
    message
}
