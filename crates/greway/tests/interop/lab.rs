//! A host with greway and a guest with the kernel's own tunnels on one cable, and what a tunnel between them has to
//! carry.
//!
//! ```text
//!   host  uml0  10.9.0.N, fd09::N  ----------------  10.9.0.2, fd09::2  vec0  guest
//!         tunnel N  172.31.N.1, fd31:N::1      172.31.N.2, fd31:N::2  tunnel N
//! ```

use std::net::IpAddr;
use std::time::Duration;

use greway_testbed::uml::{UmlGuest, UmlOptions};
use greway_testbed::{Host, LinkOptions, PingOptions, PingReport, link, ping, poll_until};
use serde_json::Value;

use crate::pair;
use crate::support::{BY_PROGRAMS, Daemon, Node, SOON, environment_of, in_vain, way_of};

/// The number of the first tunnel, which is in its addresses.
const FIRST: usize = 11;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A tunnel between both ends. Each has an outer address of its own at greway's end, since plain and checksum
/// tunnels between the same ends are told apart by nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tunnel {
    /// Its name at both ends.
    pub(crate) name: &'static str,
    /// Its kind, as `ip link` writes it.
    pub(crate) mode: &'static str,
    /// The words of greway's end; `DEV` is the device of the underlay.
    pub(crate) words: &'static str,
    /// The words of the kernel's end.
    pub(crate) kernel: &'static str,
}

impl Tunnel {
    /// One with the same words at both ends.
    pub(crate) const fn same(name: &'static str, mode: &'static str, words: &'static str) -> Self {
        Self { name, mode, words, kernel: words }
    }

    /// One with other words at the kernel's end.
    pub(crate) const fn pair(
        name: &'static str,
        mode: &'static str,
        words: &'static str,
        kernel: &'static str,
    ) -> Self {
        Self { name, mode, words, kernel }
    }

    pub(crate) fn outer_ipv6(&self) -> bool {
        self.mode.starts_with("ip6")
    }

    pub(crate) fn is_ethernet(&self) -> bool {
        self.mode.ends_with("tap")
    }

    fn outer_prefix(&self) -> u8 {
        if self.outer_ipv6() { 64 } else { 24 }
    }

    /// The outer address with this last number.
    pub(crate) fn outer(&self, number: usize) -> IpAddr {
        let text = if self.outer_ipv6() { format!("fd09::{number}") } else { format!("10.9.0.{number}") };
        text.parse().unwrap()
    }
}

/// An inner address of the tunnel with this number, IPv4 and IPv6: greway's end is 1, the kernel's 2.
pub(crate) fn inner(number: usize, end: u8) -> [IpAddr; 2] {
    [format!("172.31.{number}.{end}"), format!("fd31:{number}::{end}")].map(|text| text.parse().unwrap())
}

/// Small packets, and such that are larger than the path.
pub(crate) const BOTH: [usize; 2] = [56, 3_000];

/// Options of the guest's pings: its program would wait 0.2 s between two.
pub(crate) fn quick(options: &PingOptions) -> PingOptions {
    PingOptions { interval: Some(Duration::from_millis(10)), ..options.clone() }
}

/// A host with greway, and a guest with the kernel's tunnels.
pub(crate) struct Interop {
    pub(crate) daemon: Option<Daemon>,
    pub(crate) node: Node,
    pub(crate) guest: UmlGuest,
    pub(crate) host: Host,
    /// The namespace in which the guest's end of the cable is.
    pub(crate) wire: Host,
    tunnels: Vec<Tunnel>,
}

impl Interop {
    /// Boots the guest and makes both ends of all tunnels; `everywhere` is said of each at greway's end.
    pub(crate) fn boot(name: &str, tunnels: &[Tunnel], everywhere: &str) -> Self {
        let host = Host::new("host").unwrap();
        let wire = Host::new("wire").unwrap();
        let cable = LinkOptions { tx_offload: false, ..LinkOptions::default() };
        link(&host, "uml0", &wire, "wire0", &cable).unwrap();
        for address in ["10.9.0.1/24", "fd09::1/64"] {
            host.address("uml0", address).unwrap();
        }
        let modules = ["ip_gre", "ip6_gre", "garp", "mrp", "8021q"].map(str::to_owned).to_vec();
        let options = UmlOptions { name: name.to_owned(), modules, ..UmlOptions::default() };
        let addresses = "ip address add 10.9.0.2/24 dev vec0\nip address add fd09::2/64 dev vec0";
        let mut guest = UmlGuest::boot(&wire, "wire0", addresses, &options).unwrap();
        let node = Node::new(&host);
        let daemon = Some(node.daemon_with(environment_of(everywhere)));
        let mut script = String::new();
        for (number, tunnel) in numbered(tunnels) {
            let Tunnel { name, mode, words, kernel } = tunnel;
            let (local, remote) = (tunnel.outer(number), tunnel.outer(2));
            host.address("uml0", &format!("{local}/{}", tunnel.outer_prefix())).unwrap();
            let words = words.replace("DEV", "uml0");
            let ends = format!("local {local} remote {remote}");
            let way = way_of(everywhere, &words);
            node.words(&format!("tunnel add {name} mode {mode} {ends} {words} {way}")).ok();
            let carried = pair::tunnel(&node.words("status --json --no-echo").ok().stdout, name);
            let by_programs = carried["datapath"]["datapath"] == "ebpf";
            assert!(by_programs || way != BY_PROGRAMS, "{name}: {}", carried["datapath"]);
            let [ipv4, ipv6] = inner(number, 1);
            host.address(name, &format!("{ipv4}/30")).unwrap();
            host.address(name, &format!("{ipv6}/64")).unwrap();
            let kernel = kernel.replace("DEV", "vec0");
            let [ipv4, ipv6] = inner(number, 2);
            script += &format!(
                "ip link add name {name} type {mode} local {remote} remote {local} {kernel}
                 ip address add {ipv4}/30 dev {name}
                 ip address add {ipv6}/64 dev {name}
                 ip link set {name} up\n"
            );
        }
        guest.run(&script).unwrap();
        Self { daemon, node, guest, host, wire, tunnels: tunnels.to_vec() }
    }

    /// All tunnels with their numbers.
    pub(crate) fn tunnels(&self) -> Vec<(usize, Tunnel)> {
        numbered(&self.tunnels).collect()
    }

    /// The number of a tunnel.
    pub(crate) fn number(&self, name: &str) -> usize {
        let found = numbered(&self.tunnels).find(|(_, tunnel)| tunnel.name == name);
        found.unwrap_or_else(|| panic!("no tunnel {name}")).0
    }

    /// greway's outer address of a tunnel.
    pub(crate) fn near_end(&self, name: &str) -> IpAddr {
        let number = self.number(name);
        self.tunnels[number - FIRST].outer(number)
    }

    /// Waits until a tunnel has carried a packet: an Ethernet's ends have to find each other first.
    pub(crate) fn ready(&self, name: &str) {
        for address in inner(self.number(name), 2) {
            poll_until(SOON, &format!("{name}: a first answer of {address}"), || {
                ping(&self.host, address, &in_vain()).ok().filter(PingReport::complete)
            })
            .unwrap_or_else(|error| panic!("{error}: {}", self.status(name)));
        }
    }

    /// Pings both ways in IPv4 and IPv6, with these bytes of data.
    pub(crate) fn pings(&mut self, name: &str, sizes: &[usize]) {
        let number = self.number(name);
        for &size in sizes {
            let options = PingOptions { size, ..PingOptions::default() };
            for (near, far) in inner(number, 1).into_iter().zip(inner(number, 2)) {
                let report = ping(&self.host, far, &options).unwrap();
                assert!(report.complete(), "{name}, {size} bytes to {far}: {report}");
                self.answered(name, near, &options);
            }
        }
    }

    /// Pings from the guest until all of one run are answered: on a busy host its device loses an answer now and then
    /// that has been on the wire. What greway loses is asked by [`Interop::no_errors`].
    pub(crate) fn answered(&mut self, name: &str, near: IpAddr, options: &PingOptions) {
        let mut last = String::new();
        let complete =
            poll_until(SOON, &format!("{name}, {} bytes: answers of {near}", options.size), || {
                let report = self.guest.ping(near, &quick(options)).unwrap();
                last = report.text;
                (report.received == report.sent).then_some(())
            });
        complete.unwrap_or_else(|error| panic!("{error}: {last}"));
    }

    /// A bulk each way in each inner family, compared byte for byte; gives the rates of IPv4 in Mbit/s.
    pub(crate) fn bulk(&mut self, name: &str, bytes: u64) -> [f64; 2] {
        let rates = inner(self.number(name), 1).map(|near| {
            let up = self.guest.upload(&self.host, near, bytes, LONG).unwrap();
            assert!(up.intact(), "{name}, from the guest to {near}: {up:?}");
            let down = self.guest.download(&self.host, near, bytes, LONG).unwrap();
            assert!(down.intact(), "{name}, to the guest from {near}: {down:?}");
            [up, down].map(|report| report.bits_per_second() / 1e6)
        });
        rates[0]
    }

    /// What greway says of a tunnel.
    pub(crate) fn status(&self, name: &str) -> Value {
        pair::tunnel(&self.node.words("status --json --no-echo").ok().stdout, name)
    }

    /// Neither end has dropped or complained.
    pub(crate) fn no_errors(&mut self, name: &str) {
        let text = self.guest.run(&format!("cd /sys/class/net/{name}/statistics && grep -H . *")).unwrap();
        for line in text.lines().filter(|line| line.contains("_errors") || line.contains("_dropped")) {
            assert!(line.ends_with(":0"), "the guest's {name}: {text}");
        }
        pair::none_dropped(&self.status(name)["drops"], name);
    }
}

fn numbered(tunnels: &[Tunnel]) -> impl Iterator<Item = (usize, Tunnel)> {
    (FIRST..).zip(tunnels.iter().copied())
}
