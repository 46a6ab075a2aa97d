//! /etc/greway/greway.toml: what holds for this host and not for one tunnel.
//!
//! There need be no such file. One that is wrong is refused whole, with line and column, by every command that
//! is greway's business; a command that is not (`ip route` through the shim) does not fail over it.
//! GREWAY_CONFIG names another file.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use greway_control::daemon::{BusyPoll, Steer, Workers};
use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

/// The environment variable that names another file.
pub(crate) const CONFIG_VARIABLE: &str = "GREWAY_CONFIG";

/// The environment variable that overrides `shim.backend`.
pub(crate) const BACKEND_VARIABLE: &str = "GREWAY_BACKEND";

/// Where the file is.
pub(crate) const PATH: &str = "/etc/greway/greway.toml";

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// What the daemon does.
    pub(crate) daemon: Daemon,
    /// What the personalities do.
    pub(crate) shim: Shim,
    /// `[tools]`: the real tools by name, as absolute paths; where none is given PATH is searched.
    pub(crate) tools: BTreeMap<String, PathBuf>,
}

/// `[daemon]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Daemon {
    /// Whether senders whose GRE packets match no tunnel are told so, as the kernel does.
    #[serde(alias = "port_unreachable")]
    pub(crate) port_unreachable: bool,
    /// Whether eBPF programs may carry tunnels.
    #[serde(alias = "fast_path")]
    pub(crate) fast_path: bool,
    /// Whether received packets are spread over CPUs by the flow inside.
    pub(crate) steer: Steer,
    /// How long the thread that carries packets in userspace looks for the next before it sleeps.
    #[serde(alias = "busy_poll", deserialize_with = "busy_poll")]
    pub(crate) busy_poll: BusyPoll,
    /// How many threads carry packets in userspace.
    #[serde(deserialize_with = "workers")]
    pub(crate) workers: Workers,
    /// Whether super-packets are handed to the kernel whole where they can be.
    #[serde(alias = "super_packets")]
    pub(crate) super_packets: bool,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            port_unreachable: true,
            fast_path: true,
            steer: Steer::Off,
            busy_poll: BusyPoll::Adaptive,
            workers: Workers::Auto,
            super_packets: true,
        }
    }
}

/// `workers`: "auto" or a number.
fn workers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Workers, D::Error> {
    struct Asked;
    impl Visitor<'_> for Asked {
        type Value = Workers;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "\"auto\" or 1 to {}", Workers::MOST)
        }

        fn visit_str<E: de::Error>(self, word: &str) -> Result<Workers, E> {
            match word {
                "auto" => Ok(Workers::Auto),
                _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
            }
        }

        fn visit_i64<E: de::Error>(self, count: i64) -> Result<Workers, E> {
            let fixed = u8::try_from(count).ok().and_then(Workers::fixed);
            fixed.ok_or_else(|| E::invalid_value(Unexpected::Signed(count), &self))
        }
    }
    deserializer.deserialize_any(Asked)
}

/// `busy-poll`: a word, or microseconds.
fn busy_poll<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BusyPoll, D::Error> {
    /// Whoever looks for longer than a millisecond wants a processor of its own, and no tunnel is worth that unasked.
    const LONGEST: i64 = 1_000;
    struct Asked;
    impl Visitor<'_> for Asked {
        type Value = BusyPoll;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "\"auto\", \"off\" or 1 to {LONGEST} microseconds")
        }

        fn visit_str<E: de::Error>(self, word: &str) -> Result<BusyPoll, E> {
            match word {
                "auto" => Ok(BusyPoll::Adaptive),
                "off" => Ok(BusyPoll::Off),
                _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
            }
        }

        fn visit_i64<E: de::Error>(self, micros: i64) -> Result<BusyPoll, E> {
            match u32::try_from(micros) {
                Ok(micros @ 1..) if i64::from(micros) <= LONGEST => Ok(BusyPoll::Fixed(micros)),
                _ => Err(E::invalid_value(Unexpected::Signed(micros), &self)),
            }
        }
    }
    deserializer.deserialize_any(Asked)
}

/// `[shim]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Shim {
    /// Who makes the tunnels of `ip tunnel add … mode gre`.
    pub(crate) backend: Backend,
    /// Whether `ip tunnel add` and `ip link add` leave the device up. The kernel's own leave it down.
    #[serde(alias = "up_on_create")]
    pub(crate) up_on_create: bool,
}

impl Default for Shim {
    fn default() -> Self {
        Self { backend: Backend::Auto, up_on_create: true }
    }
}

/// Who makes GRE tunnels when `ip` is asked to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Backend {
    /// The kernel where it can, greway where it cannot. A name that is greway's is greway's.
    #[default]
    Auto,
    /// greway, whatever the kernel can do.
    Greway,
    /// The kernel. A name that is greway's is greway's all the same.
    Kernel,
}

impl Backend {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "auto" => Some(Self::Auto),
            "greway" => Some(Self::Greway),
            "kernel" => Some(Self::Kernel),
            _ => None,
        }
    }
}

impl Settings {
    /// Reads the file; no file: the defaults.
    ///
    /// # Errors
    /// A file that cannot be read or is not right, with its place, or a wrong word in GREWAY_BACKEND.
    pub(crate) fn read() -> anyhow::Result<Self> {
        let path = std::env::var_os(CONFIG_VARIABLE).map_or_else(|| PathBuf::from(PATH), PathBuf::from);
        let shown = path.display();
        let mut settings = match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map_err(|error| anyhow!("{shown}:{error}"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
        };
        if let Some(word) = std::env::var_os(BACKEND_VARIABLE) {
            let word = word.to_string_lossy();
            settings.shim.backend = Backend::parse(&word).with_context(|| {
                format!("{BACKEND_VARIABLE} is \"{word}\"; auto, greway or kernel is right")
            })?;
        }
        Ok(settings)
    }

    /// Reads the text of such a file; the error begins with `LINE:COLUMN: `.
    fn parse(text: &str) -> Result<Self, String> {
        let settings: Self = toml::from_str(text).map_err(|error| {
            let before = &text[..error.span().map_or(0, |span| span.start).min(text.len())];
            let line = before.matches('\n').count() + 1;
            let begun = before.rsplit('\n').next().unwrap_or_default();
            let column = begun.chars().count() + 1;
            // A value by itself says little.
            let key = begun.trim_end().strip_suffix('=').map(|key| format!("{}: ", key.trim()));
            match error.span().filter(|_| error.message() == "duplicate key").and_then(|span| text.get(span))
            {
                Some(key) => format!("{line}:{column}: the key {key} is there twice: once is right"),
                None => format!("{line}:{column}: {}{}", key.unwrap_or_default(), error.message()),
            }
        })?;
        match settings.tools.iter().find(|(_, path)| !path.is_absolute()) {
            None => Ok(settings),
            Some((name, path)) => {
                let line = text.lines().position(|line| line.trim_start().starts_with(name.as_str()));
                let line = line.map_or(1, |index| index + 1);
                Err(format!("{line}:1: {name} = \"{}\": an absolute path is right", path.display()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_defaults() {
        let settings = Settings::parse("").unwrap();
        assert_eq!(settings, Settings::default());
        assert!(settings.daemon.port_unreachable);
        assert_eq!(settings.daemon.steer, Steer::Off, "it changes settings of devices that are not greway's");
        assert!(settings.shim.up_on_create && settings.shim.backend == Backend::Auto);
    }

    #[test]
    fn all_that_can_be_said() {
        let text = "[shim]\nbackend = \"greway\"\nup_on_create = false\n[tools]\nip = \"/opt/ip\"\n\
                    [daemon]\nport_unreachable = false\n";
        let settings = Settings::parse(text).unwrap();
        assert!(!settings.daemon.port_unreachable);
        assert_eq!(Settings::parse("[daemon]\nport-unreachable = false").unwrap().daemon, settings.daemon);
        let steer = |word: &str| {
            Settings::parse(&format!("[daemon]\nsteer = {word}")).map(|settings| settings.daemon.steer)
        };
        assert_eq!((steer("\"rps\""), steer("\"off\"")), (Ok(Steer::Rps), Ok(Steer::Off)));
        let busy_poll = |value: &str| {
            Settings::parse(&format!("[daemon]\nbusy-poll = {value}"))
                .map(|settings| settings.daemon.busy_poll)
        };
        assert_eq!(busy_poll("\"auto\""), Ok(settings.daemon.busy_poll));
        assert_eq!((busy_poll("\"off\""), busy_poll("1000")), (Ok(BusyPoll::Off), Ok(BusyPoll::Fixed(1000))));
        let workers = |value: &str| {
            Settings::parse(&format!("[daemon]\nworkers = {value}")).map(|settings| settings.daemon.workers)
        };
        assert_eq!(workers("\"auto\""), Ok(settings.daemon.workers));
        assert_eq!([1, 64].map(|count| workers(&count.to_string()).ok()), [1, 64].map(Workers::fixed));
        assert_eq!(settings.shim, Shim { backend: Backend::Greway, up_on_create: false });
        assert_eq!(settings.tools["ip"], PathBuf::from("/opt/ip"));
    }

    #[test]
    fn every_key_of_the_daemon_is_on_its_page() {
        let page = include_str!("../../../docs/files.md");
        let (_, section) = page.split_once("## greway.toml").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let error = Settings::parse("[daemon]\nno-such-key = 1").unwrap_err();
        let (_, known) = error.split_once("expected").unwrap();
        let known = known.split('`').skip(1).step_by(2).filter(|key| !key.contains('_')).collect::<Vec<_>>();
        assert!(known.len() > 2, "{error}");
        for key in known {
            assert!(
                section.contains(&format!("| `{key}` in `[daemon]` |")),
                "docs/files.md has no row for {key}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let wrong = |text: &str| Settings::parse(text).unwrap_err();
        assert!(
            wrong("[shim]\nbackend = \"tun\"").starts_with("2:11: "),
            "{}",
            wrong("[shim]\nbackend = \"tun\"")
        );
        assert_eq!(
            wrong("[daemon]\nsteer = \"xdp\""),
            "2:9: steer: unknown variant `xdp`, expected `off` or `rps`"
        );
        assert!(wrong("[daemon]\nsteer = true").starts_with("2:9: "), "{}", wrong("[daemon]\nsteer = true"));
        for (value, named) in [("0", "integer `0`"), ("1001", "integer `1001`"), ("\"on\"", "string \"on\"")]
        {
            assert_eq!(
                wrong(&format!("[daemon]\nbusy-poll = {value}")),
                format!(
                    "2:13: busy-poll: invalid value: {named}, expected \"auto\", \"off\" or 1 to 1000 microseconds"
                )
            );
        }
        for (value, named) in [("0", "integer `0`"), ("65", "integer `65`"), ("\"all\"", "string \"all\"")] {
            assert_eq!(
                wrong(&format!("[daemon]\nworkers = {value}")),
                format!("2:11: workers: invalid value: {named}, expected \"auto\" or 1 to 64")
            );
        }
        assert!(wrong("[shim]\nbakend = \"auto\"").contains("bakend"));
        let twice = "[daemon]\nfast-path = false\nfast-path = true";
        assert_eq!(wrong(twice), "3:1: the key fast-path is there twice: once is right");
        assert_eq!(wrong("[tools]\n\nip = \"ip\""), "3:1: ip = \"ip\": an absolute path is right");
    }
}
