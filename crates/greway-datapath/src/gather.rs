//! Packets that came out of a tunnel device one by one and leave as one super-packet, which the kernel cuts again.
//!
//! One that leaves by itself costs a call's share and a walk through the kernel; cut behind that they cost a fraction. It
//! is worth it only where the kernel cuts for certain ([`crate::SuperPackets::All`]): who receives datagrams put together
//! by raw socket could not tell where one ends. Nothing waits here for what may come: packets of one batch are put
//! together, by the rules of [`greway_engine::coalesce`], by which what is cut is what came.

use greway_engine::{Candidate, Link, Run, Tunnel, coalesce};
use greway_wire::ethertype;

use crate::overlay::Payload;

/// A run of packets that follow each other.
#[derive(Default)]
pub(crate) struct Gathering<'a> {
    run: Run<'a>,
    /// The link header of each, in an Ethernet tunnel.
    link: &'a [u8],
    members: Vec<Payload<'a>>,
}

/// What may be part of a run, and its link header.
fn apart<'a>(tunnel: &Tunnel, payload: &Payload<'a>) -> Option<(&'a [u8], Candidate<'a>)> {
    let Link { ethertype, len } = tunnel.link(payload.protocol_type, payload.packet)?;
    if !matches!(ethertype, ethertype::IPV4 | ethertype::IPV6) {
        return None;
    }
    let (link, packet) = payload.packet.split_at(len);
    let candidate = Candidate::of(packet, payload.offload.without(len)?)?;
    Some((link, candidate))
}

impl<'a> Gathering<'a> {
    /// Takes a packet that continues what is gathered; false when it does not.
    pub(crate) fn append(&mut self, tunnel: &Tunnel, payload: &Payload<'a>) -> bool {
        let Some(first) = self.members.first() else { return false };
        let Some((link, candidate)) = apart(tunnel, payload) else { return false };
        let continues = first.protocol_type == payload.protocol_type && link == self.link;
        if !continues || !self.run.append(&candidate) {
            return false;
        }
        self.members.push(*payload);
        true
    }

    /// Takes a packet that others may continue, when nothing is gathered; false when none may.
    pub(crate) fn begin(&mut self, tunnel: &Tunnel, payload: &Payload<'a>) -> bool {
        let Some((link, candidate)) = apart(tunnel, payload) else { return false };
        if !self.run.begin(candidate) {
            return false;
        }
        self.link = link;
        self.members.push(*payload);
        true
    }

    /// The packets as they came, in order.
    pub(crate) fn members(&self) -> &[Payload<'a>] {
        &self.members
    }

    /// Writes them as one into the buffer; `None` where there is only one.
    pub(crate) fn as_one<'x>(&self, buffer: &'x mut Vec<u8>) -> Option<Payload<'x>> {
        let first = self.members.first().filter(|_| self.members.len() > 1)?;
        let mut headers = [0; coalesce::MAX_HEADERS];
        let (length, offload) = self.run.emit(&mut headers);
        buffer.clear();
        buffer.extend_from_slice(self.link);
        buffer.extend_from_slice(&headers[..length]);
        self.run.payloads().iter().for_each(|payload| buffer.extend_from_slice(payload));
        Some(Payload { packet: buffer, offload: offload.behind(self.link.len()), ..*first })
    }

    /// Has gathered nothing.
    pub(crate) fn clear(&mut self) {
        self.run.clear();
        self.members.clear();
    }
}
