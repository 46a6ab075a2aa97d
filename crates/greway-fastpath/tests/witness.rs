//! Witnesses as the programs make and take them, on whole tunnels: what the host's rules do to packets they do to
//! witnesses, nobody on the cable sees one, and nothing is overtaken.
#![allow(clippy::unwrap_used, clippy::unwrap_in_result, reason = "a helper of a test fails as the test does")]

mod support;
#[path = "support/tunnel.rs"]
mod tunnel;

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use greway_fastpath::{
    Decline, Member, Point, Table,
    witness::{Gate, Leave, Maps, Testimony, Verdict, differs},
};
use greway_linux::{
    batch::{Control, SendStorage, Target},
    raw::RawSocket,
};
use greway_spec::{Mode, Ttl, TunnelSpec};
use greway_testbed::{Host, LinkOptions, PingOptions, order, ping, poll_until, tcp::transfer};
use rustix::net::{RecvFlags, recv};
use support::not_run;
use tunnel::{End, PATIENCE, Tunnel, hosts, inner4, inner6};

const SECRET: [u8; 16] = *b"known to us only";
const OPEN: Leave = Leave { number: 1, at_once: 1, at: 0 };

/// A tunnel whose right end is witnessed, with its maps.
fn witnessed(name: &str, options: &LinkOptions, change: impl Fn(&mut TunnelSpec)) -> Option<(Tunnel, Maps)> {
    let hosts = greway_testbed::privilege::check().ok().and_then(|()| hosts(options));
    let Some(hosts) = hosts else {
        not_run(name, "no network namespaces");
        return None;
    };
    let mut tunnel = Tunnel::new(hosts, change);
    let right = &mut tunnel.right;
    right.place.witnessed = true;
    let table = Table::of([Member { spec: &right.spec, place: right.place, wanted: true }]);
    right.fastpath.apply(&table).unwrap();
    right.host.run(|| right.fastpath.attach("eth0", Point::Witness)).unwrap().unwrap();
    tunnel.left.fastpath.beat().unwrap();
    right.fastpath.beat().unwrap();
    let maps = right.fastpath.witness_maps().unwrap();
    Some((tunnel, maps))
}

fn of_mode(mode: Mode, key: Option<u32>) -> impl Fn(&mut TunnelSpec) {
    move |spec| {
        spec.mode = mode;
        spec.ikey = key;
        spec.okey = key;
        spec.ttl = Ttl::Fixed(64);
        spec.encaplimit = mode.over_ipv6().then_some(4);
    }
}

fn open(ask: u32) -> Verdict {
    Verdict { secret: SECRET, inbound: OPEN, outbound: OPEN, ask, reserved: 0 }
}

/// Where userspace would hear them.
fn raw(end: &End) -> RawSocket {
    let over_ipv6 = end.spec.mode.over_ipv6();
    let socket = end.host.run(|| if over_ipv6 { RawSocket::open_ipv6(47) } else { RawSocket::open_ipv4(47) });
    socket.unwrap().unwrap()
}

/// Behind the delivery header, which a socket gives of IPv4 only.
fn gre(datagram: &[u8]) -> &[u8] {
    if datagram[0] == 0x45 { &datagram[20..] } else { datagram }
}

/// What has arrived, by number.
fn heard(socket: &RawSocket, others: &mut u32) -> Vec<u32> {
    let mut buffer = vec![0; 1 << 16];
    let mut numbers = Vec::new();
    while let Ok((length, _)) = recv(socket.as_fd(), &mut buffer, RecvFlags::DONTWAIT) {
        match Testimony::parse(gre(&buffer[..length]), &SECRET) {
            Some(testimony) => numbers.push(testimony.number),
            None => *others += 1,
        }
    }
    numbers
}

fn peer(end: &End) -> u32 {
    end.place.peer
}

fn nft(host: &Host, rules: &str) {
    let output = host.run(|| Command::new("nft").arg(rules).output()).unwrap().unwrap();
    assert!(output.status.success(), "nft {rules}: {}", String::from_utf8_lossy(&output.stderr));
}

fn gate(maps: &Maps, end: &End) -> Gate {
    maps.gate(peer(end)).unwrap().unwrap()
}

/// Nothing is known of a tunnel that is witnessed: nothing is carried, either way.
#[test]
fn what_is_not_shown_is_not_carried() {
    let name = "what_is_not_shown_is_not_carried";
    let Some((tunnel, mut maps)) = witnessed(name, &LinkOptions::default(), of_mode(Mode::Gre, None)) else {
        return;
    };
    let once = PingOptions { count: 1, ..PingOptions::default() };
    for (verdict, context) in [(None, "no verdict"), (Some(Verdict::default()), "closed")] {
        if let Some(verdict) = verdict {
            maps.set_verdict(peer(&tunnel.right), &verdict).unwrap();
        }
        let before = tunnel.right.counters();
        let report = ping(&tunnel.left.host, inner4(2), &once).unwrap();
        assert_eq!(report.received(), 0, "{context}: {report}");
        let now = tunnel.right.counters();
        assert_eq!((now.rx_packets, now.tx_packets), (before.rx_packets, before.tx_packets), "{context}");
        assert!(now.declined_for(Decline::Closed) > before.declined_for(Decline::Closed), "{context}");
    }
    maps.set_verdict(peer(&tunnel.right), &open(0)).unwrap();
    let report = ping(&tunnel.left.host, inner4(2), &PingOptions::default()).unwrap();
    assert!(report.complete(), "{report}");
    maps.forget(peer(&tunnel.right)).unwrap();
    let report = ping(&tunnel.left.host, inner4(2), &once).unwrap();
    assert_eq!(report.received(), 0, "{report}");
}

/// A witness of every kind of tunnel and payload arrives with the headers of the packet, is asked for once each, and the
/// packet arrives too, whole and once.
#[test]
fn a_witness_of_every_kind_comes_through_the_stack() {
    let name = "a_witness_of_every_kind_comes_through_the_stack";
    let modes = [
        (Mode::Gre, None),
        (Mode::Gre, Some(42)),
        (Mode::Gretap, Some(42)),
        (Mode::Ip6Gre, None),
        (Mode::Ip6Gretap, Some(42)),
    ];
    for (mode, key) in modes {
        let Some((tunnel, mut maps)) = witnessed(name, &LinkOptions::default(), of_mode(mode, key)) else {
            return;
        };
        let socket = raw(&tunnel.right);
        let (mut number, mut others) = (0, 0);
        for to in [inner4(2), inner6(2)] {
            // So that the trailer is at its end, and so that it is not.
            for size in [8, 1000] {
                number += 1;
                maps.set_verdict(peer(&tunnel.right), &open(number)).unwrap();
                let context = format!("{mode:?} {key:?} {to} {size}");
                let options = PingOptions { size, ..PingOptions::default() };
                let report = ping(&tunnel.left.host, to, &options).unwrap();
                assert!(report.complete(), "{context}: {report}");
                let numbers = heard(&socket, &mut others);
                assert_eq!(numbers, [number], "{context} {others} {:?}", gate(&maps, &tunnel.right));
                assert_eq!(gate(&maps, &tunnel.right).made, number, "{context}");
            }
        }
        assert_eq!(others, 0, "{mode:?}: nothing but witnesses comes to the socket");
    }
}

/// What of the original's headers the rules go by: addresses, ttl, tos, key, and the first bytes inside.
#[test]
fn a_witness_is_what_the_packet_was() {
    let name = "a_witness_is_what_the_packet_was";
    let change = |spec: &mut TunnelSpec| {
        of_mode(Mode::Gre, Some(7))(spec);
        spec.ttl = Ttl::Fixed(99);
    };
    let Some((tunnel, mut maps)) = witnessed(name, &LinkOptions::default(), change) else { return };
    let socket = raw(&tunnel.right);
    maps.set_verdict(peer(&tunnel.right), &open(5)).unwrap();
    assert!(ping(&tunnel.left.host, inner4(2), &PingOptions::default()).unwrap().complete());
    let mut buffer = [0; 2048];
    let (length, _) = recv(socket.as_fd(), &mut buffer, RecvFlags::DONTWAIT).unwrap();
    let datagram = &buffer[..length];
    assert_eq!(datagram[0], 0x45);
    assert_eq!((datagram[8], datagram[9]), (99, 47));
    assert_eq!(datagram[12..20], [192, 0, 2, 1, 192, 0, 2, 2]);
    assert_eq!(datagram[20..28], [0x20, 0, 8, 0, 0, 0, 0, 7], "GRE, its type and key");
    assert_eq!(datagram[28], 0x45, "the payload packet begins");
    assert_eq!(datagram[40..48], [172, 16, 0, 1, 172, 16, 0, 2]);
    let said = Testimony { peer: peer(&tunnel.right), number: 5 };
    assert_eq!(Testimony::parse(gre(datagram), &SECRET), Some(said));
    // The kernel has looked at the checksum, and at the length.
    assert_eq!(usize::from(u16::from_be_bytes([datagram[2], datagram[3]])), length);
}

/// An INPUT rule that drops takes the witnesses; one that looks at something else does not.
#[test]
fn an_input_rule_takes_the_witness() {
    let name = "an_input_rule_takes_the_witness";
    let Some((tunnel, mut maps)) = witnessed(name, &LinkOptions::default(), of_mode(Mode::Gre, None)) else {
        return;
    };
    let socket = raw(&tunnel.right);
    nft(
        &tunnel.right.host,
        "add table ip t; add chain ip t c { type filter hook input priority 0; }; \
         add rule ip t c ip saddr 192.0.2.77 drop",
    );
    let mut others = 0;
    for (number, rule) in
        [(1, None), (2, Some("ip protocol gre drop")), (3, Some("ip saddr 192.0.2.1 ip ttl 64 drop"))]
    {
        if let Some(rule) = rule {
            nft(&tunnel.right.host, &format!("flush chain ip t c; add rule ip t c {rule}"));
        }
        maps.set_verdict(peer(&tunnel.right), &open(number)).unwrap();
        assert!(ping(&tunnel.left.host, inner4(2), &PingOptions::default()).unwrap().complete());
        assert_eq!(gate(&maps, &tunnel.right).made, number);
        let expected: &[u32] = if rule.is_none() { &[number] } else { &[] };
        assert_eq!(heard(&socket, &mut others), expected, "{rule:?}");
    }
}

/// Sends a witness from the right end as userspace would.
fn send(tunnel: &Tunnel, number: u32, from: [u8; 6]) -> Result<(), i32> {
    let end = &tunnel.right;
    let spec = &end.spec;
    let over_ipv6 = spec.mode.over_ipv6();
    let socket = end.host.run(|| match over_ipv6 {
        true => RawSocket::open_ipv6_muted(47),
        false => RawSocket::open_ipv4_muted(47),
    });
    let socket = socket.unwrap().unwrap();
    socket.set_error_queue(false).unwrap();
    let ethernet = spec.mode.is_ethernet();
    let mut gre = vec![if spec.okey.is_some() { 0x20 } else { 0 }, 0];
    gre.extend(if ethernet { [0x65, 0x58] } else { [8, 0] });
    gre.extend(spec.okey.into_iter().flat_map(u32::to_be_bytes));
    let payload = Testimony { peer: peer(end), number }.payload(&SECRET, ethernet.then_some(from));
    let target = match spec.remote.unwrap() {
        IpAddr::V4(address) => Target::Ipv4(address),
        IpAddr::V6(address) => Target::Ipv6 { address, scope_id: 0 },
    };
    let control = Control {
        ttl: Some(64),
        tos: Some(0),
        source: spec.local,
        encapsulation_limit: spec.encaplimit.filter(|_| over_ipv6),
        ..Control::NONE
    };
    let mut storage = SendStorage::new(1);
    let mut batch = storage.start();
    batch.push_with_prefix(&gre, &[&payload], target, control).unwrap();
    let mut refused = Ok(());
    // What ends at tc is told over IPv6 as a full queue.
    const ENOBUFS: i32 = 105;
    batch.send(&socket, |_, error| {
        refused = error.raw_os_error().filter(|errno| *errno != ENOBUFS).map_or(Ok(()), Err);
    });
    refused
}

/// A witness on its way out ends in front of the cable, and the gate says how it looked there.
#[test]
fn a_witness_of_every_kind_ends_in_front_of_the_cable() {
    let name = "a_witness_of_every_kind_ends_in_front_of_the_cable";
    let modes = [
        (Mode::Gre, None),
        (Mode::Gre, Some(42)),
        (Mode::Gretap, None),
        (Mode::Ip6Gre, Some(42)),
        (Mode::Ip6Gretap, None),
    ];
    for (mode, key) in modes {
        let Some((tunnel, mut maps)) = witnessed(name, &LinkOptions::default(), of_mode(mode, key)) else {
            return;
        };
        maps.set_verdict(peer(&tunnel.right), &open(0)).unwrap();
        // Neighbours are known then.
        assert!(ping(&tunnel.left.host, inner4(2), &PingOptions::default()).unwrap().complete());
        let before = tunnel.left.counters().rx_packets;
        send(&tunnel, 9, tunnel.right.place.device_mac).unwrap();
        let seen = gate(&maps, &tunnel.right);
        assert_eq!((seen.left, seen.differs), (9, 0), "{mode:?} {key:?}: {seen:?}");
        assert_eq!(tunnel.right.fastpath.counters(Point::Witness).unwrap().carried, 1);
        // One with another secret is nobody's.
        maps.set_verdict(peer(&tunnel.right), &Verdict { secret: [1; 16], ..open(0) }).unwrap();
        send(&tunnel, 10, tunnel.right.place.device_mac).unwrap();
        assert_eq!(gate(&maps, &tunnel.right).left, 9);
        poll_until(PATIENCE, "the other one arrives, and it alone", || {
            (tunnel.left.counters().rx_packets == before + 1).then_some(())
        })
        .unwrap();
        // It means nothing there.
        assert!(ping(&tunnel.left.host, inner4(2), &PingOptions::default()).unwrap().complete());
    }
}

/// What OUTPUT and POSTROUTING do to packets is found out.
#[test]
fn output_rules_are_found_out() {
    let name = "output_rules_are_found_out";
    const EPERM: i32 = 1;
    let Some((tunnel, mut maps)) = witnessed(name, &LinkOptions::default(), of_mode(Mode::Gre, None)) else {
        return;
    };
    maps.set_verdict(peer(&tunnel.right), &open(0)).unwrap();
    assert!(ping(&tunnel.left.host, inner4(2), &PingOptions::default()).unwrap().complete());
    let host = &tunnel.right.host;
    host.address("eth0", "192.0.2.50/24").unwrap();
    let cases = [
        ("filter hook output priority 0", "ip protocol gre drop", Err(EPERM), None),
        ("filter hook postrouting priority 0", "ip protocol gre drop", Err(EPERM), None),
        ("filter hook output priority 0", "ip protocol gre accept", Ok(()), Some(0)),
        ("nat hook postrouting priority 100", "snat to 192.0.2.50", Ok(()), Some(differs::SOURCE)),
        ("filter hook output priority 0", "ip ttl set 3", Ok(()), Some(differs::TTL)),
        ("filter hook output priority 0", "ip dscp set cs1", Ok(()), Some(differs::TOS)),
        ("filter hook postrouting priority 0", "meta mark set 7", Ok(()), Some(differs::MARK)),
    ];
    for (number, (hook, rule, outcome, difference)) in (20..).zip(cases) {
        nft(host, &format!("add table ip t; add chain ip t c {{ type {hook}; }}; add rule ip t c {rule}"));
        assert_eq!(send(&tunnel, number, [0; 6]), outcome, "{rule}");
        let seen = gate(&maps, &tunnel.right);
        assert_eq!((seen.left == number).then_some(seen.differs), difference, "{rule}: {seen:?}");
        nft(host, "delete table ip t");
    }
}

/// None that was declined is overtaken: a leave holds only when the last one was declined when it says.
#[test]
fn a_leave_waits_for_what_was_declined() {
    let name = "a_leave_waits_for_what_was_declined";
    let Some((tunnel, mut maps)) = witnessed(name, &LinkOptions::default(), of_mode(Mode::Gre, None)) else {
        return;
    };
    let right = peer(&tunnel.right);
    let verdict = |inbound: Leave| Verdict { inbound, ..open(0) };
    maps.set_verdict(right, &verdict(Leave::default())).unwrap();
    let once = PingOptions { count: 1, ..PingOptions::default() };
    let pass = || ping(&tunnel.left.host, inner4(2), &once).unwrap().complete();
    assert!(!pass());
    let then = gate(&maps, &tunnel.right).inbound;
    assert!(then.declined > 0 && then.last_ns > 0 && then.opened == 0, "{then:?}");
    // Another one comes in between.
    assert!(!pass());
    maps.set_verdict(right, &verdict(Leave { number: 2, at_once: 0, at: then.last_ns })).unwrap();
    assert!(!pass());
    let now = gate(&maps, &tunnel.right).inbound;
    assert!(now.opened == 0 && now.declined >= then.declined + 2, "{then:?} {now:?}");
    maps.set_verdict(right, &verdict(Leave { number: 3, at_once: 0, at: now.last_ns })).unwrap();
    assert!(pass());
    assert_eq!(gate(&maps, &tunnel.right).inbound.opened, 3);
    // It stays so until the leave is another one.
    assert!(pass());
    maps.set_verdict(right, &verdict(Leave { number: 4, at_once: 0, at: 1 })).unwrap();
    assert!(!pass());
}

/// A bulk transfer of which a witness is made all the time: no segment is out of order, and nothing of it is seen twice
/// on the cable.
#[test]
fn a_bulk_transfer_is_not_reordered_and_not_seen_twice() {
    let name = "a_bulk_transfer_is_not_reordered_and_not_seen_twice";
    const BYTES: u64 = 60_000_000;
    order::on_one_cpu().unwrap();
    let whole = LinkOptions::default();
    // Split and merged again on the way.
    let merged = LinkOptions { tx_offload: false, gro: true, ..LinkOptions::default() };
    for (options, mode, to) in [
        (&whole, Mode::Gre, inner4(2)),
        (&merged, Mode::Gre, inner4(2)),
        (&merged, Mode::Gre, inner6(2)),
        (&merged, Mode::Ip6Gretap, inner4(2)),
    ] {
        let Some((tunnel, mut maps)) = witnessed(name, options, of_mode(mode, None)) else { return };
        let right = peer(&tunnel.right);
        let socket = raw(&tunnel.right);
        maps.set_verdict(right, &open(0)).unwrap();
        assert!(ping(&tunnel.left.host, to, &PingOptions::default()).unwrap().complete());
        let hosts = [&tunnel.left.host, &tunnel.right.host];
        let before = hosts.map(|host| order::out_of_order(host).unwrap());
        // A frame of the far end's own, before the way was open.
        let declined = tunnel.right.counters().declined;
        let done = AtomicBool::new(false);
        let (report, asked, arrived, others) = thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let (mut asked, mut arrived, mut others) = (0, 0, 0);
                while !done.load(Ordering::Relaxed) {
                    if gate(&maps, &tunnel.right).made == asked {
                        asked += 1;
                        maps.set_verdict(right, &open(asked)).unwrap();
                    }
                    arrived += heard(&socket, &mut others).len();
                    thread::sleep(Duration::from_millis(1));
                }
                arrived += heard(&socket, &mut others).len();
                (asked, arrived, others)
            });
            let report = transfer(hosts[0], hosts[1], SocketAddr::new(to, 0), BYTES, PATIENCE);
            done.store(true, Ordering::Relaxed);
            let (asked, arrived, others) = asking.join().unwrap();
            (report.unwrap(), asked, arrived, others)
        });
        let context = format!("{mode:?} {to} {options:?}");
        assert!(report.intact(), "{context}: {report:?}");
        assert_eq!(
            hosts.map(|host| order::out_of_order(host).unwrap()),
            before,
            "{context}: {asked} witnesses asked for"
        );
        assert!(arrived >= 10 && arrived + 1 >= asked as usize, "{context}: {arrived} of {asked}");
        assert_eq!(others, 0, "{context}: all but witnesses is carried");
        assert_eq!(tunnel.right.counters().declined, declined, "{context}");
    }
}
