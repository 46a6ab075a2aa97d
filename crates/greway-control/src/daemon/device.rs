//! Tunnel devices: made, recognised, adopted and removed.
//!
//! A tunnel's device is one end of a veth pair; the other end is the data plane's, named after the
//! tunnel, without addresses, and behind a rule that keeps the host's own stack from taking what
//! comes out of the tunnel a second time. Where the kernel has no veth, it is a TUN.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use greway_datapath::{Overlay, Tap};
use greway_linux::{MacAddr, ethtool, packet, tun};
use greway_netlink::{Link, LinkChange, Netlink, NetlinkError, VethEnd, VethSpec};
use greway_spec::{DeviceName, OverlayChoice, TunnelSpec};

use super::between::Between;
use super::moved;
use crate::observe::{OWNER_MARK, is_ours};

/// Why a device could not be made or used.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeviceError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Tun(#[from] greway_linux::OpenError),
    #[error(transparent)]
    Datapath(greway_datapath::DatapathError),
    #[error("this kernel makes no veth pair ({veth}) and no TUN device ({tun}); greway needs one of them")]
    Neither { veth: NetlinkError, tun: greway_linux::OpenError },
    #[error("{0} is gone")]
    Gone(DeviceName),
    #[error("{0} was moved to another network namespace; move it back and restart the daemon")]
    Moved(DeviceName),
    #[error("dev {0}: there is no such device on this host")]
    NoUnderlay(DeviceName),
    #[error("{0} is no device that greway made")]
    Foreign(DeviceName),
    #[error("{name}: datapath ebpf cannot be honoured: {why}; use auto or userspace")]
    NoProgram { name: DeviceName, why: String },
}

/// What the name of the data plane's end of a pair begins with.
pub(crate) const PEER_PREFIX: &str = "gw-";

/// What the names of a tunnel's tables begin with. A name alone makes no table ours: operators have names
/// like that too.
pub(crate) const TABLE_PREFIX: &str = "greway-";

/// Largest MTU of a veth end: what the data plane hands in may be larger than the tunnel's MTU.
const PEER_MTU: u32 = 65_535;

/// A tunnel's device as the data plane needs it.
#[derive(Debug)]
pub(super) struct Device {
    /// Index of the tunnel device.
    pub(super) index: u32,
    /// Index of the other end of a veth pair.
    pub(super) peer: Option<u32>,
    /// The group of devices that it is of.
    pub(super) peer_group: u32,
    pub(super) mtu: u32,
    /// What was lost between its ends before.
    pub(super) lost: Between,
    pub(super) overlay: Overlay,
}

impl Device {
    /// One end of a pair, wherever it is, and the end here that the data plane works on. `None`: they have no hardware
    /// addresses.
    pub(super) fn of_pair(link: &Link, peer: &Link) -> Option<Self> {
        let (Some(device_address), Some(peer_address)) = (link.address, peer.address) else { return None };
        Some(Self {
            index: link.index,
            peer: Some(peer.index),
            peer_group: peer.group,
            mtu: link.mtu,
            lost: Between::of(Some(link), Some(peer)),
            overlay: Overlay::Veth {
                peer: peer.index,
                device_address: MacAddr::new(device_address),
                peer_address: MacAddr::new(peer_address),
                tap: Tap::Everything,
            },
        })
    }

    /// Has only that taken of what comes out of the device which a program at the other end declines.
    pub(super) fn take_declined(&mut self) {
        if let Overlay::Veth { tap, .. } = &mut self.overlay {
            *tap = Tap::Declined;
        }
    }
}

/// Makes the device, down; of a pair it says what there is to know of it. `peer_group`: the group of devices that the
/// data plane's end is to be of. Nothing is left behind when it fails.
pub(super) fn create(
    netlink: &Netlink,
    spec: &TunnelSpec,
    mtu: u32,
    peer_group: Option<u32>,
) -> Result<Option<Device>, DeviceError> {
    let veth = match spec.overlay {
        OverlayChoice::Tun => return create_tun(netlink, spec, mtu).map(|_| None),
        OverlayChoice::Auto | OverlayChoice::Veth => create_veth(netlink, spec, mtu, peer_group),
    };
    match veth {
        // A TUN device has no place for an Ethernet header, and no neighbours.
        Err(error)
            if spec.overlay == OverlayChoice::Auto && !asks_neighbours(spec) && error.is_unsupported() =>
        {
            tracing::warn!(tunnel = %spec.name, %error, "no veth pair, a TUN device instead");
            create_tun(netlink, spec, mtu).map(|_| None).map_err(|tun| match tun {
                DeviceError::Tun(tun) => DeviceError::Neither { veth: error, tun },
                other => other,
            })
        }
        outcome => Ok(Some(outcome?)),
    }
}

/// Finds a device that was made earlier and makes it ready for the data plane. `index` tells it where its
/// name may change at any moment.
pub(super) fn open(netlink: &Netlink, name: &DeviceName, index: Option<u32>) -> Result<Device, DeviceError> {
    let link = match index {
        Some(index) => netlink.link_by_index(index)?,
        None => netlink.link_by_name(name.as_str())?,
    };
    let Some(link) = link else {
        if let Some(device) = moved::open(netlink, name)? {
            return Ok(device);
        }
        // Our end of a pair goes with the other; it is there only if that one is somewhere.
        let moved = ours(netlink, &peer_name(name))?.is_some();
        return Err(if moved { DeviceError::Moved(name.clone()) } else { DeviceError::Gone(name.clone()) });
    };
    // Who knows its index knows that it is ours.
    if index.is_none() && !is_ours(netlink, &link) {
        return Err(DeviceError::Foreign(name.clone()));
    }
    match link.kind.as_deref() {
        Some("veth") => open_veth(netlink, name, &link),
        Some("tun") => {
            let tun = tun::Tun::open(&tun::Config { name: name.as_str(), persist: true })?;
            Ok(Device {
                index: link.index,
                peer: None,
                peer_group: 0,
                mtu: link.mtu,
                lost: Between::of(Some(&link), None),
                overlay: Overlay::Tun(tun),
            })
        }
        _ => Err(DeviceError::Foreign(name.clone())),
    }
}

/// Deletes a device of ours, also where it was moved to another namespace or has another name by now; one
/// that is gone already is no error.
pub(super) fn delete(netlink: &Netlink, name: &DeviceName) -> Result<(), DeviceError> {
    let named = netlink.link_by_name(name.as_str())?;
    let foreign = named.is_some();
    let link = match named.filter(|link| is_ours(netlink, link)) {
        Some(link) => Some(link),
        None => ours(netlink, &peer_name(name))?,
    };
    match link {
        Some(link) => remove(netlink, &link),
        None if foreign => Err(DeviceError::Foreign(name.clone())),
        None => Ok(()),
    }
}

/// Deletes the device of a tunnel that is carried, known by its index and that of the data plane's end
/// whatever its name and alias are by now; from here also where it was moved to another namespace.
pub(super) fn delete_known(
    netlink: &Netlink,
    name: &DeviceName,
    index: u32,
    peer: Option<u32>,
) -> Result<(), DeviceError> {
    let is_it = |link: &Link| match peer {
        // A device keeps its index when it is moved: what has ours now may have come from elsewhere.
        Some(peer) => link.peer_index == Some(peer) && link.link_netns_id.is_none(),
        None => link.kind.as_deref() == Some("tun") && (link.name == name.as_str() || is_ours(netlink, link)),
    };
    if let Some(link) = netlink.link_by_index(index)?.filter(is_it) {
        return remove(netlink, &link);
    }
    // A device that is moved to where its index is taken gets another one.
    let is_other_end = |link: &Link| {
        link.kind.as_deref() == Some("veth") && (link.peer_index == Some(index) || is_ours(netlink, link))
    };
    match peer.map(|peer| netlink.link_by_index(peer)).transpose()?.flatten().filter(is_other_end) {
        Some(link) => remove(netlink, &link),
        None => Ok(()),
    }
}

fn remove(netlink: &Netlink, link: &Link) -> Result<(), DeviceError> {
    match netlink.delete_link(link.index) {
        Err(error) if error.is_not_found() => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// A device of this name, if it is ours.
pub(super) fn ours(netlink: &Netlink, name: &str) -> Result<Option<Link>, NetlinkError> {
    Ok(netlink.link_by_name(name)?.filter(|link| is_ours(netlink, link)))
}

/// What follows the mark in the device's alias, for whoever looks at `ip link`.
pub(super) fn alias(spec: &TunnelSpec) -> String {
    let words = spec.describe();
    let words = words.split_once(": ").map_or(words.as_str(), |(_, words)| words);
    format!("{OWNER_MARK}{words}")
}

fn data_plane_alias(name: &DeviceName) -> String {
    format!("{OWNER_MARK}data plane of {name}")
}

/// Gives a device the alias of what its tunnel is now, unless somebody gave it one of their own.
pub(super) fn tell(netlink: &Netlink, index: u32, spec: &TunnelSpec) -> Result<(), NetlinkError> {
    let ours = |link: &Link| link.alias.as_deref().is_none_or(|alias| alias.starts_with(OWNER_MARK));
    if !netlink.link_by_index(index)?.is_some_and(|link| ours(&link)) {
        return Ok(());
    }
    netlink.change_link(index, &LinkChange { alias: Some(&alias(spec)), ..LinkChange::default() })
}

/// The name of the other end: readable where there is room, unique where there is not.
pub fn peer_name(name: &DeviceName) -> String {
    let whole = format!("{PEER_PREFIX}{name}");
    if whole.len() <= DeviceName::MAX {
        return whole;
    }
    // FNV-1a: the same name must give the same end after a restart.
    let hash = name
        .as_str()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let head = name.as_str().chars().take_while(char::is_ascii).take(7).collect::<String>();
    format!("{PEER_PREFIX}{head}-{:04x}", hash & 0xffff)
}

/// Whether the host asks for neighbours on the device: those of an Ethernet tunnel are at its far end, those of a
/// tunnel without a remote are answered for by the data plane.
fn asks_neighbours(spec: &TunnelSpec) -> bool {
    spec.mode.is_ethernet() || spec.remote.is_none()
}

fn create_veth(
    netlink: &Netlink,
    spec: &TunnelSpec,
    mtu: u32,
    peer_group: Option<u32>,
) -> Result<Device, NetlinkError> {
    let (device_address, peer_address) = (random_address(), random_address());
    let end = VethEnd {
        address: Some(device_address),
        mtu: Some(mtu),
        txqlen: Some(1000),
        alias: Some(alias(spec)),
        // Like the kernel's own devices: gre has no neighbours to resolve and no multicast of its own, gretap is
        // an Ethernet device as any other.
        arp: asks_neighbours(spec),
        multicast: spec.mode.is_ethernet(),
        ..VethEnd::new(spec.name.as_str())
    };
    let peer = VethEnd {
        address: Some(peer_address),
        mtu: Some(PEER_MTU),
        group: peer_group,
        alias: Some(data_plane_alias(&spec.name)),
        arp: false,
        multicast: false,
        addr_gen_mode_none: true,
        up: true,
        ..VethEnd::new(peer_name(&spec.name))
    };
    let pair = netlink.create_veth(&VethSpec { end, peer, peer_netns: None })?;
    without_offloads(&spec.name);
    Ok(Device {
        index: pair.index,
        peer: Some(pair.peer_index),
        peer_group: peer_group.unwrap_or(0),
        mtu,
        lost: Between::default(),
        overlay: Overlay::Veth {
            peer: pair.peer_index,
            device_address: MacAddr::new(device_address),
            peer_address: MacAddr::new(peer_address),
            tap: Tap::Everything,
        },
    })
}

/// Makes a pair of somebody else's what [`create`] would have made of it.
pub(super) fn take(netlink: &Netlink, spec: &TunnelSpec, link: &Link, mtu: u32) -> Result<(), DeviceError> {
    let peer = link.peer_index.ok_or_else(|| DeviceError::Foreign(spec.name.clone()))?;
    let (alias, data_plane) = (alias(spec), data_plane_alias(&spec.name));
    let end = LinkChange {
        mtu: Some(mtu),
        txqlen: Some(1000),
        alias: Some(&alias),
        arp: Some(asks_neighbours(spec)),
        multicast: Some(spec.mode.is_ethernet()),
        ..LinkChange::default()
    };
    let other = LinkChange {
        mtu: Some(PEER_MTU),
        alias: Some(&data_plane),
        arp: Some(false),
        multicast: Some(false),
        addr_gen_mode_none: true,
        up: Some(true),
        ..LinkChange::default()
    };
    netlink.change_link(link.index, &end)?;
    Ok(netlink.change_link(peer, &other)?)
}

fn create_tun(netlink: &Netlink, spec: &TunnelSpec, mtu: u32) -> Result<tun::Tun, DeviceError> {
    let tun = tun::Tun::open(&tun::Config { name: spec.name.as_str(), persist: true })?;
    let finish = || {
        let link =
            netlink.link_by_name(spec.name.as_str())?.ok_or_else(|| DeviceError::Gone(spec.name.clone()))?;
        let alias = alias(spec);
        let change = LinkChange {
            mtu: Some(mtu),
            alias: Some(&alias),
            multicast: Some(false),
            txqlen: Some(1000),
            ..LinkChange::default()
        };
        Ok(netlink.change_link(link.index, &change)?)
    };
    match finish() {
        Ok(()) => Ok(tun),
        Err(error) => {
            // A device that does not persist goes with its descriptor.
            let _ = tun.set_persist(false);
            Err(error)
        }
    }
}

fn open_veth(netlink: &Netlink, name: &DeviceName, link: &Link) -> Result<Device, DeviceError> {
    let peer = match link.peer_index {
        Some(index) if link.link_netns_id.is_none() => netlink.link_by_index(index)?,
        _ => None,
    };
    let peer = peer.ok_or_else(|| DeviceError::Foreign(name.clone()))?;
    let device = Device::of_pair(link, &peer).ok_or_else(|| DeviceError::Foreign(name.clone()))?;
    without_offloads(name);
    Ok(device)
}

/// Has a device whose packets go through the data plane's socket not offered what that has no word for.
fn without_offloads(name: &DeviceName) {
    // What the virtio-net header has no word for would be lost at the data plane's socket.
    let mut beyond = ethtool::BEYOND_VNET_HEADER.to_vec();
    beyond.extend((!describes_datagram_trains()).then_some(ethtool::DATAGRAM_TRAINS));
    if let Err(error) = ethtool::disable_matching(name.as_str(), &beyond) {
        tracing::warn!(tunnel = %name, %error, "some offloads cannot be switched off");
    }
}

/// [`packet::describes_datagram_trains`], asked once. Where nobody knows, the kernel splits trains before the pair.
fn describes_datagram_trains() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| packet::describes_datagram_trains().unwrap_or(false))
}

/// How long a device that was just set up may take until it passes packets.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Whether an end is up and does not pass packets yet.
pub(super) fn is_to_run(link: &Link) -> bool {
    link.up && !link.operational()
}

/// Waits until the device and the data plane's end of it pass packets: a veth end that was just put up
/// drops what is sent, in silence, until the kernel's link watcher has seen to it, which it does for each
/// end apart. A device that does not come to run until `deadline` is not an error here: it may have been moved or set
/// down meanwhile.
pub(super) fn wait_until_running(netlink: &Netlink, index: u32, deadline: Instant) {
    let mut waited_for = index;
    loop {
        match netlink.link_by_index(waited_for) {
            Ok(Some(link)) if is_to_run(&link) && Instant::now() >= deadline => break,
            Ok(Some(link)) if is_to_run(&link) => thread::sleep(Duration::from_millis(1)),
            Ok(Some(Link { peer_index: Some(peer), link_netns_id: None, .. })) if waited_for == index => {
                waited_for = peer;
            }
            _ => return,
        }
    }
    tracing::warn!(index, "the tunnel device is up but has no carrier");
}

/// The name of a tunnel's tables.
pub(crate) fn table(name: &DeviceName) -> String {
    format!("{TABLE_PREFIX}{name}")
}

/// A locally administered unicast address. Both ends of a tunnel have their own, or both would
/// make one IPv6 link-local address of them.
fn random_address() -> [u8; 6] {
    // The standard library seeds each hasher from the system's random numbers.
    let [a, b, c, d, e, f, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    [(a & 0xfc) | 0x02, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_end_has_a_name_that_fits_and_tells() {
        let name = |text: &str| peer_name(&text.parse().unwrap());
        assert_eq!(name("tun0"), "gw-tun0");
        assert_eq!(name("twelve-bytes"), "gw-twelve-bytes");
        let long = name("fifteen-bytes-a");
        assert!(long.len() <= DeviceName::MAX && long.starts_with("gw-fifteen"), "{long}");
        assert_ne!(long, name("fifteen-bytes-b"));
    }

    #[test]
    fn addresses_are_local_unicast_and_differ() {
        let (one, other) = (random_address(), random_address());
        assert_eq!(one[0] & 0x03, 0x02);
        assert_ne!(one, other);
    }
}
