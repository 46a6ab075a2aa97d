//! Packets and tunnels for the tests of the engine.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use greway_engine::{
    Ingress, Offload, Receipt, Train, Tunnel, TunnelCounters, TunnelIndex, TunnelState, TunnelTable,
    UnderlayCounters, Unmatched, Verdict, decapsulate,
};
use greway_spec::{Draft, TunnelSpec};
use greway_wire::gre::GreHeader;
use greway_wire::ipv4::Ipv4Header;
use greway_wire::ipv6::Ipv6Header;
use greway_wire::transport::Transport;

pub(crate) const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
pub(crate) const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 11);

/// A packet socket that has nothing to say.
pub(crate) const PLAIN: Receipt = Receipt::Facts { offload: Offload::NONE, ifindex: 2 };

pub(crate) fn spec(local: Ipv4Addr, remote: Ipv4Addr) -> TunnelSpec {
    Draft::new("tun0".parse().unwrap(), local, remote).into_spec().unwrap()
}

/// A host with some tunnels, receiving.
pub(crate) struct Host {
    pub(crate) table: TunnelTable,
    pub(crate) tunnels: Vec<(Arc<Tunnel>, TunnelState)>,
    pub(crate) underlay: UnderlayCounters,
    pub(crate) unmatched: Unmatched,
}

impl Host {
    pub(crate) fn new(specs: &[TunnelSpec]) -> Self {
        let indexed = (0..).map(TunnelIndex).zip(specs).map(|(index, spec)| (index, spec, None));
        let tunnel = |spec| Arc::new(Tunnel::new(spec, Arc::new(TunnelCounters::new())));
        Self {
            table: TunnelTable::new(indexed),
            tunnels: specs.iter().map(|spec| (tunnel(spec), TunnelState::default())).collect(),
            underlay: UnderlayCounters::new(),
            unmatched: Unmatched::new(),
        }
    }

    pub(crate) fn receive(&mut self, datagram: &mut [u8], receipt: Receipt) -> Verdict {
        let Self { table, tunnels, underlay, unmatched } = self;
        decapsulate(&mut Ingress { table, tunnels, underlay, unmatched }, datagram, receipt, 1)
    }

    /// The sum over all counters of packets.
    pub(crate) fn counted(&self) -> u64 {
        let drops = |drops: &[(greway_engine::DropReason, u64)]| drops.iter().map(|d| d.1).sum::<u64>();
        let tunnels = self.tunnels.iter().map(|(tunnel, _)| {
            let now = tunnel.counters().snapshot();
            now.rx_packets + now.tx_packets + drops(&now.drops)
        });
        let underlay = self.underlay.snapshot();
        let declines: u64 = underlay.declines.iter().map(|(_, count)| count).sum();
        tunnels.sum::<u64>() + drops(&underlay.drops) + declines
    }
}

pub(crate) fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    datagram(0, Ipv4Addr::new(172, 16, 0, 1), Ipv4Addr::new(172, 16, 0, 2), protocol, payload)
}

pub(crate) fn datagram(
    tos: u8,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let header = Ipv4Header {
        tos,
        total_length: (20 + payload.len()) as u16,
        identification: 0xfffe,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol,
        source,
        destination,
        options: &[],
    };
    let mut bytes = vec![0; 20];
    header.emit(&mut bytes).unwrap();
    bytes.extend(payload);
    bytes
}

pub(crate) fn ipv6(next_header: u8, after: &[u8]) -> Vec<u8> {
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: 0x12345,
        payload_length: after.len() as u16,
        next_header,
        hop_limit: 64,
        source: "fd31:11::1".parse().unwrap(),
        destination: "fd31:11::2".parse().unwrap(),
    };
    let mut bytes = vec![0; 40];
    header.emit(&mut bytes).unwrap();
    bytes.extend(after);
    bytes
}

/// A TCP segment with 12 bytes of options and its checksum field zero.
pub(crate) fn tcp(flags: u8, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 32];
    bytes[..2].copy_from_slice(&40_000_u16.to_be_bytes());
    bytes[2..4].copy_from_slice(&443_u16.to_be_bytes());
    bytes[4..8].copy_from_slice(&sequence.to_be_bytes());
    bytes[12] = 0x80;
    bytes[13] = flags;
    bytes[20..32].copy_from_slice(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
    bytes.extend(payload);
    bytes
}

/// A UDP datagram with its checksum field zero.
pub(crate) fn udp(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x9c, 0x40, 0x01, 0xbb, 0, 0, 0, 0];
    bytes[4..6].copy_from_slice(&(8 + payload.len() as u16).to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Leaves the transport checksum of a packet to a device: the folded pseudo header sum.
pub(crate) fn leave_unfilled(packet: &mut [u8]) -> Transport {
    let found = Transport::locate(packet).unwrap();
    let sum = found.pseudo_header((found.end - found.offset) as u32).folded();
    packet[found.checksum_at()..found.checksum_at() + 2].copy_from_slice(&sum.to_be_bytes());
    found
}

/// Fills the transport checksum of a packet in.
pub(crate) fn fill(packet: &mut [u8]) -> Transport {
    let found = leave_unfilled(packet);
    let value = !slow_sum(&packet[found.offset..found.end]);
    let value = if value == 0 { 0xffff } else { value };
    packet[found.checksum_at()..found.checksum_at() + 2].copy_from_slice(&value.to_be_bytes());
    found
}

/// A GRE packet with the right checksum where the header has one.
pub(crate) fn gre(header: GreHeader, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; header.header_len()];
    let header = GreHeader { checksum: header.checksum.map(|_| 0), ..header };
    header.emit(&mut bytes).unwrap();
    bytes.extend(payload);
    if header.checksum.is_some() {
        let value = !slow_sum(&bytes);
        bytes[4..6].copy_from_slice(&value.to_be_bytes());
    }
    bytes
}

/// One's complement sum by its definition.
pub(crate) fn slow_sum(bytes: &[u8]) -> u16 {
    let mut sum: u64 = 0;
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Whether the transport checksum of a packet verifies, by the definition.
pub(crate) fn transport_is_intact(packet: &[u8]) -> bool {
    let found = Transport::locate(packet).unwrap();
    let covered = &packet[found.offset..found.end];
    let pseudo = found.pseudo_header(covered.len() as u32).folded();
    slow_sum(&[&pseudo.to_be_bytes(), covered].concat()) == 0xffff
}

/// The datagrams of a train as a link would carry them.
pub(crate) fn datagrams(train: &Train, packet: &[u8]) -> Vec<Vec<u8>> {
    let one = |segment: greway_engine::Segment<'_>| {
        let mut outer = [0; greway_engine::Outer::MAX_LEN];
        let length = train.outer().emit(segment.total_len(), 7, &mut outer);
        [&outer[..length], segment.header, &packet[segment.payload.clone()]].concat()
    };
    train.segments().map(one).collect()
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len() / 2).map(|i| digit(2 * i)).collect()
}

/// A row of a recorded table by the names of its columns.
pub(crate) type Row = HashMap<&'static str, &'static str>;

/// The rows of a recorded table: tabs between the columns, whose names are in the first line.
pub(crate) fn rows(table: &'static str) -> impl Iterator<Item = Row> {
    let mut lines = table.lines();
    let names: Vec<&str> = lines.next().unwrap().split('\t').collect();
    lines.map(move |line| {
        let row: Row = names.iter().copied().zip(line.split('\t')).collect();
        assert_eq!(row.len(), names.len(), "{line}");
        row
    })
}
