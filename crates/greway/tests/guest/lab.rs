//! Two hosts in the guest: greway on one, the kernel's own GRE on the other.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use greway_testbed::{CapturedPacket, Host, LinkOptions, PingOptions, link, ping, poll_until};
use serde_json::Value;

use crate::pair;
use crate::support::{Daemon, Node, SOON};

/// Set inside the guest.
pub(crate) const INSIDE: &str = "GREWAY_GUEST";

/// Whether this is the guest; what runs there would make devices and load rules here.
pub(crate) fn inside() -> Result<(), String> {
    match std::env::var_os(INSIDE) {
        Some(_) => Ok(()),
        None => {
            Err("a step of `a_kernel_with_gre_vrf_vlan_and_ipsec_of_its_own`, which boots a guest for it"
                .to_owned())
        }
    }
}

/// The two hosts. Fields drop in this order: the daemon before the host it runs in.
pub(crate) struct Lab {
    pub(crate) daemon: Option<Daemon>,
    pub(crate) node: Node,
    pub(crate) ours: Host,
    pub(crate) kernel: Host,
    /// The outer addresses, ours and the kernel's.
    pub(crate) ends: [&'static str; 2],
}

/// The outer addresses over IPv4, and over IPv6.
pub(crate) const V4: [&str; 2] = ["10.0.0.1", "10.0.0.2"];
pub(crate) const V6: [&str; 2] = ["2001:db8::1", "2001:db8::2"];

impl Lab {
    /// Both with nothing but the cable `wan0`, without addresses, and a running daemon.
    pub(crate) fn cable() -> Self {
        let [ours, kernel] = ["ours", "kernel"].map(quiet);
        link(&ours, "wan0", &kernel, "wan0", &LinkOptions::default()).unwrap();
        let node = Node::new(&ours);
        let daemon = Some(node.daemon());
        Self { daemon, node, ours, kernel, ends: V4 }
    }

    /// Both on 10.0.0.0/24.
    pub(crate) fn new() -> Self {
        let lab = Self::cable();
        lab.ours.address("wan0", "10.0.0.1/24").unwrap();
        lab.kernel.address("wan0", "10.0.0.2/24").unwrap();
        lab
    }

    /// Both on 2001:db8::/64.
    pub(crate) fn over_ipv6() -> Self {
        let mut lab = Self::cable();
        lab.ends = V6;
        for (host, end) in [(&lab.ours, V6[0]), (&lab.kernel, V6[1])] {
            sh(host, "sysctl -q -w net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.wan0.disable_ipv6=0");
            host.address("wan0", &format!("{end}/64")).unwrap();
        }
        lab
    }

    /// [`Lab::new`] or [`Lab::over_ipv6`], as the mode demands.
    pub(crate) fn for_mode(mode: &str) -> Self {
        if mode.starts_with("ip6") { Self::over_ipv6() } else { Self::new() }
    }

    /// The kernel's end of a tunnel: `mode` and words of `ip link`, and its inner address.
    pub(crate) fn kernels(&self, name: &str, mode: &str, words: &str, address: &str) {
        let script = format!(
            "ip link add {name} type {mode} local {} remote {} {words}
             ip address add {address} dev {name}
             ip link set {name} up",
            self.ends[1], self.ends[0]
        );
        sh(&self.kernel, &script);
    }

    /// Our end of a tunnel, and its inner address.
    pub(crate) fn ours(&self, name: &str, mode: &str, words: &str, address: &str) {
        let ends = format!("local {} remote {}", self.ends[0], self.ends[1]);
        self.node.words(&format!("tunnel add {name} mode {mode} {ends} {words}")).ok();
        self.ours.address(name, address).unwrap();
    }

    /// Both ends of tun0: 172.16.0.1 ours, 172.16.0.2 the kernel's.
    pub(crate) fn tunnel(&self, mode: &str, words: &str) {
        self.ours("tun0", mode, words, "172.16.0.1/30");
        self.kernels("tun0", mode, words, "172.16.0.2/30");
    }

    /// What status says of a tunnel of ours.
    pub(crate) fn status(&self, name: &str) -> Value {
        pair::tunnel(&self.node.words("status --json --no-echo").ok().stdout, name)
    }

    /// Packets that a tunnel of ours received and sent, by greway's own count.
    pub(crate) fn counters(&self, name: &str) -> (u64, u64) {
        let counters = &self.status(name)["counters"];
        (counters["received_packets"].as_u64().unwrap(), counters["sent_packets"].as_u64().unwrap())
    }

    /// Waits until a tunnel of ours receives by this kind of socket.
    #[track_caller]
    pub(crate) fn wait_for_underlay(&self, name: &str, word: &str) {
        let settled = poll_until(SOON, "the change of sockets", || {
            let carried = &self.status(name)["datapath"];
            // As in `Pair::wait_for_underlay`.
            let case = if carried["why"] == pair::LEFT_BY_PROGRAMS {
                "packet"
            } else {
                carried["underlay"].as_str()?
            };
            (case == word).then_some(())
        });
        settled.unwrap_or_else(|error| panic!("{error}: {}", self.status(name)["datapath"]));
    }

    /// Pings exactly `count` times, from the host's main table, and demands that each end of tun0 has counted each
    /// packet once.
    #[track_caller]
    pub(crate) fn counts(&self, what: &str, count: u16, ping: impl FnOnce()) {
        let numbers = || {
            [self.counters("tun0"), pair::counted(&self.ours, "tun0"), pair::counted(&self.kernel, "tun0")]
        };
        let before = numbers();
        ping();
        let after = numbers();
        let count = u64::from(count);
        for (place, (before, after)) in
            ["greway", "our device", "the kernel's device"].iter().zip(before.iter().zip(&after))
        {
            assert_eq!(
                (after.0 - before.0, after.1 - before.1),
                (count, count),
                "{what}: received and sent by {place}"
            );
        }
    }
}

/// A host that sends nothing by itself, and filters by no reverse path.
pub(crate) fn quiet(name: &str) -> Host {
    let host = Host::new(name).unwrap();
    for scope in ["all", "default"] {
        host.sysctl(&format!("ipv6/conf/{scope}/disable_ipv6"), "1").unwrap();
        host.sysctl(&format!("ipv4/conf/{scope}/rp_filter"), "0").unwrap();
    }
    host
}

/// A short row of pings, all of which must be answered.
#[track_caller]
pub(crate) fn answers(host: &Host, to: &str) {
    let report = ping(host, address(to), &PingOptions::default()).unwrap();
    assert!(report.complete(), "from {}: {report}", host.name());
}

/// Waits until a ping is answered.
#[track_caller]
pub(crate) fn comes_to_answer(host: &Host, to: &str) {
    let one = PingOptions { count: 1, timeout: Duration::from_millis(250), ..PingOptions::default() };
    poll_until(SOON, &format!("an answer of {to}"), || {
        ping(host, address(to), &one).unwrap().complete().then_some(())
    })
    .unwrap();
}

/// A short row of pings, none of which may be answered.
#[track_caller]
pub(crate) fn silent(host: &Host, to: &str) {
    let report = ping(host, address(to), &crate::support::in_vain()).unwrap();
    assert_eq!(report.received(), 0, "from {}: {report}", host.name());
}

/// Debian's ping, for what the testbed's has no word for (`-I`, `-M`).
#[track_caller]
pub(crate) fn debian_ping(host: &Host, words: &str) {
    sh(host, &format!("ping -n -q -i 0.05 -W 2 {words}"));
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Runs a shell script on a host; gives its output. Every line must succeed.
#[track_caller]
pub(crate) fn sh(host: &Host, script: &str) -> String {
    let (succeeded, text) = attempt(host, script);
    assert!(succeeded, "{}: `{}`: {text}", host.name(), script.trim());
    text
}

/// Runs a shell script on a host; whether it succeeded, and what it said.
pub(crate) fn attempt(host: &Host, script: &str) -> (bool, String) {
    let output = host.output(Command::new("sh").args(["-ec", script])).unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// The protocol of a packet's payload: over IPv6 behind destination options and a fragment header (RFC 8200 §4.5, §4.6).
fn upper_protocol(packet: &CapturedPacket) -> Option<u8> {
    const FRAGMENT: u8 = 44;
    const OPTIONS: u8 = 60;
    let (mut protocol, mut at) = (packet.protocol()?, 40);
    while packet.ethertype() == 0x86dd && matches!(protocol, FRAGMENT | OPTIONS) {
        let header = packet.payload().get(at..at + 8)?;
        at += if protocol == FRAGMENT { 8 } else { 8 * (usize::from(header[1]) + 1) };
        protocol = header[0];
    }
    Some(protocol)
}

/// Whether a packet is GRE in the clear.
pub(crate) fn is_gre(packet: &CapturedPacket) -> bool {
    upper_protocol(packet) == Some(47)
}

/// Whether a packet is ESP.
pub(crate) fn is_esp(packet: &CapturedPacket) -> bool {
    upper_protocol(packet) == Some(50)
}
