//! Is there a BPF file system, may one be mounted, and will it outlive this process?

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, statfs},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

/// Where every tool mounts it.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// `BPF_FS_MAGIC` of include/uapi/linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Is `path` inside a mounted bpffs?
pub(crate) fn is_bpffs(path: &Path) -> bool {
    // The type of f_type differs between architectures; the magic has 32 bits on all of them.
    statfs(path).is_ok_and(|stat| stat.f_type as u64 & 0xffff_ffff == BPF_FS_MAGIC)
}

/// The usual bpffs when pins in it last, or why they would not.
pub(crate) fn lasting() -> Result<PathBuf, String> {
    let path = PathBuf::from(BPFFS);
    if !is_bpffs(&path) {
        return Err(format!("no bpffs is mounted at {BPFFS}"));
    }
    match is_seen_by_init(&path) {
        Ok(true) => Ok(path),
        Ok(false) => {
            Err(format!("{BPFFS} belongs to a private mount namespace, and pins in it would die with that"))
        }
        Err(source) => Err(format!("cannot tell whether {BPFFS} lasts: {source}")),
    }
}

/// Makes a bpffs that is mounted nowhere, and lets it go.
///
/// # Errors
/// What the kernel answers where this process may not mount one.
pub(crate) fn may_mount() -> io::Result<()> {
    let context = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(())
}

/// Is the mount at `path` one of PID 1's? Every mount has a number of its own, copies in other mount namespaces
/// too (proc_pid_mountinfo(5)). Comparing `/proc/1/ns/mnt` would need the right to trace PID 1, which
/// containers and some sandboxes withhold even from root.
fn is_seen_by_init(path: &Path) -> io::Result<bool> {
    let ours = fs::read_to_string("/proc/thread-self/mountinfo")?;
    let inits = fs::read_to_string("/proc/1/mountinfo")?;
    let Some(mount) = top_mount_at(&ours, path) else {
        return Ok(false);
    };
    Ok(inits.lines().any(|line| line.split(' ').next() == Some(mount)))
}

/// The number of the mount at `path`, the last one where several lie on each other.
fn top_mount_at<'a>(mountinfo: &'a str, path: &Path) -> Option<&'a str> {
    mountinfo.lines().rev().find_map(|line| {
        let mut fields = line.split(' ');
        let number = fields.next()?;
        (Path::new(fields.nth(3)?) == path).then_some(number)
    })
}

/// Makes the folders from `root` down to `path`, for their owner alone, where they are not there yet.
pub(crate) fn make_folders(root: &Path, path: &Path) -> io::Result<()> {
    let mut folder = root.to_owned();
    for name in path.strip_prefix(root).map_err(io::Error::other)? {
        folder.push(name);
        match rustix::fs::mkdirat(CWD, &folder, rustix::fs::Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_at_a_place_is_on_top() {
        let mountinfo = "\
            22 1 0:20 / /sys rw - sysfs sysfs rw\n\
            30 22 0:27 / /sys/fs/bpf rw,nosuid - bpf bpf rw,mode=700\n\
            41 22 0:30 / /sys/fs/bpf rw - bpf bpf rw\n\
            42 22 0:31 / /sys/fs/bpf/x rw - tmpfs none rw\n";
        assert_eq!(top_mount_at(mountinfo, Path::new(BPFFS)), Some("41"));
        assert_eq!(top_mount_at(mountinfo, Path::new("/run")), None);
    }

    #[test]
    fn other_file_systems_are_no_bpffs() {
        assert!(!is_bpffs(Path::new("/proc")));
        assert!(!is_bpffs(Path::new("/no/such/folder")));
    }
}
