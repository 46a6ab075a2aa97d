//! NetworkManager's dialects: golden cases by number against the reader here and, where there is one, against
//! the real `nmcli --offline`, which prints the keyfile that it would store; round trips over all tunnels that
//! NetworkManager has words for; refusals with their places.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use greway_dialects::networkmanager::nmcli::{self, Refusal};
use greway_dialects::networkmanager::{Dhcp, Identity, Profile, keyfile, without_peers};
use greway_spec::{Draft, DraftAddress, DraftRoute, FlowLabel, Mode, Origin, Tos, Ttl, TunnelSpec};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

mod command_lines;
mod keyfiles;
mod rendered;

const UUID: &str = "d3e46929-43bb-4d32-9acc-f8460d0e955a";
const GUIDE: &str = "connection add con-name tun0 ifname tun0 type ip-tunnel mode gre \
    ip-tunnel.remote 100.0.2.100 ip-tunnel.local 100.0.1.100 ipv4.method manual ipv4.addresses 172.16.0.1/30";

/// The real nmcli: the one that is installed, or the one that `cargo xtask test` unpacked beside the build.
fn real_nmcli() -> Option<Command> {
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../peers/networkmanager");
    let program = unpacked.join("usr/bin/nmcli");
    let mut command = if program.is_file() {
        let mut command = Command::new(program);
        command
            .env("LD_LIBRARY_PATH", unpacked.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH)));
        command
    } else if Path::new("/usr/bin/nmcli").is_file() {
        Command::new("/usr/bin/nmcli")
    } else {
        return None;
    };
    command.env("LC_ALL", "C.UTF-8");
    Some(command)
}

/// What a command line comes to.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    stdout: String,
    stderr: String,
    code: i32,
}

/// The real nmcli's answer, its random uuid replaced.
fn real(words: &[&str]) -> Option<Answer> {
    let output = real_nmcli()?.arg("--offline").args(words).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let own = |line: &str| {
        if line.starts_with("uuid=") && !words.iter().any(|word| word.contains("uuid")) {
            format!("uuid={UUID}\n")
        } else {
            format!("{line}\n")
        }
    };
    let stdout = stdout.lines().map(own).collect();
    let stderr = String::from_utf8(output.stderr).unwrap();
    Some(Answer { stdout, stderr, code: output.status.code().unwrap_or(-1) })
}

/// Ours, as the personality gives it offline.
fn ours(words: &[&str]) -> Answer {
    let refused = |refusal: Refusal| Answer {
        stdout: String::new(),
        stderr: format!("{}\n", refusal.text),
        code: refusal.code.into(),
    };
    let words = ["--offline"].iter().chain(words).collect::<Vec<_>>();
    match nmcli::parse(&words) {
        Err(refusal) => refused(refusal),
        Ok(nmcli::Invocation { command: nmcli::Command::Add(add), .. }) => {
            let mut profile = add.profile;
            if profile.uuid().is_none() {
                profile.assign("connection", "uuid", UUID).unwrap();
            }
            match profile.verified() {
                Err(wrong) => refused(Refusal::new(format!("Error writing connection: {wrong}"), 1)),
                Ok(()) => Answer { stdout: keyfile::emit(&profile), stderr: String::new(), code: 0 },
            }
        }
        Ok(other) => panic!("{other:?}"),
    }
}

/// Says, once, that nothing was held against the real one.
fn without_it() {
    static SAID: std::sync::Once = std::sync::Once::new();
    SAID.call_once(|| {
        eprintln!(
            "not run: networkmanager: there is no nmcli to compare with; `cargo xtask test` unpacks one"
        );
    });
}

/// Holds ours against the real one.
#[track_caller]
fn same(words: &[&str]) -> Answer {
    let ours = ours(words);
    match real(words) {
        Some(real) => assert_eq!(ours, real, "nmcli --offline {words:?}"),
        None => without_it(),
    }
    ours
}

/// `c a type ip-tunnel ifname tun0` and these words, `_` standing for a blank inside of one.
#[track_caller]
fn add(words: &str) -> Answer {
    let line = format!("c a type ip-tunnel ifname tun0 {words}");
    let words = line.split_whitespace().map(|word| word.replace('_', " ")).collect::<Vec<_>>();
    same(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

#[track_caller]
fn refused(words: &str, text: &str, code: i32) {
    let answer = add(words);
    assert_eq!((answer.stderr.as_str(), answer.code), (format!("Error: {text}\n").as_str(), code), "{words}");
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn profile_of(line: &str) -> Profile {
    match nmcli::parse(&words(line)).unwrap().command {
        nmcli::Command::Add(add) => add.profile,
        other => panic!("{other:?}"),
    }
}

fn spec_of(line: &str) -> TunnelSpec {
    profile_of(line).draft("nmcli", Dhcp::LeftOut).unwrap().0.into_spec().unwrap()
}
