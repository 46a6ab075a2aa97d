//! What the engine does with a packet: find its tunnel, take it out, put it in, split a super-packet, coalesce a train.
//! `cargo xtask bench micro` runs it.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a bench: criterion's macros make functions, inputs are known"
)]

#[path = "../tests/rules/support.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod support;

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use greway_engine::{
    Candidate, Endpoint, Gso, GsoKind, Ingress, Offload, Partial, Receipt, Run, Train, Tunnel,
    TunnelCounters, TunnelIndex, TunnelState, TunnelTable, UnderlayCounters, Unmatched, Verdict, coalesce,
    decapsulate, encapsulate,
};
use greway_spec::TunnelSpec;
use greway_wire::ipv4;

const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const IPV4: u16 = 0x0800;
/// Bytes of payload in a segment of a tunnel over 1500.
const SEGMENT: u16 = 1424;
const IP_AND_TCP: usize = 20 + 32;

/// A tunnel, by its name in the figures; the second one has a checksum and a key.
fn tunnels(local: Ipv4Addr, remote: Ipv4Addr) -> [(&'static str, TunnelSpec); 2] {
    let plain = support::spec(local, remote);
    let full = TunnelSpec { ikey: Some(42), okey: Some(42), icsum: true, ocsum: true, ..plain.clone() };
    [("plain", plain), ("csum, key", full)]
}

fn tunnel(spec: &TunnelSpec) -> Tunnel {
    Tunnel::new(spec, Arc::new(TunnelCounters::new()))
}

/// A TCP packet inside the tunnel, with a timestamp option and its checksum left to a device, as a host's stack makes it.
fn tcp_packet(sequence: u32, payload: usize) -> (Vec<u8>, Partial) {
    const ACK: u8 = 0x10;
    let payload: Vec<u8> = (0..payload).map(|index| (index * 31) as u8).collect();
    let mut packet = support::ipv4(6, &support::tcp(ACK, sequence, &payload));
    let found = support::leave_unfilled(&mut packet);
    let offset = (found.checksum_at() - found.offset) as u16;
    (packet, Partial { start: found.offset as u16, offset })
}

/// The same with its checksum filled in, as it comes off a wire.
fn on_the_wire(sequence: u32, payload: usize) -> Vec<u8> {
    let (mut packet, _) = tcp_packet(sequence, payload);
    support::fill(&mut packet);
    packet
}

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("look a tunnel up");
    for count in [10_u32, 100_000] {
        let remote = |number: u32| Ipv4Addr::from(0x0a40_0000 + number);
        let endpoint = |number| Endpoint {
            over_ipv6: false,
            local: Some(LOCAL.into()),
            remote: Some(remote(number).into()),
            ikey: Some(number),
            ethernet: false,
        };
        let entries = (0..count).map(|number| (TunnelIndex(number), endpoint(number), None));
        let table = TunnelTable::from_endpoints(entries);
        // Any of them may be next: neighbours in a cache would make it look cheap.
        let mut number = 1_u32;
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| {
                number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let wanted = (number >> 8) % count;
                table.lookup(IPV4, remote(wanted), LOCAL, Some(wanted), 2).unwrap()
            });
        });
    }
    group.finish();
}

fn encapsulated(spec: &TunnelSpec, packet: &[u8]) -> Vec<u8> {
    let mut train = Train::new();
    let mut state = TunnelState::default();
    encapsulate(&tunnel(spec), &mut state, IPV4, packet, Offload::NONE, None, &mut train).unwrap();
    let segment = train.segments().next().unwrap();
    let payload = [segment.header, &packet[segment.payload.clone()]].concat();
    support::datagram(0, REMOTE, LOCAL, 47, &payload)
}

/// What a packet weighs that is a packet alone, small and full.
const SIZES: [usize; 2] = [64, 1400];

fn into_the_tunnel(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encapsulate a packet");
    for size in SIZES {
        let packet = on_the_wire(1, size);
        for (name, spec) in tunnels(LOCAL, REMOTE) {
            let (tunnel, mut state, mut train) = (tunnel(&spec), TunnelState::default(), Train::new());
            group.bench_function(format!("{name}, {size} bytes"), |bencher| {
                bencher.iter(|| {
                    let packet = black_box(&packet);
                    encapsulate(&tunnel, &mut state, IPV4, packet, Offload::NONE, None, &mut train).unwrap();
                    train.len()
                });
            });
        }
    }
    group.finish();
}

fn out_of_the_tunnel(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decapsulate a packet");
    for size in SIZES {
        let packet = on_the_wire(1, size);
        for ((name, spec), (_, far)) in tunnels(LOCAL, REMOTE).into_iter().zip(tunnels(REMOTE, LOCAL)) {
            let mut arrived = encapsulated(&far, &packet);
            let table = TunnelTable::new([(TunnelIndex(0), &spec, None)].into_iter());
            let mut tunnels = vec![(Arc::new(tunnel(&spec)), TunnelState::default())];
            let (underlay, mut unmatched) = (UnderlayCounters::new(), Unmatched::new());
            let receipt = Receipt::Facts { offload: Offload::NONE, ifindex: 2 };
            let mut receive = || {
                let (table, tunnels) = (&table, &mut tunnels);
                let (underlay, unmatched) = (&underlay, &mut unmatched);
                let mut ingress = Ingress { table, tunnels, underlay, unmatched };
                decapsulate(&mut ingress, black_box(&mut arrived), receipt, 1)
            };
            // One that is refused is no packet's price.
            assert!(matches!(receive(), Verdict::Deliver(_)), "{name}");
            group.bench_function(format!("{name}, {size} bytes"), |bencher| bencher.iter(&mut receive));
        }
    }
    group.finish();
}

fn split(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("split 64 KB");
    let (packet, partial) = tcp_packet(1, 65_535 - IP_AND_TCP);
    let gso = Gso { kind: GsoKind::Tcp4, size: SEGMENT, header_len: IP_AND_TCP as u16, ecn: false };
    let offload = Offload { partial: Some(partial), gso: Some(gso) };
    group.throughput(Throughput::Bytes(packet.len() as u64));
    for (name, spec) in tunnels(LOCAL, REMOTE) {
        let (tunnel, mut state, mut train) = (tunnel(&spec), TunnelState::default(), Train::new());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                encapsulate(&tunnel, &mut state, IPV4, black_box(&packet), offload, None, &mut train)
                    .unwrap();
                train.len()
            });
        });
    }
    group.finish();
}

/// A datagram as it comes off a wire.
fn udp_on_the_wire(number: u16, payload: usize) -> Vec<u8> {
    let mut packet = support::ipv4(17, &support::udp(&vec![0x55; payload]));
    ipv4::set_identification(&mut packet, number);
    support::fill(&mut packet);
    packet
}

fn coalesce_train(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("coalesce a train");
    let tcp = |segments: u32| -> Vec<Vec<u8>> {
        let size = u32::from(SEGMENT);
        (0..segments).map(|number| on_the_wire(1 + number * size, SEGMENT.into())).collect()
    };
    let udp = |datagrams: u16, payload| -> Vec<Vec<u8>> {
        (0..datagrams).map(|number| udp_on_the_wire(number, payload)).collect()
    };
    for (what, packets) in [
        ("2 segments", tcp(2)),
        ("44 segments", tcp(44)),
        ("2 datagrams of 64 bytes", udp(2, 64)),
        ("64 datagrams of 64 bytes", udp(64, 64)),
        ("44 datagrams of 1400 bytes", udp(44, 1400)),
    ] {
        group.throughput(Throughput::Bytes(packets.iter().map(|packet| packet.len() as u64).sum()));
        let (mut run, mut headers) = (Run::new(), [0; coalesce::MAX_HEADERS]);
        group.bench_function(what, |bencher| {
            bencher.iter(|| {
                let candidate = |packet| Candidate::of(packet, Offload::NONE).unwrap();
                assert!(run.begin(candidate(black_box(&packets[0]))));
                for packet in &packets[1..] {
                    assert!(run.append(&candidate(packet)), "a run of all segments");
                }
                run.emit(&mut headers).0
            });
        });
    }
    group.finish();
}

/// What it costs a packet that nothing follows: the next one is of another flow.
fn stand_alone(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("find nothing to coalesce");
    let mut other = udp_on_the_wire(1, 64);
    other[21] ^= 1;
    for (what, packets) in [
        ("UDP, 64 bytes", [udp_on_the_wire(0, 64), other]),
        ("TCP, 1424 bytes", [on_the_wire(1, SEGMENT.into()), on_the_wire(1, SEGMENT.into())]),
    ] {
        let (mut run, mut number) = (Run::new(), 0);
        group.bench_function(what, |bencher| {
            bencher.iter(|| {
                number ^= 1;
                let candidate = Candidate::of(black_box(&packets[number]), Offload::NONE).unwrap();
                assert!(!run.append(&candidate) && run.begin(candidate));
                run.count()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, lookup, into_the_tunnel, out_of_the_tunnel, split, coalesce_train, stand_alone);
criterion_main!(benches);
