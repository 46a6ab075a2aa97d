//! Changing a link in place. One request where the kernel's order allows it: `do_setlink`
//! (net/core/rtnetlink.c, 6.18) moves to another namespace first, then sets the attributes, then the flags,
//! and IPv6's address generation mode only after that; so the mode goes ahead of "up" in a request of its
//! own, or the link-local address it should prevent would be there already.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};

use crate::error::{NetlinkError, Subject};
use crate::link::{Index, MacAddress, NAME_MAX};
use crate::rtnetlink::Netlink;

/// Another network namespace.
#[derive(Debug, Clone, Copy)]
pub enum NetnsRef<'fd> {
    /// By a descriptor of a namespace file, such as `/proc/self/ns/net`.
    Fd(BorrowedFd<'fd>),
    /// That of a process or thread.
    Pid(u32),
}

impl NetnsRef<'_> {
    pub(crate) fn attribute(self) -> LinkAttribute {
        match self {
            Self::Fd(fd) => LinkAttribute::NetNsFd(fd.as_raw_fd()),
            Self::Pid(pid) => LinkAttribute::NetNsPid(pid),
        }
    }
}

/// What to change of a link; `None` leaves a property alone.
#[derive(Debug, Clone, Default)]
pub struct LinkChange<'a> {
    /// Administrative state.
    pub up: Option<bool>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// New name, at most 15 bytes.
    pub name: Option<&'a str>,
    /// New hardware address.
    pub address: Option<MacAddress>,
    /// Free text; an empty text removes it.
    pub alias: Option<&'a str>,
    /// Device group.
    pub group: Option<u32>,
    /// Whether the device resolves neighbours; `false` sets IFF_NOARP.
    pub arp: Option<bool>,
    /// Whether the device takes part in multicast.
    pub multicast: Option<bool>,
    /// Index of the bridge, bond or VRF to join; 0 leaves the present one.
    pub master: Option<u32>,
    /// Move to this namespace; the other changes are made there.
    pub netns: Option<NetnsRef<'a>>,
    /// Transmit queue length in packets.
    pub txqlen: Option<u32>,
    /// `true` keeps the kernel from making an IPv6 link-local address when the link comes up.
    pub addr_gen_mode_none: bool,
}

impl Netlink {
    /// Changes a link in place.
    ///
    /// # Errors
    /// The kernel's refusal; what was applied before it stays. A move together with `addr_gen_mode_none` is
    /// refused: the kernel forgets the mode in a move.
    pub fn change_link(&self, index: u32, change: &LinkChange<'_>) -> Result<(), NetlinkError> {
        let object = Index(index);
        let subject = Subject::new("change", &object);
        if index == 0 {
            return Err(subject.invalid("0 is no interface"));
        }
        if change.name.is_some_and(|name| !is_name(name)) {
            return Err(subject.invalid("the new name must have 1 to 15 bytes"));
        }
        if change.netns.is_some() && change.addr_gen_mode_none {
            return Err(
                subject.invalid("the address generation mode does not survive a move: set it afterwards")
            );
        }
        if change.addr_gen_mode_none && change.up == Some(true) {
            // The kernel sets it up first (`do_setlink`), and the address would be there.
            let first = LinkChange { addr_gen_mode_none: true, ..LinkChange::default() };
            self.change_at_once(subject, index, &first)?;
            return self.change_at_once(subject, index, &LinkChange { addr_gen_mode_none: false, ..*change });
        }
        self.change_at_once(subject, index, change)
    }

    /// The same in one message. An IPv6 address is made meanwhile for a link that comes up with it and has a carrier.
    pub(crate) fn change_at_once(
        &self,
        subject: Subject<'_>,
        index: u32,
        change: &LinkChange<'_>,
    ) -> Result<(), NetlinkError> {
        let mut request = message(index, change);
        if change.addr_gen_mode_none {
            let rest = request.clone();
            request.attributes.push(addr_gen_mode_none());
            match self.change(subject, libc::RTM_SETLINK, 0, &request) {
                // A kernel or a namespace without IPv6 makes no such address either. It says so before it changes
                // anything (linux net/core/rtnetlink.c `validate_linkmsg`).
                Err(error) if error.is_unsupported() => request = rest,
                outcome => return outcome,
            }
        }
        if request.attributes.is_empty() && request.header.change_mask.is_empty() {
            return Ok(());
        }
        self.change(subject, libc::RTM_SETLINK, 0, &request)
    }
}

fn message(index: u32, change: &LinkChange<'_>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let flags = [
        (LinkFlags::Up, change.up),
        (LinkFlags::Noarp, change.arp.map(|arp| !arp)),
        (LinkFlags::Multicast, change.multicast),
    ];
    for (flag, wanted) in flags {
        if let Some(wanted) = wanted {
            message.header.change_mask |= flag;
            message.header.flags.set(flag, wanted);
        }
    }
    message.attributes.extend(
        [
            change.netns.map(NetnsRef::attribute),
            change.name.map(|name| LinkAttribute::IfName(name.to_owned())),
            change.mtu.map(LinkAttribute::Mtu),
            change.address.map(|address| LinkAttribute::Address(address.to_vec())),
            change.alias.map(|alias| LinkAttribute::IfAlias(alias.to_owned())),
            change.group.map(LinkAttribute::Group),
            change.master.map(LinkAttribute::Controller),
            change.txqlen.map(LinkAttribute::TxQueueLen),
        ]
        .into_iter()
        .flatten(),
    );
    message
}

pub(crate) fn addr_gen_mode_none() -> LinkAttribute {
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])])
}

pub(crate) fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && !name.contains('\0')
}
