//! What of a packet on the wire follows from the rules, and what from the moment: identifications, sequence numbers,
//! automatic flow labels and the checksums that follow from these are verified and then taken out.

use std::fmt::Write;

use greway_wire::checksum::{self, verifies};
use greway_wire::ethertype;
use greway_wire::extension::{self, Chain};
use greway_wire::gre::PROTOCOL as GRE;
use greway_wire::gre::{CHECKSUM_OFFSET, CHECKSUM_PRESENT, GreHeader, SEQUENCE_PRESENT};
use greway_wire::icmp::{PROTOCOL as ICMP, PROTOCOL_V6 as ICMPV6};

const ECHO_REPLY: u8 = 0;
const ECHO_REPLY_V6: u8 = 129;
/// What stands in an automatic flow label.
const FLOW_LABEL: usize = 1;

/// What was on the wire, for comparison and for messages: a packet a line, masked; with what is wrong with it on its
/// own, where something is.
pub(crate) fn on_the_wire(packets: &[Vec<u8>], label_is_fixed: bool) -> String {
    let one = |packet: &Vec<u8>| match masked(packet, label_is_fixed && gre_at(packet).is_some()) {
        Ok(masked) => shown(&masked),
        Err(error) => format!("{error}: {}", shown(packet)),
    };
    lines(packets.iter().map(one))
}

/// Takes out of an IP packet what no rule fixes. A label that was to be inherited is fixed.
///
/// # Errors
/// What is wrong with the packet on its own: a checksum.
fn masked(packet: &[u8], label_is_fixed: bool) -> Result<Vec<u8>, String> {
    let mut bytes = packet.to_vec();
    match bytes[0] >> 4 {
        4 => {
            let header = usize::from(bytes[0] & 0x0f) * 4;
            if !verifies(&bytes[..header]) {
                return Err("the outer header checksum is wrong".to_owned());
            }
            bytes[4..6].fill(0);
            bytes[10..12].fill(0);
            if bytes[9] == GRE {
                mask_gre(&mut bytes[header..])?;
            }
        }
        6 => {
            if !label_is_fixed {
                mask_label(&mut bytes);
            }
            if let Some(at) = gre_at(&bytes) {
                mask_gre(&mut bytes[at..])?;
            }
        }
        version => return Err(format!("IP version {version}")),
    }
    Ok(bytes)
}

fn mask_gre(gre: &mut [u8]) -> Result<(), String> {
    let (header, length) = GreHeader::parse(gre).map_err(|error| error.to_string())?;
    let flags = u16::from_be_bytes([gre[0], gre[1]]);
    if flags & CHECKSUM_PRESENT != 0 && !verifies(gre) {
        return Err("the GRE checksum is wrong".to_owned());
    }
    if flags & SEQUENCE_PRESENT != 0 {
        gre[length - 4..length].fill(0);
        if flags & CHECKSUM_PRESENT != 0 {
            gre[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].fill(0);
        }
    }
    let (protocol_type, inner) = match header.protocol_type {
        ethertype::TEB if gre.len() > length + 14 => {
            let frame = &mut gre[length..];
            (u16::from_be_bytes([frame[12], frame[13]]), &mut frame[14..])
        }
        protocol_type => (protocol_type, &mut gre[length..]),
    };
    // A reply was made by the host's own stack; a forwarded packet is to come out as it is.
    match protocol_type {
        ethertype::IPV4 if inner.get(9) == Some(&ICMP) && inner.get(20) == Some(&ECHO_REPLY) => {
            if !verifies(&inner[..20]) {
                return Err("the header checksum of the reply is wrong".to_owned());
            }
            inner[4..6].fill(0);
            inner[10..12].fill(0);
        }
        ethertype::IPV6 if inner.get(6) == Some(&ICMPV6) && inner.get(40) == Some(&ECHO_REPLY_V6) => {
            mask_label(inner)
        }
        _ => {}
    }
    Ok(())
}

fn mask_label(packet: &mut [u8]) {
    packet[FLOW_LABEL] &= 0xf0;
    packet[2..4].fill(0);
}

/// The sequence number of a GRE packet that has one.
pub(crate) fn sequence_number(packet: &[u8]) -> Option<u32> {
    gre_of(packet)?.0.sequence_number
}

/// The GRE header of an IP packet and what it carries.
pub(crate) fn gre_of(packet: &[u8]) -> Option<(GreHeader, &[u8])> {
    let gre = &packet[gre_at(packet)?..];
    let (header, length) = GreHeader::parse(gre).ok()?;
    Some((header, &gre[length..]))
}

/// Where the GRE header of an IP packet begins, behind whatever extension headers.
pub(crate) fn gre_at(packet: &[u8]) -> Option<usize> {
    if packet[0] >> 4 == 4 {
        return (packet[9] == GRE).then(|| usize::from(packet[0] & 0x0f) * 4);
    }
    match extension::follow(packet) {
        Chain::To { protocol: GRE, at, .. } => Some(at),
        _ => None,
    }
}

/// Puts another sequence number into a GRE packet over IPv4.
pub(crate) fn set_sequence_number(packet: &mut [u8], number: u32) {
    let header = usize::from(packet[0] & 0x0f) * 4;
    let gre = &mut packet[header..];
    let (header, length) = GreHeader::parse(gre).unwrap();
    gre[length - 4..length].copy_from_slice(&number.to_be_bytes());
    if header.checksum.is_some() {
        gre[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].fill(0);
        let value = checksum::checksum(gre);
        gre[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].copy_from_slice(&value.to_be_bytes());
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn shown(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Texts below each other.
pub(crate) fn lines(texts: impl Iterator<Item = String>) -> String {
    let texts: Vec<String> = texts.collect();
    if texts.is_empty() { "nothing".to_owned() } else { texts.join("\n             ") }
}
