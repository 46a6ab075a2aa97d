//! A daemon that was started inside `ip netns exec`, whose mount namespace is a private one: what it leaves to the kernel
//! has to outlast both (T9).

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::process::Command;

use greway_linux::process;
use greway_linux::signal::Signal;
use greway_testbed::{PingOptions, poll_until, privilege, require};

use crate::hosts::{self, Carrier, wait_for_datapath};
use crate::pair::{Pair, inner};
use crate::stream::Stream;
use crate::support::{GREWAY, SOON, gone, parent};

/// Runs greway on left as people do in a namespace with a name. The name is one of a mount namespace of its own.
fn exec(pair: &Pair, carrier: &Carrier, arguments: &str) {
    const SCRIPT: &str = r#"
        mount -t tmpfs tmpfs /run
        mkdir /run/netns
        touch /run/netns/left
        mount --bind "$NAMESPACE" /run/netns/left
        ip netns exec left "$GREWAY" $ARGUMENTS
    "#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-euc", SCRIPT]).env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
    command.env("NAMESPACE", pair.left.path()).env("GREWAY", GREWAY).env("ARGUMENTS", arguments);
    command.env("GREWAY_SOCKET", pair.nodes[0].socket()).envs(carrier.environment());
    pair.nodes[0].execute(command).ok();
}

/// The daemon that a verb has started, and its supervisor.
fn processes(pair: &Pair) -> [u32; 2] {
    let daemon = pair.nodes[0].daemon_pid().unwrap();
    let both = [parent(daemon), daemon];
    both.iter().for_each(|pid| pair.nodes[0].watch(*pid));
    both
}

fn a_start_inside_ip_netns_exec(carrier: &Carrier) {
    let mut pair = carrier.bare();
    pair.daemons[0].take().unwrap().terminate();
    exec(&pair, carrier, "tunnel add tun0 mode gre local 10.0.0.1 remote 10.0.0.2");
    let first = processes(&pair);
    pair.nodes[1].words("tunnel add tun0 mode gre local 10.0.0.2 remote 10.0.0.1").ok();
    pair.left.address("tun0", "172.16.0.1/30").unwrap();
    pair.right.address("tun0", "172.16.0.2/30").unwrap();
    carrier.carries(&pair, "tun0");
    pair.answers(&PingOptions::default());

    let stream = Stream::start(&pair.left, &pair.right, inner(1));
    stream.more(1_000, "to begin with");
    // The supervisor first, which would start the next one.
    for pid in first {
        process::kill(pid, Signal::Kill).unwrap();
        // The kernel waits for a grace period for each packet socket, which a busy machine makes long.
        poll_until(4 * SOON, "its end", || gone(pid).then_some(())).unwrap();
    }
    stream.more(3_000, "nobody is there");
    // The next one finds what is there, also from within another such mount namespace.
    exec(&pair, carrier, "tunnel change tun0 ttl 64");
    let next = processes(&pair);
    assert_ne!(first, next);
    wait_for_datapath(&pair, 0, "tun0", "ebpf");
    stream.more(3_000, "with the next one");
    let report = stream.stop();
    assert!(report.flawless(), "{carrier}: {report}");
    carrier.carries(&pair, "tun0");
    exec(&pair, carrier, "daemon --stop");
    assert_eq!(pair.nodes[0].links(), ["wan0"]);
    assert_eq!(carrier.pins(&pair.left), Vec::<String>::new());
    assert_eq!(hosts::filters(&pair.left, "wan0"), "");
}

#[test]
fn t9_a_start_inside_ip_netns_exec_lasts_with_pins() {
    let carrier = Carrier::pinned();
    require!(privilege::check());
    require!(carrier.as_ref());
    a_start_inside_ip_netns_exec(&carrier.unwrap());
}

#[test]
fn t9_a_start_inside_ip_netns_exec_lasts_without_pins() {
    require!(privilege::check());
    a_start_inside_ip_netns_exec(&Carrier::filters());
}
