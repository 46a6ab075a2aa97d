//! `ifup` and `ifdown` of the initscripts, for files with TYPE=GRE and GRE6.
//!
//! Ours are the names for which `ifup` would find such a file, those that greway's own files define, and for
//! `ifdown` every tunnel that greway carries. All else becomes the real tool, with its arguments as they
//! were; so does a GRE file where the kernel makes GRE tunnels itself, unless the tunnel is greway's already.
//!
//! Where the original returns 0 although nothing was set up, these fail: that is meant. They print nothing
//! when all is well, as the original does.

mod hooks;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use greway_control::location::{self, Location, SOCKET_VARIABLE};
use greway_control::store::Store;
use greway_netlink::Netlink;
use greway_spec::{DeviceName, Mode};

use super::{ip, real};
use crate::output;
use crate::settings::{Backend, Settings};
use crate::sources::{self, Definition, Lookup, Roots};
use crate::verbs::batch::State;
use crate::verbs::{down, up};
use hooks::Hooks;

const IFUP: &str = "ifup";
const IFDOWN: &str = "ifdown";

/// Runs in the place of `ifup`.
pub(super) fn up() -> ExitCode {
    let words = words();
    let Some(name) = words.first().filter(|name| !name.starts_with('-')) else { return foreign(IFUP, None) };
    let roots = Roots::of_this_system();
    let Some((definition, config)) = defined(&roots, name) else { return foreign(IFUP, Some(name)) };
    if let Some(code) = kernels(IFUP, &definition) {
        return code;
    }
    if !rustix::process::geteuid().is_root() {
        return not_for_users();
    }
    let boot = words.get(1).is_some_and(|word| word == "boot");
    if boot && !starts_at_boot(&definition) {
        return ExitCode::SUCCESS;
    }
    if std::env::var_os("IN_HOTPLUG").is_some_and(|set| !set.is_empty()) && !follows_hotplug(&definition) {
        return ExitCode::SUCCESS;
    }
    // Before anything is run: a file that is wrong has no effect at all.
    if let Err(why) = definition.result.as_ref().map_err(Clone::clone).and_then(|file| file.carried.clone()) {
        output::error(&why.0);
        return ExitCode::FAILURE;
    }
    let Some(location) = here() else { return ExitCode::FAILURE };
    let hooks = Hooks::of(&roots);
    hooks.before_up(&config, boot);
    let outcome = up::bring_up(&definition, up::Asked::ByName, false, &mut None, &location);
    for warning in &outcome.warnings {
        output::note(warning);
    }
    if let State::Failed(why) = outcome.state {
        output::error(&why);
        return ExitCode::FAILURE;
    }
    hooks.after_up(&definition.name);
    ExitCode::SUCCESS
}

/// Runs in the place of `ifdown`.
pub(super) fn down() -> ExitCode {
    let words = words();
    let Some(name) = words.first().filter(|name| !name.starts_with('-')) else {
        return foreign(IFDOWN, None);
    };
    let roots = Roots::of_this_system();
    let found = defined(&roots, name);
    let device = found.as_ref().map_or(name, |(definition, _)| &definition.name);
    let carried = is_carried(device);
    let link = DeviceName::try_from(device.clone()).ok().and_then(|device| link(&device));
    match (&found, carried) {
        (None, false) => return foreign(IFDOWN, Some(name)),
        // A tunnel of the kernel's, or a device of somebody else's.
        (Some(_), false) if link.is_some() => return foreign(IFDOWN, Some(name)),
        _ => {}
    }
    if !rustix::process::geteuid().is_root() {
        return not_for_users();
    }
    if let Some((definition, _)) = &found
        && is_reserved(&definition.name)
    {
        output::error(&reserved(&definition.name));
        return ExitCode::FAILURE;
    }
    let hooks = Hooks::of(&roots);
    hooks.before_down(device);
    // As the original has it: what is not there or not up stays as it is, and that is well.
    if !link.is_some_and(|link| link.up) {
        return ExitCode::SUCCESS;
    }
    let Some(location) = here() else { return ExitCode::FAILURE };
    let (Ok(mut running), Ok(device)) = (down::Running::find(&location), device.parse::<DeviceName>()) else {
        output::error(&format!("{device}: the greway daemon does not answer; `greway status` says more"));
        return ExitCode::FAILURE;
    };
    let outcome = running.take_down(&device, false, &location);
    for warning in &outcome.warnings {
        output::note(warning);
    }
    if let State::Failed(why) = outcome.state {
        output::error(&why);
        return ExitCode::FAILURE;
    }
    hooks.after_down(device.as_str());
    ExitCode::SUCCESS
}

fn words() -> Vec<String> {
    // Words that are no UTF-8 name nothing of ours; the real tool gets them as they are.
    std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect()
}

/// The definition of a name and the file's own name, as the hooks are told it. `None`: not ours.
fn defined(roots: &Roots, name: &str) -> Option<(Definition, String)> {
    let config = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match sources::look_up(roots, name) {
        Ok(Lookup::Ours(found)) => {
            // Another file that defines it as well makes it unusable; that is told where it is used.
            let definition = sources::find_in(roots, name).unwrap_or_else(|why| {
                let mut definition = Definition::of(&found.path);
                definition.result = Err(why);
                definition
            });
            Some((definition, config(&found.path)))
        }
        Ok(Lookup::Foreign(_)) | Err(_) => None,
        Ok(Lookup::Nothing) => {
            let definition = sources::find_in(roots, name).ok()?;
            let config = config(&definition.path);
            Some((definition, config))
        }
    }
}

/// Becomes the real tool; where there is none, says what the original would say of a name that it does not
/// know.
fn foreign(tool: &str, name: Option<&str>) -> ExitCode {
    if real::find(tool).is_ok() {
        return real::become_real(tool);
    }
    let Some(name) = name else {
        output::raw_error(&match tool {
            IFUP => "Usage: ifup <configuration>\n".to_owned(),
            _ => "usage: ifdown <configuration>\n".to_owned(),
        });
        return ExitCode::FAILURE;
    };
    let roots = Roots::of_this_system();
    if let Ok(Lookup::Foreign(found)) = sources::look_up(&roots, name) {
        let path = found.path.display();
        output::tool_error(
            tool,
            &format!("{path} is not about GRE, and there is no other {tool} here that could serve it"),
        );
        return ExitCode::FAILURE;
    }
    if tool == IFDOWN {
        output::raw_error("usage: ifdown <configuration>\n");
        return ExitCode::FAILURE;
    }
    let called = std::env::args().next().unwrap_or_else(|| tool.to_owned());
    output::raw_error(&format!(
        "{called}: configuration for {name} not found.\nUsage: ifup <configuration>\n"
    ));
    ExitCode::FAILURE
}

/// The real tool's answer where the kernel makes such tunnels itself; `None`: it is ours to serve.
fn kernels(tool: &str, definition: &Definition) -> Option<ExitCode> {
    let mode = definition.result.as_ref().map_or(Mode::Gre, |file| file.spec.mode);
    let backend = match Settings::read() {
        Ok(settings) => settings.shim.backend,
        Err(error) => {
            output::tool_error(tool, &format!("{error:#}"));
            return Some(ExitCode::FAILURE);
        }
    };
    let kernels = match backend {
        Backend::Greway => false,
        Backend::Kernel => true,
        // Without the scripts nobody but us reads the file.
        Backend::Auto => ip::kernel::can(mode) && real::find(tool).is_ok(),
    };
    (kernels && !is_carried(&definition.name)).then(|| real::become_real(tool))
}

fn starts_at_boot(definition: &Definition) -> bool {
    match &definition.result {
        Ok(_) => definition.onboot,
        Err(_) => survey(&definition.path).onboot,
    }
}

fn follows_hotplug(definition: &Definition) -> bool {
    definition.dialect != greway_dialects::Dialect::Ifcfg || survey(&definition.path).hotplug
}

fn survey(path: &Path) -> greway_dialects::ifcfg::Survey {
    let text = std::fs::read(path).unwrap_or_default();
    greway_dialects::ifcfg::survey(&String::from_utf8_lossy(&text))
}

/// Names that `ifdown-tunnel` refuses.
fn is_reserved(name: &str) -> bool {
    matches!(name, "gre0" | "tunl0" | "ip6tnl0")
}

fn reserved(name: &str) -> String {
    format!("Device '{name}' isn't supported as a valid GRE device name.")
}

fn not_for_users() -> ExitCode {
    output::raw_error("Users cannot control this device.\n");
    ExitCode::FAILURE
}

/// Whether a tunnel of this name is greway's, by what is written down; no daemon is asked.
fn is_carried(name: &str) -> bool {
    let socket = std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from);
    if socket.is_none() && !location::any_exists() {
        return false;
    }
    let stored = Location::find(socket.as_deref()).ok().and_then(|at| Store::new(&at.state).load().ok());
    stored.is_some_and(|stored| stored.tunnels.keys().any(|known| known.as_str() == name))
}

fn here() -> Option<Location> {
    let socket = std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from);
    Location::find(socket.as_deref())
        .inspect_err(|error| output::error(&format!("cannot tell this network namespace: {error}")))
        .ok()
}

fn link(name: &DeviceName) -> Option<greway_netlink::Link> {
    Netlink::open().ok()?.link_by_name(name.as_str()).ok()?
}
