//! The other threads' end of the data plane.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender, SyncSender};
use std::thread::{self, JoinHandle};

use greway_engine::{UnderlaySnapshot, Unmatched, UnmatchedEntry};
use greway_linux::OpenError;
use greway_linux::event::{Poller, Waker};
use greway_spec::{DeviceName, TunnelSpec};

use crate::command::Command;
use crate::crew::{Helper, Workers};
use crate::exit::{Exit, Injection};
use crate::icmp::IcmpReport;
use crate::local::LocalAddresses;
use crate::lull::BusyPoll;
use crate::news::{News, Newsroom};
use crate::overlay::Tap;
use crate::port::{PortSpec, Traffic};
use crate::reverse_path::ReversePaths;
use crate::underlay::Receive;
use crate::witness::{Passages, Recogniser};
use crate::worker::{Ears, Post, Worker};

/// A running data plane. Dropping it stops its workers and closes all sockets; devices stay.
#[derive(Debug)]
pub struct Datapath {
    commands: Sender<Command>,
    wake: Arc<Waker>,
    news: Newsroom,
    /// The lead first; empty when they were stopped.
    workers: Vec<JoinHandle<()>>,
    count: usize,
}

/// Why the data plane refused.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// A socket cannot be had.
    #[error("{name}: {source}")]
    Open {
        /// The tunnel it was for.
        name: DeviceName,
        /// Which step the kernel refused.
        source: OpenError,
    },
    /// A socket cannot be waited for.
    #[error("{name}: cannot wait for its packets")]
    Watch {
        /// The tunnel.
        name: DeviceName,
        /// The system's word.
        source: io::Error,
    },
    /// No such tunnel is carried.
    #[error("{0} is not carried")]
    Unknown(DeviceName),
    /// The worker could not be started.
    #[error("cannot start the data plane")]
    Start(#[source] io::Error),
    /// The sockets that every tunnel needs cannot be had.
    #[error("cannot open the underlay")]
    Underlay(#[from] OpenError),
    /// The worker is gone.
    #[error("the data plane has stopped")]
    Stopped,
}

impl Datapath {
    /// Starts the workers, in the network namespace of the calling thread. `busy_poll`: how they wait for packets.
    ///
    /// # Errors
    /// When sockets or threads cannot be had.
    pub fn start(busy_poll: BusyPoll, workers: Workers) -> Result<Self, DatapathError> {
        let count = workers.here();
        let wake = Arc::new(Waker::new().map_err(DatapathError::Start)?);
        let (commands, received) = mpsc::channel();
        let news = Newsroom::new().map_err(DatapathError::Start)?;
        let answerer = Arc::default();
        let (mut crew, mut threads) = (Vec::new(), Vec::new());
        for number in 1..count {
            let (helper, orders, wake) = Helper::new().map_err(DatapathError::Start)?;
            let post = Post { number, count, wake, poller: Arc::clone(&helper.poller), busy_poll };
            threads.push(Worker::new(post, Ears::Helper(orders), &news, &answerer)?);
            crew.push(helper);
        }
        let poller = Arc::new(Poller::new().map_err(DatapathError::Start)?);
        let post = Post { number: 0, count, wake: Arc::clone(&wake), poller, busy_poll };
        threads.insert(0, Worker::new(post, Ears::Lead { commands: received, crew }, &news, &answerer)?);
        // Those that run already end with the lead, who is nowhere then.
        let spawn = |(number, worker): (usize, Worker)| {
            let name = if number == 0 { "datapath".into() } else { format!("datapath-{number}") };
            thread::Builder::new().name(name).spawn(move || worker.run()).map_err(DatapathError::Start)
        };
        let workers = threads.into_iter().enumerate().map(spawn).collect::<Result<_, _>>()?;
        Ok(Self { commands, wake, news, workers, count })
    }

    /// How many threads carry packets.
    pub fn workers(&self) -> usize {
        self.count
    }

    /// Starts to carry a tunnel.
    ///
    /// # Errors
    /// When its sockets cannot be had; nothing is carried then.
    pub fn add(&self, port: PortSpec) -> Result<Traffic, DatapathError> {
        let traffic = Traffic::new(self.count);
        let port = Box::new(port);
        self.ask(|done| Command::Add { port, traffic: traffic.clone(), done })??;
        Ok(traffic)
    }

    /// Carries a tunnel with other parameters from the next packet on.
    ///
    /// # Errors
    /// [`DatapathError::Unknown`].
    pub fn change(&self, spec: &TunnelSpec, bound_to: Option<u32>) -> Result<(), DatapathError> {
        let spec = Box::new(spec.clone());
        self.ask(|done| Command::Change { spec, bound_to, done })?
    }

    /// Stops carrying a tunnel.
    ///
    /// # Errors
    /// [`DatapathError::Unknown`].
    pub fn remove(&self, name: &DeviceName) -> Result<(), DatapathError> {
        self.ask(|done| Command::Remove { name: name.clone(), done })?
    }

    /// Stops carrying several tunnels at once; those that are not carried are none's business.
    ///
    /// # Errors
    /// [`DatapathError::Stopped`].
    pub fn remove_these(&self, names: &[DeviceName]) -> Result<(), DatapathError> {
        let names = names.to_vec();
        self.ask(|done| Command::RemoveThese { names, done })?
    }

    /// Changes how a tunnel receives.
    ///
    /// # Errors
    /// When the socket cannot be had; the tunnel receives as before then.
    pub fn receive_by(&self, name: &DeviceName, way: Receive) -> Result<(), DatapathError> {
        self.ask(|done| Command::Receive { name: name.clone(), way, done })??;
        // Not before the last worker has emptied its own: a group that loses a member divides anew.
        self.tell(Command::CloseUnused)
    }

    /// Changes what is taken of the packets that come out of a tunnel device.
    ///
    /// # Errors
    /// When the sockets cannot be had; what is taken is as before then.
    pub fn tap(&self, name: &DeviceName, tap: Tap) -> Result<(), DatapathError> {
        self.ask(|done| Command::Tap { name: name.clone(), tap, done })?
    }

    /// Tells the MTU of a tunnel device, when it changed.
    pub fn set_mtu(&self, name: &DeviceName, mtu: u32) {
        // A worker that is gone needs no MTU.
        let _ = self.tell(Command::Mtu { name: name.clone(), mtu });
    }

    /// Tells by which short way a tunnel's packets may leave, or that there is none; a change of the tunnel takes it
    /// away, too.
    pub fn set_exit(&self, name: &DeviceName, exit: Option<Exit>) {
        let _ = self.tell(Command::Exit { name: name.clone(), exit });
    }

    /// Tells where super-packets are handed to the kernel of those tunnels whose [`Exit`] takes them; `None`: nowhere.
    pub fn set_injection(&self, injection: Option<Arc<Injection>>) {
        let _ = self.tell(Command::Inject(injection));
    }

    /// Tells which addresses are this host's: only packets to them are for its tunnels.
    pub fn set_local_addresses(&self, addresses: LocalAddresses) {
        let _ = self.tell(Command::LocalAddresses(Arc::new(addresses)));
    }

    /// Tells which devices filter by reverse path, and where the ways to the peers lead.
    pub fn set_reverse_paths(&self, paths: ReversePaths) {
        let _ = self.tell(Command::ReversePaths(Arc::new(paths)));
    }

    /// Tells whether this host forwards: what tunnels carry then is other hosts' too.
    pub fn set_forwards(&self, forwards: bool) {
        let _ = self.tell(Command::Forwards(forwards));
    }

    /// Whether senders whose packets match no tunnel are told so, as long as nobody else may take them. They are,
    /// unless this says otherwise.
    pub fn set_answers(&self, on: bool) {
        let _ = self.tell(Command::Answer(on));
    }

    /// Shows `recogniser` all that arrives on the underlay, before anything else is done with it. `None`: nobody.
    pub fn recognise(&self, recogniser: Option<Recogniser>) {
        let _ = self.tell(Command::Recognise(recogniser));
    }

    /// The data plane's passages, for another thread.
    pub fn passages(&self) -> Passages {
        Passages { commands: self.commands.clone(), wake: Arc::clone(&self.wake) }
    }

    /// ICMP errors about what the tunnels sent, and what became of packets that matched none.
    ///
    /// # Errors
    /// [`DatapathError::Stopped`].
    pub fn icmp(&self) -> Result<IcmpReport, DatapathError> {
        self.ask(|done| Command::Icmp { done })
    }

    /// Packets that matched no tunnel, and counts of what was refused before a tunnel could be told.
    ///
    /// # Errors
    /// [`DatapathError::Stopped`].
    pub fn strangers(&self) -> Result<(Vec<UnmatchedEntry>, UnderlaySnapshot), DatapathError> {
        let seen = self.ask(|done| Command::Strangers { done })?;
        let (mut unmatched, mut underlay) = (Unmatched::new(), UnderlaySnapshot::default());
        for (entries, counters) in &seen {
            unmatched.add(entries);
            underlay.add(counters);
        }
        Ok((unmatched.entries().to_vec(), underlay))
    }

    /// What was heard since this was last asked.
    pub fn take_news(&self) -> BTreeSet<News> {
        self.news.take()
    }

    /// Readable while there is news.
    pub fn news_waker(&self) -> Arc<Waker> {
        self.news.waker()
    }

    /// Whether all workers still run. One that has ended (it panicked, or could not wait for packets
    /// any more) carries nothing, and whoever holds it should start again.
    pub fn is_alive(&self) -> bool {
        !self.workers.is_empty() && !self.workers.iter().any(JoinHandle::is_finished)
    }

    fn ask<T>(&self, command: impl FnOnce(SyncSender<T>) -> Command) -> Result<T, DatapathError> {
        let (done, answer) = mpsc::sync_channel(1);
        self.tell(command(done))?;
        answer.recv().map_err(|_gone| DatapathError::Stopped)
    }

    fn tell(&self, command: Command) -> Result<(), DatapathError> {
        self.commands.send(command).map_err(|_gone| DatapathError::Stopped)?;
        self.wake.wake();
        Ok(())
    }

    /// Stops the workers and closes all sockets, of many tunnels side by side: a process that ends closes them one after
    /// the other. Nothing can be asked of it any more.
    pub fn stop(&mut self) {
        let _ = self.tell(Command::Stop);
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                tracing::error!("a worker of the data plane had panicked");
            }
        }
    }
}

impl Drop for Datapath {
    fn drop(&mut self) {
        self.stop();
    }
}
