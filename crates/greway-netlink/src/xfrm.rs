//! The IPsec policies of a namespace, read only: a tunnel whose outer packets a policy covers must not send
//! round it.

use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_XFRM;

use crate::error::{NetlinkError, Subject};
use crate::nla::Attributes;
use crate::prefix::IpPrefix;
use crate::socket::RequestSocket;

const XFRM_MSG_NEWSA: u16 = 0x10;
const XFRM_MSG_GETSA: u16 = 0x12;
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
    /// The transformations it demands, where it names any.
    pub templates: Vec<XfrmTemplate>,
}

/// A transformation that a policy demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XfrmTemplate {
    /// The other end of the association; `None`: that of the packet (transport mode).
    pub destination: Option<IpAddr>,
    /// 50 is ESP, 51 AH.
    pub protocol: u8,
}

/// A security association.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XfrmState {
    /// Whose packets it is for: where they go.
    pub destination: IpAddr,
    /// Where they come from.
    pub source: IpAddr,
    /// 50 is ESP, 51 AH.
    pub protocol: u8,
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
            templates: Vec::new(),
        })
    }

    /// The policy with the templates behind it (XFRMA_TMPL: an array of `struct xfrm_user_tmpl`).
    fn parse_whole(message: &[u8]) -> Option<Self> {
        let mut policy = Self::parse(message)?;
        let attributes = Attributes::new(message.get(POLICY_INFO.next_multiple_of(8)..).unwrap_or_default());
        let templates = attributes.find(XFRMA_TMPL).map(|array| array.value).unwrap_or_default();
        policy.templates = templates.chunks_exact(TEMPLATE).filter_map(XfrmTemplate::parse).collect();
        Some(policy)
    }
}

/// `struct xfrm_user_tmpl`, and where in it the family is.
const TEMPLATE: usize = 64;
const TEMPLATE_FAMILY: usize = 24;
const XFRMA_TMPL: u16 = 5;

impl XfrmTemplate {
    /// ```text
    ///  0 destination (16)   16 spi (4)   20 protocol (1)   24 family (2)   28 source (16)   …
    /// ```
    fn parse(template: &[u8]) -> Option<Self> {
        let family = u16::from_ne_bytes(*template[TEMPLATE_FAMILY..].first_chunk()?);
        let destination = wide_address(template, family)?;
        let destination = Some(destination).filter(|address| !address.is_unspecified());
        Some(Self { destination, protocol: template[20] })
    }
}

fn wide_address(bytes: &[u8], family: u16) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(IpAddr::from(*bytes.first_chunk::<4>()?)),
        libc::AF_INET6 => Some(IpAddr::from(*bytes.first_chunk::<16>()?)),
        _ => None,
    }
}

/// `struct xfrm_usersa_info` up to its family, behind a selector of 56 bytes.
///
/// ```text
///  56 destination (16)   72 spi (4)   76 protocol (1)   80 source (16)   96 lifetimes and
///  statistics (32 + 32 + 32 + 12)   208 sequence, request (8)   212 family (2)
/// ```
const STATE_DESTINATION: usize = 56;
const STATE_PROTOCOL: usize = 76;
const STATE_SOURCE: usize = 80;
const STATE_FAMILY: usize = 212;
const STATE_INFO: usize = 224;

/// The security associations of the calling thread's network namespace; none on a kernel without xfrm.
///
/// # Errors
/// `is_permission` without `CAP_NET_ADMIN`.
pub fn states() -> Result<Vec<XfrmState>, NetlinkError> {
    let subject = Subject::new("list", &"xfrm states");
    let socket = match RequestSocket::open(NETLINK_XFRM, "xfrm") {
        Err(error) if error.is_unsupported() => return Ok(Vec::new()),
        outcome => outcome?,
    };
    let replies = match socket.dump(subject, XFRM_MSG_GETSA, &[]) {
        Err(error) if error.is_unsupported() => return Ok(Vec::new()),
        outcome => outcome?,
    };
    let states = replies.iter().filter(|reply| reply.kind == XFRM_MSG_NEWSA);
    states
        .map(|reply| {
            parse_state(&reply.payload).ok_or_else(|| subject.malformed("an undecodable association"))
        })
        .collect()
}

fn parse_state(info: &[u8]) -> Option<XfrmState> {
    let info = info.get(..STATE_INFO)?;
    let family = u16::from_ne_bytes(*info[STATE_FAMILY..].first_chunk()?);
    Some(XfrmState {
        destination: wide_address(&info[STATE_DESTINATION..], family)?,
        source: wide_address(&info[STATE_SOURCE..], family)?,
        protocol: info[STATE_PROTOCOL],
    })
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
            XfrmPolicy::parse_whole(&reply.payload).ok_or_else(|| subject.malformed("an undecodable policy"))
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
    fn templates_and_associations_are_read() {
        let mut template = [0; TEMPLATE];
        template[20] = 50;
        template[TEMPLATE_FAMILY..TEMPLATE_FAMILY + 2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        let mut message = info().to_vec();
        message.resize(POLICY_INFO.next_multiple_of(8), 0);
        let mut attributes = crate::nla::NlaWriter::after(&message);
        attributes.put(XFRMA_TMPL, &template);
        let policy = XfrmPolicy::parse_whole(&attributes.into_bytes()).unwrap();
        assert_eq!(policy.templates, [XfrmTemplate { destination: None, protocol: 50 }]);

        let mut state = [0; STATE_INFO];
        state[STATE_DESTINATION..STATE_DESTINATION + 4].copy_from_slice(&[100, 0, 2, 100]);
        state[STATE_SOURCE..STATE_SOURCE + 4].copy_from_slice(&[100, 0, 1, 100]);
        state[STATE_PROTOCOL] = 50;
        state[STATE_FAMILY..STATE_FAMILY + 2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        let read = parse_state(&state).unwrap();
        assert_eq!((read.destination, read.protocol), (IpAddr::from([100, 0, 2, 100]), 50));
        assert_eq!(parse_state(&state[..STATE_INFO - 1]), None);
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
