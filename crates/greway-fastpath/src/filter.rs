//! The tc filters of a device, and the qdisc that carries them, over rtnetlink.
//!
//! aya adds filters and takes them away, but lists none and removes no qdisc. Without both nothing could be
//! adopted after a kill -9, and every device would keep an empty clsact. So this speaks three messages:
//! `RTM_GETTFILTER`, `RTM_DELTFILTER` and `RTM_DELQDISC`. It refuses to remove a qdisc that carries anything.
//!
//! ```text
//!  nlmsghdr (16 bytes)                      tcmsg (20 bytes)
//!  +--------+------+-------+-----+-----+   +--------+-----+---------+--------+--------+------+
//!  | length | type | flags | seq | pid |   | family | pad | ifindex | handle | parent | info |
//!  +--------+------+-------+-----+-----+   +--------+-----+---------+--------+--------+------+
//!     u32     u16    u16     u32   u32        u8    3 bytes   i32       u32      u32     u32
//! ```

use std::io;

use rustix::{
    fd::OwnedFd,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with},
};

/// A cls_bpf filter at the clsact of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Of what leaves the device, else of what comes in.
    pub(crate) at_egress: bool,
    pub(crate) priority: u16,
    pub(crate) handle: u32,
    /// `TCA_BPF_NAME`, empty for filters of other kinds.
    pub(crate) name: String,
}

/// The filters at tc ingress and egress of device `index`, of any kind. None where there is no clsact.
pub(crate) fn both_ways(index: u32) -> io::Result<Vec<Filter>> {
    let mut filters = list(index, CLSACT_INGRESS)?;
    filters.extend(list(index, CLSACT_EGRESS)?);
    Ok(filters)
}

/// Removes the filter of device `index`.
pub(crate) fn remove(index: u32, filter: &Filter) -> io::Result<()> {
    const ETH_P_ALL_BE: u32 = 0x0003_u16.to_be() as u32;
    let info = (u32::from(filter.priority) << 16) | ETH_P_ALL_BE;
    let parent = if filter.at_egress { CLSACT_EGRESS } else { CLSACT_INGRESS };
    let tc = TcMessage { index, handle: filter.handle, parent, info };
    Rtnetlink::open()?.request(RTM_DELTFILTER, &tc)
}

/// Removes the clsact qdisc of device `index`, unless a filter is on it. `true` when it is gone.
pub(crate) fn remove_empty_clsact(index: u32) -> io::Result<bool> {
    if !list(index, CLSACT_INGRESS)?.is_empty() || !list(index, CLSACT_EGRESS)?.is_empty() {
        return Ok(false);
    }
    let tc = TcMessage { index, handle: CLSACT_HANDLE, parent: CLSACT_PARENT, info: 0 };
    Rtnetlink::open()?.request(RTM_DELQDISC, &tc)?;
    Ok(true)
}

fn list(index: u32, parent: u32) -> io::Result<Vec<Filter>> {
    let tc = TcMessage { index, handle: 0, parent, info: 0 };
    let mut filters = Vec::new();
    Rtnetlink::open()?.dump(RTM_GETTFILTER, &tc, |payload| filters.extend(parse(payload)))?;
    Ok(filters)
}

/// One `RTM_NEWTFILTER`. The kernel also lists each priority once by itself, with handle 0: not a filter.
fn parse(payload: &[u8]) -> Option<Filter> {
    let (tc, attributes) = payload.split_at_checked(TCMSG_LEN)?;
    let handle = word(tc, 8)?;
    let parent = word(tc, 12)?;
    let info = word(tc, 16)?;
    if handle == 0 {
        return None;
    }
    let name = attribute(attributes, TCA_OPTIONS)
        .and_then(|options| attribute(options, TCA_BPF_NAME))
        .map(|name| String::from_utf8_lossy(name).trim_end_matches('\0').to_owned());
    let (at_egress, priority) = (parent == CLSACT_EGRESS, (info >> 16) as u16);
    Some(Filter { at_egress, priority, handle, name: name.unwrap_or_default() })
}

/// The value of the first attribute `kind` in `bytes` (include/uapi/linux/netlink.h, `struct nlattr`).
fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let header: [u8; 4] = *bytes.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let this = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let value = bytes.get(4..len)?;
        if this == kind {
            return Some(value);
        }
        bytes = bytes.get(len.next_multiple_of(4)..)?;
    }
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

struct TcMessage {
    index: u32,
    handle: u32,
    parent: u32,
    info: u32,
}

struct Rtnetlink(OwnedFd);

impl Rtnetlink {
    fn open() -> io::Result<Self> {
        // NETLINK_ROUTE is protocol 0, the default.
        Ok(Self(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?))
    }

    fn request(&self, kind: u16, tc: &TcMessage) -> io::Result<()> {
        self.send(kind, NLM_F_REQUEST | NLM_F_ACK, tc)?;
        self.receive(|_payload| {})
    }

    fn dump(&self, kind: u16, tc: &TcMessage, each: impl FnMut(&[u8])) -> io::Result<()> {
        self.send(kind, NLM_F_REQUEST | NLM_F_DUMP, tc)?;
        self.receive(each)
    }

    fn send(&self, kind: u16, flags: u16, tc: &TcMessage) -> io::Result<()> {
        let mut message = Vec::with_capacity(NLMSGHDR_LEN + TCMSG_LEN);
        message.extend(((NLMSGHDR_LEN + TCMSG_LEN) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(1_u32.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        for field in [0, tc.index, tc.handle, tc.parent, tc.info] {
            message.extend(field.to_ne_bytes());
        }
        send(&self.0, &message, SendFlags::empty())?;
        Ok(())
    }

    /// Hands every payload to `each` until the answer ends.
    fn receive(&self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let (len, _whole) = recv(&self.0, &mut buffer, RecvFlags::empty())?;
            let mut rest = &buffer[..len];
            while let (Some(length), Some(kind)) = (word(rest, 0), word(rest, 4)) {
                let length = length as usize;
                let payload = rest.get(NLMSGHDR_LEN..length).ok_or(io::ErrorKind::UnexpectedEof)?;
                match kind as u16 {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let errno = word(payload, 0).ok_or(io::ErrorKind::UnexpectedEof)? as i32;
                        return if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-errno)) };
                    }
                    _ => each(payload),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

const NLMSGHDR_LEN: usize = 16;
const TCMSG_LEN: usize = 20;
const NLA_TYPE_MASK: u16 = 0x3fff;

// include/uapi/linux/netlink.h and rtnetlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x001;
const NLM_F_ACK: u16 = 0x004;
const NLM_F_DUMP: u16 = 0x300;
const RTM_DELQDISC: u16 = 37;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const TCA_OPTIONS: u16 = 2;

// include/uapi/linux/pkt_cls.h and pkt_sched.h
const TCA_BPF_NAME: u16 = 7;
const CLSACT_PARENT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const CLSACT_INGRESS: u32 = 0xffff_fff2;
const CLSACT_EGRESS: u32 = 0xffff_fff3;

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute_bytes(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((4 + value.len() as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(handle: u32, info: u32, attributes: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in [0, 3, handle, CLSACT_INGRESS, info] {
            bytes.extend(field.to_ne_bytes());
        }
        bytes.extend(attributes);
        bytes
    }

    #[test]
    fn a_filter_has_priority_handle_and_name() {
        let mut options = attribute_bytes(6, &[1, 0, 0, 0]);
        options.extend(attribute_bytes(TCA_BPF_NAME, b"greway_underlay\0"));
        let mut attributes = attribute_bytes(1, b"bpf\0");
        attributes.extend(attribute_bytes(TCA_OPTIONS | 0x8000, &options));
        let filter = parse(&message(2, (60_000 << 16) | 3, &attributes)).unwrap();
        let name = "greway_underlay".to_owned();
        assert_eq!(filter, Filter { at_egress: false, priority: 60_000, handle: 2, name });
    }

    #[test]
    fn a_priority_by_itself_is_no_filter() {
        assert_eq!(parse(&message(0, 60_000 << 16, &attribute_bytes(1, b"bpf\0"))), None);
    }

    #[test]
    fn broken_attributes_end_the_search() {
        assert_eq!(attribute(&[2, 0, 1, 0], 1), None, "shorter than its own header");
        assert_eq!(attribute(&[9, 0, 1, 0, 7], 1), None, "longer than the message");
        assert_eq!(attribute(&[], 1), None);
        assert_eq!(parse(&[0; 19]), None);
    }
}
