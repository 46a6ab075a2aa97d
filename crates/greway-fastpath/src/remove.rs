//! Takes away what any process of ours has left in this network namespace. Needs no program loaded.

use std::path::PathBuf;

use greway_linux::bpf;

use crate::{
    FastpathError, PinPolicy,
    error::words,
    fastpath::{bpffs_for, open_pin},
    link,
    netns::Device,
    pins::{LinkPin, Pins},
};

/// Removes every pin, filter and clsact of ours from the calling thread's network namespace, and the folder
/// of its pins in the bpffs that `pins` means. Goes on after an error; finding nothing is none.
///
/// # Errors
/// All that went wrong.
pub fn remove_all(pins: &PinPolicy) -> Result<(), Vec<FastpathError>> {
    let pins = match bpffs_for(pins) {
        Ok(root) => Some(Pins::of_this_namespace(&root).map_err(|error| vec![error])?),
        Err(_reason) => None,
    };
    let errors = left_by_others(pins.as_ref());
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Removes from the bpffs that `pins` means what network namespaces have left there that are no more: folders with
/// pinned links all of whose devices are gone. `lives` says of a namespace, by its cookie, that a daemon is there all
/// the same, between two devices; a folder without links may be such a daemon's, and stays too. Returns what was removed.
/// Goes on after an error.
///
/// # Errors
/// All that went wrong.
pub fn remove_deserted(
    pins: &PinPolicy,
    lives: impl Fn(u64) -> bool,
) -> Result<Vec<PathBuf>, Vec<FastpathError>> {
    let Ok(root) = bpffs_for(pins) else { return Ok(Vec::new()) };
    let others = Pins::of_this_namespace(&root).and_then(|pins| pins.of_other_namespaces());
    let (mut removed, mut errors) = (Vec::new(), Vec::new());
    for (number, folder) in others.map_err(|error| vec![error])? {
        let links = match folder.links() {
            Ok(links) => links,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let is_gone = |link: &LinkPin| matches!(bpf::device_of_pinned_link(&link.path), Ok(0));
        if links.is_empty() || !links.iter().all(is_gone) || lives(number) {
            continue;
        }
        match folder.remove_everything() {
            Ok(()) => removed.push(folder.folder().to_owned()),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(removed) } else { Err(errors) }
}

pub(crate) fn left_by_others(pins: Option<&Pins>) -> Vec<FastpathError> {
    let mut errors = Vec::new();
    if let Some(pins) = pins {
        errors.extend(remove_links(pins));
        errors.extend(pins.remove_folder().err());
        errors.extend(of_other_layouts(pins));
    }
    match Device::all() {
        Ok(devices) => errors.extend(devices.iter().flat_map(remove_filters)),
        Err(error) => errors.push(error),
    }
    errors
}

/// Removes what versions of greway with another layout of the maps have pinned for this network namespace.
pub(crate) fn of_other_layouts(pins: &Pins) -> Vec<FastpathError> {
    let others = match pins.of_other_layouts() {
        Ok(others) => others,
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    for other in others {
        errors.extend(remove_links(&other));
        errors.extend(other.remove_everything().err());
    }
    errors
}

fn remove_links(pins: &Pins) -> Vec<FastpathError> {
    let links = match pins.links() {
        Ok(links) => links,
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    for pin in links {
        let failed = |action, kernel| FastpathError::Pin { action, path: pin.path.clone(), kernel };
        let program = match open_pin(&pin.path) {
            Ok(link) => link.and_then(|link| link.info().ok()).map(|info| info.program_id()),
            Err(kernel) => {
                errors.push(failed("open", kernel));
                None
            }
        };
        errors.extend(pins.remove(&pin.path).err());
        if let (Some(program), Some(device)) = (program, Device::indexed(pin.index)) {
            errors.extend(link::wait_until_gone(&device, pin.point, program).err());
        }
    }
    errors
}

fn remove_filters(device: &Device) -> Vec<FastpathError> {
    let filters = match link::our_filters(device) {
        Ok(filters) => filters,
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    for (point, filter) in filters {
        if let Err(source) = link::remove_filter(device.index, &filter) {
            errors.push(FastpathError::Detach { device: device.name.clone(), point, kernel: words(&source) });
        }
    }
    errors
}
