//! Beside the kernel's own GRE: its module is loaded, its fallback devices are there, and it has tunnels of its own
//! between the same ends.

use greway_testbed::{poll_until, require};

use crate::lab::{Lab, answers, debian_ping, inside, sh};
use crate::pair;
use crate::support::SOON;

#[test]
#[ignore = "a step in the guest"]
fn each_packet_is_delivered_once_and_the_kernels_tunnels_go_on() {
    require!(inside());
    goes_on(["gre", "gretap"], &["gre0", "gretap0"]);
}

#[test]
#[ignore = "a step in the guest"]
fn each_packet_is_delivered_once_over_ipv6_too() {
    require!(inside());
    goes_on(["ip6gre", "ip6gretap"], &["ip6gre0"]);
}

fn goes_on([layer3, ethernet]: [&str; 2], fallbacks: &[&str]) {
    let lab = Lab::for_mode(layer3);
    for dev in fallbacks {
        assert!(lab.node.link(dev).is_some(), "the module's {dev}");
    }
    lab.tunnel(layer3, "");
    lab.ours("tap0", ethernet, "key 6", "172.17.0.1/30");
    lab.kernels("tap0", ethernet, "key 6", "172.17.0.2/30");
    // The kernel's own at our end, with other keys.
    for (name, mode, key, net) in
        [("k1", layer3, "key 77", "172.18.0"), ("k2", ethernet, "key 78", "172.19.0")]
    {
        sh(
            &lab.ours,
            &format!(
                "ip link add {name} type {mode} local {} remote {} {key}
                 ip address add {net}.1/30 dev {name}
                 ip link set {name} up",
                lab.ends[0], lab.ends[1]
            ),
        );
        lab.kernels(name, mode, key, &format!("{net}.2/30"));
    }
    for underlay in ["packet", "raw"] {
        for name in ["tun0", "tap0"] {
            lab.node.words(&format!("tunnel change {name} underlay {underlay}")).ok();
        }
        lab.counts(&format!("by {underlay} socket"), 20, || debian_ping(&lab.ours, "-c 20 172.16.0.2"));
        answers(&lab.ours, "172.17.0.2");
        let ours = [lab.counters("tun0"), lab.counters("tap0")];
        for net in ["172.18.0", "172.19.0"] {
            answers(&lab.ours, &format!("{net}.2"));
            answers(&lab.kernel, &format!("{net}.1"));
        }
        let bulk = pair::intact(
            &lab.ours,
            &lab.kernel,
            "172.18.0.2".parse().unwrap(),
            200_000,
            "the kernel's tunnel",
        );
        assert_eq!(bulk.bytes, 200_000);
        // Some hundred packets went by the kernel's; of its own accord a host asks for a neighbour now and then.
        for (name, before) in ["tun0", "tap0"].into_iter().zip(ours) {
            let (received, sent) = lab.counters(name);
            let strays = (received - before.0).max(sent - before.1);
            assert!(strays <= 2, "{name}: what is the kernel's is not ours too: {strays} packets");
        }
    }
    for dev in fallbacks {
        assert_eq!(pair::counted(&lab.ours, dev), (0, 0), "{dev} takes nothing");
    }
}

#[test]
#[ignore = "a step in the guest"]
fn what_the_kernel_has_already_is_refused_by_name() {
    require!(inside());
    let lab = Lab::new();
    let ends = "local 10.0.0.1 remote 10.0.0.2";
    sh(&lab.ours, &format!("ip tunnel add gre1 mode gre {ends} key 42; ip link add tap1 type gretap {ends}"));
    let before = lab.node.belongings();
    let words = ["the kernel's own tunnel gre1", "key 42", "ip link del gre1"];
    lab.node.words(&format!("tunnel add tun0 mode gre {ends} key 42")).refused(&words);
    lab.node
        .words(&format!("tunnel add tap0 mode gretap {ends}"))
        .refused(&["the kernel's own tunnel tap1", "no key"]);
    let file = lab.node.file("tun0.toml", "local = \"10.0.0.1\"\nremote = \"10.0.0.2\"\nkey = 42\n");
    lab.node.words(&format!("up {file}")).refused(&words);
    lab.node.words(&format!("up --dry-run {file}")).refused(&words);
    assert_eq!(lab.node.belongings(), before, "nothing is left of what was refused");
    // Another key, and the other kind, are other tunnels.
    lab.node.words(&format!("tunnel add tun0 mode gre {ends} key 43")).ok();
    lab.node.words(&format!("tunnel add tap0 mode gretap {ends} key 42")).ok();
    // Over IPv6 key 0 is no key, for the kernel.
    let ends6 = "local 2001:db8::1 remote 2001:db8::2";
    sh(&lab.ours, &format!("ip link add k6 type ip6gre {ends6}"));
    lab.node
        .words(&format!("tunnel add tun6 mode ip6gre {ends6} key 0"))
        .refused(&["the kernel's own tunnel k6"]);
    lab.node.words(&format!("tunnel add tun6 mode ip6gre {ends6} key 1")).ok();
    // One that is there cannot become the kernel's either, and stays what it is.
    lab.node.words("tunnel change tun0 key 42").refused(&words);
    lab.node.words("tunnel show tun0").ok().says(&["key 43"]);
    // With the kernel's gone it is free.
    sh(&lab.ours, "ip link del gre1");
    lab.node.words("tunnel change tun0 key 42").ok();
    // The kernel does not know ours, and makes its own; ours can be changed in all else.
    sh(&lab.ours, &format!("ip tunnel add gre2 mode gre {ends} key 42"));
    lab.node.words("tunnel change tun0 ttl 9").ok();
}

#[test]
#[ignore = "a step in the guest"]
fn check_tells_of_the_module_and_of_a_tunnel_in_the_way() {
    require!(inside());
    let lab = Lab::new();
    lab.tunnel("gre", "");
    answers(&lab.ours, "172.16.0.2");
    let found = || {
        let text = lab.node.words("check tun0 --json").stdout;
        let report: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        report.to_string()
    };
    let text = found();
    assert!(text.contains("module-ip-gre") && !text.contains("kernel-tunnel\""), "{text}");
    sh(&lab.ours, "ip tunnel add gre1 mode gre local 10.0.0.1 remote 10.0.0.2");
    let text = found();
    assert!(text.contains("\"kernel-tunnel\"") && text.contains("gre1"), "{text}");
    sh(&lab.ours, "ip link del gre1");
    poll_until(SOON, "no finding any more", || (!found().contains("\"kernel-tunnel\"")).then_some(()))
        .unwrap();
}

/// A kernel that refuses programs (here: has no classifier for them) says so in its own words, which changes nothing
/// else.
#[test]
#[ignore = "a step in the guest"]
fn where_no_program_is_let_in_userspace_carries_and_status_says_why() {
    require!(inside());
    let lab = Lab::new();
    sh(&lab.ours, "rmmod cls_bpf");
    lab.tunnel("gre", "key 5");
    answers(&lab.ours, "172.16.0.2");
    let carried = lab.status("tun0")["datapath"].clone();
    let tun1 = "tunnel add tun1 mode gre local 10.0.0.1 remote 10.0.0.2 key 6 datapath ebpf";
    let refused = lab.node.words(tun1);
    let left = lab.node.link("tun1");
    sh(&lab.ours, "insmod /usr/lib/uml/modules/$(uname -r)/kernel/net/sched/cls_bpf.ko");

    assert_eq!(carried["datapath"], "userspace", "{carried}");
    let why = carried["not_ebpf"].as_str().unwrap();
    assert!(why.contains("(os error "), "the kernel's own words: {why}");
    lab.node.words("status tun0 --no-echo").ok().says(&[why]);
    // Whoever asks for programs and nothing else is refused, and nothing of it stays.
    refused.refused(&["tun1", "datapath ebpf cannot be honoured", "(os error "]);
    assert!(left.is_none(), "{left:?}");
    lab.node.words(tun1).ok();
    assert_eq!(lab.status("tun1")["datapath"]["datapath"], "ebpf", "{}", lab.status("tun1")["datapath"]);
}
