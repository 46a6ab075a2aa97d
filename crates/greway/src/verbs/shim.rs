//! `greway shim`: the names of other tools that reach greway.
//!
//! A shim is a symbolic link, `/usr/local/sbin/ip` to this program, in a directory that PATH has before the real
//! tool's. It is made on request only, takes no other file's place, is written down in [`RECORD`], and is gone
//! without a trace when it is removed. Nothing of the real tools is touched.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use greway_control::location::Location;
use serde::Serialize;

use crate::output;
use crate::personality::real::{self, Own};

/// Where shims are put.
const DIRECTORY: &str = "/usr/local/sbin";

/// Where shims are written down: one path a line.
const RECORD: &str = "/etc/greway/shims";

/// `greway shim`
#[derive(Debug, Args)]
pub(crate) struct ShimArgs {
    #[command(subcommand)]
    action: Option<ShimAction>,
}

/// What can be done with shims.
#[derive(Debug, Subcommand)]
pub(crate) enum ShimAction {
    /// Make links by which the names of tools reach greway; without names all of them
    Install {
        /// Which tools
        tools: Vec<Tool>,
        /// The directory for the links; PATH must have it before the real tools'
        #[arg(long, default_value = DIRECTORY)]
        dir: PathBuf,
    },
    /// Say which tools reach greway, what they shadow, and who goes round them
    Status {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Remove the links again; without names all of them
    Remove {
        /// Which tools
        tools: Vec<Tool>,
        /// Only those in this directory
        #[arg(long)]
        dir: Option<PathBuf>,
    },
}

/// A tool in whose place greway can stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Tool {
    /// iproute2's
    Ip,
    /// Of the initscripts
    Ifup,
    /// Of the initscripts
    Ifdown,
    /// NetworkManager's
    Nmcli,
}

impl Tool {
    const ALL: [Self; 4] = [Self::Ip, Self::Ifup, Self::Ifdown, Self::Nmcli];

    fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ifup => "ifup",
            Self::Ifdown => "ifdown",
            Self::Nmcli => "nmcli",
        }
    }
}

/// Runs the verb. It needs no daemon and starts none.
pub(crate) fn run(args: &ShimArgs, _location: &Location) -> anyhow::Result<ExitCode> {
    match &args.action {
        Some(ShimAction::Install { tools, dir }) => install(&chosen(tools), dir)?,
        Some(ShimAction::Remove { tools, dir }) => remove(&chosen(tools), dir.as_deref())?,
        Some(ShimAction::Status { json }) => status(*json)?,
        None => status(false)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes all shims; with `dry_run` only says which. One line a shim.
///
/// # Errors
/// The first that could not be removed; the others are.
pub(crate) fn remove_all(dry_run: bool) -> anyhow::Result<Vec<String>> {
    let shims = shims();
    if dry_run {
        return Ok(shims.iter().map(|path| format!("remove {}", path.display())).collect());
    }
    take_away(&shims)
}

fn chosen(tools: &[Tool]) -> Vec<Tool> {
    let mut tools = if tools.is_empty() { Tool::ALL.to_vec() } else { tools.to_vec() };
    tools.sort();
    tools.dedup();
    tools
}

fn install(tools: &[Tool], dir: &Path) -> anyhow::Result<()> {
    if !dir.is_absolute() {
        bail!("--dir {}: an absolute path is right, as in PATH", dir.display());
    }
    let program = std::env::current_exe().context("cannot tell where greway itself is")?;
    let mut missing = Vec::new();
    for tool in tools {
        let path = dir.join(tool.name());
        match fs::symlink_metadata(&path) {
            Ok(_) if is_shim(&path) && leads_to(&path, &program) => {
                output::line(&format!("{} is there already", path.display()));
            }
            Ok(_) if is_shim(&path) => missing.push(path),
            Ok(_) => bail!(
                "{} exists and is not greway's: nothing was installed; \
                 move it away, or choose another directory with --dir",
                path.display()
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(path),
            Err(error) => return Err(error).with_context(|| format!("cannot look at {}", path.display())),
        }
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut made = Vec::new();
    for path in &missing {
        if let Err(error) = link(&program, path) {
            for path in &made {
                // What was made a moment ago and cannot be removed now is beyond us; the error tells of the first.
                let _ = fs::remove_file(path);
            }
            return Err(error).with_context(|| format!("cannot make {}", path.display()));
        }
        made.push(path);
    }
    let all = shims().into_iter().chain(tools.iter().map(|tool| dir.join(tool.name()))).collect();
    if let Err(error) = write_down(&all) {
        output::warning(&format!(
            "cannot write {RECORD}: {error}; `greway shim remove --dir` finds them anyway"
        ));
    }
    for path in &missing {
        output::line(&format!("{} now leads to {}", path.display(), program.display()));
    }
    for warning in warnings(&survey()) {
        output::warning(&warning);
    }
    if !missing.is_empty() {
        output::note("a shell that has run these tools before finds the links after `hash -r`");
    }
    Ok(())
}

/// Makes a link, or makes one of ours lead elsewhere, in one step.
fn link(program: &Path, path: &Path) -> io::Result<()> {
    let beside = path.with_extension(format!("greway-{}", std::process::id()));
    symlink(program, &beside)?;
    let placed = if is_shim(path) {
        fs::rename(&beside, path)
    } else {
        // Unlike a rename, this takes no place that somebody took meanwhile.
        fs::hard_link(&beside, path).and_then(|()| fs::remove_file(&beside))
    };
    placed.inspect_err(|_| drop(fs::remove_file(&beside)))
}

fn remove(tools: &[Tool], dir: Option<&Path>) -> anyhow::Result<()> {
    let is_meant = |path: &PathBuf| {
        tools.iter().any(|tool| path.file_name() == Some(OsStr::new(tool.name())))
            && dir.is_none_or(|dir| path.parent() == Some(dir))
    };
    let mut meant = shims().into_iter().filter(is_meant).collect::<BTreeSet<_>>();
    if let Some(dir) = dir {
        // Even one that nobody wrote down.
        meant.extend(tools.iter().map(|tool| dir.join(tool.name())).filter(|path| is_shim(path)));
    }
    if meant.is_empty() {
        output::line("there is no shim to remove");
    }
    for line in take_away(&meant)? {
        output::line(&line);
    }
    Ok(())
}

fn take_away(paths: &BTreeSet<PathBuf>) -> anyhow::Result<Vec<String>> {
    let (mut lines, mut failed) = (Vec::new(), None);
    for path in paths {
        match fs::remove_file(path) {
            Ok(()) => lines.push(format!("removed {}", path.display())),
            Err(error) => {
                failed.get_or_insert_with(|| {
                    anyhow::Error::new(error).context(format!("cannot remove {}", path.display()))
                });
            }
        }
    }
    let left = write_down(&shims()).with_context(|| format!("cannot write {RECORD}"));
    match failed {
        Some(error) => Err(error),
        None => left.map(|()| lines),
    }
}

/// The shims there are: those written down, and those in the usual directories.
fn shims() -> BTreeSet<PathBuf> {
    let recorded = fs::read_to_string(RECORD).unwrap_or_default();
    let recorded = recorded.lines().map(PathBuf::from);
    let usual = [DIRECTORY, "/usr/local/bin"];
    let usual = usual.iter().flat_map(|dir| Tool::ALL.map(|tool| Path::new(dir).join(tool.name())));
    recorded.chain(usual).filter(|path| is_shim(path)).collect()
}

/// Keeps the list; an empty one is no file.
fn write_down(paths: &BTreeSet<PathBuf>) -> io::Result<()> {
    let record = Path::new(RECORD);
    if paths.is_empty() {
        return match fs::remove_file(record) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => {
                // Ours if it was made for the list alone.
                let _ = record.parent().map(fs::remove_dir);
                Ok(())
            }
        };
    }
    if let Some(parent) = record.parent() {
        fs::create_dir_all(parent)?;
    }
    let text = paths.iter().map(|path| format!("{}\n", path.display())).collect::<String>();
    let beside = record.with_extension("new");
    fs::write(&beside, text)?;
    fs::rename(beside, record)
}

/// Whether a path is a link of ours: named as a tool, and leading to something called greway, there or not, or to
/// this program.
fn is_shim(path: &Path) -> bool {
    let Ok(target) = fs::read_link(path) else { return false };
    let is_tool = Tool::ALL.iter().any(|tool| path.file_name() == Some(OsStr::new(tool.name())));
    is_tool && (target.file_name() == Some(OsStr::new("greway")) || Own::of_process().is(path))
}

fn leads_to(path: &Path, program: &Path) -> bool {
    fs::read_link(path).is_ok_and(|target| target == program)
}

/// How things stand with one tool.
#[derive(Debug, Serialize)]
struct Standing {
    tool: &'static str,
    /// The links by which it reaches greway.
    shims: Vec<PathBuf>,
    /// What PATH of this process finds first.
    found: Option<PathBuf>,
    /// Whether that is greway.
    reaches_greway: bool,
    /// What greway hands on to.
    real: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report<'r> {
    tools: &'r [Standing],
    warnings: &'r [String],
}

fn survey() -> Vec<Standing> {
    let shims = shims();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let standing = |tool: Tool| {
        let found = real::in_path(tool.name(), &path).into_iter().next();
        let of_tool = |path: &&PathBuf| path.file_name() == Some(OsStr::new(tool.name()));
        Standing {
            tool: tool.name(),
            shims: shims.iter().filter(of_tool).cloned().collect(),
            reaches_greway: found.as_ref().is_some_and(|(_, is_greway)| *is_greway),
            found: found.map(|(path, _)| path),
            real: real::find(tool.name()).ok(),
        }
    };
    Tool::ALL.map(standing).into_iter().collect()
}

fn status(json: bool) -> anyhow::Result<()> {
    let tools = survey();
    let warnings = warnings(&tools);
    if json {
        let report = serde_json::to_string_pretty(&Report { tools: &tools, warnings: &warnings })?;
        output::line(&report);
        return Ok(());
    }
    for standing in &tools {
        output::line(&describe(standing));
    }
    for warning in &warnings {
        output::line(&format!("note: {warning}"));
    }
    Ok(())
}

fn describe(standing: &Standing) -> String {
    let Standing { tool, shims, found, reaches_greway, real } = standing;
    let name = |path: &Option<PathBuf>| {
        path.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string())
    };
    let links = shims.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    match (shims.is_empty(), found) {
        (true, None) => format!("{tool:<7} no shim; there is no {tool} here"),
        (true, Some(_)) if !reaches_greway => format!("{tool:<7} no shim; PATH finds {}", name(found)),
        (true, Some(_)) => format!("{tool:<7} PATH finds greway at {}; real: {}", name(found), name(real)),
        (false, _) if *reaches_greway => format!("{tool:<7} shim {links}; real: {}", name(real)),
        (false, _) => format!("{tool:<7} shim {links}, but PATH finds {}", name(found)),
    }
}

/// What keeps commands from reaching the shims that there are.
fn warnings(tools: &[Standing]) -> Vec<String> {
    let mut warnings = Vec::new();
    for Standing { tool, shims, found, reaches_greway, real } in tools {
        let Some(shim) = shims.first() else { continue };
        if fs::metadata(shim).is_err() {
            let target = fs::read_link(shim).unwrap_or_default();
            warnings.push(format!(
                "{} leads to {}, which is not there: `greway shim install {tool}` mends it",
                shim.display(),
                target.display()
            ));
        }
        if let (false, Some(found)) = (reaches_greway, found) {
            warnings.push(format!(
                "PATH finds {} before {}: put {} first",
                found.display(),
                shim.display(),
                directory(shim)
            ));
        } else if found.is_none() {
            warnings.push(format!("{} is not in PATH", directory(shim)));
        }
        if let Some(real) = real {
            warnings.push(format!("whoever calls {} by its path goes round the shim", real.display()));
        }
    }
    let directories = tools
        .iter()
        .flat_map(|standing| &standing.shims)
        .map(|shim| directory(shim))
        .collect::<BTreeSet<_>>();
    for directory in directories {
        warnings.extend(holes(&directory, Path::new("/")));
    }
    if let Some(wrong) =
        tools.iter().find_map(|standing| standing.shims.first()).and_then(|_| insecure_program())
    {
        warnings.push(wrong);
    }
    warnings
}

/// Programs that have a PATH of their own, in which `directory` is missing.
fn holes(directory: &str, root: &Path) -> Vec<String> {
    let mut holes = Vec::new();
    let included =
        fs::read_dir(root.join("etc/sudoers.d")).into_iter().flatten().flatten().map(|file| file.path());
    for file in std::iter::once(root.join("etc/sudoers")).chain(included) {
        let text = fs::read_to_string(&file).unwrap_or_default();
        for path in text.lines().filter_map(secure_path).filter(|path| !has_directory(path, directory)) {
            holes.push(format!("sudo looks in secure_path={path}, without {directory}"));
        }
    }
    let crontab = fs::read_to_string(root.join("etc/crontab")).ok();
    let path = crontab.as_ref().map(|text| {
        text.lines().find_map(|line| line.strip_prefix("PATH=")).unwrap_or("/usr/bin:/bin").trim_matches('"')
    });
    if let Some(path) = path.filter(|path| !has_directory(path, directory)) {
        holes.push(format!("cron's jobs (/etc/crontab) have PATH={path}, without {directory}"));
    } else if path.is_some() {
        holes
            .push(format!("cron's jobs of users' own crontabs have PATH=/usr/bin:/bin, without {directory}"));
    }
    if root.join("etc/sysconfig/network-scripts/ifup-tunnel").exists() {
        holes.push(
            "network-scripts call /sbin/ip by its path; `greway up NAME` reads their files itself".to_owned(),
        );
    }
    holes
}

/// The value of `Defaults secure_path=…` (sudoers(5)).
fn secure_path(line: &str) -> Option<&str> {
    let line = line.trim();
    if !line.starts_with("Defaults") {
        return None;
    }
    let value = line.split_once("secure_path")?.1.trim_start().strip_prefix('=')?;
    Some(value.trim().trim_matches('"'))
}

fn has_directory(path: &str, directory: &str) -> bool {
    path.split(':').any(|entry| entry.trim_end_matches('/') == directory)
}

/// Shims make root run this program; nobody else should be able to replace it.
fn insecure_program() -> Option<String> {
    let program = std::env::current_exe().ok()?;
    let at = fs::metadata(&program).ok()?;
    (at.uid() != 0 || at.mode() & 0o022 != 0).then(|| {
        format!("others than root can replace {}, which root runs by these names", program.display())
    })
}

fn directory(path: &Path) -> String {
    path.parent().map_or_else(String::new, |parent| parent.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudoers_and_crontab_are_read_for_their_path() {
        let path = Some("/usr/sbin:/sbin");
        assert_eq!(secure_path("Defaults\tsecure_path=\"/usr/sbin:/sbin\""), path);
        assert_eq!(secure_path("Defaults    secure_path = /usr/sbin:/sbin"), path);
        assert_eq!(secure_path("# Defaults secure_path=/x"), None);
        assert_eq!(secure_path("Defaults env_reset"), None);
        assert!(has_directory("/usr/local/sbin/:/bin", "/usr/local/sbin"));
        assert!(!has_directory("/usr/local/sbin2:/bin", "/usr/local/sbin"));
    }

    #[test]
    fn who_goes_round_a_shim() {
        let root = std::env::temp_dir().join(format!("greway-shim-holes-{}", std::process::id()));
        let file = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        fs::create_dir_all(&root).unwrap();
        assert_eq!(holes(DIRECTORY, &root), Vec::<String>::new());
        file("etc/sudoers", "Defaults secure_path = /sbin:/bin:/usr/sbin:/usr/bin\n");
        file("etc/crontab", "SHELL=/bin/sh\nPATH=/sbin:/bin\n");
        file("etc/sysconfig/network-scripts/ifup-tunnel", "");
        let told = holes(DIRECTORY, &root);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(
            told[0].contains("secure_path=/sbin:/bin:/usr/sbin:/usr/bin, without /usr/local/sbin"),
            "{told:?}"
        );
        assert!(told[1].contains("PATH=/sbin:/bin, without"), "{told:?}");
        file("etc/sudoers", "Defaults secure_path = /usr/local/sbin:/bin\n");
        assert_eq!(holes(DIRECTORY, &root).len(), 2);
        fs::remove_dir_all(root).unwrap();
    }
}
