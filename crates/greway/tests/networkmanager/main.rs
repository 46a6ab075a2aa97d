//! The real NetworkManager, 1.42 and 1.52, on machines of their own: the guide's commands as written, and all that
//! happens to a profile afterwards.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests; a test that cannot run says so"
)]

mod life;
mod machine;
mod policies;
#[path = "../support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use greway_testbed::guide::{INNER, LAN};
use greway_testbed::tcp::transfer;
use greway_testbed::{Guide, Host, PingOptions, ping, privilege};

use machine::{Debian, Machine};

/// The guide's commands, with nothing changed.
pub(crate) const LINUX1: &str = "\
nmcli connection add con-name tun0 ifname tun0 type ip-tunnel mode gre ip-tunnel.remote 100.0.2.100 ip-tunnel.local 100.0.1.100 ipv4.method manual ipv4.addresses 172.16.0.1/30
ip route add 10.10.2.0/24 dev tun0";
const LINUX2: &str = "\
nmcli connection add con-name tun0 ifname tun0 type ip-tunnel mode gre ip-tunnel.remote 100.0.1.100 ip-tunnel.local 100.0.2.100 ipv4.method manual ipv4.addresses 172.16.0.2/30
ip route add 10.10.1.0/24 dev tun0";

/// Debian's files, or `None` with the reason on stderr.
pub(crate) fn provided(test: &str, debian: Debian) -> Option<PathBuf> {
    if let Err(error) = privilege::check() {
        eprintln!("not run: {test}: {error}");
        return None;
    }
    match machine::root(debian) {
        Ok(root) => Some(root),
        Err(error) => {
            eprintln!("not run: {test}: {error}");
            None
        }
    }
}

/// One machine on a host with an underlay, NetworkManager and the watcher running.
pub(crate) struct Single {
    pub(crate) machine: Machine,
    _host: Host,
}

impl Single {
    pub(crate) fn new(test: &str, debian: Debian, udev: bool) -> Option<Self> {
        let root = provided(test, debian)?;
        let host = Host::new("linux1").unwrap();
        let machine = Machine::start(&host, &root, udev);
        machine.start_manager();
        machine.start_watcher();
        Some(Self { machine, _host: host })
    }

    /// The guide's profile, up.
    pub(crate) fn with_tunnel(test: &str, debian: Debian) -> Option<Self> {
        let single = Self::new(test, debian, true)?;
        single.machine.run(LINUX1).ok();
        single.is_up();
        Some(single)
    }

    /// The tunnel is carried and NetworkManager has configured it.
    #[track_caller]
    pub(crate) fn is_up(&self) {
        let machine = &self.machine;
        machine.until("tun0 up", || {
            machine.run("ip -4 -o address show dev tun0").stdout.contains("172.16.0.1/30")
                && machine.profile("tun0", "GENERAL.STATE") == "activated"
                && machine.run("greway tunnel show tun0").stdout.contains("remote 100.0.2.100")
        });
    }

    /// There is neither a device nor a tunnel, and nothing is left of them.
    #[track_caller]
    pub(crate) fn is_gone(&self) {
        let machine = &self.machine;
        machine.until("tun0 gone", || {
            let links =
                machine.run("ip -br link; ls /run/greway/*/tunnels; /usr/sbin/nft list tables").stdout;
            !links.contains("tun0")
        });
    }
}

/// The guide's nmcli method on both hosts, then scenarios 1 and 2.
fn guide_as_written(test: &str, debian: Debian) {
    let Some(root) = provided(test, debian) else { return };
    let guide = Guide::build().unwrap();
    let one = Machine::start(&guide.linux1, &root, true);
    let two = Machine::start(&guide.linux2, &root, true);
    for machine in [&one, &two] {
        machine.start_manager();
        machine.start_watcher();
    }
    // Each block is one script that stops at the first line that fails: nothing waits between its lines.
    let outcome = one.run(&format!("set -e\n{LINUX1}"));
    assert_eq!(outcome.code, Some(0), "{outcome:?}\n{}", one.told());
    assert!(outcome.stdout.contains("successfully added."), "{outcome:?}");
    let outcome = two.run(&format!("set -e\n{LINUX2}"));
    assert_eq!(outcome.code, Some(0), "{outcome:?}\n{}", two.told());

    let ends = ping(&guide.linux1, INNER[1].into(), &PingOptions::default()).unwrap();
    assert!(ends.complete(), "{ends:?}\n{}\n{}", one.told(), two.told());

    // Scenario 1: from linux1 itself into the other LAN, which knows no way back.
    two.run(
        "iptables -t nat -A POSTROUTING -s 172.16.0.1 -d 10.10.2.0/24 -j SNAT --to-source 10.10.2.1\n\
         echo 1 >/proc/sys/net/ipv4/ip_forward",
    )
    .ok();
    let reached = ping(&guide.linux1, LAN[1].into(), &PingOptions::default()).unwrap();
    assert!(reached.complete(), "scenario 1: {reached:?}\n{}", two.told());
    let far = SocketAddr::new(LAN[1].into(), 5001);
    let moved = transfer(&guide.linux1, &guide.lan2, far, 1 << 20, Duration::from_secs(30)).unwrap();
    assert!(moved.intact(), "scenario 1: {moved:?}");

    // Scenario 2: between the LANs.
    one.run("echo 1 >/proc/sys/net/ipv4/ip_forward").ok();
    guide.default_routes().unwrap();
    let between = ping(&guide.lan1, LAN[1].into(), &PingOptions::default()).unwrap();
    assert!(between.complete(), "scenario 2: {between:?}");
    let moved = transfer(&guide.lan1, &guide.lan2, far, 1 << 20, Duration::from_secs(30)).unwrap();
    assert!(moved.intact(), "scenario 2: {moved:?}");

    assert_eq!(one.profile("tun0", "connection.type"), debian.adopted_type());
    // The real tool; the shim tells of a GRE device.
    let link = one.run("/bin/ip -d link show tun0").ok();
    assert!(link.contains("veth") && link.contains("alias greway "), "{link}");
}

#[test]
fn the_guides_nmcli_commands_as_written_on_networkmanager_1_42() {
    guide_as_written("the_guides_nmcli_commands_as_written_on_networkmanager_1_42", Debian::Bookworm);
}

#[test]
fn the_guides_nmcli_commands_as_written_on_networkmanager_1_52() {
    guide_as_written("the_guides_nmcli_commands_as_written_on_networkmanager_1_52", Debian::Trixie);
}
