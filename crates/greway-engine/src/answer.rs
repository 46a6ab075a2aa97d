//! "Port unreachable" for a GRE packet that no tunnel takes (RX-15; linux net/ipv4/ip_gre.c and net/ipv6/ip6_gre.c
//! `gre_rcv`, v6.18).
//!
//! A peer that is told finds out at once that the two ends disagree. Whether anybody may be told at all – another
//! program of this host may take the packet – is for the caller to know; here is who never is, what the answer looks
//! like, and how many there may be. Nothing is answered that was sent to many, or came from nobody in particular, nor
//! a piece of a packet (RFC 1122 §3.2.2, RFC 4443 §2.4e).

use std::net::IpAddr;

use greway_wire::extension::{self, Chain};
use greway_wire::icmp::{self, Quote, QuoteV6};
use greway_wire::ipv4::{self, Ipv4Header};
use greway_wire::ipv6::{self, Ipv6Header};

use crate::notice;

/// An ICMP message to be sent, without its IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// From this address of ours: the one that the packet was sent to.
    pub source: IpAddr,
    /// To this host.
    pub destination: IpAddr,
    /// Type of service or traffic class.
    pub tos: u8,
    /// The message, ICMP's or ICMPv6's as the addresses say, with its checksum.
    pub message: Vec<u8>,
}

impl Answer {
    /// To whom the answer to `datagram`, which begins with its IP header, may go. `None`: nobody may be told.
    pub fn recipient(datagram: &[u8]) -> Option<IpAddr> {
        Self::ends(datagram).map(|(_, recipient)| recipient)
    }

    /// From which address, and to whom. Whether the first is one of this host's, the caller knows.
    pub fn ends(datagram: &[u8]) -> Option<(IpAddr, IpAddr)> {
        match datagram.first()? >> 4 {
            4 => {
                let header = Ipv4Header::parse(datagram).ok()?;
                let hosts = notice::is_host(header.source) && notice::is_host(header.destination);
                let ends = (header.destination.into(), header.source.into());
                (hosts && header.fragment_offset == 0).then_some(ends)
            }
            6 => {
                let header = Ipv6Header::parse(datagram).ok()?;
                let hosts = notice::is_host_v6(header.source) && notice::is_host_v6(header.destination);
                let whole = matches!(extension::follow(datagram), Chain::To { .. });
                (hosts && whole).then_some((header.destination.into(), header.source.into()))
            }
            _ => None,
        }
    }

    /// The answer to a datagram that begins with its IP header, quoting of it as much as one may (RFC 1812
    /// §4.3.2.3, RFC 4443 §2.4c). `None` as in [`Answer::recipient`].
    pub fn port_unreachable(datagram: &[u8]) -> Option<Self> {
        let destination = Self::recipient(datagram)?;
        match destination {
            IpAddr::V4(_) => {
                let header = Ipv4Header::parse(datagram).ok()?;
                let length = datagram.len().min(header.total_length.into());
                let room = icmp::LONGEST - ipv4::MIN_LEN - icmp::HEADER_LEN;
                let quote = Quote {
                    kind: icmp::DESTINATION_UNREACHABLE,
                    code: icmp::PORT_UNREACHABLE,
                    next_hop_mtu: 0,
                    packet: &datagram[..length.min(room)],
                };
                let mut message = vec![0; icmp::HEADER_LEN + quote.packet.len()];
                quote.emit(&mut message).ok()?;
                // The bits of RFC 1349 that the kernel keeps (`RT_TOS`), at the precedence of control traffic.
                let tos = header.tos & 0x1e | 0xc0;
                Some(Self { source: header.destination.into(), destination, tos, message })
            }
            IpAddr::V6(_) => {
                let header = Ipv6Header::parse(datagram).ok()?;
                let length = datagram.len().min(ipv6::LEN + usize::from(header.payload_length));
                let room = icmp::LONGEST_V6 - ipv6::LEN - icmp::HEADER_LEN;
                let quote = QuoteV6 {
                    kind: icmp::V6_DESTINATION_UNREACHABLE,
                    code: icmp::V6_PORT_UNREACHABLE,
                    word: 0,
                    packet: &datagram[..length.min(room)],
                };
                let mut message = vec![0; icmp::HEADER_LEN + quote.packet.len()];
                quote.emit(header.destination, header.source, &mut message).ok()?;
                Some(Self { source: header.destination.into(), destination, tos: 0, message })
            }
        }
    }
}

/// How many messages a host may be sent, and all hosts together: those of Linux (net/ipv4/icmp.c v6.18,
/// `icmp_global_allow`, `icmpv4_xrlim_allow`; net/ipv4/inetpeer.c, `inet_peer_xrlim_allow`), with its defaults of
/// Linux 6.1.
#[derive(Clone, Debug)]
pub struct RateLimit {
    overall: Bucket,
    hosts: Vec<(IpAddr, Bucket)>,
    /// Over IPv4 and IPv6.
    per_host: [Rate; 2],
}

/// The time that was saved up, of which each message costs some.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    saved_ms: u64,
    filled_ms: u64,
}

/// What one bucket holds and gets.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Messages at once.
    burst: u64,
    /// What a message costs; 0: nothing, so that there is no limit.
    interval_ms: u64,
}

/// `icmp_msgs_burst`, `icmp_msgs_per_sec`.
const OVERALL: Rate = Rate { burst: 50, interval_ms: 1 };
/// `XRLIM_BURST_FACTOR`, `icmp_ratelimit`.
const PER_HOST: Rate = Rate { burst: 6, interval_ms: 1_000 };

impl Rate {
    fn most_ms(&self) -> u64 {
        self.burst * self.interval_ms
    }
}

impl Bucket {
    fn full(rate: &Rate, now_ms: u64) -> Self {
        Self { saved_ms: rate.most_ms(), filled_ms: now_ms }
    }

    fn fill(&mut self, rate: &Rate, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.filled_ms);
        self.saved_ms = self.saved_ms.saturating_add(passed).min(rate.most_ms());
        self.filled_ms = self.filled_ms.max(now_ms);
    }
}

impl RateLimit {
    /// Hosts that are told apart at most.
    pub const HOSTS: usize = 256;

    /// Nothing was sent yet.
    pub fn new() -> Self {
        Self {
            overall: Bucket::full(&OVERALL, 0),
            hosts: Vec::with_capacity(Self::HOSTS),
            per_host: [PER_HOST; 2],
        }
    }

    /// Takes another time in milliseconds after which a host of a family may be told once more, in the place of 1000:
    /// the sysctls `net.ipv4.icmp_ratelimit` and `net.ipv6.icmp.ratelimit`. 0: no host is limited.
    pub fn set_interval(&mut self, over_ipv6: bool, interval_ms: u32) {
        self.per_host[usize::from(over_ipv6)].interval_ms = interval_ms.into();
    }

    /// Whether `host` may be sent a message now; if so it is counted.
    ///
    /// Hosts beyond [`RateLimit::HOSTS`] make room for each other only once their buckets are full again, so that
    /// made-up sources cannot wash out the limit of a real one.
    pub fn allow(&mut self, host: IpAddr, now_ms: u64) -> bool {
        self.overall.fill(&OVERALL, now_ms);
        if self.overall.saved_ms < OVERALL.interval_ms {
            return false;
        }
        let rate = self.per_host[usize::from(host.is_ipv6())];
        if rate.interval_ms > 0 {
            let Some(bucket) = self.bucket(host, &rate, now_ms) else { return false };
            if bucket.saved_ms < rate.interval_ms {
                return false;
            }
            bucket.saved_ms -= rate.interval_ms;
        }
        self.overall.saved_ms -= OVERALL.interval_ms;
        true
    }

    /// The bucket of a host, filled up to now.
    fn bucket(&mut self, host: IpAddr, rate: &Rate, now_ms: u64) -> Option<&mut Bucket> {
        let position = match self.hosts.iter().position(|(known, _)| *known == host) {
            Some(position) => position,
            None => {
                let new = (host, Bucket::full(rate, now_ms));
                if self.hosts.len() < Self::HOSTS {
                    self.hosts.push(new);
                    self.hosts.len() - 1
                } else {
                    let rates = self.per_host;
                    let is_full = |(host, bucket): &(IpAddr, Bucket)| {
                        let rate = &rates[usize::from(host.is_ipv6())];
                        let mut bucket = *bucket;
                        bucket.fill(rate, now_ms);
                        bucket.saved_ms >= rate.most_ms()
                    };
                    let position = self.hosts.iter().position(is_full)?;
                    self.hosts[position] = new;
                    position
                }
            }
        };
        let bucket = &mut self.hosts[position].1;
        bucket.fill(rate, now_ms);
        Some(bucket)
    }
}

impl Default for RateLimit {
    fn default() -> Self {
        Self::new()
    }
}
