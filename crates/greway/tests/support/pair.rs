//! Two hosts on one cable with a greway on each and tun0 between them: the smallest place in which the data plane
//! can be watched from both ends.
//!
//! ```text
//!   left   wan0 10.0.0.1/24 ---------------- 10.0.0.2/24 wan0   right
//!   tun0   172.16.0.1, fd00::1                172.16.0.2, fd00::2   tun0
//! ```

#![allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "helpers of tests, not all used by each")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use greway_linux::MacAddr;
use greway_testbed::impair::Middle;
use greway_testbed::tcp::{TransferReport, transfer};
use greway_testbed::{
    Capture, CapturedPacket, Host, LinkOptions, PingOptions, PingReport, link, offloads, ping, poll_until,
};
use serde_json::Value;

use super::support::{Daemon, Node, SOON};

/// The outer addresses of left and right.
pub const OUTER: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
/// The inner addresses of left and right.
pub const INNER: [Ipv4Addr; 2] = [Ipv4Addr::new(172, 16, 0, 1), Ipv4Addr::new(172, 16, 0, 2)];

/// The two hosts. Fields drop in this order: daemons before the hosts they run in.
pub struct Pair {
    pub daemons: [Option<Daemon>; 2],
    pub nodes: [Node; 2],
    /// What is between them, where it is not one cable.
    pub middle: Option<Middle>,
    pub left: Host,
    pub right: Host,
}

impl Pair {
    /// Two hosts with the cable and running daemons, IPv6 off unless asked for, no tunnel.
    pub fn bare(cable: &LinkOptions) -> Self {
        Self::bare_with(cable, &[])
    }

    /// The same with variables in the environment of both daemons.
    pub fn bare_with(cable: &LinkOptions, environment: &[(&str, &str)]) -> Self {
        Self::laid(cable, false, environment)
    }

    /// The same with a host in the middle that can damage what it passes on.
    pub fn impaired(cable: &LinkOptions, environment: &[(&str, &str)]) -> Self {
        Self::laid(cable, true, environment)
    }

    fn laid(cable: &LinkOptions, apart: bool, environment: &[(&str, &str)]) -> Self {
        let [left, right] = ["left", "right"].map(|name| Host::new(name).unwrap());
        for host in [&left, &right] {
            // Nothing but what a test sends is to be counted.
            for scope in ["all", "default"] {
                host.sysctl(&format!("ipv6/conf/{scope}/disable_ipv6"), "1").unwrap();
                host.sysctl(&format!("ipv4/conf/{scope}/rp_filter"), "0").unwrap();
            }
        }
        let ends = [(&left, "wan0"), (&right, "wan0")];
        let middle = apart.then(|| Middle::lay(ends[0], ends[1], cable).unwrap());
        if middle.is_none() {
            link(&left, "wan0", &right, "wan0", cable).unwrap();
        }
        left.address("wan0", &format!("{}/24", OUTER[0])).unwrap();
        right.address("wan0", &format!("{}/24", OUTER[1])).unwrap();
        let nodes = [Node::new(&left), Node::new(&right)];
        let daemons = [0, 1].map(|node: usize| Some(nodes[node].daemon_with(environment)));
        Self { daemons, nodes, middle, left, right }
    }

    /// The same with tun0 on both, made with these words.
    pub fn with(cable: &LinkOptions, words: &str) -> Self {
        let pair = Self::bare(cable);
        pair.lay_tun0(words);
        pair
    }

    /// Adds tun0 on both ends, with its addresses.
    pub fn lay_tun0(&self, words: &str) {
        self.add("tun0", words);
        self.left.address("tun0", &format!("{} peer {}/30", INNER[0], INNER[1])).unwrap();
        self.right.address("tun0", &format!("{} peer {}/30", INNER[1], INNER[0])).unwrap();
    }

    /// A pair on an ordinary cable.
    pub fn new(words: &str) -> Self {
        Self::with(&LinkOptions::default(), words)
    }

    /// Adds a tunnel on both ends.
    pub fn add(&self, name: &str, words: &str) {
        for (node, here, there) in [(&self.nodes[0], 0, 1), (&self.nodes[1], 1, 0)] {
            let (local, remote) = (OUTER[here], OUTER[there]);
            node.words(&format!("tunnel add {name} mode gre local {local} remote {remote} {words}")).ok();
        }
    }

    /// Changes tun0 on both ends.
    pub fn change(&self, words: &str) {
        for node in &self.nodes {
            node.words(&format!("tunnel change tun0 {words}")).ok();
        }
    }

    /// Turns IPv6 on in both hosts and gives tun0 IPv6 addresses.
    pub fn ipv6(&self) {
        for (host, address) in [(&self.left, "fd00::1/64"), (&self.right, "fd00::2/64")] {
            host.sysctl("ipv6/conf/tun0/disable_ipv6", "0").unwrap();
            host.address("tun0", address).unwrap();
        }
    }

    /// Sets the offloads of both ends of the cable.
    pub fn offloads(&self, gro: bool, tx_offload: bool) {
        let options = LinkOptions { gro, tx_offload, ..LinkOptions::default() };
        offloads(&self.left, "wan0", &options).unwrap();
        offloads(&self.right, "wan0", &options).unwrap();
    }

    /// Has both ends of the cable hold what GRO merges for a moment, so that packets which come one by one are
    /// merged for certain; a veth hands each on at once otherwise. Says why where that cannot be had.
    pub fn hold_for_gro(&self) -> Result<(), String> {
        // The device's settings are in sysfs alone, which shows the namespace that mounted it.
        let script = "mount -t sysfs sysfs /sys && cd /sys/class/net/wan0 && \
                      echo 2000000 >gro_flush_timeout && echo 100 >napi_defer_hard_irqs";
        for host in [&self.left, &self.right] {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", script]);
            let output = host.output(&mut command).map_err(|error| error.to_string())?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
            }
        }
        Ok(())
    }

    /// What is between the two.
    pub fn middle(&self) -> &Middle {
        self.middle.as_ref().unwrap()
    }

    /// Pings right's inner address from left.
    pub fn ping(&self, options: &PingOptions) -> PingReport {
        ping(&self.left, inner(1), options).unwrap()
    }

    /// Pings each end from the other; all must be answered.
    #[track_caller]
    pub fn answers(&self, options: &PingOptions) {
        for (from, to) in [(&self.left, 1), (&self.right, 0)] {
            let report = ping(from, inner(to), options).unwrap();
            assert!(report.complete(), "from {}: {report}", from.name());
        }
    }

    /// Sends a bulk by TCP from left to right and back; it must arrive as it was sent. Gives both.
    #[track_caller]
    pub fn bulk(&self, bytes: u64, what: &str) -> [TransferReport; 2] {
        let forth = intact(&self.left, &self.right, inner(1), bytes, what);
        [forth, intact(&self.right, &self.left, inner(0), bytes, what)]
    }

    /// Has left send enough for its super-packets to leave whole, and says whether they do: not before Linux 6.17. For a
    /// tunnel that userspace carries past the IP stack.
    #[track_caller]
    pub fn leaves_whole(&self) -> bool {
        let settled = || {
            intact(&self.left, &self.right, inner(1), 200_000, "enough");
            let refused = self.daemons[0].as_ref().unwrap().log().contains("the kernel cannot be handed any");
            (refused || self.status(0)["datapath"]["super_packets"] == true).then_some(!refused)
        };
        poll_until(SOON, "whole super-packets, or why there are none", settled).unwrap()
    }

    /// What the status of a node (0 left, 1 right) says of tun0.
    pub fn status(&self, node: usize) -> Value {
        tunnel(&self.nodes[node].words("status --json --no-echo").ok().stdout, "tun0")
    }

    /// Whether programs in the kernel carry tun0 at both ends.
    pub fn is_on_fast_path(&self) -> bool {
        let ways = [0, 1].map(|node| self.status(node)["datapath"].clone());
        let by_programs = ways.each_ref().map(|way| way["datapath"] == "ebpf");
        assert_eq!(by_programs[0], by_programs[1], "{ways:?}");
        by_programs[0]
    }

    /// How often a node's tun0 has dropped for a reason.
    pub fn drops(&self, node: usize, reason: &str) -> u64 {
        drops(&self.status(node), reason)
    }

    /// Nothing may have been dropped at both ends ([`none_dropped`]).
    #[track_caller]
    pub fn none_dropped(&self, what: &str) {
        (0..2).for_each(|node| none_dropped(&self.status(node)["drops"], what));
    }

    /// Waits until a node's tun0 has dropped exactly `count` for a reason.
    #[track_caller]
    pub fn wait_for_drops(&self, node: usize, reason: &str, count: u64) {
        let reached = poll_until(SOON, reason, || (self.drops(node, reason) >= count).then_some(()));
        assert!(reached.is_ok(), "{reason}: {}", self.status(node)["drops"]);
        assert_eq!(self.drops(node, reason), count, "{reason}");
    }

    /// Waits until a node's tun0 receives by this kind of socket; gives the reason it states. Where nothing asks for
    /// the raw socket, what programs leave comes by it all the same; that counts as the packet socket's case.
    #[track_caller]
    pub fn wait_for_underlay(&self, node: usize, word: &str) -> String {
        let settled = poll_until(SOON, "the change of sockets", || {
            let carried = &self.status(node)["datapath"];
            let case = if carried["why"] == LEFT_BY_PROGRAMS { "packet" } else { word_of(carried) };
            (case == word).then(|| carried["why"].as_str().unwrap().to_owned())
        });
        settled.unwrap_or_else(|error| panic!("{error}: {}", self.status(node)["datapath"]))
    }

    /// Waits until a node's tun0 is carried by this data plane (`ebpf` or `userspace`): the programs follow what
    /// changes on the host a moment later.
    #[track_caller]
    pub fn carried_by(&self, node: usize, plane: &str) {
        let settled = poll_until(SOON, "the other data plane", || {
            (self.status(node)["datapath"]["datapath"] == plane).then_some(())
        });
        settled.unwrap_or_else(|error| panic!("{error}: {}", self.status(node)["datapath"]));
    }
}

/// Why a tunnel that programs carry receives by the raw socket.
pub const LEFT_BY_PROGRAMS: &str = "for what the programs leave";

/// The socket by which a tunnel receives.
fn word_of(carried: &Value) -> &str {
    carried["underlay"].as_str().unwrap()
}

/// The inner address of left (0) or right (1).
pub fn inner(end: usize) -> IpAddr {
    INNER[end].into()
}

/// Sends a bulk by TCP; it must arrive as it was sent.
#[track_caller]
pub fn intact(from: &Host, to: &Host, address: IpAddr, bytes: u64, what: &str) -> TransferReport {
    let within = Duration::from_secs(40);
    let report = transfer(from, to, SocketAddr::new(address, 0), bytes, within)
        .unwrap_or_else(|error| panic!("{what}: from {} to {}: {error}", from.name(), to.name()));
    assert!(report.intact(), "{what}: {report:?}");
    report
}

/// One tunnel out of the text of `status --json`.
pub fn tunnel(text: &str, name: &str) -> Value {
    let status: Value = serde_json::from_str(text).unwrap();
    let tunnels = status["tunnels"].as_array().unwrap();
    tunnels.iter().find(|tunnel| tunnel["spec"]["name"] == name).unwrap_or_else(|| panic!("{text}")).clone()
}

/// Nothing may have been dropped, but for what a queue had no room for: a veth's holds 256 packets, a socket what its
/// host lets it, and one that is not emptied in time is full on a machine that does other things. TCP sends such packets
/// again.
#[track_caller]
pub fn none_dropped(drops: &Value, what: &str) {
    const FULL: [&str; 6] = [
        "host-queue-full",
        "device-queue-full",
        "kernel-queue",
        "queue-full",
        "receive-queue-full",
        "underlay-socket-overflow",
    ];
    let others = |drop: &&Value| !FULL.contains(&drop["reason"].as_str().unwrap());
    assert_eq!(drops.as_array().unwrap().iter().filter(others).count(), 0, "{what}: {drops}");
}

/// How often a tunnel or the underlay has dropped for a reason.
pub fn drops(status: &Value, reason: &str) -> u64 {
    let drops = status["drops"].as_array().unwrap();
    drops.iter().find(|drop| drop["reason"] == reason).map_or(0, |drop| drop["packets"].as_u64().unwrap())
}

/// What `ip -s link` counts on a device: packets received and sent.
pub fn counted(host: &Host, dev: &str) -> (u64, u64) {
    let link = host.netlink().unwrap().link_by_name(dev).unwrap().unwrap();
    (link.statistics.rx_packets, link.statistics.tx_packets)
}

/// A device's hardware address.
pub fn mac(host: &Host, dev: &str) -> MacAddr {
    let link = host.netlink().unwrap().link_by_name(dev).unwrap().unwrap();
    MacAddr::new(link.address.unwrap())
}

/// A UDP socket of a host.
pub fn udp(host: &Host, address: IpAddr) -> UdpSocket {
    let socket = host.run(|| UdpSocket::bind(SocketAddr::new(address, 0))).unwrap().unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// Ends a capture and counts the packets in it that are wanted; what was still in its buffer counts.
pub fn seen(capture: Capture, wanted: impl Fn(&CapturedPacket) -> bool) -> usize {
    capture.stop().iter().filter(|packet| wanted(packet)).count()
}

/// Whether a packet is an ICMP "unreachable" of any kind, not inside GRE.
pub fn is_unreachable(packet: &CapturedPacket) -> bool {
    unreachable(packet).is_some()
}

/// The code of an ICMP "unreachable", not inside GRE.
pub fn unreachable(packet: &CapturedPacket) -> Option<u8> {
    if packet.ethertype() != 0x0800 || packet.protocol() != Some(1) {
        return None;
    }
    let header = usize::from(packet.payload()[0] & 0x0f) * 4;
    let message = packet.payload().get(header..)?;
    (message.first() == Some(&3)).then(|| message.get(1).copied())?
}

/// The payload packet behind a GRE header, and the protocol type in it.
pub fn inside(packet: &CapturedPacket) -> Option<(u16, &[u8])> {
    let gre = packet.gre()?;
    let (header, length) = greway_wire::gre::GreHeader::parse(gre).ok()?;
    Some((header.protocol_type, &gre[length..]))
}
