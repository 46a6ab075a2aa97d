//! The network namespace of the calling thread, and its devices by name and index.

use std::{fs, io, os::unix::fs::MetadataExt as _};

use greway_linux::netns;
use rustix::net::{AddressFamily, SocketType, netdevice, socket};

use crate::error::FastpathError;

/// A device as it is called at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) index: u32,
    pub(crate) name: String,
}

impl Device {
    pub(crate) fn named(name: &str) -> Result<Self, FastpathError> {
        let index = any_socket().and_then(|socket| Ok(netdevice::name_to_index(socket, name)?));
        match index {
            Ok(index) => Ok(Self { index, name: name.to_owned() }),
            Err(source) => Err(FastpathError::Device { device: name.to_owned(), kernel: source.to_string() }),
        }
    }

    /// `None` when there is no such device any more.
    pub(crate) fn indexed(index: u32) -> Option<Self> {
        let name = any_socket().and_then(|socket| Ok(netdevice::index_to_name(socket, index)?)).ok()?;
        Some(Self { index, name })
    }

    /// Every device of the namespace, lowest index first.
    pub(crate) fn all() -> Result<Vec<Self>, FastpathError> {
        // /sys/class/net shows the namespace of whoever mounted it; this file shows the reader's.
        let table = fs::read_to_string("/proc/thread-self/net/dev")
            .map_err(|source| FastpathError::Namespace { source })?;
        let mut devices: Vec<Self> = table
            .lines()
            .filter_map(|line| line.split_once(':'))
            .filter_map(|(name, _counters)| Self::named(name.trim()).ok())
            .collect();
        devices.sort_by_key(|device| device.index);
        Ok(devices)
    }
}

/// What the calling thread's network namespace is called in the name of its folder: the number that the kernel gives
/// to no other until the next boot, which no bpffs survives. An inode's number may be another's a moment later, and
/// that one would take over what the first has left; only a kernel before 5.14 has nothing better.
pub(crate) fn number() -> Result<u64, FastpathError> {
    let inode = || fs::metadata("/proc/thread-self/ns/net").map(|metadata| metadata.ino());
    netns::cookie()
        .and_then(|cookie| cookie.map_or_else(inode, Ok))
        .map_err(|source| FastpathError::Namespace { source })
}

fn any_socket() -> io::Result<rustix::fd::OwnedFd> {
    Ok(socket(AddressFamily::UNIX, SocketType::DGRAM, None)?)
}
