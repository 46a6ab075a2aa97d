//! `greway nm watch`: adopts profiles as they come, and has the tunnels follow them.
//!
//! Every look takes the whole state – NetworkManager's profiles, what of them is active, the daemon's tunnels –
//! and does what is missing; signals only say when to look. So a restart of NetworkManager, of the daemon
//! or of the watcher itself needs nothing of its own, but for one thing: NetworkManager forgets over a restart
//! that a `veth` profile was active, and is reminded.
//!
//! It refuses to touch a profile on a kernel that brings it up by itself, one of another kind, and one whose
//! tunnel or device somebody else has already; each is told once in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use greway_control::api::{Reply, Request};
use greway_control::location::Location;
use greway_control::{daemon, start};
use greway_linux::event::{Events, Interest, Poller};
use greway_linux::process;
use greway_linux::signal::{Signal, Signals};
use greway_netlink::{Monitor, Netlink, Sources};
use greway_nm::{Active, Bus, Event, Held, NmError, Profile, Way};
use greway_spec::{DeviceName, TunnelSpec};

use super::pending::Announcements;
use super::policy::Policy;
use super::{adopt, tunnel, unmanaged};
use crate::sources;

/// A signal to end is felt within this time.
const GLANCE: Duration = Duration::from_millis(100);

/// How long NetworkManager may take to bring a profile up by itself before it is asked to.
const OWN_TIME: Duration = Duration::from_millis(700);

/// How long a device is on its way at most.
const ON_ITS_WAY: Duration = Duration::from_secs(10);

/// How long a tunnel may be without an active connection: NetworkManager takes the device away itself where it
/// made it, and brings it up again where somebody asked for that.
const GOING: Duration = Duration::from_millis(300);

/// What did not work is tried again after this time.
const AGAIN: Duration = Duration::from_secs(5);

/// What wakes the watcher.
#[derive(Debug)]
enum Input {
    Manager(Event),
    /// Links came, went or changed.
    Links,
}

/// Runs until a signal ends it.
///
/// # Errors
/// Where it cannot work: not root, no bus, another watcher.
pub(crate) fn run(location: &Location) -> anyhow::Result<ExitCode> {
    if process::effective_uid() != 0 {
        bail!("changing NetworkManager's profiles needs root: run the command with sudo");
    }
    // Before any thread is made, so that none takes a signal away.
    let signals = Signals::block(&[Signal::Terminate, Signal::Interrupt, Signal::HangUp])?;
    let pending = Announcements::open(location).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            anyhow::anyhow!("another `greway nm watch` runs in this network namespace")
        }
        _ => anyhow::Error::new(error).context("cannot make the place for announcements"),
    })?;
    let bus = Bus::connect()?;
    let (tell, inputs) = mpsc::channel();
    let tell_event = tell.clone();
    bus.follow(move |event| tell_event.send(Input::Manager(event)).is_ok())?;
    follow_links(tell).context("cannot follow the devices of this host")?;
    let mut watcher = Watcher {
        bus,
        location,
        pending,
        coming: BTreeMap::new(),
        pairs: BTreeMap::new(),
        active: BTreeSet::new(),
        going: BTreeMap::new(),
        forgotten: BTreeSet::new(),
        told: BTreeMap::new(),
        left_alone: None,
        again: None,
    };
    tracing::info!("watches NetworkManager's profiles");
    watcher.began();
    watcher.watch(&inputs, &signals)
}

fn follow_links(tell: Sender<Input>) -> anyhow::Result<()> {
    let monitor = Monitor::open(Sources::default())?;
    let poller = Poller::new()?;
    poller.add(&monitor, 0, Interest::Readable)?;
    let follow = move || {
        let mut events = Events::with_capacity(1);
        while poller.wait(&mut events, None).is_ok() {
            let links = monitor.drain().map_or(true, |happened| {
                happened.iter().any(|event| {
                    use greway_netlink::Event::{LinkChanged, LinkRemoved, Overrun};
                    matches!(event, LinkChanged { .. } | LinkRemoved { .. } | Overrun)
                })
            });
            if links && tell.send(Input::Links).is_err() {
                return;
            }
        }
        tracing::error!("the devices of this host are no longer followed");
    };
    thread::Builder::new().name("nm-links".into()).spawn(follow)?;
    Ok(())
}

/// A device that was announced.
struct Coming {
    uuid: String,
    since: Instant,
    /// NetworkManager was asked to bring it up.
    asked: bool,
}

struct Watcher<'a> {
    bus: Bus,
    location: &'a Location,
    pending: Announcements,
    coming: BTreeMap<String, Coming>,
    /// Tunnels for pairs that NetworkManager makes, by name.
    pairs: BTreeMap<String, TunnelSpec>,
    /// The profiles that were active at the last look.
    active: BTreeSet<String>,
    /// Since when profiles are down whose tunnels are still there.
    going: BTreeMap<String, Instant>,
    /// Profiles that NetworkManager may have forgotten to be active.
    forgotten: BTreeSet<String>,
    /// What was said of a profile, by uuid; said once.
    told: BTreeMap<String, String>,
    /// The devices that NetworkManager was last told to leave alone.
    left_alone: Option<BTreeSet<String>>,
    /// When something is to be tried again.
    again: Option<Instant>,
}

impl Watcher<'_> {
    fn watch(&mut self, inputs: &Receiver<Input>, signals: &Signals) -> anyhow::Result<ExitCode> {
        self.look();
        loop {
            let first = match inputs.recv_timeout(GLANCE) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => bail!("the system's D-Bus is gone"),
            };
            let mut look = false;
            for input in first.into_iter().chain(inputs.try_iter()) {
                match input {
                    Input::Manager(Event::BusGone) => bail!("the system's D-Bus is gone"),
                    // The shortest way to an announcement: somebody's next command waits for it.
                    Input::Manager(Event::Profile { path }) => {
                        self.announce(&path);
                        look = true;
                    }
                    Input::Manager(Event::Started) => {
                        self.began();
                        look = true;
                    }
                    Input::Manager(Event::Ended) => {
                        // What is not active because nobody is there to say so did not go down.
                        self.active.clear();
                        self.going.clear();
                        self.left_alone = None;
                    }
                    Input::Manager(Event::ProfileGone | Event::Activity) => look = true,
                    Input::Links => look = true,
                }
            }
            look |= self.again.is_some_and(|again| Instant::now() >= again) || !self.coming.is_empty();
            if look {
                self.look();
            }
            match signals.read()? {
                None | Some(Signal::HangUp) => {}
                Some(signal) => {
                    tracing::info!(?signal, "ends; profiles and tunnels stay as they are");
                    return Ok(ExitCode::SUCCESS);
                }
            }
        }
    }

    /// NetworkManager started, or we did: what is carried for its profiles was active before.
    fn began(&mut self) {
        let tunnels = adopt::tunnels(self.location).unwrap_or_default();
        self.forgotten = tunnels.iter().filter_map(|spec| adopt::uuid(spec)).map(str::to_owned).collect();
    }

    /// Announces the device of a profile that will be adopted.
    fn announce(&mut self, path: &str) {
        let Ok(profile) = self.bus.profile(path) else { return };
        // One that comes up when somebody says so is not on its way.
        if profile.held() == Some(Held::IpTunnel)
            && profile.autoconnect()
            && self.decide(&profile).is_ok_and(|policy| policy != Policy::Off)
            && let Some(name) = profile.interface()
        {
            self.pending.announce(name);
            let coming = Coming { uuid: profile.uuid().to_owned(), since: Instant::now(), asked: false };
            self.coming.insert(name.to_owned(), coming);
        }
    }

    /// What is to become of a profile of type ip-tunnel.
    fn decide(&self, profile: &Profile) -> anyhow::Result<Policy> {
        if !profile.is_gre() {
            return Ok(Policy::Off);
        }
        let policy = Policy::of(profile, Policy::of_host()?)?;
        if policy == Policy::Off {
            return Ok(policy);
        }
        let spec = tunnel::of(profile)?;
        if adopt::kernel_can(spec.mode) { Ok(Policy::Off) } else { Ok(policy) }
    }

    /// One look at everything.
    fn look(&mut self) {
        self.again = None;
        match self.look_once() {
            Ok(()) => {}
            Err(error) => {
                if !matches!(error.downcast_ref(), Some(NmError::NotRunning)) {
                    tracing::warn!(
                        error = crate::sentence(&error),
                        "this look failed, the next is in a moment"
                    );
                    self.again = Some(Instant::now() + AGAIN);
                }
            }
        }
        self.settle();
    }

    fn look_once(&mut self) -> anyhow::Result<()> {
        // In this order: a tunnel that was there before is to be active after.
        let mut tunnels = adopt::tunnels(self.location)?;
        let profiles = self.bus.profiles()?;
        let active = self.bus.active()?;
        self.pairs.clear();
        let mut shadows = BTreeSet::new();
        let adopted = profiles.iter().filter(|profile| matches!(profile.held(), Some(Held::Adopted(_))));
        let adopted =
            adopted.filter_map(|profile| profile.interface().map(str::to_owned)).collect::<BTreeSet<_>>();
        for profile in &profiles {
            let outcome = match profile.held() {
                None => continue,
                Some(Held::IpTunnel) => self.see(profile, &mut tunnels, &mut shadows, &adopted),
                Some(Held::Adopted(way)) => self.keep(profile, way, &active, &tunnels),
            };
            match outcome {
                Ok(()) => drop(self.told.remove(profile.uuid())),
                Err(error) => self.tell_once(profile, crate::sentence(&error)),
            }
        }
        self.remove_orphans(&profiles, &active, &tunnels, &shadows);
        self.active = active.iter().map(|active| active.uuid.clone()).collect();
        for coming in self.coming.values_mut() {
            let is_active = active.iter().any(|active| active.uuid == coming.uuid);
            let own_time_is_over = coming.since.elapsed() >= OWN_TIME;
            let profile = profiles.iter().find(|profile| profile.uuid() == coming.uuid);
            if let Some(profile) = profile.filter(|_| !is_active && own_time_is_over && !coming.asked)
                && profile.autoconnect()
                && matches!(profile.held(), Some(Held::Adopted(_)))
            {
                coming.asked = true;
                if let Err(error) = self.bus.activate(profile) {
                    tracing::warn!(%error, "an adopted profile does not come up");
                }
            }
        }
        self.leave_alone(&adopted, None);
        Ok(())
    }

    /// A profile as nmcli made it.
    fn see(
        &mut self,
        profile: &Profile,
        tunnels: &mut Vec<TunnelSpec>,
        shadows: &mut BTreeSet<String>,
        adopted: &BTreeSet<String>,
    ) -> anyhow::Result<()> {
        let policy = self.decide(profile)?;
        if policy == Policy::Off {
            return Ok(());
        }
        let name = tunnel::name(profile)?;
        let own = |spec: &&TunnelSpec| adopt::uuid(spec) == Some(profile.uuid());
        let carried = tunnels.iter().find(|spec| spec.name == name);
        if let Some(other) = carried.filter(|spec| !own(spec)) {
            bail!("{name} is a tunnel already, defined by {}: left alone", other.origin);
        }
        let asked_for = tunnel::of(profile)?;
        let others = tunnels.iter().filter(|other| other.name != name);
        if let Some(conflict) = others.filter_map(|other| asked_for.conflicts(other)).next() {
            bail!("{conflict}: left alone");
        }
        if carried.is_none() && Netlink::open()?.link_by_name(name.as_str())?.is_some() {
            bail!("{name} is a device already that somebody else made: left alone");
        }
        match policy {
            Policy::Shadow if profile.autoconnect() => {
                shadows.insert(profile.uuid().to_owned());
                let spec = tunnel::whole(profile)?;
                if carried != Some(&spec) {
                    if carried.is_none() {
                        // Before it is made: where no udev runs NetworkManager would bring a profile of its own up
                        // on it, and flush it when it is told afterwards.
                        self.leave_alone(adopted, Some(&spec.name));
                    }
                    self.ask(&Request::Up { spec: Box::new(spec), dry_run: false })?;
                    tracing::info!(device = %name, profile = profile.id(), "made for the profile, which stays as it is");
                }
                Ok(())
            }
            Policy::Shadow | Policy::Off => Ok(()),
            Policy::Adopt => {
                let way = super::way(self.bus.version()?);
                if carried.is_some() {
                    // It was a shadow until now; NetworkManager makes the device itself.
                    self.ask(&Request::Delete { name: name.clone(), dry_run: false })?;
                    tunnels.retain(|spec| spec.name != name);
                }
                if profile.autoconnect() {
                    self.pending.announce(name.as_str());
                    let coming =
                        Coming { uuid: profile.uuid().to_owned(), since: Instant::now(), asked: false };
                    self.coming.insert(name.to_string(), coming);
                }
                adopt::adopt(&self.bus, profile.clone(), way)?;
                tracing::info!(profile = profile.id(), device = %name, now = way.word(), "adopted");
                if way == Way::Pair {
                    self.pairs.insert(name.to_string(), asked_for);
                    // 1.42 does not try a profile again that has just failed as an ip-tunnel. Where this fails
                    // it is asked again after a while.
                    if profile.autoconnect()
                        && let Err(error) = self.bus.activate(profile)
                    {
                        tracing::debug!(%error, "not yet");
                    }
                }
                Ok(())
            }
        }
    }

    /// A profile that was adopted: its tunnel is as it says, as long as its device is there.
    fn keep(
        &mut self,
        profile: &Profile,
        way: Way,
        active: &[Active],
        tunnels: &[TunnelSpec],
    ) -> anyhow::Result<()> {
        if way == Way::Handler && profile.properties()?.is_empty() {
            // The handler finds its tunnel in greway's own files, which are not the watcher's business.
            return Ok(());
        }
        let spec = tunnel::of(profile)?;
        let name = spec.name.clone();
        let is_active = active.iter().any(|active| active.uuid == profile.uuid());
        if self.forgotten.remove(profile.uuid()) && !is_active && profile.autoconnect() && way == Way::Pair {
            tracing::info!(profile = profile.id(), "is brought up again: NetworkManager forgot that it was");
            self.bus.activate(profile)?;
        }
        match tunnels.iter().find(|carried| carried.name == name) {
            Some(carried) if *carried == spec => {}
            Some(carried) if adopt::uuid(carried) != Some(profile.uuid()) => {
                bail!("{name} is a tunnel already, defined by {}", carried.origin);
            }
            Some(_) => {
                self.ask(&Request::Up { spec: Box::new(spec.clone()), dry_run: false })?;
                tracing::info!(profile = profile.id(), device = %name, "changed as its profile was");
            }
            None => {
                let up = active.iter().find(|active| active.activated && active.uuid == profile.uuid());
                if let Some(up) = up.filter(|_| way == Way::Handler)
                    && Netlink::open()?.link_by_name(name.as_str())?.is_none()
                {
                    // 1.52 does not notice (`ip link del`), and would call it connected for ever.
                    tracing::info!(profile = profile.id(), device = %name, "taken down: its device was deleted");
                    self.bus.deactivate(up)?;
                }
            }
        }
        if way == Way::Pair {
            self.pairs.insert(name.to_string(), spec);
            self.claim(&name, tunnels.iter().any(|carried| carried.name == name))?;
        }
        Ok(())
    }

    /// Takes a pair over that NetworkManager made.
    fn claim(&self, name: &DeviceName, carried: bool) -> anyhow::Result<()> {
        let Some(spec) = self.pairs.get(name.as_str()).filter(|_| !carried).cloned() else { return Ok(()) };
        if Netlink::open()?.link_by_name(name.as_str())?.is_none() {
            return Ok(());
        }
        self.ask(&Request::Claim { spec: Box::new(spec) })?;
        tracing::info!(device = %name, "carried");
        Ok(())
    }

    /// Removes the tunnels of profiles that are gone, went down, or are no shadows any more.
    fn remove_orphans(
        &mut self,
        profiles: &[Profile],
        active: &[Active],
        tunnels: &[TunnelSpec],
        shadows: &BTreeSet<String>,
    ) {
        for spec in tunnels {
            let Some(uuid) = adopt::uuid(spec) else { continue };
            let held = profiles.iter().find(|profile| profile.uuid() == uuid).map(Profile::held);
            let stays = match held {
                Some(Some(Held::Adopted(_))) => !self.went_down(uuid, active),
                Some(Some(Held::IpTunnel)) => shadows.contains(uuid),
                Some(None) | None => false,
            };
            if stays {
                continue;
            }
            match self.ask(&Request::Delete { name: spec.name.clone(), dry_run: false }) {
                Ok(()) => tracing::info!(device = %spec.name, "removed with its profile's end"),
                // NetworkManager may have deleted the device meanwhile, and the daemon its tunnel.
                Err(error) => {
                    tracing::debug!(device = %spec.name, error = crate::sentence(&error), "not removed")
                }
            }
        }
    }

    /// Whether a profile that was up is down for good.
    fn went_down(&mut self, uuid: &str, active: &[Active]) -> bool {
        let was_active = self.active.contains(uuid) || self.going.contains_key(uuid);
        if !was_active || active.iter().any(|active| active.uuid == uuid) {
            // One that was never seen active is on its way up.
            self.going.remove(uuid);
            return false;
        }
        let since = *self.going.entry(uuid.to_owned()).or_insert_with(Instant::now);
        let for_good = since.elapsed() >= GOING;
        if for_good {
            self.going.remove(uuid);
        } else {
            self.again = Some(since + GOING);
        }
        for_good
    }

    /// Has NetworkManager leave the other tunnels alone, and one that is about to be made.
    fn leave_alone(&mut self, adopted: &BTreeSet<String>, coming: Option<&DeviceName>) {
        let Ok(tunnels) = adopt::tunnels(self.location) else { return };
        // Those of greway's own files before they are made: where no udev runs, NetworkManager is quick.
        let defined =
            sources::all().into_iter().filter_map(|defined| defined.name.parse::<DeviceName>().ok());
        let names = tunnels.iter().map(|spec| spec.name.clone()).chain(defined).chain(coming.cloned());
        let others = names.filter(|name| !adopted.contains(name.as_str()));
        let devices = others.flat_map(|name| [name.to_string(), daemon::peer_name(&name)]);
        let devices = devices.collect::<BTreeSet<_>>();
        if self.left_alone.as_ref() != Some(&devices) {
            unmanaged::tell(&self.bus, &devices);
            self.left_alone = Some(devices);
        }
    }

    /// Ends announcements of devices that are there, or will not be.
    fn settle(&mut self) {
        let active = if self.coming.is_empty() { Vec::new() } else { self.bus.active().unwrap_or_default() };
        let tunnels = if self.coming.is_empty() {
            Vec::new()
        } else {
            adopt::tunnels(self.location).unwrap_or_default()
        };
        let pending = &self.pending;
        let told = &self.told;
        self.coming.retain(|name, coming| {
            let activated = active.iter().any(|active| active.uuid == coming.uuid && active.activated);
            let carried = tunnels.iter().find(|spec| spec.name.as_str() == name);
            // A shadow has its addresses when the daemon has answered.
            let shadow = carried.is_some_and(|spec| !spec.inner.addresses.is_empty());
            let settled = activated && carried.is_some()
                || shadow
                || told.contains_key(&coming.uuid)
                || coming.since.elapsed() >= ON_ITS_WAY;
            if settled {
                pending.settle(name);
            }
            !settled
        });
    }

    fn tell_once(&mut self, profile: &Profile, text: String) {
        if self.told.get(profile.uuid()) != Some(&text) {
            tracing::warn!(profile = profile.id(), "{text}");
            self.told.insert(profile.uuid().to_owned(), text);
        }
        self.again = Some(Instant::now() + AGAIN);
    }

    fn ask(&self, request: &Request) -> anyhow::Result<()> {
        let (mut client, _) = start::connect(self.location)?;
        match start::ask(&mut client, self.location, request)? {
            Reply::Done { warnings, .. } => {
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                Ok(())
            }
            _ => Err(client.unexpected().into()),
        }
    }
}
