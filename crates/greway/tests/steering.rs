//! `[daemon] steer`: what a tunnel receives is spread over CPUs by the flow inside, and the devices below are left as
//! they were found.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/pair.rs"]
mod pair;
mod support;

use std::fs;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::Command;

use greway_linux::sysfs;
use greway_testbed::{Host, LinkOptions, PingOptions, link, order, poll_until, privilege, require};
use pair::{OUTER, Pair, inner};
use rustix::net::sockopt::socket_incoming_cpu;
use support::{Node, SOON};

/// Runs something with the root directory of a sysfs that shows the host's devices.
fn in_sysfs<T: Send>(host: &Host, work: impl FnOnce(&str) -> T + Send) -> T {
    let work = || {
        let root = sysfs::of_this_namespace().unwrap();
        work(&format!("/proc/self/fd/{}", root.as_raw_fd()))
    };
    host.run(work).unwrap()
}

/// The mask of a device's only receive queue.
fn rps(host: &Host, dev: &str) -> String {
    let path = format!("class/net/{dev}/queues/rx-0/rps_cpus");
    in_sysfs(host, |root| fs::read_to_string(format!("{root}/{path}")).unwrap().trim().to_owned())
}

fn set_rps(host: &Host, dev: &str, mask: &str) {
    let path = format!("class/net/{dev}/queues/rx-0/rps_cpus");
    in_sysfs(host, |root| fs::write(format!("{root}/{path}"), mask).unwrap());
}

/// Every CPU that is there, as sysfs writes the mask, and as a list; `None` where there is one alone.
fn all_cpus() -> Option<(String, String)> {
    let list = fs::read_to_string("/sys/devices/system/cpu/online").unwrap().trim().to_owned();
    let last = list.strip_prefix("0-")?.parse::<u32>().expect("CPUs without a gap");
    assert!(last < 31, "this test knows masks of one word");
    Some((format!("{:x}", (1_u64 << (last + 1)) - 1), list))
}

/// Gives the mask and list of all CPUs, or returns from the test.
macro_rules! require_cpus {
    ($name:literal) => {
        match all_cpus() {
            Some(cpus) => cpus,
            None => {
                #[allow(clippy::print_stderr, reason = "how a test says that it cannot run")]
                {
                    eprintln!("not run: {}: there is one CPU, and nothing to spread over", $name);
                }
                return;
            }
        }
    };
}

/// Starts left's daemon anew, steering or with the defaults.
fn restart(pair: &mut Pair, steer: Option<&str>) {
    if let Some(daemon) = pair.daemons[0].take() {
        daemon.terminate();
    }
    pair.daemons[0] = Some(start(&pair.nodes[0], steer));
}

fn start(node: &Node, steer: Option<&str>) -> support::Daemon {
    let text = steer.map_or_else(String::new, |steer| format!("[daemon]\nsteer = \"{steer}\"\n"));
    let file = node.file("greway.toml", &text);
    node.daemon_with(&[("GREWAY_CONFIG", &file)])
}

#[track_caller]
fn wait_for_rps(host: &Host, dev: &str, mask: &str) {
    let reached = poll_until(SOON, "the mask", || (rps(host, dev) == mask).then_some(()));
    assert!(reached.is_ok(), "{dev}: {}", rps(host, dev));
}

#[test]
fn the_device_below_is_steered_while_a_tunnel_needs_it_and_no_longer() {
    require!(privilege::check());
    let (all, list) = require_cpus!("the_device_below_is_steered_while_a_tunnel_needs_it_and_no_longer");
    let mut pair = Pair::new("");
    let idle = pair.nodes[0].state_files();
    assert_eq!(rps(&pair.left, "wan0"), "0", "not unless a file says so");
    restart(&mut pair, Some("rps"));
    assert_eq!(rps(&pair.left, "wan0"), all);
    assert_eq!(rps(&pair.left, "tun0"), "0", "the tunnel's own device is not below");
    let line = format!("steered: wan0, 1 receive queue: by the flow inside over CPUs {list}");
    pair.nodes[0].words("status --no-echo").ok().says(&[&line]);
    assert!(pair.nodes[0].state_files().contains(&"steering".to_owned()));
    pair.answers(&PingOptions::default());

    // A daemon that is killed leaves it to the next one, as it does the tunnels.
    pair.daemons[0].take().unwrap().kill();
    assert_eq!(rps(&pair.left, "wan0"), all);
    pair.daemons[0] = Some(start(&pair.nodes[0], Some("rps")));
    assert_eq!(rps(&pair.left, "wan0"), all);
    pair.nodes[0].words("status --no-echo").ok().says(&[&line]);

    // The next one may have been told otherwise, and knows that it was not somebody else's.
    pair.daemons[0].take().unwrap().kill();
    pair.daemons[0] = Some(start(&pair.nodes[0], None));
    assert_eq!(rps(&pair.left, "wan0"), "0");
    assert_eq!(pair.nodes[0].state_files(), idle);
    let quiet = pair.nodes[0].words("status --no-echo").ok();
    assert!(!quiet.stdout.contains("steer"), "{quiet}");

    // It goes with the last tunnel, and comes with the first.
    restart(&mut pair, Some("rps"));
    pair.add("tun1", "key 7");
    pair.nodes[0].words("tunnel del tun0").ok();
    assert_eq!(rps(&pair.left, "wan0"), all);
    pair.nodes[0].words("tunnel del tun1").ok();
    assert_eq!(rps(&pair.left, "wan0"), "0");
    assert_eq!(pair.nodes[0].state_files(), [""; 0]);
    pair.nodes[0].words(&format!("tunnel add tun0 remote {}", OUTER[1])).ok();
    wait_for_rps(&pair.left, "wan0", &all);
    pair.nodes[0].words("daemon --stop").ok();
    assert_eq!(rps(&pair.left, "wan0"), "0");
    assert_eq!(pair.daemons[0].take().unwrap().ended(), Some(0));
    assert!(!pair.nodes[0].state().exists());

    // What a killed daemon left is taken back by `--stop` too, which starts another for that.
    pair.daemons[0] = Some(start(&pair.nodes[0], Some("rps")));
    pair.nodes[0].words(&format!("tunnel add tun0 remote {}", OUTER[1])).ok();
    wait_for_rps(&pair.left, "wan0", &all);
    pair.daemons[0].take().unwrap().kill();
    pair.nodes[0].words("daemon --stop").ok();
    assert_eq!(rps(&pair.left, "wan0"), "0");
}

#[test]
fn what_somebody_else_set_stays_and_is_said() {
    require!(privilege::check());
    let (all, _) = require_cpus!("what_somebody_else_set_stays_and_is_said");
    let mut pair = Pair::new("");
    let notes = |pair: &Pair| pair.nodes[0].status()["notes"].to_string();
    set_rps(&pair.left, "wan0", "1");
    restart(&mut pair, Some("rps"));
    assert_eq!(rps(&pair.left, "wan0"), "1");
    let said = notes(&pair);
    assert!(
        said.contains("wan0 is not steered: queues/rx-0/rps_cpus is set to CPUs 0 already by somebody"),
        "{said}"
    );

    // Once it is free it is taken; what is changed after that is somebody else's, none as well.
    set_rps(&pair.left, "wan0", "0");
    wait_for_rps(&pair.left, "wan0", &all);
    for theirs in ["2", "0"] {
        set_rps(&pair.left, "wan0", theirs);
        let what = if theirs == "0" { "was changed to none" } else { "was changed to CPUs 1 " };
        let said = poll_until(SOON, "the note", || notes(&pair).contains(what).then_some(()));
        assert!(said.is_ok(), "{}", notes(&pair));
        assert_eq!(rps(&pair.left, "wan0"), theirs);
    }
    set_rps(&pair.left, "wan0", "2");
    pair.nodes[0].words("daemon --stop").ok();
    assert_eq!(rps(&pair.left, "wan0"), "2");
    assert!(!pair.nodes[0].state().exists());
}

#[test]
fn steering_follows_the_way_to_the_remote() {
    require!(privilege::check());
    let (all, _) = require_cpus!("steering_follows_the_way_to_the_remote");
    let mut pair = Pair::bare(&LinkOptions::default());
    link(&pair.left, "wan1", &pair.right, "wan1", &LinkOptions::default()).unwrap();
    pair.left.address("wan1", "10.0.1.1/24").unwrap();
    pair.left.route("10.9.0.0/16", "via 10.0.0.2").unwrap();
    restart(&mut pair, Some("rps"));
    pair.nodes[0].words("tunnel add tun0 remote 10.9.9.9").ok();
    wait_for_rps(&pair.left, "wan0", &all);
    assert_eq!(rps(&pair.left, "wan1"), "0");
    pair.left.route("10.9.9.0/24", "via 10.0.1.2").unwrap();
    wait_for_rps(&pair.left, "wan1", &all);
    wait_for_rps(&pair.left, "wan0", "0");
    // A device that another tunnel comes to use is no news of the kernel's.
    pair.nodes[0].words("tunnel add tun1 remote 10.0.0.2 key 3").ok();
    wait_for_rps(&pair.left, "wan0", &all);
    pair.nodes[0].words("tunnel change tun1 remote 10.9.9.8").ok();
    wait_for_rps(&pair.left, "wan0", "0");
    // With its device goes what was noted of it.
    pair.right.netlink().unwrap().delete_link(pair.right.index("wan1").unwrap()).unwrap();
    wait_for_rps(&pair.left, "wan0", &all);
    let noted = fs::read_to_string(pair.nodes[0].state().join("steering")).unwrap();
    assert_eq!(noted.matches("rx-0").count(), 1, "{noted}");
}

#[test]
fn what_has_to_stay_in_order_over_all_flows_is_not_steered() {
    require!(privilege::check());
    let (all, _) = require_cpus!("what_has_to_stay_in_order_over_all_flows_is_not_steered");
    let mut pair = Pair::new("iseq");
    restart(&mut pair, Some("rps"));
    assert_eq!(rps(&pair.left, "wan0"), "0");
    pair.nodes[0].words("status --no-echo").ok().says(&["note: wan0 is not steered: tun0 ", "(iseq)"]);
    pair.nodes[0].words("tunnel change tun0 noiseq").ok();
    wait_for_rps(&pair.left, "wan0", &all);
}

/// `$SYS` mounts a sysfs or not, `$BY` is what the daemon is run by.
const CONFINED: &str = r#"
    eval "$SYS"
    printf '[daemon]\nsteer = "rps"\n' > "$ROOM/greway.toml"
    export GREWAY_CONFIG="$ROOM/greway.toml"
    $BY "$GREWAY" daemon 2> "$ROOM/log" &
    daemon=$!
    trap 'kill "$daemon"' EXIT
    timeout 8 sh -c 'until [ -S "$GREWAY_SOCKET" ]; do :; done'
    "$GREWAY" tunnel add tun0 remote 10.0.0.2
    timeout 8 sh -c 'until "$GREWAY" status --no-echo | grep steer; do :; done'
    "$GREWAY" daemon --stop
    trap - EXIT
    wait "$daemon"
"#;

#[test]
fn where_sysfs_is_out_of_reach_the_tunnels_are_carried_all_the_same() {
    require!(privilege::check());
    let (_, list) = require_cpus!("where_sysfs_is_out_of_reach_the_tunnels_are_carried_all_the_same");
    let mut pair = Pair::bare(&LinkOptions::default());
    // There is one daemon for each network namespace.
    pair.daemons[0].take().unwrap().terminate();
    let own = "mount -t sysfs sysfs /sys";
    let read_only = "mount -t sysfs sysfs /sys && mount -o remount,ro,bind /sys";
    // As the package's unit has it.
    let confined =
        "setpriv --bounding-set=-all,+net_admin,+net_raw,+bpf,+perfmon --inh-caps=-all --no-new-privs";
    let steered = format!("steered: wan0, 1 receive queue: by the flow inside over CPUs {list}");
    for (sys, by, says) in [
        (own, confined, steered.as_str()),
        (own, "env", &steered),
        (
            read_only,
            "env",
            "wan0 is not steered: queues/rx-0/rps_cpus cannot be written: /sys is read-only here",
        ),
        ("true", confined, "/sys shows the devices of another network namespace"),
    ] {
        let node = Node::new(&pair.left);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-euc", CONFINED]).env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
        command.env("SYS", sys).env("BY", by).env("ROOM", node.folder()).env("GREWAY", support::GREWAY);
        command.env("GREWAY_SOCKET", node.socket());
        node.execute(command).ok().says(&[says]);
        assert_eq!(rps(&pair.left, "wan0"), "0", "{sys}, {by}");
    }
}

/// Counts the GRE packets that each CPU receives on the cable.
fn count_by_cpu(host: &Host, cpus: u32) {
    let rules = (0..cpus).map(|cpu| format!("ip protocol gre meta cpu {cpu} counter\n")).collect::<String>();
    let chain = format!("chain c {{ type filter hook ingress device wan0 priority 0;\n{rules}}}");
    let mut nft = Command::new("/usr/sbin/nft");
    let nft = host.output(nft.arg(format!("table netdev seen {{\n{chain}\n}}\n"))).unwrap();
    assert!(nft.status.success(), "{nft:?}");
}

/// What they have counted.
fn by_cpu(host: &Host, cpus: u32) -> Vec<u64> {
    let output =
        host.output(Command::new("/usr/sbin/nft").args(["list", "table", "netdev", "seen"])).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let count = |cpu: u32| {
        let line = text.lines().find(|line| line.contains(&format!("meta cpu {cpu} "))).unwrap();
        let (_, packets) = line.split_once("packets ").unwrap();
        packets.split_whitespace().next().unwrap().parse().unwrap()
    };
    (0..cpus).map(count).collect()
}

/// Flows through the tunnel from right to left: a socket on each end.
struct Flow {
    from: UdpSocket,
    to: UdpSocket,
    next: u32,
}

impl Flow {
    fn new(pair: &Pair) -> Self {
        let (from, to) = (pair::udp(&pair.right, inner(1)), pair::udp(&pair.left, inner(0)));
        from.connect(to.local_addr().unwrap()).unwrap();
        // Of one that is not connected the kernel does not note by which CPU it receives.
        to.connect(from.local_addr().unwrap()).unwrap();
        Self { from, to, next: 0 }
    }
}

/// Sends some packets by each; all have to arrive, and those of one flow in order.
#[track_caller]
fn exchange(flows: &mut [Flow], in_a_row: u32) {
    for flow in &*flows {
        for number in flow.next..flow.next + in_a_row {
            flow.from.send(&number.to_be_bytes()).unwrap();
        }
    }
    for flow in flows {
        for _ in 0..in_a_row {
            let mut number = [0; 4];
            flow.to.recv(&mut number).expect("every packet arrives");
            assert_eq!(u32::from_be_bytes(number), flow.next, "out of order");
            flow.next += 1;
        }
    }
}

const ROUNDS: u32 = 20;
const FLOWS: usize = 32;
const IN_A_ROW: u32 = 6;

/// A pair with a tunnel whose left end is steered, and flows through it. Before and behind the cable all is one CPU's,
/// daemons too, so that only what is steered could get out of order.
fn steered(words: &str) -> (Pair, Vec<Flow>) {
    order::on_one_cpu().unwrap();
    let mut pair = Pair::new(words);
    restart(&mut pair, Some("rps"));
    // Both neighbours are known from here on.
    pair.answers(&PingOptions::default());
    let flows = (0..FLOWS).map(|_| Flow::new(&pair)).collect();
    (pair, flows)
}

#[test]
fn flows_inside_come_to_different_cpus_and_each_stays_in_order() {
    require!(privilege::check());
    let (all, _) = require_cpus!("flows_inside_come_to_different_cpus_and_each_stays_in_order");
    let cpus = all.chars().map(|digit| digit.to_digit(16).unwrap().count_ones()).sum::<u32>();
    for words in ["datapath userspace", "datapath userspace key 42"] {
        let (pair, mut flows) = steered(words);
        count_by_cpu(&pair.left, cpus);
        for _ in 0..ROUNDS {
            exchange(&mut flows, IN_A_ROW);
        }
        let spread = by_cpu(&pair.left, cpus);
        assert_eq!(
            spread.iter().sum::<u64>(),
            u64::from(ROUNDS * IN_A_ROW) * FLOWS as u64,
            "{words}: {spread:?}"
        );
        assert!(spread.iter().filter(|packets| **packets > 0).count() > 1, "{words}: {spread:?}");
        for _ in 0..ROUNDS {
            exchange(&mut flows[..1], IN_A_ROW);
        }
        let alone = by_cpu(&pair.left, cpus).into_iter().zip(spread).filter(|(after, before)| after > before);
        assert_eq!(alone.count(), 1, "{words}: one flow is one CPU's");
    }
}

#[test]
fn what_a_program_carries_is_spread_the_same() {
    require!(privilege::check());
    require_cpus!("what_a_program_carries_is_spread_the_same");
    for words in ["datapath ebpf", "datapath ebpf key 42"] {
        let (pair, mut flows) = steered(words);
        // Program and all behind it run on the CPU that a packet came to, down to the socket.
        let places = |flows: &[Flow]| {
            flows.iter().map(|flow| socket_incoming_cpu(&flow.to).unwrap()).collect::<Vec<_>>()
        };
        exchange(&mut flows, IN_A_ROW);
        let first = places(&flows);
        for _ in 0..ROUNDS {
            exchange(&mut flows, IN_A_ROW);
            assert_eq!(places(&flows), first, "{words}: a flow has changed its CPU");
        }
        assert!(first.iter().any(|cpu| *cpu != first[0]), "{words}: {first:?}");
        assert_eq!(pair.status(0)["datapath"]["datapath"], "ebpf", "{}", pair.status(0));
    }
}
