//! The rule that keeps peers from hearing of tunnels that the kernel's own GRE has not, tried on messages made by hand: the
//! kernel here may have no such module.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test may panic, and says when it was not run"
)]

mod namespace;

use std::net::{Ipv4Addr, SocketAddrV4};

use greway_netlink::nftables::{Family, Nftables, QuietPeer, TableId, port_unreachable};
use greway_netlink::{Address, LinkChange};
use namespace::in_namespace;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketType, bind, ipproto, sendto, socket};

const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// An ICMP message about a packet from the peer, with this beginning of a GRE header.
fn message(kind_and_code: [u8; 2], protocol: u8, gre: &[u8]) -> Vec<u8> {
    let quoted = [
        &[0x45, 0, 0, 72, 0x12, 0x34, 0, 0, 64, protocol, 0, 0][..],
        &PEER.octets(),
        &HERE.octets(),
        gre,
        &[0; 16],
    ]
    .concat();
    let mut message = [&kind_and_code[..], &[0; 6], &quoted].concat();
    let sum = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    message[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    message
}

#[test]
fn peers_are_not_told_and_others_are() {
    let test = "peers_are_not_told_and_others_are";
    in_namespace(test, |netlink| {
        let nftables = match Nftables::open() {
            Ok(nftables) => nftables,
            Err(error) => return eprintln!("not run: {test}: {error}"),
        };
        let lo = netlink.link_by_name("lo").unwrap().unwrap().index;
        for address in [HERE, PEER] {
            netlink
                .add_address(lo, Address { local: address.into(), peer: None, prefix_length: 32 })
                .unwrap();
        }
        netlink.change_link(lo, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
        let icmp = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).unwrap();
        bind(&icmp, &SocketAddrV4::new(HERE, 0)).unwrap();
        let told =
            |message: &[u8]| match sendto(&icmp, message, SendFlags::empty(), &SocketAddrV4::new(PEER, 0)) {
                Ok(_) => true,
                Err(Errno::PERM) => false,
                Err(error) => panic!("{error}"),
            };
        let keyed = message([3, 3], 47, &[0x20, 0, 8, 0, 0, 0, 0, 43]);
        let checked = message([3, 3], 47, &[0xa0, 0, 8, 0, 0xab, 0xcd, 0, 0, 0, 0, 0, 43]);
        let plain = message([3, 3], 47, &[0, 0, 8, 0]);
        let others = [
            message([3, 3], 47, &[0x20, 0, 8, 0, 0, 0, 0, 42]),
            message([3, 1], 47, &[0x20, 0, 8, 0, 0, 0, 0, 43]),
            message([3, 3], 17, &[0x20, 0, 8, 0, 0, 0, 0, 43]),
        ];
        assert!(told(&keyed) && told(&plain), "without the rule");
        let table = TableId::new(Family::Ip, "greway-port-unreachable");
        let peer = |key| QuietPeer { local: Some(HERE), remote: Some(PEER), key };
        nftables.apply(&port_unreachable(&table.name, &[peer(Some(43))], Some("greway: test"))).unwrap();
        assert!(!told(&keyed) && !told(&checked) && told(&plain));
        assert!(others.iter().all(|message| told(message)));
        // In its place another: a tunnel without a key, to anybody.
        let anybody = QuietPeer { local: None, remote: None, key: None };
        nftables.apply(&port_unreachable(&table.name, &[anybody], None)).unwrap();
        assert!(told(&keyed) && !told(&plain));
        assert!(others.iter().all(|message| told(message)));
        assert!(nftables.delete_table(&table).unwrap());
        assert!(told(&keyed) && told(&plain));
    });
}
