//! Names of network devices.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A valid name of a network device: 1 to 15 bytes, no `/`, no `:`, no white space, not `.` or `..`
/// (linux net/core/dev.c `dev_valid_name`, v6.18; `%` is refused too, it would be a pattern).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceName(String);

impl DeviceName {
    /// The longest name in bytes (`IFNAMSIZ` less the terminator).
    pub const MAX: usize = 15;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no device name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no device name: 1 to 15 bytes without '/', ':', '%' or white space")]
pub struct InvalidName(pub String);

impl FromStr for DeviceName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for DeviceName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        let bad = |c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control();
        let valid =
            (1..=Self::MAX).contains(&text.len()) && text != "." && text != ".." && !text.contains(bad);
        if valid { Ok(Self(text)) } else { Err(InvalidName(text)) }
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.0
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
