//! `cargo xtask dist`: a Debian package and a static tarball, into `target/dist`.
//!
//! ```text
//! cargo xtask dist                      the .deb for this machine, and the static tarball
//! cargo xtask dist --only deb|tarball   one of the two
//! cargo xtask dist --target TRIPLE      both for another target, `aarch64-unknown-linux-musl` for example
//! cargo xtask dist --revision N         the package's revision, 1 unless said
//! ```
//!
//! It installs nothing and downloads nothing: a target whose library rustup has not installed is refused with the
//! command that does. The same binary gives the same files: times are `SOURCE_DATE_EPOCH`, else those of the commit.

mod binary;
pub(crate) mod check;
mod deb;
mod licences;
mod manual;
mod tarball;
mod tree;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, bail};

use crate::shell;
use binary::Binary;

/// The target of the static tarball: this machine's processor, without its C library.
fn static_target() -> String {
    format!("{}-unknown-linux-musl", std::env::consts::ARCH)
}

/// Runs the task with the words after `dist`.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    for made in make(&Options::parse(arguments)?)? {
        let size = std::fs::metadata(&made)?.len();
        println!("{:>8.1} KiB  {}", size as f64 / 1024.0, made.display());
    }
    Ok(())
}

/// Makes the package for this machine, for tests that install it.
pub(crate) fn package() -> anyhow::Result<PathBuf> {
    make(&Options { only: Some(Kind::Deb), ..Options::default() })?.pop().context("no package was made")
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    only: Option<Kind>,
    target: Option<String>,
    revision: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Deb,
    Tarball,
}

impl Options {
    fn parse(arguments: &[String]) -> anyhow::Result<Self> {
        let mut options = Self::default();
        let mut rest = arguments.iter().map(String::as_str);
        while let Some(argument) = rest.next() {
            match (argument, rest.next()) {
                ("--only", Some("deb")) => options.only = Some(Kind::Deb),
                ("--only", Some("tarball")) => options.only = Some(Kind::Tarball),
                ("--target", Some(target)) => options.target = Some(target.to_owned()),
                ("--revision", Some(number)) if number.parse::<u32>().is_ok_and(|number| number > 0) => {
                    options.revision = number.parse().ok();
                }
                _ => bail!(
                    "\"{argument}\": use --only deb, --only tarball, --target TRIPLE, --revision N (from 1 on)"
                ),
            }
        }
        Ok(options)
    }

    fn wants(&self, kind: Kind) -> bool {
        self.only.is_none_or(|only| only == kind)
    }
}

/// What every file of a release has in common.
struct Release {
    version: String,
    revision: u32,
    /// Seconds since 1970 that all files are dated with.
    epoch: u64,
    /// Where it goes.
    out: PathBuf,
}

/// Makes what was asked for; the files.
fn make(options: &Options) -> anyhow::Result<Vec<PathBuf>> {
    let release = Release {
        version: version()?,
        revision: options.revision.unwrap_or(1),
        epoch: epoch()?,
        out: target_directory()?.join("dist"),
    };
    // Before minutes of building.
    if options.wants(Kind::Deb) && !shell::has("dpkg-deb") {
        bail!("a .deb is made by dpkg-deb, which is not here: apt-get install dpkg, or --only tarball");
    }
    let static_target = options.target.clone().unwrap_or_else(static_target);
    if options.wants(Kind::Tarball) {
        binary::provided(&static_target)?;
    }
    std::fs::create_dir_all(&release.out)?;
    let mut made = Vec::new();
    if options.wants(Kind::Deb) {
        let binary = Binary::build(options.target.as_deref())?;
        made.push(deb::make(&release, &binary)?);
    }
    if options.wants(Kind::Tarball) {
        let binary = Binary::build(Some(&static_target))?;
        made.push(tarball::make(&release, &binary)?);
    }
    Ok(made)
}

/// The workspace's version.
fn version() -> anyhow::Result<String> {
    Ok(env!("CARGO_PKG_VERSION").to_owned())
}

fn target_directory() -> anyhow::Result<PathBuf> {
    let output = shell::cargo(&["metadata", "--format-version", "1", "--no-deps"]).output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    Ok(PathBuf::from(metadata["target_directory"].as_str().context("cargo names its target directory")?))
}

/// `SOURCE_DATE_EPOCH` (reproducible-builds.org), else the time of the commit, else, for sources out of an archive,
/// that of `Cargo.lock`.
fn epoch() -> anyhow::Result<u64> {
    if let Ok(said) = std::env::var("SOURCE_DATE_EPOCH") {
        return said.parse().with_context(|| format!("SOURCE_DATE_EPOCH \"{said}\" is no number of seconds"));
    }
    let commit = shell::command("git", &["log", "-1", "--format=%ct"]).output();
    let time = commit.ok().and_then(|output| String::from_utf8(output.stdout).ok()?.trim().parse().ok());
    if let Some(time) = time {
        return Ok(time);
    }
    let archived = std::fs::metadata(shell::root().join("Cargo.lock"))?.modified()?;
    Ok(archived.duration_since(SystemTime::UNIX_EPOCH)?.as_secs())
}

/// Runs a command and gives what it says; fails with what it complains of.
fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A tar file, the same for the same files.
fn tar(directory: &Path, name: &str, epoch: u64, to: &Path) -> anyhow::Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"]);
    tar.arg(format!("--mtime=@{epoch}")).args(["--use-compress-program", "gzip -9n", "--create", "--file"]);
    shell::run(tar.arg(to).arg("--directory").arg(directory).arg(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> anyhow::Result<Options> {
        Options::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_that_are_unknown_or_incomplete_are_refused() {
        for wrong in
            [&["--only"][..], &["--only", "rpm"], &["--revision", "0"], &["--fast", "x"], &["--target"]]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        let options = parse(&["--only", "deb", "--revision", "2"]).unwrap();
        assert!(options.wants(Kind::Deb) && !options.wants(Kind::Tarball));
        assert_eq!(options.revision, Some(2));
        assert!(parse(&[]).unwrap().wants(Kind::Tarball));
    }
}
