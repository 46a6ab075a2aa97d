//! Tunnels that come, change and go, while the worker carries others.
//!
//! What is done here for one of many tunnels does not look at the others, and whatever fails half-way leaves nothing open.

use std::sync::Arc;
use std::thread;

use greway_engine::{DropReason, Endpoint, TunnelCounters, TunnelTable};
use greway_linux::clock;
use greway_linux::event::{Interest, Poller};
use greway_linux::packet::PacketSocket;
use greway_spec::{DeviceName, SeqMode, TunnelSpec};

use super::{FIRST_INLET, FIRST_PORT, ICMP, ICMP_V6, SHARED, SOURCES, WHOLE, Worker, number};
use crate::close::close;
use crate::handle::DatapathError;
use crate::overlay::{Inside, Overlay, Tap};
use crate::port::{Port, PortSpec};
use crate::reverse_path::ReversePaths;
use crate::shared::{self, Shared};
use crate::underlay::{Inlet, Receive};
use crate::whole::{self, Whole};

impl Worker {
    pub(super) fn add(&mut self, port: PortSpec, counters: Arc<TunnelCounters>) -> Result<(), DatapathError> {
        let name = port.spec.name.clone();
        let inlet = Inlet { over_ipv6: port.spec.mode.over_ipv6(), way: port.receive };
        self.open(&name, inlet)?;
        let index = self.free.first().copied().unwrap_or(self.ports.len());
        let shared = match &port.overlay {
            Overlay::Veth { tap, .. } => self.share(&name, *tap).inspect_err(|_| self.close_unused())?,
            Overlay::Tun(_) => None,
        };
        let opened = Port::open(port, counters, shared)
            .map_err(|source| DatapathError::Open { name: name.clone(), source })
            .and_then(|port| {
                watch(&self.poller, index, &port)?;
                Ok(port)
            });
        let port = opened.inspect_err(|_| {
            self.end_sharing();
            self.close_unused();
        })?;
        match self.ports.get_mut(index) {
            Some(slot) => *slot = Some(port),
            None => self.ports.push(Some(port)),
        }
        self.free.remove(&index);
        self.positions.insert(name, index);
        let shares = self.ports[index].as_ref().and_then(|port| port.inside.shares());
        self.sharing.extend(shares.map(|peer| (peer, index)));
        self.let_in(index);
        // The first of those that share makes the sockets look past all others; one of its own comes to those.
        if self.sharing.len() == 1 || shares.is_none() {
            self.look_past_own();
        }
        self.enter(index);
        Ok(())
    }

    pub(super) fn change(&mut self, spec: TunnelSpec, bound_to: Option<u32>) -> Result<(), DatapathError> {
        let name = spec.name.clone();
        let unknown = || DatapathError::Unknown(name.clone());
        let port = self.port(&name).ok_or_else(unknown)?;
        if port.tunnel.puts_in_order() && !(spec.iseq && spec.seq_mode == SeqMode::Rfc2890) {
            // What waits would wait for nothing.
            port.state.reorder.give_up(port.tunnel.counters().sequence());
            self.let_go(clock::monotonic_millis(), |_, _| ());
        }
        let index = self.position(&name)?;
        self.leave(index);
        if let Some(port) = &mut self.ports[index] {
            port.change(spec, bound_to);
        }
        self.enter(index);
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &DeviceName) -> Result<(), DatapathError> {
        self.position(name)?;
        self.remove_all(std::slice::from_ref(name));
        Ok(())
    }

    pub(super) fn remove_all(&mut self, names: &[DeviceName]) {
        let mut insides = Vec::with_capacity(names.len());
        for name in names {
            let Ok(index) = self.position(name) else { continue };
            self.leave(index);
            self.positions.remove(name);
            self.free.insert(index);
            let Some(port) = self.ports[index].take() else { continue };
            // They are closed later, and the token may be another tunnel's by then.
            for source in port.inside.sources() {
                let _ = self.poller.remove(source);
            }
            if let Some(peer) = port.inside.shares() {
                self.sharing.remove(&peer);
                self.let_out(peer);
            }
            insides.push(port.inside);
        }
        self.end_sharing();
        close(insides);
        self.icmp.open_and_close(&self.poller, [ICMP, ICMP_V6]);
        self.groups.follow_rest(&self.ports, &self.local_addresses);
        self.close_unused();
    }

    pub(super) fn receive_by(&mut self, name: &DeviceName, way: Receive) -> Result<(), DatapathError> {
        let index = self.position(name)?;
        let Some(before) = self.ports[index].as_ref().map(Port::inlet).filter(|inlet| inlet.way != way)
        else {
            return Ok(());
        };
        let after = Inlet { way, ..before };
        let was_open = self.underlay.is_open(after);
        self.open(name, after)?;
        let now_ms = clock::monotonic_millis();
        if was_open {
            // Tunnels change one after the other: what it has of those before is compared while that is remembered,
            // and what it has of this one the old socket brought or brings.
            self.empty(after, now_ms);
        }
        self.strangers.handover.begin(number(index), way, now_ms);
        // Emptied, it has nothing that the new one has not got as well.
        self.empty(before, now_ms);
        if let Some(port) = &mut self.ports[index] {
            port.receive = way;
        }
        self.close_unused();
        Ok(())
    }

    pub(super) fn tap(&mut self, name: &DeviceName, tap: Tap) -> Result<(), DatapathError> {
        let index = self.position(name)?;
        let shared = self.share(name, tap)?;
        let opened = self.ports[index].as_ref().map_or(Ok(None), |port| port.inside.tapped(tap, shared));
        let Ok(Some(inside)) = opened else {
            self.end_sharing();
            let opened = opened.map(drop);
            return opened.map_err(|source| DatapathError::Open { name: name.clone(), source });
        };
        // What came before comes before, and what comes now comes by the new sockets alone; what comes between these
        // two calls comes by both, which is as little as can be.
        inside.hear();
        self.ports[index].iter().for_each(|port| port.inside.deafen());
        self.send_all(index, clock::monotonic_millis());
        let left = self.ports[index].as_ref().and_then(|port| port.inside.shares());
        left.into_iter().for_each(|peer| self.let_out(peer));
        if let Some(port) = &mut self.ports[index] {
            for source in port.inside.sources() {
                let _ = self.poller.remove(source);
            }
            port.stirred = true;
            port.count_spilled();
            close(vec![std::mem::replace(&mut port.inside, inside)]);
            watch(&self.poller, index, port)?;
        }
        self.note_sharing(index);
        self.let_in(index);
        Ok(())
    }

    /// Has the sockets ready that a tunnel shares which is to have none of its own; that to send by.
    fn share(&mut self, name: &DeviceName, tap: Tap) -> Result<Option<Arc<PacketSocket>>, DatapathError> {
        let own = self.positions.len() - self.sharing.len();
        let open = |source| DatapathError::Open { name: name.clone(), source };
        let watch = |source| DatapathError::Watch { name: name.clone(), source };
        match tap {
            Tap::Declined if own >= shared::OWN => {
                if self.shared.is_none() {
                    let opened = Shared::open().map_err(open)?;
                    for (token, source) in (SHARED..).zip(opened.sources()) {
                        self.poller.add(source, token, Interest::Readable).map_err(watch)?;
                    }
                    self.shared = Some(opened);
                }
                Ok(self.shared.as_ref().map(Shared::sender))
            }
            Tap::Everything if own >= whole::OWN => {
                if self.whole.is_none() {
                    let opened = Whole::open().map_err(open)?;
                    self.poller.add(&opened, WHOLE, Interest::Readable).map_err(watch)?;
                    self.whole = Some(opened);
                }
                Ok(self.whole.as_ref().map(Whole::sender))
            }
            _ => Ok(None),
        }
    }

    /// Has what comes out of a tunnel without a program come, where it shares its socket.
    fn let_in(&mut self, index: usize) {
        let inside = self.ports[index].as_ref().map(|port| &port.inside);
        let peer = inside.filter(|inside| inside.tap() == Tap::Everything).and_then(Inside::shares);
        if let (Some(peer), Some(whole)) = (peer, &mut self.whole) {
            whole.let_in(peer);
        }
    }

    /// No longer; with the last one its socket goes.
    fn let_out(&mut self, peer: u32) {
        if self.whole.as_mut().is_some_and(|whole| !whole.let_out(peer)) {
            self.close_whole();
        }
    }

    fn close_whole(&mut self) {
        let Some(whole) = self.whole.take() else { return };
        let _ = self.poller.remove(&whole);
        self.strangers.underlay.record_drops(DropReason::QueueFull, whole.spilled());
        drop(thread::Builder::new().name("close".into()).spawn(move || drop(whole)));
    }

    /// A tunnel has other sockets than it had.
    fn note_sharing(&mut self, index: usize) {
        self.sharing.retain(|_, known| *known != index);
        let shares = self.ports[index].as_ref().and_then(|port| port.inside.shares());
        self.sharing.extend(shares.map(|peer| (peer, index)));
        self.end_sharing();
        self.look_past_own();
    }

    /// Keeps packets that come to a tunnel's own sockets out of those that others share.
    fn look_past_own(&self) {
        let Some(shared) = &self.shared else { return };
        let own = self.ports.iter().flatten().filter(|port| port.inside.shares().is_none());
        let own = own.filter_map(|port| port.inside.peer()).take(shared::OWN).collect::<Vec<_>>();
        shared.look_past(&own);
    }

    /// Closes what tunnels shared when none does any more.
    fn end_sharing(&mut self) {
        if !self.sharing.is_empty() {
            return;
        }
        self.close_whole();
        let Some(shared) = self.shared.take() else { return };
        for source in shared.sources() {
            let _ = self.poller.remove(source);
        }
        // As those of a tunnel, it takes the kernel a while.
        drop(thread::Builder::new().name("close".into()).spawn(move || drop(shared)));
    }

    /// Opens a receiving socket that a tunnel needs.
    fn open(&mut self, name: &DeviceName, inlet: Inlet) -> Result<(), DatapathError> {
        let opened = self.underlay.need(inlet);
        let opened = opened.map_err(|source| DatapathError::Open { name: name.clone(), source })?;
        if !opened {
            return Ok(());
        }
        let token = FIRST_INLET + inlet.index() as u64;
        let socket = self.underlay.socket(inlet);
        let watched = socket.map_or(Ok(()), |socket| self.poller.add(socket, token, Interest::Readable));
        watched.map_err(|source| {
            // Nobody would read it.
            self.underlay.release(inlet);
            DatapathError::Watch { name: name.clone(), source }
        })
    }

    /// Closes receiving sockets that no tunnel needs: an unread one fills up, and a raw one that is
    /// full makes the kernel answer "protocol unreachable".
    fn close_unused(&mut self) {
        for inlet in Inlet::ALL {
            let needed = || self.ports.iter().flatten().any(|port| port.inlet() == inlet);
            if self.underlay.is_open(inlet) && !needed() {
                self.count_spilled_by(inlet);
                self.underlay.release(inlet);
            }
        }
    }

    /// Has a tunnel's packets and what concerns it find it. What is done here is done for each of many tunnels: the
    /// others are not looked at.
    fn enter(&mut self, index: usize) {
        let Some(port) = self.ports.get_mut(index).and_then(Option::as_mut) else { return };
        enter_table(&mut self.table, &self.reverse_paths, index, port);
        port.look_at_ends(&self.local_addresses);
        self.icmp.enter(number(index), port);
        self.icmp.open_and_close(&self.poller, [ICMP, ICMP_V6]);
        self.groups.follow_one(&self.ports, index, &self.local_addresses);
    }

    /// The opposite, before a tunnel is changed or removed.
    fn leave(&mut self, index: usize) {
        let Some(port) = self.ports.get(index).and_then(Option::as_ref) else { return };
        self.table.remove(number(index), &Endpoint::of(&port.spec));
        self.icmp.leave(number(index), port);
    }

    pub(super) fn look_at_ends(&mut self) {
        for port in self.ports.iter_mut().flatten() {
            port.look_at_ends(&self.local_addresses);
        }
    }

    /// Makes the lookup table anew: what belongs to a VRF has changed.
    pub(super) fn index(&mut self) {
        self.table = TunnelTable::default();
        for (index, port) in self.ports.iter().enumerate() {
            port.iter().for_each(|port| enter_table(&mut self.table, &self.reverse_paths, index, port));
        }
    }
}

/// Waits for all that comes out of a tunnel device.
fn watch(poller: &Poller, index: usize, port: &Port) -> Result<(), DatapathError> {
    let first = FIRST_PORT + index as u64 * SOURCES;
    for (token, source) in (first..).zip(port.inside.sources()) {
        let watched = poller.add(source, token, Interest::Readable);
        watched.map_err(|source| DatapathError::Watch { name: port.name.clone(), source })?;
    }
    Ok(())
}

/// A packet comes in by a device of the VRF that a tunnel is bound to, and by the VRF where the stack had it first.
fn enter_table(table: &mut TunnelTable, reverse_paths: &ReversePaths, index: usize, port: &Port) {
    let endpoint = Endpoint::of(&port.spec);
    match port.bound_to {
        None => table.insert(number(index), &endpoint, None),
        Some(dev) => {
            reverse_paths.devices_of(dev).for_each(|dev| table.insert(number(index), &endpoint, Some(dev)))
        }
    }
}
