//! The profiles that nmcli made here: greway's own files, with what only NetworkManager has a word for beside.
//!
//! ```text
//! # Made by nmcli; …
//! #nm connection.id=tun0
//! #nm connection.uuid=d3e46929-43bb-4d32-9acc-f8460d0e955a
//! #nm ipv4.method=auto
//! name = "tun0"
//! …
//! ```
//!
//! `greway up` and everything else read the file as any other of greway's. A file without such lines is none
//! of nmcli's and not shown to it: what somebody wrote by hand is not changed by a tool that cannot say it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use greway_dialects::networkmanager::nmcli::{notes, with_notes};
use greway_dialects::networkmanager::{Dhcp, Identity, Profile};
use greway_dialects::{native, shell};
use greway_spec::TunnelSpec;

use crate::output;
use crate::sources::Roots;
use crate::tunnel_file;

/// A profile and its file.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) path: PathBuf,
    pub(super) profile: Profile,
    /// Why the file cannot be a profile any more, where somebody edited it so.
    pub(super) edited: Option<String>,
}

/// All of them, by name. A file that cannot be read is passed over with a word.
pub(super) fn all() -> Vec<Stored> {
    let Ok(entries) = fs::read_dir(Roots::of_this_system().tunnels()) else { return Vec::new() };
    let mut paths = entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "toml"));
    paths.sort();
    paths.iter().filter_map(|path| read(path)).collect()
}

fn read(path: &Path) -> Option<Stored> {
    let text = fs::read_to_string(path).ok()?;
    let lines = text.lines().filter_map(|line| line.strip_prefix("#nm ")).map(unescape).collect::<Vec<_>>();
    if lines.is_empty() {
        return None;
    }
    let shown = path.display().to_string();
    let of_file = || -> Result<Profile, String> {
        let parsed = native::parse(&text, &shown).map_err(|error| error.to_string())?;
        let autoconnect = parsed.onboot;
        let spec = parsed.into_spec().map_err(|error| error.to_string())?;
        let identity = Identity { id: String::new(), uuid: String::new(), autoconnect };
        Profile::of(&spec, &identity).map_err(|error| error.to_string())
    };
    let (plain, edited) = match of_file() {
        Ok(profile) => (profile, None),
        Err(error) => (Profile::default(), Some(error)),
    };
    match with_notes(plain, lines.iter().map(String::as_str)) {
        Ok(profile) => Some(Stored { path: path.to_owned(), profile, edited }),
        Err(error) => {
            output::tool_error("nmcli", &format!("{shown} is passed over: {error}"));
            None
        }
    }
}

/// The tunnel of a profile as its file has it, and what its author should know.
pub(super) fn tunnel(profile: &Profile) -> Result<(TunnelSpec, Vec<String>), String> {
    let name = profile.interface_name().ok_or("connection.interface-name: property is missing")?;
    let path = tunnel_file::path_of(&name);
    let (mut draft, warnings) =
        profile.draft(&path.display().to_string(), Dhcp::LeftOut).map_err(|error| error.message)?;
    draft.origin = tunnel_file::origin(&path);
    let spec = draft.into_carried_spec().map_err(|error| error.to_string())?;
    Ok((spec, warnings.into_iter().map(|warning| warning.message).collect()))
}

/// Writes the file of a profile. `present` is the file that it has now, if it has one.
pub(super) fn write(profile: &Profile, spec: &TunnelSpec, present: Option<&Path>) -> anyhow::Result<()> {
    let path = tunnel_file::path_of(spec.name.as_str());
    let same = present == Some(path.as_path());
    if !same {
        tunnel_file::check_free(spec.name.as_str(), &path, false)?;
    }
    let identity = Identity { id: String::new(), uuid: String::new(), autoconnect: profile.autoconnect() };
    let plain = Profile::of(spec, &identity)?;
    let heading = format!(
        "Made by nmcli; `nmcli connection modify {}` changes it.",
        escape(&shell::word(&profile.id()))
    );
    let beside = notes(profile, &plain).into_iter().map(|note| format!("#nm {}\n", escape(&note)));
    let text = tunnel_file::text_of(spec, profile.autoconnect(), &[heading]);
    let (first, rest) = text.split_once('\n').ok_or_else(|| anyhow!("a file of one line"))?;
    let text = format!("{first}\n{}{rest}", beside.collect::<String>());
    tunnel_file::write(&path, &text, same)?;
    match present.filter(|_| !same) {
        Some(before) => {
            fs::remove_file(before).with_context(|| format!("cannot remove {}", before.display()))
        }
        None => Ok(()),
    }
}

/// A random uuid, of the kernel's making.
pub(super) fn new_uuid() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}

/// On one line of a comment.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match (c, c == '\\') {
            (_, true) => match rest.next() {
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                other => out.extend(other),
            },
            (c, false) => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_and_back() {
        for text in ["", "tun0", "a\\n", "a\nb\rc\\", "ä=1;2"] {
            assert!(!escape(text).contains(['\n', '\r']));
            assert_eq!(unescape(&escape(text)), text);
        }
    }
}
