//! A tunnel as the engine sees it: what never changes, and what a worker counts.
//!
//! [`Tunnel`] is made once from a [`TunnelSpec`] and shared; a changed spec is a new `Tunnel` with the
//! same counters. [`TunnelState`] belongs to one worker at a time.

use std::net::IpAddr;
use std::sync::Arc;

use greway_spec::{FlowLabel, MssClamp, SeqMode, Tos, Ttl, TunnelSpec};
use greway_wire::gre::{self, GreHeader};
use greway_wire::{encap_limit, ipv4, ipv6};

use crate::counters::TunnelCounters;
use crate::frame::Link;
use crate::reorder::Reorder;

/// The configuration of a tunnel in the form that packets need.
#[derive(Clone, Debug)]
pub struct Tunnel {
    pub(crate) local: Option<IpAddr>,
    /// `None`: a neighbour or a next hop inside decides.
    pub(crate) remote: Option<IpAddr>,
    over_ipv6: bool,
    pub(crate) ikey: Option<u32>,
    pub(crate) okey: Option<u32>,
    pub(crate) icsum: bool,
    pub(crate) iseq: bool,
    pub(crate) seq_mode: SeqMode,
    pub(crate) oseq: bool,
    pub(crate) ocsum: bool,
    /// 0: inherit.
    pub(crate) ttl: u8,
    pub(crate) tos: Tos,
    pub(crate) pmtudisc: bool,
    pub(crate) ignore_df: bool,
    pub(crate) encaplimit: Option<u8>,
    pub(crate) flow_label: FlowLabel,
    pub(crate) dscp_inherit: bool,
    mss: MssClamp,
    ethernet: bool,
    /// The GRE header with protocol type, checksum and sequence number still zero.
    template: [u8; gre::MAX_LEN],
    template_len: u8,
    segment_limit: u16,
    counters: Arc<TunnelCounters>,
}

impl Tunnel {
    /// Prepares a tunnel. `counters` outlive it: a changed tunnel goes on counting.
    pub fn new(spec: &TunnelSpec, counters: Arc<TunnelCounters>) -> Self {
        let header = GreHeader {
            protocol_type: 0,
            checksum: spec.ocsum.then_some(0),
            key: spec.okey,
            sequence_number: spec.oseq.then_some(0),
        };
        let mut template = [0; gre::MAX_LEN];
        // 16 bytes hold any GRE header.
        let template_len = header.emit(&mut template).map_or(0, |len| len as u8);
        Self {
            local: spec.local,
            remote: spec.remote,
            over_ipv6: spec.mode.over_ipv6(),
            ikey: spec.ikey,
            okey: spec.okey,
            icsum: spec.icsum,
            iseq: spec.iseq,
            seq_mode: spec.seq_mode,
            oseq: spec.oseq,
            ocsum: spec.ocsum,
            ttl: match spec.ttl {
                Ttl::Inherit => 0,
                Ttl::Fixed(ttl) => ttl,
            },
            tos: spec.tos,
            pmtudisc: spec.pmtudisc,
            ignore_df: spec.ignore_df,
            encaplimit: spec.encaplimit,
            flow_label: spec.flowlabel,
            dscp_inherit: spec.dscp_inherit,
            mss: spec.mss,
            ethernet: spec.mode.is_ethernet(),
            template,
            template_len,
            // Over Ethernet, until somebody knows better.
            segment_limit: 1500_u16.saturating_sub(spec.overhead() as u16),
            counters,
        }
    }

    /// The counters it was made with.
    pub fn counters(&self) -> &Arc<TunnelCounters> {
        &self.counters
    }

    /// The largest payload packet in bytes that one datagram brings here; what is longer and has an
    /// unfilled checksum was merged on its way (a raw socket does not say so).
    pub fn segment_limit(&self) -> u16 {
        self.segment_limit
    }

    /// Sets it: the MTU of the tunnel device.
    pub fn set_segment_limit(&mut self, bytes: u32) {
        self.segment_limit = u16::try_from(bytes).unwrap_or(u16::MAX);
    }

    /// Outer source address, where one is set.
    pub fn local(&self) -> Option<IpAddr> {
        self.local
    }

    /// Outer destination address; `None`: a neighbour or a next hop inside decides, packet by packet.
    pub fn remote(&self) -> Option<IpAddr> {
        self.remote
    }

    /// Whether each packet has an endpoint of its own, that a neighbour or a next hop inside names.
    pub fn chooses_endpoint(&self) -> bool {
        self.remote.is_none() && !self.ethernet
    }

    /// The multicast group that is the far end, where one is.
    pub fn group(&self) -> Option<IpAddr> {
        self.remote.filter(IpAddr::is_multicast)
    }

    /// Whether the delivery header is IPv6.
    pub fn over_ipv6(&self) -> bool {
        self.over_ipv6
    }

    /// Whether received packets bring the DSCP of their delivery header into the tunnel.
    pub fn inherits_dscp(&self) -> bool {
        self.dscp_inherit
    }

    /// Key that received packets must carry.
    pub fn ikey(&self) -> Option<u32> {
        self.ikey
    }

    /// Whether the payload packets are Ethernet frames.
    pub fn carries_ethernet(&self) -> bool {
        self.ethernet
    }

    /// What lies before the network packet in a payload packet of this type: nothing, or for an Ethernet tunnel
    /// the link header. `None`: a frame that is shorter than that.
    pub fn link(&self, protocol_type: u16, payload: &[u8]) -> Option<Link> {
        match self.ethernet {
            true => Link::of_frame(payload),
            false => Some(Link { ethertype: protocol_type, len: 0 }),
        }
    }

    /// Bytes of the GRE header of sent packets: 4 to 16.
    pub fn gre_len(&self) -> usize {
        usize::from(self.template_len)
    }

    /// Bytes that encapsulation adds: delivery header, its encapsulation limit option, and GRE header.
    pub fn overhead(&self) -> usize {
        let delivery = match (self.over_ipv6, self.encaplimit) {
            (false, _) => ipv4::MIN_LEN,
            (true, None) => ipv6::LEN,
            (true, Some(_)) => ipv6::LEN + encap_limit::OPTION_LEN,
        };
        delivery + self.gre_len()
    }

    /// What becomes of the segment sizes that TCP announces.
    pub fn mss(&self) -> MssClamp {
        self.mss
    }

    /// Whether the delivery packet of a payload packet with or without DF has DF (TX-05); over IPv6 no router
    /// fragments.
    pub fn sets_df(&self, payload_df: bool) -> bool {
        self.over_ipv6 || self.pmtudisc || (payload_df && !self.ignore_df)
    }

    /// Whether received packets are put in order, and may have to wait for that.
    pub fn puts_in_order(&self) -> bool {
        self.iseq && self.seq_mode == SeqMode::Rfc2890
    }

    /// Whether sent packets carry sequence numbers.
    pub fn sends_sequence(&self) -> bool {
        self.oseq
    }

    /// The GRE header of a packet with its checksum field zero.
    pub(crate) fn gre_header(&self, protocol_type: u16, sequence_number: u32) -> ([u8; gre::MAX_LEN], usize) {
        let mut header = self.template;
        let len = self.gre_len();
        header[2..4].copy_from_slice(&protocol_type.to_be_bytes());
        if self.oseq {
            // The sequence number is the last option.
            header[len - 4..len].copy_from_slice(&sequence_number.to_be_bytes());
        }
        (header, len)
    }
}

/// What changes with the packets of a tunnel. Sending uses one half, receiving the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelState {
    /// Number of the next packet sent (TX-08); wraps.
    pub next_sequence: u32,
    /// Number of the next packet received; 0: any.
    pub expected_sequence: u32,
    /// Takes the place of `expected_sequence` with `seq-mode rfc2890`.
    pub reorder: Reorder,
}

impl TunnelState {
    /// A state whose first packet will carry `next_sequence`.
    pub fn starting_at(next_sequence: u32) -> Self {
        Self { next_sequence, ..Self::default() }
    }

    /// Takes over what is known of the received numbers when a tunnel's parameters change from `before` to `now`.
    /// What waits is to be released first ([`Reorder::give_up`]).
    pub fn change(&mut self, before: &Tunnel, now: &Tunnel) {
        match (before.puts_in_order(), now.puts_in_order()) {
            (false, true) => self.reorder = Reorder::following(self.expected_sequence),
            (true, false) => self.expected_sequence = self.reorder.expected().unwrap_or(0),
            _ => {}
        }
        if !now.puts_in_order() {
            self.reorder = Reorder::default();
        }
        if !now.iseq {
            self.expected_sequence = 0;
        }
    }

    /// Whether the next number has reached `limit`, the first that is not reserved, so that a new
    /// reservation must be on disk before it is sent (T7). Right across the wrap for reservations of
    /// up to 2³¹ numbers.
    pub fn needs_reservation(&self, limit: u32) -> bool {
        self.next_sequence.wrapping_sub(limit).cast_signed() >= 0
    }

    /// The number for a packet; the next packet gets the next one.
    pub(crate) fn take_sequence(&mut self) -> u32 {
        let number = self.next_sequence;
        self.next_sequence = number.wrapping_add(1);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_is_due_at_its_limit_and_across_the_wrap() {
        assert!(!TunnelState::starting_at(65_535).needs_reservation(65_536));
        assert!(TunnelState::starting_at(65_536).needs_reservation(65_536));
        assert!(!TunnelState::starting_at(u32::MAX).needs_reservation(10));
        assert!(TunnelState::starting_at(10).needs_reservation(10));
    }

    #[test]
    fn tx08_the_counter_wraps() {
        let mut state = TunnelState::starting_at(u32::MAX);
        assert_eq!([state.take_sequence(), state.take_sequence()], [u32::MAX, 0]);
    }
}
