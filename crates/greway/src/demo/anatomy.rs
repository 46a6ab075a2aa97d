//! Captured packets for people: one line each in tcpdump's manner, and one packet byte by byte.

use std::net::Ipv4Addr;

use greway_wire::dissect::{Field, dissect};
use greway_wire::gre::{self, GreHeader};
use greway_wire::icmp::{self, Echo};
use greway_wire::ipv4::Ipv4Header;
use greway_wire::{ethertype, transport};

/// The source address of an IPv4 packet.
pub(super) fn source(packet: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Header::parse(packet).ok()?.source)
}

/// Whether this is an ICMP echo request in no tunnel.
pub(super) fn is_echo_request(packet: &[u8]) -> bool {
    echo(packet).is_some_and(|echo| !echo.is_reply)
}

/// The key of a GRE packet: `None`, this is no GRE packet; `Some(None)`, it has no key.
pub(super) fn gre_key(packet: &[u8]) -> Option<Option<u32>> {
    Some(unwrap(packet)?.0.key)
}

/// Whether this is a GRE packet whose payload packet goes from one address to the other.
pub(super) fn is_gre_from_to(packet: &[u8], from: Ipv4Addr, to: Ipv4Addr) -> bool {
    let inner = unwrap(packet).and_then(|(_, inner)| Ipv4Header::parse(inner).ok());
    inner.is_some_and(|inner| (inner.source, inner.destination) == (from, to))
}

/// The packet in one line, as tcpdump would print it without a time.
pub(super) fn line(packet: &[u8]) -> String {
    let Ok(header) = Ipv4Header::parse(packet) else {
        return format!("{} bytes that are no IPv4 packet", packet.len());
    };
    let addresses = format!("IP {} > {}: ", header.source, header.destination);
    let length = body(packet).len();
    if let Some((gre, inner)) = unwrap(packet) {
        let key = gre.key.map_or_else(String::new, |key| format!(", key=0x{key:x}"));
        let inner = if gre.protocol_type == ethertype::IPV4 {
            line(inner)
        } else {
            format!("protocol 0x{:04x}", gre.protocol_type)
        };
        return format!("{addresses}GREv0{key}, length {length}: {inner}");
    }
    if let Some(echo) = echo(packet) {
        let kind = if echo.is_reply { "reply" } else { "request" };
        return format!(
            "{addresses}ICMP echo {kind}, id {}, seq {}, length {length}",
            echo.identifier, echo.sequence_number
        );
    }
    let protocol = match header.protocol {
        icmp::PROTOCOL => "ICMP".to_owned(),
        transport::TCP => "TCP".to_owned(),
        number => format!("protocol {number}"),
    };
    format!("{addresses}{protocol}, length {length}")
}

/// Whether all lengths and checksums in a GRE packet that carries an echo are right.
pub(super) fn adds_up(packet: &[u8]) -> bool {
    let whole = |bytes: &[u8]| {
        Ipv4Header::parse(bytes).is_ok_and(|header| {
            usize::from(header.total_length) == bytes.len()
                && greway_wire::checksum::verifies(&bytes[..header.header_len()])
        })
    };
    let inner = unwrap(packet).map(|(_, inner)| inner);
    whole(packet) && inner.is_some_and(|inner| whole(inner) && greway_wire::checksum::verifies(body(inner)))
}

/// The packet taken apart: for each field its offset, its bytes, its name and what it says.
pub(super) fn table(packet: &[u8]) -> Vec<String> {
    let fields = dissect(packet);
    let mut lines = vec![format!("  {:>6}  {:<23}  {:<24}  {}", "offset", "bytes (hex)", "field", "says")];
    let mut layer = "";
    for field in &fields {
        if field.layer != layer {
            layer = field.layer;
            let length = fields.iter().filter(|field| field.layer == layer).map(|field| field.length).sum();
            lines.push(format!("  ─── {}", heading(layer, length)));
        }
        rows(field, packet, &mut lines);
    }
    lines
}

/// What a header is for, in a line.
fn heading(layer: &str, length: usize) -> String {
    let role = match layer {
        "outer IPv4" => "the delivery header, added by linux1; the router reads no further",
        "GRE" => "added by linux1: what kind of packet follows, and the key if there is one",
        "inner IPv4" => "the packet that goes through the tunnel; from here on nothing was changed",
        "ICMP" => "the echo request itself",
        _ => "",
    };
    format!("{layer}, {length} bytes: {role}")
}

/// Bytes in one row.
const ROW: usize = 8;

fn rows(field: &Field, packet: &[u8], lines: &mut Vec<String>) {
    let end = field.offset + field.length;
    let bytes = packet.get(field.offset..end).unwrap_or_default();
    for (number, row) in bytes.chunks(ROW).enumerate() {
        let hex: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        let (name, value) = if number == 0 { (field.name, field.value.as_str()) } else { ("", "") };
        let offset = field.offset + number * ROW;
        let line = format!("  {offset:>6}  {:<23}  {name:<24}  {value}", hex.join(" "));
        lines.push(line.trim_end().to_owned());
    }
}

/// The GRE header of a delivery packet and the payload packet.
fn unwrap(packet: &[u8]) -> Option<(GreHeader, &[u8])> {
    let header = Ipv4Header::parse(packet).ok()?;
    if header.protocol != gre::PROTOCOL || header.fragment_offset != 0 {
        return None;
    }
    let bytes = body(packet);
    let (gre, length) = GreHeader::parse(bytes).ok()?;
    Some((gre, bytes.get(length..)?))
}

fn echo(packet: &[u8]) -> Option<Echo> {
    let header = Ipv4Header::parse(packet).ok()?;
    if header.protocol != icmp::PROTOCOL || header.fragment_offset != 0 {
        return None;
    }
    Echo::parse(body(packet)).map(|(echo, _)| echo)
}

/// What follows the IPv4 header, up to its total length: a captured frame may have padding behind.
fn body(packet: &[u8]) -> &[u8] {
    let Ok(header) = Ipv4Header::parse(packet) else { return &[] };
    let end = usize::from(header.total_length).min(packet.len());
    packet.get(header.header_len()..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A keyed echo request as a Linux 6.1 kernel's own GRE sent it.
    const ECHO: &str = "4500004603ea0000402f62810a09000b0a09000220000800000000 2a\
        4500002a000140004001cc90ac1f0b01ac1f0b0208000efb4f0b00016f7261636c652d7061796c6f6164";

    fn bytes(text: &str) -> Vec<u8> {
        let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
    }

    #[test]
    fn a_packet_in_a_line() {
        assert_eq!(
            line(&bytes(ECHO)),
            "IP 10.9.0.11 > 10.9.0.2: GREv0, key=0x2a, length 50: \
             IP 172.31.11.1 > 172.31.11.2: ICMP echo request, id 20235, seq 1, length 22"
        );
        assert_eq!(line(&[1, 2, 3]), "3 bytes that are no IPv4 packet");
    }

    #[test]
    fn facts_of_a_packet() {
        let packet = bytes(ECHO);
        let (from, to) = (Ipv4Addr::new(172, 31, 11, 1), Ipv4Addr::new(172, 31, 11, 2));
        assert_eq!(gre_key(&packet), Some(Some(42)));
        assert_eq!(source(&packet), Some(Ipv4Addr::new(10, 9, 0, 11)));
        assert!(is_gre_from_to(&packet, from, to) && !is_gre_from_to(&packet, to, from));
        assert!(!is_echo_request(&packet) && is_echo_request(&packet[28..]));
        assert_eq!(gre_key(&packet[28..]), None);
    }

    #[test]
    fn a_wrong_byte_does_not_add_up() {
        let packet = bytes(ECHO);
        assert!(adds_up(&packet));
        for wrong in [9, 31, 60] {
            let mut packet = packet.clone();
            packet[wrong] ^= 0x10;
            assert!(!adds_up(&packet), "byte {wrong}");
        }
    }

    #[test]
    fn the_table_shows_every_byte_once() {
        let packet = bytes(ECHO);
        let table = table(&packet);
        let shown: Vec<u8> = table
            .iter()
            .filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()))
            .flat_map(|line| bytes(&line[10..line.len().min(33)]))
            .collect();
        assert_eq!(shown, packet);
        assert!(table.contains(
            &"      24  00 00 00 2a              key                       42 (0.0.0.42)".to_owned()
        ));
        assert!(table.iter().any(|line| line.contains("GRE, 8 bytes: added by linux1")));
    }
}
