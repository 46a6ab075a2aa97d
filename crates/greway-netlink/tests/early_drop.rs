//! The table that drops what a packet socket has taken, tried on packets that a raw socket is to hear.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test may panic, and says when it was not run"
)]

mod namespace;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::process::Command;

use greway_netlink::nftables::{Family, Nftables, TableId, Taken, early_drop};
use greway_netlink::{Address, AddressEntry, LinkChange, Netlink};
use namespace::{eventually, in_namespace};
use rustix::fd::OwnedFd;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketType, bind, ipproto, recv, sendto, socket,
};

const TABLE: &str = "greway-test";
/// What no test drops.
const MARKER: &[u8] = b"\x20\0\x08\0marker";

/// IPv6-Opts (RFC 8200 §4.6).
const DESTINATION_OPTIONS: Protocol = Protocol::from_raw(NonZero::new(60).unwrap());

/// A host and its peer, both on one loopback device.
struct Wire {
    ends: [IpAddr; 2],
    sender: OwnedFd,
    receiver: OwnedFd,
}

impl Wire {
    fn new(netlink: &Netlink, ends: [&str; 2]) -> Self {
        let ends = ends.map(|end| end.parse::<IpAddr>().unwrap());
        let index = netlink.link_by_name("lo").unwrap().unwrap().index;
        let up = LinkChange { up: Some(true), mtu: Some(1500), ..LinkChange::default() };
        netlink.change_link(index, &up).unwrap();
        for end in ends {
            netlink.add_address(index, Address::new(end, if end.is_ipv6() { 128 } else { 32 })).unwrap();
        }
        let settled = |found: &Vec<AddressEntry>| found.iter().all(|found| !found.tentative());
        eventually(|| netlink.addresses(Some(index)).unwrap(), settled);
        let family = if ends[0].is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let open = |address| {
            let socket = socket(family, SocketType::RAW, Some(ipproto::GRE)).unwrap();
            bind(&socket, &SocketAddr::new(address, 0)).unwrap();
            socket
        };
        Self { ends, sender: open(ends[0]), receiver: open(ends[1]) }
    }

    /// Whether the host hears such a packet.
    fn hears(&self, packet: &[u8]) -> bool {
        self.hears_by(&self.sender, &[], packet)
    }

    /// Whether it hears one behind a header of IPv6 options.
    fn hears_behind(&self, header: &[u8], packet: &[u8]) -> bool {
        let sender = socket(AddressFamily::INET6, SocketType::RAW, Some(DESTINATION_OPTIONS)).unwrap();
        bind(&sender, &SocketAddr::new(self.ends[0], 0)).unwrap();
        self.hears_by(&sender, header, packet)
    }

    fn hears_by(&self, sender: &OwnedFd, header: &[u8], packet: &[u8]) -> bool {
        let send = |sender: &OwnedFd, packet: &[u8]| {
            sendto(sender, packet, SendFlags::empty(), &SocketAddr::new(self.ends[1], 0)).unwrap();
        };
        send(sender, &[header, packet].concat());
        send(&self.sender, MARKER);
        let mut buffer = [0; 4096];
        let mut next = || {
            let (length, _) = recv(&self.receiver, &mut buffer[..], RecvFlags::empty()).unwrap();
            // A raw socket is given the header as well, over IPv4.
            let header = if self.ends[0].is_ipv6() { 0 } else { usize::from(buffer[0] & 0xf) * 4 };
            buffer[header..length].to_vec()
        };
        let first = next();
        let heard = first != MARKER;
        assert!(!heard || first == packet && next() == MARKER, "{first:?}");
        heard
    }

    fn taken(&self, key: Option<u32>, protocol: u16) -> Taken {
        Taken { source: self.ends[0], destination: self.ends[1], protocol, key }
    }
}

fn plain(protocol: u16) -> Vec<u8> {
    [&[0, 0][..], &protocol.to_be_bytes(), &[0x45; 40]].concat()
}

fn with(flags: u8, fields: &[u32]) -> Vec<u8> {
    let fields = fields.iter().flat_map(|field| field.to_be_bytes()).collect::<Vec<_>>();
    [&[flags, 0, 8, 0][..], &fields, &[0x45; 40]].concat()
}

fn drops_what_was_taken(nftables: &Nftables, wire: &Wire) {
    let family = wire.taken(None, 0).family();
    nftables.apply(&early_drop(TABLE, family, Some("greway: test"))).unwrap();
    let of_key_43 = [with(0x20, &[43]), with(0x30, &[43, 7]), with(0xa0, &[0xabcd_0000, 43])];
    assert!(of_key_43.iter().chain(&[plain(0x800)]).all(|packet| wire.hears(packet)), "nothing is in it yet");

    let (ipv4, ethernet) = (wire.taken(None, 0x800), wire.taken(None, 0x6558));
    nftables.apply(&Taken::add(TABLE, &[ipv4, wire.taken(Some(43), 0x800)])).unwrap();
    let with_sequence_or_checksum = [with(0x10, &[7]), with(0x80, &[0xabcd_0000])];
    let taken = [&of_key_43[..], &with_sequence_or_checksum, &[plain(0x800)]].concat();
    for packet in &taken {
        assert!(!wire.hears(packet), "{packet:02x?}");
    }
    let others = [
        plain(0x6558),
        plain(0x86dd),
        with(0x20, &[42]),
        // What looks like the key where there is a checksum.
        with(0xa0, &[43, 0]),
        // RFC 1701's routing, and version 1 (PPTP).
        with(0x40, &[0]),
        [&[0, 1, 8, 0][..], &[0; 40]].concat(),
        // In fragments.
        [&[0, 0, 8, 0][..], &[0x45; 3000]].concat(),
    ];
    for packet in &others {
        assert!(wire.hears(packet), "{:02x?}", &packet[..12]);
    }
    if family == Family::Ip6 {
        let limit = [47, 0, 4, 1, 4, 1, 1, 0];
        // With an experimental option that is skipped (RFC 4727 §3.2).
        let longer = [47, 1, 4, 1, 4, 0x1e, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for packet in &taken {
            assert!(
                !wire.hears_behind(&limit, packet) && wire.hears_behind(&longer, packet),
                "{packet:02x?}"
            );
        }
        assert!(wire.hears_behind(&limit, &others[0]) && wire.hears_behind(&limit, &others[2]));
    }
    // The other way round.
    let reverse = Taken { source: wire.ends[1], destination: wire.ends[0], ..ipv4 };
    nftables
        .apply(&[Taken::remove(TABLE, &[ipv4]), Taken::add(TABLE, &[reverse, ethernet])].concat())
        .unwrap();
    assert!(wire.hears(&plain(0x800)) && !wire.hears(&plain(0x6558)) && !wire.hears(&of_key_43[0]));

    // Nobody else may change it, and nft shows it.
    let table = TableId::new(family, TABLE);
    Nftables::open().unwrap().delete_table(&table).unwrap_err();
    if let Ok(shown) = Command::new("nft").args(["list", "table", &family.to_string(), TABLE]).output() {
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains("flags owner") && shown.contains("@with-key drop"), "{shown}");
        let element = format!("ip . {} . {} . 0.0.0.43", wire.ends[0], wire.ends[1]);
        assert!(shown.contains(&element), "{shown}");
    }
}

fn in_filtered_namespace(test: &str, ends: [&str; 2]) {
    in_namespace(test, |netlink| {
        let nftables = match Nftables::open() {
            Ok(nftables) => nftables,
            Err(error) => return eprintln!("not run: {test}: {error}"),
        };
        let wire = Wire::new(netlink, ends);
        drops_what_was_taken(&nftables, &wire);
        // It goes with whoever made it.
        let taken = with(0x20, &[43]);
        assert!(!wire.hears(&taken));
        drop(nftables);
        // A process that another test is just starting has the socket, too, for a moment.
        eventually(|| wire.hears(&taken), |heard| *heard);
        assert_eq!(Nftables::open().unwrap().tables().unwrap(), []);
    });
}

#[test]
fn over_ipv4_what_was_taken_goes_no_further_and_all_else_does() {
    in_filtered_namespace(
        "over_ipv4_what_was_taken_goes_no_further_and_all_else_does",
        ["192.0.2.1", "192.0.2.2"],
    );
}

#[test]
fn over_ipv6_what_was_taken_goes_no_further_and_all_else_does() {
    in_filtered_namespace(
        "over_ipv6_what_was_taken_goes_no_further_and_all_else_does",
        ["2001:db8::1", "2001:db8::2"],
    );
}

#[test]
fn ten_thousand_are_added_and_removed() {
    let test = "ten_thousand_are_added_and_removed";
    in_namespace(test, |_| {
        let nftables = match Nftables::open() {
            Ok(nftables) => nftables,
            Err(error) => return eprintln!("not run: {test}: {error}"),
        };
        let destination = "2001:db8::1".parse().unwrap();
        let source = |number: u16| IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, number]);
        let of =
            |number| Taken { source: source(number), destination, protocol: 0x800, key: Some(number.into()) };
        let taken = (0..10_000).map(of).collect::<Vec<_>>();
        nftables.apply(&early_drop(TABLE, Family::Ip6, None)).unwrap();
        for some in taken.chunks(1000) {
            nftables.apply(&Taken::add(TABLE, some)).unwrap();
        }
        let count = || nftables.ruleset().unwrap().sets.iter().map(|set| set.elements.len()).sum::<usize>();
        assert_eq!(count(), 10_000);
        nftables.apply(&Taken::add(TABLE, &taken[9_999..])).unwrap_err();
        for some in taken.chunks(1000) {
            nftables.apply(&Taken::remove(TABLE, some)).unwrap();
        }
        assert_eq!(count(), 0);
    });
}
