//! What routers and the far end said about a tunnel's packets, remembered for whoever asks why nothing arrives.
//!
//! Much of it has no consequence for a packet, and is what an operator needs: "port unreachable" from the far end
//! means that it has no such tunnel. The list is small and fixed, so that a flood costs no memory.

use std::fmt;
use std::net::IpAddr;

use greway_wire::icmp;

/// What an ICMP or ICMPv6 error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Complaint {
    /// ICMPv6, not ICMP.
    pub over_ipv6: bool,
    /// Type of the message.
    pub kind: u8,
    /// Code of the message.
    pub code: u8,
}

impl Complaint {
    /// What an ICMP message says.
    pub fn ipv4(kind: u8, code: u8) -> Self {
        Self { over_ipv6: false, kind, code }
    }

    /// What an ICMPv6 message says.
    pub fn ipv6(kind: u8, code: u8) -> Self {
        Self { over_ipv6: true, kind, code }
    }

    /// Whether it says that a packet was too large for the way (ER-02).
    pub fn is_about_size(self) -> bool {
        match (self.over_ipv6, self.kind) {
            (false, icmp::DESTINATION_UNREACHABLE) => self.code == icmp::FRAGMENTATION_NEEDED,
            (over_ipv6, kind) => over_ipv6 && kind == icmp::V6_PACKET_TOO_BIG,
        }
    }

    /// The words of RFC 792, RFC 1812 and RFC 4443 for it.
    pub fn name(self) -> &'static str {
        self.words().0
    }

    /// One sentence for operators: what it means about a packet of a tunnel.
    pub fn explain(self) -> &'static str {
        self.words().1
    }

    fn words(self) -> (&'static str, &'static str) {
        const NO_WAY: &str = "a router has no way to the remote endpoint, or it does not answer there";
        const FILTERED: &str = "a firewall on the way or at the far end refuses GRE (protocol 47)";
        const NO_TUNNEL: &str = "the far end has no tunnel with these ends and this key; compare both ends";
        const NO_GRE: &str = "nothing at the far end speaks GRE (protocol 47)";
        const TOO_FAR: &str = "the way is longer than the ttl of the tunnel, or leads round in a circle";
        const PIECES: &str = "pieces of packets were lost on the way to the far end; lower the tunnel's mtu";
        const TOO_BIG: &str = "the path takes less than was sent; larger packets are told so or cut since";
        const UNREADABLE: &str = "the sender of the message could not read the delivery packet";
        const ODD: &str = "a message that says nothing to a tunnel";
        match (self.over_ipv6, self.kind, self.code) {
            (false, icmp::DESTINATION_UNREACHABLE, code) => match code {
                0 | 6 => ("network unreachable", NO_WAY),
                icmp::HOST_UNREACHABLE | 7 => ("host unreachable", NO_WAY),
                icmp::PROTOCOL_UNREACHABLE => ("protocol unreachable", NO_GRE),
                icmp::PORT_UNREACHABLE => ("port unreachable", NO_TUNNEL),
                icmp::FRAGMENTATION_NEEDED => ("fragmentation needed", TOO_BIG),
                icmp::SOURCE_ROUTE_FAILED => ("source route failed", ODD),
                9 | 10 | 13 => ("administratively prohibited", FILTERED),
                _ => ("destination unreachable", NO_WAY),
            },
            (false, icmp::TIME_EXCEEDED, 0) => ("ttl exceeded", TOO_FAR),
            (false, icmp::TIME_EXCEEDED, _) => ("reassembly time exceeded", PIECES),
            (false, icmp::PARAMETER_PROBLEM, _) | (true, icmp::V6_PARAMETER_PROBLEM, 0 | 2) => {
                ("parameter problem", UNREADABLE)
            }
            // Of a host that knows no next header 47.
            (true, icmp::V6_PARAMETER_PROBLEM, _) => ("unrecognized next header", NO_GRE),
            (true, icmp::V6_DESTINATION_UNREACHABLE, code) => match code {
                0 => ("no route to destination", NO_WAY),
                1 | 5 => ("administratively prohibited", FILTERED),
                icmp::V6_ADDRESS_UNREACHABLE => ("address unreachable", NO_WAY),
                icmp::V6_PORT_UNREACHABLE => ("port unreachable", NO_TUNNEL),
                _ => ("destination unreachable", NO_WAY),
            },
            (true, icmp::V6_PACKET_TOO_BIG, _) => ("packet too big", TOO_BIG),
            (true, icmp::V6_TIME_EXCEEDED, 0) => ("hop limit exceeded", TOO_FAR),
            (true, icmp::V6_TIME_EXCEEDED, _) => ("reassembly time exceeded", PIECES),
            _ => ("an error", ODD),
        }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One kind of error that one host sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeardEntry {
    /// What it says.
    pub complaint: Complaint,
    /// Who sent it.
    pub from: IpAddr,
    /// How many since the entry was made.
    pub count: u64,
    /// When the last one came, in milliseconds of the worker's clock.
    pub last_ms: u64,
}

/// The errors about one tunnel's packets.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    entries: Vec<HeardEntry>,
}

impl Heard {
    /// Entries at most.
    pub const CAPACITY: usize = 8;

    /// Counts an error. Where there is no more room the entry that has been silent longest goes.
    pub fn record(&mut self, complaint: Complaint, from: IpAddr, now_ms: u64) {
        let same = |entry: &&mut HeardEntry| entry.complaint == complaint && entry.from == from;
        if let Some(entry) = self.entries.iter_mut().find(same) {
            entry.count += 1;
            entry.last_ms = now_ms;
            return;
        }
        let entry = HeardEntry { complaint, from, count: 1, last_ms: now_ms };
        if self.entries.len() < Self::CAPACITY {
            self.entries.push(entry);
        } else if let Some(oldest) = self.entries.iter_mut().min_by_key(|entry| entry.last_ms) {
            *oldest = entry;
        }
    }

    /// The entries, in no order that means anything.
    pub fn entries(&self) -> &[HeardEntry] {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 254));

    #[test]
    fn an_entry_for_each_kind_and_sender() {
        let mut heard = Heard::default();
        let other = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 253));
        for (code, from, now) in [(1, ROUTER, 5), (1, ROUTER, 9), (1, other, 7), (3, ROUTER, 8)] {
            heard.record(Complaint::ipv4(3, code), from, now);
        }
        let seen: Vec<_> = heard.entries().iter().map(|e| (e.complaint.code, e.count, e.last_ms)).collect();
        assert_eq!(seen, [(1, 2, 9), (1, 1, 7), (3, 1, 8)]);
    }

    #[test]
    fn a_flood_keeps_what_spoke_last() {
        let mut heard = Heard::default();
        for code in 0..200_u8 {
            heard.record(Complaint::ipv4(3, code), ROUTER, u64::from(code));
        }
        assert_eq!(heard.entries().len(), Heard::CAPACITY);
        assert!(heard.entries().iter().all(|entry| entry.last_ms >= 200 - Heard::CAPACITY as u64));
    }

    #[test]
    fn every_type_and_code_has_words() {
        for over_ipv6 in [false, true] {
            for (kind, code) in (0..=255).flat_map(|kind| (0..=255).map(move |code| (kind, code))) {
                let complaint = Complaint { over_ipv6, kind, code };
                assert!(!complaint.name().is_empty() && complaint.explain().len() > 20, "{complaint:?}");
            }
        }
        // What the peer's kernel says without a tunnel, with either family.
        assert_eq!(Complaint::ipv4(3, 3).name(), Complaint::ipv6(1, 4).name());
        assert_ne!(Complaint::ipv4(3, 2).explain(), Complaint::ipv4(3, 3).explain());
    }
}
