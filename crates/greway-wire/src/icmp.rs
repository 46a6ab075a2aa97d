//! ICMP as far as a tunnel speaks it: echo (is the peer there?) and errors with the packet they
//! quote (RFC 792, RFC 4443).
//!
//! Numbers of other messages are not interpreted; a caller that needs one reads `kind` and `code`. How much of a
//! packet is quoted is the caller's to choose, within [`LONGEST`] and [`LONGEST_V6`].

use core::net::Ipv6Addr;

use crate::checksum::{self, pseudo_header_v6};
use crate::{ShortBuffer, array, be16, be32, front};

/// Protocol number of ICMP.
pub const PROTOCOL: u8 = 1;
/// Protocol number of ICMPv6.
pub const PROTOCOL_V6: u8 = 58;
/// Bytes of every message's header.
pub const HEADER_LEN: usize = 8;

/// Destination unreachable (RFC 792).
pub const DESTINATION_UNREACHABLE: u8 = 3;
/// Code of destination unreachable: the last router cannot reach the host.
pub const HOST_UNREACHABLE: u8 = 1;
/// Code of destination unreachable: nothing takes this protocol.
pub const PROTOCOL_UNREACHABLE: u8 = 2;
/// Code of destination unreachable: no such port; Linux sends it for "no such tunnel".
pub const PORT_UNREACHABLE: u8 = 3;
/// Code of destination unreachable: too big, and DF is set (RFC 1191 §4).
pub const FRAGMENTATION_NEEDED: u8 = 4;

/// Code of destination unreachable: the source route cannot be followed.
pub const SOURCE_ROUTE_FAILED: u8 = 5;
/// Time exceeded (RFC 792); its code 0 is "TTL exceeded on the way".
pub const TIME_EXCEEDED: u8 = 11;
/// Parameter problem (RFC 792).
pub const PARAMETER_PROBLEM: u8 = 12;

/// ICMPv6 destination unreachable (RFC 4443 §3.1).
pub const V6_DESTINATION_UNREACHABLE: u8 = 1;
/// Code of ICMPv6 destination unreachable: the last router cannot reach the host.
pub const V6_ADDRESS_UNREACHABLE: u8 = 3;
/// Code of ICMPv6 destination unreachable: no such port; Linux sends it for "no such tunnel".
pub const V6_PORT_UNREACHABLE: u8 = 4;
/// ICMPv6 time exceeded (RFC 4443 §3.3); its code 0 is "hop limit exceeded on the way".
pub const V6_TIME_EXCEEDED: u8 = 3;
/// ICMPv6 parameter problem (RFC 4443 §3.4).
pub const V6_PARAMETER_PROBLEM: u8 = 4;

/// Bytes of a datagram with an ICMP error at most (RFC 1812 §4.3.2.3).
pub const LONGEST: usize = 576;
/// Bytes of a datagram with an ICMPv6 error at most (RFC 4443 §2.4c).
pub const LONGEST_V6: usize = 1280;

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
/// ICMPv6 packet too big (RFC 4443 §3.2).
pub const V6_PACKET_TOO_BIG: u8 = 2;
const V6_ECHO_REQUEST: u8 = 128;
const V6_ECHO_REPLY: u8 = 129;

/// An echo message without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// A reply, not a request.
    pub is_reply: bool,
    /// Identifier of the asker.
    pub identifier: u16,
    /// Number of the request.
    pub sequence_number: u16,
}

impl Echo {
    /// Reads an ICMP message; returns it with its data. `None`: no echo, too short, or a wrong
    /// checksum.
    pub fn parse(message: &[u8]) -> Option<(Self, &[u8])> {
        let is_reply = match (message.first()?, message.get(1)?) {
            (&ECHO_REQUEST, 0) => false,
            (&ECHO_REPLY, 0) => true,
            _ => return None,
        };
        if !checksum::verifies(message) {
            return None;
        }
        Self::fields(message, is_reply)
    }

    /// Reads an ICMPv6 message between two addresses; `None` as in [`Echo::parse`].
    pub fn parse_v6(message: &[u8], source: Ipv6Addr, destination: Ipv6Addr) -> Option<(Self, &[u8])> {
        let is_reply = match (message.first()?, message.get(1)?) {
            (&V6_ECHO_REQUEST, 0) => false,
            (&V6_ECHO_REPLY, 0) => true,
            _ => return None,
        };
        let length = u32::try_from(message.len()).ok()?;
        let mut sum = pseudo_header_v6(source, destination, PROTOCOL_V6, length);
        sum.add(message);
        if !sum.verifies() {
            return None;
        }
        Self::fields(message, is_reply)
    }

    /// Writes an ICMP message with its data and checksum; returns the bytes written.
    ///
    /// # Errors
    /// [`ShortBuffer`] where header and data do not fit.
    pub fn emit(&self, data: &[u8], buffer: &mut [u8]) -> Result<usize, ShortBuffer> {
        let kind = if self.is_reply { ECHO_REPLY } else { ECHO_REQUEST };
        let message = self.write(kind, data, buffer)?;
        let field = checksum::checksum(message);
        message[2..4].copy_from_slice(&field.to_be_bytes());
        Ok(message.len())
    }

    /// Writes an ICMPv6 message between two addresses; returns the bytes written.
    ///
    /// # Errors
    /// [`ShortBuffer`] where header and data do not fit.
    pub fn emit_v6(
        &self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        data: &[u8],
        buffer: &mut [u8],
    ) -> Result<usize, ShortBuffer> {
        let kind = if self.is_reply { V6_ECHO_REPLY } else { V6_ECHO_REQUEST };
        let message = self.write(kind, data, buffer)?;
        let mut sum = pseudo_header_v6(source, destination, PROTOCOL_V6, message.len() as u32);
        sum.add(message);
        message[2..4].copy_from_slice(&sum.value().to_be_bytes());
        Ok(message.len())
    }

    fn fields(message: &[u8], is_reply: bool) -> Option<(Self, &[u8])> {
        let identifier = be16(message, 4)?;
        let sequence_number = be16(message, 6)?;
        Some((Self { is_reply, identifier, sequence_number }, &message[HEADER_LEN..]))
    }

    fn write<'b>(&self, kind: u8, data: &[u8], buffer: &'b mut [u8]) -> Result<&'b mut [u8], ShortBuffer> {
        let message = front(buffer, HEADER_LEN + data.len())?;
        message[0] = kind;
        message[1..4].fill(0);
        message[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        message[6..8].copy_from_slice(&self.sequence_number.to_be_bytes());
        message[HEADER_LEN..].copy_from_slice(data);
        Ok(message)
    }
}

/// An ICMP error with the beginning of the packet it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote<'a> {
    /// Type of the message: 3 destination unreachable, 11 time exceeded, 12 parameter problem.
    pub kind: u8,
    /// Code of the message.
    pub code: u8,
    /// MTU of the next hop in bytes where the message is "fragmentation needed", else 0.
    pub next_hop_mtu: u16,
    /// The quoted packet, IP header first, cut off wherever the sender cut it.
    pub packet: &'a [u8],
}

impl<'a> Quote<'a> {
    /// Reads an ICMP error message. `None`: another message, too short, or a wrong checksum.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let [kind, code] = array::<2>(message, 0)?;
        let packet = message.get(HEADER_LEN..)?;
        if !matches!(kind, DESTINATION_UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)
            || !checksum::verifies(message)
        {
            return None;
        }
        let too_big = (kind, code) == (DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED);
        let next_hop_mtu = if too_big { be16(message, 6)? } else { 0 };
        Some(Self { kind, code, next_hop_mtu, packet })
    }

    /// Writes the message with its checksum, quoting all of `packet`; returns the bytes written. A
    /// caller cuts the quote so that the datagram stays within 576 bytes (RFC 1812 §4.3.2.3).
    ///
    /// # Errors
    /// [`ShortBuffer`] where header and quote do not fit.
    pub fn emit(&self, buffer: &mut [u8]) -> Result<usize, ShortBuffer> {
        let message = front(buffer, HEADER_LEN + self.packet.len())?;
        message[0] = self.kind;
        message[1] = self.code;
        message[2..6].fill(0);
        message[6..8].copy_from_slice(&self.next_hop_mtu.to_be_bytes());
        message[HEADER_LEN..].copy_from_slice(self.packet);
        let field = checksum::checksum(message);
        message[2..4].copy_from_slice(&field.to_be_bytes());
        Ok(message.len())
    }
}

/// Bytes of a quoted packet in a message that has extensions behind it (RFC 4884 §5.1), the field of ICMP
/// error messages; 0 where the message does not say.
pub fn quoted_length(message: &[u8]) -> usize {
    message.get(5).map_or(0, |words| usize::from(*words) * 4)
}

/// An ICMPv6 error with the beginning of the packet it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuoteV6<'a> {
    /// Type of the message, below 128: 1 destination unreachable, 2 packet too big, 3 time exceeded, 4 parameter
    /// problem.
    pub kind: u8,
    /// Code of the message.
    pub code: u8,
    /// The 32 bits before the quote: the MTU of a packet too big, the pointer of a parameter problem, in the first
    /// byte of others the length of the quote in 8 bytes (RFC 4884 §4.4).
    pub word: u32,
    /// The quoted packet, IPv6 header first, cut off wherever the sender cut it.
    pub packet: &'a [u8],
}

impl<'a> QuoteV6<'a> {
    /// Reads an ICMPv6 error message. `None`: another message, or too short. The checksum is not looked at: a raw
    /// socket gives only messages whose checksum the kernel has verified, and without the addresses it takes.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let [kind, code] = array::<2>(message, 0)?;
        let word = be32(message, 4)?;
        let packet = message.get(HEADER_LEN..)?;
        is_error_v6(kind).then_some(Self { kind, code, word, packet })
    }

    /// Writes the message with its checksum, quoting all of `packet`; returns the bytes written. A caller cuts
    /// the quote so that the datagram stays within [`LONGEST_V6`].
    ///
    /// # Errors
    /// [`ShortBuffer`] where header and quote do not fit.
    pub fn emit(
        &self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        buffer: &mut [u8],
    ) -> Result<usize, ShortBuffer> {
        let message = front(buffer, HEADER_LEN + self.packet.len())?;
        message[0] = self.kind;
        message[1] = self.code;
        message[2..4].fill(0);
        message[4..8].copy_from_slice(&self.word.to_be_bytes());
        message[HEADER_LEN..].copy_from_slice(self.packet);
        let mut sum = pseudo_header_v6(source, destination, PROTOCOL_V6, message.len() as u32);
        sum.add(message);
        message[2..4].copy_from_slice(&sum.value().to_be_bytes());
        Ok(message.len())
    }
}

/// Writes an ICMPv6 "packet too big" (RFC 4443 §3.2) between two addresses, quoting all of `packet`; returns
/// the bytes written. A caller cuts the quote so that the datagram stays within 1280 bytes (RFC 4443 §2.4).
///
/// # Errors
/// [`ShortBuffer`] where header and quote do not fit.
pub fn emit_packet_too_big(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    mtu: u32,
    packet: &[u8],
    buffer: &mut [u8],
) -> Result<usize, ShortBuffer> {
    QuoteV6 { kind: V6_PACKET_TOO_BIG, code: 0, word: mtu, packet }.emit(source, destination, buffer)
}

/// Whether an ICMP message is an error: none is sent about one (RFC 1122 §3.2.2).
pub fn is_error(kind: u8) -> bool {
    matches!(kind, DESTINATION_UNREACHABLE | 4 | 5 | 11 | 12)
}

/// Whether an ICMPv6 message is an error (RFC 4443 §2.1).
pub fn is_error_v6(kind: u8) -> bool {
    kind < 128
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn echo_round_trip(
            is_reply: bool,
            identifier: u16,
            sequence_number: u16,
            data in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let echo = Echo { is_reply, identifier, sequence_number };
            let mut buffer = [0xa5; 80];
            let written = echo.emit(&data, &mut buffer).unwrap();
            prop_assert_eq!(Echo::parse(&buffer[..written]), Some((echo, data.as_slice())));
            let (a, b) = (Ipv6Addr::LOCALHOST, Ipv6Addr::new(0xfd31, 0, 0, 0, 0, 0, 0, 2));
            let written = echo.emit_v6(a, b, &data, &mut buffer).unwrap();
            prop_assert_eq!(Echo::parse_v6(&buffer[..written], a, b), Some((echo, data.as_slice())));
            prop_assert_eq!(Echo::parse_v6(&buffer[..written], a, a), None);
        }

        #[test]
        fn a_flipped_bit_is_noticed(at in 0_usize..16, bit in 0_u8..8) {
            let echo = Echo { is_reply: true, identifier: 7, sequence_number: 9 };
            let mut buffer = [0; 16];
            echo.emit(b"12345678", &mut buffer).unwrap();
            buffer[at] ^= 1 << bit;
            prop_assert_eq!(Echo::parse(&buffer), None);
        }

        #[test]
        fn a_quote_round_trip(
            code in 0_u8..16,
            mtu: u16,
            packet in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let next_hop_mtu = if code == FRAGMENTATION_NEEDED { mtu } else { 0 };
            let quote = Quote { kind: DESTINATION_UNREACHABLE, code, next_hop_mtu, packet: &packet };
            let mut buffer = [0xa5; 80];
            let written = quote.emit(&mut buffer).unwrap();
            prop_assert_eq!(Quote::parse(&buffer[..written]), Some(quote));
            prop_assert!(quote.emit(&mut buffer[..written - 1]).is_err());
        }

        #[test]
        fn packet_too_big_has_its_checksum(mtu: u32, packet in proptest::collection::vec(any::<u8>(), 0..60)) {
            let (a, b) = (Ipv6Addr::LOCALHOST, Ipv6Addr::new(0xfd31, 0, 0, 0, 0, 0, 0, 2));
            let mut buffer = [0xa5; 80];
            let written = emit_packet_too_big(a, b, mtu, &packet, &mut buffer).unwrap();
            let mut sum = pseudo_header_v6(a, b, PROTOCOL_V6, written as u32);
            sum.add(&buffer[..written]);
            prop_assert!(sum.verifies());
            prop_assert_eq!(&buffer[..2], &[2, 0]);
            prop_assert_eq!(&buffer[4..8], &mtu.to_be_bytes());
            prop_assert_eq!(&buffer[8..written], packet.as_slice());
        }

        #[test]
        fn an_icmpv6_quote_round_trip(
            kind in 0_u8..128,
            code: u8,
            word: u32,
            packet in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let (a, b) = (Ipv6Addr::LOCALHOST, Ipv6Addr::new(0xfd31, 0, 0, 0, 0, 0, 0, 2));
            let quote = QuoteV6 { kind, code, word, packet: &packet };
            let mut buffer = [0xa5; 80];
            let written = quote.emit(a, b, &mut buffer).unwrap();
            prop_assert_eq!(QuoteV6::parse(&buffer[..written]), Some(quote));
            prop_assert!(quote.emit(a, b, &mut buffer[..written - 1]).is_err());
            buffer[0] |= 128;
            prop_assert_eq!(QuoteV6::parse(&buffer[..written]), None);
        }

        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let loopback = Ipv6Addr::LOCALHOST;
            let readers = [
                Echo::parse(&bytes).is_some(),
                Echo::parse_v6(&bytes, loopback, loopback).is_some(),
                Quote::parse(&bytes).is_some(),
                QuoteV6::parse(&bytes).is_some(),
            ];
            prop_assert!(bytes.len() >= HEADER_LEN || !readers.contains(&true));
        }
    }
}
