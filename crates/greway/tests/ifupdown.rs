//! The guide's ifcfg files as written, by `greway up` and by `ifup` with the shims first in PATH, and the rows of
//! the golden cases about ifcfg that need a host: G01 to G12 and G88 to G100.
//!
//! Each command runs in a mount namespace of its own with a node's folder bound over
//! /etc/sysconfig/network-scripts, so that no file of this machine is seen or touched. The rows with the stock
//! initscripts (G101, G102) are not here: no package of Debian has those scripts.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::time::Duration;

use greway_testbed::tcp::transfer;
use greway_testbed::{Host, PingOptions, guide, ping, privilege, require};
use support::{Lab, Node, Output, two_hosts};

/// The guide's two files; only its addresses of Linux2 are as they have to be, and they were right here.
const GUIDE: [&str; 2] = [
    "DEVICE=tun0\nONBOOT=yes\nTYPE=GRE\nPEER_OUTER_IPADDR=100.0.2.100\nPEER_INNER_IPADDR=172.16.0.2/30\n\
     MY_OUTER_IPADDR=100.0.1.100\nMY_INNER_IPADDR=172.16.0.1\nKEY=lichenhao\nBOOTPROTO=none\n",
    "DEVICE=tun0\nONBOOT=yes\nTYPE=GRE\nPEER_OUTER_IPADDR=100.0.1.100\nPEER_INNER_IPADDR=172.16.0.1/30\n\
     MY_OUTER_IPADDR=100.0.2.100\nMY_INNER_IPADDR=172.16.0.2\nKEY=lichenhao\nBOOTPROTO=none\n",
];

/// /etc as a command is to see it: this machine's, but for the folder's sysconfig and greway; this machine's own
/// ifup and ifdown out of the way; the folder's hooks in /sbin. Then the command.
const STAGE: &str = r#"set -e
folder=$1; shift
mkdir -p "$folder/etc" "$folder/etc.machine" "$folder/sysconfig/network-scripts" "$folder/greway/tunnels.d"
mount --bind /etc "$folder/etc.machine"
mount -t tmpfs tmpfs /etc
for entry in "$folder/etc.machine"/*; do ln -s "$entry" "/etc/${entry##*/}"; done
rm -f /etc/sysconfig /etc/greway
mkdir /etc/sysconfig /etc/greway
mount --bind "$folder/sysconfig" /etc/sysconfig
mount --bind "$folder/greway" /etc/greway
for tool in ifup ifdown; do
    for at in /usr/sbin /usr/bin; do [ ! -e $at/$tool ] || mount --bind /dev/null $at/$tool; done
done
if [ -d "$folder/sbin" ]; then
    mkdir "/etc/sbin.machine"; mount --bind /sbin /etc/sbin.machine
    mount -t tmpfs tmpfs /sbin
    for entry in /etc/sbin.machine/*; do ln -s "$entry" "/sbin/${entry##*/}"; done
    for entry in "$folder/sbin"/*; do rm -f "/sbin/${entry##*/}"; cp "$entry" /sbin/; done
fi
exec "$@"
"#;

/// A node with files of the network-scripts and the shims.
trait Scripts {
    /// Writes a file into /etc/sysconfig/network-scripts.
    fn script(&self, name: &str, text: &str);
    /// Writes a program into a directory of the node, for PATH or /sbin.
    fn program(&self, directory: &str, name: &str, text: &str);
    /// Runs words separated by blanks as a root shell would, the shims first in PATH.
    fn shell(&self, words: &str) -> Output {
        self.shell_with(words, &[])
    }
    /// The same with more in the environment.
    fn shell_with(&self, words: &str, environment: &[(&str, &str)]) -> Output;
    /// What such a program has written into a file of the node's folder.
    fn notes(&self, name: &str) -> String;
}

impl Scripts for Node {
    fn script(&self, name: &str, text: &str) {
        self.file(&format!("sysconfig/network-scripts/{name}"), text);
    }

    fn program(&self, directory: &str, name: &str, text: &str) {
        let path = self.file(&format!("{directory}/{name}"), &format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn shell_with(&self, words: &str, environment: &[(&str, &str)]) -> Output {
        let shims = self.folder().join("shims");
        if !shims.is_dir() {
            fs::create_dir(&shims).unwrap();
            for name in ["greway", "ifup", "ifdown"] {
                symlink(env!("CARGO_BIN_EXE_greway"), shims.join(name)).unwrap();
            }
        }
        let real = self.folder().join("real");
        let path = format!("{}:{}:/usr/sbin:/usr/bin:/sbin:/bin", shims.display(), real.display());
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", STAGE, "stage"]).arg(self.folder());
        command.args(words.split_whitespace()).env_clear().env("PATH", path).stdin(Stdio::null());
        // Whatever this machine's kernel can do, the tunnels of these tests are greway's.
        command.env("GREWAY_SOCKET", self.socket()).env("GREWAY_BACKEND", "greway");
        command.envs(environment.iter().copied());
        self.execute(command)
    }

    fn notes(&self, name: &str) -> String {
        fs::read_to_string(self.folder().join(name)).unwrap_or_default()
    }
}

/// The guide's file for linux1 with lines in place of those of the same variables, or added.
fn with(lines: &[&str]) -> String {
    let mut text = GUIDE[0].to_owned();
    for line in lines {
        let name = line.split_inclusive('=').next().unwrap();
        text = text.lines().filter(|old| !old.starts_with(name)).map(|old| format!("{old}\n")).collect();
        text += &format!("{line}\n");
    }
    text
}

fn addresses(host: &Host, dev: &str) -> Vec<String> {
    let entries = host.netlink().unwrap().addresses(Some(host.index(dev).unwrap())).unwrap();
    entries.iter().map(|entry| entry.address.to_string()).filter(|text| !text.starts_with("fe80")).collect()
}

#[track_caller]
fn reaches(from: &Host, to: std::net::Ipv4Addr) {
    let report = ping(from, to.into(), &PingOptions::default()).unwrap();
    assert!(report.complete(), "from {}: {report}", from.name());
}

/// TCP, both ways' worth of it, from one host to another.
#[track_caller]
fn tcp(from: &Host, to: &Host, address: std::net::Ipv4Addr) {
    let address = SocketAddr::new(address.into(), 0);
    let report = transfer(from, to, address, 300_000, Duration::from_secs(14)).unwrap();
    assert!(report.intact(), "{report:?}");
}

fn lab_with_guide() -> Lab {
    let lab = two_hosts();
    for (node, text) in [&lab.one, &lab.two].into_iter().zip(GUIDE) {
        node.script("ifcfg-tun0", text);
    }
    lab
}

#[test]
fn the_guide_by_its_files_with_both_scenarios() {
    require!(privilege::check());
    let lab = lab_with_guide();
    let _daemons = (lab.one.daemon(), lab.two.daemon());
    // One host by greway's own verb, the other one by the command that its admin has always typed.
    let up = lab.one.shell("greway up tun0").ok();
    up.remarks(&["/etc/sysconfig/network-scripts/ifcfg-tun0:8:5", "63077743", "no password"]);
    let quiet = lab.two.shell("ifup tun0").ok().remarks(&["63077743"]);
    assert_eq!(quiet.stdout, "", "ifup prints nothing when all is well");
    reaches(&lab.guide.linux1, guide::INNER[1]);
    assert_eq!(addresses(&lab.guide.linux2, "tun0"), ["172.16.0.2 peer 172.16.0.1/30"]);
    // G04, by the real ip.
    let shown = lab.one.shell("ip route show dev tun0").ok().stdout;
    assert_eq!(shown.trim_end(), "172.16.0.0/30 proto kernel scope link src 172.16.0.1");
    let link = lab.one.shell("greway tunnel show tun0").ok().stdout;
    assert!(
        link.starts_with("tun0: gre/ip remote 100.0.2.100 local 100.0.1.100 ttl inherit key 63077743"),
        "{link}"
    );

    // Scenario 1: linux1 reaches the LAN behind linux2 by SNAT, with the guide's own commands (G07, G11, G12).
    lab.one.shell("ip route add 10.10.2.0/24 dev tun0").ok();
    let routes = lab.one.shell("ip route show 10.10.2.0/24").ok().stdout;
    assert_eq!(routes.trim_end(), "10.10.2.0/24 dev tun0 scope link");
    lab.guide.linux2.forwarding(true).unwrap();
    let snat = "iptables -t nat -A POSTROUTING -s 1772.16.0.1 -d 10.10.2.0/24 -j SNAT --to-source 10.10.2.1";
    let slip = lab.two.shell(snat).refused(&["host/network `1772.16.0.1' not found"]);
    assert_eq!(slip.code, Some(2));
    lab.two.shell(&snat.replace("1772", "172")).ok();
    lab.two
        .shell("iptables -t nat -S POSTROUTING")
        .ok()
        .says(&["-A POSTROUTING -s 172.16.0.1/32 -d 10.10.2.0/24 -j SNAT --to-source 10.10.2.1"]);
    reaches(&lab.guide.linux1, guide::LAN[1]);
    tcp(&lab.guide.linux1, &lab.guide.lan2, guide::LAN[1]);

    // Scenario 2: the LANs reach each other by routes.
    lab.guide.linux1.forwarding(true).unwrap();
    lab.guide.default_routes().unwrap();
    lab.two.shell("ip route add 10.10.1.0/24 dev tun0").ok();
    reaches(&lab.guide.lan1, guide::LAN[1]);
    reaches(&lab.guide.lan2, guide::LAN[0]);
    tcp(&lab.guide.lan1, &lab.guide.lan2, guide::LAN[1]);
    tcp(&lab.guide.lan2, &lab.guide.lan1, guide::LAN[0]);

    // And away, by either word.
    lab.one.shell("ifdown tun0").ok();
    lab.two.shell("greway down tun0").ok().says(&["delete device tun0"]);
    assert!(lab.one.link("tun0").is_none() && lab.two.link("tun0").is_none());
    assert_eq!(lab.one.shell("ifdown tun0").ok().stdout, "", "what is not there is down");
}

#[test]
fn g88_to_g100_on_a_host() {
    require!(privilege::check());
    let lab = lab_with_guide();
    let _daemon = lab.one.daemon();
    let (node, host) = (&lab.one, &lab.guide.linux1);
    let fresh = |lines: &[&str]| node.script("ifcfg-tun0", &with(lines));
    let show = || node.words("tunnel show tun0").ok().stdout;

    fresh(&["KEY=42", "TTL=64", "MTU=1400"]);
    node.shell("ifup tun0").ok();
    assert!(show().contains("ttl 64 key 42"), "G88: {}", show());
    assert_eq!(node.mtu("tun0"), 1400, "G88");
    // Again on a live tunnel: the original prints "File exists"; here there is nothing to do.
    node.shell("ifup tun0").ok();
    node.shell("ifdown tun0").ok();

    fresh(&["KEY=42", "PEER_INNER_IPADDR=100.0.2.100"]);
    node.shell("ifup tun0").ok();
    assert_eq!(addresses(host, "tun0"), ["172.16.0.1/32"], "G89");
    node.shell("ifdown tun0").ok();

    fresh(&["DEVICE=gre0"]);
    let text = "Device 'gre0' isn't supported as a valid GRE device name.";
    for command in ["ifup tun0", "ifdown tun0"] {
        assert_eq!(node.shell(command).refused(&[text]).code, Some(1), "G90: {command}");
    }

    fresh(&["KEY=42", "ONBOOT=no"]);
    node.shell("greway up --all").ok().says(&["tun0 is left as it is: ONBOOT=no"]);
    assert_eq!(node.shell("ifup tun0 boot").ok().stdout, "");
    assert!(node.link("tun0").is_none(), "G92");
    node.shell("ifup tun0").ok();
    assert!(node.link("tun0").is_some(), "G92: named, it comes up");
    node.shell("ifdown tun0").ok();

    node.script("ifcfg-tun0", &with(&["KEY=42"]).replace("ONBOOT=yes\n", ""));
    node.shell("greway up --all").ok().says(&["create device tun0"]);
    assert!(node.link("tun0").is_some(), "G93");
    node.shell("greway down --all").ok().says(&["delete device tun0"]);

    fresh(&["PEER_OUTER_IPADDR="]);
    node.shell("ifup tun0").ok().remarks(&["any host may send into it"]);
    assert!(show().contains("remote any"), "G94: {}", show());
    node.shell("ifdown tun0").ok();
    fresh(&["TYPE=GRE6", "PEER_OUTER_IPADDR=2001:db8::2", "MY_OUTER_IPADDR="]);
    node.shell("ifup tun0").ok();
    assert!(show().contains("gre/ipv6 remote 2001:db8::2"), "G100: {}", show());
    node.shell("ifdown tun0").ok();

    fresh(&["KEY=42;"]);
    node.script("route-tun0", "ADDRESS0=10.10.2.0\nNETMASK0=255.255.255.0\nGATEWAY0=172.16.0.2\n");
    node.shell("ifup tun0").ok();
    let routes = node.shell("ip route show dev tun0").ok().stdout;
    assert!(routes.contains("10.10.2.0/24 via 172.16.0.2"), "G96, G98: {routes}");
    node.script("route-tun0", "ADDRESS1=10.10.2.0\nNETMASK1=255.255.255.0\n");
    node.shell("greway up tun0").ok().remarks(&["route-tun0:1: warning: ADDRESS1"]);
    let routes = node.shell("ip route show dev tun0").ok().stdout;
    assert!(!routes.contains("10.10.2.0/24"), "G97: {routes}");
}

#[test]
fn all_else_is_the_real_tools() {
    require!(privilege::check());
    let lab = lab_with_guide();
    let node = &lab.one;
    for name in ["ifup", "ifdown"] {
        node.program("real", name, "echo \"real $0 [$*]\"; exit 7");
    }
    node.script("ifcfg-eth0", "DEVICE=eth0\nTYPE=Ethernet\nX=$(date)\n");
    node.script("ifcfg-tun5", "DEVICE=tun5\nTYPE=gre\n");
    let folder = node.folder().display().to_string();
    for (words, arguments) in [
        ("ifup eth0 boot", "[eth0 boot]"),
        ("ifup -a --verbose", "[-a --verbose]"),
        ("ifup tun5", "[tun5]"),
        ("ifup nothing", "[nothing]"),
        ("ifup", "[]"),
        ("ifdown eth0", "[eth0]"),
        ("ifdown nothing", "[nothing]"),
    ] {
        let output = node.shell(words);
        let tool = words.split(' ').next().unwrap();
        // What it is called, and so what it says in $0, is what was typed.
        assert_eq!(output.code, Some(7), "{output}");
        assert!(output.stdout.starts_with("real ") && output.stdout.contains(tool), "{output}");
        assert!(output.stdout.trim_end().ends_with(arguments), "{folder}: {output}");
        assert_eq!(output.stderr, "", "{words}");
    }
    // No daemon was started for any of it.
    assert!(!node.socket().exists());
}

#[test]
fn a_kernel_with_gre_keeps_its_tunnels_and_greway_those_that_are_its_own() {
    require!(privilege::check());
    let lab = lab_with_guide();
    let _daemon = lab.one.daemon();
    let node = &lab.one;
    for name in ["ifup", "ifdown"] {
        node.program("real", name, "echo \"real [$*]\"; exit 7");
    }
    let kernel = [("GREWAY_BACKEND", "kernel")];
    let passed = node.shell_with("ifup tun0 boot", &kernel);
    assert_eq!((passed.code, passed.stdout.as_str()), (Some(7), "real [tun0 boot]\n"), "{passed}");
    assert!(node.link("tun0").is_none());
    node.shell("ifup tun0").ok();
    // The name is greway's now, whatever the kernel can do.
    node.script("ifcfg-tun0", &with(&["KEY=7"]));
    node.shell_with("ifup tun0", &kernel).ok();
    assert!(node.words("tunnel show tun0").ok().stdout.contains("key 7"));
    node.shell_with("ifdown tun0", &kernel).ok();
    assert!(node.link("tun0").is_none());
    // A device of that name which is not greway's is the real tool's to judge.
    let mut make = Command::new("ip");
    make.args(["link", "add", "tun0", "type", "veth", "peer", "name", "other"]);
    assert!(lab.guide.linux1.output(&mut make).unwrap().status.success());
    assert_eq!(node.shell("ifdown tun0").code, Some(7));
    assert!(node.link("tun0").is_some());
}

#[test]
fn hotplug_and_own_files_and_other_users() {
    require!(privilege::check());
    let lab = lab_with_guide();
    let _daemon = lab.one.daemon();
    let node = &lab.one;
    node.script("ifcfg-tun0", &with(&["HOTPLUG=no"]));
    node.shell_with("ifup tun0", &[("IN_HOTPLUG", "1")]).ok();
    assert!(node.link("tun0").is_none());
    // A tunnel of greway's own files is served by name as well, with its own word for ONBOOT.
    let own = "remote = \"100.0.2.100\"\nlocal = \"100.0.1.100\"\nonboot = false\nkey = 5\n";
    node.file("greway/tunnels.d/tun5.toml", own);
    node.shell("ifup tun5 boot").ok();
    assert!(node.link("tun5").is_none());
    node.shell("ifup tun5").ok();
    // One that no file describes can be taken down all the same.
    fs::remove_file(node.folder().join("greway/tunnels.d/tun5.toml")).unwrap();
    node.shell("ifdown tun5").ok();
    assert!(node.link("tun5").is_none());
    let output = node.shell("setpriv --reuid 65534 --clear-groups ifup tun0");
    assert_eq!((output.code, output.stderr.as_str()), (Some(1), "Users cannot control this device.\n"));
}

#[test]
fn without_a_real_tool_the_originals_words() {
    require!(privilege::check());
    let lab = two_hosts();
    let node = &lab.one;
    node.script("ifcfg-eth0", "DEVICE=eth0\nTYPE=Ethernet\n");
    let output =
        node.shell("ifup nothing").refused(&["ifup: configuration for nothing not found.\nUsage: ifup"]);
    assert_eq!(output.code, Some(1));
    node.shell("ifup").refused(&["Usage: ifup <configuration>"]);
    node.shell("ifdown nothing").refused(&["usage: ifdown <configuration>"]);
    node.shell("ifup eth0").refused(&["ifcfg-eth0 is not about GRE", "no other ifup"]);
}

#[test]
fn hooks_are_called_as_the_originals_call_them() {
    require!(privilege::check());
    let lab = lab_with_guide();
    let _daemon = lab.one.daemon();
    let node = &lab.one;
    let notes = node.folder().join("notes");
    for hook in ["ifup-pre-local", "ifup-local", "ifdown-pre-local", "ifdown-local"] {
        let there = "if [ -e /sys/class/net/tun0 ]; then echo there; else echo away; fi";
        // /sys may be that of the machine; what the kernel says of this namespace is in /proc.
        let there = there.replace("[ -e /sys/class/net/tun0 ]", "grep -q tun0: /proc/self/net/dev");
        let text =
            format!("echo \"{hook} $* $(basename \"$PWD\") $({there})\" >>{}; exit 3", notes.display());
        node.program("sbin", hook, &text);
    }
    node.shell("ifup tun0").ok();
    assert_eq!(
        node.notes("notes"),
        "ifup-pre-local ifcfg-tun0 network-scripts away\nifup-local tun0 network-scripts there\n"
    );
    fs::remove_file(&notes).unwrap();
    node.shell("ifdown tun0").ok();
    assert_eq!(
        node.notes("notes"),
        "ifdown-pre-local tun0 network-scripts there\nifdown-local tun0 network-scripts away\n"
    );
    fs::remove_file(&notes).unwrap();
    node.shell("ifup tun0 boot").ok();
    assert!(node.notes("notes").starts_with("ifup-pre-local ifcfg-tun0 boot "), "{}", node.notes("notes"));
    fs::remove_file(&notes).unwrap();
    // A device that is down stays as it is, as with the original.
    lab.guide.linux1.set_down("tun0").unwrap();
    node.shell("ifdown tun0").ok();
    assert!(
        node.notes("notes").starts_with("ifdown-pre-local") && !node.notes("notes").contains("ifdown-local")
    );
    assert!(node.link("tun0").is_some());
    fs::remove_file(&notes).unwrap();
    node.shell("greway down tun0").ok();
    // A file that is wrong runs nothing.
    node.script("ifcfg-tun0", &with(&["KEY=$(id)"]));
    node.shell("ifup tun0").refused(&["ifcfg-tun0:9:5: \"$\" would be expanded by the shell"]);
    assert_eq!(node.notes("notes"), "");
    assert!(node.link("tun0").is_none());
}

#[test]
fn a_wrong_file_changes_nothing_and_fails() {
    require!(privilege::check());
    let lab = lab_with_guide();
    let _daemon = lab.one.daemon();
    let node = &lab.one;
    let before = node.belongings();
    for (file, text, place) in [
        ("ifcfg-tun0", with(&["TTL=300"]), "ifcfg-tun0:10:5: tunnel tun0: TTL \"300\" is wrong"),
        ("ifcfg-tun0", with(&["MTU=1400 # x", "MY_INNER_IPADDR=foo"]), "ifcfg-tun0:10:17: "),
        ("route-tun0", "10.10.2.0/24 dev tun0\n10.10.3.0/24 dev eth0\n".to_owned(), "route-tun0:2:18: "),
        ("rule-tun0", "from 10.10.1.0/24 table nowhere\n".to_owned(), "rule-tun0:1:25: "),
    ] {
        node.script("ifcfg-tun0", GUIDE[0]);
        node.script(file, &text);
        for command in ["ifup tun0", "greway up tun0"] {
            assert_eq!(node.shell(command).refused(&[place]).code, Some(1));
            assert_eq!(node.belongings(), before, "{command} with {file}");
        }
        fs::remove_file(node.folder().join("sysconfig/network-scripts").join(file)).unwrap();
    }
    // A second definition of the name.
    node.script("ifcfg-tun0", GUIDE[0]);
    node.file("greway/tunnels.d/tun0.toml", "remote = \"100.0.2.100\"\n");
    for command in ["ifup tun0", "greway up tun0"] {
        node.shell(command).refused(&["tunnel tun0 is defined twice", "tun0.toml", "ifcfg-tun0"]);
        assert_eq!(node.belongings(), before);
    }
}

#[test]
fn rules_and_routes_of_other_tables_come_and_go_with_the_tunnel() {
    require!(privilege::check());
    let lab = lab_with_guide();
    let _daemon = lab.one.daemon();
    let node = &lab.one;
    let rules = || {
        let found = lab.guide.linux1.netlink().unwrap().rules(greway_netlink::Family::Ipv4).unwrap();
        found.iter().map(ToString::to_string).filter(|rule| !rule.starts_with("0:")).collect::<Vec<_>>()
    };
    let (kernels, before) = (rules(), node.belongings());
    node.script("route-tun0", "default dev tun0 table 100\n");
    node.script(
        "rule-tun0",
        "from 10.10.1.0/24 table 100 priority 500\nfrom 10.10.9.0/24 lookup 100 priority 501\n",
    );
    node.shell("ifup tun0").ok();
    let two = ["500: from 10.10.1.0/24 lookup 100", "501: from 10.10.9.0/24 lookup 100"];
    assert_eq!(rules()[..2], two);
    node.shell("ip route show table 100").ok().says(&["default dev tun0"]);
    node.shell("greway up tun0").ok().says(&["nothing to do"]);
    // A rule less in the file is a rule less on the host.
    node.script("rule-tun0", "from 10.10.1.0/24 table 100 priority 500\n");
    node.shell("greway up tun0").ok().says(&["remove rule from 10.10.9.0/24 priority 501 table 100 of tun0"]);
    assert_eq!(rules()[..2], [two[0].to_owned(), kernels[0].clone()]);
    node.shell("ifdown tun0").ok();
    assert_eq!((rules(), node.belongings()), (kernels.clone(), before.clone()));
    // A route that cannot be: the rules of the same plan are taken back with all else.
    node.script("route-tun0", "10.99.0.0/16 via 192.0.2.1 dev tun0\n");
    node.shell("ifup tun0").refused(&["10.99.0.0/16", "everything before it was taken back"]);
    assert_eq!((rules(), node.belongings()), (kernels, before));
}

#[test]
fn ipv6_inside_and_a_link_that_is_left_down() {
    require!(privilege::check());
    let lab = lab_with_guide();
    let _daemon = lab.one.daemon();
    let (node, host) = (&lab.one, &lab.guide.linux1);
    node.script(
        "ifcfg-tun0",
        &with(&["IPV6ADDR=fd00:1::1/126", "IPV6ADDR_SECONDARIES=fd00:2::1", "IPV6_MTU=1300"]),
    );
    node.shell("ifup tun0").ok();
    let mut present = addresses(host, "tun0");
    present.sort();
    assert_eq!(present, ["172.16.0.1 peer 172.16.0.2/30", "fd00:1::1/126", "fd00:2::1/64"]);
    assert_eq!(host.read_sysctl("ipv6/conf/tun0/mtu").unwrap(), "1300");
    node.shell("greway up tun0").ok().says(&["nothing to do"]);
    node.script("ifcfg-tun0", &with(&[]));
    node.shell("greway up tun0").ok().says(&["set mtu of tun0 for IPv6 to 1472"]);
    assert_eq!(host.read_sysctl("ipv6/conf/tun0/mtu").unwrap(), "1472");
    node.script("ifcfg-tun0", &with(&["LINKSTATUS=down"]));
    node.shell("greway up tun0").ok().says(&["set tun0 down"]);
    assert!(!node.link("tun0").unwrap().up);
    node.shell("greway up tun0").ok().says(&["nothing to do"]);
    node.shell("greway down tun0").ok();
    node.shell("ifup tun0").ok();
    assert!(!node.link("tun0").unwrap().up, "made, and left down");
}
