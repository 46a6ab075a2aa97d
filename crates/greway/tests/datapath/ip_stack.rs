//! What the IP stack of a host counts while datagrams go through a tunnel: whether it had their delivery packets as well.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use greway_testbed::Host;

use crate::pair::{Pair, inner, udp};

/// A counter of IPv4 (RFC 4293, as /proc/net/snmp names it).
pub(crate) fn ipv4(host: &Host, counter: &str) -> u64 {
    let table = host.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).unwrap().unwrap();
    let mut rows = table.lines().filter_map(|line| line.strip_prefix("Ip: ")).map(str::split_whitespace);
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    names.zip(values).find(|(name, _)| *name == counter).unwrap().1.parse().unwrap()
}

/// A counter of IPv6 (RFC 4293, as /proc/net/snmp6 names it).
pub(crate) fn ipv6(host: &Host, counter: &str) -> u64 {
    let table = host.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp6")).unwrap().unwrap();
    let mut rows = table.lines().filter_map(|line| line.split_once(char::is_whitespace));
    rows.find(|(name, _)| *name == counter).unwrap().1.trim().parse().unwrap()
}

/// By how much `counted` grows when 200 datagrams go from left to right through tun0, one after the other.
pub(crate) fn with_200(pair: &Pair, counted: impl Fn() -> u64) -> u64 {
    let (receiver, sender) = (udp(&pair.right, inner(1)), udp(&pair.left, inner(0)));
    let to = receiver.local_addr().unwrap();
    let before = counted();
    let mut buffer = [0; 64];
    for number in 0..200_u8 {
        sender.send_to(&[number; 32], to).unwrap();
        let (length, _) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..length], [number; 32]);
    }
    counted() - before
}
