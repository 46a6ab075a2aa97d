//! greway's own files of tunnels, written: /etc/greway/tunnels.d/NAME.toml.
//!
//! A file that is there is never written over unless that was asked for, and a name that another file defines
//! already gets no second one. A file appears whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use greway_dialects::native;
use greway_spec::{Origin, TunnelSpec};

use crate::sources::{self, Roots};

/// Where the file of a tunnel belongs.
pub(crate) fn path_of(name: &str) -> PathBuf {
    Roots::of_this_system().tunnels().join(format!("{name}.toml"))
}

/// What a tunnel has for its origin that comes from this file, which need not be there yet.
pub(crate) fn origin(path: &Path) -> Origin {
    let through_links = || {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = fs::canonicalize(directory.unwrap_or_else(|| Path::new("."))).ok()?;
        Some(directory.join(path.file_name()?))
    };
    let absolute = fs::canonicalize(path).ok().or_else(through_links).unwrap_or_else(|| path.to_owned());
    Origin::File(absolute.display().to_string())
}

/// The text of the file. `heading` stands above it as comments.
pub(crate) fn text_of(spec: &TunnelSpec, onboot: bool, heading: &[String]) -> String {
    // A comment ends where its line does, whatever somebody typed.
    let comment = |line: &String| format!("# {}\n", line.replace(|c: char| c.is_control(), " "));
    let comments = heading.iter().map(comment).collect::<String>();
    let onboot = if onboot { "" } else { "onboot = false\n" };
    format!("{comments}{onboot}{}", native::render(spec))
}

/// Fails when a file other than `own` defines the tunnel, or when `own` is there and `force` is not said.
///
/// # Errors
/// The file that is in the way.
pub(crate) fn check_free(name: &str, own: &Path, force: bool) -> anyhow::Result<()> {
    let definitions = sources::all();
    let other = definitions.iter().find(|definition| definition.name == name && definition.path != own);
    let other = other.map(|definition| definition.path.as_path());
    // Also a link that leads nowhere.
    let itself = Some(own).filter(|own| own.symlink_metadata().is_ok() && !force);
    if let Some(path) = other.or(itself) {
        bail!(
            "tunnel {name} is defined already, by {}: remove or rename that file, or choose another name",
            path.display()
        );
    }
    Ok(())
}

/// Writes a file whole, with its directory where that is missing. Without `force` it must not exist.
///
/// # Errors
/// The system's, with the path; nothing is left then.
pub(crate) fn write(path: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    let directory =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let half = directory.join(format!(".{name}.{}", std::process::id()));
    let written = write_half(&half, text).and_then(|()| match force {
        true => fs::rename(&half, path),
        // A link, unlike a renaming, does not take the place of what is there.
        false => fs::hard_link(&half, path).and_then(|()| fs::remove_file(&half)),
    });
    written.map_err(|error| {
        let _gone_already = fs::remove_file(&half);
        match error.kind() {
            io::ErrorKind::AlreadyExists => {
                anyhow::anyhow!("{} exists", path.display())
            }
            _ => anyhow::Error::new(error).context(format!("cannot write {}", path.display())),
        }
    })
}

fn write_half(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
