//! Many tunnels in one daemon: they come in bulk, one bad one among them, outlive the daemon, carry, and go.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use greway_linux::MacAddr;
use greway_netlink::Address;
use greway_netlink::nftables::{Family, Nftables, Table, TableId};
use greway_testbed::{
    Capture, CapturedPacket, PingOptions, build, guide, inject, ping, poll_until, privilege, require,
};
use support::{Daemon, Lab, Node, SOON, goes_with_the_daemon, two_hosts};

/// More than have sockets of their own, and more than are attached to by links.
const TUNNELS: usize = 150;
/// Its checksums are userspace's, and it comes late: its packets come out of sockets that it shares.
const SHARES: usize = 140;
/// The same, with sockets of its own.
const OWN: usize = 3;
/// Its route is another tunnel's already.
const BAD: usize = 77;

/// A directory of files, one a tunnel. Every fifth is userspace's alone.
fn directory(node: &Node) -> String {
    let [local, remote] = guide::OUTER;
    for number in 0..TUNNELS {
        let own = match number {
            SHARES | OWN => "csum = true\n",
            _ if number % 5 == 0 => "datapath = \"userspace\"\n",
            _ => "",
        };
        let routes = if matches!(number, BAD | 12) { "routes = [\"10.77.0.0/16\"]\n" } else { "" };
        let text = format!(
            "local = \"{local}\"\nremote = \"{remote}\"\nkey = {number}\n{own}\n[inner]\n\
             address = \"10.60.{number}.1\"\npeer = \"10.60.{number}.2/30\"\n{routes}"
        );
        node.file(&format!("many/t{number:03}.toml"), &text);
    }
    format!("{}/", node.folder().join("many").display())
}

/// The other end of two of them.
fn other_ends(lab: &Lab) {
    let [remote, local] = guide::OUTER;
    for number in [OWN, SHARES] {
        lab.two
            .words(&format!("tunnel add t{number:03} local {local} remote {remote} key {number} csum"))
            .ok();
        let address = format!("10.60.{number}.2 peer 10.60.{number}.1/30");
        lab.guide.linux2.address(&format!("t{number:03}"), &address).unwrap();
        lab.guide.linux2.set_up(&format!("t{number:03}")).unwrap();
    }
}

fn assert_carries(lab: &Lab) {
    for number in [OWN, SHARES] {
        let peer = format!("10.60.{number}.2").parse().unwrap();
        let options = PingOptions { count: 20, ..PingOptions::default() };
        let report = ping(&lab.guide.linux1, peer, &options).unwrap();
        assert!(report.complete(), "t{number:03}: {report:?}");
    }
}

/// The names of the tunnels that are there.
fn carried(node: &Node) -> Vec<String> {
    let status = node.status();
    let names = status["tunnels"].as_array().unwrap().iter();
    names.map(|tunnel| tunnel["spec"]["name"].as_str().unwrap().to_owned()).collect()
}

/// All of them down and up again, but for one whose file is wrong; one that cannot be as its file says is as it was.
fn restarts(lab: &Lab, files: &str) {
    const WRONG: usize = 30;
    let index = |number: usize| lab.guide.linux1.index(&format!("t{number:03}")).unwrap();
    let before = [WRONG, BAD, SHARES, OWN].map(index);
    let [wrong, bad] = [WRONG, BAD].map(|number| lab.one.folder().join(format!("many/t{number:03}.toml")));
    let right = [&wrong, &bad].map(|path| fs::read_to_string(path).unwrap());
    fs::write(&wrong, "remote = \"192.0.2.300\"\n").unwrap();
    fs::write(&bad, format!("{}[inner]\nroutes = [\"10.77.0.0/16\"]\n", right[1])).unwrap();
    let told = lab.one.words(&format!("restart {files}"));
    let told = told.refused(&[
        &format!("t{WRONG:03}.toml"),
        "192.0.2.300",
        &format!("t{BAD:03}.toml"),
        "such a route by another way",
        "it is up again as it was before",
        &format!("2 of {TUNNELS} tunnels failed"),
    ]);
    assert_eq!(told.stdout.matches("delete device").count(), TUNNELS - 2, "{told}");
    assert_eq!(told.stdout.matches("create device").count(), TUNNELS - 2, "{told}");
    let after = [WRONG, BAD, SHARES, OWN].map(index);
    assert_eq!(before[0], after[0], "nothing was taken down for a file that is wrong");
    assert!(before.iter().zip(after).skip(1).all(|(before, after)| *before != after), "{before:?} {after:?}");
    assert_eq!(carried(&lab.one).len(), TUNNELS);
    lab.one.words(&format!("tunnel show t{BAD:03}")).ok().says(&["key 7"]);
    assert_carries(lab);
    for (path, text) in [&wrong, &bad].into_iter().zip(right) {
        fs::write(path, text).unwrap();
    }
}

#[test]
fn many_tunnels_come_stay_and_go() {
    require!(privilege::check());
    let lab = two_hosts();
    let before = lab.one.belongings();
    let daemon = lab.one.daemon();
    let _other = lab.two.daemon();
    let files = directory(&lab.one);
    let bad = format!("t{BAD:03}");

    // One of them cannot be had: it is named, and the others are there.
    let told = lab.one.words(&format!("up {files}"));
    let failed = format!("1 of {TUNNELS} tunnels failed");
    let told = told.refused(&[&format!("{bad}.toml"), "such a route by another way", &failed]);
    assert_eq!(told.code, Some(1), "{told}");
    assert_eq!(told.stderr.matches("everything before it was taken back").count(), 1, "{told}");
    let wanted = (0..TUNNELS).filter(|number| *number != BAD).map(|number| format!("t{number:03}"));
    let wanted = wanted.collect::<Vec<_>>();
    assert_eq!(carried(&lab.one), wanted);
    assert!(lab.one.link(&bad).is_none() && lab.one.link(&format!("gw-{bad}")).is_none());
    assert!(!lab.one.state_files().contains(&format!("{bad}.json")));
    lab.one.words(&format!("tunnel show {}", wanted[9])).ok().says(&["key 9"]);
    other_ends(&lab);
    assert_carries(&lab);

    // Once more changes nothing, and the exit code is that of the bad one.
    let again = lab.one.words(&format!("up {files}")).refused(&[&bad]);
    assert_eq!(again.stdout.matches("nothing to do").count(), TUNNELS - 1, "{again}");
    // Mended, it comes alone.
    lab.one.file(&format!("many/{bad}.toml"), "remote = \"192.0.2.7\"\nkey = 7\n");
    let mended = lab.one.words(&format!("up {files}")).ok();
    assert!(mended.stdout.contains(&format!("create device {bad}")), "{mended}");
    assert_eq!(carried(&lab.one).len(), TUNNELS);

    restarts(&lab, &files);

    // The next daemon has all of them, also where the last one was killed and the kernel is still closing its sockets.
    daemon.terminate();
    let daemon = lab.one.daemon();
    assert_eq!(carried(&lab.one).len(), TUNNELS);
    assert_carries(&lab);
    daemon.kill();
    let _daemon = lab.one.daemon();
    assert_eq!(carried(&lab.one).len(), TUNNELS);
    assert_carries(&lab);

    let down = lab.one.words(&format!("down {files}")).ok();
    assert_eq!(down.stdout.matches("delete device").count(), TUNNELS, "{down}");
    assert_eq!(lab.one.belongings(), before);
    let down = lab.one.words(&format!("down {files}")).ok();
    assert_eq!(down.stdout.matches("is not up").count(), TUNNELS, "{down}");
    // Nobody holds sockets for what is gone.
    let packet = || lab.one.run(|| fs::read_to_string("/proc/thread-self/net/packet").unwrap());
    poll_until(SOON, "the end of the sockets", || (packet().lines().count() == 1).then_some(())).unwrap();
}

/// More than have packet sockets and seals of their own, without a program.
const PLAIN: usize = 530;
/// One of the first, and one of those that share socket and seal.
const FIRST: usize = 2;
const LATE: usize = 525;

/// What is sent to all hosts through a late tunnel arrives at its far end, and this host takes none of it in.
fn nothing_comes_in_again(lab: &Lab, mark: u16) {
    let (one, two, name) = (&lab.guide.linux1, &lab.guide.linux2, format!("t{LATE:03}"));
    one.sysctl("ipv4/icmp_echo_ignore_broadcasts", "0").unwrap();
    let echoes = || {
        let table = lab.one.run(|| fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
        let rows = table.lines().filter(|line| line.starts_with("Icmp:")).collect::<Vec<_>>();
        let column = rows[0].split_whitespace().position(|name| name == "InEchos").unwrap();
        rows[1].split_whitespace().nth(column).unwrap().parse::<u64>().unwrap()
    };
    let table = TableId::new(Family::Inet, "greway-what-leaves-many-tunnels");
    let dropped = || {
        let counters = lab.one.run(|| Nftables::open().unwrap().rule_counters(&table, "prerouting").unwrap());
        counters.iter().map(|counter| counter.packets).sum::<u64>()
    };
    let before = (echoes(), dropped());
    let (stranger, all_hosts) = (Ipv4Addr::new(10, 77, 0, 5), Ipv4Addr::new(224, 0, 0, 1));
    let echo = build::echo_request(0x4713, mark, b"to all");
    let packet = build::ipv4(build::ipv4_header(stranger, all_hosts, build::ICMP), &echo);
    let comes_out = Capture::start(two, &name).unwrap();
    let source = MacAddr::new(one.netlink().unwrap().link_by_name(&name).unwrap().unwrap().address.unwrap());
    inject(one, &name, &build::ethernet(MacAddr::new([0xff; 6]), source, 0x0800, &packet)).unwrap();
    comes_out.wait_for(SOON, "the packet at the far end", |out| out.payload() == packet).unwrap();
    poll_until(SOON, "the seal", || (dropped() == before.1 + 1).then_some(())).unwrap();
    assert_eq!(echoes(), before.0, "taken by the host that sent it");
}

/// Of many tunnels the one that sends much leaves past the IP stack, and as long as it does.
fn who_sends_much_has_the_short_way(lab: &Lab, [near, far]: [IpAddr; 2]) {
    let exit = |number: usize| {
        let status = lab.one.words(&format!("status t{number:03} --json --no-echo")).ok().stdout;
        let status = serde_json::from_str::<serde_json::Value>(&status).unwrap();
        status["tunnels"][0]["datapath"]["exit"].as_str().map(str::to_owned)
    };
    let host = &lab.guide.linux1;
    let socket = host.run(|| UdpSocket::bind(SocketAddr::new(near, 0))).unwrap().unwrap();
    let sends = || {
        for _ in 0..1_000 {
            // What comes back by ICMP may be told here.
            let _ = socket.send_to(&[0; 32], (far, 9));
        }
        exit(LATE)
    };
    assert_eq!(exit(LATE), None);
    poll_until(SOON, "a short way", sends).unwrap();
    assert_eq!(exit(FIRST), None);
    poll_until(SOON, "the long one again", || exit(LATE).is_none().then_some(())).unwrap();
}

/// What came out of one of two tunnels that share a socket first, and a lot of it, does not all leave before what came out of
/// the other.
fn a_flood_makes_nobody_wait_who_shares_its_socket(
    lab: &Lab,
    daemon: &Daemon,
    near: [IpAddr; 2],
    far: [IpAddr; 2],
) {
    /// More than are carried before it is seen how much waits, and not so many as one line holds.
    const FLOOD: usize = 1_500;
    let host = &lab.guide.linux1;
    let bind = |near: IpAddr| host.run(|| UdpSocket::bind(SocketAddr::new(near, 0))).unwrap().unwrap();
    let [flood, other] = near.map(bind);
    let leaves = Capture::start(host, "wan0").unwrap();
    let halted = daemon.halt();
    for _ in 0..FLOOD {
        flood.send_to(&[0xf1; 64], (far[0], 9)).unwrap();
    }
    other.send_to(&[0x07; 64], (far[1], 9)).unwrap();
    drop(halted);
    let is_ours = |packet: &CapturedPacket, byte: u8| {
        packet.outgoing && packet.gre().is_some_and(|gre| gre.ends_with(&[byte; 64]))
    };
    let all = leaves
        .wait_for_count(SOON, "both", FLOOD + 1, |packet| is_ours(packet, 0xf1) || is_ours(packet, 0x07));
    let place = all.unwrap().iter().position(|packet| is_ours(packet, 0x07)).unwrap();
    assert!(place < FLOOD / 2, "after {place} of {FLOOD}");
}

#[test]
fn many_userspace_tunnels_share_a_socket_and_a_seal() {
    require!(privilege::check());
    let lab = two_hosts();
    let before = lab.one.belongings();
    let daemon = lab.one.daemon();
    let _other = lab.two.daemon();
    let [local, remote] = guide::OUTER;
    let inside = |number: usize, end: usize| format!("10.{}.{}.{end}", 60 + number / 256, number % 256);
    for number in 0..PLAIN {
        let text = format!(
            "local = \"{local}\"\nremote = \"{remote}\"\nkey = {number}\ndatapath = \"userspace\"\n\n[inner]\n\
             address = \"{}\"\npeer = \"{}/30\"\n",
            inside(number, 1),
            inside(number, 2)
        );
        lab.one.file(&format!("plain/t{number:03}.toml"), &text);
    }
    let files = format!("{}/", lab.one.folder().join("plain").display());
    for number in [FIRST, LATE] {
        let name = format!("t{number:03}");
        lab.two.words(&format!("tunnel add {name} local {remote} remote {local} key {number}")).ok();
        let address = format!("{} peer {}/30", inside(number, 2), inside(number, 1));
        lab.guide.linux2.address(&name, &address).unwrap();
        lab.guide.linux2.set_up(&name).unwrap();
    }
    let carries = || {
        for number in [FIRST, LATE] {
            let options = PingOptions { count: 20, ..PingOptions::default() };
            let report = ping(&lab.guide.linux1, inside(number, 2).parse().unwrap(), &options).unwrap();
            assert!(report.complete(), "t{number:03}: {report:?}");
            let back = ping(&lab.guide.linux2, inside(number, 1).parse().unwrap(), &options).unwrap();
            assert!(back.complete(), "t{number:03}: {back:?}");
        }
    };
    lab.one.words(&format!("up {files}")).ok();
    carries();
    let packets =
        || lab.one.run(|| fs::read_to_string("/proc/thread-self/net/packet").unwrap()).lines().count();
    assert!(packets() < PLAIN, "{} packet sockets", packets());
    let seals = || {
        let tables = lab.one.run(|| Nftables::open().unwrap().tables().unwrap());
        let is_seal =
            |table: &Table| table.id.name.starts_with("greway-") && !goes_with_the_daemon(&table.id.name);
        let ours = tables.into_iter().filter(is_seal).collect::<Vec<_>>();
        let of_many = ours.iter().filter(|table| table.id.family == Family::Inet).count();
        (ours.len() - of_many, of_many)
    };
    let (own, of_many) = seals();
    assert!(own < PLAIN && of_many == 1, "{own} seals and {of_many}");

    let two = [LATE, LATE - 1].map(|number| [1, 2].map(|end| inside(number, end).parse().unwrap()));
    a_flood_makes_nobody_wait_who_shares_its_socket(
        &lab,
        &daemon,
        two.map(|ends| ends[0]),
        two.map(|ends| ends[1]),
    );
    who_sends_much_has_the_short_way(&lab, [1, 2].map(|end| inside(LATE, end).parse().unwrap()));
    nothing_comes_in_again(&lab, 1);
    // Nothing to do, and nothing is done; what is gone from one device is put back alone.
    let again = lab.one.words(&format!("up {files}")).ok();
    assert_eq!(again.stdout.matches("nothing to do").count(), PLAIN, "{again}");
    let (name, [near, far]) = (format!("t{LATE:03}"), [1, 2].map(|end| inside(LATE, end).parse().unwrap()));
    let gone = Address::with_peer(near, far, 30);
    let netlink = lab.guide.linux1.netlink().unwrap();
    netlink.delete_address(lab.guide.linux1.index(&name).unwrap(), gone).unwrap();
    let mended = lab.one.words(&format!("up {files}")).ok();
    assert_eq!(mended.stdout.matches("nothing to do").count(), PLAIN - 1, "{mended}");
    assert!(mended.stdout.contains(&inside(LATE, 1)), "{mended}");
    carries();

    // What somebody has flushed comes back, and no tunnel takes the seal for a firewall.
    lab.one.run(|| {
        let nftables = Nftables::open().unwrap();
        // But for what nobody else can take away.
        for table in nftables.tables().unwrap().iter().filter(|table| !goes_with_the_daemon(&table.id.name)) {
            nftables.delete_table(&table.id).unwrap();
        }
    });
    poll_until(SOON, "the seals again", || (seals() == (own, of_many)).then_some(())).unwrap();
    let late = lab.one.words(&format!("status t{LATE:03}")).ok();
    assert!(!late.stdout.contains("may filter GRE"), "{late}");

    daemon.kill();
    let _daemon = lab.one.daemon();
    assert_eq!((carried(&lab.one).len(), seals()), (PLAIN, (own, of_many)));
    carries();
    nothing_comes_in_again(&lab, 2);
    // Of what is asked for last little is there any more, and what was put off until then is done all the same.
    let few = (0..PLAIN - 513).map(|number| format!("t{number:03}")).collect::<Vec<_>>();
    lab.one.words(&format!("down {}", few.join(" "))).ok();
    let down = lab.one.words(&format!("down {files}")).ok();
    assert_eq!(down.stdout.matches("is not up").count(), few.len(), "{down}");
    assert_eq!(lab.one.belongings(), before);
    poll_until(SOON, "the end of the sockets", || (packets() == 1).then_some(())).unwrap();
}
