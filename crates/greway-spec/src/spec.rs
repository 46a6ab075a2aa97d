//! The canonical form of a tunnel.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::name::DeviceName;
use crate::policy::{DatapathChoice, FirewallPolicy, MssClamp, OverlayChoice, SeqMode, UnderlayChoice};
use crate::rule::InnerRule;

/// One tunnel, complete and valid. Made by [`crate::Draft::into_spec`] only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelSpec {
    /// The name of the tunnel device.
    pub name: DeviceName,
    /// What is carried in what.
    pub mode: Mode,
    /// Outer source address of what we send and the destination of what we accept; `None`: any of
    /// this host's addresses, chosen by the route when sending. Of the mode's family.
    pub local: Option<IpAddr>,
    /// The peer's outer address; `None`: any peer, the neighbour or route inside decides. Of the mode's
    /// family.
    pub remote: Option<IpAddr>,
    /// Key that received packets must carry; `None`: they must carry none.
    pub ikey: Option<u32>,
    /// Key put into sent packets. `Some(0)` and `None` differ on the wire.
    pub okey: Option<u32>,
    /// Received packets must carry a checksum (and must not when this is off).
    pub icsum: bool,
    /// Sent packets carry a checksum.
    pub ocsum: bool,
    /// Received packets must carry a sequence number and may not be late, as `seq_mode` has it.
    pub iseq: bool,
    /// Sent packets carry a sequence number.
    pub oseq: bool,
    /// What `iseq` means for packets that are late, early or without a number.
    #[serde(default)]
    pub seq_mode: SeqMode,
    /// TTL or hop limit of the delivery header.
    pub ttl: Ttl,
    /// TOS or traffic class of the delivery header.
    pub tos: Tos,
    /// Path MTU discovery: DF is always set on the delivery header.
    pub pmtudisc: bool,
    /// DF of the payload packet is not copied either (needs `pmtudisc` off).
    pub ignore_df: bool,
    /// Tunnel encapsulation limit option of the IPv6 delivery header (RFC 2473 §6.6); `None`: none is
    /// sent. Always `None` over IPv4.
    #[serde(default)]
    pub encaplimit: Option<u8>,
    /// Flow label of the IPv6 delivery header.
    #[serde(default)]
    pub flowlabel: FlowLabel,
    /// The DSCP of the delivery header is copied to the payload packet when receiving over IPv6.
    #[serde(default)]
    pub dscp_inherit: bool,
    /// Over IPv6, `remote` may be an address of this host.
    #[serde(default)]
    pub allow_localremote: bool,
    /// Mark that routes of the delivery packets are looked up with; 0: none.
    #[serde(default)]
    pub fwmark: u32,
    /// Underlay device that sent packets are bound to.
    pub dev: Option<DeviceName>,
    /// MTU of the tunnel device in bytes; `None`: from the route to the remote.
    pub mtu: Option<u32>,
    /// Which data plane may carry it.
    pub datapath: DatapathChoice,
    /// Which sockets the userspace data plane uses.
    pub underlay: UnderlayChoice,
    /// Which kind of device the tunnel is.
    pub overlay: OverlayChoice,
    /// Whether the host's firewall holds for the GRE packets.
    pub firewall: FirewallPolicy,
    /// What is sent does not go through the pair: faster, and unseen by the device's counters, tcpdump and qdiscs.
    #[serde(default)]
    pub direct: bool,
    /// What becomes of the segment sizes that TCP announces.
    #[serde(default)]
    pub mss: MssClamp,
    /// Addresses, routes and forwarding inside the tunnel.
    pub inner: Inner,
    /// Who defined it; shown to people, never compared.
    pub origin: Origin,
}

impl TunnelSpec {
    /// Bytes that encapsulation adds: the delivery header with its encapsulation limit option, the GRE
    /// header with its options, and for Ethernet the inner link header (RFC 2784 §2, RFC 2890 §2,
    /// RFC 2473 §4.1.1).
    pub fn overhead(&self) -> u32 {
        let word = |present: bool| if present { 4 } else { 0 };
        let delivery = match (self.mode.over_ipv6(), self.encaplimit) {
            (false, _) => 20,
            (true, None) => 40,
            (true, Some(_)) => 48,
        };
        let link = if self.mode.is_ethernet() { 14 } else { 0 };
        delivery + 4 + word(self.ocsum) + word(self.okey.is_some()) + word(self.oseq) + link
    }

    /// The peer's outer address as text, `any` where there is none.
    pub fn far_end(&self) -> String {
        self.remote.map_or_else(|| "any".to_owned(), |remote| remote.to_string())
    }

    /// Both ends of a tunnel over IPv4 with one peer; `None` for every other tunnel.
    pub fn ipv4_ends(&self) -> Option<(Option<Ipv4Addr>, Ipv4Addr)> {
        let Some(IpAddr::V4(remote)) = self.remote.filter(|remote| !remote.is_multicast()) else {
            return None;
        };
        match self.local {
            None => Some((None, remote)),
            Some(IpAddr::V4(local)) => Some((Some(local), remote)),
            Some(IpAddr::V6(_)) => None,
        }
    }
}

/// Kind of tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Layer 3 in GRE in IPv4 (`ip tunnel … mode gre`).
    #[default]
    Gre,
    /// Layer 3 in GRE in IPv6 (RFC 7676; `ip -6 tunnel … mode ip6gre`).
    Ip6Gre,
    /// Ethernet in GRE in IPv4 (`ip link … type gretap`).
    Gretap,
    /// Ethernet in GRE in IPv6 (`ip link … type ip6gretap`).
    Ip6Gretap,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Gre, Self::Ip6Gre, Self::Gretap, Self::Ip6Gretap];

    /// The word of `ip tunnel` and `ip link`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Gre => "gre",
            Self::Ip6Gre => "ip6gre",
            Self::Gretap => "gretap",
            Self::Ip6Gretap => "ip6gretap",
        }
    }

    /// Reads its word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.word() == word)
    }

    /// Whether the delivery header is IPv6.
    pub fn over_ipv6(self) -> bool {
        matches!(self, Self::Ip6Gre | Self::Ip6Gretap)
    }

    /// Whether the payload packets are Ethernet frames (protocol type 0x6558).
    pub fn is_ethernet(self) -> bool {
        matches!(self, Self::Gretap | Self::Ip6Gretap)
    }
}

/// Flow label of the IPv6 delivery header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowLabel {
    /// Copied from an IPv6 payload packet.
    Inherit,
    /// A fixed value of 20 bits; 0: the sender's own choice.
    Fixed(u32),
}

impl Default for FlowLabel {
    fn default() -> Self {
        Self::Fixed(0)
    }
}

/// TTL of the delivery header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ttl {
    /// Copied from the payload packet (`ttl inherit`, `ttl 0`); 64 for payloads without one.
    #[default]
    Inherit,
    /// A fixed value, never 0.
    Fixed(u8),
}

/// TOS of the delivery header; ECN is combined into it afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tos {
    /// Copied from the payload packet.
    pub inherit: bool,
    /// The value, or with `inherit` the value for payloads that have no TOS. Bit 0 is never set.
    pub value: u8,
}

/// What the host should look like inside the tunnel. Everything here is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inner {
    /// Addresses of the tunnel device.
    pub addresses: Vec<InnerAddress>,
    /// Routes through the tunnel.
    pub routes: Vec<InnerRoute>,
    /// Rules of the policy database that come and go with the tunnel.
    #[serde(default)]
    pub rules: Vec<InnerRule>,
    /// Which endpoint answers for an inner address, in a tunnel without a remote.
    #[serde(default)]
    pub neighbours: Vec<InnerNeighbour>,
    /// The device is left down.
    #[serde(default)]
    pub link_down: bool,
    /// MTU for IPv6 in bytes (`net.ipv6.conf.NAME.mtu`); `None`: the device's.
    #[serde(default)]
    pub ipv6_mtu: Option<u32>,
    /// Turn on `net.ipv4.ip_forward` (and IPv6 forwarding where an inner address is IPv6).
    pub forward: bool,
    /// Translate packets that come from the peer's inner address and leave this host by another
    /// device to this source address.
    pub snat: Option<Ipv4Addr>,
}

/// An address on the tunnel device, as in `ip addr add LOCAL/PREFIX [peer PEER/PREFIX]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InnerAddress {
    /// Our own address.
    pub local: IpAddr,
    /// The peer's address where the address is a point-to-point one.
    pub peer: Option<IpAddr>,
    /// Prefix length of the peer, or of `local` where there is no peer.
    pub prefix_length: u8,
}

/// A route through the tunnel device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InnerRoute {
    /// Destination, host bits zero.
    pub destination: Prefix,
    /// Next hop, where one is named.
    pub via: Option<IpAddr>,
    /// Route metric (priority).
    pub metric: Option<u32>,
    /// Number of the routing table; `None`: main.
    #[serde(default)]
    pub table: Option<u32>,
    /// Source address for packets of this host that take it.
    #[serde(default)]
    pub source: Option<IpAddr>,
}

/// Where packets to a next hop inside go, as in `ip neigh add ADDRESS lladdr ENDPOINT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InnerNeighbour {
    /// The address inside the tunnel.
    pub address: IpAddr,
    /// The outer address of the host that has it, of the mode's family.
    pub endpoint: IpAddr,
}

impl InnerRoute {
    /// A route over the tunnel's link, in table main.
    pub fn to(destination: Prefix) -> Self {
        Self { destination, via: None, metric: None, table: None, source: None }
    }
}

/// An address prefix with its host bits zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prefix {
    /// Network address.
    pub address: IpAddr,
    /// Prefix length in bits.
    pub length: u8,
}

/// Where a tunnel was defined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// `greway tunnel add`: lives until a reboot.
    #[default]
    Command,
    /// A file, by path.
    File(String),
    /// A profile of NetworkManager, by uuid.
    Profile(String),
}
