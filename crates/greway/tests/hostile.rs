//! What other users of the host may try, and what a caller brings with it without knowing: neither may harm the
//! daemon, nor may the daemon harm the caller.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops where its ground gives way, and says it"
)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use greway_linux::process;
use greway_linux::signal::Signal;
use greway_linux::unix;
use greway_testbed::{Guide, poll_until, privilege, require};
use rustix::fs::{CWD, FileType, Mode};
use support::{Node, Output, SOON, parent};

const ADD: &str = "tunnel add tun0 mode gre local 100.0.1.100 remote 100.0.2.100";

/// A user without any privilege.
const NOBODY: u32 = 65_534;

/// Runs `work` as that user, on a thread of its own: to the kernel, users are a thread's.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let user = rustix::thread::Uid::from_raw(NOBODY);
            rustix::thread::set_thread_res_uid(user, user, user).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// Has the daemon that a verb started in the background go away with the test, and its supervisor.
fn watch(node: &Node) -> u32 {
    let pid = node.daemon_pid().unwrap();
    node.watch(parent(pid));
    node.watch(pid);
    pid
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// The connections that a daemon has, by their threads.
fn clients(pid: u32) -> usize {
    let tasks =
        fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path().join("comm"));
    tasks.filter(|name| fs::read_to_string(name).is_ok_and(|name| name.trim() == "api-client")).count()
}

/// Runs `program arguments… greway words…` inside the host.
fn run_by(node: &Node, program: &[&str], words: &str) -> Output {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).arg(support::GREWAY).args(words.split_whitespace());
    command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").current_dir(node.folder());
    if node.socket().starts_with(node.folder()) {
        command.env("GREWAY_SOCKET", node.socket());
    }
    node.execute(command)
}

fn answer(stream: &UnixStream) -> String {
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut answer = Vec::new();
    BufReader::new(stream).read_until(0, &mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

#[test]
fn a_user_who_connects_without_end_keeps_nobody_away() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let daemon = node.daemon();
    poll_until(SOON, "the end of our own questions", || (clients(daemon.pid()) == 0).then_some(())).unwrap();
    let before = descriptors(daemon.pid());
    let held = as_nobody(|| {
        let mut held = Vec::new();
        for _ in 0..16 {
            let mut stream = UnixStream::connect(node.socket()).unwrap();
            // An answer: the daemon has taken this one in.
            stream.write_all(b"{\"method\":\"io.greway.Hello\"}\0").unwrap();
            assert!(answer(&stream).contains("version"));
            stream.write_all(b"{\"method\":").unwrap();
            held.push(stream);
        }
        let refused = answer(&UnixStream::connect(node.socket()).unwrap());
        assert!(refused.contains("uid 65534 has 16 connections to the greway daemon open"), "{refused}");
        held
    });
    // The one that was refused goes a moment after it was told.
    poll_until(SOON, "one descriptor a connection", || {
        (clients(daemon.pid()) == 16 && descriptors(daemon.pid()) - before == 16).then_some(())
    })
    .unwrap();
    node.nobody("status").refused(&["uid 65534 has 16 connections"]);
    node.words(ADD).ok();
    drop(held);
    poll_until(SOON, "room for the next", || (clients(daemon.pid()) == 0).then_some(())).unwrap();
    node.nobody("status --no-echo").ok().says(&["tun0 up"]);
}

#[test]
fn a_request_without_end_is_not_buffered() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let _daemon = node.daemon();
    let flood = |longest: usize| {
        let mut stream = UnixStream::connect(node.socket()).unwrap();
        stream.write_all(&vec![b' '; longest]).unwrap();
        let refused = answer(&stream);
        assert!(refused.contains(&format!("at most {longest} bytes")), "{refused}");
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "and the connection ends");
    };
    as_nobody(|| flood(64 << 10));
    flood(1 << 20);
}

#[test]
fn the_umask_of_the_caller_does_not_decide_who_may_write() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    for umask in ["000", "077"] {
        let node = Node::by_namespace(&guide.linux1);
        let script = format!("umask {umask}; exec \"$@\"");
        run_by(&node, &["sh", "-c", &script, "sh"], &format!("{ADD} seq")).ok();
        watch(&node);
        let run = node.run_directory();
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o777;
        for directory in [run.as_path(), run.parent().unwrap(), &node.state()] {
            assert_eq!(mode(directory), 0o755, "umask {umask}: {}", directory.display());
        }
        for file in ["log", "tunnels/tun0.json"] {
            assert_eq!(mode(&run.join(file)), 0o644, "umask {umask}: {file}");
        }
        node.nobody("status --no-echo").ok().says(&["tun0 up"]);
        node.words("daemon --stop").ok();
        assert!(!run.exists());
    }
}

#[test]
fn a_state_directory_that_others_can_write_to_is_not_believed() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let before = node.links();
    fs::create_dir(node.state()).unwrap();
    fs::set_permissions(node.state(), fs::Permissions::from_mode(0o777)).unwrap();
    node.words(ADD).refused(&["greway.sock.state", "can be written to by others"]);
    fs::set_permissions(node.state(), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(node.state(), Some(NOBODY), None).unwrap();
    node.words(ADD).refused(&["greway.sock.state", "belongs to uid 65534"]);
    assert_eq!(node.links(), before);
}

#[test]
fn nothing_that_the_caller_has_open_is_held_by_the_daemon() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let pipe = node.folder().join("pipe");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        let text = fs::read_to_string(pipe).unwrap();
        let _ = ended.send(text);
    });
    let script = "exec 9>pipe; echo open >&9; exec \"$@\"";
    run_by(&node, &["sh", "-c", script, "sh"], ADD).ok();
    watch(&node);
    assert_eq!(end.recv_timeout(SOON).as_deref(), Ok("open\n"), "the pipe ends with the verb");
    node.words("daemon --stop").ok();
}

#[test]
fn a_caller_that_ignores_the_end_of_children_has_a_supervisor_all_the_same() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    run_by(&node, &["env", "--ignore-signal=CHLD"], ADD).ok().remarks(&["started a daemon"]);
    let killed = watch(&node);
    let supervisor = parent(killed);
    process::kill(killed, Signal::Kill).unwrap();
    let next = poll_until(SOON, "the next daemon", || node.daemon_pid().filter(|next| *next != killed));
    assert_eq!(parent(next.unwrap()), supervisor);
    watch(&node);
    node.words("daemon --stop").ok();
}

#[test]
fn a_relative_socket_is_where_the_caller_is_and_stop_leaves_nothing_beside_it() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::by_namespace(&guide.linux1);
    run_by(&node, &["env"], &format!("--socket here.sock {ADD}")).ok();
    let here = node.folder().join("here.sock");
    let status =
        run_by(&node, &["env"], &format!("--socket {} status --json --no-echo", here.display())).ok();
    let status = serde_json::from_str::<serde_json::Value>(&status.stdout).unwrap();
    let pid = u32::try_from(status["daemon"]["pid"].as_u64().unwrap()).unwrap();
    node.watch(parent(pid));
    node.watch(pid);
    fs::write(node.folder().join("here.sock.state/tun0.json.new"), "half").unwrap();
    run_by(&node, &["env"], "--socket ./here.sock daemon --stop").ok();
    let beside = fs::read_dir(node.folder()).unwrap().map(|entry| entry.unwrap().file_name());
    let beside: Vec<_> = beside.filter(|name| name.to_string_lossy().starts_with("here")).collect();
    assert!(beside.is_empty(), "{beside:?}");
    assert!(!node.run_directory().exists(), "the lock is gone too");
}

#[test]
fn a_user_who_takes_the_name_of_the_lock_keeps_no_daemon_away() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let name = "io.greway.daemon";
    // Taken, and its queue filled, so that whoever connects would wait.
    let (_squatter, _queue) = node.run(|| {
        as_nobody(|| {
            let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
            let connect = || unix::connect_abstract(name.as_bytes(), Duration::from_millis(1)).ok();
            (listener, std::iter::from_fn(connect).collect::<Vec<_>>())
        })
    });
    let _daemon = node.daemon();
    // There is one lock more.
    Node::new(&guide.linux1).words("daemon").refused(&["one for each network namespace"]);
    Node::by_namespace(&guide.linux1).words("daemon").refused(&["one for each network namespace"]);
}

#[test]
fn a_daemon_out_of_reach_is_told_from_none_and_from_a_strangers() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let daemon = node.daemon();
    fs::set_permissions(node.socket(), fs::Permissions::from_mode(0o600)).unwrap();
    for verb in ["status", "tunnel show", ADD] {
        node.nobody(verb)
            .refused(&["there is a greway daemon, but you may not reach its socket", "greway.sock"]);
    }
    daemon.terminate();
    let refused = Node::new(&guide.linux1).nobody(ADD).refused(&["changing tunnels needs root"]);
    assert_eq!(refused.stderr.matches("denied").count(), 1, "told once: {refused}");

    fs::set_permissions(node.folder(), fs::Permissions::from_mode(0o777)).unwrap();
    let _stranger = as_nobody(|| UnixListener::bind(node.socket()).unwrap());
    for verb in ["status", ADD, "daemon --stop"] {
        node.words(verb).refused(&["belongs to uid 65534"]);
    }
}

#[test]
fn a_verb_that_met_a_dying_daemon_asks_the_next_one() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let dying = UnixListener::bind(node.socket()).unwrap();
    let socket = node.socket();
    let death = thread::spawn(move || {
        let (_client, _) = dying.accept().unwrap();
        fs::remove_file(socket).unwrap();
    });
    node.words(ADD).ok();
    death.join().unwrap();
    watch(&node);
    node.words("tunnel show").ok().says(&["tun0: gre/ip"]);
    node.words("daemon --stop").ok();
}

#[test]
fn a_daemon_that_takes_its_time_is_told_of() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let silent = UnixListener::bind(node.socket()).unwrap();
    let mut command = node.command(&["export", "ip", "tun0"]);
    let mut asking = node.run(|| command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let mut words = BufReader::new(asking.stderr.take().unwrap()).lines();
    let told = words.next().unwrap().unwrap();
    assert!(told.contains("waiting for the greway daemon at") && told.contains("sock"), "{told}");
    // It ends, and so does the waiting.
    drop(silent);
    fs::remove_file(node.socket()).unwrap();
    assert!(!asking.wait().unwrap().success());
    let told = words.next().unwrap().unwrap();
    assert!(told.contains("no greway daemon answers"), "{told}");
}

#[test]
fn stopping_a_daemon_that_is_at_its_end_is_no_error() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let dying = UnixListener::bind(node.socket()).unwrap();
    let socket = node.socket();
    let death = thread::spawn(move || {
        let (_client, _) = dying.accept().unwrap();
        fs::remove_file(socket).unwrap();
    });
    node.words("daemon --stop").ok().remarks(&["no daemon runs here"]);
    death.join().unwrap();
}

#[test]
fn root_of_a_user_namespace_has_a_place_of_its_own() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::by_namespace(&guide.linux1);
    let _daemon = node.daemon();
    let runtime = node.folder().join("runtime");
    fs::create_dir(&runtime).unwrap();
    std::os::unix::fs::chown(&runtime, Some(NOBODY), Some(NOBODY)).unwrap();
    let root = |words: &str| {
        let variable = format!("XDG_RUNTIME_DIR={}", runtime.display());
        let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        run_by(&node, &[&nobody[..], &["unshare", "--map-root-user", "env", &variable]].concat(), words)
    };
    let status = root("status");
    if status.stderr.contains("unshare:") {
        eprintln!("not run: root_of_a_user_namespace_has_a_place_of_its_own: {}", status.stderr.trim());
        return;
    }
    status.ok().says(&["no greway daemon runs"]);
    // The network is not its own: that is what it is told, and not that a directory is somebody else's.
    root(ADD).refused(&["did not start", "Operation not permitted"]);
    assert!(runtime.join("greway").is_dir());
}
