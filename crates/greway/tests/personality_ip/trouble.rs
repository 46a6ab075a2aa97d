//! A daemon that is dead or hangs, a real tool that is missing or leads back, a user without privilege.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use greway_testbed::{Host, poll_until, privilege, require};

use crate::support::{Node, SOON};
use crate::{Shimmed, USUAL, real};

fn host() -> (Shimmed, Host) {
    let host = Host::new("host").unwrap();
    host.address("lo", "5.6.7.8/32").unwrap();
    (Shimmed::new(&host), host)
}

const ADD: &str = "tunnel add tun1 mode gre remote 1.2.3.4 local 5.6.7.8";

/// Signals a process that this test started.
fn signal(pid: u32, name: &str) {
    assert!(
        Command::new("/bin/kill").args([format!("-{name}"), pid.to_string()]).status().unwrap().success()
    );
}

#[test]
fn a_daemon_that_hangs_is_in_the_way_of_gre_commands_only() {
    require!(privilege::check());
    let (ours, _host) = host();
    let daemon = ours.node.daemon();
    ours.ip(ADD).ok();
    signal(daemon.pid(), "STOP");
    let fails = ours.ip("tunnel add tun2 mode gre remote 1.2.3.5");
    // What else is asked reads files only, or is the real tool's.
    let shown = ours.ip("tunnel show");
    let details = ours.ip("-d link show tun1");
    let foreign = ours.ip("route add 10.0.0.0/8 dev tun1");
    signal(daemon.pid(), "CONT");
    assert_eq!(fails.code, Some(1), "{fails}");
    assert!(fails.waited.contains("ip: greway: waiting for an answer of the greway daemon\n"), "{fails}");
    assert!(fails.stderr.contains("did not answer"), "{fails}");
    assert!(shown.ok().stdout.starts_with("tun1: gre/ip "));
    assert!(details.ok().stdout.contains("    gre remote 1.2.3.4 "));
    foreign.ok();
}

#[test]
fn with_the_daemon_dead_all_but_changes_goes_on_and_they_bring_it_back() {
    require!(privilege::check());
    let (ours, _host) = host();
    let daemon = ours.node.daemon();
    ours.ip(ADD).ok();
    daemon.kill();
    let socket = ours.node.socket();
    assert!(ours.ip("tunnel show").ok().stdout.starts_with("tun1: gre/ip "));
    ours.ip("route add 10.0.0.0/8 dev tun1").ok();
    assert!(ours.ip("-d link show type gre").ok().stdout.contains("gre remote 1.2.3.4 "));
    assert!(std::os::unix::net::UnixStream::connect(&socket).is_err(), "nobody was started for that");
    ours.ip("tunnel change tun1 ttl 9").ok();
    assert!(ours.ip("tunnel show").ok().stdout.contains(" ttl 9"));
    ours.node.greway(&["daemon", "--stop"]).ok();
    assert!(ours.node.links().is_empty());
}

#[test]
fn where_no_daemon_can_be_started_it_is_said() {
    require!(privilege::check());
    let (ours, _host) = host();
    // A file where a directory would have to be.
    let mut command = ours.shell(&format!("ip {ADD}; echo $?; ip link show lo >/dev/null; echo $?"));
    command.env("GREWAY_SOCKET", ours.node.file("file", "") + "/greway.sock");
    let output = ours.node.execute(command);
    assert_eq!(output.stdout, "1\n0\n", "{output}");
    assert!(output.stderr.starts_with("ip: greway: cannot make "), "{output}");
    assert!(ours.node.links().is_empty());
}

#[test]
fn a_wrapper_that_leads_back_is_found_out() {
    require!(privilege::check());
    let (ours, _host) = host();
    let wrapper = ours.node.file("wrapper/ip", "#!/bin/sh\nexec ip \"$@\"\n");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}:{USUAL}", ours.bin.display(), ours.node.folder().join("wrapper").display());
    let output = ours.node.execute(ours.shell_with_path(&path, "ip link show lo"));
    assert_eq!((output.code, output.stdout.as_str()), (Some(127), ""), "{output}");
    assert!(
        output.stderr.contains("ip called itself 16 times over") && output.stderr.contains(&wrapper),
        "{output}"
    );
    // Named, the real one is found past it.
    ours.node.file("greway.toml", &format!("[tools]\nip = \"{}\"\n", crate::REAL));
    ours.node.execute(ours.shell_with_path(&path, "ip link show lo")).ok();
    // A wrapper that leads on is none.
    ours.node.file("greway.toml", "");
    fs::write(&wrapper, format!("#!/bin/sh\nexec {} \"$@\"\n", crate::REAL)).unwrap();
    let output = ours.node.execute(ours.shell_with_path(&path, "ip link show lo")).ok();
    assert_eq!(output.stdout, real(&ours.node, "ip link show lo").stdout);
}

/// Without the real tool GRE works all the same, and the rest says what is missing.
#[test]
fn without_the_real_tool() {
    require!(privilege::check());
    let (ours, _host) = host();
    let _daemon = ours.node.daemon();
    let hide = "for tool in $(readlink -f /usr/sbin/ip) $(readlink -f /bin/ip); do mount --bind /dev/null $tool; done";
    let script = format!(
        "{hide}\nip link show lo; echo $?\nip {ADD}; echo $?\nip tunnel show\nip tunnel del tun1\nip {ADD} key x; echo $?"
    );
    let output = ours.node.execute(ours.shell(&format!("exec unshare -m sh -c '{script}'")));
    let shown = "127\n0\ntun1: gre/ip remote 1.2.3.4 local 5.6.7.8 ttl inherit\n255\n";
    assert_eq!(output.stdout, shown, "{output}");
    assert!(
        output.stderr.starts_with("ip: greway: there is no other ip than this one in PATH or "),
        "{output}"
    );
    assert!(output.stderr.ends_with("it should be an unsigned integer\n"), "{output}");
}

#[test]
fn a_user_without_privilege_may_look_and_not_touch() {
    require!(privilege::check());
    use std::os::unix::process::CommandExt;
    let (ours, host) = host();
    let _daemon = ours.node.daemon();
    ours.ip(ADD).ok();
    let nobody = |words: &str| {
        let mut command = ours.shell(&format!("ip {words}"));
        command.uid(65_534).gid(65_534);
        ours.node.execute(command)
    };
    assert!(nobody("tunnel show").ok().stdout.starts_with("tun1: gre/ip "));
    assert!(nobody("-d link show tun1").ok().stdout.contains("gre remote"));
    let refused = nobody("tunnel add tun2 mode gre remote 1.2.3.5");
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(
        refused.stderr.starts_with("add tunnel \"gre0\" failed: Operation not permitted\nip: greway: "),
        "{refused}"
    );
    let refused = nobody("link del tun1");
    assert!(refused.stderr.starts_with("RTNETLINK answers: Operation not permitted\n"), "{refused}");
    assert_eq!(refused.code, Some(2));
    assert!(Node::by_namespace(&host).link("tun1").is_some());
}

/// A device that NetworkManager's watcher announced is waited for; one that nobody announced is not.
#[test]
fn an_announced_device_is_waited_for() {
    require!(privilege::check());
    let (ours, host) = host();
    let add = "ip addr add 172.16.0.1/30 dev tun9";
    let refused = ours.sh(add);
    assert_eq!((refused.code, refused.stderr.as_str()), (Some(1), "Cannot find device \"tun9\"\n"));
    let announced = ours.node.file("pending/tun9", "");
    let mut command = ours.shell(&format!("exec {add}"));
    command.stderr(std::process::Stdio::piped());
    let mut child = ours.node.run(|| command.spawn()).unwrap();
    ours.node.watch(child.id());
    // It sleeps in our program, and has not become the real one.
    let about = |file: &str| format!("/proc/{}/{file}", child.id());
    let waits = poll_until(SOON, "a shim that waits", || {
        let is_ours = fs::read_link(about("exe")).is_ok_and(|program| program.ends_with("greway"));
        let sleeps = fs::read_to_string(about("stat")).is_ok_and(|stat| stat.contains(") S "));
        (is_ours && sleeps).then_some(())
    });
    waits.unwrap();
    real(&ours.node, "ip link add tun9 type veth peer gw-tun9 && ip link set tun9 up").ok();
    fs::remove_file(announced).unwrap();
    let ended = poll_until(SOON, "the end of it", || child.try_wait().unwrap()).unwrap();
    assert!(ended.success(), "{ended}");
    let index = host.index("tun9").unwrap();
    let addresses = host.netlink().unwrap().addresses(Some(index)).unwrap();
    assert!(addresses.iter().any(|entry| entry.address.to_string() == "172.16.0.1/30"), "{addresses:?}");
}
