//! The request socket: one request in flight, its sequence number checked, dumps drained and asked for
//! again when the kernel says that they were interrupted. It knows message headers and acknowledgements,
//! not what is inside.
//!
//! ```text
//! +---------------------------------------------------------------+
//! |                 length, header included                       |
//! +-------------------------------+-------------------------------+
//! |            type               |            flags              |   all in host byte order
//! +-------------------------------+-------------------------------+
//! |                       sequence number                         |
//! +---------------------------------------------------------------+
//! |                   port of the receiver                        |
//! +---------------------------------------------------------------+
//! ```
//!
//! Source: netlink(7); include/uapi/linux/netlink.h, Linux 6.18.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
};
use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN};
use netlink_sys::{Socket, SocketAddr};

use crate::error::{NetlinkError, Subject};
use crate::nla::Attributes;

const HEADER: usize = 16;
/// More than the kernel ever puts into one datagram of a dump (32 KiB, `NLMSG_GOODSIZE` being less).
const RECEIVE_BUFFER: usize = 64 * 1024;
/// A link dump on a host where containers come and go is interrupted now and then, not sixteen times.
const DUMP_ATTEMPTS: usize = 16;
/// `NLMSGERR_ATTR_MSG`.
const ERROR_TEXT: u16 = 1;

/// An answer of the kernel: its message type and what follows the header.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) kind: u16,
    pub(crate) payload: Vec<u8>,
}

/// One message of a batch.
#[derive(Debug, Clone)]
pub(crate) struct BatchEntry {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) payload: Vec<u8>,
    pub(crate) operation: &'static str,
    pub(crate) object: String,
}

/// Not `Sync`: two threads on one socket would read each other's answers.
#[derive(Debug)]
pub(crate) struct RequestSocket {
    socket: Socket,
    sequence: Cell<u32>,
}

impl RequestSocket {
    /// Opens a socket in the calling thread's network namespace; it stays in it for good.
    pub(crate) fn open(protocol: isize, family: &'static str) -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            // Both only improve answers: kernels without them (before 4.12 and 4.20) still serve us.
            for outcome in [socket.set_ext_ack(true), socket.set_netlink_get_strict_chk(true)] {
                if let Err(error) = outcome {
                    tracing::debug!(family, %error, "netlink socket option not supported");
                }
            }
            // An acknowledgement need not carry our own request back.
            if let Err(error) = socket.set_cap_ack(true) {
                tracing::debug!(family, %error, "netlink socket option not supported");
            }
            Ok(socket)
        };
        let socket = open().map_err(|source| NetlinkError::Open { family, source })?;
        Ok(Self { socket, sequence: Cell::new(0) })
    }

    /// Sends one request and returns what the kernel said before its acknowledgement.
    pub(crate) fn request(
        &self,
        subject: Subject<'_>,
        kind: u16,
        flags: u16,
        payload: &[u8],
    ) -> Result<Vec<Reply>, NetlinkError> {
        let sequence = self.send(subject, kind, NLM_F_REQUEST | NLM_F_ACK | flags, payload)?;
        let mut replies = Vec::new();
        loop {
            let datagram = self.receive(0).map_err(|source| subject.socket(source))?;
            for message in Messages::new(&datagram).filter(|message| message.sequence == sequence) {
                match message.kind {
                    NLMSG_ERROR => {
                        return match message.refusal() {
                            None => Ok(replies),
                            Some((errno, text)) => Err(subject.refused(errno, text)),
                        };
                    }
                    NLMSG_NOOP => {}
                    NLMSG_OVERRUN => return Err(subject.malformed("overrun")),
                    kind => replies.push(Reply { kind, payload: message.payload.to_vec() }),
                }
            }
        }
    }

    /// Asks for a whole table, again if it changed meanwhile.
    pub(crate) fn dump(
        &self,
        subject: Subject<'_>,
        kind: u16,
        payload: &[u8],
    ) -> Result<Vec<Reply>, NetlinkError> {
        self.dump_some(subject, kind, payload, |kind, payload| {
            Some(Reply { kind, payload: payload.to_vec() })
        })
    }

    /// The same of a table that may be long: only what `take` makes of each message is kept.
    pub(crate) fn dump_some<T>(
        &self,
        subject: Subject<'_>,
        kind: u16,
        payload: &[u8],
        take: impl Fn(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(taken) = self.dump_once(subject, kind, payload, &take)? {
                return Ok(taken);
            }
        }
        Err(subject.interrupted())
    }

    /// `None` when the dump was interrupted. It is drained either way: a socket carries one dump at a time.
    fn dump_once<T>(
        &self,
        subject: Subject<'_>,
        kind: u16,
        payload: &[u8],
        take: impl Fn(u16, &[u8]) -> Option<T>,
    ) -> Result<Option<Vec<T>>, NetlinkError> {
        let sequence = self.send(subject, kind, NLM_F_REQUEST | NLM_F_DUMP, payload)?;
        let mut taken = Vec::new();
        let mut consistent = true;
        loop {
            let datagram = self.receive(0).map_err(|source| subject.socket(source))?;
            for message in Messages::new(&datagram).filter(|message| message.sequence == sequence) {
                consistent &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        return match message.refusal() {
                            None => Ok(consistent.then_some(taken)),
                            Some((errno, text)) => Err(subject.refused(errno, text)),
                        };
                    }
                    NLMSG_NOOP => {}
                    NLMSG_OVERRUN => return Err(subject.malformed("overrun")),
                    kind => taken.extend(take(kind, message.payload)),
                }
            }
        }
    }

    /// Sends several messages in one datagram and returns the first error among their answers, with the
    /// entry it belongs to. netfilter works a batch off before `sendto` returns, so all answers are there
    /// by then; an empty queue with answers missing is an error of its own.
    pub(crate) fn batch(&self, subject: Subject<'_>, entries: &[BatchEntry]) -> Result<(), NetlinkError> {
        let mut datagram = Vec::new();
        let first = self.sequence.get().wrapping_add(1);
        let mut expected = 0_usize;
        for entry in entries {
            let flags = NLM_F_REQUEST | entry.flags;
            expected += usize::from(flags & NLM_F_ACK != 0);
            emit_message(&mut datagram, entry.kind, flags, self.next_sequence(), &entry.payload);
        }
        self.transmit(&datagram).map_err(|source| subject.socket(source))?;

        let mut failure = None;
        let mut answered = 0_usize;
        loop {
            let datagram = match self.receive(libc::MSG_DONTWAIT) {
                Ok(datagram) => datagram,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(source) => return Err(subject.socket(source)),
            };
            for message in Messages::new(&datagram).filter(|message| message.kind == NLMSG_ERROR) {
                let position = message.sequence.wrapping_sub(first) as usize;
                let Some(entry) = entries.get(position) else { continue };
                answered += 1;
                if let (Some((errno, text)), None) = (message.refusal(), &failure) {
                    failure = Some(Subject::new(entry.operation, &entry.object).refused(errno, text));
                }
            }
        }
        match failure {
            Some(error) => Err(error),
            None if answered < expected => {
                Err(subject.malformed(format_args!("{answered} of {expected} changes acknowledged")))
            }
            None => Ok(()),
        }
    }

    fn send(&self, subject: Subject<'_>, kind: u16, flags: u16, payload: &[u8]) -> Result<u32, NetlinkError> {
        let sequence = self.next_sequence();
        let mut datagram = Vec::with_capacity(HEADER + payload.len());
        emit_message(&mut datagram, kind, flags, sequence, payload);
        self.transmit(&datagram).map_err(|source| subject.socket(source))?;
        Ok(sequence)
    }

    fn next_sequence(&self) -> u32 {
        // Zero is the number of notifications.
        let next = self.sequence.get().checked_add(1).unwrap_or(1);
        self.sequence.set(next);
        next
    }

    fn transmit(&self, datagram: &[u8]) -> io::Result<()> {
        loop {
            match self.socket.send_to(datagram, &SocketAddr::new(0, 0), 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome.map(|_| ()),
            }
        }
    }

    fn receive(&self, flags: libc::c_int) -> io::Result<Vec<u8>> {
        receive(&self.socket, flags)
    }
}

/// A socket that only listens to notifications.
#[derive(Debug)]
pub(crate) struct ListenSocket {
    socket: Socket,
}

impl ListenSocket {
    /// Joins `groups` in the calling thread's network namespace. `buffer` is what SO_RCVBUF is asked for,
    /// in bytes; the kernel caps it at net.core.rmem_max.
    pub(crate) fn open(
        protocol: isize,
        family: &'static str,
        groups: &[u32],
        buffer: u32,
    ) -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            socket.set_rx_buf_sz(buffer)?;
            for group in groups {
                socket.add_membership(*group)?;
            }
            Ok(socket)
        };
        let socket = open().map_err(|source| NetlinkError::Open { family, source })?;
        Ok(Self { socket })
    }

    /// The next datagram, or `WouldBlock`, or ENOBUFS when notifications were lost.
    pub(crate) fn receive(&self) -> io::Result<Vec<u8>> {
        receive(&self.socket, libc::MSG_DONTWAIT)
    }
}

impl AsFd for ListenSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Receives one datagram from the kernel; what other processes send us is ignored.
fn receive(socket: &Socket, flags: libc::c_int) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
    loop {
        buffer.clear();
        match socket.recv_from(&mut buffer, flags | libc::MSG_TRUNC) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok((_, sender)) if sender.port_number() != 0 => {}
            Ok((length, _)) if length > buffer.len() => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{length}-byte datagram")));
            }
            Ok(_) => return Ok(buffer),
        }
    }
}

fn emit_message(datagram: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, payload: &[u8]) {
    let length = u32::try_from(HEADER + payload.len()).unwrap_or(u32::MAX);
    datagram.extend_from_slice(&length.to_ne_bytes());
    datagram.extend_from_slice(&kind.to_ne_bytes());
    datagram.extend_from_slice(&flags.to_ne_bytes());
    datagram.extend_from_slice(&sequence.to_ne_bytes());
    datagram.extend_from_slice(&[0; 4]);
    datagram.extend_from_slice(payload);
    datagram.resize(datagram.len().next_multiple_of(4), 0);
}

/// One message inside a datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

impl Message<'_> {
    /// For NLMSG_ERROR and NLMSG_DONE: the error number and the kernel's words, `None` for success.
    ///
    /// ```text
    /// +--------------+----------------------+-----------------+------------------+
    /// | -errno (4)   | request header (16)  | request's body, | attributes, if   |
    /// |              | absent in DONE       | unless CAPPED   | ACK_TLVS is set  |
    /// +--------------+----------------------+-----------------+------------------+
    /// ```
    fn refusal(&self) -> Option<(i32, Option<String>)> {
        let code = self.payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        if code >= 0 {
            return None;
        }
        Some((-code, self.error_text()))
    }

    fn error_text(&self) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let body = match self.kind {
            NLMSG_DONE => 0,
            _ if self.flags & NLM_F_CAPPED != 0 => HEADER,
            _ => {
                let length = self.payload.get(4..8)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))?;
                (length as usize).next_multiple_of(4)
            }
        };
        let attributes = Attributes::new(self.payload.get(4 + body..)?);
        attributes.find(ERROR_TEXT).map(|attribute| attribute.string())
    }
}

/// The messages of a datagram; ends at the first whose length is wrong.
#[derive(Debug)]
pub(crate) struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    pub(crate) fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header = self.rest.first_chunk::<HEADER>()?;
        let length = u32::from_ne_bytes(*header.first_chunk()?) as usize;
        let payload = self.rest.get(HEADER..length)?;
        let message = Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            payload,
        };
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nla::NlaWriter;

    #[test]
    fn messages_are_found_in_a_datagram() {
        let mut datagram = Vec::new();
        emit_message(&mut datagram, 16, 2, 7, &[1, 2, 3]);
        emit_message(&mut datagram, 3, 0, 8, &[]);
        datagram.extend_from_slice(&[255; 7]);
        let found: Vec<_> =
            Messages::new(&datagram).map(|m| (m.kind, m.flags, m.sequence, m.payload.to_vec())).collect();
        assert_eq!(found, [(16, 2, 7, vec![1, 2, 3]), (3, 0, 8, vec![])]);
        for length in [0_u32, 15, 17, u32::MAX] {
            let mut short = length.to_ne_bytes().to_vec();
            short.resize(16, 0);
            assert_eq!(Messages::new(&short).count(), 0, "length {length}");
        }
    }

    #[test]
    fn the_kernels_words_are_found_in_capped_full_and_done_messages() {
        let mut text = NlaWriter::default();
        text.put_string(ERROR_TEXT, "No such thing");
        let text = text.into_bytes();
        let code = (-19_i32).to_ne_bytes();
        let mut request = Vec::new();
        emit_message(&mut request, 18, 0, 1, &[7; 6]);
        let cases = [
            (NLMSG_ERROR, NLM_F_ACK_TLVS | NLM_F_CAPPED, [&code[..], &request[..HEADER], &text].concat()),
            (NLMSG_ERROR, NLM_F_ACK_TLVS, [&code[..], &request, &text].concat()),
            (NLMSG_DONE, NLM_F_ACK_TLVS, [&code[..], &text].concat()),
        ];
        for (kind, flags, payload) in &cases {
            let message = Message { kind: *kind, flags: *flags, sequence: 1, payload };
            assert_eq!(message.refusal(), Some((19, Some("No such thing".to_owned()))));
            let bare = Message { flags: 0, ..message };
            assert_eq!(bare.refusal(), Some((19, None)));
        }
        let done = Message { kind: NLMSG_DONE, flags: 0, sequence: 1, payload: &[0; 4] };
        assert_eq!(done.refusal(), None);
    }
}
