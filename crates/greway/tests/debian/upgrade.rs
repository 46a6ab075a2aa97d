//! A newer package over a tunnel that carries packets.

use std::path::Path;
use std::process::Command;

use greway_testbed::guide::INNER;

use crate::lab::{Lab, say};

/// The same package with a higher version.
fn newer(package: &Path) -> Vec<u8> {
    let folder = std::env::temp_dir().join(format!("greway-newer-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run(Command::new("dpkg-deb").arg("-R").arg(package).arg(&folder));
    let control = folder.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control).unwrap();
    let version = text.lines().find(|line| line.starts_with("Version: ")).unwrap();
    std::fs::write(&control, text.replace(version, &format!("{version}+newer"))).unwrap();
    let made = folder.with_extension("deb");
    // Fast: it is read once.
    run(Command::new("dpkg-deb").args(["-Zgzip", "-z1", "-b"]).arg(&folder).arg(&made));
    let bytes = std::fs::read(&made).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::remove_file(&made).unwrap();
    bytes
}

pub(crate) fn under_load(lab: &mut Lab) {
    let bytes = newer(&lab.package);
    lab.pair.machines[0].put("/root/newer.deb", 0o644, &bytes).unwrap();
    let [old, index] = ["systemctl show -P MainPID greway", "cat /sys/class/net/tun0/ifindex"]
        .map(|script| lab.run(0, script));
    lab.run(1, "./tcp.pl serve 5003 >served3 2>&1 &");
    let load = format!(
        "rm -f stop
         ./tcp.pl send {0} 5003 /root/stop >sent 2>&1 &
         ping -i 0.02 -W 1 {0} >pinged 2>&1 & echo $! >ping.pid",
        INNER[1]
    );
    lab.run(0, &load);
    lab.wait_for(0, "test $(ss -Htn state established dport = 5003 | wc -l) = 1");
    let log = lab.run(0, "DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet /root/newer.deb 2>&1");
    assert!(log.contains("Unpacking greway (") && log.contains("+newer) over ("), "{log}");
    lab.answers();
    lab.run(0, "kill -INT $(cat ping.pid); touch stop");
    lab.wait_for(0, "grep -q . sent");
    // The connection of before the upgrade brought everything over.
    let sent = lab.run(0, "cat sent");
    assert!(sent.starts_with("intact "), "{sent}");
    lab.wait_for(0, "grep 'packets transmitted' pinged");
    let pinged = lab.run(0, "grep 'packets transmitted' pinged");
    say(&format!("upgrade, 50 pings a second: {}; TCP: {}", pinged.trim(), sent.trim()));
    let received = pinged.split(' ').nth(3).and_then(|word| word.parse::<u32>().ok()).unwrap();
    assert!(received > 0, "{pinged}");
    assert_eq!(lab.run(0, "cat /sys/class/net/tun0/ifindex"), index, "the device is the one of before");
    let new = lab.run(0, "systemctl show -P MainPID greway");
    assert!(new != old && new != "0\n", "the new program has taken over: {old} then {new}");
    let program = lab.run(0, &format!("readlink /proc/{}/exe", new.trim()));
    assert_eq!(program, "/usr/bin/greway\n");
    assert_eq!(lab.run(0, "systemctl is-active greway@tun0"), "active\n");
}
