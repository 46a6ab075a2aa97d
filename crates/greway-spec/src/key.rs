//! GRE keys.
//!
//! A key is 32 bits in the clear (RFC 2890 §2.1): it tells tunnels apart and protects nothing.

use std::net::Ipv4Addr;

use crate::number::{parse_quad, parse_u32};

/// Why a text is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No dot in it, and no number either.
    #[error("key \"{0}\" is no number: 0 to 4294967295 is right, or a dotted quad such as 10.0.0.1")]
    NotANumber(String),
    /// A dot in it, and no dotted quad.
    #[error("key \"{0}\" is no dotted quad: up to four numbers of 0 to 255 with dots between are right")]
    NotAQuad(String),
}

/// Reads a key as iproute2 does: with a dot in it a dotted quad (short forms fill from the left),
/// else a number in C notation (`010` is 8).
pub fn parse_key(text: &str) -> Result<u32, KeyError> {
    if text.contains('.') {
        return match parse_quad(text) {
            Some(quad) => Ok(u32::from(quad)),
            None => Err(KeyError::NotAQuad(text.to_owned())),
        };
    }
    parse_u32(text).ok_or_else(|| KeyError::NotANumber(text.to_owned()))
}

/// A key as the dotted quad that `ip -d link` prints.
pub fn key_quad(key: u32) -> Ipv4Addr {
    Ipv4Addr::from(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_iproute2() {
        for (text, key) in [
            ("42", 42),
            ("0x2a", 42),
            ("052", 42),
            ("0.0.0.42", 42),
            ("10.0.0.1", 167_772_161),
            ("1.2.3", 16_909_056),
            ("010", 8),
            ("0", 0),
            ("4294967295", u32::MAX),
        ] {
            assert_eq!(parse_key(text), Ok(key), "{text}");
        }
        assert_eq!(key_quad(63_077_743).to_string(), "3.194.125.111");
    }

    #[test]
    fn no_keys() {
        for text in ["4294967296", "-1", "", "lichenhao", "any"] {
            assert_eq!(parse_key(text), Err(KeyError::NotANumber(text.to_owned())));
        }
        for text in ["1.2.3.400", "1.2.3.4.5", "a.b"] {
            assert_eq!(parse_key(text), Err(KeyError::NotAQuad(text.to_owned())));
        }
    }
}
