//! The formats on the wire: GRE version 0, the delivery header, what a tunnel reads and rewrites of
//! the payload packet, ECN, checksums and ICMP.
//!
//! One home for every offset and every bit, shared by the engine, the daemon and whatever else has
//! to read a packet. Everything here is a pure function over byte slices: `parse` borrows or copies
//! out of a slice, `emit` writes into one, and neither panics on any input. This crate holds no
//! state, knows no tunnel and decides nothing: which packet is accepted is `greway-engine`'s job.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "dissect")]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod checksum;
pub mod crc32c;
#[cfg(feature = "dissect")]
pub mod dissect;
pub mod ecn;
pub mod encap_limit;
pub mod ethertype;
pub mod extension;
pub mod gre;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod transport;

use core::fmt;

/// A buffer given to an `emit` is too small; nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortBuffer {
    /// Bytes that the header takes.
    pub needed: usize,
    /// Bytes that the buffer has.
    pub available: usize,
}

impl fmt::Display for ShortBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the header takes {} bytes, the buffer has {}", self.needed, self.available)
    }
}

impl core::error::Error for ShortBuffer {}

/// The first `needed` bytes of `buffer`.
fn front(buffer: &mut [u8], needed: usize) -> Result<&mut [u8], ShortBuffer> {
    let available = buffer.len();
    buffer.get_mut(..needed).ok_or(ShortBuffer { needed, available })
}

/// The `N` bytes of `bytes` from `at`.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

/// The 16-bit field at `at`.
fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

/// The 32-bit field at `at`.
fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}
