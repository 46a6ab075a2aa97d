//! The tunnel encapsulation limit (RFC 2473 §4.1.1, §6.6): how many more tunnels over IPv6 a packet may enter.
//!
//! ```text
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Next Header  | Hdr Ext Len 0 | Option Type 4 | Opt Data Len 1|
//! |     Limit     |   PadN type 1 |  PadN length 1|       0       |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use crate::extension::{DESTINATION_OPTIONS, Extensions};

/// Bytes of the destination options header that carries the limit and nothing else.
pub const OPTION_LEN: usize = 8;

/// Type of the option.
const LIMIT: u8 = 4;
/// Type of the one byte of padding that has no length.
const PAD_1: u8 = 0;

/// A limit found in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// How many more tunnels.
    pub limit: u8,
    /// Offset of the limit's byte in the packet.
    pub at: usize,
}

/// The destination options header that the kernel's tunnels send (linux net/ipv6/ip6_tunnel.c v6.18,
/// `init_tel_txopt`). `next_header`: what follows it.
pub fn option(next_header: u8, limit: u8) -> [u8; OPTION_LEN] {
    [next_header, 0, LIMIT, 1, limit, 1, 1, 0]
}

/// The limit of an IPv6 packet, where it has one (`ip6_tnl_parse_tlv_enc_lim`).
pub fn find(packet: &[u8]) -> Option<Found> {
    Extensions::of(packet)
        .filter(|extension| extension.kind == DESTINATION_OPTIONS)
        .find_map(|extension| in_options(packet, extension.at + 2, extension.at + extension.len))
}

fn in_options(packet: &[u8], mut at: usize, end: usize) -> Option<Found> {
    while at < end {
        let kind = *packet.get(at)?;
        if kind == PAD_1 {
            at += 1;
            continue;
        }
        let len = usize::from(*packet.get(at + 1)?);
        if kind == LIMIT && len == 1 {
            let at = at + 2;
            return packet.get(at).filter(|_| at < end).map(|limit| Found { limit: *limit, at });
        }
        at += 2 + len;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipv6;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn packet(options: &[u8]) -> Vec<u8> {
        let mut bytes = std::vec![0; ipv6::LEN];
        bytes[6] = DESTINATION_OPTIONS;
        bytes.extend(options);
        bytes
    }

    #[test]
    fn t6_03_what_is_written_is_found() {
        assert_eq!(option(47, 4), [0x2f, 0, 4, 1, 4, 1, 1, 0]);
        assert_eq!(find(&packet(&option(47, 9))), Some(Found { limit: 9, at: 44 }));
        // Behind padding of both kinds.
        let padded = [59, 1, 0, 1, 2, 0, 0, 0, 4, 1, 3, 1, 3, 0, 0, 0];
        assert_eq!(find(&packet(&padded)), Some(Found { limit: 3, at: 50 }));
        assert_eq!(find(&packet(&[59, 0, 1, 4, 0, 0, 0, 0])), None);
        assert_eq!(find(&packet(&[59, 0, 1, 2, 0, 0, 4, 1])), None);
    }

    proptest! {
        #[test]
        fn noise_is_never_read_past(bytes in proptest::collection::vec(0_u8..70, 0..90)) {
            if let Some(found) = find(&bytes) {
                prop_assert_eq!(bytes.get(found.at), Some(&found.limit));
            }
        }
    }
}
