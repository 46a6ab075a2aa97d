//! greway against User Mode Linux's own GRE, a userspace implementation that compares the header bit by bit with what it
//! was told to expect. One boot carries all tunnels.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/pair.rs"]
mod pair;
mod support;

use std::net::IpAddr;
use std::time::Duration;

use greway_testbed::uml::{self, GreVector, UmlGuest, UmlOptions};
use greway_testbed::{
    Host, LinkOptions, PingOptions, PingReport, link, ping, poll_until, privilege, require,
};

use support::{Daemon, Node, SOON, in_vain};

const MIB: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(60);

/// A tunnel between both.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    ipv6: bool,
    /// greway's words.
    words: &'static str,
    /// The keys that the other end receives and sends.
    keys: Option<(u32, u32)>,
    sequence: bool,
}

const CASES: [Case; 6] = [
    Case { name: "v-plain", ipv6: false, words: "", keys: None, sequence: false },
    Case { name: "v-keys", ipv6: false, words: "ikey 8 okey 7", keys: Some((7, 8)), sequence: false },
    Case { name: "v-seq", ipv6: false, words: "seq", keys: None, sequence: true },
    Case { name: "v-all", ipv6: false, words: "key 42 seq", keys: Some((42, 42)), sequence: true },
    // It knows no extension headers.
    Case {
        name: "v6-key",
        ipv6: true,
        words: "encaplimit none key 42",
        keys: Some((42, 42)),
        sequence: false,
    },
    Case {
        name: "v6-all",
        ipv6: true,
        words: "encaplimit none ikey 8 okey 7 seq",
        keys: Some((7, 8)),
        sequence: true,
    },
];

/// The outer addresses of a case, greway's first; each case has two of its own.
fn outer(case: &Case, number: usize) -> [IpAddr; 2] {
    let text = |end| if case.ipv6 { format!("fd09::{end}:{number}") } else { format!("10.9.{end}.{number}") };
    [1, 2].map(|end| text(end).parse().unwrap())
}

/// An inner address, IPv4 and IPv6.
fn inner(number: usize, end: u8) -> [IpAddr; 2] {
    [format!("172.31.{number}.{end}"), format!("fd31:{number}::{end}")].map(|text| text.parse().unwrap())
}

/// A host with greway, and a guest whose process carries one device a case.
struct Lab {
    _daemon: Daemon,
    node: Node,
    guest: UmlGuest,
    host: Host,
    _wire: Host,
}

impl Lab {
    fn boot() -> Self {
        let host = Host::new("host").unwrap();
        let wire = Host::new("wire").unwrap();
        let cable = LinkOptions { tx_offload: false, ..LinkOptions::default() };
        link(&host, "wan0", &wire, "wire0", &cable).unwrap();
        let mut vectors = Vec::new();
        let mut script = String::new();
        for (number, case) in numbered() {
            let [near, far] = outer(&case, number);
            for (host, dev, address) in [(&host, "wan0", near), (&wire, "wire0", far)] {
                host.address(dev, &format!("{address}/{}", if case.ipv6 { 64 } else { 16 })).unwrap();
            }
            let Case { keys, sequence, .. } = case;
            vectors.push(GreVector { keys, sequence, ..GreVector::new(far, near) });
            let [ipv4, ipv6] = inner(number, 2);
            script += &format!(
                "ip address add {ipv4}/24 dev vec{number}
                 ip address add {ipv6}/64 dev vec{number}
                 ip link set vec{number} up\n"
            );
        }
        let options =
            UmlOptions { name: "vector".to_owned(), modules: Vec::new(), vectors, ..UmlOptions::default() };
        let guest = UmlGuest::boot(&wire, "wire0", &script, &options).unwrap();
        let node = Node::new(&host);
        let daemon = node.daemon();
        for (number, case) in numbered() {
            let Case { name, ipv6, words, .. } = case;
            let mode = if ipv6 { "ip6gretap" } else { "gretap" };
            let [local, remote] = outer(&case, number);
            node.words(&format!("tunnel add {name} mode {mode} local {local} remote {remote} {words}")).ok();
            for (address, length) in inner(number, 1).iter().zip([24, 64]) {
                host.address(name, &format!("{address}/{length}")).unwrap();
            }
        }
        Self { _daemon: daemon, node, guest, host, _wire: wire }
    }

    fn answers(&self, name: &str, address: IpAddr) {
        poll_until(SOON, &format!("{name}: an answer of {address}"), || {
            ping(&self.host, address, &in_vain()).ok().filter(PingReport::complete)
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", self.guest.console().join("\n")));
    }

    /// Small and large packets both ways, TCP both ways, in both inner families, and nothing dropped.
    fn carries(&mut self, name: &str, number: usize) {
        self.answers(name, inner(number, 2)[0]);
        for (near, far) in inner(number, 1).into_iter().zip(inner(number, 2)) {
            for size in [56, 5_000] {
                let options = PingOptions { size, ..PingOptions::default() };
                let report = ping(&self.host, far, &options).unwrap();
                assert!(report.complete(), "{name}, {size} bytes to {far}: {report}");
                let quick = PingOptions { interval: Some(Duration::from_millis(10)), ..options };
                // On a busy host the guest's socket loses an answer now and then that has been on the wire.
                let what = format!("{name}: answers to {size} bytes from the guest by {near}");
                poll_until(SOON, &what, || {
                    let report = self.guest.ping(near, &quick).unwrap();
                    (report.received == report.sent).then_some(())
                })
                .unwrap();
            }
            let up = self.guest.upload(&self.host, near, MIB, LONG).unwrap();
            assert!(up.intact(), "{name}, from the guest: {up:?}");
            let down = self.guest.download(&self.host, near, MIB, LONG).unwrap();
            assert!(down.intact(), "{name}, to the guest: {down:?}");
        }
        let status = self.node.words("status --json --no-echo").ok().stdout;
        pair::none_dropped(&pair::tunnel(&status, name)["drops"], name);
    }
}

fn numbered() -> impl Iterator<Item = (usize, Case)> {
    (1..).zip(CASES)
}

#[test]
fn user_mode_linuxs_own_gre_takes_our_header_bit_by_bit() {
    require!(privilege::check());
    require!(uml::available());
    let mut lab = Lab::boot();
    for (number, case) in numbered() {
        lab.carries(case.name, number);
    }
    // That it compares is seen by what it does not take: a flag that was not agreed on, and another key.
    for (name, wrong, right) in [("v-plain", "oseq", "noseq"), ("v-keys", "okey 9", "okey 7")] {
        let number = 1 + CASES.iter().position(|case| case.name == name).unwrap();
        let far = inner(number, 2)[0];
        lab.node.words(&format!("tunnel change {name} {wrong}")).ok();
        let report = ping(&lab.host, far, &in_vain()).unwrap();
        assert_eq!(report.received(), 0, "{name} {wrong}: {report}");
        lab.node.words(&format!("tunnel change {name} {right}")).ok();
        lab.answers(name, far);
    }
    lab.guest.power_off(LONG).unwrap();
}
