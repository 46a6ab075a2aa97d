//! What the demo needs from a world in which the guide's five hosts live.
//!
//! The scenarios are written once against [`World`]; the kernel's world and the simulated one differ only
//! in who moves the packets between the hosts. A world reports what happened and judges nothing: which
//! outcome is the right one is known to the script alone.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;

/// A host of the guide's topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum HostName {
    /// 10.10.1.100, on the LAN behind linux1.
    Lan1,
    /// 100.0.1.100 outside, 10.10.1.1 on its LAN.
    Linux1,
    /// 100.0.1.1 and 100.0.2.1: the network between.
    Router,
    /// 100.0.2.100 outside, 10.10.2.1 on its LAN.
    Linux2,
    /// 10.10.2.100, on the LAN behind linux2.
    Lan2,
}

impl HostName {
    /// All hosts, from the left of the picture to the right.
    pub(super) const ALL: [Self; 5] = [Self::Lan1, Self::Linux1, Self::Router, Self::Linux2, Self::Lan2];

    /// The name in the picture.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Lan1 => "lan1",
            Self::Linux1 => "linux1",
            Self::Router => "router",
            Self::Linux2 => "linux2",
            Self::Lan2 => "lan2",
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A place where packets are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tap {
    /// linux2's outer device: what the network between the hosts carries.
    Underlay,
    /// linux2's tun0: what comes out of the tunnel.
    Tunnel,
    /// lan2's only device.
    Lan,
}

impl Tap {
    /// Host and device, as a person would name the place.
    pub(super) fn place(self) -> &'static str {
        match self {
            Self::Underlay => "linux2's outer device",
            Self::Tunnel => "linux2's tun0",
            Self::Lan => "lan2",
        }
    }
}

/// A packet that a tap saw, from its IPv4 header on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    /// Where.
    pub(super) tap: Tap,
    /// The packet's bytes, without a link header.
    pub(super) packet: Vec<u8>,
}

/// What became of one echo request.
#[derive(Clone, Debug)]
pub(super) struct Ping {
    /// The time until the reply; `None`: none came before the world's patience ended.
    pub(super) reply: Option<Duration>,
    /// What the taps saw meanwhile, in order for each tap.
    pub(super) seen: Vec<Sighting>,
}

/// What became of a bulk TCP transfer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    /// Bytes that arrived.
    pub(super) bytes: u64,
    /// From the first byte sent to the last one received.
    pub(super) elapsed: Duration,
    /// What arrived is what was sent, byte for byte.
    pub(super) intact: bool,
}

/// A file that describes one end of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TunnelFile {
    /// Its name without a folder; the name decides the dialect, as it does for `greway up`.
    pub(super) name: &'static str,
    /// Its text.
    pub(super) text: String,
}

/// Where a route of the demo leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Into the tunnel.
    Tunnel,
    /// To a gateway on the host's own LAN.
    Via(Ipv4Addr),
}

/// A route of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// Destination network.
    pub(super) network: Ipv4Addr,
    /// Its prefix length in bits.
    pub(super) length: u8,
    /// Where it leads.
    pub(super) next: Next,
}

impl Way {
    /// The destination as text.
    pub(super) fn destination(&self) -> String {
        format!("{}/{}", self.network, self.length)
    }
}

impl fmt::Display for Way {
    /// In the words of `ip route`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.destination(), self.next)
    }
}

impl fmt::Display for Next {
    /// In the words of `ip route`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tunnel => f.write_str("dev tun0"),
            Self::Via(gateway) => write!(f, "via {gateway}"),
        }
    }
}

/// What `greway up` printed.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    /// What it did, line by line.
    pub(super) actions: Vec<String>,
    /// What the user should know.
    pub(super) notes: Vec<String>,
}

/// What `greway status` says about tun0 on one host.
#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    /// The verdict and what belongs to it, one line each.
    pub(super) lines: Vec<String>,
    /// The verdict is that the tunnel carries packets in both directions.
    pub(super) up: bool,
}

/// One thing that must not be left when the demo is over.
#[derive(Clone, Debug)]
pub(super) struct Leftover {
    /// What was looked for.
    pub(super) what: String,
    /// It is gone.
    pub(super) gone: bool,
    /// What is left, or more about it.
    pub(super) detail: String,
}

/// The guide's topology, brought to life. It starts with all five hosts connected, forwarding off on linux1 and
/// linux2, no tunnel, and on the LAN hosts no route beyond their own LAN.
pub(super) trait World {
    /// `greway up FILE` on linux1 or linux2.
    fn up(&mut self, host: HostName, file: &TunnelFile) -> Result<Said>;

    /// `greway down tun0` on linux1 or linux2.
    fn down(&mut self, host: HostName) -> Result<()>;

    /// `sysctl net.ipv4.ip_forward=1`, as the administrator of a gateway would.
    fn forward(&mut self, host: HostName) -> Result<()>;

    /// Adds a route.
    fn route_add(&mut self, host: HostName, way: Way) -> Result<()>;

    /// Removes a route; one that went away with its device is no error.
    fn route_del(&mut self, host: HostName, way: Way) -> Result<()>;

    /// Sends one echo request and waits for the reply, with taps open meanwhile.
    fn ping(&mut self, from: HostName, to: Ipv4Addr, taps: &[Tap]) -> Result<Ping>;

    /// Sends bytes from one host to another over TCP.
    fn transfer(&mut self, from: HostName, to: HostName, bytes: u64) -> Result<Transfer>;

    /// `greway status tun0` on linux1 or linux2.
    fn status(&mut self, host: HostName) -> Result<Status>;

    /// Takes everything down and looks for what is left.
    fn remove(&mut self) -> Result<Vec<Leftover>>;
}
