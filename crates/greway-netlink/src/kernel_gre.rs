//! Tunnels of the kernel's own GRE modules: read, never touched.
//!
//! Attributes: include/uapi/linux/if_tunnel.h, Linux 6.18.

use std::net::IpAddr;

use netlink_packet_core::Emitable;
use netlink_packet_route::link::LinkMessage;

use crate::error::{NetlinkError, Subject};
use crate::nla::Attributes;
use crate::rtnetlink::Netlink;

/// A tunnel of the kernel's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelTunnel {
    /// Its device.
    pub name: String,
    /// `gre`, `gretap`, `erspan`, `ip6gre`, `ip6gretap` or `ip6erspan`.
    pub kind: String,
    /// Its own outer address; unspecified for any.
    pub local: Option<IpAddr>,
    /// Its peer's.
    pub remote: Option<IpAddr>,
    /// Key of what it receives, where it has one.
    pub ikey: Option<u32>,
}

const KINDS: &[&str] = &["gre", "gretap", "erspan", "ip6gre", "ip6gretap", "ip6erspan"];
/// `struct ifinfomsg`.
const HEADER: usize = 16;
/// IFLA_IFNAME, IFLA_LINKINFO with IFLA_INFO_KIND and IFLA_INFO_DATA.
const NAME: u16 = 3;
const INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
/// IFLA_GRE_IFLAGS, IKEY, LOCAL and REMOTE; GRE_KEY.
const INPUT_FLAGS: u16 = 2;
const INPUT_KEY: u16 = 4;
const LOCAL: u16 = 6;
const REMOTE: u16 = 7;
const KEYED: u16 = 0x2000;

impl Netlink {
    /// The tunnels of the kernel's own GRE in this namespace.
    ///
    /// # Errors
    /// Those of a dump.
    pub fn kernel_tunnels(&self) -> Result<Vec<KernelTunnel>, NetlinkError> {
        let subject = Subject::new("list", &"links");
        let request = LinkMessage::default();
        let mut bytes = vec![0; request.buffer_len()];
        request.emit(&mut bytes);
        let replies = self.socket.dump(subject, libc::RTM_GETLINK, &bytes)?;
        Ok(replies.iter().filter_map(|reply| parse(&reply.payload)).collect())
    }
}

fn parse(payload: &[u8]) -> Option<KernelTunnel> {
    let attributes = Attributes::new(payload.get(HEADER..)?);
    let info = attributes.find(INFO)?.nested();
    let kind = info.find(INFO_KIND)?.string();
    if !KINDS.contains(&kind.as_str()) {
        return None;
    }
    let data = info.find(INFO_DATA)?.nested();
    let address = |attribute| {
        let value = data.find(attribute)?.value;
        let address = match value.len() {
            4 => IpAddr::from(*value.first_chunk::<4>()?),
            _ => IpAddr::from(*value.first_chunk::<16>()?),
        };
        Some(address).filter(|address| !address.is_unspecified())
    };
    let flags = data.find(INPUT_FLAGS).and_then(|flags| flags.value.first_chunk().copied());
    let keyed = flags.is_some_and(|flags| u16::from_be_bytes(flags) & KEYED != 0);
    Some(KernelTunnel {
        name: attributes.find(NAME)?.string(),
        local: address(LOCAL),
        remote: address(REMOTE),
        ikey: data.find(INPUT_KEY).and_then(|key| key.u32_be()).filter(|_| keyed),
        kind,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nla::NlaWriter;

    #[test]
    fn a_keyed_tunnel_is_read_and_a_veth_is_none() {
        let link = |kind: &str| {
            let mut message = NlaWriter::after(&[0; HEADER]);
            message.put_string(NAME, "gre1").nest(INFO, |info| {
                info.put_string(INFO_KIND, kind).nest(INFO_DATA, |data| {
                    data.put(INPUT_FLAGS, &KEYED.to_be_bytes()).put_u32_be(INPUT_KEY, 42);
                    data.put(LOCAL, &[0; 4]).put(REMOTE, &[100, 0, 2, 100]);
                });
            });
            message.into_bytes()
        };
        let read = parse(&link("gre")).unwrap();
        assert_eq!((read.name.as_str(), read.ikey, read.local), ("gre1", Some(42), None));
        assert_eq!(read.remote, Some(IpAddr::from([100, 0, 2, 100])));
        assert_eq!(parse(&link("veth")), None);
        assert_eq!(parse(&[]), None);
    }
}
