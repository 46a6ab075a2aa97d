//! The local API: what a client may ask of the daemon.
//!
//! Varlink's framing on a unix stream socket: one JSON object a message, ended by a NUL byte.
//! A client sends `{"method": "io.greway.NAME", "parameters": {…}}` and gets either
//! `{"parameters": {…}}` or `{"error": "io.greway.Refused", "parameters": {"message": …}}`.
//! Reading is for everyone, changing for root and for the daemon's own user (see [`server`]).

mod admission;
pub mod client;
pub mod codec;
pub mod server;

use greway_spec::{DeviceName, TunnelSpec};
use serde::{Deserialize, Serialize};

use crate::status::Status;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", content = "parameters")]
pub enum Request {
    /// Who is there?
    #[serde(rename = "io.greway.Hello")]
    Hello,
    /// The specs of all tunnels.
    #[serde(rename = "io.greway.List")]
    List,
    /// State, counters and verdicts.
    #[serde(rename = "io.greway.Status")]
    Status {
        /// One tunnel only.
        name: Option<DeviceName>,
        /// Send one echo to each inner peer and wait for the answer.
        probe: bool,
    },
    /// Make a tunnel that must not exist yet.
    #[serde(rename = "io.greway.Add")]
    Add {
        /// What to make.
        spec: Box<TunnelSpec>,
    },
    /// Change a tunnel that exists.
    #[serde(rename = "io.greway.Change")]
    Change {
        /// What it should become.
        spec: Box<TunnelSpec>,
    },
    /// Bring a tunnel to what `spec` says, whatever is there now.
    #[serde(rename = "io.greway.Up")]
    Up {
        /// What it should be.
        spec: Box<TunnelSpec>,
        /// Only say what would be done.
        #[serde(default)]
        dry_run: bool,
    },
    /// Bring several tunnels to what their specs say, each by itself: one that fails leaves the others as they are.
    #[serde(rename = "io.greway.UpAll")]
    UpAll {
        /// What they should be.
        specs: Vec<TunnelSpec>,
        /// Others follow at once: that devices pass packets is waited for with the last of them.
        #[serde(default)]
        more: bool,
    },
    /// Carry a tunnel by a veth pair that somebody else made under its names.
    #[serde(rename = "io.greway.Claim")]
    Claim {
        /// What to carry.
        spec: Box<TunnelSpec>,
    },
    /// Remove a tunnel and all that belongs to it.
    #[serde(rename = "io.greway.Delete")]
    Delete {
        /// Which.
        name: DeviceName,
        /// Only say what would be done.
        #[serde(default)]
        dry_run: bool,
    },
    /// Remove several tunnels, each by itself.
    #[serde(rename = "io.greway.DeleteAll")]
    DeleteAll {
        /// Which.
        names: Vec<DeviceName>,
        /// Others follow at once, or the same come again: what concerns all tunnels is looked at with the last of them.
        #[serde(default)]
        more: bool,
    },
    /// End the daemon; with `remove` take all tunnels down first.
    #[serde(rename = "io.greway.Stop")]
    Stop {
        /// Remove the tunnels, as `greway daemon --stop` does.
        remove: bool,
    },
}

impl Request {
    /// Whether the request only reads.
    pub fn is_read_only(&self) -> bool {
        match self {
            Self::Hello | Self::List | Self::Status { .. } => true,
            Self::Up { dry_run, .. } | Self::Delete { dry_run, .. } => *dry_run,
            Self::Add { .. }
            | Self::Change { .. }
            | Self::UpAll { .. }
            | Self::Claim { .. }
            | Self::DeleteAll { .. }
            | Self::Stop { .. } => false,
        }
    }
}

/// What comes back when a request succeeded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Hello`].
    Hello(Hello),
    /// To [`Request::List`].
    Tunnels(Vec<TunnelSpec>),
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To a request that changes several tunnels: what became of each, in their order.
    Several(Vec<Outcome>),
    /// To a request that changes: what was done, a line an action, and what the user should know.
    Done {
        /// One line an action that was carried out.
        actions: Vec<String>,
        /// What works, but perhaps not as meant.
        warnings: Vec<String>,
    },
}

/// What became of one of several tunnels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is as it was asked for.
    Done {
        /// One line an action that was carried out.
        actions: Vec<String>,
        /// What works, but perhaps not as meant.
        warnings: Vec<String>,
    },
    /// It is as it was before; a sentence for people says why.
    Failed(String),
}

impl Outcome {
    pub(crate) fn done(actions: Vec<String>, warnings: Vec<String>) -> Self {
        Self::Done { actions, warnings }
    }
}

/// The daemon's answer to a greeting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the daemon's binary.
    pub version: String,
    /// Its process.
    pub pid: u32,
}
