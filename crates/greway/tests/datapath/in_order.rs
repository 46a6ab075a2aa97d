//! `seq-mode rfc2890`: numbered packets are put on the cable by hand, in every wrong order, while the daemon stands
//! still; what comes out of the tunnel device, in which order and what is counted is what is looked at. And a TCP
//! transfer over a cable that reorders.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use greway_linux::batch::ReceiveBatch;
use greway_linux::event::{Events, Interest, Poller, Waker};
use greway_linux::packet::{Config, PacketSocket, Protocol};
use greway_testbed::{
    Capture, CapturedPacket, Host, LinkOptions, PingOptions, build, link, poll_until, privilege, require,
};
use greway_wire::gre::GreHeader;
use greway_wire::transport::Transport;
use rustix::net::SendFlags;

use crate::pair::{INNER, OUTER, Pair, drops, mac};
use crate::support::{Node, SOON};

/// A payload packet that is known again by `mark`.
fn marked(mark: u16) -> Vec<u8> {
    let echo = build::echo_request(0x4711, mark, &[0x5a; 32]);
    build::ipv4(build::ipv4_header(INNER[1], INNER[0], build::ICMP), &echo)
}

/// The mark of what came out of a tunnel device.
fn mark(packet: &CapturedPacket) -> Option<u16> {
    let payload = packet.payload();
    let is_ours =
        !packet.outgoing && packet.protocol() == Some(build::ICMP) && payload.get(24..26)? == [0x47, 0x11];
    is_ours.then(|| u16::from_be_bytes([payload[26], payload[27]]))
}

/// The threads of a process, in /proc.
fn tasks(process: u32) -> Vec<PathBuf> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    tasks.map(|task| task.unwrap().path()).collect()
}

/// Puts payload packets with these numbers on the cable to left, all there when left's daemon looks.
fn burst(pair: &Pair, packets: &[(Option<u32>, Vec<u8>)]) {
    let ends = [mac(&pair.left, "wan0"), mac(&pair.right, "wan0")];
    let ifindex = Some(pair.right.index("wan0").unwrap());
    let socket =
        pair.right.run(|| PacketSocket::open(&Config { ifindex, ..Config::default() })).unwrap().unwrap();
    let cable = Capture::start(&pair.left, "wan0").unwrap();
    let halted = pair.daemons[0].as_ref().unwrap().halt();
    for (number, payload) in packets {
        let header = GreHeader { protocol_type: 0x0800, sequence_number: *number, ..GreHeader::default() };
        let outer = build::ipv4_header(OUTER[1], OUTER[0], build::GRE);
        let frame =
            build::ethernet(ends[0], ends[1], 0x0800, &build::ipv4(outer, &build::gre(header, payload)));
        rustix::net::send(&socket, &frame, SendFlags::empty()).unwrap();
    }
    let came = |packet: &CapturedPacket| !packet.outgoing && packet.gre().is_some();
    let all = cable.wait_for_count(SOON, "all on the cable", packets.len(), came);
    drop(halted);
    all.unwrap();
}

/// A burst of packets that are known by the lower half of their numbers; gives the marks of what came out up to
/// `last`, in their order.
fn out_of(pair: &Pair, numbers: &[u32], last: u16) -> Vec<u16> {
    let comes_out = Capture::start(&pair.left, "tun0").unwrap();
    let packets = numbers.iter().map(|number| (Some(*number), marked(*number as u16))).collect::<Vec<_>>();
    burst(pair, &packets);
    comes_out.wait_for(SOON, &format!("packet {last}"), |packet| mark(packet) == Some(last)).unwrap();
    comes_out.stop().iter().filter_map(mark).collect()
}

/// `lost reordered duplicates late restarts` of left's tunnel.
fn counted(pair: &Pair) -> [u64; 5] {
    let status = pair.status(0);
    ["lost", "reordered", "duplicates", "late", "restarts"]
        .map(|name| status["sequence"][name].as_u64().unwrap_or_else(|| panic!("{name}: {status}")))
}

#[test]
fn rfc2890_in_order_once_and_counted_by_either_socket() {
    require!(privilege::check());
    for underlay in ["packet", "raw"] {
        let pair = Pair::new(&format!("underlay {underlay}"));
        pair.nodes[0].words("tunnel change tun0 iseq seq-mode rfc2890").ok();
        assert_eq!(out_of(&pair, &[0, 2, 1, 5, 4, 3, 3, 6], 6), [0, 1, 2, 3, 4, 5, 6], "{underlay}");
        assert_eq!(counted(&pair), [0, 3, 1, 0, 0], "{underlay}");
        assert_eq!(pair.drops(0, "sequence-duplicate"), 1);
        assert_eq!(pair.status(0)["counters"]["received_packets"], 7, "{underlay}");
        // What never comes is given up without another packet, and is late when it comes at last.
        assert_eq!(out_of(&pair, &[7, 10, 9], 10), [7, 9, 10], "{underlay}");
        assert_eq!(counted(&pair), [1, 4, 1, 0, 0], "{underlay}");
        assert_eq!(out_of(&pair, &[8, 11], 11), [11], "{underlay}");
        assert_eq!(counted(&pair), [1, 4, 1, 1, 0], "{underlay}");
        // More than the buffer holds: the gap is given up at once, and nothing is lost but what did not come.
        let many = (13..=100).collect::<Vec<_>>();
        assert_eq!(out_of(&pair, &many, 100), (13..=100).collect::<Vec<_>>(), "{underlay}");
        assert_eq!(counted(&pair), [2, 4, 1, 1, 0], "{underlay}");
        let text = pair.nodes[0].words("status tun0 --no-echo").ok().stdout;
        assert!(text.contains("  in order    2 lost, 4 reordered, 1 duplicate, 1 late\n"), "{text}");
    }
}

#[test]
fn rfc2890_a_peer_that_starts_again_is_heard_and_by_linux_it_is_not() {
    require!(privilege::check());
    let pair = Pair::new("underlay packet");
    pair.nodes[0].words("tunnel change tun0 iseq seq-mode rfc2890").ok();
    assert_eq!(out_of(&pair, &[u32::MAX - 1, u32::MAX, 1, 0], 1), [0xfffe, 0xffff, 0, 1], "over the wrap");
    assert_eq!(
        out_of(&pair, &[900_000, 900_001], 900_001_u32 as u16),
        [900_000_u32 as u16, 900_001_u32 as u16]
    );
    assert_eq!(counted(&pair), [0, 1, 0, 0, 1], "a step of that size is a new beginning");
    assert_eq!(out_of(&pair, &[0, 1, 2, 3, 4, 5, 6], 6), [3, 4, 5, 6]);
    assert_eq!(counted(&pair), [0, 1, 0, 3, 2]);
    let text = pair.nodes[0].words("status tun0 --no-echo").ok().stdout;
    assert!(text.contains("3 late; the peer began again 2 times\n"), "{text}");
    // A packet without a number is in sequence.
    let comes_out = Capture::start(&pair.left, "tun0").unwrap();
    burst(&pair, &[(None, marked(500))]);
    comes_out.wait_for(SOON, "the packet without a number", |packet| mark(packet) == Some(500)).unwrap();

    // As Linux has it, from the number on that was reached.
    pair.nodes[0].words("tunnel change tun0 seq-mode linux").ok();
    assert_eq!(out_of(&pair, &[7, 900_000, 900_002, 900_001, 900_003], 900_003_u32 as u16).len(), 4);
    assert_eq!(pair.drops(0, "sequence-late"), 4);
    assert_eq!(out_of(&pair, &[0, 1, 2, 3, 4, 5, 6, 900_004], 900_004_u32 as u16).len(), 1);
    assert_eq!(pair.drops(0, "sequence-late"), 11);
    burst(&pair, &[(None, marked(501))]);
    pair.wait_for_drops(0, "sequence-missing", 1);
    assert!(pair.status(0).get("sequence").is_none());
    // And back: it goes on where that was.
    pair.nodes[0].words("tunnel change tun0 seq-mode rfc2890").ok();
    let out = out_of(&pair, &[900_007, 900_006, 900_005], 900_007_u32 as u16);
    assert_eq!(out, [900_005_u32, 900_006, 900_007].map(|number| number as u16));
}

/// TCP segments of one connection from right to left, of 1000 bytes each.
fn segment(number: u32) -> Vec<u8> {
    let mut tcp = vec![0; 20];
    tcp[..4].copy_from_slice(&[0x9c, 0x40, 0, 9]);
    tcp[4..8].copy_from_slice(&(1 + number * 1000).to_be_bytes());
    // Header length 5 words; ACK.
    tcp[12..14].copy_from_slice(&[0x50, 0x10]);
    tcp.extend(vec![number as u8; 1000]);
    let mut packet = build::ipv4(build::ipv4_header(INNER[1], INNER[0], 6), &tcp);
    let transport = Transport::locate(&packet).unwrap();
    let mut sum = transport.pseudo_header(tcp.len() as u32);
    sum.add(&tcp);
    packet[36..38].copy_from_slice(&sum.value().to_be_bytes());
    packet
}

#[test]
fn segments_put_in_order_are_put_together_too() {
    require!(privilege::check());
    let pair = Pair::new("underlay packet");
    pair.nodes[0].words("tunnel change tun0 iseq seq-mode rfc2890").ok();
    let comes_out = Capture::start(&pair.left, "tun0").unwrap();
    let packets = [0, 2, 1, 4, 3, 5].map(|number| (Some(number), segment(number)));
    burst(&pair, &packets);
    let whole = |packet: &CapturedPacket| !packet.outgoing && packet.payload().len() == 40 + 6 * 1000;
    let whole = comes_out.wait_for(SOON, "one packet of six segments", whole).unwrap();
    for (number, part) in whole.payload()[40..].chunks(1000).enumerate() {
        assert!(part.iter().all(|byte| usize::from(*byte) == number), "segment {number}");
    }
    assert_eq!(counted(&pair), [0, 2, 0, 0, 0]);
}

#[test]
fn an_idle_worker_sleeps_without_an_end() {
    require!(privilege::check());
    let pair = Pair::new("underlay packet");
    pair.nodes[0].words("tunnel change tun0 iseq seq-mode rfc2890").ok();
    let daemon = pair.daemons[0].as_ref().unwrap().pid();
    let is_worker = |task: &PathBuf| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "datapath")
    };
    let worker = tasks(daemon).into_iter().find(is_worker).expect("a thread called datapath");
    // The system call it sleeps in: number, then arguments, of which the fourth is the time of epoll_wait(2).
    let sleeps = || {
        let call = std::fs::read_to_string(worker.join("syscall")).unwrap();
        let time = call.split(' ').nth(4)?.to_owned();
        ["0x0", "0xffffffff", "0xffffffffffffffff"].contains(&time.as_str()).then_some(())
    };
    poll_until(SOON, "sleep before anything came", sleeps).unwrap();
    assert_eq!(out_of(&pair, &[0, 2], 2), [0, 2]);
    poll_until(SOON, "sleep after a wait", sleeps).unwrap();
}

/// A box on the cable that hands each second large frame on before the first, and everything else as it comes.
struct Swapper {
    stop: Arc<Waker>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Swapper {
    /// How long a frame is kept back for the next one, which is well below what a tunnel waits for it.
    const KEPT: Duration = Duration::from_millis(2);
    const LARGE: usize = 1000;

    fn start(host: &Host, devices: [&str; 2]) -> Self {
        let sockets = devices.map(|device| {
            let ifindex = Some(host.index(device).unwrap());
            let config =
                Config { protocol: Protocol::All, ifindex, ignore_outgoing: true, ..Config::default() };
            host.run(|| PacketSocket::open(&config)).unwrap().unwrap()
        });
        let stop = Arc::new(Waker::new().unwrap());
        let poller = Poller::new().unwrap();
        poller.add(stop.as_ref(), 2, Interest::Readable).unwrap();
        for (token, socket) in (0..).zip(&sockets) {
            poller.add(socket, token, Interest::Readable).unwrap();
        }
        let thread = Some(thread::spawn(move || Self::forward(&sockets, &poller)));
        Self { stop, thread }
    }

    fn forward(sockets: &[PacketSocket; 2], poller: &Poller) {
        let mut batch = ReceiveBatch::new(64, 2048, 0);
        let mut events = Events::with_capacity(8);
        let mut kept: [Option<Vec<u8>>; 2] = [None, None];
        // A device whose queue is full loses the frame, as a wire does.
        let send = |from: usize, frame: &[u8]| {
            let _lost = rustix::net::send(&sockets[1 - from], frame, SendFlags::empty());
        };
        loop {
            let timeout = kept.iter().any(Option::is_some).then_some(Self::KEPT);
            if poller.wait(&mut events, timeout).unwrap() == 0 {
                for (from, kept) in kept.iter_mut().enumerate() {
                    kept.take().iter().for_each(|frame| send(from, frame));
                }
            }
            for event in events.iter() {
                let from = event.token as usize;
                let Some(socket) = sockets.get(from) else { return };
                // An error waits on the socket once.
                let count = batch.recv(socket).unwrap_or(0);
                for frame in (0..count).map(|index| batch.data(index)) {
                    if kept[from].is_none() && frame.len() > Self::LARGE {
                        kept[from] = Some(frame.to_vec());
                        continue;
                    }
                    send(from, frame);
                    kept[from].take().iter().for_each(|frame| send(from, frame));
                }
            }
        }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.wake();
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "the box on the cable died");
    }
}

#[test]
fn tcp_is_intact_over_a_cable_that_reorders() {
    require!(privilege::check());
    let [left, middle, right] = ["left", "middle", "right"].map(|name| Host::new(name).unwrap());
    let cable = LinkOptions { tx_offload: false, ..LinkOptions::default() };
    for (host, device) in [(&left, "west"), (&right, "east")] {
        host.sysctl("ipv6/conf/all/disable_ipv6", "1").unwrap();
        link(host, "wan0", &middle, device, &cable).unwrap();
    }
    for (host, outer) in [(&left, OUTER[0]), (&right, OUTER[1])] {
        host.address("wan0", &format!("{outer}/24")).unwrap();
    }
    let _swapper = Swapper::start(&middle, ["west", "east"]);
    let nodes = [Node::new(&left), Node::new(&right)];
    let daemons = [Some(nodes[0].daemon()), Some(nodes[1].daemon())];
    let pair = Pair { daemons, nodes, middle: None, left, right };
    pair.add("tun0", "seq seq-mode rfc2890");
    pair.left.address("tun0", &format!("{} peer {}/30", INNER[0], INNER[1])).unwrap();
    pair.right.address("tun0", &format!("{} peer {}/30", INNER[1], INNER[0])).unwrap();
    pair.answers(&PingOptions::default());
    pair.bulk(4 << 20, "reordered");
    for node in 0..2 {
        let status = pair.status(node);
        assert!(status["sequence"]["reordered"].as_u64().unwrap() > 100, "nothing was reordered: {status}");
        assert_eq!(status["sequence"]["restarts"], 0, "{status}");
        assert_eq!(drops(&status, "sequence-missing"), 0);
    }
}
