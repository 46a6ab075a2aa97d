//! What userspace tells the programs about each tunnel, ready made: a packet costs no decision that was the
//! tunnel's.

/// Bytes of the longest prebuilt header: IPv6 (40), encapsulation limit (8), GRE with key (8).
pub const HEADER_MAX: usize = 56;

/// Bits of [`EgressEntry::flags`].
pub mod egress {
    /// The delivery header is IPv6.
    pub const OUTER_IPV6: u32 = 1 << 0;
    /// The payload packets are Ethernet frames (protocol type 0x6558).
    pub const ETHERNET: u32 = 1 << 1;
    /// TTL or hop limit is the payload packet's; `ttl` is for payloads that have none.
    pub const TTL_INHERIT: u32 = 1 << 2;
    /// DSCP is the payload packet's; `tos` is for payloads that have none.
    pub const TOS_INHERIT: u32 = 1 << 3;
    /// ECN of the payload packet is combined into the delivery header.
    pub const ECN: u32 = 1 << 4;
    /// DF is always set.
    pub const PMTUDISC: u32 = 1 << 5;
    /// DF of the payload packet is not copied.
    pub const IGNORE_DF: u32 = 1 << 6;
    /// TCP handshakes go to userspace, which clamps them.
    pub const CLAMPS: u32 = 1 << 7;
    /// Everything goes to userspace.
    pub const WITHHELD: u32 = 1 << 8;
    /// The prebuilt header has the tunnel encapsulation limit option.
    pub const ENCAP_LIMIT: u32 = 1 << 9;
    /// The flow label is an IPv6 payload packet's.
    pub const FLOW_INHERIT: u32 = 1 << 10;
    /// Carried only while witnesses pass the host's rules, see [`crate::witness`].
    pub const WITNESSED: u32 = 1 << 11;
}

/// Bits of [`IngressKey::flags`].
pub mod key {
    /// The packet has a key: no key and key 0 are different (RX-13).
    pub const KEYED: u32 = 1 << 0;
    /// It carries an Ethernet frame (RX-10).
    pub const ETHERNET: u32 = 1 << 1;
}

/// Bits of [`IngressEntry::flags`].
pub mod ingress {
    /// Two tunnels have this key and differ in `dev`, so userspace decides.
    pub const AMBIGUOUS: u32 = 1 << 0;
    /// TCP handshakes go to userspace, which clamps them.
    pub const CLAMPS: u32 = 1 << 1;
    /// Everything goes to userspace.
    pub const WITHHELD: u32 = 1 << 2;
    /// The DSCP of the delivery header is copied to the payload packet.
    pub const DSCP_INHERIT: u32 = 1 << 3;
    /// A tunnel that leaves an address open and has a `dev` may win over this one (RX-12), so only packets that
    /// came in by this one's own `dev` are carried.
    pub const CONTESTED: u32 = 1 << 4;
    /// Carried only while witnesses pass the host's rules, see [`crate::witness`].
    pub const WITNESSED: u32 = 1 << 5;
    /// The tunnel device is in another network namespace and this kernel counts what is handed to it past the pair.
    pub const HAND_OVER: u32 = 1 << 6;
}

/// How the packets of one tunnel are encapsulated, and where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct EgressEntry {
    /// Delivery header, encapsulation limit option and GRE header as they go out; zero where each packet has a
    /// value of its own. The GRE protocol type is 0x6558 for Ethernet and else zero.
    pub header: [u8; HEADER_MAX],
    /// The neighbour that delivery packets go to, as the address is written on the wire (4 or 16 bytes).
    pub next_hop: [u8; 16],
    /// AF_INET or AF_INET6, the family of `next_hop`.
    pub next_hop_family: u32,
    /// Index of the device they leave by; 0: not known.
    pub next_hop_ifindex: u32,
    /// Bytes of `header` in use.
    pub header_len: u32,
    /// See [`egress`].
    pub flags: u32,
    /// The largest delivery packet in bytes.
    pub path_mtu: u32,
    /// Mark of the delivery packets, which their routes are looked up with.
    pub mark: u32,
    /// Sum of the 16-bit words of an IPv4 `header`, not folded.
    pub partial_sum: u32,
    /// So many packets more go to userspace (T18). The program counts down.
    pub decline_next: u32,
    /// Flow label of an IPv6 delivery header, 20 bits.
    pub flow_label: u32,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class, ECN bits zero.
    pub tos: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Which packets belong to a tunnel (RX-12, RX-13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct IngressKey {
    /// Source of the delivery packet.
    pub remote: [u8; 16],
    /// Destination of the delivery packet; zero: any address of this host.
    pub local: [u8; 16],
    /// The key, 0 where there is none.
    pub key: u32,
    /// See [`key`].
    pub flags: u32,
}

/// What becomes of the packets of one tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct IngressEntry {
    /// Index of the peer end that packets are sent out of.
    pub peer: u32,
    /// See [`ingress`].
    pub flags: u32,
    /// MTU of the tunnel device in bytes.
    pub device_mtu: u32,
    /// Index of the tunnel's `dev`; 0: none.
    pub dev: u32,
    /// Index of the only device that packets may come in by (`rp_filter`); 0: any.
    pub via: u32,
    /// Destination MAC address of layer 3 packets: the tunnel device's.
    pub to: [u8; 6],
    /// Source MAC address of layer 3 packets: the peer end's.
    pub from: [u8; 6],
}

/// What concerns all tunnels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct State {
    /// The daemon's last sign of life in nanoseconds of CLOCK_MONOTONIC; 0: none yet.
    pub heartbeat_ns: u64,
}

const _: () = assert!(size_of::<EgressEntry>() == 112);
const _: () = assert!(align_of::<EgressEntry>() == 8 && HEADER_MAX.is_multiple_of(8));
const _: () = assert!(core::mem::offset_of!(EgressEntry, ttl) == 108);
const _: () = assert!(size_of::<IngressKey>() == 40);
const _: () = assert!(size_of::<IngressEntry>() == 32);
const _: () = assert!(size_of::<State>() == 8);
