//! What a sender left undone in a packet, as the kernel's virtio-net header tells it.
//!
//! A packet inside one host may be a super-packet of up to 64 KiB and may have its last checksum
//! unfilled. These are facts about bytes, so they travel beside the packet; where nobody knows them
//! (a raw IP socket), [`crate::unfilled`] reads them off the bytes.

/// Work left undone in a packet. Offsets are relative to the slice it describes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Offload {
    /// A checksum field that holds only the sum over the pseudo header.
    pub partial: Option<Partial>,
    /// The packet stands for several.
    pub gso: Option<Gso>,
}

/// An unfilled checksum (`csum_start`, `csum_offset` of the virtio-net header).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Partial {
    /// First byte that the checksum covers.
    pub start: u16,
    /// Offset of the checksum field **from `start`**.
    pub offset: u16,
}

/// A super-packet: to be split into packets of at most `size` bytes of transport payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gso {
    /// What it is split into.
    pub kind: GsoKind,
    /// Transport payload bytes of each segment (`gso_size`).
    pub size: u16,
    /// Bytes of all headers up to the transport payload. From the kernel a hint that is sometimes
    /// wrong (forwarded traffic): the engine never relies on it and always returns the right value.
    pub header_len: u16,
    /// The congestion window was reduced in it (TCP's CWR is set).
    pub ecn: bool,
}

/// What a super-packet consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GsoKind {
    /// TCP in IPv4.
    Tcp4,
    /// TCP in IPv6.
    Tcp6,
    /// UDP in either.
    Udp,
}

impl Offload {
    /// Nothing was left undone.
    pub const NONE: Self = Self { partial: None, gso: None };

    /// Whether nothing was left undone.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }
}
