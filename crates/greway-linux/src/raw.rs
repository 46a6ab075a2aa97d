//! Raw sockets of either address family: one IP protocol, through the host's firewall and its IPsec
//! policies.
//!
//! The kernel writes the outer header; we never ask for `IP_HDRINCL`, because such packets are sent past
//! a policy for the protocol. Received packets are whole, after reassembly and after INPUT. From an IPv4
//! socket they begin with their IPv4 header; from an IPv6 socket the header and its extensions are gone,
//! and what was in them is in [`crate::batch::Meta`] (ipv6(7)).
//!
//! While a raw socket for a protocol is open the kernel answers no "protocol unreachable" for it (for
//! IPv6: no "unrecognized next header"). One that only has to be there takes
//! [`crate::filter::drop_all`]: a full buffer would bring the answers back.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use crate::abi::{self, OpenError, Step as _};
pub use crate::error_queue::{IcmpError, Origin};
use crate::filter::Instruction;
use crate::sockopt;

/// A non-blocking raw socket of one protocol, closed on exec.
#[derive(Debug)]
pub struct RawSocket {
    fd: OwnedFd,
    family: Family,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Ipv4,
    Ipv6,
}

/// Of scope 0, which is reserved: nothing is sent to it (RFC 7346 §2).
const NOBODYS_GROUP: Ipv6Addr = Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0x2f);

/// What a socket does about the path MTU (`IP_MTU_DISCOVER`, ip(7); `IPV6_MTU_DISCOVER`, ipv6(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtuDiscovery {
    /// Never set DF; IPv6: fragment what is larger than the device takes, whatever path MTU is known.
    Dont,
    /// Set DF where the packet fits the known path MTU, fragment otherwise.
    Want,
    /// Always set DF; `EMSGSIZE` for what is larger than the path MTU.
    Do,
    /// Always set DF, and do not ask the path MTU.
    Probe,
}

impl RawSocket {
    /// Opens a socket for an IPv4 protocol (47 is GRE, 1 is ICMP). Local source address and device
    /// of received packets are reported (`IP_PKTINFO`) and errors are queued (`IP_RECVERR`).
    ///
    /// # Errors
    ///
    /// [`OpenError`]: `EPERM` without `CAP_NET_RAW`.
    pub fn open_ipv4(protocol: u8) -> Result<Self, OpenError> {
        Self::open(Family::Ipv4, protocol, None)?.with_errors()
    }

    /// Opens a socket that takes nothing in: it holds the protocol open and can send.
    ///
    /// # Errors
    ///
    /// As [`RawSocket::open_ipv4`].
    pub fn open_ipv4_muted(protocol: u8) -> Result<Self, OpenError> {
        Self::open(Family::Ipv4, protocol, Some(&crate::filter::drop_all()))?.with_errors()
    }

    /// Opens a receiving socket of several that share the packets, each by a filter of its own
    /// ([`crate::flow::raw_share`]). What came before the filter was there, the others' as well, is gone on return.
    ///
    /// # Errors
    ///
    /// As [`RawSocket::open_ipv4`].
    pub fn open_ipv4_share(protocol: u8, share: &[Instruction]) -> Result<Self, OpenError> {
        Self::open_unheard(Family::Ipv4, protocol)?.with_errors()?.emptied()?.hear(Some(share))
    }

    /// The same over IPv6.
    ///
    /// # Errors
    ///
    /// As [`RawSocket::open_ipv6`].
    pub fn open_ipv6_share(protocol: u8, share: &[Instruction]) -> Result<Self, OpenError> {
        Self::open_unheard(Family::Ipv6, protocol)?.with_errors()?.emptied()?.hear(Some(share))
    }

    /// Opens a socket for an IPv6 protocol. Destination, device, hop limit and traffic class of received
    /// packets are reported (`IPV6_RECVPKTINFO`, `IPV6_RECVHOPLIMIT`, `IPV6_RECVTCLASS`) and errors are
    /// queued (`IPV6_RECVERR`).
    ///
    /// # Errors
    ///
    /// [`OpenError`]: `EPERM` without `CAP_NET_RAW`, `EAFNOSUPPORT` on a host without IPv6.
    pub fn open_ipv6(protocol: u8) -> Result<Self, OpenError> {
        Self::open(Family::Ipv6, protocol, None)?.with_errors()
    }

    /// Opens an IPv6 socket that takes nothing in: it holds the protocol open and can send.
    ///
    /// # Errors
    ///
    /// As [`RawSocket::open_ipv6`].
    pub fn open_ipv6_muted(protocol: u8) -> Result<Self, OpenError> {
        Self::open(Family::Ipv6, protocol, Some(&crate::filter::drop_all()))?.with_errors()
    }

    /// Opens a socket for ICMP messages of these types (0 to 31; none: it only sends) that `filter`
    /// accepts, see [`crate::filter::icmp_about`]. The filter sees the packet from its IPv4 header on.
    /// What is sent needs its checksum. No errors are queued.
    ///
    /// # Errors
    ///
    /// As [`RawSocket::open_ipv4`], and `EINVAL` for a type that the kernel cannot filter.
    pub fn open_icmp(types: &[u8], filter: Option<&[Instruction]>) -> Result<Self, OpenError> {
        let mut refused = u32::MAX;
        for kind in types {
            let Some(bit) = 1u32.checked_shl(u32::from(*kind)) else {
                let source = io::Error::from_raw_os_error(libc::EINVAL);
                return Err(OpenError { step: "ICMP_FILTER", source });
            };
            refused &= !bit;
        }
        let socket = Self::open_unheard(Family::Ipv4, ICMP)?;
        sockopt::set(socket.as_fd(), abi::SOL_RAW, abi::ICMP_FILTER, &refused).step("ICMP_FILTER")?;
        socket.hear(filter)
    }

    /// Opens a socket for ICMPv6 messages of these types (none: it only sends) that `filter` accepts, see
    /// [`crate::filter::icmpv6_about`]. The filter sees the packet from its ICMPv6 header on. The kernel
    /// verifies and fills in checksums. No errors are queued.
    ///
    /// # Errors
    ///
    /// As [`RawSocket::open_ipv6`].
    pub fn open_icmpv6(types: &[u8], filter: Option<&[Instruction]>) -> Result<Self, OpenError> {
        let mut refused = [u32::MAX; 8];
        for kind in types {
            refused[usize::from(kind >> 5)] &= !(1 << (kind & 31));
        }
        let socket = Self::open_unheard(Family::Ipv6, ICMPV6)?;
        sockopt::set(socket.as_fd(), abi::SOL_ICMPV6, abi::ICMPV6_FILTER, &refused).step("ICMPV6_FILTER")?;
        socket.hear(filter)
    }

    fn open(family: Family, protocol: u8, filter: Option<&[Instruction]>) -> Result<Self, OpenError> {
        let (domain, step) = match family {
            Family::Ipv4 => (AddressFamily::INET, "socket(AF_INET, SOCK_RAW)"),
            Family::Ipv6 => (AddressFamily::INET6, "socket(AF_INET6, SOCK_RAW)"),
        };
        let protocol = std::num::NonZeroU32::new(u32::from(protocol)).map(rustix::net::Protocol::from_raw);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(domain, SocketType::RAW, flags, protocol).step(step)?;
        let socket = Self { fd, family };
        if let Some(program) = filter {
            sockopt::attach_filter(&socket, program).step("SO_ATTACH_FILTER")?;
        }
        match family {
            Family::Ipv4 => socket.set_ip(abi::IP_PKTINFO, 1).step("IP_PKTINFO")?,
            Family::Ipv6 => {
                socket.set_ip(abi::IPV6_RECVPKTINFO, 1).step("IPV6_RECVPKTINFO")?;
                socket.set_ip(abi::IPV6_RECVHOPLIMIT, 1).step("IPV6_RECVHOPLIMIT")?;
                socket.set_ip(abi::IPV6_RECVTCLASS, 1).step("IPV6_RECVTCLASS")?;
            }
        }
        Ok(socket)
    }

    fn with_errors(self) -> Result<Self, OpenError> {
        let step = match self.family {
            Family::Ipv4 => "IP_RECVERR",
            Family::Ipv6 => "IPV6_RECVERR",
        };
        self.set_error_queue(true).step(step)?;
        Ok(self)
    }

    /// A socket that nothing gets into before [`RawSocket::hear`].
    fn open_unheard(family: Family, protocol: u8) -> Result<Self, OpenError> {
        Self::open(family, protocol, Some(&crate::filter::drop_all()))
    }

    /// A raw socket hears from the moment it is made, before it can have any filter.
    fn emptied(self) -> Result<Self, OpenError> {
        loop {
            match rustix::net::recv(&self.fd, &mut [0_u8; 1], RecvFlags::TRUNC) {
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(self),
                Err(error) => return Err(OpenError { step: "recv", source: error.into() }),
            }
        }
    }

    fn hear(self, filter: Option<&[Instruction]>) -> Result<Self, OpenError> {
        match filter {
            Some(program) => self.set_filter(program).step("SO_ATTACH_FILTER")?,
            None => sockopt::detach_filter(&self).step("SO_DETACH_FILTER")?,
        }
        Ok(self)
    }

    /// Replaces the filter. The packet that it sees begins with the IPv4 header; on an IPv6 socket it
    /// begins behind the last header of IPv6, and offsets from `SKF_NET_OFF` reach the first one.
    ///
    /// # Errors
    ///
    /// What setsockopt(2) says.
    pub fn set_filter(&self, program: &[Instruction]) -> io::Result<()> {
        sockopt::attach_filter(self, program)
    }

    /// Sets what to do about the path MTU, and with it DF, for everything sent from here.
    ///
    /// # Errors
    ///
    /// What setsockopt(2) says.
    pub fn set_mtu_discovery(&self, discovery: MtuDiscovery) -> io::Result<()> {
        let value = match discovery {
            MtuDiscovery::Dont => 0,
            MtuDiscovery::Want => 1,
            MtuDiscovery::Do => 2,
            MtuDiscovery::Probe => 3,
        };
        self.set_ip(self.option(abi::IP_MTU_DISCOVER, abi::IPV6_MTU_DISCOVER), value)
    }

    /// Whether ICMP errors are queued. With them off the kernel says nothing of them.
    ///
    /// # Errors
    ///
    /// What setsockopt(2) says.
    pub fn set_error_queue(&self, on: bool) -> io::Result<()> {
        self.set_ip(self.option(abi::IP_RECVERR, abi::IPV6_RECVERR), i32::from(on))
    }

    /// Whether what is sent to a multicast group comes back to members on this host (`IP_MULTICAST_LOOP`, ip(7);
    /// `IPV6_MULTICAST_LOOP`, ipv6(7)).
    ///
    /// # Errors
    ///
    /// What setsockopt(2) says.
    pub fn set_multicast_loop(&self, on: bool) -> io::Result<()> {
        self.set_ip(self.option(libc::IP_MULTICAST_LOOP, libc::IPV6_MULTICAST_LOOP), i32::from(on))
    }

    /// Marks what is sent, see [`sockopt::set_mark`].
    ///
    /// # Errors
    ///
    /// What setsockopt(2) says.
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        sockopt::set_mark(self, mark)
    }

    /// Ties the socket to a device, see [`sockopt::bind_to_device`].
    ///
    /// # Errors
    ///
    /// What setsockopt(2) says.
    pub fn bind_to_device(&self, name: &str) -> io::Result<()> {
        sockopt::bind_to_device(self, name)
    }

    /// Takes only what is sent to `address`, and sends from it. A link-local IPv6 address is one of the
    /// device that the socket was tied to before.
    ///
    /// # Errors
    ///
    /// `EADDRNOTAVAIL` when the address is not on this host, `EINVAL` for a link-local one without a device
    /// and for an address of the other family.
    pub fn bind(&self, address: impl Into<IpAddr>) -> io::Result<()> {
        Ok(rustix::net::bind(&self.fd, &SocketAddr::new(address.into(), 0))?)
    }

    /// Has a socket that only sends not even be asked about what arrives. The kernel makes a copy of each packet for
    /// each raw socket of its protocol before it runs the filter; for one that is bound to an address that nobody sends
    /// to it makes none. To send, a socket that is bound to a group or to the broadcast address is bound to nothing
    /// (linux net/ipv4/raw.c v6.18, `raw_bind`: "Use device"; net/ipv6/raw.c, `rawv6_bind`). It keeps no
    /// "protocol unreachable" away.
    ///
    /// # Errors
    ///
    /// What bind(2) says.
    pub fn hear_nothing(&self) -> io::Result<()> {
        match self.family {
            Family::Ipv4 => self.bind(Ipv4Addr::BROADCAST),
            Family::Ipv6 => self.bind(NOBODYS_GROUP),
        }
    }

    /// Ties the socket to a device by index (`SO_BINDTOIFINDEX`); 0 unties it.
    ///
    /// # Errors
    ///
    /// `ENODEV` when there is no such device.
    pub fn bind_to_ifindex(&self, ifindex: u32) -> io::Result<()> {
        sockopt::set(self.as_fd(), libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, &ifindex)
    }

    /// Sends to this address only, and looks up the route to it now (connect(2)). Nothing is sent. A
    /// link-local IPv6 address is one of the device that the socket was tied to before.
    ///
    /// # Errors
    ///
    /// `ENETUNREACH` where there is no route, `EINVAL` for a link-local address without a device.
    pub fn connect(&self, address: impl Into<IpAddr>) -> io::Result<()> {
        Ok(rustix::net::connect(&self.fd, &SocketAddr::new(address.into(), 0))?)
    }

    /// The path MTU in bytes to the address that the socket is connected to, as the kernel knows it now:
    /// the route's, or what ICMP taught it (`IP_MTU`, ip(7); `IPV6_MTU`, ipv6(7)).
    ///
    /// # Errors
    ///
    /// `ENOTCONN` for a socket that is not connected.
    pub fn path_mtu(&self) -> io::Result<u32> {
        sockopt::read::<u32>(self.as_fd(), self.level(), self.option(libc::IP_MTU, abi::IPV6_MTU))
    }

    /// Sets the buffers in bytes; past the system's limit where the caller may.
    ///
    /// # Errors
    ///
    /// What setsockopt(2) says.
    pub fn set_buffers(&self, receive: usize, send: usize) -> io::Result<()> {
        sockopt::set_receive_buffer(self, receive)?;
        sockopt::set_send_buffer(self, send)?;
        Ok(())
    }

    /// Takes one error off the error queue, and as much of the packet it is about as `quote` holds:
    /// what the ICMP message quoted from behind the IP header. `None` when the queue is empty.
    ///
    /// # Errors
    ///
    /// What recvmsg(2) says.
    pub fn error_queue(&self, quote: &mut [u8]) -> io::Result<Option<IcmpError>> {
        crate::error_queue::take(self.as_fd(), quote)
    }

    fn level(&self) -> i32 {
        self.option(abi::SOL_IP, abi::SOL_IPV6)
    }

    fn option(&self, ipv4: i32, ipv6: i32) -> i32 {
        match self.family {
            Family::Ipv4 => ipv4,
            Family::Ipv6 => ipv6,
        }
    }

    fn set_ip(&self, option: i32, value: i32) -> io::Result<()> {
        sockopt::set(self.as_fd(), self.level(), option, &value)
    }
}

impl AsFd for RawSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<RawSocket> for OwnedFd {
    fn from(socket: RawSocket) -> Self {
        socket.fd
    }
}

// IP protocol numbers.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
