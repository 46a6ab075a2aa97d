//! Membership of a multicast group: while it lasts, the host takes what is sent to the group.
//!
//! A socket of its own for each, since the kernel allows a socket twenty (net.ipv4.igmp_max_memberships). Nothing
//! arrives at it: what a raw socket of the same namespace receives is told by the group alone (`IP_MULTICAST_ALL`,
//! ip(7)).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::{abi, sockopt};

/// A membership; dropping it leaves the group.
#[derive(Debug)]
pub struct Membership {
    _socket: OwnedFd,
}

impl Membership {
    /// Joins a group on device `ifindex`; with none, an IPv4 group on the device that has `local`, an IPv6 one where
    /// the route to it leads (`IP_ADD_MEMBERSHIP`, ip(7); `IPV6_JOIN_GROUP`, ipv6(7)).
    ///
    /// # Errors
    ///
    /// `ENODEV` where there is no such device or address; `EINVAL` for an address that is no group.
    pub fn join(group: IpAddr, local: Option<IpAddr>, ifindex: Option<u32>) -> io::Result<Self> {
        let domain = if group.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket_with(domain, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        let ifindex = ifindex.unwrap_or(0);
        match group {
            IpAddr::V4(group) => {
                let local = match local {
                    Some(IpAddr::V4(local)) => local.octets(),
                    _ => [0; 4],
                };
                // `struct ip_mreqn`: group, local address, index; addresses are in network byte order.
                let request = [u32::from_ne_bytes(group.octets()), u32::from_ne_bytes(local), ifindex];
                sockopt::set(socket.as_fd(), abi::SOL_IP, libc::IP_ADD_MEMBERSHIP, &request)?;
            }
            IpAddr::V6(group) => {
                // `struct ipv6_mreq`: group, index.
                let mut request = [0_u32; 5];
                for (word, bytes) in request.iter_mut().zip(group.octets().chunks_exact(4)) {
                    *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                }
                request[4] = ifindex;
                sockopt::set(socket.as_fd(), abi::SOL_IPV6, libc::IPV6_ADD_MEMBERSHIP, &request)?;
            }
        }
        Ok(Self { _socket: socket })
    }
}
