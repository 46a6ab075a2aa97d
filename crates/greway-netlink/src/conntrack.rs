//! Tracked connections, read only: which of them were never answered is what tells a missing way back.
//!
//! It refuses to start what is not there: where the host tracks nothing the kernel is not asked, since the
//! question alone loads a module.
//!
//! Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h, Linux 6.18.

use std::fs;
use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::error::{NetlinkError, Subject};
use crate::nla::Attributes;
use crate::socket::RequestSocket;

/// NFNL_SUBSYS_CTNETLINK with IPCTNL_MSG_CT_NEW and IPCTNL_MSG_CT_GET.
const NEW: u16 = 1 << 8;
const GET: u16 = 1 << 8 | 1;
const NFGENMSG: usize = 4;
/// IPS_SEEN_REPLY and IPS_SRC_NAT.
const SEEN_REPLY: u32 = 2;
const SOURCE_NAT: u32 = 16;

/// A tracked connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Who began it.
    pub source: IpAddr,
    /// With whom.
    pub destination: IpAddr,
    /// IP protocol.
    pub protocol: u8,
    /// Something came back.
    pub answered: bool,
    /// Its source is translated.
    pub translated: bool,
}

/// The tracked connections of the calling thread's network namespace; none where nothing is tracked.
///
/// # Errors
/// `is_permission` without `CAP_NET_ADMIN`. More than `most` are not listed, which is an error too.
pub fn connections(most: u64) -> Result<Vec<Connection>, NetlinkError> {
    let subject = Subject::new("list", &"tracked connections");
    let count = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
    let count = count.ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
    if count == 0 {
        return Ok(Vec::new());
    }
    if count > most {
        return Err(subject.invalid(format_args!("there are {count}, more than {most}")));
    }
    let socket = RequestSocket::open(NETLINK_NETFILTER, "netfilter")?;
    let replies = socket.dump(subject, GET, &[0; NFGENMSG])?;
    let connections = replies.iter().filter(|reply| reply.kind == NEW);
    Ok(connections.filter_map(|reply| parse(&reply.payload)).collect())
}

/// CTA_TUPLE_ORIG 1 {CTA_TUPLE_IP 1 {source 1 or 3, destination 2 or 4}, CTA_TUPLE_PROTO 2 {number 1}},
/// CTA_STATUS 3.
fn parse(payload: &[u8]) -> Option<Connection> {
    let attributes = Attributes::new(payload.get(NFGENMSG..)?);
    let tuple = attributes.find(1)?.nested();
    let ip = tuple.find(1)?.nested();
    let address = |v4: u16, v6: u16| match ip.find(v4) {
        Some(v4) => v4.value.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
        None => ip.find(v6)?.value.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
    };
    let status = attributes.find(3)?.u32_be()?;
    Some(Connection {
        source: address(1, 3)?,
        destination: address(2, 4)?,
        protocol: *tuple.find(2)?.nested().find(1)?.value.first()?,
        answered: status & SEEN_REPLY != 0,
        translated: status & SOURCE_NAT != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nla::NlaWriter;

    #[test]
    fn a_connection_is_read_and_noise_is_none() {
        let mut message = NlaWriter::after(&[2, 0, 0, 0]);
        message.nest(1, |tuple| {
            tuple.nest(1, |ip| {
                ip.put(1, &[172, 16, 0, 1]).put(2, &[10, 10, 2, 100]);
            });
            tuple.nest(2, |protocol| {
                protocol.put(1, &[1]);
            });
        });
        message.put_u32_be(3, SOURCE_NAT);
        let bytes = message.into_bytes();
        let read = parse(&bytes).unwrap();
        assert_eq!(
            (read.source.to_string(), read.destination.to_string()),
            ("172.16.0.1".to_owned(), "10.10.2.100".to_owned())
        );
        assert_eq!((read.protocol, read.answered, read.translated), (1, false, true));
        for length in 0..bytes.len() - 4 {
            assert_eq!(parse(&bytes[..length]), None, "{length}");
        }
    }
}
