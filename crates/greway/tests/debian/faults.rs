//! What happens to a daemon under systemd: killed, hung, and kept in its sandbox.

use greway_testbed::guide::INNER;

use crate::lab::{Lab, say};

pub(crate) fn killed_and_hung(lab: &mut Lab) {
    let pid = lab.run(0, "systemctl show -P MainPID greway");
    let links = lab.run(0, "ip -o link show tun0; ip route show dev tun0");
    lab.run(0, &format!("ping -i 0.02 -c 100 -W 1 {} >pinged 2>&1 & kill -9 {}", INNER[1], pid.trim()));
    lab.wait_for(
        0,
        &format!("p=$(systemctl show -P MainPID greway); test $p != 0; test $p != {}", pid.trim()),
    );
    lab.answers();
    assert_eq!(lab.run(0, "systemctl show -P NRestarts greway"), "1\n");
    assert_eq!(
        lab.run(0, "ip -o link show tun0; ip route show dev tun0"),
        links,
        "the device stays as it was"
    );
    lab.wait_for(0, "grep 'packets transmitted' pinged");
    let pinged = lab.run(0, "grep 'packets transmitted' pinged");
    say(&format!("kill -9, 50 pings a second: {}", pinged.trim()));

    // One minute is what the unit allows; the test has less.
    lab.run(
        0,
        "mkdir -p /run/systemd/system/greway.service.d
         printf '[Service]\\nWatchdogSec=6\\n' >/run/systemd/system/greway.service.d/test.conf
         systemctl daemon-reload
         systemctl restart greway",
    );
    lab.answers();
    let pid = lab.run(0, "systemctl show -P MainPID greway");
    // A daemon at rest keeps its watchdog fed: nothing restarts it.
    lab.run(0, "timeout 20 sh -c 'for n in 1 2 3 4 5 6 7 8 9; do greway status >/dev/null; sleep 1; done'");
    assert_eq!(lab.run(0, "systemctl show -P MainPID greway"), pid);
    lab.run(0, &format!("kill -STOP {}", pid.trim()));
    lab.wait_for(
        0,
        &format!("p=$(systemctl show -P MainPID greway); test $p != 0; test $p != {}", pid.trim()),
    );
    lab.answers();
    let journal = lab.run(0, "journalctl --boot --no-pager --output=cat _PID=1 | grep -i watchdog");
    assert!(journal.contains("Watchdog timeout"), "{journal}");
    lab.run(
        0,
        "rm -r /run/systemd/system/greway.service.d; systemctl daemon-reload; systemctl restart greway",
    );
    lab.answers();
    // A stop leaves the tunnel where it is, for the next daemon; the socket starts it again for the next question.
    lab.run(0, "systemctl stop greway.service");
    assert_eq!(lab.run(0, "ip -o link show tun0 | wc -l"), "1\n");
    lab.run(0, "systemctl start greway.service");
    lab.answers();
}

/// What reaches furthest into the host: forwarding, SNAT, the raw socket, each option of the header.
pub(crate) fn sandbox(lab: &mut Lab) {
    lab.each(|ends| {
        format!(
            "cat >/etc/greway/tunnels.d/box.toml <<'END'
remote = \"{}\"
local = \"{}\"
key = 77
csum = true
seq = true
underlay = \"raw\"

[inner]
address = \"{}\"
peer = \"{}\"
forward = true
snat = \"{}\"
END
greway up box",
            ends.peer_outer,
            ends.my_outer,
            ends.my_inner.to_string().replace("172.16.0", "172.16.9"),
            ends.peer_inner.to_string().replace("172.16.0", "172.16.9"),
            ends.my_outer
        )
    });
    lab.wait_for(0, "ping -q -c 1 -W 1 172.16.9.2");
    for text in lab.both("sysctl net.ipv4.ip_forward; nft list tables; greway status box") {
        for word in ["ip_forward = 1", "table ip greway-box", "table netdev greway-box", "raw socket"] {
            assert!(text.contains(word), "no `{word}`: {text}");
        }
    }
    lab.both("greway down box; rm /etc/greway/tunnels.d/box.toml");
    for text in lab.both("sysctl net.ipv4.ip_forward; nft list tables") {
        assert!(text.contains("ip_forward = 0") && !text.contains("greway-box"), "{text}");
    }
    // The sandbox is one: what systemd itself thinks of it.
    let score = lab.run(0, "systemd-analyze security --no-pager greway.service | tail -n 1");
    say(score.trim());
    // What we did to it, and nothing else.
    let killed = ["code=killed", "Failed with result", "Watchdog timeout", "Killing process"];
    lab.logged_nothing_bad(&[&killed[..], &["lichenhao"]].concat());
}
