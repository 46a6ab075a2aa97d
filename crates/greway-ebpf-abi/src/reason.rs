//! Why a program left a packet to those behind it, and why it dropped one.

/// Defines an enum whose numbers count up from 0, with the word for each.
macro_rules! reasons {
    (
        $(#[$meta:meta])* $name:ident;
        $( $(#[$doc:meta])* $variant:ident, $word:literal; )+
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum $name {
            $( $(#[$doc])* $variant, )+
        }

        impl $name {
            /// Every reason, in the order of its index.
            pub const ALL: [Self; [$( $word, )+].len()] = [$( Self::$variant, )+];

            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The word for it in `status`, metrics and tests.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $word, )+ }
            }
        }
    };
}

reasons! {
    /// Why a program left a packet to userspace. None of these is an error. The number is the index into
    /// `declined` of the counters.
    Decline;
    /// No tunnel of the fast path has this peer end, or these addresses and this key.
    NoTunnel, "no-tunnel";
    /// Neither IPv4 nor IPv6: ARP, for one.
    NotIp, "not-ip";
    /// IP, but the protocol is not 47.
    NotGre, "not-gre";
    /// Shorter than its headers say, or than a header is.
    Truncated, "truncated";
    /// It carries a VLAN tag.
    VlanTagged, "vlan-tagged";
    /// Addressed on the link to somebody else, or to several (`pkt_type` is not `PACKET_HOST`).
    OtherHost, "other-host";
    /// The delivery header has options or extension headers, other than a tunnel encapsulation limit.
    IpOptions, "ip-options";
    /// The delivery packet is a fragment.
    Fragment, "fragment";
    /// GRE version other than 0: PPTP uses 1 (RFC 2637 §4.1).
    GreVersion, "gre-version";
    /// The routing bit of RFC 1701 is set.
    GreRouting, "gre-routing";
    /// A checksum or a sequence number, which userspace checks (RFC 2784 §2.3, RFC 2890 §2.2).
    GreCheckedField, "gre-checked-field";
    /// A flag of the GRE header that is none of C, R, K and S.
    GreFlags, "gre-flags";
    /// The checksum of the outer IPv4 header is wrong (T3).
    OuterChecksum, "outer-checksum";
    /// Bytes follow the datagram: link padding.
    Padded, "padded";
    /// Sent to a group.
    Multicast, "multicast";
    /// The tunnel has no `local`, and the destination is no address of this host.
    NotLocal, "not-local";
    /// It came in by another device than the tunnel's packets are to come by.
    OtherDevice, "other-device";
    /// Which tunnel it belongs to depends on `dev` in a way that takes the whole table.
    Ambiguous, "ambiguous";
    /// GRE without a payload type: a keepalive.
    Keepalive, "keepalive";
    /// A payload type that userspace translates or refuses: WCCP, ERSPAN, a tag, a length.
    PayloadType, "payload-type";
    /// Larger than the path, the device or a datagram allows.
    TooBig, "too-big";
    /// No next hop is known.
    Unresolved, "unresolved";
    /// GRE to the tunnel's own remote: perhaps this tunnel's own packet (TX-04).
    Recursion, "recursion";
    /// It came out of a tunnel in this state (T12): the kernel refuses to encapsulate it once more.
    AlreadyEncapsulated, "already-encapsulated";
    /// A TCP handshake whose segment size the tunnel clamps.
    Handshake, "handshake";
    /// Userspace asked to see the next packets (T18).
    Asked, "asked";
    /// Userspace has told this tunnel to carry nothing here for now.
    Withheld, "withheld";
    /// The TTL or hop limit that would be copied is 0.
    TtlExhausted, "ttl-exhausted";
    /// The payload packet has extension headers that are to be read before it is encapsulated.
    InnerOptions, "inner-options";
    /// A super-packet of a kind whose segments cannot be measured.
    SuperPacket, "super-packet";
    /// The kernel refused to make or take away room for the headers.
    Refused, "refused";
    /// It is not shown that the host's rules let this tunnel's packets pass.
    Closed, "closed";
}

reasons! {
    /// Why a program dropped a packet. The names are those of the engine's drop reasons. The number is the index
    /// into `dropped` of the counters.
    Dropped;
    /// Congestion marked on a packet that is not ECN-capable (RX-24).
    EcnCorrupted, "ecn-corrupted";
    /// The kernel had no memory to write the headers it had made room for.
    SendFailed, "send-failed";
    /// The same on the way in.
    DeviceRefused, "device-refused";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_own_index() {
        for (index, reason) in Decline::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{}", reason.name());
            assert!(Decline::ALL[..index].iter().all(|other| other.name() != reason.name()));
        }
        for (index, reason) in Dropped::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{}", reason.name());
        }
    }
}
