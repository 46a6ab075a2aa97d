//! Tunnels that come, change and go, while the worker carries others.
//!
//! What is done here for one of many tunnels does not look at the others, and whatever fails half-way leaves nothing open.

use std::os::fd::AsFd;
use std::sync::Arc;

use greway_engine::{DropReason, Endpoint, TunnelTable};
use greway_linux::clock;
use greway_linux::event::{Interest, Poller};
use greway_linux::packet::PacketSocket;
use greway_spec::{DeviceName, SeqMode, TunnelSpec};

use super::{FIRST_INLET, FIRST_PORT, ICMP, ICMP_V6, SHARED, SOURCES, WHOLE, Worker, number};
use crate::close::{close, close_beside};
use crate::crew::{Order, Settled};
use crate::handle::DatapathError;
use crate::overlay::{Inside, Overlay, Tap};
use crate::port::{Port, PortSpec, Traffic, is_for_one};
use crate::reverse_path::ReversePaths;
use crate::shared::{self, Shared};
use crate::underlay::{Inlet, Part, Receive};
use crate::whole::{self, Whole};

/// Nanoseconds in which the kernel goes through a batch of packets.
const A_WHILE: u64 = 2_000_000;
/// And in which it goes from one socket to the next with a packet; there may be thousands of tunnels that each wait so
/// long.
const A_MOMENT: u64 = 20_000;

/// What the lead does, and has done; `settled` is held by everyone who is not done yet.
impl Worker {
    pub(super) fn add(
        &mut self,
        port: PortSpec,
        traffic: &Traffic,
        settled: &Arc<Settled>,
    ) -> Result<(), DatapathError> {
        let name = port.spec.name.clone();
        let inlet = Inlet { over_ipv6: port.spec.mode.over_ipv6(), way: port.receive };
        let parts = self.open(&name, inlet)?;
        let index = self.free.first().copied().unwrap_or(self.ports.len());
        for (helper, part) in self.crew().iter().zip(parts) {
            helper.tell(Order::Inlet { inlet, part });
        }
        let shared = match &port.overlay {
            Overlay::Veth { tap, .. } => self.share(&name, *tap).inspect_err(|_| self.close_unused())?,
            Overlay::Tun(_) => None,
        };
        let opened = Port::open(port, traffic, shared)
            .map_err(|source| DatapathError::Open { name: name.clone(), source })
            .and_then(|ports| {
                self.watch(index, &name, ports.iter().map(|port| &port.inside))?;
                Ok(ports)
            });
        let ports = opened.inspect_err(|_| {
            self.end_sharing();
            self.close_unused();
        })?;
        let mut ports = ports.into_iter();
        if let Some(port) = ports.next() {
            self.seat(index, port);
            self.note_solo(index);
        }
        for (helper, port) in self.crew().iter().zip(ports) {
            helper.tell(Order::Join { index, port: Box::new(port), settled: Arc::clone(settled) });
        }
        Ok(())
    }

    pub(super) fn change(
        &mut self,
        spec: Arc<TunnelSpec>,
        bound_to: Option<u32>,
        settled: &Arc<Settled>,
    ) -> Result<(), DatapathError> {
        let index = self.position(&spec.name)?;
        let before = self.ports[index].as_ref().map(Port::is_for_one);
        if before.is_some_and(|before| before != is_for_one(&spec)) {
            self.divide(index, &spec)?;
        }
        self.tell_all(|| {
            let (spec, settled) = (Arc::clone(&spec), Arc::clone(settled));
            Order::Change { index, spec, bound_to, settled }
        });
        self.change_port(index, spec, bound_to);
        self.note_solo(index);
        Ok(())
    }

    /// What comes out of a tunnel is to be the lead's alone, or everybody's, before it has these parameters.
    fn divide(&mut self, index: usize, spec: &TunnelSpec) -> Result<(), DatapathError> {
        let for_one = is_for_one(spec);
        let Some(port) = self.ports[index].as_ref().filter(|_| self.count > 1) else { return Ok(()) };
        if port.inside.shares().is_some() {
            // Numbers are taken by one from the first; without them anybody may send a while later.
            let divided = for_one && port.inside.tap() == Tap::Declined;
            if divided && self.solos.insert(index) && self.solos.len() == 1 {
                self.divide_shared();
            }
            return Ok(());
        }
        let opened = port.inside.reopened(None, for_one, self.count, None);
        let open = |source| DatapathError::Open { name: spec.name.clone(), source };
        let Some(insides) = opened.map_err(open)? else { return Ok(()) };
        let (settled, answer) = Settled::awaited();
        self.replace_all(index, insides, &settled)?;
        drop(settled);
        // What the helpers have got has no numbers yet.
        let _ = answer.recv();
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &DeviceName, settled: &Arc<Settled>) -> Result<(), DatapathError> {
        self.position(name)?;
        self.remove_all(std::slice::from_ref(name), settled);
        Ok(())
    }

    pub(super) fn remove_all(&mut self, names: &[DeviceName], settled: &Arc<Settled>) {
        let indices = names.iter().filter_map(|name| self.position(name).ok()).collect::<Arc<[_]>>();
        self.unseat(&indices);
        self.tell_all(|| Order::Leave { indices: Arc::clone(&indices), settled: Arc::clone(settled) });
        let had_solos = !self.solos.is_empty();
        indices.iter().for_each(|index| _ = self.solos.remove(index));
        self.free.extend(indices.iter());
        self.end_sharing();
        if had_solos && self.solos.is_empty() && self.shared.is_some() {
            self.divide_shared();
        }
        self.icmp.open_and_close(&self.poller, [ICMP, ICMP_V6]);
        self.groups.follow_rest(&self.ports, &self.local_addresses);
        self.close_unused();
    }

    /// Sockets that are not needed any more are closed later ([`Worker::close_unused`]).
    pub(super) fn receive_by(
        &mut self,
        name: &DeviceName,
        way: Receive,
        settled: &Arc<Settled>,
    ) -> Result<(), DatapathError> {
        let index = self.position(name)?;
        let Some(before) = self.ports[index].as_ref().map(Port::inlet).filter(|inlet| inlet.way != way)
        else {
            return Ok(());
        };
        let after = Inlet { way, ..before };
        let was_open = self.underlay.is_open(after);
        let mut parts = Vec::new().into_iter();
        if !was_open {
            // All of it that comes by the new socket, too, is known then, whoever brings it.
            let done = self.ask_all(|settled| Order::Handover { index, way, settled });
            self.remember(index, way);
            let _ = done.recv();
            self.carry_for(A_WHILE, before);
            parts = self.open(name, after)?.into_iter();
        }
        for helper in self.crew() {
            // With the socket comes the word of what to do with it: what it has is read when the old one is done.
            let part = parts.next().map(|part| (after, part));
            let settled = Arc::clone(settled);
            helper.tell(Order::Receive { index, way, was_open, part, settled });
        }
        self.switch(index, way, was_open);
        Ok(())
    }

    pub(super) fn tap(
        &mut self,
        name: &DeviceName,
        tap: Tap,
        settled: &Arc<Settled>,
    ) -> Result<(), DatapathError> {
        let index = self.position(name)?;
        if self.ports[index].as_ref().is_none_or(|port| port.inside.tap() == tap) {
            return Ok(());
        }
        let shared = self.share(name, tap)?;
        let reopen = |port: &Port| port.inside.reopened(Some(tap), port.is_for_one(), self.count, shared);
        let opened = self.ports[index].as_ref().map_or(Ok(None), reopen);
        let opened = opened.map_err(|source| DatapathError::Open { name: name.clone(), source });
        let replaced = opened.and_then(|insides| match insides {
            Some(insides) => self.replace_all(index, insides, settled),
            None => Ok(()),
        });
        self.end_sharing();
        self.note_solo(index);
        replaced
    }

    /// Gives a tunnel other sockets at its device, the lead's first. What came before comes before, and what comes now
    /// comes by the new sockets alone.
    fn replace_all(
        &mut self,
        index: usize,
        insides: Vec<Inside>,
        settled: &Arc<Settled>,
    ) -> Result<(), DatapathError> {
        let Some(port) = &self.ports[index] else { return Ok(()) };
        self.watch(index, &port.name, insides.iter())?;
        let (tap, shares) =
            insides.first().map_or((Tap::Everything, None), |inside| (inside.tap(), inside.shares()));
        let left = port.inside.shares();
        // The new sockets first: what comes before the old ones are deaf comes by both, which is as little as can be, and
        // nothing comes by none.
        // The lead's knows all sockets, and which of them has what.
        insides.first().into_iter().for_each(Inside::hear);
        self.look_past_own(Some((index, shares.is_none())));
        if let (Tap::Everything, Some(peer), Some(whole)) = (tap, shares, &mut self.whole) {
            whole.let_in(peer);
        }
        if let Some(port) = &self.ports[index]
            && (shares.is_none() || tap == Tap::Everything)
        {
            port.inside.deafen(true);
        }
        let mut insides = insides.into_iter();
        let leads = insides.next();
        if shares.is_some() && tap == Tap::Everything {
            // What helpers have got is older than what is the lead's from now on.
            let (drained, answer) = Settled::awaited();
            self.hand_out(index, insides, &drained);
            drop(drained);
            let _ = answer.recv();
            leads.into_iter().for_each(|inside| self.replace(index, inside));
        } else {
            // The other way round.
            leads.into_iter().for_each(|inside| self.replace(index, inside));
            self.hand_out(index, insides, settled);
        }
        left.into_iter().for_each(|peer| self.let_out(peer));
        self.let_in(index);
        Ok(())
    }

    /// Gives each helper its sockets at a tunnel's device.
    fn hand_out(&self, index: usize, insides: impl Iterator<Item = Inside>, settled: &Arc<Settled>) {
        for (helper, inside) in self.crew().iter().zip(insides) {
            let (inside, settled) = (Box::new(inside), Arc::clone(settled));
            helper.tell(Order::Inside { index, inside, settled });
        }
    }

    /// Has the sockets ready that a tunnel shares which is to have none of its own; those to send by, of each worker.
    fn share(
        &mut self,
        name: &DeviceName,
        tap: Tap,
    ) -> Result<Option<Vec<Arc<PacketSocket>>>, DatapathError> {
        let own = self.positions.len() - self.sharing.len();
        match tap {
            Tap::Declined if own >= shared::own(self.count) => {
                if self.shared.is_none() {
                    self.open_shared(name)?;
                }
                let senders = |shared: &Shared| (0..self.count).map(|worker| shared.sender(worker)).collect();
                Ok(self.shared.as_ref().map(senders))
            }
            Tap::Everything if own >= whole::own(self.count) => {
                if self.whole.is_none() {
                    let opened = Whole::open();
                    let opened =
                        opened.map_err(|source| DatapathError::Open { name: name.clone(), source })?;
                    let watched = self.poller.add(&opened, WHOLE, Interest::Readable);
                    watched.map_err(|source| DatapathError::Watch { name: name.clone(), source })?;
                    self.whole = Some(opened);
                }
                Ok(self.whole.as_ref().map(|whole| vec![whole.sender(); self.count]))
            }
            _ => Ok(None),
        }
    }

    fn open_shared(&mut self, name: &DeviceName) -> Result<(), DatapathError> {
        let opened = Shared::open(self.count);
        let opened = opened.map_err(|source| DatapathError::Open { name: name.clone(), source })?;
        for (poller, shared) in self.pollers().zip(&opened) {
            for (token, source) in (SHARED..).zip(shared.sources()) {
                let watched = poller.add(source, token, Interest::Readable);
                watched.map_err(|source| DatapathError::Watch { name: name.clone(), source })?;
            }
        }
        let mut opened = opened.into_iter();
        self.shared = opened.next();
        for (helper, shared) in self.crew().iter().zip(opened) {
            helper.tell(Order::Shared(shared));
        }
        Ok(())
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
        close_beside(whole);
    }

    /// Tunnels that share have one more, or one less, that is for the lead alone.
    fn note_solo(&mut self, index: usize) {
        let shares = |port: &Port| port.inside.shares().is_some() && port.inside.tap() == Tap::Declined;
        let is_one = |port: &Port| shares(port) && port.is_for_one();
        let had_any = !self.solos.is_empty();
        match self.ports[index].as_ref().is_some_and(is_one) {
            true => self.solos.insert(index),
            false => self.solos.remove(&index),
        };
        if had_any == self.solos.is_empty() && self.shared.is_some() && self.count > 1 {
            self.divide_shared();
        }
    }

    /// Keeps packets that come to a tunnel's own sockets out of those that others share. `next`: a tunnel that is about to
    /// have its own, or to share.
    fn look_past_own(&self, next: Option<(usize, bool)>) {
        let Some(shared) = &self.shared else { return };
        let changes = |index| next.is_some_and(|(changing, _)| changing == index);
        let next_own = next.filter(|(_, own)| *own).and_then(|(index, _)| self.ports[index].as_ref());
        let ports = self.ports.iter().enumerate().filter(|(index, _)| !changes(*index));
        let own = ports.filter_map(|(_, port)| port.as_ref()).filter(|port| port.inside.shares().is_none());
        let own = next_own.into_iter().chain(own).filter_map(|port| port.inside.peer());
        shared.look_past(&own.take(shared::own(1)).collect::<Vec<_>>());
    }

    /// Closes what tunnels shared when none does any more.
    fn end_sharing(&mut self) {
        if !self.sharing.is_empty() {
            return;
        }
        self.close_whole();
        if self.shared.is_some() {
            self.tell_all(|| Order::EndSharing);
            self.close_shared();
        }
    }

    pub(super) fn close_shared(&mut self) {
        let Some(shared) = self.shared.take() else { return };
        for source in shared.sources() {
            let _ = self.poller.remove(source);
        }
        // As those of a tunnel, it takes the kernel a while.
        close_beside(shared);
    }

    /// Opens a receiving socket that a tunnel needs; what the helpers get of it, none where it was open.
    fn open(&mut self, name: &DeviceName, inlet: Inlet) -> Result<Vec<Part>, DatapathError> {
        let opened = self.underlay.need(inlet, self.count);
        let opened = opened.map_err(|source| DatapathError::Open { name: name.clone(), source })?;
        let Some(parts) = opened else { return Ok(Vec::new()) };
        let token = FIRST_INLET + inlet.index() as u64;
        let sockets = self.underlay.socket(inlet).into_iter().chain(parts.iter().map(AsFd::as_fd));
        let watch = |(poller, socket): (&Poller, _)| poller.add(socket, token, Interest::Readable);
        let watched = self.pollers().zip(sockets).try_for_each(watch);
        watched.map_err(|source| {
            // Nobody would read it.
            self.underlay.release(inlet);
            DatapathError::Watch { name: name.clone(), source }
        })?;
        Ok(parts)
    }

    /// What the workers wait with, the lead first.
    fn pollers(&self) -> impl Iterator<Item = &Poller> {
        std::iter::once(&*self.poller).chain(self.crew().iter().map(|helper| &*helper.poller))
    }

    /// Waits for all that comes out of a tunnel device, each worker for its own.
    fn watch<'a>(
        &self,
        index: usize,
        name: &DeviceName,
        insides: impl Iterator<Item = &'a Inside>,
    ) -> Result<(), DatapathError> {
        let first = FIRST_PORT + index as u64 * SOURCES;
        for (poller, inside) in self.pollers().zip(insides) {
            for (token, source) in (first..).zip(inside.sources()) {
                let watched = poller.add(source, token, Interest::Readable);
                watched.map_err(|source| DatapathError::Watch { name: name.clone(), source })?;
            }
        }
        Ok(())
    }

    /// Closes receiving sockets that no tunnel needs: an unread one fills up, and a raw one that is
    /// full makes the kernel answer "protocol unreachable".
    pub(super) fn close_unused(&mut self) {
        for inlet in Inlet::ALL {
            let needed = || self.ports.iter().flatten().any(|port| port.inlet() == inlet);
            if self.underlay.is_open(inlet) && !needed() {
                self.count_spilled_by(inlet);
                self.underlay.release(inlet);
            }
        }
        self.tell_all(|| Order::CloseUnused);
    }
}

/// What every worker does with its own part of a tunnel.
impl Worker {
    /// Carries it from now on; it is waited for already.
    pub(super) fn seat(&mut self, index: usize, port: Port) {
        self.positions.insert(port.name.clone(), index);
        let shares = port.inside.shares();
        if self.ports.len() <= index {
            self.ports.resize_with(index + 1, || None);
        }
        self.ports[index] = Some(port);
        self.free.remove(&index);
        self.sharing.extend(shares.map(|peer| (peer, index)));
        self.let_in(index);
        // The first of those that share makes the sockets look past all others; one of its own comes to those.
        if self.is_lead() && (self.sharing.len() == 1 || shares.is_none()) {
            self.look_past_own(None);
        }
        self.enter(index);
    }

    pub(super) fn change_port(&mut self, index: usize, spec: Arc<TunnelSpec>, bound_to: Option<u32>) {
        let Some(Some(port)) = self.ports.get_mut(index) else { return };
        if port.tunnel.puts_in_order() && !(spec.iseq && spec.seq_mode == SeqMode::Rfc2890) {
            // What waits would wait for nothing.
            port.state.reorder.give_up(port.tunnel.counters().sequence());
            self.let_go(clock::monotonic_millis(), |_, _| ());
        }
        self.leave(index);
        if let Some(port) = &mut self.ports[index] {
            port.change(spec, bound_to);
        }
        self.enter(index);
    }

    pub(super) fn unseat(&mut self, indices: &[usize]) {
        let mut insides = Vec::with_capacity(indices.len());
        for index in indices {
            self.leave(*index);
            let Some(port) = self.ports.get_mut(*index).and_then(Option::take) else { continue };
            self.positions.remove(&port.name);
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
        close(insides);
    }

    /// Remembers what the old socket brings, before the new one is there.
    pub(super) fn remember(&mut self, index: usize, way: Receive) {
        self.strangers.handover.begin(number(index), way, clock::monotonic_millis());
    }

    /// Carries what comes by a socket for so many nanoseconds: the kernel gives a packet to one kind of socket, and to the
    /// other when it has gone through the batch that the packet was in.
    fn carry_for(&mut self, nanos: u64, inlet: Inlet) {
        let begin = clock::monotonic_nanos();
        while clock::monotonic_nanos() - begin < nanos {
            self.empty(inlet, clock::monotonic_millis());
        }
    }

    /// Receives a tunnel the other way. Both sockets are there, and each worker has the same flows of both.
    pub(super) fn switch(&mut self, index: usize, way: Receive, was_open: bool) {
        let Some(before) = self.ports.get(index).and_then(Option::as_ref).map(Port::inlet) else { return };
        let after = Inlet { way, ..before };
        if was_open {
            // Tunnels change one after the other: what it has of this one by now, the old socket brought or brings.
            self.empty(after, clock::monotonic_millis());
            self.remember(index, way);
            self.carry_for(A_MOMENT, before);
        } else {
            // What came before the new socket was there comes by this one alone.
            self.carry_for(A_WHILE, before);
        }
        // What waited in it is carried, and what comes now the new one has got as well.
        let now_ms = clock::monotonic_millis();
        self.empty(before, now_ms);
        self.strangers.handover.is_done(number(index), way, now_ms);
        if let Some(port) = &mut self.ports[index] {
            port.receive = way;
        }
    }

    /// Takes other sockets at a tunnel's device; what the old ones have is carried first.
    pub(super) fn replace(&mut self, index: usize, inside: Inside) {
        if let Some(Some(port)) = self.ports.get(index)
            && inside.shares().is_some()
        {
            // Not sooner: what comes by the shared ones is nobody's until this one knows whose.
            port.inside.deafen(false);
        }
        self.send_all(index, clock::monotonic_millis());
        let Some(Some(port)) = self.ports.get_mut(index) else { return };
        for source in port.inside.sources() {
            let _ = self.poller.remove(source);
        }
        port.stirred = true;
        port.count_spilled();
        self.sharing.retain(|_, known| *known != index);
        self.sharing.extend(inside.shares().map(|peer| (peer, index)));
        close(vec![std::mem::replace(&mut port.inside, inside)]);
    }

    /// Has a tunnel's packets and what concerns it find it. What is done here is done for each of many tunnels: the
    /// others are not looked at.
    fn enter(&mut self, index: usize) {
        let Some(port) = self.ports.get_mut(index).and_then(Option::as_mut) else { return };
        enter_table(&mut self.table, &self.reverse_paths, index, port);
        port.look_at_ends(&self.local_addresses);
        if self.number > 0 {
            return;
        }
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
