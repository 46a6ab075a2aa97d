//! TOS values by name, as iproute2's `rt_dsfield` table of 6.1 has them.
//!
//! The table is built in: a site's own `/etc/iproute2/rt_dsfield` is not read.

use std::fmt;

use crate::number::parse_hex_u8;
use crate::spec::Tos;

const NAMES: [(&str, u8); 21] = [
    ("default", 0x00),
    ("AF11", 0x28),
    ("AF12", 0x30),
    ("AF13", 0x38),
    ("AF21", 0x48),
    ("AF22", 0x50),
    ("AF23", 0x58),
    ("AF31", 0x68),
    ("AF32", 0x70),
    ("AF33", 0x78),
    ("AF41", 0x88),
    ("AF42", 0x90),
    ("AF43", 0x98),
    ("CS1", 0x20),
    ("CS2", 0x40),
    ("CS3", 0x60),
    ("CS4", 0x80),
    ("CS5", 0xa0),
    ("CS6", 0xc0),
    ("CS7", 0xe0),
    ("EF", 0xb8),
];

/// A TOS value as `ip tunnel show` prints it: by name where it has one, else as `0x10`.
pub fn dsfield_name(value: u8) -> String {
    match NAMES.iter().find(|(_, named)| *named == value) {
        Some((name, _)) => (*name).to_owned(),
        None => format!("0x{value:02x}"),
    }
}

fn parse_value(text: &str) -> Option<u8> {
    match NAMES.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => Some(*value),
        None => parse_hex_u8(text),
    }
}

impl Tos {
    /// Reads `inherit`, `V` or `inherit/V`, V a name (`AF11`, `CS6`, `EF`, `default`) or hexadecimal
    /// `00` to `ff`. As in the kernel, bit 0 of V means `inherit`. `None`: none of these.
    pub fn parse(text: &str) -> Option<Self> {
        let (inherit, value) = match text.split_once('/') {
            None if text == "inherit" => (true, 0),
            None => (false, parse_value(text)?),
            Some(("inherit", value)) => (true, parse_value(value)?),
            Some(_) => return None,
        };
        Some(Self { inherit: inherit || value & 1 == 1, value: value & !1 })
    }

    /// The byte of `struct ip_tunnel_parm`: the value, with bit 0 for `inherit`.
    pub fn bits(self) -> u8 {
        self.value | u8::from(self.inherit)
    }
}

/// As `ip tunnel show` prints it.
impl fmt::Display for Tos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.inherit, self.value) {
            (true, 0) => f.write_str("inherit"),
            (true, value) => write!(f, "inherit/{}", dsfield_name(value)),
            (false, value) => f.write_str(&dsfield_name(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_and_print() {
        for (text, inherit, value, printed) in [
            ("inherit", true, 0, "inherit"),
            ("10", false, 0x10, "0x10"),
            ("0x10", false, 0x10, "0x10"),
            ("c0", false, 0xc0, "CS6"),
            ("AF11", false, 0x28, "AF11"),
            ("EF", false, 0xb8, "EF"),
            ("default", false, 0, "default"),
            ("inherit/c0", true, 0xc0, "inherit/CS6"),
            ("inherit/4", true, 4, "inherit/0x04"),
            ("1", true, 0, "inherit"),
            ("11", true, 0x10, "inherit/0x10"),
        ] {
            let tos = Tos::parse(text).unwrap();
            assert_eq!(tos, Tos { inherit, value }, "{text}");
            assert_eq!(tos.to_string(), printed);
            assert_eq!(Tos::parse(printed), Some(tos), "printed form of {text}");
        }
        assert_eq!(Tos::parse("inherit/c0").unwrap().bits(), 0xc1);
    }

    #[test]
    fn no_tos() {
        for text in ["zz", "inherit/zz", "", "inherit/", "100", "10/20", "af11"] {
            assert_eq!(Tos::parse(text), None, "{text:?}");
        }
    }
}
