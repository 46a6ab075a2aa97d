//! The tunnels that are greway's here, and the daemon that changes them.
//!
//! What there is, is read from the state directory, which is there whether or not a daemon is. Only a change
//! asks the daemon, and one that does not answer is told of while we wait.

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use greway_control::api::client::ClientError;
use greway_control::api::{Reply, Request};
use greway_control::location::{Location, SOCKET_VARIABLE};
use greway_control::start::{self, StartError};
use greway_control::store::Store;
use greway_dialects::iproute2::abort::Errno;
use greway_dialects::iproute2::args::Lookup;
use greway_netlink::{LinkChange, LinkStatistics, Netlink};
use greway_spec::{DeviceName, TunnelSpec};

use crate::output;

/// After how long we say what we wait for.
const SILENCE: Duration = Duration::from_secs(1);

/// How long a daemon may take for a greeting. Changes have more time; one that does not even greet hangs.
const GREETING: Duration = Duration::from_secs(4);

/// Where greway's files of this network namespace are; `None` where no greway ever was.
pub(super) fn location() -> Option<Location> {
    let socket = std::env::var_os(SOCKET_VARIABLE);
    // `Location::find` makes root's directory, which a command that is not ours has no business to do.
    if socket.is_none() && !greway_control::location::any_exists() {
        return None;
    }
    Location::find(socket.as_deref().map(Path::new)).ok()
}

/// The tunnels of this network namespace.
pub(super) struct Ours {
    tunnels: Vec<TunnelSpec>,
}

impl Ours {
    /// Reads them. What cannot be read is not there for us.
    pub(super) fn read() -> Self {
        let loaded = location().and_then(|location| Store::new(&location.state).load().ok());
        let tunnels = loaded.map(|loaded| loaded.tunnels.into_values().map(|stored| stored.spec).collect());
        Self { tunnels: tunnels.unwrap_or_default() }
    }

    /// All of them whose device is there, with what it counted, by name.
    pub(super) fn present(&self) -> Vec<(&TunnelSpec, LinkStatistics)> {
        if self.tunnels.is_empty() {
            return Vec::new();
        }
        let links = Netlink::open().and_then(|netlink| netlink.links()).unwrap_or_default();
        let counted = |name: &str| {
            let link = links.iter().find(|link| link.name == name)?;
            // Ours was deleted and somebody else has the name, while no daemon was there to see.
            let is_ours = matches!(link.kind.as_deref(), Some("veth" | "tun"));
            is_ours.then_some(link.statistics)
        };
        self.tunnels.iter().filter_map(|spec| Some((spec, counted(spec.name.as_str())?))).collect()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.tunnels.is_empty()
    }

    /// The one of this name.
    pub(super) fn find(&self, name: &str) -> Option<&TunnelSpec> {
        self.tunnels.iter().find(|spec| spec.name.as_str() == name)
    }

    /// Whether the kernel would say that this tunnel exists: ends and key are those of another (linux
    /// net/ipv4/ip_tunnel.c `ip_tunnel_find`).
    pub(super) fn clashes(&self, spec: &TunnelSpec) -> bool {
        let ends = |spec: &TunnelSpec| (spec.mode, spec.local, spec.remote, spec.ikey, spec.dev.clone());
        self.tunnels.iter().any(|other| ends(other) == ends(spec))
    }
}

impl Lookup for Ours {
    fn device(&self, name: &str) -> bool {
        has_device(name)
    }

    fn tunnel(&self, name: &str) -> Result<TunnelSpec, Errno> {
        match self.find(name) {
            Some(spec) => Ok(spec.clone()),
            None if has_device(name) => Err(Errno::NotSupported),
            None => Err(Errno::NoSuchDevice),
        }
    }

    fn tunnels(&self) -> Vec<TunnelSpec> {
        self.tunnels.clone()
    }
}

/// Names of the fallback devices, which a kernel with the modules always has.
const RESERVED: [&str; 5] = ["gre0", "gretap0", "erspan0", "ip6gre0", "ip6gretap0"];

/// Whether a kernel with GRE would have a device of this name.
pub(super) fn is_taken(name: &str) -> bool {
    RESERVED.contains(&name) || has_device(name)
}

/// Whether there is a network device of this name.
pub(super) fn has_device(name: &str) -> bool {
    let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::DGRAM, None);
    socket.is_ok_and(|socket| rustix::net::netdevice::name_to_index(&socket, name).is_ok())
}

/// Why a change was not made.
#[derive(Debug)]
pub(super) enum Failure {
    /// The daemon said no, with its reason.
    Refused(String),
    /// There is no daemon that could be asked.
    Unreachable(String),
}

/// Asks the daemon for a change, starting one where none runs.
pub(super) fn change(request: &Request) -> Result<(), Failure> {
    telling_of_silence(|| {
        let socket = std::env::var_os(SOCKET_VARIABLE);
        let location = Location::find(socket.as_deref().map(Path::new))
            .map_err(|error| Failure::Unreachable(format!("cannot tell this network namespace: {error}")))?;
        let unreachable = |error: StartError| match error {
            StartError::Client(ClientError::Refused(reason)) => Failure::Refused(reason),
            StartError::Client(error) => Failure::Unreachable(with_causes(&error)),
            error => Failure::Unreachable(with_causes(&error)),
        };
        let (mut client, _) = start::connect(&location).map_err(unreachable)?;
        client.greet(GREETING).map_err(|error| unreachable(error.into()))?;
        match start::ask(&mut client, &location, request).map_err(unreachable)? {
            Reply::Done { warnings, .. } => {
                for warning in warnings {
                    output::warning(&warning);
                }
                Ok(())
            }
            _ => Err(Failure::Unreachable(client.unexpected().to_string())),
        }
    })
}

/// Runs `work`, and says what it waits for when that takes long.
fn telling_of_silence<T>(work: impl FnOnce() -> T) -> T {
    let (done, over) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if over.recv_timeout(SILENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                output::tool_error(super::TOOL, "waiting for an answer of the greway daemon");
            }
        });
        let result = work();
        drop(done);
        result
    })
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        if !text.ends_with(&next.to_string()) {
            text = format!("{text}: {next}");
        }
        cause = next.source();
    }
    text
}

/// Sets a device up or down.
///
/// # Errors
/// The kernel's words, or that it is gone.
pub(super) fn set_up(name: &DeviceName, up: bool) -> Result<(), String> {
    let netlink = Netlink::open().map_err(|error| error.to_string())?;
    let link = netlink.link_by_name(name.as_str()).map_err(|error| error.to_string())?;
    let link = link.ok_or_else(|| format!("{name} is gone"))?;
    let change = LinkChange { up: Some(up), ..LinkChange::default() };
    netlink.change_link(link.index, &change).map_err(|error| error.to_string())
}
