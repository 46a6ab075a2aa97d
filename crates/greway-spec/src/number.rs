//! Numbers and addresses as C reads them.
//!
//! iproute2 reads every number with `strtoul(…, base)` and IPv4 addresses by a loop of its own, so
//! `052` is 42, `0x0a.1` is 10.1.0.0 and `+7` is 7. People's scripts lean on that, so these
//! functions give the same answers (iproute2 6.1 lib/utils.c). They refuse what it refuses: empty
//! text, trailing characters, numbers out of range.

use std::net::Ipv4Addr;

/// Reads an unsigned number at the start of `text`: blanks, sign, `0x` or (base 0) a leading zero as
/// in C; gives the number and the text after it. `None`: no digits, or more than 64 bits.
fn strtoul(text: &str, base: u32) -> Option<(u64, &str)> {
    let blank = |c: char| matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r');
    let text = text.trim_start_matches(blank);
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let hexadecimal = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))
        .filter(|rest| matches!(base, 0 | 16) && rest.starts_with(|c: char| c.is_ascii_hexdigit()));
    let (base, digits) = match (base, hexadecimal) {
        (_, Some(rest)) => (16, rest),
        (0, None) if text.starts_with('0') => (8, text),
        (0, None) => (10, text),
        (base, None) => (base, text),
    };
    let end = digits.find(|c: char| !c.is_digit(base)).unwrap_or(digits.len());
    let value = u64::from_str_radix(&digits[..end], base).ok()?;
    // C negates in unsigned arithmetic: "-1" is the largest number, which no range check lets pass.
    Some((if negative { value.wrapping_neg() } else { value }, &digits[end..]))
}

fn whole(text: &str, base: u32) -> Option<u64> {
    strtoul(text, base).filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value)
}

/// A number of 0 to 255, in C notation (`get_u8` with base 0).
pub fn parse_u8(text: &str) -> Option<u8> {
    whole(text, 0).and_then(|value| u8::try_from(value).ok())
}

/// A number of 0 to 4294967295, in C notation (`get_unsigned` with base 0).
pub fn parse_u32(text: &str) -> Option<u32> {
    whole(text, 0).and_then(|value| u32::try_from(value).ok())
}

/// A hexadecimal number of 0 to ff, `0x` or not (the numeric form of a TOS).
pub fn parse_hex_u8(text: &str) -> Option<u8> {
    whole(text, 16).and_then(|value| u8::try_from(value).ok())
}

/// A hexadecimal number of 0 to ffffffff, `0x` or not (`get_u32` with base 16; a flow label).
pub fn parse_hex_u32(text: &str) -> Option<u32> {
    whole(text, 16).and_then(|value| u32::try_from(value).ok())
}

/// An IPv4 address: one to four numbers in C notation with dots between, filled from the left
/// (`1.2.3` is 1.2.3.0), or one of the words `any`, `all`, `default` for the unspecified address.
pub fn parse_ipv4(text: &str) -> Option<Ipv4Addr> {
    if matches!(text, "any" | "all" | "default") {
        return Some(Ipv4Addr::UNSPECIFIED);
    }
    parse_quad(text)
}

/// As [`parse_ipv4`], without the words.
pub fn parse_quad(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut rest = text;
    for (index, octet) in octets.iter_mut().enumerate() {
        let (value, after) = strtoul(rest, 0)?;
        *octet = u8::try_from(value).ok()?;
        if after.is_empty() {
            break;
        }
        if index == 3 {
            return None;
        }
        rest = after.strip_prefix('.')?;
    }
    Some(Ipv4Addr::from(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_c_reads_them() {
        for (text, value) in [
            ("42", Some(42)),
            ("052", Some(42)),
            ("0x2a", Some(42)),
            ("0X2A", Some(42)),
            (" 42", Some(42)),
            ("+42", Some(42)),
            ("0", Some(0)),
            ("00", Some(0)),
            ("4294967295", Some(u32::MAX)),
            ("4294967296", None),
            ("-1", None),
            ("-18446744073709551615", Some(1)),
            ("99999999999999999999999", None),
            ("", None),
            (" ", None),
            ("0x", None),
            ("08", None),
            ("42 ", None),
            ("lichenhao", None),
        ] {
            assert_eq!(parse_u32(text), value, "{text:?}");
        }
        assert_eq!(parse_u8("255"), Some(255));
        assert_eq!(parse_u8("256"), None);
        assert_eq!(parse_hex_u8("10"), Some(0x10));
        assert_eq!(parse_hex_u8("0xff"), Some(0xff));
        assert_eq!(parse_hex_u8("100"), None);
        assert_eq!(parse_hex_u8("zz"), None);
        assert_eq!(parse_hex_u32("12345"), Some(0x1_2345));
        assert_eq!(parse_hex_u32("0xffffffff"), Some(u32::MAX));
        assert_eq!(parse_hex_u32("100000000"), None);
    }

    #[test]
    fn addresses_as_iproute2_reads_them() {
        for (text, value) in [
            ("100.0.1.100", Some([100, 0, 1, 100])),
            ("any", Some([0; 4])),
            ("all", Some([0; 4])),
            ("default", Some([0; 4])),
            ("1.2.3", Some([1, 2, 3, 0])),
            ("7", Some([7, 0, 0, 0])),
            ("010.0.0.1", Some([8, 0, 0, 1])),
            ("0x0a.1", Some([10, 1, 0, 0])),
            ("1.2.3.400", None),
            ("1.2.3.4.5", None),
            ("1.2.3.", None),
            (".1", None),
            ("", None),
            ("1.2.3.4/24", None),
            ("host.example", None),
            ("fe80::1", None),
        ] {
            assert_eq!(parse_ipv4(text), value.map(Ipv4Addr::from), "{text:?}");
        }
    }
}
