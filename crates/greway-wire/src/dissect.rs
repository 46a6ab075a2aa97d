//! A packet taken apart field by field, for people.
//!
//! Used to show what went over a wire, byte by byte. The fields of a datagram tile it: each byte
//! belongs to exactly one field, in order, whatever the bytes are, and what cannot be read is a field
//! called `data`. Nothing here decides about a packet.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};

use crate::checksum::{self, Checksum};
use crate::gre::{self, GreHeader};
use crate::ipv4::Ipv4Header;
use crate::ipv6::Ipv6Header;
use crate::transport::{self, Transport};
use crate::{ethertype, icmp, ipv4, ipv6};

/// One field of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The header it belongs to: `outer IPv4`, `GRE`, `inner IPv4`, `inner IPv6`, `ICMP`, `TCP` …
    pub layer: &'static str,
    /// Offset of its first byte in the packet.
    pub offset: usize,
    /// Bytes.
    pub length: usize,
    /// Name as in the RFC.
    pub name: &'static str,
    /// Value for people.
    pub value: String,
}

/// Takes a GRE datagram apart: delivery header, GRE header, payload packet.
pub fn dissect(datagram: &[u8]) -> Vec<Field> {
    let mut walk = Walk { bytes: datagram, at: 0, layer: "outer IPv4", fields: Vec::new() };
    if walk.ipv4() == Some(gre::PROTOCOL) && walk.gre().is_some() {
        walk.payload_packet();
    }
    walk.rest();
    walk.fields
}

/// Takes an IPv4 or IPv6 packet apart that is in no tunnel.
pub fn dissect_payload(packet: &[u8]) -> Vec<Field> {
    let mut walk = Walk { bytes: packet, at: 0, layer: "IP", fields: Vec::new() };
    walk.payload_packet();
    walk.rest();
    walk.fields
}

/// Which bytes the next field takes.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    layer: &'static str,
    fields: Vec<Field>,
}

impl<'a> Walk<'a> {
    fn remaining(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    fn field(&mut self, length: usize, name: &'static str, value: String) {
        if length > 0 {
            self.fields.push(Field { layer: self.layer, offset: self.at, length, name, value });
            self.at += length;
        }
    }

    fn rest(&mut self) {
        let length = self.remaining().len();
        let value = if length == 1 { "1 byte".to_string() } else { format!("{length} bytes") };
        self.field(length, "data", value);
    }

    /// The header at the cursor; the protocol number of what follows, where that can be read.
    fn ipv4(&mut self) -> Option<u8> {
        let bytes = self.remaining();
        let header = Ipv4Header::parse(bytes).ok()?;
        let header_len = header.header_len();
        let field = u16::from_be_bytes([bytes[10], bytes[11]]);
        let right = verdict(checksum::verifies(&bytes[..header_len]));
        let flag = |set: bool, name: &'static str| if set { name } else { "" };
        let flags = format!(
            "{}{}fragment offset {}",
            flag(header.dont_fragment, "DF, "),
            flag(header.more_fragments, "MF, "),
            header.fragment_offset * 8
        );
        self.field(1, "version, header length", format!("4, {header_len} bytes"));
        self.field(1, "type of service", class(header.tos));
        self.field(2, "total length", format!("{} bytes", header.total_length));
        self.field(2, "identification", format!("0x{:04x}", header.identification));
        self.field(2, "flags, fragment offset", flags);
        self.field(1, "time to live", header.ttl.to_string());
        self.field(1, "protocol", protocol(header.protocol));
        self.field(2, "header checksum", format!("0x{field:04x}, {right}"));
        self.field(4, "source", header.source.to_string());
        self.field(4, "destination", header.destination.to_string());
        self.field(header_len - ipv4::MIN_LEN, "options", "not interpreted".to_string());
        (!header.is_fragment()).then_some(header.protocol)
    }

    fn ipv6(&mut self) -> Option<u8> {
        let header = Ipv6Header::parse(self.remaining()).ok()?;
        let first = format!("6, {}, 0x{:05x}", class(header.traffic_class), header.flow_label);
        self.field(4, "version, traffic class, flow label", first);
        self.field(2, "payload length", format!("{} bytes", header.payload_length));
        self.field(1, "next header", protocol(header.next_header));
        self.field(1, "hop limit", header.hop_limit.to_string());
        self.field(16, "source", header.source.to_string());
        self.field(16, "destination", header.destination.to_string());
        Some(header.next_header)
    }

    fn gre(&mut self) -> Option<()> {
        self.layer = "GRE";
        let bytes = self.remaining();
        let (header, header_len) = GreHeader::parse(bytes).ok()?;
        let flags = u16::from_be_bytes([bytes[0], bytes[1]]);
        let right = verdict(checksum::verifies(self.datagram_end()));
        self.field(2, "flags, version", format!("0x{flags:04x}: {}, version 0", present(&header)));
        let name = ethertype::name(header.protocol_type).unwrap_or("unknown");
        self.field(2, "protocol type", format!("0x{:04x} {name}", header.protocol_type));
        if let Some(field) = header.checksum {
            self.field(2, "checksum", format!("0x{field:04x}, {right}"));
            self.field(2, "reserved1", hex(&bytes[6..8]));
        }
        if let Some(key) = header.key {
            self.field(4, "key", format!("{key} ({})", Ipv4Addr::from(key)));
        }
        if let Some(number) = header.sequence_number {
            self.field(4, "sequence number", number.to_string());
        }
        debug_assert!(header_len >= gre::BASE_LEN, "a GRE header has four bytes");
        matches!(header.protocol_type, ethertype::IPV4 | ethertype::IPV6).then_some(())
    }

    /// What the GRE checksum covers: from here to the end by the delivery header's total length.
    fn datagram_end(&self) -> &'a [u8] {
        let total = Ipv4Header::parse(self.bytes).map_or(0, |outer| usize::from(outer.total_length));
        self.bytes.get(self.at..total).unwrap_or_else(|| self.remaining())
    }

    fn payload_packet(&mut self) {
        let packet = self.remaining();
        let in_tunnel = self.layer == "GRE";
        let next = match packet.first().map(|first| first >> 4) {
            Some(4) => {
                self.layer = if in_tunnel { "inner IPv4" } else { "IPv4" };
                self.ipv4()
            }
            Some(6) => {
                self.layer = if in_tunnel { "inner IPv6" } else { "IPv6" };
                self.ipv6()
            }
            _ => None,
        };
        match next {
            Some(icmp::PROTOCOL) => self.icmp("ICMP", None),
            Some(icmp::PROTOCOL_V6) => self.icmp("ICMPv6", ipv6::addresses(packet)),
            Some(transport::TCP | transport::UDP) => self.transport(packet),
            _ => {}
        }
    }

    fn icmp(&mut self, layer: &'static str, addresses: Option<(Ipv6Addr, Ipv6Addr)>) {
        let message = self.remaining();
        if message.len() < icmp::HEADER_LEN {
            return;
        }
        self.layer = layer;
        let mut sum = addresses.map_or_else(Checksum::new, |(source, destination)| {
            checksum::pseudo_header_v6(source, destination, icmp::PROTOCOL_V6, message.len() as u32)
        });
        sum.add(message);
        let name = match (addresses.is_some(), message[0]) {
            (false, 0) | (true, 129) => "echo reply",
            (false, 8) | (true, 128) => "echo request",
            (false, 3) | (true, 1) => "destination unreachable",
            (false, 11) | (true, 3) => "time exceeded",
            (true, 2) => "packet too big",
            _ => "other",
        };
        let echo = name.starts_with("echo");
        self.field(1, "type", format!("{} {name}", message[0]));
        self.field(1, "code", message[1].to_string());
        self.field(2, "checksum", format!("{}, {}", hex(&message[2..4]), verdict(sum.verifies())));
        if echo {
            self.field(2, "identifier", u16::from_be_bytes([message[4], message[5]]).to_string());
            self.field(2, "sequence number", u16::from_be_bytes([message[6], message[7]]).to_string());
        } else {
            self.field(4, "rest of header", hex(&message[4..8]));
        }
    }

    fn transport(&mut self, packet: &[u8]) {
        let Some(found) = Transport::locate(packet) else { return };
        // Extension headers before it stay unread.
        let before = found.offset - (packet.len() - self.remaining().len());
        self.field(before, "extension headers", "not interpreted".to_string());
        let bytes = &packet[found.offset..found.end];
        let mut sum = found.pseudo_header(bytes.len() as u32);
        sum.add(bytes);
        let right = verdict(sum.verifies());
        let number = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let wide = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        self.layer = match found.protocol {
            transport::Protocol::Tcp => "TCP",
            transport::Protocol::Udp => "UDP",
        };
        self.field(2, "source port", number(0).to_string());
        self.field(2, "destination port", number(2).to_string());
        match found.protocol {
            transport::Protocol::Tcp => {
                self.field(4, "sequence number", wide(4).to_string());
                self.field(4, "acknowledgment number", wide(8).to_string());
                let flags = tcp_flags(bytes[13]);
                self.field(2, "data offset, flags", format!("{} bytes, {flags}", found.header_len));
                self.field(2, "window", number(14).to_string());
                self.field(2, "checksum", format!("0x{:04x}, {right}", number(16)));
                self.field(2, "urgent pointer", number(18).to_string());
                let options = found.header_len - transport::TCP_MIN_LEN;
                self.field(options, "options", "not interpreted".to_string());
            }
            transport::Protocol::Udp => {
                self.field(2, "length", format!("{} bytes", number(4)));
                let right = if number(6) == 0 { "not used" } else { right };
                self.field(2, "checksum", format!("0x{:04x}, {right}", number(6)));
            }
        }
    }
}

fn verdict(right: bool) -> &'static str {
    if right { "correct" } else { "wrong" }
}

fn class(byte: u8) -> String {
    let ecn = ["not-ECT", "ECT(1)", "ECT(0)", "CE"][usize::from(byte & 3)];
    format!("0x{byte:02x} (DSCP {}, {ecn})", byte >> 2)
}

fn protocol(number: u8) -> String {
    let name = match number {
        icmp::PROTOCOL => "ICMP",
        transport::TCP => "TCP",
        transport::UDP => "UDP",
        gre::PROTOCOL => "GRE",
        icmp::PROTOCOL_V6 => "ICMPv6",
        _ => return number.to_string(),
    };
    format!("{number} {name}")
}

fn present(header: &GreHeader) -> &'static str {
    match (header.checksum.is_some(), header.key.is_some(), header.sequence_number.is_some()) {
        (false, false, false) => "no options",
        (true, false, false) => "checksum",
        (false, true, false) => "key",
        (false, false, true) => "sequence number",
        (true, true, false) => "checksum, key",
        (true, false, true) => "checksum, sequence number",
        (false, true, true) => "key, sequence number",
        (true, true, true) => "checksum, key, sequence number",
    }
}

fn tcp_flags(byte: u8) -> String {
    const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set: Vec<&str> = (0..8).filter(|bit| byte >> bit & 1 == 1).map(|bit| NAMES[bit]).collect();
    if set.is_empty() { "no flags".to_string() } else { set.join(" ") }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::from("0x");
    for byte in bytes {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A keyed echo request from 172.31.11.1 to 172.31.11.2 between 10.9.0.11 and 10.9.0.2.
    const ECHO: &str = "4500004603ea0000402f62810a09000b0a090002200008000000002a\
        4500002a000140004001cc90ac1f0b01ac1f0b0208000efb4f0b00016f7261636c652d7061796c6f6164";

    fn bytes(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let digit = |at: usize| (digits[at] as char).to_digit(16).unwrap() as u8;
        (0..digits.len() / 2).map(|i| digit(2 * i) << 4 | digit(2 * i + 1)).collect()
    }

    #[test]
    fn a_keyed_echo_request_names_every_header() {
        let fields = dissect(&bytes(ECHO));
        let value = |layer: &str, name: &str| {
            let found = fields.iter().find(|f| f.layer == layer && f.name == name);
            found.map(|f| f.value.clone()).unwrap_or_default()
        };
        assert_eq!(value("outer IPv4", "source"), "10.9.0.11");
        assert_eq!(value("GRE", "flags, version"), "0x2000: key, version 0");
        assert_eq!(value("GRE", "protocol type"), "0x0800 IPv4");
        assert_eq!(value("GRE", "key"), "42 (0.0.0.42)");
        assert_eq!(value("inner IPv4", "destination"), "172.31.11.2");
        assert_eq!(value("inner IPv4", "header checksum"), "0xcc90, correct");
        assert_eq!(value("ICMP", "type"), "8 echo request");
        assert_eq!(value("ICMP", "checksum"), "0x0efb, correct");
        assert_eq!(value("ICMP", "data"), "14 bytes");
    }

    proptest! {
        #[test]
        fn fields_tile_the_packet(
            mut noise in proptest::collection::vec(any::<u8>(), 0..160),
            keep in 0_usize..70,
            protocol in prop_oneof![Just(1_u8), Just(6), Just(17), Just(58)],
        ) {
            let start = bytes(ECHO);
            let keep = keep.min(noise.len()).min(start.len());
            noise[..keep].copy_from_slice(&start[..keep]);
            if keep > 40 {
                noise[37] = protocol;
            }
            for fields in [dissect(&noise), dissect_payload(&noise)] {
                let mut at = 0;
                for field in fields {
                    prop_assert_eq!(field.offset, at);
                    prop_assert!(field.length > 0);
                    at += field.length;
                }
                prop_assert_eq!(at, noise.len());
            }
        }
    }
}
