//! Tunnels without a remote: neighbours, next hops and destinations name the endpoint (TX-02).

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/lan.rs"]
mod lan;
mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use greway_linux::MacAddr;
use greway_testbed::build::{self, ethernet};
use greway_testbed::tcp::transfer;
use greway_testbed::{Capture, Host, PingOptions, inject, ping, poll_until, privilege, require};
use greway_wire::gre::GreHeader;
use lan::{Lan, inner, outer, outer6};
use support::{GREWAY, Node, SOON, in_vain, sh};

const MIB: u64 = 1 << 20;
const GRE: u8 = 47;
const ARP: u16 = 0x0806;

/// `ip WORDS` by the shim.
fn shim(node: &Node, words: &str) -> support::Output {
    let bin = node.folder().join("bin");
    if std::fs::create_dir(&bin).is_ok() {
        symlink(GREWAY, bin.join("ip")).unwrap();
    }
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("ip {words}")]).env_clear();
    command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()));
    command.env("GREWAY_BACKEND", "greway").env("GREWAY_CONFIG", node.folder().join("greway.toml"));
    command.env("GREWAY_SOCKET", node.socket()).current_dir(node.folder());
    node.execute(command)
}

fn mac(host: &Host, dev: &str) -> MacAddr {
    MacAddr::new(host.netlink().unwrap().link_by_name(dev).unwrap().unwrap().address.unwrap())
}

fn neighbours(host: &Host) -> String {
    sh(host, "ip neigh show dev tun0")
}

#[test]
fn tx02_explicit_neighbours_name_the_endpoints() {
    require!(privilege::check());
    let mut lan = Lan::new();
    let text = |first: usize, second: usize| {
        format!(
            "remote = \"any\"\nlocal = \"10.0.0.1\"\nkey = 7\n[inner]\naddress = \"172.16.0.1/24\"\n\
             [[inner.neighbours]]\naddress = \"172.16.0.2\"\nendpoint = \"{}\"\n\
             [[inner.neighbours]]\naddress = \"172.16.0.3\"\nendpoint = \"{}\"\n",
            outer(first),
            outer(second),
        )
    };
    let file = lan.nodes[0].file("tun0.toml", &text(1, 2));
    lan.nodes[0].greway(&["up", &file]).ok().remarks(&["tun0", "any host may send into it"]);
    for number in [1, 2] {
        let node = &lan.nodes[number];
        let made =
            shim(node, &format!("tunnel add tun0 mode gre local {} remote any key 7", outer(number))).ok();
        assert!(made.stderr.contains("any host may send into it"), "{made}");
        shim(node, &format!("addr add {}/24 dev tun0", inner(number))).ok();
        shim(node, "link set tun0 up").ok();
        // As the documents of the kernel's own tunnels have it.
        shim(node, "neigh add 172.16.0.1 lladdr 10.0.0.1 dev tun0").ok();
        assert!(neighbours(&lan.hosts[number]).contains("172.16.0.1 lladdr 02:00:0a:00:00:01 PERMANENT"));
    }
    for to in [1, 2] {
        lan.answers(0, inner(to), &PingOptions::default());
        lan.answers(to, inner(0), &PingOptions { size: 5_000, ..PingOptions::default() });
        let to_it = SocketAddr::new(inner(to).into(), 0);
        let report =
            transfer(&lan.hosts[0], &lan.hosts[to], to_it, 2 * MIB, Duration::from_secs(20)).unwrap();
        assert!(report.intact(), "{report:?}");
    }
    let status = lan.status(0);
    assert_eq!(status["datapath"]["underlay"], "raw", "the host's rules decide who may send");
    assert!(
        status["notes"].to_string().contains("any host that reaches this one may send into it"),
        "{status}"
    );
    assert_eq!(status["drops"].to_string(), "[]");

    // Each other's: what the file says now holds at the next packet.
    let file = lan.nodes[0].file("tun0.toml", &text(2, 2));
    lan.nodes[0].greway(&["up", &file]).ok().says(&["add neighbour 172.16.0.2 lladdr 10.0.0.3 dev tun0"]);
    let wire = Capture::start(&lan.hosts[2], "wan0").unwrap();
    assert_eq!(ping(&lan.hosts[0], inner(1).into(), &in_vain()).unwrap().received(), 0);
    wire.wait_for(SOON, "the packets at the other host", |packet| !packet.outgoing && packet.gre().is_some())
        .unwrap();
    shim(&lan.nodes[1], "neigh del 172.16.0.1 lladdr 10.0.0.1 dev tun0").ok();
    assert!(!neighbours(&lan.hosts[1]).contains("PERMANENT"));

    // The next daemon goes on, and a device that was down gets its neighbours back.
    lan.daemons[0].take().unwrap().kill();
    lan.daemons[0] = Some(lan.nodes[0].daemon());
    lan.answers(0, inner(2), &PingOptions::default());
    sh(&lan.hosts[0], "ip link set tun0 down");
    lan.nodes[0].greway(&["up", &file]).ok().says(&["add neighbour 172.16.0.3 lladdr 10.0.0.3 dev tun0"]);
    lan.answers(0, inner(2), &PingOptions::default());
}

#[test]
fn tx02_next_hops_and_destinations_are_endpoints() {
    require!(privilege::check());
    let lan = Lan::new();
    lan.tunnel("remote any dev wan0");
    // A network behind each of the others, by a next hop of the underlay, and the way back.
    for far in [1, 2] {
        let network = format!("192.168.{far}");
        sh(&lan.hosts[far], &format!("ip addr add {network}.1/32 dev lo"));
        sh(&lan.hosts[far], "ip route add 172.16.0.1/32 via 10.0.0.1 dev tun0 onlink");
        sh(&lan.hosts[0], &format!("ip route add {network}.0/24 via {} dev tun0 onlink", outer(far)));
        let to = Ipv4Addr::new(192, 168, far as u8, 1);
        lan.answers(0, to, &PingOptions::default());
    }
    // Nothing names one: the destination itself.
    lan.nodes[1].words("tunnel change tun0 local any").ok();
    sh(&lan.hosts[1], "ip addr add 10.0.0.22/32 dev wan0");
    sh(&lan.hosts[0], "ip route add 10.0.0.22/32 dev tun0 src 172.16.0.1");
    let wire = Capture::start(&lan.hosts[1], "wan0").unwrap();
    lan.answers(0, Ipv4Addr::new(10, 0, 0, 22), &PingOptions::default());
    let to_it = |packet: &greway_testbed::CapturedPacket| {
        !packet.outgoing && packet.gre().is_some() && packet.payload()[16..20] == [10, 0, 0, 22]
    };
    wire.wait_for(SOON, "a packet to the destination itself", to_it).unwrap();

    // TX-06: each endpoint has a path of its own.
    sh(&lan.hosts[0], "ip route add 10.0.0.2/32 dev wan0 mtu 1300");
    let whole = PingOptions { size: 1_400, df: true, count: 2, ..PingOptions::default() };
    lan.answers(0, Ipv4Addr::new(192, 168, 2, 1), &whole);
    let told = ping(&lan.hosts[0], Ipv4Addr::new(192, 168, 1, 1).into(), &whole).unwrap();
    let smaller = told.errors.iter().any(|error| error.mtu == Some(1_276)) || !told.refused.is_empty();
    assert!(smaller && told.received() == 0, "{told}");
    lan.answers(0, Ipv4Addr::new(192, 168, 2, 1), &whole);

    // A file's routes go by the underlay too.
    let text = "remote = \"any\"\nlocal = \"10.0.0.1\"\nkey = 8\n[inner]\naddress = \"172.17.0.1/24\"\n\
                routes = [{ to = \"192.168.9.0/24\", via = \"10.0.0.3\" }]\n";
    let file = lan.nodes[0].file("tun1.toml", text);
    lan.nodes[0].greway(&["up", &file]).ok();
    let wire = Capture::start(&lan.hosts[2], "wan0").unwrap();
    let nobody = Ipv4Addr::new(192, 168, 9, 1);
    assert_eq!(ping(&lan.hosts[0], nobody.into(), &in_vain()).unwrap().received(), 0);
    wire.wait_for(SOON, "the packet for the file's next hop", |packet| {
        !packet.outgoing && packet.gre().is_some()
    })
    .unwrap();
    assert!(lan.nodes[0].greway(&["up", &file]).ok().stdout.contains("nothing"), "it is as the file says");
}

#[test]
fn tx02_what_names_no_endpoint_is_dropped_and_said() {
    require!(privilege::check());
    let lan = Lan::new();
    lan.tunnel("remote any");
    let socket = lan.hosts[0].run(|| UdpSocket::bind((inner(0), 0)).unwrap()).unwrap();
    socket.send_to(b"to all", (Ipv4Addr::new(172, 16, 0, 255), 4_000)).unwrap_err();
    sh(&lan.hosts[0], "ip route add 224.0.0.0/4 dev tun0");
    socket.send_to(b"to a group", (Ipv4Addr::new(224, 1, 1, 1), 4_000)).unwrap();
    lan.wait_for_drops(0, "no-endpoint", 1);
    // The endpoint is a host inside, so its packets come round (TX-04).
    assert_eq!(ping(&lan.hosts[0], inner(1).into(), &in_vain()).unwrap().received(), 0);
    lan.wait_for_drops(0, "recursion", 1);
    let link = lan.nodes[0].link("tun0").unwrap();
    assert_eq!(link.mtu, 1_476, "as of the kernel's own");
}

#[test]
fn who_sends_into_the_tunnel_does_not_say_where_it_sends_to() {
    require!(privilege::check());
    let lan = Lan::new();
    lan.tunnel("remote any");
    sh(&lan.hosts[0], "ip neigh add 172.16.0.2 lladdr 02:00:0a:00:00:02 dev tun0");
    let [there, here] = [mac(&lan.hosts[0], "wan0"), mac(&lan.hosts[2], "wan0")];
    let send = |protocol_type: u16, payload: &[u8]| {
        let header = GreHeader { protocol_type, checksum: None, key: None, sequence_number: None };
        // Host 2's address, and one that nobody has.
        for from in [outer(2), Ipv4Addr::new(10, 0, 0, 77)] {
            let gre = build::gre(header, payload);
            let packet = build::ipv4(build::ipv4_header(from, outer(0), GRE), &gre);
            inject(&lan.hosts[2], "wan0", &ethernet(there, here, 0x0800, &packet)).unwrap();
        }
    };
    // 172.16.0.2 is at 10.0.0.3, it says.
    let link = [2, 0, 10, 0, 0, 3];
    let claim =
        [&[0, 1, 8, 0, 6, 4, 0, 2][..], &link, &[172, 16, 0, 2], &[0xff; 6], &[172, 16, 0, 2]].concat();
    send(ARP, &claim);
    lan.wait_for_drops(0, "neighbour-talk", 2);
    let known = neighbours(&lan.hosts[0]);
    assert!(known.contains("02:00:0a:00:00:02") && !known.contains("02:00:0a:00:00:03"), "{known}");
    // Else anybody may send.
    let comes_out = Capture::start(&lan.hosts[0], "tun0").unwrap();
    let udp = build::udp((Ipv4Addr::new(192, 0, 2, 1), 5), (inner(0), 6), b"hello");
    let packet = build::ipv4(build::ipv4_header(Ipv4Addr::new(192, 0, 2, 1), inner(0), 17), &udp);
    send(0x0800, &packet);
    let hello = |packet: &greway_testbed::CapturedPacket| packet.frame.ends_with(b"hello");
    comes_out.wait_for_count(SOON, "both packets out of the tunnel", 2, hello).unwrap();
}

#[test]
fn tx02_over_ipv6_next_hops_are_endpoints_and_outlive_the_daemon() {
    require!(privilege::check());
    let mut lan = Lan::new();
    // IPv6 next hops may not be on another device by the main table, onlink or not; a rule leads to these ones.
    for (number, node) in lan.nodes.iter().enumerate() {
        let host = &lan.hosts[number];
        sh(
            host,
            &format!(
                "ip addr add 2001:db8:{number}::1/128 dev wan0 nodad && ip -6 rule add to 2001:db8::/32 table 77"
            ),
        );
        node.words(&format!("tunnel add tun0 mode ip6gre local 2001:db8:{number}::1 remote any")).ok();
        host.sysctl("ipv6/conf/tun0/disable_ipv6", "0").unwrap();
        sh(host, &format!("ip addr add fd50:{number}::1/64 dev tun0 nodad"));
    }
    for (from, to) in [(0, 1), (0, 2), (1, 0), (2, 0)] {
        let way = format!("ip route add 2001:db8:{to}::1/128 via {} table 77", outer6(to));
        let inside = format!("ip route add fd50:{to}::/64 via 2001:db8:{to}::1 dev tun0 onlink");
        sh(&lan.hosts[from], &format!("{way} && {inside}"));
    }
    let far = |host: usize| IpAddr::from([0xfd50, host as u16, 0, 0, 0, 0, 0, 1]);
    let both = |lan: &Lan| {
        for to in [1, 2] {
            lan.answers(0, far(to), &PingOptions::default());
            lan.answers(to, far(0), &PingOptions { size: 1_300, count: 2, ..PingOptions::default() });
        }
    };
    both(&lan);
    assert!(neighbours(&lan.hosts[0]).contains("lladdr 02:01:"), "{}", neighbours(&lan.hosts[0]));
    // The kernel does not ask again for what it knows; the next daemon finds it in its table.
    lan.daemons[0].take().unwrap().kill();
    sh(
        &lan.hosts[0],
        "ip neigh replace 2001:db8:1::1 lladdr $(ip neigh show 2001:db8:1::1 dev tun0 | sed 's/.*lladdr //; s/ .*//') dev tun0 nud noarp",
    );
    lan.daemons[0] = Some(lan.nodes[0].daemon());
    both(&lan);
}

#[test]
fn g94_a_file_without_an_outer_peer_comes_up() {
    require!(privilege::check());
    let lan = Lan::new();
    let text = "DEVICE=tun0\nTYPE=GRE\nMY_OUTER_IPADDR=10.0.0.1\nMY_INNER_IPADDR=172.16.0.1\n\
                PEER_INNER_IPADDR=172.16.0.2\n";
    let file = lan.nodes[0].file("ifcfg-tun0", text);
    lan.nodes[0].greway(&["up", &file]).ok().remarks(&["any host may send into it"]);
    lan.nodes[0].words("tunnel show").ok().says(&["tun0: gre/ip remote any local 10.0.0.1"]);
    shim(&lan.nodes[0], "neigh replace 172.16.0.2 lladdr 10.0.0.2 dev tun0").ok();
    lan.nodes[1].words("tunnel add tun0 mode gre local 10.0.0.2 remote 10.0.0.1").ok();
    lan.hosts[1].address("tun0", "172.16.0.2 peer 172.16.0.1/32").unwrap();
    poll_until(SOON, "an answer", || {
        ping(&lan.hosts[0], inner(1).into(), &in_vain()).unwrap().complete().then_some(())
    })
    .unwrap();
    // CF-02: one far end makes another kind of device of it.
    lan.nodes[0].words("tunnel change tun0 remote 10.0.0.2").refused(&[
        "tun0",
        "remote any",
        "delete it first",
    ]);
    lan.nodes[0].greway(&["down", "tun0"]).ok();
    assert!(lan.nodes[0].link("tun0").is_none());
}
