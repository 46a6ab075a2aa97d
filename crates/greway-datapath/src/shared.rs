//! Sockets that many tunnels have together, on the overlay's side.
//!
//! A tunnel behind a program has four packet sockets of its own: the kernel keeps its packets apart from those of others
//! and says what it had to leave out. Of ten thousand tunnels that is forty thousand descriptors, more than a
//! process may have on most hosts, as many to be closed one by one by a process that is killed, and as many to be
//! looked at by the kernel with every device that comes or goes. So only the first tunnels have their own. The others
//! share four that are bound to no device: they take what programs anywhere have declined, and the worker goes by the
//! device that it came out of.
//!
//! With several workers each has its own two of them, for what has flows; the other two are the lead's. As long as one of
//! the tunnels is for the lead alone ([`crate::port::Port::is_for_one`]), all that comes out of all of them is: the kernel
//! divides by flow and not by tunnel.
//!
//! A tunnel without a program is no member: what comes out of it is taken before anybody else has seen it, and a
//! socket that did so for all devices of a host would cost each of its packets something.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use greway_linux::batch::{Packet, ReceiveBatch, Source};
use greway_linux::flow::{self, Arriving};
use greway_linux::packet::{Config, Kind, PacketSocket, Protocol};
use greway_linux::{OpenError, filter};
use greway_wire::ethertype;

use crate::overlay::{self, DIVIDED, SEALED};

/// Tunnels that have their own sockets, with so many workers: descriptors are what there are few of.
pub(crate) fn own(workers: usize) -> usize {
    (64 / workers).max(8)
}

/// The sockets of one worker.
#[derive(Debug)]
pub(crate) struct Shared {
    /// What was declined and is of the first of [`overlay::SEALED`], and what is brought in; of a helper the latter
    /// alone, by one of the others.
    first: Arc<PacketSocket>,
    /// What was declined, one for each other of them; of a helper only those that have flows.
    declined: Vec<Arc<PacketSocket>>,
    /// A helper's.
    only_declined: bool,
    /// Of the lead: what each helper has, those that it sends by first.
    helpers: Vec<[Arc<PacketSocket>; DIVIDED.len()]>,
}

impl Shared {
    /// How many sources there are.
    pub(crate) const SOURCES: u64 = SEALED.len() as u64;

    /// Opens those of all workers, the lead's first.
    pub(crate) fn open(workers: usize) -> Result<Vec<Self>, OpenError> {
        let sealed = filter::other_host(&[]);
        let of = |ethertype| Config {
            protocol: Protocol::Ethertype(ethertype),
            filter: Some(&sealed),
            kind: Kind::Raw,
            vnet_header: true,
            ignore_outgoing: true,
            receive_buffer: Some(BUFFER),
            send_buffer: Some(BUFFER),
            ..Config::default()
        };
        // The lead sends by another one.
        let send_buffer = Some(BUFFER).filter(|_| workers > 1);
        let of_flows = |ethertype| Config { send_buffer, ..of(ethertype) };
        let [ipv4, ipv6] = DIVIDED.map(|ethertype| overlay::open_divided(&of_flows(ethertype), workers));
        let mut divided = ipv4?.into_iter().zip(ipv6?).map(<[_; 2]>::from);
        let arp = Arc::new(PacketSocket::open(&Config { send_buffer: None, ..of(ethertype::ARP) })?);
        let declined = divided.next().into_iter().flatten().chain([arp]).collect();
        let helpers = divided.collect::<Vec<_>>();
        let first = Arc::new(PacketSocket::open(&of(ethertype::QINQ))?);
        let mut all = vec![Self { first, declined, only_declined: false, helpers: helpers.clone() }];
        all.extend(helpers.into_iter().map(|declined| Self {
            first: Arc::clone(&declined[0]),
            declined: declined.into(),
            only_declined: true,
            helpers: Vec::new(),
        }));
        Ok(all)
    }

    /// For what a worker brings into the device of a tunnel, the lead's by its number 0.
    pub(crate) fn sender(&self, worker: usize) -> Arc<PacketSocket> {
        let helper = worker.checked_sub(1).and_then(|helper| self.helpers.get(helper));
        Arc::clone(helper.map_or(&self.first, |[first, _]| first))
    }

    /// Leaves out what arrives on these devices: it comes to their own sockets.
    pub(crate) fn look_past(&self, devices: &[u32]) {
        let program = filter::other_host(devices);
        let declined = self.declined.iter().chain(self.helpers.iter().flatten());
        for socket in std::iter::once(&self.first).chain(declined) {
            if let Err(error) = socket.set_filter(&program) {
                tracing::debug!(%error, "what comes to other sockets is looked at twice");
            }
        }
    }

    /// Has what comes out divided among so many workers from now on; of one it is the lead.
    pub(crate) fn divide(&self, workers: usize) {
        let choice = flow::choice(Arriving::Plain, workers as u32);
        for socket in self.declined.iter().take(DIVIDED.len()).filter(|_| !self.helpers.is_empty()) {
            if let Err(error) = socket.set_choice(&choice) {
                tracing::warn!(%error, "what tunnels share is divided as before");
            }
        }
    }

    /// Packets that were lost since the last time this was asked because a socket was full.
    pub(crate) fn spilled(&self) -> u64 {
        let first = Some(&self.first).filter(|_| !self.only_declined);
        let sockets = first.into_iter().chain(&self.declined);
        sockets.map(|socket| socket.statistics().map_or(0, |counted| u64::from(counted.drops))).sum()
    }

    /// Whatever packets come out of.
    pub(crate) fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let first = Some(&self.first).filter(|_| !self.only_declined);
        first.into_iter().chain(&self.declined).map(|socket| socket.as_fd())
    }
}

/// What was received, by the device it came out of; of each device in its order.
pub(crate) fn by_device(batch: &mut ReceiveBatch) -> BTreeMap<u32, Vec<Packet<'_>>> {
    let mut devices = BTreeMap::<u32, Vec<Packet<'_>>>::new();
    for packet in batch.packets() {
        if let Source::Link(source) = packet.meta.source {
            devices.entry(source.ifindex).or_default().push(packet);
        }
    }
    devices
}

/// Bytes of socket buffer, as a tunnel of its own has.
const BUFFER: usize = 4 << 20;
