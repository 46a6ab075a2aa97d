//! How much the path to a tunnel's remote takes.
//!
//! The kernel knows it: the route's MTU, or what a router's "fragmentation needed" taught it, which it forgets
//! again after some minutes. It is asked once a second while packets are sent that could be too large, and at
//! once when one was refused; nobody is asked while nothing is sent.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use greway_engine::Tunnel;
use greway_linux::raw::RawSocket;

use crate::overlay::ETHERNET;
use crate::underlay::GRE;

/// How long an answer is good, in milliseconds.
const GOOD_FOR_MS: u64 = 1_000;
/// How long one is good when routers go on to say otherwise. Anybody can make such messages up who knows the tunnel's
/// ends, and a question takes the time of many packets.
const DOUBTED_FOR_MS: u64 = 20;
/// Packets up to this many bytes fit every path that there is in practice; one that does not is refused by the
/// kernel, and it is asked then.
const SMALL: usize = 512;

/// Most endpoints of one tunnel whose paths are remembered; the path of one more is asked for anew.
const MOST_ENDPOINTS: usize = 1_024;

/// Where a tunnel sends to, as far as it decides about the way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// The packet's own far end, in a tunnel without a remote.
    pub(crate) endpoint: Option<IpAddr>,
    /// The device to leave by.
    pub(crate) bound_to: Option<u32>,
    /// The mark that routes are looked up with; 0: none.
    pub(crate) mark: u32,
}

/// What is known of the paths of a tunnel: the one to its remote, or those to the endpoints of its packets.
#[derive(Debug)]
pub(crate) struct Paths {
    own: PathMtu,
    endpoints: HashMap<IpAddr, PathMtu>,
}

impl Paths {
    /// Nothing is known: everything fits.
    pub(crate) fn unknown() -> Self {
        Self { own: PathMtu::unknown(), endpoints: HashMap::new() }
    }

    /// The path to a packet's own endpoint, or to the tunnel's remote.
    pub(crate) fn to(&mut self, endpoint: Option<IpAddr>) -> &mut PathMtu {
        let Some(endpoint) = endpoint else { return &mut self.own };
        if self.endpoints.len() >= MOST_ENDPOINTS && !self.endpoints.contains_key(&endpoint) {
            self.endpoints.clear();
        }
        self.endpoints.entry(endpoint).or_insert_with(PathMtu::unknown)
    }

    /// What a tunnel whose device takes `device_mtu` bytes brings through to an endpoint, as far as is known.
    pub(crate) fn inside(&self, endpoint: Option<IpAddr>, tunnel: &Tunnel, device_mtu: u32) -> u32 {
        let path = match endpoint {
            None => Some(&self.own),
            Some(endpoint) => self.endpoints.get(&endpoint),
        };
        path.map_or(device_mtu, |path| path.inside(tunnel, device_mtu))
    }

    /// What is known of the path to `remote` is not good any longer: ask before the next packet that could be too
    /// large.
    pub(crate) fn ask_again(&mut self, remote: IpAddr, now_ms: u64) {
        self.own.ask_again(now_ms);
        self.endpoints.get_mut(&remote).into_iter().for_each(|path| path.ask_again(now_ms));
    }
}

/// What is known of one path.
#[derive(Debug)]
pub(crate) struct PathMtu {
    bytes: u32,
    asked_ms: Option<u64>,
    /// How long the answer is good, in milliseconds.
    good_for_ms: u64,
    /// When a router's word last made it be asked for.
    doubted_ms: Option<u64>,
}

impl PathMtu {
    /// Nothing is known: everything fits.
    fn unknown() -> Self {
        Self { bytes: u32::MAX, asked_ms: None, good_for_ms: GOOD_FOR_MS, doubted_ms: None }
    }

    /// The path MTU in bytes for a packet of this size.
    pub(crate) fn for_packet(&mut self, size: usize, tunnel: &Tunnel, way: Way, now_ms: u64) -> u32 {
        if self.is_stale(now_ms) && size > SMALL {
            self.ask(tunnel, way, now_ms);
        }
        self.bytes
    }

    fn is_stale(&self, now_ms: u64) -> bool {
        self.asked_ms.is_none_or(|asked| now_ms.saturating_sub(asked) >= self.good_for_ms)
    }

    /// What a tunnel whose device takes `device_mtu` bytes brings through, as far as is known.
    fn inside(&self, tunnel: &Tunnel, device_mtu: u32) -> u32 {
        let link = if tunnel.carries_ethernet() { ETHERNET } else { 0 };
        device_mtu.min(self.bytes.saturating_sub((tunnel.overhead() + link) as u32))
    }

    fn ask_again(&mut self, now_ms: u64) {
        if self.doubted_ms.is_some_and(|doubted| now_ms.saturating_sub(doubted) < DOUBTED_FOR_MS) {
            self.good_for_ms = DOUBTED_FOR_MS;
        } else {
            (self.doubted_ms, self.good_for_ms) = (Some(now_ms), 0);
        }
    }

    /// Asks now: a packet was refused as too large.
    pub(crate) fn ask(&mut self, tunnel: &Tunnel, way: Way, now_ms: u64) {
        (self.asked_ms, self.good_for_ms) = (Some(now_ms), GOOD_FOR_MS);
        // Without a route everything is refused by the kernel, and counted as that.
        self.bytes = ask(tunnel, way).unwrap_or(u32::MAX);
    }
}

/// A socket that would send as the tunnel does, so that routes, devices and IPsec policies count; it sends
/// nothing.
fn ask(tunnel: &Tunnel, way: Way) -> io::Result<u32> {
    let opened = match tunnel.over_ipv6() {
        false => RawSocket::open_ipv4_muted(GRE),
        true => RawSocket::open_ipv6_muted(GRE),
    };
    let socket = opened.map_err(|error| error.source)?;
    if way.mark != 0 {
        socket.set_mark(way.mark)?;
    }
    if let Some(ifindex) = way.bound_to {
        socket.bind_to_ifindex(ifindex)?;
    }
    if let Some(local) = tunnel.local() {
        socket.bind(local)?;
    }
    let remote = tunnel.remote().or(way.endpoint).ok_or(io::ErrorKind::AddrNotAvailable)?;
    socket.connect(remote)?;
    socket.path_mtu()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn er02_a_flood_of_errors_does_not_have_the_path_asked_for_with_each_packet() {
        let mut path = PathMtu::unknown();
        let answered = |path: &mut PathMtu, now_ms| {
            (path.asked_ms, path.good_for_ms) = (Some(now_ms), GOOD_FOR_MS);
        };
        answered(&mut path, 10);
        assert!(!path.is_stale(10 + GOOD_FOR_MS - 1) && path.is_stale(10 + GOOD_FOR_MS));
        path.ask_again(11);
        assert!(path.is_stale(11), "the first is believed at once");
        let mut asked = 0;
        for now_ms in 11..1_011 {
            path.ask_again(now_ms);
            if path.is_stale(now_ms) {
                asked += 1;
                answered(&mut path, now_ms);
            }
        }
        assert!((40..=110).contains(&asked), "{asked}");
        path.ask_again(1_500);
        assert!(path.is_stale(1_500));
    }
}
