//! Takes away what any process of ours has left in this network namespace. Needs no program loaded.

use crate::{
    FastpathError, PinPolicy,
    error::words,
    fastpath::{bpffs_for, open_pin},
    link,
    netns::Device,
    pins::Pins,
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
