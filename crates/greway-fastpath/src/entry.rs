//! From a tunnel's definition and what its route says to what the programs go by, or why they cannot.
//!
//! The programs decide nothing that belongs to the tunnel and not to the packet: here it is decided, once.

use std::net::IpAddr;

use greway_ebpf_abi::{EgressEntry, HEADER_MAX, IngressEntry, IngressKey, egress, ingress, key};
use greway_spec::{FlowLabel, MssClamp, OverlayChoice, Ttl, TunnelSpec};

/// What the programs need to know of a tunnel beside its definition. Most of it follows routes, links and addresses.
///
/// The default is nowhere: no device and no way that leads anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Index of the peer end of the tunnel's pair.
    pub peer: u32,
    /// Index of the tunnel device, where it is in the namespace of its peer end.
    pub device: Option<u32>,
    /// The tunnel device is in another namespace than its peer end, and is handed packets past the pair: only where
    /// [`counts_what_is_handed_over`](crate::counts_what_is_handed_over).
    pub hand_over: bool,
    /// MTU of the tunnel device in bytes.
    pub device_mtu: u32,
    /// MAC address of the tunnel device.
    pub device_mac: [u8; 6],
    /// MAC address of the peer end.
    pub peer_mac: [u8; 6],
    /// Index of the tunnel's `dev`, where it has one.
    pub dev: Option<u32>,
    /// Index of the only device that packets may come in by, where `rp_filter` wants one.
    pub via: Option<u32>,
    /// Outer source address: the tunnel's `local`, or what the route to the remote gives. `None`: not known.
    pub source: Option<IpAddr>,
    /// Where delivery packets go. `None`: there is no route, or nobody has looked yet.
    pub next_hop: Option<NextHop>,
    /// The neighbour at the next hop has answered lately, or the device has none. Only then packets may leave at the
    /// tunnel device itself (`direct`); to be looked at every second.
    pub neighbour_known: bool,
    /// The largest delivery packet on the way to the remote, in bytes.
    pub path_mtu: u32,
    /// This host forwards, so that `mss auto` clamps.
    pub forwards: bool,
    /// Everything shall go to userspace: a firewall or an IPsec policy has to see it, or `local` is no address of
    /// this host now.
    pub withheld: bool,
    /// Packets are carried only while witnesses pass the host's rules, see [`crate::witness`].
    pub witnessed: bool,
}

/// A neighbour on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the device.
    pub ifindex: u32,
    /// The router's address, or the remote's own on the same link.
    pub address: IpAddr,
}

/// A tunnel, as the programs go by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How its packets are encapsulated; its place in the map is [`Place::peer`].
    pub egress: EgressEntry,
    /// Which packets are its own.
    pub key: IngressKey,
    /// What becomes of them.
    pub ingress: IngressEntry,
}

/// Why no program carries a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WhyNot {
    /// The neighbour or the route inside decides, packet by packet.
    #[error("remote is any: the neighbour decides for each packet where it goes")]
    AnyRemote,
    /// Copies and loops are userspace's business.
    #[error("remote {group} is a group")]
    MulticastRemote {
        /// The group.
        group: IpAddr,
    },
    /// A program cannot sum a payload.
    #[error("{word} is on: checksums over the payload are userspace's")]
    Checksum {
        /// `icsum`, `ocsum` or `csum` for both.
        word: &'static str,
    },
    /// The numbers of a tunnel are in one place.
    #[error("{word} is on: sequence numbers are userspace's")]
    Sequence {
        /// `iseq`, `oseq` or `seq` for both.
        word: &'static str,
    },
    /// A TUN device has no peer end.
    #[error("overlay is tun: there is no pair to attach to")]
    Tun,
    /// Local, source or next hop are of the wrong family.
    #[error("{what} {address} is of another family than the tunnel's delivery header")]
    Family {
        /// Which address.
        what: &'static str,
        /// The address.
        address: IpAddr,
    },
}

impl Entry {
    /// What the programs go by for this tunnel at this place.
    ///
    /// # Errors
    /// The first thing that no program carries.
    pub fn of(spec: &TunnelSpec, place: &Place) -> Result<Self, WhyNot> {
        let (remote, key) = carried(spec)?;
        let family = |what, address: Option<IpAddr>| match address {
            Some(address) if address.is_ipv6() != spec.mode.over_ipv6() => {
                Err(WhyNot::Family { what, address })
            }
            _ => Ok(()),
        };
        family("remote", Some(remote))?;
        family("local", spec.local)?;
        family("source", place.source)?;
        let source = spec.local.or(place.source);
        Ok(Self {
            egress: egress_entry(spec, place, source, remote),
            key,
            ingress: ingress_entry(spec, place),
        })
    }

    /// Which packets belong to this tunnel, whether a program carries it or not. `None`: what one key cannot say,
    /// any remote or a group.
    pub fn key_of(spec: &TunnelSpec) -> Option<IngressKey> {
        let remote = spec.remote.filter(|remote| !remote.is_multicast())?;
        // Over IPv6 no key and key 0 are one (linux net/ipv6/ip6_gre.c v6.18, `ip6gre_tunnel_lookup`).
        let number = spec.ikey.filter(|key| *key != 0 || !spec.mode.over_ipv6());
        let keyed = if number.is_some() { key::KEYED } else { 0 };
        let ethernet = if spec.mode.is_ethernet() { key::ETHERNET } else { 0 };
        Some(IngressKey {
            remote: bytes(remote),
            local: spec.local.map_or([0; 16], bytes),
            key: number.unwrap_or(0),
            flags: keyed | ethernet,
        })
    }
}

/// An address in the form of the maps.
pub(crate) fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn carried(spec: &TunnelSpec) -> Result<(IpAddr, IngressKey), WhyNot> {
    let of_both = |both, one: (bool, &'static str), other: (bool, &'static str)| match (one, other) {
        ((true, _), (true, _)) => Some(both),
        ((true, word), _) | (_, (true, word)) => Some(word),
        _ => None,
    };
    let remote = spec.remote.ok_or(WhyNot::AnyRemote)?;
    let key = Entry::key_of(spec).ok_or(WhyNot::MulticastRemote { group: remote })?;
    if let Some(word) = of_both("csum", (spec.icsum, "icsum"), (spec.ocsum, "ocsum")) {
        return Err(WhyNot::Checksum { word });
    }
    if let Some(word) = of_both("seq", (spec.iseq, "iseq"), (spec.oseq, "oseq")) {
        return Err(WhyNot::Sequence { word });
    }
    if spec.overlay == OverlayChoice::Tun {
        return Err(WhyNot::Tun);
    }
    Ok((remote, key))
}

fn clamps(spec: &TunnelSpec, place: &Place) -> bool {
    match spec.mss {
        MssClamp::Off => false,
        MssClamp::Fixed(_) => true,
        MssClamp::Auto => place.forwards,
    }
}

fn flags(flags: &[(bool, u32)]) -> u32 {
    flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag)
}

fn egress_entry(spec: &TunnelSpec, place: &Place, source: Option<IpAddr>, remote: IpAddr) -> EgressEntry {
    let mut header = Header { bytes: [0; HEADER_MAX], len: 0 };
    match (source, remote) {
        (Some(IpAddr::V4(source)), IpAddr::V4(remote)) => {
            header.push(&[0x45, 0, 0, 0, 0, 0, 0, 0, 0, GRE, 0, 0]);
            header.push(&source.octets());
            header.push(&remote.octets());
        }
        (Some(IpAddr::V6(source)), IpAddr::V6(remote)) => {
            let next = if spec.encaplimit.is_some() { DESTINATION_OPTIONS } else { GRE };
            header.push(&[0x60, 0, 0, 0, 0, 0, next, 0]);
            header.push(&source.octets());
            header.push(&remote.octets());
            if let Some(limit) = spec.encaplimit {
                // RFC 2473 §4.1.1, padded as Linux does.
                header.push(&[GRE, 0, 4, 1, limit, 1, 1, 0]);
            }
        }
        // Without a source there is nothing to send yet.
        _ => return EgressEntry { flags: egress::WITHHELD, ..NOTHING },
    }
    let partial_sum =
        header.bytes[..20].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let protocol_type: [u8; 2] = if spec.mode.is_ethernet() { [0x65, 0x58] } else { [0; 2] };
    header.push(&[if spec.okey.is_some() { 0x20 } else { 0 }, 0]);
    header.push(&protocol_type);
    if let Some(key) = spec.okey {
        header.push(&key.to_be_bytes());
    }
    let over_ipv6 = spec.mode.over_ipv6();
    let (next_hop_ifindex, next_hop_family, next_hop) = match place.next_hop {
        None => (0, 0, [0; 16]),
        Some(NextHop { ifindex, address: IpAddr::V4(address) }) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            (ifindex, AF_INET, bytes)
        }
        Some(NextHop { ifindex, address: IpAddr::V6(address) }) => (ifindex, AF_INET6, address.octets()),
    };
    EgressEntry {
        header: header.bytes,
        next_hop,
        next_hop_family,
        next_hop_ifindex,
        header_len: header.len as u32,
        flags: flags(&[
            (over_ipv6, egress::OUTER_IPV6),
            (spec.mode.is_ethernet(), egress::ETHERNET),
            (spec.ttl == Ttl::Inherit, egress::TTL_INHERIT),
            (spec.tos.inherit, egress::TOS_INHERIT),
            (!over_ipv6, egress::ECN),
            (spec.pmtudisc, egress::PMTUDISC),
            (spec.ignore_df, egress::IGNORE_DF),
            (clamps(spec, place), egress::CLAMPS),
            (place.withheld, egress::WITHHELD),
            (place.witnessed, egress::WITNESSED),
            (over_ipv6 && spec.encaplimit.is_some(), egress::ENCAP_LIMIT),
            (spec.flowlabel == FlowLabel::Inherit, egress::FLOW_INHERIT),
        ]),
        path_mtu: place.path_mtu,
        mark: spec.fwmark,
        partial_sum,
        decline_next: 0,
        flow_label: match spec.flowlabel {
            FlowLabel::Inherit => 0,
            FlowLabel::Fixed(label) => label & 0xf_ffff,
        },
        ttl: match spec.ttl {
            Ttl::Inherit => DEFAULT_TTL,
            Ttl::Fixed(ttl) => ttl,
        },
        tos: spec.tos.value,
        reserved: [0; 2],
    }
}

fn ingress_entry(spec: &TunnelSpec, place: &Place) -> IngressEntry {
    IngressEntry {
        peer: place.peer,
        flags: flags(&[
            (clamps(spec, place), ingress::CLAMPS),
            (place.withheld, ingress::WITHHELD),
            (place.witnessed, ingress::WITNESSED),
            // A witness's copy goes through the pair: those behind it would be ahead of it.
            (place.hand_over && place.device.is_none() && !place.witnessed, ingress::HAND_OVER),
            (spec.dscp_inherit, ingress::DSCP_INHERIT),
        ]),
        device_mtu: place.device_mtu,
        dev: place.dev.unwrap_or(0),
        via: place.via.unwrap_or(0),
        to: place.device_mac,
        from: place.peer_mac,
    }
}

/// The prebuilt header, growing.
struct Header {
    bytes: [u8; HEADER_MAX],
    len: usize,
}

impl Header {
    fn push(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        self.bytes[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }
}

/// An entry that sends nothing.
const NOTHING: EgressEntry = EgressEntry {
    header: [0; HEADER_MAX],
    next_hop: [0; 16],
    next_hop_family: 0,
    next_hop_ifindex: 0,
    header_len: 0,
    flags: 0,
    path_mtu: 0,
    mark: 0,
    partial_sum: 0,
    decline_next: 0,
    flow_label: 0,
    ttl: 0,
    tos: 0,
    reserved: [0; 2],
};

const GRE: u8 = 47;
const DESTINATION_OPTIONS: u8 = 60;
/// TTL of the delivery header for payloads that have none and `ttl inherit`, as the engine's.
const DEFAULT_TTL: u8 = 64;
// include/linux/socket.h
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use greway_spec::{Draft, Mode};

    use super::*;

    fn spec(change: impl Fn(&mut TunnelSpec)) -> TunnelSpec {
        let (local, remote) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        let mut spec = Draft::new("tun0".parse().unwrap(), local, remote).into_spec().unwrap();
        change(&mut spec);
        spec
    }

    fn over_ipv6(spec: &mut TunnelSpec) {
        spec.mode = Mode::Ip6Gre;
        spec.local = Some("2001:db8::1".parse().unwrap());
        spec.remote = Some("2001:db8::2".parse().unwrap());
    }

    fn place() -> Place {
        Place {
            peer: 7,
            device: Some(8),
            device_mtu: 1476,
            device_mac: [2, 0, 0, 0, 0, 1],
            peer_mac: [2, 0, 0, 0, 0, 2],
            next_hop: Some(NextHop { ifindex: 3, address: Ipv4Addr::new(192, 0, 2, 254).into() }),
            neighbour_known: true,
            path_mtu: 1500,
            ..Place::default()
        }
    }

    #[test]
    fn the_header_is_ready_but_for_what_each_packet_has() {
        let keyed = Entry::of(&spec(|spec| spec.okey = Some(0x0102_0304)), &place()).unwrap().egress;
        assert_eq!(keyed.header_len, 28);
        let expected =
            [0x45, 0, 0, 0, 0, 0, 0, 0, 0, 47, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 0x20, 0, 0, 0, 1, 2, 3, 4];
        assert_eq!(keyed.header[..28], expected);
        assert_eq!(keyed.partial_sum, 0x4500 + 47 + 2 * (0xc000 + 0x0200) + 1 + 2);
        assert_eq!(
            (keyed.next_hop_ifindex, keyed.next_hop_family, &keyed.next_hop[..4]),
            (3, 2, &[192, 0, 2, 254][..])
        );

        let limited = |limit| {
            let spec = spec(|spec| {
                over_ipv6(spec);
                spec.encaplimit = limit;
            });
            Entry::of(&spec, &place()).unwrap().egress
        };
        assert_eq!((limited(None).header_len, limited(None).header[6]), (44, 47));
        let four = limited(Some(4));
        assert_eq!((four.header_len, four.header[6]), (52, 60));
        assert_eq!(four.header[40..48], [47, 0, 4, 1, 4, 1, 1, 0]);
        assert_eq!(four.flags & egress::ENCAP_LIMIT, egress::ENCAP_LIMIT);
    }

    #[test]
    fn what_no_program_carries_is_named() {
        let why = |change: fn(&mut TunnelSpec)| Entry::of(&spec(change), &place()).unwrap_err().to_string();
        assert_eq!(why(|spec| spec.ocsum = true), "ocsum is on: checksums over the payload are userspace's");
        assert_eq!(
            why(|spec| (spec.icsum, spec.ocsum) = (true, true)),
            "csum is on: checksums over the payload are userspace's"
        );
        assert_eq!(why(|spec| spec.iseq = true), "iseq is on: sequence numbers are userspace's");
        assert_eq!(
            why(|spec| spec.remote = None),
            "remote is any: the neighbour decides for each packet where it goes"
        );
        assert_eq!(
            why(|spec| spec.remote = Some(Ipv4Addr::new(239, 1, 1, 1).into())),
            "remote 239.1.1.1 is a group"
        );
        assert_eq!(
            why(|spec| spec.overlay = OverlayChoice::Tun),
            "overlay is tun: there is no pair to attach to"
        );
        let error = Entry::of(&spec(|_| {}), &Place { source: Some("::1".parse().unwrap()), ..place() });
        assert_eq!(
            error.unwrap_err().to_string(),
            "source ::1 is of another family than the tunnel's delivery header"
        );
    }

    #[test]
    fn what_is_not_known_yet_is_left_to_userspace() {
        let open = spec(|spec| spec.local = None);
        assert_eq!(Entry::of(&open, &place()).unwrap().egress.flags, egress::WITHHELD);
        let chosen = Place { source: Some(Ipv4Addr::new(192, 0, 2, 9).into()), ..place() };
        let entry = Entry::of(&open, &chosen).unwrap();
        assert_eq!(entry.egress.header[12..16], [192, 0, 2, 9]);
        assert_eq!(entry.key.local, [0; 16], "any address of this host is received on");
        let nowhere = Place { next_hop: None, ..place() };
        assert_eq!(Entry::of(&spec(|_| {}), &nowhere).unwrap().egress.next_hop_ifindex, 0);
    }

    #[test]
    fn rx13_key_zero_is_no_key_over_ipv6_only() {
        let four = Entry::key_of(&spec(|spec| spec.ikey = Some(0))).unwrap();
        assert_eq!((four.key, four.flags), (0, key::KEYED));
        let six = spec(|spec| {
            over_ipv6(spec);
            spec.ikey = Some(0);
        });
        assert_eq!(Entry::key_of(&six).unwrap().flags, 0);
    }

    #[test]
    fn handshakes_go_to_userspace_where_it_clamps_them() {
        let clamps = |mss, forwards| {
            let entry = Entry::of(&spec(|spec| spec.mss = mss), &Place { forwards, ..place() }).unwrap();
            assert_eq!(entry.egress.flags & egress::CLAMPS != 0, entry.ingress.flags & ingress::CLAMPS != 0);
            entry.egress.flags & egress::CLAMPS != 0
        };
        assert!(clamps(MssClamp::Auto, true) && clamps(MssClamp::Fixed(1200), false));
        assert!(!clamps(MssClamp::Auto, false) && !clamps(MssClamp::Off, true));
    }
}
