//! `greway new`: typed on one host, and what it prints typed on the other; nothing written when anything is wrong.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use greway_testbed::{Host, PingOptions, guide, ping, privilege, require};
use serde_json::Value;
use support::{Node, Output, two_hosts};

const INSIDE: &str = "inner 172.16.0.1/30 peer 172.16.0.2";

fn root(node: &Node) -> PathBuf {
    node.folder().join("root")
}

fn words(node: &Node, arguments: &str) -> Output {
    let mut command = node.command(&arguments.split_whitespace().collect::<Vec<_>>());
    command.env("GREWAY_ROOT", root(node));
    node.execute(command)
}

/// All files below the node's root.
fn files(node: &Node) -> Vec<PathBuf> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).into_iter().flatten().map(Result::unwrap) {
            match entry.path() {
                path if path.is_dir() => walk(&path, found),
                path => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(node), &mut found);
    found
}

/// The line that the other host is to type.
fn printed(output: &Output) -> String {
    let line = output
        .stdout
        .lines()
        .find(|line| line.starts_with("  greway new "))
        .unwrap_or_else(|| panic!("{output}"));
    line.trim().strip_prefix("greway ").unwrap().to_owned()
}

#[test]
fn the_printed_line_makes_the_other_end() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemons = (lab.one.daemon(), lab.two.daemon());
    let line = format!("new tun0 remote 100.0.2.100 {INSIDE} route 10.10.2.0/24 key lichenhao csum ttl 40");
    let said = words(&lab.one, &line)
        .ok()
        .says(&["tunnels.d/tun0.toml", "create device tun0", "On the other host, 100.0.2.100, type:"])
        .says(&["route 10.10.1.0/24 is the network on lan0 of this host"])
        .remarks(&["63077743"]);
    let other = printed(&said);
    assert_eq!(
        other,
        "new tun0 remote 100.0.1.100 local 100.0.2.100 inner 172.16.0.2/30 peer 172.16.0.1 route 10.10.1.0/24 \
         key 63077743 csum ttl 40"
    );
    let back = words(&lab.two, &other).ok();
    for (from, end) in [(&lab.guide.linux1, 1), (&lab.guide.linux2, 0)] {
        let report = ping(from, guide::INNER[end].into(), &PingOptions::default()).unwrap();
        assert!(report.complete(), "{report}");
    }
    // From LAN to LAN, once both hosts forward.
    lab.guide.default_routes().unwrap();
    for host in [&lab.guide.linux1, &lab.guide.linux2] {
        host.forwarding(true).unwrap();
    }
    let report = ping(&lab.guide.lan1, guide::LAN[1].into(), &PingOptions::default()).unwrap();
    assert!(report.complete(), "{report}");
    // What the second host prints is what the first one was told.
    let first = printed(&back).replace(" local 100.0.1.100", "");
    assert_eq!(
        first,
        "new tun0 remote 100.0.2.100 inner 172.16.0.1/30 peer 172.16.0.2 route 10.10.2.0/24 \
         key 63077743 csum ttl 40"
    );
    // It is an ordinary file of an ordinary tunnel.
    words(&lab.one, "down tun0").ok();
    words(&lab.one, "up tun0").ok();
    assert!(lab.ping().complete());
    for words in ["ip tunnel add tun0 mode gre", "DEVICE=tun0", "nmcli connection add type ip-tunnel"] {
        assert!(said.stdout.contains(words) || words.starts_with("nmcli"), "{words}: {said}");
    }
    assert!(said.stdout.contains("not with NetworkManager: tunnel tun0: icsum"), "{said}");
}

#[test]
fn without_routes_nothing_is_routed_there_either_and_json_has_it_all() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    let line = format!("new tun0 remote 100.0.2.100 {INSIDE} key 7 --json");
    let answer: Value = serde_json::from_str(&words(&lab.one, &line).ok().stdout).unwrap();
    assert_eq!(
        (&answer["name"], &answer["up"], &answer["local"]),
        (&"tun0".into(), &true.into(), &"100.0.1.100".into())
    );
    let peer = &answer["peer"];
    let expected =
        "greway new tun0 remote 100.0.1.100 local 100.0.2.100 inner 172.16.0.2/30 peer 172.16.0.1 key 7";
    assert_eq!(peer["greway"], expected);
    for (dialect, part) in [
        ("ip", "ip tunnel add tun0 mode gre remote 100.0.1.100 local 100.0.2.100 key 7\n"),
        ("ifcfg", "ifcfg-tun0 <<'END'\nDEVICE=tun0\n"),
        ("nmcli", "ipv4.addresses 172.16.0.2/30"),
    ] {
        assert!(peer[dialect].as_str().unwrap().contains(part), "{dialect}: {answer}");
    }
}

#[test]
fn a_dry_run_and_no_up() {
    require!(privilege::check());
    let lab = two_hosts();
    let daemon = lab.one.daemon();
    let before = lab.one.belongings();
    let line = format!("new tun0 remote 100.0.2.100 {INSIDE}");
    words(&lab.one, &format!("{line} --dry-run")).ok().says(&[
        "would write",
        "would create device tun0, mtu 1476",
        "local = \"100.0.1.100\"",
        "  greway new tun0 remote 100.0.1.100",
    ]);
    assert_eq!((lab.one.belongings(), files(&lab.one)), (before.clone(), Vec::new()));
    daemon.terminate();
    words(&lab.one, &format!("{line} --no-up")).ok().says(&["wrote"]);
    assert_eq!(files(&lab.one), [root(&lab.one).join("etc/greway/tunnels.d/tun0.toml")]);
    assert_eq!(lab.one.belongings().0, before.0, "no daemon, no device");
    let text = fs::read_to_string(&files(&lab.one)[0]).unwrap();
    assert!(text.starts_with("# Made by `greway new tun0 remote 100.0.2.100 inner"), "{text}");
}

#[test]
fn what_is_wrong_leaves_nothing() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    words(&lab.one, "tunnel add gre7 mode gre local 100.0.1.100 remote 100.0.2.100 key 7").ok();
    let scripts = root(&lab.one).join("etc/sysconfig/network-scripts");
    fs::create_dir_all(&scripts).unwrap();
    fs::write(scripts.join("ifcfg-tun8"), "DEVICE=tun8\nTYPE=GRE\nPEER_OUTER_IPADDR=100.0.2.100\n").unwrap();
    let before = (lab.one.belongings(), files(&lab.one));
    for (line, parts) in [
        (format!("gre7 remote 100.0.2.100 {INSIDE}"), &["tunnel gre7 runs here already"][..]),
        (format!("tun8 remote 100.0.2.100 {INSIDE}"), &["tun8 is defined already", "ifcfg-tun8"]),
        (format!("lan0 remote 100.0.2.100 {INSIDE}"), &["a device lan0", "veth"]),
        (format!("gre0 remote 100.0.2.100 {INSIDE}"), &["gre0", "reserved"]),
        (format!("tun0 remote 100.0.1.100 {INSIDE}"), &["100.0.1.100 is an address of this host"]),
        (format!("tun0 remote any {INSIDE}"), &["remote"]),
        (format!("tun0 remote host.example {INSIDE}"), &["host.example", "not a host name"]),
        (
            "tun0 remote 100.0.2.100 inner 172.16.0.1/30 peer 172.16.1.2".to_owned(),
            &["172.16.1.2 is not in 172.16.0.0/30"],
        ),
        ("tun0 remote 100.0.2.100 inner 172.16.0.1/30".to_owned(), &["peer is missing"]),
        (
            "tun0 remote 172.16.0.2 local 100.0.1.100 inner 172.16.0.1/30 peer 172.16.0.2".to_owned(),
            &["inner peer", "outer address"],
        ),
        // The daemon refuses it: the ends and the key are another tunnel's.
        (
            format!("tun0 remote 100.0.2.100 {INSIDE} key 7"),
            &["tun0 did not come up; nothing is left", "gre7"],
        ),
    ] {
        words(&lab.one, &format!("new {line}")).refused(parts);
        assert_eq!((lab.one.belongings(), files(&lab.one)), before, "{line}");
    }
    // A name that a shell would take apart is quoted wherever it is to be pasted, and so is what the file says of
    // how it was made.
    let said = words(&lab.one, &format!("new a;b'c remote 100.0.2.100 {INSIDE} key 9 --no-up")).ok();
    let quoted = r"'a;b'\''c'";
    said.says(&[
        &format!("  greway new {quoted} remote"),
        &format!("  ip tunnel add {quoted} mode"),
        r"cat >'/etc/sysconfig/network-scripts/ifcfg-a;b'\''c' <<'END'",
        &format!("# then: ifup {quoted} "),
        &format!("nmcli connection add type ip-tunnel con-name {quoted} ifname {quoted}"),
    ]);
    let file = root(&lab.one).join("etc/greway/tunnels.d/a;b'c.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with(&format!("# Made by `greway new {quoted} remote")), "{text}");
    fs::remove_file(file).unwrap();
    words(&lab.one, &format!("new tun0 remote 100.0.2.100 {INSIDE}")).ok();
    words(&lab.one, "down tun0").ok();
    words(&lab.one, &format!("new tun0 remote 100.0.2.100 {INSIDE}"))
        .refused(&["tun0 is defined already, by", "tun0.toml"]);
}

#[test]
fn no_route_and_an_address_behind_a_translator() {
    require!(privilege::check());
    let host = Host::new("alone").unwrap();
    let node = Node::new(&host);
    let line = format!("new tun0 remote 203.0.113.9 {INSIDE} --dry-run");
    words(&node, &line).refused(&["203.0.113.9 cannot be reached from here, there is no route to it"]);
    let cable = greway_testbed::LinkOptions::default();
    let router = Host::new("router").unwrap();
    greway_testbed::link(&host, "wan0", &router, "eth0", &cable).unwrap();
    host.address("wan0", "10.0.0.5/24").unwrap();
    host.route("default", "via 10.0.0.1").unwrap();
    words(&node, &line)
        .ok()
        .says(&["remote 10.0.0.5 local 203.0.113.9"])
        .remarks(&["10.0.0.5 is a private address", "public address"]);
    let given = format!("new tun0 remote 203.0.113.9 local 192.0.2.1 {INSIDE} --dry-run");
    words(&node, &given).ok().remarks(&["local 192.0.2.1 is no address of this host"]);
    host.delete_route("default", "via 10.0.0.1").unwrap();
    words(&node, &given).ok().remarks(&["there is no route to remote 203.0.113.9 yet"]);
    // A comment ends where its line does.
    let odd = ["new", "tun0", "remote", "203.0.113.9", "local", "192.0.2.1", "inner", "172.16.0.1/30"];
    let odd =
        odd.into_iter().chain(["peer", "172.16.0.2", "key", "a\nttl = 3", "--dry-run"]).collect::<Vec<_>>();
    let mut command = node.command(&odd);
    command.env("GREWAY_ROOT", root(&node));
    let said = node.execute(command).ok();
    assert!(!said.stdout.lines().any(|line| line.trim_start().starts_with("ttl = 3")), "{said}");
}

/// Over IPv6, and by the device that was named: the local address is that of the way which the tunnel will take.
#[test]
fn over_ipv6_and_by_the_device_that_was_named() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemons = (lab.one.daemon(), lab.two.daemon());
    for (host, end) in [(&lab.guide.linux1, 1), (&lab.guide.linux2, 2)] {
        for device in ["wan0", "lan0"] {
            host.sysctl(&format!("ipv6/conf/{device}/disable_ipv6"), "0").unwrap();
        }
        host.address("lan0", &format!("fd00:47::{end}/64")).unwrap();
        host.address("wan0", &format!("fd00:48::{end}/64")).unwrap();
    }
    let inside = "inner fd00::1/126 peer fd00::2";
    let line =
        format!("new tun0 mode ip6gre remote fd00:47::2 {inside} encaplimit none flowlabel inherit key 7");
    // There is no way to it by that device, whatever there is by another.
    words(&lab.one, &format!("{line} dev wan0 --dry-run")).refused(&["cannot be reached from here"]);
    let said = words(&lab.one, &line).ok();
    assert_eq!(
        printed(&said),
        "new tun0 mode ip6gre remote fd00:47::1 local fd00:47::2 inner fd00::2/126 peer fd00::1 key 7 encaplimit none \
         flowlabel inherit"
    );
    words(&lab.two, &printed(&said)).ok();
    let back = words(&lab.two, "export ip tun0 --peer").ok();
    back.says(&[
        "ip -6 tunnel add tun0 mode ip6gre remote fd00:47::2 local fd00:47::1 key 7 encaplimit none",
    ]);
    // Nobody is the other end of a tunnel without a remote.
    lab.one.words("tunnel add tun1 mode ip6gre local fd00:47::1 remote any key 9").ok();
    words(&lab.one, "export ip tun1 --peer").refused(&["remote any has no one other end"]);
}
