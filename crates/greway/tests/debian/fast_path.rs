//! The fast path where the package is made for: Linux 6.1, systemd's bpffs, and the unit's sandbox.

use greway_testbed::guide::INNER;

use crate::lab::{Lab, say};

/// What `CapEff` of /proc/PID/status says of CAP_NET_ADMIN (12), CAP_NET_RAW (13), CAP_PERFMON (38) and CAP_BPF (39).
const CAPABILITIES: u64 = 1 << 12 | 1 << 13 | 1 << 38 | 1 << 39;

/// Succeeds where programs carry tun0.
const BY_PROGRAMS: &str = "greway status tun0 --json --no-echo | tr -d ' \\n' | grep -q '\"datapath\":\"ebpf\"' || { greway status tun0 --json --no-echo; false; }";

/// What is left in the bpffs of systemd's and at the devices: names of pins, and of filters.
const REMAINS: &str = "find /sys/fs/bpf/greway -mindepth 3 | sed 's|.*/||' | sort
tc filter show dev eth0 ingress | grep -o 'greway_[a-z]*'
tc filter show dev gw-tun0 ingress | grep -o 'greway_[a-z]*'";

/// linux1 and linux2 carry by programs, without CAP_SYS_ADMIN, and pins are where the next daemon looks for them.
pub(crate) fn pinned_by_the_service(lab: &mut Lab) {
    for machine in [0, 1] {
        lab.wait_for(machine, BY_PROGRAMS);
    }
    for release in lab.both("uname -r") {
        assert!(release.starts_with("6.1."), "the kernel of the machines: {release}");
    }
    for text in lab.both("awk '/^CapEff:/ { print $2 }' /proc/$(systemctl show -P MainPID greway)/status") {
        let capabilities = u64::from_str_radix(text.trim(), 16).unwrap();
        assert_eq!(capabilities, CAPABILITIES, "what the daemon may do: {text}");
    }
    let pinned = [
        "greway_counters",
        "greway_egress",
        "greway_ingress",
        "greway_local",
        "greway_slots",
        "greway_state",
        "greway_tunnels",
        "greway_underlay",
        "greway_overlay",
    ];
    for text in lab.both(REMAINS) {
        for name in pinned {
            assert!(text.lines().any(|line| line == name), "no {name} among pins and filters: {text}");
        }
    }
    // What is carried without the daemon is counted all the same, and found by the next one.
    let before = sent(lab);
    lab.run(
        0,
        &format!("systemctl kill --signal=STOP greway; ping -n -q -i 0.02 -c 50 -W 5 {} >pinged || true; systemctl kill --signal=CONT greway", INNER[1]),
    );
    let pinged = lab.run(0, "grep 'packets transmitted' pinged");
    assert!(pinged.contains(" 50 received"), "with the daemon stopped: {pinged}");
    let after = sent(lab);
    assert!(after >= before + 50, "sent {before} packets before and {after} after");
}

/// kill -9, and systemd starts it again: no packet is lost, and what was pinned is taken over.
pub(crate) fn survives(lab: &mut Lab) {
    let before = sent(lab);
    let pid = lab.run(0, "systemctl show -P MainPID greway");
    lab.run(0, &format!("ping -n -q -i 0.02 -c 250 -W 5 {} >pinged 2>&1 & kill -9 {}", INNER[1], pid.trim()));
    lab.wait_for(
        0,
        &format!("p=$(systemctl show -P MainPID greway); test $p != 0; test $p != {}", pid.trim()),
    );
    lab.wait_for(0, "grep 'packets transmitted' pinged");
    let pinged = lab.run(0, "grep 'packets transmitted' pinged");
    say(&format!("kill -9 on the fast path, 50 pings a second: {}", pinged.trim()));
    assert!(pinged.contains(" 250 received"), "{pinged}");
    lab.wait_for(0, BY_PROGRAMS);
    let log =
        lab.run(0, "journalctl --boot --no-pager --output=cat --unit=greway | grep 'fast path' | tail -n 2");
    assert!(
        log.contains("loaded folder=/sys/fs/bpf/greway/") && log.contains("taken over programs=2"),
        "{log}"
    );
    // What programs have counted goes on; userspace's own few die with it.
    let after = sent(lab);
    assert!(after >= 50 + 250, "sent {before} packets before and {after} after");
    lab.logged_nothing_bad(&["code=killed", "Failed with result"]);
}

/// The packets that tun0 of linux1 has sent, by greway's own count.
fn sent(lab: &mut Lab) -> u64 {
    let text = lab.run(
        0,
        "greway status tun0 --json --no-echo | tr -d ' \\n' | grep -o '\"sent_packets\":[0-9]*' | head -n 1",
    );
    text.trim().rsplit(':').next().unwrap().parse().unwrap()
}
