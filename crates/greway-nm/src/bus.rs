//! NetworkManager on the system bus: its profiles, and which of them are active.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zbus::wire::{OwnedObjectPath, OwnedVariant, Type};
use zbus::{Connection, DynamicType};

use crate::block::block_on;
use crate::profile::{Profile, Settings};

pub(crate) const SERVICE: &str = "org.freedesktop.NetworkManager";
pub(crate) const MANAGER: &str = "/org/freedesktop/NetworkManager";
const SETTINGS: &str = "/org/freedesktop/NetworkManager/Settings";
pub(crate) const SETTINGS_INTERFACE: &str = "org.freedesktop.NetworkManager.Settings";
pub(crate) const PROFILE_INTERFACE: &str = "org.freedesktop.NetworkManager.Settings.Connection";
pub(crate) const ACTIVE_INTERFACE: &str = "org.freedesktop.NetworkManager.Connection.Active";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// How long NetworkManager may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// `NM_MANAGER_RELOAD_FLAG_CONF`: read the configuration files again.
const RELOAD_CONF: u32 = 1;

/// What went wrong between NetworkManager and us.
#[derive(Debug, thiserror::Error)]
pub enum NmError {
    /// There is no system bus.
    #[error("the system's D-Bus cannot be reached: {0}")]
    NoBus(String),
    /// Nobody answers there for NetworkManager.
    #[error("NetworkManager is not running")]
    NotRunning,
    /// It said no.
    #[error("{object}: NetworkManager refused to {what}: {words}")]
    Refused {
        /// Which profile or object.
        object: String,
        /// What it was asked for.
        what: &'static str,
        /// Its words.
        words: String,
    },
}

/// A version of NetworkManager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl Version {
    /// The first with device handlers.
    pub const WITH_HANDLERS: Self = Self(1, 46);

    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(['.', '-']).map(str::parse);
        Some(Self(numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// An active connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active {
    /// Where it is on the bus.
    pub path: String,
    /// Of which profile.
    pub uuid: String,
    /// It is up in full, not on its way.
    pub activated: bool,
}

/// A connection to the system bus, on which NetworkManager may be or not.
#[derive(Clone, Debug)]
pub struct Bus {
    pub(crate) connection: Connection,
}

impl Bus {
    /// Connects to the system bus.
    ///
    /// # Errors
    /// [`NmError::NoBus`].
    pub fn connect() -> Result<Self, NmError> {
        let connect = async { zbus::connection::Builder::system().method_timeout(PATIENCE).build().await };
        let connection = block_on(connect).map_err(|error| NmError::NoBus(error.to_string()))?;
        Ok(Self { connection })
    }

    /// Its version, which also says that it runs.
    ///
    /// # Errors
    /// [`NmError::NotRunning`].
    pub fn version(&self) -> Result<Version, NmError> {
        let version = self.property(MANAGER, SERVICE, "Version", "tell its version")?;
        let version = <&str>::try_from(&*version).ok().and_then(Version::parse);
        version.ok_or_else(|| NmError::Refused {
            object: "NetworkManager".to_owned(),
            what: "tell its version",
            words: "it is not of the form 1.42".to_owned(),
        })
    }

    /// All profiles that this user may read.
    ///
    /// # Errors
    /// [`NmError`].
    pub fn profiles(&self) -> Result<Vec<Profile>, NmError> {
        let paths: Vec<OwnedObjectPath> =
            self.call(SETTINGS, SETTINGS_INTERFACE, "ListConnections", &(), "list its profiles")?;
        // One may go between the list and the look.
        Ok(paths.iter().filter_map(|path| self.profile(path.as_str()).ok()).collect())
    }

    /// The profile at a path.
    ///
    /// # Errors
    /// [`NmError`], for one that is gone too.
    pub fn profile(&self, path: &str) -> Result<Profile, NmError> {
        let settings: Settings = self.call(path, PROFILE_INTERFACE, "GetSettings", &(), "show it")?;
        Ok(Profile { path: path.to_owned(), settings })
    }

    /// Writes a changed profile, to where it was stored before.
    ///
    /// # Errors
    /// [`NmError`]; the profile is as it was then.
    pub fn update(&self, profile: &Profile) -> Result<(), NmError> {
        let arguments = BTreeMap::<String, OwnedVariant>::new();
        let body = (&profile.settings, 0u32, arguments);
        let changed: Result<BTreeMap<String, OwnedVariant>, NmError> =
            self.call(&profile.path, PROFILE_INTERFACE, "Update2", &body, "change the profile");
        changed.map(drop).map_err(|error| named(error, profile))
    }

    /// Stores a new profile; its path.
    ///
    /// # Errors
    /// [`NmError`].
    pub fn add(&self, profile: &Profile) -> Result<String, NmError> {
        let path: Result<OwnedObjectPath, NmError> = self.call(
            SETTINGS,
            SETTINGS_INTERFACE,
            "AddConnection",
            &(&profile.settings,),
            "store the profile",
        );
        path.map(|path| path.to_string()).map_err(|error| named(error, profile))
    }

    /// Brings a profile up.
    ///
    /// # Errors
    /// [`NmError`], when it cannot even be tried.
    pub fn activate(&self, profile: &Profile) -> Result<(), NmError> {
        let path = |path: &str| OwnedObjectPath::try_from(path.to_owned());
        let (Ok(path), Ok(none)) = (path(&profile.path), path("/")) else { return Err(NmError::NotRunning) };
        let body = (path, none.clone(), none);
        let active: Result<OwnedObjectPath, NmError> =
            self.call(MANAGER, SERVICE, "ActivateConnection", &body, "bring the profile up");
        active.map(drop).map_err(|error| named(error, profile))
    }

    /// Takes an active connection down.
    ///
    /// # Errors
    /// [`NmError`].
    pub fn deactivate(&self, active: &Active) -> Result<(), NmError> {
        let Ok(path) = OwnedObjectPath::try_from(active.path.clone()) else {
            return Err(NmError::NotRunning);
        };
        self.call(MANAGER, SERVICE, "DeactivateConnection", &(path,), "take the connection down")
    }

    /// What is active, or on its way to it.
    ///
    /// # Errors
    /// [`NmError`].
    pub fn active(&self) -> Result<Vec<Active>, NmError> {
        let what = "list what is active";
        let paths = self.property(MANAGER, SERVICE, "ActiveConnections", what)?;
        let paths = Vec::<OwnedObjectPath>::try_from(paths).unwrap_or_default();
        let read = |path: &OwnedObjectPath| {
            let property = |name| self.property(path.as_str(), ACTIVE_INTERFACE, name, what).ok();
            let uuid = <&str>::try_from(&*property("Uuid")?).ok()?.to_owned();
            let state = u32::try_from(&*property("State")?).ok()?;
            // NMActiveConnectionState: 1 activating, 2 activated, 3 deactivating, 4 deactivated.
            (state == 1 || state == 2).then(|| Active { path: path.to_string(), uuid, activated: state == 2 })
        };
        Ok(paths.iter().filter_map(read).collect())
    }

    /// Makes NetworkManager read its configuration files again.
    ///
    /// # Errors
    /// [`NmError`].
    pub fn reload(&self) -> Result<(), NmError> {
        self.call(MANAGER, SERVICE, "Reload", &(RELOAD_CONF,), "read its configuration again")
    }

    fn property(
        &self,
        path: &str,
        interface: &str,
        name: &str,
        what: &'static str,
    ) -> Result<OwnedVariant, NmError> {
        self.call(path, PROPERTIES, "Get", &(interface, name), what)
    }

    fn call<B, R>(
        &self,
        path: &str,
        interface: &str,
        member: &str,
        body: &B,
        what: &'static str,
    ) -> Result<R, NmError>
    where
        B: Serialize + DynamicType,
        R: DeserializeOwned + Type,
    {
        let refused =
            |words: String| NmError::Refused { object: path.to_owned(), what, words: one_line(&words) };
        let reply = block_on(self.connection.call_method(Some(SERVICE), path, Some(interface), member, body));
        let reply = reply.map_err(|error| {
            let name = match &error {
                zbus::Error::MethodError(name, ..) => name.to_string(),
                error => error.to_string(),
            };
            if name.contains(".ServiceUnknown") || name.contains(".NameHasNoOwner") {
                return NmError::NotRunning;
            }
            refused(match error {
                zbus::Error::MethodError(_, Some(words), _) => words,
                _ => name,
            })
        })?;
        reply.body().deserialize().map_err(|error| refused(error.to_string()))
    }
}

/// Names the profile by what people call it.
fn named(error: NmError, profile: &Profile) -> NmError {
    match error {
        NmError::Refused { what, words, .. } => {
            NmError::Refused { object: format!("profile {}", profile.id()), what, words }
        }
        error => error,
    }
}

fn one_line(words: &str) -> String {
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let version = |text| Version::parse(text).unwrap();
        assert_eq!(version("1.42.4"), Version(1, 42));
        assert!(version("1.42.4") < Version::WITH_HANDLERS && version("1.52.1") >= Version::WITH_HANDLERS);
        assert!(version("1.46-rc1") >= Version::WITH_HANDLERS && version("2.0") > version("1.99.9"));
        assert_eq!(Version::parse("new"), None);
    }
}
