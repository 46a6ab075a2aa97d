//! Payload packets as a capture of their own: pcapng, one interface for IP and one for Ethernet
//! (draft-ietf-opsawg-pcapng §4).

use std::io::{self, Write};

use greway_wire::ethertype;

use crate::capture::Timestamp;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const LINK_RAW: u16 = 101;
const LINK_ETHERNET: u16 = 1;
/// Option of an interface: its clock counts nanoseconds.
const NANOSECONDS: [u8; 8] = [9, 0, 1, 0, 9, 0, 0, 0];
/// Which interface is which.
const RAW: u32 = 0;
const ETHERNET: u32 = 1;

/// Writes payload packets.
pub struct CaptureWriter<W> {
    out: W,
    written: u64,
}

impl<W: Write> CaptureWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// The writer's.
    pub fn new(mut out: W) -> io::Result<Self> {
        let mut section = Vec::new();
        section.extend(BYTE_ORDER_MAGIC.to_le_bytes());
        section.extend([1, 0, 0, 0]);
        section.extend([0xff; 8]);
        block(&mut out, SECTION_HEADER, &section)?;
        for link in [LINK_RAW, LINK_ETHERNET] {
            let mut interface = Vec::new();
            interface.extend(link.to_le_bytes());
            interface.extend([0; 6]);
            interface.extend(NANOSECONDS);
            interface.extend([0; 4]);
            block(&mut out, INTERFACE_DESCRIPTION, &interface)?;
        }
        Ok(Self { out, written: 0 })
    }

    /// Writes one packet. What is neither IP nor Ethernet gets an Ethernet header without addresses.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&mut self, time: Option<Timestamp>, protocol_type: u16, packet: &[u8]) -> io::Result<()> {
        let (interface, header) = match protocol_type {
            ethertype::IPV4 | ethertype::IPV6 => (RAW, Vec::new()),
            ethertype::TEB => (ETHERNET, Vec::new()),
            other => (ETHERNET, [&[0; 12][..], &other.to_be_bytes()].concat()),
        };
        let time = time.unwrap_or(Timestamp { seconds: 0, nanoseconds: 0 });
        let units = time.seconds.saturating_mul(1_000_000_000).saturating_add(u64::from(time.nanoseconds));
        let length = u32::try_from(header.len() + packet.len()).unwrap_or(u32::MAX);
        let mut body = Vec::with_capacity(24 + length as usize);
        for field in [interface, (units >> 32) as u32, units as u32, length, length] {
            body.extend(field.to_le_bytes());
        }
        body.extend(header);
        body.extend(packet);
        self.written += 1;
        block(&mut self.out, ENHANCED_PACKET, &body)
    }

    /// Packets written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Ends the file.
    ///
    /// # Errors
    /// The writer's.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

/// A block: type, length, body padded to 32 bits, length again.
fn block(out: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let padding = body.len().next_multiple_of(4) - body.len();
    let length = (12 + body.len() + padding) as u32;
    out.write_all(&kind.to_le_bytes())?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(body)?;
    out.write_all(&[0; 3][..padding])?;
    out.write_all(&length.to_le_bytes())
}
