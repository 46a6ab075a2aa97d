//! Programs of the system that some tests start: found in the usual places, whatever PATH says.

use std::path::{Path, PathBuf};

const SEARCH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// A program in the usual places.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    SEARCH.iter().map(|place| Path::new(place).join(program)).find(|path| path.is_file())
}

/// Says whether each of these programs is there, given with the package that has it.
///
/// # Errors
/// The first that is not, as one sentence.
pub(crate) fn all(programs: &[(&str, &str)]) -> Result<(), String> {
    for (program, package) in programs {
        find(program).ok_or_else(|| format!("no {program} (package {package})"))?;
    }
    Ok(())
}
