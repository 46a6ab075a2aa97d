//! A BPF file system for one lab: pins in it outlive a daemon and not the lab, and those of the host are not touched.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::Error;

/// A bpffs that no mount namespace has. It goes, and what is pinned in it, when this is dropped or the process ends.
#[derive(Debug)]
pub struct Bpffs {
    path: PathBuf,
    _mount: OwnedFd,
}

impl Bpffs {
    /// Makes one.
    ///
    /// # Errors
    /// [`Error::System`] where this process may not mount one.
    pub fn new() -> Result<Self, Error> {
        let mount = || {
            let context = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_create(&context)?;
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        };
        let mount = mount().map_err(Error::system("a bpffs", "mount it"))?;
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), mount.as_raw_fd()));
        Ok(Self { path, _mount: mount })
    }

    /// A path by which every process of this host that root runs finds it.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
