//! What a release is held to: the same bytes when it is made again, the files it should have, units that systemd
//! takes, and a life on a host: installed, used, upgraded, removed, purged.
//!
//! That host is this machine's files under an overlay, in namespaces of its own: dpkg and the maintainer scripts run
//! for real, and nothing of it is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::{Kind, Options, binary, make, output, static_target};
use crate::shell;

/// Installed files that must be there; directories and what each verb adds are not listed.
const FILES: &[&str] = &[
    "./etc/greway/tunnels.d/",
    "./usr/bin/greway",
    "./usr/lib/NetworkManager/dispatcher.d/device/greway",
    "./usr/lib/systemd/system-preset/80-greway.preset",
    "./usr/lib/systemd/system/greway-boot.service",
    "./usr/lib/systemd/system/greway-nm.service",
    "./usr/lib/systemd/system/greway.service",
    "./usr/lib/systemd/system/greway.socket",
    "./usr/lib/systemd/system/greway@.service",
    "./usr/share/bash-completion/completions/greway",
    "./usr/share/doc/greway/changelog.Debian.gz",
    "./usr/share/doc/greway/changelog.gz",
    "./usr/share/doc/greway/copyright",
    "./usr/share/doc/greway/third-party.gz",
    "./usr/share/fish/vendor_completions.d/greway.fish",
    "./usr/share/man/man1/greway-up.1.gz",
    "./usr/share/man/man1/greway.1.gz",
    "./usr/share/man/man5/greway.toml.5.gz",
    "./usr/share/zsh/vendor-completions/_greway",
];

/// A host for a package to live on, and its life there without systemd and with it.
const HOST: &str = include_str!("host.sh");
const LIFE: &str = include_str!("life.sh");
const UNITS: &str = include_str!("units.sh");
const SERVICE: &str = include_str!("life.service");

/// Makes the release and looks at it; what could not be looked at and why.
pub(crate) fn run() -> anyhow::Result<Vec<(String, String)>> {
    let mut not_run = Vec::new();
    if shell::has("dpkg-deb") {
        let deb = |revision| {
            let options = Options { only: Some(Kind::Deb), target: None, revision: Some(revision) };
            make(&options)?.pop().context("no package was made")
        };
        let first = deb(1)?;
        contents(&first)?;
        let bytes = fs::read(&first)?;
        ensure!(fs::read(deb(1)?)? == bytes, "the same program gave another {}", first.display());
        let second = deb(2)?;
        println!("dist: {} has what it should, the same twice", first.display());
        match lives(&first, &second)? {
            Some(reason) => not_run.push(("the package's life on a host".to_owned(), reason)),
            None => {
                println!("dist: installed, upgraded, removed, purged, under systemd too; nothing is left")
            }
        }
        fs::remove_file(second)?;
    } else {
        not_run.push(("the Debian package".to_owned(), "there is no dpkg-deb here".to_owned()));
    }
    match binary::provided(&static_target()) {
        Ok(()) => static_tarball()?,
        Err(error) => not_run.push(("the static tarball".to_owned(), format!("{error:#}"))),
    }
    Ok(not_run)
}

fn contents(deb: &Path) -> anyhow::Result<()> {
    let listed = output(Command::new("dpkg-deb").arg("--contents").arg(deb))?;
    // drwxr-xr-x root/root  0 2026-11-22 16:00 ./usr/bin/
    let rows = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect::<Vec<_>>();
    for wanted in FILES {
        ensure!(
            rows.iter().any(|row| row.get(5) == Some(wanted)),
            "{wanted} is not in {}:\n{listed}",
            deb.display()
        );
    }
    for row in &rows {
        let [mode, owner, .., path] = row[..] else { bail!("{row:?} is no row of a listing") };
        let writable = [5, 8].iter().any(|at| mode.as_bytes().get(*at) == Some(&b'w'));
        ensure!(owner == "root/root" && !writable && !mode.contains('s'), "{path} is {mode} {owner}");
    }
    let fields = output(Command::new("dpkg-deb").arg("--field").arg(deb))?;
    for field in ["Package: greway", "Version: ", "Depends: libc6 (>= 2.", "Maintainer: ", "Installed-Size: "]
    {
        ensure!(fields.lines().any(|line| line.starts_with(field)), "no field {field} in:\n{fields}");
    }
    Ok(())
}

/// Lives both lives; a reason where they cannot be lived here.
fn lives(first: &Path, second: &Path) -> anyhow::Result<Option<String>> {
    if !shell::is_root() {
        return Ok(Some("this needs root".to_owned()));
    }
    if !fs::read_to_string("/proc/filesystems")?.lines().any(|line| line.ends_with("\toverlay")) {
        return Ok(Some("this kernel has no overlay file system".to_owned()));
    }
    const SYSTEMD: &str = "/lib/systemd/systemd";
    if !Path::new(SYSTEMD).exists() {
        return Ok(Some("the package systemd is not installed".to_owned()));
    }
    live(first, second, &["sh", "-eu", "/packages/life.sh"], None)?;
    let hierarchies = Hierarchies::find()?;
    live(
        first,
        second,
        &[SYSTEMD, "--system", "--unit=life.service", "--log-target=null"],
        Some(&hierarchies),
    )?;
    Ok(None)
}

/// Lives one life: `init` is PID 1 of the host, with cgroups of its own where systemd wants them.
fn live(first: &Path, second: &Path, init: &[&str], cgroups: Option<&Hierarchies>) -> anyhow::Result<()> {
    let name = format!("greway-dist-{}", std::process::id());
    let folder = std::env::temp_dir().join(&name);
    fs::create_dir(&folder)?;
    shell::run(Command::new("mount").args(["-t", "tmpfs", "life"]).arg(&folder))?;
    let outcome = (|| {
        for directory in ["upper/etc/systemd/system", "work", "host", "packages"] {
            fs::create_dir_all(folder.join(directory))?;
        }
        let packages = folder.join("packages");
        fs::copy(first, packages.join("first.deb"))?;
        fs::copy(second, packages.join("second.deb"))?;
        fs::write(packages.join("life.sh"), LIFE)?;
        fs::write(packages.join("units.sh"), UNITS)?;
        fs::write(folder.join("upper/etc/systemd/system/life.service"), SERVICE)?;
        let mut command = Command::new("sh");
        // Into a cgroup of our own first: what systemd makes is made below it.
        command.args(["-euc", "for procs in $CGROUPS; do echo $$ >\"$procs\"; done; exec \"$@\"", "sh"]);
        command.env("CGROUPS", cgroups.map_or_else(String::new, |cgroups| cgroups.make(&name)));
        command.args(["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--fork"]);
        command.args(["--kill-child", "--mount-proc", "sh", "-euc", HOST, "host"]).arg(&folder);
        command.arg(cgroups.map_or("none", |cgroups| cgroups.word)).args(init);
        let status = command.stdin(Stdio::null()).status().context("unshare")?;
        let log = fs::read_to_string(packages.join("log")).unwrap_or_default();
        ensure!(status.success(), "{init:?} ended with {status}: {}", log.trim());
        Ok(())
    })();
    if let Some(cgroups) = cgroups {
        cgroups.remove(&name);
    }
    shell::run(Command::new("umount").arg("--lazy").arg(&folder))?;
    fs::remove_dir(&folder)?;
    outcome
}

/// The cgroup hierarchies that systemd keeps its units in, where this process is in them.
struct Hierarchies {
    word: &'static str,
    ours: Vec<PathBuf>,
}

impl Hierarchies {
    fn find() -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/self/cgroup")?;
        // 0::/path and 1:name=systemd:/path (cgroups(7)).
        let path = |start: &str| {
            let line =
                text.lines().find_map(|line| line.split_once(start).filter(|(id, _)| !id.contains('/')));
            line.map(|(_, path)| path.trim_start_matches('/').to_owned())
        };
        let root = Path::new("/sys/fs/cgroup");
        let unified = path("0::").context("this process is in no cgroup of version 2")?;
        Ok(match path(":name=systemd:") {
            Some(named) if root.join("unified").is_dir() => Self {
                word: "hybrid",
                ours: vec![root.join("unified").join(unified), root.join("systemd").join(named)],
            },
            _ => Self { word: "unified", ours: vec![root.join(unified)] },
        })
    }

    /// Makes a cgroup in each; the files that take a process into them, separated by blanks.
    fn make(&self, name: &str) -> String {
        let made = self.ours.iter().map(|ours| ours.join(name)).inspect(|path| {
            // One that could not be made is told by the first process that is to go into it.
            let _ = fs::create_dir(path);
        });
        made.map(|path| path.join("cgroup.procs").display().to_string()).collect::<Vec<_>>().join(" ")
    }

    /// Removes it with all below; its processes are dead, or about to be.
    fn remove(&self, name: &str) {
        for path in self.ours.iter().map(|ours| ours.join(name)) {
            let deadline = Instant::now() + Duration::from_secs(5);
            while path.exists() && Instant::now() < deadline {
                let _ = Command::new("find")
                    .arg(&path)
                    .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", "+"])
                    .stderr(Stdio::null())
                    .status();
            }
        }
    }
}

fn static_tarball() -> anyhow::Result<()> {
    let options = Options { only: Some(Kind::Tarball), ..Options::default() };
    let tarball = make(&options)?.pop().context("no tarball was made")?;
    let bytes = fs::read(&tarball)?;
    make(&options)?;
    ensure!(fs::read(&tarball)? == bytes, "the same program gave another {}", tarball.display());
    let folder = std::env::temp_dir().join(format!("greway-tarball-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let checked = unpacked(&tarball, &folder);
    fs::remove_dir_all(&folder)?;
    checked?;
    println!("dist: {} installs, is static and carries packets", tarball.display());
    Ok(())
}

fn unpacked(tarball: &Path, folder: &Path) -> anyhow::Result<()> {
    output(Command::new("tar").args(["--strip-components=1", "-xzf"]).arg(tarball).arg("-C").arg(folder))?;
    let there = folder.join("there");
    output(
        Command::new("sh")
            .arg(folder.join("install.sh"))
            .args(["--prefix", "/opt/greway", "--destdir"])
            .arg(&there),
    )?;
    let program = there.join("opt/greway/bin/greway");
    let version = output(Command::new(&program).arg("--version"))?;
    ensure!(version.trim() == format!("greway {}", env!("CARGO_PKG_VERSION")), "{version}");
    let unit = fs::read_to_string(there.join("opt/greway/lib/systemd/system/greway.service"))?;
    ensure!(unit.contains("ExecStart=/opt/greway/bin/greway daemon"), "{unit}");
    // Hosts, tunnels and traffic in namespaces, by the static program alone.
    shell::run(Command::new(&program).arg("demo").stdout(Stdio::null()))?;
    output(
        Command::new("sh")
            .arg(folder.join("install.sh"))
            .args(["--remove", "--prefix", "/opt/greway", "--destdir"])
            .arg(&there),
    )?;
    let left = output(Command::new("find").arg(&there).args(["-type", "f"]))?;
    ensure!(left.is_empty(), "install.sh --remove leaves {left}");
    Ok(())
}
