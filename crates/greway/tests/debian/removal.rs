//! Going without a trace.

use crate::lab::{Belongings, Lab};

/// linux1: apt takes the package with a tunnel up, shims installed and units enabled.
pub(crate) fn by_apt(lab: &mut Lab) {
    lab.run(0, "printf '# mine\\n' >/etc/greway/tunnels.d/kept.toml; systemctl enable greway@tun0; greway boot enable");
    let log = lab.run(0, "DEBIAN_FRONTEND=noninteractive apt-get remove --yes --quiet greway 2>&1");
    assert!(!log.contains("could not be removed"), "{log}");
    let left = Belongings::of(&mut lab.pair.machines[0]).unwrap().since(&lab.before[0]);
    let ours = |line: &String| !line.contains(" /etc/greway") && !line.contains(" /etc/sysconfig");
    let left: Vec<_> = left.into_iter().filter(ours).collect();
    assert!(left.is_empty(), "removal leaves: {left:#?}\n{log}");
    assert_eq!(lab.run(0, "cat /etc/greway/tunnels.d/kept.toml"), "# mine\n");

    lab.run(0, "DEBIAN_FRONTEND=noninteractive apt-get purge --yes --quiet greway 2>&1");
    nothing_is_left(lab, 0);
}

/// linux2: by hand first, then the package.
pub(crate) fn by_hand(lab: &mut Lab) {
    let would = lab.run(1, "greway purge --dry-run");
    assert!(would.contains("tun0") && would.contains("/usr/local/sbin/ip"), "{would}");
    assert_eq!(lab.run(1, "ip -o link show tun0 | wc -l"), "1\n", "a dry run changes nothing");
    let log = lab.run(1, "greway purge --config");
    let left = Belongings::of(&mut lab.pair.machines[1]).unwrap().since(&lab.before[1]);
    let program = |line: &String| line.contains(" /usr/") || line.starts_with("unit file ");
    let left: Vec<_> =
        left.into_iter().filter(|line| !program(line) && !line.contains(" /etc/sysconfig")).collect();
    assert!(left.is_empty(), "greway purge leaves: {left:#?}\n{log}");
    // A host where nothing is left is no error.
    lab.run(1, "greway purge --config");
    lab.run(1, "DEBIAN_FRONTEND=noninteractive apt-get purge --yes --quiet greway 2>&1");
    nothing_is_left(lab, 1);
}

fn nothing_is_left(lab: &mut Lab, machine: usize) {
    // The files of the guide were the administrator's.
    lab.run(machine, "rm -r /etc/sysconfig");
    let left = Belongings::of(&mut lab.pair.machines[machine]).unwrap().since(&lab.before[machine]);
    assert!(left.is_empty(), "purging leaves: {left:#?}");
}
