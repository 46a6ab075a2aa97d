//! What is known about a tunnel and its host when the diagnoses are made: plain data, so that each diagnosis
//! can be tested by writing down what it would see.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use greway_netlink::xfrm::{XfrmPolicy, XfrmState};
use greway_netlink::{Connection, KernelTunnel, ResolvedRoute};
use greway_spec::{InnerAddress, InnerRoute, Origin, TunnelSpec};

use super::ruleset::Ruleset;
use super::shell;
use crate::status::{Status, TunnelStatus, Unmatched};

/// Something that was looked at, or why it was not.
pub type Seen<T> = Result<T, String>;

/// Everything that the diagnoses go by.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The tunnel as the daemon carries it, or as its file says.
    pub spec: TunnelSpec,
    /// The daemon of this network namespace.
    pub daemon: Daemon,
    /// The host, read from the kernel.
    pub host: HostFacts,
    /// What the probes brought.
    pub probes: Probes,
}

/// The daemon and what it knows.
#[derive(Clone, Debug)]
pub enum Daemon {
    /// None runs.
    None {
        /// A daemon that died left this tunnel behind.
        left: bool,
    },
    /// Something is there that does not answer; why.
    Silent(String),
    /// It answers.
    Answers {
        /// Its status before the probes.
        before: Arc<Status>,
        /// And after them.
        after: Arc<Status>,
    },
}

/// A device of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Interface index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The kernel's name for its kind; `None` for hardware and loopback.
    pub kind: Option<String>,
    /// Set up.
    pub up: bool,
    /// Whether packets can leave by it.
    pub running: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// The loopback device.
    pub loopback: bool,
    /// Its hardware address, where it has one.
    pub mac: Option<[u8; 6]>,
    /// Its addresses.
    pub addresses: Vec<InnerAddress>,
}

/// What the kernel says of the host. What is the same for all its tunnels is shared by them.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// All devices, by index.
    pub devices: Arc<Vec<Device>>,
    /// The way to the remote as the tunnel sends; `None` for a tunnel without one remote.
    pub way: Seen<Option<ResolvedRoute>>,
    /// The way to the remote from whatever address the kernel would choose.
    pub free_way: Option<ResolvedRoute>,
    /// The inner peers that the device's addresses tell of, and the way to each.
    pub peers: Vec<InnerPeer>,
    /// Routes through the tunnel device, the kernel's own left out.
    pub routes: Vec<InnerRoute>,
    /// `net.ipv4.ip_forward`
    pub forwards_v4: bool,
    /// `net.ipv6.conf.all.forwarding`
    pub forwards_v6: bool,
    /// Effective `rp_filter` of each device.
    pub reverse_path: Arc<BTreeMap<String, u32>>,
    /// The packet filter.
    pub ruleset: Seen<Arc<Ruleset>>,
    /// There are tables of ip6tables-legacy, which are not read: the packet filter is that of IPv4 and of nf_tables.
    pub ip6tables_legacy: bool,
    /// IPsec.
    pub ipsec: Seen<Arc<Ipsec>>,
    /// The kernel's own GRE.
    pub kernel_gre: Arc<KernelGre>,
    /// Connections that are tracked; none where nothing is tracked.
    pub connections: Seen<Arc<Vec<Connection>>>,
}

/// The other end inside the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InnerPeer {
    /// Our address that tells of it.
    pub own: InnerAddress,
    /// Its address.
    pub address: IpAddr,
    /// The way to it; `None` where there is none.
    pub way: Option<ResolvedRoute>,
}

/// IPsec policies and associations.
#[derive(Clone, Debug, Default)]
pub struct Ipsec {
    /// The policies.
    pub policies: Vec<XfrmPolicy>,
    /// The associations.
    pub states: Vec<XfrmState>,
}

/// What of the kernel's own GRE is there.
#[derive(Clone, Debug, Default)]
pub struct KernelGre {
    /// Module ip_gre is there.
    pub module: bool,
    /// Module ip6_gre is there.
    pub module_v6: bool,
    /// Tunnels of the kernel's.
    pub tunnels: Vec<KernelTunnel>,
}

/// What the probes brought.
#[derive(Clone, Debug)]
pub struct Probes {
    /// Echo requests to the first inner peer.
    pub echo: Seen<Echo>,
    /// What of GRE came from the remote by the underlay while the probes ran.
    pub wire: Seen<Wire>,
    /// The way to the remote, hop by hop; looked at only when the tunnel is silent.
    pub trace: Seen<Trace>,
    /// Which sizes pass the tunnel; looked at only when small packets do.
    pub sizes: Seen<Sizes>,
    /// Whether the far end hands on what is not its own.
    pub far_forwarding: Seen<Vec<Onward>>,
    /// Whether the far end answers to this host's addresses beside the inner one.
    pub ways_back: Seen<Vec<WayBack>>,
    /// The destination that the user named, and whether it answered.
    pub destination: Option<Seen<Destination>>,
    /// An echo from the peer's address to our own, asked of the far end: it answers where it has ours too.
    pub twin: Seen<bool>,
    /// Packets that `rp_filter` dropped while the probes ran.
    pub reverse_path_drops: Seen<u64>,
    /// Packets for others that this host dropped while the probes ran.
    pub not_forwarded: Seen<u64>,
}

/// Echo requests and what came of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Echo {
    /// Whom they went to.
    pub peer: Option<IpAddr>,
    /// How many were sent.
    pub sent: u32,
    /// How many were answered.
    pub answered: u32,
    /// Errors that came back inside the tunnel, as people say them.
    pub errors: Vec<String>,
}

/// GRE that arrived from the remote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    /// Packets, by what tells them apart.
    pub packets: Vec<WirePacket>,
    /// ICMP errors about our GRE.
    pub errors: Vec<OuterError>,
}

/// A kind of GRE packet that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WirePacket {
    /// Outer source.
    pub source: IpAddr,
    /// Outer destination.
    pub destination: IpAddr,
    /// Device it came in by.
    pub ifindex: u32,
    /// Key, where there was one.
    pub key: Option<u32>,
    /// With a checksum.
    pub checksum: bool,
    /// With a sequence number.
    pub sequence: bool,
    /// Source inside, of IP.
    pub inner_source: Option<IpAddr>,
    /// How many.
    pub count: u32,
}

/// An ICMP error about a GRE packet of ours, of ICMPv6 where the tunnel is over IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterError {
    /// Who sent it.
    pub from: IpAddr,
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// MTU of the next hop where it is about that.
    pub mtu: u32,
}

/// The way to the remote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The remote answered an echo from outside the tunnel.
    pub remote_answers: bool,
    /// Hops by TTL from 1 on: who answered an ICMP packet, and who a GRE packet (over IPv4 only).
    pub hops: Vec<Hop>,
    /// The kernel refused to send GRE (a rule of OUTPUT or an IPsec policy).
    pub refused: bool,
}

/// One hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// Who answered ICMP of this TTL.
    pub icmp: Option<IpAddr>,
    /// Who answered GRE of this TTL.
    pub gre: Option<IpAddr>,
}

/// Which sizes pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The device's MTU in bytes.
    pub mtu: u32,
    /// The largest packet that was answered, in bytes.
    pub passes: u32,
}

/// Whether the far end hands on a packet for a network behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Onward {
    /// The route through the tunnel.
    pub route: greway_spec::Prefix,
    /// Which address was asked for.
    pub asked: IpAddr,
    /// What it said; `None`: nothing.
    pub answer: Option<OnwardAnswer>,
}

/// What the far end said to a packet that it had to hand on with no hops left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnwardAnswer {
    /// It would have handed it on.
    Forwards,
    /// The address is its own.
    Own,
    /// It has no way there.
    NoRoute,
}

/// Whether the far end answers to another address of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WayBack {
    /// The address, and the network it is in.
    pub own: InnerAddress,
    /// An answer came.
    pub answers: bool,
}

/// A host behind the far end that the user named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Its address.
    pub address: IpAddr,
    /// The way to it leads through the tunnel.
    pub through: bool,
    /// It answered an echo.
    pub answers: bool,
    /// The source address that the kernel chooses for it.
    pub source: Option<IpAddr>,
}

impl Facts {
    /// The tunnel as the daemon carries it, after the probes.
    pub fn tunnel(&self) -> Option<&TunnelStatus> {
        self.status().and_then(|status| find(status, &self.spec))
    }

    /// The same before the probes.
    pub fn tunnel_before(&self) -> Option<&TunnelStatus> {
        match &self.daemon {
            Daemon::Answers { before, .. } => find(before, &self.spec),
            _ => None,
        }
    }

    /// What the daemon said after the probes.
    pub fn status(&self) -> Option<&Status> {
        match &self.daemon {
            Daemon::Answers { after, .. } => Some(after),
            _ => None,
        }
    }

    /// The tunnel device.
    pub fn device(&self) -> Option<&Device> {
        self.host.device(self.spec.name.as_str())
    }

    /// Both ends of a tunnel to one far end; `None` for one without a remote and for one to a group.
    pub fn ends(&self) -> Option<(Option<IpAddr>, IpAddr)> {
        let remote = self.spec.remote.filter(|remote| !remote.is_multicast())?;
        Some((self.spec.local, remote))
    }

    /// The outer address that the tunnel sends from: its `local`, or what the way to the remote begins at.
    pub fn source(&self) -> Option<IpAddr> {
        self.spec.local.or_else(|| self.host.free_way.as_ref().and_then(|way| way.source))
    }

    /// Whether the far end was heard through the tunnel while the probes ran.
    pub fn is_alive(&self) -> bool {
        let answered = self.probes.echo.as_ref().is_ok_and(|echo| echo.answered > 0);
        answered || self.received_meanwhile() > 0
    }

    /// Whether it was heard then or in the last minute: a far end that drops pings is heard when it has
    /// something to say.
    pub fn was_heard(&self) -> bool {
        self.is_alive() || self.heard_within(60.0)
    }

    /// Whether a packet came through the tunnel in the last so many seconds.
    pub fn heard_within(&self, seconds: f64) -> bool {
        self.tunnel().and_then(|tunnel| tunnel.last_received_seconds).is_some_and(|last| last < seconds)
    }

    /// Packets that came through the tunnel while the probes ran.
    pub fn received_meanwhile(&self) -> u64 {
        let received = |tunnel: &TunnelStatus| tunnel.counters.received_packets;
        match (self.tunnel_before(), self.tunnel()) {
            (Some(before), Some(after)) => received(after).saturating_sub(received(before)),
            _ => 0,
        }
    }

    /// Whether something was sent into the tunnel and nothing came back: only then is silence a fault.
    pub fn is_silent(&self) -> bool {
        self.tunnel().is_some_and(|tunnel| tunnel.counters.sent_packets > 0) && !self.is_alive()
    }

    /// Whether somebody inside the tunnel was asked, by this check or by the daemon: where nobody was, nobody
    /// owed an answer.
    pub fn was_asked(&self) -> bool {
        self.probes.echo.is_ok()
    }

    /// How often the tunnel dropped for a reason, and how often while the probes ran.
    pub fn drops(&self, reason: &str) -> (u64, u64) {
        let of = |tunnel: Option<&TunnelStatus>| {
            let drop = tunnel?.drops.iter().find(|drop| drop.reason == reason)?;
            Some(drop.packets)
        };
        let after = of(self.tunnel()).unwrap_or(0);
        (after, after.saturating_sub(of(self.tunnel_before()).unwrap_or(0)))
    }

    /// GRE from the remote that matched no tunnel.
    pub fn strangers(&self) -> impl Iterator<Item = &Unmatched> {
        let remote = self.spec.far_end();
        let unmatched = self.status().map(|status| status.unmatched.as_slice()).unwrap_or_default();
        unmatched.iter().filter(move |packet| packet.source == remote)
    }

    /// The command that makes the tunnel again, from where it is defined.
    pub fn bring_up(&self) -> String {
        let spec = &self.spec;
        match &spec.origin {
            Origin::File(path) => format!("greway up {}", shell::word(&path.to_string())),
            Origin::Profile(uuid) => format!("nmcli connection up uuid {uuid}"),
            Origin::Command => {
                let local = spec.local.map_or_else(String::new, |local| format!(" local {local}"));
                let words = words([spec.ikey, spec.okey], [spec.icsum, spec.ocsum], [spec.iseq, spec.oseq]);
                let dev = spec.dev.as_ref().map_or_else(String::new, |dev| format!(" dev {dev}"));
                format!(
                    "greway tunnel add {} mode {} remote {}{local}{dev}{words}",
                    shell::word(spec.name.as_str()),
                    spec.mode.word(),
                    spec.far_end()
                )
            }
        }
    }

    /// The command that changes a field of the tunnel on this host.
    pub fn change(&self, words: &str) -> String {
        format!("greway tunnel change {} {words}", shell::word(self.spec.name.as_str()))
    }

    /// The command that changes a field at the far end, in the words of `ip`.
    pub fn change_far(&self, words: &str) -> String {
        let (name, mode) = (shell::word(self.spec.name.as_str()), self.spec.mode);
        match (mode.is_ethernet(), mode.over_ipv6()) {
            (true, _) => format!("ip link set {name} type {} {words}", mode.word()),
            (false, true) => format!("ip -6 tunnel change {name} {words}"),
            (false, false) => format!("ip tunnel change {name} {words}"),
        }
    }
}

impl HostFacts {
    /// The packet filter as packets to or from this address meet it.
    ///
    /// # Errors
    /// Why it was not read.
    pub fn ruleset_for(&self, outer: IpAddr) -> Result<&Ruleset, String> {
        if outer.is_ipv6() && self.ip6tables_legacy {
            return Err("tables of ip6tables-legacy are there, which are not read".to_owned());
        }
        self.ruleset.as_deref().map_err(Clone::clone)
    }

    /// The device of this name.
    pub fn device(&self, name: &str) -> Option<&Device> {
        self.devices.iter().find(|device| device.name == name)
    }

    /// The device of this index.
    pub fn device_by_index(&self, index: u32) -> Option<&Device> {
        self.devices.iter().find(|device| device.index == index)
    }

    /// The device that has this address.
    pub fn owner(&self, address: IpAddr) -> Option<&Device> {
        let has = |device: &&Device| device.addresses.iter().any(|own| own.local == address);
        self.devices.iter().find(has)
    }
}

/// The words of `ip tunnel` for keys, checksums and sequence numbers, each of what is received and what is
/// sent.
pub(super) fn words(keys: [Option<u32>; 2], checksums: [bool; 2], sequences: [bool; 2]) -> String {
    let key = |word: &str, key: Option<u32>| key.map_or_else(String::new, |key| format!(" {word} {key}"));
    let [ikey, okey] = keys;
    let keys = if ikey == okey { key("key", ikey) } else { key("ikey", ikey) + &key("okey", okey) };
    let flag = |word: &str, on: [bool; 2]| match on {
        [true, true] => format!(" {word}"),
        [true, false] => format!(" i{word}"),
        [false, true] => format!(" o{word}"),
        [false, false] => String::new(),
    };
    keys + &flag("csum", checksums) + &flag("seq", sequences)
}

fn find<'s>(status: &'s Status, spec: &TunnelSpec) -> Option<&'s TunnelStatus> {
    status.tunnels.iter().find(|tunnel| tunnel.spec.name == spec.name)
}
