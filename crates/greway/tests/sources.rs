//! Where tunnels are defined: names, directories, `--all`, several at once, and `restart`.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;

use greway_testbed::{privilege, require};
use serde_json::Value;
use support::{Node, Output, two_hosts};

const SCRIPTS: &str = "root/etc/sysconfig/network-scripts";
const OWN: &str = "root/etc/greway/tunnels.d";

/// A file of the network-scripts for a tunnel to 100.0.2.100 with a key of its own.
fn ifcfg(device: &str, key: u32, more: &str) -> String {
    format!(
        "DEVICE={device}\nTYPE=GRE\nPEER_OUTER_IPADDR=100.0.2.100\nMY_OUTER_IPADDR=100.0.1.100\nKEY={key}\n{more}"
    )
}

fn toml(key: u32) -> String {
    format!("remote = \"100.0.2.100\"\nlocal = \"100.0.1.100\"\nkey = {key}\n")
}

/// Runs the binary with the node's folder `root` in the place of `/`.
fn greway(node: &Node, words: &str) -> Output {
    let mut command = node.command(&words.split_whitespace().collect::<Vec<_>>());
    command.env("GREWAY_ROOT", node.folder().join("root"));
    node.execute(command)
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output}"))
}

/// Name and state of each tunnel in an answer.
fn states(value: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let tunnels = value["tunnels"].as_array().unwrap();
    tunnels.iter().map(|tunnel| (text(&tunnel["name"]), text(&tunnel["state"]))).collect()
}

fn tunnels(node: &Node) -> Vec<String> {
    let shown = node.words("tunnel show").ok().stdout;
    shown.lines().filter_map(|line| Some(line.split_once(": gre/ip")?.0.to_owned())).collect()
}

#[test]
fn all_of_a_host_in_order_past_one_that_fails() {
    require!(privilege::check());
    let lab = two_hosts();
    let node = &lab.one;
    let _daemon = node.daemon();
    node.file(&format!("{SCRIPTS}/ifcfg-tun10"), &ifcfg("tun10", 10, "ONBOOT=yes\n"));
    node.file(&format!("{SCRIPTS}/ifcfg-tun9"), &ifcfg("tun9", 9, ""));
    node.file(&format!("{SCRIPTS}/ifcfg-tun8"), &ifcfg("tun8", 8, "ONBOOT=off\n"));
    node.file(&format!("{SCRIPTS}/ifcfg-tun7"), &ifcfg("tun7", 7, "TTL=300\n"));
    node.file(&format!("{SCRIPTS}/ifcfg-tun9.bak"), &ifcfg("tun9", 99, ""));
    node.file(&format!("{SCRIPTS}/ifcfg-eth0"), "DEVICE=eth0\nTYPE=Ethernet\nX=$(date)\n");
    node.file(&format!("{OWN}/tun1.toml"), &toml(1));

    let dry = greway(node, "up --all --dry-run --json");
    assert_eq!(dry.code, Some(1), "{dry}");
    let order = ["tun1", "tun7", "tun8", "tun9", "tun10"];
    let outcomes = ["done", "failed", "skipped", "done", "done"];
    let expected = order.iter().zip(outcomes).map(|(name, state)| ((*name).to_owned(), state.to_owned()));
    let expected = expected.collect::<Vec<_>>();
    assert_eq!(states(&json(&dry)), expected);
    assert_eq!(tunnels(node), [""; 0]);

    let output = greway(node, "up --all")
        .refused(&["ifcfg-tun7:6:5: tunnel tun7: TTL \"300\" is wrong", "1 of 5 tunnels failed"]);
    assert_eq!(output.code, Some(1));
    let output = output.says(&["tun8 is left as it is: ONBOOT=no in ", "create device tun10"]);
    let place = |name: &str| output.stdout.find(&format!("create device {name},")).unwrap();
    assert!(place("tun1") < place("tun9") && place("tun9") < place("tun10"), "{output}");
    assert_eq!(tunnels(node), ["tun1", "tun10", "tun9"]);

    // Once more there is nothing to do; what is wrong is still told.
    let again = json(&greway(node, "up --all --json"));
    let states_again = states(&again).into_iter().map(|(_, state)| state).collect::<Vec<_>>();
    assert_eq!(states_again, ["unchanged", "failed", "skipped", "unchanged", "unchanged"]);
    assert!(again["tunnels"][1]["reason"].as_str().unwrap().contains("ifcfg-tun7:6:5"), "{again}");
    assert!(again["tunnels"][1]["file"].as_str().unwrap().ends_with("ifcfg-tun7"), "{again}");

    // What came from no file stays, and it is said.
    node.words("tunnel add hand mode gre remote 100.0.2.100 local 100.0.1.100 key 77").ok();
    let down = greway(node, "down --all").ok().remarks(&["hand stays"]);
    let place = |name: &str| down.stdout.find(&format!("delete device {name}\n")).unwrap();
    assert!(place("tun10") < place("tun9") && place("tun9") < place("tun1"), "in reverse: {down}");
    assert_eq!(tunnels(node), ["hand"]);
}

#[test]
fn names_files_and_directories_together() {
    require!(privilege::check());
    let lab = two_hosts();
    let node = &lab.one;
    let _daemon = node.daemon();
    node.file(&format!("{SCRIPTS}/ifcfg-branch"), &ifcfg("tun2", 2, "NAME=\"To Berlin\"\nONBOOT=no\n"));
    let folder = node.file("more/ifcfg-tun3", &ifcfg("tun3", 3, ""));
    node.file("more/ifcfg-tun4", &ifcfg("tun4", 4, "ONBOOT=no\n"));
    let folder = folder.trim_end_matches("ifcfg-tun3").to_owned();
    let file = node.file("single.toml", &format!("name = \"tun5\"\n{}", toml(5)));
    // By the file's suffix; who names it means it, whatever ONBOOT says.
    let output = greway(node, &format!("up branch {folder} {file} nowhere"));
    assert_eq!(output.code, Some(1), "{output}");
    let output = output.refused(&["no file describes nowhere: looked in ", "1 of 5 tunnels failed"]);
    output.says(&["create device tun2", "create device tun3", "tun4 is left as it is", "create device tun5"]);
    assert_eq!(tunnels(node), ["tun2", "tun3", "tun5"]);
    // The name that brought it up takes it down.
    greway(node, "down branch").ok().says(&["delete device tun2"]);
    let output = json(&greway(node, &format!("down {file} tun3 tun9 --json")).ok());
    let expected = [("tun5", "done"), ("tun3", "done"), ("tun9", "unchanged")];
    let expected = expected.map(|(name, state)| (name.to_owned(), state.to_owned()));
    assert_eq!(states(&output), expected);
    assert_eq!(tunnels(node), [""; 0]);
    // Without a word of what, there is usage.
    assert_eq!(greway(node, "up").code, Some(2));
}

#[test]
fn what_is_to_be_imported_says_so() {
    require!(privilege::check());
    let lab = two_hosts();
    let profile = lab.one.file("my tun0.nmconnection", "[connection]\nid=tun0\ntype=ip-tunnel\n");
    let commands = lab.one.file("tun0.sh", "ip tunnel add tun0 mode gre remote 100.0.2.100\n");
    for verb in [&["up", "--dry-run"][..], &["export", "ip"]] {
        let of = |path: &str| lab.one.greway(&[verb, &[path]].concat());
        of(&profile).refused(&["a profile of NetworkManager", &format!("`greway import nm '{profile}'`")]);
        of(&commands).refused(&["commands of iproute2", &format!("`greway import ip {commands}`")]);
    }
    // Where nothing is, that is said, and where nothing could be seen, that.
    greway(&lab.one, "up --all").ok().says(&["no tunnel is defined in", "tunnels.d or", "network-scripts"]);
    greway(&lab.one, "down --all").ok().says(&["no tunnel is up that came from a file"]);
    lab.one.file("root/etc/greway/tunnels.d", "");
    greway(&lab.one, "up tun0").refused(&["cannot tell what describes tun0", "tunnels.d", "Not a directory"]);
}

#[test]
fn restart_takes_the_file_as_it_is_now_and_nothing_down_for_a_wrong_one() {
    require!(privilege::check());
    let lab = two_hosts();
    let (node, host) = (&lab.one, &lab.guide.linux1);
    let _daemon = node.daemon();
    let path = node.file(&format!("{OWN}/tun0.toml"), &toml(1));
    greway(node, "restart tun0").ok().says(&["create device tun0"]);
    let first = host.index("tun0").unwrap();
    let gretap = toml(1).replace("remote", "overlay = \"tun\"\nremote");

    for (text, part) in [("remot = 1\n", "tun0.toml:1:1: "), (gretap.as_str(), "overlay")] {
        node.file(&format!("{OWN}/tun0.toml"), text);
        let output = greway(node, "restart tun0");
        if output.code == Some(0) {
            // This machine has TUN: another kind of device, which `up` alone refuses, is what restart is for.
            assert_eq!(part, "overlay", "{output}");
            continue;
        }
        let output = output.refused(&[part]);
        assert!(host.index("tun0").is_ok(), "{output}");
    }
    node.file(&format!("{OWN}/tun0.toml"), &toml(7));
    let output = greway(node, "restart tun0").ok().says(&["delete device tun0", "create device tun0"]);
    assert!(output.stdout.find("delete device").unwrap() < output.stdout.find("create device").unwrap());
    assert!(host.index("tun0").unwrap() != first, "another device");
    assert!(node.words("tunnel show tun0").ok().stdout.contains("key 7"));

    // A route that cannot be: the tunnel comes back as it was.
    let bad = format!("{}[inner]\nroutes = [{{ to = \"10.99.0.0/16\", via = \"192.0.2.1\" }}]\n", toml(8));
    node.file(&format!("{OWN}/tun0.toml"), &bad);
    greway(node, "restart tun0").refused(&["10.99.0.0/16", "it is up again as it was before"]);
    assert!(node.words("tunnel show tun0").ok().stdout.contains("key 7"));

    // Another file is not what it came from.
    fs::remove_file(&path).unwrap();
    node.file(&format!("{SCRIPTS}/ifcfg-tun0"), &ifcfg("tun0", 9, ""));
    greway(node, "restart tun0").refused(&["tunnel tun0 is defined by", "tun0.toml", "ifcfg-tun0"]);
    assert!(node.words("tunnel show tun0").ok().stdout.contains("key 7"));
}
