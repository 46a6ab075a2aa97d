//! `nmcli`: GRE profiles where there is no NetworkManager.
//!
//! Where another nmcli is installed, NetworkManager is, and it decides: we become that nmcli. Only after it has
//! added or brought up a GRE profile we stay for a moment, until the device is there: the next line of a script
//! is mostly `ip route add … dev tun0`, and loses the race otherwise. Where there is no other nmcli,
//! `connection add|modify|up|down|delete|show` serve the four GRE modes by greway's own files, and anything else
//! gets the answer of an nmcli whose NetworkManager does not run.

mod absent;
mod present;
mod profiles;

use std::process::ExitCode;

use greway_dialects::networkmanager::nmcli::{self, Invocation, Refusal, exit};

use super::real;
use crate::output;

/// Runs in its place.
pub(super) fn run() -> ExitCode {
    let words = std::env::args_os().skip(1).map(|word| word.into_string().ok()).collect::<Option<Vec<_>>>();
    // What is no text is nothing of ours.
    let invocation = words.as_deref().map(nmcli::parse);
    if real::find("nmcli").is_ok() {
        return present::run(invocation.and_then(Result::ok));
    }
    let answered = match invocation {
        Some(Ok(invocation)) => absent::run(&invocation),
        Some(Err(refusal)) => Err(refusal),
        None => Err(not_running()),
    };
    match answered {
        Ok(code) => ExitCode::from(code),
        Err(refusal) => {
            output::raw_error(&format!("{}\n", refusal.text));
            ExitCode::from(refusal.code)
        }
    }
}

/// The stock answer.
fn not_running() -> Refusal {
    Refusal::new("NetworkManager is not running.", exit::NOT_RUNNING)
}

/// Whether a command line is about a GRE profile whose device will be there soon: its name.
fn device_of(invocation: &Invocation) -> Option<String> {
    match &invocation.command {
        nmcli::Command::Add(add) if add.profile.is_gre() && add.profile.autoconnect() => {
            add.profile.interface_name()
        }
        _ => None,
    }
}
