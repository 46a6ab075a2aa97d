//! Traffic out of one tunnel and into the next: the kernel refuses to encapsulate once more what still has its mark
//! "encapsulated", and the programs leave that to userspace (T12). While there is no daemon it is lost then.
//!
//! ```text
//!   host 0 ═══ tun0 ═══ host 1, the hub ═══ tun1 ═══ host 2
//!   172.16.0.1          172.16.0.2, 172.17.0.1          172.17.0.2
//! ```

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use greway_testbed::{PingOptions, PingReport, ping, poll_until, privilege, require};
use serde_json::Value;

use crate::hosts::{left, left_in_all};
use crate::lan::{Lan, outer};
use crate::pair::{intact, tunnel};
use crate::stream::Stream;
use crate::support::{SOON, sh};

const FAR: [u8; 4] = [172, 17, 0, 2];
const NEAR: [u8; 4] = [172, 16, 0, 1];

struct Hub(Lan);

impl Hub {
    fn new(environment: [&[(&str, &str)]; 3]) -> Self {
        let mut lan = Lan::new();
        for (host, environment) in environment.iter().enumerate() {
            lan.daemons[host].take().unwrap().terminate();
            lan.daemons[host] = Some(lan.nodes[host].daemon_with(environment));
        }
        let add = |host: usize, name: &str, remote: usize, address: &str| {
            let words = format!("tunnel add {name} mode gre local {} remote {}", outer(host), outer(remote));
            lan.nodes[host].words(&words).ok();
            lan.hosts[host].address(name, address).unwrap();
        };
        add(0, "tun0", 1, "172.16.0.1/30");
        add(1, "tun0", 0, "172.16.0.2/30");
        add(1, "tun1", 2, "172.17.0.1/30");
        add(2, "tun0", 1, "172.17.0.2/30");
        sh(&lan.hosts[0], "ip route add 172.17.0.0/30 via 172.16.0.2");
        sh(&lan.hosts[2], "ip route add 172.16.0.0/30 via 172.17.0.1");
        lan.hosts[1].forwarding(true).unwrap();
        Self(lan)
    }

    /// Pings across the hub.
    fn across(&self) -> PingReport {
        ping(&self.0.hosts[0], FAR.into(), &PingOptions { count: 5, ..PingOptions::default() }).unwrap()
    }

    /// Bulk transfers across the hub, forth and back.
    fn bulk(&self, what: &str) {
        let [near, _, far] = &self.0.hosts;
        intact(near, far, FAR.into(), 1 << 20, what);
        intact(far, near, NEAR.into(), 1 << 20, what);
    }

    fn status(&self, name: &str) -> Value {
        tunnel(&self.0.nodes[1].words("status --json --no-echo").ok().stdout, name)
    }

    fn wait_for_ebpf(&self) {
        for name in ["tun0", "tun1"] {
            let carried = poll_until(SOON, "the hub's programs", || {
                (self.status(name)["datapath"]["datapath"] == "ebpf").then_some(())
            });
            assert!(carried.is_ok(), "{}", self.status(name)["datapath"]);
        }
    }
}

const ON: &[(&str, &str)] = &[("GREWAY_FAST_PATH", "on"), ("GREWAY_BPFFS", "/proc")];
/// Userspace whose super-packets are split here: one on this machine would leave them a mark like the programs'.
const OFF: &[(&str, &str)] = &[
    ("GREWAY_FAST_PATH", "off"),
    ("GREWAY_CONFIG", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/split.toml")),
];

/// Both ends are on this machine, and what their programs have encapsulated comes to the hub with the mark still on, as
/// what GRO has merged would. The hub's userspace carries it, and without that it is lost.
#[test]
fn t12_what_programs_encapsulated_is_userspaces_at_a_hub() {
    require!(privilege::check());
    let mut hub = Hub::new([ON, ON, ON]);
    hub.wait_for_ebpf();
    let report = hub.across();
    assert!(report.complete(), "{report}");
    hub.bulk("by programs at the ends");
    for (name, from) in [("tun1", "there"), ("tun0", "back")] {
        let tunnel = hub.status(name);
        let declined = left(&tunnel, "already-encapsulated");
        if declined == 0 {
            // A kernel whose helper takes the mark off.
            assert_eq!(left_in_all(&tunnel), left(&tunnel, "handshake"), "{from}: {tunnel}");
            continue;
        }
        assert!(declined >= 5, "{from}: {tunnel}");
        let others = left_in_all(&tunnel) - declined - left(&tunnel, "handshake");
        assert_eq!(others, 0, "{from}: {}", tunnel["left_to_userspace"]);
    }
    let promised = left(&hub.status("tun1"), "already-encapsulated") == 0;
    hub.0.daemons[1].take().unwrap().kill();
    assert_eq!(hub.across().received(), if promised { 5 } else { 0 }, "nobody is left to carry them");
    hub.0.daemons[1] = Some(hub.0.nodes[1].daemon_with(ON));
    hub.wait_for_ebpf();
    let report = hub.across();
    assert!(report.complete(), "{report}");
}

/// What comes off a wire, or segment by segment from another userspace, has no mark: packet by packet it goes through, also without a
/// daemon.
#[test]
fn t12_what_comes_without_the_mark_outlives_the_hubs_daemon() {
    require!(privilege::check());
    let mut hub = Hub::new([OFF, ON, OFF]);
    hub.wait_for_ebpf();
    hub.bulk("by userspace at the ends");
    for name in ["tun0", "tun1"] {
        let tunnel = hub.status(name);
        // Segment sizes are clamped in handshakes.
        assert_eq!(left_in_all(&tunnel), left(&tunnel, "handshake"), "{}", tunnel["left_to_userspace"]);
    }
    let stream = Stream::start(&hub.0.hosts[0], &hub.0.hosts[2], FAR.into());
    stream.more(1_000, "to begin with");
    hub.0.daemons[1].take().unwrap().kill();
    stream.more(1_000, "without the hub's daemon");
    hub.0.daemons[1] = Some(hub.0.nodes[1].daemon_with(ON));
    hub.wait_for_ebpf();
    stream.more(1_000, "with the hub's next daemon");
    let report = stream.stop();
    assert!(report.flawless(), "{report}");
}
