//! Notifications: what changed in the namespace since we last looked.
//!
//! An event says that something changed, not what the state is now: between the notification and its
//! reading more may have happened, so readers look again. Notifications are read with our own attribute
//! reader, because one that a library cannot decode must still wake us.
//!
//! Up to three sockets, one a netlink family, stand behind one epoll descriptor.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM};
use rustix::event::epoll;

use crate::error::NetlinkError;
use crate::netconf;
use crate::nla::Attributes;
use crate::socket::{ListenSocket, Message, Messages};

/// RTNLGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE, IPV4_NETCONF
/// (include/uapi/linux/rtnetlink.h).
const ROUTE_GROUPS: [u32; 8] = [1, 5, 7, 8, 9, 11, 19, 24];
/// RTNLGRP_NEIGH.
const NEIGHBOUR_GROUP: u32 = 3;
/// NFNLGRP_NFTABLES (include/uapi/linux/netfilter/nfnetlink.h).
const NFTABLES_GROUP: u32 = 7;
/// XFRMNLGRP_POLICY (include/uapi/linux/xfrm.h).
const XFRM_POLICY_GROUP: u32 = 4;
/// A thousand routes can arrive between two looks.
const RECEIVE_BUFFER: u32 = 1 << 20;

const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;
const NDMSG: usize = 12;
const NDA_DST: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// Something changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A link appeared or one of its properties changed.
    LinkChanged {
        /// Interface index.
        index: u32,
        /// Its name now.
        name: String,
        /// Its MTU in bytes now, where that is told.
        mtu: Option<u32>,
        /// Administratively up.
        up: bool,
        /// It has a carrier.
        running: bool,
    },
    /// A link is gone, deleted or moved to another namespace.
    LinkRemoved {
        /// Interface index.
        index: u32,
        /// The name it had.
        name: String,
    },
    /// An address came or went, or changed its state.
    Address {
        /// The link it is on.
        index: u32,
        /// The local address.
        address: IpAddr,
        /// `false` when it went.
        added: bool,
    },
    /// A neighbour came or went, or changed its state or its hardware address.
    Neighbour {
        /// The link it is on.
        index: u32,
        /// Its address.
        address: IpAddr,
    },
    /// One or more routes changed.
    Route,
    /// One or more policy routing rules changed.
    Rule,
    /// The reverse path filter of a link (`rp_filter`) changed, or the link is new.
    ReversePathFilter {
        /// Interface index; none of a link where it is the filter for all.
        index: u32,
    },
    /// The nf_tables ruleset changed. Legacy xtables changes tell nobody.
    Firewall,
    /// An xfrm policy changed.
    Xfrm,
    /// Notifications were lost: look at everything again.
    Overrun,
}

/// What to listen to beside links, addresses, routes and rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sources {
    /// nf_tables.
    pub firewall: bool,
    /// xfrm policies; needs `CAP_NET_ADMIN`.
    pub xfrm: bool,
    /// Neighbours: on a large link there is always something new of them.
    pub neighbours: bool,
}

/// A subscription to the changes of one network namespace.
#[derive(Debug)]
pub struct Monitor {
    epoll: OwnedFd,
    sockets: Vec<(Kind, ListenSocket)>,
    neighbours: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Route,
    Firewall,
    Xfrm,
}

impl Monitor {
    /// Subscribes in the calling thread's network namespace. What happens from here on is reported, so
    /// subscribe first and look after. A source that this kernel does not have is left out (see
    /// [`Monitor::sources`]): nothing can change there.
    ///
    /// # Errors
    /// [`NetlinkError::Open`]; `is_permission` for xfrm without the capability.
    pub fn open(sources: Sources) -> Result<Self, NetlinkError> {
        let mut groups = ROUTE_GROUPS.to_vec();
        groups.extend(sources.neighbours.then_some(NEIGHBOUR_GROUP));
        let route = ListenSocket::open(NETLINK_ROUTE, "route", &groups, RECEIVE_BUFFER)?;
        let mut sockets = vec![(Kind::Route, route)];
        let optional = [
            (sources.firewall, Kind::Firewall, NETLINK_NETFILTER, "netfilter", NFTABLES_GROUP),
            (sources.xfrm, Kind::Xfrm, NETLINK_XFRM, "xfrm", XFRM_POLICY_GROUP),
        ];
        for (_, kind, protocol, family, group) in optional.into_iter().filter(|(wanted, ..)| *wanted) {
            match ListenSocket::open(protocol, family, &[group], RECEIVE_BUFFER) {
                Ok(socket) => sockets.push((kind, socket)),
                Err(error) if error.is_unsupported() => {
                    tracing::debug!(family, %error, "this kernel has nothing to watch here");
                }
                Err(error) => return Err(error),
            }
        }
        let epoll = watch(&sockets).map_err(|source| NetlinkError::Open { family: "monitor", source })?;
        Ok(Self { epoll, sockets, neighbours: sources.neighbours })
    }

    /// What is listened to beside links, addresses, routes and rules.
    pub fn sources(&self) -> Sources {
        let has = |wanted| self.sockets.iter().any(|(kind, _)| *kind == wanted);
        Sources { firewall: has(Kind::Firewall), xfrm: has(Kind::Xfrm), neighbours: self.neighbours }
    }

    /// All events so far, without waiting. Runs of `Route`, `Rule`, `Firewall`, `Xfrm` and `Overrun` are told once.
    ///
    /// # Errors
    /// The socket's, apart from lost notifications, which are an [`Event::Overrun`].
    pub fn drain(&self) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        for (kind, socket) in &self.sockets {
            loop {
                match socket.receive() {
                    Ok(datagram) => {
                        for event in Messages::new(&datagram).filter_map(|message| kind.event(&message)) {
                            push(&mut events, event);
                        }
                    }
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                        push(&mut events, Event::Overrun);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(events)
    }
}

/// Readable when [`Monitor::drain`] has something.
impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

fn watch(sockets: &[(Kind, ListenSocket)]) -> io::Result<OwnedFd> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (_, socket) in sockets {
        epoll::add(&epoll, socket, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    }
    Ok(epoll)
}

fn push(events: &mut Vec<Event>, event: Event) {
    if events.last() != Some(&event) {
        events.push(event);
    }
}

impl Kind {
    fn event(self, message: &Message<'_>) -> Option<Event> {
        match self {
            Self::Route => route_event(message),
            Self::Firewall => Some(Event::Firewall),
            Self::Xfrm => Some(Event::Xfrm),
        }
    }
}

fn route_event(message: &Message<'_>) -> Option<Event> {
    match message.kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => link_event(message),
        libc::RTM_NEWADDR | libc::RTM_DELADDR => address_event(message),
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => neighbour_event(message),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => Some(Event::Route),
        libc::RTM_NEWRULE | libc::RTM_DELRULE => Some(Event::Rule),
        netconf::RTM_NEWNETCONF => {
            let (index, _) = netconf::parse(message.payload)?;
            Some(Event::ReversePathFilter { index: index.cast_unsigned() })
        }
        _ => None,
    }
}

fn link_event(message: &Message<'_>) -> Option<Event> {
    let header = message.payload.first_chunk::<IFINFOMSG>()?;
    // A port leaving a bridge is an RTM_DELLINK of family AF_BRIDGE; the link lives on.
    if header[0] != 0 {
        return None;
    }
    let [.., i0, i1, i2, i3, f0, f1, f2, f3, _, _, _, _] = *header;
    let index = u32::from_ne_bytes([i0, i1, i2, i3]);
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let attributes = Attributes::new(&message.payload[IFINFOMSG..]);
    let name = attributes.find(IFLA_IFNAME)?.string();
    if message.kind == libc::RTM_DELLINK {
        return Some(Event::LinkRemoved { index, name });
    }
    let (up, running) = (flags & libc::IFF_UP as u32 != 0, flags & libc::IFF_LOWER_UP as u32 != 0);
    let mtu = attributes.find(IFLA_MTU).and_then(|mtu| mtu.value.first_chunk().copied());
    let mtu = mtu.map(u32::from_ne_bytes);
    Some(Event::LinkChanged { index, name, mtu, up, running })
}

fn address_event(message: &Message<'_>) -> Option<Event> {
    let header = message.payload.first_chunk::<IFADDRMSG>()?;
    let index = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
    let attributes = Attributes::new(&message.payload[IFADDRMSG..]);
    let value = attributes.find(IFA_LOCAL).or_else(|| attributes.find(IFA_ADDRESS))?.value;
    let address = address(value)?;
    Some(Event::Address { index, address, added: message.kind == libc::RTM_NEWADDR })
}

fn neighbour_event(message: &Message<'_>) -> Option<Event> {
    let header = message.payload.first_chunk::<NDMSG>()?;
    // Entries of bridges' tables are of family AF_BRIDGE and have no address.
    let index = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
    let address = address(Attributes::new(&message.payload[NDMSG..]).find(NDA_DST)?.value)?;
    Some(Event::Neighbour { index, address })
}

fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(IpAddr::from(*value.first_chunk::<4>()?)),
        16 => Some(IpAddr::from(*value.first_chunk::<16>()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nla::NlaWriter;

    fn link_message(family: u8) -> Vec<u8> {
        let mut header = [0; IFINFOMSG];
        header[0] = family;
        header[4..8].copy_from_slice(&5_u32.to_ne_bytes());
        header[8..12].copy_from_slice(&(libc::IFF_UP as u32).to_ne_bytes());
        let mut writer = NlaWriter::after(&header);
        writer.put_string(IFLA_IFNAME, "tun0");
        writer.into_bytes()
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_removed() {
        let removal = |payload| Message { kind: libc::RTM_DELLINK, flags: 0, sequence: 0, payload };
        let event = Event::LinkRemoved { index: 5, name: "tun0".to_owned() };
        let (link, port) = (link_message(0), link_message(libc::AF_BRIDGE as u8));
        assert_eq!(route_event(&removal(&link)), Some(event));
        assert_eq!(route_event(&removal(&port)), None);
    }

    #[test]
    fn noise_is_no_event() {
        let good = link_message(0);
        for kind in [libc::RTM_NEWLINK, libc::RTM_NEWADDR, 999] {
            for length in 0..good.len() - 4 {
                let message = Message { kind, flags: 0, sequence: 0, payload: &good[..length] };
                if length < IFINFOMSG {
                    assert_eq!(route_event(&message), None, "type {kind}, {length} bytes");
                }
            }
        }
    }

    #[test]
    fn repeats_are_told_once() {
        let mut events = Vec::new();
        for event in [Event::Route, Event::Route, Event::Rule, Event::Route] {
            push(&mut events, event);
        }
        assert_eq!(events, [Event::Route, Event::Rule, Event::Route]);
    }
}
