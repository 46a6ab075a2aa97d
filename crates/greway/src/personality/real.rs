//! The tool in whose place we stand: found, and become.
//!
//! The real `ip` is the one that greway.toml names, else the first in PATH that is not this program, else one in
//! the usual directories. A link to this program, a hard link or copy of it under greway's name is this
//! program. A wrapper that calls `ip` again could still bring us round, so each time we become or start a real
//! tool the environment counts it, and past [`DEEPEST`] we stop.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::output;
use crate::settings::Settings;

/// Counts how often a real tool was started from one of our personalities, each inside the other.
pub(crate) const DEPTH_VARIABLE: &str = "GREWAY_SHIM_DEPTH";

/// More than anybody nests `ip netns exec`, and few enough to be over soon.
const DEEPEST: u32 = 16;

/// Where tools are when PATH does not lead there.
const USUAL: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The exit codes of a shell for a command that is not there, and for one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// Why there is no real tool.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RealError {
    /// Neither PATH nor the usual directories have another one.
    #[error(
        "there is no other {tool} than this one in PATH or {USUAL}: install it, \
         or name it in /etc/greway/greway.toml ([tools] {tool} = \"/path/of/{tool}\")"
    )]
    None {
        /// Its name.
        tool: String,
    },
    /// greway.toml names what is this program itself or cannot be run.
    #[error("/etc/greway/greway.toml says [tools] {tool} = \"{}\", and that {wrong}", path.display())]
    Configured {
        /// Its name.
        tool: String,
        /// What the file says.
        path: PathBuf,
        /// What is wrong with it.
        wrong: &'static str,
    },
    /// We were brought round too often.
    #[error(
        "{tool} called itself {DEEPEST} times over: the {tool} at {} leads back to greway; \
         name the real one in /etc/greway/greway.toml ([tools] {tool} = \"/path/of/{tool}\")",
        path.display()
    )]
    Loop {
        /// Its name.
        tool: String,
        /// What was taken for the real one.
        path: PathBuf,
    },
}

/// The path of the real `tool`.
///
/// # Errors
/// [`RealError`]. A greway.toml that cannot be read is passed over: no other tool may fail over it.
pub(crate) fn find(tool: &str) -> Result<PathBuf, RealError> {
    let configured = Settings::read().ok().and_then(|mut settings| settings.tools.remove(tool));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = Own::of_process();
    search(tool, configured, &path, &own)
}

/// Becomes the real `tool`, with the arguments that this process got. Returns when that cannot be done; it has
/// said why then.
pub(crate) fn become_real(tool: &str) -> ExitCode {
    let mut command = match command(tool) {
        Ok(command) => command,
        Err(error) => {
            output::tool_error(tool, &error.to_string());
            return ExitCode::from(NOT_FOUND);
        }
    };
    let mut arguments = std::env::args_os();
    if let Some(zeroth) = arguments.next() {
        command.arg0(zeroth);
    }
    let error = command.args(arguments).exec();
    let path = command.get_program().to_string_lossy();
    output::tool_error(tool, &format!("cannot run {path}: {error}"));
    ExitCode::from(NOT_RUN)
}

/// The real `tool`, to be run as a child.
///
/// # Errors
/// As [`find`], and [`RealError::Loop`].
pub(crate) fn command(tool: &str) -> Result<Command, RealError> {
    let path = find(tool)?;
    let depth = std::env::var(DEPTH_VARIABLE).ok().and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    if depth >= DEEPEST {
        return Err(RealError::Loop { tool: tool.to_owned(), path });
    }
    let mut command = Command::new(path);
    command.env(DEPTH_VARIABLE, (depth + 1).to_string());
    Ok(command)
}

/// All that PATH has under a name, in its order, with the word whether it is this program.
pub(crate) fn in_path(tool: &str, path: &OsStr) -> Vec<(PathBuf, bool)> {
    let own = Own::of_process();
    candidates(tool, path).map(|candidate| (candidate.clone(), own.is(&candidate))).collect()
}

fn search(tool: &str, configured: Option<PathBuf>, path: &OsStr, own: &Own) -> Result<PathBuf, RealError> {
    if let Some(path) = configured {
        let wrong = |wrong| RealError::Configured { tool: tool.to_owned(), path: path.clone(), wrong };
        if !is_program(&path) {
            return Err(wrong("is no program"));
        }
        return if own.is(&path) { Err(wrong("is greway itself")) } else { Ok(path) };
    }
    candidates(tool, path)
        .chain(candidates(tool, OsStr::new(USUAL)))
        .find(|candidate| !own.is(candidate))
        .ok_or_else(|| RealError::None { tool: tool.to_owned() })
}

fn candidates(tool: &str, path: &OsStr) -> impl Iterator<Item = PathBuf> {
    let directories = std::env::split_paths(path).collect::<Vec<_>>();
    // An empty entry of PATH means the working directory (environ(7)); a relative one depends on it. Root's
    // shim runs nothing from there.
    let absolute = directories.into_iter().filter(|directory| directory.is_absolute());
    absolute.map(move |directory| directory.join(tool)).filter(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|at| at.is_file() && at.permissions().mode() & 0o111 != 0)
}

/// What this program is, for telling it from others.
#[derive(Debug, Default)]
pub(crate) struct Own {
    inode: Option<(u64, u64)>,
}

impl Own {
    /// This process's program.
    pub(crate) fn of_process() -> Self {
        // /proc may not be mounted; then the links still tell by their target's name.
        let inode = fs::metadata("/proc/self/exe").ok().map(|at| (at.dev(), at.ino()));
        Self { inode }
    }

    /// Whether a file is this program: the same inode, or a link to something called greway.
    pub(crate) fn is(&self, path: &Path) -> bool {
        let same =
            fs::metadata(path).ok().map(|at| (at.dev(), at.ino())) == self.inode && self.inode.is_some();
        same || fs::canonicalize(path).is_ok_and(|target| target.file_name() == Some(OsStr::new("greway")))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("greway-real-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn program(&self, directory: &str, name: &str) -> PathBuf {
            let path = self.0.join(directory).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, directory).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        }

        fn path(&self, directories: &[&str]) -> std::ffi::OsString {
            std::env::join_paths(directories.iter().map(|directory| self.0.join(directory))).unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn ourselves_are_passed_over_by_link_hard_link_and_name() {
        let folder = Folder::new("over");
        let own_program = folder.program("lib", "greway");
        let real = folder.program("real", "no-such-tool");
        for directory in ["a", "b", "c"] {
            fs::create_dir(folder.0.join(directory)).unwrap();
        }
        symlink(&own_program, folder.0.join("a/no-such-tool")).unwrap();
        fs::hard_link(&own_program, folder.0.join("b/no-such-tool")).unwrap();
        // A link to an older greway.
        let older = folder.program("old", "greway");
        symlink(&older, folder.0.join("c/no-such-tool")).unwrap();
        let at = fs::metadata(&own_program).unwrap();
        let own = Own { inode: Some((at.dev(), at.ino())) };
        let found = search("no-such-tool", None, &folder.path(&["a", "b", "c", "real"]), &own).unwrap();
        assert_eq!(found, real);
        let none = search("no-such-tool", None, &folder.path(&["a", "b", "c"]), &own).unwrap_err();
        assert!(none.to_string().starts_with("there is no other no-such-tool than this one"), "{none}");
    }

    #[test]
    fn what_cannot_be_run_and_relative_entries_are_passed_over() {
        let folder = Folder::new("mode");
        let real = folder.program("real", "no-such-tool");
        let plain = folder.program("plain", "no-such-tool");
        fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
        fs::create_dir_all(folder.0.join("dir/no-such-tool")).unwrap();
        let mut path = std::ffi::OsString::from(".::relative:");
        path.push(folder.path(&["plain", "dir", "missing", "real"]));
        assert_eq!(search("no-such-tool", None, &path, &Own::default()).unwrap(), real);
    }

    #[test]
    fn the_configured_one_is_taken_or_refused_by_name() {
        let folder = Folder::new("configured");
        let real = folder.program("opt", "other");
        let own = Own::default();
        let path = folder.path(&[]);
        assert_eq!(search("no-such-tool", Some(real.clone()), &path, &own).unwrap(), real);
        let missing = search("no-such-tool", Some(folder.0.join("missing")), &path, &own).unwrap_err();
        assert!(missing.to_string().ends_with("and that is no program"), "{missing}");
        let ours = folder.program("opt", "greway");
        let ourselves = search("no-such-tool", Some(ours), &path, &own).unwrap_err();
        assert!(ourselves.to_string().ends_with("and that is greway itself"), "{ourselves}");
    }
}
