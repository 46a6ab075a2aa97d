//! The binary called as `nmcli`: where there is no other nmcli it serves GRE profiles, where there is one it becomes
//! that one. Texts and exit codes were taken from NetworkManager 1.42.4.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use greway_testbed::{PingOptions, guide, ping, privilege, require};
use support::{Node, Output, two_hosts};

fn root(node: &Node) -> PathBuf {
    node.folder().join("root")
}

fn command(node: &Node, words: &[&str]) -> std::process::Command {
    let mut command = node.command(words);
    command.arg0("nmcli").env("GREWAY_ROOT", root(node)).env("GREWAY_CONFIG", "/dev/null");
    command
}

/// nmcli, `_` standing for a blank inside of a word.
fn nmcli(node: &Node, line: &str) -> Output {
    let words = line.split_whitespace().map(|word| word.replace('_', " ")).collect::<Vec<_>>();
    node.execute(command(node, &words.iter().map(String::as_str).collect::<Vec<_>>()))
}

#[track_caller]
fn says(output: Output, stdout: &str, stderr: &str, code: i32) {
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str(), output.code),
        (stdout, stderr, Some(code)),
        "{output}"
    );
}

/// The tests of an absent NetworkManager are for hosts without it.
fn absent() -> Result<(), String> {
    privilege::check().map_err(|missing| missing.to_string())?;
    match Path::new("/usr/bin/nmcli").exists() {
        true => Err("NetworkManager is installed here".to_owned()),
        false => Ok(()),
    }
}

/// The guide's command for linux1 (0) or linux2 (1).
fn guide_line(end: usize) -> String {
    let (outer, inner) = (guide::OUTER, guide::INNER);
    format!(
        "connection add con-name tun0 ifname tun0 type ip-tunnel mode gre ip-tunnel.remote {} ip-tunnel.local {} \
         ipv4.method manual ipv4.addresses {}/30",
        outer[1 - end],
        outer[end],
        inner[end]
    )
}

#[test]
fn the_guides_command_brings_the_tunnel_up() {
    require!(absent());
    let lab = two_hosts();
    let _daemons = (lab.one.daemon(), lab.two.daemon());
    for (end, node) in [&lab.one, &lab.two].into_iter().enumerate() {
        let said = nmcli(node, &guide_line(end)).ok();
        let uuid = said
            .stdout
            .strip_prefix("Connection 'tun0' (")
            .and_then(|rest| rest.strip_suffix(") successfully added.\n"));
        assert_eq!(uuid.map(str::len), Some(36), "{said}");
        // The next line of the guide finds the device.
        assert!(node.link("tun0").unwrap().up);
    }
    let report = ping(&lab.guide.linux1, guide::INNER[1].into(), &PingOptions::default()).unwrap();
    assert!(report.complete(), "{report}");
    let uuid = nmcli(&lab.one, "-g connection.uuid c show tun0").ok().stdout;
    let uuid = uuid.trim();
    says(
        nmcli(&lab.one, "c"),
        &format!(
            "NAME  UUID                                  TYPE       DEVICE \ntun0  {uuid}  ip-tunnel  tun0   \n"
        ),
        "",
        0,
    );
    says(nmcli(&lab.one, "-t c show --active"), &format!("tun0:{uuid}:ip-tunnel:tun0\n"), "", 0);
    says(nmcli(&lab.one, "c down tun0"), "Connection 'tun0' successfully deactivated (by greway)\n", "", 0);
    assert!(lab.one.link("tun0").is_none());
    let not_active = "Error: 'tun0' is not an active connection.\nError: no active connection provided.\n";
    says(nmcli(&lab.one, "c down tun0"), "", not_active, 10);
    // greway itself finds the profile by its name, and nmcli sees what greway brought up.
    let mut up = lab.one.command(&["up", "tun0"]);
    up.env("GREWAY_ROOT", root(&lab.one));
    lab.one.execute(up).ok();
    says(nmcli(&lab.one, "-g name,device c"), "tun0:tun0\n", "", 0);
    says(
        nmcli(&lab.one, &format!("c delete uuid {uuid}")),
        &format!("Connection 'tun0' ({uuid}) successfully deleted.\n"),
        "",
        0,
    );
    assert!(lab.one.link("tun0").is_none());
    assert_eq!(fs::read_dir(root(&lab.one).join("etc/greway/tunnels.d")).unwrap().count(), 0);
    assert!(lab.one.state_files().is_empty());
}

/// The sequence of the RHEL documentation: add with neither address nor method, modify, up.
#[test]
fn add_then_modify_then_up() {
    require!(absent());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    let add = "connection add type ip-tunnel ip-tunnel.mode gre con-name gre1 ifname gre1 remote 100.0.2.100 \
        local 100.0.1.100 autoconnect no";
    nmcli(&lab.one, add).ok();
    assert!(lab.one.link("gre1").is_none(), "autoconnect no");
    let before = nmcli(&lab.one, "-g connection.uuid c show gre1").ok().stdout;
    nmcli(&lab.one, "connection modify gre1 ipv4.addresses 10.0.1.1/30").ok();
    says(nmcli(&lab.one, "-g ipv4.method,ipv4.addresses c show gre1"), "auto\n10.0.1.1/30\n", "", 0);
    nmcli(&lab.one, "connection modify gre1 ipv4.method manual").ok();
    nmcli(&lab.one, "connection modify gre1 +ipv4.routes 192.0.2.0/24_10.0.1.2 ip-tunnel.ttl 64").ok();
    says(nmcli(&lab.one, "-g ipv4.routes c show gre1"), "192.0.2.0/24 10.0.1.2\n", "", 0);
    says(nmcli(&lab.one, "connection up gre1"), "Connection successfully activated (by greway)\n", "", 0);
    let index = lab.guide.linux1.index("gre1").unwrap();
    let addresses = lab.guide.linux1.netlink().unwrap().addresses(Some(index)).unwrap();
    assert!(addresses.iter().any(|entry| entry.address.to_string() == "10.0.1.1/30"), "{addresses:?}");
    assert_eq!(nmcli(&lab.one, "-g connection.uuid c show gre1").ok().stdout, before, "the uuid is kept");
    // A change is for the next time it comes up, and what is wrong changes nothing.
    let wrong =
        "Error: Failed to modify connection 'gre1': ip-tunnel.remote: 'foo' is not a valid IPv4 address\n";
    says(nmcli(&lab.one, "c mod gre1 ip-tunnel.ttl 9 ip-tunnel.remote foo"), "", wrong, 1);
    says(nmcli(&lab.one, "-g ip-tunnel.ttl,ip-tunnel.remote c show gre1"), "64\n100.0.2.100\n", "", 0);
    let range = "Error: failed to modify ip-tunnel.ttl: '500' is out of range [0, 255].\n";
    says(nmcli(&lab.one, "c modify gre1 ip-tunnel.ttl 500"), "", range, 2);
    let up =
        "Error: Failed to modify connection 'gre1': gre1 is up; take it down before it gets another name\n";
    says(nmcli(&lab.one, "c modify gre1 ifname gre2"), "", up, 1);
    let temporary =
        "Error: Failed to modify connection 'gre1': '--temporary' needs NetworkManager; leave it out\n";
    says(nmcli(&lab.one, "c modify --temporary gre1 ip-tunnel.ttl 9"), "", temporary, 1);
    says(nmcli(&lab.one, "-g ip-tunnel.ttl c show gre1"), "64\n", "", 0);
    nmcli(&lab.one, "c down gre1").ok();
    nmcli(&lab.one, "c modify gre1 ifname gre2 con-name new_name").ok();
    let names = fs::read_dir(root(&lab.one).join("etc/greway/tunnels.d")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>();
    assert_eq!(names, ["gre2.toml"]);
    says(nmcli(&lab.one, "-t -f NAME,DEVICE,AUTOCONNECT c"), "new name::no\n", "", 0);
}

#[test]
fn a_tunnel_of_the_same_name_from_elsewhere_is_not_the_profiles() {
    require!(absent());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    nmcli(&lab.one, &format!("{} autoconnect no", guide_line(0))).ok();
    lab.one.words("tunnel add tun0 mode gre local 100.0.1.100 remote 100.0.2.100").ok();
    says(nmcli(&lab.one, "-g name,device c"), "tun0:\n", "", 0);
    let not_active = "Error: 'tun0' is not an active connection.\nError: no active connection provided.\n";
    says(nmcli(&lab.one, "c down tun0"), "", not_active, 10);
    nmcli(&lab.one, "c delete tun0").ok();
    assert!(lab.one.link("tun0").is_some(), "it is not the profile's");
    lab.one.words("tunnel del tun0").ok();
}

#[test]
fn errors_and_what_is_not_ours() {
    require!(absent());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    let not_running = "Error: NetworkManager is not running.\n";
    for line in [
        "general",
        "d",
        "",
        "c reload",
        "c add type bridge ifname br0",
        "r wifi on",
        "-v",
        "c add type ip-tunnel ifname t mode ipip remote 1.2.3.4",
        "c up help",
    ] {
        says(nmcli(&lab.one, line), "", not_running, 8);
    }
    let add = "c add con-name tun0 ifname tun0 type ip-tunnel mode gre";
    for (line, text, code) in [
        (
            format!("{add} remote foo"),
            "Failed to add 'tun0' connection: ip-tunnel.remote: 'foo' is not a valid IPv4 address",
            4,
        ),
        (add.to_owned(), "'remote' argument is required.", 2),
        (
            format!("{add} remote 1.2.3.4 ip-tunnel.ttl 300"),
            "failed to modify ip-tunnel.ttl: '300' is out of range [0, 255].",
            2,
        ),
        (
            format!("{add} remote 1.2.3.4 ipv4.method manual"),
            "Failed to add 'tun0' connection: ipv4.addresses: this property cannot be empty for 'method=manual'",
            4,
        ),
        (
            format!("{add} remote 1.2.3.4 ipv4.dns 8.8.8.8"),
            "Failed to add 'tun0' connection: ipv4.dns \"8.8.8.8\" cannot be honoured for a tunnel of greway's; leave it out",
            4,
        ),
        (
            "c add type ip-tunnel mode gre remote 1.2.3.4".to_owned(),
            "Failed to add 'ip-tunnel' connection: connection.interface-name: property is missing",
            4,
        ),
        (
            format!("{add} remote 1.2.3.4 save no"),
            "Failed to add 'tun0' connection: 'save no' needs NetworkManager; leave it out",
            4,
        ),
        ("c up nosuch".to_owned(), "unknown connection 'nosuch'.", 10),
        ("c show nosuch".to_owned(), "nosuch - no such connection profile.", 10),
        ("c modify nosuch ip-tunnel.ttl 5".to_owned(), "unknown connection 'nosuch'.", 10),
    ] {
        says(nmcli(&lab.one, &line), "", &format!("Error: {text}\n"), code);
    }
    let gone =
        "Error: unknown connection 'nosuch'.\nError: cannot delete unknown connection(s): uuid 'nosuch'.\n";
    says(nmcli(&lab.one, "c delete uuid nosuch"), "", gone, 10);
    assert!(!root(&lab.one).exists(), "nothing was written");
    // Names that are taken.
    nmcli(&lab.one, "c add type ip-tunnel ifname t1 mode gre remote 100.0.2.100 autoconnect no").ok();
    nmcli(
        &lab.one,
        "c add type ip-tunnel ifname t2 con-name ip-tunnel-t1 mode gre remote 100.0.2.100 autoconnect no",
    )
    .ok()
    .remarks(&["Warning: There is another connection with the name 'ip-tunnel-t1'."]);
    let twice = nmcli(&lab.one, "c add type ip-tunnel ifname t1 mode gre remote 100.0.2.100 autoconnect no");
    assert!(
        twice.stderr.starts_with("Error: Failed to add 'ip-tunnel-t1-1' connection: tunnel t1"),
        "{twice}"
    );
    assert_eq!(twice.code, Some(4));
    // A file of somebody else's is not nmcli's to change.
    let own = root(&lab.one).join("etc/greway/tunnels.d/own.toml");
    fs::write(&own, "remote = \"100.0.2.100\"\n").unwrap();
    says(
        nmcli(&lab.one, "c delete own"),
        "",
        "Error: unknown connection 'own'.\nError: cannot delete unknown connection(s): 'own'.\n",
        10,
    );
    assert!(own.exists());
}

#[test]
fn offline_prints_the_keyfile() {
    require!(absent());
    let lab = two_hosts();
    let line = format!("--offline {} connection.uuid d3e46929-43bb-4d32-9acc-f8460d0e955a", guide_line(0));
    let said = nmcli(&lab.one, &line).ok();
    assert!(said.stdout.contains("\n[ip-tunnel]\nlocal=100.0.1.100\nmode=2\nremote=100.0.2.100\n"), "{said}");
    assert!(!root(&lab.one).exists());
    let wrong = "--offline c a type ip-tunnel ifname t mode gre remote any";
    says(
        nmcli(&lab.one, wrong),
        "",
        "Error: Error writing connection: ip-tunnel.remote: 'any' is not a valid IPv4 address\n",
        1,
    );
    says(nmcli(&lab.one, "--offline c show"), "", "Error: command doesn't support --offline mode.\n", 2);
}

/// Another nmcli is there: it gets the words as they are, and its answer is ours.
#[test]
fn where_there_is_another_nmcli_it_is_that_one() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    let bin = lab.one.folder().join("bin");
    fs::create_dir(&bin).unwrap();
    let log = lab.one.folder().join("calls");
    // It makes the device of a profile a moment after it has returned, as NetworkManager and the adoption do.
    let script = format!(
        "#!/bin/sh\necho \"$@\" >>{}\ncase \"$*\" in\n*nosuch*) echo no >&2; exit 10 ;;\n\
         *-g*show*) printf 'ip-tunnel\\ngre\\ntun0\\n' ;;\n\
         *add*|*up*) (sleep 0.3; exec ip link add tun0 up type veth peer name peer0) >/dev/null 2>&1 & echo added ;;\nesac\n",
        log.display()
    );
    fs::write(bin.join("nmcli"), script).unwrap();
    fs::set_permissions(bin.join("nmcli"), fs::Permissions::from_mode(0o755)).unwrap();
    let run = |line: &str| {
        let mut command = command(&lab.one, &line.split_whitespace().collect::<Vec<_>>());
        command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()));
        lab.one.execute(command)
    };
    says(run(&guide_line(0)), "added\n", "", 0);
    assert!(lab.one.link("tun0").is_some_and(|link| link.up), "the device was waited for");
    let index = lab.one.link("tun0").unwrap().index;
    lab.guide.linux1.netlink().unwrap().delete_link(index).unwrap();
    says(run("c up tun0"), "added\n", "", 0);
    assert!(lab.one.link("tun0").is_some_and(|link| link.up), "the device was waited for");
    says(run("-t general nosuch"), "", "no\n", 10);
    says(run("c up nosuch"), "", "no\n", 10);
    let calls = fs::read_to_string(&log).unwrap();
    let calls = calls.lines().collect::<Vec<_>>();
    assert_eq!(calls[0], guide_line(0));
    assert_eq!(calls[3..], ["-t general nosuch", "c up nosuch"]);
    assert!(!root(&lab.one).exists() && lab.one.state_files().is_empty(), "nothing of it is greway's");
}
