//! What a check prints, to whom, and that it leaves everything as it was.

use std::process::Stdio;
use std::time::Instant;

use greway_linux::process;
use greway_linux::signal::Signal;
use greway_testbed::{Guide, Host, poll_until, privilege, require};
use serde_json::Value;

use super::support::{Lab, Node, SOON, two_hosts};
use super::{check, nft, program_of};

#[test]
fn people_read_sentence_evidence_and_command() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    lab.one.words("tunnel add tun0 mode gre remote 100.0.2.100 local 203.0.113.5").ok();
    let output = lab.one.words("check tun0");
    assert_eq!(output.code, Some(1), "{output}");
    let output = output.says(&[
        "tun0 1 finding\n",
        "  stops    local 203.0.113.5 is not an address of this host\n",
        "           seen: no device has 203.0.113.5\n",
        "           cure: greway tunnel change tun0 local 100.0.1.100\n",
        "looked at ",
    ]);
    assert!(!output.stdout.contains('\x1b'), "no colours but on a terminal: {output}");
    assert_eq!(output.stderr, "", "{output}");
    // In short, where people look first; and there without an exit code of its own.
    lab.one.words("status").ok().says(&["greway check tun0"]);
    let status: Value = lab.one.status();
    assert_eq!(status["tunnels"][0]["findings"][0]["id"], "local-not-here", "{status:#}");
}

#[test]
fn a_user_without_privileges_is_told_what_was_not_looked_at() {
    require!(privilege::check());
    let (lab, _daemons) = Lab::up("");
    let output = lab.one.nobody("check --json").ok();
    let json: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(json["found"], false);
    let looks = json["tunnels"][0]["looks"].as_array().unwrap();
    let state = |id: &str| looks.iter().find(|look| look["id"] == id).unwrap();
    for id in ["daemon", "device", "ends", "local", "route", "far-end"] {
        assert_eq!(state(id)["state"], "ok", "{id}: {json:#}");
    }
    for id in ["black-hole", "far-forwarding"] {
        assert_eq!(state(id)["state"], "not-looked");
        assert!(state(id)["reason"].as_str().unwrap().contains("try sudo"), "{json:#}");
    }
    assert_eq!(state("input-rules")["state"], "not-looked");
    // And finds what anybody can see.
    lab.guide.linux1.delete_route("default", "via 100.0.1.1").unwrap();
    let output = lab.one.nobody("check --json");
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.stdout.contains("\"no-route\""), "{output}");
}

#[test]
fn a_definition_that_is_not_up_is_checked_by_its_file() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    // An /etc of this test alone.
    let file = node.file("tun0.toml", "local = \"203.0.113.5\"\nremote = \"100.0.2.100\"\n");
    let script = format!(
        "mount -t tmpfs none /etc && mkdir -p /etc/greway/tunnels.d && cp {file} /etc/greway/tunnels.d/ && \
         exec {} check --json tun0",
        super::support::GREWAY
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).env("GREWAY_SOCKET", node.socket());
    let output = guide.linux1.output(&mut command).unwrap();
    let json: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let findings = json["tunnels"][0]["findings"].as_array().unwrap();
    let ids = findings.iter().map(|finding| finding["id"].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(ids, ["not-up", "local-not-here"], "{json:#}");
    assert_eq!(findings[0]["cure"][0]["command"], "greway up /etc/greway/tunnels.d/tun0.toml");
    assert_eq!(output.status.code(), Some(1));
}

/// Everything that a check could change.
fn snapshot(host: &Host) -> Vec<String> {
    let commands = [
        "ip -j -d link",
        "ip -j addr",
        "ip -j route show table all",
        "ip -j -6 route show table all",
        "ip -j rule",
        "ip xfrm policy",
        "ip xfrm state",
        "nft --stateless list ruleset",
        "iptables-legacy -S",
        "sysctl -a --pattern net[.](ipv4|ipv6|netfilter)[.].*(forward|rp_filter|mtu|accept|redirect|max|timeout)",
    ];
    commands.map(|command| program_of(host, command)).to_vec()
}

#[test]
fn a_check_changes_nothing() {
    require!(privilege::check());
    let (lab, _daemons) = Lab::up("key 42");
    let host = &lab.guide.linux1;
    host.route("10.10.2.0/24", "dev tun0").unwrap();
    host.forwarding(true).unwrap();
    nft(
        &lab.one,
        host,
        "table inet filter {
            chain input {
                type filter hook input priority 0
                ct state invalid drop
            }
        }",
    );
    program_of(host, "iptables-legacy -A FORWARD -p 47 -j ACCEPT");
    // Once, so that what the kernel learns of itself (a state of IPsec, a route's cache) is there before.
    check(&lab.one, "");
    let unchanged = |words: &str, code: i32| {
        let before = (snapshot(host), lab.one.belongings());
        let begin = Instant::now();
        let found = check(&lab.one, words);
        println!("greway check {words}: {:.1} s", begin.elapsed().as_secs_f64());
        assert_eq!(found.code, Some(code), "{:#}", found.json);
        let after = (snapshot(host), lab.one.belongings());
        for (before, after) in before.0.iter().zip(&after.0) {
            assert_eq!(before, after);
        }
        assert_eq!(before.1, after.1);
    };
    // linux2 does not forward, and that is found.
    unchanged("", 1);
    // In vain: the far end is gone, and every probe is made.
    lab.two.words("tunnel del tun0").ok();
    lab.one.words("tunnel del tun0").ok();
    lab.tunnel_on_one();
    host.route("10.10.2.0/24", "dev tun0").unwrap();
    unchanged("--to 10.10.2.100", 1);
    // Nobody was asked, so nobody is silent.
    unchanged("--no-probes", 0);
}

/// Interrupted in the middle of its probes, it leaves nothing either.
#[test]
fn a_check_that_is_interrupted_leaves_nothing() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    lab.tunnel_on_one();
    let host = &lab.guide.linux1;
    let sockets = || {
        let lines = ["packet", "raw"].map(|kind| program_of(host, &format!("cat /proc/net/{kind}")));
        lines.map(|text| text.lines().count()).to_vec()
    };
    // To look at legacy iptables loads its tables, and the daemon takes other sockets for them.
    snapshot(host);
    poll_until(SOON, "the raw socket", || {
        (lab.one.status()["tunnels"][0]["datapath"]["underlay"] == "raw").then_some(())
    })
    .unwrap();
    let before = (snapshot(host), sockets(), lab.one.belongings());
    let mut command = lab.one.command(&["check"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut check = lab.one.run(|| command.spawn()).unwrap();
    lab.one.watch(check.id());
    poll_until(SOON, "its probes", || (sockets() != before.1).then_some(())).unwrap();
    process::kill(check.id(), Signal::Interrupt).unwrap();
    let ended = poll_until(SOON, "its end", || check.try_wait().unwrap()).unwrap();
    assert!(!ended.success());
    let after = (snapshot(host), sockets(), lab.one.belongings());
    assert_eq!(before, after);
}

/// Finding, the file of the check's crate whose unit test makes it of facts, and why no real host does.
const OF_FACTS: [(&str, &str, &str); 2] = [
    ("kernel-tunnel", "kernel_gre.rs", "a kernel without ip_gre has no tunnels"),
    ("module-ip-gre", "kernel_gre.rs", "a kernel without ip_gre cannot load it"),
];

#[test]
fn every_finding_is_on_the_page_and_has_a_test_that_injects_its_fault() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
    let page = read(root.join("../../docs/check.md"));
    let tests = root.join("tests/check").read_dir().unwrap().map(|entry| read(entry.unwrap().path()));
    // The list of the exceptions is no test.
    let tests = tests
        .collect::<String>()
        .replace(&format!("({:?}", OF_FACTS[0].0), "")
        .replace(&format!("({:?}", OF_FACTS[1].0), "");
    // Of a file alone, before there is a tunnel to diagnose.
    let mut all = vec![("–", "definition-refused")];
    for diagnosis in greway_control::check::diagnosis::ALL {
        assert!(page.contains(&format!("| `{}` | `", diagnosis.id)), "{} is not on the page", diagnosis.id);
        all.extend(diagnosis.findings.iter().map(|finding| (diagnosis.id, *finding)));
    }
    for (diagnosis, finding) in &all {
        assert!(page.contains(&format!("`{finding}`")), "{diagnosis}: {finding} is not on the page");
        let of_facts = OF_FACTS.iter().find(|(id, ..)| id == finding);
        let named = match of_facts {
            Some((_, file, _)) => {
                let source = read(root.join("../greway-control/src/check/diagnosis").join(file));
                let unit = source.split_once("#[cfg(test)]").map(|(_, unit)| unit.to_owned());
                unit.is_some_and(|unit| unit.contains(&format!("{finding:?}")))
            }
            None => tests.contains(&format!("{finding:?}")),
        };
        assert!(named, "{diagnosis}: no test makes {finding}");
    }
    // And the page promises none that is not made.
    let findings =
        page.split_once("## What it finds").and_then(|(_, rest)| rest.split_once("\n## ")).unwrap().0;
    for row in findings.lines().filter(|line| line.starts_with("| ") && line.contains('`')) {
        let promised = row.split('|').nth(2).unwrap();
        for name in promised.split('`').skip(1).step_by(2) {
            assert!(all.iter().any(|(_, finding)| *finding == name), "{name}: {row}");
        }
    }
}
