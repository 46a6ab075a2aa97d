//! The device that super-packets in GRE are handed to the kernel by, and the rule that sends them on.
//!
//! Both are there from when userspace has sent something past the IP stack (`exits.rs`) for as long as it may, and go with
//! the daemon, however it ends. Without them, before Linux 6.17 or where nf_tables has no `dup`, userspace splits what it
//! sends, which costs ten times as much.

use std::sync::Arc;

use greway_datapath::{Injection, SuperPackets};
use greway_linux::injector::{CUTS_TUNNELS, Injector};
use greway_linux::{MacAddr, OpenError, errno, ethtool};
use greway_netlink::nftables::{BaseChain, Family, Hook, TableId, send_on};
use greway_netlink::{Link, LinkChange, NetlinkError};

use super::host::{Host, with_causes};

/// The device. No tunnel of this name can be had while it is there.
const DEVICE: &str = "greway-inject";
/// Longer than any device's name behind [`super::device::TABLE_PREFIX`]: no tunnel has such a table.
const TABLE: &str = "greway-injected-super-packets";
/// Packets that a tunnel has sent if it is worth a device: many are carried by programs a moment after they came.
const ENOUGH: u64 = 64;
/// It is looked at twice a second.
const TRIES: u8 = 10;
const COMMENT: &str = "greway: its daemon has the kernel send these; gone with it";

/// What there is of it.
#[derive(Debug)]
pub(super) struct Injecting {
    /// How often it may still be tried: never when it is switched off, or this kernel cannot do it.
    tries: u8,
    /// The device by its index, while it is there.
    there: Option<(u32, Arc<Injection>)>,
}

impl Injecting {
    pub(super) fn new(on: bool) -> Self {
        Self { tries: if on { TRIES } else { 0 }, there: None }
    }

    pub(super) fn is_there(&self) -> bool {
        self.there.is_some()
    }
}

/// Whether a chain is this one: nothing but what comes in by the device meets it.
pub(crate) fn is_ours(chain: &BaseChain) -> bool {
    chain.table.family == Family::Ip && chain.table.name == TABLE && chain.hook == Hook::Prerouting
}

/// Which super-packets a device takes in GRE, when they are called ones in UDP.
///
/// One that does not cut such packets by itself has the kernel cut them, and does with each what it always does. The end of a
/// veth pair says that it takes all there are, and hands them on.
pub(super) fn taken_whole(link: &Link) -> SuperPackets {
    let cuts = |features: Vec<ethtool::Feature>| {
        features.iter().any(|feature| feature.active && CUTS_TUNNELS.contains(&feature.name.as_str()))
    };
    match ethtool::features(&link.name).map(cuts) {
        Ok(false) => SuperPackets::All,
        Ok(true) if link.kind.as_deref() == Some("veth") => SuperPackets::OfTcp,
        Ok(true) | Err(_) => SuperPackets::Split,
    }
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("there is no nf_tables to send them on")]
    NoNftables,
    #[error("{DEVICE}")]
    Device(#[from] OpenError),
    #[error("{DEVICE} is gone already")]
    Gone,
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl Refusal {
    /// A daemon that is just ending may have device and table still.
    fn is_for_good(&self) -> bool {
        match self {
            Self::NoNftables => true,
            Self::Device(error) => error.source.raw_os_error() != Some(errno::EBUSY),
            Self::Gone => false,
            Self::Netlink(error) => error.is_unsupported(),
        }
    }
}

impl Host {
    /// Makes it when there is who uses it, and takes it away when there is nobody who may. Says whether it did.
    pub(super) fn keep_injection(&mut self) -> bool {
        let there = self.injecting.is_there();
        let wanted = self.injecting.tries > 0
            && match there {
                true => self.tunnels.values().any(|live| live.decision.past_the_stack),
                false => self.with_exits().any(|live| live.traffic.sent() >= ENOUGH),
            };
        match (wanted, there) {
            (true, false) => self.begin_injection(),
            (false, true) => self.end_injection(),
            _ => return false,
        }
        wanted == self.injecting.is_there()
    }

    /// Puts the device in order again when somebody has taken it away or set it down. `ifindex`: what has changed.
    pub(super) fn mend_injection(&mut self, ifindex: u32) {
        let Some((device, injection)) = &self.injecting.there else { return };
        if *device != ifindex {
            return;
        }
        match self.netlink.link_by_index(ifindex) {
            Ok(Some(link)) if link.up => {}
            Ok(Some(_)) => {
                tracing::warn!("{DEVICE} was set down, and is set up again");
                let up = LinkChange { up: Some(true), ..LinkChange::default() };
                match self.netlink.change_link(ifindex, &up) {
                    // Who could not use it meanwhile has given it up.
                    Ok(()) => self.datapath.set_injection(Some(Arc::clone(injection))),
                    Err(error) => tracing::warn!(%error, "it stays down"),
                }
            }
            Ok(None) => {
                tracing::warn!("{DEVICE} was taken away, and is made anew");
                self.end_injection();
                self.look_at_exits();
            }
            Err(error) => tracing::warn!(%error, "{DEVICE} cannot be looked at"),
        }
    }

    fn begin_injection(&mut self) {
        match self.injection() {
            Ok((device, injection)) => {
                let injection = Arc::new(injection);
                self.datapath.set_injection(Some(Arc::clone(&injection)));
                self.injecting = Injecting { tries: TRIES, there: Some((device, injection)) };
            }
            Err(error) => {
                let left = if error.is_for_good() { 0 } else { self.injecting.tries - 1 };
                self.injecting.tries = left;
                let error = with_causes(&error);
                match left {
                    0 => tracing::info!(
                        error,
                        "super-packets are split before they are sent: the kernel cannot be handed any"
                    ),
                    _ => tracing::debug!(error, "super-packets cannot be handed to the kernel yet"),
                }
            }
        }
    }

    /// Nothing is left behind when it fails.
    fn injection(&self) -> Result<(u32, Injection), Refusal> {
        let nftables = self.nftables.as_ref().ok_or(Refusal::NoNftables)?;
        let injector = Injector::open(DEVICE)?;
        let link = self.netlink.link_by_name(injector.name())?.ok_or(Refusal::Gone)?;
        let address = link.address.ok_or(Refusal::Gone)?;
        // Nobody is to be spoken to by it.
        let quiet = LinkChange {
            arp: Some(false),
            multicast: Some(false),
            addr_gen_mode_none: true,
            alias: Some(COMMENT),
            ..LinkChange::default()
        };
        self.netlink.change_link(link.index, &quiet)?;
        // Before anything can come in by it.
        nftables.apply(&send_on(TABLE, link.index, Some(COMMENT)))?;
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        if let Err(error) = self.netlink.change_link(link.index, &up) {
            self.delete_injection_table();
            return Err(error.into());
        }
        Ok((link.index, Injection { injector, address: MacAddr::new(address) }))
    }

    fn end_injection(&mut self) {
        // The device goes when the last worker has let go of it.
        self.datapath.set_injection(None);
        self.delete_injection_table();
        self.injecting.there = None;
    }

    fn delete_injection_table(&self) {
        let Some(nftables) = &self.nftables else { return };
        if let Err(error) = nftables.delete_table(&TableId::new(Family::Ip, TABLE)) {
            tracing::warn!(%error, "a table stays until the daemon ends");
        }
    }
}
