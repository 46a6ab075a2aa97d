//! The daemon's life: started by a verb, killed, restarted, ended, and what stays and what goes each time.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use greway_linux::process;
use greway_linux::signal::Signal;
use greway_testbed::tcp::TcpPair;
use greway_testbed::{
    Capture, CapturedPacket, Guide, LinkOptions, PingOptions, guide, link, ping, poll_until, privilege,
    require,
};
use greway_wire::gre::GreHeader;
use support::{Lab, Node, SOON, gone, in_vain, inner, parent, two_hosts};

const ADD: &str = "tunnel add tun0 mode gre local 100.0.1.100 remote 100.0.2.100";

fn connect(lab: &Lab) -> TcpPair {
    let to = SocketAddr::new(inner(1), 0);
    TcpPair::connect(&lab.guide.linux1, &lab.guide.linux2, to, SOON).unwrap()
}

/// The sequence numbers of the GRE packets that came in.
fn sequence_numbers(packets: &[CapturedPacket]) -> Vec<u32> {
    let number = |packet: &CapturedPacket| {
        let (header, _) = GreHeader::parse(packet.gre()?).ok()?;
        header.sequence_number.filter(|_| !packet.outgoing)
    };
    packets.iter().filter_map(number).collect()
}

/// A verb under way, which says so once it waits for an answer.
struct Verb {
    child: Child,
    words: String,
    said: PathBuf,
}

impl Verb {
    fn begin(node: &Node, words: &str) -> Self {
        let said = node.folder().join("said");
        let mut command = node.command(&words.split_whitespace().collect::<Vec<_>>());
        command.stdout(Stdio::null()).stderr(File::create(&said).unwrap());
        let child = node.run(|| command.spawn()).unwrap();
        node.watch(child.id());
        Self { child, words: words.to_owned(), said }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }

    fn waits(&self) {
        let waits = || self.said().contains(support::WAITING[0]).then_some(());
        poll_until(SOON, "a verb that waits", waits)
            .unwrap_or_else(|error| panic!("{}: {error}", self.words));
    }

    fn succeeds(mut self) {
        let ended = poll_until(2 * SOON, &self.words, || self.child.try_wait().unwrap()).unwrap();
        assert!(ended.success(), "{}: {}", self.words, self.said());
    }
}

#[test]
fn after_kill_9_configuration_stays_and_connections_live_on() {
    require!(privilege::check());
    let lab = two_hosts();
    let daemon = lab.one.daemon();
    let _other = lab.two.daemon();
    lab.tunnel("key 42 seq csum");
    lab.guide.linux1.route("10.10.2.0/24", "dev tun0").unwrap();
    let mut connection = connect(&lab);
    connection.exchange(200_000, SOON).unwrap();

    let before = lab.one.belongings();
    daemon.kill();
    assert_eq!(lab.one.belongings(), before);
    let link = lab.one.link("tun0").unwrap();
    assert!(link.up && link.running, "the carrier stays with no process alive (M2)");
    let killed = Instant::now();
    let _daemon = lab.one.daemon();
    let fast = PingOptions { count: 1, timeout: Duration::from_millis(20), ..PingOptions::default() };
    poll_until(SOON, "an answer through the tunnel", || {
        ping(&lab.guide.linux1, inner(1), &fast).unwrap().complete().then_some(())
    })
    .unwrap();
    println!("carries again {} ms after its start", killed.elapsed().as_millis());
    connection.exchange(200_000, SOON).unwrap();
    assert_eq!(lab.one.belongings(), before);
    lab.guide.linux1.delete_route("10.10.2.0/24", "dev tun0").unwrap();
}

#[test]
fn sigterm_leaves_the_tunnels_for_the_next_daemon() {
    require!(privilege::check());
    let lab = two_hosts();
    let daemon = lab.one.daemon();
    let _other = lab.two.daemon();
    lab.tunnel("key 42");
    lab.one.words("tunnel add tun1 mode gre local 100.0.1.100 remote 100.0.2.100 key 43 ttl 9").ok();
    let shown = lab.one.words("tunnel show").ok().stdout;
    let before = lab.one.belongings();
    daemon.terminate();
    assert!(!lab.one.socket().exists(), "a daemon that ends takes its socket with it");
    assert_eq!(lab.one.belongings(), before);
    lab.one.words("status").ok().says(&["2 tunnel(s) of a daemon that died are waiting"]);
    let _daemon = lab.one.daemon();
    assert_eq!(lab.one.words("tunnel show").ok().stdout, shown);
    assert!(lab.ping().complete());
}

#[test]
fn a_device_that_went_while_no_daemon_ran_is_forgotten() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let before = node.belongings();
    let daemon = node.daemon();
    node.words(ADD).ok();
    daemon.kill();
    let index = guide.linux1.index("tun0").unwrap();
    guide.linux1.netlink().unwrap().delete_link(index).unwrap();
    let _daemon = node.daemon();
    assert_eq!(node.words("tunnel show").ok().stdout, "");
    assert_eq!(node.belongings(), before);
    node.words(ADD).ok();
}

#[test]
fn the_socket_of_a_dead_daemon_is_no_obstacle() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    node.daemon().kill();
    assert!(node.socket().exists(), "kill -9 leaves the socket file");
    node.words("status").ok().says(&["no greway daemon runs"]);
    let daemon = node.daemon();
    // A second one does not take it from a living one.
    let second = node.words("daemon").refused(&["a greway daemon answers at", "already"]);
    assert_eq!(second.code, Some(75));
    assert_eq!(node.daemon_pid(), Some(daemon.pid()));
}

#[test]
fn t10_one_daemon_a_namespace_whatever_the_socket() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let _daemon = node.daemon();
    let second = Node::new(&guide.linux1);
    second.words("daemon").refused(&["one for each network namespace"]);
    // On another host a daemon is no obstacle.
    let other = Node::new(&guide.linux2);
    let _other = other.daemon();
}

#[test]
fn t07_sequence_numbers_never_go_back() {
    require!(privilege::check());
    let lab = two_hosts();
    let daemon = lab.one.daemon();
    let _other = lab.two.daemon();
    lab.tunnel("seq");
    let capture = Capture::start(&lab.guide.linux2, "wan0").unwrap();
    assert!(lab.ping().complete());
    let is_gre = |packet: &CapturedPacket| packet.gre().is_some() && !packet.outgoing;
    let first = sequence_numbers(&capture.wait_for_count(SOON, "three packets", 3, is_gre).unwrap());
    daemon.kill();
    capture.clear();
    let daemon = lab.one.daemon();
    // linux2 checks the numbers (iseq): it takes what comes after the restart only if they went on.
    assert!(lab.ping().complete(), "{}", lab.two.words("status").stdout);
    let second = sequence_numbers(&capture.wait_for_count(SOON, "three packets", 3, is_gre).unwrap());
    assert!(first.is_sorted() && second.is_sorted(), "{first:?} {second:?}");
    assert!(second[0] > *first.last().unwrap(), "{first:?} then {second:?}");
    assert!(second[0] <= first[0] + 2 * 65_536, "no more than what was reserved: {first:?} then {second:?}");
    // An orderly end is no different.
    daemon.terminate();
    capture.clear();
    let _daemon = lab.one.daemon();
    assert!(lab.ping().complete());
    let third = sequence_numbers(&capture.wait_for_count(SOON, "three packets", 3, is_gre).unwrap());
    assert!(third[0] > *second.last().unwrap(), "{second:?} then {third:?}");
}

#[test]
fn t07_a_tunnel_between_the_same_ends_goes_on_counting() {
    require!(privilege::check());
    let lab = two_hosts();
    let mut daemon = lab.one.daemon();
    let _other = lab.two.daemon();
    lab.tunnel("seq key 7");
    assert!(lab.ping().complete());
    let capture = Capture::start(&lab.guide.linux2, "wan0").unwrap();
    let is_gre = |packet: &CapturedPacket| packet.gre().is_some() && !packet.outgoing;
    let mut gone = "tun0";
    let mut least = 1;
    for name in ["tun0", "office"] {
        lab.one.words(&format!("tunnel del {gone}")).ok();
        assert!(lab.one.state_files().is_empty(), "nothing is left of it: {:?}", lab.one.state_files());
        capture.clear();
        let add = format!("tunnel add {name} mode gre local 100.0.1.100 remote 100.0.2.100 seq key 7");
        lab.one.words(&add).ok();
        lab.guide.linux1.address(name, "172.16.0.1 peer 172.16.0.2/30").unwrap();
        if name == "office" {
            // It is its own number at once, not only when it has sent.
            daemon.kill();
            daemon = lab.one.daemon();
        }
        // linux2 was not touched and checks the numbers: begun at 0 it would drop them all.
        assert!(lab.ping().complete(), "{}", lab.two.words("status").stdout);
        let numbers = sequence_numbers(&capture.wait_for_count(SOON, "three packets", 3, is_gre).unwrap());
        assert!(numbers.is_sorted() && numbers[0] >= least, "{numbers:?}");
        (gone, least) = (name, numbers[2] + 1);
    }
    // Another key is another tunnel.
    lab.one.words("tunnel del office").ok();
    capture.clear();
    lab.one.words("tunnel add tun0 mode gre local 100.0.1.100 remote 100.0.2.100 seq key 8").ok();
    lab.guide.linux1.address("tun0", "172.16.0.1 peer 172.16.0.2/30").unwrap();
    assert_eq!(ping(&lab.guide.linux1, inner(1), &in_vain()).unwrap().received(), 0);
    let numbers = sequence_numbers(&capture.wait_for_count(SOON, "a packet", 1, is_gre).unwrap());
    assert_eq!(numbers[0], 0);
}

#[test]
fn one_bad_state_file_keeps_nobody_else_down() {
    require!(privilege::check());
    let lab = two_hosts();
    let before = lab.one.belongings();
    let daemon = lab.one.daemon();
    let _other = lab.two.daemon();
    lab.tunnel("key 42");
    lab.one.words("tunnel add tun1 mode gre local 100.0.1.100 remote 100.0.2.100 key 43").ok();
    daemon.kill();
    fs::write(lab.one.state().join("tun1.json"), b"{\"spec\":").unwrap();
    let daemon = lab.one.daemon();
    assert!(lab.ping().complete());
    // What is wrong is said, with the way out of it.
    let status = lab.one.words("status").ok().says(&["tun0 up", "tun1.json", "greway tunnel del tun1"]);
    assert!(!status.stdout.contains("tun1 up"), "{status}");
    lab.one
        .words("tunnel add tun1 mode gre local 100.0.1.100 remote 100.0.2.100 key 43")
        .refused(&["tun1", "greway tunnel del tun1"]);
    lab.one.words("tunnel del tun1").ok();
    assert_eq!((lab.one.link("tun1"), lab.one.state_files()), (None, vec!["tun0.json".to_owned()]));
    let notes = lab.one.status()["notes"].to_string();
    assert!(!notes.contains("tun1"), "{notes}");

    // `daemon --stop` takes such remains with it as well.
    daemon.kill();
    fs::write(lab.one.state().join("tun0.json"), b"").unwrap();
    let daemon = lab.one.daemon();
    assert_eq!(lab.one.words("tunnel show").ok().stdout, "");
    lab.one.words("daemon --stop").ok();
    assert_eq!(daemon.ended(), Some(0));
    assert_eq!(lab.one.belongings(), before);
}

#[test]
fn a_state_that_cannot_be_kept_is_told_and_nothing_was_changed() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let _daemon = node.daemon();
    // State files are written beside and renamed; a directory is in the way of that as a full disk would be.
    let beside = node.state().join("tun0.json.new");
    fs::create_dir(&beside).unwrap();
    let before = node.links();
    node.words(ADD).refused(&["tun0", "cannot remember tun0", "Is a directory"]);
    assert_eq!((node.links(), node.state_files()), (before, vec!["tun0.json.new".to_owned()]));
    fs::remove_dir(&beside).unwrap();
    node.words(ADD).ok();

    let shown = node.words("tunnel show").ok().stdout;
    fs::create_dir(&beside).unwrap();
    node.words("tunnel change tun0 key 9").refused(&["cannot remember tun0", "Is a directory"]);
    assert_eq!((node.mtu("tun0"), node.words("tunnel show").ok().stdout), (1476, shown));
    fs::remove_dir(&beside).unwrap();
    assert_eq!(node.state_files(), ["tun0.json"]);
    node.words("tunnel change tun0 key 9").ok();
}

/// The state directory lies on a tmpfs of its own, in a mount namespace of its own, and that is full.
#[test]
fn a_full_disk_is_told_and_nothing_was_changed() {
    const SCRIPT: &str = r#"
        mount -t tmpfs -o size=64k full "$ROOM"
        "$GREWAY" daemon 2> "$LOG" &
        daemon=$!
        trap 'kill "$daemon"' EXIT
        tries=0
        until "$GREWAY" tunnel show > "$LOG.show" && [ -S "$GREWAY_SOCKET" ]; do
            tries=$((tries + 1))
            [ "$tries" -lt 800 ]
            sleep 0.01
        done
        dd if=/dev/zero of="$ROOM/fill" bs=4k 2> "$LOG.dd" || true
        if "$GREWAY" $ADD; then echo "added on a full disk"; fi
        ip -o link show | grep -c tun0 || true
        rm "$ROOM/fill"
        "$GREWAY" $ADD
        ip -o link show | grep -c tun0
        "$GREWAY" daemon --stop
        trap - EXIT
        wait "$daemon"
    "#;
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let room = node.folder().join("room");
    fs::create_dir(&room).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-euc", SCRIPT]).env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
    command.env("ROOM", &room).env("LOG", node.folder().join("full")).env("GREWAY", support::GREWAY);
    command.env("ADD", ADD).env("GREWAY_SOCKET", room.join("greway.sock"));
    let output = node.execute(command).ok();
    let output = output.remarks(&["cannot remember tun0", "No space left on device"]);
    let counts: Vec<&str> = output.stdout.lines().take(2).collect();
    // tun0 and gw-tun0, whose line names tun0 as its other end.
    assert_eq!(counts, ["0", "2"], "{output}");
}

#[test]
fn t10_a_verb_starts_the_daemon_of_its_namespace_and_stop_leaves_nothing() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let nodes = [Node::by_namespace(&guide.linux1), Node::by_namespace(&guide.linux2)];
    let before = [nodes[0].belongings(), nodes[1].belongings()];
    let [a, b] = guide::OUTER;
    let mut processes = Vec::new();
    for (node, (local, remote)) in nodes.iter().zip([(a, b), (b, a)]) {
        let started =
            node.words(&format!("tunnel add tun0 mode gre local {local} remote {remote}")).ok().remarks(&[
                "started a daemon in the background (pid ",
                "log /run/greway/net-",
                "greway daemon --stop",
            ]);
        assert_eq!((started.stdout.as_str(), started.stderr.lines().count()), ("", 1), "{started}");
        let daemon = node.daemon_pid().unwrap();
        assert!(started.stderr.contains(&format!("pid {daemon}")), "{started}");
        let supervisor = parent(daemon);
        node.watch(supervisor);
        node.watch(daemon);
        processes.extend([supervisor, daemon]);
    }
    // Each verb found its own daemon: both have a tun0.
    guide.linux1.address("tun0", "172.16.0.1 peer 172.16.0.2/30").unwrap();
    guide.linux2.address("tun0", "172.16.0.2 peer 172.16.0.1/30").unwrap();
    let carried = ping(&guide.linux1, inner(1), &PingOptions::default()).unwrap();
    assert!(carried.complete(), "{carried}");
    // The second verb is silent.
    assert_eq!(nodes[0].words("tunnel change tun0 ttl 64").ok().stderr, "");
    // Out of the caller's session.
    let session = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.split_whitespace().nth(3).unwrap().parse::<u32>().unwrap()
    };
    assert_ne!(session(processes[0]), session(std::process::id()));

    // kill -9: the supervisor starts it again, and the tunnel carries.
    let killed = Instant::now();
    process::kill(processes[1], Signal::Kill).unwrap();
    let fast = PingOptions { count: 1, timeout: Duration::from_millis(20), ..PingOptions::default() };
    let answers = || ping(&guide.linux1, inner(1), &fast).unwrap().complete();
    poll_until(SOON, "an answer after kill -9", || {
        let other = nodes[0].daemon_pid().filter(|pid| *pid != processes[1])?;
        nodes[0].watch(other);
        answers().then_some(())
    })
    .unwrap();
    println!("carries again {} ms after kill -9", killed.elapsed().as_millis());
    let restarted = nodes[0].daemon_pid().unwrap();
    assert_eq!(parent(restarted), processes[0], "by the same supervisor");
    processes.push(restarted);

    for (node, before) in nodes.iter().zip(before) {
        let directory = node.run_directory();
        assert!(directory.is_dir());
        node.words("daemon --stop").ok();
        assert_eq!(node.belongings(), before);
        assert!(!directory.exists(), "{:?}", fs::read_dir(&directory).map(Iterator::count));
        node.words("daemon --stop").ok().remarks(&["no daemon runs here"]);
    }
    for pid in processes {
        poll_until(SOON, &format!("the end of process {pid}"), || gone(pid).then_some(())).unwrap();
    }
}

#[test]
fn killed_tunnels_are_found_again_by_any_verb() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let before = node.belongings();
    let daemon = node.daemon();
    node.words(ADD).ok();
    daemon.kill();
    // Reading starts nothing, and says what waits.
    node.words("status").ok().says(&["1 tunnel(s) of a daemon that died are waiting"]);
    assert!(node.daemon_pid().is_none());
    // A change starts a daemon, which adopts.
    node.words("tunnel change tun0 key 5").ok().remarks(&["started a daemon in the background"]);
    let pid = node.daemon_pid().unwrap();
    node.watch(parent(pid));
    node.watch(pid);
    node.words("tunnel show tun0").ok().says(&["key 5"]);
    node.words("daemon --stop").ok();
    assert_eq!(node.belongings(), before);
    poll_until(SOON, "the end of the daemon", || gone(pid).then_some(())).unwrap();
}

#[test]
fn stop_ends_what_a_killed_daemon_left() {
    require!(privilege::check());
    let lab = two_hosts();
    let before = lab.one.belongings();
    let daemon = lab.one.daemon();
    lab.tunnel_on_one();
    daemon.kill();
    lab.one.words("daemon --stop").ok();
    assert_eq!(lab.one.belongings(), before);
    assert!(!lab.one.socket().exists());
    assert_eq!(ping(&lab.guide.linux1, inner(1), &in_vain()).unwrap().received(), 0);
}

/// Whoever waits for an answer when the daemon is killed is answered by the next one, and so is who asks right then: the
/// socket that the killed one leaves behind refuses for a moment.
#[test]
fn a_verb_over_a_kill_9_is_answered_by_the_next_daemon() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::by_namespace(&guide.linux1);
    let before = node.belongings();
    node.words(ADD).ok();
    let mut pid = node.daemon_pid().unwrap();
    node.watch(parent(pid));
    for (waiting, right_then) in [
        ("export ip tun0", "tunnel show tun0"),
        ("export ip tun0", "tunnel change tun0 ttl 9"),
        ("tunnel change tun0 ttl 10", "tunnel show"),
    ] {
        node.watch(pid);
        let stopped = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(stopped, rustix::process::Signal::STOP).unwrap();
        let verb = Verb::begin(&node, waiting);
        verb.waits();
        process::kill(pid, Signal::Kill).unwrap();
        if right_then.contains("change") {
            node.words(right_then).ok();
        } else {
            // It may be too early for it, which it says; it is refused by nobody.
            node.words(right_then);
        }
        verb.succeeds();
        let next = poll_until(SOON, "the next daemon", || node.daemon_pid().filter(|next| *next != pid));
        pid = next.unwrap();
        // A change that finds none before the supervisor is there starts one with a supervisor of its own.
        node.watch(parent(pid));
    }
    node.watch(pid);
    let supervisor = parent(pid);
    node.words("tunnel show tun0").ok().says(&["ttl 10"]);
    node.words("daemon --stop").ok();
    assert_eq!(node.belongings(), before);
    poll_until(SOON, "the end of the daemon", || gone(supervisor).then_some(())).unwrap();
}

#[test]
fn verbs_at_the_same_time_start_one_daemon() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let before = node.belongings();
    std::thread::scope(|scope| {
        for key in 1..=4 {
            let node = &node;
            scope.spawn(move || {
                node.words(&format!("{ADD} key {key}").replace("tun0", &format!("tun{key}"))).ok();
            });
        }
    });
    assert_eq!(node.words("tunnel show").ok().stdout.lines().count(), 4);
    let pid = node.daemon_pid().unwrap();
    node.watch(parent(pid));
    node.watch(pid);
    node.words("daemon --stop").ok();
    assert_eq!(node.belongings(), before);
    poll_until(SOON, "the end of the daemon", || gone(pid).then_some(())).unwrap();
}

#[test]
fn a_tunnel_whose_underlay_device_is_gone_does_not_send_another_way() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let before = node.belongings();
    link(&guide.linux1, "wan9", &guide.router, "eth9", &LinkOptions::default()).unwrap();
    let daemon = node.daemon();
    node.words(&format!("{ADD} dev wan9")).ok();
    daemon.kill();
    let index = guide.linux1.index("wan9").unwrap();
    guide.linux1.netlink().unwrap().delete_link(index).unwrap();
    let _daemon = node.daemon();
    node.words("status").ok().says(&["tunnel tun0 is not carried", "dev wan9", "greway tunnel del tun0"]);
    node.words("tunnel del tun0").ok();
    assert_eq!(node.belongings(), before);
}

/// In a PID namespace of its own, where PID 1 is ours to look at: on some hosts not even root may look at the
/// real one.
#[test]
fn t09_a_daemon_that_a_verb_starts_enters_pid_1s_mount_namespace() {
    const SCRIPT: &str = r#"
        unshare --mount "$GREWAY" $ADD
        for process in /proc/[0-9]*; do
            case "$(tr '\0' ' ' < "$process/cmdline")" in
                "$GREWAY "*" daemon ") readlink "$process/ns/mnt" ;;
            esac
        done
        readlink /proc/1/ns/mnt
        "$GREWAY" daemon --stop
    "#;
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-euc", SCRIPT]);
    command.env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("GREWAY_SOCKET", node.socket());
    let output = node.execute({
        command.env("GREWAY", support::GREWAY).env("ADD", ADD);
        command
    });
    let output = output.ok();
    let mut namespaces = output.stdout.lines().filter(|line| line.starts_with("mnt:"));
    let (daemon, first) = (namespaces.next().unwrap(), namespaces.next().unwrap());
    assert_eq!(daemon, first, "{output}");
}

#[test]
fn t09_a_daemon_that_a_verb_starts_outlives_the_verbs_surroundings() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let pid = start_as_netns_exec_does(&node);
    if fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap() {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(groups.lines().any(|line| line == "0::/"), "out of the caller's control group: {groups}");
    }
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
    node.words("tunnel change tun0 key 3").ok();
    assert_eq!(node.mtu("tun0"), 1472);
    node.words("daemon --stop").ok();
    poll_until(SOON, "the end of the daemon", || gone(pid).then_some(())).unwrap();
}

/// Adds a tunnel from a mount namespace of its own that ends with the command; gives the daemon's process.
fn start_as_netns_exec_does(node: &Node) -> u32 {
    let mut command = Command::new("unshare");
    command.args(["--mount", support::GREWAY]).args(ADD.split(' ')).env("GREWAY_SOCKET", node.socket());
    node.execute(command).ok();
    let pid = node.daemon_pid().unwrap();
    node.watch(parent(pid));
    node.watch(pid);
    pid
}

#[test]
fn noise_on_the_socket_harms_nobody() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let daemon = node.daemon();
    node.words(ADD).ok();
    // One that says half a word and stays, and some that say what is no request.
    let mut silent = UnixStream::connect(node.socket()).unwrap();
    silent.write_all(b"{\"method\":").unwrap();
    for noise in [&b"\xff\xfe\0"[..], b"{}\0", b"{\"method\":\"io.greway.Nothing\"}\0", b"\0"] {
        let mut stream = UnixStream::connect(node.socket()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(noise).unwrap();
        let mut answer = Vec::new();
        BufReader::new(stream).read_until(0, &mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.contains("no request that greway knows"), "{noise:?}: {answer}");
    }
    node.words("status --no-echo").ok().says(&["tun0 up"]);
    assert_eq!(node.daemon_pid(), Some(daemon.pid()));
}
