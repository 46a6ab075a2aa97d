//! A narrow place on the way: who is told, what is cut, and that bulk transfers go through whatever they
//! carry. Rules: TX-06.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use greway_netlink::LinkChange;
use greway_testbed::tcp::transfer;
use greway_testbed::{Capture, PingOptions, PingReport, ping, poll_until, privilege, require};
use greway_wire::ipv4::Ipv4Header;
use support::{Lab, SOON, in_vain, inner, two_hosts};

/// Bytes of the largest packet between the router and linux2.
const NARROW: u32 = 1_400;
/// What is left of it for the tunnel's payload packets.
const INSIDE: u32 = NARROW - 24;

/// Makes the way behind the router narrow. linux1 cannot know.
fn narrow(lab: &Lab) {
    lab.guide.router.change("eth2", &LinkChange { mtu: Some(NARROW), ..LinkChange::default() }).unwrap();
    lab.guide.linux2.change("wan0", &LinkChange { mtu: Some(NARROW), ..LinkChange::default() }).unwrap();
}

fn lab(words: &str) -> Lab {
    let lab = two_hosts();
    lab.tunnel(words);
    narrow(&lab);
    lab
}

/// A ping of this many bytes with its headers.
fn of_size(lab: &Lab, bytes: u32, df: bool) -> PingReport {
    let options = PingOptions { count: 1, size: bytes as usize - 28, df, ..in_vain() };
    ping(&lab.guide.linux1, inner(1), &options).unwrap()
}

/// Pings with DF until somebody says that it is too large.
fn told(lab: &Lab, bytes: u32) -> u32 {
    poll_until(SOON, "an answer to what is too large", || {
        let report = of_size(lab, bytes, true);
        assert_eq!(report.received(), 0, "{report}");
        report.errors.iter().find_map(|error| error.mtu)
    })
    .unwrap()
}

#[test]
fn tx06_the_inner_sender_is_told_what_the_path_takes() {
    require!(privilege::check());
    for overlay in ["veth", "tun"] {
        let lab = lab(&format!("overlay {overlay}"));
        assert_eq!(lab.one.mtu("tun0"), 1_476, "made before the way was narrow");
        assert!(of_size(&lab, INSIDE, true).complete());
        assert_eq!(told(&lab, 1_476), INSIDE);
        lab.one.words("status tun0 --no-echo").ok().says(&["too-big-for-path"]);
        assert!(of_size(&lab, INSIDE, true).complete());
    }
}

#[test]
fn tx06_what_may_be_fragmented_is_and_before_it_is_encapsulated() {
    require!(privilege::check());
    let lab = lab("");
    assert_eq!(told(&lab, 1_476), INSIDE);
    let wire = Capture::start(&lab.guide.linux2, "wan0").unwrap();
    let report = poll_until(SOON, "a large ping without DF", || {
        Some(of_size(&lab, 1_476, false)).filter(PingReport::complete)
    })
    .unwrap();
    assert!(report.complete(), "{report}");
    let frames = wire.stop();
    let delivery = frames.iter().filter(|frame| !frame.outgoing && frame.gre().is_some());
    let mut inner_fragments = 0;
    for frame in delivery {
        let outer = Ipv4Header::parse(frame.payload()).unwrap();
        assert!(!outer.is_fragment() && outer.dont_fragment, "the far end reassembles nothing");
        let inner = Ipv4Header::parse(&frame.gre().unwrap()[4..]).unwrap();
        inner_fragments += usize::from(inner.is_fragment());
    }
    assert!(inner_fragments >= 2, "{inner_fragments}");
}

#[test]
fn a_bulk_transfer_finds_the_narrow_place() {
    require!(privilege::check());
    for words in ["", "csum seq key 42", "overlay tun"] {
        let lab = lab(words);
        let to = SocketAddr::new(inner(1), 0);
        let report =
            transfer(&lab.guide.linux1, &lab.guide.linux2, to, 4 << 20, Duration::from_secs(60)).unwrap();
        assert!(report.intact(), "{words}: {report:?}");
        // And the other way, where linux2's own device is the narrow one.
        let to = SocketAddr::new(inner(0), 0);
        let report =
            transfer(&lab.guide.linux2, &lab.guide.linux1, to, 4 << 20, Duration::from_secs(60)).unwrap();
        assert!(report.intact(), "{words}: {report:?}");
    }
}

#[test]
fn tx06_ipv6_is_told_and_a_transfer_goes_through() {
    require!(privilege::check());
    let lab = lab("");
    for (host, address) in [(&lab.guide.linux1, "fd00::1/64"), (&lab.guide.linux2, "fd00::2/64")] {
        host.sysctl("ipv6/conf/tun0/disable_ipv6", "0").unwrap();
        host.address("tun0", address).unwrap();
    }
    let far: std::net::IpAddr = "fd00::2".parse().unwrap();
    let report = poll_until(SOON, "IPv6 through the tunnel", || {
        ping(&lab.guide.linux1, far, &in_vain()).ok().filter(PingReport::complete)
    });
    assert!(report.unwrap().complete());
    let report = transfer(
        &lab.guide.linux1,
        &lab.guide.linux2,
        SocketAddr::new(far, 0),
        4 << 20,
        Duration::from_secs(60),
    )
    .unwrap();
    assert!(report.intact(), "{report:?}");
}

#[test]
fn the_mtu_follows_the_underlay_where_greway_chose_it() {
    require!(privilege::check());
    let lab = two_hosts();
    lab.tunnel("");
    let mtu = |wanted: u32| {
        poll_until(SOON, "the MTU of tun0", || (lab.one.mtu("tun0") == wanted).then_some(())).unwrap();
    };
    let wan = |mtu| LinkChange { mtu: Some(mtu), ..LinkChange::default() };
    mtu(1_476);
    lab.guide.linux1.change("wan0", &wan(1_400)).unwrap();
    mtu(1_376);
    lab.guide.linux1.change("wan0", &wan(1_500)).unwrap();
    mtu(1_476);
    // By a route of its own the way is narrower than the device.
    let [_, remote] = greway_testbed::guide::OUTER;
    let run = |script: &str| {
        let mut command = std::process::Command::new("sh");
        let output = lab.guide.linux1.output(command.args(["-c", script])).unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run(&format!("ip route add {remote} via 100.0.1.1 mtu 1300"));
    mtu(1_276);
    run(&format!("ip route del {remote}"));
    mtu(1_476);
    // Somebody else's choice stays: that of tun0, while tun1 follows.
    let local = greway_testbed::guide::OUTER[0];
    lab.one.words(&format!("tunnel add tun1 mode gre local {local} remote {remote} key 9")).ok();
    let tun1_is = |wanted: u32| {
        poll_until(SOON, "the MTU of tun1", || (lab.one.mtu("tun1") == wanted).then_some(())).unwrap();
    };
    tun1_is(1_472);
    lab.guide.linux1.change("tun0", &wan(1_440)).unwrap();
    lab.guide.linux1.change("wan0", &wan(1_400)).unwrap();
    tun1_is(1_372);
    assert_eq!(lab.one.mtu("tun0"), 1_440);
    // And so does that of a tunnel that names it.
    lab.one.words("tunnel change tun0 mtu 1410").ok();
    lab.guide.linux1.change("wan0", &wan(1_450)).unwrap();
    tun1_is(1_422);
    assert_eq!(lab.one.mtu("tun0"), 1_410);
}

/// The segment size that the first SYN or SYN-ACK of a connection announces on a device.
fn announced(capture: Capture) -> Vec<u16> {
    let frames = capture.stop();
    let option = |frame: &greway_testbed::CapturedPacket| {
        let packet = frame.payload();
        let tcp = packet.get(20..).filter(|_| frame.ethertype() == 0x0800 && packet[9] == 6)?;
        let syn = tcp.get(13).is_some_and(|flags| flags & 0x02 != 0);
        // The option that Linux writes first.
        (syn && tcp.get(20..22) == Some(&[2, 4])).then(|| u16::from_be_bytes([tcp[22], tcp[23]]))
    };
    frames.iter().filter(|frame| !frame.outgoing).filter_map(option).collect()
}

#[test]
fn mss_is_clamped_both_ways_where_a_host_forwards() {
    require!(privilege::check());
    let lab = two_hosts();
    lab.tunnel("");
    let [lan1, lan2] = greway_testbed::guide::LAN;
    let [near, far] = greway_testbed::guide::GATEWAY;
    for (host, lan, gateway) in
        [(&lab.guide.lan1, "10.10.2.0/24", near), (&lab.guide.lan2, "10.10.1.0/24", far)]
    {
        host.route(lan, &format!("via {gateway}")).unwrap();
    }
    lab.guide.linux1.route("10.10.2.0/24", "dev tun0").unwrap();
    lab.guide.linux2.route("10.10.1.0/24", "dev tun0").unwrap();
    let both = [(&lab.one, &lab.guide.linux1), (&lab.two, &lab.guide.linux2)];
    for (_, host) in both {
        host.forwarding(true).unwrap();
    }
    let seen = || {
        let at = [&lab.guide.lan1, &lab.guide.lan2].map(|host| Capture::start(host, "eth0").unwrap());
        let to = SocketAddr::new(lan2.into(), 0);
        let report =
            transfer(&lab.guide.lan1, &lab.guide.lan2, to, 1 << 20, Duration::from_secs(30)).unwrap();
        assert!(report.intact(), "{lan1} to {lan2}: {report:?}");
        at.map(|capture| announced(capture)[0])
    };
    // The daemons see within seconds that the hosts forward; no host on a LAN sees more than fits then.
    poll_until(SOON, "both ways clamped", || (seen() == [1_436, 1_436]).then_some(())).unwrap();
    for (node, _) in both {
        node.words("tunnel change tun0 mss 1200").ok();
    }
    assert_eq!(seen(), [1_200, 1_200]);
    for (node, _) in both {
        node.words("tunnel change tun0 mss off").ok();
    }
    // What they learned of the path before both ways were clamped, they would announce as well.
    for host in [&lab.guide.lan1, &lab.guide.lan2] {
        host.sysctl("ipv4/route/flush", "1").unwrap();
    }
    assert_eq!(seen(), [1_460, 1_460], "as the hosts on the LANs say it");
}
