//! Names of files: which are passed over, and in which order the rest is started.

use greway_dialects::Dialect;
use greway_spec::Mode;

use super::Definition;

/// Endings of what editors and package managers leave beside a file (initscripts
/// `__sed_discard_ignored_files`).
const LEFT_OVERS: [&str; 7] = ["~", ".bak", ".old", ".orig", ".rpmnew", ".rpmorig", ".rpmsave"];

/// Whether a file in greway's own directory is one to read.
pub(super) fn is_own(file_name: &str) -> bool {
    file_name.ends_with(".toml") && !file_name.starts_with('.')
}

/// Whether a file of the network-scripts is one to read: `ifcfg-NAME`, no copy that an editor left, no
/// alias (`ifcfg-eth0:1`) or range, not lo (initscripts `network`).
pub(super) fn is_script(file_name: &str) -> bool {
    let Some(name) = file_name.strip_prefix("ifcfg-") else { return false };
    !is_left_over(file_name) && !name.contains(':') && !name.contains("-range") && !matches!(name, "" | "lo")
}

/// Whether an editor or a package manager left it.
pub(super) fn is_left_over(file_name: &str) -> bool {
    LEFT_OVERS.iter().any(|ending| file_name.ends_with(ending))
}

/// Puts definitions into the order of `network start`: what is not of the class of the VPNs first, which
/// GRE is and GRE6 is not; within a class by the text before the first digit, then by number.
pub(super) fn boot_order(definitions: &mut [Definition]) {
    definitions.sort_by_key(|definition| {
        let first = definition.dialect == Dialect::Ifcfg
            && definition.result.as_ref().is_ok_and(|file| file.spec.mode == Mode::Ip6Gre);
        let (text, number) = split(&definition.name);
        (!first, text, number, definition.path.clone())
    });
}

/// Sorts things that have tunnels' names as `network start` does within a class.
pub(crate) fn by_boot_order<T>(things: &mut [T], name: impl Fn(&T) -> String) {
    things.sort_by_key(|thing| split(&name(thing)));
}

/// `tun10` is `tun` and 10.
fn split(name: &str) -> (String, u64) {
    let digits = name.find(|c: char| c.is_ascii_digit()).unwrap_or(name.len());
    let (text, rest) = name.split_at(digits);
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    (text.to_owned(), rest[..end].parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_definition() {
        for name in ["ifcfg-tun0", "ifcfg-my.tunnel", "ifcfg-tun0.old2"] {
            assert!(is_script(name), "{name}");
        }
        for name in [
            "ifcfg-tun0~",
            "ifcfg-tun0.bak",
            "ifcfg-tun0.old",
            "ifcfg-tun0.orig",
            "ifcfg-tun0.rpmnew",
            "ifcfg-tun0.rpmorig",
            "ifcfg-tun0.rpmsave",
            "ifcfg-eth0:1",
            "ifcfg-eth0-range0",
            "ifcfg-lo",
            "ifcfg-",
            "route-tun0",
            "keys-tun0",
        ] {
            assert!(!is_script(name), "{name}");
        }
        assert!(is_own("tun0.toml"));
        for name in [".#tun0.toml", "tun0.toml~", "tun0.toml.bak", "README"] {
            assert!(!is_own(name), "{name}");
        }
    }

    #[test]
    fn numbers_count_as_numbers() {
        let mut names = ["tun10", "tun9", "gre1", "tun", "tun1a"];
        names.sort_by_key(|name| split(name));
        assert_eq!(names, ["gre1", "tun", "tun1a", "tun9", "tun10"]);
    }
}
