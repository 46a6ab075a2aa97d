//! The rtnetlink connection; the requests themselves are in `link`, `veth`, `address`, `route` and
//! `neighbour`.

use netlink_packet_core::{DecodeError, Emitable};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::error::{NetlinkError, Subject};
use crate::socket::{Reply, RequestSocket};

/// A connection to the kernel's links, addresses, routes and neighbours in one network namespace.
///
/// One request at a time: it can be sent to another thread but not shared between two.
#[derive(Debug)]
pub struct Netlink {
    pub(crate) socket: RequestSocket,
}

impl Netlink {
    /// Connects to the calling thread's network namespace.
    ///
    /// # Errors
    /// [`NetlinkError::Open`]; opening needs no privilege.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: RequestSocket::open(NETLINK_ROUTE, "route")? })
    }

    /// Sends a change and waits for its acknowledgement.
    pub(crate) fn change(
        &self,
        subject: Subject<'_>,
        kind: u16,
        flags: u16,
        message: &impl Emitable,
    ) -> Result<(), NetlinkError> {
        self.socket.request(subject, kind, flags, &emit(message)).map(|_| ())
    }

    /// Dumps a table; messages of another type or that do not decode are left out and logged.
    pub(crate) fn dump<T>(
        &self,
        subject: Subject<'_>,
        kind: u16,
        request: &impl Emitable,
        wanted: u16,
        parse: impl Fn(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, NetlinkError> {
        self.dump_some(subject, kind, request, wanted, |bytes| parse(bytes).map(Some))
    }

    /// The same of a table that may be long: what `parse` has no use for is not kept.
    pub(crate) fn dump_some<T>(
        &self,
        subject: Subject<'_>,
        kind: u16,
        request: &impl Emitable,
        wanted: u16,
        parse: impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, NetlinkError> {
        self.socket.dump_some(subject, kind, &emit(request), |kind, payload| {
            if kind != wanted {
                return None;
            }
            let parsed = parse(payload).inspect_err(|error| {
                tracing::warn!(operation = subject.operation, %error, "skipped a message");
            });
            parsed.ok().flatten()
        })
    }

    /// Asks for one object; `None` if the kernel acknowledged without sending it.
    pub(crate) fn one<T>(
        &self,
        subject: Subject<'_>,
        kind: u16,
        request: &impl Emitable,
        wanted: u16,
        parse: impl Fn(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, NetlinkError> {
        self.change_and_look(subject, kind, 0, request, wanted, parse)
    }

    /// Sends a change and returns what the kernel says of the object then; `None` where it says nothing.
    pub(crate) fn change_and_look<T>(
        &self,
        subject: Subject<'_>,
        kind: u16,
        flags: u16,
        request: &impl Emitable,
        wanted: u16,
        parse: impl Fn(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, NetlinkError> {
        let replies: Vec<Reply> = self.socket.request(subject, kind, flags, &emit(request))?;
        let reply = replies.iter().find(|reply| reply.kind == wanted);
        reply.map(|reply| parse(&reply.payload).map_err(|error| subject.malformed(error))).transpose()
    }
}

fn emit(message: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}
