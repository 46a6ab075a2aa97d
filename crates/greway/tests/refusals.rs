//! Bad input: each refusal names the object, the value and what would be right, and leaves everything as it was.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use greway_testbed::{Guide, LinkOptions, link, privilege, require};
use support::Node;

const ENDS: &str = "local 100.0.1.100 remote 100.0.2.100";

/// Runs each command, which must fail with these words and change nothing.
#[track_caller]
fn all_refused(node: &Node, rows: &[(&str, &[&str])]) {
    let before = (node.belongings(), node.words("tunnel show").ok().stdout);
    for (command, words) in rows {
        let output = node.words(&command.replace("ENDS", ENDS)).refused(words);
        assert_eq!(output.stdout, "", "{output}");
        assert_eq!((node.belongings(), node.words("tunnel show").ok().stdout), before, "{output}");
    }
}

#[test]
fn words_that_cannot_be() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let _daemon = node.daemon();
    all_refused(
        &node,
        &[
            ("tunnel add tun0 mode gre ENDS remot 1.2.3.4", &["tunnel tun0", "remot", "remote"]),
            ("tunnel add tun0 mode gre ENDS csumm", &["tunnel tun0", "csumm", "csum"]),
            ("tunnel add tun0 mode grr ENDS", &["tunnel tun0", "grr", "gre"]),
            ("tunnel add tun0 mode ipip ENDS", &["ipip", "not there yet", "gre"]),
            ("tunnel add tun0 mode gre local 100.0.1.100", &["tun0", "remote", "missing"]),
            (
                "tunnel add tun0 mode gretap local 100.0.1.100 remote any",
                &["tun0", "remote", "any", "one far end"],
            ),
            (
                "tunnel add tun0 mode gre local 100.0.1.100 remote any underlay packet",
                &["tun0", "underlay", "packet", "auto or raw"],
            ),
            ("tunnel add mode gre ENDS", &["name", "missing"]),
            (
                "tunnel add tun0 mode gre local 100.0.1.100 remote fd00::1",
                &["tun0", "remote", "fd00::1", "IPv4"],
            ),
            (
                "tunnel add tun0 mode gre local fd00::1 remote 100.0.2.100",
                &["tun0", "local", "fd00::1", "IPv4"],
            ),
            ("tunnel add tun0 mode gre remote 224.0.0.1", &["tun0", "224.0.0.1", "multicast", "local"]),
            (
                "tunnel add tun0 mode gre local 100.0.1.100 remote 100.0.1.100",
                &["tun0", "100.0.1.100", "local"],
            ),
            (
                "tunnel add tun0 mode gre local 100.0.1.300 remote 100.0.2.100",
                &["tun0", "local", "100.0.1.300"],
            ),
            ("tunnel add tun0 mode gre ENDS key lichenhao", &["tun0", "key", "lichenhao", "4294967295"]),
            ("tunnel add tun0 mode gre ENDS key 4294967296", &["tun0", "key", "4294967296"]),
            ("tunnel add tun0 mode gre ENDS key", &["tun0", "key", "needs a value"]),
            ("tunnel add tun0 mode gre ENDS ttl 256", &["tun0", "ttl", "256", "255"]),
            ("tunnel add tun0 mode gre ENDS ttl 64 ignore-df", &["tun0", "ignore-df", "nopmtudisc"]),
            ("tunnel add tun0 mode gre ENDS tos 300", &["tun0", "tos", "300"]),
            ("tunnel add tun0 mode gre ENDS mtu 20", &["tun0", "mtu", "20", "68"]),
            ("tunnel add tun0 mode gre ENDS dev wan7", &["tun0", "dev wan7", "no such device"]),
            ("tunnel add tun0 mode gre ENDS dev tun0", &["tun0", "dev", "itself"]),
            (
                "tunnel add tun0 mode gre ENDS csum datapath ebpf",
                &["tun0", "datapath ebpf", "csum", "auto or userspace"],
            ),
            (
                "tunnel add tun0 mode gre ENDS datapath ebpf underlay raw",
                &["tun0", "datapath ebpf", "underlay raw"],
            ),
            ("tunnel add tun0 mode gre ENDS datapath kernel", &["tun0", "datapath", "kernel", "userspace"]),
            ("tunnel add tun0 mode gre ENDS underlay tcp", &["tun0", "underlay", "tcp", "packet"]),
            ("tunnel add tun0 mode gre ENDS nokey", &["tun0", "nokey", "tunnel change"]),
            ("tunnel add tun0 tun1 mode gre ENDS", &["tun0", "unknown word", "tun1"]),
            ("tunnel add gre0 mode gre ENDS", &["gre0", "reserved"]),
            ("tunnel add a-name-of-16-byte mode gre ENDS", &["a-name-of-16-byte", "15 bytes"]),
            ("tunnel add a/b mode gre ENDS", &["a/b"]),
            ("tunnel change tun0 key 1", &["no tunnel tun0"]),
            ("tunnel del tun0", &["no tunnel tun0"]),
            ("tunnel show tun0", &["no tunnel tun0"]),
            ("tunnel frobnicate tun0", &["frobnicate"]),
            ("frobnicate", &["frobnicate"]),
            ("up /nowhere/tun0.toml", &["/nowhere/tun0.toml", "No such file"]),
            (
                "up tun0",
                &["no file describes tun0", "/etc/greway/tunnels.d", "/etc/sysconfig/network-scripts"],
            ),
        ],
    );
}

#[test]
fn names_and_ends_that_are_taken() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let _daemon = node.daemon();
    // A foreign device has the name; another has the one that our inner end would get.
    link(&guide.linux1, "tun7", &guide.linux2, "x7", &LinkOptions::default()).unwrap();
    link(&guide.linux1, "gw-tun8", &guide.linux2, "x8", &LinkOptions::default()).unwrap();
    node.words("tunnel add tun0 mode gre ENDS key 42".replace("ENDS", ENDS).as_str()).ok();
    node.words("tunnel add tun1 mode gre ENDS".replace("ENDS", ENDS).as_str()).ok();
    all_refused(
        &node,
        &[
            ("tunnel add tun7 mode gre ENDS key 1", &["tun7", "not greway's", "veth", "another name"]),
            ("tunnel add wan0 mode gre ENDS key 1", &["wan0", "not greway's"]),
            ("tunnel add tun8 mode gre ENDS key 1", &["tun8", "gw-tun8"]),
            ("tunnel add tun0 mode gre ENDS key 1", &["tun0", "exists already", "tunnel change tun0"]),
            ("tunnel add tun2 mode gre ENDS key 42", &["tun2", "tun0", "100.0.2.100", "ikey 42", "differ"]),
            ("tunnel add tun2 mode gre ENDS", &["tun2", "tun1", "no ikey"]),
            // okey alone does not tell what comes in.
            ("tunnel add tun2 mode gre ENDS ikey 42 okey 7", &["tun2", "tun0", "ikey 42"]),
            ("tunnel change tun0 nokey", &["tun0", "tun1", "differ"]),
            ("tunnel change tun0 mode ipip", &["tun0", "ipip"]),
            ("tunnel change tun0 remote fd00::1", &["tun0", "fd00::1", "IPv4"]),
            ("tunnel change tun0 overlay tun", &["tun0", "kind of device", "greway tunnel del tun0"]),
        ],
    );
    // What only resembles another is no conflict.
    node.words("tunnel add tun2 mode gre ENDS key 43".replace("ENDS", ENDS).as_str()).ok();
    node.words("tunnel add tun3 mode gre local 100.0.1.100 remote 100.0.2.99").ok();
}

#[test]
fn files_that_cannot_be() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let _daemon = node.daemon();
    let before = node.belongings();
    let ends = "local = \"100.0.1.100\"\nremote = \"100.0.2.100\"\n";
    let rows: &[(&str, String, &[&str])] = &[
        ("t.toml", format!("{ends}remotee = \"1.2.3.4\"\n"), &["t.toml:3:1", "remotee", "remote"]),
        (
            "t.toml",
            format!("{ends}key = \"lichen\"\nstrict_keys = true\n"),
            &["t.toml:3:7", "lichen", "4294967295"],
        ),
        ("t.toml", format!("{ends}ttl = 300\n"), &["t.toml:3:7", "300"]),
        ("t.toml", format!("{ends}[inner]\nsnat = \"10.10.1.1\"\n"), &["t.toml", "snat", "peer"]),
        ("t.toml", format!("{ends}[inner]\nadress = \"10.0.0.1\"\n"), &["t.toml:4:1", "adress", "address"]),
        (
            "t.toml",
            format!("{ends}[inner]\nroutes = [\"10.10.2.1/24\"]\n"),
            &["t.toml:4", "10.10.2.1/24", "10.10.2.0/24"],
        ),
        ("t.toml", "remote = \n".to_owned(), &["t.toml:1"]),
        ("t.toml", "local = \"100.0.1.100\"\n".to_owned(), &["t.toml", "remote", "missing"]),
        ("t.toml", format!("{ends}name = \"wan0\"\n"), &["wan0", "not greway's"]),
        ("t.toml", format!("{ends}dev = \"wan7\"\n"), &["dev wan7", "no such device"]),
        ("t.toml", format!("{ends}datapath = \"ebpf\"\nseq = true\n"), &["datapath ebpf", "seq"]),
        (
            "ifcfg-t",
            "DEVICE=t\nTYPE=gre\nPEER_OUTER_IPADDR=100.0.2.100\n".to_owned(),
            &["ifcfg-t:2", "TYPE=GRE"],
        ),
        ("ifcfg-t", "DEVICE=t\nTYPE=GRE\nPEER_OUTER_IPADDR=$(hostname)\n".to_owned(), &["ifcfg-t:3"]),
        (
            "ifcfg-t",
            "DEVICE=t\nTYPE=GRE\nPEER_OUTER_IPADDR=fd00::1\n".to_owned(),
            &["ifcfg-t:3", "fd00::1", "IPv4"],
        ),
    ];
    for (name, text, words) in rows {
        let path = node.file(name, text);
        for verb in ["up", "up --dry-run"] {
            let output = node.words(&format!("{verb} {path}")).refused(words);
            assert_eq!(node.belongings(), before, "{output}");
        }
    }
}

#[test]
fn what_is_no_file_of_ours() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let folder = node.folder().display().to_string();
    node.greway(&["up", &format!("{folder}/")]).ok().says(&["no tunnel is defined in", &folder]);
    let path = node.folder().join("noise.toml");
    std::fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    node.greway(&["up", &path.display().to_string()]).refused(&["noise.toml", "UTF-8"]);
    assert!(!node.socket().exists(), "no daemon is started for what cannot be read");
}

#[test]
fn a_daemon_that_cannot_be_started_says_why() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let mut command =
        node.command(&["--socket", "/proc/greway/x.sock", "tunnel", "add", "tun0", "mode", "gre"]);
    command.args(ENDS.split(' '));
    node.execute(command).refused(&["/proc/greway"]);
    // Nobody listens, and nobody may be started: the directory is root's.
    node.nobody("tunnel add tun0 mode gre local 100.0.1.100 remote 100.0.2.100").refused(&["root"]);
}
