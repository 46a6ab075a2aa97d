//! Requests of the API, carried out one at a time.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard};

use greway_spec::{Draft, TunnelSpec};

use super::host::Host;
use super::{Ended, locked, report};
use crate::api::server::Handler;
use crate::api::{Hello, Reply, Request};

/// Answers the API.
pub(super) struct Answerer {
    host: Arc<Mutex<Host>>,
    stop: Mutex<Sender<Ended>>,
}

impl Answerer {
    pub(super) fn new(host: Arc<Mutex<Host>>, stop: Sender<Ended>) -> Self {
        Self { host, stop: Mutex::new(stop) }
    }

    /// The host, to change it. A daemon that is about to end would leave half of a change.
    fn changing(&self) -> Result<MutexGuard<'_, Host>, String> {
        let host = locked(&self.host);
        if host.ending {
            return Err("the daemon is ending, try again".to_owned());
        }
        Ok(host)
    }
}

impl Handler for Answerer {
    fn handle(&self, request: &Request) -> Result<Reply, String> {
        match request {
            Request::Hello => Ok(Reply::Hello(Hello {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
            })),
            Request::List => Ok(Reply::Tunnels(locked(&self.host).specs())),
            Request::Status { name, probe } => report::status(&self.host, name.as_ref(), *probe)
                .map(|status| Reply::Status(Box::new(status))),
            Request::Add { spec } => self.changing()?.add(valid(spec)?),
            Request::Change { spec } => self.changing()?.change(valid(spec)?),
            Request::Up { spec, dry_run } => self.changing()?.up(valid(spec)?, *dry_run),
            Request::UpAll { specs, more } => {
                Ok(self.changing()?.up_all(specs.iter().map(valid).collect(), *more))
            }
            Request::Claim { spec } => self.changing()?.claim(valid(spec)?),
            Request::Delete { name, dry_run } => self.changing()?.delete(name, *dry_run),
            Request::DeleteAll { names, more } => {
                Ok(Reply::Several(self.changing()?.delete_these(names, *more)))
            }
            Request::Stop { remove: true } => locked(&self.host).delete_all(),
            Request::Stop { remove: false } => Ok(locked(&self.host).leave()),
        }
    }

    /// The daemon ends only now, or the client that asked for it would wait for an answer in vain.
    fn answered(&self, request: &Request) {
        if matches!(request, Request::Stop { .. }) {
            let stop = self.stop.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // Nobody listens when the daemon ends already.
            let _ = stop.send(Ended::Asked);
        }
    }
}

/// A spec from outside was valid when it was made; this one may not have been made by us. And it may be
/// of a kind that the data planes do not carry.
fn valid(spec: &TunnelSpec) -> Result<TunnelSpec, String> {
    let spec = Draft::from(spec).into_spec().map_err(|error| error.to_string())?;
    spec.carried().map_err(|error| error.to_string())?;
    Ok(spec)
}
