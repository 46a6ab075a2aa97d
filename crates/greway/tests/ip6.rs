//! GRE over IPv6 (`mode ip6gre`, `mode ip6gretap`; RFC 7676) between two greways: both families inside, what the wire
//! says, sizes, and which addresses may be sent from and to.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/pair.rs"]
mod pair;
mod support;

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use greway_linux::MacAddr;
use greway_netlink::nftables::{Change, Family, Hook, Nftables, TableId, accept_only};
use greway_testbed::build::{self, ethernet};
use greway_testbed::{
    Capture, CapturedPacket, Host, LinkOptions, PingOptions, PingReport, inject, ping, poll_until, privilege,
    require,
};
use greway_wire::gre::GreHeader;
use greway_wire::ipv6::Ipv6Header;
use pair::{INNER, Pair, intact, mac};
use support::{GREWAY, Node, SOON, in_vain};

/// The outer addresses of left and right.
const OUTER: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0x47, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0x47, 0, 0, 0, 0, 0, 2)];
const MIB: u64 = 1 << 20;
const IPV6: u16 = 0x86dd;
const GRE: u8 = 47;
const FRAGMENT: u8 = 44;
const OPTIONS: u8 = 60;
/// A GRE header with no field but the protocol type, IPv4.
const PLAIN: GreHeader =
    GreHeader { protocol_type: 0x0800, checksum: None, key: None, sequence_number: None };

/// Two hosts on an IPv6 cable, with daemons and without a tunnel.
fn bare(cable: &LinkOptions) -> Pair {
    let pair = Pair::bare(cable);
    for (host, address) in [(&pair.left, OUTER[0]), (&pair.right, OUTER[1])] {
        host.sysctl("ipv6/conf/wan0/disable_ipv6", "0").unwrap();
        host.address("wan0", &format!("{address}/64")).unwrap();
    }
    pair
}

/// Adds a tunnel on both ends.
fn add(pair: &Pair, name: &str, words: &str) {
    for (node, here, there) in [(&pair.nodes[0], 0, 1), (&pair.nodes[1], 1, 0)] {
        node.words(&format!("tunnel add {name} local {} remote {} {words}", OUTER[here], OUTER[there])).ok();
    }
}

/// Gives both ends of tun0 inner addresses of both families.
fn inner_addresses(pair: &Pair) {
    pair.left.address("tun0", "172.16.0.1/30").unwrap();
    pair.right.address("tun0", "172.16.0.2/30").unwrap();
    pair.ipv6();
}

/// Two hosts with tun0 between them.
fn pair_with(cable: &LinkOptions, words: &str) -> Pair {
    let pair = bare(cable);
    add(&pair, "tun0", words);
    inner_addresses(&pair);
    pair
}

fn inner6(end: usize) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, end as u16 + 1).into()
}

/// Pings each end from the other over IPv6; all must be answered, once.
#[track_caller]
fn answers6(pair: &Pair, options: &PingOptions) {
    for (from, to) in [(&pair.left, 1), (&pair.right, 0)] {
        let report = ping(from, inner6(to), options).unwrap();
        assert!(report.complete(), "from {}: {report}", from.name());
    }
}

/// The outer IPv6 header of a packet that carries GRE.
fn outer(packet: &CapturedPacket) -> Option<Ipv6Header> {
    packet.gre()?;
    Ipv6Header::parse(packet.payload()).ok()
}

fn of(size: usize) -> PingOptions {
    PingOptions { size, ..PingOptions::default() }
}

#[track_caller]
fn no_drops(pair: &Pair, what: &str) {
    pair.none_dropped(what);
}

#[test]
fn t6_03_cf06_every_kind_carries_both_families() {
    require!(privilege::check());
    for (words, mtu, first) in [
        ("mode ip6gre", 1448, OPTIONS),
        ("mode ip6gre encaplimit none key 42 csum seq", 1444, GRE),
        ("mode ip6gre encaplimit 9 underlay raw csum", 1444, OPTIONS),
        ("mode ip6gretap", 1434, OPTIONS),
        ("mode ip6gretap encaplimit none underlay raw key 42", 1438, GRE),
    ] {
        let pair = bare(&LinkOptions::default());
        add(&pair, "tun0", words);
        // What a neighbour solicitation is carried in counts too.
        let wire = Capture::start(&pair.left, "wan0").unwrap();
        inner_addresses(&pair);
        assert_eq!(pair.nodes[0].link("tun0").unwrap().mtu, mtu, "{words}");
        pair.answers(&PingOptions::default());
        answers6(&pair, &PingOptions::default());
        pair.answers(&of(5_000));
        answers6(&pair, &of(5_000));
        pair.answers(&PingOptions { size: mtu as usize - 28, df: true, ..PingOptions::default() });
        pair.bulk(2 * MIB, words);
        intact(&pair.right, &pair.left, inner6(0), 2 * MIB, words);
        no_drops(&pair, words);
        let seen = wire.stop();
        let carried = seen.iter().filter(|packet| packet.gre().is_some()).collect::<Vec<_>>();
        assert!(carried.len() > 100, "{words}: {} packets", carried.len());
        assert!(carried.iter().all(|packet| packet.protocol() == Some(first)), "{words}");
        let limit = if words.contains("encaplimit 9") { 9 } else { 4 };
        let option = [GRE, 0, 4, 1, limit, 1, 1, 0];
        let right = |packet: &&CapturedPacket| first == GRE || packet.payload()[40..48] == option;
        assert!(carried.iter().all(right), "{words}");
        let asked = if words.contains("raw") { "raw" } else { "packet" };
        pair.wait_for_underlay(1, asked);
    }
}

#[test]
fn t6_05_the_outer_header_is_what_was_asked_for() {
    require!(privilege::check());
    let pair = pair_with(&LinkOptions::default(), "mode ip6gre");
    let wire = Capture::start(&pair.left, "wan0").unwrap();
    let headers = |options: &PingOptions| {
        wire.clear();
        pair.answers(options);
        answers6(&pair, options);
        // An echo may be answered before the capture has been read.
        let mut sent = Vec::new();
        poll_until(SOON, "both echoes on the cable", || {
            sent.extend(wire.take().iter().filter(|packet| packet.outgoing).filter_map(outer));
            (sent.len() >= 2).then_some(())
        })
        .unwrap();
        sent
    };
    // Nothing of the payload's ECN or TTL, and a label of the host's own making: one by a socket, and by a program one
    // for each flow inside, as with the kernel's own tunnels.
    let plain = headers(&PingOptions { tos: 0xb9, ttl: Some(9), ..PingOptions::default() });
    assert!(plain.iter().all(|header| (header.traffic_class, header.hop_limit) == (0, 64)), "{plain:?}");
    assert!(plain.iter().all(|header| header.flow_label != 0), "{plain:?}");
    if !pair.is_on_fast_path() {
        assert!(plain.iter().all(|header| header.flow_label == plain[0].flow_label), "{plain:?}");
    }
    pair.change("hoplimit 33 tclass 0xb8 flowlabel 0x12345");
    let fixed = headers(&PingOptions { tos: 0x02, ..PingOptions::default() });
    let all = |header: &Ipv6Header| (header.traffic_class, header.hop_limit, header.flow_label);
    assert!(fixed.iter().all(|header| all(header) == (0xb8, 33, 0x1_2345)), "{fixed:?}");
    pair.change("hoplimit inherit tclass inherit flowlabel inherit");
    let copied = headers(&PingOptions { tos: 0x4a, ttl: Some(77), ..PingOptions::default() });
    assert!(copied.iter().all(|header| header.traffic_class == 0x4a), "{copied:?}");
    // Requests and answers.
    assert!(copied.iter().all(|header| [77, 64].contains(&header.hop_limit)), "{copied:?}");
    assert!(copied.iter().filter(|header| header.hop_limit == 77).count() >= 2, "{copied:?}");
    no_drops(&pair, "outer header");
}

#[test]
fn t6_04_what_is_larger_than_the_path_is_told_or_fragmented_outside() {
    require!(privilege::check());
    for way in ["packet", "raw"] {
        let words = format!("mode ip6gre underlay {way} iseq oseq mtu 1444");
        let pair = pair_with(&LinkOptions { mtu: 1400, ..LinkOptions::default() }, &words);
        let told = |from: &Host, to: IpAddr, df: bool, code: (u8, u8), mtu: u32| {
            let options = PingOptions { size: mtu as usize - 20, df, count: 1, ..PingOptions::default() };
            let report: PingReport = ping(from, to, &options).unwrap();
            let error = report.errors.first().unwrap_or_else(|| panic!("{way}, {to}, DF {df}: {report}"));
            assert_eq!(((error.icmp_type, error.code), error.mtu), (code, Some(mtu)), "{report}");
        };
        // Even a packet that might be fragmented is told.
        for (from, to) in [(&pair.left, 1), (&pair.right, 0)] {
            told(from, INNER[to].into(), false, (3, 4), 1344);
            told(from, inner6(to), true, (2, 0), 1344);
        }
        // What was told is kept to from then on.
        pair.answers(&of(4_000));
        answers6(&pair, &of(4_000));
        pair.bulk(MIB, &words);
        // No IPv6 packet is asked to be smaller than 1280: what the path does not take is in fragments.
        for host in [&pair.left, &pair.right] {
            host.change("wan0", &greway_netlink::LinkChange { mtu: Some(1280), ..Default::default() })
                .unwrap();
        }
        let wire = Capture::start(&pair.left, "wan0").unwrap();
        poll_until(SOON, "answers in fragments", || {
            let report = ping(&pair.left, inner6(1), &of(1_232)).unwrap();
            report.complete().then_some(())
        })
        .unwrap();
        answers6(&pair, &of(1_232));
        answers6(&pair, &of(5_000));
        // Behind the encapsulation limit, as Linux puts them.
        let is_fragment = |packet: &CapturedPacket| {
            packet.ethertype() == IPV6 && packet.payload()[6] == OPTIONS && packet.payload()[40] == FRAGMENT
        };
        assert!(wire.count(|packet| !packet.outgoing && is_fragment(packet)) > 4, "{way}");
        intact(&pair.left, &pair.right, inner6(1), MIB, way);
        let drops = pair.status(1)["drops"].to_string();
        assert!(!drops.contains("sequence") && !drops.contains("outer"), "{way}: {drops}");
    }
}

#[test]
fn t14_fragments_come_in_any_order_and_a_missing_one_is_counted_for_nobody() {
    require!(privilege::check());
    let pair = pair_with(&LinkOptions::default(), "mode ip6gre underlay packet");
    pair.answers(&PingOptions::default());
    let echo = build::echo_request(7, 1, &[0x5a; 64]);
    let inside = build::ipv4(build::ipv4_header(INNER[0], INNER[1], build::ICMP), &echo);
    let gre = build::gre(PLAIN, &inside);
    let piece = |at: usize, end: usize, id: u8| {
        let more = u16::from(end < gre.len());
        let word = (at as u16 | more).to_be_bytes();
        let mut payload = vec![GRE, 0, word[0], word[1], 0, 0, 0, id];
        payload.extend_from_slice(&gre[at..end]);
        let packet = build::ipv6(build::ipv6_header(OUTER[0], OUTER[1], FRAGMENT), &payload);
        ethernet(mac(&pair.right, "wan0"), mac(&pair.left, "wan0"), IPV6, &packet)
    };
    let answered = Capture::start(&pair.left, "tun0").unwrap();
    for frame in [piece(48, gre.len(), 1), piece(0, 48, 2), piece(0, 24, 1), piece(24, 48, 1)] {
        inject(&pair.left, "wan0", &frame).unwrap();
    }
    let reply = |packet: &CapturedPacket| packet.payload().ends_with(&[0x5a; 64]);
    answered.wait_for(SOON, "the answer", reply).unwrap();
    pair.answers(&PingOptions::default());
    assert_eq!(answered.count(reply), 1, "once");
    no_drops(&pair, "fragments");
}

#[test]
fn t3_what_the_ip_stack_would_not_take_is_not_taken() {
    require!(privilege::check());
    // Cut packets are dropped before the raw socket, which counts nothing then.
    let pair = pair_with(&LinkOptions::default(), "mode ip6gre underlay packet");
    pair.answers(&PingOptions::default());
    let before = pair.status(1)["counters"]["received_packets"].as_u64().unwrap();
    let (to, from) = (mac(&pair.right, "wan0"), mac(&pair.left, "wan0"));
    let inside = build::ipv4(build::ipv4_header(INNER[0], INNER[1], build::UDP), &[0; 16]);
    let gre = build::gre(PLAIN, &inside);
    let packet = |destination| build::ipv6(build::ipv6_header(OUTER[0], destination, GRE), &gre);
    let stranger = MacAddr::new([2, 0, 0, 0, 0, 0x99]);
    let other_host = Ipv6Addr::new(0xfd00, 0x47, 0, 0, 0, 0, 0, 9);
    // Another machine's frame, another host's packet, one that is cut.
    inject(&pair.left, "wan0", &ethernet(stranger, from, IPV6, &packet(OUTER[1]))).unwrap();
    inject(&pair.left, "wan0", &ethernet(to, from, IPV6, &packet(other_host))).unwrap();
    let whole = packet(OUTER[1]);
    inject(&pair.left, "wan0", &ethernet(to, from, IPV6, &whole[..whole.len() - 8])).unwrap();
    pair.wait_for_drops(1, "outer-truncated", 1);
    inject(&pair.left, "wan0", &ethernet(to, from, IPV6, &whole)).unwrap();
    poll_until(SOON, "the packet that is right", || {
        (pair.status(1)["counters"]["received_packets"].as_u64().unwrap() > before).then_some(())
    })
    .unwrap();
    assert_eq!(pair.status(1)["counters"]["received_packets"].as_u64().unwrap(), before + 1);
}

#[test]
fn a_train_that_gro_merged_stays_one_packet() {
    require!(privilege::check());
    for words in ["mode ip6gre", "mode ip6gretap encaplimit none", "mode ip6gre underlay raw encaplimit none"]
    {
        let pair = pair_with(&LinkOptions { gro: true, ..LinkOptions::default() }, words);
        if let Err(reason) = pair.hold_for_gro() {
            panic!("{words}: {reason}");
        }
        let device = Capture::start(&pair.right, "tun0").unwrap();
        intact(&pair.left, &pair.right, INNER[1].into(), 4 * MIB, words);
        intact(&pair.left, &pair.right, inner6(1), 4 * MIB, words);
        let merged = device.count(|packet| !packet.outgoing && packet.frame.len() > 2_500);
        assert!(merged > 10, "{words}: {merged} merged packets");
        no_drops(&pair, words);
    }
}

#[test]
fn a_link_local_remote_is_of_its_device() {
    require!(privilege::check());
    for way in ["packet", "raw"] {
        let pair = bare(&LinkOptions::default());
        let (near, far) = ("fe80::47:1", "fe80::47:2");
        for (host, node, here, there) in
            [(&pair.left, &pair.nodes[0], near, far), (&pair.right, &pair.nodes[1], far, near)]
        {
            host.address("wan0", &format!("{here}/64")).unwrap();
            node.words(&format!(
                "tunnel add tun0 mode ip6gre local {here} remote {there} dev wan0 underlay {way}"
            ))
            .ok();
        }
        inner_addresses(&pair);
        assert_eq!(pair.nodes[0].link("tun0").unwrap().mtu, 1448);
        pair.answers(&of(3_000));
        answers6(&pair, &PingOptions::default());
        no_drops(&pair, way);
    }
}

#[test]
fn t6_01_only_from_an_address_that_is_here_and_not_to_ourselves() {
    require!(privilege::check());
    let pair = bare(&LinkOptions::default());
    let late = Ipv6Addr::new(0xfd00, 0x47, 0, 0, 0, 0, 0, 0x11);
    let [left, right] = &pair.nodes;
    left.words(&format!("tunnel add tun0 mode ip6gre local {late} remote {}", OUTER[1]))
        .ok()
        .remarks(&["is not an address of this host yet"]);
    right.words(&format!("tunnel add tun0 mode ip6gre local {} remote {late}", OUTER[1])).ok();
    inner_addresses(&pair);
    assert_eq!(pair.ping(&in_vain()).received(), 0);
    assert!(pair.drops(0, "local-not-here") > 0, "{}", pair.status(0));
    left.words("status").ok().says(&["local-not-here", "is not an address of this host"]);
    // It comes, and its duplicates are looked for first.
    pair.left.sysctl("ipv6/conf/wan0/accept_dad", "1").unwrap();
    pair.left.address("wan0", &format!("{late}/64")).unwrap();
    poll_until(SOON, "answers", || pair.ping(&in_vain()).complete().then_some(())).unwrap();

    left.words(&format!("tunnel change tun0 remote {}", OUTER[0])).ok().remarks(&["this host's own address"]);
    let before = pair.drops(0, "remote-is-here");
    assert_eq!(pair.ping(&in_vain()).received(), 0);
    assert!(pair.drops(0, "remote-is-here") > before);
    left.words("tunnel change tun0 allow-localremote").ok();
    let before = pair.drops(0, "remote-is-here");
    assert_eq!(pair.ping(&in_vain()).received(), 0, "nobody is there");
    assert_eq!(pair.drops(0, "remote-is-here"), before);
    left.words(&format!("tunnel change tun0 noallow-localremote remote {}", OUTER[1])).ok();
    pair.answers(&PingOptions::default());
}

#[test]
fn without_a_local_address_the_route_chooses_one() {
    require!(privilege::check());
    let pair = bare(&LinkOptions::default());
    for (node, remote) in [(&pair.nodes[0], OUTER[1]), (&pair.nodes[1], OUTER[0])] {
        node.words(&format!("tunnel add tun0 mode ip6gre remote {remote}")).ok();
    }
    inner_addresses(&pair);
    pair.answers(&of(3_000));
    let status = pair.nodes[0].words("status").ok().stdout;
    assert!(!status.contains("is not an address"), "{status}");
    no_drops(&pair, "no local");
}

#[test]
fn rules_of_ipv6_decide_how_a_tunnel_over_ipv6_receives() {
    require!(privilege::check());
    let pair = pair_with(&LinkOptions::default(), "mode ip6gre");
    pair.answers(&PingOptions::default());
    let nftables = pair.right.run(Nftables::open).unwrap().unwrap();
    let table = |family: Family| TableId::new(family, "strict");
    // Rules of one family, made of the same rules of both.
    let of_family = |family: Family, protocols: &[u8]| {
        let changes =
            accept_only("strict", &[Hook::Input], protocols).into_iter().map(|change| match change {
                Change::ReplaceTable { comment, .. } => {
                    Change::ReplaceTable { table: table(family), comment }
                }
                Change::AddBaseChain { chain, .. } => Change::AddBaseChain { table: table(family), chain },
                Change::AddRule { chain, rule, .. } => Change::AddRule { table: table(family), chain, rule },
                other => other,
            });
        nftables.apply(&changes.collect::<Vec<_>>()).unwrap();
    };
    let icmpv6 = 58;
    of_family(Family::Ip6, &[icmpv6]);
    assert!(pair.wait_for_underlay(1, "raw").contains("strict"));
    assert_eq!(pair.ping(&in_vain()).received(), 0, "the rules hold");
    of_family(Family::Ip6, &[icmpv6, GRE]);
    poll_until(SOON, "answers", || pair.ping(&in_vain()).complete().then_some(())).unwrap();
    assert!(nftables.delete_table(&table(Family::Ip6)).unwrap());
    pair.wait_for_underlay(1, "packet");
    // What is said of IPv4 is about the payload only. A tunnel over IPv4 minds it, beside one that does not.
    pair.add("tun4", "");
    of_family(Family::Ip, &[build::ICMP, build::UDP, GRE]);
    let of_tun4 = || pair::tunnel(&pair.nodes[1].words("status --json --no-echo").ok().stdout, "tun4");
    poll_until(SOON, "tun4 to change", || {
        of_tun4()["datapath"]["why"].as_str().unwrap().contains("strict").then_some(())
    })
    .unwrap();
    pair.wait_for_underlay(1, "packet");
    pair.answers(&of(5_000));
}

#[test]
fn two_tunnels_that_receive_differently_get_each_packet_once() {
    require!(privilege::check());
    let pair = pair_with(&LinkOptions::default(), "mode ip6gre key 1 seq underlay packet");
    add(&pair, "tun1", "mode ip6gre key 2 seq underlay raw");
    pair.left.address("tun1", "172.16.1.1/30").unwrap();
    pair.right.address("tun1", "172.16.1.2/30").unwrap();
    for host in [&pair.left, &pair.right] {
        host.change("wan0", &greway_netlink::LinkChange { mtu: Some(1280), ..Default::default() }).unwrap();
    }
    for address in ["172.16.0.2", "172.16.1.2", "fd00::2"] {
        let to = address.parse().unwrap();
        poll_until(SOON, address, || ping(&pair.left, to, &of(1_232)).unwrap().complete().then_some(()))
            .unwrap();
        assert!(ping(&pair.left, to, &of(3_000)).unwrap().complete(), "{address}");
    }
    let text = pair.nodes[1].words("status --json --no-echo").ok().stdout;
    for name in ["tun0", "tun1"] {
        let drops = pair::tunnel(&text, name)["drops"].to_string();
        assert!(!drops.contains("sequence") && !drops.contains("outer-fragment"), "{name}: {drops}");
    }
}

/// `sh -c SCRIPT` on a node where `ip` is greway.
fn shell(node: &Node, script: &str) -> support::Output {
    let bin = node.folder().join("bin");
    fs::create_dir_all(&bin).unwrap();
    if !bin.join("ip").exists() {
        symlink(GREWAY, bin.join("ip")).unwrap();
    }
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).env_clear().stdin(Stdio::null()).current_dir(node.folder());
    command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()));
    command.env("GREWAY_BACKEND", "greway").env("GREWAY_SOCKET", node.socket());
    command.env("GREWAY_CONFIG", node.folder().join("greway.toml"));
    node.execute(command)
}

#[test]
fn every_surface_brings_a_tunnel_over_ipv6_up() {
    require!(privilege::check());
    let pair = bare(&LinkOptions::default());
    let up = |pair: &Pair| {
        inner_addresses(pair);
        pair.answers(&PingOptions::default());
        answers6(pair, &of(4_000));
        no_drops(pair, "surface");
    };
    let down = |pair: &Pair| {
        for node in &pair.nodes {
            node.words("tunnel del tun0").ok();
        }
    };
    let both = |work: &dyn Fn(&Node, &Host, Ipv6Addr, Ipv6Addr)| {
        work(&pair.nodes[0], &pair.left, OUTER[0], OUTER[1]);
        work(&pair.nodes[1], &pair.right, OUTER[1], OUTER[0]);
    };
    both(&|node, _, local, remote| {
        let words = format!("mode ip6gre local {local} remote {remote} key 5 encaplimit none");
        shell(node, &format!("ip -6 tunnel add tun0 {words} && ip link set tun0 up")).ok();
    });
    shell(&pair.nodes[0], "ip -6 tunnel show tun0").ok().says(&["gre/ipv6", "key 5", "encaplimit none"]);
    up(&pair);
    down(&pair);
    for kind in ["ip6gre", "ip6gretap"] {
        both(&|node, _, local, remote| {
            let words = format!("type {kind} local {local} remote {remote} hoplimit 70 tclass 0x20");
            shell(node, &format!("ip link add tun0 {words} && ip link set tun0 up")).ok();
        });
        up(&pair);
        down(&pair);
    }
    both(&|node, _, local, remote| {
        let text = format!(
            "mode = \"ip6gre\"\nlocal = \"{local}\"\nremote = \"{remote}\"\nencaplimit = \"none\"\nseq = true\n"
        );
        let file = node.file("tun0.toml", &text);
        node.greway(&["up", &file]).ok();
    });
    up(&pair);
    down(&pair);
    both(&|node, _, local, remote| {
        let text = format!(
            "DEVICE=tun0\nTYPE=GRE6\nONBOOT=no\nMY_OUTER_IPADDR={local}\nPEER_OUTER_IPADDR={remote}\nKEY=77\n"
        );
        let file = node.file("ifcfg-tun0", &text);
        node.greway(&["up", &file]).ok();
    });
    up(&pair);
    down(&pair);
    both(&|node, _, local, remote| {
        let text = format!(
            "[connection]\nid=tun0\nuuid=6f1b6e1e-27b1-4a4b-9d0a-47474747474{}\ntype=ip-tunnel\n\
             interface-name=tun0\n\n[ip-tunnel]\nmode=8\nlocal={local}\nremote={remote}\nencapsulation-limit=3\n\n\
             [ipv4]\nmethod=disabled\n\n[ipv6]\nmethod=disabled\n",
            local.segments()[7]
        );
        let file = node.file("tun0.nmconnection", &text);
        node.greway(&["import", "nm", &file, "--output", &format!("{file}.toml"), "--up"]).ok();
    });
    up(&pair);
}
