//! The daemon as a transient unit of systemd, where systemd runs this host.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use greway_linux::netns::NetNamespace;

use crate::location::Location;
use crate::start;

/// Exit code of a daemon that was told to stop: with `Restart=always` any other end, a clean one
/// too, brings it back.
pub const STOPPED: i32 = 78;

/// How systemd is reached.
#[derive(Debug)]
pub(crate) struct Systemd<'a> {
    /// There where systemd runs the host (sd_booted(3)).
    pub(crate) mark: &'a Path,
    /// What starts transient units.
    pub(crate) run: &'a Path,
    /// Where `ip netns` keeps names.
    pub(crate) names: &'a Path,
}

impl Default for Systemd<'_> {
    fn default() -> Self {
        Self {
            mark: Path::new("/run/systemd/system"),
            run: Path::new("systemd-run"),
            names: Path::new("/run/netns"),
        }
    }
}

/// Whether this process is the main one of a unit (systemd.exec(5), `INVOCATION_ID`).
pub fn is_unit() -> bool {
    std::env::var_os("INVOCATION_ID").is_some()
}

impl Systemd<'_> {
    /// Starts the daemon of `location` as a unit; its name. `None` where systemd does not run, does
    /// not take it, or could not find the network namespace again after a restart.
    pub(crate) fn start(&self, location: &Location) -> Option<String> {
        if !location.owns_directory || !self.mark.is_dir() {
            return None;
        }
        let directory = location.socket.parent()?.file_name()?.to_str()?;
        let unit = format!("greway-{directory}.service");
        let namespace = self.namespace()?;
        let mut command = Command::new(self.run);
        command.args(arguments(&unit, namespace.as_deref()));
        command.arg(std::env::current_exe().ok()?).arg("daemon");
        let output = command.stdin(Stdio::null()).output().ok()?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            tracing::warn!(words = words.trim(), "systemd did not take the daemon");
            return None;
        }
        Some(unit)
    }

    /// How systemd can find our network namespace again: `Some(None)` for its own, `Some(Some(path))`
    /// for one with a name, `None` for one without, which a unit cannot hold.
    fn namespace(&self) -> Option<Option<PathBuf>> {
        let ours = NetNamespace::current().ok()?.inode().ok()?;
        let is_ours = |path: &Path| fs::metadata(path).is_ok_and(|namespace| namespace.ino() == ours);
        if is_ours(Path::new("/proc/1/ns/net")) {
            return Some(None);
        }
        let mut names = fs::read_dir(self.names).ok()?.filter_map(Result::ok).map(|entry| entry.path());
        names.find(|path| is_ours(path)).map(Some)
    }
}

fn arguments(unit: &str, namespace: Option<&Path>) -> Vec<String> {
    let mut arguments = vec!["--quiet".to_owned(), "--collect".to_owned(), format!("--unit={unit}")];
    let mut property = |text: String| arguments.push(format!("--property={text}"));
    property("Description=greway tunnels".to_owned());
    property("Restart=always".to_owned());
    property("RestartSec=0".to_owned());
    // However often it is killed, tunnels are to carry again.
    property("StartLimitIntervalSec=0".to_owned());
    property(format!("RestartPreventExitStatus={} {} {STOPPED}", start::REFUSED, start::TAKEN));
    property(format!("SuccessExitStatus={STOPPED}"));
    property("KillMode=mixed".to_owned());
    if let Some(path) = namespace {
        property(format!("NetworkNamespacePath={}", path.display()));
    }
    arguments
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A folder with a stand-in for systemd-run that writes down how it was called.
    fn stand_in(name: &str, exit: i32) -> (PathBuf, PathBuf) {
        let folder = std::env::temp_dir().join(format!("greway-unit-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let program = folder.join("systemd-run");
        let script = format!("#!/bin/sh\nprintf '%s\\n' \"$@\" > {}/called\nexit {exit}\n", folder.display());
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        (folder, program)
    }

    fn location(folder: &Path) -> Location {
        Location {
            socket: folder.join("net-7/control.sock"),
            state: folder.join("net-7/tunnels"),
            log: folder.join("net-7/log"),
            lock: None,
            owns_directory: true,
        }
    }

    #[test]
    fn a_named_namespace_becomes_a_unit_that_always_restarts() {
        let (folder, program) = stand_in("named", 0);
        let names = folder.join("netns");
        fs::create_dir_all(&names).unwrap();
        // A link leads to what a bind mount would be.
        let blue = names.join("blue");
        std::os::unix::fs::symlink("/proc/self/ns/net", &blue).unwrap();
        let systemd = Systemd { mark: &folder, run: &program, names: &names };
        assert_eq!(systemd.start(&location(&folder)).as_deref(), Some("greway-net-7.service"));
        let called = fs::read_to_string(folder.join("called")).unwrap();
        for word in ["--unit=greway-net-7.service", "--property=Restart=always", "daemon"] {
            assert!(called.lines().any(|line| line == word), "{word}: {called}");
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_refusal_and_a_host_without_systemd_start_nothing() {
        let (folder, program) = stand_in("refused", 1);
        let systemd = Systemd { mark: &folder, run: &program, names: &folder.join("none") };
        assert_eq!(systemd.start(&location(&folder)), None);
        let elsewhere = Systemd { mark: &folder.join("no-such"), ..systemd };
        assert_eq!(elsewhere.start(&location(&folder)), None);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_stop_is_final_and_a_death_is_not() {
        let arguments = arguments("x.service", Some(Path::new("/run/netns/blue")));
        assert!(
            arguments.contains(&"--property=RestartPreventExitStatus=77 75 78".to_owned()),
            "{arguments:?}"
        );
        assert!(arguments.contains(&"--property=NetworkNamespacePath=/run/netns/blue".to_owned()));
    }
}
