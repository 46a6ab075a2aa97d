//! What this kernel lets this process do, found by doing it and undoing it.
//!
//! Never by version number: distributions carry features back, containers take them away, and a seccomp
//! filter answers for the kernel. The place to try is the loopback device of the calling thread's network
//! namespace, which every namespace has; for a moment it carries a program that counts and declines.

use std::{fmt, fs};

use greway_ebpf_abi::Point;

use crate::{
    HookChoice, bpffs,
    fastpath::{CLSACT_PRIORITY, DECAP_FLAGS, load_object, program},
    link::{self, Wanted},
    netns::Device,
    object::OBJECT,
};

/// Whether something works, with the refusal's words where it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ability {
    /// It was done, and undone.
    Works,
    /// The kernel's words, or ours when there was nothing to ask it with.
    Refused(String),
}

/// What [`probe`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The map and both programs load.
    pub load: Ability,
    /// A program attaches by tcx.
    pub tcx: Ability,
    /// A program attaches by clsact.
    pub clsact: Ability,
    /// There is a bpffs whose pins outlive this process and its mount namespace.
    pub lasting_bpffs: Ability,
    /// A bpffs may be mounted, whether one is or not.
    pub mount_bpffs: Ability,
}

impl Ability {
    /// Does it work?
    pub fn works(&self) -> bool {
        matches!(self, Self::Works)
    }
}

impl Probe {
    /// Can the fast path run here at all?
    pub fn usable(&self) -> bool {
        self.load.works() && (self.tcx.works() || self.clsact.works())
    }
}

impl<E: fmt::Display> From<Result<(), E>> for Ability {
    fn from(result: Result<(), E>) -> Self {
        result.map_or_else(|error| Self::Refused(error.to_string()), |()| Self::Works)
    }
}

impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works => f.write_str("works"),
            Self::Refused(words) => write!(f, "refused: {words}"),
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "load programs   {}", self.load)?;
        writeln!(f, "attach by tcx   {}", self.tcx)?;
        writeln!(f, "attach clsact   {}", self.clsact)?;
        writeln!(f, "lasting bpffs   {}", self.lasting_bpffs)?;
        write!(f, "mount a bpffs   {}", self.mount_bpffs)
    }
}

/// Whether `ip -s link` counts what is handed to a veth device past its pair (`bpf_redirect_peer`). No trial tells
/// before there is traffic. The kernel's own types do: those of such counters came with them (linux
/// include/linux/netdevice.h, v6.7, `enum netdev_pcpu_stat_type`), there and where they were carried back to.
pub fn counts_what_is_handed_over() -> bool {
    const WORD: &[u8] = b"\0NETDEV_PCPU_STAT_TSTATS\0";
    let types = fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
    types.windows(WORD.len()).any(|word| word == WORD)
}

/// Tries everything the fast path needs, and leaves nothing behind.
pub fn probe() -> Probe {
    let lasting_bpffs = bpffs::lasting().map(drop).into();
    let mount_bpffs = bpffs::may_mount().into();
    let (load, tcx, clsact) = match load_object(OBJECT, None, DECAP_FLAGS) {
        Ok(mut bpf) => {
            let mut try_hook = |hook| -> Ability {
                let wanted = Wanted { hook, priority: CLSACT_PRIORITY, lasting: false };
                let point = Point::Underlay;
                let attached = Device::named("lo").map_err(|error| error.to_string()).and_then(|device| {
                    let held = link::attach(program(&mut bpf, point)?, &device, point, wanted)
                        .map_err(|error| error.to_string())?;
                    held.detach(&device, point).map_err(|error| error.to_string())
                });
                attached.into()
            };
            (Ability::Works, try_hook(HookChoice::Tcx), try_hook(HookChoice::Clsact))
        }
        Err(kernel) => {
            let nothing = || Ability::Refused("no program is loaded to try it with".to_owned());
            (Ability::Refused(kernel), nothing(), nothing())
        }
    };
    Probe { load, tcx, clsact, lasting_bpffs, mount_bpffs }
}
