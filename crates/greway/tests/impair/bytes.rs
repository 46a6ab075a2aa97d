//! Loss, repetition, disorder and damage on the way: what comes out of a tunnel is what went in, or is what the path
//! made of it and its own checksum tells.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, UdpSocket};

use greway_linux::sockopt::set_receive_buffer;
use greway_testbed::impair::{Impairment, Part};
use greway_testbed::{Capture, CapturedPacket, LinkOptions, PingOptions, poll_until, privilege, require};
use greway_wire::gre::GreHeader;
use greway_wire::transport::{Protocol, Transport};
use greway_wire::{checksum, ethertype, ipv4};

use crate::pair::{OUTER, Pair, drops, inner, intact, seen, tunnel, udp};
use crate::support::{BY_PROGRAMS, SOON, environment_of, way_of};

const MIB: u64 = 1 << 20;

/// A path that does everything at once.
fn bad(seed: u64, part: Part) -> Impairment {
    Impairment { seed, drop: 10, duplicate: 10, delay: 10, flip: 20, part }
}

/// tun0 of one kind between the two, with a new pair of hosts.
pub(crate) fn path(way: &str, kind: &str, cable: &LinkOptions) -> Pair {
    path_with(way, kind, cable, &[])
}

/// The same with variables in the environment of both daemons.
pub(crate) fn path_with(
    way: &str,
    kind: &str,
    cable: &LinkOptions,
    environment: &[(&'static str, &'static str)],
) -> Pair {
    let pair = Pair::impaired(cable, &[environment_of(way), environment].concat());
    let over_ipv6 = kind.starts_with("ip6");
    let mut ends = OUTER.map(|address| address.to_string());
    if over_ipv6 {
        ends = ["fd00:47::1".to_owned(), "fd00:47::2".to_owned()];
        for (host, address) in [&pair.left, &pair.right].into_iter().zip(&ends) {
            host.sysctl("ipv6/conf/wan0/disable_ipv6", "0").unwrap();
            host.address("wan0", &format!("{address}/64")).unwrap();
        }
    }
    for (here, there) in [(0, 1), (1, 0)] {
        let words = format!("tunnel add tun0 mode {kind} local {} remote {} {way}", ends[here], ends[there]);
        pair.nodes[here].words(&words).ok();
    }
    pair.left.address("tun0", &format!("{}/30", inner(0))).unwrap();
    pair.right.address("tun0", &format!("{}/30", inner(1))).unwrap();
    // Neighbours are asked for before anything is damaged or counted, and not again.
    for host in [&pair.left, &pair.right] {
        host.sysctl("ipv4/neigh/tun0/base_reachable_time_ms", "3600000").unwrap();
        host.sysctl("ipv4/neigh/tun0/delay_first_probe_time", "3600").unwrap();
    }
    pair.answers(&PingOptions::default());
    pair
}

/// The settings that programs carry, and those that only userspace does.
const WORDS: [&str; 5] =
    ["nokey nocsum noseq", "key 42", "key 42 csum", "nokey nocsum seq", "key 42 csum seq seq-mode rfc2890"];

/// TCP in both directions over a path that damages one part of the packets after the other.
fn tcp_survives(way: &str, kind: &str, words: &[&str], cable: &LinkOptions) {
    let pair = path(way, kind, cable);
    if cable.gro {
        let held = pair.hold_for_gro();
        require!(held);
    }
    let parts = [Part::Payload, Part::Inner, Part::Gre];
    for (seed, (words, part)) in (1..).zip(words.iter().zip(parts.into_iter().cycle())) {
        pair.change(words);
        let what = format!("{kind} {way} {words} {part:?}");
        pair.middle().impair(bad(seed, part));
        let comes_out = Capture::start(&pair.right, "tun0").unwrap();
        intact(&pair.left, &pair.right, inner(1), 2 * MIB, &what);
        let merged = seen(comes_out, |packet| !packet.outgoing && packet.frame.len() > 1_500);
        // Userspace puts together what comes one by one, and a device's GRO does so before it.
        assert!(merged > 0 || way == BY_PROGRAMS && !cable.gro, "{what}: no segments were put together");
        let [forth, _] = pair.middle().counts();
        // Or nothing was tried.
        assert!(
            forth.flipped > 5 && forth.dropped > 5 && forth.duplicated > 5 && forth.delayed > 5,
            "{what}: {forth:?}"
        );
        if words.contains(" csum") && part != Part::Gre {
            let dropped = pair.drops(1, "bad-checksum");
            assert!(dropped > 0, "{what}: {}", pair.status(1)["drops"]);
        }
        pair.middle().impair(Impairment::NONE);
    }
}

#[test]
fn tcp_arrives_whole_over_a_bad_path_by_userspace() {
    require!(privilege::check());
    let way = "datapath userspace";
    tcp_survives(way, "gre", &WORDS, &LinkOptions::default());
    tcp_survives(&format!("{way} underlay raw"), "gre", &WORDS[..3], &LinkOptions::default());
    tcp_survives(way, "gretap", &["key 7 csum", "nokey nocsum"], &LinkOptions::default());
    tcp_survives(way, "ip6gre", &["nokey nocsum", "key 7 csum"], &LinkOptions::default());
}

#[test]
fn tcp_arrives_whole_over_a_bad_path_by_programs() {
    require!(privilege::check());
    for kind in ["gre", "gretap", "ip6gre"] {
        tcp_survives(BY_PROGRAMS, kind, &["nokey", "key 42"], &LinkOptions::default());
    }
}

#[test]
fn tcp_arrives_whole_where_the_kernel_merges_what_arrives() {
    require!(privilege::check());
    let cable = LinkOptions { gro: true, ..LinkOptions::default() };
    tcp_survives("datapath userspace", "gre", &WORDS[..3], &cable);
    tcp_survives("datapath userspace underlay raw", "gre", &WORDS[..3], &cable);
    tcp_survives(BY_PROGRAMS, "gre", &WORDS[..2], &cable);
}

/// A datagram that tells its own number and whether it is whole.
fn datagram(number: u32) -> Vec<u8> {
    let length = 24 + (number as usize * 37) % 1_300;
    let mut bytes = vec![0; length];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes[4..8].copy_from_slice(&(length as u32).to_be_bytes());
    for (at, byte) in bytes.iter_mut().enumerate().skip(16) {
        *byte = (at as u32).wrapping_mul(number | 1).to_le_bytes()[1];
    }
    let digest = digest(&bytes);
    bytes[8..16].copy_from_slice(&digest.to_be_bytes());
    bytes
}

/// FNV-1a over all but the field itself.
fn digest(bytes: &[u8]) -> u64 {
    let covered = bytes[..8].iter().chain(&bytes[16..]);
    covered.fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// Sends datagrams through the tunnel, no more at once than a small queue holds.
fn send_datagrams(pair: &Pair, sender: &UdpSocket, to: std::net::SocketAddr, count: u32) {
    for number in 0..count {
        sender.send_to(&datagram(number), to).unwrap();
        if number % 64 == 63 {
            let came = || (pair.middle().counts()[0].seen > u64::from(number)).then_some(());
            poll_until(SOON, "datagrams on the way", came).unwrap();
        }
    }
}

/// The payload packet of a recorded frame, and its protocol type, as a receiver of GRE sees it; `None` where the damage
/// left no header that could be read.
fn payload(frame: &[u8]) -> Option<(u16, Vec<u8>)> {
    let packet = CapturedPacket {
        time: std::time::SystemTime::UNIX_EPOCH,
        outgoing: false,
        frame: frame.to_vec(),
        checksum_not_ready: false,
        vlan: None,
    };
    let gre = packet.gre()?;
    let (header, length) = GreHeader::parse_over_ipv6(gre).ok()?;
    Some((header.protocol_type, gre.get(length..)?.to_vec()))
}

/// Datagrams that tell of themselves, over a path that damages `part`. What came out of the tunnel, all of it, is
/// compared with what the path let through.
fn datagrams_survive(pair: &Pair, part: Part, words: &str) {
    const COUNT: u32 = 1_024;
    let what = format!("{words} {part:?}");
    pair.change(words);
    let receiver = udp(&pair.right, inner(1));
    set_receive_buffer(&receiver, 16 << 20).unwrap();
    let sender = udp(&pair.left, inner(0));
    let to = receiver.local_addr().unwrap();
    let comes_out = Capture::start(&pair.right, "tun0").unwrap();
    let before = account(pair);
    pair.middle().record();
    pair.middle().impair(bad(u64::from(COUNT), part));
    send_datagrams(pair, &sender, to, COUNT);
    let middle = pair.middle();
    let settled = || (middle.counts()[0].waiting == 0).then_some(());
    poll_until(SOON, "the last that were delayed", settled).unwrap();
    let [forth, _] = middle.counts();
    let [sent, _] = middle.recorded();
    middle.impair(Impairment::NONE);
    assert_eq!((forth.refused, forth.overlooked), (0, 0), "{what}");
    assert_eq!(forth.seen, u64::from(COUNT), "{what}");
    assert_eq!(forth.passed, forth.seen + forth.duplicated - forth.dropped, "{what}: {forth:?}");
    assert_eq!(sent.len() as u64, forth.passed, "{what}");

    // Every packet that was let through is delivered, or dropped with a reason, or said to be of no tunnel.
    let mut now = before;
    let accounted = poll_until(SOON, "an account of all packets", || {
        now = account(pair);
        (now.all() - before.all() >= forth.passed).then_some(())
    });
    assert!(accounted.is_ok(), "{what}: {before:?} {now:?} {forth:?}");
    assert_eq!(now.all() - before.all(), forth.passed, "{what}: {before:?} {now:?} {forth:?}");
    let delivered = now.delivered - before.delivered;

    let ethernet = pair.status(0)["spec"]["mode"].as_str().unwrap().contains("tap");
    let at = if ethernet { ETHERNET } else { 0 };
    let come = || {
        let packets = comes_out.packets();
        let came =
            packets.iter().filter(|packet| !packet.outgoing).map(|packet| singly(packet, ethernet).len());
        (came.sum::<usize>() as u64 >= delivered).then_some(())
    };
    poll_until(SOON, "the delivered packets", come).unwrap();
    assert_eq!(comes_out.lost(), 0, "{what}");
    // Bytes that nobody sent come out of no tunnel: each packet is one of those that the path let through, or several.
    let mut let_through = BTreeMap::<(u16, Vec<u8>), u64>::new();
    for (protocol_type, payload) in sent.iter().filter_map(|frame| payload(frame)) {
        *let_through.entry((protocol_type, without_identification(payload, at))).or_default() += 1;
    }
    for packet in comes_out.stop().into_iter().filter(|packet| !packet.outgoing) {
        for (protocol_type, bytes) in singly(&packet, ethernet) {
            let bytes = without_identification(bytes, at);
            match let_through.get_mut(&(protocol_type, bytes.clone())) {
                Some(0) => {
                    panic!("{what}: once too often came {} bytes {bytes:02x?} in {packet:?}", bytes.len())
                }
                Some(left) => *left -= 1,
                None => {
                    let like = |known: &&(u16, Vec<u8>)| known.1.len() == bytes.len();
                    let like = let_through.keys().find(like);
                    panic!("{what}: nobody sent {bytes:02x?} in {packet:?}, but {like:02x?}")
                }
            }
        }
    }

    // And no datagram is wrong that a program gets.
    receiver.set_nonblocking(true).unwrap();
    let mut buffer = [0; 2_048];
    let mut numbers = BTreeSet::new();
    while let Ok((length, _)) = receiver.recv_from(&mut buffer) {
        let bytes = &buffer[..length];
        let number = u32::from_be_bytes(*bytes.first_chunk().unwrap());
        assert!(bytes == datagram(number), "{what}: datagram {number} is damaged");
        numbers.insert(number);
    }
    // Or little was tried: three of a hundred are lost or damaged.
    assert!(numbers.len() as u32 > COUNT * 9 / 10, "{what}: {}", numbers.len());
}

/// Bytes of the link header of an Ethernet tunnel's frames.
const ETHERNET: usize = 14;

/// The identification of an IPv4 packet that may not be fragmented, and is none, means nothing (RFC 6864 §4.1): the
/// kernel counts on where it splits. A header that is damaged stays as it is.
fn without_identification(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    if let Some(header) = bytes.get_mut(at..at + ipv4::MIN_LEN)
        && header[0] == 0x45
        && u16::from_be_bytes([header[6], header[7]]) == 0x4000
        && checksum::verifies(header)
    {
        ipv4::set_identification(header, 0);
    }
    bytes
}

/// What came out of a tunnel device, as protocol type and payload packets. Nobody may say of a packet that its checksum
/// was looked at, or need not be, but where it was found right, and comes out right again.
fn singly(packet: &CapturedPacket, ethernet: bool) -> Vec<(u16, Vec<u8>)> {
    let (protocol_type, bytes, at) = if ethernet {
        (ethertype::TEB, &packet.frame[..], ETHERNET)
    } else {
        (packet.ethertype(), packet.payload(), 0)
    };
    let single = if packet.checksum_not_ready { taken_apart(bytes, at) } else { vec![bytes.to_vec()] };
    single.into_iter().map(|bytes| (protocol_type, bytes)).collect()
}

/// The datagrams that were put together to a packet whose checksum is left open, each as it was. They tell themselves
/// how long they are.
fn taken_apart(bytes: &[u8], at: usize) -> Vec<Vec<u8>> {
    let found = Transport::locate(&bytes[at..]).unwrap();
    assert_eq!(found.protocol, Protocol::Udp, "{bytes:02x?}");
    let (headers, payload) = bytes.split_at(at + found.payload_at());
    let size = u32::from_be_bytes(*payload[4..].first_chunk().unwrap());
    let datagram = |payload: &[u8]| {
        let mut bytes = [headers, payload].concat();
        let packet = &mut bytes[at..];
        let (whole, length) = (packet.len() as u16, (found.header_len + payload.len()) as u16);
        ipv4::set_total_length(packet, whole);
        let udp = &mut packet[found.offset..];
        udp[4..6].copy_from_slice(&length.to_be_bytes());
        udp[6..8].fill(0);
        let mut sum = found.pseudo_header(length.into());
        sum.add(udp);
        // 0 would say that there is none (RFC 768).
        let value = if sum.value() == 0 { 0xffff } else { sum.value() };
        udp[6..8].copy_from_slice(&value.to_be_bytes());
        bytes
    };
    payload.chunks(size as usize).map(datagram).collect()
}

/// What right's status says of all that arrived there.
#[derive(Clone, Copy, Debug)]
struct Account {
    delivered: u64,
    dropped: u64,
    /// Of no tunnel.
    declined: u64,
}

impl Account {
    fn all(&self) -> u64 {
        self.delivered + self.dropped + self.declined
    }
}

fn account(pair: &Pair) -> Account {
    let text = pair.nodes[1].words("status --json --no-echo").ok().stdout;
    let whole: serde_json::Value = text.parse().unwrap();
    let status = tunnel(&text, "tun0");
    let declines = whole["declines"].as_array().unwrap();
    Account {
        delivered: status["counters"]["received_packets"].as_u64().unwrap(),
        dropped: all_drops(&status) + all_drops(&whole),
        declined: declines.iter().map(|row| row["packets"].as_u64().unwrap()).sum(),
    }
}

pub(crate) fn all_drops(status: &serde_json::Value) -> u64 {
    status["drops"].as_array().unwrap().iter().map(|row| row["packets"].as_u64().unwrap()).sum()
}

#[test]
fn datagrams_come_out_as_the_path_let_them_through() {
    require!(privilege::check());
    for (way, kind) in [
        ("datapath userspace", "gre"),
        ("datapath userspace underlay raw", "gre"),
        ("datapath userspace", "gretap"),
        ("datapath userspace", "ip6gre"),
        (BY_PROGRAMS, "gre"),
        (BY_PROGRAMS, "ip6gre"),
    ] {
        let pair = path(way, kind, &LinkOptions::default());
        for (words, part) in [("nokey", Part::Payload), ("key 42", Part::Inner), ("key 42", Part::Gre)] {
            datagrams_survive(&pair, part, words);
        }
        if way_of(way, "csum") == way {
            csum_catches_all_damage(&pair);
        }
    }
}

/// With a checksum in the GRE header, whatever is damaged behind it is dropped for that.
fn csum_catches_all_damage(pair: &Pair) {
    pair.change("csum");
    let before = pair.status(1);
    let sender = udp(&pair.left, inner(0));
    let receiver = udp(&pair.right, inner(1));
    pair.middle().impair(Impairment { seed: 9, flip: 200, part: Part::Payload, ..Impairment::NONE });
    send_datagrams(pair, &sender, receiver.local_addr().unwrap(), 256);
    let [forth, _] = pair.middle().counts();
    assert!(forth.flipped > 20, "{forth:?}");
    let expected = drops(&before, "bad-checksum") + forth.flipped;
    pair.wait_for_drops(1, "bad-checksum", expected);
    pair.middle().impair(Impairment::NONE);
    assert_eq!(all_drops(&pair.status(1)), all_drops(&before) + forth.flipped, "and for no other reason");
}

/// The receiver's address family does not matter to what carries it.
#[test]
fn tcp_over_ipv6_arrives_whole_over_a_bad_path() {
    require!(privilege::check());
    let pair = path("datapath userspace", "gre", &LinkOptions::default());
    pair.ipv6();
    let address: IpAddr = "fd00::2".parse().unwrap();
    for (seed, part) in [(1, Part::Payload), (2, Part::Inner)] {
        pair.middle().impair(bad(seed, part));
        intact(&pair.left, &pair.right, address, 2 * MIB, &format!("{part:?}"));
    }
}
