//! What is decided about a packet, and every reason there is.
//!
//! Each reason is one name that counters, `status`, metrics, the fast path and the tests share. A name
//! never changes its meaning: scripts read it.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use crate::offload::Offload;
use crate::table::TunnelIndex;

/// What is to be done with a received datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Hand the payload packet to the tunnel device.
    Deliver(Delivery),
    /// The tunnel keeps a copy until the packets before it have come; [`crate::release`] gives it back.
    Hold {
        /// The tunnel.
        tunnel: TunnelIndex,
    },
    /// Not ours: leave it for others on this host.
    Decline(DeclineReason),
    /// Ours or malformed, and not to be carried.
    Drop {
        /// The tunnel it was meant for, where that can be told.
        tunnel: Option<TunnelIndex>,
        /// Why.
        reason: DropReason,
    },
}

/// A payload packet on its way to a tunnel device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The tunnel it came through.
    pub tunnel: TunnelIndex,
    /// Its EtherType; 0x6558 where it is an Ethernet frame.
    pub protocol_type: u16,
    /// Where it is in the datagram. ECN has been combined into it in place.
    pub inner: Range<usize>,
    /// What is left to be done to it; offsets relative to `inner`.
    pub offload: Offload,
}

/// Why a datagram is left to others. None of these is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeclineReason {
    /// The packet is neither IPv4 nor IPv6.
    NotIp,
    /// The protocol is not 47.
    NotGre,
    /// GRE version 1, PPTP's (RFC 2637).
    Version1Pptp,
    /// Sent to a multicast group; no tunnel here has one.
    Multicast,
    /// No tunnel has this combination of addresses and key.
    NoTunnel {
        /// Source of the datagram.
        source: IpAddr,
        /// Destination of the datagram.
        destination: IpAddr,
        /// Its key, where it has one.
        key: Option<u32>,
        /// EtherType of the payload packet.
        protocol_type: u16,
    },
}

impl DeclineReason {
    /// How many there are.
    pub const COUNT: usize = 5;
    /// Their names, by [`DeclineReason::index`].
    pub const NAMES: [&'static str; Self::COUNT] =
        ["not-ip", "not-gre", "version-1-pptp", "multicast", "no-tunnel"];

    /// Position among the counters, below [`DeclineReason::COUNT`].
    pub fn index(self) -> usize {
        match self {
            Self::NotIp => 0,
            Self::NotGre => 1,
            Self::Version1Pptp => 2,
            Self::Multicast => 3,
            Self::NoTunnel { .. } => 4,
        }
    }

    /// The stable name, in kebab case.
    pub fn name(self) -> &'static str {
        Self::NAMES[self.index()]
    }

    /// One sentence for operators: what the packet was and why it is left alone.
    pub fn explain(self) -> &'static str {
        match self {
            Self::NotIp => "the packet is neither IPv4 nor IPv6, so no tunnel can be meant",
            Self::NotGre => "the packet is not GRE (protocol 47)",
            Self::Version1Pptp => "GRE version 1 belongs to PPTP and is left to whoever speaks it",
            Self::Multicast => "the packet was sent to a multicast group that no tunnel here listens to",
            Self::NoTunnel { .. } => "no tunnel has these addresses and this key; compare both ends",
        }
    }
}

impl fmt::Display for DeclineReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which way a dropped packet was going.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the underlay to the tunnel device.
    Receive,
    /// From the tunnel device to the underlay.
    Transmit,
}

/// Defines the enum, its order and all that is said about each reason in one place.
macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident, $direction:ident, $name:literal, $kernel:expr, $explain:literal;)+) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of [`DropReason::index`].
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable name, in kebab case.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One sentence for operators: what happened and what to look at.
            pub fn explain(self) -> &'static str {
                match self { $(Self::$variant => $explain,)+ }
            }

            /// Which way the packet was going.
            pub fn direction(self) -> Direction {
                match self { $(Self::$variant => Direction::$direction,)+ }
            }

            /// The error counter of a kernel tunnel that would have moved; `None` where the kernel
            /// drops silently.
            pub fn kernel_counter(self) -> Option<&'static str> {
                match self { $(Self::$variant => $kernel,)+ }
            }
        }
    };
}

drop_reasons! {
    /// The outer IP header or the datagram it announces is not all there (T3).
    OuterTruncated, Receive, "outer-truncated", None,
        "the datagram is shorter than its IP header says; something on the way cut it off";
    /// The outer IPv4 header checksum is wrong (T3).
    OuterChecksum, Receive, "outer-checksum", None,
        "the checksum of the outer IPv4 header is wrong; a device on the way damages packets";
    /// A fragment of the outer datagram that nobody put together (RX-01).
    OuterFragment, Receive, "outer-fragment", None,
        "a fragment of a datagram arrived that was not reassembled; lower the MTU of the peer's tunnel";
    /// The frame had a VLAN tag (T3).
    VlanTagged, Receive, "vlan-tagged", None,
        "the frame carried a VLAN tag, so it belongs to a VLAN device and not to this one";
    /// The way back to the source leads by another device, or there is none (`rp_filter`).
    ReversePath, Receive, "reverse-path", None,
        "the packet came in by a device that does not lead back to its source, and rp_filter forbids that";
    /// Merged or unfilled in a way for which the virtio-net header has no word.
    UndescribableOffload, Receive, "undescribable-offload", None,
        "the kernel could not say how the datagram was merged; switch off gro on the underlay device";
    /// Fewer than 12 bytes of GRE, over IPv6 fewer than 4 (RX-01).
    TooShort, Receive, "too-short", None,
        "too few bytes for a GRE header, or over IPv4 fewer than 12 with the payload; Linux drops such packets too";
    /// A GRE version from 2 to 7 (RX-02).
    UnknownVersion, Receive, "unknown-version", None,
        "the GRE version is neither 0 nor 1; the sender speaks something else";
    /// A bit of 0x0078 of the flags is set (RX-02).
    ReservedFlags, Receive, "reserved-flags", None,
        "a reserved flag is set that no GRE standard in use defines";
    /// RFC 1701 source routing (RX-03).
    RoutingPresent, Receive, "routing-present", None,
        "the packet asks for RFC 1701 source routing, which is obsolete and refused";
    /// The GRE header is shorter than its flags say (RX-04).
    TruncatedHeader, Receive, "truncated-header", None,
        "the GRE header ends before the options its flags announce";
    /// The GRE checksum is wrong (RX-05).
    BadChecksum, Receive, "bad-checksum", None,
        "the GRE checksum is wrong; a device on the way damages packets";
    /// The tunnel wants a checksum and there is none (RX-21).
    ChecksumMissing, Receive, "checksum-missing", Some("rx_crc_errors"),
        "this tunnel expects a checksum (icsum) and the peer sends none; set csum at the peer or noicsum here";
    /// The tunnel wants no checksum and there is one (RX-21).
    ChecksumUnexpected, Receive, "checksum-unexpected", Some("rx_crc_errors"),
        "the peer sends a checksum and this tunnel expects none; set icsum here or turn csum off at the peer";
    /// The tunnel wants a sequence number and there is none (RX-22).
    SequenceMissing, Receive, "sequence-missing", Some("rx_fifo_errors"),
        "this tunnel expects sequence numbers (iseq) and the peer sends none; set seq at the peer or noiseq here";
    /// The sequence number is behind the last one (RX-22).
    SequenceLate, Receive, "sequence-late", Some("rx_fifo_errors"),
        "the sequence number is behind the last one: packets were reordered or repeated, or the peer started again";
    /// The sequence number came before; told from late where packets are put in order (RFC 2890 §2.2).
    SequenceDuplicate, Receive, "sequence-duplicate", Some("rx_fifo_errors"),
        "a packet with this sequence number came before: something on the way repeats packets";
    /// The payload packet is shorter than its fixed header (RX-23).
    InnerTruncated, Receive, "inner-truncated", Some("rx_length_errors"),
        "the payload is too short for the IPv4 or IPv6 header that it should begin with";
    /// Sent to a tunnel's group by this host itself (RX-09).
    LoopedCopy, Receive, "looped-copy", None,
        "a copy of what this host itself sent to the tunnel's multicast group came back to it";
    /// ARP or neighbour discovery, brought by a tunnel without a remote.
    NeighbourTalk, Receive, "neighbour-talk", None,
        "ARP or neighbour discovery came in; where a tunnel without a remote sends to is decided on this host alone";
    /// The payload of an Ethernet tunnel is shorter than an Ethernet header (RX-23).
    FrameTruncated, Receive, "frame-truncated", None,
        "the payload is shorter than the Ethernet header that it should begin with";
    /// Congestion marked on a packet that is not ECN-capable (RX-24).
    EcnCorrupted, Receive, "ecn-corrupted", Some("rx_frame_errors"),
        "a router marked congestion on a packet whose payload is not ECN-capable; RFC 6040 says drop";
    /// The tunnel device cannot take a packet of this size (T5).
    InnerTooBigForDevice, Receive, "inner-too-big-for-device", None,
        "the payload is larger than the tunnel device takes; raise the device's MTU or lower the peer's";
    /// The tunnel device is down or gone.
    DeviceDown, Receive, "device-down", None,
        "the tunnel device is down or gone; bring it up with 'ip link set'";
    /// The tunnel device's queue is full.
    DeviceQueueFull, Receive, "device-queue-full", None,
        "the host did not take packets from the tunnel device fast enough";
    /// The tunnel device refused the packet for another reason.
    DeviceRefused, Receive, "device-refused", None,
        "the tunnel device refused the packet";
    /// The socket that receives for all tunnels was full; whose packets they were cannot be told. The kernel counts in
    /// the same place what a policy of IPsec keeps from a raw socket (linux net/ipv4/raw.c v6.18, `raw_rcv`).
    UnderlaySocketOverflow, Receive, "underlay-socket-overflow", None,
        "the socket that receives for all tunnels was full, or an IPsec policy refused what it would have got";
    /// The tunnel's own queue for what arrived was full, others having their turn too.
    ReceiveQueueFull, Receive, "receive-queue-full", None,
        "more came for this tunnel than its share of what this host carries";
    /// Nothing to send, or less than the fixed header of its kind.
    NoPayload, Transmit, "no-payload", None,
        "the packet is shorter than the IP header that it should begin with";
    /// The TTL to be copied to the outer header is 0.
    TtlExhausted, Transmit, "ttl-exhausted", None,
        "the packet's TTL is 0 and the tunnel copies it (ttl inherit)";
    /// The packet is this tunnel's own GRE packet (TX-04).
    Recursion, Transmit, "recursion", Some("collisions"),
        "the route to the remote endpoint leads into the tunnel itself, maybe by way of another; add one by the underlay";
    /// A super-packet whose headers contradict what it should be split into.
    UnsplittableOffload, Transmit, "unsplittable-offload", None,
        "the sender left work to the device that does not fit the packet's own headers";
    /// The packet inside says that it comes from the remote endpoint itself (T6-02).
    InnerSourceIsRemote, Transmit, "inner-source-is-remote", Some("tx_errors"),
        "the packet's own source is the remote endpoint of the tunnel; carrying it there would loop";
    /// The packet may not be encapsulated once more (T6-03, RFC 2473 §4.1.1).
    EncapsulationLimit, Transmit, "encapsulation-limit", Some("tx_errors"),
        "the packet's own encapsulation limit is 0: it may not be put into another tunnel";
    /// Nothing may be sent from an address that is not settled here (T6-01).
    LocalNotHere, Transmit, "local-not-here", Some("tx_errors"),
        "the tunnel's local address is not on this host, or still being checked for duplicates; add it to a device";
    /// The remote is an address of this host (T6-01).
    RemoteIsHere, Transmit, "remote-is-here", Some("tx_errors"),
        "the tunnel's remote is an address of this host; name the peer's, or set allow-localremote";
    /// No peer is named and neither a neighbour nor a route says which one (TX-02).
    NoEndpoint, Transmit, "no-endpoint", Some("tx_fifo_errors"),
        "the tunnel has no remote, and no neighbour or next hop inside names one; add a route via it or 'ip neigh'";
    /// Larger than the path or a datagram allows (TX-06).
    TooBigForPath, Transmit, "too-big-for-path", Some("tx_errors"),
        "the packet with its tunnel headers is larger than the path takes and may not be fragmented";
    /// No route to the remote endpoint (TX-04).
    NoRoute, Transmit, "no-route", Some("tx_carrier_errors"),
        "this host has no route to the remote endpoint, or the underlay is down";
    /// Refused with EPERM: an OUTPUT rule or an IPsec policy.
    FirewallRefused, Transmit, "firewall-refused", None,
        "the host's firewall or an IPsec policy refused to let GRE (protocol 47) out";
    /// The socket that takes what comes out of the tunnel device was full.
    QueueFull, Transmit, "queue-full", None,
        "more came out of the tunnel device than this host carries";
    /// A queue of the kernel between the tunnel device and the data plane was full.
    KernelQueue, Transmit, "kernel-queue", None,
        "the kernel's queue behind the tunnel device was full; raise net.core.netdev_max_backlog";
    /// The host's queues are full (ENOBUFS, EAGAIN).
    HostQueueFull, Transmit, "host-queue-full", None,
        "the host's send queue was full";
    /// Any other error of the send call.
    SendFailed, Transmit, "send-failed", None,
        "the kernel refused to send the packet; the daemon's log has the error";
}

impl DropReason {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Position among the counters, below [`DropReason::COUNT`].
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_kebab_case_and_unique() {
        let names: HashSet<_> =
            DropReason::ALL.iter().map(|r| r.name()).chain(DeclineReason::NAMES).collect();
        assert_eq!(names.len(), DropReason::COUNT + DeclineReason::COUNT);
        for reason in DropReason::ALL {
            let kebab = |c: char| c.is_ascii_lowercase() || c == '-';
            assert!(reason.name().chars().all(kebab), "{reason:?}");
            let text = reason.explain();
            assert!(!text.ends_with('.') && text.len() > 20, "{reason:?}");
        }
    }

    #[test]
    fn an_index_is_the_position_in_all() {
        for (position, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), position);
        }
    }
}
