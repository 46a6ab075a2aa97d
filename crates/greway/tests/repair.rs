//! What others do to greway's things on a host – flush its tables, change its device, remove the device below it –
//! and what greway does about it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/pair.rs"]
mod pair;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use greway_control::api::client::{Client, ClientError};
use greway_control::api::{Reply, Request};
use greway_linux::process;
use greway_linux::signal::Signal;
use greway_netlink::LinkChange;
use greway_netlink::nftables::{Family, Hook, Nftables, TableId, accept_only, ingress_drop};
use greway_spec::Draft;
use greway_testbed::{Guide, Host, LinkOptions, PingOptions, link, ping, poll_until, privilege, require};

use pair::{OUTER, Pair};
use rustix::process::{Pid, Resource, Rlimit};
use support::{Daemon, Node, SOON, inner, two_hosts};

const ADD: &str = "tunnel add tun0 mode gre local 100.0.1.100 remote 100.0.2.100";

/// By userspace, since the seal is a table there and part of the program on the fast path.
const SNAT: &str = "local = \"100.0.1.100\"\nremote = \"100.0.2.100\"\ndatapath = \"userspace\"\n\
    [inner]\naddress = \"172.16.0.1\"\npeer = \"172.16.0.2/30\"\nsnat = \"10.10.1.1\"\n";

/// Both tables of tun0, as a host lists them.
const TABLES: [&str; 2] = ["ip greway-tun0", "netdev greway-tun0"];

fn delete_tables(host: &Host, families: &[Family]) {
    let nftables = host.run(Nftables::open).unwrap().unwrap();
    for family in families {
        assert!(nftables.delete_table(&TableId::new(*family, "greway-tun0")).unwrap(), "{family}");
    }
}

fn tables(node: &Node) -> Vec<String> {
    let mut tables = node.nft_tables();
    tables.sort();
    tables
}

fn wait_for_tables(node: &Node) {
    let back = poll_until(SOON, "the tables", || (tables(node) == TABLES).then_some(()));
    assert!(back.is_ok(), "{:?}", tables(node));
}

#[test]
fn tables_that_somebody_flushed_are_put_back() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let before = node.belongings();
    let daemon = node.daemon();
    let path = node.file("tun0.toml", SNAT);
    node.greway(&["up", &path]).ok();
    assert_eq!(tables(&node), TABLES);
    delete_tables(&guide.linux1, &[Family::Ip, Family::Netdev]);
    wait_for_tables(&node);
    assert!(daemon.log().contains("put back"), "{}", daemon.log());
    node.greway(&["up", &path]).ok().says(&["nothing to do"]);

    // The same for what went while no daemon ran, or was never made because the daemon died before.
    daemon.kill();
    delete_tables(&guide.linux1, &[Family::Ip, Family::Netdev]);
    node.greway(&["up", "--dry-run", &path]).ok().says(&["would translate source", "would seal"]);
    let _daemon = node.daemon();
    wait_for_tables(&node);
    node.words("down tun0").ok();
    assert_eq!(node.belongings(), before);
}

#[test]
fn an_operators_table_with_a_name_like_ours_holds() {
    require!(privilege::check());
    let pair = Pair::new("");
    pair.answers(&PingOptions::default());
    let nftables = pair.left.run(Nftables::open).unwrap().unwrap();
    // Neither another name, nor another family, nor another hook is ours.
    for name in ["greway-own", "greway-tun0"] {
        nftables.apply(&accept_only(name, &[Hook::Input], &[1])).unwrap();
        let why = pair.wait_for_underlay(0, "raw");
        assert!(why.contains(name), "{why}");
        assert_eq!(pair.ping(&support::in_vain()).received(), 0, "carried past {name}");
        assert!(nftables.delete_table(&TableId::new(Family::Inet, name)).unwrap());
        pair.wait_for_underlay(0, "packet");
    }
    pair.answers(&PingOptions::default());
}

#[test]
fn a_device_with_another_alias_is_still_the_tunnels() {
    require!(privilege::check());
    let lab = two_hosts();
    let before = lab.one.belongings();
    let daemon = lab.one.daemon();
    let _other = lab.two.daemon();
    lab.tunnel("key 42");
    let rename = LinkChange { alias: Some("office"), ..LinkChange::default() };
    lab.guide.linux1.change("tun0", &rename).unwrap();
    lab.one.words("tunnel change tun0 ttl 9").ok();
    assert_eq!(
        lab.one.link("tun0").unwrap().alias.as_deref(),
        Some("office"),
        "an alias of somebody else stays"
    );
    daemon.kill();
    let _daemon = lab.one.daemon();
    lab.one.words("status").ok().says(&["tun0"]);
    assert!(lab.ping().complete());
    lab.one.words("tunnel del tun0").ok();
    assert_eq!(lab.one.belongings(), before);

    // A TUN has no other end to be known by; a daemon that made it knows it.
    lab.one.words("tunnel add tun1 mode gre local 100.0.1.100 remote 100.0.2.100 overlay tun").ok();
    lab.guide.linux1.change("tun1", &rename).unwrap();
    lab.one.words("tunnel del tun1").ok();
    assert_eq!(lab.one.belongings(), before);
}

#[test]
fn a_device_that_cannot_be_deleted_keeps_its_state() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let daemon = node.daemon();
    node.words(&format!("{ADD} overlay tun")).ok();
    guide.linux1.change("tun0", &LinkChange { alias: Some("office"), ..LinkChange::default() }).unwrap();
    daemon.kill();
    let _daemon = node.daemon();
    node.words("tunnel del tun0").refused(&["tun0 is no device that greway made"]);
    assert_eq!(node.state_files(), ["tun0.json"]);
    node.words("status").ok().says(&["tunnel tun0 is not carried"]);
    let index = guide.linux1.index("tun0").unwrap();
    guide.linux1.netlink().unwrap().delete_link(index).unwrap();
    node.words("tunnel del tun0").ok();
    assert_eq!(node.state_files(), [""; 0]);
}

#[test]
fn a_device_of_somebody_else_with_the_name_of_a_tunnel_stays() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let before = node.belongings();
    let netlink = guide.linux1.netlink().unwrap();
    // Ours is gone, or has another name, while no daemon ran.
    for renamed in [false, true] {
        let daemon = node.daemon();
        node.words(ADD).ok();
        daemon.kill();
        let index = guide.linux1.index("tun0").unwrap();
        if renamed {
            guide.linux1.change("tun0", &LinkChange { up: Some(false), ..LinkChange::default() }).unwrap();
            guide
                .linux1
                .change("tun0", &LinkChange { name: Some("office"), ..LinkChange::default() })
                .unwrap();
        } else {
            netlink.delete_link(index).unwrap();
        }
        link(&guide.linux1, "tun0", &guide.linux2, "other", &LinkOptions::default()).unwrap();
        let foreign = node.link("tun0").unwrap().index;
        let daemon = node.daemon();
        node.words("tunnel del tun0").ok();
        assert_eq!(node.link("tun0").unwrap().index, foreign);
        netlink.delete_link(foreign).unwrap();
        assert_eq!(node.belongings(), before, "renamed: {renamed}");
        drop(daemon);
    }
}

#[test]
fn tables_of_ours_without_a_tunnel_are_remains() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let _daemon = node.daemon();
    let before = node.belongings();
    let nftables = guide.linux1.run(Nftables::open).unwrap().unwrap();
    let seal = |comment| ingress_drop("greway-tun0", "gw-tun0", 0, comment);
    nftables.apply(&seal(Some("greway: for the data plane only"))).unwrap();
    node.words(ADD).refused(&["tun0", "greway tunnel del tun0"]);
    node.words("tunnel del tun0").ok();
    assert_eq!(node.belongings(), before);
    node.words(ADD).ok();
}

/// The descriptors that a process has open while it does nothing: what it looks at by itself takes some for a moment.
fn descriptors(pid: u32) -> BTreeSet<u64> {
    const LOOKS: u32 = 20;
    let mut same = (BTreeSet::new(), 0);
    poll_until(SOON, "a daemon that rests", || {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let now = entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap());
        let now = now.collect::<BTreeSet<u64>>();
        same.1 = if now == same.0 { same.1 + 1 } else { 0 };
        same.0 = now;
        (same.1 == LOOKS).then(|| same.0.clone())
    })
    .unwrap()
}

/// A daemon that may have so many more descriptors than it has. What is limited is their number and not how many there
/// are, and some of a daemon's have high ones.
fn allow(daemon: &Daemon, spare: usize) {
    let taken = descriptors(daemon.pid());
    let last = (0..).filter(|number| !taken.contains(number)).nth(spare - 1).unwrap();
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap());
    let limit = Rlimit { current: Some(last + 1), maximum: Some(4096) };
    rustix::process::prlimit(pid, Resource::Nofile, limit).unwrap();
}

#[test]
fn a_tunnel_that_cannot_be_set_up_leaves_nothing_wherever_it_fails() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let daemon = node.daemon();
    let before = node.belongings();
    let mut failed = 0;
    // Enough to be answered; then one descriptor more each time, until all of it can be had.
    for spare in 1.. {
        allow(&daemon, spare);
        let added = node.words(ADD);
        allow(&daemon, 1000);
        if added.code == Some(0) {
            break;
        }
        assert!(added.stderr.contains("Too many open files"), "{added}");
        assert_eq!(node.belongings(), before, "{added}");
        failed += 1;
    }
    assert!(failed > 0, "it never failed");
    node.words("tunnel del tun0").ok();
    assert_eq!(node.belongings(), before);
}

/// Gives both ends of a new cable what they had.
fn lay_cable(pair: &Pair) {
    link(&pair.left, "wan0", &pair.right, "wan0", &LinkOptions::default()).unwrap();
    for (host, address) in [(&pair.left, OUTER[0]), (&pair.right, OUTER[1])] {
        host.address("wan0", &format!("{address}/24")).unwrap();
    }
}

fn cut_cable(pair: &Pair) {
    pair.left.netlink().unwrap().delete_link(pair.left.index("wan0").unwrap()).unwrap();
}

fn answers_again(pair: &Pair) {
    let fast = PingOptions { count: 1, timeout: Duration::from_millis(100), ..PingOptions::default() };
    let answered = poll_until(SOON, "an answer through the tunnel", || {
        ping(&pair.left, inner(1), &fast).unwrap().complete().then_some(())
    });
    assert!(answered.is_ok(), "{}", pair.nodes[0].words("status").stdout);
}

#[test]
fn a_dev_that_is_made_again_is_sent_by_again() {
    require!(privilege::check());
    let mut pair = Pair::new("dev wan0");
    pair.answers(&PingOptions::default());
    cut_cable(&pair);
    lay_cable(&pair);
    answers_again(&pair);

    // A daemon that starts meanwhile carries the tunnel as soon as the device is there.
    pair.daemons[0].take().unwrap().kill();
    cut_cable(&pair);
    pair.daemons[0] = Some(pair.nodes[0].daemon());
    pair.nodes[0].words("status --no-echo").ok().says(&["dev wan0: there is no such device"]);
    lay_cable(&pair);
    answers_again(&pair);
    let status = pair.nodes[0].words("status --no-echo").ok();
    assert!(!status.stdout.contains("not carried"), "{status}");
}

/// Has every wait of a process's thread of this name fail from now on, as only a broken kernel would.
fn break_waiting(pid: u32, thread: &str) -> io::Result<Child> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?.collect::<io::Result<Vec<_>>>()?;
    let named =
        |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == thread);
    let task = tasks.into_iter().map(|task| task.path()).find(named).ok_or(io::ErrorKind::NotFound)?;
    let waits = "epoll_wait,epoll_pwait,epoll_pwait2";
    let mut command = Command::new("strace");
    command.args(["-qq", "-o", "/dev/null", "-e", &format!("trace={waits}")]);
    command.args(["-e", &format!("inject={waits}:error=EINVAL")]);
    command.arg("-p").arg(task.file_name().unwrap_or_default());
    command.spawn()
}

#[test]
fn a_daemon_whose_data_plane_died_ends_so_that_it_is_started_again() {
    require!(privilege::check());
    let mut pair = Pair::new("");
    pair.answers(&PingOptions::default());
    let daemon = pair.daemons[0].take().unwrap();
    let strace = break_waiting(daemon.pid(), "datapath");
    require!(strace.as_ref().map_err(|error| format!("strace: {error}")));
    // A packet wakes the worker, which then cannot wait for the next one.
    let traced = poll_until(SOON, "strace", || {
        let status = fs::read_dir(format!("/proc/{}/task", daemon.pid()))
            .unwrap()
            .map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default());
        status.into_iter().any(|status| !status.contains("TracerPid:\t0")).then_some(())
    });
    require!(traced.map_err(|_timeout| "strace may not trace here"));
    pair.ping(&support::in_vain());
    let log = fs::read_to_string(pair.nodes[0].folder().join("daemon.log")).unwrap();
    assert_eq!(daemon.ended(), Some(1), "neither a clean end nor a refusal: {log}");
    let mut strace = strace.unwrap();
    strace.wait().unwrap();
    pair.daemons[0] = Some(pair.nodes[0].daemon());
    answers_again(&pair);
}

/// Adds tunnels on linux1 from three threads until the daemon answers no more, and has it ended meanwhile.
fn end_it_while_busy(node: &Node, end: impl FnOnce()) {
    let socket = node.socket();
    let add = |number: u32| {
        let address = |text: &str| text.parse().unwrap();
        let name = format!("tun{number}").parse().unwrap();
        let mut spec = Draft::new(name, address("100.0.1.100"), address("100.0.2.100")).into_spec().unwrap();
        (spec.ikey, spec.okey) = (Some(number), Some(number));
        Client::connect(&socket).and_then(|mut client| client.ask(&Request::Add { spec: spec.into() }))
    };
    thread::scope(|scope| {
        let busy = [1, 2, 3].map(|thread| {
            scope.spawn(move || (thread * 1000..).find_map(|number| add(number).err()).unwrap())
        });
        poll_until(SOON, "tunnels", || (node.links().len() > 8).then_some(())).unwrap();
        end();
        for last in busy.map(|busy| busy.join().unwrap()) {
            // Refused while it ends; any other error is that of a daemon that has ended.
            if let ClientError::Refused(words) = last {
                assert_eq!(words, "the daemon is ending, try again");
            }
        }
    });
}

#[test]
fn nothing_is_half_made_when_the_daemon_is_told_to_stop() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let before = node.belongings();
    let daemon = node.daemon();
    end_it_while_busy(&node, || {
        let mut client = Client::connect(&node.socket()).unwrap();
        assert!(matches!(client.ask(&Request::Stop { remove: true }), Ok(Reply::Done { .. })));
    });
    assert_eq!(daemon.ended(), Some(0));
    assert_eq!(node.belongings(), before);
}

#[test]
fn nothing_is_half_made_when_a_signal_ends_the_daemon() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let before = node.belongings();
    let daemon = node.daemon();
    end_it_while_busy(&node, || process::kill(daemon.pid(), Signal::Terminate).unwrap());
    assert_eq!(daemon.ended(), Some(0));
    // What was begun is whole: each tunnel has its file, its device, up, and its seal: a table or a program.
    let files = node.state_files();
    for file in &files {
        let name = file.strip_suffix(".json").unwrap();
        assert!(node.link(name).is_some_and(|link| link.up), "{name}");
        assert!(node.link(&format!("gw-{name}")).is_some(), "{name}");
        let sealed = node.nft_tables().contains(&format!("netdev greway-{name}"));
        assert!(sealed || node.has_program(&format!("gw-{name}")), "{name}");
    }
    assert_eq!(node.links().len(), before.0.len() + 2 * files.len());
    node.words("daemon --stop").ok();
    assert_eq!(node.belongings(), before);
}
