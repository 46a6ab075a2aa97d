//! greway against Open vSwitch's userspace datapath, whose GRE is an implementation of its own: Ethernet (TEB) and
//! layer 3 tunnels, with key, checksum and sequence numbers. One start of it carries all tunnels.
//!
//! Its inner end is a tap device without offloads, so that what it sends has every checksum filled in, and what
//! it receives is checked by the kernel behind it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/pair.rs"]
mod pair;
mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use greway_testbed::ovs::{OpenVswitch, Programs, Tunnel};
use greway_testbed::tcp::transfer;
use greway_testbed::{
    Capture, CapturedPacket, Host, PingOptions, PingReport, ping, poll_until, privilege, require,
};
use greway_wire::gre::GreHeader;

use support::{Daemon, Node, SOON, in_vain};

const MIB: u64 = 1 << 20;
const C: u16 = 0x8000;
const K: u16 = 0x2000;
const S: u16 = 0x1000;
const TEB: u16 = 0x6558;

/// A tunnel between both, by greway's words and by Open vSwitch's options.
struct Case {
    name: &'static str,
    words: &'static str,
    options: &'static str,
    /// The first word of the GRE header, the same both ways.
    flags: u16,
}

/// Each of these is gone through as Ethernet and as layer 3 tunnel, each over IPv4 and over IPv6.
const CASES: [Case; 7] = [
    Case { name: "plain", words: "", options: "", flags: 0 },
    Case { name: "key", words: "key 42", options: "options:key=42", flags: K },
    Case { name: "zero", words: "key 0", options: "options:key=0", flags: K },
    Case { name: "keys", words: "ikey 7 okey 8", options: "options:in_key=8 options:out_key=7", flags: K },
    Case { name: "csum", words: "csum", options: "options:csum=true", flags: C },
    Case { name: "keyseq", words: "key 42 seq", options: "options:key=42 options:seq=true", flags: K | S },
    Case { name: "keycsum", words: "key 42 csum", options: "options:key=42 options:csum=true", flags: K | C },
];

/// The bug of Open vSwitch: it computes the checksum before it writes the sequence number.
const WRONG: Case = Case {
    name: "wrong",
    words: "key 42 csum seq",
    options: "options:key=42 options:csum=true options:seq=true",
    flags: K | C | S,
};

/// What stands under the tunnels, and what is in them.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind {
    layer_3: bool,
    outer_ipv6: bool,
}

impl Kind {
    fn mode(self) -> &'static str {
        match (self.layer_3, self.outer_ipv6) {
            (true, false) => "gre",
            (false, false) => "gretap",
            (true, true) => "ip6gre",
            (false, true) => "ip6gretap",
        }
    }

    /// The outer address with this last byte.
    fn outer(self, number: u8) -> IpAddr {
        if self.outer_ipv6 {
            Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, number.into()).into()
        } else {
            Ipv4Addr::new(10, 9, 0, number).into()
        }
    }
}

/// Inner addresses of the tunnel with this number: greway's end has 1, Open vSwitch's 2.
fn inner(number: u8, end: u8) -> [IpAddr; 2] {
    let ipv6 = Ipv6Addr::new(0xfd31, number.into(), 0, 0, 0, 0, 0, end.into());
    [Ipv4Addr::new(172, 31, number, end).into(), ipv6.into()]
}

/// Whether a packet has our outer address of the tunnel with this number.
fn is_between(packet: &CapturedPacket, kind: Kind, number: u8) -> bool {
    let header = packet.payload();
    match kind.outer(number) {
        IpAddr::V4(near) => [&header[12..16], &header[16..20]].contains(&&near.octets()[..]),
        IpAddr::V6(near) => [&header[8..24], &header[24..40]].contains(&&near.octets()[..]),
    }
}

/// The last byte of the outer address that both families' Open vSwitch has.
const FAR: u8 = 2;

/// A host with greway and an Open vSwitch.
struct Lab {
    _daemon: Daemon,
    node: Node,
    ovs: OpenVswitch,
    host: Host,
    next: u8,
}

impl Lab {
    fn start(programs: &Programs) -> Self {
        let host = Host::new("host").unwrap();
        let ovs = OpenVswitch::beside(programs, &host, "wan0", &["10.9.0.2/24", "fd09::2/64"]).unwrap();
        let node = Node::new(&host);
        for pid in ovs.pids() {
            node.watch(pid);
        }
        Self { _daemon: node.daemon(), node, ovs, host, next: 11 }
    }

    /// Makes both ends of a tunnel; gives its name and number.
    fn tunnel(&mut self, kind: Kind, case: &Case) -> (String, u8) {
        let number = self.next;
        self.next += 1;
        let layer = if kind.layer_3 { "l3" } else { "l2" };
        let name = format!("{layer}{}-{}", if kind.outer_ipv6 { "v6" } else { "" }, case.name);
        let (local, remote) = (kind.outer(number), kind.outer(FAR));
        self.host.address("wan0", &format!("{local}/{}", if kind.outer_ipv6 { 64 } else { 24 })).unwrap();
        // It drops tunnel packets while it does not know our hardware address, which it learns from its host's ARP.
        assert!(ping(self.ovs.host(), local, &PingOptions::default()).unwrap().complete(), "{name}: {local}");
        let mode = kind.mode();
        let words = format!("tunnel add {name} mode {mode} local {local} remote {remote} {}", case.words);
        self.node.words(&words).ok();
        let mtu = self.node.mtu(&name);
        let prefixes = [30, 64];
        for (address, length) in inner(number, 1).iter().zip(prefixes) {
            self.host.address(&name, &format!("{address}/{length}")).unwrap();
        }
        let far: Vec<String> = inner(number, 2)
            .iter()
            .zip(prefixes)
            .map(|(address, length)| format!("{address}/{length}"))
            .collect();
        let tunnel = Tunnel { name: &name, remote: local, layer_3: kind.layer_3, options: case.options, mtu };
        self.ovs.tunnel(&tunnel, &far.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        (name, number)
    }

    /// Small and large packets of both families both ways, and TCP both ways, and nothing dropped.
    fn carries(&self, kind: Kind, case: &Case, name: &str, number: u8) {
        let wire = Capture::start(&self.host, "wan0").unwrap();
        for size in [56, 5_000] {
            let timeout = Duration::from_millis(250);
            let options = PingOptions { size, timeout, ..PingOptions::default() };
            for (from, end) in [(&self.host, 2), (self.ovs.host(), 1)] {
                for address in inner(number, end) {
                    // Its datapath may drop the first packet of a flow; what greway drops is counted below.
                    let what = format!("{name}: answers to {size} bytes from {} by {address}", from.name());
                    poll_until(SOON, &what, || {
                        ping(from, address, &options).ok().filter(PingReport::complete)
                    })
                    .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.drops(name), self.ovs.log()));
                }
            }
        }
        for (from, to, end) in [(&self.host, self.ovs.host(), 2), (self.ovs.host(), &self.host, 1)] {
            for address in inner(number, end) {
                let report = transfer(from, to, SocketAddr::new(address, 0), MIB, 2 * SOON);
                let report = report.unwrap_or_else(|error| panic!("{name}: {}: {error}", from.name()));
                assert!(report.intact(), "{name}: from {}: {report:?}", from.name());
            }
        }
        // Both ends wrote the same flags, and only the protocol types that the kind has.
        let allowed: &[u16] = if kind.layer_3 { &[0x0800, 0x86dd] } else { &[TEB] };
        let (mut sent, mut received) = (0, 0);
        for packet in wire.stop() {
            // Other tunnels' neighbours are asked after now and then.
            let Some(gre) = packet.gre().filter(|_| is_between(&packet, kind, number)) else { continue };
            let (header, _) = GreHeader::parse(gre).unwrap();
            assert_eq!(u16::from_be_bytes([gre[0], gre[1]]), case.flags, "{name}: {header:?}");
            assert!(allowed.contains(&header.protocol_type), "{name}: {header:?}");
            *(if packet.outgoing { &mut sent } else { &mut received }) += 1;
        }
        assert!(sent > 100 && received > 100, "{name}: {sent} sent and {received} received");
        pair::none_dropped(&self.drops(name), name);
    }

    fn drops(&self, name: &str) -> serde_json::Value {
        pair::tunnel(&self.node.words("status --json --no-echo").ok().stdout, name)["drops"].clone()
    }

    /// Its frames with checksum and sequence number are dropped by name; it understands ours.
    fn drops_the_wrong_checksums(&mut self, kind: Kind) {
        let (name, number) = self.tunnel(kind, &WRONG);
        let arrives = Capture::start(self.ovs.host(), &name).unwrap();
        let asked = in_vain();
        let report = poll_until(SOON, "requests at the far end", || {
            let report = ping(&self.host, inner(number, 2)[0], &asked).unwrap();
            let requests = arrives.count(|packet| !packet.outgoing);
            (requests > 0).then_some(report)
        })
        .unwrap();
        assert_eq!(report.received(), 0, "{name}: a wrong checksum was taken");
        let counted = poll_until(SOON, "the drops to be counted", || {
            let drops = self.drops(&name);
            (drops != serde_json::json!([])).then_some(drops)
        })
        .unwrap();
        let reasons: Vec<&str> =
            counted.as_array().unwrap().iter().map(|drop| drop["reason"].as_str().unwrap()).collect();
        assert_eq!(reasons, ["bad-checksum"], "{name}: {counted}");
    }
}

fn programs() -> Result<Programs, String> {
    Programs::find(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("../peers/openvswitch"))
}

fn understands(outer_ipv6: bool) {
    let mut lab = Lab::start(&programs().unwrap());
    // All of them first: while the switch is busy with a new bridge its datapath asks it for no new flow.
    let kinds = [false, true].map(|layer_3| Kind { layer_3, outer_ipv6 });
    let mut tunnels = Vec::new();
    for (kind, case) in kinds.iter().flat_map(|kind| CASES.iter().map(move |case| (*kind, case))) {
        let (name, number) = lab.tunnel(kind, case);
        tunnels.push((kind, case, name, number));
    }
    for (kind, case, name, number) in &tunnels {
        lab.carries(*kind, case, name, *number);
    }
    lab.drops_the_wrong_checksums(Kind { layer_3: true, outer_ipv6 });
}

#[test]
fn open_vswitch_understands_ours_over_ipv4() {
    require!(privilege::check());
    require!(programs());
    understands(false);
}

#[test]
fn open_vswitch_understands_ours_over_ipv6() {
    require!(privilege::check());
    require!(programs());
    understands(true);
}
