//! An address block in CIDR notation: what routes, xfrm selectors and NAT rules match on.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address and how many of its leading bits count. Host bits are kept as they were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpPrefix {
    /// Any address of the block.
    pub address: IpAddr,
    /// Leading bits that count: 0 to 32 for IPv4, 0 to 128 for IPv6.
    pub length: u8,
}

impl IpPrefix {
    /// The whole of IPv4: the destination of a default route.
    pub const IPV4_DEFAULT: Self = Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), length: 0 };
    /// The whole of IPv6.
    pub const IPV6_DEFAULT: Self = Self { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), length: 0 };

    /// A block, or `None` when `length` exceeds the width of the address.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        (length <= width(address)).then_some(Self { address, length })
    }

    /// The block of this one address.
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: width(address) }
    }

    /// Whether the block is a single address.
    pub fn is_host(&self) -> bool {
        self.length == width(self.address)
    }

    /// Whether `address` is of the same family and inside the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(block), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length.min(32))).unwrap_or(0);
                (block.to_bits() ^ address.to_bits()) & mask == 0
            }
            (IpAddr::V6(block), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length.min(128))).unwrap_or(0);
                (block.to_bits() ^ address.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_host() {
            return write!(f, "{}", self.address);
        }
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Bits in an address of this family.
pub(crate) fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(address: &str, length: u8) -> IpPrefix {
        IpPrefix::new(address.parse().unwrap(), length).unwrap()
    }

    #[test]
    fn membership() {
        let cases = [
            ("10.0.0.0", 8, "10.255.0.1", true),
            ("10.0.0.0", 8, "11.0.0.1", false),
            ("10.0.0.5", 32, "10.0.0.5", true),
            ("10.0.0.5", 32, "10.0.0.4", false),
            ("0.0.0.0", 0, "203.0.113.9", true),
            ("0.0.0.0", 0, "::1", false),
            ("2001:db8::", 32, "2001:db8:1::", true),
            ("2001:db8::", 32, "2001:db9::", false),
            ("::", 0, "fe80::1", true),
        ];
        for (block, length, address, inside) in cases {
            let block = prefix(block, length);
            assert_eq!(block.contains(address.parse().unwrap()), inside, "{address} in {block}");
        }
    }

    #[test]
    fn lengths_past_the_family_are_refused() {
        assert_eq!(IpPrefix::new(Ipv4Addr::LOCALHOST.into(), 33), None);
        assert_eq!(IpPrefix::new(Ipv6Addr::LOCALHOST.into(), 129), None);
        assert_eq!(prefix("10.0.0.1", 32).to_string(), "10.0.0.1");
        assert_eq!(prefix("::", 0).to_string(), "::/0");
    }
}
