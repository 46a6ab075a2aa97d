//! `greway shim install|status|remove`, with an /etc and a /usr/local/sbin of the test's own.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::process::{Command, Stdio};

use greway_testbed::{Host, privilege, require};
use serde_json::Value;
use support::{GREWAY, Node, Output};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a script in a mount namespace where /etc and /usr/local are empty; `greway` is the binary under test.
fn sh(node: &Node, script: &str) -> Output {
    let set_up = format!(
        "mount -t tmpfs etc /etc && mount -t tmpfs local /usr/local && mkdir /usr/local/sbin /usr/local/bin\n\
         greway() {{ {GREWAY} \"$@\"; }}\n{script}"
    );
    let mut command = Command::new("/usr/bin/unshare");
    command.args(["--mount", "sh", "-c", &set_up]).env_clear().env("PATH", PATH).stdin(Stdio::null());
    node.execute(command)
}

fn host() -> (Node, Host) {
    let host = Host::new("host").unwrap();
    (Node::new(&host), host)
}

#[test]
fn installed_listed_and_removed_without_a_trace() {
    require!(privilege::check());
    let (node, _host) = host();
    let script = "
        greway shim install ip
        readlink /usr/local/sbin/ip
        cat /etc/greway/shims
        command -v ip
        ip -V >/dev/null && echo works
        greway shim install ip
        greway shim status | grep '^ip '
        greway shim remove
        ls -A /usr/local/sbin /etc
        greway shim remove
        hash -r; command -v ip";
    let done = sh(&node, script).ok();
    let real = sh(&node, "command -v ip").ok().stdout;
    let expected = format!(
        "/usr/local/sbin/ip now leads to {GREWAY}\n{GREWAY}\n/usr/local/sbin/ip\n/usr/local/sbin/ip\nworks\n\
         /usr/local/sbin/ip is there already\nip      shim /usr/local/sbin/ip; real: {real}\
         removed /usr/local/sbin/ip\n/etc:\n\n/usr/local/sbin:\nthere is no shim to remove\n{real}"
    );
    assert_eq!(done.stdout, expected, "{done}");
    assert!(done.stderr.contains("`hash -r`"), "{done}");
}

#[test]
fn all_of_them_or_those_that_are_named() {
    require!(privilege::check());
    let (node, _host) = host();
    let script = "
        greway shim install >/dev/null
        (cd /usr/local/sbin; echo *)
        greway shim remove nmcli ifup >/dev/null
        (cd /usr/local/sbin; echo *)
        mkdir /usr/local/other
        greway shim install ip --dir /usr/local/other >/dev/null
        cat /etc/greway/shims
        greway shim remove ip --dir /usr/local/other
        greway shim remove
        ls -A /usr/local/sbin /usr/local/other";
    let done = sh(&node, script).ok();
    let lines = done.stdout.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect::<Vec<_>>();
    let expected = [
        "ifdown ifup ip nmcli",
        "ifdown ip",
        "/usr/local/other/ip",
        "/usr/local/sbin/ifdown",
        "/usr/local/sbin/ip",
        "removed /usr/local/other/ip",
        "removed /usr/local/sbin/ifdown",
        "removed /usr/local/sbin/ip",
        "/usr/local/other:",
        "/usr/local/sbin:",
    ];
    assert_eq!(lines, expected, "{done}");
}

#[test]
fn what_is_somebody_elses_stays() {
    require!(privilege::check());
    let (node, _host) = host();
    let script = "
        echo mine > /usr/local/sbin/nmcli
        greway shim install ip nmcli; echo $?
        ls /usr/local/sbin; ls -A /etc
        ln -s /opt/other/ip /usr/local/sbin/ip
        greway shim install ip; echo $?
        greway shim remove; cat /usr/local/sbin/nmcli; readlink /usr/local/sbin/ip
        rm /usr/local/sbin/*
        greway shim install ip >/dev/null; rm /usr/local/sbin/ip; echo theirs > /usr/local/sbin/ip
        greway shim remove; cat /usr/local/sbin/ip
        greway shim install ip --dir relative; echo $?";
    let done = sh(&node, script).ok();
    let expected = "1\nnmcli\n1\nthere is no shim to remove\nmine\n/opt/other/ip\n\
                    there is no shim to remove\ntheirs\n1\n";
    assert_eq!(done.stdout, expected, "{done}");
    for words in [
        "/usr/local/sbin/nmcli exists and is not greway's: nothing was installed",
        "/usr/local/sbin/ip exists and is not greway's",
        "--dir relative: an absolute path is right",
    ] {
        assert!(done.stderr.contains(words), "{words}: {done}");
    }
}

#[test]
fn a_link_that_leads_nowhere_is_told_of_and_mended() {
    require!(privilege::check());
    let (node, _host) = host();
    let script = "
        ln -s /gone/greway /usr/local/sbin/ip
        greway shim status | grep note: | grep mends
        greway shim install ip
        readlink /usr/local/sbin/ip";
    let done = sh(&node, script).ok();
    let expected = format!(
        "note: /usr/local/sbin/ip leads to /gone/greway, which is not there: `greway shim install ip` mends it\n\
         /usr/local/sbin/ip now leads to {GREWAY}\n{GREWAY}\n"
    );
    assert_eq!(done.stdout, expected, "{done}");
}

#[test]
fn status_says_who_goes_round() {
    require!(privilege::check());
    let (node, _host) = host();
    let script = "
        greway shim install ip >/dev/null 2>&1
        printf 'Defaults secure_path = /sbin:/bin\\n' > /etc/sudoers
        printf 'PATH=/sbin:/bin\\n' > /etc/crontab
        PATH=/usr/sbin:/usr/bin:/usr/local/sbin greway shim status --json";
    let done = sh(&node, script).ok();
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    let ip = report["tools"].as_array().unwrap().iter().find(|tool| tool["tool"] == "ip").unwrap();
    assert_eq!(ip["shims"][0], "/usr/local/sbin/ip", "{report}");
    assert_eq!((&ip["reaches_greway"], &ip["found"]), (&Value::Bool(false), &ip["real"]), "{report}");
    let warnings =
        report["warnings"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect::<Vec<_>>();
    for words in [
        "before /usr/local/sbin/ip: put /usr/local/sbin first",
        "by its path goes round the shim",
        "sudo looks in secure_path=/sbin:/bin, without /usr/local/sbin",
        "cron's jobs (/etc/crontab) have PATH=/sbin:/bin, without /usr/local/sbin",
    ] {
        assert!(warnings.iter().any(|warning| warning.contains(words)), "{words}: {warnings:?}");
    }
    // Without a shim nobody needs to know.
    let none = sh(&node, "printf 'Defaults secure_path = /bin\\n' > /etc/sudoers; greway shim status").ok();
    assert!(!none.stdout.contains("note:") && none.stdout.contains("ip      no shim; PATH finds "), "{none}");
}
