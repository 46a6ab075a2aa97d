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

/// The word of `greway import` for a text in a dialect that no file of a tunnel is written in: `nm` for
/// NetworkManager's keyfile, `ip` for commands of iproute2.
pub fn to_import(file_name: &str, text: &str) -> Option<&'static str> {
    let ending = Path::new(file_name).extension();
    if ending.is_some_and(|ending| ending == "toml" || ending == "nmconnection") {
        return ending.filter(|ending| *ending == "nmconnection").map(|_| "nm");
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first = lines.next()?;
    if first == "[connection]" {
        return Some("nm");
    }
    let program = first.split_whitespace().next().filter(|_| !first.contains('='))?;
    (program == "ip" || program.ends_with("/ip")).then_some("ip")
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
    fn what_is_to_be_imported_first() {
        for (name, text, word) in [
            ("/x/tun0.nmconnection", "", Some("nm")),
            ("tun0", "\n# by hand\n[connection]\r\nid=tun0\n", Some("nm")),
            ("tun0.sh", "#!/bin/sh\n/sbin/ip tunnel add tun0 mode gre remote 1.2.3.4\n", Some("ip")),
            ("tun0", "ip = \"x\"\n", None),
            ("tun0.toml", "[connection]\n", None),
            ("tun0", "DEVICE=tun0\nTYPE=GRE\n", None),
            ("tun0", "remote = \"100.0.2.100\"\n", None),
            ("tun0", "", None),
        ] {
            assert_eq!(to_import(name, text), word, "{name} {text}");
        }
    }

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
