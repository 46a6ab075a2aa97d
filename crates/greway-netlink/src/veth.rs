//! Making a veth pair: one request makes both ends with one queue each (a pair with the default of one
//! queue a CPU takes 421 KiB of kernel memory with 64 of them, with one queue 40 to 71), a second one
//! an end sets what the kernel takes only afterwards. If that fails the pair is deleted again.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, Parseable};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use crate::error::{NetlinkError, Subject};
use crate::link::{Index, Link, MacAddress};
use crate::link_change::{LinkChange, NetnsRef, is_name};
use crate::rtnetlink::Netlink;

/// One end of a pair. `None` leaves the kernel's default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethEnd {
    /// Interface name, at most 15 bytes.
    pub name: String,
    /// Hardware address; unset ones are random and udev may change them.
    pub address: Option<MacAddress>,
    /// Largest packet in bytes, 68 to 65535.
    pub mtu: Option<u32>,
    /// Device group.
    pub group: Option<u32>,
    /// Transmit queue length in packets.
    pub txqlen: Option<u32>,
    /// Free text.
    pub alias: Option<String>,
    /// Whether the device resolves neighbours; `false` sets IFF_NOARP.
    pub arp: bool,
    /// Whether the device takes part in multicast.
    pub multicast: bool,
    /// `true` keeps the kernel from making an IPv6 link-local address when the link comes up.
    pub addr_gen_mode_none: bool,
    /// Set up once the pair is there.
    pub up: bool,
}

impl VethEnd {
    /// An end with the kernel's defaults.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            address: None,
            mtu: None,
            group: None,
            txqlen: None,
            alias: None,
            arp: true,
            multicast: true,
            addr_gen_mode_none: false,
            up: false,
        }
    }
}

/// A pair to make. Both ends are made down, and set up afterwards where that is asked for.
#[derive(Debug, Clone)]
pub struct VethSpec<'a> {
    /// The end in this namespace.
    pub end: VethEnd,
    /// The other end.
    pub peer: VethEnd,
    /// Where the other end is made, if not in this namespace. Its alias and address generation mode can then
    /// only be set, and it can only be set up, from inside (with [`Netlink::change_link`]); they must be left alone
    /// here.
    pub peer_netns: Option<NetnsRef<'a>>,
}

/// The indexes of a pair that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VethPair {
    /// The end in this namespace.
    pub index: u32,
    /// The other end, an index of its own namespace.
    pub peer_index: u32,
}

impl Netlink {
    /// Makes a veth pair.
    ///
    /// # Errors
    /// `is_exists` when a name is taken, `is_unsupported` on a kernel without veth. Nothing is left behind.
    pub fn create_veth(&self, spec: &VethSpec<'_>) -> Result<VethPair, NetlinkError> {
        let object = format!("veth pair {} and {}", spec.end.name, spec.peer.name);
        let subject = Subject::new("create", &object);
        if !is_name(&spec.end.name) || !is_name(&spec.peer.name) {
            return Err(subject.invalid("interface names must have 1 to 15 bytes"));
        }
        if spec.peer_netns.is_some()
            && (spec.peer.alias.is_some() || spec.peer.addr_gen_mode_none || spec.peer.up)
        {
            return Err(subject.invalid(
                "alias and address generation mode are set, and the peer is set up, inside its namespace",
            ));
        }
        // Kernels from 6.2 on tell what they have made.
        let flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO;
        let parse = |bytes: &[u8]| LinkMessage::parse(bytes).map(Link::from_message);
        let told = self.change_and_look(
            subject,
            libc::RTM_NEWLINK,
            flags,
            &creation(spec),
            libc::RTM_NEWLINK,
            parse,
        );
        let told = told?.filter(|link| link.name == spec.end.name && link.peer_index.is_some());
        let made = match told {
            Some(link) => Some(link),
            None => self.link_by_name(&spec.end.name)?,
        };
        let made = made.ok_or_else(|| subject.malformed("the pair is gone"))?;
        let finish = || {
            let peer_index = made.peer_index.ok_or_else(|| subject.malformed("the pair has no other end"))?;
            let change = |index, end| {
                let object = Index(index);
                self.change_at_once(Subject::new("change", &object), index, &remainder(end))
            };
            // As long as one end is down neither has a carrier.
            change(made.index, &spec.end)?;
            match (spec.peer_netns, spec.end.up) {
                (Some(_), _) => {}
                (None, false) => change(peer_index, &spec.peer)?,
                (None, true) => self.change_link(peer_index, &remainder(&spec.peer))?,
            }
            Ok(VethPair { index: made.index, peer_index })
        };
        finish().inspect_err(|_| {
            if let Err(error) = self.delete_link(made.index) {
                tracing::warn!(%error, "a half-made pair stays behind");
            }
        })
    }
}

fn creation(spec: &VethSpec<'_>) -> LinkMessage {
    let mut peer = end_message(&spec.peer);
    peer.attributes.extend(spec.peer_netns.map(NetnsRef::attribute));
    let mut message = end_message(&spec.end);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    message
}

/// What the kernel takes at creation (`rtnl_create_link`, `rtnl_configure_link`).
fn end_message(end: &VethEnd) -> LinkMessage {
    let mut message = LinkMessage::default();
    for (flag, wanted, default) in
        [(LinkFlags::Noarp, !end.arp, false), (LinkFlags::Multicast, end.multicast, true)]
    {
        if wanted != default {
            message.header.change_mask |= flag;
            message.header.flags.set(flag, wanted);
        }
    }
    message.attributes.extend([
        LinkAttribute::IfName(end.name.clone()),
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
    ]);
    message.attributes.extend(
        [
            end.address.map(|address| LinkAttribute::Address(address.to_vec())),
            end.mtu.map(LinkAttribute::Mtu),
            end.group.map(LinkAttribute::Group),
            end.txqlen.map(LinkAttribute::TxQueueLen),
        ]
        .into_iter()
        .flatten(),
    );
    message
}

/// What it takes only afterwards.
fn remainder(end: &VethEnd) -> LinkChange<'_> {
    LinkChange {
        alias: end.alias.as_deref(),
        addr_gen_mode_none: end.addr_gen_mode_none,
        up: end.up.then_some(true),
        ..LinkChange::default()
    }
}
