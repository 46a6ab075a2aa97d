//! Tunnels that are not NetworkManager's: it is told to leave them alone.
//!
//! Where udev runs it does so by itself, since its own rule marks veth pairs. In a container without udev
//! it would ask for an address on each of them by DHCP.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use greway_nm::Bus;

/// Read by NetworkManager beside those in /etc, and gone with the next boot, as the tunnels are.
const FOLDER: &str = "/run/NetworkManager/conf.d";
const FILE: &str = "/run/NetworkManager/conf.d/90-greway-tunnels.conf";

/// Has NetworkManager leave these devices alone, and no others of greway's.
pub(crate) fn tell(bus: &Bus, devices: &BTreeSet<String>) {
    if let Err(error) = write(devices) {
        tracing::warn!(%error, file = FILE, "NetworkManager cannot be told which devices to leave alone");
        return;
    }
    if let Err(error) = bus.reload() {
        tracing::warn!(%error, "NetworkManager does not read its configuration again");
    }
}

/// Takes that back.
///
/// # Errors
/// The system's.
pub(crate) fn withdraw() -> io::Result<()> {
    match fs::remove_file(FILE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn write(devices: &BTreeSet<String>) -> io::Result<()> {
    if devices.is_empty() {
        return withdraw();
    }
    fs::create_dir_all(FOLDER)?;
    let new = Path::new(FOLDER).join(".90-greway-tunnels.new");
    fs::write(&new, text(devices))?;
    fs::rename(new, FILE)
}

fn text(devices: &BTreeSet<String>) -> String {
    // `=` takes the name as it is, without patterns (NetworkManager.conf(5), "Device List Format").
    let names = devices.iter().map(|name| format!("interface-name:={name}"));
    let names = names.collect::<Vec<_>>().join(";");
    format!(
        "# Tunnels of greway that are not NetworkManager's. Written by greway nm watch.\n[keyfile]\nunmanaged-devices+={names}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_as_they_are() {
        let devices = BTreeSet::from(["gw-tun1".to_owned(), "tun1".to_owned()]);
        let text = text(&devices);
        assert!(
            text.ends_with("unmanaged-devices+=interface-name:=gw-tun1;interface-name:=tun1\n"),
            "{text}"
        );
    }
}
