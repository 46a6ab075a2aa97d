//! The kernel's selftests `forwarding/ipip_{flat,hier}_gre{,_key,_keys}.sh` and `ip6gre_{flat,hier}{,_key,_keys}.sh`: two hosts behind two routers, the router
//! under test being ours. Flat: LAN, tunnel and underlay in one VRF. Hierarchical: the underlay in a VRF of its own.
//!
//! ```text
//!   h1 192.0.2.1/28 --- ol1 [ours  .129/28 wan0] ----- [wan0 .130/28 kernel] ol1 --- 192.0.2.18/28 h2
//!                       192.0.2.65/32 ===== GRE over wan0 ===== 192.0.2.66/32
//! ```

use greway_testbed::{Host, LinkOptions, link, poll_until, require};

use crate::lab::{Lab, debian_ping, inside, quiet, sh};
use crate::support::SOON;

struct Routers {
    lab: Lab,
    h1: Host,
    h2: Host,
}

/// Addresses of the underlay: ours and the kernel's on the cable, and what the tunnels are between.
struct Underlay {
    mode: &'static str,
    words: &'static str,
    cable: [&'static str; 2],
    prefix: u8,
    ends: [&'static str; 2],
    host: u8,
    overhead: u32,
}

const IPV4: Underlay = Underlay {
    mode: "gre",
    words: "tos inherit",
    cable: ["192.0.2.129", "192.0.2.130"],
    prefix: 28,
    ends: ["192.0.2.65", "192.0.2.66"],
    host: 32,
    overhead: 24,
};

const IPV6: Underlay = Underlay {
    mode: "ip6gre",
    words: "tclass inherit",
    cable: ["2001:db8:10::1", "2001:db8:10::2"],
    prefix: 64,
    ends: ["2001:db8:3::1", "2001:db8:3::2"],
    host: 128,
    // 40 of IPv6, 8 of the encapsulation limit, 4 of GRE.
    overhead: 52,
};

/// `ours` and `theirs` are words for keys.
fn routers(outer: &Underlay, hierarchical: bool, ours: &str, theirs: &str) -> Routers {
    let lab = Lab::cable();
    let Underlay { mode, words, cable, prefix, ends, host: whole, .. } = outer;
    let [h1, h2] = ["h1", "h2"].map(quiet);
    link(&h1, "eth0", &lab.ours, "ol1", &LinkOptions::default()).unwrap();
    link(&h2, "eth0", &lab.kernel, "ol1", &LinkOptions::default()).unwrap();
    for (host, address, gateway) in [(&h1, "192.0.2.1", "192.0.2.2"), (&h2, "192.0.2.18", "192.0.2.17")] {
        sh(host, &format!("ip address add {address}/28 dev eth0; ip route add default via {gateway}"));
    }
    for (host, address, gateway) in
        [(&h1, "2001:db8:1::1", "2001:db8:1::2"), (&h2, "2001:db8:2::1", "2001:db8:2::2")]
    {
        ipv6_on(host, &["eth0"]);
        sh(host, &format!("ip address add {address}/64 nodad dev eth0; ip route add default via {gateway}"));
    }
    for host in [&lab.ours, &lab.kernel] {
        ipv6_on(host, &["ol1", "wan0"]);
        host.sysctl("ipv4/ip_forward", "1").unwrap();
        host.sysctl("ipv6/conf/all/forwarding", "1").unwrap();
    }
    let underlay = if hierarchical { "vrf-ul" } else { "vrf-ol" };
    if hierarchical {
        sh(&lab.ours, "ip link add vrf-ul type vrf table 10; ip link set vrf-ul up");
    }
    sh(
        &lab.ours,
        &format!(
            "ip link add vrf-ol type vrf table 20
             ip link set vrf-ol up
             ip link set ol1 master vrf-ol
             ip address add 192.0.2.2/28 dev ol1
             ip address add 2001:db8:1::2/64 nodad dev ol1
             ip link set wan0 master {underlay}
             ip address add {}/{prefix} dev wan0
             ip link add d1 type dummy
             ip link set d1 master {underlay}
             ip address add {}/{whole} dev d1
             ip link set d1 up
             ip route add vrf {underlay} {}/{whole} via {}",
            cable[0], ends[0], ends[1], cable[1]
        ),
    );
    sh(
        &lab.kernel,
        &format!(
            "ip address add 192.0.2.17/28 dev ol1
             ip address add 2001:db8:2::2/64 nodad dev ol1
             ip address add {cable}/{prefix} dev wan0
             ip link add d1 type dummy
             ip address add {local}/{whole} dev d1
             ip link set d1 up
             ip route add {remote}/{whole} via {gateway}
             ip link add g2a type {mode} local {local} remote {remote} {words} {theirs}
             ip link set g2a up
             ip route add 192.0.2.0/28 dev g2a
             ip route add 2001:db8:1::/64 dev g2a",
            cable = cable[1],
            local = ends[1],
            remote = ends[0],
            gateway = cable[0],
        ),
    );
    let words = format!("local {} remote {} {words} dev {underlay} {ours}", ends[0], ends[1]);
    lab.node.words(&format!("tunnel add g1a mode {mode} {words}")).ok();
    sh(
        &lab.ours,
        "ip link set g1a master vrf-ol
         ip route add vrf vrf-ol 192.0.2.16/28 nexthop dev g1a
         ip route add vrf vrf-ol 2001:db8:2::/64 dev g1a",
    );
    Routers { lab, h1, h2 }
}

/// Hosts of the lab have IPv6 switched off where nobody asks for it, and the guest makes no link-local addresses, without
/// which a router asks for no neighbour in the name of others.
fn ipv6_on(host: &Host, devices: &[&str]) {
    sh(host, "sysctl -q -w net.ipv6.conf.default.disable_ipv6=0 net.ipv6.conf.default.addr_gen_mode=0");
    for dev in devices {
        sh(
            host,
            &format!("sysctl -q -w net.ipv6.conf.{dev}.addr_gen_mode=0 net.ipv6.conf.{dev}.disable_ipv6=0"),
        );
    }
    sh(host, "sysctl -q -w net.ipv6.conf.all.disable_ipv6=0");
}

fn flat_and_hierarchical(outer: &Underlay, ours: &str, theirs: &str) {
    for (case, hierarchical, underlay) in [("flat", false, "raw"), ("hierarchical", true, "packet")] {
        let Routers { lab, h1, h2 } =
            routers(outer, hierarchical, &format!("{ours} underlay {underlay}"), theirs);
        let before = lab.counters("g1a");
        for (host, to) in
            [(&h1, "192.0.2.18"), (&h2, "192.0.2.1"), (&h1, "2001:db8:2::1"), (&h2, "2001:db8:1::1")]
        {
            debian_ping(host, &format!("-c 5 {to}"));
        }
        let after = lab.counters("g1a");
        assert_eq!(after.0 - before.0, 20, "{case}: each received once");
        // The device's own multicast reports may be among what was sent.
        assert!((20..24).contains(&(after.1 - before.1)), "{case}: {before:?}, {after:?}");
        // The MTU at run time: to 2000 all along, and an 1,800-byte ping that may not be fragmented.
        let mtu = |host: &Host, dev: &str| sh(host, &format!("ip link set {dev} mtu 2000"));
        for (host, dev) in [(&h1, "eth0"), (&lab.ours, "ol1"), (&h2, "eth0"), (&lab.kernel, "ol1")] {
            mtu(host, dev);
        }
        let (passed, text) = crate::lab::attempt(&h1, "ping -n -q -c 1 -W 1 -M do -s 1800 192.0.2.18");
        assert!(!passed, "{case}: larger than the path, {text}");
        mtu(&lab.ours, "wan0");
        mtu(&lab.kernel, "wan0");
        sh(&lab.kernel, "ip link set g2a mtu 1940");
        // Ours follows its underlay by itself; the kernel's was told.
        let overhead = outer.overhead + if theirs.is_empty() { 0 } else { 4 };
        poll_until(SOON, "the MTU of g1a", || (lab.node.mtu("g1a") == 2000 - overhead).then_some(()))
            .unwrap();
        // What was learned of the old path is forgotten.
        sh(&h1, "ip route flush cache; ip -6 route flush cache");
        debian_ping(&h1, "-c 3 -M do -s 1800 192.0.2.18");
        debian_ping(&h2, "-c 3 -s 1800 192.0.2.1");
        debian_ping(&h1, "-c 3 -M do -s 1800 2001:db8:2::1");
    }
}

#[test]
#[ignore = "a step in the guest"]
fn ipip_flat_gre_and_ipip_hier_gre() {
    require!(inside());
    flat_and_hierarchical(&IPV4, "", "");
}

#[test]
#[ignore = "a step in the guest"]
fn ipip_flat_gre_key_and_ipip_hier_gre_key() {
    require!(inside());
    flat_and_hierarchical(&IPV4, "key 233", "key 233");
}

#[test]
#[ignore = "a step in the guest"]
fn ipip_flat_gre_keys_and_ipip_hier_gre_keys() {
    require!(inside());
    flat_and_hierarchical(&IPV4, "ikey 111 okey 222", "ikey 222 okey 111");
}

#[test]
#[ignore = "a step in the guest"]
fn ip6gre_flat_and_ip6gre_hier() {
    require!(inside());
    flat_and_hierarchical(&IPV6, "", "");
}

#[test]
#[ignore = "a step in the guest"]
fn ip6gre_flat_key_and_ip6gre_hier_key() {
    require!(inside());
    flat_and_hierarchical(&IPV6, "key 233", "key 233");
}

#[test]
#[ignore = "a step in the guest"]
fn ip6gre_flat_keys_and_ip6gre_hier_keys() {
    require!(inside());
    flat_and_hierarchical(&IPV6, "ikey 111 okey 222", "ikey 222 okey 111");
}
