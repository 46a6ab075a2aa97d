//! Settings of IPv4 that the kernel tells for all devices at once, and of whose changes it tells: what else is a file of
//! /proc/sys for each of them, which with ten thousand devices takes a quarter of a second to read.
//!
//! ```text
//! struct netconfmsg (include/uapi/linux/netconf.h): the family, padded to four bytes; then attributes
//! ```

use std::collections::HashMap;

use crate::error::{NetlinkError, Subject};
use crate::nla::Attributes;
use crate::rtnetlink::Netlink;

/// include/uapi/linux/rtnetlink.h
pub(crate) const RTM_NEWNETCONF: u16 = 80;
const RTM_GETNETCONF: u16 = 82;
const NETCONFMSG: usize = 4;
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_RP_FILTER: u16 = 3;
/// NETCONFA_IFINDEX_ALL
const ALL: i32 = -1;

/// `net.ipv4.conf.*.rp_filter`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReversePathFilters {
    all: u32,
    by_index: HashMap<u32, u32>,
}

impl ReversePathFilters {
    /// What is in force on a device: the larger of its own and that for all
    /// (Documentation/networking/ip-sysctl.rst). `None`: the kernel told nothing of it.
    pub fn on(&self, index: u32) -> Option<u32> {
        self.by_index.get(&index).map(|own| *own.max(&self.all))
    }
}

impl Netlink {
    /// The reverse path filters of all devices.
    ///
    /// # Errors
    /// Those of a dump.
    pub fn reverse_path_filters(&self) -> Result<ReversePathFilters, NetlinkError> {
        let subject = Subject::new("list", &"reverse path filters");
        let request = [libc::AF_INET as u8, 0, 0, 0];
        let take = |kind: u16, payload: &[u8]| (kind == RTM_NEWNETCONF).then(|| parse(payload)).flatten();
        let mut filters = ReversePathFilters::default();
        for (index, filter) in self.socket.dump_some(subject, RTM_GETNETCONF, &request, take)? {
            match u32::try_from(index) {
                Ok(index) => drop(filters.by_index.insert(index, filter)),
                Err(_) if index == ALL => filters.all = filter,
                // What devices get that are yet to come.
                Err(_) => {}
            }
        }
        Ok(filters)
    }
}

/// Whose filter a message tells, and what it is.
pub(crate) fn parse(payload: &[u8]) -> Option<(i32, u32)> {
    if *payload.first()? != libc::AF_INET as u8 {
        return None;
    }
    let attributes = Attributes::new(payload.get(NETCONFMSG..)?);
    let value = |kind| Some(i32::from_ne_bytes(*attributes.find(kind)?.value.first_chunk()?));
    Some((value(NETCONFA_IFINDEX)?, u32::try_from(value(NETCONFA_RP_FILTER)?).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(family: u8, attributes: &[(u16, i32)]) -> Vec<u8> {
        let mut bytes = vec![family, 0, 0, 0];
        for (kind, value) in attributes {
            bytes.extend(8_u16.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn a_message_says_whose_filter_is_what() {
        let filter = |index| message(2, &[(NETCONFA_IFINDEX, index), (NETCONFA_RP_FILTER, 2)]);
        assert_eq!(parse(&filter(7)), Some((7, 2)));
        assert_eq!(parse(&filter(ALL)), Some((ALL, 2)));
        assert_eq!(parse(&message(2, &[(NETCONFA_IFINDEX, 7), (2, 1)])), None, "forwarding alone");
        assert_eq!(parse(&message(10, &[(NETCONFA_IFINDEX, 7), (NETCONFA_RP_FILTER, 2)])), None);
        for length in 0..filter(7).len() {
            assert_eq!(parse(&filter(7)[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn the_stricter_of_two_settings_is_in_force() {
        let filters = ReversePathFilters { all: 1, by_index: HashMap::from([(7, 0), (8, 2)]) };
        assert_eq!([7, 8, 9].map(|index| filters.on(index)), [Some(1), Some(2), None]);
    }
}
