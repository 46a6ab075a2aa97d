//! The IPsec policies of a namespace, read only: a tunnel whose outer packets a policy covers must not send
//! round it.

use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_XFRM;

use crate::error::{NetlinkError, Subject};
use crate::prefix::IpPrefix;
use crate::socket::RequestSocket;

const XFRM_MSG_NEWPOLICY: u16 = 0x13;
const XFRM_MSG_GETPOLICY: u16 = 0x15;
/// `struct xfrm_userpolicy_id`.
const POLICY_ID: usize = 64;
/// `struct xfrm_userpolicy_info`, up to its last field.
const POLICY_INFO: usize = 164;
const DESTINATION: usize = 0;
const SOURCE: usize = 16;
const FAMILY: usize = 40;
const DESTINATION_LENGTH: usize = 42;
const SOURCE_LENGTH: usize = 43;
const PROTOCOL: usize = 44;
const INTERFACE: usize = 48;
const DIRECTION: usize = 160;
const ACTION: usize = 161;

/// Which packets a policy is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Direction {
    /// Packets for this host.
    In,
    /// Packets of this host.
    Out,
    /// Packets passing through.
    Forward,
    /// The policy of a single socket, as the kernel's number.
    Socket(u8),
}

/// What a policy demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Passes, transformed where the policy has templates.
    Allow,
    /// Dropped.
    Block,
}

/// An IPsec policy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct XfrmPolicy {
    /// Which packets it is asked about.
    pub direction: Direction,
    /// Sources it covers.
    pub source: IpPrefix,
    /// Destinations it covers.
    pub destination: IpPrefix,
    /// IP protocol it covers; 0 is any.
    pub protocol: u8,
    /// Link it is restricted to; 0 is any.
    pub ifindex: u32,
    /// What it demands.
    pub action: Action,
}

impl XfrmPolicy {
    /// Whether a packet from `source` to `destination` with this IP protocol falls under the policy, on
    /// any link.
    pub fn covers(&self, source: IpAddr, destination: IpAddr, protocol: u8) -> bool {
        self.source.contains(source)
            && self.destination.contains(destination)
            && (self.protocol == 0 || self.protocol == protocol)
    }

    /// ```text
    ///   0 destination (16)          16 source (16)
    ///  32 ports and masks (8)       40 family (2)    42 lengths (1+1)   44 protocol (1)
    ///  48 link (4)                  52 user (4)      56 lifetimes (96)
    /// 152 priority (4)             156 index (4)    160 direction, action, flags, share (1 each)
    /// ```
    fn parse(info: &[u8]) -> Option<Self> {
        let info = info.first_chunk::<POLICY_INFO>()?;
        let family = i32::from(u16::from_ne_bytes([info[FAMILY], info[FAMILY + 1]]));
        let address = |at: usize| match family {
            libc::AF_INET => Some(IpAddr::from(*info[at..].first_chunk::<4>()?)),
            libc::AF_INET6 => Some(IpAddr::from(*info[at..].first_chunk::<16>()?)),
            _ => None,
        };
        Some(Self {
            direction: match info[DIRECTION] {
                0 => Direction::In,
                1 => Direction::Out,
                2 => Direction::Forward,
                other => Direction::Socket(other),
            },
            source: IpPrefix::new(address(SOURCE)?, info[SOURCE_LENGTH])?,
            destination: IpPrefix::new(address(DESTINATION)?, info[DESTINATION_LENGTH])?,
            protocol: info[PROTOCOL],
            ifindex: u32::from_ne_bytes(*info[INTERFACE..].first_chunk()?),
            action: if info[ACTION] == 0 { Action::Allow } else { Action::Block },
        })
    }
}

/// The policies of the calling thread's network namespace; none on a kernel without xfrm.
///
/// # Errors
/// `is_permission` without `CAP_NET_ADMIN`. A policy that does not decode is an error, not left out:
/// acting as if it were not there could send round it.
pub fn policies() -> Result<Vec<XfrmPolicy>, NetlinkError> {
    let subject = Subject::new("list", &"xfrm policies");
    let socket = match RequestSocket::open(NETLINK_XFRM, "xfrm") {
        Err(error) if error.is_unsupported() => return Ok(Vec::new()),
        outcome => outcome?,
    };
    let replies = match socket.dump(subject, XFRM_MSG_GETPOLICY, &[0; POLICY_ID]) {
        Err(error) if error.is_unsupported() => return Ok(Vec::new()),
        outcome => outcome?,
    };
    let policies = replies.iter().filter(|reply| reply.kind == XFRM_MSG_NEWPOLICY);
    policies
        .map(|reply| {
            XfrmPolicy::parse(&reply.payload).ok_or_else(|| subject.malformed("an undecodable policy"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> [u8; POLICY_INFO] {
        let mut info = [0; POLICY_INFO];
        info[..4].copy_from_slice(&[100, 0, 2, 0]);
        info[16..20].copy_from_slice(&[100, 0, 1, 100]);
        info[FAMILY..FAMILY + 2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        info[DESTINATION_LENGTH] = 24;
        info[SOURCE_LENGTH] = 32;
        info[PROTOCOL] = 47;
        info[DIRECTION] = 1;
        info[ACTION] = 1;
        info
    }

    #[test]
    fn a_policy_is_read_field_by_field() {
        let policy = XfrmPolicy::parse(&info()).unwrap();
        assert_eq!(policy.direction, Direction::Out);
        assert_eq!(policy.action, Action::Block);
        assert_eq!(
            (policy.source.to_string(), policy.destination.to_string()),
            ("100.0.1.100".to_owned(), "100.0.2.0/24".to_owned())
        );
        let ends = |last: u8| (IpAddr::from([100, 0, 1, 100]), IpAddr::from([100, 0, 2, last]));
        let (source, destination) = ends(7);
        assert!(policy.covers(source, destination, 47));
        assert!(!policy.covers(source, destination, 6));
        assert!(!policy.covers(destination, source, 47));
    }

    #[test]
    fn nonsense_is_no_policy() {
        assert_eq!(XfrmPolicy::parse(&info()[..POLICY_INFO - 1]), None);
        let mut wrong_family = info();
        wrong_family[FAMILY] = 99;
        assert_eq!(XfrmPolicy::parse(&wrong_family), None);
        let mut long_prefix = info();
        long_prefix[SOURCE_LENGTH] = 33;
        assert_eq!(XfrmPolicy::parse(&long_prefix), None);
    }

    /// Adds a blocking policy as `ip xfrm policy add` would.
    fn add_policy(info: &[u8]) -> Result<(), NetlinkError> {
        let socket = RequestSocket::open(NETLINK_XFRM, "xfrm")?;
        let mut padded = info.to_vec();
        padded.resize(POLICY_INFO.next_multiple_of(8), 0);
        // Hard and soft limits of bytes and packets: none.
        padded[56..88].fill(u8::MAX);
        socket.request(Subject::new("add", &"policy"), XFRM_MSG_NEWPOLICY, 0x400, &padded).map(|_| ())
    }

    #[test]
    fn the_kernels_policies_are_listed() {
        const TEST: &str = "the_kernels_policies_are_listed";
        let run = || {
            if let Err(error) = greway_linux::netns::unshare_net() {
                return eprintln!("not run: {TEST}: no network namespace: {error}");
            }
            assert_eq!(policies().unwrap(), []);
            let monitor = crate::Monitor::open(crate::Sources { xfrm: true, ..Default::default() }).unwrap();
            if !monitor.sources().xfrm {
                return eprintln!("not run: {TEST}: no xfrm in this kernel");
            }
            add_policy(&info()).unwrap();
            assert_eq!(policies().unwrap(), [XfrmPolicy::parse(&info()).unwrap()]);
            assert_eq!(monitor.drain().unwrap(), [crate::Event::Xfrm]);
        };
        std::thread::spawn(run).join().unwrap();
    }
}
