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
        Ok(false) => Err(format!(
            "the bpffs at {BPFFS} is of a private mount namespace, and pins in it would die with that"
        )),
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

/// Does PID 1 see the same bpffs at `path`? Then it lasts as long as the host. The mounts themselves say nothing: a
/// service whose file systems systemd protects has copies of all of them in a mount namespace of its own, and pins in
/// a copy are in the one bpffs that all copies show. Comparing `/proc/1/ns/mnt` would answer another question, and
/// need the right to trace PID 1, which containers and some sandboxes withhold even from root.
fn is_seen_by_init(path: &Path) -> io::Result<bool> {
    let ours = fs::read_to_string("/proc/thread-self/mountinfo")?;
    let inits = fs::read_to_string("/proc/1/mountinfo")?;
    Ok(show_the_same(&ours, &inits, path))
}

fn show_the_same(ours: &str, theirs: &str, path: &Path) -> bool {
    let ours = top_mount_at(ours, path);
    ours.is_some() && ours == top_mount_at(theirs, path)
}

/// What of which file system is shown at `path` (proc_pid_mountinfo(5)): its device number, as each bpffs that is
/// mounted anew has one of its own, and the folder in it; of the last mount, where several lie on each other.
fn top_mount_at<'a>(mountinfo: &'a str, path: &Path) -> Option<(&'a str, &'a str)> {
    mountinfo.lines().rev().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let shown = (fields.next()?, fields.next()?);
        (Path::new(fields.next()?) == path).then_some(shown)
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

    /// As PID 1 of a Debian 12 has them.
    const INIT: &str = "\
22 1 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
30 22 0:27 / /sys/fs/bpf rw,nosuid,nodev,noexec,relatime shared:11 - bpf bpf rw,mode=700
42 22 0:31 / /sys/fs/bpf/x rw - tmpfs none rw
";

    fn as_init(mountinfo: &str) -> bool {
        show_the_same(mountinfo, INIT, Path::new(BPFFS))
    }

    #[test]
    fn a_services_copy_of_the_hosts_bpffs_lasts() {
        let service = "\
301 300 0:20 / /sys rw,nosuid,nodev,noexec,relatime master:7 - sysfs sysfs rw
309 301 0:27 / /sys/fs/bpf rw,nosuid,nodev,noexec,relatime master:11 - bpf bpf rw,mode=700
";
        assert!(as_init(service));
        assert!(as_init(INIT));
    }

    #[test]
    fn a_bpffs_of_ones_own_does_not_last() {
        // As `ip netns exec` leaves /sys, and `tc` then mounts a bpffs in it.
        let private = "\
301 300 0:55 / /sys rw,relatime - sysfs ns rw
309 301 0:56 / /sys/fs/bpf rw,nosuid,nodev,noexec,relatime - bpf bpf rw,mode=700
";
        assert!(!as_init(private));
        // One on top of the host's.
        let covered = format!("{INIT}309 30 0:56 / /sys/fs/bpf rw - bpf bpf rw\n");
        assert!(!as_init(&covered));
        assert!(!show_the_same(INIT, &covered, Path::new(BPFFS)));
    }

    #[test]
    fn a_folder_of_the_hosts_bpffs_is_not_where_others_look() {
        assert!(!as_init("309 301 0:27 /mine /sys/fs/bpf rw master:11 - bpf bpf rw,mode=700\n"));
    }

    #[test]
    fn without_a_mount_there_is_nothing_that_lasts() {
        assert!(!as_init(""));
        assert!(!show_the_same("", "", Path::new(BPFFS)));
    }

    #[test]
    fn other_file_systems_are_no_bpffs() {
        assert!(!is_bpffs(Path::new("/proc")));
        assert!(!is_bpffs(Path::new("/no/such/folder")));
    }
}
