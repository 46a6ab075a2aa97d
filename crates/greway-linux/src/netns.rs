//! Network namespaces: naming one, entering one, making one.
//!
//! A namespace belongs to a thread, not to the process: a thread that has entered another one
//! should do one thing there and end. [`NetNamespace::run_in`] is that thread.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::{abi, sockopt};

/// A network namespace, held open: it stays alive as long as this does.
#[derive(Debug)]
pub struct NetNamespace {
    fd: OwnedFd,
}

impl NetNamespace {
    /// The calling thread's.
    ///
    /// # Errors
    ///
    /// When /proc is not there.
    pub fn current() -> io::Result<Self> {
        Self::from_path(Path::new("/proc/thread-self/ns/net"))
    }

    /// The one that a file stands for: `/run/netns/NAME`, `/proc/PID/ns/net`.
    ///
    /// # Errors
    ///
    /// What open(2) says. A file that is no namespace is found out by [`NetNamespace::enter`].
    pub fn from_path(path: &Path) -> io::Result<Self> {
        Ok(Self { fd: File::open(path)?.into() })
    }

    /// That of a process.
    ///
    /// # Errors
    ///
    /// `ENOENT` when there is no such process, `EACCES` when it is somebody else's.
    pub fn from_pid(pid: u32) -> io::Result<Self> {
        Self::from_path(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// Puts the calling thread into it.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_SYS_ADMIN` there, `EINVAL` when it is no network namespace.
    pub fn enter(&self) -> io::Result<()> {
        Ok(rustix::thread::move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// Its inode number: two handles on one namespace have the same, while it lives.
    ///
    /// # Errors
    ///
    /// What fstat(2) says.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.fd)?.st_ino)
    }

    /// Whether both are the same namespace.
    ///
    /// # Errors
    ///
    /// What fstat(2) says.
    pub fn is_same(&self, other: &Self) -> io::Result<bool> {
        let (one, two) = (rustix::fs::fstat(&self.fd)?, rustix::fs::fstat(&other.fd)?);
        Ok((one.st_dev, one.st_ino) == (two.st_dev, two.st_ino))
    }

    /// Runs `work` inside, on a thread of its own that ends with it. A panic in `work` goes on here.
    ///
    /// # Errors
    ///
    /// What [`NetNamespace::enter`] says; `work` has not run then.
    pub fn run_in<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Another handle on the same namespace.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }
}

impl AsFd for NetNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for NetNamespace {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

/// The number that the kernel gave the calling thread's namespace and gives to no other until the
/// next boot (`SO_NETNS_COOKIE`). `None` before 5.14, which has none.
///
/// # Errors
///
/// What socket(2) and getsockopt(2) say.
pub fn cookie() -> io::Result<Option<u64>> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    match sockopt::read::<u64>(socket.as_fd(), libc::SOL_SOCKET, abi::SO_NETNS_COOKIE) {
        Ok(cookie) => Ok(Some(cookie)),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts the calling thread into a new network namespace, with nothing in it but a loopback device
/// that is down.
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_ADMIN`.
pub fn unshare_net() -> io::Result<()> {
    unshare(UnshareFlags::NEWNET)
}

/// A step on the way to namespaces without privilege that the kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum UnshareError {
    /// No user namespace: forbidden by a sysctl, or the process has more than one thread (`EINVAL`).
    #[error("new user namespace: {0}")]
    User(#[source] io::Error),
    /// A user namespace that grants nothing: AppArmor does that for programs without a profile.
    #[error("new network namespace inside the new user namespace: {0}")]
    Net(#[source] io::Error),
    /// The files that map the caller's identity.
    #[error("writing {file}: {source}")]
    Map {
        /// Which of `setgroups`, `uid_map`, `gid_map`.
        file: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Puts the process into a new user namespace, where it is root, and a new network namespace that
/// belongs to it. Only before the first thread is started. Needs no privilege where the kernel
/// allows such namespaces; after an error the process may be left in the user namespace alone.
///
/// # Errors
///
/// [`UnshareError`] names the step.
pub fn unshare_user_and_net() -> Result<(), UnshareError> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    unshare(UnshareFlags::NEWUSER).map_err(UnshareError::User)?;
    // Without privilege the kernel wants setgroups denied before a gid_map (user_namespaces(7)).
    for (file, content) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {uid} 1")),
        ("gid_map", format!("0 {gid} 1")),
    ] {
        fs::write(format!("/proc/self/{file}"), content)
            .map_err(|source| UnshareError::Map { file, source })?;
    }
    unshare(UnshareFlags::NEWNET).map_err(UnshareError::Net)
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    assert!(!flags.contains(UnshareFlags::FILES), "the descriptor table stays shared");
    // SAFETY: unshare_unsafe's one condition is that `CLONE_FILES`, which would give this thread a
    // descriptor table of its own, is used with care; it is not used at all.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}
