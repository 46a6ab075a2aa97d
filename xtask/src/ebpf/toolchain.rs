//! A compiler that can build for BPF, found or installed: Debian's packages or a rustup nightly.
//!
//! Either way three things are needed: a compiler that takes unstable options, the source of its library
//! (`core` is compiled for BPF on the spot), and a `bpf-linker` built for an LLVM that is not older than
//! the compiler's. Debian's stable compiler takes unstable options by `RUSTC_BOOTSTRAP`, which is what
//! Debian and the kernel use it for; rustup has a nightly.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// The linker's version that `cargo install` is asked for.
const LINKER: &str = "0.13.0";

/// The LLVM of Debian's `rustc-web`, and so of the linker beside it.
const DEBIAN_LLVM: &str = "22";

/// Debian 12's packages: compiler 1.96, the source of its library, its cargo, and LLVM.
const DEBIAN_PACKAGES: &[&str] = &["rustc-web", "rust-web-src", "cargo-web", "llvm-22-dev"];

pub(super) enum Toolchain {
    /// `/usr/bin/cargo` and `/usr/bin/rustc`.
    Debian,
    /// `rustup run nightly`, with its sysroot.
    Nightly { sysroot: PathBuf },
}

impl Toolchain {
    /// The toolchain that is there, or else the one that can be installed here.
    pub(super) fn find_or_install() -> Result<Self> {
        let toolchain = Self::compiler()?;
        toolchain.install_linker()?;
        Ok(toolchain)
    }

    fn compiler() -> Result<Self> {
        if let Some(found) = Self::find() {
            return Ok(found);
        }
        if shell::is_root() && Path::new("/usr/bin/apt-get").exists() {
            say(&format!("no compiler for BPF here; installing {}", DEBIAN_PACKAGES.join(" ")));
            let install = |packages: &[&str]| {
                checked(
                    Command::new("apt-get")
                        .args(["install", "-y", "--no-install-recommends"])
                        .args(packages)
                        .env("DEBIAN_FRONTEND", "noninteractive"),
                )
            };
            let installed = install(DEBIAN_PACKAGES).or_else(|_stale| {
                // The lists may be older than the packages, or not there yet.
                checked(Command::new("apt-get").arg("update")).and_then(|()| install(DEBIAN_PACKAGES))
            });
            match installed {
                Ok(()) => {
                    return Self::find().context("apt-get installed no compiler with its library source");
                }
                Err(error) => say(&format!("{error:#}; trying rustup")),
            }
        }
        if runs("rustup", "--version") {
            say("installing rustup's nightly with the source of its library");
            checked(Command::new("rustup").args([
                "toolchain",
                "install",
                "nightly",
                "--profile",
                "minimal",
                "--component",
                "rust-src",
            ]))?;
        }
        Self::find().with_context(|| {
            format!(
                "no compiler for BPF: on Debian 12 run `apt-get install {}` as root, elsewhere \
                 `rustup toolchain install nightly --component rust-src`",
                DEBIAN_PACKAGES.join(" ")
            )
        })
    }

    fn find() -> Option<Self> {
        let debian = Self::Debian;
        let llvm = PathBuf::from(format!("/usr/lib/llvm-{DEBIAN_LLVM}"));
        if [Path::new("/usr/bin/rustc"), Path::new("/usr/bin/cargo"), &llvm].iter().all(|path| path.exists())
            && debian.library_source().join("core").exists()
        {
            say("using Debian's compiler, /usr/bin/rustc");
            return Some(debian);
        }
        let sysroot =
            output(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"])).ok()?;
        let nightly = Self::Nightly { sysroot: sysroot.trim().into() };
        if nightly.library_source().join("core").exists() {
            say("using rustup's nightly");
            return Some(nightly);
        }
        None
    }

    fn install_linker(&self) -> Result<()> {
        if self.linker_version().is_ok() {
            return Ok(());
        }
        say(&format!("installing bpf-linker {LINKER} (a minute or two)"));
        let mut install = Command::new("cargo");
        install.args(["install", "bpf-linker", "--version", LINKER]);
        // The workspace's target folder is no place for it.
        install.env_remove("CARGO_TARGET_DIR");
        if matches!(self, Self::Debian) {
            let llvm = format!("/usr/lib/llvm-{DEBIAN_LLVM}");
            install
                .args(["--no-default-features", "--features", &format!("llvm-{DEBIAN_LLVM}")])
                .env("RUSTFLAGS", format!("-L {llvm}/lib"))
                .env("LLVM_PREFIX", llvm);
        }
        checked(&mut install)?;
        self.linker_version().map(drop).context("bpf-linker is installed, but not on the PATH")
    }

    /// A cargo that compiles with this toolchain, whatever the workspace's own is.
    pub(super) fn cargo(&self) -> Command {
        let mut cargo = match self {
            Self::Debian => {
                let mut cargo = Command::new("/usr/bin/cargo");
                cargo.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
                cargo
            }
            Self::Nightly { .. } => {
                let mut cargo = Command::new("rustup");
                cargo.args(["run", "nightly", "cargo"]).env_remove("RUSTC");
                cargo
            }
        };
        // Set by the cargo that runs this program, for its own toolchain.
        for name in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_BUILD_TARGET"] {
            cargo.env_remove(name);
        }
        cargo
    }

    /// Where the source of `core` and the rest of the library is.
    pub(super) fn library_source(&self) -> PathBuf {
        match self {
            Self::Debian => "/usr/lib/rustlib/src/rust/library".into(),
            Self::Nightly { sysroot } => sysroot.join("lib/rustlib/src/rust/library"),
        }
    }

    /// The program that drops the DWARF that BTF was made from.
    pub(super) fn objcopy(&self) -> Result<PathBuf> {
        match self {
            Self::Debian => Ok(format!("/usr/lib/llvm-{DEBIAN_LLVM}/bin/llvm-objcopy").into()),
            Self::Nightly { sysroot } => {
                let host = self
                    .verbose_version()?
                    .lines()
                    .find_map(|line| line.strip_prefix("host: ").map(str::to_owned))
                    .context("rustc does not say its host")?;
                Ok(sysroot.join("lib/rustlib").join(host).join("bin/rust-objcopy"))
            }
        }
    }

    /// For the record: the compiler and its LLVM.
    pub(super) fn rustc_version(&self) -> Result<String> {
        let verbose = self.verbose_version()?;
        let mut lines = verbose.lines();
        let first = lines.next().unwrap_or_default().to_owned();
        let llvm = lines.find(|line| line.starts_with("LLVM")).unwrap_or_default();
        Ok(format!("{first}, {llvm}"))
    }

    /// For the record: the linker.
    pub(super) fn linker_version(&self) -> Result<String> {
        output(Command::new("bpf-linker").arg("--version")).map(|text| text.trim().to_owned())
    }

    fn verbose_version(&self) -> Result<String> {
        match self {
            Self::Debian => output(Command::new("/usr/bin/rustc").arg("-vV")),
            Self::Nightly { sysroot } => output(Command::new(sysroot.join("bin/rustc")).arg("-vV")),
        }
    }
}

/// One line on what is going on.
pub(super) fn say(line: &str) {
    #[expect(clippy::print_stderr, reason = "a task tells the person at the terminal what it does")]
    {
        eprintln!("ebpf: {line}");
    }
}

/// Runs `command` in the open: prints it, and fails when it fails.
pub(super) fn checked(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    say(&shown);
    let status = command.status().with_context(|| format!("cannot run `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed: {status}");
    }
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = command.output().with_context(|| format!("cannot run `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` failed: {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

fn runs(program: &str, word: &str) -> bool {
    Command::new(program).arg(word).output().is_ok_and(|output| output.status.success())
}
