//! The IPv4 header (RFC 791 §3.1): the delivery header, and what a tunnel reads of a payload packet.
//!
//! ```text
//!  0                   1                   2                   3
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Version|  IHL  |      TOS      |          Total Length         |
//! |         Identification        |Flags|     Fragment Offset     |
//! |      TTL      |    Protocol   |        Header Checksum        |
//! |                            Source                             |
//! |                          Destination                          |
//! |                       Options (IHL > 5)                       |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! Reading checks the version and the header length and nothing else: whether the total length is
//! there and whether the checksum holds are questions that a caller asks or not.

use core::fmt;
use core::net::Ipv4Addr;

use crate::{ShortBuffer, array, be16, checksum, front};

/// Bytes of a header without options.
pub const MIN_LEN: usize = 20;
/// Bytes of the longest header.
pub const MAX_LEN: usize = 60;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// An IPv4 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Header<'a> {
    /// Type of service: DSCP and ECN.
    pub tos: u8,
    /// Bytes of header and payload, as the field says.
    pub total_length: u16,
    /// Identification.
    pub identification: u16,
    /// DF.
    pub dont_fragment: bool,
    /// MF.
    pub more_fragments: bool,
    /// Fragment offset in units of 8 bytes.
    pub fragment_offset: u16,
    /// Time to live in hops.
    pub ttl: u8,
    /// Protocol number of the payload.
    pub protocol: u8,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Options with their padding, a multiple of 4 bytes up to 40.
    pub options: &'a [u8],
}

/// Why bytes are no IPv4 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv4Error {
    /// Fewer than 20 bytes.
    TooShort {
        /// Bytes there are.
        length: usize,
    },
    /// The version field is not 4.
    Version {
        /// The version field.
        version: u8,
    },
    /// The header length is below 20 or beyond what is there.
    HeaderLength {
        /// Bytes the field asks for.
        header_len: usize,
        /// Bytes there are.
        length: usize,
    },
}

impl fmt::Display for Ipv4Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { length } => write!(f, "{length} bytes are no IPv4 header"),
            Self::Version { version } => write!(f, "IP version {version} instead of 4"),
            Self::HeaderLength { header_len, length } => {
                write!(f, "an IPv4 header of {header_len} bytes in {length} bytes")
            }
        }
    }
}

impl core::error::Error for Ipv4Error {}

impl<'a> Ipv4Header<'a> {
    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// [`Ipv4Error`]; neither total length nor checksum are looked at.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Ipv4Error> {
        let length = bytes.len();
        let Some(fixed) = bytes.first_chunk::<MIN_LEN>() else {
            return Err(Ipv4Error::TooShort { length });
        };
        let version = fixed[0] >> 4;
        if version != 4 {
            return Err(Ipv4Error::Version { version });
        }
        let header_len = usize::from(fixed[0] & 0x0f) * 4;
        let wrong = Ipv4Error::HeaderLength { header_len, length };
        let options = bytes.get(MIN_LEN..header_len).ok_or(wrong)?;
        let field = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let address = |at: usize| Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]);
        let fragment = field(6);
        Ok(Self {
            tos: fixed[1],
            total_length: field(2),
            identification: field(4),
            dont_fragment: fragment & DONT_FRAGMENT != 0,
            more_fragments: fragment & MORE_FRAGMENTS != 0,
            fragment_offset: fragment & OFFSET,
            ttl: fixed[8],
            protocol: fixed[9],
            source: address(12),
            destination: address(16),
            options,
        })
    }

    /// Bytes of the header: 20 to 60.
    pub fn header_len(&self) -> usize {
        MIN_LEN + self.options.len().min(MAX_LEN - MIN_LEN) / 4 * 4
    }

    /// Whether this is a fragment of a larger datagram.
    pub fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }

    /// Writes the header with its checksum; returns the bytes written. Options beyond 40 bytes and
    /// an incomplete last word of them are left out.
    ///
    /// # Errors
    /// [`ShortBuffer`] where `buffer` is shorter than [`Ipv4Header::header_len`].
    pub fn emit(&self, buffer: &mut [u8]) -> Result<usize, ShortBuffer> {
        let needed = self.header_len();
        let header = front(buffer, needed)?;
        let bit = |set: bool, flag: u16| if set { flag } else { 0 };
        let fragment = bit(self.dont_fragment, DONT_FRAGMENT)
            | bit(self.more_fragments, MORE_FRAGMENTS)
            | (self.fragment_offset & OFFSET);
        header[0] = 0x40 | (needed / 4) as u8;
        header[1] = self.tos;
        header[2..4].copy_from_slice(&self.total_length.to_be_bytes());
        header[4..6].copy_from_slice(&self.identification.to_be_bytes());
        header[6..8].copy_from_slice(&fragment.to_be_bytes());
        header[8] = self.ttl;
        header[9] = self.protocol;
        header[10..12].fill(0);
        header[12..16].copy_from_slice(&self.source.octets());
        header[16..20].copy_from_slice(&self.destination.octets());
        header[MIN_LEN..].copy_from_slice(&self.options[..needed - MIN_LEN]);
        let field = checksum::checksum(header);
        header[10..12].copy_from_slice(&field.to_be_bytes());
        Ok(needed)
    }
}

/// The source and destination addresses of a packet that has been parsed.
pub fn addresses(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    Some((Ipv4Addr::from(array::<4>(packet, 12)?), Ipv4Addr::from(array::<4>(packet, 16)?)))
}

/// Sets the TOS byte of the packet and mends the header checksum incrementally (RFC 1624); a wrong
/// checksum stays wrong. Nothing happens to fewer than 20 bytes.
pub fn set_tos(packet: &mut [u8], tos: u8) {
    rewrite(packet, 0, |word| (word & 0xff00) | u16::from(tos));
}

/// Sets the total length and mends the header checksum incrementally.
pub fn set_total_length(packet: &mut [u8], total_length: u16) {
    rewrite(packet, 2, |_| total_length);
}

/// Sets the identification and mends the header checksum incrementally.
pub fn set_identification(packet: &mut [u8], identification: u16) {
    rewrite(packet, 4, |_| identification);
}

fn rewrite(packet: &mut [u8], at: usize, change: impl FnOnce(u16) -> u16) {
    if packet.len() < MIN_LEN {
        return;
    }
    let (Some(old), Some(field)) = (be16(packet, at), be16(packet, 10)) else { return };
    let new = change(old);
    packet[at..at + 2].copy_from_slice(&new.to_be_bytes());
    packet[10..12].copy_from_slice(&checksum::update(field, old, new).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[derive(Debug, Clone)]
    struct Owned {
        header: Ipv4Header<'static>,
        options: Vec<u8>,
    }

    fn any_header() -> impl Strategy<Value = Owned> {
        let words = proptest::collection::vec(any::<[u8; 4]>(), 0..=10);
        (any::<[u16; 3]>(), any::<[u8; 3]>(), any::<[bool; 2]>(), any::<[u8; 8]>(), words).prop_map(
            |(wide, narrow, flags, addresses, options)| Owned {
                header: Ipv4Header {
                    tos: narrow[0],
                    total_length: wide[0],
                    identification: wide[1],
                    dont_fragment: flags[0],
                    more_fragments: flags[1],
                    fragment_offset: wide[2] & OFFSET,
                    ttl: narrow[1],
                    protocol: narrow[2],
                    source: Ipv4Addr::new(addresses[0], addresses[1], addresses[2], addresses[3]),
                    destination: Ipv4Addr::new(addresses[4], addresses[5], addresses[6], addresses[7]),
                    options: &[],
                },
                options: options.concat(),
            },
        )
    }

    proptest! {
        #[test]
        fn round_trip_with_a_checksum_that_holds(owned in any_header()) {
            let header = Ipv4Header { options: &owned.options, ..owned.header };
            let mut buffer = [0; MAX_LEN];
            let written = header.emit(&mut buffer).unwrap();
            prop_assert_eq!(Ipv4Header::parse(&buffer[..written]), Ok(header));
            prop_assert!(checksum::verifies(&buffer[..written]));
        }

        #[test]
        fn a_short_buffer_is_refused_and_left_alone(owned in any_header(), room in 0_usize..MAX_LEN) {
            let header = Ipv4Header { options: &owned.options, ..owned.header };
            prop_assume!(room < header.header_len());
            let mut buffer = [0x5a; MAX_LEN];
            prop_assert!(header.emit(&mut buffer[..room]).is_err());
            prop_assert_eq!(buffer, [0x5a; MAX_LEN]);
        }

        #[test]
        fn noise_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), tos: u8) {
            if let Ok(header) = Ipv4Header::parse(&bytes) {
                prop_assert!(header.header_len() <= bytes.len());
            }
            set_tos(&mut bytes, tos);
            prop_assert!(bytes.len() < MIN_LEN || bytes[1] == tos);
        }

        #[test]
        fn rewriting_keeps_the_checksum_right(owned in any_header(), tos: u8, id: u16, length: u16) {
            let header = Ipv4Header { options: &owned.options, ..owned.header };
            let mut buffer = [0; MAX_LEN];
            let written = header.emit(&mut buffer).unwrap();
            set_tos(&mut buffer[..written], tos);
            set_identification(&mut buffer[..written], id);
            set_total_length(&mut buffer[..written], length);
            prop_assert!(checksum::verifies(&buffer[..written]));
            let expected = Ipv4Header { tos, identification: id, total_length: length, ..header };
            prop_assert_eq!(Ipv4Header::parse(&buffer[..written]), Ok(expected));
        }
    }
}
