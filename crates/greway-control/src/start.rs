//! A daemon when a verb needs one: found where it runs, started where it does not.
//!
//! Where the package's units are installed and the caller is in PID 1's network namespace, the daemon is
//! `greway.service`, reached through the socket that systemd holds for it. In other namespaces under systemd it
//! becomes a transient unit with `Restart=always`; elsewhere it goes to the background under a supervisor of its own ([`supervise`]), in PID 1's mount namespace and outside
//! the caller's cgroup where that is allowed, so that it outlives the shell, the container exec or
//! the `ip netns exec` that it was started from (whose private mounts die with them).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use greway_linux::process;
use greway_linux::signal::{self, Signal, Signals};

use crate::api::client::{Client, ClientError};
use crate::api::{Reply, Request};
use crate::location::{self, Location};
use crate::sd_notify;
use crate::unit::{self, Systemd};

/// How long a new daemon may take until it answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a daemon that died may take to be followed by another one.
const SUCCESSION: Duration = Duration::from_secs(5);

/// A child that lives shorter than this is failing, not failed.
const SHORT_LIFE: Duration = Duration::from_secs(2);

/// How a daemon came to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Started {
    /// It ran already.
    Ran,
    /// As a unit of systemd.
    Unit(String),
    /// In the background, supervised.
    Background {
        /// The daemon's process.
        pid: u32,
        /// Its log.
        log: PathBuf,
    },
}

/// Why there is no daemon.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directories for socket and state cannot be made.
    #[error("cannot make {}{}", path.display(), if process::effective_uid() == 0 { "" } else { "; changing tunnels needs root, try sudo" })]
    NoDirectory {
        /// Which.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The program could not be run.
    #[error("cannot start the greway daemon")]
    Spawn(#[from] io::Error),
    /// One runs, or might, and cannot be talked to.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The unit that is installed for it does not come up.
    #[error("{} did not start: {words}; `systemctl status {}` says more", unit::INSTALLED, unit::INSTALLED)]
    Unit {
        /// What systemctl said.
        words: String,
    },
    /// It ended at once.
    #[error("the greway daemon did not start: {0}")]
    Died(String),
    /// It runs and does not answer.
    #[error("the greway daemon was started but does not answer at {}; its log is {}", socket.display(), log.display())]
    Silent {
        /// Where it should answer.
        socket: PathBuf,
        /// Its log.
        log: PathBuf,
    },
}

/// Connects to the daemon at `location`, starting one when nobody answers.
///
/// # Errors
/// [`StartError`], with the daemon's own last words where it had any.
pub fn connect(location: &Location) -> Result<(Client, Started), StartError> {
    if let Some(client) = find(location)? {
        return Ok((client, Started::Ran));
    }
    // Or how our children end is never told, when our caller does not care for the ends of its own.
    signal::restore_default(&[Signal::Child])?;
    location.create().map_err(|source| StartError::NoDirectory { path: location.state.clone(), source })?;
    let systemd = Systemd::default();
    if let Some(client) = systemd.activate(location)? {
        return Ok((client, Started::Unit(unit::INSTALLED.to_owned())));
    }
    if let Some(unit) = systemd.start(location)
        && let Ok(client) = wait(location, None)
    {
        return Ok((client, Started::Unit(unit)));
    }
    let mut supervisor = spawn_background(location)?;
    let mut client = wait(location, Some(&mut supervisor))?;
    let pid = client.hello().map_or_else(|_| supervisor.id(), |hello| hello.pid);
    Ok((client, Started::Background { pid, log: location.log.clone() }))
}

/// Connects only; `None` where no daemon runs.
///
/// # Errors
/// [`ClientError`] when there is one, or something that looks like it, that cannot be talked to.
pub fn find(location: &Location) -> Result<Option<Client>, ClientError> {
    match Client::connect(&location.socket) {
        Ok(client) => Ok(Some(client)),
        Err(ClientError::NoDaemon { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Asks, and asks again when the connection was to a daemon that ended before it answered: the next daemon, which for a
/// change is started if need be, has adopted what that one left. Whoever only reads starts none, and waits
/// a while for the one that a supervisor starts.
///
/// # Errors
/// As [`Client::ask`] and [`connect`].
pub fn ask(client: &mut Client, location: &Location, request: &Request) -> Result<Reply, StartError> {
    let deadline = Instant::now() + SUCCESSION;
    loop {
        match client.ask(request) {
            Err(ClientError::Unheard { .. }) if Instant::now() < deadline => {
                *client = match request {
                    Request::Stop { .. } => Client::connect(&location.socket)?,
                    _ if request.is_read_only() => next(location, deadline)?,
                    _ => connect(location)?.0,
                };
            }
            answer => return Ok(answer?),
        }
    }
}

/// The daemon that takes the place of one that ended.
fn next(location: &Location, deadline: Instant) -> Result<Client, ClientError> {
    // A daemon that ends in order takes its socket with it, and mostly nobody comes after it. What is left of one that
    // was killed refuses, until the next one has its own there.
    let mut until = deadline.min(Instant::now() + SHORT_LIFE / 8);
    loop {
        match Client::connect(&location.socket) {
            Err(ClientError::NoDaemon { socket, source }) => {
                if source.kind() == io::ErrorKind::ConnectionRefused {
                    until = deadline;
                }
                if Instant::now() > until {
                    return Err(ClientError::NoDaemon { socket, source });
                }
                thread::sleep(Duration::from_millis(5));
            }
            answer => return answer,
        }
    }
}

/// What a background daemon does first, and its supervisor's whole work: leave the caller's
/// descriptors, signals, session, cgroup and mount namespace, then run the daemon and run it again when it dies.
///
/// # Errors
/// When the daemon cannot even be run.
pub fn supervise(location: &Location) -> io::Result<ExitStatus> {
    close_inherited();
    signal::restore_default(&[Signal::Child, Signal::Terminate, Signal::Interrupt, Signal::HangUp])?;
    Signals::unblock_all()?;
    process::new_session()?;
    // Both are wishes: a container may forbid them, and then the daemon lives as long as it may.
    if let Err(error) = process::leave_cgroup() {
        tracing::debug!(%error, "stays in the caller's cgroup");
    }
    if let Err(error) = process::enter_init_mount_namespace() {
        tracing::debug!(%error, "stays in the caller's mount namespace");
    }
    let program = own_program()?;
    let mut pause = Duration::ZERO;
    loop {
        let born = Instant::now();
        let mut child = daemon_command(&program, location).spawn()?;
        let status = child.wait()?;
        if status.success() || matches!(status.code(), Some(REFUSED | TAKEN)) {
            return Ok(status);
        }
        pause = if born.elapsed() > SHORT_LIFE {
            Duration::ZERO
        } else {
            (pause * 2).clamp(Duration::from_millis(100), Duration::from_secs(10))
        };
        tracing::error!(%status, "the daemon died and is started again");
        thread::sleep(pause);
    }
}

/// Exit code of a daemon that cannot run here at all; it is not tried again.
pub const REFUSED: i32 = 77;

/// Exit code of a daemon that found another one in its network namespace; it is not tried again either.
pub const TAKEN: i32 = 75;

/// The program of a daemon that is started: our own. NetworkManager's device handler is a copy of it at a place where
/// that name means another thing; where the package put the program there is that.
pub(crate) fn own_program() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    if own.parent().is_some_and(|folder| folder.ends_with("dispatcher.d/device")) {
        let installed = ["/usr/bin/greway", "/usr/local/bin/greway"].map(PathBuf::from);
        return installed
            .into_iter()
            .find(|path| path.is_file())
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no /usr/bin/greway"));
    }
    Ok(own)
}

fn daemon_command(program: &Path, location: &Location) -> Command {
    let mut command = Command::new(program);
    if !location.owns_directory {
        command.arg("--socket").arg(&location.socket);
    }
    command.arg("daemon").stdin(Stdio::null());
    own_master(&mut command);
    command
}

/// A daemon in the background is not the service that its caller may be a part of: it neither speaks for that, nor
/// does it end as the unit's main process would.
fn own_master(command: &mut Command) {
    for variable in sd_notify::VARIABLES {
        command.env_remove(variable);
    }
}

fn spawn_background(location: &Location) -> Result<Child, StartError> {
    // Here and not in the supervisor, or it would hold them itself.
    close_inherited();
    let log = location
        .open_log()
        .map_err(|source| StartError::NoDirectory { path: location.log.clone(), source })?;
    let mut command = Command::new(own_program()?);
    if !location.owns_directory {
        command.arg("--socket").arg(&location.socket);
    }
    command.args(["daemon", "--supervise"]);
    own_master(&mut command);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
    Ok(command.spawn()?)
}

/// A wish: without it we work as well, and the caller's locks and pipes last as long as we do.
fn close_inherited() {
    if let Err(error) = process::close_inherited() {
        tracing::debug!(%error, "keeps what the caller has open");
    }
}

fn wait(location: &Location, mut child: Option<&mut Child>) -> Result<Client, StartError> {
    let deadline = Instant::now() + PATIENCE;
    let mut ended = None;
    let mut again = false;
    loop {
        if let Some(client) = find(location)? {
            return Ok(client);
        }
        if let Some(child) = &mut child
            && let Some(status) = child.try_wait()?
        {
            // Another verb may have started one at the same time, which answers any moment, or the one
            // that is in the way is at its end.
            let since = *ended.get_or_insert_with(Instant::now);
            if status.code() != Some(TAKEN) || since.elapsed() > SHORT_LIFE {
                return Err(StartError::Died(last_words(&location.log)));
            }
            if !again && since.elapsed() > SHORT_LIFE / 8 {
                again = true;
                **child = spawn_background(location)?;
            }
        }
        if Instant::now() > deadline {
            let Location { socket, log, .. } = location.clone();
            return Err(StartError::Silent { socket, log });
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The last line of a log.
fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let is_word = |line: &&str| !line.trim().is_empty() && !location::LOG_HEADER.starts_with(line.as_bytes());
    match text.lines().rfind(is_word) {
        Some(line) => line.trim().trim_start_matches("greway: ").to_owned(),
        None => format!("it left no word in {}", log.display()),
    }
}

/// Cuts a log that has grown, if it is one that we made: it lies in memory (/run), and only its end is
/// of interest.
///
/// # Errors
/// The system's.
pub fn trim_log(log: &Path, longest: u64) -> io::Result<()> {
    let length = fs::metadata(log)?.len();
    if length <= longest || !location::is_own_log(log) {
        return Ok(());
    }
    let bytes = fs::read(log)?;
    let keep = bytes.len() - usize::try_from(longest / 2).unwrap_or(0).min(bytes.len());
    // Written in place: the supervisor and the daemon have the file open for appending.
    let mut file = File::options().write(true).truncate(true).open(log)?;
    file.write_all(location::LOG_HEADER)?;
    file.write_all(&bytes[keep..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_cut_if_it_is_ours() {
        let folder = std::env::temp_dir().join(format!("greway-log-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let location = Location::find(Some(&folder.join("a.sock"))).unwrap();
        let line = "a line of the log\n";
        location.open_log().unwrap().write_all(line.repeat(1000).as_bytes()).unwrap();
        trim_log(&location.log, 1000).unwrap();
        let text = fs::read_to_string(&location.log).unwrap();
        assert!(location::is_own_log(&location.log) && text.ends_with(line) && text.len() < 1000, "{text}");
        assert_eq!(last_words(&location.log), line.trim());

        fs::write(&location.log, line.repeat(1000)).unwrap();
        trim_log(&location.log, 1000).unwrap();
        assert_eq!(fs::metadata(&location.log).unwrap().len(), 18_000, "somebody else's");
        fs::remove_dir_all(folder).unwrap();
    }
}
