//! The host under test, and the wire to it on which packets are put by hand and answers are read.
//!
//! Nothing waits for "nothing comes": behind each packet go two echo requests through a tunnel of their own, `fence`.
//! The first answer says that the packet has been through the receiving socket and whatever it caused stands in a
//! queue, the second that the worker has been to all queues since. The fence is userspace's in any case: what a program
//! carries has had its effect when the next packet is looked at, and what it declines is in userspace's queues.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use greway_control::api::client::Client;
use greway_control::api::{Reply, Request};
use greway_control::status::{Drop, Status};
use greway_linux::MacAddr;
use greway_linux::packet::{Config, PacketSocket};
use greway_netlink::{LinkChange, LinkStatistics};
use greway_testbed::build::{self, ethernet};
use greway_testbed::{Capture, CapturedPacket, Host, LinkOptions, link};
use greway_wire::{ethertype, gre::GreHeader};
use rustix::net::SendFlags;

use crate::masked::gre_of;
use crate::support::{BY_PROGRAMS, Daemon, Node, SOON, environment_of, way_of};

/// The kernel under test in the record.
pub(crate) const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// The same in IPv6.
const LOCAL_V6: &str = "fd09::2";
const FENCE_NAME: &str = "fence";
/// Where the fence leads, by outer and inner address.
const FENCE: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 98), Ipv4Addr::new(172, 29, 98, 1)];
const FENCE_INSIDE: Ipv4Addr = Ipv4Addr::new(172, 29, 98, 2);
const FENCE_IDENTIFIER: u16 = 0xfe9c;
/// The stations in an Ethernet tunnel: the host's own and the one beyond.
pub(crate) const STATIONS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]];

/// The host and the wire. Fields drop in this order: the daemon before the host it runs in.
pub(crate) struct Lab {
    wire_capture: Capture,
    client: RefCell<Client>,
    _daemon: Daemon,
    pub(crate) node: Node,
    pub(crate) host: Host,
    _wire: Host,
    /// One for all frames: the kernel takes milliseconds to close a packet socket.
    injector: PacketSocket,
    macs: [MacAddr; 2],
    fences: Cell<u16>,
    tunnels: RefCell<Vec<&'static str>>,
    way: &'static str,
}

/// All that is counted at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    /// The kernel's statistics of each tunnel device, in the order in which they were made.
    pub(crate) devices: Vec<(&'static str, LinkStatistics)>,
    /// What greway tells of one tunnel, and of packets of none.
    pub(crate) status: Status,
}

impl Lab {
    /// A host with a daemon and no tunnel but the fence. All tunnels are carried in the way that these words choose.
    pub(crate) fn new(way: &'static str) -> Self {
        let [host, wire] = ["host", "wire"].map(|name| Host::new(name).unwrap());
        for (key, value) in [
            ("ipv4/icmp_ratelimit", "0"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
            ("ipv6/icmp/ratelimit", "0"),
        ] {
            host.sysctl(key, value).unwrap();
        }
        link(&host, "wan0", &wire, "u0", &LinkOptions::default()).unwrap();
        host.address("wan0", &format!("{LOCAL}/24")).unwrap();
        host.address("wan0", &format!("{LOCAL_V6}/64")).unwrap();
        let macs = [(&host, "wan0"), (&wire, "u0")].map(|(host, dev)| {
            let link = host.netlink().unwrap().link_by_name(dev).unwrap().unwrap();
            MacAddr::new(link.address.unwrap())
        });
        let node = Node::new(&host);
        let daemon = node.daemon_with(environment_of(way));
        let client = RefCell::new(Client::connect(&node.socket()).unwrap());
        let wire_capture = Capture::start(&wire, "u0").unwrap();
        let config = Config { ifindex: Some(wire.index("u0").unwrap()), ..Config::default() };
        let injector = wire.run(|| PacketSocket::open(&config)).unwrap().unwrap();
        let tunnels = RefCell::default();
        let lab = Self {
            wire_capture,
            client,
            _daemon: daemon,
            node,
            host,
            _wire: wire,
            injector,
            macs,
            fences: Cell::new(0),
            tunnels,
            way,
        };
        lab.add(FENCE_NAME, "gre", FENCE[0].into(), "");
        lab.host.address(FENCE_NAME, &format!("{FENCE_INSIDE}/24")).unwrap();
        lab.tunnels.borrow_mut().clear();
        lab.neighbour(FENCE[0].into());
        lab
    }

    /// Makes one of the kernel's tunnels.
    pub(crate) fn add(&self, name: &'static str, mode: &str, remote: IpAddr, words: &str) {
        let local = if remote.is_ipv4() { LOCAL.to_string() } else { LOCAL_V6.to_owned() };
        let way = match name {
            FENCE_NAME if self.way == BY_PROGRAMS => "underlay packet datapath userspace",
            _ => way_of(self.way, words),
        };
        self.node
            .words(&format!("tunnel add name {name} mode {mode} local {local} remote {remote} {words} {way}"))
            .ok();
        if mode.ends_with("tap") {
            let change = LinkChange { address: Some(STATIONS[0]), ..LinkChange::default() };
            self.host.change(name, &change).unwrap();
        }
        self.tunnels.borrow_mut().push(name);
        let carried = serde_json::to_value(&self.counted(name).status.tunnels[0].datapath).unwrap();
        let asked = way.split(' ').collect::<Vec<_>>();
        for pair in asked.chunks(2) {
            assert_eq!(
                carried[pair[0]], pair[1],
                "{name} is not carried in the way that was asked for: {carried}"
            );
        }
    }

    /// Gives a tunnel device its addresses, and with Ethernet the station beyond.
    pub(crate) fn addresses(&self, name: &str, addresses: [String; 2], beyond: [String; 2]) {
        let index = self.host.index(name).unwrap();
        let ethernet = self.node.link(name).unwrap().arp();
        for (address, beyond) in addresses.iter().zip(beyond) {
            self.host.address(name, address).unwrap();
            if ethernet {
                let netlink = self.host.netlink().unwrap();
                netlink.set_neighbour(index, beyond.parse().unwrap(), STATIONS[1]).unwrap();
            }
        }
    }

    /// Has a host be on the wire that never answers, not even to who it is.
    pub(crate) fn neighbour(&self, address: IpAddr) {
        let netlink = self.host.netlink().unwrap();
        let index = self.host.index("wan0").unwrap();
        netlink.set_neighbour(index, address, self.macs[1].octets()).unwrap();
    }

    /// Puts an IP packet on the wire to the host.
    pub(crate) fn send(&self, packet: &[u8]) {
        let ethertype = if packet[0] >> 4 == 6 { ethertype::IPV6 } else { ethertype::IPV4 };
        let frame = ethernet(self.macs[0], self.macs[1], ethertype, packet);
        rustix::net::send(&self.injector, &frame, SendFlags::empty()).unwrap();
    }

    /// Waits until all that was sent has had its effect; gives the IP packets that the host has sent since the
    /// last call, without the multicast that hosts send of themselves.
    pub(crate) fn settled(&self) -> Vec<Vec<u8>> {
        for _ in 0..2 {
            let number = self.fences.get();
            self.fences.set(number + 1);
            self.send(&fence_request(number));
            self.wire_capture
                .wait_for(SOON, "the fence", |packet| fence_reply(packet) == Some(number))
                .unwrap();
        }
        assert_eq!(self.wire_capture.lost(), 0, "frames that the capture had no room for");
        let said = |packet: CapturedPacket| {
            let of_ip = [ethertype::IPV4, ethertype::IPV6].contains(&packet.ethertype());
            let own = packet.outgoing || !of_ip || fence_reply(&packet).is_some();
            (!own && !is_multicast(packet.payload())).then(|| datagram(packet.payload()))
        };
        self.wire_capture.take().into_iter().filter_map(said).collect()
    }

    /// All counters of the devices, and of greway those that concern a tunnel.
    pub(crate) fn counted(&self, tunnel: &str) -> Counted {
        let links = self.host.netlink().unwrap().links().unwrap();
        let statistics: BTreeMap<String, LinkStatistics> =
            links.into_iter().map(|link| (link.name, link.statistics)).collect();
        let devices = self.tunnels.borrow().iter().map(|name| (*name, statistics[*name])).collect();
        let reply = self
            .client
            .borrow_mut()
            .ask(&Request::Status { name: Some(tunnel.parse().unwrap()), probe: false })
            .unwrap();
        let Reply::Status(status) = reply else { panic!("a status was asked for: {reply:?}") };
        Counted { devices, status: *status }
    }
}

impl Counted {
    /// What greway has dropped of the tunnel.
    pub(crate) fn drops(&self) -> &[Drop] {
        &self.status.tunnels[0].drops
    }

    /// Received packets that were dealt with in a way that is counted: delivered to the tunnel, dropped for it, or of
    /// no tunnel.
    pub(crate) fn received(&self) -> u64 {
        let dropped = |drops: &[Drop]| {
            let received = drops.iter().filter(|drop| drop.direction == "receive");
            received.map(|drop| drop.packets).sum::<u64>()
        };
        let status = &self.status;
        let tunnel = &status.tunnels[0];
        let of_tunnel = tunnel.counters.received_packets + dropped(&tunnel.drops);
        let unmatched = status.unmatched.iter().map(|entry| entry.packets).sum::<u64>();
        of_tunnel + dropped(&status.drops) + unmatched
    }
}

fn fence_request(number: u16) -> Vec<u8> {
    let echo = build::echo_request(FENCE_IDENTIFIER, number, b"fence");
    let inner = build::ipv4(build::ipv4_header(FENCE[1], FENCE_INSIDE, build::ICMP), &echo);
    let header = GreHeader { protocol_type: ethertype::IPV4, ..GreHeader::default() };
    build::ipv4(build::ipv4_header(FENCE[0], LOCAL, build::GRE), &build::gre(header, &inner))
}

/// The number of a fence's reply.
fn fence_reply(packet: &CapturedPacket) -> Option<u16> {
    let gre = packet.gre().filter(|_| !packet.outgoing && packet.ethertype() == ethertype::IPV4)?;
    let echo = gre.get(24..).filter(|_| packet.payload()[16..20] == FENCE[0].octets())?;
    (echo[4..6] == FENCE_IDENTIFIER.to_be_bytes()).then(|| u16::from_be_bytes([echo[6], echo[7]]))
}

/// Whether a packet goes to all: what stacks send of themselves when a device comes up, in tunnels and beside them.
fn is_multicast(packet: &[u8]) -> bool {
    let (protocol_type, inner) = match gre_of(packet) {
        Some((header, inner)) => (header.protocol_type, inner),
        None if packet[0] >> 4 == 6 => (ethertype::IPV6, packet),
        None => return false,
    };
    match protocol_type {
        ethertype::IPV6 => inner.get(24) == Some(&0xff),
        ethertype::TEB => inner.starts_with(&[0x33, 0x33]),
        _ => false,
    }
}

/// An IP packet without the padding of its frame.
fn datagram(payload: &[u8]) -> Vec<u8> {
    let field = |at: usize| usize::from(u16::from_be_bytes([payload[at], payload[at + 1]]));
    let length = if payload[0] >> 4 == 6 { 40 + field(4) } else { field(2) };
    payload[..length.min(payload.len())].to_vec()
}
