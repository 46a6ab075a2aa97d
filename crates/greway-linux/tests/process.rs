//! What changes a whole process. Without the test harness, whose threads would be in the way: a user
//! namespace can be made only by a process of one thread, and a blocked signal must be blocked in all.
//! Each case runs in a process of its own, this program started again with the case's name.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus};

use common::{Netlink, not_run};
use greway_linux::netns::{self, NetNamespace, UnshareError};
use greway_linux::packet::{Config, PacketSocket};
use greway_linux::process::{self, Capability};
use greway_linux::raw::RawSocket;
use greway_linux::signal::{self, Signal, Signals};

const CASE: &str = "GREWAY_LINUX_TEST_CASE";
const NOBODY: u32 = 65534;

fn main() {
    match std::env::var(CASE).as_deref() {
        Ok("user_namespace") => user_namespace(),
        Ok("unprivileged_refusals") => unprivileged_refusals(),
        Ok("signals") => signals(),
        Ok("session") => session(),
        Ok("detached") => detached(),
        Ok("init_mounts") => init_mounts(),
        Ok("inherited") => inherited(),
        Ok(other) => panic!("no case {other}"),
        Err(_) => parent(),
    }
}

fn parent() {
    credentials();
    for case in ["signals", "session", "detached", "inherited"] {
        let status = command(case).status().unwrap();
        assert!(status.success(), "{case}: {status}");
    }
    first_of_its_own_processes("init_mounts");
    assert_eq!(process::kill(0, Signal::Terminate).unwrap_err().raw_os_error(), Some(3));

    for case in ["user_namespace", "unprivileged_refusals"] {
        let mut command = command(case);
        if process::effective_uid() == 0 {
            command.uid(NOBODY).gid(NOBODY);
        }
        match command.status() {
            Ok(status) => assert!(status.success(), "{case}: {status}"),
            // The build directory may be nobody else's business.
            Err(error) => not_run(case, format_args!("as user {NOBODY}: {error}")),
        }
    }
    lone_child();
}

fn command(case: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(CASE, case);
    command
}

fn credentials() {
    let (one, _other) = UnixStream::pair().unwrap();
    let peer = process::peer_credentials(&one).unwrap();
    assert_eq!(peer.pid, Some(std::process::id()));
    assert_eq!(peer.uid, process::effective_uid());
}

/// The end of a child that is killed is told by its status.
fn lone_child() {
    let mut child = Command::new("/proc/self/exe").env(CASE, "signals").env("WAIT", "1").spawn().unwrap();
    process::kill(child.id(), Signal::Kill).unwrap();
    let status: ExitStatus = child.wait().unwrap();
    assert_eq!(status.signal(), Some(9));
}

fn signals() {
    assert_eq!(Signals::block(&[Signal::Kill]).unwrap_err().raw_os_error(), Some(22));
    let signals = Signals::block(&[Signal::Terminate, Signal::Interrupt, Signal::HangUp]).unwrap();
    if std::env::var_os("WAIT").is_some() {
        let poller = greway_linux::event::Poller::new().unwrap();
        poller.wait(&mut greway_linux::event::Events::with_capacity(1), None).unwrap();
    }
    assert_eq!(signals.read().unwrap(), None);
    process::kill(process::id(), Signal::Terminate).unwrap();
    process::kill(process::id(), Signal::HangUp).unwrap();
    let mut read = [signals.read().unwrap().unwrap(), signals.read().unwrap().unwrap()];
    read.sort_by_key(|signal| *signal == Signal::Terminate);
    assert_eq!(read, [Signal::HangUp, Signal::Terminate]);
    assert_eq!(signals.read().unwrap(), None);
    Signals::unblock_all().unwrap();
    let mut ended = command("session").env("END", "1").spawn().unwrap();
    assert_eq!(ended.wait().unwrap().signal(), Some(15), "nothing is blocked in a child any more");
}

fn session() {
    if std::env::var_os("END").is_some() {
        process::kill(process::id(), Signal::Terminate).unwrap();
        unreachable!("the signal was to end this process");
    }
    process::new_session().unwrap();
    assert_eq!(process::new_session().unwrap_err().raw_os_error(), Some(1), "it leads one already");
}

/// Neither an open descriptor nor an ignored signal of the starter is left to a child.
fn inherited() {
    if std::env::var_os("END").is_some() {
        // Past the standard ones only the listing itself.
        let open = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(open.filter(|number| number.to_str().unwrap().parse::<u32>().unwrap() > 2).count(), 1);
        return;
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).unwrap();
    // A shell does not do for this: bash keeps SIGCHLD to itself.
    let mut waiting = Command::new("env");
    waiting.arg("--ignore-signal=CHLD").arg(std::env::current_exe().unwrap());
    let status = waiting.env(CASE, "inherited").env("CHILDREN", "1").env_remove("END");
    if std::env::var_os("CHILDREN").is_none() {
        assert!(status.status().unwrap().success());
    } else {
        let lost = Command::new("true").status().unwrap_err();
        assert_eq!(lost.raw_os_error(), Some(10), "the starter ignores SIGCHLD, and so do we: {lost}");
        signal::restore_default(&[Signal::Child]).unwrap();
        assert!(Command::new("true").status().unwrap().success());
    }
    process::close_inherited().unwrap();
    let mut child = command("inherited").env("END", "1").stdin(std::process::Stdio::null()).spawn().unwrap();
    drop(writer);
    assert_eq!(std::io::Read::read(&mut reader, &mut [0]).unwrap(), 0, "nobody holds the other end");
    assert!(child.wait().unwrap().success());
}

/// Away from the starter's control group, where this user may.
fn detached() {
    match process::leave_cgroup() {
        Ok(Some(_root)) => {
            let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
            assert!(own.lines().any(|line| line == "0::/"), "{own}");
        }
        Ok(None) => not_run("detached", "no control groups (version 2) are mounted"),
        Err(error) => not_run("detached", format_args!("control group: {error}")),
    }
}

/// Runs a case in a PID namespace of its own, where process 1 is one that this user may look at, and in another
/// mount namespace than that one. On some hosts not even root may look at the real process 1.
fn first_of_its_own_processes(case: &str) {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "sh", "-c", "unshare --mount \"$0\"; exit $?"]);
    match command.arg(program).env(CASE, case).status() {
        Ok(status) if status.success() => {}
        Ok(status) if process::effective_uid() == 0 => panic!("{case}: {status}"),
        Ok(status) => not_run(case, format_args!("unshare: {status}")),
        Err(error) => not_run(case, format_args!("unshare: {error}")),
    }
}

fn init_mounts() {
    assert!(process::enter_init_mount_namespace().unwrap());
    assert!(!process::enter_init_mount_namespace().unwrap(), "it is there by now");
}

fn unprivileged_refusals() {
    for capability in [Capability::NetAdmin, Capability::NetRaw, Capability::SysAdmin, Capability::Bpf] {
        if process::has_capability(capability).unwrap() {
            return not_run("unprivileged_refusals", format_args!("this user has {capability:?}"));
        }
    }
    assert_eq!(netns::unshare_net().unwrap_err().raw_os_error(), Some(1));
    let packet = PacketSocket::open(&Config::default()).unwrap_err();
    assert!(packet.is_permission(), "{packet}");
    assert_eq!(packet.to_string(), "socket(AF_PACKET): Operation not permitted (os error 1)");
    let raw = RawSocket::open_ipv4(47).unwrap_err();
    assert!(raw.is_permission() && raw.step == "socket(AF_INET, SOCK_RAW)", "{raw}");
}

fn user_namespace() {
    let outside = NetNamespace::current().unwrap();
    match netns::unshare_user_and_net() {
        Ok(()) => {}
        // Both are a policy of the machine, and the type says which.
        Err(error @ (UnshareError::User(_) | UnshareError::Net(_))) => {
            return not_run("user_namespace", error);
        }
        Err(error) => panic!("{error}"),
    }
    assert_eq!(process::effective_uid(), 0);
    assert!(process::has_capability(Capability::NetAdmin).unwrap());
    assert!(!NetNamespace::current().unwrap().is_same(&outside).unwrap());
    Netlink::open().up("lo");
    RawSocket::open_ipv4(47).unwrap();
    let socket = PacketSocket::open(&Config { receive_buffer: Some(1 << 24), ..Config::default() });
    assert!(socket.is_ok(), "the forced buffer size is refused and the plain one taken: {socket:?}");
    assert!(outside.enter().is_err(), "no way back without privilege there");
}
