//! How `ifup` finds the file of a name (initscripts `need_config`), and whether the file is ours to serve.
//!
//! In this order: `ifcfg-NAME`; a file of that very name; the file with `NAME="NAME"`, also as
//! `"Auto NAME"` or `"System NAME"`; the one with `DEVICE=NAME`. The hardware address that the scripts
//! look for in between is nothing that a tunnel has.

use std::path::{Path, PathBuf};
use std::{fs, io};

use greway_dialects::ifcfg::{Kind, Survey, survey};

use super::names;
use super::roots::Roots;

/// What the network-scripts have for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// A file with TYPE=GRE or GRE6.
    Ours(Found),
    /// A file about something else.
    Foreign(Found),
    /// No file.
    Nothing,
}

/// A file that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The file.
    pub(crate) path: PathBuf,
    /// What can be told of it without understanding it in full.
    pub(crate) survey: Survey,
}

/// Looks for the file of `name` as `ifup` does.
///
/// # Errors
/// The file is there and cannot be read.
pub(crate) fn look_up(roots: &Roots, name: &str) -> io::Result<Lookup> {
    let directory = roots.scripts();
    let Some(path) = path_of(&directory, name) else { return Ok(Lookup::Nothing) };
    let text = fs::read(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display())))?;
    let survey = survey(&String::from_utf8_lossy(&text));
    let found = Found { path, survey };
    Ok(match found.survey.kind {
        Kind::Gre | Kind::Gre6 => Lookup::Ours(found),
        Kind::Other => Lookup::Foreign(found),
    })
}

fn path_of(directory: &Path, name: &str) -> Option<PathBuf> {
    let by_suffix = directory.join(format!("ifcfg-{name}"));
    if !name.contains('/') && by_suffix.is_file() {
        return Some(by_suffix);
    }
    let last = name.rsplit('/').next().filter(|last| !last.is_empty())?;
    let by_file = directory.join(last);
    if by_file.is_file() {
        return Some(by_file);
    }
    let surveyed = surveyed(directory);
    let only = |wanted: &dyn Fn(&Survey) -> bool| {
        let mut matching = surveyed.iter().filter(|(_, survey)| wanted(survey));
        // Of several the scripts take none.
        matching.next().filter(|_| matching.next().is_none()).map(|(path, _)| path.clone())
    };
    only(&|survey: &Survey| is_called(survey, name))
        .or_else(|| only(&|survey: &Survey| survey.device.as_deref() == Some(name)))
}

/// Whether a file gives itself this name.
fn is_called(survey: &Survey, name: &str) -> bool {
    let given = survey.name.as_deref().map(str::to_lowercase);
    let wanted = name.to_lowercase();
    given.is_some_and(|given| {
        given == wanted || given == format!("auto {wanted}") || given == format!("system {wanted}")
    })
}

/// The files about tunnels that give themselves this name.
pub(super) fn called(roots: &Roots, name: &str) -> Vec<PathBuf> {
    let ours = |survey: &Survey| survey.kind != Kind::Other && is_called(survey, name);
    surveyed(&roots.scripts()).into_iter().filter(|(_, survey)| ours(survey)).map(|(path, _)| path).collect()
}

/// Every `ifcfg-` file with what can be told of it.
fn surveyed(directory: &Path) -> Vec<(PathBuf, Survey)> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let wanted = names.filter(|name| name.starts_with("ifcfg-") && !names::is_left_over(name));
    let mut found = wanted
        .filter_map(|name| {
            let path = directory.join(name);
            let text = path.is_file().then(|| fs::read(&path).ok()).flatten()?;
            Some((path, survey(&String::from_utf8_lossy(&text))))
        })
        .collect::<Vec<_>>();
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}
