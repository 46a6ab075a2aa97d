//! The daemon under a service manager: started by a connection, ready when it answers, alive by its heartbeat,
//! replaced by an upgrade. The manager here is systemd's own systemd-socket-activate and a socket of the test's.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use greway_testbed::tcp::TcpPair;
use greway_testbed::{Guide, PingOptions, ping, poll_until, privilege, require};
use support::{GREWAY, Node, SOON, inner, two_hosts};

const ADD: &str = "tunnel add tun0 mode gre local 100.0.1.100 remote 100.0.2.100";

/// A socket as `NOTIFY_SOCKET` names it.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(node: &Node) -> Self {
        let path = node.folder().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Self { socket, path }
    }

    /// The next thing that the daemon tells; `None` when nothing comes within the read timeout.
    fn heard(&self) -> Option<String> {
        let mut buffer = [0; 512];
        match self.socket.recv(&mut buffer) {
            Ok(length) => Some(String::from_utf8(buffer[..length].to_vec()).unwrap()),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
                None
            }
        }
    }
}

/// A process that is killed when the test is over.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run_in(node: &Node, mut command: Command) -> Running {
    let child = node.run(|| command.spawn()).unwrap();
    node.watch(child.id());
    Running(child)
}

/// systemd-socket-activate, which becomes the daemon at the first connection to `socket`.
fn activator(node: &Node, socket: &Path) -> Command {
    let mut command = Command::new("systemd-socket-activate");
    command.arg(format!("--listen={}", socket.display()));
    command.args(["--setenv=GREWAY_SOCKET", "--setenv=NOTIFY_SOCKET", GREWAY, "daemon"]);
    let log = fs::File::create(node.folder().join("activated.log")).unwrap();
    command.env("GREWAY_SOCKET", node.socket()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command
}

/// Asks who is there by the API's own framing.
fn hello(socket: &Path) -> serde_json::Value {
    // The name is there before anybody listens: systemd-socket-activate binds first.
    let mut stream = poll_until(SOON, "somebody who listens", || UnixStream::connect(socket).ok()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(b"{\"method\":\"io.greway.Hello\"}\0").unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() == 1 && byte[0] != 0 {
        answer.push(byte[0]);
    }
    serde_json::from_slice(&answer).unwrap()
}

#[test]
fn a_connection_starts_the_daemon_which_is_ready_when_it_has_adopted() {
    require!(privilege::check());
    require!(is_there("systemd-socket-activate"));
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    // What an earlier daemon left.
    let earlier = node.daemon();
    node.words(ADD).ok();
    earlier.kill();

    let manager = Manager::new(&node);
    let public = node.folder().join("public.sock");
    let mut command = activator(&node, &public);
    command.env("NOTIFY_SOCKET", &manager.path);
    let mut running = run_in(&node, command);
    // The connection waits in the queue until the daemon is there; its answer says who it is.
    let answer = hello(&public);
    let pid = u64::from(running.0.id());
    assert_eq!(answer["parameters"]["hello"]["pid"], pid, "{answer}");
    assert_eq!(manager.heard().as_deref(), Some("READY=1\nSTATUS=carries 1 tunnel"));
    // Its own socket is where the verbs look for it.
    assert_eq!(node.status()["daemon"]["pid"], pid);
    node.words("tunnel show").ok().says(&["tun0: gre/ip remote 100.0.2.100"]);
    // Reading is for everybody at this socket too, changing is not.
    let refused = node.nobody("tunnel del tun0");
    assert!(refused.stderr.contains("needs root"), "{refused}");

    node.words("daemon --stop").ok();
    let mut last = manager.heard();
    while last.as_deref().is_some_and(|word| word.starts_with("STATUS=")) {
        last = manager.heard();
    }
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
    let status = poll_until(SOON, "the end of the daemon", || running.0.try_wait().unwrap()).unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(public.exists(), "the manager's socket is the manager's");
}

/// PID 1 of a PID namespace stands in for systemd, so that the verbs find themselves in its network namespace.
#[test]
fn a_verb_uses_the_socket_of_the_package_and_no_other_daemon() {
    const SCRIPT: &str = r#"
        mount -t tmpfs run /run
        mkdir -m 755 /run/greway
        INVOCATION_ID=1 systemd-socket-activate --setenv=INVOCATION_ID \
            --listen=/run/greway/control.sock "$GREWAY" daemon 2> "$LOG" &
        unit=$!
        trap 'kill "$unit" || true' EXIT
        tries=0
        until [ -S /run/greway/control.sock ]; do
            tries=$((tries + 1))
            [ "$tries" -lt 800 ]
            sleep 0.01
        done
        "$GREWAY" $ADD
        "$GREWAY" status --json --no-echo | grep -q "\"pid\": $unit,"
        echo "pid of the unit"
        "$GREWAY" daemon --stop
        trap - EXIT
        code=0
        wait "$unit" || code=$?
        echo "exit code $code"
        ls -A /run/greway
        # Its file is there and nobody listens: the daemon goes to the background as ever.
        "$GREWAY" $ADD
        "$GREWAY" daemon --stop
    "#;
    require!(privilege::check());
    require!(is_there("systemd-socket-activate"));
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-euc", SCRIPT]);
    command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
    command.env("GREWAY", GREWAY).env("ADD", ADD).env("LOG", node.folder().join("unit.log"));
    let output = node.execute(command).ok();
    let output = output.says(&["pid of the unit\n", "exit code 78\ncontrol.sock\n"]);
    let remarks = output.stderr.lines().collect::<Vec<_>>();
    assert_eq!(
        remarks[0],
        "greway: started the daemon as greway.service; its log: journalctl -u greway.service"
    );
    assert!(remarks[1].starts_with("greway: started a daemon in the background (pid "), "{output}");
    assert_eq!(remarks.len(), 2, "{output}");
}

/// Whether a program of the package systemd is there.
fn is_there(program: &str) -> Result<(), String> {
    let found = ["/usr/bin", "/bin"].iter().any(|place| Path::new(place).join(program).is_file());
    found.then_some(()).ok_or_else(|| format!("no {program} (package systemd)"))
}

/// What another thread says for a daemon that hangs would keep it hanging for ever.
#[test]
fn a_data_plane_that_hangs_stops_the_heartbeat() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let manager = Manager::new(&node);
    let watchdog = Duration::from_secs(2);
    let mut command = node.command(&["daemon"]);
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", watchdog.as_micros().to_string());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let daemon = run_in(&node, command);
    // The first beat may come before it is ready: the loop that gives it runs by then.
    let mut ready = 0;
    let mut beats = 0;
    while ready == 0 || beats < 3 {
        match manager.heard().as_deref() {
            Some("READY=1\nSTATUS=answers; no tunnel") => ready += 1,
            Some("WATCHDOG=1") => beats += 1,
            other => panic!("{other:?} after {beats} beats of an idle daemon"),
        }
    }
    assert_eq!(ready, 1);

    let strace = hang(daemon.0.id(), "datapath");
    require!(strace.as_ref().map_err(|error| format!("strace: {error}")));
    let _strace = strace.map(Running).unwrap();
    manager.socket.set_read_timeout(Some(watchdog)).unwrap();
    let mut beats = 0;
    while let Some(word) = manager.heard() {
        assert_eq!(word, "WATCHDOG=1");
        beats += 1;
        assert!(beats < 30, "the heart beats on, and the data plane hangs");
    }
}

/// Has the next wait of a thread last for ever.
fn hang(pid: u32, name: &str) -> std::io::Result<Child> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?.map(|task| task.unwrap().path());
    let task = tasks
        .into_iter()
        .find(|task| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name));
    let task = task.ok_or(ErrorKind::NotFound)?;
    let waits = "/^epoll_p?wait2?$";
    let mut command = Command::new("strace");
    command.args(["-qq", "-o", "/dev/null", "-e", &format!("trace={waits}")]);
    command.args(["-e", &format!("inject={waits}:delay_enter=3600s")]);
    command.arg("-p").arg(task.file_name().unwrap_or_default()).stderr(Stdio::null());
    command.spawn()
}

/// What the package does: the file is replaced under the daemon that runs, which is then ended by SIGTERM and started
/// again, while pings go through the tunnel a thousand times a second.
#[test]
fn an_upgrade_under_load_keeps_tunnel_and_connections() {
    require!(privilege::check());
    let lab = two_hosts();
    let daemon = lab.one.daemon();
    let _other = lab.two.daemon();
    lab.tunnel("key 42");
    let mut connection =
        TcpPair::connect(&lab.guide.linux1, &lab.guide.linux2, SocketAddr::new(inner(1), 0), SOON).unwrap();
    connection.exchange(100_000, SOON).unwrap();
    let before = lab.one.belongings();
    let (interval, timeout) = (Some(Duration::from_millis(1)), Duration::from_secs(1));
    let flood = PingOptions { count: 2000, interval, timeout, ..PingOptions::default() };
    let report = thread::scope(|scope| {
        let report = scope.spawn(|| ping(&lab.guide.linux1, inner(1), &flood).unwrap());
        daemon.terminate();
        let _daemon = lab.one.daemon();
        connection.exchange(100_000, SOON).unwrap();
        report.join().unwrap()
    });
    println!("{} of {} pings lost over the upgrade", report.lost.len(), report.sent);
    assert_eq!(lab.one.belongings(), before, "device, tables and state stay");
    assert!(report.lost.len() < usize::from(report.sent), "{report}");
    let _daemon = lab.one.daemon();
    assert!(lab.ping().complete());
}
