//! What a file or an earlier daemon asked for and is not there: a definition that is refused, a tunnel that could not
//! be taken over.

use std::process::Command;

use greway_testbed::{Guide, Host, privilege, require};
use serde_json::Value;

use super::pair::Pair;
use super::support::{GREWAY, Node};
use super::{Check, check, program_of, type_in};

/// `greway check --json` with a file in an /etc of this run alone.
fn check_with_file(guide: &Guide, node: &Node, file: &str, words: &str) -> Check {
    let script = format!(
        "mount -t tmpfs none /etc && mkdir -p /etc/greway/tunnels.d && cp {file} /etc/greway/tunnels.d/ && \
         exec {GREWAY} check --json {words}"
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).env("GREWAY_SOCKET", node.socket());
    let output = guide.linux1.output(&mut command).unwrap();
    let json: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    Check { json, code: output.status.code() }
}

#[test]
fn a_file_that_cannot_be_honoured() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let bad = node.file("tun0.toml", "local = \"100.0.1.100\"\nremote = \"1772.16.0.1\"\n");
    for words in ["tun0", ""] {
        let found = check_with_file(&guide, &node, &bad, words);
        found.found(&["definition-refused"]).is("definition-refused", "stops").says(
            "definition-refused",
            &["/etc/greway/tunnels.d/tun0.toml cannot be honoured", "1772.16.0.1"],
        );
        assert_eq!(found.json["tunnels"][0]["carried"], false);
    }
    // Its cure is to write what is meant.
    let good = node.file("tun0.toml", "local = \"100.0.1.100\"\nremote = \"100.0.2.100\"\n");
    check_with_file(&guide, &node, &good, "tun0").found(&["not-up"]).is("not-up", "stops");
}

/// While no daemon ran, somebody has made another device of its name.
#[test]
fn a_tunnel_that_a_daemon_could_not_take_over() {
    require!(privilege::check());
    let mut pair = Pair::new("key 42");
    pair.daemons[0].take().unwrap().kill();
    program_of(&pair.left, "ip link del tun0");
    program_of(&pair.left, "ip link add tun0 mtu 1400 type veth peer name other0");
    let _daemon = pair.nodes[0].daemon();
    let found = check(&pair.nodes[0], "");
    found.found(&["not-carried"]).is("not-carried", "stops").says("not-carried", &["tun0"]);
    let cures = found.cures("not-carried", "here");
    assert_eq!(
        cures,
        [
            "greway tunnel del tun0",
            "greway tunnel add tun0 mode gre remote 10.0.0.2 local 10.0.0.1 key 42",
            "ip link set tun0 up"
        ]
    );
    // Whose it is has to take it away.
    program_of(&pair.left, "ip link del other0");
    for command in &cures {
        type_in(&pair.nodes[0], &pair.left, command);
    }
    check(&pair.nodes[0], "").found(&[]);
}

/// While no daemon ran, somebody has moved its device away: the next one carries it, and what is inside is not seen.
#[test]
fn a_tunnel_that_was_moved_away_is_taken_over() {
    require!(privilege::check());
    let mut pair = Pair::new("key 42");
    let elsewhere = Host::new("elsewhere").unwrap();
    pair.daemons[0].take().unwrap().kill();
    program_of(&pair.left, &format!("ip link set tun0 netns {}", elsewhere.path().display()));
    let _daemon = pair.nodes[0].daemon();
    check(&pair.nodes[0], "")
        .found(&[])
        .is("device-moved", "note")
        .says("device-moved", &["the device is not"]);
}
