//! What a daemon has to do to its own process, and what it may want to know of another.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;

use crate::signal::Signal;
use crate::sockopt::{self, Plain};

/// Starts a session of its own, away from the caller's terminal (setsid(2)).
///
/// # Errors
///
/// `EPERM` when the process leads a process group already.
pub fn new_session() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// Has the calling thread run before others that nobody gave a priority (`nice -n -10`, setpriority(2), which on Linux
/// concerns a thread). A priority that somebody chose for it stays. Whether it has one now.
///
/// # Errors
///
/// `EACCES` or `EPERM` without `CAP_SYS_NICE`.
pub fn run_before_others() -> io::Result<bool> {
    const BEFORE_OTHERS: i32 = -10;
    if rustix::process::getpriority_process(None)? != 0 {
        return Ok(false);
    }
    rustix::process::setpriority_process(None, BEFORE_OTHERS)?;
    Ok(true)
}

/// Makes every descriptor past the standard three end at the next exec, whoever opened it.
///
/// What a caller left open without close-on-exec is inherited by every program below it: a lock that
/// a shell script holds, the pipe that a build system waits on. What runs in the background for days
/// must not keep either.
///
/// # Errors
///
/// When the kernel has no call for it (before 5.11) and /proc is not there.
pub fn close_inherited() -> io::Result<()> {
    // SAFETY: close_range(2) with CLOSE_RANGE_CLOEXEC: "set the close-on-exec bit on the specified
    // file descriptors, rather than immediately closing them"; no descriptor is closed here.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, FIRST_INHERITED, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC)
    };
    // An old kernel does not know the call or the flag, a seccomp filter may forbid it.
    if result == 0 { Ok(()) } else { mark_each() }
}

/// Raises the number of descriptors that this process may have to what it is allowed (getrlimit(2)), and tells it.
///
/// # Errors
///
/// The system's.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    }
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Gives memory back to the kernel that is kept for later, after work that took much of it for a moment.
pub fn give_memory_back() {
    // SAFETY: malloc_trim(3) has no precondition; it is of glibc, and another C library has nothing of the kind.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives a descriptor a high number. A process that is killed closes its descriptors one after the other, the highest
/// first, and with thousands of packet sockets that takes minutes: what the next process waits for, a lock or a name,
/// is to be had at once. Where there is no such number the descriptor stays as it is.
#[must_use]
pub fn let_go_first(fd: OwnedFd) -> OwnedFd {
    /// The kernel's table of descriptors grows with the number, by some 8 bytes each.
    const HIGHEST: u64 = 65_536;
    /// Room for others like it.
    const ROOM: u64 = 64;
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(HIGHEST).min(HIGHEST);
    let number = RawFd::try_from(limit.saturating_sub(ROOM)).unwrap_or(0);
    rustix::io::fcntl_dupfd_cloexec(&fd, number).unwrap_or(fd)
}

/// [`close_inherited`] by the list in /proc.
fn mark_each() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        let Some(number) = number.filter(|number| *number >= FIRST_INHERITED as RawFd) else {
            continue;
        };
        // SAFETY: the descriptor was open a moment ago; should it be closed by now, fcntl(2) says
        // EBADF, and setting the flag on one that took its number is what is wanted here anyway.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        match rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC) {
            Ok(()) | Err(rustix::io::Errno::BADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// This process.
#[must_use]
pub fn id() -> u32 {
    std::process::id()
}

/// The effective user.
#[must_use]
pub fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Sends a signal to a process. Process numbers are used again: check who it is first.
///
/// # Errors
///
/// `ESRCH` when there is no such process, `EPERM` when it is somebody else's.
pub fn kill(pid: u32, signal: Signal) -> io::Result<()> {
    Ok(rustix::process::kill_process(parse_pid(pid)?, raw(signal))?)
}

/// Who is at the other end of a unix stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// The process that connected; `None` when it is in a process namespace that this one cannot see.
    pub pid: Option<u32>,
    /// Its effective user when it connected.
    pub uid: u32,
    /// Its effective group when it connected.
    pub gid: u32,
}

/// Reads who is at the other end of a unix stream (`SO_PEERCRED`, unix(7)).
///
/// # Errors
///
/// What getsockopt(2) says.
pub fn peer_credentials(stream: &UnixStream) -> io::Result<PeerCredentials> {
    // Not rustix's call: its process number cannot be 0, and across process namespaces it is.
    let Credentials { pid, uid, gid } = sockopt::read(stream.as_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED)?;
    Ok(PeerCredentials { pid: (pid != 0).then_some(pid), uid, gid })
}

/// Capabilities that greway needs (capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Devices, routes, nf_tables.
    NetAdmin,
    /// Packet and raw sockets.
    NetRaw,
    /// Namespaces and mounts.
    SysAdmin,
    /// BPF programs.
    Bpf,
    /// Limits raised past their hard bound; often missing from root in containers.
    SysResource,
}

/// Whether the calling thread may use a capability now.
///
/// # Errors
///
/// What capget(2) says.
pub fn has_capability(capability: Capability) -> io::Result<bool> {
    let wanted = match capability {
        Capability::NetAdmin => CapabilitySet::NET_ADMIN,
        Capability::NetRaw => CapabilitySet::NET_RAW,
        Capability::SysAdmin => CapabilitySet::SYS_ADMIN,
        Capability::Bpf => CapabilitySet::BPF,
        Capability::SysResource => CapabilitySet::SYS_RESOURCE,
    };
    Ok(rustix::thread::capabilities(None)?.effective.contains(wanted))
}

/// Moves this process to the root of the control group tree, so that it does not end with its
/// starter's group. Returns the directory, `None` when no control groups (version 2) are mounted.
///
/// # Errors
///
/// What writing `cgroup.procs` says: permission, or a hierarchy that forbids it.
pub fn leave_cgroup() -> io::Result<Option<PathBuf>> {
    // The second is where systemd's hybrid layout has version 2.
    for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        let root = Path::new(root);
        let procs = root.join("cgroup.procs");
        if root.join("cgroup.controllers").exists() {
            // "0" stands for the writing process (linux Documentation/admin-guide/cgroup-v2.rst).
            std::fs::write(procs, "0")?;
            return Ok(Some(root.to_owned()));
        }
    }
    Ok(None)
}

/// Enters the mount namespace of process 1, where mounts outlive the caller's. Returns false when
/// this process is in it already. Only before the first thread is started.
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` with more than one thread.
pub fn enter_init_mount_namespace() -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let init = std::fs::File::open("/proc/1/ns/mnt")?;
    let own = std::fs::metadata("/proc/self/ns/mnt")?;
    let there = init.metadata()?;
    if (own.dev(), own.ino()) == (there.dev(), there.ino()) {
        return Ok(false);
    }
    rustix::thread::move_into_link_name_space(init.as_fd(), Some(rustix::thread::LinkNameSpaceType::Mount))?;
    Ok(true)
}

/// Behind standard input, output and error.
const FIRST_INHERITED: libc::c_uint = 3;
/// linux include/uapi/linux/close_range.h; not every C library names it.
const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;

/// `struct ucred`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Credentials {
    pid: u32,
    uid: u32,
    gid: u32,
}

// SAFETY: three integers without padding.
unsafe impl Plain for Credentials {}

fn raw(signal: Signal) -> rustix::process::Signal {
    match signal {
        Signal::Terminate => rustix::process::Signal::TERM,
        Signal::Interrupt => rustix::process::Signal::INT,
        Signal::HangUp => rustix::process::Signal::HUP,
        Signal::Child => rustix::process::Signal::CHILD,
        Signal::Kill => rustix::process::Signal::KILL,
    }
}

fn parse_pid(pid: u32) -> io::Result<Pid> {
    // 0 and negative numbers mean groups of processes to kill(2).
    i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The way for old kernels, whatever this one is.
    #[test]
    fn the_list_in_proc_does_as_well() {
        let (one, _other) = UnixStream::pair().unwrap();
        rustix::io::fcntl_setfd(&one, rustix::io::FdFlags::empty()).unwrap();
        mark_each().unwrap();
        assert_eq!(rustix::io::fcntl_getfd(&one).unwrap(), rustix::io::FdFlags::CLOEXEC);
    }
}
