//! The maximum segment size that TCP announces (RFC 9293 §3.7.1), lowered to what fits through a tunnel.
//!
//! A host on a LAN behind the tunnel announces what fits its LAN. Path MTU discovery would find the tunnel,
//! where every router and firewall on the way lets its messages through. The option of the SYN is rewritten in
//! place; nothing else of a connection is touched.

use greway_spec::MssClamp;
use greway_wire::transport::{self, Protocol, Transport};
use greway_wire::{checksum, ethertype, ipv4, ipv6};

use crate::tunnel::Tunnel;

/// Bytes of a TCP header without options.
const TCP: usize = 20;
/// Flag of the 14th byte of a TCP header.
const SYN: u8 = 0x02;
/// The smallest value that is written to fit: less would be no connection (linux net/ipv4/tcp_ipv4.c,
/// v6.18, `tcp_min_snd_mss`).
const LEAST: u16 = 48;

/// Lowers the segment size of a SYN where the tunnel clamps it. `mtu`: what the tunnel takes now, in bytes;
/// `unfilled`: the TCP checksum is still to be filled in; `forwards`: this host does. True: it was lowered.
pub fn clamp_mss(
    tunnel: &Tunnel,
    protocol_type: u16,
    packet: &mut [u8],
    unfilled: bool,
    mtu: u32,
    forwards: bool,
) -> bool {
    let Some(link) = tunnel.link(protocol_type, packet) else { return false };
    let header = match link.ethertype {
        ethertype::IPV4 => ipv4::MIN_LEN,
        ethertype::IPV6 => ipv6::LEN,
        _ => return false,
    };
    let limit = match tunnel.mss() {
        MssClamp::Auto if forwards => {
            u16::try_from((mtu as usize).saturating_sub(header + TCP)).unwrap_or(u16::MAX).max(LEAST)
        }
        MssClamp::Fixed(bytes) => bytes,
        MssClamp::Auto | MssClamp::Off => return false,
    };
    lower(&mut packet[link.len..], unfilled, limit)
}

fn lower(packet: &mut [u8], unfilled: bool, limit: u16) -> bool {
    if !may_be_syn(packet) {
        return false;
    }
    let tcp = Transport::locate(packet).filter(|found| found.protocol == Protocol::Tcp);
    let Some(transport) = tcp else { return false };
    let begin = transport.offset;
    if packet.get(begin + 13).is_none_or(|flags| flags & SYN == 0) {
        return false;
    }
    let Some(at) = packet.get(begin + TCP..transport.payload_at()).and_then(option) else { return false };
    let at = begin + TCP + at;
    let announced = u16::from_be_bytes([packet[at], packet[at + 1]]);
    if announced <= limit {
        return false;
    }
    packet[at..at + 2].copy_from_slice(&limit.to_be_bytes());
    // One that is not filled in yet is summed later, with the new value.
    if !unfilled {
        let field = transport.checksum_at();
        let old = u16::from_be_bytes([packet[field], packet[field + 1]]);
        // An option at an odd place has its halves in two words of the sum.
        let new = match (at - begin) % 2 {
            0 => checksum::update(old, announced, limit),
            _ => checksum::update(old, announced.swap_bytes(), limit.swap_bytes()),
        };
        packet[field..field + 2].copy_from_slice(&new.to_be_bytes());
    }
    true
}

/// A quick no for nearly every packet of a connection.
fn may_be_syn(packet: &[u8]) -> bool {
    let begin = match packet.first().map(|first| first >> 4) {
        Some(4) if packet.get(9) == Some(&transport::TCP) => usize::from(packet[0] & 0x0f) * 4,
        Some(6) if packet.get(6) == Some(&transport::TCP) => ipv6::LEN,
        // Behind extension headers it has to be looked for.
        Some(6) => return packet.get(6).is_some_and(|next| matches!(next, 0 | 43 | 44 | 60)),
        _ => return false,
    };
    packet.get(begin + 13).is_some_and(|flags| flags & SYN != 0)
}

/// Where the value of the option is among the options.
fn option(options: &[u8]) -> Option<usize> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const MSS: u8 = 2;
    let mut at = 0;
    while let Some(kind) = options.get(at) {
        match *kind {
            END => return None,
            NO_OPERATION => at += 1,
            kind => {
                let length = usize::from(*options.get(at + 1)?);
                if kind == MSS {
                    return (length == 4 && at + 4 <= options.len()).then_some(at + 2);
                }
                // An option is at least its kind and its length.
                at += if length >= 2 { length } else { return None };
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::counters::TunnelCounters;
    use greway_spec::Draft;
    use greway_wire::checksum::Checksum;
    use greway_wire::ipv4::Ipv4Header;
    use greway_wire::ipv6::Ipv6Header;
    use proptest::prelude::*;

    fn tunnel(mss: MssClamp) -> Tunnel {
        let mut draft = Draft::new("tun0".parse().unwrap(), [10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        draft.mss = Some(mss.into());
        Tunnel::new(&draft.into_spec().unwrap(), Arc::new(TunnelCounters::new()))
    }

    /// A TCP segment with these options, behind an IP header.
    fn segment(six: bool, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut tcp = vec![0; 20];
        tcp[12] = ((20 + options.len()) / 4 * 16) as u8;
        tcp[13] = flags;
        tcp.extend(options);
        tcp.extend(payload);
        let mut packet = if six {
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: 0,
                payload_length: tcp.len() as u16,
                next_header: 6,
                hop_limit: 64,
                source: "fd00::1".parse().unwrap(),
                destination: "fd00::2".parse().unwrap(),
            };
            let mut bytes = vec![0; 40];
            header.emit(&mut bytes).unwrap();
            bytes
        } else {
            let header = Ipv4Header {
                tos: 0,
                total_length: (20 + tcp.len()) as u16,
                identification: 0,
                dont_fragment: true,
                more_fragments: false,
                fragment_offset: 0,
                ttl: 64,
                protocol: 6,
                source: [172, 16, 0, 1].into(),
                destination: [172, 16, 0, 2].into(),
                options: &[],
            };
            let mut bytes = vec![0; 20];
            header.emit(&mut bytes).unwrap();
            bytes
        };
        packet.extend(tcp);
        let sum = sum(&packet).value();
        let at = Transport::locate(&packet).unwrap().checksum_at();
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    fn sum(packet: &[u8]) -> Checksum {
        let transport = Transport::locate(packet).unwrap();
        let mut sum = transport.pseudo_header((packet.len() - transport.offset) as u32);
        sum.add(&packet[transport.offset..]);
        sum
    }

    fn clamp(mss: MssClamp, packet: &mut [u8], mtu: u32, forwards: bool) -> bool {
        let kind = if packet[0] >> 4 == 6 { ethertype::IPV6 } else { ethertype::IPV4 };
        clamp_mss(&tunnel(mss), kind, packet, false, mtu, forwards)
    }

    fn value(packet: &[u8]) -> u16 {
        let transport = Transport::locate(packet).unwrap();
        let options = &packet[transport.offset + 20..transport.payload_at()];
        let at = option(options).unwrap();
        u16::from_be_bytes([options[at], options[at + 1]])
    }

    proptest! {
        #[test]
        fn a_lowered_syn_has_its_checksum_wherever_the_option_stands(
            six: bool,
            ack: bool,
            before in 0_usize..9,
            announced: u16,
            mtu in 100_u32..9000,
            payload in proptest::collection::vec(any::<u8>(), 0..9),
        ) {
            let mut options = vec![1; before];
            options.extend([2, 4]);
            options.extend(announced.to_be_bytes());
            options.resize(options.len().next_multiple_of(4), 0);
            let mut packet = segment(six, if ack { 0x12 } else { 0x02 }, &options, &payload);
            let fits = (mtu as u16 - if six { 60 } else { 40 }).max(LEAST);
            let lowered = clamp(MssClamp::Auto, &mut packet, mtu, true);
            prop_assert_eq!(lowered, announced > fits);
            prop_assert_eq!(value(&packet), announced.min(fits));
            prop_assert!(sum(&packet).verifies());
        }

        #[test]
        fn noise_is_left_alone_or_lowered(bytes in proptest::collection::vec(any::<u8>(), 0..100), six: bool) {
            let kind = if six { ethertype::IPV6 } else { ethertype::IPV4 };
            let mut packet = bytes.clone();
            if !clamp_mss(&tunnel(MssClamp::Auto), kind, &mut packet, false, 1000, true) {
                prop_assert_eq!(packet, bytes);
            }
        }
    }

    #[test]
    fn who_is_clamped_and_to_what() {
        let syn = || segment(false, 0x02, &[2, 4, 0x05, 0xb4], &[]);
        let lowered = |mss, forwards| {
            let mut packet = syn();
            clamp(mss, &mut packet, 1476, forwards).then(|| value(&packet))
        };
        assert_eq!(lowered(MssClamp::Auto, true), Some(1436));
        assert_eq!(lowered(MssClamp::Auto, false), None);
        assert_eq!(lowered(MssClamp::Off, true), None);
        assert_eq!(lowered(MssClamp::Fixed(1200), false), Some(1200));
        assert_eq!(lowered(MssClamp::Fixed(1460), true), None);
        // Neither a segment of an open connection, nor a SYN without the option, nor half an option.
        for (flags, options) in
            [(0x10, &[2, 4, 5, 0xb4][..]), (2, &[1, 1, 1, 0]), (2, &[1, 1, 2, 4]), (2, &[3, 0, 2, 4])]
        {
            let mut packet = segment(false, flags, options, b"x");
            let before = packet.clone();
            assert!(!clamp(MssClamp::Auto, &mut packet, 576, true), "{options:?}");
            assert_eq!(packet, before);
        }
        // An unfilled checksum stays as it is: the sum is made later.
        let mut packet = syn();
        let field = packet[36..38].to_vec();
        assert!(clamp_mss(&tunnel(MssClamp::Auto), ethertype::IPV4, &mut packet, true, 1476, true));
        assert_eq!((value(&packet), &packet[36..38]), (1436, field.as_slice()));
    }
}
