//! `greway boot`: nothing starts before it was enabled, and what starts then is told with the reason.
//!
//! systemctl is a script that writes down what it was told; the real one is met in the machines that boot.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use greway_testbed::{Host, privilege, require};
use serde_json::Value;
use support::{Node, Output};

const SCRIPTS: &str = "root/etc/sysconfig/network-scripts";

/// Keeps enabled units as files in a folder; refuses a unit of the name `missing`.
const SYSTEMCTL: &str = r#"#!/bin/sh
[ "$1" = --root ] && { echo "root $2" >>"$0.log"; shift 2; }
echo "$*" >>"$0.log"
case $1:$2 in
    enable:*missing*) echo "Failed: Unit file $2 does not exist." >&2; exit 1;;
    enable:*) : >"$0.$2";;
    disable:*) [ -e "$0.$2" ] && unlink "$0.$2"; exit 0;;
    is-enabled:*) shift
        for unit; do
            case $unit in *missing*) echo "Failed to get unit file state for $unit" >&2; exit 1;; esac
            if [ -e "$0.$unit" ]; then echo enabled; some=yes; else echo disabled; fi
        done
        [ "$some" ];;
esac
"#;

fn host_with_files() -> (Host, Node) {
    let host = Host::new("boot").unwrap();
    let node = Node::new(&host);
    let tunnel = |device: &str, more: &str| {
        format!(
            "DEVICE={device}\nTYPE=GRE\nPEER_OUTER_IPADDR=100.0.2.100\nMY_OUTER_IPADDR=100.0.1.100\n{more}"
        )
    };
    node.file(&format!("{SCRIPTS}/ifcfg-tun0"), &tunnel("tun0", ""));
    node.file(&format!("{SCRIPTS}/ifcfg-tun1"), &tunnel("tun1", "KEY=1\nONBOOT=no\n"));
    node.file(&format!("{SCRIPTS}/ifcfg-tun2"), &tunnel("tun2", "KEY=$(id)\n"));
    node.file("root/etc/greway/tunnels.d/missing.toml", "remote = \"100.0.2.100\"\nkey = 5\n");
    (host, node)
}

fn with_systemd(node: &Node) {
    fs::create_dir_all(node.folder().join("root/run/systemd/system")).unwrap();
    let path = node.file("bin/systemctl", SYSTEMCTL);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn boot(node: &Node, words: &str) -> Output {
    let words = format!("boot {words}");
    let mut command = node.command(&words.split_whitespace().collect::<Vec<_>>());
    command.env("GREWAY_ROOT", node.folder().join("root"));
    command.env("PATH", format!("{}:/usr/bin:/bin", node.folder().join("bin").display()));
    node.execute(command)
}

/// Name, whether it starts, and why, of each tunnel.
fn fates(node: &Node) -> Vec<(String, bool, String)> {
    let value: Value = serde_json::from_str(&boot(node, "status --json").ok().stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let tunnels = value["tunnels"].as_array().unwrap().iter();
    tunnels.map(|one| (text(&one["name"]), one["starts"].as_bool().unwrap(), text(&one["why"]))).collect()
}

fn starting(node: &Node) -> Vec<String> {
    fates(node).into_iter().filter_map(|(name, starts, _)| starts.then_some(name)).collect()
}

#[test]
fn nothing_starts_before_it_was_enabled() {
    require!(privilege::check());
    let (_host, node) = host_with_files();
    with_systemd(&node);
    let text =
        boot(&node, "status").ok().says(&["starting at boot: not enabled", "greway boot enable"]).stdout;
    assert!(!text.contains(": starts: "), "{text}");
    let fates = fates(&node);
    let names = fates.iter().map(|(name, _, _)| name.as_str()).collect::<Vec<_>>();
    assert_eq!(names, ["missing", "tun0", "tun1", "tun2"]);
    for (name, part) in [
        ("tun0", "starting at boot is not enabled"),
        ("tun1", "says that it is not to (ONBOOT)"),
        ("tun2", "ifcfg-tun2:5:5: "),
    ] {
        let (_, starts, why) = fates.iter().find(|(of, _, _)| of == name).unwrap();
        assert!(!starts && why.contains(part), "{name}: {why}");
    }

    boot(&node, "enable").ok().says(&[
        "greway-boot.service is enabled",
        "starting at boot: enabled",
        "tun0: starts: ",
        "tun1: does not start: ",
    ]);
    assert_eq!(starting(&node), ["missing", "tun0"]);
    // One by name, whatever its ONBOOT.
    boot(&node, "enable tun1").ok().says(&["greway@tun1.service is enabled"]);
    assert_eq!(starting(&node), ["missing", "tun0", "tun1"]);
    boot(&node, "disable").ok().says(&["greway-boot.service is disabled"]);
    assert_eq!(starting(&node), ["tun1"]);
    boot(&node, "disable tun1").ok();
    assert_eq!(starting(&node), [""; 0]);
    let log = fs::read_to_string(node.folder().join("bin/systemctl.log")).unwrap();
    assert!(log.contains(&format!("root {}", node.folder().join("root").display())), "{log}");
    assert!(
        log.contains("\nenable greway-boot.service\n") && log.contains("\ndisable greway@tun1.service\n")
    );
}

#[test]
fn systemctl_is_asked_once_for_all() {
    require!(privilege::check());
    let (_host, node) = host_with_files();
    with_systemd(&node);
    // This systemctl stops at a unit that it does not know; then each is asked for.
    fs::remove_file(node.folder().join("root/etc/greway/tunnels.d/missing.toml")).unwrap();
    boot(&node, "enable tun1").ok();
    let log = node.folder().join("bin/systemctl.log");
    fs::remove_file(&log).unwrap();
    assert_eq!(starting(&node), ["tun1"]);
    let asked = fs::read_to_string(log).unwrap();
    let asked = asked.lines().filter(|line| line.starts_with("is-enabled")).collect::<Vec<_>>();
    assert_eq!(
        asked,
        ["is-enabled greway-boot.service greway@tun0.service greway@tun1.service greway@tun2.service"]
    );
}

#[test]
fn what_cannot_be_started_is_not_enabled() {
    require!(privilege::check());
    let (_host, node) = host_with_files();
    with_systemd(&node);
    boot(&node, "enable tun2").refused(&["ifcfg-tun2:5:5: "]);
    boot(&node, "enable tun9").refused(&["no file describes tun9"]);
    boot(&node, "enable a/b").refused(&["\"a/b\" is no name that a unit can have"]);
    boot(&node, "enable missing").refused(&["does not exist", "comes with greway's package"]);
    assert!(
        !fs::read_dir(node.folder().join("bin"))
            .unwrap()
            .any(|entry| { entry.unwrap().file_name().to_string_lossy().ends_with(".service") })
    );
}

#[test]
fn without_systemd_we_say_what_to_put_where() {
    require!(privilege::check());
    let (_host, node) = host_with_files();
    boot(&node, "enable").refused(&["not run by systemd", "greway up --all", "/etc/local.d/greway.start"]);
    boot(&node, "status").ok().says(&["not by systemd", "greway up --all"]);
    assert_eq!(starting(&node), [""; 0]);
}
