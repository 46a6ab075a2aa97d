//! The loaded programs and what they are attached to.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{
        ProgramError, SchedClassifier,
        links::{FdLink, LinkError, PinnedLink},
    },
};
use greway_ebpf_abi::{MAPS, Point};

use crate::{
    bpffs,
    error::{FastpathError, verdict, words},
    link::{self, Held, Wanted},
    netns::Device,
    object::OBJECT,
    pins::{LinkPin, Pins},
    remove,
    table::Table,
};

/// How to load and attach. The default is what a daemon wants.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where attachments are kept for the next process, if anywhere.
    pub pins: PinPolicy,
    /// Which of the kernel's two ways to attach may be used.
    pub hook: HookChoice,
    /// The priority of clsact filters; a lower one runs earlier. The default, 60000, is behind those that the
    /// kernel gives to filters without one (49152 and down).
    pub clsact_priority: u16,
    /// Another ELF object in the place of the embedded one: one just built, or a test's.
    pub object: Option<Cow<'static, [u8]>>,
    /// How many of the flags that newer kernels have for decapsulating are tried, 2 at most; the programs find out
    /// which are there. Fewer make them do as on an older kernel, for tests.
    pub decap_flags: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pins: PinPolicy::default(),
            hook: HookChoice::default(),
            clsact_priority: CLSACT_PRIORITY,
            object: None,
            decap_flags: DECAP_FLAGS,
        }
    }
}

/// Where pins go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PinPolicy {
    /// To /sys/fs/bpf when that is a bpffs, and the one that PID 1 sees there, otherwise nowhere.
    #[default]
    Auto,
    /// Nowhere: attachments end with the [`Fastpath`].
    Never,
    /// To this bpffs, whoever's mount namespace it is in; if it is none, nowhere.
    At(PathBuf),
}

/// Which way to attach may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HookChoice {
    /// tcx, and clsact where the kernel refuses tcx.
    #[default]
    Auto,
    /// tcx or an error.
    Tcx,
    /// clsact, which needs no pin to outlive the process, and tcx where the kernel refuses clsact. What
    /// [`Self::Auto`] means where pins would not last.
    ClsactFirst,
    /// A clsact qdisc and a filter, or an error.
    Clsact,
}

/// The way a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A BPF link at tcx ingress (Linux 6.6).
    Tcx,
    /// A filter at the ingress of a clsact qdisc (Linux 4.5).
    Clsact,
}

impl Hook {
    /// The word for it in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Whether attachments outlive the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pinning {
    /// They do: links and counters are pinned in this folder, filters stay.
    Lasting(PathBuf),
    /// They do not, for the reason in the sentence.
    Process(String),
}

/// A program on a device, as a plain record; [`Fastpath`] keeps what holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The device's name when it was attached.
    pub device: String,
    /// The device's index in this network namespace.
    pub index: u32,
    /// Which program.
    pub point: Point,
    /// Which way.
    pub hook: Hook,
    /// Found from an earlier process, not attached by this one.
    pub adopted: bool,
}

/// What [`Fastpath::adopt`] found.
#[derive(Debug, Default)]
pub struct Adopted {
    /// Attachments of an earlier process, now ours.
    pub attachments: Vec<Attachment>,
    /// Pins whose device is gone, removed.
    pub gone: Vec<PathBuf>,
    /// What could neither be adopted nor removed.
    pub errors: Vec<FastpathError>,
}

/// The programs, loaded into the kernel, in one network namespace.
///
/// With [`PinPolicy::Never`] dropping it takes all its programs off their devices; otherwise only links without a pin
/// end with it, and filters and pinned links go on.
#[derive(Debug)]
pub struct Fastpath {
    pub(crate) bpf: Ebpf,
    held: BTreeMap<(u32, Point), (Attachment, Held)>,
    pins: Option<Pins>,
    pinning: Pinning,
    wanted: Wanted,
}

impl Fastpath {
    /// Loads the programs for the calling thread's network namespace, with the default [`Options`].
    ///
    /// # Errors
    /// As [`Self::load_with`].
    pub fn load() -> Result<Self, FastpathError> {
        Self::load_with(&Options::default())
    }

    /// Loads the programs for the calling thread's network namespace, and attaches nothing.
    ///
    /// Where pins are used, the counters go on from those of an earlier process.
    ///
    /// # Errors
    /// [`FastpathError::Load`] when the kernel refuses the programs or the map, [`FastpathError::Pin`] when
    /// the folder for the pins cannot be made.
    pub fn load_with(options: &Options) -> Result<Self, FastpathError> {
        let (pins, pinning) = match bpffs_for(&options.pins) {
            Ok(root) => {
                let pins = Pins::of_this_namespace(&root)?;
                pins.create_folder()?;
                let folder = pins.folder().to_owned();
                (Some(pins), Pinning::Lasting(folder))
            }
            Err(reason) => (None, Pinning::Process(reason)),
        };
        let object = options.object.as_deref().unwrap_or(OBJECT);
        let loaded = load_object(object, pins.as_ref(), options.decap_flags);
        match loaded {
            Ok(bpf) => {
                // Without pins a link ends with us and a filter does not (T9).
                let lasting = pins.is_some() || options.pins != PinPolicy::Never;
                let hook = match options.hook {
                    HookChoice::Auto if lasting && pins.is_none() => HookChoice::ClsactFirst,
                    hook => hook,
                };
                let wanted = Wanted { hook, priority: options.clsact_priority, lasting };
                Ok(Self { bpf, held: BTreeMap::new(), pins, pinning, wanted })
            }
            Err(kernel) => {
                if let Some(pins) = pins
                    && pins.links().is_ok_and(|links| links.is_empty())
                    && let Err(error) = pins.remove_folder()
                {
                    tracing::warn!(%error, "a folder of ours stays behind");
                }
                Err(FastpathError::Load { kernel })
            }
        }
    }

    /// Do attachments outlive this process, and if not, why not?
    pub fn pinning(&self) -> &Pinning {
        &self.pinning
    }

    /// What is attached now, lowest device index first.
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.held.values().map(|(attachment, _held)| attachment)
    }

    /// Puts the program of `point` at tc ingress, or where it belongs there egress, of the device called `device`, behind
    /// what is there.
    ///
    /// A link that an earlier process has pinned for it is adopted instead.
    ///
    /// # Errors
    /// [`FastpathError::Device`], [`FastpathError::AlreadyAttached`], [`FastpathError::Attach`], or
    /// [`FastpathError::Pin`] when the link could not be kept; nothing is attached then.
    pub fn attach(&mut self, device: &str, point: Point) -> Result<Attachment, FastpathError> {
        let device = Device::named(device)?;
        let key = (device.index, point);
        if self.held.contains_key(&key) {
            return Err(FastpathError::AlreadyAttached { device: device.name, point });
        }
        if let Some(pins) = self.pins.clone() {
            let path = pins.link(point, device.index);
            match self.adopt_pin(&LinkPin { point, index: device.index, path: path.clone() }) {
                Ok(Some(attachment)) => return Ok(attachment),
                // Of a device that had this index before.
                Ok(None) => pins.remove(&path)?,
                Err(error) => return Err(error),
            }
        }
        let mut wanted = self.wanted;
        if wanted.hook == HookChoice::Auto && wanted.lasting && self.held.len() >= MANY {
            wanted.hook = HookChoice::ClsactFirst;
        }
        let held = link::attach(self.program(point)?, &device, point, wanted)?;
        let held = match (held, &self.pins) {
            (Held::Tcx(link), Some(pins)) => {
                let path = pins.link(point, device.index);
                match link.pin(&path) {
                    Ok(pinned) => Held::Pinned { link: pinned.into(), path },
                    Err(error) => {
                        return Err(FastpathError::Pin { action: "pin", path, kernel: words(&error) });
                    }
                }
            }
            (held, _) => held,
        };
        Ok(self.keep(device, point, held, false))
    }

    /// Is the program of `point` at the device called `device`, put there by this process or by an earlier one?
    pub fn is_attached(&self, device: &str, point: Point) -> bool {
        let Ok(device) = Device::named(device) else { return false };
        let pinned = |pins: &Pins| {
            let link = open_pin(&pins.link(point, device.index)).ok().flatten();
            let program = link.and_then(|link| Some(link.info().ok()?.program_id()));
            program.is_some_and(|program| link::is_listed(&device, point, program).unwrap_or(false))
        };
        let filters = || link::our_filters(&device).unwrap_or_default();
        self.held.contains_key(&(device.index, point))
            || self.pins.as_ref().is_some_and(pinned)
            || filters().iter().any(|(at, _)| *at == point)
    }

    /// Takes a program off its device. When this returns, the kernel runs it there no more.
    ///
    /// # Errors
    /// [`FastpathError::NotAttached`], or [`FastpathError::Detach`] with the kernel's words.
    pub fn detach(&mut self, attachment: &Attachment) -> Result<(), FastpathError> {
        let (index, point) = (attachment.index, attachment.point);
        let Some((attachment, held)) = self.held.remove(&(index, point)) else {
            return Err(FastpathError::NotAttached { device: attachment.device.clone(), point });
        };
        let Some(device) = Device::indexed(index) else {
            // The kernel has detached the program with the device; only the pin is left.
            return match &self.pins {
                Some(pins) => pins.remove(&pins.link(point, index)),
                None => Ok(()),
            };
        };
        held.detach(&Device { name: attachment.device, ..device }, point)
    }

    /// Takes over what an earlier process left attached in this network namespace: pinned links, and filters
    /// known by their program's name. Each gets this object's program in one step, so no packet passes unseen.
    /// Pins of devices that are gone are removed. Goes on after an error.
    pub fn adopt(&mut self) -> Adopted {
        let mut adopted = Adopted::default();
        self.adopt_pins(&mut adopted);
        self.adopt_filters(&mut adopted);
        adopted
    }

    /// The program of `point`, for a test run of it (`BPF_PROG_TEST_RUN`).
    ///
    /// # Errors
    /// [`FastpathError::Load`] where the object has no such program.
    pub fn program_fd(&mut self, point: Point) -> Result<OwnedFd, FastpathError> {
        let refused = |kernel: String| FastpathError::Load { kernel };
        let fd = self.program(point)?.fd().map_err(|error| refused(words(&error)))?;
        fd.as_fd().try_clone_to_owned().map_err(|error| refused(error.to_string()))
    }

    /// Takes off what a version of greway with another layout of the maps has left pinned in this network namespace.
    /// To be called once the own programs are attached: until then the others carry on. Goes on after an error.
    ///
    /// # Errors
    /// All that went wrong.
    pub fn remove_other_layouts(&self) -> Result<(), Vec<FastpathError>> {
        let errors = self.pins.as_ref().map(remove::of_other_layouts).unwrap_or_default();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Takes every program off, and everything of ours out of this network namespace and its folder of pins,
    /// left by this process or by another. Goes on after an error.
    ///
    /// # Errors
    /// All that went wrong.
    pub fn remove_all(mut self) -> Result<(), Vec<FastpathError>> {
        let mut errors = Vec::new();
        let attachments: Vec<Attachment> = self.attachments().cloned().collect();
        for attachment in attachments {
            errors.extend(self.detach(&attachment).err());
        }
        let pins = self.pins.take();
        drop(self);
        errors.extend(remove::left_by_others(pins.as_ref()));
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// The same, but the programs stay loaded for [`Self::wake`]: loading them takes the time of many tunnels.
    ///
    /// # Errors
    /// All that went wrong.
    pub fn rest(&mut self) -> Result<(), Vec<FastpathError>> {
        let mut errors = Vec::new();
        let attachments: Vec<Attachment> = self.attachments().cloned().collect();
        for attachment in attachments {
            errors.extend(self.detach(&attachment).err());
        }
        errors.extend(self.apply(&Table::default()).err().into_iter().flatten());
        errors.extend(self.set_local_addresses([]).err());
        errors.extend(remove::left_by_others(self.pins.as_ref()));
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Pins the maps again after a [`Self::rest`].
    ///
    /// # Errors
    /// [`FastpathError::Pin`]; what would be attached now might not outlive this process.
    pub fn wake(&mut self) -> Result<(), FastpathError> {
        let Some(pins) = &self.pins else { return Ok(()) };
        pins.create_folder()?;
        for (name, map) in MAPS.into_iter().filter_map(|name| Some((name, self.bpf.map(name)?))) {
            let path = pins.map(name);
            if let Err(error) = map.pin(&path) {
                return Err(FastpathError::Pin { action: "pin", path, kernel: words(&error) });
            }
        }
        Ok(())
    }

    fn adopt_pins(&mut self, adopted: &mut Adopted) {
        let Some(pins) = self.pins.clone() else {
            return;
        };
        let links = match pins.links() {
            Ok(links) => links,
            Err(error) => return adopted.errors.push(error),
        };
        for pin in links {
            if self.held.contains_key(&(pin.index, pin.point)) {
                continue;
            }
            match self.adopt_pin(&pin) {
                Ok(Some(attachment)) => adopted.attachments.push(attachment),
                Ok(None) => match pins.remove(&pin.path) {
                    Ok(()) => adopted.gone.push(pin.path),
                    Err(error) => adopted.errors.push(error),
                },
                Err(error) => adopted.errors.push(error),
            }
        }
    }

    /// Adopts the link of one pin; `None` when there is no pin, or no device behind it.
    fn adopt_pin(&mut self, pin: &LinkPin) -> Result<Option<Attachment>, FastpathError> {
        let refused = |kernel: String| FastpathError::Pin { action: "adopt", path: pin.path.clone(), kernel };
        let Some(link) = open_pin(&pin.path).map_err(&refused)? else {
            return Ok(None);
        };
        let Some(device) = Device::indexed(pin.index) else {
            return Ok(None);
        };
        let program = link.info().map_err(|error| refused(words(&error)))?.program_id();
        if !link::is_listed(&device, pin.point, program).map_err(|error| refused(error.to_string()))? {
            return Ok(None);
        }
        link::replace_pinned(self.program(pin.point)?, link).map_err(&refused)?;
        let Some(link) = open_pin(&pin.path).map_err(&refused)? else {
            return Ok(None);
        };
        Ok(Some(self.keep(device, pin.point, Held::Pinned { link, path: pin.path.clone() }, true)))
    }

    fn adopt_filters(&mut self, adopted: &mut Adopted) {
        let devices = match Device::all() {
            Ok(devices) => devices,
            Err(error) => return adopted.errors.push(error),
        };
        for device in devices {
            match link::our_filters(&device) {
                Ok(filters) => {
                    for (point, filter) in filters {
                        if self.held.contains_key(&(device.index, point)) {
                            continue;
                        }
                        let lasting = self.wanted.lasting;
                        let held = self.program(point).and_then(|program| {
                            link::replace_filter(program, &device, filter, lasting).map_err(|kernel| {
                                FastpathError::Attach { device: device.name.clone(), point, kernel }
                            })
                        });
                        match held {
                            Ok(held) => {
                                adopted.attachments.push(self.keep(device.clone(), point, held, true))
                            }
                            Err(error) => adopted.errors.push(error),
                        }
                    }
                }
                Err(error) => adopted.errors.push(error),
            }
        }
    }

    fn keep(&mut self, device: Device, point: Point, held: Held, adopted: bool) -> Attachment {
        let attachment =
            Attachment { device: device.name, index: device.index, point, hook: held.hook(), adopted };
        tracing::debug!(?attachment, "the program is attached");
        self.held.insert((device.index, point), (attachment.clone(), held));
        attachment
    }

    fn program(&mut self, point: Point) -> Result<&mut SchedClassifier, FastpathError> {
        program(&mut self.bpf, point).map_err(|kernel| FastpathError::Load { kernel })
    }
}

/// With so many attachments the next ones are filters where that may be chosen. A link takes the kernel a grace period,
/// some 13 ms (linux kernel/bpf/tcx.c `tcx_link_prog_attach`, v6.18), a filter 0.2 ms; and a link takes a descriptor.
const MANY: usize = 64;

/// What [`Options::clsact_priority`] is by default.
pub(crate) const CLSACT_PRIORITY: u16 = 60_000;

/// What [`Options::decap_flags`] is by default.
pub(crate) const DECAP_FLAGS: u32 = 2;

/// The bpffs that `policy` means, or why there is none.
pub(crate) fn bpffs_for(policy: &PinPolicy) -> Result<PathBuf, String> {
    match policy {
        PinPolicy::Auto => bpffs::lasting(),
        PinPolicy::Never => Err("pins are not asked for".to_owned()),
        PinPolicy::At(path) if bpffs::is_bpffs(path) => Ok(path.clone()),
        PinPolicy::At(path) => Err(format!("{} is not in a bpffs", path.display())),
    }
}

/// Loads the maps and all programs; the error is in the kernel's words.
pub(crate) fn load_object(object: &[u8], pins: Option<&Pins>, decap_flags: u32) -> Result<Ebpf, String> {
    let mut loader = EbpfLoader::new();
    loader.override_global("GREWAY_DECAP_FLAGS", &decap_flags, true);
    if let Some(pins) = pins {
        for name in MAPS {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    let mut bpf = loader.load(object).map_err(|error| words(&error))?;
    for point in Point::ALL {
        program(&mut bpf, point)?.load().map_err(|error| refusal(&error))?;
    }
    Ok(bpf)
}

fn refusal(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return words(error);
    };
    let log = verifier_log.to_string();
    tracing::debug!(%log, "the verifier's log");
    match verdict(&log) {
        Some(verdict) => format!("{io_error}: {verdict}"),
        None => io_error.to_string(),
    }
}

pub(crate) fn program(bpf: &mut Ebpf, point: Point) -> Result<&mut SchedClassifier, String> {
    let name = point.program();
    let program = bpf.program_mut(name).ok_or_else(|| format!("the object has no program {name}"))?;
    program.try_into().map_err(|error: ProgramError| words(&error))
}

/// `None` when nothing is pinned at `path`.
pub(crate) fn open_pin(path: &Path) -> Result<Option<FdLink>, String> {
    match PinnedLink::from_pin(path) {
        Ok(link) => Ok(Some(link.into())),
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(words(&error)),
    }
}
