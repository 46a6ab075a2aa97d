//! Where a daemon's socket, state and log are.
//!
//! One daemon a network namespace, found by the caller's namespace: the directory's name is the
//! namespace's cookie, which the kernel never gives out twice in one boot (inode numbers come
//! back, and a new namespace must not inherit a dead one's tunnels). The state is for this boot
//! only, so it lies in /run.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use greway_linux::{netns, process};

/// The files of one daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The API socket.
    pub socket: PathBuf,
    /// Directory of what survives the daemon: one file a tunnel.
    pub state: PathBuf,
    /// Where a daemon that was started in the background writes its log.
    pub log: PathBuf,
    /// Whether the daemon owns the directory of the socket and may remove it when empty.
    pub owns_directory: bool,
}

/// The environment variable that names a socket.
pub const SOCKET_VARIABLE: &str = "GREWAY_SOCKET";

impl Location {
    /// The location for a socket that was named, or the one of the calling thread's network
    /// namespace.
    ///
    /// # Errors
    /// When the namespace cannot be told apart.
    pub fn find(socket: Option<&Path>) -> io::Result<Self> {
        match socket {
            Some(path) => Ok(Self::of_socket(path)),
            None => Self::of_namespace(&runtime_directory()),
        }
    }

    fn of_socket(path: &Path) -> Self {
        Self {
            socket: path.to_owned(),
            state: with_suffix(path, ".state"),
            log: with_suffix(path, ".log"),
            owns_directory: false,
        }
    }

    fn of_namespace(base: &Path) -> io::Result<Self> {
        let directory = base.join(match netns::cookie()? {
            Some(cookie) => format!("net-{cookie}"),
            // Before Linux 5.14 there is no cookie; the inode is the best there is.
            None => format!("net-i{}", netns::NetNamespace::current()?.inode()?),
        });
        Ok(Self {
            socket: directory.join("control.sock"),
            state: directory.join("tunnels"),
            log: directory.join("log"),
            owns_directory: true,
        })
    }

    /// Makes the directories.
    ///
    /// # Errors
    /// The system's, for example no permission or a full disk.
    pub fn create(&self) -> io::Result<()> {
        if let Some(parent) = self.socket.parent() {
            fs::create_dir_all(parent)?;
            if self.owns_directory {
                refuse_foreign(parent)?;
            }
        }
        fs::create_dir_all(&self.state)
    }

    /// Removes what is empty or ours after the last tunnel is gone. Errors are of no use to
    /// anybody then: what is not empty stays.
    pub fn clear(&self) {
        let _ = fs::remove_dir(&self.state);
        if self.owns_directory {
            let _ = fs::remove_file(&self.log);
            if let Some(directory) = self.socket.parent() {
                let _ = fs::remove_dir(directory);
                if let Some(base) = directory.parent() {
                    let _ = fs::remove_dir(base);
                }
            }
        }
    }
}

/// A directory that somebody else made could hold somebody else's socket and state: below /tmp anyone
/// may have been first.
fn refuse_foreign(directory: &Path) -> io::Result<()> {
    let owner = fs::symlink_metadata(directory)?.uid();
    if owner == process::effective_uid() {
        return Ok(());
    }
    let text = format!("{} belongs to uid {owner}", directory.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// `/run/greway` for root, else the user's own runtime directory.
fn runtime_directory() -> PathBuf {
    let run = PathBuf::from("/run/greway");
    if process::effective_uid() == 0 && (run.is_dir() || fs::create_dir_all(&run).is_ok()) {
        return run;
    }
    if process::effective_uid() != 0 && run.is_dir() {
        // An unprivileged reader asks root's daemon.
        return run;
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) => PathBuf::from(directory).join("greway"),
        None => std::env::temp_dir().join(format!("greway-{}", process::effective_uid())),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_socket_has_its_state_beside_it() {
        let location = Location::find(Some(Path::new("/x/a.sock"))).unwrap();
        assert_eq!(location.state, Path::new("/x/a.sock.state"));
        assert_eq!(location.log, Path::new("/x/a.sock.log"));
    }

    #[test]
    fn one_namespace_has_one_location() {
        let base = Path::new("/base");
        let here = Location::of_namespace(base).unwrap();
        assert_eq!(here, Location::of_namespace(base).unwrap());
        assert!(here.socket.starts_with("/base"));
    }
}
