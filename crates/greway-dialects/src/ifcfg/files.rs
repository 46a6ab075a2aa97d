//! A tunnel out of all the files that say something about it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::known;
use super::lexer::{self, Variable, Variables};
use super::map::Map;
use super::routes::parse_routes_in;
use super::rules::parse_rules;
use super::tables::Tables;
use crate::diagnostic::{Diagnostic, Warning, refuse_mark};
use crate::parsed::Parsed;

/// A file that was read.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// Its name, for messages; the last part also says what it is (`route6-tun0`).
    pub file: &'a str,
    /// What is in it.
    pub text: &'a str,
}

/// The files about one tunnel.
#[derive(Clone, Debug)]
pub struct Files<'a> {
    /// `/etc/sysconfig/network`: read first, so that it holds where the others say nothing.
    pub network: Option<Text<'a>>,
    /// `ifcfg-NAME`.
    pub ifcfg: Text<'a>,
    /// `keys-NAME`: read last.
    pub keys: Option<Text<'a>>,
    /// Those of [`companions`] that are there, in that order.
    pub beside: Vec<Text<'a>>,
    /// The names of the host's routing tables.
    pub tables: &'a Tables,
}

/// The names of the files with routes and rules for a device, whose ifcfg file has this suffix, in the
/// order in which the scripts read them (initscripts `ifup-routes`).
pub fn companions(device: &str, suffix: &str) -> Vec<String> {
    let mut names = Vec::new();
    let owners = if device == suffix || suffix.is_empty() { vec![device] } else { vec![device, suffix] };
    let of_kind = |kind: &str| {
        let named = owners.iter().filter(|owner| !owner.is_empty());
        named.flat_map(|owner| [format!("{kind}-{owner}"), format!("{kind}6-{owner}")]).collect::<Vec<_>>()
    };
    names.extend(of_kind("route"));
    names.push(format!("{}.route", owners.last().copied().unwrap_or_default()));
    names.extend(of_kind("rule"));
    names
}

/// Reads an `ifcfg-NAME` file that has none beside it.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub fn parse(text: &str, file_name: &str) -> Result<Parsed, Diagnostic> {
    let ifcfg = Text { file: file_name, text };
    parse_files(&Files { network: None, ifcfg, keys: None, beside: Vec::new(), tables: &Tables::default() })
}

/// Reads the files about a tunnel.
///
/// # Errors
/// The first thing that is wrong, with its file and line.
pub fn parse_files(files: &Files<'_>) -> Result<Parsed, Diagnostic> {
    let own = std::iter::once(&files.ifcfg).chain(&files.keys).chain(&files.beside);
    for Text { file, text } in own {
        refuse_mark(text, file)?;
    }
    let mut warnings = Vec::new();
    let mut variables = Variables::new();
    if let Some(Text { file, text }) = files.network {
        // Most of it is about other things, which may be any shell.
        variables.extend(lexer::read(&lexer::only(text, known::is_read), file, &mut Vec::new())?);
    }
    variables.extend(lexer::read(files.ifcfg.text, files.ifcfg.file, &mut warnings)?);
    if let Some(Text { file, text }) = files.keys {
        variables.extend(lexer::read(text, file, &mut warnings)?);
    }
    assemble(&variables, files.ifcfg.file, warnings, &files.beside, files.tables)
}

/// As [`parse_files`], from variables that bash has assigned instead of us. `file` is where they are from.
///
/// # Errors
/// The first thing that is wrong, without a line where it is a variable.
pub fn parse_values(
    values: &BTreeMap<String, String>,
    file: &str,
    beside: &[Text<'_>],
    tables: &Tables,
) -> Result<Parsed, Diagnostic> {
    let from: Arc<str> = Arc::from(file);
    let variable = |value: &String| Variable { value: value.clone(), file: from.clone(), line: 0, column: 0 };
    let variables = values.iter().map(|(name, value)| (name.clone(), variable(value))).collect();
    assemble(&variables, file, Vec::new(), beside, tables)
}

fn assemble(
    variables: &Variables,
    file: &str,
    mut warnings: Vec<Warning>,
    beside: &[Text<'_>],
    tables: &Tables,
) -> Result<Parsed, Diagnostic> {
    let mut map = Map::new(variables, file);
    let (mut draft, device) = map.draft()?;
    let (onboot, routes_wanted) = (map.onboot(), map.routes_wanted());
    warnings.append(&mut map.warnings);
    // Files are told in the order of reading, and what is in one in the order of its lines.
    warnings.sort_by_key(|warning| (warning.line, warning.column));
    for Text { file, text } in beside.iter().filter(|_| routes_wanted) {
        let name = Path::new(file).file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("rule") && !name.ends_with(".route") {
            let mut read = parse_rules(text, &device, file, tables)?;
            draft.rules.get_or_insert_default().append(&mut read.rules);
        } else {
            let mut read = parse_routes_in(text, &device, file, tables)?;
            draft.routes.get_or_insert_default().append(&mut read.routes);
            warnings.append(&mut read.warnings);
        }
    }
    Ok(Parsed { draft, warnings, onboot, file: file.to_owned() })
}
