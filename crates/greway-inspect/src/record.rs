//! What is said about a packet. The field names are the JSON that programs read: a name never changes
//! its meaning.

use std::net::IpAddr;

use serde::Serialize;

/// A GRE packet of a capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Number of the frame that it came in, from 1; of several fragments the one that completed it.
    pub frame: u64,
    /// Seconds since 1970 with nine digits after the point.
    pub time: Option<String>,
    /// VLAN identifiers of the frame, the outermost first.
    #[serde(rename = "vlan", skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<u16>,
    /// Frames of the fragments that it was put together from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fragments: Vec<u64>,
    /// The packet itself.
    #[serde(flatten)]
    pub packet: Packet,
    /// `deliver`, `decline` or `drop`; `None` where no tunnel was asked.
    pub verdict: Option<&'static str>,
    /// Why it is declined or dropped, by the name that `greway status` uses.
    pub reason: Option<&'static str>,
    /// The reason as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<String>,
}

/// A packet with what is in it: the delivery packet, or a payload packet of the same shape.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Packet {
    /// The Ethernet header, of a payload that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ethernet: Option<Ethernet>,
    /// The IP header.
    pub outer: Option<Outer>,
    /// The GRE header, where it carries GRE.
    pub gre: Option<Gre>,
    /// What is inside.
    pub inner: Option<Box<Self>>,
    /// What could not be read, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// An Ethernet header inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ethernet {
    /// Source.
    pub src: String,
    /// Destination.
    pub dst: String,
    /// EtherType behind all tags.
    #[serde(rename = "type")]
    pub ethertype: u16,
    /// VLAN identifiers.
    #[serde(rename = "vlan", skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<u16>,
}

/// An IP header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outer {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// DF; IPv6 has none.
    pub df: Option<bool>,
    /// Identification; IPv6 has none.
    pub id: Option<u16>,
    /// Bytes of the packet as its header says.
    pub len: u32,
    /// Protocol of what follows, behind all extension headers.
    pub protocol: Option<u8>,
    /// Flow label of IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flowlabel: Option<u32>,
    /// Tunnel encapsulation limit (RFC 2473 §4.1.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encaplimit: Option<u8>,
}

/// A GRE header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gre {
    /// The whole first word.
    pub flags: u16,
    /// Its version field.
    pub version: u8,
    /// EtherType of the payload packet.
    pub protocol: Option<u16>,
    /// The key; `None`: there is none.
    pub key: Option<u32>,
    /// The sequence number; `None`: there is none.
    pub sequence: Option<u32>,
    /// The checksum.
    pub checksum: GreChecksum,
    /// Bytes of the header; `None` where it cannot be read.
    pub header_len: Option<usize>,
}

/// The checksum of a GRE packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct GreChecksum {
    /// The field, where there is one.
    pub value: Option<u16>,
    /// Whether it holds; `None` where the packet is not all there.
    pub state: Option<ChecksumState>,
}

/// Whether a checksum holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChecksumState {
    /// It does.
    Good,
    /// It does not.
    Bad,
    /// There is no checksum.
    Absent,
    /// The field is zero and does not hold: a sender on this host left it to a device.
    Unfilled,
}

impl ChecksumState {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Absent => "absent",
            Self::Unfilled => "unfilled",
        }
    }
}
