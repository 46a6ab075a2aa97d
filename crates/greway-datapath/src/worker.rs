//! The thread that carries packets.
//!
//! It waits for all sockets at once and gives each that has something one batch a round, so that a
//! busy tunnel cannot starve another.

use std::collections::HashSet;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use greway_engine::{DropReason, TunnelCounters, TunnelIndex, TunnelTable, frame};
use greway_linux::batch::{ReceiveBatch, SendStorage};
use greway_linux::event::{Events, Interest, Poller, Waker};
use greway_linux::{clock, errno};
use greway_spec::{DeviceName, TunnelSpec};

use crate::command::Command;
use crate::handle::DatapathError;
use crate::port::{Port, PortSpec};
use crate::receive::{self, Context, Strangers};
use crate::reverse_path::ReversePaths;
use crate::send::Sender;
use crate::underlay::{Receive, Underlay};

pub(crate) struct Worker {
    commands: Receiver<Command>,
    wake: Arc<Waker>,
    poller: Poller,
    underlay: Underlay,
    ports: Vec<Option<Port>>,
    local_addresses: HashSet<Ipv4Addr>,
    reverse_paths: ReversePaths,
    forwards: bool,
    table: TunnelTable,
    strangers: Strangers,
    buffers: Buffers,
    sender: Sender,
}

/// Room for what is received, shared by all sockets: a batch is carried before the next is taken.
struct Buffers {
    /// With virtio-net header: packet sockets on either side.
    framed: ReceiveBatch,
    /// Without: the raw socket.
    bare: ReceiveBatch,
    storage: SendStorage,
}

/// Packets a batch. Each may be a super-packet of 64 KiB; memory that none touches is not backed.
const BATCH: usize = 64;
/// The largest packet and its link header; the kernel's GRO makes no larger ones for IPv4.
const SLOT: usize = 65_536 + 64;

const WAKE: u64 = 0;
const PACKET: u64 = 1;
const RAW: u64 = 2;
const FIRST_PORT: u64 = 16;

impl Worker {
    pub(crate) fn new(commands: Receiver<Command>, wake: Arc<Waker>) -> Result<Self, DatapathError> {
        let poller = Poller::new().map_err(DatapathError::Start)?;
        poller.add(wake.as_ref(), WAKE, Interest::Readable).map_err(DatapathError::Start)?;
        Ok(Self {
            commands,
            wake,
            poller,
            underlay: Underlay::open()?,
            ports: Vec::new(),
            local_addresses: HashSet::new(),
            reverse_paths: ReversePaths::default(),
            forwards: false,
            table: TunnelTable::default(),
            strangers: Strangers::default(),
            buffers: Buffers {
                framed: ReceiveBatch::new(BATCH, SLOT, frame::TAG).with_vnet_header(),
                bare: ReceiveBatch::new(BATCH, SLOT, 0),
                storage: SendStorage::new(BATCH),
            },
            sender: Sender::new(),
        })
    }

    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(256);
        loop {
            if let Err(error) = self.poller.wait(&mut events, None) {
                tracing::error!(%error, "the data plane cannot wait for packets and ends");
                return;
            }
            let now_ms = clock::monotonic_millis();
            for event in events.iter() {
                match event.token {
                    WAKE => {
                        self.wake.drain();
                        if !self.obey() {
                            return;
                        }
                    }
                    PACKET => self.receive(Receive::Packet, now_ms),
                    RAW => self.receive(Receive::Raw, now_ms),
                    token => self.send(token - FIRST_PORT, now_ms),
                }
            }
        }
    }

    fn receive(&mut self, way: Receive, now_ms: u64) {
        let Buffers { framed, bare, storage } = &mut self.buffers;
        let batch = match way {
            Receive::Packet => framed,
            Receive::Raw => bare,
        };
        // An error waited on the socket (a device went down, say): the next call brings packets.
        match self.underlay.receive(way, batch) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, socket = way.word(), "on the underlay");
                if lost_a_packet(&error) {
                    self.strangers.underlay.record_drop(DropReason::UndescribableOffload);
                }
                return;
            }
        }
        let context = Context {
            way,
            local_addresses: &self.local_addresses,
            reverse_paths: &self.reverse_paths,
            table: &self.table,
            forwards: self.forwards,
            both: self.underlay.is_open(Receive::Packet) && self.underlay.is_open(Receive::Raw),
            now_ms,
        };
        receive::carry(batch, &mut self.strangers, &mut self.ports, &context, storage);
    }

    fn send(&mut self, index: u64, now_ms: u64) {
        let slot = usize::try_from(index).ok().and_then(|index| self.ports.get_mut(index));
        let Some(Some(port)) = slot else { return };
        if let Err(error) =
            self.sender.carry(port, &mut self.underlay, &mut self.buffers.framed, self.forwards, now_ms)
        {
            tracing::debug!(tunnel = %port.name, %error, "on the tunnel device");
            if lost_a_packet(&error) {
                port.tunnel.counters().record_drop(DropReason::UnsplittableOffload);
            }
        }
    }

    /// Carries out what others ask; false when it is to stop.
    fn obey(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            // Nobody waits for an answer who has gone away.
            match command {
                Command::Add { port, counters, done } => drop(done.send(self.add(*port, counters))),
                Command::Change { spec, bound_to, done } => drop(done.send(self.change(*spec, bound_to))),
                Command::Remove { name, done } => drop(done.send(self.remove(&name))),
                Command::Receive { name, way, done } => drop(done.send(self.receive_by(&name, way))),
                Command::Mtu { name, mtu } => {
                    if let Some(port) = self.port(&name) {
                        port.set_mtu(mtu);
                    }
                }
                Command::LocalAddresses(addresses) => self.local_addresses = addresses,
                Command::ReversePaths(paths) => self.reverse_paths = paths,
                Command::Forwards(forwards) => self.forwards = forwards,
                Command::Strangers { done } => {
                    let Strangers { unmatched, underlay } = &self.strangers;
                    drop(done.send((unmatched.entries().to_vec(), underlay.snapshot())));
                }
                Command::Stop => return false,
            }
        }
        true
    }

    fn add(&mut self, port: PortSpec, counters: Arc<TunnelCounters>) -> Result<(), DatapathError> {
        let name = port.spec.name.clone();
        self.open(&name, port.receive)?;
        let index = self.ports.iter().position(Option::is_none).unwrap_or(self.ports.len());
        let opened = Port::open(port, counters)
            .map_err(|source| DatapathError::Open { name: name.clone(), source })
            .and_then(|port| {
                let token = FIRST_PORT + index as u64;
                let watched = self.poller.add(&port.inside, token, Interest::Readable);
                watched.map_err(|source| DatapathError::Watch { name, source })?;
                Ok(port)
            });
        let port = opened.inspect_err(|_| self.close_unused())?;
        match self.ports.get_mut(index) {
            Some(slot) => *slot = Some(port),
            None => self.ports.push(Some(port)),
        }
        self.index();
        Ok(())
    }

    fn change(&mut self, spec: TunnelSpec, bound_to: Option<u32>) -> Result<(), DatapathError> {
        let name = spec.name.clone();
        let port = self.port(&name).ok_or(DatapathError::Unknown(name))?;
        port.change(spec, bound_to);
        self.index();
        Ok(())
    }

    fn remove(&mut self, name: &DeviceName) -> Result<(), DatapathError> {
        let is_it = |port: &Option<Port>| port.as_ref().is_some_and(|port| port.name == *name);
        let slot = self.ports.iter_mut().find(|port| is_it(port));
        let port = slot.and_then(Option::take).ok_or_else(|| DatapathError::Unknown(name.clone()))?;
        // A descriptor that closes is forgotten anyway; a TUN's may live on elsewhere.
        let _ = self.poller.remove(&port.inside);
        drop(port);
        self.index();
        self.close_unused();
        Ok(())
    }

    fn receive_by(&mut self, name: &DeviceName, way: Receive) -> Result<(), DatapathError> {
        self.open(name, way)?;
        let port = self.port(name).ok_or_else(|| DatapathError::Unknown(name.clone()))?;
        port.receive = way;
        self.index();
        self.close_unused();
        Ok(())
    }

    fn port(&mut self, name: &DeviceName) -> Option<&mut Port> {
        self.ports.iter_mut().flatten().find(|port| port.name == *name)
    }

    /// Opens a receiving socket that a tunnel needs.
    fn open(&mut self, name: &DeviceName, way: Receive) -> Result<(), DatapathError> {
        let opened = self.underlay.need(way);
        let opened = opened.map_err(|source| DatapathError::Open { name: name.clone(), source })?;
        if !opened {
            return Ok(());
        }
        let token = match way {
            Receive::Packet => PACKET,
            Receive::Raw => RAW,
        };
        let socket = self.underlay.socket(way);
        let watched = socket.map_or(Ok(()), |socket| self.poller.add(socket, token, Interest::Readable));
        watched.map_err(|source| DatapathError::Watch { name: name.clone(), source })
    }

    /// Closes receiving sockets that no tunnel needs: an unread one fills up, and a raw one that is
    /// full makes the kernel answer "protocol unreachable".
    fn close_unused(&mut self) {
        for way in [Receive::Packet, Receive::Raw] {
            if !self.ports.iter().flatten().any(|port| port.receive == way) {
                self.underlay.release(way);
            }
        }
    }

    /// Makes the lookup table anew.
    fn index(&mut self) {
        let numbered = self.ports.iter().enumerate().filter_map(|(index, port)| {
            let port = port.as_ref()?;
            // There are never more ports than fit 32 bits: names have 15 bytes, memory ends sooner.
            Some((TunnelIndex(index as u32), &port.spec, port.bound_to))
        });
        self.table = TunnelTable::new(numbered);
    }
}

/// Whether an error of a receiving socket stands for a packet: a packet socket gives up one that its
/// virtio-net header cannot describe (linux net/packet/af_packet.c `packet_rcv_vnet`, v6.18).
fn lost_a_packet(error: &io::Error) -> bool {
    error.raw_os_error() == Some(errno::EINVAL)
}
