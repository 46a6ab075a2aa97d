//! The processes and files of a kernel lab, and the promise that none outlives it.
//!
//! Each of the demo's daemons is a process of its own, and a demo may end in ways that it cannot see: Ctrl-C, a
//! panic, `kill -9`. So a second process watches it, the warden: the two share a pipe, and when the demo's
//! end of it closes, for whatever reason, the warden ends every process of the lab and removes the lab's folder. A
//! process of the lab is one that runs this program and was given a path in the folder; a list of them would
//! lack the daemon that a verb starts by itself when it finds none. With `--keep` the warden is dismissed instead.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

/// The lab's folder, and the warden that watches over it.
pub(super) struct Lab {
    folder: PathBuf,
    warden: Option<(Child, ChildStdin)>,
}

impl Lab {
    /// Makes a folder that only this user can enter, and starts the warden.
    pub(super) fn new() -> Result<Self> {
        let folder = new_folder()?;
        let warden = start_warden(&folder);
        if warden.is_err() {
            let _ = fs::remove_dir_all(&folder);
        }
        Ok(Self { folder, warden: Some(warden?) })
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Dismisses the warden and leaves everything as it is.
    pub(super) fn keep(mut self) {
        if let Some((mut warden, mut pipe)) = self.warden.take() {
            let _ = writeln!(pipe, "{DISMISSED}");
            drop(pipe);
            let _ = warden.wait();
        }
    }

    /// Ends the lab; the folder is gone afterwards.
    pub(super) fn remove(mut self) -> PathBuf {
        self.close();
        std::mem::take(&mut self.folder)
    }

    fn close(&mut self) {
        if let Some((mut warden, pipe)) = self.warden.take() {
            drop(pipe);
            let _ = warden.wait();
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.close();
    }
}

/// What the demo tells its warden when the lab shall stay.
const DISMISSED: &str = "keep";

fn new_folder() -> Result<PathBuf> {
    let base = std::env::temp_dir();
    for attempt in 0..100 {
        let folder = base.join(format!("greway-demo-{}-{attempt}", std::process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot make a folder in {}", base.display()));
            }
        }
    }
    anyhow::bail!("cannot make a folder in {}: a hundred names are taken", base.display())
}

fn start_warden(folder: &Path) -> Result<(Child, ChildStdin)> {
    let program = program()?;
    // In a process group of its own: Ctrl-C must reach the demo and not the one who cleans up after it.
    let mut warden = Command::new(program)
        .args(["demo", "--stage", "warden"])
        .arg("--folder")
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot start the demo's warden")?;
    let pipe = warden.stdin.take().context("the warden has no standard input")?;
    Ok((warden, pipe))
}

/// This very program, also when its file was replaced meanwhile.
pub(super) fn program() -> Result<PathBuf> {
    let running = PathBuf::from("/proc/self/exe");
    if running.exists() {
        return std::env::current_exe()
            .map(|path| if path.exists() { path } else { running })
            .context("cannot tell which program this is");
    }
    std::env::current_exe().context("cannot tell which program this is")
}

/// The warden's life: waits until the demo's end of the pipe closes, then clears the lab away.
pub(super) fn warden(folder: &Path) {
    let told = io::stdin().lock().lines().map_while(Result::ok).any(|line| line == DISMISSED);
    if told {
        return;
    }
    // A process that was being started may show up a moment later.
    let mut quiet = 0;
    let begin = Instant::now();
    while quiet < 3 && begin.elapsed() < PATIENCE {
        // A daemon that is asked first takes its lock with it.
        let signal = if begin.elapsed() < GRACE { Signal::TERM } else { Signal::KILL };
        quiet = if end_processes(folder, signal) == 0 { quiet + 1 } else { 0 };
        std::thread::sleep(PAUSE);
    }
    let _ = fs::remove_dir_all(folder);
}

/// How long the warden looks for processes, and how long it rests between two looks.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);
/// How long a process may take to end when it is asked.
const GRACE: Duration = Duration::from_secs(1);

/// Sends a signal to the processes of the lab; how many there were.
fn end_processes(folder: &Path, signal: Signal) -> usize {
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter_map(Pid::from_raw).filter(|pid| end(*pid, folder, signal)).count()
}

/// Sends a signal to a process if it is one of the lab's.
fn end(pid: Pid, folder: &Path, signal: Signal) -> bool {
    // First a descriptor, then a look: the number may be another process's by the time of the signal.
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    pid != getpid() && is_ours(pid, folder) && pidfd_send_signal(process, signal).is_ok()
}

fn is_ours(pid: Pid, folder: &Path) -> bool {
    let about = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
    let program = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let own = program(Path::new("/proc/self/exe"));
    if own.is_none() || program(&about.join("exe")) != own {
        return false;
    }
    let arguments = fs::read(about.join("cmdline")).unwrap_or_default();
    arguments
        .split(|byte| *byte == 0)
        .any(|argument| Path::new(OsStr::from_bytes(argument)).starts_with(folder))
}

/// A process that does nothing but keep its network namespace alive.
pub(super) fn hold() -> ! {
    loop {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_folder_is_private_and_new() {
        let first = new_folder().unwrap();
        let second = new_folder().unwrap();
        assert_ne!(first, second);
        assert_eq!(fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o700);
        fs::remove_dir(first).unwrap();
        fs::remove_dir(second).unwrap();
    }
}
