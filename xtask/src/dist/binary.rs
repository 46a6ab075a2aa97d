//! The program for a target: built, and looked into for what it needs at run time.

use std::env::consts::ARCH;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

use super::{output, target_directory};
use crate::shell;

/// A built program.
pub(super) struct Binary {
    pub(super) path: PathBuf,
    /// The target it was built for, with dashes.
    pub(super) target: String,
    /// What it asks of the system.
    pub(super) needs: Needs,
}

/// What a program asks of the system it runs on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing but a kernel.
    Nothing,
    /// The GNU C library of at least this version, 2.34 as (2, 34), and GCC's support library.
    Glibc(u32, u32),
}

impl Binary {
    /// Builds the program; without a target as `cargo build --release` does, so that its work is not done twice.
    pub(super) fn build(target: Option<&str>) -> anyhow::Result<Self> {
        let mut cargo = shell::cargo(&["build", "--release", "--locked", "--package", "greway"]);
        let mut directory = target_directory()?;
        if let Some(target) = target {
            provided(target)?;
            cargo.args(["--target", target]);
            directory.push(target);
            if !target.starts_with(ARCH) && target.ends_with("-musl") {
                // No C compiler for it is needed: nothing of ours is C, and the library comes with its objects.
                let variable = target.to_uppercase().replace('-', "_");
                cargo.env(format!("CARGO_TARGET_{variable}_LINKER"), "rust-lld");
            }
        }
        shell::run(&mut cargo)?;
        let path = directory.join("release/greway");
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let needs = needs(&bytes).with_context(|| format!("{}", path.display()))?;
        let target = match target {
            Some(target) => target.to_owned(),
            None => host()?,
        };
        if target.ends_with("-musl") && needs != Needs::Nothing {
            bail!("{} is not static", path.display());
        }
        Ok(Self { path, target, needs })
    }

    /// A program of the same commands that runs on this machine.
    pub(super) fn native(&self) -> anyhow::Result<PathBuf> {
        if self.target.starts_with(ARCH) {
            return Ok(self.path.clone());
        }
        Ok(Self::build(None)?.path)
    }
}

/// Refuses a target whose library is not installed.
pub(super) fn provided(target: &str) -> anyhow::Result<()> {
    let library = output(Command::new(rustc()).args(["--print", "target-libdir", "--target", target]))?;
    let there = fs::read_dir(library.trim()).is_ok_and(|mut entries| {
        entries
            .any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("libstd-")))
    });
    if !there {
        bail!("Rust's library for {target} is not installed: rustup target add {target}");
    }
    Ok(())
}

fn rustc() -> String {
    std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned())
}

fn host() -> anyhow::Result<String> {
    let verbose = output(Command::new(rustc()).arg("-vV").current_dir(shell::root()))?;
    let host = verbose.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say its host")?.to_owned())
}

/// What an ELF file asks for: an interpreter makes it dynamic, and the highest version of the C library's symbols
/// that it names is the one it needs.
fn needs(elf: &[u8]) -> anyhow::Result<Needs> {
    if !has_interpreter(elf).context("no 64-bit little-endian ELF file")? {
        return Ok(Needs::Nothing);
    }
    let (major, minor) = glibc(elf).context("it is dynamic, and names no version of the GNU C library")?;
    Ok(Needs::Glibc(major, minor))
}

/// Whether a program header is PT_INTERP (elf(5)).
fn has_interpreter(elf: &[u8]) -> Option<bool> {
    const INTERP: u32 = 3;
    let half = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_le_bytes(elf.get(at..at + 8)?.try_into().ok()?));
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    // e_phoff, e_phentsize, e_phnum
    let (offset, size, count) = (usize::try_from(long(32)?).ok()?, usize::from(half(54)?), half(56)?);
    let mut found = false;
    for number in 0..usize::from(count) {
        found |= word(offset + number * size)? == INTERP;
    }
    Some(found)
}

/// The highest `GLIBC_x.y` in the file.
fn glibc(elf: &[u8]) -> Option<(u32, u32)> {
    const NAME: &[u8] = b"GLIBC_";
    let starts = elf.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME);
    let versions = starts.filter_map(|(at, _)| {
        let rest = &elf[at + NAME.len()..];
        let text = std::str::from_utf8(&rest[..rest.iter().position(|byte| *byte == 0)?]).ok()?;
        let mut numbers = text.split('.').map(|number| number.parse().ok());
        Some((numbers.next()??, numbers.next()??))
    });
    versions.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF header, one program header, and what follows.
    fn sample(interpreter: bool, strings: &[u8]) -> Vec<u8> {
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 1;
        elf[64] = if interpreter { 3 } else { 1 };
        elf.extend_from_slice(strings);
        elf
    }

    #[test]
    fn a_program_with_an_interpreter_needs_the_highest_version_it_names() {
        let names = b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0GLIBC_PRIVATE\0GLIBC_\0";
        assert_eq!(needs(&sample(true, names)).unwrap(), Needs::Glibc(2, 34));
        assert_eq!(needs(&sample(false, names)).unwrap(), Needs::Nothing, "a word in a string makes no need");
        assert!(needs(&sample(true, b"")).is_err());
    }

    #[test]
    fn what_is_no_program_is_refused() {
        assert!(needs(b"#!/bin/sh\n").is_err());
        let mut cut = sample(true, b"");
        cut.truncate(65);
        assert!(needs(&cut).is_err());
    }

    #[test]
    fn this_test_itself_is_read() {
        let ours = fs::read(std::env::current_exe().unwrap()).unwrap();
        let expected = cfg!(target_env = "musl");
        assert_eq!(needs(&ours).unwrap() == Needs::Nothing, expected);
    }

    #[test]
    fn a_target_that_is_not_installed_is_refused_with_the_command() {
        let error = provided("riscv64gc-unknown-linux-musl").unwrap_err().to_string();
        assert!(error.ends_with("rustup target add riscv64gc-unknown-linux-musl"), "{error}");
    }
}
