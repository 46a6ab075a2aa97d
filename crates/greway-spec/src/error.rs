//! Why a draft is no tunnel.

use std::net::IpAddr;

use crate::given::Span;
use crate::name::DeviceName;
use crate::spec::Prefix;

/// One field of one tunnel cannot be as it was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {field}{}: {problem}", Self::object(.tunnel), Self::quoted(.value))]
pub struct SpecError {
    /// The tunnel's name, where it has one.
    pub tunnel: Option<DeviceName>,
    /// The field, in iproute2's words; what is inside the tunnel starts with `inner`.
    pub field: &'static str,
    /// The value as text, where one was given.
    pub value: Option<Box<str>>,
    /// Where the value was written.
    pub span: Option<Span>,
    /// What is wrong with it and what would be right.
    pub problem: Problem,
}

impl SpecError {
    fn object(tunnel: &Option<DeviceName>) -> String {
        tunnel.as_ref().map_or_else(|| "tunnel".to_owned(), |name| format!("tunnel {name}"))
    }

    fn quoted(value: &Option<Box<str>>) -> String {
        value.as_ref().map_or_else(String::new, |value| format!(" \"{value}\""))
    }
}

fn remote_word(group: &bool) -> &'static str {
    if *group { "a group as remote" } else { "remote any" }
}

/// What is wrong with a value, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Required and absent.
    #[error("is missing; {0}")]
    Missing(&'static str),
    /// `remote any` for an Ethernet tunnel, which the kernel refuses too.
    #[error("is not for mode {mode}: an Ethernet tunnel has one far end; give its address")]
    AnyRemote {
        /// The mode of the tunnel.
        mode: crate::spec::Mode,
    },
    /// A setting that cannot be where anybody may send.
    #[error("cannot be with {}: {wanted}", remote_word(.group))]
    NotWithRemote {
        /// The remote is a group; else there is none.
        group: bool,
        /// What would be right, and why.
        wanted: &'static str,
    },
    /// Neighbours of a tunnel that has one far end.
    #[error(
        "is for tunnels of modes gre and ip6gre with remote any; every other one has its far end already"
    )]
    NeighboursNeedAnyRemote,
    /// Neither unspecified nor unicast.
    #[error("is no address of a host; a unicast address is right")]
    NotUnicast,
    /// IPv6 where IPv4 is needed, or the reverse.
    #[error("is of the wrong family; {wanted} is right here")]
    Family {
        /// `an IPv4 address`, say.
        wanted: &'static str,
    },
    /// Both ends of the tunnel are one address.
    #[error("is the local address too; local is an address of this host, remote one of the peer")]
    SameEnds,
    /// A multicast group as the far end, and no source for what is sent to it.
    #[error("is a multicast address and needs a local address to send from; give local")]
    MulticastNeedsLocal,
    /// A field that this mode's delivery header has no place for.
    #[error("is not for mode {mode}; {wanted}")]
    NotOfMode {
        /// The mode of the tunnel.
        mode: crate::spec::Mode,
        /// `modes ip6gre and ip6gretap have it`, say.
        wanted: &'static str,
    },
    /// More than 20 bits.
    #[error("is no flow label; 0 to 0xfffff is right")]
    FlowLabelRange,
    /// `ignore-df` with path MTU discovery on.
    #[error("needs nopmtudisc: with pmtudisc on, DF is always set")]
    IgnoreDfNeedsNopmtudisc,
    /// `direct` with something that no program carries.
    #[error(
        "is for the programs in the kernel, and {beside} keeps the tunnel from them; one of the two has to go"
    )]
    DirectNeedsPrograms {
        /// The other setting, in the words of `greway tunnel add`.
        beside: &'static str,
    },
    /// The MTU does not fit.
    #[error("{least} to {most} is right for this tunnel")]
    MtuRange {
        /// Smallest allowed MTU in bytes.
        least: u32,
        /// Largest allowed MTU in bytes.
        most: u32,
    },
    /// IPv6 cannot work with such an MTU (RFC 8200 §5).
    #[error("is less than the 1280 that the IPv6 address inside the tunnel needs")]
    MtuBelowIpv6,
    /// A name that is always taken.
    #[error("is a reserved name ({0}); choose another")]
    ReservedName(&'static str),
    /// The underlay device is the tunnel itself.
    #[error("is the tunnel itself; name the device that the outer packets leave by")]
    OwnDevice,
    /// A re-creation is needed and was not asked for.
    #[error("cannot be changed from {from}; delete the tunnel and add it again")]
    NotChangeable {
        /// The present value.
        from: String,
    },
    /// A prefix length that the family does not have.
    #[error("a prefix length of 0 to {most} is right")]
    PrefixLength {
        /// 32 or 128.
        most: u8,
    },
    /// Bits set to the right of the prefix length.
    #[error("has bits set beyond its prefix length; {right} is right")]
    HostBits {
        /// The prefix with the host bits zero.
        right: Prefix,
    },
    /// Our address and the peer's are one.
    #[error("is our own inner address too; it is the peer's address that belongs here")]
    SameInnerEnds,
    /// The peer's inner address is its outer one.
    #[error(
        "is the peer's outer address too, which would send the tunnel's packets into the tunnel; leave the peer out or give its inner address"
    )]
    InnerPeerIsRemote,
    /// A route over a device that is left down.
    #[error("needs a device that is up; let the link come up, or leave the route out")]
    RouteNeedsUp,
    /// A table that a tunnel's route cannot be in.
    #[error("is no table for it: 1 to 4294967295 but 255 is right; 254 is main, where none is named")]
    RouteTable,
    /// A rule that contradicts itself.
    #[error("{0}")]
    Rule(&'static str),
    /// Said twice.
    #[error("is there twice")]
    Twice,
    /// The next hop is this host.
    #[error("is this host's own inner address ({0}); the next hop is the peer")]
    ViaOurselves(IpAddr),
    /// SNAT without an inner peer address.
    #[error("needs an inner IPv4 address with a peer: packets from that peer are the ones translated")]
    SnatNeedsPeer,
}
