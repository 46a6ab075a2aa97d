//! The daemon as a unit of systemd, where systemd runs this host: the package's own in PID 1's network namespace
//! (packaging/systemd), a transient one in any other.
//!
//! The package's socket and the daemon's own ([`Location::socket`]) are two: by the own one a verb finds the daemon
//! of its network namespace, whoever started it; a connection to the package's one makes systemd start it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use greway_linux::netns::NetNamespace;

use crate::api::client::Client;
use crate::location::Location;
use crate::start::{self, StartError};

/// Exit code of a daemon that was told to stop: with `Restart=always` any other end, a clean one
/// too, brings it back.
pub const STOPPED: i32 = 78;

/// The package's unit for the daemon of PID 1's network namespace.
pub const INSTALLED: &str = "greway.service";

/// Where the package's greway.socket listens.
pub const PUBLIC_SOCKET: &str = "/run/greway/control.sock";

/// Where systemd looks for units, as far as packages and administrators put them there (systemd.unit(5)).
const UNITS: [&str; 4] = [
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// How systemd is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Systemd<'a> {
    /// There where systemd runs the host (sd_booted(3)).
    pub(crate) mark: &'a Path,
    /// What starts transient units.
    pub(crate) run: &'a Path,
    /// Where `ip netns` keeps names.
    pub(crate) names: &'a Path,
    /// What starts units that are installed.
    pub(crate) control: &'a Path,
    /// Where units are installed.
    pub(crate) units: &'a [&'a str],
    /// Where the package's socket is.
    pub(crate) public: &'a Path,
    /// PID 1's network namespace.
    pub(crate) inits: &'a Path,
}

impl Default for Systemd<'_> {
    fn default() -> Self {
        Self {
            mark: Path::new("/run/systemd/system"),
            run: Path::new("systemd-run"),
            names: Path::new("/run/netns"),
            control: Path::new("systemctl"),
            units: &UNITS,
            public: Path::new(PUBLIC_SOCKET),
            inits: Path::new("/proc/1/ns/net"),
        }
    }
}

/// Whether this process is the main one of a unit (systemd.exec(5), `INVOCATION_ID`).
pub fn is_unit() -> bool {
    std::env::var_os("INVOCATION_ID").is_some()
}

impl Systemd<'_> {
    /// Has the package's unit started, and connects to its daemon; `None` where it is not installed or not for
    /// this network namespace.
    ///
    /// # Errors
    /// [`StartError::Unit`] when it is, and does not come up: another daemon beside it would hide that.
    pub(crate) fn activate(&self, location: &Location) -> Result<Option<Client>, StartError> {
        if !location.owns_directory || !self.is_inits_namespace() {
            return Ok(None);
        }
        // systemd listens in the daemon's place; the answer comes when it has adopted what there was.
        let answered = Client::connect(self.public).and_then(|mut client| client.hello());
        if answered.is_ok()
            // A container may see the host's socket: that daemon is another namespace's.
            && let Ok(Some(client)) = start::find(location)
        {
            return Ok(Some(client));
        }
        if !self.mark.is_dir() || !self.is_installed() {
            return Ok(None);
        }
        // It comes back when the daemon says that it is ready.
        let arguments = ["start", INSTALLED].map(OsStr::new);
        let output = Command::new(self.control).args(arguments).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            let words = words.lines().next().unwrap_or("systemctl failed without a word").trim();
            return Err(StartError::Unit { words: words.trim_end_matches('.').to_owned() });
        }
        match start::find(location)? {
            Some(client) => Ok(Some(client)),
            None => Err(StartError::Unit {
                words: format!("it does not answer at {}", location.socket.display()),
            }),
        }
    }

    /// Whether the calling thread is in the network namespace of PID 1. Where that cannot be told it is not.
    fn is_inits_namespace(&self) -> bool {
        let ours = NetNamespace::current().and_then(|namespace| namespace.inode());
        let inits = fs::metadata(self.inits).map(|namespace| namespace.ino());
        matches!((ours, inits), (Ok(ours), Ok(inits)) if ours == inits)
    }

    fn is_installed(&self) -> bool {
        self.units.iter().any(|directory| Path::new(directory).join(INSTALLED).exists())
    }

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
        command.arg(start::own_program().ok()?).arg("daemon");
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
        if self.is_inits_namespace() {
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
        let systemd = Systemd { mark: &folder, run: &program, names: &names, ..Systemd::default() };
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
        let none = folder.join("none");
        let systemd = Systemd { mark: &folder, run: &program, names: &none, ..Systemd::default() };
        assert_eq!(systemd.start(&location(&folder)), None);
        let elsewhere = Systemd { mark: &folder.join("no-such"), ..systemd };
        assert_eq!(elsewhere.start(&location(&folder)), None);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn an_installed_unit_that_does_not_start_is_told_and_nothing_else_is_started() {
        let (folder, program) = stand_in("installed", 1);
        fs::write(&program, "#!/bin/sh\necho \"Failed to $1 $2: Unit $2 is masked.\" >&2\nexit 1\n").unwrap();
        fs::write(folder.join("greway.service"), "[Service]\n").unwrap();
        let units = [folder.to_str().unwrap()];
        let public = folder.join("no-such-socket");
        let systemd = Systemd {
            mark: &folder,
            control: &program,
            units: &units,
            public: &public,
            inits: Path::new("/proc/self/ns/net"),
            ..Systemd::default()
        };
        let error = systemd.activate(&location(&folder)).unwrap_err().to_string();
        assert_eq!(
            error,
            "greway.service did not start: Failed to start greway.service: Unit greway.service is masked; \
             `systemctl status greway.service` says more"
        );
        // In another network namespace, on a host without systemd, and without the package it is not asked.
        let elsewhere = folder.join("greway.service");
        for other in [
            Systemd { inits: &elsewhere, ..systemd },
            Systemd { mark: &elsewhere, ..systemd },
            Systemd { units: &[], ..systemd },
        ] {
            assert!(other.activate(&location(&folder)).unwrap().is_none(), "{other:?}");
        }
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
