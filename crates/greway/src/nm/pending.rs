//! Devices that are on their way: `nmcli connection add …` returns before its tunnel is there, and the next line of
//! a script is `ip route add … dev tun0`.
//!
//! ```text
//! /run/greway/net-COOKIE/pending/          while a watcher runs, which holds .watcher locked
//! /run/greway/net-COOKIE/pending/tun0      from when it has seen the profile until the device is up, or is not to be
//! ```
//!
//! It is no lock, and nobody's truth: who waits goes on in any case, after some time.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use greway_control::location::Location;

/// How long an announced device may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long the watcher may take to hear of a profile: the signal and the end of nmcli race.
const GRACE: Duration = Duration::from_millis(150);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// The file that the watcher holds locked. No device has a name like that.
const WATCHER: &str = ".watcher";

/// What came of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The device is there.
    There,
    /// Nobody is making it.
    NotPending,
    /// It was announced, and did not come.
    TimedOut,
}

fn directory(location: &Location) -> Option<PathBuf> {
    Some(location.socket.parent()?.join("pending"))
}

/// Waits for the device `name` of this network namespace, where a watcher announced it. At once where none runs.
pub(crate) fn wait(location: &Location, name: &str) -> Wait {
    let Some(directory) = directory(location) else { return Wait::NotPending };
    wait_in(&directory, name, || is_there(name), PATIENCE, GRACE)
}

fn wait_in(
    directory: &Path,
    name: &str,
    is_there: impl Fn() -> bool,
    patience: Duration,
    grace: Duration,
) -> Wait {
    // A name with a slash in it is no device's and would lead elsewhere.
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Wait::NotPending;
    }
    let began = Instant::now();
    let announced = directory.join(name);
    let mut seen = false;
    loop {
        let pending = announced.exists();
        seen |= pending;
        match (pending, is_there()) {
            // It may have to come up yet: it is ready when it is no longer announced.
            (true, _) if began.elapsed() < patience => {}
            (true, _) => return Wait::TimedOut,
            (false, true) => return Wait::There,
            (false, false) if seen || began.elapsed() >= grace || !is_watched(directory) => {
                return if seen { Wait::TimedOut } else { Wait::NotPending };
            }
            (false, false) => {}
        }
        thread::sleep(PAUSE);
    }
}

fn is_there(name: &str) -> bool {
    let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::DGRAM, None);
    socket.is_ok_and(|socket| rustix::net::netdevice::name_to_index(&socket, name).is_ok())
}

/// Whether a watcher lives: one that was killed leaves its directory, not its lock.
fn is_watched(directory: &Path) -> bool {
    let lock = File::open(directory.join(WATCHER));
    lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// The watcher's side. The announcements go with it.
#[derive(Debug)]
pub(crate) struct Announcements {
    directory: PathBuf,
    _lock: File,
}

impl Announcements {
    /// Takes the place of this network namespace's watcher.
    ///
    /// # Errors
    /// The system's; `WouldBlock` when another watcher runs here.
    pub(crate) fn open(location: &Location) -> io::Result<Self> {
        // Makes the namespace's own directory with the right modes.
        location.create()?;
        Self::open_in(directory(location).ok_or(io::ErrorKind::NotFound)?)
    }

    fn open_in(directory: PathBuf) -> io::Result<Self> {
        match fs::DirBuilder::new().mode(0o755).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let lock = File::options().create(true).truncate(false).write(true).open(directory.join(WATCHER))?;
        lock.try_lock().map_err(io::Error::from)?;
        let announcements = Self { directory, _lock: lock };
        announcements.clear();
        Ok(announcements)
    }

    /// Says that a device is on its way. Who does not hear it fails as without us.
    pub(crate) fn announce(&self, name: &str) {
        if let Err(error) = File::create(self.directory.join(name)) {
            tracing::warn!(device = name, %error, "cannot say that it is on its way");
        }
    }

    /// Says that it is there, or will not be.
    pub(crate) fn settle(&self, name: &str) {
        // One that is not there was never announced.
        let _ = fs::remove_file(self.directory.join(name));
    }

    fn clear(&self) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if entry.file_name() != WATCHER {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

impl Drop for Announcements {
    fn drop(&mut self) {
        self.clear();
        let _ = fs::remove_file(self.directory.join(WATCHER));
        let _ = fs::remove_dir(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(20);

    fn folder(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("greway-pending-{name}-{}", std::process::id()))
    }

    #[test]
    fn without_a_watcher_nothing_is_waited_for() {
        assert_eq!(wait_in(&folder("none"), "tun0", || false, LONG, LONG), Wait::NotPending);
        let dead = folder("dead");
        fs::create_dir(&dead).unwrap();
        File::create(dead.join(WATCHER)).unwrap();
        assert_eq!(wait_in(&dead, "tun0", || false, LONG, LONG), Wait::NotPending);
        fs::remove_dir_all(dead).unwrap();
    }

    #[test]
    fn a_device_is_waited_for_until_it_is_no_longer_announced() {
        let folder = folder("announced");
        let announcements = Announcements::open_in(folder.clone()).unwrap();
        announcements.announce("tun0");
        let looks = Cell::new(0);
        let is_there = || {
            looks.set(looks.get() + 1);
            if looks.get() == 3 {
                announcements.settle("tun0");
            }
            looks.get() > 1
        };
        assert_eq!(wait_in(&folder, "tun0", is_there, LONG, SHORT), Wait::There);
        assert_eq!(looks.get(), 4);
        announcements.announce("tun1");
        assert_eq!(wait_in(&folder, "tun1", || false, SHORT, SHORT), Wait::TimedOut);
        drop(announcements);
        assert!(!folder.exists());
    }

    #[test]
    fn a_watcher_that_has_not_heard_yet_gets_a_moment() {
        let folder = folder("grace");
        let announcements = Announcements::open_in(folder.clone()).unwrap();
        let looks = Cell::new(0);
        let is_there = || {
            looks.set(looks.get() + 1);
            match looks.get() {
                2 => announcements.announce("tun0"),
                4 => announcements.settle("tun0"),
                _ => {}
            }
            looks.get() >= 4
        };
        assert_eq!(wait_in(&folder, "tun0", is_there, LONG, LONG), Wait::There);
        assert_eq!(wait_in(&folder, "other", || false, LONG, SHORT), Wait::NotPending);
        assert_eq!(wait_in(&folder, "../x", || false, LONG, LONG), Wait::NotPending);
    }

    #[test]
    fn one_watcher_a_namespace() {
        let folder = folder("one");
        let first = Announcements::open_in(folder.clone()).unwrap();
        assert_eq!(Announcements::open_in(folder.clone()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        drop(Announcements::open_in(folder).unwrap());
    }
}
