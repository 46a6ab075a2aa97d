//! Debian's own `ifup` (the package ifupdown), whose `inet tunnel` method calls `ip` by its name: with the shim it makes
//! tunnels on a kernel without GRE, from /etc/network/interfaces as people have it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use greway_testbed::{PingOptions, ping, privilege, require};

use crate::support::{Output, inner, two_hosts};
use crate::{REAL, Shimmed, USUAL};

/// The real program: the one that is installed, or the one that `cargo xtask test` unpacked beside the build.
fn ifupdown() -> Result<PathBuf, String> {
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../peers/ifupdown/sbin/ifup");
    let places = [unpacked, PathBuf::from("/usr/sbin/ifup"), PathBuf::from("/sbin/ifup")];
    let found = places.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| "there is no ifup of Debian; `cargo xtask test` unpacks it".to_owned())
}

/// /usr/local/sbin, where ifupdown's own PATH begins, with the shim in it; then the command. ifupdown hands nothing of
/// the environment on, so the lab's socket comes with the shim.
const STAGE: &str = r#"set -e
mount -t tmpfs tmpfs /usr/local/sbin
cp "$1" /usr/local/sbin/ip
chmod 755 /usr/local/sbin/ip
shift
exec "$@""#;

/// `ifup` or `ifdown` of tun0, verbose, with nothing of this machine's /etc/network.
fn run(host: &Shimmed, program: &Path, verb: &str, interfaces: &str) -> Output {
    let node = &host.node;
    let folder = node.folder().display().to_string();
    let file = node.file("interfaces", interfaces);
    let config = node.file("greway.toml", &format!("[tools]\nip = \"{REAL}\"\n"));
    let shim = node.file(
        "shim",
        &format!(
            "#!/bin/sh\nGREWAY_BACKEND=greway GREWAY_CONFIG={config} GREWAY_SOCKET={} exec {folder}/bin/ip \"$@\"\n",
            node.socket().display()
        ),
    );
    let state = format!("{folder}/ifstate");
    std::fs::create_dir_all(&state).unwrap();
    // It is `ifdown` when it is called so.
    let called = node.folder().join(verb);
    if !called.exists() {
        std::os::unix::fs::symlink(program, &called).unwrap();
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", STAGE, "stage"]).args([&shim]).arg(called);
    command.args(["-v", "--no-scripts", "--no-loopback", "--state-dir", &state, "-i", &file, "tun0"]);
    command.env_clear().env("PATH", USUAL).stdin(Stdio::null());
    node.execute(command)
}

fn stanza(address: &str, peer: &str, remote: &str, local: &str) -> String {
    format!(
        "iface tun0 inet tunnel\n  address {address}\n  netmask 255.255.255.252\n  mode gre\n  endpoint {remote}\n  \
         dstaddr {peer}\n  local {local}\n  ttl 64\n  mtu 1400\n"
    )
}

#[test]
fn g133_inet_tunnel_of_ifupdown_makes_the_tunnel_by_its_three_commands() {
    require!(privilege::check());
    require!(ifupdown().map(drop));
    let program = ifupdown().unwrap();
    let lab = two_hosts();
    let [one, two] = [Shimmed::new(&lab.guide.linux1), Shimmed::new(&lab.guide.linux2)];
    let here = stanza("172.16.0.1", "172.16.0.2", "100.0.2.100", "100.0.1.100");
    let there = stanza("172.16.0.2", "172.16.0.1", "100.0.1.100", "100.0.2.100");
    let up = run(&one, &program, "ifup", &here).ok();
    for command in [
        "ip tunnel add tun0 mode gre remote 100.0.2.100 local 100.0.1.100        ttl 64",
        "ip link set tun0 up mtu 1400",
        "ip addr add 172.16.0.1/255.255.255.252 dev tun0 peer 172.16.0.2",
    ] {
        assert!(up.stderr.contains(command), "{command}: {up}");
    }
    run(&two, &program, "ifup", &there).ok();
    let report = ping(&lab.guide.linux1, inner(1), &PingOptions::default()).unwrap();
    assert!(report.complete(), "{report}");
    one.ip("tunnel show tun0").ok().says(&["tun0: gre/ip remote 100.0.2.100 local 100.0.1.100 ttl 64"]);
    assert_eq!(one.node.mtu("tun0"), 1_400);
    run(&one, &program, "ifdown", &here).ok().remarks(&["ip tunnel del tun0"]);
    assert!(one.node.link("tun0").is_none() && one.node.state_files().is_empty());
}

#[test]
fn g134_a_prefix_length_without_a_netmask_is_ifupdowns_own_error() {
    require!(privilege::check());
    require!(ifupdown().map(drop));
    let program = ifupdown().unwrap();
    let lab = two_hosts();
    let one = Shimmed::new(&lab.guide.linux1);
    let wrong = stanza("172.16.0.1/30", "172.16.0.2", "100.0.2.100", "100.0.1.100")
        .replace("  netmask 255.255.255.252\n", "");
    let refused = run(&one, &program, "ifup", &wrong);
    assert_ne!(refused.code, Some(0), "{refused}");
    assert!(refused.stderr.contains("missing required variable: netmask"), "{refused}");
    assert!(one.node.link("tun0").is_none());
}
