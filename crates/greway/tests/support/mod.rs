//! A greway on a host of the lab: the real binary, run inside the host's namespace with an empty PATH, and its
//! daemon as a process of its own.
//!
//! Nothing outlives a test: a daemon is killed by its process number when it is dropped, and the warden that
//! the demo uses too kills what is left and removes the folder when the test process itself goes away.
//! What a daemon does to a host that it shares with others is not for here: each test has hosts of its own.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    dead_code,
    reason = "helpers of tests, not all used by each"
)]

use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use greway_linux::netns::{self, NetNamespace};
use greway_linux::process;
use greway_linux::signal::Signal;
use greway_netlink::nftables::{Nftables, TableId};
use greway_testbed::{Guide, Host, PingOptions, PingReport, ping, poll_until};
use rustix::process::{Pid, kill_process};
use serde_json::Value;

/// How long anything may take that should happen at once: generous, for a loaded machine.
pub(crate) const SOON: Duration = Duration::from_secs(16);

/// The binary under test.
pub(crate) const GREWAY: &str = env!("CARGO_BIN_EXE_greway");

/// What a verb, and `ip` in greway's hands, say when the daemon takes longer than a second.
pub(crate) const WAITING: [&str; 2] =
    ["greway: waiting for the greway daemon at ", "ip: greway: waiting for an answer of the greway daemon"];

/// The words that choose the programs in the kernel.
pub(crate) const BY_PROGRAMS: &str = "datapath ebpf";

/// How a tunnel with these words is carried, of all that are to be carried in this way: no program has to do with
/// checksums and sequence numbers, and a tunnel that needs them is refused by programs alone.
pub(crate) fn way_of<'a>(way: &'a str, words: &str) -> &'a str {
    if way == BY_PROGRAMS && ["csum", "seq"].iter().any(|word| words.contains(word)) {
        return "datapath userspace";
    }
    way
}

/// What a daemon needs in its environment for that way, however the suite is run.
pub(crate) fn environment_of(way: &str) -> &'static [(&'static str, &'static str)] {
    if way == BY_PROGRAMS { &[("GREWAY_FAST_PATH", "on")] } else { &[] }
}

/// The table of what packet sockets have taken, which is its daemon's.
pub(crate) const EARLY_DROP: &str = "greway-taken-by-packet-socket";
/// The table that goes with the daemon and sends on what userspace hands to the kernel whole, and the device.
pub(crate) const SEND_ON: &str = "greway-injected-super-packets";
pub(crate) const INJECTOR: &str = "greway-inject";

/// Whether a table is one of those that go with the daemon, and that nobody else can take away.
pub(crate) fn goes_with_the_daemon(table: &str) -> bool {
    [EARLY_DROP, SEND_ON].contains(&table)
}

/// A host that runs greway: where its socket and files are, and how to run the binary there.
pub(crate) struct Node {
    name: String,
    namespace: NetNamespace,
    folder: PathBuf,
    socket: Option<PathBuf>,
    warden: Mutex<Option<(Child, ChildStdin)>>,
}

impl Node {
    /// A greway on `host` with its socket in a folder of its own. No daemon is started.
    pub(crate) fn new(host: &Host) -> Self {
        let mut node = Self::by_namespace(host);
        node.socket = Some(node.folder.join("greway.sock"));
        node
    }

    /// A greway on `host` that is found by the namespace (/run/greway), as people use it.
    pub(crate) fn by_namespace(host: &Host) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("greway-test-{}-{number}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        // Unprivileged users are to reach the socket in it.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let namespace = host.namespace().try_clone().unwrap();
        let warden = Mutex::new(Some(start_warden(&folder)));
        Self { name: host.name().to_owned(), namespace, folder, socket: None, warden }
    }

    /// The folder for this node's files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The API socket.
    pub(crate) fn socket(&self) -> PathBuf {
        match &self.socket {
            Some(socket) => socket.clone(),
            None => self.run_directory().join("control.sock"),
        }
    }

    /// The state directory: one file a tunnel.
    pub(crate) fn state(&self) -> PathBuf {
        match &self.socket {
            Some(socket) => PathBuf::from(format!("{}.state", socket.display())),
            None => self.run_directory().join("tunnels"),
        }
    }

    /// The state files, by name.
    pub(crate) fn state_files(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.state()) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Where this namespace's own daemon has its files (T10).
    pub(crate) fn run_directory(&self) -> PathBuf {
        let cookie = self.run(|| netns::cookie().unwrap()).expect("a kernel with namespace cookies");
        PathBuf::from(format!("/run/greway/net-{cookie}"))
    }

    /// Runs `work` inside the host.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.run_in(work).unwrap()
    }

    /// Writes a file into the node's folder and gives its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// The command `greway arguments…`, to be run inside the host by [`Node::execute`].
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(GREWAY);
        command.args(arguments).env_clear().env("PATH", "").stdin(Stdio::null()).current_dir(&self.folder);
        if let Some(socket) = &self.socket {
            command.env("GREWAY_SOCKET", socket);
        }
        // The whole suite runs with and without the fast path, and with several workers.
        for name in ["GREWAY_FAST_PATH", "GREWAY_WORKERS"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command
    }

    /// Runs `greway arguments…` to its end.
    pub(crate) fn greway(&self, arguments: &[&str]) -> Output {
        self.execute(self.command(arguments))
    }

    /// As [`Node::greway`], the arguments in one string, separated by blanks.
    pub(crate) fn words(&self, arguments: &str) -> Output {
        self.greway(&arguments.split_whitespace().collect::<Vec<_>>())
    }

    /// As [`Node::words`], by a user without any privilege.
    pub(crate) fn nobody(&self, arguments: &str) -> Output {
        let mut command = self.command(&arguments.split_whitespace().collect::<Vec<_>>());
        command.uid(65_534).gid(65_534);
        self.execute(command)
    }

    /// Runs a command inside the host to its end. A panic of the binary fails the test here.
    pub(crate) fn execute(&self, mut command: Command) -> Output {
        let arguments = command.get_args().map(|word| word.to_string_lossy().into_owned());
        let shown = format!("{}: greway {}", self.name, arguments.collect::<Vec<_>>().join(" "));
        // Files, not pipes: a daemon that is started in the background may keep a pipe open for ever.
        let [stdout, stderr] = ["stdout", "stderr"].map(|stream| self.scratch(stream));
        command.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        let mut child = self.run(|| command.spawn()).unwrap_or_else(|error| panic!("{shown}: {error}"));
        self.watch(child.id());
        let ended = poll_until(2 * SOON, &shown, || child.try_wait().unwrap());
        let status = ended.unwrap_or_else(|error| {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{error}: {}", fs::read_to_string(&stderr).unwrap_or_default())
        });
        let read = |path: &Path| String::from_utf8(fs::read(path).unwrap()).unwrap();
        let (waited, stderr_text) = apart(&read(&stderr));
        let output =
            Output { shown, code: status.code(), stdout: read(&stdout), stderr: stderr_text, waited };
        for path in [stdout, stderr] {
            fs::remove_file(path).unwrap();
        }
        let all = format!("{}{}{}", output.stdout, output.stderr, output.waited);
        assert!(!all.contains("panicked") && !all.contains("RUST_BACKTRACE"), "{output}");
        output
    }

    /// Starts `greway daemon` in the foreground of its own process, and waits until it answers.
    pub(crate) fn daemon(&self) -> Daemon {
        self.daemon_with(&[])
    }

    /// The same with variables in its environment.
    pub(crate) fn daemon_with(&self, environment: &[(&str, &str)]) -> Daemon {
        let log = self.folder.join("daemon.log");
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = self.command(&["daemon"]);
        command.stdout(file.try_clone().unwrap()).stderr(file).envs(environment.iter().copied());
        let child = self.run(|| command.spawn()).unwrap();
        self.watch(child.id());
        let mut daemon = Daemon { child, log };
        let socket = self.socket();
        let answers = poll_until(SOON, "an answer of the daemon", || {
            assert!(daemon.child.try_wait().unwrap().is_none(), "the daemon ended: {}", daemon.log());
            UnixStream::connect(&socket).ok()
        });
        if let Err(error) = answers {
            panic!("{error}: {}", daemon.log());
        }
        // It answers a question when it has adopted what an earlier one left.
        self.greway(&["tunnel", "show"]).ok();
        daemon
    }

    /// Has a process killed when the test process goes away.
    pub(crate) fn watch(&self, pid: u32) {
        if let Some((_, pipe)) = self.warden.lock().unwrap().as_mut() {
            writeln!(pipe, "{pid}").unwrap();
        }
    }

    /// `greway status --json`.
    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.words("status --json").ok().stdout).unwrap()
    }

    /// The process of the daemon that answers here; `None`: there is none.
    pub(crate) fn daemon_pid(&self) -> Option<u32> {
        let output = self.words("status --json --no-echo");
        let status: Value = serde_json::from_str(&output.stdout).ok()?;
        status["daemon"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0)
    }

    /// The names of all links but `lo`, by index.
    pub(crate) fn links(&self) -> Vec<String> {
        let links = self.run(|| greway_netlink::Netlink::open().unwrap().links().unwrap());
        links.into_iter().map(|link| link.name).filter(|name| name != "lo" && name != INJECTOR).collect()
    }

    /// The data plane of a tunnel that nothing speaks against: `ebpf`, unless the suite runs without.
    pub(crate) fn plane(&self) -> &'static str {
        match std::env::var("GREWAY_FAST_PATH").as_deref() {
            Ok("off") => "userspace",
            _ => "ebpf",
        }
    }

    /// Whether a program of greway's is at the ingress of a device.
    pub(crate) fn has_program(&self, device: &str) -> bool {
        let list = || Command::new("tc").args(["filter", "show", "dev", device, "ingress"]).output().unwrap();
        String::from_utf8_lossy(&self.run(list).stdout).contains("greway_overlay")
    }

    /// The MTU of a device.
    pub(crate) fn mtu(&self, dev: &str) -> u32 {
        self.link(dev).unwrap_or_else(|| panic!("{}: no {dev}", self.name)).mtu
    }

    /// A device.
    pub(crate) fn link(&self, dev: &str) -> Option<greway_netlink::Link> {
        self.run(|| greway_netlink::Netlink::open().unwrap().link_by_name(dev).unwrap())
    }

    /// The nf_tables tables with base chains, as `family name`, but for what comes and goes with a daemon.
    pub(crate) fn nft_tables(&self) -> Vec<String> {
        let chains = self.run(|| Nftables::open().unwrap().base_chains().unwrap());
        let mut tables: Vec<TableId> = chains.into_iter().map(|chain| chain.table).collect();
        tables.retain(|table| !goes_with_the_daemon(&table.name));
        tables.dedup();
        tables.iter().map(ToString::to_string).collect()
    }

    /// What a test may not change without being asked: links and state files.
    pub(crate) fn belongings(&self) -> (Vec<String>, Vec<String>, Vec<String>) {
        (self.links(), self.nft_tables(), self.state_files())
    }

    fn scratch(&self, stream: &str) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        self.folder.join(format!(".{stream}-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some((mut warden, pipe)) =
            self.warden.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
        {
            drop(pipe);
            let _ = warden.wait();
        }
        // A daemon that was killed leaves its lock, and without a socket of the node's own all it had; one that
        // another node of this host still has keeps both.
        if let Ok(Some(cookie)) = self.namespace.run_in(netns::cookie).and_then(|cookie| cookie) {
            let directory = PathBuf::from(format!("/run/greway/net-{cookie}"));
            let lock = directory.join("lock");
            if File::open(&lock).is_ok_and(|lock| lock.try_lock().is_ok()) {
                let _ = fs::remove_dir_all(directory);
            }
        }
    }
}

/// What a run of the binary gave.
#[derive(Debug)]
pub(crate) struct Output {
    /// The command line, for messages.
    pub(crate) shown: String,
    /// The exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    /// Its answer.
    pub(crate) stdout: String,
    /// Its remarks.
    pub(crate) stderr: String,
    /// The one remark that depends on how busy this machine is and on nothing that a test does: that it waits for the
    /// daemon, after a second. It is in no `stderr`, which tests compare to the letter.
    pub(crate) waited: String,
}

/// The remarks that something is waited for, and all others.
pub(crate) fn apart(stderr: &str) -> (String, String) {
    let waits = |line: &&str| WAITING.iter().any(|words| line.contains(words));
    let (waited, rest): (Vec<&str>, Vec<&str>) = stderr.split_inclusive('\n').partition(waits);
    (waited.concat(), rest.concat())
}

impl Output {
    /// It must have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self}");
        self
    }

    /// It must have failed with a message that has all of these words in it.
    #[track_caller]
    pub(crate) fn refused(self, words: &[&str]) -> Self {
        assert!(self.code.is_some_and(|code| code != 0), "{self}");
        for word in words {
            assert!(self.stderr.contains(word), "no `{word}` in: {self}");
        }
        self
    }

    /// Its answer must have all of these words in it.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stdout.contains(word), "no `{word}` in: {self}");
        }
        self
    }

    /// Its remarks must have all of these words in them.
    #[track_caller]
    pub(crate) fn remarks(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "no `{word}` in: {self}");
        }
        self
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shown, code, stdout, stderr, waited } = self;
        write!(f, "{shown}: exit code {code:?}\n-- stdout\n{stdout}\n-- stderr\n{waited}{stderr}")
    }
}

/// A running daemon. Dropped, it is killed (SIGKILL); its tunnels stay.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Its process number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Halts it until what is given is dropped: its sockets fill up. All of its threads stand still on return.
    pub(crate) fn halt(&self) -> Halted {
        let process = Pid::from_raw(self.pid().cast_signed()).unwrap();
        kill_process(process, rustix::process::Signal::STOP).unwrap();
        let halted = Halted(process);
        // One thread takes the signal, and each of the others goes on until it has heard.
        let stands = |thread: fs::DirEntry| {
            let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            status.contains("State:\tT")
        };
        let threads = format!("/proc/{}/task", self.pid());
        let all = || fs::read_dir(&threads).unwrap().all(|thread| stands(thread.unwrap())).then_some(());
        poll_until(SOON, "a daemon that stands still", all).unwrap();
        halted
    }

    /// Ends it by kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it by SIGTERM.
    pub(crate) fn terminate(mut self) {
        process::kill(self.child.id(), Signal::Terminate).unwrap();
        let status = poll_until(SOON, "the end of the daemon", || self.child.try_wait().unwrap()).unwrap();
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// Waits until it has ended by itself; gives its exit code.
    pub(crate) fn ended(mut self) -> Option<i32> {
        poll_until(SOON, "the end of the daemon", || self.child.try_wait().unwrap()).unwrap().code()
    }
}

/// A daemon that stands still, and goes on when this is dropped.
pub(crate) struct Halted(Pid);

impl Drop for Halted {
    fn drop(&mut self) {
        let _ = kill_process(self.0, rustix::process::Signal::CONT);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that was waited for has no process number any more; the standard library knows.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log();
        if !std::thread::panicking() {
            assert!(!log.contains("panicked"), "the daemon panicked: {log}");
        } else {
            eprintln!("-- log of the daemon\n{log}");
        }
    }
}

/// The guide's five hosts and a greway on each of the two that get a tunnel.
pub(crate) struct Lab {
    /// greway on linux1.
    pub(crate) one: Node,
    /// greway on linux2.
    pub(crate) two: Node,
    /// The hosts; dropped after the nodes.
    pub(crate) guide: Guide,
}

/// Builds the guide's hosts with a greway on linux1 and linux2. No daemon is started.
pub(crate) fn two_hosts() -> Lab {
    let guide = Guide::build().unwrap();
    Lab { one: Node::new(&guide.linux1), two: Node::new(&guide.linux2), guide }
}

impl Lab {
    /// Adds tun0 with these words (`key 42`) on both hosts by verbs, and the guide's inner addresses.
    pub(crate) fn tunnel(&self, words: &str) {
        let [a, b] = greway_testbed::guide::OUTER;
        self.one.words(&format!("tunnel add tun0 mode gre local {a} remote {b} {words}")).ok();
        self.two.words(&format!("tunnel add tun0 mode gre local {b} remote {a} {words}")).ok();
        self.guide.linux1.address("tun0", "172.16.0.1 peer 172.16.0.2/30").unwrap();
        self.guide.linux2.address("tun0", "172.16.0.2 peer 172.16.0.1/30").unwrap();
    }

    /// Adds tun0 on linux1 alone, with the guide's inner address.
    pub(crate) fn tunnel_on_one(&self) {
        let [a, b] = greway_testbed::guide::OUTER;
        self.one.words(&format!("tunnel add tun0 mode gre local {a} remote {b}")).ok();
        self.guide.linux1.address("tun0", "172.16.0.1 peer 172.16.0.2/30").unwrap();
    }

    /// Pings linux2's inner address from linux1.
    pub(crate) fn ping(&self) -> PingReport {
        ping(&self.guide.linux1, inner(1), &PingOptions::default()).unwrap()
    }
}

/// Runs a script on a host; it must succeed. Gives what it wrote.
#[track_caller]
pub(crate) fn sh(host: &Host, script: &str) -> String {
    let output = host.output(Command::new("/bin/sh").args(["-c", script])).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {script}: {errors}", host.name());
    String::from_utf8(output.stdout).unwrap()
}

/// The process that started another, and what it runs as.
pub(crate) fn parent(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name in parentheses may hold anything; what follows are numbers.
    let after = stat.rsplit_once(") ").unwrap().1;
    after.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Ended with all its threads, the last of which closes its sockets; whether or not somebody has asked how.
pub(crate) fn gone(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z')) && threads <= 1
}

/// The inner address of linux1 (0) or linux2 (1).
pub(crate) fn inner(end: usize) -> IpAddr {
    greway_testbed::guide::INNER[end].into()
}

/// A ping of one packet that does not wait long: for what must not be answered.
pub(crate) fn in_vain() -> PingOptions {
    PingOptions { count: 2, timeout: Duration::from_millis(250), ..PingOptions::default() }
}

fn start_warden(folder: &Path) -> (Child, ChildStdin) {
    let mut warden = Command::new(GREWAY)
        .args(["demo", "--stage", "warden", "--folder"])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let pipe = warden.stdin.take().unwrap();
    (warden, pipe)
}
