//! A real Linux kernel with its own ip_gre as the peer: User Mode Linux, a process like any other, on a wire of
//! the lab. It boots in two to three seconds and needs neither KVM nor an image: its root is the host's file system,
//! read-only.
//!
//! ```text
//!   host under test            wire (a namespace)             guest
//!   +--------------+    veth   +-----------------+  AF_PACKET +-------------------+
//!   | dev  near/24 |===========| peer end, no IP |~~~~~~~~~~~~| vec0 far/24, ip_gre|
//!   +--------------+           +-----------------+  linux.uml +-------------------+
//! ```
//!
//! Needed: the packages `user-mode-linux`, `kmod`, `iproute2` and `iputils-ping`; a C compiler only where the processor has AMX
//! (see `uml/xstate.c`). [`available`] says what is missing. Only for tests; the demo never comes here.
//!
//! Two commands never run at once in one guest; one boot can carry as many tunnels as a test likes. The guest's
//! scripts run under `sh -e`, so that a failing line fails the command.

mod ping;
mod shim;
mod transfer;
mod vector;

pub use ping::GuestPing;
pub use vector::GreVector;

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::link::{LinkOptions, link};
use crate::programs::{self, find};
use crate::{Deadline, Error, Host, poll_until};

const INIT: &str = include_str!("../../uml/init.sh");
const MODULES: &str = "/usr/lib/uml/modules";
/// What a guest uses of its host, and the packages that have it.
const PROGRAMS: [(&str, &str); 4] =
    [("linux.uml", "user-mode-linux"), ("modprobe", "kmod"), ("ip", "iproute2"), ("ping", "iputils-ping")];
/// After this much silence of a command the guest's serial line is given an empty line.
const NUDGE_TIME: Duration = Duration::from_secs(5);
/// The longest that a guest's command may take unless said otherwise.
const COMMAND_TIME: Duration = Duration::from_secs(60);

/// Says whether a guest can be booted here; otherwise what is missing, as one sentence.
///
/// # Errors
/// The sentence.
pub fn available() -> Result<(), String> {
    programs::all(&PROGRAMS)?;
    let modules = fs::read_dir(MODULES).is_ok_and(|mut entries| entries.next().is_some());
    if !modules {
        return Err(format!("no modules in {MODULES} (package user-mode-linux)"));
    }
    if shim::needed() && find("cc").is_none() {
        return Err("no cc, and this processor's AMX needs the xstate shim (package gcc)".to_owned());
    }
    Ok(())
}

/// Says whether the xstate shim can be built here, needed or not.
///
/// # Errors
/// What is missing, as one sentence.
pub fn shim_available() -> Result<(), String> {
    find("cc").map(drop).ok_or_else(|| "no cc (package gcc)".to_owned())
}

/// How to boot a guest.
#[derive(Debug, Clone)]
pub struct UmlOptions {
    /// The name in errors.
    pub name: String,
    /// Memory in MiB.
    pub memory: u32,
    /// Kernel modules to load besides ipv6, in order.
    pub modules: Vec<String>,
    /// Ethernet devices `vec1`, `vec2`, … whose frames the guest's process itself carries in GRE.
    pub vectors: Vec<GreVector>,
    /// The longest that booting may take.
    pub boot_time: Duration,
    /// Use the xstate shim even where the processor does not need it.
    pub force_shim: bool,
}

impl Default for UmlOptions {
    fn default() -> Self {
        Self {
            name: "uml".to_owned(),
            memory: 128,
            modules: vec!["ip_gre".to_owned()],
            vectors: Vec::new(),
            boot_time: Duration::from_secs(90),
            force_shim: false,
        }
    }
}

/// What a guest's command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutput {
    /// Its exit status; over 128 a signal.
    pub status: i32,
    /// Its standard output and error, in the order written.
    pub text: String,
}

/// A running guest. Dropped, it is killed; [`UmlGuest::power_off`] ends it in order.
pub struct UmlGuest {
    name: String,
    directory: PathBuf,
    process: Child,
    serial: ChildStdin,
    next: u64,
    state: Arc<Shared>,
    readers: Vec<thread::JoinHandle<()>>,
    /// Of a guest that made its own wire, to keep it.
    _wire: Option<Host>,
}

impl std::fmt::Debug for UmlGuest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UmlGuest").field("name", &self.name).field("pid", &self.process.id()).finish()
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    console: Vec<String>,
    /// Lines of the command that runs.
    lines: Vec<String>,
    finished: Option<(u64, CommandOutput)>,
    ended: bool,
}

impl UmlGuest {
    /// Boots a guest whose `vec0` is wired to the device `dev` of `wire`, and runs `script` in it.
    ///
    /// `dev` must be up and have no address; its other end must have its transmit offloads off, since what
    /// a packet socket reads from a veth has no checksum filled in otherwise.
    ///
    /// # Errors
    /// [`Error::System`] when it cannot be started, [`Error::Guest`] when it dies or the script fails,
    /// [`Error::TimedOut`] when it does not come up in time.
    pub fn boot(wire: &Host, dev: &str, script: &str, options: &UmlOptions) -> Result<Self, Error> {
        let mut guest = Self::start(wire, dev, options)?;
        guest.wait_for_command(0, "boot", options.boot_time)?;
        if !script.trim().is_empty() {
            guest.run(script)?;
        }
        Ok(guest)
    }

    /// Boots a guest beside `host` with a wire of its own between them: `dev` on the host with the address
    /// `near`, `vec0` in the guest with the address `far` (both with prefix length), then runs `script`.
    ///
    /// # Errors
    /// As [`UmlGuest::boot`], and those of building the wire.
    pub fn beside(
        host: &Host,
        dev: &str,
        near: &str,
        far: &str,
        script: &str,
        options: &UmlOptions,
    ) -> Result<Self, Error> {
        let wire = Host::new(&format!("{}-wire", options.name))?;
        link(host, dev, &wire, "wire0", &LinkOptions { tx_offload: false, ..LinkOptions::default() })?;
        host.address(dev, near)?;
        let script = format!("ip address add {far} dev vec0\n{script}");
        let mut guest = Self::boot(&wire, "wire0", &script, options)?;
        guest._wire = Some(wire);
        Ok(guest)
    }

    /// Runs a shell script in the guest and gives its output.
    ///
    /// # Errors
    /// [`Error::Guest`] when a line fails (`sh -e`) or the guest dies, [`Error::TimedOut`] after 60 s.
    pub fn run(&mut self, script: &str) -> Result<String, Error> {
        let output = self.try_run(script, COMMAND_TIME)?;
        if output.status == 0 {
            return Ok(output.text);
        }
        let what = format!("`{}` ended with status {}", script.trim(), output.status);
        Err(Error::Guest { guest: self.name.clone(), what, output: output.text })
    }

    /// Runs a shell script in the guest for at most `within`; whatever its exit status, it is an answer.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest dies, [`Error::TimedOut`]: after that no further command can run.
    pub fn try_run(&mut self, script: &str, within: Duration) -> Result<CommandOutput, Error> {
        let number = self.begin(script)?;
        self.wait_for_command(number, script.trim(), within)
    }

    /// The lines of the guest's console so far: the kernel's messages.
    pub fn console(&self) -> Vec<String> {
        self.state.lock().console.clone()
    }

    /// Waits for a console line that contains `part`, and gives it.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub fn wait_for(&self, part: &str, within: Duration) -> Result<String, Error> {
        poll_until(within, &format!("guest {}: console line with `{part}`", self.name), || {
            self.state.lock().console.iter().find(|line| line.contains(part)).cloned()
        })
    }

    /// The host's directory that the guest sees under the same name, for files to hand over. It goes with the guest.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The process group of the guest's processes on the host.
    pub fn process_group(&self) -> u32 {
        self.process.id()
    }

    /// Powers the guest off and waits for its process to end.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when it does not end `within` the time; it is killed then.
    pub fn power_off(mut self, within: Duration) -> Result<(), Error> {
        self.say("off")?;
        let what = format!("guest {}: power off", self.name);
        poll_until(within, &what, || self.process.try_wait().ok().flatten()).map(drop)
    }

    fn start(wire: &Host, dev: &str, options: &UmlOptions) -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = options.name.clone();
        let missing = |program: &str| Error::System {
            object: program.to_owned(),
            action: "find it".to_owned(),
            source: io::ErrorKind::NotFound.into(),
        };
        let program = find("linux.uml").ok_or_else(|| missing("linux.uml"))?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("greway-uml-{}-{number}", std::process::id()));
        // Of a dead process that had our number.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).map_err(Error::system(directory.display().to_string(), "create it"))?;
        let removed_on_error = Directory(Some(directory.clone()));
        let init = directory.join("init.sh");
        write(&init, INIT)?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))
            .map_err(Error::system(init.display().to_string(), "make it executable"))?;

        let mut command = Command::new(program);
        command
            .arg(format!("mem={}M", options.memory))
            .args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"])
            .arg(format!("init={}", init.display()))
            .arg(format!("uml_dir={}/", directory.display()))
            .arg("umid=guest")
            // Console to standard error; the first serial line, our command channel, to 0 and 1.
            .args(["con0=null,fd:2", "con=null", "ssl0=fd:0,fd:1", "ssl=null"])
            .arg(format!("vec0:transport=raw,ifname={dev},depth=128"))
            .args(options.vectors.iter().zip(1..).map(|(vector, number)| vector.argument(number)))
            .arg(format!("dir={}", directory.display()))
            .arg(format!("modules={}", options.modules.join(",")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Its guest processes are processes of the host: one group, killed together.
            .process_group(0);
        if options.force_shim || shim::needed() {
            command.env("LD_PRELOAD", shim::compile(&directory)?);
        }
        let mut process = wire.spawn(&mut command)?;
        let gone =
            || Error::Guest { guest: name.clone(), what: "start".to_owned(), output: "no pipes".to_owned() };
        let serial = process.stdin.take().ok_or_else(gone)?;
        let output = process.stdout.take().ok_or_else(gone)?;
        let console = process.stderr.take().ok_or_else(gone)?;
        let state = Arc::new(Shared::default());
        let readers = vec![
            thread::spawn({
                let state = Arc::clone(&state);
                move || state.read_serial(output)
            }),
            thread::spawn({
                let state = Arc::clone(&state);
                move || state.read_console(console)
            }),
        ];
        removed_on_error.keep();
        Ok(Self { name, directory, process, serial, next: 1, state, readers, _wire: None })
    }

    /// Starts a command without waiting for it; gives its number.
    fn begin(&mut self, script: &str) -> Result<u64, Error> {
        let number = self.next;
        self.next += 1;
        write(&self.directory.join(format!("{number}.sh")), script)?;
        self.say(&number.to_string())?;
        Ok(number)
    }

    fn say(&mut self, word: &str) -> Result<(), Error> {
        writeln!(self.serial, "{word}")
            .map_err(Error::system(format!("guest {}", self.name), "send a command"))
    }

    fn wait_for_command(&self, number: u64, what: &str, within: Duration) -> Result<CommandOutput, Error> {
        let deadline = Deadline::within(within);
        let mut waited = Deadline::within(NUDGE_TIME);
        let mut state = self.state.lock();
        loop {
            match state.finished.take() {
                Some((finished, output)) if finished == number => return Ok(output),
                _ if state.ended => {
                    let output = [state.lines.join("\n"), state.console.join("\n")].join("\n");
                    let what = format!("died during `{what}`");
                    return Err(Error::Guest { guest: self.name.clone(), what, output });
                }
                _ if deadline.passed() => {
                    let detail = format!(
                        "; it printed: {}; its console: {}",
                        state.lines.join("\n"),
                        state.console.join("\n")
                    );
                    let what = format!("guest {}: end of `{what}`", self.name);
                    return Err(Error::TimedOut { what, waited: within, detail });
                }
                _ => {
                    let lines = state.lines.len();
                    state = self.state.wait(state, deadline.remaining().min(NUDGE_TIME));
                    if state.finished.is_none() && state.lines.len() == lines && waited.passed() {
                        // On a busy host a guest now and then misses that its serial line has something for it, and
                        // would sleep for ever. If the line is broken, the reader has seen its end.
                        let _ = (&self.serial).write_all(b"\n");
                        waited = Deadline::within(NUDGE_TIME);
                    }
                }
            }
        }
    }
}

impl Drop for UmlGuest {
    fn drop(&mut self) {
        if !matches!(self.process.try_wait(), Ok(Some(_))) {
            if let Some(group) = rustix::process::Pid::from_raw(self.process.id() as i32) {
                // Already gone is as good.
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let _ = self.process.wait();
        }
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, within: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, within).unwrap_or_else(PoisonError::into_inner).0
    }

    fn read_serial(&self, output: impl io::Read) {
        for line in lines(output) {
            let mut state = self.lock();
            match parse_end(&line) {
                Some((number, status)) => {
                    let text = std::mem::take(&mut state.lines).join("\n");
                    state.finished = Some((number, CommandOutput { status, text }));
                }
                None => state.lines.push(line),
            }
            self.changed.notify_all();
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn read_console(&self, console: impl io::Read) {
        for line in lines(console) {
            self.lock().console.push(line);
            self.changed.notify_all();
        }
    }
}

/// Lines as text, whatever their bytes, without the line ends.
fn lines(reader: impl io::Read) -> impl Iterator<Item = String> {
    let lines = BufReader::new(reader).split(b'\n').map_while(Result::ok);
    lines.map(|line| String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned())
}

/// The line that ends a command's output: `@@greway NUMBER STATUS`.
fn parse_end(line: &str) -> Option<(u64, i32)> {
    let (number, status) = line.strip_prefix("@@greway ")?.split_once(' ')?;
    Some((number.parse().ok()?, status.parse().ok()?))
}

/// Removes a directory again unless told to keep it.
struct Directory(Option<PathBuf>);

impl Directory {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_dir_all(path);
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(Error::system(path.display().to_string(), "write it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_command_is_told_from_its_output() {
        assert_eq!(parse_end("@@greway 12 0"), Some((12, 0)));
        assert_eq!(parse_end("@@greway 12 137"), Some((12, 137)));
        for other in ["", "@@greway", "@@greway x 0", " @@greway 1 0", "@@greway 1"] {
            assert_eq!(parse_end(other), None, "{other}");
        }
    }

    #[test]
    fn output_is_kept_as_it_was_written() {
        let output = |bytes: &str| {
            let shared = Shared::default();
            shared.read_serial(bytes.as_bytes());
            let state = shared.lock();
            assert!(state.ended);
            state.finished.clone()
        };
        let done = |text: &str| Some((3, CommandOutput { status: 1, text: text.to_owned() }));
        assert_eq!(output("a\nb\n\n@@greway 3 1\n"), done("a\nb\n"));
        assert_eq!(output("no line end\n@@greway 3 1\n"), done("no line end"));
        assert_eq!(output("\n@@greway 3 1\n"), done(""));
        assert_eq!(output("cut off"), None);
    }
}
