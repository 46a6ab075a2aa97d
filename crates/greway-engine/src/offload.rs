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

    /// The same with `bytes` more before the packet.
    #[must_use]
    pub fn behind(self, bytes: usize) -> Self {
        // A link header has few bytes; what does not fit 16 bits then was no packet.
        let further = |at: u16| at.saturating_add(bytes as u16);
        Self {
            partial: self.partial.map(|partial| Partial { start: further(partial.start), ..partial }),
            gso: self.gso.map(|gso| Gso { header_len: further(gso.header_len), ..gso }),
        }
    }

    /// The same without the first `bytes` of the packet; `None` where a checksum covers some of them.
    pub fn without(self, bytes: usize) -> Option<Self> {
        let bytes = u16::try_from(bytes).ok()?;
        let partial = match self.partial {
            Some(partial) => Some(Partial { start: partial.start.checked_sub(bytes)?, ..partial }),
            None => None,
        };
        let gso = self.gso.map(|gso| Gso { header_len: gso.header_len.saturating_sub(bytes), ..gso });
        Some(Self { partial, gso })
    }

    /// Whether nothing was left undone.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_before_the_packet_moves_the_offsets() {
        let partial = Some(Partial { start: 20, offset: 16 });
        let gso = Some(Gso { kind: GsoKind::Tcp4, size: 1400, header_len: 40, ecn: false });
        for offload in [Offload { partial, gso }, Offload { partial, gso: None }, Offload::NONE] {
            assert_eq!(offload.behind(14).without(14), Some(offload));
        }
        assert_eq!(Offload { partial, gso }.behind(18).partial, Some(Partial { start: 38, offset: 16 }));
        assert_eq!(Offload { partial, gso }.without(21), None, "covered by the checksum");
    }
}
