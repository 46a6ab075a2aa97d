//! A daemon when a verb needs one: found where it runs, started where it does not.
//!
//! Under systemd it becomes a transient unit with `Restart=always`; elsewhere it goes to the
//! background under a supervisor of its own ([`supervise`]), in PID 1's mount namespace and outside
//! the caller's cgroup where that is allowed, so that it outlives the shell, the container exec or
//! the `ip netns exec` that it was started from (whose private mounts die with them).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use greway_linux::process;

use crate::api::client::{Client, ClientError};
use crate::location::Location;
use crate::unit::Systemd;

/// How long a new daemon may take until it answers.
const PATIENCE: Duration = Duration::from_secs(10);

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
    #[error("cannot make {}: {source}; changing tunnels needs root, try sudo", path.display())]
    NoDirectory {
        /// Which.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The program could not be run.
    #[error("cannot start the greway daemon")]
    Spawn(#[from] io::Error),
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
    if let Ok(client) = Client::connect(&location.socket) {
        return Ok((client, Started::Ran));
    }
    location.create().map_err(|source| StartError::NoDirectory { path: location.state.clone(), source })?;
    if let Some(unit) = Systemd::default().start(location)
        && let Ok(client) = wait(location, None)
    {
        return Ok((client, Started::Unit(unit)));
    }
    let mut supervisor = spawn_background(location)?;
    let mut client = wait(location, Some(&mut supervisor))?;
    let pid = client.hello().map_or_else(|_| supervisor.id(), |hello| hello.pid);
    Ok((client, Started::Background { pid, log: location.log.clone() }))
}

/// Connects only.
///
/// # Errors
/// [`ClientError::NoDaemon`].
pub fn find(location: &Location) -> Result<Client, ClientError> {
    Client::connect(&location.socket)
}

/// What a background daemon does first, and its supervisor's whole work: leave the caller's
/// session, cgroup and mount namespace, then run the daemon and run it again when it dies.
///
/// # Errors
/// When the daemon cannot even be run.
pub fn supervise(location: &Location) -> io::Result<ExitStatus> {
    process::new_session()?;
    // Both are wishes: a container may forbid them, and then the daemon lives as long as it may.
    if let Err(error) = process::leave_cgroup() {
        tracing::debug!(%error, "stays in the caller's cgroup");
    }
    if let Err(error) = process::enter_init_mount_namespace() {
        tracing::debug!(%error, "stays in the caller's mount namespace");
    }
    let program = std::env::current_exe()?;
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

fn daemon_command(program: &Path, location: &Location) -> Command {
    let mut command = Command::new(program);
    if !location.owns_directory {
        command.arg("--socket").arg(&location.socket);
    }
    command.arg("daemon").stdin(Stdio::null());
    command
}

fn spawn_background(location: &Location) -> Result<Child, StartError> {
    let log = OpenOptions::new().create(true).append(true).open(&location.log);
    let log = log.map_err(|source| StartError::NoDirectory { path: location.log.clone(), source })?;
    let mut command = Command::new(std::env::current_exe()?);
    if !location.owns_directory {
        command.arg("--socket").arg(&location.socket);
    }
    command.args(["daemon", "--supervise"]);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
    Ok(command.spawn()?)
}

fn wait(location: &Location, mut child: Option<&mut Child>) -> Result<Client, StartError> {
    let deadline = Instant::now() + PATIENCE;
    let mut ended = None;
    loop {
        if let Ok(client) = Client::connect(&location.socket) {
            return Ok(client);
        }
        if let Some(child) = &mut child
            && let Some(status) = child.try_wait()?
        {
            // Another verb may have started one at the same time, which answers any moment.
            let until = *ended.get_or_insert_with(|| Instant::now() + SHORT_LIFE);
            if status.code() != Some(TAKEN) || Instant::now() > until {
                return Err(StartError::Died(last_words(&location.log)));
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
    match text.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => line.trim().to_owned(),
        None => format!("it left no word in {}", log.display()),
    }
}

/// Cuts a log that has grown: it lies in memory (/run), and only its end is of interest.
///
/// # Errors
/// The system's.
pub fn trim_log(log: &Path, longest: u64) -> io::Result<()> {
    let length = fs::metadata(log)?.len();
    if length <= longest {
        return Ok(());
    }
    let bytes = fs::read(log)?;
    let keep = bytes.len() - usize::try_from(longest / 2).unwrap_or(0).min(bytes.len());
    // Written in place: the supervisor and the daemon have the file open for appending.
    let mut file = File::options().write(true).truncate(true).open(log)?;
    file.write_all(&bytes[keep..])
}
