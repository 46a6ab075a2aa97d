//! The daemon: one for each network namespace, holding the data plane and answering the API.
//!
//! Threads: `main` waits for signals; `api` and `api-client` answer questions; `watch` follows the
//! kernel (links, addresses, routes, firewall); `datapath` carries packets. All but the last meet
//! at one lock around `host::Host`; the packet path takes no lock.

mod act;
mod adopt;
mod answer;
mod arrival;
mod between;
mod claim;
mod counted;
pub(crate) mod device;
pub(crate) mod early_drop;
mod exits;
mod fastpath;
mod firewall;
mod forwarding;
mod going;
mod host;
pub(crate) mod injection;
mod kernel_tunnels;
mod moved;
mod mtu;
mod namespace;
mod notes;
mod place;
mod probe;
mod quiet;
mod rename;
mod report;
mod reverse_path;
pub(crate) mod sealed_group;
mod sole;
mod steering;
pub(crate) mod tables;
mod together;
mod underlay;
mod watch;
mod witness;

pub use device::peer_name;
pub use fastpath::FastPathOptions;
pub use greway_datapath::{BusyPoll, Workers};
pub use steering::Steer;

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use greway_linux::signal::{Signal, Signals};
use greway_linux::{inherited, process};

use crate::api::server::{self, Server};
use crate::location::Location;
use crate::sd_notify::Manager;
use crate::start;

/// The log and the namespace are looked at this often.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// A log in memory is cut to half of this when it grows past it.
const LONGEST_LOG: u64 = 1 << 20;

/// Why a daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// It may not do what it is for.
    #[error("the daemon needs {0}: run it as root, or give it that capability")]
    Privilege(&'static str),
    /// Another one runs here.
    #[error("a greway daemon answers at {} already: there is one for each network namespace", .0.display())]
    Runs(PathBuf),
    /// Another one runs here, with another socket.
    #[error(
        "a greway daemon runs in this network namespace already{}, with another socket: there is one for each \
         network namespace", .0.map_or_else(String::new, |pid| format!(" (process {pid})"))
    )]
    NotAlone(Option<u32>),
    /// Socket or state directory cannot be had.
    #[error("cannot use {}", path.display())]
    Place {
        /// Which.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The kernel's interfaces cannot be had.
    #[error("cannot set up: {0}")]
    SetUp(String),
}

/// What holds for a daemon as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether senders whose GRE packets match no tunnel are told so ("port unreachable"), as the kernel's own GRE
    /// does, while no other program here may take such packets.
    pub port_unreachable: bool,
    /// Whether eBPF programs may carry tunnels.
    pub fast_path: FastPathOptions,
    /// Whether received packets are spread over CPUs by the flow inside; it changes settings of the devices below.
    pub steer: Steer,
    /// How long the thread that carries packets in userspace looks for the next before it sleeps.
    pub busy_poll: BusyPoll,
    /// How many threads carry packets in userspace.
    pub workers: Workers,
    /// Whether super-packets are handed to the kernel whole where they can be.
    pub super_packets: bool,
    /// Why the options are not those that somebody wrote; a sentence, for the log and `status`.
    pub doubt: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port_unreachable: true,
            fast_path: FastPathOptions::default(),
            steer: Steer::Off,
            busy_poll: BusyPoll::default(),
            workers: Workers::default(),
            super_packets: true,
            doubt: None,
        }
    }
}

/// How a daemon came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop, and whoever supervises it should not start it again.
    Asked,
    /// By SIGTERM or SIGINT.
    Signal,
    /// Its data plane died: whoever supervises it should start it again.
    Broken,
}

/// Runs until a signal or a request ends it. SIGTERM and SIGINT leave the tunnels as they are, for
/// the next daemon to adopt.
///
/// # Errors
/// [`DaemonError`], before anything was changed.
pub fn run(location: &Location, options: &Options) -> Result<Ended, DaemonError> {
    for (name, capability) in
        [("CAP_NET_ADMIN", process::Capability::NetAdmin), ("CAP_NET_RAW", process::Capability::NetRaw)]
    {
        if !process::has_capability(capability).unwrap_or(false) {
            return Err(DaemonError::Privilege(name));
        }
    }
    // Many tunnels have many sockets.
    if let Err(error) = process::raise_descriptor_limit() {
        tracing::warn!(%error, "the number of descriptors cannot be raised");
    }
    // Before any thread is made, so that none takes a signal away.
    let signals = Signals::block(&[Signal::Terminate, Signal::Interrupt, Signal::HangUp])
        .map_err(|error| DaemonError::SetUp(error.to_string()))?;
    let lock = sole::sole(location).map_err(|error| DaemonError::SetUp(error.to_string()))?;
    match &lock {
        sole::Sole::Yes(_) => {}
        sole::Sole::No(_) if server::answers(&location.socket) => {
            return Err(DaemonError::Runs(location.socket.clone()));
        }
        sole::Sole::No(process) => return Err(DaemonError::NotAlone(*process)),
    }
    location.create().map_err(|source| DaemonError::Place { path: location.state.clone(), source })?;
    // Before anybody can connect: whoever waits for a daemon that cannot be is to hear why, and not that it went away.
    let mut host = host::Host::new(&location.state, options).map_err(DaemonError::SetUp)?;
    let server = Server::bind(&location.socket).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => DaemonError::Runs(location.socket.clone()),
        _ => DaemonError::Place { path: location.socket.clone(), source },
    })?;
    let set_up = |error: io::Error| DaemonError::SetUp(error.to_string());
    let inherited = inherited::listeners().map_err(set_up)?;
    // A manager's namespace is not deleted under us, and its sandbox would not let us see who else is inside.
    let named = if inherited.is_empty() { namespace::NamedNamespace::current() } else { None };
    let server = server.also(inherited);
    let manager = Arc::new(Manager::find());
    let heart = manager.heart();
    host.heart = heart.clone();
    host.datapath.set_answers(options.port_unreachable);
    host.doubt.clone_from(&options.doubt);
    if let Some(doubt) = &options.doubt {
        tracing::warn!("{doubt}");
    }
    host.steering.how = options.steer;
    host.adopt();
    host.fast.has_begun();
    host.look_at_steering();
    let status = host.at_a_glance();
    let host = Arc::new(Mutex::new(host));
    let (stop, stopped) = mpsc::channel();
    watch::start(Arc::clone(&host), stop.clone(), heart.clone()).map_err(set_up)?;
    let handler = answer::Answerer::new(Arc::clone(&host), stop);
    server.serve(Arc::new(handler)).map_err(set_up)?;
    tracing::info!(socket = %location.socket.display(), "ready");
    heart.ready(&status);
    // A request to stop or a signal is felt within this time.
    const GLANCE: Duration = Duration::from_millis(100);
    let mut looked = Instant::now();
    loop {
        match stopped.recv_timeout(GLANCE) {
            Ok(ended) => {
                manager.stopping();
                end(&host);
                return Ok(ended);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(Ended::Broken),
            Err(RecvTimeoutError::Timeout) => {}
        }
        match signals.read() {
            Ok(None | Some(Signal::HangUp)) => {}
            Ok(Some(signal)) => {
                manager.stopping();
                end(&host);
                tracing::info!(?signal, "ends; the tunnels stay for the next daemon");
                return Ok(Ended::Signal);
            }
            Err(error) => return Err(DaemonError::SetUp(error.to_string())),
        }
        if looked.elapsed() < HOUSEKEEPING {
            continue;
        }
        looked = Instant::now();
        // Best effort: the log may not be a file at all.
        let _ = start::trim_log(&location.log, LONGEST_LOG);
        if named.as_ref().is_some_and(namespace::NamedNamespace::is_deserted) {
            tracing::info!("the network namespace was deleted: ends, and its tunnels with it");
            if let Err(error) = locked(&host).delete_all() {
                tracing::warn!(error, "not all could be removed");
            }
            end(&host);
            drop(server);
            location.clear();
            return Ok(Ended::Asked);
        }
    }
}

/// Waits until no change is half way, and lets no other begin; nothing is carried from then on.
fn end(host: &Mutex<host::Host>) {
    let mut host = locked(host);
    host.ending = true;
    host.datapath.stop();
}

/// Takes the lock; a thread that died holding it left nothing half done that matters more than
/// going on.
fn locked(host: &Mutex<host::Host>) -> std::sync::MutexGuard<'_, host::Host> {
    host.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
