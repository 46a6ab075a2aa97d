//! The package comes, and nothing happens.

use greway_testbed::guide::OUTER;

use crate::lab::{Belongings, Lab};

pub(crate) const INSTALL: &str = "export DEBIAN_FRONTEND=noninteractive
apt-get install --yes --quiet /root/greway.deb 2>&1";

pub(crate) fn starts_and_enables_nothing(lab: &mut Lab) {
    for log in lab.both(INSTALL) {
        assert!(log.contains("Setting up greway ("), "{log}");
        for word in ["error", "warning", "rror:", "Created symlink", "Could not"] {
            assert!(!log.contains(word), "{word}: {log}");
        }
    }
    let now = lab.pair.each(Belongings::of).unwrap();
    for (now, before) in now.iter().zip(&lab.before) {
        let new = now.since(before);
        assert!(new.iter().any(|line| line.contains(" /usr/bin/greway")), "{new:#?}");
        // Files in /usr, one empty directory in /etc; unit files, none of them enabled; no state besides.
        for line in &new {
            let file = line.contains(" root:root /usr/") || line.contains("/var/lib/systemd/");
            let configuration = line.starts_with("drwxr-xr-x root:root /etc/greway");
            let unit = line.starts_with("unit file greway") && line.contains(" disabled ");
            assert!(file || configuration || unit, "installing left: {line}");
        }
    }
    // The package's own programs run on a Debian that has nothing else.
    lab.both("dpkg --verify greway");
    for text in lab.both("greway --version; greway status") {
        assert!(text.starts_with("greway ") && text.contains("no greway daemon runs"), "{text}");
    }
    let units =
        lab.run(0, "systemctl cat greway.service greway@tun0.service greway.socket greway-boot.service");
    assert!(units.contains("ExecStart=/usr/bin/greway daemon"), "{units}");
    lab.run(0, &format!("ping -q -c 1 {}", OUTER[1]));
}
