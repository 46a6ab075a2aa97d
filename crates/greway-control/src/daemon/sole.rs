//! One daemon for each network namespace, whatever sockets they were told to use (T10): two data planes
//! would take each other's packets for strangers'.
//!
//! The lock is a file in the namespace's own directory, which only root and this user can open: the kernel
//! lets go of it however the daemon ends. Daemons that see different directories there (containers that
//! share a network and no /run) meet at an abstract unix socket besides, whose names belong to the network
//! namespace. Anyone in the namespace can take such a name or fill its queue, so it only counts when root or
//! we ourselves hold it, and where the file is ours and that cannot be told, it does not count at all.

use std::fs::{self, File};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use greway_linux::{process, unix};

use crate::location::{Location, remove_own};

/// The name of the abstract socket.
const NAME: &str = "io.greway.daemon";

/// The holder's queue has room at once or was filled to keep us waiting.
const PATIENCE: Duration = Duration::from_millis(10);

/// What came of the attempt to be the only one.
#[derive(Debug)]
pub(super) enum Sole {
    /// Nobody else runs as long as this is held.
    Yes(#[expect(dead_code, reason = "held, never used")] Lock),
    /// Another daemon does, in this process where that can be told.
    No(Option<u32>),
}

/// Both locks, as far as they could be had.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Option<LockedFile>,
    _name: Option<UnixListener>,
}

/// Takes the lock.
///
/// # Errors
/// The system's.
pub(super) fn sole(location: &Location) -> io::Result<Sole> {
    let file = match location.make_lock() {
        Some(path) => match LockedFile::take(path)? {
            Some(file) => Some(file),
            None => return Ok(Sole::No(holder().flatten())),
        },
        None => None,
    };
    match UnixListener::bind_addr(&SocketAddr::from_abstract_name(NAME)?) {
        Ok(name) => {
            let name = process::let_go_first(name.into()).into();
            Ok(Sole::Yes(Lock { _file: file, _name: Some(name) }))
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if let Some(holder) = holder() {
                return Ok(Sole::No(holder));
            }
            tracing::warn!("another user holds the name that keeps a second daemon away");
            Ok(Sole::Yes(Lock { _file: file, _name: None }))
        }
        Err(error) => Err(error),
    }
}

/// The process that holds the abstract name, if that is root's or ours; its number is `None` where this
/// process namespace does not show it.
fn holder() -> Option<Option<u32>> {
    let other = unix::connect_abstract(NAME.as_bytes(), PATIENCE).ok()?;
    let holder = process::peer_credentials(&other).ok()?;
    let trusted = holder.uid == 0 || holder.uid == process::effective_uid();
    trusted.then_some(holder.pid)
}

/// A file that this process has locked; it goes with the lock.
#[derive(Debug)]
struct LockedFile {
    path: PathBuf,
    _file: File,
}

impl LockedFile {
    /// `None` when somebody else has it.
    fn take(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Ok(None),
                Err(fs::TryLockError::Error(error)) => return Err(error),
            }
            // Its last holder may have removed it between our two steps: then it keeps nobody away.
            let ours = file.metadata()?;
            if fs::symlink_metadata(path)
                .is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
            {
                let file = process::let_go_first(file.into()).into();
                return Ok(Some(Self { path: path.to_owned(), _file: file }));
            }
        }
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // Before the lock is let go, or it could be the next one's. What is not empty stays.
        let _ = fs::remove_file(&self.path);
        remove_own(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_file_has_one_holder_and_goes_with_it() {
        let folder = std::env::temp_dir().join(format!("greway-sole-{}", std::process::id()));
        fs::create_dir_all(folder.join("net-1")).unwrap();
        let path = folder.join("net-1/lock");
        let first = LockedFile::take(&path).unwrap().unwrap();
        assert!(LockedFile::take(&path).unwrap().is_none());
        drop(first);
        assert!(!folder.exists());
    }
}
