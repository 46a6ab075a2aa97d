//! How `ip` gives up: the words on stderr and the exit code, to the letter.
//!
//! Scripts test for these codes and grep for these sentences, so nothing here is improved upon. The
//! texts are those of iproute2 6.1 (lib/utils.c, ip/iptunnel.c, ip/link_gre.c); [`Wording`] has what
//! changed since.

use std::fmt;

/// The end of a command: what to print on stderr, as it is, and the exit code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", stderr.trim_end())]
pub struct Abort {
    /// Complete, with its line ends.
    pub stderr: String,
    /// 255: the words are wrong; 1: something the words name is; 2: the kernel said no over netlink.
    pub code: u8,
}

/// Which version's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wording {
    /// iproute2 6.1, and all before 6.13.
    #[default]
    V6_1,
    /// iproute2 6.15, and all from 6.13 on.
    V6_15,
}

impl Wording {
    /// The wording of the version that `ip -V` prints: `ip utility, iproute2-6.15.0`. Versions that are dates
    /// (`ss200127`) are old ones.
    pub fn of_version(text: &str) -> Self {
        let version = text.split("iproute2-").nth(1).unwrap_or(text);
        let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().ok());
        match (numbers.next().flatten(), numbers.next().flatten()) {
            (Some(major), Some(minor)) if (major, minor) >= (6, 13) => Self::V6_15,
            _ => Self::V6_1,
        }
    }
}

/// Why the kernel would have refused; prints as `strerror` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    /// EPERM.
    NotPermitted,
    /// ENOENT.
    NotFound,
    /// ENOMEM.
    NoMemory,
    /// EBUSY.
    Busy,
    /// EEXIST.
    Exists,
    /// ENODEV.
    NoSuchDevice,
    /// EINVAL.
    Invalid,
    /// EOPNOTSUPP.
    NotSupported,
    /// ENOBUFS.
    NoBuffers,
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotPermitted => "Operation not permitted",
            Self::NotFound => "No such file or directory",
            Self::NoMemory => "Cannot allocate memory",
            Self::Busy => "Device or resource busy",
            Self::Exists => "File exists",
            Self::NoSuchDevice => "No such device",
            Self::Invalid => "Invalid argument",
            Self::NotSupported => "Operation not supported",
            Self::NoBuffers => "No buffer space available",
        })
    }
}

impl Abort {
    /// One line of text, with the code.
    pub fn line(code: u8, text: impl fmt::Display) -> Self {
        Self { stderr: format!("{text}\n"), code }
    }

    /// The command ends where a value should be.
    pub(crate) fn incomplete() -> Self {
        Self::line(255, "Command line is not complete. Try option \"help\"")
    }

    /// A value that is not taken. Some of `ip`'s own messages end with a line feed, which makes an empty
    /// line.
    pub(crate) fn wrong(message: &str, argument: &str) -> Self {
        Self::line(255, format!("Error: argument \"{argument}\" is wrong: {message}"))
    }

    /// A word said twice that may stand once.
    pub(crate) fn duplicate(word: &str, second: &str) -> Self {
        Self::line(255, format!("Error: duplicate \"{word}\": \"{second}\" is the second value."))
    }

    /// A second name, or a word that was taken for one.
    pub(crate) fn garbage(word: &str, argument: &str, wording: Wording) -> Self {
        let is = match wording {
            Wording::V6_1 => "is a garbage",
            Wording::V6_15 => "is garbage",
        };
        Self::line(255, format!("Error: either \"{word}\" is duplicate, or \"{argument}\" {is}."))
    }

    /// A device that is not there. `ip` exits with 1 or 255, depending on where it finds out.
    pub(crate) fn no_device(name: &str, code: u8) -> Self {
        Self::line(code, format!("Cannot find device \"{name}\""))
    }

    pub(crate) fn bad_key(word: &str, text: &str) -> Self {
        Self::line(255, format!("invalid value for \"{word}\": \"{text}\"; it should be an unsigned integer"))
    }

    /// No IPv4 address where `ip tunnel` or a dotted key needs one.
    pub(crate) fn no_ip_address(text: &str) -> Self {
        Self::line(1, format!("Error: an IP address is expected rather than \"{text}\""))
    }

    /// No address of the family (`inet` or `inet6`).
    pub(crate) fn no_address(family: &str, text: &str) -> Self {
        Self::line(1, format!("Error: {family} address is expected rather than \"{text}\"."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, wording) in [
            ("ip utility, iproute2-6.1.0, libbpf 1.1.2", Wording::V6_1),
            ("ip utility, iproute2-5.15.0", Wording::V6_1),
            ("ip utility, iproute2-6.12.0", Wording::V6_1),
            ("ip utility, iproute2-6.13.0", Wording::V6_15),
            ("ip utility, iproute2-6.15.0, libbpf 1.5.0", Wording::V6_15),
            ("ip utility, iproute2-7.1.0", Wording::V6_15),
            ("ip utility, iproute2-ss200127", Wording::V6_1),
            ("6.15.0", Wording::V6_15),
            ("", Wording::V6_1),
        ] {
            assert_eq!(Wording::of_version(text), wording, "{text}");
        }
    }

    #[test]
    fn as_an_error_it_is_its_text() {
        let abort = Abort::wrong("invalid TTL\n", "256");
        assert_eq!(abort.stderr, "Error: argument \"256\" is wrong: invalid TTL\n\n");
        assert_eq!((abort.to_string().as_str(), abort.code), (abort.stderr.trim_end(), 255));
    }
}
