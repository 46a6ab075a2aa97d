//! Captures taken apart: which GRE packets are in them, what is in those, and what a tunnel would do
//! with them.
//!
//! A capture comes from anywhere, so nothing in it is believed: every length is checked against what is
//! there, frames and reassembly have bounds that do not grow with the file, and a capture that is cut or
//! wrong ends in a [`CaptureError`] that names the frame. A verdict comes from `greway-engine`, the same
//! code that decides about live packets. Nothing here opens a file or prints.
//!
//! ```text
//! Read ─► capture: pcap, pcapng ─► link: Ethernet, VLAN, cooked, raw ─► reassembly
//!                                                                          │ whole datagram
//!                       Record ◄─ dissect: outer, GRE, inner, nested ◄─────┤
//!                       Verdict ◄─ judge: the engine ◄─────────────────────┘
//! ```

#![forbid(unsafe_code)]

pub mod capture;
pub mod decapsulated;
pub mod dissect;
pub mod judge;
pub mod link;
pub mod record;

use std::io::Read;

use capture::{Capture, CaptureError};
use greway_engine::reassembly::{self, Reassembly};
use greway_spec::TunnelSpec;
use greway_wire::ethertype;
use judge::Judge;
use record::Record;

pub use capture::Timestamp;
pub use decapsulated::CaptureWriter;
pub use judge::Payload;

/// What was seen, beside the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Frames of the capture.
    pub frames: u64,
    /// Frames with GRE in them, a datagram of several fragments being one.
    pub gre: u64,
    /// Frames of IP without GRE, and of anything else that was understood.
    pub other: u64,
    /// Frames whose link layer is not read, or that are cut before their IP header ends.
    pub unread: u64,
    /// GRE datagrams of which not all fragments came.
    pub incomplete: u64,
}

/// A capture, record by record.
pub struct Inspection {
    capture: Capture,
    reassembly: Reassembly,
    judge: Option<Judge>,
    summary: Summary,
}

/// A GRE packet of the capture.
#[derive(Debug)]
pub struct Found {
    /// Taken apart.
    pub record: Record,
    /// When it was captured.
    pub time: Option<Timestamp>,
    /// What a tunnel would deliver when it comes, in this order. Nothing where no tunnel takes it, where it holds
    /// nothing that can be read, and where it has to wait for those before it; more than one packet where others
    /// have waited for this one.
    pub payloads: Vec<Payload>,
}

impl Inspection {
    /// Begins to read. `tunnel`: also say what that tunnel would do.
    ///
    /// # Errors
    /// The reader's, and [`CaptureError::NotACapture`].
    pub fn new(
        reader: impl Read + Send + 'static,
        tunnel: Option<&TunnelSpec>,
    ) -> Result<Self, CaptureError> {
        Ok(Self {
            capture: Capture::new(reader)?,
            reassembly: Reassembly::new(),
            judge: tunnel.map(Judge::new),
            summary: Summary::default(),
        })
    }

    /// The next GRE packet; `None` at the end.
    ///
    /// # Errors
    /// Where the capture is cut or wrong; what was read before stays as it is.
    pub fn next_packet(&mut self) -> Result<Option<Found>, CaptureError> {
        loop {
            let Some(frame) = self.capture.next_frame()? else { return Ok(None) };
            self.summary.frames += 1;
            let cut = frame.bytes.len() < frame.wire_len as usize;
            let Some(packet) = link::network_layer(frame.link, frame.bytes) else {
                self.summary.unread += 1;
                continue;
            };
            let now_ms = frame.time.map_or(0, Timestamp::milliseconds);
            let whole = match packet.ethertype {
                ethertype::IPV4 => self.reassembly.ipv4(packet.bytes, frame.number, now_ms),
                ethertype::IPV6 => self.reassembly.ipv6(packet.bytes, frame.number, now_ms),
                _ => {
                    self.summary.other += 1;
                    continue;
                }
            };
            let datagram = match whole {
                reassembly::Outcome::Whole(datagram) => datagram,
                reassembly::Outcome::NotGre => {
                    self.summary.other += 1;
                    continue;
                }
                reassembly::Outcome::Unreadable => {
                    self.summary.unread += 1;
                    continue;
                }
                reassembly::Outcome::Waits => continue,
            };
            self.summary.gre += 1;
            let (number, time, vlans) = (frame.number, frame.time, packet.vlans);
            let mut record = dissect::datagram(&datagram.bytes, cut);
            record.frame = number;
            record.time = time.map(|time| time.to_string());
            record.vlans = vlans;
            record.fragments = datagram.fragments;
            let bytes = datagram.bytes.into_owned();
            let payloads = judge_or_take(self.judge.as_mut(), &mut record, bytes, now_ms);
            return Ok(Some(Found { record, time, payloads }));
        }
    }

    /// What still waits for others at the end; see [`Found::payloads`].
    pub fn rest(&mut self) -> Vec<Payload> {
        self.judge.as_mut().map(Judge::rest).unwrap_or_default()
    }

    /// What was seen up to now.
    pub fn summary(&self) -> Summary {
        Summary { incomplete: self.reassembly.incomplete(), ..self.summary }
    }

    /// Bytes of fragments that wait for others; never more than a fixed bound.
    pub fn waiting_bytes(&self) -> usize {
        self.reassembly.waiting_bytes()
    }
}

/// The tunnel's verdict; without a tunnel whatever the packet holds is taken out.
fn judge_or_take(
    judge: Option<&mut Judge>,
    record: &mut Record,
    mut datagram: Vec<u8>,
    now_ms: u64,
) -> Vec<Payload> {
    let Some(judge) = judge else { return dissect::payload(&datagram).into_iter().collect() };
    let judgement = judge.judge(&mut datagram, record, now_ms);
    record.verdict = Some(judgement.verdict);
    record.reason = judgement.reason;
    record.explanation = judgement.explanation;
    judgement.payloads
}
