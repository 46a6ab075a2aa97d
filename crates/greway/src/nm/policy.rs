//! What is to become of ip-tunnel profiles: for all in a file, for one in the profile itself.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, bail};
use clap::ValueEnum;
use greway_nm::{POLICY, Profile};

/// The file; there need be none.
const PATH: &str = "/etc/greway/networkmanager";

/// What becomes of a profile of type ip-tunnel that this kernel cannot bring up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Policy {
    /// It is changed in place into one that NetworkManager can bring up
    #[default]
    Adopt,
    /// It stays as it is, and greway makes the device with the profile's addresses
    Shadow,
    /// It is left alone
    Off,
}

impl Policy {
    /// Its word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Adopt => "adopt",
            Self::Shadow => "shadow",
            Self::Off => "off",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Adopt, Self::Shadow, Self::Off].into_iter().find(|policy| policy.word() == word)
    }

    /// The host's.
    ///
    /// # Errors
    /// A file that cannot be read or says something else.
    pub(crate) fn of_host() -> anyhow::Result<Self> {
        match fs::read_to_string(PATH) {
            Ok(text) => parse(&text).with_context(|| PATH.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {PATH}")),
        }
    }

    /// That of a profile; `host` where it has none of its own.
    ///
    /// # Errors
    /// A `greway.policy` that is none.
    pub(crate) fn of(profile: &Profile, host: Self) -> anyhow::Result<Self> {
        match profile.user().get(POLICY) {
            None => Ok(host),
            Some(word) => Self::parse(word).with_context(|| {
                format!("profile {}: {POLICY} is \"{word}\"; adopt, shadow or off is right", profile.id())
            }),
        }
    }

    /// Makes it the host's.
    ///
    /// # Errors
    /// When the file cannot be written; it is as it was then.
    pub(crate) fn write(self) -> anyhow::Result<()> {
        let path = Path::new(PATH);
        let folder = path.parent().unwrap_or_else(|| Path::new("/"));
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let new = path.with_extension("new");
        let text = format!(
            "# What becomes of NetworkManager's ip-tunnel profiles: adopt, shadow or off.\n\
             # `greway nm policy` writes it; a profile's own policy goes before it.\n\
             policy = {self}\n"
        );
        let written = fs::File::create(&new).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            fs::rename(&new, path)
        });
        written.with_context(|| format!("cannot write {PATH}"))
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

fn parse(text: &str) -> anyhow::Result<Policy> {
    let mut policy = None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let value = line.split_once('=').filter(|(name, _)| name.trim() == "policy");
        let word = value.map(|(_, value)| value.trim().trim_matches('"'));
        match word.and_then(Policy::parse) {
            Some(read) if policy.is_none() => policy = Some(read),
            Some(_) => bail!("line {number}: there is a policy already"),
            None => bail!("line {number}: \"{line}\"; policy = adopt, shadow or off is right"),
        }
    }
    Ok(policy.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_one_policy_or_none() {
        assert_eq!(parse("").unwrap(), Policy::Adopt);
        assert_eq!(parse("# shadow\n\npolicy = shadow\n").unwrap(), Policy::Shadow);
        assert_eq!(parse("policy=\"off\"").unwrap(), Policy::Off);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let wrong = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(wrong("\npolicy = on"), "line 2: \"policy = on\"; policy = adopt, shadow or off is right");
        assert_eq!(wrong("policy = off\npolicy = off"), "line 2: there is a policy already");
        assert!(wrong("adopt").starts_with("line 1"));
    }
}
