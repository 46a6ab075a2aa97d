//! The one binary called by another name: as `ip`, `ifup`, `ifdown` or `nmcli` it serves exactly the GRE
//! commands and becomes the real tool for all else; NetworkManager's dispatcher calls it as a device handler.

mod device_handler;
mod ifupdown;
pub(crate) mod ip;
mod nmcli;
pub(crate) mod real;

use std::path::Path;
use std::process::ExitCode;

/// Whose place we stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Personality {
    /// iproute2's `ip`.
    Ip,
    /// `ifup` of the initscripts.
    Ifup,
    /// `ifdown` of the initscripts.
    Ifdown,
    /// NetworkManager's command line.
    Nmcli,
    /// `dispatcher.d/device/greway`, called by NetworkManager's dispatcher.
    DeviceHandler,
}

/// Which name this process was started by; `None`: our own.
pub(crate) fn called_as() -> Option<Personality> {
    let name = std::env::args_os().next()?;
    let path = Path::new(&name);
    match path.file_name()?.to_str()? {
        "ip" => Some(Personality::Ip),
        "ifup" => Some(Personality::Ifup),
        "ifdown" => Some(Personality::Ifdown),
        "nmcli" => Some(Personality::Nmcli),
        "greway" if path.parent().is_some_and(|folder| folder.ends_with("dispatcher.d/device")) => {
            Some(Personality::DeviceHandler)
        }
        _ => None,
    }
}

/// Runs in that place.
pub(crate) fn run(personality: Personality) -> ExitCode {
    match personality {
        Personality::Ip => ip::run(),
        Personality::Ifup => ifupdown::up(),
        Personality::Ifdown => ifupdown::down(),
        Personality::Nmcli => nmcli::run(),
        Personality::DeviceHandler => device_handler::run(),
    }
}
