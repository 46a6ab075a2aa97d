//! Two Debian machines with systemd, the package, and the guide: what a network namespace cannot show.
//!
//! Booting is dear, so that one boot of both machines carries all steps, in order; each is named where it is printed, with
//! its time. The package is not built here: `cargo xtask test` builds it and names it in `GREWAY_DEB`.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests, and helpers of tests")]

mod fast_path;
mod faults;
mod guide;
mod install;
mod kernel_gre;
mod lab;
mod removal;
mod upgrade;

use std::path::PathBuf;

use greway_testbed::qemu;
use greway_testbed::require;

use lab::Lab;

/// The package under test.
fn package() -> Result<PathBuf, String> {
    match std::env::var_os("GREWAY_DEB") {
        Some(path) if PathBuf::from(&path).is_file() => Ok(path.into()),
        Some(path) => Err(format!("GREWAY_DEB names no file: {}", path.display())),
        None => Err("GREWAY_DEB names no package; `cargo xtask test --only machines` builds one".to_owned()),
    }
}

#[test]
fn two_debian_machines_from_installing_to_purging() {
    require!(qemu::available());
    let package = package();
    require!(package.as_ref());
    let image = lab::image();
    require!(image.as_ref());
    let mut lab = Lab::boot(&image.unwrap(), &package.unwrap());
    lab.step("installing starts and enables nothing", install::starts_and_enables_nothing);
    lab.step("the guide's ifcfg files, by systemctl enable --now greway@tun0", guide::ifcfg);
    lab.step("the service's programs, on this kernel and pinned", fast_path::pinned_by_the_service);
    lab.step("kill -9 on the fast path loses nothing", fast_path::survives);
    lab.step("scenario 1 of the guide, with Debian's iptables", guide::scenario_1);
    lab.step("a reboot brings back what was enabled, and nothing else", guide::reboot);
    lab.step("kill -9, and a daemon that hangs: systemd restarts it", faults::killed_and_hung);
    lab.step("an upgrade while packets pass", upgrade::under_load);
    lab.step("what a tunnel may ask for works in the unit's sandbox", faults::sandbox);
    lab.step("a kernel that gets its own GRE, beside", kernel_gre::beside);
    lab.step("the guide's ip commands, by shims", guide::ip_commands);
    lab.step("apt remove and apt purge leave nothing", removal::by_apt);
    lab.step("greway purge by hand leaves nothing", removal::by_hand);
}
