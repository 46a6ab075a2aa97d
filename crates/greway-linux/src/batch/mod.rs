//! Many packets for one system call, in both directions.
//!
//! A batch owns all memory that the kernel needs for its headers, addresses and control messages, so
//! that nothing is allocated and nothing is zeroed for a packet. [`ReceiveBatch`] owns the packet
//! buffers too, each with headroom, so that a header can be put in front of a payload where it lies;
//! [`SendStorage`] gathers slices that others own.
//!
//! A batch does not stop at a bad packet: what could not be sent is reported with its index, and the
//! packets behind it are sent.

mod receive;
mod send;

pub use receive::{
    Auxdata, LinkSource, Meta, Packet, PacketInfo, PacketKind, Packets, ReceiveBatch, Source, Vlan,
};
pub use send::{Control, Full, MAX_SLICES, Outcome, PREFIX_BYTES, SendBatch, SendStorage, Target};
