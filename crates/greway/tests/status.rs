//! `greway status`: the verdict of a tunnel that works and of each way in which one does not, for people and as JSON.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use greway_netlink::LinkChange;
use greway_testbed::{Guide, Host, PingOptions, guide, ping, privilege, require};
use greway_wire::gre::GreHeader;
use support::{Lab, Node, in_vain, inner, parent, two_hosts};

const ADD: &str = "tunnel add tun0 mode gre local 100.0.1.100 remote 100.0.2.100";

/// The first line that `greway status` prints.
fn verdict(node: &Node) -> String {
    node.words("status").ok().stdout.lines().next().unwrap().to_owned()
}

/// Sends `count` packets into linux1's tunnel.
fn send(lab: &Lab, count: u16) {
    let options = PingOptions { count, interval: Some(std::time::Duration::from_millis(1)), ..in_vain() };
    ping(&lab.guide.linux1, inner(1), &options).unwrap();
}

/// GRE with this header from linux2's outer address to linux1's, as the router would hand it on.
fn inject_gre(lab: &Lab, header: GreHeader, payload: &[u8]) {
    let [one, two] = guide::OUTER;
    let gre = greway_testbed::build::gre(header, payload);
    let packet = greway_testbed::build::ipv4(
        greway_testbed::build::ipv4_header(two, one, greway_testbed::build::GRE),
        &gre,
    );
    let mac = |host: &Host, dev: &str| {
        let link = host.netlink().unwrap().link_by_name(dev).unwrap().unwrap();
        greway_linux::MacAddr::new(link.address.unwrap())
    };
    let (to, from) = (mac(&lab.guide.linux1, "wan0"), mac(&lab.guide.router, "eth1"));
    let frame = greway_testbed::build::ethernet(to, from, 0x0800, &packet);
    greway_testbed::inject(&lab.guide.router, "eth1", &frame).unwrap();
}

fn notes(node: &Node) -> String {
    let status = node.status();
    let of_tunnels = status["tunnels"].as_array().unwrap().iter().map(|tunnel| tunnel["notes"].to_string());
    format!("{} {}", status["notes"], of_tunnels.collect::<String>())
}

#[test]
fn a_working_tunnel_is_up_and_its_peer_answers() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemons = (lab.one.daemon(), lab.two.daemon());
    lab.tunnel("key 42");
    assert!(lab.ping().complete());
    // tun0 up · last received less than 1 s ago · peer 172.16.0.2 answers, 0.31 ms
    let line = verdict(&lab.one);
    let parts: Vec<&str> = line.split(" · ").collect();
    assert_eq!(parts.len(), 3, "{line}");
    assert_eq!(parts[0], "tun0 up");
    assert!(parts[1].starts_with("last received ") && parts[1].ends_with(" s ago"), "{line}");
    assert!(parts[2].starts_with("peer 172.16.0.2 answers, ") && parts[2].ends_with(" ms"), "{line}");

    let status = lab.one.words("status tun0").ok().says(&[
        "gre/ip remote 100.0.2.100 local 100.0.1.100 ttl inherit key 42",
        "greway tunnel add",
        "up, mtu 1472",
        "172.16.0.1 peer 172.16.0.2/30",
        &match lab.one.plane() {
            "ebpf" => "ebpf, veth device, raw socket: for what the programs leave".to_owned(),
            plane => {
                format!("{plane}, veth device, packet socket: no firewall rule or IPsec policy on the way")
            }
        },
    ]);
    assert!(status.stdout.contains("sent ") && status.stdout.contains("received "), "{status}");
    assert!(!status.stdout.contains("dropped"), "{status}");
    // `greway` alone is `greway status`.
    assert!(lab.one.greway(&[]).ok().stdout.starts_with("tun0 up · "));
}

#[test]
fn json_carries_what_people_read() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemons = (lab.one.daemon(), lab.two.daemon());
    lab.tunnel("");
    assert!(lab.ping().complete());
    let status = lab.one.status();
    let tunnel = &status["tunnels"][0];
    assert_eq!(tunnel["state"], "up");
    assert!(tunnel["verdict"].as_str().unwrap().starts_with("tun0 up · last received"));
    assert_eq!(tunnel["spec"]["remote"], "100.0.2.100");
    assert_eq!(tunnel["device"]["mtu"], 1476);
    let socket = if lab.one.plane() == "ebpf" { "raw" } else { "packet" };
    assert_eq!(tunnel["datapath"]["underlay"], socket);
    assert_eq!(
        (&tunnel["peer"]["address"], &tunnel["peer"]["answers"]),
        (&"172.16.0.2".into(), &true.into())
    );
    assert!(tunnel["peer"]["round_trip_ms"].as_f64().unwrap() > 0.0);
    // Three pings and the echo of this status, each way; each has 20 + 8 + 56 bytes, the echo 41.
    let counters = &tunnel["counters"];
    assert_eq!(
        (&counters["sent_packets"], &counters["received_packets"]),
        (&4.into(), &4.into()),
        "{counters}"
    );
    assert_eq!(
        (&counters["sent_bytes"], &counters["received_bytes"]),
        (&293.into(), &293.into()),
        "{counters}"
    );
    assert_eq!(tunnel["drops"], serde_json::json!([]));
    assert!(tunnel["last_received_seconds"].as_f64().unwrap() < 60.0);
    assert!(status["daemon"]["pid"].as_u64().unwrap() > 0);
    // Without an echo the peer was not asked, which is another thing than no answer.
    let text = lab.one.words("status --json --no-echo").ok().stdout;
    let quiet: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(quiet["tunnels"][0]["peer"]["answers"], serde_json::Value::Null);
}

#[test]
fn a_far_end_that_is_not_there() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    lab.tunnel_on_one();
    lab.one.words("status --no-echo").ok().says(&["nothing sent or received yet"]);
    // Somewhere on the way packets are lost, and nobody says so.
    let router = |script: &str| {
        let output = lab.guide.router.output(std::process::Command::new("sh").args(["-c", script])).unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    };
    router("ip route add blackhole 100.0.2.100/32");
    send(&lab, 12);
    lab.one
        .words("status --no-echo")
        .ok()
        .says(&["sent 12, received 0: the far end is not up or protocol 47 is filtered on the way"]);
    // One echo is what tells, where nothing was sent before; where the far end speaks no GRE its kernel says so.
    router("ip route del blackhole 100.0.2.100/32");
    let line = verdict(&lab.one);
    let said =
        "not working · sent 13, received 0: 100.0.2.100 says protocol unreachable: nothing at the far end";
    assert!(line.contains(said), "{line}");
    assert_eq!(lab.one.status()["tunnels"][0]["state"], "no-answer");
}

#[test]
fn an_inner_peer_that_is_silent_is_told_from_a_silent_tunnel() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemons = (lab.one.daemon(), lab.two.daemon());
    lab.tunnel("");
    assert!(lab.ping().complete());
    lab.two.words("tunnel del tun0").ok();
    let line = verdict(&lab.one);
    assert!(line.starts_with("tun0 up · last received"), "{line}");
    assert!(line.ends_with("peer 172.16.0.2 does not answer an echo now"), "{line}");
}

#[test]
fn a_key_that_does_not_fit_is_named_at_both_ends() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemons = (lab.one.daemon(), lab.two.daemon());
    lab.one.words(&format!("{ADD} key 1")).ok();
    lab.two.words("tunnel add tun0 mode gre local 100.0.2.100 remote 100.0.1.100 key 2").ok();
    lab.guide.linux1.address("tun0", "172.16.0.1 peer 172.16.0.2/30").unwrap();
    lab.guide.linux2.address("tun0", "172.16.0.2 peer 172.16.0.1/30").unwrap();
    send(&lab, 3);
    let two = lab.two.words("status").ok();
    assert!(two.stdout.contains("100.0.1.100 sends packets with key 1, this tunnel takes key 2"), "{two}");
    assert!(two.stdout.contains("3 from 100.0.1.100 to 100.0.2.100, key 1, protocol 0x0800, last"), "{two}");
    // linux2's echo just now told linux1 as much.
    let one = verdict(&lab.one);
    assert!(one.contains("100.0.2.100 sends packets with key 2, this tunnel takes key 1"), "{one}");
    assert_eq!(lab.one.status()["unmatched"][0]["key"], 2);

    lab.two.words("tunnel change tun0 nokey").ok();
    lab.two.words("status").ok();
    let one = verdict(&lab.one);
    assert!(one.contains("100.0.2.100 sends packets with no key, this tunnel takes key 1"), "{one}");
}

#[test]
fn rx21_drops_have_a_reason_that_a_person_can_read() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemons = (lab.one.daemon(), lab.two.daemon());
    lab.one.words(&format!("{ADD} csum")).ok();
    lab.two.words("tunnel add tun0 mode gre local 100.0.2.100 remote 100.0.1.100").ok();
    lab.guide.linux1.address("tun0", "172.16.0.1 peer 172.16.0.2/30").unwrap();
    lab.guide.linux2.address("tun0", "172.16.0.2 peer 172.16.0.1/30").unwrap();
    send(&lab, 5);
    lab.two.words("status --no-echo").ok().says(&[
        "received 0: 5 dropped, checksum-unexpected: the peer sends a checksum and this tunnel expects none",
        "dropped     5 checksum-unexpected (receive)",
    ]);
    let drops = lab.two.status()["tunnels"][0]["drops"].clone();
    assert_eq!(
        (&drops[0]["reason"], &drops[0]["packets"]),
        (&"checksum-unexpected".into(), &5.into()),
        "{drops}"
    );
}

#[test]
fn malformed_packets_are_counted_by_reason() {
    require!(privilege::check());
    let lab = two_hosts();
    let daemon = lab.one.daemon();
    lab.tunnel_on_one();
    let plain = GreHeader { protocol_type: 0x0800, ..GreHeader::default() };
    // A cut-off inner header, and a checksum that is wrong.
    inject_gre(&lab, plain, &[0x45; 12]);
    inject_gre(&lab, GreHeader { checksum: Some(0x1234), ..plain }, &[0x45; 40]);
    greway_testbed::poll_until(support::SOON, "two dropped packets", || {
        let drops = lab.one.status()["tunnels"][0]["drops"].clone();
        let total: u64 = drops.as_array().unwrap().iter().map(|drop| drop["packets"].as_u64().unwrap()).sum();
        (total >= 1).then_some(())
    })
    .unwrap();
    let status = lab.one.words("status").ok();
    assert!(status.stdout.contains("inner-truncated"), "{status}");
    assert!(status.stdout.contains("bad-checksum"), "{status}");
    assert!(!daemon.log().contains("ERROR"), "{}", daemon.log());
}

#[test]
fn notes_name_what_stops_traffic() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let _daemon = node.daemon();
    let host = &guide.linux1;
    node.words(ADD).ok();
    assert!(notes(&node).contains("net.ipv4.ip_forward=1"), "{}", notes(&node));
    host.sysctl("ipv4/ip_forward", "1").unwrap();
    assert!(!notes(&node).contains("ip_forward"), "{}", notes(&node));

    host.sysctl("ipv4/conf/tun0/rp_filter", "1").unwrap();
    node.words("status").ok().says(&["note", "strict reverse path filter", "net.ipv4.conf.tun0.rp_filter=2"]);
    host.sysctl("ipv4/conf/tun0/rp_filter", "0").unwrap();
    assert!(!notes(&node).contains("rp_filter"), "{}", notes(&node));

    // `local` that is not here, yet or no more.
    let added = node.words("tunnel add tun1 mode gre local 100.0.1.99 remote 100.0.2.100").ok();
    assert!(added.stderr.contains("local 100.0.1.99 is not an address of this host yet"), "{added}");
    assert!(notes(&node).contains("local 100.0.1.99 is not an address of this host"), "{}", notes(&node));
    host.address("wan0", "100.0.1.99/24").unwrap();
    greway_testbed::poll_until(support::SOON, "the note to go", || {
        (!notes(&node).contains("100.0.1.99")).then_some(())
    })
    .unwrap();

    // Ends swapped.
    let added = node.words("tunnel add tun2 mode gre local 100.0.2.100 remote 100.0.1.100").ok();
    assert!(added.stderr.contains("are they swapped?"), "{added}");
    node.words("tunnel del tun2").ok();

    // The route to the remote leads into the tunnel; and none at all.
    host.route("100.0.2.100/32", "dev tun0").unwrap();
    assert!(notes(&node).contains("leads into the tunnel itself"), "{}", notes(&node));
    host.delete_route("100.0.2.100/32", "dev tun0").unwrap();
    host.delete_route("default", "via 100.0.1.1").unwrap();
    assert!(notes(&node).contains("no route to remote 100.0.2.100"), "{}", notes(&node));
}

#[test]
fn a_device_that_is_down_is_said_to_be_down() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let _daemon = node.daemon();
    node.words(ADD).ok();
    guide.linux1.change("tun0", &LinkChange { up: Some(false), ..LinkChange::default() }).unwrap();
    assert_eq!(verdict(&node), "tun0 down · the device is down: `ip link set tun0 up`");
    assert_eq!(node.status()["tunnels"][0]["state"], "down");
}

#[test]
fn everyone_may_read_and_only_root_may_change() {
    require!(privilege::check());
    let lab = two_hosts();
    let node = &lab.one;
    // Without a daemon there is an answer too, and none is started by asking.
    node.nobody("status").ok().says(&["no tunnels: no greway daemon runs in this network namespace"]);
    node.nobody("tunnel add tun0 mode gre local 100.0.1.100 remote 100.0.2.100").refused(&["root"]);
    assert!(!node.socket().exists());

    let _daemon = node.daemon();
    node.nobody("status").ok().says(&["no tunnels"]);
    let other = format!("--socket {} status", node.folder().join("other.sock").display());
    node.words(&other).ok().says(&["the greway daemon of this network namespace has another socket"]);
    lab.tunnel_on_one();
    node.nobody("status").ok().says(&["tun0", "received 0"]);
    node.nobody("").ok().says(&["tun0"]);
    assert!(node.nobody("status --json").ok().stdout.contains("\"verdict\""));
    node.nobody("tunnel show").ok().says(&["tun0: gre/ip remote 100.0.2.100"]);
    let before = (node.belongings(), node.words("tunnel show").ok().stdout);
    let path = node.file("tun1.toml", "local = \"100.0.1.100\"\nremote = \"100.0.2.100\"\nkey = 3\n");
    for words in [
        "tunnel add tun1 mode gre local 100.0.1.100 remote 100.0.2.100 key 9".to_owned(),
        "tunnel change tun0 key 9".to_owned(),
        "tunnel del tun0".to_owned(),
        format!("up {path}"),
        "down tun0".to_owned(),
        "daemon --stop".to_owned(),
    ] {
        node.nobody(&words).refused(&["changing tunnels needs root", "sudo"]);
    }
    assert_eq!((node.belongings(), node.words("tunnel show").ok().stdout), before);
    node.nobody("daemon").refused(&["CAP_NET_ADMIN", "root"]);
}

#[test]
fn without_a_daemon_there_are_no_tunnels_and_no_error() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    node.greway(&[]).ok().says(&["no tunnels", "make one: greway tunnel add"]);
    node.words("status").ok();
    let empty: serde_json::Value = serde_json::from_str(&node.words("status --json").ok().stdout).unwrap();
    assert_eq!(empty["tunnels"], serde_json::json!([]));
    assert_eq!(node.words("tunnel show").ok().stdout, "");
    node.words("status tun9").refused(&["there is no tunnel tun9"]);
    assert!(!node.socket().exists());
    let _daemon = node.daemon();
    node.words("status tun9").refused(&["there is no tunnel tun9"]);
}

#[test]
fn settings_that_are_wrong_are_told_to_whoever_starts_the_daemon_and_in_its_status() {
    require!(privilege::check());
    let guide = Guide::build().unwrap();
    let node = Node::new(&guide.linux1);
    let file = node.file("greway.toml", "[daemon]\nbusy-poll = 0\n");
    let mut command = node.command(&ADD.split(' ').collect::<Vec<_>>());
    command.env("GREWAY_CONFIG", &file).env("GREWAY_FAST_PATH", "no");
    let told = node.execute(command).ok();
    let pid = node.daemon_pid().unwrap();
    node.watch(parent(pid));
    node.watch(pid);
    let doubts = [
        "greway.toml:2:13: busy-poll: invalid value: integer `0`, expected \"auto\", \"off\" or 1 to 1000",
        "the daemon goes on without its settings",
        "loads no eBPF programs",
        "splits all super-packets",
        "GREWAY_FAST_PATH \"no\" is neither on nor off and has no effect",
    ];
    told.remarks(&doubts);
    node.words("status --no-echo").ok().says(&doubts);
    // Nobody can tell whether the line that cannot be read was to switch the programs off.
    let status = node.status();
    assert_eq!(status["tunnels"][0]["datapath"]["datapath"], "userspace", "{status}");
    node.words("daemon --stop").ok();
}
