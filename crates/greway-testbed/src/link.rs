//! Cables of the lab: veth pairs between two hosts.
//!
//! A veth does not fill in checksums and carries packets of up to 64 KiB that no wire would; whether a tunnel copes
//! with that depends on the offloads of both ends, so that they are options here and every combination can
//! be tested.

use greway_linux::ethtool;
use greway_netlink::{LinkChange, NetnsRef, VethEnd, VethSpec};

use crate::{Error, Host};

/// The kernel's names of what [`LinkOptions::tx_offload`] switches.
const TRANSMIT: [&str; 4] =
    ["tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-udp-segmentation"];

/// Properties of a cable, the same for both ends.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Generic receive offload: merge what arrives into larger packets.
    pub gro: bool,
    /// Checksum and segmentation offload on transmit; off, every checksum is filled in and no packet is larger
    /// than the MTU.
    pub tx_offload: bool,
    /// Whether the ends make themselves IPv6 link-local addresses.
    pub link_local: bool,
}

impl Default for LinkOptions {
    /// MTU 1500, offloads as a new veth has them (transmit on, GRO off), no link-local addresses.
    fn default() -> Self {
        Self { mtu: 1500, gro: false, tx_offload: true, link_local: false }
    }
}

/// Lays a cable from `a`'s new device to `b`'s new device and sets both up.
///
/// # Errors
/// [`Error::Netlink`] when the pair cannot be made, [`Error::System`] when an offload cannot be set.
pub fn link(a: &Host, a_dev: &str, b: &Host, b_dev: &str, options: &LinkOptions) -> Result<(), Error> {
    let end = |name: &str| VethEnd { mtu: Some(options.mtu), ..VethEnd::new(name) };
    let peer_netns = Some(NetnsRef::Fd(std::os::fd::AsFd::as_fd(b)));
    a.netlink()?.create_veth(&VethSpec { end: end(a_dev), peer: end(b_dev), peer_netns }).map_err(
        Error::netlink(format!("{}: {a_dev}", a.name()), format!("link it to {} {b_dev}", b.name())),
    )?;
    for (host, dev) in [(a, a_dev), (b, b_dev)] {
        offloads(host, dev, options)?;
        host.change(dev, &LinkChange { addr_gen_mode_none: !options.link_local, ..LinkChange::default() })?;
        host.set_up(dev)?;
    }
    Ok(())
}

/// Sets a device's offloads as [`link`] does.
///
/// # Errors
/// [`Error::System`] when the device does not have them.
pub fn offloads(host: &Host, dev: &str, options: &LinkOptions) -> Result<(), Error> {
    let transmit = TRANSMIT.iter().map(|feature| (*feature, options.tx_offload));
    let wanted: Vec<_> = [("rx-gro", options.gro)].into_iter().chain(transmit).collect();
    host.run(|| ethtool::set_features(dev, &wanted))?.map_err(|error| {
        Error::system(format!("{}: {dev}", host.name()), "set its offloads")(std::io::Error::other(error))
    })
}
