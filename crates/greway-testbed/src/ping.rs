//! Echo requests over raw ICMP sockets: our own, because the demo has no ping program to call, and because a
//! test wants the facts (which sequence number, which ICMP error, from whom) and not a summary line.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+---------------+-------------------------------+
//! |     type      |     code      |           checksum            |  8/0 and 0/0 in ICMP (RFC 792),
//! +---------------+---------------+-------------------------------+  128/0 and 129/0 in ICMPv6
//! |          identifier           |        sequence number        |  (RFC 4443 §4.1, §4.2)
//! +-------------------------------+-------------------------------+
//! ```

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};

use greway_wire::checksum::checksum;

use crate::tcp::wait_readable;
use crate::{Deadline, Error, Host};

/// Bytes of an echo message before its data.
const HEADER: usize = 8;

/// How to ping.
#[derive(Debug, Clone)]
pub struct PingOptions {
    /// Requests to send.
    pub count: u16,
    /// Bytes of data in each request (not counting the 8 of ICMP and those of IP).
    pub size: usize,
    /// Never fragment: set DF, and send at the size given whatever path MTU has been learned.
    pub df: bool,
    /// How long to wait for the answer to each request.
    pub timeout: Duration,
    /// `None`: the next request leaves when the last is answered or given up. Otherwise one leaves every so
    /// often, answered or not.
    pub interval: Option<Duration>,
    /// The source address; the kernel's choice by default.
    pub source: Option<IpAddr>,
    /// TTL or hop limit; the kernel's by default.
    pub ttl: Option<u8>,
    /// TOS or traffic class.
    pub tos: u8,
}

impl Default for PingOptions {
    fn default() -> Self {
        Self {
            count: 3,
            size: 56,
            df: false,
            timeout: Duration::from_secs(1),
            interval: None,
            source: None,
            ttl: None,
            tos: 0,
        }
    }
}

/// What came of the requests.
#[derive(Debug, Clone, Default)]
pub struct PingReport {
    /// Requests sent, counting those the kernel refused.
    pub sent: u16,
    /// Round-trip time of each answered request, in order of arrival.
    pub rtts: Vec<Duration>,
    /// Sequence numbers (from 1) that got no answer, ascending.
    pub lost: Vec<u16>,
    /// Second and later answers to one request.
    pub duplicates: u32,
    /// Answers whose data is not the request's; not counted as received.
    pub corrupted: u32,
    /// ICMP errors that quote one of our requests.
    pub errors: Vec<IcmpError>,
    /// Requests that the kernel refused to send, with its reason.
    pub refused: Vec<(u16, io::ErrorKind, String)>,
}

impl PingReport {
    /// Requests answered.
    pub fn received(&self) -> u16 {
        self.rtts.len() as u16
    }

    /// Whether every request was answered, once and unchanged.
    pub fn complete(&self) -> bool {
        self.sent > 0 && self.received() == self.sent && self.duplicates == 0 && self.corrupted == 0
    }

    /// The mean round-trip time of the answered requests.
    pub fn mean(&self) -> Option<Duration> {
        let total: Duration = self.rtts.iter().sum();
        total.checked_div(self.rtts.len() as u32)
    }
}

impl fmt::Display for PingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sent, {} received", self.sent, self.received())?;
        if let Some(mean) = self.mean() {
            write!(f, ", mean {:.3} ms", mean.as_secs_f64() * 1000.0)?;
        }
        for error in &self.errors {
            write!(f, "; {error}")?;
        }
        for (sequence, _, reason) in &self.refused {
            write!(f, "; request {sequence} not sent: {reason}")?;
        }
        Ok(())
    }
}

/// An ICMP error that answers one of our requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpError {
    /// Who sent it.
    pub from: IpAddr,
    /// ICMP or ICMPv6 type: 3 / 1 unreachable, 11 / 3 time exceeded, ICMPv6 2 packet too big.
    pub icmp_type: u8,
    /// The code.
    pub code: u8,
    /// Sequence number of the request it quotes.
    pub sequence: u16,
    /// The next hop's MTU in "fragmentation needed" and "packet too big", in bytes.
    pub mtu: Option<u32>,
}

impl fmt::Display for IcmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, icmp_type, code, sequence, mtu } = self;
        write!(f, "request {sequence}: {from} says ICMP type {icmp_type} code {code}")?;
        mtu.map_or(Ok(()), |mtu| write!(f, " (MTU {mtu})"))
    }
}

/// Pings `destination` from `host` and waits for the answers.
///
/// Requests that get no answer are no error: read the report.
///
/// # Errors
/// [`Error::System`] when the socket cannot be opened or set up.
pub fn ping(host: &Host, destination: IpAddr, options: &PingOptions) -> Result<PingReport, Error> {
    let socket = host
        .run(|| open(destination, options))?
        .map_err(Error::system(host.name(), "open an ICMP socket"))?;
    Pinger::new(destination, options, socket)
        .run()
        .map_err(Error::system(host.name(), "receive from the ICMP socket"))
}

fn open(destination: IpAddr, options: &PingOptions) -> io::Result<OwnedFd> {
    let (family, protocol) = match destination {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let socket = rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))?;
    match destination {
        IpAddr::V4(_) => {
            let discovery = if options.df { Ipv4PathMtuDiscovery::PROBE } else { Ipv4PathMtuDiscovery::DONT };
            sockopt::set_ip_mtu_discover(&socket, discovery)?;
            sockopt::set_ip_tos(&socket, options.tos)?;
            if let Some(ttl) = options.ttl {
                sockopt::set_ip_ttl(&socket, ttl.into())?;
            }
        }
        IpAddr::V6(_) => {
            let discovery = if options.df { Ipv6PathMtuDiscovery::PROBE } else { Ipv6PathMtuDiscovery::WANT };
            sockopt::set_ipv6_mtu_discover(&socket, discovery)?;
            sockopt::set_ipv6_tclass(&socket, options.tos.into())?;
            sockopt::set_ipv6_unicast_hops(&socket, options.ttl)?;
        }
    }
    if let Some(source) = options.source {
        rustix::net::bind(&socket, &SocketAddr::new(source, 0))?;
    }
    Ok(socket)
}

struct Pinger<'a> {
    destination: IpAddr,
    options: &'a PingOptions,
    socket: OwnedFd,
    identifier: u16,
    sent_at: Vec<Instant>,
    answered: Vec<bool>,
    report: PingReport,
}

impl<'a> Pinger<'a> {
    fn new(destination: IpAddr, options: &'a PingOptions, socket: OwnedFd) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Sockets of one namespace see each other's answers: the identifier tells them apart.
        let identifier = (std::process::id() as u16).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let report = PingReport::default();
        Self { destination, options, socket, identifier, sent_at: Vec::new(), answered: Vec::new(), report }
    }

    fn run(mut self) -> io::Result<PingReport> {
        for sequence in 1..=self.options.count {
            self.send(sequence);
            let last = sequence == self.options.count;
            match self.options.interval {
                Some(interval) if !last => self.receive(Deadline::within(interval), |_| false)?,
                Some(_) => self.receive(Deadline::within(self.options.timeout), Self::all_settled)?,
                None => self.receive(Deadline::within(self.options.timeout), |pinger| {
                    pinger.settled(usize::from(sequence) - 1)
                })?,
            }
        }
        let unanswered = self.answered.iter().zip(1..).filter(|(answered, _)| !**answered);
        self.report.lost = unanswered.map(|(_, sequence)| sequence).collect();
        Ok(self.report)
    }

    fn send(&mut self, sequence: u16) {
        let message = request(self.destination, self.identifier, sequence, self.options.size);
        self.report.sent += 1;
        self.sent_at.push(Instant::now());
        self.answered.push(false);
        let to = SocketAddr::new(self.destination, 0);
        // An error that an earlier request earned is reported by the next call: one more try tells them apart.
        let result = rustix::net::sendto(&self.socket, &message, SendFlags::empty(), &to)
            .or_else(|_| rustix::net::sendto(&self.socket, &message, SendFlags::empty(), &to));
        if let Err(error) = result {
            let error = io::Error::from(error);
            self.report.refused.push((sequence, error.kind(), error.to_string()));
        }
    }

    /// Takes in what arrives until `enough` or the deadline.
    fn receive(&mut self, deadline: Deadline, enough: impl Fn(&Self) -> bool) -> io::Result<()> {
        let mut buffer = vec![0; 65_536];
        while !enough(self) && wait_readable(&self.socket, deadline)? {
            let received = rustix::net::recvfrom(&self.socket, &mut buffer, RecvFlags::DONTWAIT);
            let now = Instant::now();
            // An error means an ICMP message for this socket; the message itself comes as a packet.
            let Ok((_, length, from)) = received else { continue };
            let from = from.and_then(|from| SocketAddr::try_from(from).ok()).map(|from| from.ip());
            self.take(&buffer[..length], from.unwrap_or(self.destination), now);
        }
        Ok(())
    }

    fn take(&mut self, packet: &[u8], from: IpAddr, now: Instant) {
        // An IPv4 raw socket delivers the IP header too, an IPv6 one does not (RFC 3542 §3).
        let (message, reply) = match self.destination {
            IpAddr::V4(_) => match ipv4_payload(packet) {
                Some(message) => (message, 0),
                None => return,
            },
            IpAddr::V6(_) => (packet, 129),
        };
        if message.len() < HEADER {
            return;
        }
        if message[0] == reply {
            self.take_reply(message, now);
        } else if let Some(error) = self.parse_error(message, from) {
            self.report.errors.push(error);
        }
    }

    fn take_reply(&mut self, message: &[u8], now: Instant) {
        let sequence = be16(message, 6);
        let index = usize::from(sequence).wrapping_sub(1);
        if be16(message, 4) != self.identifier || index >= self.sent_at.len() {
            return;
        }
        if message[HEADER..] != data(sequence, self.options.size) {
            self.report.corrupted += 1;
        } else if self.answered[index] {
            self.report.duplicates += 1;
        } else {
            self.answered[index] = true;
            self.report.rtts.push(now - self.sent_at[index]);
        }
    }

    /// An ICMP error whose quote is one of our requests.
    fn parse_error(&self, message: &[u8], from: IpAddr) -> Option<IcmpError> {
        let (icmp_type, code) = (message[0], message[1]);
        let quote = &message[HEADER..];
        let (quoted, request, mtu) = match self.destination {
            IpAddr::V4(destination) => {
                let to_us = quote.get(16..20) == Some(&destination.octets());
                let mtu = (icmp_type == 3 && code == 4).then(|| u32::from(be16(message, 6)));
                (ipv4_payload(quote).filter(|_| to_us)?, 8, mtu)
            }
            IpAddr::V6(destination) => {
                let to_us = quote.get(24..40) == Some(&destination.octets());
                let mtu = (icmp_type == 2)
                    .then(|| u32::from_be_bytes([message[4], message[5], message[6], message[7]]));
                (quote.get(40..).filter(|_| to_us)?, 128, mtu)
            }
        };
        let ours = quoted.len() >= HEADER && quoted[0] == request && be16(quoted, 4) == self.identifier;
        ours.then(|| IcmpError { from, icmp_type, code, sequence: be16(quoted, 6), mtu })
    }

    /// Whether nothing more is expected for the request at this place: answered, refused or answered by an error.
    fn settled(&self, index: usize) -> bool {
        let sequence = index as u16 + 1;
        self.answered[index]
            || self.report.refused.iter().any(|(refused, ..)| *refused == sequence)
            || self.report.errors.iter().any(|error| error.sequence == sequence)
    }

    fn all_settled(&self) -> bool {
        (0..self.answered.len()).all(|index| self.settled(index))
    }
}

fn request(destination: IpAddr, identifier: u16, sequence: u16, size: usize) -> Vec<u8> {
    let kind = if destination.is_ipv4() { 8 } else { 128 };
    let mut message = vec![kind, 0, 0, 0];
    message.extend(identifier.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.extend(data(sequence, size));
    if destination.is_ipv4() {
        // The kernel fills in ICMPv6's, which covers a pseudo-header; ICMP's is ours.
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// The data of a request: no two requests carry the same.
fn data(sequence: u16, size: usize) -> Vec<u8> {
    (0..size).map(|i| (i as u8).wrapping_mul(7).wrapping_add(sequence as u8)).collect()
}

/// What follows the header of an IPv4 packet.
fn ipv4_payload(packet: &[u8]) -> Option<&[u8]> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    packet.get(header..).filter(|_| header >= 20)
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const TARGET: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    fn pinger(options: &PingOptions) -> Pinger<'_> {
        let (socket, _) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
                .unwrap();
        Pinger::new(TARGET, options, socket)
    }

    fn ipv4(message: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
        packet.extend(message);
        packet
    }

    #[test]
    fn the_checksum_of_a_request_verifies() {
        for size in [0, 1, 56, 1473] {
            assert_eq!(checksum(&request(TARGET, 7, 9, size)), 0, "{size} bytes");
        }
    }

    #[test]
    fn replies_of_others_and_changed_ones_do_not_count() {
        let options = PingOptions { size: 4, ..PingOptions::default() };
        let mut pinger = pinger(&options);
        pinger.sent_at.push(Instant::now());
        pinger.answered.push(false);
        let mut reply = request(TARGET, pinger.identifier, 1, 4);
        reply[0] = 0;

        let mut foreign = reply.clone();
        foreign[4] ^= 0xff;
        pinger.take(&ipv4(&foreign), TARGET, Instant::now());
        let mut changed = reply.clone();
        changed[HEADER] ^= 1;
        pinger.take(&ipv4(&changed), TARGET, Instant::now());
        assert_eq!((pinger.report.received(), pinger.report.corrupted), (0, 1));

        pinger.take(&ipv4(&reply), TARGET, Instant::now());
        pinger.take(&ipv4(&reply), TARGET, Instant::now());
        assert_eq!((pinger.report.received(), pinger.report.duplicates), (1, 1));
    }

    #[test]
    fn fragmentation_needed_gives_the_mtu() {
        let options = PingOptions::default();
        let mut pinger = pinger(&options);
        let mut message = vec![3, 4, 0, 0, 0, 0, 0x05, 0xc4];
        message.extend(ipv4(&request(TARGET, pinger.identifier, 5, 56)));
        let from = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        pinger.take(&ipv4(&message), from, Instant::now());
        let expected = IcmpError { from, icmp_type: 3, code: 4, sequence: 5, mtu: Some(1476) };
        assert_eq!(pinger.report.errors, [expected]);
    }

    #[test]
    fn short_and_odd_packets_are_ignored() {
        let options = PingOptions::default();
        let mut pinger = pinger(&options);
        for length in 0..60 {
            pinger.take(&vec![0x45; length], TARGET, Instant::now());
            pinger.take(&vec![0x03; length], TARGET, Instant::now());
        }
        assert_eq!(pinger.report.received(), 0);
    }
}
