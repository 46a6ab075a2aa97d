//! Device features by name, as `ethtool -k` and `-K` show and set them.
//!
//! A device offers the stack to leave work undone: segmentation, checksums, tunnels. A virtio-net
//! header can pass on only TCP and UDP segmentation and one checksum, so a device whose packets go
//! through one must not be offered the rest: such packets are lost without a word.
//!
//! Names are the kernel's own (linux net/ethtool/common.c `netdev_features_strings`), those that
//! `ethtool -k` shows indented.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::ioctl::{self, Opcode};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Offloads that a virtio-net header cannot describe. Prefixes of feature names.
pub const BEYOND_VNET_HEADER: [&str; 12] = [
    "tx-sctp-segmentation",
    "tx-checksum-sctp",
    "tx-checksum-fcoe-crc",
    "tx-fcoe-segmentation",
    "tx-gre-",
    "tx-ipxip",
    "tx-udp_tnl-",
    "tx-tunnel-remcsum-segmentation",
    "tx-esp-segmentation",
    "tx-gso-partial",
    "tx-gso-list",
    "rx-gro-list",
];

/// The offload of UDP that a virtio-net header can describe on some kernels only
/// ([`crate::packet::describes_datagram_trains`]).
pub const DATAGRAM_TRAINS: &str = "tx-udp-segmentation";

/// One feature of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// It is on.
    pub active: bool,
    /// It can be switched.
    pub changeable: bool,
    /// It can never be switched on this device.
    pub never_changed: bool,
}

/// What went wrong with a device's features.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a step.
    #[error("{device}: {step}: {source}")]
    Kernel {
        /// The device.
        device: String,
        /// The ethtool command.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel knows no feature of that name.
    #[error("{device}: this kernel has no device feature \"{feature}\"")]
    Unknown {
        /// The device.
        device: String,
        /// The name.
        feature: String,
    },
    /// The feature kept its state: the device does not allow the change, or another feature needs it.
    #[error("{device}: feature \"{feature}\" stayed {}", if *.active { "on" } else { "off" })]
    Kept {
        /// The device.
        device: String,
        /// The feature.
        feature: String,
        /// The state it kept.
        active: bool,
    },
}

/// All features of a device of the calling thread's namespace.
///
/// # Errors
///
/// [`Error::Kernel`]: `ENODEV` when there is no such device.
pub fn features(device: &str) -> Result<Vec<Feature>, Error> {
    let handle = Handle::open(device)?;
    let names = handle.names()?;
    Ok(handle.features(&names)?.into_iter().map(|(_, feature)| feature).collect())
}

/// Switches features by their names, all in one step, and reads back that it was done.
///
/// # Errors
///
/// [`Error::Unknown`] before anything is changed; [`Error::Kept`] when a feature did not follow.
pub fn set_features(device: &str, wanted: &[(&str, bool)]) -> Result<(), Error> {
    let handle = Handle::open(device)?;
    let names = handle.names()?;
    let mut change = Change::new(names.len());
    for (feature, on) in wanted {
        let unknown = || Error::Unknown { device: device.to_owned(), feature: (*feature).to_owned() };
        let index = names.iter().position(|name| name == feature).ok_or_else(unknown)?;
        change.set(index, *on);
    }
    handle.apply(&change)?;
    for (_, feature) in handle.features(&names)? {
        if wanted.iter().any(|(name, on)| *name == feature.name && *on != feature.active) {
            return Err(Error::Kept {
                device: device.to_owned(),
                feature: feature.name,
                active: feature.active,
            });
        }
    }
    Ok(())
}

/// Switches off every feature whose name begins with one of `prefixes`, where the device lets it be
/// switched. Returns the names of those still on.
///
/// # Errors
///
/// [`Error::Kernel`].
pub fn disable_matching(device: &str, prefixes: &[&str]) -> Result<Vec<String>, Error> {
    let handle = Handle::open(device)?;
    let names = handle.names()?;
    let matching =
        |feature: &Feature| feature.active && prefixes.iter().any(|prefix| feature.name.starts_with(prefix));
    let mut change = Change::new(names.len());
    for (index, feature) in handle.features(&names)? {
        if matching(&feature) && feature.changeable && !feature.never_changed {
            change.set(index, false);
        }
    }
    handle.apply(&change)?;
    let left = handle.features(&names)?.into_iter().map(|(_, feature)| feature);
    Ok(left.filter(matching).map(|feature| feature.name).collect())
}

/// A socket and the device's name: what every ethtool call takes.
struct Handle<'a> {
    socket: OwnedFd,
    device: &'a str,
}

impl<'a> Handle<'a> {
    fn open(device: &'a str) -> Result<Self, Error> {
        let socket =
            rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
                .map_err(|source| Error::Kernel {
                    device: device.to_owned(),
                    step: "socket",
                    source: source.into(),
                })?;
        Ok(Self { socket, device })
    }

    /// The kernel's feature names, in the order of their bits.
    fn names(&self) -> Result<Vec<String>, Error> {
        // `struct ethtool_sset_info`: command, reserved, u64 mask, one count for each bit of the mask.
        let mut info = [GET_SET_INFO, 0, 0, 0, 0];
        info[2..4].copy_from_slice(&halves(1 << STRINGS_FEATURES));
        self.call("ETHTOOL_GSSET_INFO", &mut info)?;
        let count = info[4] as usize;
        // `struct ethtool_gstrings`: command, set, count, then 32 bytes a name.
        let mut strings = vec![0; 3 + count * NAME_WORDS];
        strings[..3].copy_from_slice(&[GET_STRINGS, STRINGS_FEATURES, count as u32]);
        self.call("ETHTOOL_GSTRINGS", &mut strings)?;
        Ok(strings[3..].chunks_exact(NAME_WORDS).map(name).collect())
    }

    /// The features with the numbers of their bits; some bits have no name.
    fn features(&self, names: &[String]) -> Result<Vec<(usize, Feature)>, Error> {
        // `struct ethtool_gfeatures`: command, blocks, then available, requested, active and
        // never-changed bits for each block of 32 features.
        let blocks = names.len().div_ceil(32);
        let mut words = vec![0; 2 + blocks * 4];
        words[..2].copy_from_slice(&[GET_FEATURES, blocks as u32]);
        self.call("ETHTOOL_GFEATURES", &mut words)?;
        let bit = |index: usize, which: usize| {
            words.get(2 + index / 32 * 4 + which).is_some_and(|word| word >> (index % 32) & 1 != 0)
        };
        let feature = |(index, name): (usize, &String)| {
            let feature = Feature {
                name: name.clone(),
                active: bit(index, 2),
                changeable: bit(index, 0),
                never_changed: bit(index, 3),
            };
            (index, feature)
        };
        let named = names.iter().enumerate().filter(|(_, name)| !name.is_empty());
        Ok(named.map(feature).collect())
    }

    fn apply(&self, change: &Change) -> Result<(), Error> {
        self.call("ETHTOOL_SFEATURES", &mut change.words.clone())
    }

    fn call(&self, step: &'static str, words: &mut [u32]) -> Result<(), Error> {
        call(self.socket.as_fd(), self.device, words).map_err(|source| Error::Kernel {
            device: self.device.to_owned(),
            step,
            source,
        })
    }
}

/// `struct ethtool_sfeatures`: command, blocks, then valid and requested bits for each block.
struct Change {
    words: Vec<u32>,
}

impl Change {
    fn new(features: usize) -> Self {
        let blocks = features.div_ceil(32);
        let mut words = vec![0; 2 + blocks * 2];
        words[..2].copy_from_slice(&[SET_FEATURES, blocks as u32]);
        Self { words }
    }

    fn set(&mut self, index: usize, on: bool) {
        let block = 2 + index / 32 * 2;
        self.words[block] |= 1 << (index % 32);
        self.words[block + 1] |= u32::from(on) << (index % 32);
    }
}

fn name(words: &[u32]) -> String {
    let bytes: Vec<u8> =
        words.iter().flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The two words of a 64-bit value, in memory order.
fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

/// `struct ifreq` with a pointer in its union (netdevice(7)).
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    data: *mut u32,
    rest: [usize; 2],
}

/// One ethtool call. Each command writes no further than the counts in `words` say, and each caller
/// sizes `words` by the counts it puts in; the number of feature names is a constant of the kernel.
fn call(socket: BorrowedFd<'_>, device: &str, words: &mut [u32]) -> io::Result<()> {
    if device.is_empty() || device.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let mut request = Request { name: [0; libc::IFNAMSIZ], data: words.as_mut_ptr(), rest: [0; 2] };
    request.name[..device.len()].copy_from_slice(device.as_bytes());
    // SAFETY: netdevice(7) and linux include/uapi/linux/ethtool.h: SIOCETHTOOL takes a `struct ifreq`
    // whose ifr_data points at the command's struct; `words` is that struct for as long as the call
    // lasts, with as much room as its counts claim.
    let update = unsafe { ioctl::Updater::<SIOCETHTOOL, Request>::new(&mut request) };
    // SAFETY: the operation and its argument belong together, see above.
    unsafe { ioctl::ioctl(socket, update) }?;
    Ok(())
}

const SIOCETHTOOL: Opcode = 0x8946;
// linux include/uapi/linux/ethtool.h
const GET_STRINGS: u32 = 0x1b;
const GET_SET_INFO: u32 = 0x37;
const GET_FEATURES: u32 = 0x3a;
const SET_FEATURES: u32 = 0x3b;
const STRINGS_FEATURES: u32 = 4;
/// `ETH_GSTRING_LEN` in words.
const NAME_WORDS: usize = 8;
