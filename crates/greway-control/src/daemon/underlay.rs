//! The device that a tunnel is bound to (`dev`): deleted and made again it has another index, and the tunnel
//! follows it. A tunnel of an earlier daemon that found no such device waits for it.

use std::collections::HashSet;

use greway_spec::DeviceName;

use super::device::DeviceError;
use super::host::{Host, with_causes};

/// What is left of a tunnel that is not carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remains {
    /// Why it is not.
    pub(super) why: String,
    /// The device below that it waits for.
    pub(super) waits_for: Option<DeviceName>,
}

impl Remains {
    pub(super) fn because(why: String) -> Self {
        Self { why, waits_for: None }
    }
}

impl From<&DeviceError> for Remains {
    fn from(error: &DeviceError) -> Self {
        let waits_for = match error {
            DeviceError::NoUnderlay(dev) => Some(dev.clone()),
            _ => None,
        };
        Self { why: with_causes(error), waits_for }
    }
}

impl Host {
    /// The devices that tunnels are bound to, or wait for.
    pub(super) fn underlays(&self) -> HashSet<String> {
        let bound = self.tunnels.values().filter_map(|live| live.spec().dev.as_ref());
        let waited_for = self.remains.values().filter_map(|remains| remains.waits_for.as_ref());
        bound.chain(waited_for).map(ToString::to_string).collect()
    }

    /// A device came, changed or got another name: binds the tunnels whose `dev` has that name anew, and
    /// carries those that waited for it.
    pub(super) fn underlay_changed(&mut self, dev: &str) {
        let bound = |name: &DeviceName| name.as_str() == dev;
        let moved = self.tunnels.values().filter(|live| live.spec().dev.as_ref().is_some_and(bound));
        let moved = moved.map(|live| live.spec().clone()).collect::<Vec<_>>();
        for spec in moved {
            // Gone again already: its tunnels send nowhere until it is back.
            let Ok(bound_to) = self.bound_to(&spec) else { continue };
            let Some(live) = self.tunnels.get_mut(&spec.name).filter(|live| live.bound_to != bound_to) else {
                continue;
            };
            match self.datapath.change(&spec, bound_to) {
                Ok(()) => {
                    live.bound_to = bound_to;
                    tracing::info!(tunnel = %spec.name, dev, "the device below was made again: bound to it");
                }
                Err(error) => {
                    tracing::error!(tunnel = %spec.name, dev, error = %with_causes(&error), "cannot be bound again");
                }
            }
        }
        let waiting =
            self.remains.iter().filter(|(_, remains)| remains.waits_for.as_ref().is_some_and(bound));
        let waiting = waiting.map(|(name, _)| name.clone()).collect::<Vec<_>>();
        if !waiting.is_empty() {
            self.carry_waiting(&waiting);
        }
    }

    /// As if word had come of every device.
    pub(super) fn underlay_unknown(&mut self) {
        let waited_for = self.remains.values().filter_map(|remains| remains.waits_for.clone());
        let used = self.tunnels.values().filter_map(|live| live.spec().dev.clone());
        for dev in used.chain(waited_for).collect::<std::collections::BTreeSet<_>>() {
            self.underlay_changed(dev.as_str());
        }
    }

    fn carry_waiting(&mut self, names: &[DeviceName]) {
        let mut loaded = match self.store.load() {
            Ok(loaded) => loaded,
            Err(error) => return tracing::error!(%error, "the state directory cannot be read"),
        };
        for name in names {
            let Some(stored) = loaded.tunnels.remove(name) else { continue };
            match self.carry(stored, None) {
                Ok(()) => {
                    self.remains.remove(name);
                    tracing::info!(tunnel = %name, "the device below is there: carried again");
                }
                Err(error) => {
                    self.remains.insert(name.clone(), Remains::from(&error));
                }
            }
        }
    }
}
