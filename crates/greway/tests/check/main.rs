//! `greway check`: each fault is made on real hosts and must be found, with the command that cures it; and set-ups
//! that work must give no alarm. Where a cure can be typed, it is, and the fault must be gone.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../support/pair.rs"]
mod pair;
#[path = "../support/mod.rs"]
mod support;

mod far_end;
mod firewalls;
mod forwarding;
mod healthy;
mod here;
mod remains;
mod report;
mod six;

use std::process::Command;

use greway_testbed::Host;
use serde_json::Value;

use support::{Lab, Node, Output};

/// What `greway check` said.
struct Check {
    json: Value,
    code: Option<i32>,
}

/// Runs `greway check --json` with these words.
#[track_caller]
fn check(node: &Node, words: &str) -> Check {
    let output = node.words(&format!("check --json {words}"));
    Check { json: parse(&output), code: output.code }
}

#[track_caller]
fn parse(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output}"))
}

impl Check {
    /// The findings of all tunnels.
    fn findings(&self) -> Vec<&Value> {
        let tunnels = self.json["tunnels"].as_array().unwrap();
        tunnels.iter().flat_map(|tunnel| tunnel["findings"].as_array().unwrap()).collect()
    }

    /// The names of what was found, remarks left out.
    fn ids(&self) -> Vec<&str> {
        let bad = self.findings().into_iter().filter(|finding| finding["severity"] != "note");
        bad.map(|finding| finding["id"].as_str().unwrap()).collect()
    }

    /// Exactly these must have been found, remarks left out, and the exit code says so.
    #[track_caller]
    fn found(&self, ids: &[&str]) -> &Self {
        assert_eq!(self.ids(), ids, "{:#}", self.json);
        assert_eq!(self.code, Some(i32::from(!ids.is_empty())), "{:#}", self.json);
        assert_eq!(self.json["found"], !ids.is_empty());
        self
    }

    /// Nothing may have been found, not even a remark, and nothing left unlooked at but these.
    #[track_caller]
    fn healthy(&self, not_looked: &[&str]) {
        assert_eq!(self.findings(), Vec::<&Value>::new(), "{:#}", self.json);
        assert_eq!(self.code, Some(0));
        let looks = self.json["tunnels"][0]["looks"].as_array().unwrap();
        let skipped = looks.iter().filter(|look| look["state"] == "not-looked");
        let skipped = skipped.map(|look| look["id"].as_str().unwrap()).collect::<Vec<_>>();
        // A host behind the far end is asked only where it is named.
        let mut expected = not_looked.to_vec();
        expected.push("destination");
        for id in &skipped {
            assert!(expected.contains(id), "{id}: {:#}", self.json);
        }
    }

    /// One finding, remarks too.
    #[track_caller]
    fn finding(&self, id: &str) -> &Value {
        let found = self.findings().into_iter().find(|finding| finding["id"] == id);
        found.unwrap_or_else(|| panic!("no {id}: {:#}", self.json))
    }

    /// A finding's sentence and evidence must have these words in them.
    #[track_caller]
    fn says(&self, id: &str, words: &[&str]) -> &Self {
        let finding = self.finding(id);
        let text = format!("{} {}", finding["sentence"], finding["evidence"]);
        for word in words {
            assert!(text.contains(word), "no `{word}`: {finding:#}");
        }
        self
    }

    /// How much a finding matters: `stops`, `hinders` or `note`.
    #[track_caller]
    fn is(&self, id: &str, severity: &str) -> &Self {
        assert_eq!(self.finding(id)["severity"], severity, "{:#}", self.json);
        self
    }

    /// The commands that cure a finding, for a place.
    #[track_caller]
    fn cures(&self, id: &str, place: &str) -> Vec<String> {
        let cures = self.finding(id)["cure"].as_array().unwrap();
        let there = cures.iter().filter(|cure| cure["where"] == place);
        there.map(|cure| cure["command"].as_str().unwrap().to_owned()).collect()
    }
}

/// Types a command of a cure into a shell of a host, as it is printed. This greway is first in its PATH, as itself
/// and as `ip`; it must succeed.
#[track_caller]
fn type_in(node: &Node, host: &Host, command: &str) {
    let programs = node.folder().join("bin");
    if !programs.exists() {
        std::fs::create_dir(&programs).unwrap();
        for name in ["greway", "ip"] {
            std::os::unix::fs::symlink(support::GREWAY, programs.join(name)).unwrap();
        }
    }
    let path = std::env::var("PATH").unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).env("PATH", format!("{}:{path}", programs.display()));
    shell.env("GREWAY_SOCKET", node.socket());
    let output = host.output(&mut shell).unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {command}: {out}{err}", host.name());
}

/// Runs a program of the system inside a host; it must succeed.
#[track_caller]
fn program_of(host: &Host, line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap();
    let output = host.output(Command::new(program).args(words)).unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {line}: {out}{err}", host.name());
    out.into_owned()
}

/// A file of nft, loaded into a host.
#[track_caller]
fn nft(node: &Node, host: &Host, text: &str) {
    let path = node.file("rules.nft", text);
    program_of(host, &format!("nft -f {path}"));
}

impl Lab {
    /// Both hosts with daemons, the tunnel and inner addresses, and IPv6 silent.
    fn up(words: &str) -> (Self, [support::Daemon; 2]) {
        let lab = support::two_hosts();
        for host in lab.guide.hosts() {
            for scope in ["all", "default"] {
                host.sysctl(&format!("ipv6/conf/{scope}/disable_ipv6"), "1").unwrap();
            }
        }
        let daemons = [lab.one.daemon(), lab.two.daemon()];
        lab.tunnel(words);
        (lab, daemons)
    }
}
