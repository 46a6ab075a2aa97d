//! When the network namespace that the daemon serves is deleted under it.
//!
//! `ip netns del NAME` takes the name away; the namespace itself lives on as long as a process is in
//! it, and the daemon is one. A kernel tunnel would be gone with the namespace, so a daemon that is
//! left alone in one that had a name ends, and its tunnels with it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use greway_linux::netns::NetNamespace;

/// Where `ip netns` keeps names (ip-netns(8)).
const NAMES: &str = "/run/netns";

/// A namespace that had a name when the daemon started.
#[derive(Debug)]
pub(super) struct NamedNamespace {
    inode: u64,
}

impl NamedNamespace {
    /// The daemon's own namespace, when it has a name.
    pub(super) fn current() -> Option<Self> {
        let inode = NetNamespace::current().and_then(|namespace| namespace.inode()).ok()?;
        is_named(Path::new(NAMES), inode).is_ok_and(|named| named).then_some(Self { inode })
    }

    /// Whether the name is gone and nobody but the daemon and its supervisor is left inside.
    pub(super) fn is_deserted(&self) -> bool {
        // A name that cannot be read may still be ours, and what would be removed does not come back.
        is_named(Path::new(NAMES), self.inode).is_ok_and(|named| !named)
            && !others_inside(Path::new("/proc"), self.inode)
    }
}

/// Whether a name in `directory` is the namespace's; an error where one cannot be read and no other is.
fn is_named(directory: &Path, inode: u64) -> io::Result<bool> {
    let absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let entries = match fs::read_dir(directory) {
        Err(error) if absent(&error) => return Ok(false),
        outcome => outcome?,
    };
    let mut unread = None;
    for entry in entries {
        match entry.and_then(|entry| inode_of(&entry.path())) {
            Ok(found) if found == inode => return Ok(true),
            // Deleted while we look.
            Err(error) if !absent(&error) => unread = Some(error),
            _ => {}
        }
    }
    unread.map_or(Ok(false), Err)
}

fn others_inside(proc: &Path, inode: u64) -> bool {
    let ours = [std::process::id(), std::os::unix::process::parent_id()];
    // What cannot be read might be somebody: the daemon stays.
    let Ok(entries) = fs::read_dir(proc) else { return true };
    let processes = entries.filter_map(Result::ok).filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse::<u32>().ok()?;
        Some((pid, entry.path().join("ns/net")))
    });
    processes
        .filter(|(pid, _)| !ours.contains(pid))
        .any(|(_, path)| inode_of(&path).is_ok_and(|found| found == inode))
}

fn inode_of(path: &Path) -> io::Result<u64> {
    fs::metadata(path).map(|metadata| metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_by_what_it_names() {
        let directory = std::env::temp_dir().join(format!("greway-names-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let name = directory.join("blue");
        fs::write(&name, "").unwrap();
        let inode = inode_of(&name).unwrap();
        assert!(is_named(&directory, inode).unwrap());
        fs::remove_file(&name).unwrap();
        assert!(!is_named(&directory, inode).unwrap());
        // A link that leads to itself cannot be looked at (ELOOP), not even by root.
        std::os::unix::fs::symlink("loop", directory.join("loop")).unwrap();
        is_named(&directory, inode).unwrap_err();
        fs::write(&name, "").unwrap();
        assert!(is_named(&directory, inode_of(&name).unwrap()).unwrap(), "beside one that cannot be read");
        fs::remove_dir_all(&directory).unwrap();
        assert!(!is_named(&directory, inode).unwrap(), "no directory, no name");
        fs::write(&directory, "").unwrap();
        is_named(&directory, inode).unwrap_err();
        fs::remove_file(&directory).unwrap();
    }

    #[test]
    fn whoever_runs_the_tests_is_not_the_only_one_here_unless_alone() {
        let here = NetNamespace::current().unwrap().inode().unwrap();
        let alone = !others_inside(Path::new("/proc"), here);
        let impossible = u64::MAX;
        assert!(!others_inside(Path::new("/proc"), impossible));
        // PID 1 can be looked at by root only; where it can, it tells.
        if inode_of(Path::new("/proc/1/ns/net")).is_ok_and(|inode| inode == here) {
            assert!(!alone);
        }
    }
}
