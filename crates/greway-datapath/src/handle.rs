//! The other threads' end of the data plane.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender, SyncSender};
use std::thread::{self, JoinHandle};

use greway_engine::{TunnelCounters, UnderlaySnapshot, UnmatchedEntry};
use greway_linux::OpenError;
use greway_linux::event::Waker;
use greway_spec::{DeviceName, TunnelSpec};

use crate::command::Command;
use crate::exit::Exit;
use crate::icmp::IcmpReport;
use crate::local::LocalAddresses;
use crate::lull::BusyPoll;
use crate::news::{News, Newsroom};
use crate::overlay::Tap;
use crate::port::PortSpec;
use crate::reverse_path::ReversePaths;
use crate::underlay::Receive;
use crate::witness::{Passages, Recogniser};
use crate::worker::Worker;

/// A running data plane. Dropping it stops the worker and closes all sockets; devices stay.
#[derive(Debug)]
pub struct Datapath {
    commands: Sender<Command>,
    wake: Arc<Waker>,
    news: Newsroom,
    worker: Option<JoinHandle<()>>,
}

/// What a tunnel's counters are read through.
pub type Traffic = Arc<TunnelCounters>;

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
    /// Starts the worker, in the network namespace of the calling thread. `busy_poll`: how it waits for packets.
    ///
    /// # Errors
    /// When sockets or the thread cannot be had.
    pub fn start(busy_poll: BusyPoll) -> Result<Self, DatapathError> {
        let wake = Arc::new(Waker::new().map_err(DatapathError::Start)?);
        let (commands, received) = mpsc::channel();
        let news = Newsroom::new().map_err(DatapathError::Start)?;
        let worker = Worker::new(received, Arc::clone(&wake), news.clone(), busy_poll)?;
        let worker = thread::Builder::new()
            .name("datapath".into())
            .spawn(move || worker.run())
            .map_err(DatapathError::Start)?;
        Ok(Self { commands, wake, news, worker: Some(worker) })
    }

    /// Starts to carry a tunnel.
    ///
    /// # Errors
    /// When its sockets cannot be had; nothing is carried then.
    pub fn add(&self, port: PortSpec) -> Result<Traffic, DatapathError> {
        let counters = Traffic::default();
        let port = Box::new(port);
        self.ask(|done| Command::Add { port, counters: Arc::clone(&counters), done })??;
        Ok(counters)
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
        self.ask(|done| Command::RemoveThese { names, done })
    }

    /// Changes how a tunnel receives.
    ///
    /// # Errors
    /// When the socket cannot be had; the tunnel receives as before then.
    pub fn receive_by(&self, name: &DeviceName, way: Receive) -> Result<(), DatapathError> {
        self.ask(|done| Command::Receive { name: name.clone(), way, done })?
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

    /// Tells which addresses are this host's: only packets to them are for its tunnels.
    pub fn set_local_addresses(&self, addresses: LocalAddresses) {
        let _ = self.tell(Command::LocalAddresses(addresses));
    }

    /// Tells which devices filter by reverse path, and where the ways to the peers lead.
    pub fn set_reverse_paths(&self, paths: ReversePaths) {
        let _ = self.tell(Command::ReversePaths(paths));
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
        self.ask(|done| Command::Strangers { done })
    }

    /// What was heard since this was last asked.
    pub fn take_news(&self) -> BTreeSet<News> {
        self.news.take()
    }

    /// Readable while there is news.
    pub fn news_waker(&self) -> Arc<Waker> {
        self.news.waker()
    }

    /// Whether the worker still runs. One that has ended (it panicked, or could not wait for packets
    /// any more) carries nothing, and whoever holds it should start again.
    pub fn is_alive(&self) -> bool {
        self.worker.as_ref().is_some_and(|worker| !worker.is_finished())
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

    /// Stops the worker and closes all sockets, of many tunnels side by side: a process that ends closes them one after
    /// the other. Nothing can be asked of it any more.
    pub fn stop(&mut self) {
        let _ = self.tell(Command::Stop);
        if let Some(worker) = self.worker.take()
            && worker.join().is_err()
        {
            tracing::error!("the data plane's worker had panicked");
        }
    }
}

impl Drop for Datapath {
    fn drop(&mut self) {
        self.stop();
    }
}
