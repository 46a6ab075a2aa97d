//! Headers read and written, and sums: what every packet pays. `cargo xtask bench micro` runs it.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a bench: criterion's macros make functions, inputs are known"
)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use greway_wire::checksum;
use greway_wire::gre::GreHeader;
use greway_wire::ipv4::Ipv4Header;
use greway_wire::ipv6::Ipv6Header;

/// GRE headers, by what they have beside the protocol type.
fn gre_headers() -> [(&'static str, GreHeader); 2] {
    let plain = GreHeader { protocol_type: 0x0800, ..GreHeader::default() };
    let full = GreHeader { checksum: Some(0xbeef), key: Some(42), sequence_number: Some(7), ..plain };
    [("GRE, plain", plain), ("GRE, checksum, key, sequence", full)]
}

fn ipv4() -> Ipv4Header<'static> {
    Ipv4Header {
        tos: 0,
        total_length: 1500,
        identification: 7,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol: 47,
        source: [10, 0, 0, 1].into(),
        destination: [10, 0, 0, 2].into(),
        options: &[],
    }
}

fn ipv6() -> Ipv6Header {
    Ipv6Header {
        traffic_class: 0,
        flow_label: 0x12345,
        payload_length: 1460,
        next_header: 47,
        hop_limit: 64,
        source: [0xfd00, 0, 0, 0, 0, 0, 0, 1].into(),
        destination: [0xfd00, 0, 0, 0, 0, 0, 0, 2].into(),
    }
}

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse a header");
    for (name, header) in gre_headers() {
        let mut bytes = [0; 64];
        header.emit(&mut bytes).unwrap();
        group.bench_function(name, |bencher| bencher.iter(|| GreHeader::parse(black_box(&bytes)).unwrap()));
    }
    let mut bytes = vec![0; 1500];
    ipv4().emit(&mut bytes).unwrap();
    group.bench_function("IPv4", |bencher| {
        bencher.iter(|| Ipv4Header::parse(black_box(&bytes)).unwrap().destination);
    });
    ipv6().emit(&mut bytes).unwrap();
    group.bench_function("IPv6", |bencher| {
        bencher.iter(|| Ipv6Header::parse(black_box(&bytes)).unwrap().destination);
    });
    group.finish();
}

fn emit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("emit a header");
    let mut buffer = [0; 64];
    for (name, header) in gre_headers() {
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(header).emit(black_box(&mut buffer)).unwrap());
        });
    }
    group.bench_function("IPv4", |bencher| {
        bencher.iter(|| black_box(ipv4()).emit(black_box(&mut buffer)).unwrap());
    });
    group.bench_function("IPv6", |bencher| {
        bencher.iter(|| black_box(ipv6()).emit(black_box(&mut buffer)).unwrap());
    });
    group.finish();
}

fn sums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for size in [64_usize, 1500, 65_535] {
        let bytes: Vec<u8> = (0..size).map(|index| (index * 31) as u8).collect();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::from_parameter(size), &bytes, |bencher, bytes| {
            bencher.iter(|| checksum::sum(black_box(bytes)));
        });
    }
    group.finish();
}

criterion_group!(benches, parse, emit, sums);
criterion_main!(benches);
