//! Where NetworkManager is not: its GRE profiles by greway.

use std::fs;

use greway_control::api::{Reply, Request};
use greway_control::location::{self, Location};
use greway_control::start;
use greway_dialects::networkmanager::nmcli::{
    Add, By, Command, Invocation, Modify, Options, Refusal, Selector, exit,
};
use greway_dialects::networkmanager::show::{self, Shown};
use greway_dialects::networkmanager::{Profile, keyfile};
use greway_spec::{DeviceName, TunnelSpec};

use super::not_running;
use super::profiles::{self, Stored};
use crate::output;
use crate::sources;
use crate::tunnel_file;

type Answer = Result<u8, Refusal>;

const DONE: u8 = 0;

/// Serves one command; gives the exit code.
pub(super) fn run(invocation: &Invocation) -> Answer {
    let options = &invocation.options;
    match &invocation.command {
        Command::Add(add) if options.offline => offline(add),
        Command::Add(add) => self::add(add),
        Command::Modify(modify) => self::modify(modify),
        Command::Up(selector) => up(selector),
        Command::Down(selectors) => down(selectors),
        Command::Delete(selectors) => delete(selectors),
        Command::Show { profiles, active } => show(profiles, *active, options),
        Command::NotOurs => Err(not_running()),
    }
}

/// `--offline connection add`: the keyfile on stdout.
fn offline(add: &Add) -> Answer {
    let refused = |error: String| Refusal::new(format!("Error writing connection: {error}"), exit::ERROR);
    let mut profile = add.profile.clone();
    identify(&mut profile).map_err(refused)?;
    profile.verified().map_err(refused)?;
    output::raw(keyfile::emit(&profile).as_bytes());
    Ok(DONE)
}

/// Gives a profile a uuid if it has none.
fn identify(profile: &mut Profile) -> Result<(), String> {
    if profile.uuid().is_some() {
        return Ok(());
    }
    let uuid = profiles::new_uuid().map_err(|error| format!("connection.uuid: {error}"))?;
    profile.assign("connection", "uuid", &uuid)
}

fn add(add: &Add) -> Answer {
    let mut profile = add.profile.clone();
    // Other modes of ip-tunnel are NetworkManager's and the kernel's.
    if !profile.is_gre() && profile.mode().is_some() {
        return Err(not_running());
    }
    let present = profiles::all();
    if !add.named {
        number(&mut profile, &present);
    }
    let id = profile.id();
    let refused =
        |error: String| Refusal::new(format!("Failed to add '{id}' connection: {error}"), exit::ACTIVATION);
    identify(&mut profile).map_err(refused)?;
    profile.verified().map_err(refused)?;
    if !add.save {
        return Err(refused("'save no' needs NetworkManager; leave it out".to_owned()));
    }
    let uuid = profile.uuid().unwrap_or_default();
    if present.iter().any(|other| other.profile.uuid().as_deref() == Some(&uuid)) {
        return Err(refused("a connection with this UUID already exists".to_owned()));
    }
    if present.iter().any(|other| other.profile.id() == id) {
        output::raw_error(&format!(
            "Warning: There is another connection with the name '{id}'. Reference the connection by its uuid '{uuid}'\n"
        ));
    }
    let (spec, warnings) = profiles::tunnel(&profile).map_err(refused)?;
    profiles::write(&profile, &spec, None).map_err(|error| refused(crate::sentence(&error)))?;
    remark(&warnings);
    output::line(&format!("Connection '{id}' ({uuid}) successfully added."));
    if profile.autoconnect()
        && let Err(error) = bring_up(spec)
    {
        // As with NetworkManager, adding has succeeded.
        output::tool_error("nmcli", &format!("'{id}' did not come up: {}", crate::sentence(&error)));
    }
    Ok(DONE)
}

/// A name made up is followed by a number where it is taken.
fn number(profile: &mut Profile, present: &[Stored]) {
    let made_up = profile.id();
    let taken = |id: &str| present.iter().any(|other| other.profile.id() == id);
    let numbered = (1..).map(|number| format!("{made_up}-{number}"));
    let free = std::iter::once(made_up.clone()).chain(numbered).find(|id| !taken(id));
    if let Some(id) = free {
        // An id may be any text.
        let _never_refused = profile.assign("connection", "id", &id);
    }
}

fn remark(warnings: &[String]) {
    for warning in warnings {
        output::tool_error("nmcli", warning);
    }
}

fn find(selector: &Selector) -> Option<Stored> {
    profiles::all().into_iter().find(|stored| selector.means(&stored.profile))
}

fn unknown(selector: &Selector) -> Refusal {
    Refusal::new(format!("unknown connection '{}'.", selector.text), exit::NOT_FOUND)
}

fn modify(modify: &Modify) -> Answer {
    let stored = find(&modify.profile).ok_or_else(|| unknown(&modify.profile))?;
    let id = stored.profile.id();
    let refused =
        |error: String| Refusal::new(format!("Failed to modify connection '{id}': {error}"), exit::ERROR);
    let mut profile = stored.profile.clone();
    modify.apply(&mut profile)?;
    if let Some(edited) = stored.edited {
        return Err(refused(format!("its file was edited: {edited}")));
    }
    if modify.temporary {
        return Err(refused("'--temporary' needs NetworkManager; leave it out".to_owned()));
    }
    profile.verified().map_err(refused)?;
    let (spec, warnings) = profiles::tunnel(&profile).map_err(refused)?;
    let before = stored.profile.interface_name().unwrap_or_default();
    if before != spec.name.as_str() && is_up(&stored).map_err(|error| refused(crate::sentence(&error)))? {
        return Err(refused(format!("{before} is up; take it down before it gets another name")));
    }
    profiles::write(&profile, &spec, Some(&stored.path)).map_err(|error| refused(crate::sentence(&error)))?;
    remark(&warnings);
    Ok(DONE)
}

fn up(selector: &Selector) -> Answer {
    let stored = find(selector).ok_or_else(|| unknown(selector))?;
    let refused =
        |error: String| Refusal::new(format!("Connection activation failed: {error}"), exit::ACTIVATION);
    // The file counts, as for `greway up`: somebody may have edited it.
    let file = sources::read(&stored.path).map_err(|refusal| refused(refusal.to_string()))?;
    file.carried.map_err(|refusal| refused(refusal.to_string()))?;
    bring_up(file.spec).map_err(|error| refused(crate::sentence(&error)))?;
    output::line("Connection successfully activated (by greway)");
    Ok(DONE)
}

fn location() -> anyhow::Result<Location> {
    let socket = std::env::var_os(location::SOCKET_VARIABLE).map(std::path::PathBuf::from);
    Ok(Location::find(socket.as_deref())?)
}

fn bring_up(spec: TunnelSpec) -> anyhow::Result<()> {
    let location = location()?;
    let (mut client, _) = start::connect(&location)?;
    let request = Request::Up { spec: Box::new(spec), dry_run: false };
    match start::ask(&mut client, &location, &request)? {
        Reply::Done { warnings, .. } => remark(&warnings),
        _ => return Err(client.unexpected().into()),
    }
    Ok(())
}

/// The tunnels that are up. No daemon is started for it, but for what one left that died.
fn up_now() -> anyhow::Result<Vec<TunnelSpec>> {
    let location = location()?;
    let running = crate::verbs::down::Running::find(&location)?;
    Ok(running.tunnels)
}

fn is_up(stored: &Stored) -> anyhow::Result<bool> {
    Ok(is_among(&up_now()?, stored))
}

/// Whether one of these is the tunnel of a profile. One of its name that came from elsewhere is none of nmcli's.
fn is_among(up: &[TunnelSpec], stored: &Stored) -> bool {
    let (name, origin) = (stored.profile.interface_name(), tunnel_file::origin(&stored.path));
    up.iter().any(|spec| name.as_deref() == Some(spec.name.as_str()) && spec.origin == origin)
}

fn take_down(name: &str) -> anyhow::Result<()> {
    let location = location()?;
    let (mut client, _) = start::connect(&location)?;
    let name = name.parse::<DeviceName>()?;
    start::ask(&mut client, &location, &Request::Delete { name, dry_run: false })?;
    Ok(())
}

fn down(selectors: &[Selector]) -> Answer {
    let (mut any, mut code) = (false, DONE);
    for selector in selectors {
        let found = find(selector).and_then(|stored| Some((stored.profile.interface_name()?, stored)));
        let failed = |error: anyhow::Error| {
            let error = crate::sentence(&error);
            Refusal::new(
                format!("Connection '{}' deactivation failed: {error}", selector.text),
                exit::DEACTIVATION,
            )
        };
        match found {
            Some((name, stored)) if is_up(&stored).map_err(failed)? => {
                any = true;
                take_down(&name).map_err(failed)?;
                let id = stored.profile.id();
                output::line(&format!("Connection '{id}' successfully deactivated (by greway)"));
            }
            _ => {
                code = exit::NOT_FOUND;
                output::raw_error(&format!("Error: '{}' is not an active connection.\n", selector.text));
            }
        }
    }
    if any { Ok(code) } else { Err(Refusal::new("no active connection provided.", exit::NOT_FOUND)) }
}

fn delete(selectors: &[Selector]) -> Answer {
    let mut missing = Vec::new();
    for selector in selectors {
        let Some(stored) = find(selector) else {
            output::raw_error(&format!("{}\n", unknown(selector).text));
            let by = selector.by.map_or_else(String::new, |by| format!("{} ", By::word(by)));
            missing.push(format!("{by}'{}'", selector.text));
            continue;
        };
        let failed =
            |error: String| Refusal::new(format!("Connection deletion failed: {error}"), exit::DELETE);
        let name = stored.profile.interface_name().unwrap_or_default();
        let gone = || -> anyhow::Result<()> {
            if is_up(&stored)? {
                take_down(&name)?;
            }
            Ok(fs::remove_file(&stored.path)?)
        };
        gone().map_err(|error| failed(crate::sentence(&error)))?;
        let uuid = stored.profile.uuid().unwrap_or_default();
        output::line(&format!("Connection '{}' ({uuid}) successfully deleted.", stored.profile.id()));
    }
    match missing.as_slice() {
        [] => Ok(DONE),
        missing => {
            let text = format!("cannot delete unknown connection(s): {}.", missing.join(", "));
            Err(Refusal::new(text, exit::NOT_FOUND))
        }
    }
}

fn show(selectors: &[Selector], active: bool, options: &Options) -> Answer {
    let stored = profiles::all();
    // What cannot be asked is not up.
    let up = up_now().unwrap_or_default();
    let shown = |stored: &'_ Stored| {
        let device = stored.profile.interface_name();
        device.filter(|_| is_among(&up, stored))
    };
    if selectors.is_empty() {
        let rows = stored.iter().map(|stored| Shown { profile: &stored.profile, device: shown(stored) });
        let rows = rows.filter(|row| !active || row.device.is_some()).collect::<Vec<_>>();
        output::raw(show::list(&rows, options)?.as_bytes());
        return Ok(DONE);
    }
    let mut first = true;
    for selector in selectors {
        let found = stored.iter().filter(|stored| selector.means(&stored.profile));
        let found = found.filter(|stored| !active || shown(stored).is_some()).collect::<Vec<_>>();
        if found.is_empty() {
            let text = format!("{} - no such connection profile.", selector.text);
            return Err(Refusal::new(text, exit::NOT_FOUND));
        }
        for stored in found {
            let text = show::details(&Shown { profile: &stored.profile, device: shown(stored) }, options)?;
            // Between two profiles there is an empty line.
            output::raw(format!("{}{text}", if first { "" } else { "\n" }).as_bytes());
            first = false;
        }
    }
    Ok(DONE)
}
