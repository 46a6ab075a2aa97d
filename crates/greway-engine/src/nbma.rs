//! Tunnels without a remote: which endpoint a packet is for.
//!
//! The kernel's own tunnels of that kind have link-layer addresses that are addresses of the underlay, and ask no
//! neighbour (linux net/ipv4/ip_gre.c v6.18, `ipgre_header`, and ip_tunnel.c `ip_tunnel_xmit`): an explicit neighbour
//! names the endpoint, else the next hop is it, else the destination itself. Our device is an Ethernet one, so an
//! endpoint has a hardware address made of it, and the kernel's routing and neighbour table do the rest: it asks for
//! the next hop, and is answered here.
//!
//! ```text
//!   02:00:a:b:c:d    the endpoint a.b.c.d
//!   02:01:h:h:h:h    an endpoint over IPv6, by a hash of its address; known from the question for it
//! ```
//!
//! Nothing of this is on the wire. What tunnels bring of ARP and neighbour discovery is refused
//! ([`is_neighbour_talk`]): whoever may send into such a tunnel would decide where its packets go.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use greway_spec::InnerNeighbour;
use greway_wire::checksum::Checksum;
use greway_wire::extension::{self, Chain};
use greway_wire::icmp::PROTOCOL_V6 as ICMPV6;
use greway_wire::{ethertype, ipv6};

use crate::notice;

/// A hardware address.
pub type LinkAddress = [u8; 6];

/// The frame that answers a question, link header first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    bytes: [u8; ADVERTISEMENT],
    len: usize,
}

impl Answer {
    /// The frame.
    pub fn frame(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What became of a frame out of a tunnel device that is between the host and its neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    /// It is none; the packet is to be carried.
    None,
    /// A question, with what it is told.
    Answered(Answer),
    /// An announcement, a test whether an address is taken, or a question that nothing here can answer.
    Unanswered,
}

/// Most endpoints over IPv6 that a tunnel knows. The kernel keeps no more than 1,024 neighbours unless told to
/// (net.ipv6.neigh.default.gc_thresh3).
pub const MOST_ENDPOINTS: usize = 4_096;

const IPV4: [u8; 2] = [0x02, 0x00];
const IPV6: [u8; 2] = [0x02, 0x01];

/// The hardware address that stands for an endpoint.
pub fn link_address(endpoint: IpAddr) -> LinkAddress {
    let (prefix, [a, b, c, d]) = match endpoint {
        IpAddr::V4(address) => (IPV4, address.octets()),
        IpAddr::V6(address) => (IPV6, hash(address).to_be_bytes()),
    };
    [prefix[0], prefix[1], a, b, c, d]
}

/// FNV-1a: a daemon that starts anew must find the endpoints of the one before.
fn hash(address: Ipv6Addr) -> u32 {
    let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    address.octets().into_iter().fold(0x811c_9dc5, step)
}

/// The endpoints of one tunnel.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    over_ipv6: bool,
    known: HashMap<u32, Known>,
    /// Counts what was learnt; tells who was learnt last.
    clock: u64,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    endpoint: Ipv6Addr,
    learnt: u64,
}

impl Endpoints {
    /// Those of a tunnel over IPv6 or IPv4 with these explicit neighbours.
    pub fn new(over_ipv6: bool, neighbours: &[InnerNeighbour]) -> Self {
        let mut endpoints = Self { over_ipv6, ..Self::default() };
        for neighbour in neighbours {
            endpoints.learn(neighbour.endpoint);
        }
        endpoints
    }

    /// Knows an endpoint from now on. False where its hardware address stands for another one. The one that was
    /// learnt first of all makes room where there is none.
    pub fn learn(&mut self, endpoint: IpAddr) -> bool {
        let IpAddr::V6(endpoint) = endpoint else { return !self.over_ipv6 };
        let hash = hash(endpoint);
        if self.known.get(&hash).is_some_and(|known| known.endpoint != endpoint) {
            return false;
        }
        if self.known.len() >= MOST_ENDPOINTS && !self.known.contains_key(&hash) {
            let first = self.known.iter().min_by_key(|(_, known)| known.learnt).map(|(hash, _)| *hash);
            first.map(|first| self.known.remove(&first));
        }
        self.clock += 1;
        self.known.insert(hash, Known { endpoint, learnt: self.clock });
        true
    }

    /// Learns what the kernel's neighbour table still knows of endpoints: an IPv6 next hop under the hardware address
    /// that is made of it.
    pub fn learn_neighbour(&mut self, address: IpAddr, link: LinkAddress) {
        if self.over_ipv6 && address.is_ipv6() && link_address(address) == link {
            self.learn(address);
        }
    }

    /// The endpoint that a frame to this hardware address is for (TX-02).
    pub fn of(&self, address: LinkAddress) -> Option<IpAddr> {
        let [first, second, a, b, c, d] = address;
        match ([first, second], self.over_ipv6) {
            (IPV4, false) => {
                let endpoint = Ipv4Addr::new(a, b, c, d);
                (!endpoint.is_unspecified() && !endpoint.is_broadcast()).then_some(endpoint.into())
            }
            (IPV6, true) => {
                self.known.get(&u32::from_be_bytes([a, b, c, d])).map(|known| known.endpoint.into())
            }
            _ => None,
        }
    }

    /// Takes a frame out of the tunnel device, link header first.
    pub fn talk(&mut self, frame: &[u8]) -> Talk {
        let Some((&[_, _, _, _, _, _, a, b, c, d, e, f, high, low], packet)) =
            frame.split_first_chunk::<14>()
        else {
            return Talk::None;
        };
        let ethertype = u16::from_be_bytes([high, low]);
        if !is_neighbour_talk(ethertype, packet) {
            return Talk::None;
        }
        let answer = match ethertype {
            ethertype::ARP => self.arp([a, b, c, d, e, f], packet),
            _ => self.solicitation([a, b, c, d, e, f], packet),
        };
        answer.map_or(Talk::Unanswered, Talk::Answered)
    }

    /// RFC 826. A question from 0.0.0.0 or about the sender is a test or an announcement (RFC 5227 §2).
    fn arp(&self, asker: LinkAddress, packet: &[u8]) -> Option<Answer> {
        let packet = packet.first_chunk::<28>()?;
        // Ethernet and IPv4, a request.
        if self.over_ipv6 || packet[..8] != [0, 1, 8, 0, 6, 4, 0, 1] {
            return None;
        }
        let [sender, target] =
            [14, 24].map(|at| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]));
        if sender == target || !notice::is_host(sender) || !notice::is_host(target) {
            return None;
        }
        let answer = link_address(target.into());
        let mut bytes = [0; ADVERTISEMENT];
        write_link(&mut bytes, asker, answer, ethertype::ARP);
        let reply = &mut bytes[14..ARP_REPLY];
        reply[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
        reply[8..14].copy_from_slice(&answer);
        reply[14..18].copy_from_slice(&target.octets());
        reply[18..24].copy_from_slice(&packet[8..14]);
        reply[24..28].copy_from_slice(&sender.octets());
        Some(Answer { bytes, len: ARP_REPLY })
    }

    /// RFC 4861 §4.3, §4.4. A question from nowhere is a test whether an address is taken (RFC 4862 §5.4.2).
    fn solicitation(&mut self, asker: LinkAddress, packet: &[u8]) -> Option<Answer> {
        let (from, _) = ipv6::addresses(packet)?;
        let message = packet.get(ipv6::LEN..ipv6::LEN + 24)?;
        let target = Ipv6Addr::from(*message[8..].first_chunk::<16>()?);
        let plain = packet.get(6) == Some(&ICMPV6);
        if !plain || message[0] != SOLICITATION || from.is_unspecified() || from == target {
            return None;
        }
        let endpoint = self.endpoint_of(target)?;
        if !self.learn(endpoint) {
            return None;
        }
        let answer = link_address(endpoint);
        let mut bytes = [0; ADVERTISEMENT];
        write_link(&mut bytes, asker, answer, ethertype::IPV6);
        let header = &mut bytes[14..14 + ipv6::LEN];
        header[0] = 0x60;
        header[5] = 32;
        header[6] = ICMPV6;
        // RFC 4861 §7.1.2: nothing else is believed.
        header[7] = 255;
        header[8..24].copy_from_slice(&target.octets());
        header[24..40].copy_from_slice(&from.octets());
        let message = &mut bytes[14 + ipv6::LEN..];
        message[0] = 136;
        // Solicited, override.
        message[4] = 0x60;
        message[8..24].copy_from_slice(&target.octets());
        // Option: target link-layer address, of eight bytes.
        message[24..26].copy_from_slice(&[2, 1]);
        message[26..32].copy_from_slice(&answer);
        let mut sum = Checksum::new();
        sum.add(&target.octets());
        sum.add(&from.octets());
        sum.add(&[0, 0, 0, 32, 0, 0, 0, ICMPV6]);
        sum.add(message);
        let sum = sum.value().to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        Some(Answer { bytes, len: ADVERTISEMENT })
    }

    /// The endpoint that an IPv6 next hop is: over IPv6 itself, over IPv4 the address in a v4-compatible one
    /// (net/ipv4/ip_tunnel.c, `IPV6_ADDR_COMPATv4`). A link-local one says nothing of the underlay.
    fn endpoint_of(&self, target: Ipv6Addr) -> Option<IpAddr> {
        if self.over_ipv6 {
            let host = !target.is_multicast()
                && !target.is_unspecified()
                && !target.is_loopback()
                && !target.is_unicast_link_local();
            return host.then_some(target.into());
        }
        match target.to_bits() {
            // `::` and `::1` are no IPv4 addresses.
            0 | 1 => None,
            bits => u32::try_from(bits).ok().map(|bits| Ipv4Addr::from_bits(bits).into()),
        }
    }
}

/// Whether a packet is ARP or neighbour discovery (RFC 4861), which no tunnel without a remote carries. Discovery of
/// routers is part of it: a host takes the hardware address of whoever sends from it, too.
pub fn is_neighbour_talk(ethertype: u16, packet: &[u8]) -> bool {
    let at = match ethertype {
        ethertype::ARP => return true,
        // Nearly all packets are told by one byte.
        ethertype::IPV6 => match packet.get(6) {
            Some(&ICMPV6) => ipv6::LEN,
            // Nobody sends it behind extension headers but who wants to get past this; a host takes it. What is in
            // fragments it does not take (RFC 6980 §5).
            Some(&(extension::HOP_BY_HOP | extension::ROUTING | extension::FRAGMENT))
            | Some(&(extension::AUTHENTICATION | extension::DESTINATION_OPTIONS)) => {
                let Chain::To { protocol: ICMPV6, at, .. } = extension::follow(packet) else { return false };
                at
            }
            _ => return false,
        },
        _ => return false,
    };
    packet.get(at).is_some_and(|kind| (ROUTER_SOLICITATION..=REDIRECT).contains(kind))
}

fn write_link(bytes: &mut [u8], to: LinkAddress, from: LinkAddress, ethertype: u16) {
    bytes[..6].copy_from_slice(&to);
    bytes[6..12].copy_from_slice(&from);
    bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
}

/// Bytes of an ARP reply and of a neighbour advertisement with its option, link header included.
const ARP_REPLY: usize = 14 + 28;
const ADVERTISEMENT: usize = 14 + ipv6::LEN + 32;
const ROUTER_SOLICITATION: u8 = 133;
const SOLICITATION: u8 = 135;
const REDIRECT: u8 = 137;

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: LinkAddress = [2, 9, 9, 9, 9, 9];

    fn v4(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn request(sender: &str, target: &str) -> Vec<u8> {
        let mut frame = [[0xff; 6], DEVICE].concat();
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(DEVICE);
        frame.extend(v4(sender).octets());
        frame.extend([0; 6]);
        frame.extend(v4(target).octets());
        frame
    }

    fn solicit(from: &str, target: &str) -> Vec<u8> {
        let mut frame = [[0x33, 0x33, 0xff, 0, 0, 1], DEVICE].concat();
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
        frame.extend(v6(from).octets());
        frame.extend(v6("ff02::1:ff00:1").octets());
        frame.extend([135, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend(v6(target).octets());
        frame.extend([1, 1]);
        frame.extend(DEVICE);
        frame
    }

    fn answered(talk: Talk) -> Answer {
        match talk {
            Talk::Answered(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tx02_the_next_hop_is_the_endpoint() {
        let mut endpoints = Endpoints::new(false, &[]);
        let answer = answered(endpoints.talk(&request("10.0.0.1", "203.0.113.5")));
        let frame = answer.frame();
        let link = [2, 0, 203, 0, 113, 5];
        assert_eq!((&frame[..6], &frame[6..12], frame.len()), (&DEVICE[..], &link[..], 42));
        assert_eq!(frame[14..22], [0, 1, 8, 0, 6, 4, 0, 2]);
        assert_eq!((&frame[22..28], &frame[28..32]), (&link[..], &[203, 0, 113, 5][..]));
        assert_eq!((&frame[32..38], &frame[38..]), (&DEVICE[..], &[10, 0, 0, 1][..]));
        assert_eq!(endpoints.of(link), Some(v4("203.0.113.5").into()));
    }

    #[test]
    fn tests_and_announcements_are_not_answered() {
        let mut endpoints = Endpoints::new(false, &[]);
        for (sender, target) in [
            ("0.0.0.0", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1", "224.0.0.5"),
            ("10.0.0.1", "0.0.0.0"),
            ("10.0.0.1", "255.255.255.255"),
        ] {
            assert_eq!(endpoints.talk(&request(sender, target)), Talk::Unanswered, "{sender} {target}");
        }
        let mut reply = request("10.0.0.1", "10.0.0.2");
        reply[21] = 2;
        assert_eq!(endpoints.talk(&reply), Talk::Unanswered);
        assert_eq!(endpoints.talk(&solicit("::", "::10.0.0.1")), Talk::Unanswered, "DAD");
        let mut echo = solicit("fd00::1", "::10.0.0.1");
        echo[54] = 128;
        assert_eq!(endpoints.talk(&echo), Talk::None);
        let whole = request("10.0.0.1", "10.0.0.2");
        for len in 0..whole.len() {
            assert!(!matches!(endpoints.talk(&whole[..len]), Talk::Answered(_)), "{len} bytes");
        }
        let whole = solicit("fd00::1", "::10.0.0.2");
        for len in 0..78 {
            assert!(!matches!(endpoints.talk(&whole[..len]), Talk::Answered(_)), "{len} bytes");
        }
    }

    #[test]
    fn tx02_over_ipv4_an_ipv6_next_hop_must_be_v4_compatible() {
        let mut endpoints = Endpoints::new(false, &[]);
        let answer = answered(endpoints.talk(&solicit("fd00::1", "::203.0.113.5")));
        assert_eq!(answer.frame()[6..12], [2, 0, 203, 0, 113, 5]);
        for target in ["fd00::2", "fe80::2", "::1", "::", "::ffff:203.0.113.5"] {
            assert_eq!(endpoints.talk(&solicit("fd00::1", target)), Talk::Unanswered, "{target}");
        }
    }

    #[test]
    fn tx02_over_ipv6_the_next_hop_is_learnt_from_the_question() {
        let mut endpoints = Endpoints::new(true, &[]);
        let hop = v6("2001:db8::5");
        let link = link_address(hop.into());
        assert_eq!((link[0], link[1], endpoints.of(link)), (2, 1, None));
        let answer = answered(endpoints.talk(&solicit("fd00::1", "2001:db8::5")));
        assert_eq!(endpoints.of(link), Some(hop.into()));
        let frame = answer.frame();
        assert_eq!((frame.len(), frame[21], frame[54], frame[58]), (86, 255, 136, 0x60));
        assert_eq!((&frame[80..], &frame[6..12]), (&link[..], &link[..]));
        let mut sum = Checksum::new();
        sum.add(&frame[22..54]);
        sum.add(&[0, 0, 0, 32, 0, 0, 0, 58]);
        sum.add(&frame[54..]);
        assert!(sum.verifies());
        for target in ["fe80::5", "ff02::1", "::1"] {
            assert_eq!(endpoints.talk(&solicit("fd00::1", target)), Talk::Unanswered, "{target}");
        }
        assert_eq!(endpoints.talk(&request("10.0.0.1", "10.0.0.2")), Talk::Unanswered);
        assert_eq!(endpoints.of([2, 0, 10, 0, 0, 2]), None, "of the other family");
    }

    #[test]
    fn discovery_is_known_behind_extension_headers_and_with_routers() {
        let plain = solicit("2001:db8::1", "2001:db8::5").split_off(14);
        let of_kind = |kind: u8| {
            let mut packet = plain.clone();
            packet[ipv6::LEN] = kind;
            packet
        };
        let talk =
            [128, 132, 133, 134, 135, 136, 137, 138].map(|kind| is_neighbour_talk(0x86dd, &of_kind(kind)));
        assert_eq!(talk, [false, false, true, true, true, true, true, false]);
        for header in [0, 43, 60] {
            let mut hidden =
                [&plain[..ipv6::LEN], &[ICMPV6, 0, 1, 4, 0, 0, 0, 0], &plain[ipv6::LEN..]].concat();
            hidden[6] = header;
            assert!(is_neighbour_talk(0x86dd, &hidden), "{header}");
            // Nor is an answer made up of what stands where it does not belong.
            let frame = [&[0; 12][..], &[0x86, 0xdd], &hidden].concat();
            assert_eq!(Endpoints::new(true, &[]).talk(&frame), Talk::Unanswered, "{header}");
            hidden[ipv6::LEN] = 17;
            assert!(!is_neighbour_talk(0x86dd, &hidden), "{header}");
        }
        for cut in 0..=ipv6::LEN {
            assert!(!is_neighbour_talk(0x86dd, &plain[..cut]));
        }
    }

    #[test]
    fn what_no_neighbour_or_next_hop_names_has_no_endpoint() {
        let endpoints = Endpoints::new(false, &[]);
        for address in [
            [0xff; 6],
            [1, 0, 0x5e, 0, 0, 5],
            [0x33, 0x33, 0, 0, 0, 1],
            DEVICE,
            [2, 0, 0, 0, 0, 0],
            [2, 0, 255, 255, 255, 255],
        ] {
            assert_eq!(endpoints.of(address), None, "{address:x?}");
        }
    }

    #[test]
    fn a_new_daemon_learns_from_the_neighbour_table() {
        let mut endpoints = Endpoints::new(true, &[]);
        let (known, other) = (IpAddr::from(v6("2001:db8::7")), IpAddr::from(v6("2001:db8::8")));
        endpoints.learn_neighbour(known, link_address(known));
        endpoints.learn_neighbour(other, link_address(known));
        assert_eq!(endpoints.of(link_address(known)), Some(known));
        assert_eq!(endpoints.of(link_address(other)), None);
    }

    #[test]
    fn there_are_never_more_than_so_many_and_the_first_makes_room() {
        let mut endpoints = Endpoints::new(true, &[]);
        let number = |number: u128| IpAddr::from(Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | number));
        let learnt = (0..MOST_ENDPOINTS as u128 + 2).filter(|count| endpoints.learn(number(*count)));
        let learnt = learnt.collect::<Vec<_>>();
        assert_eq!(endpoints.known.len(), MOST_ENDPOINTS);
        assert_eq!(endpoints.of(link_address(number(0))), None);
        let last = *learnt.last().unwrap();
        assert_eq!(endpoints.of(link_address(number(last))), Some(number(last)));
    }
}
