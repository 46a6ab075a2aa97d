//! What is not ours is the real tool's, to the byte.

use greway_testbed::{Host, privilege, require};

use crate::support::Node;
use crate::{Shimmed, real};

/// Commands of every kind that say nothing of GRE. Those that change something do so alike on both hosts.
const COMMANDS: &[&str] = &[
    "",
    "addr",
    "a s dev lo",
    "-4 -br addr",
    "-j addr show lo",
    "-json -pretty -d addr",
    "-c=always link",
    "-s -s link show lo",
    "-o -d link show",
    "-d link show type veth",
    "link show nosuch",
    "link show type nosuch",
    "link set lo mtu 60000",
    "link set lo alias 'type gre'",
    "link set nosuch up",
    "link add x type nosuch",
    "link del nosuch",
    "link del lo",
    "l",
    "s",
    "route",
    "-6 route show table all",
    "route get 127.0.0.1",
    "route add 10.0.0.0/8 dev lo",
    "route add 10.0.0.0/8 dev lo",
    "route add 11.0.0.0/8 dev nosuch",
    "addr add 10.9.9.9/24 dev lo",
    "addr add 10.9.9.9/33 dev lo",
    "addr add 10.9.9.9/24",
    "addr add 10.9.9.8/24 dev nosuch",
    "addr flush dev nosuch",
    "neigh",
    "rule show",
    "maddr show dev lo",
    "netns list",
    "netconf show dev lo",
    "tunnel",
    "-j tunnel",
    "-s tunnel show",
    "tunnel show nosuch",
    "tunnel show gre1",
    "tunnel help",
    "tunnel frob",
    "tunnel add x mode foo",
    "tunnel add x remote 1.2.3.4",
    "tunnel add x mode ipip remote 1.2.3.4 key 5",
    "tunnel change nosuch ttl 5",
    "tunnel del nosuch",
    "tunnel del",
    "-6 tunnel show",
    "-0 tunnel show",
    "tuntap list",
    "frobnicate",
    "help",
    "link help",
    "-V",
    "-help",
    "-frob addr",
    "-n",
    "-n nosuch link",
    "-n nosuch tunnel add tun0 mode gre remote 1.2.3.4",
    "-f ipx addr",
    "-b /nonexistent",
    "-b",
    "-- addr show lo",
    "-ts addr show lo",
];

#[test]
fn foreign_commands_are_the_real_tools_to_the_byte() {
    require!(privilege::check());
    let hosts = ["ours", "theirs"].map(|name| Host::new(name).unwrap());
    let (ours, theirs) = (Shimmed::new(&hosts[0]), Node::new(&hosts[1]));
    for words in COMMANDS {
        let through = ours.sh(&format!("ip {words}"));
        let straight = real(&theirs, &format!("ip {words}"));
        assert_eq!(
            (through.code, &through.stdout, &through.stderr),
            (straight.code, &straight.stdout, &straight.stderr),
            "ip {words}"
        );
    }
    assert!(!ours.node.socket().exists() && ours.node.state_files().is_empty(), "no daemon was asked for");
}

/// Also with tunnels of ours there, whose details are the only thing that is changed in what is shown.
#[test]
fn foreign_commands_see_our_devices_as_the_kernel_has_them() {
    require!(privilege::check());
    let host = Host::new("host").unwrap();
    let ours = Shimmed::new(&host);
    let _daemon = ours.node.daemon();
    ours.ip("tunnel add tun0 mode gre remote 127.0.0.2 local 127.0.0.1").ok();
    for words in [
        "link",
        "addr",
        "-br link",
        "-br -d link",
        "-j addr",
        "-s link show tun0",
        "route show dev tun0",
        "-d link show lo",
        "-d addr show lo",
        "link show type veth",
        "-j link show type veth",
        "-d route",
        "link show tun0",
        "-6 tunnel show",
        "link show type gretap",
        "-d link show type bridge",
    ] {
        let through = ours.ip(words);
        let straight = real(&ours.node, &format!("ip {words}"));
        assert_eq!((through.code, &through.stdout), (straight.code, &straight.stdout), "ip {words}");
        assert_eq!(through.stderr, straight.stderr, "ip {words}");
    }
    // The device is a device: up, down, and the rest.
    ours.ip("link set tun0 down").ok();
    assert!(!ours.node.link("tun0").unwrap().up);
    ours.ip("link set tun0 mtu 1300 txqueuelen 7 up").ok();
    let link = ours.node.link("tun0").unwrap();
    assert!(link.up && link.mtu == 1300 && link.txqlen == 7, "{link:?}");
}
