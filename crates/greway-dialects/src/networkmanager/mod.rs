//! NetworkManager's ip-tunnel profiles: as keyfiles, and as nmcli's words.
//!
//! A profile is read as NetworkManager 1.42 would take it, with its own words where it would refuse it, and
//! made into a draft in a second step, which refuses what cannot be honoured here by the property's name:
//! modes that are not GRE, DHCP, name servers, zones, routing tables. The other way, a field that
//! NetworkManager has no property for (checksums, sequence numbers, peer addresses …) is an error that names
//! it, never left out.

mod draft;
mod glib;
pub mod keyfile;
pub mod nmcli;
mod profile;
mod property;
pub mod show;
mod types;
mod value;

use std::net::IpAddr;

use greway_spec::{DeviceName, InnerAddress, Prefix, TunnelSpec};
use sha2::{Digest, Sha256};

pub use draft::Dhcp;
pub use profile::Profile;
pub use property::Property;

/// What a profile has besides its tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name that people call it by.
    pub id: String,
    /// What programs call it by.
    pub uuid: String,
    /// Whether it comes up by itself.
    pub autoconnect: bool,
}

impl Identity {
    /// A profile named as its device, with a uuid that is always the same for the same tunnel: version 8
    /// (RFC 9562 §5.8), out of a SHA-256 of name and ends.
    pub fn of(spec: &TunnelSpec) -> Self {
        let local = spec.local.map_or_else(String::new, |local| local.to_string());
        let digest = Sha256::digest(format!("greway {} {local} {}", spec.name, spec.far_end()));
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self { id: spec.name.to_string(), uuid: uuid_of(bytes), autoconnect: true }
    }
}

/// A uuid out of 16 bytes of which 122 bits are used: version 8, variant 2.
pub fn uuid_of(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text += &format!("{byte:02x}");
    }
    text
}

/// A field that NetworkManager has no property for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tunnel {tunnel}: {field} \"{value}\" cannot be said to NetworkManager: {why}")]
pub struct Unsayable {
    /// The tunnel.
    pub tunnel: DeviceName,
    /// The field, in iproute2's words; what is inside the tunnel starts with `inner`.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// Why, and what there is instead.
    pub why: &'static str,
}

/// The same tunnel without peer addresses, as far as that changes no route: `172.16.0.1 peer 172.16.0.2/30`
/// and `172.16.0.1/30` lead to the same network. Says which addresses were written so. A peer outside of the
/// network that its prefix length makes of our own address stays.
pub fn without_peers(spec: &TunnelSpec) -> (TunnelSpec, Vec<String>) {
    let mut plain = spec.clone();
    let mut notes = Vec::new();
    for address in &mut plain.inner.addresses {
        let InnerAddress { local, peer: Some(peer), prefix_length } = *address else { continue };
        let full = if local.is_ipv4() { 32 } else { 128 };
        if prefix_length < full && Prefix::containing(local, prefix_length).contains(peer) {
            let written = InnerAddress { local, peer: None, prefix_length };
            notes.push(format!(
                "NetworkManager has no peer addresses: {written} stands for {address}; the route is the same"
            ));
            *address = written;
        }
    }
    (plain, notes)
}

/// Whether an address is one of a family.
fn of_family(address: IpAddr, ipv6: bool) -> bool {
    address.is_ipv6() == ipv6
}
