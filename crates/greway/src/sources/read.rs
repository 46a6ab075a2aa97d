//! Files to tunnels.

use std::path::{Path, PathBuf};
use std::{fs, io};

use greway_dialects::ifcfg::{self, Files, Kind, Tables, Text};
use greway_dialects::{Diagnostic, Dialect, Parsed, native, shell};

use super::roots::Roots;
use super::{Definition, File, Refusal, names};
use crate::tunnel_file::origin;

/// Reads a file of any dialect, an ifcfg file together with the files that belong to it.
///
/// # Errors
/// Why there is no tunnel in it, with the place.
pub(crate) fn read(path: &Path) -> Result<File, Refusal> {
    let text = text_of(path)?;
    let shown = path.display().to_string();
    if let Some(dialect) = greway_dialects::to_import(&shown, &text) {
        let what = if dialect == "nm" { "a profile of NetworkManager" } else { "commands of iproute2" };
        let source = shell::word(&shown);
        return Err(Refusal(format!(
            "{shown} is {what}, which greway reads once: `greway import {dialect} {source}` makes a file of greway's of it"
        )));
    }
    match greway_dialects::detect(&path.display().to_string(), &text) {
        Dialect::Native => read_native(path, &text),
        Dialect::Ifcfg => read_ifcfg(path, &text),
    }
}

/// Reads an ifcfg file, whatever its name, together with the files that belong to it.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_ifcfg_file(path: &Path) -> Result<File, Refusal> {
    read_ifcfg(path, &text_of(path)?)
}

/// Reads every file of a directory that defines a tunnel; files of the network-scripts about other things
/// are passed over.
pub(crate) fn read_all_in(directory: &Path) -> Vec<Definition> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut paths = names
        .filter(|name| names::is_own(name) || names::is_script(name))
        .map(|name| directory.join(name))
        .filter(|path| is_ours(path))
        .collect::<Vec<_>>();
    paths.sort();
    paths.iter().map(|path| definition(path)).collect()
}

/// Whether a file is about a tunnel.
fn is_ours(path: &Path) -> bool {
    // A link that leads nowhere is told of; what is no file at all (a pipe would be waited for) is passed over.
    if fs::metadata(path).is_ok_and(|at| !at.is_file()) {
        return false;
    }
    let script = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ifcfg-"));
    if !script {
        return true;
    }
    match fs::read(path) {
        Ok(text) => ifcfg::survey(&String::from_utf8_lossy(&text)).kind != Kind::Other,
        Err(_) => false,
    }
}

pub(super) fn definition(path: &Path) -> Definition {
    let result = read(path);
    let shown = path.display().to_string();
    let text = fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default();
    let dialect = greway_dialects::detect(&shown, &text);
    let name = match (&result, dialect) {
        (Ok(file), _) => file.spec.name.to_string(),
        (Err(_), Dialect::Ifcfg) => ifcfg::survey(&text).device.unwrap_or_else(|| suffix(path)),
        (Err(_), Dialect::Native) => native::survey_name(&text).unwrap_or_else(|| suffix(path)),
    };
    let onboot = result.as_ref().is_ok_and(|file| file.onboot);
    Definition { name, path: path.to_owned(), dialect, onboot, result }
}

/// `tun0` of `ifcfg-tun0` and of `tun0.toml`.
fn suffix(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_prefix("ifcfg-").unwrap_or(&name);
    name.strip_suffix(".toml").unwrap_or(name).to_owned()
}

fn read_native(path: &Path, text: &str) -> Result<File, Refusal> {
    let shown = path.display().to_string();
    let explain = |wrong: &Diagnostic| Refusal(wrong.render(text).trim_end().to_owned());
    let mut parsed = native::parse(text, &shown).map_err(|wrong| explain(&wrong))?;
    parsed.draft.origin = origin(path);
    finish(parsed, Dialect::Native, explain)
}

fn read_ifcfg(path: &Path, text: &str) -> Result<File, Refusal> {
    let shown = path.display().to_string();
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or_else(|| Path::new("."));
    let survey = ifcfg::survey(text);
    let suffix = suffix(path);
    let network = global_of(directory).map(read_if_there).transpose()?.flatten();
    let keys = read_if_there(directory.join(format!("keys-{suffix}")))?;
    let device = survey.device.unwrap_or_default();
    let mut beside = Vec::new();
    for name in ifcfg::companions(&device, &suffix) {
        beside.extend(read_if_there(directory.join(name))?);
    }
    let tables = tables();
    let files = Files {
        network: network.as_ref().map(Loaded::text),
        ifcfg: Text { file: &shown, text },
        keys: keys.as_ref().map(Loaded::text),
        beside: beside.iter().map(Loaded::text).collect(),
        tables: &tables,
    };
    let explain = |wrong: &Diagnostic| {
        let others = network.iter().chain(&keys).chain(&beside);
        let text = others.clone().find(|other| other.file == wrong.file).map_or(text, |other| &other.text);
        Refusal(wrong.render(text).trim_end().to_owned())
    };
    let mut parsed = ifcfg::parse_files(&files).map_err(|wrong| explain(&wrong))?;
    parsed.draft.origin = origin(path);
    finish(parsed, Dialect::Ifcfg, explain)
}

fn finish(
    parsed: Parsed,
    dialect: Dialect,
    explain: impl Fn(&Diagnostic) -> Refusal,
) -> Result<File, Refusal> {
    let warnings = parsed.warnings.iter().map(ToString::to_string).collect();
    let onboot = parsed.onboot;
    let carried = parsed.clone();
    let spec = parsed.into_spec().map_err(|wrong| explain(&wrong))?;
    let carried = carried.into_carried_spec().map(|_| ()).map_err(|wrong| explain(&wrong));
    Ok(File { spec, warnings, onboot, dialect, carried })
}

/// A file beside another one, read.
struct Loaded {
    file: String,
    text: String,
}

impl Loaded {
    fn text(&self) -> Text<'_> {
        Text { file: &self.file, text: &self.text }
    }
}

/// /etc/sysconfig/network, as the scripts see it from their directory. A file elsewhere has none.
fn global_of(directory: &Path) -> Option<PathBuf> {
    let directory = fs::canonicalize(directory).ok()?;
    (directory.file_name()? == "network-scripts").then(|| directory.with_file_name("network"))
}

fn read_if_there(path: PathBuf) -> Result<Option<Loaded>, Refusal> {
    if !path.is_file() {
        return Ok(None);
    }
    Ok(Some(Loaded { file: path.display().to_string(), text: text_of(&path)? }))
}

fn text_of(path: &Path) -> Result<String, Refusal> {
    fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Refusal(format!("{}: this is no text in UTF-8", path.display())),
        _ => Refusal(format!("cannot read {}: {error}", path.display())),
    })
}

/// The names that this system has given to routing tables.
pub(crate) fn tables() -> Tables {
    let roots = Roots::of_this_system();
    let mut files = vec![
        roots.path("/usr/share/iproute2/rt_tables"),
        roots.path("/usr/lib/iproute2/rt_tables"),
        roots.path("/etc/iproute2/rt_tables"),
    ];
    if let Ok(entries) = fs::read_dir(roots.path("/etc/iproute2/rt_tables.d")) {
        let more = entries.flatten().map(|entry| entry.path());
        files.extend(more.filter(|path| path.extension().is_some_and(|ending| ending == "conf")));
    }
    let mut tables = Tables::default();
    for file in files {
        if let Ok(text) = fs::read_to_string(file) {
            tables.extend(&text);
        }
    }
    tables
}
