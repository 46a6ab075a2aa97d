//! `cargo xtask ebpf`: builds the BPF programs and replaces the committed object.
//!
//! The programs need a compiler with its library source and a linker for BPF, which most machines lack. So
//! the object is committed, users never come here, and this command says which toolchain it takes, from
//! where, and what it runs. It refuses to build with the workspace's own toolchain, which has no library
//! source, and it installs nothing that is already there.
//!
//! ```text
//! cargo xtask ebpf              build, strip, write obj/greway.bpf.o and obj/greway.bpf.txt
//! cargo xtask ebpf --out FILE   build and strip into FILE, leave the committed object alone
//! cargo xtask ebpf --check      compare the recorded digest with that of the sources, build nothing
//! cargo xtask ebpf --verify     build, and fail unless the bytes are those that are committed
//! ```

mod sources;
mod toolchain;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::shell;
use sources::{OBJECT, RECORD, RUSTFLAGS, TARGET};
use toolchain::{Toolchain, checked, say};

/// Runs the verb with the words after `ebpf`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let root = shell::root();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        [] => replace(&root),
        ["--out", file] => fs::write(file, build(&root, &Toolchain::find_or_install()?)?)
            .with_context(|| format!("cannot write {file}")),
        ["--check"] => check(&root),
        ["--verify"] => verify(&root),
        _ => bail!("unknown words {words:?}; usage: cargo xtask ebpf [--out FILE | --check | --verify]"),
    }
}

fn replace(root: &Path) -> Result<()> {
    let toolchain = Toolchain::find_or_install()?;
    let object = build(root, &toolchain)?;
    let record = format!(
        "# Written by `cargo xtask ebpf`, see docs/ebpf.md. The object beside this file comes from sources with\n\
         # this digest; the versions are for people, another compiler may give other bytes.\n\
         sources {}\n\
         object {}\n\
         bytes {}\n\
         target {TARGET}\n\
         flags {}\n\
         rustc {}\n\
         bpf-linker {}\n",
        sources::sources_digest(root)?,
        sources::digest(&object),
        object.len(),
        RUSTFLAGS.join(" "),
        toolchain.rustc_version()?,
        toolchain.linker_version()?,
    );
    fs::create_dir_all(root.join(OBJECT).parent().context("the object has no folder")?)?;
    fs::write(root.join(OBJECT), &object).with_context(|| format!("cannot write {OBJECT}"))?;
    fs::write(root.join(RECORD), record).with_context(|| format!("cannot write {RECORD}"))?;
    say(&format!("wrote {OBJECT} ({} bytes) and {RECORD}", object.len()));
    Ok(())
}

fn check(root: &Path) -> Result<()> {
    let record = fs::read_to_string(root.join(RECORD)).with_context(|| format!("cannot read {RECORD}"))?;
    let object = fs::read(root.join(OBJECT)).with_context(|| format!("cannot read {OBJECT}"))?;
    let of_sources = sources::sources_digest(root)?;
    let of_object = sources::digest(&object);
    if sources::recorded(&record, "sources") != Some(of_sources.as_str()) {
        bail!(
            "{OBJECT} is older than its sources (now {of_sources}): run `cargo xtask ebpf` and commit both files"
        );
    }
    if sources::recorded(&record, "object") != Some(of_object.as_str()) {
        bail!("{OBJECT} is not the object that {RECORD} describes: run `cargo xtask ebpf`");
    }
    say(&format!("{OBJECT} is that of the sources"));
    Ok(())
}

fn verify(root: &Path) -> Result<()> {
    check(root)?;
    let fresh = build(root, &Toolchain::find_or_install()?)?;
    let committed = fs::read(root.join(OBJECT))?;
    if fresh != committed {
        bail!(
            "the fresh object ({} bytes, {}) is not the committed one ({} bytes, {}); the versions in {RECORD} \
             say which compiler made that",
            fresh.len(),
            sources::digest(&fresh),
            committed.len(),
            sources::digest(&committed)
        );
    }
    say("the fresh object is the committed one, byte for byte");
    Ok(())
}

/// Builds the programs and returns the stripped object.
fn build(root: &Path, toolchain: &Toolchain) -> Result<Vec<u8>> {
    let target_dir = target_dir(root);
    // BTF keeps the path of every source line. Without these an object would tell where it was built.
    let remap = [
        format!("--remap-path-prefix={}=greway", root.display()),
        format!("--remap-path-prefix={}=cargo", cargo_home()?.join("registry/src").display()),
        format!("--remap-path-prefix={}=rust", toolchain.library_source().display()),
    ];
    let flags: Vec<&str> = RUSTFLAGS.iter().copied().chain(remap.iter().map(String::as_str)).collect();
    let mut cargo = toolchain.cargo();
    cargo
        .args(["build", "--release", "--locked", "-Zbuild-std=core", "--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .current_dir(root.join("crates/greway-ebpf"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    checked(&mut cargo)?;

    let linked = target_dir.join(TARGET).join("release/greway");
    let stripped = target_dir.join("greway.bpf.o");
    let mut objcopy = Command::new(toolchain.objcopy()?);
    objcopy.arg("--strip-debug").arg(&linked).arg(&stripped);
    checked(&mut objcopy)?;
    fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))
}

/// Apart from the workspace's, so that two compilers do not throw each other's work away.
fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from).join("ebpf")
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    let home = std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(Path::new(&home).join(".cargo"))
}
