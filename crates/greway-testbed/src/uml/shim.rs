//! Building the preload library that `uml/xstate.c` describes, where the processor makes it necessary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{find, write};
use crate::Error;

const SOURCE: &str = include_str!("../../uml/xstate.c");

/// Whether the host's register image is larger than User Mode Linux's buffer: with AMX it is.
pub(super) fn needed() -> bool {
    fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("amx_tile"))
}

/// Compiles the library into `directory` and gives its path.
pub(super) fn compile(directory: &Path) -> Result<PathBuf, Error> {
    let source = directory.join("xstate.c");
    let library = directory.join("xstate.so");
    write(&source, SOURCE)?;
    let compiler = find("cc").unwrap_or_else(|| PathBuf::from("cc"));
    let output = Command::new(compiler)
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .arg(&library)
        .arg(&source)
        .arg("-ldl")
        .output()
        .map_err(Error::system("cc", "start it"))?;
    if output.status.success() {
        return Ok(library);
    }
    let output = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::Guest { guest: "xstate.so".to_owned(), what: "cannot compile".to_owned(), output })
}
