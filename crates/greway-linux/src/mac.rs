//! An Ethernet address, because `std` has none and a bare `[u8; 6]` says nothing in a signature.

use std::fmt;
use std::str::FromStr;

/// A 48-bit Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// `00:00:00:00:00:00`, what a device without addresses shows.
    pub const ZERO: Self = Self([0; 6]);

    /// The address of these six bytes, as they lie on the wire.
    #[must_use]
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// The six bytes, as they lie on the wire.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Whether the group bit is set: multicast or broadcast.
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether the address was given by software (the locally administered bit) and not by a vendor.
    #[must_use]
    pub const fn is_local(self) -> bool {
        self.0[0] & 2 != 0
    }
}

impl From<[u8; 6]> for MacAddr {
    fn from(octets: [u8; 6]) -> Self {
        Self(octets)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let invalid = || InvalidMac { value: text.to_owned() };
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or_else(invalid)?;
            let digits = (1..=2).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !digits {
                return Err(invalid());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_not_hex| invalid())?;
        }
        if parts.next().is_some() { Err(invalid()) } else { Ok(Self(octets)) }
    }
}

/// Text that is no Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{value}\" is no Ethernet address: six hexadecimal bytes with colons, like 02:00:5e:10:00:01")]
pub struct InvalidMac {
    /// The text.
    pub value: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_bad_text_is_refused() {
        let mac: MacAddr = "02:00:5e:10:0:A1".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:10:00:a1");
        assert!(mac.is_local() && !mac.is_multicast() && MacAddr::BROADCAST.is_multicast());
        for bad in
            ["", "02:00:5e:10:00", "02:00:5e:10:00:a1:00", "02:00:5e:10:00:1a1", "+2:0:0:0:0:0", "::::: "]
        {
            assert_eq!(bad.parse::<MacAddr>(), Err(InvalidMac { value: bad.into() }));
        }
    }
}
