//! The device in another network namespace than the underlay: made here, moved there, as with the kernel's own.

use greway_testbed::{Host, poll_until, require};

use crate::lab::{Lab, answers, comes_to_answer, inside, quiet, sh};
use crate::pair;
use crate::support::SOON;

/// Moves a device of one host to another.
fn hand_over(from: &Host, dev: &str, to: &Host) {
    // `ip` knows namespaces by process or by name: a bind mount in a mount namespace of its own would take a
    // program more, a process number is at hand.
    let mut held = to.spawn(std::process::Command::new("sleep").arg("60")).unwrap();
    sh(from, &format!("ip link set {dev} netns {}", held.id()));
    held.kill().unwrap();
    held.wait().unwrap();
}

#[test]
#[ignore = "a step in the guest"]
fn a_device_that_moved_to_another_namespace_goes_on_carrying() {
    require!(inside());
    let mut lab = Lab::new();
    let inner = quiet("inner");
    lab.tunnel("gre", "key 3");
    answers(&lab.ours, "172.16.0.2");
    hand_over(&lab.ours, "tun0", &inner);
    sh(&inner, "ip address add 172.16.0.1/30 dev tun0; ip link set tun0 up");
    comes_to_answer(&inner, "172.16.0.2");

    let before = (lab.counters("tun0"), pair::counted(&inner, "tun0"));
    answers(&inner, "172.16.0.2");
    answers(&lab.kernel, "172.16.0.1");
    let after = (lab.counters("tun0"), pair::counted(&inner, "tun0"));
    let grown = |(before, after): ((u64, u64), (u64, u64))| (after.0 - before.0, after.1 - before.1);
    assert_eq!(
        (grown((before.0, after.0)), grown((before.1, after.1))),
        ((6, 6), (6, 6)),
        "each packet once"
    );
    let status = lab.status("tun0");
    assert_eq!((&status["moved"], &status["device"]), (&true.into(), &serde_json::Value::Null), "{status}");
    lab.node.words("status tun0").ok().says(&["another network namespace"]);

    // What is carried changes while it is there.
    lab.node.words("tunnel change tun0 key 4").ok();
    sh(&lab.kernel, "ip link set tun0 type gre key 4 local 10.0.0.2 remote 10.0.0.1");
    comes_to_answer(&inner, "172.16.0.2");

    // A daemon that was killed leaves it there, and the next one takes it over where it is.
    lab.daemon.take().unwrap().kill();
    lab.daemon = Some(lab.node.daemon());
    comes_to_answer(&inner, "172.16.0.2");

    // Deleted there it is gone here, as the kernel's would be.
    sh(&inner, "ip link del tun0");
    poll_until(SOON, "the end of the tunnel", || {
        lab.node.links().iter().all(|link| !link.contains("tun0")).then_some(())
    })
    .unwrap();
    poll_until(SOON, "its state", || lab.node.state_files().is_empty().then_some(())).unwrap();
    lab.node.words("tunnel show tun0");
    let text = lab.node.words("tunnel show").ok().stdout;
    assert!(!text.contains("tun0"), "{text}");
}

#[test]
#[ignore = "a step in the guest"]
fn a_tunnel_is_deleted_from_here_wherever_its_device_is() {
    require!(inside());
    let lab = Lab::new();
    let inner = quiet("inner");
    lab.tunnel("gre", "");
    hand_over(&lab.ours, "tun0", &inner);
    lab.node.words("tunnel del tun0").ok();
    let left = inner.netlink().unwrap().link_by_name("tun0").unwrap();
    assert!(left.is_none(), "{left:?}");
    assert!(lab.node.links().iter().all(|link| !link.contains("tun0")), "{:?}", lab.node.links());
    // The name is free again.
    lab.ours("tun0", "gre", "", "172.16.0.1/30");
    answers(&lab.ours, "172.16.0.2");
}

#[test]
#[ignore = "a step in the guest"]
fn with_the_namespace_of_its_device_a_tunnel_goes_too() {
    require!(inside());
    let lab = Lab::new();
    let inner = quiet("inner");
    lab.tunnel("gre", "");
    hand_over(&lab.ours, "tun0", &inner);
    drop(inner);
    poll_until(SOON, "the end of the tunnel", || lab.node.state_files().is_empty().then_some(())).unwrap();
    assert!(lab.node.links().iter().all(|link| !link.contains("tun0")), "{:?}", lab.node.links());
}
