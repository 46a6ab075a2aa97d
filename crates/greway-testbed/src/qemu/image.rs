//! The disk that every machine starts from, and its kernel. Built by mmdebstrap from Debian's own packages in about
//! 40 s, then kept under a name made of its recipe: a changed recipe is another image.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Say;
use crate::Error;
use crate::programs::find;

const AGENT: &str = include_str!("../../qemu/agent.pl");
const CUSTOMIZE: &str = include_str!("../../qemu/customize.sh");
/// Before the recipe's number in the names of images.
const PREFIX: &str = "debian12-";
/// Smaller than the general one, quick to boot, and with the disk's driver built in.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
/// A small Debian server: what the guide takes for granted, and nothing that it does not.
const PACKAGES: &str = "systemd,systemd-sysv,udev,dbus,ifupdown,iproute2,iputils-ping,iptables,nftables,kmod,\
                        procps,netbase";
const SOURCES: [&str; 2] = [
    "deb http://deb.debian.org/debian bookworm main",
    "deb http://deb.debian.org/debian-security bookworm-security main",
];
/// Of the file system; the file has holes and takes what is in it, about 350 MiB.
const DISK_BYTES: u64 = 2 << 30;

/// A built image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Debian's kernel, as its package has it.
    pub(super) kernel: PathBuf,
    /// The root file system, without a partition table. Machines read it and never write it.
    pub(super) disk: PathBuf,
    /// Where consoles are logged.
    pub(super) logs: PathBuf,
}

impl Image {
    /// The image in `cache`, built first when it is not there. Two that ask at once get the same.
    ///
    /// # Errors
    /// [`Error::System`], and [`Error::Guest`] with the end of mmdebstrap's output when that fails: Debian's servers have
    /// to be reached for it.
    pub fn provide(cache: &Path, say: Say) -> Result<Self, Error> {
        let at = |path: &Path, action: &'static str| Error::system(path.display().to_string(), action);
        fs::create_dir_all(cache).map_err(at(cache, "create it"))?;
        let lock = File::create(cache.join("lock")).map_err(at(cache, "lock it"))?;
        lock.lock().map_err(at(cache, "lock it"))?;

        let directory = cache.join(format!("{PREFIX}{:016x}", recipe()));
        let image = Self {
            kernel: directory.join("vmlinuz"),
            disk: directory.join("disk.img"),
            logs: cache.to_owned(),
        };
        if directory.is_dir() {
            return Ok(image);
        }
        say("building the Debian image, once: about 40 s");
        let building = cache.join("building");
        // Of a run that was killed. Its mounts were its own and went with it.
        remove(&building)?;
        fs::create_dir(&building).map_err(at(&building, "create it"))?;
        build(&building, say)?;
        // Machines that boot at once should not wait for its way to the disk.
        let disk = File::open(building.join("disk.img")).and_then(|disk| disk.sync_all());
        disk.map_err(at(&building, "write it to the disk"))?;
        fs::rename(&building, &directory).map_err(at(&directory, "put it in place"))?;
        remove_others(cache, &directory)?;
        Ok(image)
    }
}

/// Removes images of earlier recipes. A machine that runs from one has its files open.
fn remove_others(cache: &Path, kept: &Path) -> Result<(), Error> {
    let entries = fs::read_dir(cache).map_err(Error::system(cache.display().to_string(), "read it"))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let image = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        if image && path != kept {
            remove(&path)?;
        }
    }
    Ok(())
}

/// A number for all that goes into the image.
fn recipe() -> u64 {
    let mut hasher = DefaultHasher::new();
    (AGENT, CUSTOMIZE, KERNEL_PACKAGE, PACKAGES, SOURCES, DISK_BYTES, BUILD_VERSION).hash(&mut hasher);
    hasher.finish()
}

/// To be counted up with changes of [`build`] that change the image.
const BUILD_VERSION: u32 = 1;

/// Makes `vmlinuz` and `disk.img` in a directory.
fn build(directory: &Path, say: Say) -> Result<(), Error> {
    let [root, agent, customize] = ["root", "agent", "customize.sh"].map(|name| directory.join(name));
    for (path, text) in [(&agent, AGENT), (&customize, CUSTOMIZE)] {
        fs::write(path, text).map_err(Error::system(path.display().to_string(), "write it"))?;
    }
    // In a mount namespace of its own: whatever ends it, /proc does not stay mounted in the tree that is removed
    // below.
    let mut mmdebstrap = Command::new("unshare");
    mmdebstrap.args(["--mount", "--propagation", "private"]).arg(program("mmdebstrap"));
    mmdebstrap.args(["--mode=root", "--variant=minbase", "--format=directory", "--architectures=amd64"]);
    mmdebstrap.arg(format!("--include={PACKAGES}"));
    mmdebstrap.args(["--aptopt=Apt::Install-Recommends false", "--aptopt=Acquire::Retries 3"]);
    // No documentation of others; greway's own is part of what is tested.
    mmdebstrap
        .args(["--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/zoneinfo/*"]);
    mmdebstrap.arg(format!("--customize-hook=sh '{}' \"$1\"", customize.display()));
    mmdebstrap.arg("bookworm").arg(&root).args(SOURCES);
    mmdebstrap.env("AGENT", &agent).env("KERNEL_PACKAGE", KERNEL_PACKAGE).env("LC_ALL", "C.UTF-8");
    run(&mut mmdebstrap, say)?;

    let kernel = directory.join("vmlinuz");
    fs::copy(root.join("boot/vmlinuz"), &kernel)
        .map_err(Error::system(kernel.display().to_string(), "take it out of the image"))?;
    let disk = directory.join("disk.img");
    File::create(&disk)
        .and_then(|file| file.set_len(DISK_BYTES))
        .map_err(Error::system(disk.display().to_string(), "create it"))?;
    let mut mke2fs = Command::new(program("mke2fs"));
    // No journal: a disk that goes with its process has nothing to recover.
    mke2fs.args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"]).arg(&root).arg(&disk);
    run(&mut mke2fs, say)?;
    remove(&root)
}

/// Runs a program to its end; lines like `I: installing packages` go to `say`.
fn run(command: &mut Command, say: Say) -> Result<(), Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    let error = |action| Error::system(name.clone(), action);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(error("start it"))?;
    let mut output = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if let Some(step) = line.strip_prefix("I: ").filter(|step| step.ends_with("...")) {
                say(&format!("image: {step}"));
            }
            output.push(line);
        }
    }
    let status = child.wait().map_err(error("wait for it"))?;
    if status.success() {
        return Ok(());
    }
    let end = output[output.len().saturating_sub(15)..].join("\n");
    Err(Error::Guest { guest: "Debian image".to_owned(), what: format!("{name}: {status}"), output: end })
}

fn program(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| PathBuf::from(name))
}

fn remove(directory: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::system(directory.display().to_string(), "remove it")(error))
        }
        _ => Ok(()),
    }
}
