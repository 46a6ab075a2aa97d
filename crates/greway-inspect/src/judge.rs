//! What a tunnel would do with a packet of a capture: the engine decides, as it does live.

use std::ops::Range;
use std::sync::Arc;

use greway_engine::{
    Ingress, Offload, Receipt, Tunnel, TunnelCounters, TunnelIndex, TunnelState, TunnelTable,
    UnderlayCounters, Unmatched, Verdict, decapsulate,
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

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// `deliver`, `decline` or `drop`.
    pub verdict: &'static str,
    /// Why not `deliver`.
    pub reason: Option<&'static str>,
    /// The reason as a sentence.
    pub explanation: Option<String>,
    /// What is delivered: EtherType, and where it is in the datagram.
    pub payload: Option<(u16, Range<usize>)>,
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

    /// Asks about one datagram. ECN is combined into its payload in place.
    pub fn judge(&mut self, datagram: &mut [u8], record: &Record) -> Judgement {
        // Live, the kernel says which checksum is left to a device. A capture does not, but the bytes do.
        let checksum = record.packet.gre.as_ref().and_then(|gre| gre.checksum.state);
        let receipt = match checksum {
            Some(ChecksumState::Unfilled) => Receipt::Raw { ifindex: 0 },
            _ => Receipt::Facts { offload: Offload::NONE, ifindex: 0 },
        };
        let Self { table, tunnels, underlay, unmatched } = self;
        let mut ingress = Ingress { table, tunnels, underlay, unmatched };
        match decapsulate(&mut ingress, datagram, receipt, 0) {
            Verdict::Deliver(delivery) => Judgement {
                verdict: "deliver",
                reason: None,
                explanation: None,
                payload: Some((delivery.protocol_type, delivery.inner)),
            },
            Verdict::Decline(reason) => Judgement::not("decline", reason.name(), reason.explain()),
            Verdict::Drop { reason, .. } => Judgement::not("drop", reason.name(), reason.explain()),
        }
    }
}

impl Judgement {
    fn not(verdict: &'static str, reason: &'static str, explanation: &str) -> Self {
        Self { verdict, reason: Some(reason), explanation: Some(explanation.to_owned()), payload: None }
    }
}
