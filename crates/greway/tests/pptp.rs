//! PPTP of others on a host with greway (RFC 2637: GRE version 1 with a call id in the key's place, data with sequence and
//! acknowledgement numbers, and acknowledgements alone). Its packets are greway's protocol and none of its business:
//! each arrives, with its numbers, and nobody answers or disturbs it.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-----+-+-------+-----+-------------------------------+
//! |C|R|K|S|s|Recur|A| Flags | Ver |     protocol type (0x880b)    |  RFC 2637 §4.1
//! +-------------------------------+-------------------------------+
//! |         payload length        |            call id            |
//! +-------------------------------+-------------------------------+
//! |                 sequence number (if S is set)                 |
//! +---------------------------------------------------------------+
//! |              acknowledgement number (if A is set)             |
//! +---------------------------------------------------------------+
//! ```

#![allow(clippy::unwrap_used, reason = "tests, and helpers of tests")]

#[path = "support/pair.rs"]
mod pair;
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use greway_linux::raw::RawSocket;
use greway_testbed::{Capture, CapturedPacket, Deadline, Host, PingOptions, poll_until, privilege, require};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use pair::{OUTER, Pair};
use support::SOON;

const GRE: u8 = 47;
const KEY: u8 = 0x20;
const SEQUENCE: u8 = 0x10;
const ACKNOWLEDGED: u8 = 0x80;
/// PPP in HDLC-like framing: address, control, and IPv4 as the protocol.
const PPP: [u8; 4] = [0xff, 0x03, 0x00, 0x21];
/// Data packets each way.
const PACKETS: u32 = 40;

/// One end of a call.
struct Call {
    socket: RawSocket,
    /// The peer's call id: what is sent carries it.
    peer: u16,
    /// Ours: what is received carries it.
    own: u16,
    sequence: u32,
    /// The highest number received and not acknowledged yet.
    to_acknowledge: Option<u32>,
    /// Payloads received, by sequence number, and how often each came.
    received: BTreeMap<u32, (Vec<u8>, u32)>,
    /// Acknowledgements received, in order.
    acknowledged: Vec<u32>,
}

impl Call {
    fn open(host: &Host, remote: std::net::Ipv4Addr, own: u16, peer: u16, first: u32) -> Self {
        let socket = host
            .run(|| {
                let socket = RawSocket::open_ipv4(GRE).unwrap();
                // Of every GRE packet that arrives it gets a copy; connected, of those of its peer.
                socket.connect(remote).unwrap();
                socket
            })
            .unwrap();
        let (received, acknowledged) = (BTreeMap::new(), Vec::new());
        Self { socket, peer, own, sequence: first, to_acknowledge: None, received, acknowledged }
    }

    /// A data packet, with the acknowledgement that is due in it.
    fn say(&mut self, payload: &[u8]) {
        let data = [&PPP[..], payload].concat();
        let acknowledgement = self.to_acknowledge.take();
        let mut packet = self.header(SEQUENCE, acknowledgement.is_some(), data.len());
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(acknowledgement.into_iter().flat_map(u32::to_be_bytes));
        packet.extend(data);
        self.sequence = self.sequence.wrapping_add(1);
        send(&self.socket, &packet, SendFlags::empty()).unwrap();
    }

    /// An acknowledgement alone, if one is due.
    fn acknowledge(&mut self) {
        let Some(number) = self.to_acknowledge.take() else { return };
        let mut packet = self.header(0, true, 0);
        packet.extend(number.to_be_bytes());
        send(&self.socket, &packet, SendFlags::empty()).unwrap();
    }

    fn header(&self, flags: u8, acknowledges: bool, length: usize) -> Vec<u8> {
        let second = 1 | if acknowledges { ACKNOWLEDGED } else { 0 };
        let mut header = vec![KEY | flags, second, 0x88, 0x0b];
        header.extend((length as u16).to_be_bytes());
        header.extend(self.peer.to_be_bytes());
        header
    }

    /// Takes what is there.
    fn listen(&mut self) {
        let mut buffer = vec![0; 4096];
        while let Ok((length, _)) = recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            let datagram = &buffer[..length];
            let gre = &datagram[usize::from(datagram[0] & 0x0f) * 4..];
            let word = |at: usize| u32::from_be_bytes(*gre[at..].first_chunk().unwrap());
            let half = |at: usize| u16::from_be_bytes(*gre[at..].first_chunk().unwrap());
            // Version 0 is somebody else's: the tunnel's.
            if gre[1] & 7 != 1 {
                continue;
            }
            assert_eq!((half(2), half(6)), (0x880b, self.own), "{gre:02x?}");
            let mut at = 8;
            if gre[0] & SEQUENCE != 0 {
                let number = word(at);
                at += 4;
                let header = at + if gre[1] & ACKNOWLEDGED != 0 { 4 } else { 0 };
                let data = &gre[header..header + usize::from(half(4))];
                assert_eq!(data[..4], PPP);
                self.received.entry(number).or_insert_with(|| (data[4..].to_vec(), 0)).1 += 1;
                self.to_acknowledge = self.to_acknowledge.max(Some(number));
            }
            if gre[1] & ACKNOWLEDGED != 0 {
                self.acknowledged.push(word(at));
            }
        }
    }
}

/// What a client or a server says in its n-th packet: of all sizes.
fn line(who: &str, number: u32) -> Vec<u8> {
    format!("{who} {number} ").repeat(1 + number as usize * 2).into_bytes()
}

#[test]
fn pptp_of_others_goes_through_untouched() {
    require!(privilege::check());
    for underlay in ["packet", "raw"] {
        goes_through(underlay);
    }
}

fn goes_through(underlay: &str) {
    let pair = Pair::new(&format!("underlay {underlay}"));
    let wire = Capture::start(&pair.right, "wan0").unwrap();
    // As measured with pptp-linux and pptpd: the client counts from 1, the server from 0.
    let mut client = Call::open(&pair.left, OUTER[1], 0x0101, 0x0202, 1);
    let mut server = Call::open(&pair.right, OUTER[0], 0x0202, 0x0101, 0);
    let deadline = Deadline::within(SOON);
    for number in 0..PACKETS {
        client.say(&line("client", number));
        server.say(&line("server", number));
        // Half of the numbers are acknowledged by data, half by packets for that alone.
        let arrived = |call: &Call| call.received.len() as u32 > number;
        while !(arrived(&client) && arrived(&server)) {
            assert!(!deadline.passed(), "{underlay}: packet {number} was lost");
            client.listen();
            server.listen();
            std::thread::yield_now();
        }
        if number % 2 == 0 {
            client.acknowledge();
            server.acknowledge();
        }
        // The tunnel between the same hosts is used meanwhile.
        if number % 8 == 0 {
            let one = PingOptions { count: 1, timeout: Duration::from_secs(2), ..PingOptions::default() };
            pair.answers(&one);
        }
    }
    client.acknowledge();
    server.acknowledge();
    let all = |call: &Call, first: u32| call.acknowledged.last() == Some(&(first + PACKETS - 1));
    poll_until(SOON, "the last acknowledgement", || {
        client.listen();
        server.listen();
        (all(&client, 1) && all(&server, 0)).then_some(())
    })
    .unwrap();

    for (call, who, first) in [(&client, "server", 0), (&server, "client", 1)] {
        let wanted = (0..PACKETS).map(|number| (first + number, (line(who, number), 1)));
        assert_eq!(
            call.received,
            wanted.collect(),
            "{underlay}: what the {who} said, each once and unchanged"
        );
    }
    for (call, first) in [(&client, 1), (&server, 0)] {
        let wanted = (first..first + PACKETS).collect::<Vec<_>>();
        assert_eq!(call.acknowledged, wanted, "{underlay}: each acknowledged, in order");
    }

    let packets = wire.stop();
    let is_pptp = |packet: &&CapturedPacket| packet.gre().is_some_and(|gre| gre[1] & 7 == 1);
    // Every packet is acknowledged by one of its own or in the data that goes the other way.
    let alone = |packet: &&CapturedPacket| is_pptp(packet) && packet.gre().unwrap()[0] & SEQUENCE == 0;
    let data = packets.iter().filter(is_pptp).count() - packets.iter().filter(alone).count();
    assert_eq!(data, 2 * PACKETS as usize, "{underlay}: nothing was sent twice or made up");
    let answers = packets.iter().filter(|packet| packet.protocol() == Some(1)).collect::<Vec<_>>();
    assert!(answers.is_empty(), "{underlay}: nobody complained: {answers:?}");

    for (node, count) in [(0, PACKETS), (1, PACKETS)] {
        let status = pair.nodes[node].status();
        let declined = status["declines"].as_array().unwrap();
        let pptp = declined.iter().find(|decline| decline["reason"] == "version-1-pptp");
        let seen = pptp.unwrap_or_else(|| panic!("{status}"))["packets"].as_u64().unwrap();
        assert!(seen >= u64::from(count), "{underlay}: {seen} declined as PPTP");
        assert_eq!(pair.status(node)["drops"].to_string(), "[]", "{underlay}");
        assert_eq!(status["unmatched"].to_string(), "[]", "{underlay}: no stranger either");
        pair.nodes[node].words("status").ok().says(&["left to others", "version-1-pptp"]);
    }
}
