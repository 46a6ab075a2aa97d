//! Where the network packet in an Ethernet frame begins.
//!
//! A gretap tunnel carries frames as they are (protocol type 0x6558), and still TTL, TOS, ECN, DF and the path
//! MTU go by the IP packet in them, as in the kernel (linux net/ipv4/ip_tunnel.c v6.18, `skb_protocol` with VLAN
//! tags skipped). Nothing here looks at addresses: who is to have a frame is a bridge's business.

use greway_wire::ethertype;

/// Bytes of an Ethernet header without tags.
pub const ETHERNET: usize = 14;
/// Bytes of a VLAN tag.
pub const TAG: usize = 4;
/// More tags than these are no link header any more: the frame is carried all the same, as what it is.
const MAX_TAGS: usize = 2;
/// Bytes of the longest link header: Ethernet with a service and a customer tag (IEEE 802.1ad).
pub const MAX_LINK: usize = ETHERNET + MAX_TAGS * TAG;

/// What lies before the network packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// EtherType of the network packet; a length (below 0x0600) where it is an LLC frame.
    pub ethertype: u16,
    /// Bytes before it: 0 where there is no frame, else the Ethernet header and its tags.
    pub len: usize,
}

impl Link {
    /// The link header of a frame; `None` where it is shorter than one.
    pub fn of_frame(frame: &[u8]) -> Option<Self> {
        let mut ethertype = be16(frame, ETHERNET - 2)?;
        let mut len = ETHERNET;
        for _ in 0..MAX_TAGS {
            if !matches!(ethertype, ethertype::VLAN | ethertype::QINQ) {
                break;
            }
            // A tag that is cut off hides nothing.
            let Some(behind) = be16(frame, len + 2) else { break };
            ethertype = behind;
            len += TAG;
        }
        Some(Self { ethertype, len })
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk::<2>().map(|pair| u16::from_be_bytes(*pair))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(after_addresses: &[u8]) -> Vec<u8> {
        [&[2; 12][..], after_addresses].concat()
    }

    #[test]
    fn tags_are_part_of_the_link_header() {
        let link = |bytes: &[u8]| Link::of_frame(&frame(bytes)).map(|link| (link.ethertype, link.len));
        assert_eq!(link(&[8, 0, 0x45]), Some((0x0800, 14)));
        assert_eq!(link(&[8, 0]), Some((0x0800, 14)));
        assert_eq!(link(&[8]), None);
        assert_eq!(link(&[0x81, 0, 0, 5, 0x86, 0xdd]), Some((0x86dd, 18)));
        assert_eq!(link(&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 8, 0]), Some((0x0800, 22)));
        // The third tag is what is carried; half a tag is none.
        let three = [0x81, 0, 0, 5, 0x81, 0, 0, 6, 0x81, 0, 0, 7, 8, 0];
        assert_eq!(link(&three), Some((0x8100, MAX_LINK)));
        assert_eq!(link(&[0x81, 0, 0, 5, 8]), Some((0x8100, 14)));
        // An LLC frame, a spanning tree's say.
        assert_eq!(link(&[0, 38, 0x42, 0x42, 3]), Some((38, 14)));
    }

    proptest! {
        #[test]
        fn noise_has_a_link_header_within_it(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            match Link::of_frame(&bytes) {
                Some(link) => prop_assert!(link.len <= bytes.len() && link.len <= MAX_LINK),
                None => prop_assert!(bytes.len() < ETHERNET),
            }
        }
    }
}
