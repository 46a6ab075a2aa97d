//! The short way out: by packet socket to a neighbour whose hardware address is known, past the IP stack.
//!
//! It costs a quarter less than a raw socket, which has each segment routed and looks its neighbour up again. The queueing
//! discipline of the device, its tcpdump and its nf_tables hooks are behind it as behind the raw socket; rules on OUTPUT
//! and POSTROUTING and IPsec are not. So whoever tells of an [`Exit`] vouches that there are none, and that the kernel
//! would send just there. Nothing goes this way that the kernel would send in another form or line: only
//! IPv4 with DF, which has no identification (RFC 6864 §4.1; linux net/ipv4/ip_output.c `ip_select_ident_segs`, v6.18),
//! no larger than the path, and of the priority that no TOS raises.
//!
//! A neighbour that nobody asks the IP stack for is one that the kernel does not look after: once a second a packet takes
//! the long way, and the kernel finds out as always when its neighbour has gone.
//!
//! A super-packet may leave in one piece, handed to the kernel ([`Injection`]): it looks up the neighbour itself, and cuts the
//! packet where it must. It has been sent when the call returns, and order is kept.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use greway_engine::{GsoKind, Outer, Segment, Train, Whole};
use greway_linux::MacAddr;
use greway_linux::batch::Target;
use greway_linux::injector::Injector;
use greway_wire::{ethertype, gre, ipv4::Ipv4Header};

/// Where a tunnel's delivery packets leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The device.
    pub ifindex: u32,
    /// The hardware address of the next hop.
    pub neighbour: MacAddr,
    /// The address that the kernel sends from.
    pub source: Ipv4Addr,
    /// The remote that it leads to.
    pub destination: Ipv4Addr,
    /// The largest delivery packet in bytes.
    pub path_mtu: u32,
    /// What its device takes whole.
    pub whole: SuperPackets,
}

/// Which super-packets in GRE may leave in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuperPackets {
    /// None.
    Split,
    /// Those of TCP: the device hands them on as they are. Who receives one by raw socket is not told where it is to be cut,
    /// which is no matter to a stream of bytes.
    OfTcp,
    /// All: the kernel cuts them for the device.
    All,
}

/// Where super-packets in GRE are handed to the kernel, which sends them on.
#[derive(Debug)]
pub struct Injection {
    /// The device that they are written to.
    pub injector: Injector,
    /// Its hardware address.
    pub address: MacAddr,
}

/// How a train leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// By raw socket: the kernel makes the outer header.
    ByStack {
        /// Whether it sets DF.
        dont_fragment: bool,
    },
    /// By packet socket, with a header of ours.
    By(Exit),
}

/// An exit in use.
#[derive(Debug)]
pub(crate) struct ShortWay {
    exit: Exit,
    /// When a packet last took the long way, in milliseconds of the monotonic clock.
    long_way_ms: u64,
}

/// Once in so many milliseconds the kernel is to see that the neighbour is needed.
const LONG_WAY_EVERY: u64 = 1_000;

/// Bytes of an IPv4 header without options (RFC 791 §3.1).
pub(crate) const HEADER: usize = 20;

impl ShortWay {
    pub(crate) fn new(exit: Exit) -> Self {
        Self { exit, long_way_ms: 0 }
    }

    /// Whether a super-packet of this kind may leave whole.
    pub(crate) fn takes_whole(&self, kind: GsoKind) -> bool {
        match self.exit.whole {
            SuperPackets::Split => false,
            SuperPackets::OfTcp => kind != GsoKind::Udp,
            SuperPackets::All => true,
        }
    }

    /// None does any more.
    pub(crate) fn split_all(&mut self) {
        self.exit.whole = SuperPackets::Split;
    }

    /// Where a train leaves that has a super-packet in it, if it may.
    pub(crate) fn whole(&self, train: &Train) -> Option<Exit> {
        // The kernel takes one from the TTL.
        let may = train.has_whole() && train.outer().ttl < u8::MAX && self.exit.takes(train);
        may.then_some(self.exit)
    }

    /// How a train leaves for which there is this way.
    pub(crate) fn leave(&mut self, train: &Train, now_ms: u64) -> Leave {
        let by_stack = Leave::ByStack { dont_fragment: train.outer().dont_fragment };
        if !self.exit.takes(train) {
            return by_stack;
        }
        if now_ms.saturating_sub(self.long_way_ms) >= LONG_WAY_EVERY {
            self.long_way_ms = now_ms;
            return by_stack;
        }
        Leave::By(self.exit)
    }
}

impl Exit {
    /// Whether the kernel would send it just so.
    fn takes(&self, train: &Train) -> bool {
        let outer = train.outer();
        let ours = |source: IpAddr| source == IpAddr::V4(self.source);
        let length = |segment: Segment<'_>| match segment.whole {
            Some(whole) => whole.longest,
            None => segment.total_len(),
        };
        let longest = train.segments().map(length).max().unwrap_or(0);
        outer.dont_fragment
            && outer.destination == IpAddr::V4(self.destination)
            && outer.source.filter(|source| !source.is_unspecified()).is_none_or(ours)
            && outer.tos & PRIORITY == 0
            && HEADER + longest <= self.path_mtu as usize
    }

    /// The outer header of a packet with so many bytes behind it, which [`Exit::takes`].
    pub(crate) fn header(&self, outer: &Outer, payload_len: usize) -> [u8; HEADER] {
        let header = Ipv4Header {
            tos: outer.tos,
            total_length: (HEADER + payload_len) as u16,
            identification: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: outer.ttl,
            protocol: gre::PROTOCOL,
            source: self.source,
            destination: self.destination,
            options: &[],
        };
        let mut bytes = [0; HEADER];
        let emitted = header.emit(&mut bytes);
        debug_assert!(emitted.is_ok(), "a header without options has 20 bytes");
        bytes
    }

    /// Where a packet socket sends it.
    pub(crate) fn target(&self) -> Target {
        Target::Link { ifindex: self.ifindex, mac: self.neighbour, protocol: ethertype::IPV4 }
    }
}

impl Injection {
    /// Has a segment of a train sent, which [`Exit::takes`]; `packet`: what was encapsulated.
    pub(crate) fn send(
        &self,
        exit: &Exit,
        outer: &Outer,
        segment: Segment<'_>,
        packet: &[u8],
    ) -> io::Result<()> {
        let outer = Outer { ttl: outer.ttl.saturating_add(1), ..*outer };
        let header = exit.header(&outer, segment.total_len());
        let network = |whole: Whole| whole.network + HEADER as u16;
        let whole = segment.whole.map(|whole| (crate::offload::emit(&whole.offload, HEADER), network(whole)));
        let slices = [&header, segment.header, &packet[segment.payload]];
        self.injector.send(self.address, exit.ifindex, whole, slices)
    }
}

/// The bits of a TOS by which a raw socket gives a packet a priority in the device's queue (linux
/// net/ipv4/route.c `ip_tos2prio`, v6.18); a packet socket gives all of them the same.
const PRIORITY: u8 = 0x1c;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use greway_engine::{Offload, Tunnel, TunnelCounters, TunnelState, encapsulate};
    use greway_spec::{Draft, TunnelSpec};
    use greway_wire::checksum;

    use super::*;

    const EXIT: Exit = Exit {
        ifindex: 7,
        neighbour: MacAddr::new([2, 0, 0, 0, 0, 9]),
        source: Ipv4Addr::new(10, 0, 0, 1),
        destination: Ipv4Addr::new(10, 0, 0, 2),
        path_mtu: 1_500,
        whole: SuperPackets::Split,
    };

    fn spec() -> TunnelSpec {
        let end = |text: &str| text.parse().unwrap();
        Draft::new("tun0".parse().unwrap(), end("10.0.0.1"), end("10.0.0.2")).into_spec().unwrap()
    }

    /// A train of one packet of so many bytes.
    fn train(spec: &TunnelSpec, bytes: usize, tos: u8) -> Train {
        let mut packet = vec![0; bytes];
        let header = Ipv4Header {
            tos,
            total_length: bytes as u16,
            identification: 3,
            dont_fragment: false,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 9,
            protocol: 17,
            source: Ipv4Addr::new(192, 168, 0, 1),
            destination: Ipv4Addr::new(192, 168, 0, 2),
            options: &[],
        };
        header.emit(&mut packet).unwrap();
        let tunnel = Tunnel::new(spec, Arc::new(TunnelCounters::new()));
        let (mut state, mut train) = (TunnelState::starting_at(0), Train::new());
        encapsulate(&tunnel, &mut state, 0x0800, &packet, Offload::NONE, None, &mut train).unwrap();
        train
    }

    #[test]
    fn the_header_is_the_one_that_the_stack_would_write() {
        let train = train(&spec(), 100, 0);
        let header = EXIT.header(&train.outer(), train.segments().next().unwrap().total_len());
        assert!(checksum::verifies(&header));
        let parsed = Ipv4Header::parse(&header).unwrap();
        assert_eq!((parsed.total_length, parsed.identification, parsed.ttl), (124, 0, train.outer().ttl));
        assert_eq!((parsed.source, parsed.destination), (EXIT.source, EXIT.destination));
        assert!(parsed.dont_fragment && parsed.protocol == 47);
    }

    #[test]
    fn what_the_stack_would_send_otherwise_takes_the_long_way() {
        let spec = spec();
        assert!(EXIT.takes(&train(&spec, 1_476, 0)));
        assert!(!EXIT.takes(&train(&spec, 1_477, 0)), "larger than the path");
        let inherits = TunnelSpec { tos: greway_spec::Tos { inherit: true, value: 0 }, ..spec.clone() };
        assert!(EXIT.takes(&train(&inherits, 100, 2)), "ECN is no priority");
        assert!(!EXIT.takes(&train(&inherits, 100, 0xb8)), "a priority in the queue");
        let fragments = TunnelSpec { pmtudisc: false, ..spec.clone() };
        assert!(!EXIT.takes(&train(&fragments, 100, 0)), "has an identification");
        let other = Exit { destination: Ipv4Addr::new(10, 0, 0, 3), ..EXIT };
        assert!(!other.takes(&train(&spec, 100, 0)), "another remote");
        let moved = Exit { source: Ipv4Addr::new(10, 0, 0, 4), ..EXIT };
        assert!(!moved.takes(&train(&spec, 100, 0)), "another local");
    }

    #[test]
    fn once_a_second_the_kernel_sees_that_the_neighbour_is_needed() {
        let train = train(&spec(), 100, 0);
        let mut way = ShortWay::new(EXIT);
        let long = Leave::ByStack { dont_fragment: true };
        let ways = [5_000, 5_001, 5_999, 6_000, 6_001].map(|now_ms| way.leave(&train, now_ms));
        assert_eq!(ways, [long, Leave::By(EXIT), Leave::By(EXIT), long, Leave::By(EXIT)]);
    }
}
