//! How much the path to a tunnel's remote takes.
//!
//! The kernel knows it: the route's MTU, or what a router's "fragmentation needed" taught it, which it forgets
//! again after some minutes. It is asked once a second while packets are sent that could be too large, and at
//! once when one was refused; nobody is asked while nothing is sent.

use std::io;

use greway_engine::Tunnel;
use greway_linux::raw::RawSocket;

use crate::overlay::ETHERNET;
use crate::underlay::GRE;

/// How long an answer is good, in milliseconds.
const GOOD_FOR_MS: u64 = 1_000;
/// Packets up to this many bytes fit every path that there is in practice; one that does not is refused by the
/// kernel, and it is asked then.
const SMALL: usize = 512;

/// What is known of one tunnel's path.
#[derive(Debug)]
pub(crate) struct PathMtu {
    bytes: u32,
    asked_ms: Option<u64>,
}

impl PathMtu {
    /// Nothing is known: everything fits.
    pub(crate) fn unknown() -> Self {
        Self { bytes: u32::MAX, asked_ms: None }
    }

    /// The path MTU in bytes for a packet of this size.
    pub(crate) fn for_packet(
        &mut self,
        size: usize,
        tunnel: &Tunnel,
        bound_to: Option<u32>,
        now_ms: u64,
    ) -> u32 {
        let stale = self.asked_ms.is_none_or(|asked| now_ms.saturating_sub(asked) >= GOOD_FOR_MS);
        if stale && size > SMALL {
            self.ask(tunnel, bound_to, now_ms);
        }
        self.bytes
    }

    /// What a tunnel whose device takes `device_mtu` bytes brings through, as far as is known.
    pub(crate) fn inside(&self, tunnel: &Tunnel, device_mtu: u32) -> u32 {
        let link = if tunnel.carries_ethernet() { ETHERNET } else { 0 };
        device_mtu.min(self.bytes.saturating_sub((tunnel.overhead() + link) as u32))
    }

    /// Asks now: a packet was refused as too large.
    pub(crate) fn ask(&mut self, tunnel: &Tunnel, bound_to: Option<u32>, now_ms: u64) {
        self.asked_ms = Some(now_ms);
        // Without a route everything is refused by the kernel, and counted as that.
        self.bytes = ask(tunnel, bound_to).unwrap_or(u32::MAX);
    }
}

/// A socket that would send as the tunnel does, so that routes, devices and IPsec policies count; it sends
/// nothing.
fn ask(tunnel: &Tunnel, bound_to: Option<u32>) -> io::Result<u32> {
    let opened = match tunnel.over_ipv6() {
        false => RawSocket::open_ipv4_muted(GRE),
        true => RawSocket::open_ipv6_muted(GRE),
    };
    let socket = opened.map_err(|error| error.source)?;
    if let Some(ifindex) = bound_to {
        socket.bind_to_ifindex(ifindex)?;
    }
    if let Some(local) = tunnel.local() {
        socket.bind(local)?;
    }
    let remote = tunnel.remote().ok_or(io::ErrorKind::AddrNotAvailable)?;
    socket.connect(remote)?;
    socket.path_mtu()
}
