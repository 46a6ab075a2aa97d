//! Bursts of datagrams through a tunnel, and trains that a program sends.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "helpers of tests, not all used by each")]

use std::net::{SocketAddr, UdpSocket};

use greway_linux::sockopt;
use greway_testbed::{Capture, CapturedPacket, Host};
use greway_wire::transport::{Protocol, Transport};

use crate::pair::inside;
use crate::support::{Daemon, SOON};

/// A datagram that tells its number by every byte.
pub fn datagram(number: usize, size: usize) -> Vec<u8> {
    (0..size).map(|at| (number * 7 + at * 13 + size) as u8).collect()
}

/// Sends datagrams of these sizes from one end to the other while the daemon that is to receive them stands still, and
/// has them all at once then. `wire`: where they arrive.
#[track_caller]
pub fn burst(sender: &UdpSocket, to: SocketAddr, sizes: &[usize], receives: &Daemon, wire: (&Host, &str)) {
    let arrives = Capture::start(wire.0, wire.1).unwrap();
    let halted = receives.halt();
    for (number, size) in sizes.iter().enumerate() {
        sender.send_to(&datagram(number, *size), to).unwrap();
    }
    let is_one = |packet: &CapturedPacket| {
        !packet.outgoing && inside(packet).is_some_and(|(_, inner)| transport(inner).is_some())
    };
    arrives.wait_for_count(SOON, "the datagrams on the wire", sizes.len(), is_one).unwrap();
    drop(halted);
}

/// What is UDP in a packet.
pub fn transport(packet: &[u8]) -> Option<Transport> {
    Transport::locate(packet).filter(|found| found.protocol == Protocol::Udp)
}

/// Each of them arrives, once, whole and in order.
#[track_caller]
pub fn all_arrive(receiver: &UdpSocket, sizes: &[usize], what: &str) {
    let mut buffer = [0; 65_536];
    for (number, size) in sizes.iter().enumerate() {
        let length = receiver.recv(&mut buffer).unwrap_or_else(|error| panic!("{what}, {number}: {error}"));
        let came = &buffer[..length];
        // Which one came instead, if it is one that was sent.
        let other = || sizes.iter().enumerate().position(|(number, size)| came == datagram(number, *size));
        assert!(came == datagram(number, *size), "{what}: for {number} came {:?}, {length} bytes", other());
    }
    receiver.set_nonblocking(true).unwrap();
    assert!(receiver.recv(&mut buffer).is_err(), "{what}: one too many");
    receiver.set_nonblocking(false).unwrap();
}

/// One send of `UDP_SEGMENT`, of `count` datagrams.
pub fn send_train(sender: &UdpSocket, to: SocketAddr, size: usize, count: usize) {
    sockopt::set_udp_segment(sender, size as u16).unwrap();
    let train: Vec<u8> = (0..count).flat_map(|number| datagram(number, size)).collect();
    assert_eq!(sender.send_to(&train, to).unwrap(), train.len());
}
