//! What a daemon tells the service manager that started it (sd_notify(3)): that it answers, that it lives, that it
//! ends. Without one nothing is told.
//!
//! A heartbeat says that the daemon does its work, so it is given by the thread that does it, after a round of it
//! (`Heart::beat` in `daemon/watch.rs`), and never by one that would live on beside a daemon that hangs.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a service manager sets for the process it starts. None of it is for what that process starts in turn.
pub const VARIABLES: &[&str] = &[
    "INVOCATION_ID",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// A manager that takes nothing in must not keep the daemon from its work.
const PATIENCE: Duration = Duration::from_secs(1);

/// The manager's end, where there is one.
#[derive(Debug, Default)]
pub(crate) struct Manager {
    channel: Option<Channel>,
    /// A daemon that is silent for longer is killed.
    watchdog: Option<Duration>,
}

#[derive(Debug)]
struct Channel {
    socket: UnixDatagram,
    to: SocketAddr,
}

impl Manager {
    /// The one that the environment names.
    pub(crate) fn find() -> Self {
        let variable = |name| std::env::var_os(name);
        Self::of(variable("NOTIFY_SOCKET"), variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"))
    }

    fn of(socket: Option<OsString>, microseconds: Option<OsString>, pid: Option<OsString>) -> Self {
        let channel = socket.and_then(|name| {
            open(&name).inspect_err(|error| tracing::warn!(%error, "cannot tell the service manager")).ok()
        });
        let number = |text: OsString| text.to_str()?.parse::<u64>().ok();
        let is_for_us = pid.is_none_or(|pid| number(pid) == Some(u64::from(std::process::id())));
        let microseconds = microseconds.and_then(number).filter(|time| is_for_us && *time > 0);
        Self { channel, watchdog: microseconds.map(Duration::from_micros) }
    }

    /// The daemon ends and leaves things as they are.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// What gives the heartbeat.
    pub(crate) fn heart(self: &Arc<Self>) -> Heart {
        let every = self.watchdog.filter(|_| self.channel.is_some()).map(|watchdog| watchdog / 3);
        Heart { manager: Arc::clone(self), every, last: Arc::default(), said: Arc::default() }
    }

    fn tell(&self, words: &str) -> bool {
        let Some(Channel { socket, to }) = &self.channel else { return false };
        match socket.send_to_addr(words.as_bytes(), to) {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%error, words, "the service manager does not take what it is told");
                false
            }
        }
    }
}

fn open(name: &OsStr) -> io::Result<Channel> {
    let to = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(Channel { socket, to })
}

/// The daemon's heartbeat, shared by whoever does a part of its work.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heart {
    manager: Arc<Manager>,
    every: Option<Duration>,
    last: Arc<Mutex<Option<Instant>>>,
    /// What was said last; nothing before the daemon is ready.
    said: Arc<Mutex<Option<String>>>,
}

impl Heart {
    /// Whether a beat is due: then the caller proves that all of it works, and beats.
    pub(crate) fn is_due(&self) -> bool {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        self.every.is_some_and(|every| last.is_none_or(|last| last.elapsed() >= every))
    }

    /// The daemon answers.
    pub(crate) fn ready(&self, status: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        self.manager.tell(&format!("READY=1\nSTATUS={status}"));
        *said = Some(status.to_owned());
    }

    /// Says what the daemon does now, for `systemctl status`, where it is news.
    pub(crate) fn status(&self, status: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let news = said.as_ref().is_some_and(|said| said != status);
        if news && self.manager.tell(&format!("STATUS={status}")) {
            *said = Some(status.to_owned());
        }
    }

    /// Tells the manager that the daemon lives. One that was not taken is tried again at the next occasion.
    pub(crate) fn beat(&self) {
        if self.manager.tell("WATCHDOG=1") {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(name: &str) -> (UnixDatagram, OsString) {
        let name = format!("greway-notify-{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        (socket, format!("@{name}").into())
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn the_manager_hears_of_the_beginning_the_heartbeat_and_the_end() {
        let (socket, name) = manager("all");
        let manager = Arc::new(Manager::of(Some(name), Some("90000000".into()), None));
        let heart = manager.heart();
        heart.status("carries 9 tunnels");
        heart.ready("carries 1 tunnel");
        assert_eq!(heard(&socket), "READY=1\nSTATUS=carries 1 tunnel", "nothing before");
        assert!(heart.is_due(), "the first one");
        heart.beat();
        assert_eq!(heard(&socket), "WATCHDOG=1");
        assert!(!heart.is_due(), "a third of 90 s is not over");
        heart.status("carries 2 tunnels");
        heart.status("carries 2 tunnels");
        heart.status("carries 3 tunnels");
        assert_eq!(
            [heard(&socket), heard(&socket)],
            ["STATUS=carries 2 tunnels", "STATUS=carries 3 tunnels"]
        );
        manager.stopping();
        assert_eq!(heard(&socket), "STOPPING=1");
    }

    #[test]
    fn a_watchdog_for_another_process_and_none_at_all_need_no_heartbeat() {
        let (_socket, name) = manager("none");
        let due = |socket: Option<OsString>, time: Option<&str>, pid: Option<&str>| {
            let manager = Manager::of(socket, time.map(OsString::from), pid.map(OsString::from));
            Arc::new(manager).heart().is_due()
        };
        let ours = std::process::id().to_string();
        assert!(due(Some(name.clone()), Some("3000000"), Some(&ours)));
        assert!(!due(Some(name.clone()), Some("3000000"), Some("1")));
        assert!(!due(Some(name.clone()), Some("0"), None));
        assert!(!due(Some(name.clone()), Some("soon"), None));
        assert!(!due(Some(name), None, None));
        assert!(!due(None, Some("3000000"), None));
    }

    #[test]
    fn a_manager_that_is_gone_hinders_nothing() {
        let manager = Arc::new(Manager::of(Some("/nowhere/notify".into()), Some("3000000".into()), None));
        manager.heart().ready("");
        let heart = manager.heart();
        heart.beat();
        assert!(heart.is_due(), "it is tried again");
    }
}
