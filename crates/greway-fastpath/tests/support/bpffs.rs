//! A bpffs for one test.

use std::{os::fd::AsRawFd as _, path::PathBuf};

use greway_fastpath::{HookChoice, Options, PinPolicy};
use rustix::{
    fd::OwnedFd,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

use super::{not_run, options};

/// A bpffs that no mount namespace has, reached through a descriptor of this process.
pub(crate) struct Bpffs {
    pub(crate) path: PathBuf,
    _mount: OwnedFd,
}

impl Bpffs {
    pub(crate) fn new(test: &str) -> Option<Self> {
        let mount = || {
            let context = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_create(&context)?;
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        };
        match mount() {
            Ok(mount) => {
                let path = format!("/proc/{}/fd/{}", std::process::id(), mount.as_raw_fd());
                Some(Self { path: path.into(), _mount: mount })
            }
            Err(errno) => {
                not_run(test, &format!("no bpffs may be mounted: {errno}"));
                None
            }
        }
    }

    pub(crate) fn options(&self, hook: HookChoice) -> Options {
        Options { pins: PinPolicy::At(self.path.clone()), hook, ..options() }
    }

    pub(crate) fn has_pins(&self) -> bool {
        self.path.join("greway").exists()
    }
}
