//! Several workers: flows are spread over them, each flow keeps its order, and what is counted over all flows is
//! counted by one.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, UdpSocket};

use greway_testbed::{Capture, CapturedPacket, Host, LinkOptions, PingOptions, privilege, require};
use greway_wire::gre::GreHeader;

use crate::pair::{INNER, OUTER, Pair, inner, udp};

/// What both daemons have in their environment: workers, and nobody else who carries.
const FOUR: &[(&str, &str)] = &[("GREWAY_WORKERS", "4"), ("GREWAY_FAST_PATH", "off")];
/// Each way. That all of them are one worker's happens once in millions.
const FLOWS: usize = 24;
/// Packets of each flow at once: all flows' together are fewer than any queue holds.
const BURST: u64 = 20;

/// Flows, each with numbers.
struct Flows {
    ends: Vec<(UdpSocket, UdpSocket)>,
    next: u64,
}

impl Flows {
    /// [`FLOWS`] each way, through tun0.
    fn both_ways(pair: &Pair) -> Self {
        let addresses = INNER.map(IpAddr::from);
        let mut flows = Self::to_right(pair, addresses);
        let back = (0..FLOWS).map(|_| flow([&pair.right, &pair.left], [addresses[1], addresses[0]]));
        flows.ends.extend(back);
        flows
    }

    /// [`FLOWS`] from left to right, between these addresses.
    fn to_right(pair: &Pair, addresses: [IpAddr; 2]) -> Self {
        Self { ends: (0..FLOWS).map(|_| flow([&pair.left, &pair.right], addresses)).collect(), next: 0 }
    }

    /// Sends so many bursts; every packet of a flow has to come, and in its order.
    #[track_caller]
    fn flow(&mut self, bursts: u64, what: &str) {
        for _ in 0..bursts {
            for number in self.next..self.next + BURST {
                self.ends.iter().for_each(|(from, _)| _ = from.send(&number.to_be_bytes()).unwrap());
            }
            for (flow, (_, to)) in self.ends.iter().enumerate() {
                for due in self.next..self.next + BURST {
                    let mut bytes = [0; 8];
                    let came = to.recv(&mut bytes).map(|_| u64::from_be_bytes(bytes));
                    assert_eq!(came.ok(), Some(due), "{what}, flow {flow}");
                }
            }
            self.next += BURST;
        }
    }
}

/// Both ends of one, where it begins first.
fn flow(hosts: [&Host; 2], addresses: [IpAddr; 2]) -> (UdpSocket, UdpSocket) {
    let [from, to] = [0, 1].map(|end| udp(hosts[end], addresses[end]));
    from.connect(to.local_addr().unwrap()).unwrap();
    (from, to)
}

/// Nanoseconds that each worker of a daemon has run, by its thread's name.
fn run_times(pair: &Pair, node: usize) -> BTreeMap<String, u64> {
    let pid = pair.daemons[node].as_ref().unwrap().pid();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let ran = |thread: fs::DirEntry| {
        let name = fs::read_to_string(thread.path().join("comm")).ok()?.trim().to_owned();
        let times = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let on_processor = times.split(' ').next()?.parse().ok()?;
        name.starts_with("datapath").then_some((name, on_processor))
    };
    threads.filter_map(|thread| ran(thread.unwrap())).collect()
}

/// Workers of left and of right that had something to carry while `work` was done: each of them much, since flows are
/// many. Word of the kernel's wakes the others, too.
fn at_work(pair: &Pair, work: impl FnOnce()) -> [Vec<String>; 2] {
    let before = [0, 1].map(|node| run_times(pair, node));
    work();
    let busy = |node: usize| {
        let mut ran = run_times(pair, node);
        ran.iter_mut().for_each(|(name, time)| *time -= before[node][name]);
        let all = ran.values().sum::<u64>();
        ran.into_iter().filter(|(_, time)| *time > all / 50).map(|(name, _)| name).collect()
    };
    [0, 1].map(busy)
}

#[test]
fn flows_are_spread_over_the_workers_and_each_keeps_its_order() {
    require!(privilege::check());
    for (kind, underlay) in
        [("gre", "packet"), ("gre", "raw"), ("gretap", "packet"), ("ip6gre", "packet"), ("ip6gre", "raw")]
    {
        let what = format!("{kind} {underlay}");
        let pair = Pair::bare_with(&LinkOptions::default(), FOUR);
        let mut ends = OUTER.map(|address| address.to_string());
        if kind.starts_with("ip6") {
            ends = ["fd00:47::1".to_owned(), "fd00:47::2".to_owned()];
            for (host, address) in [&pair.left, &pair.right].into_iter().zip(&ends) {
                host.sysctl("ipv6/conf/wan0/disable_ipv6", "0").unwrap();
                host.address("wan0", &format!("{address}/64")).unwrap();
            }
        }
        for (here, there) in [(0, 1), (1, 0)] {
            let (local, remote) = (&ends[here], &ends[there]);
            let words = format!(
                "tunnel add tun0 mode {kind} local {local} remote {remote} key 7 underlay {underlay}"
            );
            pair.nodes[here].words(&words).ok();
        }
        pair.left.address("tun0", &format!("{}/30", inner(0))).unwrap();
        pair.right.address("tun0", &format!("{}/30", inner(1))).unwrap();
        pair.answers(&PingOptions::default());
        let mut flows = Flows::both_ways(&pair);
        let workers = at_work(&pair, || flows.flow(15, &what));
        let all = ["datapath", "datapath-1", "datapath-2", "datapath-3"];
        assert_eq!(workers, [all, all], "{what}");
        let sent = 2 * FLOWS as u64 * flows.next;
        for node in [0, 1] {
            let status = pair.status(node);
            let counted = ["sent_packets", "received_packets"].map(|what| &status["counters"][what]);
            // And some pings.
            let counted = counted.map(|count| count.as_u64().unwrap());
            assert!(
                counted.iter().all(|count| (sent / 2..sent / 2 + 50).contains(count)),
                "{what}: {status}"
            );
            assert_eq!(pair.nodes[node].status()["daemon"]["workers"], 4);
        }
        let text = pair.nodes[0].words("status tun0 --no-echo").ok().stdout;
        assert!(text.contains("userspace by 4 workers, veth device"), "{text}");
    }
}

#[test]
fn what_is_numbered_over_all_flows_is_one_workers() {
    require!(privilege::check());
    let pair = Pair::bare_with(&LinkOptions::default(), FOUR);
    pair.lay_tun0("");
    let mut flows = Flows::both_ways(&pair);
    flows.flow(2, "without numbers");
    pair.change("seq");
    let cable = Capture::start(&pair.right, "wan0").unwrap();
    let workers = at_work(&pair, || flows.flow(10, "with numbers"));
    assert_eq!(workers, [["datapath"]; 2], "both ways");
    let number = |packet: &CapturedPacket| GreHeader::parse(packet.gre()?).ok()?.0.sequence_number;
    let seen = cable.stop();
    for outgoing in [false, true] {
        let seen = seen.iter().filter(|packet| packet.outgoing == outgoing).filter_map(number);
        let seen = seen.collect::<Vec<_>>();
        assert_eq!(seen.len() as u64, FLOWS as u64 * 10 * BURST);
        assert!(seen.windows(2).all(|two| two[1] == two[0] + 1), "{outgoing}: each number once, in order");
    }
    for node in [0, 1] {
        assert_eq!(pair.drops(node, "sequence-late") + pair.drops(node, "sequence-missing"), 0);
    }
    pair.change("noseq");
    let workers = at_work(&pair, || flows.flow(5, "without numbers again"));
    assert_eq!(workers.map(|busy| busy.len()), [4, 4]);
}

#[test]
fn what_programs_leave_is_divided_again_when_it_has_no_numbers_any_more() {
    require!(privilege::check());
    let pair = Pair::bare_with(&LinkOptions::default(), &FOUR[..1]);
    pair.lay_tun0("");
    for words in ["seq", "underlay raw", "noseq"] {
        pair.change(words);
        Flows::both_ways(&pair).flow(2, words);
    }
    let workers = at_work(&pair, || Flows::both_ways(&pair).flow(5, "without numbers again"));
    assert_eq!(workers.map(|busy| busy.len()), [4, 4]);
}

#[test]
fn tunnels_that_share_their_sockets_are_divided_too_unless_one_is_numbered() {
    require!(privilege::check());
    let four = [("GREWAY_WORKERS", "4"), ("GREWAY_FAST_PATH", "on")];
    let pair = Pair::bare_with(&LinkOptions::default(), &four);
    // The first sixteen have sockets of their own. No program has to do with checksums.
    (0..18).for_each(|number| pair.add(&format!("t{number}"), &format!("csum key {number}")));
    let addresses = [(&pair.left, "172.16.17.1"), (&pair.right, "172.16.17.2")];
    addresses.iter().for_each(|(host, address)| host.address("t17", &format!("{address}/30")).unwrap());
    let mut flows = Flows::to_right(&pair, addresses.map(|(_, address)| address.parse().unwrap()));
    let descriptors = fs::read_dir(format!("/proc/{}/fd", pair.daemons[0].as_ref().unwrap().pid())).unwrap();
    assert!(descriptors.count() < 400);
    let workers = at_work(&pair, || flows.flow(5, "shared"));
    assert_eq!(workers.map(|busy| busy.len()), [4, 4]);
    pair.nodes[0].words("tunnel change t16 oseq").ok();
    let [left, right] = at_work(&pair, || flows.flow(5, "beside a numbered one"));
    // What right receives is divided as before.
    assert_eq!((left, right.len()), (vec!["datapath".to_owned()], 4));
    pair.nodes[0].words("tunnel del t16").ok();
    let workers = at_work(&pair, || flows.flow(5, "without it"));
    assert_eq!(workers.map(|busy| busy.len()), [4, 4]);
}
