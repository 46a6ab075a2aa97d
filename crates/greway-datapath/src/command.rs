//! What other threads ask of the data plane. The lead hears it, and tells its helpers what concerns them
//! ([`crate::crew::Order`]).

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use greway_spec::{DeviceName, TunnelSpec};

use crate::crew::Seen;
use crate::exit::{Exit, Injection};
use crate::handle::DatapathError;
use crate::icmp::IcmpReport;
use crate::local::LocalAddresses;
use crate::overlay::Tap;
use crate::port::{PortSpec, Traffic};
use crate::reverse_path::ReversePaths;
use crate::underlay::Receive;
use crate::witness::{Attempt, Recogniser, Through};

/// A request, with the way back for its answer.
pub(crate) enum Command {
    Add {
        port: Box<PortSpec>,
        traffic: Traffic,
        done: Answer<()>,
    },
    Change {
        spec: Box<TunnelSpec>,
        bound_to: Option<u32>,
        done: Answer<()>,
    },
    Remove {
        name: DeviceName,
        done: Answer<()>,
    },
    RemoveThese {
        names: Vec<DeviceName>,
        done: Answer<()>,
    },
    /// Receiving sockets that no tunnel needs any more are closed.
    CloseUnused,
    Receive {
        name: DeviceName,
        way: Receive,
        done: Answer<()>,
    },
    Tap {
        name: DeviceName,
        tap: Tap,
        done: Answer<()>,
    },
    Mtu {
        name: DeviceName,
        mtu: u32,
    },
    Exit {
        name: DeviceName,
        exit: Option<Exit>,
    },
    Inject(Option<Arc<Injection>>),
    LocalAddresses(Arc<LocalAddresses>),
    ReversePaths(Arc<ReversePaths>),
    Forwards(bool),
    Answer(bool),
    Icmp {
        done: SyncSender<IcmpReport>,
    },
    Strangers {
        done: SyncSender<Vec<Seen>>,
    },
    /// Shown all that arrives; `None`: nobody is.
    Recognise(Option<Recogniser>),
    BetweenPackets {
        name: DeviceName,
        through: Through,
        attempt: Attempt,
        done: Answer<()>,
    },
    Stop,
}

pub(crate) type Answer<T> = SyncSender<Result<T, DatapathError>>;
