//! Whole machines: Debian 12 with its own kernel, systemd and apt, in QEMU without hardware virtualisation. For what a
//! network namespace cannot show: packages, units and their sandboxes, boot, reboot, what stays behind.
//!
//! ```text
//!   this host    mmdebstrap -> disk.img, vmlinuz             once, cached
//!
//!   +-----------------------+      datagrams over a      +-----------------------+
//!   | linux1    eth0 (virtio)|~~~~~~~ unix socket ~~~~~~~|(virtio) eth0    linux2 |
//!   | disk.img, copy on write|                           |                        |
//!   +-----------+------------+                           +-----------+------------+
//!      virtio-serial: scripts in, output out                         |
//! ```
//!
//! No machine has a way to this host's network or files; files come in over the serial port. Disks are copies on write
//! that go with the process; the image is never changed. Processes end with the test, also with one that is killed.
//!
//! Emulated, a boot takes 10 to 20 s and a shell command 20 ms: one boot has to carry many steps. Nothing
//! here prints; what takes long says so through the function that the caller gives.
//!
//! Needed: x86-64, root (to build the image), and the packages that [`available`] names. Only for tests.

mod channel;
mod image;
mod machine;
mod pair;

pub use image::Image;
pub use machine::{Machine, MachineOptions, Nic};
pub use pair::Pair;

pub use crate::uml::CommandOutput;

use crate::programs;

/// What says to somebody who waits what is being done.
pub type Say = fn(&str);

/// What building and running machines takes of this host, and the packages that have it.
const PROGRAMS: [(&str, &str); 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
];

/// Says whether machines can be built and run here; otherwise what is missing, as one sentence.
///
/// # Errors
/// The sentence.
pub fn available() -> Result<(), String> {
    if !cfg!(target_arch = "x86_64") {
        return Err("the machines are x86-64, and emulating them elsewhere was never tried".to_owned());
    }
    programs::all(&PROGRAMS)?;
    if greway_linux::process::effective_uid() != 0 {
        return Err("building Debian's image needs root".to_owned());
    }
    Ok(())
}
