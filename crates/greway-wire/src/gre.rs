//! The GRE header, version 0, with checksum, key and sequence number (RFC 2784 §2, RFC 2890 §2).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |C|R|K|S|s|Recur|A| Flags | Ver |         Protocol Type         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |      Checksum (C)             |       Reserved1               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                         Key (K)                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                    Sequence Number (S)                        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! What is accepted is what Linux accepts (linux net/ipv4/gre_demux.c, v6.18, `gre_rcv` and
//! `gre_parse_header`), which is neither RFC to the letter: the demultiplexer takes seven bits of the
//! second byte for the version, so that a set bit of `Flags` is an unknown version, while `s`, `Recur`
//! and the bit `A` (PPTP's acknowledgement) are ignored. Version 1 (RFC 2637) and source routing
//! (RFC 1701) are recognised and never read further.

use core::fmt;

use crate::{ShortBuffer, be16, be32, front};

/// IP protocol number of GRE.
pub const PROTOCOL: u8 = 47;
/// Bytes of a header without options.
pub const BASE_LEN: usize = 4;
/// Bytes of a header with all three options.
pub const MAX_LEN: usize = 16;
/// Offset of the checksum field where there is one.
pub const CHECKSUM_OFFSET: usize = 4;

/// Flag C of the first word: a checksum is present.
pub const CHECKSUM_PRESENT: u16 = 0x8000;
/// Flag R: RFC 1701 source routing is present.
pub const ROUTING_PRESENT: u16 = 0x4000;
/// Flag K: a key is present.
pub const KEY_PRESENT: u16 = 0x2000;
/// Flag S: a sequence number is present.
pub const SEQUENCE_PRESENT: u16 = 0x1000;
/// What the demultiplexer takes for the version: seven bits of the second byte.
const VERSION_AS_DEMULTIPLEXED: u16 = 0x007f;
/// The version field proper.
const VERSION: u16 = 0x0007;

/// A GRE header of version 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GreHeader {
    /// EtherType of the payload packet.
    pub protocol_type: u16,
    /// The checksum field where C is set; not verified by [`GreHeader::parse`].
    pub checksum: Option<u16>,
    /// The key where K is set.
    pub key: Option<u32>,
    /// The sequence number where S is set.
    pub sequence_number: Option<u32>,
}

/// Why bytes are no GRE header of version 0 that may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GreError {
    /// Fewer bytes than the four every header has.
    TooShort {
        /// Bytes there are.
        length: usize,
    },
    /// Version 1: PPTP's (RFC 2637 §4.1) or another owner's packet.
    VersionOne,
    /// A version from 2 to 7.
    UnknownVersion {
        /// The version field.
        version: u8,
    },
    /// A bit of 0x0078 is set, which Linux takes for a part of the version.
    ReservedFlags {
        /// The first word of the header.
        flags: u16,
    },
    /// Source routing (RFC 1701 §2, deprecated by RFC 2784 §2.1).
    RoutingPresent,
    /// The header ends before the options its flags promise.
    Truncated {
        /// Bytes the flags ask for.
        needed: usize,
        /// Bytes there are.
        length: usize,
    },
}

impl fmt::Display for GreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { length } => write!(f, "{length} bytes are no GRE header"),
            Self::VersionOne => f.write_str("GRE version 1 (PPTP)"),
            Self::UnknownVersion { version } => write!(f, "unknown GRE version {version}"),
            Self::ReservedFlags { flags } => write!(f, "reserved flags set in 0x{flags:04x}"),
            Self::RoutingPresent => f.write_str("source routing present"),
            Self::Truncated { needed, length } => {
                write!(f, "the flags ask for {needed} bytes of header, there are {length}")
            }
        }
    }
}

impl core::error::Error for GreError {}

impl GreHeader {
    /// Reads the header at the start of `bytes`; returns it with its length in bytes.
    ///
    /// # Errors
    /// In the order in which Linux looks: version (RX-02), routing (RX-03), length (RX-04).
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), GreError> {
        Self::parse_with_version(bytes, VERSION_AS_DEMULTIPLEXED)
    }

    /// Reads the header of a packet over IPv6, where Linux has no demultiplexer and so looks at no reserved flag
    /// (net/ipv6/ip6_gre.c v6.18, `gre_rcv`).
    ///
    /// # Errors
    /// As [`GreHeader::parse`], but never [`GreError::ReservedFlags`].
    pub fn parse_over_ipv6(bytes: &[u8]) -> Result<(Self, usize), GreError> {
        Self::parse_with_version(bytes, VERSION)
    }

    /// `version`: the bits that must be zero, or make version 1.
    fn parse_with_version(bytes: &[u8], version: u16) -> Result<(Self, usize), GreError> {
        let length = bytes.len();
        let (Some(flags), Some(protocol_type)) = (be16(bytes, 0), be16(bytes, 2)) else {
            return Err(GreError::TooShort { length });
        };
        match flags & version {
            0 => {}
            1 => return Err(GreError::VersionOne),
            _ if flags & VERSION >= 2 => {
                return Err(GreError::UnknownVersion { version: (flags & VERSION) as u8 });
            }
            _ => return Err(GreError::ReservedFlags { flags }),
        }
        if flags & ROUTING_PRESENT != 0 {
            return Err(GreError::RoutingPresent);
        }
        let needed = length_of(flags);
        if length < needed {
            return Err(GreError::Truncated { needed, length });
        }
        let mut at = BASE_LEN;
        let mut option = |present: u16| {
            let value = if flags & present != 0 { be32(bytes, at) } else { None };
            at += if value.is_some() { 4 } else { 0 };
            value
        };
        let checksum = option(CHECKSUM_PRESENT).map(|word| (word >> 16) as u16);
        let key = option(KEY_PRESENT);
        let sequence_number = option(SEQUENCE_PRESENT);
        Ok((Self { protocol_type, checksum, key, sequence_number }, needed))
    }

    /// Bytes that [`GreHeader::emit`] writes: 4 to 16.
    pub fn header_len(&self) -> usize {
        length_of(self.flags())
    }

    /// The first word as it is sent.
    pub fn flags(&self) -> u16 {
        let bit = |present: bool, flag: u16| if present { flag } else { 0 };
        bit(self.checksum.is_some(), CHECKSUM_PRESENT)
            | bit(self.key.is_some(), KEY_PRESENT)
            | bit(self.sequence_number.is_some(), SEQUENCE_PRESENT)
    }

    /// Writes the header, the checksum field as it is in `self` and Reserved1 as zero; returns the
    /// bytes written.
    ///
    /// # Errors
    /// [`ShortBuffer`] where `buffer` is shorter than [`GreHeader::header_len`].
    pub fn emit(&self, buffer: &mut [u8]) -> Result<usize, ShortBuffer> {
        let needed = self.header_len();
        let header = front(buffer, needed)?;
        header[0..2].copy_from_slice(&self.flags().to_be_bytes());
        header[2..4].copy_from_slice(&self.protocol_type.to_be_bytes());
        let options = [self.checksum.map(|field| u32::from(field) << 16), self.key, self.sequence_number];
        let slots = header[BASE_LEN..].chunks_exact_mut(4);
        for (slot, word) in slots.zip(options.into_iter().flatten()) {
            slot.copy_from_slice(&word.to_be_bytes());
        }
        Ok(needed)
    }
}

/// Header bytes for a flags word, of which only C, K and S count.
pub fn length_of(flags: u16) -> usize {
    let options = flags & (CHECKSUM_PRESENT | KEY_PRESENT | SEQUENCE_PRESENT);
    BASE_LEN + 4 * options.count_ones() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_header() -> impl Strategy<Value = GreHeader> {
        (any::<u16>(), any::<Option<u16>>(), any::<Option<u32>>(), any::<Option<u32>>()).prop_map(
            |(protocol_type, checksum, key, sequence_number)| GreHeader {
                protocol_type,
                checksum,
                key,
                sequence_number,
            },
        )
    }

    #[test]
    fn options_stand_in_the_order_checksum_key_sequence() {
        let bytes = [0xb0, 0, 8, 0, 0x12, 0x34, 0, 0, 0, 0, 0, 42, 0, 0, 0, 7];
        let (header, length) = GreHeader::parse(&bytes).unwrap();
        assert_eq!(length, 16);
        assert_eq!(
            header,
            GreHeader {
                protocol_type: 0x0800,
                checksum: Some(0x1234),
                key: Some(42),
                sequence_number: Some(7)
            }
        );
        let mut out = [0xff; 16];
        assert_eq!(header.emit(&mut out), Ok(16));
        assert_eq!(out, bytes);
    }

    #[test]
    fn a_version_with_a_reserved_bit_is_not_version_one() {
        assert_eq!(GreHeader::parse(&[0x20, 0x81, 0x88, 0x0b]), Err(GreError::VersionOne));
        assert_eq!(
            GreHeader::parse(&[0x20, 0x09, 0x88, 0x0b]),
            Err(GreError::ReservedFlags { flags: 0x2009 })
        );
    }

    #[test]
    fn rx03_strict_route_and_recursion_bits_are_ignored() {
        let (header, length) = GreHeader::parse(&[0x0f, 0x80, 8, 0]).unwrap();
        assert_eq!((header.flags(), length), (0, 4));
    }

    proptest! {
        #[test]
        fn round_trip(header in any_header(), payload in proptest::collection::vec(any::<u8>(), 0..9)) {
            let mut buffer = [0xa5; MAX_LEN];
            let written = header.emit(&mut buffer).unwrap();
            let mut bytes = buffer[..written].to_vec();
            bytes.extend(payload);
            prop_assert_eq!(GreHeader::parse(&bytes), Ok((header, written)));
        }

        #[test]
        fn a_short_buffer_is_refused_and_left_alone(header in any_header(), room in 0_usize..MAX_LEN) {
            prop_assume!(room < header.header_len());
            let mut buffer = [0x5a; MAX_LEN];
            let refused = header.emit(&mut buffer[..room]);
            prop_assert_eq!(refused, Err(ShortBuffer { needed: header.header_len(), available: room }));
            prop_assert_eq!(buffer, [0x5a; MAX_LEN]);
        }

        #[test]
        fn noise_never_panics_and_never_reads_past_the_end(
            bytes in proptest::collection::vec(any::<u8>(), 0..24),
        ) {
            if let Ok((header, length)) = GreHeader::parse(&bytes) {
                prop_assert!(length <= bytes.len());
                prop_assert_eq!(length, header.header_len());
            }
        }

        #[test]
        fn every_cut_header_is_truncated(header in any_header(), cut in 0_usize..MAX_LEN) {
            let mut buffer = [0; MAX_LEN];
            let written = header.emit(&mut buffer).unwrap();
            prop_assume!(cut < written);
            let expected = if cut < BASE_LEN {
                GreError::TooShort { length: cut }
            } else {
                GreError::Truncated { needed: written, length: cut }
            };
            prop_assert_eq!(GreHeader::parse(&buffer[..cut]), Err(expected));
        }
    }
}
