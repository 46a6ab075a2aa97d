//! A host with the fast path that forwards for a LAN behind it: packets come into the tunnel device from another
//! device, merged by GRO or not, and what comes out of the tunnel goes on.
//!
//! ```text
//!  lan                    left                                        right
//!  eth0 ─────────── lan0  forwards  tun0 ══ gw-tun0   eth0 ───── eth0   tun0
//!  10.9.0.2      10.9.0.1           172.16.0.1                          172.16.0.2
//! ```
#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

#[path = "support/carries.rs"]
mod carries;
mod support;
#[path = "support/tunnel.rs"]
mod tunnel;

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    process::Command,
};

use carries::{BULK, of_mode, state};
use greway_fastpath::{Decline, Point};
use greway_spec::Mode;
use greway_testbed::{Host, LinkOptions, PingOptions, link, ping, privilege, tcp::transfer};
use support::not_run;
use tunnel::{PATIENCE, Tunnel, hosts, inner4, inner6};

/// The LAN's cable: as it comes, super-packets pass as one; a cable that takes no packet larger than its MTU, and
/// devices that merge what arrives.
fn lans() -> [LinkOptions; 2] {
    [LinkOptions::default(), LinkOptions { tx_offload: false, gro: true, ..LinkOptions::default() }]
}

fn lab(name: &str, lan_options: &LinkOptions, mode: Mode) -> Option<(Host, Tunnel)> {
    let hosts = privilege::check().ok().and_then(|()| hosts(&LinkOptions::default()));
    let (Some(hosts), Ok(lan)) = (hosts, Host::new("lan")) else {
        not_run(name, "no network namespaces");
        return None;
    };
    link(&lan, "eth0", &hosts[0], "lan0", lan_options).unwrap();
    for (host, dev, end) in [(&lan, "eth0", 2), (&hosts[0], "lan0", 1)] {
        host.address(dev, &format!("10.9.0.{end}/24")).unwrap();
        host.address(dev, &format!("fd09::{end}/64")).unwrap();
    }
    let tunnel = Tunnel::new(hosts, of_mode(mode, None));
    tunnel.left.host.forwarding(true).unwrap();
    lan.route("default", "via 10.9.0.1").unwrap();
    lan.route("::/0", "via fd09::1").unwrap();
    Some((lan, tunnel))
}

fn lan4() -> IpAddr {
    [10, 9, 0, 2].into()
}

fn lan6() -> IpAddr {
    Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2).into()
}

/// Scenario 2: both sides have routes, and either may begin.
#[test]
fn a_lan_is_routed_through_the_tunnel_both_ways() {
    let name = "a_lan_is_routed_through_the_tunnel_both_ways";
    for (options, mode) in lans()
        .into_iter()
        .flat_map(|lan| [Mode::Gre, Mode::Gretap, Mode::Ip6Gre].map(|mode| (lan.clone(), mode)))
    {
        let Some((lan, mut tunnel)) = lab(name, &options, mode) else { return };
        tunnel.right.host.route("10.9.0.0/24", "via 172.16.0.1").unwrap();
        tunnel.right.host.route("fd09::/64", "via fd00::1").unwrap();
        tunnel.left.fastpath.beat().unwrap();
        tunnel.right.fastpath.beat().unwrap();
        let context = format!("{mode:?}, gro {}", options.gro);
        for to in [inner4(2), inner6(2)] {
            let report = ping(&lan, to, &PingOptions::default()).unwrap();
            assert!(report.complete(), "{context} {to}: {report}\n{}", state(&tunnel));
        }
        let ends = [
            (&lan, &tunnel.right.host, [inner4(2), inner6(2)]),
            (&tunnel.right.host, &lan, [lan4(), lan6()]),
        ];
        for (from, to, addresses) in ends {
            for address in addresses {
                let report = transfer(from, to, SocketAddr::new(address, 0), BULK, PATIENCE)
                    .unwrap_or_else(|error| panic!("{context} {address}: {error}\n{}", state(&tunnel)));
                assert!(report.intact(), "{context} {address}: {report:?}");
            }
        }
        nothing_was_declined(&tunnel, &context);
    }
}

/// Scenario 1: the other side knows nothing of the LAN.
#[test]
fn a_lan_goes_through_the_tunnel_by_snat() {
    let name = "a_lan_goes_through_the_tunnel_by_snat";
    const TABLE: &str = "table ip test {\nchain post {\ntype nat hook postrouting priority 100\noifname \"tun0\" masquerade\n}\n}";
    for options in lans() {
        let Some((lan, mut tunnel)) = lab(name, &options, Mode::Gre) else { return };
        let Ok(output) = tunnel.left.host.output(Command::new("nft").arg(TABLE)) else {
            return not_run(name, "no nft");
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        tunnel.left.fastpath.beat().unwrap();
        tunnel.right.fastpath.beat().unwrap();
        let context = format!("gro {}", options.gro);
        let report = ping(&lan, inner4(2), &PingOptions::default()).unwrap();
        assert!(report.complete(), "{context}: {report}\n{}", state(&tunnel));
        let to = SocketAddr::new(inner4(2), 0);
        let report = transfer(&lan, &tunnel.right.host, to, BULK, PATIENCE)
            .unwrap_or_else(|error| panic!("{context}: {error}\n{}", state(&tunnel)));
        assert!(report.intact(), "{context}: {report:?}");
        nothing_was_declined(&tunnel, &context);
    }
}

fn nothing_was_declined(tunnel: &Tunnel, context: &str) {
    for end in [&tunnel.left, &tunnel.right] {
        let counters = end.counters();
        assert_eq!(counters.declined, [0; Decline::COUNT], "{context}: {}", state(tunnel));
        assert!(counters.tx_packets > 0 && counters.rx_packets > 0, "{context}: {}", state(tunnel));
        let underlay = end.counters_of(Point::Underlay);
        assert_eq!(underlay.gre, underlay.carried, "{context}: {}", state(tunnel));
    }
}
