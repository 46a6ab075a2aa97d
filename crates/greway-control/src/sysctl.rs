//! The few kernel settings that greway reads, and the two it may write when a file asks for it.

use std::fs;
use std::io;

use greway_spec::DeviceName;

/// Forwarding between devices, for one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Forwarding {
    /// `net.ipv4.ip_forward`
    Ipv4,
    /// `net.ipv6.conf.all.forwarding`
    Ipv6,
}

impl Forwarding {
    /// The name as `sysctl` prints it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "net.ipv4.ip_forward",
            Self::Ipv6 => "net.ipv6.conf.all.forwarding",
        }
    }
}

/// Whether a family is forwarded; what cannot be read counts as off.
pub fn forwarding(family: Forwarding) -> bool {
    read(family.name()).is_some_and(|value| value != 0)
}

/// Turns forwarding of a family on or off.
///
/// # Errors
/// The system's, for example a read-only /proc/sys in a container.
pub fn set_forwarding(family: Forwarding, on: bool) -> io::Result<()> {
    fs::write(path(family.name()), if on { "1" } else { "0" })
}

/// The larger of the setting for all devices and the device's own, as the kernel combines them
/// for `rp_filter` (Documentation/networking/ip-sysctl.rst).
pub fn reverse_path_filter(device: &str) -> u32 {
    let of = |name: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    u32::max(of("all"), of(device))
}

/// The MTU for IPv6 of a device in bytes; `None` where it has no IPv6.
pub fn ipv6_mtu(device: &DeviceName) -> Option<u32> {
    fs::read_to_string(ipv6_mtu_path(device)).ok()?.trim().parse().ok()
}

/// Sets the MTU for IPv6 of a device, in bytes.
///
/// # Errors
/// The system's: more than the device's MTU, or no IPv6.
pub fn set_ipv6_mtu(device: &DeviceName, mtu: u32) -> io::Result<()> {
    fs::write(ipv6_mtu_path(device), mtu.to_string())
}

/// Not by [`path`]: a device's name may have dots in it.
fn ipv6_mtu_path(device: &DeviceName) -> String {
    format!("/proc/sys/net/ipv6/conf/{device}/mtu")
}

fn read(name: &str) -> Option<u32> {
    fs::read_to_string(path(name)).ok()?.trim().parse().ok()
}

fn path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}
