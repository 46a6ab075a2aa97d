//! One program on one device: tcx where the kernel has it, clsact and a filter where not.
//!
//! aya's own choice goes by the kernel's version; this one tries. Both ways put the program last: behind every
//! tcx program that is there, or at a priority behind those that tc gives out by itself (49152 and down).

use std::{
    fs, io, mem,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::FdLink,
    tc::{
        NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcError, TcHandle,
        qdisc_add_clsact,
    },
};
use greway_ebpf_abi::Point;
use greway_linux::bpf;

use crate::{
    Hook, HookChoice,
    error::{FastpathError, words},
    filter::{self, Filter},
    netns::Device,
};

/// What keeps a program on a device. Dropping it takes the program off, unless it is to last.
#[derive(Debug)]
pub(crate) enum Held {
    Tcx(FdLink),
    Pinned { link: FdLink, path: PathBuf },
    Filter(HeldFilter),
}

/// A filter of ours. The kernel keeps it whatever becomes of us, so the end of it is ours to see to.
#[derive(Debug)]
pub(crate) struct HeldFilter {
    index: u32,
    filter: Filter,
    lasting: bool,
}

/// How a program shall be attached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) hook: HookChoice,
    /// Of the filter, where it becomes one.
    pub(crate) priority: u16,
    /// Shall a filter outlive its holder?
    pub(crate) lasting: bool,
}

/// Puts `program` on `device`, behind whatever is there.
pub(crate) fn attach(
    program: &mut SchedClassifier,
    device: &Device,
    point: Point,
    Wanted { hook, priority, lasting }: Wanted,
) -> Result<Held, FastpathError> {
    let order: &[Hook] = match hook {
        HookChoice::Auto => &[Hook::Tcx, Hook::Clsact],
        HookChoice::ClsactFirst => &[Hook::Clsact, Hook::Tcx],
        HookChoice::Tcx => &[Hook::Tcx],
        HookChoice::Clsact => &[Hook::Clsact],
    };
    let mut refusals = Vec::new();
    for way in order {
        let held = match way {
            Hook::Tcx => {
                tcx(program, device, point).map(Held::Tcx).map_err(|kernel| format!("tcx: {kernel}"))
            }
            Hook::Clsact => clsact(program, device, point, priority, lasting)
                .map(Held::Filter)
                .map_err(|kernel| format!("clsact: {kernel}")),
        };
        match held {
            Ok(held) => return Ok(held),
            Err(refusal) => refusals.push(refusal),
        }
    }
    Err(FastpathError::Attach { device: device.name.clone(), point, kernel: refusals.join("; ") })
}

/// Puts `program` in the place of the one that `pinned` holds, with no packet in between unseen.
///
/// # Errors
/// The kernel's words: ENOLINK when the device is gone.
pub(crate) fn replace_pinned(program: &mut SchedClassifier, pinned: FdLink) -> Result<(), String> {
    let link = SchedClassifierLink::try_from(pinned).map_err(|error| words(&error))?;
    let id = program.attach_to_link(link).map_err(|error| words(&error))?;
    // aya lets go of its descriptor; the pin holds the link.
    program.take_link(id).map(drop).map_err(|error| words(&error))
}

/// Puts `program` in the place of the one that `filter` runs, which an earlier process left.
pub(crate) fn replace_filter(
    program: &mut SchedClassifier,
    device: &Device,
    filter: Filter,
    lasting: bool,
) -> Result<Held, String> {
    let link = SchedClassifierLink::attached(
        &device.name,
        if filter.at_egress { TcAttachType::Egress } else { TcAttachType::Ingress },
        filter.priority,
        TcHandle::from(filter.handle),
        None,
    )
    .map_err(|error| error.to_string())?;
    let id = program.attach_to_link(link).map_err(|error| words(&error))?;
    forget(program, id).map_err(|error| words(&error))?;
    Ok(Held::Filter(HeldFilter { index: device.index, filter, lasting }))
}

/// Removes a filter of ours and, when we made it and nothing else is on it, the qdisc.
pub(crate) fn remove_filter(index: u32, filter: &Filter) -> io::Result<()> {
    filter::remove(index, filter)?;
    if filter.handle & ON_OUR_QDISC != 0 {
        filter::remove_empty_clsact(index)?;
    }
    Ok(())
}

/// The filters that a process of ours has put on `device`, each with its point.
pub(crate) fn our_filters(device: &Device) -> Result<Vec<(Point, Filter)>, FastpathError> {
    let filters = filter::both_ways(device.index)
        .map_err(|source| FastpathError::Filters { device: device.name.clone(), source })?;
    let is_of = |filter: &Filter, point: &Point| {
        point.program() == filter.name && point.at_egress() == filter.at_egress
    };
    let point_of = |filter: &Filter| Point::ALL.into_iter().find(|point| is_of(filter, point));
    Ok(filters.into_iter().filter_map(|filter| Some((point_of(&filter)?, filter))).collect())
}

/// Is program `id` in the tcx chain of `device` that `point` is in? (aya's own question needs CAP_SYS_ADMIN, which a
/// service of ours has not.)
pub(crate) fn is_listed(device: &Device, point: Point, id: u32) -> io::Result<bool> {
    let chain =
        if point.at_egress() { bpf::tcx_egress(device.index)? } else { bpf::tcx_ingress(device.index)? };
    Ok(chain.contains(&id))
}

/// Waits until program `id` is in no chain of `device`: the kernel lets go of a pinned link a moment late.
pub(crate) fn wait_until_gone(device: &Device, point: Point, id: u32) -> Result<(), FastpathError> {
    let refused = |kernel: String| FastpathError::Detach { device: device.name.clone(), point, kernel };
    let deadline = Instant::now() + LINK_RELEASE;
    // A device that went away meanwhile has taken its chain with it.
    while let Some(device) = Device::indexed(device.index) {
        match is_listed(&device, point, id) {
            Ok(false) => return Ok(()),
            Ok(true) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
            Ok(true) => {
                return Err(refused(format!("program {id} is still listed, something else holds its link")));
            }
            Err(_) if Device::indexed(device.index).is_none() => return Ok(()),
            Err(error) => return Err(refused(error.to_string())),
        }
    }
    Ok(())
}

impl Held {
    pub(crate) fn hook(&self) -> Hook {
        match self {
            Self::Tcx(_) | Self::Pinned { .. } => Hook::Tcx,
            Self::Filter(_) => Hook::Clsact,
        }
    }

    /// Takes the program off the device and waits until the kernel has.
    pub(crate) fn detach(self, device: &Device, point: Point) -> Result<(), FastpathError> {
        let refused = |kernel: String| FastpathError::Detach { device: device.name.clone(), point, kernel };
        let link = match self {
            Self::Filter(mut held) => {
                held.lasting = true;
                return remove_filter(held.index, &held.filter).map_err(|source| refused(source.to_string()));
            }
            Self::Pinned { link, path } => {
                fs::remove_file(path).map_err(|source| refused(source.to_string()))?;
                link
            }
            Self::Tcx(link) => link,
        };
        let program = link.info().map_err(|error| refused(words(&error)))?.program_id();
        drop(link);
        wait_until_gone(device, point, program)
    }
}

impl Drop for HeldFilter {
    fn drop(&mut self) {
        if self.lasting {
            return;
        }
        if let Err(error) = remove_filter(self.index, &self.filter) {
            tracing::warn!(device = self.index, %error, "a tc filter of ours stays behind");
        }
    }
}

/// Which of the two chains of a device a point is in.
fn way(point: Point) -> TcAttachType {
    if point.at_egress() { TcAttachType::Egress } else { TcAttachType::Ingress }
}

fn tcx(program: &mut SchedClassifier, device: &Device, point: Point) -> Result<FdLink, String> {
    let order = TcAttachOptions::TcxOrder(LinkOrder::last());
    let id = program.attach_with_options(&device.name, way(point), order).map_err(|error| words(&error))?;
    let link = program.take_link(id).map_err(|error| words(&error))?;
    FdLink::try_from(link).map_err(|error| words(&error))
}

fn clsact(
    program: &mut SchedClassifier,
    device: &Device,
    point: Point,
    priority: u16,
    lasting: bool,
) -> Result<HeldFilter, String> {
    let made_qdisc = match qdisc_add_clsact(&device.name) {
        Ok(()) => true,
        Err(TcError::AlreadyAttached) => false,
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(EEXIST) => false,
        Err(error) => return Err(words(&error)),
    };
    let ours = |(_point, filter): &(Point, Filter)| filter.handle & ON_OUR_QDISC != 0;
    let on_our_qdisc = made_qdisc || our_filters(device).map_err(|error| words(&error))?.iter().any(ours);
    // One handle a point, so that no point is on a device twice at one priority.
    let handle = (point.index() + 1) << 4 | u32::from(on_our_qdisc);
    let options = NlOptions { priority, handle: TcHandle::from(handle), classid: None };
    let attached = program
        .attach_with_options(&device.name, way(point), TcAttachOptions::Netlink(options))
        .and_then(|id| forget(program, id));
    match attached {
        Ok(()) => {
            let name = point.program().to_owned();
            let filter = Filter { at_egress: point.at_egress(), priority, handle, name };
            Ok(HeldFilter { index: device.index, filter, lasting })
        }
        Err(error) => {
            if made_qdisc && let Err(error) = filter::remove_empty_clsact(device.index) {
                tracing::warn!(device = device.name, %error, "a clsact of ours stays behind");
            }
            Err(words(&error))
        }
    }
}

/// Takes a filter out of aya's hands, which would remove it when dropped and leave the qdisc.
fn forget(program: &mut SchedClassifier, id: SchedClassifierLinkId) -> Result<(), ProgramError> {
    // Nothing leaks: for a filter the link is four numbers.
    mem::forget(program.take_link(id)?);
    Ok(())
}

/// The bit of a filter's handle that remembers, across a kill -9, that we made the qdisc under it.
const ON_OUR_QDISC: u32 = 1;

/// How long the kernel may take to let go of a link: an RCU grace period and a work queue.
const LINK_RELEASE: Duration = Duration::from_secs(2);

const EEXIST: i32 = 17;
