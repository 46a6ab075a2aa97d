//! What a daemon has to do to its own process, and what it may want to know of another.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Resource, Rlimit};
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

/// Asks for `signal` when the thread that started this process ends (`PR_SET_PDEATHSIG`).
///
/// # Errors
///
/// What prctl(2) says.
pub fn signal_on_parent_death(signal: Signal) -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(raw(signal)))?)
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

/// The effective group.
#[must_use]
pub fn effective_gid() -> u32 {
    rustix::process::getegid().as_raw()
}

/// Sends a signal to a process. Process numbers are used again: check who it is first.
///
/// # Errors
///
/// `ESRCH` when there is no such process, `EPERM` when it is somebody else's.
pub fn kill(pid: u32, signal: Signal) -> io::Result<()> {
    Ok(rustix::process::kill_process(parse_pid(pid)?, raw(signal))?)
}

/// Whether there is such a process, be it somebody else's. One that has ended and was not waited for counts.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    let Ok(pid) = parse_pid(pid) else {
        return false;
    };
    matches!(rustix::process::test_kill_process(pid), Ok(()) | Err(rustix::io::Errno::PERM))
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

/// Lifts the limit on locked memory, which older kernels count BPF maps against (`RLIMIT_MEMLOCK`).
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_RESOURCE`.
pub fn lift_memlock_limit() -> io::Result<()> {
    let unlimited = Rlimit { current: None, maximum: None };
    Ok(rustix::process::setrlimit(Resource::Memlock, unlimited)?)
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
