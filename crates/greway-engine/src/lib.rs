//! Per-packet decisions of a GRE tunnel, without any I/O.
//!
//! The datapath hands in a datagram or a packet with what it knows about it and gets back what to do:
//! [`decapsulate`] answers with a [`Verdict`], [`encapsulate`] with a filled [`Train`]. Time is an
//! argument, buffers are the caller's, state is in plain values that a worker owns, so that every rule
//! can be tested with nothing but bytes. This crate opens no socket, starts no thread, allocates
//! nothing per packet once its buffers have grown, and never fails: a packet that cannot be carried
//! has a [`DropReason`], and the reason is counted.
//!
//! Rule numbers such as RX-12 name one rule of the Linux kernel each: the tests that pin a rule carry
//! its number in their name, and the comment beside the code says what the rule is.
//!
//! ```text
//!            egress                                   ingress
//!   payload packet, Offload                   datagram, Receipt
//!        │ recursion, TTL, TOS, ECN, DF            │ outer header, GRE header, checksum
//!        │ split a super-packet                    │ TunnelTable: local, remote, key
//!        ▼ sequence, GRE checksum                  ▼ checksum flag, sequence, ECN
//!      Train: header + range, …                 Verdict: deliver, hold, decline or drop
//! ```

#![forbid(unsafe_code)]

pub mod answer;
pub mod coalesce;
pub mod counters;
pub mod egress;
pub mod errors;
pub mod fragment;
pub mod frame;
pub mod heard;
pub mod ingress;
pub mod mss;
pub mod nbma;
pub mod notice;
pub mod offload;
pub mod path_mtu;
pub mod reassembly;
pub mod reorder;
pub mod segment;
pub mod sequence;
pub mod table;
pub mod train;
pub mod tunnel;
pub mod unfilled;
pub mod unmatched;
pub mod verdict;

pub use answer::{Answer, RateLimit};
pub use coalesce::{Candidate, Run};
pub use counters::{CounterSnapshot, SequenceCounters, TunnelCounters, UnderlayCounters, UnderlaySnapshot};
pub use egress::encapsulate;
pub use errors::{Consequence, ErrorMessage, LinkErrors};
pub use fragment::Fragments;
pub use frame::Link;
pub use heard::{Complaint, Heard, HeardEntry};
pub use ingress::{Ingress, Receipt, TunnelSlots, decapsulate, release};
pub use mss::clamp_mss;
pub use nbma::{Endpoints, Talk};
pub use notice::Notice;
pub use offload::{Gso, GsoKind, Offload, Partial};
pub use path_mtu::{Fit, fit, too_big_message};
pub use reassembly::Reassembly;
pub use reorder::Reorder;
pub use table::{Endpoint, TunnelIndex, TunnelTable};
pub use train::{Outer, Segment, Train, Whole};
pub use tunnel::{Tunnel, TunnelState};
pub use unmatched::{Unmatched, UnmatchedEntry};
pub use verdict::{DeclineReason, Delivery, Direction, DropReason, Verdict};
