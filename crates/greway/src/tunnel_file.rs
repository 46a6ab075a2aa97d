//! greway's own files of tunnels, written: /etc/greway/tunnels.d/NAME.toml.
//!
//! A file that is there is never written over unless that was asked for, and a name that another file defines
//! already gets no second one. A file appears whole or not at all.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
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
    // What is written over keeps its place behind a link, and who may read it.
    let present = fs::canonicalize(path).ok().filter(|_| force);
    let mode =
        present.as_ref().and_then(|present| Some(fs::metadata(present).ok()?.permissions().mode() & 0o777));
    write_with(present.as_deref().unwrap_or(path), text, force, mode)
}

/// As [`write()`], without `force`, for its owner alone to read: NetworkManager takes no other keyfile.
pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    write_with(path, text, false, Some(0o600))
}

fn write_with(path: &Path, text: &str, force: bool, mode: Option<u32>) -> anyhow::Result<()> {
    let directory =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let half = directory.join(format!(".{name}.{}", std::process::id()));
    let written = write_half(&half, text, mode).and_then(|()| match force {
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

/// Without a mode the caller's umask says who may read it.
fn write_half(path: &Path, text: &str, mode: Option<u32>) -> io::Result<()> {
    match fs::remove_file(path) {
        // Of a process that had our number and was killed.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(mode.unwrap_or(0o666)).open(path)?;
    if let Some(mode) = mode {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_over_keeps_its_mode_and_its_place() {
        let folder = std::env::temp_dir().join(format!("greway-tunnel-file-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let (file, link) = (folder.join("real.toml"), folder.join("tun0.toml"));
        write(&file, "one", false).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(write(&link, "two", false).unwrap_err().to_string().ends_with("tun0.toml exists"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "one");
        write(&link, "two", true).unwrap();
        assert!(link.is_symlink());
        assert_eq!((fs::read_to_string(&file).unwrap().as_str(), mode(&file)), ("two", 0o640));
        assert_eq!(origin(&link), Origin::File(file.display().to_string()));
        assert_eq!(
            origin(&folder.join("../").join(folder.file_name().unwrap()).join("x")),
            origin(&folder.join("x"))
        );
        let private = folder.join("tun0.nmconnection");
        write_private(&private, "secret").unwrap();
        assert_eq!(mode(&private), 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 3, "nothing half written is left");
        fs::remove_dir_all(folder).unwrap();
    }
}
