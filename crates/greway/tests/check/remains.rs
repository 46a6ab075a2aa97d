//! What a file or an earlier daemon asked for and is not there: a definition that is refused, a tunnel that could not
//! be taken over, a rule of translation that somebody flushed.

use std::process::Command;

use greway_testbed::{Guide, privilege, require};
use serde_json::Value;

use super::pair::Pair;
use super::support::{GREWAY, Lab, Node};
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
        found
            .found(&["definition-refused"])
            .is("definition-refused", "stops")
            .says("definition-refused", &["/etc/greway/tunnels.d/tun0.toml cannot be honoured", "1772.16.0.1"]);
        assert_eq!(found.json["tunnels"][0]["carried"], false);
    }
    // Its cure is to write what is meant.
    let good = node.file("tun0.toml", "local = \"100.0.1.100\"\nremote = \"100.0.2.100\"\n");
    check_with_file(&guide, &node, &good, "tun0").found(&["not-up"]).is("not-up", "stops");
}

/// While no daemon ran, somebody has put a device of his own in the place of the tunnel's.
#[test]
fn a_tunnel_that_a_daemon_could_not_take_over() {
    require!(privilege::check());
    let mut pair = Pair::new("");
    pair.daemons[0].take().unwrap().kill();
    program_of(&pair.left, "ip link set tun0 alias mine");
    let _daemon = pair.nodes[0].daemon();
    let found = check(&pair.nodes[0], "");
    found.found(&["not-carried"]).is("not-carried", "stops");
    println!("{:#}", found.json);
    for command in found.cures("not-carried", "here") {
        type_in(&pair.nodes[0], &pair.left, &command);
    }
    check(&pair.nodes[0], "").found(&[]);
}

#[test]
fn a_rule_of_translation_that_somebody_flushed() {
    require!(privilege::check());
    let (lab, _daemons) = Lab::up("");
    lab.two.words("tunnel del tun0").ok();
    let path = lab.two.file(
        "tun0.toml",
        r#"
        name = "tun0"
        local = "100.0.2.100"
        remote = "100.0.1.100"
        [inner]
        address = "172.16.0.2"
        peer = "172.16.0.1/30"
        forward = true
        snat = "10.10.2.1"
        "#,
    );
    lab.two.greway(&["up", &path]).ok();
    check(&lab.two, "").found(&[]);
    program_of(&lab.guide.linux2, "nft flush ruleset");
    let found = check(&lab.two, "");
    found
        .found(&["snat-missing"])
        .is("snat-missing", "hinders")
        .says("snat-missing", &["to be translated to 10.10.2.1", "no table ip greway-tun0"]);
    for command in found.cures("snat-missing", "here") {
        type_in(&lab.two, &lab.guide.linux2, &command);
    }
    check(&lab.two, "").found(&[]);
}
