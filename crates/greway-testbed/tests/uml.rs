//! A real Linux kernel's ip_gre as the peer: it boots, answers, and sends what its tunnels are configured for.
//! The last test is the pattern for interoperability tests: one boot, five tunnels.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::IpAddr;
use std::time::Duration;

use greway_testbed::uml::{self, UmlGuest, UmlOptions};
use greway_testbed::{
    Capture, CapturedPacket, Error, Host, PingOptions, ping, poll_until, privilege, require,
};
use greway_wire::gre::GreHeader;

const LONG: Duration = Duration::from_secs(30);
const NEAR: &str = "10.9.0.1/24";
const FAR: &str = "10.9.0.2/24";

fn far() -> IpAddr {
    "10.9.0.2".parse().unwrap()
}

fn near() -> IpAddr {
    "10.9.0.1".parse().unwrap()
}

#[test]
fn a_guest_boots_answers_and_makes_a_tunnel() {
    require!(privilege::check());
    require!(uml::available());
    let host = Host::new("host").unwrap();
    let mut guest = UmlGuest::beside(
        &host,
        "uml0",
        NEAR,
        FAR,
        "",
        &UmlOptions { name: "peer".into(), ..Default::default() },
    )
    .unwrap();

    let report = ping(&host, far(), &PingOptions { size: 3000, ..PingOptions::default() }).unwrap();
    assert!(report.complete(), "{report}");

    let options = PingOptions { count: 4, size: 3000, ..PingOptions::default() };
    let report = guest.ping(near(), &options).unwrap();
    assert_eq!((report.sent, report.received), (4, 4), "{}", report.text);

    let text = guest
        .run(
            "ip link add gre1 type gre local 10.9.0.2 remote 10.9.0.1 key 42
             ip link set gre1 up
             ip -details link show gre1",
        )
        .unwrap();
    assert!(text.contains("mtu 1472"), "{text}");
    assert!(text.contains("gre remote 10.9.0.1 local 10.9.0.2"), "{text}");

    let error = guest.run("ip link add gre1 type gre local 10.9.0.2 remote 10.9.0.1 key 42").unwrap_err();
    assert!(matches!(error, Error::Guest { .. }), "{error}");
    assert!(error.to_string().contains("File exists"), "{error}");

    let output = guest.try_run("echo out; echo err >&2; printf end; exit 7", LONG).unwrap();
    assert_eq!((output.status, output.text.as_str()), (7, "out\nerr\nend"));

    guest.power_off(LONG).unwrap();
}

#[test]
fn bytes_go_both_ways_between_guest_and_host() {
    require!(privilege::check());
    require!(uml::available());
    let host = Host::new("host").unwrap();
    let options = UmlOptions { name: "tcp".into(), ..UmlOptions::default() };
    let mut guest = UmlGuest::beside(&host, "uml0", NEAR, FAR, "", &options).unwrap();
    let up = guest.upload(&host, near(), 2_000_003, LONG).unwrap();
    assert!(up.intact(), "{up:?}");
    assert_eq!(up.bytes, 2_000_003);
    let down = guest.download(&host, near(), 2_000_003, LONG).unwrap();
    assert!(down.intact(), "{down:?}");
    assert_eq!(down.sent_digest, up.sent_digest);
}

#[test]
fn a_killed_guest_leaves_nothing() {
    require!(privilege::check());
    require!(uml::available());
    let host = Host::new("host").unwrap();
    let options = UmlOptions { name: "killed".into(), ..UmlOptions::default() };
    let mut guest = UmlGuest::beside(&host, "uml0", NEAR, FAR, "sleep 1000 &", &options).unwrap();
    let directory = guest.directory().to_owned();
    assert!(directory.exists());
    let group = guest.process_group();
    assert!(members(group) > 0);
    let error = guest.try_run("sleep 1000", Duration::from_millis(100)).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    drop(guest);
    assert!(!directory.exists());
    poll_until(LONG, "the end of all processes", || (members(group) == 0).then_some(())).unwrap();
    // Its wire is a namespace of its own that goes too.
    let netlink = host.netlink().unwrap();
    poll_until(LONG, "the end of the wire", || netlink.link_by_name("uml0").unwrap().is_none().then_some(()))
        .unwrap();
}

#[test]
fn the_xstate_shim_does_no_harm_where_it_is_not_needed() {
    require!(privilege::check());
    require!(uml::available());
    require!(uml::shim_available());
    let host = Host::new("host").unwrap();
    let options = UmlOptions { name: "shim".into(), force_shim: true, ..UmlOptions::default() };
    let mut guest = UmlGuest::beside(&host, "uml0", NEAR, FAR, "", &options).unwrap();
    // Floating point in the guest, across context switches.
    let text = guest.run("for i in 1 2 3; do awk 'BEGIN { printf \"%.6f\\n\", exp(1) }'; done").unwrap();
    assert_eq!(text, "2.718282\n2.718282\n2.718282\n");
}

#[test]
fn five_tunnels_in_one_guest_send_their_flags() {
    require!(privilege::check());
    require!(uml::available());
    let host = Host::new("host").unwrap();
    // One remote address a tunnel, since plain and checksum tunnels are told apart by nothing else.
    let tunnels = [
        ("plain", "", 0x0000),
        ("keyed", "key 42", 0x2000),
        ("csum", "csum", 0x8000),
        ("seq", "seq", 0x1000),
        ("full", "key 42 csum seq", 0xb000),
    ];
    let mut script = String::new();
    for (number, (name, words, _)) in (11..).zip(tunnels) {
        script += &format!(
            "ip link add {name} type gre local 10.9.0.2 remote 10.9.0.{number} {words}
             ip address add 172.31.{number}.2/30 dev {name}
             ip link set {name} up\n"
        );
    }
    let options = UmlOptions { name: "five".into(), ..UmlOptions::default() };
    let mut guest = UmlGuest::beside(&host, "uml0", NEAR, FAR, &script, &options).unwrap();
    let capture = Capture::start(&host, "uml0").unwrap();
    for (number, (name, _, flags)) in (11_u8..).zip(tunnels) {
        host.address("uml0", &format!("10.9.0.{number}/24")).unwrap();
        // Nobody answers: the host has no tunnel. What counts is what the kernel sends.
        let report = guest
            .ping(
                format!("172.31.{number}.1").parse().unwrap(),
                &PingOptions { count: 2, timeout: Duration::from_secs(1), ..PingOptions::default() },
            )
            .unwrap();
        assert_eq!((report.sent, report.received), (2, 0), "{}", report.text);
        let from_this = |packet: &CapturedPacket| {
            !packet.outgoing && packet.gre().is_some() && packet.payload()[19] == number
        };
        let packets = capture.wait_for_count(LONG, name, 2, from_this).unwrap();
        let headers: Vec<GreHeader> =
            packets.iter().map(|packet| GreHeader::parse(packet.gre().unwrap()).unwrap().0).collect();
        for header in &headers {
            assert_eq!(header.flags(), flags, "{name}: {header:?}");
            assert_eq!(header.protocol_type, 0x0800);
            assert_eq!(header.key, (flags & 0x2000 != 0).then_some(42));
        }
        let numbers: Vec<_> = headers.iter().map(|header| header.sequence_number).collect();
        let counted = flags & 0x1000 != 0;
        assert_eq!(numbers, [counted.then_some(0), counted.then_some(1)], "{name}");
    }
    guest.power_off(LONG).unwrap();
}

/// How many processes are in a process group.
fn members(group: u32) -> usize {
    let stat = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("stat")).ok();
    let of_group = |stat: &String| {
        // pid (name) state parent group
        let fields = stat.rsplit(") ").next().unwrap_or_default();
        fields.split(' ').nth(2).and_then(|field| field.parse().ok()) == Some(group)
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(stat).filter(of_group).count()
}
