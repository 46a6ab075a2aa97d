//! Which address is the other end's, inside the tunnel.

use std::net::{IpAddr, Ipv4Addr};

use greway_spec::InnerAddress;

/// The peer's inner address as far as an address on the device tells: the peer it names, or the
/// other usable address of a /30, /31, /126 or /127.
pub fn of_address(address: &InnerAddress) -> Option<IpAddr> {
    if let Some(peer) = address.peer
        && peer != address.local
    {
        return Some(peer);
    }
    match (address.local, address.prefix_length) {
        (IpAddr::V4(local), 31) => Some(Ipv4Addr::from(u32::from(local) ^ 1).into()),
        (IpAddr::V4(local), 30) => match u32::from(local) & 3 {
            1 | 2 => Some(Ipv4Addr::from(u32::from(local) ^ 3).into()),
            _ => None,
        },
        (IpAddr::V6(local), 127) => Some(std::net::Ipv6Addr::from(u128::from(local) ^ 1).into()),
        (IpAddr::V6(local), 126) => match u128::from(local) & 3 {
            1 | 2 => Some(std::net::Ipv6Addr::from(u128::from(local) ^ 3).into()),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(local: &str, peer: Option<&str>, prefix_length: u8) -> Option<String> {
        let address = InnerAddress {
            local: local.parse().unwrap(),
            peer: peer.map(|peer| peer.parse().unwrap()),
            prefix_length,
        };
        of_address(&address).map(|peer| peer.to_string())
    }

    #[test]
    fn the_named_peer_wins_and_small_networks_tell() {
        assert_eq!(peer("172.16.0.1", Some("172.16.0.2"), 30).as_deref(), Some("172.16.0.2"));
        assert_eq!(peer("172.16.0.1", None, 30).as_deref(), Some("172.16.0.2"));
        assert_eq!(peer("172.16.0.6", None, 30).as_deref(), Some("172.16.0.5"));
        assert_eq!(peer("10.0.0.0", None, 31).as_deref(), Some("10.0.0.1"));
        assert_eq!(peer("fd00::2", None, 126).as_deref(), Some("fd00::1"));
    }

    #[test]
    fn a_large_network_and_a_lone_address_tell_nothing() {
        assert_eq!(peer("10.0.0.1", None, 24), None);
        assert_eq!(peer("10.0.0.1", None, 32), None);
        assert_eq!(peer("10.0.0.0", None, 30), None);
    }
}
