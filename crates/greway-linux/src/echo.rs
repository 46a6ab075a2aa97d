//! A raw ICMP or ICMPv6 socket to send with: one address family or the other, a device, a source, a TTL and
//! DF for each socket. What comes back is read elsewhere, where a firewall has not dropped it yet.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto};

/// How packets are sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// The device to leave by.
    pub device: Option<&'a str>,
    /// Source address, one of this host's.
    pub source: Option<IpAddr>,
    /// TTL or hop limit.
    pub ttl: Option<u8>,
    /// DF, whatever path MTU the kernel knows.
    pub dont_fragment: bool,
}

/// A socket that sends ICMP messages and takes none in.
#[derive(Debug)]
pub struct EchoSocket {
    fd: OwnedFd,
}

impl EchoSocket {
    /// Opens a socket for the family of `destination`.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`, `EADDRNOTAVAIL` for a source that is not this host's.
    pub fn open(destination: IpAddr, options: &Options<'_>) -> io::Result<Self> {
        let (family, protocol) = match destination {
            IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
            IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(family, SocketType::RAW, flags, Some(protocol))?;
        crate::sockopt::attach_filter(&fd, &crate::filter::drop_all())?;
        match destination {
            IpAddr::V4(_) => {
                let probe = if options.dont_fragment {
                    Ipv4PathMtuDiscovery::PROBE
                } else {
                    Ipv4PathMtuDiscovery::DONT
                };
                sockopt::set_ip_mtu_discover(&fd, probe)?;
                if let Some(ttl) = options.ttl {
                    sockopt::set_ip_ttl(&fd, ttl.into())?;
                }
            }
            IpAddr::V6(_) => {
                let probe = if options.dont_fragment {
                    Ipv6PathMtuDiscovery::PROBE
                } else {
                    Ipv6PathMtuDiscovery::WANT
                };
                sockopt::set_ipv6_mtu_discover(&fd, probe)?;
                sockopt::set_ipv6_unicast_hops(&fd, options.ttl)?;
            }
        }
        if let Some(device) = options.device {
            crate::sockopt::bind_to_device(&fd, device)?;
        }
        if let Some(source) = options.source {
            rustix::net::bind(&fd, &SocketAddr::new(source, 0))?;
        }
        Ok(Self { fd })
    }

    /// Sends a message; an ICMPv6 checksum is the kernel's to fill in.
    ///
    /// # Errors
    /// What sendto(2) says: `EPERM` for a firewall's refusal, `EMSGSIZE` for what is larger than the device
    /// takes.
    pub fn send(&self, destination: IpAddr, message: &[u8]) -> io::Result<()> {
        let to = SocketAddr::new(destination, 0);
        let send = || rustix::net::sendto(&self.fd, message, SendFlags::empty(), &to);
        // An error that an earlier message earned is told by the next call: one more try tells them apart.
        send().or_else(|_earlier| send())?;
        Ok(())
    }
}
