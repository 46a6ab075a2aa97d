//! Echo requests back to back, each timed in nanoseconds from before the call that sends it to after the call that
//! takes the answer. [`crate::ping`] reports more of each answer, and takes longer for it than the way there and back.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use greway_linux::clock::monotonic_nanos;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};

use greway_wire::checksum::checksum;

use super::{Way, inside};
use crate::Error;

/// Bytes of an echo message, as ping sends them.
const SIZE: usize = 64;
/// How long an answer may take.
const WAIT: Duration = Duration::from_millis(500);
/// So many lost in a row, and there is no path.
const GIVE_UP: u32 = 5;

/// Round-trip times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoundTrips {
    /// Of each answered request, in nanoseconds, ascending.
    pub nanos: Vec<u64>,
    /// Requests without an answer.
    pub lost: u32,
}

impl RoundTrips {
    /// The time that half of the requests took longer than; `None` when none was answered.
    pub fn median(&self) -> Option<u64> {
        self.percentile(50)
    }

    /// The time within which so many of a hundred requests were answered; `None` when none was. One that was lost counts
    /// as the half second for which its answer was waited.
    pub fn percentile(&self, percent: usize) -> Option<u64> {
        let all = self.nanos.len() + self.lost as usize;
        let last = *self.nanos.last()?;
        let within = self.nanos.get(all * percent / 100).copied();
        Some(within.unwrap_or_else(|| last.max(WAIT.as_nanos() as u64)))
    }
}

/// Sends `count` echo requests (IPv4), each when the one before it is answered or lost.
///
/// # Errors
/// [`Error::System`] when the socket fails, [`Error::Value`] for an IPv6 address; what is lost is no error.
pub fn round_trips(way: &Way<'_>, count: u32) -> Result<RoundTrips, Error> {
    inside(way.from, "sender", || {
        let mut pinger = pinger(way.address)?;
        for _ in 0..count {
            if !pinger.once()? {
                break;
            }
        }
        Ok(pinger.report())
    })
}

/// One who sends echo requests from the namespace that it was made in.
pub(super) struct Pinger {
    address: IpAddr,
    socket: OwnedFd,
    identifier: u16,
    number: u16,
    /// Lost in a row.
    missed: u32,
    trips: RoundTrips,
}

/// One that pings `address`.
pub(super) fn pinger(address: IpAddr) -> Result<Pinger, Error> {
    if address.is_ipv6() {
        let value = address.to_string();
        return Err(Error::Value { object: "round trips".to_owned(), value, expected: "an IPv4 address" });
    }
    let open = || -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::INET, SocketType::RAW, flags, Some(ipproto::ICMP))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(WAIT))?;
        rustix::net::connect(&socket, &SocketAddr::new(address, 0))?;
        Ok(socket)
    };
    let socket = open().map_err(Error::system("sender", format!("ping {address}")))?;
    let (identifier, trips) = (std::process::id() as u16, RoundTrips::default());
    Ok(Pinger { address, socket, identifier, number: 0, missed: 0, trips })
}

impl Pinger {
    /// Sends one and waits for its answer; `false` when so many were lost in a row that there is no path.
    pub(super) fn once(&mut self) -> Result<bool, Error> {
        let request = request(self.identifier, self.number);
        self.number = self.number.wrapping_add(1);
        let sent = monotonic_nanos();
        let answered = match rustix::net::send(&self.socket, &request, SendFlags::empty()) {
            Ok(_) => answer(&self.socket, &request)
                .map_err(Error::system("sender", format!("ping {}", self.address)))?,
            // A device that is full or a firewall: no answer either.
            Err(_) => false,
        };
        if answered {
            self.trips.nanos.push(monotonic_nanos() - sent);
            self.missed = 0;
        } else {
            self.missed += 1;
            self.trips.lost += 1;
        }
        Ok(self.missed < GIVE_UP)
    }

    /// What came of them.
    pub(super) fn report(mut self) -> RoundTrips {
        self.trips.nanos.sort_unstable();
        self.trips
    }
}

fn request(identifier: u16, number: u16) -> [u8; SIZE] {
    let mut message = [0x5a; SIZE];
    message[..4].copy_from_slice(&[8, 0, 0, 0]);
    message[4..6].copy_from_slice(&identifier.to_be_bytes());
    message[6..8].copy_from_slice(&number.to_be_bytes());
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Waits for the answer to a request; `false` when it does not come.
fn answer(socket: impl std::os::fd::AsFd, request: &[u8; SIZE]) -> io::Result<bool> {
    let mut buffer = [0_u8; 256];
    loop {
        match rustix::net::recv(&socket, &mut buffer, RecvFlags::empty()) {
            Ok((length, _)) if is_answer(&buffer[..length.min(buffer.len())], request) => return Ok(true),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(false),
            // An ICMP error about an earlier one.
            Err(rustix::io::Errno::HOSTUNREACH | rustix::io::Errno::NETUNREACH) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_answer(packet: &[u8], request: &[u8; SIZE]) -> bool {
    let Some(first) = packet.first() else { return false };
    let header = usize::from(first & 15) * 4;
    let Some(message) = packet.get(header..) else { return false };
    message.first() == Some(&0) && message.get(4..) == Some(&request[4..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_request_with_type_0_and_its_own_number() {
        let request = request(7, 9);
        let packet = |message: &[u8]| [&[0x45; 20][..], message].concat();
        let mut reply = request;
        reply[0] = 0;
        assert!(is_answer(&packet(&reply), &request));
        assert!(!is_answer(&packet(&request), &request), "the request itself");
        reply[7] = 8;
        assert!(!is_answer(&packet(&reply), &request), "of another request");
        assert!(!is_answer(&[0x45], &request) && !is_answer(&[], &request));
    }

    #[test]
    fn the_median_of_none_is_none() {
        assert_eq!(RoundTrips::default().median(), None);
        assert_eq!(RoundTrips { nanos: vec![1, 5, 9], lost: 0 }.median(), Some(5));
    }

    #[test]
    fn what_is_lost_took_as_long_as_was_waited() {
        let trips = RoundTrips { nanos: (1..=98).collect(), lost: 2 };
        assert_eq!(trips.percentile(50), Some(51));
        assert_eq!(trips.percentile(97), Some(98));
        assert_eq!(trips.percentile(99), Some(500_000_000));
        assert_eq!(RoundTrips { nanos: vec![], lost: 5 }.median(), None);
    }
}
