//! The error numbers that callers tell apart and [`std::io::ErrorKind`] does not, or not in a stable way.

/// Operation not permitted: a rule or a missing privilege.
pub const EPERM: i32 = libc::EPERM;
/// Input or output error; a TUN device that is down.
pub const EIO: i32 = libc::EIO;
/// No such device or address.
pub const ENXIO: i32 = libc::ENXIO;
/// Try again: a non-blocking call would have to wait.
pub const EAGAIN: i32 = libc::EAGAIN;
/// Out of memory.
pub const ENOMEM: i32 = libc::ENOMEM;
/// Permission denied.
pub const EACCES: i32 = libc::EACCES;
/// No such device.
pub const ENODEV: i32 = libc::ENODEV;
/// Invalid argument; from a packet socket also: a packet that a virtio-net header cannot describe.
pub const EINVAL: i32 = libc::EINVAL;
/// Somebody has it.
pub const EBUSY: i32 = libc::EBUSY;
/// Message too long for the path.
pub const EMSGSIZE: i32 = libc::EMSGSIZE;
/// Network is down.
pub const ENETDOWN: i32 = libc::ENETDOWN;
/// No route to the network.
pub const ENETUNREACH: i32 = libc::ENETUNREACH;
/// No buffer space: a queue is full.
pub const ENOBUFS: i32 = libc::ENOBUFS;
/// No route to the host.
pub const EHOSTUNREACH: i32 = libc::EHOSTUNREACH;
