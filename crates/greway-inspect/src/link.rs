//! From a frame to its network layer, for the link types that GRE is captured on.

use greway_wire::ethertype;

/// Tags of one frame at most: two for a provider's network, and some to spare.
const MOST_TAGS: usize = 4;

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkLayer<'f> {
    /// The EtherType.
    pub ethertype: u16,
    /// VLAN identifiers, the outermost first.
    pub vlans: Vec<u16>,
    /// What follows the link header.
    pub bytes: &'f [u8],
}

/// Reads the link header; `None` where the link type is not known or the frame too short.
///
/// The numbers are those of the LINKTYPE registry: 1 Ethernet, 0 and 108 BSD loopback, 12, 14 and 101
/// raw IP, 228 and 229 raw IPv4 and IPv6, 113 and 276 Linux cooked.
pub fn network_layer(link: u16, frame: &[u8]) -> Option<NetworkLayer<'_>> {
    match link {
        1 => ethernet(frame),
        113 => tagged(be16(frame, 14)?, frame.get(16..)?),
        276 => tagged(be16(frame, 0)?, frame.get(20..)?),
        0 | 108 => by_version(frame.get(4..)?),
        12 | 14 | 101 | 228 | 229 => by_version(frame),
        _ => None,
    }
}

/// Reads an Ethernet header with its tags.
pub fn ethernet(frame: &[u8]) -> Option<NetworkLayer<'_>> {
    tagged(be16(frame, 12)?, frame.get(14..)?)
}

/// Takes 802.1Q and 802.1ad tags off.
fn tagged(mut ethertype: u16, mut bytes: &[u8]) -> Option<NetworkLayer<'_>> {
    let mut vlans = Vec::new();
    while matches!(ethertype, ethertype::VLAN | ethertype::QINQ) && vlans.len() < MOST_TAGS {
        vlans.push(be16(bytes, 0)? & 0x0fff);
        ethertype = be16(bytes, 2)?;
        bytes = bytes.get(4..)?;
    }
    Some(NetworkLayer { ethertype, vlans, bytes })
}

fn by_version(bytes: &[u8]) -> Option<NetworkLayer<'_>> {
    let ethertype = match bytes.first()? >> 4 {
        4 => ethertype::IPV4,
        6 => ethertype::IPV6,
        _ => return None,
    };
    Some(NetworkLayer { ethertype, vlans: Vec::new(), bytes })
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([field[0], field[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: [u8; 3] = [0x45, 1, 2];

    fn on(link: u16, header: &[u8]) -> Option<(u16, Vec<u16>, usize)> {
        let frame = [header, &IP].concat();
        let layer = network_layer(link, &frame)?;
        assert_eq!(layer.bytes, IP);
        Some((layer.ethertype, layer.vlans, header.len()))
    }

    #[test]
    fn every_link_type_leads_to_the_same_packet() {
        let macs = [0; 12];
        let cooked = [&[0; 14][..], &[8, 0]].concat();
        let cooked2 = [&[8, 0][..], &[0; 18]].concat();
        let tags = [&macs[..], &[0x88, 0xa8, 0, 5, 0x81, 0, 0xe0, 7, 8, 0]].concat();
        assert_eq!(on(1, &[&macs[..], &[8, 0]].concat()), Some((0x0800, vec![], 14)));
        assert_eq!(on(1, &tags), Some((0x0800, vec![5, 7], 22)));
        assert_eq!(on(113, &cooked), Some((0x0800, vec![], 16)));
        assert_eq!(on(276, &cooked2), Some((0x0800, vec![], 20)));
        assert_eq!(on(0, &[2, 0, 0, 0]), Some((0x0800, vec![], 4)));
        assert_eq!(on(101, &[]), Some((0x0800, vec![], 0)));
        assert_eq!(network_layer(999, &IP), None);
        assert_eq!(network_layer(1, &macs), None);
    }
}
