//! Where a daemon's socket, state and log are.
//!
//! One daemon a network namespace, found by the caller's namespace: the directory's name is the
//! namespace's cookie, which the kernel never gives out twice in one boot (inode numbers come
//! back, and a new namespace must not inherit a dead one's tunnels). The state is for this boot
//! only, so it lies in /run.
//!
//! What is made here has the modes named here, whatever the caller's umask: who may write to the
//! directories can write what root's daemon believes. Nothing that somebody else made is used.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
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
    /// Held locked by the daemon of this network namespace, wherever its socket is. `None` where
    /// the namespace's own directory cannot be told.
    pub lock: Option<PathBuf>,
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
    /// When the namespace or the working directory cannot be told.
    pub fn find(socket: Option<&Path>) -> io::Result<Self> {
        let own = Self::of_namespace(&runtime_directory());
        match socket {
            // The daemon works in another directory than the verb that starts it.
            Some(path) => Ok(Self::of_socket(&std::path::absolute(path)?, own.ok())),
            None => own,
        }
    }

    fn of_socket(path: &Path, own: Option<Self>) -> Self {
        Self {
            socket: path.to_owned(),
            state: with_suffix(path, ".state"),
            log: with_suffix(path, ".log"),
            lock: own.and_then(|own| own.lock),
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
            lock: Some(directory.join("lock")),
            owns_directory: true,
        })
    }

    /// Makes the directories.
    ///
    /// # Errors
    /// The system's, for example no permission or a full disk; `PermissionDenied` for one that
    /// others than this user can write to.
    pub fn create(&self) -> io::Result<()> {
        if let Some(parent) = self.socket.parent() {
            if self.owns_directory {
                make_own(parent)?;
            } else {
                // The user's choice, /tmp for example: whose it is and who may look into it is not ours to say.
                is_there(parent)?;
            }
        }
        make_directory(&self.state)
    }

    /// Makes the directory of the lock; `None` where it cannot be had or is not ours alone.
    pub(crate) fn make_lock(&self) -> Option<&Path> {
        let lock = self.lock.as_deref()?;
        match make_own(lock.parent()?) {
            Ok(()) => Some(lock),
            Err(error) => {
                tracing::debug!(%error, "no place for a lock");
                None
            }
        }
    }

    /// Whether a daemon of this network namespace, with this socket or another, has its lock.
    pub fn is_held(&self) -> bool {
        let lock = self.lock.as_ref().and_then(|lock| File::open(lock).ok());
        lock.is_some_and(|lock| matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock)))
    }

    /// Whether a daemon has the lock of the network namespace with this cookie.
    pub(crate) fn is_held_in(cookie: u64) -> bool {
        let lock = runtime_directory().join(format!("net-{cookie}")).join("lock");
        Self { lock: Some(lock), ..Self::of_socket(Path::new(""), None) }.is_held()
    }

    /// Opens the log for appending, made where there is none.
    ///
    /// # Errors
    /// The system's; `PermissionDenied` for what is no file of this user.
    pub fn open_log(&self) -> io::Result<File> {
        let mut options = File::options();
        options.append(true).mode(0o644);
        match options.clone().create_new(true).open(&self.log) {
            Ok(mut log) => {
                log.set_permissions(fs::Permissions::from_mode(0o644))?;
                log.write_all(LOG_HEADER)?;
                Ok(log)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let present = fs::symlink_metadata(&self.log)?;
                if !present.is_file() || present.uid() != process::effective_uid() {
                    let text = format!("{} is no file of this user", self.log.display());
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
                }
                options.open(&self.log)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes what is empty or ours after the last tunnel is gone. Errors are of no use to
    /// anybody then: what is not empty stays.
    pub fn clear(&self) {
        // A write that a crash cut off is nobody's tunnel.
        for entry in fs::read_dir(&self.state).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|kind| kind == "new") {
                let _ = fs::remove_file(entry.path());
            }
        }
        let _ = fs::remove_dir(&self.state);
        if self.owns_directory || is_own_log(&self.log) {
            let _ = fs::remove_file(&self.log);
        }
        if let Some(lock) = &self.lock {
            // One that is locked is a daemon's, which takes it away itself.
            if let Ok(file) = File::open(lock)
                && file.try_lock().is_ok()
            {
                let _ = fs::remove_file(lock);
            }
            remove_own(lock);
        }
    }
}

/// For everybody to look into, and for us alone to write to.
const DIRECTORY_MODE: u32 = 0o755;

/// The first line of every log that [`Location::open_log`] made; only such logs are cut and removed.
pub(crate) const LOG_HEADER: &[u8] =
    b"-- log of a greway daemon in the background; goes with its last tunnel\n";

/// Whether a log is one that [`Location::open_log`] made.
pub(crate) fn is_own_log(log: &Path) -> bool {
    let is_own = fs::symlink_metadata(log)
        .is_ok_and(|present| present.is_file() && present.uid() == process::effective_uid());
    let mut start = [0; LOG_HEADER.len()];
    is_own && File::open(log).is_ok_and(|mut file| file.read_exact(&mut start).is_ok() && start == LOG_HEADER)
}

/// Removes the namespace's own directory around `file`, and /run/greway with the last of them.
pub(crate) fn remove_own(file: &Path) {
    for directory in file.ancestors().skip(1).take(2) {
        let _ = fs::remove_dir(directory);
    }
}

/// That the folder of a socket that somebody named is there.
fn is_there(folder: &Path) -> io::Result<()> {
    let refused = |error: io::Error| {
        let what = format!(
            "the folder of the socket, {}: {error}; make it, so that whom you mean can reach it, or name a socket elsewhere",
            folder.display()
        );
        Err(io::Error::new(error.kind(), what))
    };
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => refused(io::ErrorKind::NotADirectory.into()),
        Err(error) => refused(error),
    }
}

/// Makes a namespace's own directory and the one around it.
fn make_own(directory: &Path) -> io::Result<()> {
    if let Some(base) = directory.parent() {
        make_directory(base)?;
    }
    make_directory(directory)
}

/// Makes a directory that we alone can write to, or takes the one that is there if it is so.
fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(DIRECTORY_MODE)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => refuse_foreign(path),
        Err(error) => Err(error),
    }
}

/// A directory that somebody else made, or can write to, could hold somebody else's socket and state:
/// below /tmp anyone may have been first.
fn refuse_foreign(directory: &Path) -> io::Result<()> {
    let present = fs::symlink_metadata(directory)?;
    let wrong = if !present.is_dir() {
        "is no directory".to_owned()
    } else if present.uid() != process::effective_uid() {
        format!("belongs to uid {}", present.uid())
    } else if present.mode() & 0o022 != 0 {
        "can be written to by others".to_owned()
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{} {wrong}", directory.display())))
}

/// Whether greway ever had a directory on this host, as far as this user can see. Changes nothing, where
/// [`Location::find`] makes root's.
pub fn any_exists() -> bool {
    let users = std::env::var_os("XDG_RUNTIME_DIR").map(|directory| PathBuf::from(directory).join("greway"));
    let temporary = std::env::temp_dir().join(format!("greway-{}", process::effective_uid()));
    [Some(PathBuf::from("/run/greway")), users, Some(temporary)]
        .into_iter()
        .flatten()
        .any(|path| path.exists())
}

/// `/run/greway` for root, else the user's own runtime directory.
fn runtime_directory() -> PathBuf {
    let run = PathBuf::from("/run/greway");
    let is_roots = |run: &Path| fs::symlink_metadata(run).is_ok_and(|run| run.is_dir() && run.uid() == 0);
    // Root of a user namespace sees the host's directory as somebody else's. An unprivileged reader asks
    // root's daemon, where there is one.
    if process::effective_uid() == 0 && make_directory(&run).is_ok() || is_roots(&run) {
        return run;
    }
    // It may be left over from another user, or be named and not made.
    let is_ours = |path: &PathBuf| {
        fs::symlink_metadata(path).is_ok_and(|at| at.is_dir() && at.uid() == process::effective_uid())
    };
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(is_ours) {
        Some(directory) => directory.join("greway"),
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

    /// Any user may name a path of his own, from where he is.
    #[test]
    fn a_named_socket_is_where_the_caller_is() {
        let location = Location::find(Some(Path::new("a.sock"))).unwrap();
        assert_eq!(location.socket, std::env::current_dir().unwrap().join("a.sock"));
        assert!(location.log.is_absolute() && location.state.is_absolute());
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("greway-location-{name}-{}", std::process::id()));
        make_directory(&folder).unwrap();
        folder
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn what_others_can_write_to_is_refused() {
        let base = folder("refused");
        let location = Location::of_namespace(&base).unwrap();
        location.create().unwrap();
        for directory in [base.as_path(), location.socket.parent().unwrap(), &location.state] {
            assert_eq!(mode(directory), 0o755);
            for open in [0o775, 0o757] {
                fs::set_permissions(directory, fs::Permissions::from_mode(open)).unwrap();
                let refused = location.create().unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
                assert!(refused.to_string().contains(&format!("{} can be written", directory.display())));
            }
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::remove_dir(&location.state).unwrap();
        std::os::unix::fs::symlink("/", &location.state).unwrap();
        assert!(location.create().unwrap_err().to_string().contains("is no directory"));
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn no_folder_is_made_for_a_named_socket() {
        let base = folder("named");
        let missing = base.join("not/there");
        let location = Location::of_socket(&missing.join("a.sock"), None);
        let refused = location.create().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
        assert!(refused.to_string().contains(&missing.display().to_string()), "{refused}");
        assert_eq!(fs::read_dir(&base).unwrap().count(), 0, "nothing was made");
        File::create(base.join("file")).unwrap();
        let refused = Location::of_socket(&base.join("file/a.sock"), None).create().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotADirectory, "{refused}");
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn clear_takes_what_is_ours_and_nothing_else() {
        let folder = folder("clear");
        let base = folder.join("run");
        make_directory(&base).unwrap();
        let location = Location::of_socket(&folder.join("a.sock"), Location::of_namespace(&base).ok());
        location.create().unwrap();
        let log = location.open_log().unwrap();
        assert_eq!(log.metadata().unwrap().mode() & 0o777, 0o644);
        location.open_log().unwrap().write_all(b"more\n").unwrap();
        fs::write(location.state.join("tun0.json.new"), "half").unwrap();
        File::create(location.make_lock().unwrap()).unwrap();
        location.clear();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "nothing is left");

        fs::write(&location.log, "a log of somebody else's making\n").unwrap();
        location.clear();
        assert!(location.log.exists());
        fs::remove_file(&location.log).unwrap();
        std::os::unix::fs::symlink("elsewhere", &location.log).unwrap();
        assert_eq!(location.open_log().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_lock_that_is_held_stays() {
        let base = folder("held");
        let location = Location::of_namespace(&base).unwrap();
        let lock = File::create(location.make_lock().unwrap()).unwrap();
        lock.try_lock().unwrap();
        location.clear();
        assert!(location.lock.as_ref().unwrap().exists() && location.is_held());
        drop(lock);
        assert!(!location.is_held());
        location.clear();
        assert!(!base.exists());
    }

    #[test]
    fn one_namespace_has_one_location() {
        let base = Path::new("/base");
        let here = Location::of_namespace(base).unwrap();
        assert_eq!(here, Location::of_namespace(base).unwrap());
        assert!(here.socket.starts_with("/base"));
    }
}
