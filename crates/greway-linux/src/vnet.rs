//! The virtio-net header: what a device would still have to do to a packet.
//!
//! A packet socket with `PACKET_VNET_HDR` and a TUN device with `IFF_VNET_HDR` put it in front of
//! each packet, in both directions. It lets one packet of up to 64 KiB stand for a train of segments
//! and lets a checksum stay unfilled until somebody needs it. It can say TCP and UDP segmentation
//! and nothing else: no GRE, no SCTP (linux include/linux/virtio_net.h `virtio_net_hdr_from_skb`).
//!
//! ```text
//!  0        1        2        4        6            8             10
//! +--------+--------+--------+--------+------------+-------------+
//! | flags  |gso type| hdr len|gso size| csum start | csum offset |   native byte order
//! +--------+--------+--------+--------+------------+-------------+
//! ```

/// Length of the header in bytes (`struct virtio_net_hdr`, the short form).
pub const LEN: usize = 10;

/// How a packet larger than the link is to be cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GsoType {
    /// Not at all.
    #[default]
    None,
    /// Into TCP segments over IPv4.
    Tcp4,
    /// Into TCP segments over IPv6.
    Tcp6,
    /// Into UDP datagrams (each gets its own UDP header).
    UdpL4,
    /// Into IP fragments of one UDP datagram (the old UFO).
    Udp,
}

/// A virtio-net header. Offsets and lengths are in bytes from the start of the packet behind it,
/// link-layer header included where the packet has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VnetHeader {
    /// The checksum at `csum_start + csum_offset` holds only the pseudo-header's sum; whoever needs
    /// it must sum from `csum_start` to the end.
    pub needs_csum: bool,
    /// The device or the sender vouches for the checksum.
    pub data_valid: bool,
    /// How to cut the packet.
    pub gso_type: GsoType,
    /// The TCP segments carry ECN: CWR only on the first of them.
    pub ecn: bool,
    /// Bytes of header to repeat for each segment: a hint, unreliable on forwarded traffic.
    pub hdr_len: u16,
    /// Payload bytes of each segment.
    pub gso_size: u16,
    /// Where summing starts.
    pub csum_start: u16,
    /// Where, from `csum_start`, the result goes.
    pub csum_offset: u16,
}

/// Length in bytes of the form for packets in tunnels (`struct virtio_net_hdr_v1_hash_tunnel`, Linux 6.17).
pub const TUNNEL_LEN: usize = 24;

/// Where what a tunnel carries is in a frame, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inside {
    /// The tunnel is one over IPv6.
    pub over_ipv6: bool,
    /// What is behind the outer IP header.
    pub outer_transport: u16,
    /// The IP header inside.
    pub network: u16,
}

/// A header with a segmentation type that this program does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown segmentation type {value:#04x} in a virtio-net header")]
pub struct UnknownGsoType {
    /// The type byte, without the ECN bit.
    pub value: u8,
}

impl VnetHeader {
    /// A header that asks for nothing.
    pub const NONE: Self = Self {
        needs_csum: false,
        data_valid: false,
        gso_type: GsoType::None,
        ecn: false,
        hdr_len: 0,
        gso_size: 0,
        csum_start: 0,
        csum_offset: 0,
    };

    /// Reads a header.
    ///
    /// # Errors
    ///
    /// [`UnknownGsoType`] when the kernel names a segmentation that we cannot carry out.
    pub const fn parse(bytes: &[u8; LEN]) -> Result<Self, UnknownGsoType> {
        let gso_type = match bytes[1] & !GSO_ECN {
            GSO_NONE => GsoType::None,
            GSO_TCPV4 => GsoType::Tcp4,
            GSO_UDP => GsoType::Udp,
            GSO_TCPV6 => GsoType::Tcp6,
            GSO_UDP_L4 => GsoType::UdpL4,
            value => return Err(UnknownGsoType { value }),
        };
        Ok(Self {
            needs_csum: bytes[0] & NEEDS_CSUM != 0,
            data_valid: bytes[0] & DATA_VALID != 0,
            gso_type,
            ecn: bytes[1] & GSO_ECN != 0,
            hdr_len: u16::from_ne_bytes([bytes[2], bytes[3]]),
            gso_size: u16::from_ne_bytes([bytes[4], bytes[5]]),
            csum_start: u16::from_ne_bytes([bytes[6], bytes[7]]),
            csum_offset: u16::from_ne_bytes([bytes[8], bytes[9]]),
        })
    }

    /// Writes the header.
    pub fn emit(&self, bytes: &mut [u8; LEN]) {
        *bytes = self.to_bytes();
    }

    /// The header as bytes.
    #[must_use]
    pub const fn to_bytes(&self) -> [u8; LEN] {
        let mut flags = 0;
        if self.needs_csum {
            flags |= NEEDS_CSUM;
        }
        if self.data_valid {
            flags |= DATA_VALID;
        }
        let mut gso_type = match self.gso_type {
            GsoType::None => GSO_NONE,
            GsoType::Tcp4 => GSO_TCPV4,
            GsoType::Udp => GSO_UDP,
            GsoType::Tcp6 => GSO_TCPV6,
            GsoType::UdpL4 => GSO_UDP_L4,
        };
        if self.ecn {
            gso_type |= GSO_ECN;
        }
        let [a, b] = self.hdr_len.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.csum_start.to_ne_bytes();
        let [g, h] = self.csum_offset.to_ne_bytes();
        [flags, gso_type, a, b, c, d, e, f, g, h]
    }

    /// The longer form for a packet in a tunnel: the fields describe what is inside, and `inside` says where that is.
    #[must_use]
    pub const fn to_tunnel_bytes(&self, inside: Inside) -> [u8; TUNNEL_LEN] {
        let short = self.to_bytes();
        let mut bytes = [0; TUNNEL_LEN];
        let mut at = 0;
        while at < LEN {
            bytes[at] = short[at];
            at += 1;
        }
        bytes[1] |= if inside.over_ipv6 { GSO_UDP_TUNNEL_IPV6 } else { GSO_UDP_TUNNEL_IPV4 };
        // Buffers and hash of the packet, from byte 10 on, are nobody's here. These two are little-endian always.
        [bytes[20], bytes[21]] = inside.outer_transport.to_le_bytes();
        [bytes[22], bytes[23]] = inside.network.to_le_bytes();
        bytes
    }

    /// Whether the packet stands for more than one segment.
    #[must_use]
    pub fn is_super(&self) -> bool {
        self.gso_type != GsoType::None
    }
}

// linux include/uapi/linux/virtio_net.h
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP: u8 = 3;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_UDP_TUNNEL_IPV4: u8 = 0x20;
const GSO_UDP_TUNNEL_IPV6: u8 = 0x40;
const GSO_ECN: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_round_trips() {
        for gso_type in [GsoType::None, GsoType::Tcp4, GsoType::Tcp6, GsoType::UdpL4, GsoType::Udp] {
            for bits in 0..8u8 {
                let header = VnetHeader {
                    needs_csum: bits & 1 != 0,
                    data_valid: bits & 2 != 0,
                    gso_type,
                    ecn: bits & 4 != 0,
                    hdr_len: 54,
                    gso_size: 1448,
                    csum_start: 34,
                    csum_offset: 16,
                };
                let mut bytes = [0xaa; LEN];
                header.emit(&mut bytes);
                assert_eq!(VnetHeader::parse(&bytes), Ok(header));
            }
        }
        assert_eq!(VnetHeader::NONE.to_bytes(), [0; LEN]);
        assert_eq!(VnetHeader::parse(&[0; LEN]), Ok(VnetHeader::default()));
    }

    #[test]
    fn the_form_for_tunnels_begins_as_the_short_one() {
        let header =
            VnetHeader { needs_csum: true, gso_type: GsoType::Tcp6, gso_size: 1_400, ..VnetHeader::NONE };
        let inside = Inside { over_ipv6: false, outer_transport: 0x0102, network: 0x0304 };
        let bytes = header.to_tunnel_bytes(inside);
        let mut short = header.to_bytes();
        short[1] |= 0x20;
        assert_eq!(bytes[..LEN], short);
        assert_eq!(bytes[LEN..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 4, 3]);
        assert_eq!(header.to_tunnel_bytes(Inside { over_ipv6: true, ..inside })[1], 0x44);
    }

    #[test]
    fn an_unknown_segmentation_is_said() {
        let mut bytes = [0; LEN];
        for value in [2, 6, 0x20, 0x40, 0x7f] {
            bytes[1] = value | GSO_ECN;
            assert_eq!(VnetHeader::parse(&bytes), Err(UnknownGsoType { value }));
        }
    }
}
