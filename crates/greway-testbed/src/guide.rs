//! The network of the guide: two hosts that want a tunnel, a router between them, and a LAN behind each.
//!
//! ```text
//!   lan1                linux1                 router                 linux2                lan2
//!   eth0 ------------- lan0  wan0 ----------- eth1  eth2 ----------- wan0  lan0 ------------- eth0
//!   10.10.1.100   10.10.1.1  100.0.1.100   100.0.1.1  100.0.2.1   100.0.2.100  10.10.2.1   10.10.2.100
//! ```
//!
//! linux1 and linux2 have a default route to the router and do not forward; the LAN hosts know their own network
//! only, since scenario 1 of the guide rests on that. No tunnel is made here.

use std::net::Ipv4Addr;

use crate::link::{LinkOptions, link};
use crate::{Error, Host};

/// linux1's and linux2's addresses on the way between them.
pub const OUTER: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 0, 1, 100), Ipv4Addr::new(100, 0, 2, 100)];
/// The inner addresses that the guide gives the tunnel's ends.
pub const INNER: [Ipv4Addr; 2] = [Ipv4Addr::new(172, 16, 0, 1), Ipv4Addr::new(172, 16, 0, 2)];
/// The gateways' addresses on their LANs.
pub const GATEWAY: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 10, 1, 1), Ipv4Addr::new(10, 10, 2, 1)];
/// The LAN hosts.
pub const LAN: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 10, 1, 100), Ipv4Addr::new(10, 10, 2, 100)];

/// The five hosts of the guide.
#[derive(Debug)]
pub struct Guide {
    /// Left tunnel end: `wan0` 100.0.1.100/24, `lan0` 10.10.1.1/24.
    pub linux1: Host,
    /// Right tunnel end: `wan0` 100.0.2.100/24, `lan0` 10.10.2.1/24.
    pub linux2: Host,
    /// Between them, forwarding: `eth1` 100.0.1.1/24, `eth2` 100.0.2.1/24.
    pub router: Host,
    /// Behind linux1: `eth0` 10.10.1.100/24.
    pub lan1: Host,
    /// Behind linux2: `eth0` 10.10.2.100/24.
    pub lan2: Host,
}

impl Guide {
    /// Builds it with cables as they come.
    ///
    /// # Errors
    /// The first step that failed; what was built is gone again.
    pub fn build() -> Result<Self, Error> {
        Self::build_with(&LinkOptions::default(), &LinkOptions::default())
    }

    /// Builds it with these cables on the way between linux1 and linux2, and in the LANs.
    ///
    /// # Errors
    /// As [`Guide::build`].
    pub fn build_with(outer: &LinkOptions, lan: &LinkOptions) -> Result<Self, Error> {
        let guide = Self {
            linux1: Host::new("linux1")?,
            linux2: Host::new("linux2")?,
            router: Host::new("router")?,
            lan1: Host::new("lan1")?,
            lan2: Host::new("lan2")?,
        };
        let Self { linux1, linux2, router, lan1, lan2 } = &guide;
        link(linux1, "wan0", router, "eth1", outer)?;
        link(linux2, "wan0", router, "eth2", outer)?;
        link(linux1, "lan0", lan1, "eth0", lan)?;
        link(linux2, "lan0", lan2, "eth0", lan)?;
        for (host, dev, address) in [
            (linux1, "wan0", "100.0.1.100/24"),
            (router, "eth1", "100.0.1.1/24"),
            (router, "eth2", "100.0.2.1/24"),
            (linux2, "wan0", "100.0.2.100/24"),
            (linux1, "lan0", "10.10.1.1/24"),
            (lan1, "eth0", "10.10.1.100/24"),
            (linux2, "lan0", "10.10.2.1/24"),
            (lan2, "eth0", "10.10.2.100/24"),
        ] {
            host.address(dev, address)?;
        }
        linux1.route("default", "via 100.0.1.1")?;
        linux2.route("default", "via 100.0.2.1")?;
        router.forwarding(true)?;
        Ok(guide)
    }

    /// Gives both LAN hosts their gateway as default route, as scenario 2 wants it.
    ///
    /// # Errors
    /// [`Error::Netlink`] when a LAN host has one already.
    pub fn default_routes(&self) -> Result<(), Error> {
        self.lan1.route("default", "via 10.10.1.1")?;
        self.lan2.route("default", "via 10.10.2.1")
    }

    /// All five, in the order of the picture.
    pub fn hosts(&self) -> [&Host; 5] {
        [&self.lan1, &self.linux1, &self.router, &self.linux2, &self.lan2]
    }
}
