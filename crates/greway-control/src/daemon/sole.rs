//! One daemon for each network namespace, whatever sockets they were told to use (T10): two data planes
//! would take each other's packets for strangers'.
//!
//! The lock is an abstract unix socket: its names belong to the network namespace, and the kernel lets
//! go of it however the daemon ends. Anyone in the namespace can take a name, so one that is held by
//! another user than root and ourselves does not count.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use greway_linux::process;

/// The name of the lock.
const NAME: &str = "io.greway.daemon";

/// What came of the attempt to be the only one.
#[derive(Debug)]
pub(super) enum Sole {
    /// Nobody else runs as long as this is held.
    Yes(#[expect(dead_code, reason = "held, never used")] UnixListener),
    /// Another daemon does, in this process where that can be told.
    No(Option<u32>),
    /// A user without privilege holds the name; there is no lock.
    Spoiled,
}

/// Takes the lock.
///
/// # Errors
/// The system's.
pub(super) fn sole() -> io::Result<Sole> {
    let address = SocketAddr::from_abstract_name(NAME)?;
    match UnixListener::bind_addr(&address) {
        Ok(lock) => Ok(Sole::Yes(lock)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let holder =
                UnixStream::connect_addr(&address).and_then(|other| process::peer_credentials(&other));
            Ok(match holder {
                Ok(holder) if holder.uid == 0 || holder.uid == process::effective_uid() => {
                    Sole::No(holder.pid)
                }
                Ok(_) => Sole::Spoiled,
                // It ended in between, or nobody listens: there was one just now.
                Err(_) => Sole::No(None),
            })
        }
        Err(error) => Err(error),
    }
}
