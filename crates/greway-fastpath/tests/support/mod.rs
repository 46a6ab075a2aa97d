//! A namespace with one wire in it, packets to send along it, and taps to see them arrive.
//!
//! ```text
//!  near0 ═══════ veth ═══════ far0: ETH_P_ALL tap ─► tc ingress ─► ETH_P_IP tap ─► IP stack (raw socket)
//!  02::1  192.0.2.2           02::2  192.0.2.1/24
//! ```
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

pub(crate) mod bpffs;

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use aya::programs::{SchedClassifier, TcAttachType};
use greway_fastpath::{Attachment, Counters, Fastpath, FastpathError, Options, Point};
use greway_linux::{
    netns,
    packet::{Config, PacketSocket, Protocol},
    raw::RawSocket,
};
use greway_netlink::{Address, LinkChange, Netlink, VethEnd, VethPair, VethSpec};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};

/// The receiving end, where programs are attached.
pub(crate) const FAR: &str = "far0";
pub(crate) const NEAR: &str = "near0";
pub(crate) const IPPROTO_GRE: u8 = 47;
/// RFC 3692: for experiments. Stands for any payload.
pub(crate) const IPPROTO_TEST: u8 = 253;

const PATIENCE: Duration = Duration::from_secs(10);
const NEAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const NEAR_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const FAR_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NEAR_IP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const FAR_IP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// In front of the number in each packet, to tell ours from any other.
const MARK: [u8; 4] = *b"grwy";

/// Runs `test` on a thread of its own, in a network namespace of its own, or says why it cannot.
pub(crate) fn in_namespace(name: &str, test: impl FnOnce(&Wire) + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Err(error) = netns::unshare_net() {
                return not_run(name, &format!("no network namespace: {error}"));
            }
            if let Err(FastpathError::Load { kernel }) = Fastpath::load_with(&options())
                && (kernel.contains("(os error 1)") || kernel.contains("(os error 38)"))
            {
                return not_run(name, &format!("this process may not load BPF programs: {kernel}"));
            }
            test(&Wire::new());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// One line for the table of tests that could not run. In one write and past the harness's capture, so that it
/// arrives whole and always.
pub(crate) fn not_run(name: &str, reason: &str) {
    let line = format!("not run: {name}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Options without pins, on the object under test: a fresh one when GREWAY_EBPF_OBJECT names it.
pub(crate) fn options() -> Options {
    let object = std::env::var_os("GREWAY_EBPF_OBJECT").map(|path| Cow::Owned(fs::read(path).unwrap()));
    Options { pins: greway_fastpath::PinPolicy::Never, object, ..Options::default() }
}

/// The same programs, but with another verdict for every packet, so that a test of the verdict can fail.
pub(crate) fn options_with_verdict(verdict: i32) -> Options {
    // A register becomes -1: as 64 bits from two words, as 64 bits sign-extended, or as 32 bits
    // (Documentation/bpf/standardization/instruction-set.rst, v6.6). Nothing but the verdict does.
    // At the overlay's it is at two places: sealed, and not.
    patched(2..=7, |instruction| {
        if let [0x18 | 0xb7 | 0xb4, 0..=9, 0, 0, 0xff, 0xff, 0xff, 0xff] = *instruction {
            instruction[4..].copy_from_slice(&verdict.to_le_bytes());
            return true;
        }
        false
    })
}

/// The same programs, but what the overlay declines stays as it is for the host's own stack.
pub(crate) fn options_without_seal() -> Options {
    // `bpf_skb_change_type` is helper 32; that it has succeeded is said in its place (r0 = 0).
    const CALL: [u8; 8] = [0x85, 0, 0, 0, 32, 0, 0, 0];
    const SUCCEEDED: [u8; 8] = [0xb7, 0, 0, 0, 0, 0, 0, 0];
    patched(1..=1, |instruction| {
        let seals = *instruction == CALL;
        if seals {
            *instruction = SUCCEEDED;
        }
        seals
    })
}

/// The object under test with so many instructions changed.
fn patched(times: RangeInclusive<usize>, change: impl Fn(&mut [u8; 8]) -> bool) -> Options {
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/obj/greway.bpf.o");
    let mut object = options().object.map_or_else(|| fs::read(committed).unwrap(), Cow::into_owned);
    let (instructions, _rest) = object.as_chunks_mut::<8>();
    let changed = instructions.iter_mut().filter_map(|instruction| change(instruction).then_some(())).count();
    assert!(times.contains(&changed), "{changed} instructions are not the {times:?} that are meant");
    Options { object: Some(Cow::Owned(object)), ..options() }
}

/// Both ends of a veth pair in the calling thread's namespace.
pub(crate) struct Wire {
    netlink: Netlink,
    sender: PacketSocket,
    pub(crate) pair: VethPair,
}

impl Wire {
    fn new() -> Self {
        // Neighbour discovery would be counted too. No file means no IPv6.
        let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        let netlink = Netlink::open().unwrap();
        let end = |name, mac: [u8; 6]| VethEnd { address: Some(mac), ..VethEnd::new(name) };
        let spec = VethSpec { end: end(NEAR, NEAR_MAC), peer: end(FAR, FAR_MAC), peer_netns: None };
        let pair = netlink.create_veth(&spec).unwrap();
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        netlink.change_link(pair.index, &up).unwrap();
        netlink.change_link(pair.peer_index, &up).unwrap();
        netlink.add_address(pair.peer_index, Address::new(IpAddr::V4(FAR_IP), 24)).unwrap();
        let config = Config { ifindex: Some(pair.index), ..Config::default() };
        let sender = PacketSocket::open(&config).unwrap();
        let wire = Self { netlink, sender, pair };
        until("the wire carries", || {
            wire.netlink.link_by_index(pair.peer_index).unwrap().is_some_and(|link| link.running)
        });
        wire
    }

    /// Sends one frame to the far end as it is.
    pub(crate) fn send_frame(&self, frame: &[u8]) {
        assert_eq!(send(self.sender.as_fd(), frame, SendFlags::empty()).unwrap(), frame.len());
    }

    /// Sends packets with these numbers, one after the other.
    pub(crate) fn send(&self, protocol: u8, numbers: std::ops::Range<u32>) {
        for number in numbers {
            self.send_frame(&frame(protocol, number));
        }
    }

    /// The far end gets an IPv6 address. `false` where the kernel has no IPv6.
    pub(crate) fn with_ipv6(&self) -> bool {
        let setting = |name: &str, value: &str| {
            fs::write(format!("/proc/sys/net/ipv6/conf/{FAR}/{name}"), value).is_ok()
        };
        // No packets of its own: no link-local address, and nobody is asked whether an address is taken.
        let there =
            setting("addr_gen_mode", "1") && setting("accept_dad", "0") && setting("disable_ipv6", "0");
        if there {
            self.netlink.add_address(self.pair.peer_index, Address::new(IpAddr::V6(FAR_IP6), 64)).unwrap();
        }
        there
    }

    /// The last bytes of the IPv4 neighbours that the far end has learnt.
    pub(crate) fn neighbours(&self) -> BTreeSet<u8> {
        let neighbours = self.netlink.neighbours(self.pair.peer_index).unwrap();
        let last = |address| match address {
            IpAddr::V4(address) => Some(address.octets()[3]),
            IpAddr::V6(_) => None,
        };
        neighbours.into_iter().filter_map(|neighbour| last(neighbour.address)).collect()
    }

    pub(crate) fn delete(&self) {
        self.netlink.delete_link(self.pair.index).unwrap();
    }

    /// A packet socket at the far end.
    pub(crate) fn tap(&self, protocol: Protocol) -> Tap {
        let config = Config {
            protocol,
            ifindex: Some(self.pair.peer_index),
            ignore_outgoing: true,
            ..Config::default()
        };
        Tap { socket: PacketSocket::open(&config).unwrap().into(), seen: BTreeSet::new(), frames: Vec::new() }
    }

    /// What the IP stack delivers to a raw socket.
    pub(crate) fn ip_stack(&self, protocol: u8) -> Tap {
        Tap {
            socket: RawSocket::open_ipv4(protocol).unwrap().into(),
            seen: BTreeSet::new(),
            frames: Vec::new(),
        }
    }

    /// The same of IPv6.
    pub(crate) fn ip6_stack(&self, protocol: u8) -> Tap {
        Tap {
            socket: RawSocket::open_ipv6(protocol).unwrap().into(),
            seen: BTreeSet::new(),
            frames: Vec::new(),
        }
    }
}

/// A socket, and the numbers of our packets that arrived there.
pub(crate) struct Tap {
    socket: rustix::fd::OwnedFd,
    seen: BTreeSet<u32>,
    /// They themselves, as they came.
    pub(crate) frames: Vec<Vec<u8>>,
}

impl Tap {
    /// Waits for packet `number`, and tells the numbers of all packets that came until then.
    pub(crate) fn until(&mut self, number: u32) -> BTreeSet<u32> {
        let deadline = Instant::now() + PATIENCE;
        while !self.seen.contains(&number) {
            assert!(Instant::now() < deadline, "packet {number} did not come, only {:?}", self.seen);
            let wait = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&wait)).unwrap();
            self.drain();
        }
        self.seen.clone()
    }

    fn drain(&mut self) {
        let mut buffer = [0; 2048];
        loop {
            match recv(&self.socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((len, _)) => {
                    let number = number(&buffer[..len]);
                    self.frames.extend(number.map(|_| buffer[..len].to_vec()));
                    self.seen.extend(number);
                }
                Err(Errno::AGAIN) => return,
                Err(errno) => panic!("recv: {errno}"),
            }
        }
    }
}

/// An Ethernet frame with an IPv4 packet of `protocol`; for 47, plain GRE with an empty IPv4 header inside.
pub(crate) fn frame(protocol: u8, number: u32) -> Vec<u8> {
    let mut payload = Vec::new();
    if protocol == IPPROTO_GRE {
        payload.extend([0, 0, 0x08, 0]);
        payload.extend(ipv4(IPPROTO_TEST, 8, 0x4000));
    }
    payload.extend(marked(number));
    ethernet(0x0800, &[ipv4(protocol, payload.len(), 0x4000), payload].concat())
}

/// An Ethernet frame with an IPv6 packet of `protocol`.
pub(crate) fn frame6(protocol: u8, number: u32) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 8, protocol, 64];
    packet.extend(NEAR_IP6.octets());
    packet.extend(FAR_IP6.octets());
    packet.extend(marked(number));
    ethernet(0x86dd, &packet)
}

/// An Ethernet frame in which 192.0.2.`last` asks by ARP for the far end.
pub(crate) fn arp(last: u8) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend(NEAR_MAC);
    packet.extend([192, 0, 2, last]);
    packet.extend([0; 6]);
    packet.extend(FAR_IP.octets());
    packet.extend(marked(last.into()));
    ethernet(0x0806, &packet)
}

/// What a [`Tap`] knows packet `number` by.
pub(crate) fn marked(number: u32) -> Vec<u8> {
    [MARK, number.to_be_bytes()].concat()
}

/// A frame to the far end.
pub(crate) fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&FAR_MAC[..], &NEAR_MAC, &ethertype.to_be_bytes(), payload].concat()
}

/// An IPv4 packet with these addresses.
pub(crate) fn ipv4_packet(protocol: u8, source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut header = ipv4(protocol, payload.len(), 0x4000);
    header[10..12].fill(0);
    header[12..16].copy_from_slice(&source);
    header[16..20].copy_from_slice(&destination);
    let sum = header_checksum(&header);
    header[10..12].copy_from_slice(&sum);
    [&header, payload].concat()
}

/// An IPv4 header without options for `len` bytes of payload, with these flags and fragment offset.
pub(crate) fn ipv4(protocol: u8, len: usize, fragment: u16) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((20 + len as u16).to_be_bytes());
    header.extend([0, 0]);
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0]);
    header.extend(NEAR_IP.octets());
    header.extend(FAR_IP.octets());
    let sum = header_checksum(&header);
    header[10..12].copy_from_slice(&sum);
    header
}

/// The checksum of an IPv4 header whose field is zero.
pub(crate) fn header_checksum(header: &[u8]) -> [u8; 2] {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
}

fn number(packet: &[u8]) -> Option<u32> {
    let at = packet.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    Some(u32::from_be_bytes(*packet.get(at..)?.first_chunk()?))
}

/// Polls until `holds`.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

/// The protocol that a test of `point` sends.
pub(crate) fn protocol_at(point: Point) -> u8 {
    match point {
        Point::Overlay | Point::Direct => IPPROTO_TEST,
        Point::Underlay | Point::Witness => IPPROTO_GRE,
    }
}

/// Loads and attaches in one go.
pub(crate) fn attached(options: &Options, point: Point) -> (Fastpath, Attachment) {
    let mut fastpath = Fastpath::load_with(options).unwrap();
    let attachment = fastpath.attach(FAR, point).unwrap();
    (fastpath, attachment)
}

pub(crate) fn seen(fastpath: &Fastpath, point: Point) -> u64 {
    sound(fastpath.counters(point).unwrap()).seen
}

/// Counters whose parts add up.
pub(crate) fn sound(counters: Counters) -> Counters {
    let ends = counters.carried + counters.dropped + counters.declined.iter().sum::<u64>();
    assert_eq!(counters.seen, ends, "{counters:?}");
    assert!(counters.gre <= counters.seen, "{counters:?}");
    counters
}

/// The programs in the tcx ingress chain of `device`, first to last. None where the kernel has no tcx.
pub(crate) fn tcx_chain(device: &str) -> Vec<(u32, String)> {
    let Ok((_revision, programs)) = SchedClassifier::query_tcx(device, TcAttachType::Ingress) else {
        return Vec::new();
    };
    programs
        .iter()
        .map(|program| (program.id(), program.name_as_str().unwrap_or_default().to_owned()))
        .collect()
}

/// What tc itself lists at the far end; `None` when there is no tc to ask.
pub(crate) fn tc_lists() -> Option<String> {
    let ask = |words: &[&str]| {
        let output = std::process::Command::new("tc").args(words).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    Some(ask(&["qdisc", "show", "dev", FAR, "clsact"])? + &ask(&["filter", "show", "dev", FAR, "ingress"])?)
}
