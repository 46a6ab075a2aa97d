//! A sysfs of one's own network namespace.
//!
//! /sys/class/net shows the network namespace of whoever mounted /sys, not that of the reader. A process that was put
//! into another namespace, or went back to PID 1's mounts, sees another host's devices there, some by the names of its
//! own. Nothing is mounted anywhere here: what is made lives as long as its descriptor.

use std::io;
use std::os::fd::OwnedFd;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// A sysfs that shows the calling thread's network namespace: its root directory. Paths below
/// `/proc/self/fd/DESCRIPTOR` lead into it.
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_ADMIN` in the user namespace that owns the network namespace, `ENOSYS` before Linux 5.2.
pub fn of_this_namespace() -> io::Result<OwnedFd> {
    let context = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}
