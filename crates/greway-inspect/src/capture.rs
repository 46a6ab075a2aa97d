//! Frames out of pcap and pcapng, one at a time, in bounded memory.
//!
//! pcap: draft-ietf-opsawg-pcap; pcapng: draft-ietf-opsawg-pcapng.

use std::fmt;
use std::io::{self, Read};

use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

/// What the reader takes from the file at a time, in bytes.
const READ_AHEAD: usize = 256 * 1024;
/// The longest block that is read, in bytes: a super-packet of 64 KiB fits many times.
const LONGEST_BLOCK: usize = 16 * 1024 * 1024;
/// Interfaces of one section at most; each is remembered.
const MOST_INTERFACES: usize = 65_536;

/// Why a capture can be read no further.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Neither pcap nor pcapng.
    #[error("this is no capture: pcap or pcapng is right (tcpdump -w writes the one, dumpcap the other)")]
    NotACapture,
    /// The file ends in the middle of a frame.
    #[error("the capture is cut: it ends in the middle of what follows frame {after}")]
    Cut {
        /// The last whole frame; 0: none.
        after: u64,
    },
    /// A block that contradicts itself.
    #[error("the capture is damaged after frame {after}: {what}")]
    Damaged {
        /// The last whole frame; 0: none.
        after: u64,
        /// What is wrong.
        what: String,
    },
    /// The file could not be read.
    #[error("the capture cannot be read after frame {after}: {source}")]
    Read {
        /// The last whole frame; 0: none.
        after: u64,
        /// Why.
        source: io::Error,
    },
}

/// When a frame was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub seconds: u64,
    /// Nanoseconds of the second.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// Milliseconds since 1970.
    pub fn milliseconds(self) -> u64 {
        self.seconds.saturating_mul(1000).saturating_add(u64::from(self.nanoseconds / 1_000_000))
    }

    /// From a count of units, of which `per_second` make a second.
    fn from_units(units: u64, per_second: u64) -> Self {
        let rest = u128::from(units % per_second) * 1_000_000_000 / u128::from(per_second);
        Self { seconds: units / per_second, nanoseconds: rest as u32 }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.seconds, self.nanoseconds)
    }
}

/// One frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'c> {
    /// Its number, from 1, as in other tools.
    pub number: u64,
    /// When it was captured; a simple packet block does not say.
    pub time: Option<Timestamp>,
    /// Its link type (the LINKTYPE registry).
    pub link: u16,
    /// What was captured of it.
    pub bytes: &'c [u8],
    /// Bytes that it had on the wire.
    pub wire_len: u32,
}

/// What pcapng says of an interface, or pcap of the whole file.
#[derive(Clone, Copy, Debug)]
struct Interface {
    link: u16,
    units_per_second: u64,
    offset_seconds: i64,
    snaplen: u32,
}

/// A capture being read.
pub struct Capture {
    reader: Box<dyn PcapReaderIterator>,
    interfaces: Vec<Interface>,
    frames: u64,
    buffer: Vec<u8>,
}

/// What a block brought.
struct Head {
    time: Option<Timestamp>,
    link: u16,
    wire_len: u32,
}

impl Capture {
    /// Reads the file's header.
    ///
    /// # Errors
    /// [`CaptureError::NotACapture`], and the reader's own.
    pub fn new(reader: impl Read + Send + 'static) -> Result<Self, CaptureError> {
        let reader = create_reader(READ_AHEAD, reader).map_err(|error| match error {
            PcapError::ReadError => {
                CaptureError::Read { after: 0, source: io::Error::other("reading failed") }
            }
            _ => CaptureError::NotACapture,
        })?;
        Ok(Self { reader, interfaces: Vec::new(), frames: 0, buffer: Vec::new() })
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// Where the capture is cut, damaged or cannot be read.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, CaptureError> {
        let head = loop {
            let after = self.frames;
            match self.reader.next() {
                Ok((length, block)) => {
                    let head = take(block, &mut self.interfaces, &mut self.buffer)
                        .map_err(|what| CaptureError::Damaged { after, what: what.to_owned() })?;
                    self.reader.consume(length);
                    if let Some(head) = head {
                        break head;
                    }
                }
                Err(PcapError::Eof) => return Ok(None),
                Err(PcapError::UnexpectedEof) => return Err(CaptureError::Cut { after }),
                Err(PcapError::Incomplete(_)) => {
                    if self.reader.reader_exhausted() {
                        return Err(CaptureError::Cut { after });
                    }
                    self.refill(after)?;
                }
                Err(PcapError::BufferTooSmall) => self.grow(after)?,
                Err(PcapError::ReadError) => {
                    return Err(CaptureError::Read { after, source: io::Error::other("reading failed") });
                }
                Err(_) => {
                    let what = "a block that is none".to_owned();
                    return Err(CaptureError::Damaged { after, what });
                }
            }
        };
        self.frames += 1;
        let Head { time, link, wire_len } = head;
        Ok(Some(Frame { number: self.frames, time, link, bytes: &self.buffer, wire_len }))
    }

    fn refill(&mut self, after: u64) -> Result<(), CaptureError> {
        match self.reader.refill() {
            Ok(()) => Ok(()),
            // The block at hand fills the buffer and is not all of it.
            Err(PcapError::BufferTooSmall) => self.grow(after),
            Err(_) => Err(CaptureError::Read { after, source: io::Error::other("reading failed") }),
        }
    }

    fn grow(&mut self, after: u64) -> Result<(), CaptureError> {
        let size = self.reader.data().len().max(READ_AHEAD) * 2;
        if size > LONGEST_BLOCK {
            let what = format!("a block of more than {} MiB", LONGEST_BLOCK >> 20);
            return Err(CaptureError::Damaged { after, what });
        }
        self.reader.grow(size);
        match self.reader.refill() {
            Ok(()) | Err(PcapError::BufferTooSmall) => Ok(()),
            Err(_) => Err(CaptureError::Read { after, source: io::Error::other("reading failed") }),
        }
    }
}

/// Takes a frame out of a block, or what the block says about frames to come.
fn take(
    block: PcapBlockOwned<'_>,
    interfaces: &mut Vec<Interface>,
    buffer: &mut Vec<u8>,
) -> Result<Option<Head>, &'static str> {
    match block {
        PcapBlockOwned::LegacyHeader(header) => {
            let units_per_second = if header.is_nanosecond_precision() { 1_000_000_000 } else { 1_000_000 };
            let link = link_type(header.network)?;
            *interfaces =
                vec![Interface { link, units_per_second, offset_seconds: 0, snaplen: header.snaplen }];
            Ok(None)
        }
        PcapBlockOwned::Legacy(packet) => {
            let interface = interfaces.first().ok_or("a frame before the header")?;
            let fraction = Timestamp::from_units(u64::from(packet.ts_usec), interface.units_per_second);
            let seconds = u64::from(packet.ts_sec) + fraction.seconds;
            let time = Some(Timestamp { seconds, nanoseconds: fraction.nanoseconds });
            store(buffer, packet.data.get(..packet.caplen as usize).ok_or("a frame shorter than it says")?);
            Ok(Some(Head { time, link: interface.link, wire_len: packet.origlen }))
        }
        PcapBlockOwned::NG(Block::SectionHeader(_)) => {
            interfaces.clear();
            Ok(None)
        }
        PcapBlockOwned::NG(Block::InterfaceDescription(described)) => {
            if interfaces.len() == MOST_INTERFACES {
                return Err("more interfaces than any host has");
            }
            let units_per_second = described.ts_resolution().filter(|units| *units > 0);
            interfaces.push(Interface {
                link: link_type(described.linktype)?,
                units_per_second: units_per_second.ok_or("an interface whose clock has no resolution")?,
                offset_seconds: described.ts_offset(),
                snaplen: described.snaplen,
            });
            Ok(None)
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
            let described = interfaces.get(packet.if_id as usize);
            let interface = described.ok_or("a frame of an interface that is not described")?;
            let units = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
            let time = Timestamp::from_units(units, interface.units_per_second);
            let seconds = time.seconds.saturating_add_signed(interface.offset_seconds);
            store(buffer, packet.packet_data());
            let time = Some(Timestamp { seconds, ..time });
            Ok(Some(Head { time, link: interface.link, wire_len: packet.origlen }))
        }
        PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
            let interface = interfaces.first().ok_or("a frame of an interface that is not described")?;
            // Its data is padded; how much was captured follows from the snap length.
            let snaplen = if interface.snaplen == 0 { u32::MAX } else { interface.snaplen };
            let captured = packet.origlen.min(snaplen) as usize;
            store(buffer, packet.data.get(..captured).ok_or("a frame shorter than it says")?);
            Ok(Some(Head { time: None, link: interface.link, wire_len: packet.origlen }))
        }
        PcapBlockOwned::NG(_) => Ok(None),
    }
}

fn store(buffer: &mut Vec<u8>, bytes: &[u8]) {
    buffer.clear();
    buffer.extend_from_slice(bytes);
}

/// The registry's numbers have 16 bits.
fn link_type(link: Linktype) -> Result<u16, &'static str> {
    // The upper bits of pcap's field tell of a frame check sequence.
    u16::try_from(link.0 & 0x0fff_ffff).map_err(|_too_large| "a link type that is none")
}
