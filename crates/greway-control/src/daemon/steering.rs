//! `[daemon] steer`: the received packets of a tunnel spread over CPUs by the flow inside.
//!
//! Outside, a tunnel is one pair of addresses: a network card has one receive queue for all of it, and one CPU takes
//! its headers off. With `steer = "rps"` the kernel's receive packet steering is turned on at the devices that the
//! ways to the remotes lead by. It reads through GRE, plain and keyed, and keeps the order within a flow.
//!
//! It is a setting of the host's own devices, so it is not touched unless a file says so; what somebody else has set
//! is left as it is, also when they set it later; and what we set is written down before, so that it is taken back
//! however the daemon ended: when it is switched off, with the last tunnel there, by `daemon --stop`. Only queues
//! that had no CPUs get some, so what was there before is always the same: none.
//!
//! Between flows the order is lost. A tunnel that wants sequence numbers (`iseq`) would drop what comes late, so no
//! device is steered that such a tunnel receives by.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use greway_netlink::{Link, Netlink};
use serde::{Deserialize, Serialize};

use super::arrival::{self, Arrival};
use super::host::Host;
use crate::rps::{Cpus, Sysfs};
use crate::status;
use crate::store;

/// Whether received packets are spread over CPUs, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Steer {
    /// Not by us.
    #[default]
    Off,
    /// By receive packet steering of the devices below.
    Rps,
}

/// A receive queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Queue {
    /// Index of the device.
    device: u32,
    name: String,
}

/// A queue that is ours, as it is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    index: u32,
    queue: String,
    /// The mask that was written, or is about to be.
    cpus: String,
    settled: bool,
}

/// What we set a queue to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Set {
    cpus: Cpus,
    /// It was read back. Before, the kernel may have left out CPUs that are kept from such work, or nothing may have
    /// been written at all.
    settled: bool,
}

impl Set {
    /// Whether what is there now is what we set.
    fn is(&self, now: &Cpus) -> bool {
        if self.settled { *now == self.cpus } else { !now.is_empty() && now.is_subset(&self.cpus) }
    }
}

/// What is steered.
#[derive(Debug)]
pub(super) struct Steering {
    pub(super) how: Steer,
    file: PathBuf,
    sysfs: Option<Sysfs>,
    /// The queues that we set, and to what.
    ours: BTreeMap<Queue, Set>,
    /// Queues that were ours and that somebody has changed since.
    theirs: BTreeSet<Queue>,
    /// What keeps devices from being steered; sentences.
    pub(super) troubles: Vec<String>,
    report: Vec<status::SteeredDevice>,
}

impl Steering {
    /// With what an earlier daemon wrote down in the state directory.
    pub(super) fn new(state: &Path) -> Self {
        let file = state.join("steering");
        let ours = match read(&file) {
            Ok(ours) => ours,
            Err(error) => {
                tracing::error!(path = %file.display(), %error, "which receive queues are steered cannot be read");
                BTreeMap::new()
            }
        };
        Self {
            how: Steer::Off,
            file,
            sysfs: None,
            ours,
            theirs: BTreeSet::new(),
            troubles: Vec::new(),
            report: Vec::new(),
        }
    }

    /// Nothing is steered, and nothing is to be.
    fn is_idle(&self) -> bool {
        self.how == Steer::Off && self.ours.is_empty() && self.troubles.is_empty()
    }

    /// What `status` shows; nothing while it is off.
    pub(super) fn report(&self) -> Option<status::Steering> {
        (self.how == Steer::Rps)
            .then(|| status::Steering { how: "rps".to_owned(), devices: self.report.clone() })
    }

    /// Steers these devices and no others. `links` are all there are, and `troubles` what is known to be in the way.
    fn follow(
        &mut self,
        netlink: &Netlink,
        links: &[Link],
        devices: &BTreeSet<u32>,
        mut troubles: Vec<String>,
    ) {
        self.report.clear();
        if devices.is_empty() && self.ours.is_empty() {
            return self.tell(troubles);
        }
        // One that does not show a device (any more) is found anew at the next look, if it is not the device that went.
        let sysfs = match self.sysfs.take().map_or_else(|| Sysfs::of_this_namespace(netlink), Ok) {
            Ok(sysfs) => sysfs,
            Err(why) => {
                troubles.push(format!("steer = \"rps\": {why}"));
                return self.tell(troubles);
            }
        };
        let before = self.ours.clone();
        let others = self.ours.keys().filter(|queue| !devices.contains(&queue.device)).cloned();
        for queue in others.collect::<Vec<_>>() {
            self.give_back(&sysfs, links, &queue, &mut troubles);
        }
        match sysfs.online() {
            Ok(online) if online.count() < 2 => {
                if !devices.is_empty() {
                    troubles.push(
                        "steer = \"rps\": this host has one CPU, so there is nothing to spread over"
                            .to_owned(),
                    );
                }
            }
            Ok(online) => {
                for link in links.iter().filter(|link| devices.contains(&link.index)) {
                    if let Err(why) = self.steer(&sysfs, link, &online) {
                        let part = self.report.last().is_some_and(|steered| steered.device == link.name);
                        let how = if part { "steered in part only" } else { "not steered" };
                        troubles.push(format!("{} is {how}: {why}", link.name));
                    }
                }
            }
            Err(error) => {
                troubles.push(format!("steer = \"rps\": which CPUs there are cannot be read: {error}"))
            }
        }
        if self.ours != before
            && let Err(error) = self.write_down()
        {
            troubles.push(format!("{} cannot be written: {error}", self.file.display()));
        }
        let mut used = links.iter().filter(|link| devices.contains(&link.index));
        self.sysfs = used.all(|link| sysfs.shows(link)).then_some(sysfs);
        self.tell(troubles);
    }

    /// Steers a device, or says why not, or not wholly.
    fn steer(&mut self, sysfs: &Sysfs, link: &Link, online: &Cpus) -> Result<(), String> {
        let named = |queue: &Queue| format!("queues/{}/rps_cpus", queue.name);
        if !sysfs.shows(link) {
            // Renamed or deleted since it was listed; the kernel tells of that.
            return Ok(());
        }
        let queues =
            sysfs.queues(&link.name).map_err(|error| format!("its queues cannot be read: {error}"))?;
        let (mut wanted, mut steered, mut foreign) = (Vec::new(), Vec::new(), None);
        for name in queues {
            let queue = Queue { device: link.index, name };
            let now = sysfs
                .rps(&link.name, &queue.name)
                .map_err(|error| format!("{} cannot be read: {error}", named(&queue)))?;
            match self.ours.get(&queue) {
                Some(ours) if ours.is(&now) => {
                    self.ours.insert(queue, Set { cpus: now.clone(), settled: true });
                    steered.push(now);
                }
                // An earlier daemon came no further than to write it down.
                Some(ours) if !ours.settled && now.is_empty() => wanted.push(queue),
                Some(_) => {
                    self.ours.remove(&queue);
                    self.theirs.insert(queue.clone());
                    foreign = Some(format!("{} was changed to {}", named(&queue), words(&now)));
                }
                None if self.theirs.contains(&queue) => {
                    foreign = Some(format!("{} was changed to {}", named(&queue), words(&now)));
                }
                None if now.is_empty() => wanted.push(queue),
                None => foreign = Some(format!("{} is set to {} already", named(&queue), words(&now))),
            }
        }
        let outcome = self.take(sysfs, link, wanted, online, &mut steered);
        if let Some(cpus) = steered.first() {
            self.report.push(status::SteeredDevice {
                device: link.name.clone(),
                queues: u32::try_from(steered.len()).unwrap_or(u32::MAX),
                cpus: cpus.to_string(),
            });
        }
        outcome?;
        foreign.map_or(Ok(()), |what| Err(format!("{what} by somebody else, which stays")))
    }

    /// Sets queues that have no CPUs, each written down before.
    fn take(
        &mut self,
        sysfs: &Sysfs,
        link: &Link,
        queues: Vec<Queue>,
        online: &Cpus,
        steered: &mut Vec<Cpus>,
    ) -> Result<(), String> {
        if queues.is_empty() {
            return Ok(());
        }
        self.ours
            .extend(queues.iter().map(|queue| (queue.clone(), Set { cpus: online.clone(), settled: false })));
        if let Err(error) = self.write_down() {
            queues.iter().for_each(|queue| drop(self.ours.remove(queue)));
            return Err(format!("it cannot be written down in {}: {error}", self.file.display()));
        }
        let mut outcome = Ok(());
        for queue in queues {
            let set = sysfs.set_rps(&link.name, &queue.name, online);
            match set.and_then(|()| sysfs.rps(&link.name, &queue.name)) {
                Ok(cpus) => {
                    tracing::info!(device = %link.name, queue = queue.name, %cpus, "received packets are steered");
                    self.ours.insert(queue, Set { cpus: cpus.clone(), settled: true });
                    steered.push(cpus);
                }
                Err(error) => {
                    self.ours.remove(&queue);
                    outcome = Err(refusal(&queue, &error));
                }
            }
        }
        outcome
    }

    /// Takes back what we set, unless somebody has set something else since.
    fn give_back(&mut self, sysfs: &Sysfs, links: &[Link], queue: &Queue, troubles: &mut Vec<String>) {
        let Some(ours) = self.ours.remove(queue) else { return };
        // With its device went its queues.
        let Some(link) = links.iter().find(|link| link.index == queue.device) else { return };
        if !sysfs.shows(link) {
            // Renamed since it was listed: at the next look.
            self.ours.insert(queue.clone(), ours);
            return;
        }
        match sysfs.rps(&link.name, &queue.name) {
            Ok(now) if ours.is(&now) => {}
            // Somebody else's by now, or the queue is gone.
            _ => return,
        }
        match sysfs.set_rps(&link.name, &queue.name, &Cpus::default()) {
            Ok(()) => {
                tracing::info!(device = %link.name, queue = queue.name, "received packets are steered no more")
            }
            Err(error) => {
                troubles.push(format!("{} stays steered: {}", link.name, refusal(queue, &error)));
                self.ours.insert(queue.clone(), ours);
            }
        }
    }

    fn write_down(&self) -> io::Result<()> {
        if self.ours.is_empty() {
            return match fs::remove_file(&self.file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let kept = self.ours.iter().map(|(queue, set)| Kept {
            index: queue.device,
            queue: queue.name.clone(),
            cpus: set.cpus.mask(),
            settled: set.settled,
        });
        let bytes = serde_json::to_vec_pretty(&kept.collect::<Vec<_>>()).map_err(io::Error::other)?;
        store::replace(&self.file, &bytes)
    }

    /// Keeps what is in the way for `status`; the log has it once.
    fn tell(&mut self, troubles: Vec<String>) {
        for trouble in troubles.iter().filter(|trouble| !self.troubles.contains(trouble)) {
            tracing::warn!("{trouble}");
        }
        self.troubles = troubles;
    }
}

impl Host {
    /// Routes, devices or tunnels changed, or it is time to look: steers where packets of tunnels come in now.
    pub(super) fn look_at_steering(&mut self) {
        if self.steering.is_idle() {
            return;
        }
        let links = match self.netlink.links() {
            Ok(links) => links,
            Err(error) => return tracing::warn!(%error, "the devices of this host cannot be read"),
        };
        let mut arrival = Arrival::default();
        if self.steering.how == Steer::Rps {
            arrival = arrival::read(&self.netlink, &links, &self.tunnels);
        }
        self.steering.follow(&self.netlink, &links, &arrival.devices, arrival.troubles);
    }

    /// No tunnel is left, and the daemon ends: what cannot be taken back is told, and no more ours.
    pub(super) fn stop_steering(&mut self) -> Vec<String> {
        self.look_at_steering();
        if self.steering.ours.is_empty() {
            return Vec::new();
        }
        self.steering.ours.clear();
        let mut left = std::mem::take(&mut self.steering.troubles);
        if let Err(error) = self.steering.write_down() {
            left.push(format!("{} cannot be removed: {error}", self.steering.file.display()));
        }
        left
    }
}

fn read(file: &Path) -> io::Result<BTreeMap<Queue, Set>> {
    let bytes = match fs::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        outcome => outcome?,
    };
    let kept: Vec<Kept> = serde_json::from_slice(&bytes)?;
    let entry = |Kept { index, queue, cpus, settled }: Kept| {
        let cpus = Cpus::parse_mask(&cpus).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        // It becomes part of a path.
        let number = queue.strip_prefix("rx-").and_then(|number| number.parse::<u32>().ok());
        let number = number.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok((Queue { device: index, name: format!("rx-{number}") }, Set { cpus, settled }))
    };
    kept.into_iter().map(entry).collect()
}

fn words(cpus: &Cpus) -> String {
    if cpus.is_empty() { "none".to_owned() } else { format!("CPUs {cpus}") }
}

fn refusal(queue: &Queue, error: &io::Error) -> String {
    let file = format!("queues/{}/rps_cpus", queue.name);
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => format!("{file} cannot be written: /sys is read-only here"),
        io::ErrorKind::PermissionDenied => {
            format!("{file} cannot be written: {error} (it takes CAP_NET_ADMIN on the host itself)")
        }
        _ => format!("{file} cannot be written: {error}"),
    }
}
