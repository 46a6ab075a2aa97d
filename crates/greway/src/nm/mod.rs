//! NetworkManager's profiles as greway's tunnels: who decides what becomes of a profile of type ip-tunnel, and
//! who carries it.
//!
//! NetworkManager decides when a device is there, greway what is in it. A profile that was adopted is
//! brought up, configured and taken down by NetworkManager itself; greway's daemon knows nothing of
//! it. In between are the watcher ([`watch`]), which adopts profiles and follows them, and the device
//! handler (`personality/device_handler.rs`), which NetworkManager calls from 1.46 on.

pub(crate) mod adopt;
pub(crate) mod pending;
pub(crate) mod policy;
pub(crate) mod tunnel;
pub(crate) mod unmanaged;
pub(crate) mod watch;

use std::path::Path;

use greway_nm::{Version, Way};

/// Where NetworkManager looks for the device handler.
const HANDLERS: [&str; 2] =
    ["/etc/NetworkManager/dispatcher.d/device/greway", "/usr/lib/NetworkManager/dispatcher.d/device/greway"];

/// How this NetworkManager is to bring a tunnel's device up.
pub(crate) fn way(version: Version) -> Way {
    let has_handler = HANDLERS.iter().any(|path| Path::new(path).is_file());
    if version >= Version::WITH_HANDLERS && has_handler { Way::Handler } else { Way::Pair }
}
