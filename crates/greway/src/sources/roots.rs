//! Which directories are looked into.

use std::path::{Path, PathBuf};

/// Puts another directory in the place of `/` for everything that is read from /etc and called in /sbin.
/// For tests, and for an image that is not booted.
pub(crate) const ROOT_VARIABLE: &str = "GREWAY_ROOT";

/// The directory below which /etc lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Roots {
    root: PathBuf,
}

impl Roots {
    /// `/`, or what GREWAY_ROOT names.
    pub(crate) fn of_this_system() -> Self {
        let named = std::env::var_os(ROOT_VARIABLE).filter(|root| !root.is_empty());
        Self { root: named.map_or_else(|| PathBuf::from("/"), PathBuf::from) }
    }

    /// Below another directory.
    #[cfg(test)]
    pub(crate) fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// greway's own files.
    pub(crate) fn tunnels(&self) -> PathBuf {
        self.path("/etc/greway/tunnels.d")
    }

    /// The network-scripts' files.
    pub(crate) fn scripts(&self) -> PathBuf {
        self.path("/etc/sysconfig/network-scripts")
    }

    /// An absolute path, below the root.
    pub(crate) fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    /// Whether this is the system that runs.
    pub(crate) fn is_the_system(&self) -> bool {
        self.root == Path::new("/")
    }
}
