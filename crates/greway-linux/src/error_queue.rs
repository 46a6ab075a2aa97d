//! The error queue of a raw socket: what ICMP said about packets that were sent from it.
//!
//! It tells what the kernel tells and judges nothing: an error may be forged, and may be about a packet
//! that another socket of the same protocol sent.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;

use crate::abi::{self, AddressSlot, ControlSlot, IoVec, MultiMessage};

/// Who reported an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This host, for a packet that it did not send.
    Local,
    /// A router or the far end, by ICMP.
    Icmp,
    /// A router or the far end, by ICMPv6.
    Icmp6,
    /// Something else, by the kernel's number (`SO_EE_ORIGIN_*`).
    Other(u8),
}

/// One error out of the error queue: an ICMP message about a packet that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Who reported it.
    pub origin: Origin,
    /// The ICMP type; 0 for local errors.
    pub icmp_type: u8,
    /// The ICMP code.
    pub code: u8,
    /// The path MTU in bytes, when that is what the message is about.
    pub mtu: Option<u32>,
    /// The errno that the kernel makes of it.
    pub errno: i32,
    /// The node that sent the ICMP message.
    pub offender: Option<IpAddr>,
    /// Where the packet was going.
    pub destination: Option<IpAddr>,
    /// How many bytes of the packet, from behind its IP header, are in the caller's buffer.
    pub quoted: usize,
}

/// See [`crate::raw::RawSocket::error_queue`].
pub(crate) fn take(socket: BorrowedFd<'_>, quote: &mut [u8]) -> io::Result<Option<IcmpError>> {
    let mut name = AddressSlot::EMPTY;
    let mut control = ControlSlot::EMPTY;
    let mut iov = IoVec { base: quote.as_mut_ptr(), len: quote.len() };
    let mut message = [MultiMessage::EMPTY];
    message[0].header.name = &raw mut name;
    message[0].header.name_len = AddressSlot::LEN;
    message[0].header.iov = &raw mut iov;
    message[0].header.iov_len = 1;
    message[0].header.control = &raw mut control;
    message[0].header.control_len = ControlSlot::LEN;
    loop {
        // SAFETY: the pointers were just taken from locals and from `quote`, with their lengths;
        // none of them is used otherwise before the call returns.
        match unsafe { abi::receive_many(socket, &mut message, libc::MSG_ERRQUEUE) } {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let [message] = message;
    let destination = name.ip(message.header.name_len);
    let quoted = (message.len as usize).min(quote.len());
    let control = &control.0[..message.header.control_len.min(ControlSlot::LEN)];
    Ok(Some(parse_error(control, destination, quoted)))
}

/// Reads `struct sock_extended_err` and the offender's address behind it (ip(7), IP_RECVERR;
/// ipv6(7), IPV6_RECVERR).
///
/// ```text
///  0        4        5        6        7        8        12       16
/// +--------+--------+--------+--------+--------+--------+--------+--------------------+
/// | errno  | origin |  type  |  code  |  pad   |  info  |  data  | sockaddr: offender |
/// +--------+--------+--------+--------+--------+--------+--------+--------------------+
/// ```
fn parse_error(control: &[u8], destination: Option<IpAddr>, quoted: usize) -> IcmpError {
    let mut error = IcmpError {
        origin: Origin::Other(0),
        icmp_type: 0,
        code: 0,
        mtu: None,
        errno: 0,
        offender: None,
        destination,
        quoted,
    };
    for (level, kind, data) in abi::control_messages(control) {
        let is_it =
            matches!((level, kind), (abi::SOL_IP, abi::IP_RECVERR) | (abi::SOL_IPV6, abi::IPV6_RECVERR));
        if !is_it || data.len() < 16 {
            continue;
        }
        error.errno = abi::word(data, 0) as i32;
        error.origin = match data[4] {
            1 => Origin::Local,
            2 => Origin::Icmp,
            3 => Origin::Icmp6,
            other => Origin::Other(other),
        };
        (error.icmp_type, error.code) = (data[5], data[6]);
        error.mtu = (error.errno == libc::EMSGSIZE).then(|| abi::word(data, 8));
        error.offender = match i32::from(abi::half(data, 16)) {
            libc::AF_INET if data.len() >= 24 => {
                Some(Ipv4Addr::new(data[20], data[21], data[22], data[23]).into())
            }
            libc::AF_INET6 if data.len() >= 40 => Some(abi::address6(data, 24).into()),
            _ => None,
        };
    }
    error
}
