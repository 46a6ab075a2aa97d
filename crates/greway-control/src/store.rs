//! What survives the daemon, but not a reboot: one JSON file a tunnel in the state directory, and
//! beside it the sequence number up to which the daemon may have sent.
//!
//! Files are replaced whole (written beside and renamed), so that a crash or a full disk leaves
//! the old one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use greway_datapath::ReserveSequence;
use greway_spec::{DeviceName, TunnelSpec};
use serde::{Deserialize, Serialize};

use crate::sysctl::Forwarding;

/// A tunnel as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// The tunnel.
    pub spec: TunnelSpec,
    /// What this tunnel turned on and its removal turns off again.
    pub turned_on: Vec<Forwarding>,
}

/// What a state directory held.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The tunnels, by name.
    pub tunnels: BTreeMap<DeviceName, Stored>,
    /// Files that are no tunnel's, and why.
    pub unreadable: Vec<(PathBuf, io::Error)>,
}

/// The state directory.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// The store in `directory`, which exists.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// All that is stored. A file that cannot be read is skipped and told of: one bad file may not
    /// keep the other tunnels down.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn load(&self) -> io::Result<Loaded> {
        let mut loaded = Loaded::default();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let parsed = fs::read(&path).and_then(|bytes| read(&bytes));
            match parsed {
                Ok(stored) => {
                    loaded.tunnels.insert(stored.spec.name.clone(), stored);
                }
                Err(error) => loaded.unreadable.push((path, error)),
            }
        }
        Ok(loaded)
    }

    /// Keeps a tunnel.
    ///
    /// # Errors
    /// The system's, for example a full disk; the old file is there still.
    pub fn save(&self, stored: &Stored) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(stored).map_err(io::Error::other)?;
        replace(&self.file(&stored.spec.name, "json"), &bytes)
    }

    /// Forgets a tunnel and its sequence number.
    ///
    /// # Errors
    /// The system's; that it was not there is none.
    pub fn remove(&self, name: &DeviceName) -> io::Result<()> {
        // The last two are what a crash may leave of a write.
        for kind in ["json", "sequence", "json.new", "sequence.new"] {
            match fs::remove_file(self.file(name, kind)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether anything is kept under a name.
    pub fn holds(&self, name: &DeviceName) -> bool {
        ["json", "sequence"].iter().any(|kind| self.file(name, kind).exists())
    }

    /// Keeps the sequence number of a tunnel that has another name now.
    ///
    /// # Errors
    /// The system's, for example a full disk.
    pub fn save_sequence(&self, name: &DeviceName, number: u32) -> io::Result<()> {
        if number == 0 { Ok(()) } else { self.sequence_file(name).reserve(number) }
    }

    /// The first sequence number that was surely never sent, 0 for a new tunnel.
    pub fn sequence(&self, name: &DeviceName) -> u32 {
        let text = fs::read_to_string(self.file(name, "sequence")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// Where the data plane writes how far it may send.
    pub fn sequence_file(&self, name: &DeviceName) -> SequenceFile {
        SequenceFile { path: self.file(name, "sequence") }
    }

    fn file(&self, name: &DeviceName, kind: &str) -> PathBuf {
        self.directory.join(format!("{name}.{kind}"))
    }
}

/// A state file. One of a later version may say more than this one knows, and leaving that out would carry
/// another tunnel than was asked for.
fn read(bytes: &[u8]) -> io::Result<Stored> {
    serde_json::from_slice(bytes).map_err(|error| {
        let text = error.to_string();
        // All that would be right is no help to a person.
        match text.split_once(", expected") {
            Some((what, _)) if what.starts_with("unknown ") => io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{what}: another version of greway wrote it"),
            ),
            _ => error.into(),
        }
    })
}

/// The file with a tunnel's reserved sequence number.
#[derive(Debug)]
pub struct SequenceFile {
    path: PathBuf,
}

impl ReserveSequence for SequenceFile {
    fn reserve(&mut self, up_to: u32) -> io::Result<()> {
        replace(&self.path, up_to.to_string().as_bytes())
    }
}

/// Replaces a file whole.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let replaced = write_new(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    if replaced.is_err() {
        // Half a file beside is of no use, and the disk may be full.
        let _ = fs::remove_file(&beside);
    }
    replaced
}

/// Writes a file that is surely new: what is there under its name may lead elsewhere.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::File::options().write(true).create_new(true).mode(FILE_MODE).open(path)?;
    // The caller's umask may have taken away what readers without privilege need.
    file.set_permissions(fs::Permissions::from_mode(FILE_MODE))?;
    file.write_all(bytes)
}

/// For everybody to read.
const FILE_MODE: u32 = 0o644;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn an_earlier_version_s_file_is_read_and_a_later_one_s_told_by_the_field() {
        let earlier = r#"{"spec":{"name":"tun0","mode":"gre","local":null,"remote":"192.0.2.1","ikey":7,"okey":7,
            "icsum":false,"ocsum":false,"iseq":true,"oseq":true,"ttl":{"fixed":9},"tos":{"inherit":false,"value":0},
            "pmtudisc":true,"ignore_df":false,"dev":null,"mtu":null,"datapath":"auto","underlay":"auto",
            "overlay":"auto","firewall":"honour","inner":{"addresses":[],"routes":[],"forward":false,"snat":null},
            "origin":"command"},"turned_on":[]}"#;
        let spec = read(earlier.as_bytes()).unwrap().spec;
        assert_eq!(spec.describe(), "tun0: gre/ip remote 192.0.2.1 local any ttl 9 key 7");
        assert_eq!(spec.seq_mode, greway_spec::SeqMode::Linux);
        assert!(spec.inner.neighbours.is_empty() && spec.encaplimit.is_none() && spec.fwmark == 0);

        let later = earlier.replace("\"ikey\"", "\"colour\":3,\"ikey\"");
        let error = read(later.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "unknown field `colour`: another version of greway wrote it");
        let mode = earlier.replace("\"gre\"", "\"mgre\"");
        let error = read(mode.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "unknown variant `mgre`: another version of greway wrote it");
        assert!(read(&earlier.as_bytes()[..40]).unwrap_err().to_string().contains("line 1"));
    }

    #[test]
    fn what_lies_where_a_file_is_written_is_not_followed() {
        let folder = std::env::temp_dir().join(format!("greway-store-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let victim = folder.join("victim");
        fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, folder.join("tun0.sequence.new")).unwrap();
        let name = "tun0".parse::<DeviceName>().unwrap();
        let store = Store::new(&folder);
        store.save_sequence(&name, 7).unwrap();
        assert_eq!(store.sequence(&name), 7);
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        let written = fs::symlink_metadata(folder.join("tun0.sequence")).unwrap();
        assert!(written.is_file() && written.mode() & 0o777 == 0o644, "{written:?}");
        fs::remove_dir_all(folder).unwrap();
    }
}
