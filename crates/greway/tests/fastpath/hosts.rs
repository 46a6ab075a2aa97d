//! The pair of hosts as these tests need it: what carries its tunnels is chosen, and what of that outlives a daemon.
//!
//! The bpffs of a test is mounted nowhere. The daemons reach it through a descriptor of the test's process, and it is
//! gone with that.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fmt;
use std::fs;
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;

use greway_linux::netns;
use greway_testbed::{Host, LinkOptions, PingOptions, ping, poll_until};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use serde_json::Value;

use crate::pair::{self, OUTER, Pair};
use crate::support::SOON;
pub(crate) use crate::support::sh;

/// The outer IPv6 addresses of left and right.
pub(crate) const OUTER6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0x47, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0x47, 0, 0, 0, 0, 0, 2)];

/// What carries tunnels.
pub(crate) struct Carrier {
    word: &'static str,
    fast_path: &'static str,
    bpffs: String,
    mount: Option<OwnedFd>,
}

impl Carrier {
    /// The engine alone.
    pub(crate) fn userspace() -> Self {
        Self { word: "userspace", fast_path: "off", bpffs: String::new(), mount: None }
    }

    /// The programs, links and maps pinned in a bpffs. The error says why no bpffs can be had.
    pub(crate) fn pinned() -> Result<Self, String> {
        let mount = || {
            let context = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_create(&context)?;
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        };
        let mount =
            mount().map_err(|errno: rustix::io::Errno| format!("no bpffs may be mounted: {errno}"))?;
        let bpffs = format!("/proc/{}/fd/{}", std::process::id(), mount.as_raw_fd());
        Ok(Self { word: "pinned", fast_path: "on", bpffs, mount: Some(mount) })
    }

    /// The programs without a bpffs that lasts: filters of tc outlive the daemon, maps do not.
    pub(crate) fn filters() -> Self {
        Self { word: "filters", fast_path: "on", bpffs: "/proc".to_owned(), mount: None }
    }

    /// Both ways of outliving a daemon.
    pub(crate) fn both() -> Result<[Self; 2], String> {
        Ok([Self::pinned()?, Self::filters()])
    }

    /// Whether the next daemon finds what was counted before.
    pub(crate) fn keeps_counters(&self) -> bool {
        self.mount.is_some()
    }

    /// For the daemons.
    pub(crate) fn environment(&self) -> [(&str, &str); 2] {
        [("GREWAY_FAST_PATH", self.fast_path), ("GREWAY_BPFFS", &self.bpffs)]
    }

    /// Two hosts on a cable with addresses of both families and running daemons, no tunnel.
    pub(crate) fn bare(&self) -> Pair {
        self.bare_on(&LinkOptions::default())
    }

    /// The same on another cable.
    pub(crate) fn bare_on(&self, cable: &LinkOptions) -> Pair {
        let pair = Pair::bare_with(cable, &self.environment());
        for (host, address) in [(&pair.left, OUTER6[0]), (&pair.right, OUTER6[1])] {
            host.sysctl("ipv6/conf/wan0/disable_ipv6", "0").unwrap();
            sh(host, &format!("ip address add {address}/64 dev wan0 nodad"));
        }
        pair
    }

    /// Two hosts with tun0 made with these words, which carries.
    pub(crate) fn pair(&self, words: &str) -> Pair {
        let pair = self.bare();
        add(&pair, "tun0", words, 16);
        pair.answers(&PingOptions::default());
        self.carries(&pair, "tun0");
        pair
    }

    /// Waits until this carries a tunnel of both ends.
    #[track_caller]
    pub(crate) fn carries(&self, pair: &Pair, name: &str) {
        for node in 0..2 {
            self.carries_at(pair, node, name);
        }
    }

    /// The same at one end.
    #[track_caller]
    pub(crate) fn carries_at(&self, pair: &Pair, node: usize, name: &str) {
        let word = if self.fast_path == "on" { "ebpf" } else { "userspace" };
        wait_for_datapath(pair, node, name, word);
        let programs = &status(pair, node)["fast_path"];
        let hooks: Vec<&Value> =
            programs["attached"].as_array().into_iter().flatten().map(|program| &program["hook"]).collect();
        match self.word {
            "pinned" => {
                assert!(programs["pins"].is_string() && hooks.iter().all(|hook| *hook == "tcx"), "{programs}")
            }
            "filters" => {
                assert!(
                    programs["no_pins"].is_string() && hooks.iter().all(|hook| *hook == "clsact"),
                    "{programs}"
                );
            }
            _ => assert!(programs.is_null(), "{programs}"),
        }
    }

    /// The bpffs, as a daemon is told of it.
    pub(crate) fn bpffs(&self) -> &str {
        &self.bpffs
    }

    /// What greway has pinned for a host, folders too.
    pub(crate) fn pins(&self, host: &Host) -> Vec<String> {
        let cookie = host.run(|| netns::cookie().unwrap()).unwrap().expect("a kernel with namespace cookies");
        let layouts = fs::read_dir(PathBuf::from(&self.bpffs).join("greway")).into_iter().flatten();
        let mut found = Vec::new();
        for layout in layouts.map(|layout| layout.unwrap().path()).filter(|_| self.mount.is_some()) {
            let own = layout.join(format!("net-{cookie}"));
            found.extend(own.exists().then(|| own.display().to_string()));
            let pins = fs::read_dir(own).into_iter().flatten();
            found.extend(pins.map(|pin| pin.unwrap().file_name().into_string().unwrap()));
        }
        found.sort();
        found
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word)
    }
}

/// Adds a tunnel on both ends with these words, which may name a mode, and inner addresses 172.`subnet`.0.1 and .2.
pub(crate) fn add(pair: &Pair, name: &str, words: &str, subnet: u8) {
    let over_ipv6 = words.contains("mode ip6");
    let mode = if words.contains("mode ") { "" } else { "mode gre" };
    for (node, here, there) in [(&pair.nodes[0], 0, 1), (&pair.nodes[1], 1, 0)] {
        let [local, remote] = [here, there].map(|end: usize| match over_ipv6 {
            true => OUTER6[end].to_string(),
            false => OUTER[end].to_string(),
        });
        node.words(&format!("tunnel add {name} {mode} local {local} remote {remote} {words}")).ok();
    }
    pair.left.address(name, &format!("172.{subnet}.0.1/30")).unwrap();
    pair.right.address(name, &format!("172.{subnet}.0.2/30")).unwrap();
}

/// What a node's status says, without an echo of its own.
#[track_caller]
pub(crate) fn status(pair: &Pair, node: usize) -> Value {
    serde_json::from_str(&pair.nodes[node].words("status --json --no-echo").ok().stdout).unwrap()
}

/// What it says of one tunnel.
#[track_caller]
pub(crate) fn tunnel(pair: &Pair, node: usize, name: &str) -> Value {
    pair::tunnel(&status(pair, node).to_string(), name)
}

/// Waits until a tunnel is carried by `ebpf` or `userspace`; gives why it is not the former.
#[track_caller]
pub(crate) fn wait_for_datapath(pair: &Pair, node: usize, name: &str, word: &str) -> String {
    let mut last = Value::Null;
    let reached = poll_until(SOON, word, || {
        last = tunnel(pair, node, name)["datapath"].clone();
        (last["datapath"] == word).then_some(())
    });
    assert!(reached.is_ok(), "{name} of {node} is not carried by {word}: {last}");
    last["not_ebpf"].as_str().unwrap_or_default().to_owned()
}

/// How often the programs left packets of a tunnel to userspace for a reason.
pub(crate) fn left(tunnel: &Value, reason: &str) -> u64 {
    let rows = tunnel["left_to_userspace"].as_array().unwrap();
    rows.iter().find(|row| row["reason"] == reason).map_or(0, |row| row["packets"].as_u64().unwrap())
}

/// How often they did for any reason.
pub(crate) fn left_in_all(tunnel: &Value) -> u64 {
    let rows = tunnel["left_to_userspace"].as_array().unwrap();
    rows.iter().map(|row| row["packets"].as_u64().unwrap()).sum()
}

/// Pings an address until it is answered.
#[track_caller]
pub(crate) fn answers_in_the_end(from: &Host, to: &str, what: &str) {
    let once = PingOptions { count: 1, ..crate::support::in_vain() };
    let answered =
        poll_until(SOON, what, || ping(from, to.parse().unwrap(), &once).unwrap().complete().then_some(()));
    assert!(answered.is_ok(), "{what}: {} to {to}: no answer", from.name());
}

/// What tc has on a device: its qdisc of filters and the filters.
pub(crate) fn filters(host: &Host, device: &str) -> String {
    sh(host, &format!("tc qdisc show dev {device} clsact; tc filter show dev {device} ingress"))
}
