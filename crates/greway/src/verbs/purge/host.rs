//! What is not in a network namespace: units of systemd, pins in bpffs, directories.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use greway_control::unit::PUBLIC_SOCKET;

use super::Record;

/// There where systemd runs the host (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// Where `systemctl enable` puts its links.
const ENABLED: &str = "/etc/systemd/system";

/// Pins of the fast path, in the usual bpffs.
const PINS: &str = "/sys/fs/bpf/greway";

/// What survives a boot: how NetworkManager's profiles were before they were adopted.
const KEPT: &str = "/var/lib/greway";

/// The files of tunnels, and greway's own settings.
const CONFIGURATION: &str = "/etc/greway";

/// Which units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Those that make tunnels.
    Clients,
    /// The daemon's, whose tunnels are gone by now.
    Daemon,
}

impl Part {
    fn has(self, unit: &str) -> bool {
        let daemon = ["greway.service", "greway.socket"].contains(&unit);
        is_ours(unit) && daemon == (self == Self::Daemon)
    }
}

/// Whether a name is one of the package's units, or an instance of one.
fn is_ours(unit: &str) -> bool {
    let single =
        ["greway.socket", "greway.service", "greway-boot.service", "greway-nm.service"].contains(&unit);
    single || (unit.starts_with("greway@") && unit.ends_with(".service"))
}

/// Stops units that run. Without systemd there are none.
pub(super) fn stop_units(record: &mut Record, part: Part) {
    if !Path::new(BOOTED).is_dir() {
        return;
    }
    let list =
        ["list-units", "--plain", "--no-legend", "--state=active,activating,reloading,failed", "greway*"];
    let listed = match systemctl(&list) {
        Ok(listed) => listed,
        Err(error) => return record.fail(format!("the units of systemd cannot be listed: {error:#}")),
    };
    let mut units = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|unit| part.has(unit))
        .collect::<Vec<_>>();
    // The socket first, or the service could be started again.
    units.sort_by_key(|unit| !unit.ends_with(".socket"));
    for unit in units {
        record.act(&format!("stop {unit}"), || {
            systemctl(&["stop", unit])?;
            // One that had failed would be listed for ever.
            let _ = systemctl(&["reset-failed", unit]);
            Ok(())
        });
    }
}

/// Removes the links that `systemctl enable` made, also where systemd does not run (a chroot).
pub(super) fn disable_units(record: &mut Record) {
    let links = enabled(Path::new(ENABLED));
    for link in &links {
        record.act(&format!("disable {}", link.display()), || {
            fs::remove_file(link).with_context(|| format!("cannot remove {}", link.display()))
        });
    }
    if !links.is_empty() && !record.dry_run && Path::new(BOOTED).is_dir() {
        // It would know them until it looks again.
        if let Err(error) = systemctl(&["daemon-reload"]) {
            record.fail(format!("systemd: {error:#}"));
        }
    }
}

/// Links in `directory` and its `.wants` that are named and lead as ours do; a unit that somebody wrote is a file.
fn enabled(directory: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let wants = entries(directory).map(|entry| entry.path()).filter(|path| {
        let dependencies = path.extension().is_some_and(|kind| kind == "wants" || kind == "requires");
        dependencies && !path.is_symlink()
    });
    let mut links = [directory.to_owned()]
        .into_iter()
        .chain(wants)
        .flat_map(|folder| entries(&folder).map(|entry| entry.path()).collect::<Vec<_>>())
        .filter(|link| {
            let named = |path: &Path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_ours);
            named(link) && fs::read_link(link).is_ok_and(|target| named(&target))
        })
        .collect::<Vec<_>>();
    links.sort();
    links
}

/// Whether there is configuration to be kept.
pub(super) fn has_configuration() -> bool {
    holds_files(Path::new(CONFIGURATION))
}

fn holds_files(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.path()).any(|path| path.is_symlink() || !path.is_dir() || holds_files(&path))
}

/// Removes what is left in the file system.
pub(super) fn remove_folders(record: &mut Record, configuration: bool) {
    remove_folder(record, Path::new(PINS));
    if record.failures.is_empty() {
        // With something left that could not be undone, what tells how is still needed.
        remove_folder(record, Path::new(KEPT));
    }
    let run = Path::new("/run/greway");
    if !record.dry_run {
        // A socket that was systemd's and outlived it; what somebody else put there keeps the directory.
        let _ = fs::remove_file(PUBLIC_SOCKET);
        match fs::remove_dir(run) {
            Err(error)
                if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) =>
            {
                record.fail(format!("cannot remove {}: {error}", run.display()));
            }
            _ => {}
        }
    }
    if configuration {
        remove_folder(record, Path::new(CONFIGURATION));
    }
}

fn remove_folder(record: &mut Record, folder: &Path) {
    // A link is somebody's arrangement; where it leads is not ours to empty.
    let is_folder = fs::symlink_metadata(folder).is_ok_and(|folder| folder.is_dir());
    if is_folder {
        record.act(&format!("remove {}", folder.display()), || Ok(fs::remove_dir_all(folder)?));
    }
}

fn systemctl(arguments: &[&str]) -> anyhow::Result<String> {
    let output =
        Command::new("systemctl").args(arguments).stdin(Stdio::null()).output().context("systemctl")?;
    if !output.status.success() {
        bail!("systemctl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn units_that_make_tunnels_go_first_and_foreign_ones_never() {
        for unit in ["greway@tun0.service", "greway-boot.service", "greway-nm.service"] {
            assert!(Part::Clients.has(unit) && !Part::Daemon.has(unit), "{unit}");
        }
        for unit in ["greway.socket", "greway.service"] {
            assert!(Part::Daemon.has(unit) && !Part::Clients.has(unit), "{unit}");
        }
        // Daemons of other namespaces end with their tunnels.
        for unit in
            ["greway-net-7.service", "greway-exporter.service", "mygreway@tun0.service", "greway@.socket"]
        {
            assert!(!Part::Clients.has(unit) && !Part::Daemon.has(unit), "{unit}");
        }
    }

    #[test]
    fn links_of_enabled_units_are_found_and_nothing_else() {
        let folder = std::env::temp_dir().join(format!("greway-enabled-{}", std::process::id()));
        let wants = folder.join("multi-user.target.wants");
        fs::create_dir_all(&wants).unwrap();
        let units = Path::new("/usr/lib/systemd/system");
        symlink(units.join("greway@.service"), wants.join("greway@tun0.service")).unwrap();
        symlink(units.join("greway.service"), wants.join("greway.service")).unwrap();
        symlink(units.join("ssh.service"), wants.join("ssh.service")).unwrap();
        // A mask, and a unit of the administrator's own.
        symlink("/dev/null", folder.join("greway-nm.service")).unwrap();
        fs::write(folder.join("greway-boot.service"), "[Service]\n").unwrap();
        fs::create_dir(folder.join("greway.service.d")).unwrap();
        assert_eq!(enabled(&folder), [wants.join("greway.service"), wants.join("greway@tun0.service")]);
        assert!(enabled(&folder.join("none")).is_empty());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn empty_folders_are_no_configuration() {
        let folder = std::env::temp_dir().join(format!("greway-holds-{}", std::process::id()));
        fs::create_dir_all(folder.join("tunnels.d")).unwrap();
        assert!(!holds_files(&folder));
        fs::write(folder.join("tunnels.d/tun0.toml"), "").unwrap();
        assert!(holds_files(&folder));
        fs::remove_dir_all(folder).unwrap();
    }
}
