//! What workers are told: the lead by other threads, its helpers by the lead.

use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::sync::{Arc, PoisonError};

use greway_linux::clock;
use greway_spec::DeviceName;

use super::{Ears, Worker};
use crate::command::Command;
use crate::crew::{Gather, Helper, Order, Seen, Settled};
use crate::exit::{Exit, ShortWay};
use crate::handle::DatapathError;
use crate::icmp::IcmpReport;
use crate::local::LocalAddresses;
use crate::receive::Strangers;
use crate::reverse_path::ReversePaths;
use crate::shared::Shared;
use crate::witness::{Attempt, Recogniser, Through};

enum Heard {
    Command(Command),
    Order(Order),
}

impl Worker {
    /// Carries out what it was told; false when it is to stop.
    pub(super) fn obey(&mut self) -> bool {
        loop {
            let heard = match &self.ears {
                Ears::Lead { commands, .. } => commands.try_recv().map(Heard::Command),
                Ears::Helper(orders) => orders.try_recv().map(Heard::Order),
            };
            match heard {
                Ok(Heard::Command(Command::Stop)) | Err(TryRecvError::Disconnected) => return false,
                Ok(Heard::Command(command)) => self.command(command),
                Ok(Heard::Order(order)) => self.order(order),
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    /// The helpers of a lead.
    pub(super) fn crew(&self) -> &[Helper] {
        match &self.ears {
            Ears::Lead { crew, .. } => crew,
            Ears::Helper(_) => &[],
        }
    }

    pub(super) fn is_lead(&self) -> bool {
        self.number == 0
    }

    /// Tells all helpers the same.
    pub(super) fn tell_all(&self, order: impl Fn() -> Order) {
        self.crew().iter().for_each(|helper| helper.tell(order()));
    }

    fn command(&mut self, command: Command) {
        // Nobody waits for an answer who has gone away.
        match command {
            Command::Add { port, traffic, done } => {
                let settled = Settled::new(done);
                self.add(*port, &traffic, &settled).unwrap_or_else(|error| settled.fail(error));
            }
            Command::Change { spec, bound_to, done } => {
                let settled = Settled::new(done);
                self.change(Arc::from(spec), bound_to, &settled).unwrap_or_else(|error| settled.fail(error));
            }
            Command::Remove { name, done } => {
                let settled = Settled::new(done);
                self.remove(&name, &settled).unwrap_or_else(|error| settled.fail(error));
            }
            Command::RemoveThese { names, done } => self.remove_all(&names, &Settled::new(done)),
            Command::Tap { name, tap, done } => {
                let settled = Settled::new(done);
                self.tap(&name, tap, &settled).unwrap_or_else(|error| settled.fail(error));
            }
            Command::Receive { name, way, done } => {
                let settled = Settled::new(done);
                self.receive_by(&name, way, &settled).unwrap_or_else(|error| settled.fail(error));
            }
            Command::CloseUnused => self.close_unused(),
            Command::Mtu { name, mtu } => {
                if let Ok(index) = self.position(&name) {
                    self.set_mtu(index, mtu);
                    self.tell_all(|| Order::Mtu { index, mtu });
                }
            }
            Command::Exit { name, exit } => {
                if let Ok(index) = self.position(&name) {
                    self.set_exit(index, exit);
                    self.tell_all(|| Order::Exit { index, exit });
                }
            }
            Command::Inject(injection) => {
                self.tell_all(|| Order::Inject(injection.clone()));
                self.underlay.injection = injection;
            }
            Command::LocalAddresses(addresses) => {
                self.tell_all(|| Order::LocalAddresses(Arc::clone(&addresses)));
                self.set_local_addresses(addresses);
            }
            Command::ReversePaths(paths) => {
                self.tell_all(|| Order::ReversePaths(Arc::clone(&paths)));
                self.set_reverse_paths(paths);
            }
            Command::Forwards(forwards) => {
                self.tell_all(|| Order::Forwards(forwards));
                self.forwards = forwards;
            }
            Command::Strangers { done } => {
                let gather = Gather::new(done);
                self.tell_all(|| Order::Strangers(Arc::clone(&gather)));
                gather.add(self.seen());
            }
            Command::Answer(on) => {
                self.strangers.answerer.lock().unwrap_or_else(PoisonError::into_inner).switch(on);
            }
            Command::Icmp { done } => {
                let answers = self.strangers.answerer.lock().unwrap_or_else(PoisonError::into_inner).counts();
                let heard = self.ports.iter().flatten().map(|port| (port.name.clone(), port.icmp()));
                drop(done.send(IcmpReport { tunnels: heard.collect(), answers }));
            }
            Command::Recognise(recogniser) => {
                self.tell_all(|| Order::Recognise(recogniser.clone()));
                self.recognise(recogniser);
            }
            Command::BetweenPackets { name, through, attempt, done } => {
                drop(done.send(self.between_packets(&name, through, attempt)));
            }
            // Heard before.
            Command::Stop => {}
        }
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Inlet { inlet, part } => self.underlay.take(inlet, part),
            Order::CloseUnused => self.close_unused(),
            Order::Shared(shared) => self.shared = Some(shared),
            Order::EndSharing => self.close_shared(),
            Order::Join { index, port, settled: _settled } => self.seat(index, *port),
            Order::Change { index, spec, bound_to, settled: _settled } => {
                self.change_port(index, spec, bound_to)
            }
            Order::Leave { indices, settled: _settled } => self.unseat(&indices),
            Order::Handover { index, way, settled: _settled } => self.remember(index, way),
            Order::Receive { index, way, was_open, part, settled: _settled } => {
                if let Some((inlet, part)) = part {
                    self.underlay.take(inlet, part);
                }
                self.switch(index, way, was_open);
            }
            Order::Inside { index, inside, settled: _settled } => self.replace(index, *inside),
            Order::Mtu { index, mtu } => self.set_mtu(index, mtu),
            Order::Exit { index, exit } => self.set_exit(index, exit),
            Order::Inject(injection) => self.underlay.injection = injection,
            Order::LocalAddresses(addresses) => self.set_local_addresses(addresses),
            Order::ReversePaths(paths) => self.set_reverse_paths(paths),
            Order::Forwards(forwards) => self.forwards = forwards,
            Order::Recognise(recogniser) => self.recognise(recogniser),
            Order::AskAgain { indices, remote } => {
                let now_ms = clock::monotonic_millis();
                for index in &*indices {
                    if let Some(Some(port)) = self.ports.get_mut(index.0 as usize) {
                        port.paths.ask_again(remote, now_ms);
                    }
                }
            }
            Order::Strangers(gather) => gather.add(self.seen()),
            Order::Drain { index, through, settled: _settled } => self.drain(index, through),
            Order::Halt { settled, until } => {
                self.empty_shared();
                drop(settled);
                // It comes when the lead is done, or gone.
                let _ = until.recv();
            }
        }
    }

    fn set_mtu(&mut self, index: usize, mtu: u32) {
        if let Some(Some(port)) = self.ports.get_mut(index) {
            port.set_mtu(mtu);
        }
    }

    fn set_exit(&mut self, index: usize, exit: Option<Exit>) {
        if let Some(Some(port)) = self.ports.get_mut(index) {
            port.short_way = exit.map(ShortWay::new);
        }
    }

    fn set_local_addresses(&mut self, addresses: Arc<LocalAddresses>) {
        self.local_addresses = addresses;
        self.look_at_ends();
        if self.is_lead() {
            self.groups.follow(&self.ports, &self.local_addresses);
        }
    }

    fn set_reverse_paths(&mut self, paths: Arc<ReversePaths>) {
        let regrouped = paths.vrfs != self.reverse_paths.vrfs;
        self.reverse_paths = paths;
        if regrouped {
            self.index();
        }
    }

    fn recognise(&mut self, recogniser: Option<Recogniser>) {
        self.strangers.recogniser = recogniser;
    }

    fn seen(&mut self) -> Seen {
        self.count_spilled();
        let Strangers { unmatched, underlay, .. } = &self.strangers;
        (unmatched.entries().to_vec(), underlay.snapshot())
    }

    /// Runs `attempt` with a function that carries all that waits in one direction, whichever worker's it is.
    fn between_packets(
        &mut self,
        name: &DeviceName,
        through: Through,
        mut attempt: Attempt,
    ) -> Result<(), DatapathError> {
        let index = self.position(name)?;
        attempt(&mut || {
            let done = self.ask_all(|settled| Order::Drain { index, through, settled });
            self.drain(index, through);
            let _ = done.recv();
        });
        Ok(())
    }

    /// Tells all helpers the same; there is an answer when all are done.
    pub(super) fn ask_all(
        &self,
        order: impl Fn(Arc<Settled>) -> Order,
    ) -> Receiver<Result<(), DatapathError>> {
        let (settled, answer) = Settled::awaited();
        self.tell_all(|| order(Arc::clone(&settled)));
        answer
    }

    /// Carries all that waits of a tunnel one way.
    fn drain(&mut self, index: usize, through: Through) {
        let Some(Some(port)) = self.ports.get(index) else { return };
        let (inlet, now_ms) = (port.inlet(), clock::monotonic_millis());
        match through {
            Through::Inwards => self.empty(inlet, now_ms),
            Through::Outwards => self.send_all(index, now_ms),
        }
    }

    /// Carries all that waits in what tunnels share.
    pub(super) fn empty_shared(&mut self) {
        let now_ms = clock::monotonic_millis();
        (0..Shared::SOURCES as usize).for_each(|source| self.empty_shared_source(source, now_ms));
    }

    /// Has what tunnels share divided anew, with no packet overtaken.
    pub(super) fn divide_shared(&mut self) {
        let for_one = !self.solos.is_empty();
        if let Some(shared) = self.shared.as_ref().filter(|_| for_one) {
            // What the helpers have got is older than what comes to the lead from now on.
            shared.divide(1);
        }
        let mut held = Vec::with_capacity(self.count);
        let (settled, answer) = Settled::awaited();
        for helper in self.crew() {
            let (hold, until) = mpsc::channel();
            helper.tell(Order::Halt { settled: Arc::clone(&settled), until });
            held.push(hold);
        }
        drop(settled);
        let _ = answer.recv();
        if let Some(shared) = self.shared.as_ref().filter(|_| !for_one) {
            // The other way round.
            shared.divide(self.count);
            self.empty_shared();
        }
    }
}
