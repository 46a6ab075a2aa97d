//! A whole Debian machine: it boots, does what it is told, reboots, has GRE in its kernel only when asked, and
//! leaves nothing.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use greway_testbed::qemu::{self, Image, Machine, MachineOptions};
use greway_testbed::{Error, poll_until, require};

const LONG: Duration = Duration::from_secs(120);

fn say(line: &str) {
    eprintln!("{line}");
}

/// Kept between runs, and shared with the other tests that boot machines.
fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("testbed")
}

#[test]
fn a_machine_boots_does_as_told_and_leaves_nothing() {
    require!(qemu::available());
    let image = Image::provide(&cache(), say);
    require!(image.as_ref());
    let options = MachineOptions {
        name: "gre".to_owned(),
        gre_modules: vec!["ip_gre".to_owned(), "ip6_gre".to_owned()],
        ..MachineOptions::default()
    };
    let mut machine = Machine::boot(&image.unwrap(), &options, LONG, say).unwrap();
    assert_eq!(machine.run("hostname; id -u; systemctl is-system-running").unwrap(), "gre\n0\nrunning\n");
    let output = machine.try_run("echo out; echo err >&2; printf end; exit 7", LONG).unwrap();
    assert_eq!((output.status, output.text.as_str()), (7, "out\nerr\nend"));
    assert_eq!(machine.try_run("kill -9 $$", LONG).unwrap().status, 137);
    let error = machine.run("false; echo not reached").unwrap_err();
    assert!(matches!(&error, Error::Guest { output, .. } if output.is_empty()), "{error}");

    // Bytes are bytes, and as many as there are.
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| ((number * 7) >> 3) as u8).collect();
    machine.put("/root/a b", 0o640, &bytes).unwrap();
    let text = machine.run("stat -c '%a %s' 'a b'; head -c 200000 /dev/zero | tr '\\0' x").unwrap();
    let (stat, rest) = text.split_once('\n').unwrap();
    assert_eq!((stat, rest.len()), ("640 3000000", 200_000));
    assert!(machine.put("/no/such/folder", 0o600, b"").is_err());

    // What is left in the background neither keeps a command from ending nor ends with it.
    machine.run("sleep 1000 & echo $! >pid").unwrap();
    machine.run("kill -0 $(cat pid)").unwrap();

    machine.run("ip link add gre1 type gre local 192.0.2.1 remote 192.0.2.2 key 1").unwrap();
    machine.run("modprobe -n ip_gre").unwrap_err();
    machine.run("for module in veth vrf 8021q esp4 sch_ingress dummy; do modprobe $module; done").unwrap();
    machine.reboot().unwrap();
    machine.booted(LONG, say).unwrap();
    // The disk stays; the kernel's state does not, but for what was asked for.
    machine.run("test -s 'a b'; ! ip link show gre1 2>/dev/null; grep -q '^ip6_gre ' /proc/modules").unwrap();

    let error = machine.try_run("echo so far; sleep 1000", Duration::from_secs(2)).unwrap_err();
    assert!(error.to_string().contains("it printed: so far"), "{error}");
    assert!(machine.run("true").is_err(), "what comes now belongs to nobody");
    let process = PathBuf::from(format!("/proc/{}", machine.process_id()));
    assert!(process.exists());
    drop(machine);
    poll_until(LONG, "the end of the process", || (!process.exists()).then_some(())).unwrap();
}
