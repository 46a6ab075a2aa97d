//! Sockets that many tunnels have together, on the overlay's side.
//!
//! A tunnel behind a program has four packet sockets of its own: the kernel keeps its packets apart from those of others
//! and says what it had to leave out. Of ten thousand tunnels that is forty thousand descriptors, more than a
//! process may have on most hosts, as many to be closed one by one by a process that is killed, and as many to be
//! looked at by the kernel with every device that comes or goes. So only the first tunnels have their own. The others
//! share four that are bound to no device: they take what programs anywhere have declined, and the worker goes by the
//! device that it came out of.
//!
//! A tunnel without a program is no member: what comes out of it is taken before anybody else has seen it, and a
//! socket that did so for all devices of a host would cost each of its packets something.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use greway_linux::batch::{Packet, ReceiveBatch, Source};
use greway_linux::packet::{Config, Kind, PacketSocket, Protocol};
use greway_linux::{OpenError, filter};

use crate::overlay::CARRIED;

/// Tunnels that have their own sockets.
pub(crate) const OWN: usize = 64;

/// The sockets.
#[derive(Debug)]
pub(crate) struct Shared {
    /// What is of no ethertype that a program carries, and what is brought in.
    beside: Arc<PacketSocket>,
    /// What was declined, one for each ethertype.
    declined: Vec<PacketSocket>,
}

impl Shared {
    /// How many sources there are.
    pub(crate) const SOURCES: u64 = 1 + CARRIED.len() as u64;

    pub(crate) fn open() -> Result<Self, OpenError> {
        let beside = filter::not_for_host_beside(CARRIED, &[]);
        let sealed = filter::other_host(&[]);
        let config = Config {
            protocol: Protocol::All,
            filter: Some(&beside),
            kind: Kind::Raw,
            vnet_header: true,
            ignore_outgoing: true,
            receive_buffer: Some(BUFFER),
            send_buffer: Some(BUFFER),
            ..Config::default()
        };
        let open = |ethertype| {
            let protocol = Protocol::Ethertype(ethertype);
            PacketSocket::open(&Config { protocol, filter: Some(&sealed), send_buffer: None, ..config })
        };
        let declined = CARRIED.into_iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { beside: Arc::new(PacketSocket::open(&config)?), declined })
    }

    /// For what is brought into the device of a tunnel.
    pub(crate) fn sender(&self) -> Arc<PacketSocket> {
        Arc::clone(&self.beside)
    }

    /// Leaves out what arrives on these devices: it comes to their own sockets.
    pub(crate) fn look_past(&self, devices: &[u32]) {
        let beside = (&*self.beside, filter::not_for_host_beside(CARRIED, devices));
        let declined = self.declined.iter().map(|socket| (socket, filter::other_host(devices)));
        for (socket, program) in std::iter::once(beside).chain(declined) {
            if let Err(error) = socket.set_filter(&program) {
                tracing::debug!(%error, "what comes to other sockets is looked at twice");
            }
        }
    }

    /// Packets that were lost since the last time this was asked because a socket was full.
    pub(crate) fn spilled(&self) -> u64 {
        let sockets = std::iter::once(&*self.beside).chain(&self.declined);
        sockets.map(|socket| socket.statistics().map_or(0, |counted| u64::from(counted.drops))).sum()
    }

    /// Whatever packets come out of.
    pub(crate) fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.beside.as_fd()).chain(self.declined.iter().map(AsFd::as_fd))
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
