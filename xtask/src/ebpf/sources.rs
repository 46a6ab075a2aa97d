//! What the committed object depends on, as one digest.
//!
//! Users never build the BPF programs, so nothing but this digest ties `obj/greway.bpf.o` to its sources.
//! `cargo xtask ebpf` records it, and a test of `greway-fastpath` (which includes this very file) fails when
//! the record is not that of the sources. It refuses to look at compiler versions: those are recorded beside
//! it for people, and a newer compiler does not make the object stale.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

/// The target the programs are built for.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Compiler flags that shape the object: BTF, which is made from debug information. The cfg keeps aya-ebpf
/// from asking which machine builds; what depends on it are kprobes, and those are not used. The last one is for
/// speed: without it the linker has every copy and every zeroing made by a loop over bytes.
pub(crate) const RUSTFLAGS: &[&str] = &[
    "--cfg=bpf_target_arch=\"x86_64\"",
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    "-Clink-arg=--disable-expand-memcpy-in-order",
];

/// The committed object, from the root of the repository.
pub(crate) const OBJECT: &str = "crates/greway-fastpath/obj/greway.bpf.o";

/// What is known about it: one `word value` a line.
pub(crate) const RECORD: &str = "crates/greway-fastpath/obj/greway.bpf.txt";

/// Files, or folders of them, whose bytes decide the object's.
const SOURCES: &[&str] = &[
    "crates/greway-ebpf/Cargo.lock",
    "crates/greway-ebpf/Cargo.toml",
    "crates/greway-ebpf/src",
    "crates/greway-ebpf-abi/src",
];

/// SHA-256 over the names and bytes of all sources, the target and the flags, in hexadecimal.
pub(crate) fn sources_digest(root: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&root.join(source), &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in &files {
        let name = file.strip_prefix(root).unwrap_or(file).to_string_lossy().into_owned();
        let bytes = fs::read(file)?;
        // Lengths keep two neighbouring fields from reading as one.
        hash.update(format!("{name}\0{}\0", bytes.len()));
        hash.update(&bytes);
    }
    hash.update(format!("{TARGET}\0{}", RUSTFLAGS.join("\0")));
    Ok(hex(&hash.finalize()))
}

/// SHA-256 of `bytes` in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The value of `word` in the record beside the object.
pub(crate) fn recorded<'a>(record: &'a str, word: &str) -> Option<&'a str> {
    record.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' ')).map(str::trim)
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
