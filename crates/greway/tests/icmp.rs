//! ICMP in both directions: what is said about our packets and what follows, and what others are told whose packets
//! match no tunnel. Rules: ER-01 to ER-06, RX-15; trap T8.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/pair.rs"]
mod pair;
mod support;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::Instant;

use greway_linux::MacAddr;
use greway_linux::raw::RawSocket;
use greway_testbed::{
    Capture, CapturedPacket, Host, LinkOptions, PingOptions, PingReport, build, inject, ping, poll_until,
    privilege, require,
};
use greway_wire::gre::GreHeader;
use greway_wire::icmp::{self, Quote, QuoteV6};
use greway_wire::ipv4::Ipv4Header;
use greway_wire::ipv6::Ipv6Header;
use pair::{INNER, OUTER, Pair, inner, mac, unreachable};
use serde_json::Value;
use support::{Lab, SOON, in_vain, two_hosts};

/// A router that is not there, on the cable of the pair.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
const PORT_UNREACHABLE: Option<u8> = Some(icmp::PORT_UNREACHABLE);

/// Puts a datagram on the cable from right to left.
fn send(pair: &Pair, datagram: &[u8]) {
    send_to(pair, mac(&pair.left, "wan0"), datagram);
}

fn send_to(pair: &Pair, to: MacAddr, datagram: &[u8]) {
    let frame = build::ethernet(to, mac(&pair.right, "wan0"), 0x0800, datagram);
    inject(&pair.right, "wan0", &frame).unwrap();
}

/// A GRE packet from right to left with this key.
fn stranger(key: u32) -> Vec<u8> {
    let payload = build::ipv4(build::ipv4_header(INNER[1], INNER[0], 17), &[7; 40]);
    let header = GreHeader { protocol_type: 0x0800, key: Some(key), ..GreHeader::default() };
    build::ipv4(build::ipv4_header(OUTER[1], OUTER[0], build::GRE), &build::gre(header, &payload))
}

/// What a node's status says beside the tunnels.
fn answers(pair: &Pair) -> Value {
    let status = pair.nodes[0].words("status --json --no-echo").ok().stdout;
    serde_json::from_str::<Value>(&status).unwrap()["answers"].clone()
}

/// The key in the GRE header that an ICMP error quotes.
fn quoted_key(packet: &CapturedPacket) -> Option<u32> {
    let quote = Quote::parse(packet.payload().get(20..)?)?;
    GreHeader::parse(quote.packet.get(20..)?).ok()?.0.key
}

/// Sends a stranger and waits until right is told: what was put on the cable before it has been judged by then.
/// Gives the keys that port-unreachable answers quoted so far.
fn answered(pair: &Pair, cable: &Capture, key: u32) -> Vec<Option<u32>> {
    send(pair, &stranger(key));
    let is_it =
        |packet: &CapturedPacket| unreachable(packet) == PORT_UNREACHABLE && quoted_key(packet) == Some(key);
    cable
        .wait_for(SOON, "port unreachable", is_it)
        .unwrap_or_else(|error| panic!("{error}: {}", answers(pair)));
    let packets = cable.packets();
    packets.iter().filter(|packet| unreachable(packet) == PORT_UNREACHABLE).map(quoted_key).collect()
}

#[test]
fn rx15_a_packet_that_matches_no_tunnel_is_answered_as_by_the_kernel() {
    require!(privilege::check());
    for underlay in ["packet", "raw"] {
        let pair = Pair::new(&format!("underlay {underlay}"));
        let cable = Capture::start(&pair.right, "wan0").unwrap();
        let datagram = stranger(99);
        send(&pair, &datagram);
        let is_it = |packet: &CapturedPacket| unreachable(packet) == PORT_UNREACHABLE;
        let answer = cable.wait_for(SOON, "port unreachable", is_it).unwrap();
        let header = Ipv4Header::parse(answer.payload()).unwrap();
        let expected = Ipv4Header {
            tos: 0xc0,
            total_length: (20 + 8 + datagram.len()) as u16,
            identification: header.identification,
            dont_fragment: false,
            ..build::ipv4_header(OUTER[0], OUTER[1], icmp::PROTOCOL)
        };
        assert_eq!(header, expected, "{underlay}");
        let message = &answer.payload()[20..];
        assert_eq!(message[..2], [3, 3], "{underlay}");
        assert_eq!(message[4..8], [0; 4]);
        assert!(greway_wire::checksum::verifies(message));
        assert_eq!(message[8..], datagram);
        let said = answers(&pair);
        assert_eq!((&said["answered"], &said["silent_because"]), (&1.into(), &Value::Null), "{said}");
        pair.nodes[0]
            .words("status --no-echo")
            .ok()
            .says(&["matched no tunnel", "1 answered with port unreachable"]);
    }
}

#[test]
fn rx15_what_was_not_for_one_host_or_no_gre_of_ours_is_not_answered() {
    require!(privilege::check());
    for underlay in ["packet", "raw"] {
        let pair = Pair::new(&format!("underlay {underlay}"));
        let cable = Capture::start(&pair.right, "wan0").unwrap();
        let to = |destination: [u8; 4], gre: &[u8]| {
            build::ipv4(build::ipv4_header(OUTER[1], destination.into(), build::GRE), gre)
        };
        let gre = &stranger(1)[20..];
        let [of_all, of_many] = [[0xff; 6], [0x01, 0, 0x5e, 0, 0, 1]].map(MacAddr::new);
        send_to(&pair, of_all, &to([10, 0, 0, 255], gre));
        send_to(&pair, of_all, &to([255; 4], gre));
        send_to(&pair, of_many, &to([224, 0, 0, 1], gre));
        // PPTP's, a version that nobody knows, a wrong checksum, too little.
        let pptp = [0x30, 0x01, 0x88, 0x0b, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0];
        let unknown = [&[0x20, 2][..], &gre[2..]].concat();
        let damaged = [&[0xa0, 0, 8, 0, 0xba, 0xad, 0, 0][..], &gre[4..]].concat();
        for gre in [&pptp[..], &unknown, &damaged, &gre[..9]] {
            send(&pair, &to(OUTER[0].octets(), gre));
        }
        assert_eq!(answered(&pair, &cable, 2), [Some(2)], "{underlay}: none but the last");
        let seen = cable.stop().iter().filter(|packet| unreachable(packet).is_some()).count();
        assert_eq!(seen, 1, "{underlay}");
    }
}

#[test]
fn rx15_a_host_is_told_six_times_and_then_once_a_second() {
    require!(privilege::check());
    let pair = Pair::new("");
    let began = Instant::now();
    for key in 0..12 {
        send(&pair, &stranger(key));
    }
    let counts = || {
        let said = answers(&pair);
        (said["answered"].as_u64().unwrap(), said["limited"].as_u64().unwrap())
    };
    let (answered, limited) =
        poll_until(SOON, "all twelve", || Some(counts()).filter(|(a, l)| a + l == 12)).unwrap();
    assert!(
        (6..=6 + began.elapsed().as_secs()).contains(&answered),
        "{answered} answered, {limited} limited"
    );
    pair.nodes[0].words("status --no-echo").ok().says(&["not answered again so soon"]);
}

#[test]
fn rx15_the_settings_switch_it_off() {
    require!(privilege::check());
    let mut pair = Pair::new("");
    pair.daemons[0].take().unwrap().terminate();
    let file = pair.nodes[0].file("greway.toml", "[daemon]\nport-unreachable = false\n");
    pair.daemons[0] = Some(pair.nodes[0].daemon_with(&[("GREWAY_CONFIG", &file)]));
    let withheld = |pair: &Pair, count: u64| {
        poll_until(SOON, "the packet", || {
            Some(answers(pair)).filter(|said| said["withheld"].as_u64() == Some(count))
        })
        .unwrap()
    };
    let cable = Capture::start(&pair.right, "wan0").unwrap();
    send(&pair, &stranger(5));
    let said = withheld(&pair, 1);
    assert_eq!((&said["answered"], &said["silent_because"]), (&0.into(), &"it is switched off".into()));
    pair.nodes[0].words("status --no-echo").ok().says(&["1 not answered: it is switched off"]);

    // A file that is wrong: tunnels are carried, nobody is answered, and status says why.
    pair.daemons[0].take().unwrap().terminate();
    fs::write(&file, "[daemon]\nport-unreachable = perhaps\n").unwrap();
    pair.daemons[0] = Some(pair.nodes[0].daemon_with(&[("GREWAY_CONFIG", &file)]));
    pair.answers(&PingOptions::default());
    send(&pair, &stranger(6));
    withheld(&pair, 1);
    pair.nodes[0].words("status --no-echo").ok().says(&["note: ", "greway.toml:2:20", "does not answer"]);
    let told = cable.stop().iter().filter(|packet| unreachable(packet).is_some()).count();
    assert_eq!(told, 0);
}

#[test]
fn t08_nobody_is_answered_while_another_program_receives_gre() {
    require!(privilege::check());
    let pair = Pair::new("");
    let cable = Capture::start(&pair.right, "wan0").unwrap();
    let other = pair.left.run(|| RawSocket::open_ipv4_muted(build::GRE)).unwrap().unwrap();
    send(&pair, &stranger(1));
    let said = poll_until(SOON, "the packet", || {
        Some(answers(&pair)).filter(|said| said["withheld"].as_u64() == Some(1))
    });
    let why = said.unwrap()["silent_because"].as_str().unwrap().to_owned();
    assert!(why.contains("another program"), "{why}");
    drop(other);
    // It is looked for once a second at most.
    let key = std::cell::Cell::new(100);
    poll_until(SOON, "an answer", || {
        key.set(key.get() + 1);
        send(&pair, &stranger(key.get()));
        (answers(&pair)["answered"].as_u64() > Some(0)).then_some(())
    })
    .unwrap();
    let first =
        cable.wait_for(SOON, "port unreachable", |packet| unreachable(packet) == PORT_UNREACHABLE).unwrap();
    assert_ne!(quoted_key(&first), Some(1), "what came before is not answered afterwards");
}

#[test]
fn a_daemon_without_tunnels_answers_nothing() {
    require!(privilege::check());
    let pair = Pair::new("");
    pair.nodes[0].words("tunnel del tun0").ok();
    let cable = Capture::start(&pair.right, "wan0").unwrap();
    send(&pair, &stranger(1));
    // The kernel's answers come in order: what it says to the echo is behind what it said before.
    assert!(ping(&pair.right, OUTER[0].into(), &PingOptions::default()).unwrap().complete());
    let said = answers(&pair);
    assert_eq!((said["answered"].as_u64(), said["withheld"].as_u64()), (Some(0), Some(0)), "{said}");
    let told = cable.stop().iter().filter(|packet| unreachable(packet).is_some()).count();
    assert_eq!(told, 0);
}

/// The delivery packet of one echo of left's, as right got it.
fn delivery(pair: &Pair, to: IpAddr) -> Vec<u8> {
    let cable = Capture::start(&pair.right, "wan0").unwrap();
    ping(&pair.left, to, &PingOptions { count: 1, ..in_vain() }).unwrap();
    let is_it = |packet: &CapturedPacket| !packet.outgoing && packet.gre().is_some();
    cable.wait_for(SOON, "the echo in GRE", is_it).unwrap().payload().to_vec()
}

/// What a router says about a delivery packet of left's.
fn said_by_router(kind: u8, code: u8, mtu: u16, delivery: &[u8]) -> Vec<u8> {
    let quote = Quote { kind, code, next_hop_mtu: mtu, packet: delivery };
    let mut message = vec![0; icmp::HEADER_LEN + delivery.len()];
    quote.emit(&mut message).unwrap();
    build::ipv4(build::ipv4_header(ROUTER, OUTER[0], icmp::PROTOCOL), &message)
}

/// Lets a router say this about a delivery packet to left, and waits until left has heard it `count` times.
fn complain(pair: &Pair, kind: u8, code: u8, mtu: u16, delivery: &[u8], count: u64) {
    send(pair, &said_by_router(kind, code, mtu, delivery));
    wait_for_error(pair, kind, code, count);
}

/// Waits until left has heard an error `count` times.
fn wait_for_error(pair: &Pair, kind: u8, code: u8, count: u64) {
    let heard = |entry: &&Value| {
        (entry["icmp_type"].as_u64(), entry["icmp_code"].as_u64()) == (Some(kind.into()), Some(code.into()))
    };
    poll_until(SOON, "the error in the status", || {
        let status = pair.status(0);
        let entry = status["icmp_errors"].as_array().unwrap().iter().find(heard)?.clone();
        (entry["packets"].as_u64() == Some(count)).then_some(entry)
    })
    .unwrap_or_else(|error| panic!("{error}: {}", pair.status(0)));
}

/// What senders are told: ICMP type and code.
fn told(report: &PingReport) -> Vec<(u8, u8)> {
    report.errors.iter().map(|error| (error.icmp_type, error.code)).collect()
}

#[test]
fn er03_er04_an_error_is_told_to_one_sender_and_the_packet_goes_all_the_same() {
    require!(privilege::check());
    for (overlay, kind, code) in [("veth", 3, 1), ("veth", 3, 2), ("veth", 3, 13), ("tun", 3, 0)] {
        let pair = Pair::new(&format!("key 7 overlay {overlay}"));
        let quoted = delivery(&pair, inner(1));
        for count in 1..=3 {
            // As little as a router must quote.
            complain(&pair, kind, code, 0, &quoted[..28], count);
        }
        let cable = Capture::start(&pair.right, "wan0").unwrap();
        let five = PingOptions { count: 5, ..PingOptions::default() };
        let report = ping(&pair.left, inner(1), &five).unwrap();
        assert_eq!(told(&report), [(3, 1); 3], "{overlay}, {code}: {report}");
        assert_eq!(report.errors[0].from, inner(1));
        assert!(report.received() >= 2, "{report}");
        let sent = |packet: &CapturedPacket| !packet.outgoing && packet.gre().is_some();
        cable.wait_for_count(SOON, "all five echoes", 5, sent).unwrap();
        assert!(pair.ping(&PingOptions::default()).complete());
        let status = pair.status(0);
        assert_eq!(status["unreachable_told"], 3, "{status}");
        assert_eq!(status["icmp_errors"][0]["from"], ROUTER.to_string());
    }
}

#[test]
fn er03_errors_that_mean_nothing_are_listed_and_told_to_nobody() {
    require!(privilege::check());
    let pair = Pair::new("ttl inherit");
    let quoted = delivery(&pair, inner(1));
    for (kind, code) in [(3, 3), (3, 5), (11, 0), (11, 1), (12, 0)] {
        complain(&pair, kind, code, 0, &quoted, 1);
    }
    // About another key nothing is known here.
    let mut other = quoted[..20].to_vec();
    other.extend([0x20, 0, 8, 0, 0, 0, 0, 9]);
    send(&pair, &said_by_router(3, 1, 0, &other));
    complain(&pair, 12, 0, 0, &quoted, 2);
    let report = pair.ping(&PingOptions::default());
    assert!(report.complete() && report.errors.is_empty(), "{report}");
    let status = pair.status(0);
    assert_eq!(status["icmp_errors"].as_array().unwrap().len(), 5, "{status}");
    pair.nodes[0].words("status tun0 --no-echo").ok().says(&[
        "icmp",
        "port unreachable from 10.0.0.254, last",
        "the far end has no tunnel with these ends and this key",
        "parameter problem ×2 from 10.0.0.254",
    ]);
    // With a ttl of its own the tunnel's packets ran out on the way.
    pair.nodes[0].words("tunnel change tun0 ttl 64").ok();
    complain(&pair, 11, 0, 0, &quoted, 2);
    let report = pair.ping(&PingOptions { count: 2, ..PingOptions::default() });
    assert_eq!(told(&report), [(3, 1)], "{report}");
    // A packet without DF is none of the tunnel's: somebody traces the way with GRE.
    let mut trace = quoted.clone();
    trace[6] = 0;
    send(&pair, &said_by_router(11, 0, 0, &trace));
    complain(&pair, 12, 0, 0, &quoted, 3);
    wait_for_error(&pair, 11, 0, 2);
    assert!(pair.ping(&PingOptions::default()).errors.is_empty());
}

#[test]
fn er02_the_path_is_asked_for_as_soon_as_it_is_said_to_be_narrow() {
    require!(privilege::check());
    let pair = Pair::new("");
    let large = PingOptions { count: 1, size: 1400 - 28, df: true, ..in_vain() };
    // Two of them: the second finds an answer that is still good.
    for _ in 0..2 {
        assert!(pair.ping(&large).complete());
    }
    let quoted = delivery(&pair, inner(1));
    complain(&pair, 3, 4, 1300, &quoted, 1);
    let report = pair.ping(&large);
    let mtu = report.errors.iter().map(|error| error.mtu).collect::<Vec<_>>();
    assert_eq!(mtu, [Some(1276)], "{report}");
    assert_eq!(pair.status(0)["unreachable_told"], 0);
}

#[test]
fn er05_a_sender_of_ipv6_hears_what_the_router_said() {
    require!(privilege::check());
    let pair = Pair::new("");
    pair.ipv6();
    let far: IpAddr = "fd00::2".parse().unwrap();
    poll_until(SOON, "IPv6 through the tunnel", || {
        ping(&pair.left, far, &in_vain()).ok().filter(PingReport::complete)
    })
    .unwrap();
    // What is quoted of the echo is enough to tell whose it was.
    let inside = Capture::start(&pair.left, "tun0").unwrap();
    let quoted = delivery(&pair, far);
    for (kind, code, wanted) in [(3, 1, [1, 3]), (11, 0, [3, 0])] {
        complain(&pair, kind, code, 0, &quoted, 1);
        let relayed = inside
            .wait_for(SOON, "the error inside", |packet| {
                let packet = (!packet.outgoing && packet.ethertype() == 0x86dd).then(|| packet.payload());
                packet.is_some_and(|packet| packet[6] == icmp::PROTOCOL_V6 && packet[40..42] == wanted)
            })
            .unwrap();
        assert_eq!(relayed.payload()[48..], quoted[24..], "all that was quoted of it");
    }
    // It was passed on and not counted.
    let report = ping(&pair.left, far, &PingOptions::default()).unwrap();
    assert!(report.complete() && report.errors.is_empty(), "{report}");
    assert_eq!(pair.status(0)["unreachable_told"], 0);
    // Of too little nobody can be told but the next sender.
    complain(&pair, 3, 1, 0, &quoted[..60], 2);
    let report = ping(&pair.left, far, &PingOptions { count: 2, ..PingOptions::default() }).unwrap();
    assert_eq!(told(&report), [(1, 3)], "{report}");
}

fn shell(host: &Host, script: &str) {
    let output = host.output(Command::new("sh").args(["-c", script])).unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

fn lab(words: &str) -> Lab {
    let lab = two_hosts();
    lab.tunnel(words);
    lab
}

#[test]
fn er04_a_real_router_that_lost_its_way_is_told_of_and_tunnels_work_once_it_is_back() {
    require!(privilege::check());
    let lab = lab("");
    assert!(lab.ping().complete());
    shell(&lab.guide.router, "ip route add unreachable 100.0.2.100/32");
    let report = poll_until(SOON, "an error inside", || {
        let report = ping(&lab.guide.linux1, inner(1), &PingOptions { count: 2, ..in_vain() }).unwrap();
        (!report.errors.is_empty()).then_some(report)
    })
    .unwrap();
    assert_eq!(told(&report)[0], (3, 1), "{report}");
    lab.one.words("status tun0 --no-echo").ok().says(&["icmp", "host unreachable", "from 100.0.1.1"]);
    shell(&lab.guide.router, "ip route del unreachable 100.0.2.100/32");
    // Errors that are left to be told of stop no packet.
    let report = poll_until(SOON, "the end of the errors", || {
        Some(lab.ping()).filter(|report| report.complete() && report.errors.is_empty())
    });
    assert!(report.unwrap().complete());
}

#[test]
fn er03_a_real_router_at_which_the_ttl_runs_out() {
    require!(privilege::check());
    // Every packet dies at the router, which says so.
    let lab = lab("ttl 1");
    let once = PingOptions { count: 1, ..in_vain() };
    let report = poll_until(SOON, "an error inside", || {
        let report = ping(&lab.guide.linux1, inner(1), &once).unwrap();
        (!report.errors.is_empty()).then_some(report)
    })
    .unwrap();
    assert_eq!(told(&report), [(3, 1)], "{report}");
    lab.one.words("status tun0 --no-echo").ok().says(&["ttl exceeded", "from 100.0.1.1"]);
    // With `inherit` the packet's own TTL ran out, which says nothing about the tunnel.
    for node in [&lab.one, &lab.two] {
        node.words("tunnel change tun0 ttl inherit").ok();
    }
    poll_until(SOON, "no more errors", || lab.ping().complete().then_some(())).unwrap();
    let before = lab.one.status()["tunnels"][0]["unreachable_told"].clone();
    let short = PingOptions { count: 3, ttl: Some(1), ..in_vain() };
    let report = ping(&lab.guide.linux1, inner(1), &short).unwrap();
    assert_eq!((report.received(), report.errors.len()), (0, 0), "{report}");
    assert!(lab.ping().complete());
    assert_eq!(lab.one.status()["tunnels"][0]["unreachable_told"], before);
}

#[test]
fn an_error_about_the_tunnels_own_network_reaches_a_station_behind_a_bridge() {
    require!(privilege::check());
    let pair = Pair::bare(&LinkOptions::default());
    for (node, here, there) in [(&pair.nodes[0], 0, 1), (&pair.nodes[1], 1, 0)] {
        let (local, remote) = (OUTER[here], OUTER[there]);
        node.words(&format!("tunnel add tun0 mode gretap local {local} remote {remote}")).ok();
    }
    pair.left.address("tun0", "172.16.0.1/30").unwrap();
    pair.right.address("tun0", "172.16.0.2/30").unwrap();
    pair.answers(&PingOptions::default());
    let quoted = delivery(&pair, inner(1));
    complain(&pair, 3, 1, 0, &quoted, 1);
    let report = poll_until(SOON, "an error inside", || {
        // A frame that is not IP may have taken the one there was.
        let report = pair.ping(&PingOptions { count: 1, ..PingOptions::default() });
        if report.errors.is_empty() {
            let heard = pair.status(0)["icmp_errors"][0]["packets"].as_u64().unwrap();
            complain(&pair, 3, 1, 0, &quoted, heard + 1);
            return None;
        }
        Some(report)
    });
    assert_eq!(told(&report.unwrap()), [(3, 1)]);
}

/// The outer addresses of left and right over IPv6, and the router that is not there.
const OUTER6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0x47, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0x47, 0, 0, 0, 0, 0, 2)];
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x47, 0, 0, 0, 0, 0, 0xfe);

/// Two hosts with an ip6gre tunnel of these words.
fn over_ipv6(words: &str) -> Pair {
    let pair = Pair::bare(&LinkOptions::default());
    for (host, address) in [(&pair.left, OUTER6[0]), (&pair.right, OUTER6[1])] {
        host.sysctl("ipv6/conf/wan0/disable_ipv6", "0").unwrap();
        host.address("wan0", &format!("{address}/64")).unwrap();
    }
    for (node, here, there) in [(&pair.nodes[0], 0, 1), (&pair.nodes[1], 1, 0)] {
        let (local, remote) = (OUTER6[here], OUTER6[there]);
        node.words(&format!("tunnel add tun0 mode ip6gre local {local} remote {remote} {words}")).ok();
    }
    pair.left.address("tun0", &format!("{} peer {}/30", INNER[0], INNER[1])).unwrap();
    pair.right.address("tun0", &format!("{} peer {}/30", INNER[1], INNER[0])).unwrap();
    pair.answers(&PingOptions::default());
    pair
}

/// Puts an IPv6 packet on the cable from right to left.
fn send6(pair: &Pair, from: Ipv6Addr, to: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let packet = build::ipv6(build::ipv6_header(from, to, next_header), payload);
    let frame = build::ethernet(mac(&pair.left, "wan0"), mac(&pair.right, "wan0"), 0x86dd, &packet);
    inject(&pair.right, "wan0", &frame).unwrap();
    packet
}

/// As [`complain`], over IPv6.
fn complain6(pair: &Pair, kind: u8, code: u8, word: u32, delivery: &[u8], count: u64) {
    let quote = QuoteV6 { kind, code, word, packet: &delivery[..delivery.len().min(1232)] };
    let mut message = vec![0; icmp::HEADER_LEN + quote.packet.len()];
    quote.emit(ROUTER6, OUTER6[0], &mut message).unwrap();
    send6(pair, ROUTER6, OUTER6[0], icmp::PROTOCOL_V6, &message);
    wait_for_error(pair, kind, code, count);
}

#[test]
fn rx15_over_ipv6_too() {
    require!(privilege::check());
    for underlay in ["packet", "raw"] {
        let pair = over_ipv6(&format!("underlay {underlay}"));
        let cable = Capture::start(&pair.right, "wan0").unwrap();
        let header = GreHeader { protocol_type: 0x0800, key: Some(9), ..GreHeader::default() };
        let gre = build::gre(header, &[0x45; 60]);
        // To many: nobody is told.
        send6(&pair, OUTER6[1], "ff02::1".parse().unwrap(), build::GRE, &gre);
        let datagram = send6(&pair, OUTER6[1], OUTER6[0], build::GRE, &gre);
        let answers_of = |packet: &CapturedPacket| {
            let packet = (!packet.outgoing && packet.ethertype() == 0x86dd).then(|| packet.payload())?;
            let message = packet.get(40..).filter(|_| packet[6] == icmp::PROTOCOL_V6)?;
            QuoteV6::parse(message).map(|quote| (quote.kind, quote.code, quote.word, quote.packet.to_vec()))
        };
        let answer = cable
            .wait_for(SOON, "port unreachable", |packet| answers_of(packet).is_some())
            .unwrap_or_else(|error| panic!("{underlay}: {error}: {}", answers(&pair)));
        assert_eq!(answers_of(&answer), Some((1, 4, 0, datagram)), "{underlay}");
        let header = Ipv6Header::parse(answer.payload()).unwrap();
        assert_eq!((header.source, header.destination), (OUTER6[0], OUTER6[1]), "{underlay}");
        assert_eq!((header.traffic_class, header.hop_limit), (0, 64), "{underlay}");
        assert_eq!(answers(&pair)["answered"], 1);
        assert_eq!(cable.stop().iter().filter_map(answers_of).count(), 1, "{underlay}");
    }
}

#[test]
fn er06_over_ipv6_too() {
    require!(privilege::check());
    let pair = over_ipv6("");
    let quoted = delivery(&pair, inner(1));
    let two = PingOptions { count: 2, ..PingOptions::default() };
    // No route, and a hop limit that ran out on the way, whose it was does not matter.
    for (kind, code) in [(1, 0), (3, 0)] {
        complain6(&pair, kind, code, 0, &quoted[..40 + 8 + 8], 1);
        let report = pair.ping(&two);
        assert_eq!(told(&report), [(3, 1)], "{kind}/{code}: {report}");
    }
    for (kind, code) in [(1, 4), (3, 1), (4, 1)] {
        complain6(&pair, kind, code, 0, &quoted, 1);
        let report = pair.ping(&two);
        assert!(report.complete() && report.errors.is_empty(), "{kind}/{code}: {report}");
    }
    let large = PingOptions { count: 1, size: 1400 - 28, df: true, ..in_vain() };
    for _ in 0..2 {
        assert!(pair.ping(&large).complete());
    }
    complain6(&pair, 2, 0, 1400, &quoted, 1);
    let report = pair.ping(&large);
    let mtu = report.errors.iter().map(|error| error.mtu).collect::<Vec<_>>();
    // Without the IPv6 header, its option, and GRE.
    assert_eq!(mtu, [Some(1400 - 40 - 8 - 4)], "{report}");
    pair.nodes[0].words("status tun0 --no-echo").ok().says(&[
        "no route to destination from fd00:47::fe",
        "port unreachable from fd00:47::fe",
        "unrecognized next header",
        "packet too big",
    ]);
}
