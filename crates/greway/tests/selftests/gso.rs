//! `net/gre_gso.sh`: TCP through a tunnel, with the segmentation offload of the underlay on and off, inner IPv4 and IPv6.
//! The bytes count here, the second that the original allows for 2 MiB does not.

use greway_testbed::{LinkOptions, privilege, require};

use crate::pair::{Pair, inner, intact};

const BYTES: u64 = 2 << 20;

#[test]
fn gre_gso_over_ipv4() {
    require!(privilege::check());
    let pair = Pair::new("");
    pair.ipv6();
    for tso in [true, false] {
        pair.offloads(true, tso);
        let what = format!("IPv4 in GRE, segmentation offload {tso}");
        intact(&pair.left, &pair.right, inner(1), BYTES, &what);
        let what = format!("IPv6 in GRE, segmentation offload {tso}");
        intact(&pair.left, &pair.right, "fd00::2".parse().unwrap(), BYTES, &what);
    }
}

/// As in the original: over link-local addresses, which name a device.
#[test]
fn gre_gso_over_ipv6() {
    require!(privilege::check());
    let pair = Pair::bare(&LinkOptions::default());
    for (host, end) in [(&pair.left, "fe80::1"), (&pair.right, "fe80::2")] {
        for scope in ["all", "default", "wan0"] {
            host.sysctl(&format!("ipv6/conf/{scope}/disable_ipv6"), "0").unwrap();
        }
        host.address("wan0", &format!("{end}/64")).unwrap();
    }
    for (node, host, here, there) in [(0, &pair.left, 1, 2), (1, &pair.right, 2, 1)] {
        let words = format!("mode ip6gre local fe80::{here} remote fe80::{there} dev wan0");
        pair.nodes[node].words(&format!("tunnel add gre6 {words}")).ok();
        host.address("gre6", &format!("172.16.0.{here}/30")).unwrap();
        host.address("gre6", &format!("fd00::{here}/64")).unwrap();
    }
    for tso in [true, false] {
        pair.offloads(true, tso);
        for address in ["172.16.0.2", "fd00::2"] {
            let what = format!("to {address}, segmentation offload {tso}");
            intact(&pair.left, &pair.right, address.parse().unwrap(), BYTES, &what);
        }
    }
}
