//! The extension headers of an IPv6 packet (RFC 8200 §4), followed to what they lead to.
//!
//! ```text
//!  IPv6 header │ hop-by-hop │ destination options │ fragment │ … │ GRE
//!    next = 0 ─┘  next = 60 ┘          next = 44 ─┘ next = 47 ───┘
//! ```
//!
//! Nothing is interpreted here but lengths and the fragment header.

use crate::{array, ipv6};

/// Hop-by-hop options (RFC 8200 §4.3).
pub const HOP_BY_HOP: u8 = 0;
/// Routing (RFC 8200 §4.4).
pub const ROUTING: u8 = 43;
/// Fragment (RFC 8200 §4.5).
pub const FRAGMENT: u8 = 44;
/// Authentication (RFC 4302).
pub const AUTHENTICATION: u8 = 51;
/// Destination options (RFC 8200 §4.6).
pub const DESTINATION_OPTIONS: u8 = 60;

/// Bytes of a fragment header.
pub const FRAGMENT_LEN: usize = 8;
/// Extension headers that are followed; no real packet has so many.
const MOST: usize = 16;
/// Offset of the next header field in the IPv6 header.
const NEXT_HEADER: usize = 6;

/// Where the extension headers of a packet lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// To a protocol.
    To {
        /// Its number.
        protocol: u8,
        /// Offset of its header.
        at: usize,
        /// Whether the packet is for its destination as it is: no header says that it is authenticated, or
        /// that it has another hop to go.
        plain: bool,
    },
    /// To a fragment that is not the whole.
    Fragment(Fragment),
    /// Beyond what is there.
    Cut,
}

/// A fragment header (RFC 8200 §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Offset of the fragment header in the packet.
    pub at: usize,
    /// Offset of the field that names it.
    pub named_at: usize,
    /// What it names itself.
    pub next_header: u8,
    /// Where the piece belongs, in bytes.
    pub offset: usize,
    /// Others follow.
    pub more: bool,
    /// Which datagram.
    pub identification: u32,
}

/// One extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Its number.
    pub kind: u8,
    /// Its offset in the packet.
    pub at: usize,
    /// Its bytes, some of which may not be there.
    pub len: usize,
    /// Offset of the field that names it.
    pub named_at: usize,
}

/// The extension headers of a packet in order, up to a fragment header that has others beside it.
#[derive(Clone, Debug)]
pub struct Extensions<'a> {
    packet: &'a [u8],
    named_at: usize,
    at: usize,
    left: usize,
}

impl<'a> Extensions<'a> {
    /// Those of a packet that begins with an IPv6 header.
    pub fn of(packet: &'a [u8]) -> Self {
        Self { packet, named_at: NEXT_HEADER, at: ipv6::LEN, left: MOST }
    }

    fn kind(&self) -> Option<u8> {
        self.packet.get(self.named_at).copied()
    }
}

impl Iterator for Extensions<'_> {
    type Item = Extension;

    fn next(&mut self) -> Option<Extension> {
        let (kind, at) = (self.kind()?, self.at);
        let units = || self.packet.get(at + 1).copied().map(usize::from);
        let len = match kind {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => (units()? + 1) * 8,
            // In units of 4 bytes (RFC 4302 §2.2).
            AUTHENTICATION => (units()? + 2) * 4,
            FRAGMENT => FRAGMENT_LEN,
            _ => return None,
        };
        self.left = self.left.checked_sub(1)?;
        let extension = Extension { kind, at, len, named_at: self.named_at };
        self.named_at = at;
        self.at = at + len;
        Some(extension)
    }
}

/// Follows the extension headers of a packet up to a fragment header or what is none.
pub fn follow(packet: &[u8]) -> Chain {
    let mut extensions = Extensions::of(packet);
    let mut plain = true;
    for Extension { kind, at, named_at, .. } in extensions.by_ref() {
        match kind {
            FRAGMENT => match fragment(packet, at, named_at) {
                None => return Chain::Cut,
                // Of a packet that is whole (RFC 6946).
                Some(Fragment { offset: 0, more: false, .. }) => {}
                Some(fragment) => return Chain::Fragment(fragment),
            },
            AUTHENTICATION => plain = false,
            ROUTING => plain &= packet.get(at + 3) == Some(&0),
            _ => {}
        }
    }
    match extensions.kind() {
        // It stopped at a header that it could not read, or saw too many.
        None | Some(HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS) => Chain::Cut,
        Some(protocol) => Chain::To { protocol, at: extensions.at, plain },
    }
}

fn fragment(packet: &[u8], at: usize, named_at: usize) -> Option<Fragment> {
    let [next_header, _, high, low, identification @ ..] = array::<FRAGMENT_LEN>(packet, at)?;
    let word = u16::from_be_bytes([high, low]);
    Some(Fragment {
        at,
        named_at,
        next_header,
        offset: usize::from(word & !7),
        more: word & 1 == 1,
        identification: u32::from_be_bytes(identification),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn packet(first: u8, after: &[&[u8]]) -> Vec<u8> {
        let mut bytes = std::vec![0; ipv6::LEN];
        bytes[0] = 0x60;
        bytes[NEXT_HEADER] = first;
        bytes.extend(after.concat());
        bytes
    }

    #[test]
    fn the_chain_is_followed_to_the_protocol() {
        let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
        let found = |at| Chain::To { protocol: 47, at, plain: true };
        assert_eq!(follow(&packet(47, &[])), found(40));
        assert_eq!(follow(&packet(60, &[&options(47)])), found(48));
        assert_eq!(follow(&packet(0, &[&options(60), &options(47)])), found(56));
        // A fragment that is the whole packet.
        assert_eq!(follow(&packet(44, &[&[47, 0, 0, 0, 0, 0, 0, 9]])), found(48));
    }

    #[test]
    fn what_is_not_for_us_as_it_is_is_told() {
        let authenticated = packet(51, &[&[47, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]);
        assert_eq!(follow(&authenticated), Chain::To { protocol: 47, at: 52, plain: false });
        let on_its_way = packet(43, &[&[47, 0, 0, 1, 0, 0, 0, 0]]);
        assert_eq!(follow(&on_its_way), Chain::To { protocol: 47, at: 48, plain: false });
    }

    #[test]
    fn a_fragment_ends_the_chain() {
        let bytes = packet(60, &[&[44, 0, 1, 4, 0, 0, 0, 0], &[47, 0, 0x05, 0xa9, 0, 0, 1, 2]]);
        let fragment = Fragment {
            at: 48,
            named_at: 40,
            next_header: 47,
            offset: 0x5a8,
            more: true,
            identification: 0x102,
        };
        assert_eq!(follow(&bytes), Chain::Fragment(fragment));
        assert_eq!(follow(&bytes[..50]), Chain::Cut);
    }

    proptest! {
        #[test]
        fn noise_never_leads_astray(bytes in proptest::collection::vec(prop_oneof![
            any::<u8>(), Just(0), Just(43), Just(44), Just(51), Just(60)], 0..200)) {
            let mut last = ipv6::LEN;
            for extension in Extensions::of(&bytes) {
                prop_assert_eq!(extension.at, last);
                last += extension.len;
            }
            if let Chain::To { at, .. } = follow(&bytes) {
                prop_assert!(at >= ipv6::LEN);
            }
        }
    }
}
