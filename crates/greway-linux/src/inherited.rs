//! Listening sockets that a service manager opened for this process (sd_listen_fds(3)).
//!
//! They come as descriptors from 3 on, their number in `LISTEN_FDS`, meant for the process in `LISTEN_PID` alone.
//! What is no listening unix stream socket is refused, for it cannot be what was asked for.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::FdFlags;
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};

/// `SD_LISTEN_FDS_START`.
const FIRST: RawFd = 3;

/// More than anybody hands over; a larger number is a mistake in the environment.
const MOST: RawFd = 64;

/// The listeners that were handed over, blocking and not inherited further. Empty where none were, and at every
/// call but the first: a descriptor has one owner.
///
/// # Errors
///
/// `InvalidInput` for a descriptor that is not open or no listening unix stream socket.
pub fn listeners() -> io::Result<Vec<UnixListener>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let count = handed_over(
        std::env::var("LISTEN_PID").ok().as_deref(),
        std::env::var("LISTEN_FDS").ok().as_deref(),
        std::process::id(),
    );
    if count == 0 || TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    (FIRST..FIRST + count).map(listener).collect()
}

/// How many descriptors the environment says are `ours`.
fn handed_over(pid: Option<&str>, count: Option<&str>, ours: u32) -> RawFd {
    let is_ours = pid.and_then(|pid| pid.parse::<u32>().ok()) == Some(ours);
    let count = count.and_then(|count| count.parse().ok()).unwrap_or(0);
    if is_ours { RawFd::clamp(count, 0, MOST) } else { 0 }
}

fn listener(number: RawFd) -> io::Result<UnixListener> {
    let refused = |what: &str| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("descriptor {number} of LISTEN_FDS {what}"))
    };
    if !std::path::Path::new(&format!("/proc/self/fd/{number}")).exists() {
        return Err(refused("is not open"));
    }
    // SAFETY: sd_listen_fds(3): descriptors from 3 on are handed over to the process that LISTEN_PID names, which is
    // this one; it is open, nothing in this process opened or owns it, and the caller comes here once.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    let is_listener = socket_domain(fd.as_fd()).is_ok_and(|domain| domain == AddressFamily::UNIX)
        && socket_type(fd.as_fd()).is_ok_and(|kind| kind == SocketType::STREAM)
        && socket_acceptconn(fd.as_fd()).is_ok_and(|listens| listens);
    if !is_listener {
        return Err(refused("is no listening unix stream socket"));
    }
    rustix::io::fcntl_setfd(fd.as_fd(), FdFlags::CLOEXEC)?;
    let listener = UnixListener::from(fd);
    // systemd's own are not; a thread waits for each of ours.
    listener.set_nonblocking(false)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::IntoRawFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn only_what_is_meant_for_this_process_counts() {
        assert_eq!(handed_over(Some("7"), Some("2"), 7), 2);
        assert_eq!(handed_over(Some("8"), Some("2"), 7), 0, "our caller's");
        assert_eq!(handed_over(None, Some("2"), 7), 0);
        assert_eq!(handed_over(Some("7"), Some("-3"), 7), 0);
        assert_eq!(handed_over(Some("7"), Some("999999"), 7), MOST);
        assert_eq!(handed_over(Some("7"), Some("two"), 7), 0);
    }

    #[test]
    fn what_is_no_listening_unix_stream_is_refused() {
        let refused = |fd: OwnedFd| listener(fd.into_raw_fd()).unwrap_err();
        for fd in [UnixDatagram::unbound().unwrap().into(), TcpListener::bind("127.0.0.1:0").unwrap().into()]
            as [OwnedFd; 2]
        {
            assert!(refused(fd).to_string().contains("is no listening unix stream socket"));
        }
        assert!(listener(100_000).unwrap_err().to_string().contains("is not open"));
    }

    #[test]
    fn one_that_listens_is_taken_and_waits() {
        let folder = std::env::temp_dir().join(format!("greway-inherited-{}", std::process::id()));
        let bound = UnixListener::bind(&folder).unwrap();
        bound.set_nonblocking(true).unwrap();
        let taken = listener(OwnedFd::from(bound).into_raw_fd()).unwrap();
        assert!(!rustix::fs::fcntl_getfl(&taken).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
        assert!(rustix::io::fcntl_getfd(&taken).unwrap().contains(FdFlags::CLOEXEC));
        std::fs::remove_file(folder).unwrap();
    }
}
