//! What other threads ask of the worker.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use greway_engine::{TunnelCounters, UnderlaySnapshot, UnmatchedEntry};
use greway_spec::{DeviceName, TunnelSpec};

use crate::exit::Exit;
use crate::handle::DatapathError;
use crate::icmp::IcmpReport;
use crate::local::LocalAddresses;
use crate::overlay::Tap;
use crate::port::PortSpec;
use crate::reverse_path::ReversePaths;
use crate::underlay::Receive;
use crate::witness::{Attempt, Recogniser, Through};

/// A request, with the way back for its answer.
pub(crate) enum Command {
    Add {
        port: Box<PortSpec>,
        counters: Arc<TunnelCounters>,
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
        done: SyncSender<()>,
    },
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
    LocalAddresses(LocalAddresses),
    ReversePaths(ReversePaths),
    Forwards(bool),
    Answer(bool),
    Icmp {
        done: SyncSender<IcmpReport>,
    },
    Strangers {
        done: SyncSender<(Vec<UnmatchedEntry>, UnderlaySnapshot)>,
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
