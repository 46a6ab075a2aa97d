//! The programs against the engine: random tunnels and random packets give the same bytes and the same reason, or
//! the program left the packet to userspace. Common packets it may not leave.
//!
//! Nothing is sent: `BPF_PROG_TEST_RUN` runs a program on bytes and tells what it made of them. Each case has a
//! number; `GREWAY_CASE=N` runs that one alone.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

#[path = "support/random.rs"]
mod random;
mod support;

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use greway_engine::{
    Endpoint, Fit, Gso, GsoKind, Ingress, Offload, Receipt, Train, Tunnel, TunnelCounters, TunnelIndex,
    TunnelState, TunnelTable, UnderlayCounters, Unmatched, Verdict, decapsulate, encapsulate, fit,
};
use greway_fastpath::{Decline, Dropped, Entry, Fastpath, Member, Options, Place, Point, SEALED_TCI, Table};
use greway_linux::bpf;
use greway_spec::{Draft, MssClamp, Ttl, TunnelSpec};
use greway_wire::{ethertype, ipv6::Ipv6Header};
use random::*;
use support::*;

const CASES: u64 = 4000;
/// What the test run of a program takes for the packet's device.
const LO: u32 = 1;
/// include/uapi/linux/pkt_cls.h
const NEXT: u32 = u32::MAX;
const SHOT: u32 = 2;
const REDIRECT: u32 = 7;

#[test]
fn egress_is_the_engines_or_declined() {
    in_namespace("egress_is_the_engines_or_declined", |_wire| {
        let mut bench = Bench::new(Point::Overlay, &options());
        let mut tally = Tally::default();
        for case in cases() {
            let mut random = Random(case);
            let spec = spec(&mut random);
            let packet = payload(&mut random, &spec);
            tally.add(egress_case(&mut bench, case, &spec, &packet, &mut random));
        }
        tally.judge("egress", bench.declined);
    });
}

#[test]
fn ingress_is_the_engines_or_declined() {
    in_namespace("ingress_is_the_engines_or_declined", |_wire| ingress_cases(&options()));
}

/// Linux before 6.3 has no flags for decapsulating (M13), and newer ones do without them as well.
#[test]
fn ingress_is_the_engines_on_older_kernels_too() {
    in_namespace("ingress_is_the_engines_on_older_kernels_too", |_wire| {
        ingress_cases(&Options { decap_flags: 0, ..options() });
    });
}

fn ingress_cases(options: &Options) {
    let mut bench = Bench::new(Point::Underlay, options);
    bench.fastpath.set_local_addresses((0..3).flat_map(|n| [v4(n), v6(n)])).unwrap();
    let mut tally = Tally::default();
    for case in cases() {
        tally.add(ingress_case(&mut bench, case, &mut Random(case)));
    }
    tally.judge("ingress", bench.declined);
}

/// One case: what came of it, and whether the packet was one that must be carried.
fn egress_case(
    bench: &mut Bench,
    case: u64,
    spec: &TunnelSpec,
    packet: &Payload,
    random: &mut Random,
) -> (End, bool) {
    let path_mtu = *random.of(&[1500, 1500, 1500, 1400, 1280, 600, 9000]);
    let place = Place { path_mtu, withheld: random.one_in(30), ..place(LO, spec) };
    let entry = Entry::of(spec, &place).ok();
    let table = Table::of([Member { spec, place, wanted: true }]);
    assert_eq!(table.egress.get(&LO), entry.map(|entry| entry.egress).as_ref());
    bench.fastpath.apply(&table).unwrap();

    // The engine's answer.
    let tunnel = Tunnel::new(spec, Arc::new(TunnelCounters::new()));
    let (protocol, bytes) = match spec.mode.is_ethernet() {
        true => (ethertype::TEB, &packet.frame[..]),
        false => (packet.ethertype, &packet.frame[14..]),
    };
    let mut train = Train::new();
    let fits = fit(&tunnel, protocol, bytes, Offload::NONE, place.path_mtu) == Fit::Fits;
    let mut state = TunnelState::default();
    let answer = encapsulate(&tunnel, &mut state, protocol, bytes, Offload::NONE, None, &mut train);

    // The program's.
    let ran = bench.run(&packet.frame, 0);
    let context = format!("case {case}: {spec:?}\n{place:?}\n{:02x?}\n{ran:?}", packet.frame);
    // What may be fragmented outside is too much for the program.
    let whole = bytes.len() + tunnel.overhead() <= place.path_mtu as usize;
    let carried = entry.is_some() && !place.withheld && !spec_clamps(spec);
    let common = carried && whole && answer.is_ok() && packet.common;
    match ran.verdict {
        // Declined: it goes on to where userspace taps it, by its ethertype or behind a tag.
        NEXT => {
            let mut expected = packet.frame.clone();
            if !matches!(packet.ethertype, ethertype::IPV4 | ethertype::IPV6 | ethertype::ARP) {
                expected.splice(12..12, [ethertype::QINQ.to_be_bytes(), SEALED_TCI.to_be_bytes()].concat());
            }
            assert_eq!(ran.packet, expected, "declined, but changed: {context}");
            assert_eq!(ran.dropped, None, "nothing is dropped on the way out: {context}");
            assert_eq!(ran.tunnel.tx_packets, 0, "declined, but counted as sent: {context}");
            (End::Declined(ran.reason.unwrap_or_else(|| panic!("for no reason: {context}"))), common)
        }
        REDIRECT => {
            assert!(!place.withheld, "{context}");
            assert!(fits && answer.is_ok(), "the engine says {answer:?}, fits {fits}: {context}");
            assert_eq!(train.len(), 1, "{context}");
            let segment = train.segments().next().unwrap();
            let mut outer = train.outer();
            outer.source = outer.source.or(place.source);
            let identification = u16::from_be_bytes([ran.packet[18], ran.packet[19]]);
            if !spec.mode.over_ipv6() {
                // 0 with DF; a datagram that may be fragmented has one of its own.
                assert_eq!(identification == 0, outer.dont_fragment, "{context}");
            } else if outer.flow_label == 0 {
                // The host's own choice.
                outer.flow_label =
                    u32::from_be_bytes([0, ran.packet[15] & 15, ran.packet[16], ran.packet[17]]);
            }
            let mut header = [0; greway_engine::Outer::MAX_LEN];
            let length = outer.emit(segment.total_len(), identification, &mut header);
            let expected = [&header[..length], segment.header, &bytes[segment.payload.clone()]].concat();
            assert_eq!(ran.packet[14..], expected, "{context}");
            let bytes_sent = u64::try_from(bytes.len()).unwrap();
            assert_eq!((ran.tunnel.tx_packets, ran.tunnel.tx_bytes), (1, bytes_sent), "{context}");
            let outer_type = if spec.mode.over_ipv6() { ethertype::IPV6 } else { ethertype::IPV4 };
            assert_eq!(ran.packet[12..14], outer_type.to_be_bytes(), "{context}");
            if !matches!(packet.ethertype, ethertype::IPV4 | ethertype::IPV6) {
                // Once more round, now as what it has become.
                let again = bench.run(&ran.packet, ran.mark);
                assert_eq!((again.verdict, &again.packet), (REDIRECT, &ran.packet), "{context}");
                assert_eq!((again.mark, again.tunnel.tx_packets), (spec.fwmark, 0), "{context}");
            } else {
                assert_eq!(ran.mark, spec.fwmark, "{context}");
            }
            (End::Carried, common)
        }
        other => panic!("verdict {other}: {context}"),
    }
}

fn ingress_case(bench: &mut Bench, case: u64, random: &mut Random) -> (End, bool) {
    let specs: Vec<TunnelSpec> = (0..*random.of(&[1, 1, 1, 2, 3, 4])).map(|_| close_spec(random)).collect();
    let mut seen = Vec::new();
    // The daemon refuses two that share everything.
    let specs: Vec<(TunnelSpec, Option<u32>)> = specs
        .into_iter()
        .map(|spec| (spec, *random.of(&[None, None, None, Some(LO), Some(9)])))
        .filter(|(spec, dev)| {
            let identity = (Endpoint::of(spec), *dev);
            !seen.contains(&identity) && {
                seen.push(identity);
                true
            }
        })
        .collect();
    let places: Vec<Place> = (0..)
        .zip(&specs)
        .map(|(n, (spec, dev))| Place {
            dev: *dev,
            device_mac: [2, 0, 0, 0, 1, n],
            device_mtu: *random.of(&[1476, 1476, 300]),
            via: *random.of(&[None, None, None, Some(LO), Some(9)]),
            ..place(u32::from(n) + 100, spec)
        })
        .collect();
    let members = || specs.iter().zip(&places).map(|((spec, _), place)| (spec, *place));
    let table = Table::of(members().map(|(spec, place)| Member { spec, place, wanted: true }));
    bench.fastpath.apply(&table).unwrap();

    let (mut frame, mut common) = delivery(random, &specs[0].0);
    if random.one_in(4) {
        common = false;
        damage(random, &mut frame);
    }

    let engine_table =
        TunnelTable::new((0..).zip(&specs).map(|(index, (spec, dev))| (TunnelIndex(index), spec, *dev)));
    let mut tunnels: Vec<(Arc<Tunnel>, TunnelState)> = members()
        .map(|(spec, _)| (Arc::new(Tunnel::new(spec, Arc::default())), TunnelState::default()))
        .collect();
    let underlay = UnderlayCounters::new();
    let mut unmatched = Unmatched::default();
    let mut datagram = frame[14..].to_vec();
    let receipt = Receipt::Facts { offload: Offload::NONE, ifindex: LO };
    let mut engine = Ingress {
        table: &engine_table,
        tunnels: &mut tunnels,
        underlay: &underlay,
        unmatched: &mut unmatched,
    };
    let answer = decapsulate(&mut engine, &mut datagram, receipt, 1);

    let peer = match &answer {
        Verdict::Deliver(delivery) => places[delivery.tunnel.0 as usize].peer,
        Verdict::Drop { tunnel: Some(tunnel), .. } => places[tunnel.0 as usize].peer,
        _ => places[0].peer,
    };
    let ran = bench.run_for(&frame, 0, peer);
    let context = format!("case {case}: {specs:?}\n{places:?}\n{frame:02x?}\n{answer:?}\n{ran:?}");
    // Common is what the only tunnel there is gets, where it may.
    let must = common && specs.len() == 1 && {
        let (spec, dev) = &specs[0];
        let link = if spec.mode.is_ethernet() { 14 } else { 0 };
        let largest = link + 4 + places[0].device_mtu as usize;
        let fits = matches!(&answer, Verdict::Deliver(delivery) if delivery.inner.len() <= largest);
        fits && dev.is_none()
            && places[0].via != Some(9)
            && Entry::of(spec, &places[0]).is_ok()
            && !spec_clamps(spec)
    };
    match ran.verdict {
        NEXT => {
            assert_eq!(ran.packet, frame, "declined, but changed: {context}");
            (End::Declined(ran.reason.unwrap()), must)
        }
        SHOT => {
            let Verdict::Drop { reason, .. } = answer else { panic!("{context}") };
            let dropped = ran.dropped.unwrap_or_else(|| panic!("dropped for no reason: {context}"));
            assert_eq!(dropped.name(), reason.name(), "{context}");
            (End::Dropped, must)
        }
        REDIRECT => {
            let Verdict::Deliver(delivery) = answer else { panic!("{context}") };
            let inner = &datagram[delivery.inner.clone()];
            let at = delivery.tunnel.0 as usize;
            let expected = match specs[at].0.mode.is_ethernet() {
                true => inner.to_vec(),
                false => {
                    let ethertype = delivery.protocol_type.to_be_bytes();
                    [&places[at].device_mac[..], &places[at].peer_mac, &ethertype, inner].concat()
                }
            };
            assert_eq!(ran.packet, expected, "{context}");
            let counted = (ran.tunnel.rx_packets, ran.tunnel.rx_bytes);
            assert_eq!(counted, (1, u64::try_from(inner.len()).unwrap()), "{context}");
            (End::Carried, must)
        }
        other => panic!("verdict {other}: {context}"),
    }
}

/// A test run knows of no kind of super-packet, so the kernel refuses to encapsulate one; that its segments fit is
/// found out before.
#[test]
fn the_segments_of_a_super_packet_are_measured() {
    in_namespace("the_segments_of_a_super_packet_are_measured", |_wire| {
        let mut bench = Bench::new(Point::Overlay, &options());
        let mut tried = 0;
        for case in 0..600 {
            let mut random = Random(case);
            let mut spec = spec(&mut random);
            (spec.icsum, spec.ocsum, spec.iseq, spec.oseq) = (false, false, false, false);
            (spec.ttl, spec.mss) = (Ttl::Fixed(9), MssClamp::Off);
            let place = Place { path_mtu: *random.of(&[1500, 1280]), ..place(LO, &spec) };
            bench.fastpath.apply(&Table::of([Member { spec: &spec, place, wanted: true }])).unwrap();
            let six = random.one_in(2);
            let tcp_len = *random.of(&[20, 32]);
            let size = 1180 + random.below(300);
            let mut tcp = random.bytes(tcp_len + 3000);
            tcp[12] = (tcp_len as u8 / 4) << 4;
            tcp[13] = 0x10;
            let (kind, ip) = if six {
                (ethertype::IPV6, tcp_header_v6(tcp.len()))
            } else {
                (ethertype::IPV4, tcp_header_v4(tcp.len()))
            };
            let frame = [&[2; 12][..], &kind.to_be_bytes(), &ip, &tcp].concat();
            let tunnel = Tunnel::new(&spec, Arc::default());
            let (protocol, bytes) =
                if spec.mode.is_ethernet() { (ethertype::TEB, &frame[..]) } else { (kind, &frame[14..]) };
            let header_len = (bytes.len() - tcp.len() + tcp_len) as u16;
            let kind = if six { GsoKind::Tcp6 } else { GsoKind::Tcp4 };
            let gso = Gso { kind, size: size as u16, header_len, ecn: false };
            let fits =
                fit(&tunnel, protocol, bytes, Offload { partial: None, gso: Some(gso) }, place.path_mtu);
            let whole = usize::from(header_len) + size + tunnel.overhead() <= place.path_mtu as usize;
            let ran = bench.run_gso(&frame, size as u32);
            let context = format!("case {case}: {spec:?} {place:?} {size} {header_len} {ran:?}");
            assert_eq!((ran.verdict, &ran.packet), (NEXT, &frame), "{context}");
            assert_eq!(ran.reason, Some(if whole { Decline::Refused } else { Decline::TooBig }), "{context}");
            assert!(!whole || fits == Fit::Fits, "{context}");
            tried += u64::from(whole);
        }
        assert!((100..500).contains(&tried), "{tried} of 600 fit");
    });
}

/// Without the flags for decapsulating (before Linux 6.3) a merged packet keeps the IP version of its delivery header,
/// and TCP over the other one stood still.
#[test]
fn merged_packets_of_the_other_ip_version_need_the_newer_flags() {
    in_namespace("merged_packets_of_the_other_ip_version_need_the_newer_flags", |_wire| {
        let reasons = |decap_flags| {
            let mut bench = Bench::new(Point::Underlay, &Options { decap_flags, ..options() });
            let (local, remote) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
            let spec = Draft::new("tun0".parse().unwrap(), local, remote).into_spec().unwrap();
            let place = place(100, &spec);
            bench.fastpath.apply(&Table::of([Member { spec: &spec, place, wanted: true }])).unwrap();
            [(ethertype::IPV4, tcp_header_v4(3020)), (ethertype::IPV6, tcp_header_v6(3020))].map(
                |(kind, ip)| {
                    let gre = [&[0, 0][..], &kind.to_be_bytes(), &ip, &[0; 3020]].concat();
                    let mut frame =
                        ethernet(ethertype::IPV4, &ipv4_packet(47, remote.octets(), local.octets(), &gre));
                    // To the loopback device's own address.
                    frame[..6].fill(0);
                    bench.run_gso(&frame, 1400).reason
                },
            )
        };
        // A test run's packet is of no kind that the kernel would take apart, so that is as far as it comes.
        assert_eq!(reasons(0), [Some(Decline::Refused), Some(Decline::SuperPacket)]);
        assert!(!reasons(2).contains(&Some(Decline::SuperPacket)));
    });
}

fn tcp_header_v4(length: usize) -> Vec<u8> {
    let mut header = ipv4(6, length, 0x4000);
    header[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    header
}

fn tcp_header_v6(length: usize) -> Vec<u8> {
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: 0,
        payload_length: length as u16,
        next_header: 6,
        hop_limit: 9,
        source: "fd00::1".parse().unwrap(),
        destination: "fd00::2".parse().unwrap(),
    };
    let mut bytes = vec![0; 40];
    header.emit(&mut bytes).unwrap();
    bytes
}

/// The words are the engine's, so that `status` says one thing for both data planes.
#[test]
fn drop_reasons_have_the_engines_names() {
    for reason in Dropped::ALL {
        let known = greway_engine::DropReason::ALL.iter().any(|engine| engine.name() == reason.name());
        assert!(known, "{}", reason.name());
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Carried,
    Dropped,
    Declined(Decline),
}

#[derive(Default)]
struct Tally {
    carried: u64,
    dropped: u64,
    declined: BTreeMap<Decline, u64>,
    common: u64,
    /// Common packets that were declined.
    wrongly: BTreeMap<Decline, u64>,
}

impl Tally {
    fn add(&mut self, (end, common): (End, bool)) {
        match end {
            End::Carried => self.carried += 1,
            End::Dropped => self.dropped += 1,
            End::Declined(reason) => *self.declined.entry(reason).or_default() += 1,
        }
        self.common += u64::from(common);
        if let (true, End::Declined(reason)) = (common, end) {
            *self.wrongly.entry(reason).or_default() += 1;
        }
    }

    fn judge(&self, what: &str, counted: u64) {
        let declined: u64 = self.declined.values().sum();
        let report = format!(
            "{what}: {} carried, {} dropped, {:?} declined",
            self.carried, self.dropped, self.declined
        );
        assert_eq!(declined, counted, "each decline is counted: {report}");
        assert!(self.wrongly.is_empty(), "common packets were declined: {:?}; {report}", self.wrongly);
        if std::env::var_os("GREWAY_CASE").is_none() {
            assert!(self.carried > CASES / 10, "hardly anything was tried: {report}");
            assert!(self.common > CASES / 40, "hardly anything common was tried: {report}");
            assert!(self.declined.len() > 5, "hardly any reason was tried: {report}");
        }
    }
}

/// A loaded program and what it did last.
struct Bench {
    fastpath: Fastpath,
    point: Point,
    program: OwnedFd,
    declined: u64,
}

#[derive(Debug)]
struct Ran {
    verdict: u32,
    packet: Vec<u8>,
    mark: u32,
    reason: Option<Decline>,
    dropped: Option<Dropped>,
    /// What was counted for the tunnel in this run.
    tunnel: greway_fastpath::TunnelCounters,
}

impl Bench {
    fn new(point: Point, options: &Options) -> Self {
        let mut fastpath = Fastpath::load_with(options).unwrap();
        let program = fastpath.program_fd(point).unwrap();
        Self { fastpath, point, program, declined: 0 }
    }

    fn run(&mut self, frame: &[u8], mark: u32) -> Ran {
        self.run_for(frame, mark, LO)
    }

    fn run_for(&mut self, frame: &[u8], mark: u32, peer: u32) -> Ran {
        let mut context = [0; SK_BUFF];
        context[MARK].copy_from_slice(&mark.to_ne_bytes());
        self.run_with(frame, &mut context, peer)
    }

    fn run_gso(&mut self, frame: &[u8], size: u32) -> Ran {
        let mut context = [0; SK_BUFF];
        context[GSO_SEGS].copy_from_slice(&3_u32.to_ne_bytes());
        context[GSO_SIZE].copy_from_slice(&size.to_ne_bytes());
        self.run_with(frame, &mut context, LO)
    }

    fn run_with(&mut self, frame: &[u8], context: &mut [u8; SK_BUFF], peer: u32) -> Ran {
        let before = sound(self.fastpath.counters(self.point).unwrap());
        let tunnel_before = self.fastpath.tunnel_counters(peer).unwrap().unwrap_or_default();
        let ran = bpf::test_run(self.program.as_fd(), frame, context)
            .unwrap_or_else(|error| panic!("{error}: {} bytes, {frame:02x?}", frame.len()));
        let after = sound(self.fastpath.counters(self.point).unwrap());
        let mut tunnel = self.fastpath.tunnel_counters(peer).unwrap().unwrap_or_default();
        tunnel.rx_packets -= tunnel_before.rx_packets;
        tunnel.rx_bytes -= tunnel_before.rx_bytes;
        tunnel.tx_packets -= tunnel_before.tx_packets;
        tunnel.tx_bytes -= tunnel_before.tx_bytes;
        let changed = |reason: &Decline| after.declined_for(*reason) > before.declined_for(*reason);
        let dropped = |reason: &Dropped| tunnel.dropped_for(*reason) > tunnel_before.dropped_for(*reason);
        let reason = Decline::ALL.into_iter().find(changed);
        self.declined += u64::from(reason.is_some());
        let mark = u32::from_ne_bytes(context[MARK].try_into().unwrap());
        let dropped = Dropped::ALL.into_iter().find(dropped);
        Ran { verdict: ran.verdict, packet: ran.packet, mark, reason, dropped, tunnel }
    }
}

// Where things are in `struct __sk_buff` (include/uapi/linux/bpf.h).
const SK_BUFF: usize = 192;
const MARK: std::ops::Range<usize> = 8..12;
const GSO_SEGS: std::ops::Range<usize> = 164..168;
const GSO_SIZE: std::ops::Range<usize> = 176..180;

fn cases() -> Box<dyn Iterator<Item = u64>> {
    match std::env::var("GREWAY_CASE").map(|case| case.parse().unwrap()) {
        Ok(case) => Box::new(std::iter::once(case)),
        Err(_) => Box::new(0..CASES),
    }
}
