//! Tunnels, in every network namespace that greway was used in, told by the directories in /run/greway, and in those
//! that have a name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use greway_control::api::{Reply, Request};
use greway_control::location::Location;
use greway_control::purge::Orphans;
use greway_control::start;
use greway_linux::netns::NetNamespace;

use super::Record;
use crate::verbs::daemon;

/// Where `ip netns` keeps names (ip-netns(8)).
const NAMES: &str = "/run/netns";

/// Removes them all.
pub(super) fn purge(record: &mut Record, location: &Location) {
    if !location.owns_directory {
        // Named by --socket; the others are looked for as well.
        tunnels(record, location, "");
    }
    let base = match Location::find(None) {
        Ok(own) => own.socket.ancestors().nth(2).map(Path::to_owned),
        Err(error) => return record.fail(format!("cannot tell this network namespace: {error}")),
    };
    let base = base.unwrap_or_else(|| PathBuf::from("/run/greway"));
    let mut directories = directories(&base);
    for (namespace, called) in namespaces(&directories) {
        let cookie = namespace.run_in(|| Location::find(None));
        let here = match cookie {
            Ok(Ok(here)) => here,
            Ok(Err(error)) | Err(error) => {
                record.fail(format!("cannot enter {called}: {error}"));
                continue;
            }
        };
        directories.retain(|directory| Some(directory.as_path()) != here.socket.parent());
        let in_it = format!(" in {called}");
        let outcome = namespace.run_in(|| {
            tunnels(record, &here, &in_it);
            orphans(record, &here, &in_it);
        });
        if let Err(error) = outcome {
            record.fail(format!("cannot enter {called}: {error}"));
        }
    }
    for directory in directories {
        forget(record, &directory);
    }
}

/// The directories of daemons: one a network namespace.
fn directories(base: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(base).into_iter().flatten().filter_map(Result::ok);
    let is_ours = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.starts_with("net-"));
    let mut found =
        entries.filter(|entry| is_ours(&entry.file_name())).map(|entry| entry.path()).collect::<Vec<_>>();
    found.sort();
    found
}

/// The caller's namespace, those that have a name, and those of processes that have a directory; each once.
fn namespaces(directories: &[PathBuf]) -> Vec<(NetNamespace, String)> {
    let mut candidates =
        Vec::from([(PathBuf::from("/proc/self/ns/net"), "this network namespace".to_owned(), true)]);
    for entry in fs::read_dir(NAMES).into_iter().flatten().filter_map(Result::ok) {
        let called = format!("the network namespace {}", entry.file_name().display());
        candidates.push((entry.path(), called, true));
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok) {
        if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) {
            let called = format!("the network namespace of process {pid}");
            candidates.push((entry.path().join("ns/net"), called, false));
        }
    }
    let mut found = BTreeMap::new();
    for (order, (path, called, always)) in candidates.into_iter().enumerate() {
        // Processes end while we look, and a name may be left over from a namespace that is gone.
        let Ok(namespace) = NetNamespace::from_path(&path) else { continue };
        let Ok(inode) = namespace.inode() else { continue };
        found.entry(inode).or_insert((order, namespace, called, always));
    }
    let mut found = found.into_values().collect::<Vec<_>>();
    found.sort_by_key(|(order, ..)| *order);
    let has_directory = |namespace: &NetNamespace| {
        let Ok(Ok(there)) = namespace.run_in(|| Location::find(None)) else { return false };
        directories.iter().any(|directory| Some(directory.as_path()) == there.socket.parent())
    };
    let wanted = found.into_iter().filter(|(_, namespace, _, always)| *always || has_directory(namespace));
    wanted.map(|(_, namespace, called, _)| (namespace, called)).collect()
}

/// The tunnels of a daemon, or of one that died, and the daemon itself.
fn tunnels(record: &mut Record, location: &Location, in_it: &str) {
    if record.dry_run {
        match names(location) {
            Ok(names) => record.lines(names.into_iter().map(|name| format!("remove tunnel {name}{in_it}"))),
            Err(error) => record.fail(format!("the daemon{in_it}: {}", crate::sentence(&error))),
        }
        return;
    }
    match daemon::remove_all(location) {
        Ok(Some(actions)) => {
            record.lines(actions.into_iter().map(|action| format!("{action}{in_it}")));
            record.line(&format!("end the daemon{in_it}"));
        }
        Ok(None) if location.is_held() => record.fail(format!(
            "a daemon with a socket of its own still runs{in_it}: greway --socket PATH daemon --stop"
        )),
        Ok(None) => {}
        Err(error) => record.fail(format!("the daemon{in_it}: {}", crate::sentence(&error))),
    }
}

fn names(location: &Location) -> anyhow::Result<Vec<String>> {
    let Some(mut client) = start::find(location)? else {
        let files = fs::read_dir(&location.state).into_iter().flatten().filter_map(Result::ok);
        let name = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
        let json = files
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|kind| kind == "json"));
        let mut names = json.filter_map(name).collect::<Vec<_>>();
        names.sort();
        return Ok(names);
    };
    match client.ask(&Request::List)? {
        Reply::Tunnels(tunnels) => Ok(tunnels.iter().map(|spec| spec.name.to_string()).collect()),
        _ => Err(anyhow!(client.unexpected()).context("a list was asked for")),
    }
}

/// What no daemon knew any more. Where one still runs, it knows its own.
fn orphans(record: &mut Record, location: &Location, in_it: &str) {
    if !record.dry_run && location.is_held() {
        return;
    }
    let orphans = match Orphans::find() {
        Ok(orphans) => orphans,
        // A container that may not look has none of ours either.
        Err(error) if error.is_permission() => return,
        Err(error) => return record.fail(format!("what is left{in_it} cannot be read: {error}")),
    };
    let known = if record.dry_run { names(location).unwrap_or_default() } else { Vec::new() };
    let is_known = |name: &str| known.iter().any(|known| name == known || name == format!("greway-{known}"));
    for link in orphans.devices.iter().filter(|link| !is_known(&link.name)) {
        record.line(&format!("remove the device {}{in_it}", link.name));
    }
    for table in orphans.tables.iter().filter(|table| !is_known(&table.name)) {
        record.line(&format!("remove the table {table}{in_it}"));
    }
    if !record.dry_run {
        orphans.remove().into_iter().for_each(|failure| record.fail(format!("{failure}{in_it}")));
    }
}

/// The directory of a namespace that is gone with everything that was in it, or that cannot be seen from here: a
/// daemon in that one is asked by its socket.
fn forget(record: &mut Record, directory: &Path) {
    let there = Location {
        socket: directory.join("control.sock"),
        state: directory.join("tunnels"),
        log: directory.join("log"),
        lock: Some(directory.join("lock")),
        owns_directory: true,
    };
    if there.is_held() {
        return tunnels(record, &there, " in a network namespace that cannot be seen from here");
    }
    let what = format!("forget the tunnels of a network namespace that is gone: {}", directory.display());
    record.act(&what, || fs::remove_dir_all(directory).context("cannot remove it"));
}
