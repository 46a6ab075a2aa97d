//! Which dialect a file is written in.

use std::path::Path;

use crate::diagnostic::Diagnostic;
use crate::parsed::Parsed;
use crate::{ifcfg, native};

/// A way to write a tunnel down in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Our own, in TOML.
    Native,
    /// `ifcfg-NAME` of the network-scripts.
    Ifcfg,
}

/// Tells the dialect by the file's name (`ifcfg-…`, `….toml`), else by a line `TYPE=…`.
pub fn detect(file_name: &str, text: &str) -> Dialect {
    let path = Path::new(file_name);
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    if name.starts_with("ifcfg-") {
        return Dialect::Ifcfg;
    }
    if path.extension().is_some_and(|extension| extension == "toml") {
        return Dialect::Native;
    }
    let assigns_type = |line: &str| {
        let line = line.trim_start();
        line.strip_prefix("export ").unwrap_or(line).trim_start().starts_with("TYPE=")
    };
    if text.lines().any(assigns_type) { Dialect::Ifcfg } else { Dialect::Native }
}

/// Reads a file of either dialect.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn parse(text: &str, file_name: &str) -> Result<Parsed, Diagnostic> {
    match detect(file_name, text) {
        Dialect::Native => native::parse(text, file_name),
        Dialect::Ifcfg => ifcfg::parse(text, file_name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_name_then_by_content() {
        for (name, text, dialect) in [
            ("/etc/sysconfig/network-scripts/ifcfg-tun0", "", Dialect::Ifcfg),
            ("/etc/greway/tunnels.d/tun0.toml", "TYPE=GRE\n", Dialect::Native),
            ("tun0", "DEVICE=tun0\n  export TYPE=GRE\n", Dialect::Ifcfg),
            ("tun0", "remote = \"100.0.2.100\"\n", Dialect::Native),
            ("ifcfg-x/tun0.toml", "", Dialect::Native),
        ] {
            assert_eq!(detect(name, text), dialect, "{name}");
        }
    }
}
