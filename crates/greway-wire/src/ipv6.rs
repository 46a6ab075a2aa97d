//! The fixed IPv6 header (RFC 8200 §3), as far as a tunnel that carries it reads and rewrites it.
//!
//! ```text
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Version| Traffic Class |              Flow Label               |
//! |         Payload Length        |  Next Header  |   Hop Limit   |
//! |                       Source (16 bytes)                       |
//! |                    Destination (16 bytes)                     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use core::fmt;
use core::net::Ipv6Addr;

use crate::{ShortBuffer, array, front};

/// Bytes of the fixed header.
pub const LEN: usize = 40;

/// The fixed IPv6 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Header {
    /// Traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// Bytes after this header.
    pub payload_length: u16,
    /// Protocol number of what follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
}

/// Why bytes are no IPv6 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6Error {
    /// Fewer than 40 bytes.
    TooShort {
        /// Bytes there are.
        length: usize,
    },
    /// The version field is not 6.
    Version {
        /// The version field.
        version: u8,
    },
}

impl fmt::Display for Ipv6Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { length } => write!(f, "{length} bytes are no IPv6 header"),
            Self::Version { version } => write!(f, "IP version {version} instead of 6"),
        }
    }
}

impl core::error::Error for Ipv6Error {}

impl Ipv6Header {
    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// [`Ipv6Error`]; the payload length is not compared with what is there.
    pub fn parse(bytes: &[u8]) -> Result<Self, Ipv6Error> {
        let Some(fixed) = bytes.first_chunk::<LEN>() else {
            return Err(Ipv6Error::TooShort { length: bytes.len() });
        };
        let first = u32::from_be_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]);
        let version = (first >> 28) as u8;
        if version != 6 {
            return Err(Ipv6Error::Version { version });
        }
        let address = |at: usize| Ipv6Addr::from(array::<16>(fixed, at).unwrap_or_default());
        Ok(Self {
            traffic_class: (first >> 20) as u8,
            flow_label: first & 0xf_ffff,
            payload_length: u16::from_be_bytes([fixed[4], fixed[5]]),
            next_header: fixed[6],
            hop_limit: fixed[7],
            source: address(8),
            destination: address(24),
        })
    }

    /// Writes the header; returns the bytes written.
    ///
    /// # Errors
    /// [`ShortBuffer`] where `buffer` is shorter than 40 bytes.
    pub fn emit(&self, buffer: &mut [u8]) -> Result<usize, ShortBuffer> {
        let header = front(buffer, LEN)?;
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | (self.flow_label & 0xf_ffff);
        header[0..4].copy_from_slice(&first.to_be_bytes());
        header[4..6].copy_from_slice(&self.payload_length.to_be_bytes());
        header[6] = self.next_header;
        header[7] = self.hop_limit;
        header[8..24].copy_from_slice(&self.source.octets());
        header[24..40].copy_from_slice(&self.destination.octets());
        Ok(LEN)
    }
}

/// The traffic class of bytes that are said to be IPv6; the version field is not looked at, as in
/// linux include/net/dsfield.h (v6.18), `ipv6_get_dsfield`.
pub fn traffic_class(packet: &[u8]) -> Option<u8> {
    array::<2>(packet, 0).map(|[high, low]| high << 4 | low >> 4)
}

/// The flow label of bytes that are said to be IPv6.
pub fn flow_label(packet: &[u8]) -> Option<u32> {
    array::<4>(packet, 0).map(|word| u32::from_be_bytes(word) & 0xf_ffff)
}

/// Sets the traffic class; nothing happens to fewer than 40 bytes.
pub fn set_traffic_class(packet: &mut [u8], traffic_class: u8) {
    if packet.len() >= LEN {
        packet[0] = (packet[0] & 0xf0) | traffic_class >> 4;
        packet[1] = (packet[1] & 0x0f) | traffic_class << 4;
    }
}

/// Sets the payload length; nothing happens to fewer than 40 bytes.
pub fn set_payload_length(packet: &mut [u8], payload_length: u16) {
    if packet.len() >= LEN {
        packet[4..6].copy_from_slice(&payload_length.to_be_bytes());
    }
}

/// The source and destination addresses of a packet that has been parsed.
pub fn addresses(packet: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    Some((Ipv6Addr::from(array::<16>(packet, 8)?), Ipv6Addr::from(array::<16>(packet, 24)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_header() -> impl Strategy<Value = Ipv6Header> {
        (any::<[u8; 3]>(), 0_u32..1 << 20, any::<u16>(), any::<[u16; 8]>(), any::<[u16; 8]>()).prop_map(
            |(narrow, flow_label, payload_length, source, destination)| Ipv6Header {
                traffic_class: narrow[0],
                flow_label,
                payload_length,
                next_header: narrow[1],
                hop_limit: narrow[2],
                source: source.into(),
                destination: destination.into(),
            },
        )
    }

    proptest! {
        #[test]
        fn round_trip(header in any_header()) {
            let mut buffer = [0xa5; LEN];
            prop_assert_eq!(header.emit(&mut buffer), Ok(LEN));
            prop_assert_eq!(Ipv6Header::parse(&buffer), Ok(header));
            prop_assert_eq!(traffic_class(&buffer), Some(header.traffic_class));
        }

        #[test]
        fn a_short_buffer_is_refused(header in any_header(), room in 0_usize..LEN) {
            let mut buffer = [0x5a; LEN];
            prop_assert!(header.emit(&mut buffer[..room]).is_err());
            prop_assert_eq!(buffer, [0x5a; LEN]);
            prop_assert_eq!(
                Ipv6Header::parse(&buffer[..room]), Err(Ipv6Error::TooShort { length: room })
            );
        }

        #[test]
        fn only_the_traffic_class_changes(header in any_header(), class: u8) {
            let mut buffer = [0; LEN];
            header.emit(&mut buffer).unwrap();
            set_traffic_class(&mut buffer, class);
            let expected = Ipv6Header { traffic_class: class, ..header };
            prop_assert_eq!(Ipv6Header::parse(&buffer), Ok(expected));
        }

        #[test]
        fn noise_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..60), class: u8) {
            let _ = Ipv6Header::parse(&bytes).is_ok();
            set_traffic_class(&mut bytes, class);
            prop_assert!(bytes.len() < LEN || traffic_class(&bytes) == Some(class));
        }
    }
}
