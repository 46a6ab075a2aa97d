//! What a tunnel would do with a packet of a capture: the engine decides, as it does live.

use std::sync::Arc;

use greway_engine::{
    Ingress, Offload, Receipt, Tunnel, TunnelCounters, TunnelIndex, TunnelState, TunnelTable,
    UnderlayCounters, Unmatched, Verdict, decapsulate, release,
};
use greway_spec::TunnelSpec;

use crate::record::{ChecksumState, Record};

/// One tunnel that is asked about each packet in turn; its sequence numbers go on from one to the next.
pub struct Judge {
    table: TunnelTable,
    tunnels: Vec<(Arc<Tunnel>, TunnelState)>,
    underlay: UnderlayCounters,
    unmatched: Unmatched,
}

/// A payload packet: its EtherType and its bytes, ECN combined.
pub type Payload = (u16, Vec<u8>);

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// `deliver`, `decline` or `drop`.
    pub verdict: &'static str,
    /// Why not `deliver`.
    pub reason: Option<&'static str>,
    /// The reason as a sentence.
    pub explanation: Option<String>,
    /// What is delivered now, in this order: EtherType and bytes. A tunnel that puts packets in order (`seq-mode
    /// rfc2890`) delivers this one later than now, or others with it.
    pub payloads: Vec<Payload>,
}

impl Judge {
    /// A host that has this tunnel and no other.
    pub fn new(spec: &TunnelSpec) -> Self {
        Self {
            table: TunnelTable::new(std::iter::once((TunnelIndex(0), spec, None))),
            tunnels: vec![(
                Arc::new(Tunnel::new(spec, Arc::new(TunnelCounters::new()))),
                TunnelState::default(),
            )],
            underlay: UnderlayCounters::new(),
            unmatched: Unmatched::new(),
        }
    }

    /// Asks about one datagram that came at `now_ms`. ECN is combined into its payload in place.
    pub fn judge(&mut self, datagram: &mut [u8], record: &Record, now_ms: u64) -> Judgement {
        for (tunnel, state) in &mut self.tunnels {
            state.reorder.expire(now_ms, tunnel.counters().sequence());
        }
        let mut payloads = self.released(now_ms);
        // Live, the kernel says which checksum is left to a device. A capture does not, but the bytes do.
        let checksum = record.packet.gre.as_ref().and_then(|gre| gre.checksum.state);
        let receipt = match checksum {
            Some(ChecksumState::Unfilled) => Receipt::Raw { ifindex: 0 },
            _ => Receipt::Facts { offload: Offload::NONE, ifindex: 0 },
        };
        let Self { table, tunnels, underlay, unmatched } = self;
        let mut ingress = Ingress { table, tunnels, underlay, unmatched };
        let (verdict, refusal) = match decapsulate(&mut ingress, datagram, receipt, now_ms) {
            Verdict::Deliver(delivery) => {
                payloads.push((delivery.protocol_type, datagram[delivery.inner].to_vec()));
                ("deliver", None)
            }
            Verdict::Hold { .. } => ("deliver", None),
            Verdict::Decline(reason) => ("decline", Some((reason.name(), reason.explain()))),
            Verdict::Drop { reason, .. } => ("drop", Some((reason.name(), reason.explain()))),
        };
        payloads.extend(self.released(now_ms));
        let (reason, explanation) = refusal.map(|(name, text)| (name, text.to_owned())).unzip();
        Judgement { verdict, reason, explanation, payloads }
    }

    /// What still waits when nothing comes any more.
    pub fn rest(&mut self) -> Vec<Payload> {
        for (tunnel, state) in &mut self.tunnels {
            state.reorder.give_up(tunnel.counters().sequence());
        }
        self.released(0)
    }

    fn released(&mut self, now_ms: u64) -> Vec<Payload> {
        let mut payloads = Vec::new();
        for (tunnel, state) in &mut self.tunnels {
            let next = std::iter::from_fn(|| release(tunnel, state, now_ms));
            payloads.extend(next.map(|packet| (packet.protocol_type, packet.bytes.into_vec())));
        }
        payloads
    }
}
