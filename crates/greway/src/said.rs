//! A tunnel said in another dialect, for people to paste.

use clap::ValueEnum;
use greway_dialects::networkmanager::{self, Identity, keyfile, nmcli};
use greway_dialects::{ifcfg, iproute2, native, shell};
use greway_spec::TunnelSpec;

/// A dialect that a tunnel can be said in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tongue {
    /// The files of the network-scripts: ifcfg-NAME, and route- and rule- files where there is need
    Ifcfg,
    /// Commands of iproute2
    Ip,
    /// A command of NetworkManager
    Nmcli,
    /// NetworkManager's keyfile
    #[value(alias = "nm")]
    Keyfile,
    /// greway's own file
    Toml,
}

/// A text and what its reader should know.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    /// Files by the name that they have to have, or one text without a name.
    pub(crate) texts: Vec<(Option<String>, String)>,
    /// What the dialect says differently.
    pub(crate) notes: Vec<String>,
}

/// Where the network-scripts have their files.
const SCRIPTS: &str = "/etc/sysconfig/network-scripts";

impl Said {
    fn one(text: String) -> Self {
        Self { texts: vec![(None, text)], notes: Vec::new() }
    }

    /// One text that can be pasted: the text as it is, or, of several files, a shell command for each.
    pub(crate) fn paste(&self) -> String {
        match self.texts.as_slice() {
            [(_, text)] => text.clone(),
            several => {
                let here = |(name, text): &(Option<String>, String)| match name {
                    Some(name) => here_document(name, text),
                    None => text.clone(),
                };
                several.iter().map(here).collect()
            }
        }
    }

    /// As [`Said::paste`], and a single file too as a shell command.
    pub(crate) fn commands(&self) -> String {
        match self.texts.as_slice() {
            [(Some(name), text)] => here_document(name, text),
            _ => self.paste(),
        }
    }
}

/// Says a tunnel.
///
/// # Errors
/// The first field that the dialect has no word for.
pub(crate) fn say(spec: &TunnelSpec, tongue: Tongue) -> anyhow::Result<Said> {
    match tongue {
        Tongue::Toml => Ok(Said::one(native::render(spec))),
        Tongue::Ip => Ok(Said::one(lines(&iproute2::commands(spec)?))),
        Tongue::Ifcfg => {
            let ifcfg::Rendered { ifcfg, route, route6, rule, rule6 } = ifcfg::render(spec)?;
            let beside = [("route", route), ("route6", route6), ("rule", rule), ("rule6", rule6)].into_iter();
            let beside =
                beside.filter_map(|(kind, text)| Some((Some(format!("{kind}-{}", spec.name)), text?)));
            let first = (Some(format!("ifcfg-{}", spec.name)), ifcfg);
            Ok(Said { texts: std::iter::once(first).chain(beside).collect(), notes: Vec::new() })
        }
        Tongue::Nmcli | Tongue::Keyfile => {
            let (plain, notes) = networkmanager::without_peers(spec);
            let identity = Identity::of(&plain);
            let text = match tongue {
                Tongue::Nmcli => format!("{}\n", nmcli::render(&plain, &identity)?),
                _ => keyfile::render(&plain, &identity)?,
            };
            Ok(Said { notes, ..Said::one(text) })
        }
    }
}

/// The command that writes a file of the network-scripts.
fn here_document(name: &str, text: &str) -> String {
    format!("cat >{} <<'END'\n{text}END\n", shell::word(&format!("{SCRIPTS}/{name}")))
}

fn lines(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}
