//! Unix streams to somebody who may not answer.
//!
//! `connect` waits for ever while the listener's queue is full, and anyone who may connect can fill
//! it. `std` has no way to bound that wait.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Connects to the socket at `path`, waiting at most `patience` for room in its queue.
///
/// # Errors
///
/// `WouldBlock` when there was no room; else what connect(2) says.
pub fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    connect_to(&SocketAddrUnix::new(path)?, patience)
}

/// Connects to the abstract socket `name` of this network namespace, waiting at most `patience`.
///
/// # Errors
///
/// As [`connect`].
pub fn connect_abstract(name: &[u8], patience: Duration) -> io::Result<UnixStream> {
    connect_to(&SocketAddrUnix::new_abstract_name(name)?, patience)
}

fn connect_to(address: &SocketAddrUnix, patience: Duration) -> io::Result<UnixStream> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // unix(7) connects within the send timeout (linux net/unix/af_unix.c `unix_stream_connect`).
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    rustix::net::connect(&socket, address)?;
    set_socket_timeout(&socket, Timeout::Send, None)?;
    Ok(UnixStream::from(socket))
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener};

    use super::*;

    #[test]
    fn a_full_queue_ends_the_wait() {
        let name = format!("greway-unix-{}", std::process::id());
        let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let mut held = Vec::new();
        let refused = loop {
            match connect_abstract(name.as_bytes(), Duration::from_millis(1)) {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock, "after {}: {refused}", held.len());
        assert!(!held.is_empty());
    }
}
