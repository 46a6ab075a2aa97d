//! greway against the Linux kernel's own ip_gre, in a User Mode Linux guest: one boot carries all
//! tunnels, those of layer 3 and those that carry Ethernet.
//!
//! The guest's end of the wire leaves the GRE checksum of csum tunnels to a device that never fills it in when
//! its transmit offload is on (M6), and verifies ours in any case; so both settings are gone through.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests; rates and times are for people"
)]

#[path = "support/pair.rs"]
mod pair;
mod support;

use std::net::IpAddr;
use std::time::Duration;

use greway_testbed::uml::{self, UmlGuest, UmlOptions};
use greway_testbed::{
    Capture, CapturedPacket, Host, LinkOptions, PingOptions, inject, link, offloads, ping, poll_until,
    privilege, require,
};

use support::{Daemon, Node, SOON};

const MIB: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(60);

/// The tunnels: name, mode, words, and the last byte of this end's outer address. Each has an address of its own,
/// since plain and checksum tunnels between the same ends are told apart by nothing.
const TUNNELS: [(&str, &str, &str, u8); 8] = [
    ("k-plain", "gre", "", 11),
    ("k-key", "gre", "key 42", 12),
    ("k-csum", "gre", "csum", 13),
    ("k-seq", "gre", "seq", 14),
    ("k-all", "gre", "key 42 csum seq", 15),
    ("t-plain", "gretap", "", 16),
    ("t-key", "gretap", "key 42", 17),
    ("t-all", "gretap", "key 42 csum seq", 18),
];

/// A host with greway, and a guest with the kernel's tunnels.
struct Interop {
    daemon: Option<Daemon>,
    node: Node,
    guest: UmlGuest,
    host: Host,
    /// The namespace in which the guest's end of the cable is.
    wire: Host,
}

fn near(number: u8) -> IpAddr {
    [172, 31, number, 1].into()
}

fn far(number: u8) -> IpAddr {
    [172, 31, number, 2].into()
}

impl Interop {
    fn boot(name: &str, underlay: &str) -> Self {
        let host = Host::new("host").unwrap();
        let wire = Host::new("wire").unwrap();
        link(&host, "uml0", &wire, "wire0", &LinkOptions { tx_offload: false, ..LinkOptions::default() })
            .unwrap();
        host.address("uml0", "10.9.0.1/24").unwrap();
        let mut script = "ip address add 10.9.0.2/24 dev vec0\n".to_owned();
        for (name, mode, words, number) in TUNNELS {
            script += &format!(
                "ip link add {name} type {mode} local 10.9.0.2 remote 10.9.0.{number} {words}
                 ip address add 172.31.{number}.2/30 dev {name}
                 ip link set {name} up\n"
            );
        }
        // A VLAN on top of an Ethernet tunnel.
        script += "ip link add link t-plain name t-plain.5 type vlan id 5
                   ip address add 172.31.55.2/24 dev t-plain.5
                   ip link set t-plain.5 up\n";
        let modules = ["ip_gre", "garp", "mrp", "8021q"].map(str::to_owned).to_vec();
        let options = UmlOptions { name: name.to_owned(), modules, ..UmlOptions::default() };
        let guest = UmlGuest::boot(&wire, "wire0", &script, &options).unwrap();
        let node = Node::new(&host);
        let daemon = Some(node.daemon());
        for (name, mode, words, number) in TUNNELS {
            host.address("uml0", &format!("10.9.0.{number}/24")).unwrap();
            let ends = format!("local 10.9.0.{number} remote 10.9.0.2");
            node.words(&format!("tunnel add {name} mode {mode} {ends} {words} underlay {underlay}")).ok();
            host.address(name, &format!("172.31.{number}.1/30")).unwrap();
        }
        Self { daemon, node, guest, host, wire }
    }

    /// Pings both ways, small and large.
    fn pings(&mut self, name: &str, number: u8) {
        for size in [56, 3000] {
            let options = PingOptions { count: 4, size, ..PingOptions::default() };
            let report = ping(&self.host, far(number), &options).unwrap();
            assert!(report.complete(), "{name}, {size} bytes to the guest: {report}");
            let report = self.guest.ping(near(number), &options).unwrap();
            assert_eq!((report.sent, report.received), (4, 4), "{name}, {size} bytes: {}", report.text);
        }
    }

    /// A bulk each way, compared byte for byte; gives both rates in Mbit/s.
    fn bulk(&mut self, name: &str, number: u8) -> [f64; 2] {
        let up = self.guest.upload(&self.host, near(number), 4 * MIB, LONG).unwrap();
        assert!(up.intact(), "{name}, from the guest: {up:?}");
        let down = self.guest.download(&self.host, near(number), 4 * MIB, LONG).unwrap();
        assert!(down.intact(), "{name}, to the guest: {down:?}");
        [up, down].map(|report| report.bits_per_second() / 1e6)
    }

    /// The guest's VLAN device on top of t-plain is asked for its address, and answers in its VLAN. (This host's
    /// kernel may have no VLAN devices, so the question is written by hand.)
    fn answers_in_a_vlan(&self) {
        let own = self.host.netlink().unwrap().link_by_name("t-plain").unwrap().unwrap().address.unwrap();
        let question = [
            &[0xff; 6][..],
            &own,
            // VLAN 5, ARP, a request for Ethernet and IPv4: who has 172.31.55.2, tell 172.31.55.1.
            &[0x81, 0, 0, 5, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &own,
            &[172, 31, 55, 1, 0, 0, 0, 0, 0, 0, 172, 31, 55, 2],
        ]
        .concat();
        let answers = Capture::start(&self.host, "t-plain").unwrap();
        inject(&self.host, "t-plain", &question).unwrap();
        let is_answer = |packet: &CapturedPacket| {
            let arp = packet.payload();
            packet.vlan == Some(5)
                && packet.ethertype() == 0x0806
                && arp.get(7) == Some(&2)
                && arp.get(14..18) == Some(&[172, 31, 55, 2])
                && packet.frame[..6] == own
        };
        answers.wait_for(SOON, "the guest's answer in VLAN 5", is_answer).unwrap();
    }

    /// Neither end has dropped or complained.
    fn no_errors(&mut self, name: &str) {
        let text = self.guest.run(&format!("cd /sys/class/net/{name}/statistics && grep -H . *")).unwrap();
        for line in text.lines().filter(|line| line.contains("_errors") || line.contains("_dropped")) {
            assert!(line.ends_with(":0"), "the guest's {name}: {text}");
        }
        let status = self.node.words("status --json --no-echo").ok().stdout;
        let drops = &pair::tunnel(&status, name)["drops"];
        assert_eq!(drops.to_string(), "[]", "{name}");
    }
}

#[test]
fn the_kernels_tunnels_understand_ours_by_packet_socket() {
    require!(privilege::check());
    require!(uml::available());
    understands("packet");
}

#[test]
fn the_kernels_tunnels_understand_ours_by_raw_socket() {
    require!(privilege::check());
    require!(uml::available());
    understands("raw");
}

fn understands(underlay: &str) {
    let mut lab = Interop::boot(&format!("interop-{underlay}"), underlay);
    for (name, _, _, number) in TUNNELS {
        lab.pings(name, number);
        let [up, down] = lab.bulk(name, number);
        println!("{name} by {underlay} socket: {up:.0} Mbit/s from the guest, {down:.0} to it");
        lab.no_errors(name);
    }
    lab.answers_in_a_vlan();
    lab.guest.power_off(LONG).unwrap();
}

/// With its device's transmit offload on the guest leaves every checksum to it, the GRE header's too, and nobody ever
/// fills them in (M6); with it off they are there.
#[test]
fn checksums_that_devices_leave_undone_do_no_harm() {
    require!(privilege::check());
    require!(uml::available());
    let mut lab = Interop::boot("interop-offload", "packet");
    let switch = lab.guest.run("ethtool -K vec0 tx on").map_err(|error| error.to_string());
    require!(switch);
    for (tx_offload, word) in [(true, "on"), (false, "off")] {
        lab.guest.run(&format!("ethtool -K vec0 tx {word}")).unwrap();
        let options = LinkOptions { tx_offload, ..LinkOptions::default() };
        offloads(&lab.host, "uml0", &options).unwrap();
        offloads(&lab.wire, "wire0", &options).unwrap();
        for underlay in ["packet", "raw"] {
            for (name, number) in [("k-plain", 11), ("k-csum", 13)] {
                let what = format!("{name} by {underlay} socket, transmit offload {word}");
                lab.node.words(&format!("tunnel change {name} underlay {underlay}")).ok();
                let arrives = Capture::start(&lab.host, "uml0").unwrap();
                lab.pings(name, number);
                lab.bulk(name, number);
                lab.no_errors(name);
                let undone = pair::seen(arrives, |packet| {
                    let gre = packet.gre().filter(|gre| !packet.outgoing && gre[0] & 0x80 != 0);
                    gre.is_some_and(|gre| !greway_wire::checksum::verifies(gre))
                });
                assert_eq!(undone > 0, tx_offload && name == "k-csum", "{what}: {undone} checksums undone");
            }
        }
    }
}

#[test]
fn a_peer_that_checks_sequence_numbers_accepts_us_after_kill_9() {
    require!(privilege::check());
    require!(uml::available());
    let mut lab = Interop::boot("interop-kill", "packet");
    for (name, number) in [("k-seq", 14), ("k-all", 15)] {
        // Far enough that a daemon which began at 0 again would be behind for a while.
        let flood = PingOptions { count: 300, size: 8, ..PingOptions::default() };
        assert!(ping(&lab.host, far(number), &flood).unwrap().complete());
        let before = errors(&mut lab.guest, name);
        assert_eq!(before, 0, "{name}");
        for _ in 0..2 {
            lab.daemon.take().unwrap().kill();
            lab.daemon = Some(lab.node.daemon());
            let one = PingOptions { count: 1, timeout: Duration::from_millis(200), ..PingOptions::default() };
            poll_until(SOON, "the tunnel after kill -9", || {
                ping(&lab.host, far(number), &one).unwrap().complete().then_some(())
            })
            .unwrap();
            assert!(ping(&lab.host, far(number), &PingOptions::default()).unwrap().complete());
        }
        // Not one was late: the numbers went on beyond those that were reserved.
        assert_eq!(errors(&mut lab.guest, name), 0, "{name}");
        lab.pings(name, number);
    }
}

/// What the guest's tunnel refused for its sequence number.
fn errors(guest: &mut UmlGuest, name: &str) -> u64 {
    let text = guest.run(&format!("cat /sys/class/net/{name}/statistics/rx_fifo_errors")).unwrap();
    text.trim().parse().unwrap()
}
