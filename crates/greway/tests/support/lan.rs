//! Three hosts on one LAN with a greway on each: what tunnels without one far end need.
//!
//! ```text
//!   host 0   wan0 10.0.0.1/24, fd00:47::1/64 ---+
//!   host 1   wan0 10.0.0.2/24, fd00:47::2/64 ---+--- br0   switch
//!   host 2   wan0 10.0.0.3/24, fd00:47::3/64 ---+
//!   tun0     172.16.0.1/24 to 172.16.0.3/24
//! ```

#![allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "helpers of tests, not all used by each")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use greway_testbed::{Host, LinkOptions, PingOptions, link, ping, poll_until};
use serde_json::Value;

use super::support::{Daemon, Node, SOON, in_vain, sh};

/// The three hosts. Fields drop in this order: daemons before the hosts they run in.
pub struct Lan {
    pub daemons: [Option<Daemon>; 3],
    pub nodes: [Node; 3],
    pub hosts: [Host; 3],
    switch: Host,
}

/// The outer IPv4 address of a host.
pub fn outer(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, host as u8 + 1)
}

/// The outer IPv6 address of a host.
pub fn outer6(host: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x47, 0, 0, 0, 0, 0, host as u16 + 1)
}

/// The inner address of a host.
pub fn inner(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, 0, host as u8 + 1)
}

impl Lan {
    /// The hosts with running daemons and without a tunnel. IPv6 is off but on the LAN.
    pub fn new() -> Self {
        let switch = Host::new("switch").unwrap();
        let hosts = ["host0", "host1", "host2"].map(|name| Host::new(name).unwrap());
        sh(&switch, "ip link add br0 type bridge mcast_snooping 0 && ip link set br0 up");
        for (number, host) in hosts.iter().enumerate() {
            for scope in ["all", "default"] {
                host.sysctl(&format!("ipv6/conf/{scope}/disable_ipv6"), "1").unwrap();
                host.sysctl(&format!("ipv4/conf/{scope}/rp_filter"), "0").unwrap();
            }
            let port = format!("port{number}");
            link(host, "wan0", &switch, &port, &LinkOptions::default()).unwrap();
            sh(&switch, &format!("ip link set {port} master br0"));
            host.address("wan0", &format!("{}/24", outer(number))).unwrap();
            host.sysctl("ipv6/conf/wan0/disable_ipv6", "0").unwrap();
            sh(host, &format!("ip addr add {}/64 dev wan0 nodad", outer6(number)));
        }
        for other in [1, 2] {
            poll_until(SOON, "the LAN", || {
                ping(&hosts[0], outer(other).into(), &in_vain()).unwrap().complete().then_some(())
            })
            .unwrap();
        }
        let nodes = [0, 1, 2].map(|number: usize| Node::new(&hosts[number]));
        let daemons = [0, 1, 2].map(|number: usize| Some(nodes[number].daemon()));
        Self { daemons, nodes, hosts, switch }
    }

    /// Adds tun0 on every host, with its inner address; `local` and these words.
    pub fn tunnel(&self, words: &str) {
        for (number, node) in self.nodes.iter().enumerate() {
            node.words(&format!("tunnel add tun0 mode gre local {} {words}", outer(number))).ok();
            self.hosts[number].address("tun0", &format!("{}/24", inner(number))).unwrap();
        }
    }

    /// Pings one host's address from another; all must be answered, once.
    #[track_caller]
    pub fn answers(&self, from: usize, to: impl Into<IpAddr>, options: &PingOptions) {
        let to = to.into();
        let report = ping(&self.hosts[from], to, options).unwrap();
        let seen = || {
            let drops = [0, 1, 2].map(|host| self.status(host)["drops"].to_string());
            format!("{}drops: {drops:?}", sh(&self.hosts[from], "ip neigh"))
        };
        assert!(report.complete(), "host {from} to {to}: {report}; {}", seen());
        assert_eq!(report.duplicates, 0, "host {from} to {to}: {report}");
    }

    /// What a host's status says of tun0.
    pub fn status(&self, host: usize) -> Value {
        let text = self.nodes[host].words("status --json --no-echo").ok().stdout;
        let status: Value = serde_json::from_str(&text).unwrap();
        let tunnels = status["tunnels"].as_array().unwrap();
        tunnels
            .iter()
            .find(|tunnel| tunnel["spec"]["name"] == "tun0")
            .unwrap_or_else(|| panic!("{text}"))
            .clone()
    }

    /// How often a host's tun0 has dropped for a reason.
    pub fn drops(&self, host: usize, reason: &str) -> u64 {
        let status = self.status(host);
        let drops = status["drops"].as_array().unwrap();
        let found = drops.iter().find(|drop| drop["reason"] == reason);
        found.map_or(0, |drop| drop["packets"].as_u64().unwrap())
    }

    /// Waits until a host's tun0 has dropped at least `count` for a reason.
    #[track_caller]
    pub fn wait_for_drops(&self, host: usize, reason: &str, count: u64) {
        let reached = poll_until(SOON, reason, || (self.drops(host, reason) >= count).then_some(()));
        assert!(reached.is_ok(), "{reason}: {}", self.status(host)["drops"]);
    }
}
