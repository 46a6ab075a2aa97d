//! Addresses with prefix lengths as `ip addr` and `ip route` read them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use greway_spec::number::{parse_quad, parse_u32};

/// `A`, `A/24` or `A/255.255.255.0`; without a length the address's full one.
pub(super) fn parse_prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (parse_address(address)?, Some(length)),
        None => (parse_address(text)?, None),
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => most,
        Some(mask) if address.is_ipv4() && mask.contains('.') => mask_length(parse_quad(mask)?)?,
        Some(length) => u8::try_from(parse_u32(length)?).ok().filter(|length| *length <= most)?,
    };
    Some((address, length))
}

pub(super) fn parse_address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    parse_quad(text).map(IpAddr::V4)
}

/// The length of a netmask, if its ones are all on the left.
pub(super) fn mask_length(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    let length = bits.leading_ones();
    (length + bits.trailing_zeros() == 32 || bits == u32::MAX || bits == 0).then_some(length as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_ip() {
        for (text, expected) in [
            ("172.16.0.1", Some("172.16.0.1/32")),
            ("172.16.0.2/30", Some("172.16.0.2/30")),
            ("172.16.0.1/255.255.255.252", Some("172.16.0.1/30")),
            ("10.10.2/24", Some("10.10.2.0/24")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("0.0.0.0/0.0.0.0", Some("0.0.0.0/0")),
            ("fd00::1/64", Some("fd00::1/64")),
            ("172.16.0.1/33", None),
            ("172.16.0.1/255.0.255.0", None),
            ("172.16.0.1/", None),
            ("fd00::1/129", None),
            ("foo", None),
            ("", None),
        ] {
            let printed = parse_prefix(text).map(|(address, length)| format!("{address}/{length}"));
            assert_eq!(printed.as_deref(), expected, "{text}");
        }
    }
}
