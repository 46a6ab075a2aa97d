//! Where NetworkManager is: its own nmcli does the work.

use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use greway_dialects::networkmanager::nmcli::{self, By, Invocation, Selector};
use greway_netlink::Netlink;

use super::super::real;
use crate::output;

/// How long a device may take to be there and up after nmcli has returned.
const PATIENCE: Duration = Duration::from_secs(5);

/// After this time the user is told what is waited for.
const SILENCE: Duration = Duration::from_secs(1);

/// Becomes the real nmcli, or runs it and waits for the device of a GRE profile that it added or brought up.
pub(super) fn run(invocation: Option<Invocation>) -> ExitCode {
    let Some(invocation) = invocation.filter(|invocation| !invocation.options.offline) else {
        return real::become_real("nmcli");
    };
    let up = matches!(invocation.command, nmcli::Command::Up(_));
    let added = super::device_of(&invocation);
    if !up && added.is_none() {
        return real::become_real("nmcli");
    }
    let ran = real::command("nmcli").map(|mut command| command.args(std::env::args_os().skip(1)).status());
    // What could not be run as a child says why when it is becoming.
    let Ok(Ok(status)) = ran else { return real::become_real("nmcli") };
    if status.success() {
        let device = match &invocation.command {
            nmcli::Command::Up(selector) => device_of_profile(selector),
            _ => added,
        };
        if let Some(device) = device {
            wait(&device);
        }
    }
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// The device of a stored profile, where that is a GRE one.
fn device_of_profile(selector: &Selector) -> Option<String> {
    let fields = "connection.type,ip-tunnel.mode,connection.interface-name";
    let mut command = real::command("nmcli").ok()?;
    command.args(["-g", fields, "connection", "show"]);
    command.args(selector.by.map(By::word)).arg(&selector.text);
    let output = quiet(&mut command)?;
    match output.lines().collect::<Vec<_>>().as_slice() {
        ["ip-tunnel", "gre" | "gretap" | "ip6gre" | "ip6gretap", device] => Some((*device).to_owned()),
        _ => None,
    }
}

fn quiet(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

/// Waits until a device is there and up. It is none of nmcli's business if it does not come.
fn wait(device: &str) {
    let Ok(netlink) = Netlink::open() else { return };
    let since = Instant::now();
    let mut told = false;
    while since.elapsed() < PATIENCE {
        if netlink.link_by_name(device).is_ok_and(|link| link.is_some_and(|link| link.up)) {
            return;
        }
        if !told && since.elapsed() > SILENCE {
            told = true;
            output::tool_error("nmcli", &format!("waiting for {device}"));
        }
        thread::sleep(Duration::from_millis(10));
    }
    output::tool_error("nmcli", &format!("{device} is still not there; `greway nm status` may say why"));
}
