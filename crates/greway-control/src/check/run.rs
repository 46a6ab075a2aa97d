//! A check from beginning to end: ask the daemon, read the host, probe, ask again, diagnose. Tunnels side by
//! side, so that several take no longer than one, and all under one [`Deadline`].

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use greway_linux::process::{self, Capability};
use greway_netlink::{Netlink, NetlinkError};
use greway_spec::TunnelSpec;

use super::deadline::{Deadline, NO_TIME};
use super::facts::{Daemon, Facts, HostFacts, Probes};
use super::observe::HostReader;
use super::{Checked, diagnose, probe};
use crate::api::client::{Client, ClientError};
use crate::api::{Reply, Request};
use crate::location::Location;
use crate::status::Status;
use crate::store::Store;

/// A daemon that has not said who it is by then is said to be silent.
const PATIENCE: Duration = Duration::from_secs(1);
/// Tunnels that are probed at the same time: each listens by sockets and buffers of its own.
const AT_ONCE: usize = 16;

/// What a check may do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Send probes, where the caller may.
    pub probe: bool,
    /// A host behind the far end that is to answer.
    pub destination: Option<IpAddr>,
}

/// Why a check cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The daemon may not be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The kernel does not say what everybody may ask.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The daemon's tunnels are not here.
    #[error(
        "the daemon at {socket} carries {tunnel} in another network namespace than this one: check it there \
         (nsenter --net=/proc/{pid}/ns/net greway check)"
    )]
    Elsewhere {
        /// Its socket.
        socket: String,
        /// The tunnel that is not here.
        tunnel: String,
        /// Its process.
        pid: u32,
    },
}

/// What the daemon said at the beginning.
#[derive(Debug)]
pub enum Told {
    /// There is none.
    Nothing,
    /// Something is there that does not answer.
    Silence(String),
    /// It answers.
    Status(Arc<Status>),
}

impl Told {
    /// The tunnels that are carried.
    pub fn tunnels(&self) -> impl Iterator<Item = &TunnelSpec> {
        let status = match self {
            Self::Status(status) => status.tunnels.as_slice(),
            _ => &[],
        };
        status.iter().map(|tunnel| &tunnel.spec)
    }
}

/// Asks the daemon what it carries. A daemon that is not there, or does not answer, is an answer.
///
/// # Errors
/// [`CheckError::Client`] for one that this user may not ask.
pub fn ask(location: &Location, probe: bool, deadline: Deadline) -> Result<Told, CheckError> {
    let deadline = deadline.of_daemon();
    let patience = || PATIENCE.min(deadline.left());
    let mut client = match Client::connect_within(&location.socket, patience()) {
        Ok(client) => client,
        Err(ClientError::NoDaemon { .. }) => return Ok(Told::Nothing),
        Err(error @ ClientError::Broken { .. }) => return Ok(Told::Silence(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    let silent = |error: ClientError, within: Duration| match error {
        ClientError::Broken { .. } => {
            Ok(Told::Silence(format!("{error} within {:.1} s", within.as_secs_f64())))
        }
        ClientError::Unheard { .. } => Ok(Told::Silence(error.to_string())),
        other => Err(other.into()),
    };
    let within = patience();
    if let Err(error) = client.greet(within) {
        return silent(error, within);
    }
    let within = deadline.left();
    match client.ask_within(&Request::Status { name: None, probe }, within) {
        Ok(Reply::Status(status)) => Ok(Told::Status(Arc::from(status))),
        Ok(_) => Err(client.unexpected().into()),
        Err(error) => silent(error, within),
    }
}

/// The tunnels that a daemon which died left behind.
pub fn left_behind(location: &Location) -> Vec<TunnelSpec> {
    let loaded = Store::new(&location.state).load().unwrap_or_default();
    loaded.tunnels.into_values().map(|stored| stored.spec).collect()
}

/// Whether this process may probe, or the reason why not.
pub fn may_probe() -> Result<(), &'static str> {
    match process::has_capability(Capability::NetRaw) {
        Ok(true) => Ok(()),
        _ => Err("probes take root (CAP_NET_RAW): try sudo"),
    }
}

/// Checks tunnels.
///
/// # Errors
/// [`CheckError`]; what could not be looked at is none.
pub fn run(
    specs: &[TunnelSpec],
    told: &Told,
    location: &Location,
    options: &Options,
    deadline: Deadline,
) -> Result<Vec<Checked>, CheckError> {
    if let Told::Status(status) = told {
        here(status, location)?;
    }
    let netlink = Netlink::open()?;
    let reader = HostReader::read(&netlink)?;
    let probed = side_by_side(specs, |spec| gather(spec, told, options, &reader, deadline))?;
    // Once for all, when the last probe is over.
    let after = match told {
        Told::Status(before) => match ask(location, false, deadline)? {
            Told::Status(after) => Some((before.clone(), after)),
            // It went meanwhile, or has no time now; what it said counts.
            _ => Some((before.clone(), before.clone())),
        },
        _ => None,
    };
    // What the probes themselves made the kernel learn and track: path MTU, associations, connections.
    let reader = if options.probe { HostReader::read(&netlink)? } else { reader };
    let left = left_behind(location);
    let checked = specs.iter().zip(probed).map(|(spec, probes)| {
        let daemon = match (told, &after) {
            (_, Some((before, after))) => Daemon::Answers { before: before.clone(), after: after.clone() },
            (Told::Silence(why), _) => Daemon::Silent(why.clone()),
            _ => Daemon::None { left: left.iter().any(|left| left.name == spec.name) },
        };
        let host = reader.facts(&netlink, spec)?;
        Ok(diagnose(&Facts { spec: spec.clone(), daemon, host, probes }))
    });
    checked.collect()
}

/// The short form: what can be told of a status without another packet sent.
///
/// # Errors
/// As [`run`].
pub fn brief(status: &Status, location: &Location) -> Result<Vec<Checked>, CheckError> {
    here(status, location)?;
    let netlink = Netlink::open()?;
    let reader = HostReader::read(&netlink)?;
    let told = Arc::new(status.clone());
    let checked = status.tunnels.iter().map(|tunnel| {
        let mut probes = Probes::none("only by greway check");
        probes.echo = probe::echo_of_status(tunnel);
        Ok(diagnose(&Facts {
            spec: tunnel.spec.clone(),
            daemon: Daemon::Answers { before: told.clone(), after: told.clone() },
            host: reader.facts(&netlink, &tunnel.spec)?,
            probes,
        }))
    });
    checked.collect()
}

/// Does `work` for each tunnel, some of them at the same time; gives what came of it in their order.
fn side_by_side<T: Send>(
    specs: &[TunnelSpec],
    work: impl Fn(&TunnelSpec) -> Result<T, NetlinkError> + Sync,
) -> Result<Vec<T>, NetlinkError> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(specs.len()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(specs.len()) {
            scope.spawn(|| {
                while let Some((number, spec)) = numbered(specs, next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = work(spec);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((number, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

fn numbered(specs: &[TunnelSpec], number: usize) -> Option<(usize, &TunnelSpec)> {
    Some((number, specs.get(number)?))
}

fn gather(
    spec: &TunnelSpec,
    told: &Told,
    options: &Options,
    reader: &HostReader,
    deadline: Deadline,
) -> Result<Probes, NetlinkError> {
    let tunnel = match told {
        Told::Status(status) => status.tunnels.iter().find(|tunnel| tunnel.spec.name == spec.name),
        _ => None,
    };
    let mut probes = match (tunnel, options.probe, may_probe()) {
        (None, ..) => Probes::none("the tunnel is not carried"),
        (Some(_), false, _) => Probes::none("no probes were asked for"),
        (Some(_), true, Err(reason)) => Probes::none(reason),
        (Some(_), true, Ok(())) if deadline.is_over() => Probes::none(NO_TIME),
        (Some(_), true, Ok(())) => {
            let host: HostFacts = reader.facts(&Netlink::open()?, spec)?;
            probe::run(&probe::Plan { spec, host: &host, destination: options.destination, deadline })
        }
    };
    if let (Some(tunnel), Err(_)) = (tunnel, &probes.echo)
        && let Ok(echo) = probe::echo_of_status(tunnel)
    {
        probes.echo = Ok(echo);
    }
    Ok(probes)
}

/// A daemon may be reached by its socket from another namespace, whose devices say nothing about its tunnels.
fn here(status: &Status, location: &Location) -> Result<(), CheckError> {
    let netlink = Netlink::open()?;
    for tunnel in &status.tunnels {
        let Some(device) = tunnel.device.as_ref().filter(|_| !tunnel.moved) else { continue };
        let link = netlink.link_by_index(device.index)?;
        // Whatever it is called by now.
        if link.is_none() {
            return Err(CheckError::Elsewhere {
                socket: location.socket.display().to_string(),
                tunnel: tunnel.spec.name.to_string(),
                pid: status.daemon.pid,
            });
        }
    }
    Ok(())
}
